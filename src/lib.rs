//! Northgate, an API gateway on Pingora.
#![doc = ""]

pub mod exchange;
pub mod problem;
pub mod router;
pub mod units;
