//! What is counted of `concurrency`: how many are in flight and wait, how many may be, who was refused.

use super::sharded::Counter;
use super::text::{Kind, Text};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

label_values! {
    /// Why a request was refused.
    Crowded {
        /// There was no place, nor one to wait for it.
        Full "full",
        /// There was no place, and nobody waits while the gateway has too much to do.
        Overload "overload",
        /// Its place in the queue was needed for a higher class.
        Displaced "displaced",
        /// It waited as long as it might.
        Late "late",
    }
}

/// What is counted of one `concurrency` policy.
pub struct ConcurrencyMetrics {
    labels: Arc<str>,
    /// Two counts, so that requests on several cores do not meet in one.
    entered: Counter,
    left: Counter,
    queued: AtomicI64,
    refused: [Counter; Crowded::ALL.len()],
    limit: AtomicU64,
}

/// A request in flight, until it is dropped.
#[derive(Clone)]
pub struct InFlight(Arc<ConcurrencyMetrics>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.left.increment();
    }
}

/// A request that waits, until it is dropped.
pub struct Queued(Arc<ConcurrencyMetrics>);

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Relaxed);
    }
}

impl ConcurrencyMetrics {
    pub(super) fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            entered: Counter::default(),
            left: Counter::default(),
            queued: AtomicI64::new(0),
            refused: Default::default(),
            limit: AtomicU64::new(0),
        }
    }

    /// Counts a request that is in flight from now on.
    pub fn enters(self: &Arc<Self>) -> InFlight {
        self.entered.increment();
        InFlight(self.clone())
    }

    /// Counts a request that waits from now on.
    pub fn waits(self: &Arc<Self>) -> Queued {
        self.queued.fetch_add(1, Relaxed);
        Queued(self.clone())
    }

    /// Counts a request that was refused.
    pub fn refused(&self, why: Crowded) {
        if let Some(counter) = self.refused.get(why as usize) {
            counter.increment();
        }
    }

    /// Says how many may be in flight, unless that is known.
    pub fn begin_with(&self, limit: u32) {
        let _ = self
            .limit
            .compare_exchange(0, limit.into(), Relaxed, Relaxed);
    }

    /// Says how many may be in flight.
    pub fn set_limit(&self, limit: u32) {
        let limit = u64::from(limit);
        if self.limit.load(Relaxed) != limit {
            self.limit.store(limit, Relaxed);
        }
    }

    fn in_flight(&self) -> u64 {
        // in this order, so that who enters and leaves in between is not less than nobody
        let left = self.left.value();
        self.entered.value().saturating_sub(left)
    }
}

pub(super) fn write(policies: &[Arc<ConcurrencyMetrics>], text: &mut Text) {
    let name = "northgate_concurrency_in_flight";
    let help = "Requests that have a place of a concurrency policy.";
    text.family(name, Kind::Gauge, help);
    for policy in policies {
        text.sample(name, &policy.labels, policy.in_flight());
    }
    let name = "northgate_concurrency_queued";
    let help = "Requests that wait for a place of a concurrency policy.";
    text.family(name, Kind::Gauge, help);
    for policy in policies {
        text.sample(name, &policy.labels, policy.queued.load(Relaxed));
    }
    let name = "northgate_concurrency_limit";
    let help =
        "Requests that may be in flight for each key; where it is adaptive, as it has been found.";
    text.family(name, Kind::Gauge, help);
    for policy in policies {
        text.sample(name, &policy.labels, policy.limit.load(Relaxed));
    }
    let name = "northgate_concurrency_refused_total";
    let help = "Requests that got no place of a concurrency policy, by the reason.";
    text.family(name, Kind::Counter, help);
    for policy in policies {
        for (reason, counter) in Crowded::ALL.iter().zip(&policy.refused) {
            let labels = format!("{},reason=\"{}\"", policy.labels, reason.as_str());
            text.sample(name, &labels, counter.value());
        }
    }
}
