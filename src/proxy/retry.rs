//! Whether a try that failed is followed by another.
//!
//! What provably was not processed may be repeated whatever it is: the connection was never made, or the endpoint says
//! so itself (`REFUSED_STREAM`, `GOAWAY` with a last stream before ours). Everything else only if processing twice does
//! no harm: the method is idempotent (RFC 9110 §9.2.2), or the request carries `Idempotency-Key` and the route says
//! that its service knows the field. A connection that closes before any byte of an answer proves nothing, reused or
//! not: the endpoint may have acted. So a POST is never sent twice.
//!
//! A body is repeated from Pingora's buffer of 64 KiB; a longer one is gone. Nothing is repeated once the head of an
//! answer was sent on, once the time of the request is over, or beyond the service's budget.

use super::context::{Forward, RequestContext};
use super::respond;
use crate::observe::metrics::RetryReason;
use crate::observe::random;
use crate::upstream::endpoint::Pooled;
use crate::upstream::{Retries, window};
use http::{HeaderName, Method, header};
use pingora_core::{Error, ErrorType};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use std::time::{Duration, Instant};

/// What Pingora keeps of a request body to send it again.
const REPLAYABLE_BYTES_MAX: u64 = 64 * 1024;

/// `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): the service makes sure that it acts once.
static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// An answer that is thrown away, because the request is tried again.
pub const REPEATED: ErrorType = ErrorType::new("Repeated");

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection was made.
    Unconnected,
    /// The endpoint says that it has not looked at the request.
    Unprocessed,
    /// The connection broke, or what came was no HTTP. `reused` if it had carried requests before.
    Broken { reused: bool },
    /// There was no head of an answer in time.
    Late,
    /// An answer with this status.
    Answered(u16),
}

impl Failure {
    fn reason(self) -> RetryReason {
        match self {
            Failure::Unconnected => RetryReason::ConnectFailure,
            Failure::Unprocessed => RetryReason::RefusedStream,
            Failure::Broken { .. } => RetryReason::Reset,
            Failure::Late => RetryReason::Timeout,
            Failure::Answered(_) => RetryReason::Status,
        }
    }

    /// Whether nothing can have been processed.
    fn is_harmless(self) -> bool {
        matches!(self, Failure::Unconnected | Failure::Unprocessed)
    }

    /// Whether the next try need not wait: nobody is overloaded by what happened.
    fn is_of_the_connection(self) -> bool {
        matches!(
            self,
            Failure::Unprocessed | Failure::Broken { reused: true }
        )
    }
}

/// Whether the configuration and the request allow another try after this failure. `repeatable` says whether processing
/// it twice does no harm, and `bounded` whether each try has a time of its own.
fn is_allowed(
    retries: &Retries,
    failure: Failure,
    tries: u8,
    repeatable: bool,
    bounded: bool,
) -> bool {
    let on = &retries.on;
    let listed = match failure {
        Failure::Unconnected => on.connect_failure,
        Failure::Unprocessed => on.refused_stream,
        Failure::Broken { .. } => on.reset,
        Failure::Late => on.timeout.unwrap_or(bounded),
        Failure::Answered(status) => on.statuses.contains(&status),
    };
    listed && tries < retries.attempts && (repeatable || failure.is_harmless())
}

/// Whether a request does no harm when it is processed twice.
pub fn is_repeatable(retries: &Retries, request: &RequestHeader) -> bool {
    let idempotent = matches!(
        request.method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    );
    let key = || request.headers.get(&IDEMPOTENCY_KEY);
    idempotent || retries.idempotency_key && key().is_some_and(|key| !key.is_empty())
}

/// Which connections a request may be sent over: one that will not be repeated must not meet one that is about to be
/// closed.
pub fn pooled(retries: &Retries, request: &RequestHeader, has_length: bool) -> Pooled {
    let length = || request.headers.get(header::CONTENT_LENGTH);
    let length = has_length.then(length).flatten();
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let again = retries.attempts > 1
        && retries.on.reset
        && length.is_none_or(|length| length <= REPLAYABLE_BYTES_MAX)
        && is_repeatable(retries, request);
    if again { Pooled::Any } else { Pooled::Fresh }
}

/// Decides about another try, and prepares it: its endpoint is chosen and its pause is drawn. Whoever asks must then
/// make it.
pub fn again(session: &Session, context: &mut RequestContext, failure: Failure) -> bool {
    let now = Instant::now();
    let Some(forward) = context.forward.as_mut() else {
        return false;
    };
    let request = session.req_header();
    let repeatable = is_repeatable(&forward.retries, request);
    let over = forward.due.is_some_and(|due| due <= now);
    let bounded = forward.timeouts.per_try.is_some();
    if !is_allowed(
        &forward.retries,
        failure,
        forward.tries,
        repeatable,
        bounded,
    ) || over
        || forward.interim > 0
        || session.as_ref().retry_buffer_truncated()
        || respond::is_answered(session)
        || forward.service.refuses(now)
    {
        return false;
    }
    let service = forward.service.clone();
    let budget = &service.state().budget;
    if !budget.spend(forward.retries.budget, window::millis(now)) {
        service.metrics.retry_denied();
        return false;
    }
    // a connection that had been used before says little about its endpoint: the only one is asked again over another.
    // But where there are others, they are the better guess, for what closes connections may be an endpoint that goes away
    let reused = failure == (Failure::Broken { reused: true });
    if reused {
        forward.pooled = Pooled::New;
    }
    if !reused || forward.has_usable_others() {
        forward
            .tried
            .extend(forward.picked.as_ref().map(|picked| picked.at()));
    }
    if !forward.pick_again() {
        budget.refund(window::millis(now));
        return false;
    }
    forward.pause = match failure.is_of_the_connection() {
        true => Duration::ZERO,
        false => {
            let pause = forward.retries.pause(forward.tries, random::next());
            let left = forward
                .due
                .map_or(pause, |due| due.saturating_duration_since(now));
            pause.min(left)
        }
    };
    service.metrics.retried(failure.reason());
    context.watch.renew();
    true
}

impl Forward {
    /// Whether an endpoint could be chosen that has not failed this request.
    fn has_usable_others(&self) -> bool {
        self.picked.as_ref().is_some_and(|picked| {
            let endpoints = (0_u16..).zip(picked.set().endpoints());
            let mut others =
                endpoints.filter(|(at, _)| *at != picked.at() && !self.tried.contains(at));
            others.any(|(_, other)| other.weight > 0 && other.state.is_usable())
        })
    }

    /// Chooses the endpoint of another try, from the set that the first was chosen from: one that has not failed this
    /// request, while there is one. Tells whether there is any.
    fn pick_again(&mut self) -> bool {
        let Some(picked) = self.picked.as_mut() else {
            return false;
        };
        // its place may be the only one
        picked.answered();
        let set = picked.set().clone();
        let others = set.pick(self.basis.choice(&set, &self.tried));
        let next = others.or_else(|| set.pick(self.basis.choice(&set, &[])));
        let found = next.is_some();
        if found {
            self.picked = next;
        }
        found
    }
}

/// Whether an error of HTTP/2 proves that the request was not processed. The library gives the peer's `GOAWAY` to a
/// stream only if it is beyond the last one that the peer has looked at (RFC 9113 §6.8), and `REFUSED_STREAM` means
/// the same (§8.7).
pub fn is_unprocessed(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<h2::Error>();
    cause.is_some_and(|cause| {
        let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        cause.is_remote() && (cause.is_go_away() || refused)
    })
}

/// Whether an endpoint of HTTP/2 goes away in good order, as one that restarts or renews its connections does: it has not
/// looked at the request, and that says nothing against it.
pub fn goes_away(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<h2::Error>();
    cause.is_some_and(|cause| {
        cause.is_go_away() && cause.is_remote() && cause.reason() == Some(h2::Reason::NO_ERROR)
    })
}

/// Whether an endpoint of HTTP/2 has ended the one stream: its connection is well, and the next request goes the same
/// way.
pub fn is_of_the_stream(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<h2::Error>();
    cause.is_some_and(|cause| cause.is_reset() && cause.is_remote())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILURES: [Failure; 6] = [
        Failure::Unconnected,
        Failure::Unprocessed,
        Failure::Broken { reused: false },
        Failure::Broken { reused: true },
        Failure::Late,
        Failure::Answered(503),
    ];

    fn everything() -> Retries {
        let mut retries = Retries::default();
        retries.on.timeout = Some(true);
        retries.on.statuses = [503].into();
        retries
    }

    #[test]
    fn what_may_have_been_processed_is_repeated_only_if_it_does_no_harm() {
        let retries = everything();
        for failure in FAILURES {
            let allowed =
                |tries, repeatable| is_allowed(&retries, failure, tries, repeatable, false);
            assert!(allowed(1, true), "{failure:?}");
            assert!(!allowed(2, true), "{failure:?}");
            let harmless = matches!(failure, Failure::Unconnected | Failure::Unprocessed);
            assert_eq!(allowed(1, false), harmless);
        }
    }

    #[test]
    fn a_time_for_each_try_means_another_unless_something_else_is_said() {
        let mut retries = Retries::default();
        let late =
            |retries: &Retries, bounded| is_allowed(retries, Failure::Late, 1, true, bounded);
        assert!(late(&retries, true) && !late(&retries, false));
        assert!(!is_allowed(&retries, Failure::Late, 1, false, true));
        retries.on.timeout = Some(false);
        assert!(!late(&retries, true));
    }

    #[test]
    fn a_key_makes_a_post_repeatable_only_where_the_configuration_says_so() {
        let mut request = RequestHeader::build("POST", b"/", None).unwrap();
        let mut retries = everything();
        assert!(!is_repeatable(&retries, &request));
        retries.idempotency_key = true;
        assert!(!is_repeatable(&retries, &request));
        request.insert_header(&IDEMPOTENCY_KEY, "").unwrap();
        assert!(!is_repeatable(&retries, &request));
        request.insert_header(&IDEMPOTENCY_KEY, "a").unwrap();
        assert!(is_repeatable(&retries, &request));
        retries.idempotency_key = false;
        assert!(!is_repeatable(&retries, &request));
    }

    #[test]
    fn what_is_not_repeated_takes_no_connection_that_was_idle_for_long() {
        let retries = Retries::default();
        let request = |method: &str, length: &str| {
            let mut request = RequestHeader::build(method, b"/", None).unwrap();
            request.insert_header("content-length", length).unwrap();
            pooled(&retries, &request, true)
        };
        assert_eq!(request("GET", "0"), Pooled::Any);
        assert_eq!(request("PUT", "65536"), Pooled::Any);
        assert_eq!(request("PUT", "65537"), Pooled::Fresh);
        assert_eq!(request("POST", "0"), Pooled::Fresh);
    }

    /// A frame of HTTP/2 (RFC 9113 §4.1).
    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, 0];
        [&head[..], &stream.to_be_bytes(), payload].concat()
    }

    fn go_away(last: u32, reason: h2::Reason) -> Vec<u8> {
        let reason = u32::from(reason).to_be_bytes();
        frame(7, 0, &[last.to_be_bytes(), reason].concat())
    }

    /// Whether a request whose head an endpoint answers with these frames, and then closes, counts as not processed.
    async fn unprocessed_after(frames: Vec<u8>) -> bool {
        is_unprocessed(&*error_after(frames).await)
    }

    async fn error_after(frames: Vec<u8>) -> Box<Error> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (ours, mut endpoint) = tokio::io::duplex(64 * 1024);
        let (mut send, connection) = h2::client::handshake(ours).await.unwrap();
        let driving = tokio::spawn(connection);
        let request = http::Request::get("http://h.test/").body(()).unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        let serving = tokio::spawn(async move {
            endpoint.write_all(&frame(4, 0, &[])).await.unwrap();
            let mut seen = Vec::new();
            // the head of stream 1 is there: a HEADERS frame (1) with END_STREAM and END_HEADERS
            while !seen.windows(6).any(|part| part == [1, 5, 0, 0, 0, 1]) {
                let read = endpoint.read_buf(&mut seen).await.unwrap();
                assert!(read > 0, "the client went away");
            }
            endpoint.write_all(&frames).await.unwrap();
        });
        let error = response.await.expect_err("no answer was sent");
        serving.await.unwrap();
        driving.abort();
        Error::because(ErrorType::H2Error, "", error)
    }

    #[tokio::test]
    async fn an_endpoint_of_http2_says_itself_what_it_has_not_processed() {
        use h2::Reason;
        let reset = |reason: Reason| frame(3, 1, &u32::from(reason).to_be_bytes());
        assert!(unprocessed_after(reset(Reason::REFUSED_STREAM)).await);
        assert!(!unprocessed_after(reset(Reason::INTERNAL_ERROR)).await);
        assert!(!unprocessed_after(reset(Reason::CANCEL)).await);
        for reason in [Reason::NO_ERROR, Reason::ENHANCE_YOUR_CALM] {
            assert!(unprocessed_after(go_away(0, reason)).await, "{reason}");
            // the last stream is ours: it may have acted
            assert!(!unprocessed_after(go_away(1, reason)).await, "{reason}");
        }
        // closed without a word
        assert!(!unprocessed_after(Vec::new()).await);
        assert!(is_of_the_stream(&*error_after(reset(Reason::CANCEL)).await));
        let closed = [Vec::new(), go_away(1, Reason::NO_ERROR)];
        for frames in closed {
            assert!(!is_of_the_stream(&*error_after(frames).await));
        }
    }
}
