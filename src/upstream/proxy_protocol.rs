//! The PROXY protocol to endpoints: who the client is, said at the beginning of a connection and before TLS
//! (HAProxy's proxy-protocol.txt, sections 2.1 and 2.2).

use crate::exchange::Facts;
use crate::exchange::connection::Peer;
pub use crate::protocol::proxy_protocol::Parties;
use crate::protocol::proxy_protocol::SIGNATURE;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// In which form it is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl Parties {
    /// The client of a request, as far as its address is known, and what its connection was made to.
    pub fn of(facts: &Facts) -> Option<Self> {
        let client = facts.client_address?;
        let connection = &facts.connection;
        let port = match connection.peer {
            Peer::Ip(peer) if peer.ip().to_canonical() == client => peer.port(),
            _ => 0,
        };
        // a proxy that came by a Unix socket knows the client, and nobody what that connected to
        let nowhere = match client {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let destination = connection.local.map_or(SocketAddr::new(nowhere, 0), |to| {
            SocketAddr::new(to.ip().to_canonical(), to.port())
        });
        Some(Self {
            source: SocketAddr::new(client, port),
            destination,
        })
    }

    /// Both in one family, as the protocol needs them: if they differ, the address of IPv4 is mapped into IPv6 (RFC 4291
    /// §2.5.5.2).
    fn in_one_family(self) -> Self {
        let mapped = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            IpAddr::V6(_) => address,
        };
        match self.source.is_ipv4() == self.destination.is_ipv4() {
            true => self,
            false => Self {
                source: mapped(self.source),
                destination: mapped(self.destination),
            },
        }
    }
}

/// One header, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header(Box<[u8]>);

impl Header {
    /// One that tells of these parties; without any, that the gateway connects for itself, or for a client that has no
    /// address.
    pub fn new(version: Version, parties: Option<Parties>) -> Self {
        let parties = parties.map(Parties::in_one_family);
        let bytes = match version {
            Version::V1 => v1(parties),
            Version::V2 => v2(parties),
        };
        Self(bytes.into())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A digest, for the key of a pool.
    pub fn key(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(&self.0).as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

fn v1(parties: Option<Parties>) -> Vec<u8> {
    let Some(parties) = parties else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    let (source, destination) = (parties.source, parties.destination);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let line = format!(
        "PROXY {family} {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    );
    line.into_bytes()
}

fn v2(parties: Option<Parties>) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    let Some(Parties {
        source,
        destination,
    }) = parties
    else {
        // version 2, LOCAL; no family, nothing follows
        bytes.extend([0x20, 0x00, 0, 0]);
        return bytes;
    };
    // version 2, PROXY; TCP over IPv4 or IPv6, and how many bytes follow
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend([0x21, 0x11, 0, 12]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        (from, to) => {
            let wide = |ip: IpAddr| -> Ipv6Addr {
                match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                }
            };
            bytes.extend([0x21, 0x21, 0, 36]);
            bytes.extend(wide(from).octets());
            bytes.extend(wide(to).octets());
        }
    }
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parties(source: &str, destination: &str) -> Option<Parties> {
        Some(Parties {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        })
    }

    fn header(version: Version, parties: Option<Parties>) -> Vec<u8> {
        Header::new(version, parties).bytes().to_vec()
    }

    /// The examples of the specification's section 2.1, and our own.
    #[test]
    fn version_1_is_a_line() {
        let line = |parties| String::from_utf8(header(Version::V1, parties)).unwrap();
        let v4 = parties("192.168.0.1:56324", "192.168.0.11:443");
        let expected = "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
        assert_eq!(line(v4), expected);
        let v6 = parties("[2001:db8::1]:1", "[::1]:65535");
        assert_eq!(line(v6), "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n");
        let mixed = parties("[2001:db8::1]:0", "10.0.0.1:80");
        let expected = "PROXY TCP6 2001:db8::1 ::ffff:10.0.0.1 0 80\r\n";
        assert_eq!(line(mixed), expected);
        assert_eq!(line(None), "PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_2_is_binary() {
        let v4 = header(Version::V2, parties("10.1.2.3:258", "10.4.5.6:443"));
        assert_eq!(&v4[..12], b"\r\n\r\n\0\r\nQUIT\n");
        let rest = [
            0x21, 0x11, 0, 12, 10, 1, 2, 3, 10, 4, 5, 6, 1, 2, 0x01, 0xbb,
        ];
        assert_eq!(&v4[12..], &rest);
        let local = header(Version::V2, None);
        assert_eq!(&local[12..], &[0x20, 0, 0, 0]);
        let mixed = header(Version::V2, parties("10.1.2.3:1", "[::1]:2"));
        assert_eq!(&mixed[12..16], &[0x21, 0x21, 0, 36]);
        assert_eq!(mixed.len(), 16 + 36);
    }

    proptest! {
        /// The bound of the specification's section 2.1, and one key for each pair of parties.
        #[test]
        fn headers_are_short_and_tell_parties_apart(
            from: IpAddr, to: IpAddr, from_port: u16, to_port: u16, other: u16,
        ) {
            for version in [Version::V1, Version::V2] {
                let of = |port| Header::new(version, Some(Parties {
                    source: SocketAddr::new(from, port),
                    destination: SocketAddr::new(to, to_port),
                }));
                prop_assert!(of(from_port).bytes().len() <= 107);
                prop_assert_eq!(of(from_port).key() == of(other).key(), from_port == other);
            }
        }
    }
}
