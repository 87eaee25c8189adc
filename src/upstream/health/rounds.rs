//! The checks of one service, again and again, for as long as its snapshot lasts.
//!
//! Checks on their way are held by the service's state, and are not tasks of their own: a reload replaces whoever waits
//! for them, and they go on. So a storm of reloads neither cuts a slow check short again and again nor starts it anew.
//! They hold nothing of the service, or it could never be given up.

use super::probe::probe;
use super::{Checks, HealthCheck};
use crate::observe::random;
use crate::state::monotonic_nanos;
use crate::upstream::endpoint::{Bar, Endpoint};
use crate::upstream::{Held, Service};
use ahash::{AHashMap, AHashSet};
use futures::FutureExt;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Checks of one service that are on their way at once. A service with more endpoints has the others wait for the time
/// of a check at most.
const FLIGHTS_MAX: usize = 1024;

/// The longest sleep, whatever is due.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// Checks on their way.
#[derive(Default)]
pub struct Flights {
    /// Of which check they are.
    shape: Arc<str>,
    flying: FuturesUnordered<BoxFuture<'static, Landed>>,
    /// The endpoints that are being asked, by name.
    asked: AHashSet<Arc<str>>,
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.asked).finish()
    }
}

/// A check that has ended.
struct Landed {
    endpoint: Arc<str>,
    result: Result<(), String>,
}

impl Flights {
    /// Those of this check; others are given up.
    fn of(&mut self, shape: &Arc<str>) {
        if self.shape != *shape {
            *self = Self {
                shape: shape.clone(),
                ..Self::default()
            };
        }
    }

    fn begin(&mut self, endpoint: &Endpoint, check: &Arc<HealthCheck>) {
        let (name, check) = (endpoint.name.clone(), check.clone());
        let (peer, authority) = (
            endpoint.probe(check.port.is_some()),
            endpoint.authority().clone(),
        );
        self.asked.insert(name.clone());
        let flight = async move {
            // a panic would take the others along
            let asked = std::panic::AssertUnwindSafe(probe(peer, authority, &check));
            let result = asked.catch_unwind().await;
            Landed {
                endpoint: name,
                result: result.unwrap_or_else(|_| Err("the check panicked".to_owned())),
            }
        };
        self.flying.push(flight.boxed());
    }
}

/// What is due when, for the endpoints of one set.
struct Schedule {
    set: Arc<Held>,
    places: AHashMap<Arc<str>, u16>,
    /// By time and place; an endpoint that is being asked has none.
    due: BTreeSet<(u64, u16)>,
}

impl Schedule {
    fn new(set: Arc<Held>, check: &HealthCheck, flights: &Flights) -> Self {
        let places: AHashMap<Arc<str>, u16> = (0_u16..)
            .zip(set.endpoints())
            .map(|(at, endpoint)| (endpoint.name.clone(), at))
            .collect();
        let waiting = (0_u16..)
            .zip(set.endpoints())
            .filter(|(_, endpoint)| !flights.asked.contains(&endpoint.name));
        let due = waiting
            .map(|(at, endpoint)| {
                (
                    endpoint.state.checks(&check.shape, |checks| checks.due()),
                    at,
                )
            })
            .collect();
        Self { set, places, due }
    }

    /// Begins what is due, as far as there is room. Tells how long nothing else will be.
    fn begin(&mut self, now: u64, check: &Arc<HealthCheck>, flights: &mut Flights) -> Duration {
        while flights.asked.len() < FLIGHTS_MAX {
            let Some((due, at)) = self.due.pop_first() else {
                return SLEEP_MAX;
            };
            if due > now {
                self.due.insert((due, at));
                return Duration::from_nanos(due - now).min(SLEEP_MAX);
            }
            if let Some(endpoint) = self.set.get(at) {
                let next = check.next_due(now, random::next());
                let state = &endpoint.state;
                state.checks(&check.shape, |checks| checks.begins(next));
                flights.begin(endpoint, check);
            }
        }
        // the next to land makes room
        SLEEP_MAX
    }

    /// Takes in what a check has found.
    fn take(&mut self, landed: &Landed, service: &Service, check: &HealthCheck) {
        let Some(at) = self.places.get(&landed.endpoint).copied() else {
            // it left the service meanwhile
            return;
        };
        let Some(endpoint) = self.set.get(at) else {
            return;
        };
        service.metrics.checked(landed.result.is_ok());
        if let Err(reason) = &landed.result {
            let (service, endpoint) = (&*service.name, &*landed.endpoint);
            tracing::debug!(service, endpoint, reason, "a health check failed");
        }
        let take = |checks: &mut Checks| {
            let news = checks.take(landed.result.is_ok(), check.thresholds);
            (news, checks.due())
        };
        let (news, due) = endpoint.state.checks(&check.shape, take);
        self.due.insert((due, at));
        match (news, &landed.result) {
            (Some(true), _) => {
                endpoint
                    .state
                    .admit(Bar::Unhealthy, "it passes its health checks");
            }
            (Some(false), Err(reason)) => {
                endpoint.state.bar(Bar::Unhealthy, reason);
            }
            _ => {}
        }
    }
}

/// Checks the endpoints of a service, those of the moment, without end.
pub async fn run(service: &Service, check: &Arc<HealthCheck>) {
    let state = service.state();
    // whoever waited for them before has gone, or is about to
    let mut flights = state.flights.lock().await;
    flights.of(&check.shape);
    let mut schedule = Schedule::new(service.set(), check, &flights);
    loop {
        let set = service.set();
        if !Arc::ptr_eq(&set, &schedule.set) {
            schedule = Schedule::new(set, check, &flights);
        }
        let idle = schedule.begin(monotonic_nanos(), check, &mut flights);
        tokio::select! {
            Some(landed) = flights.flying.next() => {
                flights.asked.remove(&landed.endpoint);
                schedule.take(&landed, service, check);
            }
            () = tokio::time::sleep(idle) => {}
            () = state.stirred.notified() => {}
        }
    }
}
