//! From a request that may pass to an endpoint's answer: the choice, the head that is sent, retries, the head that
//! comes back.
//!
//! A try that failed is repeated only when nothing can have been processed (the connection was never made) or when
//! processing twice does no harm (RFC 9110 §9.2.2) and no body was streamed. A reused connection that closes before any
//! byte of an answer proves nothing: the endpoint may have acted. So a POST is never sent twice.

use super::context::{Forward, RequestContext};
use super::intake::{self, REQUEST_ID};
use super::map_back::map_back;
use super::respond;
use crate::exchange::View;
use crate::exchange::client::{self, Authority};
use crate::exchange::present::Present;
use crate::observe::trace::{TRACEPARENT, TRACESTATE, TraceContext};
use crate::problem::{Kind, Problem};
use crate::snapshot::route::Limit;
use crate::snapshot::{Bypass, Route, Target};
use crate::upstream::service::Host;
use crate::upstream::{Choice, Endpoint, Observed, Outcome, Service};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::Instant;

/// The most tries for one request (design 3.7).
const TRIES_MAX: u8 = 2;

/// The most interim answers of one try (security requirement 5.6).
const INTERIM_MAX: u8 = 16;

/// The fields that the gateway adds to every head it sends on.
const OWN_FIELDS: usize = 7;

/// Our own error types: what a callback found, for `fail_to_proxy` to tell the client.
pub const BODY_TOO_LARGE: ErrorType = ErrorType::new("BodyTooLarge");
pub const DEADLINE: ErrorType = ErrorType::new("DeadlineMissed");
pub const NO_ENDPOINT: ErrorType = ErrorType::new("NoEndpoint");
pub const BAD_ANSWER: ErrorType = ErrorType::new("BadAnswer");

/// Decides where a request goes and chooses the first endpoint, while the connection can still be kept if there is none.
pub fn begin(session: &Session, context: &mut RequestContext) -> Result<(), Problem> {
    let request = session.req_header();
    let route = &*context.route;
    let service = service_for(route, context, request)?;
    let timeouts = service.timeouts.with(&route.timeouts);
    let body_limit = route.body_limit.unwrap_or(match service.body_limit {
        Some(bytes) => Limit::Bytes(bytes),
        None => Limit::Off,
    });
    let present = context.present;
    if present.any(Present::CONTENT_LENGTH)
        && content_length(&request.headers).is_some_and(|length| body_limit.exceeded_by(length))
    {
        return Err(Kind::RequestBody.into());
    }
    let target = rewritten(route, context, request)?;
    let picked = service
        .set()
        .pick(Choice::default())
        .ok_or(Kind::UpstreamNone)?;
    context
        .watch
        .set(timeouts.total.map(|total| context.started + total));
    context.forward = Some(Forward {
        timeouts,
        target,
        body_limit,
        idle: None,
        streams: present.any(Present::ACCEPT | Present::CONTENT_TYPE)
            && expects_stream(&request.headers),
        picked: Some(picked),
        tried: Default::default(),
        tries: 0,
        try_started: None,
        waited: Default::default(),
        try_counted: true,
        interim: 0,
        status: None,
        service,
    });
    Ok(())
}

/// What the route's rewrite makes of the target. Found before an endpoint is chosen: what can't be sent on is the
/// client's mistake, and costs nobody a connection.
pub fn rewritten(
    route: &Route,
    context: &RequestContext,
    request: &RequestHeader,
) -> Result<Option<Uri>, Problem> {
    let (Some(rewrite), Some(view)) = (&route.rewrite, context.view(request)) else {
        return Ok(None);
    };
    let target: Uri = rewrite.target(view)?.parse().map_err(|error| {
        Problem::new(Kind::RequestPath).source(format!("after the rewrite: {error}"))
    })?;
    if route.rechecks {
        let mut head = request.clone();
        head.set_uri(target.clone());
        let rewritten = View {
            request: &head,
            ..view
        };
        // as if the path were not there: nobody asked for a way round
        let refused =
            |why| Problem::new(Kind::RouteNone).source(format!("after the rewrite {why}"));
        match context.snapshot.bypass(route, view, rewritten) {
            None => {}
            Some(Bypass::Guard(asked, kind)) => {
                let why = format!("it is a request for route `{asked}`, which `{kind}` guards");
                return Err(refused(why));
            }
            Some(Bypass::Ambiguous) => {
                let why = "its path has parameters that other servers would cut off";
                return Err(refused(why.to_owned()));
            }
        }
    }
    Ok(Some(target))
}

fn service_for(
    route: &Route,
    context: &RequestContext,
    request: &RequestHeader,
) -> Result<Arc<Service>, Problem> {
    let Target::Upstream(upstream) = &route.target else {
        return Err(Problem::new(Kind::Internal).source("a route without a service was forwarded"));
    };
    let view = context.view(request);
    let service = view.and_then(|view| upstream.service_for(view));
    service.cloned().ok_or_else(|| {
        Problem::new(Kind::UpstreamNone).source("no arm of the split takes the request")
    })
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Whether the answer may be silent for long: event streams and gRPC.
fn expects_stream(headers: &HeaderMap) -> bool {
    let starts = |name, what: &[u8]| {
        let value: Option<&HeaderValue> = headers.get(name);
        value.is_some_and(|value| value.as_bytes().starts_with(what))
    };
    starts(header::ACCEPT, b"text/event-stream")
        || starts(header::CONTENT_TYPE, b"application/grpc")
}

/// The peer of the next try.
pub fn peer(session: &mut Session, context: &mut RequestContext) -> Result<Box<HttpPeer>> {
    if context.watch.is_missed() {
        return Error::e_explain(DEADLINE, "before the next try");
    }
    let Some(forward) = context.forward.as_mut() else {
        return Error::e_explain(ErrorType::InternalError, "forwarded without a service");
    };
    let now = Instant::now();
    if forward.tries == 0 {
        context.own = now.saturating_duration_since(context.started);
    } else {
        forward.pick_again();
    }
    forward.tries += 1;
    forward.interim = 0;
    forward.try_counted = false;
    forward.try_started = Some(now);
    let timeouts = forward.timeouts;
    let idle = if forward.streams {
        timeouts.stream_idle
    } else {
        timeouts.idle
    };
    let Some(endpoint) = forward.endpoint() else {
        return Error::e_explain(NO_ENDPOINT, "every endpoint was tried");
    };
    // Pingora bounds the wait for the head and the waits after it alike; the shorter one is kept by the watch
    let read = match (idle, timeouts.response_header) {
        (Some(idle), Some(header)) => Some(idle.max(header)),
        _ => None,
    };
    let mut peer = endpoint.peer(read);
    // a head alone is awaited together with its answer, and a timer costs more than writing it
    let awaited = timeouts.response_header.is_some() && session.as_mut().is_body_done();
    peer.options.write_timeout = idle.filter(|_| !awaited);
    forward.idle = idle.filter(|idle| read.is_none_or(|read| *idle < read));
    peer.options.connection_timeout = timeouts.connect;
    peer.options.total_connection_timeout = timeouts.connect.map(|connect| connect * 2);
    Ok(peer)
}

impl Forward {
    /// The endpoint of the current try.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.picked.as_ref().and_then(|picked| picked.endpoint())
    }

    /// Chooses the endpoint of another try, from the set that the first was chosen from.
    fn pick_again(&mut self) {
        let set = self.picked.take().map(|picked| picked.set().clone());
        let choice = Choice { tried: &self.tried };
        self.picked = set.and_then(|set| set.pick(choice));
    }

    /// Whether there are endpoints that have not failed this request.
    fn has_others(&self) -> bool {
        let all = self.picked.as_ref().map(|picked| picked.set().endpoints());
        self.tried.len() < all.map_or(0, <[_]>::len)
    }

    /// Ends a try: counts it, and tells its endpoint.
    pub fn settle(&mut self, outcome: Outcome, now: Instant) {
        if std::mem::replace(&mut self.try_counted, true) {
            return;
        }
        let took = self
            .try_started
            .map(|started| now.saturating_duration_since(started))
            .unwrap_or_default();
        self.waited += took;
        self.service.metrics.tried(outcome.status(), took);
        if let Some(endpoint) = self.endpoint() {
            endpoint.observe(Observed { outcome, took });
        }
    }

    /// The answer that has been counted did not come to its end.
    fn broke_off(&self, outcome: Outcome) {
        if let (Some(endpoint), Some(started)) = (self.endpoint(), self.try_started) {
            let took = started.elapsed();
            endpoint.observe(Observed { outcome, took });
        }
    }

    /// Whether another endpoint, or the same one over another connection, may be asked.
    fn may_try_again(&self) -> bool {
        self.tries < TRIES_MAX
    }
}

/// From now on the answer is awaited, unless a body has to be sent first.
pub fn connected(
    session: &mut Session,
    context: &mut RequestContext,
    reused: bool,
    descriptor: std::os::fd::RawFd,
) {
    context.watch.connected(descriptor);
    if session.as_mut().is_body_done() {
        context.sent = true;
        // a connection from the pool took no time worth another look at the clock
        let began = context
            .forward
            .as_ref()
            .and_then(|forward| forward.try_started)
            .filter(|_| reused);
        await_answer(context, began.unwrap_or_else(Instant::now));
    }
}

/// The request is sent: the head of the answer is due.
fn await_answer(context: &RequestContext, now: Instant) {
    let Some(forward) = context.forward.as_ref() else {
        return;
    };
    let timeouts = forward.timeouts;
    let header = timeouts.response_header.map(|header| now + header);
    let total = timeouts.total.map(|total| context.started + total);
    context.watch.set(match (header, total) {
        (Some(header), Some(total)) => Some(header.min(total)),
        (header, total) => header.or(total),
    });
}

/// Makes the head that an endpoint gets out of a copy of the client's.
pub fn upstream_head(
    session: &Session,
    context: &RequestContext,
    upstream: &mut RequestHeader,
) -> Result<()> {
    let Some(facts) = context.facts.as_ref() else {
        return Error::e_explain(ErrorType::InternalError, "forwarded without facts");
    };
    let Some(forward) = context.forward.as_ref() else {
        return Error::e_explain(ErrorType::InternalError, "forwarded without a service");
    };
    let forwarded = context
        .listener
        .as_deref()
        .map(|listener| listener.forwarded)
        .unwrap_or_default();
    set_target(forward, upstream);
    client::edit_fields(upstream, |fields| {
        // no route allows upgrades yet, so a 101 is always one that nobody asked for
        client::remove_hop_by_hop_upstream(fields);
        // it grows once; more fields than a map can hold never get this far
        let _ = fields.try_reserve(OWN_FIELDS);
        let authority = client::authority_value(fields, facts);
        client::set_forwarded(fields, facts, forwarded, authority.as_ref());
        fields.insert(REQUEST_ID, facts.request_id.clone());
        set_trace(context, fields);
        set_host(fields, forward, authority)
    })?;
    if let Some(view) = context.view(session.req_header()) {
        context.route.chain.on_upstream_request(view, upstream);
    }
    Ok(())
}

/// Every try is a step of its own in the trace.
fn set_trace(context: &RequestContext, fields: &mut HeaderMap) {
    if context.present.any(Present::TRACESTATE) {
        let received = fields.get_all(TRACEPARENT).iter();
        if TraceContext::continued(received.map(HeaderValue::as_bytes)).is_none() {
            fields.remove(TRACESTATE);
        }
    }
    let trace = context
        .trace
        .map(TraceContext::child)
        .unwrap_or_else(intake::started);
    if let Ok(value) = HeaderValue::from_bytes(&trace.header()) {
        fields.insert(TRACEPARENT, value);
    }
}

/// Sets the target in origin form: the canonical one, or what the route's rewrite made of it.
fn set_target(forward: &Forward, upstream: &mut RequestHeader) {
    if let Some(target) = &forward.target {
        upstream.set_uri(target.clone());
    } else if upstream.uri.authority().is_some()
        && let Some(target) = upstream.uri.path_and_query().cloned()
    {
        upstream.set_uri(Uri::from(target));
    }
}

fn set_host(fields: &mut HeaderMap, forward: &Forward, authority: Option<Authority>) -> Result<()> {
    let host = match &forward.service.host {
        Host::Value(value) => Some(value.clone()),
        Host::Preserve
            if authority
                .as_ref()
                .is_some_and(|authority| authority.is_host) =>
        {
            return Ok(());
        }
        Host::Preserve => authority.map(|authority| authority.value),
        Host::Endpoint => forward
            .endpoint()
            .map(|endpoint| endpoint.authority().clone()),
    };
    let Some(host) = host else {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "no host to send on");
    };
    fields.insert(header::HOST, host);
    Ok(())
}

/// Looks at one piece of the request body on its way to the endpoint.
///
/// An end without bytes must be no chunk at all: Pingora would write the last chunk twice, and the surplus would be the
/// beginning of the answer to whoever gets the connection next (pingora issue 935). A piece before the end must be one:
/// none would end the body.
pub fn request_body(
    context: &mut RequestContext,
    body: &mut Option<Bytes>,
    end: bool,
) -> Result<()> {
    let length = body.as_ref().map_or(0, Bytes::len);
    if end && length == 0 {
        *body = None;
    } else if !end && body.is_none() {
        *body = Some(Bytes::new());
    }
    context.request_bytes = context.request_bytes.saturating_add(length as u64);
    if context.watch.is_missed() {
        return Error::e_explain(DEADLINE, "while the request was sent");
    }
    let limit = context
        .forward
        .as_ref()
        .map_or(Limit::Off, |forward| forward.body_limit);
    if limit.exceeded_by(context.request_bytes) {
        return Err(Error::explain(BODY_TOO_LARGE, "more than the route allows").into_down());
    }
    let answered = context
        .forward
        .as_ref()
        .is_some_and(|forward| forward.status.is_some());
    if end && !std::mem::replace(&mut context.sent, true) && !answered {
        await_answer(context, Instant::now());
    }
    Ok(())
}

/// A connection could not be made. Nothing was sent, so any request may try elsewhere.
pub fn connect_failed(context: &mut RequestContext, mut error: Box<Error>) -> Box<Error> {
    context.watch.released();
    let Some(forward) = context.forward.as_mut() else {
        return error;
    };
    forward.settle(outcome_of(&error), Instant::now());
    forward
        .tried
        .extend(forward.picked.as_ref().map(|picked| picked.at()));
    let elsewhere = forward.has_others();
    error.set_retry(forward.may_try_again() && elsewhere && !context.watch.is_missed());
    error
}

/// A try failed after its connection was made.
pub fn try_failed(
    session: &Session,
    context: &mut RequestContext,
    mut error: Box<Error>,
    connection_reused: bool,
) -> Box<Error> {
    context.watch.released();
    let Some(forward) = context.forward.as_mut() else {
        return error;
    };
    let answered = forward.status.is_some();
    let outcome = match context.watch.is_missed() && context.sent {
        true => Outcome::TimedOut,
        false => outcome_of(&error),
    };
    if answered {
        // its head was counted as an answer, and this is another thing to know
        forward.broke_off(outcome);
    }
    forward.settle(outcome, Instant::now());
    // a connection that had been idle says little about its endpoint
    if !connection_reused {
        forward
            .tried
            .extend(forward.picked.as_ref().map(|picked| picked.at()));
    }
    let elsewhere = forward.has_others();
    let ours = error.etype() == &BODY_TOO_LARGE
        || error.etype() == &DEADLINE
        || error.etype() == &BAD_ANSWER;
    let upstream = matches!(error.esource(), pingora_core::ErrorSource::Upstream);
    let again = !answered
        && !ours
        && upstream
        && elsewhere
        && forward.may_try_again()
        && !respond::is_answered(session)
        && is_repeatable(session.req_header(), context.request_bytes)
        && !context.watch.is_missed();
    error.set_retry(again);
    error
}

/// What a failed try says about its endpoint.
fn outcome_of(error: &Error) -> Outcome {
    use ErrorType::{ConnectTimedout, ReadTimedout, TLSHandshakeTimedout, WriteTimedout};
    let etype = error.etype();
    if *etype == BAD_ANSWER {
        return Outcome::Broken;
    }
    match (error.esource(), etype) {
        (pingora_core::ErrorSource::Upstream, ConnectTimedout | TLSHandshakeTimedout) => {
            Outcome::Unreachable
        }
        (pingora_core::ErrorSource::Upstream, ReadTimedout | WriteTimedout) => Outcome::TimedOut,
        (pingora_core::ErrorSource::Upstream, etype) if is_connecting(etype) => {
            Outcome::Unreachable
        }
        (pingora_core::ErrorSource::Upstream, _) => Outcome::Broken,
        _ => Outcome::Abandoned,
    }
}

/// Errors of a connection that was not made.
fn is_connecting(etype: &ErrorType) -> bool {
    use ErrorType::*;
    matches!(
        etype,
        ConnectRefused
            | ConnectNoRoute
            | ConnectError
            | ConnectProxyFailure
            | BindError
            | SocketError
            | TLSHandshakeFailure
            | InvalidCert
            | HandshakeError
    )
}

/// Whether a request that may have been processed can be sent again: idempotent, and without a body.
fn is_repeatable(request: &RequestHeader, body_bytes: u64) -> bool {
    let idempotent = matches!(
        request.method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    );
    idempotent && body_bytes == 0
}

/// Looks at the head of an endpoint's answer before anything else does.
pub fn response_head(
    session: &Session,
    context: &mut RequestContext,
    response: &mut ResponseHeader,
) -> Result<()> {
    let Some(forward) = context.forward.as_mut() else {
        return Error::e_explain(ErrorType::InternalError, "an answer without a service");
    };
    let bad = |why: &'static str| Err(Error::explain(BAD_ANSWER, why).into_up());
    if response.status.is_informational() {
        forward.interim = forward.interim.saturating_add(1);
        if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
            return bad("a 101 that nobody asked for");
        }
        if forward.interim > INTERIM_MAX {
            return bad("too many interim answers");
        }
        client::remove_hop_by_hop(response);
        return Ok(());
    }
    if context.watch.is_missed() {
        return Error::e_explain(DEADLINE, "the answer came too late");
    }
    let now = Instant::now();
    let ends = is_bodiless(&session.req_header().method, response);
    match forward.idle {
        Some(idle) if !ends => context.watch.set_after_head(now + idle),
        _ => context.watch.clear(),
    }
    if ends && let Some(picked) = &mut forward.picked {
        picked.answered();
    }
    client::forget_case(response);
    if is_ambiguous(response) {
        return bad("its length is ambiguous");
    }
    forward.status = Some(response.status.as_u16());
    forward.settle(Outcome::Answered(response.status.as_u16()), now);
    context.answered_at = Some(now);
    client::remove_hop_by_hop(response);
    if response.status == http::StatusCode::NO_CONTENT {
        // RFC 9110 §8.6, RFC 9112 §6.1: it has no body to speak of
        response.remove_header(&header::CONTENT_LENGTH);
        response.remove_header(&header::TRANSFER_ENCODING);
    }
    map_back(context, response);
    Ok(())
}

/// Whether nothing follows the head of an answer (RFC 9112 §6.3); no callback would say so.
fn is_bodiless(method: &Method, response: &ResponseHeader) -> bool {
    let length = || response.headers.get(header::CONTENT_LENGTH);
    method == Method::HEAD
        || matches!(response.status.as_u16(), 204 | 304)
        || length().is_some_and(|length| length == "0")
}

/// Another piece of an answer has arrived: the next one is due within the idle time.
pub fn response_body(context: &mut RequestContext, end: bool) {
    let Some(forward) = context.forward.as_mut() else {
        return;
    };
    if end && let Some(picked) = &mut forward.picked {
        // before the client can know and ask again
        picked.answered();
    }
    if let Some(idle) = forward.idle {
        match end {
            true => context.watch.clear(),
            false => context.watch.set_after_head(Instant::now() + idle),
        }
    }
}

/// Whether it can't be told, in one way that everybody reads the same, where the body ends (RFC 9112 §6.3), or fields
/// hold what could be taken for the end of the head.
fn is_ambiguous(response: &ResponseHeader) -> bool {
    let (mut lengths, mut codings) = (0_u32, 0_u32);
    let mut bad = false;
    for (name, value) in &response.headers {
        if name == header::CONTENT_LENGTH {
            lengths += 1;
            bad |= !is_length(value);
        } else if name == header::TRANSFER_ENCODING {
            codings += 1;
            bad |= !value.as_bytes().eq_ignore_ascii_case(b"chunked");
        }
        // values are short: without a branch for each byte this is a few instructions, and a call of memchr is many
        let control = |found, byte: &u8| found | matches!(byte, b'\r' | b'\n' | 0);
        bad |= value.as_bytes().iter().fold(false, control);
    }
    bad || lengths + codings > 1
}

/// One number that everybody can hold (RFC 9110 §8.6).
fn is_length(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    let parses = |bytes| std::str::from_utf8(bytes).is_ok_and(|text| text.parse::<i64>().is_ok());
    let digits = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    // eighteen digits always fit
    digits && (bytes.len() <= 18 || parses(bytes))
}
