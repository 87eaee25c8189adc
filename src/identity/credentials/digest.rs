//! How secrets that are random are kept: as digests under a key, so that neither the configuration nor a copy of it lets
//! anybody in, and weak keys of other makers can't be tried out without the key either.
//!
//! A digest is written `blake3:` and 48 characters of base64url: 4 bytes that tell under which key it was made, and the 32
//! bytes of BLAKE3 in its keyed mode. The first four make a digest of another gateway an error at load rather than a key
//! that is never accepted.

use crate::units::Invalid;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What every written digest begins with.
const SCHEME: &str = "blake3:";

/// The key of all digests: what `secrets: {digests}` becomes.
#[derive(Clone)]
pub struct DigestKey {
    key: Zeroizing<[u8; 32]>,
    mark: [u8; 4],
}

impl DigestKey {
    /// Derives it from a secret of any length.
    pub fn new(secret: &[u8]) -> Self {
        let key = blake3::derive_key("northgate 2026-11 digests of credentials: key", secret);
        let mark = blake3::derive_key("northgate 2026-11 digests of credentials: mark", secret);
        let [a, b, c, d, ..] = mark;
        Self {
            key: Zeroizing::new(key),
            mark: [a, b, c, d],
        }
    }

    /// The digest of a secret.
    pub fn digest(&self, secret: &[u8]) -> Digest {
        Digest(*blake3::keyed_hash(&self.key, secret).as_bytes())
    }

    /// A digest as it is written into a configuration.
    pub fn written(&self, digest: Digest) -> WrittenDigest {
        WrittenDigest {
            mark: self.mark,
            digest,
        }
    }

    /// Whether a written digest was made under this key.
    pub fn made(&self, written: &WrittenDigest) -> bool {
        written.mark == self.mark
    }
}

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::units::MASK)
    }
}

/// A digest under the gateway's key. Equality takes the same time wherever two of them differ.
#[derive(Clone, Copy, Eq)]
pub struct Digest(pub [u8; 32]);

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::units::MASK)
    }
}

/// A digest that knows under which key it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrittenDigest {
    mark: [u8; 4],
    pub digest: Digest,
}

impl fmt::Display for WrittenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 36];
        for (to, from) in bytes.iter_mut().zip(self.mark.iter().chain(&self.digest.0)) {
            *to = *from;
        }
        write!(f, "{SCHEME}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for WrittenDigest {
    type Err = Invalid;

    /// The text is in no error: it may be a key that was written where its digest belongs.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let hint = "`northgate key hash` makes it of a key: `blake3:` and 48 characters";
        let encoded = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| Invalid::new("this is not the digest of a key").hint(hint))?;
        // the decoder wants room for what it estimates, which is more than what comes out
        let mut bytes = [0; 48];
        let decoded = URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes);
        match (decoded, bytes.split_first_chunk::<4>()) {
            (Ok(36), Some((mark, rest))) => match rest.first_chunk::<32>() {
                Some(digest) => Ok(Self {
                    mark: *mark,
                    digest: Digest(*digest),
                }),
                None => Err(Invalid::new("the digest is not complete").hint(hint)),
            },
            _ => Err(Invalid::new("the digest is not complete").hint(hint)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_digest_depends_on_its_key_and_says_so() {
        let (one, other) = (DigestKey::new(b"one"), DigestKey::new(b"other"));
        let (mine, yours) = (one.digest(b"key"), other.digest(b"key"));
        assert_ne!(mine, yours);
        assert_ne!(*blake3::hash(b"key").as_bytes(), mine.0);
        let written = one.written(mine);
        assert!(one.made(&written) && !other.made(&written));
        assert_eq!(format!("{one:?} {mine:?}"), "*** ***");
    }

    #[test]
    fn what_is_no_digest_is_in_no_error() {
        for text in ["", "hunter2", "blake3:", "blake3:hunter2", "blake3:\u{e4}"] {
            let error = text.parse::<WrittenDigest>().unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_digest_is_written_as_it_is_read(secret: Vec<u8>, key: Vec<u8>) {
            let key = DigestKey::new(&key);
            let written = key.written(key.digest(&secret));
            let text = written.to_string();
            prop_assert_eq!(text.len(), SCHEME.len() + 48);
            prop_assert_eq!(text.parse::<WrittenDigest>(), Ok(written));
        }

        #[test]
        fn no_text_panics(text in "(blake3:)?[A-Za-z0-9_+=-]{0,60}") {
            let _ = text.parse::<WrittenDigest>();
        }
    }
}
