//! Durations in fixed buckets.

use super::sharded::Sharded;
use super::text::Text;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const BOUNDS: usize = 17;

/// The upper bounds of the buckets, ascending.
pub struct Scale {
    nanoseconds: [u64; BOUNDS],
    /// As written in `le`.
    seconds: [&'static str; BOUNDS],
}

/// What a client or an origin can notice. From 5 ms it is what OpenTelemetry advises for HTTP ("Semantic conventions
/// for HTTP metrics", `http.server.request.duration`); below it three more, since a gateway answers within them.
pub static REQUEST: Scale = Scale {
    nanoseconds: [
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        75_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        750_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        7_500_000_000,
        10_000_000_000,
    ],
    seconds: [
        "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25",
        "0.5", "0.75", "1", "2.5", "5", "7.5", "10",
    ],
};

/// What the gateway itself spends. A policy takes microseconds: on [`REQUEST`] each one would fall into the first
/// bucket.
pub static OWN: Scale = Scale {
    nanoseconds: [
        1_000,
        2_500,
        5_000,
        10_000,
        25_000,
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        100_000_000,
        1_000_000_000,
        10_000_000_000,
    ],
    seconds: [
        "0.000001",
        "0.0000025",
        "0.000005",
        "0.00001",
        "0.000025",
        "0.00005",
        "0.0001",
        "0.00025",
        "0.0005",
        "0.001",
        "0.0025",
        "0.005",
        "0.01",
        "0.025",
        "0.1",
        "1",
        "10",
    ],
};

/// The share of one thread slot. The last bucket takes what is above all bounds.
#[derive(Default)]
struct Part {
    buckets: [AtomicU64; BOUNDS + 1],
    nanoseconds: AtomicU64,
}

/// How often which duration was seen.
#[derive(Default)]
pub struct Histogram(Sharded<Part>);

impl Histogram {
    pub fn observe(&self, scale: &Scale, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let at = scale
            .nanoseconds
            .partition_point(|bound| *bound < nanoseconds);
        let part = self.0.local();
        if let Some(bucket) = part.buckets.get(at) {
            bucket.fetch_add(1, Relaxed);
        }
        part.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    /// Writes the series of one label set: the cumulated buckets, the sum in seconds, the count.
    pub fn write(&self, name: &str, labels: &str, scale: &Scale, text: &mut Text) {
        let (buckets, nanoseconds) = self.total();
        let mut count = 0;
        let bounds = scale.seconds.into_iter().chain(["+Inf"]);
        for (bound, seen) in bounds.zip(buckets) {
            count += seen;
            text.bucket(name, labels, bound, count);
        }
        text.sum(name, labels, nanoseconds as f64 / 1e9);
        text.count(name, labels, count);
    }

    fn total(&self) -> ([u64; BOUNDS + 1], u64) {
        let mut buckets = [0; BOUNDS + 1];
        let mut nanoseconds: u64 = 0;
        for part in self.0.each() {
            for (total, bucket) in buckets.iter_mut().zip(&part.buckets) {
                *total += bucket.load(Relaxed);
            }
            nanoseconds = nanoseconds.wrapping_add(part.nanoseconds.load(Relaxed));
        }
        (buckets, nanoseconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_are_ascending_and_written_as_they_count() {
        for scale in [&REQUEST, &OWN] {
            assert!(scale.nanoseconds.is_sorted_by(|a, b| a < b));
            for (nanoseconds, seconds) in scale.nanoseconds.iter().zip(scale.seconds) {
                let written: f64 = seconds.parse().unwrap();
                assert_eq!((written * 1e9).round() as u64, *nanoseconds);
            }
        }
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::default();
        histogram.observe(&REQUEST, Duration::from_micros(500));
        histogram.observe(&REQUEST, Duration::from_nanos(500_001));
        let (buckets, nanoseconds) = histogram.total();
        assert_eq!(buckets[..3], [1, 1, 0]);
        assert_eq!(nanoseconds, 1_000_001);
    }

    proptest! {
        #[test]
        fn every_duration_is_counted_once_and_below_its_bound(durations in prop::collection::vec(0u64..20_000_000_000, 0..50)) {
            let histogram = Histogram::default();
            for nanoseconds in &durations {
                histogram.observe(&REQUEST, Duration::from_nanos(*nanoseconds));
            }
            let (buckets, sum) = histogram.total();
            prop_assert_eq!(buckets.iter().sum::<u64>(), durations.len() as u64);
            prop_assert_eq!(sum, durations.iter().sum::<u64>());
            let mut below = 0;
            for (bucket, bound) in buckets.iter().zip(&REQUEST.nanoseconds) {
                below += bucket;
                prop_assert_eq!(below, durations.iter().filter(|d| *d <= bound).count() as u64);
            }
        }
    }
}
