//! How connections to endpoints are made: how long that may take, what is said at their beginning, how many there may be.

use crate::harness::{Gateway, Http2Origin, Pki, describe, loopback};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// An endpoint that accepts and then says nothing, ever.
async fn silent() -> SocketAddr {
    let listener = TcpListener::bind((loopback(), 0)).await.expect("a listener");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok(accepted) = listener.accept().await {
            kept.push(accepted);
        }
    });
    address
}

mod handshakes {
    use super::*;

    #[tokio::test]
    async fn an_endpoint_that_never_shakes_hands_is_given_up_and_another_one_asked() {
        let pki = Pki::new();
        let tls = Pki::acceptor(&pki.server(&["app.test"]), &["http/1.1"], None);
        let good = Http2Origin::secure(tls, |mut exchange| async move {
            let body = describe(&exchange.peer);
            exchange.answer(&[], &body, &[]);
        })
        .await;
        let yaml = r#"
listeners: {public: {address: "$address:8080"}}
services:
  alone:
    endpoints: "$silent"
    tls: {server_name: app.test, ca: ca.pem}
    timeouts: {connect: 20s, tls: 300ms}
    retries: off
    outlier: off
  both:
    endpoints: ["$silent", {address: "$good"}]
    balance: round_robin
    tls: {server_name: app.test, ca: ca.pem}
    timeouts: {connect: 20s, tls: 300ms}
    outlier: off
  patient:
    endpoints: "$silent"
    tls: {server_name: app.test, ca: ca.pem}
    timeouts: {connect: 100ms, tls: 20s, total: 1s}
    retries: off
    outlier: off
routes:
  alone: {match: {path: /alone}, service: alone}
  route: {match: {path: /route}, service: patient, timeouts: {tls: 300ms}}
  both: {match: {path: /both}, service: both}
  patient: {match: {path: /patient}, service: patient}
"#;
        let gateway = Gateway::builder(yaml)
            .with("silent", silent().await)
            .with("good", &good)
            .file("ca.pem", &pki.pem())
            .start()
            .await;
        for target in ["/alone", "/route"] {
            let began = Instant::now();
            let answer = gateway.get(target).await;
            let took = began.elapsed();
            assert_eq!(answer.status(), 504, "{target}");
            assert_eq!(answer.problem(), "upstream.connect_timeout", "{target}");
            assert!(took >= Duration::from_millis(300), "{target}: {took:?}");
            assert!(took < Duration::from_secs(5), "{target}: {took:?}");
        }
        // each of them is the first choice once
        for _ in 0..2 {
            let answer = gateway.get("/both").await;
            assert_eq!(answer.json()["server_name"], "app.test");
        }
        // a short bound for TCP is none for TLS
        let began = Instant::now();
        assert_eq!(gateway.get("/patient").await.status(), 504);
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(900), "{took:?}");
    }
}
