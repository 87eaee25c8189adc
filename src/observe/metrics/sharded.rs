//! Values that many threads add to without sharing a cache line, once it matters.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{LazyLock, OnceLock};

/// Additions that all threads make in one place before each gets its own: below this contention costs nothing that
/// anyone could measure, and most series of a large configuration never get there.
const SHARED_ADDITIONS: u32 = 1024;

/// Numbers go to whatever thread asks, those that work in the background too: with as many shards as processors, two
/// threads that serve requests would often share one.
const SHARDS_PER_PROCESSOR: usize = 4;

/// More shards than this cost memory and reading time without taking contention away.
const SHARDS_MAX: usize = 64;

static SHARDS: LazyLock<usize> = LazyLock::new(|| {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let shards = threads.saturating_mul(SHARDS_PER_PROCESSOR);
    shards.min(SHARDS_MAX).next_power_of_two()
});

/// How many shards there are: a power of two, so that a slot is found by a mask.
pub fn shard_count() -> usize {
    *SHARDS
}

/// The number of this thread, handed out in the order in which threads first ask.
pub fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Relaxed));
    NUMBER.with(|number| *number)
}

/// Two cache lines, since processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
pub struct Padded<T>(pub T);

/// One value while it is quiet, one per thread slot when it is busy; what it stands for is the sum over all of them.
#[derive(Default)]
pub struct Sharded<T> {
    first: T,
    additions: AtomicU32,
    rest: OnceLock<Box<[Padded<T>]>>,
}

impl<T: Default> Sharded<T> {
    /// The value that this thread adds to.
    pub fn local(&self) -> &T {
        match self.rest.get() {
            Some(rest) => self.own(rest),
            None => self.quiet(),
        }
    }

    /// All the values, whose sum is what was added.
    pub fn each(&self) -> impl Iterator<Item = &T> {
        let rest = self.rest.get().into_iter().flatten();
        std::iter::once(&self.first).chain(rest.map(|padded| &padded.0))
    }

    fn quiet(&self) -> &T {
        if self.additions.fetch_add(1, Relaxed) < SHARED_ADDITIONS {
            return &self.first;
        }
        let rest = self
            .rest
            .get_or_init(|| (0..shard_count()).map(|_| Padded::<T>::default()).collect());
        self.own(rest)
    }

    fn own<'a>(&'a self, rest: &'a [Padded<T>]) -> &'a T {
        let slot = thread_number() & (rest.len().wrapping_sub(1));
        rest.get(slot).map_or(&self.first, |padded| &padded.0)
    }
}

/// A number that only grows.
#[derive(Default)]
pub struct Counter(Sharded<AtomicU64>);

impl Counter {
    pub fn increment(&self) {
        self.add(1);
    }

    pub fn add(&self, more: u64) {
        self.0.local().fetch_add(more, Relaxed);
    }

    pub fn value(&self) -> u64 {
        let values = self.0.each().map(|value| value.load(Relaxed));
        values.fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_when_a_value_spreads_over_threads() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..5_000).for_each(|_| counter.increment()));
            }
        });
        assert_eq!(counter.value(), 40_000);
        assert!(counter.0.rest.get().is_some());
    }

    #[test]
    fn a_quiet_value_stays_one() {
        let counter = Counter::default();
        (0..SHARED_ADDITIONS).for_each(|_| counter.increment());
        assert!(counter.0.rest.get().is_none());
        assert_eq!(counter.value(), u64::from(SHARED_ADDITIONS));
    }
}
