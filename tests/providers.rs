//! Identity providers that none of us wrote: `oidc-provider`, which the OpenID Foundation certified.

use crate::harness::{Browser, Call, Gateway, Message, Origin, Program, eventually, loopback};
use std::net::{Ipv4Addr, SocketAddr};

/// The provider of `tests/clients/oidc`.
struct Provider {
    address: SocketAddr,
    _program: Program,
}

impl Provider {
    async fn start(host: Ipv4Addr, port: u16) -> Self {
        let arguments = [host.to_string(), port.to_string()];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut program = Program::node("oidc/provider.mjs", &arguments);
        let port = program.line().await.parse().expect("a port");
        Self {
            address: (host, port).into(),
            _program: program,
        }
    }

    /// A token for that resource (RFC 6749 §4.4, RFC 8707).
    async fn token(&self, resource: &str) -> String {
        let answer = self
            .post(
                "/token",
                &format!("grant_type=client_credentials&scope=read&resource=urn:orders:{resource}"),
            )
            .await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer.json()["access_token"]
            .as_str()
            .expect("a token")
            .to_owned()
    }

    async fn post(&self, path: &str, form: &str) -> Message {
        Call::new(self.address, &format!("POST {path}"))
            .host(&self.address.to_string())
            // `shop` and its secret
            .header(
                "Authorization",
                "Basic c2hvcDphK3NlY3JldCUzQSsxMDAlMjUrJTJCK21vcmU=",
            )
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(form)
            .send()
            .await
    }
}

async fn call(gateway: &Gateway, path: &str, token: &str) -> Message {
    let call = gateway.call(&format!("GET {path}"));
    call.header("Authorization", &format!("Bearer {token}"))
        .send()
        .await
}

const GATEWAY: &str = r#"
services: {app: {endpoints: "$app"}}
issuers: {idp: {issuer: "http://$idp", audience: orders, consumer: client_id, token_type: at+jwt}}
routes:
  signed: {match: {path: /signed}, service: app, policies: {auth: {jwt: idp}}}
  opaque:
    match: {path: /opaque}
    service: app
    policies:
      auth:
        introspection:
          url: "http://$idp/token/introspection"
          client_id: northgate
          client_secret: "a secret: 100% + more"
          issuer: "http://$idp"
          audience: orders
          consumer: client_id
          cache: 1s
"#;

#[tokio::test]
async fn tokens_of_a_certified_provider_count_while_it_signs_revokes_and_rotates() {
    let (app, host) = (Origin::echo().await, loopback());
    let provider = Provider::start(host, 0).await;
    let address = provider.address;
    let gateway = Gateway::builder(GATEWAY)
        .with("app", &app)
        .with("idp", address)
        .start()
        .await;
    for resource in ["rs", "es", "ps"] {
        let token = provider.token(resource).await;
        assert_eq!(
            call(&gateway, "/signed", &token).await.status(),
            200,
            "{resource}"
        );
        let got = app.last();
        assert_eq!(got.header("x-consumer-id"), Some("shop"));
        assert_eq!(got.header("x-auth-scopes"), Some("read"));
        // the provider knows its signed tokens too, but not as ones to ask about
        assert_eq!(
            call(&gateway, "/opaque", &token).await.status(),
            401,
            "{resource}"
        );
    }

    let opaque = provider.token("opaque").await;
    assert_eq!(call(&gateway, "/signed", &opaque).await.status(), 401);
    assert_eq!(call(&gateway, "/opaque", &opaque).await.status(), 200);
    assert_eq!(app.last().header("x-consumer-id"), Some("shop"));
    assert_eq!(app.last().header("x-auth-scopes"), Some("read"));
    let revoked = provider
        .post("/token/revocation", &format!("token={opaque}"))
        .await;
    assert_eq!(revoked.status(), 200, "{revoked:?}");
    eventually("the token to be revoked", async || {
        (call(&gateway, "/opaque", &opaque).await.status() == 401).then_some(())
    })
    .await;

    // another start of the provider is another set of keys
    let old = provider.token("es").await;
    assert_eq!(call(&gateway, "/signed", &old).await.status(), 200);
    drop(provider);
    assert_eq!(call(&gateway, "/signed", &old).await.status(), 200);
    let provider = Provider::start(host, address.port()).await;
    let new = provider.token("es").await;
    assert_eq!(call(&gateway, "/signed", &new).await.status(), 200);
    assert_eq!(call(&gateway, "/signed", &old).await.status(), 401);
}

const LOGIN: &str = r#"
secrets: {cookies: "a secret of some length"}
services: {app: {endpoints: "$app"}}
issuers: {idp: {issuer: "http://$idp", groups: roles}}
routes:
  app:
    match: {path: /**}
    service: app
    policies:
      auth: {oidc: {issuer: idp, client_id: browser, client_secret: "a secret: 100% + more", after_logout: /bye}}
      authorize: {groups: staff}
"#;

/// Follows redirects, and sends the forms that the provider shows, until the gateway answers with a page of its own.
async fn follow(
    browser: &mut Browser,
    gateway: &Gateway,
    provider: &Provider,
    from: Message,
) -> Message {
    let (mut answer, mut at) = (from, gateway.public());
    for _ in 0..12 {
        let call = match answer.status() {
            301..=308 => {
                let location = answer.header("location").expect("a location").to_owned();
                let target = match location.strip_prefix("http://") {
                    None => location,
                    Some(rest) => {
                        let (host, target) = rest.split_at(rest.find('/').expect("a path"));
                        at = host.parse().expect("an address");
                        target.to_owned()
                    }
                };
                Call::new(at, &format!("GET {target}"))
            }
            200 if at == provider.address => {
                let page = answer.text().to_owned();
                let part = |from: &str, to: &str| {
                    let rest = page
                        .split_once(from)
                        .unwrap_or_else(|| panic!("{from} in {page}"))
                        .1;
                    rest.split_once(to).expect("an end").0.to_owned()
                };
                let action = part("action=\"", "\"");
                let path = action
                    .strip_prefix(&format!("http://{at}"))
                    .unwrap_or(&action);
                let form = match page.contains("name=\"login\"") {
                    true => "prompt=login&login=alice&password=x",
                    false => "prompt=consent",
                };
                let form = match page.contains("name=\"xsrf\"") {
                    true => format!("logout=yes&xsrf={}", part("name=\"xsrf\" value=\"", "\"")),
                    false => form.to_owned(),
                };
                Call::new(at, &format!("POST {path}"))
                    .header("Content-Type", "application/x-www-form-urlencoded")
                    .header("Origin", &format!("http://{at}"))
                    .body(form)
            }
            _ => return answer,
        };
        answer = browser
            .sends(at, Browser::as_page(call.host(&at.to_string())))
            .await;
    }
    panic!("no end of it: {answer:?}");
}

#[tokio::test]
async fn somebody_logs_in_at_a_certified_provider_stays_for_a_while_and_logs_out() {
    let (app, host) = (Origin::echo().await, loopback());
    let provider = Provider::start(host, 0).await;
    let gateway = Gateway::builder(LOGIN)
        .with("app", &app)
        .with("idp", provider.address)
        .start()
        .await;
    let (public, mut browser) = (gateway.public(), Browser::default());
    let sent = browser.goes(public, "/page?x=1").await;
    assert_eq!(sent.status(), 302);
    let page = follow(&mut browser, &gateway, &provider, sent).await;
    assert_eq!(page.status(), 200, "{page:?}");
    let got = app.only();
    assert_eq!(got.target(), "/page?x=1");
    assert_eq!(got.header("x-auth-subject"), Some("alice"));
    assert!(got.headers("cookie").is_empty());

    // its access tokens end after four seconds, and its refresh tokens with their use: twice, so that the second counts
    let renewals = async || {
        let metrics = gateway.metrics().await;
        metrics.value("northgate_browser_logins_total", &[("event", "renewed")])
    };
    eventually("two renewals", async || {
        assert_eq!(browser.goes(public, "/again").await.status(), 200);
        (renewals().await >= 2.0).then_some(())
    })
    .await;

    let form = Call::new(public, "POST /oauth2/logout").host(&public.to_string());
    let out = browser
        .sends(
            public,
            Browser::as_page(form.header("Sec-Fetch-Site", "same-origin")),
        )
        .await;
    assert_eq!(out.status(), 303);
    let kept = browser.clone();
    // the provider asks whether it is to forget the user too, and then sends the browser to `/bye`, which is guarded
    let count = app.received().len();
    let location = out.header("location").unwrap().to_owned();
    let ends = browser
        .sends(
            provider.address,
            Browser::as_page(
                Call::new(
                    provider.address,
                    &format!(
                        "GET {}",
                        location
                            .split_once(&provider.address.to_string())
                            .unwrap()
                            .1
                    ),
                )
                .host(&provider.address.to_string()),
            ),
        )
        .await;
    assert_eq!(ends.status(), 200, "{ends:?}");
    assert!(ends.text().contains("xsrf"), "{ends:?}");
    assert_eq!(app.received().len(), count);
    assert!(
        kept.cookies
            .iter()
            .all(|(host, ..)| *host != public.to_string())
    );
    // nobody is in the browser any more
    let sent = browser.goes(public, "/page").await;
    assert_eq!(sent.status(), 302);
    assert!(
        sent.header("location")
            .unwrap()
            .starts_with(&format!("http://{}/auth?", provider.address))
    );
}
