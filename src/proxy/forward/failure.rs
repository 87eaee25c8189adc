//! How a try ended that brought no answer, and whether another one follows.

use super::BAD_ANSWER;
use crate::proxy::context::RequestContext;
use crate::proxy::place;
use crate::proxy::retry::{self, Failure};
use crate::upstream::{Outcome, reserve};
use pingora_core::{Error, ErrorType};
use pingora_proxy::Session;
use std::time::Instant;

/// A connection could not be made. Nothing was sent, so any request may try elsewhere.
pub fn connect_failed(
    session: &Session,
    context: &mut RequestContext,
    mut error: Box<Error>,
) -> Box<Error> {
    context.watch.released();
    if let Some(again) = place::lacked(context, &error) {
        error.set_retry(again);
        return error;
    }
    let exhausted = reserve::is_exhausted(&error);
    if let Some(forward) = context.forward.as_mut() {
        let now = Instant::now();
        let outcome = match exhausted || forward.is_called_off(now) || retry::goes_away(&error) {
            true => Outcome::Abandoned,
            false => outcome_of(&error),
        };
        forward.settle(outcome, now);
    }
    let again = !exhausted && retry::again(session, context, Failure::Unconnected);
    error.set_retry(again);
    error
}

/// A try failed after its connection was made.
pub fn try_failed(
    session: &Session,
    context: &mut RequestContext,
    mut error: Box<Error>,
    connection_reused: bool,
) -> Box<Error> {
    context.watch.released();
    if let Some(again) = place::lacked(context, &error) {
        error.set_retry(again);
        return error;
    }
    if *error.etype() == retry::REPEATED {
        // it was decided on with the head of the answer
        error.set_retry(true);
        return error;
    }
    let now = Instant::now();
    let Some(forward) = context.forward.as_mut() else {
        return error;
    };
    let answered = forward.status.is_some();
    let missed = context.watch.is_missed();
    let outcome = match missed {
        // the caller gave no more time, or took all of it to send the request
        true if forward.is_called_off(now) || !context.sent => Outcome::Abandoned,
        true => Outcome::TimedOut,
        false if retry::goes_away(&error) || reserve::is_exhausted(&error) => Outcome::Abandoned,
        // nor is this the endpoint's silence
        false if !context.sent && *error.etype() == ErrorType::ReadTimedout => Outcome::Abandoned,
        false => outcome_of(&error),
    };
    if missed
        && outcome == Outcome::TimedOut
        && let Some(endpoint) = forward.endpoint()
    {
        endpoint.is_silent(forward.line);
    }
    if answered {
        // its head was counted as an answer, and this is another thing to know
        forward.broke_off(outcome, now);
    }
    forward.settle(outcome, now);
    let failure = match outcome {
        _ if answered => None,
        Outcome::TimedOut => Some(Failure::Late),
        // the client was slow, or left
        _ if context.watch.is_missed() => None,
        _ if retry::is_unprocessed(&error) => Some(Failure::Unprocessed),
        Outcome::Broken | Outcome::Unreachable => Some(Failure::Broken {
            reused: connection_reused && !retry::is_of_the_stream(&error),
        }),
        Outcome::Answered(_) | Outcome::Abandoned => None,
    };
    let again = failure.is_some_and(|failure| retry::again(session, context, failure));
    error.set_retry(again);
    error
}

/// What a failed try says about its endpoint.
fn outcome_of(error: &Error) -> Outcome {
    use ErrorType::{ConnectTimedout, ReadTimedout, TLSHandshakeTimedout, WriteTimedout};
    let etype = error.etype();
    if *etype == BAD_ANSWER {
        return Outcome::Broken;
    }
    match (error.esource(), etype) {
        (pingora_core::ErrorSource::Upstream, ConnectTimedout | TLSHandshakeTimedout) => {
            Outcome::Unreachable
        }
        (pingora_core::ErrorSource::Upstream, ReadTimedout | WriteTimedout) => Outcome::TimedOut,
        (pingora_core::ErrorSource::Upstream, etype) if is_connecting(etype) => {
            Outcome::Unreachable
        }
        (pingora_core::ErrorSource::Upstream, _) => Outcome::Broken,
        _ => Outcome::Abandoned,
    }
}

/// Errors of a connection that was not made.
fn is_connecting(etype: &ErrorType) -> bool {
    use ErrorType::*;
    matches!(
        etype,
        ConnectRefused
            | ConnectNoRoute
            | ConnectError
            | ConnectProxyFailure
            | BindError
            | SocketError
            | TLSHandshakeFailure
            | InvalidCert
            | HandshakeError
    )
}
