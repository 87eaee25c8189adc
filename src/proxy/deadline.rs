//! Deadlines over the waits between Pingora's callbacks.
//!
//! Pingora bounds single reads and writes; it has no deadline for the head of the answer or for the request as a whole,
//! and no callback runs while it waits. So each thread keeps a list of the exchanges that have a deadline, and looks
//! through it every 10 ms as long as there are any: where one has passed, the connection to the endpoint is shut
//! down, Pingora's read ends, and `error_while_proxy` finds the deadline marked as missed. A timer for each exchange
//! would cost a registration and two readings of the clock.
//!
//! An exchange stays on its thread (`edge/workers.rs`), and so does the list: nothing can close and reuse the
//! descriptor while it is looked at, since it is set when an endpoint is connected and taken back before Pingora lets
//! go of the connection.

use nix::sys::socket::{Shutdown, shutdown};
use std::cell::RefCell;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How often deadlines are looked at, which is how late they may be noticed. Pingora's own timers are as coarse.
const TICK: Duration = Duration::from_millis(10);

/// A list that has been empty for so many ticks is not looked at until somebody enters.
const EMPTY_TICKS: u32 = 100;

/// What deadlines count from.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The deadline of one exchange. Nobody keeps it any more once this is dropped.
#[derive(Debug, Default)]
pub struct Watch {
    entry: Arc<Entry>,
    listed: AtomicBool,
}

/// What an exchange and its thread's list both hold.
#[derive(Debug)]
struct Entry {
    /// Microseconds after the epoch; 0 is none.
    deadline: AtomicU64,
    /// The descriptor of the endpoint's connection; -1 is none.
    upstream: AtomicI32,
    missed: AtomicBool,
    /// The place in the list.
    place: AtomicUsize,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            deadline: AtomicU64::new(0),
            upstream: AtomicI32::new(-1),
            missed: AtomicBool::new(false),
            place: AtomicUsize::new(usize::MAX),
        }
    }
}

impl Watch {
    /// The exchange must have come further by then.
    pub fn set(&self, deadline: Option<Instant>) {
        self.entry
            .deadline
            .store(deadline.map_or(0, since_epoch), Relaxed);
        if deadline.is_some() && !self.listed.swap(true, Relaxed) {
            LIST.with_borrow_mut(|list| list.enter(&self.entry));
        }
    }

    /// The exchange is far enough: nothing is due any more.
    pub fn clear(&self) {
        self.entry.deadline.store(0, Relaxed);
    }

    /// The exchange waits on this connection.
    pub fn connected(&self, upstream: RawFd) {
        self.entry.upstream.store(upstream, Relaxed);
    }

    /// The exchange lets go of its connection.
    pub fn released(&self) {
        self.entry.upstream.store(-1, Relaxed);
    }

    /// Whether the deadline has passed.
    pub fn is_missed(&self) -> bool {
        self.entry.missed.load(Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.clear();
        self.released();
        if self.listed.load(Relaxed) {
            // a thread that ends has lost its list already
            let _ = LIST.try_with(|list| list.borrow_mut().leave(&self.entry));
        }
    }
}

fn since_epoch(instant: Instant) -> u64 {
    let after = instant.saturating_duration_since(*EPOCH).as_micros();
    u64::try_from(after).unwrap_or(u64::MAX).max(1)
}

impl Entry {
    /// Ends the wait for the endpoint if its time is over.
    fn look(&self, now: u64) {
        let deadline = self.deadline.load(Relaxed);
        if deadline == 0 || deadline > now {
            return;
        }
        self.missed.store(true, Relaxed);
        self.deadline.store(0, Relaxed);
        let upstream = self.upstream.swap(-1, Relaxed);
        if upstream >= 0 {
            // the exchange holds this connection open until it has called `released`, on this same thread
            let _ = shutdown(upstream, Shutdown::Both);
        }
    }
}

thread_local! {
    static LIST: RefCell<List> = const { RefCell::new(List { entries: Vec::new(), kept: false }) };
}

/// The exchanges of one thread that have, or had, a deadline.
struct List {
    entries: Vec<Arc<Entry>>,
    /// Somebody looks at it.
    kept: bool,
}

impl List {
    fn enter(&mut self, entry: &Arc<Entry>) {
        entry.place.store(self.entries.len(), Relaxed);
        self.entries.push(entry.clone());
        if !self.kept
            && let Ok(runtime) = Handle::try_current()
        {
            self.kept = true;
            runtime.spawn(keep());
        }
    }

    /// An exchange that was moved to another thread is not found there: its own list forgets it at the next tick.
    fn leave(&mut self, entry: &Arc<Entry>) {
        let place = entry.place.load(Relaxed);
        if self
            .entries
            .get(place)
            .is_some_and(|there| Arc::ptr_eq(there, entry))
        {
            self.take_out(place);
        }
    }

    fn take_out(&mut self, place: usize) {
        self.entries.swap_remove(place);
        if let Some(moved) = self.entries.get(place) {
            moved.place.store(place, Relaxed);
        }
    }

    fn look(&mut self) {
        let now = since_epoch(Instant::now());
        let mut place = 0;
        while let Some(entry) = self.entries.get(place) {
            if Arc::strong_count(entry) == 1 {
                self.take_out(place);
            } else {
                entry.look(now);
                place += 1;
            }
        }
    }
}

/// Looks at this thread's list until it has been empty for long.
async fn keep() {
    let mut empty = 0;
    loop {
        tokio::time::sleep(TICK).await;
        let over = LIST.with_borrow_mut(|list| {
            list.look();
            empty = if list.entries.is_empty() {
                empty + 1
            } else {
                0
            };
            list.kept = empty < EMPTY_TICKS;
            !list.kept
        });
        if over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn listed() -> usize {
        LIST.with_borrow(|list| list.entries.len())
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_deadline_that_passes_ends_the_connection() {
        let (mut ours, endpoint) = UnixStream::pair().unwrap();
        let watch = Watch::default();
        watch.connected(ours.as_raw_fd());
        watch.set(Some(Instant::now() + Duration::from_millis(20)));
        until(|| watch.is_missed()).await;
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        drop(endpoint);
    }

    #[tokio::test]
    async fn what_is_cleared_or_let_go_of_is_left_alone() {
        let (ours, endpoint) = UnixStream::pair().unwrap();
        let soon = || Some(Instant::now() + Duration::from_millis(1));
        let (cleared, released, last) = (Watch::default(), Watch::default(), Watch::default());
        cleared.connected(ours.as_raw_fd());
        cleared.set(soon());
        cleared.clear();
        released.connected(ours.as_raw_fd());
        released.set(soon());
        released.released();
        last.set(soon());
        until(|| last.is_missed() && released.is_missed()).await;
        assert!(!cleared.is_missed());
        endpoint.set_nonblocking(true).unwrap();
        let waits = (&endpoint).read(&mut [0]).unwrap_err();
        assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn a_list_holds_nobody_who_has_left() {
        let later = || Some(Instant::now() + Duration::from_secs(60));
        let mut watches: Vec<Watch> = (0..5).map(|_| Watch::default()).collect();
        watches.iter().for_each(|watch| watch.set(later()));
        watches.iter().for_each(|watch| watch.set(later()));
        assert_eq!(listed(), 5);
        watches.swap_remove(1);
        watches.swap_remove(0);
        assert_eq!(listed(), 3);
        let elsewhere = watches.pop().unwrap();
        std::thread::spawn(move || drop(elsewhere)).join().unwrap();
        until(|| listed() == 2).await;
        drop(watches);
        assert_eq!(listed(), 0);
    }
}
