//! A compiled route: what happens to the requests that it takes.

use super::rewrite::Rewrite;
use super::upstream::Upstream;
use crate::exchange::answer::Answer;
use crate::exchange::template::Template;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::RouteMetrics;
use crate::policy::chain::Chain;
use crate::upstream::service::Overrides;
use http::StatusCode;
use std::sync::Arc;

/// See the module.
pub struct Route {
    pub name: Arc<str>,
    pub group: Option<Arc<str>>,
    /// What it matches, a line for each alternative, for operators.
    pub matches: Vec<String>,
    pub target: Target,
    pub chain: Chain,
    pub rewrite: Option<Rewrite>,
    /// What the route or its group says about time; the rest is the service's.
    pub timeouts: Overrides,
    /// What the route or its group says about body sizes; the rest is the service's.
    pub body_limit: Option<Limit>,
    pub allow_encoded_slash: bool,
    pub metrics: Arc<RouteMetrics>,
    pub access_log: Option<Arc<AccessLog>>,
}

/// How a route ends.
pub enum Target {
    Upstream(Upstream),
    Redirect {
        to: Template,
        status: StatusCode,
    },
    Respond(Answer),
    /// Nothing matched.
    None,
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
