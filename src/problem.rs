//! What a client is told when the gateway itself answers: problem details (RFC 9457).
//!
//! A [`Kind`] is closed and fixes everything a client, a metric or a log may rely on: the status, the stable code, the
//! title. A [`Problem`] adds what belongs to one request: a safe detail, headers, and a source that is only logged.

use crate::units::whole_seconds;
use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue, StatusCode};
use std::borrow::Cow;
use std::time::Duration;

/// Declares the closed set of problems as one table: variant, code, status, title.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $name:ident $code:literal $status:literal $title:literal;)*) => {
        /// Every reason for which the gateway answers a request itself. The code is public and stable: it is the last
        /// part of the problem's `type`, its `code` member, and the label of `northgate_refused_total`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[doc = $doc])* $name),* }

        impl Kind {
            /// All kinds, in the order of the table.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// The stable code, such as `route.none`.
            pub const fn code(self) -> &'static str {
                match self { $(Kind::$name => $code),* }
            }

            /// The HTTP status of the answer.
            pub const fn status_code(self) -> u16 {
                match self { $(Kind::$name => $status),* }
            }

            /// A short summary that is the same for every occurrence (RFC 9457 §3.1.3).
            pub const fn title(self) -> &'static str {
                match self { $(Kind::$name => $title),* }
            }

            /// The sentence of the table of codes in the documentation.
            pub fn description(self) -> String {
                let lines: &[&str] = match self { $(Kind::$name => &[$($doc),*]),* };
                lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
            }
        }
    };
}

kinds! {
    /// The request line is not `METHOD target HTTP/1.x` (RFC 9112 §3).
    RequestLine "request.line" 400 "Malformed request line";
    /// The request target is not one that an origin could be asked for (RFC 9112 §3.2).
    RequestTarget "request.target" 400 "Malformed request target";
    /// The path is ambiguous: an encoded slash, backslash or NUL, a bad escape, or dot segments above the root.
    RequestPath "request.path" 400 "Ambiguous request path";
    /// A header line is malformed (RFC 9112 §5).
    RequestHeader "request.header" 400 "Malformed header field";
    /// `Host` is missing, repeated, malformed, or not the authority of the target (RFC 9112 §3.2).
    RequestHost "request.host" 400 "Missing or malformed host";
    /// `Content-Length` and `Transfer-Encoding` do not say unambiguously where the body ends (RFC 9112 §6).
    RequestFraming "request.framing" 400 "Ambiguous message framing";
    /// `Connection` names a field that may not be removed (RFC 9110 §7.6.1).
    RequestConnection "request.connection" 400 "Forbidden connection option";
    /// The client stopped sending in the middle of its request.
    RequestIncomplete "request.incomplete" 400 "Incomplete request";
    /// The client did not send its request head or body in time.
    RequestTimeout "request.timeout" 408 "Request timeout";
    /// The client was sent away: too many resets, or frames that carry nothing, on its HTTP/2 connection. It gets a `GOAWAY`
    /// with `ENHANCE_YOUR_CALM`, and no answer.
    RequestFlood "request.flood" 429 "Too many frames";
    /// The client broke the rules of HTTP/2 (RFC 9113 §8.1.1): its request is reset, or its connection ended, and there is
    /// no answer.
    RequestFrames "request.frames" 400 "Malformed HTTP/2 request";
    /// The body is larger than the route allows.
    RequestBody "request.body_too_large" 413 "Content too large";
    /// The request target is longer than it may be: 8 KiB, unless `limits` says otherwise.
    RequestTargetLength "request.target_too_long" 414 "URI too long";
    /// `Expect` is not `100-continue` (RFC 9110 §10.1.1).
    RequestExpect "request.expect" 417 "Expectation failed";
    /// `grpc-timeout` is not up to eight digits and a unit.
    RequestGrpcTimeout "request.grpc_timeout" 400 "Malformed grpc-timeout";
    /// The connection's server name is not entitled to this host.
    RequestMisdirected "request.misdirected" 421 "Misdirected request";
    /// Since the client's certificate was verified, the authorities have changed, or have revoked it.
    RequestClientCertificate "request.client_certificate" 421 "Client certificate not accepted any more";
    /// The head is larger than it may be: 32 KiB, 100 fields, 16 KiB in one field, unless `limits` says otherwise.
    RequestHeadLength "request.head_too_large" 431 "Request header fields too large";
    /// `CONNECT` and `TRACE` are not served (RFC 9110 §9.3).
    RequestMethod "request.method" 405 "Method not allowed";
    /// The transfer coding is known and not implemented (RFC 9112 §6.1).
    RequestCoding "request.coding" 501 "Transfer coding not implemented";
    /// The HTTP version is neither 1.0 nor 1.1.
    RequestVersion "request.version" 505 "HTTP version not supported";
    /// No route matches.
    RouteNone "route.none" 404 "No route matches the request";
    /// A route matches, but not for this method; `Allow` names those that it takes.
    RouteMethod "route.method" 405 "Method not allowed";
    /// The client's address is not allowed.
    IpFilter "ip_filter.denied" 403 "Address not allowed";
    /// The request needs a credential and has none.
    AuthMissing "auth.missing" 401 "Authentication required";
    /// The credential is good, and its time is over.
    AuthExpired "auth.expired" 401 "Credential expired";
    /// The credential is not accepted. Why is in the log, not in the answer.
    AuthInvalid "auth.invalid" 401 "Credential not accepted";
    /// A login in the browser came back from the identity provider and does not count. Why is in the log.
    AuthLogin "auth.login" 403 "Login failed";
    /// A page of another origin has made the browser send a credential that stands in a cookie.
    AuthCrossSite "auth.cross_site" 403 "Request from another site";
    /// Too many passwords or keys were wrong: no more are tried until `Retry-After`, right or wrong.
    AuthGuessing "auth.guessing" 429 "Too many failed attempts";
    /// Whoever calls may not do this. What it lacks is in the log.
    AuthorizeDenied "authorize.denied" 403 "Not allowed";
    /// A limit is reached. `Retry-After` says when to ask again.
    RateLimited "rate_limit.exceeded" 429 "Too many requests";
    /// The store of a limit does not answer, and `on_failure: deny` lets nothing through then.
    RateLimitUnavailable "rate_limit.unavailable" 503 "Limits can't be checked now";
    /// What was bought is used up. `Retry-After` says when there is more.
    QuotaExceeded "quota.exceeded" 429 "Quota used up";
    /// What was counted can't be written to the disk, and `sync: always` asks for that.
    QuotaUnavailable "quota.unavailable" 503 "Quota can't be counted now";
    /// As many requests are in flight as `concurrency` lets, and none of them ended in time. `Retry-After` says when to ask
    /// again.
    ConcurrencyExceeded "concurrency.exceeded" 503 "Too many requests at the same time";
    /// Whoever verifies credentials can't be asked now, or has too much to do.
    AuthUnavailable "auth.unavailable" 503 "Credentials can't be verified now";
    /// The keys of the issuer are not known yet.
    UnreadyKeys "unready.keys" 503 "Keys not known yet";
    /// The page that asks for a WebSocket is of an origin that `websocket` does not allow.
    WebSocketOrigin "websocket.origin" 403 "Origin not allowed";
    /// The page that asks is of an origin that `cors` does not allow.
    CorsOrigin "cors.origin" 403 "Origin not allowed";
    /// The service has no endpoint that may be chosen.
    UpstreamNone "upstream.none" 503 "No endpoint available";
    /// The endpoints of the service are not known: discovery has not answered yet, or its last answer is too old.
    UnreadyDiscovery "unready.discovery" 503 "Endpoints not known yet";
    /// The breakers of the service or of its endpoints are open: too many of the last tries failed.
    UpstreamOpen "upstream.open" 503 "Circuit breaker open";
    /// As many requests are in flight at the service or its endpoints as there may be.
    UpstreamOverloaded "upstream.overloaded" 503 "Too many requests in flight";
    /// As many connections to the endpoint are in use as there may be, for longer than a request waits for one.
    UpstreamConnections "upstream.connections" 503 "Too many connections";
    /// The endpoint refused or could not be reached.
    UpstreamConnect "upstream.connect" 502 "Endpoint unreachable";
    /// The endpoint closed or reset the connection before it had answered.
    UpstreamReset "upstream.reset" 502 "Endpoint closed the connection";
    /// The endpoint's answer is not valid HTTP, or not one to this request.
    UpstreamProtocol "upstream.protocol" 502 "Invalid answer from the endpoint";
    /// The connection to the endpoint was not established in time.
    UpstreamConnectTimeout "upstream.connect_timeout" 504 "Endpoint connect timeout";
    /// The endpoint did not answer in time.
    UpstreamTimeout "upstream.timeout" 504 "Endpoint timeout";
    /// As many requests are in flight as `overload` lets, or nearly so.
    OverloadRequests "overload.requests" 503 "Too many requests in hand";
    /// The gateway has as much memory in use as `overload` lets, or nearly so.
    OverloadMemory "overload.memory" 503 "Too little memory";
    /// The gateway has as many files and connections open as the system lets it, or nearly so.
    OverloadDescriptors "overload.descriptors" 503 "Too few file descriptors";
    /// The gateway is shutting down, or at one of its bounds.
    Overloaded "gateway.overloaded" 503 "Overloaded";
    /// The request has been through this gateway before: it is named in `Via`.
    Loop "gateway.loop" 508 "Loop detected";
    /// A defect of the gateway.
    Internal "gateway.internal" 500 "Internal error";
}

impl Kind {
    /// The HTTP status of the answer.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.status_code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The status of a call of gRPC that is refused for this reason. It is the one that clients make of the status of
    /// HTTP (`http-grpc-status-mapping.md` of the grpc repository), or one that says it better: a limit is
    /// `RESOURCE_EXHAUSTED`, where `UNAVAILABLE` would invite another try at once.
    pub const fn grpc_status(self) -> u8 {
        const UNKNOWN: u8 = 2;
        const DEADLINE_EXCEEDED: u8 = 4;
        const PERMISSION_DENIED: u8 = 7;
        const RESOURCE_EXHAUSTED: u8 = 8;
        const UNIMPLEMENTED: u8 = 12;
        const INTERNAL: u8 = 13;
        const UNAVAILABLE: u8 = 14;
        const UNAUTHENTICATED: u8 = 16;
        match self {
            Kind::UpstreamConnectTimeout => UNAVAILABLE,
            Kind::RequestTimeout => DEADLINE_EXCEEDED,
            Kind::RequestMethod | Kind::RouteMethod => UNIMPLEMENTED,
            _ => match self.status_code() {
                400 | 500 => INTERNAL,
                401 => UNAUTHENTICATED,
                403 => PERMISSION_DENIED,
                404 | 501 => UNIMPLEMENTED,
                413 | 414 | 429 | 431 => RESOURCE_EXHAUSTED,
                502 | 503 => UNAVAILABLE,
                504 => DEADLINE_EXCEEDED,
                _ => UNKNOWN,
            },
        }
    }

    /// Whether the connection must not carry another HTTP/1 request: what follows can't be told apart from the body, or its
    /// memory is wanted.
    pub fn closes(self) -> bool {
        use Kind::*;
        matches!(
            self,
            RequestLine
                | RequestTarget
                | RequestHeader
                | RequestHost
                | RequestFraming
                | RequestConnection
                | RequestIncomplete
                | RequestTimeout
                | RequestBody
                | RequestTargetLength
                | RequestExpect
                | RequestHeadLength
                | RequestClientCertificate
                | RequestCoding
                | RequestVersion
                | OverloadMemory
                | Internal
        )
    }
}

/// One refusal of one request.
#[derive(Clone, Debug)]
pub struct Problem {
    pub kind: Kind,
    /// A sentence for the client; never an address, a file or anything of the configuration.
    pub detail: Option<Cow<'static, str>>,
    /// Further fields of the answer, such as `Allow` or `Retry-After`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What happened, for the log only.
    pub source: Option<String>,
}

impl Problem {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            detail: None,
            headers: Vec::new(),
            source: None,
        }
    }

    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Says when to ask again: in whole seconds, since a date would need clocks that agree (RFC 9110 §10.2.3).
    pub fn retry_after(self, time: Duration) -> Self {
        self.header(RETRY_AFTER, HeaderValue::from(whole_seconds(time)))
    }

    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl From<Kind> for Problem {
    fn from(kind: Kind) -> Self {
        Self::new(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_and_described() {
        let codes: HashSet<_> = Kind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert!(kind.description().ends_with('.'), "{kind:?}");
            assert!((400..600).contains(&kind.status_code()));
        }
    }
}
