//! Tokens that only the authorisation server can read: that it is asked, how seldom, and what happens when it can't be.

use crate::harness::{Gate, Gateway, Issuer, Message, Mood, Origin, eventually};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const GATEWAY: &str = r#"
services:
  app: {endpoints: "$app"}
access_log: {path: "$dir/access.log"}
routes:
  all:
    match: {path: /**}
    service: app
    policies:
      auth:
        introspection:
          url: "$issuer/introspect"
          client_id: "gate:way"
          client_secret: "${file:$dir/secret}"
          audience: orders
          consumer: client_id
          timeout: 500ms
          $more
"#;

const SECRET: &str = "s3cr&t+%";

async fn before(app: &Origin, issuer: &Issuer, more: &str) -> Gateway {
    Gateway::builder(GATEWAY)
        .file("secret", SECRET)
        .with("app", app)
        .with("issuer", issuer.url())
        .with("more", more)
        .start()
        .await
}

async fn call(gateway: &Gateway, token: &str) -> Message {
    let call = gateway.call("GET /a");
    call.header("Authorization", &format!("Bearer {token}"))
        .send()
        .await
}

fn code(answer: &Message) -> String {
    answer.json()["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn active(more: Value) -> Value {
    let mut answer = json!({"active": true, "aud": "orders", "sub": "alice", "client_id": "acme", "scope": "read"});
    for (name, value) in more.as_object().into_iter().flatten() {
        answer[name] = value.clone();
    }
    answer
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[tokio::test]
async fn the_server_is_asked_once_and_the_origin_learns_who_calls() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer, "").await;
    issuer.knows("opaque-1", active(json!({})));
    for _ in 0..3 {
        assert_eq!(call(&gateway, "opaque-1").await.status(), 200);
    }
    let got = app.last();
    assert_eq!(got.header("x-consumer-id"), Some("acme"));
    assert_eq!(got.header("x-auth-subject"), Some("alice"));
    assert_eq!(got.header("x-auth-scopes"), Some("read"));
    assert!(got.headers("authorization").is_empty());
    let questions = issuer.questions();
    assert_eq!(questions.len(), 1);
    assert_eq!(questions[0].method(), "POST");
    // `gate%3Away:s3cr%26t%2B%25`: each part is encoded before they are joined (RFC 6749 §2.3.1)
    assert_eq!(
        questions[0].header("authorization"),
        Some("Basic Z2F0ZSUzQXdheTpzM2NyJTI2dCUyQiUyNQ==")
    );
    let body = String::from_utf8_lossy(&questions[0].body).into_owned();
    assert_eq!(
        body,
        "token=opaque%2D1&token_type_hint=access_token".replace("%2D", "-")
    );
}

#[tokio::test]
async fn what_is_not_active_or_not_for_us_is_refused() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer, "client_auth: post").await;
    issuer.knows("others", active(json!({"aud": "billing"})));
    issuer.knows("over", active(json!({"exp": now() - 1})));
    for (token, reason) in [
        ("unknown", "auth.introspection.inactive"),
        ("others", "auth.introspection.audience"),
        ("over", "auth.introspection.inactive"),
    ] {
        for _ in 0..2 {
            let answer = call(&gateway, token).await;
            assert_eq!(
                (answer.status(), code(&answer).as_str()),
                (401, "auth.invalid"),
                "{token}"
            );
            assert!(
                answer
                    .header("www-authenticate")
                    .unwrap()
                    .contains("error=\"invalid_token\"")
            );
        }
        let metrics = gateway.metrics().await;
        assert!(
            metrics.value("northgate_auth_refused_total", &[("reason", reason)]) >= 2.0,
            "{token}"
        );
    }
    // a refusal is kept for a while
    assert_eq!(issuer.questions().len(), 3);
    let question = &issuer.questions()[0];
    assert!(question.headers("authorization").is_empty());
    assert!(
        String::from_utf8_lossy(&question.body)
            .ends_with("&client_id=gate%3Away&client_secret=s3cr%26t%2B%25")
    );
    // nobody is asked about what can't be a token
    for token in ["", "a b", "a&token=opaque", "\"x\"", &"a".repeat(8193)] {
        assert_eq!(call(&gateway, token).await.status(), 401, "{token}");
    }
    assert_eq!(gateway.get("/a").await.status(), 401);
    assert_eq!(issuer.questions().len(), 3);
    assert!(app.received().is_empty());
}

#[tokio::test]
async fn the_servers_word_is_kept_no_longer_than_the_token_holds() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer, "cache: 1h").await;
    issuer.knows("short", active(json!({"exp": now() + 2})));
    assert_eq!(call(&gateway, "short").await.status(), 200);
    issuer.is(Mood::Down);
    eventually("the token to be over", async || {
        let status = call(&gateway, "short").await.status();
        assert!([200, 503].contains(&status), "{status}");
        (status == 503).then_some(())
    })
    .await;
}

#[tokio::test]
async fn requests_with_one_token_share_one_question() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer, "cache: 1m").await;
    issuer.knows("shared", active(json!({})));
    let gate = Gate::closed();
    issuer.is(Mood::Slow(gate.clone()));
    let calls = (0..10).map(|_| call(&gateway, "shared"));
    let opening = async {
        issuer.origin().has_received(1).await;
        gate.open();
        issuer.is(Mood::Well);
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(calls), opening);
    assert!(answers.iter().all(|answer| answer.status() == 200));
    assert_eq!(issuer.questions().len(), 1);
}

#[tokio::test]
async fn when_the_server_can_not_be_asked_nobody_gets_in() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer, "negative_cache: off").await;
    issuer.knows("known", active(json!({})));
    assert_eq!(call(&gateway, "known").await.status(), 200);
    let moods = [
        Mood::Down,
        Mood::Slow(Gate::closed()),
        Mood::Answers(500, r#"{"active": true, "aud": "orders"}"#.into()),
        Mood::Answers(401, r#"{"active": true, "aud": "orders"}"#.into()),
        Mood::Answers(302, String::new()),
        Mood::Answers(200, "active".into()),
        Mood::Answers(200, r#"{"active": "true", "aud": "orders"}"#.into()),
        Mood::Answers(
            200,
            r#"{"active": false, "active": true, "aud": "orders"}"#.into(),
        ),
        Mood::Answers(
            200,
            format!(
                r#"{{"active": true, "aud": "orders", "x": "{}"}}"#,
                "x".repeat(70_000)
            ),
        ),
    ];
    for (number, mood) in moods.into_iter().enumerate() {
        issuer.is(mood);
        let answer = call(&gateway, &format!("new-{number}")).await;
        assert_eq!(
            (answer.status(), code(&answer).as_str()),
            (503, "auth.unavailable"),
            "{number}"
        );
        assert!(answer.header("retry-after").is_some());
        // whoever is known already is not concerned
        assert_eq!(call(&gateway, "known").await.status(), 200);
    }
    // and once it answers again, so is whoever was not known
    issuer.is(Mood::Well);
    issuer.knows("new-0", active(json!({})));
    eventually("an answer", async || {
        (call(&gateway, "new-0").await.status() == 200).then_some(())
    })
    .await;
    let failed = [("policy", "route.all/auth"), ("result", "failed")];
    gateway
        .counts("northgate_introspections_total", &failed, 9.0)
        .await;
}

#[tokio::test]
async fn neither_tokens_nor_the_secret_are_in_any_output() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer, "").await;
    issuer.knows("very-secret-token", active(json!({})));
    assert_eq!(call(&gateway, "very-secret-token").await.status(), 200);
    issuer.is(Mood::Down);
    assert_eq!(call(&gateway, "very-secret-other").await.status(), 503);
    let log = eventually("two lines", async || {
        let log = std::fs::read_to_string(gateway.dir().join("access.log")).ok()?;
        (log.lines().count() == 2).then_some(log)
    })
    .await;
    let config = gateway
        .admin("GET /v1/config")
        .send()
        .await
        .text()
        .to_owned();
    let metrics = gateway.metrics().await.text().to_owned();
    for output in [
        &log,
        &config,
        &metrics,
        &gateway.stderr(),
        &gateway.stdout(),
    ] {
        assert!(
            !output.contains("very-secret") && !output.contains("s3cr"),
            "{output}"
        );
    }
}
