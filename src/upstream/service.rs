//! A service: endpoints that can answer for one another, and the choice among them.

use super::balance::{Cycle, Shares, least_request};
use super::endpoint::Endpoint;
use crate::observe::metrics::ServiceMetrics;
use crate::observe::random;
use crate::state::Kept;
use http::HeaderValue;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// The position of `round_robin`, which goes on over reloads.
#[derive(Debug, Default)]
pub struct Turn(AtomicUsize);

impl Turn {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl Kept for Turn {
    fn export(&self) -> Option<serde_json::Value> {
        Some(self.0.load(Ordering::Relaxed).into())
    }

    fn restore(&self, exported: &serde_json::Value) {
        let position = exported
            .as_u64()
            .and_then(|turn| usize::try_from(turn).ok());
        if let Some(position) = position {
            self.0.store(position, Ordering::Relaxed);
        }
    }
}

/// How an endpoint is chosen.
pub enum Balancer {
    RoundRobin { cycle: Cycle, turn: Arc<Turn> },
    LeastRequest(Shares),
}

/// A named group of endpoints.
pub struct Service {
    pub name: Arc<str>,
    pub endpoints: Box<[Endpoint]>,
    pub balancer: Balancer,
    pub timeouts: Timeouts,
    pub host: Host,
    pub metrics: Arc<ServiceMetrics>,
    /// What the service says about body sizes; the default where it says nothing.
    pub body_limit: Option<u64>,
}

/// An endpoint that was chosen for a try. The request counts as in flight there until it is answered, or this is
/// dropped.
pub struct Picked {
    pub service: Arc<Service>,
    at: u16,
    in_flight: bool,
}

impl Picked {
    /// The endpoint's place in its service.
    pub fn at(&self) -> u16 {
        self.at
    }

    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.service.endpoints.get(usize::from(self.at))
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

impl Service {
    /// Chooses an endpoint that is not in `tried`.
    pub fn pick(self: &Arc<Self>, tried: &[u16]) -> Option<Picked> {
        let at = match &*self.endpoints {
            [] => return None,
            [only] if only.weight > 0 && tried.is_empty() => 0,
            _ => self.choose(tried)?,
        };
        self.endpoints.get(usize::from(at))?.state.begin();
        Some(Picked {
            service: self.clone(),
            at,
            in_flight: true,
        })
    }

    fn choose(&self, tried: &[u16]) -> Option<u16> {
        let may = |at: u16| !tried.contains(&at);
        match &self.balancer {
            Balancer::RoundRobin { cycle, turn } => cycle.pick(turn.next(), may),
            Balancer::LeastRequest(shares) => {
                least_request(shares, random::next(), may, |at| self.load(at))
            }
        }
    }

    fn load(&self, at: u16) -> (u32, u32) {
        let endpoint = self.endpoints.get(usize::from(at));
        endpoint.map_or((u32::MAX, 1), |endpoint| {
            (endpoint.state.in_flight(), endpoint.weight)
        })
    }
}
