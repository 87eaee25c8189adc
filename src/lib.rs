//! Northgate: an API gateway on Pingora.
//!
//! A request comes in through [`edge`] (sockets, TLS, the guard over raw heads), is understood, routed and judged in
//! [`proxy`] under one [`snapshot`], and goes to an endpoint of [`upstream`]. A configuration is read by [`config`],
//! compiled by [`snapshot`], and published with one atomic store; what outlives it is in [`state`].
//!
//! Invariants:
//! - a request sees one snapshot, from its first byte to its log line;
//! - route, policies, log and origin see one canonical request ([`exchange`]);
//! - what cannot be compiled refuses the whole configuration, and the running one serves on;
//! - every answer that the gateway makes itself goes through one writer, and is a [`problem`] or an answer that the
//!   configuration wrote;
//! - nothing is sent twice unless that is provably harmless.
//!
//! Modules stand in layers, top to bottom: [`cli`], [`boot`], [`admin`], [`tasks`], [`edge`], [`proxy`], [`snapshot`],
//! [`config`], [`policy`], [`router`], [`issuers`], [`outbound`], [`discovery`], [`upstream`], [`store`], [`tls`], [`protocol`],
//! [`observe`], [`exchange`], [`identity`], [`state`], [`limit`], [`supervisor`],
//! [`problem`], [`diagnostic`], [`units`]. A module names only what
//! stands below it; `tests/layers.rs` sees to that.

#![cfg_attr(
    test,
    allow(clippy::string_slice, reason = "a test fails by panicking")
)]

pub mod admin;
pub mod boot;
pub mod cli;
pub mod config;
pub mod diagnostic;
pub mod discovery;
pub mod edge;
pub mod exchange;
pub mod identity;
pub mod issuers;
pub mod limit;
pub mod observe;
pub mod outbound;
pub mod policy;
pub mod problem;
pub mod protocol;
pub mod proxy;
pub mod router;
pub mod snapshot;
pub mod state;
pub mod store;
pub mod supervisor;
pub mod tasks;
pub mod tls;
pub mod units;
pub mod upstream;
