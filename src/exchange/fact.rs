//! The one vocabulary for what is known of a request (design 3.5).
//!
//! Keys of limits, hashing, header values, redirects and log fields all name facts with the words parsed here, so that
//! `by: header.x-tenant` and `"{header.x-tenant}"` can't mean two things.

use super::View;
use super::canonical::{cookies, query_pairs};
use crate::identity::claim_text;
use http::HeaderName;
use http::header::COOKIE;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The words that stand alone, in the order of the documentation.
const PLAIN: &[(&str, Fact)] = &[
    ("client_address", Fact::ClientAddress),
    ("host", Fact::Host),
    ("path", Fact::Path),
    ("method", Fact::Method),
    ("scheme", Fact::Scheme),
    ("route", Fact::Route),
    ("listener", Fact::Listener),
    ("request_id", Fact::RequestId),
    ("consumer", Fact::Consumer),
    ("plan", Fact::Plan),
    ("group", Fact::Group),
    ("credential", Fact::Credential),
];

/// The words that take a name behind a dot.
const NAMED: &[&str] = &["host", "path", "header", "query", "cookie", "claim"];

/// One thing that is known of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    /// The client, found through `trusted_proxies`.
    ClientAddress,
    /// The canonical host, without port; an HTTP/1.0 request may have none.
    Host,
    /// What `{name}` in the route's host pattern stood for.
    HostCapture(Box<str>),
    /// The canonical path, escapes and all.
    Path,
    /// What `{name}` in the route's path pattern stood for, as it stands in the canonical path.
    PathCapture(Box<str>),
    Method,
    /// `http` or `https`.
    Scheme,
    /// A request header; the values of a repeated one are joined with commas (RFC 9110 §5.2).
    Header(HeaderName),
    /// The first query parameter of that name, decoded.
    Query(Box<str>),
    /// The first cookie of that name.
    Cookie(Box<str>),
    /// The name of the route.
    Route,
    /// The name of the listener.
    Listener,
    RequestId,
    /// Who calls, by the name of the configuration or of the token.
    Consumer,
    /// The plan of whoever calls.
    Plan,
    /// The groups of whoever calls, joined with commas.
    Group,
    /// What the credential is called, such as the id of a key.
    Credential,
    /// A claim of the token, by its name or its path; the members of a list are joined with commas.
    Claim(Box<str>),
}

impl Fact {
    /// The value for one request; none where the request has no such thing.
    pub fn read<'a>(&self, view: View<'a>) -> Option<Cow<'a, str>> {
        let facts = view.facts;
        match self {
            Fact::ClientAddress => facts
                .client_address
                .map(|address| address.to_string().into()),
            Fact::Host => Some(facts.host.as_str())
                .filter(|host| !host.is_empty())
                .map(Cow::Borrowed),
            Fact::HostCapture(name) => facts
                .host_captures
                .value(name, facts.host.as_str())
                .map(Cow::Borrowed),
            Fact::Path => Some(view.request.uri.path().into()),
            Fact::PathCapture(name) => facts
                .path_captures
                .value(name, view.request.uri.path())
                .map(Cow::Borrowed),
            Fact::Method => Some(view.request.method.as_str().into()),
            Fact::Scheme => Some(facts.scheme.as_str().into()),
            Fact::Header(name) => header(view, name),
            Fact::Query(name) => query_pairs(view.request.uri.query())
                .find(|(known, _)| *known == **name)
                .map(|(_, value)| value),
            Fact::Cookie(name) => cookies(&view.request.headers)
                .find(|(known, _)| *known == name.as_bytes())
                .map(|(_, value)| String::from_utf8_lossy(value)),
            Fact::Route => facts.route.as_deref().map(Cow::Borrowed),
            Fact::Listener => Some((&*facts.connection.listener.name).into()),
            Fact::RequestId => Some(String::from_utf8_lossy(facts.request_id.as_bytes())),
            Fact::Consumer => facts
                .identity
                .as_ref()?
                .consumer
                .as_deref()
                .map(Cow::Borrowed),
            Fact::Plan => facts.identity.as_ref()?.plan.as_deref().map(Cow::Borrowed),
            Fact::Group => {
                let groups = &facts.identity.as_ref()?.groups;
                (!groups.is_empty()).then(|| groups.join(",").into())
            }
            Fact::Credential => facts
                .identity
                .as_ref()?
                .credential
                .as_deref()
                .map(Cow::Borrowed),
            Fact::Claim(path) => facts.identity.as_ref()?.claim(path).and_then(claim_text),
        }
    }

    /// The value as the key of a counter. An IPv6 client counts by its /64, since that is what one client is given and
    /// can choose addresses from at will (RFC 6177 §2).
    pub fn read_key<'a>(&self, view: View<'a>) -> Option<Cow<'a, str>> {
        match (self, view.facts.client_address) {
            (Fact::ClientAddress, Some(address)) => Some(match client_key(address) {
                IpAddr::V4(address) => address.to_string().into(),
                IpAddr::V6(network) => format!("{network}/64").into(),
            }),
            _ => self.read(view),
        }
    }

    /// Whether it says who calls.
    pub fn is_of_identity(&self) -> bool {
        use Fact::*;
        matches!(self, Consumer | Plan | Group | Credential | Claim(_))
    }

    /// Whether the value can stand in a URL as it is: it came out of one, or out of the configuration.
    pub fn is_url_text(&self) -> bool {
        !matches!(
            self,
            Fact::Header(_)
                | Fact::Query(_)
                | Fact::Cookie(_)
                | Fact::Consumer
                | Fact::Plan
                | Fact::Group
                | Fact::Credential
                | Fact::Claim(_)
        )
    }
}

/// The address that a client counts under: an IPv6 address without its last 64 bits, an IPv4 address whole.
pub fn client_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address => address,
    }
}

fn header<'a>(view: View<'a>, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = view.request.headers.get_all(name).iter();
    let first = String::from_utf8_lossy(values.next()?.as_bytes());
    let Some(second) = values.next() else {
        return Some(first);
    };
    // cookies are the one list that has another separator (RFC 9113 §8.2.3)
    let separator = if name == COOKIE { "; " } else { ", " };
    let mut joined = first.into_owned();
    for value in std::iter::once(second).chain(values) {
        joined.push_str(separator);
        joined.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    Some(joined.into())
}

/// Why a text names no fact: what is wrong, and on a second line a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactError(String);

impl fmt::Display for FactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FactError {}

impl FromStr for Fact {
    type Err = FactError;

    fn from_str(text: &str) -> Result<Self, FactError> {
        if let Some((_, fact)) = PLAIN.iter().find(|(word, _)| *word == text) {
            return Ok(fact.clone());
        }
        let (word, name) = text.split_once('.').unwrap_or((text, ""));
        if !NAMED.contains(&word) {
            return Err(unknown(text, word));
        }
        if name.is_empty() {
            return Err(FactError(format!(
                "`{word}` needs a name\nhint: write `{word}.name`"
            )));
        }
        Ok(match word {
            "host" => Fact::HostCapture(capture_name(name)?),
            "path" => Fact::PathCapture(capture_name(name)?),
            "header" => Fact::Header(header_name(name)?),
            "claim" => Fact::Claim(name.into()),
            "query" => Fact::Query(name.into()),
            _ => Fact::Cookie(name.into()),
        })
    }
}

fn header_name(name: &str) -> Result<HeaderName, FactError> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        FactError(format!("`{name}` is not the name of a header\nhint: letters, digits and hyphens, as in `header.x-tenant`"))
    })
}

fn capture_name(name: &str) -> Result<Box<str>, FactError> {
    if is_capture_name(name) {
        return Ok(name.into());
    }
    Err(FactError(format!(
        "`{name}` is not the name of a parameter\nhint: it is what stands between braces in the route's pattern"
    )))
}

/// Whether a pattern may call a parameter so: a letter or underscore, then letters, digits, underscores, hyphens.
pub fn is_capture_name(name: &str) -> bool {
    let rest_ok = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    rest_ok && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
}

fn unknown(text: &str, word: &str) -> FactError {
    let plain = PLAIN.iter().map(|(word, _)| *word);
    let words = plain.chain(NAMED.iter().copied().skip(2));
    let nearest = words
        .map(|known| (distance(known, word), known))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    let hint = match nearest {
        Some((_, known)) if NAMED.contains(&known) && text.contains('.') => {
            format!("did you mean `{known}.{}`?", text.split_once('.').map_or("name", |(_, name)| name))
        }
        Some((_, known)) => format!("did you mean `{known}`?"),
        None => "facts are client_address, host, host.<p>, path, path.<p>, method, scheme, header.<n>, query.<n>, \
                 cookie.<n>, route, listener, request_id"
            .to_owned(),
    };
    FactError(format!("unknown fact `{text}`\nhint: {hint}"))
}

/// How many letters have to be changed, added, dropped or swapped to make one word of the other (optimal string
/// alignment).
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut before_last = vec![0; other.len() + 1];
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (row, letter) in one.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, against) in other.iter().enumerate() {
            let at =
                |line: &[usize], column: usize| line.get(column).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&last, column) + usize::from(letter != against))
                .min(at(&last, column + 1) + 1)
                .min(at(&current, column) + 1);
            let swapped = row > 0
                && column > 0
                && one.get(row - 1) == Some(against)
                && other.get(column - 1) == Some(letter);
            if swapped {
                best = best.min(at(&before_last, column - 1) + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last.last().copied().unwrap_or_default()
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::HostCapture(name) => write!(f, "host.{name}"),
            Fact::PathCapture(name) => write!(f, "path.{name}"),
            Fact::Header(name) => write!(f, "header.{name}"),
            Fact::Query(name) => write!(f, "query.{name}"),
            Fact::Cookie(name) => write!(f, "cookie.{name}"),
            Fact::Claim(path) => write!(f, "claim.{path}"),
            plain => f.write_str(
                PLAIN
                    .iter()
                    .find(|(_, fact)| fact == plain)
                    .map_or("", |(word, _)| word),
            ),
        }
    }
}

impl Serialize for Fact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed::new("the name of a fact"))
    }
}

/// Deserialises whatever is parsed from a text.
pub(crate) struct Parsed<T> {
    expecting: &'static str,
    value: std::marker::PhantomData<T>,
}

impl<T> Parsed<T> {
    /// A visitor that says, where there is no text at all, what it expected.
    pub(crate) fn new(expecting: &'static str) -> Self {
        Self {
            expecting,
            value: std::marker::PhantomData,
        }
    }
}

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

impl JsonSchema for Fact {
    fn schema_name() -> Cow<'static, str> {
        "Fact".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let plain: Vec<&str> = PLAIN.iter().map(|(word, _)| *word).collect();
        schemars::json_schema!({
            "description": "One thing that is known of a request.",
            "anyOf": [
                {"type": "string", "enum": plain},
                {"type": "string", "pattern": "^(host|path)\\.[A-Za-z_][A-Za-z0-9_-]*$"},
                {"type": "string", "pattern": "^(header|query|cookie|claim)\\..+$"},
            ]
        })
    }
}

/// Requests for tests.
#[cfg(test)]
pub(crate) mod sample {
    use crate::exchange::canonical::{Raw, canonical};
    use crate::exchange::connection::{Connection, ListenerFacts, Peer};
    use crate::exchange::{Captures, Facts, HostText, Scheme, View};
    use http::HeaderValue;
    use pingora_http::RequestHeader;
    use std::sync::Arc;

    /// A request and its facts, as the intake leaves them.
    #[derive(Debug)]
    pub struct Sample {
        pub request: RequestHeader,
        pub facts: Facts,
    }

    impl Sample {
        /// `GET http://example.com/path?query`, on the listener `public`, from 192.0.2.1.
        pub fn new(method: &str, host: &str, target: &str) -> Self {
            let mut request = RequestHeader::build(method, target.as_bytes(), None).unwrap();
            request.insert_header("host", host).unwrap();
            let (host, path) = {
                let canonical = canonical(&Raw::of(&request, Scheme::Http)).unwrap();
                (canonical.host.clone(), canonical.target().into_owned())
            };
            let facts = facts("public", host);
            request.set_raw_path(path.as_bytes()).unwrap();
            Self { request, facts }
        }

        pub fn get(target: &str) -> Self {
            Self::new("GET", "example.com", target)
        }

        pub fn header(mut self, name: &'static str, value: &str) -> Self {
            self.request.append_header(name, value).unwrap();
            self
        }

        pub fn listener(mut self, name: &str) -> Self {
            self.facts = facts(name, self.facts.host);
            self
        }

        pub fn route(mut self, name: &str) -> Self {
            self.facts.route = Some(name.into());
            self
        }

        pub fn client(mut self, address: &str) -> Self {
            self.facts.client_address = Some(address.parse().unwrap());
            self
        }

        pub fn view(&self) -> View<'_> {
            View {
                request: &self.request,
                facts: &self.facts,
            }
        }
    }

    fn facts(listener: &str, host: HostText) -> Facts {
        let listener = Arc::new(ListenerFacts::new(listener.into(), false));
        let peer = Peer::Ip("192.0.2.1:1000".parse().unwrap());
        Facts {
            connection: Arc::new(Connection::new(listener, peer, Some(80), None)),
            request_id: HeaderValue::from_static("0190-1"),
            client_address: peer.ip(),
            peer_trusted: false,
            scheme: Scheme::Http,
            host,
            port: None,
            host_captures: Captures::default(),
            path_captures: Captures::default(),
            route: None,
            identity: None,
            plan: None,
            granted: Vec::new(),
            limits: Default::default(),
            stores: Default::default(),
            used: Default::default(),
            held: Default::default(),
            body: Default::default(),
            set_cookies: Vec::new(),
            closes_at: None,
            overload: Default::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sample::Sample;
    use super::*;
    use crate::exchange::Captures;

    fn fact(text: &str) -> Fact {
        text.parse().unwrap()
    }

    #[test]
    fn every_fact_is_written_as_it_is_read() {
        let named = [
            "host.tenant",
            "path.id",
            "header.x-tenant",
            "query.a.b",
            "cookie.sid",
        ];
        for text in PLAIN.iter().map(|(word, _)| *word).chain(named) {
            assert_eq!(fact(text).to_string(), text);
            let read: Fact = serde_json::from_value(text.into()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), text);
        }
        assert_eq!(fact("header.X-Tenant"), fact("header.x-tenant"));
    }

    #[test]
    fn an_unknown_fact_comes_with_a_hint() {
        let cases = [
            (
                "heder.x-tenant",
                "unknown fact `heder.x-tenant`\nhint: did you mean `header.x-tenant`?",
            ),
            (
                "client_adress",
                "unknown fact `client_adress`\nhint: did you mean `client_address`?",
            ),
            ("header", "`header` needs a name\nhint: write `header.name`"),
        ];
        for (text, message) in cases {
            assert_eq!(text.parse::<Fact>().unwrap_err().to_string(), message);
        }
        for text in [
            "",
            "consumers",
            "header.a b",
            "path.",
            "path.1",
            "method.x",
            "Host",
        ] {
            assert!(text.parse::<Fact>().is_err(), "{text}");
        }
    }

    #[test]
    fn facts_are_read_from_the_canonical_request() {
        let mut sample = Sample::new("GET", "Acme.example.com:80", "/a/%37?x=%31&x=2")
            .header("x-a", "1")
            .header("x-a", "2")
            .header("cookie", "sid=a")
            .header("cookie", "sid=b");
        sample.facts.route = Some("orders".into());
        sample.facts.path_captures = Captures {
            names: Some(["id".into()].into()),
            ranges: std::iter::once(3..4).collect(),
        };
        sample.facts.host_captures = Captures {
            names: Some(["tenant".into()].into()),
            ranges: std::iter::once(0..4).collect(),
        };
        let cases = [
            ("client_address", "192.0.2.1"),
            ("host", "acme.example.com"),
            ("host.tenant", "acme"),
            ("path", "/a/7"),
            ("path.id", "7"),
            ("method", "GET"),
            ("scheme", "http"),
            ("header.x-a", "1, 2"),
            ("query.x", "1"),
            ("cookie.sid", "a"),
            ("header.cookie", "sid=a; sid=b"),
            ("route", "orders"),
            ("listener", "public"),
            ("request_id", "0190-1"),
        ];
        for (text, value) in cases {
            assert_eq!(
                fact(text).read(sample.view()).as_deref(),
                Some(value),
                "{text}"
            );
        }
        for text in [
            "host.other",
            "path.other",
            "header.x-b",
            "query.y",
            "cookie.other",
        ] {
            assert_eq!(fact(text).read(sample.view()), None, "{text}");
        }
    }

    #[test]
    fn an_ipv6_client_counts_by_its_network() {
        let key = |address: &str| {
            let sample = Sample::get("/").client(address);
            Fact::ClientAddress
                .read_key(sample.view())
                .unwrap()
                .into_owned()
        };
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(key("2001:db8:1:2::9"), key("2001:db8:1:2:ffff::"));
        assert_eq!(key("192.0.2.7"), "192.0.2.7");
        assert_eq!(key("::ffff:192.0.2.7"), "192.0.2.7");
    }
}
