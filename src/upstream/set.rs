//! The endpoints of a service at one moment, and the choice among them.
//!
//! A set never changes; discovery puts another in its place ([`super::Service::replace`]). A request keeps the set that
//! it began with ([`Held`]), so that places in it stay what they were from try to try. What goes on at an endpoint outlives both.

use super::balance::bound::{Load, Looks};
use super::balance::latency::Expected;
use super::balance::sticky::{Token, Tokens};
use super::balance::two::{better, least_loaded};
use super::balance::{Balance, Balancer, Balancing, Cycle, Key, Ring, Shares, ramp};
use super::breaker::{Probe, Verdict};
use super::endpoint::{Bar, Endpoint, EndpointState};
use super::outcome::{Observed, Outcome};
use super::outlier::{self, Count, Ejections, Outlier, Trip};
use super::service::ServiceState;
use super::window;
use crate::observe::metrics::ServiceMetrics;
use crate::observe::metrics::sharded::{shard_count, thread_number};
use crate::observe::random::{self, mix};
use crate::state::monotonic_nanos;
use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How often a choice is made again because others took the last place of the one that was chosen.
const CHOICES_MAX: usize = 4;

/// Sets up to this size are counted anew for each choice that has to know the load of the whole.
const COUNTED_MAX: usize = 16;

/// See the module.
pub struct EndpointSet {
    endpoints: Box<[Endpoint]>,
    /// The same, as far as a choice looks at them: large sets would not stay in the processor's cache otherwise.
    seats: Box<[Seat]>,
    shares: Shares,
    /// Of those that have one.
    mean_weight: f64,
    balancer: Balancer,
    /// How long the share of an endpoint that begins or returns grows.
    slow_start: Option<Duration>,
    tokens: Tokens,
    looks: Looks,
    service: Arc<ServiceState>,
    /// Of all endpoints with a weight, the share in percent below which health is ignored.
    panic_percent: u8,
    /// What is known of the whole: the count of changes that it was found at, times two, plus one in a panic.
    known: AtomicU64,
    ejecting: Option<Arc<Ejecting>>,
    /// Whether any endpoint has a breaker or a bound.
    guarded: bool,
}

/// How endpoints that fail are left out.
pub(super) struct Ejecting {
    pub outlier: Outlier,
    pub metrics: Arc<ServiceMetrics>,
    pub ejections: Arc<Ejections>,
}

/// What a choice sees of an endpoint.
struct Seat {
    state: Arc<EndpointState>,
    weight: u32,
}

/// What a choice depends on besides the set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice<'a> {
    /// Endpoints that have failed this request, by their place in the set.
    pub tried: &'a [u16],
    /// What `consistent_hash` goes by; without it the request is balanced by load.
    pub key: Option<Key>,
    /// The endpoint that the client has a cookie for, by its place in the set.
    pub sticky: Option<u16>,
    /// Monotonic nanoseconds, right to some milliseconds; only where the set [takes time](EndpointSet::takes_time).
    pub now: u64,
}

/// A set as the requests of one thread hold it, or of a few. Arc counts its holders, and where that is one count for all
/// threads, each choice writes what every other one writes too: it costs more than all the rest. In cache lines of its
/// own for the same reason.
#[repr(align(128))]
pub struct Held(Arc<EndpointSet>);

impl Deref for Held {
    type Target = EndpointSet;

    fn deref(&self) -> &EndpointSet {
        &self.0
    }
}

impl Held {
    /// For one holder.
    pub fn new(set: EndpointSet) -> Arc<Self> {
        Arc::new(Self(Arc::new(set)))
    }

    /// Chooses an endpoint that has not been tried and that is usable.
    pub fn pick(self: &Arc<Self>, choice: Choice<'_>) -> Option<Picked> {
        for _ in 0..CHOICES_MAX {
            let at = self.choose(choice)?;
            if let Some(probe) = self.take(at)? {
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

    /// The same, or why nothing was picked.
    ///
    /// # Errors
    /// What stands against it.
    pub fn find(self: &Arc<Self>, choice: Choice<'_>) -> Result<Picked, Refusal> {
        for _ in 0..CHOICES_MAX {
            if let Some(picked) = self.pick(choice) {
                return Ok(picked);
            }
            // a place may have been given back since
            if !self.well().any(Endpoint::has_room) {
                break;
            }
        }
        Err(self.refusal())
    }
}

/// A set for the requests of all threads.
pub(super) struct Shared {
    first: Arc<Held>,
    /// One for each shard.
    all: Box<[Arc<Held>]>,
}

impl Shared {
    pub(super) fn new(set: EndpointSet) -> Self {
        let set = Arc::new(set);
        let shards = 0..shard_count();
        Self {
            first: Arc::new(Held(set.clone())),
            all: shards.map(|_| Arc::new(Held(set.clone()))).collect(),
        }
    }

    /// As this thread holds it.
    pub(super) fn here(&self) -> &Arc<Held> {
        // there are a power of two
        let own = thread_number() & (self.all.len().wrapping_sub(1));
        self.all.get(own).unwrap_or(&self.first)
    }
}

impl EndpointSet {
    pub(super) fn new(
        endpoints: Vec<Endpoint>,
        balancing: &Balancing,
        service: Arc<ServiceState>,
        panic_percent: u8,
    ) -> Self {
        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
        let balancer = match &balancing.balance {
            Balance::LeastRequest => Balancer::LeastRequest,
            Balance::Ewma => Balancer::Ewma,
            Balance::RoundRobin => Balancer::RoundRobin(Cycle::new(&weights)),
            Balance::Random => Balancer::Random,
            Balance::ConsistentHash(hashing) => {
                let names = endpoints.iter().map(|one| (&*one.name, one.weight));
                Balancer::ConsistentHash {
                    ring: Ring::new(names),
                    overload_ppm: hashing.overload_ppm,
                }
            }
        };
        let places = endpoints.iter().map(|endpoint| &endpoint.place);
        let tokens = match &balancing.sticky {
            Some(sticky) => Tokens::new(sticky, places),
            None => Tokens::default(),
        };
        let seats = endpoints.iter().map(|endpoint| Seat {
            state: endpoint.state.clone(),
            weight: endpoint.weight,
        });
        Self {
            seats: seats.collect(),
            shares: Shares::new(&weights),
            mean_weight: mean(&weights),
            guarded: endpoints.iter().any(Endpoint::is_guarded),
            endpoints: endpoints.into(),
            balancer,
            slow_start: balancing.slow_start,
            tokens,
            looks: Looks::new(weights.len()),
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

    /// Whether a choice depends on the time.
    pub fn takes_time(&self) -> bool {
        let counts = matches!(&self.balancer, Balancer::ConsistentHash { overload_ppm, .. }
            if overload_ppm.is_some() && self.seats.len() > COUNTED_MAX);
        counts || self.slow_start.is_some() || matches!(self.balancer, Balancer::Ewma)
    }

    /// The endpoint that a sticky cookie names, by its place in the set.
    pub fn named_by(&self, token: Token) -> Option<u16> {
        self.tokens.find(token)
    }

    /// Takes a request in at that endpoint, perhaps as a probe; there may be no room any more.
    fn take(&self, at: u16) -> Option<Option<Option<Probe>>> {
        if self.guarded {
            return Some(self.get(at)?.take());
        }
        self.seat(at)?.state.begin();
        Some(Some(None))
    }

    /// The endpoints that could be picked but for a breaker or a bound, where there are any.
    fn well(&self) -> impl Iterator<Item = &Endpoint> {
        let panics = self.is_panicking();
        let weighted = self.endpoints.iter().filter(|endpoint| endpoint.weight > 0);
        weighted.filter(move |endpoint| self.guarded && (panics || endpoint.state.is_healthy()))
    }

    /// Why nothing was picked: what a client is told depends on it.
    fn refusal(&self) -> Refusal {
        let weighted = || self.endpoints.iter().filter(|endpoint| endpoint.weight > 0);
        if weighted().any(Endpoint::is_full) {
            return Refusal::Full;
        }
        let now = window::millis(Instant::now());
        let soonest = weighted()
            .filter_map(|endpoint| endpoint.refuses(now))
            .min();
        // places come and go: what is well and has room was full when it was not picked
        if self.well().any(|endpoint| endpoint.refuses(now).is_none()) {
            return Refusal::Full;
        }
        soonest.map_or(Refusal::Nobody, Refusal::Open)
    }

    fn seat(&self, at: u16) -> Option<&Seat> {
        self.seats.get(usize::from(at))
    }

    /// Whether requests may be sent to that endpoint. Breakers and bounds hold in a panic too.
    fn is_usable(&self, at: u16, panics: bool) -> bool {
        let Some(seat) = self.seat(at) else {
            return false;
        };
        let well = panics || seat.state.is_healthy();
        well && (!self.guarded || self.get(at).is_some_and(Endpoint::has_room))
    }

    fn choose(&self, choice: Choice<'_>) -> Option<u16> {
        let panics = self.is_panicking();
        let usable = |at: u16| self.is_usable(at, panics);
        let may = |at: u16| !choice.tried.contains(&at) && usable(at);
        let weighted = |at: u16| self.seat(at).is_some_and(|seat| seat.weight > 0);
        if self.seats.len() == 1 {
            return (weighted(0) && may(0)).then_some(0);
        }
        if let Some(at) = choice.sticky
            && weighted(at)
            && may(at)
        {
            return Some(at);
        }
        // the same key meets the same heights, so that it moves to an endpoint on its ramp once and for all
        let random = match (&self.balancer, choice.key) {
            (Balancer::ConsistentHash { .. }, Some(key)) => mix(key.0),
            _ => random::next(),
        };
        if let Some(window) = self.slow_start {
            let takes = |at: u16| {
                self.seat(at).is_some_and(|seat| {
                    let height = seat.state.height(choice.now, window);
                    height >= 1.0 || ramp::takes(height, mix(random ^ mix(u64::from(at))))
                })
            };
            let chosen = self.balanced(&choice, random, panics, |at| may(at) && takes(at));
            if chosen.is_some() {
                return chosen;
            }
        }
        self.balanced(&choice, random, panics, may)
    }

    fn balanced(
        &self,
        choice: &Choice<'_>,
        random: u64,
        panics: bool,
        may: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        match &self.balancer {
            // another try takes nobody's turn: the one that failed would come first for the next request too
            Balancer::RoundRobin(_) if !choice.tried.is_empty() => {
                self.shares.draw_where(random, may)
            }
            Balancer::RoundRobin(cycle) => cycle.pick(|| self.service.turn(), may),
            Balancer::Random => self.shares.draw_where(random, may),
            Balancer::LeastRequest => self.least_request(random, may),
            Balancer::Ewma => better(&self.shares, random, may, |first, second| {
                let expected = |at| self.expected(at, choice.now);
                expected(first).is_worse_than(expected(second))
            }),
            Balancer::ConsistentHash { ring, overload_ppm } => {
                let by_key = choice.key.and_then(|key| {
                    let load = Cell::new(None);
                    let full = |at| {
                        // who has nothing to do is not full, whatever the others have
                        let busy = self.seat(at).is_none_or(|seat| seat.state.in_flight() > 0);
                        overload_ppm.filter(|_| busy).is_some_and(|overload_ppm| {
                            let known = load.get().unwrap_or_else(|| self.load(choice.now, panics));
                            load.set(Some(known));
                            self.is_full(at, known, overload_ppm)
                        })
                    };
                    ring.pick(key, &may, full)
                });
                by_key.or_else(|| self.least_request(random, may))
            }
        }
    }

    fn least_request(&self, random: u64, may: impl Fn(u16) -> bool) -> Option<u16> {
        least_loaded(&self.shares, random, may, |at| {
            self.seat(at)
                .map_or((u32::MAX, 1), |seat| (seat.state.in_flight(), seat.weight))
        })
    }

    fn expected(&self, at: u16, now: u64) -> Expected {
        let seat = self.seat(at);
        Expected {
            average: seat.and_then(|seat| seat.state.latency().read(now)),
            in_flight: seat.map_or(u32::MAX, |seat| seat.state.in_flight()),
            weight: seat.map_or(1.0, |seat| f64::from(seat.weight) / self.mean_weight),
        }
    }

    fn is_full(&self, at: u16, load: Load, overload_ppm: u32) -> bool {
        self.seat(at)
            .is_none_or(|seat| load.fills(seat.state.in_flight(), seat.weight, overload_ppm))
    }

    /// What goes on at the endpoints that may be chosen, together.
    fn load(&self, now: u64, panics: bool) -> Load {
        let look = || {
            let mut load = Load {
                flying: 0,
                weight: 0,
            };
            for (at, seat) in (0..).zip(&self.seats) {
                if seat.weight > 0 && self.is_usable(at, panics) {
                    load.flying += u64::from(seat.state.in_flight());
                    load.weight += u64::from(seat.weight);
                }
            }
            load
        };
        match self.seats.len() <= COUNTED_MAX {
            true => look(),
            false => self.looks.load(now, self.service.changes(), look),
        }
    }
}

fn mean(weights: &[u32]) -> f64 {
    let weighted = weights.iter().filter(|weight| **weight > 0);
    let sum: u64 = weighted.clone().map(|weight| u64::from(*weight)).sum();
    sum.max(1) as f64 / weighted.count().max(1) as f64
}

/// An endpoint that was chosen for a try. The request counts as in flight there until it is answered, or this is
/// dropped.
pub struct Picked {
    set: Arc<Held>,
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
    pub fn set(&self) -> &Arc<Held> {
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
            endpoint.judge(probe, verdict, now);
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
        match ends {
            // what an endpoint is made of is not in the cache, and nobody waits for the place
            true if !self.set.guarded => {
                if let Some(seat) = self.set.seat(self.at) {
                    seat.state.end();
                }
            }
            true => {
                if let Some(endpoint) = self.endpoint() {
                    endpoint.end();
                }
            }
            false => {}
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
    use super::super::endpoint::{Connecting, Guards, Pooled};
    use super::super::service::{Maker, Placed};
    use super::super::wire::{Protocol, Wire};
    use super::super::{EndpointState, Place};
    use super::*;
    use crate::observe::metrics::Metrics;
    use crate::state::{Kept, State};
    use std::time::Duration;

    fn maker(state: &Arc<State>) -> Maker {
        let bounds = Connecting {
            wire: Wire::new("s", Protocol::Auto, None),
            steps: Default::default(),
            pool_idle: None,
            post_idle: None,
        };
        Maker::new("s", Balancing::default(), bounds, state, &Metrics::new())
            .ejecting(Outlier::default())
    }

    fn set_of(maker: &Maker, count: u16) -> Arc<Held> {
        let placed = |port| Placed {
            place: Place::Tcp(([127, 0, 0, 1], port).into()),
            weight: 1,
            name: None,
        };
        let endpoints = (1..=count).map(|port| maker.endpoint(placed(port)).unwrap());
        Held::new(maker.set(endpoints.collect()))
    }

    fn ends(set: &Arc<Held>, at: u16, outcome: Outcome, whole: bool) {
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
    fn whoever_finds_no_place_is_never_told_that_there_is_nobody() {
        let guards = Guards {
            in_flight: Some(1),
            ..Guards::default()
        };
        let set = set_of(&maker(&Arc::default()).guarded(guards), 1);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        match set.find(Choice::default()) {
                            Ok(picked) => drop(picked),
                            Err(refusal) => assert_eq!(refusal, Refusal::Full),
                        }
                    }
                });
            }
        });
    }

    /// What closes a connection may close the next one too: another try must not meet it within a moment.
    #[test]
    fn connections_that_are_to_be_new_share_no_pool_with_the_last_ones() {
        let set = set_of(&maker(&Arc::default()), 1);
        let endpoint = set.get(0).unwrap();
        let keys = (0..256).map(|_| endpoint.peer(None, Pooled::New, 0).group_key);
        let apart: std::collections::HashSet<_> = keys.collect();
        assert_eq!(apart.len(), 256);
    }

    #[test]
    fn whoever_connects_for_a_client_leaves_the_last_descriptors_and_health_checks_do_not() {
        let maker = maker(&Arc::default());
        let places = [
            Place::Tcp(([127, 0, 0, 1], 1).into()),
            Place::Unix("/tmp/app.sock".into()),
        ];
        for place in places {
            let is_local = matches!(place, Place::Unix(_));
            let placed = Placed {
                place,
                weight: 1,
                name: None,
            };
            let endpoint = maker.endpoint(placed).unwrap();
            for mut peer in [endpoint.peer(None, Pooled::Any, 0), endpoint.tunnel()] {
                assert!(peer.options.upstream_tcp_sock_tweak_hook.is_some());
                endpoint.bound(&mut peer, Default::default(), None, || None, None);
                // Pingora shows its own Unix sockets to no hook
                assert_eq!(peer.options.custom_l4.is_some(), is_local);
            }
            let probe = endpoint.probe(false);
            assert!(probe.options.upstream_tcp_sock_tweak_hook.is_none());
            assert!(probe.options.custom_l4.is_none());
        }
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
