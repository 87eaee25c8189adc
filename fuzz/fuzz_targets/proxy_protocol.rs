//! What reading the PROXY protocol's header promises: no verdict comes of a part, what follows changes nothing, no more is
//! asked for than there may be; and a line of version 1 that is taken is the one spelling of what it says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use northgate_fuzz::edge::proxy_protocol::{
    HEADER_BYTES_MAX, Introduction, LINE_BYTES_MAX, ProxyProtocolFailure, parse,
};
use std::net::SocketAddr;

fuzz_target!(|data: &[u8]| {
    let verdict = parse(data);
    let end = match verdict {
        Ok(Some(introduction)) => introduction.length,
        _ => data.len(),
    };
    assert!(end <= data.len());
    check_parts(&data[..end], verdict.err());
    match verdict {
        Ok(None) => {
            let most = match data.starts_with(b"PROXY ") {
                true => LINE_BYTES_MAX,
                false => HEADER_BYTES_MAX,
            };
            assert!(data.len() < most, "more is waited for");
        }
        verdict => {
            let longer = [data, b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(parse(&longer), verdict, "with more behind it");
        }
    }
    if let Ok(Some(introduction)) = verdict {
        check_taken(&data[..end], introduction);
    }
});

/// Whatever is left out at the end, nothing is taken, and nothing is refused for another reason.
fn check_parts(whole: &[u8], refused: Option<ProxyProtocolFailure>) {
    let mut before = None;
    for length in 0..whole.len() {
        match parse(&whole[..length]) {
            Ok(None) => assert_eq!(before, None, "what is refused stays so"),
            Ok(Some(introduction)) => panic!("a part is taken for the whole: {introduction:?}"),
            Err(reason) => before = before.or(Some(reason)),
        }
    }
    assert!(before.is_none() || before == refused);
}

fn check_taken(header: &[u8], introduction: Introduction) {
    let Some(text) = header.strip_prefix(b"PROXY ") else {
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        assert_eq!(
            header.len(),
            16 + length,
            "it has the length that it states"
        );
        return;
    };
    assert!(header.len() <= LINE_BYTES_MAX);
    let text = text.strip_suffix(b"\r\n").expect("a line");
    let Some(parties) = introduction.parties else {
        assert!(text.starts_with(b"UNKNOWN"));
        return;
    };
    let text = str::from_utf8(text).expect("ASCII");
    let words: Vec<&str> = text.split(' ').collect();
    let [family, from, to, from_port, to_port] = words[..] else {
        panic!("five words")
    };
    let is_v4 = family == "TCP4";
    for (told, ip, port) in [
        (parties.source, from, from_port),
        (parties.destination, to, to_port),
    ] {
        assert_eq!(
            told,
            SocketAddr::new(ip.parse().expect("an address"), told.port())
        );
        assert_eq!(told.is_ipv4(), is_v4);
        assert_eq!(told.port().to_string(), port, "one spelling");
        assert!(!is_v4 || told.ip().to_string() == ip, "one spelling");
    }
}
