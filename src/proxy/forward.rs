//! From a request that has a place at an endpoint to the answer: the peer of each try and what is known of it; the
//! [request](upstream_head) that is sent; how a try [failed](try_failed); the [answer](response_head) that comes back.
//! Whether another try follows is said by [`super::retry`].

mod answer;
mod failure;
mod request;

pub use answer::{ended_credential, response_body, response_head, response_trailers};
pub use failure::{connect_failed, try_failed};
pub use request::{request_body, upstream_head};

use super::context::{Forward, RequestContext};
use super::deadline::Watch;
use super::patience::unless_gone;
use super::place;
use super::plan::earliest;
use crate::exchange::Strain;
use crate::exchange::connection::{self, Interrupt};
use crate::upstream::breaker::Verdict;
use crate::upstream::connections::Bounded;
use crate::upstream::proxy_protocol::Parties;
use crate::upstream::{Endpoint, Observed, Outcome};
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a write may be blocked where the idle time is that of streams. Silence is what streams are allowed; an
/// endpoint that takes nothing holds the client's bytes, and nobody hears meanwhile that the client has gone.
const BLOCKED_MAX: Duration = Duration::from_secs(300);

/// How long an answer that is no stream may take after its head, though the credential ends meanwhile.
const ANSWER_MIN: Duration = Duration::from_secs(10);

/// Our own error types: what a callback found, for `fail_to_proxy` to tell the client.
pub const BODY_TOO_LARGE: ErrorType = ErrorType::new("BodyTooLarge");
pub const DEADLINE: ErrorType = ErrorType::new("DeadlineMissed");
pub const NO_ENDPOINT: ErrorType = ErrorType::new("NoEndpoint");
pub const BAD_ANSWER: ErrorType = ErrorType::new("BadAnswer");
pub const MESSAGE_TOO_LARGE: ErrorType = ErrorType::new("MessageTooLarge");

/// The peer of the next try.
pub async fn peer(session: &mut Session, context: &mut RequestContext) -> Result<Box<HttpPeer>> {
    let pause = context.forward.as_mut().map(|forward| forward.pause);
    if let Some(pause) = pause.filter(|pause| !pause.is_zero()) {
        unless_gone(session, tokio::time::sleep(pause)).await?;
    }
    if context.watch.is_missed() {
        return Error::e_explain(DEADLINE, "before the next try");
    }
    let Some(forward) = context.forward.as_mut() else {
        return Error::e_explain(ErrorType::InternalError, "forwarded without a service");
    };
    let now = Instant::now();
    if forward.due.is_some_and(|due| due <= now) {
        return Error::e_explain(DEADLINE, "before the next try");
    }
    if forward.tries == 0 {
        context.own = now.saturating_duration_since(context.started);
    } else {
        // the body, if there is one, passes once more
        context.request_bytes = 0;
        context.sent = false;
        forward.status = None;
    }
    forward.tries += 1;
    forward.interim = 0;
    forward.try_counted = false;
    forward.try_started = Some(now);
    forward.awaited = None;
    let timeouts = forward.timeouts;
    let idle = if forward.streams {
        timeouts.stream_idle
    } else {
        timeouts.idle
    };
    let Some(endpoint) = forward.endpoint() else {
        return Error::e_explain(NO_ENDPOINT, "no endpoint was chosen");
    };
    // Pingora bounds the wait for the head and the waits after it alike; the shorter one is kept by the watch
    let read = match (idle, timeouts.response_header) {
        (Some(idle), Some(header)) => Some(idle.max(header)),
        _ => None,
    };
    // over HTTP/2 its wait for the head runs while the client still sends, which `total` bounds
    let sends =
        endpoint.wire().may_multiplex() && !forward.streams && !session.as_mut().is_body_done();
    let read = match sends {
        true => read
            .zip(timeouts.total.or(timeouts.stream_idle))
            .map(|(read, all)| read.max(all)),
        false => read,
    };
    context.watch.set(forward.due);
    let facts = context.facts.as_ref();
    let parties = || facts.and_then(Parties::of);
    if forward.tunnel.is_some() {
        // its head is awaited under the watch, and so is what comes after it
        let mut peer = endpoint.tunnel();
        let hand = endpoint.connections().map(Bounded::hand);
        endpoint.bound(&mut peer, timeouts.steps(), None, parties, hand.as_ref());
        return match hand {
            None => Ok(peer),
            Some(hand) => Box::pin(place::found(session, context, peer, hand)).await,
        };
    }
    let line = endpoint.line();
    let mut peer = endpoint.peer(read, forward.pooled, line);
    // a head alone is awaited together with its answer, and a timer costs more than writing it
    let awaited = timeouts.response_header.is_some() && session.as_mut().is_body_done();
    peer.options.write_timeout = idle
        .filter(|_| !awaited)
        .map(|idle| idle.min(BLOCKED_MAX.max(timeouts.idle.unwrap_or_default())));
    // never longer than the try may take
    let left = forward.try_due(now);
    let left = left.map(|due| due.saturating_duration_since(now));
    let hand = endpoint.connections().map(Bounded::hand);
    endpoint.bound(&mut peer, timeouts.steps(), left, parties, hand.as_ref());
    forward.line = line;
    forward.idle = idle.filter(|idle| read.is_none_or(|read| *idle < read));
    match hand {
        None => Ok(peer),
        Some(hand) => Box::pin(place::found(session, context, peer, hand)).await,
    }
}

impl Forward {
    /// The endpoint of the current try.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.picked.as_ref().and_then(|picked| picked.endpoint())
    }

    /// Whether the credential has ended, and the exchange with it.
    pub fn is_closed(&self, now: Instant) -> bool {
        let is_over = |end: Option<Instant>| end.is_some_and(|end| end <= now);
        is_over(self.closes) && is_over(self.ends)
    }

    /// The answer has begun: from now on the end of the credential is its end too. Answers that are no streams have some
    /// time to come over all the same, so that ordinary ones are not cut.
    fn begins(&mut self, now: Instant) {
        let least = match self.streams {
            true => now,
            false => now + ANSWER_MIN,
        };
        let closes = self.closes.map(|closes| closes.max(least));
        self.ends = earliest(self.call_ends, closes);
    }

    /// The next piece of the answer is due from now on.
    fn awaits_piece(&self, watch: &Watch, now: Instant) {
        match (self.idle, self.ends) {
            (Some(idle), end) => watch.set_silence(now, idle, end),
            (None, Some(end)) => watch.set_after_head(end),
            (None, None) => watch.clear(),
        }
    }

    /// Whether the time that the caller gave is over, or that of the request with less than half of it left to this try:
    /// the rest went to the client or to others. That says nothing about an endpoint, or callers in a hurry, and those who
    /// take their time, could take endpoints out of service.
    fn is_called_off(&self, now: Instant) -> bool {
        let is_over = |end: Option<Instant>| end.is_some_and(|end| end <= now);
        let from = self.awaited.or(self.try_started).unwrap_or(now);
        let had = now.saturating_duration_since(from);
        let little = self.timeouts.total.is_some_and(|total| had < total / 2);
        is_over(self.ends) || is_over(self.due) && little
    }

    /// When a try whose time runs from this moment must have brought the head of an answer.
    fn try_due(&self, from: Instant) -> Option<Instant> {
        earliest(self.due, self.timeouts.per_try.map(|time| from + time))
    }

    /// Ends a try: counts it, and tells its endpoint.
    pub fn settle(&mut self, outcome: Outcome, now: Instant) {
        if std::mem::replace(&mut self.try_counted, true) {
            return;
        }
        let took = self
            .try_started
            .map(|started| now.saturating_duration_since(started))
            .unwrap_or_default();
        self.waited += took;
        self.service.metrics.tried(outcome.status(), took);
        if let Some(picked) = &mut self.picked {
            picked.observe(Observed { outcome, took });
        }
        if let Some(strain) = strain_of(outcome) {
            self.observers
                .iter()
                .for_each(|one| one.observe(strain, took));
        }
        self.judge(outcome.into(), now);
    }

    /// Tells the breakers.
    fn judge(&mut self, verdict: Verdict, now: Instant) {
        if let Some(picked) = &mut self.picked {
            picked.judge(verdict, now);
        }
        self.service.judge(&mut self.admitted, verdict, now);
    }

    /// The answer that has been counted did not come to its end.
    fn broke_off(&mut self, outcome: Outcome, now: Instant) {
        if let (Some(picked), Some(started)) = (&mut self.picked, self.try_started) {
            let took = now.saturating_duration_since(started);
            picked.observe(Observed { outcome, took });
        }
        // what was bad by its head has been counted as such
        let good = self.status.is_some_and(|status| status < 500);
        match outcome.into() {
            Verdict::Bad if good => self.judge(Verdict::Late, now),
            _ => {}
        }
    }
}

/// What a try says about how much there is to do. A fast error says nothing, nor does an endpoint that is not there.
fn strain_of(outcome: Outcome) -> Option<Strain> {
    match outcome {
        Outcome::TimedOut | Outcome::Answered(503 | 504) => Some(Strain::Overloaded),
        Outcome::Answered(status) if status < 500 && status != 429 => Some(Strain::Answered),
        Outcome::Answered(_) | Outcome::Unreachable | Outcome::Broken | Outcome::Abandoned => None,
    }
}

/// From now on the answer is awaited, unless a body has to be sent first.
pub fn connected(
    session: &mut Session,
    context: &mut RequestContext,
    reused: bool,
    descriptor: std::os::fd::RawFd,
    digest: Option<&Digest>,
) -> Result<()> {
    place::entered(context, reused, digest)?;
    context.watch.connected(descriptor);
    if session.as_mut().is_body_done() {
        context.sent = true;
        let forward = context.forward.as_ref();
        let tried = forward.and_then(|forward| forward.try_started);
        // a connection from the pool took no time worth another look at the clock
        let now = tried.filter(|_| reused).unwrap_or_else(Instant::now);
        await_answer(context, now, tried.unwrap_or(now));
    }
    Ok(())
}

/// Whether the connection to the endpoint may be one that other exchanges use at the same time.
pub fn may_share(context: &RequestContext) -> bool {
    let forward = context.forward.as_ref();
    let endpoint = forward.and_then(|forward| forward.endpoint());
    endpoint.is_some_and(|endpoint| endpoint.wire().may_multiplex())
}

/// What ends the wait for the client of this exchange.
fn interrupt_of<'a>(
    session: &'a Session,
    context: &'a RequestContext,
) -> Option<&'a Arc<Interrupt>> {
    let of_client = || session.digest().and_then(connection::interrupt_of);
    context.interrupt.as_ref().or_else(of_client)
}

/// The exchange is a stream: its client need not keep the rates that the listener asks for.
pub fn take_your_time(session: &Session, context: &RequestContext) {
    // streams of HTTP/2 that are not guarded share what is their connection's
    let shares =
        context.interrupt.is_none() && session.req_header().version == http::Version::HTTP_2;
    if let Some(interrupt) = interrupt_of(session, context).filter(|_| !shares) {
        interrupt.take_your_time();
    }
}

/// The request is sent: the head of the answer is due. The time of the try runs from its beginning, unless the client was
/// still sending: how long that takes is not the endpoint's fault.
fn await_answer(context: &mut RequestContext, now: Instant, tried: Instant) {
    let Some(forward) = context.forward.as_mut() else {
        return;
    };
    forward.awaited = Some(now);
    let timeouts = forward.timeouts;
    let header = timeouts.response_header.map(|header| now + header);
    context.watch.set(earliest(header, forward.try_due(tried)));
}
