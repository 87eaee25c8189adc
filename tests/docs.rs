//! The documentation is true: its YAML passes `check`, its commands print what it shows, its tables are what the code
//! says.
//!
//! Tables stand between `<!-- generated: NAME -->` and `<!-- end -->`. `BLESS=1 tests/run.sh --test main docs` writes them
//! and the outputs anew.

use crate::harness::{Gateway, Origin, Pki, Reply, eventually, northgate};
use northgate::identity::credentials::digest::DigestKey;
use northgate::observe::access_log::FIELDS;
use northgate::problem::Kind;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).expect("README.md")
}

/// A fenced block: what stands behind its three backticks, and its text.
struct Block {
    info: String,
    text: String,
    line: usize,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (line, content) in text.lines().enumerate() {
        match (content.strip_prefix("```"), open.as_mut()) {
            (Some(info), None) => {
                let info = info.to_owned();
                let text = String::new();
                open = Some(Block { info, text, line });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(content);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block without an end");
    blocks
}

/// The text of the doc comment that a source file begins with.
fn module_doc(source: &str) -> String {
    let lines = source
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// What an example leaves out because it shows something else: the version, a listener, a route.
fn completed(yaml: &str, dir: &Path) -> String {
    let has = |key: &str| yaml.lines().any(|line| line.starts_with(key));
    let mut text = String::new();
    if !has("version:") {
        text.push_str("version: 1\n");
    }
    if !has("listeners:") {
        text.push_str("listeners: {public: {address: 127.0.0.1:8080}}\n");
    }
    text.push_str(yaml);
    if !has("routes:") && !has("groups:") {
        text.push_str("routes: {all: {match: {path: /**}, respond: 204}}\n");
    }
    if !has("services:") {
        for name in named_services(yaml) {
            if !text.contains("services:\n") {
                text.push_str("services:\n");
            }
            let _ = writeln!(text, "  {name}: {{endpoints: 127.0.0.1:8081}}");
        }
    }
    text.replace("/etc/northgate", &dir.display().to_string())
}

fn named_services(yaml: &str) -> BTreeSet<&str> {
    let names = yaml
        .lines()
        .filter_map(|line| line.split_once("service: "))
        .map(|(_, rest)| rest.split([',', '}', ' ']).next().unwrap_or(rest));
    names.filter(|name| !name.starts_with('[')).collect()
}

/// A folder with the certificate that examples expect to be installed.
fn installed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let certificates = dir.path().join("certs");
    std::fs::create_dir(&certificates).expect("a folder");
    let pki = Pki::new();
    let identity = pki.server(&["example.com", "*.example.com"]);
    for (name, text) in [
        ("partners.pem", pki.pem()),
        ("revoked.pem", pki.revoking(&[1], 2090)),
    ] {
        std::fs::write(certificates.join(name), text).expect("a PEM file");
    }
    let keys = dir.path().join("keys");
    std::fs::create_dir(&keys).expect("a folder");
    std::fs::write(keys.join("acme.pub"), Pki::public_key()).expect("a key");
    identity.write(&certificates, "example");
    identity.write(&certificates, "gateway");
    identity.write(&certificates, "authority");
    let live = certificates.join("live/shop.example.com");
    std::fs::create_dir_all(&live).expect("a folder");
    let shop = pki.server(&["shop.example.com"]);
    std::fs::write(live.join("fullchain.pem"), &shop.certificate).expect("a chain");
    std::fs::write(live.join("privkey.pem"), &shop.key).expect("a key");
    let secrets = dir.path().join("secrets");
    std::fs::create_dir(&secrets).expect("a folder");
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$BwcHBwcHBwcHBwcHBwcHBw$/8pOQM2HcZ3qY5jCkUtdxKrIMuz6Dw1zVNzYH/5yYXo";
    for (name, text) in [
        ("digests", "0123456789abcdef0123456789abcdef"),
        ("cookies", "89abcdef0123456789abcdef01234567"),
        ("tickets", "76543210fedcba9876543210fedcba98"),
        ("app", "a-secret-of-a-client"),
        ("acme", "a-key-of-another-maker"),
        ("hmac", "fedcba9876543210fedcba9876543210"),
        ("anna", hash),
        ("redis", "redis://:password@127.0.0.1:6379"),
    ] {
        std::fs::write(secrets.join(name), text).expect("a secret");
    }
    let digests = DigestKey::new(b"0123456789abcdef0123456789abcdef");
    let digest = digests.written(digests.digest(b"a-key-of-a-partner"));
    for (name, text) in [
        ("partners.keys", format!("partner-1 {digest} partner -\n")),
        ("revoked.list", String::new()),
        ("team.htpasswd", format!("bea:{hash}\n")),
    ] {
        std::fs::write(dir.path().join(name), text).expect("a file");
    }
    dir
}

#[tokio::test]
async fn every_yaml_block_of_the_documentation_passes_check() {
    let dir = installed();
    let mut pages = super::conf::files(root(), "md");
    pages.retain(|page| !page.starts_with(root().join("target")));
    let sources = super::conf::files(&root().join("src"), "rs");
    let mut checked = 0;
    let mut failures = String::new();
    for path in pages.iter().chain(&sources) {
        let text = std::fs::read_to_string(path).expect("a file");
        let text = match path.extension().is_some_and(|own| own == "rs") {
            true => module_doc(&text),
            false => text,
        };
        for block in blocks(&text)
            .iter()
            .filter(|block| block.info.starts_with("yaml"))
        {
            let file = dir.path().join("example.yaml");
            std::fs::write(&file, completed(&block.text, dir.path())).expect("a file");
            let output = northgate(&["check", "-c", &file.display().to_string()]).await;
            checked += 1;
            if output.code != Some(0) || !output.stderr.is_empty() {
                let place = format!("{}:{}", path.display(), block.line + 1);
                let _ = writeln!(failures, "{place}\n{}", output.stderr);
            }
        }
    }
    assert!(checked > 10, "{checked} blocks");
    assert!(failures.is_empty(), "{failures}");
}

/// The text with what stands behind `begin`, up to `end`, replaced.
fn replaced(text: &str, begin: &str, end: &str, by: &str) -> String {
    let (before, rest) = text
        .split_once(begin)
        .unwrap_or_else(|| panic!("{begin} is missing"));
    let (_, after) = rest
        .split_once(end)
        .unwrap_or_else(|| panic!("{begin} has no end"));
    format!("{before}{begin}{by}{end}{after}")
}

#[tokio::test]
async fn tables_and_outputs_are_what_the_code_says() {
    let committed = readme();
    let mut text = committed.clone();
    let tables = [
        ("keys", keys()),
        ("commands", commands().await),
        ("problems", problems()),
        ("metrics", metrics().await),
        ("fields", fields()),
    ];
    for (name, table) in tables {
        let begin = format!("<!-- generated: {name} -->\n");
        text = replaced(&text, &begin, "<!-- end -->", &table);
    }
    let text = with_outputs(&text).await;
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(root().join("README.md"), &text).expect("README.md");
        return;
    }
    let pairs = text.lines().zip(committed.lines());
    let differs = pairs.into_iter().find(|(says, stands)| says != stands);
    assert!(
        text == committed,
        "README.md is out of date (BLESS=1 writes it anew), first here: {differs:#?}"
    );
}

/// The blocks of the configuration and what the schema says of them.
fn keys() -> String {
    let schema = std::fs::read_to_string(root().join("conf/schema.json")).expect("the schema");
    let schema: serde_json::Value = serde_json::from_str(&schema).expect("JSON");
    let properties = schema["properties"].as_object().expect("properties");
    let mut table = "| Block | What it holds |\n|---|---|\n".to_owned();
    for (key, property) in properties {
        let meaning = property["description"].as_str().unwrap_or_default();
        let _ = writeln!(table, "| `{key}` | {meaning} |");
    }
    table
}

/// The commands and their options, from `--help`.
async fn commands() -> String {
    let mut table = "| Command | What it does | Options |\n|---|---|---|\n".to_owned();
    let help = northgate(&["--help"]).await.stdout;
    let listed = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    for line in listed {
        let (name, about) = line.trim().split_once(' ').expect("a command");
        if name == "help" {
            continue;
        }
        let about = about.trim();
        let _ = writeln!(table, "| `{name}` | {about}. | {} |", options(name).await);
    }
    table
}

async fn options(command: &str) -> String {
    let help = northgate(&[command, "--help"]).await.stdout;
    let usage = help
        .lines()
        .find_map(|line| line.strip_prefix("Usage: "))
        .unwrap_or_default();
    let positional = usage
        .split_whitespace()
        .filter(|word| word.starts_with('<'))
        .map(|word| word.trim_matches(['<', '>']).to_owned());
    let flags = help
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with('-'))
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
        .map(str::to_owned)
        .filter(|flag| flag != "--help" && flag != "--version");
    let all = positional.chain(flags).map(|one| format!("`{one}`"));
    all.collect::<Vec<_>>().join(" ")
}

fn problems() -> String {
    let mut table = "| Code | Status | gRPC | Meaning |\n|---|---|---|---|\n".to_owned();
    for kind in Kind::ALL {
        let (code, status, grpc) = (kind.code(), kind.status_code(), kind.grpc_status());
        let _ = writeln!(
            table,
            "| `{code}` | {status} | {grpc} | {} |",
            kind.description()
        );
    }
    table
}

fn fields() -> String {
    let mut table = "| Field | By default | What it holds |\n|---|---|---|\n".to_owned();
    for field in FIELDS {
        let usual = if field.usual { "yes" } else { "no" };
        let _ = writeln!(table, "| `{}` | {usual} | {} |", field.name, field.meaning);
    }
    table
}

const EVERYTHING_MEASURED: &str = r#"
listeners:
  public: {address: "$address:8080"}
  secure: {address: "$address:8443", tls: {}}
certificates: {a: {cert: a.pem, key: a.key}}
policies: {ip_filter: {deny: 192.0.2.0/24}, mirror: {service: shadow}, concurrency: {limit: 100}, rate_limit: {limit: 1000/1s, algorithm: token_bucket}, rate_limit.fleet: {limit: 1000/1s, store: shared}}
stores: {shared: {redis: "redis://127.0.0.1:1", on_failure: allow}}
services:
  app: {endpoints: "$app", health_check: {tcp: on}, breaker: {per: [endpoint, service]}}
  half: {endpoints: ["127.0.0.1:1", "$app"]}
  shadow: {endpoints: "$app"}
  listed: {endpoints: {file: listed.yaml}}
routes:
  all: {match: {host: a.test, path: /**}, service: app}
  half: {match: {path: /half}, service: half}
  listed: {match: {path: /listed}, service: listed}
"#;

/// The metrics of a gateway in which everything that is measured has happened.
async fn metrics() -> String {
    let origin = Origin::start(|_| Reply::ok("hello")).await;
    let gateway = Gateway::builder(EVERYTHING_MEASURED)
        .with("app", &origin)
        .file("listed.yaml", "- 127.0.0.1:9\n")
        .identity("a", &Pki::new().server(&["a.test"]))
        .start()
        .await;
    let response = gateway.call("GET /").host("a.test").send().await;
    assert_eq!(response.status(), 200, "{response:?}");
    gateway.counts("northgate_mirrored_total", &[], 1.0).await;
    eventually("a request to be tried again", async || {
        gateway.get("/half").await;
        let retries = gateway.metrics().await.find("northgate_retries_total", &[]);
        retries.filter(|count| *count > 0.0)
    })
    .await;
    let call = gateway
        .call("POST /")
        .host("a.test")
        .header("content-type", "application/grpc");
    assert_eq!(call.send().await.status(), 200);
    let labels = [("route", "all"), ("grpc_status", "_none")];
    gateway
        .counts("northgate_grpc_responses_total", &labels, 1.0)
        .await;
    let metrics = gateway
        .counts("northgate_discovery_refused_total", &[], 1.0)
        .await;
    table_of(metrics.text())
}

/// The labels of metrics that have no series in the gateway that is asked.
const WITHOUT_SERIES: &[(&str, &str)] = &[
    ("northgate_browser_logins_total", "event policy"),
    ("northgate_compress_in_bytes_total", "policy"),
    ("northgate_compress_out_bytes_total", "policy"),
    ("northgate_introspections_total", "policy result"),
    ("northgate_issuer_keys", "issuer"),
    ("northgate_issuer_keys_age_seconds", "issuer"),
    ("northgate_issuer_refreshes_total", "issuer result"),
    ("northgate_quota_keys", "policy"),
    ("northgate_quota_shared_decisions_total", "policy"),
    ("northgate_service_pending", "service"),
    ("northgate_task_restarts_total", "task"),
    ("northgate_upstream_connections", "endpoint service"),
];

/// A metric as its text describes it.
#[derive(Default)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
    help: String,
}

fn table_of(text: &str) -> String {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = comment(line, "# HELP ") {
            families.entry(name).or_default().help = help;
        } else if let Some((name, kind)) = comment(line, "# TYPE ") {
            families.entry(name).or_default().kind = kind;
        } else if let Some((name, labels)) = line.split_once('{') {
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(name);
            let family = families.entry(name.to_owned()).or_default();
            family.labels.extend(label_names(labels));
        }
    }
    for (name, labels) in WITHOUT_SERIES {
        let family = families.get_mut(*name).expect("a metric");
        assert!(family.labels.is_empty(), "{name} has series here");
        family.labels = labels.split(' ').map(str::to_owned).collect();
    }
    let mut table = "| Metric | Type | Labels | What it says |\n|---|---|---|---|\n".to_owned();
    for (name, Family { kind, labels, help }) in &families {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = labels.join(" ");
        let help = help.trim_end_matches('.');
        let _ = writeln!(table, "| `{name}` | {kind} | {labels} | {help}. |");
    }
    table
}

fn comment(line: &str, prefix: &str) -> Option<(String, String)> {
    let (name, rest) = line.strip_prefix(prefix)?.split_once(' ')?;
    Some((name.to_owned(), rest.to_owned()))
}

/// The names in `a="x",b="y"} 1`, without the bound of a bucket.
fn label_names(labels: &str) -> impl Iterator<Item = String> {
    let labels = labels.rsplit_once('}').map_or("", |(labels, _)| labels);
    let names = labels
        .split("\",")
        .filter_map(|label| label.split_once('=').map(|(name, _)| name));
    names.filter(|name| *name != "le").map(str::to_owned)
}

/// The text with the output of each `console` block as it is now. A YAML block with a file's name is that file.
async fn with_outputs(text: &str) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let mut text = text.to_owned();
    for block in blocks(&text.clone()) {
        if let Some(name) = block.info.strip_prefix("yaml ") {
            std::fs::write(dir.path().join(name), &block.text).expect("a file");
        }
        if block.info == "console" {
            let command = block.text.lines().next().expect("a command").to_owned();
            let shown = format!("{command}\n{}", output_of(&command, dir.path()).await);
            let begin = format!("```console\n{command}\n");
            let by = shown.strip_prefix(&format!("{command}\n")).expect("it");
            text = replaced(&text, &begin, "```", by);
        }
    }
    text
}

/// What a command prints, with the names of files as they were written.
async fn output_of(command: &str, dir: &Path) -> String {
    let arguments = command
        .strip_prefix("$ northgate ")
        .expect("a command of ours");
    let here: PathBuf = dir.to_owned();
    let arguments: Vec<String> = arguments
        .split_whitespace()
        .map(
            |word| match word.ends_with(".yaml") && !word.contains('/') {
                true => here.join(word).display().to_string(),
                false => word.to_owned(),
            },
        )
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = northgate(&arguments).await;
    let both = format!("{}{}", output.stdout, output.stderr);
    both.replace(&format!("{}/", dir.display()), "")
}

/// The tables of best practices name tests in their last column.
#[test]
fn every_practice_has_a_test_that_is_there() {
    let sources = ["src", "tests"].map(|folder| super::conf::files(&root().join(folder), "rs"));
    let sources: Vec<String> = sources
        .iter()
        .flatten()
        .map(|file| std::fs::read_to_string(file).expect("a source file"))
        .collect();
    let is_there = |test: &str| {
        let name = test.rsplit("::").next().unwrap_or(test);
        let defined = format!("fn {name}(");
        sources.iter().any(|source| source.contains(&defined))
    };
    let mut wrong = Vec::new();
    let mut rows = 0;
    let files = [
        "src/identity/jwt/mod.rs",
        "src/identity/oidc/mod.rs",
        "src/policy/auth/mod.rs",
    ];
    for file in files {
        let doc = module_doc(&std::fs::read_to_string(root().join(file)).expect("a source file"));
        let table = doc.lines().filter(|line| line.starts_with("| "));
        for row in table.filter(|row| !row.starts_with("| Practice |")) {
            rows += 1;
            let tests = row
                .trim_end_matches(" |")
                .rsplit(" | ")
                .next()
                .unwrap_or(row);
            let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
            if tests.is_empty() || !tests.iter().all(|test| is_there(test)) {
                wrong.push(format!("{file}: {row}"));
            }
        }
    }
    assert!(rows > 20, "{rows} rows");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
