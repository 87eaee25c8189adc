//! One canonical request (design 1.1; security-requirements 1, 4, 5): what is ambiguous is refused before an origin hears
//! of it, and what reaches the origin is what policies saw.

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
async fn the_origin_gets_the_canonical_path_and_the_query_as_sent() {
    let (gateway, origin) = echo().await;
    for (sent, got) in [
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/%2e%2E/b", "/b"),
        ("//a///b", "/a/b"),
        ("/%61%7eb", "/a~b"),
        ("/a%c3%a4", "/a%C3%A4"),
        ("/a/b/", "/a/b/"),
        ("/a/b/..", "/a/"),
        ("/x?q=%61&/../&%2f", "/x?q=%61&/../&%2f"),
        ("/a%20b", "/a%20b"),
        ("/a;v=1/b", "/a;v=1/b"),
    ] {
        let response = gateway.get(sent).await;
        assert_eq!(response.status(), 200, "{sent}");
        assert_eq!(origin.last().target(), got, "{sent}");
    }
}

#[tokio::test]
async fn an_ambiguous_path_is_refused_on_both_protocols() {
    let (gateway, origin) = echo().await;
    let mut h2 = Http2::connect(gateway.public()).await;
    for path in [
        "/a%2fb",
        "/a%5cb",
        "/a%00b",
        "/a%zz",
        "/a%2",
        "/..",
        "/a/../../b",
        "/%2e%2e",
        "/a%252fb",
        "/a%252e%252e/b",
        "/a/..;x=1/b",
        "/a/.;x/b",
        "/%c0%af",
        "/%c0%ae%c0%ae/",
    ] {
        let response = gateway.get(path).await;
        assert_eq!(response.status(), 400, "{path}");
        assert_eq!(response.problem(), "request.path", "{path}");
        let response = h2.get(&format!("http://h.test{path}")).await;
        assert_eq!(response.status(), 400, "{path} on HTTP/2");
    }
    assert!(origin.received().is_empty(), "{:#?}", origin.received());
}

#[tokio::test]
async fn a_malformed_head_is_refused_and_closes_the_connection() {
    let (gateway, origin) = echo().await;
    for (head, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded: 1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET @b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET http://b.test/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-maybe\r\n\r\n",
            417,
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", 400),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Authorization\r\n\r\n",
            400,
        ),
    ] {
        let mut client = gateway.client().await;
        client.send(head).await;
        let response = client.response("GET").await;
        assert_eq!(response.status(), status, "{head:?}");
        assert!(client.is_closed().await, "{head:?}");
    }
    assert!(origin.received().is_empty(), "{:#?}", origin.received());
}

#[tokio::test]
async fn ambiguous_framing_is_refused_and_what_follows_is_never_a_request() {
    let (gateway, origin) = echo().await;
    const HOST: &str = "POST / HTTP/1.1\r\nHost: a\r\n";
    const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: identity\r\n\r\n",
        "Transfer-Encoding:\r\n\r\n",
        "Content-Length: +5\r\n\r\nhello",
        "Content-Length: -1\r\n\r\n",
        "Content-Length: 5, 6\r\n\r\nhello",
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "Content-Length: 0x5\r\n\r\nhello",
        "Content-Length: 5 \u{b}\r\n\r\nhello",
        "Content-Length: 99999999999999999999\r\n\r\n",
    ] {
        let mut client = gateway.client().await;
        // the gateway may answer and close before it has taken all of it
        let _ = client.try_send(format!("{HOST}{fields}{SMUGGLED}")).await;
        let response = client.response("POST").await;
        assert!(
            matches!(response.status(), 400 | 501),
            "{fields:?}: {response:?}"
        );
        assert!(client.is_closed().await, "{fields:?}");
    }
    for version_1_0 in ["POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]
    {
        let mut client = gateway.client().await;
        client.send(version_1_0).await;
        assert_eq!(client.response("POST").await.status(), 400);
    }
    assert!(origin.received().is_empty(), "{:#?}", origin.received());
}

#[tokio::test]
async fn a_bad_chunk_never_completes_a_request_at_the_origin() {
    let origin = Origin::echo().await.lenient();
    let gateway = Gateway::before(&origin, ECHO).await;
    for body in [
        "\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-1\r\n\r\n",
        "zz\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "11111111111111111\r\nhello",
    ] {
        let mut client = gateway.client().await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = client.try_send(format!("{head}{body}")).await;
        if let Ok(response) = client.try_response("POST").await {
            assert_eq!(response.status(), 400, "{body:?}");
        }
        assert!(client.is_closed().await, "{body:?}");
    }
    assert!(
        origin.received().iter().all(|request| !request.complete),
        "{:#?}",
        origin.received()
    );
}

#[tokio::test]
async fn heads_have_bounds() {
    let (gateway, origin) = echo().await;
    let long = |count: usize| "a".repeat(count);
    let fields: String = (0..120).map(|n| format!("X-{n}: 1\r\n")).collect();
    for (head, status) in [
        (
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(9 * 1024)),
            414,
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
                long(17 * 1024)
            ),
            431,
        ),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), 431),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\nX: {0}\r\nY: {0}\r\nZ: {0}\r\n\r\n",
                long(15 * 1024)
            ),
            431,
        ),
        (format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", long(40)), 400),
    ] {
        let mut client = gateway.client().await;
        let _ = client.try_send(&head).await;
        assert_eq!(
            client.response("GET").await.status(),
            status,
            "{}…",
            &head[..40]
        );
    }
    assert!(origin.received().is_empty());
    let fits = format!(
        "GET /{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        long(8000)
    );
    let mut client = gateway.client().await;
    client.send(fits).await;
    assert_eq!(client.response("GET").await.status(), 200);
}

#[tokio::test]
async fn connect_and_trace_are_not_served() {
    let (gateway, origin) = echo().await;
    for request in [
        "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut client = gateway.client().await;
        client.send(request).await;
        assert_eq!(client.response("GET").await.status(), 405, "{request:?}");
    }
    assert!(origin.received().is_empty());
}

#[tokio::test]
async fn an_absolute_target_is_sent_on_in_origin_form() {
    let (gateway, origin) = echo().await;
    let mut client = gateway.client().await;
    client
        .send("GET http://a.test/x?y HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .await;
    assert_eq!(client.response("GET").await.status(), 200);
    assert_eq!(origin.only().target(), "/x?y");
    assert_eq!(origin.only().header("host"), Some("a.test"));
}

#[tokio::test]
async fn forwarding_fields_of_an_untrusted_client_are_replaced() {
    let (gateway, origin) = echo().await;
    gateway
        .call("GET /")
        .header("X-Forwarded-For", "192.0.2.1")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "evil.test")
        .header("X-Forwarded-Prefix", "/evil")
        .header("X_Forwarded_For", "192.0.2.2")
        .header("Forwarded", "for=192.0.2.1")
        .header("X-Real-IP", "192.0.2.1")
        .header("True-Client-IP", "192.0.2.1")
        .header("CF-Connecting-IP", "192.0.2.1")
        .header("X-Client-IP", "192.0.2.1")
        .header("X-Original-URL", "/admin")
        .header("X-Rewrite-URL", "/admin")
        .header("X-HTTP-Method-Override", "DELETE")
        .header("X-Request-Id", "mine")
        .header("X-Consumer-Id", "root")
        .send()
        .await;
    let got = origin.only();
    assert_eq!(got.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(got.header("x-forwarded-proto"), Some("http"));
    assert_eq!(got.header("x-forwarded-host"), Some("example.test"));
    assert_eq!(
        got.header("x-forwarded-port"),
        Some("80"),
        "as the client sees it"
    );
    for gone in [
        "x-forwarded-prefix",
        "x_forwarded_for",
        "forwarded",
        "x-real-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "x-client-ip",
        "x-original-url",
        "x-rewrite-url",
        "x-http-method-override",
        "x-consumer-id",
    ] {
        assert_eq!(got.header(gone), None, "{gone}");
    }
    assert_ne!(got.header("x-request-id"), Some("mine"));
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
async fn hop_by_hop_fields_and_those_they_nominate_stay_here() {
    let (gateway, origin) = echo().await;
    let mut client = gateway.client().await;
    client
        .send(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n\
             Proxy-Connection: keep-alive\r\nProxy: x\r\nTE: gzip\r\nUpgrade: h2c\r\nTrailer: x\r\nX-Kept: 1\r\n\r\n",
        )
        .await;
    assert_eq!(client.response("GET").await.status(), 200);
    let got = origin.only();
    for gone in [
        "x-mine",
        "keep-alive",
        "proxy-connection",
        "proxy",
        "te",
        "upgrade",
    ] {
        assert_eq!(got.header(gone), None, "{gone}");
    }
    assert!(
        got.header("connection")
            .is_none_or(|value| !value.contains("X-Mine"))
    );
    assert_eq!(got.header("x-kept"), Some("1"));
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

#[tokio::test]
async fn cookie_crumbs_of_http2_are_one_field_for_the_origin() {
    let (gateway, origin) = echo().await;
    let mut h2 = Http2::connect(gateway.public()).await;
    let fields = [("cookie", "a=1"), ("cookie", "b=2")];
    let ending = crate::harness::Ending::OnLast;
    let response = h2
        .call("GET", "http://h.test/", &fields, b"", ending)
        .await
        .expect("a response");
    assert_eq!(response.status(), 200);
    assert_eq!(origin.only().header("cookie"), Some("a=1; b=2"));
    assert_eq!(origin.only().header("host"), Some("h.test"));
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

/// What HTTP/1 trims before anybody sees it, HTTP/2 hands over: a value that policies read differently than the origin.
#[tokio::test]
async fn a_value_with_blanks_at_its_ends_is_refused_on_http2() {
    let (gateway, origin) = echo().await;
    let mut h2 = Http2::connect(gateway.public()).await;
    let ending = crate::harness::Ending::OnLast;
    for value in [" evil", "evil ", "\tevil", "evil\t", " "] {
        let fields = [("x-role", value)];
        let answer = h2.call("GET", "http://h.test/", &fields, b"", ending);
        let answer = answer.await.expect("a response");
        assert_eq!(answer.status(), 400, "{value:?}");
        assert_eq!(answer.json()["code"], "request.header", "{value:?}");
    }
    assert_eq!(origin.received().len(), 0);
    let fields = [("x-role", ""), ("x-list", "a, b")];
    let answer = h2.call("GET", "http://h.test/", &fields, b"", ending);
    assert_eq!(answer.await.expect("a response").status(), 200);
}

#[tokio::test]
async fn a_repeated_length_is_refused_on_http2_even_where_it_says_the_same() {
    let (gateway, origin) = echo().await;
    let mut h2 = Http2::connect(gateway.public()).await;
    let ending = crate::harness::Ending::OnLast;
    let fields = [("content-length", "5"), ("content-length", "5")];
    let answer = h2.call("POST", "http://h.test/", &fields, b"hello", ending);
    let answer = answer.await.expect("a response");
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.json()["code"], "request.framing");
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
