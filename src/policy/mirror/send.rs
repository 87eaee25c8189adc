//! One copy on its way: over connections of its own, with an end to everything.

use super::X_MIRROR;
use crate::observe::metrics::Mirrored;
use crate::state::Kept;
use crate::upstream::connections::{Bounded, Connection, Use};
use crate::upstream::endpoint::Pooled;
use crate::upstream::proxy_protocol::Parties;
use crate::upstream::service::Host;
use crate::upstream::{Choice, Endpoint, Observed, Outcome, Service, reserve};
use bytes::Bytes;
use http::{HeaderValue, Uri, Version, header};
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use std::time::{Duration, Instant};

/// An answer is read to its end up to this, so that its connection can be used again.
const DRAINED_BYTES_MAX: usize = 1024 * 1024;

/// The most interim answers to one copy.
const INTERIM_MAX: u8 = 16;

/// A complete request.
pub struct Copy {
    head: RequestHeader,
    /// Whose request it is a copy of.
    parties: Option<Parties>,
    pub body: Vec<u8>,
}

impl Copy {
    pub fn new(head: RequestHeader, parties: Option<Parties>) -> Self {
        Self {
            head,
            parties,
            body: Vec::new(),
        }
    }

    /// The head as that endpoint gets it. The body is complete, so it has a length; nobody waits to be told to send it.
    fn head_for(&self, service: &Service, endpoint: &Endpoint) -> Result<RequestHeader> {
        let mut head = self.head.clone();
        head.set_version(Version::HTTP_11);
        let framed = head.headers.contains_key(header::TRANSFER_ENCODING)
            || head.headers.contains_key(header::CONTENT_LENGTH);
        for name in [
            header::TRANSFER_ENCODING,
            header::EXPECT,
            header::CONNECTION,
        ] {
            head.remove_header(&name);
        }
        if framed || !self.body.is_empty() {
            head.insert_header(header::CONTENT_LENGTH, self.body.len())?;
        }
        match &service.host {
            Host::Preserve => {}
            Host::Endpoint => head.insert_header(header::HOST, endpoint.authority().clone())?,
            Host::Value(value) => head.insert_header(header::HOST, value.clone())?,
        }
        head.insert_header(X_MIRROR.clone(), HeaderValue::from_static("1"))?;
        Ok(head)
    }
}

/// The connections over which copies are sent. Clients' requests never wait for one of them.
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

    /// Sends a copy, and drops its answer. `timeout` is for all of it.
    pub async fn send(&self, copy: Copy, service: &Service, timeout: Duration) -> Mirrored {
        let began = Instant::now();
        let Ok(mut admitted) = service.admit(began) else {
            return Mirrored::Failed;
        };
        let Some(mut picked) = service.set().pick(Choice::default()) else {
            return Mirrored::Failed;
        };
        let Some(endpoint) = picked.endpoint() else {
            return Mirrored::Failed;
        };
        // nobody tries a copy again
        let line = endpoint.line();
        let mut peer = endpoint.peer(Some(timeout), Pooled::Fresh, line);
        let steps = service.timeouts.steps();
        // copies never wait for a connection: where there is no place, there is no copy
        let hand = endpoint.connections().map(Bounded::stranger);
        endpoint.bound(&mut peer, steps, None, || copy.parties, hand.as_ref());
        let exchange = self.exchange(copy, service, endpoint, &peer);
        let (outcome, answering) = match tokio::time::timeout(timeout, exchange).await {
            Ok(Ok((status, session, used))) => (Outcome::Answered(status), Some((session, used))),
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
        picked.judge(outcome.into(), now);
        service.judge(&mut admitted, outcome.into(), now);
        if let Some((session, _used)) = answering {
            let rest = self.drain(session, &peer);
            // an answer that goes on is cut off, and has been one
            let _ = tokio::time::timeout(timeout.saturating_sub(took), rest).await;
            picked.answered();
        }
        match outcome {
            Outcome::Answered(_) => Mirrored::Answered,
            Outcome::TimedOut => Mirrored::TimedOut,
            _ => Mirrored::Failed,
        }
    }

    /// Up to the head of the final answer.
    async fn exchange(
        &self,
        copy: Copy,
        service: &Service,
        endpoint: &Endpoint,
        peer: &HttpPeer,
    ) -> Result<(u16, HttpSession, Option<Use>)> {
        let mut head = copy.head_for(service, endpoint)?;
        let (mut session, reused) = self.0.get_http_session(peer).await?;
        let connection = session.digest().and_then(Connection::of);
        let used = connection
            .map(|connection| connection.enter(reused))
            .transpose()?;
        // these are not taken from the peer
        session.set_read_timeout(peer.options.read_timeout);
        session.set_write_timeout(peer.options.write_timeout);
        if session.as_http2().is_some() {
            make_http2(&mut head, peer.tls())?;
        }
        session.write_request_header(Box::new(head)).await?;
        if !copy.body.is_empty() {
            session
                .write_request_body(Bytes::from(copy.body), true)
                .await?;
        }
        session.finish_request_body().await?;
        for _ in 0..INTERIM_MAX {
            session.read_response_header().await?;
            match session.response_header() {
                Some(head) if !head.status.is_informational() => {
                    return Ok((head.status.as_u16(), session, used));
                }
                _ => {}
            }
        }
        Error::e_explain(ErrorType::InvalidHTTPHeader, "no final answer")
    }

    /// Reads an answer to its end, and keeps its connection.
    async fn drain(&self, mut session: HttpSession, peer: &HttpPeer) {
        let mut read = 0;
        while !session.response_done() {
            match session.read_response_body().await {
                Ok(Some(piece)) if read + piece.len() <= DRAINED_BYTES_MAX => read += piece.len(),
                Ok(None) => break,
                _ => return session.shutdown().await,
            }
        }
        self.0
            .release_http_session(session, peer, peer.options.idle_timeout)
            .await;
    }
}

/// The target of HTTP/2 has the authority in it (RFC 9113 §8.3.1).
pub(in crate::policy) fn make_http2(head: &mut RequestHeader, tls: bool) -> Result<()> {
    let invalid = || Error::explain(ErrorType::InvalidHTTPHeader, "no target for HTTP/2");
    let authority = head
        .headers
        .get(header::HOST)
        .ok_or_else(invalid)?
        .as_bytes();
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let uri = Uri::builder()
        .scheme(if tls { "https" } else { "http" })
        .authority(authority)
        .path_and_query(target)
        .build()
        .map_err(|_| invalid())?;
    head.set_uri(uri);
    head.remove_header(&header::HOST);
    head.set_version(Version::HTTP_2);
    Ok(())
}

/// What an error says about the endpoint.
pub(in crate::policy) fn outcome_of(error: &Error) -> Outcome {
    use ErrorType::*;
    match error.etype() {
        _ if reserve::is_exhausted(error) => Outcome::Abandoned,
        ReadTimedout | WriteTimedout => Outcome::TimedOut,
        ConnectTimedout | ConnectRefused | ConnectNoRoute | ConnectError | BindError
        | SocketError | TLSHandshakeFailure | TLSHandshakeTimedout | InvalidCert
        | HandshakeError => Outcome::Unreachable,
        _ => Outcome::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_descriptors_is_no_fault_of_an_endpoint() {
        let because = |errno| {
            let error = std::io::Error::from(errno);
            outcome_of(&Error::because(ErrorType::SocketError, "connecting", error))
        };
        assert_eq!(because(nix::errno::Errno::EMFILE), Outcome::Abandoned);
        assert_eq!(
            because(nix::errno::Errno::ECONNREFUSED),
            Outcome::Unreachable
        );
    }
}
