//! Listeners: whom they trust, what they are for, which certificates they present.

pub mod certificates;
mod clients;
mod limits;

use super::Compiler;
use crate::config::model::{self, Protocol, Serve, TrustedProxy};
use crate::diagnostic::Diagnostic;
use crate::exchange::client::{ForwardedBy, TrustedProxies};
use crate::exchange::connection::ListenerFacts;
use crate::snapshot::{Listener, Role};
use crate::tls::Oldest;
use crate::units::{Address, OneOrMany, Spanned};
use ahash::AHashMap;
use std::sync::Arc;

/// Without a listener nothing is served.
pub fn check_any(compiler: &mut Compiler<'_>) {
    let listeners = &compiler.config.listeners;
    if listeners.iter().len() == 0 {
        let message = "there is no listener: nothing would be served";
        let hint = "add one, such as `public: {address: 0.0.0.0:8080}`";
        compiler.report(Diagnostic::error(message, listeners.span()).hint(hint));
    }
}

/// Compiles all listeners.
pub fn compile(compiler: &mut Compiler<'_>) -> AHashMap<Arc<str>, Arc<Listener>> {
    let certificates = certificates::compile(compiler);
    let config = compiler.config;
    let mut listeners = AHashMap::new();
    let mut addresses = Vec::new();
    let tls_port = tls_port(config);
    for (name, listener) in config.listeners.iter() {
        check_addresses(compiler, listener, &mut addresses);
        let clients = clients::of_listener(compiler, listener);
        let tls = listener
            .tls
            .as_ref()
            .and_then(|tls| certificates::presented(compiler, tls, &certificates))
            .map(|tls| Arc::new(tls.asking(clients)));
        if let (Some(tls), Some(at)) = (&tls, &listener.tls) {
            clients::check(compiler, tls, at.span());
        }
        let trusted = trusted(
            listener
                .trusted_proxies
                .as_ref()
                .or(config.trusted_proxies.as_ref()),
        );
        let compiled = Listener {
            name: name.shared(),
            facts: Arc::new(ListenerFacts::new(name.shared(), listener.tls.is_some())),
            addresses: listener
                .address
                .0
                .iter()
                .map(|address| (**address).clone())
                .collect(),
            protocols: protocols(compiler, listener),
            proxy_protocol: proxy_protocol(compiler, listener, &trusted),
            trusted,
            forwarded: forwarded(listener.forwarded.or(config.forwarded)),
            role: role(compiler, listener, tls_port),
            head: limits::head(listener.limits.as_deref()),
            limits: limits::of(compiler, listener.limits.as_ref()),
            socket: limits::socket(compiler, listener.socket.as_ref()),
            retired: false,
            certificates: tls,
            oldest_tls: oldest(listener),
        };
        listeners.insert(name.shared(), Arc::new(compiled));
    }
    listeners
}

/// The admin API has no authentication yet: a Unix socket or loopback, nothing else (security requirement 11.7).
pub fn check_admin(compiler: &mut Compiler<'_>) {
    let config = compiler.config;
    let addresses = config
        .admin
        .address
        .iter()
        .flat_map(|addresses| &addresses.0);
    for address in addresses {
        check_shared(compiler, address);
        let message = match &**address {
            Address::Unix(_) => continue,
            Address::Ip(ip) if ip.ip().to_canonical().is_loopback() => continue,
            Address::Ip(_) => format!(
                "the admin API has no authentication, and `{}` is not loopback",
                **address
            ),
            Address::Name { .. } => format!(
                "`{}` is a name, and the admin API needs an address",
                **address
            ),
        };
        compiler.report(
            Diagnostic::error(message, address.span())
                .hint("`unix:/path`, or `127.0.0.1:9901`, read-only"),
        );
    }
}

/// Requests of clients and of operators can't come in at one place.
fn check_shared(compiler: &mut Compiler<'_>, admin: &Spanned<Address>) {
    let config = compiler.config;
    for (name, listener) in config.listeners.iter() {
        if let Some(same) = listener.address.0.iter().find(|one| one.overlaps(admin)) {
            let message = format!(
                "`{}` of listener `{}` takes the address of the admin API",
                **same,
                name.as_str()
            );
            compiler.report(
                Diagnostic::error(message, same.span())
                    .related(admin.span(), "the admin API is here")
                    .hint("each needs an address of its own"),
            );
        }
    }
}

/// One socket can't be two listeners'.
fn check_addresses<'a>(
    compiler: &mut Compiler<'_>,
    listener: &'a model::Listener,
    taken: &mut Vec<&'a Spanned<Address>>,
) {
    for address in &listener.address.0 {
        if let Address::Name { .. } = &**address {
            let message = format!("`{}` is a name, and a listener needs an address", **address);
            compiler.report(
                Diagnostic::error(message, address.span())
                    .hint("`0.0.0.0:8080`, `[::]:8080` or `unix:/path`"),
            );
        }
        if let Some(other) = taken.iter().find(|other| other.overlaps(address)) {
            let equal = ***other == **address;
            let message = match equal {
                true => format!("`{}` is taken by another listener", **address),
                false => format!("`{}` overlaps with `{}`", **address, ***other),
            };
            let error = Diagnostic::error(message, address.span());
            let error = error.related(other.span(), "the other one is here");
            compiler.report(match equal {
                true => error,
                false => error.hint(OVERLAP_HINT),
            });
        }
        taken.push(address);
    }
}

const OVERLAP_HINT: &str =
    "`0.0.0.0` is all addresses of IPv4, and `[::]` all there are: leave out what it takes in";

fn protocols(compiler: &mut Compiler<'_>, listener: &model::Listener) -> Vec<Protocol> {
    let Some(written) = &listener.protocols else {
        return vec![Protocol::H1, Protocol::H2];
    };
    let tls = listener.tls.is_some();
    let has = |protocol| written.0.contains(&protocol);
    if tls && has(Protocol::H2c) {
        let message = "`h2c` is HTTP/2 without TLS, and this listener has `tls`";
        compiler.report(
            Diagnostic::error(message, written.span()).hint("with TLS, `h2` is chosen by ALPN"),
        );
    }
    if !tls && has(Protocol::H2) {
        let message = "`h2` needs `tls`";
        compiler
            .report(Diagnostic::error(message, written.span()).hint("without TLS, write `h2c`"));
    }
    written.0.clone()
}

fn trusted(proxies: Option<&OneOrMany<TrustedProxy>>) -> TrustedProxies {
    let all = || proxies.into_iter().flat_map(|proxies| &proxies.0);
    let networks = all().filter_map(|proxy| match proxy {
        TrustedProxy::Network(network) => Some(network.0),
        TrustedProxy::Unix => None,
    });
    TrustedProxies::new(networks, all().any(|proxy| *proxy == TrustedProxy::Unix))
}

/// Whether connections begin with the PROXY protocol's header. Whoever may write one may be anybody, so somebody has to be
/// trusted at each address.
fn proxy_protocol(
    compiler: &mut Compiler<'_>,
    listener: &model::Listener,
    trusted: &TrustedProxies,
) -> bool {
    let Some(written) = listener.proxy_protocol.filter(|written| written.is_on()) else {
        return false;
    };
    let refused = listener.address.0.iter().find_map(|address| {
        let (somebody, hint) = match &**address {
            Address::Unix(_) => (trusted.trusts_unix(), "`trusted_proxies: unix`"),
            _ => (
                trusted.has_networks(),
                "name the balancers, such as `trusted_proxies: 10.0.0.0/24`",
            ),
        };
        (!somebody).then_some((address, hint))
    });
    if let Some((address, hint)) = refused {
        let message = format!(
            "`proxy_protocol` takes connections of `trusted_proxies` alone, and nobody at `{}` is one",
            **address
        );
        let error = Diagnostic::error(message, written.span());
        compiler.report(error.hint(hint));
    }
    true
}

fn forwarded(written: Option<model::Forwarded>) -> ForwardedBy {
    match written.unwrap_or_default() {
        model::Forwarded::XForwardedFor => ForwardedBy::XForwardedFor,
        model::Forwarded::Rfc7239 => ForwardedBy::Rfc7239,
    }
}

fn oldest(listener: &model::Listener) -> Oldest {
    let tls = listener.tls.as_ref();
    match tls.and_then(|tls| tls.min_version.as_deref()) {
        Some(model::TlsVersion::V1_3) => Oldest::Tls13,
        Some(model::TlsVersion::V1_2) | None => Oldest::default(),
    }
}

/// Where clients that come to this machine itself find TLS: at 443 if anything listens there, else at the lowest port.
fn tls_port(config: &crate::config::Config) -> Option<u16> {
    let listeners = config.listeners.iter().map(|(_, listener)| listener);
    let with_tls = listeners.filter(|listener| listener.tls.is_some() && listener.serve.is_none());
    let addresses = with_tls.flat_map(|listener| &listener.address.0);
    let ports = addresses.filter_map(|address| match &**address {
        Address::Ip(ip) => Some(ip.port()),
        Address::Unix(_) | Address::Name { .. } => None,
    });
    ports.min_by_key(|port| (*port != 443, *port))
}

fn role(compiler: &mut Compiler<'_>, listener: &model::Listener, tls_port: Option<u16>) -> Role {
    let redirect_https = Role::RedirectHttps { tls_port };
    match (&listener.redirect, &listener.serve) {
        (None, None) => Role::Routes,
        (Some(redirect), None) => {
            if listener.tls.is_some() {
                let message =
                    "`redirect: https` on a listener that has `tls` would go round in a circle";
                compiler.report(Diagnostic::error(message, redirect.span()));
            }
            redirect_https
        }
        (None, Some(serve)) => Role::Serve {
            health: serve.0.contains(&Serve::Health),
            metrics: serve.0.contains(&Serve::Metrics),
        },
        (Some(redirect), Some(serve)) => {
            let message = "`redirect` has no effect on a listener that has `serve`";
            compiler.report(
                Diagnostic::error(message, redirect.span())
                    .related(serve.span(), "`serve` is here"),
            );
            redirect_https
        }
    }
}
