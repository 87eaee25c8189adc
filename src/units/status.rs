//! Statuses of answers: one, or a range of them.

use super::Invalid;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A status, `204`, or a range of them, `200-299`, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatusRange {
    first: u16,
    last: u16,
}

impl StatusRange {
    /// The successful ones (RFC 9110 §15.3).
    pub const SUCCESSFUL: StatusRange = StatusRange {
        first: 200,
        last: 299,
    };

    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl FromStr for StatusRange {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |hint: &str| {
            let message = format!(
                "`{}` is not a status or a range of them",
                text.escape_debug()
            );
            Err(Invalid::new(message).hint(hint))
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |part: &str| match part.len() {
            3 if part.bytes().all(|byte| byte.is_ascii_digit()) => part.parse::<u16>().ok(),
            _ => None,
        };
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first > last => invalid("the lower one comes first"),
            (Some(first), Some(last)) if first >= 200 && last < 600 => Ok(Self { first, last }),
            (Some(_), Some(_)) => invalid("from 200 to 599: an answer ends with one of them"),
            _ => invalid("such as `204` or `200-299`"),
        }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = StatusRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status, or a range such as `200-299`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<StatusRange, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<StatusRange, E> {
                self.visit_str(&number.to_string())
            }
        }

        deserializer.deserialize_any(Text)
    }
}

impl Serialize for StatusRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.first == self.last {
            true => serializer.serialize_u16(self.first),
            false => serializer.collect_str(self),
        }
    }
}

impl JsonSchema for StatusRange {
    fn schema_name() -> Cow<'static, str> {
        "StatusRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A status, or a range of them.",
            "anyOf": [
                {"type": "integer", "minimum": 200, "maximum": 599},
                {"type": "string", "pattern": "^[2-5][0-9]{2}(-[2-5][0-9]{2})?$"},
            ],
            "examples": [204, "200-299"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_ranges_are_read_back() {
        for text in ["204", "200-299", "503"] {
            assert_eq!(text.parse::<StatusRange>().unwrap().to_string(), text);
        }
        let range: StatusRange = "200-299".parse().unwrap();
        assert!(range.contains(200) && range.contains(299));
        assert!(!range.contains(199) && !range.contains(300));
        for text in [
            "", "2xx", "299-200", "100", "600", "20", "200-", "-200", "+20", "200-2999",
        ] {
            assert!(text.parse::<StatusRange>().is_err(), "{text}");
        }
    }
}
