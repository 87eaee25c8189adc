//! What is measured of limits: the memory of their tables, and how often keys had to share.

use super::sharded::Counter;
use super::text::{Kind, Text};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

label_values! {
    /// Who decided on a request when the store of its limit did not.
    Instead {
        /// This gateway's part of the limit.
        LocalShare "local_share",
        /// It was let through.
        Allow "allow",
        /// It was refused.
        Deny "deny",
        /// This gateway's part of the limit, since more keys count than there are places for.
        Crowded "crowded",
    }
}

/// Not a limit by token buckets.
const NONE: u64 = u64::MAX;

/// What is measured of one `rate_limit`, when metrics are asked for.
pub struct RateLimitMetrics {
    labels: Arc<str>,
    bytes: AtomicU64,
    shared: AtomicU64,
    instead: [Counter; Instead::ALL.len()],
    /// Of a limit that is shared; [`NONE`] of others.
    overshoot: AtomicU64,
    degraded: AtomicU64,
}

impl RateLimitMetrics {
    pub(super) fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            bytes: AtomicU64::new(0),
            shared: AtomicU64::new(NONE),
            instead: Default::default(),
            overshoot: AtomicU64::new(NONE),
            degraded: AtomicU64::new(0),
        }
    }

    /// Counts a decision that its store did not make.
    pub fn decided_instead(&self, how: Instead) {
        if let Some(counter) = self.instead.get(how as usize) {
            counter.increment();
        }
    }

    /// Says of a limit that is shared how much more than it may get through, and whether its store is away.
    pub fn measured_shared(&self, overshoot: u64, degraded: bool) {
        self.overshoot.store(overshoot, Relaxed);
        self.degraded.store(degraded.into(), Relaxed);
    }

    /// Says what its tables take, and of token buckets, how often the table was full, so that a sketch decided.
    pub fn measured(&self, bytes: u64, shared: Option<u64>) {
        self.bytes.store(bytes, Relaxed);
        self.shared.store(shared.unwrap_or(NONE), Relaxed);
    }
}

pub(super) fn write(limits: &[Arc<RateLimitMetrics>], text: &mut Text) {
    let name = "northgate_rate_limit_bytes";
    text.family(
        name,
        Kind::Gauge,
        "Memory that the counters of a limit take.",
    );
    for limit in limits {
        text.sample(name, &limit.labels, limit.bytes.load(Relaxed));
    }
    let name = "northgate_rate_limit_shared_decisions_total";
    text.family(
        name,
        Kind::Counter,
        "Decisions of token buckets that found their table full, so that keys shared counters.",
    );
    for limit in limits {
        let shared = limit.shared.load(Relaxed);
        if shared != NONE {
            text.sample(name, &limit.labels, shared);
        }
    }
    let is_shared = |limit: &&Arc<RateLimitMetrics>| limit.overshoot.load(Relaxed) != NONE;
    let name = "northgate_rate_limit_overshoot_max";
    let help = "Requests that may get through in a window beyond a limit that is shared, with as many gateways as there are.";
    text.family(name, Kind::Gauge, help);
    for limit in limits.iter().filter(is_shared) {
        text.sample(name, &limit.labels, limit.overshoot.load(Relaxed));
    }
    let name = "northgate_rate_limit_degraded";
    let help = "Whether the store of a limit that is shared is away, so that `on_failure` decides.";
    text.family(name, Kind::Gauge, help);
    for limit in limits.iter().filter(is_shared) {
        text.sample(name, &limit.labels, limit.degraded.load(Relaxed));
    }
    let name = "northgate_rate_limit_store_failures_total";
    let help = "Decisions of a limit that is shared that its store did not make, by who made them.";
    text.family(name, Kind::Counter, help);
    for limit in limits.iter().filter(is_shared) {
        for (how, counter) in Instead::ALL.iter().zip(&limit.instead) {
            let labels = format!("{},by=\"{}\"", limit.labels, how.as_str());
            text.sample(name, &labels, counter.value());
        }
    }
}
