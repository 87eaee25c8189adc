//! So much in an hour, a day or a month: exact, and so that what was counted can be written down and read again.
//!
//! Unlike limits by rate, whose windows are short and whose keys are many, these windows outlive processes, and what they
//! count was bought. So every key has an account of its own, in memory, and a change of it is taken down to be written.

mod account;
mod ledger;
mod period;

pub use account::{Account, Slot};
pub use ledger::{Ledger, Standing, Taken};
pub use period::{PARTS, Period, Span, Unit};
