//! End-to-end tests: a real gateway process between real clients and real origins, a module per area.

mod harness;
