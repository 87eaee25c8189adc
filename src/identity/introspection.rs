//! What an authorisation server says of a token that only it can read (RFC 7662). Pure: its answer, what is asked of it
//! and the time go in, a verdict comes out.

use super::{Claims, Reason};
use serde_json::Value;
use std::time::Duration;

/// What the answer has to say, if it says anything about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub issuer: Option<Box<str>>,
    /// One of these. None: tokens for anybody.
    pub audiences: Option<Box<[Box<str>]>>,
}

/// What the answer says of the token.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It counts until then, if it says until when.
    Active(Option<Duration>),
    Refused(Reason),
    /// It is no answer (RFC 7662 §2.2): the token may be good all the same.
    Broken,
}

/// Reads an answer at this time since the epoch.
pub fn judge(answer: &Claims, expected: &Expected, now: Duration) -> Answer {
    match answer.get("active") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Answer::Refused(Reason::IntrospectionInactive),
        _ => return Answer::Broken,
    }
    let date = |name: &str| match answer.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64().map(Duration::try_from_secs_f64) {
            Some(Ok(date)) => Ok(Some(date)),
            _ => Err(()),
        },
    };
    let (Ok(expires), Ok(not_before)) = (date("exp"), date("nbf")) else {
        return Answer::Broken;
    };
    // the server has the say, but a token that it calls active after its end is none (RFC 7662 §4)
    if expires.is_some_and(|expires| now >= expires) || not_before.is_some_and(|date| date > now) {
        return Answer::Refused(Reason::IntrospectionInactive);
    }
    if let Some(issuer) = &expected.issuer
        && answer.get("iss").and_then(Value::as_str) != Some(issuer)
    {
        return Answer::Refused(Reason::IntrospectionIssuer);
    }
    if let Some(audiences) = &expected.audiences {
        let named = answer
            .get("aud")
            .map(super::jwt::claims::texts)
            .unwrap_or_default();
        if !named
            .iter()
            .any(|one| audiences.iter().any(|known| **known == **one))
        {
            return Answer::Refused(Reason::IntrospectionAudience);
        }
    }
    Answer::Active(expires)
}

/// Whether this can be a bearer token at all (RFC 6750 §2.1, `b64token`), so that nobody is asked about what is none.
pub fn is_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    !body.is_empty() && body.bytes().all(is_letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn judged(answer: Value) -> Answer {
        let expected = Expected {
            issuer: Some("https://idp.example".into()),
            audiences: Some(["orders".into()].into()),
        };
        judge(
            answer.as_object().unwrap(),
            &expected,
            Duration::from_secs(1000),
        )
    }

    #[test]
    fn only_what_is_called_active_and_is_for_us_counts() {
        let (iss, aud) = ("https://idp.example", "orders");
        use Answer::{Active, Broken, Refused};
        for (answer, expected) in [
            (
                json!({"active": true, "iss": iss, "aud": aud}),
                Active(None),
            ),
            (
                json!({"active": true, "iss": iss, "aud": [aud, "x"], "exp": 1001}),
                Active(Some(Duration::from_secs(1001))),
            ),
            (
                json!({"active": true, "iss": iss, "aud": aud, "exp": 1000}),
                Refused(Reason::IntrospectionInactive),
            ),
            (
                json!({"active": true, "iss": iss, "aud": aud, "nbf": 1001}),
                Refused(Reason::IntrospectionInactive),
            ),
            (
                json!({"active": true, "iss": "https://other.example", "aud": aud}),
                Refused(Reason::IntrospectionIssuer),
            ),
            (
                json!({"active": true, "aud": aud}),
                Refused(Reason::IntrospectionIssuer),
            ),
            (
                json!({"active": true, "iss": iss, "aud": "x"}),
                Refused(Reason::IntrospectionAudience),
            ),
            (
                json!({"active": true, "iss": iss}),
                Refused(Reason::IntrospectionAudience),
            ),
            (
                json!({"active": false}),
                Refused(Reason::IntrospectionInactive),
            ),
            (json!({"active": "true", "iss": iss, "aud": aud}), Broken),
            (json!({"active": 1}), Broken),
            (json!({}), Broken),
            (json!({"active": true, "exp": "soon"}), Broken),
            (json!({"active": true, "exp": -1}), Broken),
            (json!({"active": true, "exp": 1e300}), Broken),
        ] {
            assert_eq!(judged(answer.clone()), expected, "{answer}");
        }
    }

    #[test]
    fn what_can_not_be_a_token_is_told_apart() {
        for text in ["a", "2YotnFZFEjr1zCsicMWpAA", "a.b-c_d~e+f/g==", "0"] {
            assert!(is_token(text), "{text}");
        }
        for text in ["", "=", "a=b", "a b", "a\n", "a&token=b", "ä", "a%20"] {
            assert!(!is_token(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_but_active_lets_anybody_in(active in "[a-z]{0,6}", other in any::<i64>()) {
            let texts = judged(json!({"active": active, "iss": "https://idp.example", "aud": "orders", "exp": other}));
            prop_assert!(!matches!(texts, Answer::Active(_)));
        }
    }
}
