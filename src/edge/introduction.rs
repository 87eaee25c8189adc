//! Reads the PROXY protocol's header off a connection, and not a byte more: what follows it is for TLS or HTTP.

use super::proxy_protocol::{Introduction, ProxyProtocolFailure, parse};
use super::transport::Socket;
use nix::sys::socket::MsgFlags;
use std::io;
use std::time::Duration;
use tokio::time::timeout;

/// Looked at in one go; headers with all that balancers add to them are shorter.
const PIECE_BYTES: usize = 512;

/// Waits for the header for so long. `None`: the connection ended before its first byte, as those end by which balancers
/// look whether somebody listens.
pub(super) async fn read(
    socket: &Socket,
    patience: Duration,
) -> Result<Option<Introduction>, ProxyProtocolFailure> {
    timeout(patience, header(socket))
        .await
        .map_err(|_| ProxyProtocolFailure::Timeout)?
}

async fn header(socket: &Socket) -> Result<Option<Introduction>, ProxyProtocolFailure> {
    let mut held = Vec::new();
    loop {
        let known = held.len();
        let read = look(socket, &mut held).await;
        match (read, known) {
            // a reset is an end like any other
            (Ok(0) | Err(_), 0) => return Ok(None),
            (Ok(0) | Err(_), _) => return Err(ProxyProtocolFailure::Closed),
            (Ok(_), _) => {}
        }
        let introduction = parse(&held)?;
        let ours = introduction.map_or(held.len(), |introduction| introduction.length);
        take(socket, ours - known)
            .await
            .map_err(|_| ProxyProtocolFailure::Closed)?;
        if introduction.is_some() {
            return Ok(introduction);
        }
    }
}

/// Adds what has arrived, and leaves it on the socket.
async fn look(socket: &Socket, held: &mut Vec<u8>) -> io::Result<usize> {
    let known = held.len();
    held.resize(known + PIECE_BYTES, 0);
    let space = held.get_mut(known..).unwrap_or_default();
    let read = socket.receive(space, MsgFlags::MSG_PEEK).await;
    held.truncate(known + read.as_ref().copied().unwrap_or(0));
    read
}

/// Takes so many bytes off the socket, all of which have been looked at.
async fn take(socket: &Socket, mut count: usize) -> io::Result<()> {
    let mut away = [0; PIECE_BYTES];
    while count > 0 {
        let space = count.min(PIECE_BYTES);
        let space = away.get_mut(..space).unwrap_or_default();
        count -= match socket.receive(space, MsgFlags::empty()).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            taken => taken,
        };
    }
    Ok(())
}
