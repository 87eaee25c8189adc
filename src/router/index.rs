//! The compiled routes of a gateway, and the look-up.

use super::conflict;
use super::pattern::{HostPattern, PathPattern, Reading};
use super::predicate::{Predicates, Subject};
use super::spec::{Match, each};
use super::trie::{HostIndex, Index, PathTrie, Ranges, index_of};
use super::value::MethodSet;
use crate::exchange::{Captures, View};
use ahash::AHashMap;
use http::HeaderValue;
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::sync::Arc;

/// A route as the index needs it.
#[derive(Clone, Debug)]
pub struct RouteSpec {
    pub name: Arc<str>,
    /// Any of these.
    pub matches: Vec<Match>,
    /// Among routes of one pattern the highest goes first.
    pub priority: i32,
    /// Whether a request that fits the patterns but not the predicates may go to a wider pattern.
    pub fall_through: bool,
}

/// Why routes can't be an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Which route.
    pub route: usize,
    /// Which of its matches.
    pub matcher: usize,
    pub kind: IssueKind,
    /// The other route that it is about.
    pub other: Option<usize>,
    pub message: String,
    pub hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IssueKind {
    /// Two routes of which neither goes first, though one request could match both.
    Tie,
    /// Another route takes all that this match could.
    Unreachable,
    /// A match in which nothing is written, or no match at all.
    Empty,
}

/// What a look-up finds.
#[derive(Clone, Debug)]
pub enum Found {
    Route {
        /// Its place among the [`RouteSpec`]s.
        index: usize,
        host_captures: Captures,
        path_captures: Captures,
    },
    /// Only the method kept the routes of the pattern from taking the request. What `Allow` has to say.
    MethodNotAllowed {
        allow: HeaderValue,
    },
    /// The path has `;parameters`, and is another route's to a server that cuts them off: 400 `request.path`.
    Ambiguous,
    None,
}

/// An index over routes. A look-up costs the same whatever their number, and allocates nothing but what decoding a
/// query or an escaped segment takes, or the `Allow` of an unusual 405.
#[derive(Debug)]
pub struct Router {
    names: Box<[Arc<str>]>,
    rules: Box<[Rule]>,
    /// For the listeners that some match names: what names them. Asked before what names none.
    named: AHashMap<Box<str>, Table>,
    /// What names no listener.
    others: Table,
}

/// What requests are looked up in: hosts, and the paths of each.
pub(super) type Table = HostIndex<PathTrie<Place>>;

/// One match of one route.
#[derive(Debug)]
pub(super) struct Rule {
    pub route: usize,
    pub matcher: usize,
    pub predicates: Predicates,
    pub rank: Rank,
    fall_through: bool,
    /// What `Allow` says when it is the only one that failed on the method.
    allow: Option<HeaderValue>,
}

/// The lowest goes first: by priority, then by the number of predicates.
pub(super) type Rank = (Reverse<i32>, Reverse<usize>);

/// All rules of one host pattern and one path pattern.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// The first that fits takes the request.
    pub entries: Vec<Entry>,
    /// Whether a request that none of them takes may look further.
    pub fall_through: bool,
    /// What `Allow` says when all of them failed on the method.
    allow: Option<HeaderValue>,
}

/// One rule at one place, with the patterns as its match has them.
#[derive(Debug)]
pub(super) struct Entry {
    pub rule: Index,
    pub host: Option<Arc<HostPattern>>,
    pub path: Arc<PathPattern>,
}

impl Router {
    /// Builds the index.
    ///
    /// # Errors
    /// All ties, unreachable matches and empty matches, in the order of the routes.
    pub fn compile(specs: Vec<RouteSpec>) -> Result<Self, Vec<Issue>> {
        let mut issues = empty_matches(&specs);
        let rules: Box<[Rule]> = specs
            .iter()
            .enumerate()
            .flat_map(|(route, spec)| rules_of(route, spec))
            .collect();
        let mut router = Self {
            names: specs.iter().map(|spec| spec.name.clone()).collect(),
            rules,
            named: AHashMap::new(),
            others: Table::default(),
        };
        let listeners = specs
            .iter()
            .flat_map(|spec| &spec.matches)
            .flat_map(|one| each(&one.listener));
        router.named = listeners
            .map(|name| (name.as_str().into(), Table::default()))
            .collect();
        router.fill(&specs);
        router.settle();
        issues.extend(conflict::issues(&router));
        if issues.is_empty() {
            return Ok(router);
        }
        issues.sort_by_key(|issue| (issue.route, issue.matcher));
        Err(issues)
    }

    /// Puts every rule where its patterns are.
    fn fill(&mut self, specs: &[RouteSpec]) {
        for (at, rule) in self.rules.iter().enumerate() {
            let Some(written) = specs
                .get(rule.route)
                .and_then(|spec| spec.matches.get(rule.matcher))
            else {
                continue;
            };
            let places = Places::of(written);
            let listeners = each(&written.listener);
            for listener in listeners {
                if let Some(table) = self.named.get_mut(listener.as_str()) {
                    places.fill(table, index_of(at));
                }
            }
            if listeners.is_empty() {
                places.fill(&mut self.others, index_of(at));
            }
        }
    }

    /// Orders the rules of each place, and works out what depends on all of them.
    fn settle(&mut self) {
        let Self {
            names,
            rules,
            named,
            others,
        } = self;
        for place in named
            .values_mut()
            .chain([others])
            .flat_map(|table| table.values_mut())
            .flat_map(PathTrie::values_mut)
        {
            place.entries.sort_by_key(|entry| {
                let rule = rules.get(entry.rule as usize);
                rule.map(|rule| (rule.rank, names.get(rule.route), rule.matcher))
            });
            let of_place = || {
                place
                    .entries
                    .iter()
                    .filter_map(|entry| rules.get(entry.rule as usize))
            };
            place.fall_through = of_place().any(|rule| rule.fall_through);
            let methods = of_place().filter_map(|rule| rule.predicates.methods());
            place.allow = methods
                .fold(None::<MethodSet>, |all, one| {
                    Some(one.union(&all.unwrap_or_default()))
                })
                .map(|all| all.allow());
        }
    }

    /// The name of a route.
    pub fn name(&self, route: usize) -> Option<&Arc<str>> {
        self.names.get(route)
    }

    /// Which route takes a request: one whose path and host are canonical.
    pub fn find(&self, view: View<'_>) -> Found {
        self.decide(&Subject::new(view)).into_found()
    }

    /// The decision in both readings of the path, where they differ at all.
    pub(super) fn decide(&self, subject: &Subject<'_>) -> Decision<'_> {
        let whole = self.decide_as(subject, Reading::Whole);
        if memchr::memchr(b';', subject.path().as_bytes()).is_none() {
            return whole;
        }
        let cut = self.decide_as(subject, Reading::WithoutParameters);
        match (&whole, &cut) {
            (Decision::Taken(one), Decision::Taken(other))
                if one.rule.route == other.rule.route =>
            {
                whole
            }
            (Decision::Refused(Refused::None), _) => cut,
            (Decision::Refused(_), Decision::Refused(_)) => whole,
            _ => Decision::Ambiguous,
        }
    }

    /// Listener, host, then path, each chosen alone; then among the rules of that place. What names the listener goes
    /// before what names none, which is asked when none of the former's patterns fit. A place none of whose rules fit
    /// ends the search, unless one of them lets it fall through.
    fn decide_as(&self, subject: &Subject<'_>, reading: Reading) -> Decision<'_> {
        let mut refused = Refused::None;
        for table in self.tables_for(subject) {
            if let Some(decision) = self.decide_in(table, subject, reading, &mut refused) {
                return decision;
            }
        }
        Decision::Refused(refused)
    }

    /// The decision of one table; none if nothing there fits, or all that does lets the request fall through.
    fn decide_in<'r>(
        &'r self,
        table: &'r Table,
        subject: &Subject<'_>,
        reading: Reading,
        refused: &mut Refused<'r>,
    ) -> Option<Decision<'r>> {
        let mut falling = false;
        for (paths, host) in table.walk(subject.host()) {
            let mut walk = paths.walk(subject.path(), reading);
            while let Some(place) = walk.advance() {
                if let Some((entry, rule)) = self.choose(place, subject, refused) {
                    let path = walk.captures().clone();
                    return Some(Decision::Taken(Taken {
                        entry,
                        rule,
                        host,
                        path,
                    }));
                }
                if !place.fall_through {
                    let refused = std::mem::replace(refused, Refused::None);
                    return Some(Decision::Refused(refused));
                }
                falling = true;
            }
            if !falling {
                break;
            }
        }
        None
    }

    /// The first rule of a place that fits. Notes those that fail on the method only.
    fn choose<'r>(
        &'r self,
        place: &'r Place,
        subject: &Subject<'_>,
        refused: &mut Refused<'r>,
    ) -> Option<(&'r Entry, &'r Rule)> {
        let mut by_method: SmallVec<[&'r Rule; 8]> = SmallVec::new();
        for entry in &place.entries {
            let Some(rule) = self.rules.get(entry.rule as usize) else {
                continue;
            };
            let method = rule
                .predicates
                .method
                .as_ref()
                .is_none_or(|method| method.matches(subject));
            if !rule
                .predicates
                .others
                .iter()
                .all(|predicate| predicate.matches(subject))
            {
                continue;
            }
            if method {
                return Some((entry, rule));
            }
            by_method.push(rule);
        }
        refused.add(place, &by_method);
        None
    }

    /// The tables that a request is looked up in, in their order.
    pub(super) fn tables_for(&self, subject: &Subject<'_>) -> impl Iterator<Item = &Table> {
        let listener = &subject.view.facts.connection.listener.name;
        self.named
            .get(&**listener)
            .into_iter()
            .chain([&self.others])
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.named.values().chain([&self.others])
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub(super) fn rule(&self, entry: &Entry) -> Option<&Rule> {
        self.rules.get(entry.rule as usize)
    }
}

/// What was decided, still with references into the index.
#[derive(Debug)]
pub(super) enum Decision<'r> {
    Taken(Taken<'r>),
    Refused(Refused<'r>),
    Ambiguous,
}

/// A rule that takes a request.
#[derive(Debug)]
pub(super) struct Taken<'r> {
    pub entry: &'r Entry,
    pub rule: &'r Rule,
    host: Ranges,
    path: Ranges,
}

/// What is to be allowed where nothing was found.
#[derive(Debug)]
pub(super) enum Refused<'r> {
    /// No rule failed on its method alone.
    None,
    /// The methods were put together at load.
    Known(&'r HeaderValue),
    /// Some of several places, or of one that has others, too.
    Some(MethodSet),
}

impl<'r> Refused<'r> {
    /// Adds the rules of a place that failed on the method only.
    fn add(&mut self, place: &'r Place, rules: &[&'r Rule]) {
        *self = match (&*self, rules) {
            (_, []) => return,
            (Refused::None, [rule]) => rule.allow.as_ref().map_or(Refused::None, Refused::Known),
            (Refused::None, all) if all.len() == place.entries.len() => {
                place.allow.as_ref().map_or(Refused::None, Refused::Known)
            }
            (before, more) => {
                let sets = more.iter().filter_map(|rule| rule.predicates.methods());
                Refused::Some(sets.fold(before.methods(), |all, one| all.union(one)))
            }
        };
    }

    /// The methods so far. Those that were put together at load are read back: it takes a `fall_through` to get here.
    fn methods(&self) -> MethodSet {
        match self {
            Refused::None => MethodSet::default(),
            Refused::Some(methods) => methods.clone(),
            Refused::Known(allow) => {
                let names = allow.to_str().unwrap_or_default().split(", ");
                let names: Vec<_> = names.filter_map(|name| name.parse().ok()).collect();
                MethodSet::new(names.iter())
            }
        }
    }
}

impl Decision<'_> {
    pub(super) fn into_found(self) -> Found {
        match self {
            Decision::Ambiguous => Found::Ambiguous,
            Decision::Refused(Refused::None) => Found::None,
            Decision::Refused(Refused::Known(allow)) => Found::MethodNotAllowed {
                allow: allow.clone(),
            },
            Decision::Refused(Refused::Some(methods)) => Found::MethodNotAllowed {
                allow: methods.allow(),
            },
            Decision::Taken(Taken {
                entry,
                rule,
                host,
                path,
            }) => {
                let host_names = entry.host.as_ref().and_then(|host| host.names().clone());
                Found::Route {
                    index: rule.route,
                    host_captures: Captures {
                        names: host_names,
                        ranges: host,
                    },
                    path_captures: Captures {
                        names: entry.path.names().clone(),
                        ranges: path,
                    },
                }
            }
        }
    }
}

/// The patterns of a match, shared by the tables.
struct Places {
    hosts: Vec<Option<Arc<HostPattern>>>,
    paths: Vec<Arc<PathPattern>>,
}

impl Places {
    fn of(written: &Match) -> Self {
        let hosts = each(&written.host)
            .iter()
            .map(|host| Some(Arc::new(host.clone())));
        let paths = written.paths().into_iter().map(Arc::new);
        Self {
            hosts: or_else(hosts.collect(), None),
            paths: or_else(paths.collect(), PathPattern::everything().into()),
        }
    }

    fn fill(&self, table: &mut Table, rule: Index) {
        for host in &self.hosts {
            let paths = table.entry(host.as_deref());
            for path in &self.paths {
                paths.update(path, |place| {
                    // patterns of one shape written twice are one
                    if place.entries.last().is_none_or(|entry| entry.rule != rule) {
                        place.entries.push(Entry {
                            rule,
                            host: host.clone(),
                            path: path.clone(),
                        });
                    }
                });
            }
        }
    }
}

fn or_else<T>(list: Vec<T>, default: T) -> Vec<T> {
    if list.is_empty() { vec![default] } else { list }
}

fn rules_of(route: usize, spec: &RouteSpec) -> impl Iterator<Item = Rule> {
    spec.matches
        .iter()
        .enumerate()
        .map(move |(matcher, written)| {
            let predicates = Predicates::of(written);
            let count = predicates.count();
            Rule {
                route,
                matcher,
                rank: (Reverse(spec.priority), Reverse(count)),
                fall_through: spec.fall_through,
                allow: predicates.methods().map(MethodSet::allow),
                predicates,
            }
        })
}

fn empty_matches(specs: &[RouteSpec]) -> Vec<Issue> {
    let issue = |route, matcher, message| Issue {
        route,
        matcher,
        kind: IssueKind::Empty,
        other: None,
        message,
        hint: Some("write `path: /**` to take every request".to_owned()),
    };
    let mut issues = Vec::new();
    for (route, spec) in specs.iter().enumerate() {
        if spec.matches.is_empty() {
            issues.push(issue(
                route,
                0,
                format!("route `{}` matches nothing", spec.name),
            ));
        }
        for (matcher, _) in spec
            .matches
            .iter()
            .enumerate()
            .filter(|(_, one)| one.is_empty())
        {
            issues.push(issue(
                route,
                matcher,
                format!("a match of route `{}` is empty", spec.name),
            ));
        }
    }
    issues
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;

    fn router(routes: &[(&str, &str)]) -> Router {
        let specs = routes.iter().map(|(name, json)| RouteSpec {
            name: (*name).into(),
            matches: serde_json::from_str::<crate::units::OneOrMany<_>>(json)
                .unwrap()
                .0,
            priority: if name.starts_with("first") { 1 } else { 0 },
            fall_through: name.ends_with("falls"),
        });
        Router::compile(specs.collect()).unwrap()
    }

    /// The name of the route, or what `Allow` says, or nothing.
    fn found(router: &Router, sample: Sample) -> String {
        match router.find(sample.view()) {
            Found::Route { index, .. } => router.name(index).unwrap().to_string(),
            Found::MethodNotAllowed { allow } => format!("405 {}", allow.to_str().unwrap()),
            Found::Ambiguous => "400".to_owned(),
            Found::None => "404".to_owned(),
        }
    }

    #[test]
    fn host_path_and_predicates_are_chosen_one_after_the_other() {
        let router = router(&[
            ("exact host", r#"{"host":"x.a.com","path":"/a"}"#),
            ("wild host", r#"{"host":"*.a.com","path":"/**"}"#),
            ("any host", r#"{"path":"/b"}"#),
            (
                "more",
                r#"{"host":"*.a.com","path":"/m","header":{"x-a":"1"}}"#,
            ),
            ("less", r#"{"host":"*.a.com","path":"/m"}"#),
            (
                "first",
                r#"{"host":"*.a.com","path":"/m","query":{"q":"1"}}"#,
            ),
        ]);
        for (host, target, route) in [
            ("x.a.com", "/a", "exact host"),
            ("x.a.com", "/b", "404"),
            ("y.a.com", "/b", "wild host"),
            ("y.x.a.com", "/a", "wild host"),
            ("a.com", "/b", "any host"),
            ("y.a.com", "/m", "less"),
            ("y.a.com", "/m?q=1", "first"),
        ] {
            assert_eq!(
                found(&router, Sample::new("GET", host, target)),
                route,
                "{host}{target}"
            );
        }
        assert_eq!(
            found(
                &router,
                Sample::new("GET", "y.a.com", "/m").header("x-a", "1")
            ),
            "more"
        );
        assert_eq!(
            found(
                &router,
                Sample::new("GET", "y.a.com", "/m?q=1").header("x-a", "1")
            ),
            "first"
        );
    }

    #[test]
    fn a_method_that_no_route_takes_is_told_which_are() {
        let router = router(&[
            ("read", r#"{"path":"/a","method":"GET"}"#),
            ("write", r#"{"path":"/a","method":["PUT","PURGE"]}"#),
            (
                "beta",
                r#"{"path":"/a","method":"DELETE","header":{"x-beta":"1"}}"#,
            ),
            ("only", r#"{"path":"/b","method":"POST"}"#),
            ("never", r#"{"path":"/c","header":{"x-beta":"1"}}"#),
            ("rest", r#"{"path":"/**"}"#),
        ]);
        let find = |method, target| found(&router, Sample::new(method, "a.com", target));
        assert_eq!(find("HEAD", "/a"), "read");
        assert_eq!(find("POST", "/a"), "405 GET, HEAD, PUT, PURGE");
        assert_eq!(find("GET", "/b"), "405 POST");
        assert_eq!(find("GET", "/c"), "404");
        assert_eq!(find("GET", "/d"), "rest");
        let beta = Sample::new("POST", "a.com", "/a").header("x-beta", "1");
        assert_eq!(found(&router, beta), "405 GET, HEAD, PUT, DELETE, PURGE");
        let preflight = |asked| {
            let options = Sample::new("OPTIONS", "a.com", "/a").header("origin", "https://b.com");
            found(
                &router,
                options.header("access-control-request-method", asked),
            )
        };
        assert_eq!(preflight("PUT"), "write");
        assert_eq!(preflight("POST"), "405 GET, HEAD, PUT, PURGE");
    }

    #[test]
    fn a_route_may_let_requests_fall_through() {
        let router = router(&[
            (
                "beta falls",
                r#"{"host":"a.com","path":"/a/b","header":{"x-beta":"1"}}"#,
            ),
            (
                "put falls",
                r#"{"host":"a.com","path":"/a/**","method":"PUT"}"#,
            ),
            ("any", r#"{"path":"/a/**","method":["GET","PATCH"]}"#),
        ]);
        assert_eq!(
            found(
                &router,
                Sample::new("GET", "a.com", "/a/b").header("x-beta", "1")
            ),
            "beta falls"
        );
        assert_eq!(
            found(&router, Sample::new("PUT", "a.com", "/a/b")),
            "put falls"
        );
        assert_eq!(found(&router, Sample::new("GET", "a.com", "/a/b")), "any");
        assert_eq!(
            found(&router, Sample::new("POST", "a.com", "/a/b")),
            "405 GET, HEAD, PUT, PATCH"
        );
        assert_eq!(found(&router, Sample::new("POST", "a.com", "/x")), "404");
    }

    #[test]
    fn a_listener_has_its_own_routes_and_those_of_all() {
        let router = router(&[
            (
                "inner",
                r#"{"listener":"inner","host":"a.com","path":"/**"}"#,
            ),
            ("all", r#"{"path":"/**"}"#),
        ]);
        assert_eq!(
            found(&router, Sample::new("GET", "a.com", "/").listener("inner")),
            "inner"
        );
        assert_eq!(
            found(&router, Sample::new("GET", "b.com", "/").listener("inner")),
            "all"
        );
        assert_eq!(found(&router, Sample::new("GET", "a.com", "/")), "all");
    }

    #[test]
    fn what_names_the_listener_goes_before_what_is_narrower_and_names_none() {
        let router = router(&[
            ("inner", r#"{"listener":"inner","path":"/app/**"}"#),
            ("shared", r#"{"path":"/app/shared"}"#),
            ("elsewhere", r#"{"path":"/elsewhere"}"#),
        ]);
        let inner = |path| found(&router, Sample::get(path).listener("inner"));
        assert_eq!(inner("/app/shared"), "inner");
        assert_eq!(inner("/elsewhere"), "elsewhere");
        assert_eq!(found(&router, Sample::get("/app/shared")), "shared");
    }

    #[test]
    fn parameters_of_a_segment_change_no_route() {
        let router = router(&[
            ("admin", r#"{"path":"/admin/**"}"#),
            ("login", r#"{"path":"/login"}"#),
            ("rest", r#"{"path":"/r/**"}"#),
        ]);
        for (target, route) in [
            ("/login;jsessionid=1", "login"),
            ("/admin;v=1/x", "admin"),
            ("/r/a;v=1", "rest"),
            ("/x;v=1", "404"),
        ] {
            assert_eq!(found(&router, Sample::get(target)), route, "{target}");
        }
        let router = self::router(&[
            ("admin", r#"{"path":"/admin/**"}"#),
            ("rest", r#"{"path":"/**"}"#),
        ]);
        assert_eq!(found(&router, Sample::get("/admin;v=1/x")), "400");
        assert_eq!(found(&router, Sample::get("/other;v=1/x")), "rest");
    }

    #[test]
    fn captures_are_cut_out_of_host_and_path() {
        let router = router(&[(
            "one",
            r#"{"host":"{tenant}.a.com","path":"/u/{user}/o/{order}/**"}"#,
        )]);
        let sample = Sample::new("GET", "acme.a.com", "/u/ann%20b/o/7/x");
        let Found::Route {
            host_captures,
            path_captures,
            ..
        } = router.find(sample.view())
        else {
            panic!("no route")
        };
        assert_eq!(host_captures.value("tenant", "acme.a.com"), Some("acme"));
        let path = sample.request.uri.path();
        assert_eq!(path_captures.value("user", path), Some("ann%20b"));
        assert_eq!(path_captures.value("order", path), Some("7"));
        assert_eq!(path_captures.value("tenant", path), None);
    }

    #[test]
    fn a_grpc_service_needs_no_path() {
        let router = router(&[
            ("get", r#"{"grpc":"shop.Orders/Get"}"#),
            ("orders", r#"{"grpc":"shop.Orders"}"#),
            ("rest", r#"{"path":"/**"}"#),
        ]);
        let call = |path: &str| {
            found(
                &router,
                Sample::new("POST", "a.com", path).header("content-type", "application/grpc"),
            )
        };
        assert_eq!(call("/shop.Orders/Get"), "get");
        assert_eq!(call("/shop.Orders/List"), "orders");
        assert_eq!(call("/shop.Users/List"), "rest");
        assert_eq!(
            found(&router, Sample::new("POST", "a.com", "/shop.Orders/Get")),
            "404"
        );
    }

    #[test]
    fn options_asterisk_is_for_what_takes_every_path() {
        let options = || Sample::new("OPTIONS", "a.com", "*");
        assert_eq!(
            found(&router(&[("rest", r#"{"path":"/**"}"#)]), options()),
            "rest"
        );
        assert_eq!(
            found(&router(&[("root", r#"{"path":["/","/a/**"]}"#)]), options()),
            "404"
        );
    }
}
