//! Endpoints that come from DNS and from files: what a change, a failure and a forged answer do to requests.

use crate::harness::{Dns, Gateway, Origin, Record, Reply, eventually, loopback, northgate};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const NAMED: &str = r#"
warm_timeout: 2s
resolver: {servers: "$dns", timeout: 250ms, attempts: 1}
services:
  app:
    endpoints: ["app.test:$port"]
    discovery: {allow: 127.0.0.0/8, max_stale: 2s}
    host_header: endpoint
routes: {app: {match: {path: /**}, service: app}}
"#;

/// Two origins at different addresses and the same port, which say "a" and "b".
async fn pair() -> (Origin, Origin, Ipv4Addr, Ipv4Addr, u16) {
    let a = Origin::named("a").await;
    let first: SocketAddr = a.address().parse().expect("an address");
    let other = loopback();
    let at = SocketAddr::new(other.into(), first.port());
    let b = Origin::at(at, |_| Reply::ok("b")).await;
    let std::net::IpAddr::V4(ip) = first.ip() else {
        panic!("IPv4")
    };
    (a, b, ip, other, first.port())
}

async fn says(gateway: &Gateway, wanted: &str) {
    eventually(&format!("the gateway to say {wanted}"), async || {
        (gateway.get("/").await.text() == wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_change_in_dns_is_followed_under_load_without_a_failed_request() {
    let dns = Dns::start().await;
    let (a, b, at_a, at_b, port) = pair().await;
    dns.set("app.test", 1, vec![Record::A(at_a)]);
    let builder = Gateway::builder(NAMED)
        .with("dns", dns.address())
        .with("port", port);
    let gateway = Arc::new(builder.start().await);
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (gateway, stop, done) = (gateway.clone(), stop.clone(), done.clone());
            tokio::spawn(async move {
                let mut client = gateway.client().await;
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get("h.test", "/").await;
                    assert_eq!(answer.status(), 200, "{answer:?}");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for addresses in [
        vec![at_b],
        vec![at_a, at_b],
        vec![at_b, at_a, at_a],
        vec![at_a],
        vec![at_b],
    ] {
        let records = addresses.iter().map(|address| Record::A(*address));
        dns.set("app.test", 1, records.collect());
        let wanted: std::collections::BTreeSet<_> =
            addresses.iter().map(|ip| format!("{ip}:{port}")).collect();
        eventually("the endpoints that DNS names", async || {
            let status = gateway.status().await;
            let endpoints = status["services"][0]["endpoints"].as_array()?.clone();
            let found: std::collections::BTreeSet<_> = endpoints
                .iter()
                .filter_map(|one| Some(one["address"].as_str()?.to_owned()))
                .collect();
            (found == wanted && endpoints.len() == wanted.len()).then_some(())
        })
        .await;
    }
    says(&gateway, "b").await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no failed request");
    }
    assert!(done.load(Ordering::Relaxed) > 20);
    let host = a.last();
    assert_eq!(host.header("host"), Some(&*format!("app.test:{port}")));
    assert!(!b.received().is_empty());
}

#[tokio::test]
async fn names_are_asked_for_when_their_ttl_is_over_and_no_sooner() {
    let dns = Dns::start().await;
    let (_a, _b, at_a, at_b, port) = pair().await;
    dns.set("short.test", 0, vec![Record::A(at_a)]);
    dns.set("long.test", 60, vec![Record::A(at_b)]);
    let yaml = NAMED.replace(
        "\"app.test:$port\"",
        "\"short.test:$port\", \"long.test:$port\"",
    );
    let builder = Gateway::builder(&yaml)
        .with("dns", dns.address())
        .with("port", port);
    let began = Instant::now();
    let gateway = builder.start().await;
    eventually("four rounds of questions", async || {
        (dns.asked("short.test") >= 8).then_some(())
    })
    .await;
    // a TTL of 0 is one of a second
    assert!(
        began.elapsed() > Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(dns.asked("long.test"), 2, "A and AAAA, once");
    // a request asks nobody
    let before = dns.asked("long.test");
    assert_eq!(gateway.get("/").await.status(), 200);
    assert_eq!(dns.asked("long.test"), before);
    let labels = [
        ("service", "app"),
        ("source", &*format!("short.test:{port}")),
        ("result", "success"),
    ];
    gateway
        .counts("northgate_discovery_refreshes_total", &labels, 4.0)
        .await;
}

#[tokio::test]
async fn the_last_good_answer_is_kept_for_max_stale_when_dns_fails() {
    for failure in ["silent", "servfail", "nxdomain", "empty"] {
        let dns = Dns::start().await;
        let (_a, _b, at_a, _, port) = pair().await;
        dns.set("app.test", 1, vec![Record::A(at_a)]);
        let builder = Gateway::builder(NAMED)
            .with("dns", dns.address())
            .with("port", port);
        let gateway = builder.start().await;
        says(&gateway, "a").await;
        match failure {
            "silent" => dns.silence(true),
            "servfail" => dns.fail(true),
            "nxdomain" => dns.remove("app.test"),
            _ => dns.set("app.test", 1, Vec::new()),
        }
        gateway.logs("endpoints can't be discovered").await;
        assert_eq!(gateway.get("/").await.text(), "a", "{failure}");
        let source = format!("app.test:{port}");
        let labels = [("service", "app"), ("source", &*source)];
        let metrics = gateway.metrics().await;
        let failed = [labels[0], labels[1], ("result", "failure")];
        assert!(metrics.value("northgate_discovery_refreshes_total", &failed) > 0.0);
        assert!(
            metrics
                .find("northgate_discovery_age_seconds", &labels)
                .is_some()
        );
        let status = gateway.admin("GET /v1/services/app").send().await.json();
        assert_eq!(status["sources"][0]["source"], source, "{status}");
        assert!(status["sources"][0]["error"].is_string(), "{status}");
        let shown = gateway.command(&["status"]).await.stdout;
        assert!(
            shown.contains("LAST ERROR") && shown.contains(&source),
            "{shown}"
        );
        // then it is too old
        let refused = eventually("the answer to be too old", async || {
            let answer = gateway.get("/").await;
            (answer.status() == 503).then_some(answer)
        })
        .await;
        assert_eq!(refused.problem(), "unready.discovery", "{failure}");
        assert_eq!(refused.header("retry-after"), Some("1"));
        dns.silence(false);
        dns.fail(false);
        dns.set("app.test", 1, vec![Record::A(at_a)]);
        says(&gateway, "a").await;
        gateway.logs("endpoints are discovered again").await;
        let said = gateway.stderr().matches("can't be discovered").count();
        assert!(said <= 2, "once for each change: {}", gateway.stderr());
    }
}

#[tokio::test]
async fn srv_records_bring_ports_weights_and_priorities() {
    let dns = Dns::start().await;
    let (a, b, spare) = (
        Origin::named("a").await,
        Origin::named("b").await,
        Origin::named("spare").await,
    );
    let place = |origin: &Origin| -> (Ipv4Addr, u16) {
        let at: SocketAddr = origin.address().parse().expect("an address");
        match at.ip() {
            std::net::IpAddr::V4(ip) => (ip, at.port()),
            _ => panic!("IPv4"),
        }
    };
    let srv = |priority, weight, origin: &Origin, target| Record::Srv {
        priority,
        weight,
        port: place(origin).1,
        target,
    };
    for (name, origin) in [("a.test", &a), ("b.test", &b), ("spare.test", &spare)] {
        dns.set(name, 1, vec![Record::A(place(origin).0)]);
    }
    dns.set(
        "_http._tcp.app.test",
        1,
        vec![
            srv(20, 1, &spare, "spare.test"),
            srv(10, 3, &a, "a.test"),
            srv(10, 1, &b, "b.test"),
        ],
    );
    let yaml = NAMED
        .replace("[\"app.test:$port\"]", "{srv: _http._tcp.app.test}")
        .replace("host_header", "balance: round_robin\n    host_header");
    let gateway = Gateway::builder(&yaml)
        .with("dns", dns.address())
        .start()
        .await;
    for _ in 0..8 {
        assert_eq!(gateway.get("/").await.status(), 200);
    }
    assert_eq!(
        (
            a.received().len(),
            b.received().len(),
            spare.received().len()
        ),
        (6, 2, 0)
    );
    assert_eq!(
        b.last().header("host"),
        Some(&*format!("b.test:{}", place(&b).1))
    );
    // names of the first group that are gone leave it to the next
    dns.remove("a.test");
    dns.remove("b.test");
    says(&gateway, "spare").await;
    // and a target of `.` says that there is none, which is no answer
    dns.set(
        "_http._tcp.app.test",
        1,
        vec![Record::Srv {
            priority: 0,
            weight: 0,
            port: 1,
            target: "b.test",
        }],
    );
    gateway.logs("b.test: there is no such name").await;
    assert_eq!(gateway.get("/").await.text(), "spare");
}

#[tokio::test]
async fn addresses_that_no_origin_has_are_refused_unless_allowed_and_the_gateway_always() {
    let dns = Dns::start().await;
    let (_a, _b, at_a, _, port) = pair().await;
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    dns.set(
        "app.test",
        1,
        vec![
            Record::A(at_a),
            Record::A(metadata),
            Record::Aaaa("fe80::1".parse().expect("an address")),
        ],
    );
    let closed = NAMED.replace("allow: 127.0.0.0/8, ", "");
    let gateway = Gateway::builder(&closed)
        .with("dns", dns.address())
        .with("port", port)
        .start()
        .await;
    let refused = gateway.get("/").await;
    assert_eq!(
        (refused.status(), &*refused.problem()),
        (503, "upstream.none")
    );
    let source = format!("app.test:{port}");
    for reason in ["loopback", "metadata", "link_local"] {
        let labels = [("service", "app"), ("source", &*source), ("reason", reason)];
        gateway
            .counts("northgate_discovery_refused_total", &labels, 1.0)
            .await;
    }
    gateway
        .logs("an address that was discovered is not taken")
        .await;
    let status = gateway.status().await;
    assert_eq!(
        status["services"][0]["sources"][0]["refused"]
            .as_array()
            .map(Vec::len),
        Some(3),
        "{status}"
    );
    // what is known is judged anew, without another question
    dns.silence(true);
    gateway.reload_to(NAMED).await;
    assert_eq!(gateway.get("/").await.text(), "a");
    dns.silence(false);

    let own = gateway.public();
    let std::net::IpAddr::V4(ip) = own.ip() else {
        panic!("IPv4")
    };
    dns.set("self.test", 1, vec![Record::A(ip)]);
    gateway
        .reload_to(&NAMED.replace("app.test:$port", "self.test:8080"))
        .await;
    assert_eq!(gateway.get("/").await.problem(), "upstream.none");
    gateway.logs("own_listener").await;
}

const LISTED: &str = r#"
services: {app: {endpoints: {file: endpoints.yaml}, discovery: {allow: 127.0.0.0/8}}}
routes: {app: {match: {path: /**}, service: app}}
"#;

#[tokio::test]
async fn a_watched_file_is_followed_and_a_broken_one_keeps_what_was_good() {
    let (a, b) = (Origin::named("a").await, Origin::named("b").await);
    let list = |origin: &Origin| format!("- {{address: \"{origin}\", weight: 2}}\n");
    let gateway = Gateway::builder(LISTED)
        .file("endpoints.yaml", &list(&a))
        .start()
        .await;
    let path = gateway.dir().join("endpoints.yaml");
    assert_eq!(gateway.get("/").await.text(), "a");
    // renamed over, as careful writers do
    let fresh = gateway.dir().join("fresh.yaml");
    std::fs::write(&fresh, list(&b)).expect("a file");
    std::fs::rename(&fresh, &path).expect("renamed");
    says(&gateway, "b").await;
    // a link that is swapped, as Kubernetes does
    for (folder, origin) in [("one", &a), ("two", &b)] {
        std::fs::create_dir(gateway.dir().join(folder)).expect("a folder");
        std::fs::write(
            gateway.dir().join(folder).join("endpoints.yaml"),
            list(origin),
        )
        .expect("a file");
    }
    let link = |to: &str| {
        let fresh = gateway.dir().join("data.new");
        std::os::unix::fs::symlink(to, &fresh).expect("a link");
        std::fs::rename(fresh, gateway.dir().join("data")).expect("renamed");
    };
    link("one");
    std::fs::remove_file(&path).expect("removed");
    std::os::unix::fs::symlink("data/endpoints.yaml", &path).expect("a link");
    says(&gateway, "a").await;
    link("two");
    says(&gateway, "b").await;
    // written in place, and wrong
    std::fs::write(&path, "- 127.0.0.1\n").expect("a file");
    gateway
        .logs("endpoints.yaml:1:3: the address `127.0.0.1` lacks a port")
        .await;
    assert_eq!(gateway.get("/").await.text(), "b");
    let status = gateway.status().await;
    let error = status["services"][0]["sources"][0]["error"].to_string();
    assert!(error.contains("lacks a port"), "{status}");
    std::fs::remove_file(gateway.dir().join("data")).expect("removed");
    gateway.logs("there is no such file").await;
    assert_eq!(gateway.get("/").await.text(), "b");
    let source = format!("file {}", path.display());
    let labels = [
        ("service", "app"),
        ("source", &*source),
        ("result", "failure"),
    ];
    gateway
        .counts("northgate_discovery_refreshes_total", &labels, 2.0)
        .await;
    // at load it is a mistake
    let reload = gateway.reload(LISTED).await;
    assert_eq!(reload.code, Some(78), "{reload:?}");
    assert_eq!(gateway.get("/").await.text(), "b");
    link("one");
    says(&gateway, "a").await;
    // an empty list is meant
    let fresh = gateway.dir().join("one/endpoints.yaml");
    std::fs::write(fresh, "[]\n").expect("a file");
    eventually("no endpoints", async || {
        (gateway.get("/").await.status() == 503).then_some(())
    })
    .await;
    assert_eq!(gateway.get("/").await.problem(), "upstream.none");
}

#[tokio::test]
async fn a_reload_begins_with_what_is_known_and_waits_for_new_names_no_longer_than_it_may() {
    let dns = Dns::start().await;
    let (_a, _b, at_a, _, port) = pair().await;
    dns.set("app.test", 60, vec![Record::A(at_a)]);
    let builder = Gateway::builder(NAMED)
        .with("dns", dns.address())
        .with("port", port);
    let gateway = Arc::new(builder.start().await);
    dns.silence(true);
    let began = Instant::now();
    gateway
        .reload_to(&format!("{NAMED}defaults: {{timeouts: {{idle: 10s}}}}\n"))
        .await;
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "nothing was waited for"
    );
    assert_eq!(gateway.get("/").await.text(), "a");
    assert_eq!(dns.asked("app.test"), 2);

    let more = NAMED
        .replace(
            "services:\n",
            "services:\n  new: {endpoints: \"new.test:80\"}\n",
        )
        .replace(
            "routes: {",
            "routes: {new: {match: {path: /new}, service: new}, ",
        );
    let reloading = {
        let gateway = gateway.clone();
        tokio::spawn(async move { gateway.reload(&more).await })
    };
    eventually("the new name to be asked for", async || {
        (dns.asked("new.test") > 0).then_some(())
    })
    .await;
    assert_eq!(
        gateway.get("/").await.text(),
        "a",
        "the running generation serves on"
    );
    assert_eq!(gateway.get("/new").await.text(), "a");
    let output = reloading.await.expect("no panic");
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(gateway.get("/").await.text(), "a");
    let unready = gateway.get("/new").await;
    assert_eq!(
        (unready.status(), &*unready.problem()),
        (503, "unready.discovery")
    );
}

#[tokio::test]
async fn the_gateway_is_ready_when_its_names_have_addresses() {
    let dns = Dns::start().await;
    let (_a, _b, at_a, _, port) = pair().await;
    dns.set("app.test", 60, vec![Record::A(at_a)]);
    dns.silence(true);
    let yaml = NAMED.replace("warm_timeout: 2s", "warm_timeout: 1m");
    let builder = Gateway::builder(&yaml)
        .with("dns", dns.address())
        .with("port", port);
    let mut starting = std::pin::pin!(builder.start());
    let asked = eventually("two rounds of questions", async || {
        (dns.asked("app.test") >= 4).then_some(())
    });
    tokio::select! {
        _ = &mut starting => panic!("ready without an address"),
        () = asked => {}
    }
    dns.silence(false);
    let gateway = starting.await;
    assert_eq!(gateway.get("/").await.text(), "a");
}

#[tokio::test]
async fn check_asks_no_network() {
    let dns = Dns::start().await;
    dns.silence(true);
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("northgate.yaml");
    let yaml = NAMED
        .replace("$dns", &dns.address().to_string())
        .replace("$port", "80");
    let yaml = format!("version: 1\nlisteners: {{public: {{address: 127.0.0.1:8080}}}}\n{yaml}");
    std::fs::write(&path, yaml).expect("a file");
    let output = northgate(&["check", "-c", &path.display().to_string()]).await;
    assert_eq!((output.code, &*output.stderr), (Some(0), ""), "{output:?}");
    assert_eq!(dns.asked("app.test"), 0);
}

/// `explain` asks nobody, so that it can't say what a name stands for; it says the name.
#[tokio::test]
async fn explain_names_where_endpoints_come_from() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("northgate.yaml");
    let yaml = r#"
version: 1
listeners: {public: {address: 127.0.0.1:8080}}
services: {app: {endpoints: [10.0.0.1:80, "app.test:80", {srv: _http._tcp.app.test}]}}
routes: {all: {match: {path: /**}, service: app}}
"#;
    std::fs::write(&path, yaml).expect("a file");
    let path = path.display().to_string();
    let output = northgate(&["explain", "-c", &path, "GET", "http://h.test/"]).await;
    let target = "service app (10.0.0.1:80, app.test:80, srv _http._tcp.app.test)";
    assert!(output.stdout.contains(target), "{output:?}");
}
