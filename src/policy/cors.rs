//! `cors`: lets pages of other origins read responses (Fetch standard, "CORS protocol").
//!
//! A preflight is answered here, before anybody is asked for credentials, because browsers send none with it. Every
//! other response, refusals included, gets `Access-Control-Allow-Origin` when the page's origin is allowed, and
//! `Vary: Origin` always, so that no cache serves one page's answer to another.
//!
//! ```yaml
//! policies:
//!   cors: {origins: ["https://app.example.com", "https://*.example.org"], methods: [GET, PUT], credentials: on}
//! ```

use super::{CompileContext, Flow, Hooks, OnRequest, OnResponse, Policy, Stage, Step};
use crate::diagnostic::Diagnostic;
use crate::exchange::answer::Answer;
use crate::exchange::{Exchange, View};
use crate::problem::{Kind, Problem};
use crate::units::{Duration, HeaderNameText, MethodText, OneOrMany, Spanned, Toggle};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora_http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See the module.
pub struct Cors;

/// The settings of `cors`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CorsPolicy")]
pub struct Config {
    /// `https://app.example.com`, `https://*.example.com` for any host below, or `*` for any origin.
    pub origins: OneOrMany<Spanned<String>>,
    /// `GET`, `HEAD` and `POST` by default.
    #[serde(default)]
    pub methods: Option<OneOrMany<MethodText>>,
    /// Request fields that a page may send; those it asks for by default.
    #[serde(default)]
    pub headers: Option<OneOrMany<HeaderNameText>>,
    /// Response fields that a page may read, besides the safe-listed ones.
    #[serde(default)]
    pub expose: Option<OneOrMany<HeaderNameText>>,
    /// Whether a page may send cookies and credentials. Not with `*`.
    #[serde(default)]
    pub credentials: Toggle,
    /// How long a browser may keep the answer to a preflight: 10 minutes by default.
    #[serde(default)]
    pub max_age: Option<Duration>,
}

impl Policy for Cors {
    type Config = Config;
    const STAGE: Stage = Stage::Preflight;
    const ALTERS: bool = true;

    fn compile(config: &Config, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic> {
        let rules = Arc::new(Rules::compile(config, cx));
        Ok(Hooks::new().on_request(rules.clone()).on_response(rules))
    }
}

/// Compiled settings: every fixed field made once.
struct Rules {
    origins: Vec<Origin>,
    any: bool,
    credentials: bool,
    methods: HeaderValue,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: HeaderValue,
}

/// An origin, or the origins of all hosts below one (RFC 6454 §6.2).
pub enum Origin {
    Exact(Box<str>),
    /// Scheme with `://`, the host's end with its dot, and the port with its colon, if any.
    Below {
        scheme: Box<str>,
        suffix: Box<str>,
    },
}

impl Origin {
    /// `https://app.example.com`, or `https://*.example.com`.
    ///
    /// # Errors
    /// What is no origin, or more than one.
    pub fn parse(text: &Spanned<String>) -> Result<Self, Diagnostic> {
        let wrong = |message: String| {
            Diagnostic::error(message, text.span())
                .hint("an origin is a scheme, a host and perhaps a port: `https://app.example.com`")
        };
        let lower = text.to_ascii_lowercase();
        let Some((scheme, rest)) = lower.split_once("://") else {
            return Err(wrong(format!("`{}` is not an origin", **text)));
        };
        if rest.is_empty() || rest.contains(['/', '?', '#', '@']) {
            return Err(wrong(format!("`{}` is more than an origin", **text)));
        }
        // browsers leave it out
        let usual = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => "",
        };
        let rest = rest.strip_suffix(usual).unwrap_or(rest);
        match rest.strip_prefix('*') {
            None if rest.contains('*') => {
                Err(wrong(format!("`*` in `{}` is not a whole label", **text)))
            }
            None => Ok(Origin::Exact(format!("{scheme}://{rest}").into())),
            Some(suffix)
                if suffix.starts_with('.') && suffix.len() > 1 && !suffix.contains('*') =>
            {
                Ok(Origin::Below {
                    scheme: format!("{scheme}://").into(),
                    suffix: suffix.into(),
                })
            }
            Some(_) => Err(wrong(format!("`*` in `{}` is not a whole label", **text))),
        }
    }

    /// Whether a page of this origin is meant.
    pub fn covers(&self, origin: &str) -> bool {
        match self {
            Origin::Exact(exact) => origin.eq_ignore_ascii_case(exact),
            Origin::Below { scheme, suffix } => {
                let host = origin
                    .get(..scheme.len())
                    .filter(|start| start.eq_ignore_ascii_case(scheme))
                    .and_then(|_| origin.get(scheme.len()..));
                let label = host.and_then(|host| {
                    let cut = host.len().checked_sub(suffix.len())?;
                    let end = host.get(cut..)?;
                    end.eq_ignore_ascii_case(suffix).then(|| host.get(..cut))?
                });
                label.is_some_and(|label| !label.is_empty() && label.bytes().all(is_host_byte))
            }
        }
    }
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

impl Rules {
    fn compile(config: &Config, cx: &mut CompileContext<'_>) -> Self {
        let any = config.origins.0.iter().find(|origin| ***origin == "*");
        if let Some(any) = any
            && config.credentials.0
        {
            let message = "`*` can't be combined with `credentials`";
            let hint = "every site could then act as the user: name the origins";
            cx.report(Diagnostic::error(message, any.span()).hint(hint));
        }
        let named = config.origins.0.iter().filter(|origin| ***origin != "*");
        let parsed = named.filter_map(|origin| match Origin::parse(origin) {
            Ok(origin) => Some(origin),
            Err(diagnostic) => {
                cx.report(diagnostic);
                None
            }
        });
        let methods: Vec<&str> = match &config.methods {
            Some(methods) => methods.0.iter().map(|method| method.as_str()).collect(),
            None => vec!["GET", "HEAD", "POST"],
        };
        let max_age = config.max_age.map_or(600, |age| age.as_secs());
        Self {
            any: any.is_some(),
            origins: parsed.collect(),
            credentials: config.credentials.0,
            methods: list(methods.into_iter()),
            headers: config
                .headers
                .as_ref()
                .map(|names| list(names.0.iter().map(|name| name.as_str()))),
            expose: config
                .expose
                .as_ref()
                .map(|names| list(names.0.iter().map(|name| name.as_str()))),
            max_age: HeaderValue::from(max_age),
        }
    }

    /// The value of `Access-Control-Allow-Origin` for a page of this origin.
    fn allowed(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        if self.any {
            return Some(HeaderValue::from_static("*"));
        }
        let text = origin.to_str().ok()?;
        let covered = self.origins.iter().any(|known| known.covers(text));
        covered.then(|| origin.clone())
    }

    fn preflight(&self, request: &RequestHeader, origin: &HeaderValue) -> Result<Flow, Problem> {
        let Some(allowed) = self.allowed(origin) else {
            return Err(Problem::new(Kind::CorsOrigin));
        };
        let mut answer = Answer::empty(StatusCode::NO_CONTENT)
            .header(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed)
            .header(header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone())
            .header(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone())
            .header(header::VARY, HeaderValue::from_static(PREFLIGHT_VARY));
        let asked = request.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        if let Some(headers) = self.headers.as_ref().or(asked) {
            answer = answer.header(header::ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
        }
        if self.credentials {
            answer = answer.header(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        Ok(Flow::Answer(Box::new(answer)))
    }
}

const PREFLIGHT_VARY: &str =
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";

fn list<'t>(items: impl Iterator<Item = &'t str>) -> HeaderValue {
    let joined = items.collect::<Vec<_>>().join(", ");
    HeaderValue::try_from(joined).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Whether a browser asks for permission (Fetch standard, "CORS-preflight request").
fn is_preflight(request: &RequestHeader) -> bool {
    request.method == Method::OPTIONS
        && request
            .headers
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

impl OnRequest for Rules {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange<'_>) -> Step<'a> {
        let request = exchange.request;
        match request.headers.get(header::ORIGIN) {
            Some(origin) if is_preflight(request) => Step::Now(self.preflight(request, origin)),
            _ => Step::proceed(),
        }
    }
}

impl OnResponse for Rules {
    fn on_response(&self, view: View<'_>, response: &mut ResponseHeader) {
        let origin = view.request.headers.get(header::ORIGIN);
        if origin.is_some() && is_preflight(view.request) {
            return;
        }
        // an origin's own opinion would stand beside ours, and browsers refuse two
        for name in OURS {
            response.remove_header(&name);
        }
        if !self.any {
            add_vary(response);
        }
        let Some(allowed) = origin.and_then(|origin| self.allowed(origin)) else {
            return;
        };
        let _ = response.insert_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            let _ = response.insert_header(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
        if let Some(expose) = &self.expose {
            let _ = response.insert_header(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

const OURS: [HeaderName; 3] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
];

/// Adds `Origin` to `Vary` unless it is there.
fn add_vary(response: &mut ResponseHeader) {
    let named = response.headers.get_all(header::VARY).iter().any(|value| {
        value.to_str().is_ok_and(|text| {
            text.split(',').any(|name| {
                matches!(name.trim(), "*") || name.trim().eq_ignore_ascii_case("origin")
            })
        })
    });
    if !named {
        let _ = response.append_header(header::VARY, "Origin");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Span;

    fn origin(text: &str) -> Result<Origin, Diagnostic> {
        Origin::parse(&Spanned::new(text.to_owned(), Span::default()))
    }

    #[test]
    fn a_wildcard_covers_hosts_below_and_nothing_that_only_ends_alike() {
        let below = origin("https://*.example.com").unwrap();
        assert!(below.covers("https://a.example.com"));
        assert!(below.covers("https://a.b.EXAMPLE.com"));
        for other in [
            "https://example.com",
            "https://.example.com",
            "https://evilexample.com",
            "http://a.example.com",
            "https://a.example.com.evil.net",
            "https://evil.net/.example.com",
            "https://evil.net:1@.example.com",
            "null",
        ] {
            assert!(!below.covers(other), "{other}");
        }
    }

    #[test]
    fn the_usual_port_may_be_written() {
        assert!(
            origin("https://a.test:443")
                .unwrap()
                .covers("https://a.test")
        );
        assert!(
            origin("http://*.a.test:80")
                .unwrap()
                .covers("http://b.a.test")
        );
        assert!(!origin("http://a.test:443").unwrap().covers("http://a.test"));
    }

    #[test]
    fn what_is_not_an_origin_is_refused() {
        for wrong in [
            "example.com",
            "https://",
            "https://a/b",
            "https://a.*.com",
            "https://*a.com",
            "https://*",
        ] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }
}
