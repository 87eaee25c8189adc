//! The last file descriptors are not for connections to endpoints ([`crate::limit::descriptors`]).
//!
//! A socket is looked at before it is connected: of hundreds that are being connected, none is to hold one of the last
//! descriptors meanwhile. Pingora shows those that it opens by itself to a hook; the rest are [`super::dial`]'s. A Unix socket
//! is connected at once, and looked at after that.

use crate::limit::descriptors::{self, Use};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, OrErr, Result};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use tokio::net::TcpSocket;

type Hook = dyn Fn(&TcpSocket) -> Result<()> + Send + Sync;

thread_local! {
    /// One for each thread, so that none waits for the count of another's.
    static HOOK: Arc<Hook> = Arc::new(|socket| leave(socket, Use::Endpoint));
}

/// Has sockets for this peer leave the last descriptors.
pub(super) fn keep(peer: &mut HttpPeer) {
    // an error means that the thread is ending
    peer.options.upstream_tcp_sock_tweak_hook = HOOK.try_with(Arc::clone).ok();
}

/// Lets sockets for this peer have the last descriptors.
pub(super) fn open(peer: &mut HttpPeer) {
    peer.options.upstream_tcp_sock_tweak_hook = None;
}

/// Turns down a new socket that is one of the last descriptors.
///
/// # Errors
/// As if there were no descriptor left.
pub(super) fn leave(socket: &impl AsRawFd, whose: Use) -> Result<()> {
    descriptors::at_most(whose)
        .and_then(|at_most| descriptors::within(socket.as_raw_fd(), at_most))
        .or_err(ErrorType::SocketError, "connecting")
        .map_err(Error::into_up)
}

/// Whether a try failed because the gateway has no descriptors or no memory left. That says nothing about the endpoint,
/// and another one could not be reached either.
pub fn is_exhausted(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.root_cause());
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return descriptors::is_exhaustion(error);
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_is_one_of_the_last_is_turned_down_as_want_of_descriptors() {
        let last = i32::MAX;
        let error = leave(&last, Use::Endpoint).unwrap_err();
        assert!(is_exhausted(&error), "{error}");
        // as the dialer passes it on
        let passed_on = Error::because(ErrorType::InternalError, "connecting", error);
        assert!(is_exhausted(&passed_on), "{passed_on}");
        assert!(leave(&0, Use::Endpoint).is_ok());
    }

    #[test]
    fn other_errors_are_none_of_it() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let refused = Error::because(ErrorType::ConnectRefused, "connecting", refused);
        assert!(!is_exhausted(&refused));
        assert!(!is_exhausted(&Error::new(ErrorType::ConnectTimedout)));
    }
}
