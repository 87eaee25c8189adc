//! A group's match and that of one of its routes, put together (design 3.3): the route inherits what it does not write,
//! and what it writes has to lie inside the group's.

use super::pattern::{HostPattern, PathPattern};
use super::spec::{Match, each};
use super::value::ValueMatch;
use crate::units::OneOrMany;
use std::collections::BTreeMap;
use std::fmt;

/// Why a route does not fit into its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConflict {
    /// Which of the route's matches.
    pub matcher: usize,
    pub message: String,
    pub hint: Option<String>,
}

/// The matches of a route inside a group: each of its own with each of the group's that it lies in.
///
/// # Errors
/// A host and path of the route that lie in none of the group's matches, or a predicate that contradicts the group's.
pub fn combine(group: &[Match], route: &[Match]) -> Result<Vec<Match>, GroupConflict> {
    if route.is_empty() {
        return Ok(group.to_vec());
    }
    if group.is_empty() {
        return Ok(route.to_vec());
    }
    let mut combined = Vec::new();
    for (matcher, own) in route.iter().enumerate() {
        let conflict = |outside: Outside| GroupConflict {
            matcher,
            message: outside.0,
            hint: Some(outside.1),
        };
        combined.extend(inside(group, own).map_err(conflict)?);
    }
    Ok(combined)
}

/// What lies outside, and a hint.
struct Outside(String, String);

/// One match of the route inside the group's.
fn inside(group: &[Match], own: &Match) -> Result<Vec<Match>, Outside> {
    let mut first_conflict = None;
    let mut fitting = Vec::new();
    for outer in group {
        match conjunction(outer, own) {
            Ok(both) => fitting.push((outer, both)),
            Err(outside) => drop(first_conflict.get_or_insert(outside)),
        }
    }
    if let (true, Some(outside)) = (fitting.is_empty(), first_conflict) {
        return Err(outside);
    }
    check_covered(fitting.iter().map(|(outer, _)| *outer), own)?;
    Ok(fitting.into_iter().map(|(_, both)| both).collect())
}

/// Every host of the route together with every path has to lie in one of the group's matches.
fn check_covered<'m>(
    group: impl Iterator<Item = &'m Match> + Clone,
    own: &Match,
) -> Result<(), Outside> {
    let holds = |outer: &Match, host: Option<&HostPattern>, path: Option<&PathPattern>| {
        host.is_none_or(|host| lies_in(each(&outer.host), host, HostPattern::contains))
            && path.is_none_or(|path| lies_in(&outer.paths(), path, PathPattern::contains))
    };
    let own_paths = own.paths();
    for host in or_none(each(&own.host)) {
        for path in or_none(&own_paths) {
            if !group.clone().any(|outer| holds(outer, host, path)) {
                return Err(outside_group(host, path));
            }
        }
    }
    Ok(())
}

/// The items, or once none.
fn or_none<T>(items: &[T]) -> impl Iterator<Item = Option<&T>> {
    items
        .iter()
        .map(Some)
        .chain(items.is_empty().then_some(None))
}

fn outside_group(host: Option<&HostPattern>, path: Option<&PathPattern>) -> Outside {
    let what = match (host, path) {
        (Some(host), Some(path)) => format!("`{host}{path}` lies"),
        (Some(host), None) => format!("the host `{host}` lies"),
        (None, Some(path)) => format!("the path `{path}` lies"),
        (None, None) => "the match lies".to_owned(),
    };
    Outside(
        format!("{what} outside the `match` of the group"),
        "routes of a group write whole paths, inside the group's; or move it out of the group"
            .to_owned(),
    )
}

/// Whether an item is inside one of the outer ones; none stand for everything.
fn lies_in<T>(outer: &[T], item: &T, contains: impl Fn(&T, &T) -> bool) -> bool {
    outer.is_empty() || outer.iter().any(|outer| contains(outer, item))
}

/// What both matches ask for; of the route's hosts and paths those that lie in this match of the group.
fn conjunction(outer: &Match, own: &Match) -> Result<Match, Outside> {
    let own_paths = own.paths();
    let outer_paths = outer.paths();
    let path = narrowed(&outer_paths, &own_paths, PathPattern::contains)
        .ok_or_else(|| outside_group(None, own_paths.first()))?;
    let host = narrowed(each(&outer.host), each(&own.host), HostPattern::contains)
        .ok_or_else(|| outside_group(each(&own.host).first(), None))?;
    Ok(Match {
        host,
        // those of gRPC methods follow from `grpc`
        path: path.filter(|_| own.path.is_some() || own.grpc.is_none() && outer.path.is_some()),
        listener: all_inside(
            "listener",
            each(&outer.listener),
            each(&own.listener),
            |outer, own| outer == own,
        )?,
        method: all_inside(
            "method",
            each(&outer.method),
            each(&own.method),
            |outer, own| outer == own || outer.as_str() == "GET" && own.as_str() == "HEAD",
        )?,
        client_address: all_inside(
            "client_address",
            each(&outer.client_address),
            each(&own.client_address),
            |outer, own| outer.0.contains(&own.0),
        )?,
        grpc: all_inside("grpc", each(&outer.grpc), each(&own.grpc), |outer, own| {
            outer.contains(own)
        })?,
        path_regex: match (&outer.path_regex, &own.path_regex) {
            (Some(outer), Some(own)) if outer != own => return Err(twice("path_regex", "")),
            (outer, own) => own.as_ref().or(outer.as_ref()).cloned(),
        },
        header: both("header", &outer.header, &own.header)?,
        query: both("query", &outer.query, &own.query)?,
        cookie: both("cookie", &outer.cookie, &own.cookie)?,
        not: one_or_many(
            each(&outer.not)
                .iter()
                .chain(each(&own.not))
                .cloned()
                .collect(),
        ),
        // no match of a route or group asks who calls
        consumer: None,
        plan: None,
        group: None,
        credential: None,
        claim: None,
    })
}

fn one_or_many<T>(items: Vec<T>) -> Option<OneOrMany<T>> {
    (!items.is_empty()).then_some(OneOrMany(items))
}

/// The route's items that lie inside, or the group's where the route has none. None when all of the route's lie outside.
fn narrowed<T: Clone>(
    outer: &[T],
    own: &[T],
    contains: impl Fn(&T, &T) -> bool,
) -> Option<Option<OneOrMany<T>>> {
    if own.is_empty() {
        return Some(one_or_many(outer.to_vec()));
    }
    let inside: Vec<T> = own
        .iter()
        .filter(|own| lies_in(outer, own, &contains))
        .cloned()
        .collect();
    one_or_many(inside).map(Some)
}

/// Of predicates, all of the route's have to lie inside.
fn all_inside<T: Clone + fmt::Display>(
    key: &str,
    outer: &[T],
    own: &[T],
    contains: impl Fn(&T, &T) -> bool,
) -> Result<Option<OneOrMany<T>>, Outside> {
    match own.iter().find(|own| !lies_in(outer, own, &contains)) {
        Some(own) => Err(Outside(
            format!("`{key}: {own}` contradicts the `{key}` of the group"),
            "a route of a group can only take less than the group does".to_owned(),
        )),
        None => Ok(one_or_many(if own.is_empty() {
            outer.to_vec()
        } else {
            own.to_vec()
        })),
    }
}

/// The values of both by name; a name in both has to have the same value.
fn both<K: Clone + Ord + fmt::Display>(
    key: &str,
    outer: &BTreeMap<K, ValueMatch>,
    own: &BTreeMap<K, ValueMatch>,
) -> Result<BTreeMap<K, ValueMatch>, Outside> {
    let mut all = outer.clone();
    for (name, value) in own {
        if all
            .insert(name.clone(), value.clone())
            .is_some_and(|before| before != *value)
        {
            return Err(twice(key, &format!(" `{name}`")));
        }
    }
    Ok(all)
}

fn twice(key: &str, name: &str) -> Outside {
    Outside(
        format!("the group has another `{key}`{name}"),
        "leave it to the group, or move the route out of the group".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn combined(group: &str, route: &str) -> Result<String, String> {
        let read = |json: &str| -> Vec<Match> {
            match json.starts_with('[') {
                true => serde_json::from_str(json).unwrap(),
                false => vec![serde_json::from_str(json).unwrap()],
            }
        };
        let both = combine(&read(group), &read(route)).map_err(|conflict| conflict.message)?;
        Ok(serde_json::to_string(&both).unwrap())
    }

    #[test]
    fn a_route_inherits_and_narrows() {
        for (group, route, both) in [
            ("[]", r#"{"path":"/a"}"#, r#"[{"path":"/a"}]"#),
            (r#"{"path":"/a/**"}"#, "[]", r#"[{"path":"/a/**"}]"#),
            (
                r#"{"host":"*.a.com","path":"/a/**","header":{"x-a":"1"}}"#,
                r#"{"path":["/a/{id}","/a"],"method":"GET"}"#,
                r#"[{"host":"*.a.com","path":["/a/{id}","/a"],"method":"GET","header":{"x-a":"1"}}]"#,
            ),
            (
                r#"{"method":["GET","PUT"],"client_address":"10.0.0.0/8","not":{"method":"GET"}}"#,
                r#"{"method":"HEAD","client_address":"10.1.0.0/16","not":{"header":{"x":"1"}}}"#,
                r#"[{"method":"HEAD","client_address":"10.1.0.0/16","not":[{"method":"GET"},{"header":{"x":"1"}}]}]"#,
            ),
            (
                r#"[{"host":"a.com","path":"/a/**"},{"host":"b.com","path":"/b/**"}]"#,
                r#"{"path":["/a/1","/b/1"]}"#,
                r#"[{"host":"a.com","path":"/a/1"},{"host":"b.com","path":"/b/1"}]"#,
            ),
            (
                r#"[{"host":"a.com","path":"/a/**"},{"host":"b.com"}]"#,
                r#"{"path":"/a/1"}"#,
                r#"[{"host":"a.com","path":"/a/1"},{"host":"b.com","path":"/a/1"}]"#,
            ),
            (
                r#"{"path":"/a.B/**"}"#,
                r#"{"grpc":"a.B/C"}"#,
                r#"[{"grpc":"a.B/C"}]"#,
            ),
        ] {
            assert_eq!(
                combined(group, route).as_deref(),
                Ok(both),
                "{group} {route}"
            );
        }
    }

    #[test]
    fn a_route_outside_its_group_is_a_conflict() {
        for (group, route, part) in [
            (
                r#"{"path":"/a/**"}"#,
                r#"{"path":"/b"}"#,
                "the path `/b` lies outside",
            ),
            (
                r#"{"path":"/a/**"}"#,
                r#"{"path":["/a/1","/b"]}"#,
                "the path `/b` lies outside",
            ),
            (
                r#"{"host":"a.com"}"#,
                r#"{"host":"b.com"}"#,
                "the host `b.com` lies outside",
            ),
            (
                r#"[{"host":"a.com","path":"/a/**"},{"host":"b.com","path":"/b/**"}]"#,
                r#"{"host":["a.com","b.com"],"path":["/a/1","/b/1"]}"#,
                "`a.com/b/1` lies outside",
            ),
            (
                r#"{"method":"GET"}"#,
                r#"{"method":["GET","PUT"]}"#,
                "`method: PUT` contradicts",
            ),
            (
                r#"{"listener":"x"}"#,
                r#"{"listener":"y"}"#,
                "`listener: y` contradicts",
            ),
            (
                r#"{"client_address":"10.1.0.0/16"}"#,
                r#"{"client_address":"10.0.0.0/8"}"#,
                "contradicts",
            ),
            (
                r#"{"header":{"x-a":"1"}}"#,
                r#"{"header":{"x-a":"2"}}"#,
                "another `header` `x-a`",
            ),
            (
                r#"{"path_regex":"/a"}"#,
                r#"{"path_regex":"/b"}"#,
                "another `path_regex`",
            ),
            (
                r#"{"path":"/a/**"}"#,
                r#"{"grpc":"a.B/C"}"#,
                "the path `/a.B/C` lies outside",
            ),
        ] {
            let message = combined(group, route).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }
}
