//! Where a route sends its requests: a service, or a split between services by what the requests are or by weight
//! (blue/green, canary).

use crate::exchange::View;
use crate::observe::random;
use crate::observe::random::mix;
use crate::router::Matcher;
use crate::upstream::Service;
use crate::upstream::balance::{Keyed, Shares};
use std::sync::Arc;

/// Where a route sends its requests.
#[derive(Clone)]
pub enum Upstream {
    Service(Arc<Service>),
    Split(Arc<Split>),
}

impl Upstream {
    /// The service that takes this request. A split without an arm for it gives none.
    pub fn service_for(&self, view: View<'_>) -> Option<&Arc<Service>> {
        match self {
            Upstream::Service(service) => Some(service),
            Upstream::Split(split) => split.arm_for(view, random::next()),
        }
    }
}

/// Arms in the order in which they are written.
pub struct Split {
    pub name: Arc<str>,
    /// Asked first, in order: the first that matches takes the request.
    matched: Vec<(Matcher, Arc<Service>)>,
    /// The others, by weight.
    shared: Vec<Arc<Service>>,
    weights: Vec<u32>,
    shares: Shares,
    /// What decides among them instead of chance.
    by: Option<Keyed>,
}

impl Split {
    pub fn new(
        name: Arc<str>,
        matched: Vec<(Matcher, Arc<Service>)>,
        weighted: Vec<(u32, Arc<Service>)>,
    ) -> Self {
        let weights: Vec<u32> = weighted.iter().map(|(weight, _)| *weight).collect();
        Self {
            name,
            matched,
            shares: Shares::new(&weights),
            weights,
            by: None,
            shared: weighted.into_iter().map(|(_, service)| service).collect(),
        }
    }

    /// This split, in which requests with the same key go to the same arm. When weights change, only as many move as
    /// shares do.
    pub fn sticky(self, by: Option<Keyed>) -> Self {
        Self { by, ..self }
    }

    /// The service that takes this request; none if no arm does.
    pub fn arm_for(&self, view: View<'_>, random: u64) -> Option<&Arc<Service>> {
        if let Some(service) = self.arm_by_condition(view) {
            return Some(service);
        }
        let key = self.by.as_ref().and_then(|by| by.of(view));
        let at = key.map_or(random, |key| mix(key.0));
        self.shared.get(usize::from(self.shares.draw(at)?))
    }

    /// The service that takes this request because of what it is; none if the weights decide.
    pub fn arm_by_condition(&self, view: View<'_>) -> Option<&Arc<Service>> {
        let matched = self.matched.iter().find(|(when, _)| when.matches(view));
        matched.map(|(_, service)| service)
    }

    /// Its arms, with the weights of those that have one.
    pub fn arms(&self) -> impl Iterator<Item = (&Arc<Service>, Option<u32>)> {
        let matched = self.matched.iter().map(|(_, service)| (service, None));
        let weights = self.weights.iter().map(|weight| Some(*weight));
        matched.chain(self.shared.iter().zip(weights))
    }

    /// Every service that could be asked.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.matched
            .iter()
            .map(|(_, service)| service)
            .chain(&self.shared)
    }
}
