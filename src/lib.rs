//! Northgate, an API gateway on Pingora.
#![doc = ""]

pub mod edge;
pub mod exchange;
pub mod problem;
pub mod tls;
pub mod units;
