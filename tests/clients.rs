//! Clients that everybody has, in front of the gateway: what they get in each version of HTTP, in clear and under TLS.
//! The clients of gRPC and of WebSockets are in `protocols`.

use crate::harness::{Gateway, Origin, Pki};
use std::process::{Command, Output};

const ROUTES: &str = r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
  secure: {address: "$address:8443", tls: {}}
certificates: {site: {cert: site.pem, key: site.key}}
services: {app: {endpoints: "$app"}}
routes: {all: {match: {path: /**}, service: app}}
"#;

const SIZE: usize = 3 << 20;

/// A gateway for `site.test`, with its authority in `ca.pem` and three MiB in `body`.
async fn site() -> (Gateway, Origin) {
    let origin = Origin::echo().await;
    let pki = Pki::new();
    let identity = pki.server(&["site.test"]);
    let gateway = Gateway::builder(ROUTES)
        .with("app", &origin)
        .file("site.pem", &identity.certificate)
        .file("site.key", &identity.key)
        .file("ca.pem", &pki.pem())
        .file("body", &"x".repeat(SIZE))
        .start()
        .await;
    (gateway, origin)
}

async fn run(gateway: &Gateway, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(gateway.dir());
    let running = tokio::task::spawn_blocking(move || command.output());
    let output = running.await.expect("no panic");
    output.expect("a client; tests/run.sh installs what the tests need")
}

#[tokio::test]
async fn curl_is_served_in_every_version_of_http() {
    let (gateway, origin) = site().await;
    let resolve = format!("site.test:8443:{}", gateway.public().ip());
    let secure = ["--cacert", "ca.pem", "--resolve", &resolve];
    let clear = format!("http://{}/clear", gateway.public());
    let site = "https://site.test:8443/tls";
    for (url, flags, version) in [
        (&*clear, &["--http1.0"][..], "1.0"),
        (&clear, &["--http1.1"], "1.1"),
        (&clear, &["--http2-prior-knowledge"], "2"),
        (site, &["--http1.1"], "1.1"),
        (site, &["--http2"], "2"),
        (site, &["--http2", "--tls-max", "1.2"], "2"),
    ] {
        for body in [&[][..], &["--data-binary", "@body"]] {
            let mut arguments = vec!["-sS", "-m", "30", "-o", "answer", "-w"];
            arguments.push("%{http_version} %{response_code}");
            arguments.extend(secure);
            arguments.extend(flags);
            arguments.extend(body);
            arguments.push(url);
            let output = run(&gateway, "curl", &arguments).await;
            let said = String::from_utf8_lossy(&output.stdout);
            let wanted = match version {
                // an answer of HTTP/1.1, which closes the connection (RFC 9110 §6.2)
                "1.0" => "1.1 200",
                "1.1" => "1.1 200",
                _ => "2 200",
            };
            assert_eq!(said, wanted, "{flags:?} {output:?}");
            let received = origin.last();
            let length = if body.is_empty() { 0 } else { SIZE };
            assert_eq!(received.body.len(), length, "{flags:?}");
        }
    }
}

#[tokio::test]
async fn nghttp_is_served_with_many_streams_and_with_trailers() {
    let (gateway, origin) = site().await;
    let clear = format!("http://{}/clear", gateway.public());
    let output = run(&gateway, "nghttp", &["-ns", "-m", "20", &clear]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches(" 200 ").count(), 20, "{output:?}");
    let secure = format!("https://{}:8443/tls", gateway.public().ip());
    let secure = ["-H", ":authority: site.test", &secure];
    for url in [&[&*clear][..], &secure] {
        // the trailers get lost, the body does not
        let upload = ["-ns", "-d", "body", "--trailer", "x-sum: 7"];
        let arguments: Vec<&str> = upload.iter().chain(url).copied().collect();
        let output = run(&gateway, "nghttp", &arguments).await;
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.matches(" 200 ").count(), 1, "{output:?}");
        assert_eq!(origin.last().body.len(), SIZE);
    }
}
