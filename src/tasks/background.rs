//! Work that a request leaves behind when it is over, such as sending a copy of it.

use crate::proxy::Background;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// Runs it on the thread of the request, as one of its tasks. Whoever hands it over bounds how much there is.
pub struct OnThisThread {
    /// Counts panics.
    panicked: Arc<dyn Fn() + Send + Sync>,
}

impl OnThisThread {
    pub fn new(panicked: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { panicked }
    }
}

impl Background for OnThisThread {
    fn run(&self, work: BoxFuture<'static, ()>) {
        let panicked = self.panicked.clone();
        tokio::spawn(async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                panicked();
                tracing::error!("work in the background panicked");
            }
        });
    }
}
