//! One check of one endpoint.
//!
//! Connections are Pingora's, from the peer that requests to the endpoint are given; what is said over them is bounded
//! here. HTTP/2 is driven by the check itself: when it ends, or its time does, nothing of it is left.

use super::grpc::{self, Health};
use super::{HealthCheck, Http, Kind};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::{ALPN, Stream};
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_http::RequestHeader;
use std::sync::LazyLock;

/// The part of a body that is looked at.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The longest answer to a gRPC check; the message itself has two bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Interim answers before the final one (security requirement 5.6).
const INTERIM_MAX: u8 = 16;

/// Makes connections and keeps none: a check of an old connection says nothing about new ones. It reads the machine's
/// certificates, so there is one.
static CONNECTOR: LazyLock<TransportConnector> = LazyLock::new(|| TransportConnector::new(None));

/// Asks an endpoint once. `authority` is what it calls itself.
///
/// # Errors
/// Why it is not well, in a few words for the log and the status.
pub async fn probe(
    mut peer: Box<HttpPeer>,
    authority: HeaderValue,
    check: &HealthCheck,
) -> Result<(), String> {
    if let (Some(port), SocketAddr::Inet(address)) = (check.port, &mut peer._address) {
        address.set_port(port);
    }
    peer.options.connection_timeout = Some(check.timeout);
    peer.options.total_connection_timeout = Some(check.timeout);
    if matches!(check.kind, Kind::Grpc(_)) {
        peer.options.alpn = ALPN::H2;
    }
    let asked = async {
        let stream = CONNECTOR.new_stream(&*peer).await.map_err(reason)?;
        match &check.kind {
            Kind::Tcp => Ok(()),
            Kind::Http(http) if speaks_h2(&stream, &peer) => {
                over_h2(stream, http, &peer, authority).await
            }
            Kind::Http(http) => over_h1(stream, http, &peer, authority).await,
            Kind::Grpc(service) => over_grpc(stream, service, &peer, authority).await,
        }
    };
    match tokio::time::timeout(check.timeout, asked).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {:?}", check.timeout)),
    }
}

/// Pingora's errors name what they were doing, and the cause below it.
#[allow(
    clippy::boxed_local,
    reason = "errors come in boxes, and this maps them"
)]
fn reason(error: Box<pingora_core::Error>) -> String {
    let what = error.etype().as_str();
    match error.root_cause() {
        cause if cause.to_string().is_empty() => what.to_owned(),
        cause => {
            let cause = cause.to_string();
            // a cause that is Pingora's own repeats its type
            match error.cause.is_some() {
                true => format!("{what}: {cause}"),
                false => cause.trim().to_owned(),
            }
        }
    }
}

/// As Pingora decides for requests: by ALPN, or, in plaintext, where nothing but HTTP/2 is spoken.
fn speaks_h2(stream: &Stream, peer: &HttpPeer) -> bool {
    match stream.selected_alpn_proto() {
        Some(chosen) => chosen == ALPN::H2,
        None => !peer.tls() && peer.options.alpn.get_min_http_version() == 2,
    }
}

async fn over_h1(
    stream: Stream,
    http: &Http,
    peer: &HttpPeer,
    authority: HeaderValue,
) -> Result<(), String> {
    let mut session = HttpSession::new_with_options(stream, peer);
    let head = head_of(http, authority).map_err(reason)?;
    session
        .write_request_header(Box::new(head))
        .await
        .map_err(reason)?;
    session.finish_body().await.map_err(reason)?;
    let mut interim = 0;
    let status = loop {
        session.read_response().await.map_err(reason)?;
        match session.get_status() {
            Some(status) if !status.is_informational() => break status,
            _ if interim == INTERIM_MAX => return Err("too many interim answers".to_owned()),
            _ => interim += 1,
        }
    };
    judge_status(http, status)?;
    let Some(wanted) = &http.body else {
        return Ok(());
    };
    let mut body = BytesMut::new();
    while body.len() < BODY_BYTES_MAX {
        match session.read_body_bytes().await.map_err(reason)? {
            Some(part) => take(&mut body, &part),
            None => break,
        }
    }
    judge_body(wanted, &body)
}

fn head_of(http: &Http, authority: HeaderValue) -> pingora_core::Result<RequestHeader> {
    let target = http.target.as_bytes();
    let mut head = RequestHeader::build(http.method.clone(), target, Some(4))?;
    head.insert_header(header::HOST, http.host.clone().unwrap_or(authority))?;
    head.insert_header(header::USER_AGENT, USER_AGENT)?;
    head.insert_header(header::CONNECTION, "close")?;
    if !matches!(http.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        // RFC 9110 §8.6: otherwise some answer 411
        head.insert_header(header::CONTENT_LENGTH, "0")?;
    }
    Ok(head)
}

const USER_AGENT: HeaderValue = HeaderValue::from_static("northgate-health");

fn take(body: &mut BytesMut, part: &[u8]) {
    let room = BODY_BYTES_MAX.saturating_sub(body.len());
    body.extend_from_slice(part.get(..room).unwrap_or(part));
}

fn judge_status(http: &Http, status: StatusCode) -> Result<(), String> {
    let status = status.as_u16();
    match http.statuses.iter().any(|range| range.contains(status)) {
        true => Ok(()),
        false => Err(format!("answered {status}")),
    }
}

fn judge_body(wanted: &super::BodyMatch, body: &[u8]) -> Result<(), String> {
    match wanted.holds(body) {
        true => Ok(()),
        false => Err("the body does not have what it must".to_owned()),
    }
}

async fn over_h2(
    stream: Stream,
    http: &Http,
    peer: &HttpPeer,
    authority: HeaderValue,
) -> Result<(), String> {
    let host = http.host.clone().unwrap_or(authority);
    let request = h2_request(http.method.clone(), &http.target, peer, &host)?;
    let exchange = async |mut asking: h2::client::SendRequest<Bytes>| {
        let (answer, _) = asking.send_request(request, true).map_err(text)?;
        let answer = answer.await.map_err(text)?;
        judge_status(http, answer.status())?;
        let Some(wanted) = &http.body else {
            return Ok(());
        };
        let body = received(answer.into_body(), BODY_BYTES_MAX).await?.0;
        judge_body(wanted, &body)
    };
    over_connection(stream, exchange).await
}

async fn over_grpc(
    stream: Stream,
    service: &str,
    peer: &HttpPeer,
    authority: HeaderValue,
) -> Result<(), String> {
    if peer.tls() && stream.selected_alpn_proto() != Some(ALPN::H2) {
        return Err("it does not speak HTTP/2".to_owned());
    }
    let mut request = h2_request(Method::POST, grpc::PATH, peer, &authority)?;
    let fields = request.headers_mut();
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    fields.insert(header::TE, HeaderValue::from_static("trailers"));
    let exchange = async |mut asking: h2::client::SendRequest<Bytes>| {
        let (answer, mut sending) = asking.send_request(request, false).map_err(text)?;
        sending
            .send_data(grpc::request(service), true)
            .map_err(text)?;
        let answer = answer.await.map_err(text)?;
        if answer.status() != StatusCode::OK {
            return Err(format!("answered {}", answer.status().as_u16()));
        }
        // an answer of trailers only has them in its head
        let at_once = grpc_status(answer.headers());
        let (message, trailers) = received(answer.into_body(), MESSAGE_BYTES_MAX).await?;
        match at_once.or(trailers.as_ref().and_then(grpc_status)) {
            Some(0) => {}
            // a server without the health service, or that does not know the one that is asked for
            Some(12) => return Err("it has no health service (UNIMPLEMENTED)".to_owned()),
            Some(5) => return Err("it does not know the service (NOT_FOUND)".to_owned()),
            Some(code) => return Err(format!("answered gRPC status {code}")),
            None => return Err("its answer has no gRPC status".to_owned()),
        }
        match grpc::serving(&message) {
            Some(Health::Serving) => Ok(()),
            Some(Health::NotServing) => Err("answered NOT_SERVING".to_owned()),
            Some(Health::ServiceUnknown) => Err("answered SERVICE_UNKNOWN".to_owned()),
            Some(Health::Unknown) => Err("answered UNKNOWN".to_owned()),
            None => Err("its answer is no health message".to_owned()),
        }
    };
    over_connection(stream, exchange).await
}

fn grpc_status(fields: &HeaderMap) -> Option<u32> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn h2_request(
    method: Method,
    target: &str,
    peer: &HttpPeer,
    host: &HeaderValue,
) -> Result<http::Request<()>, String> {
    let scheme = if peer.tls() { "https" } else { "http" };
    let uri = http::Uri::builder()
        .scheme(scheme)
        .authority(host.as_bytes())
        .path_and_query(target)
        .build()
        .map_err(|error| error.to_string())?;
    http::Request::builder()
        .method(method)
        .uri(uri)
        .version(Version::HTTP_2)
        .header(header::USER_AGENT, USER_AGENT)
        .body(())
        .map_err(|error| error.to_string())
}

/// Makes an HTTP/2 connection and drives it for as long as the exchange takes.
async fn over_connection(
    stream: Stream,
    exchange: impl AsyncFnOnce(h2::client::SendRequest<Bytes>) -> Result<(), String>,
) -> Result<(), String> {
    let (asking, connection) = h2::client::handshake(stream).await.map_err(text)?;
    tokio::select! {
        biased;
        result = exchange(asking) => result,
        ended = connection => match ended {
            Ok(()) => Err("the connection was closed".to_owned()),
            Err(error) => Err(text(error)),
        },
    }
}

fn text(error: h2::Error) -> String {
    error.to_string()
}

/// A body as far as `most`, and its trailers if it ended before.
async fn received(
    mut body: h2::RecvStream,
    most: usize,
) -> Result<(BytesMut, Option<HeaderMap>), String> {
    let mut whole = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(text)?;
        let _ = body.flow_control().release_capacity(part.len());
        let room = most.saturating_sub(whole.len());
        whole.extend_from_slice(part.get(..room).unwrap_or(&part));
        if whole.len() >= most {
            return Ok((whole, None));
        }
    }
    let trailers = body.trailers().await.map_err(text)?;
    Ok((whole, trailers))
}
