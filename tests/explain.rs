//! `northgate explain`: what would happen to a request, and why, by the code that would do it.

use crate::harness::{Gateway, Issuer, Mood, Pki, northgate};
use serde_json::{Value, json};

const YAML: &str = r#"
policies: {headers: {response: {set: {x-a: b}}}}
routes:
  orders:
    match: {host: shop.test, path: "/orders/{id}", method: GET}
    respond: 204
    policies: {ip_filter: {deny: 192.0.2.0/24}}
  beta: {match: {host: shop.test, path: "/orders/{id}", header: {x-beta: "1"}}, priority: 1, respond: 205}
  rest: {match: {path: /**}, respond: 404}
"#;

#[tokio::test]
async fn explain_names_the_route_the_nearest_others_and_the_chain() {
    let gateway = Gateway::start(YAML).await;
    let config = gateway.config().display().to_string();
    let url = "http://SHOP.test/orders/./7?x=1";
    let output = northgate(&["explain", "-c", &config, "GET", url]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    for part in [
        "/orders/7",
        "shop.test",
        "orders",
        "beta",
        "x-beta",
        "ip_filter",
        "headers",
    ] {
        assert!(
            output.stdout.contains(part),
            "{part} is missing in\n{}",
            output.stdout
        );
    }
    let beta = northgate(&[
        "explain",
        "-c",
        &config,
        "GET",
        url,
        "-H",
        "X-Beta: 1",
        "--format",
        "json",
    ])
    .await;
    let beta: Value =
        serde_json::from_str(&beta.stdout).unwrap_or_else(|error| panic!("{error} in {beta:?}"));
    assert_eq!(
        beta["route"]["name"].as_str().or(beta["route"].as_str()),
        Some("beta"),
        "{beta}"
    );
}

#[tokio::test]
async fn explain_says_why_a_request_is_refused() {
    let gateway = Gateway::start(YAML).await;
    let config = gateway.config().display().to_string();
    let output = northgate(&["explain", "-c", &config, "GET", "http://shop.test/a%5cb"]).await;
    assert!(output.stdout.contains("request.path"), "{output:?}");
}

#[tokio::test]
async fn explain_says_what_the_policies_decide_and_what_is_sent_on() {
    let yaml = r#"
services: {app: {endpoints: 127.0.0.1:9000}}
policies: {ip_filter: {deny: 192.0.2.0/24}}
routes: {all: {match: {path: "/x/{id}"}, service: app, rewrite: {path: "/internal/{path.id}"}}}
"#;
    let gateway = Gateway::start(yaml).await;
    let allowed = gateway.command(&["explain", "GET", "/x/7?a=b"]).await;
    assert!(
        allowed.stdout.contains("sent on    /internal/7?a=b"),
        "{allowed:?}"
    );
    let denied = gateway
        .command(&["explain", "--from", "192.0.2.4", "GET", "/x/7"])
        .await;
    assert!(
        denied.stdout.contains("denied     403 by top/ip_filter"),
        "{denied:?}"
    );
    assert!(!denied.stdout.contains("target"), "{denied:?}");
}

/// As a client does, which asks for the host of the URL in its handshake; with another name it is misdirected.
#[tokio::test]
async fn explain_makes_the_handshake_that_the_url_asks_for() {
    let pki = Pki::new();
    let yaml = r#"
listeners: {public: {address: "$address:8443", tls: {default: a}}}
certificates: {a: {cert: a.pem, key: a.key}, b: {cert: b.pem, key: b.key}}
routes: {all: {match: {path: /**}, respond: 204}}
"#;
    let gateway = Gateway::builder(yaml)
        .identity("a", &pki.server(&["a.test"]))
        .identity("b", &pki.server(&["b.test"]))
        .start()
        .await;
    let config = gateway.config().display().to_string();
    for (url, host, status) in [
        ("https://a.test/", None, None),
        ("https://B.test:8443/", None, None),
        ("https://127.0.0.1/", None, None),
        ("/", Some("host: b.test"), None),
        ("https://a.test/", Some("host: b.test"), Some(421)),
    ] {
        let mut arguments = vec!["explain", "-c", &config, "--format", "json", "GET", url];
        arguments.extend(host.iter().flat_map(|host| ["-H", host]));
        let output = northgate(&arguments).await;
        let explained: Value = serde_json::from_str(&output.stdout)
            .unwrap_or_else(|error| panic!("{error} in {output:?}"));
        assert_eq!(
            explained["outcome"]["refused"].as_u64(),
            status,
            "{url} {host:?}: {explained}"
        );
    }
}

#[tokio::test]
async fn explain_takes_the_whole_of_a_url_and_no_other_scheme() {
    let gateway = Gateway::start(
        r#"
services:
  one: {endpoints: 127.0.0.1:9000}
  two: {endpoints: 127.0.0.1:9001}
  both: {split: [{service: two, when: {query: {v: "2"}}}, {service: one}]}
routes:
  all: {match: {path: /**}, service: both}
"#,
    )
    .await;
    let config = gateway.config().display().to_string();
    let output = northgate(&["explain", "-c", &config, "GET", "http://h.test?v=2"]).await;
    assert!(output.stdout.contains("http://h.test/?v=2"), "{output:?}");
    assert!(
        output.stdout.contains("service two") && !output.stdout.contains("one"),
        "the arm that its `when` chooses: {output:?}"
    );
    for url in ["ftp://h.test/", "h.test/x"] {
        let output = northgate(&["explain", "-c", &config, "GET", url]).await;
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(
            output.stderr.contains("neither a path nor a URL"),
            "{output:?}"
        );
    }
}

#[tokio::test]
async fn explain_says_where_a_redirect_leads() {
    let gateway = Gateway::start(
        r#"
routes:
  moved: {match: {path: "/old/{page}"}, redirect: {to: "https://new.test/{path.page}?q={query.q}", status: 301}}
"#,
    )
    .await;
    let config = gateway.config().display().to_string();
    let explain = async |url| northgate(&["explain", "-c", &config, "GET", url]).await;
    let output = explain("/old/a?q=b").await;
    let target = "redirect 301 to https://new.test/a?q=b\n";
    assert!(output.stdout.contains(target), "{output:?}");
    // without the fact there is no such place, and the client is told so
    let response = gateway.get("/old/a").await;
    assert_eq!(response.problem(), "request.target");
    assert!(response.text().contains("lacks a part"), "{response:?}");
}

#[tokio::test]
async fn explain_fetches_the_keys_that_a_token_needs() {
    let issuer = Issuer::start().await;
    let builder = Gateway::builder(
        r#"
issuers: {idp: {issuer: "$issuer", audience: orders, consumer: azp}}
policies: {auth: {jwt: idp}}
routes: {all: {match: {path: /**}, respond: 204}}
"#,
    );
    let gateway = builder.with("issuer", issuer.url()).start().await;
    let config = gateway.config().display().to_string();
    let explained = async |token: &str| {
        let field = format!("Authorization: Bearer {token}");
        let output = northgate(&[
            "explain",
            "-c",
            &config,
            "GET",
            "http://a.test/a",
            "-H",
            &field,
        ])
        .await;
        output.stdout
    };
    let good = explained(&issuer.token(json!({"azp": "acme"}))).await;
    assert!(good.contains("consumer acme"), "{good}");
    let over = explained(&issuer.token(json!({"exp": 1}))).await;
    assert!(over.contains("auth.jwt.expired"), "{over}");
    issuer.is(Mood::Down);
    let none = explained(&issuer.token(json!({}))).await;
    assert!(
        none.contains("unready.keys") && none.contains("discovery document"),
        "{none}"
    );
}
