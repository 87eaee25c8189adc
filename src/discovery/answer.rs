//! What is known of a source, and when it is asked again. Pure: time and randomness come as arguments. Times are
//! nanoseconds of the machine's monotonic clock, so that they mean the same in a successor.

use super::gate::Refusal;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The shortest and longest time that an answer is good for, whatever its TTL says: a TTL of 0 is no reason to ask
/// without pause, nor one of a week to miss that a name has moved.
pub const TTL_MIN: Duration = Duration::from_secs(1);
pub const TTL_MAX: Duration = Duration::from_secs(300);

/// The pause after a failure; it doubles up to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_secs(1);
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// The share of a pause that chance adds, so that many gateways, or services, do not ask in step.
const JITTER: f64 = 0.1;

/// An address that a source names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub address: SocketAddr,
    pub weight: u32,
    /// The name that it was found by, without a port.
    pub name: Option<Arc<str>>,
}

/// One of the two kinds of addresses, which DNS is asked for one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    fn has(self, address: SocketAddr) -> bool {
        (self == Family::V4) == address.is_ipv4()
    }
}

/// A part of a question that got no answer, while others did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub name: Arc<str>,
    pub family: Family,
}

/// What a source said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub listed: Vec<Listed>,
    /// None: until it says otherwise.
    pub ttl: Option<Duration>,
    /// Parts that could not be had; what was known of them is kept.
    pub missing: Vec<Missing>,
    /// Why they could not.
    pub error: Option<String>,
}

/// Why a source said nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub error: String,
    /// Whether that is its last word for now: no such name, for example. A time-out is not.
    pub is_definite: bool,
}

/// An address that was listed, and how long that is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub address: SocketAddr,
    pub weight: u32,
    pub name: Option<Arc<str>>,
    pub fresh_until: u64,
}

/// Everything that is known of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub found: Vec<Found>,
    /// When it last answered.
    pub answered_at: Option<u64>,
    /// When it is to be asked again.
    pub due_at: u64,
    /// Failures since the last answer.
    #[serde(skip)]
    pub failures: u32,
    /// What went wrong last, unless it has answered in full since.
    #[serde(skip)]
    pub error: Option<String>,
    /// It has answered, or has said that there is no answer.
    #[serde(skip)]
    pub is_settled: bool,
    /// What the gate refused of the last answer.
    #[serde(skip)]
    pub refused: Vec<(SocketAddr, Refusal)>,
}

impl Known {
    /// Takes an answer in. `share` is a random share of one. Tells whether what went wrong, or no longer does, is news.
    pub fn take(&mut self, answer: Answer, now: u64, share: f64) -> bool {
        let ttl = answer.ttl.map(|ttl| ttl.clamp(TTL_MIN, TTL_MAX));
        let fresh_until = ttl.map_or(u64::MAX, |ttl| now.saturating_add(nanos(ttl)));
        let mut found: Vec<Found> = answer
            .listed
            .into_iter()
            .map(|listed| Found {
                address: canonical(listed.address),
                weight: listed.weight,
                name: listed.name,
                fresh_until,
            })
            .collect();
        let is_missing = |one: &Found| {
            answer
                .missing
                .iter()
                .any(|part| one.name.as_ref() == Some(&part.name) && part.family.has(one.address))
        };
        found.extend(self.found.drain(..).filter(is_missing));
        // a stable sort: of two alike, the one that was listed first
        found.sort_by_key(|one| one.address);
        found.dedup_by_key(|one| one.address);
        self.found = found;
        self.answered_at = Some(now);
        self.is_settled = true;
        let pause = match (ttl, answer.missing.is_empty()) {
            (ttl, true) => {
                self.failures = 0;
                ttl.unwrap_or(TTL_MAX)
            }
            (ttl, false) => ttl.unwrap_or(RETRY_MAX).min(self.next_retry()),
        };
        self.due_at = now.saturating_add(nanos(jittered(pause, share)));
        let news = self.error != answer.error;
        self.error = answer.error;
        news
    }

    /// Takes note of a failure. What was found stays. Tells whether it is news.
    pub fn fail(&mut self, failure: Failure, now: u64, share: f64) -> bool {
        let pause = self.next_retry();
        self.due_at = now.saturating_add(nanos(jittered(pause, share)));
        self.is_settled |= failure.is_definite;
        let news = self.error.as_ref() != Some(&failure.error);
        self.error = Some(failure.error);
        news
    }

    fn next_retry(&mut self) -> Duration {
        let doubled = RETRY_MIN.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        doubled.min(RETRY_MAX)
    }

    /// What may still be used.
    pub fn usable(&self, now: u64, max_stale: Duration) -> impl Iterator<Item = &Found> {
        let until = move |one: &&Found| one.fresh_until.saturating_add(nanos(max_stale)) > now;
        self.found.iter().filter(until)
    }

    /// When something is to be done: the source is due, or a part of what was found becomes too old.
    pub fn next_at(&self, max_stale: Duration, now: u64) -> u64 {
        let ends = self.found.iter();
        let ends = ends.map(|one| one.fresh_until.saturating_add(nanos(max_stale)));
        let ends = ends.filter(|end| *end > now).min().unwrap_or(u64::MAX);
        self.due_at.min(ends)
    }
}

/// An IPv4 address that is written as IPv6 is that IPv4 address, and IPv6 has no scope here.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// That pause and up to a tenth more. Asking late rather than early: a cache that is asked early says how much is left.
pub fn jittered(pause: Duration, share: f64) -> Duration {
    pause.mul_f64(1.0 + JITTER * share.clamp(0.0, 1.0))
}

/// Whole nanoseconds, up to the 584 years that fit.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn listed(address: &str, name: &str) -> Listed {
        Listed {
            address: address.parse().unwrap(),
            weight: 1,
            name: Some(name.into()),
        }
    }

    fn answer(listed: Vec<Listed>, seconds: u64) -> Answer {
        Answer {
            listed,
            ttl: Some(Duration::from_secs(seconds)),
            missing: Vec::new(),
            error: None,
        }
    }

    fn failure() -> Failure {
        Failure {
            error: "no answer in time".into(),
            is_definite: false,
        }
    }

    fn addresses(known: &Known, now: u64, stale: u64) -> Vec<String> {
        let usable = known.usable(now, Duration::from_secs(stale));
        usable.map(|one| one.address.to_string()).collect()
    }

    #[test]
    fn an_answer_is_kept_for_its_ttl_and_max_stale() {
        let mut known = Known::default();
        assert!(!known.take(answer(vec![listed("10.0.0.1:80", "a")], 30), 0, 0.0));
        assert_eq!(known.due_at, 30 * SECOND);
        assert!(known.fail(failure(), 30 * SECOND, 0.0));
        assert!(!known.fail(failure(), 31 * SECOND, 0.0), "said once");
        assert_eq!(addresses(&known, 89 * SECOND, 60), ["10.0.0.1:80"]);
        assert!(addresses(&known, 90 * SECOND, 60).is_empty());
        assert!(
            known.take(answer(vec![], 30), 91 * SECOND, 0.0),
            "well again"
        );
    }

    #[test]
    fn a_family_that_could_not_be_asked_for_is_kept_until_it_is_too_old() {
        let mut known = Known::default();
        let both = vec![listed("10.0.0.1:80", "a"), listed("[fd00::1]:80", "a")];
        known.take(answer(both, 30), 0, 0.0);
        let half = |now: u64, known: &mut Known| {
            let partial = Answer {
                missing: vec![Missing {
                    name: "a".into(),
                    family: Family::V6,
                }],
                error: Some("AAAA: refused".into()),
                ..answer(vec![listed("10.0.0.2:80", "a")], 30)
            };
            known.take(partial, now, 0.0)
        };
        assert!(half(30 * SECOND, &mut known));
        assert_eq!(
            addresses(&known, 31 * SECOND, 60),
            ["10.0.0.2:80", "[fd00::1]:80"]
        );
        half(80 * SECOND, &mut known);
        assert_eq!(addresses(&known, 91 * SECOND, 60), ["10.0.0.2:80"]);
    }

    #[test]
    fn what_is_known_is_handed_over() {
        let mut known = Known::default();
        known.take(answer(vec![listed("10.0.0.1:80", "a")], 30), SECOND, 0.5);
        let wire = serde_json::to_value(&known).unwrap();
        let back: Known = serde_json::from_value(wire).unwrap();
        assert_eq!((back.found, back.due_at), (known.found, known.due_at));
    }

    proptest! {
        #[test]
        fn the_next_question_is_never_early_and_never_much_too_late(
            ttl in 0u64..1_000_000, now in 0u64..1 << 60, share in 0.0f64..1.0,
        ) {
            let mut known = Known::default();
            known.take(answer(Vec::new(), ttl), now, share);
            let pause = Duration::from_nanos(known.due_at - now);
            let wanted = Duration::from_secs(ttl).clamp(TTL_MIN, TTL_MAX);
            prop_assert!(pause >= wanted && pause <= wanted.mul_f64(1.1001), "{pause:?}");
        }

        #[test]
        fn failures_are_repeated_with_growing_pauses_up_to_a_bound(
            failures in 1usize..200, share in 0.0f64..1.0,
        ) {
            let mut known = Known::default();
            let mut last = Duration::ZERO;
            for _ in 0..failures {
                known.fail(failure(), 0, share);
                let pause = Duration::from_nanos(known.due_at);
                prop_assert!(pause >= last && pause <= RETRY_MAX.mul_f64(1.1001));
                last = pause;
            }
        }

        #[test]
        fn order_and_repetition_mean_nothing(hosts in proptest::collection::vec(0u8..6, 0..12), turn in 0usize..12) {
            let list = |hosts: &[u8]| hosts.iter().map(|n| listed(&format!("10.0.0.{n}:80"), "a")).collect();
            let mut turned = hosts.clone();
            if !turned.is_empty() {
                let turn = turn % turned.len();
                turned.rotate_left(turn);
            }
            turned.extend(&hosts);
            let (mut one, mut other) = (Known::default(), Known::default());
            one.take(answer(list(&hosts), 5), 0, 0.0);
            other.take(answer(list(&turned), 5), 0, 0.0);
            prop_assert_eq!(one, other);
        }
    }
}
