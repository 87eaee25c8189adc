//! `when` by who calls: policies and arms that act for some callers only.

use crate::harness::{Gateway, Issuer, Message, Origin, northgate};
use serde_json::{Value, json};

const GATEWAY: &str = r#"
plans: {gold: {}, free: {}}
consumers:
  acme: {plan: gold, groups: [partners, clerks], credentials: {api_key: {id: acme-1, key: "key-of-acme-0123456789"}}}
  shop: {plan: free, credentials: {api_key: {id: shop-1, key: "key-of-shop-0123456789"}}}
issuers: {idp: {issuer: "$issuer", audience: orders}}
services:
  app: {endpoints: "$app"}
  next: {endpoints: "$next"}
  split: {split: [{service: next, when: {plan: gold}}, {service: app}]}
policies:
  # acts where somebody is known, and for nobody on the open route
  headers.wide: {request: {set: {x-wide: "1"}}, when: {consumer: [acme, shop]}}
routes:
  names:
    match: {path: /names}
    service: app
    policies:
      auth: {api_key: on, anonymous: allow}
      headers.consumer: {request: {set: {x-consumer-is: acme}}, when: {consumer: acme}}
      headers.plan: {request: {set: {x-plan-is: gold}}, when: {plan: [gold, silver]}}
      headers.group: {request: {set: {x-group-is: clerks}}, when: {group: [clerks, x], path: /names}}
      headers.credential: {request: {set: {x-credential-is: acme-1}}, when: {credential: acme-1}}
      headers.other: {request: {set: {x-other: "1"}}, when: {not: {consumer: acme}}}
      headers.answer: {response: {set: {x-for: gold}}, when: {plan: gold}}
      authorize: {groups: clerks, when: {consumer: shop}}
  claims:
    match: {path: /claims}
    service: app
    policies:
      auth: {jwt: idp}
      headers.tier: {request: {set: {x-tier: gold}}, when: {claim: {tier: gold, "realm.roles": [a, b]}}}
      headers.all: {request: {set: {x-all: "1"}}, when: {claim: {realm.roles: {all: [a, b]}}}}
  split: {match: {path: /split}, service: split, policies: {auth: {api_key: on}}}
  shadow:
    match: {path: /shadow}
    service: app
    policies: {auth: {api_key: on, mode: shadow}}
  open: {match: {path: /open}, service: app}
"#;

async fn gateway() -> (Gateway, Origin, Origin, Issuer) {
    let (app, next) = (Origin::echo().await, Origin::echo().await);
    let issuer = Issuer::start().await;
    let gateway = Gateway::builder(GATEWAY)
        .with("app", &app)
        .with("next", &next)
        .with("issuer", issuer.url())
        .start()
        .await;
    (gateway, app, next, issuer)
}

async fn asked(gateway: &Gateway, line: &str, who: &str) -> Message {
    let key = format!("key-of-{who}-0123456789");
    gateway.call(line).header("X-API-Key", &key).send().await
}

#[tokio::test]
async fn policies_act_for_those_whom_their_when_names() {
    let (gateway, app, _next, issuer) = gateway().await;
    let fields = [
        "x-consumer-is",
        "x-plan-is",
        "x-group-is",
        "x-credential-is",
    ];
    let answer = asked(&gateway, "GET /names", "acme").await;
    assert_eq!(
        (answer.status(), answer.header("x-for")),
        (200, Some("gold"))
    );
    let got = app.last();
    for field in fields {
        assert!(got.header(field).is_some(), "{field}");
    }
    assert_eq!(got.header("x-other"), None);
    assert_eq!(got.header("x-wide"), Some("1"));
    // a condition of `authorize` is one on whom it is asked of
    assert_eq!(asked(&gateway, "GET /names", "shop").await.status(), 403);
    assert_eq!(app.received().len(), 1);
    // who is nobody is none of them
    let answer = gateway.get("/names").await;
    assert_eq!((answer.status(), answer.header("x-for")), (200, None));
    let got = app.last();
    for field in fields {
        assert_eq!(got.header(field), None, "{field}");
    }
    assert_eq!(got.header("x-other"), Some("1"));
    assert_eq!(got.header("x-wide"), None);
    for (claims, tier, all) in [
        (
            json!({"tier": "gold", "realm": {"roles": ["b", "z"]}}),
            Some("gold"),
            None,
        ),
        (
            json!({"tier": "gold", "realm": {"roles": ["a", "b"]}}),
            Some("gold"),
            Some("1"),
        ),
        (
            json!({"tier": "free", "realm": {"roles": ["a", "b"]}}),
            None,
            Some("1"),
        ),
        (json!({"tier": "gold"}), None, None),
    ] {
        let token = format!("Bearer {}", issuer.token(claims.clone()));
        let call = gateway.call("GET /claims").header("Authorization", &token);
        assert_eq!(call.send().await.status(), 200);
        let got = app.last();
        assert_eq!(
            (got.header("x-tier"), got.header("x-all")),
            (tier, all),
            "{claims}"
        );
    }
}

#[tokio::test]
async fn whom_only_a_shadow_knows_is_nobody_and_no_field_makes_one_somebody() {
    let (gateway, app, _next, _issuer) = gateway().await;
    for path in ["/shadow", "/open"] {
        let call = gateway
            .call(&format!("GET {path}"))
            .header("X-API-Key", "key-of-acme-0123456789")
            .header("X-Consumer-Id", "acme")
            .header("X-Consumer-Plan", "gold");
        assert_eq!(call.send().await.status(), 200, "{path}");
        assert_eq!(app.last().header("x-wide"), None, "{path}");
    }
}

#[tokio::test]
async fn arms_are_chosen_when_it_is_known_who_calls() {
    let (gateway, app, next, _issuer) = gateway().await;
    assert_eq!(asked(&gateway, "GET /split", "acme").await.status(), 200);
    assert_eq!((app.received().len(), next.received().len()), (0, 1));
    assert_eq!(asked(&gateway, "GET /split", "shop").await.status(), 200);
    assert_eq!((app.received().len(), next.received().len()), (1, 1));
    assert_eq!(asked(&gateway, "GET /split", "none").await.status(), 401);
    assert_eq!((app.received().len(), next.received().len()), (1, 1));
}

#[tokio::test]
async fn explain_says_for_whom_a_policy_acts() {
    let (gateway, _app, _next, _issuer) = gateway().await;
    let config = gateway.config().display().to_string();
    let explain = async |path: &str, who: &str, format: &str| {
        let header = format!("X-API-Key: key-of-{who}-0123456789");
        let url = format!("http://x.test{path}");
        let arguments = [
            "explain", "-c", &config, "GET", &url, "-H", &header, "--format", format,
        ];
        let output = northgate(&arguments).await;
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        output.stdout
    };
    for (who, acts) in [("acme", true), ("shop", false)] {
        let told: Value = serde_json::from_str(&explain("/names", who, "json").await).unwrap();
        let policies = told["policies"].as_array().unwrap();
        let plan = policies
            .iter()
            .find(|policy| policy["policy"] == "route.names/headers.plan");
        let plan = plan.unwrap();
        assert_eq!(
            (&plan["conditional"], &plan["acts"]),
            (&json!(true), &json!(acts)),
            "{who}"
        );
        let text = explain("/names", who, "text").await;
        let word = if acts {
            "when: holds"
        } else {
            "when: does not hold"
        };
        let line = text
            .lines()
            .find(|line| line.contains("headers.plan"))
            .unwrap();
        assert!(line.contains(word), "{text}");
    }
    let text = explain("/split", "acme", "text").await;
    assert!(text.contains("service next"), "{text}");
    let text = explain("/split", "shop", "text").await;
    assert!(text.contains("split split (next, app)"), "{text}");
}
