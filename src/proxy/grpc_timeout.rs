//! `grpc-timeout`: how long a caller of gRPC waits for the whole call ("gRPC over HTTP2", section "Requests":
//! `TimeoutValue` is one to eight digits, `TimeoutUnit` one letter).

use http::{HeaderName, HeaderValue};
use std::time::Duration;

/// How long a caller of gRPC waits.
pub static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The largest value that eight digits can say.
const VALUE_MAX: u128 = 99_999_999;

/// Units by their nanoseconds, smallest first.
const UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// The time that a field says; none if it is malformed.
pub fn parse(field: &[u8]) -> Option<Duration> {
    let (unit, digits) = field.split_last()?;
    let (_, nanos) = UNITS.iter().find(|(letter, _)| letter == unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits
        .iter()
        .fold(0_u64, |value, digit| value * 10 + u64::from(digit - b'0'));
    // 99,999,999 hours are more nanoseconds than 64 bits hold
    let nanos = u128::from(value) * u128::from(*nanos);
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    let rest = u32::try_from(nanos % 1_000_000_000).ok()?;
    Some(Duration::new(seconds, rest))
}

/// The field that says this time, rounded down to what eight digits hold: nobody may be promised more than is left.
pub fn field(time: Duration) -> HeaderValue {
    let nanos = time.as_nanos();
    let fitting = UNITS
        .iter()
        .map(|(letter, unit)| (*letter, nanos / u128::from(*unit)))
        .find(|(_, value)| *value <= VALUE_MAX);
    let (letter, value) = fitting.unwrap_or((b'H', VALUE_MAX));
    let text = format!("{value}{}", char::from(letter));
    // digits and a letter are a valid value
    HeaderValue::try_from(text).unwrap_or(const { HeaderValue::from_static("0n") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read_in_every_unit() {
        assert_eq!(parse(b"1S"), Some(Duration::from_secs(1)));
        assert_eq!(parse(b"250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse(b"7u"), Some(Duration::from_micros(7)));
        assert_eq!(parse(b"0n"), Some(Duration::ZERO));
        assert_eq!(parse(b"2M"), Some(Duration::from_secs(120)));
        let most = Duration::from_secs(99_999_999 * 3600);
        assert_eq!(parse(b"99999999H"), Some(most));
    }

    #[test]
    fn what_is_malformed_is_no_time() {
        for field in [
            "",
            "S",
            "1",
            "1s",
            "1h",
            "123456789n",
            "-1S",
            "+1S",
            "1.5S",
            " 1S",
            "1S ",
            "1SS",
            "0x1S",
        ] {
            assert_eq!(parse(field.as_bytes()), None, "{field:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_is_passed_on_is_never_more_and_hardly_less(nanos in 0_u64..u64::MAX) {
            let time = Duration::from_nanos(nanos);
            let written = parse(field(time).as_bytes()).unwrap();
            prop_assert!(written <= time);
            // seven digits hold at least
            prop_assert!((time - written).as_nanos() * 1_000_000 <= time.as_nanos().max(1) * 100);
        }
    }
}
