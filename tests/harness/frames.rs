//! Origins that speak HTTP/2 frame by frame, so that they can go wrong in every way.

use rustls::ServerConfig;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

const PREFACE: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Error codes (RFC 9113 §7).
pub const NO_ERROR: u32 = 0;
pub const INTERNAL_ERROR: u32 = 2;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame (RFC 9113 §4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// The head of an answer with this status and nothing else (RFC 7541 §6.2.2, `:status` is 8 in the static table).
pub fn head(stream: u32, status: u16, end: bool) -> Vec<u8> {
    let field = [&[0x08, 3][..], status.to_string().as_bytes()].concat();
    let flags = END_HEADERS | if end { END_STREAM } else { 0 };
    frame(HEADERS, flags, stream, &field)
}

pub fn data(stream: u32, bytes: &[u8], end: bool) -> Vec<u8> {
    frame(DATA, if end { END_STREAM } else { 0 }, stream, bytes)
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub fn go_away(last: u32, code: u32) -> Vec<u8> {
    let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
    frame(GOAWAY, 0, 0, &payload)
}

/// A whole answer.
pub fn answer(stream: u32, body: &[u8]) -> Vec<u8> {
    [head(stream, 200, false), data(stream, body, true)].concat()
}

/// When an origin acts on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At its head, whether or not a body follows.
    Head,
    /// When all of it is there.
    End,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Stay,
    Close,
}

/// What an origin does with a request.
#[derive(Clone, Debug)]
pub struct Act {
    pub when: When,
    pub bytes: Vec<u8>,
    pub then: Then,
}

impl Act {
    pub fn at_end(bytes: Vec<u8>) -> Self {
        Self {
            when: When::End,
            bytes,
            then: Then::Stay,
        }
    }

    pub fn at_head(bytes: Vec<u8>) -> Self {
        Self {
            when: When::Head,
            ..Self::at_end(bytes)
        }
    }

    pub fn then_close(self) -> Self {
        Self {
            then: Then::Close,
            ..self
        }
    }
}

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Arrived {
    /// The number of its connection, from zero.
    pub connection: usize,
    pub stream: u32,
    pub body: Vec<u8>,
    pub ended: bool,
    /// With what code the other end took it back.
    pub cancelled: Option<u32>,
}

type Script = dyn Fn(&Arrived) -> Act + Send + Sync;

/// An origin that lives as long as the value.
pub struct Frames {
    address: String,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    accepted: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Frames {
    /// In clear. The script is asked at the head of each request.
    pub async fn clear(script: impl Fn(&Arrived) -> Act + Send + Sync + 'static) -> Self {
        Self::start(None, Arc::new(script)).await
    }

    /// Under TLS.
    pub async fn secure(
        tls: Arc<ServerConfig>,
        script: impl Fn(&Arrived) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(tls.into()), Arc::new(script)).await
    }

    async fn start(tls: Option<TlsAcceptor>, script: Arc<Script>) -> Self {
        let listener = TcpListener::bind((super::loopback(), 0))
            .await
            .expect("a listener");
        let address = listener.local_addr().expect("its address").to_string();
        let (arrived, accepted) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let (all, count) = (Arc::clone(&arrived), accepted.clone());
        let accepting = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let connection = count.fetch_add(1, Ordering::Relaxed);
                let _ = socket.set_nodelay(true);
                let serving_one = Serving {
                    connection,
                    all: Arc::clone(&all),
                    script: script.clone(),
                    waiting: BTreeMap::new(),
                };
                let tls = tls.clone();
                serving.spawn(async move {
                    // however it ended, the connection is over
                    let _ = match tls {
                        None => serving_one.run(socket).await,
                        Some(tls) => match tls.accept(socket).await {
                            Ok(stream) => serving_one.run(stream).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        Self {
            address,
            arrived,
            accepted,
            accepting,
        }
    }

    /// The requests so far, in the order in which their heads arrived.
    pub fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().expect("no panic").clone()
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    pub fn address(&self) -> &str {
        &self.address
    }
}

impl fmt::Display for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One connection.
struct Serving {
    connection: usize,
    all: Arc<Mutex<Vec<Arrived>>>,
    script: Arc<Script>,
    /// What is to be done when a request has arrived whole.
    waiting: BTreeMap<u32, Act>,
}

impl Serving {
    async fn run(mut self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        stream.read_exact(&mut [0; PREFACE]).await?;
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        stream.flush().await?;
        loop {
            let mut start = [0; 9];
            stream.read_exact(&mut start).await?;
            let [a, b, c, kind, flags, d, e, f, g] = start;
            let id = u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            stream.read_exact(&mut payload).await?;
            let (bytes, then) = self.took(kind, flags, id, &payload);
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            if then == Then::Close {
                return stream.shutdown().await;
            }
        }
    }

    /// What is said to one frame.
    fn took(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) -> (Vec<u8>, Then) {
        let mut say = Vec::new();
        match kind {
            SETTINGS if flags & ACK == 0 => say = frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => say = frame(PING, ACK, 0, payload),
            RST_STREAM => {
                let code = payload
                    .try_into()
                    .map(u32::from_be_bytes)
                    .unwrap_or_default();
                self.of(id, |arrived| arrived.cancelled = Some(code));
                self.waiting.remove(&id);
            }
            HEADERS if !self.of(id, |_| {}) => {
                let arrived = Arrived {
                    connection: self.connection,
                    stream: id,
                    ..Arrived::default()
                };
                let act = (self.script)(&arrived);
                self.all.lock().expect("no panic").push(arrived);
                if act.when == When::Head {
                    return (act.bytes, act.then);
                }
                self.waiting.insert(id, act);
            }
            DATA => {
                let padding = match flags & PADDED {
                    0 => 0,
                    _ => 1 + usize::from(payload[0]),
                };
                let from = usize::from(padding > 0);
                let content = &payload[from..payload.len() - (padding - from)];
                self.of(id, |arrived| arrived.body.extend(content));
                if let Ok(size @ 1..) = u32::try_from(payload.len()) {
                    let size = size.to_be_bytes();
                    say = frame(WINDOW_UPDATE, 0, 0, &size);
                    if flags & END_STREAM == 0 {
                        say.extend(frame(WINDOW_UPDATE, 0, id, &size));
                    }
                }
            }
            _ => {}
        }
        if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            self.of(id, |arrived| arrived.ended = true);
            if let Some(act) = self.waiting.remove(&id) {
                return ([say, act.bytes].concat(), act.then);
            }
        }
        (say, Then::Stay)
    }

    /// Looks at a request of this connection. Tells whether there is one.
    fn of(&self, id: u32, change: impl FnOnce(&mut Arrived)) -> bool {
        let mut all = self.all.lock().expect("no panic");
        let mut own = all.iter_mut().rev();
        let found = own.find(|one| one.connection == self.connection && one.stream == id);
        found.map(change).is_some()
    }
}
