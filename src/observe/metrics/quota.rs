//! What is measured of quotas: how many keys have counts, how often keys had to share, and how often counts were written.

use super::text::{self, Kind, Text};
use crate::state::quotas::Quotas;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is measured of one `quota`, when metrics are asked for.
pub struct QuotaMetrics {
    labels: Arc<str>,
    keys: AtomicU64,
    shared: AtomicU64,
}

impl QuotaMetrics {
    pub(super) fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            keys: AtomicU64::new(0),
            shared: AtomicU64::new(0),
        }
    }

    /// Says how many keys have counts of their own, and how often there was no memory for another.
    pub fn measured(&self, keys: u64, shared: u64) {
        self.keys.store(keys, Relaxed);
        self.shared.store(shared, Relaxed);
    }
}

pub(super) fn write(all: &[Arc<QuotaMetrics>], text: &mut Text) {
    let name = "northgate_quota_keys";
    text.family(name, Kind::Gauge, "Keys that have counts of their own.");
    for quota in all {
        text.sample(name, &quota.labels, quota.keys.load(Relaxed));
    }
    let name = "northgate_quota_shared_decisions_total";
    let help = "Decisions of quotas for keys beyond `keys`, which share one count.";
    text.family(name, Kind::Counter, help);
    for quota in all {
        text.sample(name, &quota.labels, quota.shared.load(Relaxed));
    }
}

pub(super) fn write_commits(quotas: &Quotas, text: &mut Text) {
    let name = "northgate_quota_commits_total";
    let help = "What quotas have counted, written to the disk: how often, by the result.";
    text.family(name, Kind::Counter, help);
    for (result, counter) in [("success", &quotas.commits), ("failure", &quotas.failures)] {
        let labels = text::labels(&[("result", result)]);
        text.sample(name, &labels, counter.load(Relaxed));
    }
}
