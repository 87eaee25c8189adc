//! Who vouches for the certificates of clients, and which of them have been revoked (RFC 5280).
//!
//! A certificate is verified in the handshake: its chain up to one of the authorities, its time, that it is meant for
//! clients (`extendedKeyUsage`), and, where there are lists of revoked certificates, that nothing below the authority is
//! on one. What is not accepted ends the handshake. With such lists a certificate whose issuer has none, or only one past
//! its `nextUpdate`, is not accepted either: nobody knows whether it still counts.
//!
//! A session that is resumed brings the certificate of its first handshake along, which may have been revoked since. So
//! nothing is resumed where certificates of clients are asked for.

use super::provider::provider;
use crate::identity::certificate::{ClientCertificate, TrustDigest};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

/// Why authorities of clients cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    #[error("there is no certificate in PEM form")]
    NoCertificate,
    #[error("a certificate is malformed: {0}")]
    Malformed(String),
    /// Whoever holds its key could make certificates for anybody.
    #[error("`{0}` is not the certificate of an authority")]
    NoAuthority(String),
    #[error("there is no list of revoked certificates in PEM form")]
    NoList,
    #[error("a list of revoked certificates is malformed: {0}")]
    MalformedList(String),
    #[error("the authorities cannot be used: {0}")]
    Unusable(String),
}

/// Whose certificates clients may show.
pub struct ClientAuthorities {
    verifier: Arc<dyn ClientCertVerifier>,
    required: bool,
    digest: TrustDigest,
    authorities_end: Option<SystemTime>,
    lists_end: Option<SystemTime>,
}

impl fmt::Debug for ClientAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuthorities")
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}

/// One PEM text with authorities, and those with lists of what they have revoked.
pub struct Written<'a> {
    pub authorities: &'a [u8],
    pub lists: Vec<&'a [u8]>,
    /// Whether a client without a certificate is turned away in the handshake.
    pub required: bool,
}

impl ClientAuthorities {
    /// # Errors
    /// What cannot be parsed, a text that holds nothing, and a certificate that is not an authority's.
    pub fn new(written: &Written<'_>) -> Result<Self, ClientsError> {
        let mut digest = blake3::Hasher::new();
        let mut part = |kind: u8, der: &[u8]| {
            digest.update(&[kind]);
            digest.update(&(der.len() as u64).to_le_bytes());
            digest.update(der);
        };
        let mut roots = RootCertStore::empty();
        let mut authorities_end = None;
        for der in CertificateDer::pem_slice_iter(written.authorities) {
            let der = der.map_err(|error| ClientsError::Malformed(error.to_string()))?;
            let end = authority(&der)?;
            authorities_end = earliest(authorities_end, Some(end));
            part(0, &der);
            roots
                .add(der)
                .map_err(|error| ClientsError::Unusable(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(ClientsError::NoCertificate);
        }
        let (mut lists, mut lists_end) = (Vec::new(), None);
        for text in &written.lists {
            let before = lists.len();
            for der in CertificateRevocationListDer::pem_slice_iter(text) {
                let der = der.map_err(|error| ClientsError::MalformedList(error.to_string()))?;
                lists_end = earliest(lists_end, next_update(&der)?);
                part(1, &der);
                lists.push(der);
            }
            if lists.len() == before {
                return Err(ClientsError::NoList);
            }
        }
        let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider())
            .with_crls(lists)
            .enforce_revocation_expiration();
        let builder = match written.required {
            true => builder,
            false => builder.allow_unauthenticated(),
        };
        let verifier = builder
            .build()
            .map_err(|error| ClientsError::Unusable(error.to_string()))?;
        Ok(Self {
            verifier,
            required: written.required,
            digest: *digest.finalize().as_bytes(),
            authorities_end,
            lists_end,
        })
    }

    /// Whether a client without a certificate is turned away.
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// What the first of its authorities, or the first of its lists, is good until.
    pub fn ends(&self) -> (Option<SystemTime>, Option<SystemTime>) {
        (self.authorities_end, self.lists_end)
    }

    /// Whether both ask clients for the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest && self.required == other.required
    }

    /// Whether a connection that was made when others may have been trusted would be taken now.
    pub fn would_accept(&self, client: Option<&ClientCertificate>, now: SystemTime) -> bool {
        let Some(client) = client else {
            return !self.required;
        };
        client.holds(&self.digest, || self.verify(&client.chain, now))
    }

    fn verify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> bool {
        let Some((leaf, others)) = chain.split_first() else {
            return false;
        };
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = UnixTime::since_unix_epoch(since.unwrap_or_default());
        self.verifier.verify_client_cert(leaf, others, now).is_ok()
    }

    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.verifier.clone()
    }

    /// The facts of a certificate that was just verified.
    pub(crate) fn facts(&self, chain: &[CertificateDer<'_>]) -> Option<ClientCertificate> {
        let leaf = chain.first()?;
        let digest = provider_digest(leaf);
        ClientCertificate::read(chain, digest, self.digest)
    }

    /// For use as a key: two that are the same have the same.
    pub(super) fn key(&self) -> (TrustDigest, bool) {
        (self.digest, self.required)
    }
}

fn provider_digest(der: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    // SHA-256 has 32 bytes
    <[u8; 32]>::try_from(digest.as_ref()).unwrap_or_default()
}

fn earliest(one: Option<SystemTime>, other: Option<SystemTime>) -> Option<SystemTime> {
    one.into_iter().chain(other).min()
}

/// Until when an authority's certificate is good. One that may sign nothing must not be trusted as an authority: what it
/// signs would be accepted, since nobody looks at the constraints of what is trusted as it stands (RFC 5280 §6.1.1).
fn authority(der: &[u8]) -> Result<SystemTime, ClientsError> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|error| ClientsError::Malformed(error.to_string()))?;
    if !certificate.is_ca() {
        return Err(ClientsError::NoAuthority(certificate.subject().to_string()));
    }
    Ok(instant(certificate.validity().not_after.timestamp()))
}

fn next_update(der: &[u8]) -> Result<Option<SystemTime>, ClientsError> {
    let (_, list) = CertificateRevocationList::from_der(der)
        .map_err(|error| ClientsError::MalformedList(error.to_string()))?;
    Ok(list.next_update().map(|at| instant(at.timestamp())))
}

fn instant(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let at = SystemTime::UNIX_EPOCH.checked_add(since);
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}
