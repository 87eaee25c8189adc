//! HTTP message signatures (RFC 9421): whether a request is what the holder of a key signed.
//!
//! `Signature-Input` says what is covered and how, `Signature` holds the signature of exactly that. The base that was
//! signed is made again from the request as it is ([`base`]), and verified with the key that `keyid` names ([`key`]). A
//! key has one algorithm, whatever the client says: `alg` may only agree with it (RFC 9421 §3.2). What is not covered is
//! not authentic, so a signature that does not cover the method, the whole target and, where there is a body, its digest
//! (RFC 9530, [`digest`]) is not accepted, unless the configuration says what is enough.
//!
//! Pure: time is an argument, and what has been seen before is asked of [`replay`].

pub mod base;
pub mod digest;
pub mod key;
pub mod replay;

pub use base::{Component, Message};
pub use digest::Digests;
pub use key::{Key, KeyError};
pub use replay::Seen;

use super::Reason;
use ahash::AHashMap;
use base::Covered;
use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, InnerList, ListEntry, Parser};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub const SIGNATURE_INPUT: HeaderName = HeaderName::from_static("signature-input");
pub const SIGNATURE: HeaderName = HeaderName::from_static("signature");
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// More than anybody signs; what is longer costs a refusal and no cryptography.
const FIELD_BYTES_MAX: usize = 8 * 1024;
const COVERED_MAX: usize = 64;
const NONCE_BYTES_MAX: usize = 256;

/// The keys of all consumers, by their ids.
#[derive(Debug, Default)]
pub struct KnownKeys(AHashMap<Box<str>, (Key, Arc<str>)>);

impl KnownKeys {
    /// Adds one of a consumer's. Gives the consumer back that has the id already.
    pub fn add(&mut self, id: &str, key: Key, consumer: &Arc<str>) -> Option<Arc<str>> {
        if let Some((_, other)) = self.0.get(id) {
            return Some(other.clone());
        }
        self.0.insert(id.into(), (key, consumer.clone()));
        None
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A key and its consumer.
    pub fn find(&self, id: &str) -> Option<&(Key, Arc<str>)> {
        self.0.get(id)
    }
}

/// What a signature has to be like.
#[derive(Clone, Debug)]
pub struct Requirements {
    /// The label of the signature that counts, where there may be several.
    pub label: Option<Box<str>>,
    /// What it was made for (RFC 9421 §2.3, `tag`).
    pub tag: Option<Box<str>>,
    pub covers: Coverage,
    /// How old it may be.
    pub max_age: Duration,
    /// By how much clocks may differ.
    pub leeway: Duration,
    /// Whether it needs a `nonce`.
    pub nonce: bool,
}

/// What has to be covered.
#[derive(Clone, Debug)]
pub enum Coverage {
    /// The method, the whole target, and the digest of a body.
    Whole,
    /// These, and nothing else.
    Components(Vec<Box<str>>),
}

/// A good signature.
#[derive(Debug, PartialEq)]
pub struct Verified {
    pub keyid: String,
    /// With the moment up to which it must not be seen again.
    pub nonce: Option<(String, SystemTime)>,
    pub expires_at: Option<SystemTime>,
    /// What the body has to be, if the signature says anything about it.
    pub body: Body,
}

/// What a signature says about a body.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Body {
    /// Nothing, and it needs not to.
    #[default]
    Unsaid,
    /// There is none: no field announces one. What comes all the same is not authentic.
    None,
    Digests(Digests),
}

/// Whether a request claims to be signed.
pub fn is_presented(headers: &HeaderMap) -> bool {
    headers.contains_key(&SIGNATURE_INPUT) || headers.contains_key(&SIGNATURE)
}

/// What one signature claims, not verified.
struct Claimed {
    input: InnerList,
    signature: Vec<u8>,
    keyid: String,
    created: i64,
    expires: Option<i64>,
    nonce: Option<String>,
    algorithm: Option<String>,
}

/// Verifies the signature of a request with the key that `find` knows under its `keyid`.
///
/// # Errors
/// Why it is not accepted. Cheap reasons come first; nothing is said about time before the signature is good.
pub fn verify<'k>(
    message: &Message<'_>,
    find: impl FnOnce(&str) -> Option<&'k Key>,
    requirements: &Requirements,
    now: SystemTime,
) -> Result<Verified, Reason> {
    let claimed = claimed(message.headers, requirements)?;
    let covered = Covered::read(&claimed.input)?;
    let body = required(message, &covered, &requirements.covers)?;
    let key = find(&claimed.keyid).ok_or(Reason::SignatureKey)?;
    if claimed
        .algorithm
        .as_deref()
        .is_some_and(|claimed| claimed != key.algorithm())
    {
        return Err(Reason::SignatureAlgorithm);
    }
    let base = covered.base(message)?;
    if !key.verify(&base, &claimed.signature) {
        return Err(Reason::SignatureWrong);
    }
    let until = check_time(&claimed, requirements, now)?;
    let nonce = match claimed.nonce {
        Some(nonce) if nonce.is_empty() || nonce.len() > NONCE_BYTES_MAX => {
            return Err(Reason::SignatureNonce);
        }
        Some(nonce) => Some((nonce, until)),
        None if requirements.nonce => return Err(Reason::SignatureNonce),
        None => None,
    };
    Ok(Verified {
        keyid: claimed.keyid,
        nonce,
        expires_at: claimed
            .expires
            .map(|expires| at(expires) + requirements.leeway),
        body,
    })
}

/// Reads the one signature that counts.
fn claimed(headers: &HeaderMap, requirements: &Requirements) -> Result<Claimed, Reason> {
    let inputs = dictionary(headers, &SIGNATURE_INPUT)?;
    let signatures = dictionary(headers, &SIGNATURE)?;
    let counts = |label: &str, input: &ListEntry| {
        let wanted = &requirements.label;
        let tag = requirements.tag.as_deref();
        let tagged = |input: &ListEntry| match input {
            ListEntry::InnerList(list) => list.params.get("tag").and_then(BareItem::as_str) == tag,
            ListEntry::Item(_) => false,
        };
        wanted.as_deref().is_none_or(|wanted| wanted == label) && (tag.is_none() || tagged(input))
    };
    let mut candidates = inputs.iter().filter(|(label, input)| counts(label, input));
    let (label, input) = candidates.next().ok_or(Reason::SignatureMissing)?;
    if candidates.next().is_some() {
        // whoever adds one must not choose which of them is looked at
        return Err(Reason::SignatureSeveral);
    }
    let ListEntry::InnerList(input) = input else {
        return Err(Reason::SignatureMalformed);
    };
    let signature = match signatures.get(label) {
        Some(ListEntry::Item(item)) => item.bare_item.as_byte_seq().cloned(),
        _ => None,
    };
    let params = &input.params;
    let text = |name: &str| match params.get(name) {
        None => Ok(None),
        Some(BareItem::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Reason::SignatureMalformed),
    };
    let number = |name: &str| match params.get(name) {
        None => Ok(None),
        Some(BareItem::Integer(number)) => Ok(Some(*number)),
        Some(_) => Err(Reason::SignatureMalformed),
    };
    Ok(Claimed {
        signature: signature.ok_or(Reason::SignatureMalformed)?,
        keyid: text("keyid")?.ok_or(Reason::SignatureKey)?,
        created: number("created")?.ok_or(Reason::SignatureMalformed)?,
        expires: number("expires")?,
        nonce: text("nonce")?,
        algorithm: text("alg")?,
        input: input.clone(),
    })
}

fn dictionary(headers: &HeaderMap, name: &HeaderName) -> Result<Dictionary, Reason> {
    let joined = base::joined(headers, name).ok_or(Reason::SignatureMissing)?;
    if joined.len() > FIELD_BYTES_MAX {
        return Err(Reason::SignatureMalformed);
    }
    Parser::parse_dictionary(&joined).map_err(|_| Reason::SignatureMalformed)
}

/// Whether enough is covered, and what that says about the body.
fn required(message: &Message<'_>, covered: &Covered, coverage: &Coverage) -> Result<Body, Reason> {
    let covers = |name: &str| covered.has(name);
    let announced = message.announces_body();
    match coverage {
        Coverage::Whole => {
            let query = message.query.is_none() || covers("@query");
            let target = covers("@target-uri")
                || (covers("@authority")
                    && (covers("@request-target") || (covers("@path") && query)));
            if !covers("@method") || !target || (announced && !covers("content-digest")) {
                return Err(Reason::SignatureCoverage);
            }
        }
        Coverage::Components(names) => {
            if !names.iter().all(|name| covers(name)) {
                return Err(Reason::SignatureCoverage);
            }
        }
    }
    if covers("content-digest") {
        let value = base::joined(message.headers, &CONTENT_DIGEST);
        let digests = value.as_deref().and_then(Digests::read);
        return digests.map(Body::Digests).ok_or(Reason::SignatureDigest);
    }
    Ok(match coverage {
        Coverage::Whole => Body::None,
        Coverage::Components(_) => Body::Unsaid,
    })
}

/// The moment after which the signature is not accepted any more.
fn check_time(
    claimed: &Claimed,
    requirements: &Requirements,
    now: SystemTime,
) -> Result<SystemTime, Reason> {
    let created = at(claimed.created);
    if created > now + requirements.leeway {
        return Err(Reason::SignatureEarly);
    }
    let mut until = created + requirements.max_age;
    if let Some(expires) = claimed.expires {
        until = until.min(at(expires));
    }
    let until = until + requirements.leeway;
    match now > until {
        true => Err(Reason::SignatureExpired),
        false => Ok(until),
    }
}

/// Seconds since the epoch; a structured field has fifteen digits at most (RFC 8941 §3.3.1), which fits.
fn at(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
