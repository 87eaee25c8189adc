//! From a request that has a place at an endpoint to the answer: the peer of each try, the head that is sent, how a try
//! ended, the head that comes back. Whether another try follows is said by [`retry`].

use super::context::{Forward, RequestContext};
use super::deadline::Watch;
use super::grpc_timeout::{self, GRPC_TIMEOUT};
use super::intake::{self, REQUEST_ID};
use super::map_back::map_back;
use super::patience::unless_gone;
use super::place;
use super::plan::earliest;
use super::retry::{self, Failure};
use super::tunnel::Ended;
use crate::exchange::Strain;
use crate::exchange::client::{self, Authority};
use crate::exchange::connection::{self, Interrupt};
use crate::exchange::present::Present;
use crate::identity::Reason;
use crate::observe::metrics::Metrics;
use crate::observe::trace::{TRACEPARENT, TRACESTATE, TraceContext};
use crate::problem::{Kind, Problem};
use crate::protocol::{grpc, websocket};
use crate::snapshot::route::Limit;
use crate::upstream::breaker::Verdict;
use crate::upstream::connections::Bounded;
use crate::upstream::proxy_protocol::Parties;
use crate::upstream::service::Host;
use crate::upstream::{Endpoint, Observed, Outcome, reserve};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most interim answers of one try (security requirement 5.6).
const INTERIM_MAX: u8 = 16;

/// The fields that the gateway adds to every head it sends on.
const OWN_FIELDS: usize = 8;

/// How long a write may be blocked where the idle time is that of streams. Silence is what streams are allowed; an
/// endpoint that takes nothing holds the client's bytes, and nobody hears meanwhile that the client has gone.
const BLOCKED_MAX: Duration = Duration::from_secs(300);

/// How long an answer that is no stream may take after its head, though the credential ends meanwhile.
const ANSWER_MIN: Duration = Duration::from_secs(10);

/// Our own error types: what a callback found, for `fail_to_proxy` to tell the client.
pub const BODY_TOO_LARGE: ErrorType = ErrorType::new("BodyTooLarge");
pub const DEADLINE: ErrorType = ErrorType::new("DeadlineMissed");
pub const NO_ENDPOINT: ErrorType = ErrorType::new("NoEndpoint");
pub const BAD_ANSWER: ErrorType = ErrorType::new("BadAnswer");
pub const MESSAGE_TOO_LARGE: ErrorType = ErrorType::new("MessageTooLarge");

/// The peer of the next try.
pub async fn peer(session: &mut Session, context: &mut RequestContext) -> Result<Box<HttpPeer>> {
    let pause = context.forward.as_mut().map(|forward| forward.pause);
    if let Some(pause) = pause.filter(|pause| !pause.is_zero()) {
        unless_gone(session, tokio::time::sleep(pause)).await?;
    }
    if context.watch.is_missed() {
        return Error::e_explain(DEADLINE, "before the next try");
    }
    let Some(forward) = context.forward.as_mut() else {
        return Error::e_explain(ErrorType::InternalError, "forwarded without a service");
    };
    let now = Instant::now();
    if forward.due.is_some_and(|due| due <= now) {
        return Error::e_explain(DEADLINE, "before the next try");
    }
    if forward.tries == 0 {
        context.own = now.saturating_duration_since(context.started);
    } else {
        // the body, if there is one, passes once more
        context.request_bytes = 0;
        context.sent = false;
        forward.status = None;
    }
    forward.tries += 1;
    forward.interim = 0;
    forward.try_counted = false;
    forward.try_started = Some(now);
    forward.awaited = None;
    let timeouts = forward.timeouts;
    let idle = if forward.streams {
        timeouts.stream_idle
    } else {
        timeouts.idle
    };
    let Some(endpoint) = forward.endpoint() else {
        return Error::e_explain(NO_ENDPOINT, "no endpoint was chosen");
    };
    // Pingora bounds the wait for the head and the waits after it alike; the shorter one is kept by the watch
    let read = match (idle, timeouts.response_header) {
        (Some(idle), Some(header)) => Some(idle.max(header)),
        _ => None,
    };
    // over HTTP/2 its wait for the head runs while the client still sends, which `total` bounds
    let sends =
        endpoint.wire().may_multiplex() && !forward.streams && !session.as_mut().is_body_done();
    let read = match sends {
        true => read
            .zip(timeouts.total.or(timeouts.stream_idle))
            .map(|(read, all)| read.max(all)),
        false => read,
    };
    context.watch.set(forward.due);
    let facts = context.facts.as_ref();
    let parties = || facts.and_then(Parties::of);
    if forward.tunnel.is_some() {
        // its head is awaited under the watch, and so is what comes after it
        let mut peer = endpoint.tunnel();
        let hand = endpoint.connections().map(Bounded::hand);
        endpoint.bound(&mut peer, timeouts.steps(), None, parties, hand.as_ref());
        return match hand {
            None => Ok(peer),
            Some(hand) => Box::pin(place::found(session, context, peer, hand)).await,
        };
    }
    let line = endpoint.line();
    let mut peer = endpoint.peer(read, forward.pooled, line);
    // a head alone is awaited together with its answer, and a timer costs more than writing it
    let awaited = timeouts.response_header.is_some() && session.as_mut().is_body_done();
    peer.options.write_timeout = idle
        .filter(|_| !awaited)
        .map(|idle| idle.min(BLOCKED_MAX.max(timeouts.idle.unwrap_or_default())));
    // never longer than the try may take
    let left = forward.try_due(now);
    let left = left.map(|due| due.saturating_duration_since(now));
    let hand = endpoint.connections().map(Bounded::hand);
    endpoint.bound(&mut peer, timeouts.steps(), left, parties, hand.as_ref());
    forward.line = line;
    forward.idle = idle.filter(|idle| read.is_none_or(|read| *idle < read));
    match hand {
        None => Ok(peer),
        Some(hand) => Box::pin(place::found(session, context, peer, hand)).await,
    }
}

impl Forward {
    /// The endpoint of the current try.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.picked.as_ref().and_then(|picked| picked.endpoint())
    }

    /// Whether the credential has ended, and the exchange with it.
    pub fn is_closed(&self, now: Instant) -> bool {
        let is_over = |end: Option<Instant>| end.is_some_and(|end| end <= now);
        is_over(self.closes) && is_over(self.ends)
    }

    /// The answer has begun: from now on the end of the credential is its end too. Answers that are no streams have some
    /// time to come over all the same, so that ordinary ones are not cut.
    fn begins(&mut self, now: Instant) {
        let least = match self.streams {
            true => now,
            false => now + ANSWER_MIN,
        };
        let closes = self.closes.map(|closes| closes.max(least));
        self.ends = earliest(self.call_ends, closes);
    }

    /// The next piece of the answer is due from now on.
    fn awaits_piece(&self, watch: &Watch, now: Instant) {
        match (self.idle, self.ends) {
            (Some(idle), end) => watch.set_silence(now, idle, end),
            (None, Some(end)) => watch.set_after_head(end),
            (None, None) => watch.clear(),
        }
    }

    /// Whether the time that the caller gave is over, or that of the request with less than half of it left to this try:
    /// the rest went to the client or to others. That says nothing about an endpoint, or callers in a hurry, and those who
    /// take their time, could take endpoints out of service.
    fn is_called_off(&self, now: Instant) -> bool {
        let is_over = |end: Option<Instant>| end.is_some_and(|end| end <= now);
        let from = self.awaited.or(self.try_started).unwrap_or(now);
        let had = now.saturating_duration_since(from);
        let little = self.timeouts.total.is_some_and(|total| had < total / 2);
        is_over(self.ends) || is_over(self.due) && little
    }

    /// When a try whose time runs from this moment must have brought the head of an answer.
    fn try_due(&self, from: Instant) -> Option<Instant> {
        earliest(self.due, self.timeouts.per_try.map(|time| from + time))
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
        if let Some(picked) = &mut self.picked {
            picked.observe(Observed { outcome, took });
        }
        if let Some(strain) = strain_of(outcome) {
            self.observers
                .iter()
                .for_each(|one| one.observe(strain, took));
        }
        self.judge(outcome.into(), now);
    }

    /// Tells the breakers.
    fn judge(&mut self, verdict: Verdict, now: Instant) {
        if let Some(picked) = &mut self.picked {
            picked.judge(verdict, now);
        }
        self.service.judge(&mut self.admitted, verdict, now);
    }

    /// The answer that has been counted did not come to its end.
    fn broke_off(&mut self, outcome: Outcome, now: Instant) {
        if let (Some(picked), Some(started)) = (&mut self.picked, self.try_started) {
            let took = now.saturating_duration_since(started);
            picked.observe(Observed { outcome, took });
        }
        // what was bad by its head has been counted as such
        let good = self.status.is_some_and(|status| status < 500);
        match outcome.into() {
            Verdict::Bad if good => self.judge(Verdict::Late, now),
            _ => {}
        }
    }
}

/// What a try says about how much there is to do. A fast error says nothing, nor does an endpoint that is not there.
fn strain_of(outcome: Outcome) -> Option<Strain> {
    match outcome {
        Outcome::TimedOut | Outcome::Answered(503 | 504) => Some(Strain::Overloaded),
        Outcome::Answered(status) if status < 500 && status != 429 => Some(Strain::Answered),
        Outcome::Answered(_) | Outcome::Unreachable | Outcome::Broken | Outcome::Abandoned => None,
    }
}

/// From now on the answer is awaited, unless a body has to be sent first.
pub fn connected(
    session: &mut Session,
    context: &mut RequestContext,
    reused: bool,
    descriptor: std::os::fd::RawFd,
    digest: Option<&Digest>,
) -> Result<()> {
    place::entered(context, reused, digest)?;
    context.watch.connected(descriptor);
    if session.as_mut().is_body_done() {
        context.sent = true;
        // a connection from the pool took no time worth another look at the clock
        let began = context
            .forward
            .as_ref()
            .and_then(|forward| forward.try_started)
            .filter(|_| reused);
        let tried = context
            .forward
            .as_ref()
            .and_then(|forward| forward.try_started);
        let now = began.unwrap_or_else(Instant::now);
        await_answer(context, now, tried.unwrap_or(now));
    }
    Ok(())
}

/// Whether the connection to the endpoint may be one that other exchanges use at the same time.
pub fn may_share(context: &RequestContext) -> bool {
    let forward = context.forward.as_ref();
    let endpoint = forward.and_then(|forward| forward.endpoint());
    endpoint.is_some_and(|endpoint| endpoint.wire().may_multiplex())
}

/// What ends the wait for the client of this exchange.
fn interrupt_of<'a>(
    session: &'a Session,
    context: &'a RequestContext,
) -> Option<&'a Arc<Interrupt>> {
    let of_client = || session.digest().and_then(connection::interrupt_of);
    context.interrupt.as_ref().or_else(of_client)
}

/// The exchange is a stream: its client need not keep the rates that the listener asks for.
pub fn take_your_time(session: &Session, context: &RequestContext) {
    // streams of HTTP/2 that are not guarded share what is their connection's
    let shares =
        context.interrupt.is_none() && session.req_header().version == http::Version::HTTP_2;
    if let Some(interrupt) = interrupt_of(session, context).filter(|_| !shares) {
        interrupt.take_your_time();
    }
}

/// The request is sent: the head of the answer is due. The time of the try runs from its beginning, unless the client was
/// still sending: how long that takes is not the endpoint's fault.
fn await_answer(context: &mut RequestContext, now: Instant, tried: Instant) {
    let Some(forward) = context.forward.as_mut() else {
        return;
    };
    forward.awaited = Some(now);
    let timeouts = forward.timeouts;
    let header = timeouts.response_header.map(|header| now + header);
    context.watch.set(earliest(header, forward.try_due(tried)));
}

/// Makes the head that an endpoint gets out of a copy of the client's.
pub fn upstream_head(
    session: &Session,
    context: &RequestContext,
    upstream: &mut RequestHeader,
) -> Result<()> {
    settle_version(session, context, upstream)?;
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
    let trailers = upstream.version == http::Version::HTTP_2
        && session.req_header().headers.contains_key(header::TE);
    client::edit_fields(upstream, |fields| {
        client::remove_hop_by_hop_upstream(fields);
        if let Some(tunnel) = &forward.tunnel {
            if tunnel.bounds_messages() {
                // a message that is compressed says nothing about its length
                fields.remove(header::SEC_WEBSOCKET_EXTENSIONS);
            }
            fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        } else if trailers {
            // calls of gRPC need it to the end (RFC 9110 §10.1.4)
            fields.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        // it grows once; more fields than a map can hold never get this far
        let _ = fields.try_reserve(OWN_FIELDS);
        let authority = client::authority_value(fields, facts);
        client::set_forwarded(fields, facts, forwarded, authority.as_ref());
        fields.insert(REQUEST_ID, facts.request_id.clone());
        if let Some(via) = &context.snapshot.via {
            via.add_to(fields, session.req_header().version);
        }
        context.snapshot.identity_fields.remove_told(fields);
        if facts.identity.is_some() || !facts.granted.is_empty() {
            context.snapshot.identity_fields.write(fields, facts);
        }
        set_trace(context, fields);
        if let Some(ends) = forward.call_ends {
            // what has passed since it was said is not there any more
            let left = ends.saturating_duration_since(Instant::now());
            fields.insert(&GRPC_TIMEOUT, grpc_timeout::field(left));
        }
        set_host(fields, forward, authority)
    })?;
    if let Some(view) = context.view(session.req_header()) {
        context.route.chain.on_upstream_request(view, upstream);
    }
    Ok(())
}

/// The endpoint has chosen the version of HTTP by now.
fn settle_version(
    session: &Session,
    context: &RequestContext,
    upstream: &RequestHeader,
) -> Result<()> {
    let endpoint = context
        .forward
        .as_ref()
        .and_then(|forward| forward.endpoint());
    if let Some(endpoint) = endpoint {
        endpoint.chose(upstream.version);
    }
    if upstream.version != http::Version::HTTP_2 {
        // Pingora takes HTTP/1 where TLS agreed on nothing, or where an endpoint has once asked for it
        return match endpoint.is_some_and(|endpoint| endpoint.wire().must_multiplex())
            && context
                .forward
                .as_ref()
                .is_some_and(|forward| forward.tunnel.is_none())
        {
            true => Err(Error::explain(BAD_ANSWER, "it does not speak HTTP/2").into_up()),
            false => Ok(()),
        };
    }
    let forward = context.forward.as_ref();
    if let Some(claim) = forward.and_then(|forward| forward.claim.as_ref()) {
        claim.shares();
    }
    if let Some(interrupt) = interrupt_of(session, context) {
        context.watch.shares(interrupt.clone());
    } else {
        context.watch.released();
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
    if let Some(forward) = &mut context.forward
        && let Some(tunnel) = forward.tunnel.as_mut().filter(|tunnel| tunnel.is_open())
    {
        let (ends, now) = (tunnel.sent(body), Instant::now());
        if !context.watch.is_missed() {
            let deadline = if ends { now } else { tunnel.deadline(now) };
            context.watch.set_after_head(deadline);
        }
        return Ok(());
    }
    if context.watch.is_missed() {
        return Error::e_explain(DEADLINE, "while the request was sent");
    }
    let limit = context
        .forward
        .as_ref()
        .map_or(Limit::Off, |forward| forward.body_limit);
    if let Some(call) = &mut context.call {
        if let (Limit::Bytes(most), Some(body)) = (limit, body.as_deref())
            && call.messages.longer_than(most, body).is_some()
        {
            return Err(
                Error::explain(MESSAGE_TOO_LARGE, "more than the route allows").into_down(),
            );
        }
    } else if limit.exceeded_by(context.request_bytes) {
        return Err(Error::explain(BODY_TOO_LARGE, "more than the route allows").into_down());
    }
    let answered = context
        .forward
        .as_ref()
        .is_some_and(|forward| forward.status.is_some());
    if end && !std::mem::replace(&mut context.sent, true) && !answered {
        let now = Instant::now();
        await_answer(context, now, now);
    }
    Ok(())
}

/// A connection could not be made. Nothing was sent, so any request may try elsewhere.
pub fn connect_failed(
    session: &Session,
    context: &mut RequestContext,
    mut error: Box<Error>,
) -> Box<Error> {
    context.watch.released();
    if let Some(again) = place::lacked(context, &error) {
        error.set_retry(again);
        return error;
    }
    let exhausted = reserve::is_exhausted(&error);
    if let Some(forward) = context.forward.as_mut() {
        let now = Instant::now();
        let outcome = match exhausted || forward.is_called_off(now) || retry::goes_away(&error) {
            true => Outcome::Abandoned,
            false => outcome_of(&error),
        };
        forward.settle(outcome, now);
    }
    let again = !exhausted && retry::again(session, context, Failure::Unconnected);
    error.set_retry(again);
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
    if let Some(again) = place::lacked(context, &error) {
        error.set_retry(again);
        return error;
    }
    if *error.etype() == retry::REPEATED {
        // it was decided on with the head of the answer
        error.set_retry(true);
        return error;
    }
    let now = Instant::now();
    let Some(forward) = context.forward.as_mut() else {
        return error;
    };
    let answered = forward.status.is_some();
    let missed = context.watch.is_missed();
    let outcome = match missed {
        // the caller gave no more time, or took all of it to send the request
        true if forward.is_called_off(now) || !context.sent => Outcome::Abandoned,
        true => Outcome::TimedOut,
        false if retry::goes_away(&error) || reserve::is_exhausted(&error) => Outcome::Abandoned,
        // nor is this the endpoint's silence
        false if !context.sent && *error.etype() == ErrorType::ReadTimedout => Outcome::Abandoned,
        false => outcome_of(&error),
    };
    if missed
        && outcome == Outcome::TimedOut
        && let Some(endpoint) = forward.endpoint()
    {
        endpoint.is_silent(forward.line);
    }
    if answered {
        // its head was counted as an answer, and this is another thing to know
        forward.broke_off(outcome, now);
    }
    forward.settle(outcome, now);
    let failure = match outcome {
        _ if answered => None,
        Outcome::TimedOut => Some(Failure::Late),
        // the client was slow, or left
        _ if context.watch.is_missed() => None,
        _ if retry::is_unprocessed(&error) => Some(Failure::Unprocessed),
        Outcome::Broken | Outcome::Unreachable => Some(Failure::Broken {
            reused: connection_reused && !retry::is_of_the_stream(&error),
        }),
        Outcome::Answered(_) | Outcome::Abandoned => None,
    };
    let again = failure.is_some_and(|failure| retry::again(session, context, failure));
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
            return match open_tunnel(session, context, response) {
                true => Ok(()),
                false => bad("a 101 that nobody asked for"),
            };
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
    context.watch.clear();
    if ends && let Some(picked) = &mut forward.picked {
        picked.answered();
    }
    client::forget_case(response);
    if is_ambiguous(response) {
        return bad("its length is ambiguous");
    }
    let status = response.status.as_u16();
    forward.status = Some(status);
    forward.settle(Outcome::Answered(status), now);
    if forward.retries.on.statuses.contains(&status)
        && retry::again(session, context, Failure::Answered(status))
    {
        // its connection is closed: what follows the head would have to be read to use it again
        return Err(Error::explain(retry::REPEATED, "another try follows").into_up());
    }
    if let Some(forward) = context.forward.as_mut().filter(|_| !ends) {
        forward.begins(now);
        forward.until_close = response.version < http::Version::HTTP_2
            && !response.headers.contains_key(header::CONTENT_LENGTH)
            && !response.headers.contains_key(header::TRANSFER_ENCODING);
        // not for an answer that is thrown away: its connection would be the one that is looked at
        forward.awaits_piece(&context.watch, now);
    }
    if ends {
        context.give_back();
    }
    context.answered_at = Some(now);
    if let Some(call) = &mut context.call {
        // an answer without content says here how the call ended
        call.status = grpc::status_in(&response.headers);
    }
    client::remove_hop_by_hop(response);
    if response.status == http::StatusCode::NO_CONTENT {
        // RFC 9110 §8.6, RFC 9112 §6.1: it has no body to speak of
        response.remove_header(&header::CONTENT_LENGTH);
        response.remove_header(&header::TRANSFER_ENCODING);
    }
    map_back(context, response);
    Ok(())
}

/// The endpoint grants what was asked for: from here on both sides talk, and only silence, age or the end of the
/// listener are looked for.
fn open_tunnel(
    session: &Session,
    context: &mut RequestContext,
    response: &mut ResponseHeader,
) -> bool {
    let Some(forward) = context.forward.as_mut() else {
        return false;
    };
    let Some(tunnel) = forward
        .tunnel
        .as_mut()
        .filter(|tunnel| !tunnel.is_open() && websocket::is_grant(response))
    else {
        return false;
    };
    let now = Instant::now();
    tunnel.open(now);
    let deadline = tunnel.deadline(now);
    forward.status = Some(response.status.as_u16());
    forward.settle(Outcome::Answered(response.status.as_u16()), now);
    context.answered_at = Some(now);
    context.status = Some(response.status.as_u16());
    if let Some(drain) = session.digest().and_then(connection::drain_of) {
        context.watch.ends_with(drain.clone());
    }
    context.watch.set_after_head(deadline);
    client::remove_hop_by_hop(response);
    true
}

/// Whether nothing follows the head of an answer (RFC 9112 §6.3); no callback would say so.
fn is_bodiless(method: &Method, response: &ResponseHeader) -> bool {
    let length = || response.headers.get(header::CONTENT_LENGTH);
    method == Method::HEAD
        || matches!(response.status.as_u16(), 204 | 304)
        || length().is_some_and(|length| length == "0")
}

/// Another piece of an answer has arrived: the next one is due within the idle time.
///
/// # Errors
/// What ended was not the answer, but the time for it: where the end of the connection is that of the answer, nothing
/// else says so.
pub fn response_body(
    context: &mut RequestContext,
    body: &mut Option<Bytes>,
    end: bool,
    metrics: &Metrics,
) -> Result<()> {
    let missed = context.watch.is_missed();
    let Some(forward) = context.forward.as_mut() else {
        return Ok(());
    };
    if let Some(tunnel) = forward.tunnel.as_mut().filter(|tunnel| tunnel.is_open()) {
        let now = Instant::now();
        let ended = match (missed, tunnel.is_over(now)) {
            (false, _) => None,
            (true, false) => Some(Ended::Deadline),
            (true, true) => Some(Ended::Credential),
        };
        let ends = tunnel.received(body, end, ended);
        if !end && !missed {
            let deadline = if ends { now } else { tunnel.deadline(now) };
            context.watch.set_after_head(deadline);
        }
        if end && ended == Some(Ended::Credential) {
            let problem = ended_credential(metrics);
            metrics.refused(problem.kind);
            context.refuse(&problem);
        }
        return Ok(());
    }
    if end && missed && forward.until_close {
        return Error::e_explain(DEADLINE, "before the end of the answer");
    }
    if end {
        // before the client can know and ask again
        if let Some(picked) = &mut forward.picked {
            picked.answered();
        }
        forward.observers.clear();
        if let Some(facts) = &mut context.facts {
            facts.held.clear();
        }
    }
    if forward.idle.is_none() && forward.ends.is_none() {
        return Ok(());
    }
    match end {
        false => forward.awaits_piece(&context.watch, Instant::now()),
        true => context.watch.clear(),
    }
    Ok(())
}

/// What ended because its credential did.
pub fn ended_credential(metrics: &Metrics) -> Problem {
    metrics.auth().refused(Reason::Ended);
    Problem::new(Kind::AuthExpired).source(Reason::Ended.code())
}

/// The trailers of an answer have arrived: the end of it.
///
/// # Errors
/// None: trailers are the end of an answer.
pub fn response_trailers(
    context: &mut RequestContext,
    trailers: &HeaderMap,
    metrics: &Metrics,
) -> Result<()> {
    if let Some(call) = &mut context.call {
        call.status = grpc::status_in(trailers).or(call.status);
    }
    response_body(context, &mut None, true, metrics)
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
