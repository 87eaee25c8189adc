//! The stream of one connection, as Pingora and h2 see it.
//!
//! It stands between the socket and Pingora's session and knows where the current request ends. So Pingora reads the
//! content of this request and not a byte more: what a client sends beyond it is held here, becomes the next head, and
//! is checked like the first. Pingora's own pipelining hands surplus bytes on unseen, which is why it stays off.
//!
//! Writes are gathered up to 4 KiB and leave on flush, so that a small answer is one system call and one TLS record.
//!
//! A client that is waited for must keep a rate, both ways, or the connection ends, whoever waits for it
//! ([`crate::exchange::pace`]). One that has sent its last byte gets its answer if that comes soon.
//!
//! A connection that is closed with unread bytes in the socket is reset by the kernel, and the client may lose the
//! answer it was sent. So a stream that is dropped with a request unfinished lingers a moment in a task of its own.

mod reading;
mod writing;

use super::chunks::Chunks;
use super::connection::PanicCount;
use super::control::OpenConnection;
use super::frames::{Frames, Verdict};
use super::head::{Fault, Framing, Head};
use super::stall::Stall;
use super::transport::Transport;
use super::turns::Turn;
use crate::exchange::connection::{Attachment, Interrupt};
use crate::exchange::pace::Pace;
use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID,
};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::time::Sleep;

/// What an idle connection may keep of its write buffer.
const GATHER_BYTES_IDLE: usize = 1024;
/// The first read of a head. Pingora starts with the same.
const READ_BYTES: usize = 4096;
/// What a lingering connection reads before it closes after all.
const LINGER_BYTES_MAX: u64 = 64 << 10;
/// The same of a client that is sent away for a flood: it sends on for a while, and a reset would take the `GOAWAY` from it
/// that tells it why. To read and forget costs next to nothing.
const FLOOD_BYTES_MAX: u64 = 4 << 20;

/// What a stream is made of.
pub(super) struct Parts {
    pub transport: Transport,
    pub proxy: Arc<ProxyDigest>,
    pub tls: Option<Arc<SslDigest>>,
    pub alpn: Option<ALPN>,
    pub open: OpenConnection,
    /// Ends a wait for the client.
    pub interrupt: Arc<Interrupt>,
    /// How long a client that sends nothing more may wait for its answer.
    pub half_closed: Duration,
    /// How long a closing connection lingers for its client.
    pub linger: Duration,
}

/// One connection.
pub(super) struct EdgeStream {
    parts: Parts,
    reading: Reading,
    writing: Writing,
    /// Read from the socket, not yet part of a request that is being served.
    held: BytesMut,
    /// Written, not yet sent.
    unsent: Vec<u8>,
    /// Made when a write has to wait, and kept until the connection is idle.
    stall: Option<Box<Stall>>,
    /// How fast the content comes; of HTTP/2 only how long it is waited for.
    pace: Pace,
    /// Made when the client has let us wait.
    turn: Option<Arc<Turn>>,
    /// The client has sent its last byte.
    ended: bool,
    /// Runs from then on while nothing is written.
    half_closed: Option<Pin<Box<Sleep>>>,
    /// Set on HTTP/2.
    frames: Option<Box<Frames>>,
}

/// What may be read.
#[derive(Debug)]
enum Reading {
    /// Everything: HTTP/2, or another protocol after an upgrade.
    Through,
    /// So many bytes more of the content.
    Length(u64),
    /// Content whose end is found on the way.
    Chunked(Chunks),
}

/// What is known of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    /// Nothing of it has been written.
    Nothing,
    /// Nothing, and a `101` would end HTTP on this connection.
    NothingOrUpgrade,
    /// Its head has been written.
    Begun,
}

impl EdgeStream {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            reading: Reading::Length(0),
            writing: Writing::Nothing,
            held: BytesMut::new(),
            unsent: Vec::new(),
            stall: None,
            pace: Pace::default(),
            turn: None,
            ended: false,
            half_closed: None,
            frames: None,
        }
    }

    /// What has been read and belongs to no request yet.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Whether another request can follow, or has: this one has been read to its end, and the client has not gone.
    pub(super) fn is_reusable(&self) -> bool {
        self.is_request_read() && !(self.ended && self.held.is_empty())
    }

    /// Lets everything through from here on, what is held first.
    pub(super) fn pass_through(&mut self) {
        self.reading = Reading::Through;
        self.writing = Writing::Begun;
    }

    /// The same for HTTP/2, whose frames are followed; tells when the client has gone too far.
    pub(super) fn pass_frames(
        &mut self,
        head_at_most: Duration,
        head_bytes_max: usize,
    ) -> Arc<Verdict> {
        let verdict = Arc::default();
        self.pass_through();
        self.frames = Some(Box::new(Frames::new(
            Arc::clone(&verdict),
            head_at_most,
            head_bytes_max,
        )));
        verdict
    }

    pub(super) fn digests(&self) -> (Option<Arc<SslDigest>>, Arc<ProxyDigest>) {
        let Parts { tls, proxy, .. } = &self.parts;
        (tls.clone(), proxy.clone())
    }

    /// Begins the request whose checked head is held: gives out the head with what has arrived of the content, and
    /// keeps what follows them. Fails where the chunked coding of what has arrived is malformed.
    pub(super) fn begin(&mut self, head: &Head) -> Result<BytesMut, Fault> {
        let content = self.held.get(head.end..).unwrap_or_default();
        let (content_bytes, reading) = match head.framing {
            Framing::Length(length) => {
                let here = usize::try_from(length)
                    .unwrap_or(usize::MAX)
                    .min(content.len());
                (here, Reading::Length(length.saturating_sub(here as u64)))
            }
            Framing::Chunked => {
                let mut chunks = Chunks::default();
                (chunks.advance(content)?, Reading::Chunked(chunks))
            }
        };
        let mut request = std::mem::take(&mut self.held);
        let end = head.end + content_bytes;
        if end < request.len() {
            self.held = request.split_off(end);
        }
        request.advance(head.start);
        self.reading = reading;
        (self.pace, self.turn) = (Pace::default(), None);
        self.parts.interrupt.hurry();
        self.writing = match head.upgrade {
            true => Writing::NothingOrUpgrade,
            false => Writing::Nothing,
        };
        Ok(request)
    }

    /// Reads more of a head into what is held; zero at the end.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        if self.held.capacity() - self.held.len() < READ_BYTES / 4 {
            self.held.reserve(READ_BYTES);
        }
        let read = self.parts.transport.read_buf(&mut self.held).await?;
        self.ended = read == 0;
        Ok(read)
    }

    /// Waits, without buffers, until the client sends something or goes.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut first = [MaybeUninit::uninit(); 1];
        let mut first = ReadBuf::uninit(&mut first);
        match self.parts.transport.poll_readable(cx, &mut first) {
            Poll::Ready(result) => {
                if !first.filled().is_empty() {
                    self.held.reserve(READ_BYTES);
                    self.held.extend_from_slice(first.filled());
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                if self.held.is_empty() {
                    self.held = BytesMut::new();
                }
                if self.unsent.capacity() > GATHER_BYTES_IDLE {
                    self.unsent = Vec::new();
                }
                self.stall = None;
                Poll::Pending
            }
        }
    }

    /// Writes the only answer to a request that was not read to its end, and leaves the connection to linger.
    pub(super) async fn answer_and_close(mut self, answer: &[u8]) {
        let sent = async {
            self.write_all(answer).await?;
            self.flush().await
        };
        // the client may be gone; there is nobody else to tell
        let _ = sent.await;
    }

    /// Says goodbye: nothing is unsent, and the client learns that nothing follows.
    pub(super) async fn close(mut self) {
        let _ = AsyncWriteExt::shutdown(&mut self).await;
    }

    fn attachment(&self) -> Option<&Attachment> {
        let data = self.parts.proxy.user_data.as_ref();
        data.and_then(|data| data.downcast_ref())
    }

    fn is_broken_off(&self) -> bool {
        self.attachment()
            .is_some_and(|attachment| attachment.broken_off.load(Ordering::Acquire))
    }

    fn is_request_read(&self) -> bool {
        match &self.reading {
            Reading::Through => false,
            Reading::Length(left) => *left == 0,
            Reading::Chunked(chunks) => chunks.is_done(),
        }
    }
}

impl std::fmt::Debug for EdgeStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // never what is held or unsent: it may be a credential
        f.debug_struct("EdgeStream")
            .field("socket", &self.parts.transport.as_raw_fd())
            .field("reading", &self.reading)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for EdgeStream {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for EdgeStream {
    fn id(&self) -> i32 {
        self.parts.transport.as_raw_fd()
    }
}

impl Ssl for EdgeStream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.parts.tls.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.parts.alpn.clone()
    }
}

impl GetTimingDigest for EdgeStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        // nobody reads it, and it would be an allocation for each request
        Vec::new()
    }
}

impl GetProxyDigest for EdgeStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.parts.proxy.clone())
    }
}

/// The addresses are in [`Attachment`]. Pingora's record of them would be a fifth of what an idle connection takes.
impl GetSocketDigest for EdgeStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl Peek for EdgeStream {}

impl Drop for EdgeStream {
    fn drop(&mut self) {
        if matches!(self.parts.transport, Transport::Gone) {
            return;
        }
        if self.is_broken_off() {
            // nothing can be done about a socket that does not take the option
            let _ = self.parts.transport.reset_on_close();
            return;
        }
        let sent_away = self.frames.as_ref().is_some_and(|frames| frames.is_over());
        let unread = sent_away
            || !self.held.is_empty()
            || !matches!(self.reading, Reading::Through) && !self.is_request_read();
        if self.writing == Writing::Nothing || self.ended || !unread {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let transport = std::mem::replace(&mut self.parts.transport, Transport::Gone);
            let at_most = match sent_away {
                true => FLOOD_BYTES_MAX,
                false => LINGER_BYTES_MAX,
            };
            let farewell = linger(transport, self.parts.open.clone(), at_most);
            let patience = self.parts.linger;
            runtime.spawn(async move { tokio::time::timeout(patience, farewell).await });
        }
    }
}

/// Closes after the client has had a chance to read the answer (RFC 9112 §9.6). The connection counts as open
/// meanwhile.
async fn linger(mut transport: Transport, open: OpenConnection, at_most: u64) {
    let _panic_count = PanicCount(open.clone());
    if transport.shutdown().await.is_ok() {
        let mut rest = (&mut transport).take(at_most);
        // whatever goes wrong, the client is gone
        let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
    }
    drop(open);
}
