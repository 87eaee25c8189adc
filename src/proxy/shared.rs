//! A stream of a client over HTTP/2 that is waited for as a connection of HTTP/1 is.
//!
//! While Pingora waits for an endpoint it also waits for the client, to hear that it is gone. This session lets a
//! deadline end that wait ([`Interrupt`]), as `edge` does for HTTP/1. And it holds the client to the rates with which the
//! content of a request must come and an answer must be taken ([`crate::exchange::pace`]); Pingora would wait for the one
//! without end, and for the other as long as a byte is taken now and then. Pingora has no other place where an exchange
//! over HTTP/2 could be ended without its neighbours on the same connection: it offers sessions of others as `Custom`, and
//! this one does what its own does, with these two differences.

use crate::exchange::connection::{Drain, Interrupt, RefusedContent, drain_of, rates_of};
use crate::exchange::pace::{Pace, Rates};
use crate::problem::Kind;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, Stream, poll};
use h2::Reason;
use http::{HeaderMap, HeaderValue};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session as CustomSession;
use pingora_core::protocols::http::v2::server::HttpSession;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Lets deadlines end an exchange that may share its connection to the endpoint, and holds its client to the rates; none
/// for a client over HTTP/1, whose stream the edge listens for.
pub fn guard(session: &mut Session) -> Option<Arc<Interrupt>> {
    if !matches!(*session.downstream_session, ServerSession::H2(_)) {
        return None;
    }
    let nobody = ServerSession::Custom(Box::new(()));
    let own = std::mem::replace(&mut *session.downstream_session, nobody);
    let ServerSession::H2(stream) = own else {
        *session.downstream_session = own;
        return None;
    };
    let interrupt = Arc::new(Interrupt::default());
    let shared = Shared {
        rates: stream.digest().and_then(rates_of).copied(),
        drain: stream.digest().and_then(drain_of).cloned(),
        stream,
        interrupt: interrupt.clone(),
        pace: Pace::default(),
        taken: Pace::default(),
    };
    *session.downstream_session = ServerSession::Custom(Box::new(shared));
    Some(interrupt)
}

struct Shared {
    stream: HttpSession,
    interrupt: Arc<Interrupt>,
    /// None where the edge did not accept the connection.
    rates: Option<Rates>,
    drain: Option<Arc<Drain>>,
    /// How fast the content comes.
    pace: Pace,
    /// How fast the answer is taken.
    taken: Pace,
}

/// What is written at a time, at most: a frame.
const PIECE_BYTES_MAX: u64 = 16 << 10;
/// And at least, however slow a client may be.
const PIECE_BYTES_MIN: u64 = 512;
/// How often is looked whether memory is short.
const LOOK: Duration = Duration::from_secs(1);

impl Shared {
    /// The next piece of the content, in time and fast enough.
    async fn read(&mut self) -> Result<Option<Bytes>> {
        let hurried = self.interrupt.is_hurried();
        let Some(rates) = self.rates.filter(|_| hurried) else {
            return self.stream.read_body_bytes().await;
        };
        // what is there already needs no clock
        let read = match self.stream.read_body_bytes().now_or_never() {
            Some(read) => read?,
            None => {
                // a wait that is broken off goes on with the next call
                let until = self.pace.wait(Instant::now) + rates.silence;
                let read = self.stream.read_body_bytes();
                match tokio::time::timeout_at(until.into(), read).await {
                    Ok(read) => read?,
                    Err(_) => return Err(too_slow()),
                }
            }
        };
        let bytes = read.as_ref().map_or(0, Bytes::len);
        let moved = self.pace.moved(bytes, rates.read, Instant::now);
        match moved.is_err() && read.is_some() {
            true => Err(too_slow()),
            false => Ok(read),
        }
    }

    /// Writes a part of the answer; nobody listens to the client meanwhile.
    async fn write(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.interrupt.set_blocked(true);
        let written = self.write_in_pieces(data, end).await;
        self.interrupt.set_blocked(false);
        self.pace.forget_wait();
        written
    }

    /// The time that a write may take holds for each piece: a client that keeps the rate takes one within it.
    async fn write_in_pieces(&mut self, mut data: Bytes, end: bool) -> Result<()> {
        let hurried = self.interrupt.is_hurried();
        let least = self.rates.filter(|_| hurried).map(|rates| rates.write);
        let piece_bytes = least.map_or(PIECE_BYTES_MAX, |least| {
            least.bytes().clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)
        });
        loop {
            let piece = data.split_to(data.len().min(piece_bytes as usize));
            let bytes = piece.len();
            let is_last = data.is_empty();
            let mut write = pin!(self.stream.write_body(piece, end && is_last));
            // what the client has room for needs no clock
            match poll!(write.as_mut()) {
                Poll::Ready(written) => written?,
                Poll::Pending => {
                    self.taken.wait(Instant::now);
                    unless_short(self.drain.as_deref(), write).await?;
                }
            }
            if let Some(least) = least
                && self.taken.moved(bytes, least, Instant::now).is_err()
            {
                let what = "the client takes the answer too slowly";
                return Err(Error::explain(ErrorType::WriteTimedout, what).into_down());
            }
            if is_last {
                return Ok(());
            }
        }
    }
}

/// Waits for the client as long as there is memory: what waits for it is what takes the memory.
async fn unless_short(
    drain: Option<&Drain>,
    mut write: Pin<&mut impl Future<Output = Result<()>>>,
) -> Result<()> {
    loop {
        match tokio::time::timeout(LOOK, write.as_mut()).await {
            Ok(written) => return written,
            Err(_) if drain.is_some_and(Drain::is_short) => {
                let what = "the client is waited for, and memory is short";
                return Err(Error::explain(ErrorType::WriteTimedout, what).into_down());
            }
            Err(_) => {}
        }
    }
}

/// Gives an answer's fields memory of their own. They are parts of what the endpoint's answer was read into, and h2
/// remembers them as long as the connection lives (RFC 7541 §2.3.2).
fn detach(head: &mut ResponseHeader) -> Result<()> {
    let bytes = head.headers.values().map(HeaderValue::len).sum();
    let mut text = BytesMut::with_capacity(bytes);
    let (blank, ()) = http::Response::new(()).into_parts();
    let mut parts = http::response::Parts::from(std::mem::replace(head, blank.into()));
    for value in parts.headers.values_mut() {
        text.extend_from_slice(value.as_bytes());
        let is_sensitive = value.is_sensitive();
        *value = HeaderValue::from_maybe_shared(text.split().freeze())
            .or_err(ErrorType::InvalidHTTPHeader, "a field of an answer")?;
        value.set_sensitive(is_sensitive);
    }
    *head = parts.into();
    Ok(())
}

fn too_slow() -> Box<Error> {
    let refused = RefusedContent {
        kind: Kind::RequestTimeout,
        detail: "the content of the request comes too slowly",
    };
    let cause = io::Error::new(io::ErrorKind::InvalidData, refused);
    Error::because(ErrorType::ReadTimedout, "reading the content", cause)
}

type MessageReader = Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

#[async_trait]
impl CustomSession for Shared {
    /// The differences are here and where it writes.
    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let interrupt = self.interrupt.clone();
        let idle = no_body_expected || self.stream.is_body_done();
        let read = async {
            match idle {
                true => self.stream.read_body_or_idle(true).await,
                false => self.read().await,
            }
        };
        tokio::select! {
            biased;
            () = poll_fn(|cx| interrupt.poll(cx)) => {
                Error::e_explain(ErrorType::ReadTimedout, "a deadline ended the exchange")
            }
            read = read => read,
        }
    }

    fn req_header(&self) -> &RequestHeader {
        self.stream.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.stream.req_header_mut()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.read().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.stream.drain_request_body().await
    }

    async fn write_response_header(
        &mut self,
        mut head: Box<ResponseHeader>,
        end: bool,
    ) -> Result<()> {
        detach(&mut head)?;
        self.stream.write_response_header(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.stream.write_response_header_ref(head, end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.write(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.stream.write_trailers(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut ended = false;
        for task in tasks {
            ended |= match task {
                HttpTask::Header(mut head, end) => {
                    detach(&mut head)?;
                    let written = self.stream.write_response_header(head, end);
                    written.map_err(|error| error.into_down())?;
                    end
                }
                HttpTask::Body(Some(data), end) if !data.is_empty() => {
                    let written = self.write(data, end).await;
                    written.map_err(|error| error.into_down())?;
                    end
                }
                HttpTask::Body(_, end) => end,
                HttpTask::UpgradedBody(..) => {
                    return Error::e_explain(ErrorType::InternalError, "an upgrade over HTTP/2");
                }
                HttpTask::Trailer(Some(trailers)) => {
                    self.stream.write_trailers(*trailers)?;
                    true
                }
                HttpTask::Trailer(None) | HttpTask::Done => true,
                HttpTask::Failed(error) => return Err(error),
            };
        }
        if ended {
            // nothing happens where it is finished already
            let finished = self.stream.finish();
            finished.map_err(|error| error.into_down())?;
        }
        Ok(ended)
    }

    fn set_read_timeout(&mut self, _: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.stream.set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.stream.get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.stream.set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.stream.get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.stream.request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.stream.response_written()
    }

    async fn shutdown(&mut self, _: u32, _: &str) {
        self.stream.shutdown();
    }

    async fn abandon(&mut self, _: &str) {
        self.stream.shutdown_with_reason(Reason::INTERNAL_ERROR);
    }

    fn is_body_done(&mut self) -> bool {
        self.stream.is_body_done()
    }

    async fn finish(&mut self) -> Result<()> {
        self.stream.finish()
    }

    fn is_body_empty(&mut self) -> bool {
        self.stream.is_body_empty()
    }

    fn body_bytes_sent(&self) -> usize {
        self.stream.body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.stream.body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.stream.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.stream.digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.stream.client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.stream.server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.stream.pseudo_raw_h1_request_header()
    }

    fn enable_retry_buffering(&mut self) {
        self.stream.enable_retry_buffering();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.stream.retry_buffer_truncated()
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.stream.get_retry_buffer()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<MessageReader> {
        None
    }

    fn restore_custom_message_reader(&mut self, _: MessageReader) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
