//! One connection, from its accept to its end.

use super::accept::Incoming;
use super::control::OpenConnection;
use super::http1::PARTING;
use super::slack::Slack;
use super::stream::{EdgeStream, Parts};
use super::transport::{Socket, Transport};
use super::workers::Seat;
use super::{
    HandshakeFailure, Limits, ListenerSpec, ProxyProtocolFailure, TurnedAway, http1, http2,
    introduction,
};
use crate::exchange::connection::{
    Attachment, Connection, Drain, Interrupt, Introduced, Peer, Tls,
};
use crate::protocol::proxy_protocol::Parties;
use crate::tls::{HandshakeThreads, TlsListener};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::ALPN;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::tls::ServerTlsStream;
use pingora_http::ResponseHeader;
use rustls::HandshakeKind;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

/// What begins every HTTP/2 connection (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection as the accept loop hands it over.
pub(super) struct Accepted {
    pub incoming: Incoming,
    pub peer: Peer,
    /// Where its listener listens; it may be every address.
    pub local: Option<SocketAddr>,
    pub spec: Arc<ListenerSpec>,
    pub open: OpenConnection,
}

/// Counts a panic, if one ends the task that holds it.
pub(super) struct PanicCount(pub(super) OpenConnection);

impl Drop for PanicCount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.events().panicked(self.0.facts());
        }
    }
}

/// What is spoken on a connection.
enum Spoken {
    Http1,
    Http2,
    /// Neither, or one that the listener does not take.
    Nothing,
}

/// Serves one connection to its end.
pub(super) async fn serve<A>(seat: Seat<A>, accepted: Accepted)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let environment = seat.environment();
    let _panic_count = PanicCount(accepted.open.clone());
    let (spec, open) = (accepted.spec.clone(), accepted.open.clone());
    let Some((mut stream, connection)) =
        Box::pin(establish(accepted, &environment.handshakes)).await
    else {
        return;
    };
    // boxed, so that a waiting connection is not as large as the largest thing it ever does
    match Box::pin(spoken(&mut stream, &spec, &connection, open.drain())).await {
        Spoken::Http1 => {
            let session = http1::Session {
                environment,
                connection: &connection,
                limits: &spec.limits,
                drain: open.drain(),
            };
            session.serve(stream).await;
        }
        Spoken::Http2 => Box::pin(http2::serve(environment, stream, &spec.limits, open)).await,
        Spoken::Nothing => {}
    }
}

/// Joins the socket to this thread's runtime, reads who is introduced and takes the TLS handshake. `None`: it came to
/// nothing, which has been counted.
pub(super) async fn establish(
    accepted: Accepted,
    threads: &HandshakeThreads,
) -> Option<(Box<EdgeStream>, Arc<Connection>)> {
    let Accepted {
        incoming,
        peer,
        local,
        spec,
        open,
    } = accepted;
    let local = match &incoming {
        Incoming::Tcp(socket) if local.is_some_and(|local| local.ip().is_unspecified()) => {
            socket.local_addr().ok().or(local)
        }
        _ => local,
    };
    let socket = join(incoming)
        .inspect_err(|error| tracing::debug!(%error, "an accepted socket cannot be used"))
        .ok()?;
    let introduced = match spec.proxy_protocol {
        true => Some(introduced(&socket, peer, &spec, &open).await?),
        false => None,
    };
    let (transport, secured) = match &spec.tls {
        None => (Transport::Plain(socket), None),
        Some(tls) => match handshake(tls, socket, &spec.limits, threads).await {
            Ok((stream, secured)) => {
                let version = secured.facts.version;
                open.events()
                    .handshake_finished(&spec.facts, version, secured.resumed);
                (Transport::Tls(Box::new(stream)), Some(secured))
            }
            Err(reason) => {
                open.events().handshake_failed(&spec.facts, reason);
                return None;
            }
        },
    };
    let (tls, ssl, alpn) = match secured {
        None => (None, None, None),
        Some(secured) => (
            Some(secured.facts),
            Some(Arc::new(secured.digest)),
            secured.alpn,
        ),
    };
    let port = local.map(|local| local.port());
    let connection = Connection::new(spec.facts.clone(), peer, port, tls).reached_at(local);
    let connection = Arc::new(match introduced {
        Some(introduced) => connection.introduced(introduced),
        None => connection,
    });
    let interrupt = Arc::default();
    let stream = EdgeStream::new(Parts {
        transport,
        proxy: Arc::new(attach(&connection, &open, &interrupt, &spec.limits)?),
        interrupt,
        tls: ssl,
        alpn,
        half_closed: spec.limits.half_closed,
        linger: spec.limits.discard,
        open,
    });
    Some((Box::new(stream), connection))
}

/// What the proxy in front says of its connection, which from here on counts as that of the client that it names. `None`:
/// it is not taken.
async fn introduced(
    socket: &Socket,
    peer: Peer,
    spec: &ListenerSpec,
    open: &OpenConnection,
) -> Option<Introduced> {
    let introduction = match spec.trusted.trusts(&peer) {
        true => introduction::read(socket, spec.limits.head).await,
        false => Err(ProxyProtocolFailure::Untrusted),
    };
    let introduction = introduction
        .inspect_err(|reason| {
            open.events()
                .proxy_protocol_failed(&spec.facts, &peer, *reason)
        })
        .ok()?;
    let Some(Parties {
        source,
        destination,
    }) = introduction?.parties
    else {
        return Some(Introduced::Nobody);
    };
    if !open.count(spec, &Peer::Ip(source)) {
        let source = Peer::Ip(source);
        open.events()
            .turned_away(&spec.facts, &source, TurnedAway::Address);
        return None;
    }
    Some(Introduced::Client {
        source,
        destination,
    })
}

fn join(incoming: Incoming) -> io::Result<Socket> {
    match incoming {
        Incoming::Tcp(socket) => TcpStream::from_std(socket).map(Socket::Tcp),
        Incoming::Unix(socket) => UnixStream::from_std(socket).map(Socket::Unix),
    }
}

/// The facts in the one place of Pingora's digest that carries a value of ours. Its response is never looked at.
fn attach(
    connection: &Arc<Connection>,
    open: &OpenConnection,
    interrupt: &Arc<Interrupt>,
    limits: &Limits,
) -> Option<ProxyDigest> {
    let attachment = Attachment {
        connection: connection.clone(),
        drain: open.drain().clone(),
        broken_off: AtomicBool::new(false),
        interrupt: interrupt.clone(),
        rates: limits.rates(Slack::draw()),
    };
    let response = ResponseHeader::build_no_case(200, Some(0)).ok()?;
    Some(ProxyDigest::new(
        Box::new(response),
        Some(Box::new(attachment)),
    ))
}

/// What a handshake settled.
struct Secured {
    facts: Tls,
    resumed: bool,
    digest: SslDigest,
    alpn: Option<ALPN>,
}

async fn handshake(
    tls: &TlsListener,
    socket: Socket,
    limits: &Limits,
    threads: &HandshakeThreads,
) -> Result<(ServerTlsStream<Socket>, Secured), HandshakeFailure> {
    let stream = timeout(
        Slack::draw().of(limits.handshake),
        tls.accept(socket, threads),
    )
    .await
    .map_err(|_| HandshakeFailure::Timeout)?
    .map_err(|error| {
        tracing::debug!(%error, "a TLS handshake failed");
        failure_of(&error)
    })?;
    let session = stream.get_ref().1;
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    };
    let cipher = session
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str());
    let client = match session.peer_certificates() {
        None => None,
        Some(chain) => {
            let clients = tls.certificates().clients(session.server_name());
            let facts = clients.and_then(|clients| clients.facts(chain));
            // nobody asked for it, or it can't be read, though it was verified
            Some(Box::new(facts.ok_or(HandshakeFailure::Protocol)?))
        }
    };
    let secured = Secured {
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        facts: Tls {
            client,
            server_name: session
                .server_name()
                .map(|name| name.to_ascii_lowercase().into_boxed_str()),
            version,
        },
        digest: SslDigest::new(cipher.unwrap_or("unknown"), version, None, None, Vec::new()),
        alpn: match session.alpn_protocol() {
            Some(b"h2") => Some(ALPN::H2),
            Some(_) => Some(ALPN::H1),
            None => None,
        },
    };
    Ok((stream, secured))
}

fn failure_of(error: &io::Error) -> HandshakeFailure {
    use rustls::Error;
    let Some(error) = error
        .get_ref()
        .and_then(|source| source.downcast_ref::<Error>())
    else {
        return HandshakeFailure::Closed;
    };
    match error {
        Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            HandshakeFailure::NotTls
        }
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => {
            HandshakeFailure::NothingInCommon
        }
        Error::InvalidCertificate(_)
        | Error::InvalidCertRevocationList(_)
        | Error::NoCertificatesPresented => HandshakeFailure::ClientCertificate,
        Error::AlertReceived(_) => HandshakeFailure::Alert,
        _ => HandshakeFailure::Protocol,
    }
}

/// What the client speaks: by ALPN under TLS, by its first bytes where the listener takes HTTP/2 without.
async fn spoken(
    stream: &mut EdgeStream,
    spec: &ListenerSpec,
    connection: &Connection,
    drain: &Drain,
) -> Spoken {
    let protocols = spec.protocols;
    let http1 = match protocols.h1 {
        true => Spoken::Http1,
        false => Spoken::Nothing,
    };
    if connection.tls.is_some() {
        let is_h2 = matches!(
            pingora_core::protocols::Ssl::selected_alpn_proto(stream),
            Some(ALPN::H2)
        );
        return match is_h2 && protocols.h2 {
            true => Spoken::Http2,
            false => http1,
        };
    }
    if !protocols.h2c {
        return http1;
    }
    match begins_with_preface(stream, &spec.limits, drain).await {
        Some(true) => Spoken::Http2,
        Some(false) => http1,
        None => Spoken::Nothing,
    }
}

/// Whether the first bytes are the preface of HTTP/2. What was read stays held. `None`: the client went, or was slow.
async fn begins_with_preface(
    stream: &mut EdgeStream,
    limits: &Limits,
    drain: &Drain,
) -> Option<bool> {
    let slack = Slack::draw();
    let mut deadline = Instant::now() + slack.of(limits.first_byte);
    let shortages = drain.shortages();
    let mut leaving = pin!(drain.notified());
    leaving.as_mut().enable();
    let mut parts = drain.ends(shortages);
    if parts {
        deadline = Instant::now() + PARTING;
    }
    loop {
        let held = stream.held();
        let common = held.len().min(PREFACE.len());
        if held.get(..common) != PREFACE.get(..common) {
            return Some(false);
        }
        if common == PREFACE.len() {
            return Some(true);
        }
        let began = !held.is_empty();
        let read = tokio::select! {
            read = timeout_at(deadline, stream.fill()) => read.ok()?.ok()?,
            () = &mut leaving, if !parts => {
                parts = true;
                deadline = deadline.min(Instant::now() + PARTING);
                continue;
            }
        };
        match (read, began) {
            // HTTP/1 answers for a head that breaks off
            (0, true) => return Some(false),
            (0, false) => return None,
            (_, false) if !parts => {
                deadline = Instant::now() + slack.of(limits.head);
            }
            (_, _) => {}
        }
    }
}
