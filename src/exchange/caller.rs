//! How an endpoint is told who calls: fields that no client can write.

use super::Facts;
use super::client::{Writer, writer_of};
use crate::identity::{Identity, claim_text};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, COOKIE, ORIGIN, PROXY_AUTHORIZATION,
    RANGE, REFERER, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;
use std::borrow::Cow;

/// What of an identity is percent-encoded in a field: what could end it or is no ASCII, and `%` itself.
const NOT_PLAIN: &AsciiSet = &CONTROLS.add(b'%');

/// A part of an identity as the value of a field, or in one. Users choose their names, issuers let them: no two identities
/// are written alike, and none can break out of its field or be read as another by an endpoint that decodes it or does not.
/// So spaces at the ends are encoded too, which do not count in a field (RFC 9110 §5.5).
pub fn encoded(text: &str) -> Cow<'_, str> {
    let inner = text.trim_matches(' ');
    let plain: Cow<'_, str> = utf8_percent_encode(inner, NOT_PLAIN).into();
    if inner.len() == text.len() {
        return plain;
    }
    let before = text.len() - text.trim_start_matches(' ').len();
    let after = text.len() - inner.len() - before;
    format!("{}{plain}{}", "%20".repeat(before), "%20".repeat(after)).into()
}

/// Members of a list in one field: commas between them, and none within, or a group `users,admin` would be two.
fn listed<'m>(members: impl Iterator<Item = Cow<'m, str>>) -> Option<String> {
    let members = members.map(|member| encoded(&member).replace(',', "%2C"));
    let members: Vec<String> = members.collect();
    (!members.is_empty()).then(|| members.join(","))
}

/// The groups of whoever calls as the value of a field, or in one.
pub fn groups(identity: &Identity) -> Option<String> {
    listed(identity.groups.iter().map(|group| (&**group).into()))
}

/// A claim as the value of a field, or in one.
pub fn claim(identity: &Identity, path: &str) -> Option<String> {
    match identity.claim(path)? {
        Value::Array(members) => listed(members.iter().filter_map(claim_text)),
        value => claim_text(value).map(|text| encoded(&text).into_owned()),
    }
}

/// The fields that carry an identity, by what each says (design 5, `identity_headers`).
#[derive(Clone, Debug)]
pub struct IdentityFields {
    pub consumer: HeaderName,
    pub plan: HeaderName,
    pub subject: HeaderName,
    pub scopes: HeaderName,
    /// Those of them that are nobody's by their usual names.
    renamed: Vec<HeaderName>,
    /// Others that some policy writes, and that say who calls.
    told: Vec<HeaderName>,
}

/// Fields that clients have uses of their own for. Where a policy writes one it takes the place of the client's; elsewhere
/// the client's is what it always was.
pub const OF_CLIENTS: [HeaderName; 10] = [
    ACCEPT,
    ACCEPT_ENCODING,
    ACCEPT_LANGUAGE,
    AUTHORIZATION,
    COOKIE,
    ORIGIN,
    PROXY_AUTHORIZATION,
    RANGE,
    REFERER,
    USER_AGENT,
];

impl Default for IdentityFields {
    fn default() -> Self {
        Self {
            consumer: HeaderName::from_static("x-consumer-id"),
            plan: HeaderName::from_static("x-consumer-plan"),
            subject: HeaderName::from_static("x-auth-subject"),
            scopes: HeaderName::from_static("x-auth-scopes"),
            renamed: Vec::new(),
            told: Vec::new(),
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
            told: Vec::new(),
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

    /// Adds fields that policies write because of who calls (security requirement 5.2: the fields of an authoriser,
    /// headers with a claim in them). Endpoints get a client's own on no route, but for those that clients need.
    pub fn protect(&mut self, told: impl IntoIterator<Item = HeaderName>) {
        let taken = |name: &HeaderName| !OF_CLIENTS.contains(name);
        self.told.extend(told.into_iter().filter(taken));
    }

    /// Removes what a client wrote under the names of [`Self::protect`] from what an endpoint gets, before anything is
    /// written there.
    pub fn remove_told(&self, upstream: &mut HeaderMap) {
        for name in &self.told {
            upstream.remove(name);
        }
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
            let text = |text: &str| HeaderValue::try_from(&*encoded(text)).ok();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;
    use serde_json::json;
    use std::sync::Arc;

    fn subject(subject: &str) -> HeaderValue {
        let mut sample = Sample::get("/");
        sample.facts.identity = Some(Arc::new(Identity {
            subject: Some(subject.into()),
            ..Identity::default()
        }));
        let mut upstream = HeaderMap::new();
        IdentityFields::default().write(&mut upstream, &sample.facts);
        upstream.remove("x-auth-subject").expect("a subject")
    }

    #[test]
    fn what_users_call_themselves_can_not_break_out_of_its_field() {
        for (name, value) in [
            ("alice", "alice"),
            ("CN=alice, O=A \"B\"", "CN=alice, O=A \"B\""),
            ("a\r\nX-Consumer-Id: admin", "a%0D%0AX-Consumer-Id: admin"),
            ("a\0\t\u{7f}", "a%00%09%7F"),
            ("\u{e9}ric", "%C3%A9ric"),
            ("%C3%A9ric", "%25C3%25A9ric"),
            (" admin  ", "%20admin%20%20"),
            ("   ", "%20%20%20"),
            ("", ""),
        ] {
            assert_eq!(subject(name), value, "{name:?}");
        }
        let huge = "\u{10ffff}".repeat(2048);
        assert_eq!(subject(&huge).len(), 2048 * 12);
    }

    #[test]
    fn a_member_of_a_list_is_one_in_a_field() {
        let claims = json!({
            "list": ["a,admin", "b%2C", null, {"c": 1}, [], ["d", "e"], 7, true, " "],
            "text": "a,b", "object": {"a": 1}, "empty": [[], null],
        });
        let identity = Identity {
            groups: Arc::new(["users,admin".into(), "b".into()]),
            claims: Some(Arc::new(claims.as_object().expect("an object").clone())),
            ..Identity::default()
        };
        assert_eq!(groups(&identity).as_deref(), Some("users%2Cadmin,b"));
        let claim = |path| claim(&identity, path);
        assert_eq!(
            claim("list").as_deref(),
            Some("a%2Cadmin,b%252C,d%2Ce,7,true,%20")
        );
        assert_eq!(claim("text").as_deref(), Some("a,b"));
        assert_eq!(claim("object"), None);
        assert_eq!(claim("empty"), None);
        assert_eq!(claim("nothing"), None);
    }

    proptest! {
        #[test]
        fn no_two_identities_are_written_alike(name in "\\PC{0,20}|[ %\u{0}-\u{ff}]{0,20}") {
            let value = subject(&name);
            let text = value.to_str().expect("ASCII");
            prop_assert_eq!(text.trim_ascii(), text);
            prop_assert_eq!(percent_decode_str(text).decode_utf8().expect("UTF-8"), name);
        }
    }
}
