//! Credentials that browsers add by themselves: a page of anybody can make a browser send a request, and the cookie goes
//! along (cross-site request forgery).
//!
//! Where the credential that decides stands in a cookie, a request that may change something, or opens a WebSocket, has to
//! come from a page of the origin that is asked, or of one of `trusted_origins`. `Sec-Fetch-Site` tells (Fetch Metadata):
//! no page can write it, and neither `no-referrer` nor a proxy that ends TLS changes it. `same-site` is not enough: whoever
//! has any host below the same domain, such as one that was forgotten in DNS, would act as the user. Browsers that do not
//! send it, and those that ask without TLS, tell by `Origin`, else by `Referer`. What has none of the three is no browser,
//! since all of them send `Origin` with such requests (RFC 6454 §7, Fetch standard "append a request Origin header").
//!
//! `SameSite` of a cookie is no replacement for this: who sets the cookie chooses it, hosts of one domain are all one site,
//! and what a browser makes of a missing one differs.

use crate::exchange::{Scheme, View};
use crate::policy::cors::Origin;
use http::header::{ORIGIN, REFERER, UPGRADE};
use http::{HeaderMap, HeaderName, Method};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether the request is one that a page of another origin must not make with the user's cookie.
pub fn is_forged(view: View<'_>, trusted: &[Origin]) -> bool {
    has_effects(view) && !is_own(view) && !is_trusted(&view.request.headers, trusted)
}

/// Methods that ask for nothing to be changed (RFC 9110 §9.2.1) have none. What opens a WebSocket has the form of a GET,
/// and the page can read what it answers.
pub fn has_effects(view: View<'_>) -> bool {
    let method = &view.request.method;
    let safe = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE];
    !safe.contains(method) || view.request.headers.contains_key(UPGRADE)
}

/// Where a request was made, as a browser tells it.
enum Made<'v> {
    /// No browser says so.
    Nowhere,
    /// By a page of this origin.
    Page(&'v str),
    /// It is said, and can't be believed or understood: `null`, twice, not text.
    Somewhere,
}

/// By a page of the origin that is asked, by the user, or by no browser.
fn is_own(view: View<'_>) -> bool {
    let headers = &view.request.headers;
    match single(headers, &SEC_FETCH_SITE) {
        Some(Some(site)) => matches!(site, "same-origin" | "none"),
        Some(None) => false,
        None => match made(headers) {
            Made::Nowhere => true,
            Made::Page(origin) => is_asked(origin, view),
            Made::Somewhere => false,
        },
    }
}

fn is_trusted(headers: &HeaderMap, trusted: &[Origin]) -> bool {
    match made(headers) {
        Made::Page(origin) => trusted.iter().any(|known| known.covers(origin)),
        Made::Nowhere | Made::Somewhere => false,
    }
}

fn made(headers: &HeaderMap) -> Made<'_> {
    let written = match single(headers, &ORIGIN) {
        Some(Some(origin)) => Some(origin),
        Some(None) => return Made::Somewhere,
        None => match single(headers, &REFERER) {
            Some(Some(referer)) => origin_of(referer),
            Some(None) => return Made::Somewhere,
            None => return Made::Nowhere,
        },
    };
    written
        .filter(|origin| *origin != "null")
        .map_or(Made::Somewhere, Made::Page)
}

/// The value of a field: `None` within if it is repeated or not text.
fn single<'v>(headers: &'v HeaderMap, name: &HeaderName) -> Option<Option<&'v str>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    Some(match values.next() {
        None => first.to_str().ok(),
        Some(_) => None,
    })
}

/// The part of a URL that is its origin.
fn origin_of(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    url.get(..scheme.len() + "://".len() + authority)
}

/// Whether it is the origin that the client asks. TLS may end before the gateway does, without telling: a page that came
/// over TLS is no less the host's own. One that came without, where TLS was asked for, may be anybody's on the way.
fn is_asked(origin: &str, view: View<'_>) -> bool {
    let facts = view.facts;
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let scheme = match scheme {
        _ if scheme.eq_ignore_ascii_case("https") => Scheme::Https,
        _ if scheme.eq_ignore_ascii_case("http") => Scheme::Http,
        _ => return false,
    };
    let Ok(authority) = authority.parse::<http::uri::Authority>() else {
        return false;
    };
    let (host, asked) = (authority.host(), facts.host.as_str());
    let host = host.strip_suffix('.').unwrap_or(host);
    if asked.is_empty() || authority.as_str().contains('@') || !host.eq_ignore_ascii_case(asked) {
        return false;
    }
    let port = authority.port_u16().unwrap_or(scheme.default_port());
    match (scheme, facts.scheme) {
        (Scheme::Http, Scheme::Https) => false,
        (Scheme::Https, Scheme::Http) => port == facts.port.unwrap_or(Scheme::Https.default_port()),
        (_, scheme) => port == facts.port.unwrap_or(scheme.default_port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;
    use crate::units::{Span, Spanned};

    fn forged(sample: &Sample) -> bool {
        let trusted = ["https://app.example.net", "https://*.example.org"];
        let trusted = trusted.map(|origin| {
            Origin::parse(&Spanned::new(origin.to_owned(), Span::default())).expect("an origin")
        });
        is_forged(sample.view(), &trusted)
    }

    fn sent(method: &str, fields: &[(&'static str, &str)]) -> Sample {
        let sample = Sample::new(method, "example.com", "/");
        fields
            .iter()
            .fold(sample, |sample, (name, value)| sample.header(name, value))
    }

    #[test]
    fn what_a_page_of_another_origin_sends_counts_only_if_it_changes_nothing() {
        let elsewhere = [("sec-fetch-site", "cross-site")];
        for method in ["GET", "HEAD", "OPTIONS"] {
            assert!(!forged(&sent(method, &elsewhere)), "{method}");
        }
        for method in ["POST", "PUT", "PATCH", "DELETE", "PROPFIND", "get", "X"] {
            assert!(forged(&sent(method, &elsewhere)), "{method}");
        }
        assert!(forged(
            &sent("GET", &elsewhere).header("upgrade", "websocket")
        ));
    }

    #[test]
    fn sec_fetch_site_decides_where_it_is_sent() {
        let site = |site: &str, origin: &str| {
            forged(&sent(
                "POST",
                &[("sec-fetch-site", site), ("origin", origin)],
            ))
        };
        // a page with `no-referrer` has an origin that it does not tell
        assert!(!site("same-origin", "null"));
        assert!(!site("none", "null"));
        for other in [
            "cross-site",
            "same-site",
            "",
            "SAME-ORIGIN",
            "same-origin, none",
            "x",
        ] {
            assert!(site(other, "http://example.com"), "{other}");
            assert!(!site(other, "https://app.example.net"), "{other}");
            assert!(!site(other, "https://a.example.org"), "{other}");
            assert!(site(other, "https://a.example.net"), "{other}");
            assert!(site(other, "null"), "{other}");
        }
        let twice = [
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "cross-site"),
        ];
        assert!(forged(&sent("POST", &twice)));
    }

    #[test]
    fn else_the_origin_decides() {
        let from = |origin: &str| forged(&sent("POST", &[("origin", origin)]));
        for own in [
            "http://example.com",
            "http://EXAMPLE.com:80",
            "https://example.com",
            "https://example.com:443",
            "https://app.example.net",
        ] {
            assert!(!from(own), "{own}");
        }
        for other in [
            "null",
            "",
            "example.com",
            "http://example.com:8080",
            "https://example.com:80",
            "http://example.com.evil.test",
            "http://evil.test",
            "http://user@example.com",
            "http://example.com@evil.test",
            "ftp://example.com",
            "http://example.com http://evil.test",
        ] {
            assert!(from(other), "{other}");
        }
        let mut tls = sent("POST", &[("origin", "http://example.com")]);
        tls.facts.scheme = Scheme::Https;
        assert!(forged(&tls), "anybody on the way can have made that page");
        let mut tls = sent("POST", &[("origin", "https://example.com:8443")]);
        tls.facts.scheme = Scheme::Https;
        assert!(forged(&tls));
        tls.facts.port = Some(8443);
        assert!(!forged(&tls));
        let twice = [
            ("origin", "http://example.com"),
            ("origin", "http://example.com"),
        ];
        assert!(forged(&sent("POST", &twice)));
    }

    #[test]
    fn else_the_page_that_is_referred_to() {
        let from = |url: &str| forged(&sent("POST", &[("referer", url)]));
        assert!(!from("http://example.com/a?b=//evil.test"));
        assert!(!from("https://app.example.net/"));
        for other in [
            "http://evil.test/http://example.com/",
            "http://evil.test?http://example.com",
            "http://evil.test\\@example.com/",
            "about:blank",
            "",
        ] {
            assert!(from(other), "{other}");
        }
        assert!(!forged(&sent("POST", &[])), "no browser");
        let both = [
            ("origin", "http://evil.test"),
            ("referer", "http://example.com/"),
        ];
        assert!(forged(&sent("POST", &both)));
    }
}
