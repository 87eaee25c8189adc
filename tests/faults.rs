//! What becomes of a request whose first try fails: each way of failing, by method and by version of HTTP on both
//! sides. The endpoints count what arrives.

use crate::harness::{Ending, Gateway, Http2, Message, Origin, Received, Reply};
use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// How a first try fails.
struct Fault {
    name: &'static str,
    reply: fn() -> Reply,
    /// Whether another try may follow where processing twice does no harm.
    repeats: bool,
    /// What the client sees of it otherwise. None: a part of the answer, with its own status.
    status: Option<u16>,
    code: Option<&'static str>,
}

const FAULTS: [Fault; 9] = [
    Fault {
        name: "closed-before-the-head",
        reply: Reply::close,
        repeats: true,
        status: Some(502),
        code: Some("upstream.reset"),
    },
    Fault {
        name: "reset-before-the-head",
        reply: Reply::reset,
        repeats: true,
        status: Some(502),
        code: Some("upstream.reset"),
    },
    Fault {
        name: "reset-within-the-head",
        reply: || Reply::raw("HTTP/1.1 200 OK\r\nContent-Le").then_reset(),
        repeats: true,
        status: Some(502),
        code: Some("upstream.reset"),
    },
    Fault {
        name: "no-http",
        reply: || Reply::raw("SSH-2.0-OpenSSH_9.2\r\n\r\n").then_close(),
        repeats: true,
        status: Some(502),
        code: Some("upstream.protocol"),
    },
    Fault {
        name: "no-answer-in-time",
        reply: Reply::hang,
        repeats: true,
        status: Some(504),
        code: Some("upstream.timeout"),
    },
    Fault {
        name: "503",
        reply: || Reply::status(503, &[], "busy"),
        repeats: true,
        status: Some(503),
        code: None,
    },
    Fault {
        name: "another-5xx",
        reply: || Reply::status(500, &[], "no"),
        repeats: false,
        status: Some(500),
        code: None,
    },
    Fault {
        name: "reset-after-the-head",
        reply: || Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n").then_reset(),
        repeats: false,
        status: None,
        code: None,
    },
    Fault {
        name: "reset-in-the-body",
        reply: || Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").then_reset(),
        repeats: false,
        status: None,
        code: None,
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

const KINDS: [Kind; 7] = [
    kind("GET", "plain", false, "", true),
    kind("PUT", "plain", false, "whole", true),
    kind("DELETE", "plain", false, "", true),
    kind("POST", "plain", false, "once", false),
    kind("PATCH", "plain", false, "once", false),
    // without the route's word a key means nothing
    kind("POST", "plain", true, "once", false),
    kind("POST", "keyed", true, "keyed", true),
];

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

const YAML: &str = r#"
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
defaults:
  retries: {on: [connect_failure, refused_stream, reset, timeout, 503], budget: off}
  timeouts: {response_header: 1s}
services:
  app: {endpoints: [$one, $two], balance: round_robin}
  half: {endpoints: [$closed, $one], balance: round_robin, outlier: off}
  none: {endpoints: $closed}
routes:
  plain: {match: {path: /plain/**}, service: app}
  keyed: {match: {path: /keyed/**}, service: app, retries: {idempotency_key: on}}
  off: {match: {path: /off/**}, service: app, retries: off}
  half: {match: {path: /half/**}, service: half}
  none: {match: {path: /none/**}, service: none}
"#;

/// Two endpoints of which whichever is asked first fails, by what the path says.
async fn endpoints() -> (Origin, Origin) {
    let failed: Arc<Mutex<HashSet<String>>> = Arc::default();
    let script = move |request: &Received| {
        let target = request.target().to_owned();
        let fault = FAULTS
            .iter()
            .find(|fault| target.split('/').any(|part| part == fault.name));
        let first = failed.lock().expect("no panic").insert(target);
        match fault {
            Some(fault) if first => (fault.reply)(),
            _ => Reply::ok("done"),
        }
    };
    let other = script.clone();
    (Origin::start(script).await, Origin::start(other).await)
}

/// A port that refuses.
fn closed() -> String {
    let listener =
        TcpListener::bind((crate::harness::loopback(), 0)).expect("a port that nobody has");
    listener.local_addr().expect("its address").to_string()
}

async fn gateway(one: &Origin, two: &Origin) -> Gateway {
    Gateway::builder(YAML)
        .with("one", one)
        .with("two", two)
        .with("closed", closed())
        .start()
        .await
}

/// One request over HTTP/1.1 or, if there is a connection for it, HTTP/2.
async fn ask(
    gateway: &Gateway,
    h2: Option<&mut Http2>,
    kind: &Kind,
    target: &str,
) -> Result<Message, String> {
    let fields: &[(&str, &str)] = if kind.key {
        &[("idempotency-key", "k-1")]
    } else {
        &[]
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
async fn each_fault_is_repeated_where_that_does_no_harm_and_a_post_is_never_sent_twice() {
    let (one, two) = endpoints().await;
    let gateway = gateway(&one, &two).await;
    let mut h2 = Http2::connect(gateway.public()).await;
    for fault in &FAULTS {
        for (number, kind) in KINDS.iter().enumerate() {
            for version in ["h1", "h2"] {
                let target = format!("/{}/{}/{version}/{number}", kind.route, fault.name);
                let h2 = (version == "h2").then_some(&mut h2);
                let answer = ask(&gateway, h2, kind, &target).await;
                let case = format!("{} {target}: {answer:?}", kind.method);
                let arrived: Vec<Received> = [one.received(), two.received()]
                    .concat()
                    .into_iter()
                    .filter(|request| request.target() == target)
                    .collect();
                let again = fault.repeats && kind.repeatable;
                assert_eq!(arrived.len(), if again { 2 } else { 1 }, "{case}");
                assert!(
                    arrived
                        .iter()
                        .all(|request| request.body == kind.body.as_bytes()),
                    "{case}"
                );
                match (again, fault.status) {
                    (true, _) => {
                        let answer = answer.expect(&case);
                        assert_eq!((answer.status(), answer.text()), (200, "done"), "{case}");
                    }
                    (false, Some(status)) => {
                        let answer = answer.expect(&case);
                        assert_eq!(answer.status(), status, "{case}");
                        if let Some(code) = fault.code {
                            assert_eq!(answer.problem(), code, "{case}");
                        }
                    }
                    // a part is never passed on as the whole
                    (false, None) => {
                        assert!(answer.map_or(true, |answer| !answer.complete), "{case}")
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_refused_costs_no_request_while_another_endpoint_is_left() {
    let (one, two) = endpoints().await;
    let gateway = gateway(&one, &two).await;
    let mut h2 = Http2::connect(gateway.public()).await;
    let mut asked = 0;
    for (number, kind) in KINDS.iter().enumerate() {
        for version in ["h1", "h2"] {
            // twice, so that the one that refuses is the first in one of them
            for turn in 0..2 {
                let target = format!("/half/{version}/{number}/{turn}");
                let h2 = (version == "h2").then_some(&mut h2);
                let answer = ask(&gateway, h2, kind, &target).await.expect("an answer");
                assert_eq!(answer.status(), 200, "{} {target}", kind.method);
                asked += 1;
            }
        }
    }
    assert_eq!(one.received().len(), asked);
    let metrics = gateway.metrics().await;
    let labels = [("service", "half"), ("reason", "connect_failure")];
    assert!(metrics.value("northgate_retries_total", &labels) >= 7.0);
    let answer = gateway.call("POST /none/").body("x").send().await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.problem(), "upstream.connect");
}

#[tokio::test]
async fn nothing_is_repeated_where_retries_are_off() {
    let (one, two) = endpoints().await;
    let gateway = gateway(&one, &two).await;
    for fault in &FAULTS {
        let call = gateway.call(&format!("GET /off/{}", fault.name));
        let answer = call.try_send();
        match fault.status {
            Some(status) => assert_eq!(answer.await.expect("an answer").status(), status),
            None => assert!(answer.await.map_or(true, |answer| !answer.complete)),
        }
    }
    assert_eq!(one.received().len() + two.received().len(), FAULTS.len());
}

#[tokio::test]
async fn a_body_is_repeated_whole_or_not_at_all() {
    let (one, two) = endpoints().await;
    let gateway = gateway(&one, &two).await;
    let mut h2 = Http2::connect(gateway.public()).await;
    for (size, again) in [
        (0, true),
        (10_000, true),
        (64 * 1024, true),
        (200_000, false),
    ] {
        let body = vec![b'x'; size];
        for version in ["h1", "chunked", "h2", "h2-empty-frame"] {
            let target = format!("/plain/reset-before-the-head/{size}/{version}");
            let url = format!("http://h.test{target}");
            let answer = match version {
                "h1" => {
                    gateway
                        .call(&format!("PUT {target}"))
                        .body(&body)
                        .send()
                        .await
                }
                "chunked" => chunked(&gateway, &target, &body).await,
                _ => {
                    let ending = match version {
                        "h2" => Ending::OnLast,
                        _ => Ending::EmptyData,
                    };
                    h2.call("PUT", &url, &[], &body, ending)
                        .await
                        .expect("an answer")
                }
            };
            assert_eq!(answer.status(), if again { 200 } else { 502 }, "{target}");
            let arrived = [one.received(), two.received()].concat();
            let arrived = arrived.iter().filter(|request| request.target() == target);
            let arrived: Vec<_> = arrived.collect();
            assert_eq!(arrived.len(), if again { 2 } else { 1 }, "{target}");
            let whole = |request: &&Received| request.body == body;
            assert!(arrived.iter().all(whole), "{target}");
        }
    }
}

/// A PUT whose body has no length beforehand.
async fn chunked(gateway: &Gateway, target: &str, body: &[u8]) -> Message {
    let mut client = gateway.client().await;
    let head =
        format!("PUT {target} HTTP/1.1\r\nHost: h.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(head).await;
    for part in body.chunks(20_000) {
        client.send(format!("{:x}\r\n", part.len())).await;
        client.send(part).await;
        client.send("\r\n").await;
    }
    client.send("0\r\n\r\n").await;
    client.response("PUT").await
}
