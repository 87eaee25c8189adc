//! What the gateway says itself (design 8).

use crate::harness::{Gateway, Http2, Message, Origin};

const YAML: &str = r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
services: {gone: {endpoints: "$app"}}
routes:
  post: {match: {path: /post, method: POST}, respond: 200}
  denied: {match: {path: /denied}, respond: 200, policies: {ip_filter: {allow: 192.0.2.0/24}}}
  gone: {match: {path: /gone}, service: gone}
"#;

async fn gateway() -> Gateway {
    let closed = Origin::echo().await;
    let address = closed.address().to_owned();
    drop(closed);
    Gateway::before(&address, YAML).await
}

#[tokio::test]
async fn a_refusal_is_a_problem_document_with_a_stable_code() {
    let gateway = gateway().await;
    let mut h2 = Http2::connect(gateway.public()).await;
    for (target, status, code) in [
        ("/none", 404, "route.none"),
        ("/post", 405, "route.method"),
        ("/denied", 403, "ip_filter.denied"),
        ("/a%5cb", 400, "request.path"),
        ("/gone", 502, "upstream.connect"),
    ] {
        for response in [
            gateway.get(target).await,
            h2.get(&format!("http://h.test{target}")).await,
        ] {
            assert_eq!(response.status(), status, "{target}");
            assert_eq!(response.problem(), code, "{target}");
            let problem = response.json();
            let kind = problem["type"].as_str().expect("a type");
            assert!(kind.ends_with(code), "{kind}");
            assert_eq!(
                problem["instance"].as_str(),
                response.header("x-request-id"),
                "{target}"
            );
            assert_eq!(
                response.header("cache-control"),
                Some("no-store"),
                "{target}"
            );
        }
    }
}

#[tokio::test]
async fn a_browser_that_asks_for_html_gets_html() {
    let gateway = gateway().await;
    let accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let response = gateway
        .call("GET /none")
        .header("Accept", accept)
        .send()
        .await;
    assert_eq!(response.status(), 404);
    let kind = response.header("content-type").expect("a type");
    assert!(kind.starts_with("text/html"), "{kind}");
    let id = response.header("x-request-id").expect("an id");
    assert!(response.text().contains(id), "{response:?}");
    for accept in [
        "application/json",
        "*/*",
        "application/problem+json, text/html;q=0.5",
        "text/html;q=0, */*",
        "text/html;q=x",
    ] {
        let response = gateway
            .call("GET /none")
            .header("Accept", accept)
            .send()
            .await;
        assert_eq!(response.problem(), "route.none", "{accept}");
    }
}

/// Pingora answers by itself, without an id and in nobody's log, what its parser does not take.
#[tokio::test]
async fn every_byte_in_a_target_is_answered_by_the_gateway() {
    let gateway = gateway().await;
    let before = gateway.metrics().await;
    let mut refused = 0.0;
    for (target, bytes) in [
        ("/none/@", "<>`\"|{}^[]\\%"),
        ("/none?x=@", "<>`\"|{}^[]\\%"),
        ("http://a@/none", "%<>`\"|{}^[]\\"),
    ] {
        for byte in bytes.chars() {
            let target = target.replace('@', &byte.to_string());
            let host = match target.starts_with("http") {
                true => format!("a{byte}"),
                false => "a".into(),
            };
            let mut client = gateway.client().await;
            client
                .send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
                .await;
            let response = client.response("GET").await;
            let code = response.problem();
            assert_eq!(response.header("server"), Some("northgate"), "{target}");
            assert!(response.header("x-request-id").is_some(), "{target}");
            assert!(
                [
                    "route.none",
                    "request.target",
                    "request.host",
                    "request.path"
                ]
                .contains(&&*code),
                "{target}: {code}"
            );
            refused += 1.0;
        }
    }
    let total = "northgate_refused_total";
    let counted = gateway.metrics().await.value(total, &[]) - before.value(total, &[]);
    assert_eq!(counted, refused);
}

#[tokio::test]
async fn nothing_that_a_client_sends_becomes_markup() {
    let gateway = gateway().await;
    let response = gateway
        .call("GET /%3Cscript%3Ealert(1)%3C/script%3E'\"")
        .header("Accept", "text/html")
        .send()
        .await;
    assert!(!response.text().contains("<script>alert"), "{response:?}");
}

#[tokio::test]
async fn an_answer_to_head_has_the_fields_of_get_and_no_body() {
    let gateway = gateway().await;
    let get = gateway.get("/none").await;
    let mut client = gateway.client().await;
    client
        .send("HEAD /none HTTP/1.1\r\nHost: example.test\r\n\r\n")
        .await;
    let head = client.response("HEAD").await;
    assert_eq!(head.status(), 404);
    assert_eq!(head.header("content-type"), get.header("content-type"));
    assert_eq!(head.header("content-length"), get.header("content-length"));
    // had there been a body, it would stand where the next answer begins
    assert_eq!(client.get("example.test", "/none").await.status(), 404);
}

#[tokio::test]
async fn refusals_keep_the_connection_unless_what_follows_is_unclear() {
    let gateway = gateway().await;
    let mut client = gateway.client().await;
    for target in ["/none", "/post", "/denied", "/a%5cb", "/none"] {
        let response = client.get("example.test", target).await;
        assert!((400..500).contains(&response.status()), "{target}");
        assert_ne!(response.header("connection"), Some("close"), "{target}");
    }
    // an unread body is drained
    let body = "x".repeat(10_000);
    client
        .send(format!(
            "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    assert_eq!(client.response("POST").await.status(), 404);
    assert_eq!(client.get("example.test", "/denied").await.status(), 403);
}

#[tokio::test]
async fn the_body_of_a_refused_request_is_never_a_request() {
    let gateway = gateway().await;
    let inner = "GET /denied HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = gateway.client().await;
    client
        .send(format!(
            "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}",
            inner.len()
        ))
        .await;
    assert_eq!(client.response("POST").await.status(), 404);
    if let Ok(next) = client.try_get("a", "/post").await {
        assert_eq!(next.status(), 405, "{next:?}");
    }
}

#[tokio::test]
async fn proxy_status_tells_the_gateways_errors_from_an_origins() {
    let origin =
        Origin::start(|_| crate::harness::Reply::status(502, &[], "the origin's own")).await;
    let gateway = Gateway::before(&origin, YAML).await;
    let theirs = gateway.get("/gone").await;
    assert_eq!((theirs.status(), theirs.text()), (502, "the origin's own"));
    assert!(
        theirs
            .header("proxy-status")
            .is_none_or(|status| !status.contains("error="))
    );
    drop(origin);
    let ours = crate::harness::eventually("the gateway's own 502", async || {
        let response: Message = gateway.get("/gone").await;
        (response.text() != "the origin's own").then_some(response)
    })
    .await;
    let status = ours.header("proxy-status").expect("Proxy-Status");
    assert!(status.contains("error="), "{status}");
    assert!(!status.contains("127."), "{status}");
}

#[tokio::test]
async fn no_answer_names_the_software_version() {
    let gateway = gateway().await;
    for target in ["/none", "/denied", "/gone"] {
        let response = gateway.get(target).await;
        let server = response.header("server").unwrap_or_default();
        assert!(
            !server.contains(|letter: char| letter.is_ascii_digit()),
            "{server}"
        );
        assert!(!server.to_ascii_lowercase().contains("pingora"), "{server}");
    }
}

#[tokio::test]
async fn every_response_carries_a_request_id() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, YAML).await;
    let mut seen = std::collections::HashSet::new();
    for target in ["/none", "/gone", "/denied", "/post"] {
        let response = gateway.get(target).await;
        assert!(seen.insert(response.header("x-request-id").expect("an id").to_owned()));
    }
}

/// A client that leaves while it is told something is no defect, and nothing to wake anybody for.
#[tokio::test]
async fn a_client_that_leaves_in_our_own_answer_is_no_internal_error() {
    let body = "x".repeat(8 << 20);
    let yaml = format!("routes: {{all: {{match: {{path: /**}}, respond: {{body: {body}}}}}}}\n");
    let gateway = Gateway::start(&yaml).await;
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: h.test\r\n\r\n").await;
    // the answer has begun, and is larger than what the sockets hold
    client.head().await;
    client.reset();
    let counted = [("route", "all"), ("status", "200")];
    let metrics = gateway.counts("northgate_requests_total", &counted, 1.0);
    let internal = [("reason", "gateway.internal")];
    assert_eq!(
        metrics.await.find("northgate_refused_total", &internal),
        Some(0.0)
    );
}
