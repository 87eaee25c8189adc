//! What is read of a client: the content of its request and no byte more, at the pace that it has to keep.

use super::{EdgeStream, Fault, Reading};
use crate::edge::turns::{self, Turn, now};
use crate::exchange::connection::RefusedContent;
use crate::problem::Kind;
use bytes::BytesMut;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

/// What is taken in ahead of the request being served. More waits in the socket, and so with the client.
const HELD_BYTES_MAX: usize = 16 << 10;

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
            frames.read(buf.filled().get(before..).unwrap_or_default());
            if read.is_pending() {
                frames.poll_head(cx);
            }
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
            Reading::Through => self.poll_read_through(cx, buf),
            Reading::Length(0) => self.poll_gone(cx),
            Reading::Length(left) => {
                let left = *left;
                self.poll_read_length(cx, buf, left)
            }
            Reading::Chunked(chunks) if chunks.is_done() => self.poll_gone(cx),
            Reading::Chunked(_) => self.poll_read_chunked(cx, buf),
        }
    }

    /// Another protocol, or HTTP/2, whose content has to take turns as well.
    fn poll_read_through(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_turn(cx));
        let read = Pin::new(&mut self.parts.transport).poll_read(cx, buf);
        let frames = self.frames.as_ref();
        match frames.is_some_and(|frames| frames.is_within_request()) {
            true if read.is_pending() => self.wait(cx),
            _ => self.pace.forget_wait(),
        }
        read
    }

    /// Whoever has let us wait for long has its turn among others who did, as soon as there is something to read.
    ///
    /// The client is waited for only after a read that was pending: then nothing is left in TLS either, and the socket
    /// tells whether there is something.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(since) = self.pace.since() else {
            return Poll::Ready(());
        };
        let transport = &self.parts.transport;
        if self.turn.is_none() {
            ready!(transport.poll_socket(cx));
            if !turns::is_long(since) {
                return Poll::Ready(());
            }
        }
        let turn = self.turn.get_or_insert_with(|| Turn::new(since));
        let asked = ready!(turn.poll(since, cx, |cx| transport.poll_socket(cx)));
        // from then on the client waited for us
        self.pace.pause(asked);
        self.pace.wait(now);
        Poll::Ready(())
    }

    /// The client is waited for: a read was pending.
    fn wait(&mut self, cx: &mut Context<'_>) {
        let since = self.pace.wait(now);
        if let Some(turn) = &self.turn {
            let transport = &self.parts.transport;
            // should it be ready after all, the read that was pending wakes as it always does
            let _ = turn.poll(since, cx, |cx| transport.poll_socket(cx));
        }
    }

    /// Content with a known length: never past its end.
    fn poll_read_length(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        left: u64,
    ) -> Poll<io::Result<()>> {
        let within = usize::try_from(left).unwrap_or(usize::MAX);
        let read = if buf.remaining() <= within {
            ready!(self.poll_read_paced(cx, buf))?
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(within));
            let read = ready!(self.poll_read_paced(cx, &mut part))?;
            buf.advance(read);
            read
        };
        self.reading = Reading::Length(left.saturating_sub(read as u64));
        Poll::Ready(Ok(()))
    }

    /// Content that says itself where it ends: what follows the end is held.
    fn poll_read_chunked(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.poll_read_paced(cx, buf))?;
        let Reading::Chunked(chunks) = &mut self.reading else {
            return Poll::Ready(Ok(()));
        };
        let read = buf.filled().get(before..).unwrap_or_default();
        match chunks.advance(read) {
            Ok(content) => {
                self.held
                    .extend_from_slice(read.get(content..).unwrap_or_default());
                buf.set_filled(before + content);
                Poll::Ready(Ok(()))
            }
            Err(Fault { kind, detail }) => {
                buf.set_filled(before);
                Poll::Ready(Err(refused(kind, detail)))
            }
        }
    }

    /// Reads content, and looks at how fast it comes.
    fn poll_read_paced(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(cx));
        let before = buf.filled().len();
        let result = match Pin::new(&mut self.parts.transport).poll_read(cx, buf) {
            Poll::Pending => {
                self.wait(cx);
                return Poll::Pending;
            }
            Poll::Ready(result) => result,
        };
        let read = buf.filled().len() - before;
        self.ended = result.is_ok() && read == 0;
        let least = match self.attachment() {
            Some(attachment) if read > 0 && self.parts.interrupt.is_hurried() => {
                attachment.rates.read
            }
            _ => {
                self.pace.forget_wait();
                return Poll::Ready(result.map(|()| read));
            }
        };
        if self.pace.is_waiting() && self.pace.moved(read, least, now).is_err() {
            let detail = "the content of the request comes too slowly";
            return Poll::Ready(Err(refused(Kind::RequestTimeout, detail)));
        }
        Poll::Ready(Ok(read))
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
        self.poll_given_up(cx)
    }

    /// The client sends nothing more. It may be gone, or wait for its answer: that can't be told before something is
    /// written to it. So it is waited for, but not for long, as long as nothing is written.
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.parts.interrupt.is_in_line() {
            return Poll::Ready(Ok(()));
        }
        let at_most = self.parts.half_closed;
        let timer = self
            .half_closed
            .get_or_insert_with(|| Box::pin(sleep(at_most)));
        timer.as_mut().poll(cx).map(Ok)
    }
}

fn refused(kind: Kind, detail: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, RefusedContent { kind, detail })
}
