//! `health_check`, `outlier` and `panic_threshold` of a service.

use super::Compiler;
use crate::config::model::{self, BodyMatch as WrittenBody};
use crate::diagnostic::Diagnostic;
use crate::units::{Duration, OrOff, Ratio, Span, Spanned, StatusRange};
use crate::upstream::health::{BodyMatch, HealthCheck, Http, Kind, Thresholds};
use crate::upstream::outlier::{ErrorRatio, Outlier};
use crate::upstream::service::Host;
use crate::upstream::{Endpoint, Place};
use http::Method;
use regex::bytes::RegexBuilder;
use std::sync::Arc;

const INTERVAL: Duration = Duration::from_secs(10);
/// Shorter ones would be a load of their own.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(2);
const JITTER: Ratio = Ratio::from_percent(10);
const THRESHOLDS: Thresholds = Thresholds {
    healthy: 2,
    unhealthy: 3,
};
/// Far more in a row than anybody waits for.
const THRESHOLD_MAX: u32 = 1000;
const WINDOW: Duration = Duration::from_secs(10);
const WINDOW_MAX: Duration = Duration::from_secs(3600);
const MIN_REQUESTS: u32 = 20;
/// The largest program of a regular expression, as in routes.
const REGEX_BYTES_MAX: usize = 1 << 20;

type Checked<T> = Result<T, Diagnostic>;

/// The check of a service, if it has one; what is wrong with it is reported.
pub fn health_check(
    compiler: &mut Compiler<'_>,
    service: &model::Service,
    host: &Host,
    endpoints: &[Endpoint],
) -> Option<Arc<HealthCheck>> {
    let written = service.health_check.as_ref()?;
    let check = match &**written {
        OrOff::Off => return None,
        OrOff::On(check) => check,
    };
    match compiled(check, written.span(), host, endpoints) {
        Ok(check) => Some(Arc::new(check)),
        Err(diagnostic) => {
            compiler.report(diagnostic);
            None
        }
    }
}

fn compiled(
    check: &model::HealthCheck,
    at: Span,
    host: &Host,
    endpoints: &[Endpoint],
) -> Checked<HealthCheck> {
    let kind = kind_of(check, at, host)?;
    if let Some(port) = &check.port {
        check_port(port, endpoints)?;
    }
    let interval = time("interval", check.interval.as_ref(), INTERVAL, INTERVAL_MIN)?;
    let timeout = time(
        "timeout",
        check.timeout.as_ref(),
        TIMEOUT,
        Duration::from_millis(1),
    )?;
    let thresholds = Thresholds {
        healthy: count("healthy", check.healthy.as_ref(), THRESHOLDS.healthy)?,
        unhealthy: count("unhealthy", check.unhealthy.as_ref(), THRESHOLDS.unhealthy)?,
    };
    // how often and how patiently it is asked does not change what an answer means
    let asked = model::HealthCheck {
        interval: None,
        timeout: None,
        jitter: None,
        healthy: None,
        unhealthy: None,
        ..copied(check)
    };
    let shape = serde_json::to_string(&asked).unwrap_or_default();
    let shape = match (&kind, host) {
        (
            Kind::Http(Http {
                host: Some(host), ..
            }),
            _,
        ) => format!("{shape} {host:?}"),
        _ => shape,
    };
    Ok(HealthCheck {
        kind,
        port: check.port.as_ref().map(|port| **port),
        interval: interval.0,
        jitter: check.jitter.unwrap_or(JITTER),
        timeout: timeout.0,
        thresholds,
        shape: shape.into(),
    })
}

fn copied(check: &model::HealthCheck) -> model::HealthCheck {
    model::HealthCheck {
        path: check.path.clone(),
        method: check.method.clone(),
        host: check.host.clone(),
        status: check.status.clone(),
        body: check.body.clone(),
        tcp: check.tcp,
        grpc: check.grpc.clone(),
        port: check.port,
        interval: None,
        timeout: None,
        jitter: None,
        healthy: None,
        unhealthy: None,
    }
}

fn kind_of(check: &model::HealthCheck, at: Span, host: &Host) -> Checked<Kind> {
    let hint = "`{path: /healthz}`, `{tcp: on}` or `{grpc: {}}`";
    let kinds = [
        check.path.as_ref().map(|path| path.span()),
        check.tcp.as_ref().map(|tcp| tcp.span()),
        check.grpc.as_ref().map(|grpc| grpc.span()),
    ];
    let mut written = kinds.iter().flatten();
    let Some(_) = written.next() else {
        let message = "a health check has one of `path`, `tcp` and `grpc`";
        return Err(Diagnostic::error(message, at).hint(hint));
    };
    if let Some(second) = written.next() {
        let message = "a health check has only one of `path`, `tcp` and `grpc`";
        return Err(Diagnostic::error(message, *second).hint(hint));
    }
    if let Some(path) = &check.path {
        return http(check, path, host).map(Kind::Http);
    }
    let of_http = [
        ("method", check.method.as_ref().map(|one| one.span())),
        ("host", check.host.as_ref().map(|one| one.span())),
        ("status", check.status.as_ref().map(|one| one.span())),
        ("body", check.body.as_ref().map(|one| one.span())),
    ];
    for (key, span) in of_http {
        if let Some(span) = span {
            let message = format!("`{key}` has no effect without `path`");
            return Err(Diagnostic::error(message, span).hint("only a check over HTTP has it"));
        }
    }
    match (&check.tcp, &check.grpc) {
        (_, Some(grpc)) => Ok(Kind::Grpc(grpc.service.as_deref().unwrap_or("").into())),
        (Some(tcp), None) if !tcp.is_on() => {
            let diagnostic = Diagnostic::error("`tcp: off` checks nothing", tcp.span());
            Err(diagnostic.hint("`health_check: off` turns the checks off"))
        }
        _ => Ok(Kind::Tcp),
    }
}

fn http(check: &model::HealthCheck, path: &Spanned<String>, host: &Host) -> Checked<Http> {
    let target = http::uri::PathAndQuery::try_from(path.as_str());
    if !path.starts_with('/') || path.contains('#') || target.is_err() {
        let message = format!("`{}` is not a path", path.escape_debug());
        return Err(Diagnostic::error(message, path.span()).hint("such as `/healthz`"));
    }
    let method = match &check.method {
        None => Method::GET,
        Some(method) if *method.method() == Method::CONNECT => {
            let message = "CONNECT asks for a tunnel, not for a path";
            return Err(Diagnostic::error(message, method.span()));
        }
        Some(method) => method.method().clone(),
    };
    let body = match &check.body {
        None => None,
        Some(body) if method == Method::HEAD => {
            let message = "an answer to HEAD has no body to look at";
            return Err(Diagnostic::error(message, body.span()).hint("leave `method` out"));
        }
        Some(body) => Some(body_match(body)?),
    };
    let statuses = match &check.status {
        None => vec![StatusRange::SUCCESSFUL],
        Some(statuses) => statuses.0.clone(),
    };
    let of_service = match host {
        Host::Value(value) => Some(value.clone()),
        Host::Preserve | Host::Endpoint => None,
    };
    Ok(Http {
        method,
        target: path.as_str().into(),
        host: check
            .host
            .as_ref()
            .map(|host| (**host).value().clone())
            .or(of_service),
        statuses,
        body,
    })
}

fn body_match(body: &Spanned<WrittenBody>) -> Checked<BodyMatch> {
    match &**body {
        WrittenBody::Contains(text) | WrittenBody::Regex(text) if text.is_empty() => {
            let message = "every body holds an empty text";
            Err(Diagnostic::error(message, body.span()).hint("leave `body` out"))
        }
        WrittenBody::Contains(text) => Ok(BodyMatch::Contains(text.as_str().into())),
        WrittenBody::Regex(text) => RegexBuilder::new(text)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .build()
            .map(BodyMatch::Regex)
            .map_err(|error| {
                let error = error.to_string();
                let last = error.lines().last().unwrap_or_default();
                let message = format!(
                    "not a regular expression: {}",
                    last.trim_start_matches("error: ")
                );
                Diagnostic::error(message, body.span())
            }),
    }
}

fn check_port(port: &Spanned<u16>, endpoints: &[Endpoint]) -> Checked<()> {
    if **port == 0 {
        return Err(Diagnostic::error(
            "no endpoint listens on port 0",
            port.span(),
        ));
    }
    let unix = endpoints
        .iter()
        .find(|endpoint| matches!(endpoint.place, Place::Unix(_)));
    match unix {
        None => Ok(()),
        Some(unix) => {
            let message = format!("`{}` has no port", unix.name);
            Err(Diagnostic::error(message, port.span())
                .hint("leave `port` out, or make it a service of its own"))
        }
    }
}

fn time(
    key: &str,
    written: Option<&Spanned<Duration>>,
    usual: Duration,
    least: Duration,
) -> Checked<Duration> {
    match written {
        Some(written) if **written < least => {
            let message = format!("`{key}` is {least} or longer");
            Err(Diagnostic::error(message, written.span()))
        }
        Some(written) => Ok(**written),
        None => Ok(usual),
    }
}

fn count(key: &str, written: Option<&Spanned<u32>>, usual: u32) -> Checked<u32> {
    match written {
        Some(written) if !(1..=THRESHOLD_MAX).contains(&**written) => {
            let message = format!("`{key}` is a number from 1 to {THRESHOLD_MAX}");
            Err(Diagnostic::error(message, written.span()))
        }
        Some(written) => Ok(**written),
        None => Ok(usual),
    }
}

/// When endpoints of a service are ejected; none if never. What is wrong with it is reported.
pub fn outlier(compiler: &mut Compiler<'_>, service: &model::Service) -> Option<Outlier> {
    let Some(written) = &service.outlier else {
        return Some(Outlier::default());
    };
    let outlier = match &**written {
        OrOff::Off => return None,
        OrOff::On(outlier) => outlier,
    };
    match ejecting(outlier, written.span()) {
        Ok(outlier) => Some(outlier),
        Err(diagnostic) => {
            compiler.report(diagnostic);
            None
        }
    }
}

fn ejecting(written: &model::Outlier, at: Span) -> Checked<Outlier> {
    let usual = Outlier::default();
    let consecutive = match &written.consecutive_failures {
        None => usual.consecutive,
        Some(failures) => match **failures {
            OrOff::Off => None,
            OrOff::On(most) => {
                let most = Spanned::new(most, failures.span());
                Some(count("consecutive_failures", Some(&most), 0)?)
            }
        },
    };
    let ratio = written.error_ratio.as_ref().map(error_ratio).transpose()?;
    if consecutive.is_none() && ratio.is_none() {
        let message = "without `consecutive_failures` and `error_ratio` nothing is ever ejected";
        return Err(Diagnostic::error(message, at).hint("`outlier: off` says so"));
    }
    let ejection = Duration(usual.ejection);
    let ejection = time(
        "ejection",
        written.ejection.as_ref(),
        ejection,
        INTERVAL_MIN,
    )?;
    let ejection_max = match &written.ejection_max {
        None => usual.ejection_max.max(ejection.0),
        Some(most) if **most < ejection => {
            let message =
                format!("`ejection_max` is {ejection}, the length of the first, or longer");
            return Err(Diagnostic::error(message, most.span()));
        }
        Some(most) => most.0,
    };
    let max_ejected = match &written.max_ejected {
        None => usual.max_ejected,
        Some(share) if share.parts_per_million() == 0 => {
            let diagnostic = Diagnostic::error("of nothing nothing is ejected", share.span());
            return Err(diagnostic.hint("`outlier: off` says so"));
        }
        Some(share) => **share,
    };
    Ok(Outlier {
        consecutive,
        ratio,
        ejection: ejection.0,
        ejection_max,
        max_ejected,
    })
}

fn error_ratio(written: &Spanned<model::ErrorRatio>) -> Checked<ErrorRatio> {
    let window = written.window.unwrap_or(WINDOW);
    let requests = written.min_requests.unwrap_or(MIN_REQUESTS);
    let wrong = |message: String| Err(Diagnostic::error(message, written.span()));
    if written.threshold.parts_per_million() == 0 {
        return wrong("every endpoint reaches an error ratio of 0%".to_owned());
    }
    if !(INTERVAL_MIN..=WINDOW_MAX).contains(&window) {
        return wrong(format!("`window` is from {INTERVAL_MIN} to {WINDOW_MAX}"));
    }
    if requests == 0 {
        return wrong("`min_requests` is 1 or more".to_owned());
    }
    Ok(ErrorRatio {
        threshold: written.threshold,
        window: window.0,
        requests,
    })
}

/// The percentage of usable endpoints below which health is ignored; zero if it never is.
pub fn panic_percent(compiler: &mut Compiler<'_>, service: &model::Service) -> Option<u8> {
    let written = service.panic_threshold.as_ref()?;
    let parts = match **written {
        OrOff::Off => 0,
        OrOff::On(threshold) => threshold.parts_per_million(),
    };
    if !parts.is_multiple_of(10_000) {
        let diagnostic = Diagnostic::error("`panic_threshold` is in whole percent", written.span());
        compiler.report(diagnostic);
    }
    u8::try_from(parts / 10_000).ok()
}
