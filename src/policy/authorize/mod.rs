//! `authorize`: what whoever calls may do, once it is known who that is. Every condition that is written has to hold;
//! policies of wider scopes act beside narrower ones.
//!
//! `consumers`, `groups` and `plans` are lists of which one is enough; of `scopes` all are needed, unless they stand
//! under `any`. A claim is named by its path and may be a text, a number, a list or a text of words; it has to hold one
//! of the values, or all of those under `all`. `expression` is CEL over the request and its identity.
//!
//! Where a token of OAuth lacks a scope, the answer says which ones are needed (RFC 6750 §3.1).
//!
//! ```yaml
//! secrets: {digests: "${env:DIGESTS:-0123456789abcdef0123456789abcdef}"}
//! consumers: {acme: {groups: clerks, credentials: {api_key: {id: acme-1, key: "${env:KEY:-0123456789abcdef0123456789}"}}}}
//! policies:
//!   auth: {api_key: on}
//!   authorize: {groups: [clerks, admins], expression: "method == 'GET' || 'admins' in groups"}
//! ```

pub mod expression;

use super::{CompileContext, Flow, Hooks, Knowledge, OnRequest, Policy, Stage, Step};
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::exchange::{Exchange, View};
use crate::identity::{Identity, Wanted};
use crate::problem::{Kind, Problem};
use crate::units::{OneOrMany, Spanned};
use expression::Expression;
use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module.
pub struct Authorize;

/// The settings of `authorize`. All that is written has to hold.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "AuthorizePolicy")]
pub struct Config {
    /// Scopes of the token, all of them, or one of those under `any`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Spanned<Wanted>>,
    /// Claims by their paths, and what they have to hold: one of these values, or all of those under `all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<Spanned<BTreeMap<String, Wanted>>>,
    /// The consumers that may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<OneOrMany<String>>,
    /// The groups that may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<OneOrMany<String>>,
    /// The plans that may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plans: Option<OneOrMany<String>>,
    /// A condition in CEL over `method`, `path`, `host`, `scheme`, `params`, `headers`, `query`, `cookies`,
    /// `client_address`, `route`, `listener`, `certificate`, `consumer`, `plan`, `groups`, `credential`, `subject`, `scopes`,
    /// `claims`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<Spanned<String>>,
}

impl Policy for Authorize {
    type Config = Config;
    const STAGE: Stage = Stage::Authorize;
    const ADDS_UP: bool = true;

    fn compile(config: &Config, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic> {
        check_words(config, cx);
        let claims = config.claims.as_ref().map(|claims| claims.value());
        let rules = Rules {
            scopes: config.scopes.as_ref().map(|wanted| wanted.value().clone()),
            claims: claims
                .into_iter()
                .flatten()
                .map(|(path, wanted)| (path.as_str().into(), wanted.clone()))
                .collect(),
            consumers: config.consumers.as_ref().map(listed),
            groups: config.groups.as_ref().map(listed),
            plans: config.plans.as_ref().map(listed),
            expression: match &config.expression {
                None => None,
                Some(text) => Some(Expression::compile(text).map_err(|error| {
                    let diagnostic = Diagnostic::error(error.message, text.span());
                    match error.hint {
                        Some(hint) => diagnostic.hint(hint),
                        None => diagnostic,
                    }
                })?),
            },
        };
        let asks = |expression: &Expression| expression.asks_for_a_certificate();
        if let Some(text) = config
            .expression
            .as_ref()
            .filter(|_| rules.expression.as_ref().is_some_and(asks))
            && !cx.asks_clients()
        {
            let message = "no client is asked for a `certificate`";
            let hint = "give a listener, or an entry of `certificates`, a `client_ca`";
            return Err(Diagnostic::error(message, text.span()).hint(hint));
        }
        if rules.is_empty() {
            let message = "`authorize` demands nothing";
            let hint = "add `scopes`, `claims`, `consumers`, `groups`, `plans` or `expression`";
            return Err(Diagnostic::error(message, cx.span()).hint(hint));
        }
        let needs = rules.needs_an_identity();
        let knowledge = Knowledge {
            scopes: rules.scopes.is_some(),
            claims: !rules.claims.is_empty(),
        };
        let mut hooks = Hooks::new().on_request(Arc::new(rules));
        hooks.needs_an_identity = needs;
        hooks.needs = knowledge;
        Ok(hooks)
    }
}

/// What would let everybody pass, or nobody.
fn check_words(config: &Config, cx: &mut CompileContext<'_>) {
    if let Some(claims) = config.claims.as_ref().filter(|claims| claims.is_empty()) {
        let message = "`claims` names none";
        let hint = "such as `claims: {tenant: acme}`";
        cx.report(Diagnostic::error(message, claims.span()).hint(hint));
    }
    if let Some(scopes) = &config.scopes {
        for scope in scopes.values() {
            if scope.is_empty()
                || scope
                    .contains(|letter: char| !letter.is_ascii_graphic() || "\"\\".contains(letter))
            {
                let message = format!(
                    "`{}` is not a scope: no token can have it",
                    scope.escape_debug()
                );
                let words: Vec<&str> = scope.split_ascii_whitespace().collect();
                let hint = match words.len() {
                    0 | 1 => "a scope is of visible ASCII, without quotes and backslashes (RFC 6749 §3.3)".to_owned(),
                    _ => format!("several are a list: `[{}]`", words.join(", ")),
                };
                cx.report(Diagnostic::error(message, scopes.span()).hint(hint));
            }
        }
    }
    // tokens may name plans that are declared nowhere, but hardly ones that are spelled nearly like one that is
    for plan in config.plans.iter().flat_map(|plans| plans.iter()) {
        let plans = cx.plans();
        if plans.contains(&plan.as_str()) {
            continue;
        }
        if let Some(meant) = did_you_mean(plan, &plans) {
            let message = format!("there is no plan `{}`", plan.escape_debug());
            let hint = format!("did you mean `{meant}`?");
            cx.report(Diagnostic::error(message, cx.span()).hint(hint));
        }
    }
}

fn listed(names: &OneOrMany<String>) -> Vec<Box<str>> {
    names.iter().map(|name| name.as_str().into()).collect()
}

struct Rules {
    scopes: Option<Wanted>,
    claims: Vec<(Box<str>, Wanted)>,
    consumers: Option<Vec<Box<str>>>,
    groups: Option<Vec<Box<str>>>,
    plans: Option<Vec<Box<str>>>,
    expression: Option<Expression>,
}

/// What did not hold: the words for the log.
enum Denied {
    Scopes,
    Other(Cow<'static, str>),
}

impl Rules {
    fn is_empty(&self) -> bool {
        self.expression.is_none() && !self.names_an_identity()
    }

    fn names_an_identity(&self) -> bool {
        self.scopes.is_some()
            || !self.claims.is_empty()
            || self.consumers.is_some()
            || self.groups.is_some()
            || self.plans.is_some()
    }

    /// Whether it can't hold for anybody as long as nobody is known.
    fn needs_an_identity(&self) -> bool {
        let by_expression = |expression: &Expression| expression.needs_an_identity();
        self.names_an_identity() || self.expression.as_ref().is_some_and(by_expression)
    }

    fn check(&self, view: View<'_>) -> Result<(), Denied> {
        let nobody = Identity::default();
        let identity = view.facts.identity.as_deref().unwrap_or(&nobody);
        let other = |text: &'static str| Err(Denied::Other(text.into()));
        let is_one = |names: &Option<Vec<Box<str>>>, name: &Option<Arc<str>>| {
            names.as_ref().is_none_or(|names| {
                name.as_deref()
                    .is_some_and(|name| names.iter().any(|known| **known == *name))
            })
        };
        if !is_one(&self.consumers, &identity.consumer) {
            return other("authorize.consumer");
        }
        if !is_one(&self.plans, &identity.plan) {
            return other("authorize.plan");
        }
        let in_group = |names: &Vec<Box<str>>| {
            let has = |group: &Arc<str>| names.iter().any(|known| **known == **group);
            identity.groups.iter().any(has)
        };
        if !self.groups.as_ref().is_none_or(in_group) {
            return other("authorize.group");
        }
        for (path, wanted) in &self.claims {
            let held = identity.claim(path);
            if !held.is_some_and(|claim| wanted.is_held_by(claim)) {
                return Err(Denied::Other(format!("authorize.claim: {path}").into()));
            }
        }
        if let Some(expression) = &self.expression {
            match expression.holds(view) {
                Ok(true) => {}
                Ok(false) => return other("authorize.expression"),
                // what can't be told is not allowed
                Err(error) => {
                    return Err(Denied::Other(
                        format!("authorize.expression: {error}").into(),
                    ));
                }
            }
        }
        // last: who lacks nothing but a scope is told how to get in
        let scoped = |wanted: &Wanted| {
            wanted.all_by_default(|scope| identity.scopes.iter().any(|held| **held == *scope))
        };
        match self.scopes.as_ref().is_none_or(scoped) {
            true => Ok(()),
            false => Err(Denied::Scopes),
        }
    }

    fn refusal(&self, view: View<'_>, denied: Denied) -> Problem {
        let problem = Problem::new(Kind::AuthorizeDenied);
        match denied {
            Denied::Other(why) => problem.source(why),
            Denied::Scopes => {
                let problem = problem.source("authorize.scope");
                let method = view.facts.identity.as_ref().map(|identity| identity.method);
                let bearer = matches!(method, Some("jwt" | "introspection"));
                match self.challenge().filter(|_| bearer) {
                    Some(challenge) => problem.header(WWW_AUTHENTICATE, challenge),
                    None => problem,
                }
            }
        }
    }

    fn challenge(&self) -> Option<HeaderValue> {
        let scopes = self.scopes.as_ref()?.values().join(" ");
        // a scope has neither quotes nor backslashes (RFC 6749 §3.3)
        let is_plain = !scopes.contains(['"', '\\']);
        let text = match is_plain {
            true => {
                format!("Bearer realm=\"api\", error=\"insufficient_scope\", scope=\"{scopes}\"")
            }
            false => "Bearer realm=\"api\", error=\"insufficient_scope\"".to_owned(),
        };
        HeaderValue::try_from(text).ok()
    }
}

impl OnRequest for Rules {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange<'_>) -> Step<'a> {
        let view = exchange.view();
        Step::Now(match self.check(view) {
            Ok(()) => Ok(Flow::Continue),
            Err(denied) => Err(self.refusal(view, denied)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;
    use serde_json::json;

    fn rules() -> Rules {
        Rules {
            scopes: None,
            claims: Vec::new(),
            consumers: None,
            groups: None,
            plans: None,
            expression: None,
        }
    }

    fn identity() -> Identity {
        Identity {
            method: "jwt",
            consumer: Some("acme".into()),
            plan: Some("gold".into()),
            groups: Arc::new(["partners".into(), "clerks".into()]),
            scopes: Arc::new(["orders:read".into(), "orders:write".into()]),
            claims: Some(Arc::new(
                json!({"tenant": "t1", "level": 3, "admin": true, "roles": ["a", "b"], "scp": "x y"})
                    .as_object()
                    .unwrap()
                    .clone(),
            )),
            ..Identity::default()
        }
    }

    /// Why not, or nothing.
    fn refused(rules: &Rules, identity: Option<Identity>) -> Option<Problem> {
        let mut sample = Sample::get("/a?x=1");
        sample.facts.identity = identity.map(Arc::new);
        let mut exchange = Exchange {
            request: &sample.request,
            facts: &mut sample.facts,
        };
        match rules.on_request(&mut exchange) {
            Step::Now(decided) => decided.err(),
            Step::Later(_) | Step::Queue(_) => panic!("it has nothing to wait for"),
        }
    }

    fn names(names: &[&str]) -> Option<Vec<Box<str>>> {
        Some(names.iter().map(|name| (*name).into()).collect())
    }

    fn values(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn every_condition_has_to_hold_and_nobody_meets_any() {
        let met: Vec<Rules> = vec![
            Rules {
                consumers: names(&["other", "acme"]),
                ..rules()
            },
            Rules {
                plans: names(&["gold"]),
                ..rules()
            },
            Rules {
                groups: names(&["clerks", "x"]),
                ..rules()
            },
            Rules {
                scopes: Some(Wanted::Plain(values(&["orders:read", "orders:write"]))),
                ..rules()
            },
            Rules {
                scopes: Some(Wanted::Any(values(&["x", "orders:write"]))),
                ..rules()
            },
            Rules {
                claims: vec![("roles".into(), Wanted::Plain(values(&["z", "b"])))],
                ..rules()
            },
            Rules {
                claims: vec![("roles".into(), Wanted::All(values(&["a", "b"])))],
                ..rules()
            },
            Rules {
                claims: vec![("level".into(), Wanted::Plain(values(&["3"])))],
                ..rules()
            },
            Rules {
                claims: vec![("admin".into(), Wanted::Plain(values(&["true"])))],
                ..rules()
            },
            Rules {
                claims: vec![("scp".into(), Wanted::Plain(values(&["y"])))],
                ..rules()
            },
        ];
        for rules in &met {
            assert!(refused(rules, Some(identity())).is_none());
            let problem = refused(rules, None).unwrap();
            assert_eq!(
                (problem.kind, problem.headers.len()),
                (Kind::AuthorizeDenied, 0)
            );
            assert!(refused(rules, Some(Identity::default())).is_some());
        }
        let unmet: Vec<(Rules, &str)> = vec![
            (
                Rules {
                    consumers: names(&["acm", "acme2"]),
                    ..rules()
                },
                "authorize.consumer",
            ),
            (
                Rules {
                    plans: names(&["Gold"]),
                    ..rules()
                },
                "authorize.plan",
            ),
            (
                Rules {
                    groups: names(&["partner"]),
                    ..rules()
                },
                "authorize.group",
            ),
            (
                Rules {
                    claims: vec![("roles".into(), Wanted::All(values(&["a", "z"])))],
                    ..rules()
                },
                "authorize.claim: roles",
            ),
            (
                Rules {
                    claims: vec![("tenant".into(), Wanted::Plain(values(&["t"])))],
                    ..rules()
                },
                "authorize.claim: tenant",
            ),
            (
                Rules {
                    claims: vec![("none".into(), Wanted::Plain(values(&["t"])))],
                    ..rules()
                },
                "authorize.claim: none",
            ),
        ];
        for (rules, why) in &unmet {
            assert_eq!(
                refused(rules, Some(identity())).unwrap().source.as_deref(),
                Some(*why)
            );
        }
    }

    #[test]
    fn who_lacks_a_scope_is_told_which_ones_are_needed() {
        let rules = Rules {
            scopes: Some(Wanted::Plain(values(&["orders:read", "admin"]))),
            ..rules()
        };
        let problem = refused(&rules, Some(identity())).unwrap();
        let (name, value) = &problem.headers[0];
        assert_eq!(name, WWW_AUTHENTICATE);
        assert_eq!(
            value,
            "Bearer realm=\"api\", error=\"insufficient_scope\", scope=\"orders:read admin\""
        );
        assert_eq!(problem.source.as_deref(), Some("authorize.scope"));
        // no token can be got for a key
        let by_key = Identity {
            method: "api_key",
            ..identity()
        };
        assert!(refused(&rules, Some(by_key)).unwrap().headers.is_empty());
    }
}
