//! Answers that are compressed on their way: what is, for whom, and that nobody gets half of one for a whole.

use crate::harness::{Client, Ending, Gate, Gateway, Http2, Message, Origin, Received, Reply};
use std::fmt::Write as _;
use std::io::Read;

const GATEWAY: &str = r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
services: {app: {endpoints: "$app", timeouts: {response_header: 5s, idle: 5s}}}
policies: {compress: on}
routes:
  all: {match: {path: /**}, service: app}
  off: {match: {path: /off}, service: app, policies: {compress: off}}
  own: {match: {path: /own}, respond: {body: "$long"}}
"#;

/// Text that is worth it: 20 KiB that are not all alike.
fn long() -> String {
    let mut text = String::new();
    for n in 0..1000 {
        let _ = write!(text, "line {n} of {}; ", n * n);
    }
    text
}

async fn before(script: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> (Gateway, Origin) {
    let origin = Origin::start(script).await;
    let builder = Gateway::builder(GATEWAY).with("app", &origin);
    let gateway = builder.with("long", long()).start().await;
    (gateway, origin)
}

/// Answers by what is asked for: `/text`, or the media type behind `/type/`.
fn site(request: &Received) -> Reply {
    let body = long();
    let plain = ("Content-Type", "text/plain");
    let fields: &[(&str, &str)] = match request.target() {
        "/text" | "/off" => &[plain, ("ETag", "\"v1\""), ("Accept-Ranges", "bytes")],
        "/small" => return Reply::status(200, &[plain], "small"),
        "/chunked" => return Reply::chunked(&[plain], &[&body[..7000], &body[7000..]]),
        "/empty" => return Reply::chunked(&[plain], &[]),
        "/nothing" => return Reply::status(200, &[plain], ""),
        "/image" => &[("Content-Type", "image/png")],
        "/untyped" => &[],
        "/encoded" => &[plain, ("Content-Encoding", "br")],
        "/grpc" => &[("Content-Type", "application/grpc+json")],
        "/kept" => &[plain, ("Cache-Control", "public, no-transform")],
        "/digest" => &[plain, ("Content-Digest", "sha-256=:eA==:")],
        "/varies" => &[plain, ("Vary", "origin, ACCEPT-encoding")],
        "/vast" => &[plain, ("Vary", "*")],
        "/part" => {
            return Reply::status(
                206,
                &[plain, ("Content-Range", "bytes 0-20000/30000")],
                &body,
            );
        }
        "/broken" => return Reply::status(500, &[plain], &body),
        "/same" => {
            return Reply::raw("HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n");
        }
        _ => &[plain],
    };
    if request.method() == "HEAD" {
        let mut head = "HTTP/1.1 200 OK\r\n".to_owned();
        for (name, value) in fields {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "Content-Length: {}\r\n\r\n", body.len());
        return Reply::raw(head);
    }
    Reply::status(200, fields, body)
}

fn decode(encoding: &str, bytes: &[u8]) -> std::io::Result<String> {
    let mut text = String::new();
    match encoding {
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_string(&mut text)?,
        "br" => brotli::Decompressor::new(bytes, 4096).read_to_string(&mut text)?,
        "zstd" => zstd::stream::read::Decoder::new(bytes)?.read_to_string(&mut text)?,
        other => panic!("{other} is no encoding"),
    };
    Ok(text)
}

fn vary(message: &Message) -> String {
    message.headers("vary").join(", ").to_ascii_lowercase()
}

#[tokio::test]
async fn each_encoding_is_what_the_client_decodes_to_what_the_origin_sent() {
    let (gateway, origin) = before(site).await;
    for encoding in ["gzip", "br", "zstd"] {
        for target in ["/text", "/chunked", "/broken"] {
            let call = gateway.call(&format!("GET {target}"));
            let answer = call.header("Accept-Encoding", encoding).send().await;
            assert_eq!(
                answer.header("content-encoding"),
                Some(encoding),
                "{target}"
            );
            assert_eq!(answer.header("content-length"), None);
            assert!(answer.chunked && answer.complete);
            assert_eq!(vary(&answer), "accept-encoding");
            assert_eq!(
                decode(encoding, &answer.body).expect("a whole body"),
                long()
            );
            assert!(answer.body.len() * 2 < long().len());
        }
        let tagged = gateway
            .call("GET /text")
            .header("Accept-Encoding", encoding)
            .send()
            .await;
        assert_eq!(tagged.header("etag"), Some("W/\"v1\""));
        assert_eq!(tagged.header("accept-ranges"), None);
        // what the client takes is for the origin to know too
        assert_eq!(origin.last().header("accept-encoding"), Some(encoding));
    }
    let labels = [("policy", "top/compress")];
    let metrics = gateway
        .counts(
            "northgate_compress_in_bytes_total",
            &labels,
            12.0 * long().len() as f64,
        )
        .await;
    let (taken, given) = (
        metrics.value("northgate_compress_in_bytes_total", &labels),
        metrics.value("northgate_compress_out_bytes_total", &labels),
    );
    assert!(given > 0.0 && given * 2.0 < taken, "{given} of {taken}");
}

#[tokio::test]
async fn weights_decide_and_zero_refuses() {
    let (gateway, _origin) = before(site).await;
    for (accepted, encoding) in [
        ("gzip, deflate, br, zstd", Some("br")),
        ("gzip;q=1, br;q=0.5", Some("gzip")),
        ("gzip;q=0, zstd", Some("zstd")),
        ("gzip;q=0", None),
        ("gzip;q=0.3, identity;q=0.9", None),
        ("identity;q=0, gzip;q=0.1", Some("gzip")),
        ("*", Some("br")),
        ("br;q=0, *;q=0.1", Some("zstd")),
        ("deflate", None),
        ("", None),
    ] {
        let answer = gateway
            .call("GET /text")
            .header("Accept-Encoding", accepted)
            .send()
            .await;
        assert_eq!(answer.header("content-encoding"), encoding, "{accepted}");
        // plain or not, another client might get another answer
        assert_eq!(vary(&answer), "accept-encoding", "{accepted}");
        if encoding.is_none() {
            assert_eq!(answer.text(), long());
            assert_eq!(answer.header("etag"), Some("\"v1\""));
            assert_eq!(
                answer.header("content-length"),
                Some(long().len().to_string().as_str())
            );
        }
    }
    let silent = gateway.get("/text").await;
    assert_eq!(silent.header("content-encoding"), None);
    assert_eq!(vary(&silent), "accept-encoding");
}

#[tokio::test]
async fn what_is_left_alone_is_left_as_it_is() {
    let (gateway, _origin) = before(site).await;
    for target in [
        "/off", "/small", "/nothing", "/image", "/untyped", "/encoded", "/grpc", "/kept",
        "/digest", "/part", "/own",
    ] {
        let call = gateway.call(&format!("GET {target}"));
        let answer = call.header("Accept-Encoding", "gzip, br").send().await;
        let encoded = (target == "/encoded").then_some("br");
        assert_eq!(answer.header("content-encoding"), encoded, "{target}");
        assert_eq!(vary(&answer), "", "{target}");
        assert!(answer.header("content-length").is_some(), "{target}");
        let body = match target {
            "/small" => "small".to_owned(),
            "/nothing" => String::new(),
            _ => long(),
        };
        assert_eq!(answer.text(), body, "{target}");
    }
    // it is not for the client's cache to be told twice
    let varies = gateway
        .call("GET /varies")
        .header("Accept-Encoding", "br")
        .send()
        .await;
    assert_eq!(vary(&varies), "origin, accept-encoding");
    let vast = gateway
        .call("GET /vast")
        .header("Accept-Encoding", "br")
        .send()
        .await;
    assert_eq!(vary(&vast), "*");
    let client = gateway
        .call("GET /text")
        .header("Cache-Control", "no-transform");
    let client = client.header("Accept-Encoding", "br").send().await;
    assert_eq!(client.header("content-encoding"), None);
    // whoever refuses plain content gets none, however small
    let strict = gateway
        .call("GET /small")
        .header("Accept-Encoding", "gzip, identity;q=0")
        .send()
        .await;
    assert_eq!(strict.header("content-encoding"), Some("gzip"));
    assert_eq!(decode("gzip", &strict.body).expect("whole"), "small");
    // an empty body in chunks is a stream without content, and not nothing
    let empty = gateway
        .call("GET /empty")
        .header("Accept-Encoding", "gzip")
        .send()
        .await;
    assert_eq!(decode("gzip", &empty.body).expect("whole"), "");
}

#[tokio::test]
async fn the_answer_to_head_is_the_head_of_the_answer_to_get() {
    let (gateway, _origin) = before(site).await;
    let mut client = gateway.client().await;
    for method in ["HEAD", "GET", "HEAD"] {
        let request =
            format!("{method} /text HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n");
        client.send(request).await;
        let answer = client.response(method).await;
        assert_eq!(answer.header("content-encoding"), Some("gzip"), "{method}");
        assert_eq!(answer.header("etag"), Some("W/\"v1\""));
        assert_eq!(answer.header("content-length"), None);
        assert_eq!(vary(&answer), "accept-encoding");
        assert_eq!(answer.body.is_empty(), method == "HEAD");
    }
}

#[tokio::test]
async fn a_304_names_the_tag_that_the_client_was_given() {
    let (gateway, _origin) = before(site).await;
    for (asked, accepted, tag) in [
        ("W/\"v1\"", "gzip", "W/\"v1\""),
        ("\"v1\"", "gzip", "\"v1\""),
        ("W/\"v1\"", "identity", "\"v1\""),
    ] {
        let call = gateway.call("GET /same").header("If-None-Match", asked);
        let answer = call.header("Accept-Encoding", accepted).send().await;
        assert_eq!(answer.status(), 304);
        assert_eq!(answer.header("etag"), Some(tag), "{asked} {accepted}");
        assert_eq!(answer.header("content-encoding"), None);
        assert!(!answer.chunked);
    }
}

#[tokio::test]
async fn a_connection_goes_on_after_compressed_answers() {
    let (gateway, _origin) = before(site).await;
    let mut client = gateway.client().await;
    for encoding in ["gzip", "br", "zstd", "gzip"] {
        for target in ["/text", "/small", "/chunked", "/image"] {
            let request = format!(
                "GET {target} HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: {encoding}\r\n\r\n"
            );
            client.send(request).await;
            let answer = client.response("GET").await;
            assert_eq!(answer.status(), 200);
            if matches!(target, "/text" | "/chunked") {
                assert_eq!(decode(encoding, &answer.body).expect("whole"), long());
            }
        }
    }
}

/// Pingora chunks what has no length when the origin's head arrives; a length that goes away later would end the body
/// with the connection, or cut it off.
#[tokio::test]
async fn http_1_0_gets_the_whole_of_it_and_then_the_end_of_the_connection() {
    let (gateway, _origin) = before(site).await;
    for target in ["/text", "/chunked"] {
        let mut client = gateway.client().await;
        let request = format!(
            "GET {target} HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\nAccept-Encoding: gzip\r\n\r\n"
        );
        client.send(request).await;
        let bytes = client.rest().await.expect("an answer");
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .expect("a head");
        let head = Message::parse(&bytes[..end + 4]).expect("a head");
        assert_eq!(head.header("transfer-encoding"), None);
        assert_eq!(head.header("content-length"), None);
        assert_eq!(head.header("connection"), Some("close"));
        assert_eq!(decode("gzip", &bytes[end + 4..]).expect("whole"), long());
    }
}

#[tokio::test]
async fn http_2_gets_it_too() {
    let (gateway, _origin) = before(site).await;
    let mut client = Http2::connect(gateway.public()).await;
    for encoding in ["gzip", "br", "zstd"] {
        for target in ["/text", "/chunked"] {
            let url = format!("http://a.test{target}");
            let fields = [("accept-encoding", encoding)];
            let answer = client
                .call("GET", &url, &fields, b"", Ending::OnLast)
                .await
                .expect("an answer");
            assert!(answer.complete);
            assert_eq!(answer.header("content-encoding"), Some(encoding));
            assert_eq!(answer.header("content-length"), None);
            assert_eq!(answer.header("transfer-encoding"), None);
            assert_eq!(decode(encoding, &answer.body).expect("whole"), long());
        }
    }
}

/// What there is of a stream that goes on.
fn decoded_so_far(encoding: &str, bytes: &[u8]) -> String {
    let mut text = Vec::new();
    let _ = match encoding {
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_end(&mut text),
        "br" => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut text),
        _ => zstd::stream::read::Decoder::new(bytes)
            .expect("a decoder")
            .read_to_end(&mut text),
    };
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn events_arrive_while_the_stream_goes_on() {
    for encoding in ["gzip", "br", "zstd"] {
        let gate = Gate::closed();
        let (first, second) = ("data: one\n\n", "data: two\n\n");
        let waits = gate.clone();
        let (gateway, _origin) = before(move |_| {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            Reply::raw(format!("{head}{:x}\r\n{first}\r\n", first.len()))
                .then_wait(&waits)
                .then(format!("{:x}\r\n{second}\r\n0\r\n\r\n", second.len()))
        })
        .await;
        let mut client = gateway.client().await;
        let request = format!(
            "GET /events HTTP/1.1\r\nHost: a.test\r\nAccept: text/event-stream\r\nAccept-Encoding: {encoding}\r\n\r\n"
        );
        client.send(request).await;
        // the origin says nothing more before the first event has been read
        assert_eq!(
            client.head().await.header("content-encoding"),
            Some(encoding)
        );
        let mut bytes = Vec::new();
        loop {
            let body = chunks(&bytes);
            if decoded_so_far(encoding, &body) == first {
                break;
            }
            bytes.extend(client.exactly(1).await.expect("more"));
        }
        gate.open();
        while !bytes.ends_with(b"\r\n0\r\n\r\n") {
            bytes.extend(client.exactly(1).await.expect("more"));
        }
        let whole = decode(encoding, &chunks(&bytes)).expect("whole");
        assert_eq!(whole, format!("{first}{second}"));
    }
}

/// The chunks of a body so far, as far as they are complete.
fn chunks(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let text = std::str::from_utf8(&bytes[..end]).expect("a length");
        let length = usize::from_str_radix(text, 16).expect("a length");
        let Some(chunk) = bytes.get(end + 2..end + 2 + length) else {
            break;
        };
        body.extend(chunk);
        bytes = bytes.get(end + 4 + length..).unwrap_or_default();
    }
    body
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_pass_for_a_whole_one() {
    let (gateway, origin) = before(|request| {
        let framing = match request.target() {
            "/length" => "Content-Length: 50000",
            _ => "Transfer-Encoding: chunked",
        };
        let half = long();
        let chunk = match request.target() {
            "/length" => half,
            _ => format!("{:x}\r\n{half}\r\n", half.len()),
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{framing}\r\n\r\n");
        Reply::raw(head).then(chunk).then_close()
    })
    .await;
    for target in ["/length", "/chunked"] {
        for encoding in ["gzip", "br", "zstd"] {
            let call = gateway
                .call(&format!("GET {target}"))
                .header("Accept-Encoding", encoding);
            let answer = call.send().await;
            assert!(!answer.complete, "{target} {encoding}");
            assert!(
                decode(encoding, &answer.body).is_err(),
                "{target} {encoding}"
            );
            let mut h2 = Http2::connect(gateway.public()).await;
            let url = format!("http://a.test{target}");
            let answer = h2
                .call(
                    "GET",
                    &url,
                    &[("accept-encoding", encoding)],
                    b"",
                    Ending::OnLast,
                )
                .await;
            assert!(answer.is_err() || answer.is_ok_and(|answer| !answer.complete));
        }
        // an HTTP/1.0 client knows nothing but the end of the connection, so it gets a reset
        let mut client = Client::connect(gateway.public()).await;
        client
            .send(format!(
                "GET {target} HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n"
            ))
            .await;
        assert!(client.rest().await.is_err(), "{target}");
    }
    assert_eq!(origin.received().len(), 14);
}

#[tokio::test]
async fn settings_decide_what_is_offered_and_how_small_it_may_be() {
    let origin = Origin::start(site).await;
    let gateway = Gateway::before(
        &origin,
        r#"
services: {app: {endpoints: "$app"}}
routes:
  all:
    match: {path: /**}
    service: app
    policies:
      compress: {encodings: [gzip, br], types: "image/*", min_size: 1MiB}
      compress.text: {encodings: gzip, types: text/plain, min_size: 0B, level: {gzip: 9}, when: {path: /small}}
"#,
    )
    .await;
    for (target, encoding) in [("/text", None), ("/image", None), ("/small", Some("gzip"))] {
        let call = gateway
            .call(&format!("GET {target}"))
            .header("Accept-Encoding", "br, gzip");
        let answer = call.send().await;
        assert_eq!(answer.header("content-encoding"), encoding, "{target}");
    }
}

/// A client that everybody has.
#[tokio::test]
async fn curl_reads_it() {
    let (gateway, _origin) = before(site).await;
    for protocol in ["--http1.1", "--http1.0", "--http2-prior-knowledge"] {
        for target in ["/text", "/chunked", "/small"] {
            let url = format!("http://{}{target}", gateway.public());
            let curl = move || {
                let mut curl = std::process::Command::new("curl");
                curl.args(["-sS", "--compressed", protocol, "-m", "20", &url])
                    .output()
            };
            let output = tokio::task::spawn_blocking(curl)
                .await
                .expect("no panic")
                .expect("curl");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{protocol} {target}: {output:?}");
            let wanted = if target == "/small" {
                "small".to_owned()
            } else {
                long()
            };
            assert!(text == wanted, "{protocol} {target}");
        }
    }
}
