//! JSON Web Tokens: whether one counts, and if not, exactly why.
//!
//! Pure: the text, the keys, the rules and the time go in, a verdict comes out. A verdict is right only if all of it
//! is, in this order: the form of the token ([`token`]), its header, a key of the issuer for exactly this algorithm
//! ([`key`], [`jwks`]), the signature (by `jsonwebtoken`), and the claims ([`claims`]). Nothing of a token says how it
//! is to be checked: `kid` and `alg` are compared with what the configuration has, and keys in a token, or places to
//! get them from, are never looked at.
//!
//! What `jsonwebtoken` would check besides is not asked of it, since its defaults are kinder than ours: it reads `crit`
//! and goes on, leaves `nbf` alone, and takes a token without `iss` or `aud` for one that has the right ones.
//!
//! # What the best practices ask for
//!
//! RFC 8725 (JSON Web Token Best Current Practices), and the parts of RFC 9700 (OAuth 2.0 Security) that concern tokens;
//! the others are in [`crate::policy::auth`]. A test sees to it that those in the last column are there.
//!
//! | Practice | Here | Test |
//! |---|---|---|
//! | 8725 §3.1 one algorithm per key, chosen by the configuration | [`Key::algorithm`]; another one in the header is refused | `an_algorithm_that_is_not_the_keys_own_is_refused` |
//! | 8725 §3.2 no `none`, no weak algorithms | [`Algorithm`] has no such case | `token::tests::headers_say_what_we_understand_or_nothing` |
//! | 8725 §3.3 all of it is checked, nested tokens too | what is encrypted or nested is refused | `token::tests::parts_are_three_and_strict` |
//! | 8725 §3.4 keys are validated | points on their curve, RSA of 2,048 to 8,192 bits | `keys_that_are_none_are_refused` |
//! | 8725 §3.5 no weak secrets | 32 bytes at least, never the text of a public key | `keys_that_are_none_are_refused` |
//! | 8725 §3.6, §3.7 no compression, UTF-8 only | refused, as is anything that two readers would read as two things | `json::tests::only_one_meaning_is_read` |
//! | 8725 §3.8 the key belongs to the issuer; `sub` comes from it | each issuer has its own keys, and `iss` is compared | `a_token_of_another_issuer_is_refused` |
//! | 8725 §3.8 a token of one issuer is no other's | of several, `iss` chooses, and then only that one's keys count | `of_several_issuers_the_one_that_the_token_names_judges_it` |
//! | 8725 §3.9 the audience is checked | `aud` is required | `claims::tests::issuers_and_audiences_are_exact` |
//! | 8725 §3.10 claims and header fields are not trusted: `kid`, `jku`, `x5u` | `kid` is compared only, the others are not looked at | `keys_of_the_attacker_are_never_used`, `what_a_token_says_about_keys_is_never_fetched` |
//! | 8725 §3.11, §3.12 explicit types, rules that exclude other kinds of tokens | [`Rules::kinds`] | `tokens_of_another_kind_are_refused` |
//! | 9700 §2.3, §4.10.2 tokens for one audience, refused elsewhere | `audience` is required in the configuration | `claims::tests::issuers_and_audiences_are_exact` |
//! | 9700 §4.3.2 no tokens in the query | only where the configuration asks for it | `a_token_in_the_query_counts_only_where_it_is_asked_for` |
//! | 9700 §4.9.2 what an origin gets cannot be used elsewhere | the token is removed before a request is sent on | `the_origin_learns_who_calls_and_the_token_does_not_reach_the_origin` |
//! | nothing of a token can be changed | of all algorithms, any letter and any part | `no_mutation_of_a_good_token_counts`, `no_mixture_of_good_tokens_counts` |

pub mod claims;
pub mod json;
pub mod jwks;
pub mod key;
pub mod token;

pub use key::{Algorithm, Key, KeyError, Keys};
pub use token::{TOKEN_BYTES_MAX, Token};

use super::Reason;
use key::NoCandidate;
use serde_json::{Map, Value};
use std::time::Duration;

/// Why a token is refused. Operators see it; of clients, only those whose token has [`Refusal::Expired`] learn more than
/// that theirs is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// More than [`TOKEN_BYTES_MAX`]; nothing of it was decoded.
    TooLong,
    /// Not three parts of strict base64url, or not strict JSON in them.
    Malformed,
    /// No algorithm, one that does not exist here, or one that the key is not for.
    Algorithm,
    /// `crit` or `b64`: the token says that it means something else than it seems to.
    Critical,
    /// `typ` says that it is a token for another purpose.
    Kind,
    /// Its key is none of the issuer's.
    Key,
    Signature,
    /// Everything else is right, the signature first.
    Expired,
    NotBefore,
    /// It was issued in the future.
    IssuedLater,
    Issuer,
    Audience,
    /// A registered claim is missing or has a value that it can't have.
    Claims,
    /// Its `jti` is on a list of revoked ones.
    Revoked,
}

impl std::convert::From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TooLong => Self::JwtTooLong,
            Refusal::Malformed => Self::JwtMalformed,
            Refusal::Algorithm => Self::JwtAlgorithm,
            Refusal::Critical => Self::JwtCritical,
            Refusal::Kind => Self::JwtType,
            Refusal::Key => Self::JwtKey,
            Refusal::Signature => Self::JwtSignature,
            Refusal::Expired => Self::JwtExpired,
            Refusal::NotBefore => Self::JwtNotBefore,
            Refusal::IssuedLater => Self::JwtIssuedAt,
            Refusal::Issuer => Self::JwtIssuer,
            Refusal::Audience => Self::JwtAudience,
            Refusal::Claims => Self::JwtClaims,
            Refusal::Revoked => Self::JwtRevoked,
        }
    }
}

/// What a token has to say to count.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What `iss` must be, letter for letter.
    pub issuer: Box<str>,
    /// `aud` must have one of these.
    pub audiences: Box<[Box<str>]>,
    /// How far the issuer's clock may be off.
    pub leeway: Duration,
    /// What `typ` must be, without `application/`. None: absent, `JWT`, or `at+jwt` (RFC 9068).
    pub kinds: Option<Box<[Box<str>]>>,
}

impl Rules {
    /// Media types have no case, and may leave out `application/` (RFC 7515 §4.1.9).
    fn takes(&self, kind: Option<&str>) -> bool {
        const PREFIX: &str = "application/";
        let short = kind.map(|kind| match kind.split_at_checked(PREFIX.len()) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) => rest,
            _ => kind,
        });
        let is = |known: &str| short.is_some_and(|kind| kind.eq_ignore_ascii_case(known));
        match &self.kinds {
            Some(kinds) => kinds.iter().any(|known| is(known)),
            None => short.is_none() || is("JWT") || is("at+jwt"),
        }
    }
}

/// A token that counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    pub claims: Map<String, Value>,
    /// `exp`, since the epoch. The leeway comes on top of it.
    pub expires: Duration,
}

/// A token that does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub refusal: Refusal,
    /// The issuer may have newer keys than these, with which it would count.
    pub maybe_newer_key: bool,
}

impl From<Refusal> for Rejected {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            maybe_newer_key: false,
        }
    }
}

/// Whether the token counts at this time since the epoch.
///
/// # Errors
/// It does not.
pub fn verify(
    token: &Token<'_>,
    keys: &Keys,
    rules: &Rules,
    now: Duration,
) -> Result<Verified, Rejected> {
    if !rules.takes(token.header.kind.as_deref()) {
        return Err(Refusal::Kind.into());
    }
    let kid = token.header.kid.as_deref();
    let candidates = keys.candidates(kid, token.header.algorithm);
    let candidates = candidates.map_err(|none| match none {
        NoCandidate::Unknown => Rejected {
            refusal: Refusal::Key,
            maybe_newer_key: true,
        },
        NoCandidate::OtherAlgorithm => Refusal::Algorithm.into(),
    })?;
    let signed = |key: &&Key| key.signed(token.signed, token.signature);
    if !candidates.keys.iter().any(signed) {
        return Err(Rejected {
            refusal: Refusal::Signature,
            // a key without a name is told from its successor by nothing else
            maybe_newer_key: !candidates.named,
        });
    }
    let claims = token.claims()?;
    let expires = claims::check(&claims, rules, now)?;
    Ok(Verified { claims, expires })
}

#[cfg(test)]
pub(crate) mod tests;
