//! The arithmetic of limits: no HTTP, no clock, no I/O. Keys are hashes, and time is an argument.
//!
//! | What | Exact | Memory | File |
//! |---|---|---|---|
//! | at most so many in any window | never too many; up to a sixth of the window too few | fixed | [`window`] |
//! | so many at once, and so fast again | yes | a bounded table, then a sketch | [`bucket`] |
//! | the same for any number of keys | never too many; too few for keys that share all cells | fixed | [`sketch`] |
//! | so many inside at the same time, and who waits | yes | for who is inside or waits | [`gate`] |
//! | the last file descriptors of a process | yes | none | [`descriptors`] |
//! | how many that should be | - | fixed | [`gradient`] |
//! | how much a process has in hand, and what it lets go of | never too many | fixed | [`overload`] |
//! | what one of several gateways may let through | never more than a stated bound too many | a bounded table | [`lease`] |
//! | so much in an hour, a day, a month | yes | an account for each key, up to a bound; one for all others | [`quota`] |

pub mod bucket;
pub mod descriptors;
pub mod gate;
pub mod gradient;
pub mod lease;
pub mod overload;
pub mod quota;
pub mod sketch;
pub mod window;

/// A number that has nothing to do with its neighbour's and depends on every bit of the one given: the output function of
/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
pub fn mix(of: u64) -> u64 {
    let mixed = (of ^ (of >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
