//! Circuit breakers (Nygard, "Release It!", 2007): who fails too often is left alone for a while, and then asked a few
//! times before everybody comes back.
//!
//! ```text
//! closed ── too many of the last tries failed ──→ open ── its time is over ──→ half-open
//!    ↑                                              ↑                              │
//!    │                                              └─────── a probe failed ───────┤
//!    └──────────────────────── as many probes as wanted were answered ─────────────┘
//! ```
//!
//! The state is one atomic word; nothing waits, and no timer runs: an open breaker is half-open from a time on.

use super::outcome::Outcome;
use super::window::{SLOTS, Window, whole_millis};
use crate::units::Ratio;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const COUNT_BITS: u32 = 12;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// What to tell those who come while every probe is out: about as long as a probe takes.
const PROBING: Duration = Duration::from_secs(1);

/// When a breaker opens, and how it closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The share of failed tries within the window that opens it.
    pub failures: Ratio,
    /// How long tries are remembered.
    pub window: Duration,
    /// Fewer tries than this within the window say nothing.
    pub minimum: u32,
    /// How long it stays open.
    pub open: Duration,
    /// Requests that are let through when that is over; as many good answers close it.
    pub probes: u16,
}

/// One breaker. Outlives snapshots with what it protects.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Tries, and those that failed.
    window: Window,
    /// 0 when it is closed. Else when it may be probed (40 bits, milliseconds), probes that were let through and have
    /// not been given back (12), and those that were answered well (12).
    word: AtomicU64,
}

/// The word, taken apart.
#[derive(Clone, Copy)]
struct Opened {
    until: u64,
    taken: u64,
    passed: u64,
}

impl Opened {
    fn of(word: u64) -> Option<Self> {
        (word != 0).then_some(Self {
            until: word >> (2 * COUNT_BITS),
            taken: (word >> COUNT_BITS) & COUNT_MAX,
            passed: word & COUNT_MAX,
        })
    }

    fn word(self) -> u64 {
        self.until << (2 * COUNT_BITS) | self.taken << COUNT_BITS | self.passed
    }
}

/// A probe that was let through: of the half-open time that began at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe(u64);

/// What a breaker says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is closed.
    Free,
    /// It is half-open, and this is a probe.
    Probe(Probe),
    /// It is open, for about so long.
    Refused(Duration),
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    Closed,
    HalfOpen,
    Open,
}

impl Stand {
    /// As the admin API says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Stand::Closed => "closed",
            Stand::HalfOpen => "half_open",
            Stand::Open => "open",
        }
    }
}

/// What one try says about whom a breaker protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Bad,
    /// An answer that was taken for good by its head has not come to its end.
    Late,
    /// Nothing: it ended for reasons of the client's or our own.
    None,
}

impl From<Outcome> for Verdict {
    /// No connection, no answer in time, no valid answer and every status from 500 on are failures.
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Answered(status) if status < 500 => Verdict::Good,
            Outcome::Abandoned => Verdict::None,
            _ => Verdict::Bad,
        }
    }
}

/// What a verdict changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Opened,
    Closed,
}

impl Breaker {
    /// Where it stands. Times are of [`super::window::millis`].
    pub fn stand(&self, now: u64) -> Stand {
        match Opened::of(self.word.load(Relaxed)) {
            None => Stand::Closed,
            Some(opened) if now < opened.until => Stand::Open,
            Some(_) => Stand::HalfOpen,
        }
    }

    /// How long it refuses everybody, if it does.
    pub fn refuses(&self, settings: &Settings, now: u64) -> Option<Duration> {
        let opened = Opened::of(self.word.load(Relaxed))?;
        if now < opened.until {
            return Some(Duration::from_millis(opened.until - now));
        }
        (opened.taken >= probes(settings)).then_some(PROBING)
    }

    /// Lets a request through, or not. A probe must come back to [`Self::record`].
    pub fn admit(&self, settings: &Settings, now: u64) -> Admission {
        let taken = self.word.fetch_update(Relaxed, Relaxed, |word| {
            let opened = Opened::of(word)?;
            let free = now >= opened.until && opened.taken < probes(settings);
            let taken = opened.taken + 1;
            free.then_some(Opened { taken, ..opened }.word())
        });
        match taken {
            Ok(before) => Admission::Probe(Probe(before >> (2 * COUNT_BITS))),
            Err(0) => Admission::Free,
            Err(_) => Admission::Refused(self.refuses(settings, now).unwrap_or(PROBING)),
        }
    }

    /// Takes note of how a try ended.
    pub fn record(
        &self,
        settings: &Settings,
        probe: Option<Probe>,
        verdict: Verdict,
        now: u64,
    ) -> Option<Change> {
        match probe {
            Some(probe) => self.probed(settings, probe, verdict, now),
            None => self.tried(settings, verdict, now),
        }
    }

    /// Closes it, since nothing is to be protected any more. Tells whether it was not closed.
    pub fn reset(&self) -> bool {
        self.window.clear();
        self.word.swap(0, Relaxed) != 0
    }

    fn tried(&self, settings: &Settings, verdict: Verdict, now: u64) -> Option<Change> {
        // what was sent before it opened says nothing new
        if verdict == Verdict::None || self.word.load(Relaxed) != 0 {
            return None;
        }
        let time = now / (whole_millis(settings.window) / SLOTS).max(1);
        let failed = verdict != Verdict::Good;
        let counted = verdict == Verdict::Late;
        self.window
            .add(time, u64::from(!counted), u64::from(failed));
        if !failed {
            return None;
        }
        let (tries, failed) = self.window.sums(time);
        let enough = tries >= u64::from(settings.minimum.max(1));
        let part = u128::from(failed) * u128::from(Ratio::ONE.parts_per_million());
        let most = u128::from(tries) * u128::from(settings.failures.parts_per_million());
        if !enough || part < most {
            return None;
        }
        let opened = self.opened(settings, now).word();
        let news = self.word.compare_exchange(0, opened, Relaxed, Relaxed);
        news.is_ok().then_some(Change::Opened)
    }

    fn probed(
        &self,
        settings: &Settings,
        probe: Probe,
        verdict: Verdict,
        now: u64,
    ) -> Option<Change> {
        let next = |word| {
            // a probe of a time that is over has nothing to give back
            let opened = Opened::of(word).filter(|opened| opened.until == probe.0)?;
            Some(match verdict {
                Verdict::None => Opened {
                    taken: opened.taken.saturating_sub(1),
                    ..opened
                }
                .word(),
                Verdict::Bad | Verdict::Late => self.opened(settings, now).word(),
                Verdict::Good if opened.passed + 1 >= probes(settings) => 0,
                Verdict::Good => Opened {
                    passed: opened.passed + 1,
                    ..opened
                }
                .word(),
            })
        };
        let before = self.word.fetch_update(Relaxed, Relaxed, next).ok()?;
        match (verdict, next(before)) {
            (Verdict::Good, Some(0)) => {
                self.window.clear();
                Some(Change::Closed)
            }
            (Verdict::Bad | Verdict::Late, _) => Some(Change::Opened),
            _ => None,
        }
    }

    fn opened(&self, settings: &Settings, now: u64) -> Opened {
        Opened {
            until: now.saturating_add(whole_millis(settings.open)),
            taken: 0,
            passed: 0,
        }
    }
}

fn probes(settings: &Settings) -> u64 {
    u64::from(settings.probes).clamp(1, COUNT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETTINGS: Settings = Settings {
        failures: Ratio::from_percent(50),
        window: Duration::from_secs(10),
        minimum: 4,
        open: Duration::from_secs(30),
        probes: 2,
    };

    fn opened(now: u64) -> Breaker {
        let breaker = Breaker::default();
        let bad = || breaker.record(&SETTINGS, None, Verdict::Bad, now);
        assert_eq!([bad(), bad(), bad()], [None; 3]);
        assert_eq!(bad(), Some(Change::Opened));
        breaker
    }

    fn probe(breaker: &Breaker, now: u64) -> Option<Probe> {
        match breaker.admit(&SETTINGS, now) {
            Admission::Probe(probe) => Some(probe),
            _ => None,
        }
    }

    #[test]
    fn it_opens_at_the_share_and_not_before_there_is_enough_to_judge_by() {
        let breaker = opened(1000);
        assert_eq!(breaker.stand(30_999), Stand::Open);
        assert_eq!(breaker.stand(31_000), Stand::HalfOpen);
        let left = Duration::from_millis(20_000);
        assert_eq!(breaker.admit(&SETTINGS, 11_000), Admission::Refused(left));
        let breaker = Breaker::default();
        for n in 0..100 {
            // two of three are good
            let verdict = if n % 3 == 2 {
                Verdict::Bad
            } else {
                Verdict::Good
            };
            assert_eq!(breaker.record(&SETTINGS, None, verdict, 1000 + n), None);
        }
        assert_eq!(breaker.admit(&SETTINGS, 2000), Admission::Free);
    }

    #[test]
    fn answers_that_all_break_off_open_it_whatever_the_share() {
        let settings = Settings {
            failures: Ratio::from_percent(90),
            ..SETTINGS
        };
        let breaker = Breaker::default();
        for n in 1..=3 {
            assert_eq!(breaker.record(&settings, None, Verdict::Good, n), None);
            assert_eq!(breaker.record(&settings, None, Verdict::Late, n), None);
        }
        assert_eq!(breaker.record(&settings, None, Verdict::Good, 4), None);
        let opened = breaker.record(&settings, None, Verdict::Late, 4);
        assert_eq!(opened, Some(Change::Opened));
    }

    #[test]
    fn it_lets_no_more_probes_through_than_wanted_and_closes_when_all_were_good() {
        let breaker = opened(1000);
        let now = 40_000;
        let (first, second) = (probe(&breaker, now), probe(&breaker, now));
        assert!(first.is_some() && second.is_some());
        assert_eq!(breaker.admit(&SETTINGS, now), Admission::Refused(PROBING));
        assert_eq!(breaker.record(&SETTINGS, first, Verdict::Good, now), None);
        assert_eq!(probe(&breaker, now), None);
        let closed = breaker.record(&SETTINGS, second, Verdict::Good, now);
        assert_eq!(closed, Some(Change::Closed));
        assert_eq!(breaker.stand(now), Stand::Closed);
        // old failures are forgotten
        assert_eq!(breaker.record(&SETTINGS, None, Verdict::Bad, now), None);
    }

    #[test]
    fn a_probe_that_fails_opens_it_again_and_late_ones_have_no_say() {
        let breaker = opened(1000);
        let (first, second) = (probe(&breaker, 40_000), probe(&breaker, 40_000));
        let again = breaker.record(&SETTINGS, first, Verdict::Bad, 41_000);
        assert_eq!(again, Some(Change::Opened));
        assert_eq!(breaker.stand(70_999), Stand::Open);
        assert_eq!(
            breaker.record(&SETTINGS, second, Verdict::Good, 71_500),
            None
        );
        assert_eq!(breaker.stand(71_500), Stand::HalfOpen);
    }

    #[test]
    fn a_probe_that_was_abandoned_leaves_its_place_to_another() {
        let breaker = opened(1000);
        let (first, _) = (probe(&breaker, 40_000), probe(&breaker, 40_000));
        assert_eq!(
            breaker.record(&SETTINGS, first, Verdict::None, 40_000),
            None
        );
        assert!(probe(&breaker, 40_000).is_some());
    }

    /// What may happen to a breaker.
    #[derive(Clone, Debug)]
    enum Event {
        Ask,
        End(usize, Verdict),
        Pass(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        let verdict = prop_oneof![Just(Verdict::Good), Just(Verdict::Bad), Just(Verdict::None)];
        prop_oneof![
            4 => Just(Event::Ask),
            4 => (any::<usize>(), verdict).prop_map(|(which, verdict)| Event::End(which, verdict)),
            1 => (0_u64..40_000).prop_map(Event::Pass),
        ]
    }

    proptest! {
        #[test]
        fn nothing_passes_an_open_breaker_and_few_a_half_open_one(events in prop::collection::vec(event(), 0..400)) {
            let breaker = Breaker::default();
            let mut now = 1;
            let mut out: Vec<Option<Probe>> = Vec::new();
            for event in events {
                match event {
                    Event::Pass(time) => now += time,
                    Event::Ask => {
                        let stand = breaker.stand(now);
                        match breaker.admit(&SETTINGS, now) {
                            Admission::Free => {
                                prop_assert_eq!(stand, Stand::Closed);
                                out.push(None);
                            }
                            Admission::Probe(probe) => {
                                prop_assert_eq!(stand, Stand::HalfOpen);
                                out.push(Some(probe));
                            }
                            Admission::Refused(left) => {
                                prop_assert!(stand != Stand::Closed);
                                prop_assert!(left <= SETTINGS.open && !left.is_zero());
                            }
                        }
                    }
                    Event::End(which, verdict) if !out.is_empty() => {
                        let probe = out.swap_remove(which % out.len());
                        let before = breaker.stand(now);
                        match breaker.record(&SETTINGS, probe, verdict, now) {
                            Some(Change::Opened) => prop_assert_eq!(breaker.stand(now), Stand::Open),
                            Some(Change::Closed) => {
                                prop_assert_eq!(before, Stand::HalfOpen);
                                prop_assert_eq!(breaker.stand(now), Stand::Closed);
                            }
                            None => prop_assert_eq!(breaker.stand(now), before),
                        }
                    }
                    Event::End(..) => {}
                }
                let current = Opened::of(breaker.word.load(Relaxed)).map(|opened| opened.until);
                let probing = out.iter().flatten().filter(|probe| Some(probe.0) == current).count();
                prop_assert!(probing <= usize::from(SETTINGS.probes));
            }
        }
    }
}
