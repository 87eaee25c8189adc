//! Names and values of header fields, and methods.

use super::{Invalid, protocol, written_as_text};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// The name of a header field (RFC 9110 §5.1), in lower case. As keys of one map, `X-A` and `x-a` are duplicates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderNameText(http::HeaderName);

impl HeaderNameText {
    pub fn name(&self) -> &http::HeaderName {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialOrd for HeaderNameText {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HeaderNameText {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl FromStr for HeaderNameText {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse().map(Self).map_err(|_| {
            let invalid = Invalid::new(format!(
                "`{}` is not the name of a header",
                text.escape_debug()
            ));
            match text.strip_suffix(':') {
                Some(name) if !name.is_empty() => {
                    invalid.hint(format!("without the colon: `{name}`"))
                }
                _ => invalid.hint("letters, digits and `-`, such as `x-request-id`"),
            }
        })
    }
}

impl fmt::Display for HeaderNameText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for HeaderNameText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = HeaderNameText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a header")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<HeaderNameText, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                plain: D,
            ) -> Result<HeaderNameText, D::Error> {
                plain.deserialize_str(self)
            }
        }

        deserializer.deserialize_newtype_struct(protocol::HEADER_NAME, Text)
    }
}

impl Serialize for HeaderNameText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl JsonSchema for HeaderNameText {
    fn schema_name() -> Cow<'static, str> {
        "HeaderNameText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "description": "The name of a header field.",
            "type": "string",
            "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
            "examples": ["x-request-id"],
        })
    }
}

/// The value of a header field (RFC 9110 §5.5): visible ASCII and blanks, none of them at the ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderValueText(http::HeaderValue);

impl HeaderValueText {
    pub fn value(&self) -> &http::HeaderValue {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        // only visible ASCII gets in
        self.0.to_str().unwrap_or_default()
    }
}

impl FromStr for HeaderValueText {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.starts_with([' ', '\t']) || text.ends_with([' ', '\t']) {
            return Err(Invalid::new("a header value has no blanks at its ends")
                .hint("a reader would not get them (RFC 9110 §5.5)"));
        }
        // `http` takes any byte from 128, which readers decode as they please
        let ascii = text
            .is_ascii()
            .then(|| http::HeaderValue::from_str(text).ok())
            .flatten();
        ascii.map(Self).ok_or_else(|| {
            Invalid::new("a header value holds only visible ASCII")
                .hint("percent-encode what is not")
        })
    }
}

impl fmt::Display for HeaderValueText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

written_as_text!(HeaderValueText, "the value of a header", {
    "description": "The value of a header field: visible ASCII.",
    "type": "string",
});

/// A method (RFC 9110 §9.1). Methods are case-sensitive, so a lower-case spelling of a known one is refused: it would
/// match no request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MethodText(http::Method);

impl MethodText {
    pub fn method(&self) -> &http::Method {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for MethodText {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::new(format!("`{}` is not a method", text.escape_debug()));
        let upper = text.to_ascii_uppercase();
        if upper != text && KNOWN_METHODS.contains(&upper.as_str()) {
            return Err(invalid().hint(format!("methods are upper case: `{upper}`")));
        }
        http::Method::from_bytes(text.as_bytes())
            .map(Self)
            .map_err(|_| invalid().hint("such as `GET` or `POST`"))
    }
}

/// The methods of RFC 9110 and RFC 5789.
const KNOWN_METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT",
];

impl fmt::Display for MethodText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

written_as_text!(MethodText, "a method, such as `GET`", {
    "description": "An HTTP method.",
    "type": "string",
    "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
    "examples": ["GET", "POST"],
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_are_lowered_and_read_back(text in "[A-Za-z0-9-]{1,20}") {
            let name: HeaderNameText = text.parse().expect("a name");
            prop_assert_eq!(name.to_string(), text.to_ascii_lowercase());
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }

        #[test]
        fn no_value_holds_a_line_break(text in ".*") {
            if let Ok(value) = text.parse::<HeaderValueText>() {
                prop_assert!(!value.as_str().contains(['\r', '\n', '\0']));
                prop_assert_eq!(value.as_str(), text);
            }
        }
    }

    #[test]
    fn a_lower_case_method_is_told_its_name() {
        let invalid = "get".parse::<MethodText>().unwrap_err();
        assert_eq!(
            invalid.hint.as_deref(),
            Some("methods are upper case: `GET`")
        );
        assert!("PURGE".parse::<MethodText>().is_ok());
    }

    #[test]
    fn line_breaks_are_refused() {
        assert!("a\r\nb: c".parse::<HeaderValueText>().is_err());
        assert!("a\nb".parse::<HeaderNameText>().is_err());
    }
}
