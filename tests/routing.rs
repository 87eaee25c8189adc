//! Which route takes a request, and what becomes of it (design 3.3).

use crate::harness::{Gateway, Origin, Reply};

/// Three origins that say their names, and a gateway that knows them as `$red`, `$green` and `$blue`.
async fn colours(yaml: &str) -> (Gateway, [Origin; 3]) {
    let origins = [
        Origin::named("red").await,
        Origin::named("green").await,
        Origin::named("blue").await,
    ];
    let gateway = Gateway::builder(yaml)
        .with("red", &origins[0])
        .with("green", &origins[1])
        .with("blue", &origins[2])
        .start()
        .await;
    (gateway, origins)
}

async fn answer(gateway: &Gateway, host: &str, line: &str) -> String {
    let response = gateway.call(line).host(host).send().await;
    match response.status() {
        200 => response.text().to_owned(),
        status => status.to_string(),
    }
}

#[tokio::test]
async fn an_exact_host_goes_before_a_wildcard_and_a_wildcard_before_any() {
    let (gateway, _origins) = colours(
        r#"
routes:
  exact: {match: {host: a.example.test, path: /**}, service: ["$red"]}
  wildcard: {match: {host: "*.example.test", path: /**}, service: ["$green"]}
  any: {match: {path: /**}, service: ["$blue"]}
"#,
    )
    .await;
    for (host, colour) in [
        ("a.example.test", "red"),
        ("A.Example.TEST.", "red"),
        ("a.example.test:80", "red"),
        ("b.example.test", "green"),
        ("x.y.example.test", "green"),
        ("example.test", "blue"),
        ("other.test", "blue"),
    ] {
        assert_eq!(answer(&gateway, host, "GET /x").await, colour, "{host}");
    }
}

#[tokio::test]
async fn a_literal_goes_before_a_parameter_and_a_parameter_before_a_subtree() {
    let (gateway, _origins) = colours(
        r#"
routes:
  literal: {match: {path: /users/me}, service: ["$red"]}
  parameter: {match: {path: "/users/{id}"}, service: ["$green"]}
  subtree: {match: {path: /users/**}, service: ["$blue"]}
"#,
    )
    .await;
    for (path, colour) in [
        ("/users/me", "red"),
        ("/users/me?x=1", "red"),
        ("/users/42", "green"),
        ("/users/me/", "blue"),
        ("/users/42/orders", "blue"),
        ("/users", "blue"),
        ("/users/", "blue"),
        ("/usersx", "404"),
        ("/Users/42", "404"),
    ] {
        assert_eq!(
            answer(&gateway, "h.test", &format!("GET {path}")).await,
            colour,
            "{path}"
        );
    }
}

#[tokio::test]
async fn predicates_choose_among_the_routes_of_one_pattern() {
    let (gateway, _origins) = colours(
        r#"
routes:
  beta: {match: {path: /app/**, header: {x-beta: "1"}}, priority: 1, service: ["$red"]}
  search: {match: {path: /app/**, query: {q: kittens}}, service: ["$green"]}
  app: {match: {path: /app/**}, service: ["$blue"]}
"#,
    )
    .await;
    assert_eq!(answer(&gateway, "h.test", "GET /app/x").await, "blue");
    assert_eq!(
        answer(&gateway, "h.test", "GET /app/x?q=kittens").await,
        "green"
    );
    assert_eq!(
        answer(&gateway, "h.test", "GET /app/x?q=k%69ttens").await,
        "green"
    );
    assert_eq!(
        answer(&gateway, "h.test", "GET /app/x?a=1&q=dogs&q=kittens").await,
        "green"
    );
    assert_eq!(
        answer(&gateway, "h.test", "GET /app/x?a=1;q=kittens").await,
        "blue"
    );
    let beta = gateway
        .call("GET /app/x")
        .header("X-Beta", "1")
        .send()
        .await;
    assert_eq!(beta.text(), "red");
    let other = gateway
        .call("GET /app/x")
        .header("X-Beta", "2")
        .send()
        .await;
    assert_eq!(other.text(), "blue");
}

#[tokio::test]
async fn only_the_method_failing_is_405_with_allow_and_never_a_wider_pattern() {
    let (gateway, _origins) = colours(
        r#"
routes:
  read: {match: {path: /orders, method: GET}, service: ["$red"]}
  write: {match: {path: /orders, method: [POST, PUT]}, service: ["$green"]}
  wide: {match: {path: /**}, service: ["$blue"]}
"#,
    )
    .await;
    assert_eq!(answer(&gateway, "h.test", "GET /orders").await, "red");
    assert_eq!(answer(&gateway, "h.test", "POST /orders").await, "green");
    assert_eq!(answer(&gateway, "h.test", "DELETE /other").await, "blue");
    let refused = gateway.call("DELETE /orders").send().await;
    assert_eq!(refused.status(), 405);
    assert_eq!(refused.problem(), "route.method");
    let mut allow: Vec<&str> = refused
        .header("allow")
        .expect("Allow")
        .split(", ")
        .collect();
    allow.sort_unstable();
    assert_eq!(allow, ["GET", "HEAD", "POST", "PUT"]);
}

#[tokio::test]
async fn get_covers_head() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(
        &origin,
        r#"
routes: {read: {match: {path: /orders, method: GET}, service: ["$app"]}}
"#,
    )
    .await;
    let response = gateway.call("HEAD /orders").send().await;
    assert_eq!(response.status(), 200);
    assert_eq!(origin.only().method(), "HEAD");
}

#[tokio::test]
async fn a_route_whose_predicates_fail_is_404_unless_it_falls_through() {
    let (gateway, _origins) = colours(
        r#"
routes:
  strict: {match: {path: /strict, header: {x-key: k}}, service: ["$red"]}
  loose: {match: {path: /loose, header: {x-key: k}}, fall_through: true, service: ["$green"]}
  wide: {match: {path: /**}, service: ["$blue"]}
"#,
    )
    .await;
    assert_eq!(answer(&gateway, "h.test", "GET /strict").await, "404");
    assert_eq!(answer(&gateway, "h.test", "GET /loose").await, "blue");
    let loose = gateway.call("GET /loose").header("x-key", "k").send().await;
    assert_eq!(loose.text(), "green");
}

#[tokio::test]
async fn the_client_address_is_a_predicate() {
    let (gateway, _origins) = colours(
        r#"
routes:
  inside: {match: {path: /**, client_address: 127.0.0.0/8}, service: ["$red"]}
  outside: {match: {path: /**}, service: ["$green"]}
  nobody: {match: {path: /none, client_address: 192.0.2.0/24}, service: ["$blue"]}
"#,
    )
    .await;
    assert_eq!(answer(&gateway, "h.test", "GET /x").await, "red");
    assert_eq!(answer(&gateway, "h.test", "GET /none").await, "404");
}

#[tokio::test]
async fn a_redirect_fills_in_what_was_captured() {
    let gateway = Gateway::start(
        r#"
routes:
  old:
    match: {host: "{tenant}.old.test", path: "/items/{id}"}
    redirect: {to: "https://{host.tenant}.new.test/things/{path.id}", status: 301}
  short: {match: {path: /short}, redirect: https://new.test/}
"#,
    )
    .await;
    let response = gateway
        .call("GET /items/7")
        .host("acme.old.test")
        .send()
        .await;
    assert_eq!(response.status(), 301);
    assert_eq!(
        response.header("location"),
        Some("https://acme.new.test/things/7")
    );
    let response = gateway.get("/short").await;
    assert_eq!(response.status(), 308);
    assert_eq!(response.header("location"), Some("https://new.test/"));
}

#[tokio::test]
async fn a_route_can_answer_by_itself() {
    let gateway = Gateway::start(
        r#"
routes:
  hello: {match: {path: /hello}, respond: {status: 203, body: "good day", headers: {x-mood: fine}}}
  short: {match: {path: /gone}, respond: 410}
"#,
    )
    .await;
    let response = gateway.get("/hello").await;
    assert_eq!((response.status(), response.text()), (203, "good day"));
    assert_eq!(response.header("x-mood"), Some("fine"));
    assert_eq!(response.header("content-length"), Some("8"));
    assert_eq!(gateway.get("/gone").await.status(), 410);
}

#[tokio::test]
async fn a_rewrite_changes_what_is_sent_on_and_keeps_the_query() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(
        &origin,
        r#"
services: {app: {endpoints: "$app"}}
routes:
  strip: {match: {path: /v1/**}, rewrite: {strip: /v1}, service: app}
  prefix: {match: {path: /in/**}, rewrite: {prefix: /internal}, service: app}
  whole: {match: {path: "/item/{id}"}, rewrite: {path: "/things/{path.id}/view"}, service: app}
  query: {match: {path: /own}, rewrite: {path: "/other?fixed=1"}, service: app}
"#,
    )
    .await;
    for (asked, got) in [
        ("/v1/a/b?q=1%20x", "/a/b?q=1%20x"),
        ("/v1", "/"),
        ("/v1/", "/"),
        ("/in/x", "/internal/in/x"),
        ("/item/a%20b?q", "/things/a%20b/view?q"),
        ("/own?lost=1", "/other?fixed=1"),
    ] {
        gateway.get(asked).await;
        assert_eq!(origin.last().target(), got, "{asked}");
    }
}

/// A value from outside the path fills one segment, and leads nowhere else.
#[tokio::test]
async fn a_value_that_would_change_the_shape_of_a_rewritten_path_is_refused() {
    let (gateway, [red, ..]) = colours(
        r#"
routes:
  tenant: {match: {path: /tenant}, service: ["$red"], rewrite: {path: "/tenants/{query.name}/orders"}}
"#,
    )
    .await;
    for query in [
        "?name=..",
        "?name=%2e%2e",
        "?name=.",
        "?name=",
        "?name=..%2f..",
        "?name=%252e%252e",
        "?name=%00",
        "",
    ] {
        let answer = gateway.get(&format!("/tenant{query}")).await;
        assert_eq!(answer.status(), 400, "{query}");
        assert_eq!(answer.json()["code"], "request.path", "{query}");
    }
    assert_eq!(red.received().len(), 0);
    assert_eq!(gateway.get("/tenant?name=a.b%20c").await.status(), 200);
    assert_eq!(red.only().target(), "/tenants/a.b%20c/orders?name=a.b%20c");
}

/// Security requirement 4.4: a rewrite is no way round what guards another route of the same service.
#[tokio::test]
async fn a_rewrite_does_not_lead_round_a_guard() {
    let app = Origin::named("app").await;
    let other = Origin::named("other").await;
    let gateway = Gateway::builder(
        r#"
services: {app: {endpoints: "$app"}, other: {endpoints: "$other"}}
routes:
  admin: {match: {path: /admin/**}, service: app, policies: {ip_filter: {allow: 192.0.2.1}}}
  open: {match: {path: /**}, service: app}
  strip: {match: {path: /w1/**}, rewrite: {strip: /w1}, service: app}
  prefix: {match: {path: /w2/**}, rewrite: {strip: /w2, prefix: /admin}, service: app}
  path: {match: {path: "/w3/{name}"}, rewrite: {path: "/{path.name}/x"}, service: app}
  meant: {match: {path: /w4/**}, rewrite: {strip: /w4, allow_guarded: on}, service: app}
  own: {match: {path: /w5/**}, rewrite: {strip: /w5}, service: app, policies: {ip_filter: {deny: 192.0.2.2}}}
  elsewhere: {match: {path: /w6/**}, rewrite: {strip: /w6}, service: other}
  get: {match: {path: /only/**, method: GET}, service: app, policies: {ip_filter: {allow: 192.0.2.1}}}
  post: {match: {path: /free, method: POST}, service: app}
  half:
    match: {path: /w7/**}
    rewrite: {strip: /w7}
    service: app
    policies: {ip_filter: {allow: 192.0.2.1, when: {method: POST}}}
  late:
    match: {path: /w8/**}
    rewrite: {strip: /w8, prefix: /late}
    service: app
  caught:
    match: {path: /late/**}
    service: app
    policies: {ip_filter: {allow: 192.0.2.1, when: {path: /late/**}}}
"#,
    )
    .with("app", &app)
    .with("other", &other)
    .start()
    .await;
    assert_eq!(gateway.get("/admin/x").await.status(), 403);
    for path in [
        "/w1/admin/x",
        "/w1/admin",
        "/w2/x",
        "/w3/admin",
        "/w1//admin/./x",
        "/w1/admin;x",
        "/w1/admin;x/y",
        "/w7/admin/x",
        "/w8/x",
    ] {
        assert_eq!(gateway.get(path).await.status(), 404, "{path}");
    }
    assert_eq!(gateway.call("POST /w1/only/x").send().await.status(), 404);
    assert_eq!(app.received().len(), 0);
    assert_eq!(gateway.get("/w1/free").await.text(), "app");
    for path in [
        "/w1/administration",
        "/w3/users",
        "/w4/admin/x",
        "/w5/admin/x",
    ] {
        assert_eq!(gateway.get(path).await.text(), "app", "{path}");
    }
    assert_eq!(gateway.get("/w6/admin/x").await.text(), "other");
    let explained = gateway
        .command(&["explain", "GET", "http://a.example/w1/admin/x"])
        .await;
    assert!(
        explained.stdout.contains("which `ip_filter` guards"),
        "{explained:?}"
    );
}

#[tokio::test]
async fn a_location_of_the_same_origin_is_mapped_back_through_the_rewrite() {
    let origin = Origin::start(|request| {
        let (location, cookie) = match request.target() {
            "/path" => ("/next?x=1".to_owned(), "a=1; Path=/"),
            "/whole" => (
                format!("http://{}/next", request.header("host").unwrap_or_default()),
                "a=1; Path=/sub",
            ),
            _ => (
                "https://elsewhere.test/next".to_owned(),
                "a=1; Path=/; Domain=elsewhere.test",
            ),
        };
        Reply::status(302, &[("Location", &location), ("Set-Cookie", cookie)], "")
    })
    .await;
    let gateway = Gateway::before(
        &origin,
        r#"
services: {app: {endpoints: "$app"}}
routes:
  on: {match: {path: /v1/**}, rewrite: {strip: /v1}, service: app}
  off: {match: {path: /raw/**}, rewrite: {strip: /raw, map_back: off}, service: app}
"#,
    )
    .await;
    let response = gateway.get("/v1/path").await;
    assert_eq!(response.header("location"), Some("/v1/next?x=1"));
    assert_eq!(response.header("set-cookie"), Some("a=1; Path=/v1/"));
    let response = gateway.get("/v1/whole").await;
    assert_eq!(
        response.header("location"),
        Some("http://example.test/v1/next")
    );
    assert_eq!(response.header("set-cookie"), Some("a=1; Path=/v1/sub"));
    let response = gateway.get("/v1/other").await;
    assert_eq!(
        response.header("location"),
        Some("https://elsewhere.test/next")
    );
    let response = gateway.get("/raw/path").await;
    assert_eq!(response.header("location"), Some("/next?x=1"));
}

#[tokio::test]
async fn a_split_asks_its_conditions_first_and_its_weights_then() {
    let (gateway, _origins) = colours(
        r#"
services:
  red: {endpoints: "$red"}
  green: {endpoints: "$green"}
  blue: {endpoints: "$blue"}
  app:
    split:
      - {service: red, when: {header: {x-canary: "yes"}}}
      - {service: green, weight: 1}
      - {service: blue, weight: 3}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .await;
    let canary = gateway.call("GET /").header("x-canary", "yes").send().await;
    assert_eq!(canary.text(), "red");
    let mut client = gateway.client().await;
    let mut seen = [0u32; 3];
    for _ in 0..200 {
        match client.get("h.test", "/").await.text() {
            "red" => seen[0] += 1,
            "green" => seen[1] += 1,
            _ => seen[2] += 1,
        }
    }
    assert_eq!(seen[0], 0);
    // a quarter of 200 is 50; 15 and 100 are more than five standard deviations away
    assert!((15..100).contains(&seen[1]), "{seen:?}");
}

#[tokio::test]
async fn round_robin_follows_the_weights_exactly() {
    let (gateway, origins) = colours(
        r#"
services:
  app:
    balance: round_robin
    endpoints: [{address: "$red", weight: 3}, "$green", {address: "$blue", weight: 0}]
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .await;
    let mut client = gateway.client().await;
    for _ in 0..40 {
        assert_eq!(client.get("h.test", "/").await.status(), 200);
    }
    let counts = origins.each_ref().map(|origin| origin.received().len());
    assert_eq!(counts, [30, 10, 0]);
}

#[tokio::test]
async fn least_request_avoids_the_endpoint_that_is_busy() {
    let gate = crate::harness::Gate::closed();
    let busy = Origin::start({
        let gate = gate.clone();
        move |_| Reply::after(&gate).then_reply(Reply::ok("busy"))
    })
    .await;
    let free = Origin::named("free").await;
    let gateway = Gateway::builder(
        r#"
services: {app: {endpoints: ["$busy", "$free"]}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .with("busy", &busy)
    .with("free", &free)
    .start()
    .await;
    let mut waiting = Vec::new();
    while busy.received().is_empty() {
        let call = gateway.call("GET /");
        waiting.push(tokio::spawn(async move { call.send().await }));
        let sent = waiting.len();
        crate::harness::eventually("the request to arrive", async || {
            (busy.received().len() + free.received().len() >= sent).then_some(())
        })
        .await;
    }
    let before = busy.received().len();
    for _ in 0..20 {
        assert_eq!(gateway.get("/").await.text(), "free");
    }
    assert_eq!(busy.received().len(), before);
    gate.open();
    for call in waiting {
        assert_eq!(call.await.expect("a call").status(), 200);
    }
}

#[tokio::test]
async fn a_group_lends_its_match_and_service_to_its_routes() {
    let (gateway, _origins) = colours(
        r#"
services: {red: {endpoints: "$red"}, green: {endpoints: "$green"}}
groups:
  shop:
    match: {host: shop.test, path: /shop/**}
    service: red
    routes:
      all: {match: {path: /shop/**}}
      cart: {match: {path: /shop/cart}, service: green}
routes: {rest: {match: {path: /**}, service: ["$blue"]}}
"#,
    )
    .await;
    assert_eq!(answer(&gateway, "shop.test", "GET /shop/x").await, "red");
    assert_eq!(
        answer(&gateway, "shop.test", "GET /shop/cart").await,
        "green"
    );
    assert_eq!(
        answer(&gateway, "other.test", "GET /shop/cart").await,
        "blue"
    );
}

#[tokio::test]
async fn a_route_may_be_bound_to_a_listener() {
    let (gateway, _origins) = colours(
        r#"
listeners:
  public: {address: "$address:8080"}
  inside: {address: "$address:8081"}
routes:
  public: {match: {listener: public, path: /**}, service: ["$red"]}
  inside: {match: {listener: inside, path: /**}, service: ["$green"]}
  shared: {match: {path: /shared}, service: ["$blue"]}
"#,
    )
    .await;
    assert_eq!(answer(&gateway, "h.test", "GET /x").await, "red");
    let inside = crate::harness::Call::new(gateway.port(8081), "GET /x")
        .send()
        .await;
    assert_eq!(inside.text(), "green");
    // a listener's own routes are chosen before any others, even by a narrower path
    assert_eq!(answer(&gateway, "h.test", "GET /shared").await, "red");
}
