//! Paths that policies answer themselves: requests for them have to find a route on which such a policy acts.

use super::Compiler;
use crate::diagnostic::Diagnostic;
use crate::policy::chain::Chain;
use crate::policy::{Mode, OwnPath};
use crate::router::{HostPattern, Match, PathPattern};
use ahash::AHashSet;
use std::sync::Arc;

/// The routes with policies that have such paths.
#[derive(Default)]
pub struct Guarded(Vec<One>);

struct One {
    route: Arc<str>,
    matches: Box<[Match]>,
    own: Box<[OwnPath]>,
}

impl Guarded {
    pub fn note(&mut self, chain: &Chain, route: &Arc<str>, matches: &[Match]) {
        let enforced = chain
            .policies()
            .iter()
            .filter(|policy| policy.mode == Mode::Enforce);
        let own: Box<[OwnPath]> = enforced
            .flat_map(|policy| policy.hooks.own_paths.iter().cloned())
            .collect();
        if !own.is_empty() {
            self.0.push(One {
                route: route.clone(),
                matches: matches.into(),
                own,
            });
        }
    }

    /// On each host of such a route, requests for the paths have to find that route, or one that answers the same.
    pub fn check(&self, compiler: &mut Compiler<'_>) {
        let mut told = AHashSet::new();
        for (guarded, own) in self
            .0
            .iter()
            .flat_map(|one| one.own.iter().map(move |own| (one, own)))
        {
            if self.arrives(guarded, own) || !told.insert((own.at, own.setting)) {
                continue;
            }
            let (setting, route) = (own.setting, &guarded.route);
            let message = format!(
                "`{setting}: {}` never arrives: no route with this login matches it on the hosts of route `{route}`",
                own.path
            );
            let hint =
                format!("write a path that the route matches, as in `{setting}: /app/{setting}`");
            compiler.report(Diagnostic::error(message, own.at).hint(hint));
        }
    }

    fn arrives(&self, guarded: &One, own: &OwnPath) -> bool {
        let Ok(path) = own.path.parse::<PathPattern>() else {
            return false;
        };
        let same = |one: &&One| {
            let mut paths = one.own.iter();
            paths.any(|other| {
                other.setting == own.setting && other.path == own.path && other.whose == own.whose
            })
        };
        let takers: Vec<&Match> = self
            .0
            .iter()
            .filter(same)
            .flat_map(|one| &one.matches)
            .filter(|one| takes(one, &path))
            .collect();
        let found = |host: Option<&HostPattern>| takers.iter().any(|one| covers(one, host));
        guarded.matches.iter().all(|one| match &one.host {
            None => found(None),
            Some(hosts) => hosts.iter().all(|host| found(Some(host))),
        })
    }
}

fn takes(one: &Match, path: &PathPattern) -> bool {
    let mut paths = one.path.iter().flat_map(|paths| paths.iter());
    one.path.is_none() || paths.any(|known| known.contains(path))
}

/// Whether a match takes every host of the pattern; of all hosts if there is none.
fn covers(one: &Match, host: Option<&HostPattern>) -> bool {
    match (&one.host, host) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(hosts), Some(host)) => hosts.iter().any(|known| known.contains(host)),
    }
}
