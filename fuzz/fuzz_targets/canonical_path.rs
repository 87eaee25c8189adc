//! What the canonical form promises: it is one, it says the same to every server, and the target made of it is one that
//! parsers of URLs hold whole.

#![no_main]

use http::{Uri, Version};
use libfuzzer_sys::fuzz_target;
use northgate_fuzz::exchange::Scheme;
use northgate_fuzz::exchange::canonical::{
    Raw, canonical, canonical_host, canonical_path, parse_authority,
};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

fuzz_target!(|data: &[u8]| {
    check_request(data);
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    if let Ok(path) = canonical_path(text) {
        check_path(&path.text, path.encoded_slash);
    }
    if let Ok((host, port)) = parse_authority(text, Scheme::Http) {
        assert_eq!(
            canonical_host(host.as_str()),
            Ok(host.clone()),
            "one spelling of a host"
        );
        assert_ne!(port, Some(80));
        assert!(!host.as_str().is_empty());
    }
});

/// The bytes as a target, in both versions. Parsers have taken it for a URL by the time that it is made canonical.
fn check_request(target: &[u8]) {
    if Uri::try_from(target).is_err() {
        return;
    }
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let Ok(found) = canonical(&raw(target, version)) else {
            continue;
        };
        assert_eq!((found.host.as_str(), found.port), ("h.test", None));
        let target = found.target();
        let uri: Uri = target.parse().expect("a target that parsers take");
        assert_eq!(uri.path(), found.path, "and that they hold whole");
        assert_eq!(uri.query(), found.query);
        assert_eq!(uri.authority(), None);
        let again = canonical(&raw(target.as_bytes(), version)).expect("canonical again");
        assert_eq!(
            (&again.path, again.query, again.rewritten),
            (&found.path, found.query, false)
        );
    }
}

fn raw(target: &[u8], version: Version) -> Raw<'_> {
    Raw {
        method: "GET",
        target,
        hosts: [&b"h.test"[..]].into_iter().collect(),
        authority: None,
        version,
        scheme: Scheme::Http,
    }
}

fn check_path(path: &str, encoded_slash: bool) {
    let twice = canonical_path(path).expect("it stays canonical");
    assert!(
        matches!(twice.text, Cow::Borrowed(same) if same == path),
        "twice changes nothing"
    );
    assert!(encoded_slash || !twice.encoded_slash);
    assert!(path.starts_with('/') && !path.contains("//") && !path.contains('\\'));
    check_characters(path);
    if encoded_slash {
        // only a route that allows it gets to see it, and even there no dots hide behind it
        let decoded = decoded(&without_parameters(path));
        assert!(
            decoded
                .split('/')
                .all(|segment| segment != "." && segment != "..")
        );
        return;
    }
    let plain: Vec<String> = path
        .split('/')
        .filter(|part| !part.is_empty())
        .map(decoded)
        .collect();
    let once = decoded(path);
    assert_eq!(
        resolved(&once),
        plain,
        "decoding first finds the same segments"
    );
    assert_eq!(
        resolved(&decoded(&once)).len(),
        plain.len(),
        "decoding twice finds as many"
    );
    let bare = |segment: &String| segment.split(';').next().unwrap_or_default().to_owned();
    let bare: Vec<String> = plain
        .iter()
        .map(bare)
        .filter(|segment| !segment.is_empty())
        .collect();
    assert_eq!(
        resolved(&without_parameters(&once)),
        bare,
        "nor do parameters hide one"
    );
}

/// `pchar` (RFC 3986 §3.3), escapes in upper case, and nothing escaped that needs no escape.
fn check_characters(path: &str) {
    let bytes = path.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        if *byte != b'%' {
            let plain = byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(byte);
            assert!(plain, "{:?}", char::from(*byte));
            continue;
        }
        let digits = path.get(at + 1..at + 3).expect("two digits");
        assert_eq!(digits, digits.to_ascii_uppercase());
        let byte = u8::from_str_radix(digits, 16).expect("hexadecimal");
        assert!(!byte.is_ascii_alphanumeric() && !b"-._~\0\\".contains(&byte));
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn without_parameters(path: &str) -> String {
    let segments: Vec<&str> = path
        .split('/')
        .map(|part| part.split(';').next().unwrap_or_default())
        .collect();
    segments.join("/")
}

/// What is left when empty and dot segments are gone.
fn resolved(path: &str) -> Vec<String> {
    let mut segments = Vec::new();
    for segment in path.replace('\\', "/").split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other.to_owned()),
        }
    }
    segments
}
