//! What is spoken with endpoints: TLS and whom it trusts, HTTP/2, gRPC, WebSockets, streams.

use crate::harness::{
    Call, Dns, Ending, Exchange, Gate, Gateway, Http2, Http2Origin, Message, Origin, Pki, Program,
    Record, Reply, describe, eventually, run,
};
use bytes::Bytes;
use nix::sys::signal::Signal;
use std::fmt::Display;
use std::time::{Duration, Instant};

/// Routes by the first segment, each to a service of that name with these settings.
fn services(services: &[(&str, &str)]) -> String {
    let mut yaml = r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
"#
    .to_owned();
    yaml.push_str("services:\n");
    for (name, settings) in services {
        yaml.push_str(&format!("  {name}: {{endpoints: \"$app\", {settings}}}\n"));
    }
    yaml.push_str("routes:\n");
    for (name, _) in services {
        yaml.push_str(&format!(
            "  {name}: {{match: {{path: /{name}/**}}, service: {name}}}\n"
        ));
    }
    yaml
}

/// A call on its way.
fn called(call: Call) -> tokio::task::JoinHandle<Message> {
    tokio::spawn(async move { call.send().await })
}

async fn told(mut exchange: Exchange) {
    let body = describe(&exchange.peer);
    exchange.answer(&[], &body, &[]);
}

/// A gateway that finds these texts as files in its folder.
async fn with_files(app: &impl Display, yaml: &str, files: &[(&str, &str)]) -> Gateway {
    let mut builder = Gateway::builder(yaml).with("app", app);
    for (name, text) in files {
        builder = builder.file(name, text);
    }
    builder.start().await
}

mod tls {
    use super::*;

    #[tokio::test]
    async fn an_endpoint_is_asked_for_by_name_and_verified_against_its_authority() {
        let (pki, stranger) = (Pki::new(), Pki::new());
        let tls = Pki::acceptor(&pki.server(&["app.test"]), &["h2", "http/1.1"], None);
        let origin = Http2Origin::secure(tls, told).await;
        let yaml = services(&[
            ("good", "tls: {server_name: app.test, ca: ca.pem}"),
            ("host", "tls: {ca: ca.pem}, host_header: 'app.test:8443'"),
            ("name", "tls: {server_name: other.test, ca: ca.pem}"),
            ("stranger", "tls: {server_name: app.test, ca: stranger.pem}"),
            ("system", "tls: {server_name: app.test}"),
            ("clear", "protocol: h1"),
        ]);
        let files = [("ca.pem", &*pki.pem()), ("stranger.pem", &*stranger.pem())];
        let gateway = with_files(&origin, &yaml, &files).await;
        for target in ["/good/", "/host/"] {
            let answer = gateway.get(target).await;
            assert_eq!(answer.json()["server_name"], "app.test", "{target}");
        }
        for target in ["/name/", "/stranger/", "/system/"] {
            let answer = gateway.get(target).await;
            assert_eq!(answer.problem(), "upstream.connect", "{target}");
        }
        assert_eq!(gateway.get("/clear/").await.status(), 502);
    }

    /// Pingora's pool knows addresses, names and serial numbers of client certificates, and neither authorities nor
    /// protocols: without a key of our own the second service would be given the first one's connection.
    #[tokio::test]
    async fn services_of_different_trust_never_share_a_connection() {
        let (pki, stranger) = (Pki::new(), Pki::new());
        for protocols in [&["h2"][..], &["http/1.1"]] {
            let tls = Pki::acceptor(&pki.server(&["app.test"]), protocols, None);
            let origin = Http2Origin::secure(tls, told).await;
            let yaml = services(&[
                ("good", "tls: {server_name: app.test, ca: ca.pem}"),
                ("same", "tls: {server_name: app.test, ca: ca.pem}"),
                ("stranger", "tls: {server_name: app.test, ca: stranger.pem}"),
            ]);
            let files = [("ca.pem", &*pki.pem()), ("stranger.pem", &*stranger.pem())];
            let yaml = format!("threads: 1\n{yaml}");
            let gateway = with_files(&origin, &yaml, &files).await;
            let connection =
                async |target: &str| gateway.get(target).await.json()["connection"].clone();
            let first = connection("/good/").await;
            // it may be back in the pool a moment after its answer
            eventually("the connection to be used again", async || {
                let before = origin.connections();
                connection("/good/").await;
                (origin.connections() == before).then_some(())
            })
            .await;
            for _ in 0..3 {
                assert_eq!(
                    gateway.get("/stranger/").await.problem(),
                    "upstream.connect"
                );
                assert_eq!(gateway.get("/good/").await.status(), 200);
            }
            assert_ne!(connection("/same/").await, first);
        }
    }

    #[tokio::test]
    async fn the_gateway_shows_its_certificate_and_takes_another_at_a_reload() {
        let (pki, clients, others) = (Pki::new(), Pki::new(), Pki::new());
        let tls = Pki::acceptor(&pki.server(&["app.test"]), &["http/1.1"], Some(&clients));
        let origin = Http2Origin::secure(tls, told).await;
        let yaml = services(&[
            (
                "with",
                "tls: {server_name: app.test, ca: ca.pem, client: {cert: me.pem, key: me.key}}",
            ),
            ("without", "tls: {server_name: app.test, ca: ca.pem}"),
        ]);
        let (me, wrong) = (clients.server(&["gateway"]), others.server(&["gateway"]));
        let files = [
            ("ca.pem", &*pki.pem()),
            ("me.pem", &wrong.certificate),
            ("me.key", &wrong.key),
        ];
        let gateway = with_files(&origin, &yaml, &files).await;
        assert_eq!(gateway.get("/with/").await.status(), 502);
        assert_eq!(gateway.get("/without/").await.status(), 502);
        me.write(gateway.dir(), "me");
        gateway.reload_to(&yaml).await;
        assert_eq!(gateway.get("/with/").await.json()["certified"], true);
        assert_eq!(gateway.get("/without/").await.status(), 502);
        let expiry = "northgate_certificate_expiry_timestamp_seconds";
        let metrics = gateway.metrics().await;
        let of = |name: &str| metrics.value(expiry, &[("certificate", name)]);
        let now = std::time::SystemTime::now();
        let now = now
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970");
        assert!(of("service/with") > now.as_secs_f64());
        assert_eq!(of("service/without"), 0.0);
    }

    #[tokio::test]
    async fn an_endpoint_with_a_name_is_verified_against_that_name() {
        let pki = Pki::new();
        let dns = Dns::start().await;
        let mut names = vec![("$dns", dns.address().to_string())];
        let mut origins = Vec::new();
        for (place, certificate) in [("$good", "good.app.test"), ("$wrong", "other.test")] {
            let tls = Pki::acceptor(&pki.server(&[certificate]), &["h2", "http/1.1"], None);
            let origin = Http2Origin::secure(tls, told).await;
            let address: std::net::SocketAddr = origin.to_string().parse().expect("an address");
            let std::net::IpAddr::V4(ip) = address.ip() else {
                panic!("IPv4")
            };
            let name = &place[1..];
            dns.set(&format!("{name}.app.test"), 60, vec![Record::A(ip)]);
            names.push((place, format!("{name}.app.test:{}", address.port())));
            origins.push(origin);
        }
        let tls = "tls: {ca: ca.pem}, discovery: {allow: 127.0.0.0/8}";
        let yaml = format!(
            r#"
resolver: {{servers: "$dns", timeout: 1s}}
services:
  good: {{endpoints: "$good", {tls}}}
  upper: {{endpoints: ["GOOD.$good"], {tls}}}
  wrong: {{endpoints: "$wrong", {tls}}}
routes:
  good: {{match: {{path: /good}}, service: good}}
  upper: {{match: {{path: /upper}}, service: upper}}
  wrong: {{match: {{path: /wrong}}, service: wrong}}
"#
        );
        let yaml = yaml.replace("GOOD.$good", &names[1].1.to_uppercase());
        let yaml = names
            .iter()
            .fold(yaml, |yaml, (place, value)| yaml.replace(place, value));
        let gateway = with_files(&"-", &yaml, &[("ca.pem", &*pki.pem())]).await;
        for target in ["/good", "/upper"] {
            let answer = gateway.get(target).await;
            assert_eq!(answer.json()["server_name"], "good.app.test", "{target}");
        }
        assert_eq!(gateway.get("/wrong").await.problem(), "upstream.connect");
    }

    #[tokio::test]
    async fn an_authority_that_a_reload_replaces_vouches_for_nobody_more() {
        let (pki, stranger) = (Pki::new(), Pki::new());
        let tls = Pki::acceptor(&pki.server(&["app.test"]), &["http/1.1"], None);
        let origin = Http2Origin::secure(tls, told).await;
        let old = Pki::acceptor(&pki.expired("app.test"), &["http/1.1"], None);
        let expired = Http2Origin::secure(old, told).await;
        let yaml = services(&[("app", "tls: {server_name: app.test, ca: ca.pem}")]);
        let yaml = format!("threads: 1\n{yaml}");
        let gateway = with_files(&origin, &yaml, &[("ca.pem", &*pki.pem())]).await;
        assert_eq!(gateway.get("/app/").await.status(), 200);
        // connections that the former authority vouched for wait in the pool, and are not taken
        std::fs::write(gateway.dir().join("ca.pem"), stranger.pem()).expect("a file");
        gateway.reload_to(&yaml).await;
        for _ in 0..3 {
            assert_eq!(gateway.get("/app/").await.problem(), "upstream.connect");
        }
        std::fs::write(gateway.dir().join("ca.pem"), pki.pem()).expect("a file");
        gateway.reload_to(&yaml).await;
        assert_eq!(gateway.get("/app/").await.status(), 200);
        let late = with_files(&expired, &yaml, &[("ca.pem", &*pki.pem())]).await;
        assert_eq!(late.get("/app/").await.problem(), "upstream.connect");
    }

    #[tokio::test]
    async fn whoever_answers_is_believed_only_where_that_is_spelled_out() {
        let tls = Pki::acceptor(&Pki::new().server(&["other.test"]), &["h2"], None);
        let origin = Http2Origin::secure(tls, told).await;
        let yaml = services(&[
            ("off", "tls: {verify: off}"),
            ("on", "tls: {server_name: other.test, verify: on}"),
        ]);
        let gateway = Gateway::before(&origin, &yaml).await;
        let answer = gateway.get("/off/").await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        let answer = answer.json();
        assert!(answer["server_name"].is_null(), "{answer}");
        assert_eq!(answer["protocol"], "h2");
        assert_eq!(gateway.get("/on/").await.status(), 502);
        let output = gateway.command(&["check"]).await;
        assert!(
            output
                .stderr
                .contains("whoever answers for service `off` is believed"),
            "{output:?}"
        );
    }
}

mod versions {
    use super::*;

    #[tokio::test]
    async fn the_endpoint_chooses_where_nothing_else_is_written() {
        let pki = Pki::new();
        let identity = pki.server(&["app.test"]);
        for (offered, auto, h1, h2) in [
            (&["h2", "http/1.1"][..], "h2", "h1", "h2"),
            (&["http/1.1"], "h1", "h1", "upstream.connect"),
            (&["h2"], "h2", "upstream.connect", "h2"),
            (&[], "h1", "h1", "upstream.protocol"),
        ] {
            let tls = Pki::acceptor(&identity, offered, None);
            let origin = Http2Origin::secure(tls, told).await;
            let settings = |protocol: &str| {
                format!("tls: {{server_name: app.test, ca: ca.pem}}, protocol: {protocol}")
            };
            let (a, b, c) = (settings("auto"), settings("h1"), settings("h2"));
            let yaml = services(&[("auto", &a), ("h1", &b), ("h2", &c)]);
            let gateway = with_files(&origin, &yaml, &[("ca.pem", &*pki.pem())]).await;
            for (target, expected) in [("/auto/", auto), ("/h1/", h1), ("/h2/", h2)] {
                let answer = gateway.get(target).await;
                let found = match answer.status() {
                    200 => answer.json()["protocol"].clone(),
                    _ => answer.problem().into(),
                };
                assert_eq!(found, expected, "{target} of {offered:?}");
            }
        }
    }

    #[tokio::test]
    async fn streams_share_a_connection_in_clear_too() {
        let gate = Gate::closed();
        let all_there = gate.clone();
        let origin = Http2Origin::clear(move |mut exchange| {
            let gate = gate.clone();
            async move {
                if exchange.request.uri().path() != "/app/first" {
                    gate.passed().await;
                }
                let body = describe(&exchange.peer);
                exchange.answer(&[], &body, &[]);
            }
        })
        .await;
        let yaml = services(&[("app", "protocol: h2c")]);
        let gateway = Gateway::before(&origin, &format!("threads: 1\n{yaml}")).await;
        // those that come while there is no connection yet make one each
        assert_eq!(gateway.get("/app/first").await.status(), 200);
        let calls = (0..20).map(|_| called(gateway.call("GET /app/")));
        let calls: Vec<_> = calls.collect();
        eventually("a connection", async || {
            (origin.connections() > 0).then_some(())
        })
        .await;
        all_there.open();
        for call in calls {
            assert_eq!(call.await.expect("no panic").json()["protocol"], "h2c");
        }
        assert!(origin.connections() < 5, "{}", origin.connections());
    }

    /// A deadline of an HTTP/1 exchange shuts its connection down. Over HTTP/2 that would end its neighbours too.
    #[tokio::test]
    async fn a_deadline_ends_one_stream_and_not_its_neighbours() {
        let origin = Http2Origin::clear(|mut exchange| async move {
            match exchange.request.uri().path() {
                "/app/hang" => std::future::pending().await,
                "/app/slow" => {
                    let mut body = exchange.begin(&[]);
                    for _ in 0..20 {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        body.send_data(Bytes::from_static(b"x"), false)
                            .expect("data");
                    }
                    body.send_data(Bytes::new(), true).expect("data");
                }
                _ => exchange.answer(&[], "at once", &[]),
            }
        })
        .await;
        let settings = "protocol: h2c, timeouts: {response_header: 500ms, total: 5s, idle: 20s}";
        let yaml = services(&[("app", settings)]);
        let gateway = Gateway::before(&origin, &format!("threads: 1\n{yaml}")).await;
        assert_eq!(gateway.get("/app/").await.text(), "at once");
        let slow = called(gateway.call("GET /app/slow"));
        let mut h2 = Http2::connect(gateway.public()).await;
        let began = Instant::now();
        let hangs = h2.get("http://h.test/app/hang").await;
        assert_eq!(hangs.problem(), "upstream.timeout");
        let hangs = gateway.get("/app/hang").await;
        assert_eq!(hangs.problem(), "upstream.timeout");
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
        let slow = slow.await.expect("no panic");
        assert!(slow.complete && slow.body.len() == 20, "{slow:?}");
        // whoever comes after a deadline takes another connection, since the first one may be dead
        assert!(origin.connections() <= 3, "{}", origin.connections());
        assert_eq!(h2.get("http://h.test/app/").await.text(), "at once");
    }

    #[tokio::test]
    async fn bodies_and_trailers_pass_over_http2_in_both_directions() {
        let origin = Http2Origin::clear(|mut exchange| async move {
            let te = exchange.request.headers().get("te").cloned();
            let body = exchange.body().await;
            let te = te
                .as_ref()
                .and_then(|te| te.to_str().ok())
                .unwrap_or("-")
                .to_owned();
            exchange.answer(
                &[("x-te", &te)],
                &String::from_utf8_lossy(&body),
                &[("x-sum", "7")],
            );
        })
        .await;
        let gateway = Gateway::before(&origin, &services(&[("app", "protocol: h2c")])).await;
        let mut h2 = Http2::connect(gateway.public()).await;
        let body = "0123456789abcdef".repeat(64 * 1024);
        let answer = h2
            .call(
                "POST",
                "http://h.test/app/",
                &[("te", "trailers")],
                body.as_bytes(),
                Ending::EmptyData,
            )
            .await
            .expect("an answer");
        assert_eq!(answer.header("x-te"), Some("trailers"));
        assert!(answer.complete && answer.body == body.as_bytes());
        assert_eq!(answer.trailers, [("x-sum".to_owned(), "7".to_owned())]);
        let answer = gateway.call("POST /app/").body(&body).send().await;
        assert_eq!(answer.header("x-te"), Some("-"));
        assert!(answer.complete && answer.body == body.as_bytes());
    }
}

mod grpc {
    use super::*;

    const ROUTES: &str = r#"
listeners:
  public: {address: "$address:8080", protocols: [h2c]}
services: {app: {endpoints: "$app", protocol: h2c, timeouts: {total: 2s}}}
policies: {ip_filter: {deny: 192.0.2.0/24}}
routes:
  echo: {match: {path: /test.Echo/**}, service: app}
  slow: {match: {path: /test.Slow/**}, service: app, rewrite: {path: /test.Echo/Unary}}
  denied: {match: {path: /test.Denied/**}, service: app, policies: {ip_filter: {deny: 127.0.0.0/8}}}
  gone: {match: {path: /test.Gone/**}, service: ["$gone"]}
  large: {match: {path: /test.Large/**}, service: app}
"#;

    async fn before_server(yaml: &str) -> (Gateway, Program) {
        let (server, address) = Program::server("grpc_server.py", &[]).await;
        let gone = std::net::TcpListener::bind((crate::harness::loopback(), 0)).expect("a port");
        let gone = gone.local_addr().expect("an address");
        let gateway = Gateway::builder(yaml)
            .with("app", address)
            .with("gone", gone)
            .start()
            .await;
        (gateway, server)
    }

    async fn client(gateway: &Gateway, scenario: &[&str]) {
        let target = gateway.public().to_string();
        let arguments: Vec<&str> = [target.as_str()].iter().chain(scenario).copied().collect();
        run("grpc_client.py", &arguments).await;
    }

    #[tokio::test]
    async fn all_kinds_of_calls_pass_between_a_client_and_a_server_of_another_make() {
        let (gateway, _server) = before_server(ROUTES).await;
        client(&gateway, &["all_kinds"]).await;
        client(&gateway, &["conversation"]).await;
        for (status, count) in [("0", 5.0), ("9", 1.0), ("12", 1.0)] {
            let labels = [("route", "echo"), ("grpc_status", status)];
            gateway
                .counts("northgate_grpc_responses_total", &labels, count)
                .await;
        }
    }

    #[tokio::test]
    async fn calls_pass_under_tls_too() {
        let pki = Pki::new();
        let dir = tempfile::tempdir().expect("a folder");
        let (certificate, key) = pki.server(&["grpc.test"]).write(dir.path(), "grpc");
        let files = [certificate, key].map(|path| path.display().to_string());
        let (_server, address) = Program::server("grpc_server.py", &[&files[0], &files[1]]).await;
        for protocol in ["auto", "h2"] {
            let settings =
                format!("tls: {{server_name: grpc.test, ca: ca.pem}}, protocol: {protocol}");
            let yaml = services(&[("test.Echo", &settings)]).replace("test.Echo:", "'test.Echo':");
            let yaml = yaml
                .replace("'test.Echo'", "app")
                .replace("service: test.Echo", "service: app");
            let gateway = with_files(&address, &yaml, &[("ca.pem", &*pki.pem())]).await;
            client(&gateway, &["all_kinds"]).await;
        }
    }

    #[tokio::test]
    async fn our_own_refusals_are_statuses_of_grpc() {
        let (gateway, _server) = before_server(ROUTES).await;
        let expected = [
            "/test.None/Unary=UNIMPLEMENTED",
            "/test.Denied/Unary=PERMISSION_DENIED",
            "/test.Gone/Unary=UNAVAILABLE",
            "/test.Large/Unary=RESOURCE_EXHAUSTED",
            "/test.Slow/Unary=DEADLINE_EXCEEDED",
        ];
        let scenario: Vec<&str> = ["refused"].into_iter().chain(expected).collect();
        client(&gateway, &scenario).await;
        // trailers-only: the head is the end
        let mut h2 = Http2::connect(gateway.public()).await;
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        let (answer, _body) = h2
            .open("POST", "http://h.test/test.None/Unary", &fields, false)
            .await
            .expect("a stream");
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["grpc-status"], "12");
        assert!(answer.body().is_end_stream());
        let metrics = gateway
            .counts("northgate_refused_total", &[("reason", "route.none")], 2.0)
            .await;
        let labels = [("route", "_none"), ("grpc_status", "12")];
        assert!(metrics.value("northgate_grpc_responses_total", &labels) >= 2.0);
    }

    /// Nobody reads an answer while a write of the request is blocked, in Pingora: what is echoed has to fit into the
    /// windows.
    #[tokio::test]
    async fn a_stream_of_16_mib_that_is_echoed_does_not_stall() {
        let (gateway, _server) = before_server(ROUTES).await;
        client(&gateway, &["bidi_16_mib"]).await;
    }

    #[tokio::test]
    async fn a_stream_that_stalls_ends_with_a_status() {
        // takes nothing, after it has begun to answer
        let origin = Http2Origin::clear(|mut exchange| async move {
            let _body = exchange.begin(&[("content-type", "application/grpc")]);
            std::future::pending().await
        })
        .await;
        let settings = "protocol: h2c, body_limit: off, timeouts: {response_header: 1s, idle: 1s}";
        let gateway = Gateway::before(&origin, &services(&[("app", settings)])).await;
        let mut h2 = Http2::connect(gateway.public()).await;
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        let (answer, mut body) = h2
            .open("POST", "http://h.test/app/x", &fields, false)
            .await
            .expect("a stream");
        body.reserve_capacity(64 << 20);
        body.send_data(Bytes::from(vec![0; 16 << 20]), false)
            .expect("data");
        let began = Instant::now();
        let answer = tokio::time::timeout(Duration::from_secs(20), crate::harness::read(answer));
        let answer = answer.await.expect("an end").expect("an answer");
        assert_eq!(answer.status(), 200);
        let status = answer
            .trailers
            .iter()
            .find(|(name, _)| name == "grpc-status");
        assert_eq!(status.map(|(_, value)| &**value), Some("4"), "{answer:?}");
        assert!(began.elapsed() > Duration::from_millis(900));
    }

    #[tokio::test]
    async fn the_limit_is_one_of_messages_and_not_of_the_stream() {
        let origin = Http2Origin::clear(|mut exchange| async move {
            let length = exchange.body().await.len().to_string();
            let fields = [("content-type", "application/grpc"), ("x-length", &*length)];
            exchange.answer(&fields, "", &[("grpc-status", "0")]);
        })
        .await;
        let yaml = services(&[
            ("app", "protocol: h2c"),
            ("own", "protocol: h2c, body_limit: 10KiB"),
        ]);
        let gateway = Gateway::before(&origin, &yaml).await;
        let message = |length: u32| {
            let mut bytes = vec![0];
            bytes.extend(length.to_be_bytes());
            bytes.resize(5 + length as usize, 7);
            bytes
        };
        let mut h2 = Http2::connect(gateway.public()).await;
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        for (target, messages, length, status) in [
            ("/app/x", 12, 1 << 20, "0"),
            ("/app/x", 1, (4 << 20) + 1, "8"),
            ("/own/x", 20, 10 << 10, "0"),
            ("/own/x", 1, (10 << 10) + 1, "8"),
        ] {
            let body = message(length).repeat(messages);
            let url = format!("http://h.test{target}");
            let answer = h2
                .call("POST", &url, &fields, &body, Ending::EmptyData)
                .await;
            let answer = answer.expect("an answer");
            let all = answer.trailers.iter().chain(&answer.fields);
            let found = all
                .filter(|(name, _)| name == "grpc-status")
                .map(|(_, value)| &**value);
            assert_eq!(
                found.collect::<Vec<_>>(),
                [status],
                "{target} {messages} of {length}"
            );
        }
    }
}

mod websocket {
    use super::*;

    const ROUTES: &str = r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
services: {app: {endpoints: "$app", timeouts: {response_header: 5s, idle: 5s}}}
groups:
  chats:
    websocket: on
    routes:
      chat: {match: {path: /chat/**}, service: app}
      closed: {match: {path: /closed/**}, service: app, websocket: off}
routes:
  pages: {match: {path: /pages/**}, service: app, websocket: {origins: ["https://app.test", "https://*.app.test"]}}
  idle: {match: {path: /idle/**}, service: app, websocket: {idle: 1s}}
  old: {match: {path: /old/**}, service: app, websocket: {max_age: 1s, idle: off}}
  none: {match: {path: /none/**}, service: app}
  short: {match: {path: /short/**}, service: app, websocket: {message: 1KiB}}
"#;

    async fn before_server() -> (Gateway, Program) {
        let (server, address) = Program::server("websocket_server.py", &[]).await;
        (Gateway::before(&address, ROUTES).await, server)
    }

    fn url(gateway: &Gateway, path: &str) -> String {
        format!("ws://{}{path}", gateway.public())
    }

    #[tokio::test]
    async fn messages_of_all_sizes_pass_between_a_client_and_a_server_of_another_make() {
        let (gateway, _server) = before_server().await;
        let chat = url(&gateway, "/chat");
        for scenario in ["talk", "many", "closed_by_server"] {
            run("websocket_client.py", &[&chat, scenario]).await;
        }
        let labels = [
            ("route", "chats.chat"),
            ("method", "GET"),
            ("status", "101"),
        ];
        gateway
            .counts("northgate_requests_total", &labels, 32.0)
            .await;
    }

    /// The edge bounds the silence in a request's content to 30 s.
    #[tokio::test]
    async fn a_client_may_be_silent_for_longer_than_in_a_request() {
        let (gateway, _server) = before_server().await;
        run(
            "websocket_client.py",
            &[&url(&gateway, "/chat"), "patient", "32"],
        )
        .await;
    }

    #[tokio::test]
    async fn pages_of_other_origins_open_none() {
        let (gateway, _server) = before_server().await;
        let own = format!("http://{}", gateway.public());
        for (path, origin, status) in [
            ("/chat", Some(&*own), "101"),
            ("/chat", None, "101"),
            ("/chat", Some("https://evil.test"), "403"),
            ("/chat", Some("null"), "403"),
            ("/pages/x", Some("https://app.test"), "101"),
            ("/pages/x", Some("https://a.app.test"), "101"),
            ("/pages/x", Some(&*own), "403"),
            ("/pages/x", Some("https://evil-app.test"), "403"),
        ] {
            let url = url(&gateway, path);
            let arguments: Vec<&str> = [&*url, "status", status]
                .into_iter()
                .chain(origin)
                .collect();
            run("websocket_client.py", &arguments).await;
        }
        let labels = [("reason", "websocket.origin")];
        gateway
            .counts("northgate_refused_total", &labels, 4.0)
            .await;
    }

    const HANDSHAKE: &str = "Host: h.test\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    #[tokio::test]
    async fn nothing_else_changes_the_protocol() {
        let origin = Origin::echo().await;
        let gateway = Gateway::before(&origin, ROUTES).await;
        for (target, upgrade) in [
            ("/none/", "websocket"),
            ("/closed/", "websocket"),
            ("/chat/", "h2c"),
            ("/chat/", "websocket, h2c"),
        ] {
            let mut client = gateway.client().await;
            client
                .send(format!(
                    "GET {target} HTTP/1.1\r\n{HANDSHAKE}Upgrade: {upgrade}\r\n\r\n"
                ))
                .await;
            assert_eq!(
                client.response("GET").await.status(),
                200,
                "{target} {upgrade}"
            );
            let received = origin.last();
            assert_eq!(received.header("upgrade"), None, "{target} {upgrade}");
            assert_eq!(received.header("connection"), None, "{target} {upgrade}");
        }
        // one that is granted though nobody asked for it, or in other words
        for answer in [
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        ] {
            let origin = Origin::start(move |_| Reply::raw(answer).then_close()).await;
            let gateway = Gateway::before(&origin, ROUTES).await;
            for target in ["/chat/", "/none/"] {
                let mut client = gateway.client().await;
                client
                    .send(format!(
                        "GET {target} HTTP/1.1\r\n{HANDSHAKE}Upgrade: websocket\r\n\r\n"
                    ))
                    .await;
                let answer = client.response("GET").await;
                assert_eq!(answer.problem(), "upstream.protocol", "{target}");
            }
        }
    }

    /// What is sent before the answer is no part of a WebSocket: an endpoint that refuses would take it for a request.
    #[tokio::test]
    async fn what_comes_before_the_answer_is_not_passed_through() {
        let gate = Gate::closed();
        let held = gate.clone();
        let origin = Origin::start(move |request| match request.target() {
            "/chat/" => Reply::after(&held).then_reply(Reply::status(200, &[], "no")),
            _ => Reply::ok("next"),
        })
        .await;
        let gateway = Gateway::before(&origin, ROUTES).await;
        let mut client = gateway.client().await;
        client
            .send(format!(
                "GET /chat/ HTTP/1.1\r\n{HANDSHAKE}Upgrade: websocket\r\n\r\n\
                 GET /smuggled HTTP/1.1\r\nHost: h.test\r\n\r\n"
            ))
            .await;
        origin.has_received(1).await;
        gate.open();
        assert_eq!(client.response("GET").await.text(), "no");
        // refused, the connection is one of HTTP still, and what follows is a request like any other
        assert_eq!(client.response("GET").await.problem(), "route.none");
        assert_eq!(origin.received().len(), 1);
    }

    /// Nobody may ask for it who was not told so in SETTINGS, and such a request is malformed (RFC 8441 §4).
    #[tokio::test]
    async fn over_http2_there_is_none_and_the_connection_goes_on() {
        let (gateway, _server) = before_server().await;
        let mut h2 = Http2::connect(gateway.public()).await;
        let error = h2
            .connect_protocol("http://h.test/chat/x", "websocket")
            .await;
        let error = error.expect_err("a reset");
        assert_eq!(error.reason(), Some(h2::Reason::PROTOCOL_ERROR), "{error}");
        assert_eq!(h2.get("http://h.test/gone").await.problem(), "route.none");
    }

    #[tokio::test]
    async fn silence_age_and_the_end_of_the_gateway_close_one_with_a_word() {
        let (mut gateway, _server) = before_server().await;
        for path in ["/idle/x", "/old/x"] {
            let mut client = Program::start(
                "websocket_client.py",
                &[&url(&gateway, path), "until_closed"],
            );
            assert_eq!(client.line().await, "open");
            assert_eq!(client.line().await, "1001", "{path}");
            client.succeeds().await;
        }
        let mut client = Program::start(
            "websocket_client.py",
            &[&url(&gateway, "/chat/x"), "until_closed"],
        );
        assert_eq!(client.line().await, "open");
        gateway.signal(Signal::SIGTERM);
        assert_eq!(client.line().await, "1001");
        client.succeeds().await;
        assert!(gateway.ended().await.success());
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_ends_one_in_either_direction() {
        let (gateway, _server) = before_server().await;
        run(
            "websocket_client.py",
            &[&url(&gateway, "/short/x"), "too_long"],
        )
        .await;
    }

    #[tokio::test]
    async fn a_websocket_goes_over_http1_to_an_endpoint_that_would_choose_http2() {
        let pki = Pki::new();
        let tls = Pki::acceptor(&pki.server(&["app.test"]), &["h2", "http/1.1"], None);
        let origin = Http2Origin::secure(tls, told).await;
        let yaml = services(&[("app", "tls: {server_name: app.test, ca: ca.pem}")])
            .replace("service: app}", "service: app, websocket: on}");
        let gateway = with_files(&origin, &yaml, &[("ca.pem", &*pki.pem())]).await;
        assert_eq!(gateway.get("/app/").await.json()["protocol"], "h2");
        let mut client = gateway.client().await;
        client
            .send(format!(
                "GET /app/ HTTP/1.1\r\n{HANDSHAKE}Upgrade: websocket\r\n\r\n"
            ))
            .await;
        assert_eq!(client.response("GET").await.json()["protocol"], "h1");
        assert_eq!(gateway.get("/app/").await.json()["protocol"], "h2");
    }
}

mod streams {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn an_event_arrives_before_the_next_one_is_made() {
        let gate = Gate::closed();
        let next = gate.clone();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let origin = Origin::start(move |_| {
            Reply::raw(format!("{head}9\r\ndata: 1\n\n\r\n"))
                .then_wait(&next)
                .then("9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        })
        .await;
        let gateway = Gateway::before(&origin, &services(&[("app", "timeouts: {idle: 5s}")])).await;
        let mut client = gateway.client().await;
        client
            .send("GET /app/ HTTP/1.1\r\nHost: h.test\r\nAccept: text/event-stream\r\n\r\n")
            .await;
        assert_eq!(client.head().await.status(), 200);
        assert_eq!(
            client.exactly(14).await.expect("bytes"),
            b"9\r\ndata: 1\n\n\r\n"
        );
        gate.open();
        assert_eq!(
            client.exactly(14).await.expect("bytes"),
            b"9\r\ndata: 2\n\n\r\n"
        );
    }

    /// How much an origin gets rid of while its client reads nothing, over both versions of HTTP to the origin.
    #[tokio::test]
    async fn an_origin_waits_for_a_client_that_does_not_read() {
        const PART: usize = 64 << 10;
        const WHOLE: usize = 256 << 20;
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let origin = Http2Origin::clear(move |mut exchange| {
            let sent = count.clone();
            async move {
                let mut body = exchange.begin(&[]);
                while sent.load(Ordering::Relaxed) < WHOLE {
                    body.reserve_capacity(PART);
                    let capacity = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
                    let Some(Ok(capacity)) = capacity else { return };
                    let part = vec![0; capacity.min(PART)];
                    sent.fetch_add(part.len(), Ordering::Relaxed);
                    if body.send_data(part.into(), false).is_err() {
                        return;
                    }
                }
                let _ = body.send_data(Bytes::new(), true);
            }
        })
        .await;
        let gateway = Gateway::before(&origin, &services(&[("app", "protocol: h2c")])).await;
        let mut client = gateway.client().await;
        client
            .send("GET /app/ HTTP/1.1\r\nHost: h.test\r\n\r\n")
            .await;
        assert_eq!(client.head().await.status(), 200);
        // it stops by itself: nothing is sent between two looks a second apart
        let stopped = eventually("the origin to stop", async || {
            let before = sent.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            (before > 0 && sent.load(Ordering::Relaxed) == before).then_some(before)
        })
        .await;
        assert!(stopped < 64 << 20, "{stopped} bytes left the origin");
    }
}

/// Where an endpoint of HTTP/2 has answered and wants no more of a body, Pingora can't go on with the connection of the
/// client: whoever is not told would send the next request into it.
#[tokio::test]
async fn an_answer_before_the_end_of_the_body_says_that_the_connection_ends() {
    let origin = Http2Origin::clear(|mut exchange| async move {
        exchange.answer(&[], "early", &[]);
    })
    .await;
    let gateway = Gateway::before(&origin, &services(&[("app", "protocol: h2c")])).await;
    let head = "POST /app/ HTTP/1.1\r\nHost: h.test\r\nContent-Length: 3\r\n\r\n";
    let mut client = gateway.client().await;
    client.send(head).await;
    let answer = client.response("POST").await;
    assert_eq!(answer.text(), "early");
    assert_eq!(answer.header("connection"), Some("close"));
    let mut client = gateway.client().await;
    for _ in 0..3 {
        client.send(format!("{head}abc")).await;
        let answer = client.response("POST").await;
        assert_eq!(answer.text(), "early");
        assert_eq!(answer.header("connection"), Some("keep-alive"));
    }
}
