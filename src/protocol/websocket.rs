//! WebSockets over HTTP/1.1 (RFC 6455): what asks for one, what grants it, and where frames end.

use http::{HeaderMap, Method, Version, header};
use pingora_http::{RequestHeader, ResponseHeader};

/// What an endpoint that goes away says (RFC 6455 §7.4.1): a whole Close frame without a mask, status 1001.
pub const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// The same with status 1009: a message was too big.
pub const TOO_BIG: [u8; 4] = [0x88, 0x02, 0x03, 0xf1];

/// The same with status 1008: a policy forbids more, here because the credential has ended.
pub const POLICY: [u8; 4] = [0x88, 0x02, 0x03, 0xf0];

/// Whether a request asks for a WebSocket, in the form of RFC 6455 §4.1: a GET of HTTP/1.1 without content. Whatever
/// differs asks for nothing that is known here.
pub fn is_handshake(request: &RequestHeader) -> bool {
    let headers = &request.headers;
    let is = |name, value: &[u8]| {
        let mut values = headers.get_all(name).iter();
        let first = values.next();
        let only = values.next().is_none();
        only && first.is_some_and(|first| first.as_bytes().eq_ignore_ascii_case(value))
    };
    request.method == Method::GET
        && request.version == Version::HTTP_11
        && is(header::UPGRADE, b"websocket")
        && is(header::SEC_WEBSOCKET_VERSION, b"13")
        && has_one(headers, &header::SEC_WEBSOCKET_KEY)
        && !headers.contains_key(header::CONTENT_LENGTH)
        && !headers.contains_key(header::TRANSFER_ENCODING)
}

fn has_one(headers: &HeaderMap, name: &header::HeaderName) -> bool {
    let mut values = headers.get_all(name).iter();
    values.next().is_some() && values.next().is_none()
}

/// Whether a `101` grants a WebSocket. That it answers this very key is for the client to see.
pub fn is_grant(response: &ResponseHeader) -> bool {
    let upgrade = response.headers.get(header::UPGRADE);
    upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && response.headers.contains_key(header::SEC_WEBSOCKET_ACCEPT)
}

/// Follows the frames of one direction (RFC 6455 §5.2), to know where one ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// The head of a frame as far as it is there.
    head: [u8; 10],
    read: u8,
    /// Bytes of payload, and of its mask, that are to come.
    left: u64,
    /// A Close frame has begun.
    closing: bool,
    /// Bytes that the frames of this message announce so far.
    message: u64,
}

/// A frame that makes its message longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// How many of the bytes looked at stand before that frame.
    pub before: usize,
    /// Whether it begins in these bytes, so that none of it has been passed on.
    pub whole: bool,
}

impl Frames {
    /// Takes the next bytes in, up to a frame that makes its message longer than `most`.
    pub fn advance(&mut self, all: &[u8], most: u64) -> Option<TooLong> {
        let mut bytes = all;
        let mut begun = None;
        while let Some((&first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let within = usize::try_from(self.left).unwrap_or(usize::MAX);
                let taken = within.min(bytes.len());
                self.left -= taken as u64;
                bytes = bytes.get(taken..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.head.get_mut(usize::from(self.read)) {
                *place = first;
            }
            if self.read == 0 {
                begun = Some(all.len() - bytes.len());
            }
            self.read += 1;
            bytes = rest;
            if let Some(payload) = self.payload() {
                let [kind, length, ..] = self.head;
                self.closing |= kind & 0x0f == 8;
                let mask = if length & 0x80 == 0 { 0 } else { 4 };
                self.left = payload.saturating_add(mask);
                self.read = 0;
                match kind & 0x0f {
                    // they stand between the frames of a message, and are short
                    8.. => continue,
                    0 => self.message = self.message.saturating_add(payload),
                    _ => self.message = payload,
                }
                if self.message > most {
                    return Some(TooLong {
                        before: begun.unwrap_or(0),
                        whole: begun.is_some(),
                    });
                }
            }
        }
        None
    }

    /// The length of the payload, once the head says it.
    fn payload(&self) -> Option<u64> {
        let [_, length, a, b, c, d, e, f, g, h] = self.head;
        match (self.read, length & 0x7f) {
            (0 | 1, _) => None,
            (2, short @ 0..=125) => Some(u64::from(short)),
            (4, 126) => Some(u64::from(u16::from_be_bytes([a, b]))),
            (10, _) => Some(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
            _ => None,
        }
    }

    /// Whether a frame of ours may stand here: between two, and before the last word.
    pub fn may_close(&self) -> bool {
        self.left == 0 && self.read == 0 && !self.closing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(length: usize, masked: bool, code: u8) -> Vec<u8> {
        let mut bytes = vec![0x80 | code];
        let mask = if masked { 0x80 } else { 0 };
        match length {
            0..126 => bytes.push(mask | length as u8),
            126..65536 => {
                bytes.push(mask | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(std::iter::repeat_n(
            0xaa,
            length + if masked { 4 } else { 0 },
        ));
        bytes
    }

    proptest! {
        #[test]
        fn the_end_of_a_frame_is_found_however_the_bytes_are_cut(
            lengths in prop::collection::vec(prop_oneof![0_usize..130, 65_530_usize..65_540], 1..5),
            masked: bool, cut in 1_usize..70_000,
        ) {
            let mut frames = Frames::default();
            for length in &lengths {
                let bytes = frame(*length, masked, 2);
                for part in bytes.chunks(cut) {
                    prop_assert_eq!(frames.advance(part, u64::MAX), None);
                }
                prop_assert!(frames.may_close());
                frames.advance(&bytes[..1], u64::MAX);
                prop_assert!(!frames.may_close());
                frames.advance(&bytes[1..], u64::MAX);
            }
            frames.advance(&frame(2, masked, 8), u64::MAX);
            prop_assert!(!frames.may_close());
        }
    }

    #[test]
    fn a_message_may_be_so_long_in_all_its_frames_together() {
        let open = |length, code| {
            let mut bytes = frame(length, true, code);
            bytes[0] &= 0x7f;
            bytes
        };
        let one = |bytes: &[u8]| Frames::default().advance(bytes, 100);
        assert_eq!(one(&frame(100, true, 1)), None);
        assert_eq!(
            one(&[frame(100, true, 1), frame(101, true, 2)].concat()),
            Some(TooLong {
                before: 106,
                whole: true
            })
        );
        // two messages, and one with a ping within it
        assert_eq!(
            one(&[frame(60, true, 1), frame(60, true, 1)].concat()),
            None
        );
        let parts = [open(60, 1), frame(90, true, 9), frame(41, true, 0)];
        let before = parts[0].len() + parts[1].len();
        assert_eq!(
            one(&parts.concat()),
            Some(TooLong {
                before,
                whole: true
            })
        );
        // the head of the frame was cut
        let mut frames = Frames::default();
        let long = frame(300, true, 2);
        assert_eq!(frames.advance(&long[..3], 100), None);
        assert_eq!(
            frames.advance(&long[3..], 100),
            Some(TooLong {
                before: 0,
                whole: false
            })
        );
    }

    #[test]
    fn only_the_handshake_of_the_standard_asks_for_a_websocket() {
        let make = |method: &str, fields: &[(&'static str, &str)]| {
            let mut request = RequestHeader::build(method, b"/", None).unwrap();
            for (name, value) in fields {
                request.append_header(*name, *value).unwrap();
            }
            is_handshake(&request)
        };
        let whole = [
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        assert!(make("GET", &whole));
        assert!(!make("POST", &whole));
        for missing in 0..whole.len() {
            let mut part = whole.to_vec();
            part.remove(missing);
            assert!(!make("GET", &part), "{missing}");
        }
        for more in [
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("sec-websocket-key", "another"),
        ] {
            let mut all = whole.to_vec();
            all.push(more);
            assert!(!make("GET", &all), "{more:?}");
        }
    }
}
