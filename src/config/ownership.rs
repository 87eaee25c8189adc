//! What an include may hold where it has an owner's limits: routes inside its hosts and paths, so that teams can't take
//! each other's traffic.
//!
//! A host is chosen before a path is. A route for one path of a host that nobody else names would therefore take the
//! whole host from those who serve it by a wildcard. So where paths are limited, the hosts of a route must be those of
//! the include, as they stand there, and not narrower ones.

use super::load::Includes;
use super::model::{Config, Group, IncludeFields, Route};
use crate::diagnostic::{Diagnostic, Span};
use crate::router::{self, HostPattern, Match, PathPattern};
use crate::units::{Name, OneOrMany, Spanned};

/// Everything that lies outside the limits of the include that it came from.
pub(super) fn check(config: &Config, includes: &Includes) -> Vec<Diagnostic> {
    let limits = |span: Span| {
        let include = config.include.as_ref()?.get(includes.of(span.file)?)?;
        let include = &include.0;
        (include.host.is_some() || include.path.is_some()).then_some(Limits { include })
    };
    let mut found = Vec::new();
    for (name, route) in &config.routes {
        if let Some(limits) = limits(name.span()) {
            found.extend(limits.check(name, route, None));
        }
    }
    for (name, group) in &config.groups {
        if let Some(limits) = limits(name.span()) {
            let routes = group.routes.iter();
            found.extend(routes.flat_map(|(name, route)| limits.check(name, route, Some(group))));
        }
    }
    for (name, _) in &config.certificates {
        if limits(name.span()).is_some() {
            found.push(
                Diagnostic::error(
                    "an include with `host` or `path` can't hold certificates",
                    name.span(),
                )
                .code("include")
                .hint("a certificate is chosen by its names, for any route"),
            );
        }
    }
    for (name, _) in &config.consumers {
        if limits(name.span()).is_some() {
            found.push(
                Diagnostic::error(
                    "an include with `host` or `path` can't hold consumers",
                    name.span(),
                )
                .code("include")
                .hint("a consumer may call any route"),
            );
        }
    }
    found
}

/// The limits of one include.
struct Limits<'c> {
    include: &'c IncludeFields,
}

impl Limits<'_> {
    /// What of a route lies outside. A route whose match is missing or impossible is refused elsewhere.
    fn check(&self, name: &Spanned<Name>, route: &Route, group: Option<&Group>) -> Vec<Diagnostic> {
        let own = route.matches.as_ref();
        let of_group = group.and_then(|group| group.matches.as_ref());
        let span = own.or(of_group).map_or(name.span(), Spanned::span);
        let matches: Vec<Match> = match (of_group, own) {
            (None, None) => Vec::new(),
            (Some(matches), None) | (None, Some(matches)) => matches.0.clone(),
            (Some(of_group), Some(own)) => router::combine(&of_group.0, &own.0).unwrap_or_default(),
        };
        let outside = matches.iter().filter_map(|one| {
            self.host_outside(one.host.as_ref())
                .or_else(|| self.path_outside(one.path.as_ref()))
        });
        outside.map(|why| self.refusal(name, span, &why)).collect()
    }

    fn refusal(&self, name: &Spanned<Name>, span: Span, why: &str) -> Diagnostic {
        let whose = match &self.include.owner {
            Some(owner) => format!("{owner}'s files"),
            None => "its file".to_owned(),
        };
        Diagnostic::error(
            format!("route `{name}` lies outside what {whose} may hold: {why}"),
            span,
        )
        .code("include")
        .related(
            self.include
                .files
                .first()
                .map_or(Span::UNKNOWN, Spanned::span),
            "included here",
        )
    }

    /// Why a match is not inside the hosts of the include.
    fn host_outside(&self, hosts: Option<&OneOrMany<HostPattern>>) -> Option<String> {
        let Some(limits) = &self.include.host else {
            // any host is no longer any host once the route names one
            return hosts.map(|_| {
                "the include limits paths and no hosts, so its routes may name none".to_owned()
            });
        };
        let listed = || listed(&limits.0);
        let Some(hosts) = hosts else {
            return Some(format!("it must name its host, within {}", listed()));
        };
        let exactly = self.include.path.is_some();
        let inside = |host: &HostPattern| {
            limits.iter().any(|limit| match exactly {
                true => limit.contains(host) && host.contains(limit),
                false => limit.contains(host),
            })
        };
        let outside = hosts.iter().find(|host| !inside(host))?;
        Some(match exactly {
            true => format!("the host `{outside}` is not one of {}", listed()),
            false => format!("the host `{outside}` is not within {}", listed()),
        })
    }

    /// Why a match is not inside the paths of the include.
    fn path_outside(&self, paths: Option<&OneOrMany<PathPattern>>) -> Option<String> {
        let limits = self.include.path.as_ref()?;
        let Some(paths) = paths else {
            return Some(format!(
                "it must name its path, within {}",
                listed(&limits.0)
            ));
        };
        let outside = paths
            .iter()
            .find(|path| !limits.iter().any(|limit| limit.contains(path)))?;
        Some(format!(
            "the path `{outside}` is not within {}",
            listed(&limits.0)
        ))
    }
}

fn listed(patterns: &[impl std::fmt::Display]) -> String {
    let quoted: Vec<_> = patterns
        .iter()
        .map(|pattern| format!("`{pattern}`"))
        .collect();
    quoted.join(", ")
}
