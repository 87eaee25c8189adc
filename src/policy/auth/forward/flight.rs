//! Verdicts that are kept, and questions that several wait for.

use super::Verdict;
use crate::policy::auth::Accepted;
use ahash::AHashMap;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::time::Instant;

/// A keyed digest of what a verdict depends on.
pub type Key = [u8; 32];

/// A bounded number of verdicts that let pass.
pub struct Verdicts(Cache<Key, Arc<(Accepted, Instant)>>);

impl Verdicts {
    pub fn new(size: usize) -> Self {
        Self(Cache::new(size))
    }

    /// One that is still good.
    pub fn find(&self, key: &Key, now: Instant) -> Option<Accepted> {
        let kept = self.0.get(key)?;
        if now >= kept.1 {
            self.0.remove(key);
            return None;
        }
        Some(kept.0.clone())
    }

    pub fn keep(&self, key: Key, accepted: Accepted, until: Instant) {
        self.0.insert(key, Arc::new((accepted, until)));
    }
}

/// Whose question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// One's own.
    Host,
    /// That of somebody who asks for the same.
    Guest,
}

type Asking = BoxFuture<'static, Verdict>;

/// Questions on their way. Whoever waits drives the question, so that none outlives all that wait for it.
#[derive(Default)]
pub struct Flights(Mutex<AHashMap<Key, (u64, WeakShared<Asking>)>>);

impl Flights {
    /// Waits for the question that is under way, or asks it; tells whose it was.
    pub async fn join(
        self: &Arc<Self>,
        key: Key,
        asking: impl Future<Output = Verdict> + Send + 'static,
    ) -> (Verdict, Seat) {
        let (asking, seat) = self.seat(key, asking);
        (asking.await, seat)
    }

    fn seat(
        self: &Arc<Self>,
        key: Key,
        asking: impl Future<Output = Verdict> + Send + 'static,
    ) -> (Shared<Asking>, Seat) {
        let mut flights = self.0.lock();
        if let Some(under_way) = flights.get(&key).and_then(|(_, asking)| asking.upgrade()) {
            return (under_way, Seat::Guest);
        }
        let serial = flights.get(&key).map_or(0, |(serial, _)| serial.wrapping_add(1));
        let landing = Landing {
            flights: self.clone(),
            key,
            serial,
        };
        let asking = async move {
            let _landing = landing;
            asking.await
        };
        let shared = asking.boxed().shared();
        if let Some(weak) = shared.downgrade() {
            flights.insert(key, (serial, weak));
        }
        (shared, Seat::Host)
    }
}

/// Takes a question out when it is answered, or nobody waits for it any more.
struct Landing {
    flights: Arc<Flights>,
    key: Key,
    serial: u64,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flights = self.flights.0.lock();
        // it may be another's by now
        if flights.get(&self.key).is_some_and(|(serial, _)| *serial == self.serial) {
            flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_question_is_asked_for_all_that_wait_and_leaves_nothing_behind() {
        let flights = Arc::new(Flights::default());
        let asked = Arc::new(AtomicUsize::new(0));
        let ask = || {
            let asked = asked.clone();
            async move {
                asked.fetch_add(1, Ordering::Relaxed);
                futures::pending!();
                Verdict::Failed("no")
            }
        };
        let all: Vec<_> = (0..10).map(|_| flights.seat([1; 32], ask())).collect();
        let hosts = all.iter().filter(|(_, seat)| *seat == Seat::Host).count();
        assert_eq!(hosts, 1);
        let all: Vec<_> = all.into_iter().map(|(asking, _)| asking).collect();
        assert_eq!(flights.0.lock().len(), 1);
        let mut all = all.into_iter();
        let first = all.next().unwrap();
        // the one that drives it goes away, and another one drives it on
        let _ = first.clone().now_or_never();
        drop(first);
        for waiting in all {
            // woken by nobody here: polled until it is done
            let verdict = block_on(async {
                let mut waiting = waiting;
                loop {
                    if let Some(verdict) = (&mut waiting).now_or_never() {
                        break verdict;
                    }
                }
            });
            assert!(matches!(verdict, Verdict::Failed("no")));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(flights.0.lock().is_empty());
        // one that everybody has left is asked anew
        drop(flights.seat([1; 32], ask()));
        assert!(flights.0.lock().is_empty());
        let (again, _) = flights.seat([1; 32], ask());
        let _ = again.clone().now_or_never();
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_verdict_is_good_until_its_time_is_over() {
        let verdicts = Verdicts::new(4);
        let now = Instant::now();
        let second = std::time::Duration::from_secs(1);
        verdicts.keep([1; 32], Arc::new(crate::identity::Identity::default()).into(), now + second);
        assert!(verdicts.find(&[1; 32], now).is_some());
        assert!(verdicts.find(&[2; 32], now).is_none());
        assert!(verdicts.find(&[1; 32], now + second).is_none());
        assert!(verdicts.find(&[1; 32], now).is_none());
    }
}
