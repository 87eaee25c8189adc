//! Names and values of header fields.

use super::{Invalid, written_as_text};
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

/// The name of a header field (RFC 9110 §5.1), in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderName(pub http::HeaderName);

impl Deref for HeaderName {
    type Target = http::HeaderName;

    fn deref(&self) -> &http::HeaderName {
        &self.0
    }
}

impl PartialOrd for HeaderName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HeaderName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl FromStr for HeaderName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse().map(Self).map_err(|_| {
            let invalid = Invalid::new(format!("`{}` is not the name of a header", text.escape_debug()));
            match text.strip_suffix(':') {
                Some(name) if !name.is_empty() => invalid.hint(format!("without the colon: `{name}`")),
                _ => invalid.hint("letters, digits and `-`, such as `x-request-id`"),
            }
        })
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

written_as_text!(HeaderName, "the name of a header", {
    "description": "The name of a header field.",
    "type": "string",
    "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
    "examples": ["x-request-id"],
});

/// The value of a header field (RFC 9110 §5.5): visible ASCII and blanks, none of them at the ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderValue(pub http::HeaderValue);

impl HeaderValue {
    pub fn as_str(&self) -> &str {
        // only visible ASCII gets in
        self.0.to_str().unwrap_or_default()
    }
}

impl Deref for HeaderValue {
    type Target = http::HeaderValue;

    fn deref(&self) -> &http::HeaderValue {
        &self.0
    }
}

impl FromStr for HeaderValue {
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
            Invalid::new("a header value holds only visible ASCII").hint("percent-encode what is not")
        })
    }
}

impl fmt::Display for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

written_as_text!(HeaderValue, "the value of a header", {
    "description": "The value of a header field: visible ASCII.",
    "type": "string",
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_are_lowered_and_read_back(text in "[A-Za-z0-9-]{1,20}") {
            let name: HeaderName = text.parse().expect("a name");
            prop_assert_eq!(name.to_string(), text.to_ascii_lowercase());
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }

        #[test]
        fn no_value_holds_a_line_break(text in ".*") {
            if let Ok(value) = text.parse::<HeaderValue>() {
                prop_assert!(!value.as_str().contains(['\r', '\n', '\0']));
                prop_assert_eq!(value.as_str(), text);
            }
        }
    }

    #[test]
    fn line_breaks_are_refused() {
        assert!("a\r\nb: c".parse::<HeaderValue>().is_err());
        assert!("a\nb".parse::<HeaderName>().is_err());
    }
}
