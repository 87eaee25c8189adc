//! Endpoints whose addresses are not written: names, SRV records, files.
//!
//! Nothing here asks the network. A file is read, since one that is missing or wrong is a mistake at load; names are
//! asked for when the snapshot is warmed.

use crate::config::endpoints_file;
use crate::config::model::{self, Endpoint};
use crate::diagnostic::Diagnostic;
use crate::discovery::{ENDPOINTS_MAX, Finder, Gate, Kind, Listed, Refusal, Resolver, Source};
use crate::discovery::{answer::Family, gate, resolver};
use crate::snapshot::compile::Compiler;
use crate::units::{Address, Span, Spanned};
use crate::upstream::service::Placed;
use ahash::AHashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long the last good answer is kept after its TTL, where nothing is written (security requirement 10).
const MAX_STALE: Duration = Duration::from_secs(3600);

/// How DNS is asked where nothing is written.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: u8 = 2;

/// The most that may be written: an answer after a minute helps nobody.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
const ATTEMPTS_MAX: u8 = 10;

/// How long what needs the network is waited for where nothing is written (design 3.6).
const WARM_TIMEOUT: Duration = Duration::from_secs(10);

/// What asks DNS for this configuration.
pub fn resolver(compiler: &mut Compiler<'_>) -> Arc<Resolver> {
    let written = compiler.config.resolver.as_deref();
    let timeout = written.and_then(|written| written.timeout.as_ref());
    let attempts = written.and_then(|written| written.attempts.as_ref());
    if let Some(timeout) = timeout
        && (timeout.0.is_zero() || timeout.0 > TIMEOUT_MAX)
    {
        let message = match timeout.0.is_zero() {
            true => "a DNS server needs time to answer".to_owned(),
            false => format!("{} is too long to wait for a DNS server", **timeout),
        };
        compiler.report(
            Diagnostic::error(message, timeout.span()).hint("from `1ms` to `1m`; 2s by default"),
        );
    }
    if let Some(attempts) = attempts
        && !(1..=ATTEMPTS_MAX).contains(&**attempts)
    {
        let message = format!("{} attempts make no question", **attempts);
        compiler.report(
            Diagnostic::error(message, attempts.span())
                .hint(format!("from 1 to {ATTEMPTS_MAX}; 2 by default")),
        );
    }
    let servers = written.and_then(|written| written.servers.as_ref());
    Arc::new(Resolver::new(resolver::Settings {
        servers: servers
            .into_iter()
            .flat_map(|servers| &servers.0)
            .map(|server| server.0)
            .collect(),
        timeout: timeout.map_or(TIMEOUT, |timeout| timeout.0),
        attempts: usize::from(attempts.map_or(ATTEMPTS, |attempts| **attempts)),
        family: written
            .and_then(|written| written.family)
            .map(|family| match family {
                model::Family::Ipv4 => Family::V4,
                model::Family::Ipv6 => Family::V6,
            }),
    }))
}

/// How long what needs the network is waited for.
pub fn warm_timeout(compiler: &Compiler<'_>) -> Duration {
    let written = compiler.config.warm_timeout.as_ref();
    written.map_or(WARM_TIMEOUT, |timeout| timeout.0)
}

/// What no service makes use of has no effect.
pub fn check_used(compiler: &mut Compiler<'_>) {
    if compiler.asks_dns {
        return;
    }
    let config = compiler.config;
    let mut issuers = compiler.issuers.values().flatten();
    let fetches = issuers.any(|issuer| issuer.published().is_some());
    let warm = config.warm_timeout.as_ref().filter(|_| !fetches);
    let settings = [
        ("resolver", config.resolver.as_ref().map(Spanned::span)),
        ("warm_timeout", warm.map(Spanned::span)),
    ];
    for (key, at) in settings {
        if let Some(at) = at {
            let message = format!("`{key}` has no effect: no endpoint is looked up in DNS");
            compiler.report(
                Diagnostic::error(message, at)
                    .hint("name endpoints, as `orders.internal:8080`, or remove it"),
            );
        }
    }
}

/// Reports an endpoint that is a listener of the gateway itself: a request would come back, or reach the admin API.
pub fn check_own(compiler: &mut Compiler<'_>, address: &Address, at: Span) -> bool {
    let is_own = match address {
        Address::Ip(ip) => gate_of(compiler, &[]).is_own(*ip, |_| false),
        Address::Unix(path) => listening(compiler).any(|own| own == &Address::Unix(path.clone())),
        Address::Name { .. } => false,
    };
    if is_own {
        let message = format!("`{address}` is where the gateway itself listens");
        compiler
            .report(Diagnostic::error(message, at).hint(
                "an endpoint is another server; a route of this one needs no second request",
            ));
    }
    is_own
}

/// What finds the endpoints of a service that are not fixed; none if all are.
pub fn finder(
    compiler: &mut Compiler<'_>,
    name: &str,
    service: &model::Service,
    written: &[Spanned<Endpoint>],
    fixed: Vec<Placed>,
) -> Result<Finder, Vec<Placed>> {
    let settings = service.discovery.as_deref();
    let allow: Vec<_> = settings
        .and_then(|settings| settings.allow.as_ref())
        .into_iter()
        .flat_map(|allow| &allow.0)
        .map(|net| **net)
        .collect();
    let gate = gate_of(compiler, &allow);
    let mut seen: AHashMap<Arc<str>, Span> = AHashMap::new();
    let mut sources = Vec::new();
    for endpoint in written {
        let Some((kind, listed)) = kind_of(compiler, endpoint, &gate) else {
            continue;
        };
        let source = Source::new(name, kind, compiler.world.state, compiler.world.metrics);
        if let Some(before) = seen.insert(source.label.clone(), endpoint.span()) {
            let message = format!("endpoint `{}` stands twice", source.label);
            let twice = Diagnostic::error(message, endpoint.span());
            compiler.report(twice.related(before, "first here"));
            continue;
        }
        if let Some(listed) = listed {
            source.begin_with(listed);
        }
        sources.push(source);
    }
    if sources.is_empty() {
        if let Some(settings) = &service.discovery
            && written.iter().all(|endpoint| is_fixed(endpoint))
        {
            let message = "`discovery` has no effect: every endpoint is a written address";
            compiler.report(
                Diagnostic::error(message, settings.span())
                    .hint("remove it, or name endpoints, as `orders.internal:8080`"),
            );
        }
        return Err(fixed);
    }
    Ok(Finder {
        fixed,
        sources,
        gate,
        max_stale: settings
            .and_then(|settings| settings.max_stale)
            .map_or(MAX_STALE, |stale| stale.0),
        resolver: compiler.resolver.clone(),
    })
}

/// Whether its address is written.
pub fn is_fixed(endpoint: &Endpoint) -> bool {
    matches!(
        endpoint,
        Endpoint::Address {
            address: Address::Ip(_) | Address::Unix(_),
            ..
        }
    )
}

/// What kind of source it is, and what a file lists. None if it is fixed, or wrong.
fn kind_of(
    compiler: &mut Compiler<'_>,
    endpoint: &Spanned<Endpoint>,
    gate: &Gate,
) -> Option<(Kind, Option<Vec<Listed>>)> {
    match &**endpoint {
        Endpoint::Address {
            address: Address::Name { host, port },
            weight,
        } => {
            compiler.asks_dns = true;
            check_localhost(compiler, host, *port, endpoint.span(), gate)?;
            let host = (&**host).into();
            let (port, weight) = (*port, *weight);
            Some((Kind::Name { host, port, weight }, None))
        }
        Endpoint::Address { .. } => None,
        Endpoint::Srv(name) => {
            compiler.asks_dns = true;
            Some((Kind::Srv(name.0.clone()), None))
        }
        Endpoint::File(file) => {
            let path = beside(compiler, file, endpoint.span());
            let read = |path: &Path| {
                let listed = endpoints_file::read(path, ENDPOINTS_MAX)?;
                Ok(listed
                    .into_iter()
                    .map(|(address, weight)| Listed {
                        address,
                        weight,
                        name: None,
                    })
                    .collect::<Vec<_>>())
            };
            match read(&path) {
                Ok(listed) => {
                    let read = Arc::new(read);
                    Some((Kind::File { path, read }, Some(listed)))
                }
                Err(error) => {
                    compiler.report(Diagnostic::error(error, endpoint.span()));
                    None
                }
            }
        }
    }
}

/// `localhost` is loopback wherever it is asked for (RFC 6761 §6.3), which discovery does not take.
fn check_localhost(
    compiler: &mut Compiler<'_>,
    host: &str,
    port: u16,
    at: Span,
    gate: &Gate,
) -> Option<()> {
    let is_localhost = host == "localhost" || host.ends_with(".localhost");
    let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    if is_localhost && gate.check(loopback) == Err(Refusal::Loopback) {
        let message = format!("`{host}` is a loopback address, which is not taken from a name");
        compiler.report(Diagnostic::error(message, at).hint(format!(
            "write `127.0.0.1:{port}`, or `discovery: {{allow: [127.0.0.0/8]}}`"
        )));
        return None;
    }
    Some(())
}

/// A relative path begins at the file in which it stands.
fn beside(compiler: &Compiler<'_>, path: &str, at: Span) -> PathBuf {
    let file = compiler.sources.name(at.file).map(Path::new);
    let folder = file.and_then(Path::parent).unwrap_or(Path::new(""));
    folder.join(path)
}

fn gate_of(compiler: &Compiler<'_>, allow: &[crate::units::Cidr]) -> Gate {
    let own = listening(compiler).filter_map(|address| match address {
        Address::Ip(ip) => Some(*ip),
        _ => None,
    });
    debug_assert_eq!(gate::Refusal::ALL.len(), 7, "as many as their metric has");
    Gate {
        allow: allow.to_vec(),
        own: own.collect(),
    }
}

/// Every address that the gateway listens on.
fn listening<'a>(compiler: &Compiler<'a>) -> impl Iterator<Item = &'a Address> {
    let config = compiler.config;
    let listeners = config
        .listeners
        .0
        .iter()
        .flat_map(|(_, listener)| &listener.address.0);
    let admin = config
        .admin
        .address
        .iter()
        .flat_map(|addresses| &addresses.0);
    listeners.chain(admin).map(|address| &**address)
}
