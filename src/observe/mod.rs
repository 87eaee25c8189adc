//! What operators see: metrics, the access log, trace context, the log of errors (design 9).
//!
//! Nothing here waits on the request path: counters are added to, log lines are put into a buffer, and one thread
//! writes. What is named by the configuration (routes, services, policies) is resolved to a handle when a snapshot is
//! compiled and kept in it; a request looks nothing up.

pub mod access_log;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod random;
pub mod time;
pub mod trace;
