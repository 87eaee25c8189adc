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

pub mod chain;
pub mod compile;
pub mod cors;
pub mod headers;
pub mod ip_filter;
pub mod registry;
pub mod respond;
pub mod scope;

use crate::diagnostic::Diagnostic;
use crate::exchange::answer::Answer;
use crate::exchange::{Exchange, View};
use crate::problem::Problem;
use futures::future::BoxFuture;
use pingora_http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
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
    /// Headers and bodies of what was allowed.
    Transform,
}

impl Stage {
    /// The word of design 4 for it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Block | Stage::Filter | Stage::Preflight => "guard",
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
}

impl Step<'_> {
    /// The request goes on.
    pub fn proceed() -> Self {
        Step::Now(Ok(Flow::Continue))
    }
}

/// Acts before the request is sent on, or answered from a cache.
pub trait OnRequest: Send + Sync {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange<'_>) -> Step<'a>;
}

/// Acts on the copy of the head that an endpoint gets, once for each try.
pub trait OnUpstreamRequest: Send + Sync {
    fn on_upstream_request(&self, view: View<'_>, upstream: &mut RequestHeader);
}

/// Acts on the head of whatever the client gets, the gateway's own answers included.
pub trait OnResponse: Send + Sync {
    fn on_response(&self, view: View<'_>, response: &mut ResponseHeader);
}

/// The moments in which a compiled policy acts.
#[derive(Clone, Default)]
pub struct Hooks {
    pub on_request: Option<Arc<dyn OnRequest>>,
    pub on_upstream_request: Option<Arc<dyn OnUpstreamRequest>>,
    pub on_response: Option<Arc<dyn OnResponse>>,
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

    pub fn on_response(mut self, hook: Arc<impl OnResponse + 'static>) -> Self {
        self.on_response = Some(hook);
        self
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

    /// Makes it ready for requests. Errors refuse the whole configuration.
    fn compile(config: &Self::Config, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic>;
}
