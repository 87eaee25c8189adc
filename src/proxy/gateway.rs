//! Pingora's callbacks, each a few lines that name the step it runs.

use super::context::RequestContext;
use super::patience::unless_gone;
use super::tap::Background;
use super::{finish, forward, intake, plan, respond, shared, signed, tap};
use crate::exchange::{Exchange, View};
use crate::limit::overload::{Desk, Refused};
use crate::observe::metrics::Metrics;
use crate::observe::random;
use crate::policy::chain::Stop;
use crate::problem::{Kind, Problem};
use crate::snapshot::{Role, Snapshots, Target};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, header};
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

/// Answers for operators on listeners that `serve` health or metrics.
pub trait Operators: Send + Sync {
    /// The answer to a read-only request, or none if nothing is served at that path.
    fn answer(
        &self,
        path: &str,
        health: bool,
        metrics: bool,
    ) -> Option<crate::exchange::answer::Answer>;
}

/// The gateway as Pingora sees it.
pub struct Gateway {
    pub snapshots: Arc<Snapshots>,
    pub metrics: Arc<Metrics>,
    pub operators: Arc<dyn Operators>,
    pub background: Arc<dyn Background>,
    /// Where requests of this thread take their places among all in flight.
    pub desk: Desk,
}

/// What a request is answered with before it would be sent on.
enum Early {
    Answer(Box<crate::exchange::answer::Answer>),
    Problem(Box<Problem>),
    /// Nothing: the client has left.
    Gone(Box<Error>),
}

impl From<Problem> for Early {
    fn from(problem: Problem) -> Self {
        Early::Problem(Box::new(problem))
    }
}

impl From<Stop> for Early {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Answer { answer, .. } => Early::Answer(answer),
            Stop::Problem { mut problem, by } => {
                // the log says who refused
                problem.source.get_or_insert_with(|| by.to_string());
                Early::Problem(problem)
            }
            // who calls waits for the turn, and asks on behind it
            Stop::Queue(_) => Problem::new(Kind::Internal).into(),
        }
    }
}

impl Gateway {
    /// Runs a request up to the point where it is sent on, or to the answer that it gets instead.
    async fn decide(
        &self,
        session: &mut Session,
        context: &mut RequestContext,
    ) -> std::result::Result<(), Early> {
        // maintenance and filters of the top level hold for what no route takes too
        let unrouted =
            |problem: &Problem| matches!(problem.kind, Kind::RouteNone | Kind::RouteMethod);
        let understood = intake::admit(session, context);
        if let Err(problem) = understood {
            if unrouted(&problem) {
                self.take_in(context)?;
                Self::policies(session, context).await?;
            }
            return Err(problem.into());
        }
        self.take_in(context)?;
        if let Some(answer) = self.listener_answer(session, context) {
            return Err(answer);
        }
        Self::policies(session, context).await?;
        match &context.route.target {
            Target::Upstream(_) => {}
            Target::Respond(answer) => return Err(Early::Answer(answer.clone())),
            Target::Redirect { to, status } => {
                let view = respond::view_of(context, session);
                // as a URL: a value of the request must not become another host or another parameter
                let location = view.and_then(|view| to.url(view));
                let location = location.and_then(|location| HeaderValue::try_from(location).ok());
                return Err(redirect(*status, location));
            }
            Target::None => return Err(Problem::new(Kind::RouteNone).into()),
        }
        match plan::begin(session, context)? {
            None => Ok(()),
            Some(plan) => {
                let placed = unless_gone(session, plan.wait(context));
                Ok(Box::pin(placed).await.map_err(Early::Gone)??)
            }
        }
    }

    /// Takes a request in among those in flight, unless the process has too much in hand. What is asked of listeners for
    /// operators is always taken: it says how things are.
    fn take_in(&self, context: &mut RequestContext) -> std::result::Result<(), Problem> {
        let listener = context.listener.as_deref();
        if listener.is_some_and(|listener| matches!(listener.role, Role::Serve { .. })) {
            return Ok(());
        }
        match self.desk.enter(random::next) {
            Ok((place, level)) => {
                context.place = Some(place);
                if let Some(facts) = &mut context.facts {
                    facts.overload = level;
                }
                Ok(())
            }
            Err(refused) => Err(overloaded(refused)),
        }
    }

    /// Answers a request that is not sent on.
    async fn answer(
        &self,
        session: &mut Session,
        context: &mut RequestContext,
        early: Early,
    ) -> Result<()> {
        match early {
            Early::Answer(answer) => respond::answer(session, context, &answer).await,
            Early::Problem(problem) => {
                self.metrics.refused(problem.kind);
                respond::refuse(session, context, &problem).await
            }
            Early::Gone(error) => Err(error),
        }
    }

    async fn policies(
        session: &mut Session,
        context: &mut RequestContext,
    ) -> std::result::Result<(), Early> {
        let mut from = 0;
        loop {
            let Some(facts) = context.facts.as_mut() else {
                return Ok(());
            };
            let request = session.req_header();
            let chain = &context.route.chain;
            let decided = chain.go_on(from, &mut Exchange { request, facts }).await;
            let mut queued = match decided {
                Err(Stop::Queue(queued)) => queued,
                decided => return Ok(decided?),
            };
            let turn = Box::pin(unless_gone(session, &mut queued.turn));
            let brought = turn.await.map_err(Early::Gone)?;
            from = chain.take_turn(&queued, brought, facts)?;
        }
    }

    /// What listeners that do not route answer.
    fn listener_answer(&self, session: &Session, context: &RequestContext) -> Option<Early> {
        let view = respond::view_of(context, session)?;
        match context.listener.as_deref()?.role {
            Role::Routes => None,
            Role::RedirectHttps { tls_port } => Some(to_https(view, tls_port)),
            Role::Serve { health, metrics } => {
                let path = view.request.uri.path();
                let readable =
                    matches!(view.request.method, http::Method::GET | http::Method::HEAD);
                let answer = self.operators.answer(path, health, metrics);
                Some(match answer {
                    Some(answer) if readable => Early::Answer(Box::new(answer)),
                    Some(_) => {
                        let allow = HeaderValue::from_static("GET, HEAD");
                        Problem::new(Kind::RouteMethod)
                            .header(header::ALLOW, allow)
                            .into()
                    }
                    None => Problem::new(Kind::RouteNone).into(),
                })
            }
        }
    }
}

/// When to ask again is not the same for all: they would all come at once.
fn overloaded(refused: Refused) -> Problem {
    let (kind, least, spread) = match refused {
        Refused::Requests => (Kind::OverloadRequests, 1, 3),
        // memory comes back slowly
        Refused::Memory => (Kind::OverloadMemory, 5, 6),
    };
    let seconds = least + random::below(random::next(), spread);
    Problem::new(kind).retry_after(Duration::from_secs(seconds.into()))
}

fn redirect(status: http::StatusCode, location: Option<HeaderValue>) -> Early {
    match location {
        Some(location) => {
            let answer =
                crate::exchange::answer::Answer::empty(status).header(header::LOCATION, location);
            Early::Answer(Box::new(answer))
        }
        None => Problem::new(Kind::RequestTarget)
            .detail("the request lacks a part of the URL that it would be redirected to")
            .source("the redirect has no location")
            .into(),
    }
}

/// The same URL over TLS. Who asked for the very port that the listener has is sent to the one that has TLS; where the
/// ports differ, something in between maps them, and TLS is at its usual one.
fn to_https(view: View<'_>, tls_port: Option<u16>) -> Early {
    let host = view.facts.host.as_str();
    let asked = view.facts.port.unwrap_or(view.facts.scheme.default_port());
    let is_direct = view.facts.connection.local_port == Some(asked);
    let port = match tls_port {
        Some(port) if is_direct && port != 443 => format!(":{port}"),
        _ => String::new(),
    };
    if host.is_empty() {
        return Problem::new(Kind::RequestHost).into();
    }
    let target = view
        .request
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let target = if target == "*" { "/" } else { target };
    let location = HeaderValue::try_from(format!("https://{host}{port}{target}")).ok();
    redirect(http::StatusCode::PERMANENT_REDIRECT, location)
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// In a box, since Pingora moves it several times.
    type CTX = Box<RequestContext>;

    fn new_ctx(&self) -> Box<RequestContext> {
        Box::new(RequestContext::new(self.snapshots.current()))
    }

    /// Compression is a policy of its own: no module has to look at every request.
    fn init_downstream_modules(&self, _: &mut pingora_core::modules::http::HttpModules) {}

    async fn request_filter(
        &self,
        session: &mut Session,
        context: &mut Box<RequestContext>,
    ) -> Result<bool> {
        match self.decide(session, context).await {
            Ok(()) => {
                context.interrupt = shared::guard(session);
                if context
                    .forward
                    .as_ref()
                    .is_some_and(|forward| forward.streams)
                {
                    forward::take_your_time(session, context);
                }
                if context.upgrade {
                    // a WebSocket may be silent for longer than the content of a request
                    session.as_downstream_mut().set_read_timeout(None);
                }
                Ok(false)
            }
            Err(early) => {
                // boxed, so that a request which is sent on does not make room for it
                Box::pin(self.answer(session, context, early)).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        context: &mut Box<RequestContext>,
    ) -> Result<Box<HttpPeer>> {
        forward::peer(session, context).await
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        descriptor: RawFd,
        digest: Option<&Digest>,
        context: &mut Box<RequestContext>,
    ) -> Result<()> {
        forward::connected(session, context, reused, descriptor, digest)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        context: &mut Box<RequestContext>,
    ) -> Result<()> {
        forward::upstream_head(session, context, upstream)?;
        signed::head(session, context, &self.metrics)?;
        tap::head(session, context, upstream, self.background.as_ref());
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut Box<RequestContext>,
    ) -> Result<()> {
        forward::request_body(context, body, end)?;
        signed::body(context, body, end, &self.metrics)?;
        tap::body(context, body.as_ref(), end, self.background.as_ref());
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Box<RequestContext>,
    ) -> Result<()> {
        forward::response_head(session, context, response)
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut Box<RequestContext>,
    ) -> Result<Option<Duration>> {
        forward::response_body(context, body, end, &self.metrics)?;
        Ok(None)
    }

    fn upstream_response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut http::HeaderMap,
        context: &mut Box<RequestContext>,
    ) -> Result<()> {
        forward::response_trailers(context, trailers, &self.metrics)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Box<RequestContext>,
    ) -> Result<()> {
        respond::leave_if_draining(session);
        respond::finish_head(session, context, response)
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut Box<RequestContext>,
    ) -> Result<Option<Duration>> {
        respond::body(context, body, end)?;
        Ok(None)
    }

    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        _trailers: &mut http::HeaderMap,
        context: &mut Box<RequestContext>,
    ) -> Result<Option<Bytes>> {
        respond::body_before_trailers(context)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        context: &mut Box<RequestContext>,
        error: Box<Error>,
    ) -> Box<Error> {
        forward::connect_failed(session, context, error)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        context: &mut Box<RequestContext>,
        connection_reused: bool,
    ) -> Box<Error> {
        forward::try_failed(session, context, error, connection_reused)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Box<RequestContext>,
    ) -> FailToProxy {
        let error_code = respond::fail(session, error, context, &self.metrics).await;
        FailToProxy {
            error_code,
            can_reuse_downstream: false,
        }
    }

    async fn logging(
        &self,
        session: &mut Session,
        error: Option<&Error>,
        context: &mut Box<RequestContext>,
    ) {
        finish::record(session, error, context);
    }

    /// The access log and our own lines say it, once.
    fn suppress_error_log(&self, _: &Session, _: &Box<RequestContext>, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Box<RequestContext>,
        _: &Error,
        _: pingora_proxy::ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
