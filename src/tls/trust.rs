//! TLS to endpoints: whom they must prove to be, who vouches for them, and who we are.
//!
//! Pingora takes these settings as they are: it panics on a certificate or key that it cannot parse, and it verifies
//! nothing where the server name is empty. So everything is parsed here, at load, and an empty name is none that could
//! be configured. Its pool tells connections apart by address, name and the serial number of a client certificate, not
//! by authorities; [`Trust::digest_into`] is what makes connections of different trust different ones.

use super::provider::provider;
use pingora_core::protocols::tls::CaType;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why trust settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("there is no certificate in PEM form")]
    NoCertificate,
    #[error("a certificate is malformed: {0}")]
    Malformed(String),
    #[error("a certificate can't be an authority's: {0}")]
    NoAuthority(String),
    #[error("there is no private key in PEM form")]
    NoKey,
    #[error("the private key cannot be used: {0}")]
    Key(String),
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
}

/// A name that a certificate can be verified against, and that can be asked for (RFC 6066 §3): a host name, or an
/// address, which is verified and not asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedName(Arc<str>);

impl VerifiedName {
    /// None for what no certificate could stand for, such as the empty name.
    pub fn new(name: &str) -> Option<Self> {
        let name = name.trim_end_matches('.');
        ServerName::try_from(name).ok()?;
        Some(Self(name.to_ascii_lowercase().into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether endpoints have to prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    Always,
    /// Anybody may answer. Only for whoever spells it out.
    Off,
}

/// Certificates that vouch for those of endpoints.
pub struct Authorities {
    certificates: Arc<CaType>,
    ders: Vec<Vec<u8>>,
}

impl Authorities {
    /// All certificates of a PEM text.
    ///
    /// # Errors
    /// A text without certificates, and any that is malformed: one that was meant is missed later than now.
    pub fn from_pem(text: &[u8]) -> Result<Self, TrustError> {
        let ders = chain(text)?;
        let mut store = RootCertStore::empty();
        for der in &ders {
            store
                .add(CertificateDer::from(der.as_slice()))
                .map_err(|error| TrustError::NoAuthority(error.to_string()))?;
        }
        let certificates: Vec<WrappedX509> = ders.iter().map(|der| wrapped(der)).collect();
        Ok(Self {
            certificates: certificates.into(),
            ders,
        })
    }

    /// As a peer takes them.
    pub fn certificates(&self) -> Arc<CaType> {
        self.certificates.clone()
    }

    /// Tells connections apart that different authorities vouched for.
    pub fn key(&self) -> u64 {
        let mut digest = blake3::Hasher::new();
        for der in &self.ders {
            digest.update(&(der.len() as u64).to_le_bytes());
            digest.update(der);
        }
        let [a, b, c, d, e, f, g, h, ..] = *digest.finalize().as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

/// The certificate that the gateway shows endpoints, with its key.
pub struct ClientIdentity {
    pair: Arc<CertKey>,
    ders: Vec<Vec<u8>>,
    not_after: SystemTime,
}

impl ClientIdentity {
    /// A chain, leaf first, and its key in PEM form.
    ///
    /// # Errors
    /// What cannot be parsed, and a key of another certificate.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, TrustError> {
        let ders = chain(certificates)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            rustls_pki_types::pem::Error::NoItemsFound => TrustError::NoKey,
            error => TrustError::Key(error.to_string()),
        })?;
        let plain = key.secret_der().to_vec();
        // Pingora guesses the form of the key again, and would panic where that fails
        PrivateKeyDer::try_from(plain.as_slice()).map_err(|error| TrustError::Key(error.into()))?;
        let owned = ders
            .iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect();
        CertifiedKey::from_der(owned, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TrustError::KeyMismatch,
            error => TrustError::Key(error.to_string()),
        })?;
        let leaf = ders.first().ok_or(TrustError::NoCertificate)?;
        Ok(Self {
            not_after: expiry(leaf)?,
            pair: Arc::new(CertKey::new(ders.clone(), plain)),
            ders,
        })
    }

    /// The last moment at which endpoints accept it.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// All certificates of a PEM text, each of which can be parsed.
fn chain(text: &[u8]) -> Result<Vec<Vec<u8>>, TrustError> {
    let ders = CertificateDer::pem_slice_iter(text)
        .map(|der| der.map(|der| der.to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TrustError::Malformed(error.to_string()))?;
    for der in &ders {
        expiry(der)?;
    }
    match ders.is_empty() {
        true => Err(TrustError::NoCertificate),
        false => Ok(ders),
    }
}

fn expiry(der: &[u8]) -> Result<SystemTime, TrustError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| TrustError::Malformed(error.to_string()))?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    Ok(at.unwrap_or(SystemTime::UNIX_EPOCH))
}

/// As Pingora keeps it. It parses again, and would panic on what [`chain`] refuses.
fn wrapped(der: &[u8]) -> WrappedX509 {
    WrappedX509::new(der.to_vec(), parse_x509)
}

/// What connections to the endpoints of a service have to hold to.
pub struct Trust {
    /// None only where nothing is verified.
    pub name: Option<VerifiedName>,
    pub verify: Verify,
    /// Those of the system where there are none.
    pub authorities: Option<Authorities>,
    pub client: Option<ClientIdentity>,
}

impl Trust {
    /// The name to ask for. Where there is none, and nothing is verified, an address that nobody has: an address is not
    /// asked for (RFC 6066 §3), and Pingora makes no connection with an empty name.
    pub fn server_name(&self) -> &str {
        self.name.as_ref().map_or("0.0.0.0", VerifiedName::as_str)
    }

    pub fn authorities(&self) -> Option<Arc<CaType>> {
        let own = self.authorities.as_ref();
        own.map(|authorities| authorities.certificates.clone())
    }

    pub fn client(&self) -> Option<Arc<CertKey>> {
        self.client.as_ref().map(|client| client.pair.clone())
    }

    /// Adds all of it to a digest: two settings that differ never have the same one.
    pub fn digest_into(&self, digest: &mut blake3::Hasher) {
        let mut part = |bytes: &[u8]| {
            digest.update(&(bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        part(self.server_name().as_bytes());
        part(&[u8::from(self.verify == Verify::Off)]);
        let (authorities, client) = (self.authorities.as_ref(), self.client.as_ref());
        for ders in [
            authorities.map(|authorities| &authorities.ders),
            client.map(|client| &client.ders),
        ] {
            let ders = ders.map(Vec::as_slice).unwrap_or_default();
            part(&(ders.len() as u64).to_le_bytes());
            ders.iter().for_each(|der| part(der));
        }
        part(client.map_or(&[], |client| client.pair.key().as_slice()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn digest(trust: &Trust) -> blake3::Hash {
        let mut digest = blake3::Hasher::new();
        trust.digest_into(&mut digest);
        digest.finalize()
    }

    #[test]
    fn names_that_nothing_could_be_verified_against_are_none() {
        for name in ["", ".", "a b", "-", "a..b", "orders:443", "*.a.test"] {
            assert_eq!(VerifiedName::new(name), None, "{name:?}");
        }
        let name = |text| VerifiedName::new(text).unwrap();
        assert_eq!(name("Orders.Internal.").as_str(), "orders.internal");
        assert_eq!(name("10.0.0.1").as_str(), "10.0.0.1");
        assert_eq!(name("::1").as_str(), "::1");
    }

    #[test]
    fn whatever_differs_makes_another_digest() {
        let ((one, key), (other, other_key)) = (signed("a.test"), signed("a.test"));
        let trust = |ca: Option<&str>, client: Option<(&str, &str)>, verify, name| Trust {
            name: VerifiedName::new(name),
            verify,
            authorities: ca.map(|ca| Authorities::from_pem(ca.as_bytes()).unwrap()),
            client: client.map(|(certificate, key)| {
                ClientIdentity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap()
            }),
        };
        let all = [
            trust(None, None, Verify::Always, "a.test"),
            trust(None, None, Verify::Off, "a.test"),
            trust(None, None, Verify::Always, "b.test"),
            trust(Some(&one), None, Verify::Always, "a.test"),
            trust(Some(&other), None, Verify::Always, "a.test"),
            trust(
                Some(&format!("{one}{other}")),
                None,
                Verify::Always,
                "a.test",
            ),
            trust(None, Some((&one, &key)), Verify::Always, "a.test"),
            trust(None, Some((&other, &other_key)), Verify::Always, "a.test"),
        ];
        let digests: std::collections::HashSet<_> = all.iter().map(digest).collect();
        assert_eq!(digests.len(), all.len());
        assert_eq!(
            digest(&trust(Some(&one), None, Verify::Always, "A.test")),
            digest(&all[3])
        );
    }

    #[test]
    fn what_is_no_certificate_or_not_its_key_is_refused() {
        let ((one, key), (_, other_key)) = (signed("a.test"), signed("b.test"));
        let authorities = |text: &str| Authorities::from_pem(text.as_bytes()).err();
        assert!(matches!(authorities(""), Some(TrustError::NoCertificate)));
        assert!(matches!(authorities(&key), Some(TrustError::NoCertificate)));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(
            authorities(broken),
            Some(TrustError::Malformed(_))
        ));
        let client = |key: &str| ClientIdentity::from_pem(one.as_bytes(), key.as_bytes()).err();
        assert!(matches!(client(&other_key), Some(TrustError::KeyMismatch)));
        assert!(matches!(client(&one), Some(TrustError::NoKey)));
        assert!(client(&key).is_none());
    }
}
