//! Signed requests (RFC 9421): that what is sent on is what was signed, and is sent on once.

use crate::harness::{Call, Client, Ending, Gateway, Http2, Message, Origin, Received};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

const GATEWAY: &str = r#"
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
services: {app: {endpoints: "$app"}}
consumers:
  acme: {credentials: {signature: {id: acme-1, key: "${file:$dir/secret}"}}}
  other: {credentials: {signature: {public_key: "$dir/other.pub"}}}
routes:
  all: {match: {path: /**}, service: app, policies: {auth: {signature: on}}}
  once: {match: {path: /once/**}, service: app, policies: {auth: {signature: {nonce: required, max_age: 1m}}}}
  some: {match: {path: /some/**}, service: app, policies: {auth: {signature: {components: ["@method", x-tenant]}}}}
"#;

struct World {
    origin: Origin,
    gateway: Gateway,
    pair: Ed25519KeyPair,
}

impl World {
    async fn new() -> Self {
        let origin = Origin::echo().await.lenient();
        let pair = Ed25519KeyPair::generate().expect("a key");
        use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("a key");
        let pem = STANDARD.encode(der.as_ref());
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n");
        let gateway = Gateway::builder(GATEWAY)
            .with("app", &origin)
            .file("secret", SECRET)
            .file("other.pub", &pem)
            .start()
            .await;
        Self {
            origin,
            gateway,
            pair,
        }
    }
}

/// A request that is being signed, with the lines of its base written by hand.
struct Signing<'a> {
    method: &'a str,
    target: &'a str,
    body: Option<&'a str>,
    created: SystemTime,
    params: String,
    extra: Vec<(&'a str, &'a str)>,
}

impl<'a> Signing<'a> {
    fn new(method: &'a str, target: &'a str) -> Self {
        Self {
            method,
            target,
            body: None,
            created: SystemTime::now(),
            params: String::new(),
            extra: Vec::new(),
        }
    }

    fn body(mut self, body: &'a str) -> Self {
        self.body = Some(body);
        self
    }

    fn params(mut self, params: &str) -> Self {
        self.params = params.to_owned();
        self
    }

    fn created(mut self, created: SystemTime) -> Self {
        self.created = created;
        self
    }

    fn extra(mut self, name: &'a str, value: &'a str) -> Self {
        self.extra.push((name, value));
        self
    }

    /// The fields of the signature, by whatever signs the base.
    fn fields(&self, keyid: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let mut covered = vec!["@method", "@target-uri"];
        let mut lines = vec![
            format!("\"@method\": {}", self.method),
            format!("\"@target-uri\": http://example.test{}", self.target),
        ];
        for (name, value) in &self.extra {
            covered.push(name);
            lines.push(format!("\"{name}\": {value}"));
            fields.push(((*name).to_owned(), (*value).to_owned()));
        }
        if let Some(body) = self.body {
            let digest = STANDARD.encode(digest(&SHA256, body.as_bytes()));
            let value = format!("sha-256=:{digest}:");
            covered.push("content-digest");
            lines.push(format!("\"content-digest\": {value}"));
            fields.push(("Content-Digest".to_owned(), value));
        }
        let created = self
            .created
            .duration_since(UNIX_EPOCH)
            .expect("a time")
            .as_secs();
        let covered: Vec<String> = covered.iter().map(|name| format!("\"{name}\"")).collect();
        let params = format!(
            "({});created={created};keyid=\"{keyid}\"{}",
            covered.join(" "),
            self.params
        );
        lines.push(format!("\"@signature-params\": {params}"));
        let signature = STANDARD.encode(sign(lines.join("\n").as_bytes()));
        fields.push(("Signature-Input".to_owned(), format!("sig={params}")));
        fields.push(("Signature".to_owned(), format!("sig=:{signature}:")));
        fields
    }

    fn hmac(&self) -> Vec<(String, String)> {
        self.fields("acme-1", |base| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
            hmac::sign(&key, base).as_ref().to_vec()
        })
    }
}

fn call(gateway: &Gateway, line: &str, fields: &[(String, String)]) -> Call {
    let call = gateway.call(line);
    fields
        .iter()
        .fold(call, |call, (name, value)| call.header(name, value))
}

/// The requests that the endpoint could act on.
fn complete(world: &World) -> Vec<Received> {
    let mut received = world.origin.received();
    received.retain(|request| request.complete);
    received
}

async fn refused(world: &World, response: &Message, reason: &str) {
    assert_eq!(response.status(), 401, "{reason}: {response:?}");
    assert_eq!(response.problem(), "auth.invalid", "{reason}");
    // the head of one may have been sent on
    assert!(complete(world).is_empty(), "{reason}");
    let counted = "northgate_auth_refused_total";
    world
        .gateway
        .counts(counted, &[("reason", reason)], 1.0)
        .await;
}

#[tokio::test]
async fn a_signed_request_is_the_consumers_and_loses_its_signature() {
    let world = World::new().await;
    let fields = Signing::new("GET", "/a?b=c").hmac();
    let response = call(&world.gateway, "GET /a?b=c", &fields).send().await;
    assert_eq!(response.status(), 200, "{response:?}");
    let got = world.origin.last();
    assert_eq!(got.header("x-consumer-id"), Some("acme"));
    assert_eq!(
        (got.header("signature"), got.header("signature-input")),
        (None, None)
    );
    let body = "{\"hello\": \"world\"}";
    let fields = Signing::new("POST", "/a")
        .body(body)
        .fields("other", |base| world.pair.sign(base).as_ref().to_vec());
    let response = call(&world.gateway, "POST /a", &fields)
        .body(body)
        .send()
        .await;
    assert_eq!(response.status(), 200, "{response:?}");
    let got = world.origin.last();
    assert_eq!(got.header("x-consumer-id"), Some("other"));
    assert_eq!(got.text(), body);
    let missing = world.gateway.get("/a").await;
    assert_eq!(
        (missing.status(), missing.problem()),
        (401, "auth.missing".to_owned())
    );
    assert_eq!(missing.header("www-authenticate"), Some("Signature"));
}

#[tokio::test]
async fn what_was_not_signed_is_refused() {
    let world = World::new().await;
    let gateway = &world.gateway;
    let signed = Signing::new("GET", "/a?b=c").hmac();
    for (line, host) in [
        ("HEAD /a?b=c", "example.test"),
        ("GET /a?b=d", "example.test"),
        ("GET /a", "example.test"),
        ("GET /b?b=c", "example.test"),
        ("GET /a?b=c", "other.test"),
        ("GET /a?b=c", "example.test:81"),
    ] {
        let response = call(gateway, line, &signed).host(host).send().await;
        assert_eq!(response.status(), 401, "{line} {host}");
    }
    let response = call(gateway, "GET /x", &signed).send().await;
    refused(&world, &response, "auth.signature.wrong").await;
    // a key of somebody else's
    let foreign = Signing::new("GET", "/a").fields("other", |base| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        hmac::sign(&key, base).as_ref().to_vec()
    });
    let response = call(gateway, "GET /a", &foreign).send().await;
    assert_eq!(response.status(), 401);
    let unknown = Signing::new("GET", "/a").fields("nobody", |_| vec![0; 32]);
    let response = call(gateway, "GET /a", &unknown).send().await;
    refused(&world, &response, "auth.signature.key").await;
    let late = SystemTime::now() - Duration::from_secs(600);
    let response = call(
        gateway,
        "GET /a",
        &Signing::new("GET", "/a").created(late).hmac(),
    );
    let response = response.send().await;
    assert_eq!(
        (response.status(), response.problem()),
        (401, "auth.expired".to_owned())
    );
    let early = SystemTime::now() + Duration::from_secs(600);
    let response = call(
        gateway,
        "GET /a",
        &Signing::new("GET", "/a").created(early).hmac(),
    );
    refused(&world, &response.send().await, "auth.signature.early").await;
    let response = call(gateway, "POST /a", &Signing::new("POST", "/a").hmac()).body("x");
    refused(&world, &response.send().await, "auth.signature.coverage").await;
}

#[tokio::test]
async fn a_nonce_is_good_once_over_all_routes_and_reloads() {
    let world = World::new().await;
    let gateway = &world.gateway;
    let fields = Signing::new("GET", "/once/1")
        .params(";nonce=\"n-1\"")
        .hmac();
    assert_eq!(
        call(gateway, "GET /once/1", &fields).send().await.status(),
        200
    );
    assert_eq!(
        call(gateway, "GET /once/1", &fields).send().await.status(),
        401
    );
    gateway.reload_to(GATEWAY).await;
    assert_eq!(
        call(gateway, "GET /once/1", &fields).send().await.status(),
        401
    );
    let elsewhere = Signing::new("GET", "/all").params(";nonce=\"n-1\"").hmac();
    assert_eq!(
        call(gateway, "GET /all", &elsewhere).send().await.status(),
        401
    );
    let other = Signing::new("GET", "/once/1")
        .params(";nonce=\"n-2\"")
        .hmac();
    assert_eq!(
        call(gateway, "GET /once/1", &other).send().await.status(),
        200
    );
    let none = Signing::new("GET", "/once/1").hmac();
    assert_eq!(
        call(gateway, "GET /once/1", &none).send().await.status(),
        401
    );
    let counted = "northgate_auth_refused_total";
    gateway
        .counts(counted, &[("reason", "auth.signature.replayed")], 3.0)
        .await;
    gateway
        .counts(counted, &[("reason", "auth.signature.nonce")], 1.0)
        .await;
}

#[tokio::test]
async fn a_body_that_was_not_signed_is_never_complete_at_the_endpoint() {
    let world = World::new().await;
    let gateway = &world.gateway;
    let fields = Signing::new("POST", "/a").body("honest").hmac();
    // in one piece: nothing of it is sent on
    let response = call(gateway, "POST /a", &fields)
        .body("forged")
        .send()
        .await;
    refused(&world, &response, "auth.signature.digest").await;
    // in chunks, whose end comes for itself
    let head = |fields: &[(String, String)]| {
        let mut text =
            "POST /a HTTP/1.1\r\nHost: example.test\r\nTransfer-Encoding: chunked\r\n".to_owned();
        for (name, value) in fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text + "\r\n"
    };
    let mut client = Client::connect(gateway.public()).await;
    client.send(head(&fields) + "3\r\nfor\r\n").await;
    client.send("3\r\nged\r\n").await;
    let _ = client.try_send("0\r\n\r\n").await;
    let response = client.response("POST").await;
    assert_eq!(response.status(), 401, "{response:?}");
    let mut client = Client::connect(gateway.public()).await;
    client.send(head(&fields) + "3\r\nhon\r\n").await;
    client.send("3\r\nest\r\n0\r\n\r\n").await;
    assert_eq!(client.response("POST").await.status(), 200);
    let got = complete(&world);
    assert_eq!(got.len(), 1, "{got:?}");
    assert_eq!(got[0].text(), "honest");
    // of what came in one piece, nothing was sent on
    assert!(world.origin.received()[0].body.is_empty());
    // more than was signed, over HTTP/2, where nothing has to announce a body
    let bare = Signing::new("POST", "/a").hmac();
    let bare: Vec<(&str, &str)> = bare
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let lower: Vec<(String, &str)> = bare
        .iter()
        .map(|(name, value)| (name.to_lowercase(), *value))
        .collect();
    let lower: Vec<(&str, &str)> = lower
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    let mut h2 = Http2::connect(gateway.public()).await;
    let url = "http://example.test/a";
    let response = h2
        .call("POST", url, &lower, b"smuggled", Ending::OnLast)
        .await;
    assert!(response.is_err() || response.is_ok_and(|response| response.status() == 401));
    assert_eq!(complete(&world).len(), 1);
    let response = h2
        .call("POST", url, &lower, b"", Ending::OnLast)
        .await
        .expect("an answer");
    assert_eq!(response.status(), 200);
    // a digest of nothing, where there is something, and the other way round
    let empty = Signing::new("POST", "/a").body("").hmac();
    assert_eq!(
        call(gateway, "POST /a", &empty)
            .body("")
            .send()
            .await
            .status(),
        200
    );
    let response = call(gateway, "POST /a", &empty).body("x").send().await;
    assert_eq!(response.status(), 401);
    let response = call(gateway, "POST /a", &fields).body("").send().await;
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn a_large_body_passes_whole() {
    let world = World::new().await;
    let body = "0123456789abcdef".repeat(64 * 1024);
    let fields = Signing::new("PUT", "/large").body(&body).hmac();
    let response = call(&world.gateway, "PUT /large", &fields)
        .body(&body)
        .send()
        .await;
    assert_eq!(response.status(), 200);
    assert_eq!(world.origin.only().body.len(), body.len());
}

#[tokio::test]
async fn a_route_may_ask_for_other_components() {
    let world = World::new().await;
    let gateway = &world.gateway;
    let signed = Signing::new("POST", "/some/1")
        .extra("x-tenant", "acme")
        .hmac();
    let response = call(gateway, "POST /some/1", &signed)
        .body("any")
        .send()
        .await;
    assert_eq!(response.status(), 200, "its body is nobody's business here");
    let changed: Vec<_> = signed
        .iter()
        .map(|(name, value)| match name.as_str() {
            "x-tenant" => (name.clone(), "other".to_owned()),
            _ => (name.clone(), value.clone()),
        })
        .collect();
    assert_eq!(
        call(gateway, "POST /some/1", &changed)
            .send()
            .await
            .status(),
        401
    );
    let without = Signing::new("POST", "/some/1").hmac();
    assert_eq!(
        call(gateway, "POST /some/1", &without)
            .send()
            .await
            .status(),
        401
    );
}
