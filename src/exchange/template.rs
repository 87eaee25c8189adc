//! Texts with `{fact}` in them: header values, redirect targets, rewritten paths (design 3.5).
//!
//! `{{` and `}}` stand for the braces themselves. A template is parsed at load, so a misspelt fact is an error at its
//! line. What a client sent can't break out of the place that it is put in:
//!
//! - in a header value, whatever is not visible ASCII or an inner space is percent-encoded as UTF-8, so that no line
//!   break and no control character gets through; of who calls (`consumer`, `claim.…`) also `%` and spaces at the ends,
//!   so that nobody can be called what another one is written like;
//! - in a URL, values that did not come out of one (`header.…`, `query.…`, `cookie.…`) are percent-encoded but for
//!   unreserved characters (RFC 3986 §2.3); those of host and path are already in canonical form and stay.

use super::View;
use super::caller;
use super::fact::{Fact, FactError, Parsed};
use http::HeaderValue;
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Deserializer;
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// What may not stand in a header value as it is. Non-ASCII is always encoded.
const NOT_IN_HEADER: &AsciiSet = CONTROLS;

/// What may not stand in a part of a URL as it is.
const NOT_IN_URL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A text with places for facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// As it was written.
    source: Box<str>,
    parts: Box<[Part]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Fact(Fact),
}

impl Template {
    /// The facts that it names, so that the configuration can check its captures.
    pub fn facts(&self) -> impl Iterator<Item = &Fact> {
        self.parts.iter().filter_map(|part| match part {
            Part::Fact(fact) => Some(fact),
            Part::Text(_) => None,
        })
    }

    /// The whole text, where it has no fact in it.
    pub fn fixed(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text with values as they are, for what is neither a header nor a URL. A fact that the request lacks is
    /// empty.
    pub fn render(&self, view: View<'_>) -> String {
        self.fill(|out, fact| {
            out.push_str(&fact.read(view).unwrap_or_default());
            Some(())
        })
        .unwrap_or_default()
    }

    /// The text as a URL or part of one. None where the request lacks a fact, or has nothing in it for a place in the
    /// path: half a URL is another URL.
    pub fn url(&self, view: View<'_>) -> Option<String> {
        self.fill(|out, fact| {
            let value = fact.read(view)?;
            if fact.is_url_text() {
                out.push_str(&value);
            } else if value.is_empty() && !out.contains('?') {
                return None;
            } else {
                out.extend(utf8_percent_encode(&value, NOT_IN_URL));
            }
            Some(())
        })
    }

    /// The text as the value of a header. None where the request lacks a fact: half a value is another value.
    pub fn header_value(&self, view: View<'_>) -> Option<HeaderValue> {
        let text = self.fill(|out, fact| {
            let identity = view.facts.identity.as_deref();
            match fact {
                Fact::Group => out.push_str(&caller::groups(identity?)?),
                Fact::Claim(path) => out.push_str(&caller::claim(identity?, path)?),
                Fact::Consumer | Fact::Plan | Fact::Credential => {
                    out.push_str(&caller::encoded(&fact.read(view)?));
                }
                _ => out.extend(utf8_percent_encode(&fact.read(view)?, NOT_IN_HEADER)),
            }
            Some(())
        })?;
        HeaderValue::try_from(text.trim_ascii()).ok()
    }

    fn fill(&self, put: impl Fn(&mut String, &Fact) -> Option<()>) -> Option<String> {
        let mut out = String::with_capacity(self.source.len());
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Fact(fact) => put(&mut out, fact)?,
            }
        }
        Some(out)
    }
}

/// Why a text is no template: what is wrong, and on a second line a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError(String);

impl TemplateError {
    fn new(message: &str, hint: &str) -> Self {
        Self(format!("{message}\nhint: {hint}"))
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TemplateError {}

impl From<FactError> for TemplateError {
    fn from(error: FactError) -> Self {
        Self(error.to_string())
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(source: &str) -> Result<Self, TemplateError> {
        if source.chars().any(char::is_control) {
            return Err(TemplateError::new(
                "a template has no control characters",
                "write it on one line",
            ));
        }
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            text.push_str(before);
            rest = match brace(from)? {
                Brace::Escaped(brace, after) => {
                    text.push(brace);
                    after
                }
                Brace::Fact(fact, after) => {
                    parts.extend(flush(&mut text));
                    parts.push(Part::Fact(fact));
                    after
                }
            };
        }
        text.push_str(rest);
        parts.extend(flush(&mut text));
        Ok(Self {
            source: source.into(),
            parts: parts.into(),
        })
    }
}

/// What a text that begins with a brace begins with, and what comes after.
enum Brace<'a> {
    Escaped(char, &'a str),
    Fact(Fact, &'a str),
}

fn brace(text: &str) -> Result<Brace<'_>, TemplateError> {
    if let Some(after) = text.strip_prefix("{{") {
        return Ok(Brace::Escaped('{', after));
    }
    if let Some(after) = text.strip_prefix("}}") {
        return Ok(Brace::Escaped('}', after));
    }
    let Some(inner) = text.strip_prefix('{') else {
        return Err(TemplateError::new(
            "a `}` without its `{`",
            "write `}}` for a brace",
        ));
    };
    let Some((name, after)) = inner.split_once('}') else {
        return Err(TemplateError::new(
            "a `{` without its `}`",
            "write `{{` for a brace",
        ));
    };
    Ok(Brace::Fact(name.parse()?, after))
}

fn flush(text: &mut String) -> Option<Part> {
    (!text.is_empty()).then(|| Part::Text(std::mem::take(text).into()))
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed::new("a text, with facts in braces"))
    }
}

impl JsonSchema for Template {
    fn schema_name() -> Cow<'static, str> {
        "Template".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A text; facts in braces, such as `{path.id}`, are replaced by their values."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;
    use proptest::prelude::*;

    fn template(text: &str) -> Template {
        text.parse().unwrap()
    }

    #[test]
    fn facts_stand_where_their_names_stood() {
        let sample = Sample::get("/a%20b?to=x%2Fy%3Fz").header("x-a", "1 2");
        let cases = [
            ("", "", ""),
            ("plain", "plain", "plain"),
            ("{{{method}}}", "{GET}", "{GET}"),
            (
                "https://{host}/new{path}",
                "https://example.com/new/a%20b",
                "https://example.com/new/a%20b",
            ),
            ("/?q={query.to}", "/?q=x/y?z", "/?q=x%2Fy%3Fz"),
            ("{header.x-a}", "1 2", "1%202"),
        ];
        for (source, value, url) in cases {
            let template = template(source);
            assert_eq!(
                template.header_value(sample.view()).unwrap(),
                value,
                "{source}"
            );
            assert_eq!(template.render(sample.view()), value, "{source}");
            assert_eq!(template.url(sample.view()).unwrap(), url, "{source}");
            assert_eq!(template.to_string(), source);
        }
    }

    #[test]
    fn a_missing_fact_leaves_no_half_value() {
        let sample = Sample::get("/");
        let template = template("a{header.x-none}b");
        assert_eq!(template.header_value(sample.view()), None);
        assert_eq!(template.url(sample.view()), None);
        assert_eq!(template.render(sample.view()), "ab");
        assert_eq!(
            template
                .facts()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            ["header.x-none"]
        );
        assert_eq!(
            (template.fixed(), "{{x".parse::<Template>().unwrap().fixed()),
            (None, Some("{x"))
        );
    }

    #[test]
    fn what_a_client_sends_breaks_no_line() {
        let sample = Sample::get("/?a=x%0D%0ASet-Cookie:%20a=b%00%7F%C3%A9");
        let value = template("v {query.a}").header_value(sample.view()).unwrap();
        assert_eq!(value, "v x%0D%0ASet-Cookie: a=b%00%7F%C3%A9");
    }

    #[test]
    fn a_malformed_template_says_what_to_write() {
        for (source, hint) in [
            ("a{", "`{{`"),
            ("a}", "`}}`"),
            ("{heder.a}", "`header.a`"),
            ("{}", "facts are"),
            ("a\nb", "one line"),
        ] {
            let message = source.parse::<Template>().unwrap_err().to_string();
            assert!(
                message.contains("\nhint: ") && message.contains(hint),
                "{message}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(source in "[{}a.\\PC]{0,12}") {
            let _ = source.parse::<Template>();
        }

        #[test]
        fn text_without_braces_is_itself(source in "[^{}\\p{Cc}]{0,12}") {
            let template = template(&source);
            prop_assert_eq!(template.fixed(), Some(&*source));
        }
    }
}
