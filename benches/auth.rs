//! What it costs to know who calls: each method with credentials that were verified before, and with new ones.

#[path = "auth/jwt.rs"]
mod jwt;

use criterion::{criterion_group, criterion_main};

criterion_group!(benches, jwt::tokens);
criterion_main!(benches);
