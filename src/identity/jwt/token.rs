//! A token taken apart: three parts of base64url, and a header that says nothing we do not understand (RFC 7515).

use super::{Algorithm, Refusal, json};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// The longest token that is looked at. Nothing of a longer one is decoded.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The longest `kid` that is looked for.
const KID_BYTES_MAX: usize = 512;

/// A token whose signature nobody has looked at yet.
#[derive(Debug)]
pub struct Token<'t> {
    pub header: Header,
    /// What is signed: the first two parts, and the dot between them.
    pub(super) signed: &'t str,
    payload: &'t str,
    /// As it is written, in base64url.
    pub(super) signature: &'t str,
}

/// What counts of the header. `jku`, `x5u`, `jwk` and `x5c` are not in it: keys come out of the configuration.
#[derive(Debug)]
pub struct Header {
    pub algorithm: Algorithm,
    /// Which of the configured keys signed it. It is compared, and nothing else.
    pub kid: Option<Box<str>>,
    pub kind: Option<Box<str>>,
}

impl<'t> Token<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// It is no token, or one of a kind that is never accepted.
    pub fn parse(text: &'t str) -> Result<Self, Refusal> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Refusal::Malformed)?;
        if payload.contains('.') || signature.is_empty() {
            return Err(Refusal::Malformed);
        }
        // each part is what it says, before anything of it is believed
        decoded(signature)?;
        Ok(Self {
            header: Header::parse(header)?,
            signed,
            payload,
            signature,
        })
    }

    /// What the token claims. Nobody has checked that it is true.
    ///
    /// # Errors
    /// The payload is not one JSON object.
    pub fn claims(&self) -> Result<Map<String, Value>, Refusal> {
        json::object(&decoded(self.payload)?).ok_or(Refusal::Malformed)
    }
}

impl Header {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let header = json::object(&decoded(text)?).ok_or(Refusal::Malformed)?;
        // an extension that changes what is signed or meant (RFC 7515 §4.1.11, RFC 7797); we know none of them
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(Refusal::Critical);
        }
        let algorithm = match header.get("alg") {
            Some(Value::String(name)) => Algorithm::from_name(name),
            _ => None,
        };
        let kid = text_of(&header, "kid").map_err(|()| Refusal::Malformed)?;
        if kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
            return Err(Refusal::Key);
        }
        Ok(Self {
            algorithm: algorithm.ok_or(Refusal::Algorithm)?,
            kid,
            kind: text_of(&header, "typ").map_err(|()| Refusal::Malformed)?,
        })
    }
}

/// The text of that member, if there is one; an error if it is something else.
fn text_of(object: &Map<String, Value>, name: &str) -> Result<Option<Box<str>>, ()> {
    match object.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str().into())),
        Some(_) => Err(()),
    }
}

/// base64url without padding, and without spare bits in the last letter (RFC 4648 §3.5): one spelling for one meaning.
fn decoded(part: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(text: &str) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    fn with_header(header: &str) -> Result<Header, Refusal> {
        let text = format!("{}.{}.c2ln", encoded(header), encoded("{}"));
        Token::parse(&text).map(|token| token.header)
    }

    #[test]
    fn parts_are_three_and_strict() {
        let header = encoded(r#"{"alg":"RS256"}"#);
        for text in [
            String::new(),
            ".".into(),
            "..".into(),
            header.clone(),
            format!("{header}."),
            format!("{header}.e30"),
            // no signature
            format!("{header}.e30."),
            format!("{header}.e30.c2ln.c2ln"),
            // encrypted: five parts (RFC 7516)
            format!("{header}.e30.e30.e30.c2ln"),
            // padding, the other alphabet, white space, spare bits
            format!("{header}=.e30.c2ln"),
            format!("{header}.e30.c2ln="),
            format!("{header}.e30.c2+n"),
            format!("{header}.e30.c2 n"),
            format!("{header}.e30.c2ln\n"),
            format!("{header}.e30.c2lnZ"),
            format!("{header}.e30.c2lnZh"),
        ] {
            assert_eq!(
                Token::parse(&text).err(),
                Some(Refusal::Malformed),
                "{text}"
            );
        }
        let good = format!("{header}.e30.c2ln");
        let token = Token::parse(&good).unwrap();
        assert_eq!(token.signed, format!("{header}.e30"));
        assert_eq!(token.claims().unwrap().len(), 0);
        // the payload is read when it is asked for
        let broken = format!("{header}.e31.c2ln");
        assert_eq!(
            Token::parse(&broken).unwrap().claims().err(),
            Some(Refusal::Malformed)
        );
    }

    #[test]
    fn a_long_token_is_refused_unread() {
        let long = "a".repeat(TOKEN_BYTES_MAX + 1);
        assert_eq!(Token::parse(&long).err(), Some(Refusal::TooLong));
        let most = "a".repeat(TOKEN_BYTES_MAX);
        assert_eq!(Token::parse(&most).err(), Some(Refusal::Malformed));
    }

    #[test]
    fn headers_say_what_we_understand_or_nothing() {
        for (header, refusal) in [
            (r#"{}"#, Refusal::Algorithm),
            (r#"{"alg":"none"}"#, Refusal::Algorithm),
            (r#"{"alg":"None"}"#, Refusal::Algorithm),
            (r#"{"alg":""}"#, Refusal::Algorithm),
            (r#"{"alg":null}"#, Refusal::Algorithm),
            (r#"{"alg":256}"#, Refusal::Algorithm),
            (r#"{"alg":["RS256"]}"#, Refusal::Algorithm),
            (r#"{"alg":"rs256"}"#, Refusal::Algorithm),
            (r#"{"alg":"RS256 "}"#, Refusal::Algorithm),
            (r#"{"alg":"ES512"}"#, Refusal::Algorithm),
            (r#"{"alg":"RSA-OAEP"}"#, Refusal::Algorithm),
            (r#"{"alg":"RS256","crit":["exp"]}"#, Refusal::Critical),
            (r#"{"alg":"RS256","crit":[]}"#, Refusal::Critical),
            (r#"{"alg":"RS256","crit":null}"#, Refusal::Critical),
            (
                r#"{"alg":"RS256","b64":false,"crit":["b64"]}"#,
                Refusal::Critical,
            ),
            (r#"{"alg":"RS256","b64":false}"#, Refusal::Critical),
            (r#"{"alg":"RS256","alg":"none"}"#, Refusal::Malformed),
            (r#"{"alg":"RS256","kid":1}"#, Refusal::Malformed),
            (r#"{"alg":"RS256","kid":null}"#, Refusal::Malformed),
            (r#"{"alg":"RS256","typ":{}}"#, Refusal::Malformed),
            (r#"["RS256"]"#, Refusal::Malformed),
        ] {
            assert_eq!(with_header(header).err(), Some(refusal), "{header}");
        }
        let long = format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "k".repeat(600));
        assert_eq!(with_header(&long).err(), Some(Refusal::Key));
        let foreign = r#"{"alg":"ES256","kid":"../../etc/passwd","typ":"JWT","jku":"https://evil/","jwk":{"kty":"oct","k":"AA"},"x5u":"https://evil/","x5c":["AA"]}"#;
        let header = with_header(foreign).unwrap();
        assert_eq!(header.kid.as_deref(), Some("../../etc/passwd"));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,200}") {
            let _ = Token::parse(&text).map(|token| token.claims());
        }

        #[test]
        fn nothing_in_parts_panics(header: Vec<u8>, payload: Vec<u8>, signature: Vec<u8>) {
            let parts = [header, payload, signature].map(|part| URL_SAFE_NO_PAD.encode(part));
            let _ = Token::parse(&parts.join(".")).map(|token| token.claims());
        }
    }
}
