//! Connections that Pingora would make otherwise than the configuration says: with a bound of its own for TCP beside the
//! one for TLS, with a header of the PROXY protocol at their beginning, only where there is a place for another one, or to a
//! Unix socket, which has to be looked at. Everything after that stays Pingora's: TLS, keepalive, the pool.
//!
//! A connection with such a header is only good for whom the header tells of, so the key of the pool is made from it too:
//! another client, or another connection of the same one, gets another connection. HAProxy does the same.

use super::connections::Hand;
use super::proxy_protocol::{Header, Parties, Version};
use super::reserve;
use crate::limit::descriptors::Use;
use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::ext;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_core::{Error, ErrorType, OrErr, Result};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

/// How long the steps to a connection may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Until TCP is established, or the Unix socket is connected.
    pub connect: Option<Duration>,
    /// For the TLS handshake after that.
    pub tls: Option<Duration>,
}

impl Steps {
    /// Both together.
    fn whole(self) -> Option<Duration> {
        self.connect
            .zip(self.tls)
            .map(|(connect, tls)| connect.saturating_add(tls))
    }
}

/// Makes a peer one that is connected to within these times, and `left` for all of them.
///
/// Pingora has one bound for TCP and TLS alike. Where they are the same, it connects by itself, though not to Unix sockets;
/// where they are not, a dialer looks after TCP, and Pingora's bound is that of TLS. `made` is a dialer that was made
/// at load, for its own times.
pub(super) fn bound(
    peer: &mut HttpPeer,
    steps: Steps,
    left: Option<Duration>,
    made: Option<&Arc<Dialer>>,
    hand: Option<&Arc<Hand>>,
) {
    let is_local = matches!(peer.address(), SocketAddr::Unix(_));
    let options = &mut peer.options;
    options.connection_timeout = steps.tls;
    options.total_connection_timeout = match (steps.whole(), left) {
        (Some(whole), Some(left)) => Some(whole.min(left)),
        (whole, left) => whole.or(left),
    };
    if let Some(hand) = hand {
        options.custom_l4 = Some(Dialer::of(steps, None, Some(hand.clone())));
        return;
    }
    if !is_needed(steps, is_local) {
        options.custom_l4 = None;
        return;
    }
    let made = made.filter(|made| made.connect == steps.connect);
    let dialer = made
        .cloned()
        .unwrap_or_else(|| Dialer::of(steps, None, None));
    options.custom_l4 = Some(dialer);
}

/// Whether Pingora doesn't connect by itself: the bounds differ, or it is a Unix socket, which it shows to nobody.
fn is_needed(steps: Steps, is_local: bool) -> bool {
    is_local || steps.connect != steps.tls
}

/// Makes a peer one that Pingora connects to, without bounds and for nobody.
pub(super) fn unbound(peer: &mut HttpPeer) {
    let options = &mut peer.options;
    (options.connection_timeout, options.total_connection_timeout) = (None, None);
    options.custom_l4 = None;
    reserve::open(peer);
}

/// Makes a bounded peer one whose connections tell of these parties, and are for them alone.
pub(super) fn introduce(
    peer: &mut HttpPeer,
    steps: Steps,
    version: Version,
    parties: Option<Parties>,
    hand: Option<&Arc<Hand>>,
) {
    let header = Header::new(version, parties);
    peer.group_key ^= header.key();
    peer.options.custom_l4 = Some(Dialer::of(steps, Some(header), hand.cloned()));
}

/// The same for a health check, which is made for nobody.
pub(super) fn introduce_check(peer: &mut HttpPeer, version: Version) {
    let header = Header::new(version, None);
    peer.group_key ^= header.key();
    peer.options.custom_l4 = Some(Arc::new(Dialer {
        connect: None,
        header: Some(header),
        hand: None,
        whose: Use::Operator,
    }));
}

/// See the module.
#[derive(Debug)]
pub struct Dialer {
    connect: Option<Duration>,
    header: Option<Header>,
    /// Where the connections to the endpoint are bounded.
    hand: Option<Arc<Hand>>,
    /// For whom the descriptors are.
    whose: Use,
}

impl Dialer {
    fn of(steps: Steps, header: Option<Header>, hand: Option<Arc<Hand>>) -> Arc<Self> {
        Arc::new(Self {
            connect: steps.connect,
            header,
            hand,
            whose: Use::Endpoint,
        })
    }

    /// One for these times; none where Pingora connects by itself.
    pub(super) fn needed_for(steps: Steps, is_local: bool) -> Option<Arc<Self>> {
        is_needed(steps, is_local).then(|| Self::of(steps, None, None))
    }

    /// Connects as Pingora's own connector does, and begins with the header.
    async fn open(&self, address: &SocketAddr) -> Result<Stream> {
        // it fits into the buffer of a socket that nothing was written to
        let header = self.header.as_ref().map_or(&[][..], Header::bytes);
        match address {
            SocketAddr::Inet(address) => {
                let mut socket = self.open_tcp(*address).await?;
                socket.write_all(header).await.or_err(
                    ErrorType::ConnectError,
                    "the header of the PROXY protocol was not taken",
                )?;
                Ok(socket.into())
            }
            SocketAddr::Unix(address) => {
                let Some(path) = address.as_pathname() else {
                    return Error::e_explain(ErrorType::InternalError, "a socket without a path");
                };
                let mut socket = ext::connect_uds(path).await?;
                reserve::leave(&socket, self.whose)?;
                socket.write_all(header).await.or_err(
                    ErrorType::ConnectError,
                    "the header of the PROXY protocol was not taken",
                )?;
                Ok(socket.into())
            }
        }
    }

    /// Pingora's own function shows no socket before it is connected.
    async fn open_tcp(&self, address: std::net::SocketAddr) -> Result<TcpStream> {
        let socket = match address.is_ipv4() {
            true => TcpSocket::new_v4(),
            false => TcpSocket::new_v6(),
        };
        let socket = socket.or_err(ErrorType::SocketError, "no socket")?;
        reserve::leave(&socket, self.whose)?;
        socket.connect(address).await.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                    ErrorType::ConnectNoRoute
                }
                // of this machine: its ports are used up, or it has a rule against it
                io::ErrorKind::AddrNotAvailable => ErrorType::BindError,
                io::ErrorKind::PermissionDenied | io::ErrorKind::AddrInUse => {
                    ErrorType::InternalError
                }
                _ => ErrorType::ConnectError,
            };
            Error::because(kind, format!("no connection to {address}"), error)
        })
    }
}

#[async_trait]
impl Connect for Dialer {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let taken = self.hand.as_ref().map(|hand| hand.take()).transpose()?;
        let opening = self.open(address);
        let opened = match self.connect {
            None => opening.await,
            Some(limit) => match tokio::time::timeout(limit, opening).await {
                Ok(opened) => opened,
                Err(_) => Error::e_explain(
                    ErrorType::ConnectTimedout,
                    format!("no connection to {address} within {limit:?}"),
                ),
            },
        };
        let opened = opened.map_err(|error| match error.etype() {
            // this machine's fault, and not the endpoint's
            ErrorType::SocketError | ErrorType::BindError => Error::because(
                ErrorType::InternalError,
                format!("connecting to {address}"),
                error,
            ),
            _ => error,
        })?;
        match (&self.hand, taken) {
            (Some(hand), Some(place)) => hand.hold(place, opened),
            _ => Ok(opened),
        }
    }
}
