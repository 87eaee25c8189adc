//! TLS as clients see it (design 3.2): versions, cipher suites and groups, sessions that are resumed, and the hosts that
//! a connection is for (RFC 9110 §15.5.20).

use crate::harness::{Client, Gateway, Http2, Identity, Pki};
use rustls::client::Resumption;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const ONE: &str = r#"
listeners: {public: {address: "$address:8443", tls: {}}}
certificates: {a: {cert: "$dir/a.pem", key: "$dir/a.key"}}
routes: {all: {match: {path: /**}, respond: 204}}
"#;

const SHARED: &str = r#"
listeners: {public: {address: "$address:8443", tls: {}}}
certificates: {a: {cert: "$dir/a.pem", key: "$dir/a.key"}}
secrets: {tickets: ["${file:$dir/tickets}"]}
routes: {all: {match: {path: /**}, respond: 204}}
"#;

const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;

/// A client of one version that agrees on keys by these groups, and remembers its sessions.
fn client(
    pki: &Pki,
    version: &'static SupportedProtocolVersion,
    groups: &[&'static dyn SupportedKxGroup],
) -> Arc<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    if !groups.is_empty() {
        provider.kx_groups = groups.to_vec();
    }
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(pki.pem().as_bytes()).expect("PEM");
    roots.add(authority).expect("an authority");
    let mut config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

/// How a handshake went: in full or not, and by which group.
async fn handshake(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> (HandshakeKind, Option<NamedGroup>) {
    let socket = TcpStream::connect(address).await.expect("a connection");
    let name = ServerName::try_from("a.test").expect("a name");
    let connector = TlsConnector::from(config.clone());
    let mut stream = connector.connect(name, socket).await.expect("TLS");
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    let mut answer = Vec::new();
    // the tickets of TLS 1.3 come with the answer
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 204"), "{answer:?}");
    let session = stream.get_ref().1;
    let group = session.negotiated_key_exchange_group();
    let kind = session.handshake_kind().expect("a handshake");
    (kind, group.map(|group| group.name()))
}

async fn is_resumed(gateway: &Gateway, config: &Arc<ClientConfig>) -> bool {
    handshake(gateway.port(8443), config).await.0 == HandshakeKind::Resumed
}

async fn with_secret(yaml: &str, identity: &Identity, secret: &str) -> Gateway {
    let builder = Gateway::builder(yaml).identity("a", identity);
    builder.file("tickets", secret).start().await
}

#[tokio::test]
async fn a_session_is_resumed_and_a_reload_forgets_none() {
    let pki = Pki::new();
    let gateway = Gateway::builder(ONE)
        .identity("a", &pki.server(&["a.test"]))
        .start()
        .await;
    for version in [TLS12, TLS13] {
        let config = client(&pki, version, &[]);
        assert!(!is_resumed(&gateway, &config).await, "{version:?}");
        assert!(is_resumed(&gateway, &config).await, "{version:?}");
        gateway.reload_to(ONE).await;
        assert!(is_resumed(&gateway, &config).await, "{version:?}");
    }
    let counted = "northgate_tls_handshakes_total";
    for (version, resumed, times) in [
        ("TLSv1.2", "false", 1.0),
        ("TLSv1.2", "true", 2.0),
        ("TLSv1.3", "false", 1.0),
        ("TLSv1.3", "true", 2.0),
    ] {
        let labels = [("version", version), ("resumed", resumed)];
        gateway.counts(counted, &labels, times).await;
    }
}

#[tokio::test]
async fn gateways_that_share_a_secret_resume_each_others_sessions() {
    let pki = Pki::new();
    let identity = pki.server(&["a.test"]);
    let secret = "0123456789abcdef of the fleet";
    let one = with_secret(SHARED, &identity, secret).await;
    let other = with_secret(SHARED, &identity, secret).await;
    let stranger = with_secret(SHARED, &identity, "another secret of somebody else").await;
    for version in [TLS12, TLS13] {
        let config = client(&pki, version, &[]);
        assert!(!is_resumed(&one, &config).await, "{version:?}");
        assert!(is_resumed(&other, &config).await, "{version:?}");
        assert!(is_resumed(&one, &config).await, "{version:?}");
        assert!(
            !is_resumed(&stranger, &config).await,
            "a full handshake, {version:?}"
        );
        assert!(is_resumed(&stranger, &config).await, "{version:?}");
    }
}

#[tokio::test]
async fn a_secret_is_replaced_by_being_named_second() {
    let pki = Pki::new();
    let identity = pki.server(&["a.test"]);
    let yaml = SHARED.replace("tickets}\"", "new}\", \"${file:$dir/tickets}\"");
    let builder = Gateway::builder(SHARED).identity("a", &identity);
    let builder = builder.file("tickets", "0123456789abcdef, the old one");
    let gateway = builder
        .file("new", "0123456789abcdef, the new one")
        .start()
        .await;
    let config = client(&pki, TLS13, &[]);
    assert!(!is_resumed(&gateway, &config).await);
    gateway.reload_to(&yaml).await;
    assert!(
        is_resumed(&gateway, &config).await,
        "the old one still counts"
    );
    gateway.reload_to(&SHARED.replace("tickets}", "new}")).await;
    assert!(is_resumed(&gateway, &config).await, "and has been replaced");
}

#[tokio::test]
async fn no_listener_resumes_the_sessions_of_another() {
    let pki = Pki::new();
    let yaml = ONE.replace(
        "tls: {}}",
        "tls: {}}, other: {address: \"$address:8444\", tls: {}}",
    );
    let identity = pki.server(&["a.test"]);
    let gateway = Gateway::builder(&yaml)
        .identity("a", &identity)
        .start()
        .await;
    for version in [TLS12, TLS13] {
        let config = client(&pki, version, &[]);
        assert!(!is_resumed(&gateway, &config).await);
        let (kind, _) = handshake(gateway.port(8444), &config).await;
        assert_ne!(kind, HandshakeKind::Resumed, "{version:?}");
        let (kind, _) = handshake(gateway.port(8444), &config).await;
        assert_eq!(kind, HandshakeKind::Resumed, "{version:?}");
    }
}

#[tokio::test]
async fn a_session_from_before_is_no_way_round_a_certificate_that_is_asked_for_now() {
    let (pki, clients) = (Pki::new(), Pki::new());
    let builder = Gateway::builder(ONE).identity("a", &pki.server(&["a.test"]));
    let gateway = builder.file("clients.pem", &clients.pem()).start().await;
    let sessions = [TLS12, TLS13].map(|version| client(&pki, version, &[]));
    for config in &sessions {
        assert!(!is_resumed(&gateway, config).await);
        assert!(is_resumed(&gateway, config).await);
    }
    let asking = "tls: {}, client_ca: {file: \"$dir/clients.pem\", required: on}";
    gateway.reload_to(&ONE.replace("tls: {}", asking)).await;
    for config in sessions {
        let answered = async {
            // with TLS 1.3 the client is done before it is turned away
            let connected = Client::connect_tls(gateway.port(8443), "a.test", config).await;
            connected.ok()?.0.try_get("a.test", "/").await.ok()
        };
        assert!(answered.await.is_none());
    }
}

#[tokio::test]
async fn keys_are_agreed_on_by_the_hybrid_group_where_the_client_can() {
    let pki = Pki::new();
    let gateway = Gateway::builder(ONE)
        .identity("a", &pki.server(&["a.test"]))
        .start()
        .await;
    let (hybrid, x25519) = (kx_group::X25519MLKEM768, kx_group::X25519);
    for (groups, wanted) in [
        (vec![hybrid, x25519], NamedGroup::X25519MLKEM768),
        // a client that would rather not, and sends shares for both
        (vec![x25519, hybrid], NamedGroup::X25519),
        (vec![x25519], NamedGroup::X25519),
        (vec![kx_group::SECP256R1], NamedGroup::secp256r1),
        (vec![kx_group::SECP384R1], NamedGroup::secp384r1),
    ] {
        let (_, group) = handshake(gateway.port(8443), &client(&pki, TLS13, &groups)).await;
        assert_eq!(group, Some(wanted));
    }
    let (_, group) = handshake(gateway.port(8443), &client(&pki, TLS12, &[hybrid, x25519])).await;
    assert_eq!(
        group,
        Some(NamedGroup::X25519),
        "TLS 1.2 has no hybrid groups"
    );
}

/// What OpenSSL says of a handshake with these options, where there is one.
async fn openssl(gateway: &Gateway, options: &[&str]) -> Option<String> {
    let address = gateway.port(8443).to_string();
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address, "-servername", "a.test"]);
    command.args(options).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("a thread").expect("openssl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // it ends well even where it was refused
    let agreed = text.contains("Cipher is ") && !text.contains("Cipher is (NONE)");
    agreed.then_some(text)
}

#[tokio::test]
async fn old_versions_and_weak_cipher_suites_are_refused() {
    let pki = Pki::new();
    let gateway = Gateway::builder(ONE)
        .identity("a", &pki.rsa_server(&["a.test"]))
        .start()
        .await;
    for (options, cipher) in [
        (&["-tls1_3"][..], "TLS_"),
        (&["-tls1_2"], "ECDHE-RSA-"),
        (
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
            "ECDHE-RSA-AES128-GCM-SHA256",
        ),
        (
            &["-tls1_2", "-cipher", "ECDHE-RSA-CHACHA20-POLY1305"],
            "ECDHE-RSA-CHACHA20-POLY1305",
        ),
    ] {
        let text = openssl(&gateway, options).await.unwrap_or_default();
        assert!(
            text.contains(&format!("Cipher is {cipher}")),
            "{options:?}: {text}"
        );
    }
    let old = "ALL:@SECLEVEL=0";
    for options in [
        &["-tls1", "-cipher", old][..],
        &["-tls1_1", "-cipher", old],
        // CBC, no forward secrecy, no encryption, no certificate
        &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA256:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "ECDHE-RSA-AES256-SHA:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "AES128-GCM-SHA256:@SECLEVEL=0"],
        &[
            "-tls1_2",
            "-cipher",
            "DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0",
        ],
        &["-tls1_2", "-cipher", "NULL-SHA256:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "AECDH-AES128-SHA:@SECLEVEL=0"],
    ] {
        assert_eq!(openssl(&gateway, options).await, None, "{options:?}");
    }
}

#[tokio::test]
async fn a_listener_may_ask_for_the_newest_version() {
    let pki = Pki::new();
    let yaml = ONE.replace("tls: {}", "tls: {min_version: 1.3}");
    let identity = pki.server(&["a.test"]);
    let gateway = Gateway::builder(&yaml)
        .identity("a", &identity)
        .start()
        .await;
    assert!(openssl(&gateway, &["-tls1_3"]).await.is_some());
    assert!(openssl(&gateway, &["-tls1_2"]).await.is_none());
    let failures = "northgate_tls_handshake_failures_total";
    gateway
        .counts(failures, &[("reason", "nothing_in_common")], 1.0)
        .await;
    gateway.reload_to(ONE).await;
    assert!(openssl(&gateway, &["-tls1_2"]).await.is_some());
}

const NAMES: &str = r#"
listeners: {public: {address: "$address:8443", tls: {default: DEFAULT}}}
certificates:
  a: {cert: "$dir/a.pem", key: "$dir/a.key"}
  b: {cert: "$dir/b.pem", key: "$dir/b.key"}
  ip: {cert: "$dir/ip.pem", key: "$dir/ip.key"}
routes: {all: {match: {path: /**}, respond: 204}}
"#;

/// A client that takes any certificate, and may ask for no name.
fn careless(protocol: &str, asks: bool) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    config.enable_sni = asks;
    config
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        let algorithms = &self.0.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// The statuses that a host gets over both protocols, on a connection that asked for this name.
async fn statuses(gateway: &Gateway, asked: Option<&str>, host: &str) -> [u16; 2] {
    let address = gateway.port(8443);
    let name = asked.unwrap_or("nobody.test");
    let h1 = careless("http/1.1", asked.is_some());
    let connected = Client::connect_tls(address, name, h1.into()).await;
    let (mut h1, _) = connected.expect("HTTP/1.1");
    let h2 = careless("h2", asked.is_some());
    let connected = Http2::connect_tls(address, name, h2.into()).await;
    let (mut h2, _) = connected.expect("HTTP/2");
    let over_h1 = h1.get(host, "/").await.status();
    [over_h1, h2.get(&format!("https://{host}/")).await.status()]
}

#[tokio::test]
async fn a_connection_is_for_the_hosts_of_the_certificate_that_its_name_calls_for() {
    let pki = Pki::new();
    let identities = [
        ("a", pki.server(&["a.test", "also-a.test"])),
        ("b", pki.server(&["*.b.test", "b.test"])),
        ("ip", pki.server(&["10.0.0.9", "::1", "ip.test"])),
    ];
    for (default, cases) in [
        (
            "a",
            &[
                (Some("a.test"), "a.test", 204),
                (Some("a.test"), "A.Test.:8443", 204),
                (Some("a.test"), "also-a.test", 204),
                (Some("a.test"), "b.test", 421),
                (Some("a.test"), "10.0.0.9", 421),
                // browsers send requests for all names of a wildcard on one connection
                (Some("x.b.test"), "y.b.test", 204),
                (Some("x.b.test"), "b.test", 204),
                (Some("x.b.test"), "z.y.b.test", 421),
                (Some("x.b.test"), "unknown.test", 421),
                (Some("b.test"), "a.test", 421),
                // no name, and one that nobody has, are the default's
                (None, "a.test", 204),
                (None, "unknown.test", 204),
                (None, "x.b.test", 421),
                (None, "10.0.0.9", 421),
                (Some("unknown.test"), "a.test", 204),
                (Some("unknown.test"), "other.test", 204),
                (Some("unknown.test"), "b.test", 421),
            ][..],
        ),
        (
            "ip",
            &[
                // clients ask for names and not for addresses (RFC 6066 §3)
                (None, "10.0.0.9", 204),
                (None, "10.0.0.9:8443", 204),
                (None, "[::1]", 204),
                (None, "[0:0::1]:8443", 204),
                (Some("ip.test"), "10.0.0.9", 204),
                (None, "a.test", 421),
                (Some("a.test"), "10.0.0.9", 421),
                (Some("a.test"), "[::1]", 421),
            ],
        ),
    ] {
        let builder = Gateway::builder(&NAMES.replace("DEFAULT", default));
        let builder = identities
            .iter()
            .fold(builder, |builder, (name, identity)| {
                builder.identity(name, identity)
            });
        let gateway = builder.start().await;
        for (asked, host, status) in cases {
            let got = statuses(&gateway, *asked, host).await;
            assert_eq!(got, [*status; 2], "{host} on a connection for {asked:?}");
        }
    }
}

#[tokio::test]
async fn what_a_connection_is_for_follows_the_certificates_of_a_reload() {
    let pki = Pki::new();
    let yaml = ONE.replace("tls: {}", "tls: {default: a}");
    let wildcard = pki.server(&["*.a.test", "a.test"]);
    let gateway = Gateway::builder(&yaml)
        .identity("a", &wildcard)
        .start()
        .await;
    let connect = async || {
        let config = pki.client(&["http/1.1"]);
        let connected = Client::connect_tls(gateway.port(8443), "x.a.test", config).await;
        connected.expect("a connection").0
    };
    let mut old = connect().await;
    assert_eq!(old.get("x.a.test", "/").await.status(), 204);
    assert_eq!(old.get("own.a.test", "/").await.status(), 204);
    // one of the same names in its place changes nothing
    pki.server(&["*.a.test", "a.test"])
        .write(gateway.dir(), "a");
    gateway.reload_to(&yaml).await;
    assert_eq!(old.get("own.a.test", "/").await.status(), 204);
    // a host gets a certificate of its own
    pki.server(&["own.a.test"]).write(gateway.dir(), "own");
    let own = "certificates: {own: {cert: \"$dir/own.pem\", key: \"$dir/own.key\"}, ";
    gateway
        .reload_to(&yaml.replace("certificates: {", own))
        .await;
    assert_eq!(old.get("own.a.test", "/").await.status(), 421);
    let mut new = connect().await;
    assert_eq!(new.get("own.a.test", "/").await.status(), 421);
    assert_eq!(new.get("x.a.test", "/").await.status(), 204);
    // and gives it up again
    gateway.reload_to(&yaml).await;
    assert_eq!(new.get("own.a.test", "/").await.status(), 204);
}
