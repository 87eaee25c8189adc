//! What is done against those who make others' browsers ask, and those who guess.

use crate::harness::{Call, Gateway, Origin, eventually};

const COOKIES: &str = r#"
secrets: {digests: "0123456789abcdef0123456789abcdef"}
access_log: {path: "-"}
consumers: {acme: {credentials: {api_key: {id: acme-1, key: a-key-of-another-maker-1}}}}
services: {app: {endpoints: "$app"}}
routes:
  cookie:
    match: {path: /cookie}
    service: app
    policies: {auth: {api_key: {cookie: key}, trusted_origins: ["https://app.example.net"]}}
  either:
    match: {path: /either}
    service: app
    policies: {auth: {any_of: [{api_key: {cookie: key}}, {api_key: {header: x-key}}], anonymous: allow}}
  both:
    match: {path: /both}
    service: app
    policies: {auth: {all_of: [{api_key: {cookie: key}}, {api_key: {header: x-key}}]}}
  socket:
    match: {path: /socket}
    service: app
    websocket: {origins: "*"}
    policies: {auth: {api_key: {cookie: key}}}
"#;

const KEY: &str = "a-key-of-another-maker-1";

fn with_cookie(gateway: &Gateway, line: &str) -> Call {
    let cookie = format!("key={KEY}");
    gateway
        .call(line)
        .host("example.com")
        .header("cookie", &cookie)
}

/// Waits until the access log has this.
async fn logged(gateway: &Gateway, wanted: &str) {
    eventually("a line in the access log", async || {
        gateway.stdout().contains(wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_page_of_another_site_can_not_act_with_a_cookie() {
    let app = Origin::echo().await;
    let gateway = Gateway::builder(COOKIES).with("app", &app).start().await;
    let post = || with_cookie(&gateway, "POST /cookie");
    for refused in [
        post().header("sec-fetch-site", "cross-site"),
        post().header("sec-fetch-site", "same-site"),
        post()
            .header("sec-fetch-site", "cross-site")
            .header("origin", "http://example.com"),
        post().header("origin", "http://evil.test"),
        post().header("origin", "null"),
        post().header("referer", "http://evil.test/http://example.com"),
        with_cookie(&gateway, "DELETE /cookie").header("origin", "http://sub.example.com"),
        with_cookie(&gateway, "POST /either").header("origin", "http://evil.test"),
        with_cookie(&gateway, "POST /both")
            .header("x-key", KEY)
            .header("origin", "http://evil.test"),
        // whatever the cookie is worth, it is not said
        gateway
            .call("POST /cookie")
            .header("cookie", "key=wrong")
            .header("origin", "http://evil.test"),
    ] {
        let answer = refused.send().await;
        assert_eq!(
            (answer.status(), answer.problem()),
            (403, "auth.cross_site".to_owned())
        );
        assert!(answer.headers("www-authenticate").is_empty());
    }
    assert_eq!(app.received().len(), 0);
    let labels = [("reason", "auth.cross_site")];
    gateway
        .counts("northgate_auth_refused_total", &labels, 10.0)
        .await;
    logged(&gateway, r#""reason":"auth.cross_site""#).await;
}

#[tokio::test]
async fn own_pages_trusted_ones_and_clients_that_are_no_browsers_can() {
    let app = Origin::echo().await;
    let gateway = Gateway::builder(COOKIES).with("app", &app).start().await;
    let post = || with_cookie(&gateway, "POST /cookie");
    for accepted in [
        post(),
        post()
            .header("sec-fetch-site", "same-origin")
            .header("origin", "null"),
        post().header("sec-fetch-site", "none"),
        post().header("origin", "http://example.com"),
        post().header("origin", "https://example.com"),
        post().header("referer", "http://example.com/form?a=b"),
        post()
            .header("sec-fetch-site", "cross-site")
            .header("origin", "https://app.example.net"),
        post().header("origin", "https://app.example.net"),
        with_cookie(&gateway, "GET /cookie").header("sec-fetch-site", "cross-site"),
        // a page can't add a header of its own without asking, and then it is no cookie that decides
        gateway
            .call("POST /either")
            .header("x-key", KEY)
            .header("origin", "http://evil.test"),
        gateway
            .call("POST /either")
            .header("origin", "http://evil.test"),
    ] {
        assert_eq!(accepted.send().await.status(), 200);
    }
}

#[tokio::test]
async fn a_page_of_another_site_opens_no_websocket_with_a_cookie() {
    let app = Origin::echo().await;
    let gateway = Gateway::builder(COOKIES).with("app", &app).start().await;
    let open = |origin: &str| {
        with_cookie(&gateway, "GET /socket")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("origin", origin)
    };
    let refused = open("http://evil.test").send().await;
    assert_eq!(
        (refused.status(), refused.problem()),
        (403, "auth.cross_site".to_owned())
    );
    assert_eq!(app.received().len(), 0);
    assert_eq!(open("http://example.com").send().await.status(), 200);
}

#[tokio::test]
async fn explain_says_that_a_request_comes_from_another_site() {
    let app = Origin::echo().await;
    let gateway = Gateway::builder(COOKIES).with("app", &app).start().await;
    let cookie = format!("Cookie: key={KEY}");
    let arguments = [
        "explain",
        "POST",
        "/cookie",
        "-H",
        &cookie,
        "-H",
        "Origin: null",
    ];
    let output = gateway.command(&arguments).await;
    assert!(output.stdout.contains("auth.cross_site"), "{output:?}");
    assert!(!output.stdout.contains(KEY), "{output:?}");
}
