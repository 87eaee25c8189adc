//! `northgate limit` and `/v1/limits`: where callers stand, how one begins anew, what limits take.

use crate::harness::{Gateway, northgate};
use serde_json::Value;

const LIMITS: &str = r#"
policies:
  rate_limit.tenant: {limit: 5/1h, by: header.x-tenant, limits: {gold: 50/1h}, exempt: free, when: {path: /tenant}}
  rate_limit.address: {limit: 3/1h, by: client_address, when: {path: /address}}
routes:
  tenant: {match: {path: /tenant}, respond: 204}
  address: {match: {path: /address}, respond: 204}
  both: {match: {path: /both}, respond: 204, policies: {rate_limit: {limit: 4/1h, by: [host, header.x-tenant], algorithm: token_bucket, burst: 2}}}
  total: {match: {path: /total}, respond: 204, policies: {rate_limit: {limit: 4/1h}}}
"#;

const PER_ROUTE: &str = r#"
policies: {rate_limit: {limit: 2/1h, by: header.x-tenant, per: route}}
routes:
  one: {match: {path: /one}, respond: 204}
  two: {match: {path: /two}, respond: 204}
"#;

async fn ask(gateway: &Gateway, path: &str, tenant: &str, times: usize) -> Vec<u16> {
    let call = gateway.call(&format!("GET {path}"));
    let call = call.host("h.test").header("x-tenant", tenant);
    let mut statuses = Vec::new();
    for _ in 0..times {
        statuses.push(call.send().await.status());
    }
    statuses
}

async fn standing(gateway: &Gateway, arguments: &[&str]) -> Value {
    let arguments = [&["limit", "show", "--format", "json"], arguments].concat();
    let output = gateway.command(&arguments).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    serde_json::from_str::<Value>(&output.stdout).expect("JSON")["standing"].clone()
}

#[tokio::test]
async fn a_key_that_is_reset_begins_anew_and_no_other_does() {
    let gateway = Gateway::start(LIMITS).await;
    let tenant = "top/rate_limit.tenant";
    for name in ["acme", "shop"] {
        assert_eq!(ask(&gateway, "/tenant", name, 6).await[4..], [204, 429]);
    }
    let acme = standing(&gateway, &["acme", "--policy", tenant]).await;
    assert_eq!(
        (&acme["counted"], &acme["remaining"]),
        (&5.into(), &0.into())
    );
    let more = acme["more_after_seconds"].as_u64().expect("a time");
    assert!((3600..=4200).contains(&more), "{more}");
    let gold = standing(&gateway, &["gold", "--policy", tenant]).await;
    assert_eq!(
        (&gold["limit"], &gold["remaining"]),
        (&"50/1h".into(), &50.into())
    );
    let free = standing(&gateway, &["free", "--policy", tenant]).await;
    assert_eq!(free["exempt"], true);

    let output = gateway.command(&["limit", "reset", "acme"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let expected = "\
POLICY                 LIMIT  COUNTED  REMAINING  MORE AFTER
top/rate_limit.tenant  5/1h         0          5           -
";
    assert_eq!(output.stdout, expected);
    assert_eq!(ask(&gateway, "/tenant", "acme", 6).await[4..], [204, 429]);
    assert_eq!(ask(&gateway, "/tenant", "shop", 1).await, [429]);
    // keys are in no log and no metric
    gateway.logs("begins anew").await;
    for text in [gateway.stderr(), gateway.metrics().await.text().to_owned()] {
        assert!(!text.contains("acme") && !text.contains("shop"), "{text}");
    }
}

#[tokio::test]
async fn buckets_addresses_and_totals_are_reset_too() {
    let gateway = Gateway::start(LIMITS).await;
    assert_eq!(ask(&gateway, "/both", "acme", 3).await, [204, 204, 429]);
    let both = "route.both/rate_limit";
    let bucket = standing(&gateway, &["h.test,acme", "--policy", both]).await;
    assert_eq!(
        (&bucket["burst"], &bucket["remaining"]),
        (&2.into(), &0.into())
    );
    let output = gateway
        .command(&["limit", "reset", "h.test,acme", "--policy", both])
        .await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(ask(&gateway, "/both", "acme", 3).await, [204, 204, 429]);

    assert_eq!(ask(&gateway, "/total", "-", 5).await[3..], [204, 429]);
    let total = gateway.command(&["limit", "reset"]).await;
    assert_eq!(total.code, Some(0), "{total:?}");
    assert_eq!(ask(&gateway, "/total", "-", 1).await, [204]);

    assert_eq!(ask(&gateway, "/address", "-", 4).await[2..], [204, 429]);
    let status = gateway.public().ip().to_string();
    let address = "top/rate_limit.address";
    for own in ["127.0.0.1", &status] {
        let reset = ["limit", "reset", own, "--policy", address];
        assert_eq!(gateway.command(&reset).await.code, Some(0));
    }
    assert_eq!(ask(&gateway, "/address", "-", 1).await, [204]);
}

#[tokio::test]
async fn where_each_route_counts_for_itself_one_that_there_is_has_to_be_named() {
    let gateway = Gateway::start(PER_ROUTE).await;
    for path in ["/one", "/two"] {
        assert_eq!(ask(&gateway, path, "acme", 3).await, [204, 204, 429]);
    }
    let reset = async |route: &[&str]| {
        let arguments = [&["limit", "reset", "acme"], route].concat();
        gateway.command(&arguments).await
    };
    // a slip that nobody is told of would leave the caller locked out
    assert_eq!(reset(&["--route", "on"]).await.code, Some(2));
    let output = reset(&["--route", "on", "--policy", "top/rate_limit"]).await;
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(
        output.stderr.contains("there is no route `on`"),
        "{output:?}"
    );
    assert_eq!(reset(&[]).await.code, Some(2));
    assert_eq!(reset(&["--route", "one"]).await.code, Some(0));
    assert_eq!(ask(&gateway, "/one", "acme", 3).await, [204, 204, 429]);
    assert_eq!(ask(&gateway, "/two", "acme", 1).await, [429]);
}

#[tokio::test]
async fn what_can_not_be_meant_is_said() {
    let gateway = Gateway::start(LIMITS).await;
    for (arguments, said) in [
        (
            &["show", "acme", "--policy", "top/none"][..],
            "there is no such limit; there are route.both/rate_limit",
        ),
        (
            &["show", "acme", "--policy", "top/rate_limit.address"],
            "that is no key of it: a key is `client_address`",
        ),
        (
            &["reset", "acme", "--policy", "route.both/rate_limit"],
            "a key is `host,header.x-tenant`",
        ),
        (
            &["reset", "acme", "--policy", "route.total/rate_limit"],
            "it counts all requests as one",
        ),
        (
            &["reset", "--policy", "top/rate_limit.tenant"],
            "it counts by key: `header.x-tenant`",
        ),
        (
            &["reset", "127.0.0.1"],
            "several limits have such a key: say which with `--policy`: top/rate_limit.address, top/rate_limit.tenant",
        ),
        (
            &[
                "show",
                "acme",
                "--route",
                "both",
                "--policy",
                "top/rate_limit.tenant",
            ],
            "it counts over all routes",
        ),
    ] {
        let output = gateway.command(&[&["limit"], arguments].concat()).await;
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(output.stderr.contains(said), "{output:?}");
    }
    let refused = gateway
        .admin("POST /v1/limits/top/rate_limit.tenant")
        .send()
        .await;
    assert_eq!(refused.status(), 405);
    let reset = gateway
        .admin("DELETE /v1/limits/top/rate_limit.tenant?key=acme")
        .send()
        .await;
    assert_eq!(
        (reset.status(), &reset.json()["standing"]["remaining"]),
        (200, &5.into())
    );
}

#[tokio::test]
async fn memory_is_told_by_check_by_the_list_and_by_metrics() {
    let gateway = Gateway::start(LIMITS).await;
    ask(&gateway, "/both", "acme", 1).await;
    let output = gateway.command(&["check", "--format", "json"]).await;
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let places: Vec<&str> = (0..4)
        .filter_map(|at| report["limits"][at]["policy"].as_str())
        .collect();
    let expected = [
        "route.both/rate_limit",
        "route.total/rate_limit",
        "top/rate_limit.address",
        "top/rate_limit.tenant",
    ];
    assert_eq!(places, expected);
    let text = gateway.command(&["check"]).await.stdout;
    for line in [
        "route.both/rate_limit: token_bucket, 10000 keys, at most ",
        "route.total/rate_limit: sliding_window, 1 key, at most 8.0 KiB\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let list: Value = gateway.admin("GET /v1/limits").send().await.json();
    let bytes = list[0]["bytes"].as_f64().expect("bytes");
    assert!(
        bytes > 0.0 && list[0]["bytes_max"].as_f64() > Some(bytes),
        "{list}"
    );
    let policy = [("policy", "route.both/rate_limit")];
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("northgate_rate_limit_bytes", &policy), bytes);
    assert_eq!(
        metrics.value("northgate_rate_limit_shared_decisions_total", &policy),
        0.0
    );
    let page = gateway.command(&["limit", "show"]).await.stdout;
    assert!(
        page.contains("route.both/rate_limit   4/1h   host,header.x-tenant  token_bucket"),
        "{page}"
    );
}

#[tokio::test]
async fn without_a_gateway_nobody_answers() {
    let output = northgate(&[
        "limit",
        "show",
        "acme",
        "--admin",
        "unix:/nonexistent/admin.sock",
    ])
    .await;
    assert_eq!(output.code, Some(1), "{output:?}");
}
