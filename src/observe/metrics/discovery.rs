//! What is counted of discovery: how often a source was asked, how old its answer is, what was refused of it.

use super::sharded::Counter;
use super::text::{self, Kind, Text};
use crate::state::monotonic_nanos;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The reasons for which an address is refused, in the order of `discovery::Refusal`.
const REASONS: [&str; 7] = [
    "unspecified",
    "loopback",
    "link_local",
    "metadata",
    "multicast",
    "broadcast",
    "own_listener",
];

/// What is counted of one source of endpoints.
pub struct DiscoveryMetrics {
    labels: Arc<str>,
    succeeded: Counter,
    failed: Counter,
    refused: [Counter; REASONS.len()],
    /// Monotonic nanoseconds; 0 before the first answer.
    answered_at: AtomicU64,
}

impl DiscoveryMetrics {
    pub(super) fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            succeeded: Counter::default(),
            failed: Counter::default(),
            refused: Default::default(),
            answered_at: AtomicU64::new(0),
        }
    }

    /// Counts one question. One that was answered in part has failed.
    pub fn refreshed(&self, succeeded: bool) {
        match succeeded {
            true => self.succeeded.increment(),
            false => self.failed.increment(),
        }
    }

    /// Says when the source last answered, in nanoseconds of the monotonic clock.
    pub fn answered(&self, at: Option<u64>) {
        self.answered_at.store(at.unwrap_or(0), Relaxed);
    }

    /// Counts an address that was not taken, by the place of the reason among all.
    pub fn refused(&self, reason: usize) {
        if let Some(counter) = self.refused.get(reason) {
            counter.increment();
        }
    }
}

pub(super) fn write(sources: &[Arc<DiscoveryMetrics>], text: &mut Text) {
    let name = "northgate_discovery_refreshes_total";
    text.family(
        name,
        Kind::Counter,
        "Questions for the endpoints of a service, by their result.",
    );
    for source in sources {
        for (result, counter) in [("success", &source.succeeded), ("failure", &source.failed)] {
            let labels = format!("{},result=\"{result}\"", source.labels);
            text.sample(name, &labels, counter.value());
        }
    }
    let name = "northgate_discovery_age_seconds";
    text.family(
        name,
        Kind::Gauge,
        "Time since a source of endpoints last answered.",
    );
    for source in sources {
        let at = source.answered_at.load(Relaxed);
        if at > 0 {
            let age = monotonic_nanos().saturating_sub(at) / 1_000_000_000;
            text.sample(name, &source.labels, age);
        }
    }
    let name = "northgate_discovery_refused_total";
    text.family(
        name,
        Kind::Counter,
        "Addresses that were discovered and not taken, by the reason.",
    );
    for source in sources {
        for (reason, counter) in REASONS.iter().zip(&source.refused) {
            if counter.value() > 0 {
                let more = text::labels(&[("reason", reason)]);
                let labels = format!("{},{more}", source.labels);
                text.sample(name, &labels, counter.value());
            }
        }
    }
}
