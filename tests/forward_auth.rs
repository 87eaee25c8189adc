//! An external authoriser, by the contract that users of nginx, Traefik and Envoy have.

use crate::harness::{Call, Gate, Gateway, Http2, Origin, Received, Reply, loopback};
use std::time::{Duration, Instant};

const GATEWAY: &str = r#"
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
services:
  app: {endpoints: "$app"}
  authoriser: {endpoints: "$authoriser"}
policies:
  auth:
    forward:
      service: authoriser
      path: /verify
      response_headers: [x-user, x-groups]
      subject: x-user
      consumer: x-tenant
      groups: x-groups
      timeout: 1s
      in_flight: 2
routes:
  all: {match: {path: /**}, service: app}
  kept:
    match: {path: /kept/**}
    service: app
    policies:
      auth: {forward: {service: authoriser, response_headers: x-user, cache: {ttl: $ttl, by: [header.authorization, path]}}}
  open:
    match: {path: /open/**}
    service: app
    policies: {auth: {forward: {service: authoriser, response_headers: x-user, timeout: 1s, on_failure: allow}}}
  prefixed:
    match: {path: /prefixed/**}
    service: app
    policies: {auth: {forward: {service: authoriser, path: /check/, append_path: on, method: same, request_headers: [cookie]}}}
"#;

struct World {
    origin: Origin,
    authoriser: Origin,
    gateway: Gateway,
}

impl World {
    async fn new(judge: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let origin = Origin::echo().await;
        let authoriser = Origin::start(judge).await;
        let gateway = Gateway::builder(GATEWAY)
            .with("app", &origin)
            .with("authoriser", &authoriser)
            .with("ttl", "30s")
            .start()
            .await;
        Self {
            origin,
            authoriser,
            gateway,
        }
    }
}

fn pass(_: &Received) -> Reply {
    let fields = [
        ("X-User", "alice"),
        ("X-Tenant", "acme"),
        ("X-Groups", "staff, admins"),
        ("X-Secret", "of the authoriser"),
    ];
    Reply::status(200, &fields, "welcome")
}

#[tokio::test]
async fn the_authoriser_is_told_what_was_asked_and_the_endpoint_what_it_said() {
    let world = World::new(pass).await;
    let call = world
        .gateway
        .call("POST /orders/%7Ea?b=c%20d")
        .body("the body");
    let response = call
        .header("Authorization", "Bearer x")
        .header("Cookie", "a=b")
        .header("X-User", "root")
        .header("x_user", "root")
        .header("X-Groups", "root")
        .header("X-Forwarded-Method", "GET")
        .header("X-Forwarded-Uri", "/public")
        .header("X-Forwarded-For", "192.0.2.1")
        .header("X-Original-Url", "http://public.test/")
        .header("Content-Type", "text/plain")
        .send()
        .await;
    assert_eq!(response.status(), 200);
    let asked = world.authoriser.only();
    assert_eq!((asked.method(), asked.target()), ("GET", "/verify"));
    assert!(asked.body.is_empty());
    for (name, value) in [
        ("host", Some("example.test")),
        ("authorization", Some("Bearer x")),
        ("cookie", Some("a=b")),
        ("x-forwarded-method", Some("POST")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("example.test")),
        ("x-forwarded-uri", Some("/orders/~a?b=c%20d")),
        ("x-original-method", Some("POST")),
        ("x-original-uri", Some("/orders/~a?b=c%20d")),
        (
            "x-original-url",
            Some("http://example.test/orders/~a?b=c%20d"),
        ),
        ("content-type", None),
        ("content-length", None),
    ] {
        assert_eq!(asked.header(name), value, "{name}");
    }
    let client = asked.header("x-forwarded-for").expect("an address");
    assert!(client.starts_with("127."), "{client}");
    let got = world.origin.only();
    assert_eq!(got.text(), "the body");
    for (name, value) in [
        ("x-user", Some("alice")),
        ("x-groups", Some("staff, admins")),
        ("x-auth-subject", Some("alice")),
        ("x-consumer-id", Some("acme")),
        // what nobody asked for stays with the gateway
        ("x-secret", None),
        ("x-tenant", None),
        ("x_user", None),
    ] {
        assert_eq!(got.header(name), value, "{name}");
    }
    let mut h2 = Http2::connect(world.gateway.public()).await;
    assert_eq!(h2.get("http://example.test/h2?x").await.status(), 200);
    assert_eq!(
        world.authoriser.last().header("x-forwarded-uri"),
        Some("/h2?x")
    );
}

#[tokio::test]
async fn what_the_authoriser_does_not_say_the_client_does_not_either() {
    let world = World::new(|_| Reply::status(204, &[], "")).await;
    let call = world
        .gateway
        .call("GET /a")
        .header("X-User", "root")
        .header("X-Tenant", "root");
    assert_eq!(call.send().await.status(), 200);
    let got = world.origin.only();
    assert_eq!(
        (got.header("x-user"), got.header("x-auth-subject")),
        (None, None)
    );
    assert_eq!(got.header("x-consumer-id"), None);
}

#[tokio::test]
async fn a_denial_is_given_to_the_client_as_it_is() {
    let world = World::new(|asked| match asked.header("x-forwarded-uri") {
        Some("/login") => Reply::status(
            302,
            &[
                ("Location", "https://login.test/?rd=x"),
                ("Set-Cookie", "a=1; HttpOnly"),
                ("Set-Cookie", "b=2"),
                ("X-Internal", "10.0.0.1"),
            ],
            "",
        ),
        Some("/basic") => {
            let fields = [
                ("WWW-Authenticate", "Basic realm=\"x\""),
                ("Content-Type", "text/html"),
            ];
            Reply::status(401, &fields, "<p>who are you?")
        }
        Some("/large") => Reply::status(403, &[], "x".repeat(100_000)),
        _ => Reply::status(403, &[], "no"),
    })
    .await;
    let login = world.gateway.get("/login").await;
    assert_eq!(login.status(), 302);
    assert_eq!(login.header("location"), Some("https://login.test/?rd=x"));
    assert_eq!(login.headers("set-cookie"), ["a=1; HttpOnly", "b=2"]);
    assert_eq!(login.header("x-internal"), None);
    assert_eq!(login.header("cache-control"), Some("no-store"));
    let basic = world.gateway.get("/basic").await;
    assert_eq!((basic.status(), basic.text()), (401, "<p>who are you?"));
    assert_eq!(basic.header("www-authenticate"), Some("Basic realm=\"x\""));
    assert_eq!(basic.header("content-type"), Some("text/html"));
    let no = world.gateway.get("/no").await;
    assert_eq!((no.status(), no.text()), (403, "no"));
    let large = world.gateway.get("/large").await;
    assert_eq!((large.status(), large.body.len()), (403, 0));
    assert!(world.origin.received().is_empty());
    let counted = "northgate_auth_refused_total";
    world
        .gateway
        .counts(counted, &[("reason", "auth.forward.denied")], 4.0)
        .await;
}

#[tokio::test]
async fn what_is_neither_yes_nor_no_is_503_and_passes_only_where_that_is_spelled_out() {
    let world = World::new(
        |asked| match asked.header("x-forwarded-uri").unwrap_or_default() {
            uri if uri.ends_with("/500") => Reply::status(500, &[], ""),
            uri if uri.ends_with("/404") => Reply::status(404, &[], ""),
            uri if uri.ends_with("/rubbish") => Reply::raw("rubbish\r\n\r\n").then_close(),
            uri if uri.ends_with("/reset") => Reply::reset(),
            uri if uri.ends_with("/304") => Reply::status(304, &[], ""),
            _ => Reply::hang(),
        },
    )
    .await;
    for kind in ["500", "404", "rubbish", "reset", "304", "hang"] {
        let response = world.gateway.get(&format!("/{kind}")).await;
        assert_eq!(response.status(), 503, "{kind}");
        assert_eq!(response.problem(), "auth.unavailable", "{kind}");
        assert!(world.origin.received().is_empty(), "{kind}");
    }
    // what a client can bring about by what it sends is no failure of the authoriser
    for kind in ["404", "304"] {
        let response = world.gateway.get(&format!("/open/{kind}")).await;
        assert_eq!(response.status(), 503, "{kind}");
    }
    assert!(world.origin.received().is_empty());
    for (at, kind) in ["500", "rubbish", "reset", "hang"].into_iter().enumerate() {
        let call = world
            .gateway
            .call(&format!("GET /open/{kind}"))
            .header("X-User", "root");
        assert_eq!(call.send().await.status(), 200, "{kind}");
        let received = world.origin.received();
        assert_eq!(received.len(), at + 1, "{kind}");
        assert_eq!(received[at].header("x-user"), None, "{kind}");
    }
    let counted = "northgate_auth_refused_total";
    world
        .gateway
        .counts(counted, &[("reason", "auth.forward.failed")], 8.0)
        .await;
}

/// `on_failure: allow` is for an authoriser that is down. Whoever could make it look so would need no credential.
#[tokio::test]
async fn no_client_can_make_an_authoriser_fail() {
    let world = World::new(|asked| {
        // as servers do whose bound for a head is below the gateway's
        match asked.head.len() > 8192 {
            true => Reply::status(431, &[], ""),
            false => Reply::status(403, &[], "no"),
        }
    })
    .await;
    let call = || world.gateway.call("GET /open/a");
    assert_eq!(call().send().await.status(), 403);
    let via = call().header("Via", "1.1 northgate-forward-auth");
    assert_eq!(via.send().await.status(), 503);
    let long = call().header("X-Padding", &"a".repeat(9000));
    assert_eq!(long.send().await.status(), 503);
    assert!(world.origin.received().is_empty());
}

#[tokio::test]
async fn as_many_questions_as_there_may_be_open_no_door() {
    let gate = Gate::closed();
    let authoriser = Origin::start({
        let gate = gate.clone();
        move |asked| Reply::after(&gate).then_reply(pass(asked))
    })
    .await;
    let origin = Origin::echo().await;
    let gateway = Gateway::builder(
        r#"
services: {app: {endpoints: "$app"}, authoriser: {endpoints: "$authoriser"}}
policies: {auth: {forward: {service: authoriser, in_flight: 1, on_failure: allow, timeout: 20s}}}
routes: {all: {match: {path: /**}, service: app}}
"#,
    )
    .with("app", &origin)
    .with("authoriser", &authoriser)
    .start()
    .await;
    let first = gateway.call("GET /a");
    let first = tokio::spawn(async move { first.send().await.status() });
    crate::harness::eventually("a question", async || {
        (authoriser.connections() >= 1).then_some(())
    })
    .await;
    assert_eq!(gateway.get("/a").await.status(), 503);
    assert!(origin.received().is_empty());
    gate.open();
    assert_eq!(first.await.expect("no panic"), 200);
}

/// What an endpoint believes to come from the gateway, no client can write, wherever it goes (CVE-2026-31908).
#[tokio::test]
async fn the_fields_of_an_authoriser_are_written_by_nobody_else() {
    let origin = Origin::echo().await;
    let authoriser = Origin::start(pass).await;
    let gateway = Gateway::builder(
        r#"
consumers: {acme: {credentials: {api_key: {id: acme-1, key: "key-of-acme-0123456789"}}}}
services: {app: {endpoints: "$app"}, authoriser: {endpoints: "$authoriser"}}
routes:
  either:
    match: {path: /either}
    service: app
    policies:
      auth: {any_of: [{api_key: on}, {forward: {service: authoriser, response_headers: [x-user, authorization]}}]}
  told:
    match: {path: /told}
    service: app
    policies:
      auth: {api_key: on}
      headers: {request: {set: {x-who: "{consumer}", x-plain: "a {header.x-a}"}}}
  open: {match: {path: /open}, service: app}
"#,
    )
    .with("app", &origin)
    .with("authoriser", &authoriser)
    .start()
    .await;
    let forged = |line: &str| {
        let call = gateway.call(line);
        call.header("X-User", "root").header("X-Who", "root")
    };
    let key = forged("GET /either").header("X-API-Key", "key-of-acme-0123456789");
    assert_eq!(key.send().await.status(), 200);
    assert_eq!(origin.last().header("x-user"), None);
    assert_eq!(origin.last().header("x-consumer-id"), Some("acme"));
    assert_eq!(forged("GET /either").send().await.status(), 200);
    assert_eq!(origin.last().header("x-user"), Some("alice"));
    let open = forged("GET /open")
        .header("X-Plain", "mine")
        .header("Authorization", "Basic eA==");
    assert_eq!(open.send().await.status(), 200);
    assert_eq!(origin.last().headers("x-user").len(), 0);
    assert_eq!(origin.last().headers("x-who").len(), 0);
    // what says nothing about who calls is the client's own
    assert_eq!(origin.last().header("x-plain"), Some("mine"));
    assert_eq!(origin.last().header("authorization"), Some("Basic eA=="));
}

/// A redirect to a login names the page that was asked for, and its cookie belongs to one browser.
#[tokio::test]
async fn a_denial_is_given_to_nobody_else() {
    let gate = Gate::closed();
    let world = World::new({
        let gate = gate.clone();
        move |asked| {
            let uri = asked.header("x-forwarded-uri").unwrap_or_default();
            let location = format!("https://login.test{uri}");
            Reply::after(&gate).then_reply(Reply::status(302, &[("Location", &location)], ""))
        }
    })
    .await;
    let calls: Vec<_> = (0..3)
        .map(|at| {
            let call = world.gateway.call(&format!("GET /kept/a?{at}"));
            tokio::spawn(async move { call.send().await })
        })
        .collect();
    crate::harness::eventually("a question", async || {
        (world.authoriser.connections() >= 1).then_some(())
    })
    .await;
    gate.open();
    for (at, call) in calls.into_iter().enumerate() {
        let answer = call.await.expect("no panic");
        let location = format!("https://login.test/kept/a?{at}");
        assert_eq!(answer.header("location"), Some(&*location));
    }
}

#[tokio::test]
async fn a_call_of_grpc_is_told_in_its_own_words_that_it_is_denied() {
    let world = World::new(|asked| {
        let status = asked.header("x-want").and_then(|want| want.parse().ok());
        Reply::status(status.unwrap_or(403), &[], "no")
    })
    .await;
    for (status, code) in [("401", "16"), ("302", "16"), ("403", "7")] {
        let call = world.gateway.call("POST /a.B/C").header("X-Want", status);
        let answer = call.header("Content-Type", "application/grpc").send().await;
        assert_eq!(answer.status(), 200, "{status}");
        assert_eq!(answer.header("grpc-status"), Some(code), "{status}");
        assert_eq!(answer.text(), "", "{status}");
    }
}

#[tokio::test]
async fn the_log_says_who_denied_a_request() {
    let authoriser = Origin::start(|_| Reply::status(403, &[], "no")).await;
    let gateway = Gateway::builder(
        r#"
access_log: {path: "-"}
services: {authoriser: {endpoints: "$authoriser"}}
policies: {auth: {forward: {service: authoriser}}}
routes: {all: {match: {path: /**}, respond: 204}}
"#,
    )
    .with("authoriser", &authoriser)
    .start()
    .await;
    assert_eq!(gateway.get("/a").await.status(), 403);
    crate::harness::eventually("the reason in the access log", async || {
        let log = gateway.stdout();
        log.contains(r#""reason":"auth.forward.denied""#)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_authoriser_that_is_not_there_is_503() {
    let origin = Origin::echo().await;
    let gateway = Gateway::builder(GATEWAY)
        .with("app", &origin)
        .with("authoriser", format!("{}:9", loopback()))
        .with("ttl", "30s")
        .start()
        .await;
    let response = gateway.get("/a").await;
    assert_eq!(
        (response.status(), response.problem()),
        (503, "auth.unavailable".to_owned())
    );
    assert!(origin.received().is_empty());
}

#[tokio::test]
async fn a_verdict_is_kept_by_what_it_depends_on_and_no_longer_than_it_may() {
    let origin = Origin::echo().await;
    let authoriser = Origin::start(|asked| match asked.header("authorization") {
        Some(who) => Reply::status(200, &[("X-User", who)], ""),
        None => Reply::status(401, &[], ""),
    })
    .await;
    let gateway = Gateway::builder(GATEWAY)
        .with("app", &origin)
        .with("authoriser", &authoriser)
        .with("ttl", "1s")
        .start()
        .await;
    let call = |target: &str, who: &str| {
        let call = gateway.call(&format!("GET {target}"));
        if who.is_empty() {
            call
        } else {
            call.header("Authorization", who)
        }
    };
    let began = Instant::now();
    for (target, who, questions) in [
        ("/kept/a", "alice", 1),
        ("/kept/a", "alice", 1),
        ("/kept/a", "bob", 2),
        ("/kept/b", "alice", 3),
        ("/kept/a?x", "alice", 3),
    ] {
        assert_eq!(call(target, who).send().await.status(), 200);
        assert_eq!(origin.last().header("x-user"), Some(who));
        if began.elapsed() < Duration::from_millis(900) {
            assert_eq!(authoriser.received().len(), questions, "{target} {who}");
        }
    }
    // denials are asked about each time
    let before = authoriser.received().len();
    for _ in 0..2 {
        assert_eq!(call("/kept/a", "").send().await.status(), 401);
    }
    assert_eq!(authoriser.received().len(), before + 2);
    crate::harness::eventually("the verdict to be asked for again", async || {
        let before = authoriser.received().len();
        call("/kept/a", "alice").send().await;
        (authoriser.received().len() > before).then_some(())
    })
    .await;
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn those_who_ask_for_the_same_wait_for_one_question() {
    let gate = Gate::closed();
    let world = World::new({
        let gate = gate.clone();
        move |asked| Reply::after(&gate).then_reply(pass(asked))
    })
    .await;
    let call = || {
        world
            .gateway
            .call("GET /kept/a")
            .header("Authorization", "alice")
    };
    let calls: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn({
                let call = call();
                async move { call.send().await.status() }
            })
        })
        .collect();
    // a request of the same moment that asks for something else does not wait for it
    let other = world
        .gateway
        .call("GET /kept/b")
        .header("Authorization", "alice");
    let other = tokio::spawn(async move { other.send().await.status() });
    crate::harness::eventually("two questions", async || {
        (world.authoriser.connections() >= 2).then_some(())
    })
    .await;
    gate.open();
    for call in calls {
        assert_eq!(call.await.expect("no panic"), 200);
    }
    assert_eq!(other.await.expect("no panic"), 200);
    assert_eq!(world.authoriser.received().len(), 2);
    assert_eq!(world.origin.received().len(), 21);
}

#[tokio::test]
async fn no_more_questions_are_asked_at_a_time_than_there_may_be() {
    let gate = Gate::closed();
    let world = World::new({
        let gate = gate.clone();
        move |asked| Reply::after(&gate).then_reply(pass(asked))
    })
    .await;
    let calls: Vec<_> = (0..2)
        .map(|_| {
            tokio::spawn({
                let call = world.gateway.call("GET /a");
                async move { call.send().await.status() }
            })
        })
        .collect();
    crate::harness::eventually("two questions", async || {
        (world.authoriser.connections() >= 2).then_some(())
    })
    .await;
    assert_eq!(world.gateway.get("/a").await.status(), 503);
    gate.open();
    for call in calls {
        assert_eq!(call.await.expect("no panic"), 200);
    }
    assert_eq!(world.gateway.get("/a").await.status(), 200);
}

#[tokio::test]
async fn the_target_and_the_fields_of_a_question_can_be_chosen() {
    let world = World::new(pass).await;
    let call = world.gateway.call("PUT /prefixed/a?b=c").body("x");
    let call = call
        .header("Cookie", "a=b")
        .header("Authorization", "Bearer x");
    assert_eq!(call.send().await.status(), 200);
    let asked = world.authoriser.only();
    assert_eq!(
        (asked.method(), asked.target()),
        ("PUT", "/check/prefixed/a?b=c")
    );
    assert_eq!(
        (asked.header("cookie"), asked.header("authorization")),
        (Some("a=b"), None)
    );
    assert!(asked.body.is_empty());
    // the credential is the authoriser's to know
    assert_eq!(
        world.origin.only().header("authorization"),
        Some("Bearer x")
    );
}

/// A question must not be about a question, and so on for ever.
#[tokio::test]
async fn an_authoriser_that_is_the_gateway_itself_ends_in_a_refusal() {
    let gateway = Gateway::start(
        r#"
listeners: {public: {address: "$address:8080"}, other: {address: "$address:8081"}}
services: {itself: {endpoints: "$address:8082"}}
policies: {auth: {forward: {service: itself}}}
routes: {all: {match: {path: /**}, respond: 204}}
"#,
    )
    .await;
    // what leads back is a relay that is none of the gateway's listeners
    let relay = Origin::at(gateway.port(8082), {
        let target = gateway.public();
        move |asked| {
            let (asked, target) = (asked.clone(), target);
            let answer = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime.expect("a runtime").block_on(async move {
                    let via = asked.header("via").expect("a mark").to_owned();
                    let call = Call::new(target, "GET /loop").header("Via", &via);
                    call.send().await.status()
                })
            });
            Reply::status(answer.join().expect("no panic"), &[], "")
        }
    })
    .await;
    assert_eq!(gateway.get("/a").await.status(), 503);
    assert_eq!(relay.received().len(), 1);
}
