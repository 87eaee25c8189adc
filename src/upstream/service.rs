//! A service: endpoints that can answer for one another, and the choice among them.

use super::endpoint::{Connecting, Endpoint, EndpointState, Place};
use super::set::EndpointSet;
use crate::observe::metrics::{Metrics, ServiceMetrics};
use crate::problem::{Kind, Problem};
use crate::state::{Identity, Kept, State};
use arc_swap::ArcSwap;
use http::{HeaderValue, header};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// How long the parts of an exchange may take; none is without bound. All are resolved at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Option<Duration>,
    /// From the request sent to the head of the answer.
    pub response_header: Option<Duration>,
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
        response_header: Some(Duration::from_secs(30)),
        idle: Some(Duration::from_secs(30)),
        stream_idle: Some(Duration::from_secs(3600)),
        total: Some(Duration::from_secs(60)),
    };
}

/// What a narrower place says about time; what it leaves out is the wider place's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub connect: Option<Option<Duration>>,
    pub response_header: Option<Option<Duration>>,
    pub idle: Option<Option<Duration>>,
    pub total: Option<Option<Duration>>,
}

impl Overrides {
    /// These, where they say something, else the wider ones.
    pub fn or(self, wider: Self) -> Self {
        Self {
            connect: self.connect.or(wider.connect),
            response_header: self.response_header.or(wider.response_header),
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
            response_header: narrower.response_header.unwrap_or(self.response_header),
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
    /// The position of `round_robin`.
    turn: AtomicUsize,
    /// How often an endpoint became usable, or ceased to be.
    changes: AtomicU64,
}

impl ServiceState {
    pub(super) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Relaxed)
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Relaxed);
    }
}

impl Kept for ServiceState {
    fn export(&self) -> Option<serde_json::Value> {
        Some(self.turn.load(Relaxed).into())
    }

    fn restore(&self, exported: &serde_json::Value) {
        let position = exported
            .as_u64()
            .and_then(|turn| usize::try_from(turn).ok());
        if let Some(position) = position {
            self.turn.store(position, Relaxed);
        }
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastRequest,
}

/// What the endpoints of a service have in common, and what makes sets of them: at load, and whenever discovery finds
/// other addresses.
pub struct Maker {
    pub service: Arc<str>,
    pub balance: Balance,
    pub connecting: Connecting,
    /// The share of usable endpoints, in percent, below which health is ignored.
    pub panic_percent: u8,
    pub state: Arc<State>,
    pub metrics: Arc<Metrics>,
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
        balance: Balance,
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
            balance,
            connecting,
            panic_percent: PANIC_PERCENT,
            own: state.adopt(identity, ServiceState::default),
            state: state.clone(),
            metrics: metrics.clone(),
        }
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
        let make = || EndpointState::new(self.own.clone());
        let state = self.state.adopt(identity, make);
        let metrics = self.metrics.endpoint(&self.service, &place.to_string());
        let endpoint = Endpoint::new(place, weight, state, metrics, self.connecting)?;
        Ok(endpoint.found_by(name))
    }

    /// A set of these endpoints.
    pub fn set(&self, endpoints: Vec<Endpoint>) -> EndpointSet {
        EndpointSet::new(
            endpoints,
            self.balance,
            self.own.clone(),
            self.panic_percent,
        )
    }
}

/// The share of usable endpoints below which health is ignored, where nothing is written.
const PANIC_PERCENT: u8 = 50;

/// A named group of endpoints.
pub struct Service {
    pub name: Arc<str>,
    pub maker: Maker,
    set: ArcSwap<EndpointSet>,
    /// It has no endpoints because discovery does not know any yet, or any more.
    unknown: AtomicBool,
    pub timeouts: Timeouts,
    pub host: Host,
    pub metrics: Arc<ServiceMetrics>,
    /// What the service says about body sizes; the default where it says nothing.
    pub body_limit: Option<u64>,
}

/// What a service is made of besides its endpoints.
pub struct Parts {
    pub timeouts: Timeouts,
    pub host: Host,
    pub body_limit: Option<u64>,
}

impl Service {
    pub fn new(maker: Maker, endpoints: Vec<Endpoint>, parts: Parts) -> Self {
        Self {
            name: maker.service.clone(),
            set: ArcSwap::from_pointee(maker.set(endpoints)),
            unknown: AtomicBool::new(false),
            metrics: maker.metrics.service(&maker.service),
            maker,
            timeouts: parts.timeouts,
            host: parts.host,
            body_limit: parts.body_limit,
        }
    }

    /// The endpoints of this moment. A request asks once.
    pub fn set(&self) -> Arc<EndpointSet> {
        self.set.load_full()
    }

    /// Puts other endpoints in the place of these. Requests in flight keep the set that they began with, and what goes
    /// on at an endpoint that stays goes on.
    pub fn replace(&self, endpoints: Vec<Endpoint>) {
        self.set.store(Arc::new(self.maker.set(endpoints)));
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
}
