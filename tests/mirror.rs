//! Copies of requests for another service: that they are what the origin got, and that nobody waits for them.

use crate::harness::{Ending, Gate, Gateway, Http2, Origin, Reply, eventually, loopback};
use tokio::net::TcpListener;

const GATEWAY: &str = r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
services:
  app: {endpoints: "$app", timeouts: {response_header: 5s, idle: 5s}}
  shadow: {endpoints: "$shadow"}
policies:
  mirror: {service: shadow, body_limit: 1KiB, timeout: $timeout, in_flight: $in_flight}
  headers: {request: {set: {x-tenant: acme}}}
routes:
  all: {match: {path: /**}, service: app}
  moved: {match: {path: /moved/**}, service: app, rewrite: {strip: /moved}}
  shadow: {match: {path: /shadow}, service: shadow, policies: {mirror: off}}
  split: {match: {path: /split}, service: {split: [{service: shadow, when: {header: {x-new: "1"}}}, {service: app}]}}
"#;

async fn before(app: &Origin, shadow: &str, timeout: &str, in_flight: u32) -> Gateway {
    let builder = Gateway::builder(GATEWAY)
        .with("app", app)
        .with("shadow", shadow);
    builder
        .with("timeout", timeout)
        .with("in_flight", in_flight)
        .start()
        .await
}

fn result(result: &'static str) -> [(&'static str, &'static str); 2] {
    [("policy", "top/mirror"), ("result", result)]
}

const MIRRORED: &str = "northgate_mirrored_total";

#[tokio::test]
async fn a_copy_is_what_the_origin_got_with_a_mark() {
    let (app, shadow) = (
        Origin::echo().await,
        Origin::start(|_| Reply::status(500, &[], "no")).await,
    );
    let gateway = before(&app, shadow.address(), "5s", 100).await;
    let calls = [
        gateway
            .call("GET /a/%7Eb?c=d")
            .header("Cookie", "a=b")
            .header("Authorization", "Bearer x"),
        gateway.call("POST /moved/orders").body("a body"),
        gateway.call("PUT /empty").body(""),
        gateway
            .call("DELETE /gone")
            .header("Accept-Encoding", "gzip"),
    ];
    for (count, call) in (1..).zip(&calls) {
        assert_eq!(call.send().await.status(), 200);
        shadow.has_received(count).await;
    }
    let (got, copied) = (app.received(), shadow.received());
    for (got, copy) in got.iter().zip(&copied) {
        assert_eq!((got.method(), got.target()), (copy.method(), copy.target()));
        assert_eq!(got.body, copy.body);
        assert_eq!(copy.header("x-mirror"), Some("1"));
        assert_eq!(copy.header("x-tenant"), Some("acme"));
        for (name, value) in &got.fields {
            if !matches!(
                name.to_ascii_lowercase().as_str(),
                "connection" | "content-length"
            ) {
                assert_eq!(copy.headers(name), [value], "{name}");
            }
        }
        assert_eq!(copy.header("content-length"), got.header("content-length"));
    }
    assert_eq!(copied[1].target(), "/orders");
    gateway.counts(MIRRORED, &result("answered"), 4.0).await;
    // its answers can be read to their end, so its connections are used again
    assert!(shadow.connections() < 4, "{}", shadow.connections());
}

#[tokio::test]
async fn bodies_of_any_framing_arrive_byte_for_byte() {
    let (app, shadow) = (Origin::echo().await, Origin::echo().await);
    let gateway = before(&app, shadow.address(), "5s", 100).await;
    let mut client = gateway.client().await;
    let request = "POST /chunked HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    client.send(request).await;
    assert_eq!(client.response("POST").await.status(), 200);
    let mut h2 = Http2::connect(gateway.public()).await;
    for (body, ending) in [
        ("abcde", Ending::OnLast),
        ("abcde", Ending::EmptyData),
        ("", Ending::EmptyData),
        ("", Ending::OnLast),
    ] {
        let answer = h2
            .call("POST", "http://a.test/h2", &[], body.as_bytes(), ending)
            .await;
        assert_eq!(answer.expect("an answer").status(), 200);
    }
    let copies = shadow.has_received(5).await;
    let mut bodies: Vec<_> = copies.iter().map(|copy| copy.text().to_owned()).collect();
    bodies.sort();
    assert_eq!(bodies, ["", "", "abcde", "abcde", "abcde"]);
    gateway.counts(MIRRORED, &result("answered"), 5.0).await;
}

#[tokio::test]
async fn what_is_too_large_or_a_copy_itself_is_not_copied() {
    let (app, shadow) = (Origin::echo().await, Origin::echo().await);
    let gateway = before(&app, shadow.address(), "5s", 100).await;
    let large = "x".repeat(1025);
    assert_eq!(
        gateway.call("POST /").body(&large).send().await.status(),
        200
    );
    let mut client = gateway.client().await;
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    client
        .send(format!("{head}401\r\n{large}\r\n0\r\n\r\n"))
        .await;
    assert_eq!(client.response("POST").await.status(), 200);
    gateway.counts(MIRRORED, &result("too_large"), 2.0).await;
    assert_eq!(
        gateway
            .call("GET /")
            .header("X-Mirror", "1")
            .send()
            .await
            .status(),
        200
    );
    assert_eq!(gateway.call("GET /shadow").send().await.status(), 200);
    // what the split sends there is not sent there twice
    assert_eq!(
        gateway
            .call("GET /split")
            .header("X-New", "1")
            .send()
            .await
            .status(),
        200
    );
    let grpc = gateway
        .call("POST /")
        .header("Content-Type", "application/grpc")
        .body("x");
    assert_eq!(grpc.send().await.status(), 200);
    // the last one is copied, and the only one
    assert_eq!(gateway.call("GET /last").send().await.status(), 200);
    let copies = shadow.has_received(3).await;
    let targets: Vec<_> = copies.iter().map(|copy| copy.target()).collect();
    assert_eq!(targets, ["/shadow", "/split", "/last"]);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_leaves_no_copy() {
    let (app, shadow) = (Origin::echo().await.lenient(), Origin::echo().await);
    let gateway = before(&app, shadow.address(), "5s", 1).await;
    let mut client = gateway.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nabc")
        .await;
    eventually("the head at the origin", async || {
        (app.open() == 1).then_some(())
    })
    .await;
    client.reset();
    gateway.counts(MIRRORED, &result("incomplete"), 1.0).await;
    // and gives its place back
    assert_eq!(gateway.get("/next").await.status(), 200);
    assert_eq!(shadow.has_received(1).await[0].target(), "/next");
}

/// The first try has taken a part of the body already when its endpoint closes the connection.
#[tokio::test]
async fn a_request_that_is_tried_again_is_copied_once() {
    let gate = Gate::closed();
    let closed = gate.clone();
    let bad = Origin::at_head(move |_| Reply::after(&closed).then_reply(Reply::close())).await;
    let (bad, good, shadow) = (bad.lenient(), Origin::echo().await, Origin::echo().await);
    let yaml = r#"
services:
  app: {endpoints: ["$bad", "$good"], balance: round_robin}
  shadow: {endpoints: "$shadow"}
policies: {mirror: {service: shadow}}
routes: {all: {match: {path: /**}, service: app}}
"#;
    let builder = Gateway::builder(yaml).with("bad", &bad).with("good", &good);
    let gateway = builder.with("shadow", &shadow).start().await;
    // one of two goes to the bad one first
    for count in 1..=2 {
        let mut client = gateway.client().await;
        client
            .send("PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nabc")
            .await;
        eventually("an endpoint to be asked", async || {
            (bad.connections() + good.connections() >= count).then_some(())
        })
        .await;
        gate.open();
        eventually("the good one to be asked", async || {
            (good.connections() >= 1).then_some(())
        })
        .await;
        client.send("defghij").await;
        assert_eq!(client.response("PUT").await.status(), 200);
        let copies = shadow.has_received(count).await;
        assert_eq!(copies[count - 1].body, b"abcdefghij");
    }
    assert!(bad.connections() >= 1);
}

/// The copies never get an answer while the test runs, so a client that had to wait for one would wait for ever.
#[tokio::test]
async fn a_hung_service_is_felt_by_nobody_and_bounded() {
    let app = Origin::echo().await;
    let shadow = Origin::start(|_| Reply::hang()).await;
    let mut gateway = before(&app, shadow.address(), "10m", 3).await;
    let mut client = gateway.client().await;
    for n in 0..20 {
        client
            .send(format!(
                "POST /{n} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc"
            ))
            .await;
        assert_eq!(client.response("POST").await.status(), 200);
    }
    let metrics = gateway.counts(MIRRORED, &result("dropped"), 17.0).await;
    assert_eq!(metrics.value(MIRRORED, &result("dropped")), 17.0);
    assert_eq!(shadow.has_received(3).await.len(), 3);
    assert_eq!(app.received().len(), 20);
    // nor does it keep the process from ending
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_slow_service_is_given_up_in_time_and_a_dead_one_at_once() {
    let app = Origin::echo().await;
    let shadow = Origin::start(|request| match request.target() {
        "/hang" => Reply::hang(),
        "/endless" => Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
            .then_hang(),
        "/reset" => Reply::reset(),
        _ => Reply::ok("late"),
    })
    .await;
    let gateway = before(&app, shadow.address(), "300ms", 1).await;
    for (count, (target, wanted)) in (1..).zip([
        ("/hang", "timeout"),
        ("/endless", "answered"),
        ("/reset", "failed"),
        ("/next", "answered"),
    ]) {
        // the only place is free again each time, or this one would be dropped
        let before = gateway.metrics().await.value(MIRRORED, &result(wanted));
        assert_eq!(gateway.get(target).await.status(), 200);
        gateway
            .counts(MIRRORED, &result(wanted), before + 1.0)
            .await;
        shadow.has_received(count).await;
    }
    let dead = TcpListener::bind((loopback(), 0)).await.expect("a port");
    let address = dead.local_addr().expect("its address").to_string();
    drop(dead);
    let gateway = before(&app, &address, "300ms", 1).await;
    for count in 1..4 {
        assert_eq!(gateway.get("/").await.status(), 200);
        gateway
            .counts(MIRRORED, &result("failed"), f64::from(count))
            .await;
    }
}

/// A service that is not usable is no reason to refuse anybody else.
#[tokio::test]
async fn an_upload_is_not_held_up() {
    let gate = Gate::closed();
    let waits = gate.clone();
    let app = Origin::echo().await;
    let shadow = Origin::start(move |_| Reply::after(&waits).then_reply(Reply::ok(""))).await;
    let gateway = before(&app, shadow.address(), "10m", 100).await;
    let body = "y".repeat(1000);
    for _ in 0..10 {
        let answer = gateway.call("POST /").body(&body).send().await;
        assert_eq!(answer.json()["body"], body);
    }
    gate.open();
    let copies = shadow.has_received(10).await;
    assert!(copies.iter().all(|copy| copy.text() == body));
    gateway.counts(MIRRORED, &result("answered"), 10.0).await;
}

#[tokio::test]
async fn about_the_share_is_copied_and_a_reload_goes_on() {
    let (app, shadow) = (Origin::echo().await, Origin::echo().await);
    let yaml = r#"
services: {app: {endpoints: "$app"}, shadow: {endpoints: "$shadow"}}
routes:
  all: {match: {path: /**}, service: app, policies: {mirror: {service: shadow, share: $share}}}
"#;
    let builder = Gateway::builder(yaml)
        .with("app", &app)
        .with("shadow", &shadow);
    let mut gateway = builder.with("share", "25%").start().await;
    let yaml = yaml.to_owned();
    let mut client = gateway.client().await;
    for _ in 0..400 {
        assert_eq!(client.get("a.test", "/").await.status(), 200);
    }
    let labels = [("policy", "route.all/mirror"), ("result", "answered")];
    // ten standard deviations around it
    let metrics = gateway.counts(MIRRORED, &labels, 14.0).await;
    assert!(metrics.value(MIRRORED, &labels) < 187.0);
    gateway.set("share", "100%");
    gateway.reload_to(&yaml).await;
    let count = shadow.received().len();
    assert_eq!(gateway.get("/reloaded").await.status(), 200);
    let copies = shadow.has_received(count + 1).await;
    assert!(copies.iter().any(|copy| copy.target() == "/reloaded"));
}

/// Copies that are answered well end a streak of failures, as requests do.
#[tokio::test]
async fn failures_of_copies_are_in_a_row_only_if_nothing_good_is_between_them() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let shadow = Origin::start(move |_| {
        match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 3 {
            2 => Reply::ok("well"),
            _ => Reply::status(503, &[], "busy"),
        }
    })
    .await;
    let (app, other) = (Origin::named("app").await, Origin::named("other").await);
    let yaml = r#"
services:
  app: {endpoints: "$app"}
  shadow:
    endpoints: ["$shadow", "$other"]
    balance: round_robin
    outlier: {consecutive_failures: 3, ejection: 1h, ejection_max: 1h}
routes: {all: {match: {path: /**}, service: app, policies: {mirror: {service: shadow}}}}
"#;
    let gateway = Gateway::builder(yaml)
        .with("app", &app)
        .with("shadow", &shadow)
        .with("other", &other)
        .start()
        .await;
    for count in 1..=24 {
        assert_eq!(gateway.get("/").await.status(), 200);
        eventually("the copy", async || {
            (shadow.received().len() + other.received().len() == count).then_some(())
        })
        .await;
    }
    assert_eq!(shadow.received().len(), 12);
}
