//! End-to-end tests: a real gateway process between real clients and real origins, a module per area.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod answers;
mod bounds;
mod canonical;
mod compress;
mod conf;
mod diagnostics;
mod docs;
mod explain;
mod harness;
mod layers;
mod listeners;
mod mirror;
mod observing;
mod policies;
mod reload;
mod routing;
mod schema;
mod upstream_traps;
