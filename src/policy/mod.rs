//! What is applied to a request besides sending it on: the trait of a policy, its moments, and how it is configured.
//!
//! A policy is a folder (or a file) and one line in [`registry`]. It is compiled once for the place where it is written
//! and acts in the moments that its [`Hooks`] name. Stages order policies, not the file (design 4); within a stage the
//! wider scope acts first, and responses run in reverse. `when` and `mode: shadow` wrap any policy, once, in [`chain`].
//!
//! ```yaml
//! policies:
//!   ip_filter: {deny: [192.0.2.0/24]}
//!   headers: {response: {set: {x-served-by: northgate}}}
//!   respond.maintenance: {status: 503, body: "back at noon", when: {path: /shop/**}, mode: shadow}
//! ```

pub mod amounts;
pub mod auth;
pub mod authorize;
pub mod chain;
pub mod compile;
pub mod compress;
pub mod concurrency;
pub mod cors;
pub mod counting;
pub mod headers;
pub mod ip_filter;
pub mod key;
pub mod mirror;
pub mod plan;
pub mod quota;
pub mod rate_limit;
pub mod registry;
pub mod respond;
pub mod scope;
pub mod told;

use crate::diagnostic::Diagnostic;
use crate::exchange::answer::Answer;
use crate::exchange::fact::Fact;
use crate::exchange::{Exchange, Facts, Hold, View};
use crate::problem::Problem;
use crate::units::{Span, Spanned};
use crate::upstream::Service;
use bytes::Bytes;
use futures::future::BoxFuture;
use pingora_http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

pub use compile::CompileContext;
pub use registry::{KINDS, Kind};
pub use scope::{Entry, Mode, Policies, PolicyKey};

/// When in a request a policy acts. The order of the cases is the order of the pipeline, and it is security.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Guard: answers that need nothing but the request, such as maintenance.
    Block,
    /// Guard: who may connect at all.
    Filter,
    /// Guard: CORS preflight, which carries no credentials and is answered before they are asked for.
    Preflight,
    /// Guard: limits that hold before anybody is asked who he is.
    Shield,
    /// Guard: places in flight of one key each; see [`Stage::OwnPlaces`].
    ShieldOwnPlaces,
    /// Guard: places that all share.
    ShieldPlaces,
    /// Who calls.
    Authenticate,
    /// Whether whoever calls may do this.
    Authorize,
    /// How much of what is allowed.
    Limit,
    /// The same over long times: what is over a rate uses up nothing that was bought.
    Quota,
    /// How much of it at the same time, once nothing else refuses it, so that what is refused takes no place and waits for
    /// none: places of one key each. They are taken before those that all share, and those of narrower scopes first: who
    /// waits for a place of few holds no place of many.
    OwnPlaces,
    /// Places that all share.
    Places,
    /// Headers and bodies of what was allowed.
    Transform,
}

impl Stage {
    /// Whether what a policy of this stage has counted is given back where one of the other refuses the request.
    fn counts_with(self, other: Stage) -> bool {
        use Stage::*;
        match other {
            OwnPlaces | Places => matches!(self, Limit | Quota | OwnPlaces | Places),
            Quota => matches!(self, Limit | Quota),
            ShieldOwnPlaces | ShieldPlaces => {
                matches!(self, Shield | ShieldOwnPlaces | ShieldPlaces)
            }
            _ => self == other,
        }
    }

    /// Where it acts at a plan: no place there is for everybody.
    pub fn of_plan(self) -> Self {
        match self {
            Stage::Places => Stage::OwnPlaces,
            other => other,
        }
    }

    /// Whether the narrowest scope acts first in it.
    pub fn begins_within(self) -> bool {
        use Stage::*;
        matches!(self, ShieldOwnPlaces | ShieldPlaces | OwnPlaces | Places)
    }

    /// The word of design 4 for it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Block
            | Stage::Filter
            | Stage::Preflight
            | Stage::Shield
            | Stage::ShieldOwnPlaces
            | Stage::ShieldPlaces => "guard",
            Stage::Authenticate => "authenticate",
            Stage::Authorize => "authorize",
            Stage::Limit | Stage::Quota | Stage::OwnPlaces | Stage::Places => "limit",
            Stage::Transform => "transform",
        }
    }
}

/// What a policy decided on a request.
#[derive(Debug)]
pub enum Flow {
    Continue,
    /// The request is answered here; nothing is sent on.
    Answer(Box<Answer>),
}

/// A decision, or the promise of one. Most policies decide at once, and then nothing is allocated.
pub enum Step<'a> {
    Now(Result<Flow, Problem>),
    Later(BoxFuture<'a, Result<Flow, Problem>>),
    /// It waits for its turn, for which nothing of the request is needed: a client that leaves ends the wait. What the
    /// turn brings, the request holds until it is over.
    Queue(Turn),
}

/// A wait for what a request holds while it is served.
pub type Turn = BoxFuture<'static, Result<Arc<dyn Hold>, Problem>>;

impl Step<'_> {
    /// The request goes on.
    pub fn proceed() -> Self {
        Step::Now(Ok(Flow::Continue))
    }
}

/// Acts before the request is sent on, or answered from a cache.
pub trait OnRequest: Send + Sync {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange<'_>) -> Step<'a>;

    /// Gives back what a request took that a later policy of the same stage has refused, or one that counts with it.
    fn give_back(&self, _facts: &mut Facts) {}
}

/// Acts on the copy of the head that an endpoint gets, once for each try.
pub trait OnUpstreamRequest: Send + Sync {
    fn on_upstream_request(&self, view: View<'_>, upstream: &mut RequestHeader);
}

/// Takes note of a request as it is sent on, and changes nothing.
pub trait OnRequestBody: Send + Sync {
    /// Looks at the head that an endpoint of the service gets, which every [`OnUpstreamRequest`] is done with; once for
    /// each request, however often it is tried. None if the body is of no interest.
    fn on_request_body(
        &self,
        view: View<'_>,
        upstream: &RequestHeader,
        service: &Service,
    ) -> Option<Box<dyn BodyTap>>;
}

/// What one policy notes of one request's body.
pub trait BodyTap: Send + Sync {
    /// Looks at a piece. At the end, which comes once and only if the request is complete, hands out what is left to be
    /// done in the background, if anything.
    fn piece(&mut self, piece: &[u8], end: bool) -> Option<BoxFuture<'static, ()>>;

    /// The request is tried again, and its body comes once more from the beginning.
    fn again(&mut self);
}

/// Acts on the head of whatever the client gets, the gateway's own answers included.
pub trait OnResponse: Send + Sync {
    fn on_response(&self, view: View<'_>, response: &mut ResponseHeader);
}

/// Acts on the body of an endpoint's answer, on its way to the client.
pub trait OnResponseBody: Send + Sync {
    /// Looks at the head, which every [`OnResponse`] is done with, and makes it say what the body is going to be. None
    /// leaves the body as it is. What is filtered has no length any more: whoever sends it sees to the framing.
    fn on_response_body(
        &self,
        view: View<'_>,
        response: &mut ResponseHeader,
    ) -> Option<Box<dyn BodyFilter>>;
}

/// What one policy does to one body, piece by piece.
pub trait BodyFilter: Send + Sync {
    /// Changes a piece; none, or an empty one, holds it back. `end` comes once, with the last piece or with none. A body
    /// that breaks off has no end.
    ///
    /// # Errors
    /// The body can't go on. What has been sent of it must not pass for complete.
    fn piece(&mut self, piece: &mut Option<Bytes>, end: bool) -> io::Result<()>;
}

/// The moments in which a compiled policy acts.
#[derive(Clone, Default)]
pub struct Hooks {
    pub on_request: Option<Arc<dyn OnRequest>>,
    pub on_upstream_request: Option<Arc<dyn OnUpstreamRequest>>,
    pub on_request_body: Option<Arc<dyn OnRequestBody>>,
    pub on_response: Option<Arc<dyn OnResponse>>,
    pub on_response_body: Option<Arc<dyn OnResponseBody>>,
    /// The service that it sends to, beside that of the route.
    pub beside: Option<Arc<Service>>,
    /// Where it says that what is open ends with its credential.
    pub closes_at_expiry: Option<Span>,
    /// Nobody passes it whose credential has not been verified.
    pub needs_an_identity: bool,
    /// The paths that it answers itself, where a route that it acts on matches them.
    pub own_paths: Box<[OwnPath]>,
    /// What nobody passes it without.
    pub needs: Knowledge,
    /// What it may find out about who calls.
    pub finds: Knowledge,
    /// The facts that it counts by.
    pub counts_by: Box<[Spanned<Fact>]>,
    /// Where it says whose requests go first.
    pub ranks_by_plan: Option<Span>,
    /// What it counts, for operators.
    pub counting: Option<Arc<dyn counting::Counting>>,
    /// What it does in the background.
    pub tends: Option<Arc<dyn Tends>>,
}

/// Does something in the background for as long as the policy is in force.
pub trait Tends: Send + Sync {
    /// Does it, and does not end.
    fn tend(&self) -> BoxFuture<'_, ()>;
}

/// A path that a policy answers itself.
#[derive(Clone, Debug)]
pub struct OwnPath {
    /// The key of its setting.
    pub setting: &'static str,
    pub path: Arc<str>,
    /// On whose behalf: another policy with the same answers the same.
    pub whose: Arc<str>,
    /// Where it is written, or what it is a default of.
    pub at: Span,
}

/// What credentials of some kinds say about their bearers, and those of others never do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Knowledge {
    pub scopes: bool,
    pub claims: bool,
}

impl Hooks {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn on_request(mut self, hook: Arc<impl OnRequest + 'static>) -> Self {
        self.on_request = Some(hook);
        self
    }

    pub fn on_upstream_request(mut self, hook: Arc<impl OnUpstreamRequest + 'static>) -> Self {
        self.on_upstream_request = Some(hook);
        self
    }

    pub fn on_request_body(mut self, hook: Arc<impl OnRequestBody + 'static>) -> Self {
        self.on_request_body = Some(hook);
        self
    }

    pub fn on_response(mut self, hook: Arc<impl OnResponse + 'static>) -> Self {
        self.on_response = Some(hook);
        self
    }

    pub fn on_response_body(mut self, hook: Arc<impl OnResponseBody + 'static>) -> Self {
        self.on_response_body = Some(hook);
        self
    }

    /// It sends to that service too.
    pub fn beside(mut self, service: Arc<Service>) -> Self {
        self.beside = Some(service);
        self
    }

    /// Whether it acts on nothing but what is exchanged with an endpoint.
    pub fn needs_an_endpoint(&self) -> bool {
        self.on_request.is_none()
            && self.on_response.is_none()
            && (self.on_request_body.is_some() || self.on_response_body.is_some())
    }
}

/// One kind of policy. Its key in the configuration is the name of its module.
pub trait Policy {
    /// What stands under the key. Unknown fields must be errors.
    type Config: DeserializeOwned + Serialize + JsonSchema + Debug + Send + Sync + 'static;

    /// Where among the other kinds it acts.
    const STAGE: Stage;

    /// Whether policies of one key add up over scopes, where others replace the wider one.
    const ADDS_UP: bool = false;

    /// Whether it alters what it lets pass. Such a policy can't be shadowed: shadow must not change the exchange.
    const ALTERS: bool = false;

    /// Whether `when` may limit it to some requests.
    const CONDITIONAL: bool = true;

    /// Whether `on` alone says enough, because every setting has a default.
    const BARE: bool = false;

    /// Whether a plan may have it.
    const OF_PLANS: bool = false;

    /// Where this one acts, if its settings say so.
    fn stage(_config: &Self::Config) -> Stage {
        Self::STAGE
    }

    /// Makes it ready for requests. Errors refuse the whole configuration.
    fn compile(config: &Self::Config, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic>;
}
