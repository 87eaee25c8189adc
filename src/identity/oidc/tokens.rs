//! What a provider answers at its token endpoint, and what its id token has to say (OpenID Connect Core 1.0 §3.1.3.7).

use super::super::jwt::{Algorithm, Token};
use super::super::{Claims, Reason};
use super::random_text;
use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
use serde_json::Value;

/// The longest refresh token that is kept.
const REFRESH_TOKEN_BYTES_MAX: usize = 4096;

/// The longest access token that is looked at; it is not kept.
const ACCESS_TOKEN_BYTES_MAX: usize = 16 * 1024;

/// What the scopes may say.
const SCOPE_BYTES_MAX: usize = 1024;

/// The answer to a code, or to a refresh token (RFC 6749 §5.1).
#[derive(PartialEq, Eq)]
pub struct Tokens {
    pub access_token: String,
    /// An answer to a refresh token may leave it out.
    pub id_token: Option<String>,
    pub refresh_token: Option<String>,
    /// For how many seconds the access token is good, if the provider says that.
    pub expires_in: Option<u64>,
    /// None if it is what was asked for.
    pub scope: Option<String>,
}

impl Tokens {
    /// What the answer says; none if it is no such answer.
    pub fn of(answer: &Claims) -> Option<Self> {
        let text = |name: &str, most: usize| match answer.get(name) {
            None | Some(Value::Null) => Some(None),
            Some(Value::String(text)) if !text.is_empty() && text.len() <= most => {
                Some(Some(text.clone()))
            }
            Some(Value::String(text)) if text.is_empty() => Some(None),
            Some(_) => None,
        };
        let bearer = answer.get("token_type").and_then(Value::as_str);
        if !bearer.is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
            return None;
        }
        Some(Self {
            access_token: text("access_token", ACCESS_TOKEN_BYTES_MAX)??,
            id_token: text("id_token", super::super::jwt::TOKEN_BYTES_MAX)?,
            refresh_token: text("refresh_token", REFRESH_TOKEN_BYTES_MAX)?,
            expires_in: answer.get("expires_in").and_then(seconds),
            scope: text("scope", SCOPE_BYTES_MAX)?,
        })
    }
}

/// Some providers write the number as a text.
fn seconds(value: &Value) -> Option<u64> {
    value
        .as_u64()
        .or_else(|| value.as_str()?.parse().ok())
        .filter(|seconds| *seconds > 0)
}

/// What an id token has to say beside what every token has to: `iss`, `exp`, an `aud` that has the client.
pub struct Expected<'e> {
    pub client: &'e str,
    /// Of the login that it answers.
    pub nonce: Option<&'e str>,
    /// Whose it was before (§12.2).
    pub subject: Option<&'e str>,
}

/// Whether an access token is taken for an id token: `typ` says so (RFC 9068 §2.1, RFC 8725 §3.11).
pub fn is_id_token(token: &Token<'_>) -> bool {
    let kind = token.header.kind.as_deref();
    kind.is_none_or(|kind| {
        let kind = kind.to_ascii_lowercase();
        matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt")
    })
}

/// Whether an id token whose signature, issuer, audience and times are right is the one that was asked for.
///
/// # Errors
/// It is not.
pub fn check(
    claims: &Claims,
    algorithm: Algorithm,
    access_token: &str,
    expected: &Expected<'_>,
) -> Result<(), Reason> {
    let text = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(Reason::JwtClaims),
    };
    let subject = text("sub")?.filter(|subject| !subject.is_empty());
    let subject = subject.ok_or(Reason::JwtClaims)?;
    if expected.subject.is_some_and(|before| before != subject) {
        return Err(Reason::OidcSubject);
    }
    // a token for several has to say who asked for it (§2, `azp`)
    let several = matches!(claims.get("aud"), Some(Value::Array(all)) if all.len() > 1);
    match text("azp")? {
        Some(party) if party != expected.client => return Err(Reason::JwtAudience),
        None if several => return Err(Reason::JwtAudience),
        _ => {}
    }
    match (text("nonce")?, expected.nonce) {
        (said, Some(nonce)) if said != Some(nonce) => return Err(Reason::OidcNonce),
        _ => {}
    }
    match text("at_hash")? {
        Some(hash) if hash != half_hash(algorithm, access_token) => Err(Reason::OidcHash),
        _ => Ok(()),
    }
}

/// The left half of the digest that the algorithm has (§3.1.3.6). Ed25519 has SHA-512.
fn half_hash(algorithm: Algorithm, access_token: &str) -> String {
    use Algorithm::*;
    let by = match algorithm {
        RS256 | PS256 | ES256 | HS256 => &SHA256,
        RS384 | PS384 | ES384 | HS384 => &SHA384,
        RS512 | PS512 | EdDSA | HS512 => &SHA512,
    };
    let digest = digest(by, access_token.as_bytes());
    let whole = digest.as_ref();
    random_text(whole.get(..whole.len() / 2).unwrap_or(whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(value: Value) -> Claims {
        value.as_object().unwrap().clone()
    }

    fn expected<'e>(nonce: Option<&'e str>, subject: Option<&'e str>) -> Expected<'e> {
        Expected {
            client: "shop",
            nonce,
            subject,
        }
    }

    #[test]
    fn answers_say_what_they_have_to() {
        let good = json!({"access_token": "a", "token_type": "Bearer", "id_token": "x.y.z", "expires_in": 300, "scope": ""});
        let tokens = Tokens::of(&claims(good.clone())).unwrap();
        assert_eq!(tokens.expires_in, Some(300));
        assert_eq!(tokens.scope, None);
        for (name, value) in [
            ("access_token", json!(null)),
            ("access_token", json!(1)),
            ("token_type", json!("mac")),
            ("token_type", json!(null)),
            ("id_token", json!({})),
            ("id_token", json!("a".repeat(8 * 1024 + 1))),
            ("refresh_token", json!("a".repeat(5000))),
            ("scope", json!(["a"])),
        ] {
            let mut bad = claims(good.clone());
            bad.insert(name.into(), value);
            assert!(Tokens::of(&bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn an_id_token_is_the_one_that_was_asked_for() {
        let good = json!({"sub": "u1", "aud": "shop", "nonce": "n"});
        let judged = |name: &str, value: Value, subject: Option<&str>| {
            let mut claims = claims(good.clone());
            claims.insert(name.into(), value);
            check(
                &claims,
                Algorithm::RS256,
                "access",
                &expected(Some("n"), subject),
            )
        };
        assert_eq!(judged("x", json!(1), None), Ok(()));
        assert_eq!(judged("x", json!(1), Some("u1")), Ok(()));
        assert_eq!(judged("x", json!(1), Some("u2")), Err(Reason::OidcSubject));
        assert_eq!(judged("sub", json!(""), None), Err(Reason::JwtClaims));
        assert_eq!(judged("sub", json!(7), None), Err(Reason::JwtClaims));
        assert_eq!(judged("nonce", json!("m"), None), Err(Reason::OidcNonce));
        assert_eq!(judged("nonce", json!(null), None), Err(Reason::JwtClaims));
        assert_eq!(judged("azp", json!("shop"), None), Ok(()));
        assert_eq!(
            judged("azp", json!("other"), None),
            Err(Reason::JwtAudience)
        );
        assert_eq!(
            judged("aud", json!(["shop", "x"]), None),
            Err(Reason::JwtAudience)
        );
        assert_eq!(judged("aud", json!(["shop"]), None), Ok(()));
        // OpenID Connect Core 1.0, appendix A.3
        let hash = |hash: &str| {
            let mut claims = claims(good.clone());
            claims.insert("at_hash".into(), hash.into());
            check(
                &claims,
                Algorithm::RS256,
                "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y",
                &expected(Some("n"), None),
            )
        };
        assert_eq!(hash("77QmUPtjPfzWtF2AnpK9RQ"), Ok(()));
        assert_eq!(hash("77QmUPtjPfzWtF2AnpK9RR"), Err(Reason::OidcHash));
        // a renewed one needs no nonce
        let renewed = claims(json!({"sub": "u1", "aud": "shop"}));
        assert_eq!(
            check(&renewed, Algorithm::EdDSA, "a", &expected(None, Some("u1"))),
            Ok(())
        );
    }
}
