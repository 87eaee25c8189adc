//! The admin API: health, metrics, status, the effective configuration, reload (design 9, security-requirements 11.7).
//!
//! It listens on a Unix socket (mode 0660), where who may is decided by the file system, and on loopback when asked,
//! where anybody on the machine may read and nobody may change anything. Pingora keeps the sockets; an axum router
//! behind its `ServeHttp` keeps the paths. All that it knows of the process comes through [`Control`].
//!
//! | Path | Answers |
//! |---|---|
//! | `GET /livez` | 200 as long as the process answers |
//! | `GET /readyz` | 200, or 503 with the reasons |
//! | `GET /metrics` | Prometheus' text |
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/config` | the effective configuration, secrets masked |
//! | `GET /v1/routes` | [`RouteStatus`] of every route |
//! | `GET /v1/services/{name}` | [`ServiceStatus`] |
//! | `GET /v1/limits` | [`LimitStatus`] of every limit; with `?key=`, of those that have such a key |
//! | `GET /v1/limits/{policy}` | one of them; with `?key=`, where that key stands |
//! | `DELETE /v1/limits/{policy}?key=` | lets that key begin anew |
//! | `GET /v1/quotas`, `GET /v1/quotas/{policy}`, `DELETE /v1/quotas/{policy}?key=` | the same of quotas |
//! | `POST /v1/quotas/{policy}?key=&grant=` | lets that key use more until its period is over |
//! | `POST /v1/reload` | 200 with a [`ReloadReport`], or 422 with the diagnostics |
//!
//! ```yaml
//! admin: {address: ["unix:/run/northgate/admin.sock", "127.0.0.1:9901"]}
//! ```
//!
//! Errors are `application/problem+json` (RFC 9457) whose `code` begins with `admin.` or `config.`.

mod answer;
#[cfg(test)]
mod fake;
mod guard;
pub mod read_only;
mod router;
pub mod server;
pub mod socket;
pub mod status;

pub use read_only::{Serves, answer};
pub use server::{AdminService, ListenError, service_on_loopback, service_on_socket};
pub use socket::{SocketError, choose_socket, default_sockets, prepare_socket};
pub use status::{
    ArmStatus, Counted, EndpointStatus, IssuerStatus, KeptInclude, KeyQuery, LastReload,
    LimitFailure, LimitStatus, ListenerStatus, OverloadStatus, ReloadFailure, ReloadReport,
    RestartedStatus, RouteStatus, ServiceStatus, SourceStatus, Status, StoreStatus,
};

use crate::supervisor::Supervisor;
use async_trait::async_trait;
use std::sync::Arc;

/// What the admin API may ask of the process.
#[async_trait]
pub trait Control: Send + Sync {
    /// What keeps the API going, as it does everything else.
    fn supervisor(&self) -> &Arc<Supervisor>;

    fn status(&self) -> Status;

    /// Whether requests should come.
    ///
    /// # Errors
    /// Why not, a sentence each: no snapshot, listeners not bound, draining.
    fn ready(&self) -> Result<(), Vec<String>>;

    /// All metrics as Prometheus' text.
    fn metrics_text(&self) -> String;

    /// The configuration with defaults filled in and secrets masked.
    fn effective_config(&self) -> serde_json::Value;

    fn routes(&self) -> Vec<RouteStatus>;

    fn service(&self, name: &str) -> Option<ServiceStatus>;

    /// Every limit, or quota; where a key is asked for, those that have such a key, with where it stands.
    fn limits(&self, counted: Counted, query: &KeyQuery) -> Vec<LimitStatus>;

    /// One limit, with where a key stands if one is asked for.
    ///
    /// # Errors
    /// There is no such limit, or it has no such key.
    fn limit(
        &self,
        counted: Counted,
        policy: &str,
        query: &KeyQuery,
    ) -> Result<LimitStatus, LimitFailure>;

    /// Lets a key begin anew, and says where it stands.
    ///
    /// # Errors
    /// There is no such limit, it has no such key, or it can't be at the moment.
    fn reset_limit(
        &self,
        counted: Counted,
        policy: &str,
        query: &KeyQuery,
    ) -> Result<LimitStatus, LimitFailure>;

    /// Lets a key of a quota use so much more until its period is over, and says where it stands.
    ///
    /// # Errors
    /// There is no such quota, or it has no such key.
    fn grant(
        &self,
        policy: &str,
        query: &KeyQuery,
        amount: u64,
    ) -> Result<LimitStatus, LimitFailure>;

    /// Waits until what has changed of a quota outlives the process; whether it does.
    async fn quota_is_written(&self, policy: &str) -> bool;

    /// Loads, compiles and publishes the configuration anew, and waits until that is done.
    ///
    /// # Errors
    /// What is wrong with the configuration. The old one goes on.
    async fn reload(&self) -> Result<ReloadReport, ReloadFailure>;
}

/// Who is asked: the file system has let the client in, or anybody on the machine may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// The Unix socket: everything.
    Full,
    /// TCP on loopback: nothing that changes anything.
    ReadOnly,
}
