//! What is sent to an endpoint: the head, and the content as it passes.

use super::{BAD_ANSWER, BODY_TOO_LARGE, DEADLINE, MESSAGE_TOO_LARGE, await_answer, interrupt_of};
use crate::exchange::client::{self, Authority};
use crate::exchange::present::Present;
use crate::observe::trace::{TRACEPARENT, TRACESTATE, TraceContext};
use crate::proxy::context::{Forward, RequestContext};
use crate::proxy::grpc_timeout::{self, GRPC_TIMEOUT};
use crate::proxy::intake::{self, REQUEST_ID};
use crate::snapshot::route::Limit;
use crate::upstream::service::Host;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Uri, header};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use std::time::Instant;

/// The fields that the gateway adds to every head it sends on.
const OWN_FIELDS: usize = 8;

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
