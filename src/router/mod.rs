//! Which route takes a request.

mod pattern;
mod predicate;
mod spec;
mod value;

pub use pattern::{HostPattern, PathPattern, PatternError};
pub use spec::{Match, Not};
