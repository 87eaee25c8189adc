//! Where endpoints come from when the configuration does not hold their addresses: DNS and watched files.
//!
//! ```yaml
//! services:
//!   orders: {endpoints: [orders.internal:8080, 10.0.0.9:8080]}           # A and AAAA, beside a fixed one
//!   billing: {endpoints: {srv: _http._tcp.billing.internal}}              # port and weight from the records
//! routes:
//!   orders: {match: {path: /orders/**}, service: orders}
//!   billing: {match: {path: /billing/**}, service: billing}
//! ```
//!
//! Nothing here is on the request path: a job of each service asks its sources when they are due, and puts another set
//! of endpoints in the place of the last one ([`Service::replace`]) when the answer differs. What always holds:
//!
//! - An answer is good for its TTL (1 s to 5 min), and is kept when asking fails, for `max_stale` longer (RFC 8767).
//!   NXDOMAIN and an answer without records are failures too: a name that vanished is mistaken more often than meant.
//! - The last good answer lives in `state/`: a reload starts with it, and an upgrade hands it over.
//! - The order of addresses, and repeated ones, mean nothing. The first source in the configuration has an address.
//! - Addresses that no origin has ([`gate`]: loopback, link-local, metadata services, …) are dropped unless `allow`
//!   names them, whoever answered; the gateway's own listeners always (security requirements 10 and 11.7).
//!
//! Sources are not Pingora's `ServiceDiscovery`: that is asked at one fixed pace, so that no TTL can be honoured, it
//! swallows errors, and it makes the weight a part of an endpoint's identity, so that a new weight forgets its health.

pub mod answer;
pub mod gate;
pub mod resolver;
mod source;
pub mod srv;

pub use answer::Listed;
pub use gate::{Gate, Refusal};
pub use resolver::Resolver;
pub use source::{Kind, Source, SourceStatus};

use crate::observe::random;
use crate::state::monotonic_nanos;
use crate::upstream::service::Placed;
use crate::upstream::{Place, Service};
use ahash::AHashSet;
use futures::future::join_all;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// The most endpoints that a service gets from all of its sources.
pub const ENDPOINTS_MAX: usize = 10_000;

/// What finds the endpoints of a service.
pub struct Finder {
    /// Endpoints whose addresses are written.
    pub fixed: Vec<Placed>,
    /// In the order in which they are written.
    pub sources: Vec<Source>,
    pub gate: Gate,
    /// How long an answer is kept after its TTL when no other can be had.
    pub max_stale: Duration,
    pub resolver: Arc<Resolver>,
}

impl Finder {
    /// The endpoints as far as they are known at this moment of the monotonic clock.
    pub fn placed(&self, now: u64) -> Vec<Placed> {
        let mut seen: AHashSet<Place> = self
            .fixed
            .iter()
            .map(|placed| placed.place.clone())
            .collect();
        let mut found: Vec<(std::net::SocketAddr, Placed)> = Vec::new();
        for source in &self.sources {
            for one in source.found(now, self.max_stale, &self.gate) {
                let place = Place::Tcp(one.address);
                if seen.insert(place.clone()) {
                    let placed = Placed {
                        place,
                        weight: one.weight,
                        name: one.name,
                    };
                    found.push((one.address, placed));
                }
            }
        }
        found.sort_by_key(|(address, _)| *address);
        let room = ENDPOINTS_MAX.saturating_sub(self.fixed.len());
        let found = found.into_iter().take(room).map(|(_, placed)| placed);
        self.fixed.iter().cloned().chain(found).collect()
    }
}

/// Keeps the endpoints of one service what its sources say.
pub struct Discovery {
    pub service: Arc<Service>,
    finder: Finder,
    /// What the service's endpoints were last made from.
    applied: Mutex<Vec<Placed>>,
}

impl Discovery {
    /// `applied` is what the service's endpoints were made from.
    pub fn new(service: Arc<Service>, finder: Finder, applied: Vec<Placed>) -> Self {
        let discovery = Self {
            service,
            finder,
            applied: Mutex::new(applied),
        };
        discovery.say_whether_known(monotonic_nanos());
        discovery
    }

    /// Asks every source whenever it is due, for as long as this is polled.
    pub async fn run(&self) {
        join_all(self.finder.sources.iter().map(|source| self.follow(source))).await;
    }

    async fn follow(&self, source: &Source) {
        loop {
            let wait = source.wait(monotonic_nanos(), self.finder.max_stale);
            tokio::time::sleep(wait).await;
            if source.is_due(monotonic_nanos()) {
                self.ask(source).await;
            }
            self.apply();
        }
    }

    async fn ask(&self, source: &Source) {
        let finder = &self.finder;
        source.refresh(&finder.resolver, &finder.gate).await;
    }

    /// Asks the sources that have never answered, until each has, or has said that there is no answer.
    pub async fn warm(&self) {
        let cold = self.finder.sources.iter().filter(|one| !one.is_settled());
        join_all(cold.map(|source| async {
            while !source.is_settled() {
                let wait = source.wait(monotonic_nanos(), self.finder.max_stale);
                tokio::time::sleep(wait).await;
                self.ask(source).await;
            }
        }))
        .await;
        self.apply();
    }

    /// Whether every source has answered, or has said that there is no answer.
    pub fn is_settled(&self) -> bool {
        self.finder.sources.iter().all(Source::is_settled)
    }

    /// What is known of each source.
    pub fn status(&self) -> Vec<SourceStatus> {
        let now = monotonic_nanos();
        let sources = self.finder.sources.iter();
        sources
            .map(|source| source.status(now, self.finder.max_stale, &self.finder.gate))
            .collect()
    }

    /// Puts other endpoints in the place of the service's if they differ.
    fn apply(&self) {
        let now = monotonic_nanos();
        let placed = self.finder.placed(now);
        let mut applied = self.applied.lock();
        if placed.is_empty() {
            // before anybody finds none, so that it is known why
            self.service.set_unknown(self.lacks_an_answer(now));
        }
        if *applied != placed {
            let endpoints = placed.iter().filter_map(|placed| {
                // only a Unix path could be none, and those are fixed
                self.service.maker.endpoint(placed.clone()).ok()
            });
            self.service.replace(endpoints.collect());
            tracing::info!(
                service = &*self.service.name,
                before = applied.len(),
                now = placed.len(),
                "the endpoints of a service changed"
            );
            *applied = placed;
        }
        drop(applied);
        self.say_whether_known(now);
    }

    /// A service without endpoints is unready as long as it lacks an answer; else it just has none.
    fn say_whether_known(&self, now: u64) {
        let unknown = self.applied.lock().is_empty() && self.lacks_an_answer(now);
        self.service.set_unknown(unknown);
    }

    fn lacks_an_answer(&self, now: u64) -> bool {
        let lacks = |source: &Source| !source.has_answer(now, self.finder.max_stale);
        self.finder.sources.iter().any(lacks)
    }
}

/// A random number of 53 bits as a share of one.
pub(crate) fn share() -> f64 {
    (random::next() >> 11) as f64 / (1_u64 << 53) as f64
}
