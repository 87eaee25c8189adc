//! One address of a service, and what is going on there.

use super::outcome::Observed;
use super::service::ServiceState;
use crate::observe::metrics::EndpointMetrics;
use crate::state::Kept;
use http::HeaderValue;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

const LOCALHOST: HeaderValue = HeaderValue::from_static("localhost");

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp(address) => address.fmt(f),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why an endpoint is not chosen, as bits of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bar {
    /// Active checks find it unhealthy.
    Unhealthy = 1,
    /// It failed too many requests, and is left out for a while.
    Ejected = 2,
    /// Its breaker is open.
    Open = 4,
}

/// What goes on at an endpoint. It outlives snapshots: found by service and address.
#[derive(Debug)]
pub struct EndpointState {
    in_flight: AtomicU32,
    /// The [`Bar`]s that are down.
    bars: AtomicU8,
    service: Arc<ServiceState>,
}

impl EndpointState {
    pub(super) fn new(service: Arc<ServiceState>) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            bars: AtomicU8::new(0),
            service,
        }
    }

    /// Requests that were sent there, or are about to be, and are not finished.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether nothing speaks against sending requests there.
    pub fn is_usable(&self) -> bool {
        self.bars.load(Ordering::Relaxed) == 0
    }

    /// Whether this speaks against it.
    pub fn is_barred_by(&self, bar: Bar) -> bool {
        self.bars.load(Ordering::Relaxed) & bar as u8 != 0
    }

    /// Leaves it out. Tells whether that is news.
    pub fn bar(&self, bar: Bar) -> bool {
        let before = self.bars.fetch_or(bar as u8, Ordering::Relaxed);
        self.settle(before, before | bar as u8)
    }

    /// Takes it in again, as far as this bar goes. Tells whether that is news.
    pub fn admit(&self, bar: Bar) -> bool {
        let before = self.bars.fetch_and(!(bar as u8), Ordering::Relaxed);
        self.settle(before, before & !(bar as u8))
    }

    fn settle(&self, before: u8, after: u8) -> bool {
        if (before == 0) != (after == 0) {
            self.service.changed();
        }
        before != after
    }

    /// A request is going to be sent there. An [`end`](Self::end) follows each.
    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Kept for EndpointState {
    fn export(&self) -> Option<serde_json::Value> {
        // requests in flight stay with the process that serves them
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

/// One address of a service.
pub struct Endpoint {
    pub place: Place,
    /// The address as text, for logs, metrics and `host_header: endpoint`.
    pub name: Arc<str>,
    pub weight: u32,
    pub state: Arc<EndpointState>,
    /// Keeps its series alive.
    pub metrics: Arc<EndpointMetrics>,
    authority: HeaderValue,
    /// What a request's peer is copied from: made at load, timeouts of the service included.
    template: HttpPeer,
}

/// What bounds the connections to an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Connecting {
    /// Until TCP, and then until TLS, is established.
    pub connect: Option<Duration>,
    /// How long an unused connection is kept.
    pub pool_idle: Option<Duration>,
}

impl Endpoint {
    /// # Errors
    /// A Unix path that cannot be an address.
    pub fn new(
        place: Place,
        weight: u32,
        state: Arc<EndpointState>,
        metrics: Arc<EndpointMetrics>,
        bounds: Connecting,
    ) -> Result<Self, Box<pingora_core::Error>> {
        let mut template = match &place {
            Place::Tcp(address) => HttpPeer::new(*address, false, String::new()),
            Place::Unix(path) => HttpPeer::new_uds(&path.to_string_lossy(), false, String::new())?,
        };
        let options = &mut template.options;
        options.connection_timeout = bounds.connect;
        options.total_connection_timeout = bounds.connect.map(|connect| connect * 2);
        options.idle_timeout = bounds.pool_idle;
        // a head goes through `client::remove_hop_by_hop_upstream` instead, which removes the same
        options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
        let name = place.to_string();
        let authority = match &place {
            // an address is a valid value
            Place::Tcp(_) => HeaderValue::try_from(&name).unwrap_or(LOCALHOST),
            Place::Unix(_) => LOCALHOST,
        };
        Ok(Self {
            name: name.into(),
            authority,
            place,
            weight,
            state,
            metrics,
            template,
        })
    }

    /// What the endpoint calls itself in `Host`; a Unix socket has no name.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Takes note of how a try ended.
    pub fn observe(&self, _observed: Observed) {}

    /// A peer for one try. `idle` bounds each read and each write.
    pub fn peer(&self, idle: Option<Duration>) -> Box<HttpPeer> {
        let mut peer = Box::new(self.template.clone());
        peer.options.read_timeout = idle;
        peer.options.write_timeout = idle;
        peer
    }
}
