//! Paths that policies answer themselves: requests for them have to find a route on which the policy acts.

use super::Compiler;
use crate::diagnostic::Diagnostic;
use crate::policy::Mode;
use crate::policy::chain::{Chain, Compiled};
use crate::router::{HostPattern, Match, PathPattern};
use ahash::AHashMap;
use std::sync::Arc;

/// The policies with such paths, and what the routes match that they act on.
#[derive(Default)]
pub struct Guarded(AHashMap<Arc<str>, (Arc<Compiled>, Vec<(Arc<str>, Match)>)>);

impl Guarded {
    pub fn note(&mut self, chain: &Chain, route: &Arc<str>, matches: &[Match]) {
        let with_paths = chain.policies().iter().filter(|policy| {
            policy.mode == Mode::Enforce && !policy.hooks.own_paths.is_empty()
        });
        for policy in with_paths {
            let guarded = self.0.entry(policy.place.clone());
            let (_, all) = guarded.or_insert_with(|| (policy.clone(), Vec::new()));
            all.extend(matches.iter().map(|one| (route.clone(), one.clone())));
        }
    }

    /// On each host where the policy acts it has to get the requests for its paths.
    pub fn check(&self, compiler: &mut Compiler<'_>) {
        let mut guarded: Vec<_> = self.0.values().collect();
        guarded.sort_by(|(one, _), (other, _)| one.place.cmp(&other.place));
        for (policy, all) in guarded {
            for own in &policy.hooks.own_paths {
                let path: Result<PathPattern, _> = own.path.parse();
                let Ok(path) = path else { continue };
                let takes = |one: &Match| {
                    let mut paths = one.path.iter().flat_map(|paths| paths.iter());
                    one.path.is_none() || paths.any(|known| known.contains(&path))
                };
                let stray = all.iter().find(|(_, one)| {
                    let mut hosts = one.host.iter().flat_map(|hosts| hosts.iter());
                    let found = |host: Option<&HostPattern>| {
                        all.iter().any(|(_, other)| takes(other) && covers(other, host))
                    };
                    match one.host {
                        None => !found(None),
                        Some(_) => !hosts.all(|host| found(Some(host))),
                    }
                });
                let Some((route, _)) = stray else { continue };
                let setting = own.setting;
                let message = format!(
                    "`{setting}: {}` never arrives: no route with this policy matches it on the hosts of route `{route}`",
                    own.path
                );
                let hint = format!("write a path that the route matches, as in `{setting}: /app/{setting}`");
                compiler.report(Diagnostic::error(message, own.at).hint(hint));
            }
        }
    }
}

/// Whether a match takes every host of the pattern; of all hosts if there is none.
fn covers(one: &Match, host: Option<&HostPattern>) -> bool {
    match (&one.host, host) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(hosts), Some(host)) => hosts.iter().any(|known| known.contains(host)),
    }
}
