//! Logins in browsers: what counts as one, what becomes of the session, and what attackers get.

use crate::harness::provider::{parameters, value};
use crate::harness::{
    Browser, Call, Gate, Gateway, GatewayBuilder, Manner, Message, Origin, Provider, Signer,
    eventually,
};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const GATEWAY: &str = r#"
secrets: {cookies: "a secret of some length"}
services: {app: {endpoints: "$app"}}
issuers: {idp: {issuer: "$idp", groups: roles}}
access_log: {path: "$dir/access.log"}
routes:
  app:
    match: {path: /**}
    service: app
    policies:
      auth:
        oidc:
          issuer: idp
          client_id: shop
          client_secret: "${file:$dir/secret}"
          scopes: [openid, email]
          $more
"#;

const SESSION: &str = "northgate-session";

fn before(app: &Origin, idp: &Provider, more: &str) -> GatewayBuilder {
    Gateway::builder(GATEWAY)
        .file("secret", "s3cr&t+%")
        .with("app", app)
        .with("idp", idp.url())
        .with("more", more)
}

async fn three(more: &str) -> (Origin, Provider, Gateway) {
    let (app, idp) = (Origin::echo().await, Provider::start().await);
    let gateway = before(&app, &idp, more).start().await;
    (app, idp, gateway)
}

/// Where a redirect leads.
fn location(answer: &Message) -> String {
    assert!(matches!(answer.status(), 302 | 303), "{answer:?}");
    answer.header("location").expect("a location").to_owned()
}

/// The target of the answer that the provider sends the browser back with.
fn back((code, state): &(String, String)) -> String {
    format!("/oauth2/callback?code={code}&state={state}")
}

/// Logs in, and gives the answer to the callback.
async fn log_in(
    browser: &mut Browser,
    gateway: SocketAddr,
    idp: &Provider,
    target: &str,
) -> Message {
    let sent = browser.goes(gateway, target).await;
    let answer = idp.logs_in(&location(&sent));
    browser.goes(gateway, &back(&answer)).await
}

async fn logged_in(gateway: &Gateway, idp: &Provider) -> Browser {
    let mut browser = Browser::default();
    let answer = log_in(&mut browser, gateway.public(), idp, "/").await;
    assert_eq!(answer.status(), 302, "{answer:?}");
    browser
}

/// A request of a script.
fn script(gateway: &Gateway, line: &str) -> Call {
    let call = gateway.call(line).host(&gateway.public().to_string());
    call.header("Accept", "application/json")
        .header("Sec-Fetch-Mode", "cors")
        .header("Sec-Fetch-Site", "same-origin")
}

async fn refused(gateway: &Gateway, reason: &str) -> f64 {
    let metrics = gateway.metrics().await;
    metrics.value("northgate_auth_refused_total", &[("reason", reason)])
}

async fn happened(gateway: &Gateway, event: &str) -> f64 {
    let metrics = gateway.metrics().await;
    metrics.value("northgate_browser_logins_total", &[("event", event)])
}

fn code(answer: &Message) -> String {
    answer.json()["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn a_login_ends_in_a_session_that_the_origin_never_sees() {
    let (app, idp, gateway) = three("").await;
    idp.claims(json!({"roles": ["staff"]}));
    let (mut browser, public) = (Browser::default(), gateway.public());
    browser
        .cookies
        .push((public.to_string(), "theme".into(), "dark".into()));

    let sent = browser.goes(public, "/page?x=1&y=%20").await;
    assert_eq!(sent.header("cache-control"), Some("no-store"));
    let asked = location(&sent);
    let parameters = parameters(asked.split_once('?').unwrap().1);
    assert_eq!(value(&parameters, "scope"), "openid email");
    assert_eq!(
        value(&parameters, "redirect_uri"),
        format!("http://{public}/oauth2/callback")
    );
    assert!(app.received().is_empty());
    let cookie = sent.header("set-cookie").unwrap();
    assert!(
        cookie.ends_with("; Path=/; Max-Age=600; HttpOnly; SameSite=Lax"),
        "{cookie}"
    );

    let answer = browser.goes(public, &back(&idp.logs_in(&asked))).await;
    assert_eq!(location(&answer), format!("http://{public}/page?x=1&y=%20"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(
        answer.headers("set-cookie").len(),
        2,
        "a session, and no login any more"
    );

    let page = browser.goes(public, "/page?x=1").await;
    assert_eq!(page.status(), 200, "{page:?}");
    assert!(page.headers("set-cookie").is_empty());
    let got = app.only();
    assert_eq!(got.header("x-auth-subject"), Some("alice"));
    assert_eq!(got.header("x-auth-scopes"), Some("openid email"));
    assert_eq!(got.header("cookie"), Some("theme=dark"));
    // scripts of the page have the session too, and nobody is asked about it
    for _ in 0..3 {
        let answer = browser
            .sends(public, script(&gateway, "POST /api").body("x"))
            .await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    assert_eq!(
        (
            idp.asked("authorization_code").len(),
            idp.asked("refresh_token").len()
        ),
        (1, 0)
    );
    assert_eq!(
        (
            happened(&gateway, "begun").await,
            happened(&gateway, "finished").await
        ),
        (1.0, 1.0)
    );
}

#[tokio::test]
async fn only_who_goes_to_a_page_is_sent_to_log_in() {
    let (app, _idp, gateway) = three("").await;
    for line in ["GET /api", "POST /api", "DELETE /api", "OPTIONS /api"] {
        let answer = script(&gateway, line).send().await;
        assert_eq!(
            (answer.status(), code(&answer).as_str()),
            (401, "auth.missing"),
            "{line}"
        );
        assert_eq!(
            answer.header("www-authenticate"),
            Some("Cookie realm=\"browser\"")
        );
        assert!(answer.headers("set-cookie").is_empty());
    }
    let host = gateway.public().to_string();
    let page = |line: &str| Browser::as_page(gateway.call(line).host(&host));
    assert_eq!(page("POST /form").send().await.status(), 401);
    assert_eq!(page("HEAD /").send().await.status(), 302);
    let elsewhere = page("GET /oauth2/callback/x").send().await;
    assert_eq!(elsewhere.status(), 302);
    assert_eq!(page("POST /oauth2/callback").send().await.status(), 405);
    assert!(app.received().is_empty());
}

#[tokio::test]
async fn an_answer_counts_once_and_in_the_browser_that_asked() {
    let (app, idp, gateway) = three("").await;
    let public = gateway.public();
    let mut browser = Browser::default();
    let sent = browser.goes(public, "/").await;
    let answer = idp.logs_in(&location(&sent));

    // somebody else's browser, which has begun another login
    let mut other = Browser::default();
    other.goes(public, "/").await;
    let refusal = other.goes(public, &back(&answer)).await;
    assert_eq!(refusal.status(), 403, "{refusal:?}");
    assert_eq!(refused(&gateway, "auth.oidc.state").await, 1.0);
    // another state, none, one that is none, and two
    let (code_, state) = &answer;
    let turned = state.replace(|letter: char| letter.is_ascii_lowercase(), "Z");
    for query in [
        format!("code={code_}&state={turned}"),
        format!("code={code_}"),
        format!("code={code_}&state="),
        format!("code={code_}&state=../../{state}"),
        format!("code={code_}&state={state}&state={state}"),
        format!("code={code_}&code=x&state={state}"),
        format!("state={state}&code={}", "x".repeat(5000)),
    ] {
        let mut tried = browser.clone();
        let refusal = tried
            .goes(public, &format!("/oauth2/callback?{query}"))
            .await;
        assert_eq!(refusal.status(), 403, "{query}");
    }
    // a login cookie that somebody has changed, or has put under another name
    let name = format!("{SESSION}-login-{state}");
    let sealed = browser.cookie(&name).unwrap().to_owned();
    let theirs = other
        .cookies
        .iter()
        .find(|(_, name, _)| name.contains("login"))
        .unwrap()
        .2
        .clone();
    for forged in [
        sealed.replacen('A', "B", 1).replacen('x', "y", 1) + "A",
        theirs,
        String::new(),
        "x".into(),
    ] {
        let mut tried = browser.clone();
        tried.set(&name, &forged);
        assert_eq!(
            tried.goes(public, &back(&answer)).await.status(),
            403,
            "{forged}"
        );
    }
    assert!(idp.asked("authorization_code").is_empty());

    let kept = browser.clone();
    assert_eq!(browser.goes(public, &back(&answer)).await.status(), 302);
    // once more: the browser has forgotten the login, and to who has kept it the provider says that the code is used
    let again = browser.goes(public, &back(&answer)).await;
    assert_eq!(again.status(), 403);
    assert!(
        again
            .text()
            .contains("or has finished it already; go to the page once more"),
        "{again:?}"
    );
    let mut thief = kept;
    assert_eq!(thief.goes(public, &back(&answer)).await.status(), 403);
    assert_eq!(refused(&gateway, "auth.oidc.code").await, 1.0);
    assert!(thief.cookie(SESSION).is_none());
    assert!(app.received().is_empty());
}

#[tokio::test]
async fn id_tokens_that_are_not_for_this_login_are_refused() {
    let (app, idp, gateway) = three("").await;
    let none = json!({});
    let claims = [
        (json!({"nonce": "another"}), "auth.oidc.nonce"),
        (json!({"nonce": null}), "auth.oidc.nonce"),
        (json!({"aud": "orders"}), "auth.jwt.audience"),
        (json!({"aud": ["shop", "orders"]}), "auth.jwt.audience"),
        (json!({"azp": "orders"}), "auth.jwt.audience"),
        (json!({"iss": "https://idp.example/"}), "auth.jwt.issuer"),
        (json!({"exp": 1}), "auth.jwt.expired"),
        (json!({"sub": null}), "auth.jwt.claims"),
        (
            json!({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}),
            "auth.oidc.at_hash",
        ),
    ];
    let others = [
        (json!({"typ": "at+jwt"}), none.clone(), "auth.oidc.token"),
        (json!({"alg": "none"}), none.clone(), "auth.jwt.algorithm"),
        (none.clone(), json!({"id_token": null}), "auth.oidc.token"),
        (
            none.clone(),
            json!({"id_token": "x.y.z"}),
            "auth.jwt.malformed",
        ),
        (
            none.clone(),
            json!({"token_type": "mac"}),
            "auth.oidc.token",
        ),
        (none.clone(), json!({"access_token": 1}), "auth.oidc.token"),
    ];
    let cases = claims
        .into_iter()
        .map(|(claims, reason)| (claims, none.clone(), none.clone(), reason));
    let others = others
        .into_iter()
        .map(|(header, answer, reason)| (none.clone(), header, answer, reason));
    for (claims, header, answer, reason) in cases.chain(others) {
        idp.claims(claims);
        idp.header(header);
        idp.answers(answer);
        let before = refused(&gateway, reason).await;
        let mut browser = Browser::default();
        let refusal = log_in(&mut browser, gateway.public(), &idp, "/").await;
        assert_eq!(refusal.status(), 403, "{reason}: {refusal:?}");
        assert_eq!(refused(&gateway, reason).await, before + 1.0, "{reason}");
        assert!(browser.cookie(SESSION).is_none());
        assert!(
            refusal.text().contains("auth.login") && !refusal.text().contains(reason),
            "{refusal:?}"
        );
    }
    idp.claims(none.clone());
    idp.header(none.clone());
    idp.answers(none);
    // signed by somebody who has not the key
    let mut browser = Browser::default();
    assert_eq!(
        log_in(&mut browser, gateway.public(), &idp, "/")
            .await
            .status(),
        302
    );
    idp.signs_with(Arc::new(Signer::new("ES256", "first")));
    let mut browser = Browser::default();
    assert_eq!(
        log_in(&mut browser, gateway.public(), &idp, "/")
            .await
            .status(),
        403
    );
    assert_eq!(refused(&gateway, "auth.jwt.signature").await, 1.0);
    assert!(app.received().is_empty());
}

#[tokio::test]
async fn answers_of_another_issuer_are_refused() {
    let (_app, idp) = (Origin::echo().await, Provider::start().await);
    idp.names_itself();
    let gateway = before(&_app, &idp, "").start().await;
    let public = gateway.public();
    for (issuer, status) in [
        (String::new(), 403),
        ("&iss=https://evil.example".into(), 403),
        (format!("&iss={}", idp.url()), 302),
    ] {
        let mut browser = Browser::default();
        let sent = browser.goes(public, "/").await;
        let target = format!("{}{issuer}", back(&idp.logs_in(&location(&sent))));
        assert_eq!(
            browser.goes(public, &target).await.status(),
            status,
            "{issuer}"
        );
    }
    assert_eq!(refused(&gateway, "auth.oidc.issuer").await, 2.0);
}

#[tokio::test]
async fn a_login_that_the_provider_declines_is_explained_and_quotes_nothing() {
    let (_app, idp, gateway) = three("").await;
    let public = gateway.public();
    let mut browser = Browser::default();
    let sent = browser.goes(public, "/").await;
    let (_, state) = idp.logs_in(&location(&sent));
    let target = format!(
        "/oauth2/callback?error=access_denied&error_description=<script>alert(1)</script>&state={state}"
    );
    let target = target.replace('<', "%3C").replace('>', "%3E");
    let refusal = browser.goes(public, &target).await;
    assert_eq!(refusal.status(), 403);
    assert!(refusal.text().contains("access was denied"), "{refusal:?}");
    assert!(!refusal.text().contains("script"));
    assert!(
        browser.cookies.is_empty(),
        "that login is over: {browser:?}",
        browser = browser.cookies
    );
    // without a login that was begun, an error says nothing either
    let target = format!("/oauth2/callback?error=access_denied&state={state}");
    assert!(
        browser
            .goes(public, &target)
            .await
            .text()
            .contains("has not begun this login")
    );
}

#[tokio::test]
async fn several_tabs_log_in_at_a_time_and_their_number_is_bounded() {
    let (_app, idp, gateway) = three("").await;
    let public = gateway.public();
    let mut browser = Browser::default();
    // three tabs of a browser that starts: none of the requests has a cookie of the others
    let mut tabs = Vec::new();
    for at in 0..3 {
        let mut tab = Browser::default();
        let sent = tab.goes(public, &format!("/tab{at}")).await;
        browser.keep(public, &sent);
        tabs.push(idp.logs_in(&location(&sent)));
    }
    for (at, answer) in tabs.iter().enumerate().rev() {
        let answer = browser.goes(public, &back(answer)).await;
        assert_eq!(location(&answer), format!("http://{public}/tab{at}"));
    }
    browser.cookies.retain(|(_, name, _)| name != SESSION);
    for at in 0..20 {
        let target = format!("/tab{at}?{}", "x".repeat(at * 40));
        assert_eq!(browser.goes(public, &target).await.status(), 302);
        let logins = browser
            .cookies
            .iter()
            .filter(|(_, name, _)| name.contains("-login-"));
        let bytes: usize = logins.clone().map(|(.., value)| value.len()).sum();
        assert!(logins.count() <= 5 && bytes <= 4096);
    }
}

#[tokio::test]
async fn requests_that_come_together_renew_once() {
    let (app, idp, gateway) = three("").await;
    let public = gateway.public();
    idp.expires_in(1);
    let mut browser = logged_in(&gateway, &idp).await;
    let old = browser.clone();
    idp.expires_in(300);
    // the tokens end
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let gate = Gate::closed();
    idp.is(Manner::Slow(gate.clone()));
    let header = browser.header(public).unwrap();
    let requests: Vec<_> = (0..8)
        .map(|at| {
            let call = script(&gateway, &format!("GET /{at}")).header("Cookie", &header);
            tokio::spawn(async move { call.send().await })
        })
        .collect();
    eventually("a renewal", async || {
        (!idp.asked("refresh_token").is_empty()).then_some(())
    })
    .await;
    gate.open();
    for request in requests {
        let answer = request.await.unwrap();
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert_eq!(
            answer.headers("set-cookie").len(),
            1,
            "each of them may be the last that the browser reads"
        );
        // no cache in between gives it to others
        assert_eq!(answer.header("cache-control"), Some("private, no-store"));
        browser.keep(public, &answer);
    }
    idp.is(Manner::Well);
    assert_eq!(idp.asked("refresh_token").len(), 1);
    assert_eq!(app.received().len(), 8);
    // a request that was on its way with the cookie from before gets the new one, and renews nothing
    let mut late = old;
    let answer = late.sends(public, script(&gateway, "GET /late")).await;
    assert_eq!(
        (answer.status(), answer.headers("set-cookie").len()),
        (200, 1)
    );
    assert_eq!(late.goes(public, "/").await.status(), 200);
    let answer = browser.goes(public, "/").await;
    assert_eq!(
        (answer.status(), answer.headers("set-cookie").len()),
        (200, 0)
    );
    assert_eq!(idp.asked("refresh_token").len(), 1);
    assert_eq!(happened(&gateway, "renewed").await, 1.0);
}

#[tokio::test]
async fn a_renewed_session_gets_its_cookie_with_whatever_is_answered() {
    let (app, idp) = (Origin::echo().await, Provider::start().await);
    // the same client in two policies: one session, and a callback that the other route takes
    let top = "policies:\n  auth: {oidc: {issuer: idp, client_id: shop, client_secret: \"s3cr&t+%\"}}\nroutes:";
    let yaml = format!(
        "{}\n  no: {{match: {{path: /no}}, service: app, policies: {{authorize: {{groups: [nobody]}}}}}}\n  \
         own: {{match: {{path: /own}}, respond: 204}}",
        GATEWAY.replace("routes:", top)
    );
    let gateway = Gateway::builder(&yaml)
        .file("secret", "s3cr&t+%")
        .with("app", &app)
        .with("idp", idp.url())
        .with("more", "")
        .start()
        .await;
    let public = gateway.public();
    for (path, status) in [("/no", 403), ("/own", 204), ("/page", 200)] {
        idp.expires_in(1);
        let mut browser = logged_in(&gateway, &idp).await;
        idp.expires_in(300);
        tokio::time::sleep(Duration::from_millis(2100)).await;
        let answer = browser.goes(public, path).await;
        assert_eq!(
            (answer.status(), answer.headers("set-cookie").len()),
            (status, 1),
            "{path}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_provider_that_is_down_ends_no_session_before_its_tokens_end() {
    let (_app, idp, gateway) = three("").await;
    let public = gateway.public();
    idp.expires_in(8);
    let mut browser = logged_in(&gateway, &idp).await;
    idp.is(Manner::Down);
    // a quarter of their life before they end, it is tried
    eventually("a try to renew", async || {
        assert_eq!(browser.goes(public, "/").await.status(), 200);
        (!idp.asked("refresh_token").is_empty()).then_some(())
    })
    .await;
    assert_eq!(browser.goes(public, "/").await.status(), 200);
    let asked = idp.asked("refresh_token").len();
    eventually("the tokens to end", async || {
        let answer = browser.goes(public, "/").await;
        (answer.status() == 503).then_some(())
    })
    .await;
    let answer = browser.sends(public, script(&gateway, "GET /")).await;
    assert_eq!(code(&answer), "auth.unavailable");
    assert!(
        idp.asked("refresh_token").len() <= asked + 1,
        "not with each request"
    );
    // nobody had to log in again
    idp.is(Manner::Well);
    eventually("the session to be renewed", async || {
        (browser.goes(public, "/").await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(idp.asked("authorization_code").len(), 1);
}

#[tokio::test]
async fn a_session_that_the_provider_takes_back_is_over() {
    let (_app, idp, gateway) = three("").await;
    let public = gateway.public();
    idp.expires_in(1);
    let mut browser = logged_in(&gateway, &idp).await;
    idp.revokes();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let answer = browser.sends(public, script(&gateway, "GET /api")).await;
    assert_eq!(
        (answer.status(), code(&answer).as_str()),
        (401, "auth.expired")
    );
    assert_eq!(refused(&gateway, "auth.oidc.ended").await, 1.0);
    // one that is somebody else's now is none either
    idp.expires_in(1);
    let answer = log_in(&mut browser, public, &idp, "/again").await;
    assert_eq!(location(&answer), format!("http://{public}/again"));
    idp.claims(json!({"sub": "mallory"}));
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let answer = browser.sends(public, script(&gateway, "GET /api")).await;
    assert_eq!(answer.status(), 401);
    assert_eq!(browser.goes(public, "/").await.status(), 302);
    assert_eq!(happened(&gateway, "renewal_refused").await, 2.0);
}

#[tokio::test]
async fn a_session_ends_by_age_and_without_use() {
    let (_app, idp, gateway) = three("session: {lifetime: 4s, idle: 2s}").await;
    let public = gateway.public();
    let mut used = logged_in(&gateway, &idp).await;
    let unused = used.clone();
    let mut renewed = 0;
    let began = std::time::Instant::now();
    eventually("the session to end by age", async || {
        let answer = used.sends(public, script(&gateway, "GET /api")).await;
        renewed += answer.headers("set-cookie").len();
        (answer.status() == 401).then(|| assert_eq!(code(&answer), "auth.expired"))
    })
    .await;
    assert!(began.elapsed() > Duration::from_secs(2), "it was in use");
    assert!(renewed > 0, "the browser was told that it was used");
    let header = unused.header(public).unwrap();
    let answer = script(&gateway, "GET /api")
        .header("Cookie", &header)
        .send()
        .await;
    assert_eq!(code(&answer), "auth.expired");
}

#[tokio::test]
async fn the_user_logs_out_and_no_other_site_does_it() {
    let (app, idp, gateway) = three("after_logout: /bye").await;
    let (public, host) = (gateway.public(), gateway.public().to_string());
    let mut browser = logged_in(&gateway, &idp).await;
    let kept = browser.clone();
    let out = |line: &str, fields: &[(&str, &str)]| {
        let call = Browser::as_page(gateway.call(line).host(&host));
        fields
            .iter()
            .fold(call, |call, (name, value)| call.header(name, value))
    };
    for call in [
        out("GET /oauth2/logout", &[("Sec-Fetch-Site", "cross-site")]),
        out("GET /oauth2/logout", &[]),
        // fetched ahead, from a link that nobody has followed
        out(
            "GET /oauth2/logout",
            &[
                ("Sec-Fetch-Site", "same-origin"),
                ("Sec-Purpose", "prefetch"),
            ],
        ),
    ] {
        let page = browser.sends(public, call).await;
        assert_eq!(page.status(), 200);
        assert!(
            page.text()
                .contains("<form method=\"post\" action=\"/oauth2/logout\">"),
            "{page:?}"
        );
        assert_eq!(page.header("x-frame-options"), Some("DENY"));
        // with `no-referrer` the form would come with `Origin: null`, and be taken for another site's
        assert_eq!(page.header("referrer-policy"), Some("same-origin"));
    }
    assert_eq!(browser.goes(public, "/").await.status(), 200);
    let count = app.received().len();

    let call = out(
        "POST /oauth2/logout",
        &[
            ("Sec-Fetch-Site", "same-origin"),
            ("Origin", &format!("http://{host}")),
        ],
    );
    let answer = browser.sends(public, call).await;
    assert_eq!(answer.status(), 303);
    let leads = location(&answer);
    let (endpoint, query) = leads.split_once('?').unwrap();
    assert_eq!(endpoint, format!("{}/end", idp.url()));
    let query = parameters(query);
    assert_eq!(value(&query, "client_id"), "shop");
    assert_eq!(
        value(&query, "post_logout_redirect_uri"),
        format!("http://{host}/bye")
    );
    assert_eq!(value(&query, "id_token_hint").split('.').count(), 3);
    assert!(browser.cookies.is_empty());
    assert_eq!(browser.goes(public, "/").await.status(), 302);
    // whoever has kept the cookie has nothing
    let header = kept.header(public).unwrap();
    let answer = script(&gateway, "GET /api")
        .header("Cookie", &header)
        .send()
        .await;
    assert_eq!(
        (answer.status(), code(&answer).as_str()),
        (401, "auth.expired")
    );
    assert_eq!(app.received().len(), count);
}

#[tokio::test]
async fn a_session_that_was_tampered_with_is_none() {
    let (app, idp, gateway) = three("").await;
    let public = gateway.public();
    let browser = logged_in(&gateway, &idp).await;
    let good = browser.cookie(SESSION).unwrap().to_owned();
    let login = {
        let mut other = Browser::default();
        other.goes(public, "/").await;
        other.cookies[0].2.clone()
    };
    let flipped = |at: usize| {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let length = good.len();
    for forged in [
        flipped(2),
        flipped(20),
        flipped(40),
        flipped(length / 2),
        flipped(length - 1),
        flipped(length - 24),
        good[..length - 4].to_owned(),
        format!("{good}AAAA"),
        good.replacen("1.", "2.", 1),
        good.replacen("1.", "", 1),
        String::new(),
        "1.".into(),
        "1.e30".into(),
        format!("1.{login}"),
        format!("{good}; {SESSION}={good}"),
    ] {
        let mut tried = browser.clone();
        tried.set(SESSION, &forged);
        let answer = tried.sends(public, script(&gateway, "GET /api")).await;
        assert_eq!(
            (answer.status(), code(&answer).as_str()),
            (401, "auth.invalid"),
            "{forged}"
        );
        assert_eq!(tried.goes(public, "/").await.status(), 302);
    }
    assert!(app.received().is_empty());
    assert_eq!(refused(&gateway, "auth.oidc.session").await, 30.0);
    assert_eq!(browser.clone().goes(public, "/").await.status(), 200);
}

#[tokio::test]
async fn a_large_session_takes_several_cookies_and_one_too_large_is_refused() {
    let (app, idp, gateway) = three("").await;
    let public = gateway.public();
    idp.claims(json!({"roles": vec!["a-group-with-a-long-name"; 100]}));
    let mut browser = logged_in(&gateway, &idp).await;
    assert!(browser.cookie(&format!("{SESSION}.1")).is_some());
    assert!(
        browser
            .cookies
            .iter()
            .all(|(_, name, value)| name.len() + value.len() < 4000)
    );
    assert_eq!(browser.goes(public, "/").await.status(), 200);
    assert!(app.last().headers("cookie").is_empty());
    browser
        .cookies
        .retain(|(_, name, _)| name != &format!("{SESSION}.1"));
    assert_eq!(
        browser
            .sends(public, script(&gateway, "GET /"))
            .await
            .status(),
        401
    );
    // a smaller one takes their place, and leaves nothing of it
    idp.claims(json!({}));
    let mut browser = logged_in(&gateway, &idp).await;
    assert!(browser.cookie(&format!("{SESSION}.1")).is_none());
    assert_eq!(browser.goes(public, "/").await.status(), 200);

    idp.claims(json!({"roles": vec!["a-group-with-a-long-name"; 200]}));
    idp.answers(json!({"refresh_token": "x".repeat(4000)}));
    let mut browser = Browser::default();
    let refusal = log_in(&mut browser, public, &idp, "/").await;
    assert_eq!(refusal.status(), 403);
    assert_eq!(refused(&gateway, "auth.oidc.too_large").await, 1.0);
}

#[tokio::test]
async fn redirects_are_of_this_origin_only() {
    let (_app, idp, gateway) = three("login: /oauth2/login").await;
    let public = gateway.public();
    for (target, expected) in [
        // slashes are one by then
        ("//evil.example/", "/evil.example/"),
        ("/%5Cevil.example", "/%5Cevil.example"),
        ("/a?to=https://evil.example/", "/a?to=https://evil.example/"),
        ("/oauth2/login?to=/page%3Fx=1", "/page?x=1"),
        ("/oauth2/login?to=https://evil.example/", "/"),
        ("/oauth2/login?to=//evil.example/", "/"),
        ("/oauth2/login?to=/%5Cevil.example/", "/"),
        ("/oauth2/login?to=%2F%09%2Fevil.example/", "/"),
        ("/oauth2/login", "/"),
        // whoever made the link would log people out, as a page of our own
        ("/oauth2/login?to=/oauth2/logout", "/"),
        ("/oauth2/login?to=/oauth2/x/../%256Cogout%3Fa", "/"),
        ("/oauth2/login?to=/oauth2/login%3Fto=/oauth2/logout", "/"),
    ] {
        let mut browser = Browser::default();
        let call = Call::new(public, &format!("GET {target}")).host(&public.to_string());
        let sent = browser.sends(public, Browser::as_page(call)).await;
        if sent.status() == 400 {
            continue;
        }
        let answer = idp.logs_in(&location(&sent));
        let answer = browser.goes(public, &back(&answer)).await;
        assert_eq!(
            location(&answer),
            format!("http://{public}{expected}"),
            "{target}"
        );
    }
}

#[tokio::test]
async fn over_tls_cookies_are_of_this_host_alone_and_in_clear_there_are_none() {
    let (app, idp) = (Origin::echo().await, Provider::start().await);
    let yaml = format!("trusted_proxies: [127.0.0.1/32]\n{GATEWAY}");
    let start = |yaml: &str, more: &str| {
        Gateway::builder(yaml)
            .file("secret", "s3cr&t+%")
            .with("app", &app)
            .with("idp", idp.url())
            .with("more", more)
    };
    let gateway = start(&yaml, "").start().await;
    let call = |from: &str, proto: &str| {
        let call = gateway
            .call("GET /")
            .host("app.example.com")
            .from(format!("{from}:0").parse().unwrap());
        Browser::as_page(call.header("X-Forwarded-Proto", proto))
    };
    let sent = call("127.0.0.1", "https").send().await;
    let asked = location(&sent);
    let query = parameters(asked.split_once('?').unwrap().1);
    assert_eq!(
        value(&query, "redirect_uri"),
        "https://app.example.com/oauth2/callback"
    );
    let cookie = sent.header("set-cookie").unwrap().to_owned();
    assert!(
        cookie.starts_with("__Host-northgate-session-login-") && cookie.ends_with("; Secure"),
        "{cookie}"
    );
    // who is no proxy of ours says nothing about TLS
    let clear = call("127.0.0.7", "https").send().await;
    assert_eq!(clear.status(), 403, "{clear:?}");
    assert!(clear.headers("set-cookie").is_empty());
    assert_eq!(refused(&gateway, "auth.oidc.clear").await, 1.0);

    let pair = cookie.split(';').next().unwrap();
    let (code, state) = idp.logs_in(&asked);
    let finish = gateway
        .call(&format!("GET {}", back(&(code, state))))
        .host("app.example.com");
    let finish = finish
        .from("127.0.0.1:0".parse().unwrap())
        .header("X-Forwarded-Proto", "https")
        .header("Cookie", pair);
    let done = finish.send().await;
    assert_eq!(location(&done), "https://app.example.com/");
    let session = done.headers("set-cookie")[0].to_owned();
    assert!(
        session.starts_with("__Host-northgate-session=1.")
            && session.ends_with("; HttpOnly; SameSite=Lax; Secure"),
        "{session}"
    );

    // an origin that is configured is the one, whatever is asked for
    let gateway = start(GATEWAY, "origin: https://app.example.com")
        .start()
        .await;
    let sent = Browser::as_page(gateway.call("GET /").host("evil.example"))
        .send()
        .await;
    let asked = location(&sent);
    let query = parameters(asked.split_once('?').unwrap().1);
    assert_eq!(
        value(&query, "redirect_uri"),
        "https://app.example.com/oauth2/callback"
    );
    assert!(sent.header("set-cookie").unwrap().starts_with("__Host-"));
}

#[tokio::test]
async fn a_strict_session_is_set_by_a_page_of_our_own() {
    let (_app, idp, gateway) = three("session: {same_site: strict, cookie: sid}").await;
    let mut browser = Browser::default();
    let answer = log_in(&mut browser, gateway.public(), &idp, "/a?b=1&c='").await;
    assert_eq!(answer.status(), 200);
    assert!(
        answer.text().contains("content=\"0; url=http://")
            && answer.text().contains("/a?b=1&amp;c=&#39;\""),
        "{answer:?}"
    );
    assert!(answer.headers("set-cookie")[0].contains("SameSite=Strict"));
    assert!(browser.cookie("sid").is_some());
}

#[tokio::test]
async fn beside_other_methods_and_for_nobody_in_particular() {
    let (app, idp) = (Origin::echo().await, Provider::start().await);
    let yaml = r#"
secrets: {cookies: "a secret of some length", digests: "another secret of some length"}
services: {app: {endpoints: "$app"}}
issuers: {idp: {issuer: "$idp"}}
consumers: {acme: {credentials: {api_key: {key: "a-key-of-some-length-01"}}}}
routes:
  app:
    match: {path: /**}
    service: app
    policies:
      auth:
        any_of: [{api_key: {header: x-api-key}}, {oidc: {issuer: idp, client_id: shop, client_secret: "s3cr&t+%", login: /oauth2/login}}]
        $anonymous
"#;
    let start = |anonymous: &str| {
        Gateway::builder(yaml)
            .with("app", &app)
            .with("idp", idp.url())
            .with("anonymous", anonymous)
    };
    let gateway = start("").start().await;
    let public = gateway.public();
    let key = |call: Call| call.header("X-Api-Key", "a-key-of-some-length-01");
    assert_eq!(key(script(&gateway, "GET /")).send().await.status(), 200);
    assert_eq!(app.last().header("x-consumer-id"), Some("acme"));
    let mut browser = logged_in(&gateway, &idp).await;
    assert_eq!(browser.goes(public, "/").await.status(), 200);
    let both = browser.sends(public, key(script(&gateway, "GET /"))).await;
    assert_eq!(code(&both), "auth.invalid");
    let none = script(&gateway, "GET /").send().await;
    assert_eq!(none.headers("www-authenticate").len(), 2, "{none:?}");

    let gateway = start("anonymous: allow").start().await;
    let public = gateway.public();
    let mut browser = Browser::default();
    assert_eq!(browser.goes(public, "/").await.status(), 200);
    assert!(app.last().headers("x-auth-subject").is_empty());
    let sent = browser.goes(public, "/oauth2/login?to=/mine").await;
    let answer = browser
        .goes(public, &back(&idp.logs_in(&location(&sent))))
        .await;
    assert_eq!(location(&answer), format!("http://{public}/mine"));
    assert_eq!(browser.goes(public, "/mine").await.status(), 200);
    assert_eq!(app.last().header("x-auth-subject"), Some("alice"));
}

#[tokio::test]
async fn sessions_outlive_a_reload_a_restart_and_the_replacement_of_their_secret() {
    let (app, idp, mut gateway) = three("").await;
    let public = gateway.public();
    let mut browser = logged_in(&gateway, &idp).await;
    gateway.set("more", "parameters: {prompt: login}");
    gateway.reload_to(GATEWAY).await;
    assert_eq!(browser.goes(public, "/").await.status(), 200);
    let sent = Browser::default().goes(public, "/").await;
    assert!(location(&sent).ends_with("&prompt=login"));

    let both = GATEWAY.replace(
        "\"a secret of some length\"",
        "[\"the next secret, as long\", \"a secret of some length\"]",
    );
    gateway.reload_to(&both).await;
    assert_eq!(browser.goes(public, "/").await.status(), 200);
    let next = logged_in(&gateway, &idp).await;
    let only = GATEWAY.replace("a secret of some length", "the next secret, as long");
    gateway.reload_to(&only).await;
    assert_eq!(next.clone().goes(public, "/").await.status(), 200);
    assert_eq!(browser.goes(public, "/").await.status(), 302);

    // another gateway with the secret takes it too
    let second = Gateway::builder(&only)
        .file("secret", "s3cr&t+%")
        .with("app", &app)
        .with("idp", idp.url())
        .with("more", "")
        .start()
        .await;
    let header = next.header(public).unwrap();
    assert_eq!(
        script(&second, "GET /")
            .header("Cookie", &header)
            .send()
            .await
            .status(),
        200
    );
    // and one of another client does not
    let other = Gateway::builder(&only.replace("client_id: shop", "client_id: other"))
        .file("secret", "s3cr&t+%")
        .with("app", &app)
        .with("idp", idp.url())
        .with("more", "")
        .start()
        .await;
    assert_eq!(
        script(&other, "GET /")
            .header("Cookie", &header)
            .send()
            .await
            .status(),
        401
    );
}

#[tokio::test]
async fn codes_and_tokens_are_in_no_log() {
    let (_app, idp, gateway) = three("").await;
    let public = gateway.public();
    idp.expires_in(1);
    let mut browser = Browser::default();
    let sent = browser.goes(public, "/page").await;
    let (code_, state) = idp.logs_in(&location(&sent));
    browser
        .goes(public, &back(&(code_.clone(), state.clone())))
        .await;
    let session = browser.cookie(SESSION).unwrap().to_owned();
    // it is renewed, and then it can't be
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(browser.goes(public, "/a").await.status(), 200);
    idp.is(Manner::Says(
        400,
        "{\"error\": \"invalid_client: refresh-secret\"}".into(),
    ));
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(browser.goes(public, "/b").await.status(), 503);
    idp.is(Manner::Says(400, "{\"error\": \"invalid_grant\"}".into()));
    let mut other = Browser::default();
    assert_eq!(log_in(&mut other, public, &idp, "/").await.status(), 403);

    gateway.signal(nix::sys::signal::Signal::SIGUSR1);
    let log = gateway.dir().join("access.log");
    let text = eventually("the log", async || {
        let text = std::fs::read_to_string(&log).ok()?;
        (text.lines().count() >= 6).then_some(text)
    })
    .await;
    assert!(text.contains("code=***&state=***"), "{text}");
    assert!(text.contains("auth.oidc.code"), "{text}");
    let status = gateway.status().await.to_string();
    let metrics = gateway.metrics().await.text().to_owned();
    for shown in [&text, &gateway.stderr(), &status, &metrics] {
        for secret in [
            &*code_,
            &*state,
            &session[10..40],
            "-secret",
            "s3cr&t",
            "refresh-secret",
        ] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
}

#[tokio::test]
async fn where_nobody_knows_the_provider_yet_logins_wait() {
    let app = Origin::echo().await;
    let gateway = Gateway::builder(&format!("warm_timeout: 100ms\n{GATEWAY}"))
        .file("secret", "s3cr&t+%")
        .with("app", &app)
        .with("idp", "http://127.0.0.1:9")
        .with("more", "")
        .start()
        .await;
    let answer = Browser::default().goes(gateway.public(), "/").await;
    assert_eq!(answer.status(), 503);
    assert!(answer.text().contains("unready.keys"));
    let answer = script(&gateway, "GET /").send().await;
    assert_eq!(answer.status(), 401);
}

#[tokio::test]
async fn explain_takes_a_session_and_shows_whose_it_is() {
    let (_app, idp, gateway) = three("").await;
    let browser = logged_in(&gateway, &idp).await;
    let url = format!("http://{}/", gateway.public());
    let header = format!("cookie: {}", browser.header(gateway.public()).unwrap());
    let told = gateway
        .command(&["explain", "GET", &url, "-H", &header])
        .await;
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(
        told.stdout.contains("alice") && told.stdout.contains("oidc"),
        "{}",
        told.stdout
    );
    let session = browser.cookie(SESSION).unwrap();
    assert!(!told.stdout.contains(&session[10..40]), "{}", told.stdout);
    let forged = header.replace("=1.", "=1.A");
    let told = gateway
        .command(&["explain", "GET", &url, "-H", &forged])
        .await;
    assert!(told.stdout.contains("auth.oidc.session"), "{}", told.stdout);
}

#[tokio::test]
async fn pages_of_other_sites_do_nothing_with_a_session() {
    let (app, idp, gateway) = three("").await;
    let (public, host) = (gateway.public(), gateway.public().to_string());
    let mut browser = logged_in(&gateway, &idp).await;
    let call = |line: &str| gateway.call(line).host(&host);
    for forged in [
        call("POST /form").header("Origin", "https://evil.example"),
        call("POST /form").header("Sec-Fetch-Site", "cross-site"),
        call("DELETE /a").header("Origin", "null"),
    ] {
        let answer = browser.sends(public, forged).await;
        assert_eq!(
            (answer.status(), code(&answer).as_str()),
            (403, "auth.cross_site")
        );
    }
    assert!(app.received().is_empty());
    // a link leads here, and a page of our own may do anything
    let link = Browser::as_page(call("GET /").header("Sec-Fetch-Site", "cross-site"));
    assert_eq!(browser.sends(public, link).await.status(), 200);
    let own = call("POST /form").header("Origin", &format!("http://{host}"));
    assert_eq!(browser.sends(public, own).await.status(), 200);
}

#[tokio::test]
async fn a_logout_while_tokens_are_renewed_stays_one() {
    let (app, idp, gateway) = three("").await;
    let (public, host) = (gateway.public(), gateway.public().to_string());
    idp.expires_in(1);
    let mut browser = logged_in(&gateway, &idp).await;
    idp.expires_in(300);
    let header = browser.header(public).unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let gate = Gate::closed();
    idp.is(Manner::Slow(gate.clone()));
    let call = script(&gateway, "GET /slow").header("Cookie", &header);
    let waiting = tokio::spawn(async move { call.send().await });
    eventually("a renewal", async || {
        (!idp.asked("refresh_token").is_empty()).then_some(())
    })
    .await;
    let call = Browser::as_page(gateway.call("POST /oauth2/logout").host(&host));
    let call = call.header("Origin", &format!("http://{host}"));
    assert_eq!(browser.sends(public, call).await.status(), 303);
    gate.open();
    let answer = waiting.await.unwrap();
    assert_eq!(answer.status(), 401, "{answer:?}");
    assert!(answer.headers("set-cookie").is_empty());
    let call = script(&gateway, "GET /late").header("Cookie", &header);
    assert_eq!(call.send().await.status(), 401);
    assert!(app.received().is_empty());
}

#[tokio::test]
async fn a_cookie_from_before_a_renewal_elsewhere_does_not_end_the_session() {
    let (app, idp) = (Origin::echo().await, Provider::start().await);
    let one = before(&app, &idp, "").start().await;
    let other = before(&app, &idp, "").start().await;
    idp.expires_in(1);
    let mut browser = logged_in(&one, &idp).await;
    let old = browser.header(one.public()).unwrap();
    idp.expires_in(300);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(browser.goes(one.public(), "/").await.status(), 200);
    let new = browser.header(one.public()).unwrap();
    assert_ne!(old, new);
    // the provider takes each refresh token once
    let at_other = |cookie: &str| script(&other, "GET /").header("Cookie", cookie);
    assert_eq!(at_other(&old).send().await.status(), 401);
    assert_eq!(at_other(&new).send().await.status(), 200);
    assert_eq!(at_other(&old).send().await.status(), 401);
    assert_eq!(idp.asked("refresh_token").len(), 2);
}

#[tokio::test]
async fn what_sets_a_cookie_is_kept_by_nobody_whatever_headers_are_configured() {
    let (app, idp) = (Origin::echo().await, Provider::start().await);
    let headers = "headers: {response: {set: {cache-control: \"public, max-age=60\", cdn-cache-control: max-age=60}}}\n      auth:";
    let gateway = Gateway::builder(&GATEWAY.replace("auth:", headers))
        .file("secret", "s3cr&t+%")
        .with("app", &app)
        .with("idp", idp.url())
        .with("more", "session: {idle: 8s}")
        .start()
        .await;
    let public = gateway.public();
    let mut browser = Browser::default();
    let sent = browser.goes(public, "/").await;
    let returned = browser
        .goes(public, &back(&idp.logs_in(&location(&sent))))
        .await;
    let page = browser.goes(public, "/").await;
    assert_eq!(page.header("cache-control"), Some("public, max-age=60"));
    let seen = eventually("a cookie that says that it was seen", async || {
        let answer = browser.goes(public, "/").await;
        (!answer.headers("set-cookie").is_empty()).then_some(answer)
    })
    .await;
    for answer in [sent, returned, seen] {
        let said = answer.headers("cache-control");
        assert!(
            said.len() == 1 && said[0].contains("no-store"),
            "{answer:?}"
        );
        assert!(answer.headers("cdn-cache-control").is_empty(), "{answer:?}");
    }
}

#[tokio::test]
async fn cookies_without_number_are_not_each_taken_away() {
    let (_app, _idp, gateway) = three("").await;
    let host = gateway.public().to_string();
    let sessions = format!("{SESSION}=1.A; {SESSION}.1=A; ").repeat(100);
    let logins: Vec<String> = (0..100)
        .map(|at| format!("{SESSION}-login-{at:022}=x"))
        .collect();
    for (cookies, most) in [(sessions, 3), (logins.join("; "), 20)] {
        let call = Browser::as_page(gateway.call("GET /").host(&host));
        let answer = call.header("Cookie", &cookies).send().await;
        let set = answer.headers("set-cookie").len();
        assert!(set > 1 && set <= most + 1, "{set}");
    }
}
