//! What is wrong with a set of routes: two of which neither goes first, and matches that nothing can reach.
//!
//! Only rules of one place, that is of one host pattern and one path pattern, compete; so the cost is quadratic in the
//! rules of a place and linear in the places.

use super::index::{Entry, Issue, IssueKind, Router, Rule};
use super::trie::PathTrie;
use ahash::{AHashMap, AHashSet};

/// All ties and unreachable matches.
pub(super) fn issues(router: &Router) -> Vec<Issue> {
    let mut ties = AHashSet::new();
    let mut reach: AHashMap<u32, Reach> = AHashMap::new();
    let mut issues = Vec::new();
    for place in router
        .tables()
        .flat_map(|table| table.values())
        .flat_map(PathTrie::values)
    {
        for (at, entry) in place.entries.iter().enumerate() {
            let Some(rule) = router.rule(entry) else {
                continue;
            };
            let before = place.entries.get(..at).unwrap_or_default();
            for first in tied(router, before, rule) {
                let pair = (first.route.min(rule.route), first.route.max(rule.route));
                if ties.insert(pair) {
                    issues.push(tie(router, first, rule, entry));
                }
            }
            let reach = reach.entry(entry.rule).or_default();
            match shadow(router, before, rule) {
                None => reach.open = true,
                Some(by) => reach.shadowed_by = Some(by.route),
            }
        }
    }
    issues.extend(unreachable(router, &reach));
    issues
}

/// In how far the requests of a rule get to it.
#[derive(Default)]
struct Reach {
    /// At some place.
    open: bool,
    /// At some place all of them go to this route.
    shadowed_by: Option<usize>,
}

/// The rules of other routes in front of one that are of the same rank, and may take the same request.
fn tied<'r>(
    router: &'r Router,
    before: &'r [Entry],
    rule: &'r Rule,
) -> impl Iterator<Item = &'r Rule> {
    let same_rank = before
        .iter()
        .rev()
        .map_while(|entry| router.rule(entry).filter(|first| first.rank == rule.rank));
    same_rank
        .filter(|first| first.route != rule.route && !first.predicates.exclude(&rule.predicates))
}

/// A rule of another route, of higher rank, that takes all that this one could.
fn shadow<'r>(router: &'r Router, before: &'r [Entry], rule: &Rule) -> Option<&'r Rule> {
    let higher = before
        .iter()
        .filter_map(|entry| router.rule(entry))
        .filter(|first| first.rank < rule.rank);
    higher
        .filter(|first| first.route != rule.route)
        .find(|first| first.predicates.follow_from(&rule.predicates))
}

fn name(router: &Router, route: usize) -> &str {
    router.name(route).map(|name| &**name).unwrap_or_default()
}

/// The one that stands later in the list is the one that the issue is about.
fn tie(router: &Router, first: &Rule, second: &Rule, entry: &Entry) -> Issue {
    let (earlier, later) = if first.route < second.route {
        (first, second)
    } else {
        (second, first)
    };
    let at = match &entry.host {
        Some(host) => format!("`{host}{}`", entry.path),
        None => format!("`{}`", entry.path),
    };
    Issue {
        route: later.route,
        matcher: later.matcher,
        kind: IssueKind::Tie,
        other: Some(earlier.route),
        message: format!(
            "routes `{}` and `{}` tie at {at}: one request could match both",
            name(router, earlier.route),
            name(router, later.route)
        ),
        hint: Some("give one a higher `priority` or a further predicate".to_owned()),
    }
}

fn unreachable<'r>(
    router: &'r Router,
    reach: &'r AHashMap<u32, Reach>,
) -> impl Iterator<Item = Issue> + 'r {
    let rules = router.rules().iter().enumerate();
    rules.filter_map(|(at, rule)| {
        let reach = reach
            .get(&u32::try_from(at).ok()?)
            .filter(|reach| !reach.open)?;
        let by = reach.shadowed_by?;
        let (route, by_name) = (name(router, rule.route), name(router, by));
        Some(Issue {
            route: rule.route,
            matcher: rule.matcher,
            kind: IssueKind::Unreachable,
            other: Some(by),
            message: format!(
                "route `{route}` can't be reached: `{by_name}` takes every request that it matches"
            ),
            hint: Some(format!(
                "give it a higher `priority` than `{by_name}`, or another match"
            )),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::RouteSpec;

    fn issues_of(routes: &[(&str, i32)]) -> Vec<(usize, IssueKind, Option<usize>)> {
        let names = ["a", "b", "c", "d"];
        let specs = routes
            .iter()
            .zip(names)
            .map(|((json, priority), name)| RouteSpec {
                name: name.into(),
                matches: match json.starts_with('[') {
                    true => serde_json::from_str(json).unwrap(),
                    false => vec![serde_json::from_str(json).unwrap()],
                },
                priority: *priority,
                fall_through: false,
            });
        let issues = Router::compile(specs.collect()).err().unwrap_or_default();
        issues
            .into_iter()
            .map(|issue| (issue.route, issue.kind, issue.other))
            .collect()
    }

    const TIE: IssueKind = IssueKind::Tie;
    const UNREACHABLE: IssueKind = IssueKind::Unreachable;

    #[test]
    fn routes_of_one_pattern_tie_when_one_request_fits_both() {
        for (one, other) in [
            (r#"{"path":"/a"}"#, r#"{"path":"/a"}"#),
            (r#"{"path":"/a/{x}"}"#, r#"{"path":"/a/{y}"}"#),
            (r#"{"path":"/a"}"#, r#"{"path":["/b","/a"]}"#),
            (
                r#"{"path":"/a","header":{"x-a":"1"}}"#,
                r#"{"path":"/a","header":{"x-b":"1"}}"#,
            ),
            (
                r#"{"path":"/a","method":"GET"}"#,
                r#"{"path":"/a","method":"HEAD"}"#,
            ),
            (r#"{"grpc":"a.B/C"}"#, r#"{"grpc":"a.B/C"}"#),
            (
                r#"{"path":"/a","listener":"x"}"#,
                r#"{"path":"/a","listener":["y","x"]}"#,
            ),
        ] {
            let tie = issues_of(&[(one, 0), (other, 0)]);
            assert_eq!(tie, [(1, TIE, Some(0))], "{one} {other}");
            assert!(
                !issues_of(&[(one, 1), (other, 0)])
                    .iter()
                    .any(|(_, kind, _)| *kind == TIE),
                "{one} {other}"
            );
        }
    }

    #[test]
    fn routes_that_exclude_each_other_do_not_tie() {
        for (one, other) in [
            (r#"{"path":"/a"}"#, r#"{"path":"/a/"}"#),
            (r#"{"path":"/a"}"#, r#"{"path":"/{x}"}"#),
            (
                r#"{"path":"/a","method":"GET"}"#,
                r#"{"path":"/a","method":"PUT"}"#,
            ),
            (
                r#"{"path":"/a","header":{"x-v":"1"}}"#,
                r#"{"path":"/a","header":{"x-v":"2"}}"#,
            ),
            (
                r#"{"path":"/a","listener":"x"}"#,
                r#"{"path":"/a","listener":"y"}"#,
            ),
            (r#"{"path":"/a"}"#, r#"{"path":"/a","method":"GET"}"#),
            (r#"{"host":"a.com"}"#, r#"{"host":"b.com"}"#),
            (r#"{"path":"/a"}"#, r#"{"path":"/a","host":"a.com"}"#),
        ] {
            assert_eq!(issues_of(&[(one, 0), (other, 0)]), [], "{one} {other}");
        }
    }

    #[test]
    fn a_match_behind_one_that_takes_everything_is_unreachable() {
        assert_eq!(
            issues_of(&[
                (r#"{"path":"/a"}"#, 1),
                (r#"{"path":"/a","method":"GET"}"#, 0)
            ]),
            [(1, UNREACHABLE, Some(0))]
        );
        // the second match of the list is reachable, the first is not
        assert_eq!(
            issues_of(&[
                (r#"{"path":"/a"}"#, 1),
                (r#"[{"path":"/a","method":"GET"},{"path":"/b"}]"#, 0)
            ]),
            [(1, UNREACHABLE, Some(0))]
        );
        // one of its paths is
        assert_eq!(
            issues_of(&[
                (r#"{"path":"/a"}"#, 1),
                (r#"{"path":["/a","/b"],"method":"GET"}"#, 0)
            ]),
            []
        );
        // on one of the listeners
        assert_eq!(
            issues_of(&[
                (r#"{"path":"/a","listener":"x"}"#, 1),
                (r#"{"path":"/a"}"#, 0)
            ]),
            []
        );
        assert_eq!(
            issues_of(&[
                (r#"{"path":"/a","method":"PUT"}"#, 1),
                (r#"{"path":"/a"}"#, 0)
            ]),
            []
        );
    }

    #[test]
    fn a_match_without_anything_is_an_issue() {
        assert_eq!(
            issues_of(&[("{}", 0), ("[]", 0)]),
            [(0, IssueKind::Empty, None), (1, IssueKind::Empty, None)]
        );
    }

    #[test]
    fn issues_name_routes_and_patterns() {
        let spec = |name: &str| RouteSpec {
            name: name.into(),
            matches: vec![serde_json::from_str(r#"{"host":"a.com","path":"/a"}"#).unwrap()],
            priority: 0,
            fall_through: false,
        };
        let issues = Router::compile(vec![spec("one"), spec("two")]).unwrap_err();
        assert_eq!(
            issues[0].message,
            "routes `one` and `two` tie at `a.com/a`: one request could match both"
        );
    }
}
