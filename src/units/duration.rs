//! Lengths of time: `250ms 30s 5m 1h 30d`.

use super::{Invalid, written_as_text};
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

/// The longest duration that may be written: ten years. Adding it to any clock's reading can't overflow.
const LONGEST_MS: u64 = 3650 * 86_400_000;

/// Units by their length in milliseconds, longest first.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// As clients are told to wait: in whole seconds, rounded up, and at least one.
pub const fn whole_seconds(time: std::time::Duration) -> u64 {
    let seconds = time
        .as_secs()
        .saturating_add((time.subsec_nanos() > 0) as u64);
    if seconds == 0 { 1 } else { seconds }
}

/// A length of time in whole milliseconds: a number and its unit, of `ms s m h d`. At most ten years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub std::time::Duration);

impl Duration {
    pub const fn from_secs(secs: u64) -> Self {
        Self(std::time::Duration::from_secs(secs))
    }

    pub const fn from_millis(millis: u64) -> Self {
        Self(std::time::Duration::from_millis(millis))
    }

    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl Deref for Duration {
    type Target = std::time::Duration;

    fn deref(&self) -> &std::time::Duration {
        &self.0
    }
}

impl FromStr for Duration {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
        if number.is_empty() {
            return Err(Invalid::new(format!("`{text}` is not a duration"))
                .hint("such as `250ms`, `30s`, `5m`, `1h`"));
        }
        if unit.is_empty() {
            return Err(Invalid::new(format!("the duration `{text}` lacks a unit"))
                .hint(format!("`{text}s` or `{text}ms`")));
        }
        let millis = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, millis)| *millis)
            .ok_or_else(|| unknown_unit(text, unit))?;
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(millis))
            .filter(|total| *total <= LONGEST_MS)
            .map(Self::from_millis)
            .ok_or_else(|| {
                Invalid::new(format!("the duration `{text}` is too long")).hint("at most `3650d`")
            })
    }
}

fn unknown_unit(text: &str, unit: &str) -> Invalid {
    let invalid = Invalid::new(format!("`{text}` is not a duration"));
    if unit.starts_with('.') {
        return invalid.hint("whole numbers only: `1500ms` instead of `1.5s`");
    }
    if unit.starts_with(' ') {
        return invalid.hint(format!("without a blank: `{}`", text.replace(' ', "")));
    }
    if unit.bytes().any(|byte| byte.is_ascii_digit()) {
        return invalid.hint("one number and one unit: `90m` instead of `1h30m`");
    }
    invalid.hint("the units are `ms`, `s`, `m`, `h` and `d`")
}

/// The longest unit of which it is a whole number.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        let fitting = UNITS
            .iter()
            .find(|(_, unit)| millis.is_multiple_of(u128::from(*unit)));
        match fitting {
            Some((name, unit)) => write!(f, "{}{name}", millis / u128::from(*unit)),
            None => write!(f, "{millis}ms"),
        }
    }
}

written_as_text!(Duration, "a duration, such as `30s`", {
    "description": "A length of time: a whole number and one of the units ms, s, m, h, d.",
    "type": "string",
    "pattern": "^[0-9]+(ms|s|m|h|d)$",
    "examples": ["250ms", "30s", "5m", "1h", "30d"],
});

/// How long something may take: a [`Duration`] that is longer than none, within which nothing could ever come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeBound(pub std::time::Duration);

impl FromStr for TimeBound {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.parse::<Duration>()?.0 {
            std::time::Duration::ZERO => Err(Invalid::new("nothing comes within no time")
                .hint("such as `30s`; `off` where there is to be no bound")),
            time => Ok(Self(time)),
        }
    }
}

impl fmt::Display for TimeBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Duration(self.0).fmt(f)
    }
}

written_as_text!(TimeBound, "a duration, such as `30s`", {
    "description": "How long something may take: a whole number above 0 and one of the units ms, s, m, h, d.",
    "type": "string",
    "pattern": "^0*[1-9][0-9]*(ms|s|m|h|d)$",
    "examples": ["250ms", "30s", "5m", "1h", "30d"],
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(millis in 0..=LONGEST_MS) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<Duration>();
        }
    }

    #[test]
    fn waits_are_rounded_up_to_whole_seconds() {
        let told = |millis| whole_seconds(std::time::Duration::from_millis(millis));
        assert_eq!([0, 1, 1000, 1001, 59_999].map(told), [1, 1, 1, 2, 60]);
        assert_eq!(whole_seconds(std::time::Duration::MAX), u64::MAX);
    }

    #[test]
    fn a_bare_number_is_told_what_it_lacks() {
        let invalid = "30".parse::<Duration>().unwrap_err();
        assert_eq!(
            invalid.to_string(),
            "the duration `30` lacks a unit\nhint: `30s` or `30ms`"
        );
    }

    #[test]
    fn the_longest_fitting_unit_is_printed() {
        let printed = |text: &str| {
            text.parse::<Duration>()
                .map(|duration| duration.to_string())
        };
        assert_eq!(printed("3600s"), Ok("1h".into()));
        assert_eq!(printed("90m"), Ok("90m".into()));
        assert_eq!(printed("1500ms"), Ok("1500ms".into()));
        assert_eq!(printed("0ms"), Ok("0s".into()));
    }
}
