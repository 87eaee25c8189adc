//! What the configuration means: immutable, every name resolved, every policy compiled, every metric looked up.
//!
//! [`compile::compile`] is pure apart from adopting [`crate::state`]: it waits for nothing and spawns nothing. The result
//! is published with one atomic store. A request takes the current snapshot once, when it begins, and keeps it until its
//! log line, so it never sees two generations.

pub mod compile;
pub mod rewrite;
pub mod route;
pub mod upstream;

use crate::config::model::{ListenerLimits, ListenerSocket, Protocol};
use crate::discovery::Discovery;
use crate::exchange::View;
use crate::exchange::caller::IdentityFields;
use crate::exchange::client::{ForwardedBy, TrustedProxies};
use crate::exchange::connection::ListenerFacts;
use crate::exchange::head_limits::HeadLimits;
use crate::exchange::via::Via;
use crate::identity::credentials::{ApiKeys, passwords::Passwords};
use crate::issuers::Issuer;
use crate::limit::overload::Limits;
use crate::policy::chain::Compiled;
use crate::router::{Found, Router};
use crate::store::Store;
use crate::tls::{Certificates, Oldest, TicketSecrets};
use crate::units::Address;
use crate::upstream::Service;
use ahash::AHashMap;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::Duration;

pub use route::{Route, Target};

/// One compiled configuration.
pub struct Snapshot {
    /// Counts the configurations that this process has taken: 1 is the one it started with.
    pub generation: u64,
    pub router: Router,
    /// In the router's order.
    pub routes: Box<[Arc<Route>]>,
    /// What requests get that no route matches: the policies of the top level, and a 404.
    pub unrouted: Arc<Route>,
    pub listeners: AHashMap<Arc<str>, Arc<Listener>>,
    /// What TLS sessions are resumed with, where it is not made up.
    pub ticket_secrets: Option<TicketSecrets>,
    pub services: Vec<Arc<Service>>,
    /// What keeps the endpoints of some services current.
    pub discoveries: Vec<Arc<Discovery>>,
    /// Where gateways count together.
    pub stores: Vec<Arc<Store>>,
    /// Those who sign tokens.
    pub issuers: Vec<Arc<Issuer>>,
    /// What the process may have in hand.
    pub overload: Limits,
    /// How long what needs the network is waited for before it serves without.
    pub warm_timeout: Duration,
    /// What the gateway calls itself towards endpoints, where it does.
    pub via: Option<Arc<Via>>,
    /// What the headers are called that tell endpoints who calls.
    pub identity_fields: IdentityFields,
    /// The API keys of all consumers, if there are any.
    pub api_keys: Option<Arc<ApiKeys>>,
    /// The passwords of all consumers, if there are any.
    pub passwords: Option<Arc<Passwords>>,
    /// The policies that count by key, by their place.
    pub counting: Vec<Arc<Compiled>>,
    /// The configuration as it is in force, secrets masked.
    pub effective: serde_json::Value,
    pub warnings: Vec<crate::diagnostic::Diagnostic>,
}

/// Why a rewritten request is not sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass<'a> {
    /// It is one of this route, which sends to the same service, and which a policy of this kind guards.
    Guard(&'a str, &'static str),
    /// Servers differ on which route it would be one of.
    Ambiguous,
}

impl Snapshot {
    /// Whether a request that `by` made by its rewrite leads round what guards another route of the same service
    /// (security requirement 4.4).
    pub fn bypass(&self, by: &Route, own: View<'_>, rewritten: View<'_>) -> Option<Bypass<'_>> {
        match self.router.find(rewritten) {
            Found::Route { index, .. } => self.bypassed(index, by, own, rewritten),
            Found::MethodNotAllowed { allow } => {
                // asked for with a method that the place takes, it would be somebody's
                let methods = allow.to_str().unwrap_or_default().split(", ");
                let mut head = rewritten.request.clone();
                methods
                    .filter_map(|method| method.parse().ok())
                    .find_map(|method| {
                        head.set_method(method);
                        let allowed = View {
                            request: &head,
                            ..rewritten
                        };
                        match self.router.find(allowed) {
                            Found::Route { index, .. } => self.bypassed(index, by, own, allowed),
                            _ => None,
                        }
                    })
            }
            Found::Ambiguous => Some(Bypass::Ambiguous),
            Found::None => None,
        }
    }

    fn bypassed(
        &self,
        index: usize,
        by: &Route,
        own: View<'_>,
        rewritten: View<'_>,
    ) -> Option<Bypass<'_>> {
        let asked = self.routes.get(index)?;
        if !by.shares_service(asked) {
            return None;
        }
        let kind = by.lacks(own, asked, rewritten)?;
        Some(Bypass::Guard(&asked.name, kind))
    }
}

/// What a listener means for the requests that come through it.
#[derive(Clone)]
pub struct Listener {
    pub name: Arc<str>,
    pub facts: Arc<ListenerFacts>,
    pub addresses: Vec<Address>,
    pub protocols: Vec<Protocol>,
    pub proxy_protocol: bool,
    pub trusted: TrustedProxies,
    pub forwarded: ForwardedBy,
    pub role: Role,
    pub limits: ListenerLimits,
    /// Of `limits`, those of heads: the edge holds HTTP/1 to them, and `proxy::intake` HTTP/2.
    pub head: HeadLimits,
    pub socket: ListenerSocket,
    /// Gone from the configuration; its last connections are being drained.
    pub retired: bool,
    pub certificates: Option<Arc<Certificates>>,
    pub oldest_tls: Oldest,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Routes,
    /// Sends everything to the same URL over TLS.
    RedirectHttps {
        /// Where TLS is accepted, if anywhere. Clients can reach that port who reached this listener by its own; for
        /// others something stands between, and the port of TLS is the usual one.
        tls_port: Option<u16>,
    },
    /// Answers for operators instead of routing.
    Serve {
        health: bool,
        metrics: bool,
    },
}

/// Where the current snapshot is found.
pub struct Snapshots(ArcSwap<Snapshot>);

impl Snapshots {
    pub fn new(first: Arc<Snapshot>) -> Self {
        Self(ArcSwap::new(first))
    }

    /// The snapshot of this moment. A request asks once.
    pub fn current(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Makes a snapshot the current one. Requests in flight keep theirs.
    pub fn publish(&self, next: Arc<Snapshot>) {
        self.0.store(next);
    }
}
