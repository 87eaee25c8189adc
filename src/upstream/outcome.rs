//! What a try says about its endpoint.

use std::fmt;
use std::time::Duration;

/// How a try ended, as far as that says something about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The head of a final answer came, with this status.
    Answered(u16),
    /// No connection could be made.
    Unreachable,
    /// The connection broke, or what came over it was no valid answer.
    Broken,
    /// It did not answer in time.
    TimedOut,
    /// The try ended for reasons that are the client's or the gateway's own.
    Abandoned,
}

impl Outcome {
    /// The status that metrics count the try under; none when there was no answer.
    pub fn status(self) -> Option<u16> {
        match self {
            Outcome::Answered(status) => Some(status),
            _ => None,
        }
    }
}

/// In words, for logs.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Answered(status) => write!(f, "answered {status}"),
            Outcome::Unreachable => f.write_str("could not be reached"),
            Outcome::Broken => f.write_str("no valid answer"),
            Outcome::TimedOut => f.write_str("no answer in time"),
            Outcome::Abandoned => f.write_str("given up"),
        }
    }
}

/// An outcome with how long it took from the beginning of the try.
#[derive(Clone, Copy, Debug)]
pub struct Observed {
    pub outcome: Outcome,
    pub took: Duration,
}
