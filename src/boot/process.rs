//! The running gateway: what there is one of, how it reloads, and what it tells operators.

use super::configuration::{self, KeptInclude, Loaded, Refused};
use super::{listening, one_line};
use crate::admin::{self, Control, read_only};
use crate::admin::{Counted, KeyQuery, LimitFailure};
use crate::config::model::Protocol;
use crate::config::{self, Dependencies, LastGood};
use crate::diagnostic::{Colour, Diagnostic, Sources};
use crate::discovery;
use crate::edge::{self, BindError, EdgeControl, ListenerSpec, Prepared};
use crate::exchange::answer::Answer;
use crate::issuers::Issuer;
use crate::limit::overload::{Overload, Seen};
use crate::observe::access_log::AccessLogs;
use crate::observe::metrics::{CertificateMetrics, ListenerMetrics, Metrics};
use crate::observe::time::rfc3339;
use crate::proxy::gateway::Operators;
use crate::snapshot::compile::World;
use crate::snapshot::upstream::Upstream;
use crate::snapshot::{Listener, Snapshot, Snapshots, Target};
use crate::state::State;
use crate::store::Store;
use crate::supervisor::{Supervisor, joined};
use crate::tasks::jobs::{Job, Jobs};
use crate::tasks::{self, pressure};
use crate::tls::{Alpn, TicketSecrets, Tickets, TlsError, TlsListener, TlsSettings};
use crate::units::Address;
use crate::upstream::Service;
use crate::upstream::connections::Bounded;
use async_trait::async_trait;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long what is left of the access log may take to reach its disk at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// How long a start waits for the first round of health checks: what hangs must not keep the rest from serving.
const FIRST_CHECKS: Duration = Duration::from_secs(5);

/// What a process is made of.
pub struct Parts<'a> {
    pub config_path: PathBuf,
    pub snapshots: Arc<Snapshots>,
    pub state: Arc<State>,
    pub metrics: Arc<Metrics>,
    pub logs: Arc<AccessLogs>,
    pub edge: EdgeControl,
    pub jobs: Jobs,
    pub overload: Arc<Overload>,
    pub loaded: &'a Loaded,
}

/// See the module.
pub struct Process {
    config_path: PathBuf,
    snapshots: Arc<Snapshots>,
    state: Arc<State>,
    metrics: Arc<Metrics>,
    logs: Arc<AccessLogs>,
    edge: EdgeControl,
    jobs: Jobs,
    overload: Arc<Overload>,
    /// What only a restart can change, as it was at the start.
    fixed: Fixed,
    tickets: OnceLock<Tickets>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    changing: Mutex<Changing>,
    started: Instant,
    started_at: SystemTime,
    ready: AtomicBool,
    /// Whether the first health checks have been waited for.
    checked: AtomicBool,
    /// What the first snapshot needs from the network is there, or was waited for long enough.
    warm: AtomicBool,
    draining: AtomicBool,
}

/// What reloads change besides the snapshot.
#[derive(Default)]
struct Changing {
    last_reload: Option<admin::LastReload>,
    /// Series of certificates and listeners, alive as long as they are in use.
    certificates: Vec<Arc<CertificateMetrics>>,
    listeners: Vec<Arc<ListenerMetrics>>,
    drain_timeout: Duration,
    admin: Vec<String>,
    /// What includes with `on_error: keep` go back to.
    last_good: LastGood,
    kept: Vec<admin::KeptInclude>,
}

impl Changing {
    /// Takes note of a configuration that serves from now on.
    fn take(&mut self, loaded: &Loaded, kept: &[KeptInclude]) {
        self.drain_timeout = drain_timeout(loaded);
        self.last_good.take(&loaded.includes, &loaded.sources);
        let before = std::mem::take(&mut self.kept);
        let now = rfc3339(SystemTime::now());
        let status = kept.iter().map(|include| {
            let known = before.iter().find(|known| *known.name == *include.name);
            admin::KeptInclude {
                name: include.name.to_string(),
                since: known.map_or_else(|| now.clone(), |known| known.since.clone()),
                error: include.error.to_string(),
            }
        });
        self.kept = status.collect();
    }
}

/// Settings that a reload can't change.
#[derive(PartialEq, Eq)]
struct Fixed {
    threads: usize,
    watch: bool,
    admin: Option<Vec<String>>,
}

impl Fixed {
    fn of(loaded: &Loaded) -> Self {
        let config = &loaded.config;
        let admin = config.admin.address.as_ref();
        Self {
            threads: configuration::threads(config),
            watch: config.watch.0,
            admin: admin.map(|addresses| {
                addresses
                    .0
                    .iter()
                    .map(|address| address.to_string())
                    .collect()
            }),
        }
    }

    /// What differs, by its key.
    fn changed(&self, other: &Self) -> Vec<&'static str> {
        let all = [
            ("threads", self.threads != other.threads),
            ("watch", self.watch != other.watch),
            ("admin.address", self.admin != other.admin),
        ];
        all.iter()
            .filter(|(_, changed)| *changed)
            .map(|(key, _)| *key)
            .collect()
    }
}

impl Process {
    pub fn new(parts: Parts<'_>) -> Self {
        let mut changing = Changing::default();
        changing.take(parts.loaded, &[]);
        Self {
            config_path: parts.config_path,
            snapshots: parts.snapshots,
            state: parts.state,
            metrics: parts.metrics,
            logs: parts.logs,
            edge: parts.edge,
            jobs: parts.jobs,
            overload: parts.overload,
            fixed: Fixed::of(parts.loaded),
            tickets: OnceLock::new(),
            reloading: Default::default(),
            changing: Mutex::new(changing),
            started: Instant::now(),
            started_at: SystemTime::now(),
            ready: AtomicBool::new(false),
            checked: AtomicBool::new(false),
            warm: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }
    }

    /// What keeps all of it going.
    pub fn supervisor(&self) -> &Arc<Supervisor> {
        self.metrics.supervisor()
    }

    /// The file that every reload reads.
    pub fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// Opens the listeners of the first snapshot.
    pub fn bind(&self, snapshot: &Snapshot, loaded: &Loaded) -> Result<(), Refused> {
        self.bound_connections(snapshot);
        let prepared = self.prepare(snapshot, loaded)?;
        prepared.commit();
        self.keep_series(snapshot);
        self.jobs.reconcile(self.jobs_of(snapshot));
        Ok(())
    }

    /// What is done in the background: what the snapshot asks for, and what the process does anyway.
    fn jobs_of(&self, snapshot: &Snapshot) -> Vec<Job> {
        let mut jobs = tasks::jobs_of(snapshot, &self.state);
        jobs.push(pressure::job(self.overload.clone(), self.edge.clone()));
        jobs
    }

    fn prepare(&self, snapshot: &Snapshot, loaded: &Loaded) -> Result<Prepared, Refused> {
        let refused = |diagnostics| Refused::by(diagnostics, loaded.sources.clone());
        let mut specs = self.specs(snapshot).map_err(|error| {
            let message = format!("TLS can't be set up: {error}");
            refused(vec![Diagnostic::error(message, Default::default())])
        })?;
        // as they are written: of two that want one address, the later is told, and errors come in the order of the file
        let names: Vec<_> = loaded.config.listeners.names().collect();
        specs.sort_by_key(|spec| names.iter().position(|name| **name == *spec.facts.name));
        self.edge
            .prepare(specs)
            .map_err(|errors| refused(errors.iter().map(|error| unbound(error, loaded)).collect()))
    }

    fn bound_connections(&self, snapshot: &Snapshot) {
        let at_most = snapshot.overload.connections;
        self.edge
            .set_connections_max(usize::try_from(at_most).unwrap_or(usize::MAX));
    }

    fn specs(&self, snapshot: &Snapshot) -> Result<Vec<ListenerSpec>, TlsError> {
        let active = snapshot
            .listeners
            .values()
            .filter(|listener| !listener.retired);
        let secrets = snapshot.ticket_secrets.as_ref();
        active
            .map(|listener| self.spec(listener, secrets))
            .collect()
    }

    fn spec(
        &self,
        listener: &Listener,
        secrets: Option<&TicketSecrets>,
    ) -> Result<ListenerSpec, TlsError> {
        let protocols = listening::protocols(listener);
        let alpn = match (protocols.h1, protocols.h2) {
            (_, false) => Alpn::H1,
            (false, true) => Alpn::H2,
            (true, true) => Alpn::H2H1,
        };
        let tls = match &listener.certificates {
            None => None,
            Some(certificates) => {
                let settings = TlsSettings {
                    listener: &listener.name,
                    certificates: certificates.clone(),
                    alpn,
                    oldest: listener.oldest_tls,
                };
                let tls = TlsListener::new(settings, self.tickets()?, secrets)?;
                Some(Arc::new(tls))
            }
        };
        Ok(listening::spec(listener, tls))
    }

    /// The keys that are made up last as long as the process, so that a reload forgets no session.
    fn tickets(&self) -> Result<&Tickets, TlsError> {
        if let Some(tickets) = self.tickets.get() {
            return Ok(tickets);
        }
        let fresh = Tickets::new()?;
        Ok(self.tickets.get_or_init(|| fresh))
    }

    fn keep_series(&self, snapshot: &Snapshot) {
        let expires = |name: &str, at: SystemTime| {
            let metrics = self.metrics.certificate(name);
            let expiry = at.duration_since(UNIX_EPOCH);
            metrics.set_expiry(expiry.map_or(0, |since| {
                i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
            }));
            metrics
        };
        let listeners = snapshot.listeners.values();
        let presented = listeners.flat_map(|listener| &listener.certificates);
        let mut certificates: Vec<_> = presented
            .flat_map(|all| all.iter())
            .map(|certificate| expires(certificate.name(), certificate.not_after()))
            .collect();
        certificates.extend(snapshot.services.iter().filter_map(|service| {
            let trust = service.maker.connecting.wire.trust.as_ref()?;
            let at = trust.client.as_ref()?.not_after();
            // not the name of a certificate, which has no slash
            Some(expires(&format!("service/{}", service.name), at))
        }));
        let listeners = snapshot
            .listeners
            .keys()
            .map(|name| self.metrics.listener(name))
            .collect();
        let mut changing = self.changing.lock();
        changing.certificates = certificates;
        changing.listeners = listeners;
    }

    /// Takes the configuration anew: all of it, or nothing.
    async fn take(&self) -> Result<(u64, Vec<String>), Refused> {
        let _one_at_a_time = self.reloading.lock().await;
        let (path, state, metrics, logs) = (
            self.config_path.clone(),
            self.state.clone(),
            self.metrics.clone(),
            self.logs.clone(),
        );
        let generation = self.snapshots.current().generation + 1;
        let last_good = self.changing.lock().last_good.clone();
        // compiling is pure work of perhaps seconds: not on a thread that serves
        let compiling = tokio::task::spawn_blocking(move || {
            let world = World {
                state: &state,
                metrics: &metrics,
                access_logs: Some(&logs),
            };
            configuration::load(&path, generation, &world, &last_good)
        });
        let compiled = joined(compiling.await);
        let mut compiled = compiled.map_err(|error| broken_off(&error.to_string()))??;
        self.check_stopping()?;
        self.check_fixed(&compiled.loaded)?;
        self.retire_listeners(&mut compiled.snapshot);
        let prepared = self.prepare(&compiled.snapshot, &compiled.loaded)?;
        warm(&compiled.snapshot).await;
        // a stop may have begun meanwhile
        self.check_stopping()?;
        let snapshot = Arc::new(compiled.snapshot);
        let warnings = snapshot
            .warnings
            .iter()
            .map(|warning| one_line(warning, &compiled.loaded.sources))
            .collect();
        self.metrics.serves(generation);
        self.snapshots.publish(snapshot.clone());
        self.overload.set(snapshot.overload);
        self.bound_connections(&snapshot);
        self.jobs.reconcile(self.jobs_of(&snapshot));
        prepared.commit();
        self.keep_series(&snapshot);
        self.changing.lock().take(&compiled.loaded, &compiled.kept);
        self.metrics.kept_includes(compiled.kept.len());
        self.state.sweep();
        Ok((generation, warnings))
    }

    /// A process that lets go of its listeners would open them again.
    fn check_stopping(&self) -> Result<(), Refused> {
        if !self.draining.load(Ordering::Relaxed) {
            return Ok(());
        }
        let message = "the gateway is stopping, and takes no configuration any more";
        let diagnostic = Diagnostic::error(message, Default::default());
        Err(Refused::by(vec![diagnostic], Sources::default()))
    }

    /// A change that would have no effect is refused by name.
    fn check_fixed(&self, loaded: &Loaded) -> Result<(), Refused> {
        let changed = Fixed::of(loaded).changed(&self.fixed);
        if changed.is_empty() {
            return Ok(());
        }
        let config = &loaded.config;
        let diagnostics = changed.iter().map(|key| {
            let at = match *key {
                "threads" => config.threads.as_ref().map(|threads| threads.span()),
                "admin.address" => config
                    .admin
                    .address
                    .as_ref()
                    .and_then(|all| all.0.first())
                    .map(|one| one.span()),
                _ => None,
            };
            Diagnostic::error(
                format!("`{key}` has changed, which needs a restart"),
                at.unwrap_or_default(),
            )
            .hint("restart, or set it back; nothing else of this change is in force yet")
        });
        Err(Refused::by(diagnostics.collect(), loaded.sources.clone()))
    }

    /// Keeps what is known of listeners that are gone while connections of theirs are left.
    fn retire_listeners(&self, next: &mut Snapshot) {
        let open: Vec<Arc<str>> = self
            .edge
            .listeners()
            .into_iter()
            .filter(|listener| listener.connections > 0)
            .map(|listener| listener.name)
            .collect();
        for (name, listener) in &self.snapshots.current().listeners {
            if open.contains(name) && !next.listeners.contains_key(name) {
                let retired = Listener {
                    retired: true,
                    ..Listener::clone(listener)
                };
                next.listeners.insert(name.clone(), Arc::new(retired));
            }
        }
    }

    /// Reloads, and says everywhere how that went.
    async fn reload_and_tell(&self) -> Result<admin::ReloadReport, admin::ReloadFailure> {
        let began = Instant::now();
        let broken_off = |message: &str| Err(broken_off(message));
        let taken = self.supervisor().or_else(self.take(), broken_off).await;
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut last = admin::LastReload {
            at: rfc3339(SystemTime::now()),
            success: taken.is_ok(),
            duration_ms,
            ..Default::default()
        };
        let result = match taken {
            Ok((generation, warnings)) => {
                self.metrics.reloaded(Ok(generation));
                tracing::info!(generation, duration_ms, "the configuration was reloaded");
                for warning in &warnings {
                    tracing::warn!("{warning}");
                }
                last.warnings = warnings.clone();
                Ok(admin::ReloadReport {
                    generation,
                    warnings,
                    ..Default::default()
                })
            }
            Err(refused) => {
                self.metrics.reloaded(Err(()));
                for diagnostic in refused
                    .diagnostics
                    .iter()
                    .filter(|diagnostic| diagnostic.is_error())
                {
                    tracing::error!(
                        "the configuration was refused: {}",
                        one_line(diagnostic, &refused.sources)
                    );
                }
                let text = refused.sources.render(&refused.diagnostics, Colour::Never);
                last.error = Some(text.clone());
                let diagnostics = refused.sources.to_json(&refused.diagnostics);
                let diagnostics = diagnostics.as_array().cloned().unwrap_or_default();
                Err(admin::ReloadFailure { diagnostics, text })
            }
        };
        self.changing.lock().last_reload = Some(last);
        result
    }

    /// SIGHUP.
    pub async fn reload_on_signal(&self) {
        let _ = self.reload_and_tell().await;
    }

    /// A file has changed, perhaps: reloads if the files are not those that are known, and tells what they are now;
    /// nothing if they could not be looked at.
    pub async fn reload_changed(&self, known: &Dependencies) -> Option<Dependencies> {
        let path = self.config_path.clone();
        let reading = tokio::task::spawn_blocking(move || match config::load(&path) {
            Ok(loaded) => loaded.dependencies,
            Err(failure) => failure.dependencies,
        });
        let now = joined(reading.await).ok()?;
        if now.fingerprint != known.fingerprint {
            let _ = self.reload_and_tell().await;
        }
        Some(now)
    }

    /// SIGUSR1.
    pub fn reopen_logs(&self) {
        self.logs.reopen_all();
    }

    pub fn admin_listens(&self, places: &[String]) {
        self.changing.lock().admin = places.to_vec();
    }

    /// Why requests should not come yet, while the first snapshot waits for the network. A reload waits before it takes
    /// effect, so this is over for good once it is over.
    fn cold(&self) -> Option<String> {
        if self.warm.load(Ordering::Relaxed) {
            return None;
        }
        let snapshot = self.snapshots.current();
        let mut cold = cold(&snapshot);
        if cold.is_empty() || self.started.elapsed() >= snapshot.warm_timeout {
            self.warm.store(true, Ordering::Relaxed);
            return None;
        }
        cold.sort_unstable();
        Some(format!("not known yet: {}", cold.join(", ")))
    }

    pub fn says_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// A service whose first round of health checks is not over, while a start waits for it.
    fn unchecked(&self) -> Option<Arc<str>> {
        if self.checked.load(Ordering::Relaxed) {
            return None;
        }
        let snapshot = self.snapshots.current();
        let waits = snapshot
            .services
            .iter()
            .find(|service| !service.is_checked());
        if waits.is_none() || self.started.elapsed() >= FIRST_CHECKS {
            self.checked.store(true, Ordering::Relaxed);
            return None;
        }
        waits.map(|service| service.name.clone())
    }

    /// Stops accepting, and waits until the last connection ends, or as long as it may take.
    pub async fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        let bound = self.changing.lock().drain_timeout;
        tracing::info!(
            seconds = bound.as_secs(),
            connections = self.edge.connections(),
            "draining"
        );
        self.edge.drain();
        let drained = tokio::time::timeout(bound, self.edge.drained()).await;
        if drained.is_err() {
            tracing::warn!(
                connections = self.edge.connections(),
                "some connections did not end in time"
            );
        }
    }

    /// The last words.
    pub fn stopped(&self) {
        if let Some(quotas) = self.state.open_quotas() {
            quotas.write();
        }
        self.logs.flush(FLUSH);
        tracing::info!("stopped");
    }
}

/// Finds what a new snapshot needs from the network and the running one does not know, while that one serves on.
async fn warm(snapshot: &Snapshot) {
    let endpoints = snapshot.discoveries.iter().map(|one| one.warm());
    let keys = snapshot.issuers.iter().filter_map(|one| one.published());
    let keys = keys.map(|published| published.warm());
    let warming = futures::future::join(
        futures::future::join_all(endpoints),
        futures::future::join_all(keys),
    );
    if tokio::time::timeout(snapshot.warm_timeout, warming)
        .await
        .is_err()
    {
        tracing::warn!(
            waiting = cold(snapshot).join(", "),
            "not everything is known in time; requests that need it are answered with 503"
        );
    }
}

/// What a snapshot needs from the network and has not heard of yet.
fn cold(snapshot: &Snapshot) -> Vec<String> {
    let endpoints = snapshot.discoveries.iter().filter(|one| !one.is_settled());
    let endpoints = endpoints.map(|one| format!("endpoints of {}", one.service.name));
    let keys = snapshot.issuers.iter().filter(|issuer| {
        let published = issuer.published();
        published.is_some_and(|published| !published.is_settled())
    });
    let keys = keys.map(|issuer| format!("keys of {}", issuer.name));
    let stores = snapshot
        .stores
        .iter()
        .filter(|store| !store.link.is_settled());
    let stores = stores.map(|store| format!("store {}", store.name));
    endpoints.chain(keys).chain(stores).collect()
}

/// A defect of ours has ended a reload before it could say how it went. What serves goes on.
fn broken_off(message: &str) -> Refused {
    let message = format!("loading broke off: {message}");
    let diagnostic = Diagnostic::error(message, Default::default());
    Refused::by(vec![diagnostic], Sources::default())
}

fn drain_timeout(loaded: &Loaded) -> Duration {
    loaded
        .config
        .drain_timeout
        .map_or(config::DRAIN_TIMEOUT, |timeout| timeout.0)
}

pub(super) fn edge_address(address: &Address) -> Option<edge::Address> {
    match address {
        Address::Ip(address) => Some(edge::Address::Ip(*address)),
        Address::Unix(path) => Some(edge::Address::Unix(path.clone(), SOCKET_MODE)),
        Address::Name { .. } => None,
    }
}

/// Whoever is in the group may connect; a proxy in front runs as another user.
const SOCKET_MODE: u32 = 0o660;

/// An address that can't be had, at the place where it is written.
fn unbound(error: &BindError, loaded: &Loaded) -> Diagnostic {
    let listener = loaded.config.listeners.get(&error.listener);
    let addresses = listener.map(|listener| &listener.address.0);
    let wanted = error.address.to_string();
    let written = addresses.and_then(|addresses| {
        addresses.iter().find(|address| {
            edge_address(address).is_some_and(|address| address.to_string() == wanted)
        })
    });
    let on_disk = matches!(error.address, edge::Address::Unix(..));
    let hint = bind_hint(error.error.kind(), on_disk);
    let message = format!(
        "listener `{}` can't be bound to `{wanted}`: {}",
        error.listener, error.error
    );
    Diagnostic::error(
        message,
        written.map(|address| address.span()).unwrap_or_default(),
    )
    .hint(hint)
}

/// What keeps a listener from its address. `on_disk`: it is a Unix socket.
fn bind_hint(kind: std::io::ErrorKind, on_disk: bool) -> &'static str {
    use std::io::ErrorKind;
    match (kind, on_disk) {
        (ErrorKind::AddrInUse, _) => "another process, or another listener, has it",
        (ErrorKind::AddrNotAvailable, _) => "no interface of this machine has it",
        (ErrorKind::PermissionDenied, false) => "ports below 1024 need CAP_NET_BIND_SERVICE",
        (ErrorKind::PermissionDenied, true) => "the gateway's user may not write in that folder",
        (ErrorKind::NotFound, true) => "the folder does not exist: create it",
        (ErrorKind::NotADirectory, true) => "a part of the path is not a folder",
        (ErrorKind::AlreadyExists, true) => {
            "something other than a socket is there: choose another path, or remove it"
        }
        (ErrorKind::ReadOnlyFilesystem, true) => "the file system is read-only",
        _ => "the operating system refused it",
    }
}

#[async_trait]
impl Control for Process {
    fn supervisor(&self) -> &Arc<Supervisor> {
        self.supervisor()
    }

    fn status(&self) -> admin::Status {
        let snapshot = self.snapshots.current();
        let changing = self.changing.lock();
        // both come out of maps: a list that changes its order can't be compared
        let mut listeners: Vec<_> = self
            .edge
            .listeners()
            .into_iter()
            .map(|one| listener_status(one, &snapshot))
            .collect();
        listeners.sort_by(|a, b| a.name.cmp(&b.name));
        let mut services: Vec<_> = snapshot
            .services
            .iter()
            .map(|service| service_status(service, &snapshot))
            .collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let mut issuers: Vec<_> = snapshot
            .issuers
            .iter()
            .filter_map(|one| issuer_status(one))
            .collect();
        issuers.sort_by(|a, b| a.name.cmp(&b.name));
        let mut stores: Vec<_> = snapshot
            .stores
            .iter()
            .map(|one| store_status(one))
            .collect();
        stores.sort_by(|a, b| a.name.cmp(&b.name));
        admin::Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started_at: rfc3339(self.started_at),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: snapshot.generation,
            last_reload: changing.last_reload.clone(),
            draining: self.draining.load(Ordering::Relaxed),
            not_ready: self.ready().err().unwrap_or_default(),
            overload: overload_status(self.overload.seen()),
            listeners,
            services,
            issuers,
            stores,
            restart_required: Vec::new(),
            kept: changing.kept.clone(),
            restarted: restarted_status(self.supervisor()),
        }
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        let mut reasons = Vec::new();
        if !self.ready.load(Ordering::Relaxed) {
            reasons.push("starting".to_owned());
        }
        if let Some(service) = self.unchecked() {
            reasons.push(format!("first health checks of {service}"));
        }
        if self.draining.load(Ordering::Relaxed) {
            reasons.push("draining".to_owned());
        }
        reasons.extend(self.cold());
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons)
        }
    }

    fn metrics_text(&self) -> String {
        for policy in &self.snapshots.current().counting {
            if let Some(counting) = &policy.hooks.counting {
                counting.measure();
            }
        }
        self.metrics.text()
    }

    fn effective_config(&self) -> serde_json::Value {
        self.snapshots.current().effective.clone()
    }

    fn routes(&self) -> Vec<admin::RouteStatus> {
        let snapshot = self.snapshots.current();
        snapshot
            .routes
            .iter()
            .map(|route| route_status(route))
            .collect()
    }

    fn service(&self, name: &str) -> Option<admin::ServiceStatus> {
        let snapshot = self.snapshots.current();
        let service = snapshot
            .services
            .iter()
            .find(|service| *service.name == *name);
        let found = service.map(|service| service_status(service, &snapshot));
        found.or_else(|| split_status(name, &snapshot))
    }

    fn limits(&self, counted: Counted, query: &KeyQuery) -> Vec<admin::LimitStatus> {
        super::limits::all(&self.snapshots.current(), counted, query)
    }

    fn limit(
        &self,
        counted: Counted,
        policy: &str,
        query: &KeyQuery,
    ) -> Result<admin::LimitStatus, LimitFailure> {
        super::limits::one(&self.snapshots.current(), counted, policy, query)
    }

    fn reset_limit(
        &self,
        counted: Counted,
        policy: &str,
        query: &KeyQuery,
    ) -> Result<admin::LimitStatus, LimitFailure> {
        super::limits::reset(&self.snapshots.current(), counted, policy, query)
    }

    fn grant(
        &self,
        policy: &str,
        query: &KeyQuery,
        amount: u64,
    ) -> Result<admin::LimitStatus, LimitFailure> {
        super::limits::grant(&self.snapshots.current(), policy, query, amount)
    }

    async fn quota_is_written(&self, policy: &str) -> bool {
        super::limits::quota_is_written(&self.snapshots.current(), policy).await
    }

    async fn reload(&self) -> Result<admin::ReloadReport, admin::ReloadFailure> {
        self.reload_and_tell().await
    }
}

/// The same of a split, which a route names as it names a service.
fn split_status(name: &str, snapshot: &Snapshot) -> Option<admin::ServiceStatus> {
    let mut splits = snapshot.routes.iter().filter_map(|route| route.split());
    let split = splits.find(|split| *split.name == *name)?;
    let arm = |(service, weight): (&Arc<Service>, Option<u32>)| admin::ArmStatus {
        service: service.name.to_string(),
        weight,
    };
    Some(admin::ServiceStatus {
        name: name.to_owned(),
        split: split.arms().map(arm).collect(),
        ..admin::ServiceStatus::default()
    })
}

fn restarted_status(supervisor: &Supervisor) -> Vec<admin::RestartedStatus> {
    let all = supervisor.restarts().into_iter();
    let status = all.map(|(task, restarts)| admin::RestartedStatus {
        task: task.to_string(),
        restarts: restarts.count,
        last_at: rfc3339(restarts.last_at),
        reason: restarts.reason.to_string(),
    });
    status.collect()
}

fn overload_status(seen: Seen) -> admin::OverloadStatus {
    let known = |bytes: u64| (bytes > 0).then_some(bytes);
    admin::OverloadStatus {
        state: seen.level.as_str().to_owned(),
        requests_in_flight: seen.in_flight,
        requests_max: seen.requests_max,
        memory_bytes: known(seen.memory_bytes),
        memory_bytes_max: known(seen.memory_bytes_max),
        refused_percent: seen.refused_share.div_ceil(10_000),
    }
}

fn listener_status(listener: edge::ListenerStatus, snapshot: &Snapshot) -> admin::ListenerStatus {
    let compiled = snapshot.listeners.get(&listener.name);
    let protocols = compiled.map(|listener| {
        listener.protocols.iter().filter_map(|protocol| {
            let name = match protocol {
                Protocol::H1 => "h1",
                Protocol::H2 if listener.facts.tls => "h2",
                Protocol::H2 => return None,
                Protocol::H2c => "h2c",
            };
            Some(name.to_owned())
        })
    });
    let mut addresses: Vec<String> = listener
        .addresses
        .iter()
        .map(|(address, _)| address.to_string())
        .collect();
    addresses.sort();
    admin::ListenerStatus {
        name: listener.name.to_string(),
        addresses,
        protocols: protocols.into_iter().flatten().collect(),
        connections: listener.connections as u64,
    }
}

fn service_status(service: &Arc<Service>, snapshot: &Snapshot) -> admin::ServiceStatus {
    let set = service.set();
    let endpoints = set.endpoints().iter().map(|endpoint| {
        let standing = endpoint.state.standing();
        admin::EndpointStatus {
            address: endpoint.name.to_string(),
            weight: endpoint.weight,
            in_flight: u64::from(endpoint.state.in_flight()),
            up: endpoint.state.is_usable(),
            state: standing.state,
            reason: standing.reason.as_deref().map(str::to_owned),
            since: standing.since.map(rfc3339),
            breaker: endpoint.breaker().map(|stand| stand.as_str().to_owned()),
            connections: endpoint.connections().map(Bounded::open),
        }
    });
    let discoveries = snapshot.discoveries.iter();
    let sources = discoveries
        .filter(|discovery| Arc::ptr_eq(&discovery.service, service))
        .flat_map(|discovery| discovery.status());
    admin::ServiceStatus {
        name: service.name.to_string(),
        panicking: set.is_panicking(),
        breaker: service.breaker().map(|stand| stand.as_str().to_owned()),
        pending: service.pending(),
        split: Vec::new(),
        endpoints: endpoints.collect(),
        sources: sources.map(source_status).collect(),
    }
}

fn issuer_status(issuer: &Issuer) -> Option<admin::IssuerStatus> {
    let status = issuer.published()?.status();
    Some(admin::IssuerStatus {
        name: issuer.name.to_string(),
        keys: status.keys as u64,
        age_seconds: status.age.map(|age| age.as_secs()),
        error: status.error,
    })
}

fn store_status(store: &Store) -> admin::StoreStatus {
    let status = store.status();
    admin::StoreStatus {
        name: store.name.to_string(),
        up: status.up,
        on_failure: store.on_failure.as_str().to_owned(),
        gateways: status.gateways,
        error: status.error.map(str::to_owned),
    }
}

fn source_status(source: discovery::SourceStatus) -> admin::SourceStatus {
    let refused = source
        .refused
        .iter()
        .map(|(address, refusal)| format!("{address}: {}", refusal.as_str()));
    admin::SourceStatus {
        source: source.label.to_string(),
        endpoints: source.endpoints as u64,
        refused: refused.collect(),
        age_seconds: source.age.map(|age| age.as_secs()),
        error: source.error,
    }
}

fn route_status(route: &crate::snapshot::Route) -> admin::RouteStatus {
    let target = match &route.target {
        Target::Upstream(Upstream::Service(service)) => format!("service {}", service.name),
        Target::Upstream(Upstream::Split(split)) => format!("split {}", split.name),
        Target::Redirect { status, .. } => format!("redirect {}", status.as_u16()),
        Target::Respond(answer) => format!("respond {}", answer.status.as_u16()),
        Target::None => "none".to_owned(),
    };
    admin::RouteStatus {
        name: route.name.to_string(),
        group: route.group.as_deref().map(str::to_owned),
        matches: route.matches.clone(),
        target,
        policies: route
            .chain
            .policies()
            .iter()
            .filter(|policy| policy.plan.is_none())
            .map(|policy| policy.place.to_string())
            .collect(),
    }
}

/// Answers of listeners for operators, once there is a process to ask. The proxy is made before it.
#[derive(Default)]
pub struct LateOperators(OnceLock<Arc<Process>>);

impl LateOperators {
    pub fn set(&self, process: Arc<Process>) {
        let _ = self.0.set(process);
    }
}

impl Operators for LateOperators {
    fn answer(&self, path: &str, health: bool, metrics: bool) -> Option<Answer> {
        let process = self.0.get()?;
        read_only::answer(
            path,
            read_only::Serves { health, metrics },
            process.as_ref(),
        )
    }
}
