//! What the admin API says of limits and quotas.

use crate::admin::{Counted, KeyQuery, LimitFailure, LimitStatus};
use crate::policy::chain::Compiled;
use crate::policy::counting::{Counting, KeyStatus, NotReset};
use crate::snapshot::Snapshot;

/// Every limit, or quota; where a key is asked for, those that have such a key.
pub fn all(snapshot: &Snapshot, counted: Counted, query: &KeyQuery) -> Vec<LimitStatus> {
    let asked = query.key.is_some() || query.route.is_some();
    let status = limits(snapshot, counted).filter_map(|(policy, counting)| {
        let standing = standing(snapshot, counting, query);
        if asked && standing.is_err() {
            return None;
        }
        Some(status(policy, counting, standing.ok()))
    });
    status.collect()
}

/// One limit, with where the key stands that is asked for.
pub fn one(
    snapshot: &Snapshot,
    counted: Counted,
    policy: &str,
    query: &KeyQuery,
) -> Result<LimitStatus, LimitFailure> {
    let (policy, counting) = find(snapshot, counted, policy)?;
    match standing(snapshot, counting, query) {
        Ok(standing) => Ok(status(policy, counting, Some(standing))),
        Err(_) if query.key.is_none() && query.route.is_none() => {
            Ok(status(policy, counting, None))
        }
        Err(no_key) => Err(LimitFailure::NoKey(no_key)),
    }
}

/// Lets a key begin anew.
pub fn reset(
    snapshot: &Snapshot,
    counted: Counted,
    policy: &str,
    query: &KeyQuery,
) -> Result<LimitStatus, LimitFailure> {
    let (_, counting) = find(snapshot, counted, policy)?;
    check_route(snapshot, query).map_err(LimitFailure::NoKey)?;
    match counting.reset(query.key.as_deref(), query.route.as_deref()) {
        Ok(()) => one(snapshot, counted, policy, query),
        Err(NotReset::NoKey(no_key)) => Err(LimitFailure::NoKey(no_key)),
        Err(NotReset::Full) => Err(LimitFailure::Full),
        Err(NotReset::Away) => Err(LimitFailure::Away),
    }
}

/// Lets a key of a quota use more.
pub fn grant(
    snapshot: &Snapshot,
    policy: &str,
    query: &KeyQuery,
    amount: u64,
) -> Result<LimitStatus, LimitFailure> {
    let counted = Counted::Quotas;
    let (_, counting) = find(snapshot, counted, policy)?;
    check_route(snapshot, query).map_err(LimitFailure::NoKey)?;
    match counting.grant(query.key.as_deref(), query.route.as_deref(), amount) {
        Ok(()) => one(snapshot, counted, policy, query),
        Err(NotReset::NoKey(no_key)) => Err(LimitFailure::NoKey(no_key)),
        Err(NotReset::Full) => Err(LimitFailure::Full),
        Err(NotReset::Away) => Err(LimitFailure::Away),
    }
}

/// Waits until what has changed of a quota outlives the process; whether it does.
pub async fn quota_is_written(snapshot: &Snapshot, policy: &str) -> bool {
    match find(snapshot, Counted::Quotas, policy) {
        Ok((_, counting)) => counting.is_written().await,
        Err(_) => true,
    }
}

fn limits(
    snapshot: &Snapshot,
    counted: Counted,
) -> impl Iterator<Item = (&Compiled, &dyn Counting)> {
    let of_kind = move |policy: &&std::sync::Arc<Compiled>| {
        (policy.kind == "quota") == (counted == Counted::Quotas)
    };
    snapshot
        .counting
        .iter()
        .filter(of_kind)
        .filter_map(|policy| {
            let counting = policy.hooks.counting.as_deref()?;
            Some((&**policy, counting))
        })
}

fn find<'a>(
    snapshot: &'a Snapshot,
    counted: Counted,
    place: &str,
) -> Result<(&'a Compiled, &'a dyn Counting), LimitFailure> {
    let mut all = limits(snapshot, counted);
    all.find(|(policy, _)| *policy.place == *place)
        .ok_or_else(|| {
            // the first of many: who has asked for one that there is not wants to see what they are called
            let known: Vec<&str> = limits(snapshot, counted)
                .take(10)
                .map(|(policy, _)| &*policy.place)
                .collect();
            LimitFailure::None(match known.as_slice() {
                [] => format!("there are no {}s", counted.name()),
                known => format!(
                    "there is no such {}; there are {}",
                    counted.name(),
                    known.join(", ")
                ),
            })
        })
}

/// A slip in a route's name would show a key at which nothing counts, or let that one begin anew.
fn check_route(snapshot: &Snapshot, query: &KeyQuery) -> Result<(), String> {
    match &query.route {
        Some(name) if snapshot.routes.iter().all(|route| *route.name != **name) => {
            Err(format!("there is no route `{name}`"))
        }
        _ => Ok(()),
    }
}

fn standing(
    snapshot: &Snapshot,
    counting: &dyn Counting,
    query: &KeyQuery,
) -> Result<KeyStatus, String> {
    check_route(snapshot, query)?;
    counting.standing(query.key.as_deref(), query.route.as_deref())
}

/// What is said of a limit.
fn status(policy: &Compiled, counting: &dyn Counting, standing: Option<KeyStatus>) -> LimitStatus {
    LimitStatus {
        policy: policy.place.to_string(),
        mode: policy.mode.as_str().to_owned(),
        overview: counting.overview(),
        standing,
    }
}
