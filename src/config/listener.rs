//! How many connections a listener takes, how long it waits for them, and what its sockets are told.

use super::Spanned;
use crate::units::{ByteSize, Count, Duration, OrOff, Toggle};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The bounds of a listener's connections. Each has a default, and none can be switched off.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerLimits {
    /// Open connections; more are closed as they come. 10,000 by default.
    #[serde(default)]
    pub connections: Option<Spanned<Count>>,
    /// Open connections of one client address, an IPv6 address by its /64; more are closed as they come. 1,000 by
    /// default. Trusted proxies and this machine itself are exempt.
    #[serde(default)]
    pub connections_per_address: Option<Spanned<Count>>,
    /// Requests on one connection; the last answer closes it. 10,000 by default.
    #[serde(default)]
    pub requests: Option<Spanned<Count>>,
    /// Requests at a time on one HTTP/2 connection: 100 by default.
    #[serde(default)]
    pub streams: Option<Spanned<Count>>,
    /// The TLS handshake as a whole: 10 s by default.
    #[serde(default)]
    pub handshake: Option<Spanned<Duration>>,
    /// From the connection, or its handshake, to the first byte of the first request: 10 s by default.
    #[serde(default)]
    pub first_byte: Option<Spanned<Duration>>,
    /// From the first byte of a request's head to its last, however it trickles: 10 s by default.
    #[serde(default)]
    pub head: Option<Spanned<Duration>>,
    /// Between two requests, with HTTP/2 without any: 75 s by default. Longer than balancers in front of the gateway
    /// keep connections, or they send into one that closes.
    #[serde(default)]
    pub idle: Option<Spanned<Duration>>,
    /// Between two reads of a request's content: 30 s by default.
    #[serde(default)]
    pub read: Option<Spanned<Duration>>,
    /// For a client that takes nothing of an answer: 30 s by default.
    #[serde(default)]
    pub write: Option<Spanned<Duration>>,
    /// Bytes that the content of a request has to come with for each second in which it is waited for: 240B by default.
    #[serde(default)]
    pub read_rate: Option<Spanned<ByteSize>>,
    /// Bytes of an answer that a client has to take for each second in which it is waited for: 1KiB by default. Neither
    /// rate holds for event streams, gRPC and WebSockets.
    #[serde(default)]
    pub write_rate: Option<Spanned<ByteSize>>,
    /// The whole head of a request: 32KiB by default.
    #[serde(default)]
    pub head_size: Option<Spanned<ByteSize>>,
    /// One header field: 16KiB by default.
    #[serde(default)]
    pub field_size: Option<Spanned<ByteSize>>,
    /// Header fields of one request: 100 by default.
    #[serde(default)]
    pub fields: Option<Spanned<Count>>,
    /// The target of a request: 8KiB by default.
    #[serde(default)]
    pub target_size: Option<Spanned<ByteSize>>,
}

/// What the sockets of a listener are told; a reload changes it for new connections.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerSocket {
    /// Connections that wait to be accepted; as many as the system allows (`net.core.somaxconn`) by default.
    #[serde(default)]
    pub backlog: Option<Spanned<Count>>,
    /// The silence after which the kernel asks whether a client is still there: 60 s by default.
    #[serde(default)]
    pub keepalive: Option<Spanned<OrOff<Duration>>>,
    /// How long what was sent may stay unacknowledged before the kernel gives the connection up (`TCP_USER_TIMEOUT`): 60 s
    /// by default; `off` leaves it to the system, which takes about fifteen minutes.
    #[serde(default)]
    pub user_timeout: Option<Spanned<OrOff<Duration>>>,
    /// Lets another process of the same user listen at the same address (`SO_REUSEPORT`). Off by default.
    #[serde(default)]
    pub reuse_port: Option<Toggle>,
}
