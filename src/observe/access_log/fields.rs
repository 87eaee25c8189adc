//! What can be said about a request, as one table.

use super::layout::Entry;
use crate::exchange::Scheme;
use crate::exchange::connection::Peer;
use crate::identity::Identity;
use crate::observe::trace::TraceId;
use crate::problem::Kind;
use http::{Method, Version};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// The facts of one request that is over.
pub struct Record<'a> {
    /// When its first byte arrived.
    pub time: SystemTime,
    pub request_id: &'a [u8],
    /// The client: the peer, or the right-most untrusted hop behind a trusted one.
    pub client_address: Option<IpAddr>,
    pub peer: Peer,
    /// The proxy that has introduced the peer by the PROXY protocol.
    pub introduced_by: Option<Peer>,
    pub listener: &'a str,
    pub method: &'a Method,
    pub scheme: Scheme,
    pub host: &'a str,
    /// The canonical path, or what was sent instead of one when it was refused.
    pub path: &'a [u8],
    /// As received, without the question mark.
    pub query: Option<&'a [u8]>,
    pub version: Version,
    /// What the client was sent; 499 if it left before.
    pub status: Option<u16>,
    pub route: Option<&'a str>,
    /// Who called, where a credential said so.
    pub identity: Option<&'a Identity>,
    pub service: Option<&'a str>,
    /// The address of the endpoint that was tried last.
    pub endpoint: Option<&'a str>,
    /// How many times the request was sent to an endpoint.
    pub tries: u32,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// From the first byte to the end.
    pub duration: Duration,
    /// The part of it that the gateway itself spent.
    pub own: Option<Duration>,
    /// From sending the request to the head of the answer, in the last try.
    pub upstream: Option<Duration>,
    pub user_agent: Option<&'a [u8]>,
    pub referer: Option<&'a [u8]>,
    /// Why the gateway answered itself.
    pub problem: Option<Kind>,
    /// What happened, in words that the client was not told.
    pub reason: Option<&'a str>,
    /// What decided in place of a store of a limit that was away.
    pub store_failure: Option<&'static str>,
    pub trace_id: Option<TraceId>,
    pub tls_version: Option<&'static str>,
    /// The server name that the client asked for in the TLS handshake.
    pub server_name: Option<&'a str>,
}

/// Nothing where there was nothing to write.
type Write = for<'r> fn(&Record<'r>, Entry<'_>) -> Option<()>;

/// A field of a JSON line.
pub struct Field {
    pub name: &'static str,
    /// A sentence for the reference.
    pub meaning: &'static str,
    /// Whether it is written unless it is dropped.
    pub usual: bool,
    /// Writes the field into a line, or nothing where the record has no such fact.
    pub(super) write: Write,
}

/// Declares the fields as one table: name, whether it is usual, meaning, how it is written.
macro_rules! fields {
    ($($name:literal $usual:literal $meaning:literal $write:expr;)*) => {
        /// All fields, in the order in which they are written.
        pub const FIELDS: &[Field] = &[$(Field { name: $name, meaning: $meaning, usual: $usual, write: $write }),*];

        const NAMES: &[&str] = &[$($name),*];
    };
}

fields! {
    "time" true "When the request arrived (RFC 3339, UTC, milliseconds)." |r, e| e.time(r.time);
    "request_id" true "The `X-Request-Id` that client and endpoint saw." |r, e| e.plain(r.request_id);
    "client_address" true "The client's address, behind trusted proxies." |r, e| e.address(r.client_address?);
    "peer" false "The address and port that connected; behind a balancer that speaks the PROXY protocol, to the balancer. `unix` for a Unix socket." |r, e| e.peer(r.peer);
    "proxy" false "The address and port of the balancer that said so." |r, e| e.peer(r.introduced_by?);
    "listener" true "The listener that accepted the connection." |r, e| e.plain(r.listener.as_bytes());
    "method" true "The request's method." |r, e| e.plain(r.method.as_str().as_bytes());
    "scheme" true "`http` or `https`." |r, e| e.plain(r.scheme.as_str().as_bytes());
    "host" true "The host, lower case, without port." |r, e| e.text(some(r.host.as_bytes())?);
    "path" true "The canonical path." |r, e| e.text(some(r.path)?);
    "query" true "The query, with credentials masked." |r, e| e.query(r.query?);
    "protocol" true "The version of HTTP that the client speaks." |r, e| e.plain(r.protocol().as_bytes());
    "status" true "The status sent to the client; 499 if it left before." |r, e| e.number(r.status?.into());
    "route" true "The route that was chosen." |r, e| e.plain(r.route?.as_bytes());
    "consumer" true "The consumer that called, once its credential was verified." |r, e| e.text(r.identity?.consumer.as_ref()?.as_bytes());
    "credential" true "What its credential is called: the id of a key, never the key." |r, e| e.text(r.identity?.credential.as_ref()?.as_bytes());
    "subject" true "Whom the credential names: the `sub` of a token, a user." |r, e| e.text(r.identity?.subject.as_ref()?.as_bytes());
    "service" true "The service that the request was sent to." |r, e| e.plain(r.service?.as_bytes());
    "endpoint" true "The endpoint that was tried last." |r, e| e.text(r.endpoint?.as_bytes());
    "tries" true "How many times the request was sent." |r, e| e.number(r.tried()?.into());
    "request_bytes" true "Bytes of the request's body." |r, e| e.number(r.request_bytes);
    "response_bytes" true "Bytes of the answer's body." |r, e| e.number(r.response_bytes);
    "duration_ms" true "Milliseconds from the first byte to the end." |r, e| e.milliseconds(r.duration);
    "own_ms" false "Milliseconds of it that the gateway itself spent." |r, e| e.milliseconds(r.own?);
    "upstream_ms" true "Milliseconds to the head of the endpoint's answer." |r, e| e.milliseconds(r.upstream?);
    "user_agent" true "The `User-Agent` header." |r, e| e.text(r.user_agent?);
    "referer" true "The `Referer` header, with credentials masked." |r, e| e.url(r.referer?);
    "code" true "Why the gateway answered itself: the problem's code." |r, e| e.plain(r.problem?.code().as_bytes());
    "reason" true "What happened, in words that the client was not told." |r, e| e.text(r.reason?.as_bytes());
    "store_failure" true "What decided in place of a store that did not answer: `local_share`, `allow` or `deny`." |r, e| e.plain(r.store_failure?.as_bytes());
    "trace_id" true "The trace that the request belongs to (W3C Trace Context)." |r, e| e.plain(&r.trace_id?.digits());
    "tls_version" false "The version of TLS." |r, e| e.plain(r.tls_version?.as_bytes());
    "server_name" false "The server name of the TLS handshake." |r, e| e.text(r.server_name?.as_bytes());
}

/// What is empty was not understood.
fn some(text: &[u8]) -> Option<&[u8]> {
    (!text.is_empty()).then_some(text)
}

impl Record<'_> {
    fn tried(&self) -> Option<u32> {
        (self.tries > 0).then_some(self.tries)
    }

    /// The version as in a request line; for HTTP/2 as web servers write it in logs.
    pub(super) fn protocol(&self) -> &'static str {
        match self.version {
            Version::HTTP_09 => "HTTP/0.9",
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2.0",
            Version::HTTP_3 => "HTTP/3.0",
            _ => "HTTP/1.1",
        }
    }
}

/// The name of a field that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldName {
    /// One of the table.
    Known(&'static str),
    /// `claim.<path>`: a claim of who calls, by its name or path.
    Claim(Box<str>),
}

/// What the name of a claim begins with, as where it is a fact.
const CLAIM: &str = "claim.";

impl<'de> Deserialize<'de> for FieldName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        if let Some(path) = name.strip_prefix(CLAIM).filter(|path| !path.is_empty()) {
            return Ok(Self::Claim(path.into()));
        }
        let known = NAMES.iter().find(|known| **known == name);
        known
            .map(|known| Self::Known(known))
            .ok_or_else(|| serde::de::Error::unknown_variant(&name, NAMES))
    }
}

impl std::fmt::Display for FieldName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(name) => f.write_str(name),
            Self::Claim(path) => write!(f, "{CLAIM}{path}"),
        }
    }
}

impl Serialize for FieldName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for FieldName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AccessLogField".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "anyOf": [
                {"type": "string", "enum": NAMES},
                {"type": "string", "pattern": "^claim\\..+$"},
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn fields_are_unique_and_described() {
        let names: HashSet<_> = NAMES.iter().collect();
        assert_eq!(names.len(), FIELDS.len());
        assert!(FIELDS.iter().all(|field| field.meaning.ends_with('.')));
    }
}
