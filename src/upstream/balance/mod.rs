//! How one of several endpoints is chosen. Pure: randomness, time, loads and turns come as arguments.
//!
//! | `balance` | Choice | File |
//! |---|---|---|
//! | `least_request` | of two drawn by weight, the one with fewer requests in flight for its weight | [`two`] |
//! | `ewma` | of two drawn by weight, the one that is expected to be done first | [`two`], [`latency`] |
//! | `round_robin` | in turn, by weight, interleaved | [`cycle`] |
//! | `random` | drawn by weight | [`shares`] |
//! | `consistent_hash` | the same for the same key, within bounds of load | [`ring`], [`bound`], [`key`] |
//!
//! Whatever balances, three things are asked before it: the endpoint of a [`sticky`] cookie, whether an endpoint is
//! usable, and, where the service starts its endpoints slowly, whether its [`ramp`] takes this request yet. What a choice
//! writes is one count at the endpoint that it falls on (and the turn, with `round_robin`), so threads that choose at the
//! same time wait for nobody.

pub mod bound;
pub mod cycle;
pub mod key;
pub mod latency;
pub mod ramp;
pub mod ring;
pub mod shares;
pub mod sticky;
pub mod two;

pub use cycle::Cycle;
pub use key::{Key, Keyed};
pub use ring::Ring;
pub use shares::Shares;
pub use sticky::Sticky;

use std::sync::Arc;
use std::time::Duration;

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    #[default]
    LeastRequest,
    Ewma,
    RoundRobin,
    Random,
    ConsistentHash(Arc<Hashing>),
}

/// How `consistent_hash` chooses.
#[derive(Debug, PartialEq, Eq)]
pub struct Hashing {
    pub key: Keyed,
    /// How much more than its share an endpoint may have in flight, in parts per million of the share; none is without
    /// bound.
    pub overload_ppm: Option<u32>,
}

/// Everything that a service says about choosing among its endpoints.
#[derive(Clone, Debug, Default)]
pub struct Balancing {
    pub balance: Balance,
    /// How long the share of an endpoint that begins or returns grows.
    pub slow_start: Option<Duration>,
    pub sticky: Option<Arc<Sticky>>,
}

/// The tables from which an endpoint is chosen, made from the weights when a set is.
pub(super) enum Balancer {
    LeastRequest,
    Ewma,
    RoundRobin(Cycle),
    Random,
    ConsistentHash {
        ring: Ring,
        overload_ppm: Option<u32>,
    },
}

#[cfg(test)]
mod tests;
