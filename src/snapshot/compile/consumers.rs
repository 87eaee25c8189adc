//! The consumers, with the plans that they name.

use super::{Compiler, policies};
use crate::diagnostic::Diagnostic;
use crate::exchange::caller::{self, IdentityFields};
use crate::exchange::client::{self, Writer};
use crate::identity::{Consumer, Consumers};
use crate::units::{HeaderNameText, Name, Spanned};
use http::HeaderName;
use std::sync::Arc;

/// Resolves the consumers, for everything that is compiled after them.
pub fn compile(compiler: &mut Compiler<'_>) {
    let config = compiler.config;
    let mut consumers = Vec::new();
    for (name, written) in &config.consumers {
        if written.plan.is_none() && written.groups.is_none() && written.credentials.is_none() {
            let message = format!("nothing is said about consumer `{}`", name.as_str());
            let hint = "give it a `plan`, `groups` or `credentials`; consumers that tokens name need no entry";
            compiler.report(Diagnostic::error(message, name.span()).hint(hint));
        }
        if let Some(plan) = &written.plan {
            check_plan(compiler, plan);
        }
        let groups = written.groups.as_ref();
        consumers.push(Consumer {
            name: name.as_str().into(),
            plan: written.plan.as_ref().map(|plan| plan.as_str().into()),
            groups: groups.map(|groups| groups.iter().map(|group| group.as_str().into()).collect()),
        });
    }
    if let Some(plan) = &config.default_plan {
        check_plan(compiler, plan);
    }
    let plans = policies::declared_plans(config);
    compiler.consumers = Arc::new(Consumers::new(consumers, plans));
}

/// What the headers are called that tell endpoints who calls.
pub fn identity_fields(compiler: &mut Compiler<'_>) -> IdentityFields {
    let written = &compiler.config.identity_headers;
    let mut names: Vec<HeaderName> = Vec::new();
    let mut name = |field: &Option<Spanned<HeaderNameText>>| {
        let text = field.as_ref()?;
        let header = text.name().clone();
        let error = if client::is_lookalike(&header) {
            Some(format!(
                "`{header}` can't tell who calls: to many servers it is the same as `{}`, which clients may write",
                header.as_str().replace(['_', '.'], "-")
            ))
        } else if client::writer_of(header.as_str()) == Writer::Proxy
            || crate::policy::headers::is_reserved(&header)
            || caller::OF_CLIENTS.contains(&header)
        {
            Some(format!(
                "`{header}` can't tell who calls: it has another meaning"
            ))
        } else if names.contains(&header) {
            Some(format!("`{header}` is given to two of them"))
        } else {
            None
        };
        if let Some(error) = error {
            compiler
                .diagnostics
                .push(Diagnostic::error(error, text.span()).hint("choose another name"));
        }
        names.push(header.clone());
        Some(header)
    };
    IdentityFields::new(
        name(&written.consumer),
        name(&written.plan),
        name(&written.subject),
        name(&written.scopes),
    )
}

/// Clients write none of the fields that policies write because of who calls, as far as these are not where they send
/// their credentials.
pub fn protect(compiler: &mut Compiler<'_>, fields: &mut IdentityFields) {
    let written = &compiler.config.identity_headers;
    for name in [
        &written.consumer,
        &written.plan,
        &written.subject,
        &written.scopes,
    ] {
        let Some(name) = name else { continue };
        if compiler.carriers.contains(name.name()) {
            let message = format!(
                "`{}` can't tell who calls: clients send their credentials in it",
                name.name()
            );
            compiler
                .diagnostics
                .push(Diagnostic::error(message, name.span()).hint("choose another name"));
        }
    }
    let told = compiler.told.difference(&compiler.carriers);
    fields.protect(told.cloned());
}

fn check_plan(compiler: &mut Compiler<'_>, plan: &Spanned<Name>) {
    let plans = &compiler.config.plans;
    if plans.get(plan.as_str()).is_some() || compiler.is_broken("plans", plan.as_str()) {
        return;
    }
    let message = format!("there is no plan `{}`", plan.as_str());
    let diagnostic =
        Diagnostic::error(message, plan.span()).hint("declare it: `plans: {name: {}}`");
    compiler.report(diagnostic.did_you_mean(plan.as_str(), plans.names()));
}
