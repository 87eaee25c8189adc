//! The codings themselves, as streams: pieces go in, what is ready comes out.
//!
//! Windows are 256 KiB at most, so that an answer of any length takes about a megabyte while it is under way, whatever
//! its coding; every decoder has to take far larger ones (RFC 9659: 8 MiB for zstd).

use super::Encoding;
use flate2::write::GzEncoder;
use std::io::{self, Write};

/// The base-2 logarithm of the largest window, of brotli and zstd. That of gzip is 15.
const WINDOW_LOG: u32 = 18;

/// What brotli's writer keeps before it hands out.
const BROTLI_BUFFER: usize = 16 * 1024;

/// One body that is being encoded.
pub enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Br(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    /// `length` is that of the whole body, where it is known: a small one takes less memory.
    ///
    /// # Errors
    /// There is no memory, or the level is none of the coding's.
    pub fn new(encoding: Encoding, level: u32, length: Option<u64>) -> io::Result<Self> {
        Ok(match encoding {
            Encoding::Gzip => {
                Encoder::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(level)))
            }
            Encoding::Br => {
                let mut params = brotli::enc::BrotliEncoderInitParams();
                params.quality = i32::try_from(level).unwrap_or(i32::MAX);
                params.lgwin = window_log(length).try_into().unwrap_or(18);
                params.size_hint = length.map_or(0, |length| length.try_into().unwrap_or(0));
                let writer =
                    brotli::CompressorWriter::with_params(Vec::new(), BROTLI_BUFFER, &params);
                Encoder::Br(Box::new(writer))
            }
            Encoding::Zstd => {
                let level = i32::try_from(level).unwrap_or(i32::MAX);
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
                encoder.window_log(window_log(length))?;
                encoder.set_pledged_src_size(length)?;
                Encoder::Zstd(encoder)
            }
        })
    }

    /// Takes a piece, and hands out what is ready. `flush` makes that everything so far.
    pub fn piece(&mut self, piece: &[u8], flush: bool) -> io::Result<Vec<u8>> {
        let writer: &mut dyn Write = match self {
            Encoder::Gzip(writer) => writer,
            Encoder::Br(writer) => writer,
            Encoder::Zstd(writer) => writer,
        };
        writer.write_all(piece)?;
        if flush {
            writer.flush()?;
        }
        Ok(std::mem::take(self.ready()))
    }

    /// Takes the last piece, and hands out the rest with the mark that it is complete.
    pub fn finish(mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        let mut rest = self.piece(piece, false)?;
        let end = match self {
            Encoder::Gzip(writer) => writer.finish()?,
            Encoder::Br(writer) => writer.into_inner(),
            Encoder::Zstd(writer) => writer.finish()?,
        };
        match rest.is_empty() {
            true => Ok(end),
            false => {
                rest.extend(end);
                Ok(rest)
            }
        }
    }

    fn ready(&mut self) -> &mut Vec<u8> {
        match self {
            Encoder::Gzip(writer) => writer.get_mut(),
            Encoder::Br(writer) => writer.get_mut(),
            Encoder::Zstd(writer) => writer.get_mut(),
        }
    }
}

/// The window that a body of this length needs: what lies further back than its beginning is of no use.
fn window_log(length: Option<u64>) -> u32 {
    let needed = length.map_or(WINDOW_LOG, |length| length.max(1).ilog2() + 1);
    needed.clamp(10, WINDOW_LOG)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    /// What a client makes of it; an error where it is not complete.
    pub fn decoded(encoding: Encoding, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        match encoding {
            Encoding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain)?,
            Encoding::Br => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut plain)?,
            Encoding::Zstd => zstd::stream::read::Decoder::new(bytes)?.read_to_end(&mut plain)?,
        };
        Ok(plain)
    }

    fn bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let piece = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            ("[a-c]{1,5}", 0_usize..20_000)
                .prop_map(|(text, count)| text.repeat(count).into_bytes()),
        ];
        prop::collection::vec(piece, 0..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_was_encoded_in_any_pieces_is_decoded_whole(
            pieces in bodies(), flushes in prop::collection::vec(any::<bool>(), 8), known: bool, last: bool,
        ) {
            let whole = pieces.concat();
            for encoding in Encoding::ALL {
                let (_, highest) = encoding.levels();
                for level in [encoding.default_level(), highest] {
                    let length = known.then_some(whole.len() as u64);
                    let mut encoder = Encoder::new(encoding, level, length).unwrap();
                    let (mut sent, mut taken) = (Vec::new(), 0);
                    let end = pieces.len().saturating_sub(usize::from(last));
                    for (piece, flush) in pieces[..end].iter().zip(&flushes) {
                        sent.extend(encoder.piece(piece, *flush).unwrap());
                        taken += piece.len();
                        if *flush {
                            // everything so far is there for the client, though the stream is not over
                            let mut plain = Vec::new();
                            read_some(encoding, &sent, &mut plain);
                            prop_assert_eq!(&plain, &whole[..taken]);
                        }
                    }
                    let rest = pieces.get(end).map_or(&[][..], |piece| piece);
                    sent.extend(encoder.finish(rest).unwrap());
                    prop_assert_eq!(decoded(encoding, &sent).unwrap(), whole.clone());
                }
            }
        }
    }

    /// Decodes what there is of a stream that goes on.
    fn read_some(encoding: Encoding, bytes: &[u8], plain: &mut Vec<u8>) {
        let _ = match encoding {
            Encoding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(plain),
            Encoding::Br => brotli::Decompressor::new(bytes, 4096).read_to_end(plain),
            Encoding::Zstd => zstd::stream::read::Decoder::new(bytes)
                .unwrap()
                .read_to_end(plain),
        };
    }

    #[test]
    fn a_stream_that_is_not_finished_does_not_decode() {
        for encoding in Encoding::ALL {
            let mut encoder = Encoder::new(encoding, encoding.default_level(), None).unwrap();
            let mut sent = encoder.piece(b"half of it", true).unwrap();
            assert!(decoded(encoding, &sent).is_err(), "{encoding:?}");
            sent.extend(encoder.finish(b"").unwrap());
            assert_eq!(decoded(encoding, &sent).unwrap(), b"half of it");
        }
    }

    #[test]
    fn a_window_is_no_larger_than_its_body_and_never_larger_than_the_bound() {
        assert_eq!(window_log(Some(1)), 10);
        assert_eq!(window_log(Some(4096)), 13);
        assert_eq!(window_log(Some(u64::MAX)), WINDOW_LOG);
        assert_eq!(window_log(None), WINDOW_LOG);
    }
}
