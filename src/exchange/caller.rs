//! How an endpoint is told who calls: fields that no client can write.

use super::Facts;
use super::client::{Writer, writer_of};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, COOKIE, ORIGIN, PROXY_AUTHORIZATION,
    RANGE, REFERER, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::borrow::Cow;
use std::fmt::Write as _;

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
            let text = |text: &str| HeaderValue::from_str(&told(text)).ok();
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

/// A name as a field holds it. No other name is held the same way: blanks at the ends, which endpoints cut off, and what
/// may not or not safely stand in a field is percent-encoded (RFC 3986 §2.1), and so is a `%` that would read as if it
/// were.
pub fn told(name: &str) -> Cow<'_, str> {
    let bytes = name.as_bytes();
    let last = bytes.len().saturating_sub(1);
    let is_plain = |at: usize, byte: u8| match byte {
        b'%' => !reads_encoded(bytes, at),
        b' ' => at != 0 && at != last,
        byte => byte.is_ascii_graphic(),
    };
    if bytes
        .iter()
        .enumerate()
        .all(|(at, byte)| is_plain(at, *byte))
    {
        return Cow::Borrowed(name);
    }
    let mut text = String::with_capacity(name.len() * 3);
    for (at, byte) in bytes.iter().enumerate() {
        match is_plain(at, *byte) {
            true => text.push(char::from(*byte)),
            false => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    Cow::Owned(text)
}

/// Whether a `%` and what follows are what [`told`] makes of some byte.
fn reads_encoded(bytes: &[u8], at: usize) -> bool {
    let digit = |at: usize| {
        let digit = char::from(*bytes.get(at)?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
        return false;
    };
    let byte = high << 4 | low;
    byte == b'%' || byte == b' ' || !byte.is_ascii_graphic()
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    #[test]
    fn most_names_are_told_as_they_are() {
        for name in [
            "acme",
            "a b",
            "CN=orders,O=Acme",
            "https://a.test/%2Fb",
            "100%",
            "%zz",
            "",
        ] {
            assert_eq!(told(name), name);
        }
        for (name, written) in [
            (" a ", "%20a%20"),
            ("a\r\nb", "a%0D%0Ab"),
            ("caf\u{e9}", "caf%C3%A9"),
            ("caf%C3%A9", "caf%25C3%25A9"),
            ("%20a", "%2520a"),
            ("%25", "%2525"),
            ("%2525", "%252525"),
        ] {
            assert_eq!(told(name), written);
        }
    }

    proptest! {
        #[test]
        fn no_two_names_are_told_alike(one in "[ %a-c0-9é\t]{0,6}", other in "[ %a-c0-9é\t]{0,6}") {
            prop_assert_eq!(one == other, told(&one) == told(&other), "{:?} {:?}", one, other);
        }

        #[test]
        fn whatever_is_told_fits_a_field_and_keeps_its_ends(name in "\\PC{0,20}|[\u{0}-\u{ff}]{0,20}") {
            let written = told(&name);
            prop_assert_eq!(written.trim(), &*written);
            prop_assert!(HeaderValue::from_str(&written).is_ok());
            // who decodes it all gets at least the plain names back
            if !name.contains('%') {
                let decoded = percent_decode_str(&written).decode_utf8_lossy();
                prop_assert_eq!(&*decoded, &*name);
            }
        }
    }
}
