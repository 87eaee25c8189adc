//! Identity providers that none of us wrote: `oidc-provider`, which the OpenID Foundation certified.

use crate::harness::{Call, Gateway, Message, Origin, Program, eventually, loopback};
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
