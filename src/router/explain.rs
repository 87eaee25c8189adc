//! Why a request goes where it goes, for `northgate explain`: the same decision, and what the nearest others lacked.

use super::index::{Decision, Entry, Found, Place, Router, Rule, Table};
use super::pattern::Reading;
use super::predicate::Subject;
use crate::exchange::View;

/// How many other routes are told of.
const CANDIDATES_MAX: usize = 8;

/// A look-up and its reasons.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub found: Found,
    /// The patterns of the match that took the request.
    pub chosen: Option<Chosen>,
    /// The nearest other routes, the nearest first.
    pub others: Vec<Candidate>,
}

/// What took the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub route: usize,
    /// Which of the route's matches.
    pub matcher: usize,
    /// As `example.com/orders/**`.
    pub pattern: String,
}

/// A route that might have taken the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub route: usize,
    pub matcher: usize,
    pub pattern: String,
    /// Why it did not; at least one reason.
    pub reasons: Vec<String>,
}

impl Router {
    /// Looks a request up as [`Router::find`] does, and says why the nearest other routes did not take it. Slow: it may
    /// look at every host.
    pub fn explain(&self, view: View<'_>) -> Explanation {
        let subject = Subject::new(view);
        let decision = self.decide(&subject);
        let taken = match &decision {
            Decision::Taken(taken) => Some((taken.entry, taken.rule)),
            _ => None,
        };
        let mut others = Others {
            router: self,
            subject: &subject,
            taken,
            list: Vec::new(),
        };
        others.of_this_host();
        others.of_similar_paths();
        others.of_other_hosts();
        Explanation {
            chosen: taken.map(|(entry, rule)| Chosen {
                route: rule.route,
                matcher: rule.matcher,
                pattern: pattern(entry),
            }),
            others: others.list,
            found: decision.into_found(),
        }
    }
}

fn pattern(entry: &Entry) -> String {
    match &entry.host {
        Some(host) => format!("{host}{}", entry.path),
        None => entry.path.to_string(),
    }
}

/// The candidates so far.
struct Others<'r, 's> {
    router: &'r Router,
    subject: &'s Subject<'s>,
    taken: Option<(&'r Entry, &'r Rule)>,
    list: Vec<Candidate>,
}

impl<'r> Others<'r, '_> {
    /// All that fit the host and the path, in the order of the look-up.
    fn of_this_host(&mut self) {
        // where the look-up ended: what comes after it was not asked
        let mut end: Option<String> = None;
        for table in self.router.tables_for(self.subject) {
            self.of_table(table, &mut end);
        }
    }

    /// The same for one table.
    fn of_table(&mut self, table: &'r Table, end: &mut Option<String>) {
        let mut falling = false;
        // a host is chosen alone: that it has no such path sends nobody to a wider one of the same table
        let mut host_end: Option<String> = None;
        for (paths, _) in table.walk(self.subject.host()) {
            let mut walk = paths.walk(self.subject.path(), Reading::Whole);
            while let Some(place) = walk.advance() {
                self.of_place(place, end.as_deref().or(host_end.as_deref()));
                let took = place.entries.iter().find(|entry| self.is_taken(entry));
                if end.is_none() && host_end.is_none() && (took.is_some() || !place.fall_through) {
                    *end = took.or(place.entries.first()).map(pattern);
                }
                falling = true;
            }
            if end.is_none() && host_end.is_none() && !falling {
                let first = paths.values().flat_map(|place| &place.entries).next();
                host_end = first
                    .and_then(|entry| entry.host.as_ref())
                    .map(ToString::to_string);
            }
        }
    }

    fn is_taken(&self, entry: &Entry) -> bool {
        self.taken
            .is_some_and(|(taken, _)| std::ptr::eq(taken, entry))
    }

    /// Every rule of a place that fits the path; `end` is the pattern at which the look-up ended before.
    fn of_place(&mut self, place: &'r Place, end: Option<&str>) {
        for entry in &place.entries {
            let Some(rule) = self.router.rule(entry).filter(|_| !self.is_taken(entry)) else {
                continue;
            };
            let mut reasons = self.refusals(rule);
            if reasons.is_empty() {
                reasons.push(match (end, self.taken) {
                    (Some(end), _) => format!("`{end}` is narrower, and was chosen"),
                    (None, Some((_, taken))) => self.outranked(rule, taken),
                    (None, None) => {
                        "the path has `;parameters`, which servers read in different ways"
                            .to_owned()
                    }
                });
            }
            self.add(entry, rule, reasons);
        }
    }

    /// Every predicate that does not hold.
    fn refusals(&self, rule: &Rule) -> Vec<String> {
        let failed = rule
            .predicates
            .all()
            .filter(|predicate| !predicate.matches(self.subject));
        failed
            .map(|predicate| predicate.refusal(self.subject))
            .collect()
    }

    fn outranked(&self, rule: &Rule, taken: &Rule) -> String {
        let name = self
            .router
            .name(taken.route)
            .map(|name| &**name)
            .unwrap_or_default();
        if taken.route == rule.route {
            return "another match of the same route was chosen".to_owned();
        }
        match (taken.rank.0 < rule.rank.0, taken.rank.1 < rule.rank.1) {
            (true, _) => format!("`{name}` has a higher priority"),
            (false, true) => format!("`{name}` has more predicates"),
            (false, false) => format!("`{name}` comes first by name"),
        }
    }

    /// What would fit, were the path spelled a little differently.
    fn of_similar_paths(&mut self) {
        let path = self.subject.path();
        let slash = path
            .strip_suffix('/')
            .map_or_else(|| format!("{path}/"), str::to_owned);
        for similar in [slash, path.to_ascii_lowercase()] {
            if similar == path || similar.is_empty() {
                continue;
            }
            let tables = self.router.tables_for(self.subject);
            for (paths, _) in tables.flat_map(|table| table.walk(self.subject.host())) {
                let mut walk = paths.walk(&similar, Reading::Whole);
                while let Some(place) = walk.advance() {
                    self.near(place, |_| format!("the path is `{path}`, not `{similar}`"));
                }
            }
        }
    }

    /// What the path fits on other hosts, and on other listeners.
    fn of_other_hosts(&mut self) {
        let (host, path) = (self.subject.host(), self.subject.path());
        let own: Vec<&Table> = self.router.tables_for(self.subject).collect();
        let listener = &self.subject.view.facts.connection.listener.name;
        for table in self.router.tables() {
            for paths in table.values() {
                let mut walk = paths.walk(path, Reading::Whole);
                while let Some(place) = walk.advance() {
                    self.near(place, |entry| match &entry.host {
                        Some(wanted) if !wanted.matches(host) => {
                            format!("the host is `{host}`, not `{wanted}`")
                        }
                        _ if !own.iter().any(|own| std::ptr::eq(table, *own)) => {
                            format!("it is not for the listener `{listener}`")
                        }
                        _ => "a narrower host was chosen".to_owned(),
                    });
                }
            }
        }
    }

    fn near(&mut self, place: &'r Place, why: impl Fn(&Entry) -> String) {
        for entry in &place.entries {
            let Some(rule) = self.router.rule(entry).filter(|_| !self.is_taken(entry)) else {
                continue;
            };
            let reasons = std::iter::once(why(entry))
                .chain(self.refusals(rule))
                .collect();
            self.add(entry, rule, reasons);
        }
    }

    /// Each match of a route is told of once, with the reason that was found first.
    fn add(&mut self, entry: &Entry, rule: &Rule, reasons: Vec<String>) {
        let taken = self
            .taken
            .is_some_and(|(_, taken)| taken.route == rule.route && taken.matcher == rule.matcher);
        let known = self
            .list
            .iter()
            .any(|one| one.route == rule.route && one.matcher == rule.matcher);
        if !taken && !known && self.list.len() < CANDIDATES_MAX {
            let (route, matcher) = (rule.route, rule.matcher);
            self.list.push(Candidate {
                route,
                matcher,
                pattern: pattern(entry),
                reasons,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;
    use crate::router::RouteSpec;

    fn explained(routes: &[(&str, &str, bool)], sample: Sample) -> (Option<String>, Vec<String>) {
        let specs = routes.iter().map(|(name, json, fall_through)| RouteSpec {
            name: (*name).into(),
            matches: serde_json::from_str::<crate::units::OneOrMany<_>>(json)
                .unwrap()
                .0,
            priority: 0,
            fall_through: *fall_through,
        });
        let router = Router::compile(specs.collect()).unwrap();
        let explanation = router.explain(sample.view());
        let name = |route: usize| router.name(route).unwrap().to_string();
        let line = |one: &Candidate| {
            format!(
                "{} ({}): {}",
                name(one.route),
                one.pattern,
                one.reasons.join("; ")
            )
        };
        (
            explanation
                .chosen
                .map(|chosen| format!("{} ({})", name(chosen.route), chosen.pattern)),
            explanation.others.iter().map(line).collect(),
        )
    }

    #[test]
    fn the_nearest_routes_say_why_they_did_not_match() {
        let routes = [
            ("exact", r#"{"path":"/a/b"}"#, false),
            (
                "beta",
                r#"{"path":"/a/b","header":{"x-beta":"1"},"method":"PUT"}"#,
                false,
            ),
            ("param", r#"{"path":"/a/{id}"}"#, false),
            ("rest", r#"{"path":"/**"}"#, false),
            ("slash", r#"{"path":"/a/b/"}"#, false),
            ("other", r#"{"host":"other.com","path":"/a/b"}"#, false),
            ("inner", r#"{"listener":"inner","path":"/a/b"}"#, false),
            ("far", r#"{"path":"/c"}"#, false),
        ];
        let (chosen, others) = explained(&routes, Sample::get("/a/b"));
        assert_eq!(chosen.as_deref(), Some("exact (/a/b)"));
        assert_eq!(
            others,
            [
                "beta (/a/b): the method is GET, not PUT; not so: header `x-beta` is `1`",
                "param (/a/{id}): `/a/b` is narrower, and was chosen",
                "rest (/**): `/a/b` is narrower, and was chosen",
                "slash (/a/b/): the path is `/a/b`, not `/a/b/`",
                "inner (/a/b): it is not for the listener `public`",
                "other (other.com/a/b): the host is `example.com`, not `other.com`",
            ]
        );
    }

    #[test]
    fn a_chosen_host_without_the_path_is_told() {
        let routes = [
            ("named", r#"{"host":"example.com","path":"/x"}"#, false),
            ("any", r#"{"path":"/**"}"#, false),
        ];
        let (chosen, others) = explained(&routes, Sample::get("/y"));
        assert_eq!(chosen, None);
        assert_eq!(
            others,
            ["any (/**): `example.com` is narrower, and was chosen"]
        );
    }

    #[test]
    fn what_falls_through_is_followed() {
        let put = r#"{"path":"/a","method":"PUT"}"#;
        let (chosen, others) = explained(
            &[("narrow", put, true), ("wide", r#"{"path":"/**"}"#, false)],
            Sample::get("/a"),
        );
        assert_eq!(chosen.as_deref(), Some("wide (/**)"));
        assert_eq!(others, ["narrow (/a): the method is GET, not PUT"]);
        let (chosen, others) = explained(
            &[("narrow", put, false), ("wide", r#"{"path":"/**"}"#, false)],
            Sample::get("/a"),
        );
        assert_eq!(chosen, None);
        assert_eq!(others[1], "wide (/**): `/a` is narrower, and was chosen");
    }

    #[test]
    fn rank_is_told() {
        let routes = [
            (
                "one",
                r#"{"path":"/a","header":{"x-a":"1","x-b":"1"}}"#,
                false,
            ),
            (
                "two",
                r#"[{"path":"/a","header":{"x-a":"1"}},{"path":"/A"}]"#,
                false,
            ),
        ];
        let sample = Sample::get("/a").header("x-a", "1").header("x-b", "1");
        assert_eq!(
            explained(&routes, sample).1,
            ["two (/a): `one` has more predicates"]
        );
        assert_eq!(
            explained(&routes, Sample::get("/A/")).1,
            [
                "two (/A): the path is `/A/`, not `/A`",
                "one (/a): the path is `/A/`, not `/a/`",
            ][..1]
        );
    }
}
