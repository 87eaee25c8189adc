//! What kind of request it is: a browser that goes to a page, and from where.

use crate::exchange::{Scheme, View};
use http::header::{ACCEPT, HeaderName, ORIGIN, REFERER, UPGRADE};
use http::{HeaderMap, Method};
use std::net::IpAddr;

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// Where the browser believes to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `https://app.example.com`, with a port if it is not the usual one.
    pub text: Box<str>,
    pub secure: bool,
}

impl Origin {
    /// The origin that was asked for. None in clear, other than on this machine: cookies and codes would be anybody's.
    pub fn of(view: View<'_>) -> Option<Self> {
        let facts = view.facts;
        let host = facts.host.as_str();
        let secure = facts.scheme == Scheme::Https;
        if host.is_empty() || !secure && !is_local(host) {
            return None;
        }
        let scheme = facts.scheme.as_str();
        let text = match facts.port {
            Some(port) if port != facts.scheme.default_port() => format!("{scheme}://{host}:{port}"),
            _ => format!("{scheme}://{host}"),
        };
        Some(Self {
            text: text.into(),
            secure,
        })
    }
}

/// Whether browsers take a host for this machine (W3C Secure Contexts §3.1).
pub fn is_local(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare.unwrap_or(host).parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Whether a person goes to a page, and can be sent elsewhere. A script or an image could not do anything with a login.
pub fn is_navigation(view: View<'_>) -> bool {
    let headers = &view.request.headers;
    let mode = headers.get(SEC_FETCH_MODE);
    matches!(view.request.method, Method::GET | Method::HEAD)
        && mode.is_none_or(|mode| mode == "navigate")
        && !headers.contains_key(X_REQUESTED_WITH)
        && !headers.contains_key(UPGRADE)
        && accepts_html(headers)
}

fn accepts_html(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter();
    let mut ranges = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    ranges.any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_html = parts
            .next()
            .is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"));
        is_html && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "Q=0"))
    })
}

/// Whether a request surely comes from a page of this origin, or from the user, and was not sent by another site.
pub fn is_our_own(view: View<'_>, origin: &Origin) -> bool {
    let headers = &view.request.headers;
    if headers.contains_key(SEC_PURPOSE) {
        // fetched ahead (`prefetch`): nobody has asked for it yet
        return false;
    }
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return site == "same-origin" || site == "none";
    }
    // browsers that say nothing of the site name the origin of what is not a GET
    match (headers.get(ORIGIN), view.request.method == Method::GET) {
        (Some(said), _) => said.as_bytes() == origin.text.as_bytes(),
        (None, false) => true,
        (None, true) => {
            let referer = headers.get(REFERER).map(|referer| referer.as_bytes());
            let rest = referer.and_then(|referer| referer.strip_prefix(origin.text.as_bytes()));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;

    #[test]
    fn logins_are_for_who_can_log_in() {
        let page = || Sample::get("/").header("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
        assert!(is_navigation(page().view()));
        assert!(is_navigation(page().header("sec-fetch-mode", "navigate").view()));
        for other in [
            Sample::get("/"),
            Sample::get("/").header("accept", "*/*"),
            Sample::get("/").header("accept", "application/json, text/html;q=0"),
            Sample::new("POST", "example.com", "/").header("accept", "text/html"),
            page().header("sec-fetch-mode", "cors"),
            page().header("x-requested-with", "XMLHttpRequest"),
            page().header("upgrade", "websocket"),
        ] {
            assert!(!is_navigation(other.view()), "{other:?}");
        }
    }

    #[test]
    fn in_clear_only_this_machine_has_an_origin() {
        let origin = |host: &str| Origin::of(Sample::new("GET", host, "/").view());
        assert_eq!(origin("example.com"), None);
        assert_eq!(origin("192.0.2.1"), None);
        assert_eq!(origin("localhost.example.com"), None);
        for local in ["localhost", "app.localhost", "127.0.0.9", "[::1]"] {
            let origin = origin(local).unwrap();
            assert_eq!((&*origin.text, origin.secure), (&*format!("http://{local}"), false));
        }
        let mut sample = Sample::new("GET", "example.com", "/");
        sample.facts.scheme = Scheme::Https;
        assert_eq!(&*Origin::of(sample.view()).unwrap().text, "https://example.com");
        sample.facts.port = Some(8443);
        assert_eq!(&*Origin::of(sample.view()).unwrap().text, "https://example.com:8443");
    }

    #[test]
    fn another_site_logs_nobody_out() {
        let origin = Origin {
            text: "https://app.example".into(),
            secure: true,
        };
        let judged = |method, name: &'static str, value: &str| {
            let sample = Sample::new(method, "app.example", "/out").header(name, value);
            is_our_own(sample.view(), &origin)
        };
        for (method, name, value) in [
            ("GET", "sec-fetch-site", "same-origin"),
            ("GET", "sec-fetch-site", "none"),
            ("GET", "referer", "https://app.example/page"),
            ("POST", "origin", "https://app.example"),
            ("POST", "x-none", ""),
        ] {
            assert!(judged(method, name, value), "{method} {name} {value}");
        }
        for (method, name, value) in [
            ("GET", "sec-fetch-site", "cross-site"),
            ("GET", "sec-fetch-site", "same-site"),
            ("GET", "referer", "https://app.example.evil/"),
            ("GET", "x-none", ""),
            ("POST", "sec-fetch-site", "cross-site"),
            ("POST", "origin", "https://evil.example"),
            ("POST", "origin", "null"),
        ] {
            assert!(!judged(method, name, value), "{method} {name} {value}");
        }
    }
}
