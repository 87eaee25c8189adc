//! Sets of keys as issuers publish them (RFC 7517).
//!
//! A key that we can't use, or that is not for signatures, is passed over, as RFC 7517 §5 asks: issuers publish keys for
//! encryption, and of kinds yet to come, in the same set.

use super::json;
use super::key::{Family, Key, KeyError, Parts};
use super::{Algorithm, Keys};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use std::fmt;
use zeroize::Zeroizing;

/// The longest text of a set that is read.
pub const SET_BYTES_MAX: usize = 256 * 1024;

/// The most keys of a set.
pub const SET_KEYS_MAX: usize = 64;

/// Where a set comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Everybody can read it, so a shared secret in it is none, and is passed over.
    Url,
    File,
}

/// Why a text is no set of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetError {
    TooLong,
    /// It is not a JSON object with a list `keys` of objects.
    Malformed,
    TooMany,
    /// None of its keys can be used.
    NoKey,
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "it is longer than {} KiB", SET_BYTES_MAX / 1024),
            Self::Malformed => f.write_str("it is not a JSON object with a list `keys`"),
            Self::TooMany => write!(f, "it has more than {SET_KEYS_MAX} keys"),
            Self::NoKey => f.write_str("none of its keys can be used"),
        }
    }
}

impl std::error::Error for SetError {}

/// A set that was read.
#[derive(Debug)]
pub struct Set {
    pub keys: Vec<Key>,
    /// Keys that were passed over.
    pub passed_over: usize,
}

impl Set {
    /// Reads a set. Of its keys, those are taken that sign with one of the algorithms.
    ///
    /// # Errors
    /// It is no set, or has no key that could be used. Such a text never takes the place of a good one.
    pub fn parse(text: &[u8], accepted: &[Algorithm], from: From) -> Result<Self, SetError> {
        if text.len() > SET_BYTES_MAX {
            return Err(SetError::TooLong);
        }
        let set = json::object(text).ok_or(SetError::Malformed)?;
        let Some(Value::Array(all)) = set.get("keys") else {
            return Err(SetError::Malformed);
        };
        if all.len() > SET_KEYS_MAX {
            return Err(SetError::TooMany);
        }
        let objects: Option<Vec<_>> = all.iter().map(Value::as_object).collect();
        let objects = objects.ok_or(SetError::Malformed)?;
        let keys: Vec<Key> = objects
            .iter()
            .filter_map(|key| one(key, accepted, from))
            .collect();
        if keys.is_empty() {
            return Err(SetError::NoKey);
        }
        Ok(Self {
            passed_over: all.len() - keys.len(),
            keys,
        })
    }

    /// The keys alone.
    pub fn into_keys(self) -> Keys {
        Keys::new(self.keys)
    }
}

/// A member that has to be a text if it is there.
fn text<'a>(key: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, ()> {
    match key.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(()),
    }
}

fn bytes(key: &Map<String, Value>, name: &str) -> Option<Vec<u8>> {
    let text = key.get(name)?.as_str()?;
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// One key of a set, if it can be used.
fn one(key: &Map<String, Value>, accepted: &[Algorithm], from: From) -> Option<Key> {
    if !is_for_signatures(key) {
        return None;
    }
    let kid = text(key, "kid").ok()?;
    // what the issuer says about its key narrows what we accept, and never widens it
    let said = text(key, "alg").ok()?;
    let narrowed: Vec<Algorithm> = match said {
        None => accepted.to_vec(),
        Some(name) => {
            let said = Algorithm::from_name(name)?;
            accepted
                .iter()
                .copied()
                .filter(|one| *one == said)
                .collect()
        }
    };
    let mut made = material(key, &narrowed, from)?.ok()?;
    made.kid = kid.map(Into::into);
    Some(made)
}

/// Whether `use` and `key_ops` let signatures be checked with it (RFC 7517 §4.2, §4.3).
fn is_for_signatures(key: &Map<String, Value>) -> bool {
    let usage = match key.get("use") {
        None => true,
        Some(usage) => usage.as_str() == Some("sig"),
    };
    let operations = match key.get("key_ops") {
        None => true,
        Some(Value::Array(operations)) => operations.iter().any(|one| one == "verify"),
        Some(_) => false,
    };
    usage && operations
}

fn material(
    key: &Map<String, Value>,
    accepted: &[Algorithm],
    from: From,
) -> Option<Result<Key, KeyError>> {
    let curve = key.get("crv").and_then(Value::as_str);
    match (key.get("kty")?.as_str()?, curve) {
        ("RSA", _) => {
            let (n, e) = (bytes(key, "n")?, bytes(key, "e")?);
            Some(Key::new(Family::Rsa, Parts::Rsa(&n, &e), accepted))
        }
        ("EC", Some("P-256")) => point(key, 32, Family::P256, accepted),
        ("EC", Some("P-384")) => point(key, 48, Family::P384, accepted),
        ("OKP", Some("Ed25519")) => {
            let x = bytes(key, "x")?;
            Some(Key::new(Family::Ed25519, Parts::Bytes(&x), accepted))
        }
        ("oct", _) if from == From::File => {
            let secret = Zeroizing::new(bytes(key, "k")?);
            Some(Key::new(Family::Secret, Parts::Bytes(&secret), accepted))
        }
        _ => None,
    }
}

/// An uncompressed point of a curve with coordinates of so many bytes, no fewer (RFC 7518 §6.2.1.2).
fn point(
    key: &Map<String, Value>,
    length: usize,
    family: Family,
    accepted: &[Algorithm],
) -> Option<Result<Key, KeyError>> {
    let (x, y) = (bytes(key, "x")?, bytes(key, "y")?);
    if x.len() != length || y.len() != length {
        return None;
    }
    let uncompressed = [&[4], &*x, &*y].concat();
    Some(Key::new(family, Parts::Bytes(&uncompressed), accepted))
}
