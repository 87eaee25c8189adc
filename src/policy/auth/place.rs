//! Where a credential stands that is one value: a header, a query parameter or a cookie.

use super::Carrier;
use crate::diagnostic::Diagnostic;
use crate::exchange::View;
use crate::exchange::canonical::{cookies, query_pairs};
use crate::exchange::client::{self, Writer};
use crate::observe::access_log::mask;
use crate::policy::headers::is_reserved;
use crate::units::{HeaderNameText, Spanned};
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Uri};
use pingora_http::RequestHeader;
use std::borrow::Cow;
use std::sync::Arc;

/// One place in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Header(HeaderName),
    Query(Arc<str>),
    Cookie(Arc<str>),
}

/// A header that can hold a credential and nothing else.
///
/// # Errors
/// It holds other things, or never gets as far as `auth`.
pub fn header(name: &Spanned<HeaderNameText>) -> Result<HeaderName, Diagnostic> {
    let header = name.name();
    let (message, hint) = if [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE].contains(header) {
        let hint = "a header of its own, such as `x-api-key`; `cookie: name` takes a cookie";
        (
            format!("`{header}` holds no credential alone"),
            hint.to_owned(),
        )
    } else if client::is_lookalike(header) {
        let other = header.as_str().replace(['_', '.'], "-");
        let message = format!(
            "`{header}` never gets here: headers with `_` or `.` in their names are removed"
        );
        (message, format!("such as `{other}`"))
    } else if client::writer_of(header.as_str()) == Writer::Gateway {
        let message = format!("`{header}` never gets here: clients can't write it");
        (
            message,
            "a header of its own, such as `x-api-key`".to_owned(),
        )
    } else if is_reserved(header) {
        let message = format!("`{header}` holds no credential: it has another meaning");
        (
            message,
            "a header of its own, such as `x-api-key`".to_owned(),
        )
    } else {
        return Ok(header.clone());
    };
    Err(Diagnostic::error(message, name.span()).hint(hint))
}

/// The name of a parameter whose value the access log masks.
///
/// # Errors
/// It does not.
pub fn query(name: &Spanned<String>) -> Result<Arc<str>, Diagnostic> {
    if mask::is_credential(name.as_bytes()) {
        return Ok(name.as_str().into());
    }
    let message = match name.is_empty() {
        true => "the name is empty",
        false => "the access log would show the credential: the name does not tell that it is one",
    };
    Err(Diagnostic::error(message, name.span())
        .hint("such as `api_key`, `access_token` or `token`"))
}

/// The name of a cookie.
///
/// # Errors
/// It can't be one.
pub fn cookie(name: &Spanned<String>) -> Result<Arc<str>, Diagnostic> {
    let in_name = |byte: u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte);
    if !name.is_empty() && name.bytes().all(in_name) {
        return Ok(name.as_str().into());
    }
    let hint = "letters, digits, `-` and `_` (RFC 6265 §4.1.1)";
    Err(Diagnostic::error("this can't be the name of a cookie", name.span()).hint(hint))
}

/// What stands there.
#[derive(Debug, PartialEq, Eq)]
pub enum Presented<'a> {
    Nothing,
    One(Cow<'a, [u8]>),
    Several,
}

impl Place {
    pub fn carrier(&self) -> Carrier {
        match self {
            Place::Header(name) => Carrier::Header(name.clone()),
            Place::Query(name) => Carrier::Query(name.clone()),
            Place::Cookie(name) => Carrier::Cookie(name.clone()),
        }
    }

    pub fn read<'v>(&self, view: View<'v>) -> Presented<'v> {
        match self {
            Place::Header(name) => {
                let values = view.request.headers.get_all(name).iter();
                single(values.map(|value| value.as_bytes().into()))
            }
            Place::Query(name) => {
                let pairs = query_pairs(view.request.uri.query());
                let values = pairs.filter(|(known, _)| known == &**name);
                single(values.map(|(_, value)| match value {
                    Cow::Borrowed(text) => text.as_bytes().into(),
                    Cow::Owned(text) => text.into_bytes().into(),
                }))
            }
            Place::Cookie(name) => {
                let cookies = cookies(&view.request.headers);
                let values = cookies.filter(|(known, _)| *known == name.as_bytes());
                single(values.map(|(_, value)| value.into()))
            }
        }
    }

    pub fn is_presented(&self, view: View<'_>) -> bool {
        match self {
            Place::Header(name) => view.request.headers.contains_key(name),
            _ => self.read(view) != Presented::Nothing,
        }
    }

    /// Takes it out of what an endpoint gets.
    pub fn strip(&self, upstream: &mut RequestHeader) {
        match self {
            Place::Header(name) => {
                upstream.remove_header(name);
            }
            Place::Query(name) => strip_query(upstream, name),
            Place::Cookie(name) => strip_cookies(upstream, |known| known == name.as_bytes()),
        }
    }
}

fn single<'v>(mut values: impl Iterator<Item = Cow<'v, [u8]>>) -> Presented<'v> {
    match (values.next(), values.next()) {
        (None, _) => Presented::Nothing,
        (Some(value), None) => Presented::One(value),
        (Some(_), Some(_)) => Presented::Several,
    }
}

/// The other parameters stay as they were sent.
fn strip_query(upstream: &mut RequestHeader, name: &str) {
    let Some(query) = upstream.uri.query() else {
        return;
    };
    let is_it = |pair: &&str| query_pairs(Some(pair)).any(|(known, _)| known == name);
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_it(pair)).collect();
    if kept.len() == query.split('&').count() {
        return;
    }
    let mut target = upstream.uri.path().to_owned();
    if !kept.is_empty() {
        target.push('?');
        target.push_str(&kept.join("&"));
    }
    let mut parts = upstream.uri.clone().into_parts();
    // a part of what was valid is valid; if it were not, better nothing is asked for than the key is told
    let target = PathAndQuery::try_from(target).unwrap_or(PathAndQuery::from_static("/"));
    parts.path_and_query = Some(target);
    upstream.set_uri(Uri::from_parts(parts).unwrap_or_default());
}

/// Takes out the cookies of such names. The others stay as they were sent.
pub fn strip_cookies(upstream: &mut RequestHeader, is_named: impl Fn(&[u8]) -> bool) {
    let lines: Vec<HeaderValue> = upstream.headers.get_all(COOKIE).iter().cloned().collect();
    let is_it = |pair: &[u8]| {
        let at = memchr::memchr(b'=', pair);
        let known = at.and_then(|at| pair.get(..at));
        known.is_some_and(|known| is_named(known.trim_ascii()))
    };
    upstream.remove_header(&COOKIE);
    for line in lines {
        let kept = line.as_bytes().split(|byte| *byte == b';');
        let kept: Vec<&[u8]> = kept
            .map(<[u8]>::trim_ascii)
            .filter(|pair| !pair.is_empty() && !is_it(pair))
            .collect();
        if kept.is_empty() {
            continue;
        }
        if let Ok(value) = HeaderValue::from_bytes(&kept.join(&b"; "[..])) {
            let _ = upstream.append_header(COOKIE, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;

    fn stripped(place: &Place, sample: &Sample) -> RequestHeader {
        let mut upstream = sample.view().request.clone();
        place.strip(&mut upstream);
        upstream
    }

    #[test]
    fn a_value_is_read_only_where_it_stands_alone() {
        let one = |text: &'static str| Presented::One(text.as_bytes().into());
        let header = Place::Header(HeaderName::from_static("x-api-key"));
        let query = Place::Query("key".into());
        let cookie = Place::Cookie("key".into());
        let nothing = Sample::get("/?a=key&keys=1").header("cookie", "a=key; keys=1");
        let all = Sample::get("/?a=1&k%65y=a%20b")
            .header("x-api-key", "a b")
            .header("cookie", "a=1; key=a b");
        let twice = Sample::get("/?key=1&%6bey=2")
            .header("x-api-key", "1")
            .header("x-api-key", "2")
            .header("cookie", "key=1")
            .header("cookie", "key=2");
        for place in [header, query, cookie] {
            assert_eq!(place.read(nothing.view()), Presented::Nothing);
            assert_eq!(place.read(all.view()), one("a b"));
            assert_eq!(place.read(twice.view()), Presented::Several);
            assert!(place.is_presented(twice.view()) && !place.is_presented(nothing.view()));
        }
    }

    #[test]
    fn an_endpoint_gets_everything_else_as_it_was() {
        let target = |query: &str| {
            let sample = Sample::get(&format!("/a/b{query}"));
            stripped(&Place::Query("key".into()), &sample)
                .uri
                .to_string()
        };
        assert_eq!(target("?key=1"), "/a/b");
        assert_eq!(target("?x=%20+&key=1&&y"), "/a/b?x=%20+&&y");
        assert_eq!(target("?%6Bey=1&x=key&KEY=2"), "/a/b?x=key&KEY=2");
        assert_eq!(target("?x=1"), "/a/b?x=1");
        assert_eq!(target(""), "/a/b");

        let sample = Sample::get("/").header("cookie", "a=1; key=s;b=2");
        let sample = sample.header("cookie", "key=t").header("x-api-key", "s");
        let cookies = stripped(&Place::Cookie("key".into()), &sample);
        let left: Vec<_> = cookies.headers.get_all(COOKIE).iter().collect();
        assert_eq!(left, ["a=1; b=2"]);
        let header = Place::Header(HeaderName::from_static("x-api-key"));
        assert!(!stripped(&header, &sample).headers.contains_key("x-api-key"));
    }
}
