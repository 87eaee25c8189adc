//! What a token claims: the registered claims that decide whether it counts (RFC 7519 §4.1), and those that the
//! configuration names.

use super::{Refusal, Rules};
use serde_json::{Map, Value};
use std::time::Duration;

/// The end of the year 9999. Whatever is later was meant in milliseconds, and such a token would never end.
const NUMERIC_DATE_MAX: f64 = 253_402_300_799.0;

/// A point in time as it stands in a token (RFC 7519 §2): seconds since the epoch, whole or not.
fn date(value: &Value) -> Option<Duration> {
    let seconds = value.as_f64()?;
    if !(0.0..=NUMERIC_DATE_MAX).contains(&seconds) {
        return None;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// A claim that has to be a point in time if it is there.
fn dated(claims: &Map<String, Value>, name: &str) -> Result<Option<Duration>, Refusal> {
    let date = claims
        .get(name)
        .map(|value| date(value).ok_or(Refusal::Claims));
    date.transpose()
}

/// Whether the claims hold now. Returns when they end.
///
/// What a token is for is looked at before its time, so that `expired` says that everything else is right.
pub(super) fn check(
    claims: &Map<String, Value>,
    rules: &Rules,
    now: Duration,
) -> Result<Duration, Refusal> {
    match claims.get("iss") {
        Some(Value::String(issuer)) if **issuer == *rules.issuer => {}
        Some(Value::String(_)) | None => return Err(Refusal::Issuer),
        Some(_) => return Err(Refusal::Claims),
    }
    if !is_for(claims.get("aud").ok_or(Refusal::Audience)?, rules)? {
        return Err(Refusal::Audience);
    }
    let (not_before, issued) = (dated(claims, "nbf")?, dated(claims, "iat")?);
    let expires = dated(claims, "exp")?.ok_or(Refusal::Claims)?;
    let soon = now.saturating_add(rules.leeway);
    if not_before.is_some_and(|date| date > soon) {
        return Err(Refusal::NotBefore);
    }
    if issued.is_some_and(|date| date > soon) {
        return Err(Refusal::IssuedLater);
    }
    // "on or after which" it must not be accepted (RFC 7519 §4.1.4)
    if now >= expires.saturating_add(rules.leeway) {
        return Err(Refusal::Expired);
    }
    Ok(expires)
}

/// Whether one of the audiences is ours. All of them have to be texts.
fn is_for(audience: &Value, rules: &Rules) -> Result<bool, Refusal> {
    let ours = |one: &str| rules.audiences.iter().any(|known| **known == *one);
    match audience {
        Value::String(one) => Ok(ours(one)),
        Value::Array(several) => {
            let texts: Option<Vec<&str>> = several.iter().map(Value::as_str).collect();
            Ok(texts.ok_or(Refusal::Claims)?.into_iter().any(ours))
        }
        _ => Err(Refusal::Claims),
    }
}

/// The texts of a claim that is a text or a list of them; nothing of any other.
pub fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The scopes of a claim: a text with spaces between them (RFC 8693 §4.2), or a list.
pub fn scopes(value: &Value) -> Vec<&str> {
    let texts = texts(value);
    let words = texts.into_iter().flat_map(|text| text.split(' '));
    words.filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: u64 = 1_700_000_000;

    fn rules() -> Rules {
        Rules {
            issuer: "https://idp.example/".into(),
            audiences: ["orders".into(), "billing".into()].into(),
            leeway: Duration::from_secs(30),
            kinds: None,
        }
    }

    fn good() -> Map<String, Value> {
        let claims = json!({"iss": "https://idp.example/", "aud": "orders", "exp": NOW + 60});
        claims.as_object().unwrap().clone()
    }

    fn judged(change: &[(&str, Value)]) -> Result<Duration, Refusal> {
        let mut claims = good();
        for (name, value) in change {
            claims.insert((*name).into(), value.clone());
        }
        check(&claims, &rules(), Duration::from_secs(NOW))
    }

    #[test]
    fn what_is_required_has_to_be_there() {
        assert_eq!(judged(&[]), Ok(Duration::from_secs(NOW + 60)));
        for (name, refusal) in [
            ("iss", Refusal::Issuer),
            ("aud", Refusal::Audience),
            ("exp", Refusal::Claims),
        ] {
            let mut claims = good();
            claims.remove(name);
            let now = Duration::from_secs(NOW);
            assert_eq!(check(&claims, &rules(), now), Err(refusal), "{name}");
        }
    }

    #[test]
    fn issuers_and_audiences_are_exact() {
        use Refusal::*;
        for (name, value, expected) in [
            ("iss", json!("https://idp.example"), Err(Issuer)),
            ("iss", json!("https://IDP.example/"), Err(Issuer)),
            ("iss", json!("https://idp.example/ "), Err(Issuer)),
            ("iss", json!(["https://idp.example/"]), Err(Claims)),
            ("iss", json!(null), Err(Claims)),
            ("aud", json!("order"), Err(Audience)),
            ("aud", json!("Orders"), Err(Audience)),
            ("aud", json!(""), Err(Audience)),
            ("aud", json!([]), Err(Audience)),
            ("aud", json!(["x", "y"]), Err(Audience)),
            ("aud", json!(["x", "billing"]), Ok(())),
            ("aud", json!(["orders", 1]), Err(Claims)),
            ("aud", json!([["orders"]]), Err(Claims)),
            ("aud", json!({"orders": true}), Err(Claims)),
            ("aud", json!(true), Err(Claims)),
        ] {
            let judged = judged(&[(name, value.clone())]).map(|_| ());
            assert_eq!(judged, expected, "{name}: {value}");
        }
    }

    #[test]
    fn times_are_numbers_and_hold_with_the_leeway() {
        use Refusal::*;
        for (name, value, expected) in [
            ("exp", json!(NOW - 29), Ok(())),
            ("exp", json!(NOW as f64 - 29.5), Ok(())),
            ("exp", json!(NOW - 30), Err(Expired)),
            ("exp", json!(NOW as f64 - 30.5), Err(Expired)),
            ("exp", json!(0), Err(Expired)),
            ("exp", json!(-1), Err(Claims)),
            ("exp", json!(NOW * 1000), Err(Claims)),
            ("exp", json!(1e300), Err(Claims)),
            ("exp", json!(u64::MAX), Err(Claims)),
            ("exp", json!((NOW + 60).to_string()), Err(Claims)),
            ("exp", json!(null), Err(Claims)),
            ("exp", json!(true), Err(Claims)),
            ("exp", json!([NOW + 60]), Err(Claims)),
            ("nbf", json!(NOW + 30), Ok(())),
            ("nbf", json!(NOW + 31), Err(NotBefore)),
            ("nbf", json!("0"), Err(Claims)),
            ("nbf", json!(null), Err(Claims)),
            ("iat", json!(NOW + 30), Ok(())),
            ("iat", json!(NOW + 31), Err(IssuedLater)),
            ("iat", json!(false), Err(Claims)),
        ] {
            let judged = judged(&[(name, value.clone())]).map(|_| ());
            assert_eq!(judged, expected, "{name}: {value}");
        }
    }

    #[test]
    fn a_token_that_is_not_for_us_is_not_said_to_be_expired() {
        let expired = ("exp", json!(1));
        assert_eq!(
            judged(&[expired.clone(), ("aud", json!("x"))]),
            Err(Refusal::Audience)
        );
        assert_eq!(judged(&[expired]), Err(Refusal::Expired));
    }

    #[test]
    fn claims_that_name_things_are_texts_or_lists_of_them() {
        assert_eq!(texts(&json!(["admin", 7, "user", null])), ["admin", "user"]);
        assert_eq!(texts(&json!("admin")), ["admin"]);
        assert!(texts(&json!({"admin": true})).is_empty());
        assert_eq!(scopes(&json!(" a  b ")), ["a", "b"]);
        assert_eq!(scopes(&json!(["a", "b c"])), ["a", "b", "c"]);
        assert!(scopes(&json!(7)).is_empty());
    }

    proptest! {
        #[test]
        fn a_token_never_counts_after_its_end(exp in 0_u64..4_000_000_000, later in 0_u64..100_000) {
            let mut claims = good();
            claims.insert("exp".into(), json!(exp));
            let at = |seconds| check(&claims, &rules(), Duration::from_secs(seconds));
            prop_assert_eq!(at(exp + 30 + later), Err(Refusal::Expired));
            if exp + 29 >= later {
                prop_assert!(at(exp + 29 - later).is_ok());
            }
        }
    }
}
