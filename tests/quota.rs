//! `quota`: exact over hours, days and months, whatever restarts in between.

use super::harness::{
    Gate, Gateway, GatewayBuilder, Message, Origin, Output, Reply, eventually, northgate,
};
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

/// Where a key stands: what it has used, what it was granted, and what is left.
async fn standing(gateway: &Gateway, key: &str, policy: &str) -> (u64, u64, u64) {
    let arguments = ["show", key, "--policy", policy, "--format", "json"];
    let output = quota(gateway, &arguments).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let status: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let number = |name: &str| status["standing"][name].as_u64().expect("a number");
    (number("counted"), number("granted"), number("remaining"))
}

#[tokio::test]
async fn what_an_operator_changes_is_on_the_disk_when_the_command_ends() {
    let (origin, state) = (Origin::named("app").await, tempfile::tempdir().unwrap());
    // nothing would be written for a minute
    let written = "{limit: 3/month, sync: every 1m, zone: Europe/Berlin}";
    let gateway = builder(&origin, written, state.path()).await.start().await;
    for consumer in ["acme", "shop"] {
        assert_eq!(admitted(&gateway, consumer, 5).await, 3);
    }
    for arguments in [&["grant", "acme", "2"][..], &["reset", "shop"]] {
        let output = quota(&gateway, arguments).await;
        assert_eq!(output.code, Some(0), "{output:?}");
    }
    gateway.logs("begins anew").await;
    // keys are in no log and no metric
    for text in [gateway.stderr(), gateway.metrics().await.text().to_owned()] {
        assert!(!text.contains("acme") && !text.contains("shop"), "{text}");
    }
    gateway.signal(Signal::SIGKILL);
    drop(gateway);
    let gateway = builder(&origin, written, state.path()).await.start().await;
    let policy = "route.all/quota";
    assert_eq!(standing(&gateway, "acme", policy).await, (3, 2, 2));
    assert_eq!(standing(&gateway, "shop", policy).await, (0, 0, 3));
    assert_eq!(admitted(&gateway, "acme", 5).await, 2);
}

const SEVERAL: &str = r#"
secrets: {digests: "a secret of some length"}
consumers:
  acme: {credentials: {api_key: {key: "the key of acme, which is long"}}}
  free: {credentials: {api_key: {key: "the key of free, which is long"}}}
services: {app: {endpoints: $app}}
policies:
  auth: {api_key: on, anonymous: allow}
  quota: {limit: 2/day, per: route, exempt: free}
  quota.tried: {limit: 1/day, mode: shadow, sync: always}
  quota.near: {limit: 1/day, by: client_address, exempt: 127.0.0.0/8}
routes:
  one: {match: {path: /**}, service: app}
  two: {match: {path: /two}, service: app}
"#;

#[tokio::test]
async fn routes_count_for_themselves_and_shadows_and_exemptions_refuse_nobody() {
    let (origin, state) = (Origin::named("app").await, tempfile::tempdir().unwrap());
    let gateway = Gateway::builder(SEVERAL)
        .with("app", &origin)
        .variable("STATE_DIRECTORY", state.path().to_str().expect("a path"))
        .start()
        .await;
    assert_eq!(admitted(&gateway, "free", 5).await, 5);
    assert_eq!(admitted(&gateway, "acme", 5).await, 2);
    let told = asks(&gateway, "acme").await;
    let told = told.header("ratelimit-policy").expect("what there is");
    assert_eq!(told, "\"quota\";q=2;w=86400");
    let key = "the key of acme, which is long";
    let two = async || {
        let call = gateway.call("GET /two").header("x-api-key", key);
        call.send().await.status()
    };
    assert_eq!([two().await, two().await, two().await], [200, 200, 429]);
    // several have such a key, and one wants to know the route
    let output = quota(&gateway, &["reset", "acme", "--policy", "top/quota"]).await;
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(
        output.stderr.contains("each route counts for itself"),
        "{output:?}"
    );
    let route = ["--policy", "top/quota", "--route", "two"];
    let output = quota(&gateway, &[&["grant", "acme", "1"], &route[..]].concat()).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!([two().await, two().await], [200, 429]);
    assert_eq!(admitted(&gateway, "acme", 1).await, 0);

    let check = gateway.command(&["check"]).await.stdout;
    assert!(
        check.contains("top/quota: calendar, UTC, 100000 keys, at most "),
        "{check}"
    );
    let config = gateway.config();
    let config = config.to_str().expect("a path");
    let header = format!("x-api-key: {key}");
    let explained = northgate(&["explain", "-c", config, "GET", "/two", "--header", &header]).await;
    assert_eq!(explained.code, Some(0), "{explained:?}");
    let counts = "  counts   for `acme`, 2/day (`northgate quota show 'acme' --policy top/quota` says where it stands)";
    assert!(explained.stdout.contains(counts), "{}", explained.stdout);
}

/// Lets no file of the gateway grow or change, as on a full disk, or lets them again.
fn disk_is_full(gateway: &Gateway, full: bool) {
    let status = std::process::Command::new("prlimit")
        .arg(format!("--pid={}", gateway.pid()))
        .arg(if full {
            "--fsize=0:unlimited"
        } else {
            "--fsize=unlimited:unlimited"
        })
        .status();
    assert!(status.expect("prlimit").success());
}

async fn failures(gateway: &Gateway) -> f64 {
    let metrics = gateway.metrics().await;
    metrics.value("northgate_quota_commits_total", &[("result", "failure")])
}

#[tokio::test]
async fn a_full_disk_stops_nobody_and_what_was_counted_meanwhile_is_written_later() {
    let (origin, state) = (Origin::named("app").await, tempfile::tempdir().unwrap());
    let written = "{limit: 10/day, sync: every 100ms}";
    let gateway = builder(&origin, written, state.path()).await.start().await;
    assert_eq!(admitted(&gateway, "acme", 2).await, 2);
    disk_is_full(&gateway, true);
    assert_eq!(admitted(&gateway, "acme", 3).await, 3);
    eventually("a failure", async || {
        (failures(&gateway).await > 2.0).then_some(())
    })
    .await;
    gateway
        .logs("what quotas have counted can't be written")
        .await;
    assert_eq!(admitted(&gateway, "acme", 2).await, 2);
    // what is granted holds, and whoever grants is told that it is not on the disk
    let granted = quota(&gateway, &["grant", "acme", "1"]).await;
    assert_eq!(granted.code, Some(1), "{granted:?}");
    assert!(
        granted.stderr.contains("can't be written to the disk"),
        "{granted:?}"
    );
    disk_is_full(&gateway, false);
    is_written(&gateway).await;
    gateway.signal(Signal::SIGKILL);
    drop(gateway);
    let gateway = builder(&origin, written, state.path()).await.start().await;
    assert_eq!(
        standing(&gateway, "acme", "route.all/quota").await,
        (7, 1, 4)
    );
}

#[tokio::test]
async fn who_must_be_on_the_disk_first_is_refused_while_it_is_full_and_uses_up_nothing() {
    let (origin, state) = (Origin::named("app").await, tempfile::tempdir().unwrap());
    let written = "{limit: 5/day, sync: always}";
    let gateway = builder(&origin, written, state.path()).await.start().await;
    assert_eq!(admitted(&gateway, "acme", 2).await, 2);
    disk_is_full(&gateway, true);
    for _ in 0..3 {
        let refused = asks(&gateway, "acme").await;
        assert_eq!(
            (refused.status(), refused.problem()),
            (503, "quota.unavailable".to_owned())
        );
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    assert!(failures(&gateway).await >= 1.0);
    disk_is_full(&gateway, false);
    eventually("the disk", async || {
        (asks(&gateway, "acme").await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(admitted(&gateway, "acme", 9).await, 2);
    assert_eq!(origin.received().len(), 5);
}

#[tokio::test]
async fn a_process_that_begins_while_its_predecessor_ends_waits_for_all_that_it_has_counted() {
    let (gate, state) = (Gate::closed(), tempfile::tempdir().unwrap());
    let held = gate.clone();
    let origin = Origin::start(move |request| match request.target() {
        "/slow" => Reply::after(&held).then_reply(Reply::ok("slow")),
        _ => Reply::ok("fast"),
    })
    .await;
    // what counts is how requests end, which the predecessor learns at the very last
    let written = "{limit: 10/day, sync: every 1m, count: {status: 200}}";
    let mut first = builder(&origin, written, state.path()).await.start().await;
    assert_eq!(admitted(&first, "acme", 3).await, 3);
    let slow = first.call("GET /slow");
    let slow = slow.header("x-api-key", "the key of acme, which is long");
    let slow = tokio::spawn(async move { slow.send().await });
    origin.has_received(4).await;
    first.signal(Signal::SIGTERM);
    first.logs("draining").await;
    let second = builder(&origin, written, state.path()).await.begin();
    gate.open();
    assert_eq!(slow.await.unwrap().status(), 200);
    assert!(first.ended().await.success());
    eventually("the successor", async || {
        let ready = second.admin("GET /readyz").try_send().await;
        ready.is_ok_and(|ready| ready.status() == 200).then_some(())
    })
    .await;
    assert_eq!(
        standing(&second, "acme", "route.all/quota").await,
        (4, 0, 6)
    );
    assert_eq!(admitted(&second, "acme", 9).await, 6);
}

#[tokio::test]
async fn a_file_that_is_not_what_it_should_be_is_an_error_at_the_start() {
    let (origin, state) = (Origin::named("app").await, tempfile::tempdir().unwrap());
    std::fs::write(state.path().join("quotas.redb"), "something else entirely").unwrap();
    let broken = builder(&origin, "{limit: 4/day}", state.path()).await;
    let broken = broken.fails().await;
    assert_eq!(broken.code, Some(78), "{broken:?}");
    for said in [
        "what is counted can't be kept: `",
        "quotas.redb`: ",
        "hint: ",
    ] {
        assert!(broken.stderr.contains(said), "{}", broken.stderr);
    }
    // a state directory that can't be made
    let nowhere = state.path().join("quotas.redb/below");
    let broken = builder(&origin, "{limit: 4/day}", &nowhere).await;
    let broken = broken.fails().await;
    assert_eq!(broken.code, Some(78), "{broken:?}");
    // one whose pages were altered
    std::fs::remove_file(state.path().join("quotas.redb")).unwrap();
    let gateway = builder(&origin, "{limit: 4/day, sync: always}", state.path()).await;
    let mut gateway = gateway.start().await;
    assert_eq!(admitted(&gateway, "acme", 1).await, 1);
    gateway.signal(Signal::SIGTERM);
    gateway.ended().await;
    let path = state.path().join("quotas.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.iter_mut().skip(4096).for_each(|byte| *byte = 0xff);
    std::fs::write(&path, bytes).unwrap();
    let broken = builder(&origin, "{limit: 4/day}", state.path()).await;
    let broken = broken.fails().await;
    assert_eq!(broken.code, Some(78), "{broken:?}");
    assert!(!broken.stderr.contains("panicked"), "{}", broken.stderr);
}
