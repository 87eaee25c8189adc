//! How many requests are in flight at the same time: who gets a place, who waits for one, and that every place comes
//! back.

use crate::harness::{
    Call, Client, Ending, Gate, Gateway, GatewayBuilder, Http2, Http2Origin, Message, Origin,
    Reply, eventually,
};
use northgate::identity::credentials::digest::DigestKey;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const IN_FLIGHT: &str = "northgate_concurrency_in_flight";
const QUEUED: &str = "northgate_concurrency_queued";
const LIMIT: &str = "northgate_concurrency_limit";
const REFUSED: &str = "northgate_concurrency_refused_total";

/// Answers what is `/slow…` when the gate is open, and everything else at once.
async fn origin(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::start(move |request| match request.target().contains("/slow") {
        true => Reply::after(&gate).then_reply(Reply::ok("slow")),
        false => Reply::ok("fast"),
    })
    .await
}

const ONE: &str = r#"
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
services: {app: {endpoints: "$app"}}
policies: {concurrency: {$concurrency}}
routes:
  all: {match: {path: /**}, service: app}
  other: {match: {path: /other/**}, service: app}
  fixed: {match: {path: /fixed}, respond: {body: fixed}}
  $more
"#;

fn with(app: &Origin, concurrency: &str) -> GatewayBuilder {
    let builder = Gateway::builder(ONE).with("app", app);
    builder.with("concurrency", concurrency).with("more", "")
}

async fn limited(app: &Origin, concurrency: &str) -> Gateway {
    with(app, concurrency).start().await
}

fn spawned(call: Call) -> JoinHandle<Message> {
    tokio::spawn(async move { call.send().await })
}

async fn is(gateway: &Gateway, name: &str, wanted: f64) {
    eventually(&format!("{name} to be {wanted}"), async || {
        (gateway.metrics().await.value(name, &[]) == wanted).then_some(())
    })
    .await;
}

async fn answer(call: JoinHandle<Message>) -> Message {
    tokio::time::timeout(Duration::from_secs(30), call)
        .await
        .expect("an answer in time")
        .expect("no panic")
}

#[tokio::test]
async fn who_finds_no_place_is_refused_and_told_when_to_ask_again() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let gateway = limited(&app, "limit: 2").await;
    let inside = [1, 2].map(|_| spawned(gateway.call("GET /slow")));
    is(&gateway, IN_FLIGHT, 2.0).await;
    let refused = gateway.get("/fast").await;
    assert_eq!(
        (refused.status(), refused.problem()),
        (503, "concurrency.exceeded".into())
    );
    assert_eq!(refused.header("retry-after"), Some("1"));
    let call = gateway.call("POST /pkg.Service/Method");
    let call = call.header("Content-Type", "application/grpc").body("");
    let refused = call.send().await;
    // UNAVAILABLE: another try later may do
    assert_eq!(refused.header("grpc-status"), Some("14"));
    let metrics = gateway.metrics().await;
    let labels = [("policy", "top/concurrency"), ("reason", "full")];
    assert_eq!(metrics.value(REFUSED, &labels), 2.0);
    assert_eq!(metrics.value(LIMIT, &[]), 2.0);
    gate.open();
    for call in inside {
        assert_eq!(answer(call).await.status(), 200);
    }
    is(&gateway, IN_FLIGHT, 0.0).await;
    assert_eq!(gateway.get("/fast").await.status(), 200);
}

#[tokio::test]
async fn each_key_has_places_of_its_own() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let gateway = limited(&app, "limit: 1, by: header.x-tenant").await;
    let tenant = |line: &str, name: &str| gateway.call(line).header("X-Tenant", name);
    let one = spawned(tenant("GET /slow", "one"));
    is(&gateway, IN_FLIGHT, 1.0).await;
    assert_eq!(tenant("GET /fast", "one").send().await.status(), 503);
    assert_eq!(tenant("GET /fast", "two").send().await.status(), 200);
    // who says no name counts by address, and takes nobody's place
    let nobody = spawned(gateway.call("GET /slow"));
    is(&gateway, IN_FLIGHT, 2.0).await;
    assert_eq!(gateway.get("/fast").await.status(), 503);
    let other = (Ipv4Addr::new(127, 9, 9, 9), 0).into();
    let elsewhere = gateway.call("GET /fast").from(other).send().await;
    assert_eq!(elsewhere.status(), 200);
    gate.open();
    for call in [one, nobody] {
        assert_eq!(answer(call).await.status(), 200);
    }
    is(&gateway, IN_FLIGHT, 0.0).await;
}

#[tokio::test]
async fn per_route_each_route_has_places_of_its_own() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let gateway = limited(&app, "limit: 1, per: route").await;
    let inside = spawned(gateway.call("GET /slow"));
    is(&gateway, IN_FLIGHT, 1.0).await;
    assert_eq!(gateway.get("/fast").await.status(), 503);
    assert_eq!(gateway.get("/other/fast").await.status(), 200);
    gate.open();
    answer(inside).await;
}

#[tokio::test]
async fn those_who_wait_are_served_in_order_one_by_one() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let gateway = limited(&app, "limit: 1, queue: 10, wait: 20s").await;
    let first = spawned(gateway.call("GET /slow"));
    is(&gateway, IN_FLIGHT, 1.0).await;
    let mut waiting = Vec::new();
    for number in 0..8 {
        waiting.push(spawned(gateway.call(&format!("GET /turn/{number}"))));
        is(&gateway, QUEUED, f64::from(number + 1)).await;
    }
    assert_eq!(app.received().len(), 1);
    gate.open();
    answer(first).await;
    for call in waiting {
        assert_eq!(answer(call).await.status(), 200);
    }
    let received = app.received();
    let turns: Vec<&str> = received
        .iter()
        .skip(1)
        .map(|request| request.target())
        .collect();
    let wanted: Vec<String> = (0..8).map(|number| format!("/turn/{number}")).collect();
    assert_eq!(turns, wanted);
    is(&gateway, IN_FLIGHT, 0.0).await;
    is(&gateway, QUEUED, 0.0).await;
}

#[tokio::test]
async fn who_has_waited_long_enough_is_refused_and_so_is_who_finds_the_queue_full() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let gateway = limited(&app, "limit: 1, queue: 1, wait: 1500ms").await;
    let inside = spawned(gateway.call("GET /slow"));
    is(&gateway, IN_FLIGHT, 1.0).await;
    let started = Instant::now();
    let waiting = spawned(gateway.call("GET /fast"));
    is(&gateway, QUEUED, 1.0).await;
    let full = gateway.get("/fast").await;
    assert_eq!(
        (full.status(), full.header("retry-after")),
        (503, Some("2"))
    );
    let late = answer(waiting).await;
    assert!(started.elapsed() >= Duration::from_millis(1500));
    assert_eq!(late.problem(), "concurrency.exceeded");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value(REFUSED, &[("reason", "full")]), 1.0);
    assert_eq!(metrics.value(REFUSED, &[("reason", "late")]), 1.0);
    assert_eq!(metrics.value(QUEUED, &[]), 0.0);
    let decided = [("policy", "top/concurrency"), ("decision", "refuse")];
    assert_eq!(
        metrics.value("northgate_policy_decisions_total", &decided),
        2.0
    );
    gate.open();
    answer(inside).await;
    is(&gateway, IN_FLIGHT, 0.0).await;
}

const DIGESTS: &str = "0123456789abcdef0123456789abcdef";

const PLANS: &str = r#"
listeners: {public: {address: "$address:8080"}}
secrets: {digests: "0123456789abcdef0123456789abcdef"}
plans: {gold: {}, silver: {}, bronze: {}}
consumers:
  gold: {plan: gold, credentials: {api_key: [{digest: "$gold"}]}}
  silver: {plan: silver, credentials: {api_key: [{digest: "$silver"}]}}
  bronze: {plan: bronze, credentials: {api_key: [{digest: "$bronze"}]}}
services: {app: {endpoints: "$app"}}
policies:
  auth: {api_key: on}
  concurrency: {limit: 1, queue: 3, wait: 20s, priority: {gold: high, bronze: low}}
routes:
  all: {match: {path: /**}, service: app}
"#;

#[tokio::test]
async fn higher_classes_go_first_and_lower_ones_are_refused_first() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let key = |plan: &str| format!("the-key-of-a-{plan}-customer");
    let digests = DigestKey::new(DIGESTS.as_bytes());
    let mut builder = Gateway::builder(PLANS).with("app", &app);
    for plan in ["gold", "silver", "bronze"] {
        let digest = digests.written(digests.digest(key(plan).as_bytes()));
        builder = builder.with(plan, digest);
    }
    let gateway = builder.start().await;
    let call = |plan: &str, target: &str| {
        gateway
            .call(&format!("GET {target}"))
            .header("x-api-key", &key(plan))
    };
    let inside = spawned(call("bronze", "/slow"));
    is(&gateway, IN_FLIGHT, 1.0).await;
    let mut waiting = Vec::new();
    for (number, plan) in ["bronze", "silver", "bronze"].iter().enumerate() {
        waiting.push(spawned(call(plan, &format!("/{plan}/{number}"))));
        is(&gateway, QUEUED, (number + 1) as f64).await;
    }
    // as full as it is, it takes one of a higher class, and the last of the lowest goes
    let gold = spawned(call("gold", "/gold/3"));
    let displaced = answer(waiting.pop().expect("the last")).await;
    assert_eq!(displaced.problem(), "concurrency.exceeded");
    assert_eq!(call("bronze", "/bronze/4").send().await.status(), 503);
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value(REFUSED, &[("reason", "displaced")]), 1.0);
    assert_eq!(metrics.value(REFUSED, &[("reason", "full")]), 1.0);
    gate.open();
    answer(inside).await;
    for call in waiting.into_iter().chain([gold]) {
        assert_eq!(answer(call).await.status(), 200);
    }
    let received = app.received();
    let turns: Vec<&str> = received.iter().map(|request| request.target()).collect();
    assert_eq!(turns, ["/slow", "/gold/3", "/silver/1", "/bronze/0"]);
    is(&gateway, IN_FLIGHT, 0.0).await;
}

#[tokio::test]
async fn a_client_that_leaves_gives_up_its_turn_and_its_place() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let gateway = limited(&app, "limit: 1, queue: 10, wait: 60s").await;
    let mut served = gateway.client().await;
    served
        .send("GET /slow HTTP/1.1\r\nHost: h.test\r\n\r\n")
        .await;
    is(&gateway, IN_FLIGHT, 1.0).await;
    app.has_received(1).await;
    // over both versions of HTTP, by a reset and by the end of the connection
    let mut resets = gateway.client().await;
    resets
        .send("GET /reset HTTP/1.1\r\nHost: h.test\r\n\r\n")
        .await;
    let mut ends = gateway.client().await;
    ends.send("GET /ends HTTP/1.1\r\nHost: h.test\r\n\r\n")
        .await;
    let mut streams = Http2::connect(gateway.public()).await;
    let url = format!("http://{}/stream", gateway.public());
    let stream = streams.open("GET", &url, &[], true).await;
    is(&gateway, QUEUED, 3.0).await;
    resets.reset();
    is(&gateway, QUEUED, 2.0).await;
    drop(ends);
    is(&gateway, QUEUED, 1.0).await;
    drop(stream);
    is(&gateway, QUEUED, 0.0).await;
    // and the one who is served
    served.reset();
    is(&gateway, IN_FLIGHT, 0.0).await;
    assert_eq!(gateway.get("/fast").await.status(), 200);
    let targets: Vec<String> = app
        .received()
        .iter()
        .map(|request| request.target().to_owned())
        .collect();
    assert_eq!(targets, ["/slow", "/fast"]);
    let gone = [("status", "499")];
    gateway.counts("northgate_requests_total", &gone, 4.0).await;
}

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: h.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const GRANT: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
                      8\r\ndata: 1\n\r\n";

#[tokio::test]
async fn websockets_and_event_streams_hold_their_place_while_they_are_open() {
    let end = Gate::closed();
    let ends = end.clone();
    let app = Origin::start(move |request| match request.target() {
        "/chat" => Reply::raw(GRANT).then_hang(),
        "/events" => Reply::raw(EVENTS).then_hang(),
        "/ended" => Reply::raw(EVENTS).then_wait(&ends).then("0\r\n\r\n"),
        _ => Reply::ok("fast"),
    })
    .await;
    let chat = "chat: {match: {path: /chat}, service: app, websocket: on}";
    let gateway = with(&app, "limit: 1").with("more", chat).start().await;
    for request in [
        HANDSHAKE,
        "GET /events HTTP/1.1\r\nHost: h.test\r\nAccept: text/event-stream\r\n\r\n",
        "GET /ended HTTP/1.1\r\nHost: h.test\r\n\r\n",
    ] {
        let mut client = gateway.client().await;
        client.send(request).await;
        let head = client.head().await;
        assert!(matches!(head.status(), 101 | 200), "{head:?}");
        assert_eq!(gateway.get("/fast").await.status(), 503, "{request}");
        if request.contains("/ended") {
            end.open();
            is(&gateway, IN_FLIGHT, 0.0).await;
            // its client is still there
            assert_eq!(gateway.get("/fast").await.status(), 200);
        }
        drop(client);
        is(&gateway, IN_FLIGHT, 0.0).await;
    }
    assert_eq!(gateway.get("/fast").await.status(), 200);
}

const EXITS: &str = r#"
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
services:
  app: {endpoints: "$app", timeouts: {response_header: 1s, idle: 1s}, outlier: off, retries: off}
  nobody: {endpoints: "$nobody", outlier: off, retries: off}
policies:
  concurrency: {limit: 1, queue: 5, wait: 20s}
  concurrency.each: {limit: 1, by: client_address, queue: 5, wait: 20s}
routes:
  all: {match: {path: /**}, service: app, body_limit: 10B}
  fixed: {match: {path: /fixed}, respond: {body: fixed}}
  moved: {match: {path: /moved}, redirect: {to: "https://{host}/", status: 308}}
  gone: {match: {path: /nobody}, service: nobody}
  closed: {match: {path: /closed}, service: app, policies: {concurrency.closed: {limit: 1, when: {path: /nowhere}}, cors: {origins: "https://a.test"}}}
"#;

#[tokio::test]
async fn every_way_out_gives_the_place_back() {
    let app = Origin::start(|request| match request.target() {
        "/reset" => Reply::reset(),
        "/close" => Reply::close(),
        "/hang" => Reply::hang(),
        "/rubbish" => Reply::raw("rubbish\r\n\r\n"),
        "/cut" => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").then_reset(),
        "/stops" => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").then_hang(),
        "/empty" => Reply::status(204, &[], ""),
        "/chunks" => Reply::chunked(&[], &["a", "b"]),
        _ => Reply::echo(request),
    })
    .await
    .lenient();
    // a port that nobody listens at
    let nobody = std::net::TcpListener::bind((crate::harness::loopback(), 0)).expect("a port");
    let address = nobody.local_addr().expect("its address");
    drop(nobody);
    let gateway = Gateway::builder(EXITS)
        .with("app", &app)
        .with("nobody", address)
        .start()
        .await;
    for line in [
        "GET /",
        "HEAD /",
        "GET /empty",
        "GET /chunks",
        "GET /fixed",
        "GET /moved",
        "GET /nobody",
        "GET /reset",
        "GET /close",
        "GET /rubbish",
        "GET /hang",
        "GET /cut",
        "GET /stops",
        "GET /closed",
        "POST /",
    ] {
        let body = match line {
            "POST /" => "longer than ten bytes",
            _ => "",
        };
        // an answer that breaks off is no answer
        let _ = gateway.call(line).body(body).try_send().await;
        is(&gateway, IN_FLIGHT, 0.0).await;
    }
    let mut streams = Http2::connect(gateway.public()).await;
    for path in ["/", "/fixed", "/reset", "/cut"] {
        let url = format!("http://{}{path}", gateway.public());
        let _ = streams.try_get(&url).await;
        is(&gateway, IN_FLIGHT, 0.0).await;
    }
    // a client that leaves in the middle of an answer, and of its own request
    let mut leaves = gateway.client().await;
    leaves
        .send("GET /stops HTTP/1.1\r\nHost: h.test\r\n\r\n")
        .await;
    leaves.head().await;
    leaves.reset();
    is(&gateway, IN_FLIGHT, 0.0).await;
    let mut leaves = gateway.client().await;
    let begun = "POST / HTTP/1.1\r\nHost: h.test\r\nContent-Length: 9\r\n\r\nabc";
    leaves.send(begun).await;
    is(&gateway, IN_FLIGHT, 2.0).await;
    leaves.reset();
    is(&gateway, IN_FLIGHT, 0.0).await;
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value(REFUSED, &[]), 0.0, "{}", metrics.text());
    assert_eq!(metrics.value("northgate_panics_total", &[]), 0.0);
}

#[tokio::test]
async fn one_client_after_the_other_never_meets_its_own_place() {
    let app = Origin::echo().await;
    let gateway = limited(&app, "limit: 1").await;
    let mut client = gateway.client().await;
    for _ in 0..200 {
        assert_eq!(client.get("h.test", "/").await.status(), 200);
    }
    for _ in 0..50 {
        assert_eq!(client.get("h.test", "/fixed").await.status(), 200);
    }
}

#[tokio::test]
async fn a_reload_keeps_who_is_in_and_takes_another_limit() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let mut gateway = limited(&app, "limit: 2, queue: 5, wait: 20s").await;
    let inside = [1, 2].map(|_| spawned(gateway.call("GET /slow")));
    is(&gateway, IN_FLIGHT, 2.0).await;
    gateway.set("concurrency", "limit: 1");
    gateway.reload_to(ONE).await;
    assert_eq!(gateway.metrics().await.value(IN_FLIGHT, &[]), 2.0);
    assert_eq!(gateway.get("/fast").await.status(), 503);
    gateway.set("concurrency", "limit: 2, queue: 5, wait: 20s");
    gateway.reload_to(ONE).await;
    let waiting = spawned(gateway.call("GET /slow/waits"));
    is(&gateway, QUEUED, 1.0).await;
    gateway.set("concurrency", "limit: 4, queue: 5, wait: 20s");
    gateway.reload_to(ONE).await;
    // who comes finds the new limit, for those too who wait already
    let comes = spawned(gateway.call("GET /slow/comes"));
    is(&gateway, IN_FLIGHT, 4.0).await;
    is(&gateway, QUEUED, 0.0).await;
    assert_eq!(gateway.metrics().await.value(LIMIT, &[]), 4.0);
    gate.open();
    for call in inside.into_iter().chain([waiting, comes]) {
        assert_eq!(answer(call).await.status(), 200);
    }
    is(&gateway, IN_FLIGHT, 0.0).await;
}

#[tokio::test]
async fn a_shadow_counts_and_neither_refuses_nor_keeps_anybody() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let gateway = limited(&app, "limit: 1, queue: 1, wait: 60s, mode: shadow").await;
    let inside = [1, 2, 3].map(|_| spawned(gateway.call("GET /slow")));
    is(&gateway, IN_FLIGHT, 3.0).await;
    app.has_received(3).await;
    let metrics = gateway.metrics().await;
    let decided = |decision| {
        let labels = [("decision", decision), ("mode", "shadow")];
        metrics.value("northgate_policy_decisions_total", &labels)
    };
    assert_eq!((decided("allow"), decided("refuse")), (2.0, 1.0));
    assert_eq!(metrics.value(REFUSED, &[]), 0.0);
    gate.open();
    for call in inside {
        assert_eq!(answer(call).await.status(), 200);
    }
    is(&gateway, IN_FLIGHT, 0.0).await;
}

#[tokio::test]
async fn what_a_rate_limit_refuses_waits_for_no_place() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let yaml = ONE.replace(
        "concurrency: {$concurrency}",
        "rate_limit: {limit: 1/1h}, concurrency: {limit: 1, queue: 1, wait: 60s}",
    );
    let builder = Gateway::builder(&yaml).with("app", &app).with("more", "");
    let gateway = builder.start().await;
    let inside = spawned(gateway.call("GET /slow"));
    is(&gateway, IN_FLIGHT, 1.0).await;
    assert_eq!(gateway.get("/fast").await.status(), 429);
    gate.open();
    assert_eq!(answer(inside).await.status(), 200);
}

#[tokio::test]
async fn who_gets_no_place_has_not_used_up_its_rate_nor_another_place() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let yaml = ONE.replace(
        "concurrency: {$concurrency}",
        "rate_limit: {limit: 3/1h}, concurrency: {limit: 9}, concurrency.late: {limit: 1, queue: 1, wait: 200ms}",
    );
    let builder = Gateway::builder(&yaml).with("app", &app).with("more", "");
    let gateway = builder.start().await;
    let first = [("policy", "top/concurrency")];
    let inside = spawned(gateway.call("GET /slow"));
    is(&gateway, IN_FLIGHT, 2.0).await;
    for _ in 0..3 {
        let late = gateway.get("/fast").await;
        assert_eq!(late.problem(), "concurrency.exceeded");
    }
    eventually("the place of the first", async || {
        let metrics = gateway.metrics().await;
        (metrics.value(IN_FLIGHT, &first) == 1.0).then_some(())
    })
    .await;
    gate.open();
    assert_eq!(answer(inside).await.status(), 200);
    is(&gateway, IN_FLIGHT, 0.0).await;
    // two are left of three
    let left = [1, 2, 3].map(|_| gateway.call("GET /fast"));
    let mut answers = Vec::new();
    for call in left {
        answers.push(call.send().await.status());
    }
    assert_eq!(answers, [200, 200, 429]);
}

#[tokio::test]
async fn who_waits_for_a_place_of_few_holds_no_place_of_many() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let yaml = ONE.replace(
        "concurrency: {$concurrency}",
        "concurrency: {limit: 3}, concurrency.each: {limit: 1, by: header.x-tenant, queue: 5, wait: 20s}",
    );
    let yaml = yaml.replace(
        "{path: /other/**}, service: app}",
        "{path: /other/**}, service: app, policies: {concurrency.narrow: {limit: 1, queue: 5, wait: 20s}}}",
    );
    let builder = Gateway::builder(&yaml).with("app", &app).with("more", "");
    let gateway = builder.start().await;
    let call = |line: &str, tenant: &str| gateway.call(line).header("X-Tenant", tenant);
    let mut calls = vec![spawned(call("GET /slow", "greedy"))];
    is(&gateway, IN_FLIGHT, 2.0).await;
    for _ in 0..5 {
        calls.push(spawned(call("GET /slow", "greedy")));
    }
    is(&gateway, QUEUED, 5.0).await;
    // by route, each from somebody else
    for tenant in ["a", "b", "c"] {
        calls.push(spawned(call("GET /other/slow", tenant)));
    }
    is(&gateway, QUEUED, 7.0).await;
    // two of three places are taken, whoever waits
    assert_eq!(call("GET /fast", "modest").send().await.status(), 200);
    gate.open();
    for call in calls {
        assert_eq!(answer(call).await.status(), 200);
    }
    is(&gateway, IN_FLIGHT, 0.0).await;
}

#[tokio::test]
async fn a_call_of_grpc_holds_its_place_to_its_end() {
    let app = Http2Origin::clear(|mut exchange| async move {
        let mut stream = exchange.begin(&[("content-type", "application/grpc")]);
        exchange.body().await;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let _ = stream.send_trailers(trailers);
    })
    .await;
    let yaml = ONE.replace(
        "{endpoints: \"$app\"}",
        "{endpoints: \"$app\", protocol: h2c}",
    );
    let builder = Gateway::builder(&yaml).with("app", &app);
    let builder = builder.with("concurrency", "limit: 1").with("more", "");
    let gateway = builder.start().await;
    let mut client = Http2::connect(gateway.public()).await;
    let url = format!("http://{}/pkg.Service/Method", gateway.public());
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    let (head, mut body) = client
        .open("POST", &url, &fields, false)
        .await
        .expect("a stream");
    let answered = head.await.expect("a head");
    assert_eq!(answered.status(), 200);
    is(&gateway, IN_FLIGHT, 1.0).await;
    assert_eq!(gateway.get("/fixed").await.status(), 503);
    let refused = client
        .call("POST", &url, &fields, b"", Ending::OnLast)
        .await;
    let refused = refused.expect("an answer");
    assert_eq!(refused.header("grpc-status"), Some("14"));
    body.send_data(bytes::Bytes::new(), true).expect("the end");
    is(&gateway, IN_FLIGHT, 0.0).await;
    drop(answered);
}

#[tokio::test]
async fn explain_takes_no_place_and_does_not_wait() {
    let app = Origin::echo().await;
    let gateway = limited(&app, "limit: 1, queue: 1, wait: 60s").await;
    let output = gateway.command(&["explain", "GET", "/x"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("concurrency"), "{output:?}");
    assert_eq!(gateway.metrics().await.value(IN_FLIGHT, &[]), 0.0);
}

/// An origin that does so many requests at a time, each in 80 ms: where more are in flight, which the target tells, all
/// of them take longer.
async fn crowded(at_once: &Arc<AtomicU64>) -> Origin {
    let at_once = at_once.clone();
    Origin::start(move |request| {
        let in_flight = request.target().trim_start_matches('/').parse::<u64>();
        let in_flight = in_flight.expect("a number") as f64;
        let times = (in_flight / at_once.load(SeqCst) as f64).max(1.0);
        let takes = Duration::from_secs_f64(0.08 * times);
        Reply::raw("")
            .then_pause(takes)
            .then_reply(Reply::ok("done"))
    })
    .await
}

#[tokio::test]
async fn a_limit_that_adapts_falls_when_the_origin_slows_and_recovers() {
    let at_once = Arc::new(AtomicU64::new(1000));
    let app = crowded(&at_once).await;
    let gateway = limited(
        &app,
        "limit: 60, queue: 1k, wait: 20s, adaptive: {min: 2, initial: 20}",
    )
    .await;
    assert_eq!(gateway.metrics().await.value(LIMIT, &[]), 20.0);
    // sixty clients want to be served all the time; the origin is told how many are in flight
    let stop = Gate::closed();
    let limit = Arc::new(AtomicU64::new(20));
    let clients: Vec<_> = (0..60)
        .map(|_| {
            let (address, stop, limit) = (gateway.public(), stop.clone(), limit.clone());
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let work = async {
                    loop {
                        let target = format!("/{}", limit.load(SeqCst));
                        assert_eq!(client.get("h.test", &target).await.status(), 200);
                    }
                };
                tokio::select! { () = stop.passed() => {}, () = work => {} }
            })
        })
        .collect();
    let until = async |what: &str, wanted: &dyn Fn(f64) -> bool| {
        eventually(what, async || {
            let now = gateway.metrics().await.value(LIMIT, &[]);
            limit.store(now as u64, SeqCst);
            wanted(now).then_some(())
        })
        .await;
    };
    until("the limit to grow", &|limit| limit > 28.0).await;
    at_once.store(4, SeqCst);
    until("the limit to fall", &|limit| limit < 12.0).await;
    at_once.store(1000, SeqCst);
    until("the limit to recover", &|limit| limit > 20.0).await;
    stop.open();
    for client in clients {
        client.await.expect("no panic");
    }
    is(&gateway, IN_FLIGHT, 0.0).await;
    is(&gateway, QUEUED, 0.0).await;
}

#[tokio::test]
async fn some_keys_have_other_limits_or_none() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let policy = "limit: 1, by: header.x-tenant, limits: {acme: 3}, exempt: [monitoring]";
    let gateway = limited(&app, policy).await;
    let call = |tenant: &str| gateway.call("GET /slow").header("x-tenant", tenant);
    let tenants = ["acme", "acme", "acme", "shop", "monitoring", "monitoring"];
    let inside: Vec<_> = tenants.map(|tenant| spawned(call(tenant))).into();
    is(&gateway, IN_FLIGHT, 4.0).await;
    eventually("all to be sent on", async || {
        (app.received().len() == 6).then_some(())
    })
    .await;
    for tenant in ["acme", "shop"] {
        assert_eq!(call(tenant).send().await.status(), 503, "{tenant}");
    }
    // another limit counts who is in
    gateway
        .reload_to(&ONE.replace("$concurrency", &policy.replace("acme: 3", "acme: 4")))
        .await;
    let fourth = spawned(call("acme"));
    is(&gateway, IN_FLIGHT, 5.0).await;
    assert_eq!(call("acme").send().await.status(), 503);
    gate.open();
    for call in inside.into_iter().chain([fourth]) {
        assert_eq!(answer(call).await.status(), 200);
    }
    is(&gateway, IN_FLIGHT, 0.0).await;
}
