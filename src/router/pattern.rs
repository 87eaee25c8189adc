//! Patterns of hosts and paths as they are written in a `match`.
//!
//! Both are brought into the form that requests have after `exchange::canonical`, so that a pattern can't be written in
//! a spelling that never arrives. Literal segments are kept decoded, and compared with decoded segments: `/%40admin` is
//! `/@admin`.

use crate::exchange::canonical::{canonical_host, canonical_path};
use crate::exchange::fact::{Parsed, is_capture_name};
use percent_encoding::percent_decode_str;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Deserializer;
use serde::{Deserialize, Serialize, Serializer};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is no pattern: what is wrong, and on a second line a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError(String);

impl PatternError {
    pub(super) fn new(message: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self(format!("{message}\nhint: {hint}"))
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PatternError {}

/// The names of a pattern's parameters, in order; none where it has none.
pub type Names = Option<Arc<[Box<str>]>>;

/// Which hosts: one by name, all below one, or those with given labels in front of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    pub(super) shape: HostShape,
    names: Names,
}

/// A host pattern without the names of its captures; two of the same shape take the same hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum HostShape {
    Exact(Box<str>),
    /// `{a}.{b}.name`: this many labels in front of the name.
    Labels(usize, Box<str>),
    /// `*.name`: at least one label in front of the name.
    Below(Box<str>),
}

impl HostPattern {
    /// Whether a canonical host fits.
    pub fn matches(&self, host: &str) -> bool {
        match &self.shape {
            HostShape::Exact(name) => **name == *host,
            HostShape::Below(name) => in_front_of(host, name).is_some(),
            HostShape::Labels(labels, name) => {
                in_front_of(host, name).is_some_and(|front| front.split('.').count() == *labels)
            }
        }
    }

    /// Whether every host of the other pattern is one of this one.
    pub fn contains(&self, other: &Self) -> bool {
        let front = |name: &str, suffix: &str| {
            in_front_of(name, suffix).map(|front| front.split('.').count())
        };
        match (&self.shape, &other.shape) {
            (HostShape::Exact(_), _) => self.shape == other.shape,
            (_, HostShape::Exact(name)) => self.matches(name),
            (HostShape::Below(name), HostShape::Below(other) | HostShape::Labels(_, other)) => {
                name == other || front(other, name).is_some()
            }
            (HostShape::Labels(..), HostShape::Below(_)) => false,
            (HostShape::Labels(labels, name), HostShape::Labels(others, other)) => {
                let further = if name == other {
                    Some(0)
                } else {
                    front(other, name)
                };
                further.is_some_and(|further| further + others == *labels)
            }
        }
    }

    /// Whether a host exists that fits both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let label_wise = |one: &Self, other: &Self| match (&one.shape, &other.shape) {
            // so many labels have to reach what the other one has in front of the same name
            (HostShape::Labels(labels, name), HostShape::Below(below)) => {
                in_front_of(below, name).is_some_and(|front| front.split('.').count() < *labels)
            }
            _ => false,
        };
        self.contains(other)
            || other.contains(self)
            || label_wise(self, other)
            || label_wise(other, self)
    }

    /// The names of its captures.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.names
            .iter()
            .flat_map(|names| names.iter().map(|name| &**name))
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }
}

/// The labels in front of `.name`.
fn in_front_of<'h>(host: &'h str, name: &str) -> Option<&'h str> {
    host.strip_suffix(name)?
        .strip_suffix('.')
        .filter(|front| !front.is_empty())
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.contains("://") || text.contains('/') {
            return Err(PatternError::new(
                format!("`{text}` is more than a host"),
                "write the name alone, such as `example.com`",
            ));
        }
        if text == "*" {
            return Err(PatternError::new(
                "`*` is no host pattern",
                "leave `host` out to take any host",
            ));
        }
        if let Some(name) = text.strip_prefix("*.") {
            return Ok(Self {
                shape: HostShape::Below(host_name(text, name)?),
                names: None,
            });
        }
        let mut names: Vec<Box<str>> = Vec::new();
        let mut rest = text;
        while let Some((name, after)) = rest
            .strip_prefix('{')
            .and_then(|inner| inner.split_once('}'))
        {
            names.push(parameter_name(name, &names)?);
            rest = after.strip_prefix('.').ok_or_else(|| {
                PatternError::new(
                    format!("`{text}` has no name behind its parameters"),
                    "write `{tenant}.example.com`",
                )
            })?;
        }
        let name = host_name(text, rest)?;
        Ok(match names.len() {
            0 => Self {
                shape: HostShape::Exact(name),
                names: None,
            },
            labels => Self {
                shape: HostShape::Labels(labels, name),
                names: Some(names.into()),
            },
        })
    }
}

/// The canonical form of the fixed part of a host pattern.
fn host_name(pattern: &str, name: &str) -> Result<Box<str>, PatternError> {
    if name.contains(['*', '{', '}']) {
        return Err(PatternError::new(
            format!("`{pattern}` has a wildcard where none can be"),
            "`*.` and `{name}.` stand in front and for whole labels, as in `*.example.com`",
        ));
    }
    if name.contains(':') && !name.starts_with('[') || name.contains("]:") {
        return Err(PatternError::new(
            format!("`{pattern}` has a port"),
            "a request is routed by its host alone; ports belong to listeners",
        ));
    }
    let host = canonical_host(name).map_err(|_| {
        PatternError::new(
            format!("`{pattern}` is not a host"),
            "labels of letters, digits, `-` and `_`; IPv6 in brackets",
        )
    })?;
    Ok(host.as_str().into())
}

fn parameter_name(name: &str, before: &[Box<str>]) -> Result<Box<str>, PatternError> {
    if !is_capture_name(name) {
        return Err(PatternError::new(
            format!("`{{{name}}}` is not a parameter"),
            "a name begins with a letter, as in `{id}`, and has letters, digits, `_` and `-`",
        ));
    }
    if before.iter().any(|known| **known == *name) {
        return Err(PatternError::new(
            format!("the parameter `{name}` stands twice"),
            "give each a name of its own",
        ));
    }
    Ok(name.into())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shape {
            HostShape::Exact(name) => f.write_str(name),
            HostShape::Below(name) => write!(f, "*.{name}"),
            HostShape::Labels(_, name) => {
                self.captures()
                    .try_for_each(|label| write!(f, "{{{label}}}."))?;
                f.write_str(name)
            }
        }
    }
}

/// Which paths: one, all that fit in some segments, or everything from a segment on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    source: Box<str>,
    pub(super) segments: Box<[Segment]>,
    /// Ends in `/**`: whatever follows the segments, and nothing, too.
    pub(super) subtree: bool,
    names: Names,
}

/// One segment of a path pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Decoded. An empty one, the last, stands for a slash at the end.
    Literal(Box<str>),
    /// One segment that is not empty.
    Parameter,
}

impl Segment {
    fn contains(&self, other: &Segment) -> bool {
        match (self, other) {
            (Segment::Parameter, Segment::Literal(text)) => !text.is_empty(),
            _ => self == other,
        }
    }

    fn matches(&self, key: &str) -> bool {
        match self {
            Segment::Literal(text) => **text == *key,
            Segment::Parameter => !key.is_empty(),
        }
    }
}

/// How the parameters of a segment, `;v=1`, are read: some servers take them for a part of its text, others cut them
/// off before they look for a resource. A route has to be the same in both readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Whole,
    WithoutParameters,
}

/// What of a segment is compared and captured in one reading.
pub(super) fn read_segment(segment: &str, reading: Reading) -> &str {
    match reading {
        Reading::Whole => segment,
        Reading::WithoutParameters => segment.split(';').next().unwrap_or_default(),
    }
}

/// A segment without its escapes. Without them, as nearly always, it is the segment itself.
pub(super) fn segment_key(segment: &str) -> Cow<'_, str> {
    match segment.contains('%') {
        true => percent_decode_str(segment).decode_utf8_lossy(),
        false => Cow::Borrowed(segment),
    }
}

impl PathPattern {
    /// Everything: `/**`.
    pub(super) fn everything() -> Self {
        Self {
            source: "/**".into(),
            segments: Box::default(),
            subtree: true,
            names: None,
        }
    }

    /// The path of a gRPC method (the protocol's "Path"), or of all methods of a service.
    pub(super) fn grpc(service: &str, method: Option<&str>) -> Self {
        let last = method.map_or(Segment::Parameter, |method| Segment::Literal(method.into()));
        Self {
            source: format!("/{service}/{}", method.unwrap_or("{method}")).into(),
            segments: [Segment::Literal(service.into()), last].into(),
            subtree: false,
            names: None,
        }
    }

    /// Whether a canonical path fits, in either reading of its parameters: a condition on `/admin/**` holds for
    /// `/admin;v=1/x`, which some servers take for `/admin/x`.
    pub fn matches(&self, path: &str) -> bool {
        self.matches_as(path, Reading::Whole)
            || path.contains(';') && self.matches_as(path, Reading::WithoutParameters)
    }

    pub(super) fn matches_as(&self, path: &str, reading: Reading) -> bool {
        let Some(relative) = path.strip_prefix('/') else {
            // `OPTIONS *` asks the server itself
            return self.segments.is_empty() && self.subtree;
        };
        let mut segments = relative.split('/');
        let fits = self.segments.iter().all(|pattern| {
            segments.next().is_some_and(|segment| {
                pattern.matches(&segment_key(read_segment(segment, reading)))
            })
        });
        fits && (self.subtree || segments.next().is_none())
    }

    /// Whether every path of the other pattern is one of this one.
    pub fn contains(&self, other: &Self) -> bool {
        let long_enough = match self.subtree {
            true => other.segments.len() >= self.segments.len(),
            false => !other.subtree && other.segments.len() == self.segments.len(),
        };
        long_enough
            && self
                .segments
                .iter()
                .zip(&other.segments)
                .all(|(own, other)| own.contains(other))
    }

    /// Whether a path exists that fits both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let long_enough =
            |one: &Self, other: &Self| one.subtree || one.segments.len() >= other.segments.len();
        let mut pairs = self.segments.iter().zip(&other.segments);
        long_enough(self, other)
            && long_enough(other, self)
            && pairs.all(|(own, other)| own.contains(other) || other.contains(own))
    }

    /// The names of its parameters.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.names
            .iter()
            .flat_map(|names| names.iter().map(|name| &**name))
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.starts_with(['~', '^']) {
            return Err(PatternError::new(
                format!("the path `{text}` does not begin with a slash"),
                "a regular expression stands in `path_regex`, such as `path_regex: ^/a`",
            ));
        }
        if !text.starts_with('/') {
            return Err(PatternError::new(
                format!("the path `{text}` does not begin with a slash"),
                format!("write `/{}`", text.trim_start_matches('*')),
            ));
        }
        if text.contains(['?', '#']) {
            return Err(PatternError::new(
                format!("`{text}` is more than a path"),
                "`query` matches what comes after the `?`",
            ));
        }
        let (fixed, subtree) = text
            .strip_suffix("/**")
            .map_or((text, false), |fixed| (fixed, true));
        let mut names = Vec::new();
        let mut segments = Vec::new();
        let written: SmallVec<[&str; 16]> = fixed.split('/').skip(1).collect();
        for (at, segment) in written.iter().enumerate() {
            let last = at + 1 == written.len() && !subtree;
            segments.push(parse_segment(text, segment, last, &mut names)?);
        }
        let names = (!names.is_empty()).then(|| names.into());
        Ok(Self {
            source: text.into(),
            segments: segments.into(),
            subtree,
            names,
        })
    }
}

fn parse_segment(
    pattern: &str,
    segment: &str,
    last: bool,
    names: &mut Vec<Box<str>>,
) -> Result<Segment, PatternError> {
    if let Some(name) = segment
        .strip_prefix('{')
        .and_then(|inner| inner.strip_suffix('}'))
    {
        let name = parameter_name(name, names)?;
        names.push(name);
        return Ok(Segment::Parameter);
    }
    if segment.contains(['{', '}', '*']) {
        return Err(PatternError::new(
            format!("`{segment}` is no segment of a path pattern"),
            "`{name}` stands for one whole segment, `/**` at the end for all that follow",
        ));
    }
    if segment.contains(';') {
        return Err(PatternError::new(
            format!("`{segment}` has parameters of a segment"),
            "leave them out: `/a` takes `/a;v=1`, too",
        ));
    }
    if segment.is_empty() && !last {
        return Err(PatternError::new(
            format!("`{pattern}` has an empty segment"),
            "requests arrive without; write one slash",
        ));
    }
    literal(pattern, segment)
}

/// A literal segment, which has to be one that a canonical path can have.
fn literal(pattern: &str, segment: &str) -> Result<Segment, PatternError> {
    // non-ASCII may be written plainly in a pattern; in a request it arrives escaped
    let escaped: String =
        percent_encoding::utf8_percent_encode(segment, percent_encoding::CONTROLS).collect();
    let path = format!("/{escaped}");
    let canonical = canonical_path(&path).map_err(|refusal| {
        PatternError::new(
            format!("`{pattern}` never arrives: {}", refusal.detail),
            "such requests are refused",
        )
    })?;
    let text = canonical.text.strip_prefix('/').unwrap_or_default();
    if text.is_empty() != segment.is_empty() {
        return Err(PatternError::new(
            format!("`{pattern}` has a dot segment"),
            "requests arrive with dot segments resolved",
        ));
    }
    Ok(Segment::Literal(segment_key(text).into()))
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// Texts that are parsed: their Serialize, Deserialize and JSON schema.
macro_rules! as_text {
    ($type:ident, $expecting:literal, $description:literal, $examples:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Parsed::new($expecting))
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                schemars::json_schema!({
                    "type": "string",
                    "minLength": 1,
                    "description": $description,
                    "examples": $examples
                })
            }
        }
    };
}
pub(super) use as_text;

as_text!(
    HostPattern,
    "a host",
    "A host: exact, `*.example.com` for any depth below it, `{tenant}.example.com` for one captured label.",
    ["example.com", "*.example.com", "{tenant}.example.com"]
);
as_text!(
    PathPattern,
    "a path",
    "A path: exact, with parameters of one segment as `{id}`, with all that lies below it as `/**` at the end.",
    ["/orders", "/orders/{id}", "/orders/**"]
);

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    fn path(text: &str) -> PathPattern {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_are_brought_into_the_form_of_requests() {
        for (written, shown) in [
            ("Example.COM.", "example.com"),
            ("*.Example.com", "*.example.com"),
            (
                "{tenant}.{region}.example.com",
                "{tenant}.{region}.example.com",
            ),
            ("[2001:DB8::0:1]", "[2001:db8::1]"),
        ] {
            assert_eq!(host(written).to_string(), shown);
        }
    }

    #[test]
    fn a_host_pattern_takes_its_hosts() {
        let cases = [
            ("a.com", "a.com", true),
            ("a.com", "x.a.com", false),
            ("*.a.com", "x.a.com", true),
            ("*.a.com", "y.x.a.com", true),
            ("*.a.com", "a.com", false),
            ("*.a.com", "xa.com", false),
            ("{t}.a.com", "x.a.com", true),
            ("{t}.a.com", "y.x.a.com", false),
            ("{s}.{t}.a.com", "y.x.a.com", true),
        ];
        for (pattern, name, fits) in cases {
            assert_eq!(host(pattern).matches(name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_host_pattern_may_lie_inside_another() {
        for (outer, inner, inside) in [
            ("a.com", "a.com", true),
            ("*.a.com", "x.a.com", true),
            ("*.a.com", "*.a.com", true),
            ("*.a.com", "*.x.a.com", true),
            ("*.a.com", "{t}.a.com", true),
            ("*.a.com", "a.com", false),
            ("{t}.a.com", "x.a.com", true),
            ("{t}.a.com", "{other}.a.com", true),
            ("{s}.{t}.a.com", "{s}.x.a.com", true),
            ("{t}.a.com", "*.a.com", false),
            ("*.x.a.com", "*.a.com", false),
            ("a.com", "*.a.com", false),
        ] {
            assert_eq!(
                host(outer).contains(&host(inner)),
                inside,
                "{outer} {inner}"
            );
        }
    }

    #[test]
    fn a_malformed_host_pattern_says_what_to_write() {
        for (text, hint) in [
            ("*", "leave `host` out"),
            ("a.*.com", "in front"),
            ("a*.com", "in front"),
            ("{a}", "`{tenant}.example.com`"),
            ("{1}.a.com", "begins with a letter"),
            ("{a}.{a}.a.com", "of its own"),
            ("a.com:8080", "ports belong"),
            ("http://a.com", "the name alone"),
            ("a.com/x", "the name alone"),
            ("a b", "labels of"),
            ("", "labels of"),
        ] {
            let message = text.parse::<HostPattern>().unwrap_err().to_string();
            assert!(
                message.contains("\nhint: ") && message.contains(hint),
                "{message}"
            );
        }
    }

    #[test]
    fn a_path_pattern_takes_its_paths() {
        let cases = [
            ("/a", "/a", true),
            ("/a", "/a/", false),
            ("/a/", "/a/", true),
            ("/", "/", true),
            ("/", "/a", false),
            ("/a/{id}", "/a/1", true),
            ("/a/{id}", "/a/", false),
            ("/a/{id}", "/a/1/", false),
            ("/a/**", "/a", true),
            ("/a/**", "/a/", true),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/ab", false),
            ("/**", "/", true),
            ("/**", "*", true),
            ("/", "*", false),
            ("/@a,b", "/%40a%2Cb", true),
            ("/%40a", "/@a", true),
            ("/café", "/caf%C3%A9", true),
            ("/a/**", "/a;v=1/b", true),
            ("/a", "/a;v=1", true),
            ("/a/", "/a/;v=1", true),
            ("/{x}/{y}", "/{x}/%7By%7D", true),
        ];
        for (pattern, text, fits) in cases {
            assert_eq!(path(pattern).matches(text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn a_path_pattern_may_lie_inside_another() {
        for (outer, inner, inside) in [
            ("/**", "/", true),
            ("/a/**", "/a", true),
            ("/a/**", "/a/", true),
            ("/a/**", "/a/{id}/**", true),
            ("/a/{id}/**", "/a/b/c", true),
            ("/a/{id}", "/a/b", true),
            ("/a/{id}", "/a/", false),
            ("/a/{id}", "/a/b/**", false),
            ("/a/**", "/{x}/**", false),
            ("/a", "/a/**", false),
            ("/a/b/**", "/a/**", false),
        ] {
            assert_eq!(
                path(outer).contains(&path(inner)),
                inside,
                "{outer} {inner}"
            );
        }
    }

    #[test]
    fn a_malformed_path_pattern_says_what_to_write() {
        for (text, hint) in [
            ("a", "write `/a`"),
            ("", "write `/`"),
            ("/a?b=1", "`query` matches"),
            ("/a/*", "`/**` at the end"),
            ("/a/**/b", "`/**` at the end"),
            ("/a/{id}x", "one whole segment"),
            ("/a/{}", "begins with a letter"),
            ("/{a}/{a}", "of its own"),
            ("/a//b", "one slash"),
            ("/a//**", "one slash"),
            ("/a/../b", "dot segments"),
            ("/a/./b", "dot segments"),
            ("/a/..", "refused"),
            ("/a;v=1", "`/a;v=1`"),
            ("/a%5cb", "refused"),
            ("/a%zz", "refused"),
            ("/a b", "refused"),
        ] {
            let message = text.parse::<PathPattern>().unwrap_err().to_string();
            assert!(message.contains("\nhint: "), "{message}");
            // `..` alone leads above the root before it is a dot segment
            assert!(
                message.contains(hint) || message.contains("above its root"),
                "{text}: {message}"
            );
        }
    }

    #[test]
    fn patterns_are_texts_in_a_file() {
        let read: PathPattern = serde_json::from_str("\"/a/{id}\"").unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), "\"/a/{id}\"");
        assert!(serde_json::from_str::<HostPattern>("\"a b\"").is_err());
    }
}
