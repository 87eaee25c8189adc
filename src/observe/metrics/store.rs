//! What is measured of stores: whether they answer, how fast, and how many gateways share them.

use super::histogram::{Histogram, OWN};
use super::sharded::Counter;
use super::text::{Kind, Text};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

label_values! {
    /// Why a question to a store came to nothing.
    StoreError {
        /// There was no answer in time.
        Timeout "timeout",
        /// There is no connection.
        Connection "connection",
        /// The store refused it.
        Refused "refused",
        /// As many questions are under way as there may be.
        Busy "busy",
    }
}

/// What is measured of one store.
pub struct StoreMetrics {
    labels: Arc<str>,
    up: AtomicBool,
    gateways: AtomicU64,
    took: Histogram,
    errors: [Counter; StoreError::ALL.len()],
}

impl StoreMetrics {
    pub(super) fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            up: AtomicBool::new(false),
            gateways: AtomicU64::new(0),
            took: Histogram::default(),
            errors: Default::default(),
        }
    }

    /// Says whether it answers.
    pub fn set_up(&self, up: bool) {
        self.up.store(up, Relaxed);
    }

    /// Says how many gateways share it.
    pub fn set_gateways(&self, gateways: u64) {
        self.gateways.store(gateways, Relaxed);
    }

    /// Counts a question that was answered.
    pub fn answered(&self, took: Duration) {
        self.took.observe(&OWN, took);
    }

    /// Counts a question that was not.
    pub fn failed(&self, why: StoreError) {
        if let Some(counter) = self.errors.get(why as usize) {
            counter.increment();
        }
    }
}

pub(super) fn write(stores: &[Arc<StoreMetrics>], text: &mut Text) {
    let name = "northgate_store_up";
    text.family(name, Kind::Gauge, "Whether a store answers in time.");
    for store in stores {
        text.sample(name, &store.labels, u8::from(store.up.load(Relaxed)));
    }
    let name = "northgate_store_gateways";
    let help = "Gateways that share a store, this one among them, as far as it has said.";
    text.family(name, Kind::Gauge, help);
    for store in stores {
        text.sample(name, &store.labels, store.gateways.load(Relaxed));
    }
    let name = "northgate_store_duration_seconds";
    let help = "Time that a store took to answer.";
    text.family(name, Kind::Histogram, help);
    for store in stores {
        store.took.write(name, &store.labels, &OWN, text);
    }
    let name = "northgate_store_errors_total";
    let help = "Questions to a store that came to nothing, by the reason.";
    text.family(name, Kind::Counter, help);
    for store in stores {
        for (reason, counter) in StoreError::ALL.iter().zip(&store.errors) {
            let labels = format!("{},reason=\"{}\"", store.labels, reason.as_str());
            text.sample(name, &labels, counter.value());
        }
    }
}
