//! Requests of the gateway's own to those that it depends on: identity providers, introspection.
//!
//! They are few, small and bounded: one deadline for everything from the name to the last byte, a cap on the answer, no
//! redirects (the configuration names the place, and nobody else), HTTP/1.1, and TLS that is always verified. In clear
//! only what stays on this machine is asked. Names are looked up by our own [`Resolver`], and an address that no such
//! place has ([`gate`]: metadata services, link-local networks) is not connected to, whatever DNS says (OWASP API7,
//! server-side request forgery).

use crate::discovery::gate;
use crate::discovery::{Refusal, Resolver};
use crate::state::Kept;
use crate::tls::{Authorities, VerifiedName};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora_core::{Error, ErrorType};
use pingora_http::RequestHeader;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The most interim answers to one request.
const INTERIM_MAX: u8 = 8;

/// How long a connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(30);

/// The longest URL that is asked for.
const URL_BYTES_MAX: usize = 2048;

/// Where something is asked for: `https`, or `http` on this machine.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url {
    text: Box<str>,
    tls: bool,
    host: Box<str>,
    port: u16,
    target: Box<str>,
}

/// Why a text is no such place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it is not a URL")]
    Malformed,
    #[error("it is neither `https` nor `http`")]
    Scheme,
    #[error("`http` is only for what runs on this machine")]
    Clear,
    #[error("a URL with a user, a password or a fragment is not taken")]
    Parts,
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.len() > URL_BYTES_MAX || text.contains('#') {
            return Err(match text.contains('#') {
                true => UrlError::Parts,
                false => UrlError::Malformed,
            });
        }
        let uri: Uri = text.parse().map_err(|_| UrlError::Malformed)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(UrlError::Malformed);
        };
        if authority.as_str().contains('@') {
            return Err(UrlError::Parts);
        }
        let tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(UrlError::Scheme),
        };
        let host = authority.host();
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host)
            .trim_end_matches('.')
            .to_ascii_lowercase();
        let url = Self {
            text: text.into(),
            tls,
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            target: uri
                .path_and_query()
                .map_or("/", |target| target.as_str())
                .into(),
            host: bare.into(),
        };
        match () {
            () if VerifiedName::new(&url.host).is_none() || url.port == 0 => {
                Err(UrlError::Malformed)
            }
            () if !tls && !url.is_of_this_machine() => Err(UrlError::Clear),
            () => Ok(url),
        }
    }
}

impl Url {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is asked for over TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether its host is a name that DNS is asked for.
    pub fn is_looked_up(&self) -> bool {
        self.host.parse::<IpAddr>().is_err() && *self.host != *"localhost"
    }

    /// Whether it is only for this machine, by what it says, not by what a name leads to.
    pub fn is_of_this_machine(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => *self.host == *"localhost",
        }
    }

    fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.to_string(),
        };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whom to ask, and on what conditions.
#[derive(Clone)]
pub struct Asked {
    /// Vouch for `https`, in place of those of the system.
    pub authorities: Option<Arc<Authorities>>,
    /// For everything: name, connection, request, answer.
    pub timeout: Duration,
    /// The longest body of an answer.
    pub body_bytes_max: usize,
    /// Addresses of this machine may answer for names too.
    pub loopback: bool,
    /// The connection may be kept for the next one.
    pub keep: bool,
}

/// One request.
pub struct Question {
    pub method: Method,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

impl Question {
    /// Asks for JSON.
    pub fn get() -> Self {
        Self {
            method: Method::GET,
            headers: vec![(header::ACCEPT, HeaderValue::from_static("application/json"))],
            body: Bytes::new(),
        }
    }
}

/// The final answer.
#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
}

/// Why there was no answer. Nothing in it came from the other side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("no answer in time")]
    TimedOut,
    #[error("its name can't be looked up: {0}")]
    Name(String),
    #[error("it has an address that is not connected to ({})", .0.as_str())]
    Address(Refusal),
    #[error("no connection: {0}")]
    Connection(String),
    #[error("the answer is broken: {0}")]
    Broken(String),
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

/// The connections over which such requests are sent. Clients' requests never wait for one of them.
pub struct Outbound(Connector);

impl Kept for Outbound {
    fn export(&self) -> Option<serde_json::Value> {
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

impl Default for Outbound {
    fn default() -> Self {
        Self(Connector::new(None))
    }
}

impl Outbound {
    /// Asks, and waits for all of the answer.
    ///
    /// # Errors
    /// There was none. A status that is no success is an answer.
    pub async fn ask(
        &self,
        url: &Url,
        question: Question,
        resolver: &Resolver,
        asked: &Asked,
    ) -> Result<Answered, Failure> {
        let asking = async {
            let address = address(url, resolver, asked).await?;
            let peer = peer(url, address, asked);
            self.exchange(url, question, &peer, asked).await
        };
        let answered = tokio::time::timeout(asked.timeout, asking).await;
        answered.unwrap_or(Err(Failure::TimedOut))
    }

    async fn exchange(
        &self,
        url: &Url,
        question: Question,
        peer: &HttpPeer,
        asked: &Asked,
    ) -> Result<Answered, Failure> {
        let head = head(url, &question).map_err(|error| broken(&error))?;
        let (mut session, _) = self
            .0
            .get_http_session(peer)
            .await
            .map_err(|error| unconnected(&error))?;
        // the deadline of all of it bounds every step
        session.set_read_timeout(Some(asked.timeout));
        session.set_write_timeout(Some(asked.timeout));
        let answered = async {
            session.write_request_header(Box::new(head)).await?;
            if !question.body.is_empty() {
                session.write_request_body(question.body, true).await?;
            }
            session.finish_request_body().await?;
            for _ in 0..INTERIM_MAX {
                session.read_response_header().await?;
                match session.response_header() {
                    Some(head) if !head.status.is_informational() => return Ok(()),
                    _ => {}
                }
            }
            Error::e_explain(ErrorType::InvalidHTTPHeader, "no final answer")
        };
        answered.await.map_err(|error| broken(&error))?;
        let head = session
            .response_header()
            .ok_or_else(|| Failure::Broken("no head".into()))?;
        let (status, headers) = (head.status, head.headers.clone());
        let body = body(&mut session, asked.body_bytes_max).await?;
        match asked.keep {
            true => self.0.release_http_session(session, peer, Some(IDLE)).await,
            false => session.shutdown().await,
        }
        Ok(Answered {
            status,
            headers,
            body,
        })
    }
}

async fn body(session: &mut HttpSession, most: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while !session.response_done() {
        let piece = session
            .read_response_body()
            .await
            .map_err(|error| broken(&error))?;
        let Some(piece) = piece else { break };
        if body.len().saturating_add(piece.len()) > most {
            session.shutdown().await;
            return Err(Failure::TooLong(most));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

fn head(url: &Url, question: &Question) -> pingora_core::Result<RequestHeader> {
    let mut head = RequestHeader::build(question.method.clone(), url.target.as_bytes(), None)?;
    head.insert_header(header::HOST, url.authority())?;
    head.insert_header(header::USER_AGENT, "northgate")?;
    if !question.body.is_empty() {
        head.insert_header(header::CONTENT_LENGTH, question.body.len())?;
    }
    for (name, value) in &question.headers {
        head.insert_header(name.clone(), value.clone())?;
    }
    Ok(head)
}

/// An address of that place, if it is one that may be connected to.
async fn address(url: &Url, resolver: &Resolver, asked: &Asked) -> Result<SocketAddr, Failure> {
    let found = match (url.host.parse::<IpAddr>(), &*url.host) {
        (Ok(address), _) => vec![address],
        (Err(_), "localhost") => vec![IpAddr::from([127, 0, 0, 1])],
        (Err(_), host) => {
            let found = resolver.addresses(host).await;
            found.map_err(|failure| Failure::Name(failure.error))?.found
        }
    };
    let loopback = asked.loopback || url.is_of_this_machine();
    let refusal = |address: &IpAddr| match gate::class_of(*address) {
        Some(Refusal::Loopback) if loopback => None,
        refusal => refusal,
    };
    // one bad address makes all of them suspect
    if let Some(refusal) = found.iter().find_map(refusal) {
        return Err(Failure::Address(refusal));
    }
    let first = found
        .first()
        .ok_or_else(|| Failure::Name("it has no address".into()))?;
    Ok(SocketAddr::new(*first, url.port))
}

fn peer(url: &Url, address: SocketAddr, asked: &Asked) -> HttpPeer {
    let mut peer = HttpPeer::new(address, url.tls, url.host.to_string());
    let options = &mut peer.options;
    options.set_http_version(1, 1);
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    options.connection_timeout = Some(asked.timeout);
    options.total_connection_timeout = Some(asked.timeout);
    options.read_timeout = Some(asked.timeout);
    options.write_timeout = Some(asked.timeout);
    options.idle_timeout = Some(IDLE);
    if let Some(authorities) = &asked.authorities {
        options.ca = Some(authorities.certificates());
        // connections that others vouched for are not ours: the pool knows nothing of authorities
        peer.group_key = authorities.key();
    }
    peer
}

/// What went wrong by the kind of error alone: its text may quote what the other side sent.
fn unconnected(error: &Error) -> Failure {
    match error.etype() {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Failure::TimedOut,
        kind => Failure::Connection(kind.as_str().to_owned()),
    }
}

fn broken(error: &Error) -> Failure {
    match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Failure::TimedOut,
        kind => Failure::Broken(kind.as_str().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_https_or_on_this_machine() {
        for (text, authority, target) in [
            ("https://idp.example.com", "idp.example.com", "/"),
            (
                "https://IDP.example.com./a?b=c",
                "idp.example.com",
                "/a?b=c",
            ),
            ("https://idp.example.com:8443/", "idp.example.com:8443", "/"),
            ("https://10.0.0.1/keys", "10.0.0.1", "/keys"),
            ("https://[2001:db8::1]:444/", "[2001:db8::1]:444", "/"),
            ("http://127.0.0.1:8080/", "127.0.0.1:8080", "/"),
            ("http://localhost:8080/", "localhost:8080", "/"),
            ("http://[::1]/", "[::1]", "/"),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!(
                (url.authority().as_str(), &*url.target),
                (authority, target)
            );
            assert_eq!(url.as_str(), text);
        }
        for (text, error) in [
            ("", UrlError::Malformed),
            ("/keys", UrlError::Malformed),
            ("idp.example.com", UrlError::Malformed),
            ("https:///keys", UrlError::Malformed),
            ("https://idp example.com/", UrlError::Malformed),
            ("https://idp.example.com:0/", UrlError::Malformed),
            ("https://under_score.-/", UrlError::Malformed),
            ("ftp://idp.example.com/", UrlError::Scheme),
            ("file://localhost/etc/passwd", UrlError::Scheme),
            ("http://idp.example.com/", UrlError::Clear),
            ("http://10.0.0.1/", UrlError::Clear),
            ("http://localhost.example.com/", UrlError::Clear),
            ("https://user:secret@idp.example.com/", UrlError::Parts),
            ("https://idp.example.com/#keys", UrlError::Parts),
        ] {
            assert_eq!(text.parse::<Url>().err(), Some(error), "{text}");
        }
    }
}
