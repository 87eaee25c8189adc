//! What the check of a head promises: the verdict is the same however the bytes arrive; what follows a head changes
//! nothing; and a head that passes is read by Pingora's parser as it was read here.

#![no_main]

use http::Uri;
use libfuzzer_sys::fuzz_target;
use northgate_fuzz::cuts_and_bytes;
use northgate_fuzz::edge::head::{Framing, Head, HeadScanner};
use northgate_fuzz::exchange::head_limits::HeadLimits;
use northgate_fuzz::problem::Kind;

/// Longer heads, of which only the bounds are new, are cut here and there.
const BYTE_BY_BYTE_MAX: usize = 1024;

type Verdict = Result<Option<Head>, Kind>;

fuzz_target!(|data: &[u8]| {
    let Some((cuts, bytes)) = cuts_and_bytes(data) else {
        return;
    };
    let verdict = in_pieces(bytes, [bytes.len()]);
    assert_eq!(in_pieces(bytes, cuts), verdict, "in pieces");
    if bytes.len() <= BYTE_BY_BYTE_MAX {
        let ends = 0..=bytes.len();
        assert_eq!(in_pieces(bytes, ends), verdict, "byte by byte");
    }
    if verdict != Ok(None) {
        let longer = [bytes, b"\r\nX: y\r\n\r\n\0\n"].concat();
        assert_eq!(
            in_pieces(&longer, [longer.len()]),
            verdict,
            "with more behind it"
        );
    }
    if let Ok(Some(head)) = verdict {
        check_accepted(&head, &bytes[head.start..head.end]);
    }
});

/// The verdict when the scanner is asked each time that so many bytes are there.
fn in_pieces(bytes: &[u8], ends: impl IntoIterator<Item = usize>) -> Verdict {
    let mut scanner = HeadScanner::new(HeadLimits::default());
    let mut verdict = Ok(None);
    for end in ends {
        verdict = scanner.advance(&bytes[..end]).map_err(|fault| fault.kind);
        if verdict != Ok(None) {
            break;
        }
    }
    verdict
}

fn check_accepted(head: &Head, text: &[u8]) {
    let limits = HeadLimits::default();
    assert!(head.end <= limits.bytes, "within the bounds");
    assert!(text.ends_with(b"\r\n\r\n"), "it ends with an empty line");
    assert_eq!(
        text.windows(4).position(|four| four == b"\r\n\r\n"),
        Some(text.len() - 4)
    );
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'\n' => assert_eq!(text[at - 1], b'\r', "a bare LF"),
            b'\r' => assert_eq!(text[at + 1], b'\n', "a bare CR"),
            b'\t' => {}
            byte => assert!(!byte.is_ascii_control(), "a control character"),
        }
    }
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut fields);
    let status = parsed.parse(text).expect("Pingora's parser takes it");
    assert_eq!(
        status,
        httparse::Status::Complete(text.len()),
        "it ends at the same byte"
    );
    check_request_line(&parsed, text);
    check_framing(head, &parsed);
}

fn check_request_line(parsed: &httparse::Request<'_, '_>, text: &[u8]) {
    let (method, target) = (
        parsed.method.expect("a method"),
        parsed.path.expect("a target"),
    );
    let version = parsed.version.expect("a version");
    let line = format!("{method} {target} HTTP/1.{version}\r\n");
    assert!(
        text.starts_with(line.as_bytes()),
        "one space between the parts"
    );
    assert!(!["CONNECT", "TRACE"].contains(&method));
    target
        .parse::<Uri>()
        .expect("Pingora's parser of URLs takes it");
    let hosts: Vec<&[u8]> = values(parsed, "host").collect();
    assert!(
        hosts.len() < 2 && (version == 0 || hosts.len() == 1),
        "one host"
    );
    if let (Some(host), Some((_, rest))) = (hosts.first(), target.split_once("://"))
        && !target.starts_with('/')
    {
        assert!(
            rest.as_bytes().starts_with(host),
            "the target's host is the same"
        );
    }
}

/// Where the content ends, said again from the fields as the other parser found them (RFC 9112 §6.3).
fn check_framing(head: &Head, parsed: &httparse::Request<'_, '_>) {
    let lengths: Vec<&[u8]> = values(parsed, "content-length").collect();
    let codings: Vec<&[u8]> = values(parsed, "transfer-encoding").collect();
    let framing = match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Framing::Length(0),
        ([length], []) => {
            assert!(length.iter().all(u8::is_ascii_digit), "digits only");
            let length = str::from_utf8(length).expect("digits");
            Framing::Length(length.parse().expect("a length that fits"))
        }
        ([], [coding]) => {
            assert!(coding.eq_ignore_ascii_case(b"chunked"));
            assert_eq!(parsed.version, Some(1));
            Framing::Chunked
        }
        several => panic!("ambiguous: {several:?}"),
    };
    assert_eq!(head.framing, framing);
    assert_eq!(head.upgrade, values(parsed, "upgrade").next().is_some());
    assert_eq!(
        head.expects_continue,
        values(parsed, "expect").next().is_some()
    );
}

fn values<'p>(
    parsed: &'p httparse::Request<'_, '_>,
    name: &'static str,
) -> impl Iterator<Item = &'p [u8]> {
    let fields = parsed.headers.iter();
    let named = fields.filter(move |field| field.name.eq_ignore_ascii_case(name));
    named.map(|field| field.value.trim_ascii())
}
