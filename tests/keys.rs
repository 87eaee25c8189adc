//! API keys and passwords: whom they let in, whom they do not, and that nobody gets to see them.

use crate::harness::{Call, Gateway, GatewayBuilder, Message, Origin, eventually};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use northgate::identity::credentials::digest::DigestKey;

/// What digests are made under in these tests.
const DIGESTS: &str = "0123456789abcdef0123456789abcdef";

const GOOD: &str = "a-key-of-another-maker-1";
const NEXT: &str = "a-key-of-another-maker-2";
const PAST: &str = "a-key-of-another-maker-3";
const EARLY: &str = "a-key-of-another-maker-4";
const GONE: &str = "a-key-of-another-maker-5";
const FILED: &str = "a-key-of-another-maker-6";

fn digest(key: &str) -> String {
    let digests = DigestKey::new(DIGESTS.as_bytes());
    digests.written(digests.digest(key.as_bytes())).to_string()
}

const KEYS: &str = r#"
secrets: {digests: "0123456789abcdef0123456789abcdef"}
access_log: {path: "-"}
plans: {gold: {}, free: {}}
consumers:
  acme:
    plan: gold
    groups: [partners]
    credentials:
      api_key:
        - {id: acme-1, key: "${file:acme.key}"}
        - {id: acme-2, digest: "$next"}
        - {id: acme-3, digest: "$past", expires: 2026-01-01}
        - {id: acme-4, digest: "$early", not_before: 2100-01-01}
        - {id: acme-5, digest: "$gone"}
credential_files: {api_key: shop.keys, revoked: revoked.list}
services: {app: {endpoints: "$app"}}
policies: {auth: {api_key: on}}
routes:
  header: {match: {path: /header}, service: app}
  own: {match: {path: /own}, service: app, policies: {auth: {api_key: {header: X-Token}}}}
  query: {match: {path: /query/**}, service: app, policies: {auth: {api_key: {query: api_key}}}}
  cookie: {match: {path: /cookie}, service: app, policies: {auth: {api_key: {cookie: key}}}}
  kept: {match: {path: /kept}, service: app, policies: {auth: {api_key: {query: api_key}, forward_credential: true}}}
  anonymous: {match: {path: /anonymous}, service: app, policies: {auth: {api_key: on, anonymous: allow}}}
  open: {match: {path: /open}, service: app, policies: {auth: off}}
"#;

fn keys(app: &Origin) -> GatewayBuilder {
    let filed = format!(
        "# shops\nshop-1 {} shop 2100-01-01 plan=free groups=shops,eu\n",
        digest(FILED)
    );
    Gateway::builder(KEYS)
        .with("app", app)
        .with("next", digest(NEXT))
        .with("past", digest(PAST))
        .with("early", digest(EARLY))
        .with("gone", digest(GONE))
        .file("acme.key", &format!("{GOOD}\n"))
        .file("shop.keys", &filed)
        .file("revoked.list", "acme-5 # lost\n")
}

fn with_key(gateway: &Gateway, key: &str) -> Call {
    gateway.call("GET /header").header("X-API-Key", key)
}

fn refused(answer: &Message) -> (u16, String, Vec<&str>) {
    (
        answer.status(),
        answer.problem(),
        answer.headers("www-authenticate"),
    )
}

#[tokio::test]
async fn a_key_opens_a_route_and_the_origin_is_told_whose_it_is() {
    let app = Origin::echo().await;
    let gateway = keys(&app).start().await;
    for (key, consumer, plan) in [
        (GOOD, "acme", "gold"),
        (NEXT, "acme", "gold"),
        (FILED, "shop", "free"),
    ] {
        assert_eq!(with_key(&gateway, key).send().await.status(), 200);
        let got = app.last();
        assert_eq!(got.header("x-consumer-id"), Some(consumer));
        assert_eq!(got.header("x-consumer-plan"), Some(plan));
        assert_eq!(got.header("x-api-key"), None);
    }
    eventually("consumers in the access log", async || {
        let log = gateway.stdout();
        let acme = log.contains(r#""consumer":"acme","credential":"acme-2""#);
        let shop = log.contains(r#""consumer":"shop","credential":"shop-1""#);
        (acme && shop).then_some(())
    })
    .await;
}

#[tokio::test]
async fn whatever_is_wrong_with_a_key_is_one_answer_and_exact_in_the_metric() {
    let app = Origin::echo().await;
    let gateway = keys(&app).start().await;
    let challenge = vec!["ApiKey realm=\"restricted\""];
    let long = "a".repeat(513);
    for (key, problem, reason) in [
        ("", "auth.invalid", "auth.key.malformed"),
        ("null", "auth.invalid", "auth.key.malformed"),
        (&long, "auth.invalid", "auth.key.malformed"),
        ("a-key-that-nobody-has", "auth.invalid", "auth.key.unknown"),
        (&GOOD.to_uppercase(), "auth.invalid", "auth.key.unknown"),
        (&digest(GOOD), "auth.invalid", "auth.key.unknown"),
        (PAST, "auth.expired", "auth.key.expired"),
        (EARLY, "auth.invalid", "auth.key.not_yet_valid"),
        (GONE, "auth.invalid", "auth.key.revoked"),
    ] {
        let labels = [("reason", reason)];
        let before = gateway
            .metrics()
            .await
            .value("northgate_auth_refused_total", &labels);
        let answer = with_key(&gateway, key).send().await;
        assert_eq!(
            refused(&answer),
            (401, problem.to_owned(), challenge.clone()),
            "{key}"
        );
        gateway
            .counts("northgate_auth_refused_total", &labels, before + 1.0)
            .await;
    }
    let missing = gateway.get("/header").await;
    assert_eq!(
        refused(&missing),
        (401, "auth.missing".to_owned(), challenge.clone())
    );
    let twice = with_key(&gateway, GOOD)
        .header("x-api-key", GOOD)
        .send()
        .await;
    assert_eq!(refused(&twice).1, "auth.invalid");
    // a key that is not valid is refused where none is needed, too
    let anonymous = |key| gateway.call("GET /anonymous").header("X-API-Key", key);
    assert_eq!(gateway.get("/anonymous").await.status(), 200);
    assert_eq!(anonymous("").send().await.status(), 401);
    assert_eq!(anonymous("wrong").send().await.status(), 401);
    assert_eq!(app.received().len(), 1);
}

#[tokio::test]
async fn a_key_is_read_from_one_place_and_taken_out_of_it() {
    let app = Origin::echo().await;
    let gateway = keys(&app).start().await;
    let own = gateway.call("GET /own").header("x-token", GOOD);
    assert_eq!(own.send().await.status(), 200);
    assert_eq!(app.last().header("x-token"), None);
    assert_eq!(
        gateway
            .call("GET /own")
            .header("x-api-key", GOOD)
            .send()
            .await
            .status(),
        401
    );

    let query = format!("/query/a?x=%20&api%5Fkey={GOOD}&y");
    assert_eq!(gateway.get(&query).await.status(), 200);
    assert_eq!(app.last().target(), "/query/a?x=%20&y");
    let only = format!("/query?api_key={GOOD}");
    assert_eq!(gateway.get(&only).await.status(), 200);
    assert_eq!(app.last().target(), "/query");
    assert_eq!(
        gateway
            .get(&format!("{only}&api_key={GOOD}"))
            .await
            .status(),
        401
    );
    assert_eq!(with_key(&gateway, GOOD).send().await.status(), 200);

    let cookie = gateway
        .call("GET /cookie")
        .header("cookie", &format!("a=1; key={GOOD}; b=2"));
    assert_eq!(cookie.send().await.status(), 200);
    assert_eq!(app.last().header("cookie"), Some("a=1; b=2"));

    let kept = format!("/kept?api_key={GOOD}");
    assert_eq!(gateway.get(&kept).await.status(), 200);
    assert_eq!(app.last().target(), kept);
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_and_a_mistake_in_it_changes_nothing() {
    let app = Origin::echo().await;
    let gateway = keys(&app).start().await;
    let write = |name: &str, text: &str| {
        std::fs::write(gateway.dir().join(name), text).expect("a file");
    };
    let fresh = "a-key-of-another-maker-7";
    let line = |id: &str, key: &str| format!("{id} {} shop -\n", digest(key));
    assert_eq!(with_key(&gateway, fresh).send().await.status(), 401);
    write(
        "shop.keys",
        &(line("shop-1", FILED) + &line("shop-2", fresh)),
    );
    assert_eq!(gateway.command(&["reload"]).await.code, Some(0));
    assert_eq!(with_key(&gateway, fresh).send().await.status(), 200);
    assert_eq!(with_key(&gateway, FILED).send().await.status(), 200);

    // the old keys serve on
    write(
        "shop.keys",
        &(line("shop-1", FILED) + "shop-2 blake3:oops shop -\n"),
    );
    let refused = gateway.command(&["reload"]).await;
    assert_eq!(refused.code, Some(78));
    assert!(
        refused
            .stderr
            .contains("shop.keys:2:8: the digest is not complete"),
        "{refused:?}"
    );
    assert_eq!(with_key(&gateway, fresh).send().await.status(), 200);

    write(
        "shop.keys",
        &(line("shop-1", FILED) + &line("shop-2", fresh)),
    );
    write("revoked.list", "acme-5\nshop-2\n");
    assert_eq!(gateway.command(&["reload"]).await.code, Some(0));
    assert_eq!(with_key(&gateway, fresh).send().await.status(), 401);
    assert_eq!(with_key(&gateway, FILED).send().await.status(), 200);
}

#[tokio::test]
async fn nobody_gets_to_see_a_key_or_its_digest() {
    let app = Origin::echo().await;
    let gateway = keys(&app).start().await;
    let wrong = "wrong-key-wrong-key";
    let mut seen = String::new();
    for key in [GOOD, PAST, GONE, wrong] {
        seen += with_key(&gateway, key).send().await.text();
        let cookie = gateway
            .call("GET /cookie")
            .header("cookie", &format!("key={key}"));
        seen += cookie.send().await.text();
        let query = gateway.call(&format!("GET /query?api_key={key}"));
        let query = query.header("referer", &format!("https://a.test/?api_key={key}"));
        // the origin echoes the `Referer`
        query.send().await;
        // this one asks for no key, so that it is none, and goes to the origin
        gateway.get(&format!("/open?api_key={key}")).await;
    }
    for target in ["/v1/config", "/v1/status", "/v1/routes", "/metrics"] {
        seen += gateway.admin(&format!("GET {target}")).send().await.text();
    }
    eventually("the access log to be written", async || {
        (gateway.stdout().matches("\"status\"").count() >= 16).then_some(())
    })
    .await;
    seen += &gateway.stdout();
    seen += &gateway.stderr();
    // a digest where its form is wrong, and a key where its digest belongs
    std::fs::write(
        gateway.dir().join("shop.keys"),
        format!("shop-1 {GOOD} shop\n"),
    )
    .expect("a file");
    let output = gateway.command(&["check"]).await;
    assert_eq!(output.code, Some(78));
    seen += &output.stderr;
    seen += &output.stdout;
    let digests = [GOOD, NEXT, FILED].map(digest);
    for secret in [GOOD, NEXT, PAST, GONE, FILED, wrong, DIGESTS] {
        assert!(!seen.contains(secret), "{secret} in {seen}");
    }
    for secret in digests {
        assert!(!seen.contains(&secret), "{secret} in {seen}");
    }
}

#[tokio::test]
async fn keys_are_made_hashed_and_verified_by_the_command() {
    let app = Origin::echo().await;
    let gateway = keys(&app).start().await;
    let made = gateway
        .command(&[
            "key",
            "new",
            "--consumer",
            "shop",
            "--id",
            "shop-9",
            "--prefix",
            "shop_live",
            "--expires",
            "90d",
            "--format",
            "json",
        ])
        .await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let made: serde_json::Value = serde_json::from_str(&made.stdout).expect("JSON");
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    let (key, line) = (text("key"), text("line"));
    assert!(key.starts_with("shop_live_") && key.len() > 50, "{key}");
    assert!(
        line.starts_with(&format!("shop-9 {} shop 20", text("digest"))),
        "{line}"
    );

    let hashed = gateway
        .command_given(&["key", "hash"], &format!("{key}\n"))
        .await;
    assert_eq!(hashed.stdout, format!("{}\n", text("digest")));
    let verify = async |key: &str| {
        let output = gateway.command_given(&["key", "verify"], key).await;
        assert!(
            !output.stdout.contains(key) && !output.stderr.contains(key),
            "{output:?}"
        );
        (output.code, output.stdout)
    };
    let (code, shown) = verify(&key).await;
    assert_eq!(code, Some(1));
    assert!(shown.starts_with("refused: auth.key.unknown: "), "{shown}");

    let file = std::fs::read_to_string(gateway.dir().join("shop.keys")).expect("a file");
    std::fs::write(
        gateway.dir().join("shop.keys"),
        format!("{file}{}\n", line.replace(" shop 20", " acme 20")),
    )
    .expect("a file");
    let (code, shown) = verify(&key).await;
    assert_eq!(code, Some(0));
    for wanted in [
        "consumer    acme",
        "credential  shop-9",
        "plan        gold",
        "groups      partners",
        "expires     20",
    ] {
        assert!(shown.contains(wanted), "{shown}");
    }
    assert_eq!(gateway.command(&["reload"]).await.code, Some(0));
    assert_eq!(with_key(&gateway, &key).send().await.status(), 200);

    // a slip in copying is found before it is in a configuration
    let slip = key.replace("shop_live", "shop_lime");
    let output = gateway.command_given(&["key", "hash"], &slip).await;
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("checksum"), "{output:?}");
    assert!(verify(&slip).await.1.contains("not copied whole"));

    // and so is what would let in whoever guesses, or nobody
    let short = gateway.command_given(&["key", "hash"], "hunter2\n").await;
    assert_eq!((short.code, &*short.stdout), (Some(1), ""));
    assert!(short.stderr.contains("can be guessed"), "{short:?}");
    let over = [
        "key",
        "new",
        "--consumer",
        "shop",
        "--expires",
        "2026-01-01",
    ];
    let over = gateway.command(&over).await;
    assert_eq!((over.code, &*over.stdout), (Some(2), ""));
}

const PASSWORDS: &str = r#"
plans: {gold: {}}
access_log: {path: "-"}
consumers:
  anna: {plan: gold, credentials: {basic: {hash: "$argon"}}}
  acme: {credentials: {basic: [{user: "b\u00f6b", hash: "$bcrypt"}]}}
credential_files: {basic: users.htpasswd}
services: {app: {endpoints: "$app"}}
routes:
  all: {match: {path: /**}, service: app, policies: {auth: {basic: {realm: "the reports"}, guessing: off}}}
  open: {match: {path: /open}, service: app}
"#;

const CHALLENGE: &str = "Basic realm=\"the reports\", charset=\"UTF-8\"";

fn bcrypt(password: &str, cost: u32) -> String {
    bcrypt::hash(password, cost).expect("a hash")
}

async fn passwords(app: &Origin, cost: u32) -> Gateway {
    let hashed =
        crate::harness::northgate_given(&["key", "hash", "--password"], "s\u{e9}cret word\n").await;
    let argon = hashed.stdout.trim_end();
    assert!(
        argon.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
        "{hashed:?}"
    );
    Gateway::builder(PASSWORDS)
        .with("app", app)
        .with("argon", argon)
        .with("bcrypt", bcrypt("p\u{e4}ss:word", 4))
        .file(
            "users.htpasswd",
            &format!("# team\ncarl:{}\n", bcrypt("carls", cost)),
        )
        .start()
        .await
}

fn log_in(gateway: &Gateway, user: &str, password: &str) -> Call {
    let encoded = STANDARD.encode(format!("{user}:{password}"));
    gateway
        .call("GET /a")
        .header("Authorization", &format!("Basic {encoded}"))
}

#[tokio::test]
async fn a_password_says_who_calls_whatever_its_hash() {
    let app = Origin::echo().await;
    let gateway = passwords(&app, 4).await;
    for _ in 0..2 {
        for (user, password, consumer) in [
            ("anna", "s\u{e9}cret word", "anna"),
            ("b\u{f6}b", "p\u{e4}ss:word", "acme"),
            ("carl", "carls", "carl"),
        ] {
            assert_eq!(log_in(&gateway, user, password).send().await.status(), 200);
            let got = app.last();
            assert_eq!(got.header("x-consumer-id"), Some(consumer));
            assert_eq!(got.header("authorization"), None);
            assert!(got.header("x-auth-subject").is_some());
        }
    }
    let sent = app.received().len();
    for (user, password, reason) in [
        ("anna", "secret word", "auth.basic.password"),
        ("anna", "", "auth.basic.password"),
        ("carl", "p\u{e4}ss:word", "auth.basic.password"),
        ("dora", "carls", "auth.basic.user"),
        ("Anna", "s\u{e9}cret word", "auth.basic.user"),
        ("acme", "p\u{e4}ss:word", "auth.basic.user"),
        ("", "carls", "auth.basic.malformed"),
        ("carl", "carls\0", "auth.basic.malformed"),
    ] {
        let labels = [("reason", reason)];
        let before = gateway
            .metrics()
            .await
            .value("northgate_auth_refused_total", &labels);
        let answer = log_in(&gateway, user, password).send().await;
        assert_eq!(
            refused(&answer),
            (401, "auth.invalid".to_owned(), vec![CHALLENGE]),
            "{user}"
        );
        gateway
            .counts("northgate_auth_refused_total", &labels, before + 1.0)
            .await;
    }
    let missing = gateway.get("/a").await;
    assert_eq!(
        refused(&missing),
        (401, "auth.missing".to_owned(), vec![CHALLENGE])
    );
    let bearer = gateway.call("GET /a").header("Authorization", "Bearer abc");
    assert_eq!(refused(&bearer.send().await).1, "auth.missing");
    assert_eq!(app.received().len(), sent);
    for (user, password, code, wanted) in [
        ("b\u{f6}b", "p\u{e4}ss:word", 0, "consumer    acme"),
        ("anna", "s\u{e9}cret word", 0, "plan        gold"),
        ("anna", "secret word", 1, "refused: auth.basic.password"),
        ("dora", "carls", 1, "refused: auth.basic.user"),
    ] {
        let arguments = ["key", "verify", "--user", user];
        let output = gateway.command_given(&arguments, password).await;
        assert_eq!(output.code, Some(code), "{output:?}");
        assert!(output.stdout.contains(wanted), "{output:?}");
    }
    let config = gateway.admin("GET /v1/config").send().await;
    let seen = config.text().to_owned() + &gateway.stdout() + &gateway.stderr();
    for secret in [
        "s\u{e9}cret",
        "p\u{e4}ss",
        "carls",
        "$argon2id$",
        "$2b$",
        "Y2FybDpjYXJscw",
    ] {
        assert!(!seen.contains(secret), "{secret} in {seen}");
    }
}

#[tokio::test]
async fn a_changed_password_holds_from_the_reload_on() {
    let app = Origin::echo().await;
    let gateway = passwords(&app, 4).await;
    assert_eq!(log_in(&gateway, "carl", "carls").send().await.status(), 200);
    assert_eq!(
        log_in(&gateway, "carl", "another").send().await.status(),
        401
    );
    let file = gateway.dir().join("users.htpasswd");
    std::fs::write(&file, format!("carl:{}\n", bcrypt("another", 4))).expect("a file");
    assert_eq!(gateway.command(&["reload"]).await.code, Some(0));
    assert_eq!(log_in(&gateway, "carl", "carls").send().await.status(), 401);
    assert_eq!(
        log_in(&gateway, "carl", "another").send().await.status(),
        200
    );
    std::fs::write(&file, "carl:$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00\n").expect("a file");
    let refused = gateway.command(&["reload"]).await;
    assert_eq!(refused.code, Some(78));
    assert!(
        refused
            .stderr
            .contains("users.htpasswd:1:6: passwords hashed with `$apr1$`"),
        "{refused:?}"
    );
    assert!(!refused.stderr.contains("lZL6V"), "{refused:?}");
}

#[tokio::test]
async fn a_flood_of_passwords_is_bounded_and_stops_nobody_else() {
    let app = Origin::echo().await;
    let gateway = passwords(&app, 11).await;
    assert_eq!(
        log_in(&gateway, "anna", "s\u{e9}cret word")
            .send()
            .await
            .status(),
        200
    );
    let guesses = (0..250).map(|guess| log_in(&gateway, "carl", &format!("guess {guess}")));
    let flood = futures::future::join_all(guesses.map(|guess| async move { guess.send().await }));
    let others = async {
        for _ in 0..20 {
            let started = std::time::Instant::now();
            assert_eq!(gateway.get("/open").await.status(), 200);
            let known = log_in(&gateway, "anna", "s\u{e9}cret word").send().await;
            assert_eq!(known.status(), 200);
            assert!(started.elapsed() < std::time::Duration::from_secs(3));
        }
    };
    let (answers, ()) = futures::join!(flood, others);
    let busy: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status() == 503)
        .collect();
    assert!(busy.len() >= 100, "{}", busy.len());
    for answer in busy {
        assert_eq!(answer.problem(), "auth.unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert!(
        answers
            .iter()
            .all(|answer| [401, 503].contains(&answer.status()))
    );
    assert_eq!(log_in(&gateway, "carl", "carls").send().await.status(), 200);
}
