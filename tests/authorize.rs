//! Who may do what, once it is known who calls: the order of the stages, what endpoints are told, and what clients are
//! not told.

use crate::harness::{Gateway, Issuer, Message, Origin, northgate};
use serde_json::json;

const KEYS: &str = r#"
identity_headers: {consumer: X-Caller, scopes: X-Caller-Scopes}
plans: {gold: {}, free: {}}
consumers:
  acme: {plan: gold, groups: [partners, clerks], credentials: {api_key: {id: acme-1, key: "key-of-acme-0123456789"}}}
  shop: {plan: free, groups: shops, credentials: {api_key: {id: shop-1, key: "key-of-shop-0123456789"}}}
services: {app: {endpoints: "$app"}}
routes:
  consumers: {match: {path: /consumers}, service: app, policies: {auth: {api_key: on}, authorize: {consumers: acme}}}
  groups: {match: {path: /groups}, service: app, policies: {auth: {api_key: on}, authorize: {groups: [clerks, x]}}}
  plans: {match: {path: /plans}, service: app, policies: {auth: {api_key: on}, authorize: {plans: gold}}}
  both:
    match: {path: /both}
    service: app
    policies: {auth: {api_key: on}, authorize: {groups: [partners, shops]}, authorize.plan: {plans: gold}}
  rule:
    match: {path: "/tenants/{name}/**"}
    service: app
    policies:
      auth: {api_key: on}
      authorize: {expression: "params.name == consumer && (method == 'GET' || 'clerks' in groups)"}
  nobody:
    match: {path: /nobody}
    service: app
    policies: {auth: {api_key: on, anonymous: allow}, authorize: {consumers: [acme, shop]}}
  shadow:
    match: {path: /shadow}
    service: app
    policies: {auth: {api_key: on}, authorize: {consumers: other, mode: shadow}}
  shadowed:
    match: {path: /shadowed}
    service: app
    policies: {auth: {api_key: on, mode: shadow}}
  browser:
    match: {path: /browser}
    service: app
    policies:
      auth: {api_key: on}
      cors: {origins: "https://shop.test", headers: [x-api-key]}
      headers: {request: {set: {x-who: "{consumer}/{plan}/{group}/{credential}"}}}
  open: {match: {path: /open}, service: app}
"#;

async fn gateway() -> (Gateway, Origin) {
    let app = Origin::echo().await;
    let gateway = Gateway::builder(KEYS).with("app", &app).start().await;
    (gateway, app)
}

async fn asked(gateway: &Gateway, line: &str, who: &str) -> Message {
    let key = format!("key-of-{who}-0123456789");
    gateway.call(line).header("X-API-Key", &key).send().await
}

#[tokio::test]
async fn whoever_may_passes_and_nobody_else_does() {
    let (gateway, app) = gateway().await;
    for (line, acme, shop) in [
        ("GET /consumers", 200, 403),
        ("GET /groups", 200, 403),
        ("GET /plans", 200, 403),
        ("GET /both", 200, 403),
        ("GET /tenants/acme/x", 200, 403),
        ("GET /tenants/shop/x", 403, 200),
        ("DELETE /tenants/acme/x", 200, 403),
        ("DELETE /tenants/shop/x", 403, 403),
        ("GET /nobody", 200, 200),
        ("GET /shadow", 200, 200),
    ] {
        for (who, status) in [("acme", acme), ("shop", shop)] {
            let answer = asked(&gateway, line, who).await;
            assert_eq!(answer.status(), status, "{line} by {who}");
            if status == 403 {
                assert_eq!(answer.problem(), "authorize.denied");
                // no token helps who has a key
                assert!(answer.headers("www-authenticate").is_empty());
                assert!(!answer.text().contains("acme") && !answer.text().contains("gold"));
            }
        }
    }
    let before = app.received().len();
    // a credential is asked for first, and nobody is nobody even where nobody is let in
    assert_eq!(gateway.get("/consumers").await.status(), 401);
    assert_eq!(gateway.get("/nobody").await.status(), 403);
    assert_eq!(asked(&gateway, "GET /nobody", "other").await.status(), 401);
    assert_eq!(app.received().len(), before);
    let labels = [
        ("policy", "route.shadow/authorize"),
        ("decision", "refuse"),
        ("mode", "shadow"),
    ];
    gateway
        .counts("northgate_policy_decisions_total", &labels, 2.0)
        .await;
}

#[tokio::test]
async fn endpoints_are_told_who_calls_and_clients_can_not_tell_them() {
    let (gateway, app) = gateway().await;
    let forged = |line: &str| {
        gateway
            .call(line)
            .header("X-Caller", "root")
            .header("x_caller", "root")
            .header("X-Caller-Scopes", "all")
            .header("X-Consumer-Id", "root")
            .header("X-Consumer-Plan", "gold")
            .header("X-Auth-Subject", "root")
    };
    // a route without `auth` says nothing, and lets nothing be said
    assert_eq!(forged("GET /open").send().await.status(), 200);
    let got = app.last();
    for name in [
        "x-caller",
        "x_caller",
        "x-caller-scopes",
        "x-consumer-id",
        "x-consumer-plan",
        "x-auth-subject",
    ] {
        assert_eq!(got.header(name), None, "{name}");
    }
    // nor does one whose `auth` only looks on, and that leaves the credential where it is
    let key = "key-of-acme-0123456789";
    let shadowed = forged("GET /shadowed").header("X-API-Key", key);
    assert_eq!(shadowed.send().await.status(), 200);
    let got = app.last();
    assert_eq!(got.header("x-caller"), None);
    assert_eq!(got.header("x-api-key"), Some(key));
    let known = forged("GET /browser").header("X-API-Key", key);
    assert_eq!(known.send().await.status(), 200);
    let got = app.last();
    assert_eq!(got.headers("x-caller"), ["acme"]);
    assert_eq!(got.headers("x-consumer-plan"), ["gold"]);
    assert_eq!(got.header("x-consumer-id"), None);
    assert_eq!(got.header("x-auth-subject"), None);
    assert_eq!(got.header("x-api-key"), None);
    assert_eq!(
        got.header("x-who"),
        Some("acme/gold/partners,clerks/acme-1")
    );
}

#[tokio::test]
async fn a_preflight_is_answered_before_anybody_is_asked_who_calls() {
    let (gateway, app) = gateway().await;
    let preflight = gateway
        .call("OPTIONS /browser")
        .header("Origin", "https://shop.test")
        .header("Access-Control-Request-Method", "GET")
        .header("Access-Control-Request-Headers", "x-api-key")
        .send()
        .await;
    assert_eq!(preflight.status(), 204);
    // the refusal can be read by the page
    let refused = gateway
        .call("GET /browser")
        .header("Origin", "https://shop.test")
        .send()
        .await;
    assert_eq!(
        (refused.status(), refused.problem()),
        (401, "auth.missing".to_owned())
    );
    assert_eq!(
        refused.header("access-control-allow-origin"),
        Some("https://shop.test")
    );
    assert!(app.received().is_empty());
    // what no route takes needs no credential to be told so
    assert_eq!(gateway.get("/elsewhere").await.status(), 404);
}

#[tokio::test]
async fn explain_says_who_calls_and_why_that_is_not_enough() {
    let (gateway, _app) = gateway().await;
    let config = gateway.config().display().to_string();
    let explain = async |url: &str, key: &str| {
        let header = format!("X-API-Key: {key}");
        let output = northgate(&["explain", "-c", &config, "GET", url, "-H", &header]).await;
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        output.stdout
    };
    let told = explain("http://x.test/groups", "key-of-shop-0123456789").await;
    assert!(told.contains("consumer shop"), "{told}");
    assert!(
        told.contains("403 by route.groups/authorize (authorize.denied)"),
        "{told}"
    );
    assert!(told.contains("authorize.group"), "{told}");
    let told = explain("http://x.test/groups", "key-of-nobody-01234567").await;
    assert!(
        told.contains("401 by route.groups/auth (auth.invalid)"),
        "{told}"
    );
    assert!(told.contains("auth.key.unknown"), "{told}");
    assert!(!told.contains("key-of-nobody"), "{told}");
}

/// A client has to learn every way in, and hears of a token only if it sent one (RFC 9110 §11.6.1, RFC 6750 §3.1).
#[tokio::test]
async fn a_refusal_names_every_way_in() {
    let issuer = Issuer::start().await;
    let gateway = Gateway::builder(
        r#"
consumers:
  acme: {credentials: {api_key: {id: acme-1, key: "key-of-acme-0123456789"}}}
issuers: {idp: {issuer: "$issuer", audience: orders}}
policies: {auth: {any_of: [{jwt: idp}, {api_key: on}]}}
routes: {all: {match: {path: /**}, respond: 204}}
"#,
    )
    .with("issuer", issuer.url())
    .start()
    .await;
    let (plain, key) = ("Bearer realm=\"api\"", "ApiKey realm=\"restricted\"");
    let invalid = "Bearer realm=\"api\", error=\"invalid_token\"";
    for (name, value, challenges) in [
        ("X-Nothing", "x", [plain, key]),
        ("X-API-Key", "wrong", [plain, key]),
        ("Authorization", "Bearer wrong", [invalid, key]),
    ] {
        let call = || gateway.call("POST /a").header(name, value);
        let answer = call().send().await;
        assert_eq!(answer.status(), 401, "{name}");
        assert_eq!(answer.headers("www-authenticate"), challenges, "{name}");
        let call = call().header("Content-Type", "application/grpc");
        let answer = call.send().await;
        assert_eq!(answer.header("grpc-status"), Some("16"), "{name}");
        assert_eq!(answer.headers("www-authenticate"), challenges, "{name}");
    }
}

/// What a claim holds reaches an endpoint as the consumer that the gateway judged, or as something that no consumer is
/// called: endpoints cut blanks off, and lose lines.
#[tokio::test]
async fn no_name_in_a_token_passes_for_another_at_the_endpoint() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    let gateway = Gateway::builder(
        r#"
issuers: {idp: {issuer: "$issuer", audience: orders, consumer: azp}}
services: {app: {endpoints: "$app"}}
policies: {auth: {jwt: idp}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .with("app", &app)
    .with("issuer", issuer.url())
    .start()
    .await;
    for (name, told) in [
        ("acme", "acme"),
        (" acme", "%20acme"),
        ("acme\t ", "acme%09%20"),
        ("a b", "a b"),
        ("acme\r\nX-Admin: 1", "acme%0D%0AX-Admin: 1"),
        (" ", "%20"),
        ("caf\u{e9}", "caf%C3%A9"),
    ] {
        let token = issuer.token(json!({"azp": name, "sub": name}));
        let call = gateway.call("GET /a");
        let call = call.header("Authorization", &format!("Bearer {token}"));
        assert_eq!(call.send().await.status(), 200, "{name:?}");
        let got = app.last();
        assert_eq!(got.header("x-consumer-id"), Some(told), "{name:?}");
        assert_eq!(got.header("x-auth-subject"), Some(told), "{name:?}");
    }
}

/// A credential that a method would not look at must not pass for none.
#[tokio::test]
async fn blanks_of_any_kind_stand_between_a_scheme_and_its_token() {
    let issuer = Issuer::start().await;
    let gateway = Gateway::builder(
        r#"
issuers: {idp: {issuer: "$issuer", audience: orders}}
policies: {auth: {jwt: idp, anonymous: allow}}
routes: {all: {match: {path: /**}, respond: 204}}
"#,
    )
    .with("issuer", issuer.url())
    .start()
    .await;
    assert_eq!(gateway.get("/a").await.status(), 204);
    let good = issuer.token(json!({}));
    for between in [" ", "\t", " \t "] {
        for (token, status) in [("wrong", 401), (&*good, 204)] {
            let value = format!("Bearer{between}{token}");
            let call = gateway.call("GET /a").header("Authorization", &value);
            assert_eq!(call.send().await.status(), status, "{between:?}");
        }
    }
}

const CHALLENGES: &str = r#"
secrets: {digests: "0123456789abcdef0123456789abcdef"}
consumers:
  acme: {groups: clerks, credentials: {api_key: {id: acme-1, key: "key-of-acme-0123456789"}, signature: {id: acme-s, key: "0123456789abcdef0123456789abcdef"}}}
credential_files: {basic: "$dir/users"}
issuers: {idp: {issuer: "$issuer", audience: orders, groups: roles}}
services: {app: {endpoints: "$app"}}
routes:
  token: {match: {path: /token}, service: app, policies: {auth: {jwt: idp}, authorize: {groups: clerks}, authorize.scope: {scopes: [read, write]}}}
  opaque:
    match: {path: /opaque}
    service: app
    policies: {auth: {introspection: {url: "$issuer/introspect", client_id: a, client_secret: "b"}}}
  password: {match: {path: /password}, service: app, policies: {auth: {basic: {realm: reports}}}}
  key: {match: {path: /key}, service: app, policies: {auth: {api_key: on}}}
  signature: {match: {path: /signature}, service: app, policies: {auth: {signature: on}}}
  any: {match: {path: /any}, service: app, policies: {auth: {any_of: [{jwt: idp}, {basic: {realm: reports}}, {api_key: on}]}}}
"#;

/// RFC 9110 §11.6.1 and RFC 6750 §3: what to send, and what was wrong with what was sent, by its code and no more.
#[tokio::test]
async fn a_401_says_what_to_send_and_a_403_says_no_more_than_it_has_to() {
    let (app, issuer) = (Origin::echo().await, Issuer::start().await);
    // `anna` has the password `secret`
    let users = "anna:$2y$05$abcdefghijklmnopqrstuu5s7v7bW4iBMWVnZb5Sx9M6ZAcKq3XGe\n";
    let gateway = Gateway::builder(CHALLENGES)
        .file("users", users)
        .with("app", &app)
        .with("issuer", issuer.url())
        .start()
        .await;
    let missing = [
        ("/token", vec!["Bearer realm=\"api\""]),
        ("/opaque", vec!["Bearer realm=\"api\""]),
        (
            "/password",
            vec!["Basic realm=\"reports\", charset=\"UTF-8\""],
        ),
        ("/key", vec![""]),
        ("/signature", vec![""]),
        (
            "/any",
            vec![
                "Bearer realm=\"api\"",
                "Basic realm=\"reports\", charset=\"UTF-8\"",
                "",
            ],
        ),
    ];
    for (path, challenges) in &missing {
        let answer = gateway.get(path).await;
        assert_eq!(
            (answer.status(), &*answer.problem()),
            (401, "auth.missing"),
            "{path}"
        );
        let found = answer.headers("www-authenticate");
        assert_eq!(found.len(), challenges.len(), "{path} {found:?}");
        for (found, expected) in found.iter().zip(challenges) {
            assert!(
                !found.contains("error"),
                "nothing was wrong (RFC 6750 §3.1): {found}"
            );
            assert!(expected.is_empty() || found == expected, "{path} {found}");
        }
    }
    let bearer = |token: &str| format!("Bearer {token}");
    for (path, token, error) in [
        (
            "/token",
            issuer.token(json!({"aud": "other"})),
            "error=\"invalid_token\"",
        ),
        ("/token", "nonsense".to_owned(), "error=\"invalid_token\""),
        ("/opaque", "unknown".to_owned(), "error=\"invalid_token\""),
        ("/any", "nonsense".to_owned(), "error=\"invalid_token\""),
    ] {
        let call = gateway.call(&format!("GET {path}"));
        let answer = call.header("Authorization", &bearer(&token)).send().await;
        assert_eq!(answer.status(), 401, "{path}");
        let challenge = answer.headers("www-authenticate");
        assert!(
            challenge[0].starts_with("Bearer realm=\"api\", "),
            "{challenge:?}"
        );
        assert!(challenge[0].contains(error), "{challenge:?}");
    }
    // who is known and may not is told which scopes would do, where another token would, and nothing else
    let scope = "Bearer realm=\"api\", error=\"insufficient_scope\", scope=\"read write\"";
    for (claims, challenge) in [
        (json!({"roles": "clerks", "scope": "read"}), Some(scope)),
        (json!({"roles": "others", "scope": "read write"}), None),
    ] {
        let call = gateway.call("GET /token");
        let answer = call
            .header("Authorization", &bearer(&issuer.token(claims.clone())))
            .send()
            .await;
        assert_eq!(
            (answer.status(), &*answer.problem()),
            (403, "authorize.denied"),
            "{claims}"
        );
        assert_eq!(answer.header("www-authenticate"), challenge, "{claims}");
        for word in [
            "clerks",
            "group",
            "scope",
            "alice",
            "idp",
            "authorize.scope",
        ] {
            assert!(!answer.text().contains(word), "{}", answer.text());
        }
    }
    assert!(
        app.received().is_empty(),
        "a refused request touches no origin"
    );
}

/// Security requirement 4.4: what is asked for after a rewrite is guarded as if it had been asked for.
#[tokio::test]
async fn a_rewrite_is_no_way_round_auth_or_authorize() {
    let app = Origin::echo().await;
    let yaml = r#"
secrets: {digests: "0123456789abcdef0123456789abcdef"}
consumers: {acme: {groups: clerks, credentials: {api_key: {id: a, key: "key-of-acme-0123456789"}}}}
services: {app: {endpoints: "$app"}}
routes:
  private: {match: {path: /private/**}, service: app, policies: {auth: {api_key: on}, authorize: {groups: clerks}}}
  open: {match: {path: /open/**}, service: app, rewrite: {strip: /open}}
  known: {match: {path: /known/**}, service: app, rewrite: {strip: /known}, policies: {auth: {api_key: on}}}
  shadow:
    match: {path: /shadow/**}
    service: app
    rewrite: {strip: /shadow}
    policies: {auth: {api_key: on, mode: shadow}}
  same:
    match: {path: /same/**}
    service: app
    rewrite: {strip: /same}
    policies: {auth: {api_key: on}, authorize: {consumers: acme}}
  waived:
    match: {path: /waived/**}
    service: app
    rewrite: {strip: /waived}
    policies: {auth: off, authorize: off}
  allowed: {match: {path: /allowed/**}, service: app, rewrite: {strip: /allowed, allow_guarded: on}}
"#;
    let gateway = Gateway::builder(yaml).with("app", &app).start().await;
    for (path, status) in [
        ("/open/private/x", 404),
        ("/open/public/x", 200),
        ("/known/private/x", 404),
        ("/shadow/private/x", 404),
        ("/same/private/x", 200),
        ("/waived/private/x", 200),
        ("/allowed/private/x", 200),
    ] {
        let answer = asked(&gateway, &format!("GET {path}"), "acme").await;
        assert_eq!(answer.status(), status, "{path}");
    }
    assert_eq!(app.received().len(), 4);
}
