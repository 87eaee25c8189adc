//! Deadlines over the waits between Pingora's callbacks.
//!
//! Pingora bounds single reads and writes; it has no deadline for the head of the answer or for the request as a whole,
//! and no callback runs while it waits. So each thread keeps a list of the exchanges that have a deadline, and looks
//! through it every 10 ms as long as there are any: where one has passed, the connection to the endpoint is shut
//! down, Pingora's read ends, and `error_while_proxy` finds the deadline marked as missed. A timer for each exchange
//! would cost a registration and two readings of the clock.
//!
//! An exchange stays on its thread (`edge/workers.rs`), and so does the list: nothing can close and reuse the
//! descriptor while it is looked at. Until the head of the answer, the connection is the exchange's own. After it,
//! Pingora may give it back to the pool while the exchange still writes to its client, and says so to nobody; so a
//! deadline from then on holds a descriptor of its own, and ends when another exchange is given the connection.
//!
//! What a deadline between pieces bounds is the silence of the endpoint. While a write to the client waits, nobody
//! listens to the endpoint: where bytes of it wait too, or over HTTP/2, where that can't be told, the time begins again.
//! How long a client may take nothing is bounded by the edge.
//!
//! Over HTTP/2 the connection is never the exchange's own. There the wait for the *client* is ended instead, which
//! Pingora waits for at the same time ([`Interrupt`]); it resets the stream, and the connection goes on.

use crate::exchange::connection::{Drain, Interrupt};
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use std::cell::RefCell;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, OnceLock};
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
}

/// What an exchange and its thread's list both hold.
#[derive(Debug)]
struct Entry {
    /// Microseconds after the epoch; 0 is none.
    deadline: AtomicU64,
    /// How long the endpoint may be silent, in microseconds, where the deadline is one of silence; else 0.
    silence: AtomicU64,
    /// What silence does not put off: microseconds after the epoch; 0 is none.
    end: AtomicU64,
    /// The descriptor of the endpoint's connection; -1 is none.
    upstream: AtomicI32,
    /// The same connection, for a deadline that may outlast our use of it.
    held: OnceLock<OwnedFd>,
    /// What ends the exchange where the connection is not its own.
    interrupt: OnceLock<Arc<Interrupt>>,
    /// A listener with which the exchange ends.
    drain: OnceLock<Arc<Drain>>,
    missed: AtomicBool,
    listed: AtomicBool,
    /// The place in the list.
    place: AtomicUsize,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            deadline: AtomicU64::new(0),
            silence: AtomicU64::new(0),
            end: AtomicU64::new(0),
            upstream: AtomicI32::new(-1),
            held: OnceLock::new(),
            interrupt: OnceLock::new(),
            drain: OnceLock::new(),
            missed: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            place: AtomicUsize::new(usize::MAX),
        }
    }
}

impl Watch {
    /// The exchange must have come further by then.
    pub fn set(&self, deadline: Option<Instant>) {
        self.entry.silence.store(0, Relaxed);
        self.enter(deadline);
    }

    fn enter(&self, deadline: Option<Instant>) {
        self.entry
            .deadline
            .store(deadline.map_or(0, since_epoch), Relaxed);
        if deadline.is_some() && !self.entry.listed.swap(true, Relaxed) {
            LIST.with_borrow_mut(|list| list.enter(&self.entry));
        }
    }

    /// The endpoint must not be silent for longer than this from now on, and all is over at the end.
    pub fn set_silence(&self, now: Instant, silence: Duration, end: Option<Instant>) {
        let deadline = now + silence;
        self.set_after_head(end.map_or(deadline, |end| end.min(deadline)));
        let micros = u64::try_from(silence.as_micros()).unwrap_or(u64::MAX);
        self.entry.end.store(end.map_or(0, since_epoch), Relaxed);
        self.entry.silence.store(micros.max(1), Relaxed);
    }

    /// The next piece of the answer must have come by then.
    pub fn set_after_head(&self, deadline: Instant) {
        let upstream = self.entry.upstream.load(Relaxed);
        if upstream >= 0 && self.entry.held.get().is_none() {
            // SAFETY: this is called with a piece of the answer, so that the connection is still the exchange's own
            let connection = unsafe { BorrowedFd::borrow_raw(upstream) };
            let Ok(held) = connection.try_clone_to_owned() else {
                // without a descriptor to spare, Pingora's own limit has to do
                return self.clear();
            };
            let _ = self.entry.held.set(held);
            LIST.with_borrow_mut(|list| list.after_head = true);
        }
        self.set(Some(deadline));
    }

    /// The exchange is far enough: nothing is due any more.
    pub fn clear(&self) {
        self.entry.deadline.store(0, Relaxed);
    }

    /// The exchange waits on this connection.
    pub fn connected(&self, upstream: RawFd) {
        LIST.with_borrow(|list| list.pass_on(upstream));
        self.entry.upstream.store(upstream, Relaxed);
    }

    /// The exchange lets go of its connection.
    pub fn released(&self) {
        self.entry.upstream.store(-1, Relaxed);
    }

    /// What was missed has been dealt with: another try begins.
    pub fn renew(&self) {
        self.clear();
        self.entry.missed.store(false, Relaxed);
        if let Some(interrupt) = self.entry.interrupt.get() {
            // the try may have failed of something else in the moment in which its time was over
            interrupt.disarm();
        }
    }

    /// The exchange shares its connection with others: a deadline ends the exchange through this.
    pub fn shares(&self, interrupt: Arc<Interrupt>) {
        self.released();
        interrupt.arm();
        let _ = self.entry.interrupt.set(interrupt);
    }

    /// The exchange ends when its listener begins to leave, as if a deadline had passed.
    pub fn ends_with(&self, drain: Arc<Drain>) {
        let _ = self.entry.drain.set(drain);
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
        if self.entry.listed.load(Relaxed) {
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
        let leaves = || self.drain.get().is_some_and(|drain| drain.has_begun());
        if deadline == 0 || deadline > now && !leaves() {
            return;
        }
        if let Some(later) = self.put_off(now) {
            return self.deadline.store(later, Relaxed);
        }
        self.missed.store(true, Relaxed);
        self.deadline.store(0, Relaxed);
        let upstream = self.upstream.swap(-1, Relaxed);
        if upstream >= 0 {
            let upstream = self.held.get().map_or(upstream, AsRawFd::as_raw_fd);
            let _ = shutdown(upstream, Shutdown::Both);
        } else if let Some(interrupt) = self.interrupt.get() {
            interrupt.raise();
        }
    }

    /// Until when the endpoint has time because it was not it that was waited for.
    fn put_off(&self, now: u64) -> Option<u64> {
        let (silence, end) = (self.silence.load(Relaxed), self.end.load(Relaxed));
        if silence == 0 || end != 0 && end <= now {
            return None;
        }
        let waits = match (self.upstream.load(Relaxed), self.held.get()) {
            (0.., Some(connection)) => has_bytes(connection),
            (0.., None) => false,
            _ => self
                .interrupt
                .get()
                .is_some_and(|interrupt| interrupt.is_blocked()),
        };
        let later = now.saturating_add(silence);
        waits.then_some(if end == 0 { later } else { later.min(end) })
    }
}

/// Whether something has arrived that nobody has read.
fn has_bytes(connection: &OwnedFd) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    recv(connection.as_raw_fd(), &mut [0], flags).is_ok_and(|read| read > 0)
}

thread_local! {
    static LIST: RefCell<List> = const {
        RefCell::new(List { entries: Vec::new(), kept: false, after_head: false })
    };
}

/// The exchanges of one thread that have, or had, a deadline.
struct List {
    entries: Vec<Arc<Entry>>,
    /// Somebody looks at it.
    kept: bool,
    /// Deadlines after the head have been seen: few configurations have them.
    after_head: bool,
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

    /// Whoever had this connection before has no say about it any more.
    fn pass_on(&self, upstream: RawFd) {
        if !self.after_head {
            return;
        }
        for entry in &self.entries {
            let _ = entry
                .upstream
                .compare_exchange(upstream, -1, Relaxed, Relaxed);
        }
    }

    /// An exchange that was moved to another thread is not found there: its own list forgets it at the next tick, since
    /// it has no deadline any more.
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
        let taken = self.entries.swap_remove(place);
        taken.listed.store(false, Relaxed);
        if let Some(moved) = self.entries.get(place) {
            moved.place.store(place, Relaxed);
        }
    }

    fn look(&mut self) {
        let now = since_epoch(Instant::now());
        let mut place = 0;
        while let Some(entry) = self.entries.get(place) {
            entry.look(now);
            // a stream may go on for hours without a deadline
            if entry.deadline.load(Relaxed) == 0 {
                self.take_out(place);
            } else {
                place += 1;
            }
        }
    }
}

/// Looks at this thread's list until it has been empty for long.
async fn keep() {
    let _keeping = Keeping;
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
            empty >= EMPTY_TICKS
        });
        if over {
            return;
        }
    }
}

/// Nobody looks any more, however that ended.
struct Keeping;

impl Drop for Keeping {
    fn drop(&mut self) {
        let _ = LIST.try_with(|list| list.borrow_mut().kept = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn listed() -> usize {
        LIST.with_borrow(|list| list.entries.len())
    }

    /// Waits for something that will be so, and not for ever.
    async fn until(condition: impl Fn() -> bool) {
        let check = async {
            while !condition() {
                tokio::time::sleep(TICK).await;
            }
        };
        let patience = Duration::from_secs(10);
        tokio::time::timeout(patience, check)
            .await
            .expect("it comes to hold");
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
    async fn what_was_missed_before_ends_no_other_try() {
        let (watch, interrupt) = (Watch::default(), Arc::new(Interrupt::default()));
        watch.shares(interrupt.clone());
        watch.set(Some(Instant::now()));
        until(|| watch.is_missed()).await;
        watch.renew();
        assert!(!watch.is_missed() && !interrupt.is_armed());
        let waits = std::future::poll_fn(|cx| interrupt.poll(cx));
        let moment = Duration::from_millis(1);
        assert!(tokio::time::timeout(moment, waits).await.is_err());
    }

    #[tokio::test]
    async fn an_endpoint_is_not_silent_while_nobody_listens_to_it() {
        use std::io::Write;
        let (ours, mut endpoint) = UnixStream::pair().unwrap();
        let silence = Duration::from_millis(20);
        let (unread, blocked) = (Watch::default(), Watch::default());
        unread.connected(ours.as_raw_fd());
        let interrupt = Arc::new(Interrupt::default());
        blocked.shares(interrupt.clone());
        interrupt.set_blocked(true);
        endpoint.write_all(b"x").unwrap();
        for watch in [&unread, &blocked] {
            watch.set_silence(Instant::now(), silence, None);
        }
        let last = Watch::default();
        last.set(Some(Instant::now() + silence * 5));
        until(|| last.is_missed()).await;
        assert!(!unread.is_missed() && !blocked.is_missed());
        (&ours).read_exact(&mut [0]).unwrap();
        interrupt.set_blocked(false);
        until(|| unread.is_missed() && blocked.is_missed()).await;
        // the end of all of it is put off by nothing
        let over = Watch::default();
        interrupt.set_blocked(true);
        over.shares(interrupt);
        let now = Instant::now();
        over.set_silence(now, silence * 1000, Some(now + silence));
        until(|| over.is_missed()).await;
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
    async fn a_connection_that_somebody_else_was_given_is_left_alone() {
        let (ours, endpoint) = UnixStream::pair().unwrap();
        let soon = Instant::now() + Duration::from_millis(1);
        let (first, second) = (Watch::default(), Watch::default());
        first.connected(ours.as_raw_fd());
        first.set_after_head(soon);
        second.connected(ours.as_raw_fd());
        until(|| first.is_missed()).await;
        endpoint.set_nonblocking(true).unwrap();
        let waits = (&endpoint).read(&mut [0]).unwrap_err();
        assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock);
    }

    /// The number may be another connection's by then.
    #[tokio::test]
    async fn a_connection_that_was_closed_meanwhile_is_not_another_of_its_number() {
        let (ours, _endpoint) = UnixStream::pair().unwrap();
        let watch = Watch::default();
        watch.connected(ours.as_raw_fd());
        watch.set_after_head(Instant::now() + Duration::from_millis(1));
        drop(ours);
        let mut others: Vec<_> = (0..4).map(|_| UnixStream::pair().unwrap()).collect();
        until(|| watch.is_missed()).await;
        // one of them has the number, unless another test took it
        for (one, other) in &mut others {
            one.set_nonblocking(true).unwrap();
            let waits = one.read(&mut [0]).unwrap_err();
            assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock, "{other:?}");
        }
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
