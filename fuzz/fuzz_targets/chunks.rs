//! What following a chunked content promises: the verdict is the same however the bytes arrive; nothing behind the end
//! is taken; and content that passes ends for another decoder where it ends here.

#![no_main]

use libfuzzer_sys::fuzz_target;
use northgate_fuzz::cuts_and_bytes;
use northgate_fuzz::edge::chunks::Chunks;
use northgate_fuzz::problem::Kind;

/// How many bytes belong to the content, and whether it has ended.
type Verdict = Result<(usize, bool), Kind>;

fuzz_target!(|data: &[u8]| {
    let Some((cuts, bytes)) = cuts_and_bytes(data) else {
        return;
    };
    let verdict = in_pieces(bytes, [bytes.len()]);
    assert_eq!(in_pieces(bytes, cuts), verdict, "in pieces");
    assert_eq!(in_pieces(bytes, 1..=bytes.len()), verdict, "byte by byte");
    match verdict {
        Ok((taken, true)) => {
            assert_eq!(
                end_of(bytes),
                Some(taken),
                "the other decoder ends elsewhere"
            );
            let next = b"GET / HTTP/1.1\r\n\r\n";
            let longer = [&bytes[..taken], next].concat();
            assert_eq!(in_pieces(&longer, [longer.len()]), Ok((taken, true)));
        }
        Ok((taken, false)) => assert_eq!(taken, bytes.len(), "all of it belongs to the content"),
        Err(kind) => assert!(matches!(
            kind,
            Kind::RequestFraming | Kind::RequestHeadLength
        )),
    }
    check_encoding(bytes);
});

fn in_pieces(bytes: &[u8], ends: impl IntoIterator<Item = usize>) -> Verdict {
    let mut chunks = Chunks::default();
    let mut taken = 0;
    for end in ends {
        if chunks.is_done() {
            break;
        }
        let piece = &bytes[taken..end];
        taken += chunks.advance(piece).map_err(|fault| fault.kind)?;
    }
    Ok((taken, chunks.is_done()))
}

/// Where content ends, by the parser that Pingora uses for the sizes.
fn end_of(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = bytes.get(at..)?;
        let Ok(httparse::Status::Complete((digits, size))) = httparse::parse_chunk_size(rest)
        else {
            return None;
        };
        at += digits;
        if size == 0 {
            break;
        }
        at = at.checked_add(usize::try_from(size).ok()?)?;
        if bytes.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    let mut fields = [httparse::EMPTY_HEADER; 4096];
    match httparse::parse_headers(bytes.get(at..)?, &mut fields) {
        Ok(httparse::Status::Complete((length, _))) => Some(at + length),
        _ => None,
    }
}

/// Whatever the bytes are, encoded they are followed to their end.
fn check_encoding(bytes: &[u8]) {
    let mut wire = Vec::new();
    for piece in bytes.chunks(usize::from(*bytes.first().unwrap_or(&1)).max(1)) {
        wire.extend(format!("{:X}\r\n", piece.len()).bytes());
        wire.extend(piece);
        wire.extend(b"\r\n");
    }
    wire.extend(b"0\r\n\r\n");
    assert_eq!(in_pieces(&wire, [wire.len()]), Ok((wire.len(), true)));
}
