//! The edge with real sockets: an echoing application behind it, raw clients before it.

mod http1;
mod http2;
mod listeners;
mod proxied;
mod tls;
mod turns;

use super::*;
use crate::exchange::client::TrustedProxies;
use crate::exchange::connection::{connection_of, is_draining, refused_content};
use bytes::Bytes;
use parking_lot::Mutex;
use pingora_core::apps::{HttpPersistentSettings, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Counts.
#[derive(Default)]
struct Counts {
    opened: AtomicUsize,
    closed: AtomicUsize,
    turned_away: AtomicUsize,
    panicked: AtomicUsize,
    handshakes_finished: Mutex<Vec<(&'static str, bool)>>,
    handshakes_failed: Mutex<Vec<HandshakeFailure>>,
    not_introduced: Mutex<Vec<ProxyProtocolFailure>>,
    /// How many more connections are too much for it.
    defects: AtomicUsize,
}

impl EdgeEvents for Counts {
    fn opened(&self, _: &ListenerFacts) {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let fewer = |left: usize| left.checked_sub(1);
        let defects = &self.defects;
        let defect = defects.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        assert!(defect.is_err(), "asked to");
    }
    fn closed(&self, _: &ListenerFacts) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }
    fn turned_away(&self, _: &ListenerFacts, _: &Peer, _: TurnedAway) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }
    fn handshake_finished(&self, _: &ListenerFacts, version: &'static str, resumed: bool) {
        self.handshakes_finished.lock().push((version, resumed));
    }
    fn handshake_failed(&self, _: &ListenerFacts, reason: HandshakeFailure) {
        self.handshakes_failed.lock().push(reason);
    }
    fn proxy_protocol_failed(&self, _: &ListenerFacts, _: &Peer, reason: ProxyProtocolFailure) {
        self.not_introduced.lock().push(reason);
    }
    fn panicked(&self, _: &ListenerFacts) {
        self.panicked.fetch_add(1, Ordering::Relaxed);
    }
    fn accept_paused(&self, _: &ListenerFacts) {}
}

/// Refuses with the code of the problem.
struct Plain;

impl Refuse for Plain {
    fn refusal(&self, connection: &Connection, _: &[u8], problem: Problem) -> Vec<u8> {
        let body = format!("{} {}", connection.listener.name, problem.kind.code());
        let status = problem.kind.status_code();
        format!(
            "HTTP/1.1 {status} Refused\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    fn rejected(&self, _: &Connection) {}
    fn sent_away(&self, _: &Connection, _: Problem) {}
}

/// Answers with what it was asked, on some paths in a peculiar way.
struct Echo {
    /// `/gated` waits for one of these.
    gate: Semaphore,
    /// How many wait there.
    waiting: AtomicUsize,
    /// How many have begun to read the content of `/read`.
    reading: AtomicUsize,
    /// Content that turned out malformed.
    broken: AtomicUsize,
}

impl Echo {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            gate: Semaphore::new(0),
            waiting: AtomicUsize::new(0),
            reading: AtomicUsize::new(0),
            broken: AtomicUsize::new(0),
        })
    }

    /// What is answered; none if the content cannot be read.
    async fn answer(&self, session: &mut ServerSession) -> Option<Bytes> {
        let head = session.req_header();
        let (method, path) = (head.method.to_string(), head.uri.path().to_owned());
        match path.as_str() {
            "/panic" => panic!("asked to"),
            "/large" => return Some(vec![b'x'; 3 << 20].into()),
            "/unread" => return Some("unread".into()),
            "/facts" => {
                let connection = connection_of(session.digest()?)?;
                return Some(format!("{connection:?}").into());
            }
            "/gated" => {
                self.waiting.fetch_add(1, Ordering::Relaxed);
                tokio::select! {
                    permit = self.gate.acquire() => permit.ok()?.forget(),
                    gone = session.read_body_or_idle(true) => {
                        gone.ok()?;
                        return None;
                    }
                }
            }
            _ => {}
        }
        let mut bytes = 0;
        let counts = path == "/read";
        loop {
            match session.read_request_body().await {
                Ok(Some(chunk)) => {
                    bytes += chunk.len();
                    self.reading
                        .fetch_add(usize::from(counts), Ordering::Relaxed);
                }
                Ok(None) => return Some(format!("{method} {path} {bytes}").into()),
                Err(error) => {
                    let malformed = refused_content(&error).is_some();
                    self.broken
                        .fetch_add(usize::from(malformed), Ordering::Relaxed);
                    return None;
                }
            }
        }
    }

    /// Takes the upgrade that was asked for and sends back what comes.
    async fn upgrade(&self, mut session: ServerSession) -> Option<()> {
        let mut head = ResponseHeader::build(101, None).ok()?;
        head.insert_header("Upgrade", "echo").ok()?;
        session.write_response_header(Box::new(head)).await.ok()?;
        while let Ok(Some(bytes)) = session.read_request_body().await {
            session.write_response_body(bytes, false).await.ok()?;
        }
        Some(())
    }
}

#[async_trait]
impl HttpServerApp for Echo {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !session.read_request().await.ok()? {
            return None;
        }
        if session.req_header().uri.path() == "/upgrade" {
            self.upgrade(session).await;
            return None;
        }
        let body = self.answer(&mut session).await?;
        let mut head = ResponseHeader::build(200, None).ok()?;
        head.insert_header("Content-Length", body.len()).ok()?;
        if session.digest().is_some_and(is_draining) {
            session.set_keepalive(None);
        }
        session.write_response_header(Box::new(head)).await.ok()?;
        session.write_response_body(body, true).await.ok()?;
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }
}

/// An edge that runs.
struct Running<A> {
    app: Arc<A>,
    control: EdgeControl,
    counts: Arc<Counts>,
    supervisor: Arc<Supervisor>,
    shutdown: watch::Sender<bool>,
    service: JoinHandle<()>,
}

impl<A> Running<A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    fn start(app: Arc<A>, specs: Vec<ListenerSpec>) -> Self {
        let counts = Arc::new(Counts::default());
        let supervisor = Arc::new(Supervisor::default());
        let (mut edge, control) = Edge::new(
            vec![app.clone(), app.clone()],
            Arc::new(Plain),
            counts.clone(),
            supervisor.clone(),
        )
        .unwrap();
        control.prepare(specs).unwrap().commit();
        let (shutdown, watch) = watch::channel(false);
        let service = tokio::spawn(async move { edge.start_service(None, watch, 1).await });
        Self {
            app,
            control,
            counts,
            supervisor,
            shutdown,
            service,
        }
    }

    fn change(&self, specs: Vec<ListenerSpec>) {
        self.control.prepare(specs).unwrap().commit();
    }

    /// Where the first address of a listener is.
    fn at(&self, name: &str) -> SocketAddr {
        let listeners = self.control.listeners();
        let listener = listeners.iter().find(|one| &*one.name == name).unwrap();
        listener.addresses[0].1.unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.at("web")).await.unwrap()
    }

    /// Waits for something that will be so.
    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let check = async {
            while !holds(self) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, check).await.expect("it comes to hold");
    }
}

fn web() -> ListenerSpec {
    spec("web", Address::Ip(([127, 0, 0, 1], 0).into()))
}

fn spec(name: &str, address: Address) -> ListenerSpec {
    ListenerSpec {
        facts: Arc::new(ListenerFacts::new(name.into(), false)),
        addresses: vec![address],
        protocols: Protocols {
            h1: true,
            h2: true,
            h2c: false,
        },
        proxy_protocol: false,
        tls: None,
        limits: Limits::default(),
        trusted: TrustedProxies::default(),
        socket: SocketOptions::default(),
        operators: false,
    }
}

fn limited(change: impl FnOnce(&mut Limits)) -> ListenerSpec {
    let mut spec = web();
    change(&mut spec.limits);
    spec
}

fn echoing(spec: ListenerSpec) -> Running<Echo> {
    Running::start(Echo::new(), vec![spec])
}

/// Everything until the other side closes; fails if it resets.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut text))
        .await
        .expect("closes")
        .expect("is not reset");
    String::from_utf8(text).unwrap()
}

/// Sends text and gives what comes until the other side closes.
async fn talk(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), text: &str) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    rest(stream).await
}

/// One answer: its status, whether it keeps the connection, its body.
async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> (u16, bool, String) {
    let read = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_start_matches(':').trim().to_owned())
        };
        let length = field("content-length").map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        (
            head[9..12].parse().unwrap(),
            field("connection").as_deref() != Some("close"),
            String::from_utf8(body).unwrap(),
        )
    };
    timeout(PATIENCE, read).await.expect("answers")
}

async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    text: &str,
) -> (u16, bool, String) {
    stream.write_all(text.as_bytes()).await.unwrap();
    answer(stream).await
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n")
}

/// The resident memory of this process.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
