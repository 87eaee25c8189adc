//! Trace context: which trace a request belongs to, and which step of it we are (W3C Trace Context, Level 2).
//!
//! A valid `traceparent` is continued: its trace id goes on, and every hop gets a parent id of its own. Anything else
//! is replaced by a new root (section 3.2.4 there: "If the vendor failed to parse traceparent, it creates a new
//! trace"). `tracestate` belongs to its `traceparent`: it passes only beside a valid one.

use super::random;
use http::HeaderName;
use std::fmt;

/// The header, lower case.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header that is passed on beside a valid `traceparent` only.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-` 32 digits `-` 16 digits `-` 2 digits.
const LENGTH: usize = 55;
/// The caller may have recorded this trace (section 3.2.2.5.1).
const SAMPLED: u8 = 1;
/// The trace id is random (section 3.2.2.5.2 of Level 2).
const RANDOM: u8 = 2;

/// One step of one trace. Neither id is ever zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

impl TraceContext {
    /// Continues the trace of a request's `traceparent` fields as a new step. None if there is not exactly one, or if
    /// it is not valid.
    pub fn continued<'a>(mut fields: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let field = fields.next()?;
        fields.next().is_none().then_some(())?;
        Self::parse(field).map(Self::child)
    }

    /// Starts a new trace. `sampled` tells those who follow that we record it, or wish them to.
    pub fn started(sampled: bool) -> Self {
        let trace_id = (u128::from(random::next()) << 64) | u128::from(random::next());
        Self {
            trace_id: trace_id.max(1),
            parent_id: random::next().max(1),
            flags: RANDOM | if sampled { SAMPLED } else { 0 },
        }
    }

    /// Another step of the same trace: one more hop, or another try.
    pub fn child(self) -> Self {
        Self {
            parent_id: random::next().max(1),
            ..self
        }
    }

    /// What a `traceparent` says. A version above 00 may have more after a dash, which is not understood and not
    /// passed on (section 3.2.4).
    pub fn parse(field: &[u8]) -> Option<Self> {
        let (known, rest) = field.split_at_checked(LENGTH)?;
        let mut parts = known.split(|byte| *byte == b'-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let parent_id = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = u8::try_from(hex(parts.next()?, 2)?).ok()?;
        let ends = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|byte| *byte == b'-'),
        };
        let valid = ends && parts.next().is_none() && trace_id != 0 && parent_id != 0;
        valid.then_some(Self {
            trace_id,
            parent_id,
            flags: flags & (SAMPLED | RANDOM),
        })
    }

    /// The field to send on, as version 00.
    pub fn header(&self) -> [u8; LENGTH] {
        let mut field = [b'-'; LENGTH];
        write_hex(field.get_mut(0..2), 0);
        write_hex(field.get_mut(3..35), self.trace_id);
        write_hex(field.get_mut(36..52), u128::from(self.parent_id));
        write_hex(field.get_mut(53..55), u128::from(self.flags));
        field
    }

    /// The id that all steps of the trace share.
    pub fn trace_id(&self) -> TraceId {
        TraceId(self.trace_id)
    }

    pub fn sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.header()).unwrap_or_default())
    }
}

/// The id of a whole trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(u128);

impl TraceId {
    /// Its 32 digits, lower case.
    pub fn digits(self) -> [u8; 32] {
        let mut digits = [b'0'; 32];
        write_hex(Some(&mut digits), self.0);
        digits
    }
}

/// Exactly `digits` lower-case hexadecimal digits; upper case is not valid here (section 3.2.2).
fn hex(text: &[u8], digits: usize) -> Option<u128> {
    if text.len() != digits {
        return None;
    }
    text.iter().try_fold(0, |value, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some((value << 4) | u128::from(digit))
    })
}

/// The last digits of a number, as many as there is room for.
fn write_hex(place: Option<&mut [u8]>, value: u128) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| DIGITS.get(usize::from(value & 15)).copied().unwrap_or(b'0');
    let pairs = place
        .into_iter()
        .flat_map(|place| place.rchunks_exact_mut(2));
    for (pair, byte) in pairs.zip(value.to_le_bytes()) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VALID: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parse(text: &str) -> Option<TraceContext> {
        TraceContext::parse(text.as_bytes())
    }

    #[test]
    fn a_valid_parent_is_continued_with_a_step_of_its_own() {
        let parent = TraceContext::parse(VALID).unwrap();
        assert_eq!(parent.header(), VALID);
        let step = TraceContext::continued([VALID].into_iter()).unwrap();
        assert_eq!(step.trace_id(), parent.trace_id());
        assert_ne!(step.parent_id, parent.parent_id);
        assert!(step.sampled());
    }

    #[test]
    fn what_the_standard_calls_invalid_is_refused() {
        for invalid in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-011",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333g-01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0-00af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(parse(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-fd-what-the-future-holds";
        let context = parse(later).unwrap();
        assert_eq!(context.header(), VALID);
    }

    #[test]
    fn two_parents_are_none() {
        assert_eq!(TraceContext::continued([VALID, VALID].into_iter()), None);
        assert_eq!(TraceContext::continued(std::iter::empty()), None);
    }

    proptest! {
        #[test]
        fn what_is_sent_on_reads_as_what_it_was(sampled: bool) {
            let context = TraceContext::started(sampled);
            prop_assert_eq!(TraceContext::parse(&context.header()), Some(context));
            prop_assert_eq!(context.sampled(), sampled);
        }

        #[test]
        fn no_bytes_are_too_strange(field in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(context) = TraceContext::parse(&field) {
                prop_assert_eq!(&context.header()[3..53], &field[3..53]);
            }
        }

        #[test]
        fn one_changed_byte_never_yields_the_same_ids(at in 3usize..52, byte: u8) {
            let mut field = VALID.to_vec();
            prop_assume!(field[at] != byte);
            field[at] = byte;
            prop_assert_ne!(TraceContext::parse(&field), TraceContext::parse(VALID));
        }
    }
}
