//! A programmable HTTP/1.1 origin on raw sockets.
//!
//! It reads strictly: whatever is not exactly one well-formed request after another is recorded as a violation, and an
//! [`Origin`] that is dropped with violations fails its test. A gateway that leaves a stray byte on a pooled connection
//! is caught that way, whatever the test was about.

use super::message::{Message, Wire, is_end};
use super::wait::{Gate, eventually};
use serde_json::json;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{JoinHandle, JoinSet};

/// One request as the origin got it.
#[derive(Clone, Debug)]
pub struct Received {
    pub message: Message,
    /// The number of the connection it came on, from zero.
    pub connection: usize,
    /// How many requests came on that connection before it.
    pub earlier: usize,
}

impl std::ops::Deref for Received {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

enum Step {
    Send(Vec<u8>),
    Wait(Gate),
    Pause(Duration),
    Hang,
    Reset,
    Close,
}

/// What the origin does about one request, step by step. After the last step the connection takes the next request.
pub struct Reply(Vec<Step>);

impl Reply {
    /// 200 with this body.
    pub fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::status(200, &[], body)
    }

    /// A response with `Content-Length`, these fields and this body.
    pub fn status(status: u16, fields: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut bytes = head(status, fields);
        bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
        bytes.extend(body);
        Self::raw(bytes)
    }

    /// A response in these chunks, with the final one.
    pub fn chunked(fields: &[(&str, &str)], chunks: &[&str]) -> Self {
        let mut bytes = head(200, fields);
        bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        for chunk in chunks {
            bytes.extend(format!("{:x}\r\n{chunk}\r\n", chunk.len()).bytes());
        }
        bytes.extend(b"0\r\n\r\n");
        Self::raw(bytes)
    }

    /// What the origin got, as JSON: `method`, `target`, `headers` as pairs, `body`, `connection`.
    pub fn echo(request: &Received) -> Self {
        let document = json!({
            "method": request.method(),
            "target": request.target(),
            "headers": request.fields,
            "body": String::from_utf8_lossy(&request.body),
            "connection": request.connection,
        });
        let body = match request.method() {
            "HEAD" => String::new(),
            _ => document.to_string(),
        };
        Self::status(200, &[("Content-Type", "application/json")], body)
    }

    /// These bytes, whatever they are.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Step::Send(bytes.into())])
    }

    /// Nothing at all, with the connection kept open.
    pub fn hang() -> Self {
        Self(vec![Step::Hang])
    }

    /// A TCP reset instead of an answer.
    pub fn reset() -> Self {
        Self(vec![Step::Reset])
    }

    /// The end of the stream instead of an answer.
    pub fn close() -> Self {
        Self(vec![Step::Close])
    }

    /// Nothing before the gate is open; what comes then is said by the steps that follow.
    pub fn after(gate: &Gate) -> Self {
        Self(vec![Step::Wait(gate.clone())])
    }

    /// Then these bytes.
    pub fn then(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.push(Step::Send(bytes.into()));
        self
    }

    /// Then the steps of another reply.
    pub fn then_reply(mut self, other: Reply) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Then nothing for a while: an origin that is slow, where slowness is what is tested.
    pub fn then_pause(mut self, pause: Duration) -> Self {
        self.0.push(Step::Pause(pause));
        self
    }

    /// Then nothing until the gate is open.
    pub fn then_wait(mut self, gate: &Gate) -> Self {
        self.0.push(Step::Wait(gate.clone()));
        self
    }

    pub fn then_hang(mut self) -> Self {
        self.0.push(Step::Hang);
        self
    }

    pub fn then_reset(mut self) -> Self {
        self.0.push(Step::Reset);
        self
    }

    pub fn then_close(mut self) -> Self {
        self.0.push(Step::Close);
        self
    }
}

fn head(status: u16, fields: &[(&str, &str)]) -> Vec<u8> {
    let reason = http::StatusCode::from_u16(status).ok();
    let reason = reason
        .and_then(|status| status.canonical_reason())
        .unwrap_or("-");
    let mut text = format!("HTTP/1.1 {status} {reason}\r\n");
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.into_bytes()
}

type Script = dyn Fn(&Received) -> Option<Reply> + Send + Sync;

struct Shared {
    /// Asked when the head is there; an answer leaves the body unread.
    at_head: Option<Box<Script>>,
    /// Asked when the request is complete.
    at_end: Box<Script>,
    received: Mutex<Vec<Received>>,
    violations: Mutex<Vec<String>>,
    connections: AtomicUsize,
    open: AtomicUsize,
}

/// An origin that lives as long as the value.
pub struct Origin {
    address: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
    lenient: bool,
}

impl Origin {
    /// Answers each complete request by `script`.
    pub async fn start(script: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let anywhere = (super::loopback(), 0).into();
        Self::listen(
            anywhere,
            None,
            Box::new(move |request| Some(script(request))),
        )
        .await
    }

    /// Answers each complete request by `script`, at this address.
    pub async fn at(
        address: SocketAddr,
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(
            address,
            None,
            Box::new(move |request| Some(script(request))),
        )
        .await
    }

    /// Answers with what it got.
    pub async fn echo() -> Self {
        Self::start(Reply::echo).await
    }

    /// Answers every request with this text: an origin that tells itself from others.
    pub async fn named(name: &'static str) -> Self {
        Self::start(move |_| Reply::ok(name)).await
    }

    /// Answers as soon as the head is there, without reading a body.
    pub async fn at_head(script: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let at_head: Box<Script> = Box::new(move |request| Some(script(request)));
        let anywhere = (super::loopback(), 0).into();
        Self::listen(anywhere, Some(at_head), Box::new(|_| None)).await
    }

    /// Answers each complete request by `script`, on a Unix socket.
    pub async fn unix(
        path: &Path,
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(path).expect("a Unix socket");
        let shared = Shared::new(None, Box::new(move |request| Some(script(request))));
        let listener = Arc::new(listener);
        let accepting = accept(shared.clone(), move || {
            let listener = listener.clone();
            async move { Some(Wire::new(listener.accept().await.ok()?.0)) }
        });
        Self {
            address: format!("unix:{}", path.display()),
            shared,
            accepting,
            lenient: false,
        }
    }

    async fn listen(
        address: SocketAddr,
        at_head: Option<Box<Script>>,
        at_end: Box<Script>,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a listener");
        let address = listener.local_addr().expect("its address").to_string();
        let shared = Shared::new(at_head, at_end);
        let listener = Arc::new(listener);
        let accepting = accept(shared.clone(), move || {
            let listener = listener.clone();
            async move {
                let (stream, _) = listener.accept().await.ok()?;
                let _ = stream.set_nodelay(true);
                Some(Wire::new(stream))
            }
        });
        Self {
            address,
            shared,
            accepting,
            lenient: false,
        }
    }

    /// Violations are expected: dropping does not complain about them.
    pub fn lenient(mut self) -> Self {
        self.lenient = true;
        self
    }

    /// `127.x.y.z:port` or `unix:/path`, as an endpoint is written.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The requests so far, in the order in which they were complete.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().expect("no panic").clone()
    }

    /// The only request so far.
    pub fn only(&self) -> Received {
        let mut received = self.received();
        assert_eq!(received.len(), 1, "{received:#?}");
        received.remove(0)
    }

    /// The last request so far.
    pub fn last(&self) -> Received {
        self.received().pop().expect("a request")
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many of them are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// What it got that is not a request.
    pub fn violations(&self) -> Vec<String> {
        self.shared.violations.lock().expect("no panic").clone()
    }

    /// Waits until this many requests are there.
    pub async fn has_received(&self, count: usize) -> Vec<Received> {
        let what = format!("{count} requests at the origin");
        eventually(&what, async || {
            let received = self.received();
            (received.len() >= count).then_some(received)
        })
        .await
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
        if !self.lenient && !std::thread::panicking() {
            let violations = self.violations();
            assert!(
                violations.is_empty(),
                "what the origin got is not HTTP: {violations:#?}"
            );
        }
    }
}

impl Shared {
    fn new(at_head: Option<Box<Script>>, at_end: Box<Script>) -> Arc<Self> {
        Arc::new(Self {
            at_head,
            at_end,
            received: Mutex::default(),
            violations: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        })
    }
}

/// Serves every connection that `next` yields; they end with the task.
fn accept<N, F>(shared: Arc<Shared>, mut next: N) -> JoinHandle<()>
where
    N: FnMut() -> F + Send + 'static,
    F: Future<Output = Option<Wire>> + Send,
{
    tokio::spawn(async move {
        let mut serving = JoinSet::new();
        while let Some(wire) = next().await {
            let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
            serving.spawn(serve(shared.clone(), wire, connection));
            while serving.try_join_next().is_some() {}
        }
    })
}

/// Counts an open connection.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(shared: Arc<Shared>, mut wire: Wire, connection: usize) {
    shared.open.fetch_add(1, Ordering::Relaxed);
    let _open = Open(shared.clone());
    for earlier in 0.. {
        let at = Place {
            connection,
            earlier,
        };
        match exchange(&shared, &mut wire, at).await {
            Ok(After::Next) => {}
            Ok(After::Close) => return,
            Ok(After::Reset) => return wire.reset(),
            // a gateway may go away at any time; what it may not do is to send something else than requests
            Err(error) if is_end(&error) && error.get_ref().is_none() => return,
            Err(error) => {
                let what = format!("connection {connection}, request {earlier}: {error}");
                shared.violations.lock().expect("no panic").push(what);
                let _ = wire
                    .send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                    .await;
                return;
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Place {
    connection: usize,
    earlier: usize,
}

/// What becomes of a connection after an exchange.
enum After {
    Next,
    Close,
    Reset,
}

/// One request and its reply.
async fn exchange(shared: &Shared, wire: &mut Wire, at: Place) -> io::Result<After> {
    let Some(head) = wire.head().await? else {
        return Ok(After::Close);
    };
    let mut request = Received {
        message: Message::parse(&head)?,
        connection: at.connection,
        earlier: at.earlier,
    };
    check_request(&request.message)?;
    let mut reply = shared.at_head.as_ref().and_then(|script| script(&request));
    if reply.is_none() {
        match wire.request_body(&mut request.message).await {
            Ok(()) => reply = (shared.at_end)(&request),
            // an upload that breaks off is not a violation: who tests that looks at `complete`
            Err(error) if is_end(&error) => reply = Some(Reply::close()),
            Err(error) => return Err(error),
        }
    }
    shared.received.lock().expect("no panic").push(request);
    perform(reply, wire).await
}

async fn perform(reply: Option<Reply>, wire: &mut Wire) -> io::Result<After> {
    for step in reply.into_iter().flat_map(|reply| reply.0) {
        match step {
            Step::Send(bytes) => wire.send(&bytes).await?,
            Step::Wait(gate) => gate.passed().await,
            Step::Pause(pause) => tokio::time::sleep(pause).await,
            Step::Hang => std::future::pending().await,
            Step::Close => return Ok(After::Close),
            Step::Reset => return Ok(After::Reset),
        }
    }
    Ok(After::Next)
}

fn check_request(message: &Message) -> io::Result<()> {
    let parts: Vec<&str> = message.start.split(' ').collect();
    match parts.as_slice() {
        [method, target, "HTTP/1.1"]
            if !method.is_empty() && (target.starts_with('/') || *target == "*") => {}
        _ => return Err(violation(format!("the request line {:?}", message.start))),
    }
    match message.headers("host").len() {
        1 => Ok(()),
        count => Err(violation(format!("{count} Host fields"))),
    }
}

fn violation(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
