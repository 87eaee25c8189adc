//! Which route takes a request.

mod conflict;
mod index;
mod matcher;
mod pattern;
mod predicate;
#[cfg(test)]
mod reference;
mod spec;
mod trie;
mod value;

pub use index::{Found, Issue, IssueKind, RouteSpec, Router};
pub use matcher::{Matcher, may_overlap};
pub use pattern::{HostPattern, PathPattern, PatternError};
pub use spec::{Match, Not};
