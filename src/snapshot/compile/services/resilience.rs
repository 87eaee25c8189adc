//! Retries, breakers and bounds of services, and what they start from.

use super::super::Compiler;
use crate::config::model::{self, BreakerScope, RetryOn};
use crate::diagnostic::Diagnostic;
use crate::units::{OrOff, Ratio, Spanned};
use crate::upstream::breaker;
use crate::upstream::endpoint::Guards;
use crate::upstream::retries::{ATTEMPTS_MAX, Conditions, Retries, RetryOverrides};
use crate::upstream::wire::Wire;
use std::time::Duration;

/// What a breaker does where nothing is written.
const BREAKER: breaker::Settings = breaker::Settings {
    failures: Ratio::from_percent(50),
    window: Duration::from_secs(10),
    minimum: 20,
    open: Duration::from_secs(30),
    probes: 3,
};

/// A breaker's window: shorter ones see nothing, longer ones keep an endpoint out for what is long over.
const WINDOW_MIN: Duration = Duration::from_millis(100);
const WINDOW_MAX: Duration = Duration::from_secs(3600);

/// More probes at a time would be no probes.
const PROBES_MAX: u16 = 1000;

/// Longer pauses would only hold requests up.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// The retries of a service.
pub fn retries_of(compiler: &mut Compiler<'_>, service: &model::Service) -> Retries {
    let defaults = compiler.config.defaults.retries.as_ref().map(known_retries);
    let own = retries(compiler, service.retries.as_ref());
    let wide = Retries::default().with(&defaults.unwrap_or_default());
    wide.with(&own.unwrap_or_default())
}

/// What is written about retries at one place.
pub fn retries(
    compiler: &mut Compiler<'_>,
    written: Option<&Spanned<OrOff<model::Retries>>>,
) -> Option<RetryOverrides> {
    written.map(|written| resolved(written, &mut |diagnostic| compiler.report(diagnostic)))
}

/// The same where its mistakes have been told already.
pub fn known_retries(written: &Spanned<OrOff<model::Retries>>) -> RetryOverrides {
    resolved(written, &mut |_| {})
}

fn resolved(
    written: &Spanned<OrOff<model::Retries>>,
    report: &mut dyn FnMut(Diagnostic),
) -> RetryOverrides {
    let OrOff::On(fields) = &**written else {
        return RetryOverrides::OFF;
    };
    if let Some(attempts) = &fields.attempts {
        let message = match **attempts {
            0 | 1 => Some("a single attempt is no retry"),
            many if many > ATTEMPTS_MAX => Some("these are too many attempts"),
            _ => None,
        };
        if let Some(message) = message {
            let hint = format!(
                "`attempts` counts all tries, 2 to {ATTEMPTS_MAX}; `retries: off` for none again"
            );
            report(Diagnostic::error(message, attempts.span()).hint(hint));
        }
    }
    if let (Some(OrOff::Off), Some(minimum)) = (&fields.budget, &fields.min_per_second) {
        let message = "`min_per_second` has no effect with `budget: off`";
        report(Diagnostic::error(message, minimum.span()));
    }
    let backoff = fields.backoff.clone().unwrap_or_default();
    for pause in [&backoff.base, &backoff.max].into_iter().flatten() {
        if pause.0 > BACKOFF_MAX {
            let message = "a pause of more than a minute only holds requests up";
            report(Diagnostic::error(message, pause.span()));
        }
    }
    if let (Some(base), Some(max)) = (&backoff.base, &backoff.max)
        && base.0 > max.0
    {
        let message = "`base` is longer than `max`, and has no effect";
        report(Diagnostic::error(message, base.span()).related(max.span(), "`max` is here"));
    }
    let base = backoff.base.map(|base| base.0);
    let longer = base.filter(|base| *base > Retries::default().backoff_max);
    RetryOverrides {
        attempts: fields.attempts.as_deref().copied(),
        on: fields.on.as_ref().map(|on| conditions(&on.0, report)),
        backoff_base: base,
        // a longer pause than the usual most is meant
        backoff_max: backoff.max.map_or(longer, |max| Some(max.0)),
        budget: fields.budget.map(OrOff::on),
        min_per_second: fields.min_per_second.as_deref().copied(),
        idempotency_key: fields.idempotency_key.map(|on| on.0),
    }
}

fn conditions(written: &[Spanned<RetryOn>], report: &mut dyn FnMut(Diagnostic)) -> Conditions {
    let has = |on| written.iter().any(|written| **written == on);
    for (at, on) in written.iter().enumerate() {
        let mut before = written.iter().take(at);
        if let Some(before) = before.find(|before| ***before == **on) {
            report(
                Diagnostic::error("this condition stands twice", on.span())
                    .related(before.span(), "first here"),
            );
        }
    }
    let statuses = written.iter().filter_map(|on| match **on {
        RetryOn::Status(status) => Some(status),
        _ => None,
    });
    Conditions {
        connect_failure: has(RetryOn::ConnectFailure),
        refused_stream: has(RetryOn::RefusedStream),
        reset: has(RetryOn::Reset),
        timeout: Some(has(RetryOn::Timeout)),
        statuses: statuses.collect(),
    }
}

/// What stands before each endpoint, and before the service as a whole.
pub struct Before {
    pub endpoint: Guards,
    pub whole: Guards,
    /// The most connections to each endpoint.
    pub connections: Option<u32>,
    /// How many requests may wait for one.
    pub connecting: Option<u32>,
}

/// What stands before each endpoint, and before the service as a whole.
pub fn guards(compiler: &mut Compiler<'_>, service: &model::Service) -> Before {
    let limits = service.limits.as_ref();
    if let Some(limits) = limits
        && limits.in_flight.is_none()
        && limits.in_flight_per_endpoint.is_none()
        && limits.connections_per_endpoint.is_none()
    {
        let message = match limits.pending {
            Some(_) => "`pending` has no effect: nobody has to wait where nothing is bounded",
            None => "`limits` bounds nothing",
        };
        let hint = "add `in_flight`, `in_flight_per_endpoint` or `connections_per_endpoint`";
        compiler.report(Diagnostic::error(message, limits.span()).hint(hint));
    }
    let pending = pending(compiler, limits);
    let mut bound = |written: Option<&Spanned<u32>>| {
        let written = written?;
        if **written == 0 {
            let message = "a bound of 0 lets nothing through";
            let hint = "an endpoint with `weight: 0` takes no requests";
            compiler.report(Diagnostic::error(message, written.span()).hint(hint));
        }
        Some(**written)
    };
    let endpoint_bound = bound(limits.and_then(|limits| limits.in_flight_per_endpoint.as_ref()));
    let service_bound = bound(limits.and_then(|limits| limits.in_flight.as_ref()));
    let connections = bound(limits.and_then(|limits| limits.connections_per_endpoint.as_ref()));
    let bounded = endpoint_bound.or(service_bound).is_some();
    let written = service.breaker.as_ref();
    let settings = written.map(|written| breaker(compiler, written));
    let scopes = written.and_then(|written| written.per.as_ref());
    let acts = |scope| {
        scopes.map_or(scope == BreakerScope::Endpoint, |all| {
            all.0.contains(&scope)
        })
    };
    let endpoint = Guards {
        breaker: settings.filter(|_| acts(BreakerScope::Endpoint)),
        in_flight: endpoint_bound,
        // whoever waits hears of places that there are
        pending: pending.filter(|_| endpoint_bound.is_some()),
    };
    let whole = Guards {
        breaker: settings.filter(|_| acts(BreakerScope::Service)),
        in_flight: service_bound,
        pending: pending.filter(|_| bounded),
    };
    Before {
        endpoint,
        whole,
        connections,
        connecting: pending,
    }
}

/// Over HTTP/2 each thread needs a connection of its own.
pub fn check_threads(compiler: &mut Compiler<'_>, service: &model::Service, wire: &Wire) {
    let limits = service.limits.as_ref();
    let written = limits.and_then(|limits| limits.connections_per_endpoint.as_ref());
    let (Some(written), Some(threads)) = (written, &compiler.config.threads) else {
        return;
    };
    if wire.must_multiplex() && (1..u32::from(**threads)).contains(&**written) {
        let message = format!(
            "{} threads take turns with {} connections: over HTTP/2 requests of one thread share them",
            **threads, **written
        );
        let hint = "at least as many connections as threads, or `protocol: h1`";
        let warning = Diagnostic::warning(message, written.span());
        compiler.report(warning.related(threads.span(), "the threads").hint(hint));
    }
}

/// How many requests may wait.
fn pending(
    compiler: &mut Compiler<'_>,
    limits: Option<&Spanned<model::ServiceLimits>>,
) -> Option<u32> {
    let limits = limits?;
    let written = limits.pending.as_ref()?;
    if **written == 0 {
        let message = "a queue of 0 lets nobody wait";
        let hint = "without `pending` nobody does";
        compiler.report(Diagnostic::error(message, written.span()).hint(hint));
    }
    Some(**written)
}

fn breaker(compiler: &mut Compiler<'_>, written: &Spanned<model::Breaker>) -> breaker::Settings {
    let mut wrong = |message: &str, hint: &str, at| {
        compiler.report(Diagnostic::error(message.to_owned(), at).hint(hint.to_owned()));
    };
    if let Some(failures) = &written.failures
        && failures.parts_per_million() == 0
    {
        let hint = "such as `50%`";
        wrong(
            "a breaker that opens without failures is never closed",
            hint,
            failures.span(),
        );
    }
    if let Some(window) = &written.window
        && !(WINDOW_MIN..=WINDOW_MAX).contains(&window.0)
    {
        wrong(
            "this window can't be judged by",
            "`100ms` to `1h`",
            window.span(),
        );
    }
    if let Some(minimum) = &written.minimum
        && **minimum == 0
    {
        wrong(
            "nothing can't be judged by",
            "1 or more tries",
            minimum.span(),
        );
    }
    if let Some(open) = &written.open
        && open.0.is_zero()
    {
        wrong(
            "a breaker that is open for no time has no effect",
            "such as `30s`",
            open.span(),
        );
    }
    if let Some(probes) = &written.probes
        && !(1..=PROBES_MAX).contains(&**probes)
    {
        wrong("a breaker closes by its probes", "1 to 1000", probes.span());
    }
    breaker::Settings {
        failures: written
            .failures
            .as_deref()
            .copied()
            .unwrap_or(BREAKER.failures),
        window: written
            .window
            .as_ref()
            .map_or(BREAKER.window, |time| time.0),
        minimum: written
            .minimum
            .as_deref()
            .copied()
            .unwrap_or(BREAKER.minimum),
        open: written.open.as_ref().map_or(BREAKER.open, |time| time.0),
        probes: written.probes.as_deref().copied().unwrap_or(BREAKER.probes),
    }
}
