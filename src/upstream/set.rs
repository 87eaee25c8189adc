//! The endpoints of a service at one moment, and the choice among them.
//!
//! A set never changes; discovery puts another in its place ([`super::Service::replace`]). A request keeps the set that
//! it began with, so that places in it stay what they were from try to try. What goes on at an endpoint outlives both.

use super::balance::{Cycle, Shares, least_request};
use super::breaker::{Probe, Verdict};
use super::endpoint::{Bar, Endpoint};
use super::outcome::{Observed, Outcome};
use super::outlier::{self, Count, Ejections, Outlier, Trip};
use super::service::{Balance, ServiceState};
use super::window;
use crate::observe::metrics::ServiceMetrics;
use crate::observe::random;
use crate::state::monotonic_nanos;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How often a choice is made again because others took the last place of the one that was chosen.
const CHOICES_MAX: usize = 4;

/// The tables from which an endpoint is chosen, made from the weights when the set is.
enum Balancer {
    RoundRobin(Cycle),
    LeastRequest(Shares),
}

/// See the module.
pub struct EndpointSet {
    endpoints: Box<[Endpoint]>,
    balancer: Balancer,
    service: Arc<ServiceState>,
    /// Of all endpoints with a weight, the share in percent below which health is ignored.
    panic_percent: u8,
    /// What is known of the whole: the count of changes that it was found at, times two, plus one in a panic.
    known: AtomicU64,
    ejecting: Option<Arc<Ejecting>>,
}

/// How endpoints that fail are left out.
pub(super) struct Ejecting {
    pub outlier: Outlier,
    pub metrics: Arc<ServiceMetrics>,
    pub ejections: Arc<Ejections>,
}

/// What a choice depends on besides the set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice<'a> {
    /// Endpoints that have failed this request, by their place in the set.
    pub tried: &'a [u16],
}

impl EndpointSet {
    pub(super) fn new(
        endpoints: Vec<Endpoint>,
        balance: Balance,
        service: Arc<ServiceState>,
        panic_percent: u8,
    ) -> Self {
        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
        let balancer = match balance {
            Balance::RoundRobin => Balancer::RoundRobin(Cycle::new(&weights)),
            Balance::LeastRequest => Balancer::LeastRequest(Shares::new(&weights)),
        };
        Self {
            endpoints: endpoints.into(),
            balancer,
            service,
            panic_percent,
            known: AtomicU64::new(u64::MAX),
            ejecting: None,
        }
    }

    pub(super) fn ejecting(mut self, ejecting: Option<Arc<Ejecting>>) -> Self {
        self.ejecting = ejecting;
        self
    }

    /// The endpoints, by their place.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The endpoint at that place.
    pub fn get(&self, at: u16) -> Option<&Endpoint> {
        self.endpoints.get(usize::from(at))
    }

    /// Whether so few endpoints are usable that health is ignored: better all of them than a stampede on the last.
    pub fn is_panicking(&self) -> bool {
        let changes = self.service.changes();
        let known = self.known.load(Relaxed);
        if known >> 1 == changes {
            return known & 1 == 1;
        }
        let weighted = || self.endpoints.iter().filter(|endpoint| endpoint.weight > 0);
        let usable = weighted()
            .filter(|endpoint| endpoint.state.is_healthy())
            .count();
        let panics = usable * 100 < weighted().count() * usize::from(self.panic_percent);
        // whoever finds another answer at the same time has seen a later change, and the next one looks again
        let before = self.known.swap(changes << 1 | u64::from(panics), Relaxed);
        // a set that is new has not panicked yet
        let panicked = before != u64::MAX && before & 1 == 1;
        if panicked != panics
            && let Some(endpoint) = self.endpoints.first()
        {
            endpoint.state.tell_panic(panics, usable);
        }
        panics
    }

    /// Takes note of how a try at that endpoint ended. `answered`: its answer had begun.
    fn observe(&self, at: u16, observed: Observed, answered: bool) {
        let Some(endpoint) = self.get(at) else { return };
        endpoint.observe(observed);
        let (Some(ejecting), Some(failed)) =
            (&self.ejecting, outlier::is_failure(observed.outcome))
        else {
            return;
        };
        let outlier = &ejecting.outlier;
        // one that is ejected is asked only in a panic, or was before
        if (!failed && outlier.ratio.is_none()) || endpoint.state.is_barred_by(Bar::Ejected) {
            return;
        }
        let count = match (failed, answered) {
            (false, _) => Count::Success,
            (true, false) => Count::Failure,
            (true, true) => Count::LateFailure,
        };
        let now = monotonic_nanos();
        if let Some(trip) = endpoint.state.tally.add(outlier, count, now) {
            // whoever finds another deciding trips again at the next failure
            let eject = || self.eject(endpoint, ejecting, trip, observed.outcome, now);
            self.service.decide(eject);
        }
    }

    /// Leaves an endpoint out, unless that would be too many.
    fn eject(&self, endpoint: &Endpoint, ejecting: &Ejecting, trip: Trip, last: Outcome, now: u64) {
        let state = &endpoint.state;
        if state.is_barred_by(Bar::Ejected) {
            return;
        }
        let weighted = self.endpoints.iter().filter(|endpoint| endpoint.weight > 0);
        let (all, out) = weighted.fold((0, 0), |(all, out), endpoint| {
            let ejected = endpoint.state.is_barred_by(Bar::Ejected);
            (all + 1, out + usize::from(ejected))
        });
        if out >= ejecting.outlier.allowance(all) {
            // otherwise every further failure would look through all of them
            state.tally.forgive();
            return;
        }
        let length = state.tally.eject(&ejecting.outlier, now);
        state.bar(
            Bar::Ejected,
            format_args!("{trip}, the last: {last}; for {length:?}"),
        );
        ejecting.metrics.ejected();
        ejecting.ejections.stirred.notify_one();
    }

    /// Chooses an endpoint that has not been tried and that is usable.
    pub fn pick(self: &Arc<Self>, choice: Choice<'_>) -> Option<Picked> {
        for _ in 0..CHOICES_MAX {
            let at = self.choose(choice)?;
            if let Some(probe) = self.get(at)?.take() {
                return Some(Picked {
                    set: self.clone(),
                    at,
                    in_flight: true,
                    head: Head::None,
                    probe,
                });
            }
        }
        None
    }

    /// Why nothing was picked: what a client is told depends on it.
    pub fn refusal(&self) -> Refusal {
        let weighted = || self.endpoints.iter().filter(|endpoint| endpoint.weight > 0);
        if weighted().any(Endpoint::is_full) {
            return Refusal::Full;
        }
        let now = window::millis(Instant::now());
        let soonest = weighted()
            .filter_map(|endpoint| endpoint.refuses(now))
            .min();
        soonest.map_or(Refusal::Nobody, Refusal::Open)
    }

    fn choose(&self, choice: Choice<'_>) -> Option<u16> {
        let panics = self.is_panicking();
        // breakers and bounds hold in a panic too
        let usable = |at: u16| {
            self.get(at).is_some_and(|endpoint| {
                (panics || endpoint.state.is_healthy()) && endpoint.has_room()
            })
        };
        let may = |at: u16| !choice.tried.contains(&at) && usable(at);
        match &self.balancer {
            _ if self.endpoints.len() == 1 => {
                let only = self.endpoints.first()?;
                (only.weight > 0 && may(0)).then_some(0)
            }
            Balancer::RoundRobin(cycle) => cycle.pick(self.service.turn(), may),
            Balancer::LeastRequest(shares) => {
                least_request(shares, random::next(), may, |at| self.load(at))
            }
        }
    }

    fn load(&self, at: u16) -> (u32, u32) {
        self.get(at).map_or((u32::MAX, 1), |endpoint| {
            (endpoint.state.in_flight(), endpoint.weight)
        })
    }
}

/// An endpoint that was chosen for a try. The request counts as in flight there until it is answered, or this is
/// dropped.
pub struct Picked {
    set: Arc<EndpointSet>,
    at: u16,
    in_flight: bool,
    head: Head,
    /// Its place among the probes of the endpoint's breaker.
    probe: Option<Probe>,
}

/// What is known of an answer by its head.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Head {
    None,
    Good,
    Bad,
}

/// Why no endpoint could be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// None is healthy, or none has a weight.
    Nobody,
    /// Breakers are open, the first of them for so long.
    Open(Duration),
    /// As many requests are in flight as there may be.
    Full,
}

impl Picked {
    /// Takes note of how the try ended, or of what happened after its answer had begun.
    pub fn observe(&mut self, observed: Observed) {
        self.set.observe(self.at, observed, self.head != Head::None);
        if let Outcome::Answered(_) = observed.outcome {
            self.head = match outlier::is_failure(observed.outcome) {
                Some(true) => Head::Bad,
                _ => Head::Good,
            };
            if !self.in_flight {
                self.complete();
            }
        }
    }

    /// A whole answer ends a streak of failures; its head alone does not, for the rest may never come.
    fn complete(&self) {
        if self.head == Head::Good
            && self.set.ejecting.is_some()
            && let Some(endpoint) = self.endpoint()
        {
            endpoint.state.tally.succeeded();
        }
    }

    /// The set that it was chosen from.
    pub fn set(&self) -> &Arc<EndpointSet> {
        &self.set
    }

    /// The endpoint's place in its set.
    pub fn at(&self) -> u16 {
        self.at
    }

    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.set.get(self.at)
    }

    /// Tells the endpoint's breaker how the try ended.
    pub fn judge(&mut self, verdict: Verdict, now: Instant) {
        let probe = self.probe.take();
        if let Some(endpoint) = self.endpoint() {
            endpoint.judge(probe, verdict, window::millis(now));
        }
    }

    /// The endpoint has sent its whole answer: what is left to do is not its work.
    pub fn answered(&mut self) {
        if self.end() {
            self.complete();
        }
    }

    fn end(&mut self) -> bool {
        let ends = std::mem::take(&mut self.in_flight);
        if ends && let Some(endpoint) = self.endpoint() {
            endpoint.state.end();
        }
        ends
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        if self.probe.is_some() {
            self.judge(Verdict::None, Instant::now());
        }
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::Connecting;
    use super::super::service::{Maker, Placed};
    use super::super::{EndpointState, Place};
    use super::*;
    use crate::observe::metrics::Metrics;
    use crate::state::{Kept, State};
    use std::time::Duration;

    fn maker(state: &Arc<State>) -> Maker {
        let bounds = Connecting {
            connect: None,
            pool_idle: None,
            post_idle: None,
        };
        Maker::new("s", Balance::RoundRobin, bounds, state, &Metrics::new())
            .ejecting(Outlier::default())
    }

    fn set_of(maker: &Maker, count: u16) -> Arc<EndpointSet> {
        let placed = |port| Placed {
            place: Place::Tcp(([127, 0, 0, 1], port).into()),
            weight: 1,
        };
        let endpoints = (1..=count).map(|port| maker.endpoint(placed(port)).unwrap());
        Arc::new(maker.set(endpoints.collect()))
    }

    fn ends(set: &Arc<EndpointSet>, at: u16, outcome: Outcome, whole: bool) {
        set.get(at).unwrap().state.begin();
        let mut picked = Picked {
            set: set.clone(),
            at,
            in_flight: true,
            head: Head::None,
            probe: None,
        };
        let took = Duration::ZERO;
        picked.observe(Observed { outcome, took });
        match whole {
            true => picked.answered(),
            false => picked.observe(Observed {
                outcome: Outcome::Broken,
                took,
            }),
        }
    }

    fn ejected(set: &EndpointSet) -> usize {
        let states = set.endpoints().iter().map(|endpoint| &endpoint.state);
        states.filter(|state| !state.is_usable()).count()
    }

    #[test]
    fn however_many_fail_no_more_are_ejected_than_may_be() {
        for (count, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (9, 4)] {
            let set = set_of(&maker(&Arc::default()), count);
            for _ in 0..50 {
                (0..count).for_each(|at| ends(&set, at, Outcome::Unreachable, true));
            }
            assert_eq!(ejected(&set), most, "{count}");
        }
    }

    #[test]
    fn good_heads_save_nobody_whose_bodies_break_off() {
        let set = set_of(&maker(&Arc::default()), 3);
        for _ in 0..4 {
            ends(&set, 0, Outcome::Answered(200), false);
            ends(&set, 1, Outcome::Answered(503), true);
        }
        ends(&set, 1, Outcome::Answered(200), true);
        ends(&set, 1, Outcome::Answered(503), true);
        assert_eq!(ejected(&set), 0);
        ends(&set, 0, Outcome::Answered(200), false);
        assert!(set.get(0).unwrap().state.is_barred_by(Bar::Ejected));
        assert_eq!(ejected(&set), 1);
    }

    #[test]
    fn threads_that_fail_at_once_eject_no_more_than_may_be() {
        let set = set_of(&maker(&Arc::default()), 8);
        std::thread::scope(|scope| {
            for at in 0..8 {
                let set = &set;
                scope.spawn(move || (0..500).for_each(|_| ends(set, at, Outcome::TimedOut, true)));
            }
        });
        assert_eq!(ejected(&set), 4);
    }

    #[test]
    fn what_is_known_of_an_endpoint_passes_to_the_next_process() {
        let old = set_of(&maker(&Arc::default()), 2);
        (0..5).for_each(|_| ends(&old, 0, Outcome::Broken, true));
        let state = &old.get(0).unwrap().state;
        let shape: Arc<str> = "x".into();
        state.checks(&shape, |checks| checks.begins(77));
        let wire = state.export().unwrap().to_string();

        let new = set_of(&maker(&Arc::default()), 2);
        let restored: &EndpointState = &new.get(0).unwrap().state;
        restored.restore(&serde_json::from_str(&wire).unwrap());
        assert!(restored.is_barred_by(Bar::Ejected));
        assert_eq!(restored.standing(), state.standing());
        assert_eq!(restored.tally.until(), state.tally.until());
        assert_eq!(restored.checks(&shape, |checks| checks.due()), 77);
        restored.restore(&"rubbish".into());
        assert!(restored.is_barred_by(Bar::Ejected));
    }
}
