//! Who asks, and for what: from the head as received to the values that everyone after this uses.

use super::context::{Call, RequestContext};
use super::tunnel;
use crate::exchange::caller::IdentityFields;
use crate::exchange::canonical::{Canonical, Raw, canonical, encoded_slash_refused, host_of};
use crate::exchange::client;
use crate::exchange::connection::{self, Connection};
use crate::exchange::head_limits::HeadLimits;
use crate::exchange::present::Present;
use crate::exchange::{Captures, Facts, View};
use crate::observe::random;
use crate::observe::trace::{TRACEPARENT, TraceContext};
use crate::problem::{Kind, Problem};
use crate::protocol::{grpc, websocket};
use crate::router::Found;
use crate::snapshot::{Listener, Role};
use http::{HeaderName, HeaderValue, Version, header};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The field that carries the request id.
pub const X_REQUEST_ID: &str = "x-request-id";
/// The same, as a name that is looked up or inserted without being parsed.
pub const REQUEST_ID: HeaderName = HeaderName::from_static(X_REQUEST_ID);

/// Understands a request, makes its head canonical and finds its route.
///
/// # Errors
/// What is malformed, ambiguous or too large, and what no route takes. The facts are set even then, as far as the
/// request could be understood, so that the answer and the log line can say whose it was.
pub fn admit(session: &mut Session, context: &mut RequestContext) -> Result<(), Problem> {
    let connection = session
        .digest()
        .and_then(connection::connection_of)
        .cloned();
    let connection = connection
        .ok_or_else(|| Problem::new(Kind::Internal).source("a connection without facts"))?;
    understand(session.req_header_mut(), connection, context)
}

/// The same for a head that came from elsewhere, such as a command line.
pub fn understand(
    request: &mut RequestHeader,
    connection: Arc<Connection>,
    context: &mut RequestContext,
) -> Result<(), Problem> {
    let listener = context
        .snapshot
        .listeners
        .get(&connection.listener.name)
        .cloned();
    // the connections of a listener outlive it for as long as they are drained
    let listener = listener
        .ok_or_else(|| Problem::new(Kind::Overloaded).detail("this listener is being closed"))?;
    let routes = listener.role == Role::Routes;
    let facts = context
        .facts
        .insert(known(request, connection, &listener, context.received));
    let present = Present::of(&request.headers);
    context.present = present;
    if present.any(Present::CONTENT_TYPE) && grpc::is_call(&request.headers) {
        context.call = Some(Call::default());
    }
    context.trace = Some(trace_of(request, present));
    let bounds = listener.head;
    context.listener = Some(listener);
    let upgrade = present.any(Present::UPGRADE) && websocket::is_handshake(request);
    let fields = &context.snapshot.identity_fields;
    let encoded_slash = normalise(request, facts, present, upgrade, fields, &bounds)?;
    // what `Connection` did not name is gone by now
    context.upgrade = upgrade && request.headers.contains_key(header::UPGRADE);
    check_entitlement(context)?;
    // what other listeners answer is no route's: neither its name nor its policies belong to it
    if routes {
        check_loop(context, request)?;
        route(context, request, encoded_slash)?;
    }
    tunnel::admit(request, context)
}

/// The edge counts the fields of HTTP/1.
fn check_field_count(request: &RequestHeader, bounds: &HeadLimits) -> Result<(), Problem> {
    match request.headers.len() > bounds.fields {
        true => Err(Kind::RequestHeadLength.into()),
        false => Ok(()),
    }
}

/// What the edge refuses of an HTTP/1 head and the HTTP/2 parser lets through: a scheme that is not of the web (RFC 9113
/// §8.3.1), a length said twice, a field that is too long, and a value with a blank at an end (RFC 9113 §8.2.1). The
/// origin's parser trims it, so policies would decide about another value than the origin gets.
fn check_http2_fields(request: &RequestHeader, bounds: &HeadLimits) -> Result<(), Problem> {
    if request.version != Version::HTTP_2 {
        return Ok(());
    }
    if request.raw_path().len() > bounds.target_bytes {
        let detail = "the request target is too long";
        return Err(Problem::new(Kind::RequestTargetLength).detail(detail));
    }
    // without an authority h2 drops the scheme, and then nobody has it
    if let Some(scheme) = request.uri.scheme()
        && *scheme != http::uri::Scheme::HTTP
        && *scheme != http::uri::Scheme::HTTPS
    {
        let detail = "the scheme is neither http nor https";
        return Err(Problem::new(Kind::RequestTarget).detail(detail));
    }
    let mut lengths = request.headers.get_all(header::CONTENT_LENGTH).iter();
    if lengths.nth(1).is_some() {
        return Err(Problem::new(Kind::RequestFraming).detail("Content-Length is repeated"));
    }
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    for (name, value) in &request.headers {
        let bytes = value.as_bytes();
        if is_blank(bytes.first()) || is_blank(bytes.last()) {
            let detail = "a header field value has a blank at one end";
            return Err(Problem::new(Kind::RequestHeader).detail(detail));
        }
        if name.as_str().len() + ":".len() + bytes.len() > bounds.field_bytes {
            return Err(Problem::new(Kind::RequestHeadLength).detail("a header field is too long"));
        }
    }
    Ok(())
}

/// A connection that was made for one certificate is not one for the hosts of another, or a client certificate that the
/// other demands could be bypassed (RFC 9110 §15.5.20).
fn check_entitlement(context: &RequestContext) -> Result<(), Problem> {
    let (Some(facts), Some(listener)) = (context.facts.as_ref(), context.listener.as_deref())
    else {
        return Ok(());
    };
    let (Some(tls), Some(certificates)) = (&facts.connection.tls, &listener.certificates) else {
        return Ok(());
    };
    let server_name = tls.server_name.as_deref();
    if !certificates.covers(server_name, facts.host.as_str()) {
        return Err(Kind::RequestMisdirected.into());
    }
    // a reload may have changed who is trusted, or brought a list that this certificate is on
    let clients = certificates
        .asks_clients()
        .then(|| certificates.clients(server_name))
        .flatten();
    match clients {
        Some(clients) if !clients.would_accept(tls.client.as_deref(), context.received) => {
            Err(Kind::RequestClientCertificate.into())
        }
        // it was verified for somebody who is not asked any more
        None if tls.client.is_some() => Err(Kind::RequestClientCertificate.into()),
        _ => Ok(()),
    }
}

/// Removes what this client does not get to say, and gives the head its only spelling. Tells whether an encoded slash
/// is left in the path.
fn normalise(
    request: &mut RequestHeader,
    facts: &mut Facts,
    present: Present,
    upgrade: bool,
    fields: &IdentityFields,
    bounds: &HeadLimits,
) -> Result<bool, Problem> {
    if present.any(Present::EXPECT) {
        check_expectation(request)?;
        if request.version == Version::HTTP_10 {
            // it knows no interim answers (RFC 9110 §10.1.1)
            request.remove_header(&header::EXPECT);
        }
    }
    if present.any(Present::CONTENT_LENGTH) {
        respell_length(request)?;
    }
    check_field_count(request, bounds)?;
    check_http2_fields(request, bounds)?;
    let canonical = {
        let raw = Raw::of(request, facts.scheme);
        canonical(&raw).inspect_err(|_| facts.host = host_of(&raw))?
    };
    let uri = canonical
        .rewritten
        .then(|| uri_of(&canonical, request))
        .transpose();
    let encoded_slash = canonical.encoded_slash;
    facts.port = canonical.port;
    facts.host = canonical.host;
    let uri = uri?;
    if let Some(uri) = uri {
        request.set_uri(uri);
    }
    join_cookies(request)?;
    client::edit_fields(request, |headers| {
        client::remove_untrusted(headers, facts.peer_trusted);
        fields.remove(headers);
        let upgrade = match upgrade {
            true => client::Upgrade::Keep,
            false => client::Upgrade::Remove,
        };
        client::remove_hop_by_hop_request(headers, upgrade)
    })?;
    Ok(encoded_slash)
}

/// The facts that need no understanding of the request.
fn known(
    request: &RequestHeader,
    connection: Arc<Connection>,
    listener: &Listener,
    received: SystemTime,
) -> Facts {
    let headers = &request.headers;
    // where a proxy does not say who is behind it, it may be anybody
    let nobody = client::TrustedProxies::default();
    let trusted = match connection.is_nameless {
        true => &nobody,
        false => &listener.trusted,
    };
    let client = client::client_of(connection.peer, headers, trusted, listener.forwarded);
    let peer_trusted = client.peer_trusted;
    Facts {
        request_id: request_id(request, peer_trusted, received),
        client_address: client.address,
        peer_trusted,
        scheme: client::client_scheme(connection.tls.is_some(), peer_trusted, headers),
        connection,
        host: Default::default(),
        port: None,
        host_captures: Captures::default(),
        path_captures: Captures::default(),
        route: None,
        identity: None,
        plan: None,
        granted: Vec::new(),
        limits: Default::default(),
        stores: Default::default(),
        used: Default::default(),
        held: Default::default(),
        body: Default::default(),
        set_cookies: Vec::new(),
        closes_at: None,
        overload: Default::default(),
    }
}

/// A trusted proxy's id where it has the form of one (security requirement 5.5), else a new one.
fn request_id(request: &RequestHeader, trusted: bool, received: SystemTime) -> HeaderValue {
    let given = trusted.then(|| request.headers.get(REQUEST_ID)).flatten();
    let given = given.filter(|id| client::is_request_id(id.as_bytes()));
    given.cloned().unwrap_or_else(|| new_request_id(received))
}

/// A new id, which sorts by time (RFC 9562 §5.7). Its random bits are this thread's own: the library's generator of
/// such ids counts under a lock that all threads share.
pub fn new_request_id(received: SystemTime) -> HeaderValue {
    let since = received.duration_since(UNIX_EPOCH);
    let milliseconds = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
    // 48 bits of time, the version, 12 random bits; the variant, 62 random bits
    let high = (milliseconds << 16) | (7 << 12) | (random::next() >> 52);
    let low = (2 << 62) | (random::next() >> 2);
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let id = uuid::Uuid::from_u64_pair(high, low);
    let id = id.as_hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(id).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

fn trace_of(request: &RequestHeader, present: Present) -> TraceContext {
    if !present.any(Present::TRACEPARENT) {
        return started();
    }
    let fields = request.headers.get_all(TRACEPARENT);
    TraceContext::continued(fields.iter().map(HeaderValue::as_bytes)).unwrap_or_else(started)
}

/// A new trace. It is marked as sampled, because origins that follow their caller's word would otherwise stop tracing
/// as soon as a gateway stands before them.
pub fn started() -> TraceContext {
    TraceContext::started(true)
}

/// A length with zeros in front is sent on without: to a parser that takes those for octal it is another one.
fn respell_length(request: &mut RequestHeader) -> Result<(), Problem> {
    let zeros = |value: &&HeaderValue| value.len() > 1 && value.as_bytes().starts_with(b"0");
    let fields = &request.headers;
    let Some(value) = fields.get(header::CONTENT_LENGTH).filter(zeros) else {
        return Ok(());
    };
    let wrong = || Problem::new(Kind::RequestFraming).detail("Content-Length is not one number");
    let text = value.to_str().map_err(|_| wrong())?;
    let length: u64 = text.trim().parse().map_err(|_| wrong())?;
    request
        .insert_header(header::CONTENT_LENGTH, HeaderValue::from(length))
        .map_err(|_| wrong())
}

/// Only `100-continue` can be met (RFC 9110 §10.1.1).
fn check_expectation(request: &RequestHeader) -> Result<(), Problem> {
    let mut expectations = request.headers.get_all(header::EXPECT).iter();
    if expectations.all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Ok(());
    }
    Err(Kind::RequestExpect.into())
}

/// HTTP/2 may send a cookie in crumbs; everyone else wants one field (RFC 9113 §8.2.3).
fn join_cookies(request: &mut RequestHeader) -> Result<(), Problem> {
    if request.version != Version::HTTP_2 {
        return Ok(());
    }
    let crumbs = request.headers.get_all(header::COOKIE);
    if crumbs.iter().nth(1).is_none() {
        return Ok(());
    }
    let all: Vec<&[u8]> = crumbs.iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&all.join(&b"; "[..]));
    let wrong =
        |error: &dyn std::fmt::Display| Problem::new(Kind::RequestHeader).source(error.to_string());
    let joined = joined.map_err(|error| wrong(&error))?;
    request
        .insert_header(header::COOKIE, joined)
        .map_err(|error| wrong(&error))
}

/// The canonical target. An HTTP/2 request keeps the authority beside it, where Pingora looks for it.
fn uri_of(canonical: &Canonical<'_>, request: &RequestHeader) -> Result<http::Uri, Problem> {
    let wrong =
        |error: &dyn std::fmt::Display| Problem::new(Kind::RequestTarget).source(error.to_string());
    let target: http::Uri = canonical.target().parse().map_err(|error| wrong(&error))?;
    if request.version != Version::HTTP_2 || request.uri.authority().is_none() {
        return Ok(target);
    }
    let mut parts = target.into_parts();
    parts.scheme = request.uri.scheme().cloned();
    parts.authority = request.uri.authority().cloned();
    http::Uri::from_parts(parts).map_err(|error| wrong(&error))
}

/// Refuses what this gateway has sent itself, by whatever way it has come back (RFC 9110 §7.6.3).
fn check_loop(context: &RequestContext, request: &RequestHeader) -> Result<(), Problem> {
    let via = context.snapshot.via.as_deref();
    match via.filter(|_| context.present.any(Present::VIA)) {
        Some(via) if via.is_in(&request.headers) => Err(Kind::Loop.into()),
        _ => Ok(()),
    }
}

/// Finds the route and what its patterns cut out.
fn route(
    context: &mut RequestContext,
    request: &RequestHeader,
    encoded_slash: bool,
) -> Result<(), Problem> {
    let Some(facts) = context.facts.as_mut() else {
        return Err(Problem::new(Kind::Internal).source("a route was looked for without facts"));
    };
    let found = context.snapshot.router.find(View { request, facts });
    match found {
        Found::Route {
            index,
            host_captures,
            path_captures,
        } => {
            let route = context.snapshot.routes.get(index);
            let route = route
                .ok_or_else(|| Problem::new(Kind::Internal).source("a route without a place"))?;
            facts.route = Some(route.name.clone());
            facts.host_captures = host_captures;
            facts.path_captures = path_captures;
            let refused = encoded_slash && !route.allow_encoded_slash;
            context.route = route.clone();
            if refused {
                Err(encoded_slash_refused().into())
            } else {
                Ok(())
            }
        }
        _ if encoded_slash => Err(encoded_slash_refused().into()),
        Found::MethodNotAllowed { allow } => {
            Err(Problem::new(Kind::RouteMethod).header(header::ALLOW, allow))
        }
        Found::Ambiguous => Err(Problem::new(Kind::RequestPath)
            .detail("the path has parameters that other servers would cut off")),
        Found::None => Err(Kind::RouteNone.into()),
    }
}
