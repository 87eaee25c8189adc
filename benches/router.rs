//! What it costs to make a request canonical and to find its route: the same with ten routes and with a hundred
//! thousand, and no allocation.

#![allow(clippy::expect_used, reason = "a bench may end by panicking")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::HeaderValue;
use northgate::exchange::canonical::{Raw, canonical, canonical_path};
use northgate::exchange::connection::{Connection, ListenerFacts, Peer};
use northgate::exchange::{Captures, Facts, HostText, Scheme, View};
use northgate::router::{Found, RouteSpec, Router};
use pingora_http::RequestHeader;
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator, which counts what it is asked for.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it came
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract, which is the same
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Fails the bench where a step that must not allocate does.
fn without_allocation<T>(what: &str, step: impl Fn() -> T) {
    black_box(step());
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    black_box(step());
    let made = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(made, 0, "{what} allocates");
}

const SIZES: &[(&str, usize)] = &[
    ("10_routes", 10),
    ("1k_routes", 1_000),
    ("100k_routes", 100_000),
];

/// A request and its facts as the intake leaves them.
struct Request {
    head: RequestHeader,
    facts: Facts,
}

impl Request {
    fn get(host: &str, target: &str) -> Self {
        let mut head =
            RequestHeader::build("GET", target.as_bytes(), None).expect("a valid target");
        for (name, value) in [
            ("host", host),
            ("user-agent", "bench"),
            ("accept", "*/*"),
            ("x-version", "2"),
        ] {
            head.insert_header(name, value).expect("a valid header");
        }
        let listener = Arc::new(ListenerFacts::new("public".into(), false));
        let peer = Peer::Ip(([192, 0, 2, 1], 1000).into());
        let facts = Facts {
            connection: Arc::new(Connection::new(listener, peer, Some(80), None)),
            request_id: HeaderValue::from_static("0190"),
            client_address: peer.ip(),
            peer_trusted: false,
            scheme: Scheme::Http,
            host: HostText::lowered(host).expect("an ASCII host"),
            port: None,
            host_captures: Captures::default(),
            path_captures: Captures::default(),
            route: None,
            identity: None,
            plan: None,
            granted: Vec::new(),
            body: Default::default(),
            set_cookies: Vec::new(),
            closes_at: None,
            overload: Default::default(),
            limits: Default::default(),
            stores: Default::default(),
            used: Default::default(),
            held: Default::default(),
        };
        Self { head, facts }
    }

    fn view(&self) -> View<'_> {
        View {
            request: &self.head,
            facts: &self.facts,
        }
    }
}

fn route(at: usize, matches: &str) -> RouteSpec {
    RouteSpec {
        name: format!("route-{at}").into(),
        matches: vec![serde_json::from_str(matches).expect("a valid match")],
        priority: 0,
        fall_through: false,
    }
}

fn compiled(routes: impl Iterator<Item = RouteSpec>) -> Router {
    Router::compile(routes.collect()).expect("routes without conflicts")
}

fn find(router: &Router, request: &Request) {
    let found = router.find(black_box(request.view()));
    assert!(matches!(found, Found::Route { .. }));
    black_box(found);
}

/// One host, a service behind each first segment; the request has two parameters.
fn one_host(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("router/one_host");
    for (name, size) in SIZES {
        let pattern =
            |at| format!(r#"{{"path":"/service{at}/users/{{user}}/orders/{{order}}/**"}}"#);
        let router = compiled((0..*size).map(|at| route(at, &pattern(at))));
        let request = Request::get(
            "example.com",
            &format!("/service{}/users/ann/orders/4711/lines", size / 2),
        );
        without_allocation(name, || find(&router, &request));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| find(&router, &request))
        });
    }
    group.finish();
}

/// A host for each route, half of them wildcards.
fn many_hosts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("router/many_hosts");
    for (name, size) in SIZES {
        let pattern = |at: usize| match at % 2 {
            0 => format!(r#"{{"host":"host{at}.example.com","path":"/api/**"}}"#),
            _ => format!(r#"{{"host":"*.host{at}.example.com","path":"/api/**"}}"#),
        };
        let router = compiled((0..*size).map(|at| route(at, &pattern(at))));
        let request = Request::get(
            &format!("www.host{}.example.com", size - 1),
            "/api/orders/4711",
        );
        without_allocation(name, || find(&router, &request));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| find(&router, &request))
        });
    }
    group.finish();
}

/// Eight routes of one pattern, told apart by method and header.
fn predicates(criterion: &mut Criterion) {
    let pattern = |at: usize| match at {
        0 => r#"{"path":"/orders"}"#.to_owned(),
        _ => format!(r#"{{"path":"/orders","method":"GET","header":{{"x-version":"{at}"}}}}"#),
    };
    let router = compiled((0..8).map(|at| route(at, &pattern(at))));
    let request = Request::get("example.com", "/orders");
    without_allocation("a look-up with predicates", || find(&router, &request));
    criterion.bench_function("router/8_predicates", |bencher| {
        bencher.iter(|| find(&router, &request))
    });
}

/// Building the index, which a reload does.
fn compile(criterion: &mut Criterion) {
    let specs: Vec<_> = (0..10_000)
        .map(|at| route(at, &format!(r#"{{"path":"/service{at}/{{id}}/**"}}"#)))
        .collect();
    let mut group = criterion.benchmark_group("router/compile");
    group.sample_size(10);
    group.bench_function("10k_routes", |bencher| {
        bencher
            .iter(|| Router::compile(black_box(specs.clone())).expect("routes without conflicts"));
    });
    group.finish();
}

fn canonicalise(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("canonical/path");
    for (name, path) in [
        ("plain", "/service/users/ann/orders/4711/lines"),
        ("escaped", "/service/caf%C3%A9/ann%20b/orders/4711/lines"),
        ("rewritten", "/service//users/./ann/%6frders/../4711/lines"),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| canonical_path(black_box(path)))
        });
    }
    group.finish();
    without_allocation("a canonical path with escapes", || {
        canonical_path("/caf%C3%A9/x").is_ok()
    });
    let request = Request::get(
        "Example.com:80",
        "/service/users/ann/orders/4711/lines?page=2",
    );
    let step =
        || canonical(&Raw::of(black_box(&request.head), Scheme::Http)).map(|found| found.rewritten);
    without_allocation("a canonical request", step);
    criterion.bench_function("canonical/request", |bencher| bencher.iter(step));
}

criterion_group!(
    benches,
    one_host,
    many_hosts,
    predicates,
    compile,
    canonicalise
);
criterion_main!(benches);
