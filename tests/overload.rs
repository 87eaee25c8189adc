//! What the whole process may have in hand: requests and memory, what is refused first, and that it comes back.

use crate::harness::{
    Call, Client, Ending, Gate, Gateway, GatewayBuilder, Http2, Http2Origin, Message, Metrics,
    Origin, Reply, eventually,
};
use std::time::Duration;
use tokio::task::JoinHandle;

const IN_FLIGHT: &str = "northgate_requests_in_flight";
const REFUSED: &str = "northgate_refused_total";
const STATE: &str = "northgate_overload_state";

const ONE: &str = r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
  operators: {address: "$address:8081", serve: [health, metrics]}
overload: {$overload}
services:
  app: {endpoints: "$app", timeouts: {response_header: 60s, total: 120s, idle: 60s}}
routes:
  all: {match: {path: /**}, service: app, websocket: on}
  fixed: {match: {path: /fixed}, respond: {body: fixed}}
access_log: {path: "$dir/access.log"}
$more
"#;

/// Answers what is `/slow…` when the gate is open, and everything else at once.
async fn origin(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::start(move |request| match request.target() {
        "/chat" => Reply::raw(GRANT).then_hang(),
        target if target.contains("/slow") => Reply::after(&gate).then_reply(Reply::ok("slow")),
        _ => Reply::ok("fast"),
    })
    .await
}

fn with(app: &Origin, overload: &str) -> GatewayBuilder {
    let builder = Gateway::builder(ONE).with("app", app);
    builder.with("overload", overload).with("more", "")
}

fn spawned(call: Call) -> JoinHandle<Message> {
    tokio::spawn(async move { call.send().await })
}

async fn answer(call: JoinHandle<Message>) -> Message {
    tokio::time::timeout(Duration::from_secs(60), call)
        .await
        .expect("an answer in time")
        .expect("no panic")
}

async fn has(gateway: &Gateway, what: &str, holds: impl Fn(&Metrics) -> bool) -> Metrics {
    eventually(what, async || {
        let metrics = gateway.metrics().await;
        holds(&metrics).then_some(metrics)
    })
    .await
}

async fn in_flight(gateway: &Gateway, wanted: f64) {
    let what = format!("{wanted} in flight");
    has(gateway, &what, |metrics| {
        metrics.value(IN_FLIGHT, &[]) == wanted
    })
    .await;
}

fn is_in(metrics: &Metrics, state: &str) -> bool {
    metrics.value(STATE, &[("state", state)]) == 1.0
}

async fn state(gateway: &Gateway, wanted: &str) -> Metrics {
    has(gateway, wanted, |metrics| is_in(metrics, wanted)).await
}

fn refused(metrics: &Metrics, code: &str) -> f64 {
    metrics.value(REFUSED, &[("reason", code)])
}

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: h.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const GRANT: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\
                     \x01";

/// A WebSocket of which one byte of the endpoint's has been seen.
async fn chat(gateway: &Gateway) -> Client {
    let mut client = gateway.client().await;
    client.send(HANDSHAKE).await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(client.exactly(1).await.expect("a byte"), [1]);
    client
}

#[tokio::test]
async fn as_many_requests_are_in_flight_as_may_be_and_the_rest_is_refused() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let gateway = with(&app, "requests: 12").start().await;
    let mut chat = chat(&gateway).await;
    let calls: Vec<_> = (0..60)
        .map(|number| spawned(gateway.call(&format!("GET /slow/{number}"))))
        .collect();
    let refused_by_now = |metrics: &Metrics| refused(metrics, "overload.requests") == 49.0;
    has(&gateway, "49 refused", refused_by_now).await;
    app.has_received(12).await;
    in_flight(&gateway, 12.0).await;
    // answers of the gateway's own take a place too
    let mut client = gateway.client().await;
    for _ in 0..3 {
        let refused = client.get("h.test", "/fixed").await;
        assert_eq!(
            (refused.status(), refused.problem()),
            (503, "overload.requests".into())
        );
        let after: u64 = refused
            .header("retry-after")
            .expect("a field")
            .parse()
            .expect("seconds");
        assert!((1..=3).contains(&after), "{after}");
        // the same connection takes the next
        assert_ne!(refused.header("connection"), Some("close"));
    }
    // what operators ask for is always answered
    for path in ["/livez", "/readyz", "/metrics"] {
        let operators = Call::new(gateway.port(8081), &format!("GET {path}"));
        assert_eq!(operators.send().await.status(), 200, "{path}");
    }
    let status = gateway.status().await;
    assert_eq!(status["overload"]["requests_in_flight"], 12);
    assert_eq!(status["overload"]["requests_max"], 12);
    assert_eq!(status["overload"]["refused_percent"], 0);
    state(&gateway, "refusing_all").await;
    let output = gateway.command(&["status"]).await;
    assert!(
        output.stdout.contains("12 of 12 requests in flight"),
        "{output:?}"
    );
    gate.open();
    let mut statuses = Vec::new();
    for call in calls {
        statuses.push(answer(call).await.status());
    }
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!((served, statuses.len() - served), (11, 49));
    in_flight(&gateway, 1.0).await;
    for _ in 0..30 {
        assert_eq!(gateway.get("/fast").await.status(), 200);
    }
    // what was open stays open
    chat.send(b"\x81\x80\0\0\0\0").await;
    drop(chat);
    in_flight(&gateway, 0.0).await;
    // one line for each change, none for each request
    state(&gateway, "normal").await;
    let log = gateway.stderr();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("overload"))
        .collect();
    assert!((2..=5).contains(&lines.len()), "{lines:#?}");
    let access = eventually("the access log", async || {
        let text = std::fs::read_to_string(gateway.dir().join("access.log")).ok()?;
        (text.matches("overload.requests").count() == 52).then_some(text)
    })
    .await;
    assert!(access.contains(r#""route":"fixed""#), "{access}");
}

#[tokio::test]
async fn below_the_limit_a_share_is_refused_that_grows_and_the_last_places_can_be_had() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let gateway = with(&app, "requests: 50").start().await;
    let mut calls = Vec::new();
    for inside in 1..=40 {
        calls.push(spawned(gateway.call("GET /slow")));
        in_flight(&gateway, f64::from(inside)).await;
    }
    let metrics = gateway.metrics().await;
    assert_eq!(refused(&metrics, "overload.requests"), 0.0);
    // from here on by chance
    let mut tries = 0;
    while gateway.metrics().await.value(IN_FLIGHT, &[]) < 50.0 {
        tries += 1;
        assert!(tries < 5000, "no place in {tries} tries");
        let call = spawned(gateway.call("GET /slow"));
        eventually("a decision", async || {
            let metrics = gateway.metrics().await;
            let decided = metrics.value(IN_FLIGHT, &[]) + refused(&metrics, "overload.requests");
            (decided >= f64::from(40 + tries)).then_some(())
        })
        .await;
        calls.push(call);
    }
    let metrics = gateway.metrics().await;
    assert!(refused(&metrics, "overload.requests") > 0.0);
    assert_eq!(app.received().len(), 50);
    assert_eq!(gateway.get("/fast").await.status(), 503);
    gate.open();
    let mut served = 0;
    for call in calls {
        served += usize::from(answer(call).await.status() == 200);
    }
    assert_eq!(served, 50);
    in_flight(&gateway, 0.0).await;
}

const ORDER: &str = r#"
listeners: {public: {address: "$address:8080"}}
overload: {requests: 10}
services:
  app: {endpoints: "$app", timeouts: {response_header: 60s, total: 120s}}
  queue: {endpoints: "$app", limits: {in_flight: 1, pending: 5}, timeouts: {connect: 60s, total: 120s, response_header: 60s}}
  shadow: {endpoints: "$shadow"}
routes:
  all: {match: {path: /**}, service: app}
  copied: {match: {path: /copied}, service: app, policies: {mirror: {service: shadow}}}
  queued: {match: {path: /queued/**}, service: app, policies: {concurrency: {limit: 1, queue: 5, wait: 60s}}}
  pending: {match: {path: /pending/**}, service: queue}
"#;

#[tokio::test]
async fn copies_are_left_out_first_then_waiting_then_requests() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let shadow = Origin::named("shadow").await;
    let builder = Gateway::builder(ORDER)
        .with("app", &app)
        .with("shadow", &shadow);
    let gateway = builder.start().await;
    let mirrored = |metrics: &Metrics, result| {
        metrics.value("northgate_mirrored_total", &[("result", result)])
    };
    let mut calls: Vec<JoinHandle<Message>> = Vec::new();
    for (received, path) in [(1, "/queued/slow"), (2, "/pending/slow")] {
        calls.push(spawned(gateway.call(&format!("GET {path}"))));
        app.has_received(received).await;
        // one more waits
        calls.push(spawned(gateway.call(&format!("GET {path}"))));
        in_flight(&gateway, calls.len() as f64).await;
    }
    assert_eq!(gateway.get("/copied").await.status(), 200);
    shadow.has_received(1).await;
    for inside in [5, 6] {
        calls.push(spawned(gateway.call("GET /slow")));
        in_flight(&gateway, f64::from(inside)).await;
    }
    state(&gateway, "no_copies").await;
    assert_eq!(gateway.get("/copied").await.status(), 200);
    let metrics = gateway.metrics().await;
    assert_eq!(mirrored(&metrics, "overload"), 1.0);
    assert_eq!(shadow.received().len(), 1);
    // others may still wait, until one more is in flight
    calls.push(spawned(gateway.call("GET /queued/fast")));
    in_flight(&gateway, 7.0).await;
    state(&gateway, "no_waiting").await;
    let refused = gateway.get("/queued/fast").await;
    assert_eq!(refused.problem(), "concurrency.exceeded");
    assert_eq!(
        gateway.get("/pending/fast").await.problem(),
        "upstream.overloaded"
    );
    let metrics = gateway.metrics().await;
    let why = [
        ("policy", "route.queued/concurrency"),
        ("reason", "overload"),
    ];
    assert_eq!(
        metrics.value("northgate_concurrency_refused_total", &why),
        1.0
    );
    // and who comes is still served
    assert_eq!(gateway.get("/fast").await.status(), 200);
    // who waits already goes on
    gate.open();
    for call in calls {
        assert_eq!(answer(call).await.status(), 200);
    }
    in_flight(&gateway, 0.0).await;
    state(&gateway, "normal").await;
    assert_eq!(gateway.get("/copied").await.status(), 200);
    shadow.has_received(2).await;
}

#[tokio::test]
async fn places_come_back_when_hundreds_of_clients_vanish() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let gateway = with(&app, "requests: 2k").start().await;
    let mut clients = Vec::new();
    for number in 0..300 {
        let mut client = gateway.client().await;
        let body = match number % 3 {
            // some have still to send the rest
            0 => "Content-Length: 100\r\n\r\nabc",
            _ => "\r\n",
        };
        client
            .send(format!("POST /slow HTTP/1.1\r\nHost: h.test\r\n{body}"))
            .await;
        clients.push(client);
    }
    let (mut streams, mut connections) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let mut connection = Http2::connect(gateway.public()).await;
        let url = format!("http://{}/slow", gateway.public());
        for _ in 0..50 {
            streams.push(
                connection
                    .open("GET", &url, &[], true)
                    .await
                    .expect("a stream"),
            );
        }
        // one has still to send its body
        streams.push(
            connection
                .open("POST", &url, &[], false)
                .await
                .expect("a stream"),
        );
        connections.push(connection);
    }
    in_flight(&gateway, 453.0).await;
    for (number, client) in clients.into_iter().enumerate() {
        match number % 2 {
            0 => client.reset(),
            _ => drop(client),
        }
    }
    in_flight(&gateway, 153.0).await;
    // by resets, and with the connection
    connections.pop();
    in_flight(&gateway, 102.0).await;
    drop(streams);
    in_flight(&gateway, 0.0).await;
    assert_eq!(gateway.get("/fast").await.status(), 200);
    in_flight(&gateway, 0.0).await;
}

#[tokio::test]
async fn calls_of_grpc_are_refused_as_unavailable_and_streams_of_http2_go_on() {
    let end = Gate::closed();
    let ends = end.clone();
    let app = Http2Origin::clear(move |mut exchange| {
        let ends = ends.clone();
        async move {
            let mut stream = exchange.begin(&[("content-type", "application/grpc")]);
            ends.passed().await;
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            let _ = stream.send_trailers(trailers);
        }
    })
    .await;
    let yaml = ONE.replace(
        "{endpoints: \"$app\",",
        "{endpoints: \"$app\", protocol: h2c,",
    );
    let yaml = yaml.replace(", websocket: on", "");
    let builder = Gateway::builder(&yaml).with("app", &app);
    let builder = builder.with("overload", "requests: 1").with("more", "");
    let gateway = builder.start().await;
    let mut client = Http2::connect(gateway.public()).await;
    let url = format!("http://{}/pkg.Service/Method", gateway.public());
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    let (head, _sends) = client
        .open("POST", &url, &fields, true)
        .await
        .expect("a stream");
    let answered = head.await.expect("a head");
    assert_eq!(answered.status(), 200);
    in_flight(&gateway, 1.0).await;
    // on the same connection, which goes on
    for _ in 0..3 {
        let refused = client
            .call("POST", &url, &fields, b"", Ending::OnLast)
            .await;
        let refused = refused.expect("an answer");
        assert_eq!(refused.status(), 200);
        assert_eq!(refused.header("grpc-status"), Some("14"));
        assert!(refused.header("retry-after").is_some());
    }
    end.open();
    in_flight(&gateway, 0.0).await;
    let served = client
        .call("POST", &url, &fields, b"", Ending::OnLast)
        .await;
    assert_eq!(served.expect("an answer").status(), 200);
    drop(answered);
}

#[tokio::test]
async fn a_reload_changes_the_limits_and_keeps_who_is_in() {
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let mut gateway = with(&app, "requests: 3").start().await;
    let calls = [1, 2, 3].map(|_| spawned(gateway.call("GET /slow")));
    in_flight(&gateway, 3.0).await;
    assert_eq!(gateway.get("/fast").await.status(), 503);
    gateway.set("overload", "requests: 4");
    gateway.reload_to(ONE).await;
    assert_eq!(gateway.get("/fast").await.status(), 200);
    gateway.set("overload", "requests: 1");
    gateway.reload_to(ONE).await;
    in_flight(&gateway, 3.0).await;
    assert_eq!(gateway.get("/fast").await.status(), 503);
    gate.open();
    for call in calls {
        assert_eq!(answer(call).await.status(), 200);
    }
    in_flight(&gateway, 0.0).await;
    assert_eq!(gateway.get("/fast").await.status(), 200);
}

#[tokio::test]
async fn memory_above_its_limit_has_requests_refused_until_it_is_free_again() {
    const MIB: f64 = (1 << 20) as f64;
    let gate = Gate::closed();
    let app = origin(&gate).await;
    let mut gateway = with(&app, "requests: 10k").start().await;
    let mut chat = chat(&gateway).await;
    for _ in 0..20 {
        assert_eq!(gateway.get("/fast").await.status(), 200);
    }
    let metrics = has(&gateway, "a sample", |metrics| {
        let resident = metrics.value("process_resident_memory_bytes", &[]);
        (metrics.value("northgate_memory_bytes", &[]) - resident).abs() < 2.0 * MIB
    })
    .await;
    let before = metrics.value("northgate_memory_bytes", &[]);
    // what there is takes less than a share of it is refused at
    let limit = (before * 1.5 + 8.0 * MIB) as u64;
    gateway.set("overload", format!("memory: {limit}B"));
    gateway.reload_to(ONE).await;
    assert_eq!(gateway.get("/fast").await.status(), 200);
    // whose bodies are kept, in case that they have to be sent again
    let body = vec![b'x'; 60 << 10];
    let head = format!(
        "POST /slow HTTP/1.1\r\nHost: h.test\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut clients: Vec<Client> = Vec::new();
    let metrics = eventually("all to be refused", async || {
        for _ in 0..20 {
            let mut client = gateway.client().await;
            // who is refused may be cut off while it sends
            let _ = client.try_send(&head).await;
            let _ = client.try_send(&body).await;
            clients.push(client);
        }
        let metrics = gateway.metrics().await;
        is_in(&metrics, "refusing_all").then_some(metrics)
    })
    .await;
    let at_most = metrics.value("northgate_memory_limit_bytes", &[]);
    assert_eq!(at_most, limit as f64);
    assert!(refused(&metrics, "overload.memory") > 0.0);
    let refused = eventually("a refusal", async || {
        let answer = gateway.get("/fast").await;
        (answer.status() == 503).then_some(answer)
    })
    .await;
    assert_eq!(refused.problem(), "overload.memory");
    assert_eq!(refused.header("connection"), Some("close"));
    let after: u64 = refused
        .header("retry-after")
        .expect("a field")
        .parse()
        .expect("seconds");
    assert!((5..=10).contains(&after), "{after}");
    let operators = Call::new(gateway.port(8081), "GET /livez");
    assert_eq!(operators.send().await.status(), 200);
    let status = gateway.status().await;
    assert_eq!(status["overload"]["memory_bytes_max"], limit);
    gateway.logs("overload: new requests are refused").await;
    chat.send(b"\x81\x80\0\0\0\0").await;
    // they get their answers, and the memory comes back
    gate.open();
    drop(clients);
    in_flight(&gateway, 1.0).await;
    has(&gateway, "nobody to be refused", |metrics| {
        metrics.value("northgate_overload_refused_share", &[]) == 0.0
    })
    .await;
    for _ in 0..50 {
        assert_eq!(gateway.get("/fast").await.status(), 200);
    }
    has(&gateway, "nothing refused any more", |metrics| {
        !is_in(metrics, "refusing_some") && !is_in(metrics, "refusing_all")
    })
    .await;
    drop(chat);
}
