//! One record per request: metrics always, a line of the access log where one is kept.

use super::context::RequestContext;
use super::respond::CLIENT_GONE;
use crate::exchange::connection::Connection;
use crate::exchange::present::Present;
use crate::observe::access_log::{AccessLog, Record};
use crate::upstream::Outcome;
use http::header;
use pingora_core::{Error, ErrorSource};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use std::time::{Duration, Instant};

/// Ends a request: settles its try, counts it, writes its line.
pub fn record(session: &Session, error: Option<&Error>, context: &mut RequestContext) {
    let now = Instant::now();
    if let Some(forward) = context.forward.as_mut() {
        // a try that is not counted by now ended with its client
        forward.settle(Outcome::Abandoned, now);
        if error.is_none()
            && let Some(picked) = &mut forward.picked
        {
            // no callback says so where the head was all of the answer, or the client knew before where it ends
            picked.answered();
        }
        if let Some(claim) = &mut forward.claim {
            // Pingora has its connection back
            claim.ends();
        }
    }
    context.watch.clear();
    context.watch.released();
    let gone = error.is_some_and(|error| *error.esource() == ErrorSource::Downstream);
    if gone && session.response_written().is_none() && context.problem.is_none() {
        context.status = Some(CLIENT_GONE);
    }
    if let Some(error) = error
        && context.source.is_none()
    {
        context.source = Some(error.to_string());
    }
    let total = now.saturating_duration_since(context.started);
    let own = if context.forward.is_some() {
        context.own
    } else {
        total
    };
    let request = session.req_header();
    context
        .route
        .metrics
        .finished(&request.method, context.status, total, own.min(total));
    if let Some(call) = &context.call {
        context.route.metrics.called(call.status);
    }
    if let Some(log) = context.route.access_log.as_deref() {
        write_line(log, session, request, context, total, own.min(total));
    }
}

fn write_line(
    log: &AccessLog,
    session: &Session,
    request: &RequestHeader,
    context: &RequestContext,
    total: Duration,
    own: Duration,
) {
    let Some(facts) = context.facts.as_ref() else {
        return;
    };
    let connection: &Connection = &facts.connection;
    let forward = context.forward.as_ref();
    let text = |field, name| {
        let value = || request.headers.get(name).map(http::HeaderValue::as_bytes);
        context.present.any(field).then(value).flatten()
    };
    log.write(&Record {
        time: context.received,
        request_id: facts.request_id.as_bytes(),
        client_address: facts.client_address,
        peer: connection.peer,
        introduced_by: connection.introduced_by,
        listener: &connection.listener.name,
        method: &request.method,
        scheme: facts.scheme,
        host: facts.host.as_str(),
        path: request.uri.path().as_bytes(),
        query: request.uri.query().map(str::as_bytes),
        version: request.version,
        status: context.status,
        route: facts.route.as_deref(),
        identity: facts.identity.as_deref(),
        service: forward.map(|forward| &*forward.service.name),
        endpoint: forward
            .and_then(|forward| forward.endpoint())
            .map(|endpoint| &*endpoint.name),
        tries: forward.map_or(0, |forward| u32::from(forward.tries)),
        request_bytes: context.request_bytes,
        response_bytes: session.body_bytes_sent() as u64,
        duration: total,
        own: Some(own),
        upstream: forward.map(|forward| forward.waited),
        user_agent: text(Present::USER_AGENT, header::USER_AGENT),
        referer: text(Present::REFERER, header::REFERER),
        problem: context.problem,
        reason: context.source.as_deref(),
        store_failure: facts.stores.instead,
        trace_id: context.trace.map(|trace| trace.trace_id()),
        tls_version: connection.tls.as_ref().map(|tls| tls.version),
        server_name: connection
            .tls
            .as_ref()
            .and_then(|tls| tls.server_name.as_deref()),
    });
}
