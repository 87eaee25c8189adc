//! What is known of a connection before its first request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What every connection of one listener shares.
#[derive(Debug)]
pub struct ListenerFacts {
    /// The name in the configuration.
    pub name: Arc<str>,
    /// Whether it terminates TLS.
    pub tls: bool,
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

/// One accepted connection. The edge makes it; the request path finds it behind the stream.
#[derive(Debug)]
pub struct Connection {
    pub listener: Arc<ListenerFacts>,
    pub peer: Peer,
    /// The port that was connected to; none on a Unix socket.
    pub local_port: Option<u16>,
    pub tls: Option<Tls>,
}

/// What the TLS handshake settled.
#[derive(Debug)]
pub struct Tls {
    /// The server name that the client asked for (RFC 6066 §3), lower-cased.
    pub server_name: Option<Box<str>>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
}
