//! A certificate authority for tests.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A private authority: who trusts it trusts every certificate that it signs.
pub struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM files hold them.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
    /// The certificate as it appears in a handshake.
    pub der: Vec<u8>,
}

impl Pki {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        // under another name than those that it signs for, or OpenSSL takes them for their own authorities
        params.distinguished_name = DistinguishedName::new();
        let (kind, name) = (DnType::CommonName, "an authority for tests");
        params.distinguished_name.push(kind, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
        Self { authority }
    }

    /// A new server certificate for these names, such as `a.test` or `*.b.test`.
    pub fn server(&self, names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.sign(CertificateParams::new(names).expect("names"))
    }

    /// The same with an RSA key.
    pub fn rsa_server(&self, names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("names");
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
        self.sign_with(params, key.expect("a key"))
    }

    /// One that was valid some years ago.
    pub fn expired(&self, name: &str) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        self.sign(params)
    }

    /// What a client's certificate of this subject starts from.
    pub fn client_params(organization: &str, name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = DistinguishedName::new();
        let subject = &mut params.distinguished_name;
        subject.push(DnType::OrganizationName, organization);
        subject.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![
            SanType::DnsName(format!("{name}.clients.test").try_into().expect("a name")),
            SanType::URI(
                format!("spiffe://clients.test/{name}")
                    .try_into()
                    .expect("a URI"),
            ),
        ];
        params
    }

    /// A certificate for a client: `CN=name,O=Partner`.
    pub fn client_certificate(&self, name: &str) -> Identity {
        self.sign(Self::client_params("Partner", name))
    }

    /// One that signs itself.
    pub fn self_signed(params: CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
        }
    }

    /// A list that revokes the certificates of these serial numbers, good until the given year.
    pub fn revoking(&self, serials: &[u64], until: i32) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: rcgen::date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(until, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.authority).expect("a list");
        list.pem().expect("PEM")
    }

    pub fn sign(&self, params: CertificateParams) -> Identity {
        self.sign_with(params, KeyPair::generate().expect("a key"))
    }

    fn sign_with(&self, params: CertificateParams, key: KeyPair) -> Identity {
        let certificate = params
            .signed_by(&key, &self.authority)
            .expect("a certificate");
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
        }
    }

    /// A new public key, PEM.
    pub fn public_key() -> String {
        KeyPair::generate().expect("a key").public_key_pem()
    }

    /// The authority's own certificate.
    pub fn pem(&self) -> String {
        self.authority.pem()
    }

    /// A server that shows this certificate and speaks these protocols; it demands a certificate of `clients` if there
    /// are any.
    pub fn acceptor(
        identity: &Identity,
        protocols: &[&str],
        clients: Option<&Pki>,
    ) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider's own versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(pki) => {
                let mut roots = RootCertStore::empty();
                roots
                    .add(pki.authority.der().clone())
                    .expect("an authority");
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
        let chain = vec![CertificateDer::from(identity.der.clone())];
        let mut config = builder.with_single_cert(chain, key).expect("a certificate");
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        Arc::new(config)
    }

    /// A client that trusts this authority alone and offers these protocols.
    pub fn client(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        self.client_showing(protocols, None)
    }

    /// The same, which shows this certificate if it is asked for one.
    pub fn client_showing(
        &self,
        protocols: &[&str],
        shown: Option<&Identity>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.authority.der().clone())
            .expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider's own versions")
            .with_root_certificates(roots);
        let mut config = match shown {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
                let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes());
                let chain = chain.collect::<Result<Vec<_>, _>>().expect("a chain");
                config.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        Arc::new(config)
    }
}

impl Identity {
    /// Writes `NAME.pem` and `NAME.key` into the folder, each by a rename, as a careful deployment does.
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let write = |suffix: &str, text: &str| {
            let path = dir.join(format!("{name}.{suffix}"));
            let part = dir.join(format!("{name}.{suffix}.part"));
            std::fs::write(&part, text).expect("a file");
            std::fs::rename(&part, &path).expect("a rename");
            path
        };
        (write("pem", &self.certificate), write("key", &self.key))
    }
}
