//! What plans limit: compiled once, and beside the policies of every route that finds out who calls.

use super::policy;
use crate::config::Config;
use crate::config::model::Plan;
use crate::diagnostic::Diagnostic;
use crate::identity::{PlanNumber, Plans};
use crate::policy::chain::Compiled;
use crate::policy::scope::Entry;
use crate::policy::{KINDS, Stage};
use crate::snapshot::compile::Compiler;
use crate::units::{Name, Spanned};
use std::sync::Arc;

/// The plans, for whoever finds out who calls.
pub fn declared(config: &Config) -> Plans {
    let number = |plan| {
        numbered(config).find_map(|(number, other, _)| (plan == other.as_str()).then_some(number))
    };
    let names = config.plans.names();
    Plans {
        declared: names.map(|name| (name.into(), number(name))).collect(),
        default: config
            .default_plan
            .as_ref()
            .map(|plan| plan.as_str().into()),
    }
}

/// Those that limit, which alone have a number.
fn numbered(config: &Config) -> impl Iterator<Item = (PlanNumber, &Spanned<Name>, &Plan)> {
    let limiting = config.plans.iter().filter(|(_, plan)| !plan.0.is_empty());
    (0..)
        .map(PlanNumber)
        .zip(limiting)
        .map(|(number, (name, plan))| (number, name, plan))
}

/// Whether any plan limits anything.
pub fn limit(config: &Config) -> bool {
    config.plans.iter().any(|(_, plan)| !plan.0.is_empty())
}

/// The limits of all plans, in the order in which they act.
pub fn compile(compiler: &mut Compiler<'_>) -> Vec<Arc<Compiled>> {
    let mut all = Vec::new();
    for (number, name, plan) in numbered(compiler.config) {
        let place = format!("plan.{}", name.as_str());
        for written in plan.0.0.iter() {
            let (key, at) = (&**written.key, written.key.span());
            if !written.kind.of_plans {
                let kinds = KINDS.iter().filter(|kind| kind.of_plans);
                let kinds: Vec<String> = kinds.map(|kind| format!("`{}`", kind.key)).collect();
                let message = format!("a plan has no `{key}`");
                let hint = format!(
                    "it has {}; for other things, a `when` may ask for the `plan`",
                    kinds.join(", ")
                );
                compiler.report(Diagnostic::error(message, at).hint(hint));
                continue;
            }
            let Entry::On(on) = &written.entry else {
                let message = format!("there is nothing wider than a plan: no `{key}` to turn off");
                compiler.report(Diagnostic::error(message, at).hint("remove it"));
                continue;
            };
            if on.lock {
                let message = "no route can replace what a plan limits";
                let hint = "`plan: {lock: on}` in the top `policies` lets none opt out";
                compiler.report(Diagnostic::error(message, at).hint(hint));
            }
            if on.settings.stage() < Stage::Authenticate {
                let message = "whose plan it is isn't known before `auth`";
                compiler.report(Diagnostic::error(message, at).hint("remove `before: auth`"));
                continue;
            }
            all.extend(policy(compiler, &place, written, on, Some(number)));
        }
    }
    all.sort_by(|one, other| {
        one.stage
            .cmp(&other.stage)
            .then_with(|| one.place.cmp(&other.place))
    });
    all
}

/// Adds what plans limit to the policies of a route: plans are wider than anything that is written for routes.
pub fn beside(plans: &[Arc<Compiled>], mut acting: Vec<Arc<Compiled>>) -> Vec<Arc<Compiled>> {
    acting.extend(plans.iter().cloned());
    acting.sort_by_key(|policy| {
        let of_plan = policy.plan.is_some();
        (policy.stage, of_plan == policy.stage.begins_within())
    });
    acting
}

/// Reports plans that limit nobody, or that nobody has, because nothing finds out who calls where they would.
pub fn check(compiler: &mut Compiler<'_>) {
    let config = compiler.config;
    if let Some(plan) = config
        .default_plan
        .as_ref()
        .filter(|_| !compiler.knows_callers)
    {
        let message = "nobody has a plan: no `auth` finds out who calls on any route";
        compiler
            .report(Diagnostic::error(message, plan.span()).hint("add `auth`, or leave it out"));
    }
    if compiler.plans_act {
        return;
    }
    for (_, name, _) in numbered(config) {
        let message = format!(
            "plan `{}` limits nobody: on no route that finds out who calls its limits act",
            name.as_str()
        );
        let hint = "add `auth`, or remove `plan: off`";
        compiler.report(Diagnostic::error(message, name.span()).hint(hint));
    }
}
