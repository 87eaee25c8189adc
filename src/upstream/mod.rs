//! Services and their endpoints: who could answer a request, and who is asked.
//!
//! Ownership, from what a snapshot compiles down to what outlives it:
//!
//! ```text
//! Snapshot → Service ─ Maker                          what its endpoints have in common
//!                    └ EndpointSet ─ Endpoint ─ Arc<EndpointState>   kept by (service, address)
//!                      (replaced by discovery)   Arc<ServiceState>   kept by service
//! ```
//!
//! 1. A route's target names a service, directly or as the arm of a split (`snapshot::upstream`).
//! 2. [`Service::set`] is what there is to choose from now; [`EndpointSet::pick`] chooses a usable endpoint that was not
//!    tried yet, and returns a [`Picked`].
//! 3. `Picked` counts the request as in flight until it is dropped, on whatever exit.
//! 4. How the try ended goes to [`Endpoint::observe`]: what latencies, ejections and breakers are made from.
//!
//! Choice and health are our own: Pingora's `LoadBalancer` divides by zero on weight 0, ignores outcomes, and copies a
//! `Backend` for each choice. Its connection pool is used as it is. Its `ServiceDiscovery` is not used either
//! (`discovery/` says more): it asks at one fixed pace whatever the TTL,
//! swallows errors, and takes an endpoint whose weight changed for another one.

pub mod balance;
pub mod endpoint;
pub mod outcome;
pub mod service;
pub mod set;

pub use endpoint::{Bar, Endpoint, EndpointState, Place};
pub use outcome::{Observed, Outcome};
pub use service::{Service, Timeouts};
pub use set::{Choice, EndpointSet, Picked};
