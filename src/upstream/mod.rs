//! Services and their endpoints: who could answer a request, and who is asked.
//!
//! Ownership, from what a snapshot compiles down to what outlives it:
//!
//! ```text
//! Snapshot → Service ─ Endpoint ─ Arc<EndpointState>   in flight; kept by (service, address)
//!                    └ Balancer ─ Arc<Turn>            position of round_robin; kept by service
//! ```
//!
//! 1. A route's target names a service, directly or as the arm of a split (`snapshot::upstream`).
//! 2. [`Service::pick`] chooses an endpoint that was not tried yet, and returns a [`Picked`].
//! 3. `Picked` counts the request as in flight until it is dropped, on whatever exit.
//!
//! Choice and health are our own: Pingora's `LoadBalancer` divides by zero on weight 0, ignores outcomes, and copies a
//! `Backend` for each choice. Its connection pool is used as it is.

pub mod balance;
pub mod endpoint;
pub mod service;

pub use endpoint::{Endpoint, EndpointState, Place};
pub use service::{Picked, Service, Timeouts};
