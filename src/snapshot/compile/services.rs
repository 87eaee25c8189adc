//! Services: endpoints, balancing, splits, and what they say about time and sizes.

mod balance;
mod discovery;
mod health;
mod named;
mod resilience;
mod wire;

use super::Compiler;
use crate::config::model::{self, HostHeader, ServiceRef};
use crate::diagnostic::Diagnostic;
use crate::discovery::{Discovery, ENDPOINTS_MAX};
use crate::protocol::grpc::MESSAGE_BYTES_MAX;
use crate::router::Matcher;
use crate::snapshot::upstream::{Split, Upstream};
use crate::state::monotonic_nanos;
use crate::units::{Address, ByteSize, OrOff, Span, Spanned, TimeBound};
use crate::upstream::endpoint::Connecting;
use crate::upstream::service::{Host, Maker, Overrides, Parts, Placed, Timeouts};
use crate::upstream::{Endpoint, Place, Service};
use ahash::AHashMap;
pub use discovery::{check_used, resolver, warm_timeout};
use http::HeaderValue;
use std::borrow::Cow;
use std::sync::Arc;

/// How long an unused connection to an endpoint is kept where nothing is written: below the 75 s that most origins
/// keep theirs.
const POOL_IDLE: std::time::Duration = std::time::Duration::from_secs(60);

/// How long a connection may have been unused for a request that must not be repeated: well below what servers keep
/// theirs for (gunicorn 2 s, Node.js and Apache 5 s).
const POST_IDLE: std::time::Duration = std::time::Duration::from_secs(1);

/// Compiled services by name; nothing for those with errors.
pub type Named = Arc<AHashMap<String, Option<Arc<Service>>>>;

/// Every compiled service.
pub struct Services {
    named: Named,
    splits: AHashMap<String, Option<Upstream>>,
    inline: Vec<Arc<Service>>,
}

impl Services {
    pub fn compile(compiler: &mut Compiler<'_>) -> Self {
        let config = compiler.config;
        let groups = config.groups.0.iter().map(|(_, group)| &group.retries);
        for wide in [&config.defaults.retries].into_iter().chain(groups) {
            // for its mistakes alone: what it means depends on the narrower places
            let _ = retries(compiler, wide.as_ref());
        }
        let mut named = AHashMap::new();
        for (name, service) in &config.services.0 {
            if service.split.is_none() {
                let compiled = group_of_endpoints(compiler, name.as_str(), service, name.span());
                named.insert(name.as_str().to_owned(), compiled);
            }
        }
        let named = Arc::new(named);
        compiler.services = named.clone();
        let mut services = Self {
            named,
            splits: AHashMap::new(),
            inline: Vec::new(),
        };
        // once, whoever refers to it: what is wrong with it is said once, and also where nobody does
        for (name, service) in &config.services.0 {
            if service.split.is_some() {
                let split = services.split(compiler, name.as_str(), service, name.span());
                services.splits.insert(name.as_str().to_owned(), split);
            }
        }
        services
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
                let place = &*own_name(compiler, place);
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
        match self.splits.get(name) {
            Some(split) => split.clone(),
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
            ("discovery", service.discovery.is_some()),
            ("balance", service.balance.is_some()),
            ("slow_start", service.slow_start.is_some()),
            ("pool", service.pool.is_some()),
            ("health_check", service.health_check.is_some()),
            ("outlier", service.outlier.is_some()),
            ("panic_threshold", service.panic_threshold.is_some()),
            ("tls", service.tls.is_some()),
            ("protocol", service.protocol.is_some()),
            ("proxy_protocol", service.proxy_protocol.is_some()),
            ("timeouts", service.timeouts.is_some()),
            ("retries", service.retries.is_some()),
            ("breaker", service.breaker.is_some()),
            ("limits", service.limits.is_some()),
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
        let mut complete = true;
        for arm in &arms.0 {
            let when = arm.when.as_deref().unwrap_or_default();
            compiler.check_listeners(when, arm.service.span());
            compiler.check_matches(when, arm.service.span());
            if let (Some(_), Some(weight)) = (&arm.when, &arm.weight) {
                let message = "an arm has either `when` or `weight`";
                compiler.report(Diagnostic::error(message, weight.span()));
                complete = false;
            }
            let Some(service) = self.arm(compiler, arm) else {
                complete = false;
                continue;
            };
            match &arm.when {
                Some(when) => matched.push((Matcher::new(&when.0), service)),
                None => {
                    let weight = arm.weight.as_ref().map_or(1, |weight| **weight);
                    weighted.push((weight, service));
                }
            }
        }
        if !complete {
            return None;
        }
        if weighted.iter().all(|(weight, _)| *weight == 0) {
            let message = "a split needs an arm that takes what no `when` does";
            compiler.report(
                Diagnostic::error(message, at)
                    .hint("add an arm with a weight above 0, and without `when`"),
            );
            return None;
        }
        let by = match &service.sticky {
            Some(sticky) => Some(balance::arm_by(compiler, sticky, &weighted)?),
            None => None,
        };
        let split = Split::new(name.into(), matched, weighted);
        Some(Upstream::Split(Arc::new(split.sticky(by))))
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

/// What a service is called that route `place` holds itself: as the route, unless a service has that name. State, metrics
/// and status go by it; no name of a service has a dot.
fn own_name<'n>(compiler: &Compiler<'_>, place: &'n str) -> Cow<'n, str> {
    match compiler.config.services.get(place) {
        Some(_) => format!("route.{place}").into(),
        None => place.into(),
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
    let known: Vec<&str> = compiler.config.services.names().collect();
    let mut diagnostic = compiler.unknown("service", name, &known, at);
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
    wire::check_handshake(compiler, service);
    let pool_idle = service.pool.as_ref().and_then(|pool| pool.idle);
    let bounds = Connecting {
        wire: wire::wire_of(compiler, name, service)?,
        steps: timeouts.steps(),
        pool_idle: pool_idle.map_or(Some(POOL_IDLE), |idle| idle.on().map(|idle| idle.0)),
        post_idle: Some(post_idle(service)),
    };
    let balancing = balance::balancing(compiler, name, service)?;
    let world = compiler.world;
    let before = resilience::guards(compiler, service);
    let mut maker = Maker::new(name, balancing, bounds, world.state, world.metrics)
        .guarded(before.endpoint)
        .connecting_at_most(before.connections);
    resilience::check_threads(compiler, service, &maker.connecting.wire);
    if let Some(outlier) = health::outlier(compiler, service) {
        maker = maker.ejecting(outlier);
    }
    if let Some(percent) = health::panic_percent(compiler, service) {
        maker.panic_percent = percent;
    }
    let fixed = fixed(compiler, &written.0)?;
    let host = host_of(compiler, service);
    let (finder, placed) = match discovery::finder(compiler, name, service, &written.0, fixed) {
        Ok(finder) => {
            // what was found for the last snapshot serves this one from the start
            let placed = finder.placed(monotonic_nanos());
            (Some(finder), placed)
        }
        Err(fixed) => (None, fixed),
    };
    let endpoints = endpoints(compiler, &maker, &placed, written.span())?;
    let parts = Parts {
        health_check: health::health_check(compiler, service, &host, &endpoints),
        timeouts,
        host,
        body_limit: body_limit(compiler, service, crate::config::BODY_BYTES_MAX),
        message_limit: body_limit(compiler, service, MESSAGE_BYTES_MAX),
        retries: resilience::retries_of(compiler, service),
        guards: before.whole,
        connecting_max: before.connecting,
    };
    let is_drained = finder.is_none() && !endpoints.is_empty();
    if is_drained && endpoints.iter().all(|endpoint| endpoint.weight == 0) {
        // a whole service may be drained on purpose
        let message = format!("every endpoint of service `{name}` has the weight 0");
        let hint = "it answers nothing but 503 until one of them has a weight";
        compiler.report(Diagnostic::warning(message, written.span()).hint(hint));
    }
    let service = Arc::new(Service::new(maker, endpoints, parts));
    if let Some(finder) = finder {
        let discovery = Discovery::new(service.clone(), finder, placed);
        compiler.discoveries.push(Arc::new(discovery));
    }
    Some(service)
}

/// The endpoints whose addresses are written.
fn fixed(compiler: &mut Compiler<'_>, written: &[Spanned<model::Endpoint>]) -> Option<Vec<Placed>> {
    let mut placed: Vec<Placed> = Vec::with_capacity(written.len());
    let mut places: AHashMap<Place, Span> = AHashMap::new();
    let mut complete = true;
    for endpoint in written {
        let model::Endpoint::Address { address, weight } = &**endpoint else {
            continue;
        };
        let place = match address {
            Address::Ip(address) => Place::Tcp(*address),
            Address::Unix(path) => Place::Unix(path.clone()),
            Address::Name { .. } => continue,
        };
        if discovery::check_own(compiler, address, endpoint.span()) {
            complete = false;
        }
        if let Some(before) = places.insert(place.clone(), endpoint.span()) {
            let message = format!("endpoint `{place}` stands twice");
            compiler
                .report(Diagnostic::error(message, endpoint.span()).related(before, "first here"));
            complete = false;
            continue;
        }
        placed.push(Placed {
            place,
            weight: *weight,
            name: None,
        });
    }
    complete.then_some(placed)
}

fn endpoints(
    compiler: &mut Compiler<'_>,
    maker: &Maker,
    placed: &[Placed],
    at: Span,
) -> Option<Vec<Endpoint>> {
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(placed.len());
    for placed in placed {
        match maker.endpoint(placed.clone()) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(error) => {
                compiler.report(Diagnostic::error(format!("not an address: {error}"), at));
                return None;
            }
        }
    }
    Some(endpoints)
}

/// How long a connection may have been unused for a request that must not be repeated.
fn post_idle(service: &model::Service) -> std::time::Duration {
    let written = service
        .pool
        .as_ref()
        .and_then(|pool| pool.post_idle.as_ref());
    written.map_or(POST_IDLE, |idle| idle.0)
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

pub use resilience::{known_retries, retries};
pub use wire::check_handshake_of_route;

/// What is written about time at one place.
pub fn overrides(timeouts: &model::Timeouts) -> Overrides {
    let part =
        |written: &Option<OrOff<TimeBound>>| written.map(|written| written.on().map(|time| time.0));
    Overrides {
        connect: part(&timeouts.connect),
        tls: timeouts.tls.as_ref().map(|tls| tls.on().map(|time| time.0)),
        response_header: part(&timeouts.response_header),
        per_try: part(&timeouts.per_try),
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

/// What is written about sizes, or what is usual.
fn body_limit(compiler: &Compiler<'_>, service: &model::Service, usual: u64) -> Option<u64> {
    let written: Option<OrOff<ByteSize>> =
        service.body_limit.or(compiler.config.defaults.body_limit);
    match written {
        None => Some(usual),
        Some(written) => written.on().map(|size| size.0),
    }
}
