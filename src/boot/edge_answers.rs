//! What the edge refuses and notices: told to the client, the metrics and the log like anything else.

use crate::edge::{EdgeEvents, HandshakeFailure, ProxyProtocolFailure, Refuse, TurnedAway};
use crate::exchange::Scheme;
use crate::exchange::connection::{Connection, ListenerFacts, Peer};
use crate::observe::access_log::Record;
use crate::observe::metrics::{self, ListenerMetrics, Metrics};
use crate::problem::{Kind, Problem};
use crate::proxy::{intake, respond};
use crate::snapshot::Snapshots;
use http::{HeaderValue, Method, Version};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// See the module.
pub struct Answers {
    snapshots: Arc<Snapshots>,
    metrics: Arc<Metrics>,
    /// Of connections that are turned away from a listener, from one client address, and in all.
    told: [Seldom; 3],
    /// Of descriptors or memory that are short.
    told_pauses: Seldom,
    /// Of those that do not begin with the PROXY protocol.
    told_introductions: Seldom,
}

/// Lets something be said once in a while.
#[derive(Default)]
struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    const PAUSE: Duration = Duration::from_secs(10);

    fn may_tell(&self, now: Instant) -> bool {
        let mut last = self.0.lock();
        let may = last.is_none_or(|last| now.saturating_duration_since(last) >= Self::PAUSE);
        if may {
            *last = Some(now);
        }
        may
    }
}

impl Answers {
    pub fn new(snapshots: Arc<Snapshots>, metrics: Arc<Metrics>) -> Self {
        Self {
            snapshots,
            metrics,
            told: Default::default(),
            told_pauses: Seldom::default(),
            told_introductions: Seldom::default(),
        }
    }

    fn record(
        &self,
        connection: &Connection,
        version: Version,
        head: &[u8],
        problem: &Problem,
        id: &HeaderValue,
        length: usize,
    ) {
        let (method, _) = first_line(head);
        self.metrics.refused(problem.kind);
        let status = Some(problem.kind.status_code());
        self.metrics
            .no_route()
            .finished(&method, status, Duration::ZERO, Duration::ZERO);
        self.write_line(connection, version, head, problem, id, length);
    }

    fn write_line(
        &self,
        connection: &Connection,
        version: Version,
        head: &[u8],
        problem: &Problem,
        id: &HeaderValue,
        length: usize,
    ) {
        let snapshot = self.snapshots.current();
        let Some(log) = snapshot.unrouted.access_log.as_deref() else {
            return;
        };
        let (method, target) = first_line(head);
        let scheme = if connection.tls.is_some() {
            Scheme::Https
        } else {
            Scheme::Http
        };
        log.write(&Record {
            time: SystemTime::now(),
            request_id: id.as_bytes(),
            client_address: connection.peer.ip(),
            peer: connection.peer,
            introduced_by: connection.introduced_by,
            listener: &connection.listener.name,
            method: &method,
            scheme,
            host: "",
            path: target,
            query: None,
            version,
            status: Some(problem.kind.status_code()),
            route: None,
            identity: None,
            service: None,
            endpoint: None,
            tries: 0,
            request_bytes: 0,
            response_bytes: length as u64,
            duration: Duration::ZERO,
            own: None,
            upstream: None,
            user_agent: None,
            referer: None,
            problem: Some(problem.kind),
            reason: problem.source.as_deref().or(problem.detail.as_deref()),
            store_failure: None,
            trace_id: None,
            tls_version: connection.tls.as_ref().map(|tls| tls.version),
            server_name: connection
                .tls
                .as_ref()
                .and_then(|tls| tls.server_name.as_deref()),
        });
    }
}

/// What a malformed head says of its method and target, for the log only. Without a method it is `-`.
fn first_line(head: &[u8]) -> (Method, &[u8]) {
    let line = head
        .split(|byte| matches!(byte, b'\r' | b'\n'))
        .next()
        .unwrap_or_default();
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let method = words.next().and_then(|word| Method::from_bytes(word).ok());
    let target = words.next().unwrap_or_default();
    let path = target
        .split(|byte| *byte == b'?')
        .next()
        .unwrap_or_default();
    let unknown = || Method::from_bytes(b"-").unwrap_or_default();
    (method.unwrap_or_else(unknown), path)
}

impl Refuse for Answers {
    fn refusal(&self, connection: &Connection, head: &[u8], problem: Problem) -> Vec<u8> {
        let id = intake::new_request_id(SystemTime::now());
        let (answer, length) = respond::raw(&problem, &id);
        self.record(connection, Version::HTTP_11, head, &problem, &id, length);
        answer
    }

    fn rejected(&self, connection: &Connection) {
        let id = intake::new_request_id(SystemTime::now());
        let why = "its target, its authority or its Content-Length; Pingora refused it";
        let problem = Problem::new(Kind::RequestHeader).source(why);
        self.record(connection, Version::HTTP_2, b"", &problem, &id, 0);
    }

    fn sent_away(&self, connection: &Connection, problem: Problem) {
        let id = intake::new_request_id(SystemTime::now());
        self.metrics.refused(problem.kind);
        self.write_line(connection, Version::HTTP_2, b"", &problem, &id, 0);
    }
}

fn introduction_failure(reason: ProxyProtocolFailure) -> metrics::ProxyProtocolFailure {
    match reason {
        ProxyProtocolFailure::Untrusted => metrics::ProxyProtocolFailure::Untrusted,
        ProxyProtocolFailure::Timeout => metrics::ProxyProtocolFailure::Timeout,
        ProxyProtocolFailure::Closed => metrics::ProxyProtocolFailure::Closed,
        ProxyProtocolFailure::Missing => metrics::ProxyProtocolFailure::Missing,
        ProxyProtocolFailure::Malformed => metrics::ProxyProtocolFailure::Malformed,
        ProxyProtocolFailure::TooLong => metrics::ProxyProtocolFailure::TooLong,
        ProxyProtocolFailure::Checksum => metrics::ProxyProtocolFailure::Checksum,
    }
}

/// The series of a listener. It is looked up once for each of its configurations.
fn series<'a>(metrics: &Metrics, listener: &'a ListenerFacts) -> Option<&'a ListenerMetrics> {
    listener.observed(|| metrics.listener(&listener.name))
}

impl EdgeEvents for Answers {
    fn opened(&self, listener: &ListenerFacts) {
        if let Some(series) = series(&self.metrics, listener) {
            series.opened();
        }
    }

    fn closed(&self, listener: &ListenerFacts) {
        if let Some(series) = series(&self.metrics, listener) {
            series.closed();
        }
    }

    fn turned_away(&self, listener: &ListenerFacts, peer: &Peer, reason: TurnedAway) {
        let [of_listener, of_address, of_all] = &self.told;
        let (reason, told) = match reason {
            TurnedAway::Listener => (metrics::TurnedAway::Listener, of_listener),
            TurnedAway::Address => (metrics::TurnedAway::Address, of_address),
            TurnedAway::Total => (metrics::TurnedAway::Total, of_all),
        };
        if let Some(series) = series(&self.metrics, listener) {
            series.turned_away(reason);
        }
        if told.may_tell(Instant::now()) {
            let (listener, reason) = (&listener.name, reason.as_str());
            tracing::warn!(%listener, reason, %peer, "connections are turned away: there are as many as there may be");
        }
    }

    fn handshake_finished(&self, _: &ListenerFacts, version: &'static str, resumed: bool) {
        self.metrics.handshake_finished(version, resumed);
    }

    fn handshake_failed(&self, _: &ListenerFacts, reason: HandshakeFailure) {
        self.metrics.handshake_failed(match reason {
            HandshakeFailure::Timeout => metrics::HandshakeFailure::Timeout,
            HandshakeFailure::Closed => metrics::HandshakeFailure::Closed,
            HandshakeFailure::NotTls => metrics::HandshakeFailure::NotTls,
            HandshakeFailure::ClientCertificate => metrics::HandshakeFailure::ClientCertificate,
            HandshakeFailure::Protocol => metrics::HandshakeFailure::Protocol,
            HandshakeFailure::NothingInCommon => metrics::HandshakeFailure::NothingInCommon,
            HandshakeFailure::Alert => metrics::HandshakeFailure::Alert,
        });
    }

    fn proxy_protocol_failed(
        &self,
        listener: &ListenerFacts,
        peer: &Peer,
        reason: ProxyProtocolFailure,
    ) {
        self.metrics
            .proxy_protocol_failed(introduction_failure(reason));
        // a balancer that looks whether somebody listens may stop anywhere
        let goes = matches!(
            reason,
            ProxyProtocolFailure::Closed | ProxyProtocolFailure::Timeout
        );
        if !goes && self.told_introductions.may_tell(Instant::now()) {
            let (listener, reason) = (&listener.name, reason.as_str());
            tracing::warn!(%listener, %peer, reason, "connections are closed: no header of the PROXY protocol that is taken");
        }
    }

    fn panicked(&self, _: &ListenerFacts) {
        self.metrics.panicked();
    }

    fn accept_paused(&self, listener: &ListenerFacts) {
        if let Some(series) = series(&self.metrics, listener) {
            series.accept_paused();
        }
        if self.told_pauses.may_tell(Instant::now()) {
            tracing::error!(listener = %listener.name, "no connection can be accepted for now: out of descriptors or memory");
        }
    }
}
