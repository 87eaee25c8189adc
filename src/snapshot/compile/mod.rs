//! From the configuration to the snapshot: resolves names, merges scopes, compiles policies, finds what can't be meant.
//!
//! Every error is found before any is reported. What cannot be built refuses the whole; nothing is skipped.

mod consumers;
mod credentials;
mod invariants;
mod issuers;
mod listeners;
mod overload;
mod policies;
mod proofs;
mod routes;
mod services;
mod stores;
mod who;

use super::Snapshot;
use crate::config::Config;
use crate::diagnostic::{Diagnostic, Sources, did_you_mean};
use crate::discovery::{Discovery, Resolver};
use crate::exchange::via::Via;
use crate::identity::{Consumers, Proofs};
use crate::issuers::Issuer;
use crate::observe::access_log::{AccessLog, AccessLogConfig, AccessLogs, LogPath};
use crate::observe::metrics::Metrics;
use crate::observe::random;
use crate::policy::chain::Compiled;
use crate::router::{Match, Router};
use crate::state::{Identity, State};
use crate::store::Store;
use crate::units::{Name, Span};
use ahash::AHashSet;
use http::HeaderName;
use std::path::Path;
use std::sync::Arc;

/// What a compiled configuration is tied to.
pub struct World<'a> {
    pub state: &'a Arc<State>,
    pub metrics: &'a Arc<Metrics>,
    /// Absent where nothing is to be opened, as for `northgate check`.
    pub access_logs: Option<&'a AccessLogs>,
}

/// How much of the files could be read: what has errors is left out, and might refer to any name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    Whole,
    /// There is the text of every file. Nothing refers to a name that is written only once.
    Part,
    /// Whole files are not there.
    Excerpt,
}

/// What compiling collects.
pub(super) struct Compiler<'a> {
    pub config: &'a Config,
    pub sources: &'a Sources,
    pub world: &'a World<'a>,
    pub diagnostics: Vec<Diagnostic>,
    /// Names that something refers to: the others are of no use, and say so.
    used: AHashSet<(&'static str, String)>,
    /// Names that a misspelt reference may have meant: they are not of no use as well.
    meant: AHashSet<(&'static str, String)>,
    /// Some route finds out who calls.
    knows_callers: bool,
    /// On some route, the limits of plans act.
    plans_act: bool,
    resolver: Arc<Resolver>,
    discoveries: Vec<Arc<Discovery>>,
    /// Some endpoint is a name.
    asks_dns: bool,
    /// What policies may name.
    services: services::Named,
    consumers: Arc<Consumers>,
    /// By name; none for those that have errors.
    issuers: ahash::AHashMap<Box<str>, Option<Arc<Issuer>>>,
    /// The same of stores.
    stores: ahash::AHashMap<Box<str>, Option<Arc<Store>>>,
    /// What they prove themselves with.
    proofs: Proofs,
    credentials: credentials::Credentials,
    /// Fields that policies write, and that say who calls.
    told: AHashSet<HeaderName>,
    /// Fields in which clients send credentials.
    carriers: AHashSet<HeaderName>,
    asking: who::Asking,
    /// Policies that count by key.
    counting: Vec<Arc<Compiled>>,
}

impl Compiler<'_> {
    fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    fn refers_to(&mut self, kind: &'static str, name: &str) {
        self.used.insert((kind, name.to_owned()));
    }

    fn is_used(&self, kind: &'static str, name: &str) -> bool {
        // a set of pairs can't be asked by borrowed halves
        let name = (kind, name.to_owned());
        self.used.contains(&name) || self.meant.contains(&name)
    }

    /// Reports a reference to what is not there, and notes what it may have meant.
    fn unknown(&mut self, kind: &'static str, name: &str, known: &[&str], at: Span) -> Diagnostic {
        let diagnostic = Diagnostic::error(format!("there is no {kind} `{name}`"), at);
        let Some(meant) = did_you_mean(name, known) else {
            return diagnostic;
        };
        let diagnostic = diagnostic.hint(format!("did you mean `{meant}`?"));
        self.meant.insert((kind, meant));
        diagnostic
    }

    /// Whether a name stands in the files, with errors that have been reported: references to it are none.
    fn is_broken(&self, map: &str, name: &str) -> bool {
        self.config.is_broken(map, name)
    }

    /// Reports listeners that matches name and that are not there. Of a condition, nothing would ever hold; an
    /// invariant would concern nobody.
    fn check_listeners(&mut self, matches: &[Match], at: Span) {
        for name in listeners_of(matches) {
            let listeners = &self.config.listeners;
            if listeners.get(name.as_str()).is_none() && !self.is_broken("listeners", name.as_str())
            {
                let message = format!("there is no listener `{}`", name.as_str());
                let diagnostic = Diagnostic::error(message, at);
                let diagnostic = diagnostic.did_you_mean(name.as_str(), listeners.names());
                self.report(diagnostic);
            }
        }
    }

    /// Reports what makes no difference in a match, or can never hold.
    fn check_matches(&mut self, matches: &[Match], at: Span) {
        for oversight in matches.iter().flat_map(Match::oversights) {
            self.report(Diagnostic::error(oversight.message, at).hint(oversight.hint));
        }
    }

    /// What the gateway calls itself: the name that is written, or one of its own that stays over reloads.
    fn via(&mut self) -> Option<Arc<Via>> {
        let Some(written) = &self.config.via else {
            let identity = Identity {
                kind: "via",
                place: "".into(),
                shape: "".into(),
            };
            return Some(
                self.world
                    .state
                    .adopt(identity, || Via::made_up(random::next())),
            );
        };
        let name = written.as_ref().on()?;
        if name.as_str() == "on" {
            let message = "`via` is a name, or `off`";
            let hint = "leave it out for a name that is made up";
            self.report(Diagnostic::error(message, written.span()).hint(hint));
        }
        Some(Arc::new(Via::named(name.as_str())))
    }

    /// The policies that count by key, by their place.
    fn counting(&mut self) -> Vec<Arc<Compiled>> {
        let mut counting = std::mem::take(&mut self.counting);
        counting.sort_by(|one, other| one.place.cmp(&other.place));
        counting
    }

    fn failed(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// The listeners that matches name.
fn listeners_of(matches: &[Match]) -> impl Iterator<Item = &Name> {
    let names = matches.iter().filter_map(|one| one.listener.as_ref());
    names.flat_map(|names| names.iter())
}

/// Compiles a configuration. Warnings are in the snapshot.
///
/// # Errors
/// Everything that is wrong with it, each at its place.
pub fn compile(
    config: &Config,
    sources: &Sources,
    completeness: Completeness,
    generation: u64,
    world: &World<'_>,
) -> Result<Snapshot, Vec<Diagnostic>> {
    let mut compiler = Compiler {
        config,
        sources,
        world,
        diagnostics: Vec::new(),
        used: AHashSet::new(),
        meant: AHashSet::new(),
        knows_callers: false,
        plans_act: false,
        resolver: Arc::default(),
        discoveries: Vec::new(),
        asks_dns: false,
        services: Default::default(),
        consumers: Arc::default(),
        issuers: Default::default(),
        stores: Default::default(),
        proofs: Proofs::default(),
        credentials: Default::default(),
        told: AHashSet::new(),
        carriers: AHashSet::new(),
        asking: who::Asking::default(),
        counting: Vec::new(),
    };
    compiler.resolver = services::resolver(&mut compiler);
    compiler.check_version();
    compiler.check_threads();
    let overload = overload::compile(&mut compiler);
    let access_log = compiler.access_log();
    let via = compiler.via();
    consumers::compile(&mut compiler);
    issuers::compile(&mut compiler);
    stores::compile(&mut compiler);
    proofs::compile(&mut compiler);
    credentials::compile(&mut compiler);
    let mut identity_fields = consumers::identity_fields(&mut compiler);
    let mut services = services::Services::compile(&mut compiler);
    let scopes = policies::Scopes::compile(&mut compiler);
    let routes = routes::compile(&mut compiler, &scopes, &mut services, access_log);
    consumers::protect(&mut compiler, &mut identity_fields);
    let listeners = listeners::compile(&mut compiler);
    listeners::check_admin(&mut compiler);
    let ticket_secrets = listeners::certificates::ticket_secrets(&mut compiler);
    invariants::check(&mut compiler);
    if completeness != Completeness::Excerpt {
        compiler.report_unused(completeness);
    }
    if completeness == Completeness::Whole {
        overload::check_said(&mut compiler);
        who::check_answered(&mut compiler);
        who::check_logged(&mut compiler);
        listeners::check_any(&mut compiler);
        services::check_used(&mut compiler);
        credentials::check_used(&mut compiler);
        issuers::check_tokens(&mut compiler);
        proofs::check_used(&mut compiler);
        policies::check_removals(&mut compiler);
        policies::check_plans(&mut compiler);
    }
    let (Some(routes), false) = (routes, compiler.failed()) else {
        return Err(bounded(compiler.diagnostics));
    };
    let router: Router = routes.router;
    Ok(Snapshot {
        generation,
        overload,
        via,
        router,
        routes: routes.routes,
        unrouted: routes.unrouted,
        listeners,
        ticket_secrets,
        services: services.all(),
        identity_fields,
        api_keys: compiler.credentials.api_keys.take(),
        passwords: compiler.credentials.passwords.take(),
        counting: compiler.counting(),
        warm_timeout: services::warm_timeout(&compiler),
        issuers: compiler.issuers.into_values().flatten().collect(),
        stores: compiler.stores.into_values().flatten().collect(),
        discoveries: compiler.discoveries,
        effective: crate::config::effective(config),
        warnings: compiler.diagnostics,
    })
}

/// How many errors are told. More help nobody, and each has its excerpt.
const ERRORS_MAX: usize = 100;

/// The first of many errors, and how many there are besides.
fn bounded(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let Some(more) = diagnostics
        .len()
        .checked_sub(ERRORS_MAX)
        .filter(|more| *more > 0)
    else {
        return diagnostics;
    };
    let last = diagnostics.get(ERRORS_MAX).map(|first| first.span);
    diagnostics.truncate(ERRORS_MAX);
    let message = format!("{more} more errors and warnings are not shown");
    let hint = "the first of them is here; often they have one cause";
    diagnostics.push(Diagnostic::error(message, last.unwrap_or_default()).hint(hint));
    diagnostics
}

impl Compiler<'_> {
    fn check_version(&mut self) {
        let version = &self.config.version;
        if **version != 1 {
            let message = format!("version {} of the configuration is not known", **version);
            self.report(Diagnostic::error(message, version.span()).hint("this is version 1"));
        }
    }

    fn check_threads(&mut self) {
        if let Some(threads) = &self.config.threads
            && **threads == 0
        {
            let diagnostic = Diagnostic::error("0 threads serve nothing", threads.span());
            self.report(diagnostic.hint("leave `threads` out for one for each processor"));
        }
    }

    /// Opens the access log of the top level.
    fn access_log(&mut self) -> Option<Arc<AccessLog>> {
        use crate::config::model::AccessLog as Written;
        let written = self.config.access_log.as_ref()?;
        let Written::On(config) = &**written else {
            return None;
        };
        if let Err(error) = config.check() {
            self.report(Diagnostic::error(error, written.span()));
            return None;
        }
        let config = AccessLogConfig {
            path: self.beside_its_file(&config.path, written.span()),
            ..config.clone()
        };
        match self.world.access_logs?.open(&config) {
            Ok(log) => Some(Arc::new(log)),
            Err(error) => {
                self.report(Diagnostic::error(error.to_string(), written.span()));
                None
            }
        }
    }

    /// A relative path starts from the folder of the file that it stands in, as those of certificates do.
    fn beside_its_file(&self, path: &LogPath, at: Span) -> LogPath {
        let file = self.sources.name(at.file).map(Path::new);
        match (path, file.and_then(Path::parent)) {
            // joining an absolute path gives that path
            (LogPath::File(path), Some(folder)) => LogPath::File(folder.join(path)),
            _ => path.clone(),
        }
    }

    /// What nothing refers to has no effect, and was meant to have one. Where not all could be read, only what is named
    /// nowhere else in the files.
    fn report_unused(&mut self, completeness: Completeness) {
        let config = self.config;
        let services = config.services.0.iter().map(|(name, _)| ("service", name));
        let profiles = config.profiles.0.iter().map(|(name, _)| ("profile", name));
        let certificates = config
            .certificates
            .0
            .iter()
            .map(|(name, _)| ("certificate", name));
        let issuers = config.issuers.0.iter().map(|(name, _)| ("issuer", name));
        let named: Vec<(&'static str, String, Span)> = services
            .chain(profiles)
            .chain(certificates)
            .chain(issuers)
            .chain(config.stores.0.iter().map(|(name, _)| ("store", name)))
            .map(|(kind, name)| (kind, name.to_string(), name.span()))
            .collect();
        let mut named = named;
        named.retain(|(kind, name, _)| !self.is_used(kind, name));
        if completeness == Completeness::Part {
            // listeners present certificates that they don't name
            named.retain(|(kind, ..)| *kind != "certificate");
            let times = self
                .sources
                .times_written(named.iter().map(|(_, name, _)| &**name));
            let once: Vec<bool> = named
                .iter()
                .map(|(_, name, _)| times.get(&**name) == Some(&1))
                .collect();
            let mut once = once.into_iter();
            named.retain(|_| once.next() == Some(true));
        }
        if completeness == Completeness::Whole
            && let Some(cookies) = &config.secrets.cookies
            && !self.is_used("secret", "cookies")
        {
            let message = "`cookies` keys no cookie";
            let hint = "it has an effect beside a service with `sticky: {cookie: …}`, or `auth: {oidc: …}`";
            self.report(Diagnostic::error(message, cookies.span()).hint(hint));
        }
        for (kind, name, span) in named {
            let hint = match kind {
                "service" => "name it in a route, or remove it",
                "profile" => "take it with `use`, or remove it",
                "store" => "name it in a policy, as in `rate_limit: {store: NAME}`, or remove it",
                "issuer" => "name it in a policy, as in `auth: {jwt: NAME}`, or remove it",
                _ => "no listener has `tls` that presents it",
            };
            self.report(Diagnostic::error(format!("{kind} `{name}` is not used"), span).hint(hint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_errors_the_first_are_told_and_the_rest_counted() {
        let errors = |count: usize| -> Vec<Diagnostic> {
            let error = |at| Diagnostic::error(format!("error {at}"), Span::default());
            (0..count).map(error).collect()
        };
        assert_eq!(bounded(errors(ERRORS_MAX)).len(), ERRORS_MAX);
        let told = bounded(errors(ERRORS_MAX + 3));
        assert_eq!(told.len(), ERRORS_MAX + 1);
        assert_eq!(
            told[ERRORS_MAX].message,
            "3 more errors and warnings are not shown"
        );
    }
}
