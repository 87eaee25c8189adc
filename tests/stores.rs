//! Limits that gateways share in a real Redis: what gets through together, what decides when it is away, who sees it.

use crate::harness::{Gateway, Pki, Redis, cluster, eventually, loopback, northgate, replica};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Windows are long, so that no test runs into the end of one; answers may take long, since the machine may be busy.
const SHARED: &str = r#"
stores: {shared: {redis: "$redis", timeout: 500ms, on_failure: $failure}}
policies:
  rate_limit: {limit: $limit, by: header.x-tenant, store: shared, exact: $exact}
routes:
  app: {match: {path: /**}, respond: 204}
"#;

struct Fleet {
    redis: Redis,
    gateways: Vec<Gateway>,
}

impl Fleet {
    async fn start(limit: &str, exact: bool, failure: &str) -> Self {
        let redis = Redis::start().await;
        let mut gateways = Vec::new();
        for _ in 0..3 {
            let gateway = Gateway::builder(SHARED)
                .with("redis", redis.url())
                .with("limit", limit)
                .with("exact", exact)
                .with("failure", failure);
            gateways.push(gateway.start().await);
        }
        let fleet = Self { redis, gateways };
        fleet.is_up().await;
        fleet
    }

    /// Waits until every gateway knows all of them.
    async fn is_up(&self) {
        for gateway in &self.gateways {
            gateway
                .counts("northgate_store_gateways", &[("store", "shared")], 3.0)
                .await;
            gateway
                .counts("northgate_store_up", &[("store", "shared")], 1.0)
                .await;
        }
    }

    async fn is_down(&self) {
        for gateway in &self.gateways {
            eventually("the store to be down", async || {
                let metrics = gateway.metrics().await;
                (metrics.value("northgate_store_up", &[]) == 0.0).then_some(())
            })
            .await;
        }
    }
}

/// One request after another on one connection: how many are let through.
async fn admitted(gateway: &Gateway, tenant: &str, times: usize) -> usize {
    let mut client = gateway.client().await;
    let mut admitted = 0;
    for _ in 0..times {
        client
            .send(&format!(
                "GET / HTTP/1.1\r\nHost: a.test\r\nX-Tenant: {tenant}\r\n\r\n"
            ))
            .await;
        match client.response("GET").await.status() {
            204 => admitted += 1,
            429 => {}
            other => panic!("{other}"),
        }
    }
    admitted
}

/// All gateways at once, so many requests at each.
async fn together(fleet: &Fleet, tenant: &str, times: [usize; 3]) -> usize {
    let all = fleet.gateways.iter().zip(times);
    let all = all.map(|(gateway, times)| admitted(gateway, tenant, times));
    futures::future::join_all(all).await.iter().sum()
}

#[tokio::test]
async fn a_fleet_that_asks_for_each_request_lets_exactly_the_limit_through() {
    let fleet = Fleet::start("50/1h", true, "local_share").await;
    assert_eq!(together(&fleet, "even", [40, 40, 40]).await, 50);
    assert_eq!(together(&fleet, "skewed", [100, 10, 1]).await, 50);
    let answer = fleet.gateways[0].call("GET /").header("x-tenant", "even");
    let answer = answer.send().await;
    assert_eq!(answer.status(), 429);
    let after: u64 = answer
        .header("retry-after")
        .expect("a time")
        .parse()
        .expect("seconds");
    assert!((3600..=3900).contains(&after), "{after}");
    assert!(answer.header("ratelimit").expect("a field").contains("r=0"));
    // what is counted by is in no name
    let names = fleet.redis.names().await;
    assert!(names.len() >= 3 && names.iter().all(|name| name.starts_with("northgate:{")));
    assert!(
        names
            .iter()
            .all(|name| !name.contains("even") && !name.contains("skewed"))
    );
}

#[tokio::test]
async fn leases_let_no_more_through_than_the_limit_and_the_stated_bound() {
    let fleet = Fleet::start("300/1h", false, "deny").await;
    for (tenant, times) in [("even", [200, 200, 200]), ("skewed", [500, 50, 5])] {
        let first = together(&fleet, tenant, times).await;
        // what one holds and does not need comes back, and nothing is lost
        let mut all = first;
        eventually("the limit to be used up", async || {
            all += together(&fleet, tenant, [3, 3, 3]).await;
            (all >= 300).then_some(())
        })
        .await;
        let more = together(&fleet, tenant, [20, 20, 20]).await;
        let metrics = fleet.gateways[0].metrics().await;
        let bound = metrics.value("northgate_rate_limit_overshoot_max", &[]);
        assert_eq!(bound, 9.0);
        assert!(
            (300..=309).contains(&(all + more)),
            "{tenant}: {first}, {all} and {more}"
        );
    }
}

#[tokio::test]
async fn a_store_that_stands_still_in_the_middle_costs_its_timeout_and_each_gateway_takes_its_share()
 {
    let fleet = Fleet::start("300/1h", false, "local_share").await;
    let before = together(&fleet, "a", [20, 20, 20]).await;
    assert_eq!(before, 60);
    fleet.redis.pause();
    fleet.is_down().await;
    let began = Instant::now();
    let during = together(&fleet, "b", [200, 200, 200]).await;
    // a hundred for each, and what was on credit; nobody waits any more
    assert!((300..=310).contains(&during), "{during}");
    assert!(began.elapsed() < Duration::from_secs(10));
    for gateway in &fleet.gateways {
        let metrics = gateway.metrics().await;
        let labels = [("policy", "top/rate_limit"), ("by", "local_share")];
        assert!(metrics.value("northgate_rate_limit_store_failures_total", &labels) >= 100.0);
        assert_eq!(metrics.value("northgate_rate_limit_degraded", &[]), 1.0);
        let status = gateway.status().await;
        assert_eq!(status["stores"][0]["up"], false);
        assert_eq!(status["stores"][0]["error"], "it does not answer in time");
        gateway.logs("the store is away").await;
    }
    fleet.redis.go_on();
    fleet.is_up().await;
    // what was counted before counts on; what was told twice, for want of an answer, is a few
    let mut after = 0;
    eventually("the rest of the limit", async || {
        after += together(&fleet, "a", [50, 50, 50]).await;
        (after >= 225).then_some(())
    })
    .await;
    assert!(after <= 249, "{after}");
    // once for each change, whatever the load
    for gateway in &fleet.gateways {
        gateway.logs("the store answers again").await;
        assert_eq!(gateway.stderr().matches("the store is away").count(), 1);
    }
}

#[tokio::test]
async fn a_store_that_was_killed_is_found_again_without_help() {
    for exact in [true, false] {
        let mut fleet = Fleet::start("30/1h", exact, "local_share").await;
        assert!(together(&fleet, "a", [20, 20, 20]).await <= 33);
        fleet.redis.kill();
        fleet.is_down().await;
        let during = together(&fleet, "a", [20, 20, 20]).await;
        assert!(during <= 33, "{during}");
        fleet.redis.restart().await;
        fleet.is_up().await;
        // it has forgotten everything, as a new one
        let after = together(&fleet, "c", [20, 20, 20]).await;
        assert!((20..=33).contains(&after), "{after}");
    }
}

#[tokio::test]
async fn without_its_store_a_limit_lets_all_through_or_none_where_it_says_so() {
    for (failure, status) in [("allow", 204), ("deny", 503)] {
        for exact in [true, false] {
            let mut fleet = Fleet::start("2/1h", exact, failure).await;
            fleet.redis.kill();
            fleet.is_down().await;
            let gateway = &fleet.gateways[0];
            for _ in 0..5 {
                let answer = gateway.get("/").await;
                assert_eq!(answer.status(), status);
                if failure == "deny" {
                    assert_eq!(answer.header("retry-after"), Some("1"));
                    assert_eq!(answer.json()["code"], "rate_limit.unavailable");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_decided_instead_of_a_store_is_in_the_log() {
    let mut redis = Redis::start().await;
    let yaml = format!("access_log: {{path: $dir/access.log}}\n{SHARED}");
    let gateway = Gateway::builder(&yaml)
        .with("redis", redis.url())
        .with("limit", "9/1h")
        .with("exact", "true")
        .with("failure", "allow");
    let gateway = gateway.start().await;
    assert_eq!(gateway.get("/one").await.status(), 204);
    redis.kill();
    assert_eq!(gateway.get("/two").await.status(), 204);
    let lines = eventually("two lines", async || {
        let text = std::fs::read_to_string(gateway.dir().join("access.log")).ok()?;
        (text.lines().count() == 2).then_some(text)
    })
    .await;
    let failure =
        |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["store_failure"].clone();
    let failures: Vec<Value> = lines.lines().map(failure).collect();
    assert_eq!(failures, [Value::Null, "allow".into()]);
}

#[tokio::test]
async fn a_start_without_the_store_is_a_start() {
    let mut redis = Redis::start().await;
    redis.kill();
    let gateway = Gateway::builder(SHARED)
        .with("redis", redis.url())
        .with("limit", "3/1h")
        .with("exact", "false")
        .with("failure", "local_share");
    let gateway = gateway.start().await;
    gateway.logs("the store is away").await;
    assert_eq!(admitted(&gateway, "a", 5).await, 3);
    redis.restart().await;
    gateway.counts("northgate_store_up", &[], 1.0).await;
    assert_eq!(admitted(&gateway, "b", 5).await, 3);
}

#[tokio::test]
async fn a_burst_on_a_key_that_nobody_has_seen_is_let_through_whole() {
    for (algorithm, exact) in [
        ("sliding_window", "false"),
        ("token_bucket, burst: 60", "false"),
        ("token_bucket, burst: 60", "true"),
    ] {
        let redis = Redis::start().await;
        let yaml = SHARED.replace(
            "exact: $exact",
            &format!("exact: {exact}, algorithm: {algorithm}"),
        );
        let gateway = Gateway::builder(&yaml)
            .with("redis", redis.url())
            .with("limit", "60/1h")
            .with("failure", "deny");
        let gateway = gateway.start().await;
        gateway.counts("northgate_store_up", &[], 1.0).await;
        let call = gateway.call("GET /").header("x-tenant", "a");
        let calls = (0..90).map(|_| async { call.send().await.status() });
        let statuses = futures::future::join_all(calls).await;
        let through = statuses.iter().filter(|status| **status == 204).count();
        // one gateway knows all that is let through
        assert_eq!(through, 60, "{algorithm}, {exact}");
        assert!(statuses.iter().all(|status| matches!(status, 204 | 429)));
    }
}

#[tokio::test]
async fn an_operator_sees_all_that_counts_and_lets_a_key_begin_anew_everywhere() {
    let fleet = Fleet::start("6/1h", false, "deny").await;
    let [one, two, three] = &fleet.gateways[..] else {
        panic!("three gateways");
    };
    assert_eq!(admitted(one, "acme", 3).await, 3);
    let show = async |gateway: &Gateway| {
        let output = gateway
            .command(&["limit", "show", "acme", "--format", "json"])
            .await;
        assert_eq!(output.code, Some(0), "{output:?}");
        serde_json::from_str::<Value>(&output.stdout).expect("JSON")[0].clone()
    };
    eventually("the other gateway to see it", async || {
        let shown = show(two).await;
        (shown["standing"]["counted"] == 3).then_some(())
    })
    .await;
    let shown = show(three).await;
    assert_eq!(shown["store"]["name"], "shared");
    assert_eq!(shown["store"]["overshoot_per_gateway"], 1);
    assert!(admitted(two, "acme", 20).await >= 2);
    eventually(
        "the first gateway to know that all is used up",
        async || (admitted(one, "acme", 1).await == 0).then_some(()),
    )
    .await;
    let reset = two.command(&["limit", "reset", "acme"]).await;
    assert_eq!(reset.code, Some(0), "{reset:?}");
    assert!(reset.stdout.contains("6/1h"), "{reset:?}");
    eventually("others to hear of it", async || {
        (admitted(one, "acme", 1).await == 1).then_some(())
    })
    .await;
    fleet.redis.pause();
    fleet.is_down().await;
    let refused = three.command(&["limit", "reset", "acme"]).await;
    assert!(refused.stderr.contains("does not answer"), "{refused:?}");
    assert_eq!(show(three).await["standing"]["away"], true);
}

#[tokio::test]
async fn outcomes_costs_and_what_is_given_back_count_together() {
    let redis = Redis::start().await;
    let yaml = r#"
stores: {shared: {redis: "$redis", timeout: 500ms, on_failure: deny}}
routes:
  login: {match: {path: /login}, respond: 401, policies: {rate_limit: {limit: 3/1h, by: header.x-tenant, count: {status: 401}, store: shared, exact: $exact}}}
  dear: {match: {path: /dear}, respond: 204, policies: {rate_limit: {limit: 10/1h, by: header.x-tenant, cost: {POST: 5, default: 1}, store: shared, exact: $exact}}}
  both: {match: {path: /both}, respond: 204, policies: {
    rate_limit.a: {limit: 10/1h, by: header.x-tenant, store: shared, exact: $exact, exempt: free, limits: {gold: 20/1h}},
    rate_limit.b: {limit: 2/1h, by: header.x-tenant}}}
"#;
    for exact in ["true", "false"] {
        let (mut gateways, tenant) = (Vec::new(), format!("t{exact}"));
        for _ in 0..2 {
            let gateway = Gateway::builder(yaml)
                .with("redis", redis.url())
                .with("exact", exact);
            let gateway = gateway.start().await;
            gateway.counts("northgate_store_up", &[], 1.0).await;
            gateways.push(gateway);
        }
        let [one, two] = &gateways[..] else {
            panic!("two gateways");
        };
        let ask = async |gateway: &Gateway, line: &str, tenant: &str| {
            let call = gateway.call(line).header("x-tenant", tenant);
            call.send().await.status()
        };
        // failures at one lock out at the other, and nobody else
        eventually("three failures to be known everywhere", async || {
            ask(one, "GET /login", &tenant).await;
            (ask(two, "GET /login", &tenant).await == 429).then_some(())
        })
        .await;
        assert_eq!(ask(two, "GET /login", "other").await, 401);

        assert_eq!(ask(one, "POST /dear", &tenant).await, 204);
        assert_eq!(ask(one, "POST /dear", &tenant).await, 204);
        assert_eq!(ask(one, "POST /dear", &tenant).await, 429);
        assert_eq!(ask(two, "POST /dear", &tenant).await, 429);

        // what the second of two limits refuses does not count in the first
        let both = async |tenant: &str, times: usize| {
            let mut through = 0;
            for _ in 0..times {
                through += u32::from(ask(one, "GET /both", tenant).await == 204);
            }
            through
        };
        assert_eq!(both(&tenant, 12).await, 2);
        let policy = "route.both/rate_limit.a";
        eventually("two to be counted", async || {
            let arguments = [
                "limit", "show", &tenant, "--policy", policy, "--format", "json",
            ];
            let output = two.command(&arguments).await;
            let shown: Value = serde_json::from_str(&output.stdout).expect("JSON");
            (shown["standing"]["counted"] == 2).then_some(())
        })
        .await;
        let arguments = [
            "limit", "show", "gold", "--policy", policy, "--format", "json",
        ];
        let gold = one.command(&arguments).await;
        let gold: Value = serde_json::from_str(&gold.stdout).expect("JSON");
        assert_eq!(gold["standing"]["limit"], "20/1h");
    }
}

#[tokio::test]
async fn a_reload_that_moves_a_store_goes_on_with_the_other_and_an_edit_elsewhere_keeps_the_connection()
 {
    let (first, second) = (Redis::start().await, Redis::start().await);
    let mut gateway = Gateway::builder(SHARED)
        .with("redis", first.url())
        .with("limit", "4/1h")
        .with("exact", "false")
        .with("failure", "local_share")
        .start()
        .await;
    gateway.counts("northgate_store_up", &[], 1.0).await;
    assert_eq!(admitted(&gateway, "a", 6).await, 4);
    let clients = async |redis: &Redis| -> Vec<String> {
        let list: String = redis.ask(&["CLIENT", "LIST"]).await;
        let ids = list.lines().filter(|line| line.contains("cmd=eval"));
        ids.filter_map(|line| line.split(' ').next())
            .map(str::to_owned)
            .collect()
    };
    let before = clients(&first).await;
    assert_eq!(before.len(), 1, "{before:?}");
    // a limit that changes keeps its counts
    gateway.set("limit", "6/1h");
    gateway.reload_to(SHARED).await;
    eventually("the raised limit", async || {
        (admitted(&gateway, "a", 1).await == 1).then_some(())
    })
    .await;
    assert_eq!(admitted(&gateway, "a", 6).await, 1);
    assert_eq!(clients(&first).await, before);
    gateway.set("redis", second.url());
    gateway.reload_to(SHARED).await;
    eventually("the other store to be used", async || {
        (clients(&second).await.len() == 1 && clients(&first).await.is_empty()).then_some(())
    })
    .await;
    gateway.counts("northgate_store_up", &[], 1.0).await;
    assert_eq!(admitted(&gateway, "b", 9).await, 6);
}

#[tokio::test]
async fn passwords_of_stores_are_in_no_output() {
    let redis = Redis::with(&["--requirepass", "hunter2-of-redis"]).await;
    let url = format!("redis://:hunter2-of-redis@{}", redis.address());
    let yaml = SHARED.replace("$redis", "${file:$dir/redis.url}");
    let gateway = Gateway::builder(&yaml)
        .file("redis.url", &format!("{url}\n"))
        .with("limit", "2/1h")
        .with("exact", "true")
        .with("failure", "deny");
    let gateway = gateway.start().await;
    gateway.counts("northgate_store_up", &[], 1.0).await;
    assert_eq!(admitted(&gateway, "a", 3).await, 2);
    std::fs::write(
        gateway.dir().join("redis.url"),
        url.replace("hunter2", "hunter3"),
    )
    .expect("a file");
    gateway.reload_to(&yaml).await;
    gateway
        .logs("it does not take the user or the password")
        .await;
    let mut outputs = vec![gateway.stderr(), gateway.metrics().await.text().to_owned()];
    for path in ["/v1/status", "/v1/config", "/v1/limits"] {
        outputs.push(
            gateway
                .admin(&format!("GET {path}"))
                .send()
                .await
                .text()
                .to_owned(),
        );
    }
    let config = gateway.config().display().to_string();
    for arguments in [["check", "-c", &config], ["status", "-c", &config]] {
        let output = northgate(&arguments).await;
        outputs.extend([output.stdout, output.stderr]);
    }
    std::fs::write(
        gateway.dir().join("redis.url"),
        "http://:hunter2-of-redis@x",
    )
    .expect("a file");
    let refused = gateway.reload(&yaml).await;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    outputs.extend([refused.stdout, refused.stderr, gateway.stderr()]);
    for output in outputs {
        assert!(!output.contains("hunter"), "{output}");
    }
}

/// A gateway that counts in a cluster, and keys over all of it that have used up their limit.
async fn used_up_in(servers: &[Redis]) -> (Gateway, Vec<String>) {
    let urls: Vec<String> = servers
        .iter()
        .map(|server| format!("\"{}\"", server.url()))
        .collect();
    let yaml = SHARED.replace("\"$redis\"", &format!("[{}]", urls.join(", ")));
    let gateway = Gateway::builder(&yaml)
        .with("limit", "2/1h")
        .with("exact", "true")
        .with("failure", "deny");
    let gateway = gateway.start().await;
    gateway.counts("northgate_store_up", &[], 1.0).await;
    let tenants: Vec<String> = (0..24).map(|number| format!("t{number}")).collect();
    for tenant in &tenants {
        assert_eq!(admitted(&gateway, tenant, 3).await, 2);
    }
    (gateway, tenants)
}

#[tokio::test]
async fn in_a_cluster_one_server_less_costs_its_own_keys_alone() {
    let mut servers = cluster().await;
    let (gateway, tenants) = used_up_in(&servers).await;
    servers[1].kill();
    let status = async |tenant: &str| {
        let call = gateway.call("GET /").header("x-tenant", tenant);
        call.send().await.status()
    };
    let (mut away, mut counted) = (0, 0);
    eventually("some keys to be without their server", async || {
        (away, counted) = (0, 0);
        for tenant in &tenants {
            match status(tenant).await {
                503 => away += 1,
                429 => counted += 1,
                other => panic!("{other}"),
            }
        }
        (away > 0).then_some(())
    })
    .await;
    assert!(away + counted == 24 && counted >= 8, "{away} and {counted}");
    eventually("the status to say so", async || {
        status("t0").await;
        let status = gateway.status().await;
        (status["stores"][0]["up"] == false).then_some(())
    })
    .await;
    // it comes back with its name and its slots, and without its counts
    servers[1].restart().await;
    gateway.counts("northgate_store_up", &[], 1.0).await;
    eventually("all keys to be counted", async || {
        for tenant in &tenants {
            if status(tenant).await == 503 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test]
async fn in_a_cluster_what_was_counted_counts_on_where_a_replica_takes_over() {
    let mut servers = cluster().await;
    let replica = replica(&servers[1]).await;
    let (gateway, tenants) = used_up_in(&servers).await;
    let known: u64 = servers[1].ask(&["WAIT", "1", "5000"]).await;
    assert_eq!(known, 1);
    servers[1].kill();
    eventually("the replica to have taken over", async || {
        let nodes: String = replica.ask(&["CLUSTER", "NODES"]).await;
        nodes.contains("myself,master").then_some(())
    })
    .await;
    // without help, and nobody gets more
    eventually("all keys to be counted", async || {
        for tenant in &tenants {
            let call = gateway.call("GET /").header("x-tenant", tenant);
            match call.send().await.status() {
                429 => {}
                503 => return None,
                other => panic!("{tenant}: {other}"),
            }
        }
        Some(())
    })
    .await;
    gateway.counts("northgate_store_up", &[], 1.0).await;
}

/// Stands between a gateway and its store, and lets answers wait as long as it is told.
struct Slow {
    address: std::net::SocketAddr,
    millis: Arc<AtomicU64>,
}

impl Slow {
    async fn before(redis: &Redis) -> Self {
        let listener = TcpListener::bind((loopback(), 0))
            .await
            .expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (millis, to) = (Arc::new(AtomicU64::new(0)), redis.address());
        let delay = millis.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let delay = delay.clone();
                tokio::spawn(async move {
                    let server = TcpStream::connect(to).await.expect("the store");
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let asking = tokio::io::copy(&mut from_client, &mut to_server);
                    let answering = async {
                        let mut bytes = [0; 65_536];
                        while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
                            let millis = delay.load(Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(millis)).await;
                            if to_client.write_all(&bytes[..count]).await.is_err() {
                                break;
                            }
                        }
                    };
                    tokio::select! {
                        _ = asking => {}
                        () = answering => {}
                    }
                });
            }
        });
        Self { address, millis }
    }
}

#[tokio::test]
async fn a_slow_store_costs_no_more_than_its_timeout_and_soon_nothing() {
    let redis = Redis::start().await;
    let slow = Slow::before(&redis).await;
    let gateway = Gateway::builder(SHARED)
        .with("redis", format!("redis://{}", slow.address))
        .with("limit", "1000/1h")
        .with("exact", "true")
        .with("failure", "allow");
    let gateway = gateway.start().await;
    gateway.counts("northgate_store_up", &[], 1.0).await;
    slow.millis.store(900, Ordering::Relaxed);
    let (mut began, mut longest, mut client) =
        (Instant::now(), Duration::ZERO, gateway.client().await);
    for at in 0..40 {
        if at == 10 {
            // five failures in a row, and nobody asks any more
            began = Instant::now();
        }
        let asked = Instant::now();
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!(client.response("GET").await.status(), 204);
        longest = longest.max(asked.elapsed());
    }
    assert!(longest < Duration::from_millis(850), "{longest:?}");
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
    gateway.logs("the store is away").await;
    slow.millis.store(0, Ordering::Relaxed);
    gateway.counts("northgate_store_up", &[], 1.0).await;
    let counted = || async {
        let metrics = gateway.metrics().await;
        metrics.value("northgate_store_duration_seconds_count", &[])
    };
    let before = counted().await;
    assert_eq!(admitted(&gateway, "a", 20).await, 20);
    assert!(counted().await >= before + 20.0);
}

#[tokio::test]
async fn a_store_over_tls_is_believed_for_its_certificate() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().expect("a folder");
    pki.server(&["redis.test", "127.0.0.1"])
        .write(dir.path(), "redis");
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (cert, key) = (file("redis.pem"), file("redis.key"));
    let tls = [
        "--port",
        "0",
        "--tls-port",
        "6379",
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
    ];
    let redis = Redis::with(&[&tls[..], &["--tls-auth-clients", "no"]].concat()).await;
    // its certificate is for 127.0.0.1, so it is reached through that
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let to = redis.address();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(to).await.expect("the store");
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    let yaml = SHARED.replace("\"$redis\"", "\"rediss://127.0.0.1:$port\", ca: $dir/$ca");
    let mut gateway = Gateway::builder(&yaml)
        .file("right.pem", &pki.pem())
        .file("wrong.pem", &Pki::new().pem())
        .with("ca", "right.pem")
        .with("port", port)
        .with("limit", "2/1h")
        .with("exact", "true")
        .with("failure", "deny")
        .start()
        .await;
    gateway.counts("northgate_store_up", &[], 1.0).await;
    assert_eq!(admitted(&gateway, "a", 3).await, 2);
    gateway.set("ca", "wrong.pem");
    gateway.reload_to(&yaml).await;
    assert_eq!(gateway.get("/").await.status(), 503);
    gateway.logs("the connection failed").await;
}
