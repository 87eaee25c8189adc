//! Random numbers that need not be secret: span ids, samples, choices among endpoints.

pub use crate::limit::mix;
use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// A number from this thread's generator: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", 2014), whose start comes from the system's randomness.
pub fn next() -> u64 {
    thread_local!(static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0u8)));
    STATE.with(|state| {
        let current = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(current);
        mix(current)
    })
}

/// Maps a random number into `0..bound` without division (Lemire, "Fast random integer generation in an interval",
/// 2019; the bias is below `bound / 2^32`).
pub fn below(random: u64, bound: u32) -> u32 {
    (((random >> 32) * u64::from(bound)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_do_not_repeat_within_and_between_threads() {
        let draw = || (0..1000).map(|_| next()).collect::<Vec<_>>();
        let other = std::thread::spawn(draw).join().unwrap();
        let all: HashSet<u64> = draw().into_iter().chain(other).collect();
        assert_eq!(all.len(), 2000);
    }
}
