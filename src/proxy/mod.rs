//! The request path, front to back.
//!
//! | step | where |
//! |---|---|
//! | who and what: connection, ids, canonical request, route | [`intake`] |
//! | the policies, then the route's target | [`gateway`] |
//! | what the choice of an endpoint goes by | [`choose`] |
//! | endpoint, upstream head; the answer's head | [`forward`], [`map_back`], [`grpc_timeout`] |
//! | whether a try that failed is followed by another | [`retry`] |
//! | every answer that the gateway makes itself | [`respond`] |
//! | one record per request: metrics, access log | [`finish`] |
//!
//! [`gateway`] implements Pingora's `ProxyHttp`: each callback is a few lines that name the step it runs. What one step
//! leaves for the next is in [`context`]. [`deadline`] bounds what no callback can: the waits between them.
//!
//! A new policy changes nothing here: it is a file in [`crate::policy`] and a line in its registry. The route's chain
//! runs it from three places: `Gateway::policies` on the request, [`forward::upstream_head`] on what is sent on, and
//! [`respond`] on the answer, whoever made it.

pub mod choose;
pub mod context;
pub mod deadline;
pub mod finish;
pub mod forward;
pub mod gateway;
pub mod grpc_timeout;
pub mod intake;
pub mod map_back;
pub mod respond;
pub mod retry;
pub mod shared;
pub mod tap;
pub mod tunnel;

pub use gateway::Gateway;
pub use tap::Background;
