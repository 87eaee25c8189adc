//! Endpoints that fail: who finds out, how soon, what clients notice, and how they come back.

use crate::harness::{Call, Gateway, Origin, Received, Reply, eventually, loopback};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// What an origin does, changed while it runs.
#[derive(Clone, Default)]
struct Mode(Arc<AtomicU8>);

const WELL: u8 = 0;
const HANGS: u8 = 1;
const RUBBISH: u8 = 2;
const BUSY: u8 = 3;
const BREAKS_OFF: u8 = 4;

impl Mode {
    fn set(&self, mode: u8) {
        self.0.store(mode, Relaxed);
    }

    fn reply(&self) -> Reply {
        match self.0.load(Relaxed) {
            HANGS => Reply::hang(),
            RUBBISH => Reply::raw("rubbish\r\n\r\n").then_close(),
            BUSY => Reply::status(503, &[], "busy"),
            BREAKS_OFF => {
                Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal").then_close()
            }
            _ => Reply::ok("well"),
        }
    }

    fn script(&self) -> impl Fn(&Received) -> Reply + Send + Sync + 'static {
        let mode = self.clone();
        move |_| mode.reply()
    }
}

/// Clients that ask without pause, and what they got.
struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<BTreeMap<u16, usize>>,
}

impl Load {
    fn on(gateway: &Gateway) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for _ in 0..3 {
            let (stop, address) = (stop.clone(), gateway.public());
            clients.spawn(async move {
                let mut statuses = BTreeMap::new();
                while !stop.load(Relaxed) {
                    let answer = Call::new(address, "GET /").send().await;
                    *statuses.entry(answer.status()).or_default() += 1;
                }
                statuses
            });
        }
        Self { stop, clients }
    }

    async fn ends(self) -> BTreeMap<u16, usize> {
        self.stop.store(true, Relaxed);
        let mut all = BTreeMap::new();
        for statuses in self.clients.join_all().await {
            for (status, count) in statuses {
                *all.entry(status).or_default() += count;
            }
        }
        all
    }
}

async fn endpoint(gateway: &Gateway, address: &str) -> Value {
    let response = gateway.admin("GET /v1/services/app").send().await;
    let service = response.json();
    let endpoints = service["endpoints"].as_array().expect("endpoints");
    let found = endpoints.iter().find(|one| one["address"] == address);
    found
        .unwrap_or_else(|| panic!("{address} in {service}"))
        .clone()
}

/// Waits until the endpoint is in this state, and tells why it is.
async fn becomes(gateway: &Gateway, address: &str, state: &str) -> String {
    eventually(&format!("{address} to be {state}"), async || {
        let endpoint = endpoint(gateway, address).await;
        (endpoint["state"] == state).then(|| endpoint["reason"].as_str().unwrap_or("").to_owned())
    })
    .await
}

async fn up(gateway: &Gateway, address: &str) -> f64 {
    let labels = [("service", "app"), ("endpoint", address)];
    gateway
        .metrics()
        .await
        .value("northgate_endpoint_up", &labels)
}

/// A listener whose queue is full: nobody gets a connection, and nobody is refused one.
struct Clogged {
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Clogged {
    async fn at(address: &str) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        // the listener before it goes with its task
        eventually("the address to be free", async || {
            socket.bind(address.parse().expect("an address")).ok()
        })
        .await;
        let listener = socket.listen(1).expect("a listener");
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(
            Duration::from_millis(100),
            TcpStream::connect(listener.local_addr().expect("its address")),
        )
        .await
        {
            waiting.push(stream);
        }
        Self {
            _listener: listener,
            _waiting: waiting,
        }
    }
}

const THREE: &str = r#"
services:
  app:
    endpoints: ["$a", "$b", "$c"]
    outlier: {consecutive_failures: 3, ejection: 500ms, ejection_max: 1s}
    timeouts: {connect: 200ms, response_header: 500ms}
routes: {all: {match: {path: /**}, service: app}}
"#;

async fn three() -> (Gateway, [Origin; 2], Mode, Origin) {
    let (a, b) = (Origin::named("a").await, Origin::named("b").await);
    let mode = Mode::default();
    let c = Origin::start(mode.script()).await;
    let gateway = Gateway::builder(THREE)
        .with("a", &a)
        .with("b", &b)
        .with("c", &c)
        .start()
        .await;
    (gateway, [a, b], mode, c)
}

#[tokio::test]
async fn one_of_three_fails_in_every_way_and_comes_back_and_no_request_is_lost() {
    let (gateway, _others, mode, mut c) = three().await;
    let address = c.address().to_owned();
    let load = Load::on(&gateway);
    c.has_received(5).await;

    mode.set(RUBBISH);
    let reason = becomes(&gateway, &address, "ejected").await;
    assert_eq!(
        reason,
        "3 failures in a row, the last: no valid answer; for 500ms"
    );
    assert_eq!(up(&gateway, &address).await, 0.0);
    mode.set(WELL);
    becomes(&gateway, &address, "up").await;
    let before = c.received().len();
    c.has_received(before + 5).await;

    // killed: connections are refused
    drop(c);
    let reason = becomes(&gateway, &address, "ejected").await;
    assert!(reason.contains("could not be reached"), "{reason}");
    c = Origin::at(address.parse().expect("an address"), mode.script()).await;
    becomes(&gateway, &address, "up").await;
    c.has_received(5).await;

    // slow to connect
    drop(c);
    let clogged = Clogged::at(&address).await;
    let reason = becomes(&gateway, &address, "ejected").await;
    assert!(reason.contains("could not be reached"), "{reason}");
    drop(clogged);
    let c = Origin::at(address.parse().expect("an address"), mode.script()).await;
    becomes(&gateway, &address, "up").await;
    c.has_received(5).await;

    let statuses = load.ends().await;
    assert_eq!(
        statuses.keys().copied().collect::<Vec<_>>(),
        [200],
        "{statuses:?}"
    );
    let labels = [("service", "app")];
    let ejections = gateway
        .counts("northgate_ejections_total", &labels, 3.0)
        .await;
    assert_eq!(
        ejections.value("northgate_upstream_requests_total", &[("status", "503")]),
        0.0
    );
    gateway.logs("an endpoint is left out").await;
    gateway.logs("an endpoint is taken in again").await;
}

#[tokio::test]
async fn an_endpoint_that_hangs_costs_a_few_requests_and_is_then_left_out() {
    let (gateway, _others, mode, c) = three().await;
    mode.set(HANGS);
    let load = Load::on(&gateway);
    let reason = becomes(&gateway, c.address(), "ejected").await;
    assert!(reason.contains("no answer in time"), "{reason}");
    mode.set(WELL);
    becomes(&gateway, c.address(), "up").await;
    let statuses = load.ends().await;
    // what was asked before it was found out, by three clients at once
    let late = statuses.iter().filter(|(status, _)| **status != 200);
    assert!(
        late.map(|(_, count)| count).sum::<usize>() <= 6,
        "{statuses:?}"
    );
}

#[tokio::test]
async fn busy_answers_and_bodies_that_break_off_eject_and_each_ejection_is_longer() {
    let mode = Mode::default();
    let (other, failing) = (Origin::named("a").await, Origin::start(mode.script()).await);
    let yaml = r#"
services:
  app:
    endpoints: ["$a", "$b"]
    outlier: {consecutive_failures: 2, ejection: 2s, ejection_max: 3s}
routes: {all: {match: {path: /**}, service: app}}
"#;
    let gateway = Gateway::builder(yaml)
        .with("a", &other)
        .with("b", &failing)
        .start()
        .await;
    // the second one follows within the time in which the first is not forgotten
    for (how, seconds) in [(BUSY, 2), (BREAKS_OFF, 3)] {
        mode.set(how);
        let reason = eventually("an ejection", async || {
            let _ = gateway.call("GET /").try_send().await;
            let endpoint = endpoint(&gateway, failing.address()).await;
            let reason = endpoint["reason"].as_str().unwrap_or("").to_owned();
            (endpoint["state"] == "ejected").then_some(reason)
        })
        .await;
        let ejected = Instant::now();
        assert!(reason.ends_with(&format!("for {seconds}s")), "{reason}");
        mode.set(WELL);
        becomes(&gateway, failing.address(), "up").await;
        // not before its time, as far as can be seen from here, and soon after
        let took = ejected.elapsed();
        let (least, most) = (seconds * 1000 - 500, seconds * 1000 + 1500);
        assert!(
            (least..most).contains(&(took.as_millis() as u64)),
            "{took:?}"
        );
    }
}

#[tokio::test]
async fn no_more_are_ejected_than_may_be_and_off_ejects_nobody() {
    let busy = Mode::default();
    busy.set(BUSY);
    let origins = [
        Origin::start(busy.script()).await,
        Origin::start(busy.script()).await,
        Origin::start(busy.script()).await,
    ];
    let gateway = Gateway::builder(&THREE.replace("500ms,", "1h,").replace("1s}", "1h}"))
        .with("a", &origins[0])
        .with("b", &origins[1])
        .with("c", &origins[2])
        .start()
        .await;
    for _ in 0..60 {
        assert_eq!(gateway.get("/").await.status(), 503);
    }
    let ejected = async || {
        let status = gateway.status().await;
        let endpoints = status["services"][0]["endpoints"]
            .as_array()
            .expect("a list")
            .clone();
        endpoints
            .iter()
            .filter(|one| one["state"] == "ejected")
            .count()
    };
    assert_eq!(ejected().await, 1);
    let shown = gateway.command(&["status"]).await.stdout;
    assert!(
        shown.contains("ejected since ") && shown.contains("failures in a row"),
        "{shown}"
    );
    // another reload forgets nothing, and `off` lifts what there is
    let gone = THREE.replace("500ms,", "1h,").replace("1s}", "1h}");
    gateway.reload_to(&gone.replace("200ms", "300ms")).await;
    assert_eq!(ejected().await, 1);
    let off = "outlier: {consecutive_failures: 3, ejection: 500ms, ejection_max: 1s}";
    gateway.reload_to(&THREE.replace(off, "outlier: off")).await;
    eventually("nobody to be ejected", async || {
        (ejected().await == 0).then_some(())
    })
    .await;
    for _ in 0..30 {
        gateway.get("/").await;
    }
    assert_eq!(ejected().await, 0);
}

const CHECKED: &str = r#"
services:
  app:
    endpoints: ["$a", "$b", "$c"]
    outlier: off
    panic_threshold: off
    health_check: {path: /healthz?full=1, host: health.test, status: [200, 204-299], body: {regex: "^o.$"},
      interval: 100ms, timeout: 5s, jitter: 0%}
routes: {all: {match: {path: /**}, service: app}}
"#;

fn answers(
    target: &'static str,
    script: impl Fn() -> Reply + Send + Sync + 'static,
) -> impl Fn(&Received) -> Reply + Send + Sync + 'static {
    move |request| match request.target() == target {
        true => script(),
        false => Reply::ok("served"),
    }
}

#[tokio::test]
async fn checks_over_http_look_at_status_and_body_before_the_gateway_is_ready() {
    let well = Origin::start(answers("/healthz?full=1", || Reply::ok("ok"))).await;
    let wrong = Arc::new(AtomicBool::new(true));
    let flag = wrong.clone();
    let changing = Origin::start(answers("/healthz?full=1", move || {
        match flag.load(Relaxed) {
            true => Reply::ok("starting"),
            false => Reply::chunked(&[], &["o", "k"]),
        }
    }))
    .await;
    let absent = Origin::start(answers("/healthz?full=1", || Reply::status(404, &[], "ok"))).await;
    let gateway = Gateway::builder(CHECKED)
        .with("a", &well)
        .with("b", &changing)
        .with("c", &absent)
        .start()
        .await;
    // ready means that the first round is over
    let first = endpoint(&gateway, changing.address()).await;
    assert_eq!(first["state"], "unhealthy");
    assert_eq!(first["reason"], "the body does not have what it must");
    assert!(
        first["since"].is_string() && first["up"] == false,
        "{first}"
    );
    let second = endpoint(&gateway, absent.address()).await;
    assert_eq!(
        (&second["state"], &second["reason"]),
        (&"unhealthy".into(), &"answered 404".into())
    );
    assert_eq!(endpoint(&gateway, well.address()).await["state"], "up");
    let check = &well.received()[0];
    assert_eq!(
        (check.method(), check.header("host")),
        ("GET", Some("health.test"))
    );
    let served = |origin: &Origin| {
        origin
            .received()
            .iter()
            .filter(|one| one.target() == "/x")
            .count()
    };
    for _ in 0..10 {
        assert_eq!(gateway.get("/x").await.status(), 200);
    }
    assert_eq!(
        (served(&well), served(&changing), served(&absent)),
        (10, 0, 0)
    );

    wrong.store(false, Relaxed);
    becomes(&gateway, changing.address(), "up").await;
    wrong.store(true, Relaxed);
    becomes(&gateway, changing.address(), "unhealthy").await;
    let metrics = gateway.metrics().await;
    for result in ["pass", "fail"] {
        let labels = [("service", "app"), ("result", result)];
        assert!(
            metrics.value("northgate_health_checks_total", &labels) >= 3.0,
            "{result}"
        );
    }
    // turned off, they bar nobody any more, and turned on again they begin anew
    let off: String = CHECKED
        .lines()
        .filter(|line| !line.contains("health_check") && !line.contains("interval"))
        .map(|line| format!("{line}\n"))
        .collect();
    gateway.reload_to(&off).await;
    becomes(&gateway, changing.address(), "up").await;
    becomes(&gateway, absent.address(), "up").await;
    gateway.reload_to(CHECKED).await;
    becomes(&gateway, absent.address(), "unhealthy").await;
}

#[tokio::test]
async fn a_tcp_check_finds_who_listens_and_nothing_healthy_is_a_503_or_a_panic() {
    let origin = Origin::named("a").await;
    let gone = format!("{}:9", loopback());
    let yaml = r#"
services:
  app: {endpoints: ["$gone"], health_check: {tcp: on, interval: 100ms}, panic_threshold: off}
  both: {endpoints: ["$gone", "$app"], health_check: {tcp: on, port: 9, interval: 100ms}}
routes:
  app: {match: {path: /**}, service: app}
  both: {match: {path: /both}, service: both}
"#;
    let gateway = Gateway::builder(yaml)
        .with("app", &origin)
        .with("gone", &gone)
        .start()
        .await;
    let endpoint = endpoint(&gateway, &gone).await;
    assert_eq!(endpoint["state"], "unhealthy");
    assert!(
        endpoint["reason"]
            .as_str()
            .is_some_and(|why| why.contains("refused")),
        "{endpoint}"
    );
    let answer = gateway.get("/").await;
    assert_eq!(
        (answer.status(), answer.problem()),
        (503, "upstream.none".to_owned())
    );
    assert_eq!(answer.header("retry-after"), Some("1"));
    // both are taken for dead, so health is ignored
    for _ in 0..5 {
        assert_eq!(gateway.get("/both").await.status(), 200);
    }
    let status = gateway.status().await;
    let both = status["services"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|one| one["name"] == "both");
    assert_eq!(both.expect("it")["panicking"], true);
}

#[tokio::test]
async fn a_start_waits_for_the_first_round_and_not_for_ever() {
    let hung = Origin::start(|_| Reply::hang()).await;
    let yaml = r#"
services: {app: {endpoints: "$app", health_check: {path: /, timeout: 1m}}}
routes: {all: {match: {path: /**}, service: app}}
"#;
    let began = Instant::now();
    let gateway = Gateway::builder(yaml).with("app", &hung).begin();
    let reason = eventually("a reason", async || {
        let answer = gateway
            .admin("GET /readyz")
            .host("localhost")
            .try_send()
            .await
            .ok()?;
        answer
            .text()
            .contains("first health checks of app")
            .then(|| answer.status())
    })
    .await;
    assert_eq!(reason, 503);
    eventually("to be ready", async || {
        let answer = gateway
            .admin("GET /readyz")
            .host("localhost")
            .try_send()
            .await
            .ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;
    assert!(
        (4..15).contains(&began.elapsed().as_secs()),
        "{:?}",
        began.elapsed()
    );
    // before the first result it counts as usable
    assert_eq!(endpoint(&gateway, hung.address()).await["state"], "up");
}

#[tokio::test]
async fn a_check_that_hangs_holds_up_no_other_and_reloads_neither_starve_nor_multiply_them() {
    let (hangs, slow) = (Origin::start(|_| Reply::hang()).await, Mode::default());
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, mode) = (asked.clone(), slow.clone());
    // slower than the reloads follow one another
    let changing = Origin::start(move |_| {
        count.fetch_add(1, Relaxed);
        Reply::raw("")
            .then_pause(Duration::from_millis(300))
            .then_reply(mode.reply())
    })
    .await;
    let yaml = r#"
services:
  app:
    endpoints: ["$hangs", "$changing"]
    health_check: {path: /, interval: 500ms, timeout: 2s, jitter: 0%, unhealthy: 2}
    timeouts: {idle: $idle}
routes: {all: {match: {path: /**}, service: app}}
"#;
    let mut gateway = Gateway::builder(yaml)
        .with("hangs", &hangs)
        .with("changing", &changing)
        .with("idle", "7s")
        .start()
        .await;
    slow.set(BUSY);
    let (began, before) = (Instant::now(), asked.load(Relaxed));
    let mut reloads = 0;
    while began.elapsed() < Duration::from_secs(5) {
        // another snapshot each time, and another connection bound in the endpoints' peers
        gateway.set("idle", format!("{}ms", 5000 + reloads));
        gateway.write_config(yaml);
        let answer = gateway
            .admin("POST /v1/reload")
            .host("localhost")
            .send()
            .await;
        assert_eq!(answer.status(), 200);
        reloads += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(reloads >= 20, "{reloads}");
    let reason = becomes(&gateway, changing.address(), "unhealthy").await;
    assert_eq!(reason, "answered 503");
    becomes(&gateway, hangs.address(), "unhealthy").await;
    let checks = asked.load(Relaxed) - before;
    let expected = began.elapsed().as_millis() / 500;
    assert!(
        (5..=expected as usize + 2).contains(&checks),
        "{checks} of {expected}, {reloads} reloads"
    );
}

/// A server of another make: gRPC's own for Python.
struct GrpcServer {
    child: Child,
    address: String,
}

impl GrpcServer {
    fn start(state: &std::path::Path) -> Option<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/harness/serving_grpc.py");
        let address = format!("{}:50051", loopback());
        let mut child = Command::new("/usr/bin/python3")
            .args([script, &address])
            .arg(state)
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).ok()?;
        let server = Self { child, address };
        (line.trim() == "ready").then_some(server)
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_server_of_another_make_is_asked_by_the_grpc_health_protocol() {
    let dir = tempfile::tempdir().expect("a folder");
    let state = dir.path().join("state");
    std::fs::write(&state, "1").expect("a file");
    let Some(server) = GrpcServer::start(&state) else {
        panic!("python3-grpcio is missing: tests/run.sh installs it");
    };
    let plain = Origin::echo().await.lenient();
    let yaml = r#"
services:
  app:
    endpoints: ["$grpc", "$plain"]
    health_check: {grpc: {service: shop.Orders}, interval: 100ms, jitter: 0%}
  other: {endpoints: ["$grpc"], health_check: {grpc: {service: shop.Unknown}}}
routes:
  app: {match: {path: /**}, service: app}
  other: {match: {path: /other}, service: other}
"#;
    let gateway = Gateway::builder(yaml)
        .with("grpc", &server.address)
        .with("plain", &plain)
        .start()
        .await;
    assert_eq!(endpoint(&gateway, &server.address).await["state"], "up");
    assert_eq!(
        endpoint(&gateway, plain.address()).await["state"],
        "unhealthy"
    );
    let other = gateway
        .admin("GET /v1/services/other")
        .host("localhost")
        .send()
        .await
        .json();
    assert_eq!(
        other["endpoints"][0]["reason"],
        "it does not know the service (NOT_FOUND)"
    );
    std::fs::write(&state, "2").expect("a file");
    let reason = becomes(&gateway, &server.address, "unhealthy").await;
    assert_eq!(reason, "answered NOT_SERVING");
    std::fs::write(&state, "1").expect("a file");
    becomes(&gateway, &server.address, "up").await;
}

/// Who is left out is never the last one, also where the others go afterwards.
#[tokio::test]
async fn an_ejected_endpoint_returns_when_the_others_are_gone() {
    let busy = Mode::default();
    busy.set(BUSY);
    let others = [Origin::named("a").await, Origin::named("b").await];
    let failing = Origin::start(busy.script()).await;
    let yaml = r#"
services:
  app:
    endpoints: [$endpoints]
    outlier: {consecutive_failures: 3, ejection: 1h, ejection_max: 1h}
    panic_threshold: off
routes: {all: {match: {path: /**}, service: app}}
"#;
    let all = format!("\"{}\", \"{}\", \"{failing}\"", others[0], others[1]);
    let mut gateway = Gateway::builder(yaml).with("endpoints", all).start().await;
    eventually("an ejection", async || {
        gateway.get("/").await;
        (endpoint(&gateway, failing.address()).await["state"] == "ejected").then_some(())
    })
    .await;
    busy.set(WELL);
    gateway.set("endpoints", format!("\"{failing}\""));
    gateway.reload_to(yaml).await;
    let reason = becomes(&gateway, failing.address(), "up").await;
    assert_eq!(reason, "too few endpoints are left");
    assert_eq!(gateway.get("/").await.text(), "well");
}
