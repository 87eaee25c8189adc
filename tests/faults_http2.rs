//! What becomes of a request whose first try fails at an endpoint that speaks HTTP/2: each way of failing, by method and
//! by version of HTTP on the client's side. The endpoints act frame by frame, and count what arrives.

use crate::harness::frames::{self, answer, data, go_away, head, reset};
use crate::harness::{
    Act, Arrived, Call, Ending, Frames, Gateway, Http2, Message, Pki, eventually,
};
use rustls::ServerConfig;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// What a fault says about the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    /// It was certainly not processed.
    Unprocessed,
    /// It may have been. The client sees this status, and this code if it is the gateway's.
    Perhaps(u16, &'static str),
    /// It was processed, and a part of the answer came.
    Cut,
    /// It was processed, and the whole answer came.
    Whole,
}

/// What an endpoint does with the request on this stream.
type Doing = fn(u32) -> Act;

/// How a first try fails.
struct Fault {
    name: &'static str,
    act: Doing,
    means: Means,
}

const BROKEN: Means = Means::Perhaps(502, "upstream.reset");

const FAULTS: [Fault; 20] = [
    Fault {
        name: "refused before the body",
        act: |id| Act::at_head(reset(id, frames::REFUSED_STREAM)),
        means: Means::Unprocessed,
    },
    Fault {
        name: "refused after the body",
        act: |id| Act::at_end(reset(id, frames::REFUSED_STREAM)),
        means: Means::Unprocessed,
    },
    Fault {
        name: "gone, and ours was not looked at",
        act: |id| Act::at_end(go_away(id.saturating_sub(2), frames::NO_ERROR)),
        means: Means::Unprocessed,
    },
    Fault {
        name: "gone before the body, and ours was not looked at",
        act: |id| Act::at_head(go_away(id.saturating_sub(2), frames::NO_ERROR)),
        means: Means::Unprocessed,
    },
    Fault {
        name: "gone and closed, and ours was not looked at",
        act: |id| Act::at_end(go_away(id.saturating_sub(2), frames::NO_ERROR)).then_close(),
        means: Means::Unprocessed,
    },
    Fault {
        name: "sent away, and ours was not looked at",
        act: |_| Act::at_end(go_away(0, frames::ENHANCE_YOUR_CALM)).then_close(),
        means: Means::Unprocessed,
    },
    Fault {
        name: "gone and closed, and ours is the last",
        act: |id| Act::at_end(go_away(id, frames::NO_ERROR)).then_close(),
        means: BROKEN,
    },
    Fault {
        name: "sent away, and ours is the last",
        act: |id| Act::at_end(go_away(id, frames::ENHANCE_YOUR_CALM)).then_close(),
        means: BROKEN,
    },
    Fault {
        name: "cancelled before the body",
        act: |id| Act::at_head(reset(id, frames::CANCEL)),
        means: BROKEN,
    },
    Fault {
        name: "cancelled after the body",
        act: |id| Act::at_end(reset(id, frames::CANCEL)),
        means: BROKEN,
    },
    Fault {
        name: "reset after the body",
        act: |id| Act::at_end(reset(id, frames::INTERNAL_ERROR)),
        means: BROKEN,
    },
    Fault {
        name: "closed before the head",
        act: |_| Act::at_end(Vec::new()).then_close(),
        means: BROKEN,
    },
    Fault {
        name: "no frames",
        act: |_| Act::at_end(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).then_close(),
        means: BROKEN,
    },
    Fault {
        name: "no answer in time",
        act: |_| Act::at_end(Vec::new()),
        means: Means::Perhaps(504, "upstream.timeout"),
    },
    Fault {
        name: "503",
        act: |id| Act::at_end([head(id, 503, false), data(id, b"busy", true)].concat()),
        means: Means::Perhaps(503, ""),
    },
    Fault {
        name: "reset after the head",
        act: |id| Act::at_end([head(id, 200, false), reset(id, frames::CANCEL)].concat()),
        means: Means::Cut,
    },
    Fault {
        name: "reset in the body",
        act: |id| {
            let part = [head(id, 200, false), data(id, b"part", false)].concat();
            Act::at_end([part, reset(id, frames::INTERNAL_ERROR)].concat())
        },
        means: Means::Cut,
    },
    Fault {
        name: "closed in the body",
        act: |id| {
            let part = [head(id, 200, false), data(id, b"part", false)].concat();
            Act::at_end(part).then_close()
        },
        means: Means::Cut,
    },
    Fault {
        name: "gone in the body",
        act: |id| {
            let part = [head(id, 200, false), data(id, b"part", false)].concat();
            Act::at_end([part, go_away(id, frames::NO_ERROR)].concat()).then_close()
        },
        means: Means::Cut,
    },
    Fault {
        name: "gone, and answers",
        act: |id| Act::at_end([go_away(id, frames::NO_ERROR), answer(id, b"done")].concat()),
        means: Means::Whole,
    },
];

/// A kind of request.
struct Kind {
    method: &'static str,
    route: &'static str,
    key: bool,
    body: &'static str,
    /// Whether processing it twice does no harm.
    repeatable: bool,
}

const fn kind(
    method: &'static str,
    route: &'static str,
    key: bool,
    body: &'static str,
    repeatable: bool,
) -> Kind {
    Kind {
        method,
        route,
        key,
        body,
        repeatable,
    }
}

const KINDS: [Kind; 7] = [
    kind("GET", "plain", false, "", true),
    kind("PUT", "plain", false, "whole", true),
    kind("DELETE", "plain", false, "", true),
    kind("POST", "plain", false, "once", false),
    kind("POST", "plain", false, "", false),
    // without the route's word a key means nothing
    kind("POST", "plain", true, "once", false),
    kind("POST", "keyed", true, "keyed", true),
];

const YAML: &str = r#"
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
defaults:
  retries: {on: [connect_failure, refused_stream, reset, timeout, 503], budget: off}
  timeouts: {response_header: 1s}
services:
  app: {endpoints: ["$one", "$two"], balance: round_robin, $wire}
  half: {endpoints: ["$closed", "$one"], balance: round_robin, outlier: off, $wire}
routes:
  plain: {match: {path: /plain/**}, service: app}
  keyed: {match: {path: /keyed/**}, service: app, retries: {idempotency_key: on}}
  off: {match: {path: /off/**}, service: app, retries: off}
  half: {match: {path: /half/**}, service: half}
"#;

/// Two endpoints of which whichever is asked first fails in the way that is next.
struct Pair {
    next: Arc<Mutex<Option<Doing>>>,
    one: Frames,
    two: Frames,
}

impl Pair {
    async fn start(tls: Option<&Arc<ServerConfig>>) -> Self {
        let next: Arc<Mutex<Option<Doing>>> = Arc::default();
        let script = || {
            let next = next.clone();
            move |request: &Arrived| match next.lock().expect("no panic").take() {
                Some(act) => act(request.stream),
                None => Act::at_end(answer(request.stream, b"done")),
            }
        };
        let (one, two) = match tls {
            None => (Frames::clear(script()).await, Frames::clear(script()).await),
            Some(tls) => (
                Frames::secure(tls.clone(), script()).await,
                Frames::secure(tls.clone(), script()).await,
            ),
        };
        Self { next, one, two }
    }

    /// The requests so far.
    fn arrived(&self) -> usize {
        self.one.arrived().len() + self.two.arrived().len()
    }

    async fn gateway(&self, wire: &str, files: &[(&str, &str)]) -> Gateway {
        let closed = std::net::TcpListener::bind((crate::harness::loopback(), 0))
            .expect("a port that nobody has");
        let closed = closed.local_addr().expect("its address");
        let mut builder = Gateway::builder(YAML)
            .with("one", &self.one)
            .with("two", &self.two)
            .with("closed", closed)
            .with("wire", wire);
        for (name, text) in files {
            builder = builder.file(name, text);
        }
        builder.start().await
    }

    /// One request whose first try fails so.
    async fn suffers(&self, gateway: &Gateway, h2: Option<&mut Http2>, kind: &Kind, fault: &Fault) {
        *self.next.lock().expect("no panic") = Some(fault.act);
        let before = [self.one.arrived().len(), self.two.arrived().len()];
        let version = if h2.is_some() { "h2" } else { "h1" };
        let target = format!("/{}/", kind.route);
        let answer = ask(gateway, h2, kind, &target).await;
        let case = format!(
            "{} {target} over {version}, {}: {answer:?}",
            kind.method, fault.name
        );
        let mut arrived = self.one.arrived().split_off(before[0]);
        arrived.extend(self.two.arrived().split_off(before[1]));
        let again = match fault.means {
            Means::Unprocessed => true,
            Means::Perhaps(..) => kind.repeatable,
            Means::Cut | Means::Whole => false,
        };
        assert_eq!(arrived.len(), if again { 2 } else { 1 }, "{case}");
        let processed = arrived.len() - usize::from(fault.means == Means::Unprocessed);
        assert!(kind.repeatable || processed == 1, "{case}");
        match fault.means {
            Means::Cut => assert!(answer.map_or(true, |answer| !answer.complete), "{case}"),
            Means::Perhaps(status, code) if !again => {
                let answer = answer.expect(&case);
                assert_eq!(answer.status(), status, "{case}");
                assert!(code.is_empty() || answer.problem() == code, "{case}");
            }
            _ => {
                let answer = answer.expect(&case);
                assert_eq!((answer.status(), answer.text()), (200, "done"), "{case}");
                let answered = arrived
                    .iter()
                    .filter(|one| one.ended && one.body == kind.body.as_bytes());
                let whole = answered.count();
                assert!(whole >= 1, "{case}: {arrived:?}");
            }
        }
    }
}

/// One request over HTTP/1.1 or, if there is a connection for it, HTTP/2.
async fn ask(
    gateway: &Gateway,
    h2: Option<&mut Http2>,
    kind: &Kind,
    target: &str,
) -> Result<Message, String> {
    let fields: &[(&str, &str)] = match kind.key {
        true => &[("idempotency-key", "k-1")],
        false => &[],
    };
    if let Some(h2) = h2 {
        let url = format!("http://h.test{target}");
        let body = kind.body.as_bytes();
        let answer = h2.call(kind.method, &url, fields, body, Ending::OnLast);
        return answer.await.map_err(|error| error.to_string());
    }
    let mut call = gateway.call(&format!("{} {target}", kind.method));
    for (name, value) in fields {
        call = call.header(name, value);
    }
    if !kind.body.is_empty() {
        call = call.body(kind.body);
    }
    call.try_send().await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn each_fault_over_http2_is_repeated_where_that_does_no_harm_for_clients_of_http1() {
    let pair = Pair::start(None).await;
    let gateway = pair.gateway("protocol: h2c", &[]).await;
    for fault in &FAULTS {
        for kind in &KINDS {
            pair.suffers(&gateway, None, kind, fault).await;
        }
    }
}

#[tokio::test]
async fn each_fault_over_http2_is_repeated_where_that_does_no_harm_for_clients_of_http2() {
    let pair = Pair::start(None).await;
    let gateway = pair.gateway("protocol: h2c", &[]).await;
    let mut h2 = Http2::connect(gateway.public()).await;
    for fault in &FAULTS {
        for kind in &KINDS {
            pair.suffers(&gateway, Some(&mut h2), kind, fault).await;
        }
    }
}

#[tokio::test]
async fn faults_of_an_endpoint_that_chose_http2_under_tls_are_no_others() {
    let pki = Pki::new();
    let tls = Pki::acceptor(&pki.server(&["app.test"]), &["h2"], None);
    let pair = Pair::start(Some(&tls)).await;
    let wire = "tls: {server_name: app.test, ca: ca.pem}";
    let gateway = pair.gateway(wire, &[("ca.pem", &*pki.pem())]).await;
    let mut h2 = Http2::connect(gateway.public()).await;
    for fault in &FAULTS {
        // these take a second each, and have nothing to do with TLS
        if fault.name == "no answer in time" {
            continue;
        }
        for kind in [&KINDS[0], &KINDS[1], &KINDS[3]] {
            pair.suffers(&gateway, None, kind, fault).await;
            pair.suffers(&gateway, Some(&mut h2), kind, fault).await;
        }
    }
}

#[tokio::test]
async fn a_refused_connection_costs_no_request_and_nothing_is_repeated_where_retries_are_off() {
    let pair = Pair::start(None).await;
    let gateway = pair.gateway("protocol: h2c", &[]).await;
    let mut h2 = Http2::connect(gateway.public()).await;
    for kind in &KINDS {
        // twice, so that the one that refuses is the first in one of them
        for _ in 0..2 {
            for over in [None, Some(&mut h2)] {
                let before = pair.arrived();
                let answer = ask(&gateway, over, kind, "/half/")
                    .await
                    .expect("an answer");
                assert_eq!((answer.status(), pair.arrived()), (200, before + 1));
            }
        }
    }
    for fault in &FAULTS {
        *pair.next.lock().expect("no panic") = Some(fault.act);
        let before = pair.arrived();
        let answer = ask(&gateway, None, &KINDS[0], "/off/").await;
        assert_eq!(pair.arrived(), before + 1, "{}", fault.name);
        match fault.means {
            Means::Unprocessed => assert_eq!(answer.expect("one").problem(), "upstream.reset"),
            Means::Perhaps(status, _) => assert_eq!(answer.expect("one").status(), status),
            Means::Cut => assert!(answer.map_or(true, |answer| !answer.complete)),
            Means::Whole => assert_eq!(answer.expect("one").text(), "done"),
        }
    }
}

/// A gateway with one endpoint that speaks HTTP/2 in clear.
async fn before(origin: &Frames, service: &str, routes: &str) -> Gateway {
    let yaml = format!(
        "threads: 1\nlisteners: {{public: {{address: \"$address:8080\", protocols: [h1, h2c]}}}}\n\
         services:\n  app: {{endpoints: \"$app\", protocol: h2c, {service}}}\nroutes:\n{routes}\n"
    );
    Gateway::before(origin, &yaml).await
}

const ALL: &str = "  all: {match: {path: /**}, service: app}";

/// A connection over HTTP/1.1 that is silent is closed by the deadline of whoever waits for it. Over HTTP/2 it would be
/// met again by every request until a ping finds it dead.
#[tokio::test]
async fn a_connection_that_went_silent_is_not_the_one_that_is_asked_next() {
    let origin = Frames::clear(|request| match (request.connection, request.stream) {
        (0, 3..) => Act::at_end(Vec::new()),
        (_, stream) => Act::at_end(answer(stream, b"done")),
    })
    .await;
    let service = "timeouts: {response_header: 300ms}, outlier: off, retries: {on: timeout}";
    let gateway = before(&origin, service, ALL).await;
    assert_eq!(gateway.get("/").await.text(), "done");
    // the first connection has gone silent
    assert_eq!(gateway.get("/").await.text(), "done");
    let mut h2 = Http2::connect(gateway.public()).await;
    assert_eq!(h2.get("http://h.test/").await.text(), "done");
    assert_eq!(origin.connections(), 2);
    // whoever gives up says so
    eventually("the stream to be cancelled", async || {
        let arrived = origin.arrived();
        let silent: Vec<_> = arrived.iter().filter(|one| one.connection == 0).collect();
        (silent.len() == 2 && silent[1].cancelled == Some(frames::CANCEL)).then_some(())
    })
    .await;
}

/// Requests that run into their deadline give their places on the connection back, and take nobody along.
#[tokio::test]
async fn streams_that_are_given_up_leave_their_places_and_their_neighbours() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let origin = Frames::clear(move |request| match count.fetch_add(1, Relaxed) {
        // the neighbour: its answer has begun
        0 => Act::at_head(head(request.stream, 200, false)),
        1..=300 => Act::at_end(Vec::new()),
        _ => Act::at_end(answer(request.stream, b"done")),
    })
    .await;
    let service =
        "timeouts: {response_header: 500ms}, outlier: off, retries: off, limits: {in_flight: 400}";
    let gateway = before(&origin, service, ALL).await;
    let mut neighbour = gateway.client().await;
    neighbour
        .send("GET / HTTP/1.1\r\nHost: h.test\r\n\r\n")
        .await;
    assert!(neighbour.head().await.start.contains("200"));
    for _ in 0..3 {
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let call = gateway.call("GET /");
                tokio::spawn(async move { call.send().await.status() })
            })
            .collect();
        for one in waiting {
            assert_eq!(one.await.expect("no panic"), 504);
        }
    }
    eventually("all of them to be cancelled", async || {
        let arrived = origin.arrived();
        let left = arrived.iter().skip(1).filter(|one| one.cancelled.is_none());
        (left.count() == 0).then_some(())
    })
    .await;
    assert_eq!(origin.arrived()[0].cancelled, None, "the neighbour goes on");
    let service = gateway.admin("GET /v1/services/app").send().await.json();
    assert_eq!(service["endpoints"][0]["in_flight"], 1, "{service}");
    let waiting: Vec<_> = (0..200)
        .map(|_| {
            let call = gateway.call("GET /");
            tokio::spawn(async move { call.send().await.text().to_owned() })
        })
        .collect();
    for one in waiting {
        assert_eq!(one.await.expect("no panic"), "done");
    }
}

/// An answer without content is over with its head, and Pingora calls nobody for the end of it.
#[tokio::test]
async fn an_answer_that_is_a_head_alone_ends_a_streak_of_failures() {
    let asked = AtomicUsize::new(0);
    let origin = Frames::clear(move |request| match asked.fetch_add(1, Relaxed) % 3 {
        2 => Act::at_end(head(request.stream, 200, true)),
        _ => Act::at_end(reset(request.stream, frames::INTERNAL_ERROR)),
    })
    .await;
    let service =
        "outlier: {consecutive_failures: 3, ejection: 1h, ejection_max: 1h}, retries: off";
    let other = Frames::clear(|request| Act::at_end(answer(request.stream, b"other"))).await;
    let yaml = format!(
        "services:\n  app: {{endpoints: [\"$app\", \"$other\"], balance: round_robin, protocol: h2c, {service}}}\nroutes:\n{ALL}\n"
    );
    let gateway = Gateway::builder(&yaml)
        .with("app", &origin)
        .with("other", &other)
        .start()
        .await;
    for _ in 0..24 {
        gateway.get("/").await;
    }
    assert_eq!(origin.arrived().len(), 12);
}

/// A client chooses how long it waits, and must not be able to take endpoints out of service by that.
#[tokio::test]
async fn a_deadline_that_the_caller_chose_says_nothing_about_the_endpoint() {
    let origin = Frames::clear(|_| Act::at_end(Vec::new())).await;
    let service =
        "retries: {on: timeout}, breaker: {minimum: 5, open: 1h, per: [endpoint, service]}";
    let gateway = before(&origin, service, ALL).await;
    for number in 1..=8 {
        let call = gateway.call("POST /a.B/C").body("x");
        let call = call.header("Content-Type", "application/grpc");
        let late = call.header("grpc-timeout", "50m").send().await;
        assert_eq!(late.header("grpc-status"), Some("4"), "{late:?}");
        assert_eq!(origin.arrived().len(), number);
    }
    let service = gateway.admin("GET /v1/services/app").send().await.json();
    assert_eq!(service["breaker"], "closed", "{service}");
    assert_eq!(service["endpoints"][0]["state"], "up", "{service}");
}

#[tokio::test]
async fn a_service_that_fails_as_a_whole_gets_no_more_than_its_budget_over_http2_too() {
    for act in [
        (|id| Act::at_end(reset(id, frames::REFUSED_STREAM))) as Doing,
        |id| Act::at_end(reset(id, frames::INTERNAL_ERROR)),
        |id| Act::at_end(head(id, 503, true)),
    ] {
        let script = move |request: &Arrived| act(request.stream);
        let (one, two) = (Frames::clear(script).await, Frames::clear(script).await);
        let gateway = Gateway::builder(&format!(
            r#"
listeners: {{public: {{address: "$address:8080", protocols: [h1, h2c]}}}}
services:
  app:
    endpoints: ["$one", "$two"]
    protocol: h2c
    retries: {{attempts: 4, on: [connect_failure, refused_stream, reset, 503], min_per_second: 0, backoff: {{base: 1ms, max: 1ms}}}}
routes:
{ALL}
"#
        ))
        .with("one", &one)
        .with("two", &two)
        .start()
        .await;
        const ASKED: usize = 400;
        let mut asking = tokio::task::JoinSet::new();
        for client in 0..4 {
            let address = gateway.public();
            asking.spawn(async move {
                let mut h2 = Http2::connect(address).await;
                for _ in 0..ASKED / 4 {
                    let status = match client % 2 {
                        0 => h2.get("http://h.test/").await.status(),
                        _ => Call::new(address, "GET /").send().await.status(),
                    };
                    assert!(matches!(status, 502 | 503), "{status}");
                }
            });
        }
        while let Some(done) = asking.join_next().await {
            done.expect("no panic");
        }
        let arrived = one.arrived().len() + two.arrived().len();
        assert!(arrived <= ASKED + ASKED / 5, "{arrived} of {ASKED}");
        assert!(
            arrived > ASKED + ASKED / 10,
            "the budget is used: {arrived}"
        );
    }
}

#[tokio::test]
async fn a_body_is_repeated_whole_or_not_at_all_over_http2_too() {
    let pair = Pair::start(None).await;
    let gateway = pair.gateway("protocol: h2c", &[]).await;
    let mut h2 = Http2::connect(gateway.public()).await;
    for (size, again) in [(10_000, true), (64 * 1024, true), (200_000, false)] {
        let body = vec![b'x'; size];
        for version in ["h1", "h2", "h2-empty-frame"] {
            let act: Doing = |id| Act::at_end(reset(id, frames::INTERNAL_ERROR));
            *pair.next.lock().expect("no panic") = Some(act);
            let before = [pair.one.arrived().len(), pair.two.arrived().len()];
            let url = "http://h.test/plain/";
            let answer = match version {
                "h1" => gateway.call("PUT /plain/").body(&body).send().await,
                _ => {
                    let ending = match version {
                        "h2" => Ending::OnLast,
                        _ => Ending::EmptyData,
                    };
                    let answer = h2.call("PUT", url, &[], &body, ending);
                    answer.await.expect("an answer")
                }
            };
            let case = format!("{size} over {version}");
            assert_eq!(answer.status(), if again { 200 } else { 502 }, "{case}");
            let mut arrived = pair.one.arrived().split_off(before[0]);
            arrived.extend(pair.two.arrived().split_off(before[1]));
            assert_eq!(arrived.len(), if again { 2 } else { 1 }, "{case}");
            assert!(
                arrived.iter().all(|one| one.ended && one.body == body),
                "{case}"
            );
        }
    }
}

/// The library says of a connection that has just closed that it is open, for a moment.
#[tokio::test]
async fn a_connection_that_closes_under_a_request_costs_nothing_where_there_is_one_endpoint() {
    let origin = Frames::clear(|request| {
        let act = Act::at_end(answer(request.stream, b"done"));
        match request.stream {
            5.. => Act::at_end(Vec::new()).then_close(),
            _ => act,
        }
    })
    .await;
    let gateway = before(&origin, "retries: {budget: off}, outlier: off", ALL).await;
    let mut h2 = Http2::connect(gateway.public()).await;
    for _ in 0..60 {
        assert_eq!(gateway.get("/").await.text(), "done");
        assert_eq!(h2.get("http://h.test/").await.text(), "done");
    }
    assert!(origin.connections() > 40, "{}", origin.connections());
}

/// A server that restarts says which requests it has not looked at (RFC 9113 §6.8), and answers the others.
#[tokio::test]
async fn servers_that_go_away_under_load_lose_no_post_and_get_none_twice() {
    let gone: Arc<Mutex<std::collections::HashSet<usize>>> = Arc::default();
    let answered = Arc::new(AtomicUsize::new(0));
    let count = answered.clone();
    let origin = Frames::clear(move |request| {
        let mut gone = gone.lock().expect("no panic");
        if gone.contains(&request.connection) {
            return Act::at_end(Vec::new());
        }
        count.fetch_add(1, Relaxed);
        let whole = answer(request.stream, b"done");
        if request.stream < 61 {
            return Act::at_end(whole);
        }
        gone.insert(request.connection);
        // at the head, so that nothing else is answered before others are told
        Act::at_head([go_away(request.stream, frames::NO_ERROR), whole].concat())
    })
    .await;
    let gateway = before(&origin, "retries: {attempts: 4, budget: off}", ALL).await;
    const ASKED: usize = 600;
    let mut asking = tokio::task::JoinSet::new();
    for client in 0..12 {
        let address = gateway.public();
        asking.spawn(async move {
            let mut h2 = Http2::connect(address).await;
            for _ in 0..ASKED / 12 {
                let answer = match client % 2 {
                    0 => {
                        let url = "http://h.test/";
                        let call = h2.call("POST", url, &[], b"x", Ending::OnLast);
                        call.await.expect("an answer")
                    }
                    _ => Call::new(address, "POST /").body("x").send().await,
                };
                assert_eq!(answer.text(), "done", "{answer:?}");
            }
        });
    }
    while let Some(done) = asking.join_next().await {
        done.expect("no POST is lost");
    }
    assert_eq!(answered.load(Relaxed), ASKED);
    assert!(
        origin.connections() >= ASKED / 31,
        "{}",
        origin.connections()
    );
}

/// A server that restarts, or renews its connections, is well: it answers over the next one.
#[tokio::test]
async fn an_endpoint_that_goes_away_in_good_order_is_not_taken_for_one_that_fails() {
    for (code, state) in [
        (frames::NO_ERROR, "up"),
        (frames::ENHANCE_YOUR_CALM, "ejected"),
    ] {
        let origin = Frames::clear(move |_| Act::at_end(go_away(0, code))).await;
        let other = Frames::clear(|request| Act::at_end(answer(request.stream, b"other"))).await;
        let yaml = format!(
            "services:\n  app: {{endpoints: [\"$app\", \"$other\"], balance: round_robin, protocol: h2c, retries: {{budget: off}}}}\nroutes:\n{ALL}\n"
        );
        let gateway = Gateway::builder(&yaml)
            .with("app", &origin)
            .with("other", &other)
            .start()
            .await;
        for _ in 0..20 {
            assert_eq!(
                gateway.call("POST /").body("x").send().await.text(),
                "other"
            );
        }
        let service = gateway.admin("GET /v1/services/app").send().await.json();
        let endpoints = service["endpoints"].as_array().expect("a list");
        let found = endpoints
            .iter()
            .find(|one| one["address"] == *origin.address());
        assert_eq!(found.expect("it")["state"], state, "{service}");
    }
}
