//! How fast an endpoint answers: a moving average that rises at once and falls slowly.
//!
//! Finagle's peak EWMA (`com.twitter.finagle.loadbalancer.p2c.PeakEwma`, Twitter 2014): a sample above the average
//! becomes the average, one below it pulls it down by `1 - exp(-t / DECAY)`, where `t` is the time since the last sample;
//! and without samples the average decays, so that an endpoint which was slow is asked again. The load is the average
//! times the requests that would be in flight; those that are count by weight.

use super::super::outcome::{Observed, Outcome};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The time after which a sample weighs a third (Finagle's default).
pub const DECAY: Duration = Duration::from_secs(10);

/// What a failed try counts as at least: an endpoint that refuses at once is not a fast one.
pub const FAILED_MIN: Duration = Duration::from_secs(1);

/// What failures in a row count as at most.
pub const FAILED_MAX: Duration = Duration::from_secs(60);

/// The average of one endpoint. Threads that take samples at the same time may lose one of them.
#[derive(Debug, Default)]
pub struct Latency {
    /// In nanoseconds, as the bits of an `f64`; 0 while nothing is known.
    average: AtomicU64,
    /// When it was that, in monotonic nanoseconds.
    sampled_at: AtomicU64,
}

impl Latency {
    /// The average in nanoseconds as it has decayed by now; none while nothing is known.
    pub fn read(&self, now: u64) -> Option<f64> {
        let average = f64::from_bits(self.average.load(Relaxed));
        if average <= 0.0 {
            return None;
        }
        Some(average * kept(now.saturating_sub(self.sampled_at.load(Relaxed))))
    }

    /// Takes note of a try.
    pub fn take(&self, observed: Observed, now: u64) {
        let known = self.read(now);
        let Some(sample) = sample(observed, known) else {
            return;
        };
        let since = now.saturating_sub(self.sampled_at.load(Relaxed));
        let average = match known {
            // what is left of the average has decayed already
            Some(known) if sample <= known => known + sample * (1.0 - kept(since)),
            _ => sample,
        };
        self.average.store(average.to_bits(), Relaxed);
        self.sampled_at.store(now, Relaxed);
    }
}

/// The part of an average that is left after this time.
fn kept(nanos: u64) -> f64 {
    let x = nanos as f64 / DECAY.as_nanos() as f64;
    if x < 0.5 {
        // where there is traffic, samples are younger than 5 s: the beginning of the series is right to 0.03 %
        return 1.0 - x * (1.0 - x * (0.5 - x * (1.0 / 6.0 - x / 24.0)));
    }
    (-x).exp()
}

/// How long a try counts as, in nanoseconds; none where it says nothing.
fn sample(observed: Observed, known: Option<f64>) -> Option<f64> {
    // an average of zero would be none
    let took = (observed.took.as_nanos() as f64).max(1.0);
    match observed.outcome {
        // gateways and servers say with these that nobody worked on it
        Outcome::Answered(502..=504)
        | Outcome::Unreachable
        | Outcome::Broken
        | Outcome::TimedOut => {
            let slower = (known.unwrap_or(0.0) * 2.0).min(FAILED_MAX.as_nanos() as f64);
            Some(took.max(slower).max(FAILED_MIN.as_nanos() as f64))
        }
        Outcome::Answered(_) => Some(took),
        // who left before there was an answer knows only that it took longer
        Outcome::Abandoned => Some(took).filter(|took| known.is_some_and(|known| *took > known)),
    }
}

/// What is expected of an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub average: Option<f64>,
    pub in_flight: u32,
    /// Its weight as a part of the mean. The new request counts as one whatever that is: idle endpoints are drawn by
    /// weight, and the heaviest would have all of them otherwise.
    pub weight: f64,
}

impl Expected {
    /// Whether a request is better off there than here. One that nothing is known of is taken to be as fast as the
    /// other: it is neither avoided nor overrun, and its requests in flight bound how many find that out.
    pub fn is_worse_than(self, other: Self) -> bool {
        let (own, theirs) = match (self.average, other.average) {
            (Some(own), Some(theirs)) => (own, theirs),
            _ => (1.0, 1.0),
        };
        let load =
            |one: Self, average: f64| average * (f64::from(one.in_flight) / one.weight + 1.0);
        load(self, own) > load(other, theirs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn answered(took: Duration) -> Observed {
        Observed {
            outcome: Outcome::Answered(200),
            took,
        }
    }

    fn millis(latency: &Latency, now: u64) -> f64 {
        latency.read(now).unwrap() / 1e6
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let latency = Latency::default();
        assert_eq!(latency.read(SECOND), None);
        latency.take(answered(Duration::from_millis(10)), SECOND);
        latency.take(answered(Duration::from_millis(500)), SECOND);
        assert_eq!(millis(&latency, SECOND), 500.0);
        for second in 2..12 {
            latency.take(answered(Duration::from_millis(10)), second * SECOND);
        }
        // ten seconds of 10 ms: exp(-1) of the peak is left
        let left = millis(&latency, 11 * SECOND);
        assert!((180.0..200.0).contains(&left), "{left}");
        // nobody asks: it decays, and will be asked again
        assert!(millis(&latency, 61 * SECOND) < 2.0);
    }

    #[test]
    fn failing_fast_is_slow() {
        for outcome in [
            Outcome::Unreachable,
            Outcome::Broken,
            Outcome::TimedOut,
            Outcome::Answered(503),
        ] {
            let latency = Latency::default();
            let took = Duration::from_micros(50);
            latency.take(Observed { outcome, took }, SECOND);
            assert_eq!(millis(&latency, SECOND), 1000.0);
            for _ in 0..20 {
                latency.take(Observed { outcome, took }, SECOND);
            }
            assert_eq!(latency.read(SECOND), Some(FAILED_MAX.as_nanos() as f64));
        }
    }

    #[test]
    fn one_that_nothing_is_known_of_is_neither_avoided_nor_overrun() {
        let at = |average, in_flight| Expected {
            average,
            in_flight,
            weight: 1.0,
        };
        assert!(!at(None, 0).is_worse_than(at(Some(1e6), 0)));
        assert!(!at(Some(1e6), 0).is_worse_than(at(None, 0)));
        assert!(at(None, 2).is_worse_than(at(Some(1e9), 1)));
        assert!(at(Some(2e6), 0).is_worse_than(at(Some(1e6), 0)));
        assert!(!at(Some(2e6), 0).is_worse_than(at(Some(1e6), 1)));
    }

    proptest! {
        #[test]
        fn an_average_stays_within_its_samples(
            samples in prop::collection::vec((1_u64..10_000, 0_u64..5_000), 1..40),
        ) {
            let latency = Latency::default();
            let mut now = SECOND;
            for (took, pause) in &samples {
                now += pause * 1_000_000;
                latency.take(answered(Duration::from_micros(*took)), now);
                let read = latency.read(now).unwrap() / 1e3;
                let most = samples.iter().map(|(took, _)| *took).max().unwrap() as f64;
                prop_assert!(read > 0.0 && read <= most + 0.001, "{} of {}", read, most);
                prop_assert!(latency.read(now + SECOND).unwrap() < latency.read(now).unwrap());
            }
        }
    }
}
