//! Folders of certificates (design 3.2): what is found in them, what a reload and `watch` make of a change, and what
//! refuses them.

use crate::harness::{Client, Gateway, GatewayBuilder, Identity, Pki};
use rustls::ClientConfig;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const FOLDER: &str = r#"
listeners: {public: {address: "$address:8443", tls: {}}}
certificates: {all: {dir: "$dir/certs"}}
routes: {all: {match: {path: /**}, respond: 204}}
"#;

/// A gateway with an empty folder beside its configuration.
fn before(yaml: &str) -> GatewayBuilder {
    let builder = Gateway::builder(yaml);
    std::fs::create_dir(builder.dir().join("certs")).expect("a folder");
    builder
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, text).expect("a file");
}

/// As certbot leaves it: the files of a host are links into an archive.
fn certbot(folder: &Path, host: &str, version: u32, identity: &Identity) {
    let archive = folder.join(".archive").join(host);
    let live = folder.join(host);
    std::fs::create_dir_all(&live).expect("a folder");
    write(&live.join("README"), "not a certificate");
    for (name, text) in [
        ("fullchain", &identity.certificate),
        ("privkey", &identity.key),
        ("cert", &identity.certificate),
        ("chain", &identity.certificate),
    ] {
        let target = archive.join(format!("{name}{version}.pem"));
        write(&target, text);
        let next = live.join(format!(".{name}.next"));
        std::os::unix::fs::symlink(&target, &next).expect("a link");
        std::fs::rename(&next, live.join(format!("{name}.pem"))).expect("a swap");
    }
}

/// The certificate that a client is shown, or why there is none.
async fn shown(
    gateway: &Gateway,
    name: &str,
    config: Arc<ClientConfig>,
) -> Result<Vec<u8>, String> {
    match Client::connect_tls(gateway.port(8443), name, config).await {
        Ok((_, facts)) => Ok(facts.certificate),
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::test]
async fn every_certificate_of_a_folder_is_presented_for_its_names() {
    let pki = Pki::new();
    let names = ["a.test", "*.b.test", "c.test", "d.test", "e.test"];
    let identities = names.map(|name| pki.server(&[name]));
    let [a, b, c, d, e] = &identities;
    let builder = before(FOLDER);
    let certs = builder.dir().join("certs");
    a.write(&certs, "a");
    write(&certs.join("b.crt"), &b.certificate);
    write(&certs.join("b.key"), &b.key);
    // chain and key in one file, in either order
    write(&certs.join("c.pem"), &format!("{}{}", c.certificate, c.key));
    certbot(&certs, "d.test", 1, d);
    write(&certs.join("e/tls.crt"), &e.certificate);
    write(&certs.join("e/tls.key"), &e.key);
    write(&certs.join("e/ca.crt"), &pki.pem());
    write(&certs.join("README"), "not a certificate");
    write(&certs.join(".hidden.pem"), "not a certificate");
    let gateway = builder.start().await;
    for (name, wanted) in names.iter().zip(&identities) {
        let name = name.replace('*', "any");
        let certificate = shown(&gateway, &name, pki.client(&[])).await;
        assert_eq!(certificate.as_deref(), Ok(&*wanted.der), "{name}");
    }
    let metrics = gateway.metrics().await;
    for name in [
        "a.pem",
        "b.crt",
        "c.pem",
        "d.test/fullchain.pem",
        "e/tls.crt",
    ] {
        let labels = [("certificate", &*format!("all/{name}"))];
        let expiry = metrics.find("northgate_certificate_expiry_timestamp_seconds", &labels);
        assert!(expiry.is_some_and(|at| at > 1.7e9), "{name}: {expiry:?}");
    }
}

#[tokio::test]
async fn a_reload_takes_what_has_come_and_forgets_what_has_gone() {
    let pki = Pki::new();
    let (first, old, new) = (
        pki.server(&["first.test"]),
        pki.server(&["a.test"]),
        pki.server(&["a.test"]),
    );
    let builder = before(FOLDER);
    let certs = builder.dir().join("certs");
    first.write(&certs, "0");
    let gateway = builder.start().await;
    let shown = async || shown(&gateway, "a.test", pki.client(&[])).await;
    assert!(shown().await.is_err());
    certbot(&certs, "a.test", 1, &old);
    gateway.reload_to(FOLDER).await;
    assert_eq!(shown().await, Ok(old.der));
    certbot(&certs, "a.test", 2, &new);
    gateway.reload_to(FOLDER).await;
    assert_eq!(shown().await, Ok(new.der));
    let labels = [("certificate", "all/a.test/fullchain.pem")];
    let expiry = "northgate_certificate_expiry_timestamp_seconds";
    assert!(gateway.metrics().await.find(expiry, &labels).is_some());
    std::fs::remove_dir_all(certs.join("a.test")).expect("removed");
    gateway.reload_to(FOLDER).await;
    assert!(shown().await.is_err());
    assert!(gateway.metrics().await.find(expiry, &labels).is_none());
}

#[tokio::test]
async fn watch_sees_what_comes_into_a_folder_and_into_those_below() {
    let pki = Pki::new();
    let yaml = format!("watch: on\n{FOLDER}");
    let builder = before(&yaml);
    let certs = builder.dir().join("certs");
    pki.server(&["first.test"]).write(&certs, "0");
    let gateway = builder.start().await;
    let becomes = async |name: &str, wanted: &Identity| {
        while shown(&gateway, name, pki.client(&[])).await.as_deref() != Ok(&*wanted.der) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let patience = Duration::from_secs(30);
    let within = |what: &'static str| {
        move |done: Result<(), _>| {
            done.unwrap_or_else(|_: tokio::time::error::Elapsed| panic!("{what}"))
        }
    };
    let beside = pki.server(&["a.test"]);
    beside.write(&certs, "a");
    within("a new pair")(tokio::time::timeout(patience, becomes("a.test", &beside)).await);
    let below = pki.server(&["b.test"]);
    certbot(&certs, "b.test", 1, &below);
    within("a new folder")(tokio::time::timeout(patience, becomes("b.test", &below)).await);
    let renewed = pki.server(&["b.test"]);
    certbot(&certs, "b.test", 2, &renewed);
    within("a renewal")(tokio::time::timeout(patience, becomes("b.test", &renewed)).await);
}

#[tokio::test]
async fn what_is_half_written_refuses_the_reload_by_its_name() {
    let pki = Pki::new();
    let (first, a, other) = (
        pki.server(&["first.test"]),
        pki.server(&["a.test"]),
        pki.server(&["a.test"]),
    );
    let builder = before(FOLDER);
    let certs = builder.dir().join("certs");
    first.write(&certs, "0");
    let gateway = builder.start().await;
    let (pem, key) = (certs.join("a.pem"), certs.join("a.key"));
    let half = &a.certificate[..a.certificate.len() / 2];
    for (chain, secret, file, said) in [
        (
            Some(&*a.certificate),
            None,
            "a.pem",
            "there is no private key",
        ),
        (None, Some(&*a.key), "a.key", "has no certificate beside it"),
        (
            Some(&*a.certificate),
            Some(""),
            "a.key",
            "there is no private key",
        ),
        (Some(""), Some(&*a.key), "a.pem", "there is no certificate"),
        (Some(half), Some(&*a.key), "a.pem", "certificate"),
        (
            Some(&*a.certificate),
            Some(&*other.key),
            "a.key",
            "does not belong to the certificate",
        ),
    ] {
        for (path, text) in [(&pem, chain), (&key, secret)] {
            match text {
                Some(text) => write(path, text),
                None => drop(std::fs::remove_file(path)),
            }
        }
        let output = gateway.reload(FOLDER).await;
        assert_eq!(output.code, Some(78), "{said}: {output:?}");
        let told = format!("{}{}", output.stdout, output.stderr);
        assert!(told.contains(&format!("certs/{file}`")), "{file}: {told}");
        assert!(told.contains(said), "{said}: {told}");
        let certificate = shown(&gateway, "first.test", pki.client(&[])).await;
        assert_eq!(certificate.as_deref(), Ok(&*first.der), "the old ones stay");
    }
    write(&key, &a.key);
    gateway.reload_to(FOLDER).await;
    assert_eq!(shown(&gateway, "a.test", pki.client(&[])).await, Ok(a.der));
    std::fs::remove_dir_all(&certs).expect("removed");
    let output = gateway.reload(FOLDER).await;
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(
        output.stderr.contains("there is no such folder"),
        "{output:?}"
    );
}

/// A client that can verify keys of one kind: TLS 1.2 says so by its cipher suites.
fn verifying(pki: &Pki, rsa: bool) -> Arc<ClientConfig> {
    use rustls::crypto::aws_lc_rs::{self, cipher_suite};
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![match rsa {
        true => cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        false => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    }];
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(pki.pem().as_bytes()).expect("PEM");
    roots.add(authority).expect("an authority");
    let builder = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("TLS 1.2");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

#[tokio::test]
async fn of_two_certificates_for_one_name_each_client_gets_what_it_can_verify() {
    let pki = Pki::new();
    let (ecdsa, rsa) = (pki.server(&["a.test"]), pki.rsa_server(&["a.test"]));
    let builder = before(FOLDER);
    let certs = builder.dir().join("certs");
    ecdsa.write(&certs, "a.ecdsa");
    rsa.write(&certs, "a.rsa");
    let gateway = builder.start().await;
    for (is_rsa, wanted) in [(false, &ecdsa), (true, &rsa)] {
        let config = verifying(&pki, is_rsa);
        let connected = Client::connect_tls(gateway.port(8443), "a.test", config).await;
        let (mut client, facts) = connected.expect("a connection");
        assert_eq!(facts.certificate, wanted.der, "rsa: {is_rsa}");
        assert_eq!(
            client.get("a.test", "/").await.status(),
            204,
            "both are for this host"
        );
    }
}

#[tokio::test]
async fn clients_of_a_folders_names_may_be_asked_for_certificates_of_their_own() {
    let (pki, clients) = (Pki::new(), Pki::new());
    let yaml = r#"
listeners: {public: {address: "$address:8443", tls: {default: open}}}
certificates:
  open: {cert: "$dir/open.pem", key: "$dir/open.key"}
  partners: {dir: "$dir/certs", client_ca: {file: "$dir/clients.pem", required: on}}
routes: {all: {match: {path: /**}, respond: 204}}
"#;
    let builder = before(yaml).identity("open", &pki.server(&["*.a.test"]));
    let builder = builder.file("clients.pem", &clients.pem());
    pki.server(&["partners.a.test"])
        .write(&builder.dir().join("certs"), "partners");
    let gateway = builder.start().await;
    let good = clients.client_certificate("orders");
    for (name, identity, status) in [
        ("partners.a.test", Some(&good), Some(204)),
        ("partners.a.test", None, None),
        ("open.a.test", None, Some(204)),
    ] {
        let config = pki.client_showing(&["http/1.1"], identity);
        let status_of = async {
            let (mut client, _) = Client::connect_tls(gateway.port(8443), name, config)
                .await
                .ok()?;
            Some(client.try_get(name, "/").await.ok()?.status())
        };
        assert_eq!(status_of.await, status, "{name}");
    }
    // the wildcard covers the partners' name, and still is no way to it
    let config = pki.client(&["http/1.1"]);
    let connected = Client::connect_tls(gateway.port(8443), "open.a.test", config).await;
    let (mut client, _) = connected.expect("a connection");
    assert_eq!(client.get("partners.a.test", "/").await.status(), 421);
    assert_eq!(client.get("other.a.test", "/").await.status(), 204);
}
