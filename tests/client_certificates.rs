//! Certificates of clients (design 3.2): who is asked for one, what is not accepted, and that there is no way round.

use crate::harness::{Call, Client, Gateway, GatewayBuilder, Http2, Identity, Origin, Pki};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const REQUIRED: &str = r#"
listeners:
  public:
    address: "$address:8443"
    tls: {}
    client_ca: {file: "$dir/clients.pem", required: on}
certificates: {a: {cert: "$dir/a.pem", key: "$dir/a.key"}}
routes: {all: {match: {path: /**}, respond: 204}}
"#;

/// Two names on one listener, of which one asks for certificates.
const BY_NAME: &str = r#"
listeners:
  public: {address: "$address:8443", tls: {default: open}}
certificates:
  open: {cert: "$dir/open.pem", key: "$dir/open.key"}
  partners:
    cert: "$dir/partners.pem"
    key: "$dir/partners.key"
    client_ca: {file: "$dir/clients.pem", required: on}
routes:
  open: {match: {host: open.test, path: /**}, respond: 200}
  partners: {match: {host: partners.test, path: /**}, respond: 204}
"#;

struct World {
    servers: Pki,
    clients: Pki,
}

impl World {
    fn new() -> Self {
        Self {
            servers: Pki::new(),
            clients: Pki::new(),
        }
    }

    /// A gateway whose listeners can be told about the authority of clients.
    fn gateway(&self, yaml: &str, names: &[&str]) -> GatewayBuilder {
        let builder = Gateway::builder(yaml).file("clients.pem", &self.clients.pem());
        names.iter().fold(builder, |builder, name| {
            let host = format!("{name}.test");
            builder.identity(name, &self.servers.server(&[&host]))
        })
    }

    fn config(&self, shown: Option<&Identity>) -> Arc<ClientConfig> {
        self.servers.client_showing(&["http/1.1"], shown)
    }

    /// The status that a client with this certificate gets, or none if the gateway does not talk to it.
    async fn status(&self, gateway: &Gateway, name: &str, shown: Option<&Identity>) -> Option<u16> {
        let config = self.config(shown);
        // with TLS 1.3 the client is done before its certificate has been looked at
        let connected = Client::connect_tls(gateway.port(8443), name, config).await;
        let (mut client, _) = connected.ok()?;
        let response = client.try_get(name, "/").await.ok()?;
        Some(response.status())
    }
}

fn signed_for(clients: &Pki, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Identity {
    let mut params = Pki::client_params("Partner", "orders");
    change(&mut params);
    clients.sign(params)
}

#[tokio::test]
async fn only_a_certificate_of_the_authority_that_is_good_for_clients_is_accepted() {
    let world = World::new();
    let gateway = world.gateway(REQUIRED, &["a"]).start().await;
    let clients = &world.clients;
    let good = clients.client_certificate("orders");
    let expired = signed_for(clients, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let early = signed_for(clients, |params| {
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        params.not_after = rcgen::date_time_ymd(2091, 1, 1);
    });
    let for_servers = signed_for(clients, |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    let foreign = Pki::new().client_certificate("orders");
    let own = Pki::self_signed(Pki::client_params("Partner", "orders"));
    assert_eq!(
        world.status(&gateway, "a.test", Some(&good)).await,
        Some(204)
    );
    for (what, shown) in [
        ("none", None),
        ("expired", Some(&expired)),
        ("not valid yet", Some(&early)),
        ("for servers", Some(&for_servers)),
        ("of another authority", Some(&foreign)),
        ("self-signed", Some(&own)),
    ] {
        assert_eq!(
            world.status(&gateway, "a.test", shown).await,
            None,
            "{what}"
        );
    }
    let failures = "northgate_tls_handshake_failures_total";
    gateway
        .counts(failures, &[("reason", "client_certificate")], 6.0)
        .await;
}

#[tokio::test]
async fn where_none_is_required_a_bad_one_is_refused_all_the_same() {
    let world = World::new();
    let yaml = REQUIRED.replace(
        "{file: \"$dir/clients.pem\", required: on}",
        "\"$dir/clients.pem\"",
    );
    let gateway = world.gateway(&yaml, &["a"]).start().await;
    let good = world.clients.client_certificate("orders");
    let foreign = Pki::new().client_certificate("orders");
    assert_eq!(world.status(&gateway, "a.test", None).await, Some(204));
    assert_eq!(
        world.status(&gateway, "a.test", Some(&good)).await,
        Some(204)
    );
    assert_eq!(world.status(&gateway, "a.test", Some(&foreign)).await, None);
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_by_the_next_reload_even_on_an_open_connection() {
    let world = World::new();
    let yaml = REQUIRED.replace(
        ", required: on",
        ", required: on, crl: \"$dir/revoked.pem\"",
    );
    let gateway = world.gateway(&yaml, &["a"]);
    let gateway = gateway.file("revoked.pem", &world.clients.revoking(&[7], 2090));
    let gateway = gateway.start().await;
    let certificate = |serial: u64| {
        signed_for(&world.clients, |params| {
            params.serial_number = Some(serial.into())
        })
    };
    let (seven, eight) = (certificate(7), certificate(8));
    assert_eq!(world.status(&gateway, "a.test", Some(&seven)).await, None);
    let open = Client::connect_tls(gateway.port(8443), "a.test", world.config(Some(&eight)));
    let (mut open, _) = open.await.expect("a connection");
    assert_eq!(open.get("a.test", "/").await.status(), 204);
    let rewrite = |text: &str| std::fs::write(gateway.dir().join("revoked.pem"), text);
    // nothing has changed for this one
    rewrite(&world.clients.revoking(&[7, 9], 2090)).expect("a file");
    gateway.reload_to(&yaml).await;
    assert_eq!(open.get("a.test", "/").await.status(), 204);
    rewrite(&world.clients.revoking(&[7, 8], 2090)).expect("a file");
    gateway.reload_to(&yaml).await;
    assert_eq!(world.status(&gateway, "a.test", Some(&eight)).await, None);
    let response = open.get("a.test", "/").await;
    assert_eq!(response.status(), 421);
    assert_eq!(response.json()["code"], "request.client_certificate");
    assert!(open.is_closed().await);
    // a list that is too old says nothing about anybody
    rewrite(&world.clients.revoking(&[7], 2021)).expect("a file");
    gateway.reload_to(&yaml).await;
    assert_eq!(world.status(&gateway, "a.test", Some(&eight)).await, None);
    // and a list of another authority neither
    rewrite(&Pki::new().revoking(&[7], 2090)).expect("a file");
    gateway.reload_to(&yaml).await;
    assert_eq!(world.status(&gateway, "a.test", Some(&eight)).await, None);
}

#[tokio::test]
async fn a_reload_that_trusts_others_ends_the_trust_in_open_connections() {
    let world = World::new();
    let gateway = world.gateway(REQUIRED, &["a"]).start().await;
    let good = world.clients.client_certificate("orders");
    let open = Client::connect_tls(gateway.port(8443), "a.test", world.config(Some(&good)));
    let (mut open, _) = open.await.expect("a connection");
    assert_eq!(open.get("a.test", "/").await.status(), 204);
    let others = Pki::new();
    std::fs::write(gateway.dir().join("clients.pem"), others.pem()).expect("a file");
    gateway.reload_to(REQUIRED).await;
    assert_eq!(open.get("a.test", "/").await.status(), 421);
    let theirs = others.client_certificate("orders");
    assert_eq!(
        world.status(&gateway, "a.test", Some(&theirs)).await,
        Some(204)
    );
    assert_eq!(world.status(&gateway, "a.test", Some(&good)).await, None);
}

#[tokio::test]
async fn the_name_decides_who_is_asked_and_no_host_leads_round_it() {
    let world = World::new();
    let gateway = world.gateway(BY_NAME, &["open", "partners"]).start().await;
    let good = world.clients.client_certificate("orders");
    assert_eq!(world.status(&gateway, "open.test", None).await, Some(200));
    assert_eq!(world.status(&gateway, "partners.test", None).await, None);
    assert_eq!(
        world.status(&gateway, "partners.test", Some(&good)).await,
        Some(204)
    );
    // a connection for the name that asks for nothing
    for shown in [None, Some(&good)] {
        let open = Client::connect_tls(gateway.port(8443), "open.test", world.config(shown));
        let (mut open, _) = open.await.expect("a connection");
        assert_eq!(open.get("partners.test", "/").await.status(), 421);
        assert_eq!(open.get("open.test", "/").await.status(), 200);
    }
    // the same over HTTP/2, whose clients share connections among names
    let h2 = world.servers.client(&["h2"]);
    let (mut h2, _) = Http2::connect_tls(gateway.port(8443), "open.test", h2)
        .await
        .expect("h2");
    assert_eq!(h2.get("https://partners.test/").await.status(), 421);
    // no name, which is the default's
    let config = world.config(None);
    let mut config = Arc::unwrap_or_clone(config);
    config.enable_sni = false;
    let (mut none, _) = Client::connect_tls(gateway.port(8443), "open.test", config.into())
        .await
        .expect("a connection");
    assert_eq!(none.get("partners.test", "/").await.status(), 421);
}

#[tokio::test]
async fn nothing_is_resumed_where_a_certificate_is_asked_for() {
    let world = World::new();
    let gateway = world.gateway(BY_NAME, &["open", "partners"]).start().await;
    let good = world.clients.client_certificate("orders");
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for (name, resumes) in [("open.test", true), ("partners.test", false)] {
            let mut config = Arc::unwrap_or_clone(world.config(Some(&good)));
            // one store of sessions for both connections
            config.resumption = rustls::client::Resumption::in_memory_sessions(8);
            let config = Arc::new(only(config, version, &world, &good));
            let mut kinds = Vec::new();
            for _ in 0..2 {
                kinds.push(handshake_of(&gateway, name, config.clone()).await);
            }
            let resumed = kinds[1] == rustls::HandshakeKind::Resumed;
            assert_eq!(resumed, resumes, "{name} {version:?}: {kinds:?}");
        }
    }
}

/// The same client, speaking one version.
fn only(
    config: ClientConfig,
    version: &'static rustls::SupportedProtocolVersion,
    world: &World,
    shown: &Identity,
) -> ClientConfig {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(world.servers.pem().as_bytes());
    roots.add(authority.expect("PEM")).expect("an authority");
    let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).expect("a key");
    let mut only = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![CertificateDer::from(shown.der.clone())], key)
        .expect("a pair");
    only.resumption = config.resumption;
    only
}

async fn handshake_of(
    gateway: &Gateway,
    name: &str,
    config: Arc<ClientConfig>,
) -> rustls::HandshakeKind {
    let socket = TcpStream::connect(gateway.port(8443))
        .await
        .expect("a connection");
    let server = ServerName::try_from(name.to_owned()).expect("a name");
    let mut stream = TlsConnector::from(config)
        .connect(server, socket)
        .await
        .expect("TLS");
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    // the tickets of TLS 1.3 come with the answer
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 20"), "{answer:?}");
    stream.get_ref().1.handshake_kind().expect("a handshake")
}

/// OpenSSL and curl, as partners have them.
#[tokio::test]
async fn curl_and_openssl_are_asked_and_let_in() {
    let world = World::new();
    let gateway = world.gateway(REQUIRED, &["a"]).start().await;
    let dir = gateway.dir();
    world
        .clients
        .client_certificate("orders")
        .write(dir, "good");
    Pki::new()
        .client_certificate("orders")
        .write(dir, "foreign");
    std::fs::write(dir.join("servers.pem"), world.servers.pem()).expect("a file");
    assert_eq!(curl(&gateway, dir, Some("good")).await, "204");
    assert_eq!(curl(&gateway, dir, Some("foreign")).await, "000");
    assert_eq!(curl(&gateway, dir, None).await, "000");
    let address = gateway.port(8443).to_string();
    let openssl = tokio::task::spawn_blocking(move || {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &address, "-servername", "a.test"]);
        command.stdin(std::process::Stdio::null());
        let output = command.output().expect("openssl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    let shown = openssl.await.expect("a thread");
    assert!(
        shown.contains("Acceptable client certificate CA names"),
        "{shown}"
    );
    assert!(shown.contains("CN = an authority for tests"), "{shown}");
}

async fn curl(gateway: &Gateway, dir: &Path, shown: Option<&str>) -> String {
    let address = gateway.port(8443);
    let mut command = Command::new("curl");
    command.args([
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--max-time",
        "20",
    ]);
    command.arg("--cacert").arg(dir.join("servers.pem"));
    command.args([
        "--connect-to",
        &format!("a.test:443:{address}"),
        "https://a.test/",
    ]);
    if let Some(name) = shown {
        command.arg("--cert").arg(dir.join(format!("{name}.pem")));
        command.arg("--key").arg(dir.join(format!("{name}.key")));
    }
    let output = tokio::task::spawn_blocking(move || command.output().expect("curl"));
    let output = output.await.expect("a thread");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Fields in which others pass the certificate on are not the client's to set (RFC 9440 §2.4).
#[tokio::test]
async fn a_client_can_not_say_in_a_field_which_certificate_it_has() {
    let origin = Origin::echo().await;
    let yaml = r#"
listeners: {public: {address: "$address:8080"}}
services: {app: {endpoints: "$app"}}
routes: {all: {match: {path: /**}, service: app}}
"#;
    let gateway = Gateway::before(&origin, yaml).await;
    let call = Call::new(gateway.public(), "GET /");
    let call = call
        .header("Client-Cert", ":AAAA:")
        .header("X-SSL-Client-S-DN", "CN=root");
    assert_eq!(call.send().await.status(), 200);
    let got = origin.only();
    assert_eq!(
        (got.header("client-cert"), got.header("x-ssl-client-s-dn")),
        (None, None)
    );
}

const METHOD: &str = r#"
listeners:
  public: {address: "$address:8443", tls: {}, client_ca: "$dir/clients.pem"}
  plain: {address: "$address:8080"}
certificates: {a: {cert: "$dir/a.pem", key: "$dir/a.key"}}
services: {app: {endpoints: "$app"}}
plans: {gold: {}}
consumers:
  acme: {plan: gold, credentials: {mtls: {subject: "CN=orders,O=Partner"}}}
  other: {credentials: {mtls: [{dns: other.clients.test}, {uri: "spiffe://clients.test/third"}]}}
routes:
  any: {match: {path: /any/**}, service: app, policies: {auth: {mtls: on}}}
  known: {match: {path: /known/**}, service: app, policies: {auth: {mtls: {consumer: known}}}}
  named: {match: {path: /named/**}, service: app, policies: {auth: {mtls: {identity: common_name, consumer: identity, client_cert: on}}}}
  open: {match: {path: /open/**}, service: app, policies: {auth: off}}
  bound:
    match: {path: /bound/**}
    service: app
    policies: {auth: off, authorize: {expression: "certificate != null && certificate.subject == 'CN=orders,O=Partner'"}}
policies: {auth: {mtls: on}}
"#;

#[tokio::test]
async fn the_certificate_says_who_calls() {
    let world = World::new();
    let origin = Origin::echo().await;
    let gateway = world
        .gateway(METHOD, &["a"])
        .with("app", &origin)
        .start()
        .await;
    let certificate = |name: &str| world.clients.client_certificate(name);
    for (name, target, status, consumer, subject) in [
        (
            "orders",
            "/any/1",
            200,
            Some("acme"),
            Some("CN=orders,O=Partner"),
        ),
        (
            "orders",
            "/known/1",
            200,
            Some("acme"),
            Some("CN=orders,O=Partner"),
        ),
        ("orders", "/named/1", 200, Some("acme"), Some("orders")),
        (
            "other",
            "/known/1",
            200,
            Some("other"),
            Some("CN=other,O=Partner"),
        ),
        (
            "third",
            "/known/1",
            200,
            Some("other"),
            Some("CN=third,O=Partner"),
        ),
        ("nobody", "/any/1", 200, None, Some("CN=nobody,O=Partner")),
        ("nobody", "/known/1", 401, None, None),
        ("nobody", "/named/1", 200, Some("nobody"), Some("nobody")),
        ("nobody", "/open/1", 200, None, None),
        // a fact, whatever else says who calls
        ("orders", "/bound/1", 200, None, None),
        ("nobody", "/bound/1", 403, None, None),
    ] {
        let shown = certificate(name);
        let config = world.config(Some(&shown));
        let connected = Client::connect_tls(gateway.port(8443), "a.test", config).await;
        let (mut client, _) = connected.expect("a connection");
        let before = origin.received().len();
        client
            .send(format!(
                "GET {target} HTTP/1.1\r\nHost: a.test\r\nX-Consumer-Id: root\r\nX-Auth-Subject: root\r\nClient-Cert: :AAAA:\r\n\r\n"
            ))
            .await;
        let response = client.response("GET").await;
        assert_eq!(response.status(), status, "{name} {target}");
        if status != 200 {
            let code = if status == 403 {
                "authorize.denied"
            } else {
                "auth.invalid"
            };
            assert_eq!(response.problem(), code);
            assert_eq!(origin.received().len(), before);
            continue;
        }
        let got = origin.last();
        assert_eq!(got.header("x-consumer-id"), consumer, "{name} {target}");
        assert_eq!(got.header("x-auth-subject"), subject, "{name} {target}");
        let plan = (consumer == Some("acme")).then_some("gold");
        assert_eq!(got.header("x-consumer-plan"), plan, "{name} {target}");
        let field = target.starts_with("/named").then(|| {
            use base64::Engine as _;
            let der = base64::engine::general_purpose::STANDARD.encode(&shown.der);
            format!(":{der}:")
        });
        assert_eq!(
            got.header("client-cert"),
            field.as_deref(),
            "{name} {target}"
        );
    }
    let failures = "northgate_auth_refused_total";
    gateway
        .counts(failures, &[("reason", "auth.mtls.unknown")], 1.0)
        .await;
}

#[tokio::test]
async fn without_a_certificate_nobody_is_let_in_by_any_listener() {
    let world = World::new();
    let origin = Origin::echo().await;
    let gateway = world
        .gateway(METHOD, &["a"])
        .with("app", &origin)
        .start()
        .await;
    let connected = Client::connect_tls(gateway.port(8443), "a.test", world.config(None)).await;
    let (mut client, _) = connected.expect("a connection");
    for target in ["/any/1", "/known/1", "/named/1"] {
        let secured = client.get("a.test", target).await;
        let plain = gateway.get(target).await;
        for response in [secured, plain] {
            assert_eq!(response.status(), 401, "{target}");
            assert_eq!(response.problem(), "auth.missing");
        }
    }
    assert_eq!(client.get("a.test", "/open/1").await.status(), 200);
    assert_eq!(origin.received().len(), 1);
}
