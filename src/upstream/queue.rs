//! Requests that wait for a place at a service whose bounds are reached: first come, first served, so many and no more,
//! each for a time. As `maxqueue` and `timeout queue` of HAProxy.
//!
//! One of them at a time, the first, looks whether there is a place, and again when one was given back; the others wait
//! for its turn. Nobody holds anything that a request with a place could want.

use super::set::Refusal;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{timeout, timeout_at};

/// How often the first looks without being told: places also come from endpoints that become usable.
const LOOK: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub struct Queue {
    waiting: AtomicU32,
    /// Belongs to the first; those behind wait for it in their order.
    turn: Semaphore,
    freed: Notify,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            waiting: AtomicU32::new(0),
            turn: Semaphore::new(1),
            freed: Notify::new(),
        }
    }
}

/// One who waits, until it is dropped.
struct Waiter<'q>(&'q Queue);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

impl Queue {
    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    /// A place was given back. Where nobody waits, the next one who does looks once more.
    pub fn freed(&self) {
        self.freed.notify_one();
    }

    /// Waits behind at most `most - 1` others for what `look` finds, until a moment. Dropped, it leaves the queue.
    ///
    /// # Errors
    /// What stands against it: `Full` if the queue or the time is at its end.
    pub async fn wait<T>(
        &self,
        most: u32,
        until: Instant,
        mut look: impl FnMut() -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let join = |waiting| (waiting < most).then_some(waiting + 1);
        if self.waiting.fetch_update(Relaxed, Relaxed, join).is_err() {
            return Err(Refusal::Full);
        }
        let _waiter = Waiter(self);
        let served = async {
            let Ok(_turn) = self.turn.acquire().await else {
                return Err(Refusal::Full);
            };
            loop {
                match look() {
                    Err(Refusal::Full) => {}
                    other => return other,
                }
                let _ = timeout(LOOK, self.freed.notified()).await;
            }
        };
        let served = timeout_at(until.into(), served).await;
        served.unwrap_or(Err(Refusal::Full))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    /// Lets everybody who can go on do so.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn places_go_to_those_who_wait_in_their_order_and_no_more_wait_than_may() {
        let queue = Arc::new(Queue::default());
        let places = Arc::new(AtomicU32::new(0));
        let served = Arc::new(Mutex::new(Vec::new()));
        for number in 0..3 {
            let (queue, places, served) = (queue.clone(), places.clone(), served.clone());
            tokio::spawn(async move {
                let take = |free: u32| free.checked_sub(1);
                let look = || match places.fetch_update(Relaxed, Relaxed, take) {
                    Ok(_) => Ok(()),
                    Err(_) => Err(Refusal::Full),
                };
                queue.wait(3, soon(), look).await.unwrap();
                served.lock().push(number);
            });
            settle().await;
        }
        assert_eq!(queue.waiting(), 3);
        let beyond = queue.wait(3, soon(), || Ok(())).await;
        assert_eq!(beyond, Err(Refusal::Full));
        for so_many in 1..=3 {
            places.fetch_add(1, Relaxed);
            queue.freed();
            settle().await;
            assert_eq!(*served.lock(), (0..so_many).collect::<Vec<_>>());
        }
        assert_eq!(queue.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_and_whose_time_is_over_make_room() {
        let queue = Queue::default();
        let never = || Err::<(), _>(Refusal::Full);
        let until = tokio::time::Instant::now().into_std() + Duration::from_secs(1);
        assert_eq!(queue.wait(2, until, never).await, Err(Refusal::Full));
        assert_eq!(queue.waiting(), 0);
        // the first is dropped while it waits, and the second becomes the first
        let (left, next) = (
            timeout(Duration::from_millis(1), queue.wait(2, soon(), never)),
            queue.wait(2, soon(), || Ok(())),
        );
        let (left, next) = tokio::join!(left, next);
        assert!(left.is_err());
        assert_eq!(next, Ok(()));
        assert_eq!(queue.waiting(), 0);
    }
}
