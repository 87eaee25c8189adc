//! Endpoints in processes of their own, under load and with everything on that keeps a service up: they are killed,
//! stopped, made slow and made to talk rubbish, they come back, and DNS moves. No idempotent request fails.

use crate::harness::{Client, Dns, Ending, Gateway, Http2, Program, Record, eventually, loopback};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// An endpoint that can be killed and started again at the same address.
struct Endpoint {
    process: Option<Program>,
    address: SocketAddr,
    protocol: &'static str,
    name: &'static str,
}

impl Endpoint {
    async fn start(protocol: &'static str, name: &'static str) -> Self {
        Self::at((loopback(), 0).into(), protocol, name).await
    }

    async fn at(address: SocketAddr, protocol: &'static str, name: &'static str) -> Self {
        let mut endpoint = Self {
            process: None,
            address,
            protocol,
            name,
        };
        endpoint.revive().await;
        endpoint
    }

    async fn revive(&mut self) {
        let (host, port) = (self.address.ip().to_string(), self.address.port());
        let arguments = [&host, &*port.to_string(), self.protocol, self.name];
        let mut process = Program::start("endpoint.py", &arguments);
        self.address
            .set_port(process.line().await.parse().expect("a port"));
        self.process = Some(process);
    }

    fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    /// Ends it without a word, as the kernel does.
    fn kill(&mut self) {
        self.process = None;
    }
}

/// Clients that ask without pause, over both versions of HTTP, with and without a body.
struct Load {
    stop: Arc<AtomicBool>,
    /// How often whom was heard.
    heard: Arc<Mutex<BTreeMap<String, usize>>>,
    clients: JoinSet<()>,
}

impl Load {
    fn on(address: SocketAddr) -> Self {
        let (stop, heard) = (Arc::default(), Arc::default());
        let mut clients = JoinSet::new();
        for client in 0..6 {
            let stop: Arc<AtomicBool> = Arc::clone(&stop);
            let heard: Arc<Mutex<BTreeMap<String, usize>>> = Arc::clone(&heard);
            clients.spawn(async move {
                let mut h1 = Client::connect(address).await;
                let mut h2 = Http2::connect(address).await;
                while !stop.load(Relaxed) {
                    let answer = match client % 3 {
                        0 => h1.get("h.test", "/").await,
                        1 => h2.get("http://h.test/").await,
                        _ => h2
                            .call("PUT", "http://h.test/", &[], b"body", Ending::EmptyData)
                            .await
                            .expect("an answer"),
                    };
                    assert_eq!(answer.status(), 200, "{}", answer.text());
                    let mut heard = heard.lock().expect("no panic");
                    *heard.entry(answer.text().to_owned()).or_default() += 1;
                }
            });
        }
        Self {
            stop,
            heard,
            clients,
        }
    }

    /// How often this one was heard so far, and all together.
    fn heard(&self, name: &str) -> (usize, usize) {
        let heard = self.heard.lock().expect("no panic");
        (
            heard.get(name).copied().unwrap_or_default(),
            heard.values().sum(),
        )
    }

    /// The share of answers, in percent, that come from this one for a while from now on.
    async fn share(&self, name: &str, time: Duration) -> usize {
        let before = self.heard(name);
        tokio::time::sleep(time).await;
        let after = self.heard(name);
        (after.0 - before.0) * 100 / (after.1 - before.1).max(1)
    }

    /// Every client has to end well.
    async fn ends(mut self) {
        self.stop.store(true, Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.expect("no request that failed");
        }
    }
}

const SERVICE: &str = r#"
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
services:
  app:
    endpoints: $endpoints
    protocol: $protocol
    balance: $balance
    slow_start: 4s
    health_check: {path: /healthz, interval: 300ms, timeout: 1s, jitter: 0%, unhealthy: 2, healthy: 2}
    outlier: {ejection: 1s, ejection_max: 2s}
    breaker: {failures: 90%, minimum: 100, open: 1s}
    retries: {attempts: 3, on: [connect_failure, refused_stream, reset, timeout, 503]}
    timeouts: {connect: 500ms, per_try: 1500ms}
routes: {all: {match: {path: /**}, service: app}}
"#;

async fn is_up(gateway: &Gateway, endpoint: &Endpoint, up: bool) {
    let address = endpoint.address.to_string();
    eventually(&format!("{address} to be up: {up}"), async || {
        let service = gateway.admin("GET /v1/services/app").send().await.json();
        let endpoints = service["endpoints"].as_array()?;
        let found = endpoints.iter().find(|one| one["address"] == *address)?;
        ((found["state"] == "up") == up).then_some(())
    })
    .await;
}

async fn one_of_three_fails_in_every_way(protocol: &'static str, balance: &str) {
    let (a, b) = (
        Endpoint::start(protocol, "a").await,
        Endpoint::start(protocol, "b").await,
    );
    let mut c = Endpoint::start(protocol, "c").await;
    let endpoints = format!("[\"{}\", \"{}\", \"{}\"]", a.address, b.address, c.address);
    let gateway = Gateway::builder(SERVICE)
        .with("endpoints", endpoints)
        .with("protocol", protocol)
        .with("balance", balance)
        .start()
        .await;
    let load = Load::on(gateway.public());
    eventually("everybody to be asked", async || {
        (load.heard("c").0 > 20).then_some(())
    })
    .await;
    for failure in ["killed", "hung", "rubbish"] {
        let began = Instant::now();
        match failure {
            "killed" => c.kill(),
            "hung" => c.signal(Signal::SIGSTOP),
            _ => c.signal(Signal::SIGUSR2),
        }
        is_up(&gateway, &c, false).await;
        // two checks, or five requests that wait for a try each
        let found = began.elapsed();
        assert!(found < Duration::from_secs(6), "{failure}: {found:?}");
        let left_out = load.share("c", Duration::from_millis(500)).await;
        assert!(left_out <= 1, "{failure}: {left_out} %");
        let began = Instant::now();
        match failure {
            "killed" => c.revive().await,
            "hung" => c.signal(Signal::SIGCONT),
            _ => c.signal(Signal::SIGHUP),
        }
        is_up(&gateway, &c, true).await;
        // two checks, and what is left of the ejection
        let returned = began.elapsed();
        assert!(returned < Duration::from_secs(6), "{failure}: {returned:?}");
        // no herd: a third would be its share
        let share = load.share("c", Duration::from_millis(700)).await;
        assert!(share <= 15, "{failure}: {share} % at its return");
        eventually("its whole share", async || {
            (load.share("c", Duration::from_millis(500)).await >= 25).then_some(())
        })
        .await;
    }
    c.signal(Signal::SIGUSR1);
    let share = load.share("c", Duration::from_secs(2)).await;
    if balance == "least_request" {
        assert!(share < 20, "a slow one is asked less: {share} %");
    }
    c.signal(Signal::SIGHUP);
    load.ends().await;
    let metrics = gateway.metrics().await;
    let service = [("service", "app")];
    assert!(metrics.value("northgate_retries_total", &service) > 0.0);
    assert_eq!(
        metrics.value("northgate_retries_denied_total", &service),
        0.0
    );
    let status = gateway.status().await;
    let endpoints = status["services"][0]["endpoints"]
        .as_array()
        .expect("a list")
        .clone();
    for endpoint in endpoints {
        assert_eq!(endpoint["in_flight"], 0, "{endpoint}");
    }
}

#[tokio::test]
async fn one_of_three_is_killed_hung_and_broken_over_http1_with_least_request() {
    one_of_three_fails_in_every_way("h1", "least_request").await;
}

#[tokio::test]
async fn one_of_three_is_killed_hung_and_broken_over_http1_with_round_robin() {
    one_of_three_fails_in_every_way("h1", "round_robin").await;
}

#[tokio::test]
async fn one_of_three_is_killed_hung_and_broken_over_http2_with_least_request() {
    one_of_three_fails_in_every_way("h2c", "least_request").await;
}

#[tokio::test]
async fn one_of_three_is_killed_hung_and_broken_over_http2_with_round_robin() {
    one_of_three_fails_in_every_way("h2c", "round_robin").await;
}

#[tokio::test]
async fn dns_moves_under_load_and_no_request_fails() {
    for protocol in ["h1", "h2c"] {
        let dns = Dns::start().await;
        let mut a = Endpoint::start(protocol, "a").await;
        let port = a.address.port();
        let at = || SocketAddr::from((loopback(), port));
        let b = Endpoint::at(at(), protocol, "b").await;
        let c = Endpoint::at(at(), protocol, "c").await;
        let ip = |endpoint: &Endpoint| match endpoint.address {
            SocketAddr::V4(address) => *address.ip(),
            SocketAddr::V6(_) => Ipv4Addr::LOCALHOST,
        };
        let says = |endpoints: &[&Endpoint]| {
            let records = endpoints.iter().map(|one| Record::A(ip(one)));
            dns.set("app.test", 1, records.collect());
        };
        says(&[&a]);
        let named = "[\"app.test:$port\"]\n    discovery: {allow: 127.0.0.0/8}";
        let resolver = "resolver: {servers: \"$dns\", timeout: 250ms}\nservices:";
        let yaml = SERVICE.replace("$endpoints", named);
        let yaml = yaml.replace("services:", resolver);
        let gateway = Gateway::builder(&yaml)
            .with("port", port)
            .with("dns", dns.address())
            .with("protocol", protocol)
            .with("balance", "round_robin")
            .start()
            .await;
        let load = Load::on(gateway.public());
        let hears = async |name: &str, more: usize| {
            let wanted = load.heard(name).0 + more;
            eventually(&format!("{name} to be asked"), async || {
                (load.heard(name).0 >= wanted).then_some(())
            })
            .await;
        };
        hears("a", 10).await;
        says(&[&a, &b]);
        hears("b", 10).await;
        says(&[&b, &c]);
        hears("c", 10).await;
        // what DNS does not name any more goes away
        eventually("a to be left alone", async || {
            (load.share("a", Duration::from_millis(200)).await == 0).then_some(())
        })
        .await;
        a.kill();
        says(&[&c]);
        hears("c", 50).await;
        a.revive().await;
        says(&[&a, &b, &c]);
        hears("a", 10).await;
        load.ends().await;
    }
}

/// Requests in flight meet settings of two configurations, and endpoints that come and go.
#[tokio::test]
async fn reloads_in_the_middle_of_it_lose_nothing() {
    for protocol in ["h1", "h2c"] {
        let (a, b) = (
            Endpoint::start(protocol, "a").await,
            Endpoint::start(protocol, "b").await,
        );
        let mut c = Endpoint::start(protocol, "c").await;
        let endpoints = format!("[\"{}\", \"{}\", \"{}\"]", a.address, b.address, c.address);
        let gateway = Gateway::builder(SERVICE)
            .with("endpoints", endpoints)
            .with("protocol", protocol)
            .with("balance", "round_robin")
            .start()
            .await;
        let load = Load::on(gateway.public());
        let line = |start: &str| {
            let mut lines = SERVICE.lines();
            let line = lines.find(|line| line.trim_start().starts_with(start));
            format!("{}\n", line.expect("a setting"))
        };
        let others = [
            SERVICE.to_owned(),
            SERVICE.replace(&line("breaker"), "    limits: {in_flight: 50}\n"),
            SERVICE.replace(&line("outlier"), "    outlier: off\n"),
            SERVICE.replace("$balance", "ewma"),
            SERVICE.replace(&line("health_check"), "    panic_threshold: off\n"),
            SERVICE.replace(&line("slow_start"), "    sticky: {cookie: s}\n"),
            SERVICE.replace(
                &line("breaker"),
                "    limits: {in_flight_per_endpoint: 50}\n",
            ),
            SERVICE.replace("$balance", "{consistent_hash: path}"),
        ];
        for (turn, yaml) in others.iter().cycle().take(24).enumerate() {
            match turn % 6 {
                1 => c.kill(),
                4 => c.revive().await,
                _ => {}
            }
            gateway.reload_to(yaml).await;
            let before = load.heard("a").1;
            eventually("some requests", async || {
                (load.heard("a").1 > before + 20).then_some(())
            })
            .await;
        }
        gateway.reload_to(SERVICE).await;
        is_up(&gateway, &c, true).await;
        load.ends().await;
        eventually("nothing to be in flight", async || {
            let service = gateway.admin("GET /v1/services/app").send().await.json();
            let endpoints = service["endpoints"].as_array()?.clone();
            endpoints
                .iter()
                .all(|one| one["in_flight"] == 0)
                .then_some(())
        })
        .await;
    }
}
