//! TLS: certificates by name, replaced while connections live, and handshakes that fail.

use super::http2::{client, exchange};
use super::*;
use crate::tls::{Alpn, Certificate, Certificates, Oldest, Tickets, TlsListener, TlsSettings};
use pingora_core::tls::{ClientTlsStream, TlsConnector};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

/// A certificate of its own authority.
struct Identity {
    certificate: Arc<Certificate>,
    der: CertificateDer<'static>,
}

fn identity(hosts: &[&str]) -> Identity {
    let key = KeyPair::generate().unwrap();
    let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let made = CertificateParams::new(hosts.clone())
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let (chain, key) = (made.pem(), key.serialize_pem());
    let certificate =
        Certificate::from_pem(hosts[0].as_str().into(), chain.as_bytes(), key.as_bytes()).unwrap();
    Identity {
        certificate: Arc::new(certificate),
        der: made.der().clone(),
    }
}

fn secured(identities: &[&Identity]) -> ListenerSpec {
    let all = identities
        .iter()
        .map(|one| one.certificate.clone())
        .collect();
    let certificates = Arc::new(Certificates::new(all, None).unwrap());
    let settings = TlsSettings {
        listener: "web",
        certificates,
        alpn: Alpn::H2H1,
        oldest: Oldest::default(),
    };
    let tls = TlsListener::new(settings, &Tickets::new().unwrap(), None).unwrap();
    let mut spec = web();
    spec.facts = Arc::new(ListenerFacts::new("web".into(), true));
    spec.tls = Some(Arc::new(tls));
    spec
}

/// A client that trusts these and nothing else.
fn trusting(identities: &[&Identity], alpn: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for identity in identities {
        roots.add(identity.der.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn handshake(
    edge: &Running<Echo>,
    connector: &TlsConnector,
    host: &str,
) -> std::io::Result<ClientTlsStream<TcpStream>> {
    let host = ServerName::try_from(host.to_owned()).unwrap();
    timeout(PATIENCE, connector.connect(host, edge.connect().await))
        .await
        .unwrap()
}

#[tokio::test]
async fn the_server_name_chooses_the_certificate() {
    let (one, two) = (
        identity(&["one.example"]),
        identity(&["*.two.example", "two.example"]),
    );
    let edge = echoing(secured(&[&one, &two]));
    for (trusted, host) in [
        (&one, "one.example"),
        (&two, "two.example"),
        (&two, "a.two.example"),
        (&one, "one.example"),
    ] {
        let connector = trusting(&[trusted], &["http/1.1"]);
        let mut client = handshake(&edge, &connector, host).await.unwrap();
        for _ in 0..3 {
            let (status, keeps, facts) = ask(&mut client, &get("/facts")).await;
            assert_eq!((status, keeps), (200, true));
            assert!(
                facts.contains(&format!(
                    "server_name: Some({host:?}), version: \"TLSv1.3\""
                )),
                "{facts}"
            );
        }
    }
    let unknown = handshake(&edge, &trusting(&[&two], &[]), "b.a.two.example").await;
    assert!(
        unknown.is_err(),
        "a wildcard stands for one label, and the default is another"
    );
}

#[tokio::test]
async fn the_protocol_is_the_one_that_was_negotiated() {
    let one = identity(&["one.example"]);
    let edge = echoing(secured(&[&one]));
    let stream = handshake(
        &edge,
        &trusting(&[&one], &["h2", "http/1.1"]),
        "one.example",
    )
    .await
    .unwrap();
    let (sender, _) = client(stream).await;
    assert_eq!(
        exchange(&sender, "/x", b"abc").await.unwrap(),
        (200, "POST /x 3".into())
    );
    assert_eq!(
        exchange(&sender, "/large", b"").await.unwrap().1.len(),
        3 << 20
    );
    let mut plain = handshake(&edge, &trusting(&[&one], &[]), "one.example")
        .await
        .unwrap();
    assert_eq!(ask(&mut plain, &get("/large")).await.2.len(), 3 << 20);
    assert_eq!(
        ask(&mut plain, &(get("/1") + &get("/2"))).await.2,
        "GET /1 0"
    );
    assert_eq!(answer(&mut plain).await.2, "GET /2 0");
}

#[tokio::test]
async fn a_client_that_has_not_begun_to_speak_http2_does_not_hold_a_drain_up() {
    let one = identity(&["one.example"]);
    let edge = echoing(secured(&[&one]));
    let _silent = handshake(&edge, &trusting(&[&one], &["h2"]), "one.example")
        .await
        .unwrap();
    edge.until(|edge| edge.counts.handshakes_finished.lock().len() == 1)
        .await;
    edge.control.drain();
    timeout(PATIENCE / 3, edge.control.drained()).await.unwrap();
}

#[tokio::test]
async fn certificates_are_replaced_without_dropping_a_connection() {
    let (old, new) = (identity(&["one.example"]), identity(&["one.example"]));
    let edge = echoing(secured(&[&old]));
    let mut before = handshake(&edge, &trusting(&[&old], &[]), "one.example")
        .await
        .unwrap();
    ask(&mut before, &get("/")).await;
    edge.change(vec![secured(&[&new])]);
    let mut after = handshake(&edge, &trusting(&[&new], &[]), "one.example")
        .await
        .unwrap();
    assert_eq!(ask(&mut after, &get("/")).await.0, 200);
    assert_eq!(ask(&mut before, &get("/")).await.0, 200);
}

#[tokio::test]
async fn a_handshake_that_fails_is_counted_by_its_reason() {
    let (one, other) = (identity(&["one.example"]), identity(&["one.example"]));
    let mut spec = secured(&[&one]);
    spec.limits.handshake = Duration::from_millis(200);
    let edge = echoing(spec);

    let mut plain = edge.connect().await;
    plain.write_all(get("/").as_bytes()).await.unwrap();
    let mut alert = Vec::new();
    let _ = timeout(PATIENCE, plain.read_to_end(&mut alert))
        .await
        .unwrap();
    edge.until(|edge| edge.control.connections() == 0).await;

    assert!(
        handshake(&edge, &trusting(&[&other], &[]), "one.example")
            .await
            .is_err()
    );
    edge.until(|edge| edge.control.connections() == 0).await;

    assert!(
        handshake(&edge, &trusting(&[&one], &["spdy/1"]), "one.example")
            .await
            .is_err()
    );
    edge.until(|edge| edge.control.connections() == 0).await;

    drop(edge.connect().await);
    edge.until(|edge| edge.counts.closed.load(Ordering::Relaxed) == 4)
        .await;

    assert_eq!(rest(&mut edge.connect().await).await, "");
    edge.until(|edge| edge.counts.closed.load(Ordering::Relaxed) == 5)
        .await;

    // from the accept to the end: bytes that drip in don't put it off
    let mut slow = edge.connect().await;
    slow.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
    let drip = async {
        while slow.write_all(&[1]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, drip).await.unwrap();
    edge.until(|edge| edge.counts.closed.load(Ordering::Relaxed) == 6)
        .await;

    use HandshakeFailure::*;
    assert_eq!(
        *edge.counts.handshakes_failed.lock(),
        [NotTls, Alert, NothingInCommon, Closed, Timeout, Timeout]
    );
}

#[tokio::test]
async fn a_client_that_says_goodbye_gets_its_answer() {
    let one = identity(&["one.example"]);
    let edge = echoing(secured(&[&one]));
    let connector = trusting(&[&one], &["http/1.1"]);
    let mut client = handshake(&edge, &connector, "one.example").await.unwrap();
    client.write_all(get("/gated").as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    edge.until(|edge| edge.app.waiting.load(Ordering::Relaxed) == 1)
        .await;
    edge.app.gate.add_permits(1);
    assert_eq!(answer(&mut client).await.2, "GET /gated 0");
}

#[tokio::test]
async fn a_goodbye_and_more_at_the_end_of_a_handshake_end_it_and_nothing_else() {
    let one = identity(&["one.example"]);
    let edge = echoing(secured(&[&one]));
    let connector = trusting(&[&one], &["http/1.1"]);
    let name = ServerName::try_from("one.example").unwrap();
    let mut client = rustls::ClientConnection::new(connector.config().clone(), name).unwrap();
    let mut socket = edge.connect().await;
    while client.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        socket.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; 16384];
        let read = socket.read(&mut answer).await.unwrap();
        let mut answer = answer.get(..read).unwrap();
        while !answer.is_empty() {
            client.read_tls(&mut answer).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    client.send_close_notify();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes.extend_from_slice(&[23; 100]);
    socket.write_all(&bytes).await.unwrap();
    let mut rest = Vec::new();
    let end = socket.read_to_end(&mut rest);
    let _ = timeout(PATIENCE, end).await.unwrap();
    let mut another = handshake(&edge, &connector, "one.example").await.unwrap();
    assert_eq!(ask(&mut another, &get("/")).await.0, 200);
}
