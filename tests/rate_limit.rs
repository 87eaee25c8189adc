//! `rate_limit`: what counts as one, what is refused, what clients are told, and what a reload leaves.
//!
//! Windows are long, so that no test can run into the end of one: what happens there is shown beside the arithmetic
//! (`src/limit`), with time as an argument.

use crate::harness::{Call, Client, Ending, Gateway, Http2, Issuer, Message, Origin, Reply};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};

/// What so many of the same requests are answered with.
async fn statuses(call: &Call, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(call.send().await.status());
    }
    statuses
}

/// Two are let through, the third is not, and the others do not count with them.
async fn two_of(call: Call, others: &[Call]) {
    assert_eq!(statuses(&call, 3).await, [204, 204, 429], "{call:?}");
    for other in others {
        assert_eq!(other.send().await.status(), 204, "{other:?} after {call:?}");
    }
}

fn from(last: u8) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, last), 0).into()
}

const FACTS: &str = r#"
trusted_proxies: 127.0.0.2/32
secrets: {digests: "0123456789abcdef0123456789abcdef"}
consumers:
  acme: {credentials: {api_key: [{id: a1, key: "key-of-acme-0123456789"}, {id: a2, key: "second-of-acme-0123456789"}]}}
  shop: {credentials: {api_key: {id: s1, key: "key-of-shop-0123456789"}}}
policies:
  rate_limit.routes: {limit: 2/1h, by: route, when: {path: /routes/**}}
routes:
  address: {match: {path: /address}, respond: 204, policies: {rate_limit: {limit: 2/1h, by: client_address}}}
  consumer: {match: {path: /consumer}, respond: 204, policies: {auth: {api_key: on}, rate_limit: {limit: 2/1h, by: consumer}}}
  credential: {match: {path: /credential}, respond: 204, policies: {auth: {api_key: on}, rate_limit: {limit: 2/1h, by: credential}}}
  header: {match: {path: /header}, respond: 204, policies: {rate_limit: {limit: 2/1h, by: header.x-tenant}}}
  cookie: {match: {path: /cookie}, respond: 204, policies: {rate_limit: {limit: 2/1h, by: cookie.id}}}
  path: {match: {path: "/path/{id}"}, respond: 204, policies: {rate_limit: {limit: 2/1h, by: path.id}}}
  host: {match: {path: /host}, respond: 204, policies: {rate_limit: {limit: 2/1h, by: host}}}
  both: {match: {path: /both}, respond: 204, policies: {rate_limit: {limit: 2/1h, by: [host, header.x-tenant]}}}
  total: {match: {path: /total}, respond: 204, policies: {rate_limit: {limit: 2/1h}}}
  bucket: {match: {path: /bucket}, respond: 204, policies: {rate_limit: {limit: 1/1h, by: host, algorithm: token_bucket, burst: 2}}}
  one: {match: {path: /routes/one}, respond: 204}
  two: {match: {path: /routes/two}, respond: 204}
"#;

#[tokio::test]
async fn requests_count_by_what_is_known_of_them() {
    let gateway = Gateway::start(FACTS).await;
    let get = |target: &str| gateway.call(&format!("GET {target}"));
    let forwarded = |address: &str| {
        get("/address")
            .from(from(2))
            .header("X-Forwarded-For", address)
    };
    two_of(
        get("/address").from(from(3)),
        &[get("/address").from(from(4)), forwarded("192.0.2.1")],
    )
    .await;
    let keyed = |target: &str, key: &str| get(target).header("X-Api-Key", key);
    let (first, second) = ("key-of-acme-0123456789", "second-of-acme-0123456789");
    let shop = keyed("/consumer", "key-of-shop-0123456789");
    two_of(keyed("/consumer", first), &[shop]).await;
    assert_eq!(keyed("/consumer", second).send().await.status(), 429);
    two_of(keyed("/credential", first), &[keyed("/credential", second)]).await;
    let tenant = |target: &str, name: &str| get(target).header("X-Tenant", name);
    two_of(tenant("/header", "a"), &[tenant("/header", "b")]).await;
    let cookie = |text: &str| get("/cookie").header("Cookie", text);
    two_of(cookie("id=a"), &[cookie("id=b")]).await;
    assert_eq!(cookie("other=1; id=a").send().await.status(), 429);
    two_of(get("/path/a"), &[get("/path/b")]).await;
    two_of(get("/host").host("a.test"), &[get("/host").host("b.test")]).await;
    assert_eq!(get("/host").host("A.test:8080").send().await.status(), 429);
    let both = |host: &str, name: &str| tenant("/both", name).host(host);
    two_of(
        both("a.test", "a"),
        &[both("a.test", "b"), both("b.test", "a")],
    )
    .await;
    two_of(get("/total"), &[]).await;
    assert_eq!(get("/total").host("b.test").send().await.status(), 429);
    two_of(
        get("/bucket").host("a.test"),
        &[get("/bucket").host("b.test")],
    )
    .await;
    two_of(get("/routes/one"), &[get("/routes/two")]).await;
}

#[tokio::test]
async fn all_addresses_of_one_network_of_ipv6_count_as_one_client() {
    let gateway = Gateway::start(FACTS).await;
    let forwarded = |address: &str| {
        let call = gateway.call("GET /address").from(from(2));
        call.header("X-Forwarded-For", address)
    };
    assert_eq!(forwarded("2001:db8::1").send().await.status(), 204);
    assert_eq!(forwarded("2001:db8::ffff:1").send().await.status(), 204);
    assert_eq!(forwarded("2001:db8::2").send().await.status(), 429);
    assert_eq!(forwarded("2001:db8:0:1::1").send().await.status(), 204);
    // whom nobody vouches for is who he is
    let forging = |last: u8| {
        let call = gateway.call("GET /address").from(from(5));
        call.header("X-Forwarded-For", &format!("192.0.2.{last}"))
    };
    let forged = [
        forging(1).send().await,
        forging(2).send().await,
        forging(3).send().await,
    ];
    assert_eq!(forged.map(|answer| answer.status()), [204, 204, 429]);
}

#[tokio::test]
async fn tokens_count_by_a_claim() {
    let issuer = Issuer::start().await;
    let yaml = r#"
issuers: {idp: {issuer: "$issuer", audience: orders}}
routes:
  all: {match: {path: /**}, respond: 204, policies: {auth: {jwt: idp}, rate_limit: {limit: 2/1h, by: claim.org}}}
"#;
    let gateway = Gateway::builder(yaml)
        .with("issuer", issuer.url())
        .start()
        .await;
    let bearer = |org: &str, name: &str| {
        let token = issuer.token(json!({"org": org, "sub": name}));
        gateway
            .call("GET /")
            .header("Authorization", &format!("Bearer {token}"))
    };
    two_of(bearer("a", "anna"), &[bearer("b", "anna")]).await;
    assert_eq!(bearer("a", "bert").send().await.status(), 429);
}

#[tokio::test]
async fn who_lacks_what_is_counted_by_counts_by_the_address() {
    let gateway = Gateway::start(FACTS).await;
    let lacking = |last: u8| gateway.call("GET /both").from(from(last));
    two_of(
        lacking(3),
        &[lacking(4), lacking(3).header("X-Tenant", "a")],
    )
    .await;
    // another host is another key, and lacks the same
    assert_eq!(lacking(3).host("b.test").send().await.status(), 429);
}

#[tokio::test]
async fn a_request_costs_what_its_method_does() {
    let gateway = Gateway::start(
        r#"
policies: {rate_limit: {limit: 10/1h, cost: {GET: 1, OPTIONS: 0, default: 4}}}
routes:
  all: {match: {path: /**}, respond: 204}
"#,
    )
    .await;
    let call = |method: &str| gateway.call(&format!("{method} /"));
    assert_eq!(statuses(&call("POST"), 3).await, [204, 204, 429]);
    assert_eq!(statuses(&call("HEAD"), 1).await, [204]);
    assert_eq!(statuses(&call("GET"), 2).await, [204, 429]);
    // what is free is let through, and what was refused has cost nothing
    assert_eq!(statuses(&call("OPTIONS"), 2).await, [204, 204]);
}

#[tokio::test]
async fn before_auth_the_work_of_verifying_is_limited_too() {
    let gateway = Gateway::start(
        r#"
secrets: {digests: "0123456789abcdef0123456789abcdef"}
consumers: {acme: {credentials: {api_key: {id: a1, key: "key-of-acme-0123456789"}}}}
policies: {auth: {api_key: on}}
routes:
  early: {match: {path: /early}, respond: 204, policies: {rate_limit: {limit: 2/1h, by: client_address, before: auth}}}
  late: {match: {path: /late}, respond: 204, policies: {rate_limit: {limit: 2/1h, by: client_address}}}
"#,
    )
    .await;
    let call = |target: &str| gateway.call(&format!("GET {target}"));
    assert_eq!(statuses(&call("/early"), 3).await, [401, 401, 429]);
    assert_eq!(statuses(&call("/late"), 3).await, [401, 401, 401]);
    let known = call("/late").header("X-Api-Key", "key-of-acme-0123456789");
    assert_eq!(statuses(&known, 3).await, [204, 204, 429]);
}

#[tokio::test]
async fn a_limit_with_when_concerns_no_other_requests() {
    let gateway = Gateway::start(
        r#"
secrets: {digests: "0123456789abcdef0123456789abcdef"}
consumers:
  acme: {plan: free, credentials: {api_key: {id: a1, key: "key-of-acme-0123456789"}}}
  shop: {plan: gold, credentials: {api_key: {id: s1, key: "key-of-shop-0123456789"}}}
plans: {free: {}, gold: {}}
routes:
  all:
    match: {path: /**}
    respond: 204
    policies:
      auth: {api_key: on}
      rate_limit.write: {limit: 1/1h, when: {method: POST}}
      rate_limit.free: {limit: 2/1h, by: consumer, when: {plan: free}}
"#,
    )
    .await;
    let call = |line: &str, key: &str| gateway.call(line).header("X-Api-Key", key);
    let (acme, shop) = ("key-of-acme-0123456789", "key-of-shop-0123456789");
    assert_eq!(statuses(&call("POST /", shop), 2).await, [204, 429]);
    let answer = call("GET /", shop).send().await;
    assert_eq!((answer.status(), answer.header("ratelimit")), (204, None));
    two_of(call("GET /", acme), &[call("GET /", shop)]).await;
}

#[tokio::test]
async fn a_shadow_counts_and_refuses_nobody_and_tells_nobody() {
    let gateway = Gateway::start(
        r#"
policies: {rate_limit: {limit: 2/1h, mode: shadow}, rate_limit.guess: {limit: 2/1h, count: {status: 204}, mode: shadow}}
routes:
  all: {match: {path: /**}, respond: 204}
"#,
    )
    .await;
    for _ in 0..5 {
        let answer = gateway.get("/").await;
        assert_eq!(answer.status(), 204);
        assert_eq!(answer.header("ratelimit"), None);
        assert_eq!(answer.header("retry-after"), None);
    }
    for policy in ["top/rate_limit", "top/rate_limit.guess"] {
        let labels = |decision| {
            [
                ("policy", policy),
                ("decision", decision),
                ("mode", "shadow"),
            ]
        };
        let metrics = gateway.metrics().await;
        let count = |decision| metrics.value("northgate_policy_decisions_total", &labels(decision));
        assert_eq!((count("allow"), count("refuse")), (2.0, 3.0), "{policy}");
    }
}

/// The items of a list, by name, each with its parameters.
fn items(answer: &Message, name: &str) -> Vec<(String, Vec<u64>)> {
    let list = answer
        .header(name)
        .unwrap_or_else(|| panic!("no {name} in {answer:?}"));
    let mut items: Vec<(String, Vec<u64>)> = list
        .split(", ")
        .map(|item| {
            let mut parts = item.split(';');
            let key = parts.next().expect("a key").trim_matches('"').to_owned();
            let numbers = parts.map(|part| {
                let (_, number) = part.split_once('=').expect("a parameter");
                number.parse().expect("a number")
            });
            (key, numbers.collect())
        })
        .collect();
    items.sort();
    items
}

#[tokio::test]
async fn clients_are_told_where_they_stand_with_each_limit() {
    let origin =
        Origin::start(|_| Reply::status(200, &[("RateLimit", "\"origin\";r=5;t=1")], "x")).await;
    let gateway = Gateway::before(
        &origin,
        r#"
routes:
  all:
    match: {path: /**}
    service: ["$app"]
    policies:
      rate_limit: {limit: 3/1h, by: header.x-tenant}
      rate_limit.slow: {limit: 60/1m, by: client_address, algorithm: token_bucket, burst: 5}
"#,
    )
    .await;
    let call = gateway.call("GET /").header("X-Tenant", "secret-tenant");
    let answer = call.send().await;
    assert_eq!(answer.status(), 200);
    assert!(
        answer
            .header("ratelimit")
            .is_some_and(|list| list.starts_with("\"origin\";r=5;t=1, "))
    );
    let policies = [
        ("rate_limit", vec![3, 3600]),
        ("rate_limit.slow", vec![60, 60]),
    ];
    let policies = policies.map(|(name, numbers)| (name.to_owned(), numbers));
    assert_eq!(items(&answer, "ratelimit-policy"), policies);
    let standing = items(&answer, "ratelimit");
    let [_, (limit, numbers), (slow, bucket)] = standing.as_slice() else {
        panic!("{standing:?}");
    };
    assert_eq!((limit.as_str(), numbers[0]), ("rate_limit", 2));
    assert!((3600..=4200).contains(&numbers[1]), "{numbers:?}");
    assert_eq!(
        (slow.as_str(), bucket[0], bucket[1]),
        ("rate_limit.slow", 4, 1)
    );
    assert_eq!(statuses(&call, 2).await, [200, 200]);
    let refused = call.send().await;
    assert_eq!(
        (refused.status(), refused.problem().as_str()),
        (429, "rate_limit.exceeded")
    );
    let standing = items(&refused, "ratelimit");
    assert_eq!(
        (standing[0].0.as_str(), standing[0].1[0]),
        ("rate_limit", 0)
    );
    let wait: u64 = refused
        .header("retry-after")
        .expect("a time")
        .parse()
        .expect("seconds");
    assert!((3600..=4200).contains(&wait), "{wait}");
    assert_eq!(standing[0].1[1], wait);
    for answer in [&answer, &refused] {
        let told = format!("{:?}{}", answer.fields, answer.text());
        assert!(
            !told.contains("secret-tenant") && !told.contains("127.0"),
            "{told}"
        );
    }
    assert_eq!(origin.received().len(), 3);
}

#[tokio::test]
async fn a_wait_of_less_than_a_second_is_told_as_one() {
    let gateway = Gateway::start(
        r#"
policies: {rate_limit: {limit: 10/1s, algorithm: token_bucket, burst: 1}}
routes:
  all: {match: {path: /**}, respond: 204}
"#,
    )
    .await;
    let mut client = gateway.client().await;
    // at once, so that one of them comes within a tenth of a second
    client
        .send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".repeat(50))
        .await;
    let mut refused = 0;
    for _ in 0..50 {
        let answer = client.response("GET").await;
        if answer.status() == 429 {
            assert_eq!(answer.header("retry-after"), Some("1"));
            assert_eq!(items(&answer, "ratelimit")[0].1, [0, 1]);
            refused += 1;
        }
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn calls_of_grpc_are_refused_by_a_status_of_grpc() {
    let gateway = Gateway::start(
        r#"
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
routes:
  all: {match: {path: /**}, respond: 204, policies: {rate_limit: {limit: 1/1h}}}
"#,
    )
    .await;
    assert_eq!(gateway.get("/").await.status(), 204);
    let mut client = Http2::connect(gateway.public()).await;
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    let answer = client
        .call("POST", "http://a.test/a.B/C", &fields, b"", Ending::OnLast)
        .await
        .expect("an answer");
    assert_eq!(answer.header("grpc-status"), Some("8"), "{answer:?}");
    let told = answer.header("grpc-message").expect("a message");
    assert!(told.contains("rate_limit.exceeded"), "{told}");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(items(&answer, "ratelimit")[0].1[0], 0);
}

#[tokio::test]
async fn legacy_fields_tell_of_the_limit_that_leaves_the_least_and_off_tells_nothing() {
    let gateway = Gateway::start(
        r#"
routes:
  legacy:
    match: {path: /legacy}
    respond: 204
    policies:
      rate_limit.a: {limit: 9/1h, headers: legacy}
      rate_limit.b: {limit: 2/1h, headers: legacy}
      rate_limit.c: {limit: 1/1h, algorithm: token_bucket, burst: 7, headers: legacy}
  bucket: {match: {path: /bucket}, respond: 204, policies: {rate_limit: {limit: 1/1h, algorithm: token_bucket, burst: 7, headers: legacy}}}
  off: {match: {path: /off}, respond: 204, policies: {rate_limit: {limit: 1/1h, headers: off}}}
"#,
    )
    .await;
    for (status, remaining) in [(204, "1"), (204, "0"), (429, "0")] {
        let answer = gateway.get("/legacy").await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.header("x-ratelimit-limit"), Some("2"));
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(remaining));
        let reset = answer.header("x-ratelimit-reset").expect("a time");
        assert!((3600..=4200).contains(&reset.parse::<u64>().expect("seconds")));
        assert_eq!(answer.header("ratelimit"), None);
    }
    let bucket = gateway.get("/bucket").await;
    let told = ["limit", "remaining"].map(|name| bucket.header(&format!("x-ratelimit-{name}")));
    assert_eq!(told, [Some("7"), Some("6")]);
    for status in [204, 429] {
        let answer = gateway.get("/off").await;
        assert_eq!(answer.status(), status);
        let told = |(name, _): &&(String, String)| name.to_lowercase().contains("ratelimit");
        assert_eq!(answer.fields.iter().find(told), None);
        assert_eq!(answer.header("retry-after").is_some(), status == 429);
    }
}

#[tokio::test]
async fn some_keys_have_limits_of_their_own_and_some_have_none() {
    let yaml = r#"
routes:
  inline: {match: {path: /inline}, respond: 204, policies: {rate_limit: {limit: 1/1h, by: header.x-tenant, limits: {acme: 2/1h}, exempt: [shop]}}}
  pair: {match: {path: /pair}, respond: 204, policies: {rate_limit: {limit: 1/1h, by: [host, header.x-tenant], per: route, limits: {"a.test,acme": 2/1h}, exempt: "b.test,acme"}}}
  file: {match: {path: /file}, respond: 204, policies: {rate_limit: {limit: 1/1h, by: header.x-tenant, limits: {file: tenants.limits}}}}
  address: {match: {path: /address}, respond: 204, policies: {rate_limit: {limit: 1/1h, by: client_address, limits: {127.0.0.3: 2/1h}, exempt: 127.0.0.8/29}}}
"#;
    let builder =
        Gateway::builder(yaml).file("tenants.limits", "# tenants\nacme 2/1h # the largest\n");
    let gateway = builder.start().await;
    let call = |target: &str, name: &str| {
        let call = gateway.call(&format!("GET {target}")).host("a.test");
        call.header("X-Tenant", name)
    };
    let exempt = call("/inline", "shop");
    two_of(
        call("/inline", "acme"),
        &[
            call("/inline", "other"),
            exempt.clone(),
            exempt.clone(),
            exempt,
        ],
    )
    .await;
    assert_eq!(statuses(&call("/inline", "other"), 1).await, [429]);
    let exempt = call("/pair", "acme").host("b.test");
    two_of(
        call("/pair", "acme"),
        &[call("/pair", "other"), exempt.clone(), exempt],
    )
    .await;
    two_of(call("/file", "acme"), &[call("/file", "other")]).await;
    let address = |last: u8| gateway.call("GET /address").from(from(last));
    two_of(address(3), &[address(4), address(9), address(9)]).await;

    // more for one, and a new one: what they have used counts on
    let limits = "acme 3/1h\nother 3/1h\n";
    std::fs::write(gateway.dir().join("tenants.limits"), limits).expect("a file");
    gateway.reload_to(yaml).await;
    assert_eq!(statuses(&call("/file", "acme"), 2).await, [204, 429]);
    assert_eq!(statuses(&call("/file", "other"), 3).await, [204, 204, 429]);
}

#[tokio::test]
async fn what_counts_by_outcome_refuses_who_has_failed_too_often() {
    let origin = Origin::start(|request| match request.target() {
        "/wrong" | "/bucket/wrong" => Reply::status(401, &[], ""),
        _ => Reply::ok("welcome"),
    })
    .await;
    let yaml = r#"
services: {app: {endpoints: "$app"}}
routes:
  window: {match: {path: /**}, service: app, policies: {rate_limit: {limit: 2/1h, by: client_address, before: auth, count: {status: [401, 403]}, headers: $headers}}}
  bucket: {match: {path: /bucket/**}, service: app, policies: {rate_limit: {limit: 2/1h, by: client_address, algorithm: token_bucket, count: {status: 400-499}, headers: $headers}}}
"#;
    for headers in ["standard", "off"] {
        let builder = Gateway::builder(yaml).with("app", &origin);
        let gateway = builder.with("headers", headers).start().await;
        for base in ["", "/bucket"] {
            let call = |name: &str, last: u8| {
                let call = gateway.call(&format!("GET {base}/{name}"));
                call.from(from(last))
            };
            assert_eq!(statuses(&call("right", 3), 4).await, [200; 4]);
            assert_eq!(
                statuses(&call("wrong", 3), 5).await,
                [401, 401, 429, 429, 429]
            );
            let refused = call("right", 3).send().await;
            assert_eq!(refused.status(), 429);
            // who is refused has tried nothing: the bucket, for which 429 would count, has one again in half an hour
            let wait: u64 = refused
                .header("retry-after")
                .expect("a time")
                .parse()
                .expect("seconds");
            let most = if base.is_empty() { 4200 } else { 1800 };
            assert!(wait <= most, "{wait}");
            assert_eq!(statuses(&call("right", 4), 1).await, [200]);
            if headers == "standard" {
                assert_eq!(
                    items(&call("right", 4).send().await, "ratelimit")[0].1[0],
                    2
                );
            }
        }
    }
}

#[tokio::test]
async fn what_auth_refuses_counts_as_an_outcome() {
    let gateway = Gateway::start(
        r#"
secrets: {digests: "0123456789abcdef0123456789abcdef"}
consumers: {acme: {credentials: {api_key: {id: a1, key: "key-of-acme-0123456789"}}}}
routes:
  all: {match: {path: /**}, respond: 204, policies: {auth: {api_key: on, guessing: off}, rate_limit: {limit: 2/1h, by: client_address, before: auth, count: {status: 401}}}}
"#,
    )
    .await;
    let call = |key: &str| gateway.call("GET /").header("X-Api-Key", key);
    assert_eq!(statuses(&call("key-of-acme-0123456789"), 3).await, [204; 3]);
    assert_eq!(statuses(&call("no-key"), 3).await, [401, 401, 429]);
    assert_eq!(statuses(&call("key-of-acme-0123456789"), 1).await, [429]);
}

#[tokio::test]
async fn who_guesses_by_calls_of_grpc_counts_too() {
    let gateway = Gateway::start(
        r#"
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
secrets: {digests: "0123456789abcdef0123456789abcdef"}
consumers: {acme: {credentials: {api_key: {id: a1, key: "key-of-acme-0123456789"}}}}
routes:
  all: {match: {path: /**}, respond: 204, policies: {auth: {api_key: on, guessing: off}, rate_limit: {limit: 2/1h, by: client_address, before: auth, count: {status: 401}}}}
"#,
    )
    .await;
    let mut client = Http2::connect(gateway.public()).await;
    // by HTTP's status, all of them are 200
    for status in ["16", "16", "8"] {
        let fields = [
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("x-api-key", "no-key"),
        ];
        let answer = client
            .call("POST", "http://a.test/a.B/C", &fields, b"", Ending::OnLast)
            .await
            .expect("an answer");
        assert_eq!(answer.header("grpc-status"), Some(status), "{answer:?}");
    }
    assert_eq!(gateway.get("/").await.status(), 429);
}

#[tokio::test]
async fn a_reload_keeps_what_still_means_the_same() {
    let yaml = |window: &str, bucket: &str, other: &str| {
        format!(
            r#"
routes:
  window: {{match: {{path: /window}}, respond: 204, policies: {{rate_limit: {{{window}}}}}}}
  bucket: {{match: {{path: /bucket}}, respond: 204, policies: {{rate_limit: {{algorithm: token_bucket, {bucket}}}}}}}
  other: {{match: {{path: /other}}, respond: {other}, policies: {{rate_limit: {{limit: 2/1h}}}}}}
"#
        )
    };
    let (by_host, buckets) = ("limit: 2/1h, by: host", "limit: 2/1h, by: host");
    let gateway = Gateway::start(&yaml(by_host, buckets, "204")).await;
    let call = |target: &str| gateway.call(&format!("GET {target}"));
    let all = async |wanted: [&[u16]; 3]| {
        for (target, wanted) in ["/window", "/bucket", "/other"].into_iter().zip(wanted) {
            assert_eq!(
                statuses(&call(target), wanted.len()).await,
                wanted,
                "{target}"
            );
        }
    };
    all([&[204, 204, 429], &[204, 204, 429], &[204, 204, 429]]).await;
    // nothing but the route around the third
    gateway.reload_to(&yaml(by_host, buckets, "200")).await;
    all([&[429], &[429], &[429]]).await;
    // another limit: what has been used counts on
    gateway
        .reload_to(&yaml(
            "limit: 3/1h, by: host",
            "limit: 2/1h, by: host, burst: 3",
            "204",
        ))
        .await;
    all([&[204, 429], &[204, 429], &[429]]).await;
    gateway
        .reload_to(&yaml("limit: 1/1h, by: host", buckets, "204"))
        .await;
    all([&[429], &[429], &[429]]).await;
    // another window, another key
    gateway
        .reload_to(&yaml(
            "limit: 2/2h, by: host",
            "limit: 2/1h, by: client_address",
            "204",
        ))
        .await;
    all([&[204, 204, 429], &[204, 204, 429], &[429]]).await;
    gateway
        .reload_to(&yaml(
            "limit: 2/2h, by: client_address",
            "limit: 2/1h, by: client_address, per: route",
            "204",
        ))
        .await;
    all([&[204, 204, 429], &[204, 204, 429], &[429]]).await;
}

#[tokio::test]
async fn counters_belong_to_the_place_where_the_limit_is_written() {
    let gateway = Gateway::start(
        r#"
policies:
  rate_limit.top: {limit: 2/1h, when: {path: /top/**}}
  rate_limit.each: {limit: 2/1h, per: route, by: header.x-tenant, when: {path: /each/**}}
groups:
  shop:
    policies: {rate_limit: {limit: 2/1h}}
    routes:
      cart: {match: {path: /shop/cart}, respond: 204}
      list: {match: {path: /shop/list}, respond: 204}
      own: {match: {path: /shop/own}, respond: 204, policies: {rate_limit: {limit: 2/1h}}}
      free: {match: {path: /shop/free}, respond: 204, policies: {rate_limit: off}}
routes:
  one: {match: {path: /top/one}, respond: 204}
  two: {match: {path: /top/two}, respond: 204}
  three: {match: {path: /each/one}, respond: 204}
  four: {match: {path: /each/two}, respond: 204}
"#,
    )
    .await;
    let get = |target: &str| gateway.call(&format!("GET {target}"));
    two_of(get("/top/one"), &[]).await;
    assert_eq!(statuses(&get("/top/two"), 1).await, [429]);
    // also for who lacks what is counted by
    two_of(get("/each/one"), &[get("/each/two")]).await;
    let tenant = |target: &str| get(target).header("X-Tenant", "a");
    two_of(tenant("/each/one"), &[tenant("/each/two")]).await;
    two_of(get("/shop/cart"), &[get("/shop/own"), get("/shop/free")]).await;
    assert_eq!(statuses(&get("/shop/list"), 1).await, [429]);
    assert_eq!(statuses(&get("/shop/free"), 3).await, [204; 3]);
}

#[tokio::test]
async fn what_a_later_limit_refuses_does_not_count_for_an_earlier_one() {
    let gateway = Gateway::start(
        r#"
policies:
  rate_limit.early: {limit: 20/1h, before: auth}
  rate_limit.window: {limit: 6/1h, cost: {POST: 2}}
  rate_limit.bucket: {limit: 6/1h, algorithm: token_bucket, cost: {POST: 2}}
  rate_limit.shadow: {limit: 6/1h, mode: shadow, cost: {POST: 2}}
routes:
  narrow: {match: {path: /narrow}, respond: 204, policies: {rate_limit: {limit: 1/1h}}}
  wide: {match: {path: /wide}, respond: 204}
"#,
    )
    .await;
    let call = |line: &str| gateway.call(line);
    assert_eq!(
        statuses(&call("POST /narrow"), 6).await,
        [204, 429, 429, 429, 429, 429]
    );
    let refused = call("POST /narrow").send().await;
    let standing = items(&refused, "ratelimit");
    let remaining: Vec<(&str, u64)> = standing
        .iter()
        .map(|(key, numbers)| (&**key, numbers[0]))
        .collect();
    // what came in before `auth` has been let in
    assert_eq!(
        remaining,
        [
            ("rate_limit", 0),
            ("rate_limit.bucket", 4),
            ("rate_limit.early", 13),
            ("rate_limit.window", 4)
        ]
    );
    assert_eq!(
        statuses(&call("GET /wide"), 5).await,
        [204, 204, 204, 204, 429]
    );
    let metrics = gateway.metrics().await;
    let labels = [
        ("policy", "top/rate_limit.shadow"),
        ("decision", "refuse"),
        ("mode", "shadow"),
    ];
    // the fifth is refused by the others first
    assert_eq!(
        metrics.value("northgate_policy_decisions_total", &labels),
        0.0
    );
}

/// Asks once with each of these tenants, in order, over one connection, many requests at a time, and says who was let
/// through.
async fn asked(address: SocketAddr, tenants: &[u32]) -> Vec<u32> {
    let mut client = Client::connect(address).await;
    let mut admitted = Vec::new();
    for batch in tenants.chunks(64) {
        let requests = batch
            .iter()
            .map(|tenant| format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-Tenant: {tenant}\r\n\r\n"));
        client.send(requests.collect::<String>()).await;
        for tenant in batch {
            match client.response("GET").await.status() {
                204 => admitted.push(*tenant),
                status => assert_eq!(status, 429),
            }
        }
    }
    admitted
}

/// The same over several connections, which share the tenants.
async fn asked_by_many(address: SocketAddr, tenants: &[u32], connections: usize) -> Vec<u32> {
    let share = tenants.len().div_ceil(connections);
    let shares = tenants.chunks(share).map(|tenants| asked(address, tenants));
    futures::future::join_all(shares).await.concat()
}

const MANY: &str = r#"
access_log: off
routes:
  all: {match: {path: /**}, respond: 204, policies: {rate_limit: {limit: $limit/1h, by: header.x-tenant, algorithm: $algorithm, keys: $keys}}}
"#;

#[tokio::test]
async fn ten_thousand_keys_at_twice_their_limit_get_their_limit() {
    const KEYS: u32 = 10_000;
    const LIMIT: usize = 2;
    for algorithm in ["sliding_window", "token_bucket"] {
        let builder = Gateway::builder(MANY)
            .with("limit", LIMIT)
            .with("keys", "10k");
        let gateway = builder.with("algorithm", algorithm).start().await;
        // two threads' worth of connections ask for the same keys at about the same time
        let tenants = (0..KEYS).collect::<Vec<u32>>().repeat(LIMIT);
        let (one, other) = futures::join!(
            asked_by_many(gateway.public(), &tenants, 4),
            asked_by_many(gateway.public(), &tenants, 4)
        );
        let mut admitted = vec![0; KEYS as usize];
        for tenant in one.into_iter().chain(other) {
            admitted[tenant as usize] += 1;
        }
        assert!(admitted.iter().all(|count| *count <= LIMIT), "{algorithm}");
        // as many keys as expected: a few have company
        let all: usize = admitted.iter().sum();
        let wanted = KEYS as usize * LIMIT;
        let least = match algorithm {
            "token_bucket" => wanted * 999 / 1000,
            _ => wanted * 97 / 100,
        };
        assert!(all >= least, "{all} of {wanted} by {algorithm}");
    }
}

#[tokio::test]
async fn an_attacker_with_very_many_keys_neither_frees_nor_hinders_others() {
    for (algorithm, keys) in [
        ("sliding_window", "100k"),
        ("token_bucket", "100k"),
        ("token_bucket", "1k"),
    ] {
        let builder = Gateway::builder(MANY).with("limit", 20).with("keys", keys);
        let gateway = builder.with("algorithm", algorithm).start().await;
        let honest: Vec<u32> = (0..20).collect();
        // half of what each may have
        let half = honest.repeat(10);
        assert_eq!(asked(gateway.public(), &half).await.len(), 200);
        let attack: Vec<u32> = (1000..11_000).collect();
        asked_by_many(gateway.public(), &attack, 8).await;
        let rest = asked(gateway.public(), &honest.repeat(12)).await.len();
        // of a sketch, one in some thousand has company in a part
        assert!(
            (198..=200).contains(&rest),
            "{rest} by {algorithm} for {keys} keys"
        );
    }
}
