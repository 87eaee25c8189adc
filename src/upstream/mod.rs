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
//!    A breaker that is half-open gives it one of its probes, which it brings back the same way ([`breaker`]).
//! 4. How the try ended goes to [`Endpoint::observe`]: what latencies, ejections and breakers are made from.
//!
//! 5. [`outlier`] leaves an endpoint out when its tries fail ([`Picked::observe`]), and [`health`] when its checks do; each
//!    change is told by [`EndpointState::bar`] and [`EndpointState::admit`], in log, metric and status.
//!
//! Choice and health are our own: Pingora's `LoadBalancer` divides by zero on weight 0, ignores outcomes, and copies a
//! `Backend` for each choice. Of its checks, `TcpHealthCheck` takes a `BasicPeer`, which can't say whom to trust,
//! `HttpHealthCheck` never shows the body to whoever judges, and reads it to its end however long that takes; there is
//! none for gRPC; its thresholds are private to a `Backends` that begins anew with every change of a weight; and a check
//! is given an address, where ours need the endpoint's peer. Pingora's connectors, its HTTP/1 client and its connection
//! pool are used as they are.

pub mod balance;
pub mod breaker;
pub mod budget;
pub mod endpoint;
pub mod health;
pub mod outcome;
pub mod outlier;
pub mod retries;
pub mod service;
pub mod set;
pub mod window;

pub use endpoint::{Bar, Endpoint, EndpointState, Place, Standing};
pub use outcome::{Observed, Outcome};
pub use retries::Retries;
pub use service::{Service, Timeouts};
pub use set::{Choice, EndpointSet, Picked, Refusal};
