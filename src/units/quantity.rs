//! Sizes, rates and ratios.

use super::{Duration, Invalid, written_as_text};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// Units by their size in bytes, largest first.
const SIZES: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// A number of bytes: `64KiB 10MiB`. The units are powers of two, so that nobody has to guess which `MB` is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
        let invalid = || Invalid::new(format!("`{text}` is not a size"));
        if number.is_empty() {
            return Err(invalid().hint("such as `64KiB` or `10MiB`"));
        }
        if unit.is_empty() {
            return Err(Invalid::new(format!("the size `{text}` lacks a unit"))
                .hint(format!("`{text}KiB` or `{text}B`")));
        }
        let bytes = SIZES
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, bytes)| *bytes)
            .ok_or_else(|| match meant(unit) {
                Some(meant) => {
                    invalid().hint(format!("sizes are powers of 1024: `{number}{meant}`"))
                }
                None => invalid().hint("the units are `B`, `KiB`, `MiB` and `GiB`"),
            })?;
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(bytes))
            .map(Self)
            .ok_or_else(|| Invalid::new(format!("the size `{text}` is too large")))
    }
}

/// The unit that a familiar spelling stands for.
fn meant(unit: &str) -> Option<&'static str> {
    match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "ki" | "kib" => Some("KiB"),
        "m" | "mb" | "mi" | "mib" => Some("MiB"),
        "g" | "gb" | "gi" | "gib" => Some("GiB"),
        "b" | "byte" | "bytes" => Some("B"),
        _ => None,
    }
}

/// The largest unit of which it is a whole number.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = SIZES
            .iter()
            .find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit));
        match fitting {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

written_as_text!(ByteSize, "a size, such as `10MiB`", {
    "description": "A number of bytes: a whole number and one of the units B, KiB, MiB, GiB.",
    "type": "string",
    "pattern": "^[0-9]+(B|KiB|MiB|GiB)$",
    "examples": ["64KiB", "10MiB"],
});

/// So many in so long: `100/1s 5000/1h`. Neither part is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    pub count: NonZeroU64,
    pub window: Duration,
}

impl FromStr for Rate {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::new(format!("`{text}` is not a rate"));
        let example = "such as `100/1s` or `5000/1h`";
        let (count, window) = text
            .split_once('/')
            .ok_or_else(|| match text.parse::<u64>() {
                Ok(_) => Invalid::new(format!("the rate `{text}` lacks a window"))
                    .hint(format!("`{text}/1s`")),
                Err(_) => invalid().hint(example),
            })?;
        if !window.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(invalid().hint(format!("the window has a number too: `{count}/1{window}`")));
        }
        let window: Duration = window.parse()?;
        if window.is_zero() {
            return Err(invalid().hint("the window must be longer than nothing"));
        }
        if !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid().hint(example));
        }
        let count = count
            .parse()
            .map_err(|_| invalid().hint("the count is a whole number from 1"))?;
        Ok(Self { count, window })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.window)
    }
}

written_as_text!(Rate, "a rate, such as `100/1s`", {
    "description": "So many in so long.",
    "type": "string",
    "pattern": "^0*[1-9][0-9]*/[0-9]+(ms|s|m|h|d)$",
    "examples": ["100/1s", "5000/1h"],
});

/// Of a whole: `20%`, `0.5%`. Kept in parts per million; at most 100 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ratio(u32);

impl Ratio {
    /// All of it.
    pub const ONE: Ratio = Ratio(1_000_000);

    /// So many percent; more than 100 are 100.
    pub const fn from_percent(percent: u32) -> Self {
        Self(if percent > 100 {
            1_000_000
        } else {
            percent * 10_000
        })
    }

    pub const fn parts_per_million(self) -> u32 {
        self.0
    }

    /// Between 0 and 1.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1e6
    }

    /// This part of a number, rounded up.
    pub fn of_ceil(self, whole: u64) -> u64 {
        let part = (u128::from(whole) * u128::from(self.0)).div_ceil(1_000_000);
        u64::try_from(part).unwrap_or(whole)
    }

    /// This part of a number, rounded down.
    pub fn of(self, whole: u64) -> u64 {
        let part = u128::from(whole) * u128::from(self.0) / 1_000_000;
        u64::try_from(part).unwrap_or(whole)
    }
}

impl FromStr for Ratio {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::new(format!("`{text}` is not a ratio"));
        let number =
            text.strip_suffix('%')
                .ok_or_else(|| match text.parse::<f64>() {
                    Ok(_) => Invalid::new(format!("the ratio `{text}` lacks its `%`"))
                        .hint("such as `20%`"),
                    Err(_) => invalid().hint("such as `20%` or `0.5%`"),
                })?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(invalid().hint("such as `20%` or `0.5%`"));
        }
        if fraction.len() > 4 {
            return Err(invalid().hint("at most four digits after the point"));
        }
        let whole: u32 = whole.parse().unwrap_or(u32::MAX);
        let fraction: u32 = format!("{fraction:0<4}").parse().unwrap_or(0);
        whole
            .checked_mul(10_000)
            .and_then(|parts| parts.checked_add(fraction))
            .filter(|parts| *parts <= Ratio::ONE.0)
            .map(Self)
            .ok_or_else(|| invalid().hint("at most `100%`"))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 10_000, self.0 % 10_000);
        if fraction == 0 {
            return write!(f, "{whole}%");
        }
        let fraction = format!("{fraction:04}");
        write!(f, "{whole}.{}%", fraction.trim_end_matches('0'))
    }
}

written_as_text!(Ratio, "a ratio, such as `20%`", {
    "description": "A part of the whole, in percent.",
    "type": "string",
    "pattern": "^[0-9]+(\\.[0-9]{1,4})?%$",
    "examples": ["20%", "0.5%"],
});

/// How many of something: `500 10k 1M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count(pub NonZeroU64);

impl Count {
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl FromStr for Count {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::new(format!("`{text}` is not a count"));
        let example = "such as `500`, `10k` or `1M`";
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
        let unit = match unit {
            "" => 1,
            "k" => 1000,
            "M" => 1_000_000,
            "K" => return Err(invalid().hint(format!("`{number}k`"))),
            "m" => return Err(invalid().hint(format!("`{number}M`"))),
            _ => return Err(invalid().hint(example)),
        };
        let number: u64 = number.parse().map_err(|_| invalid().hint(example))?;
        let whole = number.checked_mul(unit);
        let whole = whole.ok_or_else(|| Invalid::new(format!("the count `{text}` is too large")));
        NonZeroU64::new(whole?)
            .map(Self)
            .ok_or_else(|| invalid().hint("from 1"))
    }
}

/// With the largest unit of which it is a whole number.
impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            count if count.is_multiple_of(1_000_000) => write!(f, "{}M", count / 1_000_000),
            count if count.is_multiple_of(1000) => write!(f, "{}k", count / 1000),
            count => write!(f, "{count}"),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl Visitor<'_> for Form {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a count, such as `500` or `10k`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Count, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Count, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Count, E> {
                self.visit_str(&number.to_string())
            }
        }

        deserializer.deserialize_any(Form)
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Count {
    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "description": "How many of something.",
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": "^0*[1-9][0-9]*[kM]?$", "examples": ["500", "10k", "1M"]},
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sizes_are_read_back(bytes: u64) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }

        #[test]
        fn rates_are_read_back(count in 1u64.., secs in 1u64..1_000_000) {
            let count = NonZeroU64::new(count).expect("from 1");
            let rate = Rate { count, window: Duration::from_secs(secs) };
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }

        #[test]
        fn ratios_are_read_back(parts in 0u32..=1_000_000) {
            prop_assert_eq!(Ratio(parts).to_string().parse(), Ok(Ratio(parts)));
        }

        #[test]
        fn a_ratio_of_a_number_is_never_more_than_it(parts in 0u32..=1_000_000, whole: u64) {
            prop_assert!(Ratio(parts).of(whole) <= whole);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (text.parse::<ByteSize>(), text.parse::<Rate>(), text.parse::<Ratio>());
        }
    }

    #[test]
    fn familiar_spellings_are_told_the_right_one() {
        let hint = |text: &str| text.parse::<ByteSize>().unwrap_err().hint;
        assert_eq!(
            hint("10MB"),
            Some("sizes are powers of 1024: `10MiB`".into())
        );
        assert_eq!(hint("10"), Some("`10KiB` or `10B`".into()));
        let hint = |text: &str| text.parse::<Rate>().unwrap_err().hint;
        assert_eq!(
            hint("100/s"),
            Some("the window has a number too: `100/1s`".into())
        );
        assert_eq!(hint("100"), Some("`100/1s`".into()));
        assert_eq!(hint("100/10"), Some("`10s` or `10ms`".into()));
        let hint = |text: &str| text.parse::<Ratio>().unwrap_err().hint;
        assert_eq!(hint("0.2"), Some("such as `20%`".into()));
    }
}
