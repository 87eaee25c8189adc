//! Metrics, access log, health and status (design 9).

use crate::harness::{Call, Client, Gateway, Http2, Origin, Reply, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const PLAIN: &str = r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
access_log: {path: "$dir/access.log"}
services: {app: {endpoints: "$app"}}
routes:
  all: {match: {path: /**}, service: app, policies: {headers: {response: {set: {x-a: b}}}, rate_limit: {limit: 1000/1s, by: host, algorithm: token_bucket, headers: off}}}
  denied: {match: {path: /denied}, respond: 200, policies: {ip_filter: {allow: 192.0.2.0/24}}}
"#;

/// The lines of a JSON log, once there are this many.
async fn lines(path: &Path, count: usize) -> Vec<Value> {
    eventually(
        &format!("{count} lines in {}", path.display()),
        async || {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<Value> = text
                .lines()
                .map(|line| {
                    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
                })
                .collect();
            (lines.len() >= count).then_some(lines)
        },
    )
    .await
}

#[tokio::test]
async fn requests_are_counted_by_route_method_and_status() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    for _ in 0..3 {
        gateway.get("/").await;
    }
    gateway.call("POST /").body("x").send().await;
    gateway.call("BREW /").send().await;
    gateway.get("/denied").await;
    gateway.get("/a%5cb").await;
    let name = "northgate_requests_total";
    let metrics = gateway.counts(name, &[], 7.0).await;
    for (labels, wanted) in [
        (
            [("route", "all"), ("method", "GET"), ("status", "200")],
            3.0,
        ),
        (
            [("route", "all"), ("method", "POST"), ("status", "200")],
            1.0,
        ),
        (
            [("route", "all"), ("method", "_other"), ("status", "200")],
            1.0,
        ),
        (
            [("route", "denied"), ("method", "GET"), ("status", "403")],
            1.0,
        ),
        (
            [("route", "_none"), ("method", "GET"), ("status", "400")],
            1.0,
        ),
    ] {
        assert_eq!(metrics.value(name, &labels), wanted, "{labels:?}");
    }
    assert_eq!(
        metrics.value(
            "northgate_request_duration_seconds_count",
            &[("route", "all")]
        ),
        5.0
    );
    assert_eq!(
        metrics.value("northgate_own_duration_seconds_count", &[("route", "all")]),
        5.0
    );
    assert_eq!(
        metrics.value(
            "northgate_upstream_duration_seconds_count",
            &[("service", "app")]
        ),
        5.0
    );
    let upstream = [("service", "app"), ("status", "200")];
    assert_eq!(
        metrics.value("northgate_upstream_requests_total", &upstream),
        5.0
    );
    assert_eq!(
        metrics.value("northgate_refused_total", &[("reason", "ip_filter.denied")]),
        1.0
    );
    assert_eq!(
        metrics.value("northgate_refused_total", &[("reason", "request.path")]),
        1.0
    );
    assert_eq!(metrics.value("northgate_panics_total", &[]), 0.0);
    for present in [
        "northgate_policy_decisions_total",
        "northgate_policy_duration_seconds_count",
        "northgate_endpoint_up",
        "northgate_connections",
        "northgate_config_generation",
        "northgate_config_last_reload_success",
        "northgate_build_info",
        "process_resident_memory_bytes",
    ] {
        assert!(
            metrics.find(present, &[]).is_some(),
            "{present} is missing in\n{}",
            metrics.text()
        );
    }
}

#[tokio::test]
async fn connections_are_a_gauge_that_comes_back_to_zero() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    let mut client = gateway.client().await;
    client.get("h.test", "/").await;
    let public = [("listener", "public")];
    gateway.counts("northgate_connections", &public, 1.0).await;
    drop(client);
    eventually("no connections", async || {
        let metrics = gateway.metrics().await;
        (metrics.find("northgate_connections", &public) == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn promtool_finds_nothing_to_say_about_the_metrics() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    for target in ["/", "/denied", "/a%2fb"] {
        gateway.get(target).await;
    }
    let metrics = gateway.counts("northgate_requests_total", &[], 3.0).await;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus");
    let mut stdin = promtool.stdin.take().expect("piped");
    stdin.write_all(metrics.text().as_bytes()).expect("written");
    drop(stdin);
    let output = promtool.wait_with_output().expect("promtool's verdict");
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && said.is_empty(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

#[tokio::test]
async fn a_relative_path_of_a_log_starts_from_the_folder_of_its_file() {
    let yaml =
        "access_log: {path: access.log}\nroutes: {all: {match: {path: /**}, respond: 200}}\n";
    let gateway = Gateway::start(yaml).await;
    gateway.get("/").await;
    lines(&gateway.dir().join("access.log"), 1).await;
}

#[tokio::test]
async fn each_request_is_one_line_of_json() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    let path = gateway.dir().join("access.log");
    let response = gateway
        .call("POST /a/./b?page=1&access_token=secret")
        .header("User-Agent", "a \"quoted\" agent")
        .body("hello")
        .send()
        .await;
    gateway.get("/denied").await;
    gateway.get("/a%2fb").await;
    let call = gateway.call("GET /a").host("not a host");
    call.send().await;
    let lines = lines(&path, 4).await;
    let line = &lines[0];
    for (field, wanted) in [
        ("method", Value::from("POST")),
        ("path", Value::from("/a/b")),
        ("host", Value::from("example.test")),
        ("status", Value::from(200)),
        ("route", Value::from("all")),
        ("service", Value::from("app")),
        ("endpoint", Value::from(origin.address())),
        ("client_address", Value::from("127.0.0.1")),
        ("request_bytes", Value::from(5)),
        ("response_bytes", Value::from(response.body.len())),
        ("request_id", Value::from(response.header("x-request-id"))),
    ] {
        assert_eq!(line[field], wanted, "{field} in {line}");
    }
    assert!(
        line["duration_ms"]
            .as_f64()
            .is_some_and(|duration| duration > 0.0),
        "{line}"
    );
    assert!(
        line["query"]
            .as_str()
            .is_some_and(|query| query.contains("page=1")),
        "{line}"
    );
    assert!(!line.to_string().contains("secret"), "{line}");
    assert_eq!(lines[1]["code"], "ip_filter.denied");
    assert_eq!(lines[1]["status"], 403);
    // of what is refused, what could be understood
    assert_eq!(lines[2]["code"], "request.path");
    assert_eq!(lines[2]["host"], "example.test");
    assert_eq!(lines[3]["code"], "request.host");
    assert_eq!(lines[3].get("host"), None, "{}", lines[3]);
}

#[tokio::test]
async fn the_combined_format_is_what_web_servers_write() {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let gateway = Gateway::before(
        &origin,
        r#"
access_log: {path: "$dir/access.log", format: combined}
routes: {all: {match: {path: /**}, service: ["$app"]}}
"#,
    )
    .await;
    gateway
        .call("GET /x?y=1")
        .header("User-Agent", "a \"b\"")
        .header("Referer", "https://r.test/")
        .send()
        .await;
    let path = gateway.dir().join("access.log");
    let line = eventually("a line", async || {
        let text = std::fs::read_to_string(&path).ok()?;
        text.ends_with('\n').then_some(text)
    })
    .await;
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    let end = r#"] "GET /x?y=1 HTTP/1.1" 200 5 "https://r.test/" "a \"b\"""#;
    assert!(line.trim_end().ends_with(end), "{line}");
}

#[tokio::test]
async fn a_dash_is_stdout() {
    let gateway = Gateway::start(
        r#"
access_log: {path: "-"}
routes: {all: {match: {path: /**}, respond: 200}}
"#,
    )
    .await;
    gateway.get("/to-stdout").await;
    let line = eventually("a line on stdout", async || {
        let text = gateway.stdout();
        text.lines()
            .find(|line| line.contains("/to-stdout"))
            .map(str::to_owned)
    })
    .await;
    assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
}

#[tokio::test]
async fn sigusr1_opens_the_log_anew_and_loses_no_line() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    let path = gateway.dir().join("access.log");
    let moved = gateway.dir().join("access.log.1");
    gateway.get("/before").await;
    lines(&path, 1).await;
    std::fs::rename(&path, &moved).expect("a rename");
    gateway.get("/between").await;
    lines(&moved, 2).await;
    gateway.signal(Signal::SIGUSR1);
    eventually("the new file", async || path.exists().then_some(())).await;
    gateway.get("/after").await;
    assert_eq!(lines(&path, 1).await[0]["path"], "/after");
    assert_eq!(lines(&moved, 2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_drops_lines_and_delays_no_request() {
    let builder = Gateway::builder(
        r#"
access_log: {path: "$dir/pipe"}
routes: {all: {match: {path: /**}, respond: 200}}
"#,
    );
    let pipe = builder.dir().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    // held open both ways and never read: it takes 64 KiB and then blocks whoever writes
    let held = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pipe)
        .expect("the pipe");
    let gateway = builder.start().await;
    let target = format!("/{}", "x".repeat(4000));
    let mut client = gateway.client().await;
    eventually("a dropped line", async || {
        for _ in 0..500 {
            assert_eq!(client.get("h.test", &target).await.status(), 200);
        }
        let metrics = gateway.metrics().await;
        (metrics.value("northgate_access_log_dropped_total", &[]) > 0.0).then_some(())
    })
    .await;
    assert_eq!(client.get("h.test", "/").await.status(), 200);
    drop(held);
}

#[tokio::test]
async fn a_client_that_leaves_is_499_in_the_log_alone() {
    let origin = Origin::start(|_| Reply::hang()).await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    let mut client: Client = gateway.client().await;
    client.send("GET /left HTTP/1.1\r\nHost: a\r\n\r\n").await;
    origin.has_received(1).await;
    client.reset();
    let lines = lines(&gateway.dir().join("access.log"), 1).await;
    assert_eq!(lines[0]["status"], 499, "{lines:?}");
}

/// What never becomes a request is logged as what it is.
#[tokio::test]
async fn bytes_that_are_no_request_are_one_line_too() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    let mut client: Client = gateway.client().await;
    client.send(b"\x16\x03\x01\x02\x00\r\n\r\n").await;
    let answer = client.response("GET").await;
    let mut client: Client = gateway.client().await;
    client.send("PUT /a HTTP/1.1\r\nNo colon\r\n\r\n").await;
    assert_eq!(client.response("PUT").await.status(), 400);
    let lines = lines(&gateway.dir().join("access.log"), 2).await;
    let line = &lines[0];
    assert_eq!(
        (&line["status"], &line["method"]),
        (&400.into(), &"-".into())
    );
    assert_eq!(line["response_bytes"], answer.body.len());
    assert_eq!(line["reason"], "the method is not a token", "{line}");
    let line = &lines[1];
    assert_eq!(
        (&line["method"], &line["path"]),
        (&"PUT".into(), &"/a".into())
    );
    assert_eq!(line["reason"], "a header line has no colon", "{line}");
}

#[tokio::test]
async fn every_protocol_is_logged_by_its_name() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    gateway.get("/one").await;
    Http2::connect(gateway.public())
        .await
        .get("http://h.test/two")
        .await;
    let lines = lines(&gateway.dir().join("access.log"), 2).await;
    let protocol = |path: &str| {
        let line = lines.iter().find(|line| line["path"] == path);
        line.and_then(|line| line["protocol"].as_str())
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(protocol("/one"), "HTTP/1.1");
    assert!(protocol("/two").starts_with("HTTP/2"), "{lines:?}");
}

#[tokio::test]
async fn health_and_status_are_on_the_admin_socket() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    assert_eq!(gateway.admin("GET /livez").send().await.status(), 200);
    assert_eq!(gateway.admin("GET /readyz").send().await.status(), 200);
    let status = gateway.status().await;
    assert_eq!(status["generation"], 1, "{status}");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"), "{status}");
    assert!(
        status["listeners"].to_string().contains("public"),
        "{status}"
    );
    assert!(status["services"].to_string().contains("app"), "{status}");
    let text = gateway
        .admin("GET /v1/status")
        .send()
        .await
        .text()
        .to_string();
    assert!(text.ends_with("}\n"), "{text:?}");
    let output = gateway.command(&["status"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    for word in ["public", "app"] {
        assert!(
            output.stdout.contains(word),
            "{word} is missing in {}",
            output.stdout
        );
    }
}

#[tokio::test]
async fn the_effective_configuration_is_shown() {
    let origin = Origin::echo().await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    let response = gateway.admin("GET /v1/config").send().await;
    assert_eq!(response.status(), 200);
    let config = response.json();
    assert!(
        config["routes"]["denied"]["policies"]["ip_filter"]["allow"]
            .to_string()
            .contains("192.0.2.0/24"),
        "{config}"
    );
    // what holds though it is not written
    for (pointer, wanted) in [
        ("/drain_timeout", "30s"),
        ("/defaults/body_limit", "10MiB"),
        ("/defaults/timeouts/total", "1m"),
        ("/services/app/balance", "least_request"),
    ] {
        assert_eq!(config.pointer(pointer), Some(&wanted.into()), "{config}");
    }
}

#[tokio::test]
async fn the_admin_socket_is_for_its_owner_and_group() {
    use std::os::unix::fs::PermissionsExt;
    let gateway = Gateway::start("routes: {all: {match: {path: /**}, respond: 200}}\n").await;
    let socket = gateway.dir().join("admin.sock");
    let mode = std::fs::metadata(socket)
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660, "{mode:o}");
}

#[tokio::test]
async fn the_admin_api_cannot_be_reached_through_a_listener() {
    let gateway = Gateway::start("routes: {all: {match: {path: /app/**}, respond: 200}}\n").await;
    for target in ["/metrics", "/v1/status", "/readyz", "/v1/config"] {
        assert_eq!(
            Call::new(gateway.public(), &format!("GET {target}"))
                .send()
                .await
                .status(),
            404
        );
    }
}
