//! Background work: the one place that spawns.

pub mod jobs;
pub mod watch;

use crate::discovery::Discovery;
use crate::snapshot::Snapshot;
use jobs::Job;
use std::sync::Arc;

/// Everything that this snapshot wants done in the background.
pub fn jobs_of(snapshot: &Snapshot) -> Vec<Job> {
    snapshot.discoveries.iter().map(discovery).collect()
}

/// Keeps the endpoints of a service what its sources say.
fn discovery(discovery: &Arc<Discovery>) -> Job {
    let name = format!("discovery of {}", discovery.service.name);
    let discovery = discovery.clone();
    Job::new(name, move || {
        let discovery = discovery.clone();
        async move { discovery.run().await }
    })
}
