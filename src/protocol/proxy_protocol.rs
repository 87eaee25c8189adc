//! What both directions of the PROXY protocol share: whom a connection is for, and the mark of version 2 (HAProxy's
//! proxy-protocol.txt).

use std::net::SocketAddr;

/// Whom a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parties {
    /// The client; where the gateway tells of one that a trusted proxy has named, its port is 0.
    pub source: SocketAddr,
    /// What was connected to.
    pub destination: SocketAddr,
}

/// What every header of version 2 begins with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
