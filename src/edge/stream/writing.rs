//! What is written to a client: gathered, and only as long as the client takes it.

use super::{EdgeStream, Reading, Writing};
use crate::edge::stall::Stall;
use crate::edge::transport::Transport;
use crate::exchange::pace::Least;
use smallvec::SmallVec;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Writes are gathered up to here.
const GATHER_BYTES: usize = 4096;

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
        let taken = ready!(self.poll_take(cx, slices))?;
        if let Some(frames) = &mut self.frames {
            let mut left = taken;
            for slice in slices {
                let here = left.min(slice.len());
                frames.written(slice.get(..here).unwrap_or_default());
                left -= here;
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        if self.frames.is_some() {
            // nobody says when all streams are idle, and most of the time they are
            self.unsent = Vec::new();
        }
        match Pin::new(&mut self.parts.transport).poll_flush(cx) {
            Poll::Pending => self.poll_stalled(cx),
            Poll::Ready(Ok(())) => Poll::Ready(self.sent(0)),
            failed => failed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        if self.closes_without_a_word() {
            return Poll::Ready(Ok(()));
        }
        match Pin::new(&mut self.parts.transport).poll_shutdown(cx) {
            Poll::Pending => {
                // all but the goodbye of TLS is on its way: that is not taken back
                ready!(self.poll_too_slow(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            done => done,
        }
    }
}

impl EdgeStream {
    /// Gathers what is small, and sends what is not; answers how many bytes are taken care of.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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

    /// Sends what was gathered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        while let Some(rest) = self.unsent.get(sent..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.parts.transport).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    self.sent(written)?;
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
                    self.sent(written)?;
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

    /// A write waits: as long as the client takes enough.
    fn poll_stalled<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.poll_too_slow(cx));
        Poll::Ready(Err(self.give_up()))
    }

    /// Resolves when the client has taken too little.
    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (least, socket) = (self.least_written(), self.parts.transport.as_raw_fd());
        let open = &self.parts.open;
        let stall = self
            .stall
            .get_or_insert_with(|| Box::new(Stall::new(socket)));
        if !stall.is_waiting() {
            self.parts.interrupt.set_blocked(true);
        }
        stall
            .poll(cx, least, socket, || open.drain().is_short())
            .map(drop)
    }

    /// Closes the socket, and not in an orderly way: what it holds unsent would wait in the kernel for a client that does
    /// not read it, for minutes, and count as nobody's.
    fn give_up(&mut self) -> io::Error {
        // nothing can be done about a socket that does not take the option
        let _ = self.parts.transport.reset_on_close();
        self.parts.transport = Transport::Gone;
        io::ErrorKind::TimedOut.into()
    }

    /// The client takes something again.
    fn sent(&mut self, bytes: usize) -> io::Result<()> {
        self.half_closed = None;
        if self.stall.is_none() {
            return Ok(());
        }
        let (least, socket) = (self.least_written(), self.parts.transport.as_raw_fd());
        let Some(stall) = &mut self.stall else {
            return Ok(());
        };
        if stall.is_waiting() {
            self.parts.interrupt.set_blocked(false);
            // nobody listened meanwhile
            self.pace.forget_wait();
        }
        let kept_up = stall.written(bytes, least, socket);
        kept_up.map_err(|_| self.give_up())
    }

    /// What the client has to take. Something, where it may take its time; and over HTTP/2, where its streams have rates of
    /// their own.
    fn least_written(&self) -> Least {
        let Some(attachment) = self.attachment() else {
            return Least::default();
        };
        let least = attachment.rates.write;
        let hurried =
            !matches!(self.reading, Reading::Through) && self.parts.interrupt.is_hurried();
        match hurried {
            true => least,
            false => Least { rate: 0, ..least },
        }
    }

    /// Whether the client learns all there is to say by the closing of the socket, which follows: nothing it has sent is left
    /// unread, which would make that a reset, and there is no TLS that has an end of its own.
    fn closes_without_a_word(&self) -> bool {
        self.parts.transport.is_plain() && self.held.is_empty() && self.is_request_read()
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
