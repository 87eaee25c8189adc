//! What is done against those who make others' browsers ask, and those who guess.

use crate::harness::{Call, Gateway, GatewayBuilder, Origin, eventually};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

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

/// Clients are told apart by what a trusted proxy says of them.
const GUESSES: &str = r#"
secrets: {digests: "0123456789abcdef0123456789abcdef"}
access_log: {path: "-"}
trusted_proxies: 127.0.0.0/8
consumers:
  acme: {credentials: {api_key: {id: acme-1, key: a-key-of-another-maker-1}}}
  anna: {credentials: {basic: {hash: "$hash"}}}
services: {app: {endpoints: "$app"}}
policies: {auth: {any_of: [{basic: on}, {api_key: on}]}}
routes:
  all: {match: {path: /**}, service: app}
  own: {match: {path: /own}, service: app, policies: {auth: {basic: on, guessing: {per_name: 2/1h, per_address: off}}}}
  off: {match: {path: /off}, service: app, policies: {auth: {basic: on, guessing: off}}}
"#;

const PASSWORD: &str = "correct horse";

fn guesses(app: &Origin) -> GatewayBuilder {
    Gateway::builder(GUESSES)
        .with("app", app)
        .with("hash", bcrypt::hash(PASSWORD, 4).expect("a hash"))
}

fn log_in(gateway: &Gateway, address: &str, user: &str, password: &str) -> Call {
    log_in_at(gateway, "GET /a", address, user, password)
}

fn log_in_at(gateway: &Gateway, line: &str, address: &str, user: &str, password: &str) -> Call {
    let encoded = STANDARD.encode(format!("{user}:{password}"));
    gateway
        .call(line)
        .header("x-forwarded-for", address)
        .header("authorization", &format!("Basic {encoded}"))
}

/// The statuses of so many wrong passwords, each from an address of its own.
async fn guessed(gateway: &Gateway, user: &str, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for number in 0..count {
        let address = format!("192.0.2.{number}");
        let wrong = format!("{user} wrong {number}");
        statuses.push(
            log_in(gateway, &address, user, &wrong)
                .send()
                .await
                .status(),
        );
    }
    statuses
}

fn count(statuses: &[u16], status: u16) -> usize {
    statuses.iter().filter(|known| **known == status).count()
}

#[tokio::test]
async fn guesses_for_a_name_are_held_up_whether_anybody_has_it_or_not() {
    let app = Origin::echo().await;
    let gateway = guesses(&app).start().await;
    for user in ["anna", "nobody"] {
        let statuses = guessed(&gateway, user, 16).await;
        assert_eq!(statuses[..10], [401; 10], "{user}");
        // one more may come free meanwhile, every 6 s
        assert!(count(&statuses, 429) >= 4, "{user} {statuses:?}");
        // the right password is not looked at either: else they could go on guessing
        let answer = log_in(&gateway, "198.51.100.1", user, PASSWORD)
            .send()
            .await;
        assert_eq!(
            (answer.status(), answer.problem()),
            (429, "auth.guessing".to_owned())
        );
        let wait: u64 = answer
            .header("retry-after")
            .expect("a time")
            .parse()
            .expect("seconds");
        assert!((1..=6).contains(&wait), "{wait}");
        assert!(answer.headers("www-authenticate").is_empty());
    }
    assert_eq!(app.received().len(), 0);
    logged(&gateway, r#""reason":"auth.guessing.name""#).await;
    let refused = gateway.metrics().await;
    let labels = [("reason", "auth.guessing.name")];
    assert!(refused.value("northgate_auth_refused_total", &labels) >= 10.0);
    // others are not held up
    let key = gateway.call("GET /a").header("x-api-key", KEY);
    assert_eq!(key.send().await.status(), 200);
}

#[tokio::test]
async fn nobody_locks_a_user_out_where_the_user_is_known_and_a_reload_forgives_nothing() {
    let app = Origin::echo().await;
    let gateway = guesses(&app).start().await;
    let home = |password: &str| log_in(&gateway, "203.0.113.7", "anna", password);
    assert_eq!(home(PASSWORD).send().await.status(), 200);
    assert!(count(&guessed(&gateway, "anna", 16).await, 429) >= 4);
    assert_eq!(home(PASSWORD).send().await.status(), 200);
    assert_eq!(home("a slip").send().await.status(), 401);
    assert_eq!(gateway.command(&["reload"]).await.code, Some(0));
    let stranger = log_in(&gateway, "198.51.100.1", "anna", PASSWORD);
    assert_eq!(stranger.send().await.status(), 429);
    // a neighbour behind the same address has as many guesses as anybody else
    let mut statuses = Vec::new();
    for number in 0..16 {
        statuses.push(home(&format!("neighbour {number}")).send().await.status());
    }
    assert!(count(&statuses, 429) >= 4, "{statuses:?}");
}

#[tokio::test]
async fn an_address_that_guesses_is_held_up_whatever_it_tries() {
    let app = Origin::echo().await;
    let gateway = guesses(&app).start().await;
    let key = |address: &str, key: &str| {
        let call = gateway.call("GET /a").header("x-forwarded-for", address);
        call.header("x-api-key", key)
    };
    // whoever has a key works behind the same address
    assert_eq!(key("2001:db8:0:7::1", KEY).send().await.status(), 200);
    let mut statuses = Vec::new();
    for number in 0..30 {
        // any address of a /64 is the same client's
        let address = format!("2001:db8:0:7::{number:x}");
        let call = match number % 2 {
            0 => key(&address, &format!("wrong-{number}")),
            _ => log_in(&gateway, &address, &format!("user {number}"), "wrong"),
        };
        statuses.push(call.send().await.status());
    }
    assert_eq!(statuses[..20], [401; 20]);
    assert!(count(&statuses, 429) >= 5, "{statuses:?}");
    let answer = log_in(&gateway, "2001:db8:0:7:ffff::1", "anna", PASSWORD)
        .send()
        .await;
    assert_eq!(
        (answer.status(), answer.problem()),
        (429, "auth.guessing".to_owned())
    );
    logged(&gateway, r#""reason":"auth.guessing.address""#).await;
    assert_eq!(key("2001:db8:0:7::2", KEY).send().await.status(), 200);
    assert_eq!(key("2001:db8:0:8::1", KEY).send().await.status(), 200);
    assert_eq!(key("2001:db8:0:8::1", "wrong").send().await.status(), 401);
}

#[tokio::test]
async fn a_program_with_an_old_password_holds_nobody_up() {
    let app = Origin::echo().await;
    let gateway = guesses(&app).start().await;
    for _ in 0..40 {
        let old = log_in(&gateway, "192.0.2.1", "anna", "the old one");
        assert_eq!(old.send().await.status(), 401);
    }
    let anna = log_in(&gateway, "192.0.2.1", "anna", PASSWORD);
    assert_eq!(anna.send().await.status(), 200);
}

#[tokio::test]
async fn guesses_at_a_time_are_no_way_round() {
    let app = Origin::echo().await;
    let gateway = guesses(&app).start().await;
    let calls: Vec<Call> = (0..60)
        .map(|number| {
            let address = format!("192.0.2.{number}");
            log_in(&gateway, &address, "anna", &format!("wrong {number}"))
        })
        .collect();
    let answers = futures::future::join_all(calls.iter().map(Call::send)).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status()).collect();
    // ten, and whatever comes free meanwhile
    assert!(count(&statuses, 401) < 20, "{statuses:?}");
    assert!(count(&statuses, 429) > 30, "{statuses:?}");
}

#[tokio::test]
async fn a_route_has_its_own_limits_or_none() {
    let app = Origin::echo().await;
    let gateway = guesses(&app).start().await;
    let try_at = async |line: &str, number: usize| {
        let wrong = format!("wrong {number}");
        let call = log_in_at(&gateway, line, &format!("192.0.2.{number}"), "anna", &wrong);
        call.send().await.status()
    };
    for (number, status) in [(0, 401), (1, 401), (2, 429), (3, 429)] {
        assert_eq!(try_at("GET /own", number).await, status);
    }
    for number in 0..16 {
        assert_eq!(try_at("GET /off", number).await, 401);
    }
    assert_eq!(try_at("GET /a", 0).await, 401);
}
