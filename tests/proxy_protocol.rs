//! The PROXY protocol from proxies in front (HAProxy's proxy-protocol.txt): who its client is, before TLS and HTTP.

use crate::harness::{
    Client, Gateway, GatewayBuilder, Http2, Message, Origin, Pki, Program, eventually, tcp, within,
};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

const FAILURES: &str = "northgate_proxy_protocol_failures_total";

/// Whoever comes from this network is a proxy.
const GATEWAY: &str = r#"
trusted_proxies: [$proxies, unix]
access_log: {path: "-", fields: {add: [peer, proxy]}}
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c], proxy_protocol: on, limits: {head: $head}}
  secure: {address: "$address:8443", tls: {}, proxy_protocol: on}
  local: {address: "unix:$dir/public.sock", proxy_protocol: on}
  plain: {address: "$address:8081"}
  redirects: {address: "$address:8082", redirect: https, proxy_protocol: on}
certificates: {site: {cert: "$dir/site.pem", key: "$dir/site.key"}}
services: {app: {endpoints: "$app"}}
routes:
  all: {match: {path: /**}, service: app}
  office: {match: {path: /office}, service: app, policies: {ip_filter: {allow: 192.0.2.0/24}}}
  seldom: {match: {path: /seldom}, service: app, policies: {rate_limit: {limit: 1/1h, by: client_address}}}
"#;

fn building(origin: &Origin, pki: &Pki) -> GatewayBuilder {
    Gateway::builder(GATEWAY)
        .with("app", origin)
        .with("proxies", "127.0.0.0/8")
        .with("head", "10s")
        .identity("site", &pki.server(&["site.test"]))
}

async fn gateway(origin: &Origin) -> Gateway {
    building(origin, &Pki::new()).start().await
}

/// A header of version 2 with these bytes behind its fixed part.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("a length").to_be_bytes();
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    [&signature[..], &[command, family], &length, rest].concat()
}

/// The client 192.0.2.7:4000, to 198.51.100.1:443.
const TCP4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x0f, 0xa0, 0x01, 0xbb];
const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\n";

/// A connection that begins with these bytes.
async fn introduced(address: SocketAddr, header: impl AsRef<[u8]>) -> Client {
    let mut client = Client::connect(address).await;
    client.send(header).await;
    client
}

/// What the origin was told of the client.
fn forwarded_for(origin: &Origin) -> String {
    let last = origin.last();
    last.header("x-forwarded-for")
        .unwrap_or_default()
        .to_owned()
}

/// The last line of the access log that is about this path.
async fn logged(gateway: &Gateway, path: &str) -> Value {
    eventually("a line in the access log", async || {
        let lines = gateway.stdout();
        let lines = lines.lines().rev();
        let mut lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["path"] == path)
    })
    .await
}

#[tokio::test]
async fn the_client_is_the_one_that_a_trusted_proxy_names() {
    let origin = Origin::echo().await;
    let gateway = gateway(&origin).await;
    let mut v6 = [0; 36];
    v6[..16].copy_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    v6[31] = 1;
    v6[32..].copy_from_slice(&[0x0f, 0xa0, 0x01, 0xbb]);
    let facts = [
        &TCP4[..],
        &[0x02, 0, 6],
        b"h.test",
        &[0x04, 0, 0],
        &[0xe3, 0, 1, 9],
    ]
    .concat();
    let us = gateway.public().ip().to_string();
    for (number, (header, client, peer)) in [
        (
            LINE.as_bytes().to_vec(),
            "192.0.2.7",
            Some("192.0.2.7:4000"),
        ),
        (
            b"PROXY TCP6 2001:db8::7 ::1 4000 443\r\n".to_vec(),
            "2001:db8::7",
            Some("[2001:db8::7]:4000"),
        ),
        (
            b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4000 443\r\n".to_vec(),
            "192.0.2.7",
            Some("192.0.2.7:4000"),
        ),
        (v2(0x21, 0x11, &TCP4), "192.0.2.7", Some("192.0.2.7:4000")),
        (v2(0x21, 0x11, &facts), "192.0.2.7", Some("192.0.2.7:4000")),
        (
            v2(0x21, 0x21, &v6),
            "2001:db8::7",
            Some("[2001:db8::7]:4000"),
        ),
        // nobody is named: it stays the proxy
        (b"PROXY UNKNOWN\r\n".to_vec(), &us, None),
        (b"PROXY UNKNOWN 192.0.2.7 x y z\r\n".to_vec(), &us, None),
        (v2(0x20, 0x00, &[]), &us, None),
        (v2(0x20, 0x11, &TCP4), &us, None),
        (v2(0x21, 0x00, &[7; 9]), &us, None),
        (v2(0x21, 0x12, &TCP4), &us, None),
        (v2(0x21, 0x31, &[b'/'; 216]), &us, None),
    ]
    .into_iter()
    .enumerate()
    {
        let source = SocketAddr::new(gateway.public().ip(), 0);
        let stream = tcp(gateway.public(), Some(source))
            .await
            .expect("a connection");
        let proxy = stream.local_addr().expect("an address").to_string();
        let mut connection = Client::over(stream);
        connection.send(&header).await;
        let path = format!("/{number}");
        for _ in 0..2 {
            let answer = connection.get("h.test", &path).await;
            assert_eq!(answer.status(), 200, "{header:02x?}");
            assert_eq!(forwarded_for(&origin), client, "{header:02x?}");
        }
        let line = logged(&gateway, &path).await;
        assert_eq!(line["client_address"], client, "{header:02x?}");
        assert_eq!(line["peer"], peer.unwrap_or(&proxy), "{header:02x?}");
        assert_eq!(line["proxy"], proxy, "{header:02x?}");
    }
    // elsewhere nothing changes
    let answer = Client::connect(gateway.port(8081))
        .await
        .get("h.test", "/plain")
        .await;
    assert_eq!(answer.status(), 200);
    assert_eq!(logged(&gateway, "/plain").await.get("proxy"), None);
    assert_eq!(gateway.metrics().await.value(FAILURES, &[]), 0.0);
}

#[tokio::test]
async fn a_header_may_come_in_any_pieces_and_with_what_follows_it() {
    let origin = Origin::echo().await;
    let gateway = gateway(&origin).await;
    // more facts than fit into one look at the socket
    let facts = [&TCP4[..], &[0xe0, 0x08, 0x00], &[7; 0x800]].concat();
    for header in [
        LINE.as_bytes().to_vec(),
        v2(0x21, 0x11, &TCP4),
        v2(0x21, 0x11, &facts),
    ] {
        for (path, request) in [
            (
                "/1",
                "GET /1 HTTP/1.1\r\nHost: h.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: h.test\r\n\r\n",
            ),
            ("/2", ""),
        ] {
            let mut client = Client::connect(gateway.public()).await;
            let bytes = [&header[..], request.as_bytes()].concat();
            let size = if bytes.len() > 1000 { 97 } else { 1 };
            match request {
                // in pieces, each in a segment of its own
                "" => {
                    for piece in bytes.chunks(size) {
                        client.send(piece).await;
                        tokio::task::yield_now().await;
                    }
                    assert_eq!(client.get("h.test", path).await.status(), 200);
                }
                // in one, with two requests
                _ => {
                    client.send(&bytes).await;
                    assert_eq!(client.response("GET").await.json()["target"], "/1");
                    assert_eq!(client.response("GET").await.json()["target"], "/2");
                }
            }
            assert_eq!(forwarded_for(&origin), "192.0.2.7");
        }
    }
    assert_eq!(gateway.metrics().await.value(FAILURES, &[]), 0.0);
}

async fn secured(
    stream: TcpStream,
    pki: &Pki,
    protocol: &str,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let connector = TlsConnector::from(pki.client(&[protocol]));
    let name = "site.test".try_into().expect("a name");
    within("a TLS handshake", connector.connect(name, stream))
        .await
        .expect("TLS")
}

#[tokio::test]
async fn it_stands_before_tls_and_before_both_versions_of_http() {
    let origin = Origin::echo().await;
    let pki = Pki::new();
    let gateway = building(&origin, &pki).start().await;
    for header in [LINE.as_bytes().to_vec(), v2(0x21, 0x11, &TCP4)] {
        let connect = async |port: u16| {
            let mut stream = tcp(gateway.port(port), None).await.expect("a connection");
            stream.write_all(&header).await.expect("sent");
            stream
        };
        let mut clear = Http2::over(connect(8080).await).await;
        assert_eq!(clear.get("http://h.test/clear").await.status(), 200);
        assert_eq!(forwarded_for(&origin), "192.0.2.7");
        let mut one = Client::over(secured(connect(8443).await, &pki, "http/1.1").await);
        assert_eq!(one.get("site.test", "/one").await.status(), 200);
        assert_eq!(forwarded_for(&origin), "192.0.2.7");
        let mut two = Http2::over(secured(connect(8443).await, &pki, "h2").await).await;
        assert_eq!(two.get("https://site.test/two").await.status(), 200);
        assert_eq!(forwarded_for(&origin), "192.0.2.7");
        let line = logged(&gateway, "/two").await;
        assert_eq!(
            (&line["peer"], &line["protocol"]),
            (&"192.0.2.7:4000".into(), &"HTTP/2.0".into())
        );
    }
    // a handshake that is not introduced is none
    let stream = tcp(gateway.port(8443), None).await.expect("a connection");
    let connector = TlsConnector::from(pki.client(&["h2"]));
    let name = "site.test".try_into().expect("a name");
    assert!(
        within("an end", connector.connect(name, stream))
            .await
            .is_err()
    );
    gateway
        .counts(FAILURES, &[("reason", "missing")], 1.0)
        .await;
    assert_eq!(
        gateway
            .metrics()
            .await
            .value("northgate_tls_handshake_failures_total", &[]),
        0.0
    );
}

#[tokio::test]
async fn whoever_comes_by_a_unix_socket_may_be_introduced_too() {
    let origin = Origin::echo().await;
    let gateway = gateway(&origin).await;
    let path = gateway.dir().join("public.sock");
    for header in [LINE.as_bytes().to_vec(), v2(0x21, 0x11, &TCP4)] {
        let mut stream = UnixStream::connect(&path).await.expect("a connection");
        for byte in &header {
            stream.write_all(&[*byte]).await.expect("sent");
        }
        let mut client = Client::over(stream);
        assert_eq!(client.get("h.test", "/unix").await.status(), 200);
        assert_eq!(forwarded_for(&origin), "192.0.2.7");
    }
    let line = logged(&gateway, "/unix").await;
    assert_eq!(
        (&line["peer"], &line["proxy"]),
        (&"192.0.2.7:4000".into(), &"unix".into())
    );
}

#[tokio::test]
async fn what_is_no_header_ends_the_connection_and_is_counted() {
    let origin = Origin::echo().await;
    let gateway = building(&origin, &Pki::new())
        .with("head", "300ms")
        .start()
        .await;
    let long = format!("PROXY UNKNOWN {}", "x".repeat(107));
    let too_long = v2(0x21, 0x11, &vec![0; 4097]);
    let unchecked = [&TCP4[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat();
    let cases: [(&str, &[u8]); 15] = [
        ("missing", b"GET / HTTP/1.1\r\nHost: h.test\r\n\r\n"),
        ("missing", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("missing", b"\x16\x03\x01\x02\x00"),
        ("missing", b"\r\n\r\nPROXY UNKNOWN\r\n"),
        ("malformed", b"PROXY TCP4 192.0.2.7 198.51.100.1 4000\r\n"),
        (
            "malformed",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\nGET / HTTP/1.1\r\n",
        ),
        (
            "malformed",
            b"PROXY TCP4 192.0.2.300 198.51.100.1 4000 443\r\n",
        ),
        (
            "malformed",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 04000 443\r\n",
        ),
        ("malformed", &v2(0x11, 0x11, &TCP4)),
        ("malformed", &v2(0x21, 0x11, &TCP4[..11])),
        (
            "malformed",
            &v2(0x21, 0x11, &[&TCP4[..], &[1, 0, 9]].concat()),
        ),
        ("too_long", long.as_bytes()),
        ("too_long", &too_long[..16]),
        ("checksum", &v2(0x21, 0x11, &unchecked)),
        ("timeout", b"PROXY TCP4 192."),
    ];
    for (at, (reason, bytes)) in cases.iter().enumerate() {
        let before = cases[..at]
            .iter()
            .filter(|(other, _)| other == reason)
            .count() as f64;
        let mut client = Client::connect(gateway.public()).await;
        client.send(bytes).await;
        assert!(client.is_closed().await, "{bytes:02x?}");
        gateway
            .counts(FAILURES, &[("reason", reason)], before + 1.0)
            .await;
    }
    // in time is before the end of it, however it trickles
    let mut drip = tcp(gateway.public(), None).await.expect("a connection");
    let dripping = async {
        let line = b"PROXY UNKNOWN ".iter().chain(std::iter::repeat(&b'x'));
        for byte in line.take(80) {
            if drip.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("nobody ended it");
    };
    within("an end", dripping).await;
    gateway
        .counts(FAILURES, &[("reason", "timeout")], 2.0)
        .await;
    // within a header the end is one more of them
    let mut client = introduced(gateway.public(), "PROXY TCP4").await;
    client.finish().await;
    gateway.counts(FAILURES, &[("reason", "closed")], 1.0).await;
    gateway.logs("no header of the PROXY protocol").await;
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value(FAILURES, &[]), cases.len() as f64 + 2.0);
    assert_eq!(
        metrics.value("northgate_connections", &[("listener", "public")]),
        0.0
    );
    assert!(origin.received().is_empty());
}

#[tokio::test]
async fn a_peer_that_is_no_trusted_proxy_is_not_listened_to() {
    let origin = Origin::echo().await;
    let proxy = Ipv4Addr::new(127, 0, 0, 2);
    let builder = building(&origin, &Pki::new());
    let gateway = builder.with("proxies", format!("{proxy}/32")).start().await;
    for header in [LINE.as_bytes().to_vec(), v2(0x20, 0, &[]), Vec::new()] {
        let mut client = introduced(gateway.public(), &header).await;
        assert!(client.is_closed().await);
    }
    gateway
        .counts(FAILURES, &[("reason", "untrusted")], 3.0)
        .await;
    let trusted = Client::connect_from((proxy, 0).into(), gateway.public());
    let mut trusted = trusted.await;
    trusted.send(LINE).await;
    assert_eq!(trusted.get("h.test", "/").await.status(), 200);
    assert_eq!(forwarded_for(&origin), "192.0.2.7");
    assert_eq!(origin.received().len(), 1);
}

#[tokio::test]
async fn balancers_that_look_whether_somebody_listens_disturb_nobody() {
    let origin = Origin::echo().await;
    let gateway = gateway(&origin).await;
    for header in ["", "", "PROXY UNKNOWN\r\n", LINE] {
        let mut client = introduced(gateway.public(), header).await;
        client.finish().await;
        assert!(client.is_closed().await);
        // and with a reset
        introduced(gateway.public(), header).await.reset();
    }
    eventually("the end of all", async || {
        let metrics = gateway.metrics().await;
        let open = metrics.value("northgate_connections", &[("listener", "public")]);
        (open == 0.0).then_some(())
    })
    .await;
    assert_eq!(gateway.metrics().await.value(FAILURES, &[]), 0.0);
    assert!(!gateway.stderr().contains("PROXY"), "{}", gateway.stderr());
}

#[tokio::test]
async fn policies_and_bounds_are_about_the_client_that_is_named() {
    let origin = Origin::echo().await;
    let gateway = gateway(&origin).await;
    let ask = async |client: &str, target: &str| {
        let header = format!("PROXY TCP4 {client} 198.51.100.1 4000 443\r\n");
        let mut connection = introduced(gateway.public(), header).await;
        connection.get("h.test", target).await.status()
    };
    assert_eq!(ask("192.0.2.7", "/office").await, 200);
    assert_eq!(ask("203.0.113.7", "/office").await, 403);
    assert_eq!(ask("192.0.2.7", "/seldom").await, 200);
    assert_eq!(ask("192.0.2.7", "/seldom").await, 429);
    assert_eq!(ask("192.0.2.8", "/seldom").await, 200);
}

/// Sends one request with `X-Forwarded-For: 203.0.113.9`.
async fn forging(client: &mut Client) -> Message {
    let request = "GET / HTTP/1.1\r\nHost: h.test\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n";
    client.send(request).await;
    client.response("GET").await
}

#[tokio::test]
async fn forwarding_headers_are_believed_of_a_named_client_that_is_trusted_itself() {
    let origin = Origin::echo().await;
    let gateway = gateway(&origin).await;
    for (header, expected) in [
        // anybody
        (LINE.as_bytes().to_vec(), "192.0.2.7"),
        // another proxy of ours, behind the balancer
        (
            b"PROXY TCP4 127.0.0.9 198.51.100.1 4000 443\r\n".to_vec(),
            "203.0.113.9, 127.0.0.9",
        ),
        // nobody who is named: whoever is behind the balancer does not speak for it
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x20, 0, &[]), "127.0.0.1"),
    ] {
        let mut client = introduced(gateway.public(), &header).await;
        assert_eq!(forging(&mut client).await.status(), 200);
        assert_eq!(forwarded_for(&origin), expected, "{header:02x?}");
    }
}

#[tokio::test]
async fn connections_are_bounded_by_the_address_that_is_named() {
    let origin = Origin::echo().await;
    let yaml = GATEWAY.replace(
        "limits: {head: $head}",
        "limits: {connections_per_address: 2}",
    );
    let gateway = Gateway::builder(&yaml)
        .with("app", &origin)
        .with("proxies", "127.0.0.0/8")
        .identity("site", &Pki::new().server(&["site.test"]))
        .start()
        .await;
    let connect = async |client: &str| {
        let header = format!("PROXY TCP4 {client} 198.51.100.1 4000 443\r\n");
        introduced(gateway.public(), header).await
    };
    let mut held = Vec::new();
    for client in ["192.0.2.7", "192.0.2.7", "192.0.2.8"] {
        let mut connection = connect(client).await;
        assert_eq!(connection.get("h.test", "/").await.status(), 200);
        held.push(connection);
    }
    assert!(connect("192.0.2.7").await.is_closed().await);
    let labels = [("listener", "public"), ("reason", "address")];
    gateway
        .counts("northgate_connections_turned_away_total", &labels, 1.0)
        .await;
    // the place of one that ends is free again
    held.remove(0);
    eventually("a place", async || {
        let mut next = connect("192.0.2.7").await;
        next.try_get("h.test", "/").await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_redirect_to_tls_goes_where_the_balancer_has_it() {
    let origin = Origin::echo().await;
    let gateway = gateway(&origin).await;
    for (host, expected) in [
        // the balancer maps ports: its TLS is at the usual one
        ("h.test", "https://h.test/x"),
        // it does not: ours is its
        ("h.test:8082", "https://h.test:8443/x"),
    ] {
        let mut client = introduced(gateway.port(8082), LINE).await;
        let answer = client.get(host, "/x").await;
        assert_eq!(
            (answer.status(), answer.header("location")),
            (308, Some(expected))
        );
    }
}

#[tokio::test]
async fn endpoints_are_told_the_whole_of_it() {
    let told = Arc::new(parking_lot::Mutex::new(String::new()));
    let listener = tokio::net::TcpListener::bind((crate::harness::loopback(), 0))
        .await
        .expect("a listener");
    let address = listener.local_addr().expect("an address");
    let kept = told.clone();
    tokio::spawn(async move {
        use tokio::io::{AsyncBufReadExt, BufReader};
        let (socket, _) = listener.accept().await.expect("a connection");
        let mut reader = BufReader::new(socket);
        let mut line = String::new();
        reader.read_line(&mut line).await.expect("a line");
        *kept.lock() = line;
        reader
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .expect("sent");
    });
    let yaml = r#"
trusted_proxies: 127.0.0.0/8
listeners: {public: {address: "$address:8080", proxy_protocol: on}}
services: {app: {endpoints: "$app", proxy_protocol: v1}}
routes: {all: {match: {path: /**}, service: app}}
"#;
    let gateway = Gateway::before(&address, yaml).await;
    let mut client = introduced(gateway.public(), v2(0x21, 0x11, &TCP4)).await;
    assert_eq!(client.get("h.test", "/").await.status(), 204);
    assert_eq!(*told.lock(), LINE);
}

#[tokio::test]
async fn a_reload_changes_it_for_new_connections() {
    let origin = Origin::echo().await;
    let mut gateway = gateway(&origin).await;
    let mut before = introduced(gateway.public(), LINE).await;
    assert_eq!(before.get("h.test", "/").await.status(), 200);
    gateway.set("app", &origin);
    gateway
        .reload_to(&GATEWAY.replace("proxy_protocol: on", "proxy_protocol: off"))
        .await;
    assert_eq!(before.get("h.test", "/").await.status(), 200);
    assert_eq!(forwarded_for(&origin), "192.0.2.7");
    assert_eq!(gateway.get("/").await.status(), 200);
    assert_eq!(
        introduced(gateway.public(), LINE)
            .await
            .response("GET")
            .await
            .status(),
        400
    );
}

/// Proxies of other makes, which nobody of us wrote.
mod others {
    use super::*;

    #[tokio::test]
    async fn curl_is_taken() {
        let origin = Origin::echo().await;
        let pki = Pki::new();
        let gateway = building(&origin, &pki)
            .file("ca.pem", &pki.pem())
            .start()
            .await;
        let clear = format!("http://{}/clear", gateway.public());
        let resolve = format!("site.test:8443:{}", gateway.public().ip());
        for arguments in [
            vec!["--http1.1", &clear],
            vec!["--http2-prior-knowledge", &clear],
            vec![
                "--http2",
                "--cacert",
                "ca.pem",
                "--resolve",
                &resolve,
                "https://site.test:8443/tls",
            ],
        ] {
            let mut command = Command::new("curl");
            command.args([
                "-sS",
                "-m",
                "30",
                "-o",
                "/dev/null",
                "-w",
                "%{response_code}",
            ]);
            command
                .args(["--haproxy-protocol"])
                .args(&arguments)
                .current_dir(gateway.dir());
            let running = tokio::task::spawn_blocking(move || command.output());
            let output = running.await.expect("no panic").expect("curl");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "200", "{output:?}");
            let path = arguments
                .last()
                .expect("a URL")
                .rsplit('/')
                .next()
                .expect("a path");
            let line = logged(&gateway, &format!("/{path}")).await;
            assert_eq!(line["peer"], line["proxy"], "it introduces itself: {line}");
        }
        assert_eq!(gateway.metrics().await.value(FAILURES, &[]), 0.0);
    }

    #[tokio::test]
    async fn haproxy_is_taken_in_both_versions_with_its_checks() {
        let origin = Origin::echo().await;
        let builder = building(&origin, &Pki::new());
        let configuration = format!(
            r#"
global
  log stderr local0 emerg
defaults
  mode tcp
  timeout connect 10s
  timeout client 30s
  timeout server 30s
frontend one
  bind {address}:9001
  use_backend one
frontend two
  bind {address}:9002
  use_backend two
frontend full
  bind {address}:9003
  use_backend full
backend one
  server one {address}:8080 send-proxy check inter 100ms
backend two
  server two {address}:8080 send-proxy-v2 check inter 100ms
backend full
  server full {address}:8080 send-proxy-v2 proxy-v2-options crc32c,unique-id,authority check inter 100ms
  unique-id-format %[uuid()]
"#,
            address = builder.address()
        );
        let gateway = builder.file("haproxy.cfg", &configuration).start().await;
        let file = gateway.dir().join("haproxy.cfg").display().to_string();
        let _haproxy = Program::command("haproxy", &["-db", "-f", &file]);
        for port in [9001, 9002, 9003] {
            let source = crate::harness::loopback();
            let answer = eventually("haproxy", async || {
                let stream = tcp(gateway.port(port), Some((source, 0).into()))
                    .await
                    .ok()?;
                Client::over(stream)
                    .try_get("h.test", &format!("/{port}"))
                    .await
                    .ok()
            })
            .await;
            assert_eq!(answer.status(), 200);
            assert_eq!(forwarded_for(&origin), source.to_string());
        }
        let metrics = gateway.metrics().await;
        assert_eq!(metrics.value(FAILURES, &[]), 0.0);
        assert!(!gateway.stderr().contains("PROXY"), "{}", gateway.stderr());
    }

    #[tokio::test]
    async fn another_northgate_is_taken_in_both_versions() {
        let origin = Origin::echo().await;
        let inner = gateway(&origin).await;
        for version in ["v1", "v2"] {
            let yaml = r#"
via: off
services: {app: {endpoints: "$app", proxy_protocol: $version}}
routes: {all: {match: {path: /**}, service: app}}
"#;
            let outer = Gateway::builder(yaml)
                .with("app", inner.public())
                .with("version", version)
                .start()
                .await;
            let source = crate::harness::loopback();
            let mut client = Client::connect_from((source, 0).into(), outer.public()).await;
            let path = format!("/{version}");
            assert_eq!(client.get("h.test", &path).await.status(), 200);
            assert_eq!(
                logged(&inner, &path).await["client_address"],
                source.to_string()
            );
        }
        assert_eq!(inner.metrics().await.value(FAILURES, &[]), 0.0);
    }
}
