//! Deadlines over the waits between Pingora's callbacks.
//!
//! Pingora bounds single reads and writes; it has no deadline for the head of the answer or for the request as a whole,
//! and no callback runs while it waits. So the future of an exchange is wrapped: when its deadline has passed, the
//! connection to the endpoint is shut down, Pingora's read ends, and `error_while_proxy` finds the deadline marked as
//! missed. The wrapper and the exchange are one task, so the descriptor can't have been closed and reused meanwhile: it
//! is set when an endpoint is connected and taken back before Pingora lets go of the connection.

use nix::sys::socket::{Shutdown, shutdown};
use pin_project_lite::pin_project;
use std::cell::RefCell;
use std::future::Future;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How an exchange and its wrapper talk.
#[derive(Debug)]
pub struct Watch {
    /// What deadlines count from.
    origin: Instant,
    /// Microseconds after `origin`; 0 is none.
    deadline: AtomicU64,
    /// The descriptor of the endpoint's connection; -1 is none.
    upstream: AtomicI32,
    missed: AtomicBool,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            deadline: AtomicU64::new(0),
            upstream: AtomicI32::new(-1),
            missed: AtomicBool::new(false),
        }
    }
}

impl Watch {
    /// When the exchange began.
    pub fn started(&self) -> Instant {
        self.origin
    }

    /// The exchange must have come further by then.
    pub fn set(&self, deadline: Option<Instant>) {
        let after = deadline.map_or(0, |deadline| {
            let after = deadline.saturating_duration_since(self.origin);
            u64::try_from(after.as_micros()).unwrap_or(u64::MAX).max(1)
        });
        self.deadline.store(after, Relaxed);
    }

    /// The exchange is far enough: nothing is due any more.
    pub fn clear(&self) {
        self.deadline.store(0, Relaxed);
    }

    /// The exchange waits on this connection.
    pub fn connected(&self, upstream: RawFd) {
        self.upstream.store(upstream, Relaxed);
    }

    /// The exchange lets go of its connection.
    pub fn released(&self) {
        self.upstream.store(-1, Relaxed);
    }

    /// Whether the deadline has passed. Looked at by callbacks, which may run before the wrapper notices.
    pub fn is_missed(&self) -> bool {
        self.missed.load(Relaxed)
            || self
                .due()
                .is_some_and(|deadline| self.left_until(deadline).is_zero())
    }

    /// The deadline, if there is one, as it is kept.
    fn due(&self) -> Option<u64> {
        Some(self.deadline.load(Relaxed)).filter(|deadline| *deadline != 0)
    }

    fn left_until(&self, deadline: u64) -> Duration {
        let passed = u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(deadline.saturating_sub(passed))
    }

    /// Ends the wait for the endpoint.
    fn miss(&self) {
        self.missed.store(true, Relaxed);
        self.deadline.store(0, Relaxed);
        let upstream = self.upstream.swap(-1, Relaxed);
        if upstream >= 0 {
            // the exchange holds this connection open until it has called `released`, in this same task
            let _ = shutdown(upstream, Shutdown::Both);
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Watch>>> = const { RefCell::new(None) };
}

/// The watch of the exchange that is being polled on this thread; a new one, that nothing watches, elsewhere.
pub fn current() -> Arc<Watch> {
    CURRENT.with_borrow(Clone::clone).unwrap_or_default()
}

pin_project! {
    /// An exchange with its deadline.
    pub struct Watched<F> {
        #[pin]
        exchange: F,
        // none only while the exchange is being polled: it is lent to the thread then
        watch: Option<Arc<Watch>>,
        timer: Option<Timer>,
    }
}

/// A sleep, and the deadline for which it was set.
struct Timer {
    deadline: u64,
    sleep: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

/// Watches over an exchange.
pub fn watched<F: Future>(exchange: F) -> Watched<F> {
    Watched {
        exchange,
        watch: Some(Arc::default()),
        timer: None,
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let before = CURRENT.replace(this.watch.take());
        let polled = this.exchange.poll(cx);
        *this.watch = CURRENT.replace(before);
        if polled.is_pending()
            && let Some(watch) = this.watch
        {
            keep_time(watch, this.timer, cx);
        }
        polled
    }
}

/// Sees to it that the task is woken when the deadline has passed. A timer whose deadline was moved back runs out and
/// is set again; one whose deadline was moved forward is replaced. The clock is read only when a timer is set.
fn keep_time(watch: &Watch, timer: &mut Option<Timer>, cx: &mut Context<'_>) {
    while let Some(deadline) = watch.due() {
        if let Some(running) = timer.as_mut().filter(|timer| timer.deadline <= deadline)
            && running.sleep.as_mut().poll(cx).is_pending()
        {
            return;
        }
        let left = watch.left_until(deadline);
        if left.is_zero() {
            watch.miss();
            // the exchange has to notice
            cx.waker().wake_by_ref();
            return;
        }
        *timer = Some(Timer {
            deadline,
            sleep: Box::pin(pingora_timeout::sleep(left)),
        });
    }
}
