//! A compiled route: what happens to the requests that it takes.

use super::rewrite::Rewrite;
use super::upstream::{Split, Upstream};
use crate::exchange::View;
use crate::exchange::answer::Answer;
use crate::exchange::template::Template;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::RouteMetrics;
use crate::policy::chain::Chain;
use crate::policy::cors::Origin;
use crate::upstream::service::Overrides;
use crate::upstream::{Retries, Service};
use http::StatusCode;
use std::sync::Arc;
use std::time::Duration;

/// See the module.
pub struct Route {
    pub name: Arc<str>,
    pub group: Option<Arc<str>>,
    /// What it matches, a line for each alternative, for operators.
    pub matches: Vec<String>,
    pub target: Target,
    pub chain: Chain,
    pub rewrite: Option<Rewrite>,
    /// The kinds that are turned off here in so many words.
    pub waives: Vec<&'static str>,
    /// Whether what a rewrite makes has to be asked for among the other routes: one to the same service is guarded by
    /// what this one lacks (security requirement 4.4).
    pub rechecks: bool,
    /// What the route or its group says about time; the rest is the service's.
    pub timeouts: Overrides,
    /// How its requests are tried again, by service, where the route or its group says something about that; the rest is
    /// the service's.
    pub retries: Box<[(Arc<str>, Arc<Retries>)]>,
    /// What the route or its group says about body sizes; the rest is the service's.
    pub body_limit: Option<Limit>,
    pub allow_encoded_slash: bool,
    /// Set where WebSockets may be opened.
    pub websocket: Option<Arc<WebSocket>>,
    pub metrics: Arc<RouteMetrics>,
    pub access_log: Option<Arc<AccessLog>>,
}

impl Route {
    /// A kind of policy that guards a request of the other route, and guarded not the one of this route that it was
    /// made from.
    pub fn lacks(&self, own: View<'_>, other: &Route, theirs: View<'_>) -> Option<&'static str> {
        let guarded = |kind| {
            let mut policies = self.chain.policies().iter();
            self.waives.contains(&kind)
                || policies.any(|policy| policy.kind == kind && policy.guards(own))
        };
        let guards = other.chain.policies().iter();
        let mut guards = guards.filter(|policy| policy.guards(theirs));
        guards.find_map(|policy| (!guarded(policy.kind)).then_some(policy.kind))
    }

    /// Every service that its requests may reach.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.target.services()
    }

    /// What divides its requests among services, if anything does.
    pub fn split(&self) -> Option<&Arc<Split>> {
        match &self.target {
            Target::Upstream(Upstream::Split(split)) => Some(split),
            _ => None,
        }
    }

    /// How its requests to this service are tried again.
    pub fn retries_at<'a>(&'a self, service: &'a Service) -> &'a Arc<Retries> {
        let mut own = self.retries.iter();
        let own = own.find(|(name, _)| Arc::ptr_eq(name, &service.name));
        own.map_or(&service.retries, |(_, retries)| retries)
    }

    /// Whether both may send to the same service.
    pub fn shares_service(&self, other: &Route) -> bool {
        let theirs = |own: &Arc<Service>| other.services().any(|service| Arc::ptr_eq(service, own));
        self.services().any(theirs)
    }
}

/// Which WebSockets may be opened, and how long they may last.
pub struct WebSocket {
    /// Of pages of which origins; of the host that is asked for where there are none.
    pub origins: Option<Vec<Origin>>,
    /// Of pages of any origin.
    pub any: bool,
    /// How long both sides may be silent.
    pub idle: Option<Duration>,
    pub max_age: Option<Duration>,
    /// Bytes of the longest message, in either direction.
    pub message: Option<u64>,
}

/// How a route ends.
pub enum Target {
    Upstream(Upstream),
    Redirect {
        to: Template,
        status: StatusCode,
    },
    Respond(Box<Answer>),
    /// Nothing matched.
    None,
}

impl Target {
    /// Every service that may be reached.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        let (one, several) = match self {
            Target::Upstream(Upstream::Service(service)) => (Some(service), None),
            Target::Upstream(Upstream::Split(split)) => (None, Some(split.services())),
            Target::Redirect { .. } | Target::Respond(_) | Target::None => (None, None),
        };
        one.into_iter().chain(several.into_iter().flatten())
    }
}

/// A bound that may be turned off in so many words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Off,
    Bytes(u64),
}

impl Limit {
    /// Whether this many bytes are too many.
    pub fn exceeded_by(self, bytes: u64) -> bool {
        matches!(self, Limit::Bytes(most) if bytes > most)
    }
}
