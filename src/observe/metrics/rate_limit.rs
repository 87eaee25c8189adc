//! What is measured of limits: the memory of their tables, and how often keys had to share.

use super::text::{Kind, Text};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Not a limit by token buckets.
const NONE: u64 = u64::MAX;

/// What is measured of one `rate_limit`, when metrics are asked for.
pub struct RateLimitMetrics {
    labels: Arc<str>,
    bytes: AtomicU64,
    shared: AtomicU64,
}

impl RateLimitMetrics {
    pub(super) fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            bytes: AtomicU64::new(0),
            shared: AtomicU64::new(NONE),
        }
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
}
