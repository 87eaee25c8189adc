//! Requests that come back to a gateway that has sent them (RFC 9110 §7.6.3).

use crate::harness::{Gateway, Http2, Origin};

const ONE: &str = r#"
access_log: {path: "$dir/access.log"}
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
services: {app: {endpoints: "$app", retries: off}}
routes: {all: {match: {path: /**}, service: app}}
"#;

#[tokio::test]
async fn a_request_that_goes_round_through_another_gateway_is_508_at_once() {
    let mut first = Gateway::builder(ONE);
    first = first.with("app", "127.0.0.1:1");
    let mut first = first.start().await;
    let second = Gateway::before(&first.public(), ONE).await;
    first.set("app", second.public());
    first.reload_to(ONE).await;
    let answer = first.get("/x").await;
    assert_eq!(answer.status(), 508);
    assert_eq!(answer.problem(), "gateway.loop");
    // over HTTP/2 too
    let mut h2 = Http2::connect(first.public()).await;
    let answer = h2.get("http://h.test/x").await;
    assert_eq!(answer.json()["code"], "gateway.loop");
    let refused = [("reason", "gateway.loop")];
    let metrics = first.counts("northgate_refused_total", &refused, 2.0).await;
    // each was sent on once, and once more it was refused
    assert_eq!(metrics.value("northgate_requests_total", &[]), 4.0);
    let metrics = second.counts("northgate_requests_total", &[], 2.0).await;
    assert_eq!(metrics.value("northgate_requests_total", &[]), 2.0);
}

#[tokio::test]
async fn endpoints_are_told_of_every_gateway_on_the_way_and_a_row_of_them_is_no_loop() {
    let origin = Origin::echo().await;
    let inner = Gateway::before(&origin, ONE).await;
    let outer = Gateway::before(&inner.public(), &format!("via: outer\n{ONE}")).await;
    let call = outer.call("GET /").header("Via", "1.0 fred (a proxy)");
    let answer = call.send().await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("via"), None, "clients are told nothing");
    let received = origin.only();
    let via = received.headers("via");
    assert_eq!(via[..2], ["1.0 fred (a proxy)", "1.1 outer"]);
    assert!(via[2].starts_with("1.1 northgate-"), "{via:?}");
    let mut h2 = Http2::connect(outer.public()).await;
    assert_eq!(h2.get("http://h.test/").await.status(), 200);
    assert_eq!(origin.last().headers("via")[0], "2.0 outer");
}

#[tokio::test]
async fn the_name_of_a_gateway_stays_over_reloads_and_may_be_left_out() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, ONE).await;
    gateway.get("/").await;
    gateway
        .reload_to(&ONE.replace("retries: off", "retries: {attempts: 2}"))
        .await;
    gateway.get("/").await;
    let received = origin.received();
    assert_eq!(received[0].headers("via"), received[1].headers("via"));
    gateway.reload_to(&format!("via: off\n{ONE}")).await;
    let call = gateway.call("GET /").header("Via", "1.1 fred");
    assert_eq!(call.send().await.status(), 200);
    assert_eq!(origin.last().headers("via"), ["1.1 fred"]);
}
