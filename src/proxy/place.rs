//! A place among the connections to an endpoint, where those are bounded: asked for before Pingora looks for a
//! connection, found or waited for, and held as long as the exchange has the connection.
//!
//! Nothing is sent before it is known that the connection is the exchange's own, so whatever goes wrong here may be
//! repeated by any request. It costs no attempt and no budget, and says nothing about the endpoint.

use super::context::RequestContext;
use super::forward::DEADLINE;
use super::patience::unless_gone;
use crate::upstream::Timeouts;
use crate::upstream::connections::{Claim, Hand, NO_PLACE, RECLAIMED_TYPE};
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a request that has looked in vain for some times lets others do their work.
const PAUSE: Duration = Duration::from_millis(1);

/// How often it looks again at once.
const AT_ONCE: u8 = 2;

/// Waits for a place at the endpoint of a peer, where one must be waited for.
///
/// # Errors
/// There was none in time, or the client has gone.
pub async fn found(
    session: &mut Session,
    context: &mut RequestContext,
    mut peer: Box<HttpPeer>,
    hand: Arc<Hand>,
) -> Result<Box<HttpPeer>> {
    let Some(forward) = context.forward.as_mut() else {
        return Error::e_explain(ErrorType::InternalError, "forwarded without a service");
    };
    let claim = forward.claim.get_or_insert_with(Default::default);
    claim.begins(&hand);
    match claim.looks() {
        0 => {}
        // whoever drives a connection that was reclaimed has to see its end
        1..=AT_ONCE => tokio::task::yield_now().await,
        _ => tokio::time::sleep(PAUSE).await,
    }
    if !claim.waits && !hand.is_waited_for() {
        return Ok(peer);
    }
    let connect = forward.timeouts.connect.or(Timeouts::DEFAULT.connect);
    let until = claim.until(connect.unwrap_or_default());
    let due = forward.due;
    let until = due.map_or(until, |due| due.min(until));
    let waited = {
        let counted = forward.service.waits_for_connection();
        match counted {
            None => Ok(false),
            Some(_counted) => unless_gone(session, claim.wait(until)).await,
        }
    };
    let now = Instant::now();
    match waited {
        Ok(true) => {
            // the time of the try begins with its connection
            forward.try_started = Some(now);
            let total = &mut peer.options.total_connection_timeout;
            let left = due.map(|due| due.saturating_duration_since(now));
            *total = match (*total, left) {
                (Some(total), Some(left)) => Some(total.min(left)),
                (total, left) => total.or(left),
            };
            Ok(peer)
        }
        failed => {
            // no try was made
            forward.try_counted = true;
            failed?;
            match due.is_some_and(|due| due <= now) || context.watch.is_missed() {
                true => Error::e_explain(DEADLINE, "while a connection was waited for"),
                false => Error::e_explain(NO_PLACE, "all connections are in use"),
            }
        }
    }
}

/// The exchange has got a connection.
///
/// # Errors
/// The connection was reclaimed. Nothing was sent.
pub fn entered(context: &mut RequestContext, reused: bool, digest: Option<&Digest>) -> Result<()> {
    match context
        .forward
        .as_mut()
        .and_then(|forward| forward.claim.as_mut())
    {
        None => Ok(()),
        Some(claim) => claim.connected(reused, digest),
    }
}

/// A try has failed, and its connection, if it had one, is not its own any more. Tells whether another one is made, if
/// it failed for want of a connection.
pub fn lacked(context: &mut RequestContext, error: &Error) -> Option<bool> {
    let forward = context.forward.as_mut()?;
    let claim: &mut Claim = forward.claim.as_mut()?;
    claim.ends();
    let etype = error.etype();
    if *etype != NO_PLACE && *etype != RECLAIMED_TYPE {
        return None;
    }
    claim.waits = *etype == NO_PLACE;
    forward.tries = forward.tries.saturating_sub(1);
    forward.try_counted = true;
    Some(claim.looks_again())
}
