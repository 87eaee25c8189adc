//! A credential where it stands in a request: how it is read, and how it is taken out of what is sent on.

use super::Carrier;
use super::place::{self, Place, Presented};
use crate::diagnostic::Diagnostic;
use crate::exchange::View;
use crate::units::{HeaderNameText, Spanned};
use http::header::AUTHORIZATION;
use pingora_http::RequestHeader;
use std::borrow::Cow;

/// What stands at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried<'v> {
    Nothing,
    /// The credential, which may be empty.
    One(Cow<'v, str>),
    /// More than one, and nobody can say which was meant.
    Several,
    /// Not text.
    Unreadable,
}

/// Where a bearer token stands, as the settings of a method say.
///
/// # Errors
/// They name several places, or none that could hold one.
pub fn written(
    header: &Option<Spanned<HeaderNameText>>,
    cookie: &Option<Spanned<String>>,
    query: &Option<Spanned<String>>,
) -> Result<Carrier, Diagnostic> {
    let places = [
        header.as_ref().map(Spanned::span),
        cookie.as_ref().map(Spanned::span),
        query.as_ref().map(Spanned::span),
    ];
    let mut places = places.into_iter().flatten();
    if let (Some(_), Some(second)) = (places.next(), places.next()) {
        let hint = "write `header`, `cookie` or `query`; for several places, several methods under `any_of`";
        return Err(Diagnostic::error("a token stands in one place", second).hint(hint));
    }
    Ok(match (header, cookie, query) {
        (Some(name), ..) if *name.name() == AUTHORIZATION => {
            let message = "`authorization` holds a scheme before the token";
            let hint = "leave `header` out: `Authorization: Bearer …` is the default";
            return Err(Diagnostic::error(message, name.span()).hint(hint));
        }
        (Some(name), ..) => Carrier::Header(place::header(name)?),
        (_, Some(name), _) => Carrier::Cookie(place::cookie(name)?),
        (_, _, Some(name)) => Carrier::Query(place::query(name)?),
        _ => Carrier::Authorization("bearer"),
    })
}

impl Carrier {
    /// What stands there. What is no text at all stands there too.
    pub fn read<'v>(&self, view: View<'v>) -> Carried<'v> {
        let headers = &view.request.headers;
        match self {
            Carrier::Authorization(scheme) => {
                let mut credentials = headers
                    .get_all(AUTHORIZATION)
                    .iter()
                    .map(|value| value.as_bytes());
                let of_scheme = credentials.find_map(|value| after(value, scheme));
                match of_scheme {
                    None => Carried::Nothing,
                    // one of another scheme beside it is a second credential
                    Some(_) if headers.get_all(AUTHORIZATION).iter().count() > 1 => {
                        Carried::Several
                    }
                    Some(credential) => text(credential),
                }
            }
            Carrier::Header(name) => of(&Place::Header(name.clone()), view),
            Carrier::Query(name) => of(&Place::Query(name.clone()), view),
            Carrier::Cookie(name) => of(&Place::Cookie(name.clone()), view),
            Carrier::ClientCertificate | Carrier::Request => Carried::Nothing,
        }
    }

    /// Takes it out of what an endpoint gets.
    pub fn strip(&self, upstream: &mut RequestHeader) {
        match self {
            Carrier::Authorization(_) => {
                upstream.remove_header(&AUTHORIZATION);
            }
            Carrier::Header(name) => Place::Header(name.clone()).strip(upstream),
            Carrier::Query(name) => Place::Query(name.clone()).strip(upstream),
            Carrier::Cookie(name) => Place::Cookie(name.clone()).strip(upstream),
            Carrier::ClientCertificate | Carrier::Request => {}
        }
    }
}

/// The credential behind a scheme, which has no case (RFC 9110 §11.4). One that stands behind a tab is malformed, and no
/// reason to take the request for one that has none.
fn after<'v>(value: &'v [u8], scheme: &str) -> Option<&'v [u8]> {
    let value = value.trim_ascii();
    let (found, rest) = value.split_at_checked(scheme.len())?;
    let follows = rest.first().is_none_or(|next| matches!(next, b' ' | b'\t'));
    (follows && found.eq_ignore_ascii_case(scheme.as_bytes())).then(|| rest.trim_ascii())
}

fn text(value: &[u8]) -> Carried<'_> {
    match std::str::from_utf8(value) {
        Ok(text) if text.is_ascii() => Carried::One(text.into()),
        _ => Carried::Unreadable,
    }
}

fn of<'v>(place: &Place, view: View<'v>) -> Carried<'v> {
    match place.read(view) {
        Presented::Nothing => Carried::Nothing,
        Presented::Several => Carried::Several,
        Presented::One(Cow::Borrowed(value)) => text(value),
        Presented::One(Cow::Owned(value)) => match String::from_utf8(value) {
            Ok(text) if text.is_ascii() => Carried::One(text.into()),
            _ => Carried::Unreadable,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;

    use http::HeaderName;

    const BEARER: Carrier = Carrier::Authorization("bearer");

    fn read(carrier: &Carrier, sent: &Sample) -> Option<String> {
        let view = View {
            request: &sent.request,
            facts: &sent.facts,
        };
        match carrier.read(view) {
            Carried::Nothing => None,
            Carried::One(text) => Some(text.into_owned()),
            Carried::Several => Some("several".into()),
            Carried::Unreadable => Some("unreadable".into()),
        }
    }

    #[test]
    fn a_scheme_has_no_case_and_one_credential() {
        for (value, expected) in [
            ("Bearer abc", Some("abc")),
            ("bearer abc", Some("abc")),
            ("BEARER   abc ", Some("abc")),
            ("Bearer\tabc", Some("abc")),
            ("Bearer", Some("")),
            ("Bearerabc", None),
            ("Basic abc", None),
            ("Bear", None),
            ("", None),
        ] {
            let sent = Sample::get("/").header("authorization", value);
            assert_eq!(read(&BEARER, &sent).as_deref(), expected, "{value}");
        }
        let two = Sample::get("/")
            .header("authorization", "Basic x")
            .header("authorization", "Bearer a");
        assert_eq!(read(&BEARER, &two).as_deref(), Some("several"));
    }

    #[test]
    fn parameters_cookies_and_fields_are_read_once() {
        let query = Carrier::Query("token".into());
        assert_eq!(
            read(&query, &Sample::get("/?a=b&token=x%2Ey")).as_deref(),
            Some("x.y")
        );
        assert_eq!(
            read(&query, &Sample::get("/?t%6fken=x")).as_deref(),
            Some("x")
        );
        assert_eq!(
            read(&query, &Sample::get("/?token=x&token=y")).as_deref(),
            Some("several")
        );
        assert_eq!(read(&query, &Sample::get("/?Token=x")).as_deref(), None);
        let cookie = Carrier::Cookie("t".into());
        assert_eq!(
            read(&cookie, &Sample::get("/").header("cookie", "a=b; t=x")).as_deref(),
            Some("x")
        );
        assert_eq!(
            read(&cookie, &Sample::get("/").header("cookie", "t=x; t=y")).as_deref(),
            Some("several")
        );
        let field = Carrier::Header(HeaderName::from_static("x-token"));
        assert_eq!(
            read(&field, &Sample::get("/").header("x-token", "x")).as_deref(),
            Some("x")
        );
        assert_eq!(read(&field, &Sample::get("/")).as_deref(), None);
    }
}
