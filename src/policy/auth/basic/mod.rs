//! `basic`: a user and a password (RFC 7617), in UTF-8.
//!
//! Passwords are kept as argon2id or bcrypt, which take tens of milliseconds of CPU each: [`verdicts`] works them out off
//! the threads that serve requests, a few at a time, and remembers what came out. A name that nobody has is as much work as
//! one that somebody has. Where too many wait already, the client gets 503 with `Retry-After`.
//!
//! ```yaml
//! consumers:
//!   anna: {credentials: {basic: {hash: "${file:/etc/northgate/secrets/anna}"}}}
//! policies:
//!   auth: {basic: {realm: reports}}
//! ```

pub mod verdicts;

use super::{Carrier, Guessed, Judgement, Method, Refusal, Tried};
use crate::diagnostic::Diagnostic;
use crate::exchange::View;
use crate::identity::Reason;
use crate::identity::credentials::password::PASSWORD_MAX;
use crate::identity::credentials::passwords::{Passwords, USER_MAX};
use crate::identity::{Identity, credentials::passwords::User};
use crate::policy::{CompileContext, Knowledge};
use crate::problem::{Kind, Problem};
use crate::units::{OrOn, Spanned};
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use futures::FutureExt;
use http::HeaderValue;
use http::header::{AUTHORIZATION, RETRY_AFTER};
use pingora_http::RequestHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use verdicts::{Busy, Verdict, Verdicts};
use zeroize::Zeroizing;

/// With or without padding, as clients send both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The longest that stands behind `Basic`: the longest user and password.
const ENCODED_MAX: usize = (USER_MAX + 1 + PASSWORD_MAX).div_ceil(3) * 4;

/// The settings of `basic`, or `on`.
pub type Config = OrOn<Settings>;

/// How users are asked for their passwords.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "BasicMethod")]
pub struct Settings {
    /// What browsers show when they ask: `restricted` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<Spanned<String>>,
}

pub(super) fn compile(
    config: &Spanned<Config>,
    cx: &mut CompileContext<'_>,
) -> Result<Arc<dyn Method>, Diagnostic> {
    let passwords = cx.passwords();
    let challenge = challenge(&config.0)?;
    let passwords = passwords.ok_or_else(|| {
        let message = "no consumer has a password";
        let hint = "`consumers: {name: {credentials: {basic: {hash: …}}}}`, or `credential_files: {basic: users.htpasswd}`; `northgate key hash --password` makes a hash";
        Diagnostic::error(message, config.span()).hint(hint)
    })?;
    let verdicts = Verdicts::new().map_err(|error| {
        let message = format!("no key for verdicts on passwords can be made: {error}");
        Diagnostic::error(message, config.span())
    })?;
    Ok(Arc::new(Basic {
        challenge,
        passwords,
        verdicts: cx.shared_as("basic", || verdicts),
    }))
}

fn challenge(settings: &Settings) -> Result<HeaderValue, Diagnostic> {
    let realm = settings.realm.as_ref();
    let text = realm.map_or("restricted", |realm| realm.as_str());
    let plain = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && !matches!(byte, b'"' | b'\\');
    let value = HeaderValue::from_str(&format!("Basic realm=\"{text}\", charset=\"UTF-8\""));
    match (value, realm) {
        (Ok(value), _) if text.len() <= 128 && text.bytes().all(plain) => Ok(value),
        (_, realm) => {
            let message = "this can't be a realm";
            let hint = "up to 128 visible ASCII characters and spaces, without `\"` and `\\`";
            let at = realm.map(Spanned::span).unwrap_or_default();
            Err(Diagnostic::error(message, at).hint(hint))
        }
    }
}

/// The compiled method.
struct Basic {
    challenge: HeaderValue,
    passwords: Arc<Passwords>,
    verdicts: Arc<Verdicts>,
}

impl Method for Basic {
    fn carriers(&self) -> &[Carrier] {
        &[Carrier::Authorization("basic")]
    }

    fn finds(&self) -> Knowledge {
        Knowledge::default()
    }

    fn is_presented(&self, view: View<'_>) -> bool {
        let values = view.request.headers.get_all(AUTHORIZATION).iter();
        values.into_iter().any(|value| encoded(value).is_some())
    }

    fn judge<'a>(&'a self, view: View<'a>) -> Judgement<'a> {
        let (name, password) = match presented(view) {
            Ok(presented) => presented,
            Err(reason) => return Judgement::Now(Err(reason.into())),
        };
        let user = self.passwords.find(&name);
        let asked = self.verdicts.question(&name, &password, user.map(|(_, user)| user));
        if let Some(verdict) = self.verdicts.known(&asked) {
            return Judgement::Now(settle(verdict, user));
        }
        let judged = async move {
            let hash = self.passwords.hash_for(&name, asked.mark());
            // there are users, or the method would not have been compiled
            let hash = hash.cloned().ok_or(Reason::BasicUser)?;
            let verdict = self.verdicts.find_out(&asked, hash, password).await;
            settle(verdict.map_err(|Busy| busy())?, user)
        };
        Judgement::Later(judged.boxed())
    }

    fn guessed(&self) -> Guessed {
        Guessed::ForAName
    }

    fn tried<'v>(&self, view: View<'v>) -> Option<Tried<'v>> {
        let (name, _) = presented(view).ok()?;
        let value = view.request.headers.get(AUTHORIZATION)?;
        Some(Tried {
            name: Some(name.into()),
            credential: encoded(value)?.into(),
        })
    }

    fn strip(&self, upstream: &mut RequestHeader) {
        upstream.remove_header(&AUTHORIZATION);
    }

    fn expires(&self) -> bool {
        false
    }

    fn challenge(&self, _: Reason) -> Option<HeaderValue> {
        Some(self.challenge.clone())
    }
}

/// A user that is not there has no right password.
fn settle(
    verdict: Verdict,
    user: Option<(&Arc<str>, &User)>,
) -> Result<super::Accepted, Refusal> {
    match (user, verdict) {
        (None, _) => Err(Reason::BasicUser.into()),
        (Some(_), Verdict::Wrong) => Err(Reason::BasicPassword.into()),
        (Some((name, user)), Verdict::Right) => Ok(Arc::new(Identity {
            method: "basic",
            credential: Some(name.clone()),
            consumer: Some(user.consumer.clone()),
            subject: Some(name.clone()),
            ..Identity::default()
        })
        .into()),
    }
}

fn busy() -> Problem {
    Problem::new(Kind::AuthUnavailable)
        .detail("Too many passwords wait to be verified.")
        .header(RETRY_AFTER, HeaderValue::from_static("1"))
        .source("the queue of passwords is full")
}

/// The user and the password of a request.
fn presented(view: View<'_>) -> Result<(String, Zeroizing<Vec<u8>>), Reason> {
    let mut values = view.request.headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value,
        (None, _) => return Err(Reason::Missing),
        (Some(_), Some(_)) => return Err(Reason::Repeated),
    };
    let encoded = encoded(value).ok_or(Reason::Missing)?;
    if encoded.len() > ENCODED_MAX {
        return Err(Reason::BasicMalformed);
    }
    let decoded = BASE64.decode(encoded).map(Zeroizing::new);
    let decoded = decoded.map_err(|_| Reason::BasicMalformed)?;
    let text = std::str::from_utf8(&decoded).map_err(|_| Reason::BasicMalformed)?;
    // RFC 7617 §2: neither may hold control characters, and the first colon ends the user
    let (name, password) = text.split_once(':').ok_or(Reason::BasicMalformed)?;
    let bounded = name.len() <= USER_MAX && password.len() <= PASSWORD_MAX;
    if name.is_empty() || !bounded || text.contains(char::is_control) {
        return Err(Reason::BasicMalformed);
    }
    let password = Zeroizing::new(password.as_bytes().to_vec());
    Ok((name.to_owned(), password))
}

/// What stands behind the scheme `Basic`, which is matched whatever its case (RFC 9110 §11.1).
fn encoded(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, rest) = value.as_bytes().split_at_checked("basic".len())?;
    let rest = scheme.eq_ignore_ascii_case(b"basic").then_some(rest)?;
    match rest.first() {
        None => Some(rest),
        Some(b' ' | b'\t') => Some(rest.trim_ascii()),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    use proptest::prelude::*;

    fn of(value: &str) -> Result<(String, String), Reason> {
        let sample = Sample::get("/").header("authorization", value);
        let (name, password) = presented(sample.view())?;
        Ok((name, String::from_utf8(password.to_vec()).unwrap()))
    }

    #[test]
    fn a_user_and_a_password_stand_behind_the_scheme() {
        let wanted = Ok(("test".to_owned(), "12:3\u{a3}".to_owned()));
        for value in [
            format!("Basic {}", STANDARD.encode("test:12:3\u{a3}")),
            format!("BASIC   {}", STANDARD_NO_PAD.encode("test:12:3\u{a3}")),
        ] {
            assert_eq!(of(&value), wanted, "{value}");
        }
        assert_eq!(of("Basic dGVzdDo="), Ok(("test".into(), String::new())));
    }

    #[test]
    fn what_is_malformed_is_not_compared_with_anything() {
        let encode = |text: &[u8]| format!("Basic {}", STANDARD.encode(text));
        let long = "a".repeat(PASSWORD_MAX + 1);
        for value in [
            "Basic".to_owned(),
            "Basic ".into(),
            "Basic !".into(),
            "Basic dGVzd".into(),
            encode(b"test"),
            encode(b":password"),
            encode(b"te\xff:a"),
            encode(b"te\nst:a"),
            encode(b"test:a\0"),
            encode(format!("test:{long}").as_bytes()),
            encode(format!("{}:a", "a".repeat(USER_MAX + 1)).as_bytes()),
        ] {
            assert_eq!(of(&value), Err(Reason::BasicMalformed), "{value}");
        }
        assert_eq!(of("Basically"), Err(Reason::Missing));
        let twice = Sample::get("/").header("authorization", "Basic dGVzdDo=");
        let twice = twice.header("authorization", "Basic dGVzdDo=");
        assert_eq!(presented(twice.view()), Err(Reason::Repeated));
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "[Bb]asic [ -~]{0,40}") {
            let _ = of(&value);
        }
    }
}
