//! The rules of design 3.3 once more, slow and obvious, on the patterns' texts: what the index has to agree with.

use super::index::{Found, RouteSpec, Router};
use super::spec::{Match, each};
use crate::exchange::fact::sample::Sample;
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// What is to be found.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Route {
        index: usize,
        host: Vec<String>,
        path: Vec<String>,
    },
    NotAllowed(BTreeSet<String>),
    Ambiguous,
    None,
}

/// One match of one route with one of its host patterns and one of its path patterns.
struct Candidate<'a> {
    route: usize,
    spec: &'a RouteSpec,
    matcher: usize,
    written: &'a Match,
    host: Option<String>,
    path: String,
}

/// Those that name this listener, or those that name none.
fn candidates<'a>(specs: &'a [RouteSpec], listener: Option<&str>) -> Vec<Candidate<'a>> {
    let mut all = Vec::new();
    for (route, spec) in specs.iter().enumerate() {
        for (matcher, written) in spec.matches.iter().enumerate() {
            let listeners = each(&written.listener);
            let named = listeners.iter().any(|name| Some(name.as_str()) == listener);
            if listeners.is_empty() != listener.is_none() || (listener.is_some() && !named) {
                continue;
            }
            let hosts = each(&written.host)
                .iter()
                .map(|host| Some(host.to_string()));
            let hosts: Vec<_> = if each(&written.host).is_empty() {
                vec![None]
            } else {
                hosts.collect()
            };
            let paths = each(&written.path).iter().map(ToString::to_string);
            let paths: Vec<_> = if each(&written.path).is_empty() {
                vec!["/**".to_owned()]
            } else {
                paths.collect()
            };
            for host in &hosts {
                for path in &paths {
                    all.push(Candidate {
                        route,
                        spec,
                        matcher,
                        written,
                        host: host.clone(),
                        path: path.clone(),
                    });
                }
            }
        }
    }
    all
}

/// How narrow a host pattern is, and what it captures, if it fits: the least is the narrowest.
type HostFit = ((u8, Reverse<usize>, u8), Vec<String>);

fn host_fit(pattern: Option<&str>, host: &str) -> Option<HostFit> {
    let Some(pattern) = pattern else {
        return Some(((2, Reverse(0), 0), vec![]));
    };
    let (pattern_labels, labels): (Vec<&str>, Vec<&str>) =
        (pattern.split('.').collect(), host.split('.').collect());
    if pattern_labels[0] == "*" {
        let name = &pattern_labels[1..];
        let fits = labels.len() > name.len() && labels.ends_with(name);
        return fits.then(|| ((1, Reverse(name.join(".").len()), 1), vec![]));
    }
    if pattern_labels.len() != labels.len() {
        return None;
    }
    let mut captures = Vec::new();
    for (pattern, label) in pattern_labels.iter().zip(&labels) {
        if pattern.starts_with('{') {
            captures.push(label.to_string());
        } else if pattern != label {
            return None;
        }
    }
    let name = pattern_labels[captures.len()..].join(".");
    let class = if captures.is_empty() { 0 } else { 1 };
    Some(((class, Reverse(name.len()), 0), captures))
}

/// Per segment 0 for a literal, 1 for a parameter, 2 for all that is left; and the captures.
fn path_fit(pattern: &str, path: &str) -> Option<(Vec<u8>, Vec<String>)> {
    let (mut kinds, mut captures) = (Vec::new(), Vec::new());
    let mut segments = path.split('/').skip(1);
    for part in pattern.split('/').skip(1) {
        if part == "**" {
            kinds.push(2);
            return Some((kinds, captures));
        }
        let segment = segments.next()?;
        let decoded = crate::exchange::canonical::reading::decode(segment);
        if part.starts_with('{') {
            if segment.is_empty() {
                return None;
            }
            kinds.push(1);
            captures.push(segment.to_owned());
        } else if part == decoded {
            kinds.push(0);
        } else {
            return None;
        }
    }
    segments.next().is_none().then_some((kinds, captures))
}

fn method_of(sample: &Sample) -> String {
    let header = |name: &str| {
        sample
            .request
            .headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let method = sample.request.method.to_string();
    match header("access-control-request-method") {
        Some(asked) if method == "OPTIONS" && header("origin").is_some() => asked,
        _ => method,
    }
}

/// The methods of a match, HEAD with GET.
fn methods_of(written: &Match) -> BTreeSet<String> {
    let mut methods: BTreeSet<String> = each(&written.method)
        .iter()
        .map(|method| method.as_str().to_owned())
        .collect();
    if methods.contains("GET") {
        methods.insert("HEAD".to_owned());
    }
    methods
}

/// Whether the headers fit; the sets of routes below have no other predicates but methods.
fn headers_fit(written: &Match, sample: &Sample) -> bool {
    written.header.iter().all(|(name, value)| {
        let super::value::ValueMatch::Exact(text) = value else {
            unreachable!()
        };
        sample
            .request
            .headers
            .get_all(name.name())
            .iter()
            .any(|value| value.as_bytes() == text.as_bytes())
    })
}

fn reference_as(specs: &[RouteSpec], sample: &Sample, path: &str) -> Expected {
    let listener = sample.facts.connection.listener.name.clone();
    let mut allowed = BTreeSet::new();
    let named = candidates(specs, Some(&listener));
    let unnamed = candidates(specs, None);
    reference_among(&named, sample, path, &mut allowed)
        .or_else(|| reference_among(&unnamed, sample, path, &mut allowed))
        .unwrap_or_else(|| refused(allowed))
}

/// What is found among some candidates; none if nothing fits, or all that does lets the request fall through.
fn reference_among(
    all: &[Candidate<'_>],
    sample: &Sample,
    path: &str,
    allowed: &mut BTreeSet<String>,
) -> Option<Expected> {
    let host = sample.facts.host.as_str();
    let method = method_of(sample);
    let fitting_hosts: BTreeSet<_> = all
        .iter()
        .filter_map(|one| host_fit(one.host.as_deref(), host))
        .map(|(rank, _)| rank)
        .collect();
    let mut falling = false;
    for host_rank in fitting_hosts {
        let of_host: Vec<_> = all
            .iter()
            .filter(|one| {
                host_fit(one.host.as_deref(), host).is_some_and(|(rank, _)| rank == host_rank)
            })
            .collect();
        let paths: BTreeSet<_> = of_host
            .iter()
            .filter_map(|one| path_fit(&one.path, path))
            .map(|(kinds, _)| kinds)
            .collect();
        for kinds in paths {
            let mut here: Vec<_> = of_host
                .iter()
                .filter(|one| path_fit(&one.path, path).is_some_and(|(found, _)| found == kinds))
                .collect();
            here.sort_by_key(|one| {
                let count = usize::from(one.written.method.is_some()) + one.written.header.len();
                (
                    Reverse(one.spec.priority),
                    Reverse(count),
                    one.spec.name.clone(),
                    one.matcher,
                )
            });
            for one in &here {
                if !headers_fit(one.written, sample) {
                    continue;
                }
                let methods = methods_of(one.written);
                if methods.is_empty() || methods.contains(&method) {
                    let host = host_fit(one.host.as_deref(), host).unwrap().1;
                    let path = path_fit(&one.path, path).unwrap().1;
                    return Some(Expected::Route {
                        index: one.route,
                        host,
                        path,
                    });
                }
                allowed.extend(methods);
            }
            if !here.iter().any(|one| one.spec.fall_through) {
                return Some(refused(std::mem::take(allowed)));
            }
            falling = true;
        }
        if !falling {
            return None;
        }
    }
    None
}

fn refused(allowed: BTreeSet<String>) -> Expected {
    if allowed.is_empty() {
        Expected::None
    } else {
        Expected::NotAllowed(allowed)
    }
}

fn reference(specs: &[RouteSpec], sample: &Sample) -> Expected {
    let path = sample.request.uri.path();
    let whole = reference_as(specs, sample, path);
    let cut_path = crate::exchange::canonical::reading::without_parameters(path);
    if cut_path == path {
        return whole;
    }
    let cut = reference_as(specs, sample, &cut_path);
    match (&whole, &cut) {
        (Expected::Route { index, .. }, Expected::Route { index: other, .. }) if index == other => {
            whole
        }
        (Expected::None, _) => cut,
        (Expected::NotAllowed(_), Expected::NotAllowed(_) | Expected::None) => whole,
        _ => Expected::Ambiguous,
    }
}

/// What the index finds, in the same words.
fn found(router: &Router, sample: &Sample) -> Expected {
    let cut = |captures: &crate::exchange::Captures, text: &str| -> Vec<String> {
        let ranges = captures.ranges.iter();
        ranges
            .map(|range| text[range.start as usize..range.end as usize].to_owned())
            .collect()
    };
    match router.find(sample.view()) {
        Found::Route {
            index,
            host_captures,
            path_captures,
        } => Expected::Route {
            index,
            host: cut(&host_captures, sample.facts.host.as_str()),
            path: cut(&path_captures, sample.request.uri.path()),
        },
        Found::MethodNotAllowed { allow } => Expected::NotAllowed(
            allow
                .to_str()
                .unwrap()
                .split(", ")
                .map(str::to_owned)
                .collect(),
        ),
        Found::Ambiguous => Expected::Ambiguous,
        Found::None => Expected::None,
    }
}

/// Builds the index, without the routes that it refuses.
fn built(mut specs: Vec<RouteSpec>) -> (Vec<RouteSpec>, Router) {
    loop {
        match Router::compile(specs.clone()) {
            Ok(router) => return (specs, router),
            Err(issues) => {
                let bad: BTreeSet<usize> = issues.iter().map(|issue| issue.route).collect();
                let mut at = 0;
                specs.retain(|_| {
                    at += 1;
                    !bad.contains(&(at - 1))
                });
            }
        }
    }
}

fn a_path_pattern() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "b", "@", "{}"]);
    let end = prop::sample::select(vec!["", "", "/", "/**", "/**"]);
    (prop::collection::vec(segment, 0..4), end).prop_map(|(segments, end)| {
        let mut text = String::new();
        for (at, segment) in segments.iter().enumerate() {
            text.push('/');
            text.push_str(&segment.replace("{}", &format!("{{p{at}}}")));
        }
        text.push_str(end);
        if text.is_empty() {
            "/".to_owned()
        } else {
            text
        }
    })
}

fn a_match() -> impl Strategy<Value = Match> {
    let hosts = vec![
        "a.com",
        "*.a.com",
        "{t}.a.com",
        "x.a.com",
        "*.x.a.com",
        "{s}.{t}.a.com",
        "b.com",
        "*.com",
    ];
    (
        prop::collection::vec(prop::sample::select(hosts), 0..3),
        prop::collection::vec(a_path_pattern(), 1..3),
        prop::collection::vec(prop::sample::select(vec!["GET", "PUT", "PURGE"]), 0..3),
        prop::option::of(prop::sample::select(vec!["1", "2"])),
        prop::option::weighted(0.2, prop::sample::select(vec!["l1", "l2"])),
    )
        .prop_map(|(host, path, method, header, listener)| {
            let mut json = serde_json::json!({ "path": path });
            if !host.is_empty() {
                json["host"] = host.into();
            }
            if !method.is_empty() {
                json["method"] = method.into();
            }
            if let Some(header) = header {
                json["header"] = serde_json::json!({ "x-h": header });
            }
            if let Some(listener) = listener {
                json["listener"] = listener.into();
            }
            serde_json::from_value(json).unwrap()
        })
}

fn routes() -> impl Strategy<Value = Vec<RouteSpec>> {
    let one = (
        prop::collection::vec(a_match(), 1..3),
        0..3,
        prop::bool::weighted(0.3),
    );
    prop::collection::vec(one, 0..12).prop_map(|all| {
        let named = all
            .into_iter()
            .enumerate()
            .map(|(at, (matches, priority, fall_through))| RouteSpec {
                // the order of names is not that of the list
                name: format!("r{}", (at * 7) % 12).into(),
                matches,
                priority,
                fall_through,
            });
        named.collect()
    })
}

fn a_request() -> impl Strategy<Value = Sample> {
    let hosts = vec![
        "a.com",
        "x.a.com",
        "y.x.a.com",
        "z.y.x.a.com",
        "y.a.com",
        "b.com",
        "c.org",
    ];
    let segments = vec!["a", "b", "c", "", "@", "%40", "a;v=1", "b;", "%3Ba"];
    (
        prop::sample::select(hosts),
        prop::collection::vec(prop::sample::select(segments), 1..5),
        prop::sample::select(vec!["GET", "HEAD", "PUT", "PURGE", "OPTIONS", "PREFLIGHT"]),
        prop::collection::vec(prop::sample::select(vec!["1", "2"]), 0..3),
        prop::sample::select(vec!["l1", "l2", "public"]),
    )
        .prop_map(|(host, segments, method, headers, listener)| {
            let target = format!("/{}", segments.join("/"));
            let mut sample = match method {
                "PREFLIGHT" => Sample::new("OPTIONS", host, &target)
                    .header("origin", "https://c.org")
                    .header("access-control-request-method", "PUT"),
                method => Sample::new(method, host, &target),
            };
            for value in headers {
                sample = sample.header("x-h", value);
            }
            sample.listener(listener)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_index_agrees_with_the_reference(specs in routes(), requests in prop::collection::vec(a_request(), 1..24)) {
        let (specs, router) = built(specs);
        for sample in &requests {
            prop_assert_eq!(found(&router, sample), reference(&specs, sample), "{:?} {:?}", specs, sample.request);
        }
    }

    #[test]
    fn the_order_of_routes_means_nothing(specs in routes(), requests in prop::collection::vec(a_request(), 1..12)) {
        let mut at = 0;
        let specs: Vec<_> = specs.into_iter().map(|spec| {
            at += 1;
            RouteSpec { name: format!("{}-{at}", spec.name).into(), ..spec }
        }).collect();
        let (specs, router) = built(specs);
        let turned: Vec<_> = specs.iter().rev().cloned().collect();
        let other = Router::compile(turned).unwrap();
        for sample in &requests {
            let (one, other) = (found(&router, sample), found(&other, sample));
            let turn = |index: usize| specs.len() - 1 - index;
            let other = match other {
                Expected::Route { index, host, path } => Expected::Route { index: turn(index), host, path },
                other => other,
            };
            prop_assert_eq!(one, other);
        }
    }

    /// Security requirement 4: what does not go to the protected route is nothing that a server would take for it.
    #[test]
    fn no_spelling_of_a_protected_path_escapes_its_route(pieces in prop::collection::vec(spelling(), 1..10)) {
        use crate::exchange::canonical::{canonical_path, reading};
        let router = protected();
        let Ok(path) = canonical_path(&format!("/{}", pieces.concat())).map(|path| path.text.into_owned()) else {
            return Ok(());
        };
        let sample = Sample::get(&path);
        let open = match router.find(sample.view()) {
            Found::Route { index, .. } => index != 0,
            _ => false,
        };
        // without `allow_encoded_slash` such a request is refused once its route is known
        if !open || path.contains("%2F") {
            return Ok(());
        }
        let bare = reading::without_parameters(&path);
        for read in [path.clone(), reading::decode(&path), bare.clone(), reading::decode(&bare)] {
            let segments = reading::resolve(&read);
            let first = segments.first().map(String::as_str);
            prop_assert!(first != Some("private") && first != Some("@admin"), "{path} is read as {read}");
        }
    }
}

fn spelling() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "private",
        "%70rivate",
        "privat%65",
        "public",
        "@admin",
        "%40admin",
        "/",
        "/",
        "//",
        "/./",
        "/../",
        "/%2e%2e/",
        "%2f",
        ";",
        ";x=1",
        "/;x/",
        "%3b",
        "%5c",
        "\\",
        "..",
        ".",
        "%2E",
        "..;/",
        "%252f",
        "%25",
        "~",
    ])
}

/// One route for what is protected, one for what is open, one for all that is left.
fn protected() -> Router {
    let spec = |name: &str, path: &str| RouteSpec {
        name: name.into(),
        matches: vec![serde_json::from_str(&format!(r#"{{"path":{path}}}"#)).unwrap()],
        priority: 0,
        fall_through: false,
    };
    let private = spec("private", r#"["/private/**","/@admin/**"]"#);
    Router::compile(vec![
        private,
        spec("public", r#""/public/**""#),
        spec("rest", r#""/**""#),
    ])
    .unwrap()
}
