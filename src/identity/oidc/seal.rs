//! What a browser keeps for the gateway, and can neither read nor change.
//!
//! ChaCha20-Poly1305 (RFC 8439), each time with a key of its own: BLAKE3 of 24 random bytes under the key of the kind
//! and the client. So no number of cookies wears a key out, and the nonce can be zero. What a text is for, and for which
//! client, is part of the key and of what is authenticated: a login can't be shown as a session, nor one client's session
//! to another. The first secret seals, all of them open, so that secrets can be replaced.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use zeroize::Zeroizing;

/// What the keys are derived for (BLAKE3's `derive_key`): another use of the same secret has another key.
const PURPOSE: &str = "northgate 2026-11 sealed cookies of browser logins";

/// Random bytes in each text.
pub const SALT_BYTES: usize = 24;

/// The first byte of what is sealed: the way in which it is.
const VERSION: u8 = 1;

/// What a text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Login,
    Session,
}

/// Seals and opens what belongs to one client of one issuer.
pub struct Seal {
    /// By secret, for logins and for sessions.
    keys: Box<[[Zeroizing<[u8; 32]>; 2]]>,
    fingerprint: [u8; 16],
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    /// `bound` is everything that a text has to be of the same to be opened again, such as the issuer and the client.
    pub fn new<'s>(secrets: impl IntoIterator<Item = &'s [u8]>, bound: &[&str]) -> Self {
        let keys: Box<[_]> = secrets
            .into_iter()
            .map(|secret| {
                let root = Zeroizing::new(blake3::derive_key(PURPOSE, secret));
                [Use::Login, Use::Session].map(|purpose| {
                    let mut hasher = blake3::Hasher::new_keyed(&root);
                    hasher.update(&[purpose as u8]);
                    for part in bound {
                        hasher.update(&(part.len() as u64).to_le_bytes());
                        hasher.update(part.as_bytes());
                    }
                    Zeroizing::new(*hasher.finalize().as_bytes())
                })
            })
            .collect();
        let mut hasher = blake3::Hasher::new();
        for [login, _] in &keys {
            hasher.update(&**login);
        }
        let mut fingerprint = [0; 16];
        hasher.finalize_xof().fill(&mut fingerprint);
        Self { keys, fingerprint }
    }

    /// Tells keys apart, and nothing of what they are.
    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// The text, which fits into a cookie and a URL. None only if there is no secret.
    pub fn seal(&self, purpose: Use, plain: &[u8], salt: [u8; SALT_BYTES]) -> Option<String> {
        let cipher = cipher(self.keys.first()?, purpose, &salt)?;
        let mut sealed =
            Vec::with_capacity(1 + SALT_BYTES + plain.len() + CHACHA20_POLY1305.tag_len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&salt);
        let mut text = plain.to_vec();
        cipher
            .seal_in_place_append_tag(nonce(), aad(purpose), &mut text)
            .ok()?;
        sealed.extend_from_slice(&text);
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// What was sealed, if it was sealed for this use, with one of the secrets.
    pub fn open(&self, purpose: Use, text: &str) -> Option<Zeroizing<Vec<u8>>> {
        // strict: no padding, no spare bits, one spelling for one meaning
        let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (version, rest) = sealed.split_first()?;
        let (salt, sealed) = rest.split_first_chunk::<SALT_BYTES>()?;
        if *version != VERSION {
            return None;
        }
        self.keys.iter().find_map(|keys| {
            let mut plain = Zeroizing::new(sealed.to_vec());
            let cipher = cipher(keys, purpose, salt)?;
            let opened = cipher.open_in_place(nonce(), aad(purpose), &mut plain);
            let length = opened.ok()?.len();
            plain.truncate(length);
            Some(plain)
        })
    }
}

/// No two texts share a key.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn aad(purpose: Use) -> Aad<[u8; 2]> {
    Aad::from([VERSION, purpose as u8])
}

fn cipher(
    [login, session]: &[Zeroizing<[u8; 32]>; 2],
    purpose: Use,
    salt: &[u8; SALT_BYTES],
) -> Option<LessSafeKey> {
    let key = match purpose {
        Use::Login => login,
        Use::Session => session,
    };
    let once = Zeroizing::new(*blake3::keyed_hash(key, salt).as_bytes());
    UnboundKey::new(&CHACHA20_POLY1305, &*once)
        .ok()
        .map(LessSafeKey::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: &[u8] = b"a secret of some length";
    const TWO: &[u8] = b"another secret of some length";

    fn seal(secrets: &[&'static [u8]], bound: &[&str]) -> Seal {
        Seal::new(secrets.iter().copied(), bound)
    }

    #[test]
    fn what_was_sealed_is_opened_with_the_same_key_for_the_same_use_only() {
        let ours = seal(&[ONE], &["https://idp/", "shop"]);
        let text = ours.seal(Use::Session, b"hello", [7; 24]).unwrap();
        assert_eq!(ours.open(Use::Session, &text).unwrap().as_slice(), b"hello");
        assert!(ours.open(Use::Login, &text).is_none());
        for other in [
            seal(&[TWO], &["https://idp/", "shop"]),
            seal(&[ONE], &["https://idp/", "shoq"]),
            seal(&[ONE], &["https://idp/s", "hop"]),
            seal(&[], &["https://idp/", "shop"]),
        ] {
            assert!(other.open(Use::Session, &text).is_none());
            assert_ne!(other.fingerprint(), ours.fingerprint());
        }
    }

    #[test]
    fn the_first_secret_seals_and_all_of_them_open() {
        let bound = ["idp", "shop"];
        let (old, both) = (seal(&[ONE], &bound), seal(&[TWO, ONE], &bound));
        let before = old.seal(Use::Session, b"x", [1; 24]).unwrap();
        assert!(both.open(Use::Session, &before).is_some());
        let after = both.seal(Use::Session, b"x", [1; 24]).unwrap();
        assert!(seal(&[TWO], &bound).open(Use::Session, &after).is_some());
        assert!(old.open(Use::Session, &after).is_none());
    }

    proptest! {
        #[test]
        fn no_mutation_is_accepted(
            plain in proptest::collection::vec(any::<u8>(), 0..200),
            salt in any::<[u8; 24]>(), at in any::<proptest::sample::Index>(), letter in any::<u8>(), kind in 0_u8..4,
        ) {
            let ours = seal(&[TWO, ONE], &["idp", "shop"]);
            let text = ours.seal(Use::Session, &plain, salt).unwrap();
            let opened = ours.open(Use::Session, &text).unwrap();
            prop_assert_eq!(opened.as_slice(), &*plain);
            let mut bytes = text.clone().into_bytes();
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = letter,
                1 => bytes.insert(at, letter),
                2 => { bytes.remove(at); }
                _ => bytes.truncate(at),
            }
            let mutated = String::from_utf8_lossy(&bytes).into_owned();
            prop_assume!(mutated != text);
            prop_assert!(ours.open(Use::Session, &mutated).is_none());
        }

        #[test]
        fn nothing_else_is_opened(text in "\\PC{0,300}") {
            let ours = seal(&[ONE], &["idp", "shop"]);
            prop_assert!(ours.open(Use::Session, &text).is_none());
            prop_assert!(ours.open(Use::Login, &text).is_none());
        }
    }
}
