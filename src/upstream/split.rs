//! A split: requests shared out between services, by what they are or by weight (blue/green, canary).

use super::balance::Shares;
use super::service::Service;
use crate::exchange::View;
use crate::router::Matcher;
use std::sync::Arc;

/// Arms in the order in which they are written.
pub struct Split {
    pub name: Arc<str>,
    /// Asked first, in order: the first that matches takes the request.
    matched: Vec<(Matcher, Arc<Service>)>,
    /// The others, by weight.
    shared: Vec<Arc<Service>>,
    shares: Shares,
}

impl Split {
    pub fn new(name: Arc<str>, matched: Vec<(Matcher, Arc<Service>)>, weighted: Vec<(u32, Arc<Service>)>) -> Self {
        let weights: Vec<u32> = weighted.iter().map(|(weight, _)| *weight).collect();
        Self {
            name,
            matched,
            shares: Shares::new(&weights),
            shared: weighted.into_iter().map(|(_, service)| service).collect(),
        }
    }

    /// The service that takes this request; none if no arm does.
    pub fn arm_for(&self, view: View<'_>, random: u64) -> Option<&Arc<Service>> {
        let matched = self.matched.iter().find(|(when, _)| when.matches(view));
        if let Some((_, service)) = matched {
            return Some(service);
        }
        self.shared.get(usize::from(self.shares.draw(random)?))
    }

    /// Every service that could be asked.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.matched.iter().map(|(_, service)| service).chain(&self.shared)
    }
}
