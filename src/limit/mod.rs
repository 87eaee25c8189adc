//! The arithmetic of limits: no HTTP, no clock, no I/O. Keys are hashes, and time is an argument.
//!
//! | What | Exact | Memory | File |
//! |---|---|---|---|
//! | at most so many in any window | never too many; up to a sixth of the window too few | fixed | [`window`] |
//! | so many at once, and so fast again | yes | a bounded table, then a sketch | [`bucket`] |
//! | so many inside at the same time, and who waits | yes | for who is inside or waits | [`gate`] |
//! | how many that should be | - | fixed | [`gradient`] |
//! | what one of several gateways may let through | never more than a stated bound too many | a bounded table | [`lease`] |

pub mod bucket;
pub mod gate;
pub mod gradient;
pub mod lease;
pub mod window;
