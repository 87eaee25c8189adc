//! How connections to endpoints are made: how long that may take, what is said at their beginning, how many there may be.

use crate::harness::{
    Client, Gate, Gateway, Http2, Http2Origin, Origin, Pki, Received, Reply, describe, eventually,
    loopback,
};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// An endpoint that accepts and then says nothing, ever.
async fn silent() -> SocketAddr {
    let listener = TcpListener::bind((loopback(), 0))
        .await
        .expect("a listener");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok(accepted) = listener.accept().await {
            kept.push(accepted);
        }
    });
    address
}

mod handshakes {
    use super::*;

    #[tokio::test]
    async fn an_endpoint_that_never_shakes_hands_is_given_up_and_another_one_asked() {
        let pki = Pki::new();
        let tls = Pki::acceptor(&pki.server(&["app.test"]), &["http/1.1"], None);
        let good = Http2Origin::secure(tls, |mut exchange| async move {
            let body = describe(&exchange.peer);
            exchange.answer(&[], &body, &[]);
        })
        .await;
        let yaml = r#"
listeners: {public: {address: "$address:8080"}}
services:
  alone:
    endpoints: "$silent"
    tls: {server_name: app.test, ca: ca.pem}
    timeouts: {connect: 20s, tls: 300ms}
    retries: off
    outlier: off
  both:
    endpoints: ["$silent", {address: "$good"}]
    balance: round_robin
    tls: {server_name: app.test, ca: ca.pem}
    timeouts: {connect: 20s, tls: 300ms}
    outlier: off
  patient:
    endpoints: "$silent"
    tls: {server_name: app.test, ca: ca.pem}
    timeouts: {connect: 100ms, tls: 20s, total: 1s}
    retries: off
    outlier: off
routes:
  alone: {match: {path: /alone}, service: alone}
  route: {match: {path: /route}, service: patient, timeouts: {tls: 300ms}}
  both: {match: {path: /both}, service: both}
  patient: {match: {path: /patient}, service: patient}
"#;
        let gateway = Gateway::builder(yaml)
            .with("silent", silent().await)
            .with("good", &good)
            .file("ca.pem", &pki.pem())
            .start()
            .await;
        for target in ["/alone", "/route"] {
            let began = Instant::now();
            let answer = gateway.get(target).await;
            let took = began.elapsed();
            assert_eq!(answer.status(), 504, "{target}");
            assert_eq!(answer.problem(), "upstream.connect_timeout", "{target}");
            assert!(took >= Duration::from_millis(300), "{target}: {took:?}");
            assert!(took < Duration::from_secs(5), "{target}: {took:?}");
        }
        // each of them is the first choice once
        for _ in 0..2 {
            let answer = gateway.get("/both").await;
            assert_eq!(answer.json()["server_name"], "app.test");
        }
        // a short bound for TCP is none for TLS
        let began = Instant::now();
        assert_eq!(gateway.get("/patient").await.status(), 504);
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(900), "{took:?}");
    }
}

mod proxy_protocol {
    use super::*;

    /// What an origin was told at the beginning of each connection.
    type Headers = Arc<Mutex<Vec<String>>>;

    /// An origin behind the PROXY protocol, in clear or then under TLS. It answers with the number of the connection.
    async fn introduced(tls: Option<TlsAcceptor>) -> (SocketAddr, Headers) {
        let listener = TcpListener::bind((loopback(), 0))
            .await
            .expect("a listener");
        let address = listener.local_addr().expect("bound");
        let headers = Headers::default();
        let kept = headers.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (kept, tls) = (kept.clone(), tls.clone());
                tokio::spawn(async move {
                    let Some(header) = header(&mut socket).await else {
                        return;
                    };
                    let number = {
                        let mut kept = kept.lock();
                        kept.push(header);
                        kept.len()
                    };
                    match tls {
                        None => serve(socket, number).await,
                        Some(tls) => {
                            let stream = tls.accept(socket).await.expect("a handshake");
                            serve(stream, number).await;
                        }
                    }
                });
            }
        });
        (address, headers)
    }

    /// The header of a connection: the line of version 1, or version 2 as `command/family source destination`.
    async fn header(socket: &mut TcpStream) -> Option<String> {
        let mut bytes = vec![0; 12];
        socket.read_exact(&mut bytes).await.ok()?;
        if bytes.starts_with(b"PROXY ") {
            while !bytes.ends_with(b"\r\n") {
                bytes.push(socket.read_u8().await.ok()?);
            }
            return Some(String::from_utf8_lossy(&bytes).trim_end().to_owned());
        }
        assert_eq!(bytes, b"\r\n\r\n\0\r\nQUIT\n");
        let command = socket.read_u8().await.ok()?;
        let family = socket.read_u8().await.ok()?;
        let length = socket.read_u16().await.ok()?;
        let mut rest = vec![0; usize::from(length)];
        socket.read_exact(&mut rest).await.ok()?;
        let ip = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
            Ok(v4) => std::net::IpAddr::from(v4),
            Err(_) => std::net::IpAddr::from(<[u8; 16]>::try_from(bytes).expect("IPv6")),
        };
        let text = match rest.split_at_checked(rest.len().saturating_sub(4)) {
            Some((ips, ports)) if !ips.is_empty() => {
                let (from, to) = ips.split_at(ips.len() / 2);
                let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
                let (from, to) = (ip(from), ip(to));
                format!(" {from} {to} {} {}", port(0), port(2))
            }
            _ => String::new(),
        };
        Some(format!("{command:02x}/{family:02x}{text}"))
    }

    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, number: usize) {
        let mut head = Vec::new();
        while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                let body = number.to_string();
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }

    const GATEWAY: &str = r#"
listeners: {public: {address: "$address:8080", trusted_proxies: ["$trusted"]}}
services:
  one: {endpoints: "$one", proxy_protocol: v1}
  two: {endpoints: "$two", proxy_protocol: v2}
  secure: {endpoints: "$secure", proxy_protocol: v2, tls: {server_name: app.test, ca: ca.pem}}
routes:
  one: {match: {path: /one}, service: one}
  two: {match: {path: /two}, service: two}
  secure: {match: {path: /secure}, service: secure}
"#;

    #[tokio::test]
    async fn an_endpoint_is_told_of_the_client_before_everything_else() {
        let pki = Pki::new();
        let tls = Pki::acceptor(&pki.server(&["app.test"]), &["http/1.1"], None);
        let (one, ones) = introduced(None).await;
        let (two, twos) = introduced(None).await;
        let (secure, secures) = introduced(Some(TlsAcceptor::from(tls))).await;
        let proxy = SocketAddr::from((loopback(), 0));
        let gateway = Gateway::builder(GATEWAY)
            .with("one", one)
            .with("two", two)
            .with("secure", secure)
            .with("trusted", proxy.ip())
            .file("ca.pem", &pki.pem())
            .start()
            .await;
        let public = gateway.public();
        let (me, port) = (SocketAddr::from((loopback(), 40_001)), 40_001);
        let mut client = Client::connect_from(me, public).await;
        for (target, headers, expected) in [
            ("/one", &ones, "PROXY TCP4"),
            ("/two", &twos, "21/11"),
            ("/secure", &secures, "21/11"),
        ] {
            // one connection of a client uses one of its own again
            for _ in 0..3 {
                assert_eq!(client.get("h.test", target).await.text(), "1", "{target}");
            }
            let (from, to) = (me.ip(), public.ip());
            let expected = format!("{expected} {from} {to} {port} 8080");
            assert_eq!(*headers.lock(), [expected]);
        }
        // whom a trusted proxy has told of, whatever the family
        for (target, headers, expected) in [("/one", &ones, "PROXY TCP6"), ("/two", &twos, "21/21")]
        {
            let mut proxied = Client::connect_from(proxy, public).await;
            for (client, connection) in [("::6", "2"), ("::7", "3"), ("::7", "3")] {
                let head = format!(
                    "GET {target} HTTP/1.1\r\nHost: h.test\r\nX-Forwarded-For: 2001:db8{client}\r\n\r\n"
                );
                proxied.send(head).await;
                let answer = proxied.response("GET").await;
                assert_eq!(answer.text(), connection, "{target} of {client}");
            }
            let to = format!("::ffff:{}", public.ip());
            let expected = format!("{expected} 2001:db8::7 {to} 0 8080");
            assert_eq!(headers.lock().last(), Some(&expected));
        }
    }

    #[tokio::test]
    async fn tunnels_and_copies_tell_of_the_client_too() {
        let (app, told) = introduced(None).await;
        let (shadow, told_of_copies) = introduced(None).await;
        let yaml = r#"
services:
  app: {endpoints: "$app", proxy_protocol: v1}
  shadow: {endpoints: "$shadow", proxy_protocol: v1}
routes:
  chat: {match: {path: /chat}, service: app, websocket: on}
  copied: {match: {path: /copied}, service: app, policies: {mirror: {service: shadow}}}
"#;
        let builder = Gateway::builder(yaml).with("app", app);
        let gateway = builder.with("shadow", shadow).start().await;
        let public = gateway.public();
        let (me, to) = (loopback(), public.ip());
        let introduction = |port: u16| format!("PROXY TCP4 {me} {to} {port} 8080");
        let from = |port: u16| SocketAddr::from((me, port));
        let mut chat = Client::connect_from(from(40_002), public).await;
        let upgrade = "GET /chat HTTP/1.1\r\nHost: h.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        chat.send(upgrade).await;
        chat.head().await;
        assert_eq!(*told.lock(), [introduction(40_002)]);
        for port in [40_003, 40_004] {
            let mut client = Client::connect_from(from(port), public).await;
            assert_eq!(client.get("h.test", "/copied").await.status(), 200);
            let expected = introduction(port);
            eventually("the copy", async || {
                (told_of_copies.lock().last() == Some(&expected)).then_some(())
            })
            .await;
        }
    }

    #[tokio::test]
    async fn clients_never_share_a_connection_that_tells_of_one_of_them() {
        let (app, headers) = introduced(None).await;
        let yaml = r#"
listeners: {public: {address: "$address:8080"}}
services: {app: {endpoints: "$app", proxy_protocol: v2}}
routes: {app: {match: {path: /**}, service: app}}
"#;
        let gateway = Gateway::before(&app, yaml).await;
        let mut clients = Vec::new();
        for _ in 0..4 {
            let from = SocketAddr::from((loopback(), 0));
            clients.push(Client::connect_from(from, gateway.public()).await);
        }
        for round in 0..3 {
            for (number, client) in (1..).zip(&mut clients) {
                let answer = client.get("h.test", "/").await;
                assert_eq!(answer.text(), number.to_string(), "round {round}");
            }
        }
        assert_eq!(headers.lock().len(), 4);
    }

    #[tokio::test]
    async fn health_checks_and_clients_without_an_address_are_the_gateways_own() {
        let (app, headers) = introduced(None).await;
        let yaml = r#"
listeners:
  public: {address: "$address:8080"}
  local: {address: "unix:$dir/public.sock"}
services:
  app: {endpoints: "$app", proxy_protocol: v2, health_check: {path: /healthz, interval: 100ms}}
routes: {app: {match: {path: /**}, service: app}}
"#;
        let builder = Gateway::builder(yaml).with("app", app);
        let socket = builder.dir().join("public.sock");
        let dir = builder.dir().display().to_string();
        let gateway = builder.with("dir", dir).start().await;
        eventually("checks", async || (headers.lock().len() >= 2).then_some(())).await;
        let mut client = Client::connect_unix(&socket).await.expect("a connection");
        assert_eq!(client.get("h.test", "/").await.status(), 200);
        assert!(headers.lock().iter().all(|header| header == "20/00"));
        drop(gateway);
    }
}

mod queues {
    use super::*;

    const PENDING: &str = "northgate_service_pending";
    const APP: [(&str, &str); 1] = [("service", "app")];

    async fn before(origin: &Origin, limits: &str, connect: &str) -> Gateway {
        let yaml = r#"
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
services:
  app: {endpoints: $app, limits: {$limits}, timeouts: {connect: $connect}}
routes: {all: {match: {path: /**}, service: app}}
"#;
        let builder = Gateway::builder(yaml).with("app", origin);
        let builder = builder.with("limits", limits).with("connect", connect);
        builder.start().await
    }

    #[tokio::test]
    async fn requests_wait_for_a_place_in_their_order_and_no_more_of_them_than_may() {
        for limits in [
            "in_flight: 1",
            "in_flight_per_endpoint: 1",
            "in_flight: 1, in_flight_per_endpoint: 1",
        ] {
            let gate = Gate::closed();
            let closed = gate.clone();
            let script = move |_: &Received| Reply::after(&closed).then_reply(Reply::ok("done"));
            let origin = Origin::start(script).await;
            let gateway = before(&origin, &format!("{limits}, pending: 3"), "60s").await;
            let mut calls = Vec::new();
            for number in 0..4 {
                let call = gateway.call(&format!("GET /{number}"));
                calls.push(tokio::spawn(async move { call.send().await.status() }));
                origin.has_received(1).await;
                gateway.counts(PENDING, &APP, f64::from(number)).await;
            }
            let beyond = gateway.get("/beyond").await;
            assert_eq!(beyond.status(), 503, "{limits}");
            assert_eq!(beyond.problem(), "upstream.overloaded", "{limits}");
            let status = gateway.admin("GET /v1/services/app").send().await;
            assert_eq!(status.json()["pending"], 3, "{limits}");
            gate.open();
            for call in calls {
                assert_eq!(call.await.expect("an answer"), 200, "{limits}");
            }
            let received = origin.received();
            let targets: Vec<&str> = received.iter().map(|request| request.target()).collect();
            assert_eq!(targets, ["/0", "/1", "/2", "/3"], "{limits}");
            gateway.counts(PENDING, &APP, 0.0).await;
            // nothing of it stays: the next one goes at once
            assert_eq!(gateway.get("/4").await.status(), 200, "{limits}");
        }
    }

    #[tokio::test]
    async fn a_request_waits_as_long_as_for_a_connection_and_leaves_no_trace() {
        let origin = Origin::start(|_| Reply::hang()).await;
        let limits = "in_flight: 1, pending: 1";
        let gateway = before(&origin, limits, "300ms").await;
        let mut first = gateway.client().await;
        first.send("GET / HTTP/1.1\r\nHost: h.test\r\n\r\n").await;
        origin.has_received(1).await;
        for _ in 0..2 {
            let began = Instant::now();
            let answer = gateway.get("/").await;
            assert_eq!(answer.problem(), "upstream.overloaded");
            assert!(began.elapsed() >= Duration::from_millis(300));
            gateway.counts(PENDING, &APP, 0.0).await;
        }
        assert_eq!(origin.received().len(), 1);
    }

    #[tokio::test]
    async fn a_client_that_leaves_makes_room_in_the_queue_at_once() {
        let origin = Origin::start(|_| Reply::hang()).await;
        let gateway = before(&origin, "in_flight: 1, pending: 1", "60s").await;
        let mut first = gateway.client().await;
        let request = "GET / HTTP/1.1\r\nHost: h.test\r\n\r\n";
        first.send(request).await;
        origin.has_received(1).await;
        let mut waiting = gateway.client().await;
        waiting.send(request).await;
        gateway.counts(PENDING, &APP, 1.0).await;
        drop(waiting);
        gateway.counts(PENDING, &APP, 0.0).await;
        let mut streams = Http2::connect(gateway.public()).await;
        let opened = streams.open("GET", "http://h.test/", &[], true).await;
        let (_, mut stream) = opened.expect("a stream");
        gateway.counts(PENDING, &APP, 1.0).await;
        stream.send_reset(h2::Reason::CANCEL);
        gateway.counts(PENDING, &APP, 0.0).await;
        // and what comes next on a connection is not taken for somebody who leaves
        let mut waiting = gateway.client().await;
        waiting.send(request.repeat(2)).await;
        gateway.counts(PENDING, &APP, 1.0).await;
        drop(first);
        origin.has_received(2).await;
    }

    /// Each of many gets its place, though only two may be at work: no wake-up is lost on the way.
    #[tokio::test]
    async fn everybody_who_waits_is_served_under_load() {
        let origin = Origin::echo().await;
        let limits = "in_flight: 2, in_flight_per_endpoint: 2, pending: 100";
        let gateway = before(&origin, limits, "60s").await;
        let mut calls = Vec::new();
        for _ in 0..60 {
            let mut client = gateway.client().await;
            calls.push(tokio::spawn(async move {
                for _ in 0..20 {
                    assert_eq!(client.get("h.test", "/").await.status(), 200);
                }
            }));
        }
        for call in calls {
            call.await.expect("answers");
        }
    }
}
