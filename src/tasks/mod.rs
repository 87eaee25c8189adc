//! Background work: the one place that spawns.

pub mod background;
pub mod jobs;
pub mod pressure;
pub mod watch;

use crate::discovery::Discovery;
use crate::issuers::Issuer;
use crate::policy::chain::Compiled;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::store::Store;
use crate::upstream::health::rounds;
use crate::upstream::{Service, outlier};
use jobs::Job;
use std::sync::Arc;

/// Everything that this snapshot wants done in the background.
pub fn jobs_of(snapshot: &Snapshot, state: &State) -> Vec<Job> {
    let services: Arc<[Arc<Service>]> = snapshot.services.clone().into();
    let mut jobs: Vec<Job> = services.iter().filter_map(health_checks).collect();
    jobs.push(Job::new("the return of ejected endpoints", move || {
        let services = services.clone();
        async move { outlier::returns(&services).await }
    }));
    jobs.extend(state.open_quotas().map(|quotas| {
        Job::new("the counts of quotas", move || {
            let quotas = quotas.clone();
            async move { quotas.run().await }
        })
    }));
    jobs.extend(snapshot.discoveries.iter().map(discovery));
    jobs.extend(snapshot.issuers.iter().filter_map(keys));
    jobs.extend(snapshot.stores.iter().map(store));
    jobs.extend(snapshot.counting.iter().filter_map(tended));
    jobs
}

fn health_checks(service: &Arc<Service>) -> Option<Job> {
    let check = service.health_check.clone()?;
    let name = format!("health checks of {}", service.name);
    let service = service.clone();
    Some(Job::new(name, move || {
        let (service, check) = (service.clone(), check.clone());
        async move { rounds::run(&service, &check).await }
    }))
}

/// Keeps the keys of an issuer what it publishes.
fn keys(issuer: &Arc<Issuer>) -> Option<Job> {
    issuer.published()?;
    let name = format!("keys of {}", issuer.name);
    let issuer = issuer.clone();
    Some(Job::new(name, move || {
        let issuer = issuer.clone();
        async move {
            if let Some(published) = issuer.published() {
                published.run().await;
            }
        }
    }))
}

/// Keeps a store connected.
fn store(store: &Arc<Store>) -> Job {
    let name = format!("store {}", store.name);
    let store = store.clone();
    Job::new(name, move || {
        let store = store.clone();
        async move { store.run().await }
    })
}

/// Does what a policy needs done while it is in force.
fn tended(policy: &Arc<Compiled>) -> Option<Job> {
    let tends = policy.hooks.tends.clone()?;
    let name = format!("work of {}", policy.place);
    Some(Job::new(name, move || {
        let tends = tends.clone();
        async move { tends.tend().await }
    }))
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
