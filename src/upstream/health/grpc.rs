//! The two messages of `grpc.health.v1` (github.com/grpc/grpc/blob/master/doc/health-checking.md), in the encoding of
//! Protocol Buffers and the framing of gRPC over HTTP/2.

use bytes::{BufMut, Bytes, BytesMut};

/// Where the check is asked for.
pub const PATH: &str = "/grpc.health.v1.Health/Check";

/// The tag of the only field of either message: number 1, as a string (wire type 2) or an enum (wire type 0).
const SERVICE: u8 = 0x0a;
const STATUS: u64 = 0x08;

/// The request: `HealthCheckRequest {string service = 1}`, uncompressed, in one frame.
pub fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(SERVICE);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// What a server says about a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Unknown,
    Serving,
    NotServing,
    ServiceUnknown,
}

/// Reads a response: one frame with `HealthCheckResponse {ServingStatus status = 1}`. None if it is something else.
pub fn serving(frame: &[u8]) -> Option<Health> {
    let (head, message) = frame.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = head;
    if *compressed != 0 || u32::from_be_bytes(*length) as usize != message.len() {
        return None;
    }
    // a field that is left out has its default
    let (mut rest, mut status) = (message, 0);
    while !rest.is_empty() {
        let (tag, after) = varint(rest)?;
        rest = match tag & 7 {
            0 => {
                let (value, after) = varint(after)?;
                if tag == STATUS {
                    status = value;
                }
                after
            }
            1 => after.get(8..)?,
            2 => {
                let (length, after) = varint(after)?;
                after.get(usize::try_from(length).ok()?..)?
            }
            5 => after.get(4..)?,
            _ => return None,
        };
    }
    Some(match status {
        1 => Health::Serving,
        2 => Health::NotServing,
        3 => Health::ServiceUnknown,
        _ => Health::Unknown,
    })
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_are_those_of_the_protocol() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(
            request(&"x".repeat(300))[..8],
            [0, 0, 0, 1, 47, 0x0a, 0xac, 2]
        );
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Some(Health::Serving));
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 2]), Some(Health::NotServing));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(Health::Unknown));
        // a field of a later version is passed over
        assert_eq!(
            serving(&[0, 0, 0, 0, 6, 0x12, 2, 9, 9, 8, 1]),
            Some(Health::Serving)
        );
    }

    #[test]
    fn what_is_no_message_is_none() {
        for bytes in [
            &[0, 0, 0, 0, 2, 8][..],
            &[1, 0, 0, 0, 0],
            &[0, 0, 0, 0, 2, 8, 0x80],
            b"<html>",
        ] {
            assert_eq!(serving(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut frame = vec![0, 0, 0, 0, bytes.len() as u8];
            frame.extend(&bytes);
            let _ = (serving(&frame), serving(&bytes));
        }
    }
}
