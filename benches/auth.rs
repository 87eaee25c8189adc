//! What it costs to know who calls: a module for each method.
//!
//! `cargo bench --bench auth` prints, beside the times, what tables of keys take in memory.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench may end by panicking"
)]

#[path = "auth/api_key.rs"]
mod api_key;
#[path = "auth/asked.rs"]
mod asked;
#[path = "auth/basic.rs"]
mod basic;
#[path = "auth/guessing.rs"]
mod guessing;
#[path = "auth/jwt.rs"]
mod jwt;
#[path = "auth/mtls.rs"]
mod mtls;
#[path = "auth/oidc.rs"]
mod oidc;
#[path = "auth/signature.rs"]
mod signature;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    benches,
    api_key::bench,
    asked::bench,
    basic::bench,
    guessing::bench,
    jwt::bench,
    mtls::bench,
    oidc::bench,
    signature::bench
);
criterion_main!(benches);
