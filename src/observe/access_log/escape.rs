//! Bytes of others inside a line: nothing they hold can end a string, a line, or steer a terminal.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Printable ASCII except the quote and the backslash.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// Cuts off the plain start.
fn plain_start(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !is_plain(*byte));
    text.split_at(end.unwrap_or(text.len()))
}

/// Whether nothing needs an escape, which is nearly always so. Without a branch for each byte.
fn is_all_plain(text: &[u8]) -> bool {
    text.iter()
        .fold(true, |plain, byte| plain & is_plain(*byte))
}

/// The inside of a JSON string (RFC 8259 §7). Bytes that are not UTF-8 become U+FFFD.
pub fn write_json(mut text: &[u8], line: &mut Vec<u8>) {
    if is_all_plain(text) {
        return line.extend_from_slice(text);
    }
    loop {
        let (plain, rest) = plain_start(text);
        line.extend_from_slice(plain);
        let Some((first, after)) = rest.split_first() else {
            return;
        };
        text = match first {
            0..=0x7f => {
                write_json_ascii(*first, line);
                after
            }
            _ => {
                let end = rest.iter().position(u8::is_ascii).unwrap_or(rest.len());
                let (foreign, after) = rest.split_at(end);
                write_json_foreign(foreign, line);
                after
            }
        };
    }
}

fn write_json_ascii(byte: u8, line: &mut Vec<u8>) {
    match byte {
        b'"' => line.extend_from_slice(b"\\\""),
        b'\\' => line.extend_from_slice(b"\\\\"),
        b'\n' => line.extend_from_slice(b"\\n"),
        b'\r' => line.extend_from_slice(b"\\r"),
        b'\t' => line.extend_from_slice(b"\\t"),
        _ => write_json_code(u16::from(byte), line),
    }
}

fn write_json_foreign(foreign: &[u8], line: &mut Vec<u8>) {
    for chunk in foreign.utf8_chunks() {
        for char in chunk.valid().chars() {
            match u16::try_from(u32::from(char)) {
                Ok(code) if deceives(char) => write_json_code(code, line),
                _ => line.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            line.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Control characters of terminals, and those that reorder or break lines where a log is viewed.
fn deceives(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn write_json_code(code: u16, line: &mut Vec<u8>) {
    line.extend_from_slice(b"\\u");
    for shift in [12, 8, 4, 0] {
        line.push(hex_digit(code >> shift));
    }
}

/// The inside of a quoted field of the combined format: `\xHH` for everything that is not plain, as Apache writes it.
pub fn write_quoted(mut text: &[u8], line: &mut Vec<u8>) {
    loop {
        let (plain, rest) = plain_start(text);
        line.extend_from_slice(plain);
        let Some((first, after)) = rest.split_first() else {
            return;
        };
        match first {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', *first]),
            other => {
                let (high, low) = (u16::from(other >> 4), u16::from(*other));
                line.extend_from_slice(&[b'\\', b'x', hex_digit(high), hex_digit(low)]);
            }
        }
        text = after;
    }
}

fn hex_digit(value: u16) -> u8 {
    HEX.get(usize::from(value & 15)).copied().unwrap_or(b'0')
}

/// A number in decimal.
pub fn write_number(mut number: u64, line: &mut Vec<u8>) {
    // most of them are counts of tries and empty bodies
    if number < 10 {
        return line.push(b'0' + number as u8);
    }
    let mut digits = [0; 20];
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        count += 1;
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(digits.get(digits.len() - count..).unwrap_or_default());
}

/// Milliseconds with three decimals.
pub fn write_milliseconds(duration: Duration, line: &mut Vec<u8>) {
    let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    write_number(microseconds / 1000, line);
    let decimals = microseconds % 1000;
    let digit = |of: u64| b'0' + (decimals / of % 10) as u8;
    line.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
}

/// An address without its port.
pub fn write_address(address: IpAddr, line: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => write_v4(address, line),
        // writing to a vector can't fail
        IpAddr::V6(address) => drop(write!(line, "{address}")),
    }
}

fn write_v4(address: Ipv4Addr, line: &mut Vec<u8>) {
    let [first, rest @ ..] = address.octets();
    write_number(u64::from(first), line);
    for octet in rest {
        line.push(b'.');
        write_number(u64::from(octet), line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(text: &[u8]) -> String {
        let mut line = vec![b'"'];
        write_json(text, &mut line);
        line.push(b'"');
        String::from_utf8(line).unwrap()
    }

    fn text_of(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut line = Vec::new();
        write(&mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn what_could_break_out_is_escaped() {
        assert_eq!(
            json(b"a\"b\\c\n\r\t\0\x1b[2J\x7f"),
            r#""a\"b\\c\n\r\t\u0000\u001b[2J\u007f""#
        );
        assert_eq!(json("é\u{85}\u{202e}x".as_bytes()), "\"é\\u0085\\u202ex\"");
        assert_eq!(json(b"a\xff\xfeb\xc3"), "\"a\u{fffd}\u{fffd}b\u{fffd}\"");
        let quoted = text_of(|line| write_quoted(b"a\"\\\n\xc3\xa9\x7f", line));
        assert_eq!(quoted, r#"a\"\\\x0a\xc3\xa9\x7f"#);
    }

    proptest! {
        #[test]
        fn json_strings_read_back_and_stay_on_their_line(text: String) {
            let written = json(text.as_bytes());
            prop_assert!(!written.chars().any(char::is_control));
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
        }

        #[test]
        fn any_bytes_become_the_json_of_their_lossy_text(bytes: Vec<u8>) {
            let read: String = serde_json::from_str(&json(&bytes)).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn quoted_fields_are_printable_ascii_and_end_where_they_end(bytes: Vec<u8>) {
            let written = text_of(|line| write_quoted(&bytes, line));
            prop_assert!(written.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            let unescaped = written.replace(r"\\", "").replace("\\\"", "");
            prop_assert!(!unescaped.contains('"'));
        }

        #[test]
        fn numbers_are_written_as_the_standard_library_does(number: u64, bits: u32, wide: u128) {
            prop_assert_eq!(text_of(|line| write_number(number, line)), number.to_string());
            let milliseconds = text_of(|line| write_milliseconds(Duration::from_micros(number), line));
            prop_assert_eq!(milliseconds, format!("{}.{:03}", number / 1000, number % 1000));
            for address in [IpAddr::from(Ipv4Addr::from(bits)), IpAddr::from(std::net::Ipv6Addr::from(wide))] {
                prop_assert_eq!(text_of(|line| write_address(address, line)), address.to_string());
            }
        }
    }
}
