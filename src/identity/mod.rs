//! Who calls: what a verified credential says about its bearer, and the consumers that the configuration knows.
//!
//! A method of `auth` verifies a credential and makes an [`Identity`] of it; [`Consumers`] add what the configuration
//! says about the consumer it names. The cores that verify (tokens, keys, passwords, signatures) stand here too: keys,
//! time and randomness are arguments, and nothing here reads a file or asks a network.
//!
//! ```yaml
//! plans: {gold: {}}
//! consumers:
//!   acme: {plan: gold, groups: [partners]}
//! ```

pub mod certificate;
pub mod credentials;
pub mod guessing;
pub mod introspection;
pub mod jwt;
pub mod oidc;
pub mod reason;
pub mod signature;
mod wanted;

pub use reason::{Public, Reason};
pub use wanted::Wanted;

use certificate::KnownCertificates;
use signature::KnownKeys;

use ahash::AHashMap;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

/// The claims of a token, as its issuer wrote them.
pub type Claims = Map<String, Value>;

/// Who calls, as far as a credential proves it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Identity {
    /// The method that verified it: the key under `auth`, such as `jwt`.
    pub method: &'static str,
    /// What the credential is called: the id of a key, never the key.
    pub credential: Option<Arc<str>>,
    pub consumer: Option<Arc<str>>,
    pub plan: Option<Arc<str>>,
    pub groups: Arc<[Arc<str>]>,
    /// The `sub` of a token, the user of a password, the subject of a certificate.
    pub subject: Option<Arc<str>>,
    pub scopes: Arc<[Arc<str>]>,
    pub claims: Option<Arc<Claims>>,
    /// When the credential stops being accepted: what an issuer's clock may be off is in it.
    pub expires_at: Option<SystemTime>,
}

impl Identity {
    /// The claim at that path: its whole name, else the members of objects, separated by dots.
    pub fn claim(&self, path: &str) -> Option<&Value> {
        claim(self.claims.as_deref()?, path)
    }

    /// What is known in `other` and not here, as with two credentials that belong to one caller.
    ///
    /// # Errors
    /// They name different consumers.
    pub fn joined(mut self, other: &Identity) -> Result<Self, Reason> {
        if let (Some(one), Some(two)) = (&self.consumer, &other.consumer)
            && one != two
        {
            return Err(Reason::Conflict);
        }
        let or = |own: &mut Option<Arc<str>>, other: &Option<Arc<str>>| {
            if own.is_none() {
                own.clone_from(other);
            }
        };
        or(&mut self.credential, &other.credential);
        or(&mut self.consumer, &other.consumer);
        or(&mut self.plan, &other.plan);
        or(&mut self.subject, &other.subject);
        if self.groups.is_empty() {
            self.groups = other.groups.clone();
        }
        if self.scopes.is_empty() {
            self.scopes = other.scopes.clone();
        }
        if self.claims.is_none() {
            self.claims.clone_from(&other.claims);
        }
        // it holds for as long as both of them do
        self.expires_at = [self.expires_at, other.expires_at]
            .into_iter()
            .flatten()
            .min();
        Ok(self)
    }
}

/// See [`Identity::claim`].
pub fn claim<'c>(claims: &'c Claims, path: &str) -> Option<&'c Value> {
    // names of claims may be URLs, with dots of their own (RFC 7519 §4.2)
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    path.match_indices('.').find_map(|(at, _)| {
        let (first, rest) = (path.get(..at)?, path.get(at + 1..)?);
        claim(claims.get(first)?.as_object()?, rest)
    })
}

/// A claim as one text; none for objects and null. The members of a list are joined with commas.
pub fn claim_text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(text.into()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string().into()),
        Value::Array(members) => {
            let texts: Vec<Cow<'_, str>> = members.iter().filter_map(claim_text).collect();
            (!texts.is_empty()).then(|| texts.join(",").into())
        }
        Value::Null | Value::Object(_) => None,
    }
}

/// What the configuration says about one consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    pub name: Arc<str>,
    pub plan: Option<Arc<str>>,
    /// None if nothing is said, which leaves the groups of the token.
    pub groups: Option<Arc<[Arc<str>]>>,
}

/// A plan that limits, by its place among those of its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlanNumber(pub u32);

/// The plans of a configuration.
#[derive(Debug, Default)]
pub struct Plans {
    /// By name; without a number where a plan limits nothing.
    pub declared: AHashMap<Arc<str>, Option<PlanNumber>>,
    /// Of callers that have none, or one that is not declared.
    pub default: Option<Arc<str>>,
}

/// The consumers of a configuration, and their plans.
#[derive(Debug, Default)]
pub struct Consumers {
    known: AHashMap<Arc<str>, Arc<Consumer>>,
    plans: Plans,
}

impl Consumers {
    pub fn new(consumers: impl IntoIterator<Item = Consumer>, plans: Plans) -> Self {
        let named = |consumer: Consumer| (consumer.name.clone(), Arc::new(consumer));
        let known = consumers.into_iter().map(named).collect();
        Self { known, plans }
    }

    pub fn find(&self, name: &str) -> Option<&Arc<Consumer>> {
        self.known.get(name)
    }

    /// What the configuration says about a consumer beats what its token says; who has no plan that is declared has the
    /// default one, if there is one.
    pub fn complete(&self, identity: &mut Arc<Identity>) {
        let named = identity.consumer.as_deref();
        let known = named.and_then(|name| self.find(name));
        let plan = known.and_then(|known| known.plan.as_ref());
        let plan = self.plan(plan.or(identity.plan.as_ref()));
        let groups = known.and_then(|known| known.groups.as_ref());
        // it may be shared with a cache, and is then copied
        if plan != identity.plan.as_ref() {
            Arc::make_mut(identity).plan = plan.cloned();
        }
        if let Some(groups) = groups.filter(|groups| ***groups != *identity.groups) {
            Arc::make_mut(identity).groups = groups.clone();
        }
    }

    fn plan<'p>(&'p self, named: Option<&'p Arc<str>>) -> Option<&'p Arc<str>> {
        let Some(default) = &self.plans.default else {
            return named;
        };
        let declared = named.filter(|name| self.plans.declared.contains_key(&***name));
        Some(declared.unwrap_or(default))
    }

    /// The plan of that name, if it limits.
    pub fn plan_number(&self, name: &str) -> Option<PlanNumber> {
        *self.plans.declared.get(name)?
    }
}

/// What consumers prove themselves with, beside keys and passwords.
#[derive(Debug, Default)]
pub struct Proofs {
    pub certificates: Arc<KnownCertificates>,
    pub signatures: Arc<KnownKeys>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(value: Value) -> Claims {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn claims_are_found_by_whole_names_and_by_paths() {
        let claims = claims(json!({
            "sub": "u1", "https://example.com/tier": "gold",
            "realm_access": {"roles": ["a", "b"], "x.y": {"z": 1}}, "a.b": "whole", "a": {"b": "path"},
        }));
        let text = |path| {
            claim(&claims, path)
                .and_then(claim_text)
                .map(Cow::into_owned)
        };
        assert_eq!(text("sub").as_deref(), Some("u1"));
        assert_eq!(text("https://example.com/tier").as_deref(), Some("gold"));
        assert_eq!(text("realm_access.roles").as_deref(), Some("a,b"));
        assert_eq!(text("realm_access.x.y.z").as_deref(), Some("1"));
        assert_eq!(text("a.b").as_deref(), Some("whole"));
        assert_eq!(text("realm_access"), None);
        assert_eq!(text("realm_access."), None);
        assert_eq!(text(".sub"), None);
    }

    #[test]
    fn two_credentials_of_one_caller_add_up_and_end_with_the_first_that_ends() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        let one = Identity {
            method: "mtls",
            subject: Some("CN=a".into()),
            expires_at: at(9),
            ..Identity::default()
        };
        let two = Identity {
            method: "jwt",
            consumer: Some("acme".into()),
            subject: Some("u1".into()),
            expires_at: at(5),
            ..Identity::default()
        };
        let both = one.clone().joined(&two).unwrap();
        assert_eq!((both.method, both.expires_at), ("mtls", at(5)));
        assert_eq!(both.subject.as_deref(), Some("CN=a"));
        assert_eq!(both.consumer.as_deref(), Some("acme"));
        let other = Identity {
            consumer: Some("other".into()),
            ..one
        };
        assert_eq!(other.joined(&two), Err(Reason::Conflict));
    }

    fn bearer(consumer: &str, plan: Option<&str>) -> Arc<Identity> {
        Arc::new(Identity {
            consumer: Some(consumer.into()),
            plan: plan.map(Into::into),
            groups: Arc::new(["users".into()]),
            ..Identity::default()
        })
    }

    fn acme() -> Consumer {
        Consumer {
            name: "acme".into(),
            plan: Some("gold".into()),
            groups: None,
        }
    }

    #[test]
    fn an_entry_overrides_what_a_token_says() {
        let consumers = Consumers::new([acme()], Plans::default());
        let mut identity = bearer("acme", Some("free"));
        consumers.complete(&mut identity);
        assert_eq!(identity.plan.as_deref(), Some("gold"));
        assert_eq!(*identity.groups, [Arc::from("users")]);
        let mut identity = bearer("unknown", Some("free"));
        consumers.complete(&mut identity);
        assert_eq!(identity.plan.as_deref(), Some("free"));
    }

    #[test]
    fn who_has_no_plan_that_is_declared_has_the_default_one() {
        let plans = Plans {
            declared: [("gold".into(), Some(PlanNumber(1))), ("free".into(), None)].into(),
            default: Some("free".into()),
        };
        let consumers = Consumers::new([acme()], plans);
        let plan = |consumer, plan| {
            let mut identity = bearer(consumer, plan);
            consumers.complete(&mut identity);
            identity.plan.as_deref().map(str::to_owned)
        };
        assert_eq!(plan("acme", None).as_deref(), Some("gold"));
        assert_eq!(plan("other", None).as_deref(), Some("free"));
        assert_eq!(plan("other", Some("platinum")).as_deref(), Some("free"));
        assert_eq!(plan("other", Some("gold")).as_deref(), Some("gold"));
        assert_eq!(consumers.plan_number("gold"), Some(PlanNumber(1)));
        assert_eq!(consumers.plan_number("free"), None);
    }
}
