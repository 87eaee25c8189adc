//! Where connections are accepted: TLS by server name, ALPN, redirects, health listeners, IPv6, Unix sockets
//! (design 3.2).

use crate::harness::{Call, Client, Gateway, Http2, Origin, Pki};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

const TLS: &str = r#"
listeners:
  public: {address: "$address:8443", tls: {default: a}}
certificates:
  a: {cert: "$dir/a.pem", key: "$dir/a.key"}
  b: {cert: "$dir/b.pem", key: "$dir/b.key"}
services: {app: {endpoints: "$app"}}
routes: {all: {match: {host: [a.test, "*.b.test"], path: /**}, service: app}}
"#;

#[tokio::test]
async fn the_certificate_is_chosen_by_server_name() {
    let pki = Pki::new();
    let (a, b) = (pki.server(&["a.test"]), pki.server(&["*.b.test", "b.test"]));
    let origin = Origin::echo().await;
    let builder = Gateway::builder(TLS).with("app", &origin);
    let gateway = builder.identity("a", &a).identity("b", &b).start().await;
    for (name, wanted) in [
        ("a.test", &a),
        ("x.b.test", &b),
        ("X.B.test", &b),
        ("b.test", &b),
    ] {
        let config = pki.client(&["http/1.1"]);
        let (mut client, facts) = Client::connect_tls(gateway.port(8443), name, config)
            .await
            .expect(name);
        assert_eq!(facts.certificate, wanted.der, "{name}");
        assert_eq!(facts.protocol.as_deref(), Some("http/1.1"));
        if name != "b.test" {
            let response = client.get(name, "/").await;
            assert_eq!(response.status(), 200, "{name}");
        }
    }
    // a wildcard covers one label, so the default is presented, which such a client does not accept
    let refused = Client::connect_tls(gateway.port(8443), "x.y.b.test", pki.client(&[])).await;
    assert!(refused.is_err());
    assert_eq!(origin.last().header("x-forwarded-proto"), Some("https"));
    assert_eq!(
        origin.last().header("x-forwarded-port"),
        Some("443"),
        "as the client sees it"
    );
}

#[tokio::test]
async fn alpn_chooses_http2_and_both_protocols_share_the_listener() {
    let pki = Pki::new();
    let origin = Origin::echo().await;
    let gateway = Gateway::builder(TLS)
        .with("app", &origin)
        .identity("a", &pki.server(&["a.test"]))
        .identity("b", &pki.server(&["*.b.test"]))
        .start()
        .await;
    let address = gateway.port(8443);
    let (mut h2, facts) = Http2::connect_tls(address, "a.test", pki.client(&["h2", "http/1.1"]))
        .await
        .expect("h2");
    assert_eq!(facts.protocol.as_deref(), Some("h2"));
    let mut answers = Vec::new();
    for n in 0..10 {
        answers.push(h2.get(&format!("https://a.test/{n}")).await.json()["target"].clone());
    }
    assert_eq!(answers[9], "/9");
    let (mut h1, facts) = Client::connect_tls(address, "a.test", pki.client(&[]))
        .await
        .expect("no ALPN");
    assert_eq!(facts.protocol, None);
    assert_eq!(h1.get("a.test", "/").await.status(), 200);
}

#[tokio::test]
async fn a_host_of_another_certificate_is_misdirected() {
    let pki = Pki::new();
    let origin = Origin::echo().await;
    let gateway = Gateway::builder(TLS)
        .with("app", &origin)
        .identity("a", &pki.server(&["a.test"]))
        .identity("b", &pki.server(&["*.b.test"]))
        .start()
        .await;
    let config = pki.client(&["http/1.1"]);
    let (mut client, _) = Client::connect_tls(gateway.port(8443), "a.test", config)
        .await
        .expect("a.test");
    assert_eq!(client.get("x.b.test", "/").await.status(), 421);
    assert!(origin.received().is_empty());
}

#[tokio::test]
async fn a_plain_listener_can_send_everybody_to_https() {
    let pki = Pki::new();
    let origin = Origin::echo().await;
    let yaml = TLS.replace(
        "listeners:",
        "listeners:\n  plain: {address: \"$address:8080\", redirect: https}",
    );
    let gateway = Gateway::builder(&yaml)
        .with("app", &origin)
        .identity("a", &pki.server(&["a.test"]))
        .identity("b", &pki.server(&["*.b.test"]))
        .start()
        .await;
    // who asks for the listener's own port can reach that of TLS; else something in between maps the ports
    for (host, location) in [
        ("a.test:8080", "https://a.test:8443/x?y=1"),
        ("a.test", "https://a.test/x?y=1"),
        ("a.test:80", "https://a.test/x?y=1"),
        ("a.test:9999", "https://a.test/x?y=1"),
    ] {
        let response = gateway.call("GET /x?y=1").host(host).send().await;
        assert_eq!(response.status(), 308);
        assert_eq!(response.header("location"), Some(location), "{host}");
    }
    assert!(origin.received().is_empty());
}

/// Neither a route's policies nor its name in metrics and log belong to what it did not answer.
#[tokio::test]
async fn listeners_that_do_not_route_touch_no_route() {
    let gateway = Gateway::start(
        r#"
listeners:
  public: {address: "$address:8080"}
  plain: {address: "$address:8081", redirect: https}
  operators: {address: "$address:9100", serve: metrics}
routes:
  all: {match: {path: /**}, respond: 204, policies: {headers: {response: {set: {x-route: "{route}"}}}}}
"#,
    )
    .await;
    for (port, target, status) in [
        (8080, "/a", 204),
        (8081, "/a", 308),
        (9100, "/a", 404),
        // what is ambiguous is not sent anywhere, not even to itself
        (8081, "/a%zz", 400),
        (9100, "/a%zz", 400),
    ] {
        let call = Call::new(gateway.port(port), &format!("GET {target}"));
        let response = call.send().await;
        assert_eq!(response.status(), status, "{target} on {port}");
        let route = (port == 8080).then_some("all");
        assert_eq!(response.header("x-route"), route, "{target} on {port}");
        if status == 400 {
            assert_eq!(response.json()["code"], "request.path");
        }
    }
    let counted = "northgate_requests_total";
    let metrics = gateway.counts(counted, &[("route", "all"), ("status", "204")], 1.0);
    let metrics = metrics.await;
    for status in ["308", "404"] {
        let labels = [("route", "all"), ("status", status)];
        assert_eq!(metrics.find(counted, &labels), None);
    }
}

#[tokio::test]
async fn a_listener_for_operators_serves_health_and_metrics_and_nothing_else() {
    let gateway = Gateway::start(
        r#"
listeners:
  public: {address: "$address:8080"}
  both: {address: "$address:9100", serve: [health, metrics]}
  health: {address: "$address:9101", serve: health}
routes: {all: {match: {path: /**}, respond: 204}}
"#,
    )
    .await;
    for (port, target, status) in [
        (9100, "/livez", 200),
        (9100, "/readyz", 200),
        (9100, "/metrics", 200),
        (9100, "/v1/status", 404),
        (9100, "/v1/config", 404),
        (9100, "/", 404),
        (9101, "/readyz", 200),
        (9101, "/metrics", 404),
        (8080, "/metrics", 204),
    ] {
        let response = Call::new(gateway.port(port), &format!("GET {target}"))
            .send()
            .await;
        assert_eq!(response.status(), status, "{target} on {port}");
    }
    let posted = Call::new(gateway.port(9100), "POST /metrics")
        .body("x")
        .send()
        .await;
    assert_eq!(posted.status(), 405);
}

#[tokio::test]
async fn an_ipv6_wildcard_takes_ipv4_too() {
    let origin = Origin::echo().await;
    // a wildcard cannot have a loopback address of its own, so it gets a port that is free
    let free = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("IPv6");
    let port = free.local_addr().expect("its address").port();
    drop(free);
    let gateway = Gateway::builder(
        r#"
listeners: {public: {address: "[::]:$port"}}
services: {app: {endpoints: "$app"}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .with("app", &origin)
    .with("port", port)
    .start()
    .await;
    for (address, client) in [
        (SocketAddr::from((Ipv6Addr::LOCALHOST, port)), "::1"),
        (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), "127.0.0.1"),
    ] {
        assert_eq!(
            Call::new(address, "GET /").send().await.status(),
            200,
            "{address}"
        );
        assert_eq!(origin.last().header("x-forwarded-for"), Some(client));
    }
    drop(gateway);
}

#[tokio::test]
async fn a_listener_may_be_a_unix_socket() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(
        &origin,
        r#"
listeners: {public: {address: "unix:$dir/public.sock"}}
trusted_proxies: unix
services: {app: {endpoints: "$app"}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .await;
    let path = gateway.dir().join("public.sock");
    let response = Call::unix(&path, "GET /x")
        .header("X-Forwarded-For", "192.0.2.7")
        .send()
        .await;
    assert_eq!(response.json()["target"], "/x");
    let forwarded = origin.only();
    let forwarded = forwarded.header("x-forwarded-for").expect("a client");
    assert!(forwarded.starts_with("192.0.2.7"), "{forwarded}");
}

#[tokio::test]
async fn a_listener_may_have_several_addresses() {
    let gateway = Gateway::start(
        r#"
listeners: {public: {address: ["$address:8080", "$address:8081"]}}
routes: {all: {match: {path: /**}, respond: 204}}
"#,
    )
    .await;
    for port in [8080, 8081] {
        assert_eq!(
            Call::new(gateway.port(port), "GET /").send().await.status(),
            204
        );
    }
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_ends() {
    let gate = crate::harness::Gate::closed();
    let origin = Origin::start({
        let gate = gate.clone();
        move |_| {
            crate::harness::Reply::after(&gate).then_reply(crate::harness::Reply::ok("finished"))
        }
    })
    .await;
    let mut gateway = Gateway::before(
        &origin,
        r#"
services: {app: {endpoints: "$app"}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .await;
    let mut idle = gateway.client().await;
    let call = gateway.call("GET /");
    let waiting = tokio::spawn(async move { call.send().await });
    origin.has_received(1).await;
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(idle.is_closed().await, "an idle connection is closed");
    let output = gateway.command(&["reload"]).await;
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(
        output.stderr.contains("the gateway is stopping"),
        "{output:?}"
    );
    gate.open();
    assert_eq!(waiting.await.expect("a response").text(), "finished");
    assert_eq!(gateway.ended().await.code(), Some(0));
}
