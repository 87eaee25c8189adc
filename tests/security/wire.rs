//! HTTP/2 as bytes: a client that may break every rule of it.

use crate::harness::frames::frame;
use crate::harness::{Stream, is_end};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The types of frames by their numbers (RFC 9113 §6).
const TYPES: [&str; 10] = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
];

/// Error codes by their numbers (RFC 9113 §7).
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

pub const HEADERS: u8 = 1;
pub const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

/// The number of a type, by its name or as `0xNN`.
pub fn type_of(name: &str) -> u8 {
    if let Some(digits) = name.strip_prefix("0x") {
        return u8::from_str_radix(digits, 16).expect("a number");
    }
    let at = TYPES.iter().position(|known| *known == name);
    u8::try_from(at.unwrap_or_else(|| panic!("no frame: {name}"))).expect("a number")
}

pub fn flag_of(name: &str) -> u8 {
    match name {
        "END_STREAM" | "ACK" => END_STREAM,
        "END_HEADERS" => END_HEADERS,
        "PADDED" => PADDED,
        other => panic!("no flag: {other}"),
    }
}

/// Fields without compression: literals that enter no table (RFC 7541 §6.2.2).
pub fn block(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            integer(&mut out, text.len());
            out.extend(text);
        }
    }
    out
}

/// With a prefix of seven bits (RFC 7541 §5.1).
fn integer(out: &mut Vec<u8>, number: usize) {
    const PREFIX: usize = 127;
    let Some(mut rest) = number.checked_sub(PREFIX) else {
        out.push(u8::try_from(number).expect("seven bits"));
        return;
    };
    out.push(127);
    while rest > 127 {
        out.push(u8::try_from(rest % 128 + 128).expect("a byte"));
        rest /= 128;
    }
    out.push(u8::try_from(rest).expect("a byte"));
}

/// The status of an answer, which comes first, from an encoder that was told to keep no table.
fn status(block: &[u8]) -> Option<u16> {
    let at = block.iter().position(|byte| !(0x20..0x40).contains(byte))?;
    let (first, rest) = block[at..].split_first()?;
    match first {
        0x88..=0x8e => Some([200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)]),
        // `:status` by its number, in whatever kind of literal
        0x08 | 0x18 | 0x48 => {
            let length = usize::from(rest.first()? & 0x7f);
            let text = rest.get(1..1 + length)?;
            match rest.first()? & 0x80 {
                0 => std::str::from_utf8(text).ok()?.parse().ok(),
                _ => digits(text)?.parse().ok(),
            }
        }
        _ => None,
    }
}

/// Three digits in Huffman's code (RFC 7541, appendix B): five bits for 0 to 2, six for the others, from 0x19 on.
fn digits(text: &[u8]) -> Option<String> {
    let mut bits = text
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    let mut found = String::new();
    while found.len() < 3 {
        let five = (0..5).try_fold(0, |sum, _| Some(sum << 1 | bits.next()?))?;
        let digit = match five {
            0..=2 => five,
            _ => (five << 1 | bits.next()?).checked_sub(0x19)? + 3,
        };
        found.push(char::from(b'0' + digit));
    }
    Some(found)
}

/// What became of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Answered { status: u16, body: Vec<u8> },
    Reset(&'static str),
    GoneAway(&'static str),
    Closed,
}

/// A connection, behind the preface and both sides' first settings.
pub struct Wire {
    stream: Box<dyn Stream>,
    /// What the other side has set.
    pub settings: Vec<(u16, u32)>,
}

impl Wire {
    pub async fn over(stream: impl Stream + 'static) -> io::Result<Self> {
        let mut wire = Self {
            stream: Box::new(stream),
            settings: Vec::new(),
        };
        // no table for what it sends, and no pushes
        let settings = frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
        wire.send(&[PREFACE, &settings].concat()).await?;
        while wire.settings.is_empty() {
            if wire.frame().await?.is_none() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(wire)
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next frame: type, flags, stream, payload. Settings are taken note of and acknowledged.
    pub async fn frame(&mut self) -> io::Result<Option<(u8, u8, u32, Vec<u8>)>> {
        let mut head = [0; 9];
        match self.stream.read_exact(&mut head).await {
            Err(error) if is_end(&error) => return Ok(None),
            other => other?,
        };
        let [a, b, c, kind, flags, d, e, f, g] = head;
        let stream = u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload).await?;
        if kind == SETTINGS && flags & ACK == 0 {
            let set = payload.chunks_exact(6).map(|six| {
                let value = u32::from_be_bytes([six[2], six[3], six[4], six[5]]);
                (u16::from_be_bytes([six[0], six[1]]), value)
            });
            self.settings.extend(set);
            // the other side may have gone
            let _ = self.send(&frame(SETTINGS, ACK, 0, &[])).await;
        }
        Ok(Some((kind, flags, stream, payload)))
    }

    /// Waits for the end of a stream, or of the connection.
    pub async fn ended(&mut self, wanted: u32) -> io::Result<Ended> {
        let (mut found, mut body) = (None, Vec::new());
        while let Some((kind, flags, stream, payload)) = self.frame().await? {
            match kind {
                GOAWAY => {
                    let code = code(&payload[4..8]);
                    if code != "NO_ERROR" {
                        return Ok(Ended::GoneAway(code));
                    }
                }
                RST_STREAM if stream == wanted => return Ok(Ended::Reset(code(&payload))),
                HEADERS if stream == wanted && found.is_none() => {
                    found = Some(status(&payload).ok_or(io::ErrorKind::InvalidData)?);
                }
                DATA if stream == wanted => body.extend(payload),
                _ => {}
            }
            let ends =
                matches!(kind, HEADERS | DATA) && stream == wanted && flags & END_STREAM != 0;
            if let (true, Some(status)) = (ends, found) {
                return Ok(Ended::Answered { status, body });
            }
        }
        Ok(Ended::Closed)
    }
}

fn code(payload: &[u8]) -> &'static str {
    let number = payload.try_into().map(u32::from_be_bytes);
    let number = number.ok().and_then(|number| usize::try_from(number).ok());
    number.and_then(|number| CODES.get(number)).unwrap_or(&"?")
}

#[test]
fn a_status_is_read_in_every_form() {
    assert_eq!(status(&[0x20, 0x8c]), Some(400));
    assert_eq!(status(&[0x08, 3, b'4', b'1', b'4']), Some(414));
    // 405, 431 and 502 in Huffman's code
    assert_eq!(status(&[0x48, 0x83, 0x68, 0x0d, 0xff]), Some(405));
    assert_eq!(status(&[0x08, 0x83, 0x69, 0x90, 0xff]), Some(431));
    assert_eq!(status(&[0x08, 0x82, 0x6c, 0x02]), Some(502));
}

#[test]
fn lengths_are_written_as_they_should_be() {
    let length = |number| {
        let mut out = Vec::new();
        integer(&mut out, number);
        out
    };
    assert_eq!(length(126), [126]);
    assert_eq!(length(127), [127, 0]);
    assert_eq!(length(127 + 300), [127, 172, 2]);
}
