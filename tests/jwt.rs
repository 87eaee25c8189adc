//! Tokens of issuers: which are accepted, what is said of the others, and what becomes of both when issuers rotate their
//! keys, go down, are slow or answer rubbish.

use crate::harness::{
    Gate, Gateway, GatewayBuilder, Issuer, Message, Mood, Origin, Pki, Signer, encoded, eventually,
    loopback,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

const GATEWAY: &str = r#"
services:
  app: {endpoints: "$app"}
issuers:
  idp: {issuer: "$issuer", audience: orders, consumer: azp, plan: tier, groups: realm_access.roles, refresh: $refresh, max_stale: $max_stale}
warm_timeout: 200ms
routes:
  all: {match: {path: /**}, service: app, policies: {auth: {jwt: idp}}}
  open: {match: {path: /open}, respond: 204, policies: {auth: off}}
"#;

fn before(app: &Origin, issuer: &Issuer) -> GatewayBuilder {
    Gateway::builder(GATEWAY)
        .with("app", app)
        .with("issuer", issuer.url())
        .with("refresh", "5m")
        .with("max_stale", "24h")
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

async fn refused(gateway: &Gateway, reason: &str) -> f64 {
    let metrics = gateway.metrics().await;
    metrics.value("northgate_auth_refused_total", &[("reason", reason)])
}

#[tokio::test]
async fn the_origin_learns_who_calls_and_the_token_does_not_reach_the_origin() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer).start().await;
    let token = issuer.token(json!({
        "azp": "acme", "tier": "gold", "realm_access": {"roles": ["a", "b"]}, "scope": "read write",
    }));
    let answer = gateway
        .call("GET /a")
        .header("Authorization", &format!("bearer {token}"))
        .header("X-Consumer-Id", "forged")
        .header("x-auth-subject", "forged")
        .send()
        .await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    let got = app.only();
    assert_eq!(got.header("x-consumer-id"), Some("acme"));
    assert_eq!(got.header("x-consumer-plan"), Some("gold"));
    assert_eq!(got.header("x-auth-subject"), Some("alice"));
    assert_eq!(got.header("x-auth-scopes"), Some("read write"));
    assert!(got.headers("authorization").is_empty());
    assert!(!String::from_utf8_lossy(&got.head).contains(&token));
    // once the keys are known, nobody is asked about a token
    for _ in 0..3 {
        assert_eq!(call(&gateway, &token).await.status(), 200);
    }
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn claims_are_in_the_log_where_they_are_asked_for() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let log = "access_log: {path: \"-\", fields: {add: [claim.tier, claim.realm_access.roles, claim.org]}}";
    let gateway = Gateway::builder(&format!("{log}\n{GATEWAY}"))
        .with("app", &app)
        .with("issuer", issuer.url())
        .with("refresh", "5m")
        .with("max_stale", "24h")
        .start()
        .await;
    let claims = json!({"azp": "acme", "tier": "gold", "realm_access": {"roles": ["a", "b"]}, "email": "a@example.com"});
    assert_eq!(call(&gateway, &issuer.token(claims)).await.status(), 200);
    assert_eq!(call(&gateway, "rubbish").await.status(), 401);
    let lines = eventually("two lines", async || {
        let lines: Vec<Value> = gateway
            .stdout()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        (lines.len() >= 2).then_some(lines)
    })
    .await;
    let known = lines.iter().find(|line| line["status"] == 200).unwrap();
    assert_eq!(known["claim.tier"], "gold", "{known}");
    assert_eq!(known["claim.realm_access.roles"], "a,b", "{known}");
    assert_eq!(known.get("claim.org"), None, "{known}");
    let nobody = lines.iter().find(|line| line["status"] == 401).unwrap();
    assert!(!nobody.to_string().contains("claim."), "{nobody}");
    assert!(!gateway.stdout().contains("a@example.com"));
}

/// The whole table is beside the code; here is what clients and operators see of it.
#[tokio::test]
async fn refusals_tell_clients_little_and_operators_all() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer).start().await;
    let signer = issuer.signer();
    let claims = |change: Value| {
        let mut claims = issuer.claims();
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.to_string()
    };
    let header = json!({"alg": "ES256", "kid": "first"}).to_string();
    let good = claims(json!({}));
    let forger = Signer::new("ES256", "first");
    let secret = Signer::secret("HS256", "first", signer.pem().as_bytes());
    for (token, code_, reason) in [
        (
            signer.token_of(&header, &claims(json!({"exp": 1}))),
            "auth.expired",
            "auth.jwt.expired",
        ),
        (
            forger.token_of(&header, &claims(json!({"exp": 1}))),
            "auth.invalid",
            "auth.jwt.signature",
        ),
        (
            forger.token_of(&header, &good),
            "auth.invalid",
            "auth.jwt.signature",
        ),
        (
            secret.token_of(&json!({"alg": "HS256", "kid": "first"}).to_string(), &good),
            "auth.invalid",
            "auth.jwt.algorithm",
        ),
        (
            signer.token_of(&json!({"alg": "none"}).to_string(), &good),
            "auth.invalid",
            "auth.jwt.algorithm",
        ),
        (
            signer.token_of(
                &json!({"alg": "ES256", "crit": ["x"], "x": 1}).to_string(),
                &good,
            ),
            "auth.invalid",
            "auth.jwt.critical",
        ),
        (
            signer.token_of(
                &json!({"alg": "ES256", "typ": "logout+jwt"}).to_string(),
                &good,
            ),
            "auth.invalid",
            "auth.jwt.type",
        ),
        (
            signer.token_of(&header, &claims(json!({"aud": "other"}))),
            "auth.invalid",
            "auth.jwt.audience",
        ),
        (
            signer.token_of(&header, &claims(json!({"iss": "https://other.example"}))),
            "auth.invalid",
            "auth.jwt.issuer",
        ),
        (
            signer.token_of(&header, &claims(json!({"nbf": 4_000_000_000_u64}))),
            "auth.invalid",
            "auth.jwt.not_before",
        ),
        (
            signer.token_of(&header, &claims(json!({"exp": "soon"}))),
            "auth.invalid",
            "auth.jwt.claims",
        ),
        (
            "e30.e30.e30".to_owned(),
            "auth.invalid",
            "auth.jwt.algorithm",
        ),
        ("nonsense".to_owned(), "auth.invalid", "auth.jwt.malformed"),
        (String::new(), "auth.invalid", "auth.jwt.malformed"),
        (
            format!(
                "{}.{}.{}",
                encoded(header.as_bytes()),
                encoded(&[b' '; 6200]),
                encoded(b"x")
            ),
            "auth.invalid",
            "auth.jwt.too_long",
        ),
    ] {
        let before = refused(&gateway, reason).await;
        let answer = call(&gateway, &token).await;
        assert_eq!(answer.status(), 401, "{reason}");
        assert_eq!(code(&answer), code_, "{reason}");
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(
            challenge.starts_with("Bearer ") && challenge.contains("error=\"invalid_token\""),
            "{challenge}"
        );
        assert_eq!(
            challenge.contains("expired"),
            code_ == "auth.expired",
            "{challenge}"
        );
        assert!(!answer.text().contains("jwt"), "{}", answer.text());
        assert_eq!(refused(&gateway, reason).await, before + 1.0, "{reason}");
    }
    let without = gateway.get("/a").await;
    assert_eq!(
        (without.status(), code(&without).as_str()),
        (401, "auth.missing")
    );
    let challenge = without.header("www-authenticate").unwrap();
    assert!(
        challenge.starts_with("Bearer") && !challenge.contains("error"),
        "{challenge}"
    );
    let twice = gateway
        .call("GET /a")
        .header(
            "Authorization",
            &format!("Bearer {}", issuer.token(json!({}))),
        )
        .header("Authorization", "Bearer x")
        .send()
        .await;
    assert_eq!(
        (twice.status(), code(&twice).as_str()),
        (401, "auth.invalid")
    );
    assert!(app.received().is_empty());
}

#[tokio::test]
async fn tokens_are_in_no_log_and_no_metric() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let yaml = format!("access_log: {{path: \"$dir/access.log\"}}\n{GATEWAY}");
    let gateway = Gateway::builder(&yaml)
        .with("app", &app)
        .with("issuer", issuer.url())
        .with("refresh", "5m")
        .with("max_stale", "24h")
        .variable("NORTHGATE_LOG", "info,northgate=trace")
        .start()
        .await;
    let good = issuer.token(json!({}));
    let bad = Signer::new("ES256", "first").token(&issuer.claims());
    let unknown = Signer::new("ES256", "unknown").token(&issuer.claims());
    assert_eq!(call(&gateway, &good).await.status(), 200);
    assert_eq!(call(&gateway, &bad).await.status(), 401);
    assert_eq!(call(&gateway, &unknown).await.status(), 401);
    let log = eventually("three lines", async || {
        let log = std::fs::read_to_string(gateway.dir().join("access.log")).ok()?;
        (log.lines().count() == 3).then_some(log)
    })
    .await;
    assert!(
        log.contains("auth.jwt.signature") && log.contains("alice"),
        "{log}"
    );
    let metrics = gateway.metrics().await.text().to_owned();
    let config = gateway
        .admin("GET /v1/config")
        .send()
        .await
        .text()
        .to_owned();
    for token in [&good, &bad, &unknown] {
        let signature = token.rsplit('.').next().unwrap();
        for output in [
            &log,
            &metrics,
            &gateway.stderr(),
            &gateway.stdout(),
            &config,
        ] {
            assert!(!output.contains(signature), "{output}");
        }
    }
}

#[tokio::test]
async fn a_token_in_the_query_counts_only_where_it_is_asked_for() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let yaml = format!(
        "{GATEWAY}
  query: {{match: {{path: /query}}, service: app, policies: {{auth: {{jwt: {{issuer: idp, query: access_token}}}}}}}}
  cookie: {{match: {{path: /cookie}}, service: app, policies: {{auth: {{jwt: {{issuer: idp, cookie: session}}}}}}}}
  field: {{match: {{path: /field}}, service: app, policies: {{auth: {{jwt: {{issuer: idp, header: x-token}}}}}}}}
  either: {{match: {{path: /either}}, service: app, policies: {{auth: {{any_of: [{{jwt: idp}}, {{jwt: {{issuer: idp, cookie: session}}}}]}}}}}}
"
    );
    let gateway = Gateway::builder(&yaml)
        .with("app", &app)
        .with("issuer", issuer.url())
        .with("refresh", "5m")
        .with("max_stale", "24h")
        .start()
        .await;
    let token = issuer.token(json!({}));
    let bearer = format!("Bearer {token}");
    let cookie = format!("a=b; session={token}; c=d");
    let in_query = |path: &str| format!("GET {path}?a=b&access_token={token}&c=d");
    for (line, field, value, status) in [
        (in_query("/query"), "X", "", 200),
        (in_query("/a"), "X", "", 401),
        (
            format!("GET /query?access_token={token}&access_token=x"),
            "X",
            "",
            401,
        ),
        ("GET /query".into(), "Authorization", bearer.as_str(), 401),
        ("GET /cookie".into(), "Cookie", &cookie, 200),
        ("GET /a".into(), "Cookie", &cookie, 401),
        ("GET /field".into(), "X-Token", &token, 200),
        ("GET /field".into(), "X-Token", "", 401),
        ("GET /field".into(), "Authorization", &bearer, 401),
        ("GET /either".into(), "Authorization", &bearer, 200),
        ("GET /either".into(), "Cookie", &cookie, 200),
    ] {
        let answer = gateway.call(&line).header(field, value).send().await;
        assert_eq!(answer.status(), status, "{line} {field}");
    }
    let both = gateway
        .call("GET /either")
        .header("Authorization", &bearer)
        .header("Cookie", &cookie);
    assert_eq!(both.send().await.status(), 401);
    for got in app.received() {
        assert!(
            !String::from_utf8_lossy(&got.head).contains(&token),
            "{got:?}"
        );
        match got.target().split('?').next().unwrap() {
            "/query" => assert_eq!(got.target(), "/query?a=b&c=d"),
            "/cookie" => assert_eq!(got.header("cookie"), Some("a=b; c=d")),
            _ => {}
        }
    }
}

#[tokio::test]
async fn of_several_issuers_the_one_that_the_token_names_judges_it() {
    let app = Origin::echo().await;
    let (one, two) = (Issuer::start().await, Issuer::start().await);
    let gateway = Gateway::builder(
        r#"
services: {app: {endpoints: "$app"}}
issuers:
  one: {issuer: "$one", audience: orders, consumer: azp}
  two: {issuer: "$two", audience: orders}
routes: {all: {match: {path: /**}, service: app, policies: {auth: {jwt: [one, two]}}}}
"#,
    )
    .with("app", &app)
    .with("one", one.url())
    .with("two", two.url())
    .start()
    .await;
    assert_eq!(
        call(&gateway, &one.token(json!({"azp": "acme"})))
            .await
            .status(),
        200
    );
    assert_eq!(app.last().header("x-consumer-id"), Some("acme"));
    assert_eq!(
        call(&gateway, &two.token(json!({"azp": "acme"})))
            .await
            .status(),
        200
    );
    assert!(app.last().headers("x-consumer-id").is_empty());
    // two may not speak for one
    let posing = two.signer().token(&one.claims());
    assert_eq!(call(&gateway, &posing).await.status(), 401);
    let third = one.token(json!({"iss": "https://third.example"}));
    assert_eq!(call(&gateway, &third).await.status(), 401);
    assert_eq!(refused(&gateway, "auth.jwt.issuer").await, 1.0);
}

#[tokio::test]
async fn a_new_key_works_at_once_and_an_old_one_no_longer_than_it_is_published() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer).start().await;
    let old = issuer.token(json!({}));
    assert_eq!(call(&gateway, &old).await.status(), 200);
    let (first, second) = (issuer.signer(), Arc::new(Signer::new("RS256", "second")));
    issuer.publishes(&[first, second.clone()]);
    let new = issuer.token(json!({}));
    // it waits for the one fetch that brings its key; the others share it
    let calls = (0..8).map(|_| call(&gateway, &new));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(issuer.fetches(), 2);
    assert_eq!(call(&gateway, &old).await.status(), 200);
    // what was verified with a key that is gone counts no more, though it was kept
    issuer.publishes(&[second]);
    gateway.reload_to(GATEWAY).await;
    let mut gateway = gateway;
    gateway.set("refresh", "1s");
    gateway.reload_to(GATEWAY).await;
    eventually("the old key to be gone", async || {
        (call(&gateway, &old).await.status() == 401).then_some(())
    })
    .await;
    assert_eq!(call(&gateway, &new).await.status(), 200);
}

#[tokio::test]
async fn a_flood_of_unknown_keys_causes_one_fetch() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer).start().await;
    let good = issuer.token(json!({}));
    let signer = issuer.signer();
    let flood = |number: usize| {
        let header = json!({"alg": "ES256", "kid": format!("kid-{number}")}).to_string();
        let token = signer.token_of(&header, &issuer.claims().to_string());
        let gateway = &gateway;
        async move { call(gateway, &token).await.status() }
    };
    let began = Instant::now();
    for round in 0..20 {
        let statuses = futures::future::join_all((0..20).map(|at| flood(round * 20 + at))).await;
        assert!(statuses.iter().all(|status| *status == 401));
        assert_eq!(call(&gateway, &good).await.status(), 200);
    }
    // the first of all, and one for each ten seconds of flood
    let most = 2 + began.elapsed().as_secs() / 10;
    assert!(
        (2..=most).contains(&(issuer.fetches() as u64)),
        "{}",
        issuer.fetches()
    );
    assert_eq!(refused(&gateway, "auth.jwt.key").await, 400.0);
}

#[tokio::test]
async fn a_new_key_works_within_fifteen_seconds_of_a_flood_of_unknown_ones() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer).start().await;
    let stray = async |kid: &str| {
        let header = json!({"alg": "ES256", "kid": kid}).to_string();
        let signer = Signer::new("ES256", kid);
        let token = signer.token_of(&header, &issuer.claims().to_string());
        call(&gateway, &token).await.status()
    };
    assert_eq!(stray("first of the flood").await, 401);
    issuer.publishes(&[Arc::new(Signer::new("ES256", "second"))]);
    let rotated = Instant::now();
    let new = issuer.token(json!({}));
    let mut strays = 0;
    while call(&gateway, &new).await.status() != 200 {
        assert!(rotated.elapsed() < Duration::from_secs(15));
        strays += 1;
        assert_eq!(stray(&format!("kid-{strays}")).await, 401);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // what was asked for at the beginning, for the first of the flood, and for the new key or another of the flood
    assert_eq!(issuer.fetches(), 3);
}

#[tokio::test]
async fn a_slow_issuer_holds_up_only_who_has_an_unknown_key_and_not_for_long() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer).start().await;
    let good = issuer.token(json!({}));
    assert_eq!(call(&gateway, &good).await.status(), 200);
    let gate = Gate::closed();
    issuer.is(Mood::Slow(gate.clone()));
    let began = Instant::now();
    let stray = Signer::new("ES256", "unknown").token(&issuer.claims());
    let waits = async {
        assert_eq!(call(&gateway, &stray).await.status(), 401);
        began.elapsed()
    };
    let passes = async {
        for number in 0..20 {
            let fresh = issuer.token(json!({"n": number}));
            for token in [&good, &fresh] {
                assert_eq!(call(&gateway, token).await.status(), 200);
            }
        }
        began.elapsed()
    };
    let (waited, passed) = tokio::join!(waits, passes);
    // one answer of the issuer may take 2 s, and there are two
    assert!(waited < Duration::from_secs(8), "{waited:?}");
    assert!(passed < waited, "{passed:?} {waited:?}");
    gate.open();
}

#[tokio::test]
async fn an_outage_costs_no_valid_caller_a_request() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer).with("refresh", "1s").start().await;
    let gate = Gate::closed();
    let moods = [
        Mood::Down,
        Mood::Slow(gate.clone()),
        Mood::Answers(500, "{}".into()),
        Mood::Answers(200, "<html>".into()),
        Mood::Answers(200, r#"{"keys":[]}"#.into()),
        Mood::Answers(200, "x".repeat(300 * 1024)),
        Mood::Answers(302, String::new()),
        Mood::Posing,
    ];
    let failures = [("issuer", "idp"), ("result", "failure")];
    for mood in moods {
        issuer.is(mood);
        let before = gateway
            .metrics()
            .await
            .value("northgate_issuer_refreshes_total", &failures);
        eventually("another fetch that fails", async || {
            // a token that nobody has seen yet
            let status = call(&gateway, &issuer.token(json!({"jti": encoded(&random())})))
                .await
                .status();
            assert_eq!(status, 200);
            let metrics = gateway.metrics().await;
            (metrics.value("northgate_issuer_refreshes_total", &failures) > before).then_some(())
        })
        .await;
    }
    let metrics = gateway.metrics().await;
    assert!(metrics.value("northgate_issuer_keys_age_seconds", &[("issuer", "idp")]) >= 1.0);
    assert_eq!(
        metrics.value("northgate_issuer_keys", &[("issuer", "idp")]),
        1.0
    );
    gate.open();
    issuer.is(Mood::Well);
    let good = [("issuer", "idp"), ("result", "success")];
    gateway
        .counts("northgate_issuer_refreshes_total", &good, 2.0)
        .await;
}

fn random() -> [u8; 8] {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    (now.as_nanos() as u64).to_be_bytes()
}

#[tokio::test]
async fn keys_that_are_too_old_are_used_no_more() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer)
        .with("refresh", "1s")
        .with("max_stale", "2s")
        .start()
        .await;
    let token = issuer.token(json!({}));
    assert_eq!(call(&gateway, &token).await.status(), 200);
    issuer.is(Mood::Down);
    let answer = eventually("the keys to be too old", async || {
        let answer = call(&gateway, &token).await;
        (answer.status() != 200).then_some(answer)
    })
    .await;
    assert_eq!(
        (answer.status(), code(&answer).as_str()),
        (503, "unready.keys")
    );
    issuer.is(Mood::Well);
    eventually("new keys", async || {
        (call(&gateway, &token).await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_keys_only_the_routes_that_need_them_are_unready() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gate = Gate::closed();
    issuer.is(Mood::Slow(gate.clone()));
    // it serves after `warm_timeout`
    let gateway = before(&app, &issuer).start().await;
    let token = issuer.token(json!({}));
    let answer = call(&gateway, &token).await;
    assert_eq!(
        (answer.status(), code(&answer).as_str()),
        (503, "unready.keys")
    );
    assert!(answer.header("retry-after").is_some());
    assert_eq!(gateway.get("/open").await.status(), 204);
    assert_eq!(gateway.get("/a").await.status(), 401);
    gate.open();
    issuer.is(Mood::Well);
    eventually("the keys", async || {
        (call(&gateway, &token).await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_reload_keeps_the_keys_of_an_issuer_that_is_down() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer).start().await;
    let token = issuer.token(json!({}));
    assert_eq!(call(&gateway, &token).await.status(), 200);
    issuer.is(Mood::Down);
    let other = GATEWAY.replace("plan: tier", "plan: other");
    for yaml in [GATEWAY, &other] {
        gateway.reload_to(yaml).await;
        assert_eq!(
            call(&gateway, &issuer.token(json!({"n": yaml.len()})))
                .await
                .status(),
            200
        );
        assert_eq!(call(&gateway, &token).await.status(), 200);
    }
    assert_eq!(issuer.fetches(), 1);
    // an audience that was not asked for when the token was verified
    gateway
        .reload_to(&GATEWAY.replace("audience: orders", "audience: billing"))
        .await;
    assert_eq!(call(&gateway, &token).await.status(), 401);
}

#[tokio::test]
async fn what_a_token_says_about_keys_is_never_fetched() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = before(&app, &issuer).start().await;
    let trap = TcpListener::bind((loopback(), 0)).await.unwrap();
    let url = format!("http://{}/keys", trap.local_addr().unwrap());
    let evil = Signer::new("ES256", "evil");
    for kid in ["first", "evil", url.as_str()] {
        let header = json!({"alg": "ES256", "kid": kid, "jku": url, "x5u": url, "jwk": evil.jwk(), "x5c": ["AAAA"]});
        let mut claims = issuer.claims();
        claims["jku"] = json!(url);
        let token = evil.token_of(&header.to_string(), &claims.to_string());
        assert_eq!(call(&gateway, &token).await.status(), 401, "{kid}");
    }
    let visit = tokio::time::timeout(Duration::from_millis(300), trap.accept()).await;
    assert!(
        visit.is_err(),
        "somebody looked at the keys of the attacker"
    );
}

#[tokio::test]
async fn keys_come_over_tls_from_whom_the_configured_authority_vouches_for() {
    let app = Origin::echo().await;
    let issuer = Issuer::start().await;
    let (pki, stranger) = (Pki::new(), Pki::new());
    // a gateway of ours is the TLS server before the issuer
    let front = Gateway::builder(
        r#"
listeners: {public: {address: "$address:8443", tls: {}}}
certificates: {idp: {cert: "$dir/idp.pem", key: "$dir/idp.key"}}
services: {idp: {endpoints: "$idp"}}
routes: {all: {match: {path: /**}, service: idp}}
"#,
    )
    .with("idp", issuer.origin());
    let name = front.address().to_string();
    let front = front.identity("idp", &pki.server(&[&name])).start().await;
    let address = front.port(8443);
    let yaml = r#"
services: {app: {endpoints: "$app"}}
issuers: {idp: {issuer: "https://idp.example/", audience: orders, jwks_url: "https://$front/keys", ca: "$dir/ca.pem", refresh: 1s}}
warm_timeout: 500ms
routes: {all: {match: {path: /**}, service: app, policies: {auth: {jwt: idp}}}}
"#;
    let token = issuer.token(json!({"iss": "https://idp.example/"}));
    for (authority, status) in [(&pki, 200), (&stranger, 503)] {
        let gateway = Gateway::builder(yaml)
            .file("ca.pem", &authority.pem())
            .with("app", &app)
            .with("front", address)
            .start()
            .await;
        assert_eq!(call(&gateway, &token).await.status(), status);
    }
}

#[tokio::test]
async fn a_token_on_a_list_of_revoked_ones_counts_no_more() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let yaml = GATEWAY.replace(
        "audience: orders,",
        "audience: orders, revoked: \"$dir/revoked\",",
    );
    let gateway = Gateway::builder(&yaml)
        .file("revoked", "# lost\nfirst\n")
        .with("app", &app)
        .with("issuer", issuer.url())
        .with("refresh", "5m")
        .with("max_stale", "24h")
        .start()
        .await;
    let first = issuer.token(json!({"jti": "first"}));
    let second = issuer.token(json!({"jti": "second"}));
    let without = issuer.token(json!({}));
    for (token, status) in [(&first, 401), (&second, 200), (&without, 200)] {
        assert_eq!(call(&gateway, token).await.status(), status);
    }
    assert_eq!(refused(&gateway, "auth.jwt.revoked").await, 1.0);
    // also what was verified before
    std::fs::write(gateway.dir().join("revoked"), "second").unwrap();
    assert_eq!(gateway.command(&["reload"]).await.code, Some(0));
    for (token, status) in [(&first, 200), (&second, 401), (&without, 200)] {
        assert_eq!(call(&gateway, token).await.status(), status);
    }
    std::fs::write(gateway.dir().join("revoked"), "two words").unwrap();
    assert_eq!(gateway.command(&["reload"]).await.code, Some(78));
}

#[tokio::test]
async fn keys_may_stand_in_the_configuration() {
    let app = Origin::echo().await;
    let secret = "0123456789abcdef0123456789abcdef";
    let (rsa, named) = (Signer::new("PS256", "a"), Signer::new("EdDSA", "b"));
    let hmac = Signer::secret("HS256", "c", secret.as_bytes());
    let gateway = Gateway::builder(
        r#"
services: {app: {endpoints: "$app"}}
issuers:
  pem: {issuer: pem, audience: orders, key: "${file:$dir/rsa.pem}", algorithms: PS256}
  set: {issuer: set, audience: [orders, billing], jwks_file: "$dir/keys.json"}
  secret: {issuer: secret, audience: orders, key: "${file:$dir/secret}", algorithms: HS256}
routes: {all: {match: {path: /**}, service: app, policies: {auth: {jwt: [pem, set, secret]}}}}
"#,
    )
    .file("rsa.pem", &rsa.pem())
    .file("secret", secret)
    .file("keys.json", &json!({"keys": [named.jwk()]}).to_string())
    .with("app", &app)
    .start()
    .await;
    let claims = |issuer: &str| json!({"iss": issuer, "aud": "orders", "exp": 4_000_000_000_u64});
    for (signer, issuer) in [(&rsa, "pem"), (&named, "set"), (&hmac, "secret")] {
        assert_eq!(
            call(&gateway, &signer.token(&claims(issuer)))
                .await
                .status(),
            200,
            "{issuer}"
        );
        for other in ["pem", "set", "secret"]
            .iter()
            .filter(|other| **other != issuer)
        {
            assert_eq!(
                call(&gateway, &signer.token(&claims(other))).await.status(),
                401,
                "{issuer} for {other}"
            );
        }
    }
    // a file is read again on a reload
    let next = Signer::new("EdDSA", "d");
    std::fs::write(
        gateway.dir().join("keys.json"),
        json!({"keys": [next.jwk()]}).to_string(),
    )
    .unwrap();
    assert_eq!(gateway.command(&["reload"]).await.code, Some(0));
    assert_eq!(
        call(&gateway, &next.token(&claims("set"))).await.status(),
        200
    );
    assert_eq!(
        call(&gateway, &named.token(&claims("set"))).await.status(),
        401
    );
}

#[tokio::test]
async fn claims_reach_the_origin_in_one_field_each_whatever_is_in_them() {
    let app = Origin::echo().await;
    let signer = Signer::new("EdDSA", "a");
    let gateway = Gateway::builder(
        r#"
services: {app: {endpoints: "$app"}}
issuers: {idp: {issuer: idp, audience: orders, jwks_file: "$dir/keys.json", consumer: azp, groups: groups}}
policies:
  auth: {jwt: idp}
  headers: {request: {set: {x-name: "{claim.name}", x-groups: "{group}"}, add: {x-more: "<{claim.more}>"}}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .file("keys.json", &json!({"keys": [signer.jwk()]}).to_string())
    .with("app", &app)
    .start()
    .await;
    let send = async |mut claims: Value| {
        for (name, value) in [("iss", json!("idp")), ("aud", json!("orders"))] {
            claims[name] = value;
        }
        claims["exp"] = json!(4_000_000_000_u64);
        let call = gateway.call("GET /a").header("X-Name", "forged");
        let token = format!("Bearer {}", signer.token(&claims));
        let answer = call.header("Authorization", &token).send().await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        app.last()
    };
    let got = send(json!({
        "azp": "acme\r\nX-Consumer-Plan: gold", "sub": " \u{e9}ric\0", "name": "a%0D\r\nX-Evil: 1",
        "groups": ["users,admin", "b\n"], "more": ["x", {"y": 1}, 7, null, "\u{202e}z "],
    }))
    .await;
    for (name, value) in [
        ("x-consumer-id", "acme%0D%0AX-Consumer-Plan: gold"),
        ("x-auth-subject", "%20%C3%A9ric%00"),
        ("x-name", "a%250D%0D%0AX-Evil: 1"),
        ("x-groups", "users%2Cadmin,b%0A"),
        ("x-more", "<x,7,%E2%80%AEz%20>"),
    ] {
        assert_eq!(got.headers(name), [value], "{name}");
    }
    assert!(got.headers("x-evil").is_empty() && got.headers("x-consumer-plan").is_empty());
    // what is no text is no field, and no client's instead
    let got = send(json!({"name": {"first": "a"}, "groups": {"admin": true}, "more": null})).await;
    for name in ["x-name", "x-groups", "x-more", "x-consumer-id"] {
        assert!(got.headers(name).is_empty(), "{name}");
    }
    let long = "n".repeat(4000);
    let got = send(json!({"name": long})).await;
    assert_eq!(got.headers("x-name"), [long.as_str()]);
}
