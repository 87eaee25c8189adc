//! The endpoints of a service at one moment, and the choice among them.
//!
//! A set never changes; discovery puts another in its place ([`super::Service::replace`]). A request keeps the set that
//! it began with, so that places in it stay what they were from try to try. What goes on at an endpoint outlives both.

use super::balance::bound::{Load, Looks};
use super::balance::latency::Expected;
use super::balance::sticky::{Token, Tokens};
use super::balance::two::{better, least_loaded};
use super::balance::{Balance, Balancer, Balancing, Cycle, Key, Ring, Shares, ramp};
use super::endpoint::{Endpoint, EndpointState};
use super::service::ServiceState;
use crate::observe::random::{self, mix};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

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
            endpoints: endpoints.into(),
            balancer,
            slow_start: balancing.slow_start,
            tokens,
            looks: Looks::new(weights.len()),
            service,
            panic_percent,
            known: AtomicU64::new(u64::MAX),
        }
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
            .filter(|endpoint| endpoint.state.is_usable())
            .count();
        let panics = usable * 100 < weighted().count() * usize::from(self.panic_percent);
        // whoever finds another answer at the same time has seen a later change, and the next one looks again
        self.known.store(changes << 1 | u64::from(panics), Relaxed);
        panics
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

    /// Chooses an endpoint that has not been tried and that is usable.
    pub fn pick(self: &Arc<Self>, choice: Choice<'_>) -> Option<Picked> {
        let at = self.choose(choice)?;
        self.seat(at)?.state.begin();
        Some(Picked {
            set: self.clone(),
            at,
            in_flight: true,
        })
    }

    fn seat(&self, at: u16) -> Option<&Seat> {
        self.seats.get(usize::from(at))
    }

    fn choose(&self, choice: Choice<'_>) -> Option<u16> {
        let panics = self.is_panicking();
        let usable = |at: u16| {
            self.seat(at)
                .is_some_and(|seat| panics || seat.state.is_usable())
        };
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
                        overload_ppm.is_some_and(|overload_ppm| {
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
            for seat in self.seats.iter().filter(|seat| seat.weight > 0) {
                if panics || seat.state.is_usable() {
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
    set: Arc<EndpointSet>,
    at: u16,
    in_flight: bool,
}

impl Picked {
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

    /// The endpoint has sent its whole answer: what is left to do is not its work.
    pub fn answered(&mut self) {
        if std::mem::take(&mut self.in_flight)
            && let Some(endpoint) = self.endpoint()
        {
            endpoint.state.end();
        }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.answered();
    }
}
