//! What consumers prove themselves with, as far as the configuration holds it: API keys and passwords.
//!
//! Pure: keys, time and randomness are arguments. Files are read by `config/`, and `snapshot/` puts together what they
//! hold.

pub mod digest;
pub mod key;
pub mod lines;
pub mod password;
pub mod passwords;
pub mod revoked;
pub mod table;

use super::{Identity, Reason};
use crate::units::Timestamp;
use digest::DigestKey;
use table::{Refusal, Table};

/// The API keys of all consumers.
pub struct ApiKeys {
    /// What digests are made with.
    pub key: DigestKey,
    pub table: Table,
}

impl ApiKeys {
    /// Takes no key.
    pub fn none() -> Self {
        Self {
            key: DigestKey::new(&[]),
            table: Table::default(),
        }
    }

    /// Who calls with that key.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn verify(&self, key: &[u8], now: Timestamp) -> Result<Identity, Reason> {
        // words that programs write where they have no key
        let placeholder = [&b""[..], b"null", b"undefined"].contains(&key);
        if placeholder || key.len() > key::BYTES_MAX {
            return Err(Reason::KeyMalformed);
        }
        let found = self.table.find(&self.key.digest(key), now);
        let found = found.map_err(|refusal| match refusal {
            Refusal::Unknown => Reason::KeyUnknown,
            Refusal::Revoked => Reason::KeyRevoked,
            Refusal::Early => Reason::KeyEarly,
            Refusal::Expired => Reason::KeyExpired,
        })?;
        Ok(Identity {
            method: "api_key",
            credential: Some(found.id),
            consumer: Some(found.consumer),
            plan: found.terms.plan,
            groups: found.terms.groups,
            expires_at: found.expires.map(Timestamp::system_time),
            ..Identity::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::table::{Builder, Key, Owner};
    use super::*;
    use proptest::prelude::*;

    const SECRET: &str = "ng_000000000000000000000000000000000000000000000000";

    fn keys() -> ApiKeys {
        let key = DigestKey::new(b"test");
        let mut builder = Builder::default();
        let entry = Key {
            id: "acme-1",
            digest: key.digest(SECRET.as_bytes()),
            owner: Owner {
                consumer: "acme",
                plan: Some("gold"),
                groups: Some("a,b"),
            },
            not_before: None,
            expires: Some("2030-01-01".parse().unwrap()),
        };
        builder.add(&entry, ()).unwrap();
        ApiKeys {
            key,
            table: builder.finish(),
        }
    }

    fn of(key: &[u8]) -> Result<Identity, Reason> {
        keys().verify(key, "2027-01-01".parse().unwrap())
    }

    #[test]
    fn a_key_says_who_calls() {
        let identity = of(SECRET.as_bytes()).unwrap();
        assert_eq!(identity.credential.as_deref(), Some("acme-1"));
        assert_eq!(identity.consumer.as_deref(), Some("acme"));
        assert_eq!(identity.plan.as_deref(), Some("gold"));
        assert_eq!(*identity.groups, ["a", "b"].map(std::sync::Arc::from));
        let end: Timestamp = "2030-01-01".parse().unwrap();
        assert_eq!(identity.expires_at, Some(end.system_time()));
        let late = keys().verify(SECRET.as_bytes(), end);
        assert_eq!(late, Err(Reason::KeyExpired));
    }

    #[test]
    fn what_can_be_no_key_is_not_looked_for() {
        for key in [&b""[..], b"null", b"undefined", &[b'a'; 513]] {
            assert_eq!(of(key), Err(Reason::KeyMalformed));
        }
        assert_eq!(of(&[b'a'; 512]), Err(Reason::KeyUnknown));
    }

    proptest! {
        #[test]
        fn no_mutation_of_a_key_is_accepted(at in 0..SECRET.len(), byte: u8, cut in 0..SECRET.len(), more: Vec<u8>) {
            let mut changed = SECRET.as_bytes().to_vec();
            changed[at] = byte;
            if changed != SECRET.as_bytes() {
                prop_assert!(of(&changed).is_err());
            }
            prop_assert!(of(&SECRET.as_bytes()[..cut]).is_err());
            prop_assert!(of(&SECRET.as_bytes()[cut + 1..]).is_err());
            let longer = [SECRET.as_bytes(), &more].concat();
            prop_assert_eq!(of(&longer).is_ok(), more.is_empty());
            prop_assert!(of(SECRET.to_ascii_uppercase().as_bytes()).is_err());
        }
    }
}
