//! One question to an authoriser: over connections of its own, with an end to everything.

use crate::policy::mirror::send::{make_http2, outcome_of};
use crate::state::Kept;
use crate::upstream::endpoint::Pooled;
use crate::upstream::proxy_protocol::Parties;
use crate::upstream::service::Host;
use crate::upstream::{Choice, Endpoint, Observed, Outcome, Service};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, Version, header};
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use smallvec::SmallVec;
use std::time::{Duration, Instant};

/// The most of an answer's body that a client is given.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The most interim answers to one question.
const INTERIM_MAX: u8 = 16;

/// Tries in all: an endpoint that can't be reached, or a connection that turns out to be closed, is no verdict.
const TRIES: u8 = 2;

/// A request without a body.
pub struct Question {
    pub head: RequestHeader,
    /// Whose request it is about.
    pub parties: Option<Parties>,
}

/// What came back.
pub struct Asked {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// None of it where it was too long, or of no interest.
    pub body: Bytes,
}

/// The connections over which authorisers are asked.
pub struct Outbound(Connector);

impl Kept for Outbound {
    fn export(&self) -> Option<serde_json::Value> {
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

impl Outbound {
    pub fn new() -> Self {
        Self(Connector::new(None))
    }

    /// Asks an endpoint of the service, and another one where that can't be reached. `timeout` is for all of it.
    ///
    /// # Errors
    /// Why there is no answer, for the log.
    pub async fn ask(
        &self,
        question: Question,
        service: &Service,
        timeout: Duration,
    ) -> std::result::Result<Asked, &'static str> {
        let began = Instant::now();
        let mut tried = SmallVec::<[u16; 2]>::new();
        let mut failed = "no endpoint of the authoriser can be asked";
        for turn in 0..TRIES {
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err("the authoriser did not answer in time");
            }
            // what has been idle may be closed by now; the second try takes no chance
            let pooled = match turn {
                0 => Pooled::Fresh,
                _ => Pooled::New,
            };
            match self.attempt(&question, service, left, pooled, &mut tried).await {
                Ok(asked) => return Ok(asked),
                Err(Outcome::TimedOut) => return Err("the authoriser did not answer in time"),
                Err(Outcome::Unreachable) => failed = "the authoriser can't be reached",
                Err(Outcome::Abandoned) => return Err(failed),
                Err(_) => failed = "the authoriser gave no valid answer",
            }
        }
        Err(failed)
    }

    /// One try; `Abandoned` is one that was not made.
    async fn attempt(
        &self,
        question: &Question,
        service: &Service,
        timeout: Duration,
        pooled: Pooled,
        tried: &mut SmallVec<[u16; 2]>,
    ) -> std::result::Result<Asked, Outcome> {
        let began = Instant::now();
        let mut admitted = service.admit(began).map_err(|_| Outcome::Abandoned)?;
        let choice = Choice {
            tried,
            ..Choice::default()
        };
        let mut picked = service.set().pick(choice).ok_or(Outcome::Abandoned)?;
        let at = picked.at();
        let endpoint = picked.endpoint().ok_or(Outcome::Abandoned)?;
        let line = endpoint.line();
        let mut peer = endpoint.peer(Some(timeout), pooled, line);
        endpoint.bound(&mut peer, service.timeouts.steps(), None, || question.parties, None);
        let exchange = self.exchange(question, service, endpoint, &peer);
        let (outcome, asked) = match tokio::time::timeout(timeout, exchange).await {
            Ok(Ok(asked)) => (Outcome::Answered(asked.status.as_u16()), Some(asked)),
            Ok(Err(error)) => (outcome_of(&error), None),
            Err(_) => (Outcome::TimedOut, None),
        };
        if outcome == Outcome::TimedOut {
            endpoint.is_silent(line);
        }
        let took = began.elapsed();
        service.metrics.tried(outcome.status(), took);
        let now = began + took;
        picked.observe(Observed { outcome, took });
        // that somebody is denied says nothing about the authoriser
        picked.judge(outcome.into(), now);
        service.judge(&mut admitted, outcome.into(), now);
        picked.answered();
        tried.push(at);
        asked.ok_or(outcome)
    }

    async fn exchange(
        &self,
        question: &Question,
        service: &Service,
        endpoint: &Endpoint,
        peer: &HttpPeer,
    ) -> Result<Asked> {
        let mut head = question.head.clone();
        head.set_version(Version::HTTP_11);
        match &service.host {
            Host::Preserve => {}
            Host::Endpoint => head.insert_header(header::HOST, endpoint.authority().clone())?,
            Host::Value(value) => head.insert_header(header::HOST, value.clone())?,
        }
        let (mut session, _) = self.0.get_http_session(peer).await?;
        // these are not taken from the peer
        session.set_read_timeout(peer.options.read_timeout);
        session.set_write_timeout(peer.options.write_timeout);
        if session.as_http2().is_some() {
            make_http2(&mut head, peer.tls())?;
        }
        session.write_request_header(Box::new(head)).await?;
        session.finish_request_body().await?;
        for _ in 0..INTERIM_MAX {
            session.read_response_header().await?;
            let Some(answer) = session.response_header() else {
                continue;
            };
            if answer.status.is_informational() {
                continue;
            }
            let (status, headers) = (answer.status, answer.headers.clone());
            let body = self.body(session, peer).await?;
            return Ok(Asked {
                status,
                headers,
                body,
            });
        }
        Error::e_explain(ErrorType::InvalidHTTPHeader, "no final answer")
    }

    /// Reads an answer to its end, and keeps its connection; one that is too long is given up, with its connection.
    async fn body(&self, mut session: HttpSession, peer: &HttpPeer) -> Result<Bytes> {
        let mut body = BytesMut::new();
        while !session.response_done() {
            match session.read_response_body().await? {
                Some(piece) if body.len() + piece.len() <= BODY_BYTES_MAX => {
                    body.extend_from_slice(&piece);
                }
                Some(_) => {
                    session.shutdown().await;
                    return Ok(Bytes::new());
                }
                None => break,
            }
        }
        self.0
            .release_http_session(session, peer, peer.options.idle_timeout)
            .await;
        Ok(body.freeze())
    }
}
