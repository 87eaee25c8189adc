//! A service: endpoints that can answer for one another, and the choice among them.

use super::balance::{Balance, Balancing};
use super::breaker::{self, Admission, Breaker, Change, Probe, Stand, Verdict};
use super::budget::Budget;
use super::connections::Bounded;
use super::dial::Steps;
use super::endpoint::{Connecting, Endpoint, EndpointState, Guards, Place, Who};
use super::health::HealthCheck;
use super::health::rounds::Flights;
use super::outlier::{Ejections, Outlier, ejections};
use super::queue::Queue;
use super::retries::Retries;
use super::set::{Ejecting, EndpointSet, Held, Refusal, Shared};
use super::window;
use crate::observe::metrics::{Metrics, ServiceMetrics, Waits};
use crate::problem::{Kind, Problem};
use crate::state::{Identity, Kept, State, monotonic_nanos};
use ahash::AHashSet;
use arc_swap::ArcSwap;
use http::{HeaderValue, header};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst,
};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long the parts of an exchange may take; none is without bound. All are resolved at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Option<Duration>,
    /// For the TLS handshake; as long as `connect` where nothing is written.
    pub tls: Option<Option<Duration>>,
    /// From the request sent to the head of the answer.
    pub response_header: Option<Duration>,
    /// From the beginning of one try, connecting included, to the head of its answer.
    pub per_try: Option<Duration>,
    /// Between two reads or writes.
    pub idle: Option<Duration>,
    /// The same for upgrades, event streams and gRPC, which are silent for long.
    pub stream_idle: Option<Duration>,
    /// From the first byte of the request to the head of the final answer.
    pub total: Option<Duration>,
}

impl Timeouts {
    /// What holds where nothing is written (design 3.7).
    pub const DEFAULT: Self = Self {
        connect: Some(Duration::from_secs(3)),
        tls: None,
        response_header: Some(Duration::from_secs(30)),
        per_try: None,
        idle: Some(Duration::from_secs(30)),
        stream_idle: Some(Duration::from_secs(3600)),
        total: Some(Duration::from_secs(60)),
    };

    /// How long the steps to a connection may take.
    pub fn steps(&self) -> Steps {
        Steps {
            connect: self.connect,
            tls: self.tls.unwrap_or(self.connect),
        }
    }
}

/// What a narrower place says about time; what it leaves out is the wider place's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub connect: Option<Option<Duration>>,
    pub tls: Option<Option<Duration>>,
    pub response_header: Option<Option<Duration>>,
    pub per_try: Option<Option<Duration>>,
    pub idle: Option<Option<Duration>>,
    pub total: Option<Option<Duration>>,
}

impl Overrides {
    /// These, where they say something, else the wider ones.
    pub fn or(self, wider: Self) -> Self {
        Self {
            connect: self.connect.or(wider.connect),
            tls: self.tls.or(wider.tls),
            response_header: self.response_header.or(wider.response_header),
            per_try: self.per_try.or(wider.per_try),
            idle: self.idle.or(wider.idle),
            total: self.total.or(wider.total),
        }
    }
}

impl Timeouts {
    /// These, changed by a narrower place. An idle time that is written there is meant for its streams too.
    pub fn with(self, narrower: &Overrides) -> Self {
        Self {
            connect: narrower.connect.unwrap_or(self.connect),
            tls: narrower.tls.or(self.tls),
            response_header: narrower.response_header.unwrap_or(self.response_header),
            per_try: narrower.per_try.unwrap_or(self.per_try),
            idle: narrower.idle.unwrap_or(self.idle),
            stream_idle: narrower.idle.unwrap_or(self.stream_idle),
            total: narrower.total.unwrap_or(self.total),
        }
    }
}

/// What an endpoint is told in `Host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// What the client sent, canonical.
    Preserve,
    /// The endpoint's address.
    Endpoint,
    Value(HeaderValue),
}

/// What goes on at a service as a whole. It outlives snapshots: found by the service's name.
#[derive(Debug, Default)]
pub struct ServiceState {
    turn: Turn,
    /// How often an endpoint became usable, or ceased to be.
    changes: AtomicU64,
    /// Whether somebody is deciding on an ejection.
    deciding: AtomicBool,
    /// Health checks on their way.
    pub(super) flights: tokio::sync::Mutex<Flights>,
    /// Wakes the health checks: the endpoints have changed.
    pub(super) stirred: Notify,
    /// What repeating requests has cost.
    pub budget: Budget,
    breaker: Breaker,
    /// Whether the configuration in force has none.
    unbroken: AtomicBool,
    /// Requests in flight, counted where there is a bound.
    in_flight: AtomicU32,
    /// Requests that wait for a place.
    pub(super) queue: Queue,
    /// Requests that wait for a connection.
    connecting: AtomicU32,
    /// Whether there have been endpoints: one that comes later comes to a running set.
    running: AtomicBool,
}

/// The position of `round_robin`, in a cache line of its own: every choice writes it, and every choice reads what would
/// stand beside it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Turn(AtomicUsize);

impl ServiceState {
    pub(super) fn turn(&self) -> usize {
        self.turn.0.fetch_add(1, Relaxed)
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Relaxed);
    }

    /// Does what only one may do at a time. None if somebody else is at it; nobody waits.
    pub(super) fn decide<T>(&self, decision: impl FnOnce() -> T) -> Option<T> {
        use std::sync::atomic::Ordering::{Acquire, Release};
        if self.deciding.swap(true, Acquire) {
            return None;
        }
        let decided = decision();
        self.deciding.store(false, Release);
        Some(decided)
    }
}

impl Kept for ServiceState {
    fn export(&self) -> Option<serde_json::Value> {
        Some(self.turn.0.load(Relaxed).into())
    }

    fn restore(&self, exported: &serde_json::Value) {
        let position = exported
            .as_u64()
            .and_then(|turn| usize::try_from(turn).ok());
        if let Some(position) = position {
            self.turn.0.store(position, Relaxed);
        }
    }
}

/// What the endpoints of a service have in common, and what makes sets of them: at load, and whenever discovery finds
/// other addresses.
pub struct Maker {
    pub service: Arc<str>,
    pub balancing: Balancing,
    pub connecting: Connecting,
    /// The share of usable endpoints, in percent, below which health is ignored.
    pub panic_percent: u8,
    ejecting: Option<Arc<Ejecting>>,
    pub(super) ejections: Arc<Ejections>,
    pub state: Arc<State>,
    pub metrics: Arc<Metrics>,
    /// Of each endpoint.
    pub guards: Guards,
    /// The most connections to each endpoint.
    connections_max: Option<u32>,
    own: Arc<ServiceState>,
}

/// An address that a service is to have an endpoint at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub place: Place,
    pub weight: u32,
    /// The name that the address was found by, without a port.
    pub name: Option<Arc<str>>,
}

impl Maker {
    pub fn new(
        service: &str,
        balancing: Balancing,
        connecting: Connecting,
        state: &Arc<State>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let identity = Identity {
            kind: "service",
            place: service.into(),
            shape: "".into(),
        };
        Self {
            service: service.into(),
            balancing,
            connecting,
            panic_percent: PANIC_PERCENT,
            ejecting: None,
            ejections: ejections(state),
            own: state.adopt(identity, ServiceState::default),
            state: state.clone(),
            metrics: metrics.clone(),
            guards: Guards::default(),
            connections_max: None,
        }
    }

    /// The same, with so many connections to each endpoint at the most.
    pub fn connecting_at_most(self, connections_max: Option<u32>) -> Self {
        Self {
            connections_max,
            ..self
        }
    }

    /// Leaves out endpoints that fail. Nobody does where this is not said.
    pub fn ejecting(mut self, outlier: Outlier) -> Self {
        self.ejecting = Some(Arc::new(Ejecting {
            outlier,
            metrics: self.metrics.service(&self.service),
            ejections: self.ejections.clone(),
        }));
        self
    }

    /// When endpoints are left out because they fail.
    pub fn outlier(&self) -> Option<&Outlier> {
        self.ejecting.as_ref().map(|ejecting| &ejecting.outlier)
    }

    /// The same, with guards before each endpoint.
    pub fn guarded(self, guards: Guards) -> Self {
        Self { guards, ..self }
    }

    /// An endpoint, with what is going on there already.
    ///
    /// # Errors
    /// A Unix path that cannot be an address.
    pub fn endpoint(&self, placed: Placed) -> Result<Endpoint, Box<pingora_core::Error>> {
        let Placed {
            place,
            weight,
            name,
        } = placed;
        let identity = Identity {
            kind: "endpoint",
            place: format!("{}/{place}", self.service).into(),
            shape: "".into(),
        };
        let address = place.to_string();
        let metrics = self.metrics.endpoint(&self.service, &address);
        let who = Who {
            service: self.service.clone(),
            endpoint: address.into(),
            metrics: metrics.clone(),
        };
        let make = || {
            let state = EndpointState::new(self.own.clone(), who);
            if self.own.running.load(Relaxed) {
                state.begins(monotonic_nanos());
            }
            state
        };
        let state = self.state.adopt(identity, make);
        let connections = self.connections_max.map(|most| {
            let identity = Identity {
                kind: "connections",
                place: format!("{}/{place}", self.service).into(),
                shape: most.to_string().into(),
            };
            let make = || Bounded::new(most, metrics.clone());
            self.state.adopt(identity, make)
        });
        let mut endpoint = Endpoint::new(place, weight, state, metrics, &self.connecting)?;
        endpoint.measures = self.balancing.balance == Balance::Ewma;
        let endpoint = endpoint.guarded(self.guards).found_by(name);
        Ok(endpoint.with_connections(connections))
    }

    /// A set of these endpoints.
    pub fn set(&self, endpoints: Vec<Endpoint>) -> EndpointSet {
        if !endpoints.is_empty() {
            self.own.running.store(true, Relaxed);
        }
        EndpointSet::new(
            endpoints,
            &self.balancing,
            self.own.clone(),
            self.panic_percent,
        )
        .ejecting(self.ejecting.clone())
    }
}

/// The share of usable endpoints below which health is ignored, where nothing is written.
const PANIC_PERCENT: u8 = 50;

/// A named group of endpoints.
pub struct Service {
    pub name: Arc<str>,
    pub maker: Maker,
    set: ArcSwap<Shared>,
    /// It has no endpoints because discovery does not know any yet, or any more.
    unknown: AtomicBool,
    pub timeouts: Timeouts,
    pub host: Host,
    pub metrics: Arc<ServiceMetrics>,
    /// What the service says about body sizes; the default where it says nothing.
    pub body_limit: Option<u64>,
    /// The same of the messages of gRPC.
    pub message_limit: Option<u64>,
    /// What its endpoints are asked, to know whether they are well.
    pub health_check: Option<Arc<HealthCheck>>,
    pub retries: Arc<Retries>,
    /// Of the service as a whole.
    guards: Guards,
    /// How many requests may wait for a connection.
    connecting_max: u32,
}

/// How many requests of a service may wait for a connection, where nothing is written. Envoy's `max_pending_requests`.
const CONNECTING_MAX: u32 = 1024;

/// What a service is made of besides its endpoints.
pub struct Parts {
    pub health_check: Option<Arc<HealthCheck>>,
    pub timeouts: Timeouts,
    pub host: Host,
    pub body_limit: Option<u64>,
    pub message_limit: Option<u64>,
    pub retries: Retries,
    /// Of the service as a whole.
    pub guards: Guards,
    /// How many requests may wait for a connection, where those are bounded; the default where nothing is written.
    pub connecting_max: Option<u32>,
}

impl Service {
    pub fn new(maker: Maker, endpoints: Vec<Endpoint>, parts: Parts) -> Self {
        let metrics = maker.metrics.service(&maker.service);
        Self {
            name: maker.service.clone(),
            set: ArcSwap::from_pointee(Shared::new(maker.set(endpoints))),
            unknown: AtomicBool::new(false),
            metrics,
            retries: Arc::new(parts.retries),
            guards: parts.guards,
            connecting_max: parts.connecting_max.unwrap_or(CONNECTING_MAX),
            maker,
            timeouts: parts.timeouts,
            host: parts.host,
            body_limit: parts.body_limit,
            message_limit: parts.message_limit,
            health_check: parts.health_check,
        }
    }

    /// Whether each endpoint has been checked at least once, where there are checks.
    pub fn is_checked(&self) -> bool {
        self.health_check.as_ref().is_none_or(|check| {
            let begun = |endpoint: &Endpoint| {
                let state = &endpoint.state;
                state.checks(&check.shape, |checks| checks.has_begun())
            };
            self.set().endpoints().iter().all(begun)
        })
    }

    /// What goes on there as a whole.
    pub fn state(&self) -> &Arc<ServiceState> {
        &self.maker.own
    }

    /// Where its breaker stands; none if it has none.
    pub fn breaker(&self) -> Option<Stand> {
        self.guards.breaker?;
        let now = window::millis(Instant::now());
        Some(self.maker.own.breaker.stand(now))
    }

    /// Lets a request in, unless the service's own breaker or bound does not.
    ///
    /// # Errors
    /// What stands against it.
    pub fn admit(&self, now: Instant) -> Result<Admitted, Refusal> {
        let own = &self.maker.own;
        let guarded = self.guards.in_flight.or(self.guards.pending).is_some()
            || self.guards.breaker.is_some();
        let mut admitted = Admitted {
            own: guarded.then(|| own.clone()),
            counted: false,
            told: self.guards.pending.is_some(),
            probe: None,
        };
        if let Some(most) = self.guards.in_flight {
            // never beyond, not for a moment either: whoever waits would see no place where there is one
            let take = |taken| (taken < most).then_some(taken + 1);
            if own.in_flight.fetch_update(Relaxed, Relaxed, take).is_err() {
                return Err(Refusal::Full);
            }
            admitted.counted = true;
        }
        if let Some(settings) = &self.guards.breaker {
            match own.breaker.admit(settings, window::millis(now)) {
                Admission::Free => {}
                Admission::Probe(probe) => admitted.probe = Some((probe, *settings)),
                Admission::Refused(left) => return Err(Refusal::Open(left)),
            }
        }
        Ok(admitted)
    }

    /// Whether requests wait for a place, so that a new one would overtake them.
    pub fn is_queueing(&self) -> bool {
        self.guards.pending.is_some() && self.maker.own.queue.waiting() > 0
    }

    /// How many requests wait for a place; none where none may.
    pub fn pending(&self) -> Option<u32> {
        let own = &self.maker.own;
        let may = self.guards.pending.is_some() || self.maker.connections_max.is_some();
        may.then(|| own.queue.waiting() + own.connecting.load(Relaxed))
    }

    /// Counts a request that waits for a connection. None if too many do.
    pub fn waits_for_connection(&self) -> Option<WaitsForConnection<'_>> {
        let own = &self.maker.own;
        let beside = own.queue.waiting();
        let join = |waiting: u32| {
            let all = waiting.saturating_add(beside);
            (all < self.connecting_max).then_some(waiting + 1)
        };
        let joined = own.connecting.fetch_update(Relaxed, Relaxed, join);
        joined.ok().map(|_| WaitsForConnection {
            own,
            _counted: self.metrics.waits(),
        })
    }

    /// Waits for what `look` finds, where requests may wait.
    ///
    /// # Errors
    /// What stands against it.
    pub async fn wait<T>(
        &self,
        until: Instant,
        look: impl FnMut() -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let Some(most) = self.guards.pending else {
            return Err(Refusal::Full);
        };
        let _counted = self.metrics.waits();
        self.maker.own.queue.wait(most, until, look).await
    }

    /// Whether its own breaker lets nobody through.
    pub fn refuses(&self, now: Instant) -> bool {
        let settings = self.guards.breaker.as_ref();
        let own = &self.maker.own;
        settings
            .is_some_and(|settings| own.breaker.refuses(settings, window::millis(now)).is_some())
    }

    /// The configuration is in force from now on: what it does not protect any more is let through. Not when it is
    /// compiled, for it may still be refused.
    pub(super) fn takes_effect(&self) {
        let own = &self.maker.own;
        let breaks = self.guards.breaker.is_some();
        own.unbroken.store(!breaks, SeqCst);
        if !breaks {
            own.breaker.reset();
        }
        let open = own.breaker.stand(window::millis(Instant::now())) != Stand::Closed;
        self.metrics.set_breaker(breaks.then_some(open));
        let waits = self.guards.pending.is_some() || self.maker.connections_max.is_some();
        self.metrics.set_queue(waits);
        for endpoint in self.set().endpoints() {
            endpoint.takes_effect();
        }
    }

    /// Tells its breaker how a try of an admitted request ended.
    pub fn judge(&self, admitted: &mut Admitted, verdict: Verdict, now: Instant) {
        let Some(settings) = &self.guards.breaker else {
            return;
        };
        let probe = admitted.probe.take().map(|(probe, _)| probe);
        let change = self
            .maker
            .own
            .breaker
            .record(settings, probe, verdict, window::millis(now));
        match change {
            None => {}
            // the request began under a configuration that is gone
            Some(Change::Opened) if self.maker.own.unbroken.load(SeqCst) => {
                self.maker.own.breaker.reset();
            }
            Some(Change::Opened) => {
                self.metrics.set_breaker(Some(true));
                tracing::warn!(service = %self.name, open = ?settings.open, probe = probe.is_some(),
                    "the breaker of a service opens: too many tries failed");
            }
            Some(Change::Closed) => {
                self.metrics.set_breaker(Some(false));
                tracing::info!(service = %self.name,
                    "the breaker of a service closes: its probes were answered");
            }
        }
    }

    /// Says whether it has no endpoints because discovery has no answer.
    pub fn set_unknown(&self, unknown: bool) {
        self.unknown.store(unknown, Relaxed);
    }

    /// Why it has no endpoint for a request.
    pub fn lacks_endpoints(&self) -> Problem {
        match self.unknown.load(Relaxed) {
            true => Problem::new(Kind::UnreadyDiscovery)
                .header(header::RETRY_AFTER, HeaderValue::from_static("1")),
            false => Kind::UpstreamNone.into(),
        }
    }

    /// The endpoints of this moment. A request asks once.
    pub fn set(&self) -> Arc<Held> {
        self.set.load().here().clone()
    }

    /// Puts other endpoints in the place of these. Requests in flight keep the set that they began with, and what goes
    /// on at an endpoint that stays goes on.
    pub fn replace(&self, endpoints: Vec<Endpoint>) {
        let before = self.set();
        if !before.endpoints().is_empty() {
            // one that was there long ago may be remembered by a request in flight, and begins again all the same
            let places: AHashSet<&Place> =
                before.endpoints().iter().map(|one| &one.place).collect();
            let new = |endpoint: &&Endpoint| !places.contains(&endpoint.place);
            let now = monotonic_nanos();
            for endpoint in endpoints.iter().filter(new) {
                endpoint.state.begins(now);
            }
        }
        self.set
            .store(Arc::new(Shared::new(self.maker.set(endpoints))));
        self.maker.own.stirred.notify_one();
        self.maker.ejections.stirred.notify_one();
    }
}

/// A request that waits for a connection to an endpoint, until it is dropped.
pub struct WaitsForConnection<'s> {
    own: &'s ServiceState,
    _counted: Waits<'s>,
}

impl Drop for WaitsForConnection<'_> {
    fn drop(&mut self) {
        self.own.connecting.fetch_sub(1, Relaxed);
    }
}

/// A request that a service has let in: its place among those in flight until it is dropped, and perhaps one among the
/// probes of its breaker until it is judged.
#[derive(Debug)]
pub struct Admitted {
    /// None where there is nothing to give back: all requests would count themselves at one place.
    own: Option<Arc<ServiceState>>,
    counted: bool,
    /// Whether those who wait hear of the place when it is given back.
    told: bool,
    probe: Option<(Probe, breaker::Settings)>,
}

impl Admitted {
    /// Gives the place back as if it had not been taken: whoever waits has seen that it is of no use to it.
    pub fn undo(mut self) {
        self.told = false;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let Some(own) = &self.own else { return };
        if self.counted {
            own.in_flight.fetch_sub(1, Relaxed);
            if self.told {
                own.queue.freed();
            }
        }
        if let Some((probe, settings)) = self.probe.take() {
            let now = window::millis(Instant::now());
            let _ = own
                .breaker
                .record(&settings, Some(probe), Verdict::None, now);
        }
    }
}
