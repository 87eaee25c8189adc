//! The conditions of a `when` on who calls (design 3.3): what a verified credential said. They hold for nobody as long as
//! nobody is known, and are no part of a route's match, which is chosen before anybody is asked.

use super::spec::{Match, Not, each};
use crate::exchange::View;
use crate::identity::Wanted;
use crate::units::{OneOrMany, Span, Spanned};
use std::collections::BTreeMap;
use std::fmt;

/// Names, one of which is enough.
pub(super) type Names = Option<Spanned<OneOrMany<String>>>;

/// Claims by their paths.
pub(super) type Claims = Option<Spanned<BTreeMap<String, Wanted>>>;

/// One condition on who calls. Compiled once; a request is compared and nothing is allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Consumer(Box<[Box<str>]>),
    Plan(Box<[Box<str>]>),
    /// Who is in several groups needs one of them.
    Group(Box<[Box<str>]>),
    Credential(Box<[Box<str>]>),
    Claim(Box<str>, Wanted),
}

impl Who {
    pub(super) fn holds(&self, view: View<'_>) -> bool {
        let Some(identity) = view.facts.identity.as_deref() else {
            return false;
        };
        let one = |names: &[Box<str>], name: Option<&str>| {
            name.is_some_and(|name| names.iter().any(|known| **known == *name))
        };
        match self {
            Who::Consumer(names) => one(names, identity.consumer.as_deref()),
            Who::Plan(names) => one(names, identity.plan.as_deref()),
            Who::Credential(names) => one(names, identity.credential.as_deref()),
            Who::Group(names) => {
                let mut groups = identity.groups.iter();
                groups.any(|group| one(names, Some(&**group)))
            }
            Who::Claim(path, wanted) => identity
                .claim(path)
                .is_some_and(|claim| wanted.is_held_by(claim)),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Consumer(names) => write!(f, "the consumer is one of {}", names.join(", ")),
            Who::Plan(names) => write!(f, "the plan is one of {}", names.join(", ")),
            Who::Group(names) => write!(f, "one of the groups is {}", names.join(", ")),
            Who::Credential(names) => write!(f, "the credential is one of {}", names.join(", ")),
            Who::Claim(path, wanted) => {
                write!(f, "the claim `{path}` holds {}", wanted.values().join(", "))
            }
        }
    }
}

/// What is written about who calls, in a match or in its `not`.
pub(super) struct Written<'m> {
    names: [(&'static str, &'m Names); 4],
    claim: &'m Claims,
}

impl<'m> Written<'m> {
    pub(super) fn of(one: &'m Match) -> Self {
        Self {
            names: [
                ("consumer", &one.consumer),
                ("plan", &one.plan),
                ("group", &one.group),
                ("credential", &one.credential),
            ],
            claim: &one.claim,
        }
    }

    pub(super) fn of_not(not: &'m Not) -> Self {
        Self {
            names: [
                ("consumer", &not.consumer),
                ("plan", &not.plan),
                ("group", &not.group),
                ("credential", &not.credential),
            ],
            claim: &not.claim,
        }
    }

    /// The lists of names, with their keys.
    pub(super) fn names(&self) -> impl Iterator<Item = (&'static str, &'m [String])> {
        let written = self.names.into_iter();
        written.filter_map(|(key, names)| Some((key, &*names.as_ref()?.value().0)))
    }

    /// The conditions.
    pub(super) fn compiled(&self) -> Vec<Who> {
        let mut all = Vec::new();
        for (key, names) in self.names() {
            let names = names.iter().map(|name| name.as_str().into()).collect();
            all.push(match key {
                "consumer" => Who::Consumer(names),
                "plan" => Who::Plan(names),
                "group" => Who::Group(names),
                _ => Who::Credential(names),
            });
        }
        let claims = self.claim.iter().flat_map(|claims| claims.value());
        all.extend(claims.map(|(path, wanted)| Who::Claim(path.as_str().into(), wanted.clone())));
        all
    }

    /// The first of the keys that is written, and where.
    fn first(&self) -> Option<(&'static str, Span)> {
        let names = self.names.into_iter();
        let mut names =
            names.filter_map(|(key, names)| names.as_ref().map(|names| (key, names.span())));
        let claim = || self.claim.as_ref().map(|claim| ("claim", claim.span()));
        names.next().or_else(claim)
    }
}

impl Match {
    /// The first condition on who calls, by its key and place; none if there is none, be it in its `not`.
    pub fn asks_who(&self) -> Option<(&'static str, Span)> {
        let nots = each(&self.not).iter().map(Written::of_not);
        let mut all = std::iter::once(Written::of(self)).chain(nots);
        all.find_map(|written| written.first())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;
    use crate::identity::Identity;
    use crate::router::Matcher;
    use serde_json::json;
    use std::sync::Arc;

    fn identity() -> Identity {
        Identity {
            method: "jwt",
            consumer: Some("acme".into()),
            plan: Some("gold".into()),
            credential: Some("t-1".into()),
            groups: Arc::new(["clerks".into(), "partners".into()]),
            claims: Some(Arc::new(
                json!({"tier": "gold", "level": 3, "realm": {"roles": ["a", "b"]}, "realm.id": "x"})
                    .as_object()
                    .unwrap()
                    .clone(),
            )),
            ..Identity::default()
        }
    }

    fn fits(json: &str, identity: Option<Identity>) -> bool {
        let mut sample = Sample::get("/a");
        sample.facts.identity = identity.map(Arc::new);
        Matcher::new(&[serde_json::from_str(json).unwrap()]).matches(sample.view())
    }

    #[test]
    fn whoever_it_is_about_fits_and_nobody_is_nobody() {
        for json in [
            r#"{"consumer":"acme"}"#,
            r#"{"consumer":["x","acme"],"path":"/a"}"#,
            r#"{"plan":"gold"}"#,
            r#"{"group":["x","partners"]}"#,
            r#"{"credential":"t-1"}"#,
            r#"{"claim":{"tier":"gold","level":3}}"#,
            r#"{"claim":{"realm.roles":["z","b"],"realm.id":"x"}}"#,
            r#"{"claim":{"realm.roles":{"all":["a","b"]}}}"#,
            r#"{"consumer":"acme","not":{"plan":"free"}}"#,
        ] {
            assert!(fits(json, Some(identity())), "{json}");
            assert!(!fits(json, None), "{json}");
            assert!(!fits(json, Some(Identity::default())), "{json}");
        }
        for json in [
            r#"{"consumer":"Acme"}"#,
            r#"{"consumer":"acme","path":"/b"}"#,
            r#"{"plan":"free"}"#,
            r#"{"group":"partner"}"#,
            r#"{"credential":"t-2"}"#,
            r#"{"claim":{"tier":"gold","level":4}}"#,
            r#"{"claim":{"realm.roles":{"all":["a","z"]}}}"#,
            r#"{"claim":{"realm":"roles"}}"#,
            r#"{"consumer":"acme","not":{"plan":"gold"}}"#,
        ] {
            assert!(!fits(json, Some(identity())), "{json}");
        }
    }

    #[test]
    fn a_not_holds_for_everybody_else_and_for_nobody() {
        let not = r#"{"not":{"consumer":"acme","plan":"gold"}}"#;
        assert!(!fits(not, Some(identity())));
        let free = Identity {
            plan: Some("free".into()),
            ..identity()
        };
        assert!(fits(not, Some(free)));
        assert!(fits(not, None));
        let list = r#"{"not":[{"consumer":"acme"},{"plan":"free"}]}"#;
        assert!(!fits(list, Some(identity())) && fits(list, None));
    }

    #[test]
    fn it_is_known_what_asks_who_calls() {
        let of = |json: &str| -> Match { serde_json::from_str(json).unwrap() };
        for (json, asks, needs) in [
            (r#"{"path":"/a"}"#, None, false),
            (r#"{"path":"/a","plan":"gold"}"#, Some("plan"), true),
            (r#"{"claim":{"a":"b"}}"#, Some("claim"), true),
            (
                r#"{"not":[{"method":"GET"},{"claim":{"a":"b"}}]}"#,
                Some("claim"),
                false,
            ),
        ] {
            assert_eq!(of(json).asks_who().map(|(key, _)| key), asks, "{json}");
            let matcher = Matcher::new(&[of(json)]);
            assert_eq!(matcher.needs_an_identity(), needs, "{json}");
        }
    }
}
