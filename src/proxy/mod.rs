//! The request path, front to back.
//!
//! | step | where |
//! |---|---|
//! | who and what: connection, ids, canonical request, route | [`intake`] |
//! | the policies, then the route's target | [`gateway`] |
//! | its service, target and bounds; the first endpoint, or a wait for a place | [`plan`], [`choose`] |
//! | its place among the connections to the endpoint, where those are bounded | [`place`] |
//! | each try: peer, head and body that are sent; the answer's head and body | [`forward`], [`map_back`], [`grpc_timeout`] |
//! | whether its body is what its signature covers | [`signed`] |
//! | who looks on while a request is sent | [`tap`] |
//! | whether a try that failed is followed by another | [`retry`] |
//! | waits that end when the client leaves | [`patience`] |
//! | WebSockets, once they are open | [`tunnel`] |
//! | every answer that the gateway makes itself | [`respond`] |
//! | one record per request: metrics, access log | [`finish`] |
//!
//! [`gateway`] implements Pingora's `ProxyHttp`: each callback is a few lines that name the step it runs. What one step
//! leaves for the next is in [`context`]. [`deadline`] bounds what no callback can: the waits between them; [`shared`] is
//! how it ends one exchange whose connection to the endpoint carries others.
//!
//! A new policy changes nothing here: it is a file in [`crate::policy`] and a line in its registry. The route's chain
//! runs it from these places: `Gateway::policies` on the request, [`forward::upstream_head`] on the head that is sent on,
//! [`tap`] on its body, and [`respond`] on the answer, its head whoever made it, and the body of an endpoint's.

pub mod choose;
pub mod context;
pub mod deadline;
pub mod finish;
pub mod forward;
pub mod gateway;
pub mod grpc_timeout;
pub mod intake;
pub mod map_back;
pub mod patience;
pub mod place;
pub mod plan;
pub mod respond;
pub mod retry;
pub mod shared;
pub mod signed;
pub mod tap;
pub mod tunnel;

pub use gateway::Gateway;
pub use tap::Background;
