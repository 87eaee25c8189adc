//! Those who sign tokens: their rules, their keys, and what of their tokens was verified before.
//!
//! ```yaml
//! issuers:
//!   idp: {issuer: "https://idp.example.com/", audience: orders, consumer: azp, plan: tier, groups: realm_access.roles}
//! routes:
//!   orders: {match: {path: /orders/**}, respond: 204, policies: {auth: {jwt: idp}}}
//! ```
//!
//! The rules are pure ([`crate::identity::jwt`]); here they meet keys that change ([`keys`]), a cache ([`cache`]) and
//! what the configuration says about claims ([`Naming`]). A token is looked up by its digest first: what was verified
//! with the same keys counts until it ends.

pub mod cache;
pub mod keys;
pub mod metadata;

use crate::identity::credentials::revoked::Revoked;
use crate::identity::jwt::{self, Keys, Refusal, Rules, Token, Verified, claims};
use crate::identity::{Claims, Identity, claim};
use crate::state::Kept;
use cache::{Cache, Digest};
use keys::Published;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Which claims say what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Naming {
    pub consumer: Option<Box<str>>,
    pub plan: Option<Box<str>>,
    pub groups: Option<Box<str>>,
    /// None: `scope` (RFC 8693 §4.2), else `scp`.
    pub scopes: Option<Box<str>>,
}

impl Naming {
    /// Who the bearer of such claims is.
    pub fn identity(
        &self,
        method: &'static str,
        claims: Claims,
        ends: Option<Duration>,
    ) -> Identity {
        let at = |path: &Option<Box<str>>| claim(&claims, path.as_deref()?);
        let text = |value: Option<&Value>| match value {
            Some(Value::String(text)) if !text.is_empty() => Some(Arc::<str>::from(text.as_str())),
            _ => None,
        };
        let scopes = match &self.scopes {
            Some(path) => claim(&claims, path),
            None => claims.get("scope").or_else(|| claims.get("scp")),
        };
        let arcs = |texts: Vec<&str>| texts.into_iter().map(Arc::from).collect();
        Identity {
            method,
            credential: text(claims.get("jti")),
            consumer: text(at(&self.consumer)),
            plan: text(at(&self.plan)),
            groups: at(&self.groups)
                .map(claims::texts)
                .map(arcs)
                .unwrap_or_default(),
            subject: text(claims.get("sub")),
            scopes: scopes.map(claims::scopes).map(arcs).unwrap_or_default(),
            expires_at: ends.and_then(|ends| SystemTime::UNIX_EPOCH.checked_add(ends)),
            claims: Some(Arc::new(claims)),
        }
    }
}

/// Where the keys of an issuer are.
pub enum Source {
    /// In the configuration.
    Fixed(Keys),
    Published(Published),
}

/// An issuer as the configuration has it.
pub struct Issuer {
    pub name: Arc<str>,
    pub rules: Rules,
    pub naming: Naming,
    pub source: Source,
    /// The `jti` of tokens that count no more, whatever else is right with them.
    pub revoked: Revoked,
    pub verified: Arc<VerifiedTokens>,
}

/// Tokens that were verified. They outlive snapshots: found by the issuer's name, and by everything that was asked of
/// them.
#[derive(Default)]
pub struct VerifiedTokens(Cache<Arc<Identity>>);

impl Kept for VerifiedTokens {
    fn export(&self) -> Option<serde_json::Value> {
        // verifying them again is cheap
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

/// What an issuer's rules and keys say of a token.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Accepted(Arc<Identity>),
    Refused(Refusal),
    /// With keys that are newer than ours it may count.
    MaybeNewer(Refusal),
    /// There are no keys that may be used.
    Unready,
}

impl Issuer {
    /// The keys' generation; that of fixed ones never changes.
    fn with_keys<T>(&self, then: impl FnOnce(&Keys, u64) -> T) -> Option<T> {
        match &self.source {
            Source::Fixed(keys) => Some(then(keys, 0)),
            Source::Published(published) => {
                let held = published.current();
                held.as_ref().map(|held| then(&held.keys, held.generation))
            }
        }
    }

    /// The verdict on a token that was verified before, if it still holds.
    pub fn known(&self, digest: &Digest, now: Duration) -> Option<Arc<Identity>> {
        let found =
            self.with_keys(|_, generation| self.verified.0.find(digest, generation, now))??;
        (!self.revokes(&found)).then_some(found)
    }

    /// Whether the credential is one that counts no more.
    pub fn revokes(&self, identity: &Identity) -> bool {
        let id = identity.credential.as_deref();
        !self.revoked.is_empty() && id.is_some_and(|id| self.revoked.contains(id))
    }

    /// The verdict on a token, which is kept if it is good.
    pub fn verify(&self, text: &str, token: &Token<'_>, digest: Digest, now: Duration) -> Verdict {
        let verdict =
            self.with_keys(
                |keys, generation| match jwt::verify(token, keys, &self.rules, now) {
                    Ok(Verified { claims, expires }) => {
                        let until = expires.saturating_add(self.rules.leeway);
                        let identity = self.naming.identity("jwt", claims, Some(until));
                        if self.revokes(&identity) {
                            return Verdict::Refused(Refusal::Revoked);
                        }
                        let identity = Arc::new(identity);
                        let kept = identity.clone();
                        self.verified
                            .0
                            .keep(digest, text.len(), kept, until, generation);
                        Verdict::Accepted(identity)
                    }
                    Err(rejected) if rejected.maybe_newer_key => {
                        Verdict::MaybeNewer(rejected.refusal)
                    }
                    Err(rejected) => Verdict::Refused(rejected.refusal),
                },
            );
        verdict.unwrap_or(Verdict::Unready)
    }

    /// Whether a token that came right from the issuer counts by these rules; its key may be a new one.
    ///
    /// # Errors
    /// It does not, or there are no keys: then there is no refusal.
    pub async fn judge(
        &self,
        token: &Token<'_>,
        rules: &Rules,
        now: Duration,
    ) -> Result<Verified, Option<Refusal>> {
        let judged = || self.with_keys(|keys, _| jwt::verify(token, keys, rules, now));
        match judged().ok_or(None)? {
            Ok(verified) => Ok(verified),
            Err(rejected) if rejected.maybe_newer_key && self.newer_keys().await => judged()
                .ok_or(None)?
                .map_err(|rejected| Some(rejected.refusal)),
            Err(rejected) => Err(Some(rejected.refusal)),
        }
    }

    /// Waits for keys that are newer, if they can be had now; tells whether it was worth it.
    pub async fn newer_keys(&self) -> bool {
        match &self.source {
            Source::Fixed(_) => false,
            Source::Published(published) => published.newer().await,
        }
    }

    /// The keys that have to be fetched.
    pub fn published(&self) -> Option<&Published> {
        match &self.source {
            Source::Fixed(_) => None,
            Source::Published(published) => Some(published),
        }
    }
}
