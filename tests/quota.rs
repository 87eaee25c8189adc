//! `quota`: exact over hours, days and months, whatever restarts in between.

use super::harness::{Gate, Gateway, GatewayBuilder, Message, Origin, Output, Reply, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::path::Path;

const GATEWAY: &str = r#"
secrets: {digests: "a secret of some length"}
consumers:
  acme: {credentials: {api_key: {key: "the key of acme, which is long"}}}
  shop: {credentials: {api_key: {key: "the key of shop, which is long"}}}
services: {app: {endpoints: $app}}
routes: {all: {match: {path: /**}, service: app, policies: {auth: {api_key: on, anonymous: allow}, quota: $quota}}}
"#;

async fn builder(origin: &Origin, quota: &str, state: &Path) -> GatewayBuilder {
    Gateway::builder(GATEWAY)
        .with("app", origin)
        .with("quota", quota)
        .variable("STATE_DIRECTORY", state.to_str().expect("a path"))
}

async fn asks(gateway: &Gateway, consumer: &str) -> Message {
    let key = format!("the key of {consumer}, which is long");
    gateway.call("GET /").header("x-api-key", &key).send().await
}

/// How many of so many are let through.
async fn admitted(gateway: &Gateway, consumer: &str, requests: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..requests {
        match asks(gateway, consumer).await.status() {
            200 => admitted += 1,
            429 => {}
            other => panic!("{other}"),
        }
    }
    admitted
}

async fn commits(gateway: &Gateway) -> f64 {
    let metrics = gateway.metrics().await;
    let labels = [("result", "success")];
    metrics
        .find("northgate_quota_commits_total", &labels)
        .unwrap_or_default()
}

/// Everything that was counted before is on the disk.
async fn is_written(gateway: &Gateway) {
    let before = commits(gateway).await;
    // one more count, of nobody in particular, so that there is something to write
    gateway.get("/").await;
    eventually("a commit", async || {
        (commits(gateway).await > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_consumer_has_its_own_and_is_told_where_it_stands() {
    let (origin, state) = (Origin::named("app").await, tempfile::tempdir().unwrap());
    let quota = "{limit: 3/month, limits: {shop: 5}}";
    let gateway = builder(&origin, quota, state.path()).await.start().await;
    let answer = asks(&gateway, "acme").await;
    let told = answer.header("ratelimit").expect("where it stands");
    assert!(told.starts_with("\"quota\";r=2;t="), "{told}");
    assert_eq!(
        answer.header("ratelimit-policy"),
        Some("\"quota\";q=3;w=2592000")
    );
    assert_eq!(admitted(&gateway, "acme", 9).await, 2);
    assert_eq!(admitted(&gateway, "shop", 9).await, 5);
    let refused = asks(&gateway, "acme").await;
    assert_eq!(refused.problem(), "quota.exceeded");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=31 * 24 * 60 * 60).contains(&after), "{after}");
    assert!(
        refused.text().contains("There is more at 20"),
        "{}",
        refused.text()
    );
    // those who are nobody count by their address
    let anonymous = async || gateway.get("/").await.status();
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(anonymous().await);
    }
    assert_eq!(statuses, [200, 200, 200, 429]);
    assert_eq!(origin.received().len(), 3 + 5 + 3);
}

#[tokio::test]
async fn what_was_counted_outlives_a_process_that_is_killed() {
    let (origin, state) = (Origin::named("app").await, tempfile::tempdir().unwrap());
    let quota = "{limit: 10/day, sync: always}";
    let gateway = builder(&origin, quota, state.path()).await.start().await;
    assert_eq!(admitted(&gateway, "acme", 7).await, 7);
    // no time to write anything
    gateway.signal(Signal::SIGKILL);
    drop(gateway);
    let gateway = builder(&origin, quota, state.path()).await.start().await;
    assert_eq!(admitted(&gateway, "acme", 9).await, 3);
}

#[tokio::test]
async fn what_was_written_outlives_a_process_that_is_killed() {
    let (origin, state) = (Origin::named("app").await, tempfile::tempdir().unwrap());
    let quota = "{limit: 10/day, rolling: on, sync: every 100ms}";
    let gateway = builder(&origin, quota, state.path()).await.start().await;
    assert_eq!(admitted(&gateway, "acme", 7).await, 7);
    is_written(&gateway).await;
    gateway.signal(Signal::SIGKILL);
    drop(gateway);
    let gateway = builder(&origin, quota, state.path()).await.start().await;
    assert_eq!(admitted(&gateway, "acme", 9).await, 3);
}

#[tokio::test]
async fn a_process_that_ends_in_good_order_forgets_nothing() {
    let (origin, state) = (Origin::named("app").await, tempfile::tempdir().unwrap());
    // nothing would be written for a minute
    let quota = "{limit: 10/day, sync: every 1m}";
    let mut gateway = builder(&origin, quota, state.path()).await.start().await;
    assert_eq!(admitted(&gateway, "acme", 7).await, 7);
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.ended().await.success());
    let gateway = builder(&origin, quota, state.path()).await.start().await;
    assert_eq!(admitted(&gateway, "acme", 9).await, 3);
}

#[tokio::test]
async fn another_limit_keeps_what_was_counted_and_another_period_does_not() {
    let (origin, state) = (Origin::named("app").await, tempfile::tempdir().unwrap());
    let mut gateway = builder(&origin, "{limit: 4/day}", state.path())
        .await
        .start()
        .await;
    assert_eq!(admitted(&gateway, "acme", 9).await, 4);
    gateway.set("quota", "{limit: 6/day}");
    gateway.reload_to(GATEWAY).await;
    assert_eq!(admitted(&gateway, "acme", 9).await, 2);
    gateway.set("quota", "{limit: 6/month}");
    gateway.reload_to(GATEWAY).await;
    assert_eq!(admitted(&gateway, "acme", 9).await, 6);
    // what no configuration has asked for meanwhile is still known
    gateway.set("quota", "{limit: 7/day}");
    gateway.reload_to(GATEWAY).await;
    assert_eq!(admitted(&gateway, "acme", 9).await, 1);
}

#[tokio::test]
async fn only_what_is_said_to_count_does() {
    let origin = Origin::start(|request| match request.target() {
        "/" => Reply::ok("yes"),
        _ => Reply::status(404, &[], "no"),
    })
    .await;
    let state = tempfile::tempdir().unwrap();
    let quota = "{limit: 2/hour, count: {status: 200-299}, exempt: shop}";
    let gateway = builder(&origin, quota, state.path()).await.start().await;
    for _ in 0..5 {
        let key = "the key of acme, which is long";
        let missing = gateway
            .call("GET /missing")
            .header("x-api-key", key)
            .send()
            .await;
        assert_eq!(missing.status(), 404);
    }
    assert_eq!(admitted(&gateway, "acme", 9).await, 2);
    assert_eq!(admitted(&gateway, "shop", 9).await, 9);
}

#[tokio::test]
async fn two_gateways_do_not_share_a_state_directory() {
    let (origin, state) = (Origin::named("app").await, tempfile::tempdir().unwrap());
    let first = builder(&origin, "{limit: 4/day}", state.path())
        .await
        .start()
        .await;
    let second = builder(&origin, "{limit: 4/day}", state.path())
        .await
        .fails()
        .await;
    assert_eq!(second.code, Some(78));
    assert!(
        second.stderr.contains("another gateway has it open"),
        "{}",
        second.stderr
    );
    // and whoever only looks at a configuration disturbs nobody
    let checked = first.command(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert_eq!(admitted(&first, "acme", 9).await, 4);
}

async fn quota(gateway: &Gateway, arguments: &[&str]) -> Output {
    gateway.command(&[&["quota"], arguments].concat()).await
}

#[tokio::test]
async fn an_operator_sees_grants_and_resets() {
    let (origin, state) = (Origin::named("app").await, tempfile::tempdir().unwrap());
    let written = "{limit: 3/month, zone: Europe/Berlin, limits: {shop: 5}, sync: always}";
    let gateway = builder(&origin, written, state.path()).await.start().await;
    assert_eq!(admitted(&gateway, "acme", 9).await, 3);
    let shown = quota(&gateway, &["show"]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let line = shown.stdout.lines().nth(1).expect("a quota");
    let words: Vec<&str> = line.split_whitespace().collect();
    let wanted = [
        "route.all/quota",
        "3/month",
        "consumer",
        "calendar,",
        "Europe/Berlin",
    ];
    assert_eq!(words[..5], wanted, "{line}");
    let granted = quota(&gateway, &["grant", "acme", "2"]).await;
    assert_eq!(granted.code, Some(0), "{granted:?}");
    let line = granted.stdout.lines().nth(1).expect("where it stands");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..5], ["route.all/quota", "3/month", "3", "2", "2"]);
    assert_eq!(admitted(&gateway, "acme", 9).await, 2);
    // what was given outlives the process, too
    drop(gateway);
    let gateway = builder(&origin, written, state.path()).await.start().await;
    let shown = quota(&gateway, &["show", "acme", "--format", "json"]).await;
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let standing = &shown[0]["standing"];
    assert_eq!(
        (
            &standing["counted"],
            &standing["granted"],
            &standing["remaining"]
        ),
        (&5.into(), &2.into(), &0.into())
    );
    assert!(
        standing["resets_at"]
            .as_str()
            .is_some_and(|at| at.ends_with('Z'))
    );
    let reset = quota(&gateway, &["reset", "acme"]).await;
    assert_eq!(reset.code, Some(0), "{reset:?}");
    assert_eq!(admitted(&gateway, "acme", 9).await, 3);
    for wrong in [
        &["show", "acme", "--policy", "top/quota"][..],
        &["grant", "acme", "0"],
        &["reset"],
        &["reset", "acme", "--route", "all"],
    ] {
        let output = quota(&gateway, wrong).await;
        assert_eq!(output.code, Some(2), "{wrong:?} {output:?}");
    }
    // limits are not quotas
    let limits = gateway
        .command(&["limit", "show", "--format", "json"])
        .await;
    assert_eq!(limits.stdout.trim(), "[]");
}

#[tokio::test]
async fn what_another_limit_refuses_is_given_back() {
    let (origin, state) = (Origin::named("app").await, tempfile::tempdir().unwrap());
    let gateway = builder(&origin, "{limit: 4/day, headers: off}", state.path())
        .await
        .start()
        .await;
    let text = GATEWAY.replace(
        "quota: $quota",
        "quota: $quota, rate_limit: {limit: 2/1h, by: consumer}",
    );
    gateway.reload_to(&text).await;
    assert_eq!(admitted(&gateway, "acme", 9).await, 2);
    let shown = quota(&gateway, &["show", "acme", "--format", "json"]).await;
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(shown[0]["standing"]["counted"], 2);
    // what a quota refuses is given back to the rate limit
    let text = text.replace("limit: 2/1h", "limit: 7/1h");
    gateway.reload_to(&text).await;
    assert_eq!(admitted(&gateway, "acme", 9).await, 2);
    let left = gateway
        .command(&["limit", "show", "acme", "--format", "json"])
        .await;
    let left: Value = serde_json::from_str(&left.stdout).expect("JSON");
    assert_eq!(left[0]["standing"]["remaining"], 3);
}

#[tokio::test]
async fn who_finds_no_place_has_used_nothing() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::start(move |_| Reply::after(&held).then_reply(Reply::ok("slow"))).await;
    let state = tempfile::tempdir().unwrap();
    let gateway = builder(&origin, "{limit: 9/day, sync: always}", state.path())
        .await
        .start()
        .await;
    let text = GATEWAY.replace("quota: $quota", "quota: $quota, concurrency: {limit: 1}");
    gateway.reload_to(&text).await;
    let call = gateway
        .call("GET /")
        .header("x-api-key", "the key of acme, which is long");
    let slow = tokio::spawn(async move { call.send().await });
    eventually("one to be in flight", async || {
        (!origin.received().is_empty()).then_some(())
    })
    .await;
    for _ in 0..3 {
        assert_eq!(asks(&gateway, "acme").await.status(), 503);
    }
    gate.open();
    assert_eq!(slow.await.expect("no panic").status(), 200);
    let shown = quota(&gateway, &["show", "acme", "--format", "json"]).await;
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(shown[0]["standing"]["counted"], 1);
}

#[tokio::test]
async fn a_plan_has_quotas_of_each_consumer_or_of_all_of_them() {
    let (origin, state) = (Origin::named("app").await, tempfile::tempdir().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let amounts = folder.path().join("amounts");
    std::fs::write(&amounts, "# by contract\nshop 4\n").unwrap();
    let text = GATEWAY.replace(
        "consumers:",
        "plans: {gold: {quota: {limit: 3/month, limits: {file: $amounts}}, quota.all: {limit: 6/month, by: plan}}}\ndefault_plan: gold\nconsumers:",
    );
    let text = text.replace(", quota: $quota", "");
    let gateway = Gateway::builder(&text)
        .with("app", &origin)
        .with("amounts", amounts.display())
        .variable("STATE_DIRECTORY", state.path().to_str().expect("a path"))
        .start()
        .await;
    assert_eq!(admitted(&gateway, "acme", 9).await, 3);
    let answer = asks(&gateway, "shop").await;
    let told = answer.header("ratelimit-policy").unwrap_or_default();
    assert_eq!(
        told,
        "\"plan.quota.all\";q=6;w=2592000, \"plan.quota\";q=4;w=2592000"
    );
    // the fourth of its own would be the seventh of all
    assert_eq!(admitted(&gateway, "shop", 9).await, 2);
}
