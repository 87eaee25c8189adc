//! Keys that signatures are verified with, each for one algorithm (RFC 9421 §3.3).

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PSS_2048_8192_SHA512, VerificationAlgorithm,
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use std::fmt;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

/// Shorter secrets can be found by trying (RFC 2104 §3: not less than the length of the hash).
const SECRET_BYTES_MIN: usize = 32;

/// Why a key cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a secret needs {SECRET_BYTES_MIN} bytes at least, and this one has {0}")]
    ShortSecret(usize),
    #[error("there is no public key in PEM form")]
    NoKey,
    #[error("a key of this kind is not supported")]
    Kind,
    #[error("the key is malformed")]
    Malformed,
}

/// A key with its algorithm.
pub struct Key(Kind);

enum Kind {
    Hmac(Box<hmac::Key>),
    Public(&'static str, Box<ParsedPublicKey>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.algorithm()).finish()
    }
}

impl Key {
    /// A secret that both sides know: `hmac-sha256`.
    ///
    /// # Errors
    /// It is shorter than 32 bytes.
    pub fn secret(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(KeyError::ShortSecret(bytes.len()));
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        Ok(Self(Kind::Hmac(Box::new(key))))
    }

    /// A public key in PEM form. What it is decides the algorithm: Ed25519, ECDSA on P-256 or P-384, RSA of 2048 bits
    /// and more with PSS.
    ///
    /// # Errors
    /// Anything else.
    pub fn public(pem: &[u8]) -> Result<Self, KeyError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|error| match error {
            rustls_pki_types::pem::Error::NoItemsFound => KeyError::NoKey,
            _ => KeyError::Malformed,
        })?;
        let (_, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|_| KeyError::Malformed)?;
        let curve = info
            .algorithm
            .parameters
            .as_ref()
            .and_then(|curve| curve.as_oid().ok());
        let curve = curve.map(|curve| curve.to_id_string());
        let (name, algorithm): (_, &'static dyn VerificationAlgorithm) = match (
            info.algorithm.algorithm.to_id_string().as_str(),
            curve.as_deref(),
        ) {
            ("1.3.101.112", _) => ("ed25519", &ED25519),
            ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => {
                ("ecdsa-p256-sha256", &ECDSA_P256_SHA256_FIXED)
            }
            ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => {
                ("ecdsa-p384-sha384", &ECDSA_P384_SHA384_FIXED)
            }
            ("1.2.840.113549.1.1.1" | "1.2.840.113549.1.1.10", _) => {
                ("rsa-pss-sha512", &RSA_PSS_2048_8192_SHA512)
            }
            _ => return Err(KeyError::Kind),
        };
        let bits = &info.subject_public_key.data;
        let key = ParsedPublicKey::new(algorithm, bits.as_ref());
        let key = key.map_err(|_| KeyError::Malformed)?;
        Ok(Self(Kind::Public(name, Box::new(key))))
    }

    /// Its name in the registry of RFC 9421 §6.2.2.
    pub fn algorithm(&self) -> &'static str {
        match &self.0 {
            Kind::Hmac(_) => "hmac-sha256",
            Kind::Public(name, _) => name,
        }
    }

    /// Whether it made that signature of that base. A comparison of secrets takes as long wherever they differ.
    pub fn verify(&self, base: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            Kind::Hmac(key) => hmac::verify(key, base, signature).is_ok(),
            Kind::Public(_, key) => key.verify_sig(base, signature).is_ok(),
        }
    }
}
