//! Where connections come in: our own Pingora service in place of the stock listener.
//!
//! On the request path: first. A connection is accepted, introduced by the proxy in front where there is one (PROXY
//! protocol), takes its TLS handshake, and is served as HTTP/1 or HTTP/2,
//! all in a task of its own; each exchange goes to the application, which is Pingora's `HttpProxy`. What the stock
//! listener cannot do is the reason for this folder:
//!
//! - listeners are added, changed and removed while the process runs ([`EdgeControl`]);
//! - a connection that waits for its next request holds neither session nor buffers, about 2 KiB instead of 88;
//! - every HTTP/1 head is checked raw, as it came from the wire, and under one deadline ([`HeadScanner`]); so is the
//!   chunked coding; what is ambiguous never reaches a parser (RFC 9112 §2.2, §6, §7.1);
//! - the facts of a connection reach the request path ([`crate::exchange::connection::connection_of`]).
//!
//! What always holds: no head is parsed that was not checked; no request is read beyond its end; a panic ends the
//! connection that it happened on, and is counted; every wait has a deadline ([`Limits`]); a drain stops accepting,
//! ends idle connections, and lets every exchange finish.
//!
//! ```yaml
//! listeners:
//!   public: {address: "[::]:8080"}
//!   local: {address: "unix:/run/northgate/local.sock"}
//! ```

mod accept;
mod chunks;
mod connection;
mod control;
mod frames;
mod head;
mod http1;
mod http2;
mod introduction;
mod listener;
mod permits;
mod proxy_protocol;
mod slack;
mod stall;
mod stream;
#[cfg(test)]
mod tests;
mod transport;
mod turns;
mod workers;

pub use crate::exchange::head_limits::HeadLimits;
pub use chunks::Chunks;
pub use control::{EdgeControl, ListenerStatus, Prepared};
pub use frames::{Breach, Frames, Verdict};
pub use head::{Fault, Framing, Head, HeadScanner};
pub use listener::{Address, BindError, ListenerSpec, Protocols, SocketOptions};
pub use permits::TurnedAway;
pub use proxy_protocol::{Introduction, ProxyProtocolFailure, parse as parse_proxy_protocol};

use crate::exchange::connection::{Connection, ListenerFacts, Peer};
use crate::exchange::pace::{Least, Rates};
use crate::problem::Problem;
use crate::supervisor::Supervisor;
use crate::tls::HandshakeThreads;
use async_trait::async_trait;
use pingora_core::apps::HttpServerApp;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service;
use slack::Slack;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use workers::{Threads, Workers};

/// The bounds of one listener's connections. Each has a default, none can be unset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; more are closed at accept.
    pub connections: usize,
    /// Those of one client address; more are closed as they come.
    pub connections_per_address: usize,
    /// The TLS handshake.
    pub handshake: Duration,
    /// From the accept, or the end of the handshake, to the first byte of the first request.
    pub first_byte: Duration,
    /// From the first byte of a head to its last, however it trickles.
    pub head: Duration,
    /// Between two exchanges on HTTP/1, and without streams on HTTP/2. Longer than the balancers in front wait, or they
    /// send into a closing connection.
    pub idle: Duration,
    /// Between two reads of a request's content.
    pub read: Duration,
    /// Bytes a second that the content of a request must come with, over each [`Limits::rate_period`] in which it is
    /// waited for.
    pub read_rate: u32,
    pub rate_period: Duration,
    /// A write that makes no progress, and the period over which an answer must be taken at the rate of
    /// [`Limits::write_rate`] where the client is waited for.
    pub write: Duration,
    /// Bytes a second.
    pub write_rate: u32,
    /// For the answer to a client that sends nothing more, or has gone.
    pub half_closed: Duration,
    /// For content that nobody wants any more, and for a closing connection whose client is still sending.
    pub discard: Duration,
    /// Exchanges on one connection; the last answer closes it.
    pub exchanges: u32,
    /// Streams at a time on one HTTP/2 connection.
    pub streams: u32,
    /// The sizes of an HTTP/1 head. HTTP/2 takes the size of the whole from it.
    pub request_head: HeadLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 1_000,
            handshake: Duration::from_secs(10),
            first_byte: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            read: Duration::from_secs(30),
            read_rate: 240,
            rate_period: Duration::from_secs(10),
            write: Duration::from_secs(30),
            write_rate: 1024,
            half_closed: Duration::from_secs(2),
            discard: Duration::from_secs(1),
            exchanges: 10_000,
            streams: 100,
            request_head: HeadLimits::default(),
        }
    }
}

impl Limits {
    fn rates(&self, slack: Slack) -> Rates {
        Rates {
            read: Least {
                rate: self.read_rate,
                period: slack.of(self.rate_period),
            },
            write: Least {
                rate: self.write_rate,
                period: slack.of(self.write),
            },
            silence: slack.of(self.read),
        }
    }
}

/// Why a connection got no further than its handshake. The words are metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeFailure {
    /// It took too long.
    Timeout,
    /// The client went away.
    Closed,
    /// The client does not speak TLS.
    NotTls,
    /// No version, cipher suite, group, signature scheme or application protocol in common.
    NothingInCommon,
    /// The client said that it does not go on: it does not trust the certificate, for example.
    Alert,
    /// The client's certificate is not accepted, or one is required and there is none.
    ClientCertificate,
    /// Anything else that breaks the protocol.
    Protocol,
}

impl HandshakeFailure {
    pub fn as_str(self) -> &'static str {
        match self {
            HandshakeFailure::Timeout => "timeout",
            HandshakeFailure::Closed => "closed",
            HandshakeFailure::NotTls => "not_tls",
            HandshakeFailure::NothingInCommon => "nothing_in_common",
            HandshakeFailure::Alert => "alert",
            HandshakeFailure::ClientCertificate => "client_certificate",
            HandshakeFailure::Protocol => "protocol",
        }
    }
}

/// Takes note of what happens at the edge. Called on the connection's own task: an implementation counts, and never
/// waits.
pub trait EdgeEvents: Send + Sync + 'static {
    /// A connection was accepted.
    fn opened(&self, listener: &ListenerFacts);
    /// A connection has ended, for whatever reason; follows each `opened`.
    fn closed(&self, listener: &ListenerFacts);
    /// A connection was closed as it came, because there are as many as allowed.
    fn turned_away(&self, listener: &ListenerFacts, peer: &Peer, reason: TurnedAway);
    /// A TLS handshake succeeded, with this version, and by resuming a session or not.
    fn handshake_finished(&self, listener: &ListenerFacts, version: &'static str, resumed: bool);
    /// A connection that has to begin with the PROXY protocol's header was closed without one that is taken.
    fn proxy_protocol_failed(
        &self,
        listener: &ListenerFacts,
        peer: &Peer,
        reason: ProxyProtocolFailure,
    );
    /// A TLS handshake failed.
    fn handshake_failed(&self, listener: &ListenerFacts, reason: HandshakeFailure);
    /// A defect of ours ended a connection, or one exchange on HTTP/2.
    fn panicked(&self, listener: &ListenerFacts);
    /// Nothing can be accepted for a while: the process or the system has no file descriptor or memory left.
    fn accept_paused(&self, listener: &ListenerFacts);
}

/// Answers what the edge refuses by itself: heads that never become a request.
pub trait Refuse: Send + Sync + 'static {
    /// The whole HTTP/1 answer, from its status line on, saying `Connection: close`. `head` is what was read of the
    /// request, and is neither complete nor well formed. This is the one place where such a refusal is counted and
    /// logged.
    fn refusal(&self, connection: &Connection, head: &[u8], problem: Problem) -> Vec<u8>;

    /// Counts and logs an HTTP/2 request that Pingora refused before it became one, with a 400 or a reset. What it was,
    /// nobody says.
    fn rejected(&self, connection: &Connection);

    /// Counts and logs that a client of HTTP/2 is sent away for what it did to its connection.
    fn sent_away(&self, connection: &Connection, problem: Problem);
}

/// What every connection needs of the service.
struct Environment<A> {
    app: Arc<A>,
    refuse: Arc<dyn Refuse>,
    shutdown: ShutdownWatch,
    handshakes: Arc<HandshakeThreads>,
}

/// The service: runs the listeners of its [`EdgeControl`] until Pingora says to stop, then drains them.
pub struct Edge<A> {
    apps: Vec<Arc<A>>,
    refuse: Arc<dyn Refuse>,
    events: Arc<dyn EdgeEvents>,
    control: EdgeControl,
    threads: Threads,
    handshakes: Arc<HandshakeThreads>,
    supervisor: Arc<Supervisor>,
}

impl<A> Edge<A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    /// Serves on as many threads as there are `apps`, each with its own. It has no listeners yet: those come through
    /// the control, before the server runs or at any time later.
    ///
    /// # Errors
    /// If the threads can't be started.
    pub fn new(
        apps: Vec<Arc<A>>,
        refuse: Arc<dyn Refuse>,
        events: Arc<dyn EdgeEvents>,
        supervisor: Arc<Supervisor>,
    ) -> io::Result<(Self, EdgeControl)> {
        let control = EdgeControl::new();
        let edge = Self {
            threads: Threads::start(apps.len(), &supervisor)?,
            handshakes: Arc::new(HandshakeThreads::new(apps.len())),
            apps,
            refuse,
            events,
            control: control.clone(),
            supervisor,
        };
        Ok((edge, control))
    }

    /// What connections of one thread need.
    fn environment(&self, app: &Arc<A>, shutdown: &ShutdownWatch) -> Environment<A> {
        Environment {
            app: app.clone(),
            refuse: self.refuse.clone(),
            shutdown: shutdown.clone(),
            handshakes: self.handshakes.clone(),
        }
    }
}

#[async_trait]
impl<A> Service for Edge<A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    async fn start_service(&mut self, _: Option<ListenFds>, mut shutdown: ShutdownWatch, _: usize) {
        let handles = self.threads.handles().iter().cloned();
        let environments = self.apps.iter().map(|app| self.environment(app, &shutdown));
        let workers = Arc::new(Workers::new(handles.zip(environments)));
        let (events, supervisor) = (self.events.clone(), self.supervisor.clone());
        self.control.start(Box::new(move |acceptor, accepting| {
            if let Some(home) = workers.home() {
                let (supervisor, workers) = (supervisor.clone(), workers.clone());
                let accept = accept::keep(supervisor, workers, events.clone(), acceptor, accepting);
                home.runtime.spawn(accept);
            }
        }));
        // an error means that the server is gone, which is a reason to stop too
        let _ = shutdown.wait_for(|stopping| *stopping).await;
        self.control.drain();
        self.control.drained().await;
        // last, because Pingora then drops what it is about to read
        for app in &self.apps {
            app.http_cleanup().await;
        }
    }

    fn name(&self) -> &str {
        "edge"
    }

    /// Of Pingora's, which only wait for the end here.
    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}
