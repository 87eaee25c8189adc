//! Listeners that come, change and go.

use super::*;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use tokio::net::UnixStream;

fn loopback() -> Address {
    Address::Ip(([127, 0, 0, 1], 0).into())
}

/// A free port, bound by nobody: whoever needs an address that is the same twice.
fn somewhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

async fn is_refused(address: SocketAddr) -> bool {
    matches!(TcpStream::connect(address).await, Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

#[tokio::test]
async fn a_listener_is_added_while_others_serve() {
    let edge = echoing(web());
    let mut before = edge.connect().await;
    ask(&mut before, &get("/")).await;
    edge.change(vec![web(), spec("more", Address::Ip(somewhere()))]);
    assert_eq!(ask(&mut before, &get("/1")).await.2, "GET /1 0");
    let mut after = TcpStream::connect(edge.at("more")).await.unwrap();
    assert!(ask(&mut after, &get("/facts")).await.2.contains("\"more\""));
}

#[tokio::test]
async fn a_changed_listener_keeps_its_socket_and_its_connections() {
    let edge = echoing(web());
    let address = edge.at("web");
    let mut before = edge.connect().await;
    ask(&mut before, &get("/")).await;
    edge.change(vec![limited(|limits| limits.exchanges = 1)]);
    assert_eq!(edge.at("web"), address);
    let mut after = edge.connect().await;
    assert!(
        !ask(&mut after, &get("/")).await.1,
        "new connections see the change"
    );
    assert!(ask(&mut before, &get("/")).await.1, "old ones do not");
}

/// The thread that accepts on it may need a moment to close a socket.
#[tokio::test]
async fn a_listener_can_come_back_before_its_socket_is_closed() {
    let edge = echoing(web());
    let place = somewhere();
    let both = || vec![web(), spec("more", Address::Ip(place))];
    edge.change(both());
    let still_open = edge.control.acceptor(&Address::Ip(place));
    edge.change(vec![web()]);
    edge.change(both());
    drop(still_open);
    let mut client = TcpStream::connect(place).await.unwrap();
    let facts = ask(&mut client, &get("/facts")).await.2;
    assert!(facts.contains("\"more\""), "{facts}");
}

#[tokio::test]
async fn a_socket_can_pass_to_another_listener() {
    let place = somewhere();
    let edge = echoing(spec("web", Address::Ip(place)));
    let mut before = edge.connect().await;
    ask(&mut before, &get("/")).await;
    edge.change(vec![spec("renamed", Address::Ip(place))]);
    let mut after = TcpStream::connect(place).await.unwrap();
    assert!(
        ask(&mut after, &get("/facts"))
            .await
            .2
            .contains("\"renamed\"")
    );
    assert_eq!(
        rest(&mut before).await,
        "",
        "the listener it belonged to is gone"
    );
}

#[tokio::test]
async fn a_removed_listener_lets_its_exchanges_finish() {
    let edge = echoing(web());
    let address = edge.at("web");
    let mut idle = edge.connect().await;
    ask(&mut idle, &get("/")).await;
    let mut busy = edge.connect().await;
    busy.write_all(get("/gated").as_bytes()).await.unwrap();
    edge.until(|edge| edge.app.waiting.load(Ordering::Relaxed) == 1)
        .await;
    edge.change(Vec::new());
    assert_eq!(rest(&mut idle).await, "", "an idle connection ends");
    edge.until(|edge| edge.control.connections() == 1).await;
    let leaving = edge.control.listeners();
    assert!(leaving.len() == 1 && leaving[0].draining && leaving[0].connections == 1);
    edge.app.gate.add_permits(1);
    assert_eq!(answer(&mut busy).await, (200, false, "GET /gated 0".into()));
    assert_eq!(rest(&mut busy).await, "");
    edge.until(|edge| edge.control.listeners().is_empty()).await;
    assert!(is_refused(address).await);
}

#[tokio::test]
async fn who_waits_to_be_accepted_is_served_before_a_socket_closes() {
    let edge = echoing(web());
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(edge.connect().await);
    }
    // not a moment for the accept loop in between
    edge.change(Vec::new());
    for client in &mut waiting {
        assert_eq!(ask(client, &get("/")).await.0, 200);
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_had_leaves_all_as_it_was() {
    let edge = echoing(web());
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = Address::Ip(holder.local_addr().unwrap());
    let free = somewhere();
    let place = || Address::Ip(free);
    let specs = vec![
        spec("web", place()),
        spec("taken", taken.clone()),
        spec("twice", place()),
    ];
    let errors = edge.control.prepare(specs).err().unwrap();
    let told: Vec<_> = errors
        .iter()
        .map(|error| (&*error.listener, error.error.kind()))
        .collect();
    assert_eq!(
        told,
        [
            ("taken", ErrorKind::AddrInUse),
            ("twice", ErrorKind::AddrInUse)
        ]
    );
    assert!(
        errors[0]
            .to_string()
            .starts_with(&format!("listener `taken` cannot be bound to {taken}: "))
    );
    let mut client = edge.connect().await;
    assert_eq!(ask(&mut client, &get("/")).await.0, 200);
    assert!(is_refused(free).await);
}

#[tokio::test]
async fn an_address_can_become_wider_and_narrower() {
    let port = somewhere().port();
    let at = |ip: &str| {
        vec![spec(
            "web",
            Address::Ip(SocketAddr::new(ip.parse().unwrap(), port)),
        )]
    };
    let edge = Running::start(Echo::new(), at("127.0.0.1"));
    let mut before = edge.connect().await;
    for ip in ["0.0.0.0", "::", "127.0.0.1", "::"] {
        edge.change(at(ip));
        assert_eq!(ask(&mut before, &get("/")).await.0, 200);
        let mut after = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        assert_eq!(ask(&mut after, &get("/")).await.0, 200);
    }
    edge.change(at("127.0.0.1"));
    let stranger = edge
        .control
        .prepare([at("127.0.0.1"), at("0.0.0.0")].concat());
    assert_eq!(
        stranger.err().unwrap()[0].error.kind(),
        ErrorKind::AddrInUse,
        "both at once cannot be had"
    );
}

#[tokio::test]
async fn a_change_that_is_not_committed_is_undone() {
    let edge = echoing(web());
    let free = somewhere();
    let prepared = edge
        .control
        .prepare(vec![spec("other", Address::Ip(free))])
        .unwrap();
    assert!(!is_refused(free).await);
    drop(prepared);
    assert!(is_refused(free).await);
    assert_eq!(ask(&mut edge.connect().await, &get("/")).await.0, 200);
}

/// All tests come from this machine, which is exempt: so the connections are counted without being made.
#[tokio::test]
async fn a_client_address_has_as_many_connections_as_it_may() {
    let mut spec = limited(|limits| limits.connections_per_address = 2);
    spec.trusted = TrustedProxies::new(["198.51.100.0/24".parse().unwrap()], false);
    let address = spec.addresses[0].clone();
    let edge = echoing(spec);
    let target = edge.control.acceptor(&address).unwrap().target.load_full();
    let events: Arc<dyn EdgeEvents> = edge.counts.clone();
    let open = |from: &str| {
        let peer = Peer::Ip((from.parse::<IpAddr>().unwrap(), 40_000).into());
        target.state.open(&target.spec, &peer, &events)
    };
    let held = [open("192.0.2.1").ok(), open("192.0.2.1").ok()];
    assert!(held.iter().all(Option::is_some));
    assert_eq!(open("192.0.2.1").err(), Some(TurnedAway::Address));
    assert!(open("192.0.2.2").is_ok());
    for exempt in ["198.51.100.7", "127.0.0.1"] {
        let crowd: Vec<_> = (0..3).filter_map(|_| open(exempt).ok()).collect();
        assert_eq!(crowd.len(), 3, "{exempt}");
    }
    assert_eq!(
        edge.control.connections(),
        2,
        "who was refused left nothing"
    );
    drop(held);
    assert!(open("192.0.2.1").is_ok());
}

#[tokio::test]
async fn more_connections_than_allowed_are_turned_away() {
    let edge = echoing(limited(|limits| limits.connections = 2));
    let mut held = [edge.connect().await, edge.connect().await];
    for client in &mut held {
        ask(client, &get("/")).await;
    }
    let mut third = edge.connect().await;
    assert_eq!(rest(&mut third).await, "");
    assert_eq!(edge.counts.turned_away.load(Ordering::Relaxed), 1);
    drop(held);
    edge.until(|edge| edge.control.connections() == 0).await;
    assert_eq!(ask(&mut edge.connect().await, &get("/")).await.0, 200);
}

#[tokio::test]
async fn the_unspecified_ipv6_address_takes_ipv4_too() {
    let edge = echoing(spec("web", Address::Ip("[::]:0".parse().unwrap())));
    let port = edge.at("web").port();
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let facts = ask(&mut client, &get("/facts")).await.2;
    assert!(facts.contains("::ffff:127.0.0.1"), "{facts}");
    let mut client = TcpStream::connect(("::1", port)).await.unwrap();
    assert_eq!(ask(&mut client, &get("/")).await.0, 200);
}

fn socket_in(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("web.sock")
}

#[tokio::test]
async fn a_unix_socket_has_its_mode_and_goes_with_its_listener() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    let at = |mode| spec("web", Address::Unix(path.clone(), mode));
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    let edge = echoing(at(0o660));
    assert_eq!(mode(), 0o660);
    let mut client = UnixStream::connect(&path).await.unwrap();
    assert!(
        ask(&mut client, &get("/facts"))
            .await
            .2
            .contains("peer: Unix, local_port: None")
    );
    edge.change(vec![at(0o600)]);
    assert_eq!(mode(), 0o600);
    assert_eq!(ask(&mut client, &get("/")).await.0, 200);
    edge.change(Vec::new());
    edge.until(|_| !path.exists()).await;
}

#[tokio::test]
async fn only_a_unix_socket_that_nobody_listens_on_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    let specs = || vec![spec("web", Address::Unix(path.clone(), 0o600))];
    let edge = echoing(web());
    let error = |edge: &Running<Echo>| edge.control.prepare(specs()).err().unwrap()[0].error.kind();

    let living = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert_eq!(error(&edge), ErrorKind::AddrInUse);
    drop(living);
    assert!(
        edge.control.prepare(specs()).is_ok(),
        "a stale one is replaced"
    );
    assert!(
        !path.exists(),
        "and removed with the change that was not committed"
    );

    std::fs::write(&path, "precious").unwrap();
    assert_eq!(error(&edge), ErrorKind::AlreadyExists);
    assert!(!std::fs::metadata(&path).unwrap().file_type().is_socket());
}

#[tokio::test]
async fn a_drain_answers_what_was_asked_and_then_is_over() {
    let mut edge = echoing(web());
    let address = edge.at("web");
    let mut idle = edge.connect().await;
    ask(&mut idle, &get("/")).await;
    let mut busy = edge.connect().await;
    busy.write_all(get("/gated").as_bytes()).await.unwrap();
    edge.until(|edge| edge.app.waiting.load(Ordering::Relaxed) == 1)
        .await;
    let mut unused = edge.connect().await;
    edge.until(|edge| edge.control.connections() == 3).await;

    edge.shutdown.send(true).unwrap();
    edge.until(|edge| edge.control.listeners().iter().all(|one| one.draining))
        .await;
    // what was on its way is answered, and told that it is the last
    for waiting in [&mut idle, &mut unused] {
        assert_eq!(
            ask(waiting, &get("/late")).await,
            (200, false, "GET /late 0".into())
        );
    }
    edge.until(|edge| edge.control.connections() == 1).await;
    assert!(is_refused(address).await);
    edge.app.gate.add_permits(1);
    assert_eq!(answer(&mut busy).await, (200, false, "GET /gated 0".into()));
    timeout(PATIENCE, &mut edge.service).await.unwrap().unwrap();
    timeout(PATIENCE, edge.control.drained()).await.unwrap();
    // too late for anything new
    edge.change(vec![spec("web", loopback())]);
    assert!(
        edge.control
            .listeners()
            .iter()
            .all(|one| one.addresses.is_empty())
    );
}

#[tokio::test]
async fn an_unused_connection_does_not_hold_a_drain_up() {
    let edge = echoing(web());
    let _unused = edge.connect().await;
    edge.until(|edge| edge.control.connections() == 1).await;
    edge.control.drain();
    timeout(PATIENCE / 3, edge.control.drained()).await.unwrap();
}

#[tokio::test]
async fn a_drain_is_not_over_before_those_in_the_queue_are_served() {
    let edge = echoing(web());
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = edge.connect().await;
        client.write_all(get("/").as_bytes()).await.unwrap();
        waiting.push(client);
    }
    edge.control.drain();
    timeout(PATIENCE, edge.control.drained()).await.unwrap();
    assert_eq!(edge.counts.opened.load(Ordering::Relaxed), 20);
    for client in &mut waiting {
        assert_eq!(answer(client).await.0, 200);
    }
}

/// Whoever has the fewest gets the next, so that no thread is idle while another is busy.
#[tokio::test]
async fn connections_are_spread_over_the_threads() {
    let counts = Arc::new(Counts::default());
    let apps = vec![Echo::new(), Echo::new()];
    let (mut edge, control) =
        Edge::new(apps.clone(), Arc::new(Plain), counts, Arc::default()).unwrap();
    control.prepare(vec![web()]).unwrap().commit();
    let address = control.listeners()[0].addresses[0].1.unwrap();
    let (_shutdown, watch) = watch::channel(false);
    tokio::spawn(async move { edge.start_service(None, watch, 1).await });
    let mut clients = Vec::new();
    for opened in 1..=10 {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(get("/gated").as_bytes()).await.unwrap();
        clients.push(client);
        let waiting = || {
            apps.iter()
                .map(|app| app.waiting.load(Ordering::Relaxed))
                .sum::<usize>()
        };
        let check = async {
            while waiting() < opened {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, check).await.expect("it is being served");
    }
    for app in &apps {
        assert_eq!(app.waiting.load(Ordering::Relaxed), 5);
    }
}

#[tokio::test]
async fn accepting_goes_on_after_a_panic() {
    let edge = echoing(web());
    edge.counts.defects.store(2, Ordering::Relaxed);
    for _ in 0..2 {
        // it has gone with the panic
        let mut lost = edge.connect().await;
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, lost.read_to_end(&mut rest))
            .await
            .unwrap();
        assert!(rest.is_empty());
    }
    let mut client = edge.connect().await;
    assert_eq!(ask(&mut client, &get("/")).await.0, 200);
    assert_eq!(edge.supervisor.panics(), 2);
    let restarts = edge.supervisor.restarts();
    let task = format!("accepting on {}", edge.at("web"));
    assert_eq!((&*restarts[0].0, restarts[0].1.count), (&*task, 2));
    drop(client);
    // and it can be stopped
    edge.shutdown.send(true).unwrap();
    timeout(PATIENCE, edge.service).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stop_is_not_forgotten_in_a_panic() {
    let edge = echoing(web());
    let mut first = edge.connect().await;
    assert_eq!(ask(&mut first, &get("/")).await.0, 200);
    // the one that waits in the queue is too much for it, while it is being stopped
    edge.counts.defects.store(1, Ordering::Relaxed);
    let _waiting = edge.connect().await;
    edge.change(Vec::new());
    drop(first);
    edge.until(|edge| edge.control.listeners().is_empty()).await;
    edge.shutdown.send(true).unwrap();
    timeout(PATIENCE, edge.service).await.unwrap().unwrap();
}
