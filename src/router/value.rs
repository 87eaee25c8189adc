//! The values of a `match` that are neither host nor path: methods, names, texts to compare with, gRPC.

use super::pattern::{PatternError, as_text};
use crate::exchange::canonical::{METHOD_BYTES_MAX, is_token};
use crate::exchange::fact::Parsed;
use http::{HeaderName, HeaderValue, Method};
use regex::bytes::{Regex, RegexBuilder};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// The most memory that one compiled expression may take, so that a large repetition is an error at load.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// A method that a route may name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MethodName(Box<str>);

impl MethodName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MethodName {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text.len() > METHOD_BYTES_MAX || !text.bytes().all(is_token) {
            return Err(PatternError::new(
                format!("`{text}` is not a method"),
                "methods are words such as GET and POST",
            ));
        }
        let upper = text.to_ascii_uppercase();
        if upper == Method::CONNECT.as_str() || upper == Method::TRACE.as_str() {
            return Err(PatternError::new(
                format!("{upper} never reaches a route"),
                "the gateway answers it with 405",
            ));
        }
        if text != upper && MethodSet::KNOWN.contains(&&*upper) {
            return Err(PatternError::new(
                format!("`{text}` is not a method"),
                format!("methods are case-sensitive: write {upper}"),
            ));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for MethodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(
    MethodName,
    "a method",
    "A method; GET covers HEAD.",
    ["GET", "POST"]
);

/// Some methods. GET brings HEAD with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MethodSet {
    /// One bit for each of [`MethodSet::KNOWN`].
    known: u16,
    other: Box<[Box<str>]>,
}

impl MethodSet {
    /// In the order of `Allow`.
    const KNOWN: &[&str] = &[
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY",
    ];

    pub(super) fn new<'a>(names: impl Iterator<Item = &'a MethodName>) -> Self {
        let mut known = 0;
        let mut other: Vec<Box<str>> = Vec::new();
        for name in names {
            match Self::bit(name.as_str()) {
                Some(bit) => known |= bit,
                None => other.push(name.as_str().into()),
            }
        }
        let head_too = Self::bit("GET")
            .zip(Self::bit("HEAD"))
            .filter(|(get, _)| known & get != 0);
        known |= head_too.map_or(0, |(_, head)| head);
        other.sort_unstable();
        other.dedup();
        Self {
            known,
            other: other.into(),
        }
    }

    fn bit(method: &str) -> Option<u16> {
        let at = Self::KNOWN.iter().position(|known| *known == method)?;
        Some(1 << at)
    }

    pub(super) fn contains(&self, method: &str) -> bool {
        match Self::bit(method) {
            Some(bit) => self.known & bit != 0,
            None => self.other.iter().any(|other| **other == *method),
        }
    }

    pub(super) fn is_subset(&self, of: &Self) -> bool {
        self.known & !of.known == 0 && self.other.iter().all(|method| of.other.contains(method))
    }

    pub(super) fn is_disjoint(&self, from: &Self) -> bool {
        self.known & from.known == 0 && !self.other.iter().any(|method| from.other.contains(method))
    }

    pub(super) fn union(&self, with: &Self) -> Self {
        let mut other: Vec<_> = self.other.iter().chain(&with.other).cloned().collect();
        other.sort_unstable();
        other.dedup();
        Self {
            known: self.known | with.known,
            other: other.into(),
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let known = Self::KNOWN
            .iter()
            .enumerate()
            .filter(|(at, _)| self.known & (1 << at) != 0);
        known
            .map(|(_, name)| *name)
            .chain(self.other.iter().map(|name| &**name))
    }

    /// What `Allow` says (RFC 9110 §10.2.1).
    pub(super) fn allow(&self) -> HeaderValue {
        // methods are tokens, of which every one may stand in a field
        HeaderValue::try_from(self.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

impl fmt::Display for MethodSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(", "))
    }
}

/// The name of a request header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldName(HeaderName);

impl FieldName {
    pub fn name(&self) -> &HeaderName {
        &self.0
    }
}

impl PartialOrd for FieldName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for FieldName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl FromStr for FieldName {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
            PatternError::new(
                format!("`{text}` is not the name of a header"),
                "letters, digits and hyphens, such as `x-tenant`",
            )
        })?;
        if text.contains(['_', '.']) {
            return Err(PatternError::new(
                format!("the header `{text}` never arrives"),
                "names with `_` or `.` are dropped, because some servers take them for others",
            ));
        }
        if name == http::header::HOST {
            return Err(PatternError::new(
                "the header `host` is not matched as it came",
                "write `host:` in the match",
            ));
        }
        Ok(Self(name))
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

as_text!(
    FieldName,
    "the name of a header",
    "The name of a header, in any case.",
    ["x-tenant"]
);

/// The name of a query parameter or a cookie.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterName(Box<str>);

impl ParameterName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ParameterName {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        match text.is_empty() {
            true => Err(PatternError::new(
                "the name is empty",
                "write the name of a parameter or a cookie",
            )),
            false => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for ParameterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(
    ParameterName,
    "a name",
    "A name, case-sensitive.",
    ["version"]
);

/// A regular expression that a whole value has to match.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: Box<str>,
    regex: Regex,
}

impl Pattern {
    pub(super) fn is_match(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(source: &str) -> Result<Self, PatternError> {
        if source.is_empty() {
            return Err(PatternError::new(
                "the expression is empty",
                "`.*` matches everything",
            ));
        }
        let build = |text: &str| {
            RegexBuilder::new(text)
                .size_limit(REGEX_BYTES_MAX)
                .dfa_size_limit(REGEX_BYTES_MAX)
                .build()
        };
        // by itself first, so that an error shows what was written
        build(source)
            .and_then(|_| build(&format!(r"\A(?:{source})\z")))
            .map(|regex| Self {
                source: source.into(),
                regex,
            })
            .map_err(|error| {
                PatternError::new(
                    format!("`{source}` is not a regular expression"),
                    describe(&error),
                )
            })
    }
}

/// The last line of the error says what is wrong; those before draw a caret, which diagnostics do themselves.
fn describe(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => {
            "it takes more than 1 MiB when compiled: use smaller repetitions".to_owned()
        }
        error => {
            let text = error.to_string();
            text.lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned()
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

as_text!(
    Pattern,
    "a regular expression",
    "A regular expression that the whole value has to match: begin it with `.*` to look anywhere.",
    ["v[12]"]
);

/// What a value has to be. A text alone is the exact value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    Exact(Box<str>),
    Prefix(Box<str>),
    Regex(Pattern),
    /// Whether the name is there at all, with whatever value.
    Present(bool),
}

impl ValueMatch {
    /// Whether any of the values of one name fits; a name that is not there has none.
    pub(super) fn matches<V: AsRef<[u8]>>(&self, mut values: impl Iterator<Item = V>) -> bool {
        match self {
            ValueMatch::Exact(text) => values.any(|value| value.as_ref() == text.as_bytes()),
            ValueMatch::Prefix(text) => {
                values.any(|value| value.as_ref().starts_with(text.as_bytes()))
            }
            ValueMatch::Regex(pattern) => values.any(|value| pattern.is_match(value.as_ref())),
            ValueMatch::Present(present) => values.next().is_some() == *present,
        }
    }

    /// Whether this holds whenever the other does.
    pub(super) fn follows_from(&self, other: &Self) -> bool {
        use ValueMatch::*;
        match (self, other) {
            (Present(true), other) => *other != Present(false),
            (Prefix(own), Exact(text) | Prefix(text)) => text.starts_with(&**own),
            (Regex(own), Exact(text)) => own.is_match(text.as_bytes()),
            _ => self == other,
        }
    }

    /// Whether no single value fits both. Two values of a repeated name may, of course.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        use ValueMatch::*;
        match (self, other) {
            (Present(own), Present(other)) => own != other,
            (Present(present), _) | (_, Present(present)) => !present,
            (Exact(text), Exact(other)) => text != other,
            (Exact(text), Prefix(prefix)) | (Prefix(prefix), Exact(text)) => {
                !text.starts_with(&**prefix)
            }
            (Exact(text), Regex(regex)) | (Regex(regex), Exact(text)) => {
                !regex.is_match(text.as_bytes())
            }
            (Prefix(one), Prefix(other)) => {
                !one.starts_with(&**other) && !other.starts_with(&**one)
            }
            (Regex(_), Regex(_) | Prefix(_)) | (Prefix(_), Regex(_)) => false,
        }
    }
}

impl fmt::Display for ValueMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueMatch::Exact(text) => write!(f, "is `{text}`"),
            ValueMatch::Prefix(text) => write!(f, "begins with `{text}`"),
            ValueMatch::Regex(pattern) => write!(f, "matches `{pattern}`"),
            ValueMatch::Present(true) => f.write_str("is present"),
            ValueMatch::Present(false) => f.write_str("is absent"),
        }
    }
}

/// The long form, of which exactly one key stands.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LongValue {
    /// The value itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exact: Option<Box<str>>,
    /// What the value begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix: Option<Box<str>>,
    /// A regular expression for the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    regex: Option<Pattern>,
    /// Whether the name is there at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    present: Option<bool>,
}

impl LongValue {
    fn only(self) -> Option<ValueMatch> {
        match self {
            LongValue {
                exact: Some(text),
                prefix: None,
                regex: None,
                present: None,
            } => Some(ValueMatch::Exact(text)),
            LongValue {
                exact: None,
                prefix: Some(text),
                regex: None,
                present: None,
            } => Some(ValueMatch::Prefix(text)),
            LongValue {
                exact: None,
                prefix: None,
                regex: Some(regex),
                present: None,
            } => Some(ValueMatch::Regex(regex)),
            LongValue {
                exact: None,
                prefix: None,
                regex: None,
                present: Some(present),
            } => Some(ValueMatch::Present(present)),
            _ => None,
        }
    }
}

impl Serialize for ValueMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut long = LongValue::default();
        match self {
            ValueMatch::Exact(text) => return serializer.serialize_str(text),
            ValueMatch::Prefix(text) => long.prefix = Some(text.clone()),
            ValueMatch::Regex(pattern) => long.regex = Some(pattern.clone()),
            ValueMatch::Present(present) => long.present = Some(*present),
        }
        long.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ValueMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

/// Numbers and words that YAML reads as something else lose their spelling (`1.10`, `007`), so they need quotes.
fn needs_quotes<E: Error>(unexpected: Unexpected<'_>) -> E {
    E::custom(format!(
        "a value is text, not {unexpected}\nhint: put it in quotes"
    ))
}

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = ValueMatch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or one of `prefix`, `regex` and `present`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ValueMatch, E> {
        Ok(ValueMatch::Exact(text.into()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<ValueMatch, E> {
        Err(needs_quotes(Unexpected::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<ValueMatch, E> {
        Err(needs_quotes(Unexpected::Signed(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<ValueMatch, E> {
        Err(needs_quotes(Unexpected::Unsigned(value)))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<ValueMatch, E> {
        Err(needs_quotes(Unexpected::Float(value)))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ValueMatch, A::Error> {
        let long = LongValue::deserialize(MapAccessDeserializer::new(map))?;
        long.only().ok_or_else(|| {
            A::Error::custom("a value is matched in exactly one way\nhint: write one of `exact`, `prefix`, `regex`, `present`")
        })
    }
}

impl JsonSchema for ValueMatch {
    fn schema_name() -> Cow<'static, str> {
        "ValueMatch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = generator.subschema_for::<LongValue>();
        schemars::json_schema!({
            "description": "What a value has to be; a text alone is the exact value. Of a repeated name any value will do.",
            "anyOf": [{"type": "string"}, {"allOf": [long], "minProperties": 1, "maxProperties": 1}]
        })
    }
}

/// A gRPC service, or one method of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GrpcPattern {
    pub(super) service: Box<str>,
    pub(super) method: Option<Box<str>>,
}

impl GrpcPattern {
    /// Whether a path is that of one of the methods.
    pub(super) fn matches(&self, path: &str) -> bool {
        let Some((service, method)) = path.strip_prefix('/').and_then(|rest| rest.split_once('/'))
        else {
            return false;
        };
        *service == *self.service
            && match &self.method {
                Some(known) => **known == *method,
                None => !method.is_empty() && !method.contains('/'),
            }
    }

    pub(super) fn contains(&self, other: &Self) -> bool {
        self.service == other.service && (self.method.is_none() || self.method == other.method)
    }
}

impl FromStr for GrpcPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let name = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        let (service, method) = match text.split_once('/') {
            Some((service, method)) => (service, Some(method)),
            None => (text, None),
        };
        if !service.split('.').all(name) || !method.is_none_or(name) {
            return Err(PatternError::new(
                format!("`{text}` is not a gRPC service or method"),
                "write `package.Service` or `package.Service/Method`, without a slash in front",
            ));
        }
        Ok(Self {
            service: service.into(),
            method: method.map(Into::into),
        })
    }
}

impl fmt::Display for GrpcPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.service)?;
        self.method
            .iter()
            .try_for_each(|method| write!(f, "/{method}"))
    }
}

as_text!(
    GrpcPattern,
    "a gRPC service",
    "A gRPC service, or one method of it.",
    ["shop.Orders", "shop.Orders/Get"]
);

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> Result<ValueMatch, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_value_has_a_short_and_a_long_form() {
        for (json, shown) in [
            (r#""a""#, "is `a`"),
            (r#"{"prefix":"a"}"#, "begins with `a`"),
            (r#"{"regex":"a|b"}"#, "matches `a|b`"),
            (r#"{"present":false}"#, "is absent"),
        ] {
            let value = value(json).unwrap();
            assert_eq!(value.to_string(), shown);
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
        }
        assert_eq!(
            value(r#"{"exact":"a"}"#).unwrap(),
            ValueMatch::Exact("a".into())
        );
    }

    #[test]
    fn a_malformed_value_says_what_to_write() {
        for (json, hint) in [
            ("1", "in quotes"),
            ("1.10", "in quotes"),
            ("true", "in quotes"),
            ("{}", "write one of"),
            (r#"{"prefix":"a","present":true}"#, "write one of"),
            (r#"{"regexp":"a"}"#, "unknown field"),
            (r#"{"regex":"("}"#, "unclosed group"),
            (r#"{"regex":"(a{999}){999}"}"#, "1 MiB"),
        ] {
            let message = value(json).unwrap_err();
            assert!(message.contains(hint), "{message}");
        }
    }

    #[test]
    fn an_expression_matches_the_whole_value() {
        let pattern: Pattern = "a|b".parse().unwrap();
        assert!(pattern.is_match(b"a") && pattern.is_match(b"b"));
        assert!(!pattern.is_match(b"ab") && !pattern.is_match(b"a\n"));
    }

    #[test]
    fn values_follow_and_exclude() {
        let value = |json| value(json).unwrap();
        let (exact, prefix, regex) = (
            value(r#""abc""#),
            value(r#"{"prefix":"ab"}"#),
            value(r#"{"regex":"ab."}"#),
        );
        let (present, absent) = (value(r#"{"present":true}"#), value(r#"{"present":false}"#));
        assert!(
            prefix.follows_from(&exact)
                && regex.follows_from(&exact)
                && present.follows_from(&regex)
        );
        assert!(
            !exact.follows_from(&prefix)
                && !present.follows_from(&absent)
                && !absent.follows_from(&present)
        );
        assert!(
            absent.excludes(&exact)
                && exact.excludes(&value(r#""abd""#))
                && prefix.excludes(&value(r#""b""#))
        );
        assert!(
            !prefix.excludes(&regex)
                && !present.excludes(&exact)
                && !prefix.excludes(&value(r#"{"prefix":"a"}"#))
        );
    }

    #[test]
    fn get_brings_head_with_it() {
        let names: Vec<MethodName> = ["PURGE", "POST", "GET"]
            .iter()
            .map(|name| name.parse().unwrap())
            .collect();
        let set = MethodSet::new(names.iter());
        assert_eq!(set.allow(), "GET, HEAD, POST, PURGE");
        assert!(
            set.contains("HEAD")
                && set.contains("PURGE")
                && !set.contains("PUT")
                && !set.contains("get")
        );
    }

    #[test]
    fn malformed_names_say_what_to_write() {
        for (message, hint) in [
            (
                "get".parse::<MethodName>().unwrap_err().to_string(),
                "write GET",
            ),
            (
                "CONNECT".parse::<MethodName>().unwrap_err().to_string(),
                "405",
            ),
            (
                "G T".parse::<MethodName>().unwrap_err().to_string(),
                "words",
            ),
            (
                "x_tenant".parse::<FieldName>().unwrap_err().to_string(),
                "dropped",
            ),
            (
                "Host".parse::<FieldName>().unwrap_err().to_string(),
                "`host:`",
            ),
            (
                "a b".parse::<FieldName>().unwrap_err().to_string(),
                "hyphens",
            ),
            (
                "/a.B/C".parse::<GrpcPattern>().unwrap_err().to_string(),
                "without a slash",
            ),
        ] {
            assert!(
                message.contains("\nhint: ") && message.contains(hint),
                "{message}"
            );
        }
    }

    #[test]
    fn a_grpc_pattern_takes_its_methods() {
        let all: GrpcPattern = "shop.Orders".parse().unwrap();
        let one: GrpcPattern = "shop.Orders/Get".parse().unwrap();
        assert!(
            all.matches("/shop.Orders/Get")
                && !all.matches("/shop.Orders/")
                && !all.matches("/shop.Orders/a/b")
        );
        assert!(one.matches("/shop.Orders/Get") && !one.matches("/shop.Orders/List"));
        assert!(all.contains(&one) && !one.contains(&all));
    }
}
