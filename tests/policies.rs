//! Policies and the machinery around them (design 3.4, 5).

use crate::harness::{Gateway, Http2, Origin, Reply};
use std::net::{Ipv4Addr, SocketAddr};

#[tokio::test]
async fn headers_are_set_added_and_removed_on_both_ways() {
    let origin = Origin::start(|request| {
        Reply::status(
            200,
            &[
                ("Server", "secret/1.0"),
                ("X-Old", "1"),
                ("X-Got", &request.fields.len().to_string()),
            ],
            "",
        )
    })
    .await;
    let gateway = Gateway::before(
        &origin,
        r#"
routes:
  all:
    match: {host: "{tenant}.test", path: /**}
    service: ["$app"]
    policies:
      headers:
        request: {set: {x-tenant: "{host.tenant}", x-fixed: v}, add: {x-list: b}, remove: [x-debug]}
        response: {set: {x-old: "2"}, add: {x-new: "{method}"}, remove: [server]}
"#,
    )
    .await;
    let response = gateway
        .call("GET /")
        .host("acme.test")
        .header("X-Tenant", "forged")
        .header("X-List", "a")
        .header("X-Debug", "1")
        .send()
        .await;
    let got = origin.only();
    assert_eq!(got.header("x-tenant"), Some("acme"));
    assert_eq!(got.header("x-fixed"), Some("v"));
    assert_eq!(got.headers("x-list"), ["a", "b"]);
    assert_eq!(got.header("x-debug"), None);
    assert_eq!(response.header("x-old"), Some("2"));
    assert_eq!(response.header("x-new"), Some("GET"));
    assert_ne!(response.header("server"), Some("secret/1.0"));
}

#[tokio::test]
async fn ip_filter_refuses_who_is_denied_and_who_is_not_allowed() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(
        &origin,
        r#"
trusted_proxies: 127.0.0.2/32
services: {app: {endpoints: "$app"}}
routes:
  allow: {match: {path: /allow}, service: app, policies: {ip_filter: {allow: 127.0.0.8/29}}}
  deny: {match: {path: /deny}, service: app, policies: {ip_filter: {deny: 127.0.0.8/29}}}
"#,
    )
    .await;
    let from = |last: u8| SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    for (target, source, forwarded, status) in [
        ("/allow", 9, "", 200),
        ("/allow", 3, "", 403),
        ("/allow", 3, "127.0.0.9", 403),
        ("/allow", 2, "127.0.0.9", 200),
        ("/deny", 9, "", 403),
        ("/deny", 3, "", 200),
        ("/deny", 2, "127.0.0.9", 403),
    ] {
        let mut call = gateway.call(&format!("GET {target}")).from(from(source));
        if !forwarded.is_empty() {
            call = call.header("X-Forwarded-For", forwarded);
        }
        let response = call.send().await;
        assert_eq!(
            response.status(),
            status,
            "{target} from {source} for {forwarded:?}"
        );
        if status == 403 {
            assert_eq!(response.problem(), "ip_filter.denied");
        }
    }
    assert_eq!(origin.received().len(), 3);
}

const CORS: &str = r#"
services: {app: {endpoints: "$app"}}
policies:
  cors:
    origins: ["https://app.test", "https://*.apps.test"]
    methods: [GET, PUT]
    headers: [x-token]
    expose: [x-total]
    credentials: true
    max_age: 10m
routes:
  read: {match: {path: /data, method: GET}, service: app}
  write: {match: {path: /data, method: PUT}, service: app, policies: {ip_filter: {allow: 192.0.2.0/24}}}
"#;

#[tokio::test]
async fn a_preflight_is_answered_here_by_the_route_that_will_take_the_request() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, CORS).await;
    let preflight = |page: &str, method: &str| {
        gateway
            .call("OPTIONS /data")
            .header("Origin", page)
            .header("Access-Control-Request-Method", method)
            .header("Access-Control-Request-Headers", "x-token")
    };
    for page in ["https://app.test", "https://one.apps.test"] {
        let response = preflight(page, "GET").send().await;
        assert!(matches!(response.status(), 200 | 204), "{response:?}");
        assert_eq!(response.header("access-control-allow-origin"), Some(page));
        assert_eq!(
            response.header("access-control-allow-credentials"),
            Some("true")
        );
        assert_eq!(response.header("access-control-max-age"), Some("600"));
        let methods = response
            .header("access-control-allow-methods")
            .expect("methods");
        assert!(
            methods.contains("GET") && methods.contains("PUT"),
            "{methods}"
        );
        assert!(
            response
                .header("vary")
                .is_some_and(|vary| vary.to_ascii_lowercase().contains("origin"))
        );
    }
    for page in [
        "https://evil.test",
        "http://app.test",
        "https://app.test.evil.test",
        "null",
        "https://apps.test",
    ] {
        let response = preflight(page, "GET").send().await;
        assert_eq!(
            response.header("access-control-allow-origin"),
            None,
            "{page}"
        );
    }
    assert!(
        origin.received().is_empty(),
        "a preflight is not for the origin"
    );
}

#[tokio::test]
async fn responses_and_refusals_alike_carry_cors_fields() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, CORS).await;
    let page = "https://app.test";
    let response = gateway
        .call("GET /data")
        .header("Origin", page)
        .send()
        .await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.header("access-control-allow-origin"), Some(page));
    assert_eq!(
        response.header("access-control-expose-headers"),
        Some("x-total")
    );
    let refused = gateway
        .call("PUT /data")
        .header("Origin", page)
        .body("x")
        .send()
        .await;
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.header("access-control-allow-origin"), Some(page));
    let stranger = gateway
        .call("GET /data")
        .header("Origin", "https://evil.test")
        .send()
        .await;
    assert_eq!(stranger.status(), 200);
    assert_eq!(stranger.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn respond_answers_where_its_condition_holds() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(
        &origin,
        r#"
services: {app: {endpoints: "$app"}}
policies:
  respond.maintenance: {status: 503, body: back at noon, headers: {retry-after: "600"}, when: {path: /shop/**}}
  respond.robots: {status: 403, when: {header: {user-agent: BadBot}}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .await;
    let response = gateway.get("/shop/cart").await;
    assert_eq!((response.status(), response.text()), (503, "back at noon"));
    assert_eq!(response.header("retry-after"), Some("600"));
    assert_eq!(
        gateway
            .call("GET /")
            .header("User-Agent", "BadBot")
            .send()
            .await
            .status(),
        403
    );
    assert_eq!(gateway.get("/shopping").await.status(), 200);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_never_whole_at_the_origin() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(
        &origin,
        r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
defaults: {body_limit: 1KiB}
services: {app: {endpoints: "$app"}}
routes:
  small: {match: {path: /small}, service: app}
  large: {match: {path: /large}, service: app, body_limit: 1MiB}
  any: {match: {path: /any}, service: app, body_limit: off}
"#,
    )
    .await;
    let body = "x".repeat(2000);
    let fits = &body[..1024];
    assert_eq!(
        gateway.call("POST /small").body(fits).send().await.status(),
        200
    );
    assert_eq!(
        gateway
            .call("POST /large")
            .body(&body)
            .send()
            .await
            .status(),
        200
    );
    let huge = "x".repeat(11 * 1024 * 1024);
    assert_eq!(
        gateway.call("POST /any").body(&huge).send().await.status(),
        200
    );
    let known = origin.received().len();

    let refused = gateway.call("POST /small").body(&body).send().await;
    assert_eq!(refused.status(), 413);
    assert_eq!(refused.problem(), "request.body_too_large");
    let mut client = gateway.client().await;
    let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let _ = client
        .try_send(format!(
            "POST /small HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"
        ))
        .await;
    assert_eq!(client.response("POST").await.status(), 413);
    let mut h2 = Http2::connect(gateway.public()).await;
    let ending = crate::harness::Ending::OnLast;
    let refused = h2
        .call("POST", "http://h.test/small", &[], body.as_bytes(), ending)
        .await;
    assert_eq!(refused.expect("a response").status(), 413);
    assert!(
        origin.received()[known..]
            .iter()
            .all(|request| !request.complete)
    );
}

#[tokio::test]
async fn a_shadowed_policy_counts_and_never_acts() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(
        &origin,
        r#"
services: {app: {endpoints: "$app"}}
routes:
  all: {match: {path: /**}, service: app, policies: {ip_filter: {deny: 127.0.0.0/8, mode: shadow}}}
"#,
    )
    .await;
    assert_eq!(gateway.get("/").await.status(), 200);
    let labels = [("policy", "route.all/ip_filter"), ("mode", "shadow")];
    let metrics = gateway
        .counts(
            "northgate_policy_decisions_total",
            &[("mode", "shadow")],
            1.0,
        )
        .await;
    assert!(
        metrics
            .find("northgate_policy_decisions_total", &[("mode", "shadow")])
            .is_some(),
        "{labels:?} in {}",
        metrics.text()
    );
    assert_eq!(
        metrics.value("northgate_refused_total", &[("reason", "ip_filter.denied")]),
        0.0
    );
}

#[tokio::test]
async fn a_narrower_policy_replaces_the_wider_one_and_off_removes_it() {
    let gateway = Gateway::start(
        r#"
policies: {respond.gate: {status: 401}}
profiles: {open: {policies: {respond.gate: {status: 402}}}}
groups:
  team:
    match: {path: /team/**}
    policies: {respond.gate: {status: 403}}
    routes:
      inherit: {match: {path: /team/inherit}, respond: 200}
      own: {match: {path: /team/own}, respond: 200, policies: {respond.gate: {status: 404}}}
      profile: {match: {path: /team/profile}, respond: 200, use: open}
      none: {match: {path: /team/none}, respond: 200, policies: {respond.gate: off}}
routes: {top: {match: {path: /top}, respond: 200}}
"#,
    )
    .await;
    for (target, status) in [
        ("/top", 401),
        ("/team/inherit", 403),
        ("/team/profile", 402),
        ("/team/own", 404),
        ("/team/none", 200),
    ] {
        assert_eq!(gateway.get(target).await.status(), status, "{target}");
    }
}

#[tokio::test]
async fn a_locked_policy_cannot_be_removed_below() {
    let output = Gateway::builder(
        r#"
policies: {ip_filter: {deny: 192.0.2.0/24, lock: true}}
routes: {all: {match: {path: /**}, respond: 200, policies: {ip_filter: off}}}
"#,
    )
    .fails()
    .await;
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.stderr.contains("lock"), "{output:?}");
}

#[tokio::test]
async fn an_invariant_that_a_route_breaks_refuses_the_configuration() {
    let output = Gateway::builder(
        r#"
invariants: {guarded: {match: {path: /admin/**}, require: ip_filter}}
routes:
  admin: {match: {path: /admin/**}, respond: 200, policies: {ip_filter: {allow: 127.0.0.0/8}}}
  report: {match: {path: /admin/report}, respond: 200}
"#,
    )
    .fails()
    .await;
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(
        output.stderr.contains("guarded") && output.stderr.contains("report"),
        "{output:?}"
    );
}
