//! One address of a service, and what is going on there.

use super::health::Checks;
use super::outcome::Observed;
use super::outlier::{Ejected, Tally};
use super::service::ServiceState;
use crate::observe::metrics::EndpointMetrics;
use crate::state::Kept;
use http::HeaderValue;
use parking_lot::Mutex;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

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

impl Bar {
    const ALL: [Bar; 3] = [Bar::Open, Bar::Ejected, Bar::Unhealthy];

    fn word(self) -> &'static str {
        match self {
            Bar::Unhealthy => "unhealthy",
            Bar::Ejected => "ejected",
            Bar::Open => "open",
        }
    }
}

/// What a set of bars is called: `up`, or each of them.
fn words(bars: u8) -> String {
    let down = Bar::ALL.iter().filter(|bar| bars & **bar as u8 != 0);
    let words: Vec<&str> = down.map(|bar| bar.word()).collect();
    match words.is_empty() {
        true => "up".to_owned(),
        false => words.join(", "),
    }
}

/// Whose state it is, for logs and metrics.
pub(super) struct Who {
    pub service: Arc<str>,
    pub endpoint: Arc<str>,
    pub metrics: Arc<EndpointMetrics>,
}

/// Why an endpoint is as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `up`, or what speaks against choosing it: `unhealthy`, `ejected`, `open`, or several of them.
    pub state: String,
    /// Why it was last left out, or taken in again. None while nothing has happened.
    pub reason: Option<Arc<str>>,
    /// When that was.
    pub since: Option<SystemTime>,
}

/// The last change of state.
#[derive(Debug, Default)]
struct Change {
    reason: Option<Arc<str>>,
    at: Option<SystemTime>,
}

/// What goes on at an endpoint. It outlives snapshots: found by service and address.
pub struct EndpointState {
    in_flight: AtomicU32,
    /// The [`Bar`]s that are down.
    bars: AtomicU8,
    service: Arc<ServiceState>,
    who: Who,
    changed: Mutex<Change>,
    checks: Mutex<Checks>,
    /// What ejections are decided by.
    pub(super) tally: Tally,
}

impl fmt::Debug for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.who.endpoint, self.standing().state)
    }
}

impl EndpointState {
    pub(super) fn new(service: Arc<ServiceState>, who: Who) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            bars: AtomicU8::new(0),
            service,
            who,
            changed: Mutex::default(),
            checks: Mutex::default(),
            tally: Tally::default(),
        }
    }

    /// What it is called, why, and since when.
    pub fn standing(&self) -> Standing {
        let changed = self.changed.lock();
        Standing {
            state: words(self.bars.load(Ordering::Relaxed)),
            reason: changed.reason.clone(),
            since: changed.at,
        }
    }

    /// Looks at, or changes, what checks of this shape have found.
    pub fn checks<T>(&self, shape: &Arc<str>, look: impl FnOnce(&mut Checks) -> T) -> T {
        look(self.checks.lock().of(shape))
    }

    /// Forgets what checks have found: there are none any more.
    pub(super) fn forget_checks(&self) {
        *self.checks.lock() = Checks::default();
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

    /// Leaves it out, for a reason that log and status tell. Tells whether that is news.
    pub fn bar(&self, bar: Bar, reason: impl fmt::Display) -> bool {
        // held, so that log lines stand in the order of the changes
        let mut changed = self.changed.lock();
        let before = self.bars.fetch_or(bar as u8, Ordering::Relaxed);
        let news = self.settle(before, before | bar as u8);
        if news {
            self.tell(&mut changed, before, before | bar as u8, &reason);
        }
        news
    }

    /// Takes it in again, as far as this bar goes, for a reason that log and status tell. Tells whether that is news.
    pub fn admit(&self, bar: Bar, reason: impl fmt::Display) -> bool {
        if !self.is_barred_by(bar) {
            return false;
        }
        let mut changed = self.changed.lock();
        let before = self.bars.fetch_and(!(bar as u8), Ordering::Relaxed);
        let news = self.settle(before, before & !(bar as u8));
        if news {
            self.tell(&mut changed, before, before & !(bar as u8), &reason);
        }
        news
    }

    /// Says that the health of its service's endpoints is ignored from now on, or looked at again.
    pub(super) fn tell_panic(&self, panics: bool, usable: usize) {
        let service = &*self.who.service;
        match panics {
            true => tracing::warn!(
                service,
                usable,
                "too few endpoints are usable: all of them are asked"
            ),
            false => tracing::info!(service, usable, "enough endpoints are usable again"),
        }
    }

    /// Says everywhere that the state has changed.
    fn tell(&self, changed: &mut Change, before: u8, after: u8, reason: &dyn fmt::Display) {
        let text = reason.to_string();
        let (service, endpoint) = (&*self.who.service, &*self.who.endpoint);
        let (from, to) = (words(before), words(after));
        self.who.metrics.set_up(after == 0);
        match after & !before {
            0 => tracing::info!(
                service,
                endpoint,
                from,
                to,
                reason = text,
                "an endpoint is taken in again"
            ),
            _ => tracing::warn!(
                service,
                endpoint,
                from,
                to,
                reason = text,
                "an endpoint is left out"
            ),
        }
        *changed = Change {
            reason: Some(text.into()),
            at: Some(SystemTime::now()),
        };
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

/// What the next process has to know; requests in flight stay with the process that serves them.
#[derive(Serialize, Deserialize)]
struct Exported {
    bars: u8,
    checks: Checks,
    ejected: Option<Ejected>,
    reason: Option<Arc<str>>,
    since: Option<SystemTime>,
}

impl Kept for EndpointState {
    fn export(&self) -> Option<serde_json::Value> {
        let changed = self.changed.lock();
        let exported = Exported {
            // a breaker finds out anew
            bars: self.bars.load(Ordering::Relaxed) & (Bar::Unhealthy as u8 | Bar::Ejected as u8),
            checks: self.checks.lock().clone(),
            ejected: self.tally.export(),
            reason: changed.reason.clone(),
            since: changed.at,
        };
        serde_json::to_value(exported).ok()
    }

    fn restore(&self, exported: &serde_json::Value) {
        let Ok(exported) = Exported::deserialize(exported) else {
            return;
        };
        let bars = exported.bars & (Bar::Unhealthy as u8 | Bar::Ejected as u8);
        self.bars.store(bars, Ordering::Relaxed);
        *self.checks.lock() = exported.checks;
        if let Some(ejected) = &exported.ejected {
            self.tally.restore(ejected);
        }
        *self.changed.lock() = Change {
            reason: exported.reason,
            at: exported.since,
        };
        self.who.metrics.set_up(bars == 0);
        self.service.changed();
    }
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
