//! `issuers`: as written.

use crate::identity::jwt::Algorithm;
use crate::units::{Duration, FileText, LargeFile, OneOrMany, Secret, Spanned};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who signs tokens, what is asked of them, and which claims name whom. Without `jwks_url`, `jwks_file` or `key`, the
/// keys are found by OpenID Connect Discovery, at the issuer's own URL.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// What `iss` must be, letter for letter.
    pub issuer: Spanned<String>,
    /// What `aud` must be, or have among others. Only `oidc` does without: its id tokens are for its `client_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<Spanned<OneOrMany<Spanned<String>>>>,
    /// Where the keys are published: `https`, or `http` on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<Spanned<String>>,
    /// A file with the keys, as a JSON Web Key Set. It is read again on a reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<Spanned<FileText>>,
    /// A public key in PEM form, several, or with `algorithms: HS256` a shared secret of 32 bytes or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Spanned<OneOrMany<Spanned<Secret>>>>,
    /// How tokens may be signed: by default `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, `ES384` and
    /// `EdDSA`. A key has one algorithm: the one that it names itself, else the first of these that it is good for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithms: Option<Spanned<OneOrMany<Spanned<Algorithm>>>>,
    /// What the header `typ` must be, such as `at+jwt` (RFC 9068). By default `JWT`, `at+jwt`, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_type: Option<Spanned<OneOrMany<Spanned<String>>>>,
    /// How far the issuer's clock may be off: 30 s by default, 120 s at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leeway: Option<Spanned<Duration>>,
    /// How often published keys are fetched: every 5 minutes by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Spanned<Duration>>,
    /// How long they are used when no others can be had: 24 h by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_stale: Option<Spanned<Duration>>,
    /// For one answer of the issuer: 2 s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Spanned<Duration>>,
    /// Certificates of the authorities that vouch for the issuer's server; those of the system by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Spanned<FileText>>,
    /// Lists of the `jti` of tokens that count no more, one in each line; read again at every reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<OneOrMany<Spanned<LargeFile>>>,
    /// The claim that names the consumer, such as `azp`; dots lead into objects, as in `realm_access.roles`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<Spanned<String>>,
    /// The claim that names the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Spanned<String>>,
    /// The claim that names the groups: a text, or a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Spanned<String>>,
    /// The claim that holds the scopes: a list, or a text with blanks between them. `scope`, else `scp`, by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Spanned<String>>,
}
