//! Which route takes a request: an index over hosts and paths, and predicates where patterns agree.
//!
//! The proxy's intake asks it once for each request, after `exchange::canonical` and before any policy (design 3.3, which
//! has the precedence; RFC 9110 §9.1 and §15.5.6 for methods). What always holds:
//!
//! - The listener, the host and the path pattern are each chosen alone: the narrowest that fits decides, and a request
//!   goes to a wider one only where a route of the narrower says `fall_through`. So the route of a path does not change
//!   with routes elsewhere.
//! - The order of routes in files means nothing. Two routes that could both claim a request and of which neither goes
//!   first are an error at load, like a match that nothing can reach.
//! - A look-up walks the labels of the host and the segments of the path, never the routes; ten or a hundred thousand of
//!   them cost the same (`benches/router`). It allocates nothing but for what has to be decoded. Only routes of the very
//!   same host and path pattern are tried one by one.
//! - No spelling of a path gets to another route: segments are compared decoded, and a path whose `;parameters` would
//!   make it another route's when cut off is refused.
//! - The index agrees with `reference`, a slow and obvious matcher, on random routes and requests.
//!
//! ```yaml
//! routes:
//!   orders:
//!     match: {host: "*.example.com", path: "/orders/{id}", method: [GET, PUT]}
//!     service: orders
//!   beta:
//!     match:
//!       - {path: "/orders/**", header: {x-beta: {present: true}}}
//!       - {path: "/orders/**", cookie: {beta: "1"}, not: {client_address: 10.0.0.0/8}}
//!     service: orders-beta
//! ```

mod conflict;
mod explain;
mod group;
mod index;
mod matcher;
mod oversight;
mod pattern;
mod predicate;
#[cfg(test)]
mod reference;
mod spec;
mod trie;
mod value;
mod who;

pub use explain::{Candidate, Chosen, Explanation};
pub use group::{GroupConflict, combine};
pub use index::{Found, Issue, IssueKind, RouteSpec, Router};
pub use matcher::{Matcher, may_overlap, uncaptured};
pub use oversight::Oversight;
pub use pattern::{HostPattern, PathPattern, PatternError};
pub use spec::{Match, Not};
pub use value::{FieldName, GrpcPattern, MethodName, ParameterName, Pattern, ValueMatch};
