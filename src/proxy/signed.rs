//! Bodies of which a signature says what they have to be (RFC 9421, RFC 9530).
//!
//! A body is looked at while it passes, one piece behind: what comes last is sent on only when all of it has been seen
//! to be what was signed. A body of one piece, which most are, is never seen by the endpoint otherwise; of a longer one
//! the endpoint gets the beginning, and never the end.

use super::context::RequestContext;
use crate::identity::Reason;
use crate::identity::signature::Body;
use crate::identity::signature::digest::Watch;
use crate::observe::metrics::Metrics;
use bytes::{Bytes, BytesMut};
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::Session;

/// A body that is not what was signed.
pub const NOT_SIGNED: ErrorType = ErrorType::new("BodyNotSigned");

/// One body on its way.
#[derive(Debug)]
pub enum SignedBody {
    /// There must be none.
    Empty,
    /// What has been seen, and the piece that is held back.
    Watched(Watch, Option<Bytes>),
    /// It was all there.
    Complete,
}

/// Begins with a body that is about to be sent on, once more for each try.
pub fn head(session: &mut Session, context: &mut RequestContext, metrics: &Metrics) -> Result<()> {
    let Some(facts) = &context.facts else {
        return Ok(());
    };
    let again = context.signed.is_some();
    let begun = match &facts.body {
        Body::Unsaid => return Ok(()),
        Body::None => SignedBody::Empty,
        Body::Digests(digests) => SignedBody::Watched(digests.watch(), None),
    };
    context.signed = Some(begun);
    // no callback says that there is no body; on another try it is there already, and comes once more
    match !again && session.as_mut().is_body_done() {
        true => body(context, &mut None, true, metrics),
        false => Ok(()),
    }
}

/// Looks at a piece.
pub fn body(
    context: &mut RequestContext,
    piece: &mut Option<Bytes>,
    end: bool,
    metrics: &Metrics,
) -> Result<()> {
    let Some(signed) = &mut context.signed else {
        return Ok(());
    };
    let tunnel = context
        .forward
        .as_ref()
        .and_then(|forward| forward.tunnel.as_ref());
    if tunnel.is_some_and(|tunnel| tunnel.is_open()) {
        // what a WebSocket carries is no body
        return Ok(());
    }
    let is_good = match signed {
        SignedBody::Empty => piece.as_ref().is_none_or(Bytes::is_empty),
        SignedBody::Complete => true,
        SignedBody::Watched(watch, held) => {
            if let Some(piece) = piece {
                watch.piece(piece);
            }
            if !end {
                // none would end the body
                let next = piece.take().filter(|piece| !piece.is_empty());
                *piece = Some(match next {
                    Some(next) => held.replace(next).unwrap_or_default(),
                    None => Bytes::new(),
                });
                return Ok(());
            }
            let good = watch.is_good();
            if good {
                *piece = join(held.take(), piece.take());
                *signed = SignedBody::Complete;
            }
            good
        }
    };
    if is_good {
        return Ok(());
    }
    metrics.auth().refused(Reason::SignatureDigest);
    Err(Error::explain(NOT_SIGNED, Reason::SignatureDigest.code()).into_down())
}

fn join(held: Option<Bytes>, last: Option<Bytes>) -> Option<Bytes> {
    match (held, last.filter(|last| !last.is_empty())) {
        (Some(held), Some(last)) => {
            let mut both = BytesMut::with_capacity(held.len() + last.len());
            both.extend_from_slice(&held);
            both.extend_from_slice(&last);
            Some(both.freeze())
        }
        (held, last) => held.or(last),
    }
}
