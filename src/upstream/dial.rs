//! Connections that Pingora would make otherwise than the configuration says: with a bound of its own for TCP beside the
//! one for TLS. Everything after the socket stays Pingora's: TLS, keepalive, the pool.

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::ext;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use std::sync::Arc;
use std::time::Duration;

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
/// Pingora has one bound for each of TCP and TLS. Where they are the same, it connects by itself; where they are not, a
/// dialer looks after TCP, and its bound is that of TLS. `made` is a dialer that was made at load, for its own times.
pub(super) fn bound(
    peer: &mut HttpPeer,
    steps: Steps,
    left: Option<Duration>,
    made: Option<&Arc<Dialer>>,
) {
    let options = &mut peer.options;
    options.connection_timeout = steps.tls;
    options.total_connection_timeout = match (steps.whole(), left) {
        (Some(whole), Some(left)) => Some(whole.min(left)),
        (whole, left) => whole.or(left),
    };
    if steps.connect == steps.tls {
        options.custom_l4 = None;
        return;
    }
    let made = made.filter(|made| made.connect == steps.connect);
    let dialer = made.cloned().unwrap_or_else(|| {
        Arc::new(Dialer {
            connect: steps.connect,
        })
    });
    options.custom_l4 = Some(dialer);
}

/// See the module.
#[derive(Debug)]
pub struct Dialer {
    connect: Option<Duration>,
}

impl Dialer {
    /// One for these times; none where Pingora connects by itself.
    pub(super) fn needed_for(steps: Steps) -> Option<Arc<Self>> {
        (steps.connect != steps.tls).then(|| {
            Arc::new(Self {
                connect: steps.connect,
            })
        })
    }
}

#[async_trait]
impl Connect for Dialer {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let Some(limit) = self.connect else {
            return open(address).await;
        };
        match tokio::time::timeout(limit, open(address)).await {
            Ok(opened) => opened,
            Err(_) => Error::e_explain(
                ErrorType::ConnectTimedout,
                format!("no connection to {address} within {limit:?}"),
            ),
        }
    }
}

/// Connects as Pingora's own connector does.
async fn open(address: &SocketAddr) -> Result<Stream> {
    let opened = match address {
        SocketAddr::Inet(address) => ext::connect(address, None).await.map(Stream::from),
        SocketAddr::Unix(address) => match address.as_pathname() {
            Some(path) => ext::connect_uds(path).await.map(Stream::from),
            None => Error::e_explain(ErrorType::InternalError, "a socket without a path"),
        },
    };
    opened.map_err(|error| match error.etype() {
        // this machine's fault, and not the endpoint's
        ErrorType::SocketError | ErrorType::BindError => Error::because(
            ErrorType::InternalError,
            format!("connecting to {address}"),
            error,
        ),
        _ => error,
    })
}
