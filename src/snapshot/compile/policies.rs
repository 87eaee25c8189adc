//! Policies, compiled once at each place where they are written, and put together for each route.

mod plans;

pub use plans::{check as check_plans, declared as declared_plans};

use super::{Compiler, routes, who};
use crate::config::Config;
use crate::config::model::Group;
use crate::diagnostic::Diagnostic;
use crate::identity::PlanNumber;
use crate::policy::chain::{Chain, Compiled};
use crate::policy::scope::{Effective, Entry, On, Written, is_out_of_plans, resolve};
use crate::policy::{CompileContext, Knowledge, Mode, Policies, Stage};
use crate::router::Matcher;
use crate::units::{Name, OneOrMany, Spanned};
use ahash::{AHashMap, AHashSet};
use std::sync::Arc;

/// The policies of one place, in the order in which they are written; nothing for `off`.
pub struct Scope<'a> {
    pub policies: &'a Policies,
    compiled: Vec<Option<Arc<Compiled>>>,
}

/// The policies of the places that routes share.
pub struct Scopes<'a> {
    /// Of all plans.
    plans: Vec<Arc<Compiled>>,
    top: Scope<'a>,
    profiles: AHashMap<&'a str, Scope<'a>>,
    groups: AHashMap<&'a str, Scope<'a>>,
}

impl<'a> Scopes<'a> {
    pub fn compile(compiler: &mut Compiler<'a>) -> Self {
        let config = compiler.config;
        let plans = plans::compile(compiler);
        let top = scope(compiler, "top", &config.policies);
        let profiles = config.profiles.0.iter().map(|(name, profile)| {
            let place = format!("profile.{}", name.as_str());
            (name.as_str(), scope(compiler, &place, &profile.policies))
        });
        let profiles = profiles.collect();
        let groups = config.groups.0.iter().map(|(name, group)| {
            let place = format!("group.{}", name.as_str());
            (name.as_str(), scope(compiler, &place, &group.policies))
        });
        let groups = groups.collect();
        Self {
            plans,
            top,
            profiles,
            groups,
        }
    }

    /// The limits of all plans.
    pub fn plans(&self) -> &[Arc<Compiled>] {
        &self.plans
    }

    /// The scopes of a route that are wider than itself, widest first.
    pub fn above(
        &self,
        compiler: &mut Compiler<'a>,
        group: Option<(&str, &Group)>,
        profiles: Option<&OneOrMany<Spanned<Name>>>,
    ) -> Vec<&Scope<'a>> {
        let mut scopes = vec![&self.top];
        if let Some((name, group)) = group {
            scopes.extend(self.groups.get(name));
            scopes.extend(self.used(compiler, group.profiles.as_ref()));
        }
        scopes.extend(self.used(compiler, profiles));
        scopes
    }

    fn used(
        &self,
        compiler: &mut Compiler<'a>,
        names: Option<&OneOrMany<Spanned<Name>>>,
    ) -> Vec<&Scope<'a>> {
        let mut found = Vec::new();
        for name in names.iter().flat_map(|names| &names.0) {
            compiler.refers_to("profile", name.as_str());
            match self.profiles.get(name.as_str()) {
                Some(scope) => found.push(scope),
                None if compiler.is_broken("profiles", name.as_str()) => {}
                None => {
                    let known: Vec<&str> = self.profiles.keys().copied().collect();
                    let diagnostic =
                        compiler.unknown("profile", name.as_str(), &known, name.span());
                    compiler.report(diagnostic);
                }
            }
        }
        found
    }
}

/// An `off` under a key that nobody writes removes nothing. It still says something where an invariant requires the
/// kind, or where a rewrite would be held to the guards of another route.
pub fn check_removals(compiler: &mut Compiler<'_>) {
    let config = compiler.config;
    let places: Vec<&Policies> = places(config).collect();
    let all = || places.iter().flat_map(|policies| policies.0.iter());
    let on: Vec<&Written> = all()
        .filter(|written| matches!(written.entry, Entry::On(_)))
        .collect();
    let keys: AHashSet<&str> = on.iter().map(|written| &**written.key.value()).collect();
    let kinds: AHashSet<&str> = on.iter().map(|written| written.kind.key).collect();
    let rewrites = routes::placed(config).any(|placed| placed.route.rewrite.is_some());
    let required = |kind: &str| {
        let mut invariants = config.invariants.iter();
        invariants.any(|(_, invariant)| {
            let kinds = invariant.require.as_deref().unwrap_or_default();
            kinds.iter().any(|required| **required == *kind)
        })
    };
    for written in on.iter().filter(|written| written.kind.key == "plan") {
        if !plans::limit(config) {
            let message = "there is nothing to be turned on: no plan limits anything";
            let hint = "plans have limits, such as `plans: {gold: {rate_limit: {limit: 1000/1m}}}`";
            compiler.report(Diagnostic::error(message, written.key.span()).hint(hint));
        }
    }
    let off = all().filter(|written| matches!(written.entry, Entry::Off));
    for written in off {
        let (key, kind) = (&**written.key.value(), written.kind.key);
        let meant = keys.contains(key)
            || required(kind)
            || (rewrites && kinds.contains(kind))
            || (key == "plan" && plans::limit(config));
        if !meant {
            let message = format!("there is no policy `{key}` to turn off");
            let of_kind = keys.iter().copied().filter(|known| known.starts_with(kind));
            compiler
                .report(Diagnostic::error(message, written.key.span()).did_you_mean(key, of_kind));
        }
    }
}

/// The policies of every place but plans.
fn places(config: &Config) -> impl Iterator<Item = &Policies> {
    let profiles = config.profiles.iter().map(|(_, profile)| &profile.policies);
    let groups = config.groups.iter().map(|(_, group)| &group.policies);
    let routes = routes::placed(config).map(|placed| &placed.route.policies);
    std::iter::once(&config.policies)
        .chain(profiles)
        .chain(groups)
        .chain(routes)
}

/// Compiles the policies of one place.
pub fn scope<'a>(compiler: &mut Compiler<'a>, place: &str, policies: &'a Policies) -> Scope<'a> {
    let compiled = policies.0.iter().map(|written| match &written.entry {
        Entry::Off => None,
        Entry::On(on) => policy(compiler, place, written, on, None),
    });
    Scope {
        policies,
        compiled: compiled.collect(),
    }
}

fn policy(
    compiler: &mut Compiler<'_>,
    place: &str,
    written: &Written,
    on: &On,
    plan: Option<PlanNumber>,
) -> Option<Arc<Compiled>> {
    let place: Arc<str> = format!("{place}/{}", &**written.key).into();
    let when = on.when.as_deref().unwrap_or_default();
    compiler.check_listeners(when, written.key.span());
    compiler.check_matches(when, written.key.span());
    who::check_stage(compiler, written, when);
    let (state, metrics) = (compiler.world.state, compiler.world.metrics);
    let mut cx = CompileContext::new(
        written.kind,
        place.clone(),
        written.key.span(),
        state,
        metrics,
        &mut *compiler,
    )
    .shadowed(on.mode == Mode::Shadow)
    .of_plan(plan.is_some());
    let hooks = match on.settings.compile(&mut cx) {
        Ok(hooks) => hooks,
        Err(diagnostic) => {
            compiler.report(diagnostic);
            return None;
        }
    };
    if on.mode == Mode::Shadow && !hooks.own_paths.is_empty() {
        let message = "what sends browsers to log in can't be shadowed";
        let hint = "nobody would be sent anywhere, and nobody would have a session";
        compiler.report(Diagnostic::error(message, written.key.span()).hint(hint));
    }
    let when = on.when.as_ref().map(|when| Matcher::new(&when.0));
    let stage = on.settings.stage();
    let compiled = Arc::new(Compiled {
        kind: written.kind.key,
        stage: plan.map_or(stage, |_| stage.of_plan()),
        hooks,
        when,
        plan,
        mode: on.mode,
        metrics: metrics.policy(&place, on.mode),
        place,
        source: compiler.sources.place(written.key.span()),
    });
    if compiled.hooks.counting.is_some() {
        compiler.counting.push(compiled.clone());
    }
    Some(compiled)
}

/// The chain of a route, from its scopes, widest first, and what decided it.
pub fn chain<'a>(
    compiler: &mut Compiler<'a>,
    scopes: &[&Scope<'a>],
    plans: &[Arc<Compiled>],
) -> (Chain, Vec<Effective<'a>>) {
    let written: Vec<&'a Policies> = scopes.iter().map(|scope| scope.policies).collect();
    let mut effective = match resolve(&written) {
        Ok(effective) => effective,
        Err(errors) => {
            compiler.diagnostics.extend(errors);
            return Default::default();
        }
    };
    // it has been heard, and does nothing itself
    effective.retain(|one| one.written.kind.key != "plan");
    let acting = effective.iter().filter_map(|one| compiled(scopes, one));
    let acting: Vec<Arc<Compiled>> = acting.collect();
    if is_out_of_plans(&written) || !finds_out_who(&effective) {
        return (Chain::new(acting), effective);
    }
    compiler.plans_act |= !plans.is_empty();
    (Chain::new(plans::beside(plans, acting)), effective)
}

/// Whether somebody who calls is known where these policies act.
pub fn finds_out_who(effective: &[Effective<'_>]) -> bool {
    let mut acting = effective.iter().filter(|one| is_enforced(one));
    acting.any(|one| one.written.kind.stage == Stage::Authenticate)
}

/// What became of it, unless it has errors.
fn compiled(scopes: &[&Scope<'_>], one: &Effective<'_>) -> Option<Arc<Compiled>> {
    scopes.get(one.scope)?.compiled.get(one.index)?.clone()
}

fn is_enforced(one: &Effective<'_>) -> bool {
    matches!(&one.written.entry, Entry::On(on) if on.mode == Mode::Enforce)
}

/// What asks who calls lets nobody pass where no `auth` finds that out.
pub fn check_identity(
    compiler: &mut Compiler<'_>,
    route: &str,
    scopes: &[&Scope<'_>],
    effective: &[Effective<'_>],
) {
    let found_out = finds_out_who(effective);
    for one in effective {
        // what acts earlier can't ask at all
        if let Entry::On(on) = &one.written.entry
            && one.written.stage() > Stage::Authenticate
        {
            let when = on.when.as_deref().unwrap_or_default();
            who::note(compiler, when, &one.written.key, route, found_out);
            if let Some(policy) = compiled(scopes, one) {
                let counts_by = &policy.hooks.counts_by;
                who::note_counted(compiler, counts_by, &one.written.key, route, found_out);
                if let Some(at) = policy.hooks.ranks_by_plan {
                    who::note_ranked(compiler, at, &one.written.key, route, found_out);
                }
            }
        }
    }
    if found_out {
        check_knowledge(compiler, route, scopes, effective);
        return;
    }
    for one in effective.iter().filter(|one| is_enforced(one)) {
        let acts = compiled(scopes, one)
            .is_some_and(|policy| policy.hooks.needs_an_identity && !policy.needs_an_identity());
        if !acts {
            continue;
        }
        let key = &one.written.key;
        let message = format!(
            "`{}` asks who calls, and on route `{route}` no `auth` finds that out: nobody would pass",
            &**key.value(),
        );
        compiler.report(
            Diagnostic::error(message, key.span())
                .hint("add `auth` there, or remove this with `off`"),
        );
    }
}

/// What asks for scopes or claims lets nobody pass where no credential has any.
fn check_knowledge(
    compiler: &mut Compiler<'_>,
    route: &str,
    scopes: &[&Scope<'_>],
    effective: &[Effective<'_>],
) {
    let acting = || effective.iter().filter(|one| is_enforced(one));
    let auths = acting().filter(|one| one.written.kind.stage == Stage::Authenticate);
    // one that has errors may find out anything
    let found: Option<Vec<Knowledge>> = auths
        .map(|one| Some(compiled(scopes, one)?.hooks.finds))
        .collect();
    let Some(found) = found else {
        return;
    };
    for one in acting() {
        let Some(policy) = compiled(scopes, one) else {
            continue;
        };
        let needs = policy.hooks.needs;
        let (scopes, claims) = (
            found.iter().any(|found| found.scopes),
            found.iter().any(|found| found.claims),
        );
        for (what, needed, known) in [
            ("scopes", needs.scopes, scopes),
            ("claims", needs.claims, claims),
        ] {
            if needed && !known {
                let key = &one.written.key;
                let message = format!(
                    "`{}` asks for {what}, and on route `{route}` no credential has any: nobody would pass",
                    &**key.value(),
                );
                let hint = "tokens have scopes and claims, certificates have claims; for others there are `consumers`, `groups` and `plans`";
                compiler.report(Diagnostic::error(message, key.span()).hint(hint));
            }
        }
    }
}
