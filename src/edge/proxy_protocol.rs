//! The PROXY protocol from a proxy in front: who its client is, said at the beginning of a connection and before TLS
//! (HAProxy's proxy-protocol.txt, sections 2.1 and 2.2). Bytes in, facts out; [`super::introduction`] reads them.
//!
//! What always holds: a verdict does not depend on the pieces in which the bytes come, nor on what follows the header;
//! and no more than [`LINE_BYTES_MAX`] or [`HEADER_BYTES_MAX`] bytes are asked for before there is one.

use crate::protocol::proxy_protocol::{Parties, SIGNATURE};
use std::net::{IpAddr, SocketAddr};

/// The longest line of version 1, its end included; the specification's own bound.
pub const LINE_BYTES_MAX: usize = 107;

/// The longest header of version 2: its fixed part, and 4 KiB of addresses and further facts. The protocol has room for
/// 64 KiB, and balancers send less than one.
pub const HEADER_BYTES_MAX: usize = FIXED_BYTES + (4 << 10);

/// What stands in front of the addresses in version 2.
const FIXED_BYTES: usize = 16;

/// What version 1 begins with.
const WORD: &[u8] = b"PROXY ";

/// A complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Whom the connection is for. `None`: the proxy connects for itself (`LOCAL`), or does not say for whom (`UNKNOWN`, or
    /// an address that is none of TCP).
    pub parties: Option<Parties>,
    /// How many bytes the header has; what follows them is the client's.
    pub length: usize,
}

/// Why a connection is not taken that has to begin with a header. The words are metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyProtocolFailure {
    /// Whoever connects is none of the trusted proxies.
    Untrusted,
    /// The header was not there in time.
    Timeout,
    /// The connection ended within the header.
    Closed,
    /// It begins with something else.
    Missing,
    /// The header breaks a rule of the protocol.
    Malformed,
    /// It is longer than is taken.
    TooLong,
    /// It is not what its checksum says.
    Checksum,
}

impl ProxyProtocolFailure {
    pub const ALL: &'static [ProxyProtocolFailure] = &[
        ProxyProtocolFailure::Untrusted,
        ProxyProtocolFailure::Timeout,
        ProxyProtocolFailure::Closed,
        ProxyProtocolFailure::Missing,
        ProxyProtocolFailure::Malformed,
        ProxyProtocolFailure::TooLong,
        ProxyProtocolFailure::Checksum,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            ProxyProtocolFailure::Untrusted => "untrusted",
            ProxyProtocolFailure::Timeout => "timeout",
            ProxyProtocolFailure::Closed => "closed",
            ProxyProtocolFailure::Missing => "missing",
            ProxyProtocolFailure::Malformed => "malformed",
            ProxyProtocolFailure::TooLong => "too_long",
            ProxyProtocolFailure::Checksum => "checksum",
        }
    }
}

use ProxyProtocolFailure::{Checksum, Malformed, Missing, TooLong};

/// Reads a header off the first bytes of a connection; `None` while more of them are needed, all of which belong to it.
pub fn parse(bytes: &[u8]) -> Result<Option<Introduction>, ProxyProtocolFailure> {
    if begins(bytes, &SIGNATURE) {
        binary(bytes)
    } else if begins(bytes, WORD) {
        line(bytes)
    } else {
        Err(Missing)
    }
}

/// Whether the bytes begin as `mark` does, as far as they go.
fn begins(bytes: &[u8], mark: &[u8]) -> bool {
    let common = bytes.len().min(mark.len());
    bytes.get(..common) == mark.get(..common)
}

/// Version 1: a line.
fn line(bytes: &[u8]) -> Result<Option<Introduction>, ProxyProtocolFailure> {
    let within = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = memchr::memchr(b'\n', within) else {
        return match within.len() < LINE_BYTES_MAX {
            true => Ok(None),
            false => Err(TooLong),
        };
    };
    let text = within
        .get(WORD.len()..end)
        .and_then(|text| text.strip_suffix(b"\r"));
    let parties = parties_of_line(text.ok_or(Malformed)?)?;
    Ok(Some(Introduction {
        parties,
        length: end + 1,
    }))
}

/// What stands between the first word and the end of the line. What follows `UNKNOWN` means nothing.
fn parties_of_line(text: &[u8]) -> Result<Option<Parties>, ProxyProtocolFailure> {
    if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        return Ok(None);
    }
    let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
    let words: Vec<&str> = text.split(' ').collect();
    let [family, from, to, from_port, to_port] = words.as_slice() else {
        return Err(Malformed);
    };
    let address = |text: &str| -> Option<IpAddr> {
        match *family {
            "TCP4" => text.parse().map(IpAddr::V4).ok(),
            "TCP6" => text.parse().map(IpAddr::V6).ok(),
            _ => None,
        }
    };
    let socket = |ip, number| Some(SocketAddr::new(address(ip)?, port(number)?));
    let parties = socket(from, from_port).zip(socket(to, to_port));
    let (source, destination) = parties.ok_or(Malformed)?;
    Ok(Some(Parties {
        source,
        destination,
    }))
}

/// A port in its one spelling: no sign, and no zero in front.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    (digits && !padded).then(|| text.parse().ok()).flatten()
}

/// Version 2: binary.
fn binary(bytes: &[u8]) -> Result<Option<Introduction>, ProxyProtocolFailure> {
    let Some(&[command, family, high, low]) = bytes.get(SIGNATURE.len()..FIXED_BYTES) else {
        return Ok(None);
    };
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed),
    };
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > HEADER_BYTES_MAX {
        return Err(TooLong);
    }
    let kind = match is_local {
        // whatever it says is to be passed over
        true => Kind::Unspecified,
        false => Kind::of(family).ok_or(Malformed)?,
    };
    if length < FIXED_BYTES + kind.address_bytes() {
        return Err(Malformed);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(None);
    };
    let rest = header.get(FIXED_BYTES..).unwrap_or_default();
    let parties = match kind {
        Kind::Tcp4 => addresses::<4>(rest),
        Kind::Tcp6 => addresses::<16>(rest),
        Kind::Unspecified | Kind::Other(_) => None,
    };
    // without a family there is no telling where addresses end
    if !matches!(kind, Kind::Unspecified) {
        check_facts(header, FIXED_BYTES + kind.address_bytes())?;
    }
    Ok(Some(Introduction { parties, length }))
}

/// The family of the addresses and the protocol, in one byte.
#[derive(Clone, Copy)]
enum Kind {
    Unspecified,
    Tcp4,
    Tcp6,
    /// Datagrams, or Unix sockets: valid, with addresses of so many bytes that are no client's of ours.
    Other(usize),
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        Some(match (byte >> 4, byte & 0x0f) {
            (1, 1) => Kind::Tcp4,
            (2, 1) => Kind::Tcp6,
            (1, 2) => Kind::Other(12),
            (2, 2) => Kind::Other(36),
            (3, 1 | 2) => Kind::Other(216),
            (0..=3, 0..=2) => Kind::Unspecified,
            _ => return None,
        })
    }

    fn address_bytes(self) -> usize {
        match self {
            Kind::Unspecified => 0,
            Kind::Tcp4 => 12,
            Kind::Tcp6 => 36,
            Kind::Other(bytes) => bytes,
        }
    }
}

/// Two addresses of so many bytes, then their ports.
fn addresses<const BYTES: usize>(bytes: &[u8]) -> Option<Parties>
where
    IpAddr: From<[u8; BYTES]>,
{
    let (from, rest) = bytes.split_first_chunk::<BYTES>()?;
    let (to, rest) = rest.split_first_chunk::<BYTES>()?;
    let (from_port, rest) = rest.split_first_chunk::<2>()?;
    let to_port = rest.first_chunk::<2>()?;
    let socket = |ip: &[u8; BYTES], port: &[u8; 2]| {
        SocketAddr::new(IpAddr::from(*ip), u16::from_be_bytes(*port))
    };
    Some(Parties {
        source: socket(from, from_port),
        destination: socket(to, to_port),
    })
}

/// The type of a fact that is the checksum of the whole header (PP2_TYPE_CRC32C).
const CRC32C: u8 = 0x03;

/// Checks the facts that follow the addresses (section 2.2.1): their lengths, and the checksum if there is one. What
/// they say is not used.
fn check_facts(header: &[u8], begin: usize) -> Result<(), ProxyProtocolFailure> {
    let mut at = begin;
    let mut has_checksum = false;
    while at < header.len() {
        let Some(&[kind, high, low]) = header.get(at..at + 3) else {
            return Err(Malformed);
        };
        let value = at + 3;
        at = value + usize::from(u16::from_be_bytes([high, low]));
        let bytes = header.get(value..at).ok_or(Malformed)?;
        if kind != CRC32C {
            continue;
        }
        let stated = <[u8; 4]>::try_from(bytes).map_err(|_| Malformed)?;
        if std::mem::replace(&mut has_checksum, true) {
            return Err(Malformed);
        }
        // it is of the header with zeros in its own place
        let parts = [header.get(..value), Some(&[0; 4]), header.get(at..)];
        let bytes = parts.into_iter().flatten().flatten().copied();
        if crc32c(bytes) != u32::from_be_bytes(stated) {
            return Err(Checksum);
        }
    }
    Ok(())
}

/// CRC-32C (RFC 9260, appendix A), bit by bit: headers are short.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    /// The polynomial of Castagnoli, its bits in reverse.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let rest = bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (POLYNOMIAL * (crc & 1))
        })
    });
    !rest
}

#[cfg(test)]
mod tests;
