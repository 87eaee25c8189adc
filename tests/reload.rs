//! A change is a transaction (design 1.3, 1.4): all of it or nothing, seen by operators, and no request is lost.

use crate::harness::{Call, Client, Gate, Gateway, Http2, Origin, Pki, Reply, eventually, read};
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const ONE: &str = "routes: {all: {match: {path: /**}, respond: {body: one}}}\n";
const TWO: &str = "routes: {all: {match: {path: /**}, respond: {body: two}}}\n";
const BROKEN: &str = "routes: {all: {match: {path: /**}, servise: nowhere}}\n";

async fn says(gateway: &Gateway, wanted: &str) {
    eventually(&format!("the gateway to say {wanted}"), async || {
        (gateway.get("/").await.text() == wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn reload_waits_until_the_change_is_served() {
    let gateway = Gateway::start(ONE).await;
    assert_eq!(gateway.get("/").await.text(), "one");
    let output = gateway.reload(TWO).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(gateway.get("/").await.text(), "two");
    assert_eq!(gateway.generation().await, 2.0);
    assert_eq!(gateway.status().await["generation"], 2);
}

#[tokio::test]
async fn a_refused_reload_says_why_everywhere_and_serves_on() {
    let gateway = Gateway::start(ONE).await;
    let output = gateway.reload(BROKEN).await;
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(
        output.stderr.contains("servise") && output.stderr.contains("did you mean"),
        "{output:?}"
    );
    assert_eq!(gateway.get("/").await.text(), "one");
    let metrics = gateway.metrics().await;
    assert_eq!(
        metrics.find("northgate_config_last_reload_success", &[]),
        Some(0.0)
    );
    assert_eq!(metrics.find("northgate_config_generation", &[]), Some(1.0));
    gateway.logs("servise").await;
    let status = gateway.status().await;
    assert!(
        status["last_reload"].to_string().contains("servise"),
        "{status}"
    );

    gateway.reload_to(TWO).await;
    assert_eq!(gateway.get("/").await.text(), "two");
    let metrics = gateway.metrics().await;
    assert_eq!(
        metrics.find("northgate_config_last_reload_success", &[]),
        Some(1.0)
    );
    let status = gateway.status().await;
    assert!(
        !status["last_reload"].to_string().contains("servise"),
        "{status}"
    );
}

#[tokio::test]
async fn sighup_reloads() {
    let gateway = Gateway::start(ONE).await;
    gateway.write_config(TWO);
    gateway.signal(Signal::SIGHUP);
    says(&gateway, "two").await;
    gateway.write_config(BROKEN);
    gateway.signal(Signal::SIGHUP);
    gateway.logs("servise").await;
    assert_eq!(gateway.get("/").await.text(), "two");
}

#[tokio::test]
async fn a_file_that_is_gone_is_a_refused_reload() {
    let gateway = Gateway::start(ONE).await;
    std::fs::remove_file(gateway.config()).expect("removed");
    gateway.signal(Signal::SIGHUP);
    eventually("the reload to fail", async || {
        let metrics = gateway.metrics().await;
        (metrics.find("northgate_config_last_reload_success", &[]) == Some(0.0)).then_some(())
    })
    .await;
    assert_eq!(gateway.get("/").await.text(), "one");
}

#[tokio::test]
async fn without_watch_a_changed_file_changes_nothing() {
    let gateway = Gateway::start(ONE).await;
    gateway.write_config(TWO);
    // a reload of something else afterwards would have been second in line
    for _ in 0..20 {
        assert_eq!(gateway.get("/").await.text(), "one");
    }
    assert_eq!(gateway.generation().await, 1.0);
}

#[tokio::test]
async fn watch_sees_an_editor_that_renames() {
    let watched = |body: &str| format!("watch: on\n{}", body);
    let gateway = Gateway::start(&watched(ONE)).await;
    for (yaml, body) in [(TWO, "two"), (ONE, "one"), (TWO, "two")] {
        let part = gateway.dir().join(".northgate.yaml.swp");
        std::fs::write(&part, gateway.configuration(&watched(yaml))).expect("a file");
        std::fs::rename(&part, gateway.config()).expect("a rename");
        says(&gateway, body).await;
    }
}

#[tokio::test]
async fn watch_sees_a_symlink_swap() {
    use std::os::unix::fs::symlink;
    let watched = |body: &str| format!("watch: on\n{}", body);
    let builder = Gateway::builder(&watched(ONE));
    let dir = builder.dir().to_owned();
    // as Kubernetes mounts a ConfigMap
    std::fs::create_dir(dir.join("..1")).expect("a folder");
    symlink("..1", dir.join("..data")).expect("a link");
    symlink("..data/northgate.yaml", dir.join("northgate.yaml")).expect("a link");
    let gateway = builder.start().await;
    for (version, yaml, body) in [("..2", TWO, "two"), ("..3", ONE, "one")] {
        std::fs::create_dir(dir.join(version)).expect("a folder");
        let file = dir.join(version).join("northgate.yaml");
        std::fs::write(file, gateway.configuration(&watched(yaml))).expect("a file");
        symlink(version, dir.join("..new")).expect("a link");
        std::fs::rename(dir.join("..new"), dir.join("..data")).expect("a swap");
        says(&gateway, body).await;
    }
}

#[tokio::test]
async fn watch_follows_links_to_where_the_file_is() {
    use std::os::unix::fs::symlink;
    let watched = |body: &str| format!("watch: on\n{}", body);
    let builder = Gateway::builder(&watched(ONE));
    let dir = builder.dir().to_owned();
    // as a deployment does that keeps its releases in folders and links to the current one
    let releases = dir.join("releases");
    std::fs::create_dir_all(releases.join("1")).expect("a folder");
    symlink("1", releases.join("current")).expect("a link");
    let current = "releases/current/northgate.yaml";
    symlink(current, dir.join("northgate.yaml")).expect("a link");
    let gateway = builder.start().await;
    let edit = |release: &str, yaml: &str| {
        let part = releases.join(release).join(".part");
        std::fs::write(&part, gateway.configuration(&watched(yaml))).expect("a file");
        std::fs::rename(&part, releases.join(release).join("northgate.yaml")).expect("a rename");
    };
    // a look follows the start and every reload, whatever happens: it must not be what finds the change
    let quiet = async || tokio::time::sleep(Duration::from_millis(600)).await;
    quiet().await;
    edit("1", TWO);
    says(&gateway, "two").await;
    quiet().await;
    std::fs::create_dir(releases.join("2")).expect("a folder");
    edit("2", ONE);
    symlink("2", releases.join("new")).expect("a link");
    std::fs::rename(releases.join("new"), releases.join("current")).expect("a swap");
    says(&gateway, "one").await;
    quiet().await;
    edit("2", TWO);
    says(&gateway, "two").await;
}

#[tokio::test]
async fn watch_ignores_a_file_that_was_only_touched() {
    let yaml = format!("watch: on\n{ONE}");
    let gateway = Gateway::start(&yaml).await;
    gateway.write_config(&yaml);
    gateway.write_config(&yaml);
    gateway.write_config(&format!("watch: on\n{TWO}"));
    says(&gateway, "two").await;
    assert_eq!(
        gateway.generation().await,
        2.0,
        "the content decides, not the write"
    );
}

#[tokio::test]
async fn an_included_file_is_part_of_the_change() {
    let yaml = "include: [{files: conf.d/*.yaml}]\n";
    let builder = Gateway::builder(yaml);
    let folder = builder.dir().join("conf.d");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("a.yaml"), ONE).expect("a file");
    let gateway = builder.start().await;
    assert_eq!(gateway.get("/").await.text(), "one");
    std::fs::write(folder.join("a.yaml"), TWO).expect("a file");
    gateway.reload_to(yaml).await;
    assert_eq!(gateway.get("/").await.text(), "two");
    std::fs::write(folder.join("b.yaml"), TWO).expect("a file");
    let output = gateway.reload(yaml).await;
    assert_eq!(output.code, Some(78), "the same name twice: {output:?}");
}

/// What a pattern names and nobody can read is missing, not absent: its routes must not silently go.
#[tokio::test]
async fn an_included_file_that_cannot_be_read_refuses_the_reload() {
    let yaml = "include: [{files: conf.d/*.yaml}]\n";
    let builder = Gateway::builder(yaml);
    let folder = builder.dir().join("conf.d");
    std::fs::create_dir(&folder).expect("a folder");
    let file = folder.join("a.yaml");
    std::fs::write(&file, ONE).expect("a file");
    let gateway = builder.start().await;
    std::fs::remove_file(&file).expect("removed");
    std::os::unix::fs::symlink("nowhere", &file).expect("a link");
    let output = gateway.reload(yaml).await;
    assert_eq!(output.code, Some(78), "{output:?}");
    assert_eq!(gateway.get("/").await.text(), "one");
}

/// A route of its own for each of two teams, and one of the main file's.
fn of_teams(main: &str) -> String {
    format!(
        "include:
  - {{files: shop.d/*.yaml, owner: shop, on_error: keep}}
  - {{files: blog.yaml, owner: blog}}
routes: {{main: {{match: {{path: /main}}, respond: {{body: {main}}}}}}}
"
    )
}

fn of_team(name: &str, body: &str) -> String {
    format!("routes: {{{name}: {{match: {{path: /{name}}}, respond: {{body: {body}}}}}}}\n")
}

#[tokio::test]
async fn the_mistakes_of_one_team_hold_up_nobody_else_where_their_last_files_are_kept() {
    let builder = Gateway::builder(&of_teams("one"));
    let (shop, blog) = (
        builder.dir().join("shop.d/a.yaml"),
        builder.dir().join("blog.yaml"),
    );
    std::fs::create_dir(builder.dir().join("shop.d")).expect("a folder");
    let write = |file: &std::path::Path, text: &str| std::fs::write(file, text).expect("a file");
    write(&shop, &of_team("shop", "one"));
    write(&blog, &of_team("blog", "one"));
    let gateway = builder.start().await;
    let all = async || {
        let mut bodies = Vec::new();
        for path in ["/main", "/shop", "/blog"] {
            bodies.push(gateway.get(path).await.text().to_owned());
        }
        bodies.join(" ")
    };
    let kept = async || {
        gateway
            .metrics()
            .await
            .find("northgate_config_kept_includes", &[])
    };
    assert_eq!(all().await, "one one one");

    // a field that does not exist, then a file that is no YAML, then a name that the main file has
    for mistake in [
        "routes: {shop: {match: {path: /shop}, servise: two}}\n",
        "routes: {",
        "routes: {main: {match: {path: /shop}, respond: {body: two}}}\n",
    ] {
        write(&shop, mistake);
        write(&blog, &of_team("blog", "two"));
        let output = gateway.reload(&of_teams("two")).await;
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(
            output.stderr.contains("`shop: ") || output.stdout.contains("`shop: "),
            "{output:?}"
        );
        assert_eq!(all().await, "two one two", "{mistake}");
        assert_eq!(kept().await, Some(1.0));
    }
    let status = gateway.status().await;
    assert_eq!(status["kept"][0]["name"], "shop: shop.d/*.yaml", "{status}");
    let error = status["kept"][0]["error"].as_str().expect("a text");
    assert!(error.contains("shop.d/a.yaml:1:10"), "{error}");
    let page = gateway.command(&["status"]).await;
    assert!(page.stdout.contains("shop.d/a.yaml:1:10"), "{page:?}");

    // nobody keeps files for the blog, nor for the main file
    write(
        &blog,
        "routes: {blog: {match: {path: /blog}, servise: three}}\n",
    );
    let output = gateway.reload(&of_teams("three")).await;
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.stderr.contains("servise"), "{output:?}");
    assert_eq!(all().await, "two one two");
    write(&blog, &of_team("blog", "three"));

    write(&shop, &of_team("shop", "three"));
    gateway.reload_to(&of_teams("three")).await;
    assert_eq!(all().await, "three three three");
    assert_eq!(kept().await, Some(0.0));
    assert_eq!(gateway.status().await["kept"], serde_json::json!([]));
}

/// There is nothing to keep yet.
#[tokio::test]
async fn mistakes_in_files_to_be_kept_refuse_a_start_and_a_check() {
    let builder =
        Gateway::builder("include: [{files: a.yaml, on_error: keep}]\n").file("a.yaml", BROKEN);
    let output = builder.fails().await;
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.stderr.contains("servise"), "{output:?}");
}

#[tokio::test]
async fn counters_survive_a_reload() {
    let gateway = Gateway::start(ONE).await;
    for _ in 0..5 {
        gateway.get("/").await;
    }
    let labels = [("route", "all"), ("method", "GET"), ("status", "200")];
    gateway
        .counts("northgate_requests_total", &labels, 5.0)
        .await;
    gateway.reload_to(TWO).await;
    gateway.get("/").await;
    gateway
        .counts("northgate_requests_total", &labels, 6.0)
        .await;
}

#[tokio::test]
async fn a_request_sees_one_generation_from_beginning_to_end() {
    let gate = Gate::closed();
    let origin = Origin::start({
        let gate = gate.clone();
        move |_| Reply::after(&gate).then_reply(Reply::ok("done"))
    })
    .await;
    let with_header = |value: &str| {
        format!(
            "routes: {{all: {{match: {{path: /**}}, service: [\"$app\"], policies: {{headers: {{response: {{set: \
             {{x-generation: {value}}}}}}}}}}}}}\n"
        )
    };
    let gateway = Gateway::before(&origin, &with_header("old")).await;
    let call = gateway.call("GET /");
    let waiting = tokio::spawn(async move { call.send().await });
    origin.has_received(1).await;
    gateway.reload_to(&with_header("new")).await;
    gate.open();
    assert_eq!(
        waiting.await.expect("a response").header("x-generation"),
        Some("old")
    );
    assert_eq!(gateway.get("/").await.header("x-generation"), Some("new"));
}

#[tokio::test]
async fn listeners_come_and_go_and_the_others_keep_their_connections() {
    let both = r#"
listeners:
  public: {address: "$address:8080"}
  extra: {address: "$address:8081"}
routes: {all: {match: {path: /**}, respond: 204}}
"#;
    let moved = both.replace("8081", "8082");
    let one = both.replace("  extra: {address: \"$address:8081\"}\n", "");
    let gateway = Gateway::start(&one).await;
    let mut kept: Client = gateway.client().await;
    assert_eq!(kept.get("h.test", "/").await.status(), 204);
    assert!(
        Call::new(gateway.port(8081), "GET /")
            .try_send()
            .await
            .is_err()
    );
    gateway.reload_to(both).await;
    assert_eq!(
        Call::new(gateway.port(8081), "GET /").send().await.status(),
        204
    );
    gateway.reload_to(&moved).await;
    assert_eq!(
        Call::new(gateway.port(8082), "GET /").send().await.status(),
        204
    );
    assert!(
        Call::new(gateway.port(8081), "GET /")
            .try_send()
            .await
            .is_err()
    );
    gateway.reload_to(&one).await;
    assert!(
        Call::new(gateway.port(8082), "GET /")
            .try_send()
            .await
            .is_err()
    );
    assert_eq!(
        kept.get("h.test", "/").await.status(),
        204,
        "a reload drops no connection"
    );
}

#[tokio::test]
async fn a_listener_that_asks_for_more_keeps_nobody_who_did_less() {
    let listener = |more: &str| {
        format!(
            "listeners: {{public: {{address: \"$address:8080\"{more}}}, \
             other: {{address: \"$address:8081\"}}, \
             secure: {{address: \"$address:8443\", tls: {{}}}}}}\n\
             trusted_proxies: [192.0.2.1]\n\
             certificates: {{a: {{cert: \"$dir/a.pem\", key: \"$dir/a.key\"}}}}\n\
             routes: {{all: {{match: {{path: /**}}, respond: 204}}}}\n"
        )
    };
    let pki = Pki::new();
    let plain = listener("");
    let builder = Gateway::builder(&plain).identity("a", &pki.server(&["a.test"]));
    let gateway = builder.start().await;
    for more in [", tls: {}", ", proxy_protocol: on"] {
        gateway.reload_to(&plain).await;
        let mut open = gateway.client().await;
        assert_eq!(open.get("h.test", "/").await.status(), 204);
        let mut elsewhere = Client::connect(gateway.port(8081)).await;
        assert_eq!(elsewhere.get("h.test", "/").await.status(), 204);
        gateway.reload_to(&listener(more)).await;
        assert!(open.is_closed().await, "{more}");
        assert_eq!(elsewhere.get("h.test", "/").await.status(), 204, "{more}");
    }
}

#[tokio::test]
async fn connections_of_a_removed_listener_end_when_they_are_done() {
    let gate = Gate::closed();
    let origin = Origin::start({
        let gate = gate.clone();
        move |request| match request.target() {
            "/gated" => Reply::after(&gate).then_reply(Reply::ok("late")),
            _ => Reply::ok("here"),
        }
    })
    .await;
    let both = r#"
listeners:
  public: {address: "$address:8080"}
  extra: {address: "$address:8081", protocols: [h1, h2c]}
services: {app: {endpoints: "$app"}}
routes: {all: {match: {path: /**}, service: app}}
"#;
    let one = both.replace(
        "  extra: {address: \"$address:8081\", protocols: [h1, h2c]}\n",
        "",
    );
    let gateway = Gateway::before(&origin, both).await;
    let extra = gateway.port(8081);
    let mut idle = Client::connect(extra).await;
    assert_eq!(idle.get("h.test", "/").await.status(), 200);
    let mut idle_http2 = Http2::connect(extra).await;
    assert_eq!(idle_http2.get("http://h.test/").await.status(), 200);
    let mut busy = Client::connect(extra).await;
    busy.send("GET /gated HTTP/1.1\r\nHost: h.test\r\n\r\n")
        .await;
    let mut busy_http2 = Http2::connect(extra).await;
    let stream = busy_http2.open("GET", "http://h.test/gated", &[], true);
    let (answer, _) = stream.await.expect("a stream");
    origin.has_received(4).await;
    gateway.reload_to(&one).await;
    assert!(idle.is_closed().await, "nothing was on its way");
    eventually("the idle one to end", async || {
        idle_http2.is_closed().then_some(())
    })
    .await;
    gate.open();
    let late = busy.response("GET").await;
    assert_eq!(late.body, b"late");
    assert!(busy.is_closed().await);
    assert_eq!(read(answer).await.expect("an answer").body, b"late");
    eventually("the busy one to end", async || {
        busy_http2.is_closed().then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_refuses_the_reload_and_keeps_every_listener() {
    let gateway = Gateway::start("routes: {all: {match: {path: /**}, respond: 204}}\n").await;
    let taken = tokio::net::TcpListener::bind(gateway.port(8081))
        .await
        .expect("a listener");
    let output = gateway
        .reload(
            r#"
listeners:
  public: {address: "$address:8080"}
  extra: {address: "$address:8081"}
routes: {all: {match: {path: /**}, respond: 205}}
"#,
        )
        .await;
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.stderr.contains("8081"), "{output:?}");
    assert_eq!(gateway.get("/").await.status(), 204);
    drop(taken);
}

#[tokio::test]
async fn a_change_that_needs_a_restart_is_refused_by_name() {
    let gateway = Gateway::start(&format!("threads: 1\n{ONE}")).await;
    let output = gateway.reload(&format!("threads: 2\n{TWO}")).await;
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(
        output.stderr.contains("threads") && output.stderr.contains("restart"),
        "{output:?}"
    );
    assert_eq!(gateway.get("/").await.text(), "one");
}

#[tokio::test]
async fn a_certificate_is_replaced_without_a_dropped_connection() {
    let yaml = r#"
listeners: {public: {address: "$address:8443", tls: {}}}
certificates: {a: {cert: "$dir/a.pem", key: "$dir/a.key"}}
routes: {all: {match: {host: a.test, path: /**}, respond: 204}}
"#;
    let pki = Pki::new();
    let (old, new) = (pki.server(&["a.test"]), pki.server(&["a.test"]));
    let gateway = Gateway::builder(yaml).identity("a", &old).start().await;
    let address = gateway.port(8443);
    let (mut h1, facts) = Client::connect_tls(address, "a.test", pki.client(&["http/1.1"]))
        .await
        .expect("TLS");
    let (mut h2, _) = Http2::connect_tls(address, "a.test", pki.client(&["h2"]))
        .await
        .expect("TLS");
    assert_eq!(facts.certificate, old.der);
    new.write(gateway.dir(), "a");
    gateway.reload_to(yaml).await;
    assert_eq!(h1.get("a.test", "/").await.status(), 204);
    assert_eq!(h2.get("https://a.test/").await.status(), 204);
    // a client of its own: a resumed session shows no certificate
    let (_, facts) = Client::connect_tls(address, "a.test", pki.client(&["http/1.1"]))
        .await
        .expect("TLS");
    assert_eq!(facts.certificate, new.der);
    // a key that does not fit leaves everything as it was
    let other = pki.server(&["a.test"]);
    std::fs::write(gateway.dir().join("a.key"), &other.key).expect("a file");
    let output = gateway.reload(yaml).await;
    assert_eq!(output.code, Some(78), "{output:?}");
    assert_eq!(h1.get("a.test", "/").await.status(), 204);
}

/// What the clients of a storm saw.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    answered: AtomicU64,
    failures: std::sync::Mutex<Vec<String>>,
}

impl Tally {
    fn note(&self, kind: &str, outcome: Result<u16, String>) {
        match outcome {
            Ok(200) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            other => self
                .failures
                .lock()
                .expect("no panic")
                .push(format!("{kind}: {other:?}")),
        }
    }

    /// The first failure ends the load: what comes after it, such as a gateway that is gone, fails for ever and at once.
    fn goes_on(&self) -> bool {
        let failed = !self.failures.lock().expect("no panic").is_empty();
        !failed && !self.stop.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_reloads_under_load_fail_no_request() {
    const RELOADS: u32 = 200;
    let origin = Origin::start(|_| Reply::ok("x".repeat(1024))).await;
    // each generation has routes, services and a listener that the one before did not have
    let yaml = |generation: u32| {
        format!(
            r#"
listeners:
  public: {{address: "$address:8080", protocols: [h1, h2c]}}
  turn: {{address: "$address:{port}"}}
services:
  app: {{endpoints: "$app"}}
  app{generation}: {{endpoints: "$app"}}
routes:
  all: {{match: {{path: /**}}, service: app, policies: {{headers: {{response: {{set: {{x-n: "{generation}"}}}}}}}}}}
  turn{generation}: {{match: {{path: "/turn/{generation}"}}, service: app{generation}}}
"#,
            port = 9000 + generation % 2,
        )
    };
    let gateway = Gateway::before(&origin, &yaml(0)).await;
    let tally = Arc::new(Tally::default());
    let address = gateway.public();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(tokio::spawn(keepalive(address, tally.clone())));
    }
    for _ in 0..2 {
        clients.push(tokio::spawn(new_connections(address, tally.clone())));
        clients.push(tokio::spawn(http2(address, tally.clone())));
    }
    let started = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    for generation in 1..=RELOADS {
        pace.tick().await;
        gateway.reload_to(&yaml(generation)).await;
    }
    let took = started.elapsed();
    tally.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client");
    }
    let failures = tally.failures.lock().expect("no panic").clone();
    assert!(
        failures.is_empty(),
        "{} failed: {:?}",
        failures.len(),
        &failures[..failures.len().min(5)]
    );
    let answered = tally.answered.load(Ordering::Relaxed);
    assert!(
        answered > u64::from(RELOADS),
        "{answered} requests in {took:?} are no load"
    );
    assert_eq!(gateway.generation().await, f64::from(RELOADS + 1));
    let labels = [("route", "all"), ("status", "200")];
    let metrics = gateway
        .counts("northgate_requests_total", &labels, answered as f64)
        .await;
    assert_eq!(
        metrics.value("northgate_requests_total", &labels),
        answered as f64
    );
}

/// One connection for as long as it lasts; a gateway may close it between two requests, never within one.
async fn keepalive(address: std::net::SocketAddr, tally: Arc<Tally>) {
    let mut client = Client::connect(address).await;
    while tally.goes_on() {
        let response = client.try_get("h.test", "/kept").await;
        let closes = response
            .as_ref()
            .is_ok_and(|response| response.header("connection") == Some("close"));
        tally.note(
            "keepalive",
            response
                .map(|response| response.status())
                .map_err(|error| error.to_string()),
        );
        if closes {
            client = Client::connect(address).await;
        }
        tokio::task::yield_now().await;
    }
}

async fn new_connections(address: std::net::SocketAddr, tally: Arc<Tally>) {
    while tally.goes_on() {
        let response = Call::new(address, "GET /new").try_send().await;
        tally.note(
            "new",
            response
                .map(|response| response.status())
                .map_err(|error| error.to_string()),
        );
    }
}

async fn http2(address: std::net::SocketAddr, tally: Arc<Tally>) {
    let mut h2 = Http2::connect(address).await;
    while tally.goes_on() {
        let response = h2.try_get("http://h.test/h2").await;
        tally.note(
            "h2",
            response
                .map(|response| response.status())
                .map_err(|error| error.to_string()),
        );
    }
}
