//! One address of a service, and what is going on there.

use super::balance::latency::Latency;
use super::balance::ramp;
use super::breaker::{self, Breaker, Probe, Stand, Verdict};
use super::connections::{Bounded, Current, Hand};
use super::dial::{self, Dialer, Steps};
use super::health::Checks;
use super::outcome::Observed;
use super::outlier::{Ejected, Tally};
use super::proxy_protocol::Parties;
use super::reserve;
use super::service::ServiceState;
use super::window;
use super::wire::Wire;
use crate::observe::metrics::EndpointMetrics;
use crate::state::{Kept, monotonic_nanos};
use http::HeaderValue;
use parking_lot::Mutex;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

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

/// What a choice looks at, in one cache line: of large sets, each would be fetched from afar. It is the endpoint's own:
/// threads that choose others shall not wait for those that count here.
#[derive(Default)]
#[repr(C, align(64))]
struct Seen {
    in_flight: AtomicU32,
    /// The [`Bar`]s that are down.
    bars: AtomicU8,
    /// When it became usable, in monotonic nanoseconds; 0 if it has been since the service began.
    usable_since: AtomicU64,
    latency: Latency,
}

/// What goes on at an endpoint. It outlives snapshots: found by service and address.
pub struct EndpointState {
    seen: Seen,
    /// Under TLS it has last chosen HTTP/1.1, though it was offered HTTP/2.
    speaks_http1: AtomicBool,
    /// How often a connection of HTTP/2 was given up because it was silent.
    silences: AtomicU32,
    /// How often a new connection was made because one that had been kept was closed.
    renewed: AtomicU32,
    /// Whether the configuration in force has a breaker for it.
    breaks: AtomicBool,
    pub(super) breaker: Breaker,
    /// Its connections, where they are bounded.
    connections: Current,
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
            seen: Seen::default(),
            breaker: Breaker::default(),
            connections: Current::default(),
            speaks_http1: AtomicBool::new(false),
            silences: AtomicU32::new(0),
            renewed: AtomicU32::new(0),
            breaks: AtomicBool::new(true),
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
            state: words(self.seen.bars.load(Ordering::Relaxed)),
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
        self.seen.in_flight.load(Ordering::Relaxed)
    }

    /// Whether nothing speaks against sending requests there.
    pub fn is_usable(&self) -> bool {
        self.seen.bars.load(Ordering::Relaxed) == 0
    }

    /// Whether nothing is known against its health; its breaker may still be open.
    pub fn is_healthy(&self) -> bool {
        self.seen.bars.load(Ordering::Relaxed) & !(Bar::Open as u8) == 0
    }

    /// Whether this speaks against it.
    pub fn is_barred_by(&self, bar: Bar) -> bool {
        self.seen.bars.load(Ordering::Relaxed) & bar as u8 != 0
    }

    /// Leaves it out, for a reason that log and status tell. Tells whether that is news.
    pub fn bar(&self, bar: Bar, reason: impl fmt::Display) -> bool {
        // held, so that log lines stand in the order of the changes
        let mut changed = self.changed.lock();
        let before = self.seen.bars.fetch_or(bar as u8, Ordering::Relaxed);
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
        let before = self.seen.bars.fetch_and(!(bar as u8), Ordering::Relaxed);
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
        if before != 0 && after == 0 {
            self.begins(monotonic_nanos());
        }
        // the breaker's bar says nothing about health, and each counts by itself
        let differs = |mask: u8| (before & mask == 0) != (after & mask == 0);
        if differs(u8::MAX) || differs(!(Bar::Open as u8)) {
            self.service.changed();
        }
        before != after
    }

    /// It gets requests from now on, and its share grows from now on where the service starts its endpoints slowly.
    pub(super) fn begins(&self, now: u64) {
        self.seen.usable_since.store(now.max(1), Ordering::Relaxed);
    }

    /// The part of its share that it gets while it starts, up to 1; `window` is how long that takes.
    pub fn height(&self, now: u64, window: Duration) -> f64 {
        ramp::height(self.seen.usable_since.load(Ordering::Relaxed), now, window)
    }

    /// How fast it answers. Known only where the service balances by that.
    pub fn latency(&self) -> &Latency {
        &self.seen.latency
    }

    /// A request is going to be sent there. An [`end`](Self::end) follows each. Tells how many there were before.
    pub(super) fn begin(&self) -> u32 {
        self.seen.in_flight.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn end(&self) {
        self.seen.in_flight.fetch_sub(1, Ordering::Relaxed);
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
            bars: self.seen.bars.load(Ordering::Relaxed)
                & (Bar::Unhealthy as u8 | Bar::Ejected as u8),
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
        self.seen.bars.store(bars, Ordering::Relaxed);
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
    /// The name that discovery found it by, without a port: what its certificate is for.
    pub dns_name: Option<Arc<str>>,
    authority: HeaderValue,
    /// What a request's peer is copied from: made at load, timeouts of the service included.
    template: HttpPeer,
    /// For the timeouts of the service, where Pingora does not connect by itself.
    dialer: Option<Arc<Dialer>>,
    guards: Guards,
    post_idle: Option<Duration>,
    /// Whether latencies are kept: the service balances by them.
    pub(super) measures: bool,
    wire: Wire,
    /// Its connections, where there is a bound on them.
    connections: Option<Arc<Bounded>>,
}

/// What keeps requests from an endpoint that could not take them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    pub breaker: Option<breaker::Settings>,
    /// The most requests in flight there.
    pub in_flight: Option<u32>,
    /// How many requests may wait for one of those places.
    pub pending: Option<u32>,
}

/// Which connections of the pool a request may be sent over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooled {
    /// Any.
    Any,
    /// Those alone that have been idle only for a moment, or a new one: the endpoint may be about to close the others,
    /// and a request that must not be sent twice would be lost with it.
    Fresh,
    /// None: a new one, which is not kept. One that had been kept was closed under this very request.
    New,
}

/// What makes a peer's key another one, so that fresh connections are a pool of their own.
const FRESH: u64 = 0x6e6f_7274_6867_6174;
/// The same of pools in which nothing stays for longer than a tick of Pingora's timers, 10 ms. There are several, taken in
/// turn, so that a connection of the last one is not met within that time; not one for each connection, since Pingora
/// remembers the version of HTTP for each key.
const NEW: u64 = 0x6272_616e_646e_6577;
const NEW_POOLS: u32 = 256;
/// The same of connections of HTTP/2 after one was given up.
const LINE: u64 = 0x9e37_79b9_7f4a_7c15;
const LINES: u32 = 256;

/// How connections to an endpoint are made, and what bounds them.
#[derive(Clone, Debug)]
pub struct Connecting {
    pub wire: Wire,
    pub steps: Steps,
    /// How long an unused connection is kept.
    pub pool_idle: Option<Duration>,
    /// How long it may have been unused for a request that must not be repeated.
    pub post_idle: Option<Duration>,
}

impl Endpoint {
    /// # Errors
    /// A Unix path that cannot be an address.
    pub fn new(
        place: Place,
        weight: u32,
        state: Arc<EndpointState>,
        metrics: Arc<EndpointMetrics>,
        bounds: &Connecting,
    ) -> Result<Self, Box<pingora_core::Error>> {
        let mut template = match &place {
            Place::Tcp(address) => HttpPeer::new(*address, false, String::new()),
            Place::Unix(path) => HttpPeer::new_uds(&path.to_string_lossy(), false, String::new())?,
        };
        template.options.idle_timeout = bounds.pool_idle;
        bounds.wire.dress(&mut template);
        let dialer = Dialer::needed_for(
            bounds.wire.steps(bounds.steps),
            matches!(place, Place::Unix(_)),
        );
        let name = place.to_string();
        let authority = match &place {
            // an address is a valid value
            Place::Tcp(_) => HeaderValue::try_from(&name).unwrap_or(LOCALHOST),
            Place::Unix(_) => LOCALHOST,
        };
        let mut endpoint = Self {
            name: name.into(),
            authority,
            dns_name: None,
            place,
            weight,
            state,
            metrics,
            template,
            dialer,
            guards: Guards::default(),
            post_idle: bounds.post_idle,
            measures: false,
            wire: bounds.wire.clone(),
            connections: None,
        };
        // what is no request to a client's knowledge goes by these
        let mut template = endpoint.template.clone();
        endpoint.bound(&mut template, bounds.steps, None, || None, None);
        endpoint.template = template;
        Ok(endpoint)
    }

    /// The same, found by a name: that is what it calls itself.
    pub(super) fn found_by(mut self, name: Option<Arc<str>>) -> Self {
        if let (Some(name), Place::Tcp(address)) = (&name, &self.place)
            && let Ok(authority) = HeaderValue::try_from(format!("{name}:{}", address.port()))
        {
            self.authority = authority;
        }
        self.dns_name = name;
        self
    }

    /// What the endpoint calls itself in `Host`: the name that it was found by, else its address; a Unix socket has
    /// neither.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Takes note of the version of HTTP that it has chosen, where it has the choice.
    pub fn chose(&self, version: http::Version) {
        if self.wire.may_multiplex() {
            let http1 = version != http::Version::HTTP_2;
            if self.state.speaks_http1.load(Ordering::Relaxed) != http1 {
                self.state.speaks_http1.store(http1, Ordering::Relaxed);
            }
        }
    }

    /// Takes note of how a try ended.
    pub fn observe(&self, observed: Observed) {
        if self.measures {
            self.state.seen.latency.take(observed, monotonic_nanos());
        }
    }

    /// Bounds its connections.
    pub(super) fn with_connections(mut self, connections: Option<Arc<Bounded>>) -> Self {
        if let Some(connections) = &connections {
            // a connection that was made under another bound is none of these
            self.template.group_key ^= connections.key();
        }
        self.connections = connections;
        self
    }

    /// Its connections, where there is a bound on them.
    pub fn connections(&self) -> Option<&Bounded> {
        self.connections.as_deref()
    }

    /// Puts guards before it.
    pub(super) fn guarded(self, guards: Guards) -> Self {
        Self { guards, ..self }
    }

    /// The configuration is in force from now on: what it does not protect any more is let through. Not when it is
    /// compiled, for it may still be refused.
    pub(super) fn takes_effect(&self) {
        let breaks = self.guards.breaker.is_some();
        self.state.breaks.store(breaks, Ordering::SeqCst);
        if !breaks {
            self.forget_breaker();
        }
        let open = self.state.is_barred_by(Bar::Open);
        self.metrics.set_breaker(breaks.then_some(open));
        self.metrics.set_bounded(self.connections.is_some());
        self.state.connections.replace(self.connections());
    }

    fn forget_breaker(&self) {
        if self.state.is_barred_by(Bar::Open) {
            self.state.breaker.reset();
            self.state.admit(Bar::Open, "it has no breaker any more");
        }
    }

    /// Where its breaker stands; none if it has none.
    pub fn breaker(&self) -> Option<Stand> {
        self.guards.breaker?;
        Some(self.state.breaker.stand(window::millis(Instant::now())))
    }

    /// How long its breaker refuses everybody, if it does.
    pub(super) fn refuses(&self, now: u64) -> Option<Duration> {
        let settings = self.guards.breaker.as_ref()?;
        self.state.breaker.refuses(settings, now)
    }

    /// Whether it has a breaker or a bound.
    pub(super) fn is_guarded(&self) -> bool {
        self.guards != Guards::default()
    }

    /// Whether its breaker and its bound let a request through, as far as can be told before it is taken.
    pub(super) fn has_room(&self) -> bool {
        if self.is_full() {
            return false;
        }
        let open = self.state.is_barred_by(Bar::Open);
        !open || self.refuses(window::millis(Instant::now())).is_none()
    }

    /// Whether it has as many requests in flight as it may.
    pub(super) fn is_full(&self) -> bool {
        let most = self.guards.in_flight;
        most.is_some_and(|most| self.state.in_flight() >= most)
    }

    /// Takes a request in: it counts as in flight, and may be a probe. Nothing is taken where there is no room.
    pub(super) fn take(&self) -> Option<Option<Probe>> {
        let before = self.state.begin();
        if self.guards.in_flight.is_some_and(|most| before >= most) {
            self.state.end();
            return None;
        }
        let settings = self.guards.breaker.as_ref();
        let Some(settings) = settings.filter(|_| self.state.is_barred_by(Bar::Open)) else {
            return Some(None);
        };
        let now = window::millis(Instant::now());
        match self.state.breaker.admit(settings, now) {
            breaker::Admission::Free => Some(None),
            breaker::Admission::Probe(probe) => Some(Some(probe)),
            breaker::Admission::Refused(_) => {
                self.state.end();
                None
            }
        }
    }

    /// A request that was taken in is finished there.
    pub(super) fn end(&self) {
        self.state.end();
        if self.guards.pending.is_some() {
            self.state.service.queue.freed();
        }
    }

    /// Tells its breaker how a try ended.
    pub(super) fn judge(&self, probe: Option<Probe>, verdict: Verdict, now: Instant) {
        let Some(settings) = self.guards.breaker.as_ref() else {
            return;
        };
        let now = window::millis(now);
        match self.state.breaker.record(settings, probe, verdict, now) {
            None => {}
            Some(breaker::Change::Opened) => {
                let why = match probe.is_some() {
                    true => "a probe failed",
                    false => "too many tries failed",
                };
                let open = settings.open;
                self.state
                    .bar(Bar::Open, format_args!("{why}; for {open:?}"));
                self.metrics.set_breaker(Some(true));
                if !self.state.breaks.load(Ordering::SeqCst) {
                    // the request began under a configuration that is gone
                    self.forget_breaker();
                    self.metrics.set_breaker(None);
                }
            }
            Some(breaker::Change::Closed) => {
                self.state.admit(Bar::Open, "its probes were answered");
                self.metrics.set_breaker(Some(false));
            }
        }
    }

    /// Which connections of HTTP/2 are taken at present.
    pub fn line(&self) -> u32 {
        self.state.silences.load(Ordering::Relaxed)
    }

    /// A try over these connections had no answer in time. A connection may be dead, which HTTP/1.1 finds out by closing
    /// it; over HTTP/2 those who wait together go on waiting, and the next requests take another one, as they do where
    /// Pingora's own read times out.
    pub fn is_silent(&self, line: u32) {
        if self.wire.may_multiplex() && !self.state.speaks_http1.load(Ordering::Relaxed) {
            // of those who find out together, one says so
            let silences = &self.state.silences;
            let next = line.wrapping_add(1);
            let _ = silences.compare_exchange(line, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// A peer for one try. `idle` bounds each read and each write; `line` is what [`line`](Self::line) said.
    pub fn peer(&self, idle: Option<Duration>, pooled: Pooled, line: u32) -> Box<HttpPeer> {
        let mut peer = Box::new(self.template.clone());
        reserve::keep(&mut peer);
        // HTTP/2 says by itself what it has not processed (RFC 9113 §6.8)
        let http1 = !self.wire.may_multiplex() || self.state.speaks_http1.load(Ordering::Relaxed);
        match pooled {
            Pooled::Fresh if http1 => {
                peer.group_key ^= FRESH;
                peer.options.idle_timeout = self.post_idle;
            }
            Pooled::New if http1 => {
                let turn = self.state.renewed.fetch_add(1, Ordering::Relaxed);
                peer.group_key ^= NEW ^ u64::from(turn % NEW_POOLS);
                peer.options.idle_timeout = Some(Duration::ZERO);
            }
            // nothing else tells the connections apart, and those of long ago are closed by now
            _ if !http1 => peer.group_key ^= LINE.wrapping_mul(u64::from(line % LINES)),
            _ => {}
        }
        peer.options.read_timeout = idle;
        peer.options.write_timeout = idle;
        peer
    }

    /// A peer for one WebSocket. Silence on it is bounded by whoever looks at both directions.
    pub fn tunnel(&self) -> Box<HttpPeer> {
        let mut peer = Box::new(self.template.clone());
        reserve::keep(&mut peer);
        self.wire.dress_tunnel(&mut peer);
        if let Some(connections) = &self.connections {
            peer.group_key ^= connections.key();
        }
        peer
    }

    /// Bounds how long a connection for that peer may take, and all of it by what is left for the try. Where the endpoint
    /// is told who the client is, its connections are for these parties alone. `hand`: what gives a place to a new one,
    /// where they are bounded.
    pub fn bound(
        &self,
        peer: &mut HttpPeer,
        steps: Steps,
        left: Option<Duration>,
        parties: impl FnOnce() -> Option<Parties>,
        hand: Option<&Arc<Hand>>,
    ) {
        let steps = self.wire.steps(steps);
        dial::bound(peer, steps, left, self.dialer.as_ref(), hand);
        if let Some(version) = self.wire.proxy_protocol {
            dial::introduce(peer, steps, version, parties(), hand);
        }
        if let Some(hand) = hand {
            hand.set_key(peer.reuse_hash());
        }
    }

    /// A peer for a health check, which the gateway makes for itself. `elsewhere` is another port of the endpoint, where
    /// nobody expects a header.
    pub(super) fn probe(&self, elsewhere: bool) -> Box<HttpPeer> {
        let mut peer = self.peer(None, Pooled::Any, self.line());
        // the check bounds all of it
        dial::unbound(&mut peer);
        if let Some(version) = self.wire.proxy_protocol.filter(|_| !elsewhere) {
            dial::introduce_check(&mut peer, version);
        }
        peer
    }

    /// What is spoken there.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }
}
