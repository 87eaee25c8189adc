//! What stands in a match and cannot make a difference: an oversight, or a spelling of something else.

use super::pattern::PathPattern;
use super::predicate::{Predicates, decoded_path};
use super::spec::{Match, Not, each};
use super::who::Written;
use std::collections::BTreeSet;
use std::fmt::Display;

/// What is wrong with a match by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oversight {
    pub message: String,
    pub hint: &'static str,
}

impl Match {
    /// All that could be left out of it without a change, and what can never hold.
    pub fn oversights(&self) -> Vec<Oversight> {
        let mut found = Vec::new();
        found.extend(repeated("listener", each(&self.listener)));
        found.extend(repeated("host", each(&self.host)));
        let paths = each(&self.path).iter();
        let decoded = paths.map(|path| decoded_path(&path.to_string()).into_owned());
        found.extend(repeated("path", &decoded.collect::<Vec<_>>()));
        found.extend(repeated("method", each(&self.method)));
        found.extend(repeated("client_address", each(&self.client_address)));
        found.extend(repeated("grpc", each(&self.grpc)));
        for not in each(&self.not) {
            found.extend(repeated("method", each(&not.method)));
            found.extend(repeated("client_address", each(&not.client_address)));
            found.extend(repeated("grpc", each(&not.grpc)));
        }
        let nots = each(&self.not).iter().map(Written::of_not);
        for written in std::iter::once(Written::of(self)).chain(nots) {
            for (key, names) in written.names() {
                found.extend(repeated(key, names));
            }
        }
        if each(&self.not).contains(&Not::default()) {
            found.push(Oversight {
                message: "a `not` without conditions excludes every request".to_owned(),
                hint: "write what must not hold, or leave `not` out",
            });
        }
        found.extend(self.unreachable());
        found
    }

    /// Paths that the expression beside them never lets through. Of those with parameters nothing is said.
    fn unreachable(&self) -> Vec<Oversight> {
        let Some(regex) = &self.path_regex else {
            return Vec::new();
        };
        let paths = each(&self.path).iter();
        let exact = paths.filter_map(|path| Some((path, path.only()?)));
        let never = exact.filter(|(_, decoded)| !regex.is_match(decoded.as_bytes()));
        never
            .map(|(path, _)| Oversight {
                message: format!("`path_regex: {regex}` never holds for the path `{path}`"),
                hint: "both have to hold, and the expression is for the whole path: one is enough",
            })
            .collect()
    }

    /// Whether it says anything besides the listener, the host and the path.
    pub fn has_conditions(&self) -> bool {
        Predicates::of(self).count() > 0
    }
}

/// What stands in a list more than once, each told once.
fn repeated<T: Display>(key: &'static str, items: &[T]) -> Vec<Oversight> {
    let mut seen = BTreeSet::new();
    let texts = items.iter().map(ToString::to_string);
    let again: BTreeSet<String> = texts.filter(|text| !seen.insert(text.clone())).collect();
    let told = again.into_iter().map(|text| Oversight {
        message: format!("`{key}` names `{text}` twice"),
        hint: "once is enough: remove one, or write what the other should be",
    });
    told.collect()
}

impl PathPattern {
    /// The only path that fits, decoded as expressions see it; none where there are more.
    fn only(&self) -> Option<String> {
        if self.subtree || self.captures().next().is_some() {
            return None;
        }
        Some(decoded_path(&self.to_string()).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str) -> Vec<String> {
        let read: Match = serde_json::from_str(json).unwrap();
        let found = read.oversights().into_iter();
        found.map(|oversight| oversight.message).collect()
    }

    #[test]
    fn what_makes_no_difference_is_found() {
        for (json, part) in [
            (r#"{"path":["/a","/b","/a"]}"#, "`path` names `/a` twice"),
            (r#"{"path":["/a","/%61"]}"#, "`path` names `/a` twice"),
            (r#"{"host":["a.com","A.com"]}"#, "`host` names `a.com`"),
            (r#"{"method":["GET","GET"]}"#, "`method` names `GET` twice"),
            (r#"{"not":{"method":["PUT","PUT"]}}"#, "names `PUT` twice"),
            (
                r#"{"consumer":["a","b","a"]}"#,
                "`consumer` names `a` twice",
            ),
            (r#"{"not":{"group":["a","a"]}}"#, "`group` names `a` twice"),
            (r#"{"path":"/a","not":{}}"#, "excludes every request"),
            (
                r#"{"path":"/a","path_regex":"/b"}"#,
                "never holds for the path `/a`",
            ),
            (r#"{"path":["/b","/a"],"path_regex":"/b"}"#, "the path `/a`"),
        ] {
            let found = found(json);
            assert!(
                found.len() == 1 && found[0].contains(part),
                "{json} {found:?}"
            );
        }
    }

    #[test]
    fn what_makes_a_difference_is_not() {
        for json in [
            r#"{"path":["/a","/a/"],"path_regex":"/a/?"}"#,
            r#"{"path":"/a%40b","path_regex":"/a@b"}"#,
            r#"{"path":"/a%2Fb","path_regex":"/a%2Fb"}"#,
            r#"{"path":"/{id}","path_regex":"/[0-9]+"}"#,
            r#"{"path":"/a/**","path_regex":"/b"}"#,
            r#"{"path":["/{a}/x","/{b}/x"],"not":{"method":"GET"}}"#,
        ] {
            assert_eq!(found(json), Vec::<String>::new(), "{json}");
        }
    }
}
