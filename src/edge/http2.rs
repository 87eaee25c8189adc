//! The streams of an HTTP/2 connection (RFC 9113).
//!
//! Pingora's own loop is not for others to call, and has no bounds of ours. This one does the same work: it drives the
//! connection, gives each stream to the application in a task of its own, and sends the client away, gracefully, when
//! the listener drains, when nothing happens, and when the connection has carried as much as one may.

use super::connection::PanicCount;
use super::control::OpenConnection;
use super::frames::{Breach, Verdict};
use super::slack::Slack;
use super::stream::EdgeStream;
use super::{Environment, Limits, http1};
use crate::exchange::connection::{Drain, connection_of};
use crate::problem::{Kind, Problem};
use bytes::Bytes;
use h2::Reason;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{
    H2Accept, H2Options, HttpSession, default_h2_options, handshake,
};
use pingora_core::protocols::{Digest, Stream};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// What a client may send ahead on one stream, and on all of them.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// RFC 9113 §4.2: the smallest that may be set.
const FRAME_BYTES_MAX: u32 = 16 << 10;
/// Streams that the client reset before they were accepted ("rapid reset", CVE-2023-44487).
const RESETS_PENDING_MAX: usize = 20;
/// Streams that we had to reset (CVE-2025-8671): more, and the connection goes.
const RESETS_LOCAL_MAX: usize = 64;
/// Streams that we have reset are remembered so long, and so many of them: content that was on its way is no fault. A
/// refused upload may have a window of it under way, over a slow line.
const RESETS_REMEMBERED: (Duration, usize) = (Duration::from_secs(30), 100);
/// What one stream has written and the client has not taken yet. More waits at the endpoint.
const SEND_BYTES_MAX: usize = 64 << 10;
/// Requests that were refused before they became one. Pingora's own loop allows as many.
const REJECTED_MAX: u32 = 32;
/// How long a client that was told to go away may take to close, without streams.
const PARTING: Duration = Duration::from_secs(5);

/// The streams that are being served.
#[derive(Default)]
struct Streams {
    open: AtomicUsize,
    none_open: Notify,
}

/// One of them, until it is dropped.
struct OpenStream(Arc<Streams>);

impl Streams {
    fn open(self: &Arc<Self>) -> OpenStream {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenStream(self.clone())
    }

    /// Resolves when none has been open for so long.
    async fn idle_for(&self, period: Duration) {
        while self.open.load(Ordering::Relaxed) > 0 {
            self.none_open.notified().await;
        }
        sleep(period).await;
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.none_open.notify_one();
        }
    }
}

/// Serves one connection to its end.
pub(super) async fn serve<A>(
    environment: &Arc<Environment<A>>,
    stream: Box<EdgeStream>,
    limits: &Limits,
    open: OpenConnection,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    // boxed, so that a waiting connection makes no room for its beginning
    let begun = Box::pin(begin(stream, limits, open.drain())).await;
    let Some((connection, digest, verdict)) = begun else {
        tracing::debug!("an HTTP/2 connection did not begin");
        return;
    };
    let session = Session {
        environment,
        limits,
        open,
        digest,
        streams: Arc::default(),
        verdict,
    };
    session.serve(connection).await;
    session.note_refused();
}

/// In a box: it is moved, and futures keep room for what is moved out of them.
type Connection = Box<h2::server::Connection<Stream, Bytes>>;

/// Waits for the client's preface. None where none came.
async fn begin(
    mut stream: Box<EdgeStream>,
    limits: &Limits,
    drain: &Drain,
) -> Option<(Connection, Arc<Digest>, Arc<Verdict>)> {
    let slack = Slack::draw();
    let verdict = stream.pass_frames(slack.of(limits.head), limits.request_head.bytes);
    let (ssl_digest, proxy_digest) = stream.digests();
    let digest = Digest {
        ssl_digest,
        timing_digest: Vec::new(),
        proxy_digest: Some(proxy_digest),
        socket_digest: None,
    };
    let shaken = handshake(stream as Stream, Some(options(limits)));
    let connection = tokio::select! {
        biased;
        connection = shaken => connection.ok()?,
        () = until_given_up(slack.of(limits.first_byte), drain) => return None,
    };
    Some((Box::new(connection), Arc::new(digest), verdict))
}

/// How long a client is waited for that has not begun: not for long once its listener drains, or memory is short.
async fn until_given_up(patience: Duration, drain: &Drain) {
    let shortages = drain.shortages();
    let mut leaving = pin!(drain.notified());
    leaving.as_mut().enable();
    if !drain.ends(shortages) && timeout(patience, leaving).await.is_err() {
        return;
    }
    sleep(patience.min(http1::PARTING)).await;
}

fn options(limits: &Limits) -> H2Options {
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.request_head.bytes).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_send_buffer_size(SEND_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .reset_stream_duration(RESETS_REMEMBERED.0)
        .max_concurrent_reset_streams(RESETS_REMEMBERED.1)
        .max_local_error_reset_streams(Some(RESETS_LOCAL_MAX));
    options
}

struct Session<'a, A> {
    environment: &'a Arc<Environment<A>>,
    limits: &'a Limits,
    open: OpenConnection,
    digest: Arc<Digest>,
    streams: Arc<Streams>,
    /// What is wrong with what the client sends.
    verdict: Arc<Verdict>,
}

impl<A> Session<'_, A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    async fn serve(&self, mut connection: Connection) {
        let drain = self.open.drain();
        // before it is listened for, so that whoever is told of a shortage finds one more
        let shortages = drain.shortages();
        let mut draining = pin!(drain.notified());
        draining.as_mut().enable();
        let (mut served, mut rejected) = (0, 0);
        let mut leaving = false;
        let slack = Slack::draw();
        loop {
            let leaves = drain.ends(shortages) || served >= self.limits.exchanges;
            if leaves && !leaving {
                leaving = true;
                connection.graceful_shutdown();
            }
            let patience = match leaving {
                true => PARTING,
                // one that has asked for nothing yet
                false if served == 0 => slack.of(self.limits.first_byte),
                false => slack.of(self.limits.idle),
            };
            let accepted = tokio::select! {
                biased;
                () = &mut draining, if !leaving => continue,
                breach = self.verdict.reached() => {
                    self.sent_away(breach.into());
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    continue;
                }
                () = self.verdict.more() => {
                    rejected += self.note_refused();
                    if rejected >= REJECTED_MAX {
                        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    }
                    continue;
                }
                accepted = HttpSession::from_h2_conn(&mut connection, self.digest.clone()) => accepted,
                () = self.streams.idle_for(patience) => {
                    if leaving {
                        return;
                    }
                    leaving = true;
                    connection.graceful_shutdown();
                    continue;
                }
            };
            match accepted {
                Ok(Some(H2Accept::Session(stream))) => {
                    served += 1;
                    self.exchange(stream);
                }
                Ok(Some(H2Accept::Rejected)) => {
                    rejected += 1;
                    if let Some(connection) = connection_of(&self.digest) {
                        self.environment.refuse.rejected(connection);
                    }
                    if rejected >= REJECTED_MAX {
                        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    }
                }
                Ok(None) => return,
                // closed by the client, or by its breach of the protocol
                Err(error) => {
                    if self.verdict.breach().is_none()
                        && let Some(problem) = breach_of(&error)
                    {
                        self.sent_away(problem);
                    }
                    return;
                }
            }
        }
    }

    /// Nobody else counts what h2 refuses before anything of it is seen here. Tells how many it has answered.
    fn note_refused(&self) -> u32 {
        let oversized = self.verdict.take_oversized();
        for _ in 0..oversized {
            let source = "HTTP/2: the head of a request was too large";
            self.sent_away(Problem::new(Kind::RequestHeadLength).source(source));
        }
        for _ in 0..self.verdict.take_malformed() {
            let source = "HTTP/2: a malformed request was reset";
            self.sent_away(Problem::new(Kind::RequestFrames).source(source));
        }
        oversized
    }

    fn sent_away(&self, problem: Problem) {
        if let Some(connection) = connection_of(&self.digest) {
            self.environment.refuse.sent_away(connection, problem);
        }
    }

    /// Serves one stream in a task of its own.
    fn exchange(&self, stream: HttpSession) {
        let environment = self.environment.clone();
        let mut session = ServerSession::new_http2(stream);
        session.set_write_timeout(Some(self.limits.write));
        session.set_total_drain_timeout(Some(self.limits.discard));
        let held = (PanicCount(self.open.clone()), self.streams.open());
        tokio::spawn(async move {
            let _held = held;
            environment
                .app
                .process_new_http(session, &environment.shutdown)
                .await;
        });
    }
}

/// What h2 ended a connection for, if the client is to blame: a flood, which is too many frames of some kind or a head
/// without end, or frames and fields that are none.
fn breach_of(error: &pingora_core::Error) -> Option<Problem> {
    let error = error.root_cause().downcast_ref::<h2::Error>()?;
    let kind = match error.reason()? {
        _ if !error.is_library() => return None,
        Reason::ENHANCE_YOUR_CALM => Kind::RequestFlood,
        Reason::NO_ERROR | Reason::INTERNAL_ERROR => return None,
        _ => Kind::RequestFrames,
    };
    Some(Problem::new(kind).source(format!("HTTP/2: {error}")))
}

impl From<Breach> for Problem {
    fn from(breach: Breach) -> Self {
        match breach {
            Breach::Resets => {
                Problem::new(Kind::RequestFlood).source("too many streams were reset")
            }
            Breach::EmptyFrames => {
                Problem::new(Kind::RequestFlood).source("too many frames that carry nothing")
            }
            Breach::SlowHead => {
                Problem::new(Kind::RequestTimeout).source("the head of a request was not finished")
            }
        }
    }
}
