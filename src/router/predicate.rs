//! The conditions of a match that are neither listener, host nor path, compiled.
//!
//! They are tried one by one, on nothing but the request and its facts, and allocate only where a query or a path with
//! escapes has to be decoded.

use super::pattern::segment_key;
use super::spec::{Match, Not, each};
use super::value::{FieldName, GrpcPattern, MethodSet, ParameterName, Pattern, ValueMatch};
use super::who::{self, Who};
use crate::exchange::View;
use crate::exchange::canonical::{cookies, query_pairs};
use crate::units::Cidr;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_TYPE, ORIGIN};
use http::{HeaderName, Method};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// What is asked of a request, with what follows from it worked out once.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub view: View<'a>,
    /// The method; for a CORS preflight the one that it asks about.
    pub method: &'a str,
    pub preflight: bool,
}

impl<'a> Subject<'a> {
    pub(super) fn new(view: View<'a>) -> Self {
        let asked = preflight_method(view);
        Self {
            view,
            method: asked.unwrap_or(view.request.method.as_str()),
            preflight: asked.is_some(),
        }
    }

    pub(super) fn host(&self) -> &'a str {
        self.view.facts.host.as_str()
    }

    pub(super) fn path(&self) -> &'a str {
        self.view.request.uri.path()
    }
}

/// The method that a CORS preflight asks about (Fetch, "CORS-preflight request").
fn preflight_method(view: View<'_>) -> Option<&str> {
    let headers = &view.request.headers;
    if view.request.method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.to_str().ok()
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Predicate {
    Method(MethodSet),
    PathRegex(Pattern),
    Header(HeaderName, ValueMatch),
    Query(Box<str>, ValueMatch),
    Cookie(Box<str>, ValueMatch),
    ClientAddress(Box<[Cidr]>),
    Grpc(Box<[GrpcPattern]>),
    /// Only in a `when`: routes are chosen before it is known who calls.
    Who(Who),
    /// Not all of these.
    Not(Box<[Predicate]>),
}

impl Predicate {
    pub(super) fn matches(&self, subject: &Subject<'_>) -> bool {
        let request = subject.view.request;
        match self {
            Predicate::Method(methods) => methods.contains(subject.method),
            Predicate::PathRegex(pattern) => {
                pattern.is_match(decoded_path(subject.path()).as_bytes())
            }
            Predicate::Header(name, value) => value.matches(request.headers.get_all(name).iter()),
            Predicate::Query(name, value) => {
                let pairs = query_pairs(request.uri.query());
                value.matches(
                    pairs
                        .filter(|(known, _)| *known == **name)
                        .map(|(_, value)| Bytes(value)),
                )
            }
            Predicate::Cookie(name, value) => {
                let cookies = cookies(&request.headers);
                value.matches(
                    cookies
                        .filter(|(known, _)| *known == name.as_bytes())
                        .map(|(_, value)| value),
                )
            }
            Predicate::ClientAddress(networks) => {
                let address = subject.view.facts.client_address;
                address.is_some_and(|address| {
                    networks
                        .iter()
                        .any(|network| network.contains(address.to_canonical()))
                })
            }
            Predicate::Grpc(methods) => {
                (subject.preflight || is_grpc(subject.view))
                    && methods.iter().any(|grpc| grpc.matches(subject.path()))
            }
            Predicate::Who(who) => who.holds(subject.view),
            Predicate::Not(all) => !all.iter().all(|predicate| predicate.matches(subject)),
        }
    }

    /// How many conditions it stands for.
    fn count(&self) -> usize {
        match self {
            Predicate::Not(all) => all.len(),
            _ => 1,
        }
    }

    /// Whether this holds whenever the other does. When in doubt, no.
    fn follows_from(&self, other: &Self) -> bool {
        use Predicate::*;
        match (self, other) {
            (Method(own), Method(other)) => other.is_subset(own),
            (Header(name, own), Header(known, other)) => name == known && own.follows_from(other),
            (Query(name, own), Query(known, other)) => name == known && own.follows_from(other),
            (Cookie(name, own), Cookie(known, other)) => name == known && own.follows_from(other),
            (ClientAddress(own), ClientAddress(other)) => other
                .iter()
                .all(|other| own.iter().any(|own| own.0.contains(&other.0))),
            (Grpc(own), Grpc(other)) => other
                .iter()
                .all(|other| own.iter().any(|own| own.contains(other))),
            // whoever excludes less is excluded whenever more is
            (Not(own), Not(other)) => other
                .iter()
                .all(|other| own.iter().any(|own| other.follows_from(own))),
            (Not(own), other) => own.iter().any(|own| own.excludes(other)),
            _ => self == other,
        }
    }

    /// Whether no request fits both. When in doubt, no.
    ///
    /// Two values of one name exclude each other, though a request may repeat the name and bring both: whoever sends
    /// that could have chosen either route anyway. The order of the routes' names then decides.
    fn excludes(&self, other: &Self) -> bool {
        use Predicate::*;
        match (self, other) {
            (Method(own), Method(other)) => own.is_disjoint(other),
            (Header(name, own), Header(known, other)) => name == known && own.excludes(other),
            (Query(name, own), Query(known, other)) => name == known && own.excludes(other),
            (Cookie(name, own), Cookie(known, other)) => name == known && own.excludes(other),
            (ClientAddress(own), ClientAddress(other)) => !own.iter().any(|own| {
                other
                    .iter()
                    .any(|other| own.0.contains(&other.0) || other.0.contains(&own.0))
            }),
            (Grpc(own), Grpc(other)) => !own.iter().any(|own| {
                other
                    .iter()
                    .any(|other| own.contains(other) || other.contains(own))
            }),
            (Not(all), other) | (other, Not(all)) => all.iter().all(|one| one.follows_from(other)),
            _ => false,
        }
    }

    /// Why it does not hold, for `explain`.
    pub(super) fn refusal(&self, subject: &Subject<'_>) -> String {
        match self {
            Predicate::Method(methods) => {
                format!("the method is {}, not {methods}", subject.method)
            }
            Predicate::PathRegex(pattern) => format!("the path does not match `{pattern}`"),
            Predicate::Header(name, value) => format!("not so: header `{name}` {value}"),
            Predicate::Query(name, value) => format!("not so: query parameter `{name}` {value}"),
            Predicate::Cookie(name, value) => format!("not so: cookie `{name}` {value}"),
            Predicate::ClientAddress(networks) => match subject.view.facts.client_address {
                Some(address) => format!("the client {address} is not in {}", list(networks)),
                None => format!(
                    "the client has no address, so it is not in {}",
                    list(networks)
                ),
            },
            Predicate::Grpc(methods) => format!("it is no gRPC request for {}", list(methods)),
            Predicate::Who(who) => format!("not so: {who}"),
            Predicate::Not(_) => "all that `not` names holds".to_owned(),
        }
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// A decoded text as the bytes that are compared.
struct Bytes<'a>(Cow<'a, str>);

impl AsRef<[u8]> for Bytes<'_> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The path as expressions see it: without escapes, but for those of slashes, so that `/` always ends a segment.
pub(super) fn decoded_path(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let parts: Vec<Cow<'_, str>> = path.split("%2F").map(segment_key).collect();
    Cow::Owned(parts.join("%2F"))
}

/// `application/grpc`, with whatever encoding behind it, and gRPC-Web (gRPC over HTTP/2, "Content-Type").
fn is_grpc(view: View<'_>) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    let media = view
        .request
        .headers
        .get(CONTENT_TYPE)
        .map(|value| value.as_bytes());
    let front = media.and_then(|media| media.get(..TYPE.len()));
    front.is_some_and(|front| front.eq_ignore_ascii_case(TYPE))
}

/// All conditions of one match. The method stands apart, because failing only there is a 405.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Predicates {
    pub method: Option<Predicate>,
    pub others: Box<[Predicate]>,
}

impl Predicates {
    pub(super) fn of(written: &Match) -> Self {
        let mut others = plain(
            &written.path_regex,
            &written.header,
            &written.query,
            &written.cookie,
        );
        others.extend(addresses(each(&written.client_address)));
        others.extend(grpc(each(&written.grpc)));
        let who = who::Written::of(written).compiled();
        others.extend(who.into_iter().map(Predicate::Who));
        others.extend(
            each(&written.not)
                .iter()
                .map(|not| Predicate::Not(excluded(not))),
        );
        let methods = each(&written.method);
        Self {
            method: (!methods.is_empty())
                .then(|| Predicate::Method(MethodSet::new(methods.iter()))),
            others: others.into(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.all().map(Predicate::count).sum()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Predicate> {
        self.method.iter().chain(&self.others)
    }

    pub(super) fn match_all(&self, subject: &Subject<'_>) -> bool {
        self.all().all(|predicate| predicate.matches(subject))
    }

    /// Whether they hold for nobody as long as nobody is known.
    pub(super) fn need_an_identity(&self) -> bool {
        self.all().any(|one| matches!(one, Predicate::Who(_)))
    }

    /// The methods that it is restricted to.
    pub(super) fn methods(&self) -> Option<&MethodSet> {
        match &self.method {
            Some(Predicate::Method(methods)) => Some(methods),
            _ => None,
        }
    }

    /// Whether all of this holds whenever all of the other does.
    pub(super) fn follow_from(&self, other: &Self) -> bool {
        self.all()
            .all(|own| other.all().any(|other| own.follows_from(other)))
    }

    /// Whether no request fits both.
    pub(super) fn exclude(&self, other: &Self) -> bool {
        self.all()
            .any(|own| other.all().any(|other| own.excludes(other)) || excluded_by_all(own, other))
            || other.all().any(|other| excluded_by_all(other, self))
    }
}

/// Whether a `not` names nothing but what holds for the others anyway, taken together.
fn excluded_by_all(own: &Predicate, others: &Predicates) -> bool {
    match own {
        Predicate::Not(all) => all
            .iter()
            .all(|one| others.all().any(|other| one.follows_from(other))),
        _ => false,
    }
}

fn plain(
    path_regex: &Option<Pattern>,
    header: &BTreeMap<FieldName, ValueMatch>,
    query: &BTreeMap<ParameterName, ValueMatch>,
    cookie: &BTreeMap<ParameterName, ValueMatch>,
) -> Vec<Predicate> {
    let header = header
        .iter()
        .map(|(name, value)| Predicate::Header(name.name().clone(), value.clone()));
    let cookie = cookie
        .iter()
        .map(|(name, value)| Predicate::Cookie(name.as_str().into(), value.clone()));
    let query = query
        .iter()
        .map(|(name, value)| Predicate::Query(name.as_str().into(), value.clone()));
    let path_regex = path_regex.iter().cloned().map(Predicate::PathRegex);
    // the cheap ones first
    header
        .chain(cookie)
        .chain(query)
        .chain(path_regex)
        .collect()
}

fn addresses(networks: &[Cidr]) -> Option<Predicate> {
    (!networks.is_empty()).then(|| Predicate::ClientAddress(networks.into()))
}

fn grpc(methods: &[GrpcPattern]) -> Option<Predicate> {
    (!methods.is_empty()).then(|| Predicate::Grpc(methods.into()))
}

fn excluded(not: &Not) -> Box<[Predicate]> {
    let mut all = plain(&not.path_regex, &not.header, &not.query, &not.cookie);
    let methods = each(&not.method);
    all.extend((!methods.is_empty()).then(|| Predicate::Method(MethodSet::new(methods.iter()))));
    all.extend(addresses(each(&not.client_address)));
    all.extend(grpc(each(&not.grpc)));
    let who = who::Written::of_not(not).compiled();
    all.extend(who.into_iter().map(Predicate::Who));
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;

    fn predicates(json: &str) -> Predicates {
        Predicates::of(&serde_json::from_str(json).unwrap())
    }

    fn fits(json: &str, sample: &Sample) -> bool {
        predicates(json).match_all(&Subject::new(sample.view()))
    }

    #[test]
    fn predicates_look_at_the_request() {
        let sample = Sample::new("POST", "a.com", "/a%40/b%2Fc?v=%31&v=2&flag")
            .header("x-v", "1")
            .header("x-v", "2")
            .header("cookie", "sid=abc; theme=dark")
            .header("content-type", "Application/gRPC+proto")
            .client("10.1.2.3");
        for json in [
            r#"{"method":["PUT","POST"]}"#,
            r#"{"path_regex":"/a@/b%2Fc"}"#,
            r#"{"header":{"x-v":"2"}}"#,
            r#"{"header":{"x-none":{"present":false}}}"#,
            r#"{"query":{"v":"1"}}"#,
            r#"{"query":{"v":{"regex":"[2-9]"},"flag":""}}"#,
            r#"{"cookie":{"sid":{"prefix":"ab"},"theme":"dark"}}"#,
            r#"{"client_address":["192.0.2.0/24","10.0.0.0/8"]}"#,
            r#"{"not":{"header":{"x-v":"1"},"method":"GET"}}"#,
        ] {
            assert!(fits(json, &sample), "{json}");
        }
        for json in [
            r#"{"method":"GET"}"#,
            r#"{"path_regex":"/a"}"#,
            r#"{"header":{"x-v":"3"}}"#,
            r#"{"header":{"x-v":"2","x-none":""}}"#,
            r#"{"query":{"flag":{"present":false}}}"#,
            r#"{"query":{"V":"1"}}"#,
            r#"{"cookie":{"sid":"ab"}}"#,
            r#"{"client_address":"192.0.2.0/24"}"#,
            r#"{"grpc":"a.B"}"#,
            r#"{"not":[{"method":"GET"},{"header":{"x-v":{"present":true}}}]}"#,
        ] {
            assert!(!fits(json, &sample), "{json}");
        }
        let grpc =
            Sample::new("POST", "a.com", "/a.B/C").header("content-type", "application/grpc");
        assert!(fits(r#"{"grpc":"a.B/C"}"#, &grpc) && !fits(r#"{"grpc":"a.B/D"}"#, &grpc));
    }

    #[test]
    fn a_preflight_has_the_method_that_it_asks_about() {
        let preflight =
            || Sample::new("OPTIONS", "a.com", "/").header("access-control-request-method", "PUT");
        let asked = preflight().header("origin", "https://b.com");
        assert!(fits(r#"{"method":"PUT"}"#, &asked) && !fits(r#"{"method":"OPTIONS"}"#, &asked));
        assert!(fits(r#"{"method":"OPTIONS"}"#, &preflight()));
    }

    #[test]
    fn predicates_follow_from_narrower_ones() {
        for (wide, narrow) in [
            ("{}", r#"{"method":"GET"}"#),
            (r#"{"method":["GET","PUT"]}"#, r#"{"method":"HEAD"}"#),
            (
                r#"{"header":{"x-a":{"present":true}}}"#,
                r#"{"header":{"x-a":"1"},"method":"GET"}"#,
            ),
            (
                r#"{"client_address":"10.0.0.0/8"}"#,
                r#"{"client_address":["10.1.0.0/16","10.2.0.0/16"]}"#,
            ),
            (r#"{"grpc":"a.B"}"#, r#"{"grpc":"a.B/C"}"#),
            (
                r#"{"not":{"header":{"x-a":"1"}}}"#,
                r#"{"header":{"x-a":"2"}}"#,
            ),
            (
                r#"{"not":{"header":{"x-a":"1"},"method":"GET"}}"#,
                r#"{"not":{"method":"GET"}}"#,
            ),
        ] {
            assert!(
                predicates(wide).follow_from(&predicates(narrow)),
                "{wide} {narrow}"
            );
            assert!(
                !predicates(narrow).follow_from(&predicates(wide)),
                "{narrow} {wide}"
            );
        }
    }

    #[test]
    fn predicates_exclude_each_other() {
        for (one, other) in [
            (r#"{"method":"GET"}"#, r#"{"method":["PUT","POST"]}"#),
            (
                r#"{"header":{"x-a":"1"}}"#,
                r#"{"header":{"x-a":"2"},"method":"GET"}"#,
            ),
            (
                r#"{"query":{"a":{"present":false}}}"#,
                r#"{"query":{"a":{"prefix":"1"}}}"#,
            ),
            (
                r#"{"client_address":"10.0.0.0/8"}"#,
                r#"{"client_address":"192.0.2.0/24"}"#,
            ),
            (r#"{"grpc":"a.B/C"}"#, r#"{"grpc":"a.B/D"}"#),
            (r#"{"not":{"method":"GET"}}"#, r#"{"method":"HEAD"}"#),
            (
                r#"{"not":{"method":"GET","header":{"x-a":"1"}}}"#,
                r#"{"method":"GET","header":{"x-a":"1"}}"#,
            ),
        ] {
            assert!(predicates(one).exclude(&predicates(other)), "{one} {other}");
            assert!(predicates(other).exclude(&predicates(one)), "{other} {one}");
        }
        for (one, other) in [
            (r#"{"method":"GET"}"#, r#"{"method":"HEAD"}"#),
            (r#"{"header":{"x-a":"1"}}"#, r#"{"header":{"x-b":"2"}}"#),
            (
                r#"{"client_address":"10.0.0.0/8"}"#,
                r#"{"client_address":"10.1.0.0/16"}"#,
            ),
            (r#"{"not":{"method":"GET"}}"#, r#"{"not":{"method":"PUT"}}"#),
        ] {
            assert!(
                !predicates(one).exclude(&predicates(other)),
                "{one} {other}"
            );
        }
    }
}
