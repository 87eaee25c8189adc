//! Random numbers for choices that need no secrecy: a generator per thread, without a lock or a system call.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

thread_local! {
    static SEED: Cell<u64> = Cell::new(RandomState::new().hash_one(std::thread::current().id()));
}

/// The next number (SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
pub fn next() -> u64 {
    SEED.with(|seed| {
        let state = seed.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        seed.set(state);
        mixed(state)
    })
}

/// The output function of SplitMix64.
pub fn mixed(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Maps a random number into `0..bound` without division (Lemire, "Fast random integer generation", 2019; the bias is
/// below `bound / 2^32`).
pub fn below(random: u64, bound: u32) -> u32 {
    (((random >> 32) * u64::from(bound)) >> 32) as u32
}
