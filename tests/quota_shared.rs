//! Quotas that gateways share in a real Redis: exact together, bounded while it is away, and nothing of it forgotten.

use crate::harness::{Gateway, Redis, eventually};
use serde_json::Value;
use tempfile::TempDir;

const QUOTA: &str = r#"
stores: {shared: {redis: "$redis", timeout: 500ms, on_failure: $failure}}
policies: {quota: {limit: 60/month, by: header.x-tenant, store: shared, limits: {large: 90}}$more}
routes: {app: {match: {path: /**}, respond: 204}}
"#;

struct Fleet {
    redis: Redis,
    gateways: Vec<Gateway>,
    _states: Vec<TempDir>,
}

impl Fleet {
    async fn start(failure: &str, more: &str) -> Self {
        let redis = Redis::start().await;
        let (mut gateways, mut states) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let state = tempfile::tempdir().expect("a folder");
            let gateway = Gateway::builder(QUOTA)
                .with("redis", redis.url())
                .with("failure", failure)
                .with("more", more)
                .variable("STATE_DIRECTORY", state.path().to_str().expect("a path"));
            gateways.push(gateway.start().await);
            states.push(state);
        }
        let fleet = Self {
            redis,
            gateways,
            _states: states,
        };
        fleet.is(true).await;
        fleet
    }

    /// Waits until every gateway knows all of them, or that the store is away.
    async fn is(&self, up: bool) {
        for gateway in &self.gateways {
            eventually("the store to be as it is", async || {
                let metrics = gateway.metrics().await;
                let known = metrics.value("northgate_store_gateways", &[]) == 3.0;
                let is_up = metrics.value("northgate_store_up", &[]) == 1.0;
                (is_up == up && (known || !up)).then_some(())
            })
            .await;
        }
    }

    async fn asks(&self, gateway: usize, tenant: &str) -> u16 {
        let call = self.gateways[gateway].call("GET /");
        call.header("x-tenant", tenant).send().await.status()
    }

    /// All gateways at once, so many requests at each: how many are let through.
    async fn together(&self, tenant: &str, times: usize) -> usize {
        let all = (0..3).map(async |gateway| {
            let mut admitted = 0;
            for _ in 0..times {
                match self.asks(gateway, tenant).await {
                    204 => admitted += 1,
                    429 => {}
                    other => panic!("{other}"),
                }
            }
            admitted
        });
        futures::future::join_all(all).await.iter().sum()
    }

    async fn standing(&self, tenant: &str) -> (u64, u64, u64) {
        let arguments = ["quota", "show", tenant, "--format", "json"];
        let output = self.gateways[1].command(&arguments).await;
        let shown: Value = serde_json::from_str(&output.stdout).expect("JSON");
        let number = |name: &str| shown[0]["standing"][name].as_u64().expect("a number");
        (number("counted"), number("granted"), number("remaining"))
    }
}

#[tokio::test]
async fn gateways_together_let_exactly_the_quota_through_and_operators_act_on_all() {
    let fleet = Fleet::start("deny", "").await;
    assert_eq!(fleet.together("acme", 30).await, 60);
    assert_eq!(fleet.together("large", 40).await, 90);
    assert_eq!(fleet.standing("acme").await, (60, 0, 0));
    let granted = fleet.gateways[0]
        .command(&["quota", "grant", "acme", "7"])
        .await;
    assert_eq!(granted.code, Some(0), "{granted:?}");
    assert_eq!(fleet.together("acme", 9).await, 7);
    assert_eq!(fleet.standing("acme").await, (67, 7, 0));
    let reset = fleet.gateways[2].command(&["quota", "reset", "acme"]).await;
    assert_eq!(reset.code, Some(0), "{reset:?}");
    assert_eq!(fleet.together("acme", 30).await, 60);
    // what is counted by is in no name
    let names = fleet.redis.names().await;
    assert!(names.iter().all(|name| !name.contains("acme")), "{names:?}");
}

#[tokio::test]
async fn what_is_let_through_without_the_store_is_told_when_it_answers_again() {
    let fleet = Fleet::start("local_share", "").await;
    assert_eq!(fleet.together("acme", 5).await, 15);
    fleet.redis.pause();
    fleet.is(false).await;
    // each has a third, of which it has used five
    assert_eq!(fleet.together("acme", 20).await, 45);
    assert_eq!(fleet.together("other", 30).await, 60);
    fleet.redis.go_on();
    fleet.is(true).await;
    // the first question of each gateway tells what it owes, and until the last has told it there seems to be room
    for tenant in ["acme", "other"] {
        let more = fleet.together(tenant, 1).await;
        assert!(more <= 2, "{tenant}: {more}");
        assert_eq!(fleet.together(tenant, 3).await, 0, "{tenant}");
        let used = 60 + more as u64;
        assert_eq!(fleet.standing(tenant).await, (used, 0, 0), "{tenant}");
    }
}

#[tokio::test]
async fn without_its_store_a_quota_lets_nobody_through_where_it_says_so() {
    let mut fleet = Fleet::start("deny", "").await;
    assert_eq!(fleet.together("acme", 1).await, 3);
    fleet.redis.kill();
    fleet.is(false).await;
    let refused = fleet.gateways[0].call("GET /").header("x-tenant", "acme");
    let refused = refused.send().await;
    assert_eq!(
        (refused.status(), refused.problem()),
        (503, "quota.unavailable".into())
    );
    let show = fleet.gateways[0]
        .command(&["quota", "grant", "acme", "7"])
        .await;
    assert_eq!(show.code, Some(1), "{show:?}");
    fleet.redis.restart().await;
    fleet.is(true).await;
    assert_eq!(fleet.together("acme", 1).await, 3);
}

#[tokio::test]
async fn what_another_limit_refuses_is_given_back_to_the_store() {
    let more = ", concurrency: {limit: 1, by: header.x-tenant, when: {header: {x-tenant: crowd}}}, rate_limit: {limit: 5/1h, by: header.x-tenant}";
    let fleet = Fleet::start("allow", more).await;
    assert_eq!(fleet.together("acme", 9).await, 15);
    assert_eq!(fleet.standing("acme").await.0, 15);
}
