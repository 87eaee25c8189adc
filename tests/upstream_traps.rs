//! What goes wrong between a gateway and its endpoints, and what the client must see of it.

use crate::harness::{Call, Ending, Gate, Gateway, Http2, Origin, Reply, eventually};
use bytes::Bytes;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const PLAIN: &str = r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
services: {app: {endpoints: "$app", timeouts: {response_header: 5s, idle: 5s}}}
routes: {all: {match: {path: /**}, service: app}}
"#;

async fn before(
    script: impl Fn(&crate::harness::Received) -> Reply + Send + Sync + 'static,
) -> (Gateway, Origin) {
    let origin = Origin::start(script).await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    (gateway, origin)
}

/// Pingora #935: the terminating chunk went out twice, and the second one was the start of the next client's request.
#[tokio::test]
async fn an_empty_data_frame_at_the_end_leaves_nothing_on_the_pooled_connection() {
    let (gateway, origin) = before(Reply::echo).await;
    let mut h2 = Http2::connect(gateway.public()).await;
    for (method, body) in [("POST", "hello"), ("POST", ""), ("PUT", "x"), ("GET", "")] {
        let answer = h2
            .call(
                method,
                "http://h.test/",
                &[],
                body.as_bytes(),
                Ending::EmptyData,
            )
            .await;
        let answer = answer.expect("a response");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json()["body"], body);
        let other = gateway.call("POST /other").body("mine").send().await;
        assert_eq!(other.json()["body"], "mine");
    }
    assert_eq!(origin.received().len(), 8);
    assert!(origin.received().iter().all(|request| request.complete));
    // an answer may reach its client a moment before its connection is back in the pool
    assert!(origin.connections() < 8, "connections are used again");
    assert_eq!(origin.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn an_upload_in_many_small_frames_arrives_whole() {
    let (gateway, origin) = before(Reply::echo).await;
    let mut h2 = Http2::connect(gateway.public()).await;
    let (response, mut stream) = h2
        .open("POST", "http://h.test/", &[], false)
        .await
        .expect("a stream");
    let mut sent = Vec::new();
    for n in 0..500u32 {
        let part = n.to_string();
        sent.extend(part.bytes());
        stream.send_data(Bytes::from(part), false).expect("data");
        if n % 50 == 0 {
            stream
                .send_data(Bytes::new(), false)
                .expect("an empty frame in between");
        }
    }
    stream.send_data(Bytes::new(), true).expect("the end");
    assert_eq!(response.await.expect("a response").status(), 200);
    assert_eq!(origin.only().body, sent);
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let (gateway, origin) = before(|request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        match request.target() {
            "/chunked" => Reply::chunked(&[], &[&body]),
            _ => Reply::ok(body),
        }
    })
    .await;
    let body = "0123456789abcdef".repeat(128 * 1024);
    for target in ["/chunked", "/length"] {
        let response = gateway
            .call(&format!("POST {target}"))
            .body(&body)
            .send()
            .await;
        assert_eq!(response.status(), 200);
        assert!(
            response.complete && response.body == body.as_bytes(),
            "{target}"
        );
    }
    assert_eq!(origin.received().len(), 2);
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    for failure in ["/close", "/reset", "/half"] {
        let (gateway, origin) = before(|request| match request.target() {
            "/close" => Reply::close(),
            "/reset" => Reply::reset(),
            "/half" => Reply::raw("HTTP/1.1 200").then_close(),
            _ => Reply::ok("warm"),
        })
        .await;
        // on a connection that was used before, which is where clients are tempted to try again
        assert_eq!(gateway.get("/warm").await.status(), 200);
        let response = gateway
            .call(&format!("POST {failure}"))
            .body("charge once")
            .send()
            .await;
        assert_eq!(response.status(), 502, "{failure}");
        assert_eq!(response.problem(), "upstream.reset", "{failure}");
        let posts = origin
            .received()
            .iter()
            .filter(|request| request.method() == "POST")
            .count();
        assert_eq!(posts, 1, "{failure}");
    }
}

#[tokio::test]
async fn a_connection_that_the_origin_closed_while_idle_costs_nobody_an_answer() {
    let (gateway, origin) = before(|request| match request.earlier {
        0 => Reply::ok("first"),
        _ => Reply::close(),
    })
    .await;
    for _ in 0..5 {
        // the origin says nothing about closing, and each connection is good for one request
        let response = gateway.get("/").await;
        assert!(matches!(response.status(), 200 | 502));
    }
    assert!(origin.connections() >= 3);
    let (gateway, origin) = before(|_| Reply::ok("bye").then_close()).await;
    for n in 1..=5 {
        assert_eq!(gateway.get("/").await.status(), 200);
        eventually("the origin to close", async || {
            (origin.open() == 0).then_some(())
        })
        .await;
        assert_eq!(origin.received().len(), n);
    }
}

#[tokio::test]
async fn a_truncated_body_is_never_passed_on_as_complete() {
    let (gateway, origin) = before(|request| match request.target() {
        "/length" => {
            Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this").then_close()
        }
        "/length-reset" => {
            Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this").then_reset()
        }
        "/chunk" => {
            Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nonly this")
                .then_close()
        }
        _ => Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n")
            .then_close(),
    })
    .await;
    let mut h2 = Http2::connect(gateway.public()).await;
    for target in ["/length", "/length-reset", "/chunk", "/no-last-chunk"] {
        if let Ok(response) = gateway.call(&format!("GET {target}")).try_send().await {
            assert!(
                !response.complete || response.status() == 502,
                "{target}: {response:?}"
            );
        }
        if let Ok(response) = h2.try_get(&format!("http://h.test{target}")).await {
            assert!(
                !response.complete || response.status() == 502,
                "{target} on HTTP/2: {response:?}"
            );
        }
    }
    assert!(origin.received().len() >= 8);
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_502() {
    let (gateway, _origin) = before(|_| {
        Reply::raw(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .then_hang()
    })
    .await;
    let response = gateway.get("/").await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.problem(), "upstream.protocol");
}

#[tokio::test]
async fn an_upgrade_is_not_passed_on_where_no_route_allows_it() {
    let (gateway, origin) = before(Reply::echo).await;
    let response = gateway
        .call("GET /")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .send()
        .await;
    assert_eq!(response.status(), 200);
    assert_eq!(origin.only().header("upgrade"), None);
}

#[tokio::test]
async fn hop_by_hop_fields_of_a_response_stay_here() {
    let (gateway, _origin) = before(|_| {
        Reply::status(
            200,
            &[
                ("Connection", "keep-alive, X-Internal"),
                ("X-Internal", "1"),
                ("Keep-Alive", "timeout=5"),
                ("Proxy-Connection", "keep-alive"),
                ("Upgrade", "h2c"),
                ("X-Kept", "1"),
            ],
            "hello",
        )
    })
    .await;
    let mut client = gateway.client().await;
    let mut h2 = Http2::connect(gateway.public()).await;
    for response in [
        client.get("h.test", "/").await,
        h2.get("http://h.test/").await,
    ] {
        assert_eq!(response.text(), "hello");
        for gone in ["x-internal", "keep-alive", "proxy-connection", "upgrade"] {
            assert_eq!(response.header(gone), None, "{gone}");
        }
        assert_eq!(response.header("x-kept"), Some("1"));
    }
}

#[tokio::test]
async fn answers_that_are_not_http_are_502() {
    for nonsense in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        let (gateway, _origin) = before(move |_| Reply::raw(nonsense).then_close()).await;
        let response = gateway.get("/").await;
        assert_eq!(response.status(), 502, "{nonsense:?}");
        assert_eq!(response.problem(), "upstream.protocol", "{nonsense:?}");
    }
}

#[tokio::test]
async fn surplus_bytes_of_an_answer_are_nobody_elses_answer() {
    let (gateway, origin) = before(|request| match request.target() {
        "/evil" => Reply::ok("ok").then("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
        _ => Reply::ok("mine"),
    })
    .await;
    for _ in 0..3 {
        assert_eq!(gateway.get("/evil").await.text(), "ok");
        assert_eq!(gateway.get("/").await.text(), "mine");
    }
    assert_eq!(origin.received().len(), 6);
}

/// Where a body ends must be said in one way that everybody on the path reads the same (RFC 9112 §6.3).
#[tokio::test]
async fn an_answer_whose_framing_can_be_read_in_two_ways_is_502() {
    let (gateway, origin) = before(|request| {
        let field = match request.target() {
            "/list" => "Content-Length: 2, 2",
            "/large" => "Content-Length: 9223372036854775808",
            "/gzip" => "Transfer-Encoding: gzip, chunked",
            "/twice" => "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "/unknown" => "Transfer-Encoding: xchunked",
            _ => "Transfer-Encoding: identity",
        };
        Reply::raw(format!(
            "HTTP/1.1 200 OK\r\n{field}\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        ))
    })
    .await;
    for path in [
        "/list",
        "/large",
        "/gzip",
        "/twice",
        "/unknown",
        "/identity",
    ] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status(), 502, "{path}");
        assert_eq!(answer.json()["code"], "upstream.protocol", "{path}");
    }
    // each is asked for once more: another endpoint might know better
    assert_eq!(origin.received().len(), 12);
}

/// RFC 9112 §6.1: a client of HTTP/1.0 would take chunk sizes for content. What ends with the connection must not end
/// in order when it is not complete.
#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks_and_no_part_for_the_whole() {
    let (gateway, _origin) = before(|request| {
        let reply =
            Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        match request.target() {
            "/whole" => reply.then("0\r\n\r\n"),
            _ => reply.then_close(),
        }
    })
    .await;
    let answer = async |target: &str| {
        let mut stream = TcpStream::connect(gateway.public()).await?;
        let head = format!("GET {target} HTTP/1.0\r\nHost: h.test\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.map(|_| text)
    };
    let whole = answer("/whole").await.expect("a response");
    assert!(
        !whole.to_lowercase().contains("transfer-encoding"),
        "{whole}"
    );
    assert!(whole.ends_with("\r\n\r\nhello"), "{whole}");
    assert!(answer("/part").await.is_err());
}

#[tokio::test]
async fn a_204_says_nothing_about_a_body() {
    let (gateway, _origin) = before(|request| {
        let field = match request.target() {
            "/length" => "Content-Length: 40",
            _ => "Transfer-Encoding: chunked",
        };
        Reply::raw(format!("HTTP/1.1 204 No Content\r\n{field}\r\n\r\n"))
    })
    .await;
    for path in ["/length", "/chunked"] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status(), 204, "{path}");
        assert_eq!(answer.header("content-length"), None, "{path}");
        assert_eq!(answer.header("transfer-encoding"), None, "{path}");
    }
}

#[tokio::test]
async fn interim_responses_are_bounded_and_final_ones_pass() {
    let (gateway, _origin) = before(|request| {
        let early = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n";
        let count = if request.target() == "/many" { 40 } else { 2 };
        Reply::raw(early.repeat(count)).then_reply(Reply::ok("final"))
    })
    .await;
    let response = gateway.get("/few").await;
    assert_eq!((response.status(), response.text()), (200, "final"));
    // what has passed cannot be taken back, so the end may be a closed connection; it is never that answer
    if let Ok(refused) = gateway.call("GET /many").try_send().await {
        assert_eq!(refused.status(), 502);
        assert!(refused.interim.len() <= 16);
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_in_time_is_504() {
    let origin = Origin::start(|_| Reply::hang()).await;
    let gateway = Gateway::before(
        &origin,
        r#"
services: {app: {endpoints: "$app"}}
routes:
  header: {match: {path: /header}, service: app, timeouts: {response_header: 200ms}}
  total: {match: {path: /total}, service: app, timeouts: {total: 200ms}}
"#,
    )
    .await;
    for target in ["/header", "/total"] {
        let response = gateway.get(target).await;
        assert_eq!(response.status(), 504, "{target}");
        assert_eq!(response.problem(), "upstream.timeout", "{target}");
    }
}

#[tokio::test]
async fn a_body_that_stops_is_cut_off_after_the_idle_time() {
    let origin = Origin::start(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this").then_hang()
    })
    .await;
    let gateway = Gateway::before(
        &origin,
        r#"
services: {app: {endpoints: "$app", timeouts: {idle: 200ms}}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .await;
    if let Ok(response) = gateway.call("GET /").try_send().await {
        assert!(!response.complete, "{response:?}");
    }
}

#[tokio::test]
async fn the_total_time_ends_with_the_head_of_the_answer() {
    let origin = Origin::start(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
            .then_pause(Duration::from_millis(600))
            .then("67890")
    })
    .await;
    let gateway = Gateway::before(
        &origin,
        r#"
services: {app: {endpoints: "$app", timeouts: {total: 300ms}}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .await;
    let response = gateway.get("/").await;
    assert!(response.complete);
    assert_eq!(response.text(), "1234567890");
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_502() {
    let closed = Origin::echo().await;
    let address = closed.address().to_owned();
    drop(closed);
    let gateway = Gateway::before(&address, PLAIN).await;
    let response = gateway.get("/").await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.problem(), "upstream.connect");
    assert!(!response.text().contains(&address), "{response:?}");
}

#[tokio::test]
async fn an_endpoint_that_does_not_accept_in_time_is_504() {
    // a listener whose queue is full: the kernel drops what comes then, and the connection hangs
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind((crate::harness::loopback(), 0).into())
        .expect("an address");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut queued = Vec::new();
    while let Ok(stream) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        queued.push(stream);
        assert!(queued.len() < 100, "the queue never fills");
    }
    let gateway = Gateway::before(
        &address,
        r#"
services: {app: {endpoints: "$app", timeouts: {connect: 200ms}}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .await;
    let response = gateway.get("/").await;
    assert_eq!(response.status(), 504);
    assert_eq!(response.problem(), "upstream.connect_timeout");
}

#[tokio::test]
async fn nothing_to_send_to_is_503_with_retry_after_and_keeps_the_connection() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(
        &origin,
        r#"
services: {app: {endpoints: [{address: "$app", weight: 0}]}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .await;
    let mut client = gateway.client().await;
    for _ in 0..3 {
        let response = client.get("h.test", "/").await;
        assert_eq!(response.status(), 503);
        assert_eq!(response.problem(), "upstream.none");
        assert!(response.header("retry-after").is_some());
    }
    assert!(origin.received().is_empty());
}

#[tokio::test]
async fn an_unused_connection_is_closed_after_its_idle_time() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(
        &origin,
        r#"
services: {app: {endpoints: "$app", pool: {idle: 300ms}}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .await;
    assert_eq!(gateway.get("/").await.status(), 200);
    assert_eq!(gateway.get("/").await.status(), 200);
    assert_eq!(origin.connections(), 1);
    eventually("the pooled connection to be closed", async || {
        (origin.open() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_never_completes_at_the_origin() {
    let (gateway, origin) = before(Reply::echo).await;
    for head in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut client = gateway.client().await;
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n5\r\nhello\r\n"
            ))
            .await;
        client.reset();
    }
    let mut h2 = Http2::connect(gateway.public()).await;
    let (_response, mut stream) = h2
        .open("POST", "http://h.test/", &[], false)
        .await
        .expect("a stream");
    stream
        .send_data(Bytes::from_static(b"hello"), false)
        .expect("data");
    stream.send_reset(h2::Reason::CANCEL);
    eventually("the origin's connections to close", async || {
        (origin.connections() > 0 && origin.open() == 0).then_some(())
    })
    .await;
    assert!(origin.received().iter().all(|request| !request.complete));
}

#[tokio::test]
async fn an_answer_that_comes_before_the_upload_is_over_reaches_the_client() {
    let origin = Origin::at_head(|_| Reply::status(413, &[], "too much").then_close())
        .await
        .lenient();
    let gateway = Gateway::before(&origin, PLAIN).await;
    let mut client = gateway.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nthe first of many")
        .await;
    let response = client.response("POST").await;
    assert!(matches!(response.status(), 413 | 502), "{response:?}");
}

#[tokio::test]
async fn expect_100_continue_is_answered_before_the_body_is_sent() {
    let origin = Origin::start(Reply::echo).await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    let mut client = gateway.client().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    client.send(head).await;
    // this origin says no 100, so a client waits for a while and sends, as RFC 9110 §10.1.1 has it
    client.send("hello").await;
    let response = client.response("POST").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.json()["body"], "hello");
}

#[tokio::test]
async fn answers_without_a_body_keep_the_connection() {
    let (gateway, origin) = before(|request| match request.target() {
        "/204" => Reply::raw("HTTP/1.1 204 No Content\r\n\r\n"),
        "/304" => Reply::raw("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
        _ => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
    })
    .await;
    let mut client = gateway.client().await;
    for (method, target, status) in [
        ("GET", "/204", 204),
        ("GET", "/304", 304),
        ("HEAD", "/head", 200),
    ] {
        client
            .send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        let response = client.response(method).await;
        assert_eq!(response.status(), status);
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn an_endpoint_may_be_a_unix_socket() {
    let dir = tempfile::tempdir().expect("a folder");
    let origin = Origin::unix(&dir.path().join("app.sock"), Reply::echo).await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    for _ in 0..3 {
        assert_eq!(gateway.get("/x").await.json()["target"], "/x");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn host_header_says_what_the_endpoint_is_told() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(
        &origin,
        r#"
services:
  preserve: {endpoints: "$app"}
  endpoint: {endpoints: "$app", host_header: endpoint}
  value: {endpoints: "$app", host_header: app.internal}
routes:
  preserve: {match: {path: /preserve}, service: preserve}
  endpoint: {match: {path: /endpoint}, service: endpoint}
  value: {match: {path: /value}, service: value}
"#,
    )
    .await;
    for (target, host) in [
        ("/preserve", "Example.test"),
        ("/endpoint", origin.address()),
        ("/value", "app.internal"),
    ] {
        gateway
            .call(&format!("GET {target}"))
            .host("Example.test")
            .send()
            .await;
        let got = origin.last();
        assert!(
            got.header("host")
                .is_some_and(|got| got.eq_ignore_ascii_case(host)),
            "{target}: {got:?}"
        );
        assert_eq!(
            got.header("x-forwarded-host")
                .map(str::to_ascii_lowercase)
                .as_deref(),
            Some("example.test")
        );
    }
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_at_the_origin_with_it() {
    let gate = Gate::closed();
    let (gateway, origin) = before({
        let gate = gate.clone();
        move |_| Reply::after(&gate).then_reply(Reply::ok("late"))
    })
    .await;
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    origin.has_received(1).await;
    drop(client);
    gate.open();
    // the gateway is not stuck with it
    assert_eq!(
        Call::new(gateway.public(), "GET /").send().await.text(),
        "late"
    );
}

#[tokio::test]
async fn what_an_origin_streams_is_not_held_back() {
    let gate = Gate::closed();
    let (gateway, _origin) = before({
        let gate = gate.clone();
        move |_| {
            Reply::raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                .then("9\r\ndata: 1\n\n\r\n")
                .then_wait(&gate)
                .then("9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        }
    })
    .await;
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);
    let first = client
        .exactly("9\r\ndata: 1\n\n\r\n".len())
        .await
        .expect("the first event");
    assert_eq!(first, b"9\r\ndata: 1\n\n\r\n");
    let mut h2 = Http2::connect(gateway.public()).await;
    let (response, _) = h2
        .open("GET", "http://h.test/", &[], true)
        .await
        .expect("a stream");
    let mut body = response.await.expect("a head").into_body();
    assert_eq!(
        body.data().await.expect("an event").expect("data"),
        "data: 1\n\n"
    );
    gate.open();
    assert_eq!(
        client.exactly(14).await.expect("the second event"),
        b"9\r\ndata: 2\n\n\r\n"
    );
    assert_eq!(
        body.data().await.expect("an event").expect("data"),
        "data: 2\n\n"
    );
}

/// RFC 9110 §15.2: a client of HTTP/1.0 would take an interim answer for the final one.
#[tokio::test]
async fn interim_answers_do_not_reach_clients_of_http_1_0() {
    let (gateway, _origin) = before(|_| {
        let early = Reply::raw("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        early.then_reply(Reply::ok("done"))
    })
    .await;
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.0\r\nHost: h.test\r\n\r\n").await;
    let answer = client.rest().await.expect("an answer");
    let answer = String::from_utf8(answer).expect("text");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("done"), "{answer}");
}
