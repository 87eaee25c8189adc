//! Keys that signatures are checked with. Each has one algorithm, and the configuration chose it (RFC 8725 §3.1).

use super::jwks::Set;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256,
};
use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The least bytes of a shared secret: as many as the digest has (RFC 7518 §3.2, of the shortest one).
pub const SECRET_BYTES_MIN: usize = 32;

/// The least bits of an RSA modulus (RFC 7518 §3.3).
const RSA_BITS_MIN: usize = 2048;

/// The most bits: checking a signature takes longer the more there are.
const RSA_BITS_MAX: usize = 8192;

/// How a token is signed (RFC 7518 §3.1, RFC 8037). `none` is no case, so that nothing can accept it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    /// Ed25519.
    EdDSA,
    HS256,
    HS384,
    HS512,
}

/// What a key of a kind can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Rsa,
    P256,
    P384,
    Ed25519,
    Secret,
}

impl Algorithm {
    /// Those that are accepted when nothing is said: all that need no shared secret. Of keys that could be used with
    /// several, the first counts.
    pub const ASYMMETRIC: &'static [Self] = &[
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// The algorithm of exactly that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::RS256,
            "RS384" => Self::RS384,
            "RS512" => Self::RS512,
            "PS256" => Self::PS256,
            "PS384" => Self::PS384,
            "PS512" => Self::PS512,
            "ES256" => Self::ES256,
            "ES384" => Self::ES384,
            // the second is its fully specified name (RFC 9864 §2.2)
            "EdDSA" | "Ed25519" => Self::EdDSA,
            "HS256" => Self::HS256,
            "HS384" => Self::HS384,
            "HS512" => Self::HS512,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
        }
    }

    /// Whether whoever can check a signature can make one too.
    pub fn is_symmetric(self) -> bool {
        self.family() == Family::Secret
    }

    pub(super) fn family(self) -> Family {
        match self {
            Self::RS256 | Self::RS384 | Self::RS512 => Family::Rsa,
            Self::PS256 | Self::PS384 | Self::PS512 => Family::Rsa,
            Self::ES256 => Family::P256,
            Self::ES384 => Family::P384,
            Self::EdDSA => Family::Ed25519,
            Self::HS256 | Self::HS384 | Self::HS512 => Family::Secret,
        }
    }

    fn checked_by(self) -> jsonwebtoken::Algorithm {
        use jsonwebtoken::Algorithm as By;
        match self {
            Self::RS256 => By::RS256,
            Self::RS384 => By::RS384,
            Self::RS512 => By::RS512,
            Self::PS256 => By::PS256,
            Self::PS384 => By::PS384,
            Self::PS512 => By::PS512,
            Self::ES256 => By::ES256,
            Self::ES384 => By::ES384,
            Self::EdDSA => By::EdDSA,
            Self::HS256 => By::HS256,
            Self::HS384 => By::HS384,
            Self::HS512 => By::HS512,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a text is no key, or none that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// There is no PEM block in it.
    NotPem,
    /// It is the half that only the issuer may have.
    Private,
    /// A PEM block of another kind.
    OtherPem,
    /// The contents of the block are broken, or not a point of its curve.
    Broken,
    /// A kind of key that no algorithm here takes.
    Unsupported,
    /// An RSA modulus of so many bits.
    RsaBits(usize),
    /// A key that none of the algorithms takes that are accepted.
    NoAlgorithm,
    /// A shared secret of so many bytes.
    ShortSecret(usize),
    /// The text of a public key would be no secret at all (CVE-2016-10555 and its many successors).
    PemAsSecret,
}

/// One key.
#[derive(Clone, Debug)]
pub struct Key {
    pub kid: Option<Box<str>>,
    pub algorithm: Algorithm,
    inner: DecodingKey,
}

impl Key {
    /// The public key in a PEM block `PUBLIC KEY` or `CERTIFICATE`. Its algorithm is the first of these that takes it.
    ///
    /// # Errors
    /// It is none.
    pub fn from_pem(text: &str, accepted: &[Algorithm]) -> Result<Self, KeyError> {
        let text = text.as_bytes();
        if let Ok(der) = SubjectPublicKeyInfoDer::from_pem_slice(text) {
            let (_, key) = SubjectPublicKeyInfo::from_der(&der).map_err(|_| KeyError::Broken)?;
            return Self::from_spki(&key, accepted);
        }
        if let Ok(der) = CertificateDer::from_pem_slice(text) {
            let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| KeyError::Broken)?;
            return Self::from_spki(certificate.public_key(), accepted);
        }
        let has = |part: &str| memchr::memmem::find(text, part.as_bytes()).is_some();
        Err(match (has("PRIVATE KEY-----"), has("-----BEGIN ")) {
            (true, _) => KeyError::Private,
            (false, true) if has("-----BEGIN PUBLIC KEY") || has("-----BEGIN CERTIFICATE") => {
                KeyError::Broken
            }
            (false, true) => KeyError::OtherPem,
            (false, false) => KeyError::NotPem,
        })
    }

    fn from_spki(key: &SubjectPublicKeyInfo<'_>, accepted: &[Algorithm]) -> Result<Self, KeyError> {
        /// The object identifiers of Ed25519 (RFC 8410 §3), P-256 and P-384 (RFC 5480 §2.1.1.1).
        const ED25519: &str = "1.3.101.112";
        const P256: &str = "1.2.840.10045.3.1.7";
        const P384: &str = "1.3.132.0.34";
        let bits = &*key.subject_public_key.data;
        if key.algorithm.algorithm.to_id_string() == ED25519 {
            return Self::new(Family::Ed25519, Parts::Bytes(bits), accepted);
        }
        match key.parsed().map_err(|_| KeyError::Broken)? {
            PublicKey::RSA(rsa) => {
                Self::new(Family::Rsa, Parts::Rsa(rsa.modulus, rsa.exponent), accepted)
            }
            PublicKey::EC(_) => {
                let curve = key.algorithm.parameters.as_ref();
                let curve = curve.and_then(|curve| curve.as_oid().ok());
                match curve.map(|curve| curve.to_id_string()).as_deref() {
                    Some(P256) => Self::new(Family::P256, Parts::Bytes(bits), accepted),
                    Some(P384) => Self::new(Family::P384, Parts::Bytes(bits), accepted),
                    _ => Err(KeyError::Unsupported),
                }
            }
            _ => Err(KeyError::Unsupported),
        }
    }

    /// A secret that the issuer and the gateway share.
    ///
    /// # Errors
    /// It is too short, or everybody knows it.
    pub fn from_secret(secret: &[u8], algorithm: Algorithm) -> Result<Self, KeyError> {
        if memchr::memmem::find(secret, b"-----BEGIN ").is_some() {
            return Err(KeyError::PemAsSecret);
        }
        Self::new(Family::Secret, Parts::Bytes(secret), &[algorithm])
    }

    /// A key of these parts, if it is sound and one of the algorithms takes it.
    pub(super) fn new(
        family: Family,
        parts: Parts<'_>,
        accepted: &[Algorithm],
    ) -> Result<Self, KeyError> {
        let inner = parts.checked(family)?;
        let algorithm = accepted.iter().find(|one| one.family() == family);
        Ok(Self {
            kid: None,
            algorithm: *algorithm.ok_or(KeyError::NoAlgorithm)?,
            inner,
        })
    }

    /// Adds what tells this key from any other to a digest.
    pub fn digest_into(&self, digest: &mut blake3::Hasher) {
        let mut part = |bytes: &[u8]| {
            digest.update(&(bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        part(self.algorithm.name().as_bytes());
        part(self.kid.as_deref().unwrap_or_default().as_bytes());
        match self.inner.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => part(bytes),
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                part(n);
                part(e);
            }
        }
    }

    /// Whether this key signed the text. The signature is written in base64url.
    pub(super) fn signed(&self, text: &str, signature: &str) -> bool {
        let algorithm = self.algorithm.checked_by();
        jsonwebtoken::crypto::verify(signature, text.as_bytes(), &self.inner, algorithm)
            .unwrap_or(false)
    }
}

/// What a key consists of.
pub(super) enum Parts<'a> {
    /// Modulus and exponent, big-endian.
    Rsa(&'a [u8], &'a [u8]),
    /// An uncompressed point, an Ed25519 key, or a secret.
    Bytes(&'a [u8]),
}

impl Parts<'_> {
    /// The key, if it is one: a point that is not on its curve would quietly check nothing.
    fn checked(self, family: Family) -> Result<DecodingKey, KeyError> {
        let point = |algorithm: &'static _, bytes: &[u8]| {
            ParsedPublicKey::new(algorithm, bytes).map_err(|_| KeyError::Broken)
        };
        match (family, self) {
            (Family::Rsa, Parts::Rsa(n, e)) => rsa(n, e),
            (Family::P256, Parts::Bytes(bytes)) if bytes.len() == 65 => {
                point(&ECDSA_P256_SHA256_FIXED, bytes)?;
                Ok(DecodingKey::from_ec_der(bytes))
            }
            (Family::P384, Parts::Bytes(bytes)) if bytes.len() == 97 => {
                point(&ECDSA_P384_SHA384_FIXED, bytes)?;
                Ok(DecodingKey::from_ec_der(bytes))
            }
            (Family::Ed25519, Parts::Bytes(bytes)) if bytes.len() == 32 => {
                ParsedPublicKey::new(&ED25519, bytes).map_err(|_| KeyError::Broken)?;
                Ok(DecodingKey::from_ed_der(bytes))
            }
            (Family::Secret, Parts::Bytes(bytes)) if bytes.len() < SECRET_BYTES_MIN => {
                Err(KeyError::ShortSecret(bytes.len()))
            }
            (Family::Secret, Parts::Bytes(bytes)) => Ok(DecodingKey::from_secret(bytes)),
            _ => Err(KeyError::Broken),
        }
    }
}

fn rsa(n: &[u8], e: &[u8]) -> Result<DecodingKey, KeyError> {
    let significant = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes.get(zeros..).unwrap_or_default().to_vec()
    };
    let (n, e) = (significant(n), significant(e));
    let first = n.first().map_or(8, |first| first.leading_zeros() as usize);
    let bits = (n.len() * 8).saturating_sub(first);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(KeyError::RsaBits(bits));
    }
    // an even one is no product of primes; with an exponent of 1 everybody can sign, and a long one costs much time
    let odd = |bytes: &[u8]| bytes.last().is_some_and(|last| last & 1 == 1);
    if !odd(&n) || !odd(&e) || *e == [1] || e.len() > 4 {
        return Err(KeyError::Broken);
    }
    PublicKeyComponents { n: &n, e: &e }
        .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
        .map_err(|_| KeyError::Broken)?;
    Ok(DecodingKey::from_rsa_raw_components(&n, &e))
}

/// The keys of an issuer.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Key>);

/// The keys that a token may be signed with.
#[derive(Debug)]
pub(super) struct Candidates<'k> {
    pub keys: Vec<&'k Key>,
    /// The token names its key, and there is one of that name.
    pub named: bool,
}

/// What keeps a token from having any key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoCandidate {
    /// There is no key of that name, or too many without one.
    Unknown,
    /// The key is known, and is for another algorithm.
    OtherAlgorithm,
}

/// How many keys are tried for a token that names none. Each costs a signature's time.
const TRIED_MAX: usize = 4;

impl Keys {
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    /// See [`Set::parse`].
    ///
    /// # Errors
    /// The text is no set with a key that could be used.
    pub fn from_jwks(
        text: &[u8],
        accepted: &[Algorithm],
        from: super::jwks::From,
    ) -> Result<Self, super::jwks::SetError> {
        Set::parse(text, accepted, from).map(|set| Self(set.keys))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    /// The keys for a token with this header. A key without a name may be any.
    pub(super) fn candidates(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Candidates<'_>, NoCandidate> {
        let exact = |key: &&Key| kid.is_some() && key.kid.as_deref() == kid;
        let named = self.0.iter().any(|key| exact(&key));
        let fits = |key: &&Key| match kid {
            _ if named => exact(key),
            Some(_) => key.kid.is_none(),
            None => true,
        };
        let mut fitting = self.0.iter().filter(fits).peekable();
        if fitting.peek().is_none() {
            return Err(NoCandidate::Unknown);
        }
        let keys: Vec<&Key> = fitting.filter(|key| key.algorithm == algorithm).collect();
        match keys.len() {
            0 => Err(NoCandidate::OtherAlgorithm),
            1..=TRIED_MAX => Ok(Candidates { keys, named }),
            _ => Err(NoCandidate::Unknown),
        }
    }
}
