//! One gateway and one origin for all cases of a table, and what must be true of them when all are through.

use crate::harness::{Client, Gateway, Identity, Message, Origin, Pki, Received, eventually};
use rustls::ClientConfig;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const GATEWAY: &str = r#"
access_log: {path: "$dir/access.log"}
identity_headers: {subject: X-Reader}
secrets: {digests: "0123456789abcdef0123456789abcdef"}
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
  secure: {address: "$address:8443", tls: {}}
  old: {address: "$address:8081", protocols: [h1]}
  behind: {address: "$address:8082", trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]}
certificates: {site: {cert: "$dir/site.pem", key: "$dir/site.key"}}
consumers: {reader: {credentials: {api_key: {key: "${file:reader.key}"}}}}
services: {app: {endpoints: "$app"}}
routes:
  open: {match: {path: /**}, service: app}
  reading: {match: {path: /reading/**, method: [GET, HEAD]}, service: app}
  private: {match: {path: /private/**}, service: app, policies: {auth: {api_key: on}}}
  short: {match: {path: /short/**}, service: app, body_limit: 16B}
  socket: {match: {path: /socket/**}, service: app, websocket: on}
  slashes: {match: {path: /slashes/**}, service: app, allow_encoded_slash: on}
  stripped: {match: {path: /stripped/**}, service: app, rewrite: {strip: /stripped}}
  inner: {match: {path: /inner/**}, service: app, rewrite: {strip: /inner, prefix: /private, allow_guarded: on}}
  users: {match: {path: "/users/{id}/photo"}, service: app, rewrite: {path: "/people/{path.id}"}}
  lone: {match: {host: lone.test, path: /only}, service: app}
"#;

/// What the gateway adds to every request; checked by [`World::check_own_fields`].
const OWN: [&str; 7] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-request-id",
    "traceparent",
    "via",
];

/// How connections are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Clear,
    Tls,
}

/// The answer that a case wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub status: u16,
    /// Of the problem; none where the origin answers, or h2 by itself.
    pub code: Option<String>,
    pub closes: bool,
}

impl Wanted {
    /// `400 request.framing C`; what is kept need not be said.
    pub fn parse(text: &str) -> Self {
        let mut words = text.split(' ');
        let status = words.next().and_then(|word| word.parse().ok());
        let rest: Vec<&str> = words.collect();
        let code = rest.iter().find(|word| word.contains('.'));
        Self {
            status: status.unwrap_or_else(|| panic!("no status: {text:?}")),
            code: code.map(|word| (*word).to_owned()),
            closes: rest.contains(&"C"),
        }
    }
}

/// What a case saw, to be compared with what the gateway says of it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub case: String,
    pub status: u16,
    pub code: Option<String>,
    /// The request id of the answer; empty where there was none.
    pub id: String,
    /// What is counted besides.
    pub also: Option<String>,
}

/// How a case went.
pub struct Outcome {
    pub case: String,
    pub mark: String,
    /// What the origin should have got.
    pub received: String,
    pub result: Result<Seen, String>,
}

pub struct World {
    pub gateway: Gateway,
    pub origin: Origin,
    pub over: Over,
    tls: Arc<ClientConfig>,
}

impl World {
    /// With an origin that echoes.
    pub async fn new(over: Over, protocol: &str) -> Self {
        Self::before(Origin::echo().await.lenient(), over, protocol).await
    }

    pub async fn before(origin: Origin, over: Over, protocol: &str) -> Self {
        let pki = Pki::new();
        let site: Identity = pki.server(&["site.test"]);
        let gateway = Gateway::builder(GATEWAY)
            .with("app", &origin)
            .identity("site", &site)
            .file("reader.key", "a-key-that-nobody-here-has")
            .start()
            .await;
        Self {
            gateway,
            origin,
            over,
            tls: pki.client(&[protocol]),
        }
    }

    pub fn address(&self) -> SocketAddr {
        match self.over {
            Over::Clear => self.gateway.public(),
            Over::Tls => self.gateway.port(8443),
        }
    }

    /// The port that need not be said.
    pub fn usual_port(&self) -> &'static str {
        match self.over {
            Over::Clear => "80",
            Over::Tls => "443",
        }
    }

    pub fn tls(&self) -> (&'static str, Arc<ClientConfig>) {
        ("site.test", self.tls.clone())
    }

    pub async fn connect(&self) -> Client {
        match self.over {
            Over::Clear => Client::connect(self.address()).await,
            Over::Tls => {
                let (name, config) = self.tls();
                let connected = Client::connect_tls(self.address(), name, config).await;
                connected.expect("a connection").0
            }
        }
    }

    /// Whether the origin got exactly this of a case; `-` is nothing, and `aborted` nothing that is whole.
    fn check_received(
        &self,
        all: &[Received],
        seen: &Seen,
        mark: &str,
        wanted: &str,
    ) -> Result<(), String> {
        let of_case = |one: &&Received| String::from_utf8_lossy(&one.head).contains(mark);
        let received: Vec<&Received> = all.iter().filter(of_case).collect();
        match (wanted, received.as_slice()) {
            ("-" | "aborted" | "empty", []) => Ok(()),
            ("empty", [one]) if one.body.is_empty() => Ok(()),
            ("aborted", all) if all.iter().all(|one| !one.complete) => Ok(()),
            ("-" | "aborted" | "empty", all) => Err(format!("the origin got {all:?}")),
            (_, [one]) => {
                self.check_own_fields(one, &seen.id)?;
                let (found, wanted) = (told(one), arranged(wanted));
                match found == wanted && one.complete {
                    true => Ok(()),
                    false => Err(format!("the origin got\n{found:?}\nand not\n{wanted:?}")),
                }
            }
            (_, all) => Err(format!("the origin got {} requests", all.len())),
        }
    }

    /// Security requirements 5.1, 5.3 and 5.5: our own fields are there once, and true.
    fn check_own_fields(&self, received: &Received, id: &str) -> Result<(), String> {
        let host = received.header("host").unwrap_or_default();
        let port = host.rsplit_once(':').map(|(_, port)| port);
        let port = port.filter(|port| !port.contains(']'));
        let scheme = match self.over {
            Over::Clear => "http",
            Over::Tls => "https",
        };
        let wanted = [
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", scheme),
            ("x-forwarded-host", host),
            ("x-forwarded-port", port.unwrap_or(self.usual_port())),
            ("x-request-id", id),
        ];
        for (name, value) in wanted {
            let found = received.headers(name);
            if found != [value] && !(name == "x-forwarded-host" && host.is_empty()) {
                return Err(format!("{name} is {found:?} and not {value:?}"));
            }
        }
        let trace = received.headers("traceparent");
        match trace.as_slice() {
            [one] if one.len() == 55 && one.starts_with("00-") => Ok(()),
            other => Err(format!("traceparent is {other:?}")),
        }
    }

    /// After the last case: the origin got what it should and nothing else, and each refusal is counted, and logged
    /// once. Panics with all that is wrong.
    pub async fn judge(&self, outcomes: Vec<Outcome>) {
        let mut wrong = Vec::new();
        let received = self.origin.received().into_iter();
        let received: Vec<Received> = received.filter(|one| !is_follower(one.target())).collect();
        for one in &received {
            let head = String::from_utf8_lossy(&one.head);
            if !outcomes.iter().any(|outcome| head.contains(&outcome.mark)) {
                wrong.push(format!("nobody sent this to the origin: {head:?}"));
            }
        }
        let mut seen = Vec::new();
        for outcome in outcomes {
            let right = match outcome.result {
                Ok(one) => {
                    let right =
                        self.check_received(&received, &one, &outcome.mark, &outcome.received);
                    seen.push(one);
                    right
                }
                Err(why) => Err(why),
            };
            wrong.extend(right.err().map(|why| format!("{}: {why}", outcome.case)));
        }
        wrong.extend(self.wrong_in_log(&seen).await);
        if wrong.is_empty() {
            wrong.extend(self.wrong_in_metrics(&seen).await);
        }
        assert!(
            wrong.is_empty(),
            "{} are wrong:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
    }

    async fn wrong_in_log(&self, seen: &[Seen]) -> Vec<String> {
        let known = || seen.iter().filter(|one| !one.id.is_empty());
        let lines = eventually("a line for each case in the access log", async || {
            let lines = self.log_lines();
            let all = known().all(|one| lines.contains_key(&one.id));
            all.then_some(lines)
        })
        .await;
        let right = |one: &Seen| match lines[&one.id].as_slice() {
            [line] => line["status"] == one.status && line["code"].as_str() == one.code.as_deref(),
            _ => false,
        };
        let wrong = known().filter(|one| !right(one));
        wrong
            .map(|one| format!("{}: in the log {:?}", one.case, lines[&one.id]))
            .collect()
    }

    pub fn log_lines(&self) -> HashMap<String, Vec<Value>> {
        let path = self.gateway.dir().join("access.log");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut lines: HashMap<String, Vec<Value>> = HashMap::new();
        for line in text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
        {
            let line: Value = serde_json::from_str(line).expect("a line of JSON");
            let id = line["request_id"].as_str().unwrap_or_default().to_owned();
            lines.entry(id).or_default().push(line);
        }
        lines
    }

    async fn wrong_in_metrics(&self, seen: &[Seen]) -> Vec<String> {
        let mut counts: BTreeMap<&str, f64> = BTreeMap::new();
        let codes = seen.iter().flat_map(|one| [&one.code, &one.also]);
        let codes = codes.filter_map(|code| code.as_deref());
        for code in codes {
            *counts.entry(code).or_default() += 1.0;
        }
        let metrics = self.gateway.metrics().await;
        let name = "northgate_refused_total";
        let mut wrong = Vec::new();
        for (code, count) in &counts {
            let found = metrics.value(name, &[("reason", code)]);
            if found != *count {
                wrong.push(format!("{found} of {code} are counted and not {count}"));
            }
        }
        let all: f64 = counts.values().sum();
        if metrics.value(name, &[]) != all {
            wrong.push("there are refusals that nobody asked for".to_owned());
        }
        if metrics.value("northgate_panics_total", &[]) != 0.0 {
            wrong.push("something panicked".to_owned());
        }
        wrong
    }
}

/// A case that hangs is wrong, and no more than that.
pub async fn in_time(case: impl Future<Output = Result<Seen, String>>) -> Result<Seen, String> {
    let patience = Duration::from_secs(10);
    let result = tokio::time::timeout(patience, case).await;
    result.unwrap_or_else(|_| Err("neither an answer nor an end".to_owned()))
}

/// Requests that only show that a connection still works, or a new one.
fn is_follower(target: &str) -> bool {
    target.starts_with("/next.") || target.starts_with("/after.")
}

/// A request of which our own fields are left out: its start line, its other fields in alphabetical order, its body.
fn told(received: &Received) -> (String, Vec<String>, String) {
    let head = String::from_utf8_lossy(&received.head);
    let own = |line: &str| {
        let name = line.split(':').next().unwrap_or_default();
        OWN.iter().any(|own| own.eq_ignore_ascii_case(name))
    };
    let lines: Vec<&str> = head.lines().filter(|line| !own(line)).collect();
    let body = String::from_utf8_lossy(&received.body).into_owned();
    let trailers: String = received
        .trailers
        .iter()
        .map(|(name, value)| format!("\r\n\r\n{name}: {value}"))
        .collect();
    sorted(&lines.join("\r\n"), body + &trailers)
}

fn arranged(wanted: &str) -> (String, Vec<String>, String) {
    let (head, body) = wanted.split_once("\r\n\r\n").unwrap_or((wanted, ""));
    sorted(head, body.to_owned())
}

fn sorted(head: &str, body: String) -> (String, Vec<String>, String) {
    let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
    let start = lines.next().unwrap_or_default().to_owned();
    // the case of a name means nothing
    let folded = |line: &str| match line.split_once(':') {
        Some((name, value)) => format!("{}:{value}", name.to_ascii_lowercase()),
        None => line.to_owned(),
    };
    let mut fields: Vec<String> = lines.map(folded).collect();
    fields.sort();
    (start, fields, body)
}

/// Whether an answer is what is wanted: of a problem all that RFC 9457 and we promise. Gives the request id.
pub fn check_answer(answer: &Message, wanted: &Wanted) -> Result<Seen, String> {
    let id = match answer.headers("x-request-id").as_slice() {
        [id] => (*id).to_owned(),
        other => return Err(format!("{} request ids in {answer:?}", other.len())),
    };
    if answer.status() != wanted.status {
        return Err(format!(
            "{} {}",
            answer.status(),
            String::from_utf8_lossy(&answer.body)
        ));
    }
    let media_type = answer.headers("content-type");
    if let Some(code) = &wanted.code {
        let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if media_type != ["application/problem+json"]
            || problem["code"] != **code
            || problem["status"] != wanted.status
            || problem["instance"] != *id
            || !problem["title"].is_string()
        {
            return Err(format!("{media_type:?} {problem}"));
        }
        if wanted.status == 405 && answer.headers("allow").len() != 1 {
            return Err("no Allow".to_owned());
        }
    }
    Ok(Seen {
        case: String::new(),
        status: wanted.status,
        code: wanted.code.clone(),
        id,
        also: None,
    })
}
