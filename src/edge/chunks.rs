//! Where a chunked content ends, checked byte for byte (RFC 9112 §7.1).
//!
//! A chunk size that two parsers read differently moves the border between two requests. Pingora's parser takes an
//! empty size for zero, for example. So the coding is followed here, strictly, before Pingora sees the bytes: hex digits
//! and nothing else for a size, CRLF and nothing else for a line end. It also tells where the next request begins.

use super::head::Fault;
use crate::problem::Kind;

/// More hex digits than this cannot be a size that fits.
const SIZE_DIGITS_MAX: u8 = 16;
/// The extensions of one chunk. They are dropped; nobody honest sends many.
const EXTENSION_BYTES_MAX: usize = 4 << 10;
/// All trailer fields together.
const TRAILER_BYTES_MAX: usize = 8 << 10;

/// Follows one chunked content.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    state: State,
    /// Bytes of the extension or the trailer section so far.
    section_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// At the first digit of a size.
    #[default]
    Start,
    Size {
        size: u64,
        digits: u8,
    },
    /// From the first byte behind the size to the CR.
    Extension {
        size: u64,
    },
    /// The CR of a size line has been seen.
    SizeFeed {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataReturn,
    DataFeed,
    /// At the first byte of a trailer line, or of the empty line that ends the content.
    TrailerStart,
    Trailer {
        named: bool,
    },
    TrailerFeed,
    LastFeed,
    Done,
}

impl Chunks {
    /// Whether the content has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Goes on with `bytes`; answers how many of them belong to the content: all, unless it ends among them.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut at = 0;
        while let (false, Some(&byte)) = (self.is_done(), bytes.get(at)) {
            if let State::Data { left } = self.state {
                let here = u64::try_from(bytes.len() - at)
                    .unwrap_or(u64::MAX)
                    .min(left);
                self.state = match left - here {
                    0 => State::DataReturn,
                    left => State::Data { left },
                };
                // no more than the slice is long
                at += usize::try_from(here).unwrap_or(usize::MAX);
                continue;
            }
            self.state = self.step(byte)?;
            at += 1;
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, Fault> {
        match (self.state, byte) {
            (State::Start, _) => match hex(byte) {
                Some(digit) => Ok(State::Size {
                    size: digit,
                    digits: 1,
                }),
                None => malformed("a chunk has no size"),
            },
            (State::Size { size, digits }, _) => self.step_size(size, digits, byte),
            (State::Extension { size }, b'\r') => Ok(State::SizeFeed { size }),
            (State::Extension { size }, _) => {
                self.count(
                    byte,
                    EXTENSION_BYTES_MAX,
                    Kind::RequestFraming,
                    "chunk extensions are too long",
                )?;
                Ok(State::Extension { size })
            }
            (State::SizeFeed { size: 0 }, b'\n') => {
                self.section_bytes = 0;
                Ok(State::TrailerStart)
            }
            (State::SizeFeed { size }, b'\n') => Ok(State::Data { left: size }),
            (State::DataReturn, b'\r') => Ok(State::DataFeed),
            (State::DataFeed, b'\n') => Ok(State::Start),
            (State::TrailerStart, b'\r') => Ok(State::LastFeed),
            (State::TrailerStart | State::Trailer { .. }, _) => self.step_trailer(byte),
            (State::TrailerFeed, b'\n') => Ok(State::TrailerStart),
            (State::LastFeed, b'\n') => Ok(State::Done),
            _ => malformed("a line end in the chunked coding is not CRLF"),
        }
    }

    fn step_size(&mut self, size: u64, digits: u8, byte: u8) -> Result<State, Fault> {
        match (hex(byte), byte) {
            (Some(_), _) if digits == SIZE_DIGITS_MAX => malformed("a chunk size is too long"),
            (Some(digit), _) => Ok(State::Size {
                size: (size << 4) | digit,
                digits: digits + 1,
            }),
            (None, b'\r') => Ok(State::SizeFeed { size }),
            (None, b';') => {
                self.section_bytes = 0;
                Ok(State::Extension { size })
            }
            (None, _) => malformed("a chunk size is not hexadecimal"),
        }
    }

    /// A trailer line is `name: value`, like a header line; a folded one has no name.
    fn step_trailer(&mut self, byte: u8) -> Result<State, Fault> {
        let named = match self.state {
            State::Trailer { named } => named,
            _ if super::head::is_token(byte) => false,
            _ => return malformed("a trailer field has no name"),
        };
        match byte {
            b'\r' if named => return Ok(State::TrailerFeed),
            b':' => {}
            _ if !named && !super::head::is_token(byte) => {
                return malformed("a trailer field name is not a token");
            }
            _ => {}
        }
        self.count(
            byte,
            TRAILER_BYTES_MAX,
            Kind::RequestHeadLength,
            "the trailer section is too long",
        )?;
        Ok(State::Trailer {
            named: named || byte == b':',
        })
    }

    /// Counts a byte of a section that is bounded and may hold no control characters.
    fn count(
        &mut self,
        byte: u8,
        bytes_max: usize,
        kind: Kind,
        detail: &'static str,
    ) -> Result<(), Fault> {
        if byte != b'\t' && byte.is_ascii_control() {
            return malformed("a control character in the chunked coding");
        }
        self.section_bytes += 1;
        match self.section_bytes > bytes_max {
            true => Err(Fault::new(kind, detail)),
            false => Ok(()),
        }
    }
}

fn malformed<T>(detail: &'static str) -> Result<T, Fault> {
    Err(Fault::new(Kind::RequestFraming, detail))
}

fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}
