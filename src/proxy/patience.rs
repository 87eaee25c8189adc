//! Waits that nobody else is in: for a place at a service, and before another try. A client that leaves ends them, as it
//! ends the wait for an answer.

use crate::exchange::connection::{Interrupt, interrupt_of};
use pingora_core::{ErrorSource, Result};
use pingora_proxy::Session;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

/// Waits for something unless the client leaves.
///
/// One that has still to send of its body is not listened to: what it sends would have to be kept.
///
/// # Errors
/// The client has left.
pub async fn unless_gone<T>(session: &mut Session, wait: impl Future<Output = T>) -> Result<T> {
    let client = session.as_mut();
    if !client.is_body_done() {
        return Ok(wait.await);
    }
    let mut wait = pin!(wait);
    let _in_line = client.digest().and_then(interrupt_of).map(InLine::new);
    tokio::select! {
        biased;
        done = &mut wait => return Ok(done),
        // as Pingora does while it waits for an endpoint
        left = client.read_body_or_idle(true) => if let Err(mut error) = left {
            error.esource = ErrorSource::Downstream;
            return Err(error);
        },
    }
    Ok(wait.await)
}

/// While this lives, a client that sends nothing more is taken for gone.
struct InLine(Arc<Interrupt>);

impl InLine {
    fn new(interrupt: &Arc<Interrupt>) -> Self {
        interrupt.set_in_line(true);
        Self(interrupt.clone())
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.0.set_in_line(false);
    }
}
