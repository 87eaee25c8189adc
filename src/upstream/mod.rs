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
//! Choice is our own ([`balance`]), and so is what is known of health. Of pingora-load-balancing nothing serves here:
//! its selection is a function from key to candidate that never hears of loads, latencies or outcomes, so that of our
//! balancers it could do `random` and the ring; a weight of 0, which drains with us, panics in both; weights are unrolled
//! into a vector without bound; after a first candidate that is unhealthy weights are ignored; its ring (pingora-ketama)
//! has no Unix sockets; and each choice hashes candidates into a set and copies a `Backend`. There is no slow start, no
//! stickiness, no panic threshold. Pingora's connection pool is used as it is.

pub mod balance;
pub mod endpoint;
pub mod outcome;
pub mod service;
pub mod set;

pub use endpoint::{Bar, Endpoint, EndpointState, Place};
pub use outcome::{Observed, Outcome};
pub use service::{Service, Timeouts};
pub use set::{Choice, EndpointSet, Picked};
