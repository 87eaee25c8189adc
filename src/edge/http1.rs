//! The exchanges of an HTTP/1 connection, one after another (RFC 9112 §9.3).

use super::head::{Fault, Head, HeadScanner};
use super::slack::Slack;
use super::stream::EdgeStream;
use super::{Environment, Framing, Limits};
use crate::exchange::connection::{Connection, Drain};
use crate::problem::{Kind, Problem};
use bytes::BytesMut;
use futures::FutureExt;
use http::{HeaderValue, header};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, Sleep, sleep, timeout_at};

/// Content up to here is read to its end when the answer did not need it, so that the connection can go on.
const DISCARD_BYTES_MAX: u64 = 64 << 10;

/// How long a waiting connection is given for a request that may be on its way when its listener drains. That request
/// is answered, with `Connection: close`; closing at once would cut it off.
pub(super) const PARTING: Duration = Duration::from_secs(1);

/// What is the same for all exchanges of one connection.
pub(super) struct Session<'a, A> {
    pub environment: &'a Environment<A>,
    pub connection: &'a Connection,
    pub limits: &'a Limits,
    pub drain: &'a Drain,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// The client has sent something, or gone.
    Readable,
    /// Time is up.
    Over,
}

/// Why there is no next request.
enum NoRequest {
    /// Nothing more comes, and nobody is owed an answer.
    Over,
    Refused(Problem),
}

impl<A> Session<'_, A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    /// Serves exchanges until one of them closes the connection, or nobody sends another.
    pub(super) async fn serve(&self, mut stream: Box<EdgeStream>) {
        let slack = Slack::draw();
        // both last as long as the connection: an idle period costs no registration of its own
        let mut wait = Wait {
            drain: self.drain,
            notified: pin!(self.drain.notified()),
            registered: false,
            shortages: self.drain.shortages(),
            until: Instant::now(),
            timer: pin!(sleep(slack.of(self.limits.first_byte))),
            armed: false,
        };
        for served in 0..self.limits.exchanges {
            if stream.held().is_empty() {
                let patience = match served {
                    0 => self.limits.first_byte,
                    _ => self.limits.idle,
                };
                let woken = wait.until_readable(&mut stream, slack.of(patience)).await;
                if woken != Woken::Readable {
                    Box::pin(stream.close()).await;
                    return;
                }
            }
            let is_last = served + 1 == self.limits.exchanges;
            // boxed: what an exchange needs is not to be part of a waiting connection
            match Box::pin(self.exchange(stream, is_last)).await {
                Some(reused) => stream = reused,
                None => return,
            }
        }
    }

    /// One request and its answer. Gives the stream back if another request can follow.
    async fn exchange(
        &self,
        mut stream: Box<EdgeStream>,
        is_last: bool,
    ) -> Option<Box<EdgeStream>> {
        let (head, request) = match self.read_request(&mut stream).await {
            Ok(request) => request,
            Err(NoRequest::Over) => return None,
            Err(NoRequest::Refused(problem)) => {
                let answer =
                    self.environment
                        .refuse
                        .refusal(self.connection, stream.held(), problem);
                stream.answer_and_close(&answer).await;
                return None;
            }
        };
        let mut session = ServerSession::new_http1(stream);
        session.set_pipelined_prefix(request);
        self.prepare(&mut session, &head, is_last);
        let environment = self.environment;
        let reused = environment
            .app
            .process_new_http(session, &environment.shutdown)
            .await?;
        let (stream, _) = reused.consume();
        let stream = stream.into_any().downcast::<EdgeStream>().ok()?;
        // drained meanwhile: the answer said keep-alive, so another request may be on its way
        stream.is_reusable().then_some(stream)
    }

    /// What Pingora leaves at no limit, and what this request needs. The stream itself bounds writes.
    fn prepare(&self, session: &mut ServerSession, head: &Head, is_last: bool) {
        session.set_keepalive(Some(self.limits.idle.as_secs().max(1)));
        session.set_read_timeout(Some(self.limits.read));
        session.set_total_drain_timeout(Some(self.limits.discard));
        if is_last || self.drain.keeps_nothing() {
            // Pingora settles keep-alive again when it reads the head, but not this
            session.set_keepalive_reuses_remaining(Some(0));
        }
        // a client that waits for `100 Continue` may send its next request instead of the content
        session.set_ignore_info_resp(head.is_http10);
        let is_short =
            matches!(head.framing, Framing::Length(length) if length <= DISCARD_BYTES_MAX);
        if is_short && !head.expects_continue {
            session.set_close_on_response_before_downstream_finish(false);
        }
    }

    /// Reads and checks one head; answers it with what has arrived of the content.
    async fn read_request(&self, stream: &mut EdgeStream) -> Result<(Head, BytesMut), NoRequest> {
        let head = self.read_head(stream).await?;
        let request = stream.begin(&head).map_err(refused)?;
        Ok((head, request))
    }

    /// One deadline for the whole head, however many reads it takes.
    async fn read_head(&self, stream: &mut EdgeStream) -> Result<Head, NoRequest> {
        let mut scanner = HeadScanner::new(self.limits.request_head);
        // most heads are there with the first read, and need no clock
        let mut deadline = None;
        loop {
            if let Some(head) = scanner.advance(stream.held()).map_err(refused)? {
                return Ok(head);
            }
            let began = !is_blank(stream.held());
            let read = match stream.fill().now_or_never() {
                Some(read) => Ok(read),
                None => {
                    let until = || Instant::now() + Slack::draw().of(self.limits.head);
                    timeout_at(*deadline.get_or_insert_with(until), stream.fill()).await
                }
            };
            match read {
                Err(_) if began => return Err(NoRequest::Refused(Kind::RequestTimeout.into())),
                Ok(Ok(0)) if began => {
                    return Err(NoRequest::Refused(Kind::RequestIncomplete.into()));
                }
                Err(_) | Ok(Ok(0) | Err(_)) => return Err(NoRequest::Over),
                Ok(Ok(_)) => {}
            }
        }
    }
}

/// Nothing but the empty line that may stand before a request.
fn is_blank(held: &[u8]) -> bool {
    matches!(held, b"" | b"\r" | b"\r\n")
}

fn refused(fault: Fault) -> NoRequest {
    let problem = Problem::new(fault.kind).detail(fault.detail);
    NoRequest::Refused(match fault.kind {
        // RFC 9110 §15.5.6: the answer says which methods there are
        Kind::RequestMethod => problem.header(
            header::ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ),
        _ => problem,
    })
}

/// What wakes a waiting connection, besides its client.
struct Wait<'a, 'p> {
    drain: &'a Drain,
    notified: Pin<&'p mut Notified<'a>>,
    /// The drain knows this task. It always is the same one, so once is enough.
    registered: bool,
    /// Those before this connection.
    shortages: u32,
    /// The end of this wait.
    until: Instant,
    timer: Pin<&'p mut Sleep>,
    /// The timer knows this task.
    armed: bool,
}

impl Wait<'_, '_> {
    /// Waits for `patience`, but once the listener drains, or memory is short, only for [`PARTING`].
    async fn until_readable(&mut self, stream: &mut EdgeStream, patience: Duration) -> Woken {
        self.until = Instant::now() + patience;
        if self.until < self.timer.deadline() {
            self.set_timer();
        }
        let mut parts = false;
        poll_fn(|cx| {
            // an error shows again when it is read
            if stream.poll_readable(cx).is_ready() {
                return Poll::Ready(Woken::Readable);
            }
            if self.poll_draining(cx) && !parts {
                parts = true;
                self.until = self.until.min(Instant::now() + PARTING);
                self.set_timer();
            }
            self.poll_over(cx).map(|()| Woken::Over)
        })
        .await
    }

    fn set_timer(&mut self) {
        self.timer.as_mut().reset(self.until);
        self.armed = false;
    }

    /// The timer is not moved back for each wait. It runs out early instead, now and then, and is set again. Nor is it
    /// asked in each wait: it knows the task since the last time, which always is the same one.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.armed && !self.timer.is_elapsed() {
            return Poll::Pending;
        }
        loop {
            self.armed = true;
            ready!(self.timer.as_mut().poll(cx));
            if self.timer.deadline() >= self.until {
                return Poll::Ready(());
            }
            self.set_timer();
        }
    }

    fn poll_draining(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.registered {
            self.registered = true;
            let _ = self.notified.as_mut().poll(cx);
        }
        self.drain.ends(self.shortages)
    }
}
