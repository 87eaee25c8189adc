//! A match by itself: the `when` of policies and arms, and what is asked about two matches at load.

use super::pattern::{HostPattern, PathPattern};
use super::predicate::{Predicates, Subject};
use super::spec::{Match, each};
use crate::exchange::View;
use crate::exchange::fact::Fact;

/// Any of some matches, compiled.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    any: Box<[Compiled]>,
}

#[derive(Clone, Debug)]
struct Compiled {
    listeners: Box<[Box<str>]>,
    hosts: Box<[HostPattern]>,
    paths: Box<[PathPattern]>,
    predicates: Predicates,
}

impl Matcher {
    pub fn new(matches: &[Match]) -> Self {
        Self {
            any: matches.iter().map(Compiled::new).collect(),
        }
    }

    /// Whether it holds for nobody as long as nobody is known.
    pub fn needs_an_identity(&self) -> bool {
        self.any.iter().all(|one| one.predicates.need_an_identity())
    }

    /// Whether one of the matches fits as a whole. A path with `;parameters` fits when it does in either reading, so
    /// that no spelling slips past a guard.
    pub fn matches(&self, view: View<'_>) -> bool {
        let subject = Subject::new(view);
        self.any.iter().any(|one| one.matches(&subject))
    }
}

impl Compiled {
    fn new(written: &Match) -> Self {
        Self {
            listeners: each(&written.listener)
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
            hosts: each(&written.host).into(),
            paths: written.paths().into(),
            predicates: Predicates::of(written),
        }
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        let listener = &*subject.view.facts.connection.listener.name;
        any(&self.listeners, |name| **name == *listener)
            && any(&self.hosts, |host| host.matches(subject.host()))
            && any(&self.paths, |path| path.matches(subject.path()))
            && self.predicates.match_all(subject)
    }
}

/// Whether one of the items fits; no items stand for anything.
fn any<T>(items: &[T], fits: impl Fn(&T) -> bool) -> bool {
    items.is_empty() || items.iter().any(fits)
}

/// Whether a request could fit both matches. When in doubt, yes: an invariant holds for every route that might match.
pub fn may_overlap(one: &Match, other: &Match) -> bool {
    let (one, other) = (Compiled::new(one), Compiled::new(other));
    pairs(&one.listeners, &other.listeners, |one, other| one == other)
        && pairs(&one.hosts, &other.hosts, HostPattern::overlaps)
        && pairs(&one.paths, &other.paths, PathPattern::overlaps)
        && !one.predicates.exclude(&other.predicates)
}

/// The first of some facts that is a capture which not all patterns of the matches have, so that a request could lack
/// it.
pub fn uncaptured<'f>(
    matches: &[Match],
    facts: impl Iterator<Item = &'f Fact>,
) -> Option<&'f Fact> {
    let mut facts = facts;
    facts.find(|fact| match fact {
        Fact::HostCapture(name) => !matches.iter().all(|one| {
            let hosts = each(&one.host);
            !hosts.is_empty()
                && hosts
                    .iter()
                    .all(|host| host.captures().any(|known| *known == **name))
        }),
        Fact::PathCapture(name) => !matches.iter().all(|one| {
            let paths = each(&one.path);
            !paths.is_empty()
                && paths
                    .iter()
                    .all(|path| path.captures().any(|known| *known == **name))
        }),
        _ => false,
    })
}

fn pairs<T>(one: &[T], other: &[T], overlap: impl Fn(&T, &T) -> bool) -> bool {
    any(one, |one| any(other, |other| overlap(one, other)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;
    use crate::exchange::template::Template;

    fn read(json: &str) -> Match {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_matcher_takes_a_match_as_a_whole() {
        let matcher = Matcher::new(&[
            read(r#"{"host":"*.a.com","path":"/admin/**","method":"GET"}"#),
            read(r#"{"listener":"private"}"#),
        ]);
        let fits = |sample: Sample| matcher.matches(sample.view());
        assert!(fits(Sample::new("GET", "x.a.com", "/admin/1")));
        assert!(fits(Sample::new("HEAD", "x.a.com", "/admin;v=1/1")));
        assert!(!fits(Sample::new("PUT", "x.a.com", "/admin/1")));
        assert!(!fits(Sample::new("GET", "a.com", "/admin/1")));
        assert!(!fits(Sample::new("GET", "x.a.com", "/other")));
        assert!(fits(Sample::new("PUT", "b.com", "/").listener("private")));
        assert!(Matcher::new(&[read("{}")]).matches(Sample::get("/").view()));
        assert!(!Matcher::new(&[]).matches(Sample::get("/").view()));
    }

    #[test]
    fn matches_overlap_unless_they_can_not() {
        for (one, other, overlap) in [
            (r#"{"path":"/a/**"}"#, r#"{"path":"/{x}/b"}"#, true),
            (r#"{"path":"/a/**"}"#, r#"{"path":"/b/**"}"#, false),
            (r#"{"path":"/a"}"#, r#"{"path":"/a/"}"#, false),
            (r#"{"path":"/a/**"}"#, r#"{"path":"/a"}"#, true),
            (
                r#"{"host":"*.a.com"}"#,
                r#"{"host":["b.com","x.y.a.com"]}"#,
                true,
            ),
            (r#"{"host":"*.a.com"}"#, r#"{"host":"a.com"}"#, false),
            (r#"{"host":"{t}.a.com"}"#, r#"{"host":"*.b.a.com"}"#, false),
            (
                r#"{"host":"{s}.{t}.a.com"}"#,
                r#"{"host":"*.b.a.com"}"#,
                true,
            ),
            (r#"{"listener":"a"}"#, r#"{"listener":"b"}"#, false),
            (r#"{"method":"GET"}"#, r#"{"method":"PUT"}"#, false),
            (
                r#"{"method":"GET","host":"a.com"}"#,
                r#"{"path":"/a"}"#,
                true,
            ),
        ] {
            assert_eq!(
                may_overlap(&read(one), &read(other)),
                overlap,
                "{one} {other}"
            );
            assert_eq!(
                may_overlap(&read(other), &read(one)),
                overlap,
                "{other} {one}"
            );
        }
    }
    #[test]
    fn a_capture_has_to_be_in_every_pattern() {
        let matches = [
            read(r#"{"host":"{tenant}.a.com","path":["/a/{id}","/b/{id}/{part}"]}"#),
            read(r#"{"host":"{tenant}.b.com","path":"/c/{id}"}"#),
        ];
        let template = |text: &str| text.parse::<Template>().unwrap();
        let missing =
            |text: &str| uncaptured(&matches, template(text).facts()).map(ToString::to_string);
        assert_eq!(missing("{path.id} {host.tenant} {header.x} {path}"), None);
        assert_eq!(
            missing("{path.id} {path.part}").as_deref(),
            Some("path.part")
        );
        assert_eq!(missing("{host.id}").as_deref(), Some("host.id"));
    }
}
