//! `invariants`: what must hold for every route that can match, whoever writes it (design 3.4).

use super::routes::Placed;
use super::{Compiler, who};
use crate::config::model::Invariant;
use crate::diagnostic::Diagnostic;
use crate::policy::Mode;
use crate::policy::registry::{KEYS, kind_of};
use crate::policy::scope::{Effective, Entry};
use crate::router;
use crate::units::{Name, OneOrMany, Span, Spanned};

/// Checks what the invariants themselves say.
pub fn check(compiler: &mut Compiler<'_>) {
    let config = compiler.config;
    for (name, invariant) in &config.invariants.0 {
        check_kinds(compiler, invariant);
        let matches = invariant.matches.as_deref().unwrap_or_default();
        compiler.check_listeners(matches, name.span());
        compiler.check_matches(matches, name.span());
        who::check_nobody(compiler, matches, name.span(), who::INVARIANT);
        if invariant.require.is_none() && invariant.forbid.is_none() {
            let message = format!("invariant `{}` demands nothing", name.as_str());
            compiler
                .report(Diagnostic::error(message, name.span()).hint("add `require` or `forbid`"));
        }
    }
}

/// Checks a route against every invariant that concerns it.
pub fn hold(compiler: &mut Compiler<'_>, placed: &Placed<'_>, effective: &[Effective<'_>]) {
    let config = compiler.config;
    for (name, invariant) in &config.invariants.0 {
        if concerns(invariant, placed) {
            hold_one(compiler, name, invariant, placed, effective);
        }
    }
}

fn check_kinds(compiler: &mut Compiler<'_>, invariant: &Invariant) {
    let all = [&invariant.require, &invariant.forbid];
    let kinds = all.into_iter().flatten().flat_map(|kinds| &kinds.0);
    for kind in kinds.filter(|kind| kind_of(kind).is_none()) {
        let message = format!("`{}` is not a kind of policy", **kind);
        compiler.report(Diagnostic::error(message, kind.span()).did_you_mean(kind, KEYS));
    }
}

/// Whether a request exists that both the invariant and the route match.
fn concerns(invariant: &Invariant, placed: &Placed<'_>) -> bool {
    let Some(wanted) = &invariant.matches else {
        return true;
    };
    let of_group = placed
        .group
        .and_then(|(_, group)| group.matches.as_ref())
        .map(|matches| &matches.0);
    let own = placed.route.matches.as_ref().map(|matches| &matches.0);
    let combined = match (of_group, own) {
        (Some(of_group), Some(own)) => router::combine(of_group, own).unwrap_or_default(),
        (one, other) => one.or(other).cloned().unwrap_or_default(),
    };
    wanted
        .0
        .iter()
        .any(|wanted| combined.iter().any(|own| router::may_overlap(wanted, own)))
}

fn hold_one(
    compiler: &mut Compiler<'_>,
    name: &Spanned<Name>,
    invariant: &Invariant,
    placed: &Placed<'_>,
    effective: &[Effective<'_>],
) {
    for kind in kinds(&invariant.require) {
        let acts = effective
            .iter()
            .any(|one| one.written.kind.key == **kind && is_unconditional(one));
        if !acts && !is_turned_off(placed, kind) {
            let message = format!(
                "route `{}` has no `{}`, which invariant `{}` requires",
                placed.name,
                **kind,
                name.as_str()
            );
            let hint = format!(
                "add it, or write `{}: off`; one with `when` or `mode: shadow` does not count",
                **kind
            );
            compiler.report(violation(message, placed.at, name).hint(hint));
        }
    }
    for kind in kinds(&invariant.forbid) {
        if let Some(one) = effective.iter().find(|one| one.written.kind.key == **kind) {
            let message = format!(
                "route `{}` has `{}`, which invariant `{}` forbids",
                placed.name,
                **kind,
                name.as_str()
            );
            compiler.report(violation(message, one.written.key.span(), name));
        }
    }
}

fn kinds(written: &Option<OneOrMany<Spanned<String>>>) -> impl Iterator<Item = &Spanned<String>> {
    written.iter().flat_map(|kinds| &kinds.0)
}

fn violation(message: String, at: Span, name: &Spanned<Name>) -> Diagnostic {
    Diagnostic::error(message, at).related(name.span(), "the invariant is here")
}

fn is_unconditional(effective: &Effective<'_>) -> bool {
    matches!(&effective.written.entry, Entry::On(on) if on.when.is_none() && on.mode == Mode::Enforce)
}

/// Whether the route, or its group, says `off` in so many words.
pub fn is_turned_off(placed: &Placed<'_>, kind: &str) -> bool {
    let group = placed.group.map(|(_, group)| &group.policies);
    let places = [Some(&placed.route.policies), group];
    places.into_iter().flatten().any(|policies| {
        policies
            .0
            .iter()
            .any(|written| written.kind.key == kind && matches!(written.entry, Entry::Off))
    })
}
