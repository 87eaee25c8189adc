//! The stream of one connection, as Pingora and h2 see it.
//!
//! It stands between the socket and Pingora's session and knows where the current request ends. So Pingora reads the
//! content of this request and not a byte more: what a client sends beyond it is held here, becomes the next head, and
//! is checked like the first. Pingora's own pipelining hands surplus bytes on unseen, which is why it stays off.
//!
//! Writes are gathered up to 4 KiB and leave on flush, so that a small answer is one system call and one TLS record. A
//! write that makes no progress for the write timeout ends the connection, whoever waits for it.
//!
//! A connection that is closed with unread bytes in the socket is reset by the kernel, and the client may lose the
//! answer it was sent. So a stream that is dropped with a request unfinished lingers a moment in a task of its own.

use super::chunks::Chunks;
use super::control::OpenConnection;
use super::frames::Frames;
use super::head::{Fault, Framing, Head};
use super::transport::Transport;
use crate::exchange::connection::{Attachment, Interrupt, MalformedContent};
use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID,
};
use smallvec::SmallVec;
use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

/// Writes are gathered up to here.
const GATHER_BYTES: usize = 4096;
/// What an idle connection may keep of its write buffer.
const GATHER_BYTES_IDLE: usize = 1024;
/// The first read of a head. Pingora starts with the same.
const READ_BYTES: usize = 4096;
/// What is taken in ahead of the request being served. More waits in the socket, and so with the client.
const HELD_BYTES_MAX: usize = 16 << 10;
/// What a lingering connection reads before it closes after all.
const LINGER_BYTES_MAX: u64 = 64 << 10;

/// What a stream is made of.
pub(super) struct Parts {
    pub transport: Transport,
    pub proxy: Arc<ProxyDigest>,
    pub tls: Option<Arc<SslDigest>>,
    pub alpn: Option<ALPN>,
    pub open: OpenConnection,
    /// Ends a wait for the client.
    pub interrupt: Arc<Interrupt>,
    /// How long a write may make no progress.
    pub write_timeout: Duration,
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
    /// Runs while a write makes no progress.
    stall: Option<Pin<Box<Sleep>>>,
    /// The client has sent its last byte.
    ended: bool,
    /// Set on HTTP/2.
    frames: Option<Frames>,
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
            ended: false,
            frames: None,
        }
    }

    /// What has been read and belongs to no request yet.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Whether another request can follow: this one has been read to its end, and the client has not gone.
    pub(super) fn is_reusable(&self) -> bool {
        !self.ended && self.is_request_read()
    }

    /// Lets everything through from here on, what is held first.
    pub(super) fn pass_through(&mut self) {
        self.reading = Reading::Through;
        self.writing = Writing::Begun;
    }

    /// The same for HTTP/2, whose frames are counted; tells when the client has gone too far.
    pub(super) fn pass_frames(&mut self) -> Arc<Notify> {
        let exceeded = Arc::new(Notify::new());
        self.pass_through();
        self.frames = Some(Frames::new(exceeded.clone()));
        exceeded
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

    fn is_broken_off(&self) -> bool {
        let data = self.parts.proxy.user_data.as_ref();
        let attachment = data.and_then(|data| data.downcast_ref::<Attachment>());
        attachment.is_some_and(|attachment| attachment.broken_off.load(Ordering::Acquire))
    }

    fn is_request_read(&self) -> bool {
        match &self.reading {
            Reading::Through => false,
            Reading::Length(left) => *left == 0,
            Reading::Chunked(chunks) => chunks.is_done(),
        }
    }

    /// Content with a known length: never past its end.
    fn poll_read_length(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        left: u64,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let within = usize::try_from(left).unwrap_or(usize::MAX);
        if buf.remaining() <= within {
            ready!(Pin::new(&mut self.parts.transport).poll_read(cx, buf))?;
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(within));
            ready!(Pin::new(&mut self.parts.transport).poll_read(cx, &mut part))?;
            let read = part.filled().len();
            buf.advance(read);
        }
        let read = buf.filled().len() - before;
        self.ended = read == 0;
        self.reading = Reading::Length(left.saturating_sub(read as u64));
        Poll::Ready(Ok(()))
    }

    /// Content that says itself where it ends: what follows the end is held.
    fn poll_read_chunked(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Reading::Chunked(chunks) = &mut self.reading else {
            return Poll::Ready(Ok(()));
        };
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.parts.transport).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        self.ended = read.is_empty();
        match chunks.advance(read) {
            Ok(content) => {
                self.held
                    .extend_from_slice(read.get(content..).unwrap_or_default());
                buf.set_filled(before + content);
                Poll::Ready(Ok(()))
            }
            Err(Fault { kind, detail }) => {
                buf.set_filled(before);
                let malformed = MalformedContent { kind, detail };
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, malformed)))
            }
        }
    }

    /// After the request: tells only whether the client has gone. What it sends is held for the next head.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut chunk = [MaybeUninit::uninit(); 1024];
        while !self.ended {
            if self.held.len() >= HELD_BYTES_MAX {
                // nobody is waiting for these bytes, and an end behind them is found when they are read
                return Poll::Pending;
            }
            let mut read = ReadBuf::uninit(&mut chunk);
            ready!(Pin::new(&mut self.parts.transport).poll_read(cx, &mut read))?;
            self.ended = read.filled().is_empty();
            self.held.extend_from_slice(read.filled());
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what was gathered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        while let Some(rest) = self.unsent.get(sent..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.parts.transport).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    self.unstall();
                    sent += written;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.unsent.drain(..sent);
                    return self.poll_stalled(cx);
                }
            }
        }
        self.unsent.clear();
        Poll::Ready(Ok(()))
    }

    /// Sends what was gathered together with `slices`; answers how many bytes of these went.
    fn poll_send_with(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let gathered = self.unsent.len();
            let result = {
                let unsent = (gathered > 0).then(|| IoSlice::new(&self.unsent));
                let all: SmallVec<[IoSlice<'_>; 8]> =
                    unsent.into_iter().chain(slices.iter().copied()).collect();
                Pin::new(&mut self.parts.transport).poll_write_vectored(cx, &all)
            };
            match result {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    self.unstall();
                    self.unsent.drain(..written.min(gathered));
                    if written > gathered {
                        return Poll::Ready(Ok(written - gathered));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.poll_stalled(cx),
            }
        }
    }

    /// A write waits: not for ever.
    fn poll_stalled<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let timeout = self.parts.write_timeout;
        if self.stall.is_none() {
            self.parts.interrupt.set_blocked(true);
        }
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + timeout)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// The client takes something again.
    fn unstall(&mut self) {
        if self.stall.take().is_some() {
            self.parts.interrupt.set_blocked(false);
        }
    }

    /// Looks at the head of an answer for the one that ends HTTP here (RFC 9110 §15.2.2). Pingora writes each head at
    /// once, interim ones too.
    fn note_head(&mut self, bytes: &[u8]) {
        if self.writing == Writing::NothingOrUpgrade {
            if bytes.starts_with(b"HTTP/1.1 101") {
                self.pass_through();
            } else if !bytes.starts_with(b"HTTP/1.1 1") {
                self.writing = Writing::Begun;
            }
        } else if !bytes.is_empty() {
            self.writing = Writing::Begun;
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

impl AsyncRead for EdgeStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            // or an empty read would pass for the end
            return Poll::Ready(Ok(()));
        }
        if self.parts.interrupt.is_armed() && self.parts.interrupt.poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        let read = self.poll_read_request(cx, buf);
        if let Some(frames) = &mut self.frames {
            frames.advance(buf.filled().get(before..).unwrap_or_default());
        }
        if read.is_pending() && !self.unsent.is_empty() {
            // whoever waits for the client has written what there is: an event must not wait for the next one
            if let Poll::Ready(Err(error)) = self.as_mut().poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
        }
        read
    }
}

impl EdgeStream {
    /// Reads what belongs to the request in hand; after it, only whether the client has gone.
    fn poll_read_request(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &self.reading {
            Reading::Through if !self.held.is_empty() => {
                let here = self.held.len().min(buf.remaining());
                buf.put_slice(&self.held.split_to(here));
                if self.held.is_empty() {
                    self.held = BytesMut::new();
                }
                Poll::Ready(Ok(()))
            }
            Reading::Through => Pin::new(&mut self.parts.transport).poll_read(cx, buf),
            Reading::Length(0) => self.poll_gone(cx),
            Reading::Length(left) => {
                let left = *left;
                self.poll_read_length(cx, buf, left)
            }
            Reading::Chunked(chunks) if chunks.is_done() => self.poll_gone(cx),
            Reading::Chunked(_) => self.poll_read_chunked(cx, buf),
        }
    }
}

impl AsyncWrite for EdgeStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.note_head(slices.first().map_or(&[], |first| first));
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        if self.unsent.len().saturating_add(bytes) <= GATHER_BYTES {
            if self.unsent.capacity() == 0 {
                // once, instead of for the head and again for the body
                self.unsent.reserve_exact(GATHER_BYTES);
            }
            for slice in slices {
                self.unsent.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(bytes));
        }
        self.poll_send_with(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        match Pin::new(&mut self.parts.transport).poll_flush(cx) {
            Poll::Pending => self.poll_stalled(cx),
            done => {
                self.stall = None;
                done
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        match Pin::new(&mut self.parts.transport).poll_shutdown(cx) {
            Poll::Pending => self.poll_stalled(cx),
            done => done,
        }
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
        if self.is_broken_off() {
            // nothing can be done about a socket that does not take the option
            let _ = self.parts.transport.reset_on_close();
            return;
        }
        let unread = !self.held.is_empty()
            || !matches!(self.reading, Reading::Through) && !self.is_request_read();
        if self.writing == Writing::Nothing || self.ended || !unread {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let transport = std::mem::replace(&mut self.parts.transport, Transport::Gone);
            runtime.spawn(linger(
                transport,
                self.parts.open.clone(),
                self.parts.linger,
            ));
        }
    }
}

/// Closes after the client has had a chance to read the answer (RFC 9112 §9.6). The connection counts as open
/// meanwhile.
async fn linger(mut transport: Transport, open: OpenConnection, at_most: Duration) {
    let farewell = async {
        transport.shutdown().await?;
        tokio::io::copy(
            &mut (&mut transport).take(LINGER_BYTES_MAX),
            &mut tokio::io::sink(),
        )
        .await
    };
    let _ = tokio::time::timeout(at_most, farewell).await;
    drop(open);
}
