//! Credentials in URLs stay out of the log: the value of a parameter whose name says so is written as `***`.

use percent_encoding::percent_decode;
use smallvec::SmallVec;

const MASK: &[u8] = b"***";

/// Names that mean a credential wherever they are part of a name, such as `X-Amz-Security-Token`. Without separators.
const PARTS: [&[u8]; 14] = [
    b"token",
    b"secret",
    b"password",
    b"passwd",
    b"passphrase",
    b"apikey",
    b"accesskey",
    b"privatekey",
    b"signature",
    b"credential",
    b"authorization",
    b"session",
    b"assertion",
    b"samlre",
];
/// Names too short to look for inside others.
const WHOLE: [&[u8]; 13] = [
    b"key", b"code", b"sig", b"pwd", b"pass", b"pin", b"otp", b"auth", b"jwt", b"sid", b"ticket",
    b"hmac", b"bearer",
];
/// Longer names are masked without a look: nobody needs their values in a log.
const NAME_MAX: usize = 256;

/// What finds the login that an authorisation server answers (RFC 6749 §4.1.2). Elsewhere it is a common word.
const STATE: &[u8] = b"state=";

/// Whether the query answers a login.
fn is_login(query: &[u8]) -> bool {
    let mut pairs = query.split(|byte| *byte == b'&');
    pairs.any(|pair| pair.starts_with(b"code=") || pair.starts_with(b"error="))
}

/// Gives the query, masked, to `put`, piece by piece.
pub fn write_query(query: &[u8], mut put: impl FnMut(&[u8])) {
    for (at, pair) in query.split(|byte| *byte == b'&').enumerate() {
        if at > 0 {
            put(b"&");
        }
        let equals = memchr::memchr(b'=', pair);
        match equals.and_then(|equals| pair.split_at_checked(equals + 1)) {
            Some((name, value))
                if !value.is_empty()
                    && (is_credential(name) || name == STATE && is_login(query)) =>
            {
                put(name);
                put(MASK);
            }
            _ => put(pair),
        }
    }
}

/// Gives the URL to `put` with its query masked, and without a fragment, which no client should have sent.
pub fn write_url(url: &[u8], mut put: impl FnMut(&[u8])) {
    let url = memchr::memchr(b'#', url).map_or(url, |end| url.split_at(end).0);
    match memchr::memchr(b'?', url).and_then(|mark| url.split_at_checked(mark + 1)) {
        Some((before, query)) => {
            put(before);
            write_query(query, put);
        }
        None => put(url),
    }
}

/// Names are compared decoded, in lower case, letters and digits only: `api_key`, `Api-Key` and `%61pikey` are one.
pub fn is_credential(name: &[u8]) -> bool {
    if name.len() > NAME_MAX {
        return true;
    }
    let letters = percent_decode(name).filter(u8::is_ascii_alphanumeric);
    let name: SmallVec<[u8; 64]> = letters.map(|byte| byte.to_ascii_lowercase()).collect();
    WHOLE.contains(&name.as_slice())
        || PARTS
            .iter()
            .any(|part| memchr::memmem::find(&name, part).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query(text: &str) -> String {
        let mut line = Vec::new();
        write_query(text.as_bytes(), |piece| line.extend_from_slice(piece));
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn credentials_are_masked_however_their_name_is_spelled() {
        for name in [
            "token",
            "key",
            "password",
            "secret",
            "access_token",
            "api_key",
            "signature",
            "code",
            "API-Key",
            "%61pikey",
            "X-Amz-Security-Token",
            "client_secret",
            "user[password]",
            "AWSAccessKeyId",
            "sessionid",
            "SAMLResponse",
        ] {
            assert_eq!(
                query(&format!("a=1&{name}=s3cr=et&b=2")),
                format!("a=1&{name}=***&b=2")
            );
        }
    }

    #[test]
    fn everything_else_is_left_as_it_is() {
        for text in [
            "",
            "a",
            "a=1&b=2",
            "&&=&",
            "keyword=x&page=2&encode=utf8",
            "token",
            "token=",
            "monkey=1",
        ] {
            assert_eq!(query(text), text);
        }
    }

    #[test]
    fn the_query_of_a_url_is_masked_and_its_fragment_cut() {
        let mut line = Vec::new();
        write_url(b"https://a.example/cb?code=1&x=2#access_token=3", |piece| {
            line.extend_from_slice(piece)
        });
        assert_eq!(line, b"https://a.example/cb?code=***&x=2");
    }

    proptest! {
        #[test]
        fn no_value_of_a_credential_gets_through(before in "[a-z=&]{0,20}", value in "[S-Z]{8,20}", after in "(&[a-z=&]{0,20})?") {
            let written = query(&format!("{before}&token={value}{after}"));
            prop_assert!(!written.contains(&value));
        }
    }
}
