//! Metrics: what is counted and measured, and its text for Prometheus (design 9).
//!
//! One [`Metrics`] per gateway, not one per process, so that tests do not meet in it. Handles ([`RouteMetrics`],
//! [`ServiceMetrics`], …) are resolved by name when a snapshot is compiled and kept in it. The same name gives the same
//! handle while any snapshot holds it: counts go on over a reload, and the series of a route go with the last snapshot
//! that had it.
//!
//! Labels come from names in the configuration only, never from a client: an unknown method is `_other`, no route is
//! `_none`. Every labelled metric has a cap; what is beyond it is counted together under `_other`.
//!
//! Adding is a few uncontended additions: a busy series has its own cache lines for each thread
//! (`sharded`), since hundreds of thousands of requests a second on many cores would meet in one.

/// Declares a closed set of label values as one table.
macro_rules! label_values {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$value_doc])* $value),* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$value),*];

            /// The label value.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$value => $text),* }
            }
        }
    };
}

mod by_status;
mod concurrency;
mod discovery;
mod family;
mod histogram;
mod issuers;
mod overload;
mod quota;
mod rate_limit;
pub mod sharded;
mod store;
mod text;

use crate::identity::Reason;
use crate::limit::overload::Overload;
use crate::problem::Kind as ProblemKind;
use crate::state::quotas::Quotas;
use crate::supervisor::Supervisor;
use by_status::{Budget, ByStatus};
pub use concurrency::{ConcurrencyMetrics, Crowded, InFlight};
pub use discovery::DiscoveryMetrics;
use family::Family;
pub use family::OTHER;
use histogram::{Histogram, OWN, REQUEST};
use http::Method;
pub use issuers::{Introspected, IntrospectionMetrics, IssuerMetrics, LoginEvent, LoginMetrics};
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
pub use quota::QuotaMetrics;
pub use rate_limit::{Instead, RateLimitMetrics};
pub use sharded::Counter;
pub(super) use sharded::{Padded, shard_count, thread_number};
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed,
};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
pub use store::{StoreError, StoreMetrics};
pub use text::MEDIA_TYPE;
use text::{Kind, Text};

/// The label of requests for which no route was found.
pub const NO_ROUTE: &str = "_none";

/// Label sets per metric that get series of their own. Ten thousand routes are already more than 300,000 lines, since
/// a histogram has twenty; a Prometheus server copes with that, and not with ten times as many.
const SERIES_MAX: usize = 10_000;
/// Series of the counters by status, over all routes or services.
const STATUS_SERIES_MAX: usize = 100_000;

/// All metrics of one gateway.
pub struct Metrics {
    routes: Family<RouteMetrics>,
    services: Family<ServiceMetrics>,
    policies: Family<PolicySeries>,
    compress: Family<CompressMetrics>,
    concurrency: Family<ConcurrencyMetrics>,
    mirrors: Family<MirrorMetrics>,
    endpoints: Family<EndpointMetrics>,
    discoveries: Family<DiscoveryMetrics>,
    issuers: Family<IssuerMetrics>,
    introspections: Family<IntrospectionMetrics>,
    logins: Family<LoginMetrics>,
    quota_policies: Family<QuotaMetrics>,
    rate_limits: Family<RateLimitMetrics>,
    stores: Family<StoreMetrics>,
    listeners: Family<ListenerMetrics>,
    certificates: Family<CertificateMetrics>,
    no_route: Arc<RouteMetrics>,
    requests: Arc<Budget>,
    upstream_requests: Arc<Budget>,
    refused: [Counter; ProblemKind::ALL.len()],
    /// By version, and whether a session was resumed.
    handshakes: [[Counter; 2]; TLS_VERSIONS.len()],
    handshakes_failed: [Counter; HandshakeFailure::ALL.len()],
    not_introduced: [Counter; ProxyProtocolFailure::ALL.len()],
    auth: Arc<AuthMetrics>,
    supervisor: Arc<Supervisor>,
    access_log_dropped: Arc<Counter>,
    generation: AtomicU64,
    last_reload_success: AtomicBool,
    kept_includes: AtomicUsize,
    quotas: OnceLock<Arc<Quotas>>,
    reloads: [Counter; 2],
    /// There once the process serves.
    overload: OnceLock<Arc<Overload>>,
    process: ProcessCollector,
}

/// Credentials that were not accepted, by the exact reason.
pub struct AuthMetrics {
    refused: [Counter; Reason::ALL.len()],
}

impl Default for AuthMetrics {
    fn default() -> Self {
        Self {
            refused: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl AuthMetrics {
    pub fn refused(&self, reason: Reason) {
        if let Some(counter) = self.refused.get(reason as usize) {
            counter.increment();
        }
    }
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        Self::with_caps(SERIES_MAX, STATUS_SERIES_MAX)
    }

    fn with_caps(series_max: usize, status_series_max: usize) -> Arc<Self> {
        let requests = Budget::new(status_series_max);
        let routes = Family::new(&["route"], series_max);
        let no_route = routes.handle(&[NO_ROUTE], |labels| RouteMetrics::new(labels, &requests));
        Arc::new(Self {
            routes,
            services: Family::new(&["service"], series_max),
            policies: Family::new(&["policy"], series_max),
            compress: Family::new(&["policy"], series_max),
            concurrency: Family::new(&["policy"], series_max),
            mirrors: Family::new(&["policy"], series_max),
            endpoints: Family::new(&["service", "endpoint"], series_max),
            discoveries: Family::new(&["service", "source"], series_max),
            issuers: Family::new(&["issuer"], series_max),
            introspections: Family::new(&["policy"], series_max),
            logins: Family::new(&["policy"], series_max),
            quota_policies: Family::new(&["policy"], series_max),
            rate_limits: Family::new(&["policy"], series_max),
            stores: Family::new(&["store"], series_max),
            listeners: Family::new(&["listener"], series_max),
            certificates: Family::new(&["certificate"], series_max),
            no_route,
            requests,
            upstream_requests: Budget::new(status_series_max),
            refused: std::array::from_fn(|_| Counter::default()),
            handshakes: Default::default(),
            handshakes_failed: Default::default(),
            not_introduced: Default::default(),
            auth: Arc::default(),
            supervisor: Arc::default(),
            access_log_dropped: Arc::default(),
            generation: AtomicU64::new(0),
            last_reload_success: AtomicBool::new(true),
            kept_includes: AtomicUsize::new(0),
            quotas: OnceLock::new(),
            reloads: Default::default(),
            overload: OnceLock::new(),
            process: ProcessCollector::for_self(),
        })
    }

    /// There are quotas, which are kept there.
    pub fn quotas(&self, quotas: &Arc<Quotas>) {
        let _ = self.quotas.set(quotas.clone());
    }

    /// The handle of a route, by its name. To be kept in the snapshot.
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        self.routes
            .handle(&[name], |labels| RouteMetrics::new(labels, &self.requests))
    }

    /// The handle for requests without a route.
    pub fn no_route(&self) -> &Arc<RouteMetrics> {
        &self.no_route
    }

    /// The handle of a service, by its name.
    pub fn service(&self, name: &str) -> Arc<ServiceMetrics> {
        let make = |labels| ServiceMetrics::new(labels, &self.upstream_requests);
        self.services.handle(&[name], make)
    }

    /// The handle of a policy in its mode, by scope and key, such as `route.orders/rate_limit.shield`.
    pub fn policy(&self, name: &str, mode: impl Into<Mode>) -> PolicyMetrics {
        PolicyMetrics {
            series: self.policies.handle(&[name], PolicySeries::new),
            mode: mode.into(),
        }
    }

    /// The handle of a `compress` policy, by scope and key.
    pub fn compress(&self, name: &str) -> Arc<CompressMetrics> {
        self.compress.handle(&[name], CompressMetrics::new)
    }

    /// The handle of a `concurrency` policy, by scope and key.
    pub fn concurrency(&self, name: &str) -> Arc<ConcurrencyMetrics> {
        self.concurrency.handle(&[name], ConcurrencyMetrics::new)
    }

    /// The handle of a `mirror` policy, by scope and key.
    pub fn mirror(&self, name: &str) -> Arc<MirrorMetrics> {
        self.mirrors.handle(&[name], MirrorMetrics::new)
    }

    /// The handle of one endpoint of a service. It is up until something says otherwise.
    pub fn endpoint(&self, service: &str, address: &str) -> Arc<EndpointMetrics> {
        self.endpoints
            .handle(&[service, address], EndpointMetrics::new)
    }

    /// The handle of a source of endpoints, such as a name in DNS.
    pub fn discovery(&self, service: &str, source: &str) -> Arc<DiscoveryMetrics> {
        self.discoveries
            .handle(&[service, source], DiscoveryMetrics::new)
    }

    /// The handle of an issuer, by its name.
    pub fn issuer(&self, name: &str) -> Arc<IssuerMetrics> {
        self.issuers.handle(&[name], IssuerMetrics::new)
    }

    /// The handle of a policy that asks about tokens, by its place.
    pub fn introspection(&self, place: &str) -> Arc<IntrospectionMetrics> {
        self.introspections
            .handle(&[place], IntrospectionMetrics::new)
    }

    /// The handle of a policy that logs browsers in, by its place.
    pub fn logins(&self, place: &str) -> Arc<LoginMetrics> {
        self.logins.handle(&[place], LoginMetrics::new)
    }

    /// The handle of a `quota`, by its scope and key.
    pub fn quota(&self, place: &str) -> Arc<QuotaMetrics> {
        self.quota_policies.handle(&[place], QuotaMetrics::new)
    }

    /// The handle of a limit, by its place.
    pub fn rate_limit(&self, place: &str) -> Arc<RateLimitMetrics> {
        self.rate_limits.handle(&[place], RateLimitMetrics::new)
    }

    /// The handle of a store, by its name.
    pub fn store(&self, name: &str) -> Arc<StoreMetrics> {
        self.stores.handle(&[name], StoreMetrics::new)
    }

    /// The handle of a listener, by its name.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        self.listeners.handle(&[name], ListenerMetrics::new)
    }

    /// The handle of a certificate, by its name.
    pub fn certificate(&self, name: &str) -> Arc<CertificateMetrics> {
        self.certificates.handle(&[name], CertificateMetrics::new)
    }

    /// Counts an answer that the gateway made itself.
    pub fn refused(&self, kind: ProblemKind) {
        if let Some(counter) = self.refused.get(kind as usize) {
            counter.increment();
        }
    }

    /// The handle for credentials that are not accepted.
    pub fn auth(&self) -> &Arc<AuthMetrics> {
        &self.auth
    }

    /// Counts a TLS handshake that succeeded.
    pub fn handshake_finished(&self, version: &str, resumed: bool) {
        let at = TLS_VERSIONS.iter().position(|known| *known == version);
        let counters = at.and_then(|at| self.handshakes.get(at));
        if let Some(counter) = counters.and_then(|both| both.get(usize::from(resumed))) {
            counter.increment();
        }
    }

    /// Counts a TLS handshake that came to nothing.
    pub fn handshake_failed(&self, failure: HandshakeFailure) {
        if let Some(counter) = self.handshakes_failed.get(failure as usize) {
            counter.increment();
        }
    }

    /// Counts a connection that was closed for want of the PROXY protocol's header.
    pub fn proxy_protocol_failed(&self, failure: ProxyProtocolFailure) {
        if let Some(counter) = self.not_introduced.get(failure as usize) {
            counter.increment();
        }
    }

    /// Counts a panic that was caught. It is a defect of ours whatever the input was.
    pub fn panicked(&self) {
        self.supervisor.panicked();
    }

    /// What keeps the gateway going, and counts.
    pub fn supervisor(&self) -> &Arc<Supervisor> {
        &self.supervisor
    }

    /// Where the access log counts the lines that it could not write.
    pub fn access_log_dropped(&self) -> &Arc<Counter> {
        &self.access_log_dropped
    }

    /// Says which generation serves from now on. Said before it does, so that whoever sees what it does finds it here.
    pub fn serves(&self, generation: u64) {
        self.generation.store(generation, Relaxed);
    }

    /// Counts a reload: `Ok` with the generation that serves since, `Err` if the old one goes on.
    pub fn reloaded(&self, outcome: Result<u64, ()>) {
        if let Ok(generation) = outcome {
            self.serves(generation);
        }
        self.last_reload_success.store(outcome.is_ok(), Relaxed);
        if let Some(counter) = self.reloads.get(usize::from(outcome.is_err())) {
            counter.increment();
        }
    }

    /// Says how many includes go on with their last good files.
    pub fn kept_includes(&self, count: usize) {
        self.kept_includes.store(count, Relaxed);
    }

    /// Tells from now on what the process has in hand.
    pub fn tell_overload(&self, overload: &Arc<Overload>) {
        let _ = self.overload.set(overload.clone());
    }

    /// Everything as Prometheus' text ([`MEDIA_TYPE`]).
    pub fn text(&self) -> String {
        let mut text = Text::default();
        self.write_routes(&mut text);
        self.write_services(&mut text);
        self.write_retries(&mut text);
        self.write_policies(&mut text);
        self.write_compress(&mut text);
        concurrency::write(&self.concurrency.live(), &mut text);
        self.write_mirrors(&mut text);
        self.write_refusals(&mut text);
        self.write_listeners(&mut text);
        self.write_gauges(&mut text);
        discovery::write(&self.discoveries.live(), &mut text);
        issuers::write(&self.issuers.live(), &mut text);
        issuers::write_introspections(&self.introspections.live(), &mut text);
        issuers::write_logins(&self.logins.live(), &mut text);
        rate_limit::write(&self.rate_limits.live(), &mut text);
        if let Some(overload) = self.overload.get() {
            overload::write(overload, &mut text);
        }
        store::write(&self.stores.live(), &mut text);
        quota::write(&self.quota_policies.live(), &mut text);
        self.write_own(&mut text);
        self.write_process(&mut text);
        text.finish()
    }

    fn write_routes(&self, text: &mut Text) {
        let routes = self.routes.live();
        let name = "northgate_requests_total";
        text.family(
            name,
            Kind::Counter,
            "Requests, by the final status sent to the client.",
        );
        for route in &routes {
            route.write_requests(name, text);
        }
        let other = text::labels(&[("route", OTHER), ("method", OTHER), ("status", OTHER)]);
        write_overflow(name, &other, &self.requests, text);
        let name = "northgate_request_duration_seconds";
        text.family(
            name,
            Kind::Histogram,
            "Time from a request's head to the end of its answer.",
        );
        for route in &routes {
            route.total.write(name, &route.labels, &REQUEST, text);
        }
        let name = "northgate_grpc_responses_total";
        text.family(
            name,
            Kind::Counter,
            "Calls of gRPC, by the status they ended with (_none: no status).",
        );
        for route in &routes {
            route.write_calls(name, text);
        }
        let name = "northgate_own_duration_seconds";
        text.family(
            name,
            Kind::Histogram,
            "Time that the gateway itself spent on a request.",
        );
        for route in &routes {
            route.own.write(name, &route.labels, &OWN, text);
        }
    }

    fn write_services(&self, text: &mut Text) {
        let services = self.services.live();
        let name = "northgate_upstream_requests_total";
        text.family(
            name,
            Kind::Counter,
            "Tries sent to endpoints, by the status answered (_none: no answer).",
        );
        for service in &services {
            service.requests.write(name, &service.labels, text);
        }
        let other = text::labels(&[("service", OTHER), ("status", OTHER)]);
        write_overflow(name, &other, &self.upstream_requests, text);
        let name = "northgate_health_checks_total";
        text.family(
            name,
            Kind::Counter,
            "Health checks of endpoints, by their result.",
        );
        for service in &services {
            service.write_checks(name, text);
        }
        let name = "northgate_ejections_total";
        text.family(
            name,
            Kind::Counter,
            "Endpoints left out for a while because requests to them failed.",
        );
        for service in &services {
            text.sample(name, &service.labels, service.ejections.value());
        }
        let name = "northgate_upstream_duration_seconds";
        text.family(
            name,
            Kind::Histogram,
            "Time from sending a try to the head of its answer or its failure.",
        );
        for service in &services {
            service
                .duration
                .write(name, &service.labels, &REQUEST, text);
        }
    }

    fn write_retries(&self, text: &mut Text) {
        let services = self.services.live();
        let name = "northgate_retries_total";
        text.family(
            name,
            Kind::Counter,
            "Requests tried again, by what went wrong before.",
        );
        for service in &services {
            for (reason, counter) in RetryReason::ALL.iter().zip(&service.retries) {
                let labels = format!("{},reason=\"{}\"", service.labels, reason.as_str());
                // what never happened has no series
                if counter.value() > 0 {
                    text.sample(name, &labels, counter.value());
                }
            }
        }
        let name = "northgate_retries_denied_total";
        text.family(
            name,
            Kind::Counter,
            "Requests not tried again for want of budget.",
        );
        for service in &services {
            text.sample(name, &service.labels, service.retries_denied.value());
        }
        let name = "northgate_service_breaker_open";
        text.family(
            name,
            Kind::Gauge,
            "Whether the breaker of a service is open or half-open (1) or closed (0).",
        );
        for service in &services {
            service.breaker.write(name, &service.labels, text);
        }
        let name = "northgate_service_pending";
        text.family(
            name,
            Kind::Gauge,
            "Requests that wait for a place at a service, where they may.",
        );
        for service in &services {
            if service.queue.load(Relaxed) {
                text.sample(name, &service.labels, service.pending.load(Relaxed));
            }
        }
        let name = "northgate_endpoint_breaker_open";
        text.family(
            name,
            Kind::Gauge,
            "Whether the breaker of an endpoint is open or half-open (1) or closed (0).",
        );
        for endpoint in self.endpoints.live() {
            endpoint.breaker.write(name, &endpoint.labels, text);
        }
        let name = "northgate_upstream_connections";
        text.family(
            name,
            Kind::Gauge,
            "Connections to an endpoint, busy and idle, where they are bounded.",
        );
        for endpoint in self.endpoints.live() {
            if endpoint.bounded.load(Relaxed) {
                let connections = endpoint.connections.load(Relaxed);
                text.sample(name, &endpoint.labels, connections);
            }
        }
    }

    fn write_policies(&self, text: &mut Text) {
        let policies = self.policies.live();
        let name = "northgate_policy_decisions_total";
        text.family(
            name,
            Kind::Counter,
            "Decisions of policies; in mode shadow they had no effect.",
        );
        for policy in &policies {
            policy.write_decisions(name, text);
        }
        let name = "northgate_policy_duration_seconds";
        text.family(
            name,
            Kind::Histogram,
            "Time that one decision of a policy took.",
        );
        for policy in &policies {
            policy.duration.write(name, &policy.labels, &OWN, text);
        }
    }

    fn write_compress(&self, text: &mut Text) {
        let policies = self.compress.live();
        let name = "northgate_compress_in_bytes_total";
        text.family(
            name,
            Kind::Counter,
            "Bytes of answers before they were compressed.",
        );
        for policy in &policies {
            text.sample(name, &policy.labels, policy.taken.value());
        }
        let name = "northgate_compress_out_bytes_total";
        text.family(
            name,
            Kind::Counter,
            "Bytes of answers after they were compressed.",
        );
        for policy in &policies {
            text.sample(name, &policy.labels, policy.given.value());
        }
    }

    fn write_mirrors(&self, text: &mut Text) {
        let name = "northgate_mirrored_total";
        text.family(
            name,
            Kind::Counter,
            "Requests chosen to be copied, by what became of the copy.",
        );
        for policy in self.mirrors.live() {
            for (result, counter) in Mirrored::ALL.iter().zip(&policy.results) {
                let labels = format!("{},result=\"{}\"", policy.labels, result.as_str());
                text.sample(name, &labels, counter.value());
            }
        }
    }

    fn write_refusals(&self, text: &mut Text) {
        let name = "northgate_refused_total";
        text.family(
            name,
            Kind::Counter,
            "Answers that the gateway made itself, by their code.",
        );
        for (kind, counter) in ProblemKind::ALL.iter().zip(&self.refused) {
            let labels = text::labels(&[("reason", kind.code())]);
            text.sample(name, &labels, counter.value());
        }
        let name = "northgate_auth_refused_total";
        text.family(
            name,
            Kind::Counter,
            "Credentials that were not accepted, by the exact reason.",
        );
        for (reason, counter) in Reason::ALL.iter().zip(&self.auth.refused) {
            let labels = text::labels(&[("reason", reason.code())]);
            text.sample(name, &labels, counter.value());
        }
        let name = "northgate_tls_handshakes_total";
        let help = "TLS handshakes that succeeded; `resumed` by a ticket, or in full.";
        text.family(name, Kind::Counter, help);
        for (version, counters) in TLS_VERSIONS.iter().zip(&self.handshakes) {
            for (resumed, counter) in ["false", "true"].iter().zip(counters) {
                let labels = text::labels(&[("version", version), ("resumed", resumed)]);
                text.sample(name, &labels, counter.value());
            }
        }
        let name = "northgate_tls_handshake_failures_total";
        text.family(name, Kind::Counter, "TLS handshakes that failed.");
        for (failure, counter) in HandshakeFailure::ALL.iter().zip(&self.handshakes_failed) {
            let labels = text::labels(&[("reason", failure.as_str())]);
            text.sample(name, &labels, counter.value());
        }
        let name = "northgate_proxy_protocol_failures_total";
        let help = "Connections closed because they began with no header of the PROXY protocol that is taken.";
        text.family(name, Kind::Counter, help);
        for (failure, counter) in ProxyProtocolFailure::ALL.iter().zip(&self.not_introduced) {
            let labels = text::labels(&[("reason", failure.as_str())]);
            text.sample(name, &labels, counter.value());
        }
    }

    fn write_listeners(&self, text: &mut Text) {
        let listeners = self.listeners.live();
        let name = "northgate_connections";
        text.family(name, Kind::Gauge, "Client connections that are open.");
        for listener in &listeners {
            text.sample(name, &listener.labels, listener.connections());
        }
        let name = "northgate_connections_turned_away_total";
        text.family(
            name,
            Kind::Counter,
            "Connections closed as they came: their listener, their address or all had as many as they may.",
        );
        for listener in &listeners {
            for (reason, counter) in TurnedAway::ALL.iter().zip(&listener.turned_away) {
                let reason = text::labels(&[("reason", reason.as_str())]);
                text.sample(
                    name,
                    &format!("{},{reason}", listener.labels),
                    counter.value(),
                );
            }
        }
        let name = "northgate_accept_pauses_total";
        text.family(
            name,
            Kind::Counter,
            "Pauses of accepting, for want of file descriptors or memory.",
        );
        for listener in &listeners {
            text.sample(name, &listener.labels, listener.accept_pauses.value());
        }
    }

    fn write_gauges(&self, text: &mut Text) {
        let name = "northgate_endpoint_up";
        text.family(
            name,
            Kind::Gauge,
            "Whether an endpoint may be chosen (1) or not (0).",
        );
        for endpoint in self.endpoints.live() {
            text.sample(name, &endpoint.labels, u8::from(endpoint.up.load(Relaxed)));
        }
        let name = "northgate_certificate_expiry_timestamp_seconds";
        text.family(
            name,
            Kind::Gauge,
            "When a certificate expires, in seconds since 1970; `service/NAME`: the one that its endpoints are shown.",
        );
        for certificate in self.certificates.live() {
            if let Some(expiry) = certificate.expiry.get() {
                text.sample(name, &certificate.labels, expiry);
            }
        }
    }

    fn write_own(&self, text: &mut Text) {
        let name = "northgate_config_generation";
        text.family(
            name,
            Kind::Gauge,
            "The generation of the configuration that serves.",
        );
        text.sample(name, "", self.generation.load(Relaxed));
        let name = "northgate_config_last_reload_success";
        text.family(
            name,
            Kind::Gauge,
            "Whether the last reload was accepted (1) or refused (0).",
        );
        text.sample(name, "", u8::from(self.last_reload_success.load(Relaxed)));
        let name = "northgate_config_kept_includes";
        text.family(
            name,
            Kind::Gauge,
            "Includes whose files have mistakes and stay as they last were.",
        );
        text.sample(name, "", self.kept_includes.load(Relaxed));
        let name = "northgate_config_reloads_total";
        text.family(name, Kind::Counter, "Reloads, by their result.");
        for (result, counter) in ["success", "failure"].iter().zip(&self.reloads) {
            text.sample(name, &text::labels(&[("result", result)]), counter.value());
        }
        let name = "northgate_panics_total";
        text.family(
            name,
            Kind::Counter,
            "Panics that were caught; each is a defect.",
        );
        text.sample(name, "", self.supervisor.panics());
        let name = "northgate_task_restarts_total";
        let help = "Times that work which must not end did, and was started again; by what it is.";
        text.family(name, Kind::Counter, help);
        for (task, restarts) in self.supervisor.restarts() {
            let labels = text::labels(&[("task", &task)]);
            text.sample(name, &labels, restarts.count);
        }
        let name = "northgate_access_log_dropped_total";
        text.family(
            name,
            Kind::Counter,
            "Access log lines lost to a full queue or a write error.",
        );
        text.sample(name, "", self.access_log_dropped.value());
        if let Some(quotas) = self.quotas.get() {
            quota::write_commits(quotas, text);
        }
        let name = "northgate_build_info";
        text.family(name, Kind::Gauge, "The version that runs; always 1.");
        let version = text::labels(&[("version", env!("CARGO_PKG_VERSION"))]);
        text.sample(name, &version, 1);
    }

    fn write_process(&self, text: &mut Text) {
        let families = self.process.collect();
        if let Err(error) = prometheus::TextEncoder::new().encode_utf8(&families, text.string()) {
            tracing::warn!("the metrics of the process can't be read: {error}");
        }
    }
}

/// What did not fit into the budget. Absent while nothing is beyond it.
fn write_overflow(name: &str, labels: &str, budget: &Budget, text: &mut Text) {
    let beyond = budget.overflow.value();
    if beyond > 0 {
        text.sample(name, labels, beyond);
    }
}

/// As they are in the access log.
const TLS_VERSIONS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];

label_values! {
    /// Which bound a connection was closed at.
    TurnedAway {
        /// Of its listener.
        Listener "listener",
        /// Of its client's address.
        Address "address",
        /// Of all listeners together.
        Total "total",
    }
}

label_values! {
    /// Why a TLS handshake failed.
    HandshakeFailure {
        /// It was not finished in time.
        Timeout "timeout",
        /// The client went away.
        Closed "closed",
        /// The client does not speak TLS.
        NotTls "not_tls",
        /// No version, cipher suite, group, signature scheme or application protocol in common.
        NothingInCommon "nothing_in_common",
        /// The client said that it does not go on: it does not trust the certificate, for example.
        Alert "alert",
        /// The client's certificate is not accepted, or one is required and there is none.
        ClientCertificate "client_certificate",
        /// Anything else that breaks the protocol.
        Protocol "protocol",
    }
}

label_values! {
    /// Why a connection was closed that has to begin with the PROXY protocol's header.
    ProxyProtocolFailure {
        /// Whoever connected is none of the trusted proxies.
        Untrusted "untrusted",
        /// The header was not there in time.
        Timeout "timeout",
        /// The connection ended within it.
        Closed "closed",
        /// There is none.
        Missing "missing",
        /// It breaks a rule of the protocol.
        Malformed "malformed",
        /// It is longer than is taken.
        TooLong "too_long",
        /// It is not what its checksum says.
        Checksum "checksum",
    }
}

label_values! {
    /// After what a request was tried again.
    RetryReason {
        /// The connection could not be made.
        ConnectFailure "connect_failure",
        /// The endpoint said that it had not looked at the request.
        RefusedStream "refused_stream",
        /// The connection broke before a valid head of an answer.
        Reset "reset",
        /// No head of an answer in time.
        Timeout "timeout",
        /// A status of the answer.
        Status "status",
    }
}

label_values! {
    /// What a policy decided.
    Decision {
        /// The request goes on.
        Allow "allow",
        /// It is refused with a problem.
        Refuse "refuse",
        /// It is answered in place of the origin.
        Answer "answer",
        /// The policy's condition did not hold.
        Skip "skip",
    }
}

label_values! {
    /// What became of the copy of a request.
    Mirrored {
        /// It was answered, whatever the answer.
        Answered "answered",
        /// No endpoint, no connection, or a broken one.
        Failed "failed",
        /// There was no answer in time.
        TimedOut "timeout",
        /// Too many were under way.
        Dropped "dropped",
        /// The gateway had too much to do.
        Overload "overload",
        /// Its body was above the limit.
        TooLarge "too_large",
        /// The request broke off, or was answered before it was complete.
        Incomplete "incomplete",
    }
}

label_values! {
    /// Whether a decision has an effect.
    Mode {
        Enforce "enforce",
        Shadow "shadow",
    }
}

/// The methods that have a label of their own: those of RFC 9110 §9, PATCH (RFC 5789).
const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", OTHER,
];

fn method_slot(method: &Method) -> usize {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::DELETE => 4,
        Method::CONNECT => 5,
        Method::OPTIONS => 6,
        Method::TRACE => 7,
        Method::PATCH => 8,
        _ => 9,
    }
}

/// What is counted and measured for one route.
pub struct RouteMetrics {
    labels: Arc<str>,
    methods: [OnceLock<Box<ByStatus>>; METHODS.len()],
    requests: Arc<Budget>,
    calls: OnceLock<Box<[Counter; CALLS]>>,
    total: Histogram,
    own: Histogram,
}

/// The statuses of gRPC, 0 to 16, with a place for others and one for none.
const CALLS: usize = 19;
const OTHER_CALLS: usize = 17;
const CALLS_WITHOUT: usize = 18;

impl RouteMetrics {
    fn new(labels: Arc<str>, requests: &Arc<Budget>) -> Self {
        Self {
            labels,
            methods: Default::default(),
            requests: Arc::clone(requests),
            calls: OnceLock::new(),
            total: Histogram::default(),
            own: Histogram::default(),
        }
    }

    /// Counts a call of gRPC that is over, by its status.
    pub fn called(&self, status: Option<u16>) {
        let at = status.map_or(CALLS_WITHOUT, |status| usize::from(status).min(OTHER_CALLS));
        let calls = self.calls.get_or_init(Default::default);
        if let Some(counter) = calls.get(at) {
            counter.increment();
        }
    }

    fn write_calls(&self, name: &str, text: &mut Text) {
        let counted = self.calls.get().into_iter().flat_map(|calls| calls.iter());
        for (status, counter) in counted.enumerate() {
            if counter.value() == 0 {
                continue;
            }
            let status = match status {
                OTHER_CALLS => OTHER.to_owned(),
                CALLS_WITHOUT => "_none".to_owned(),
                status => status.to_string(),
            };
            let labels = format!("{},grpc_status=\"{status}\"", self.labels);
            text.sample(name, &labels, counter.value());
        }
    }

    /// Counts a request that is over. `status` is what the client was sent, 499 if it left before, `None` if nothing
    /// was sent for another reason; `own` is the part of `total` that was spent neither by the client nor by the
    /// origin.
    pub fn finished(&self, method: &Method, status: Option<u16>, total: Duration, own: Duration) {
        if let Some(methods) = self.methods.get(method_slot(method)) {
            methods
                .get_or_init(|| Box::new(ByStatus::new(&self.requests)))
                .increment(status);
        }
        self.total.observe(&REQUEST, total);
        self.own.observe(&OWN, own);
    }

    fn write_requests(&self, name: &str, text: &mut Text) {
        for (method, by_status) in METHODS.iter().zip(&self.methods) {
            if let Some(by_status) = by_status.get() {
                let labels = format!("{},method=\"{method}\"", self.labels);
                by_status.write(name, &labels, text);
            }
        }
    }
}

/// What is counted and measured for one service.
pub struct ServiceMetrics {
    labels: Arc<str>,
    requests: ByStatus,
    duration: Histogram,
    /// Checks that passed, and that failed.
    checks: [Counter; 2],
    ejections: Counter,
    retries: [Counter; RetryReason::ALL.len()],
    retries_denied: Counter,
    breaker: BreakerGauge,
    /// Whether requests may wait there, and how many do.
    queue: AtomicBool,
    pending: AtomicI64,
}

/// A request that waits, until it is dropped.
pub struct Waits<'m>(&'m ServiceMetrics);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Relaxed);
    }
}

impl ServiceMetrics {
    fn new(labels: Arc<str>, requests: &Arc<Budget>) -> Self {
        Self {
            labels,
            requests: ByStatus::new(requests),
            duration: Histogram::default(),
            checks: Default::default(),
            ejections: Counter::default(),
            retries: Default::default(),
            retries_denied: Counter::default(),
            breaker: BreakerGauge::default(),
            queue: AtomicBool::new(false),
            pending: AtomicI64::new(0),
        }
    }

    /// Says whether requests may wait for a place there.
    pub fn set_queue(&self, queue: bool) {
        self.queue.store(queue, Relaxed);
    }

    /// Counts a request that waits for a place.
    pub fn waits(&self) -> Waits<'_> {
        self.pending.fetch_add(1, Relaxed);
        Waits(self)
    }

    /// Counts a health check of one of its endpoints.
    pub fn checked(&self, passed: bool) {
        if let Some(counter) = self.checks.get(usize::from(!passed)) {
            counter.increment();
        }
    }

    /// Counts an endpoint that was left out because requests to it failed.
    pub fn ejected(&self) {
        self.ejections.increment();
    }

    /// A service without checks has no series.
    fn write_checks(&self, name: &str, text: &mut Text) {
        for (result, counter) in ["pass", "fail"].iter().zip(&self.checks) {
            let value = counter.value();
            if value > 0 {
                let labels = format!("{},result=\"{result}\"", self.labels);
                text.sample(name, &labels, value);
            }
        }
    }

    /// Counts a try that is followed by another.
    pub fn retried(&self, reason: RetryReason) {
        if let Some(counter) = self.retries.get(reason as usize) {
            counter.increment();
        }
    }

    /// Counts a request that would have been tried again, had the budget allowed it.
    pub fn retry_denied(&self) {
        self.retries_denied.increment();
    }

    /// Says whether the breaker of the service lets everybody through; none if there is no breaker.
    pub fn set_breaker(&self, open: Option<bool>) {
        self.breaker.set(open);
    }

    /// Counts one try: the status of the answer, or `None` if there was none, and how long that took.
    pub fn tried(&self, status: Option<u16>, duration: Duration) {
        self.requests.increment(status);
        self.duration.observe(&REQUEST, duration);
    }
}

/// What is counted and measured for one policy, in the mode in which it acts.
#[derive(Clone)]
pub struct PolicyMetrics {
    series: Arc<PolicySeries>,
    mode: Mode,
}

impl PolicyMetrics {
    /// Counts one decision.
    pub fn decided(&self, decision: Decision) {
        let of_mode = self.series.decisions.get(self.mode as usize);
        if let Some(counter) = of_mode.and_then(|of_mode| of_mode.get(decision as usize)) {
            counter.increment();
        }
    }

    /// Measures one decision.
    pub fn took(&self, duration: Duration) {
        self.series.duration.observe(&OWN, duration);
    }
}

/// The series of one policy. Its mode may change with a reload, so both are in one.
struct PolicySeries {
    labels: Arc<str>,
    decisions: [[Counter; Decision::ALL.len()]; Mode::ALL.len()],
    duration: Histogram,
}

impl PolicySeries {
    fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            decisions: Default::default(),
            duration: Histogram::default(),
        }
    }

    /// A decision that was never made has no series.
    fn write_decisions(&self, name: &str, text: &mut Text) {
        for (mode, of_mode) in Mode::ALL.iter().zip(&self.decisions) {
            for (decision, counter) in Decision::ALL.iter().zip(of_mode) {
                let (value, labels) = (counter.value(), &self.labels);
                if value > 0 {
                    let (decision, mode) = (decision.as_str(), mode.as_str());
                    let labels = format!("{labels},decision=\"{decision}\",mode=\"{mode}\"");
                    text.sample(name, &labels, value);
                }
            }
        }
    }
}

/// What one `compress` policy made smaller.
pub struct CompressMetrics {
    labels: Arc<str>,
    taken: Counter,
    given: Counter,
}

impl CompressMetrics {
    fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            taken: Counter::default(),
            given: Counter::default(),
        }
    }

    /// Adds the bytes of one answer, before and after.
    pub fn encoded(&self, taken: u64, given: u64) {
        self.taken.add(taken);
        self.given.add(given);
    }
}

/// What became of the copies that one `mirror` policy made.
pub struct MirrorMetrics {
    labels: Arc<str>,
    results: [Counter; Mirrored::ALL.len()],
}

impl MirrorMetrics {
    fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            results: Default::default(),
        }
    }

    /// Counts one copy.
    pub fn mirrored(&self, result: Mirrored) {
        if let Some(counter) = self.results.get(result as usize) {
            counter.increment();
        }
    }
}

/// Whether one endpoint may be chosen.
pub struct EndpointMetrics {
    labels: Arc<str>,
    up: AtomicBool,
    breaker: BreakerGauge,
    /// Whether its connections are bounded, and how many there are.
    bounded: AtomicBool,
    connections: AtomicI64,
}

impl EndpointMetrics {
    fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            up: AtomicBool::new(true),
            breaker: BreakerGauge::default(),
            bounded: AtomicBool::new(false),
            connections: AtomicI64::new(0),
        }
    }

    /// Says whether its breaker lets everybody through; none if there is no breaker.
    pub fn set_breaker(&self, open: Option<bool>) {
        self.breaker.set(open);
    }

    pub fn set_up(&self, up: bool) {
        self.up.store(up, Relaxed);
    }

    /// Says whether there is a bound on its connections; they are counted only where there is.
    pub fn set_bounded(&self, bounded: bool) {
        self.bounded.store(bounded, Relaxed);
    }

    /// Counts a connection to it that begins (1) or ends (-1).
    pub fn connection(&self, change: i64) {
        self.connections.fetch_add(change, Relaxed);
    }
}

/// Whether a breaker is open, where there is one.
#[derive(Default)]
struct BreakerGauge(AtomicU8);

impl BreakerGauge {
    fn set(&self, open: Option<bool>) {
        self.0
            .store(open.map_or(0, |open| 1 + u8::from(open)), Relaxed);
    }

    fn write(&self, name: &str, labels: &str, text: &mut Text) {
        if let Some(open) = self.0.load(Relaxed).checked_sub(1) {
            text.sample(name, labels, open);
        }
    }
}

/// What is counted for one listener. Whoever counts must hold it until the last of its connections is closed.
pub struct ListenerMetrics {
    labels: Arc<str>,
    connections: AtomicI64,
    turned_away: [Counter; TurnedAway::ALL.len()],
    accept_pauses: Counter,
}

impl ListenerMetrics {
    fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            connections: AtomicI64::new(0),
            turned_away: Default::default(),
            accept_pauses: Counter::default(),
        }
    }

    /// Counts a connection as open.
    pub fn opened(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// Counts one that was opened as closed.
    pub fn closed(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    /// Counts a connection that was closed as it came, because there are as many as allowed.
    pub fn turned_away(&self, reason: TurnedAway) {
        if let Some(counter) = self.turned_away.get(reason as usize) {
            counter.increment();
        }
    }

    /// Counts a pause of accepting, for want of file descriptors or memory.
    pub fn accept_paused(&self) {
        self.accept_pauses.increment();
    }

    /// How many connections are open.
    pub fn connections(&self) -> u64 {
        u64::try_from(self.connections.load(Relaxed)).unwrap_or(0)
    }
}

/// When one certificate expires.
pub struct CertificateMetrics {
    labels: Arc<str>,
    expiry: Expiry,
}

impl CertificateMetrics {
    fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            expiry: Expiry::default(),
        }
    }

    /// Sets the time in seconds since 1970.
    pub fn set_expiry(&self, seconds: i64) {
        self.expiry.set(seconds);
    }
}

/// A point in time, or none yet.
struct Expiry(AtomicI64);

impl Expiry {
    const UNKNOWN: i64 = i64::MIN;

    fn set(&self, seconds: i64) {
        self.0.store(seconds, Relaxed);
    }

    fn get(&self) -> Option<i64> {
        Some(self.0.load(Relaxed)).filter(|seconds| *seconds != Self::UNKNOWN)
    }
}

impl Default for Expiry {
    fn default() -> Self {
        Self(AtomicI64::new(Self::UNKNOWN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    const MS: Duration = Duration::from_millis(1);

    fn lines(metrics: &Metrics, part: &str) -> Vec<String> {
        let text = metrics.text();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples
            .filter(|line| line.contains(part))
            .map(str::to_owned)
            .collect()
    }

    fn everything() -> Arc<Metrics> {
        let metrics = Metrics::new();
        let (route, service) = (metrics.route("orders \"\\\n"), metrics.service("orders"));
        route.finished(&Method::GET, Some(200), 7 * MS, MS);
        route.finished(&Method::from_bytes(b"BREW").unwrap(), None, MS, MS);
        service.tried(Some(503), MS);
        service.tried(None, 20_000 * MS);
        service.retried(RetryReason::Reset);
        service.set_breaker(Some(false));
        let policy = metrics.policy("orders/ip_filter", Mode::Shadow);
        policy.decided(Decision::Refuse);
        policy.took(Duration::from_nanos(800));
        let endpoint = metrics.endpoint("orders", "10.0.0.1:80");
        endpoint.set_up(false);
        endpoint.set_breaker(Some(true));
        let certificate = metrics.certificate("main");
        certificate.set_expiry(1_800_000_000);
        let listener = metrics.listener("public");
        listener.opened();
        listener.turned_away(TurnedAway::Address);
        listener.accept_paused();
        metrics.refused(ProblemKind::RouteNone);
        metrics.handshake_finished("TLSv1.3", true);
        metrics.handshake_failed(HandshakeFailure::Timeout);
        metrics.proxy_protocol_failed(ProxyProtocolFailure::Missing);
        metrics.panicked();
        metrics.reloaded(Ok(2));
        metrics.reloaded(Err(()));
        std::mem::forget((route, service, policy, endpoint, certificate, listener));
        metrics
    }

    #[test]
    fn a_finished_request_is_counted_by_route_method_and_status() {
        let metrics = Metrics::new();
        let route = metrics.route("orders");
        route.finished(&Method::GET, Some(200), MS, MS);
        route.finished(&Method::GET, Some(200), MS, MS);
        metrics
            .no_route()
            .finished(&Method::POST, Some(404), MS, MS);
        let expected = [
            r#"northgate_requests_total{route="_none",method="POST",status="404"} 1"#,
            r#"northgate_requests_total{route="orders",method="GET",status="200"} 2"#,
        ];
        assert_eq!(lines(&metrics, "requests_total{"), expected);
        let bucket = r#"northgate_request_duration_seconds_bucket{route="orders",le="0.001"} 2"#;
        assert_eq!(
            lines(
                &metrics,
                r#"request_duration_seconds_bucket{route="orders",le="0.001"#
            ),
            [bucket]
        );
    }

    #[test]
    fn counts_go_on_over_a_reload_and_the_series_of_a_removed_route_go() {
        let metrics = Metrics::new();
        let before = metrics.route("orders");
        before.finished(&Method::GET, Some(200), MS, MS);
        let after = metrics.route("orders");
        drop(before);
        after.finished(&Method::GET, Some(200), MS, MS);
        assert!(lines(&metrics, "requests_total{")[0].ends_with(" 2"));
        drop(after);
        assert!(lines(&metrics, "orders").is_empty());
    }

    #[test]
    fn routes_beyond_the_cap_are_counted_together() {
        let metrics = Metrics::with_caps(2, 100);
        let routes = ["a", "b", "c"].map(|name| metrics.route(name));
        for route in &routes {
            route.finished(&Method::GET, Some(200), MS, MS);
        }
        let counted = lines(&metrics, "requests_total{");
        assert_eq!(counted.len(), 2);
        assert!(counted[1].contains(r#"route="_other""#) && counted[1].ends_with(" 2"));
    }

    #[test]
    fn connections_are_counted_while_they_are_open() {
        let metrics = Metrics::new();
        let listener = metrics.listener("public");
        (0..3).for_each(|_| listener.opened());
        listener.closed();
        assert_eq!(listener.connections(), 2);
        assert_eq!(
            lines(&metrics, "connections{"),
            [r#"northgate_connections{listener="public"} 2"#]
        );
    }

    #[test]
    fn a_refused_reload_keeps_the_generation() {
        let metrics = everything();
        assert_eq!(
            lines(&metrics, "generation"),
            ["northgate_config_generation 2"]
        );
        assert_eq!(
            lines(&metrics, "last_reload"),
            ["northgate_config_last_reload_success 0"]
        );
    }

    #[test]
    fn every_code_of_a_problem_has_a_series_from_the_start() {
        let metrics = Metrics::new();
        assert_eq!(
            lines(&metrics, "northgate_refused_total").len(),
            ProblemKind::ALL.len()
        );
        metrics.refused(ProblemKind::Internal);
        let counted = r#"northgate_refused_total{reason="gateway.internal"} 1"#;
        assert_eq!(lines(&metrics, "gateway.internal"), [counted]);
    }

    #[test]
    fn methods_find_their_own_label() {
        for (slot, name) in METHODS.iter().enumerate() {
            assert_eq!(
                method_slot(&Method::from_bytes(name.as_bytes()).unwrap()),
                slot
            );
        }
    }

    /// Prometheus' own linter; where it is not installed there is nothing to ask.
    #[test]
    fn promtool_has_nothing_to_say() {
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]).stdin(Stdio::piped());
        let Ok(mut child) = promtool
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        else {
            return;
        };
        let text = everything().text();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let said = child.wait_with_output().unwrap();
        let said = (
            said.status.success(),
            String::from_utf8(said.stderr).unwrap(),
        );
        assert_eq!(said, (true, String::new()), "{text}");
    }
}
