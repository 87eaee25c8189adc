//! gRPC as it is carried over HTTP/2 ("gRPC over HTTP2", `PROTOCOL-HTTP2.md` of the grpc repository).
//!
//! A call's outcome is the field `grpc-status`: in the trailers, or in the head of an answer that has nothing else
//! ("trailers-only"). HTTP's status says 200 whatever came of the call.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use pingora_http::{RequestHeader, ResponseHeader};

/// The media type of an answer.
pub const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// The outcome of a call, as a number.
pub static STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Its description, percent-encoded.
pub static MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What `grpc-message` may not hold as it is: everything but printable ASCII, and the percent sign.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// The largest message where nothing is written (design 3.7; the default of most implementations).
pub const MESSAGE_BYTES_MAX: u64 = 4 << 20;

/// Whether a request is a call. `application/grpc-web` is another protocol, which browsers speak.
pub fn is_call(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let rest = value.and_then(|value| {
        let bytes = value.as_bytes();
        let (start, rest) = bytes.split_at_checked(b"application/grpc".len())?;
        start
            .eq_ignore_ascii_case(b"application/grpc")
            .then_some(rest)
    });
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// The status among these fields; none where there is none, or one that is no number.
pub fn status_in(fields: &HeaderMap) -> Option<u16> {
    fields.get(&STATUS)?.to_str().ok()?.parse().ok()
}

/// How a request has ended: a call is 200 to HTTP, and where its head tells what came of it, that counts.
pub fn outcome(request: &RequestHeader, response: &ResponseHeader) -> u16 {
    let status = response.status.as_u16();
    match status_in(&response.headers) {
        Some(told) if status == 200 && is_call(&request.headers) => http_status(told),
        _ => status,
    }
}

/// The status of HTTP that says the same (`google/rpc/code.proto`).
pub fn http_status(status: u16) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        // 2 UNKNOWN, 13 INTERNAL, 15 DATA_LOSS, and what is none
        _ => 500,
    }
}

/// A description as `grpc-message` carries it.
pub fn message_value(text: &str) -> HeaderValue {
    let encoded = utf8_percent_encode(text, ESCAPED).to_string();
    HeaderValue::try_from(encoded).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// Follows the messages of a body, each of which begins with a byte of flags and four of length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    prefix: [u8; 4],
    /// How many bytes of the prefix are there.
    read: u8,
    /// Of the message.
    left: u64,
}

impl Messages {
    /// Takes the next bytes in. The length of the first message among them that is longer than `most`.
    pub fn longer_than(&mut self, most: u64, mut bytes: &[u8]) -> Option<u64> {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let within = usize::try_from(self.left).unwrap_or(usize::MAX);
                let taken = within.min(bytes.len());
                self.left -= taken as u64;
                bytes = bytes.get(taken..).unwrap_or_default();
                continue;
            }
            // the flags come first, and say nothing about the length
            if let Some(at) = self.read.checked_sub(1)
                && let Some(place) = self.prefix.get_mut(usize::from(at))
            {
                *place = first;
            }
            self.read += 1;
            bytes = rest;
            if self.read == 5 {
                self.read = 0;
                self.left = u64::from(u32::from_be_bytes(self.prefix));
                if self.left > most {
                    return Some(self.left);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn calls_are_told_from_what_only_begins_alike() {
        let is = |value: &'static str| {
            let fields = [(header::CONTENT_TYPE, HeaderValue::from_static(value))];
            is_call(&fields.into_iter().collect())
        };
        for value in [
            "application/grpc",
            "application/grpc+proto",
            "Application/gRPC;x=1",
        ] {
            assert!(is(value), "{value}");
        }
        for value in [
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpcx",
            "application/json",
            "",
        ] {
            assert!(!is(value), "{value}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn messages_are_encoded_as_the_protocol_says() {
        assert_eq!(message_value("50 % of ä\n"), "50 %25 of %C3%A4%0A");
        assert_eq!(message_value("No route"), "No route");
    }

    proptest! {
        #[test]
        fn the_first_message_that_is_too_long_is_found_however_the_bytes_are_cut(
            lengths in prop::collection::vec(0_u32..40, 0..8), cut in 1_usize..9,
        ) {
            let mut bytes = Vec::new();
            for length in &lengths {
                bytes.push(0);
                bytes.extend(length.to_be_bytes());
                bytes.extend(std::iter::repeat_n(0xff, *length as usize));
            }
            let mut messages = Messages::default();
            let found = bytes.chunks(cut).find_map(|part| messages.longer_than(30, part));
            let expected = lengths.iter().find(|length| **length > 30).map(|length| u64::from(*length));
            prop_assert_eq!(found, expected);
            if found.is_none() {
                prop_assert_eq!(messages.left + u64::from(messages.read), 0);
            }
        }
    }
}
