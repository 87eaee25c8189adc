//! Services and their endpoints: who could answer a request, and who is asked.
//!
//! Ownership, from what a snapshot compiles down to what outlives it:
//!
//! ```text
//! Snapshot → Upstream ─ Service ─ Endpoint ─ Arc<EndpointState>   in flight; kept by (service, address)
//!                     │         └ Balancer ─ Arc<Turn>            position of round_robin; kept by service
//!                     └ Split ─ arms → Service
//! ```
//!
//! 1. A route's target picks a service: itself, or the arm of a split.
//! 2. [`Service::pick`] chooses an endpoint that was not tried yet, and returns a [`Picked`].
//! 3. `Picked` counts the request as in flight until it is dropped, on whatever exit.
//!
//! Choice and health are our own: Pingora's `LoadBalancer` divides by zero on weight 0, ignores outcomes, and copies a
//! `Backend` for each choice. Its connection pool is used as it is.

pub mod balance;
pub mod endpoint;
pub mod random;
pub mod service;
pub mod split;

pub use endpoint::{Endpoint, EndpointState, Place};
pub use service::{Picked, Service, Timeouts};
pub use split::Split;

use crate::exchange::View;
use std::sync::Arc;

/// Where a route sends its requests.
pub enum Upstream {
    Service(Arc<Service>),
    Split(Split),
}

impl Upstream {
    /// The service that takes this request. A split without an arm for it gives none.
    pub fn service_for(&self, view: View<'_>) -> Option<&Arc<Service>> {
        match self {
            Upstream::Service(service) => Some(service),
            Upstream::Split(split) => split.arm_for(view, random::next()),
        }
    }
}
