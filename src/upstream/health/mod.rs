//! Active checks: whether an endpoint is well, asked of the endpoint itself.
//!
//! ```yaml
//! services:
//!   orders:
//!     endpoints: [10.0.0.1:8080, 10.0.0.2:8080]
//!     health_check: {path: /healthz, status: 200-299, interval: 10s, timeout: 2s, healthy: 2, unhealthy: 3}
//! routes:
//!   orders: {match: {path: /**}, service: orders}
//! ```
//!
//! [`probe`] asks once: over a connection of its own, made from the endpoint's peer, so that TLS, trust and protocol are
//! those of its requests. [`rounds`] asks again and again. This file holds what a check is, and what its results mean;
//! it knows no clock. The first result decides alone, so that a first round is enough to know; after it a change takes
//! as many equal results in a row as the thresholds say. Until the first result an endpoint counts as usable.
//!
//! Verdict, streak and the time of the next check are kept by service and address, and checks on their way by service:
//! a reload takes nothing back and asks nobody twice.

mod grpc;
pub mod probe;
pub mod rounds;

use crate::units::{Ratio, StatusRange};
use http::{HeaderValue, Method};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// What is asked of each endpoint of a service, how often, and what the answers mean.
#[derive(Debug)]
pub struct HealthCheck {
    pub kind: Kind,
    /// Asked in place of the endpoint's own port.
    pub port: Option<u16>,
    /// From the beginning of one check to the beginning of the next.
    pub interval: Duration,
    /// By up to this part of itself an interval is made longer, at random, so that gateways do not ask in step.
    pub jitter: Ratio,
    /// For all of a check, connection included.
    pub timeout: Duration,
    pub thresholds: Thresholds,
    /// The check as it is written. Where it changes, what older checks found begins anew.
    pub shape: Arc<str>,
}

/// What is asked.
#[derive(Debug)]
pub enum Kind {
    /// Whether a connection can be made, TLS included where the service has it.
    Tcp,
    Http(Http),
    /// `grpc.health.v1.Health/Check` of this service; an empty name means the whole server.
    Grpc(Box<str>),
}

/// A request and the answers that are taken for well.
#[derive(Debug)]
pub struct Http {
    pub method: Method,
    /// Path and query.
    pub target: Box<str>,
    /// What `Host` says; the endpoint's address if nothing is written.
    pub host: Option<HeaderValue>,
    pub statuses: Vec<StatusRange>,
    pub body: Option<BodyMatch>,
}

/// What the first 64 KiB of a body must hold.
#[derive(Debug)]
pub enum BodyMatch {
    Contains(Box<str>),
    Regex(regex::bytes::Regex),
}

impl BodyMatch {
    /// Whether this body has it.
    pub fn holds(&self, body: &[u8]) -> bool {
        match self {
            BodyMatch::Contains(text) => memchr::memmem::find(body, text.as_bytes()).is_some(),
            BodyMatch::Regex(regex) => regex.is_match(body),
        }
    }
}

/// How many equal results in a row change what an endpoint is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub healthy: u32,
    pub unhealthy: u32,
}

/// What the checks of one endpoint have found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// The [`HealthCheck::shape`] that found it.
    shape: Arc<str>,
    /// None before the first result.
    healthy: Option<bool>,
    /// Results in a row that say otherwise.
    streak: u32,
    /// When the next one begins, in monotonic nanoseconds.
    due: u64,
}

impl Checks {
    /// Makes these the results of this check: those of another begin anew, and are due at once.
    pub fn of(&mut self, shape: &Arc<str>) -> &mut Self {
        if self.shape != *shape {
            *self = Self {
                shape: shape.clone(),
                ..Self::default()
            };
        }
        self
    }

    /// Whether there has been a result.
    pub fn has_begun(&self) -> bool {
        self.healthy.is_some()
    }

    pub fn due(&self) -> u64 {
        self.due
    }

    pub fn begins(&mut self, next_due: u64) {
        self.due = next_due;
    }

    /// Takes in a result. Tells what the endpoint is from now on, where that is new.
    pub fn take(&mut self, passed: bool, thresholds: Thresholds) -> Option<bool> {
        if self.healthy == Some(passed) {
            self.streak = 0;
            return None;
        }
        self.streak = self.streak.saturating_add(1);
        let needed = match (self.healthy, passed) {
            (None, _) => 1,
            (Some(_), true) => thresholds.healthy,
            (Some(_), false) => thresholds.unhealthy,
        };
        if self.streak < needed {
            return None;
        }
        self.streak = 0;
        self.healthy = Some(passed);
        Some(passed)
    }
}

impl HealthCheck {
    /// When the check after one that begins `now` begins, both in monotonic nanoseconds.
    pub fn next_due(&self, now: u64, random: u64) -> u64 {
        let interval = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX);
        let longest = self.jitter.of(interval);
        let part = ((u128::from(random) * u128::from(longest)) >> 64) as u64;
        now.saturating_add(interval).saturating_add(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USUAL: Thresholds = Thresholds {
        healthy: 2,
        unhealthy: 3,
    };

    fn after(results: &[bool]) -> (Checks, Vec<Option<bool>>) {
        let mut checks = Checks::default();
        let news = results.iter().map(|passed| checks.take(*passed, USUAL));
        let news = news.collect();
        (checks, news)
    }

    #[test]
    fn the_first_result_decides_alone() {
        assert_eq!(after(&[false]).1, [Some(false)]);
        assert_eq!(after(&[true]).1, [Some(true)]);
    }

    #[test]
    fn a_change_takes_as_many_results_in_a_row_as_the_thresholds_say() {
        let (_, news) = after(&[true, false, false, true, false, false, false]);
        assert_eq!(news[1..6], [None; 5]);
        assert_eq!(news[6], Some(false));
        let (_, news) = after(&[false, true, false, true, true]);
        assert_eq!(news[1..4], [None; 3]);
        assert_eq!(news[4], Some(true));
    }

    #[test]
    fn another_check_begins_anew() {
        let (mut checks, _) = after(&[true]);
        checks.begins(7);
        checks.of(&"other".into());
        assert!(!checks.has_begun());
        assert_eq!(checks.due(), 0);
        checks.take(false, USUAL);
        checks.of(&"other".into());
        assert!(checks.has_begun());
    }

    proptest! {
        #[test]
        fn a_verdict_changes_only_after_a_run_of_its_opposite(
            results in prop::collection::vec(any::<bool>(), 1..60), healthy in 1_u32..6, unhealthy in 1_u32..6,
        ) {
            let thresholds = Thresholds { healthy, unhealthy };
            let mut checks = Checks::default();
            for (at, passed) in results.iter().enumerate() {
                let Some(news) = checks.take(*passed, thresholds) else { continue };
                prop_assert_eq!(news, *passed);
                let needed = match (at, news) { (0, _) => 1, (_, true) => healthy, (_, false) => unhealthy } as usize;
                prop_assert!(at + 1 >= needed);
                prop_assert!(results[at + 1 - needed..=at].iter().all(|result| *result == news));
            }
        }

        #[test]
        fn an_interval_is_never_shorter_and_never_more_than_its_jitter_longer(now in 0_u64..1 << 60, random: u64) {
            let check = HealthCheck {
                kind: Kind::Tcp,
                port: None,
                interval: Duration::from_secs(10),
                jitter: Ratio::from_percent(10),
                timeout: Duration::from_secs(2),
                thresholds: USUAL,
                shape: "".into(),
            };
            let wait = check.next_due(now, random) - now;
            prop_assert!((10_000_000_000..=11_000_000_000).contains(&wait));
        }
    }
}
