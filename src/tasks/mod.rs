//! Background work: the one place that spawns.

pub mod background;
pub mod jobs;
pub mod watch;

use crate::snapshot::Snapshot;
use jobs::Job;

/// Everything that this snapshot wants done in the background.
pub fn jobs_of(_snapshot: &Snapshot) -> Vec<Job> {
    Vec::new()
}
