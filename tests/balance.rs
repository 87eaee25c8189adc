//! Which endpoint answers, seen from outside.

use crate::harness::{
    Call, Client, Gate, Gateway, GatewayBuilder, Message, Origin, Pki, Reply, eventually,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// Three origins that say who they are.
async fn three() -> [Origin; 3] {
    [
        Origin::named("one").await,
        Origin::named("two").await,
        Origin::named("three").await,
    ]
}

/// A gateway before them, `$a`, `$b` and `$c`, with what else the service says.
async fn before(origins: &[Origin; 3], service: &str) -> Gateway {
    builder(origins, &yaml(service)).start().await
}

fn builder(origins: &[Origin; 3], yaml: &str) -> GatewayBuilder {
    let [a, b, c] = origins;
    Gateway::builder(yaml)
        .with("a", a)
        .with("b", b)
        .with("c", c)
}

fn yaml(service: &str) -> String {
    format!(
        "services: {{app: {{endpoints: [\"$a\", \"$b\", \"$c\"], {service}}}}}\n\
         routes: {{all: {{match: {{path: /**}}, service: app}}}}\n"
    )
}

/// Who answers so many requests, and how often.
async fn tally(gateway: &Gateway, requests: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for n in 0..requests {
        let answer = gateway.get(&format!("/{n}")).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        *counts.entry(answer.text().to_owned()).or_default() += 1;
    }
    counts
}

/// A request that waits for its answer.
fn asked(call: Call) -> tokio::task::JoinHandle<Message> {
    tokio::spawn(async move { call.send().await })
}

/// The cookie that an answer sets, as a client would send it.
fn set_cookie(answer: &Message) -> Option<String> {
    let cookie = answer.header("set-cookie")?;
    cookie.split(';').next().map(str::to_owned)
}

async fn with_cookie(gateway: &Gateway, cookie: &str) -> Message {
    gateway.call("GET /").header("cookie", cookie).send().await
}

#[tokio::test]
async fn round_robin_goes_round() {
    let origins = three().await;
    let gateway = before(&origins, "balance: round_robin").await;
    let counts = tally(&gateway, 12).await;
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [4, 4, 4]);
}

#[tokio::test]
async fn random_and_ewma_reach_everybody() {
    let origins = three().await;
    for balance in ["random", "ewma", "least_request"] {
        let gateway = before(&origins, &format!("balance: {balance}, slow_start: 1s")).await;
        let counts = tally(&gateway, 60).await;
        assert_eq!(counts.len(), 3, "{balance}: {counts:?}");
    }
}

#[tokio::test]
async fn an_endpoint_of_weight_0_gets_nothing_from_any_balancer() {
    let origins = three().await;
    let balancers = [
        "least_request",
        "round_robin",
        "random",
        "ewma",
        "{consistent_hash: path}",
    ];
    for balance in balancers {
        let yaml = yaml(&format!("balance: {balance}"))
            .replace("\"$c\"", "{address: \"$c\", weight: 0}")
            .replace("\"$b\"", "{address: \"$b\", weight: 3}");
        let gateway = builder(&origins, &yaml).start().await;
        let counts = tally(&gateway, 100).await;
        assert!(!counts.contains_key("three"), "{balance}: {counts:?}");
        // by latency, what one of them is given is up to how busy this machine is
        assert!(
            balance == "ewma" || counts.get("two") > counts.get("one"),
            "{balance}: {counts:?}"
        );
    }
}

#[tokio::test]
async fn ewma_leaves_the_slow_one_alone() {
    let slow = Origin::start(|_| {
        let late = Reply::raw("").then_pause(Duration::from_millis(300));
        late.then_reply(Reply::ok("slow"))
    })
    .await;
    let fast = Origin::named("fast").await;
    let gateway = Gateway::builder(
        "services: {app: {endpoints: [\"$slow\", \"$fast\"], balance: ewma}}\n\
         routes: {all: {match: {path: /**}, service: app}}\n",
    )
    .with("slow", &slow)
    .with("fast", &fast)
    .start()
    .await;
    let counts = tally(&gateway, 60).await;
    // chance decides only until something is known of both
    assert!(counts.get("slow").copied().unwrap_or(0) <= 10, "{counts:?}");
}

#[tokio::test]
async fn least_request_and_ewma_go_round_an_endpoint_that_hangs() {
    for balance in ["least_request", "ewma"] {
        let gate = Gate::closed();
        let hangs = gate.clone();
        let stuck =
            Origin::start(move |_| Reply::after(&hangs).then_reply(Reply::ok("stuck"))).await;
        let fine = Origin::named("fine").await;
        let gateway = Gateway::builder(&format!(
            "services: {{app: {{endpoints: [\"$stuck\", \"$fine\"], balance: {balance}}}}}\n\
             routes: {{all: {{match: {{path: /**}}, service: app}}}}\n"
        ))
        .with("stuck", &stuck)
        .with("fine", &fine)
        .start()
        .await;
        let address = gateway.public();
        let mut waiting = Vec::new();
        for n in 0..20 {
            waiting.push(asked(Call::new(address, &format!("GET /{n}"))));
            eventually("the request to be there", async || {
                let there = fine.received().len() + stuck.received().len();
                (there > n).then_some(())
            })
            .await;
        }
        gate.open();
        for answer in waiting {
            assert_eq!(answer.await.expect("no panic").status(), 200);
        }
        let stuck = stuck.received().len();
        assert!(stuck <= 5, "{balance}: {stuck}");
    }
}

#[tokio::test]
async fn a_key_finds_its_endpoint_again_after_a_reload_and_in_another_gateway() {
    let origins = three().await;
    let service = "balance: {consistent_hash: {by: [header.x-tenant, path]}}";
    let (one, other) = (
        before(&origins, service).await,
        before(&origins, &format!("{service}, host_header: endpoint")).await,
    );
    let mut seen = BTreeMap::new();
    for round in 0..3 {
        for tenant in 0..20 {
            let gateway = if round == 1 { &other } else { &one };
            let call = gateway
                .call("GET /")
                .header("x-tenant", &format!("t{tenant}"));
            let answer = call.send().await.text().to_owned();
            let before = seen.entry(tenant).or_insert_with(|| answer.clone());
            assert_eq!(*before, answer, "tenant {tenant} in round {round}");
        }
        one.reload_to(&yaml(&format!(
            "{service}, timeouts: {{idle: {}s}}",
            round + 3
        )))
        .await;
    }
    let owners: std::collections::BTreeSet<_> = seen.values().collect();
    assert_eq!(owners.len(), 3);
    // without a key there is nothing to go by
    let mut others = std::collections::BTreeSet::new();
    for _ in 0..40 {
        others.insert(one.get("/").await.text().to_owned());
    }
    assert!(others.len() > 1, "{others:?}");
}

#[tokio::test]
async fn only_the_keys_of_a_dead_endpoint_move() {
    let origins = three().await;
    let gateway = before(&origins, "balance: {consistent_hash: path}").await;
    let mut owners = BTreeMap::new();
    for n in 0..30 {
        owners.insert(n, gateway.get(&format!("/{n}")).await.text().to_owned());
    }
    let [one, two, three] = origins;
    drop(one);
    for (n, owner) in &owners {
        let answer = gateway.get(&format!("/{n}")).await;
        assert_eq!(answer.status(), 200);
        assert!(
            answer.text() == owner || owner == "one",
            "{n} of {owner}: {}",
            answer.text()
        );
        assert_ne!(answer.text(), "one");
    }
    drop((two, three));
}

#[tokio::test]
async fn a_hot_key_is_spread_before_it_overloads_its_endpoint() {
    let gate = Gate::closed();
    let start = || {
        let gate = gate.clone();
        Origin::start(move |_| Reply::after(&gate).then_reply(Reply::ok("")))
    };
    let origins = [start().await, start().await, start().await];
    let gateway = before(&origins, "balance: {consistent_hash: path}").await;
    let address = gateway.public();
    let asking: Vec<_> = (0..30)
        .map(|_| asked(Call::new(address, "GET /hot")))
        .collect();
    eventually("all requests to be in flight", async || {
        let status = gateway.status().await;
        let endpoints = status["services"][0]["endpoints"].as_array()?.clone();
        let flying = endpoints
            .iter()
            .map(|endpoint| endpoint["in_flight"].as_u64().unwrap_or(0));
        let flying: Vec<u64> = flying.collect();
        // a quarter more than a third of thirty; two that choose at the same moment do not see each other
        (flying.iter().sum::<u64>() == 30).then(|| {
            assert!(flying.iter().all(|flying| *flying <= 15), "{flying:?}");
        })
    })
    .await;
    gate.open();
    for answer in asking {
        assert_eq!(answer.await.expect("no panic").status(), 200);
    }
}

const STICKY: &str = "sticky: {cookie: sid}";

/// The same with a key that everybody has who should.
fn keyed(service: &str, key: &str) -> String {
    format!("{}secrets: {{cookies: \"{key}\"}}\n", yaml(service))
}

const KEY: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn a_cookie_keeps_a_client_at_its_endpoint_over_reloads() {
    let origins = three().await;
    let gateway = builder(&origins, &keyed(STICKY, KEY)).start().await;
    let first = gateway.get("/").await;
    let cookie = set_cookie(&first).expect("a cookie");
    let whole = first.header("set-cookie").expect("a cookie");
    assert!(
        whole.ends_with("; Path=/; HttpOnly; SameSite=Lax"),
        "{whole}"
    );
    assert_eq!(cookie.len(), "sid=".len() + 32);
    for round in 0..3 {
        for _ in 0..10 {
            let answer = with_cookie(&gateway, &format!("a=b; {cookie}")).await;
            assert_eq!(answer.text(), first.text());
            assert_eq!(answer.header("set-cookie"), None);
        }
        let service = format!("{STICKY}, timeouts: {{idle: {}s}}", round + 3);
        gateway.reload_to(&keyed(&service, KEY)).await;
    }
    // another gateway of the fleet
    let other = builder(
        &origins,
        &keyed("sticky: {cookie: sid}, balance: random", KEY),
    );
    let other = other.start().await;
    for _ in 0..10 {
        assert_eq!(with_cookie(&other, &cookie).await.text(), first.text());
    }
}

#[tokio::test]
async fn a_client_whose_endpoint_died_gets_another_one_and_stays_there() {
    let origins = three().await;
    let gateway = builder(&origins, &keyed(STICKY, KEY)).start().await;
    let first = gateway.get("/").await;
    let cookie = set_cookie(&first).expect("a cookie");
    let who = first.text().to_owned();
    let names = ["one", "two", "three"];
    let mut left = Vec::new();
    for (origin, name) in origins.into_iter().zip(names) {
        if name != who {
            left.push(origin);
        }
    }
    let second = with_cookie(&gateway, &cookie).await;
    assert_eq!(second.status(), 200);
    assert_ne!(second.text(), who);
    let next = set_cookie(&second).expect("a new cookie");
    assert_ne!(next, cookie);
    for _ in 0..10 {
        let answer = with_cookie(&gateway, &next).await;
        assert_eq!(answer.text(), second.text());
        assert_eq!(answer.header("set-cookie"), None);
    }
}

#[tokio::test]
async fn a_client_whose_endpoint_is_drained_or_gone_gets_another_one() {
    let origins = three().await;
    let gateway = builder(&origins, &keyed(STICKY, KEY)).start().await;
    let mut cookies = BTreeMap::new();
    eventually("a cookie for each", async || {
        let answer = gateway.get("/").await;
        cookies.insert(answer.text().to_owned(), set_cookie(&answer)?);
        (cookies.len() == 3).then_some(())
    })
    .await;
    let all = keyed(STICKY, KEY);
    for fewer in [
        all.replace("\"$a\"", "{address: \"$a\", weight: 0}"),
        all.replace("\"$a\", ", ""),
    ] {
        gateway.reload_to(&fewer).await;
        let answer = with_cookie(&gateway, &cookies["one"]).await;
        assert_ne!(answer.text(), "one");
        assert!(set_cookie(&answer).is_some());
        assert_eq!(with_cookie(&gateway, &cookies["two"]).await.text(), "two");
    }
}

#[tokio::test]
async fn a_forged_cookie_is_ignored() {
    let origins = three().await;
    let gateway = builder(&origins, &keyed(STICKY, KEY)).start().await;
    // of a gateway with another key
    let foreign = keyed(STICKY, "fedcba9876543210fedcba9876543210");
    let foreign = builder(&origins, &foreign).start().await;
    let foreign = set_cookie(&foreign.get("/").await).expect("a cookie");
    let own = set_cookie(&gateway.get("/").await).expect("a cookie");
    let forged = [
        foreign,
        format!("sid={}", origins[0]),
        "sid=0".to_owned(),
        format!("sid={}", "0".repeat(32)),
        own.to_uppercase().replace("SID", "sid"),
        own.trim_end_matches(|last: char| last.is_ascii_hexdigit())
            .to_owned(),
    ];
    for cookie in forged {
        let mut who = std::collections::BTreeSet::new();
        for _ in 0..40 {
            let answer = with_cookie(&gateway, &cookie).await;
            assert_eq!(answer.status(), 200);
            assert!(set_cookie(&answer).is_some(), "{cookie}");
            who.insert(answer.text().to_owned());
        }
        assert_eq!(who.len(), 3, "{cookie} decides nothing");
    }
    // and does not hide one of ours
    let both = format!("sid={}; {own}", "0".repeat(32));
    assert_eq!(
        with_cookie(&gateway, &both).await.header("set-cookie"),
        None
    );
}

#[tokio::test]
async fn a_cookie_over_tls_is_for_tls_only_and_lives_as_long_as_it_says() {
    let origins = three().await;
    let pki = Pki::new();
    let yaml = format!(
        "listeners: {{public: {{address: \"$address:8080\", tls: {{}}}}}}\n\
         certificates: {{c: {{cert: $dir/c.pem, key: $dir/c.key}}}}\n{}",
        keyed("sticky: {cookie: sid, max_age: 8h}", KEY)
    );
    let gateway = builder(&origins, &yaml)
        .identity("c", &pki.server(&["h.test"]))
        .start()
        .await;
    let (mut client, _) =
        Client::connect_tls(gateway.public(), "h.test", pki.client(&["http/1.1"]))
            .await
            .expect("a connection");
    let answer = client.get("h.test", "/").await;
    let cookie = answer.header("set-cookie").expect("a cookie");
    assert!(cookie.ends_with("; Secure; Max-Age=28800"), "{cookie}");
}

#[tokio::test]
async fn a_key_that_nobody_set_is_made_and_kept_over_a_restart() {
    let origins = three().await;
    let start = async |state: &str| {
        builder(&origins, &yaml(STICKY))
            .variable("STATE_DIRECTORY", state)
            .start()
            .await
    };
    let dir = tempfile::tempdir().expect("a folder");
    let state = dir.path().join("state").display().to_string();
    let gateway = start(&state).await;
    gateway.logs("no key for cookies is set").await;
    gateway.logs("cookies.key").await;
    let first = gateway.get("/").await;
    let cookie = set_cookie(&first).expect("a cookie");
    drop(gateway);
    let gateway = start(&state).await;
    for _ in 0..10 {
        let answer = with_cookie(&gateway, &cookie).await;
        assert_eq!(
            (answer.text(), answer.header("set-cookie")),
            (first.text(), None)
        );
    }
    drop(gateway);
    // where it can't be kept it is good for this process, and the log says so
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let gateway = start(&file.display().to_string()).await;
    gateway.logs("ends with the process").await;
    let cookie = set_cookie(&gateway.get("/").await).expect("a cookie");
    gateway
        .reload_to(&yaml("sticky: {cookie: sid}, balance: random"))
        .await;
    assert_eq!(
        with_cookie(&gateway, &cookie).await.header("set-cookie"),
        None
    );
}

#[tokio::test]
async fn a_sticky_split_sends_a_user_to_the_same_arm_and_moves_few_when_shares_change() {
    let (old, new) = (Origin::named("old").await, Origin::named("new").await);
    let yaml = |share: u32| {
        format!(
            "services:\n  old: {{endpoints: \"$old\"}}\n  new: {{endpoints: \"$new\"}}\n  app:\n    \
             split: [{{service: old, weight: {}}}, {{service: new, weight: {share}}}]\n    \
             sticky: {{by: cookie.user}}\n\
             routes: {{all: {{match: {{path: /**}}, service: app}}}}\n",
            100 - share
        )
    };
    let gateway = Gateway::builder(&yaml(30))
        .with("old", &old)
        .with("new", &new);
    let gateway = gateway.start().await;
    let arm = async |user: u32| {
        let answer = with_cookie(&gateway, &format!("user=u{user}")).await;
        answer.text().to_owned()
    };
    let mut arms = BTreeMap::new();
    for user in 0..40 {
        arms.insert(user, arm(user).await);
        assert_eq!(arms[&user], arm(user).await);
    }
    let with_new = arms.values().filter(|arm| *arm == "new").count();
    assert!((4..=22).contains(&with_new), "{with_new} of 40");
    gateway.reload_to(&yaml(60)).await;
    for (user, before) in &arms {
        let after = arm(*user).await;
        assert!(after == *before || after == "new", "{user} went back");
    }
    // who has no cookie goes by chance
    let counts = tally(&gateway, 40).await;
    assert_eq!(counts.len(), 2, "{counts:?}");
}

#[tokio::test]
async fn an_endpoint_that_a_reload_adds_begins_slowly() {
    let origins = three().await;
    let service = "balance: round_robin, slow_start: 1h";
    let two = yaml(service).replace(", \"$c\"", "");
    let gateway = builder(&origins, &two).start().await;
    tally(&gateway, 4).await;
    gateway.reload_to(&yaml(service)).await;
    let counts = tally(&gateway, 100).await;
    let new = counts.get("three").copied().unwrap_or(0);
    // a tenth of a third, not a third
    assert!(new <= 12, "{counts:?}");
    assert!(counts["one"] > 35 && counts["two"] > 35, "{counts:?}");
}

/// With two endpoints, one of them dead: if another try took the next turn, every request would meet the dead one first.
#[tokio::test]
async fn another_try_takes_no_turn_of_round_robin() {
    let alive = Origin::named("a").await;
    let dead = format!("{}:9", crate::harness::loopback());
    let gateway = Gateway::builder(
        "services: {app: {endpoints: [\"$dead\", \"$alive\"], balance: round_robin, outlier: off, retries: {budget: off}}}\n\
         routes: {all: {match: {path: /**}, service: app}}\n",
    )
        .with("dead", dead)
        .with("alive", &alive)
        .start()
        .await;
    for _ in 0..40 {
        assert_eq!(gateway.get("/").await.text(), "a");
    }
    let labels = [("service", "app"), ("reason", "connect_failure")];
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("northgate_retries_total", &labels), 20.0);
}

/// Where health is ignored, weights and keys are not.
#[tokio::test]
async fn in_a_panic_keys_keep_their_endpoints_and_those_of_weight_0_get_nothing() {
    let sick = |name: &'static str| {
        Origin::start(move |request| match request.target() {
            "/healthz" => Reply::status(503, &[], ""),
            _ => Reply::ok(name),
        })
    };
    let origins = [sick("a").await, sick("b").await, sick("c").await];
    let gateway = Gateway::builder(
        r#"
services:
  app:
    endpoints: ["$a", "$b", {address: "$c", weight: 0}]
    balance: {consistent_hash: path}
    health_check: {path: /healthz, interval: 200ms}
    sticky: {cookie: s}
    slow_start: 10s
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .with("a", &origins[0])
    .with("b", &origins[1])
    .with("c", &origins[2])
    .start()
    .await;
    let mut found = BTreeMap::new();
    for turn in 0..3 {
        for number in 0..30 {
            let answer = gateway.get(&format!("/{number}")).await;
            assert_eq!(answer.status(), 200);
            let name = answer.text().to_owned();
            assert_ne!(name, "c");
            let first = found.entry(number).or_insert_with(|| name.clone());
            assert_eq!(*first, name, "/{number}, turn {turn}");
        }
    }
    let status = gateway.admin("GET /v1/services/app").send().await.json();
    assert_eq!(status["panicking"], true, "{status}");
    assert!(found.values().any(|name| name == "a") && found.values().any(|name| name == "b"));
}

#[tokio::test]
async fn a_split_is_shown_with_its_arms() {
    let gateway = Gateway::start(
        r#"
services:
  old: {endpoints: "127.0.0.1:9"}
  new: {endpoints: "127.0.0.1:10"}
  both: {split: [{service: new, when: {header: {x-new: "1"}}}, {service: old, weight: 9}, {service: new}]}
routes: {all: {match: {path: /**}, service: both}}
"#,
    )
    .await;
    let answer = gateway.admin("GET /v1/services/both").send().await;
    assert_eq!(answer.status(), 200);
    let arms = serde_json::json!([
        {"service": "new"}, {"service": "old", "weight": 9}, {"service": "new", "weight": 1}
    ]);
    assert_eq!(answer.json()["split"], arms);
}
