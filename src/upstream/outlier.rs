//! Passive ejection: an endpoint that fails what it is asked is left out for a while.
//!
//! A try has failed when no connection could be made, when it broke or timed out, when what came was no valid answer, and
//! when the answer was 502, 503 or 504: what Envoy calls a gateway failure (`consecutive_gateway_failure` with
//! `split_external_local_origin_errors` off). Another 5xx is the application's answer to one request; whoever can
//! provoke it must not be able to take endpoints out of service. For the same reason a call of gRPC that its caller gave
//! too little time says nothing; nor does an endpoint of HTTP/2 that goes away in good order (`GOAWAY` with `NO_ERROR`).
//!
//! A streak of failures ends with an answer that came whole: one that breaks off after its head is a failure. The n-th
//! ejection in a row lasts n times as long as the first, up to a bound; each time that long without another one
//! forgets one (Envoy's `base_ejection_time` and `max_ejection_time`). Nobody is asked on trial: an endpoint returns
//! when its time is over, whether or not it is well, and the next failures eject it for longer.
//!
//! The success path is one relaxed load, and one more addition where a ratio is watched. Times are monotonic
//! nanoseconds and arguments.

use super::outcome::Outcome;
use crate::units::Ratio;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Notify;

/// When endpoints of a service are left out, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row.
    pub consecutive: Option<u32>,
    pub ratio: Option<ErrorRatio>,
    /// How long the first ejection lasts.
    pub ejection: Duration,
    /// How long any lasts at most.
    pub ejection_max: Duration,
    /// The share of a service's endpoints that may be left out at once.
    pub max_ejected: Ratio,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            consecutive: Some(5),
            ratio: None,
            ejection: Duration::from_secs(30),
            ejection_max: Duration::from_secs(300),
            max_ejected: Ratio::from_percent(50),
        }
    }
}

/// A share of failures over a window that slides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRatio {
    pub threshold: Ratio,
    pub window: Duration,
    /// With fewer requests in the window the ratio says nothing.
    pub requests: u32,
}

impl Outlier {
    /// How long the n-th ejection in a row lasts.
    pub fn length(&self, nth: u32) -> Duration {
        self.ejection
            .saturating_mul(nth.max(1))
            .min(self.ejection_max)
    }

    /// How many of so many endpoints may be left out at once: the share, rounded down; at least one of two or more, or
    /// the setting would do nothing in small services; and never the last one.
    pub fn allowance(&self, endpoints: usize) -> usize {
        let share = self.max_ejected.of(endpoints as u64);
        let share = usize::try_from(share).unwrap_or(usize::MAX);
        share.max(1).min(endpoints.saturating_sub(1))
    }
}

/// Whether an outcome counts as a failure of the endpoint; none if it says nothing.
pub fn is_failure(outcome: Outcome) -> Option<bool> {
    match outcome {
        Outcome::Answered(status) => Some(matches!(status, 502..=504)),
        Outcome::Unreachable | Outcome::Broken | Outcome::TimedOut => Some(true),
        Outcome::Abandoned => None,
    }
}

/// Parts of a window.
const SLOTS: usize = 10;

/// One part of a window in one word: its number (20 bits), requests and failures (22 bits each). A part that is not of
/// this turn of the window counts nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot(u64);

const COUNT: u64 = (1 << 22) - 1;
/// Where counting stops; far enough from the end that threads which add at the same time can't carry over.
const COUNT_MAX: u64 = COUNT - 4096;

impl Slot {
    fn at(number: u64) -> Self {
        Self((number & 0xf_ffff) << 44)
    }

    fn is_of(self, number: u64) -> bool {
        self.0 >> 44 == number & 0xf_ffff
    }

    fn requests(self) -> u64 {
        (self.0 >> 22) & COUNT
    }

    fn failures(self) -> u64 {
        self.0 & COUNT
    }
}

/// What one try adds to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    Success,
    Failure,
    /// Of a try that has been counted as a success.
    LateFailure,
}

impl Count {
    fn failed(self) -> bool {
        self != Count::Success
    }

    fn addition(self) -> u64 {
        match self {
            Count::Success => 1 << 22,
            Count::Failure => 1 << 22 | 1,
            Count::LateFailure => 1,
        }
    }
}

/// Tries and failures of the last while.
#[derive(Debug, Default)]
struct Window([AtomicU64; SLOTS]);

impl Window {
    fn number(window: Duration, now: u64) -> u64 {
        let slot = window.as_nanos() / SLOTS as u128;
        let slot = u64::try_from(slot).unwrap_or(u64::MAX).max(1);
        // the first number is not that of an empty slot
        now / slot + 1
    }

    fn add(&self, window: Duration, count: Count, now: u64) {
        let number = Self::number(window, now);
        let Some(slot) = self.0.get((number % SLOTS as u64) as usize) else {
            return;
        };
        let current = Slot(slot.load(Relaxed));
        if !current.is_of(number) {
            let fresh = Slot::at(number);
            // whoever comes second finds it fresh
            let _ = slot.compare_exchange(current.0, fresh.0, Relaxed, Relaxed);
        } else if current.requests() >= COUNT_MAX || current.failures() >= COUNT_MAX {
            return;
        }
        slot.fetch_add(count.addition(), Relaxed);
    }

    /// Requests and failures within the window.
    fn sum(&self, window: Duration, now: u64) -> (u64, u64) {
        let last = Self::number(window, now);
        let slots = self.0.iter().map(|slot| Slot(slot.load(Relaxed)));
        let recent = slots.filter(|slot| {
            let ages = 0..SLOTS as u64;
            ages.into_iter().any(|age| {
                last.checked_sub(age)
                    .is_some_and(|number| slot.is_of(number))
            })
        });
        recent.fold((0, 0), |(requests, failures), slot| {
            (requests + slot.requests(), failures + slot.failures())
        })
    }

    fn clear(&self) {
        for slot in &self.0 {
            slot.store(0, Relaxed);
        }
    }
}

/// Why an endpoint is to be ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trip {
    Consecutive(u32),
    /// So many of so many failed.
    Ratio {
        failures: u64,
        requests: u64,
    },
}

impl std::fmt::Display for Trip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trip::Consecutive(count) => write!(f, "{count} failures in a row"),
            Trip::Ratio { failures, requests } => {
                write!(f, "{failures} of the last {requests} requests failed")
            }
        }
    }
}

/// What one endpoint did with what it was asked, and what came of that.
#[derive(Debug, Default)]
pub struct Tally {
    /// Failures in a row.
    failures: AtomicU32,
    window: Window,
    /// When the current or last ejection is over; zero if there was none.
    until: AtomicU64,
    /// Ejections in a row, the current one included.
    ejections: AtomicU32,
}

/// What an upgrade takes along.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ejected {
    until: u64,
    ejections: u32,
}

impl Tally {
    /// Takes in a try. Tells why the endpoint is to be ejected, if it is.
    pub fn add(&self, outlier: &Outlier, count: Count, now: u64) -> Option<Trip> {
        if let Some(ratio) = &outlier.ratio {
            self.window.add(ratio.window, count, now);
        }
        if !count.failed() {
            return None;
        }
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        if outlier.consecutive.is_some_and(|most| failures >= most) {
            return Some(Trip::Consecutive(failures));
        }
        let ratio = outlier.ratio?;
        let (requests, failures) = self.window.sum(ratio.window, now);
        let enough = requests >= u64::from(ratio.requests);
        let reached = failures > 0 && failures >= ratio.threshold.of_ceil(requests);
        (enough && reached).then_some(Trip::Ratio { failures, requests })
    }

    /// A whole, good answer has come: a streak of failures is over.
    pub fn succeeded(&self) {
        // a load of a line that is shared costs nothing, a store that all threads make does
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Begins to count anew.
    pub fn forgive(&self) {
        self.failures.store(0, Relaxed);
        self.window.clear();
    }

    /// Begins an ejection, and tells how long it lasts. Only one thread at a time decides that.
    pub fn eject(&self, outlier: &Outlier, now: u64) -> Duration {
        self.forgive();
        let until = self.until.load(Relaxed);
        let before = ejections_left(outlier, self.ejections.load(Relaxed), until, now);
        let nth = before.saturating_add(1);
        let length = outlier.length(nth);
        let nanos = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        self.ejections.store(nth, Relaxed);
        self.until.store(now.saturating_add(nanos), Relaxed);
        length
    }

    /// When the current or last ejection is over.
    pub fn until(&self) -> u64 {
        self.until.load(Relaxed)
    }

    /// What a successor has to know, if there is anything.
    pub fn export(&self) -> Option<Ejected> {
        let (until, ejections) = (self.until(), self.ejections.load(Relaxed));
        (until > 0).then_some(Ejected { until, ejections })
    }

    pub fn restore(&self, ejected: &Ejected) {
        self.until.store(ejected.until, Relaxed);
        self.ejections.store(ejected.ejections, Relaxed);
    }
}

/// How many of the last ejections in a row still count: each time of a first ejection since the last one was over
/// forgets one.
fn ejections_left(outlier: &Outlier, ejections: u32, until: u64, now: u64) -> u32 {
    let quiet = u128::from(now.saturating_sub(until));
    let forgotten = quiet / outlier.ejection.as_nanos().max(1);
    ejections.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
}

/// Wakes whoever takes ejected endpoints in again. One for all services.
#[derive(Debug, Default)]
pub struct Ejections {
    pub(super) stirred: Notify,
}

impl crate::state::Kept for Ejections {
    fn export(&self) -> Option<serde_json::Value> {
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

/// Of all the services of a process there is one.
pub fn ejections(state: &crate::state::State) -> Arc<Ejections> {
    let identity = crate::state::Identity {
        kind: "ejections",
        place: "".into(),
        shape: "".into(),
    };
    state.adopt(identity, Ejections::default)
}

/// The longest sleep, whatever is due.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// Takes in what was ejected when its time is over, and what the configuration leaves out no more, without end.
pub async fn returns(services: &[Arc<super::Service>]) {
    loop {
        let now = crate::state::monotonic_nanos();
        let waits = services.iter().filter_map(|service| settle(service, now));
        let sleep = waits.min().map_or(SLEEP_MAX, Duration::from_nanos);
        let Some(first) = services.first() else {
            return;
        };
        let stirred = first.maker.ejections.stirred.notified();
        let _ = tokio::time::timeout(sleep.min(SLEEP_MAX), stirred).await;
        // many ejections at once are one look
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Takes in what may be of one service. Tells how long the next has to wait, in nanoseconds.
fn settle(service: &super::Service, now: u64) -> Option<u64> {
    use super::Bar;
    service.takes_effect();
    let outlier = service.maker.outlier();
    let set = service.set();
    let mut next = None;
    for endpoint in set.endpoints() {
        let state = &endpoint.state;
        if service.health_check.is_none() {
            state.forget_checks();
            state.admit(Bar::Unhealthy, "it is not checked any more");
        }
        if !state.is_barred_by(Bar::Ejected) {
            continue;
        }
        let Some(outlier) = outlier else {
            state.admit(Bar::Ejected, "nothing is ejected any more");
            continue;
        };
        // an ejection that was made under longer times, or in another process, ends as those of today do
        let left = state.tally.until().saturating_sub(now);
        let most = u64::try_from(outlier.ejection_max.as_nanos()).unwrap_or(u64::MAX);
        match left == 0 || left > most {
            true => {
                state.tally.forgive();
                state.admit(Bar::Ejected, "its ejection is over");
            }
            false => next = Some(next.unwrap_or(u64::MAX).min(left)),
        }
    }
    if let Some(outlier) = outlier {
        spare(&set, outlier);
    }
    next
}

/// Takes in those whose time would be over soonest while more are left out than may be: others have gone since.
fn spare(set: &super::EndpointSet, outlier: &Outlier) {
    use super::Bar;
    let weighted = || set.endpoints().iter().filter(|one| one.weight > 0);
    let ejected = weighted().filter(|one| one.state.is_barred_by(Bar::Ejected));
    let mut ejected: Vec<_> = ejected.map(|one| &one.state).collect();
    let surplus = ejected
        .len()
        .saturating_sub(outlier.allowance(weighted().count()));
    ejected.sort_by_key(|state| state.tally.until());
    for state in ejected.into_iter().take(surplus) {
        state.tally.forgive();
        state.admit(Bar::Ejected, "too few endpoints are left");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn ratio(percent: u32, requests: u32) -> Outlier {
        Outlier {
            consecutive: None,
            ratio: Some(ErrorRatio {
                threshold: Ratio::from_percent(percent),
                window: Duration::from_secs(10),
                requests,
            }),
            ..Outlier::default()
        }
    }

    #[test]
    fn a_streak_trips_and_a_whole_answer_ends_it() {
        let (tally, outlier) = (Tally::default(), Outlier::default());
        for _ in 0..4 {
            assert_eq!(tally.add(&outlier, Count::Failure, 1), None);
        }
        tally.succeeded();
        for _ in 0..4 {
            assert_eq!(tally.add(&outlier, Count::Failure, 1), None);
        }
        assert_eq!(
            tally.add(&outlier, Count::LateFailure, 1),
            Some(Trip::Consecutive(5))
        );
    }

    #[test]
    fn a_ratio_needs_enough_requests_and_forgets_what_is_old() {
        let (tally, outlier) = (Tally::default(), ratio(50, 10));
        let now = 1_000 * SECOND;
        for _ in 0..5 {
            assert_eq!(tally.add(&outlier, Count::Success, now), None);
            assert_eq!(tally.add(&outlier, Count::LateFailure, now), None);
        }
        // 5 requests, all of which broke off: too few
        for _ in 0..4 {
            assert_eq!(tally.add(&outlier, Count::Success, now + SECOND), None);
        }
        let tripped = tally.add(&outlier, Count::Failure, now + 2 * SECOND);
        let (failures, requests) = (6, 10);
        assert_eq!(tripped, Some(Trip::Ratio { failures, requests }));
        // by then the first ones have left the window
        assert_eq!(tally.add(&outlier, Count::Failure, now + 11 * SECOND), None);
    }

    #[test]
    fn so_many_may_be_ejected_and_no_more() {
        let usual = Outlier::default();
        let allowed = [0, 1, 2, 3, 4, 5, 10].map(|endpoints| usual.allowance(endpoints));
        assert_eq!(allowed, [0, 0, 1, 1, 2, 2, 5]);
        let tenth = Outlier {
            max_ejected: Ratio::from_percent(10),
            ..usual.clone()
        };
        assert_eq!(
            [1, 2, 9, 20].map(|endpoints| tenth.allowance(endpoints)),
            [0, 1, 1, 2]
        );
        let all = Outlier {
            max_ejected: Ratio::ONE,
            ..usual
        };
        assert_eq!(
            [1, 2, 3].map(|endpoints| all.allowance(endpoints)),
            [0, 1, 2]
        );
    }

    #[test]
    fn ejections_in_a_row_grow_and_quiet_times_shrink_them() {
        let (tally, outlier) = (Tally::default(), Outlier::default());
        let mut now = 1_000 * SECOND;
        let mut lengths = Vec::new();
        for _ in 0..12 {
            let length = tally.eject(&outlier, now);
            lengths.push(length.as_secs());
            now += length.as_nanos() as u64 + SECOND;
        }
        assert_eq!(lengths[..4], [30, 60, 90, 120]);
        assert_eq!(lengths[9..], [300, 300, 300]);
        // as long as ten first ones without any forgets ten
        now += 300 * SECOND;
        assert_eq!(tally.eject(&outlier, now).as_secs(), 90);
        now += 10_000 * SECOND;
        assert_eq!(tally.eject(&outlier, now).as_secs(), 30);
    }

    #[test]
    fn what_counts_as_a_failure() {
        let failures = [502, 503, 504].map(Outcome::Answered);
        let silent = [Outcome::Unreachable, Outcome::Broken, Outcome::TimedOut];
        for outcome in failures.into_iter().chain(silent) {
            assert_eq!(is_failure(outcome), Some(true), "{outcome}");
        }
        for status in [200, 404, 429, 500, 501, 505] {
            assert_eq!(is_failure(Outcome::Answered(status)), Some(false));
        }
        assert_eq!(is_failure(Outcome::Abandoned), None);
    }

    proptest! {
        #[test]
        fn never_more_than_the_share_and_never_all(endpoints in 0_usize..10_000, parts in 1_u32..=100) {
            let outlier = Outlier { max_ejected: Ratio::from_percent(parts), ..Outlier::default() };
            let allowed = outlier.allowance(endpoints);
            prop_assert!(allowed < endpoints.max(1));
            prop_assert!(allowed <= 1 || allowed * 100 <= endpoints * parts as usize);
            prop_assert!(endpoints < 2 || allowed > 0);
        }

        #[test]
        fn a_window_sums_what_is_within_it(
            tries in prop::collection::vec((0_u64..40, any::<bool>()), 0..200), start in 0_u64..1 << 40,
        ) {
            let window = Duration::from_secs(10);
            let counted = Window::default();
            let mut tries = tries;
            tries.sort_unstable();
            for (at, failed) in &tries {
                let count = if *failed { Count::Failure } else { Count::Success };
                counted.add(window, count, start + at * SECOND / 2);
            }
            let now = start + 20 * SECOND;
            let number = |time| Window::number(window, time);
            let inside: Vec<_> = tries.iter()
                .filter(|(at, _)| number(start + at * SECOND / 2) + SLOTS as u64 > number(now))
                .collect();
            let failures = inside.iter().filter(|(_, failed)| *failed).count() as u64;
            prop_assert_eq!(counted.sum(window, now), (inside.len() as u64, failures));
        }

        #[test]
        fn no_ejection_is_longer_than_its_bound_or_shorter_than_the_first(nth in 0_u32..u32::MAX) {
            let outlier = Outlier::default();
            let length = outlier.length(nth);
            prop_assert!(length >= outlier.ejection && length <= outlier.ejection_max);
        }
    }
}
