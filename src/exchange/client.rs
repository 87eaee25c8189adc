//! Who the client is, and which fields of a head it does not get to write.
//!
//! A proxy in front of the gateway is believed only when its address is one of `trusted_proxies`; then the client is
//! the right-most hop that is not trusted itself, never the left-most, which anybody can write (design 3.2). What
//! remains of a head goes on: without the fields that are meant for one connection (RFC 9110 §7.6.1), without those
//! that only the gateway may set, and with the gateway's own account of who asked for what.

use super::canonical::{Refusal, is_token, parse_authority, refused};
use super::connection::Peer;
use super::{Facts, Scheme};
use crate::problem::Kind;
use http::header::{CONNECTION, CONTENT_TYPE, FORWARDED, HOST, TE, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;
use pingora_http::{RequestHeader, ResponseHeader};
use smallvec::SmallVec;
use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// The longest request id that is taken from a trusted proxy.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The peers whose forwarding fields are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Box<[IpNet]>,
    /// Whether whoever reaches a Unix socket is trusted.
    unix: bool,
}

impl TrustedProxies {
    pub fn new(networks: impl IntoIterator<Item = IpNet>, unix: bool) -> Self {
        Self {
            networks: networks.into_iter().map(canonical_network).collect(),
            unix,
        }
    }

    pub fn trusts(&self, peer: &Peer) -> bool {
        match peer.ip() {
            Some(address) => self.contains(address),
            None => self.unix,
        }
    }

    /// Whether any address is that of a trusted proxy.
    pub fn has_networks(&self) -> bool {
        !self.networks.is_empty()
    }

    pub fn trusts_unix(&self) -> bool {
        self.unix
    }

    /// Whether an address is that of a trusted proxy.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks
            .iter()
            .any(|network| network.contains(&address))
    }
}

/// A network without host bits, and as one of IPv4 where it lies in the mapped range (RFC 4291 §2.5.5.2), so that it
/// matches addresses in their canonical form.
pub fn canonical_network(network: IpNet) -> IpNet {
    /// The length of `::ffff:0:0/96`.
    const MAPPED_BITS: u8 = 96;
    let mapped = match network {
        IpNet::V6(v6) if v6.prefix_len() >= MAPPED_BITS => v6.addr().to_ipv4_mapped(),
        _ => None,
    };
    let v4 = mapped
        .and_then(|address| IpNet::new(address.into(), network.prefix_len() - MAPPED_BITS).ok());
    v4.unwrap_or(network).trunc()
}

/// Which field of a trusted proxy says who its client is. The other one is not read, and not sent on as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedBy {
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Rfc7239,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// None on a Unix socket whose peer is not trusted or names nobody.
    pub address: Option<IpAddr>,
    /// Whether the peer's forwarding fields are believed.
    pub peer_trusted: bool,
}

/// The client: the peer, or the right-most untrusted hop behind a trusted peer.
///
/// A hop that is no address (`unknown`, `_hidden`, garbage) ends the walk: the client is then the hop that reported it,
/// since whatever stands further left was not written by anyone who is trusted.
pub fn client_of(
    peer: Peer,
    headers: &HeaderMap,
    proxies: &TrustedProxies,
    by: ForwardedBy,
) -> Client {
    let address = peer.ip();
    let peer_trusted = proxies.trusts(&peer);
    let address = match by {
        _ if !peer_trusted => address,
        ForwardedBy::XForwardedFor => {
            nearest_untrusted(address, proxies, x_forwarded_hops(headers))
        }
        ForwardedBy::Rfc7239 => nearest_untrusted(address, proxies, forwarded_hops(headers)),
    };
    Client {
        address,
        peer_trusted,
    }
}

/// Walks hops from the nearest to the farthest while they are trusted.
fn nearest_untrusted(
    peer: Option<IpAddr>,
    proxies: &TrustedProxies,
    hops: impl Iterator<Item = Option<IpAddr>>,
) -> Option<IpAddr> {
    let mut nearest = peer;
    for hop in hops {
        let Some(hop) = hop else { break };
        nearest = Some(hop);
        if !proxies.contains(hop) {
            break;
        }
    }
    nearest
}

/// The hops of `X-Forwarded-For`, nearest first, over all lines.
fn x_forwarded_hops(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    hops.filter(|hop| !hop.trim_ascii().is_empty())
        .map(hop_address)
}

/// An address as proxies write it: bare, or with a port, IPv6 with or without brackets.
fn hop_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = match bare {
        Some(literal) => IpAddr::V6(literal.parse::<Ipv6Addr>().ok()?),
        None => text
            .parse::<IpAddr>()
            .ok()
            .or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))?,
    };
    Some(address.to_canonical())
}

/// The `for` of each element of `Forwarded`, nearest first, over all lines.
fn forwarded_hops(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let lines = headers.get_all(FORWARDED).iter().rev();
    let elements = lines.flat_map(|line| rsplit_quoted(line.as_bytes(), b','));
    elements
        .filter(|element| !element.trim_ascii().is_empty())
        .map(forwarded_for)
}

/// The address of an element's only `for` parameter.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    for pair in rsplit_quoted(element, b';') {
        let at = memchr::memchr(b'=', pair)?;
        let (name, value) = (
            pair.get(..at)?.trim_ascii(),
            pair.get(at + 1..)?.trim_ascii(),
        );
        if name.eq_ignore_ascii_case(b"for") && found.replace(value).is_some() {
            return None;
        }
    }
    let value = found?;
    let quoted = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    hop_address(quoted.unwrap_or(value))
}

/// Splits outside quoted strings, from the right: what the nearest proxy wrote comes first, and no quote that a client
/// left open further left can swallow it.
fn rsplit_quoted(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut quoted = false;
        let at = text.iter().enumerate().rev().find_map(|(at, &byte)| {
            quoted ^= byte == b'"' && !is_escaped(text, at);
            (byte == separator && !quoted).then_some(at)
        });
        rest = at.and_then(|at| text.get(..at));
        text.get(at.map_or(0, |at| at + 1)..)
    })
}

/// Whether an odd number of backslashes stands in front (RFC 9110 §5.6.4).
fn is_escaped(text: &[u8], at: usize) -> bool {
    let before = text.get(..at).unwrap_or_default();
    before
        .iter()
        .rev()
        .take_while(|byte| **byte == b'\\')
        .count()
        % 2
        == 1
}

/// How the client reached the first proxy that is trusted, or us. Of several values the right-most counts: the nearest
/// proxy wrote it.
pub fn client_scheme(tls: bool, peer_trusted: bool, headers: &HeaderMap) -> Scheme {
    let own = if tls { Scheme::Https } else { Scheme::Http };
    if !peer_trusted {
        return own;
    }
    let line = headers.get_all(X_FORWARDED_PROTO).iter().next_back();
    let nearest = line.and_then(|line| line.as_bytes().rsplit(|byte| *byte == b',').next());
    match nearest.map(<[u8]>::trim_ascii) {
        Some(text) if text.eq_ignore_ascii_case(b"https") => Scheme::Https,
        Some(text) if text.eq_ignore_ascii_case(b"http") => Scheme::Http,
        _ => own,
    }
}

/// Whether a trusted proxy's request id is harmless in logs: 1 to 128 of `[A-Za-z0-9._-]` (security requirement 5.5).
pub fn is_request_id(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(plain)
}

/// Who may write a field of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// Whoever sends the request.
    Anyone,
    /// A trusted proxy: it says where a request came from, or who is at the other end of a TLS connection.
    Proxy,
    /// The gateway alone: who the consumer is; or nobody, because it would make the origin read another request than
    /// the one that was routed.
    Gateway,
}

/// Fields of [`Writer::Gateway`]: identity (design 5), the ways to ask for one thing and mean another (security
/// requirement 4.5), and `Proxy`, which CGI turns into a setting (CVE-2016-5385).
const GATEWAY: &[&str] = &[
    "proxy",
    "x-auth-scopes",
    "x-auth-subject",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-middleware-subrequest",
    "x-original-url",
    "x-override-url",
    "x-path-override",
    "x-rewrite-url",
];

const GATEWAY_PREFIXES: &[&str] = &["x-consumer-"];

/// Fields of [`Writer::Proxy`], as proxies, networks and frameworks call them.
const PROXY: &[&str] = &[
    "akamai-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "client-ip",
    "cloudfront-viewer-address",
    "do-connecting-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "forwarded-for",
    "http-client-ip",
    "http-x-forwarded-for",
    "incap-client-ip",
    "proxy-client-ip",
    "real-ip",
    "remote-addr",
    "ssl-cert",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-appengine-remote-addr",
    "x-appengine-user-ip",
    "x-arr-clientcert",
    "x-arr-ssl",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-certificate",
    "x-client-address",
    "x-client-dn",
    "x-client-ip",
    "x-client-s-dn",
    "x-client-verify",
    "x-clientip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-envoy-internal",
    "x-envoy-original-path",
    "x-forward-for",
    "x-forwarded",
    "x-host",
    "x-nf-client-connection-ip",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-method",
    "x-original-uri",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-sucuri-clientip",
    "x-true-client-ip",
    "x-vercel-forwarded-for",
];

/// The last ones are about client certificates, `client-cert` by RFC 9440.
const PROXY_PREFIXES: &[&str] = &[
    "x-forwarded-",
    "client-cert",
    "ssl-client-",
    "tls-client-",
    "x-amzn-mtls-",
    "x-client-cert",
    "x-mtls-",
    "x-ssl-",
    "x-tls-client-",
];

/// Who may write a field of this name. Names that differ in `-`, `_`, `.` and case are the same: servers that turn
/// fields into variables can't tell them apart (security requirement 5.2).
pub fn writer_of(name: &str) -> Writer {
    // most fields of most requests begin with another letter
    let mut letters = name.bytes().map(|byte| byte.to_ascii_lowercase());
    match (letters.next(), letters.next()) {
        (Some(b'c' | b'd' | b'f' | b'p' | b'r' | b's' | b't' | b'w' | b'x'), _)
        | (Some(b'a'), Some(b'k'))
        | (Some(b'h'), Some(b't'))
        | (Some(b'i'), Some(b'n')) => {}
        _ => return Writer::Anyone,
    }
    let is = |known: &&str| known.len() == name.len() && begins(name, known);
    let within = |prefix: &&str| begins(name, prefix);
    if GATEWAY.iter().any(is) || GATEWAY_PREFIXES.iter().any(within) {
        Writer::Gateway
    } else if PROXY.iter().any(is) || PROXY_PREFIXES.iter().any(within) {
        Writer::Proxy
    } else {
        Writer::Anyone
    }
}

/// Whether a name begins with `known` in any of its spellings.
fn begins(name: &str, known: &str) -> bool {
    let folded = name.bytes().map(|byte| match byte {
        b'_' | b'.' => b'-',
        byte => byte.to_ascii_lowercase(),
    });
    name.len() >= known.len() && folded.zip(known.bytes()).all(|(byte, known)| byte == known)
}

/// Whether a name has a character that makes it look like another field's to servers that turn names into variables.
pub fn is_lookalike(name: &HeaderName) -> bool {
    memchr::memchr2(b'_', b'.', name.as_str().as_bytes()).is_some()
}

/// Removes the fields that this client does not get to write, and those with `_` or `.` in their name. Before
/// routing, so that no policy believes them.
pub fn remove_untrusted(headers: &mut HeaderMap, peer_trusted: bool) {
    let unowned = |name: &&HeaderName| {
        is_lookalike(name)
            || match writer_of(name.as_str()) {
                Writer::Anyone => false,
                Writer::Proxy => !peer_trusted,
                Writer::Gateway => true,
            }
    };
    let names: SmallVec<[HeaderName; 4]> = headers.keys().filter(unowned).cloned().collect();
    for name in &names {
        headers.remove(name);
    }
}

/// Changes the fields of a head as a plain map, and gives up the case in which their names were received, which means
/// nothing (RFC 9110 §5.1): they are sent on as HTTP/2 sends them. Pingora keeps it in a second map, and its setters
/// parse and copy each name: the gateway's own eight fields cost more that way than all its other work on the head.
///
/// The target must be one that the URI holds whole, as every canonical one is.
pub fn edit_fields<T>(head: &mut RequestHeader, edit: impl FnOnce(&mut HeaderMap) -> T) -> T {
    let (blank, ()) = http::Request::new(()).into_parts();
    let mut parts = http::request::Parts::from(std::mem::replace(head, blank.into()));
    let edited = edit(&mut parts.headers);
    *head = parts.into();
    edited
}

/// Gives up the case in which the names of an answer's fields were received, as [`edit_fields`] does. To an HTTP/1
/// client Pingora writes the usual names in their usual case.
pub fn forget_case(head: &mut ResponseHeader) {
    if !head.has_case() {
        return;
    }
    let reason = head
        .get_reason_phrase()
        .filter(|reason| Some(*reason) != head.status.canonical_reason())
        .map(str::to_owned);
    let (blank, ()) = http::Response::new(()).into_parts();
    let parts = http::response::Parts::from(std::mem::replace(head, blank.into()));
    *head = parts.into();
    if reason.is_some() {
        // setting a phrase can't fail
        let _ = head.set_reason_phrase(reason.as_deref());
    }
}

/// Whether a request to change the protocol may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    Keep,
    Remove,
}

/// Refuses a `Connection` that names what is no field, or a field that would change whom the request is from, for or
/// how long it is, were it missing (CVE-2024-45410).
pub fn check_connection_options(request: &RequestHeader) -> Result<(), Refusal> {
    allowed_nominations(&request.headers).map(drop)
}

fn allowed_nominations(headers: &HeaderMap) -> Result<Nominations, Refusal> {
    let nominated = nominations(headers);
    if nominated.malformed || nominated.names.iter().any(must_arrive) {
        let detail = "`Connection` names a field that has to arrive, or none";
        return Err(refused(Kind::RequestConnection, detail));
    }
    Ok(nominated)
}

/// Removes what a client said to us alone (RFC 9110 §7.6.1), and what `Connection` names besides. `Transfer-Encoding`
/// stays: it is the transport's. `TE: trailers` stays, since gRPC needs it end to end.
///
/// # Errors
/// Those of [`check_connection_options`].
pub fn remove_hop_by_hop_request(headers: &mut HeaderMap, upgrade: Upgrade) -> Result<(), Refusal> {
    let present = hop_by_hop(headers);
    if present.is_empty() {
        return Ok(());
    }
    let nominated = allowed_nominations(headers)?;
    let trailers = headers.get_all(TE).iter().any(accepts_trailers);
    let upgrades = upgrade == Upgrade::Keep && nominated.upgrade && headers.contains_key(UPGRADE);
    let removable = present.iter().filter(|name| !upgrades || *name != UPGRADE);
    for name in nominated.names.iter().chain(removable) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if upgrades {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    Ok(())
}

/// The fields there are that are meant for one connection. One look at each name: few heads have any of them.
fn hop_by_hop(headers: &HeaderMap) -> SmallVec<[HeaderName; 4]> {
    let names = headers.keys().filter(|name| is_hop_by_hop(name));
    names.cloned().collect()
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "upgrade"
    )
}

/// Removes from a copy of the client's head, which [`remove_hop_by_hop_request`] has been through, what an endpoint
/// gets from us anew or not at all: whatever is meant for one connection, and how the content is framed, which Pingora
/// says after this. Pingora does the same, unless a peer's policy is to preserve them, as that of ours is: it parses a
/// `Connection` that is not there any more and searches the map for thirteen names, 3 % of a request's instructions.
pub fn remove_hop_by_hop_upstream(upstream: &mut HeaderMap) {
    let is_ours = |name: &HeaderName| {
        is_hop_by_hop(name) || matches!(name.as_str(), "trailer" | "transfer-encoding")
    };
    let names = upstream.keys().filter(|name| is_ours(name)).cloned();
    let names: SmallVec<[HeaderName; 2]> = names.collect();
    for name in &names {
        upstream.remove(name);
    }
}

/// Removes what an endpoint said to us alone, which Pingora does not. That it names the fields which frame its body is
/// not heeded; `Upgrade` stays with the status that it belongs to.
pub fn remove_hop_by_hop(response: &mut ResponseHeader) {
    let switches = response.status == StatusCode::SWITCHING_PROTOCOLS;
    match hop_by_hop_of(&response.headers) {
        OfConnection::Nothing => {}
        OfConnection::HowLong => drop(response.remove_header(&CONNECTION)),
        OfConnection::More => {
            let present = hop_by_hop(&response.headers);
            let nominated = nominations(&response.headers);
            let nominated = nominated.names.iter().filter(|name| !frames(name));
            let removable = present.iter().filter(|name| !switches || *name != UPGRADE);
            for name in nominated.chain(removable) {
                response.remove_header(name);
            }
        }
    }
    if switches {
        // inserting fails only when a head has more fields than its map can hold
        let _ = response.insert_header(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

/// What an endpoint says of its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OfConnection {
    Nothing,
    /// No more than how long it lasts, in `Connection`.
    HowLong,
    More,
}

fn hop_by_hop_of(headers: &HeaderMap) -> OfConnection {
    let mut found = OfConnection::Nothing;
    for (name, value) in headers {
        if is_hop_by_hop(name) {
            let how_long = matches!(value.as_bytes(), b"keep-alive" | b"close");
            if name != CONNECTION || !how_long {
                return OfConnection::More;
            }
            found = OfConnection::HowLong;
        }
    }
    found
}

/// What `Connection` says.
#[derive(Default)]
struct Nominations {
    /// The fields that are named, but for those that are hop-by-hop anyway.
    names: SmallVec<[HeaderName; 2]>,
    upgrade: bool,
    malformed: bool,
}

fn nominations(headers: &HeaderMap) -> Nominations {
    let mut found = Nominations::default();
    let lines = headers.get_all(CONNECTION).iter();
    for option in lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')) {
        let option = option.trim_ascii();
        let is = |known: &str| option.eq_ignore_ascii_case(known.as_bytes());
        if option.is_empty() || is("close") || is("keep-alive") || is("te") {
            continue;
        }
        if is("upgrade") {
            found.upgrade = true;
            continue;
        }
        match HeaderName::from_bytes(option) {
            Ok(name) if option.iter().copied().all(is_token) => found.names.push(name),
            _ => found.malformed = true,
        }
    }
    found
}

/// Fields whose removal by the client's word would make another request of it.
fn must_arrive(name: &HeaderName) -> bool {
    const FIELDS: &[&str] = &[
        "host",
        "authorization",
        "cookie",
        "origin",
        "via",
        "x-request-id",
        "expect",
    ];
    frames(name)
        || FIELDS
            .iter()
            .any(|known| known.len() == name.as_str().len() && begins(name.as_str(), known))
        || writer_of(name.as_str()) != Writer::Anyone
}

/// Fields that say what the body is and where it ends.
fn frames(name: &HeaderName) -> bool {
    begins(name.as_str(), "content-") || begins(name.as_str(), "transfer-encoding")
}

fn accepts_trailers(line: &HeaderValue) -> bool {
    let mut codings = line.as_bytes().split(|byte| *byte == b',');
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Writes where the request came from: `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`, and `Forwarded` where that is the
/// field in use. What a trusted peer wrote is kept and added to; nothing else is. Last, after
/// [`remove_hop_by_hop_request`], so that no nomination removes them. `authority` is that of [`authority_value`].
pub fn set_forwarded(
    upstream: &mut HeaderMap,
    facts: &Facts,
    by: ForwardedBy,
    authority: Option<&Authority>,
) {
    let authority = || authority.map(|authority| authority.value.clone());
    let host = forwarded_host(upstream, facts).or_else(authority);
    let port = forwarded_port(upstream, facts);
    let hops = forwarded_for_value(upstream, facts, by);
    let element = (by == ForwardedBy::Rfc7239).then(|| forwarded_value(upstream, facts));
    set(upstream, X_FORWARDED_FOR, hops);
    let scheme = HeaderValue::from_static(facts.scheme.as_str());
    set(upstream, X_FORWARDED_PROTO, Some(scheme));
    set(upstream, X_FORWARDED_HOST, host);
    set(upstream, X_FORWARDED_PORT, Some(port));
    let element = element.and_then(|element| HeaderValue::try_from(element).ok());
    set(upstream, FORWARDED, element);
}

/// Replaces a field, or removes it where there is nothing to say.
fn set(upstream: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value.filter(|value| !value.is_empty()) {
        Some(value) => upstream.insert(name, value),
        None => upstream.remove(name),
    };
}

/// The hops so far, and the peer. Where they were not read from `X-Forwarded-For`, they are the client that was found.
fn forwarded_for_value(headers: &HeaderMap, facts: &Facts, by: ForwardedBy) -> Option<HeaderValue> {
    let peer = facts.connection.peer.ip();
    let mut hops = match by {
        ForwardedBy::XForwardedFor if facts.peer_trusted => joined(headers, &X_FORWARDED_FOR),
        _ => match facts.client_address.filter(|client| Some(*client) != peer) {
            Some(client) => client.to_string(),
            None => String::new(),
        },
    };
    if hops.is_empty() {
        return facts.connection.peer_value().cloned();
    }
    if let Some(peer) = peer {
        // writing to a string never fails
        let _ = write!(hops, ", {peer}");
    }
    HeaderValue::try_from(hops).ok()
}

/// What the client called us, as the trusted peer tells it, where that is one valid authority.
fn forwarded_host(headers: &HeaderMap, facts: &Facts) -> Option<HeaderValue> {
    if !facts.peer_trusted {
        return None;
    }
    let received = single(headers, &X_FORWARDED_HOST)?;
    let text = received.to_str().ok()?;
    parse_authority(text, facts.scheme)
        .is_ok()
        .then(|| received.clone())
}

/// The canonical authority as the value of a field.
pub struct Authority {
    pub value: HeaderValue,
    /// The head has it already: the client's own `Host` is spelt so.
    pub is_host: bool,
}

/// The canonical authority: the client's own `Host` where that is spelt so.
pub fn authority_value(headers: &HeaderMap, facts: &Facts) -> Option<Authority> {
    let host = headers.get(HOST);
    match host.filter(|value| is_authority(value.as_bytes(), facts)) {
        Some(value) => Some(Authority {
            value: value.clone(),
            is_host: true,
        }),
        None => Some(Authority {
            value: HeaderValue::try_from(authority(facts)).ok()?,
            is_host: false,
        }),
    }
}

/// Whether this is the canonical authority to the letter.
fn is_authority(text: &[u8], facts: &Facts) -> bool {
    let Some(rest) = text.strip_prefix(facts.host.as_str().as_bytes()) else {
        return false;
    };
    let Some(port) = facts.port else {
        return rest.is_empty();
    };
    let digits = rest
        .strip_prefix(b":")
        .and_then(|digits| std::str::from_utf8(digits).ok());
    // a sign or a zero in front would be another spelling
    let plain = digits.filter(|digits| !digits.starts_with(['+', '0']));
    plain.is_some_and(|digits| digits.parse() == Ok(port))
}

fn authority(facts: &Facts) -> String {
    match facts.port {
        Some(port) => format!("{}:{port}", facts.host.as_str()),
        None => facts.host.as_str().to_owned(),
    }
}

/// The port that the client asked for: what the trusted peer tells, else that of the authority, not the one that we
/// happen to listen on.
fn forwarded_port(headers: &HeaderMap, facts: &Facts) -> HeaderValue {
    let received = match facts.peer_trusted {
        true => single(headers, &X_FORWARDED_PORT),
        false => None,
    };
    let received = received.and_then(|value| value.to_str().ok()?.parse::<u16>().ok());
    match received
        .or(facts.port)
        .unwrap_or(facts.scheme.default_port())
    {
        80 => HeaderValue::from_static("80"),
        443 => HeaderValue::from_static("443"),
        port => port.into(),
    }
}

/// Our element of `Forwarded` (RFC 7239 §4), behind those of a trusted peer.
fn forwarded_value(headers: &HeaderMap, facts: &Facts) -> String {
    let mut value = if facts.peer_trusted {
        joined(headers, &FORWARDED)
    } else {
        String::new()
    };
    if !value.is_empty() {
        value.push_str(", ");
    }
    // writing to a string never fails
    let _ = match facts.connection.peer.ip() {
        Some(IpAddr::V4(address)) => write!(value, "for={address}"),
        Some(IpAddr::V6(address)) => write!(value, "for=\"[{address}]\""),
        None => write!(value, "for=unknown"),
    };
    if !facts.host.as_str().is_empty() {
        let _ = write!(value, ";host=\"{}\"", authority(facts));
    }
    let _ = write!(value, ";proto={}", facts.scheme.as_str());
    value
}

/// The field's value where it stands once.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// All lines of a list as one; what is not ASCII is left out.
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let mut text = String::new();
    for line in headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
    {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(line.trim());
    }
    text
}

/// Whether an answer is a stream of events, by its media type.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE);
    let start = value.and_then(|value| value.as_bytes().get(.."text/event-stream".len()));
    start.is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::connection::{Connection, ListenerFacts};
    use crate::exchange::fact::sample::Sample;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn proxies(networks: &[&str]) -> TrustedProxies {
        TrustedProxies::new(
            networks.iter().map(|network| network.parse().unwrap()),
            true,
        )
    }

    fn peer(address: &str) -> Peer {
        Peer::Ip(SocketAddr::new(address.parse().unwrap(), 1000))
    }

    fn headers(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        lines
            .iter()
            .map(|line| (name.clone(), HeaderValue::from_str(line).unwrap()))
            .collect()
    }

    fn found(peer: &Peer, name: &HeaderName, lines: &[&str]) -> Option<String> {
        let by = if name == FORWARDED {
            ForwardedBy::Rfc7239
        } else {
            ForwardedBy::XForwardedFor
        };
        let proxies = proxies(&["10.0.0.0/8", "fd00::/8"]);
        client_of(*peer, &headers(name, lines), &proxies, by)
            .address
            .map(|address| address.to_string())
    }

    #[test]
    fn the_client_is_the_right_most_untrusted_hop() {
        let cases: &[(&[&str], &str)] = &[
            (&[], "10.0.0.1"),
            (&["192.0.2.1"], "192.0.2.1"),
            (&["8.8.8.8, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
            (&["8.8.8.8", "192.0.2.1,10.0.0.2"], "192.0.2.1"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&["192.0.2.1:4711"], "192.0.2.1"),
            (&["2001:db8::1"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["[2001:db8::1]:4711"], "2001:db8::1"),
            (&["::ffff:192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.1, unknown"], "10.0.0.1"),
            (&["192.0.2.1, garbage, 10.0.0.2"], "10.0.0.2"),
            (&["192.0.2.1, ", ""], "192.0.2.1"),
        ];
        for (lines, expected) in cases {
            assert_eq!(
                found(&peer("10.0.0.1"), &X_FORWARDED_FOR, lines).as_deref(),
                Some(*expected),
                "{lines:?}"
            );
        }
        assert_eq!(
            found(&peer("::ffff:10.0.0.1"), &X_FORWARDED_FOR, &["192.0.2.1"]).as_deref(),
            Some("192.0.2.1")
        );
        assert_eq!(
            found(&Peer::Unix, &X_FORWARDED_FOR, &["192.0.2.1"]).as_deref(),
            Some("192.0.2.1")
        );
        assert_eq!(found(&Peer::Unix, &X_FORWARDED_FOR, &["unknown"]), None);
    }

    #[test]
    fn the_standard_field_is_read_where_it_was_chosen() {
        let cases: &[(&[&str], &str)] = &[
            (&["for=192.0.2.1"], "192.0.2.1"),
            (
                &["for=8.8.8.8, For=\"192.0.2.1:80\";proto=https;by=10.0.0.9, for=10.0.0.2"],
                "192.0.2.1",
            ),
            (&["proto=http;for=\"[2001:db8::1]:4711\""], "2001:db8::1"),
            (&["for=192.0.2.1", "for=\"[fd00::1]\""], "192.0.2.1"),
            (&["for=192.0.2.1, for=_hidden"], "10.0.0.1"),
            (&["for=192.0.2.1;for=192.0.2.2"], "10.0.0.1"),
            (&["for=192.0.2.1, host=\"a,for=10.0.0.2\""], "10.0.0.1"),
            (&["for=192.0.2.1, for=\"10.0.0.2"], "10.0.0.1"),
            (
                &["for=\"8.8.8.8, for=192.0.2.1, for=\"10.0.0.2\""],
                "192.0.2.1",
            ),
            (&["garbage"], "10.0.0.1"),
        ];
        for (lines, expected) in cases {
            assert_eq!(
                found(&peer("10.0.0.1"), &FORWARDED, lines).as_deref(),
                Some(*expected),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn a_mapped_network_is_one_of_ipv4() {
        let trusted = proxies(&["::ffff:10.1.2.3/104", "192.0.2.7/24"]);
        assert_eq!(trusted, proxies(&["10.0.0.0/8", "192.0.2.0/24"]));
        assert!(trusted.contains("::ffff:10.9.9.9".parse().unwrap()));
    }

    #[test]
    fn the_scheme_is_a_trusted_proxys_word() {
        let proto = |lines: &[&str]| headers(&X_FORWARDED_PROTO, lines);
        assert_eq!(
            client_scheme(false, true, &proto(&["https"])),
            Scheme::Https
        );
        assert_eq!(
            client_scheme(false, true, &proto(&["http, HTTPS"])),
            Scheme::Https
        );
        assert_eq!(
            client_scheme(false, false, &proto(&["https"])),
            Scheme::Http
        );
        assert_eq!(
            client_scheme(true, true, &proto(&["gopher"])),
            Scheme::Https
        );
    }

    #[test]
    fn a_request_id_is_short_and_plain() {
        assert!(is_request_id(b"0190f2a1-7c3e._B"));
        for id in [&b""[..], b"a b", b"a\n", "é".as_bytes(), &[b'a'; 129]] {
            assert!(!is_request_id(id));
        }
    }

    #[test]
    fn a_field_belongs_to_one_writer_in_every_spelling() {
        for name in [
            "x-consumer-id",
            "X_Consumer.Plan",
            "x.auth-subject",
            "x-original-url",
            "proxy",
            "X-HTTP-Method-Override",
        ] {
            assert_eq!(writer_of(name), Writer::Gateway, "{name}");
        }
        for name in [
            "x-forwarded-for",
            "X_Forwarded_Anything",
            "forwarded",
            "True-Client-IP",
            "client-cert-chain",
            "x.real.ip",
        ] {
            assert_eq!(writer_of(name), Writer::Proxy, "{name}");
        }
        for name in [
            "accept",
            "content-type",
            "cookie",
            "x-tenant",
            "x-consumer",
            "proxy-authorization",
            "via",
            "x-forwardedx",
            "",
        ] {
            assert_eq!(writer_of(name), Writer::Anyone, "{name}");
        }
    }

    #[test]
    fn a_client_does_not_write_what_is_not_its_own() {
        let request = || {
            Sample::get("/")
                .header("x-forwarded-for", "8.8.8.8")
                .header("x-consumer-id", "admin")
                .header("x_consumer_id", "admin")
                .header("odd.name", "1")
                .header("x-tenant", "1")
                .request
        };
        let left = |trusted| {
            let mut request = request();
            edit_fields(&mut request, |headers| remove_untrusted(headers, trusted));
            let mut names: Vec<_> = request
                .headers
                .keys()
                .map(|name| name.as_str().to_owned())
                .collect();
            names.sort();
            names
        };
        assert_eq!(left(false), ["host", "x-tenant"]);
        assert_eq!(left(true), ["host", "x-forwarded-for", "x-tenant"]);
    }

    #[test]
    fn hop_by_hop_fields_stay_on_their_connection() {
        let mut request = Sample::get("/")
            .header("connection", "keep-alive, X-Once")
            .header("connection", "upgrade, HTTP2-Settings")
            .header("upgrade", "websocket")
            .header("http2-settings", "AAA")
            .header("keep-alive", "timeout=5")
            .header("proxy-authorization", "Basic eA==")
            .header("te", "gzip, Trailers")
            .header("x-once", "1")
            .header("x-tenant", "1")
            .request;
        let mut upgraded = request.clone();
        edit_fields(&mut request, |headers| {
            remove_hop_by_hop_request(headers, Upgrade::Remove)
        })
        .unwrap();
        let mut names: Vec<_> = request.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "te", "x-tenant"]);
        assert_eq!(request.headers[TE], "trailers");
        edit_fields(&mut upgraded, |headers| {
            remove_hop_by_hop_request(headers, Upgrade::Keep)
        })
        .unwrap();
        assert_eq!(
            (&upgraded.headers[CONNECTION], &upgraded.headers[UPGRADE]),
            (&"Upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
    }

    /// As Pingora's own policy would leave it.
    #[test]
    fn an_endpoint_gets_no_field_of_another_connection() {
        let gone = [
            "connection",
            "http2-settings",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        let stays = ["host", "content-length", "x-tenant"];
        let mut headers = HeaderMap::new();
        for name in gone.iter().chain(&stays) {
            let name = HeaderName::from_static(name);
            headers.append(&name, HeaderValue::from_static("a"));
            headers.append(&name, HeaderValue::from_static("b"));
        }
        remove_hop_by_hop_upstream(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "x-tenant"]);
    }

    #[test]
    fn an_upgrade_that_is_not_nominated_is_none() {
        let mut request = Sample::get("/").header("upgrade", "websocket").request;
        edit_fields(&mut request, |headers| {
            remove_hop_by_hop_request(headers, Upgrade::Keep)
        })
        .unwrap();
        assert!(
            !request.headers.contains_key(UPGRADE) && !request.headers.contains_key(CONNECTION)
        );
    }

    #[test]
    fn a_nomination_that_changes_the_request_is_refused() {
        for option in [
            "Host",
            "content-length",
            "Transfer-Encoding",
            "close, authorization",
            "X-Forwarded-For",
            "forwarded",
            "x-real-ip",
            "X-Consumer-Id",
            "x_consumer_id",
            "cookie",
            "a b",
            "a:b",
            ":authority",
        ] {
            let mut request = Sample::get("/").header("connection", option).request;
            let problem = edit_fields(&mut request, |headers| {
                remove_hop_by_hop_request(headers, Upgrade::Remove)
            })
            .unwrap_err();
            assert_eq!(problem.kind, Kind::RequestConnection, "{option}");
        }
    }

    #[test]
    fn an_endpoints_hop_by_hop_fields_stay_on_its_connection() {
        let response = |status: u16| {
            let mut response = ResponseHeader::build(status, None).unwrap();
            for (name, value) in [
                ("connection", "x-once, content-length, Upgrade"),
                ("keep-alive", "timeout=5"),
                ("x-once", "1"),
                ("content-length", "3"),
                ("upgrade", "websocket"),
                ("x-tenant", "1"),
            ] {
                response.append_header(name, value).unwrap();
            }
            remove_hop_by_hop(&mut response);
            let mut names: Vec<_> = response
                .headers
                .keys()
                .map(|name| name.as_str().to_owned())
                .collect();
            names.sort();
            names
        };
        assert_eq!(response(200), ["content-length", "x-tenant"]);
        assert_eq!(
            response(101),
            ["connection", "content-length", "upgrade", "x-tenant"]
        );
    }

    fn forwarded(sample: Sample, by: ForwardedBy) -> Vec<String> {
        let Sample { request, facts } = sample;
        let mut headers = request.headers.clone();
        let authority = authority_value(&headers, &facts);
        set_forwarded(&mut headers, &facts, by, authority.as_ref());
        let names = [
            X_FORWARDED_FOR,
            X_FORWARDED_PROTO,
            X_FORWARDED_HOST,
            X_FORWARDED_PORT,
            FORWARDED,
        ];
        let value = |name| {
            single(&headers, &name)
                .map_or(String::new(), |value| value.to_str().unwrap().to_owned())
        };
        names.map(value).into()
    }

    fn lied() -> Sample {
        let mut sample = Sample::new("GET", "example.com:8080", "/")
            .header("x-forwarded-for", "8.8.8.8")
            .header("x-forwarded-for", "198.51.100.1")
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "outer.example")
            .header("x-forwarded-port", "8443")
            .header("forwarded", "for=9.9.9.9");
        sample.facts.port = Some(8080);
        sample
    }

    #[test]
    fn what_a_stranger_says_of_its_way_is_replaced() {
        let values = forwarded(lied(), ForwardedBy::XForwardedFor);
        assert_eq!(
            values,
            ["192.0.2.1", "http", "example.com:8080", "8080", ""]
        );
        let values = forwarded(lied(), ForwardedBy::Rfc7239);
        assert_eq!(
            values[4],
            "for=192.0.2.1;host=\"example.com:8080\";proto=http"
        );
        let plain = forwarded(Sample::get("/"), ForwardedBy::XForwardedFor);
        assert_eq!(plain, ["192.0.2.1", "http", "example.com", "80", ""]);
    }

    #[test]
    fn what_a_trusted_proxy_says_of_the_way_is_added_to() {
        let trusted = || {
            let mut sample = lied().client("198.51.100.1");
            sample.facts.peer_trusted = true;
            sample.facts.scheme = Scheme::Https;
            sample
        };
        let values = forwarded(trusted(), ForwardedBy::XForwardedFor);
        assert_eq!(
            values,
            [
                "8.8.8.8, 198.51.100.1, 192.0.2.1",
                "https",
                "outer.example",
                "8443",
                ""
            ]
        );
        let values = forwarded(trusted(), ForwardedBy::Rfc7239);
        assert_eq!(values[0], "198.51.100.1, 192.0.2.1");
        assert_eq!(
            values[4],
            "for=9.9.9.9, for=192.0.2.1;host=\"example.com:8080\";proto=https"
        );
    }

    #[test]
    fn a_unix_peer_adds_no_address() {
        let mut sample = lied();
        let listener = Arc::new(ListenerFacts::new("local".into(), false));
        sample.facts.connection = Arc::new(Connection::new(listener, Peer::Unix, None, None));
        sample.facts.client_address = None;
        assert_eq!(forwarded(sample, ForwardedBy::XForwardedFor)[0], "");
    }

    proptest! {
        #[test]
        fn an_untrusted_peer_is_the_client_whatever_it_says(lines in prop::collection::vec("[ -~]{0,24}", 0..4)) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            for name in [&X_FORWARDED_FOR, &FORWARDED] {
                let client = found(&peer("192.0.2.9"), name, &lines);
                prop_assert_eq!(client.as_deref(), Some("192.0.2.9"));
            }
        }

        #[test]
        fn what_stands_left_of_the_client_changes_nothing(left in "[ -~]{0,24}") {
            let line = format!("{left}, 192.0.2.1, 10.0.0.2");
            let client = found(&peer("10.0.0.1"), &X_FORWARDED_FOR, &[&left, &line]);
            prop_assert_eq!(client.as_deref(), Some("192.0.2.1"));
            let line = format!("{left}, for=192.0.2.1, for=10.0.0.2");
            let client = found(&peer("10.0.0.1"), &FORWARDED, &[&left, &line]);
            prop_assert_eq!(client.as_deref(), Some("192.0.2.1"));
        }
    }
}
