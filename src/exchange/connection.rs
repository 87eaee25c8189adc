//! What is known of a connection before its first request.

use super::pace::Rates;
use crate::identity::certificate::ClientCertificate;
use crate::problem::Kind;
use futures::task::AtomicWaker;
use http::HeaderValue;
use pingora_core::Error;
use pingora_core::protocols::Digest;
use std::any::Any;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// What every connection of one listener shares.
#[derive(Debug)]
pub struct ListenerFacts {
    /// The name in the configuration.
    pub name: Arc<str>,
    /// Whether it terminates TLS.
    pub tls: bool,
    /// What an observer keeps of the listener, so that it does not look it up for each connection.
    observed: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl ListenerFacts {
    pub fn new(name: Arc<str>, tls: bool) -> Self {
        Self {
            name,
            tls,
            observed: OnceLock::new(),
        }
    }

    /// What the observer of this type keeps; made the first time. There is one observer.
    pub fn observed<T: Any + Send + Sync>(&self, make: impl FnOnce() -> Arc<T>) -> Option<&T> {
        let kept = self.observed.get_or_init(|| make());
        (**kept).downcast_ref()
    }
}

/// Who is at the other end of the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Ip(SocketAddr),
    /// A Unix socket has no address.
    Unix,
}

impl Peer {
    /// The address, with an IPv4 address mapped into IPv6 taken out of it.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Peer::Ip(address) => Some(address.ip().to_canonical()),
            Peer::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Ip(address) => {
                SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(f)
            }
            Peer::Unix => f.write_str("unix"),
        }
    }
}

/// What a proxy has said of a connection that it made, by the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Introduced {
    /// It is a client's, who has connected to `destination`.
    Client {
        source: SocketAddr,
        destination: SocketAddr,
    },
    /// It is nobody's who has a name: the proxy's own, or of somebody whose address it does not tell.
    Nobody,
}

/// One accepted connection. The edge makes it; the request path finds it behind the stream.
#[derive(Debug)]
pub struct Connection {
    pub listener: Arc<ListenerFacts>,
    /// Who is at the other end, or whom the proxy there has introduced by the PROXY protocol.
    pub peer: Peer,
    /// The port of ours that was connected to, by whoever is at the other end of the socket; none on a Unix socket.
    pub local_port: Option<u16>,
    pub tls: Option<Tls>,
    /// The address that was connected to: the proxy's, where it has introduced the peer. None on a Unix socket, and where
    /// nobody has looked.
    pub local: Option<SocketAddr>,
    /// Who has introduced the peer by the PROXY protocol.
    pub introduced_by: Option<Peer>,
    /// There was an introduction, and it named nobody: the peer may speak for somebody who must not be believed.
    pub is_nameless: bool,
    /// The peer's address, as every request of the connection sends it on.
    peer_value: Option<HeaderValue>,
}

impl Connection {
    pub fn new(
        listener: Arc<ListenerFacts>,
        peer: Peer,
        local_port: Option<u16>,
        tls: Option<Tls>,
    ) -> Self {
        Self {
            listener,
            peer,
            local_port,
            tls,
            local: None,
            introduced_by: None,
            is_nameless: false,
            peer_value: value_of(&peer),
        }
    }

    /// The same, made to this address.
    pub fn reached_at(self, local: Option<SocketAddr>) -> Self {
        Self { local, ..self }
    }

    /// The same, as its peer has introduced it.
    pub fn introduced(self, introduced: Introduced) -> Self {
        match introduced {
            Introduced::Nobody => Self {
                introduced_by: Some(self.peer),
                is_nameless: true,
                ..self
            },
            Introduced::Client {
                source,
                destination,
            } => Self {
                peer_value: value_of(&Peer::Ip(source)),
                introduced_by: Some(self.peer),
                peer: Peer::Ip(source),
                local: Some(destination),
                ..self
            },
        }
    }

    /// The peer's address as the value of a field; none on a Unix socket.
    pub fn peer_value(&self) -> Option<&HeaderValue> {
        self.peer_value.as_ref()
    }
}

/// The address of a peer as the value of a field.
fn value_of(peer: &Peer) -> Option<HeaderValue> {
    // digits, dots and colons are a valid value
    let address = peer.ip()?.to_string();
    HeaderValue::try_from(address).ok()
}

/// What the TLS handshake settled.
#[derive(Debug)]
pub struct Tls {
    /// The server name that the client asked for (RFC 6066 §3), lower-cased.
    pub server_name: Option<Box<str>>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// What the client showed, where it was asked to.
    pub client: Option<Box<ClientCertificate>>,
}

/// Tells the connections of one listener that it is leaving: answers then close HTTP/1 connections, HTTP/2 ones are
/// told to go away, and idle ones end. Once begun it stays so.
///
/// The same is done to connections while memory is short, though the listener stays.
#[derive(Debug, Default)]
pub struct Drain {
    begun: AtomicBool,
    /// Memory is short.
    short: AtomicBool,
    /// How often it has been.
    shortages: AtomicU32,
    changed: Notify,
}

impl Drain {
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Says whether memory is short: meanwhile no connection is kept for another exchange.
    pub fn set_short(&self, short: bool) {
        if self.short.swap(short, Ordering::AcqRel) || !short {
            return;
        }
        self.shortages.fetch_add(1, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Whether memory is short.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Acquire)
    }

    /// How often memory has been short.
    pub fn shortages(&self) -> u32 {
        self.shortages.load(Ordering::Acquire)
    }

    /// Whether no connection is to be kept.
    pub fn keeps_nothing(&self) -> bool {
        self.has_begun() || self.is_short()
    }

    /// Whether a connection that has seen so many shortages is to end: it may have been told of one that is over by now.
    pub fn ends(&self, shortages: u32) -> bool {
        self.keeps_nothing() || self.shortages() != shortages
    }

    /// Resolves at [`Drain::begin`], and when memory becomes short. Its first poll registers it: a caller that looks at
    /// [`Drain::ends`] after that misses nothing.
    pub fn notified(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

/// What the request path tells whoever waits for a client: mostly that the exchange is over for another reason. Over HTTP/2 the connection to an endpoint
/// carries the exchanges of others too, so it is not there that one of them could be ended.
#[derive(Debug, Default)]
pub struct Interrupt {
    armed: AtomicBool,
    raised: AtomicBool,
    /// The client takes nothing more for now.
    blocked: AtomicBool,
    /// The client need not keep the rates of its listener.
    unhurried: AtomicBool,
    /// The exchange stands in line with others.
    in_line: AtomicBool,
    waker: AtomicWaker,
}

impl Interrupt {
    /// Whoever waits for the client listens from now on.
    pub fn arm(&self) {
        self.raised.store(false, Ordering::Release);
        self.armed.store(true, Ordering::Release);
    }

    /// Nobody is to be interrupted for now, and nothing that was raised counts any more.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::Release);
        self.raised.store(false, Ordering::Release);
    }

    pub fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Acquire)
    }

    /// Ends the wait. Nothing happens where nobody listens.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Says whether a write to the client waits for it.
    pub fn set_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Release);
    }

    /// Whether a write to the client waits for it: meanwhile nobody listens to the endpoint.
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire)
    }

    /// Lets the client of this exchange be as slow as it is: of an event stream, a call of gRPC, or a tunnel (design 3.7).
    pub fn take_your_time(&self) {
        self.unhurried.store(true, Ordering::Relaxed);
    }

    /// Says whether the exchange stands in line with others. A client that sends nothing more may wait for its answer, or
    /// have gone; there it makes room at once.
    pub fn set_in_line(&self, in_line: bool) {
        self.in_line.store(in_line, Ordering::Relaxed);
    }

    pub fn is_in_line(&self) -> bool {
        self.in_line.load(Ordering::Relaxed)
    }

    /// Another exchange begins.
    pub fn hurry(&self) {
        self.unhurried.store(false, Ordering::Relaxed);
    }

    /// Whether the client must keep the rates of its listener.
    pub fn is_hurried(&self) -> bool {
        !self.unhurried.load(Ordering::Relaxed)
    }

    /// Resolves once, when it is raised.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        match self.raised.swap(false, Ordering::AcqRel) {
            true => {
                self.armed.store(false, Ordering::Release);
                Poll::Ready(())
            }
            false => Poll::Pending,
        }
    }
}

/// What the edge attaches to every stream, as the user data of its `ProxyDigest`: the one place of Pingora's `Digest`
/// that carries a value of ours to HTTP/1 and HTTP/2 sessions alike.
#[derive(Debug)]
pub struct Attachment {
    pub connection: Arc<Connection>,
    pub drain: Arc<Drain>,
    /// Set where an end of the connection would pass for the end of an answer: it is reset instead.
    pub broken_off: AtomicBool,
    /// Ends the wait for the client of the HTTP/1 exchange in hand.
    pub interrupt: Arc<Interrupt>,
    /// How slow the client may be.
    pub rates: Rates,
}

/// The connection behind a session's digest; none if its stream is not the edge's.
pub fn connection_of(digest: &Digest) -> Option<&Arc<Connection>> {
    attachment_of(digest).map(|attachment| &attachment.connection)
}

/// Whether the session's listener is leaving, or memory is short, so that the answer must be the last on its HTTP/1 connection.
pub fn is_draining(digest: &Digest) -> bool {
    attachment_of(digest).is_some_and(|attachment| attachment.drain.keeps_nothing())
}

/// Has the connection reset instead of closed, for an answer that only the connection's end delimits and that is not
/// complete (RFC 9112 §8).
pub fn break_off(digest: &Digest) {
    if let Some(attachment) = attachment_of(digest) {
        attachment.broken_off.store(true, Ordering::Release);
    }
}

/// What ends the wait for the client of an HTTP/1 exchange.
pub fn interrupt_of(digest: &Digest) -> Option<&Arc<Interrupt>> {
    attachment_of(digest).map(|attachment| &attachment.interrupt)
}

/// How slow the session's client may be.
pub fn rates_of(digest: &Digest) -> Option<&Rates> {
    attachment_of(digest).map(|attachment| &attachment.rates)
}

/// What says that the session's listener is leaving.
pub fn drain_of(digest: &Digest) -> Option<&Arc<Drain>> {
    attachment_of(digest).map(|attachment| &attachment.drain)
}

/// The content of a request is refused while it is read, because its coding is malformed (RFC 9112 §7.1) or because it
/// comes too slowly: a read then fails with this as its cause. The content must not pass for complete, and the connection
/// cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct RefusedContent {
    /// What the client is told.
    pub kind: Kind,
    /// The rule that was broken; fit for the client.
    pub detail: &'static str,
}

/// Whether an error of Pingora's comes from content that is refused, and not from a client that is gone.
pub fn refused_content(error: &Error) -> Option<&RefusedContent> {
    error
        .root_cause()
        .downcast_ref::<io::Error>()?
        .get_ref()?
        .downcast_ref()
}

fn attachment_of(digest: &Digest) -> Option<&Attachment> {
    let data = digest.proxy_digest.as_ref()?.user_data.as_ref()?;
    data.downcast_ref()
}
