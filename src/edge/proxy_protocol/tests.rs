//! Headers as proxies send them, as nobody should, and in pieces.

use super::*;
use crate::upstream::proxy_protocol::{Header, Version};
use proptest::prelude::*;

/// A header of version 2 with these bytes behind its fixed part.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap();
    let fixed = [command, family, (length >> 8) as u8, length as u8];
    [&SIGNATURE[..], &fixed, rest].concat()
}

const TCP4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0x01, 0x02, 0x01, 0xbb];

fn fact(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind][..], &length, value].concat()
}

/// A header that ends with the right checksum.
fn summed(facts: &[u8]) -> Vec<u8> {
    let mut header = v2(
        0x21,
        0x11,
        &[&TCP4[..], facts, &fact(CRC32C, &[0; 4])].concat(),
    );
    let sum = crc32c(header.iter().copied()).to_be_bytes();
    let at = header.len() - sum.len();
    header[at..].copy_from_slice(&sum);
    header
}

fn parties(source: &str, destination: &str) -> Option<Parties> {
    Some(Parties {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    })
}

/// Whom a header names that is complete, and nothing but a header.
fn named(header: &[u8]) -> Option<Parties> {
    let introduction = parse(header).unwrap().unwrap();
    assert_eq!(introduction.length, header.len());
    introduction.parties
}

#[test]
fn version_1_names_the_parties_or_nobody() {
    let v4 = parties("192.168.0.1:56324", "192.168.0.11:443");
    assert_eq!(
        named(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"),
        v4
    );
    let v6 = parties("[2001:db8::1]:0", "[::ffff:10.0.0.1]:65535");
    assert_eq!(
        named(b"PROXY TCP6 2001:db8::1 ::ffff:10.0.0.1 0 65535\r\n"),
        v6
    );
    let longest = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                   ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert!(named(longest.as_bytes()).is_some());
    assert_eq!(named(b"PROXY UNKNOWN\r\n"), None);
    let rest = "x".repeat(LINE_BYTES_MAX - "PROXY UNKNOWN \r\n".len());
    assert_eq!(named(format!("PROXY UNKNOWN {rest}\r\n").as_bytes()), None);
}

#[test]
fn version_1_has_one_spelling() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n",
        "PROXY TCP4 192.0.2.1\t192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
        "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 2001:db8::2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY TCP6 [::1] ::1 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2  2\r\n",
        "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY unknown\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 \u{664}\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(Malformed), "{line:?}");
    }
    for text in [
        "GET / HTTP/1.1\r\n\r\n",
        "PROXYTCP4 ",
        "PROXY\t",
        "proxy ",
        " PROXY",
        "\n",
        "\r\nPROXY",
        "\x16\x03\x01",
    ] {
        assert_eq!(parse(text.as_bytes()), Err(Missing), "{text:?}");
    }
    let long = format!("PROXY UNKNOWN {}", "x".repeat(LINE_BYTES_MAX));
    assert_eq!(parse(long.as_bytes()), Err(TooLong));
    assert_eq!(parse(&long.as_bytes()[..LINE_BYTES_MAX]), Err(TooLong));
    assert_eq!(parse(&long.as_bytes()[..LINE_BYTES_MAX - 1]), Ok(None));
}

#[test]
fn version_2_names_the_parties_or_nobody() {
    let v4 = parties("192.0.2.1:258", "198.51.100.1:443");
    assert_eq!(named(&v2(0x21, 0x11, &TCP4)), v4);
    let mut v6 = [0; 36];
    (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 3, 4);
    assert_eq!(named(&v2(0x21, 0x21, &v6)), parties("[::1]:3", "[::2]:4"));
    // what it does not speak of is passed over
    let facts = [
        fact(0x04, &[]),
        fact(0x02, b"h.test"),
        fact(0xe0, &[7; 300]),
    ]
    .concat();
    assert_eq!(named(&v2(0x21, 0x11, &[&TCP4[..], &facts].concat())), v4);
    // nobody: datagrams, Unix sockets, an unspecified family or protocol with whatever follows
    for (family, length) in [
        (0x12, 12),
        (0x22, 36),
        (0x31, 216),
        (0x32, 216),
        (0x00, 0),
        (0x00, 5),
        (0x10, 3),
        (0x01, 0),
    ] {
        assert_eq!(
            named(&v2(0x21, family, &vec![0xff; length])),
            None,
            "{family:02x}"
        );
    }
    // LOCAL is passed over whole, whatever it says
    for (family, rest) in [
        (0x00, &[][..]),
        (0x11, &TCP4),
        (0x11, &[1]),
        (0xff, &[9; 40]),
    ] {
        assert_eq!(named(&v2(0x20, family, rest)), None, "{family:02x}");
    }
}

#[test]
fn version_2_keeps_its_rules() {
    let malformed = [
        // another version or command
        v2(0x11, 0x11, &TCP4),
        v2(0x31, 0x11, &TCP4),
        v2(0x22, 0x11, &TCP4),
        v2(0x2f, 0x11, &TCP4),
        // no family or protocol of the specification
        v2(0x21, 0x41, &TCP4),
        v2(0x21, 0x13, &TCP4),
        v2(0x21, 0xff, &TCP4),
        // too short for its addresses
        v2(0x21, 0x11, &TCP4[..11]),
        v2(0x21, 0x21, &[0; 35]),
        v2(0x21, 0x31, &[0; 215]),
        v2(0x21, 0x11, &[]),
        // facts that are cut off
        v2(0x21, 0x11, &[&TCP4[..], &[4]].concat()),
        v2(0x21, 0x11, &[&TCP4[..], &[4, 0]].concat()),
        v2(0x21, 0x11, &[&TCP4[..], &[4, 0, 1]].concat()),
        v2(0x21, 0x31, &[&[0; 216][..], &[4, 1, 0, 0]].concat()),
        // checksums that are none, or two
        v2(0x21, 0x11, &[&TCP4[..], &fact(CRC32C, &[0; 3])].concat()),
        v2(0x21, 0x11, &[&TCP4[..], &fact(CRC32C, &[0; 5])].concat()),
    ];
    for header in malformed {
        assert_eq!(parse(&header), Err(Malformed), "{header:02x?}");
    }
    let twice = [summed(&[]), fact(CRC32C, &[0; 4])].concat();
    assert!(matches!(parse(&twice), Ok(Some(introduction)) if introduction.length < twice.len()));
    let longest = v2(0x20, 0, &vec![0; HEADER_BYTES_MAX - FIXED_BYTES]);
    assert_eq!(named(&longest), None);
    // said at once, before any of it has come
    let longer = v2(0x21, 0x11, &vec![0; HEADER_BYTES_MAX - FIXED_BYTES + 1]);
    assert_eq!(parse(&longer[..FIXED_BYTES]), Err(TooLong));
}

#[test]
fn a_checksum_is_checked_where_there_is_one() {
    // RFC 3720, appendix B.4
    assert_eq!(crc32c([0; 32].into_iter()), 0x8a91_36aa);
    assert_eq!(crc32c([0xff; 32].into_iter()), 0x62a8_ab43);
    assert_eq!(crc32c(0..32), 0x46dd_794e);
    let good = summed(&fact(0x05, b"an id"));
    assert!(named(&good).is_some());
    // of another type it would be no checksum
    let kind_at = good.len() - 7;
    for at in (0..good.len()).filter(|at| *at != kind_at) {
        let mut bad = good.clone();
        bad[at] ^= 0x01;
        assert!(
            !matches!(
                parse(&bad),
                Ok(Some(Introduction {
                    parties: Some(_),
                    ..
                }))
            ),
            "byte {at}"
        );
    }
    // wherever it stands
    let mut first = v2(
        0x21,
        0x11,
        &[&TCP4[..], &fact(CRC32C, &[0; 4]), &fact(0x04, b"pad")].concat(),
    );
    let at = FIXED_BYTES + TCP4.len() + 3;
    let sum = crc32c(first.iter().copied()).to_be_bytes();
    first[at..at + 4].copy_from_slice(&sum);
    assert!(named(&first).is_some());
    first[at] ^= 0x80;
    assert_eq!(parse(&first), Err(Checksum));
}

/// Something that looks like a header.
fn alike() -> impl Strategy<Value = Vec<u8>> {
    let fixed = (
        0x1eu8..0x24,
        prop::sample::select(vec![0x00, 0x11, 0x12, 0x21, 0x31, 0x44]),
    );
    let binary = (fixed, prop::collection::vec(any::<u8>(), 0..300))
        .prop_map(|((command, family), rest)| v2(command, family, &rest));
    let line = "PROXY (TCP4|TCP6|UNKNOWN)?( [0-9a-f:.]{0,12}){0,5}(\r\n|\n|)";
    prop_oneof![
        binary,
        line.prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..64),
    ]
}

proptest! {
    /// What our own sender writes is what is read, in both versions.
    #[test]
    fn what_is_sent_is_what_is_read(from: IpAddr, to: IpAddr, from_port: u16, to_port: u16) {
        let parties = Parties {
            source: SocketAddr::new(from, from_port),
            destination: SocketAddr::new(to, to_port),
        };
        for version in [Version::V1, Version::V2] {
            let read = named(Header::new(version, Some(parties)).bytes()).unwrap();
            prop_assert_eq!(read.source.ip().to_canonical(), from.to_canonical());
            prop_assert_eq!(read.destination.ip().to_canonical(), to.to_canonical());
            prop_assert_eq!((read.source.port(), read.destination.port()), (from_port, to_port));
            prop_assert_eq!(named(Header::new(version, None).bytes()), None);
        }
    }

    /// Less than the whole is never a whole, more changes nothing, and what is refused stays so.
    #[test]
    fn a_verdict_does_not_depend_on_the_pieces(bytes in alike(), more in prop::collection::vec(any::<u8>(), 0..64)) {
        let verdict = parse(&bytes);
        let end = match verdict {
            Ok(Some(introduction)) => introduction.length,
            _ => bytes.len(),
        };
        prop_assert!(end <= bytes.len());
        let mut refused = None;
        for length in 0..end {
            match parse(&bytes[..length]) {
                Ok(None) => prop_assert_eq!(refused, None),
                Ok(Some(_)) => prop_assert!(false, "whole after {} of {}", length, end),
                Err(reason) => { refused.get_or_insert(reason); }
            }
        }
        if let Some(reason) = refused {
            prop_assert_eq!(verdict, Err(reason));
        }
        if verdict != Ok(None) {
            prop_assert_eq!(parse(&[bytes, more].concat()), verdict);
        }
    }
}
