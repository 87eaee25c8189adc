//! The harness itself: clients and origins face to face, without a gateway between them.

use super::{Call, Client, Origin, Pki, Reply};
use std::net::SocketAddr;

fn address(origin: &Origin) -> SocketAddr {
    origin.address().parse().expect("an address")
}

#[tokio::test]
async fn an_origin_records_what_it_got_and_answers_by_its_script() {
    let origin = Origin::echo().await;
    let mut client = Client::connect(address(&origin)).await;
    for n in 0..3 {
        let response = client.get("a.test", &format!("/{n}")).await;
        assert_eq!(response.json()["target"], format!("/{n}"));
    }
    client
        .send("POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n")
        .await;
    assert_eq!(client.response("POST").await.json()["body"], "hello");
    let received = origin.received();
    assert_eq!((received.len(), received[3].earlier), (4, 3));
    assert_eq!(received[3].trailers, [("X-T".to_owned(), "1".to_owned())]);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn an_origin_notices_a_stray_chunk_terminator() {
    let origin = Origin::echo().await.lenient();
    let mut client = Client::connect(address(&origin)).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n0\r\n\r\n")
        .await;
    assert_eq!(client.response("POST").await.status(), 200);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.response("GET").await.status(), 400);
    assert_eq!(origin.violations().len(), 1);
}

#[tokio::test]
async fn an_origin_notices_what_must_not_reach_it() {
    for wrong in [
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
    ] {
        let origin = Origin::echo().await.lenient();
        let mut client = Client::connect(address(&origin)).await;
        client.send(wrong).await;
        assert_eq!(client.response("GET").await.status(), 400, "{wrong:?}");
        assert_eq!(origin.violations().len(), 1, "{wrong:?}");
    }
}

#[tokio::test]
async fn a_client_sees_a_body_that_breaks_off() {
    let origin = Origin::start(|request| match request.target() {
        "/reset" => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").then_reset(),
        "/chunk" => Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf")
            .then_close(),
        "/none" => Reply::close(),
        _ => Reply::chunked(&[], &["who", "le"]),
    })
    .await;
    for (target, complete) in [("/reset", false), ("/chunk", false), ("/whole", true)] {
        let response = Call::new(address(&origin), &format!("GET {target}"))
            .send()
            .await;
        assert_eq!(response.complete, complete, "{target}");
    }
    assert!(
        Call::new(address(&origin), "GET /none")
            .try_send()
            .await
            .is_err()
    );
}

#[tokio::test]
async fn an_answer_may_come_before_the_body() {
    let origin = Origin::at_head(|_| Reply::status(413, &[], "").then_close()).await;
    let mut client = Client::connect(address(&origin)).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
        .await;
    assert_eq!(client.response("POST").await.status(), 413);
}

#[tokio::test]
async fn an_origin_may_be_a_unix_socket() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("origin.sock");
    let _origin = Origin::unix(&path, Reply::echo).await;
    let response = Call::unix(&path, "GET /x").send().await;
    assert_eq!(response.json()["target"], "/x");
}

#[test]
fn certificates_are_trusted_by_the_clients_of_their_authority() {
    let pki = Pki::new();
    let identity = pki.server(&["a.test", "*.b.test"]);
    assert!(
        identity
            .certificate
            .starts_with("-----BEGIN CERTIFICATE-----")
    );
    assert!(identity.key.contains("PRIVATE KEY"));
    assert_eq!(pki.client(&["h2"]).alpn_protocols, [b"h2"]);
}
