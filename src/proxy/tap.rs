//! Policies that look on while a request is sent, and what they leave to be done when it is complete.

use super::context::RequestContext;
use bytes::Bytes;
use futures::future::BoxFuture;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

/// Runs what a request leaves behind, beside the requests.
pub trait Background: Send + Sync {
    fn run(&self, work: BoxFuture<'static, ()>);
}

/// Shows them the head that an endpoint gets. A request that is tried again is the same request.
pub fn head(
    session: &mut Session,
    context: &mut RequestContext,
    upstream: &RequestHeader,
    background: &dyn Background,
) {
    if let Some(taps) = &mut context.taps {
        // what was shown of the body comes once more
        taps.iter_mut().for_each(|tap| tap.again());
        return;
    }
    let (Some(view), Some(forward)) = (context.view(session.req_header()), &context.forward) else {
        return;
    };
    let taps = context
        .route
        .chain
        .on_request_body(view, upstream, &forward.service);
    context.taps = Some(taps);
    if session.as_mut().is_body_done() {
        // no callback says that there is no body
        body(context, None, true, background);
    }
}

/// Shows them a piece of the body.
pub fn body(
    context: &mut RequestContext,
    piece: Option<&Bytes>,
    end: bool,
    background: &dyn Background,
) {
    let piece = piece.map_or(&[][..], |piece| piece);
    for tap in context.taps.iter_mut().flatten() {
        if let Some(work) = tap.piece(piece, end) {
            background.run(work);
        }
    }
}
