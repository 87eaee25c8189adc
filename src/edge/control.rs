//! The set of listeners, and how it changes while connections live on.
//!
//! A change has two phases. [`EdgeControl::prepare`] binds what is new, which is all that can fail; nothing that exists
//! is touched, and a [`Prepared`] that is dropped leaves no trace. [`Prepared::commit`] cannot fail: sockets that stay
//! get their new settings by one pointer store, new ones begin to accept, and those that nobody wants any more accept
//! what already waits in their queue and close. Sockets are identified by address, listeners by name.

use super::EdgeEvents;
use super::listener::{Address, BindError, Bound, ListenerSpec};
use super::permits::{AddressPermit, Addresses, Count, TurnedAway};
use crate::exchange::connection::{Drain, ListenerFacts, Peer};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use tokio::sync::Notify;

/// What a connection has to do before anything is heard of it. Those that did less than is asked for now must not stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Terms {
    tls: bool,
    proxy_protocol: bool,
}

impl Terms {
    fn of(spec: &ListenerSpec) -> Self {
        Self {
            tls: spec.tls.is_some(),
            proxy_protocol: spec.proxy_protocol,
        }
    }
}

/// What lasts as long as a listener's name: it is the same before and after a change of its settings.
#[derive(Debug)]
pub(super) struct ListenerState {
    name: Arc<str>,
    terms: Terms,
    pub(super) drain: Arc<Drain>,
    connections: Count,
    addresses: Arc<Addresses>,
    activity: Arc<Activity>,
}

/// What has to end before a drain is over, besides connections; shared by all listeners.
#[derive(Debug, Default)]
struct Activity {
    /// Accept loops: one that was stopped may still find someone in its queue.
    accepting: AtomicUsize,
    /// One of them has ended, or a connection of a listener that drains.
    less: Notify,
    /// Open connections of all listeners, and how many there may be.
    connections: Count,
    connections_max: AtomicUsize,
}

/// Tells an accept loop to end. Once told it stays so, also for the one that takes its place after a panic.
#[derive(Debug, Default)]
struct Stop {
    told: AtomicBool,
    changed: Notify,
}

/// What an accept loop is given: when to stop, and a mark that it runs.
pub(super) struct Accepting {
    stop: Arc<Stop>,
    activity: Arc<Activity>,
}

impl Accepting {
    fn new(stop: Arc<Stop>, activity: Arc<Activity>) -> Self {
        activity.accepting.fetch_add(1, Ordering::Relaxed);
        Self { stop, activity }
    }

    /// Resolves when nobody wants the socket any more.
    pub(super) async fn stopped(&self) {
        if !self.is_stopped() {
            // told since, it has left a permit
            self.stop.changed.notified().await;
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.told.load(Ordering::Acquire)
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.activity.accepting.fetch_sub(1, Ordering::Release);
        self.activity.less.notify_waiters();
    }
}

impl ListenerState {
    /// Counts a connection in, unless there are as many as there may be.
    pub(super) fn open(
        self: &Arc<Self>,
        spec: &ListenerSpec,
        peer: &Peer,
        events: &Arc<dyn EdgeEvents>,
    ) -> Result<OpenConnection, TurnedAway> {
        let all = &self.activity;
        let at_most = match spec.operators {
            true => usize::MAX,
            false => all.connections_max.load(Ordering::Relaxed),
        };
        if !all.connections.enter(at_most) {
            return Err(TurnedAway::Total);
        }
        if !self.connections.enter(spec.limits.connections) {
            all.connections.leave();
            return Err(TurnedAway::Listener);
        }
        // from here on it is counted out, whatever happens
        let open = OpenConnection(Arc::new(Open {
            state: self.clone(),
            facts: spec.facts.clone(),
            events: events.clone(),
            address: OnceLock::new(),
        }));
        events.opened(&spec.facts);
        match open.count(spec, peer) {
            true => Ok(open),
            false => Err(TurnedAway::Address),
        }
    }
}

/// One connection in the count of its listener, until the last clone is dropped.
#[derive(Clone)]
pub(super) struct OpenConnection(Arc<Open>);

struct Open {
    state: Arc<ListenerState>,
    facts: Arc<ListenerFacts>,
    events: Arc<dyn EdgeEvents>,
    /// None of those who are exempt.
    address: OnceLock<AddressPermit>,
}

impl OpenConnection {
    /// Counts it under the address of its client, unless that has as many as it may. Exempt are those who speak for many:
    /// trusted proxies, and this machine itself.
    pub(super) fn count(&self, spec: &ListenerSpec, peer: &Peer) -> bool {
        let Some(address) = peer.ip() else {
            return true;
        };
        if address.is_loopback() || spec.trusted.contains(address) {
            return true;
        }
        let addresses = &self.0.state.addresses;
        match addresses.enter(address, spec.limits.connections_per_address) {
            Some(permit) => self.0.address.set(permit).is_ok(),
            None => false,
        }
    }

    pub(super) fn drain(&self) -> &Arc<Drain> {
        &self.0.state.drain
    }

    pub(super) fn facts(&self) -> &Arc<ListenerFacts> {
        &self.0.facts
    }

    pub(super) fn events(&self) -> &Arc<dyn EdgeEvents> {
        &self.0.events
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.state.connections.leave();
        self.state.activity.connections.leave();
        self.events.closed(&self.facts);
        if self.state.drain.has_begun() {
            self.state.activity.less.notify_waiters();
        }
    }
}

/// What new connections of a socket get.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) spec: Arc<ListenerSpec>,
    pub(super) state: Arc<ListenerState>,
}

/// One socket that is accepted on.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) bound: Bound,
    /// None on a Unix socket.
    /// Where it listens; it may be every address.
    pub(super) local: Option<SocketAddr>,
    pub(super) target: ArcSwap<Target>,
    /// Set while it accepts; tells the loop to end.
    stop: Mutex<Option<Arc<Stop>>>,
}

/// Starts the accept loop of a socket, on one of the threads that serve.
pub(super) type Launch = Box<dyn Fn(Arc<Acceptor>, Accepting) + Send + Sync>;

/// A handle on the listeners of an edge, for whoever loads configurations and stops the process.
#[derive(Clone)]
pub struct EdgeControl(Arc<Shared>);

#[derive(Default)]
struct Shared {
    table: Mutex<Table>,
    /// There once the service runs.
    launch: OnceLock<Launch>,
    activity: Arc<Activity>,
}

#[derive(Default)]
struct Table {
    sockets: HashMap<Address, Arc<Acceptor>>,
    listeners: HashMap<Arc<str>, Arc<ListenerState>>,
    /// Removed, with connections left.
    leaving: Vec<Arc<ListenerState>>,
    /// Told to stop, and perhaps not closed yet: that is up to the threads that accept on them.
    closing: Vec<(Address, Weak<Acceptor>)>,
    draining: bool,
    /// Memory is short.
    short: bool,
}

impl Table {
    /// The sockets that are open, those that will not be for long included.
    fn known(&self) -> HashMap<Address, Arc<Acceptor>> {
        let closing = self.closing.iter();
        let closing =
            closing.filter_map(|(address, acceptor)| Some((address.clone(), acceptor.upgrade()?)));
        // where both are known, the open one is meant
        closing.chain(self.sockets.clone()).collect()
    }
}

/// One listener as it is now.
#[derive(Clone, Debug)]
pub struct ListenerStatus {
    pub name: Arc<str>,
    /// Where it accepts, with the addresses that the kernel gave.
    pub addresses: Vec<(Address, Option<SocketAddr>)>,
    /// Connections that are open.
    pub connections: usize,
    /// It is leaving and waits for its connections.
    pub draining: bool,
}

#[cfg(test)]
impl EdgeControl {
    /// A connection that nobody has accepted.
    pub(super) fn open(&self, spec: &ListenerSpec, events: &Arc<dyn EdgeEvents>) -> OpenConnection {
        let listener = self.listener(spec.facts.name.clone(), Terms::of(spec));
        match listener.open(spec, &Peer::Unix, events) {
            Ok(open) => open,
            Err(_) => panic!("there is room"),
        }
    }
}

impl EdgeControl {
    pub(super) fn new() -> Self {
        let control = Self(Arc::default());
        control.set_connections_max(usize::MAX);
        control
    }

    /// Binds what `specs`, the whole set of listeners, need and nobody has yet. Every address that cannot be had is in
    /// the error; then nothing has changed.
    pub fn prepare(&self, specs: Vec<ListenerSpec>) -> Result<Prepared, Vec<BindError>> {
        // one that is closing is as good as open: who wants it again gets the same socket
        let known = self.0.table.lock().known();
        let wanted: HashSet<&Address> = specs.iter().flat_map(|spec| &spec.addresses).collect();
        let (kept, leaving): (HashMap<_, _>, HashMap<_, _>) = known
            .into_iter()
            .partition(|(address, _)| wanted.contains(address));
        let mut bound = HashMap::new();
        let mut errors = Vec::new();
        let mut seen: Vec<&Address> = Vec::new();
        for spec in &specs {
            for address in &spec.addresses {
                let taken = |other: &&Address| *other == address || other.overlaps(address);
                let result = match seen.iter().any(taken) {
                    true => Err(io::ErrorKind::AddrInUse.into()),
                    false if kept.contains_key(address) => {
                        seen.push(address);
                        continue;
                    }
                    false => bind(address, spec.socket.reuse_port, &leaving),
                };
                seen.push(address);
                match result {
                    Ok(socket) => drop(bound.insert(address.clone(), socket)),
                    Err(error) => errors.push(BindError {
                        listener: spec.facts.name.clone(),
                        address: address.clone(),
                        error,
                    }),
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Prepared {
            control: self.clone(),
            specs,
            kept,
            bound,
        })
    }

    /// All listeners, those that are leaving last.
    pub fn listeners(&self) -> Vec<ListenerStatus> {
        let table = self.0.table.lock();
        let mut addresses: HashMap<Arc<str>, Vec<_>> = HashMap::new();
        for (address, acceptor) in &table.sockets {
            let name = acceptor.target.load().state.name.clone();
            let local = acceptor.bound.local_address();
            addresses
                .entry(name)
                .or_default()
                .push((address.clone(), local));
        }
        for places in addresses.values_mut() {
            places.sort_by_cached_key(|(address, _)| address.to_string());
        }
        let mut states: Vec<_> = table.listeners.values().collect();
        states.sort_by(|one, other| one.name.cmp(&other.name));
        states
            .into_iter()
            .chain(&table.leaving)
            .map(|state| ListenerStatus {
                name: state.name.clone(),
                addresses: match state.drain.has_begun() {
                    true => Vec::new(),
                    false => addresses.remove(&state.name).unwrap_or_default(),
                },
                connections: state.connections.get(),
                draining: state.drain.has_begun(),
            })
            .filter(|status| !status.draining || status.connections > 0 || table.draining)
            .collect()
    }

    /// What accepts at an address, kept open while it is held.
    #[cfg(test)]
    pub(super) fn acceptor(&self, address: &Address) -> Option<Arc<Acceptor>> {
        self.0.table.lock().sockets.get(address).cloned()
    }

    /// Open connections of all listeners, those that are leaving included.
    pub fn connections(&self) -> usize {
        let table = self.0.table.lock();
        let states = table.listeners.values().chain(&table.leaving);
        states.map(|state| state.connections.get()).sum()
    }

    /// How many connections there may be, over all listeners; those that are open stay.
    pub fn set_connections_max(&self, at_most: usize) {
        let activity = &self.0.activity;
        activity.connections_max.store(at_most, Ordering::Relaxed);
    }

    /// Says whether memory is short: meanwhile idle connections end, and the others after their current exchange.
    pub fn set_short(&self, short: bool) {
        let mut table = self.0.table.lock();
        table.short = short;
        for state in table.listeners.values().chain(&table.leaving) {
            state.drain.set_short(short);
        }
    }

    /// Whether memory is short, by what was said last.
    pub fn is_short(&self) -> bool {
        self.0.table.lock().short
    }

    /// Stops accepting for good. Idle connections end, the others after their current exchange.
    pub fn drain(&self) {
        let mut table = self.0.table.lock();
        table.draining = true;
        for (_, acceptor) in table.sockets.drain() {
            acceptor.stop();
        }
        for state in table.listeners.values() {
            state.drain.begin();
        }
    }

    /// Resolves when no connection is open. Follows [`EdgeControl::drain`]: before it, connections may come at any
    /// time.
    pub async fn drained(&self) {
        let activity = &self.0.activity;
        loop {
            let less = activity.less.notified();
            tokio::pin!(less);
            // registered before the counts are looked at, so that the last one to leave is not missed
            less.as_mut().enable();
            // in this order: a loop that has ended has counted whom it let in
            if activity.accepting.load(Ordering::Acquire) == 0 && self.connections() == 0 {
                return;
            }
            less.await;
        }
    }

    /// The service runs: sockets that wait begin to accept, later ones do so at once.
    pub(super) fn start(&self, launch: Launch) {
        let table = self.0.table.lock();
        if self.0.launch.set(launch).is_err() {
            return;
        }
        for acceptor in table.sockets.values() {
            self.launch(acceptor);
        }
    }

    fn listener(&self, name: Arc<str>, terms: Terms) -> Arc<ListenerState> {
        Arc::new(ListenerState {
            name,
            terms,
            drain: Arc::default(),
            connections: Count::default(),
            addresses: Arc::default(),
            activity: self.0.activity.clone(),
        })
    }

    /// Begins to accept, unless it does so already or the service does not run yet.
    fn launch(&self, acceptor: &Arc<Acceptor>) {
        let Some(launch) = self.0.launch.get() else {
            return;
        };
        let mut running = acceptor.stop.lock();
        if running.is_none() {
            let stop = Arc::new(Stop::default());
            *running = Some(stop.clone());
            launch(
                acceptor.clone(),
                Accepting::new(stop, self.0.activity.clone()),
            );
        }
    }
}

/// Binds an address, beside sockets that are `leaving` where it must be. With `shares` other processes may have it too.
fn bind(
    address: &Address,
    shares: bool,
    leaving: &HashMap<Address, Arc<Acceptor>>,
) -> io::Result<Bound> {
    let error = match Bound::new(address, shares) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        result => return result,
    };
    let in_the_way = leaving.iter().filter(|(other, _)| other.overlaps(address));
    let in_the_way: Vec<_> = in_the_way.map(|(_, acceptor)| &acceptor.bound).collect();
    match in_the_way.is_empty() {
        true => Err(error),
        false => Bound::beside(address, &in_the_way),
    }
}

impl Acceptor {
    fn stop(&self) {
        if let Some(stop) = self.stop.lock().take() {
            stop.told.store(true, Ordering::Release);
            stop.changed.notify_one();
        }
    }
}

/// A change of the listeners that can no longer fail. Dropped without [`Prepared::commit`], it closes what it bound.
#[must_use = "a change that is not committed is undone"]
pub struct Prepared {
    control: EdgeControl,
    specs: Vec<ListenerSpec>,
    /// Held, so that a socket that is to stay cannot be closed by another change meanwhile.
    kept: HashMap<Address, Arc<Acceptor>>,
    bound: HashMap<Address, Bound>,
}

impl Prepared {
    /// Makes the change. New connections get the new settings from here on; what is open stays open, except on
    /// listeners that are gone, or take connections on other terms: those drain. Does nothing once the edge itself drains.
    pub fn commit(mut self) {
        let control = self.control.clone();
        let mut table = control.0.table.lock();
        if table.draining {
            return;
        }
        let mut former = std::mem::take(&mut table.listeners);
        let mut leaving = Vec::new();
        let mut sockets = HashMap::new();
        for spec in std::mem::take(&mut self.specs) {
            let name = spec.facts.name.clone();
            let terms = Terms::of(&spec);
            let state = match former.remove(&name) {
                Some(state) if state.terms == terms => state,
                other => {
                    leaving.extend(other);
                    control.listener(name.clone(), terms)
                }
            };
            state.drain.set_short(table.short);
            let addresses = spec.addresses.clone();
            let target = Arc::new(Target {
                spec: Arc::new(spec),
                state: state.clone(),
            });
            for address in addresses {
                if let Some(acceptor) = self.acceptor(&address, &target) {
                    control.launch(&acceptor);
                    sockets.insert(address, acceptor);
                }
            }
            table.listeners.insert(name, state);
        }
        table.closing.retain(|(address, acceptor)| {
            acceptor.strong_count() > 0 && !sockets.contains_key(address)
        });
        for (address, acceptor) in std::mem::replace(&mut table.sockets, sockets) {
            if !table.sockets.contains_key(&address) {
                acceptor.stop();
                table.closing.push((address, Arc::downgrade(&acceptor)));
            }
        }
        table.leaving.retain(|state| state.connections.get() > 0);
        for state in former.into_values().chain(leaving) {
            state.drain.begin();
            table.leaving.push(state);
        }
    }

    /// The socket of an address, accepting for `target`.
    fn acceptor(&mut self, address: &Address, target: &Arc<Target>) -> Option<Arc<Acceptor>> {
        if let Some(acceptor) = self.kept.remove(address) {
            acceptor.bound.set_mode(address);
            acceptor.bound.set_options(&target.spec.socket);
            acceptor.target.store(target.clone());
            return Some(acceptor);
        }
        let bound = self.bound.remove(address)?;
        bound.set_options(&target.spec.socket);
        Some(Arc::new(Acceptor {
            local: bound.local_address(),
            bound,
            target: ArcSwap::new(target.clone()),
            stop: Mutex::new(None),
        }))
    }
}
