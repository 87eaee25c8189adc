//! End-to-end tests: a real gateway process between real clients and real origins, a module per area.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod accepting;
mod answers;
mod attackers;
mod authorize;
mod balance;
mod bounds;
mod canonical;
mod certificates;
mod client_certificates;
mod clients;
mod compress;
mod concurrency;
mod conf;
mod connections;
mod diagnostics;
mod discovery;
mod docs;
mod expiry;
mod explain;
mod faults;
mod faults_http2;
mod floods;
mod forward_auth;
mod harness;
mod health;
mod introspection;
mod jwt;
mod keys;
mod layers;
mod limits_cli;
mod listeners;
mod loops;
mod mirror;
mod observing;
mod oidc;
mod overload;
mod places;
mod plans;
mod policies;
mod processes;
mod protocols;
mod providers;
mod proxy_protocol;
mod quota;
mod quota_shared;
mod rate_limit;
mod reload;
mod resilience;
mod restarts;
mod routing;
mod schema;
mod security;
mod signatures;
mod slow_clients;
mod stores;
mod stores_scripts;
mod tls;
mod upstream_traps;
mod who;
