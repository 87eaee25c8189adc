//! Places for so many at a time, for threads that seldom meet.
//!
//! A count that every request writes is one cache line that all cores pull at. So each thread keeps a few free places of
//! its own, takes from them and gives back to them, and only now and then fetches or returns some of the common ones. All
//! places together are always the limit: never more are taken, and who finds none has looked at all of them. The smaller
//! the limit, the fewer are kept by threads; below some hundred none are.

use super::control::{PARTS, RAMP, refused_at};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::Relaxed};

/// Free places that threads keep are at most this part of all.
const KEPT_PART: u32 = 32;
/// More at a time save nothing.
const BATCH_MAX: u32 = 32;

/// Two cache lines, since processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Kept(AtomicI64);

/// The places of all threads.
pub struct Pool {
    /// Those that no thread keeps. Below zero where there are fewer now than have been taken.
    free: AtomicI64,
    limit: AtomicU32,
    /// How many are fetched at a time.
    batch: AtomicU32,
    /// What each thread keeps.
    kept: Box<[Kept]>,
}

impl Pool {
    pub fn new(threads: usize, limit: u32) -> Self {
        let pool = Self {
            free: AtomicI64::new(limit.into()),
            limit: AtomicU32::new(limit),
            batch: AtomicU32::new(1),
            kept: (0..threads.max(1)).map(|_| Kept::default()).collect(),
        };
        pool.batch.store(pool.batch_for(limit), Relaxed);
        pool
    }

    fn batch_for(&self, limit: u32) -> u32 {
        let threads = u32::try_from(self.kept.len()).unwrap_or(u32::MAX);
        // a thread keeps up to twice as many
        (limit / KEPT_PART / threads.saturating_mul(2)).clamp(1, BATCH_MAX)
    }

    /// So many are allowed from now on. Nobody who has one loses it.
    pub fn resize(&self, limit: u32) {
        let before = self.limit.swap(limit, Relaxed);
        self.batch.store(self.batch_for(limit), Relaxed);
        self.gather();
        self.free
            .fetch_add(i64::from(limit) - i64::from(before), Relaxed);
    }

    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// How many are taken.
    pub fn in_flight(&self) -> u32 {
        let kept: i64 = self.kept.iter().map(|kept| kept.0.load(Relaxed)).sum();
        let taken = i64::from(self.limit()) - self.free.load(Relaxed) - kept;
        u32::try_from(taken.max(0)).unwrap_or(u32::MAX)
    }

    /// The share of those who come that is refused before all places are taken. What threads keep counts as taken. Where
    /// a fifth of all is less than some places there is no share: they are taken to the last.
    pub fn refused_share(&self) -> u32 {
        const LEAST: i64 = 8;
        let (limit, free) = (i64::from(self.limit()), self.free.load(Relaxed).max(0));
        let ramp = limit * i64::from(PARTS - RAMP) / i64::from(PARTS);
        if free >= ramp || ramp < LEAST {
            return 0;
        }
        let taken = (limit - free).saturating_mul(i64::from(PARTS)) / limit.max(1);
        // whoever finds none is refused anyway, for certain
        refused_at(u32::try_from(taken).unwrap_or(PARTS)).min(PARTS - 1)
    }

    /// Takes up to `most` of the common ones.
    fn fetch(&self, most: i64) -> i64 {
        let mut got = 0;
        let _ = self.free.fetch_update(Relaxed, Relaxed, |free| {
            got = free.clamp(0, most);
            (got > 0).then(|| free - got)
        });
        got
    }

    /// Makes all that threads keep common.
    fn gather(&self) {
        for kept in &self.kept {
            if kept.0.load(Relaxed) > 0 {
                self.free.fetch_add(kept.0.swap(0, Relaxed), Relaxed);
            }
        }
    }

    /// Whether more are taken than are allowed now.
    fn is_overdrawn(&self) -> bool {
        self.free.load(Relaxed) < 0
    }

    fn batch(&self) -> i64 {
        self.batch.load(Relaxed).into()
    }
}

/// The places of one thread.
pub struct Till {
    pool: Arc<Pool>,
    thread: usize,
}

impl Till {
    /// Of the thread of that number, from zero.
    pub fn new(pool: Arc<Pool>, thread: usize) -> Self {
        let thread = thread % pool.kept.len();
        Self { pool, thread }
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Takes a place, if there is one anywhere.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let taken = self.take_own() || self.take_common() || {
            self.pool.gather();
            self.pool.fetch(1) > 0
        };
        taken.then(|| Place(self.clone()))
    }

    fn take_own(&self) -> bool {
        let one_less = |kept: i64| (kept > 0).then(|| kept - 1);
        !self.pool.is_overdrawn()
            && self
                .kept()
                .is_some_and(|kept| kept.fetch_update(Relaxed, Relaxed, one_less).is_ok())
    }

    fn take_common(&self) -> bool {
        let got = self.pool.fetch(self.pool.batch());
        if got > 1 {
            self.keep(got - 1);
        }
        got > 0
    }

    fn give_back(&self) {
        let batch = self.pool.batch();
        if batch == 1 || self.pool.is_overdrawn() {
            self.pool.free.fetch_add(1, Relaxed);
            return;
        }
        let Some(kept) = self.kept() else { return };
        if kept.fetch_add(1, Relaxed) + 1 >= 2 * batch {
            let fewer = |kept: i64| (kept >= batch).then(|| kept - batch);
            if kept.fetch_update(Relaxed, Relaxed, fewer).is_ok() {
                self.pool.free.fetch_add(batch, Relaxed);
            }
        }
    }

    fn keep(&self, more: i64) {
        match self.kept() {
            Some(kept) => kept.fetch_add(more, Relaxed),
            None => self.pool.free.fetch_add(more, Relaxed),
        };
    }

    fn kept(&self) -> Option<&AtomicI64> {
        self.pool.kept.get(self.thread).map(|kept| &kept.0)
    }
}

/// A place, given back when it is dropped.
pub struct Place(Arc<Till>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.give_back();
    }
}
