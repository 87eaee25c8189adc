//! Services: endpoints, balancing, splits, and what they say about time and sizes.

mod named;

use super::Compiler;
use crate::config::model::{self, HostHeader, ServiceRef};
use crate::diagnostic::Diagnostic;
use crate::router::Matcher;
use crate::snapshot::upstream::{Split, Upstream};
use crate::units::{Address, ByteSize, Duration, OrOff, Span, Spanned};
use crate::upstream::endpoint::Connecting;
use crate::upstream::service::{Balance, Host, Maker, Overrides, Parts, Placed, Timeouts};
use crate::upstream::{Endpoint, Place, Service};
use ahash::AHashMap;
use http::HeaderValue;
use std::sync::Arc;

/// The most endpoints of one service.
const ENDPOINTS_MAX: usize = 10_000;

/// How long an unused connection to an endpoint is kept where nothing is written: below the 75 s that most origins
/// keep theirs.
const POOL_IDLE: std::time::Duration = std::time::Duration::from_secs(60);

/// Compiled services by name; nothing for those with errors.
pub type Named = Arc<AHashMap<String, Option<Arc<Service>>>>;

/// Every compiled service.
pub struct Services {
    named: Named,
    inline: Vec<Arc<Service>>,
}

impl Services {
    pub fn compile(compiler: &mut Compiler<'_>) -> Self {
        let config = compiler.config;
        let mut named = AHashMap::new();
        for (name, service) in &config.services.0 {
            if service.split.is_none() {
                let compiled = group_of_endpoints(compiler, name.as_str(), service, name.span());
                named.insert(name.as_str().to_owned(), compiled);
            }
        }
        let named = Arc::new(named);
        compiler.services = named.clone();
        Self {
            named,
            inline: Vec::new(),
        }
    }

    /// Every service, once.
    pub fn all(self) -> Vec<Arc<Service>> {
        let named = self.named.values().flatten().cloned();
        named.chain(self.inline).collect()
    }

    /// What a route's `service` means. `place` names one that is written in place.
    pub fn resolve(
        &mut self,
        compiler: &mut Compiler<'_>,
        place: &str,
        reference: &Spanned<ServiceRef>,
    ) -> Option<Upstream> {
        match &**reference {
            ServiceRef::Name(name) => self.by_name(compiler, name.as_str(), reference.span()),
            ServiceRef::Inline(service) => {
                if service.split.is_some() {
                    return self.split(compiler, place, service, reference.span());
                }
                let compiled = group_of_endpoints(compiler, place, service, reference.span())?;
                self.inline.push(compiled.clone());
                Some(Upstream::Service(compiled))
            }
        }
    }

    fn by_name(&self, compiler: &mut Compiler<'_>, name: &str, at: Span) -> Option<Upstream> {
        compiler.refers_to("service", name);
        if let Some(service) = self.named.get(name) {
            return service.clone().map(Upstream::Service);
        }
        let config = compiler.config;
        match config.services.get(name) {
            Some(split) => self.split(compiler, name, split, at),
            None => {
                report_unknown(compiler, name, at);
                None
            }
        }
    }

    fn split(
        &self,
        compiler: &mut Compiler<'_>,
        name: &str,
        service: &model::Service,
        at: Span,
    ) -> Option<Upstream> {
        let arms = service.split.as_ref()?;
        let extra = [
            ("endpoints", service.endpoints.is_some()),
            ("balance", service.balance.is_some()),
            ("pool", service.pool.is_some()),
            ("timeouts", service.timeouts.is_some()),
            ("host_header", service.host_header.is_some()),
        ];
        if let Some((key, _)) = extra.iter().find(|(_, written)| *written) {
            let message = format!("`{key}` has no effect beside `split`");
            compiler.report(
                Diagnostic::error(message, arms.span())
                    .hint("write it in the services of the arms"),
            );
            return None;
        }
        let mut matched = Vec::new();
        let mut weighted = Vec::new();
        for arm in &arms.0 {
            let service = self.arm(compiler, arm)?;
            match (&arm.when, &arm.weight) {
                (Some(_), Some(weight)) => {
                    let message = "an arm has either `when` or `weight`";
                    compiler.report(Diagnostic::error(message, weight.span()));
                    return None;
                }
                (Some(when), None) => matched.push((Matcher::new(&when.0), service)),
                (None, weight) => {
                    weighted.push((weight.as_ref().map_or(1, |weight| **weight), service))
                }
            }
        }
        if weighted.iter().all(|(weight, _)| *weight == 0) {
            let message = "a split needs an arm that takes what no `when` does";
            compiler.report(
                Diagnostic::error(message, at)
                    .hint("add an arm with a weight above 0, and without `when`"),
            );
            return None;
        }
        Some(Upstream::Split(Split::new(name.into(), matched, weighted)))
    }

    fn arm(&self, compiler: &mut Compiler<'_>, arm: &model::Arm) -> Option<Arc<Service>> {
        let name = arm.service.as_str();
        compiler.refers_to("service", name);
        if let Some(service) = self.named.get(name) {
            return service.clone();
        }
        if compiler.config.services.get(name).is_some() {
            let message = format!("`{name}` is a split itself");
            compiler
                .report(Diagnostic::error(message, arm.service.span()).hint("write its arms here"));
        } else {
            report_unknown(compiler, name, arm.service.span());
        }
        None
    }
}

fn report_unknown(compiler: &mut Compiler<'_>, name: &str, at: Span) {
    if compiler.is_broken("services", name) {
        return;
    }
    let diagnostic = unknown(compiler, name, at);
    compiler.report(diagnostic);
}

fn unknown(compiler: &mut Compiler<'_>, name: &str, at: Span) -> Diagnostic {
    compiler.misspelt.insert("service");
    let known: Vec<&str> = compiler
        .config
        .services
        .0
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let mut diagnostic =
        Diagnostic::error(format!("there is no service `{name}`"), at).did_you_mean(name, known);
    if name.contains(':') {
        diagnostic = diagnostic.hint(format!(
            "an address stands in a list: `service: [\"{name}\"]`"
        ));
    }
    diagnostic
}

fn group_of_endpoints(
    compiler: &mut Compiler<'_>,
    name: &str,
    service: &model::Service,
    at: Span,
) -> Option<Arc<Service>> {
    let Some(written) = &service.endpoints else {
        compiler.report(Diagnostic::error(
            format!("service `{name}` has no `endpoints`"),
            at,
        ));
        return None;
    };
    if written.0.len() > ENDPOINTS_MAX {
        let message = format!("a service takes up to {ENDPOINTS_MAX} endpoints");
        compiler.report(Diagnostic::error(message, written.span()));
        return None;
    }
    let timeouts = timeouts_of(compiler, service);
    let pool_idle = service.pool.as_ref().and_then(|pool| pool.idle);
    let bounds = Connecting {
        connect: timeouts.connect,
        pool_idle: pool_idle.map_or(Some(POOL_IDLE), |idle| idle.on().map(|idle| idle.0)),
    };
    let balance = match service.balance.as_deref().copied().unwrap_or_default() {
        model::Balance::RoundRobin => Balance::RoundRobin,
        model::Balance::LeastRequest => Balance::LeastRequest,
    };
    let world = compiler.world;
    let maker = Maker::new(name, balance, bounds, world.state, world.metrics);
    let endpoints = endpoints(compiler, &maker, &written.0)?;
    if endpoints.iter().all(|endpoint| endpoint.weight == 0) {
        // a whole service may be drained on purpose
        let message = format!("every endpoint of service `{name}` has the weight 0");
        let hint = "it answers nothing but 503 until one of them has a weight";
        compiler.report(Diagnostic::warning(message, written.span()).hint(hint));
    }
    let parts = Parts {
        timeouts,
        host: host_of(compiler, service),
        body_limit: body_limit(compiler, service),
    };
    Some(Arc::new(Service::new(maker, endpoints, parts)))
}

fn endpoints(
    compiler: &mut Compiler<'_>,
    maker: &Maker,
    written: &[Spanned<model::Endpoint>],
) -> Option<Vec<Endpoint>> {
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(written.len());
    let mut places: AHashMap<Place, Span> = AHashMap::new();
    let mut complete = true;
    for endpoint in written {
        let place = match &endpoint.address {
            Address::Ip(address) => Place::Tcp(*address),
            Address::Unix(path) => Place::Unix(path.clone()),
            Address::Name { .. } => {
                let message = format!(
                    "`{}` is a name, and endpoints are addresses so far",
                    endpoint.address
                );
                compiler.report(
                    Diagnostic::error(message, endpoint.span())
                        .hint("write `ip:port` or `unix:/path`"),
                );
                complete = false;
                continue;
            }
        };
        if let Some(before) = places.insert(place.clone(), endpoint.span()) {
            let message = format!("endpoint `{place}` stands twice");
            compiler
                .report(Diagnostic::error(message, endpoint.span()).related(before, "first here"));
            complete = false;
            continue;
        }
        let weight = endpoint.weight;
        match maker.endpoint(Placed { place, weight }) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(error) => {
                compiler.report(Diagnostic::error(
                    format!("not an address: {error}"),
                    endpoint.span(),
                ));
                complete = false;
            }
        }
    }
    complete.then_some(endpoints)
}

fn timeouts_of(compiler: &Compiler<'_>, service: &model::Service) -> Timeouts {
    let defaults = overrides(&compiler.config.defaults.timeouts);
    // what `defaults` say about idle times is not meant for streams, which are silent for long
    let wide = Timeouts {
        stream_idle: Timeouts::DEFAULT.stream_idle,
        ..Timeouts::DEFAULT.with(&defaults)
    };
    let own = service
        .timeouts
        .as_ref()
        .map(|timeouts| overrides(timeouts));
    wide.with(&own.unwrap_or_default())
}

/// What is written about time at one place.
pub fn overrides(timeouts: &model::Timeouts) -> Overrides {
    let part =
        |written: &Option<OrOff<Duration>>| written.map(|written| written.on().map(|time| time.0));
    Overrides {
        connect: part(&timeouts.connect),
        response_header: part(&timeouts.response_header),
        idle: part(&timeouts.idle),
        total: part(&timeouts.total),
    }
}

fn host_of(compiler: &mut Compiler<'_>, service: &model::Service) -> Host {
    let own = service.host_header.as_deref();
    match own.or(compiler.config.defaults.host_header.as_ref()) {
        None | Some(HostHeader::Preserve) => Host::Preserve,
        Some(HostHeader::Endpoint) => Host::Endpoint,
        Some(HostHeader::Value(value)) => match HeaderValue::from_str(value) {
            Ok(value) => Host::Value(value),
            // the type has checked it
            Err(_) => Host::Preserve,
        },
    }
}

fn body_limit(compiler: &Compiler<'_>, service: &model::Service) -> Option<u64> {
    let written: Option<OrOff<ByteSize>> =
        service.body_limit.or(compiler.config.defaults.body_limit);
    match written {
        None => Some(crate::config::BODY_BYTES_MAX),
        Some(written) => written.on().map(|size| size.0),
    }
}
