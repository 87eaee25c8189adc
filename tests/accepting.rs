//! How many connections there may be, how long they are waited for, and how large a head may be
//! (`listeners.<name>.limits`, security requirements 1.15 and 3).

use crate::harness::{Call, Client, Ending, Gateway, Http2, Origin, Reply, eventually, within};
use bytes::Bytes;
use futures::FutureExt;

const LIMITED: &str = r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c], limits: {$limits}}
  operators: {address: "$address:8082", serve: health}
overload: {connections: $connections}
services: {app: {endpoints: "$app"}}
routes: {all: {match: {path: /**}, service: app}}
"#;

async fn limited(origin: &Origin, limits: &str) -> Gateway {
    Gateway::builder(LIMITED)
        .with("app", origin)
        .with("limits", limits)
        .with("connections", 1000)
        .start()
        .await
}

/// A connection that was let in.
async fn let_in(gateway: &Gateway) -> Client {
    eventually("a connection that is let in", async || {
        let mut client = gateway.client().await;
        let answer = client.try_get("h.test", "/").await.ok()?;
        (answer.status() == 200).then_some(client)
    })
    .await
}

async fn turned_away(gateway: &Gateway, reason: &str) -> f64 {
    let labels = [("listener", "public"), ("reason", reason)];
    let metrics = gateway.metrics().await;
    metrics.value("northgate_connections_turned_away_total", &labels)
}

#[tokio::test]
async fn a_listener_and_all_together_take_as_many_connections_as_they_may() {
    let origin = Origin::echo().await;
    let mut gateway = limited(&origin, "connections: 2").await;
    let (first, _second) = (let_in(&gateway).await, let_in(&gateway).await);
    assert!(gateway.client().await.is_closed().await);
    assert_eq!(turned_away(&gateway, "listener").await, 1.0);
    gateway.logs("connections are turned away").await;
    // the place of one that ends is the next one's
    drop(first);
    let _third = let_in(&gateway).await;
    // the bound of all is the lower one now; what is open stays
    gateway.set("limits", "connections: 100");
    gateway.set("connections", 3);
    gateway.reload_to(LIMITED).await;
    let _fourth = let_in(&gateway).await;
    assert!(gateway.client().await.is_closed().await);
    assert_eq!(turned_away(&gateway, "total").await, 1.0);
    let ready = Call::new(gateway.port(8082), "GET /readyz").send().await;
    assert_eq!(ready.status(), 200, "operators are let in");
    assert_eq!(
        turned_away(&gateway, "address").await,
        0.0,
        "it is this machine"
    );
}

#[tokio::test]
async fn a_connection_carries_as_many_requests_as_it_may() {
    let origin = Origin::echo().await;
    let gateway = limited(&origin, "requests: 2, streams: 3").await;
    let mut client = gateway.client().await;
    let first = client.get("h.test", "/1").await;
    assert_ne!(first.header("connection"), Some("close"));
    let last = client.get("h.test", "/2").await;
    assert_eq!(last.header("connection"), Some("close"));
    assert!(client.is_closed().await);
    let mut h2 = Http2::connect(gateway.public()).await;
    for _ in 0..2 {
        assert_eq!(h2.get("http://h.test/").await.status(), 200);
    }
    eventually("the connection to end", async || {
        h2.is_closed().then_some(())
    })
    .await;
}

#[tokio::test]
async fn clients_that_are_slow_are_waited_for_as_long_as_is_written() {
    let origin = Origin::echo().await;
    let limits = "first_byte: 300ms, head: 300ms, idle: 1s, read: 1s";
    let gateway = limited(&origin, limits).await;
    assert!(gateway.client().await.is_closed().await, "says nothing");
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\n").await;
    let answer = client.response("GET").await;
    assert_eq!(
        (answer.status(), answer.problem()),
        (408, "request.timeout".to_owned())
    );
    assert!(client.is_closed().await);
    let mut client = gateway.client().await;
    assert_eq!(client.get("h.test", "/").await.status(), 200);
    assert!(client.is_closed().await, "idle");
    let mut client = gateway.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: h.test\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    assert_eq!(client.response("POST").await.status(), 408);
    assert!(client.is_closed().await, "stops in the middle");
}

/// Security requirement 3: content comes with so many bytes a second, whatever the pauses between them.
#[tokio::test]
async fn content_that_trickles_is_refused_and_never_completed_at_the_origin() {
    let origin = Origin::echo().await;
    let gateway = limited(&origin, "read_rate: 1KiB").await;
    let mut client = gateway.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: h.test\r\nContent-Length: 100000\r\n\r\n")
        .await;
    let mut h2 = Http2::connect(gateway.public()).await;
    let opened = h2.open("POST", "http://h.test/", &[], false).await;
    let (answer, mut stream) = opened.expect("a stream");
    let mut answer = Box::pin(crate::harness::read(answer));
    let mut over_http2 = None;
    let over_http1 = eventually("both to be refused", async || {
        // it is over when the gateway does not take any more
        let _ = client.try_send("x").await;
        let _ = stream.send_data(Bytes::from_static(b"x"), false);
        if over_http2.is_none() {
            over_http2 = (&mut answer).now_or_never();
        }
        let metrics = gateway.metrics().await;
        let refused = [("reason", "request.timeout")];
        let refused = metrics.value("northgate_refused_total", &refused);
        (refused == 2.0 && over_http2.is_some()).then_some(())
    });
    over_http1.await;
    let answered = over_http2.expect("an answer").expect("a whole one");
    assert_eq!(
        (answered.status(), answered.problem()),
        (408, "request.timeout".to_owned())
    );
    let answered = client.response("POST").await;
    assert_eq!(
        (answered.status(), answered.header("connection")),
        (408, Some("close"))
    );
    assert!(client.is_closed().await);
    let completed = origin
        .received()
        .iter()
        .any(|request| request.message.complete);
    assert!(!completed, "an endpoint took a part for the whole");
}

#[tokio::test]
async fn heads_are_as_large_as_they_may_be() {
    let origin = Origin::echo().await;
    let limits = "head_size: 2KiB, field_size: 1KiB, fields: 3, target_size: 300B";
    let gateway = limited(&origin, limits).await;
    let head = |target: &str, fields: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: h.test\r\n{fields}\r\n")
    };
    let field = |name: &str, bytes: usize| format!("{name}: {}\r\n", "x".repeat(bytes));
    for (head, status) in [
        (head("/", "A: b\r\nC: d\r\n"), 200),
        (head("/", "A: b\r\nC: d\r\nE: f\r\n"), 431),
        (head("/", &field("A", 900)), 200),
        (head("/", &field("A", 1100)), 431),
        (head("/", &(field("A", 1015) + &field("B", 1015))), 431),
        (head(&format!("/{}", "x".repeat(290)), ""), 200),
        (head(&format!("/{}", "x".repeat(310)), ""), 414),
    ] {
        let mut client = gateway.client().await;
        client.send(&head).await;
        assert_eq!(client.response("GET").await.status(), status, "{head}");
    }
    let mut h2 = Http2::connect(gateway.public()).await;
    let (long, longer) = ("x".repeat(290), "x".repeat(310));
    let value = |bytes: usize| "x".repeat(bytes);
    for (target, fields, status) in [
        ("/", vec![("a", value(900))], 200),
        ("/", vec![("a", value(1100))], 431),
        (
            "/",
            vec![
                ("a", value(1)),
                ("b", value(1)),
                ("c", value(1)),
                ("d", value(1)),
            ],
            431,
        ),
        (&*long, vec![], 200),
        (&*longer, vec![], 414),
    ] {
        let url = format!("http://h.test/{target}");
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let answer = h2
            .call("GET", &url, &fields, b"", Ending::OnLast)
            .await
            .expect("an answer");
        assert_eq!(answer.status(), status, "{url} {fields:?}");
    }
}

/// Security requirement 3: at nine tenths of the memory no connection is kept.
/// What waits for clients that take nothing is what takes the memory.
#[tokio::test]
async fn while_memory_is_short_nobody_is_waited_for() {
    const LARGE: &str = r#"
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
overload: {memory: $memory}
services: {app: {endpoints: "$app"}}
routes: {all: {match: {path: /**}, service: app}}
"#;
    let large = vec![b'x'; 32 << 20];
    let origin = Origin::start(move |_| Reply::ok(&large)).await;
    let builder = Gateway::builder(LARGE).with("app", &origin);
    let mut gateway = builder.with("memory", "90%").start().await;
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: h.test\r\n\r\n").await;
    let mut h2 = Http2::connect(gateway.public()).await;
    let opened = h2.open("GET", "http://h.test/", &[], true).await;
    let (answer, _) = opened.expect("a stream");
    let (_, mut body) = within("an answer", answer)
        .await
        .expect("a head")
        .into_parts();
    origin.has_received(2).await;
    let in_flight = async || {
        let metrics = gateway.metrics().await;
        metrics.value("northgate_requests_in_flight", &[])
    };
    assert_eq!(in_flight().await, 2.0);
    gateway.set("memory", "16MiB");
    gateway.reload_to(LARGE).await;
    gateway.logs("memory is short").await;
    // far less than the 30 s that a write may take
    eventually("both to be given up", async || {
        let metrics = gateway.metrics().await;
        let in_flight = metrics.value("northgate_requests_in_flight", &[]);
        (in_flight == 0.0).then_some(())
    })
    .await;
    let all = async {
        while let Some(piece) = body.data().await {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
        }
        Ok::<(), h2::Error>(())
    };
    assert!(all.await.is_err(), "a part must not pass for the whole");
    drop(client);
}

#[tokio::test]
async fn while_memory_is_short_no_connection_is_kept() {
    const KEPT: &str = r#"
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
overload: {memory: $memory}
routes: {all: {match: {path: /**}, respond: 204}}
"#;
    let mut gateway = Gateway::builder(KEPT).with("memory", "90%").start().await;
    let mut idle = gateway.client().await;
    assert_eq!(idle.get("h.test", "/").await.status(), 204);
    let mut h2 = Http2::connect(gateway.public()).await;
    assert_eq!(h2.get("http://h.test/").await.status(), 204);
    // an idle gateway takes more
    gateway.set("memory", "16MiB");
    gateway.reload_to(KEPT).await;
    gateway.logs("memory is short").await;
    assert!(idle.is_closed().await);
    eventually("the connection to end", async || {
        h2.is_closed().then_some(())
    })
    .await;
    // it has room again; those who come are kept
    gateway.set("memory", "90%");
    gateway.reload_to(KEPT).await;
    gateway.logs("memory is not short any more").await;
    eventually("a connection that is kept", async || {
        let mut client = gateway.client().await;
        // a share of requests is refused for some seconds more
        let first = client.try_get("h.test", "/").await.ok()?;
        let second = client.try_get("h.test", "/").await.ok()?;
        (first.status() == 204 && second.status() == 204).then_some(())
    })
    .await;
}
