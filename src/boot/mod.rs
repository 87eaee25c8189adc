//! Start and stop, in order: configuration, state, snapshot, sockets, services; then signals until the end.

pub mod configuration;
mod demo;
mod edge_answers;
mod lifecycle;
pub mod limits;
mod listening;
mod process;

use crate::admin;
use crate::config::{Config, LastGood};
use crate::diagnostic::{Colour, Diagnostic, Sources};
use crate::edge::Edge;
use crate::limit::descriptors;
use crate::limit::overload::Overload;
use crate::observe::access_log::AccessLogs;
use crate::observe::metrics::Metrics;
use crate::proxy::Gateway;
use crate::snapshot::Snapshots;
use crate::snapshot::compile::World;
use crate::state::State;
use crate::tasks::background::OnThisThread;
use crate::tasks::{jobs, watch};
use crate::upstream::connections::LOOKS_MAX;
use crate::upstream::retries::ATTEMPTS_MAX;
use configuration::Refused;
use pingora_core::apps::HttpServerOptions;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use pingora_proxy::HttpProxy;
use process::Process;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// What `northgate run` was told.
pub struct Options {
    /// None: the quickstart.
    pub config: Option<PathBuf>,
    pub demo: bool,
}

/// What `sysexits.h` calls `EX_CONFIG`.
pub const EXIT_CONFIG: u8 = 78;

/// Connections to endpoints that are kept unused, over all threads, and the fewest for each of them.
const POOL_SIZE: usize = 2048;
const POOL_SIZE_MIN: usize = 128;

/// Serves until it is told to stop. An error at the start is printed, and becomes the exit code.
pub fn run(options: Options) -> ExitCode {
    if let Err(error) = crate::observe::log::init(crate::observe::log::Format::Text) {
        complain(&format!("northgate: {error}\n"));
        return ExitCode::from(2);
    }
    lifecycle::wait_with_signals();
    install_crypto();
    match start(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError::Refused(refused)) => {
            complain(&rendered(&refused.diagnostics, &refused.sources));
            complain("northgate: not started\n");
            ExitCode::from(EXIT_CONFIG)
        }
        Err(StartError::Other(error)) => {
            complain(&format!("northgate: not started: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Writes to stderr; `eprint!` would panic where nobody reads it any more.
fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

enum StartError {
    Refused(Refused),
    Other(String),
}

/// Makes aws-lc the one provider of cryptography, before rustls or Pingora look for one.
pub fn install_crypto() {
    // an error means that one is installed, which can only be this one
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn start(options: Options) -> Result<(), StartError> {
    let other =
        |what: &str, error: &dyn std::fmt::Display| StartError::Other(format!("{what}: {error}"));
    let quickstart;
    let config_path = match options.config {
        Some(path) => path,
        None => {
            quickstart = demo::Quickstart::find().map_err(|error| other("quickstart", &error))?;
            quickstart.path().to_owned()
        }
    };
    let descriptors = descriptors::raise();
    let metrics = Metrics::new();
    let state = Arc::new(State::kept_in(crate::state::directory()));
    let logs = AccessLogs::start(metrics.access_log_dropped(), metrics.supervisor())
        .map_err(|error| other("access log", &error))?;
    let logs = Arc::new(logs);
    let world = World {
        state: &state,
        metrics: &metrics,
        access_logs: Some(&logs),
    };
    let compiled = configuration::load(&config_path, 1, &world, &LastGood::default())
        .map_err(StartError::Refused)?;
    let snapshot = Arc::new(compiled.snapshot);
    for warning in &snapshot.warnings {
        tracing::warn!("{}", one_line(warning, &compiled.loaded.sources));
    }
    compare(descriptors, &compiled.loaded.config);
    let threads = configuration::threads(&compiled.loaded.config);
    let server = Server::new_with_opt_and_conf(None, server_conf(threads));
    let operators = Arc::new(process::LateOperators::default());
    let snapshots = Arc::new(Snapshots::new(snapshot.clone()));
    let supervisor = metrics.supervisor().clone();
    let counted = supervisor.clone();
    let background = Arc::new(OnThisThread::new(Arc::new(move || counted.panicked())));
    let overload = Arc::new(Overload::new(threads, snapshot.overload));
    metrics.tell_overload(&overload);
    // a proxy for each thread, so that connections to endpoints stay on it too
    let proxies = (0..threads).map(|thread| {
        let gateway = Gateway {
            snapshots: snapshots.clone(),
            metrics: metrics.clone(),
            operators: operators.clone(),
            background: background.clone(),
            desk: overload.desk(thread),
        };
        let mut proxy = pingora_proxy::http_proxy(&server.configuration, gateway);
        // it is ours to refuse, as every other request: Pingora's 405 is no problem, and is neither counted nor logged
        let mut options = HttpServerOptions::default();
        options.allow_connect_method_proxying = true;
        proxy.server_options = Some(options);
        Arc::new(proxy)
    });
    let proxies = proxies.collect();
    let answers = Arc::new(edge_answers::Answers::new(
        snapshots.clone(),
        metrics.clone(),
    ));
    let (edge, control) = Edge::new(proxies, answers.clone(), answers, supervisor.clone())
        .map_err(|error| other("threads", &error))?;
    let (jobs, runner) = jobs::jobs(supervisor);
    let process = Arc::new(Process::new(process::Parts {
        config_path: config_path.clone(),
        snapshots,
        state,
        metrics: metrics.clone(),
        logs,
        edge: control,
        jobs,
        overload,
        loaded: &compiled.loaded,
    }));
    operators.set(process.clone());
    process
        .bind(&snapshot, &compiled.loaded)
        .map_err(StartError::Refused)?;
    // it ends when another has taken its place and its last request is over
    drop(snapshot);
    metrics.serves(1);
    if options.demo {
        demo::check_ports().map_err(StartError::Other)?;
    }
    let demo = options.demo.then_some(config_path.as_path());
    serve(server, (edge, runner), process, &compiled.loaded, demo)
}

/// Says where the system lets the process have less than the configuration wants clients to have.
fn compare(descriptors: std::io::Result<u64>, config: &Config) {
    let overload = config.overload.as_ref();
    let connections = overload.and_then(|overload| overload.connections.as_ref());
    let connections = connections.map_or(0, |count| count.get());
    match descriptors {
        Ok(descriptors) if descriptors < connections => tracing::warn!(
            descriptors,
            connections,
            "clients may have more connections (`overload: {{connections}}`) than this process may have file \
             descriptors (`LimitNOFILE` of systemd, `ulimit -Hn`)"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the bound of file descriptors can't be raised"),
    }
}

/// Adds the services to the server, and runs it to its end. `demo` is the file that a newcomer is told to edit.
fn serve(
    mut server: Server,
    (edge, runner): (Edge<HttpProxy<Gateway>>, jobs::Runner),
    process: Arc<Process>,
    loaded: &configuration::Loaded,
    demo: Option<&std::path::Path>,
) -> Result<(), StartError> {
    let admin = admin_services(&process, loaded)?;
    let sockets: Vec<String> = admin.iter().map(|(place, _)| place.clone()).collect();
    process.admin_listens(&sockets);
    server.add_service(edge);
    server.add_service(pingora_core::services::background::background_service(
        "jobs", runner,
    ));
    for (_, service) in admin {
        server.add_service(service);
    }
    if loaded.config.watch.0 {
        let reloading = process.clone();
        let reload: watch::Reload = Box::new(move |known| {
            let (process, known) = (reloading.clone(), known.clone());
            Box::pin(async move { process.reload_changed(&known).await })
        });
        let supervisor = process.supervisor().clone();
        let watching = watch::Watch::new(loaded.dependencies.clone(), reload, supervisor);
        server.add_service(pingora_core::services::background::background_service(
            "watch", watching,
        ));
    }
    if let Some(config) = demo {
        demo::add_origins(&mut server);
        demo::print_what_to_try(config, &sockets);
    }
    let lifecycle = lifecycle::Lifecycle::new(process.clone());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %process.config_path().display(),
        "serving; admin on {}",
        sockets.join(", ")
    );
    server.run(RunArgs {
        shutdown_signal: Box::new(lifecycle),
    });
    process.stopped();
    Ok(())
}

fn admin_services(
    process: &Arc<Process>,
    loaded: &configuration::Loaded,
) -> Result<Vec<(String, admin::server::AdminService)>, StartError> {
    use crate::units::Address;
    let written = loaded
        .config
        .admin
        .address
        .as_ref()
        .map(|addresses| &addresses.0);
    let Some(written) = written else {
        let path =
            admin::socket::choose_socket(admin::socket::default_sockets()).map_err(|failures| {
                let tried = failures
                    .iter()
                    .map(|(path, error)| format!("{}: {error}", path.display()));
                StartError::Other(format!(
                    "no place for the admin socket: {}\nhint: give this gateway one of its own, as \
                     `admin: {{address: unix:/path/admin.sock}}`",
                    tried.collect::<Vec<_>>().join("; ")
                ))
            })?;
        return Ok(vec![on_socket(process, &path)?]);
    };
    let mut services = Vec::new();
    for address in written {
        let refused = |error: &dyn std::fmt::Display| {
            let diagnostic = Diagnostic::error(
                format!("the admin API can't listen on `{}`: {error}", **address),
                address.span(),
            )
            .hint("is another gateway running? Each needs an address of its own that it may use");
            StartError::Refused(Refused::by(vec![diagnostic], loaded.sources.clone()))
        };
        match &**address {
            Address::Unix(path) => {
                admin::socket::prepare_socket(path).map_err(|error| refused(&error))?;
                services.push(on_socket(process, path)?);
            }
            Address::Ip(ip) => {
                // Pingora finds out about a taken port much later
                std::net::TcpListener::bind(ip).map_err(|error| refused(&error))?;
                let service = admin::server::service_on_loopback(process.clone(), *ip);
                services.push((ip.to_string(), service.map_err(|error| refused(&error))?));
            }
            Address::Name { .. } => return Err(refused(&"it is a name")),
        }
    }
    Ok(services)
}

fn on_socket(
    process: &Arc<Process>,
    path: &std::path::Path,
) -> Result<(String, admin::server::AdminService), StartError> {
    let service = admin::server::service_on_socket(process.clone(), path);
    let service = service.map_err(|error| StartError::Other(error.to_string()))?;
    Ok((format!("unix:{}", path.display()), service))
}

/// Pingora's settings, each set on purpose (security requirement 12).
fn server_conf(threads: usize) -> ServerConf {
    ServerConf {
        // of each service but the edge, which has threads of its own
        threads: 1,
        // of all tries, over the whole process; the request path decides on fewer
        // a request that looks for a connection is another try to Pingora
        max_retries: usize::from(ATTEMPTS_MAX) + usize::from(LOOKS_MAX),
        upstream_keepalive_pool_size: (POOL_SIZE / threads.max(1)).max(POOL_SIZE_MIN),
        // draining is ours, and over before Pingora is told to stop
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        pid_file: "/run/northgate/pid".into(),
        upgrade_sock: "/run/northgate/upgrade.sock".into(),
        ..ServerConf::default()
    }
}

/// Diagnostics as a person reads them, in colour on a terminal.
pub fn rendered(diagnostics: &[Diagnostic], sources: &Sources) -> String {
    let coloured = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    sources.render(
        diagnostics,
        if coloured {
            Colour::Always
        } else {
            Colour::Never
        },
    )
}

/// A diagnostic for a log: its place and its message.
pub fn one_line(diagnostic: &Diagnostic, sources: &Sources) -> String {
    match sources.place(diagnostic.span) {
        Some(place) => format!("{place}: {}", diagnostic.message),
        None => diagnostic.message.clone(),
    }
}
