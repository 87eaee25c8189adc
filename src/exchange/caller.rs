//! How an endpoint is told who calls: fields that no client can write.

use super::Facts;
use super::client::{Writer, writer_of};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The fields that carry an identity, by what each says (design 5, `identity_headers`).
#[derive(Clone, Debug)]
pub struct IdentityFields {
    pub consumer: HeaderName,
    pub plan: HeaderName,
    pub subject: HeaderName,
    pub scopes: HeaderName,
    /// Those of them that are nobody's by their usual names.
    renamed: Vec<HeaderName>,
}

impl Default for IdentityFields {
    fn default() -> Self {
        Self {
            consumer: HeaderName::from_static("x-consumer-id"),
            plan: HeaderName::from_static("x-consumer-plan"),
            subject: HeaderName::from_static("x-auth-subject"),
            scopes: HeaderName::from_static("x-auth-scopes"),
            renamed: Vec::new(),
        }
    }
}

impl IdentityFields {
    pub fn new(
        consumer: Option<HeaderName>,
        plan: Option<HeaderName>,
        subject: Option<HeaderName>,
        scopes: Option<HeaderName>,
    ) -> Self {
        let usual = Self::default();
        let mut fields = Self {
            consumer: consumer.unwrap_or(usual.consumer),
            plan: plan.unwrap_or(usual.plan),
            subject: subject.unwrap_or(usual.subject),
            scopes: scopes.unwrap_or(usual.scopes),
            renamed: Vec::new(),
        };
        let names = [
            &fields.consumer,
            &fields.plan,
            &fields.subject,
            &fields.scopes,
        ];
        let others = names
            .into_iter()
            .filter(|name| writer_of(name.as_str()) != Writer::Gateway);
        fields.renamed = others.cloned().collect();
        fields
    }

    /// Removes what a client wrote under these names, on every route. Those that differ in `_` and `.` are gone by then.
    pub fn remove(&self, headers: &mut HeaderMap) {
        for name in &self.renamed {
            headers.remove(name);
        }
    }

    /// Writes who calls, and what else the endpoint gets because of that.
    pub fn write(&self, upstream: &mut HeaderMap, facts: &Facts) {
        if let Some(identity) = &facts.identity {
            let text = |text: &str| HeaderValue::from_bytes(text.as_bytes()).ok();
            let scopes = (!identity.scopes.is_empty()).then(|| identity.scopes.join(" "));
            let fields = [
                (&self.consumer, identity.consumer.as_deref()),
                (&self.plan, identity.plan.as_deref()),
                (&self.subject, identity.subject.as_deref()),
                (&self.scopes, scopes.as_deref()),
            ];
            for (name, value) in fields {
                if let Some(value) = value.and_then(text) {
                    upstream.insert(name.clone(), value);
                }
            }
        }
        for (name, _) in &facts.granted {
            upstream.remove(name);
        }
        for (name, value) in &facts.granted {
            if let Some(value) = value {
                upstream.append(name.clone(), value.clone());
            }
        }
    }
}
