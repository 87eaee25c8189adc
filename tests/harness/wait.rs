//! Waiting for conditions, with a deadline.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take before the test fails: long enough for a debug build on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Asks `probe` again and again until it answers; panics with `what` when it has not by the [`DEADLINE`].
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "still waiting after {DEADLINE:?}: {what}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}

/// The future's output; panics with `what` when there is none by the [`DEADLINE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("nothing after {DEADLINE:?}: {what}"),
    }
}

/// A door that an origin's answer waits behind until the test opens it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets everybody through, from now on.
    pub fn open(&self) {
        self.0.close();
    }

    pub async fn passed(&self) {
        // a closed semaphore fails at once, which is what an open gate means
        let _ = self.0.acquire().await;
    }
}
