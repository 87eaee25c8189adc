//! Questions that several wait for, of which one is asked.

use ahash::AHashMap;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use std::hash::Hash;
use std::sync::Arc;

/// Whose question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// One's own.
    Host,
    /// That of somebody who asks for the same.
    Guest,
}

type Asking<T> = BoxFuture<'static, T>;

/// Questions on their way. Whoever waits drives the question, so that none outlives all that wait for it.
pub struct Flights<K, T>(Mutex<Seats<K, T>>);

type Seats<K, T> = AHashMap<K, (u64, WeakShared<Asking<T>>)>;

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Copy + Eq + Hash + Send + 'static, T: Clone + Send + Sync + 'static> Flights<K, T> {
    /// Waits for the question that is under way, or asks it; tells whose it was.
    pub async fn join(
        self: &Arc<Self>,
        key: K,
        asking: impl Future<Output = T> + Send + 'static,
    ) -> (T, Seat) {
        let (asking, seat) = self.seat(key, asking);
        (asking.await, seat)
    }

    fn seat(
        self: &Arc<Self>,
        key: K,
        asking: impl Future<Output = T> + Send + 'static,
    ) -> (Shared<Asking<T>>, Seat) {
        let mut flights = self.0.lock();
        if let Some(under_way) = flights.get(&key).and_then(|(_, asking)| asking.upgrade()) {
            return (under_way, Seat::Guest);
        }
        let serial = flights
            .get(&key)
            .map_or(0, |(serial, _)| serial.wrapping_add(1));
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
struct Landing<K: Eq + Hash, T> {
    flights: Arc<Flights<K, T>>,
    key: K,
    serial: u64,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut flights = self.flights.0.lock();
        // it may be another's by now
        if flights
            .get(&self.key)
            .is_some_and(|(serial, _)| *serial == self.serial)
        {
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
        let flights = Arc::new(Flights::<[u8; 32], &str>::default());
        let asked = Arc::new(AtomicUsize::new(0));
        let ask = || {
            let asked = asked.clone();
            async move {
                asked.fetch_add(1, Ordering::Relaxed);
                futures::pending!();
                "no"
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
            assert_eq!(verdict, "no");
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
}
