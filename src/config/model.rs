//! The configuration as written (design 3): what each key is called, what it takes, what it means when it is left out.
//!
//! References are still names here; `snapshot/` resolves them. The JSON schema is made from these types.

pub use super::certificates::ServerCertificate;
pub use super::health::{BodyMatch, ErrorRatio, GrpcCheck, HealthCheck, Outlier};
pub use super::issuers::Issuer;
pub use super::listener::{ListenerLimits, ListenerSocket};
use super::{FileText, Named, Spanned};
use crate::exchange::fact::Fact;
use crate::exchange::template::Template;
use crate::observe::access_log::AccessLogConfig;
use crate::policy::Policies;
use crate::router::Match;
use crate::store::OnFailure;
use crate::units::{
    Address, ByteSize, Cidr, Count, Duration, HeaderNameText, LargeFile, MemoryBound, Name,
    OneOrMany, OrOff, Ratio, Secret, TimeBound, Timestamp, Toggle,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A Northgate configuration.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The version of the configuration language: 1.
    pub version: Spanned<u32>,
    /// Further files with routes, groups, services, profiles, certificates and consumers.
    #[serde(default)]
    pub include: Option<OneOrMany<Include>>,
    /// Reload when a file changes. Off by default, because deployments write several files one after another.
    #[serde(default)]
    pub watch: Toggle,
    /// Threads that serve requests; the number of processors by default. Changing it needs a restart.
    #[serde(default)]
    pub threads: Option<Spanned<u16>>,
    /// How long a stop waits for requests in flight: 30 s by default.
    #[serde(default)]
    pub drain_timeout: Option<Duration>,
    /// How long the start and a reload wait for the addresses of names and the keys of issuers: 10 s by default.
    #[serde(default)]
    pub warm_timeout: Option<Spanned<Duration>>,
    /// What the gateway may have in hand at a time; what is beyond is refused with 503.
    #[serde(default)]
    pub overload: Option<Spanned<Overload>>,
    /// How the names of endpoints are looked up in DNS.
    #[serde(default)]
    pub resolver: Option<Spanned<Resolver>>,
    /// Where the admin API listens.
    #[serde(default)]
    pub admin: Admin,
    /// Proxies in front of the gateway whose forwarding headers are believed. None by default.
    #[serde(default)]
    pub trusted_proxies: Option<OneOrMany<TrustedProxy>>,
    /// The header that a trusted proxy names its client in.
    #[serde(default)]
    pub forwarded: Option<Forwarded>,
    /// What the gateway calls itself in `Via`, by which it finds requests that go round in circles; or `off`.
    #[serde(default)]
    pub via: Option<Spanned<OrOff<Name>>>,
    /// One line for each request.
    #[serde(default)]
    pub access_log: Option<Spanned<AccessLog>>,
    /// Where connections are accepted.
    pub listeners: Spanned<Named<Listener>>,
    /// Certificates, chosen by the server name that a client asks for.
    #[serde(default)]
    pub certificates: Named<ServerCertificate>,
    /// Who calls, with their plans and groups.
    #[serde(default)]
    pub consumers: Named<Consumer>,
    /// Those who sign the tokens that are accepted.
    #[serde(default)]
    pub issuers: Named<Issuer>,
    /// Files with the credentials of many consumers, read again at every reload.
    #[serde(default)]
    pub credential_files: CredentialFiles,
    /// What consumers have bought, by name: limits that hold over all routes.
    #[serde(default)]
    pub plans: Named<Plan>,
    /// The plan of callers that have none, or one that is not declared.
    #[serde(default)]
    pub default_plan: Option<Spanned<Name>>,
    /// The headers that tell endpoints who calls. Clients can't write them on any route.
    #[serde(default)]
    pub identity_headers: IdentityHeaders,
    /// Keys that the gateway signs with.
    #[serde(default)]
    pub secrets: Secrets,
    /// Places outside of the process where gateways count together.
    #[serde(default)]
    pub stores: Named<Store>,
    /// What services, groups and routes start from.
    #[serde(default)]
    pub defaults: Defaults,
    /// Where requests are sent to.
    #[serde(default)]
    pub services: Named<Service>,
    /// Policies of every route.
    #[serde(default)]
    pub policies: Policies,
    /// Named sets of policies, taken with `use`.
    #[serde(default)]
    pub profiles: Named<Profile>,
    /// Routes that share a match and policies.
    #[serde(default)]
    pub groups: Named<Group>,
    /// Which requests are served, and how.
    #[serde(default)]
    pub routes: Named<Route>,
    /// What must hold for every route that can match; checked at load.
    #[serde(default)]
    pub invariants: Named<Invariant>,
}

/// An include. Short form: its files.
#[derive(Debug)]
pub struct Include(pub IncludeFields);

/// Files to read besides this one. They hold routes, groups, services, profiles, certificates and consumers.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IncludeFields {
    /// Paths relative to this file; `*` stands for any part of a name.
    pub files: OneOrMany<Spanned<String>>,
    /// Who owns these files; named in diagnostics.
    #[serde(default)]
    pub owner: Option<String>,
    /// Routes of these files may only be for these hosts.
    #[serde(default)]
    pub host: Option<OneOrMany<crate::router::HostPattern>>,
    /// Routes of these files may only lie inside these paths.
    #[serde(default)]
    pub path: Option<OneOrMany<crate::router::PathPattern>>,
    /// What a reload does about mistakes in these files. Refuses the whole by default.
    #[serde(default)]
    pub on_error: Option<OnError>,
}

/// What a reload does about mistakes that lie in the files of one include.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// Nothing changes.
    Refuse,
    /// These files stay as they last were when they had no mistakes; everything else changes.
    Keep,
}

/// The admin API: health, metrics, status, reload.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// A Unix socket, `/run/northgate/admin.sock` by default, or a loopback address, which is then read-only.
    #[serde(default)]
    pub address: Option<OneOrMany<Spanned<Address>>>,
}

/// What the whole gateway may have in hand at a time, over all listeners and routes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Overload {
    /// Requests in flight, WebSockets and streams among them: 100,000 by default, 10M at most.
    #[serde(default)]
    pub requests: Option<Spanned<Count>>,
    /// Resident memory of the process, as a size or as a part of what it could have: the limit of its cgroup, else the
    /// memory of the machine. 90% by default.
    #[serde(default)]
    pub memory: Option<Spanned<MemoryBound>>,
    /// Connections of clients, over all listeners: 100,000 by default, 10M at most.
    #[serde(default)]
    pub connections: Option<Spanned<Count>>,
}

/// How DNS is asked. Search domains are never tried: names are whole.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resolver {
    /// DNS servers, `ip` or `ip:port`; those of `/etc/resolv.conf` by default, with `/etc/hosts` asked before them.
    #[serde(default)]
    pub servers: Option<OneOrMany<Spanned<NameServer>>>,
    /// For one server to answer: 2 s by default.
    #[serde(default)]
    pub timeout: Option<Spanned<Duration>>,
    /// How often a question is asked in all: 2 by default.
    #[serde(default)]
    pub attempts: Option<Spanned<u8>>,
    /// `ipv4` or `ipv6`: the only addresses to ask for. Both by default.
    #[serde(default)]
    pub family: Option<Family>,
}

/// The address of a DNS server; its port is 53 by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServer(pub std::net::SocketAddr);

/// One kind of IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// A network, or `unix` for the peers of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedProxy {
    Network(Cidr),
    Unix,
}

/// Which header names the client behind a trusted proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Forwarded {
    /// `X-Forwarded-For`.
    #[default]
    #[serde(rename = "x_forwarded_for")]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    #[serde(rename = "rfc7239")]
    Rfc7239,
}

/// `access_log: off`, or where and how it is written.
#[derive(Debug)]
pub enum AccessLog {
    Off,
    On(AccessLogConfig),
}

/// Where connections are accepted.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `ip:port` or `unix:/path`; `[::]:port` takes IPv4 too.
    pub address: OneOrMany<Spanned<Address>>,
    /// `h1`, `h2` (by ALPN, with `tls`), `h2c` (HTTP/2 by prior knowledge, without `tls`). `[h1, h2]` by default.
    #[serde(default)]
    pub protocols: Option<Spanned<OneOrMany<Protocol>>>,
    /// Terminates TLS.
    #[serde(default)]
    pub tls: Option<Spanned<ListenerTls>>,
    /// Whose certificates clients may show; with `tls`.
    #[serde(default)]
    pub client_ca: Option<Spanned<ClientCa>>,
    /// Every connection begins with the PROXY protocol's header, of either version, from one of `trusted_proxies`. Off by
    /// default.
    #[serde(default)]
    pub proxy_protocol: Option<Spanned<Toggle>>,
    /// Overrides the top level's.
    #[serde(default)]
    pub trusted_proxies: Option<OneOrMany<TrustedProxy>>,
    /// Overrides the top level's.
    #[serde(default)]
    pub forwarded: Option<Forwarded>,
    /// `https`: every request is answered with 308 to the same URL over TLS.
    #[serde(default)]
    pub redirect: Option<Spanned<ListenerRedirect>>,
    /// Serves `/livez` and `/readyz` (`health`) or `/metrics` (`metrics`), read-only, instead of routes.
    #[serde(default)]
    pub serve: Option<Spanned<OneOrMany<Serve>>>,
    /// How many connections, and how long they are waited for.
    #[serde(default)]
    pub limits: Option<Spanned<ListenerLimits>>,
    /// What its sockets are told.
    #[serde(default)]
    pub socket: Option<Spanned<ListenerSocket>>,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    H1,
    H2,
    H2c,
}

/// TLS of a listener.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// The certificates that it may present; all of them by default.
    #[serde(default)]
    pub certificates: Option<OneOrMany<Spanned<Name>>>,
    /// The one for clients that name no server, or an unknown one; the first by default.
    #[serde(default)]
    pub default: Option<Spanned<Name>>,
    /// The oldest version that is spoken: `1.2`, which is the default, or `1.3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version: Option<Spanned<TlsVersion>>,
}

/// A version of TLS. There are none older than these here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TlsVersion {
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

/// Where a listener sends everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListenerRedirect {
    Https,
}

/// What a listener for operators serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Serve {
    Health,
    Metrics,
}

/// A certificate chain and its key, both PEM.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The chain, the server's certificate first.
    pub cert: Spanned<FileText>,
    /// The private key (PKCS#8, PKCS#1 or SEC1).
    pub key: Spanned<FileText>,
}

/// The authorities of clients' certificates. Short form: their file.
#[derive(Debug)]
pub struct ClientCa(pub ClientCaFields);

/// The authorities of clients' certificates.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCaFields {
    /// Certificates of authorities, PEM. Those of the system are not among them.
    pub file: Spanned<FileText>,
    /// Lists of revoked certificates, PEM: one of every authority between a client and `file`, and not past its
    /// `nextUpdate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl: Option<OneOrMany<Spanned<FileText>>>,
    /// Whether every connection needs a certificate. By default it is for the routes to demand one, with
    /// `auth: {mtls: …}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<Spanned<Toggle>>,
}

/// A Redis or Valkey, one server or a cluster.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// Its URL, such as `redis://:password@10.0.0.9:6379/0`, `rediss://` with TLS, or `redis+unix:///path`. Several are
    /// servers of one cluster, which names the others.
    pub redis: Spanned<OneOrMany<Spanned<Secret>>>,
    /// Whether the one server that is named is one of a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Spanned<Toggle>>,
    /// Certificates of the authorities that vouch for it; those of the system by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Spanned<FileText>>,
    /// For one answer: 5 ms by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Spanned<Duration>>,
    /// What decides while it does not answer: `local_share` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// What the names of all its keys begin with: `northgate:` by default. Gateways that count together have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Spanned<String>>,
}

/// What services, groups and routes start from.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Whether and how a request is tried again; or `off`.
    #[serde(default)]
    pub retries: Option<Spanned<OrOff<Retries>>>,
    /// The largest request body, 10 MiB by default; of gRPC the largest message, 4 MiB by default.
    #[serde(default)]
    pub body_limit: Option<OrOff<ByteSize>>,
    #[serde(default)]
    pub host_header: Option<HostHeader>,
}

/// How long the parts of an exchange with an endpoint may take.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// To a connection: 3 s by default.
    #[serde(default)]
    pub connect: Option<OrOff<TimeBound>>,
    /// For the TLS handshake on it: as long as `connect` by default.
    #[serde(default)]
    pub tls: Option<Spanned<OrOff<TimeBound>>>,
    /// From the request sent to the head of the answer: 30 s by default.
    #[serde(default)]
    pub response_header: Option<OrOff<TimeBound>>,
    /// From the beginning of one try, connecting included, to the head of its answer; where the client is still sending,
    /// from the end of that. Off by default. Where `retries` do not say what they act on, they act on this too.
    #[serde(default)]
    pub per_try: Option<OrOff<TimeBound>>,
    /// Between two reads or writes: 30 s by default; 1 h for upgrades, event streams and gRPC.
    #[serde(default)]
    pub idle: Option<OrOff<TimeBound>>,
    /// From the first byte of the request to the head of the final answer, all tries together: 60 s by default.
    #[serde(default)]
    pub total: Option<OrOff<TimeBound>>,
}

/// Whether and how a request is tried again. What may have been processed is repeated only if its method is idempotent
/// (RFC 9110 §9.2.2), or as `idempotency_key` says; a body only up to 64 KiB.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retries {
    /// Tries in all, 2 to 10: 2 by default.
    #[serde(default)]
    pub attempts: Option<Spanned<u8>>,
    /// After what: `connect_failure`, `refused_stream` and `reset` by default, and `timeout` where there is a `per_try`;
    /// also statuses.
    #[serde(default)]
    pub on: Option<OneOrMany<Spanned<RetryOn>>>,
    /// Pauses between tries.
    #[serde(default)]
    pub backoff: Option<Backoff>,
    /// Tries again, as a share of the requests of the service over ten seconds: `20%` by default. All that fail, if `off`.
    #[serde(default)]
    pub budget: Option<OrOff<Ratio>>,
    /// Tries again a second that the budget always allows: 3 by default.
    #[serde(default)]
    pub min_per_second: Option<Spanned<u32>>,
    /// Repeats requests of any method that carry `Idempotency-Key` as if they were idempotent. Off by default: the
    /// service must know the field.
    #[serde(default)]
    pub idempotency_key: Option<Toggle>,
}

/// Pauses before another try: anything up to a bound, at random.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    /// The bound before the second try; it doubles with each further one: 25 ms by default.
    #[serde(default)]
    pub base: Option<Spanned<Duration>>,
    /// What it doubles up to: 250 ms by default.
    #[serde(default)]
    pub max: Option<Spanned<Duration>>,
}

/// What a request is tried again after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// The connection could not be made.
    ConnectFailure,
    /// The endpoint says that it has not looked at the request (HTTP/2).
    RefusedStream,
    /// The connection broke, or what came was no HTTP, before the head of an answer.
    Reset,
    /// No head of an answer in time.
    Timeout,
    /// The endpoint answered with this status.
    Status(u16),
}

/// When tries that fail keep further ones away, and for how long.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// The share of failed tries that opens it: `50%` by default. No connection, no valid answer in time, and every
    /// status from 500 on are failures.
    #[serde(default)]
    pub failures: Option<Spanned<Ratio>>,
    /// How long tries are remembered: 10 s by default.
    #[serde(default)]
    pub window: Option<Spanned<Duration>>,
    /// Fewer tries than this within the window open nothing: 20 by default.
    #[serde(default)]
    pub minimum: Option<Spanned<u32>>,
    /// How long it stays open: 30 s by default.
    #[serde(default)]
    pub open: Option<Spanned<Duration>>,
    /// Requests that are let through when that is over; as many good answers close it: 3 by default.
    #[serde(default)]
    pub probes: Option<Spanned<u16>>,
    /// What has a breaker of its own: each `endpoint` (default), the `service` as a whole, or both.
    #[serde(default)]
    pub per: Option<OneOrMany<BreakerScope>>,
}

/// What a breaker stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerScope {
    Endpoint,
    Service,
}

/// The most requests in flight, and the most connections. What is beyond is answered with 503, at once or after it has
/// waited.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceLimits {
    /// Of the service as a whole.
    #[serde(default)]
    pub in_flight: Option<Spanned<u32>>,
    /// Of each endpoint; with HTTP/1.1, its busy connections.
    #[serde(default)]
    pub in_flight_per_endpoint: Option<Spanned<u32>>,
    /// The most connections to each endpoint, busy and idle, of all threads together; those of health checks are not
    /// counted. Whoever finds none waits for one, as long as `timeouts.connect`. With HTTP/2, which shares a connection
    /// among the requests of one thread, at least as many as there are `threads`.
    #[serde(default)]
    pub connections_per_endpoint: Option<Spanned<u32>>,
    /// How many requests may wait for one of these places, first come, first served, each for as long as
    /// `timeouts.connect`. None by default; for a connection, 1024.
    #[serde(default)]
    pub pending: Option<Spanned<u32>>,
}

/// What an endpoint is told in `Host`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostHeader {
    /// What the client sent.
    #[default]
    Preserve,
    /// The name that the endpoint was found by, else its address.
    Endpoint,
    /// A fixed value.
    Value(String),
}

/// A named group of endpoints, or a split between other services.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// `ip:port`, `name:port` (every address that DNS has for it), `unix:/path`, `{address, weight}`, `{srv}` or
    /// `{file}`.
    #[serde(default)]
    pub endpoints: Option<Spanned<OneOrMany<Spanned<Endpoint>>>>,
    /// Ordered arms: the first whose `when` holds, else one of the others by weight.
    #[serde(default)]
    pub split: Option<Spanned<OneOrMany<Arm>>>,
    /// What is taken of names and files, and for how long.
    #[serde(default)]
    pub discovery: Option<Spanned<Discovery>>,
    /// How an endpoint is chosen: `least_request` by default.
    #[serde(default)]
    pub balance: Option<Spanned<Balance>>,
    /// Keeps clients at their endpoint, or requests at their arm.
    #[serde(default)]
    pub sticky: Option<Spanned<Sticky>>,
    /// How long the share of an endpoint that is new or returns grows to the whole. Off by default.
    #[serde(default)]
    pub slow_start: Option<Spanned<Duration>>,
    /// Speaks TLS with the endpoints, and verifies them.
    #[serde(default)]
    pub tls: Option<Spanned<OrOff<ServiceTls>>>,
    /// What is spoken with the endpoints: `auto` by default.
    #[serde(default)]
    pub protocol: Option<Spanned<ServiceProtocol>>,
    /// Tells the endpoints who the client is at the beginning of each connection, before TLS. Off by default.
    #[serde(default)]
    pub proxy_protocol: Option<Spanned<ProxyProtocol>>,
    #[serde(default)]
    pub timeouts: Option<Spanned<Timeouts>>,
    /// Whether and how a request is tried again; or `off`.
    #[serde(default)]
    pub retries: Option<Spanned<OrOff<Retries>>>,
    /// Leaves alone for a while what fails too often. None by default.
    #[serde(default)]
    pub breaker: Option<Spanned<Breaker>>,
    /// The most requests in flight. No bound by default.
    #[serde(default)]
    pub limits: Option<Spanned<ServiceLimits>>,
    #[serde(default)]
    pub host_header: Option<Spanned<HostHeader>>,
    /// Connections that are kept open between requests.
    #[serde(default)]
    pub pool: Option<Spanned<Pool>>,
    /// Asks each endpoint from time to time whether it is well. Off by default.
    #[serde(default)]
    pub health_check: Option<Spanned<OrOff<HealthCheck>>>,
    /// Leaves endpoints out for a while when requests to them fail. On by default, after 5 failures in a row.
    #[serde(default)]
    pub outlier: Option<Spanned<OrOff<Outlier>>>,
    /// When fewer than this share of the endpoints are usable, requests go to all of them: 50% by default.
    #[serde(default)]
    pub panic_threshold: Option<Spanned<OrOff<Ratio>>>,
    /// The largest request body.
    #[serde(default)]
    pub body_limit: Option<OrOff<ByteSize>>,
}

/// One address of a service, or where several come from. Short form: the address.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// An address; a name stands for every address that DNS has for it.
    Address {
        address: Address,
        /// Its share, beside the others' weights; 0 takes no requests. 1 by default.
        weight: u32,
    },
    /// A name with SRV records (RFC 2782).
    Srv(SrvName),
    /// The path of a watched file that lists endpoints.
    File(String),
}

/// The name of SRV records: `_service._proto.name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvName(pub std::sync::Arc<str>);

/// What is taken of names and files, and for how long.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Discovery {
    /// Networks whose addresses are taken although no origin is expected there: loopback, link-local, metadata services,
    /// multicast. None by default; private networks need no mention.
    #[serde(default)]
    pub allow: Option<OneOrMany<Spanned<Cidr>>>,
    /// How long the last good answer is used after its TTL, when no other can be had: 1 h by default.
    #[serde(default)]
    pub max_stale: Option<Duration>,
}

/// `tls: on`, or how endpoints are verified.
#[derive(Debug, Default)]
pub struct ServiceTls {
    /// The name that a certificate must be for, and that is asked for. By default the host of a fixed `host_header`, else
    /// the DNS name of the endpoints, where all have the same.
    pub server_name: Option<Spanned<String>>,
    /// Certificates of authorities; those of the system by default.
    pub ca: Option<Spanned<FileText>>,
    /// The certificate that the gateway shows.
    pub client: Option<Certificate>,
    /// `off` lets anybody answer.
    pub verify: Option<Spanned<Toggle>>,
}

/// What is spoken with endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceProtocol {
    /// HTTP/1.1, and with `tls` HTTP/2 where the endpoint chooses it.
    #[default]
    Auto,
    /// HTTP/1.1 alone.
    H1,
    /// HTTP/2 alone, with `tls`.
    H2,
    /// HTTP/2 by prior knowledge, without `tls`.
    H2c,
}

/// The PROXY protocol, as endpoints are told who the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// One arm of a split.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    pub service: Spanned<Name>,
    /// Takes every request that this matches, before the weights are asked.
    #[serde(default)]
    pub when: Option<OneOrMany<Match>>,
    /// Its share among the arms without `when`.
    #[serde(default)]
    pub weight: Option<Spanned<u32>>,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Of two chosen at random, the one with fewer requests in flight for its weight.
    #[default]
    LeastRequest,
    /// In turn, by weight, interleaved.
    RoundRobin,
    /// Of two chosen at random, the one that has answered faster lately, for its requests in flight and its weight.
    Ewma,
    /// At random, by weight.
    Random,
    /// The same endpoint for the same key.
    ConsistentHash(ConsistentHash),
}

/// `consistent_hash: {by, overload}`. Short form: by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistentHash {
    /// The facts that make the key. A request that lacks one is balanced by `least_request`.
    pub by: OneOrMany<Fact>,
    /// How much more than its share an endpoint may have in flight before a request goes to the next: 25% by default.
    pub overload: Option<OrOff<Ratio>>,
}

/// Who stays where. Of a service: `cookie`; of a split: `by`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// The name of the cookie that keeps a client at its endpoint. It is signed.
    #[serde(default)]
    pub cookie: Option<Spanned<String>>,
    /// How long clients keep the cookie; until they are closed by default.
    #[serde(default)]
    pub max_age: Option<Spanned<Duration>>,
    /// The facts by which an arm is chosen instead of chance. A request that lacks one goes by chance.
    #[serde(default)]
    pub by: Option<Spanned<OneOrMany<Fact>>>,
}

/// What the headers are called that tell endpoints who calls.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityHeaders {
    /// The name of the consumer: `X-Consumer-Id` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<Spanned<HeaderNameText>>,
    /// Its plan: `X-Consumer-Plan` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Spanned<HeaderNameText>>,
    /// Whom the credential names: `X-Auth-Subject` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Spanned<HeaderNameText>>,
    /// The scopes of the token, separated by blanks: `X-Auth-Scopes` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Spanned<HeaderNameText>>,
}

/// A consumer: whoever calls with one of its credentials, or with a token that names it.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Consumer {
    /// The plan of this consumer, whatever its tokens say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Spanned<Name>>,
    /// The groups that it belongs to, in place of those that its tokens name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<OneOrMany<String>>,
    /// What it proves itself with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Spanned<Credentials>>,
}

/// What a consumer proves itself with.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// Keys for `auth: {api_key: on}`. Several may be valid at once, so that one can take over from another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<OneOrMany<Spanned<ApiKey>>>,
    /// Passwords for `auth: {basic: on}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<OneOrMany<Spanned<BasicUser>>>,
    /// Client certificates for `auth: {mtls: on}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<OneOrMany<Spanned<CertificateName>>>,
    /// Keys that it signs requests with, for `auth: {signature: on}`. Several may be valid at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<OneOrMany<Spanned<SignatureKey>>>,
}

impl Credentials {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.api_key.is_none()
            && self.basic.is_none()
            && self.mtls.is_none()
            && self.signature.is_none()
    }
}

/// A key that requests are signed with: either the secret that both sides have, or a public key.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignatureKey {
    /// The `keyid` of its signatures: the name of the consumer by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Spanned<String>>,
    /// The secret of HMAC-SHA256, such as `${file:/path}`: 32 bytes or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Spanned<Secret>>,
    /// `base64` if `key` is written so; as it stands by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Spanned<KeyEncoding>>,
    /// A public key, PEM: Ed25519, ECDSA on P-256 or P-384, or RSA, which is used with PSS and SHA-512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<Spanned<FileText>>,
}

/// How a secret is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyEncoding {
    Text,
    Base64,
}

/// What tells a client certificate: exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CertificateName {
    /// The distinguished name in the form of RFC 4514, the last part first: `CN=orders,O=Acme`.
    Subject(String),
    /// The only common name of the subject.
    CommonName(String),
    /// An alternative name that is a host.
    Dns(String),
    /// An alternative name that is a URI, such as a SPIFFE id.
    Uri(String),
    /// An alternative name that is an address of mail.
    Email(String),
    /// SHA-256 of the certificate, in hexadecimal, with or without colons.
    Fingerprint(String),
}

/// An API key: its `digest`, or the `key` itself out of a file.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// What it is called in logs and lists of revoked keys: the name of the consumer by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Spanned<String>>,
    /// What `northgate key new` or `northgate key hash` makes of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Spanned<Secret>>,
    /// The key itself, such as `${file:/path}`: 16 to 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Spanned<Secret>>,
    /// The moment from which it is valid; at once by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Spanned<Timestamp>>,
    /// The moment from which it is not valid any more; never by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Spanned<Timestamp>>,
}

/// A user with a password.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicUser {
    /// The name to log in with: that of the consumer by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Spanned<String>>,
    /// The hash of the password: argon2id or bcrypt, as `northgate key hash --password` makes it.
    pub hash: Spanned<Secret>,
}

/// Files with the credentials of many consumers. Their consumers need no entry in `consumers`; an entry overrides.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialFiles {
    /// Files of API keys: `id digest consumer expires` in each line, then `not_before=…`, `plan=…`, `groups=…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<OneOrMany<Spanned<LargeFile>>>,
    /// htpasswd files: `user:hash` in each line. The user is the consumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<OneOrMany<Spanned<LargeFile>>>,
    /// Lists of the ids of API keys that are not taken any more, one in each line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<OneOrMany<Spanned<LargeFile>>>,
}

/// A plan. Its name is a fact of each request of its consumers, and its limits act on all of them, whatever their route:
/// each consumer has counts of his own.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Plan(pub Policies);

impl JsonSchema for Plan {
    fn schema_name() -> Cow<'static, str> {
        "Plan".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Policies::schema_of(generator, |kind| kind.of_plans)
    }
}

/// Keys that the gateway signs with.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// Keys the cookies of `sticky` and the sessions of `oidc`: 16 bytes or more, the same in all gateways of a fleet.
    /// Without it one is made, and kept in the state directory. Of several, the first makes cookies, and those of the
    /// others still count, so that it can be replaced.
    #[serde(default)]
    pub cookies: Option<Spanned<OneOrMany<Spanned<Secret>>>>,
    /// Keys the digests of API keys: 16 bytes or more, the same in all gateways of a fleet. Without it one is made, and
    /// kept in the state directory. With another one, no digest that was made before is of any use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digests: Option<Spanned<Secret>>,
    /// Keys the tickets by which clients resume TLS sessions: 16 bytes or more, the same in all gateways of a fleet, so
    /// that each resumes what another began. Without it keys are made up, and end with the process. Of several, the first
    /// makes tickets, and those of the others still count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tickets: Option<Spanned<OneOrMany<Spanned<Secret>>>>,
}

/// Connections kept open to endpoints between requests.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// How long an unused connection is kept: 60 s by default. Keep it below the endpoint's own.
    #[serde(default)]
    pub idle: Option<OrOff<Duration>>,
    /// How long it may have been unused to be taken for a request that is not repeated, such as a POST: 1 s by default.
    /// The endpoint may be about to close it, and the request would be lost.
    #[serde(default)]
    pub post_idle: Option<Spanned<Duration>>,
}

/// The name of a service, or one written in place.
#[derive(Debug)]
pub enum ServiceRef {
    Name(Name),
    Inline(Box<Service>),
}

/// A named set of policies.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub policies: Policies,
}

/// Routes that share a match and policies.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// What all its routes match; they must lie inside its paths.
    #[serde(rename = "match", default)]
    pub matches: Option<Spanned<OneOrMany<Match>>>,
    /// Of the routes that name none.
    #[serde(default)]
    pub service: Option<Spanned<ServiceRef>>,
    #[serde(rename = "use", default)]
    pub profiles: Option<OneOrMany<Spanned<Name>>>,
    #[serde(default)]
    pub policies: Policies,
    #[serde(default)]
    pub timeouts: Option<Timeouts>,
    /// Whether and how a request is tried again; or `off`.
    #[serde(default)]
    pub retries: Option<Spanned<OrOff<Retries>>>,
    #[serde(default)]
    pub body_limit: Option<OrOff<ByteSize>>,
    /// Lets WebSockets be opened through its routes.
    #[serde(default)]
    pub websocket: Option<Spanned<OrOff<WebSocket>>>,
    pub routes: Named<Route>,
}

/// Which requests, and what happens to them.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Which requests; a list means any of them.
    #[serde(rename = "match", default)]
    pub matches: Option<Spanned<OneOrMany<Match>>>,
    /// Decides between routes of one host and path pattern; higher first. 0 by default.
    #[serde(default)]
    pub priority: Option<i32>,
    /// When its predicates do not fit, look at wider patterns too.
    #[serde(default)]
    pub fall_through: Toggle,
    /// Takes `%2F` in the path, which is refused otherwise.
    #[serde(default)]
    pub allow_encoded_slash: Toggle,
    /// Sends the request to a service.
    #[serde(default)]
    pub service: Option<Spanned<ServiceRef>>,
    /// Answers with a redirect.
    #[serde(default)]
    pub redirect: Option<Spanned<Redirect>>,
    /// Answers by itself.
    #[serde(default)]
    pub respond: Option<Spanned<Respond>>,
    /// Changes the path that is sent on.
    #[serde(default)]
    pub rewrite: Option<Spanned<Rewrite>>,
    #[serde(rename = "use", default)]
    pub profiles: Option<OneOrMany<Spanned<Name>>>,
    #[serde(default)]
    pub policies: Policies,
    #[serde(default)]
    pub timeouts: Option<Spanned<Timeouts>>,
    /// Whether and how a request is tried again; or `off`.
    #[serde(default)]
    pub retries: Option<Spanned<OrOff<Retries>>>,
    #[serde(default)]
    pub body_limit: Option<OrOff<ByteSize>>,
    /// Lets WebSockets be opened. They are not by default: a request to change the protocol goes on as if it were none.
    #[serde(default)]
    pub websocket: Option<Spanned<OrOff<WebSocket>>>,
}

/// `websocket: on`, or which pages may open one, and how long it may last.
#[derive(Debug, Default)]
pub struct WebSocket {
    /// Pages of which origins; those of the host that was asked for by default. Clients that are no pages send none.
    pub origins: Option<OneOrMany<Spanned<String>>>,
    /// How long both sides may be silent: 1 h by default.
    pub idle: Option<OrOff<TimeBound>>,
    /// How long it may last; as long as it will by default.
    pub max_age: Option<OrOff<TimeBound>>,
    /// The longest message, in either direction; as long as it will by default.
    pub message: Option<OrOff<ByteSize>>,
}

/// `redirect: {to, status}`. Short form: where to.
#[derive(Debug)]
pub struct Redirect {
    pub to: Template,
    /// 301, 302, 303, 307 or 308; 308 by default.
    pub status: u16,
}

/// `respond: {status, body, headers}`. Short form: the status.
#[derive(Debug)]
pub struct Respond(pub crate::policy::respond::Answer);

/// What is sent on instead of the path. The result is made canonical again.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// Removes this prefix.
    #[serde(default)]
    pub strip: Option<Spanned<String>>,
    /// Puts this before the path; with `strip`, after that.
    #[serde(default)]
    pub prefix: Option<Spanned<String>>,
    /// Replaces the path; it may hold facts, such as `{path.id}`, and a query of its own.
    #[serde(default)]
    pub path: Option<Spanned<Template>>,
    /// Changes `Location` and cookie paths of the answer back. On by default.
    #[serde(default)]
    pub map_back: Option<Toggle>,
    /// Lets requests through that, once rewritten, are those of a route to the same service with guards that this one
    /// lacks, such as an `ip_filter`. Off by default: they are answered as if there were no route.
    #[serde(default)]
    pub allow_guarded: Toggle,
}

/// What must hold for every route that can match.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Invariant {
    /// Of which routes; all by default.
    #[serde(rename = "match", default)]
    pub matches: Option<OneOrMany<Match>>,
    /// Kinds of policies that must act, or be turned off in so many words.
    #[serde(default)]
    pub require: Option<OneOrMany<Spanned<String>>>,
    /// Kinds of policies that must not act.
    #[serde(default)]
    pub forbid: Option<OneOrMany<Spanned<String>>>,
}
