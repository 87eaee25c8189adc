//! End-to-end tests: a real gateway process between real clients and real origins, a module per area.

mod answers;
mod canonical;
mod conf;
mod diagnostics;
mod explain;
mod harness;
mod layers;
mod listeners;
mod observing;
mod policies;
mod reload;
mod routing;
mod schema;
mod upstream_traps;
