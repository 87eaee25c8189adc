//! Whether and how a request is tried again: what is resolved at load.

use super::budget::Share;
use crate::units::Ratio;
use std::time::Duration;

/// The most tries of one request that a configuration may ask for. Pingora's own bound is the same.
pub const ATTEMPTS_MAX: u8 = 10;

/// What a try may be repeated after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// The connection could not be made, so that nothing was sent.
    pub connect_failure: bool,
    /// The endpoint says that it has not looked at the request: `REFUSED_STREAM` (RFC 9113 §8.7), or `GOAWAY` with a
    /// last stream before it (§6.8).
    pub refused_stream: bool,
    /// The connection broke, or what came over it was no HTTP, before a valid head of an answer.
    pub reset: bool,
    /// No head of an answer in time: `response_header`, `per_try`, `idle`. Where nothing is said, only of requests with a
    /// `per_try`: whoever bounds each try means there to be another.
    pub timeout: Option<bool>,
    /// These statuses of an answer.
    pub statuses: Box<[u16]>,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            connect_failure: true,
            refused_stream: true,
            reset: true,
            timeout: None,
            statuses: Box::default(),
        }
    }
}

/// How often, after what, and how soon a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Tries in all; 1 is none again.
    pub attempts: u8,
    pub on: Conditions,
    /// The longest pause before the second try; it doubles with each further one.
    pub backoff_base: Duration,
    pub backoff_max: Duration,
    pub budget: Share,
    /// Whether a request of any method that carries `Idempotency-Key` may be repeated as if it were idempotent.
    pub idempotency_key: bool,
}

impl Default for Retries {
    /// What holds where nothing is written (design 3.7).
    fn default() -> Self {
        Self {
            attempts: 2,
            on: Conditions::default(),
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            budget: Share {
                ratio: Some(Ratio::from_percent(20)),
                min_per_second: 3,
            },
            idempotency_key: false,
        }
    }
}

/// What one place says about retries; what it leaves out is the wider place's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOverrides {
    pub attempts: Option<u8>,
    pub on: Option<Conditions>,
    pub backoff_base: Option<Duration>,
    pub backoff_max: Option<Duration>,
    pub budget: Option<Option<Ratio>>,
    pub min_per_second: Option<u32>,
    pub idempotency_key: Option<bool>,
}

impl RetryOverrides {
    /// `retries: off`.
    pub const OFF: Self = Self {
        attempts: Some(1),
        on: None,
        backoff_base: None,
        backoff_max: None,
        budget: None,
        min_per_second: None,
        idempotency_key: None,
    };
}

impl Retries {
    /// These, changed by a narrower place. Settings there turn on again what a wider place has turned off.
    pub fn with(&self, narrower: &RetryOverrides) -> Self {
        let inherited = match self.attempts {
            1 if *narrower != RetryOverrides::default() => Self::default().attempts,
            attempts => attempts,
        };
        Self {
            attempts: narrower.attempts.unwrap_or(inherited),
            on: narrower.on.clone().unwrap_or_else(|| self.on.clone()),
            backoff_base: narrower.backoff_base.unwrap_or(self.backoff_base),
            backoff_max: narrower.backoff_max.unwrap_or(self.backoff_max),
            budget: Share {
                ratio: narrower.budget.unwrap_or(self.budget.ratio),
                min_per_second: narrower
                    .min_per_second
                    .unwrap_or(self.budget.min_per_second),
            },
            idempotency_key: narrower.idempotency_key.unwrap_or(self.idempotency_key),
        }
    }

    /// How long to wait before the try after this many: anything up to a bound that doubles, so that those who failed
    /// together do not come back together ("full jitter": Brooker, "Exponential backoff and jitter", 2015).
    pub fn pause(&self, tries: u8, random: u64) -> Duration {
        let doubled = 1_u32 << u32::from(tries.saturating_sub(1)).min(20);
        let most = self
            .backoff_base
            .saturating_mul(doubled)
            .min(self.backoff_max);
        let micros = u32::try_from(most.as_micros()).unwrap_or(u32::MAX);
        Duration::from_micros(u64::from(crate::observe::random::below(
            random,
            micros.saturating_add(1),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pauses_double_up_to_their_bound(tries in 1_u8..=ATTEMPTS_MAX, random: u64) {
            let retries = Retries::default();
            let most = Duration::from_millis(25 << (tries - 1)).min(Duration::from_millis(250));
            prop_assert!(retries.pause(tries, random) <= most);
            prop_assert!(retries.pause(tries, u64::MAX) + Duration::from_micros(1) >= most);
            prop_assert_eq!(retries.pause(tries, 0), Duration::ZERO);
        }
    }

    #[test]
    fn the_narrower_place_wins_field_by_field() {
        let off = Retries::default().with(&RetryOverrides::OFF);
        assert_eq!(off.attempts, 1);
        assert_eq!(off.with(&RetryOverrides::default()).attempts, 1);
        let keyed = RetryOverrides {
            idempotency_key: Some(true),
            ..RetryOverrides::default()
        };
        let on = off.with(&keyed);
        assert_eq!((on.attempts, on.idempotency_key), (2, true));
    }
}
