//! An exact limit with a burst: the generic cell rate algorithm (ITU-T I.371, "virtual scheduling"), which is a token
//! bucket that stores one time for each key: when it will be full again.
//!
//! The times stand in a table of fixed size. A key keeps its place until its bucket is full again, which says the same as
//! no place at all; a place is never taken from a key that counts. Where all places that a key could have are taken, a
//! sketch decides, whose keys share times: the latest of several may be another's, so it may say too little is left and
//! never too much. So a flood of keys frees nobody.
//!
//! Finding a key and counting takes no lock; a key that is new takes its place under the lock of seven places.
//!
//! Time is an argument: nanoseconds of a clock that never goes back. Threads may come with times that differ a little.

use super::sketch::Sketch;
use std::hint::spin_loop;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

/// Nanoseconds are counted in so many ticks, so that fast rates are not rounded.
const TICKS: u64 = 16;

/// Places that a key may have.
const WAYS: usize = 7;

/// Places for every key that is expected: of as many keys as expected, one of 150 finds its places taken.
const PLACES_PER_KEY: u64 = 3;

/// Buckets that are made at a time, when the first key comes to one of them.
const BLOCK: usize = 512;

/// In the place of a time: the place is being given to another key.
const CHANGING: u64 = u64::MAX;

/// How much, and how fast it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Ticks for each unit of cost.
    interval: u64,
    burst: u64,
}

impl Rate {
    /// `limit` in each `window`, of which up to `burst` at once.
    pub fn new(limit: u64, window: Duration, burst: u64) -> Self {
        let window = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        // rounded up: never more than the limit
        let ticks = u128::from(window) * u128::from(TICKS);
        let interval = ticks.div_ceil(u128::from(limit.max(1)));
        // a full bucket is at most some years away
        let most = (u64::MAX >> 3) / burst.max(1);
        Self {
            interval: u64::try_from(interval)
                .unwrap_or(u64::MAX)
                .clamp(1, most.max(1)),
            burst: if limit == 0 { 0 } else { burst },
        }
    }

    fn span(self, cost: u64) -> u64 {
        self.interval.saturating_mul(cost)
    }

    /// What a request meets where the bucket is full at `full`; and when it is full after it, if it is admitted.
    fn ask(self, full: u64, cost: u64, now: u64) -> (Verdict, Option<u64>) {
        let owed = full.saturating_sub(now);
        let after = owed.saturating_add(self.span(cost));
        let depth = self.span(self.burst);
        if cost > self.burst || after > depth {
            let wait = (cost <= self.burst).then(|| after.saturating_sub(depth));
            let verdict = Verdict {
                admitted: false,
                remaining: depth.saturating_sub(owed) / self.interval,
                retry_after: wait.map(duration),
                full_after: duration(owed),
            };
            return (verdict, None);
        }
        let verdict = Verdict {
            admitted: true,
            remaining: (depth - after) / self.interval,
            retry_after: None,
            full_after: duration(after),
        };
        (verdict, Some(now.saturating_add(after).min(CHANGING - 1)))
    }
}

fn duration(ticks: u64) -> Duration {
    Duration::from_nanos(ticks.div_ceil(TICKS))
}

fn ticks(now: u64) -> u64 {
    // never the mark of a place that changes
    now.saturating_mul(TICKS).min(u64::MAX >> 1)
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub admitted: bool,
    /// What may be asked for at once.
    pub remaining: u64,
    /// When a request that was refused will be admitted; none if it was not, or costs more than the burst.
    pub retry_after: Option<Duration>,
    /// When all of the burst is there again.
    pub full_after: Duration,
}

/// The places of a few keys: in one cache line the keys, in another the times.
#[derive(Default)]
#[repr(C, align(64))]
struct Bucket {
    keys: [AtomicU64; WAYS],
    /// 1 while somebody gives a place to a key.
    lock: AtomicU64,
    full: [AtomicU64; WAYS],
}

/// A place of a key.
#[derive(Clone, Copy)]
struct Place<'a> {
    held: &'a AtomicU64,
    full: &'a AtomicU64,
}

struct Locked<'a>(&'a AtomicU64);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.0.store(0, SeqCst);
    }
}

impl Bucket {
    fn lock(&self) -> Locked<'_> {
        while self
            .lock
            .compare_exchange_weak(0, 1, SeqCst, Relaxed)
            .is_err()
        {
            // held for some hundred nanoseconds; whoever holds it may have lost its processor
            spin_loop();
            if self.lock.load(Relaxed) != 0 {
                std::thread::yield_now();
            }
        }
        Locked(&self.lock)
    }

    fn places(&self) -> impl Iterator<Item = Place<'_>> {
        let places = self.keys.iter().zip(&self.full);
        places.map(|(held, full)| Place { held, full })
    }

    fn find(&self, key: u64) -> Option<Place<'_>> {
        self.places().find(|place| place.held.load(SeqCst) == key)
    }

    /// Fills the bucket of that key, if it has one.
    fn fill(&self, key: u64) -> bool {
        let _one = self.lock();
        let place = self.find(key);
        place.inspect(|place| place.full.store(0, SeqCst)).is_some()
    }

    /// The place of that key, given to it if one is free: `began` is when its bucket is full until then.
    fn place(&self, key: u64, now: u64, began: impl FnOnce() -> u64) -> Option<Place<'_>> {
        let _one = self.lock();
        if let Some(place) = self.find(key) {
            return Some(place);
        }
        let place = self.places().find(|Place { full, .. }| {
            let held = full.load(SeqCst);
            // from here on nobody counts there
            held <= now
                && full
                    .compare_exchange(held, CHANGING, SeqCst, Relaxed)
                    .is_ok()
        })?;
        place.held.store(key, SeqCst);
        place.full.store(began(), SeqCst);
        Some(place)
    }
}

/// See the module.
pub struct TokenBuckets {
    blocks: Box<[OnceLock<Box<[Bucket]>>]>,
    buckets: u64,
    width: usize,
    sketch: OnceLock<Sketch>,
    /// Decisions of the sketch.
    shared: AtomicU64,
    /// When a bucket was last filled by [`TokenBuckets::forget`], in ticks; 0 if none ever was.
    filled_at: AtomicU64,
}

impl TokenBuckets {
    /// For about so many keys that count at the same time.
    pub fn new(keys: u64) -> Self {
        let buckets = buckets(keys);
        let blocks = usize::try_from(buckets.div_ceil(BLOCK as u64)).unwrap_or(usize::MAX);
        Self {
            blocks: (0..blocks).map(|_| OnceLock::new()).collect(),
            buckets,
            width: width(buckets),
            sketch: OnceLock::new(),
            shared: AtomicU64::new(0),
            filled_at: AtomicU64::new(0),
        }
    }

    /// The memory that the table for so many keys takes at most, with the sketch, in bytes.
    pub fn memory(keys: u64) -> u64 {
        let buckets = buckets(keys);
        buckets
            .saturating_mul(size_of::<Bucket>() as u64)
            .saturating_add(Sketch::memory(width(buckets)))
    }

    /// Admits a request of that cost if enough is there, and takes it then. The key is a hash, evenly spread over all
    /// numbers.
    pub fn admit(&self, key: u64, cost: u64, rate: Rate, now: u64) -> Verdict {
        let (key, now) = (key.max(1), ticks(now));
        let bucket = self.bucket(key);
        loop {
            let found = bucket.find(key);
            let found = found.or_else(|| bucket.place(key, now, || self.sketched(key)));
            let Some(Place { held, full }) = found else {
                match self.admit_shared(bucket, key, cost, rate, now) {
                    Some(verdict) => return verdict,
                    None => continue,
                }
            };
            let mut known = full.load(SeqCst);
            while known != CHANGING {
                let (verdict, next) = rate.ask(known, cost, now);
                let Some(next) = next else {
                    // the time may be another's already
                    match held.load(SeqCst) == key {
                        true => return verdict,
                        false => break,
                    }
                };
                match full.compare_exchange_weak(known, next, SeqCst, SeqCst) {
                    // who changes a place marks its time first, so that a key that is still there was there before
                    Ok(_) if held.load(SeqCst) == key => return verdict,
                    Ok(_) => break,
                    Err(other) => known = other,
                }
            }
            spin_loop();
        }
    }

    /// What a request would meet, without taking anything.
    pub fn look(&self, key: u64, cost: u64, rate: Rate, now: u64) -> Verdict {
        let (key, now) = (key.max(1), ticks(now));
        let bucket = self.bucket(key);
        let full = match bucket.find(key).map(|place| place.full.load(SeqCst)) {
            Some(full) if full != CHANGING => full,
            _ => self.sketched(key),
        };
        rate.ask(full, cost, now).0
    }

    /// Takes what was found to be due after the request, more than there is too.
    pub fn charge(&self, key: u64, cost: u64, rate: Rate, now: u64) {
        let unbounded = Rate {
            interval: rate.interval,
            burst: u64::MAX,
        };
        self.admit(key, cost, unbounded, now);
    }

    /// Gives back what a request took that was admitted at `at` and did not get through after all. What has come back
    /// since then would have been lost had the bucket been full, so it is not given back too: never too much.
    pub fn give_back(&self, key: u64, cost: u64, rate: Rate, at: u64, now: u64) {
        let filled_at = self.filled_at.load(SeqCst);
        if filled_at > 0 && ticks(at) <= filled_at {
            // the place it took from may be another's by now: taken from the wrong one, others would count too little
            return;
        }
        let (key, gone) = (key.max(1), ticks(now).saturating_sub(ticks(at)));
        let span = rate.span(cost).saturating_sub(gone);
        if span == 0 {
            return;
        }
        let bucket = self.bucket(key);
        if let Some(Place { held, full }) = bucket.find(key) {
            // a bucket that is full has nothing to be given back, and its place may become another's
            let owes = |known: u64| known != CHANGING && known > ticks(now);
            let _ = full.fetch_update(SeqCst, SeqCst, |known| {
                (owes(known) && held.load(SeqCst) == key).then(|| known.saturating_sub(span))
            });
            return;
        }
        // counted by the sketch, since a place is not taken away before all of this has come back
        if let Some(sketch) = self.sketch.get() {
            sketch.take_back(key, span);
        }
    }

    /// Fills the bucket of that key; no other key has more for it. False if the sketch decides on it and no place is free
    /// yet: its times cannot be told from those of keys that share them.
    pub fn forget(&self, key: u64, now: u64) -> bool {
        let (key, now) = (key.max(1), ticks(now));
        self.filled_at.fetch_max(now, SeqCst);
        let bucket = self.bucket(key);
        bucket.fill(key) || self.sketched(key) <= now || bucket.place(key, now, || 0).is_some()
    }

    /// The memory that is taken by now, in bytes.
    pub fn bytes(&self) -> u64 {
        let blocks = self.blocks.iter().filter_map(OnceLock::get);
        let buckets: usize = blocks.map(|block| block.len()).sum();
        (buckets * size_of::<Bucket>()) as u64 + self.sketch.get().map_or(0, Sketch::bytes)
    }

    /// How often all places of a key were taken, so that the sketch decided.
    pub fn shared_decisions(&self) -> u64 {
        self.shared.load(Relaxed)
    }

    fn bucket(&self, key: u64) -> &Bucket {
        let at = ((u128::from(key) * u128::from(self.buckets)) >> 64) as usize;
        let block = self.blocks.get(at / BLOCK).or(self.blocks.first());
        let block = block.map(|block| {
            block.get_or_init(|| {
                let begins = (at - at % BLOCK) as u64;
                let size = self.buckets.saturating_sub(begins).min(BLOCK as u64);
                (0..size).map(|_| Bucket::default()).collect()
            })
        });
        let bucket = block.and_then(|block| block.get(at % BLOCK));
        bucket.unwrap_or_else(|| unreachable!("no bucket"))
    }

    fn sketched(&self, key: u64) -> u64 {
        let full = self.sketch.get().map_or(0, |sketch| sketch.moment(key));
        full.min(CHANGING - 1)
    }

    /// What the sketch decides on a key that has no place; none if it has got one by now.
    #[cold]
    fn admit_shared(
        &self,
        bucket: &Bucket,
        key: u64,
        cost: u64,
        rate: Rate,
        now: u64,
    ) -> Option<Verdict> {
        // requests of one key are decided one after another
        let _one = bucket.lock();
        if bucket.find(key).is_some() {
            // what the sketch counted from here on, that place would never know
            return None;
        }
        self.shared.fetch_add(1, Relaxed);
        let sketch = self.sketch.get_or_init(|| Sketch::new(self.width));
        let (verdict, next) = rate.ask(sketch.moment(key), cost, now);
        if next.is_some() {
            sketch.advance(key, rate.span(cost), now);
        }
        Some(verdict)
    }
}

fn buckets(keys: u64) -> u64 {
    keys.saturating_mul(PLACES_PER_KEY)
        .div_ceil(WAYS as u64)
        .max(8)
}

fn width(buckets: u64) -> usize {
    usize::try_from(buckets).unwrap_or(usize::MAX / 64).max(64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::mix;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const SECOND: u64 = 1_000_000_000;

    fn rate(limit: u64, seconds: u64, burst: u64) -> Rate {
        Rate::new(limit, Duration::from_secs(seconds), burst)
    }

    #[test]
    fn a_key_that_has_got_a_place_meanwhile_is_not_counted_beside_it() {
        let (buckets, rate) = (TokenBuckets::new(1), rate(2, 60, 2));
        let bucket = buckets.bucket(7);
        // one thread has found no place, and before it can ask the sketch, another one gets one
        assert!(bucket.place(7, 0, || buckets.sketched(7)).is_some());
        assert_eq!(buckets.admit_shared(bucket, 7, 1, rate, 0), None);
        assert_eq!(buckets.shared_decisions(), 0);
        let admitted = (0..3).filter(|_| buckets.admit(7, 1, rate, 0).admitted);
        assert_eq!(admitted.count(), 2);
    }

    #[test]
    fn a_burst_is_there_at_once_and_comes_back_evenly() {
        let (buckets, rate) = (TokenBuckets::new(10), rate(10, 1, 5));
        let admit = |now| buckets.admit(42, 1, rate, now);
        let remaining: Vec<u64> = (0..5).map(|_| admit(SECOND).remaining).collect();
        assert_eq!(remaining, [4, 3, 2, 1, 0]);
        let refused = admit(SECOND);
        assert!(!refused.admitted);
        assert_eq!(refused.retry_after, Some(Duration::from_millis(100)));
        assert_eq!(refused.full_after, Duration::from_millis(500));
        assert!(!admit(SECOND + SECOND / 10 - 1).admitted);
        assert!(admit(SECOND + SECOND / 10).admitted);
        assert!(!admit(SECOND + SECOND / 10).admitted);
        // never more than the burst, however long nobody asks
        let later = (0..9).filter(|_| admit(100 * SECOND).admitted);
        assert_eq!(later.count(), 5);
    }

    #[test]
    fn what_costs_more_than_the_burst_never_comes() {
        let (buckets, rate) = (TokenBuckets::new(10), rate(10, 1, 5));
        let verdict = buckets.admit(1, 6, rate, 0);
        assert_eq!((verdict.admitted, verdict.retry_after), (false, None));
        assert!(!buckets.admit(1, u64::MAX, rate, u64::MAX).admitted);
        assert!(!buckets.admit(1, 1, self::rate(0, 1, 5), 0).admitted);
    }

    #[test]
    fn what_is_charged_later_is_owed_even_beyond_the_burst() {
        let (buckets, rate) = (TokenBuckets::new(10), rate(10, 1, 5));
        buckets.charge(1, 20, rate, 0);
        let refused = buckets.admit(1, 1, rate, 0);
        assert_eq!(refused.retry_after, Some(Duration::from_millis(1600)));
        assert_eq!(buckets.look(1, 1, rate, 0), refused);
        assert!(buckets.forget(1, 0));
        assert!(buckets.admit(1, 5, rate, 0).admitted);
    }

    #[test]
    fn what_is_given_back_is_there_again_and_no_more_than_that() {
        let (buckets, rate) = (TokenBuckets::new(10), rate(10, 1, 5));
        let admit = |cost, now| buckets.admit(7, cost, rate, now).admitted;
        assert!(admit(5, SECOND) && !admit(1, SECOND));
        buckets.give_back(7, 5, rate, SECOND, SECOND);
        assert!(admit(5, SECOND) && !admit(1, SECOND));
        // half a second later all of it has come back by itself
        let later = SECOND + SECOND / 2;
        assert!(admit(5, later));
        buckets.give_back(7, 5, rate, SECOND, later);
        assert!(!admit(1, later));
    }

    #[test]
    fn what_the_sketch_took_is_given_back_to_the_sketch() {
        let (buckets, rate) = (TokenBuckets::new(1), rate(1, 1000, 2));
        let decided = |key: &u64| {
            let before = buckets.shared_decisions();
            buckets.admit(*key, 2, rate, 0).admitted && buckets.shared_decisions() > before
        };
        let key = (1..200)
            .map(mix)
            .find(decided)
            .expect("a key without a place");
        assert!(!buckets.admit(key, 1, rate, 0).admitted);
        buckets.give_back(key, 2, rate, 0, 0);
        assert!(buckets.admit(key, 2, rate, 0).admitted);
    }

    #[test]
    fn many_threads_take_no_more_than_the_burst() {
        for round in 0..200u64 {
            let (buckets, rate) = (TokenBuckets::new(1), rate(1, 1000, 50));
            let admitted: usize = std::thread::scope(|scope| {
                let run = || {
                    let asked = (0..40).filter(|_| buckets.admit(round, 1, rate, 0).admitted);
                    asked.count()
                };
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(run)).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .sum()
            });
            assert_eq!(admitted, 50);
        }
    }

    #[test]
    fn a_flood_of_keys_frees_no_key_that_has_used_its_limit() {
        let (buckets, rate) = (TokenBuckets::new(1000), rate(10, 60, 10));
        let spread = |key: u64| mix(key + 1);
        let hot: Vec<u64> = (0..100).map(spread).collect();
        for key in &hot {
            assert!((0..10).all(|_| buckets.admit(*key, 1, rate, 0).admitted));
        }
        for key in 100..200_000 {
            buckets.admit(spread(key), 1, rate, key);
        }
        assert!(buckets.shared_decisions() > 100_000);
        let freed = hot
            .iter()
            .filter(|key| buckets.admit(**key, 1, rate, SECOND).admitted);
        assert_eq!(freed.count(), 0);
    }

    #[test]
    fn a_key_that_the_sketch_decides_on_is_filled_once_a_place_is_free() {
        let (buckets, rate) = (TokenBuckets::new(1), rate(1, 60, 4));
        let keys: Vec<u64> = (0..500).map(|key| mix(key + 1)).collect();
        for (at, key) in keys.iter().enumerate() {
            let later = if at < 200 { 0 } else { 100 * SECOND };
            buckets.charge(*key, 4, rate, later);
        }
        // the first have their places no longer, and what came later to the sketch still counts
        let now = 241 * SECOND;
        let remaining = |key: u64| buckets.look(key, 1, rate, now).remaining;
        let late = keys[200..].iter().copied();
        let shared: Vec<u64> = late.filter(|key| remaining(*key) < 3).collect();
        assert!(shared.len() > 100);
        assert!(shared.iter().all(|key| !buckets.forget(*key, SECOND)));
        let owed = || -> Vec<Verdict> {
            let others = shared[1..].iter();
            others.map(|key| buckets.look(*key, 1, rate, now)).collect()
        };
        let before = owed();
        assert!(buckets.forget(shared[0], now));
        // one of four has been asked for
        assert_eq!(remaining(shared[0]), 3);
        assert_eq!(owed(), before);
        assert!(buckets.admit(shared[0], 4, rate, now).admitted);
    }

    #[test]
    fn memory_is_what_is_said_before() {
        for keys in [1, 1000, 10_000] {
            let (buckets, rate) = (TokenBuckets::new(keys), rate(1, 60, 1));
            assert_eq!(buckets.bytes(), 0);
            for key in 0..10 * keys + 1000 {
                buckets.admit(mix(key + 1), 1, rate, 0);
            }
            assert!(buckets.shared_decisions() > 0);
            assert_eq!(buckets.bytes(), TokenBuckets::memory(keys));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn with_what_is_given_back_nobody_gets_more_than_without_the_requests_that_took_it(
            steps in prop::collection::vec((0..SECOND, 1..4u64, prop::option::of(0..SECOND)), 1..200),
        ) {
            let (real, ideal) = (TokenBuckets::new(10), TokenBuckets::new(10));
            let rate = rate(10, 10, 6);
            let mut now = SECOND;
            let mut due: Vec<(u64, u64, u64)> = Vec::new();
            for (later, cost, back) in steps {
                now += later;
                due.retain(|(at, when, cost)| {
                    if *when <= now {
                        real.give_back(5, *cost, rate, *at, now);
                    }
                    *when > now
                });
                match (real.admit(5, cost, rate, now).admitted, back) {
                    (true, Some(wait)) => due.push((now, now + wait, cost)),
                    (true, None) => prop_assert!(ideal.admit(5, cost, rate, now).admitted),
                    (false, _) => {}
                }
            }
        }

        #[test]
        fn it_says_what_exact_arithmetic_says(
            steps in prop::collection::vec((0..30u64, 0..SECOND, 1..4u64), 1..400),
            limit in 1..50u64,
            burst in 1..20u64,
        ) {
            let (buckets, rate) = (TokenBuckets::new(1000), rate(limit, 10, burst));
            // tokens, in units of which one nanosecond brings `limit` and a request takes as many as ten seconds have
            let one = u128::from(10 * SECOND);
            let mut exact: HashMap<u64, (u128, u64)> = HashMap::new();
            let mut now = 0;
            for (key, later, cost) in steps {
                now += later / 10;
                let full = u128::from(burst) * one;
                let (tokens, at) = exact.get(&key).copied().unwrap_or((full, now));
                let tokens = full.min(tokens + u128::from(now - at) * u128::from(limit));
                let taken = u128::from(cost) * one;
                let verdict = buckets.admit(mix(key + 1), cost, rate, now);
                // what comes back is rounded down by less than a tick for each request
                if verdict.admitted {
                    prop_assert!(taken <= tokens);
                    exact.insert(key, (tokens - taken, now));
                } else {
                    let rounding = u128::from(limit) * 400 * 4;
                    prop_assert!(taken + rounding > tokens, "{taken} {tokens}");
                    exact.insert(key, (tokens, now));
                }
            }
        }

        #[test]
        fn a_table_that_is_too_small_never_admits_more(
            steps in prop::collection::vec((0..300u64, 0..SECOND, 1..3u64), 1..600),
        ) {
            let (small, large) = (TokenBuckets::new(1), TokenBuckets::new(10_000));
            let rate = rate(10, 10, 4);
            let mut now = 0;
            for (key, later, cost) in steps {
                now += later / 50;
                let key = mix(key + 1);
                let by_small = small.admit(key, cost, rate, now).admitted;
                let by_large = by_small && large.admit(key, cost, rate, now).admitted;
                prop_assert_eq!(by_small, by_large);
            }
        }
    }
}
