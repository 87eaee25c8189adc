//! Conditions on who calls: where they may stand, and whether anything finds that out there.

use super::Compiler;
use super::routes::Placed;
use crate::config::model::{AccessLog, ServiceRef};
use crate::diagnostic::Diagnostic;
use crate::exchange::fact::Fact;
use crate::observe::access_log::FieldChoice;
use crate::policy::scope::Written;
use crate::policy::{KINDS, Stage};
use crate::router::Match;
use crate::units::{Span, Spanned};
use ahash::AHashMap;

/// The conditions that were met on the routes so far, by their places.
pub type Asking = AHashMap<Span, Asked>;

/// One condition on who calls, or one fact of it that is counted by.
pub struct Asked {
    /// Its key, such as `consumer`.
    key: String,
    /// The setting that it stands in.
    setting: &'static str,
    /// What it is a condition of.
    of: String,
    /// The first route on which nothing finds out who calls.
    lacking: Option<String>,
    /// Whether something does on any route.
    found_out: bool,
}

/// What a match chooses that can't ask who calls.
pub const ROUTE: &str = "a route is chosen before it is known who calls";
pub const GROUP: &str = "the routes of a group are chosen before it is known who calls";
pub const INVARIANT: &str = "an invariant concerns routes, whoever calls";

/// Reports conditions on who calls in a match that is looked at before that is known, or for nobody in particular.
pub fn check_nobody(compiler: &mut Compiler<'_>, matches: &[Match], at: Span, why: &'static str) {
    if let Some((key, place)) = matches.iter().find_map(Match::asks_who) {
        let message = format!("`{key}` can't stand here: {why}");
        let hint =
            "it is for the `when` of policies that act after `auth`, and of the arms of `split`";
        compiler.report(Diagnostic::error(message, known(place, at)).hint(hint));
    }
}

/// Reports a `when` that asks who calls where the policy acts before that is known.
pub fn check_stage(compiler: &mut Compiler<'_>, written: &Written, when: &[Match]) {
    let kind = written.kind;
    if written.stage() > Stage::Authenticate {
        return;
    }
    if let Some((key, place)) = when.iter().find_map(Match::asks_who) {
        let message = format!(
            "`{key}` can't stand in the `when` of `{}`, which acts before it is known who calls",
            kind.key
        );
        let later = KINDS
            .iter()
            .filter(|kind| kind.stage > Stage::Authenticate && kind.conditional);
        let later: Vec<String> = later.map(|kind| format!("`{}`", kind.key)).collect();
        let hint = match kind.stage > Stage::Authenticate {
            true => "it does because of `before: auth`".to_owned(),
            false => format!("{} act after `auth`", later.join(", ")),
        };
        let at = known(place, written.key.span());
        compiler.report(Diagnostic::error(message, at).hint(hint));
    }
}

/// Notes the conditions of one `when` that acts on a route.
pub fn note(
    compiler: &mut Compiler<'_>,
    when: &[Match],
    of: &Spanned<Box<str>>,
    route: &str,
    found_out: bool,
) {
    for (key, place) in when.iter().filter_map(Match::asks_who) {
        let at = known(place, of.span());
        note_one(compiler, (key, "when"), at, of, route, found_out);
    }
}

/// Notes the facts of who calls that a policy counts by on a route.
pub fn note_counted(
    compiler: &mut Compiler<'_>,
    counts_by: &[Spanned<Fact>],
    of: &Spanned<Box<str>>,
    route: &str,
    found_out: bool,
) {
    for fact in counts_by.iter().filter(|fact| fact.is_of_identity()) {
        let key = fact.to_string();
        // what nobody has written stands for the whole policy
        let setting = if fact.span() == of.span() { "" } else { "by" };
        note_one(compiler, (&key, setting), fact.span(), of, route, found_out);
    }
}

/// Notes a policy that lets plans go first on a route.
pub fn note_ranked(
    compiler: &mut Compiler<'_>,
    at: Span,
    of: &Spanned<Box<str>>,
    route: &str,
    found_out: bool,
) {
    note_one(compiler, ("plan", "priority"), at, of, route, found_out);
}

fn note_one(
    compiler: &mut Compiler<'_>,
    (key, setting): (&str, &'static str),
    at: Span,
    of: &Spanned<Box<str>>,
    route: &str,
    found_out: bool,
) {
    let asked = compiler.asking.entry(at).or_insert_with(|| Asked {
        key: key.to_owned(),
        setting,
        of: of.value().to_string(),
        lacking: None,
        found_out: false,
    });
    asked.found_out |= found_out;
    if !found_out && asked.lacking.is_none() {
        asked.lacking = Some(route.to_owned());
    }
}

/// Notes the conditions of the arms of the split that a route sends to.
pub fn note_arms(compiler: &mut Compiler<'_>, placed: &Placed<'_>, found_out: bool) {
    let of_group = placed.group.and_then(|(_, group)| group.service.as_ref());
    let Some(service) = placed.route.service.as_ref().or(of_group) else {
        return;
    };
    let config = compiler.config;
    let service = match &**service {
        ServiceRef::Inline(service) => Some(&**service),
        ServiceRef::Name(name) => config.services.get(name.as_str()),
    };
    let arms = service.and_then(|service| service.split.as_deref());
    for arm in arms.into_iter().flat_map(|arms| arms.iter()) {
        let when = arm.when.as_deref().unwrap_or_default();
        let of = Spanned::new("split".into(), arm.service.span());
        note(compiler, when, &of, &placed.name, found_out);
    }
}

/// Reports conditions on who calls that nothing ever answers: on none of the routes on which they stand.
pub fn check_answered(compiler: &mut Compiler<'_>) {
    let asking = std::mem::take(&mut compiler.asking);
    for (at, asked) in asking {
        let Asked {
            key,
            setting,
            of,
            lacking,
            ..
        } = &asked;
        let Some(route) = lacking.as_ref().filter(|_| !asked.found_out) else {
            continue;
        };
        let message = match *setting {
            "" => format!(
                "`{of}` counts by `{key}` where no `by` is written, and no `auth` finds out who calls where it acts, such as on route `{route}`"
            ),
            _ => format!(
                "`{key}` in this `{setting}` of `{of}` says nothing: no `auth` finds out who calls where it acts, such as on route `{route}`"
            ),
        };
        let hint = match *setting {
            "" | "by" => {
                "add `auth` there, or count by something else; one with `mode: shadow` tells nobody who calls"
            }
            "priority" => {
                "add `auth` there, or leave it out; one with `mode: shadow` tells nobody who calls"
            }
            _ => {
                "add `auth` there, or leave the condition out; one with `mode: shadow` tells nobody who calls"
            }
        };
        compiler.report(Diagnostic::error(message, at).hint(hint));
    }
}

/// Reports claims in the access log where nothing finds out who calls.
pub fn check_logged(compiler: &mut Compiler<'_>) {
    let config = compiler.config;
    let Some(written) = config
        .access_log
        .as_ref()
        .filter(|_| !compiler.knows_callers)
    else {
        return;
    };
    let AccessLog::On(log) = &**written else {
        return;
    };
    if let Some(claim) = log.fields.iter().flat_map(FieldChoice::claims).next() {
        let message =
            format!("`claim.{claim}` is in no line: no `auth` finds out who calls on any route");
        let hint = "add `auth`, or leave the claim out";
        compiler.report(Diagnostic::error(message, written.span()).hint(hint));
    }
}

fn known(place: Span, otherwise: Span) -> Span {
    match place.is_known() {
        true => place,
        false => otherwise,
    }
}
