//! Moments of any number of keys in fixed memory: a count-min sketch (Cormode and Muthukrishnan, "An Improved Data Stream
//! Summary", 2005) whose cells hold moments instead of counts.
//!
//! A moment says until when a key has used what it may, as in GCRA (ITU-T I.371): it is moved on by what is used, from the
//! present if it has passed. Of the cells of one key, one in each row, the earliest is the nearest to what the key alone
//! would have made of it, and never earlier: keys that share cells make it later.
//!
//! Time is an argument, in whatever unit whoever asks counts it.

use super::mix;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

const ROWS: usize = 4;

/// See the module.
pub struct Sketch(Box<[AtomicU64]>);

impl Sketch {
    /// With so many cells in each row.
    pub fn new(width: usize) -> Self {
        let cells = width.saturating_mul(ROWS);
        Self((0..cells).map(|_| AtomicU64::new(0)).collect())
    }

    /// The memory that a sketch of that width takes, in bytes.
    pub fn memory(width: usize) -> u64 {
        (width as u64).saturating_mul((ROWS * size_of::<AtomicU64>()) as u64)
    }

    /// The memory that it takes, in bytes.
    pub fn bytes(&self) -> u64 {
        size_of_val(&*self.0) as u64
    }

    /// Where the moment of that key stands; 0 if it was never moved.
    pub fn moment(&self, key: u64) -> u64 {
        let moments = self.cells(key).map(|cell| cell.load(SeqCst));
        moments.min().unwrap_or(u64::MAX)
    }

    /// Moves the moment of that key on, from now if it has passed. Tells where it stands then.
    pub fn advance(&self, key: u64, by: u64, now: u64) -> u64 {
        let moved = self.cells(key).map(|cell| {
            let later = |moment: u64| moment.max(now).saturating_add(by);
            let before = cell.fetch_update(SeqCst, Relaxed, |moment| Some(later(moment)));
            // it always succeeds
            later(before.unwrap_or_default())
        });
        moved.min().unwrap_or(u64::MAX)
    }

    /// Moves the moment of that key back by what it was moved on. What has passed of that since is taken from whoever has
    /// moved the same cells meanwhile, so who must not count too little leaves it out.
    pub fn take_back(&self, key: u64, by: u64) {
        for cell in self.cells(key) {
            let earlier = |moment: u64| Some(moment.saturating_sub(by));
            let _ = cell.fetch_update(SeqCst, Relaxed, earlier);
        }
    }

    fn cells(&self, key: u64) -> impl Iterator<Item = &AtomicU64> {
        let width = self.0.len() / ROWS;
        (0..ROWS).filter_map(move |row| {
            let spread = mix(key ^ mix(row as u64 + 1));
            let at = ((u128::from(spread) * width as u128) >> 64) as usize;
            self.0.get(row * width + at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn memory_is_what_is_said_before() {
        assert_eq!(Sketch::new(100).bytes(), Sketch::memory(100));
    }

    #[test]
    fn nothing_panics_where_there_is_no_cell() {
        let sketch = Sketch::new(0);
        sketch.take_back(1, 1);
        // what can't be counted is not let through
        assert_eq!(
            (sketch.advance(1, 1, 1), sketch.moment(1)),
            (u64::MAX, u64::MAX)
        );
    }

    proptest! {
        #[test]
        fn a_moment_is_never_earlier_than_the_key_alone_would_have_it(
            steps in prop::collection::vec((0..40_u64, 1..50_u64, 0..20_u64, any::<bool>()), 1..400),
        ) {
            let (narrow, wide) = (Sketch::new(8), Sketch::new(1 << 14));
            let mut exact: HashMap<u64, u64> = HashMap::new();
            let mut now = 0;
            for (key, by, pause, back) in steps {
                now += pause;
                let moment = exact.entry(key).or_default();
                let moved = (*moment).max(now) + by;
                let by_narrow = narrow.advance(mix(key + 1), by, now);
                prop_assert!(by_narrow >= moved);
                // 40 keys in so many cells do not meet in all rows
                prop_assert_eq!(wide.advance(mix(key + 1), by, now), moved);
                *moment = moved;
                if back {
                    narrow.take_back(mix(key + 1), by);
                    wide.take_back(mix(key + 1), by);
                    *moment -= by;
                }
                for (key, moment) in &exact {
                    prop_assert!(narrow.moment(mix(key + 1)) >= *moment);
                    prop_assert_eq!(wide.moment(mix(key + 1)), *moment);
                }
            }
        }

        #[test]
        fn no_numbers_panic(key: u64, by: u64, now: u64, width in 0..9_usize) {
            let sketch = Sketch::new(width);
            sketch.advance(key, by, now);
            sketch.advance(key, u64::MAX, now);
            sketch.take_back(key, by);
            sketch.moment(key);
        }
    }
}
