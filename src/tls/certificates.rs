//! Certificates with their keys, and the choice among them.

use super::clients::ClientAuthorities;
use super::provider::provider;
use ahash::AHashMap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use smallvec::SmallVec;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Why a certificate cannot be used. Expiry is none of these: an expired certificate is served, and warned about.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{path} cannot be read: {error}")]
    Unreadable {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("there is no certificate in PEM form")]
    NoCertificate,
    #[error("there is no private key in PEM form")]
    NoKey,
    #[error("the private key is encrypted, and nobody is there to say its passphrase")]
    EncryptedKey,
    #[error("the certificate is malformed: {0}")]
    Malformed(String),
    #[error("the private key cannot be used: {0}")]
    Key(String),
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    #[error("the certificate names no host")]
    NoName,
}

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Certificate {
    name: Arc<str>,
    key: Arc<CertifiedKey>,
    /// Lower-case host names, `*.` wildcards and IP addresses.
    hosts: Vec<Box<str>>,
    not_before: SystemTime,
    not_after: SystemTime,
    clients: Option<Arc<ClientAuthorities>>,
}

impl Certificate {
    /// Reads a chain, leaf first, and its key from two PEM files (which may be the same).
    pub fn load(name: Arc<str>, chain: &Path, key: &Path) -> Result<Self, CertificateError> {
        Self::from_pem(name, &read(chain)?, &read(key)?)
    }

    /// A chain, leaf first, and its key in PEM form (RFC 7468). `name` is the one in the configuration.
    pub fn from_pem(name: Arc<str>, chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| CertificateError::Malformed(error.to_string()))?;
        if is_encrypted(key) {
            return Err(CertificateError::EncryptedKey);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            rustls_pki_types::pem::Error::NoItemsFound => CertificateError::NoKey,
            error => CertificateError::Key(error.to_string()),
        })?;
        let leaf = chain
            .first()
            .ok_or(CertificateError::NoCertificate)?
            .clone();
        let facts = Facts::read(&leaf)?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CertificateError::KeyMismatch,
            // what rustls says of a key that no algorithm of TLS takes
            rustls::Error::General(_) => CertificateError::Key(
                "it is none of RSA with 2,048 bits or more, ECDSA and Ed25519".to_owned(),
            ),
            error => CertificateError::Key(error.to_string()),
        })?;
        Ok(Self {
            name,
            key: Arc::new(key),
            hosts: facts.hosts,
            not_before: facts.not_before,
            not_after: facts.not_after,
            clients: None,
        })
    }

    /// Clients that ask for one of its names may show certificates of these authorities, whatever the listener says.
    pub fn asking(mut self, clients: Option<Arc<ClientAuthorities>>) -> Self {
        self.clients = clients;
        self
    }

    /// The authorities of clients that ask for one of its names, if they are others than the listener's.
    pub fn clients(&self) -> Option<&Arc<ClientAuthorities>> {
        self.clients.as_ref()
    }

    /// The name in the configuration.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The hosts that it stands for: its alternative names, or the common name of an old one that has none.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(AsRef::as_ref)
    }

    /// The last moment at which clients accept it.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The first moment at which clients accept it.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Whether clients refuse it at `now`, because it has expired or is not valid yet.
    pub fn is_invalid_at(&self, now: SystemTime) -> bool {
        now < self.not_before || now > self.not_after
    }

    /// Whether it stands for `host`, exactly or by a wildcard for its first label.
    pub fn covers(&self, host: &str) -> bool {
        let host = normalised(host);
        let parent = parent_of(&host);
        self.hosts.iter().any(|known| {
            **known == *host
                || known
                    .strip_prefix("*.")
                    .is_some_and(|suffix| Some(suffix) == parent)
        })
    }
}

/// Whether a passphrase protects the key: PKCS #8 (RFC 7468 §11), or what OpenSSL wrote before (RFC 1421 §4.6.1.1).
fn is_encrypted(key: &[u8]) -> bool {
    [&b"BEGIN ENCRYPTED PRIVATE KEY"[..], b"4,ENCRYPTED"]
        .iter()
        .any(|mark| memchr::memmem::find(key, mark).is_some())
}

/// What is read from a leaf.
struct Facts {
    hosts: Vec<Box<str>>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Facts {
    fn read(leaf: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let malformed =
            |error: &dyn std::fmt::Display| CertificateError::Malformed(error.to_string());
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| malformed(&error))?;
        let alternatives = leaf
            .subject_alternative_name()
            .map_err(|error| malformed(&error))?;
        let mut hosts: Vec<Box<str>> = match alternatives {
            Some(names) => names
                .value
                .general_names
                .iter()
                .filter_map(host_of)
                .collect(),
            None => Vec::new(),
        };
        if hosts.is_empty() {
            // RFC 9525 no longer looks there; certificates of private authorities still come so
            let common = leaf
                .subject()
                .iter_common_name()
                .filter_map(|name| name.as_str().ok());
            hosts.extend(common.map(|name| normalised(name).into_owned().into_boxed_str()));
        }
        if hosts.is_empty() {
            return Err(CertificateError::NoName);
        }
        Ok(Self {
            hosts,
            not_before: instant(leaf.validity().not_before.timestamp()),
            not_after: instant(leaf.validity().not_after.timestamp()),
        })
    }
}

fn host_of(name: &GeneralName<'_>) -> Option<Box<str>> {
    match name {
        GeneralName::DNSName(name) => Some(normalised(name).into_owned().into_boxed_str()),
        GeneralName::IPAddress(bytes) => {
            let address = match <[u8; 4]>::try_from(*bytes) {
                Ok(bytes) => IpAddr::from(bytes),
                Err(_) => IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?),
            };
            Some(address.to_string().into_boxed_str())
        }
        _ => None,
    }
}

/// Seconds since the epoch as an instant; what does not fit is the epoch, and so expired.
fn instant(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    SystemTime::UNIX_EPOCH
        .checked_add(since)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|error| CertificateError::Unreadable {
        path: path.to_owned(),
        error,
    })
}

/// All certificates of one listener, indexed by host. Never empty.
#[derive(Debug)]
pub struct Certificates {
    all: Vec<Arc<Certificate>>,
    default: Arc<Certificate>,
    exact: AHashMap<Box<str>, Candidates>,
    /// By what follows `*.`.
    wildcard: AHashMap<Box<str>, Candidates>,
    /// Of clients that ask for a certificate without authorities of its own.
    clients: Option<Arc<ClientAuthorities>>,
    /// Whether anybody is asked for a certificate.
    asks: bool,
}

/// Places in `Certificates::all`, in the order of the configuration.
type Candidates = SmallVec<[usize; 2]>;

impl Certificates {
    /// Indexes `all`. `default` names the one for clients that ask for no known host; absent, it is the first. `None`
    /// if there is no certificate, or none of that name.
    pub fn new(all: Vec<Arc<Certificate>>, default: Option<&str>) -> Option<Self> {
        let default = match default {
            Some(name) => all.iter().find(|certificate| &*certificate.name == name)?,
            None => all.first()?,
        };
        let default = default.clone();
        let mut exact: AHashMap<Box<str>, Candidates> = AHashMap::new();
        let mut wildcard: AHashMap<Box<str>, Candidates> = AHashMap::new();
        for (at, certificate) in all.iter().enumerate() {
            for host in &certificate.hosts {
                let places = match host.strip_prefix("*.") {
                    Some(suffix) => wildcard.entry(suffix.into()).or_default(),
                    None => exact.entry(host.clone()).or_default(),
                };
                places.push(at);
            }
        }
        Some(Self {
            asks: all.iter().any(|one| one.clients.is_some()),
            all,
            default,
            exact,
            wildcard,
            clients: None,
        })
    }

    /// The authorities of clients, where a certificate has none of its own.
    pub fn asking(mut self, clients: Option<Arc<ClientAuthorities>>) -> Self {
        self.asks |= clients.is_some();
        self.clients = clients;
        self
    }

    /// Whose certificates clients that ask for this name may show; nobody's, if they are not asked for one.
    pub fn clients(&self, server_name: Option<&str>) -> Option<&Arc<ClientAuthorities>> {
        self.clients_of(self.choose(server_name))
    }

    /// Whether anybody is asked for a certificate.
    pub fn asks_clients(&self) -> bool {
        self.asks
    }

    /// All authorities of clients, some of them several times.
    pub(super) fn authorities(&self) -> impl Iterator<Item = &Arc<ClientAuthorities>> {
        self.all.iter().filter_map(|one| self.clients_of(one))
    }

    fn clients_of<'a>(
        &'a self,
        certificate: &'a Certificate,
    ) -> Option<&'a Arc<ClientAuthorities>> {
        certificate.clients.as_ref().or(self.clients.as_ref())
    }

    /// A host that two certificates stand for, which ask clients for different things. Which of them is chosen depends on
    /// what the client can verify, so the client would have the choice.
    pub fn contradiction(&self) -> Option<(&str, &Certificate, &Certificate)> {
        let places = self.exact.iter().chain(&self.wildcard);
        let mut found = places.filter_map(|(host, candidates)| {
            let known = |at: &usize| self.all.get(*at).map(|one| &**one);
            let first = candidates.first().and_then(known)?;
            let asked = self.clients_of(first);
            let other = candidates.iter().filter_map(known).find(|other| {
                match (asked, self.clients_of(other)) {
                    (Some(one), Some(other)) => !one.is_same(other),
                    (one, other) => one.is_some() != other.is_some(),
                }
            })?;
            Some((&**host, first, other))
        });
        // the same one whatever the order of the map
        let first = found.next()?;
        Some(found.fold(
            first,
            |least, one| if one.0 < least.0 { one } else { least },
        ))
    }

    /// The certificate for a server name; the default for none, or an unknown one.
    pub fn choose(&self, server_name: Option<&str>) -> &Arc<Certificate> {
        self.choose_where(server_name, |_| true)
    }

    /// Whether a connection that asked for `server_name` may carry requests for `host`: both call for the same
    /// certificate. Where they do not, the answer is 421 (RFC 9110 §15.5.20), or what one name demands of a client
    /// could be avoided by asking for another.
    pub fn covers(&self, server_name: Option<&str>, host: &str) -> bool {
        Arc::ptr_eq(self.choose(server_name), self.choose(Some(host)))
    }

    /// Every certificate, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.all.iter()
    }

    /// The first candidate that is `usable`, else the first, else the default.
    fn choose_where(
        &self,
        server_name: Option<&str>,
        usable: impl Fn(&Certificate) -> bool,
    ) -> &Arc<Certificate> {
        let candidates = server_name
            .and_then(|name| self.candidates(name))
            .unwrap_or_default();
        let known = |at: &usize| self.all.get(*at);
        candidates
            .iter()
            .filter_map(known)
            .find(|certificate| usable(certificate))
            .or_else(|| candidates.first().and_then(known))
            .unwrap_or(&self.default)
    }

    fn candidates(&self, host: &str) -> Option<&[usize]> {
        let host = normalised(host);
        let exact = self.exact.get(&*host);
        let candidates = exact.or_else(|| self.wildcard.get(parent_of(&host)?))?;
        Some(candidates)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let chosen = self.choose_where(hello.server_name(), |certificate| {
            certificate.key.key.choose_scheme(schemes).is_some()
        });
        Some(chosen.key.clone())
    }
}

/// Lower case, without the dot of the root and the brackets of an IPv6 address.
fn normalised(host: &str) -> std::borrow::Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => host.to_ascii_lowercase().into(),
        false => host.into(),
    }
}

/// What follows the first label.
fn parent_of(host: &str) -> Option<&str> {
    host.split_once('.').map(|(_, parent)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn pem(hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        change(&mut params);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn certificate(name: &str, hosts: &[&str]) -> Arc<Certificate> {
        let (chain, key) = pem(hosts, |_| {});
        Arc::new(Certificate::from_pem(name.into(), chain.as_bytes(), key.as_bytes()).unwrap())
    }

    fn chosen<'a>(certificates: &'a Certificates, host: &str) -> &'a str {
        certificates.choose(Some(host)).name()
    }

    #[test]
    fn exact_comes_before_wildcard_before_default() {
        let all = vec![
            certificate("fallback", &["fallback.example"]),
            certificate("wild", &["*.a.example", "A.example"]),
            certificate("exact", &["b.a.example", "10.0.0.1", "::1"]),
        ];
        let certificates = Certificates::new(all, None).unwrap();
        for (host, name) in [
            ("a.example", "wild"),
            ("x.a.example", "wild"),
            ("X.A.Example.", "wild"),
            ("b.a.example", "exact"),
            ("y.x.a.example", "fallback"),
            ("example", "fallback"),
            ("10.0.0.1", "exact"),
            ("[::1]", "exact"),
            ("10.0.0.2", "fallback"),
            ("", "fallback"),
        ] {
            assert_eq!(chosen(&certificates, host), name, "{host}");
        }
        assert_eq!(&**certificates.choose(None).name(), "fallback");
    }

    #[test]
    fn the_default_can_be_named() {
        let all = || {
            vec![
                certificate("one", &["one.example"]),
                certificate("two", &["two.example"]),
            ]
        };
        let certificates = Certificates::new(all(), Some("two")).unwrap();
        assert_eq!(chosen(&certificates, "unknown.example"), "two");
        assert!(Certificates::new(all(), Some("three")).is_none());
        assert!(Certificates::new(Vec::new(), None).is_none());
    }

    #[test]
    fn a_name_and_a_host_that_call_for_different_certificates_do_not_go_together() {
        let all = vec![
            certificate("one", &["one.example", "*.one.example"]),
            certificate("two", &["two.example"]),
        ];
        let certificates = Certificates::new(all, None).unwrap();
        for (server_name, host, goes) in [
            (Some("one.example"), "one.example", true),
            (Some("one.example"), "a.one.example", true),
            (Some("one.example"), "unknown.example", true),
            (Some("one.example"), "two.example", false),
            (Some("two.example"), "one.example", false),
            (Some("unknown.example"), "two.example", false),
            (None, "one.example", true),
            (None, "two.example", false),
        ] {
            assert_eq!(
                certificates.covers(server_name, host),
                goes,
                "{server_name:?} {host}"
            );
        }
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let (chain, key) = pem(&["a.example"], |_| {});
        let (_, other) = pem(&["a.example"], |_| {});
        let of = |chain: &str, key: &str| {
            Certificate::from_pem("a".into(), chain.as_bytes(), key.as_bytes()).unwrap_err()
        };
        assert!(matches!(of("", &key), CertificateError::NoCertificate));
        assert!(matches!(of(&key, &key), CertificateError::NoCertificate));
        for encrypted in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMAA=\n-----END EC PRIVATE KEY-----\n",
        ] {
            let error = of(&chain, encrypted);
            assert!(matches!(error, CertificateError::EncryptedKey), "{error}");
        }
        assert!(matches!(of(&chain, ""), CertificateError::NoKey));
        assert!(matches!(of(&chain, &chain), CertificateError::NoKey));
        assert!(matches!(of(&chain, &other), CertificateError::KeyMismatch));
        let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(of(empty, &key), CertificateError::Malformed(_)));
        let path = Path::new("/nowhere/cert.pem");
        let error = Certificate::load("a".into(), path, path).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("/nowhere/cert.pem cannot be read: "),
            "{error}"
        );
    }

    #[test]
    fn the_common_name_stands_in_where_there_are_no_alternative_names() {
        let (chain, key) = pem(&[], |params| {
            params.distinguished_name = DistinguishedName::new();
            params
                .distinguished_name
                .push(DnType::CommonName, "Old.Example");
        });
        let old = Certificate::from_pem("old".into(), chain.as_bytes(), key.as_bytes()).unwrap();
        assert!(old.covers("old.example"));
        let (chain, key) = pem(&[], |params| {
            params.distinguished_name = DistinguishedName::new()
        });
        let nameless = Certificate::from_pem("old".into(), chain.as_bytes(), key.as_bytes());
        assert!(matches!(nameless, Err(CertificateError::NoName)));
    }

    #[test]
    fn validity_is_a_fact_and_not_an_error() {
        let (chain, key) = pem(&["a.example"], |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
        let old = Certificate::from_pem("old".into(), chain.as_bytes(), key.as_bytes()).unwrap();
        let day = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
        let (first, last) = (day(18_262), day(18_628));
        assert_eq!(old.not_after(), last);
        assert!(old.is_invalid_at(day(18_261)));
        assert!(!old.is_invalid_at(first) && !old.is_invalid_at(last));
        assert!(old.is_invalid_at(day(18_629)));
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_asking_every_certificate(host in "([ab]\\.){0,3}[ab]") {
            static ALL: std::sync::LazyLock<Vec<Arc<Certificate>>> = std::sync::LazyLock::new(|| vec![
                certificate("default", &["d"]),
                certificate("exact", &["a", "b.a", "a.b.a"]),
                certificate("wild", &["*.a", "*.b.a", "*.b"]),
            ]);
            let certificates = Certificates::new(ALL.clone(), None).unwrap();
            let exact = ALL.iter().find(|one| one.hosts().any(|known| known == host));
            let covering = ALL.iter().find(|one| one.covers(&host));
            let expected = exact.or(covering).unwrap_or(&ALL[0]);
            prop_assert!(Arc::ptr_eq(certificates.choose(Some(&host)), expected));
        }
    }
}
