//! Bounds on connections: never more than may be, over all threads, and nobody goes without whose time suffices.

use crate::harness::{
    Client, Gate, Gateway, GatewayBuilder, Http2, Http2Origin, Origin, Pki, Received, Reply,
    describe, eventually, loopback,
};
use nix::sys::socket::{MsgFlags, recv};
use parking_lot::Mutex;
use std::fmt::Display;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::copy_bidirectional;

/// What stands before an origin and counts the connections to it. One whose other side has closed it is not counted any
/// more, though nobody may have read that yet: to the gateway it is closed. On a busy machine the kernel may show the end
/// of one later than the beginning of the next, so where there seem to be too many, they have a moment to end.
struct Front {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    open: Vec<TcpStream>,
    most: usize,
    all: usize,
}

impl Front {
    async fn before(origin: &impl Display, most: usize) -> Self {
        let origin = origin.to_string();
        let listener = TcpListener::bind((loopback(), 0)).expect("a listener");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::<Mutex<Seen>>::default();
        let (counts, runtime) = (seen.clone(), tokio::runtime::Handle::current());
        // a thread of its own, so that each is counted when it comes
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                {
                    let mut seen = counts.lock();
                    seen.open.retain(is_open);
                    seen.open.push(socket.try_clone().expect("a descriptor"));
                    let late = Instant::now() + MOMENT;
                    while seen.open.len() > most && Instant::now() < late {
                        std::thread::park_timeout(Duration::from_millis(1));
                        seen.open.retain(is_open);
                    }
                    seen.most = seen.most.max(seen.open.len());
                    seen.all += 1;
                }
                let (origin, counts) = (origin.clone(), counts.clone());
                socket.set_nonblocking(true).expect("a socket");
                runtime.spawn(async move {
                    let mut near = tokio::net::TcpStream::from_std(socket).expect("a socket");
                    let peer = near.peer_addr();
                    if let Ok(mut far) = tokio::net::TcpStream::connect(&origin).await {
                        let _ = (near.set_nodelay(true), far.set_nodelay(true));
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                    let mut seen = counts.lock();
                    seen.open
                        .retain(|one| one.peer_addr().ok() != peer.as_ref().ok().copied());
                });
            }
        });
        Self { address, seen }
    }

    /// The most that were open at the same time.
    fn most(&self) -> usize {
        self.seen.lock().most
    }

    fn open(&self) -> usize {
        let mut seen = self.seen.lock();
        seen.open.retain(is_open);
        seen.open.len()
    }

    /// All that there have been.
    fn all(&self) -> usize {
        self.seen.lock().all
    }
}

const MOMENT: Duration = Duration::from_millis(50);

/// Whether the other side has not closed it.
fn is_open(socket: &TcpStream) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    match recv(socket.as_raw_fd(), &mut [0; 1], flags) {
        Ok(read) => read > 0,
        Err(error) => error == nix::errno::Errno::EAGAIN,
    }
}

const SERVICE: &str = r#"
threads: 2
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
services:
  app: {endpoints: "$app", limits: {$limits}, timeouts: {connect: $connect}, $more}
routes:
  all: {match: {path: /**}, service: app}
  $route
"#;

fn before(app: &impl Display, limits: &str, connect: &str, more: &str) -> GatewayBuilder {
    let builder = Gateway::builder(SERVICE).with("app", app);
    let builder = builder.with("limits", limits).with("connect", connect);
    let route = match more.contains("h2c") {
        true => "",
        false => "chat: {match: {path: /chat}, service: app, websocket: on}",
    };
    builder.with("more", more).with("route", route)
}

const CONNECTIONS: &str = "northgate_upstream_connections";
const APP: [(&str, &str); 1] = [("service", "app")];

/// Many clients on both threads, each with a connection of its own; some of what they ask may not be repeated.
async fn everybody_is_served(gateway: &Gateway, clients: usize, requests: usize) {
    let mut calls = Vec::new();
    for number in 0..clients {
        let mut client = gateway.client().await;
        calls.push(tokio::spawn(async move {
            for request in 0..requests {
                let (method, body) = match (number + request) % 3 {
                    0 => ("POST", "abc"),
                    _ => ("GET", ""),
                };
                let length = body.len();
                let target = format!("/{number}/{request}");
                client
                    .send(format!(
                        "{method} {target} HTTP/1.1\r\nHost: h.test\r\nContent-Length: {length}\r\n\r\n{body}"
                    ))
                    .await;
                let answer = client.response(method).await;
                assert_eq!(answer.status(), 200, "{target}: {}", answer.text());
            }
        }));
    }
    for call in calls {
        call.await.expect("answers");
    }
}

/// What was asked arrived once, each of it.
fn once_each(received: &[Received]) {
    let mut targets: Vec<&str> = received.iter().map(|one| one.target()).collect();
    let all = targets.len();
    targets.sort_unstable();
    targets.dedup();
    assert_eq!(targets.len(), all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_threads_never_have_more_connections_than_may_be_and_everybody_is_served() {
    for (most, slow) in [(1, false), (3, false), (3, true)] {
        let origin = Origin::start(move |request| match slow {
            true => Reply::raw("")
                .then_pause(Duration::from_millis(5))
                .then_reply(Reply::echo(request)),
            false => Reply::echo(request),
        })
        .await;
        let front = Front::before(&origin, most).await;
        let limits = format!("connections_per_endpoint: {most}");
        let gateway = before(&front.address, &limits, "60s", "retries: off")
            .start()
            .await;
        everybody_is_served(&gateway, 12, 40).await;
        assert_eq!(front.most(), most);
        let received = origin.received();
        assert_eq!(received.len(), 12 * 40);
        once_each(&received);
        // most of them went over a connection that was there
        assert!(front.all() < 12 * 40 / 2, "{}", front.all());
        let metrics = gateway.metrics().await;
        assert!(metrics.value(CONNECTIONS, &APP) <= most as f64);
        assert_eq!(metrics.value("northgate_service_pending", &APP), 0.0);
        assert_eq!(metrics.value("northgate_retries_total", &APP), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_under_tls_are_counted_like_others() {
    let pki = Pki::new();
    for protocols in [&["http/1.1"][..], &["h2", "http/1.1"]] {
        let tls = Pki::acceptor(&pki.server(&["app.test"]), protocols, None);
        let origin = Http2Origin::secure(tls, |mut exchange| async move {
            let body = describe(&exchange.peer);
            exchange.body().await;
            exchange.answer(&[], &body, &[]);
        })
        .await;
        let origin_address = origin.to_string();
        let front = Front::before(&origin_address, 2).await;
        let more = "tls: {server_name: app.test, ca: ca.pem}, retries: off";
        let gateway = before(&front.address, "connections_per_endpoint: 2", "60s", more)
            .file("ca.pem", &pki.pem())
            .start()
            .await;
        everybody_is_served(&gateway, 8, 20).await;
        assert!(front.most() <= 2, "{protocols:?}: {}", front.most());
    }
}

/// Each thread needs a connection for its exchanges, and there is one for both: they take turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_of_http2_share_a_connection_and_threads_take_turns() {
    for most in [1, 2] {
        let origin = Http2Origin::clear(|mut exchange| async move {
            exchange.body().await;
            tokio::time::sleep(Duration::from_millis(2)).await;
            exchange.answer(&[], "x", &[]);
        })
        .await;
        let front = Front::before(&origin.to_string(), most).await;
        let limits = format!("connections_per_endpoint: {most}");
        let more = "protocol: h2c, retries: off";
        let gateway = before(&front.address, &limits, "60s", more).start().await;
        everybody_is_served(&gateway, 12, 30).await;
        assert!(front.most() <= most, "{}", front.most());
        assert!(front.all() < 12 * 30 / 2, "{}", front.all());
    }
}

#[tokio::test]
async fn an_idle_connection_of_another_thread_makes_room() {
    let origin = Origin::echo().await;
    let front = Front::before(&origin, 1).await;
    let gateway = before(&front.address, "connections_per_endpoint: 1", "10s", "")
        .start()
        .await;
    // a new connection goes to the thread that serves the fewest
    let (mut first, mut second) = (gateway.client().await, gateway.client().await);
    for _ in 0..5 {
        for client in [&mut first, &mut second] {
            assert_eq!(client.get("h.test", "/").await.status(), 200);
        }
    }
    assert_eq!(front.most(), 1);
}

#[tokio::test]
async fn a_websocket_holds_its_place_and_who_waits_too_long_is_told_so() {
    let origin = Origin::start(|request| match request.target() {
        "/chat" => Reply::raw(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )
        .then_hang(),
        _ => Reply::echo(request),
    })
    .await
    .lenient();
    let front = Front::before(&origin, 1).await;
    let gateway = before(&front.address, "connections_per_endpoint: 1", "300ms", "")
        .start()
        .await;
    let mut tunnel = gateway.client().await;
    tunnel
        .send(
            "GET /chat HTTP/1.1\r\nHost: h.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    tunnel.head().await;
    let began = Instant::now();
    let answer = gateway.get("/").await;
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.problem(), "upstream.connections");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let proxy_status = answer.header("proxy-status").unwrap_or_default().to_owned();
    assert!(
        proxy_status.contains("connection_limit_reached"),
        "{proxy_status}"
    );
    let refused = [("reason", "upstream.connections")];
    gateway
        .counts("northgate_refused_total", &refused, 1.0)
        .await;
    gateway.counts(CONNECTIONS, &APP, 1.0).await;
    let status = gateway.admin("GET /v1/services/app").send().await;
    assert_eq!(status.json()["endpoints"][0]["connections"], 1);
    assert_eq!(status.json()["pending"], 0);
    // that says nothing against the endpoint
    assert_eq!(status.json()["endpoints"][0]["state"], "up");
    tunnel.reset();
    eventually("a place", async || {
        (gateway.get("/").await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(front.most(), 1);
}

#[tokio::test]
async fn who_leaves_waits_no_longer_and_no_more_wait_than_may() {
    let gate = Gate::closed();
    let closed = gate.clone();
    let origin = Origin::start(move |request| match request.target() {
        "/slow" => Reply::after(&closed).then_reply(Reply::ok("slow")),
        _ => Reply::echo(request),
    })
    .await;
    let front = Front::before(&origin, 1).await;
    let limits = "connections_per_endpoint: 1, pending: 2";
    let gateway = before(&front.address, limits, "60s", "").start().await;
    let slow = gateway.call("GET /slow");
    let slow = tokio::spawn(async move { slow.send().await.status() });
    origin.has_received(1).await;
    let mut waiting = Vec::new();
    for number in 1..=2 {
        let mut client = gateway.client().await;
        client
            .send("GET /left HTTP/1.1\r\nHost: h.test\r\n\r\n")
            .await;
        waiting.push(client);
        let pending = f64::from(number);
        gateway
            .counts("northgate_service_pending", &APP, pending)
            .await;
    }
    assert_eq!(
        gateway.get("/beyond").await.problem(),
        "upstream.connections"
    );
    waiting.into_iter().for_each(Client::reset);
    gateway.counts("northgate_service_pending", &APP, 0.0).await;
    // over HTTP/2 too
    let mut client = Http2::connect(gateway.public()).await;
    let url = format!("http://{}/left", gateway.public());
    {
        let call = client.get(&url);
        tokio::pin!(call);
        let pending = gateway.counts("northgate_service_pending", &APP, 1.0);
        tokio::select! {
            _ = &mut call => panic!("nobody may answer"),
            _ = pending => {}
        }
    }
    drop(client);
    gateway.counts("northgate_service_pending", &APP, 0.0).await;
    gate.open();
    assert_eq!(slow.await.expect("an answer"), 200);
    assert_eq!(gateway.get("/").await.status(), 200);
    let received = origin.received();
    let targets: Vec<&str> = received.iter().map(|one| one.target()).collect();
    assert_eq!(targets, ["/slow", "/"]);
}

#[tokio::test]
async fn who_waits_is_told_when_its_own_time_is_over() {
    let origin = Origin::start(|_| Reply::hang()).await;
    let front = Front::before(&origin, 1).await;
    let yaml = "connections_per_endpoint: 1";
    let gateway = before(&front.address, yaml, "60s", "").start().await;
    let mut first = gateway.client().await;
    first.send("GET / HTTP/1.1\r\nHost: h.test\r\n\r\n").await;
    origin.has_received(1).await;
    let call = gateway
        .call("POST /s/m")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "300m");
    let answer = call.send().await;
    assert_eq!(answer.header("grpc-status"), Some("4"), "{}", answer.text());
    assert_eq!(origin.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_breaks_its_connections_gives_their_places_back() {
    let origin = Origin::start(|request| match request.target().len() % 3 {
        0 => Reply::reset(),
        1 => Reply::echo(request).then_close(),
        _ => Reply::echo(request),
    })
    .await
    .lenient();
    let front = Front::before(&origin, 2).await;
    let limits = "connections_per_endpoint: 2";
    let more = "retries: off, outlier: off";
    let gateway = before(&front.address, limits, "60s", more).start().await;
    let mut calls = Vec::new();
    for number in 0..8 {
        let address = gateway.public();
        calls.push(tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            for request in 0..30 {
                let target = format!("/{}", "x".repeat((number + request) % 7));
                client
                    .send(format!("GET {target} HTTP/1.1\r\nHost: h.test\r\n\r\n"))
                    .await;
                let status = client.response("GET").await.status();
                assert!(matches!(status, 200 | 502), "{status}");
                if status == 502 {
                    client = Client::connect(address).await;
                }
            }
        }));
    }
    for call in calls {
        call.await.expect("answers");
    }
    assert!(front.most() <= 2, "{}", front.most());
    let gauge = async || {
        let places = gateway.metrics().await.value(CONNECTIONS, &APP);
        (places == front.open() as f64).then_some(())
    };
    eventually("the places of closed connections", gauge).await;
}

#[tokio::test]
async fn another_bound_begins_anew_and_leaves_no_connections_behind() {
    let origin = Origin::echo().await;
    let front = Front::before(&origin, 3).await;
    let mut gateway = before(&front.address, "connections_per_endpoint: 3", "10s", "")
        .start()
        .await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = gateway.client().await;
        assert_eq!(client.get("h.test", "/").await.status(), 200);
        clients.push(client);
    }
    let before = front.open();
    assert!((1..=3).contains(&before), "{before}");
    gateway.set("limits", "connections_per_endpoint: 1");
    gateway.reload_to(SERVICE).await;
    let closed = async || (front.open() == 0).then_some(());
    eventually("the idle ones are closed", closed).await;
    for client in &mut clients {
        assert_eq!(client.get("h.test", "/").await.status(), 200);
        assert!(front.open() <= 1);
    }
    gateway.set("limits", "in_flight: 10");
    gateway.reload_to(SERVICE).await;
    eventually("and without a bound", closed).await;
    assert_eq!(gateway.metrics().await.find(CONNECTIONS, &APP), None);
}

#[tokio::test]
async fn health_checks_have_connections_of_their_own() {
    let gate = Gate::closed();
    let closed = gate.clone();
    let origin = Origin::start(move |request| match request.target() {
        "/slow" => Reply::after(&closed).then_reply(Reply::ok("slow")),
        _ => Reply::echo(request),
    })
    .await;
    let more = "health_check: {path: /healthz, interval: 100ms}";
    let gateway = before(&origin, "connections_per_endpoint: 1", "10s", more)
        .start()
        .await;
    let slow = gateway.call("GET /slow");
    let slow = tokio::spawn(async move { slow.send().await.status() });
    let checked = || {
        origin
            .received()
            .iter()
            .filter(|one| one.target() == "/healthz")
            .count()
    };
    eventually("the request", async || {
        origin
            .received()
            .iter()
            .any(|one| one.target() == "/slow")
            .then_some(())
    })
    .await;
    let before = checked();
    eventually("checks", async || (checked() >= before + 3).then_some(())).await;
    gateway.counts(CONNECTIONS, &APP, 1.0).await;
    gate.open();
    assert_eq!(slow.await.expect("an answer"), 200);
}
