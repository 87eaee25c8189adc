//! The gateway and what stands behind it read every path in the same way: a differential test against servers of other
//! makes (security requirement 4, CVE-2026-48020).
//!
//! Each of them serves the same folder, in which something is private, and says which file it took a target for. A
//! client without a key never gets what is private, however it spells it; and what a server looked for is the path that
//! the gateway decided about and logged.
//!
//! `NORTHGATE_SPELLINGS=100000` tries more than the suite does. What fails is printed with the seed that found it;
//! `NORTHGATE_SEED` takes it again.

use crate::harness::{Client, Gateway, Http2, Message, Program, eventually, loopback};
use futures::future::join_all;
use percent_encoding::percent_decode_str;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// Spellings in the suite: of each seed, the one that is always the same and the one that never is.
const SPELLINGS: usize = 500;

const PRIVATE: &str = "what nobody without a key may read";
const KEY: &str = "a-key-that-opens-the-folder";

/// How servers are asked: a host each, which also tells those of one program how to read.
const HOSTS: [&str; 7] = [
    "url.test",
    "parse.test",
    "split.test",
    "files.test",
    "wsgi.test",
    "nginx.test",
    "apache.test",
];

/// What paths are made of, by somebody who wants past a prefix.
const SEGMENTS: &[&str] = &[
    "private",
    "private",
    "private",
    "private",
    "secret.txt",
    "secret.txt",
    "index.html",
    "open",
    "open",
    "x",
    "%70rivate",
    "p%72ivat%65",
    "%50rivate",
    "PRIVATE",
    "Private",
    "privateer",
    "private.",
    "private%20",
    "private%09",
    "private;x=1",
    "private;",
    "private%3b",
    "private%3Bx",
    ";private",
    "private,",
    "private%23",
    "private%3f",
    "pri%76ate",
    "priv%2561te",
    "pr\u{131}vate",
    "%ef%bd%90rivate",
    "private%c2%a0",
    "private%e2%80%8b",
    "private::$DATA",
    "..",
    "..",
    ".",
    "%2e",
    "%2E",
    "%2e%2e",
    "%2E.",
    ".%2e",
    "...",
    "..;",
    "..;x",
    "%2e%2e;",
    "..%3b",
    "..%00",
    "..%20",
    "%252e%252e",
    "%25%32%65",
    "%c0%ae%c0%ae",
    "%e0%80%ae",
    "%ef%bc%8e%ef%bc%8e",
    "%u002e%u002e",
    "%00",
    "%",
    "%2",
    "%zz",
    "",
    "",
    "~",
    "%7e",
    "+",
    "%2b",
    "@",
    "a:b",
    "%e4%b8%ad",
    "open%2fprivate",
    "..%2fprivate",
    "..%5cprivate",
    "..\\private",
    "private%2fsecret.txt",
    "private%5csecret.txt",
    "private\\secret.txt",
    "open%2f..%2fprivate",
];

/// What stands between segments.
const BETWEEN: &[&str] = &[
    "/",
    "/",
    "/",
    "/",
    "/",
    "//",
    "/./",
    "/%2e/",
    "/x/../",
    "/x/%2e%2e/",
    "///",
    "\\",
    "%2f",
    "%5c",
    ";/",
];

/// What stands behind the path.
const BEHIND: &[&str] = &[
    "",
    "",
    "",
    "",
    "?",
    "?x",
    "?/../private",
    "#",
    "#/private",
    "?x#y",
    ";",
    "%3fx",
    "/",
    "/.",
    "/..",
    "//",
    "%20",
    ".",
];

fn spelling() -> impl Strategy<Value = String> {
    let pick = prop::sample::select;
    let segments = prop::collection::vec((pick(BETWEEN), pick(SEGMENTS)), 1..6);
    (segments, pick(BEHIND), 0..12_u8).prop_map(|(segments, behind, form)| {
        let mut target = String::new();
        for (at, (between, segment)) in segments.iter().enumerate() {
            // most targets have to begin as one
            target.push_str(if at == 0 && form > 0 { "/" } else { between });
            target.push_str(segment);
        }
        target.push_str(behind);
        match form {
            1 => format!("http://$host{target}"),
            _ => target,
        }
    })
}

/// The folder: one thing in it is private, and some are called nearly the same.
fn folder() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    // servers that give up being root must get in
    let everybody = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), everybody).expect("permissions");
    let root = folder.path().join("root");
    for name in ["private", "open", "x", "privateer", "PRIVATE"] {
        std::fs::create_dir_all(root.join(name)).expect("a folder");
        let text = match name {
            "private" => PRIVATE,
            _ => "what everybody may read",
        };
        for file in ["index.html", "secret.txt"] {
            std::fs::write(root.join(name).join(file), text).expect("a file");
        }
    }
    std::fs::write(root.join("index.html"), "what everybody may read").expect("a file");
    folder
}

/// Servers that run as long as the value.
struct Backends {
    node: SocketAddr,
    python: SocketAddr,
    nginx: SocketAddr,
    apache: SocketAddr,
    _running: [Program; 4],
    _folder: TempDir,
}

impl Backends {
    async fn start() -> Self {
        let folder = folder();
        let root = folder.path().join("root").display().to_string();
        let (python, at_python) = Program::server("paths.py", &["0", &root]).await;
        let (node, at_node) = Program::node_server("paths.js", &["0", &root]).await;
        let (nginx, at_nginx) = nginx(folder.path()).await;
        let (apache, at_apache) = apache(folder.path()).await;
        Self {
            node: at_node,
            python: at_python,
            nginx: at_nginx,
            apache: at_apache,
            _running: [python, node, nginx, apache],
            _folder: folder,
        }
    }

    fn all(&self) -> [(&'static str, SocketAddr); 7] {
        let [url, parse, split, files, wsgi, nginx, apache] = HOSTS;
        [
            (url, self.node),
            (parse, self.node),
            (split, self.node),
            (files, self.python),
            (wsgi, self.python),
            (nginx, self.nginx),
            (apache, self.apache),
        ]
    }
}

/// In one process, which ends with the test.
async fn nginx(folder: &Path) -> (Program, SocketAddr) {
    let address = SocketAddr::from((loopback(), 8090));
    let text = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr crit;\n\
         events {{}}\n\
         http {{\n\
           access_log off; client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t;\n\
           server {{ listen {address}; root root; add_header X-Resolved $uri always; }}\n\
         }}\n"
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, text).expect("a file");
    let (folder, file) = (folder.display().to_string(), file.display().to_string());
    let program = Program::command("nginx", &["-p", &folder, "-c", &file, "-e", "stderr"]);
    accepts("nginx", address).await;
    (program, address)
}

/// In one process too.
async fn apache(folder: &Path) -> (Program, SocketAddr) {
    let address = SocketAddr::from((loopback(), 8091));
    let mut text = format!(
        "ServerRoot {0}\nServerName apache.test\nListen {address}\nPidFile {0}/apache.pid\nErrorLog /dev/stderr\nLogLevel crit\n\
         DocumentRoot {0}/root\nDefaultRuntimeDir {0}\nMutex pthread\nDirectoryIndex index.html\n",
        folder.display(),
    );
    let modules = ["mpm_event", "authz_core", "dir", "headers"];
    let mut first = String::new();
    for module in modules {
        let _ = writeln!(
            first,
            "LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so"
        );
    }
    text.insert_str(0, &first);
    text.push_str("User www-data\nGroup www-data\n");
    text.push_str("Header always set X-Resolved \"expr=%{REQUEST_URI}\"\n");
    let file = folder.join("apache.conf");
    std::fs::write(&file, text).expect("a file");
    let program = Program::command("apache2", &["-X", "-f", &file.display().to_string()]);
    accepts("Apache", address).await;
    (program, address)
}

async fn accepts(name: &str, address: SocketAddr) {
    eventually(&format!("{name} to accept"), async || {
        tokio::net::TcpStream::connect(address).await.ok()
    })
    .await;
}

const GATEWAY: &str = r#"
access_log: {path: "$dir/access.log"}
secrets: {digests: "0123456789abcdef0123456789abcdef"}
consumers: {reader: {credentials: {api_key: {key: "${file:reader.key}"}}}}
listeners: {public: {address: "$address:8080", protocols: [h1, h2c]}}
routes:
"#;

/// A gateway before all of them, on each of which /private/** needs a key.
async fn gateway(backends: &Backends) -> Gateway {
    let mut yaml = GATEWAY.to_owned();
    for (host, address) in backends.all() {
        let name = host.split('.').next().unwrap_or_default();
        let _ = writeln!(
            yaml,
            "  {name}: {{match: {{host: {host}, path: /**}}, service: [\"{address}\"]}}\n  \
             {name}-private: {{match: {{host: {host}, path: /private/**}}, service: [\"{address}\"], \
             policies: {{auth: {{api_key: on}}}}}}"
        );
    }
    Gateway::builder(&yaml)
        .file("reader.key", KEY)
        .start()
        .await
}

/// One answer that a server gave.
struct Asked {
    host: &'static str,
    target: String,
    id: String,
    /// What the server looked for.
    resolved: String,
}

/// Connections to the gateway on which one server is asked for.
struct Peer {
    host: &'static str,
    gateway: SocketAddr,
    http1: Option<Client>,
    http2: Http2,
}

impl Peer {
    /// Asks over both versions of HTTP.
    async fn ask(&mut self, spelling: &str) -> Vec<Message> {
        let target = spelling.replace("$host", self.host);
        let mut answers = Vec::new();
        let mut client = match self.http1.take() {
            Some(client) => client,
            None => Client::connect(self.gateway).await,
        };
        let answer = client.try_get(self.host, &target).await.expect("an answer");
        if !answer.headers("connection").contains(&"close") {
            self.http1 = Some(client);
        }
        if is_routed(&answer) {
            let url = format!("http://{}{target}", self.host);
            if target.starts_with('/') && url.parse::<http::Uri>().is_ok() {
                answers.extend(self.http2.try_get(&url).await);
            }
        }
        answers.push(answer);
        answers
    }
}

/// Whether a request got as far as its route.
fn is_routed(answer: &Message) -> bool {
    answer.headers("content-type") != ["application/problem+json"] || answer.status() == 401
}

struct Trial {
    gateway: Gateway,
    peers: Vec<Peer>,
    asked: Vec<Asked>,
    refused: usize,
}

impl Trial {
    async fn new(gateway: Gateway) -> Self {
        let mut peers = Vec::new();
        for host in HOSTS {
            peers.push(Peer {
                host,
                gateway: gateway.public(),
                http1: None,
                http2: Http2::connect(gateway.public()).await,
            });
        }
        Self {
            gateway,
            peers,
            asked: Vec::new(),
            refused: 0,
        }
    }

    /// Asks every server for one spelling. What the gateway refuses for its path it refuses for all of them.
    async fn ask_all(&mut self, spelling: &str) {
        let (first, others) = self.peers.split_first_mut().expect("servers");
        let mut answers = vec![(first.host, first.ask(spelling).await)];
        if answers
            .iter()
            .flat_map(|(_, answers)| answers)
            .any(is_routed)
        {
            let others = others.iter_mut();
            let others = others.map(async |peer| (peer.host, peer.ask(spelling).await));
            answers.extend(join_all(others).await);
        } else {
            self.refused += 1;
        }
        for (host, answers) in answers {
            let target = spelling.replace("$host", host);
            answers
                .iter()
                .for_each(|answer| self.note(host, &target, answer));
        }
    }

    fn note(&mut self, host: &'static str, target: &str, answer: &Message) {
        let body = String::from_utf8_lossy(&answer.body);
        assert!(
            !body.contains(PRIVATE),
            "{target} got what is private from {host}: {answer:?}"
        );
        let (resolved, ids) = (answer.headers("x-resolved"), answer.headers("x-request-id"));
        if let ([resolved], [id]) = (resolved.as_slice(), ids.as_slice()) {
            self.asked.push(Asked {
                host,
                target: target.to_owned(),
                id: (*id).to_owned(),
                resolved: (*resolved).to_owned(),
            });
        }
    }

    /// What servers looked for is what the gateway decided about.
    async fn compare(&self) {
        let paths = eventually("a line in the log for each answer", async || {
            let text = std::fs::read_to_string(self.gateway.dir().join("access.log")).ok()?;
            let lines = text
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let paths: HashMap<String, String> = lines
                .filter_map(|line| {
                    let text = |name: &str| Some(line[name].as_str()?.to_owned());
                    Some((text("request_id")?, text("path")?))
                })
                .collect();
            let all = self.asked.iter().all(|one| paths.contains_key(&one.id));
            all.then_some(paths)
        })
        .await;
        for one in &self.asked {
            let decided = &paths[&one.id];
            let decoded = percent_decode_str(decided).decode_utf8_lossy();
            assert_eq!(
                segments(&one.resolved),
                segments(&decoded),
                "{} took {} for another path than {decided}, which was decided about",
                one.host,
                one.target
            );
        }
    }
}

/// The names on the way, without the page that stands for a folder, and without blanks at the end, which no header field
/// can tell of.
fn segments(path: &str) -> Vec<&str> {
    let path = path.trim_end_matches([' ', '\t', '/']);
    let mut names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    if names.last() == Some(&"index.html") {
        names.pop();
    }
    names
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
    )
}

/// Prints the seed if the test fails while it is tried.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("found with NORTHGATE_SEED={}", self.0);
        }
    }
}

#[tokio::test]
async fn no_server_reads_a_path_otherwise_than_it_was_decided_about() {
    let backends = Backends::start().await;
    // the test would find nothing if they did not resolve paths, or if nothing were private
    for (host, address) in backends.all() {
        let mut direct = Client::connect(address).await;
        let answer = direct.get(host, "/x/%2e%2e/privat%65/secret.txt").await;
        assert_eq!(answer.text(), PRIVATE, "{host}");
    }
    let gateway = gateway(&backends).await;
    for host in HOSTS {
        let call = gateway.call("GET /private/secret.txt").host(host);
        assert_eq!(call.send().await.status(), 401, "{host}");
        let answer = call.header("X-API-Key", KEY).send().await;
        assert_eq!((answer.text(), answer.status()), (PRIVATE, 200), "{host}");
    }
    let random = number("NORTHGATE_SEED").unwrap_or_else(rand_seed);
    let count = number("NORTHGATE_SPELLINGS").and_then(|count| usize::try_from(count).ok());
    let mut trial = Trial::new(gateway).await;
    for seed in [1, random] {
        let _seed = Seed(seed);
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        for _ in 0..count.unwrap_or(SPELLINGS) {
            let spelling = spelling()
                .new_tree(&mut runner)
                .expect("a spelling")
                .current();
            trial.ask_all(&spelling).await;
        }
        trial.compare().await;
    }
    let (asked, refused) = (trial.asked.len(), trial.refused);
    assert!(
        asked > SPELLINGS && refused > SPELLINGS / 10,
        "{asked} asked, {refused} refused"
    );
}

fn rand_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| {
        now.as_secs() << 20 | u64::from(now.subsec_nanos() >> 10)
    })
}
