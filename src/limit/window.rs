//! A limit over a window that slides, in constant memory whatever the number of keys.
//!
//! A window is cut into [`PARTS`] parts of equal length, each counted by an estimator of its own (a count-min sketch:
//! Cormode and Muthukrishnan, "An Improved Data Stream Summary", 2005), which may count too much and never too little. A
//! request is admitted if the part that is running and the [`PARTS`] before it, the oldest in full, hold less than the
//! limit. So no window of that length, wherever it begins, holds more than the limit; and what was admitted counts for at
//! most one part too long. What is refused does not count.
//!
//! A key may be let begin anew, by an operator. Taking its count out of the counters would take from keys that share
//! one of them, which would then count too little. So nothing is taken out: a table, bounded and seldom used, says that
//! what this key counted in the parts before does not count, and that it counts in the running part under another name.
//! An entry means nothing any more once that part has left the window.
//!
//! Time is an argument: nanoseconds of a clock that never goes back. Threads may come with times that differ a little.

use ahash::{AHashMap, RandomState};
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use pingora_limits::estimator::Estimator;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The parts of a window. What was admitted counts for at most a sixth of the window too long.
pub const PARTS: u64 = 6;

/// The parts that count, and one that is made ready before it is needed.
const RING: u64 = PARTS + 2;

/// Rows of a sketch, each with its own hash function.
const ROWS: usize = 2;

/// Counters in each row for every key that is expected: with as many keys as expected, one of 43 has company in both rows
/// of a part, and then counts that company's requests of this part too.
const COUNTERS_PER_KEY: u64 = 6;

const COUNTERS_MIN: u64 = 64;

/// Keys are spread over shards of about so many, so that a part is emptied in some microseconds, and memory taken only
/// where there are keys.
const KEYS_PER_SHARD: u64 = 2048;

/// Keys of a shard that may begin anew within a window.
const RESETS_MAX: usize = 1024;

/// A part that is not ready to be counted in.
const NONE: u64 = u64::MAX;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub admitted: bool,
    /// What is left of the limit, by the estimate.
    pub remaining: u64,
    /// When a request that was refused may be admitted; none if it was not, or costs more than the limit.
    pub retry_after: Option<Duration>,
    /// The part in which one that was admitted has been counted, to be given back.
    pub counted_in: u64,
}

struct Part {
    /// The index of the part of time that it counts.
    of: AtomicU64,
    rows: [Estimator; ROWS],
    /// Whether anything has been counted: most keys are seldom seen, and most parts of most limits are empty.
    touched: AtomicU64,
}

impl Part {
    fn new(counters: usize) -> Self {
        Self {
            of: AtomicU64::new(NONE),
            rows: std::array::from_fn(|_| Estimator::new(1, counters)),
            touched: AtomicU64::new(0),
        }
    }

    fn count(&self, key: u64) -> u64 {
        if self.touched.load(Relaxed) == 0 {
            return 0;
        }
        let counts = self.rows.iter().map(|row| row.get(key));
        at_least_zero(counts.min())
    }

    fn add(&self, key: u64, cost: isize) {
        if self.touched.load(Relaxed) == 0 {
            self.touched.store(1, Relaxed);
        }
        for row in &self.rows {
            row.incr(key, cost);
        }
    }

    /// Takes back what was counted while it counted this part of time.
    fn take_back(&self, key: u64, cost: isize, of: u64) {
        if self.of.load(SeqCst) != of {
            return;
        }
        for row in &self.rows {
            row.decr(key, cost);
        }
    }
}

fn at_least_zero(count: Option<isize>) -> u64 {
    count
        .and_then(|count| u64::try_from(count).ok())
        .unwrap_or(0)
}

/// See the module.
pub struct SlidingWindow {
    shards: Box<[OnceLock<Shard>]>,
    /// Of each row.
    counters: usize,
    /// Of a part, in nanoseconds.
    length: u64,
}

impl SlidingWindow {
    /// For windows of that length and about so many keys in each.
    pub fn new(window: Duration, keys: u64) -> Self {
        let (shards, counters) = sizes(keys);
        let length = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        Self {
            shards: (0..shards).map(|_| OnceLock::new()).collect(),
            counters: usize::try_from(counters).unwrap_or(usize::MAX),
            length: length.div_ceil(PARTS).max(1),
        }
    }

    /// The memory that a window for so many keys takes at most, in bytes.
    pub fn memory(keys: u64) -> u64 {
        let (shards, counters) = sizes(keys);
        let sketch = counters.saturating_mul(ROWS as u64 * size_of::<isize>() as u64);
        shards.saturating_mul(RING).saturating_mul(sketch)
    }

    /// Admits a request of that cost if the limit leaves room for it, and counts it then. The key is a hash, evenly spread
    /// over all numbers.
    pub fn admit(&self, key: u64, cost: u64, limit: u64, now: u64) -> Verdict {
        self.shard(key).admit(key, cost, limit, now)
    }

    /// Takes back a request that was admitted and did not get through after all: what its verdict says.
    pub fn give_back(&self, key: u64, cost: u64, counted_in: u64) {
        self.shard(key).give_back(key, cost, counted_in);
    }

    /// What counts for that key.
    pub fn counted(&self, key: u64, now: u64) -> u64 {
        self.shard(key).counted(key, now)
    }

    /// When the oldest of what counts for that key is forgotten; none if nothing counts.
    pub fn refills_after(&self, key: u64, now: u64) -> Option<Duration> {
        self.shard(key).refills_after(key, now)
    }

    /// Counts what was found to be due after the request, over the limit too.
    pub fn charge(&self, key: u64, cost: u64, now: u64) {
        self.shard(key).charge(key, cost, now);
    }

    /// Lets that key begin anew; no other key counts less for it. False, and nothing changes, if too many others have
    /// begun anew within a window: each of them takes memory until it ends.
    pub fn forget(&self, key: u64, now: u64) -> bool {
        self.shard(key).forget(key, now)
    }

    /// The memory that is taken by now, in bytes.
    pub fn bytes(&self) -> u64 {
        let shards = self.shards.iter().filter(|shard| shard.get().is_some());
        let row = self.counters.saturating_mul(size_of::<isize>()) as u64;
        let each = row.saturating_mul(ROWS as u64 * RING);
        (shards.count() as u64).saturating_mul(each)
    }

    fn shard(&self, key: u64) -> &Shard {
        let at = (u128::from(key) * self.shards.len() as u128) >> 64;
        let shard = self.shards.get(at as usize).or(self.shards.first());
        // there is at least one
        shard.map_or_else(
            || unreachable!("no shard"),
            |shard| shard.get_or_init(|| Shard::new(self.length, self.counters)),
        )
    }
}

/// The number of shards, and of counters in each row of one.
fn sizes(keys: u64) -> (u64, u64) {
    let shards = keys.div_ceil(KEYS_PER_SHARD).max(1);
    let keys = keys.div_ceil(shards);
    (
        shards,
        keys.saturating_mul(COUNTERS_PER_KEY).max(COUNTERS_MIN),
    )
}

/// The window of some of the keys.
#[repr(align(128))]
struct Shard {
    parts: [Part; RING as usize],
    /// Of a part, in nanoseconds.
    length: u64,
    /// The index of the part that is running: time that anyone has come with, so that nobody counts behind another.
    running: AtomicU64,
    emptying: Mutex<()>,
    /// The first part for which what began anew makes no difference any more: 0 where nothing ever did.
    resets_until: AtomicU64,
    resets: ArcSwapOption<AHashMap<u64, Reset>>,
    /// How many there have been.
    resetting: Mutex<u64>,
    names: RandomState,
}

/// A key that has begun anew.
#[derive(Clone, Copy)]
struct Reset {
    /// In this part: what it counted in those before does not count.
    part: u64,
    /// What it is called in that part.
    alias: u64,
}

/// A key, and what it is called in each part.
#[derive(Clone, Copy)]
struct Called {
    key: u64,
    reset: Option<Reset>,
}

impl Called {
    /// Its name in that part; none where nothing that it counted counts.
    fn within(self, index: u64) -> Option<u64> {
        match self.reset {
            Some(reset) if index < reset.part => None,
            Some(reset) if index == reset.part => Some(reset.alias),
            _ => Some(self.key),
        }
    }
}

impl Shard {
    fn new(length: u64, counters: usize) -> Self {
        Self {
            parts: std::array::from_fn(|_| Part::new(counters)),
            length,
            running: AtomicU64::new(0),
            emptying: Mutex::new(()),
            resets_until: AtomicU64::new(0),
            resets: ArcSwapOption::empty(),
            resetting: Mutex::new(0),
            names: RandomState::new(),
        }
    }

    /// What that key is called while that part is running.
    fn called(&self, key: u64, at: u64) -> Called {
        let reset = match at < self.resets_until.load(SeqCst) {
            true => self.reset_of(key),
            false => None,
        };
        Called { key, reset }
    }

    #[cold]
    fn reset_of(&self, key: u64) -> Option<Reset> {
        self.resets.load().as_ref()?.get(&key).copied()
    }

    fn admit(&self, key: u64, cost: u64, limit: u64, now: u64) -> Verdict {
        loop {
            let at = self.turn(now);
            let key = self.called(key, at);
            let before = self.before(key, at);
            let (Some(part), Some(name)) = (self.part(at), key.within(at)) else {
                return self.refusal(key, cost, limit, now, at);
            };
            // who has used the limit up is refused without a write
            let wanted = before.saturating_add(part.count(name)).saturating_add(cost);
            if wanted > limit {
                return self.refusal(key, cost, limit, now, at);
            }
            let Ok(added) = isize::try_from(cost) else {
                return self.refusal(key, cost, limit, now, at);
            };
            part.add(name, added);
            fence(SeqCst);
            // read again: of two that count at once, each may be the first in one of the rows, and only who is done last
            // finds both in all of them
            let counted = before.saturating_add(part.count(name));
            if self.running.load(SeqCst) != at {
                // who counts in the next part may have looked at this one before: counted there, both are seen
                part.take_back(name, added, at);
                continue;
            }
            if counted > limit {
                part.take_back(name, added, at);
                return self.refusal(key, cost, limit, now, at);
            }
            return Verdict {
                admitted: true,
                remaining: limit - counted,
                retry_after: None,
                counted_in: at,
            };
        }
    }

    fn counted(&self, key: u64, now: u64) -> u64 {
        let at = self.turn(now);
        let key = self.called(key, at);
        self.before(key, at).saturating_add(self.count(key, at))
    }

    fn refills_after(&self, key: u64, now: u64) -> Option<Duration> {
        let at = self.turn(now);
        let key = self.called(key, at);
        let oldest = (at.saturating_sub(PARTS)..=at).find(|index| self.count(key, *index) > 0)?;
        Some(self.leaves_after(oldest, now))
    }

    fn charge(&self, key: u64, cost: u64, now: u64) {
        let at = self.turn(now);
        let name = self.called(key, at).within(at);
        if let (Some(part), Some(name), Ok(cost)) = (self.part(at), name, isize::try_from(cost)) {
            part.add(name, cost);
        }
    }

    fn give_back(&self, key: u64, cost: u64, counted_in: u64) {
        let reset = self.called(key, self.running.load(SeqCst)).reset;
        if reset.is_some_and(|reset| counted_in <= reset.part) {
            // counted under a name that may be another by now: taken from the wrong one, others would count too little
            return;
        }
        if let (Some(part), Ok(cost)) = (self.part(counted_in), isize::try_from(cost)) {
            part.take_back(key, cost, counted_in);
        }
    }

    fn forget(&self, key: u64, now: u64) -> bool {
        let mut made = self.resetting.lock();
        let at = self.turn(now);
        let known = self.resets.load();
        let known = known.iter().flat_map(|known| known.iter());
        let counts = known.filter(|(_, reset)| reset.part + PARTS >= at);
        let mut resets: AHashMap<u64, Reset> = counts.map(|(key, reset)| (*key, *reset)).collect();
        if resets.len() >= RESETS_MAX && !resets.contains_key(&key) {
            return false;
        }
        *made += 1;
        // a name that nobody has: who knew it could choose keys that share its counters
        let alias = self.names.hash_one((key, *made));
        resets.insert(key, Reset { part: at, alias });
        self.resets.store(Some(Arc::new(resets)));
        self.resets_until.fetch_max(at + PARTS + 1, SeqCst);
        true
    }

    fn slot(&self, index: u64) -> Option<&Part> {
        self.parts.get(usize::try_from(index % RING).ok()?)
    }

    /// The part of that index, if it is still held.
    fn part(&self, index: u64) -> Option<&Part> {
        self.slot(index)
            .filter(|part| part.of.load(SeqCst) == index)
    }

    fn count(&self, key: Called, index: u64) -> u64 {
        let named = self.part(index).zip(key.within(index));
        named.map_or(0, |(part, name)| part.count(name))
    }

    /// What counts from before the part that is running.
    fn before(&self, key: Called, at: u64) -> u64 {
        let earlier = at.saturating_sub(PARTS)..at;
        earlier.fold(0, |sum: u64, index| {
            sum.saturating_add(self.count(key, index))
        })
    }

    /// The part that is running at that time, ready to be counted in.
    fn turn(&self, now: u64) -> u64 {
        let index = now / self.length;
        let running = self.running.fetch_max_if_less(index);
        let at = running.max(index);
        if self.part(at).is_none() {
            let _one = self.emptying.lock();
            self.make_ready(at);
        } else if self.part(at + 1).is_none()
            && let Some(_one) = self.emptying.try_lock()
        {
            // ahead of its time, by one thread, while the others count on
            self.make_ready(at + 1);
        }
        at
    }

    fn make_ready(&self, index: u64) {
        let Some(part) = self.slot(index) else { return };
        let of = part.of.load(SeqCst);
        // one that is later already belongs to a thread that came before us
        if of == index || (of != NONE && of > index) {
            return;
        }
        part.of.store(NONE, SeqCst);
        if part.touched.swap(0, Relaxed) != 0 {
            part.rows.iter().for_each(Estimator::reset);
        }
        part.of.store(index, SeqCst);
    }

    fn leaves_after(&self, index: u64, now: u64) -> Duration {
        let leaves = (index + PARTS + 1).saturating_mul(self.length);
        Duration::from_nanos(leaves.saturating_sub(now))
    }

    #[cold]
    fn refusal(&self, key: Called, cost: u64, limit: u64, now: u64, at: u64) -> Verdict {
        let counted = self.before(key, at).saturating_add(self.count(key, at));
        let mut left = counted;
        let enough = (at.saturating_sub(PARTS)..=at).find(|index| {
            left = left.saturating_sub(self.count(key, *index));
            left.saturating_add(cost) <= limit
        });
        Verdict {
            admitted: false,
            remaining: limit.saturating_sub(counted),
            retry_after: enough
                .filter(|_| cost <= limit)
                .map(|index| self.leaves_after(index, now)),
            counted_in: at,
        }
    }
}

trait FetchMaxIfLess {
    /// What it holds; raised to `least` where it holds less. Written only then.
    fn fetch_max_if_less(&self, least: u64) -> u64;
}

impl FetchMaxIfLess for AtomicU64 {
    fn fetch_max_if_less(&self, least: u64) -> u64 {
        match self.load(SeqCst) {
            held if held >= least => held,
            _ => {
                let held = self.fetch_max(least, SeqCst);
                // what is counted in earlier parts is read after it
                fence(SeqCst);
                held
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const SECOND: u64 = 1_000_000_000;

    fn spread(key: u64) -> u64 {
        ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(key)
    }

    #[derive(Default)]
    struct Exact(HashMap<u64, Vec<(u64, u64)>>);

    impl Exact {
        /// What was admitted in the time before `now`, the end left out.
        fn since(&self, key: u64, length: u64, now: u64) -> u64 {
            let admitted = self.0.get(&key).into_iter().flatten();
            let counted = admitted.filter(|(at, _)| at + length > now);
            counted.map(|(_, cost)| cost).sum()
        }

        fn add(&mut self, key: u64, now: u64, cost: u64) {
            self.0.entry(key).or_default().push((now, cost));
        }
    }

    #[test]
    fn a_burst_at_the_end_of_a_window_leaves_nothing_for_the_next() {
        let window = SlidingWindow::new(Duration::from_secs(60), 1);
        let end = 60 * SECOND - 1;
        let burst = (0..200).filter(|_| window.admit(7, 1, 100, end).admitted);
        assert_eq!(burst.count(), 100);
        let next = (0..200).filter(|_| window.admit(7, 1, 100, end + 2).admitted);
        assert_eq!(next.count(), 0);
        let verdict = window.admit(7, 1, 100, end + 2);
        assert_eq!(verdict.remaining, 0);
        let wait = verdict.retry_after.expect("it comes back");
        assert!(wait <= Duration::from_secs(70), "{wait:?}");
        let later = end + 2 + wait.as_nanos() as u64;
        assert!(!window.admit(7, 1, 100, later - 1).admitted);
        assert!(window.admit(7, 1, 100, later).admitted);
    }

    #[test]
    fn what_costs_more_than_the_limit_never_comes() {
        let window = SlidingWindow::new(Duration::from_secs(1), 1);
        let verdict = window.admit(1, 11, 10, 0);
        assert_eq!((verdict.admitted, verdict.retry_after), (false, None));
        assert!(window.admit(1, 10, 10, 0).admitted);
        let huge = window.admit(2, u64::MAX, u64::MAX, 0);
        assert!(!huge.admitted);
    }

    #[test]
    fn a_key_that_is_forgotten_begins_anew() {
        let window = SlidingWindow::new(Duration::from_secs(1), 10);
        assert!(window.admit(1, 10, 10, 5).admitted);
        assert_eq!(window.counted(1, 5), 10);
        assert!(window.refills_after(1, 5).is_some());
        assert!(window.forget(1, 5));
        assert_eq!(window.counted(1, 5), 0);
        assert_eq!(window.refills_after(1, 5), None);
        assert!(window.admit(1, 10, 10, 5).admitted);
    }

    #[test]
    fn a_key_that_begins_anew_takes_nothing_from_keys_that_share_its_counters() {
        // so few counters that all keys have company in every row
        let (limit, now) = (1_000_000, 5);
        let window = SlidingWindow::new(Duration::from_secs(60), 1);
        let keys: Vec<u64> = (0..500).map(spread).collect();
        for (at, key) in keys.iter().enumerate() {
            assert!(window.admit(*key, at as u64 % 50, limit, now).admitted);
        }
        let counted: Vec<u64> = keys.iter().map(|key| window.counted(*key, now)).collect();
        assert!(window.forget(keys[49], now));
        for (key, before) in keys.iter().zip(&counted) {
            if *key != keys[49] {
                assert_eq!(window.counted(*key, now), *before);
            }
        }
    }

    #[test]
    fn a_key_that_began_anew_has_its_limit_once_more_and_no_more() {
        let window = SlidingWindow::new(Duration::from_secs(6), 10);
        let admitted = |from: u64, to: u64| {
            let times = (from..to).map(|tenth| tenth * SECOND / 10);
            times
                .filter(|now| window.admit(1, 1, 10, *now).admitted)
                .count()
        };
        assert_eq!(admitted(0, 20), 10);
        assert!(window.forget(1, 2 * SECOND));
        // what counts from then on counts for a window and a part
        assert_eq!(admitted(20, 80), 10);
        assert_eq!(admitted(80, 89), 0);
        assert_eq!(admitted(90, 150), 10);
        // twice within a part
        assert!(window.forget(1, 15 * SECOND) && window.forget(1, 15 * SECOND));
        assert_eq!(admitted(150, 200), 10);
    }

    #[test]
    fn so_many_keys_begin_anew_and_no_more_until_a_window_later() {
        let window = SlidingWindow::new(Duration::from_secs(6), 10);
        let begun = (0..2 * RESETS_MAX as u64).filter(|key| window.forget(spread(*key), 0));
        assert_eq!(begun.count(), RESETS_MAX);
        assert!(window.forget(spread(0), 0));
        assert!(!window.forget(spread(5000), 6 * SECOND));
        assert!(window.forget(spread(5000), 7 * SECOND));
    }

    #[test]
    fn memory_is_what_is_said_before() {
        for keys in [1, 1000, 10_000] {
            let window = SlidingWindow::new(Duration::from_secs(6), keys);
            assert_eq!(window.bytes(), 0);
            for key in 0..keys + 1000 {
                window.admit(spread(key), 1, 1, 0);
            }
            assert_eq!(window.bytes(), SlidingWindow::memory(keys));
        }
    }

    #[test]
    fn what_is_given_back_is_there_again_as_long_as_its_part_counts() {
        let window = SlidingWindow::new(Duration::from_secs(6), 1);
        let first = window.admit(1, 4, 10, SECOND);
        assert!(first.admitted && window.admit(1, 6, 10, 2 * SECOND).admitted);
        window.give_back(1, 4, first.counted_in);
        assert_eq!(window.counted(1, 2 * SECOND), 6);
        assert!(window.admit(1, 4, 10, 2 * SECOND).admitted);
        // long after: the place is another part's by now
        let late = window.admit(1, 4, 10, 20 * SECOND);
        window.give_back(1, 4, first.counted_in);
        assert_eq!(window.counted(1, 20 * SECOND), 4);
        window.give_back(1, 4, late.counted_in);
        assert_eq!(window.counted(1, 20 * SECOND), 0);
    }

    #[test]
    fn threads_that_count_at_once_do_not_pass_each_other_in_the_rows() {
        for round in 0..2000u64 {
            let window = SlidingWindow::new(Duration::from_secs(60), 1);
            let admitted: usize = std::thread::scope(|scope| {
                let run = || {
                    (0..4)
                        .filter(|_| window.admit(round, 1, 3, 0).admitted)
                        .count()
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
                let each = threads.into_iter().map(|thread| thread.join().unwrap());
                each.sum()
            });
            assert!(admitted <= 3, "{admitted}");
        }
    }

    #[test]
    fn time_that_seems_to_go_back_frees_nothing() {
        let window = SlidingWindow::new(Duration::from_secs(6), 1);
        for at in 0..6 {
            assert!(window.admit(1, 1, 6, (9 - at) * SECOND).admitted);
        }
        assert!(!window.admit(1, 1, 6, 3 * SECOND).admitted);
        assert!(!window.admit(1, 1, 6, 10 * SECOND).admitted);
    }

    #[test]
    fn threads_that_race_over_the_ends_of_parts_admit_no_more_than_the_limit() {
        let length = Duration::from_millis(60);
        let window = SlidingWindow::new(length, 1);
        let began = std::time::Instant::now();
        let nanos = |time: Duration| time.as_nanos() as u64;
        let mut admitted: Vec<u64> = std::thread::scope(|scope| {
            let run = || {
                let mut admitted = Vec::new();
                while began.elapsed() < 4 * length {
                    let now = nanos(began.elapsed());
                    let is_admitted = window.admit(3, 1, 100, now).admitted;
                    // a thread that was put aside meanwhile has asked with a time long past
                    let at_once = nanos(began.elapsed()) - now < nanos(length) / 60;
                    if is_admitted && at_once {
                        admitted.push(now);
                    }
                }
                admitted
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(run)).collect();
            let each = threads.into_iter().map(|thread| thread.join().unwrap());
            each.flatten().collect()
        });
        admitted.sort_unstable();
        // all that a part too long leaves of four windows
        assert!(admitted.len() >= 300, "{}", admitted.len());
        for (first, last) in admitted.iter().zip(&admitted[100..]) {
            assert!(last - first >= nanos(length), "{first} {last}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_window_holds_more_than_the_limit_and_none_refuses_a_part_too_long(
            steps in prop::collection::vec((0..20u64, 0..SECOND / 2, 1..4u64), 1..600),
            limit in 1..20u64,
        ) {
            let length = 2 * SECOND;
            let window = SlidingWindow::new(Duration::from_nanos(length), 20_000);
            let part = length.div_ceil(PARTS);
            let mut exact = Exact::default();
            let mut now = 0;
            for (key, later, cost) in steps {
                now += later / 20;
                let verdict = window.admit(spread(key), cost, limit, now);
                if verdict.admitted {
                    // never more, wherever the window begins
                    prop_assert!(exact.since(key, length, now) + cost <= limit);
                    exact.add(key, now, cost);
                } else {
                    // with so much room for 20 keys nobody has company: only the part too long refuses
                    prop_assert!(exact.since(key, length + part, now) + cost > limit);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn with_keys_that_begin_anew_none_counts_too_little(
            steps in prop::collection::vec((0..8u64, 0..SECOND / 2, 1..4u64, 0..20u8), 1..400),
            limit in 1..20u64,
        ) {
            // one row for all is shared: keys may be refused for others, and never let through for them
            let length = 2 * SECOND;
            let window = SlidingWindow::new(Duration::from_nanos(length), 1);
            let mut exact = Exact::default();
            let mut now = 0;
            for (key, later, cost, what) in steps {
                now += later / 8;
                if what == 0 {
                    prop_assert!(window.forget(spread(key), now));
                    exact.0.remove(&key);
                } else if window.admit(spread(key), cost, limit, now).admitted {
                    prop_assert!(exact.since(key, length, now) + cost <= limit);
                    exact.add(key, now, cost);
                }
                prop_assert!(window.counted(spread(key), now) >= exact.since(key, length, now));
            }
        }
    }

    #[test]
    fn with_as_many_keys_as_expected_few_are_refused_for_others() {
        let (keys, limit) = (5_000u64, 12);
        let window = SlidingWindow::new(Duration::from_secs(60), keys);
        let mut admitted = vec![0u64; keys as usize];
        for round in 0..2 * limit {
            for key in 0..keys {
                let now = round * 2 * SECOND + key;
                let taken = window.admit(spread(key), 1, limit, now).admitted;
                admitted[key as usize] += u64::from(taken);
            }
        }
        assert!(admitted.iter().all(|count| *count <= limit));
        let all: u64 = admitted.iter().sum();
        let lost = 1.0 - all as f64 / (keys * limit) as f64;
        assert!(lost < 0.03, "{lost}");
    }
}
