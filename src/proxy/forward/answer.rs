//! What an endpoint answers: the head, and what follows it as it passes.

use super::{BAD_ANSWER, DEADLINE};
use crate::exchange::{client, connection};
use crate::identity::Reason;
use crate::observe::metrics::Metrics;
use crate::problem::{Kind, Problem};
use crate::protocol::{grpc, websocket};
use crate::proxy::context::RequestContext;
use crate::proxy::map_back::map_back;
use crate::proxy::retry::{self, Failure};
use crate::proxy::tunnel::Ended;
use crate::upstream::Outcome;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use std::time::Instant;

/// The most interim answers of one try (security requirement 5.6).
const INTERIM_MAX: u8 = 16;

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
