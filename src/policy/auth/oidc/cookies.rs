//! The cookies of one client: their names, where they stand in a request, and how they are set.
//!
//! Over TLS they are `__Host-` ones, which no other host can have set and which no subdomain gets. In clear, which is
//! only for this machine, browsers take no such names.

use super::super::place::strip_cookies;
use crate::exchange::View;
use crate::exchange::canonical::cookies;
use crate::identity::oidc::login::{LOGIN_MAX, is_id};
use crate::identity::oidc::session::{PARTS_MAX, joined, parts};
use http::HeaderValue;
use http::header::COOKIE;
use pingora_http::RequestHeader;
use std::time::Duration;

/// What browsers take only over TLS, for one host and all its paths (RFC 6265bis §4.1.3.2).
const HOST_PREFIX: &str = "__Host-";

/// What stands between the name of the client's cookie and the id of a login.
const LOGIN: &str = "-login-";

/// When cookies of the session come along with requests from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    Lax,
    Strict,
}

/// See the module.
pub struct Cookies {
    secure: Box<str>,
    plain: Box<str>,
    pub same_site: SameSite,
}

/// What a request has of a session.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    Text(String),
    /// Parts are missing, repeated, or not text.
    Broken,
}

impl Cookies {
    pub fn new(name: &str, same_site: SameSite) -> Self {
        Self {
            secure: format!("{HOST_PREFIX}{name}").into(),
            plain: name.into(),
            same_site,
        }
    }

    /// The names of the cookie that a session begins with: over TLS, and in clear.
    pub fn names(&self) -> [&str; 2] {
        [&self.secure, &self.plain]
    }

    fn name(&self, secure: bool) -> &str {
        if secure { &self.secure } else { &self.plain }
    }

    pub fn is_presented(&self, view: View<'_>, secure: bool) -> bool {
        let name = self.name(secure).as_bytes();
        cookies(&view.request.headers).any(|(known, _)| known == name)
    }

    /// The session of a request.
    pub fn session(&self, view: View<'_>, secure: bool) -> Found {
        let name = self.name(secure);
        let mut found: [Option<&str>; PARTS_MAX] = [None; PARTS_MAX];
        for (known, value) in cookies(&view.request.headers) {
            let Some(place) = part_of(known, name).and_then(|at| found.get_mut(at)) else {
                continue;
            };
            match std::str::from_utf8(value) {
                Ok(value) if place.is_none() => *place = Some(value),
                _ => return Found::Broken,
            }
        }
        let [Some(first), ..] = found else {
            return Found::Nothing;
        };
        let text = joined(first, |at| found.get(at).copied().flatten());
        text.map_or(Found::Broken, Found::Text)
    }

    /// Sets the session. None if it is too large.
    pub fn set_session(
        &self,
        view: View<'_>,
        secure: bool,
        text: &str,
        ends_in: Duration,
    ) -> Option<Vec<HeaderValue>> {
        let parts = parts(text)?;
        let name = self.name(secure);
        let same_site = match self.same_site {
            SameSite::Lax => "Lax",
            SameSite::Strict => "Strict",
        };
        let mut set = Vec::with_capacity(parts.len());
        for (at, part) in parts.iter().enumerate() {
            let name = part_name(name, at);
            set.push(cookie(&name, part, ends_in, same_site, secure)?);
        }
        // an earlier session may have had more parts
        let more = self.parts(view, secure).filter(|at| *at >= parts.len());
        set.extend(more.filter_map(|at| removed(&part_name(name, at), secure)));
        Some(set)
    }

    /// Takes away whatever a request has of a session.
    pub fn remove_session(&self, view: View<'_>, secure: bool) -> Vec<HeaderValue> {
        let name = self.name(secure);
        let parts = self.parts(view, secure);
        parts
            .filter_map(|at| removed(&part_name(name, at), secure))
            .collect()
    }

    fn parts<'v>(&'v self, view: View<'v>, secure: bool) -> impl Iterator<Item = usize> + 'v {
        let name = self.name(secure);
        let all = cookies(&view.request.headers);
        // each once, however often it comes: an answer is not to be many times as long as what asks for it
        let mut seen = [false; 10];
        all.filter_map(move |(known, _)| {
            let at = part_of(known, name)?;
            let seen = seen.get_mut(at)?;
            (!std::mem::replace(seen, true)).then_some(at)
        })
    }

    /// The logins that the browser has begun, by their ids.
    pub fn logins<'v>(
        &'v self,
        view: View<'v>,
        secure: bool,
    ) -> impl Iterator<Item = (&'v str, &'v str)> + 'v {
        let name = self.name(secure);
        cookies(&view.request.headers).filter_map(move |(known, value)| {
            let known = std::str::from_utf8(known).ok()?;
            let id = known.strip_prefix(name)?.strip_prefix(LOGIN)?;
            let value = std::str::from_utf8(value).ok()?;
            is_id(id).then_some((id, value))
        })
    }

    /// Remembers a login. It comes back from elsewhere, and so it is `Lax` whatever sessions are.
    pub fn set_login(&self, id: &str, text: &str, secure: bool) -> Option<HeaderValue> {
        let name = format!("{}{LOGIN}{id}", self.name(secure));
        cookie(&name, text, LOGIN_MAX, "Lax", secure)
    }

    pub fn remove_login(&self, id: &str, secure: bool) -> Option<HeaderValue> {
        removed(&format!("{}{LOGIN}{id}", self.name(secure)), secure)
    }

    fn is_ours(&self, known: &[u8]) -> bool {
        self.names().into_iter().any(|name| {
            let rest = known.strip_prefix(name.as_bytes());
            part_of(known, name).is_some()
                || rest.is_some_and(|rest| rest.starts_with(LOGIN.as_bytes()))
        })
    }

    /// Whether a request has anything of ours.
    pub fn any(&self, view: View<'_>) -> bool {
        view.request.headers.contains_key(COOKIE)
            && cookies(&view.request.headers).any(|(known, _)| self.is_ours(known))
    }

    /// Takes ours out of what an endpoint gets, and leaves the others.
    pub fn strip(&self, upstream: &mut RequestHeader) {
        strip_cookies(upstream, |known| self.is_ours(known));
    }
}

/// Which part of a session a cookie is: `NAME` is the first, `NAME.1` the second.
fn part_of(known: &[u8], name: &str) -> Option<usize> {
    match known.strip_prefix(name.as_bytes())? {
        b"" => Some(0),
        [b'.', digit @ b'1'..=b'9'] => Some(usize::from(digit - b'0')),
        _ => None,
    }
}

fn part_name(name: &str, at: usize) -> String {
    match at {
        0 => name.to_owned(),
        at => format!("{name}.{at}"),
    }
}

fn cookie(
    name: &str,
    value: &str,
    age: Duration,
    same_site: &str,
    secure: bool,
) -> Option<HeaderValue> {
    let secure = if secure { "; Secure" } else { "" };
    // a cookie lives no shorter than what is in it, which says itself when it ends
    let age = age.as_secs() + u64::from(age.subsec_nanos() > 0);
    let text = format!(
        "{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite={same_site}{secure}"
    );
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn removed(name: &str, secure: bool) -> Option<HeaderValue> {
    cookie(name, "", Duration::ZERO, "Lax", secure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;

    fn ours() -> Cookies {
        Cookies::new("sid", SameSite::Lax)
    }

    fn text(cookie: &HeaderValue) -> &str {
        cookie.to_str().unwrap()
    }

    #[test]
    fn a_session_is_found_whole_or_not_at_all() {
        let found = |cookies: &str, secure| ours().session(Sample::get("/").header("cookie", cookies).view(), secure);
        assert_eq!(found("a=b; side=1.x", false), Found::Nothing);
        assert_eq!(found("sid.1=x", false), Found::Nothing);
        assert_eq!(found("a=b; sid=1.x", false), Found::Text("x".into()));
        // what stands under the other name is another matter
        assert_eq!(found("sid=1.x", true), Found::Nothing);
        assert_eq!(found("__Host-sid=1.x", true), Found::Text("x".into()));
        assert_eq!(found("sid.1=y; sid=2.x", false), Found::Text("xy".into()));
        for broken in ["sid=x", "sid=2.x", "sid=1.x; sid=1.y", "sid=2.x; sid.1=y; sid.1=y", "sid="] {
            assert_eq!(found(broken, false), Found::Broken, "{broken}");
        }
    }

    #[test]
    fn a_large_session_takes_several_cookies_and_clears_those_of_a_larger_one() {
        let sample = Sample::get("/").header("cookie", "sid=3.a; sid.1=b; sid.2=c");
        let long = "x".repeat(5000);
        let set = ours().set_session(sample.view(), false, &long, Duration::from_secs(60)).unwrap();
        let set: Vec<&str> = set.iter().map(text).collect();
        assert!(set.iter().all(|cookie| cookie.len() <= 4096));
        assert!(set[0].starts_with("sid=2.xxx") && set[1].starts_with("sid.1=xxx"));
        assert_eq!(set[2], "sid.2=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax");
        assert_eq!(set.len(), 3);
        let too_long = "x".repeat(12_000);
        assert!(ours().set_session(sample.view(), false, &too_long, Duration::ZERO).is_none());
        assert_eq!(ours().remove_session(sample.view(), false).len(), 3);
    }

    #[test]
    fn attributes_are_as_tight_as_they_can_be() {
        let sample = Sample::get("/");
        let strict = Cookies::new("sid", SameSite::Strict);
        let set = strict.set_session(sample.view(), true, "x", Duration::from_secs(60)).unwrap();
        assert_eq!(text(&set[0]), "__Host-sid=1.x; Path=/; Max-Age=60; HttpOnly; SameSite=Strict; Secure");
        let login = strict.set_login("i", "x", true).unwrap();
        assert_eq!(text(&login), "__Host-sid-login-i=x; Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure");
    }

    #[test]
    fn an_endpoint_gets_the_cookies_of_others() {
        let id = "a".repeat(22);
        let all = format!("a=1; __Host-sid=x; __Host-sid.1=x; sid=1.x; sid.1=x; sid-login-{id}=x; sid2=y; sid.x=z; b=2");
        let sample = Sample::get("/").header("cookie", &all);
        assert!(ours().any(sample.view()));
        assert!(!ours().any(Sample::get("/").header("cookie", "sid2=y").view()));
        let mut upstream = sample.view().request.clone();
        ours().strip(&mut upstream);
        assert_eq!(upstream.headers.get("cookie").unwrap(), "a=1; sid2=y; sid.x=z; b=2");
        let ours = ours();
        let logins: Vec<_> = ours.logins(sample.view(), false).collect();
        assert_eq!(logins, [(&*id, "x")]);
    }
}
