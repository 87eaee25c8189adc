//! One canonical request (design 1.1; security-requirements 1, 4, 5): what is ambiguous is refused before an origin hears
//! of it, and what reaches the origin is what policies saw. The cases are in `security/`; here is what is no case.

use crate::harness::{Client, Gateway, Http2, Origin};
use std::net::{Ipv4Addr, SocketAddr};

const ECHO: &str = r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
services: {app: {endpoints: "$app"}}
routes: {all: {match: {path: /**}, service: app}}
"#;

async fn echo() -> (Gateway, Origin) {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, ECHO).await;
    (gateway, origin)
}

#[tokio::test]
async fn a_trusted_proxy_names_its_client_and_the_rightmost_untrusted_hop_counts() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(
        &origin,
        r#"
trusted_proxies: [127.0.0.2/32, 10.0.0.0/8]
routes:
  blocked: {match: {path: /**, client_address: 192.0.2.66/32}, respond: 403}
  all: {match: {path: /**}, service: ["$app"]}
"#,
    )
    .await;
    let proxy = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0));
    let stranger = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 3), 0));
    let call = gateway
        .call("GET /")
        .header("X-Forwarded-For", "192.0.2.66, 198.51.100.7, 10.1.2.3")
        .header("X-Forwarded-Proto", "https")
        .header("X-Request-Id", "from-the-proxy");
    assert_eq!(call.clone().from(proxy).send().await.status(), 200);
    let got = origin.last();
    assert_eq!(
        got.header("x-forwarded-for"),
        Some("192.0.2.66, 198.51.100.7, 10.1.2.3, 127.0.0.2")
    );
    assert_eq!(got.header("x-forwarded-proto"), Some("https"));
    assert_eq!(got.header("x-request-id"), Some("from-the-proxy"));
    // the client that the proxy names is blocked
    let blocked = gateway
        .call("GET /")
        .header("X-Forwarded-For", "192.0.2.66, 10.1.2.3");
    assert_eq!(blocked.clone().from(proxy).send().await.status(), 403);
    // nobody believes a stranger
    assert_eq!(blocked.from(stranger).send().await.status(), 200);
    assert_eq!(origin.last().header("x-forwarded-for"), Some("127.0.0.3"));
}

#[tokio::test]
async fn the_request_id_is_one_value_everywhere() {
    let (gateway, origin) = echo().await;
    let response = gateway.get("/").await;
    let id = response.header("x-request-id").expect("an id").to_owned();
    assert_eq!(origin.only().header("x-request-id"), Some(id.as_str()));
    let uuid: uuid::Uuid = id.parse().expect("a UUID");
    assert_eq!(uuid.get_version_num(), 7);
    let refused = gateway.get("/a%2fb").await;
    assert_eq!(
        refused.header("x-request-id"),
        refused.json()["instance"].as_str()
    );
}

#[tokio::test]
async fn traceparent_is_continued_or_started() {
    let (gateway, origin) = echo().await;
    let sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    gateway
        .call("GET /")
        .header("traceparent", sent)
        .send()
        .await;
    let got = origin.last();
    let got = got.header("traceparent").expect("a trace");
    assert_eq!(got.split('-').nth(1), sent.split('-').nth(1));
    gateway.get("/").await;
    let started = origin.last();
    let started = started.header("traceparent").expect("a trace").to_owned();
    let parts: Vec<&str> = started.split('-').collect();
    assert_eq!(
        parts.iter().map(|part| part.len()).collect::<Vec<_>>(),
        [2, 32, 16, 2],
        "{started}"
    );
    assert_ne!(parts[1], sent.split('-').nth(1).unwrap_or_default());
}

#[tokio::test]
async fn requests_on_one_connection_keep_their_order_and_their_answers() {
    let (gateway, _origin) = echo().await;
    let mut client: Client = gateway.client().await;
    for n in 0..50 {
        let response = client.get("h.test", &format!("/{n}")).await;
        assert_eq!(response.json()["target"], format!("/{n}"));
    }
    // two at once: whether the second is served or the connection closes, nobody gets another's answer
    client
        .send("GET /first HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(client.response("GET").await.json()["target"], "/first");
    if let Ok(second) = client.try_response("GET").await {
        assert_eq!(second.json()["target"], "/second");
    }
}

/// Pingora does it before any of our code runs; an operator has to see it all the same.
#[tokio::test]
async fn what_is_refused_before_it_is_a_request_is_counted_on_http2_too() {
    let (gateway, origin) = echo().await;
    let mut h2 = Http2::connect(gateway.public()).await;
    let ending = crate::harness::Ending::OnLast;
    let fields = [("host", "other.test")];
    let answer = h2.call("GET", "http://h.test/", &fields, b"", ending).await;
    assert_eq!(answer.expect("a response").status(), 400);
    let counted = [("reason", "request.header")];
    gateway
        .counts("northgate_refused_total", &counted, 1.0)
        .await;
    assert_eq!(origin.received().len(), 0);
}

/// Pingora would answer it by itself: with no problem, no line in the log, and its own name in `Server`.
#[tokio::test]
async fn connect_is_refused_on_http2_as_everything_else_is() {
    let (gateway, origin) = echo().await;
    let mut h2 = Http2::connect(gateway.public()).await;
    let ending = crate::harness::Ending::OnLast;
    let answer = h2.call("CONNECT", "h.test:443", &[], b"", ending).await;
    let answer = answer.expect("a response");
    assert_eq!(answer.status(), 405);
    assert_eq!(answer.header("server"), Some("northgate"));
    assert_eq!(answer.json()["code"], "request.method");
    gateway
        .counts(
            "northgate_refused_total",
            &[("reason", "request.method")],
            1.0,
        )
        .await;
    assert_eq!(origin.received().len(), 0);
}

#[tokio::test]
async fn a_scheme_that_is_not_of_the_web_is_refused_on_http2() {
    let (gateway, origin) = echo().await;
    let mut h2 = Http2::connect(gateway.public()).await;
    for scheme in ["ftp", "ws", "file", "httpss"] {
        let answer = h2.get(&format!("{scheme}://h.test/")).await;
        assert_eq!(answer.status(), 400, "{scheme}");
        assert_eq!(answer.json()["code"], "request.target", "{scheme}");
    }
    assert_eq!(origin.received().len(), 0);
    // TLS may end elsewhere, and a proxy in front keeps what it was asked for
    for scheme in ["http", "https", "HTTPS"] {
        let answer = h2.get(&format!("{scheme}://h.test/")).await;
        assert_eq!(answer.status(), 200, "{scheme}");
    }
}

/// Pieces of paths that somebody who wants past a prefix would try.
const PIECES: &[&str] = &[
    "private",
    "%70rivate",
    "PRIVATE",
    "priv",
    ".",
    "..",
    "%2e",
    "%2E%2e",
    "/",
    "//",
    "\\",
    "%2f",
    "%5c",
    ";x=1",
    "%00",
    "x",
    "%252e",
    "%252f",
    "%c0%af",
    "%",
    "a",
    "~",
    "%7e",
    "?",
    "..;",
    "%09",
];

/// All the paths that somebody down the line may take a target for: decoded once more or twice, with backslashes for
/// slashes, with parameters of dot segments ignored.
fn readings(target: &str) -> Vec<String> {
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let once = decoded(&path);
    let twice = decoded(&once);
    let mut found = Vec::new();
    for text in [path, once, twice] {
        for text in [text.replace('\\', "/"), text] {
            found.push(resolved(text.split('/')));
            found.push(resolved(text.split('/').map(
                |segment| match segment.split(';').next() {
                    Some(dots @ ("." | "..")) => dots,
                    _ => segment,
                },
            )));
        }
    }
    found
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}

fn resolved<'a>(segments: impl Iterator<Item = &'a str>) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in segments {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    kept.join("/")
}

#[tokio::test]
async fn no_spelling_of_a_protected_path_reaches_the_origin() {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    let origin = Origin::echo().await;
    let gateway = Gateway::before(
        &origin,
        r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
services: {app: {endpoints: "$app"}}
routes:
  open: {match: {path: /**}, service: app}
  private: {match: {path: /private/**}, respond: 403}
"#,
    )
    .await;
    let mut h2 = Http2::connect(gateway.public()).await;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let spelling = prop::collection::vec(prop::sample::select(PIECES), 1..7);
    for _ in 0..600 {
        let pieces = spelling
            .new_tree(&mut runner)
            .expect("a spelling")
            .current();
        for target in [
            format!("/{}", pieces.concat()),
            format!("/{}", pieces.join("/")),
        ] {
            let _ = gateway.call(&format!("GET {target}")).try_send().await;
            if target.parse::<http::Uri>().is_ok() {
                let _ = h2.try_get(&format!("http://h.test{target}")).await;
            }
        }
    }
    let received = origin.received();
    assert!(received.len() > 100, "only {} got through", received.len());
    for request in received {
        for reading in readings(request.target()) {
            let first = reading.split('/').next().unwrap_or_default();
            assert_ne!(
                first,
                "private",
                "{} can be read as {reading}",
                request.target()
            );
        }
    }
}
