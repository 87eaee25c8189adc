//! Everything is bounded, and nothing that a client sends takes more than its own request (design 1.6).

use crate::harness::{Call, Client, Gateway, Http2, Origin, Received, Reply, eventually};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::time::Duration;

const PLAIN: &str = r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
services: {app: {endpoints: "$app"}}
routes: {all: {match: {path: /**}, service: app}}
"#;

/// Heads that are nearly right, and bytes that are nothing.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"GET / HTTP/1.1\r\n".to_vec()),
        Just(b"POST /x HTTP/1.1\r\nHost: a\r\n".to_vec()),
        Just(b"Host: a\r\n".to_vec()),
        Just(b"Content-Length: 18446744073709551615\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n\r\n".to_vec()),
        Just(b"ffffffffffffffff\r\n".to_vec()),
        Just(b"Cookie: =;;=\r\n".to_vec()),
        Just(b"X-Forwarded-For: ,,\"\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\r\n\r\n".to_vec()),
        Just(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        Just(b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\xff\xff\xff\xff".to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

#[tokio::test]
async fn noise_on_the_wire_takes_nobody_else_along() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    let mut kept = gateway.client().await;
    let mut runner = TestRunner::deterministic();
    for _ in 0..300 {
        let bytes = noise().new_tree(&mut runner).expect("noise").current();
        let mut client = gateway.client().await;
        let _ = client.try_send(&bytes).await;
        client.finish().await;
        drop(client);
    }
    assert_eq!(kept.get("h.test", "/").await.status(), 200);
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("northgate_panics_total", &[]), 0.0);
}

#[tokio::test]
async fn memory_does_not_grow_with_connections_that_come_and_go() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    let churn = async |count: u32| {
        for n in 0..count {
            match n % 3 {
                0 => drop(Call::new(gateway.public(), "GET /").send().await),
                1 => drop(
                    Http2::connect(gateway.public())
                        .await
                        .get("http://h.test/")
                        .await,
                ),
                _ => drop(Client::connect(gateway.public()).await),
            }
        }
        let metrics = gateway.metrics().await;
        metrics.value("process_resident_memory_bytes", &[])
    };
    let warm = churn(900).await;
    let after = churn(3000).await;
    // what a connection may leave behind: nothing; the allocator takes a few megabytes more at a time, for each thread
    assert!(after - warm < 3000.0 * 2048.0, "{warm} bytes, then {after}");
}

/// Clients that take every descriptor they can get leave some for operators and for the requests of others.
#[tokio::test]
async fn clients_that_take_all_descriptors_leave_the_admin_api_and_open_connections_alone() {
    let origin = Origin::echo().await;
    let with_operators = PLAIN.replacen(
        "listeners:",
        "listeners:\n  operators: {address: \"$address:8081\", serve: health}",
        1,
    );
    let gateway = Gateway::before(&origin, &with_operators).await;
    let mut early = gateway.client().await;
    assert_eq!(early.get("h.test", "/").await.status(), 200);
    let limit = std::process::Command::new("prlimit")
        .args(["--pid", &gateway.pid().to_string(), "--nofile=128:128"])
        .status();
    assert!(limit.expect("prlimit").success());
    let mut crowd = Vec::new();
    for _ in 0..150 {
        crowd.push(gateway.client().await);
    }
    let mut late = gateway.client().await;
    late.send("GET /late HTTP/1.1\r\nHost: h.test\r\n\r\n")
        .await;
    let meanwhile = async {
        let labels = [("listener", "public")];
        gateway
            .counts("northgate_accept_pauses_total", &labels, 1.0)
            .await;
        assert_eq!(early.get("h.test", "/first").await.status(), 200);
        let alive = Call::new(gateway.port(8081), "GET /livez").send().await;
        assert_eq!(alive.status(), 200, "operators are let in");
    };
    // before those who say nothing are sent away
    tokio::time::timeout(Duration::from_secs(5), meanwhile)
        .await
        .expect("an answer while nobody else is let in");
    drop(crowd);
    assert_eq!(late.response("GET").await.status(), 200, "it has waited");
    assert_eq!(gateway.get("/second").await.status(), 200);
}

/// Clients that are in before they ask for anything may take the rest by their requests. Those that find none are told so,
/// nobody blames the endpoint, and operators keep theirs.
#[tokio::test]
async fn requests_that_take_the_last_descriptors_leave_some_for_operators() {
    let origin = Origin::start(here_or_never).await;
    take_the_last_descriptors(&origin, PLAIN).await;
}

/// The same where Pingora doesn't connect by itself.
#[tokio::test]
async fn requests_whose_connections_are_bounded_leave_descriptors_for_operators() {
    let endpoints = r#"endpoints: "$app""#;
    assert!(PLAIN.contains(endpoints));
    let bounded = format!("{endpoints}, limits: {{connections_per_endpoint: 1000}}");
    let origin = Origin::start(here_or_never).await;
    take_the_last_descriptors(&origin, &PLAIN.replace(endpoints, &bounded)).await;
}

#[tokio::test]
async fn requests_over_unix_sockets_leave_descriptors_for_operators() {
    let dir = tempfile::tempdir().expect("a folder");
    let origin = Origin::unix(&dir.path().join("app.sock"), here_or_never).await;
    take_the_last_descriptors(&origin, PLAIN).await;
}

fn here_or_never(request: &Received) -> Reply {
    match request.target() {
        "/hang" => Reply::hang(),
        _ => Reply::ok("here"),
    }
}

async fn take_the_last_descriptors(origin: &Origin, config: &str) {
    let gateway = Gateway::before(origin, config).await;
    assert_eq!(gateway.get("/").await.status(), 200);
    let descriptors = || {
        let folder = format!("/proc/{}/fd", gateway.pid());
        std::fs::read_dir(folder)
            .expect("a running gateway")
            .count()
    };
    let limit = descriptors() + 160;
    let status = std::process::Command::new("prlimit")
        .args(["--pid", &gateway.pid().to_string()])
        .arg(format!("--nofile={limit}:{limit}"))
        .status();
    assert!(status.expect("prlimit").success());
    // an eighth is not for clients
    let room = limit - limit / 8 - descriptors() - 5;
    let mut crowd = Vec::new();
    for _ in 0..room {
        let mut client = gateway.client().await;
        client.send("GET /hang HTTP/1.1\r\nHost: h.test\r\n").await;
        crowd.push(client);
    }
    eventually("all of them let in", async || {
        let metrics = gateway.metrics().await;
        let open = metrics.value("northgate_connections", &[("listener", "public")]);
        (open >= room as f64).then_some(())
    })
    .await;
    for client in &mut crowd {
        client.send("\r\n").await;
    }
    let labels = [("reason", "overload.descriptors")];
    eventually("requests that find none left", async || {
        let metrics = gateway.metrics().await;
        (metrics.value("northgate_refused_total", &labels) > 10.0).then_some(())
    })
    .await;
    // both ask for descriptors: of a connection, and of files
    gateway.reload_to(config).await;
    let status = gateway.status().await;
    assert_eq!(
        status["services"][0]["endpoints"][0]["up"], true,
        "{status:#}"
    );
    drop(crowd);
    // as soon as it has seen that they are gone
    eventually("descriptors for others", async || {
        (gateway.get("/").await.status() == 200).then_some(())
    })
    .await;
    let metrics = gateway.metrics().await;
    let wrong = [("reason", "upstream.protocol")];
    assert_eq!(metrics.value("northgate_refused_total", &wrong), 0.0);
}

/// Each stream that is reset was a request at the origin: below h2's own bound, but not without one.
#[tokio::test]
async fn a_client_that_resets_what_it_asks_for_is_sent_away() {
    let origin = Origin::start(|request| match request.method() {
        "GET" => Reply::ok("here"),
        _ => Reply::hang(),
    })
    .await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    let mut h2 = Http2::connect(gateway.public()).await;
    let mut asked = 0;
    while asked < 200 && !h2.is_closed() {
        let Ok((response, mut stream)) = h2.open("POST", "http://h.test/", &[], false).await else {
            break;
        };
        asked += 1;
        // accepted, so that h2 does not count it as a rapid reset
        eventually("the request at the origin", async || {
            (h2.is_closed() || origin.connections() >= asked).then_some(())
        })
        .await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
    }
    assert!((100..=110).contains(&asked), "{asked}");
    assert_eq!(gateway.get("/x").await.status(), 200);
}
