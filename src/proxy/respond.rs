//! Every answer that the gateway makes itself, written in one place: problems and fixed answers, over both versions of
//! HTTP, with the request id, the policies' response headers and the right framing.

use super::choose;
use super::context::{Forward, RequestContext};
use super::forward;
use super::intake::{REQUEST_ID, X_REQUEST_ID};
use super::signed;
use crate::exchange::View;
use crate::exchange::answer::Answer;
use crate::exchange::{client, connection};
use crate::observe::metrics::Metrics;
use crate::problem::{Kind, Problem};
use crate::protocol::grpc;
use crate::upstream::{connections, reserve};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora_core::protocols::http::ServerSession;
use pingora_core::{Error, ErrorSource, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// What the gateway calls itself in `Server` and `Proxy-Status`.
pub const NAME: &str = "northgate";

/// The registered type of a problem (RFC 9457 §6.1).
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// What the code of a problem is appended to. `urn:` because there is no page that every installation could reach.
const TYPE_BASE: &str = "urn:northgate:problem:";

/// Unread request bodies up to this are read and thrown away, so that the connection can be used again.
const DRAINED_BYTES_MAX: u64 = 64 * 1024;
const DRAINED_FOR_MAX: Duration = Duration::from_secs(1);

/// What the log says when the client left before it had its answer (nginx's 499).
pub const CLIENT_GONE: u16 = 499;

static PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Answers with a problem.
pub async fn refuse(
    session: &mut Session,
    context: &mut RequestContext,
    problem: &Problem,
) -> Result<()> {
    context.refuse(problem);
    context.give_back();
    if context.call.is_some() {
        return refuse_call(session, context, problem).await;
    }
    context.status = Some(problem.kind.status_code());
    let head = session.req_header();
    let (media_type, body) = body_of(head, context, problem);
    let mut response = head_of(problem.kind.status(), body.len(), context)?;
    response.insert_header(header::CONTENT_TYPE, media_type)?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    if let Some(error) = proxy_error(problem.kind) {
        let status = format!("{NAME}; error={error}; details=\"{}\"", problem.kind.code());
        response.insert_header(PROXY_STATUS.clone(), status)?;
    }
    if matches!(
        problem.kind,
        Kind::UpstreamNone
            | Kind::UpstreamOpen
            | Kind::UpstreamOverloaded
            | Kind::UpstreamConnections
            | Kind::OverloadDescriptors
            | Kind::Overloaded
    ) {
        response.insert_header(header::RETRY_AFTER, "1")?;
    }
    add_fields(&mut response, problem)?;
    if problem.kind.closes() {
        session.set_keepalive(None);
    }
    write(session, context, response, body).await
}

/// Adds the fields that belong to this very problem. Where several credentials would do there are several challenges, a
/// field each (RFC 9110 §11.6.1).
fn add_fields(response: &mut ResponseHeader, problem: &Problem) -> Result<()> {
    for (name, value) in &problem.headers {
        if *name == header::WWW_AUTHENTICATE {
            response.append_header(name.clone(), value.clone())?;
        } else {
            response.insert_header(name.clone(), value.clone())?;
        }
    }
    Ok(())
}

/// Refuses a call of gRPC: 200, and what became of it in the head, with nothing after it ("trailers-only").
async fn refuse_call(
    session: &mut Session,
    context: &mut RequestContext,
    problem: &Problem,
) -> Result<()> {
    context.status = Some(StatusCode::OK.as_u16());
    let mut response = ResponseHeader::build(StatusCode::OK, Some(12))?;
    response.insert_header(header::SERVER, NAME)?;
    if session.req_header().version != Version::HTTP_2 {
        response.insert_header(header::CONTENT_LENGTH, "0")?;
    }
    if let Some(facts) = context.facts.as_ref() {
        response.insert_header(REQUEST_ID, facts.request_id.clone())?;
    }
    response.insert_header(header::CONTENT_TYPE, grpc::MEDIA_TYPE)?;
    for (name, value) in outcome(context, problem) {
        response.insert_header(name, value)?;
    }
    add_fields(&mut response, problem)?;
    if problem.kind.closes() {
        session.set_keepalive(None);
    }
    if let Some(view) = context.view(session.req_header()) {
        context.route.chain.on_response(view, &mut response);
        set_cookies(view, &mut response)?;
    }
    prepare_drain(session);
    leave_if_draining(session);
    let response = Box::new(response);
    // Pingora ends a head without content in a frame of its own, and clients would miss the trailers
    match session.as_downstream_mut() {
        ServerSession::H2(stream) => stream.write_response_header(response, true),
        ServerSession::Custom(stream) => stream.write_response_header(response, true).await,
        _ => session.write_response_header(response, true).await,
    }
}

/// What a call of gRPC ends with.
fn outcome(context: &mut RequestContext, problem: &Problem) -> [(HeaderName, HeaderValue); 2] {
    let status = problem.kind.grpc_status();
    if let Some(call) = &mut context.call {
        call.status = Some(u16::from(status));
    }
    let (title, code) = (problem.kind.title(), problem.kind.code());
    let message = match &problem.detail {
        Some(detail) => format!("{title}: {detail} ({code})"),
        None => format!("{title} ({code})"),
    };
    [
        (grpc::STATUS.clone(), HeaderValue::from(u16::from(status))),
        (grpc::MESSAGE.clone(), grpc::message_value(&message)),
    ]
}

/// Answers with something that is not a problem.
pub async fn answer(
    session: &mut Session,
    context: &mut RequestContext,
    answer: &Answer,
) -> Result<()> {
    context.give_back();
    context.status = Some(answer.status.as_u16());
    if let (None, Some(reason)) = (&context.source, answer.reason) {
        context.source = Some(reason.to_owned());
    }
    let mut response = head_of(answer.status, answer.body.len(), context)?;
    for (name, value) in &answer.headers {
        response.append_header(name.clone(), value.clone())?;
    }
    write(session, context, response, answer.body.clone()).await
}

/// Makes the answer the last one on its connection when the listener is leaving.
pub fn leave_if_draining(session: &mut Session) {
    if session.digest().is_some_and(connection::is_draining) {
        session.set_keepalive(None);
    }
}

/// Finishes the head of an origin's answer on its way to the client.
pub fn finish_head(
    session: &mut Session,
    context: &mut RequestContext,
    response: &mut ResponseHeader,
) -> Result<()> {
    if response.status.is_informational() {
        return Ok(());
    }
    context.status = Some(response.status.as_u16());
    if client::is_event_stream(&response.headers) {
        forward::take_your_time(session, context);
    }
    if let Some(view) = context.view(session.req_header()) {
        // as text: Pingora parses the name in any case, and copies one that it does not know
        response.insert_header(X_REQUEST_ID, view.facts.request_id.clone())?;
        if let Some(cookie) = choose::cookie(context, view) {
            response.append_header(header::SET_COOKIE, cookie)?;
        }
        if context.route.chain.acts_on_responses() {
            context.route.chain.on_response(view, response);
            context.body_filters = context.route.chain.on_response_body(view, response);
            if let Some(answered) = context.answered_at {
                context.own += answered.elapsed();
            }
        }
        if let Some(view) = context.view(session.req_header()) {
            set_cookies(view, response)?;
        }
    }
    if !context.body_filters.is_empty() {
        forget_length(session, response)?;
    }
    if session.req_header().version < Version::HTTP_2
        && forward::may_share(context)
        && !session.as_mut().is_body_done()
    {
        // an endpoint of HTTP/2 may want no more of the body now, and Pingora then ends the client's connection: said
        // here, so that nobody sends another request into it
        session.set_keepalive(None);
    }
    if session.req_header().version == Version::HTTP_10 {
        // it knows no chunks (RFC 9112 §6.1): the end of the connection is the end of the answer
        response.remove_header(&header::TRANSFER_ENCODING);
        if !response.headers.contains_key(header::CONTENT_LENGTH) {
            session.set_keepalive(None);
        }
    }
    Ok(())
}

/// What shared caches go by beside `Cache-Control`, and over it (RFC 9213, Edge Architecture Specification).
static CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
static SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// The cookies that come with who calls, whatever is answered. Policies have had their turn.
fn set_cookies(view: View<'_>, response: &mut ResponseHeader) -> Result<()> {
    if view.facts.set_cookies.is_empty() {
        return Ok(());
    }
    keep_from_caches(response, "private, no-store")?;
    for cookie in &view.facts.set_cookies {
        response.append_header(header::SET_COOKIE, cookie.clone())?;
    }
    Ok(())
}

/// An answer with cookies of the gateway's own is for nobody else, and no cache in between may keep it, whatever the
/// endpoint and the policies say: others would get the session.
fn keep_from_caches(response: &mut ResponseHeader, said: &'static str) -> Result<()> {
    response.insert_header(header::CACHE_CONTROL, said)?;
    for name in [&CDN_CACHE_CONTROL, &SURROGATE_CONTROL, &header::EXPIRES] {
        response.remove_header(name);
    }
    Ok(())
}

/// Frames a body of which nobody knows the length any more. Pingora has decided on chunks by now, from the length that
/// the endpoint gave; without them the end of the connection would be the end of the answer.
fn forget_length(session: &Session, response: &mut ResponseHeader) -> Result<()> {
    response.remove_header(&header::CONTENT_LENGTH);
    if session.req_header().version == Version::HTTP_11 {
        response.set_version(Version::HTTP_11);
        response.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    Ok(())
}

/// Lets policies change a piece of an answer's body. One that breaks off gets no end: what was sent of it does not pass
/// for complete.
pub fn body(context: &mut RequestContext, piece: &mut Option<Bytes>, end: bool) -> Result<()> {
    for filter in &mut context.body_filters {
        filter.piece(piece, end).or_err(
            ErrorType::InternalError,
            "a policy can't go on with the body",
        )?;
    }
    Ok(())
}

/// What the policies still hold of a body that ends with a trailer section. Taking its place, it ends the answer.
pub fn body_before_trailers(context: &mut RequestContext) -> Result<Option<Bytes>> {
    let mut rest = None;
    if !context.body_filters.is_empty() {
        body(context, &mut rest, true)?;
    }
    Ok(rest)
}

/// Tells the client of an error of the transport, if it can still be told. Returns the status.
pub async fn fail(
    session: &mut Session,
    error: &Error,
    context: &mut RequestContext,
    metrics: &Metrics,
) -> u16 {
    let answered = is_answered(session);
    let Some(problem) = problem_of(error, context, answered, metrics) else {
        return 0;
    };
    metrics.refused(problem.kind);
    context.refuse(&problem);
    let status = problem.kind.status_code();
    if answered {
        if context.call.is_some() && session.req_header().version == Version::HTTP_2 {
            // what was begun ends with a status instead of a reset; a client that is gone needs neither
            let trailers = outcome(context, &problem).into_iter().collect();
            let _ = session
                .as_downstream_mut()
                .write_response_trailers(trailers)
                .await;
            return status;
        }
        // the client sees a body that does not end, or a reset
        if session.req_header().version == Version::HTTP_10
            && let Some(digest) = session.digest()
        {
            connection::break_off(digest);
        }
        return status;
    }
    session.set_keepalive(None);
    if refuse(session, context, &problem).await.is_err() {
        context.status = Some(CLIENT_GONE);
    }
    status
}

/// Whether the head of the final answer has been sent.
pub fn is_answered(session: &Session) -> bool {
    let written = session.response_written();
    written.is_some_and(|head| !head.status.is_informational())
}

/// The problem behind an error of Pingora's; none when it is the client who is gone.
fn problem_of(
    error: &Error,
    context: &mut RequestContext,
    answered: bool,
    metrics: &Metrics,
) -> Option<Problem> {
    use pingora_core::ErrorType::*;
    let source = |kind: Kind| Problem::new(kind).source(format!("{error}"));
    let etype = error.etype();
    // the deadline of the request bounds connecting too, and may pass at the same moment
    let connecting = matches!(etype, ConnectTimedout | TLSHandshakeTimedout);
    if !connecting && context.watch.is_missed() || *etype == forward::DEADLINE {
        let is_closed = |forward: &Forward| forward.is_closed(Instant::now());
        if context.forward.as_ref().is_some_and(is_closed) {
            return Some(forward::ended_credential(metrics));
        }
        let sending = context
            .forward
            .as_ref()
            .is_some_and(|forward| forward.tries > 0 && forward.status.is_none())
            && !context.sent;
        if sending {
            return Some(source(Kind::RequestTimeout));
        }
        let late = context.forward.as_ref().map_or("", late);
        return Some(Problem::new(Kind::UpstreamTimeout).source(format!("{late}: {error}")));
    }
    let ours = [
        (forward::BODY_TOO_LARGE, Kind::RequestBody),
        (forward::MESSAGE_TOO_LARGE, Kind::RequestBody),
        (forward::NO_ENDPOINT, Kind::UpstreamNone),
        (connections::NO_PLACE, Kind::UpstreamConnections),
        (forward::BAD_ANSWER, Kind::UpstreamProtocol),
        (signed::NOT_SIGNED, Kind::AuthInvalid),
    ];
    if let Some((_, kind)) = ours.iter().find(|(ours, _)| ours == etype) {
        return Some(source(*kind));
    }
    if reserve::is_exhausted(error) {
        return Some(source(Kind::OverloadDescriptors));
    }
    if let Some(refused) = connection::refused_content(error) {
        return Some(Problem::new(refused.kind).detail(refused.detail));
    }
    match error.esource() {
        ErrorSource::Downstream => match etype {
            ReadTimedout => Some(source(Kind::RequestTimeout)),
            ConnectionClosed | ReadError | WriteError | WriteTimedout | H2Error => {
                // whoever leaves in the middle of an answer has had its status
                if !answered {
                    context.status = Some(CLIENT_GONE);
                }
                context.source = Some(format!("{error}"));
                None
            }
            _ => Some(source(Kind::RequestFraming)),
        },
        ErrorSource::Upstream => Some(source(upstream_kind(etype))),
        _ => Some(source(Kind::Internal)),
    }
}

/// Which time ran out, by its key in the configuration.
fn late(forward: &Forward) -> &'static str {
    match forward.status {
        None => "no head of an answer within `response_header`, `per_try`, or `total`",
        Some(_) => "the answer stopped",
    }
}

fn upstream_kind(etype: &ErrorType) -> Kind {
    use pingora_core::ErrorType::*;
    match etype {
        ConnectTimedout | TLSHandshakeTimedout => Kind::UpstreamConnectTimeout,
        ReadTimedout | WriteTimedout => Kind::UpstreamTimeout,
        ConnectRefused | ConnectNoRoute | ConnectError | ConnectProxyFailure | BindError
        | SocketError | TLSHandshakeFailure | InvalidCert | HandshakeError => Kind::UpstreamConnect,
        ConnectionClosed | ReadError | WriteError | H2Error => Kind::UpstreamReset,
        _ => Kind::UpstreamProtocol,
    }
}

/// The head that all answers share.
fn head_of(status: StatusCode, length: usize, context: &RequestContext) -> Result<ResponseHeader> {
    let mut response = ResponseHeader::build(status, Some(12))?;
    response.insert_header(header::SERVER, NAME)?;
    if !matches!(status.as_u16(), 204 | 304) {
        response.insert_header(header::CONTENT_LENGTH, HeaderValue::from(length))?;
    }
    if let Some(facts) = context.facts.as_ref() {
        response.insert_header(REQUEST_ID, facts.request_id.clone())?;
    }
    Ok(response)
}

/// Runs the policies over the head, and sends it with its body.
async fn write(
    session: &mut Session,
    context: &mut RequestContext,
    mut response: ResponseHeader,
    body: Bytes,
) -> Result<()> {
    let request = session.req_header();
    if let Some(view) = context.view(request) {
        let kept_by_nobody = response.headers.contains_key(header::SET_COOKIE)
            && response
                .headers
                .get(header::CACHE_CONTROL)
                .is_some_and(|said| said == "no-store");
        context.route.chain.on_response(view, &mut response);
        if kept_by_nobody {
            keep_from_caches(&mut response, "no-store")?;
        }
        set_cookies(view, &mut response)?;
    }
    let bodiless = request.method == Method::HEAD || matches!(response.status.as_u16(), 204 | 304);
    prepare_drain(session);
    leave_if_draining(session);
    let ends = bodiless || body.is_empty();
    // Pingora leaves open whose fault it is, and there is nobody else: a client that left is no defect of ours
    let written = session.write_response_header(Box::new(response), ends);
    written.await.map_err(|error| error.into_down())?;
    if !ends {
        let written = session.write_response_body(Some(body), true);
        written.await.map_err(|error| error.into_down())?;
    }
    Ok(())
}

/// Lets a connection live on whose request body is small enough to be thrown away. A body that waits for `100` is not
/// coming, and one without a length has no bound.
fn prepare_drain(session: &mut Session) {
    let headers = &session.req_header().headers;
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok());
    let small = length.is_some_and(|length| length <= DRAINED_BYTES_MAX)
        && !headers.contains_key(header::EXPECT);
    if small {
        session.set_close_on_response_before_downstream_finish(false);
        session.set_total_drain_timeout(Some(DRAINED_FOR_MAX));
    }
}

/// The body of a problem: HTML for browsers that ask for it, JSON for everybody else.
fn body_of(
    request: &RequestHeader,
    context: &RequestContext,
    problem: &Problem,
) -> (HeaderValue, Bytes) {
    let id = context
        .facts
        .as_ref()
        .and_then(|facts| facts.request_id.to_str().ok())
        .unwrap_or("-");
    if prefers_html(&request.headers) {
        return (HTML, html(problem, id).into());
    }
    (PROBLEM_JSON, json(problem, id).into())
}

/// `application/problem+json` (RFC 9457 §3).
pub fn json(problem: &Problem, request_id: &str) -> String {
    let kind = problem.kind;
    let detail = match &problem.detail {
        Some(detail) => detail.clone(),
        None => kind.description().into(),
    };
    let mut text = serde_json::json!({
        "type": format!("{TYPE_BASE}{}", kind.code()),
        "title": kind.title(),
        "status": kind.status_code(),
        "detail": detail,
        "code": kind.code(),
        "instance": request_id,
    })
    .to_string();
    text.push('\n');
    text
}

fn html(problem: &Problem, request_id: &str) -> String {
    let (status, title, code) = (
        problem.kind.status_code(),
        problem.kind.title(),
        problem.kind.code(),
    );
    let mut page = String::with_capacity(512);
    // writing to a string can't fail
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{status} {title}</title>\n\
         <h1>{status} {title}</h1>\n"
    );
    if let Some(detail) = &problem.detail {
        let _ = writeln!(page, "<p>{}</p>", escaped(detail));
    }
    let _ = writeln!(
        page,
        "<p><code>{code}</code> · request <code>{}</code></p></html>",
        escaped(request_id)
    );
    page
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Whether `Accept` names HTML, and JSON less or not at all (RFC 9110 §12.5.1). Tools that take anything get JSON.
fn prefers_html(headers: &HeaderMap) -> bool {
    let (mut html, mut json) = (0.0, 0.0);
    let ranges = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight: f32 = parts
            .find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")))
            .map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        match media_type.as_str() {
            "text/html" => html = weight.max(html),
            _ if media_type.ends_with("/json") || media_type.ends_with("+json") => {
                json = weight.max(json);
            }
            _ => {}
        }
    }
    html > json
}

/// The error of RFC 9209 §2.3 for what went wrong behind the gateway; none for what is the client's.
fn proxy_error(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::UpstreamNone | Kind::UpstreamOpen => "destination_unavailable",
        Kind::UpstreamOverloaded | Kind::UpstreamConnections => "connection_limit_reached",
        Kind::UpstreamConnect => "connection_refused",
        Kind::UpstreamReset => "connection_terminated",
        Kind::UpstreamProtocol => "http_protocol_error",
        Kind::UpstreamConnectTimeout => "connection_timeout",
        Kind::UpstreamTimeout => "http_response_timeout",
        Kind::Internal => "proxy_internal_error",
        _ => return None,
    })
}

/// A refusal by the edge, of bytes that never became a request, as a whole HTTP/1 message, and how long its content is.
pub fn raw(problem: &Problem, request_id: &HeaderValue) -> (Vec<u8>, usize) {
    let id = request_id.to_str().unwrap_or("-");
    let body = json(problem, id);
    let kind = problem.kind;
    let status = kind.status();
    let mut text = format!(
        "HTTP/1.1 {} {}\r\nserver: {NAME}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         {X_REQUEST_ID}: {id}\r\ncache-control: no-store\r\ndate: {}\r\nconnection: close\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        body.len(),
        httpdate::fmt_http_date(std::time::SystemTime::now()),
    );
    for (name, value) in &problem.headers {
        if let Ok(value) = value.to_str() {
            let _ = write!(text, "{name}: {value}\r\n");
        }
    }
    text.push_str("\r\n");
    text.push_str(&body);
    (text.into_bytes(), body.len())
}

/// The view of a request whose facts are known.
pub fn view_of<'a>(context: &'a RequestContext, session: &'a Session) -> Option<View<'a>> {
    context.view(session.req_header())
}
