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
//! 2. [`Service::admit`] lets a request in, as far as the breaker and the bounds of the whole go; where it may wait for a
//!    place, it does so in a [`queue`]. [`Service::set`] is what there is to choose from now; [`Held::pick`]
//!    chooses a usable endpoint that was not tried yet, and returns a [`Picked`].
//! 3. `Picked` counts the request as in flight until it is dropped, on whatever exit.
//!    A breaker that is half-open gives it one of its probes, which it brings back the same way ([`breaker`]).
//! 4. How the try ended goes to [`Picked::observe`] and [`Picked::judge`]: what latencies, ejections and breakers are made
//!    from.
//! 5. Where the connections to an endpoint are bounded, a try takes a place before it makes one, or waits ([`connections`]).
//! 6. [`outlier`] leaves an endpoint out when its tries fail ([`Picked::observe`]), and [`health`] when its checks do; each
//!    change is told by [`EndpointState::bar`] and [`EndpointState::admit`], in log, metric and status.
//!
//! Choice is our own ([`balance`]), and so are health and its checks. Of pingora-load-balancing nothing serves here: its
//! selection is a function from key to candidate that never hears of loads, latencies or outcomes, so that of our
//! balancers it could do `random` and the ring; a weight of 0, which drains with us, panics in both; weights are unrolled
//! into a vector without bound; after a first candidate that is unhealthy weights are ignored; its ring (pingora-ketama)
//! has no Unix sockets; and each choice hashes candidates into a set and copies a `Backend`. There is no slow start, no
//! stickiness, no panic threshold. Of its checks, `TcpHealthCheck` takes a `BasicPeer`, which can't say whom to trust,
//! `HttpHealthCheck` never shows the body to whoever judges, and reads it to its end however long that takes; there is
//! none for gRPC; its thresholds are private to a `Backends` that begins anew with every change of a weight; and a check
//! is given an address, where ours need the endpoint's peer. Its `ServiceDiscovery` asks at one fixed pace whatever the TTL,
//! swallows errors, and takes an endpoint whose weight changed for another one. Pingora's connectors, its HTTP/1 client
//! and its connection pool are used as they are.

pub mod balance;
pub mod breaker;
pub mod budget;
pub mod connections;
pub mod dial;
pub mod endpoint;
pub mod health;
pub mod outcome;
pub mod outlier;
pub mod proxy_protocol;
pub mod queue;
pub mod reserve;
pub mod retries;
pub mod service;
pub mod set;
pub mod window;
pub mod wire;

pub use endpoint::{Bar, Endpoint, EndpointState, Place, Standing};
pub use outcome::{Observed, Outcome};
pub use retries::Retries;
pub use service::{Service, Timeouts};
pub use set::{Choice, EndpointSet, Held, Picked, Refusal};
