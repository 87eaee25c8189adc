//! What plans limit: for each consumer, over all routes, whatever the routes limit themselves.

use crate::harness::{Call, Gate, Gateway, GatewayBuilder, Message, Origin, Reply, eventually};
use northgate::identity::credentials::digest::DigestKey;

const DIGESTS: &str = "a key for digests of keys";

const CONFIG: &str = r#"
listeners: {public: {address: "$address:8080"}}
secrets: {digests: "a key for digests of keys"}
plans:
  bronze: {rate_limit: {limit: 3/1h}}
  gold: {rate_limit: {limit: 6/1h}, concurrency: {limit: 2}}
  unlimited: {}
$default
consumers:
  anna: {plan: bronze, credentials: {api_key: {digest: "$anna"}}}
  bert: {plan: bronze, credentials: {api_key: {digest: "$bert"}}}
  carl: {plan: gold, credentials: {api_key: {digest: "$carl"}}}
  dora: {plan: unlimited, credentials: {api_key: {digest: "$dora"}}}
  emil: {groups: [staff], credentials: {api_key: {digest: "$emil"}}}
services: {app: {endpoints: "$app"}}
policies: {auth: {api_key: on, anonymous: allow}}
routes:
  one: {match: {path: /one/**}, service: app}
  two: {match: {path: /two/**}, service: app}
  tight: {match: {path: /tight/**}, service: app, policies: {rate_limit: {limit: 1/1h, by: consumer}}}
  left: {match: {path: /left}, respond: 204, policies: {plan: off}}
  open: {match: {path: /open}, respond: 204, policies: {auth: off}}
"#;

const CONSUMERS: [&str; 5] = ["anna", "bert", "carl", "dora", "emil"];

fn builder(app: &Origin) -> GatewayBuilder {
    let digests = DigestKey::new(DIGESTS.as_bytes());
    let builder = Gateway::builder(CONFIG).with("app", app);
    CONSUMERS.iter().fold(builder, |builder, consumer| {
        let digest = digests.digest(key(consumer).as_bytes());
        builder.with(consumer, digests.written(digest))
    })
}

fn key(consumer: &str) -> String {
    format!("the-secret-key-of-{consumer}")
}

async fn quick() -> Origin {
    Origin::start(|_| Reply::ok("fine")).await
}

fn call(gateway: &Gateway, consumer: &str, target: &str) -> Call {
    let call = gateway.call(&format!("GET {target}"));
    call.header("x-api-key", &key(consumer))
}

async fn ask(gateway: &Gateway, consumer: &str, target: &str) -> Message {
    call(gateway, consumer, target).send().await
}

#[tokio::test]
async fn each_consumer_has_the_limits_of_its_plan_over_all_routes() {
    let app = quick().await;
    let gateway = builder(&app).with("default", "").start().await;
    for consumer in ["anna", "bert"] {
        let first = ask(&gateway, consumer, "/one/a").await;
        assert_eq!(first.status(), 200);
        assert_eq!(
            first.header("ratelimit-policy"),
            Some("\"plan.rate_limit\";q=3;w=3600")
        );
        let told = first
            .header("ratelimit")
            .map(str::to_owned)
            .unwrap_or_default();
        assert!(told.starts_with("\"plan.rate_limit\";r=2;t="), "{told}");
        assert_eq!(ask(&gateway, consumer, "/two/a").await.status(), 200);
        assert_eq!(ask(&gateway, consumer, "/one/b").await.status(), 200);
        let refused = ask(&gateway, consumer, "/two/b").await;
        assert_eq!(
            (refused.status(), refused.problem()),
            (429, "rate_limit.exceeded".into())
        );
        assert!(refused.header("retry-after").is_some());
        // neither where the plan does not count, nor where nobody is asked who he is
        assert_eq!(ask(&gateway, consumer, "/left").await.status(), 204);
        assert_eq!(ask(&gateway, consumer, "/open").await.status(), 204);
    }
    for _ in 0..6 {
        assert_eq!(ask(&gateway, "carl", "/one/a").await.status(), 200);
    }
    assert_eq!(ask(&gateway, "carl", "/one/a").await.status(), 429);
    for _ in 0..10 {
        assert_eq!(ask(&gateway, "dora", "/one/a").await.status(), 200);
        assert_eq!(ask(&gateway, "emil", "/one/a").await.status(), 200);
        assert_eq!(gateway.get("/one/a").await.status(), 200);
    }
}

#[tokio::test]
async fn what_a_route_refuses_does_not_count_at_the_plan() {
    let app = quick().await;
    let gateway = builder(&app).with("default", "").start().await;
    assert_eq!(ask(&gateway, "anna", "/tight/a").await.status(), 200);
    for _ in 0..5 {
        assert_eq!(ask(&gateway, "anna", "/tight/a").await.status(), 429);
    }
    assert_eq!(ask(&gateway, "anna", "/one/a").await.status(), 200);
    assert_eq!(ask(&gateway, "anna", "/one/a").await.status(), 200);
    assert_eq!(ask(&gateway, "anna", "/one/a").await.status(), 429);
}

#[tokio::test]
async fn who_has_no_plan_has_the_default_one() {
    let app = quick().await;
    let gateway = builder(&app)
        .with("default", "default_plan: bronze")
        .start()
        .await;
    for _ in 0..3 {
        assert_eq!(ask(&gateway, "emil", "/one/a").await.status(), 200);
    }
    assert_eq!(ask(&gateway, "emil", "/one/a").await.status(), 429);
    let told = app.received();
    let told = told.iter().map(|request| request.header("x-consumer-plan"));
    assert!(told.into_iter().all(|plan| plan == Some("bronze")));
    // nobody in particular has no plan
    for _ in 0..5 {
        assert_eq!(gateway.get("/one/a").await.status(), 200);
    }
    assert_eq!(ask(&gateway, "dora", "/one/a").await.status(), 200);
}

#[tokio::test]
async fn requests_in_flight_are_counted_over_all_routes_too() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = Origin::start(move |_| Reply::after(&held).then_reply(Reply::ok("slow"))).await;
    let gateway = builder(&app).with("default", "").start().await;
    let calls = ["/one/a", "/two/a"].map(|target| {
        tokio::spawn({
            let call = call(&gateway, "carl", target);
            async move { call.send().await }
        })
    });
    eventually("both to be in flight", async || {
        let metrics = gateway.metrics().await;
        let inside = metrics.value(
            "northgate_concurrency_in_flight",
            &[("policy", "plan.gold/concurrency")],
        );
        (inside == 2.0).then_some(())
    })
    .await;
    let refused = ask(&gateway, "carl", "/one/b").await;
    assert_eq!(
        (refused.status(), refused.problem()),
        (503, "concurrency.exceeded".into())
    );
    gate.open();
    for call in calls {
        assert_eq!(call.await.expect("no panic").status(), 200);
    }
    // what was refused at once did not count: four of six are left
    for _ in 0..4 {
        assert_eq!(ask(&gateway, "carl", "/one/c").await.status(), 200);
    }
    assert_eq!(ask(&gateway, "carl", "/one/c").await.status(), 429);
}

#[tokio::test]
async fn another_limit_of_a_plan_keeps_what_was_counted() {
    let app = quick().await;
    let gateway = builder(&app).with("default", "").start().await;
    for _ in 0..3 {
        assert_eq!(ask(&gateway, "anna", "/one/a").await.status(), 200);
    }
    assert_eq!(ask(&gateway, "anna", "/one/a").await.status(), 429);
    let mut config = CONFIG.to_owned();
    config = config.replace("limit: 3/1h", "limit: 4/1h");
    gateway.reload_to(&config).await;
    assert_eq!(ask(&gateway, "anna", "/one/a").await.status(), 200);
    assert_eq!(ask(&gateway, "anna", "/one/a").await.status(), 429);
    // the other plan is bought
    config = config.replace("anna: {plan: bronze", "anna: {plan: gold");
    gateway.reload_to(&config).await;
    assert_eq!(ask(&gateway, "anna", "/one/a").await.status(), 200);
}
