//! The request path, front to back.
//!
//! | step | where |
//! |---|---|
//! | who and what: connection, ids, canonical request, route | [`intake`] |
//! | the policies, then the route's target | [`gateway`] |
//! | endpoint, upstream head, retries | [`forward`] |
//! | every answer that the gateway makes itself | [`respond`] |
//! | one record per request: metrics, access log | [`finish`] |
//!
//! [`gateway`] implements Pingora's `ProxyHttp`: each callback is a few lines that name the step it runs. [`deadline`]
//! bounds what no callback can: the waits between them.

pub mod context;
pub mod deadline;
pub mod finish;
pub mod forward;
pub mod gateway;
pub mod intake;
pub mod map_back;
pub mod respond;

pub use gateway::Gateway;
