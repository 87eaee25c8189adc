//! The endpoints of a service at one moment, and the choice among them.
//!
//! A set never changes; discovery puts another in its place ([`super::Service::replace`]). A request keeps the set that
//! it began with, so that places in it stay what they were from try to try. What goes on at an endpoint outlives both.

use super::balance::{Cycle, Shares, least_request};
use super::breaker::{Probe, Verdict};
use super::endpoint::Endpoint;
use super::service::{Balance, ServiceState};
use super::window;
use crate::observe::random;
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
            .filter(|endpoint| endpoint.state.is_healthy())
            .count();
        let panics = usable * 100 < weighted().count() * usize::from(self.panic_percent);
        // whoever finds another answer at the same time has seen a later change, and the next one looks again
        self.known.store(changes << 1 | u64::from(panics), Relaxed);
        panics
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
    /// Its place among the probes of the endpoint's breaker.
    probe: Option<Probe>,
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
        if std::mem::take(&mut self.in_flight)
            && let Some(endpoint) = self.endpoint()
        {
            endpoint.state.end();
        }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        if self.probe.is_some() {
            self.judge(Verdict::None, Instant::now());
        }
        self.answered();
    }
}
