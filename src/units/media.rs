//! Kinds of content: `text/*`, `application/json`, `application/*+json`.

use super::{Invalid, written_as_text};
use std::fmt;
use std::str::FromStr;

/// A media type (RFC 9110 §8.3.1) without parameters, or a pattern for several: `*` stands for a whole subtype, or for
/// what comes before its structured suffix (RFC 6838 §4.2.8). Lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MediaPattern {
    text: Box<str>,
    /// Where the `*` is; none in an exact type.
    star: Option<usize>,
}

impl MediaPattern {
    /// Whether it covers this type, given without parameters. Upper and lower case are the same.
    pub fn covers(&self, media_type: &str) -> bool {
        let Some(star) = self.star else {
            return media_type.eq_ignore_ascii_case(&self.text);
        };
        let (before, after) = (self.text.get(..star), self.text.get(star + 1..));
        let (Some(before), Some(after)) = (before, after) else {
            return false;
        };
        let is =
            |part: Option<&str>, own: &str| part.is_some_and(|part| part.eq_ignore_ascii_case(own));
        let ends = media_type.len().checked_sub(after.len());
        // the star stands for something
        ends.is_some_and(|ends| ends > before.len() && is(media_type.get(ends..), after))
            && is(media_type.get(..before.len()), before)
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for MediaPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || {
            Invalid::new(format!("`{}` is not a media type", text.escape_debug()))
                .hint("such as `application/json`, `text/*` or `application/*+json`")
        };
        if let Some((alone, _)) = text.split_once(';') {
            let message = format!("`{}` has parameters", text.escape_debug());
            let hint = format!("they do not matter: `{}`", alone.trim().escape_debug());
            return Err(Invalid::new(message).hint(hint));
        }
        let (kind, subtype) = text.split_once('/').ok_or_else(invalid)?;
        let rest = subtype.strip_prefix('*');
        let suffix = rest.unwrap_or(subtype);
        let whole = rest.is_some_and(|suffix| suffix.is_empty() || suffix.starts_with('+'));
        let token = |text: &str| !text.is_empty() && text.bytes().all(is_restricted);
        if !token(kind)
            || !(whole || rest.is_none())
            || !(token(suffix) || suffix.is_empty() && whole)
        {
            return Err(invalid());
        }
        Ok(Self {
            text: text.to_ascii_lowercase().into(),
            star: rest.map(|_| kind.len() + 1),
        })
    }
}

/// The characters of type names (RFC 6838 §4.2).
fn is_restricted(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte)
}

impl fmt::Display for MediaPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

written_as_text!(MediaPattern, "a media type, such as `application/json` or `text/*`", {
    "description": "A media type without parameters; `*` stands for a subtype, or for what comes before its suffix.",
    "type": "string",
    "pattern": "^[A-Za-z0-9!#$&^_.+-]+/([A-Za-z0-9!#$&^_.+-]+|\\*(\\+[A-Za-z0-9!#$&^_.+-]*)?)$",
    "examples": ["application/json", "text/*", "application/*+json"],
});

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, media_type: &str) -> bool {
        pattern.parse::<MediaPattern>().unwrap().covers(media_type)
    }

    #[test]
    fn a_star_stands_for_a_subtype_or_for_what_comes_before_its_suffix() {
        assert!(covers("text/*", "text/html") && covers("Text/*", "TEXT/plain"));
        assert!(!covers("text/*", "text/") && !covers("text/*", "texts/html"));
        assert!(covers("application/*+json", "application/problem+json"));
        assert!(!covers("application/*+json", "application/json"));
        assert!(!covers("application/*+json", "application/+json"));
        assert!(covers("application/json", "application/JSON"));
        assert!(!covers("application/json", "application/jsonp"));
    }

    #[test]
    fn what_is_no_type_is_refused() {
        for text in [
            "text",
            "text/",
            "/html",
            "*/*",
            "text/ht*",
            "a b/c",
            "text/*json",
            "text/html; charset=utf-8",
            "",
        ] {
            assert!(text.parse::<MediaPattern>().is_err(), "{text}");
        }
    }
}
