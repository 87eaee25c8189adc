//! Budgets, breakers, bounds and deadlines between the gateway and the endpoints of a service.

use crate::harness::{
    Client, Gate, Gateway, Http2, Http2Origin, Message, Origin, Reply, eventually, read,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Answers 503 while it is told to.
fn failing() -> (Arc<AtomicBool>, impl Fn(&crate::harness::Received) -> Reply) {
    let fails = Arc::new(AtomicBool::new(true));
    let told = fails.clone();
    let script = move |_: &crate::harness::Received| match told.load(Ordering::Relaxed) {
        true => Reply::status(503, &[], "busy"),
        false => Reply::ok("well"),
    };
    (fails, script)
}

#[tokio::test]
async fn a_service_that_fails_as_a_whole_gets_no_more_than_its_budget() {
    let (_, script) = failing();
    let (_, other) = failing();
    let (one, two) = (Origin::start(script).await, Origin::start(other).await);
    let gateway = Gateway::builder(
        r#"
services:
  app:
    endpoints: [$one, $two]
    retries: {attempts: 4, on: [reset, 503], min_per_second: 0, backoff: {base: 1ms, max: 1ms}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .with("one", &one)
    .with("two", &two)
    .start()
    .await;
    const ASKED: usize = 400;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let address = gateway.public();
        asking.spawn(async move {
            let mut client = Client::connect(address).await;
            for _ in 0..ASKED / 4 {
                assert_eq!(client.get("h.test", "/").await.status(), 503);
            }
        });
    }
    while let Some(done) = asking.join_next().await {
        done.expect("no panic");
    }
    let arrived = one.received().len() + two.received().len();
    assert!(arrived <= ASKED + ASKED / 5, "{arrived} of {ASKED}");
    assert!(
        arrived > ASKED + ASKED / 10,
        "the budget is used: {arrived}"
    );
    let metrics = gateway.metrics().await;
    let service = [("service", "app")];
    let again = metrics.value("northgate_retries_total", &service);
    assert_eq!(again, (arrived - ASKED) as f64);
    assert!(metrics.value("northgate_retries_denied_total", &service) > 0.0);
}

#[tokio::test]
async fn little_traffic_may_be_repeated_too() {
    let asked = AtomicUsize::new(0);
    let origin = Origin::start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::close(),
        _ => Reply::ok("again"),
    })
    .await;
    let yaml =
        "services: {app: {endpoints: $app}}\nroutes: {all: {match: {path: /**}, service: app}}\n";
    let gateway = Gateway::before(&origin, yaml).await;
    assert_eq!(gateway.get("/").await.text(), "again");
}

const BREAKER: &str = r#"
services:
  app:
    endpoints: $app
    retries: off
    breaker: {failures: 50%, minimum: 4, open: $open, probes: 2, per: $per}
routes: {all: {match: {path: /**}, service: app}}
"#;

/// What `/v1/services/app` says about the breaker.
async fn stand(gateway: &Gateway, per: &str) -> String {
    let service = gateway.admin("GET /v1/services/app").send().await.json();
    let holder = match per {
        "service" => &service,
        _ => &service["endpoints"][0],
    };
    holder["breaker"].as_str().expect("a breaker").to_owned()
}

#[tokio::test]
async fn a_breaker_opens_answers_at_once_and_closes_by_its_probes() {
    for per in ["endpoint", "service"] {
        let (fails, script) = failing();
        let origin = Origin::start(script).await;
        let gateway = Gateway::builder(BREAKER)
            .with("app", &origin)
            .with("open", "3s")
            .with("per", per)
            .start()
            .await;
        assert_eq!(stand(&gateway, per).await, "closed");
        for _ in 0..4 {
            assert_eq!(gateway.get("/").await.text(), "busy");
        }
        let open = gateway.get("/").await;
        assert_eq!(open.status(), 503);
        assert_eq!(open.problem(), "upstream.open");
        let after = open.header("retry-after").expect("when to come back");
        assert!((1..=3).contains(&after.parse::<u32>().expect("seconds")));
        assert_eq!(origin.received().len(), 4);
        assert_eq!(stand(&gateway, per).await, "open");
        let gauge = format!("northgate_{per}_breaker_open");
        assert_eq!(gateway.metrics().await.find(&gauge, &[]), Some(1.0));
        gateway.logs("too many tries failed").await;
        let status = gateway.command(&["status"]).await;
        assert!(status.stdout.contains(" open"), "{}", status.stdout);

        // a probe that fails opens it again
        eventually("the breaker to be half-open", async || {
            (stand(&gateway, per).await == "half_open").then_some(())
        })
        .await;
        assert_eq!(gateway.get("/").await.text(), "busy");
        assert_eq!(gateway.get("/").await.problem(), "upstream.open");
        assert_eq!(origin.received().len(), 5);

        fails.store(false, Ordering::Relaxed);
        eventually("the probes to be answered", async || {
            (gateway.get("/").await.status() == 200).then_some(())
        })
        .await;
        assert_eq!(gateway.get("/").await.status(), 200);
        assert_eq!(stand(&gateway, per).await, "closed");
        assert_eq!(gateway.metrics().await.find(&gauge, &[]), Some(0.0));
    }
}

#[tokio::test]
async fn only_so_many_probes_are_let_through_at_a_time() {
    let (gate, fails) = (Gate::closed(), Arc::new(AtomicBool::new(true)));
    let (closed, told) = (gate.clone(), fails.clone());
    let origin = Origin::start(move |_| match told.load(Ordering::Relaxed) {
        true => Reply::status(500, &[], ""),
        false => Reply::after(&closed).then_reply(Reply::ok("well")),
    })
    .await;
    let gateway = Gateway::builder(BREAKER)
        .with("app", &origin)
        .with("open", "200ms")
        .with("per", "endpoint")
        .start()
        .await;
    for _ in 0..4 {
        assert_eq!(gateway.get("/").await.status(), 500);
    }
    fails.store(false, Ordering::Relaxed);
    eventually("the breaker to be half-open", async || {
        (stand(&gateway, "endpoint").await == "half_open").then_some(())
    })
    .await;
    let probes = [gateway.call("GET /"), gateway.call("GET /")];
    let probes = probes.map(|call| tokio::spawn(async move { call.send().await.status() }));
    origin.has_received(6).await;
    let third = gateway.get("/").await;
    assert_eq!(third.status(), 503);
    assert_eq!(third.problem(), "upstream.open");
    gate.open();
    for probe in probes {
        assert_eq!(probe.await.expect("no panic"), 200);
    }
    assert_eq!(stand(&gateway, "endpoint").await, "closed");
    assert_eq!(origin.received().len(), 6);
}

#[tokio::test]
async fn an_open_breaker_of_one_endpoint_leaves_the_others_their_requests() {
    let (_, script) = failing();
    let (bad, good) = (Origin::start(script).await, Origin::named("good").await);
    let gateway = Gateway::builder(
        r#"
services:
  app: {endpoints: [$bad, $good], balance: round_robin, breaker: {minimum: 5, open: 1h}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .with("bad", &bad)
    .with("good", &good)
    .start()
    .await;
    for _ in 0..10 {
        gateway.get("/").await;
    }
    assert_eq!(bad.received().len(), 5);
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.text(), "good");
    }
    assert_eq!(bad.received().len(), 5);
}

#[tokio::test]
async fn a_reload_keeps_an_open_breaker_and_taking_it_away_lets_requests_through() {
    let (_, script) = failing();
    let origin = Origin::start(script).await;
    let mut gateway = Gateway::builder(BREAKER)
        .with("app", &origin)
        .with("open", "1h")
        .with("per", "[endpoint, service]")
        .start()
        .await;
    for _ in 0..4 {
        gateway.get("/").await;
    }
    gateway.set("per", "endpoint");
    gateway.reload_to(BREAKER).await;
    assert_eq!(gateway.get("/").await.problem(), "upstream.open");
    let plain = "services: {app: {endpoints: $app, retries: off}}\nroutes: {all: {match: {path: /**}, service: app}}\n";
    gateway.reload_to(plain).await;
    assert_eq!(gateway.get("/").await.text(), "busy");
    assert_eq!(origin.received().len(), 5);
}

#[tokio::test]
async fn what_is_beyond_a_bound_is_answered_at_once() {
    for (limits, room) in [("in_flight: 3", 3), ("in_flight_per_endpoint: 1", 2)] {
        let gate = Gate::closed();
        let closed = gate.clone();
        let script =
            move |_: &crate::harness::Received| Reply::after(&closed).then_reply(Reply::ok("done"));
        let (one, two) = (
            Origin::start(script.clone()).await,
            Origin::start(script).await,
        );
        let gateway = Gateway::builder(
            r#"
services: {app: {endpoints: [$one, $two], limits: {$limits}}}
routes: {all: {match: {path: /**}, service: app}}
"#,
        )
        .with("one", &one)
        .with("two", &two)
        .with("limits", limits)
        .start()
        .await;
        let mut waiting = Vec::new();
        for number in 1..=room {
            let call = gateway.call("GET /");
            waiting.push(tokio::spawn(async move { call.send().await.status() }));
            eventually("the request to arrive", async || {
                (one.received().len() + two.received().len() == number).then_some(())
            })
            .await;
        }
        let beyond = gateway.get("/").await;
        assert_eq!(beyond.status(), 503, "{limits}");
        assert_eq!(beyond.problem(), "upstream.overloaded", "{limits}");
        assert_eq!(beyond.header("retry-after"), Some("1"));
        gate.open();
        for answer in waiting {
            assert_eq!(answer.await.expect("no panic"), 200, "{limits}");
        }
        // places are given back, also by those who were refused
        for _ in 0..5 {
            assert_eq!(gateway.get("/").await.status(), 200, "{limits}");
        }
        assert_eq!(one.received().len() + two.received().len(), room + 5);
    }
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_back() {
    let gate = Gate::closed();
    let closed = gate.clone();
    let origin = Origin::start(move |request| match request.target() {
        "/wait" => Reply::after(&closed),
        _ => Reply::ok("done"),
    })
    .await;
    let gateway = Gateway::before(
        &origin,
        "services: {app: {endpoints: $app, limits: {in_flight: 1, in_flight_per_endpoint: 1}}}\n\
         routes: {all: {match: {path: /**}, service: app}}\n",
    )
    .await;
    let mut client = gateway.client().await;
    client
        .send("GET /wait HTTP/1.1\r\nHost: h.test\r\n\r\n")
        .await;
    origin.has_received(1).await;
    assert_eq!(gateway.get("/").await.problem(), "upstream.overloaded");
    client.reset();
    eventually("the place to be free", async || {
        (gateway.get("/").await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_followed_by_another_and_all_of_them_end_with_the_total_time()
{
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let origin = Origin::start(move |request| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        match (request.target(), number) {
            ("/once", 0) | ("/never", _) => Reply::hang(),
            _ => Reply::ok("done"),
        }
    })
    .await;
    let gateway = Gateway::before(
        &origin,
        r#"
services: {app: {endpoints: $app}}
routes:
  once:
    match: {path: /once}
    service: app
    timeouts: {per_try: 200ms}
  never:
    match: {path: /never}
    service: app
    retries: {attempts: 10, on: timeout, budget: off, backoff: {base: 1ms, max: 1ms}}
    timeouts: {per_try: 150ms, total: 500ms}
"#,
    )
    .await;
    // a time for each try is enough to say so
    assert_eq!(gateway.get("/once").await.text(), "done");
    asked.store(0, Ordering::Relaxed);
    let post = gateway.call("POST /once").body("order").send().await;
    assert_eq!(post.problem(), "upstream.timeout");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let before = origin.received().len();
    let started = Instant::now();
    let answer = gateway.get("/never").await;
    // the end may fall on a connection that is being made
    let ends = ["upstream.timeout", "upstream.connect_timeout"];
    assert_eq!(answer.status(), 504);
    assert!(ends.contains(&&*answer.problem()), "{answer:?}");
    assert!(started.elapsed() >= Duration::from_millis(400));
    let tries = origin.received().len() - before;
    assert!((2..=4).contains(&tries), "{tries}");
}

#[tokio::test]
async fn grpc_timeout_is_the_deadline_of_the_call_and_passed_on_reduced() {
    let origin = Origin::start(|request| match request.target() {
        "/hang" => Reply::hang(),
        "/stall" => Reply::raw(
            "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nContent-Length: 9\r\n\r\npart",
        )
        .then_hang(),
        _ => Reply::ok(""),
    })
    .await;
    let gateway = Gateway::before(
        &origin,
        "services: {app: {endpoints: $app}}\nroutes: {all: {match: {path: /**}, service: app}}\n",
    )
    .await;
    let ask = async |target: &str, timeout: &str| {
        let call = gateway.call(&format!("POST {target}")).body("x");
        let call = call.header("Content-Type", "application/grpc");
        call.header("grpc-timeout", timeout).try_send().await
    };
    assert_eq!(ask("/", "5S").await.expect("an answer").status(), 200);
    let passed_on = origin.last();
    let left = passed_on.header("grpc-timeout").expect("what is left");
    let micros = left.strip_suffix('u').expect("microseconds");
    let micros: u64 = micros.parse().expect("a number");
    assert!((1_000_000..5_000_000).contains(&micros), "{left}");

    for late in ["0n", "200m"] {
        let answer = ask("/hang", late).await.expect("an answer");
        // DEADLINE_EXCEEDED
        assert_eq!(answer.header("grpc-status"), Some("4"), "{late}");
    }
    // also in the middle of the answer
    let started = Instant::now();
    let cut = ask("/stall", "300m").await;
    assert!(cut.map_or(true, |answer| !answer.complete));
    assert!(started.elapsed() < Duration::from_secs(10));
    for malformed in ["5s", "", "1", "123456789n", "-1S"] {
        let answer: Message = ask("/", malformed).await.expect("an answer");
        // INTERNAL, as clients take a 400
        assert_eq!(answer.header("grpc-status"), Some("13"), "{malformed}");
    }
    // the field means nothing elsewhere
    let call = gateway.call("POST /").body("x").header("grpc-timeout", "x");
    assert_eq!(call.send().await.status(), 200);
}

/// An origin that closes a connection at the moment in which a request comes over it takes the request with it, and a
/// POST can't be repeated.
#[tokio::test]
async fn a_post_takes_no_connection_that_was_idle_for_long() {
    // each connection is good for one request, and says nothing about that
    let origin = Origin::start(|request| match request.earlier {
        0 => Reply::ok("first"),
        _ => Reply::close(),
    })
    .await;
    let gateway = Gateway::before(
        &origin,
        r#"
services: {app: {endpoints: $app, pool: {idle: 60s, post_idle: 100ms}}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .await;
    for number in 0..5 {
        // leaves a connection that may wait for 60 s, for another GET
        assert_eq!(gateway.get("/").await.status(), 200);
        // what was fresh a moment ago may be taken: this is about what is not
        let settled = async || (origin.open() <= 1).then_some(());
        eventually("fresh connections to be closed", settled).await;
        let answer = gateway.call("POST /").body("x").send().await;
        assert_eq!(answer.text(), "first", "POST {number}");
        eventually("the POST's connection to be closed", settled).await;
    }
    let posts = origin.received();
    let posts = posts.iter().filter(|request| request.method() == "POST");
    assert_eq!(posts.count(), 5);
}

#[tokio::test]
async fn posts_in_a_row_share_a_connection() {
    let origin = Origin::named("app").await;
    let yaml = "services: {app: {endpoints: $app, pool: {post_idle: 30s}}}\nroutes: {all: {match: {path: /**}, service: app}}\n";
    let gateway = Gateway::before(&origin, yaml).await;
    for _ in 0..10 {
        assert_eq!(gateway.call("POST /").body("x").send().await.status(), 200);
    }
    // an answer may reach its client a moment before its connection is back in the pool
    assert!(origin.connections() < 5, "{}", origin.connections());
}

#[tokio::test]
async fn the_last_place_at_an_endpoint_is_free_for_another_try() {
    let origin = Origin::start(|request| match request.earlier {
        0 => Reply::ok("done"),
        _ => Reply::close(),
    })
    .await;
    let gateway = Gateway::before(
        &origin,
        "services: {app: {endpoints: $app, limits: {in_flight_per_endpoint: 1}}}\n\
         routes: {all: {match: {path: /**}, service: app}}\n",
    )
    .await;
    for _ in 0..6 {
        assert_eq!(gateway.get("/").await.text(), "done");
    }
}

#[tokio::test]
async fn a_configuration_that_is_refused_closes_no_breaker() {
    let (_, script) = failing();
    let origin = Origin::start(script).await;
    let gateway = Gateway::builder(BREAKER)
        .with("app", &origin)
        .with("open", "1h")
        .with("per", "[endpoint, service]")
        .start()
        .await;
    for _ in 0..4 {
        gateway.get("/").await;
    }
    assert_eq!(gateway.get("/").await.problem(), "upstream.open");
    let broken = "services: {app: {endpoints: $app, retries: off}}\nroutes: {all: {match: {path: /**}, service: ap}}\n";
    assert_ne!(gateway.reload(broken).await.code, Some(0));
    assert_eq!(gateway.get("/").await.problem(), "upstream.open");
    for per in ["endpoint", "service"] {
        assert_eq!(stand(&gateway, per).await, "open");
        let gauge = format!("northgate_{per}_breaker_open");
        assert_eq!(gateway.metrics().await.find(&gauge, &[]), Some(1.0));
    }
}

/// Requests of an old configuration may still be on their way when the next one has no breaker.
#[tokio::test]
async fn what_was_sent_before_a_reload_opens_no_breaker_that_is_gone() {
    let gate = Gate::closed();
    let closed = gate.clone();
    let origin = Origin::start(move |request| match request.target() {
        "/wait" => Reply::after(&closed).then_reply(Reply::status(500, &[], "")),
        _ => Reply::ok("well"),
    })
    .await;
    let gateway = Gateway::builder(BREAKER)
        .with("app", &origin)
        .with("open", "1h")
        .with("per", "[endpoint, service]")
        .start()
        .await;
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let call = gateway.call("GET /wait");
            tokio::spawn(async move { call.send().await.status() })
        })
        .collect();
    origin.has_received(4).await;
    let plain = "services: {app: {endpoints: $app, retries: off}}\nroutes: {all: {match: {path: /**}, service: app}}\n";
    gateway.reload_to(plain).await;
    gate.open();
    for one in waiting {
        assert_eq!(one.await.expect("no panic"), 500);
    }
    let up = async || {
        let service = gateway.admin("GET /v1/services/app").send().await.json();
        (service["endpoints"][0]["state"] == "up").then_some(())
    };
    eventually("the endpoint to be up", up).await;
    gateway.reload_to(BREAKER).await;
    assert_eq!(gateway.get("/").await.text(), "well");
    assert_eq!(stand(&gateway, "service").await, "closed");
    assert_eq!(stand(&gateway, "endpoint").await, "closed");
}

/// How fast a client reads is not the endpoint's fault, and no silence of it.
#[tokio::test]
async fn a_client_that_reads_slowly_is_not_cut_off_and_ejects_nobody() {
    const SIZE: usize = 24 << 20;
    let body = bytes::Bytes::from(vec![b'x'; SIZE]);
    let answer = body.clone();
    let origin = Origin::start(move |_| Reply::ok(&answer)).await;
    let streams = Http2Origin::clear(move |mut exchange| {
        let body = body.clone();
        async move {
            let mut stream = exchange.begin(&[]);
            let _ = stream.send_data(body, true);
        }
    })
    .await;
    let gateway = Gateway::builder(
        r#"
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
services:
  h1: {endpoints: $one, timeouts: {idle: 300ms}}
  h2c: {endpoints: $two, timeouts: {idle: 300ms}, protocol: h2c}
routes:
  h1: {match: {path: /h1}, service: h1}
  h2c: {match: {path: /h2c}, service: h2c}
"#,
    )
    .with("one", &origin)
    .with("two", &streams)
    .start()
    .await;
    // longer than the idle time, with buffers full on the way
    let pause = Duration::from_secs(1);
    for target in ["/h1", "/h2c"] {
        let mut client = gateway.client().await;
        let head = format!("GET {target} HTTP/1.1\r\nHost: h.test\r\n\r\n");
        client.send(head).await;
        tokio::time::sleep(pause).await;
        let got = client.response("GET").await;
        let length = got.body.len();
        assert!(got.complete && length == SIZE, "{target}, h1: {length}");

        let mut client = Http2::connect(gateway.public()).await;
        let url = format!("http://h.test{target}");
        let (response, _stream) = client.open("GET", &url, &[], true).await.expect("a stream");
        tokio::time::sleep(pause).await;
        let got = read(response).await.expect("an answer");
        let length = got.body.len();
        assert!(got.complete && length == SIZE, "{target}, h2: {length}");
    }
}

/// However a request ends, its places are free: there is one at the service, and one at the endpoint.
#[tokio::test]
async fn every_way_out_gives_the_places_back() {
    let stuck = Gate::closed();
    let closed = stuck.clone();
    let origin = Origin::at_head(move |request| match request.target() {
        "/hang" => Reply::after(&closed),
        "/interim" => Reply::raw("HTTP/1.1 103 Early Hints\r\n\r\n").then_hang(),
        "/stall" => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart").then_hang(),
        "/endless" => Reply::raw("HTTP/1.1 200 OK\r\n\r\npart").then_hang(),
        "/not-modified" => Reply::raw("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
        "/nothing" => Reply::raw("HTTP/1.1 204 No Content\r\n\r\n"),
        "/closes" => Reply::close(),
        "/busy" => Reply::status(503, &[], "busy"),
        "/rubbish" => Reply::raw("rubbish\r\n\r\n").then_close(),
        "/socket" => Reply::raw(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )
        .then_hang(),
        _ => Reply::ok("done"),
    })
    .await
    .lenient();
    let gateway = Gateway::before(
        &origin,
        r#"
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
services:
  app:
    endpoints: $app
    limits: {in_flight: 1, in_flight_per_endpoint: 1}
    outlier: off
    retries: {on: [reset, 503], attempts: 3, budget: off}
routes: {all: {match: {path: /**}, service: app, websocket: {}}}
"#,
    )
    .await;
    let free = async |case: &str| {
        eventually(&format!("the places to be free after {case}"), async || {
            (gateway.get("/").await.status() == 200).then_some(())
        })
        .await;
        let service = gateway.admin("GET /v1/services/app").send().await.json();
        assert_eq!(service["endpoints"][0]["in_flight"], 0, "{case}: {service}");
    };
    // clients that leave
    let socket = "GET /socket HTTP/1.1\r\nHost: h.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let grpc = "POST /hang HTTP/1.1\r\nHost: h.test\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n";
    let upload = "POST /hang HTTP/1.1\r\nHost: h.test\r\nContent-Length: 9\r\n\r\npart";
    let asks = ["/hang", "/interim", "/stall", "/endless"]
        .map(|target| format!("GET {target} HTTP/1.1\r\nHost: h.test\r\n\r\n"));
    let asks = asks.iter().map(|ask| &**ask).chain([socket, grpc, upload]);
    for ask in asks {
        let before = origin.received().len();
        let mut client = gateway.client().await;
        client.send(ask).await;
        if ask != upload && ask != grpc {
            origin.has_received(before + 1).await;
        }
        if ask.contains("/stall") || ask.contains("/endless") || ask == socket {
            client.head().await;
        }
        client.reset();
        free(ask).await;
    }
    for target in ["/hang", "/stall", "/endless"] {
        let before = origin.received().len();
        let mut h2 = Http2::connect(gateway.public()).await;
        let url = format!("http://h.test{target}");
        let opened = h2.open("GET", &url, &[], true).await.expect("a stream");
        origin.has_received(before + 1).await;
        drop((opened, h2));
        free(target).await;
    }
    // and endpoints that answer, or do not
    for line in [
        "GET /not-modified",
        "GET /nothing",
        "HEAD /",
        "GET /closes",
        "GET /busy",
        "GET /rubbish",
        "POST /closes",
    ] {
        let _ = gateway.call(line).try_send().await;
        free(line).await;
    }
    let call = gateway.call("POST /closes").body("x");
    let _ = call
        .header("Content-Type", "application/grpc")
        .try_send()
        .await;
    free("a call of gRPC").await;
    stuck.open();
}

/// A probe whose client leaves says nothing, and the next request is the probe.
/// The endpoints that a route holds itself go by its name, which may be that of a service too.
#[tokio::test]
async fn a_route_and_a_service_of_one_name_share_nothing() {
    let gate = Gate::closed();
    let closed = gate.clone();
    let origin = Origin::start(move |request| match request.target() {
        "/wait" => Reply::after(&closed),
        _ => Reply::ok("done"),
    })
    .await;
    let gateway = Gateway::before(
        &origin,
        r#"
services: {app: {endpoints: $app, limits: {in_flight: 1}}}
routes:
  app: {match: {path: /wait}, service: {endpoints: $app, limits: {in_flight: 5}}}
  all: {match: {path: /**}, service: app}
"#,
    )
    .await;
    let mut client = gateway.client().await;
    client
        .send("GET /wait HTTP/1.1\r\nHost: h.test\r\n\r\n")
        .await;
    origin.has_received(1).await;
    assert_eq!(gateway.get("/").await.status(), 200);
    for name in ["app", "route.app"] {
        let line = format!("GET /v1/services/{name}");
        let service = gateway.admin(&line).send().await.json();
        let in_flight = u64::from(name == "route.app");
        assert_eq!(service["endpoints"][0]["in_flight"], in_flight, "{name}");
    }
    gate.open();
}

#[tokio::test]
async fn a_client_that_leaves_before_another_try_gives_its_place_back() {
    let origin = Origin::start(|request| match request.target() {
        "/fails" => Reply::reset(),
        _ => Reply::ok("done"),
    })
    .await;
    let gateway = Gateway::before(
        &origin,
        r#"
services:
  app:
    endpoints: $app
    limits: {in_flight: 1}
    timeouts: {total: off}
    # the pause is anything up to that: nearly always longer than this test waits
    retries: {backoff: {base: 60s, max: 60s}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .await;
    let mut client = gateway.client().await;
    client
        .send("GET /fails HTTP/1.1\r\nHost: h.test\r\n\r\n")
        .await;
    origin.has_received(1).await;
    assert_eq!(gateway.get("/").await.problem(), "upstream.overloaded");
    drop(client);
    eventually("the place to be free", async || {
        (gateway.get("/").await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_a_probe_leaves_its_place_to_another() {
    for per in ["endpoint", "service"] {
        let asked = AtomicUsize::new(0);
        let origin = Origin::start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
            0..4 => Reply::status(500, &[], ""),
            4..7 => Reply::hang(),
            _ => Reply::ok("well"),
        })
        .await;
        let gateway = Gateway::builder(&BREAKER.replace("probes: 2", "probes: 1"))
            .with("app", &origin)
            .with("open", "200ms")
            .with("per", per)
            .start()
            .await;
        for _ in 0..4 {
            assert_eq!(gateway.get("/").await.status(), 500);
        }
        for count in 5..8 {
            eventually("the breaker to be half-open", async || {
                (stand(&gateway, per).await == "half_open").then_some(())
            })
            .await;
            let mut client = gateway.client().await;
            client.send("GET / HTTP/1.1\r\nHost: h.test\r\n\r\n").await;
            origin.has_received(count).await;
            assert_eq!(gateway.get("/").await.problem(), "upstream.open");
            client.reset();
            eventually("the gateway to notice", async || {
                let service = gateway.admin("GET /v1/services/app").send().await.json();
                (service["endpoints"][0]["in_flight"] == 0).then_some(())
            })
            .await;
        }
        eventually("the next probe", async || {
            (gateway.get("/").await.status() == 200).then_some(())
        })
        .await;
        assert_eq!(stand(&gateway, per).await, "closed");
    }
}

/// The answer that was thrown away must not be the one whose connection the deadline looks at.
#[tokio::test]
async fn the_idle_time_holds_for_another_try_too() {
    let asked = AtomicUsize::new(0);
    let origin = Origin::start(move |_| match asked.fetch_add(1, Ordering::Relaxed) % 2 {
        0 => Reply::status(503, &[], "busy"),
        _ => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart").then_hang(),
    })
    .await;
    let gateway = Gateway::before(
        &origin,
        "services: {app: {endpoints: $app, outlier: off, timeouts: {idle: 300ms}, retries: {on: 503}}}\n\
         routes: {all: {match: {path: /**}, service: app}}\n",
    )
    .await;
    let began = Instant::now();
    let answer = gateway.call("GET /").try_send().await;
    assert!(answer.map_or(true, |answer| !answer.complete));
    assert_eq!(origin.received().len(), 2);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

/// When the time of a request is over before its client has sent it, that is the client's doing.
#[tokio::test]
async fn clients_that_send_slowly_eject_nobody_and_open_no_breaker() {
    let origin = Origin::named("app").await.lenient();
    let other = Origin::named("app").await.lenient();
    let gateway = Gateway::builder(
        r#"
services:
  app:
    endpoints: [$one, $two]
    breaker: {minimum: 4, open: 1h, per: [endpoint, service]}
    timeouts: {total: 300ms}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .with("one", &origin)
    .with("two", &other)
    .start()
    .await;
    let waiting: Vec<_> = (0..24)
        .map(|_| {
            let address = gateway.public();
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let head = "PUT / HTTP/1.1\r\nHost: h.test\r\nContent-Length: 9\r\n\r\npart";
                client.send(head).await;
                client.response("PUT").await.status()
            })
        })
        .collect();
    for one in waiting {
        assert_eq!(one.await.expect("no panic"), 408);
    }
    let service = gateway.admin("GET /v1/services/app").send().await.json();
    assert_eq!(service["breaker"], "closed", "{service}");
    for endpoint in service["endpoints"].as_array().expect("a list") {
        assert_eq!(endpoint["state"], "up", "{service}");
    }
}

/// The wait for an answer begins when the request is sent.
#[tokio::test]
async fn an_upload_may_take_longer_than_the_answer_may() {
    let origin = Origin::named("app").await;
    let h2 = Http2Origin::clear(|mut exchange| async move {
        exchange.body().await;
        exchange.answer(&[], "app", &[]);
    })
    .await;
    let gateway = Gateway::builder(
        r#"
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
defaults: {timeouts: {response_header: 500ms, idle: 500ms, per_try: 500ms}}
services:
  h1: {endpoints: $one}
  h2c: {endpoints: $two, protocol: h2c}
routes:
  h1: {match: {path: /h1}, service: h1}
  h2c: {match: {path: /h2c}, service: h2c}
"#,
    )
    .with("one", &origin)
    .with("two", &h2)
    .start()
    .await;
    for target in ["/h1", "/h2c"] {
        let mut client = gateway.client().await;
        let head = format!("PUT {target} HTTP/1.1\r\nHost: h.test\r\nContent-Length: 12\r\n\r\n");
        client.send(head).await;
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            client.send("x").await;
        }
        let answer = client.response("PUT").await;
        assert_eq!(answer.text(), "app", "{target}: {answer:?}");
    }
}

/// A client may also leave an endpoint no time by taking nearly all of it.
#[tokio::test]
async fn clients_that_leave_little_time_eject_nobody_and_open_no_breaker() {
    let slow = |_: &crate::harness::Received| {
        Reply::raw("")
            .then_pause(Duration::from_millis(300))
            .then_reply(Reply::ok("done"))
    };
    let (one, two) = (Origin::start(slow).await, Origin::start(slow).await);
    let gateway = Gateway::builder(
        r#"
services:
  app:
    endpoints: [$one, $two]
    breaker: {minimum: 4, open: 1h, per: [endpoint, service]}
    timeouts: {total: 900ms}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .with("one", &one)
    .with("two", &two)
    .start()
    .await;
    let upload = [
        "PUT / HTTP/1.1\r\nHost: h.test\r\nContent-Length: 5\r\n\r\npart",
        "s",
    ];
    let waiting: Vec<_> = (0..16)
        .map(|_| {
            let address = gateway.public();
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                client.send(upload[0]).await;
                tokio::time::sleep(Duration::from_millis(750)).await;
                client.send(upload[1]).await;
                client.response("GET").await.status()
            })
        })
        .collect();
    for one in waiting {
        let status = one.await.expect("no panic");
        assert!(matches!(status, 408 | 504), "{status}");
    }
    let service = gateway.admin("GET /v1/services/app").send().await.json();
    assert_eq!(service["breaker"], "closed", "{service}");
    for endpoint in service["endpoints"].as_array().expect("a list") {
        assert_eq!(endpoint["state"], "up", "{service}");
    }
}
