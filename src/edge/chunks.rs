//! Where a chunked content ends, checked byte for byte (RFC 9112 §7.1).
//!
//! A chunk size that two parsers read differently moves the border between two requests. Pingora's parser takes an
//! empty size for zero, for example. So the coding is followed here, strictly, before Pingora sees the bytes: hex
//! digits and nothing else for a size, CRLF and nothing else for a line end. It also tells where the next request
//! begins.

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(bytes: &[u8]) -> Result<(usize, bool), Kind> {
        let mut chunks = Chunks::default();
        let taken = chunks.advance(bytes).map_err(|fault| fault.kind)?;
        Ok((taken, chunks.is_done()))
    }

    fn scan_in_pieces(mut bytes: &[u8], sizes: &[usize]) -> Result<(usize, bool), Kind> {
        let mut chunks = Chunks::default();
        let mut taken = 0;
        let mut sizes = sizes.iter().copied().cycle();
        while !bytes.is_empty() && !chunks.is_done() {
            let size = sizes.next().unwrap_or(1).clamp(1, bytes.len());
            let here = chunks.advance(&bytes[..size]).map_err(|fault| fault.kind)?;
            taken += here;
            bytes = &bytes[size..];
        }
        Ok((taken, chunks.is_done()))
    }

    #[test]
    fn content_ends_with_its_last_chunk() {
        let cases: &[(&[u8], bool)] = &[
            (b"0\r\n\r\n", true),
            (b"5\r\nhello\r\n0\r\n\r\n", true),
            (b"00000000000005\r\nhello\r\n000\r\n\r\n", true),
            (b"a;x=y;z\r\n0123456789\r\n0;last\r\n\r\n", true),
            (b"1\r\n\r\r\n0\r\nX: a\r\nY:\r\n\r\n", true),
            (b"5\r\nhello\r\n", false),
            (b"ffffffffffffffff\r\nx", false),
            (b"", false),
        ];
        for (bytes, done) in cases {
            assert_eq!(
                scan(bytes),
                Ok((bytes.len(), *done)),
                "{:?}",
                bytes.escape_ascii().to_string()
            );
            let longer = [bytes, b"GET / HTTP/1.1\r\n".as_slice()].concat();
            if *done {
                assert_eq!(scan(&longer), Ok((bytes.len(), true)));
            }
        }
    }

    #[test]
    fn a_malformed_chunk_is_refused() {
        let cases: &[&[u8]] = &[
            b"\r\n",
            b";a\r\n",
            b" 5\r\nhello\r\n",
            b"5 \r\nhello\r\n",
            b"+5\r\nhello\r\n",
            b"-1\r\n",
            b"0x5\r\nhello\r\n",
            b"g\r\n",
            b"5\nhello\r\n",
            b"5\rhello",
            b"5\r\nhello\n",
            b"5\r\nhello0\r\n",
            b"5\r\nhello\r0\r\n",
            b"00000000000000001\r\n",
            b"5;\nhello",
            b"5;a\x00\r\n",
            b"0\r\n\n",
            b"0\r\n\rX",
            b"0\r\n X: a\r\n\r\n",
            b"0\r\n: a\r\n\r\n",
            b"0\r\nX\r\n\r\n",
            b"0\r\nX : a\r\n\r\n",
            b"0\r\nX: a\n\r\n",
            b"0\r\nX: \x01\r\n\r\n",
        ];
        for bytes in cases {
            assert_eq!(
                scan(bytes),
                Err(Kind::RequestFraming),
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let extension = |bytes: usize| format!("1;{}\r\n", "a".repeat(bytes)).into_bytes();
        assert!(scan(&extension(EXTENSION_BYTES_MAX)).is_ok());
        assert_eq!(
            scan(&extension(EXTENSION_BYTES_MAX + 1)),
            Err(Kind::RequestFraming)
        );
        let trailer =
            |bytes: usize| format!("0\r\n{}", "X:aaaaaa\r\n".repeat(bytes / 8)).into_bytes();
        assert!(scan(&trailer(TRAILER_BYTES_MAX)).is_ok());
        assert_eq!(
            scan(&trailer(TRAILER_BYTES_MAX + 8)),
            Err(Kind::RequestHeadLength)
        );
    }

    /// Chunks in their wire form.
    fn encoded() -> impl Strategy<Value = Vec<u8>> {
        let chunk = proptest::collection::vec(any::<u8>(), 1..40);
        proptest::collection::vec(chunk, 0..5).prop_map(|chunks| {
            let mut wire = Vec::new();
            for chunk in chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(&chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            wire
        })
    }

    proptest! {
        #[test]
        fn every_encoding_is_followed_to_its_end(wire in encoded(), sizes in proptest::collection::vec(1_usize..20, 1..5)) {
            prop_assert_eq!(scan(&wire), Ok((wire.len(), true)));
            prop_assert_eq!(scan_in_pieces(&wire, &sizes), Ok((wire.len(), true)));
        }

        #[test]
        fn the_verdict_does_not_depend_on_how_the_bytes_arrive(
            mut wire in encoded(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            sizes in proptest::collection::vec(1_usize..20, 1..5),
        ) {
            let at = at.index(wire.len());
            wire[at] = byte;
            prop_assert_eq!(scan_in_pieces(&wire, &sizes), scan(&wire));
        }
    }
}
