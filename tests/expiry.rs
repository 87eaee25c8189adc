//! What is open ends with the credential that opened it, where `close_at_expiry` says so: WebSockets, streams, calls of
//! gRPC, long answers. What was asked for in time and is no stream is answered.

use crate::harness::{
    Exchange, Gate, Gateway, Http2, Http2Origin, Issuer, Message, Origin, Program, Reply,
    eventually, read,
};
use serde_json::json;
use std::fmt::Display;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const GATEWAY: &str = r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
access_log: {path: "$dir/access.log"}
issuers: {idp: {issuer: "$issuer", audience: orders, leeway: $leeway}}
services: {app: {endpoints: "$app", protocol: $protocol, timeouts: {idle: 20s}}, chat: {endpoints: "$app"}}
policies: {auth: {jwt: {issuer: idp, query: access_token}, close_at_expiry: true}}
routes:
  chat: {match: {path: /chat}, service: chat, websocket: on}
  open: {match: {path: /open}, service: app, policies: {auth: {jwt: {issuer: idp, query: access_token}}}}
  shadow:
    match: {path: /shadow}
    service: app
    policies: {auth: {jwt: {issuer: idp, query: access_token}, close_at_expiry: true, mode: shadow}}
  rest: {match: {path: /**}, service: app}
"#;

async fn gateway(app: &impl Display, issuer: &Issuer, protocol: &str) -> Gateway {
    with_leeway(app, issuer, protocol, "0s").await
}

async fn with_leeway(app: &impl Display, issuer: &Issuer, protocol: &str, leeway: &str) -> Gateway {
    Gateway::builder(GATEWAY)
        .with("app", app)
        .with("issuer", issuer.url())
        .with("protocol", protocol)
        .with("leeway", leeway)
        .start()
        .await
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after the epoch")
}

/// When a token ends, and a target with it: soon, but not at once.
fn soon(issuer: &Issuer, path: &str) -> (Duration, String) {
    let ends = Duration::from_secs(now().as_secs() + 2);
    let token = issuer.token(json!({"exp": ends.as_secs(), "jti": now().as_nanos().to_string()}));
    (ends, format!("{path}?access_token={token}"))
}

/// That was at this moment, give or take what a busy machine takes.
fn ended_at(ends: Duration, what: &str) {
    let now = now();
    assert!(now >= ends, "{what} ended before its credential did");
    assert!(
        now < ends + Duration::from_secs(4),
        "{what} outlived its credential"
    );
}

async fn logged(gateway: &Gateway, count: usize) {
    let log = eventually("the reasons in the log", async || {
        let log = std::fs::read_to_string(gateway.dir().join("access.log")).ok()?;
        (log.matches("auth.ended").count() == count).then_some(log)
    })
    .await;
    assert_eq!(log.matches("auth.expired").count(), count, "{log}");
    let labels = [("reason", "auth.ended")];
    gateway
        .counts("northgate_auth_refused_total", &labels, count as f64)
        .await;
    let labels = [("reason", "auth.expired")];
    gateway
        .counts("northgate_refused_total", &labels, count as f64)
        .await;
}

#[tokio::test]
async fn a_websocket_ends_with_its_token_and_its_client_is_told_why() {
    let issuer = Issuer::start().await;
    let (_server, address) = Program::server("websocket_server.py", &[]).await;
    let gateway = gateway(&address, &issuer, "h1").await;
    let (ends, target) = soon(&issuer, "/chat");
    let url = format!("ws://{}{target}", gateway.public());
    let mut client = Program::start("websocket_client.py", &[&url, "until_closed"]);
    assert_eq!(client.line().await, "open");
    assert_eq!(client.line().await, "1008");
    ended_at(ends, "the WebSocket");
    client.succeeds().await;
    logged(&gateway, 1).await;
    // and the same token opens no other
    assert_eq!(gateway.get(&target).await.problem(), "auth.expired");
}

/// An endless answer over HTTP/1.1, by how its end is said.
fn endless(fields: &str) -> Reply {
    let first = match fields.contains("chunked") {
        true => "2\r\nx\n\r\n",
        false => "x\n",
    };
    Reply::raw(format!("HTTP/1.1 200 OK\r\n{fields}\r\n{first}")).then_hang()
}

#[tokio::test]
async fn answers_that_are_still_open_are_broken_off_over_http1() {
    let issuer = Issuer::start().await;
    let app = Origin::start(|request| match request.target().split('?').next() {
        Some("/events") => {
            endless("Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n")
        }
        Some("/until_close") => endless("Content-Type: text/event-stream\r\n"),
        _ => endless("Content-Length: 1000000\r\n"),
    })
    .await;
    let gateway = gateway(&app, &issuer, "h1").await;
    for path in ["/events", "/until_close", "/long"] {
        let (ends, target) = soon(&issuer, path);
        let mut client = gateway.client().await;
        client
            .send(format!(
                "GET {target} HTTP/1.1\r\nHost: h.test\r\nAccept: text/event-stream\r\n\r\n"
            ))
            .await;
        assert_eq!(client.head().await.status(), 200);
        let rest = client.rest().await.unwrap_or_default();
        ended_at(ends, path);
        // nobody takes that for the whole
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{path}: {rest:?}");
    }
    logged(&gateway, 3).await;
    // endpoints are not blamed
    assert_eq!(
        gateway
            .metrics()
            .await
            .value("northgate_endpoint_ejected_total", &[]),
        0.0
    );
}

#[tokio::test]
async fn answers_that_are_still_open_are_reset_over_http2() {
    let issuer = Issuer::start().await;
    for (protocol, app) in [("h1", true), ("h2c", false)] {
        let first =
            Origin::start(|_| endless("Transfer-Encoding: chunked\r\nContent-Type: text/x\r\n"))
                .await;
        let second = Http2Origin::clear(|mut exchange: Exchange| async move {
            let _stream = exchange.begin(&[("content-type", "text/x")]);
            std::future::pending::<()>().await;
        })
        .await;
        let address = match app {
            true => first.address().to_owned(),
            false => second.to_string(),
        };
        let gateway = gateway(&address, &issuer, protocol).await;
        let mut client = Http2::connect(gateway.public()).await;
        let (ends, target) = soon(&issuer, "/events");
        let fields = [("accept", "text/event-stream")];
        let (response, _) = client
            .open("GET", &format!("http://h.test{target}"), &fields, true)
            .await
            .expect("a stream");
        let message = read(response).await.expect("a head");
        ended_at(ends, protocol);
        assert!(message.status() == 200 && !message.complete, "{message:?}");
        logged(&gateway, 1).await;
        // the connection goes on
        let next = client.get("http://h.test/chat").await;
        assert_eq!(next.problem(), "auth.missing");
    }
}

/// The status of a call, in its head or behind its messages.
fn grpc_status(message: &Message) -> Option<String> {
    let trailers = message.trailers.iter().chain(&message.fields);
    let mut found = trailers.filter(|(name, _)| name == "grpc-status");
    found.next().map(|(_, value)| value.clone())
}

#[tokio::test]
async fn calls_of_grpc_end_as_unauthenticated_before_and_after_their_first_message() {
    let issuer = Issuer::start().await;
    let app = Http2Origin::clear(|mut exchange: Exchange| async move {
        let begun = exchange.request.uri().path() == "/s/begun";
        let _stream = begun.then(|| exchange.begin(&[("content-type", "application/grpc")]));
        std::future::pending::<()>().await;
    })
    .await;
    let gateway = gateway(&app, &issuer, "h2c").await;
    for path in ["/s/begun", "/s/silent"] {
        let mut client = Http2::connect(gateway.public()).await;
        let (ends, target) = soon(&issuer, path);
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        // the client goes on sending
        let (response, _stream) = client
            .open("POST", &format!("http://h.test{target}"), &fields, false)
            .await
            .expect("a stream");
        let message = read(response).await.expect("a head");
        ended_at(ends, path);
        assert_eq!(
            grpc_status(&message).as_deref(),
            Some("16"),
            "{path} {message:?}"
        );
    }
    logged(&gateway, 2).await;
}

#[tokio::test]
async fn what_was_asked_for_in_time_is_answered_though_the_credential_ends_meanwhile() {
    let issuer = Issuer::start().await;
    let (head, rest) = (Gate::closed(), Gate::closed());
    let gates = (head.clone(), rest.clone());
    let app = Origin::start(move |_| {
        Reply::after(&gates.0)
            .then("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
            .then_wait(&gates.1)
            .then("def")
    })
    .await;
    let gateway = gateway(&app, &issuer, "h1").await;
    let (ends, target) = soon(&issuer, "/slow");
    let call = gateway.call(&format!("GET {target}"));
    let answer = tokio::spawn(async move { call.send().await });
    app.has_received(1).await;
    let past = async |moment: Duration| {
        eventually("the time to pass", async || (now() > moment).then_some(())).await
    };
    past(ends + Duration::from_millis(100)).await;
    head.open();
    past(ends + Duration::from_millis(400)).await;
    rest.open();
    let answer = answer.await.expect("no panic");
    assert_eq!((answer.status(), answer.text()), (200, "abcdef"));
}

#[tokio::test]
async fn streams_last_as_long_as_a_new_request_would_pass_and_where_nothing_is_said_longer() {
    let issuer = Issuer::start().await;
    let gate = Gate::closed();
    let next = gate.clone();
    let app = Origin::start(move |_| {
        Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nx\n\r\n")
            .then_wait(&next)
            .then("2\r\ny\n\r\n0\r\n\r\n")
    })
    .await;
    // the leeway is time in which the token counts
    let lenient = with_leeway(&app, &issuer, "h1", "60s").await;
    let strict = gateway(&app, &issuer, "h1").await;
    let mut streams = Vec::new();
    let mut ends = now();
    for (gateway, path) in [
        (&lenient, "/rest"),
        (&strict, "/open"),
        (&strict, "/shadow"),
    ] {
        let (end, target) = soon(&issuer, path);
        ends = end;
        let mut client = gateway.client().await;
        client
            .send(format!(
                "GET {target} HTTP/1.1\r\nHost: h.test\r\nAccept: text/event-stream\r\n\r\n"
            ))
            .await;
        assert_eq!(client.head().await.status(), 200, "{path}");
        streams.push((client, path));
    }
    eventually("the tokens to end", async || {
        (now() > ends + Duration::from_millis(300)).then_some(())
    })
    .await;
    gate.open();
    for (mut client, path) in streams {
        let all = client.exactly(7 + 7 + 5).await.expect(path);
        assert!(all.ends_with(b"0\r\n\r\n"), "{path}");
    }
}
