//! Routes and the groups they stand in: what they match, where they send, which policies act on them.

mod own_paths;
mod websocket;

use super::policies::{Scope, Scopes, chain, finds_out_who, scope};
use super::services::{Services, check_handshake_of_route, known_retries, overrides, retries};
use super::{Compiler, invariants, listeners_of, who};
use crate::config::model::{self, Group};
use crate::diagnostic::Diagnostic;
use crate::observe::access_log::AccessLog;
use crate::policy::Stage;
use crate::policy::chain::Chain;
use crate::policy::registry::KEYS;
use crate::policy::scope::Effective;
use crate::router::{self, Match, PathPattern, RouteSpec, Router};
use crate::snapshot::rewrite::{Change, Rewrite};
use crate::snapshot::route::Limit;
use crate::snapshot::{Route, Target};
use crate::units::{ByteSize, Name, OneOrMany, OrOff, Span, Spanned};
use crate::upstream::service::Overrides;
use crate::upstream::{Retries, Service};
use ahash::AHashMap;
use http::StatusCode;
use std::sync::Arc;

/// What compiling the routes yields.
pub struct Compiled {
    pub router: Router,
    pub routes: Box<[Arc<Route>]>,
    pub unrouted: Arc<Route>,
}

/// A route with the group it stands in.
pub struct Placed<'a> {
    pub name: Arc<str>,
    pub at: Span,
    pub route: &'a model::Route,
    pub group: Option<(&'a str, &'a Group)>,
}

/// A match as an operator reads it: what is written, on one line.
fn shown_match(one: &Match) -> String {
    serde_json::to_string(one).unwrap_or_default()
}

/// All routes, those in groups as `group.route`.
pub fn placed<'a>(config: &'a crate::config::Config) -> impl Iterator<Item = Placed<'a>> {
    let alone = config.routes.0.iter().map(|(name, route)| Placed {
        name: name.shared(),
        at: name.span(),
        route,
        group: None,
    });
    let grouped = config.groups.0.iter().flat_map(|(group_name, group)| {
        group.routes.0.iter().map(move |(name, route)| Placed {
            name: format!("{}.{}", group_name.as_str(), name.as_str()).into(),
            at: name.span(),
            route,
            group: Some((group_name.as_str(), group)),
        })
    });
    alone.chain(grouped)
}

/// Compiles all routes and the index over them; nothing when the index can't be built.
pub fn compile<'a>(
    compiler: &mut Compiler<'a>,
    scopes: &Scopes<'a>,
    services: &mut Services,
    access_log: Option<Arc<AccessLog>>,
) -> Option<Compiled> {
    check_groups(compiler);
    let mut specs = Vec::new();
    let mut routes = Vec::new();
    let mut spans = Vec::new();
    let mut guarded = own_paths::Guarded::default();
    for placed in placed(compiler.config) {
        check_profiles(compiler, placed.route.profiles.as_ref());
        let matches = matches_of(compiler, &placed);
        check_captures(compiler, &placed, matches.as_deref().unwrap_or_default());
        let shown = matches.iter().flatten().map(shown_match).collect();
        let route = one(
            compiler,
            &placed,
            scopes,
            services,
            access_log.clone(),
            shown,
        );
        let Some(matches) = matches else { continue };
        if let Some(route) = &route {
            guarded.note(&route.chain, &placed.name, &matches);
        }
        specs.push(RouteSpec {
            name: placed.name.clone(),
            matches,
            priority: placed.route.priority.unwrap_or(0),
            fall_through: placed.route.fall_through.0,
        });
        spans.push(
            placed
                .route
                .matches
                .as_ref()
                .map_or(placed.at, Spanned::span),
        );
        routes.extend(route);
    }
    let complete = routes.len() == specs.len();
    guarded.check(compiler);
    recheck_rewrites(&mut routes);
    let routes: Box<[_]> = routes.into_iter().map(Arc::new).collect();
    let unrouted = unrouted(compiler, scopes, access_log);
    // also where a route has errors of its own: two that tie do so whatever they are for
    let router = index(compiler, specs, &spans)?;
    complete.then_some(Compiled {
        router,
        routes,
        unrouted: Arc::new(unrouted),
    })
}

/// What is wrong with groups by themselves, told once and not for each of their routes.
fn check_groups(compiler: &mut Compiler<'_>) {
    for (name, group) in &compiler.config.groups.0 {
        if group.routes.0.is_empty() && !group.routes.has_broken() {
            let message = format!("group `{}` has no routes", name.as_str());
            let hint = "write them under its `routes`, or remove it";
            compiler.report(Diagnostic::error(message, name.span()).hint(hint));
        }
        check_profiles(compiler, group.profiles.as_ref());
        if let Some(matches) = &group.matches {
            compiler.check_matches(&matches.0, matches.span());
            who::check_nobody(compiler, &matches.0, matches.span(), who::GROUP);
        }
    }
}

/// A profile that one place takes twice acts once.
fn check_profiles(compiler: &mut Compiler<'_>, profiles: Option<&OneOrMany<Spanned<Name>>>) {
    let names = profiles.map(|names| &*names.0).unwrap_or_default();
    for (at, name) in names.iter().enumerate() {
        let mut before = names.iter().take(at);
        if let Some(first) = before.find(|known| known.as_str() == name.as_str()) {
            let message = format!("`use` names profile `{}` twice", name.as_str());
            let diagnostic = Diagnostic::error(message, name.span()).hint("once is enough");
            compiler.report(diagnostic.related(first.span(), "the other one is here"));
        }
    }
}

/// Where every request of a route's patterns is its own, none falls through.
fn check_fall_through(compiler: &mut Compiler<'_>, placed: &Placed<'_>, matches: &[Match]) {
    if !placed.route.fall_through.0 || matches.iter().any(Match::has_conditions) {
        return;
    }
    let message = format!(
        "`fall_through` has no effect in route `{}`: it takes every request for its paths",
        placed.name
    );
    let hint = "it passes on what fails a condition, such as `method` or `header`";
    compiler.report(Diagnostic::error(message, placed.at).hint(hint));
}

fn index(compiler: &mut Compiler<'_>, specs: Vec<RouteSpec>, spans: &[Span]) -> Option<Router> {
    match Router::compile(specs) {
        Ok(router) => Some(router),
        Err(issues) => {
            for issue in issues {
                let at = spans.get(issue.route).copied().unwrap_or_default();
                let mut diagnostic = Diagnostic::error(issue.message, at);
                if let Some(hint) = issue.hint {
                    diagnostic = diagnostic.hint(hint);
                }
                if let Some(other) = issue.other.and_then(|other| spans.get(other)) {
                    diagnostic = diagnostic.related(*other, "the other one is here");
                }
                compiler.report(diagnostic);
            }
            None
        }
    }
}

/// What a route matches, its group's part included.
fn matches_of(compiler: &mut Compiler<'_>, placed: &Placed<'_>) -> Option<Vec<Match>> {
    let own = placed.route.matches.as_ref().map(|matches| &matches.0);
    let of_group = placed
        .group
        .and_then(|(_, group)| group.matches.as_ref())
        .map(|matches| &matches.0);
    let combined = match (of_group, own) {
        (None, None) => {
            let message = format!("route `{}` has no `match`", placed.name);
            compiler.report(
                Diagnostic::error(message, placed.at)
                    .hint("to take everything: `match: {path: /**}`"),
            );
            return None;
        }
        (Some(matches), None) | (None, Some(matches)) => Ok(matches.clone()),
        (Some(of_group), Some(own)) => router::combine(of_group, own),
    };
    let at = placed
        .route
        .matches
        .as_ref()
        .map_or(placed.at, Spanned::span);
    let matches = match combined {
        Ok(matches) => matches,
        Err(issue) => {
            let mut diagnostic = Diagnostic::error(issue.message, at);
            if let Some(hint) = issue.hint {
                diagnostic = diagnostic.hint(hint);
            }
            compiler.report(diagnostic);
            return None;
        }
    };
    if let Some(own) = own {
        compiler.check_matches(own, at);
        who::check_nobody(compiler, own, at, who::ROUTE);
    }
    compiler.check_listeners(&matches, at);
    check_fall_through(compiler, placed, &matches);
    check_routing(compiler, placed, &matches, at);
    check_encoded_slashes(compiler, placed, &matches, at);
    Some(matches)
}

/// A path with an encoded slash is refused before it reaches a route that does not allow it.
fn check_encoded_slashes(
    compiler: &mut Compiler<'_>,
    placed: &Placed<'_>,
    matches: &[Match],
    at: Span,
) {
    if placed.route.allow_encoded_slash.0 {
        return;
    }
    let paths = matches.iter().filter_map(|one| one.path.as_ref());
    for path in paths.flat_map(|paths| paths.iter()) {
        let path = path.to_string();
        if path.to_ascii_lowercase().contains("%2f") {
            let message = format!("`{path}` never arrives: its encoded slash is refused");
            let hint = "to take it: `allow_encoded_slash: on`";
            compiler.report(Diagnostic::error(message, at).hint(hint));
        }
    }
}

/// A listener that redirects or serves operators has no use for a route.
fn check_routing(compiler: &mut Compiler<'_>, placed: &Placed<'_>, matches: &[Match], at: Span) {
    let config = compiler.config;
    for name in listeners_of(matches) {
        let Some(listener) = config.listeners.get(name.as_str()) else {
            continue;
        };
        let does = match (&listener.redirect, &listener.serve) {
            (None, None) => continue,
            (Some(_), _) => "redirects every request",
            (None, Some(_)) => "has `serve`, and serves nothing else",
        };
        let message = format!(
            "route `{}` can't be reached through listener `{}`, which {does}",
            placed.name,
            name.as_str()
        );
        let hint = "name another listener, or leave it out for all that route";
        compiler.report(Diagnostic::error(message, at).hint(hint));
    }
}

fn one<'a>(
    compiler: &mut Compiler<'a>,
    placed: &Placed<'a>,
    scopes: &Scopes<'a>,
    services: &mut Services,
    access_log: Option<Arc<AccessLog>>,
    shown: Vec<String>,
) -> Option<Route> {
    let route = placed.route;
    let target = target(compiler, placed, services);
    let (chain, effective) = chain_of(compiler, placed, scopes);
    let known = finds_out_who(&effective);
    compiler.knows_callers |= known;
    who::note_arms(compiler, placed, known);
    invariants::hold(compiler, placed, &effective);
    check_effects(compiler, placed, target.as_ref(), &chain, &effective);
    let rewrite = rewrite(compiler, placed);
    let websocket = websocket::of(compiler, placed, target.as_ref());
    let group = placed.group.map(|(_, group)| group);
    let timeouts = timeouts(placed);
    if let Some(target @ Target::Upstream(_)) = &target {
        let own = route.timeouts.as_deref();
        check_handshake_of_route(compiler, own, target.services());
    }
    let limit = route
        .body_limit
        .as_ref()
        .or(group.and_then(|group| group.body_limit.as_ref()));
    let mut compiled = Route {
        metrics: compiler.world.metrics.route(&placed.name),
        name: placed.name.clone(),
        group: placed.group.map(|(name, _)| name.into()),
        matches: shown,
        target: target?,
        chain,
        rewrite,
        waives: waived(placed),
        rechecks: false,
        timeouts,
        retries: Box::default(),
        body_limit: limit.map(limit_of),
        allow_encoded_slash: route.allow_encoded_slash.0,
        websocket,
        access_log,
    };
    compiled.retries = retries_of(compiler, placed, &compiled);
    Some(compiled)
}

/// Finds policies that can't act on what the route does.
fn check_effects(
    compiler: &mut Compiler<'_>,
    placed: &Placed<'_>,
    target: Option<&Target>,
    chain: &Chain,
    effective: &[Effective<'_>],
) {
    let Some(target) = target else { return };
    let name = &placed.name;
    let place = format!("route.{name}/");
    let policies = chain.policies().iter();
    let of_scopes = policies.filter(|policy| policy.plan.is_none());
    for (policy, effective) in of_scopes.zip(effective) {
        let (key, at) = (&**effective.written.key, effective.written.key.span());
        let own = policy.place.starts_with(&place);
        let same = |beside| {
            target
                .services()
                .all(|service| Arc::ptr_eq(service, beside))
        };
        match &policy.hooks.beside {
            Some(beside) if target.services().next().is_some() && same(beside) => {
                let message = format!("route `{name}` sends to `{}` anyway", beside.name);
                let diagnostic = Diagnostic::error(message, at);
                compiler.report(match own {
                    true => diagnostic.hint("name another service"),
                    false => diagnostic
                        .hint(format!("write `{key}: off` in that route"))
                        .related(placed.at, "this one"),
                });
            }
            _ => {}
        }
        if let Some(at) = policy.hooks.closes_at_expiry.filter(|_| own)
            && !matches!(target, Target::Upstream(_))
        {
            let message = format!("`close_at_expiry` has no effect in route `{name}`");
            let hint = "this route answers by itself, and at once";
            compiler.report(Diagnostic::error(message, at).hint(hint));
        }
        if own && policy.hooks.needs_an_endpoint() && !matches!(target, Target::Upstream(_)) {
            let message = format!("`{key}` has no effect in route `{name}`");
            let hint = "it acts on what is sent to a service, and this route answers by itself";
            compiler.report(Diagnostic::error(message, at).hint(hint));
        }
    }
}

/// Finds the routes whose rewrites might reach what a route guards. Once for all, since nearly none do.
fn recheck_rewrites(routes: &mut [Route]) {
    let mut guards: AHashMap<*const Service, Vec<&'static str>> = AHashMap::new();
    for route in routes.iter() {
        for service in route.services() {
            let kinds = guards.entry(Arc::as_ptr(service)).or_default();
            for policy in route
                .chain
                .policies()
                .iter()
                .filter(|policy| policy.is_guard())
            {
                if !kinds.contains(&policy.kind) {
                    kinds.push(policy.kind);
                }
            }
        }
    }
    for route in routes.iter_mut().filter(|route| route.rewrite.is_some()) {
        let around = route
            .services()
            .filter_map(|service| guards.get(&Arc::as_ptr(service)));
        let around: Vec<_> = around.flatten().copied().collect();
        // one with `when` may hold for the one request and not for the other
        let always = |kind| {
            let mut policies = route.chain.policies().iter();
            policies.any(|policy| policy.kind == kind && policy.is_guard() && policy.when.is_none())
        };
        route.rechecks = around
            .into_iter()
            .any(|kind| !route.waives.contains(&kind) && !always(kind));
    }
}

/// The kinds that a route lets its rewrite lead round.
fn waived(placed: &Placed<'_>) -> Vec<&'static str> {
    let rewrite = placed.route.rewrite.as_ref();
    let allowed = rewrite.is_some_and(|rewrite| rewrite.allow_guarded.0);
    let kinds = KEYS.iter().copied();
    kinds
        .filter(|kind| allowed || invariants::is_turned_off(placed, kind))
        .collect()
}

/// The policies that act on a route.
pub fn chain_of<'a>(
    compiler: &mut Compiler<'a>,
    placed: &Placed<'a>,
    scopes: &Scopes<'a>,
) -> (Chain, Vec<Effective<'a>>) {
    let place = format!("route.{}", placed.name);
    let own: Scope<'a> = scope(compiler, &place, &placed.route.policies);
    let mut all = scopes.above(compiler, placed.group, placed.route.profiles.as_ref());
    all.push(&own);
    let (chain, effective) = chain(compiler, &all, scopes.plans());
    super::policies::check_identity(compiler, &placed.name, &all, &effective);
    (chain, effective)
}

fn limit_of(limit: &OrOff<ByteSize>) -> Limit {
    match limit {
        OrOff::Off => Limit::Off,
        OrOff::On(size) => Limit::Bytes(size.0),
    }
}

fn timeouts(placed: &Placed<'_>) -> Overrides {
    let own = placed
        .route
        .timeouts
        .as_ref()
        .map(|timeouts| overrides(timeouts));
    let group = placed
        .group
        .and_then(|(_, group)| group.timeouts.as_ref())
        .map(overrides);
    own.unwrap_or_default().or(group.unwrap_or_default())
}

/// How a route's requests are tried again at each of its services, where the route or its group says something about
/// it.
fn retries_of(
    compiler: &mut Compiler<'_>,
    placed: &Placed<'_>,
    route: &Route,
) -> Box<[(Arc<str>, Arc<Retries>)]> {
    let group = placed.group.and_then(|(_, group)| group.retries.as_ref());
    // what is wrong in it is told once, and not for each of its routes
    let group = group.map(known_retries);
    let own = retries(compiler, placed.route.retries.as_ref());
    if group.is_none() && own.is_none() {
        return Box::default();
    }
    let (group, own) = (group.unwrap_or_default(), own.unwrap_or_default());
    let at = |service: &Arc<Service>| {
        let retries = service.retries.with(&group).with(&own);
        (service.name.clone(), Arc::new(retries))
    };
    route.services().map(at).collect()
}

/// How a route ends: in exactly one way.
fn target(
    compiler: &mut Compiler<'_>,
    placed: &Placed<'_>,
    services: &mut Services,
) -> Option<Target> {
    let route = placed.route;
    let ends = [
        ("service", route.service.as_ref().map(Spanned::span)),
        ("redirect", route.redirect.as_ref().map(Spanned::span)),
        ("respond", route.respond.as_ref().map(Spanned::span)),
    ];
    let mut written = ends.iter().filter_map(|(key, at)| at.map(|at| (*key, at)));
    if let (Some((first, first_at)), Some((second, second_at))) = (written.next(), written.next()) {
        let message = format!(
            "route `{}` ends in `{first}` and in `{second}`",
            placed.name
        );
        let diagnostic =
            Diagnostic::error(message, second_at).related(first_at, "the other one is here");
        compiler.report(
            diagnostic.hint("a route ends in exactly one of `service`, `redirect`, `respond`"),
        );
        return None;
    }
    if let Some(redirect) = &route.redirect {
        let status =
            StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::PERMANENT_REDIRECT);
        check_no_service(compiler, placed, "redirect");
        return Some(Target::Redirect {
            to: redirect.to.clone(),
            status,
        });
    }
    if let Some(respond) = &route.respond {
        check_no_service(compiler, placed, "respond");
        if let Err(error) = respond.0.check() {
            let hint = crate::policy::respond::BODY_HINT;
            compiler.report(Diagnostic::error(error, respond.span()).hint(hint));
        }
        return Some(Target::Respond(Box::new(respond.0.compile())));
    }
    let of_group = placed.group.and_then(|(_, group)| group.service.as_ref());
    let Some(service) = route.service.as_ref().or(of_group) else {
        let message = format!(
            "route `{}` does not say what happens to its requests",
            placed.name
        );
        compiler.report(
            Diagnostic::error(message, placed.at).hint("add `service`, `redirect` or `respond`"),
        );
        return None;
    };
    services
        .resolve(compiler, &placed.name, service)
        .map(Target::Upstream)
}

/// A capture that some request of the route would not have: the answer would then have no location, or the request no
/// path.
fn check_captures(compiler: &mut Compiler<'_>, placed: &Placed<'_>, matches: &[Match]) {
    let route = placed.route;
    let redirect = route
        .redirect
        .as_ref()
        .map(|redirect| (&redirect.to, redirect.span()));
    let path = route
        .rewrite
        .as_ref()
        .and_then(|rewrite| rewrite.path.as_ref());
    let path = path.map(|path| (&**path, path.span()));
    for (template, at) in redirect.into_iter().chain(path) {
        if matches.is_empty() {
            continue;
        }
        if let Some(fact) = router::uncaptured(matches, template.facts()) {
            let message = format!(
                "not every match of route `{}` captures `{{{fact}}}`",
                placed.name
            );
            let hint = "a path captures it as `/a/{name}`, a host as `{name}.example.com`";
            compiler.report(Diagnostic::error(message, at).hint(hint));
        }
    }
}

/// What belongs to sending a request on has no effect on a route that answers itself.
fn check_no_service(compiler: &mut Compiler<'_>, placed: &Placed<'_>, end: &str) {
    let route = placed.route;
    let useless = [
        ("rewrite", route.rewrite.as_ref().map(Spanned::span)),
        ("timeouts", route.timeouts.as_ref().map(Spanned::span)),
        ("retries", route.retries.as_ref().map(Spanned::span)),
        ("body_limit", route.body_limit.as_ref().map(|_| placed.at)),
    ];
    for (key, at) in useless {
        if let Some(at) = at {
            let message = format!("`{key}` has no effect on a route that ends in `{end}`");
            compiler.report(Diagnostic::error(message, at).hint("nothing is sent on"));
        }
    }
}

fn rewrite(compiler: &mut Compiler<'_>, placed: &Placed<'_>) -> Option<Rewrite> {
    let written = placed.route.rewrite.as_ref()?;
    let map_back = written.map_back.is_none_or(|map_back| map_back.0);
    let change = match (&written.strip, &written.prefix, &written.path) {
        (None, None, None) => {
            let message = "`rewrite` changes nothing";
            compiler.report(
                Diagnostic::error(message, written.span()).hint("add `strip`, `prefix` or `path`"),
            );
            return None;
        }
        (strip, prefix, Some(path)) => {
            if strip.is_some() || prefix.is_some() {
                let message =
                    "`path` replaces the whole path: `strip` and `prefix` have no effect beside it";
                compiler.report(Diagnostic::error(message, path.span()));
            }
            if let Some(text) = path.fixed() {
                check_sent_path(compiler, text, path.span());
            }
            Change::Path((**path).clone())
        }
        (strip, prefix, None) => Change::Prefix {
            strip: prefix_of(compiler, strip.as_ref()),
            prefix: prefix_of(compiler, prefix.as_ref()),
        },
    };
    if let (Change::Prefix { strip, .. }, Some(at)) = (&change, written.strip.as_ref()) {
        check_strip(compiler, placed, strip, at.span());
    }
    Some(Rewrite { change, map_back })
}

/// What no request can be sent with, whoever asks: each would be refused.
fn check_sent_path(compiler: &mut Compiler<'_>, text: &str, at: Span) {
    let path = text.split('?').next().unwrap_or(text);
    let dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    let readable = crate::exchange::canonical::canonical_path(path).is_ok()
        && !text.contains(|c: char| !c.is_ascii_graphic() || c == '#');
    let diagnostic = if !text.starts_with('/') {
        Diagnostic::error(format!("`{text}` does not begin with a slash"), at)
    } else if dots || !readable {
        Diagnostic::error(format!("`{text}` can't be sent on"), at)
            .hint("it holds no dot segments, blanks or `#`; other bytes are percent-encoded")
    } else {
        return;
    };
    compiler.report(diagnostic);
}

/// A prefix without the slash at its end, which belongs to what follows.
fn prefix_of(compiler: &mut Compiler<'_>, written: Option<&Spanned<String>>) -> Box<str> {
    let Some(written) = written else {
        return Box::default();
    };
    let canonical = crate::exchange::canonical::canonical_path(written);
    let plain = canonical.is_ok_and(|path| *path.text == ***written);
    if !plain || written.contains(['?', '#']) {
        let message = format!("`{}` is not a canonical path", **written);
        let hint = "it begins with a slash and holds no dot segments, query or needless escapes";
        compiler.report(Diagnostic::error(message, written.span()).hint(hint));
    }
    written.trim_end_matches('/').into()
}

/// A prefix that no path of the route begins with is never cut off.
fn check_strip(compiler: &mut Compiler<'_>, placed: &Placed<'_>, strip: &str, at: Span) {
    let own = placed.route.matches.as_ref().map(|matches| &matches.0);
    let of_group = placed
        .group
        .and_then(|(_, group)| group.matches.as_ref())
        .map(|matches| &matches.0);
    let paths = own
        .or(of_group)
        .into_iter()
        .flatten()
        .flat_map(|one| one.path.iter())
        .flat_map(|paths| &paths.0);
    let Ok(below) = format!("{strip}/**").parse::<PathPattern>() else {
        return;
    };
    let mut paths = paths.peekable();
    if paths.peek().is_some() && !paths.any(|path| below.overlaps(path)) {
        let message = format!("no path of route `{}` begins with `{strip}`", placed.name);
        compiler.report(
            Diagnostic::error(message, at)
                .hint("`strip` cuts off what the route's paths begin with"),
        );
    }
}

/// What requests get that no route takes.
fn unrouted<'a>(
    compiler: &mut Compiler<'a>,
    scopes: &Scopes<'a>,
    access_log: Option<Arc<AccessLog>>,
) -> Route {
    let top = scopes.above(compiler, None, None);
    let (chain, _) = chain(compiler, &top, &[]);
    // there is nothing here that a credential would open
    let chain =
        chain.only(|policy| !matches!(policy.stage, Stage::Authenticate | Stage::Authorize));
    Route {
        name: crate::observe::metrics::NO_ROUTE.into(),
        group: None,
        matches: Vec::new(),
        target: Target::None,
        chain,
        rewrite: None,
        waives: Vec::new(),
        rechecks: false,
        timeouts: Overrides::default(),
        retries: Box::default(),
        body_limit: None,
        allow_encoded_slash: true,
        websocket: None,
        metrics: compiler.world.metrics.no_route().clone(),
        access_log,
    }
}
