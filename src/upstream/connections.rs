//! The connections to an endpoint whose service bounds them (`limits.connections_per_endpoint`): busy ones and idle ones,
//! of all threads together. Where there is no bound, there is nothing of this.
//!
//! Pingora keeps a pool for each thread, and never tells what is in it. A connection that idles in one of them has a
//! place that a request on another thread may need. So each connection has a count of the exchanges on it, which
//! [`Connection::enter`] and [`Use`] keep without a lock, and a thread that finds no place takes that of an idle one: it
//! marks the connection as reclaimed, after which nobody can enter it, and shuts its socket down. The owner's pool
//! sees the end and drops it. A request that has taken such a connection out of its pool meanwhile finds the mark before
//! anything is sent, and takes another.
//!
//! A place is taken before a connection is made, and is free when its descriptor is closed, or when it is reclaimed. What
//! may be shut down stands in a list, and leaves it, under the lock of the list, before Pingora closes the descriptor
//! (`Stream` tells its tracer first): no number is met that means another connection by then. The lock is taken when a
//! connection is made, closed or reclaimed, and by those who wait, and by nobody else.
//!
//! Who finds neither waits in the order of arrival. It is told of a place, or to look into the pool of its own thread,
//! where a connection has become idle: to hand that on is cheaper than to close it and make another, and those at the
//! head are passed over for that only so many times. Over HTTP/2 many exchanges share a place, but only those of its own
//! thread: while others wait, no new ones begin on it, so that it falls idle and can be reclaimed, unless that takes so
//! long that they would rather share it.

use crate::observe::metrics::EndpointMetrics;
use crate::observe::metrics::sharded::thread_number;
use crate::observe::random;
use crate::state::Kept;
use nix::sys::socket::{Shutdown, shutdown};
use parking_lot::Mutex;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{Digest, GetProxyDigest};
use pingora_core::upstreams::peer::{Tracer, Tracing};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::timeout_at;

/// No connection could be made for want of a place.
pub const NO_PLACE: ErrorType = ErrorType::new("NoPlace");
/// A connection of the pool was another's by then.
pub const RECLAIMED_TYPE: ErrorType = ErrorType::new("Reclaimed");

/// How many times one request may be sent back to look for a connection; Pingora takes each for a try.
pub const LOOKS_MAX: u8 = 32;

/// The count of exchanges of a connection that nobody may use any more.
const RECLAIMED: u32 = u32::MAX;

/// How often the head of the queue is passed over for somebody who can use an idle connection as it is.
const PASSED_MAX: u32 = 16;

/// How often somebody is told to look into a pool before only a place will do.
const TOLD_MAX: u8 = 3;

/// The same where connections are shared: what they can take is known to the endpoint alone.
const TOLD_SHARED_MAX: u8 = 16;

/// How often those who wait look without being told.
const LOOK: Duration = Duration::from_millis(50);

/// How long a shared connection of the own thread is left alone, so that others may have its place.
const DRAIN: Duration = Duration::from_millis(100);

/// See the module.
pub struct Connections {
    most: u32,
    /// What the keys of its pools differ by from those of another bound.
    key: u64,
    waiting: AtomicU32,
    tickets: AtomicU64,
    /// The bound is not in force any more.
    retired: AtomicBool,
    inner: Mutex<Inner>,
    metrics: Arc<EndpointMetrics>,
}

#[derive(Default)]
struct Inner {
    /// Places that are taken: by connections, and by those that are going to be made.
    used: u32,
    /// Connections whose descriptors are open, and that nobody has reclaimed.
    open: Vec<Arc<Connection>>,
    /// By their tickets.
    queue: VecDeque<Arc<Waiter>>,
    passed: u32,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.open(), self.most)
    }
}

/// The connections of an endpoint as long as a configuration has the bound. After that, idle ones are closed, and busy
/// ones when they become idle.
#[derive(Debug)]
pub struct Bounded(Arc<Connections>);

impl Bounded {
    pub(super) fn new(most: u32, metrics: Arc<EndpointMetrics>) -> Self {
        Self(Arc::new(Connections {
            most,
            key: random::next(),
            waiting: AtomicU32::new(0),
            tickets: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            inner: Mutex::default(),
            metrics,
        }))
    }

    /// What the keys of its pools differ by.
    pub(super) fn key(&self) -> u64 {
        self.0.key
    }

    /// How many are open, or are being made.
    pub fn open(&self) -> u32 {
        self.0.open()
    }

    /// For one try of a request.
    pub fn hand(&self) -> Arc<Hand> {
        self.hand_of(thread_number())
    }

    /// The same for requests that have a pool of their own, and do not wait.
    pub fn stranger(&self) -> Arc<Hand> {
        self.hand_of(STRANGER)
    }

    fn hand_of(&self, thread: usize) -> Arc<Hand> {
        Arc::new(Hand {
            of: self.0.clone(),
            thread,
            key: AtomicU64::new(0),
            place: Mutex::new(None),
        })
    }
}

impl Kept for Bounded {
    fn export(&self) -> Option<serde_json::Value> {
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

impl Drop for Bounded {
    fn drop(&mut self) {
        self.0.retire();
    }
}

/// The connections of an endpoint that are those of today, kept with its state: another bound begins anew.
#[derive(Debug, Default)]
pub struct Current(Mutex<Option<Arc<Connections>>>);

impl Current {
    /// These are the connections from now on, if there is a bound. What there was under another one is closed.
    pub(super) fn replace(&self, next: Option<&Bounded>) {
        let next = next.map(|bounded| bounded.0.clone());
        let mut current = self.0.lock();
        if let Some(next) = &next {
            // an older bound may have come back
            next.retired.store(false, SeqCst);
        }
        let before = std::mem::replace(&mut *current, next.clone());
        drop(current);
        if let Some(before) = before
            && !next.is_some_and(|next| Arc::ptr_eq(&next, &before))
        {
            before.retire();
        }
    }
}

const STRANGER: usize = usize::MAX;

/// The pool that a connection goes back to: of this thread, with this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lane {
    thread: usize,
    key: u64,
}

impl Connections {
    /// Closes what is idle, and whatever becomes idle.
    fn retire(&self) {
        self.retired.store(true, SeqCst);
        let mut inner = self.inner.lock();
        for connection in std::mem::take(&mut inner.open) {
            match connection.reclaim() {
                true => self.give_back(&mut inner),
                false => inner.open.push(connection),
            }
        }
        self.dispatch(&mut inner);
    }

    fn open(&self) -> u32 {
        self.inner.lock().used
    }

    /// A place, if there is one and nobody waits for it.
    fn try_place(self: &Arc<Self>) -> Option<Place> {
        let mut inner = self.inner.lock();
        if !inner.queue.is_empty() {
            return None;
        }
        if inner.used < self.most {
            self.take_one(&mut inner);
        } else {
            let at = inner
                .open
                .iter()
                .position(|one| one.is_free() && one.reclaim())?;
            inner.open.remove(at);
        }
        drop(inner);
        Some(Place(Some(self.clone())))
    }

    fn take_one(&self, inner: &mut Inner) {
        inner.used += 1;
        self.metrics.connection(1);
    }

    fn give_back(&self, inner: &mut Inner) {
        inner.used = inner.used.saturating_sub(1);
        self.metrics.connection(-1);
    }

    /// Gives those who wait what there is.
    fn dispatch(&self, inner: &mut Inner) {
        while !inner.queue.is_empty() {
            if inner.used < self.most {
                self.take_one(inner);
                self.tell_first(inner);
                continue;
            }
            let Some(at) = inner.open.iter().position(|one| one.is_free()) else {
                return;
            };
            let Some(connection) = inner.open.get(at).cloned() else {
                return;
            };
            let own = inner.queue.iter().position(|one| one.can_use(&connection));
            match own {
                Some(own) if own == 0 || inner.passed < PASSED_MAX => {
                    inner.passed = if own == 0 { 0 } else { inner.passed + 1 };
                    connection.promised.store(true, SeqCst);
                    let told = inner.queue.remove(own);
                    self.tell(told, Told::Look(Some(connection.clone())));
                    if connection.multiplexes.load(Relaxed) {
                        self.tell_lane(inner, connection.lane);
                    }
                }
                // who has just entered it leaves it again, and says so
                _ if connection.reclaim() => {
                    inner.passed = 0;
                    inner.open.remove(at);
                    self.tell_first(inner);
                }
                _ => {}
            }
        }
    }

    fn tell_first(&self, inner: &mut Inner) {
        let first = inner.queue.pop_front();
        self.tell(first, Told::Place);
    }

    /// Tells all of a lane to look at what they may share.
    fn tell_lane(&self, inner: &mut Inner, lane: Lane) {
        let mut at = 0;
        while let Some(waiter) = inner.queue.get(at) {
            if waiter.lane == lane && waiter.told_before < TOLD_SHARED_MAX {
                let told = inner.queue.remove(at);
                self.tell(told, Told::Look(None));
            } else {
                at += 1;
            }
        }
    }

    fn tell(&self, waiter: Option<Arc<Waiter>>, told: Told) {
        if let Some(waiter) = waiter {
            self.waiting.fetch_sub(1, SeqCst);
            *waiter.told.lock() = told;
            waiter.notify.notify_one();
        }
    }

    /// An exchange on that connection has ended.
    fn left(&self, connection: &Arc<Connection>) {
        let mut inner = self.inner.lock();
        if self.retired.load(SeqCst) && connection.uses.load(SeqCst) == 0 {
            let at = inner
                .open
                .iter()
                .position(|one| Arc::ptr_eq(one, connection));
            if let Some(at) = at
                && connection.reclaim()
            {
                inner.open.remove(at);
                self.give_back(&mut inner);
            }
        }
        if connection.multiplexes.load(Relaxed) && connection.is_busy() {
            let own = inner.queue.iter().position(|one| one.can_use(connection));
            let may_drain =
                |one: &Arc<Waiter>| one.lane != connection.lane && one.since.elapsed() < DRAIN;
            if let Some(own) = own
                && !inner.queue.iter().take(own).any(may_drain)
            {
                let told = inner.queue.remove(own);
                self.tell(told, Told::Look(None));
            }
        }
        self.dispatch(&mut inner);
    }

    /// A connection of HTTP/2 has been made: more exchanges of its thread may share it.
    fn shares(&self, connection: &Arc<Connection>) {
        if !connection.multiplexes.swap(true, SeqCst) && self.waiting.load(SeqCst) > 0 {
            let mut inner = self.inner.lock();
            self.tell_lane(&mut inner, connection.lane);
        }
    }

    /// Whether a connection of that lane could be shared.
    fn has_shared(inner: &Inner, lane: Lane) -> bool {
        let shared = |one: &Arc<Connection>| {
            one.lane == lane && one.multiplexes.load(Relaxed) && one.is_busy()
        };
        inner.open.iter().any(shared)
    }
}

/// A place for one connection, until it is dropped.
#[derive(Debug)]
pub struct Place(Option<Arc<Connections>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(of) = self.0.take() {
            let mut inner = of.inner.lock();
            of.give_back(&mut inner);
            of.dispatch(&mut inner);
        }
    }
}

/// What was promised to somebody who looks into its pool, until this is dropped.
#[derive(Debug)]
pub struct Look(Option<Arc<Connection>>);

impl Drop for Look {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            connection.promised.store(false, SeqCst);
            if connection.of.waiting.load(SeqCst) > 0 {
                let mut inner = connection.of.inner.lock();
                connection.of.dispatch(&mut inner);
            }
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    of: Arc<Connections>,
    /// The exchanges on it, or `RECLAIMED`.
    uses: AtomicU32,
    descriptor: RawFd,
    lane: Lane,
    multiplexes: AtomicBool,
    /// Somebody was told to take it.
    promised: AtomicBool,
    /// Whether the place is its own; not any more when it was reclaimed.
    placed: AtomicBool,
}

impl Connection {
    /// The one that an exchange has got; none where there is no bound.
    pub fn of(digest: &Digest) -> Option<&Arc<Self>> {
        let user_data = digest.proxy_digest.as_ref()?.user_data.as_ref()?;
        user_data.downcast_ref::<Arc<Self>>()
    }

    /// An exchange begins on it. `reused`: it comes from the pool.
    ///
    /// # Errors
    /// It was reclaimed. Nothing was sent.
    pub fn enter(self: &Arc<Self>, reused: bool) -> Result<Use> {
        // a new one is made with the count of the exchange that it is made for
        // and beyond the mark there is no number
        let enters = |uses: u32| uses.checked_add(1);
        if reused && self.uses.fetch_update(SeqCst, SeqCst, enters).is_err() {
            return Error::e_explain(RECLAIMED_TYPE, "the connection was reclaimed");
        }
        Ok(Use(self.clone()))
    }

    fn is_free(&self) -> bool {
        self.uses.load(SeqCst) == 0 && !self.promised.load(SeqCst)
    }

    fn is_busy(&self) -> bool {
        !matches!(self.uses.load(SeqCst), 0 | RECLAIMED)
    }

    /// Closes it, if it is idle. Its place is the caller's then. Under the lock, and while it stands in the list.
    fn reclaim(&self) -> bool {
        let idle = self.uses.compare_exchange(0, RECLAIMED, SeqCst, SeqCst);
        if idle.is_ok() {
            self.placed.store(false, SeqCst);
            let _ = shutdown(self.descriptor, Shutdown::Both);
        }
        idle.is_ok()
    }
}

/// An exchange on a connection, until it is dropped.
#[derive(Debug)]
pub struct Use(Arc<Connection>);

impl Use {
    /// It is one of HTTP/2.
    pub fn shares(&self) {
        self.0.of.shares(&self.0);
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let of = &self.0.of;
        let before = self.0.uses.fetch_sub(1, SeqCst);
        let retired = before == 1 && of.retired.load(SeqCst);
        if retired || of.waiting.load(SeqCst) > 0 {
            of.left(&self.0);
        }
    }
}

/// What a connection's stream holds: Pingora tells it before the descriptor is closed, and drops it after that.
#[derive(Debug)]
struct Held(Arc<Connection>);

impl Tracing for Held {
    fn on_connected(&self) {}

    fn on_disconnected(&self) {
        let connection = &self.0;
        let mut inner = connection.of.inner.lock();
        inner.open.retain(|one| !Arc::ptr_eq(one, connection));
        // somebody may hold another descriptor of it, which would keep it open
        let _ = shutdown(connection.descriptor, Shutdown::Both);
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(Nothing)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let connection = &self.0;
        if connection.placed.swap(false, SeqCst) {
            drop(Place(Some(connection.of.clone())));
        }
    }
}

/// A copy of what a stream holds holds nothing.
#[derive(Debug)]
struct Nothing;

impl Tracing for Nothing {
    fn on_connected(&self) {}
    fn on_disconnected(&self) {}
    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(Nothing)
    }
}

/// What one try has in its hand: perhaps a place, for whoever makes its connection.
#[derive(Debug)]
pub struct Hand {
    of: Arc<Connections>,
    thread: usize,
    /// Of the pool that it looks into.
    key: AtomicU64,
    place: Mutex<Option<Place>>,
}

impl Hand {
    /// Says which pool is looked into.
    pub(super) fn set_key(&self, key: u64) {
        self.key.store(key, Relaxed);
    }

    fn lane(&self) -> Lane {
        Lane {
            thread: self.thread,
            key: self.key.load(Relaxed),
        }
    }

    /// Whether somebody waits, so that a new request would overtake it.
    pub fn is_waited_for(&self) -> bool {
        self.of.waiting.load(SeqCst) > 0
    }

    /// Whether both are of the same endpoint, under the same bound.
    fn is_of(&self, of: &Arc<Connections>) -> bool {
        Arc::ptr_eq(&self.of, of)
    }

    /// The place for a connection.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn take(&self) -> Result<Place> {
        let held = self.place.lock().take();
        match held.or_else(|| self.of.try_place()) {
            Some(place) => Ok(place),
            None => Error::e_explain(NO_PLACE, "all connections are in use"),
        }
    }

    /// Makes a stream one that has this place until it is closed.
    ///
    /// # Errors
    /// None that can happen.
    pub(super) fn hold(&self, mut place: Place, mut stream: Stream) -> Result<Stream> {
        let head = ResponseHeader::build(200_u16, Some(0))?;
        let connection = Arc::new(Connection {
            of: self.of.clone(),
            uses: AtomicU32::new(1),
            descriptor: stream.as_raw_fd(),
            lane: self.lane(),
            multiplexes: AtomicBool::new(false),
            promised: AtomicBool::new(false),
            placed: AtomicBool::new(true),
        });
        // from here on the connection gives it back
        place.0 = None;
        self.of.inner.lock().open.push(connection.clone());
        stream.tracer = Some(Tracer(Box::new(Held(connection.clone()))));
        stream.set_proxy_digest(ProxyDigest::new(Box::new(head), Some(Box::new(connection))));
        Ok(stream)
    }
}

/// One who waits.
#[derive(Debug)]
struct Waiter {
    lane: Lane,
    ticket: u64,
    since: Instant,
    /// How often it was told to look before.
    told_before: u8,
    told: Mutex<Told>,
    notify: Notify,
}

impl Waiter {
    /// Whether it would find this connection in its pool.
    fn can_use(&self, connection: &Connection) -> bool {
        let most = match connection.multiplexes.load(Relaxed) {
            true => TOLD_SHARED_MAX,
            false => TOLD_MAX,
        };
        self.lane == connection.lane && self.told_before < most
    }
}

#[derive(Debug)]
enum Told {
    Nothing,
    Place,
    Look(Option<Arc<Connection>>),
}

/// Takes a waiter out of the queue, or gives back what it was told of and did not take.
struct Waits<'h> {
    hand: &'h Hand,
    waiter: Arc<Waiter>,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let of = &self.hand.of;
        let told = {
            let mut inner = of.inner.lock();
            let before = inner.queue.len();
            inner.queue.retain(|one| !Arc::ptr_eq(one, &self.waiter));
            if inner.queue.len() < before {
                of.waiting.fetch_sub(1, SeqCst);
            }
            std::mem::replace(&mut *self.waiter.told.lock(), Told::Nothing)
        };
        match told {
            Told::Nothing => {}
            Told::Place => drop(Place(Some(of.clone()))),
            Told::Look(connection) => drop(Look(connection)),
        }
    }
}

/// What a request knows about the places of its endpoint, over its tries.
#[derive(Debug, Default)]
pub struct Claim {
    of: Option<Arc<Connections>>,
    ticket: Option<u64>,
    told: u8,
    looks: u8,
    until: Option<Instant>,
    /// Whether it has found no place.
    pub waits: bool,
    hand: Option<Arc<Hand>>,
    look: Option<Look>,
    used: Option<Use>,
}

impl Claim {
    /// Another try begins, with this in its hand.
    pub fn begins(&mut self, hand: &Arc<Hand>) {
        self.used = None;
        if !self.of.as_ref().is_some_and(|of| hand.is_of(of)) {
            *self = Self {
                of: Some(hand.of.clone()),
                looks: self.looks,
                until: self.until,
                ..Self::default()
            };
        }
        self.hand = Some(hand.clone());
    }

    /// The try comes to nothing for want of a connection. Tells whether it may look once more.
    pub fn looks_again(&mut self) -> bool {
        self.looks += 1;
        self.looks < LOOKS_MAX
    }

    /// How often it has looked in vain.
    pub fn looks(&self) -> u8 {
        self.looks
    }

    /// When the waiting ends, for a wait of this length that may have begun already.
    pub fn until(&mut self, length: Duration) -> Instant {
        *self.until.get_or_insert_with(|| Instant::now() + length)
    }

    /// Waits until a connection can be made or found. False if the time is over.
    pub async fn wait(&mut self, until: Instant) -> bool {
        let Some(hand) = self.hand.clone() else {
            return true;
        };
        let of = &hand.of;
        let ticket = self
            .ticket
            .get_or_insert_with(|| of.tickets.fetch_add(1, Relaxed));
        let lane = hand.lane();
        let waiter = Arc::new(Waiter {
            lane,
            ticket: *ticket,
            since: Instant::now(),
            told_before: self.told,
            told: Mutex::new(Told::Nothing),
            notify: Notify::new(),
        });
        let waits = Waits {
            hand: &hand,
            waiter: waiter.clone(),
        };
        {
            let mut inner = of.inner.lock();
            // one was out of its pool for the moment in which somebody took a share of it
            let shared = inner.queue.is_empty() && Connections::has_shared(&inner, lane);
            if shared && self.told < TOLD_MAX {
                self.told += 1;
                return true;
            }
            let at = inner
                .queue
                .partition_point(|one| one.ticket < waiter.ticket);
            inner.queue.insert(at, waiter.clone());
            of.waiting.fetch_add(1, SeqCst);
        }
        // what it was promised before it gives back only now that it is in the queue again
        self.look = None;
        loop {
            {
                let mut inner = of.inner.lock();
                of.dispatch(&mut inner);
                let told = std::mem::replace(&mut *waiter.told.lock(), Told::Nothing);
                match told {
                    Told::Nothing => {}
                    Told::Place => {
                        drop(inner);
                        *hand.place.lock() = Some(Place(Some(of.clone())));
                        return true;
                    }
                    Told::Look(connection) => {
                        drop(inner);
                        self.told += 1;
                        self.look = Some(Look(connection));
                        return true;
                    }
                }
                let patience = DRAIN * (1 << self.told.min(5));
                if waiter.since.elapsed() >= patience
                    && self.told < TOLD_SHARED_MAX
                    && Connections::has_shared(&inner, lane)
                {
                    // whoever wants its place has had time for that
                    self.told += 1;
                    drop(inner);
                    drop(waits);
                    return true;
                }
            }
            let now = Instant::now();
            if now >= until {
                return false;
            }
            let next = until.min(now + LOOK);
            let _ = timeout_at(next.into(), waiter.notify.notified()).await;
        }
    }

    /// There is a connection. What else was in the hand is given back.
    ///
    /// # Errors
    /// It was reclaimed. Nothing was sent.
    pub fn connected(&mut self, reused: bool, digest: Option<&Digest>) -> Result<()> {
        let connection = digest.and_then(Connection::of);
        let entered = connection.map(|connection| connection.enter(reused));
        let left = self.hand.take().and_then(|hand| hand.place.lock().take());
        drop(left);
        self.look = None;
        self.used = entered.transpose()?;
        (self.waits, self.until, self.ticket, self.told) = (false, None, None, 0);
        Ok(())
    }

    /// Its connection is one of HTTP/2.
    pub fn shares(&self) {
        if let Some(used) = &self.used {
            used.shares();
        }
    }

    /// The try has ended, and its connection was given back or closed.
    pub fn ends(&mut self) {
        self.used = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Metrics;
    use std::net::{TcpListener, TcpStream};

    fn bounded(most: u32) -> Bounded {
        Bounded::new(most, Metrics::new().endpoint("s", "10.0.0.1:80"))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// A connection as a dialer makes it.
    async fn connect(hand: &Hand, listener: &TcpListener) -> Result<Stream> {
        let place = hand.take()?;
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::TcpStream::from_std(socket).unwrap();
        hand.hold(place, socket.into())
    }

    fn of(stream: &Stream) -> Arc<Connection> {
        let digest = stream.get_proxy_digest().unwrap();
        let connection = digest.user_data.as_ref().unwrap();
        connection
            .downcast_ref::<Arc<Connection>>()
            .unwrap()
            .clone()
    }

    #[tokio::test]
    async fn an_idle_connection_is_reclaimed_and_nobody_enters_it_any_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bounded = bounded(1);
        let first = connect(&bounded.hand(), &listener).await.unwrap();
        let busy = of(&first).enter(false).unwrap();
        let refused = connect(&bounded.hand(), &listener).await.unwrap_err();
        assert_eq!(*refused.etype(), NO_PLACE);
        drop(busy);
        let second = connect(&bounded.hand(), &listener).await.unwrap();
        let late = of(&first).enter(true).unwrap_err();
        assert_eq!(*late.etype(), RECLAIMED_TYPE);
        // the place is the second's, and the first has none to give back
        drop(first);
        assert_eq!(bounded.open(), 1);
        drop(second);
        assert_eq!(bounded.open(), 0);
    }

    #[tokio::test]
    async fn who_was_promised_something_and_leaves_passes_it_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bounded = bounded(1);
        let stream = connect(&bounded.hand(), &listener).await.unwrap();
        let busy = of(&stream).enter(false).unwrap();
        let mut claims = [Claim::default(), Claim::default()];
        for claim in &mut claims {
            claim.begins(&bounded.hand());
        }
        let [first, second] = &mut claims;
        let mut leaves = Box::pin(first.wait(soon()));
        let mut stays = Box::pin(second.wait(soon()));
        assert!(futures::poll!(&mut leaves).is_pending());
        assert!(futures::poll!(&mut stays).is_pending());
        drop(busy);
        // the first is told, and is dropped before it knows
        drop(leaves);
        assert!(stays.await);
        assert_eq!(bounded.0.waiting.load(SeqCst), 0);
        drop((stream, claims));
        assert_eq!(bounded.open(), 0);
    }

    #[test]
    fn places_come_and_go_between_threads_and_none_is_lost() {
        let bounded = bounded(2);
        let taken = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (bounded, taken) = (&bounded, &taken);
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_time()
                        .build()
                        .unwrap();
                    runtime.block_on(async {
                        for round in 0..300_u64 {
                            let hand = bounded.hand();
                            let mut claim = Claim::default();
                            claim.begins(&hand);
                            // some have no patience
                            let patience = match random::mix(thread << 32 | round) % 4 {
                                0 => Duration::from_micros(50),
                                _ => Duration::from_secs(20),
                            };
                            let waited = claim.wait(Instant::now() + patience).await;
                            if !waited {
                                continue;
                            }
                            let place = hand.take().unwrap();
                            assert!(taken.fetch_add(1, SeqCst) < 2);
                            tokio::task::yield_now().await;
                            taken.fetch_sub(1, SeqCst);
                            drop(place);
                        }
                    });
                });
            }
        });
        assert_eq!(bounded.open(), 0);
        assert_eq!(bounded.0.waiting.load(SeqCst), 0);
        assert!(bounded.0.inner.lock().queue.is_empty());
    }
}
