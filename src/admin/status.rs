//! What the admin API says, as types: the server writes them, `northgate status` reads them.

use crate::policy::counting::{KeyStatus, Overview};
use serde::{Deserialize, Serialize};

/// The state of the whole gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub uptime_seconds: u64,
    /// Which configuration serves: 1 is the one of the start, each accepted reload adds one.
    pub generation: u64,
    /// None before the first reload.
    pub last_reload: Option<LastReload>,
    /// Whether the process is on its way out.
    pub draining: bool,
    /// Why it is not ready; empty when it is.
    #[serde(default)]
    pub not_ready: Vec<String>,
    /// What it has in hand.
    #[serde(default)]
    pub overload: OverloadStatus,
    pub listeners: Vec<ListenerStatus>,
    pub services: Vec<ServiceStatus>,
    /// Issuers whose keys are fetched.
    #[serde(default)]
    pub issuers: Vec<IssuerStatus>,
    /// Stores in which gateways count together.
    #[serde(default)]
    pub stores: Vec<StoreStatus>,
    /// Settings that changed in the files and need a restart, by their path.
    #[serde(default)]
    pub restart_required: Vec<String>,
    /// Includes with `on_error: keep` whose files have mistakes.
    #[serde(default)]
    pub kept: Vec<KeptInclude>,
    /// Work that must not end and did, and was started again.
    #[serde(default)]
    pub restarted: Vec<RestartedStatus>,
}

/// What a gateway has in hand, and what it leaves undone for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverloadStatus {
    /// `normal`, `no_copies`, `no_waiting`, `refusing_some` or `refusing_all`.
    pub state: String,
    /// WebSockets and streams among them.
    pub requests_in_flight: u32,
    pub requests_max: u32,
    /// As it was last sampled; none where the system does not tell.
    pub memory_bytes: Option<u64>,
    pub memory_bytes_max: Option<u64>,
    /// The part of new requests that is refused, rounded up.
    pub refused_percent: u32,
}

/// Work that was started again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartedStatus {
    pub task: String,
    pub restarts: u64,
    /// RFC 3339, UTC.
    pub last_at: String,
    /// Why it ended then.
    pub reason: String,
}

/// An include that goes on with its last good files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptInclude {
    /// Its owner, if it has one, and its first pattern.
    pub name: String,
    /// RFC 3339, UTC.
    pub since: String,
    /// The diagnostics as text.
    pub error: String,
}

/// How the last reload went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastReload {
    /// RFC 3339, UTC.
    pub at: String,
    pub success: bool,
    /// The diagnostics as text, if it was refused.
    pub error: Option<String>,
    pub duration_ms: u64,
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Where the gateway accepts connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    pub name: String,
    pub addresses: Vec<String>,
    pub protocols: Vec<String>,
    /// Connections that are open.
    pub connections: u64,
}

/// A named group of endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub name: String,
    /// Whether so few endpoints are up that requests go to all of them.
    #[serde(default)]
    pub panicking: bool,
    /// Where its breaker stands, `closed`, `open` or `half_open`, if it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<String>,
    /// Requests that wait for a place, where they may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<u32>,
    /// The arms of a split, in the order in which they are asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub split: Vec<ArmStatus>,
    pub endpoints: Vec<EndpointStatus>,
    /// Where endpoints come from that are not written as addresses.
    #[serde(default)]
    pub sources: Vec<SourceStatus>,
}

/// An arm of a split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArmStatus {
    pub service: String,
    /// Its share among the arms without a condition; none of one with a condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// An issuer whose keys are fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerStatus {
    pub name: String,
    /// Keys that tokens are verified with.
    pub keys: u64,
    /// Since they were last fetched; none if they never were.
    pub age_seconds: Option<u64>,
    /// What went wrong last, unless they were fetched since.
    pub error: Option<String>,
}

/// A store in which gateways count together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    pub name: String,
    /// Whether it answers; of a cluster, for all keys.
    pub up: bool,
    /// What decides while it does not: `local_share`, `allow` or `deny`.
    pub on_failure: String,
    /// Gateways that share it, as far as it has said.
    pub gateways: u64,
    /// What went wrong last, unless it has answered since.
    pub error: Option<String>,
}

/// A source of endpoints: a name in DNS, or a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// `orders.internal:8080`, `srv _http._tcp.orders.internal` or `file /path`.
    pub source: String,
    /// How many endpoints it gives.
    pub endpoints: u64,
    /// Addresses that were not taken, with the reason.
    #[serde(default)]
    pub refused: Vec<String>,
    /// Since it last answered; none if it never has.
    pub age_seconds: Option<u64>,
    /// What went wrong last, unless it has answered in full since.
    pub error: Option<String>,
}

/// One address of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    pub address: String,
    pub weight: u32,
    /// Requests that it is working on.
    pub in_flight: u64,
    /// Whether it may be chosen.
    pub up: bool,
    /// `up`, or what speaks against choosing it: `unhealthy`, `ejected`, `open`, or several of them.
    #[serde(default)]
    pub state: String,
    /// Why it was last left out, or taken in again.
    #[serde(default)]
    pub reason: Option<String>,
    /// When that was. RFC 3339, UTC.
    #[serde(default)]
    pub since: Option<String>,
    /// Where its breaker stands, `closed`, `open` or `half_open`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<String>,
    /// Connections to it, busy and idle, where they are bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
}

/// One route, as compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    pub name: String,
    pub group: Option<String>,
    /// What it matches, a line for each alternative.
    pub matches: Vec<String>,
    /// What happens to its requests, such as `service orders` or `redirect 308`.
    pub target: String,
    /// Its policies in the order in which they act, as `scope/key`.
    pub policies: Vec<String>,
}

/// A limit, what it counts and what it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitStatus {
    /// `scope/key`, such as `route.orders/rate_limit.shield`.
    pub policy: String,
    /// `enforce` or `shadow`.
    pub mode: String,
    #[serde(flatten)]
    pub overview: Overview,
    /// Where the key stands that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<KeyStatus>,
}

/// What counts by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    Limits,
    Quotas,
}

impl Counted {
    /// What the paths of it begin with.
    pub fn path(self) -> &'static str {
        match self {
            Counted::Limits => "/v1/limits",
            Counted::Quotas => "/v1/quotas",
        }
    }

    /// What one of them is called.
    pub fn name(self) -> &'static str {
        match self {
            Counted::Limits => "limit",
            Counted::Quotas => "quota",
        }
    }
}

/// A key of a limit that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyQuery {
    /// A value for each fact, with commas between them.
    pub key: Option<String>,
    /// The route, where each counts for itself.
    pub route: Option<String>,
    /// What a key of a quota may use more.
    pub grant: Option<u64>,
}

/// Why there is nothing to be said of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitFailure {
    /// There is no such limit.
    None(String),
    /// It has no such key.
    NoKey(String),
    /// The key can't begin anew at the moment.
    Full,
    /// The store that counts it does not answer.
    Away,
}

/// A reload that was accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// The generation that serves from now on.
    pub generation: u64,
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Settings that changed and need a restart, by their path.
    #[serde(default)]
    pub restart_required: Vec<String>,
}

/// A reload that was refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReloadFailure {
    /// For machines: severity, message, file, line, column, hint of each.
    pub diagnostics: Vec<serde_json::Value>,
    /// For people: the same, with the lines they are about.
    pub text: String,
}
