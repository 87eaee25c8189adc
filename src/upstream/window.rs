//! Two counts over the last while, without a lock: what a budget and a breaker are decided by.
//!
//! The while is cut into ten slots. A slot holds both counts and the number of the time that they are of in one atomic
//! word, so that it is emptied by whoever first counts at a later time.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Into how many slots the while is cut.
pub const SLOTS: u64 = 10;

const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const TIME_MAX: u64 = (1 << 24) - 1;

/// What times count from.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds from some time in the past, never 0.
pub fn millis(now: Instant) -> u64 {
    whole_millis(now.saturating_duration_since(*EPOCH)).saturating_add(1)
}

/// As a number of milliseconds.
pub fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// See the module.
#[derive(Debug, Default)]
pub struct Window([AtomicU64; SLOTS as usize]);

/// One slot, taken apart.
#[derive(Clone, Copy)]
struct Slot {
    time: u64,
    counts: (u64, u64),
}

impl Slot {
    fn of(word: u64) -> Self {
        Self {
            time: word >> (2 * COUNT_BITS),
            counts: ((word >> COUNT_BITS) & COUNT_MAX, word & COUNT_MAX),
        }
    }

    fn word(self) -> u64 {
        let (first, second) = self.counts;
        self.time << (2 * COUNT_BITS) | first.min(COUNT_MAX) << COUNT_BITS | second.min(COUNT_MAX)
    }
}

impl Window {
    /// Counts at this time, a number of slots from some beginning.
    pub fn add(&self, time: u64, first: u64, second: u64) {
        self.change(time, |counts| (counts.0 + first, counts.1 + second));
    }

    /// Takes one of the second count back.
    pub fn take_back(&self, time: u64) {
        self.change(time, |counts| (counts.0, counts.1.saturating_sub(1)));
    }

    /// Both counts over the slots up to this time.
    pub fn sums(&self, time: u64) -> (u64, u64) {
        let slots = self.0.iter().map(|slot| Slot::of(slot.load(Relaxed)));
        slots
            .filter(|slot| (time & TIME_MAX).wrapping_sub(slot.time) & TIME_MAX < SLOTS)
            .fold((0, 0), |sums, slot| {
                (sums.0 + slot.counts.0, sums.1 + slot.counts.1)
            })
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.0.iter().for_each(|slot| slot.store(0, Relaxed));
    }

    fn change(&self, time: u64, change: impl Fn((u64, u64)) -> (u64, u64)) {
        let Some(slot) = self.0.get((time % SLOTS) as usize) else {
            return;
        };
        let time = time & TIME_MAX;
        // a thread that was held up for a whole while has nothing to say any more, and fails
        let _ = slot.fetch_update(Relaxed, Relaxed, |word| {
            let known = Slot::of(word);
            let later = known.time.wrapping_sub(time) & TIME_MAX;
            if word != 0 && later != 0 && later < SLOTS * SLOTS {
                return None;
            }
            let counts = if later == 0 { known.counts } else { (0, 0) };
            let counts = change(counts);
            Some(Slot { time, counts }.word())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_window_holds_what_was_counted_in_its_slots(
            events in prop::collection::vec((0_u64..30, 0_u64..50, 0_u64..50), 0..60),
        ) {
            let window = Window::default();
            // far from the beginning, where the number of the time wraps
            let start = TIME_MAX - 40;
            let mut now = start;
            let mut counted = Vec::new();
            for (pass, first, second) in events {
                now += pass / 4;
                window.add(now, first, second);
                counted.push((now, first, second));
                let within = counted.iter().filter(|(time, ..)| now - time < SLOTS);
                let sums = within.fold((0, 0), |sums, (_, a, b)| (sums.0 + a, sums.1 + b));
                prop_assert_eq!(window.sums(now), sums);
            }
        }
    }

    #[test]
    fn counts_that_do_not_fit_stop_at_the_most() {
        let window = Window::default();
        window.add(5, u64::MAX / 2, COUNT_MAX + 7);
        assert_eq!(window.sums(5), (COUNT_MAX, COUNT_MAX));
        window.take_back(5);
        assert_eq!(window.sums(5).1, COUNT_MAX - 1);
    }
}
