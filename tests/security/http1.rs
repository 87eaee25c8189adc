//! Cases over HTTP/1: one connection for each, and a new one after it.

use super::table::Case;
use super::world::{Outcome, Over, Seen, Wanted, World, check_answer, in_time};
use crate::harness::Client;
use futures::StreamExt;

/// Cases on their way at a time.
const AT_A_TIME: usize = 32;

/// What is sent, and what is wanted.
#[derive(Clone, Debug)]
pub struct Sent {
    pub case: Case,
    pub bytes: Vec<u8>,
    /// Nothing follows.
    pub is_all: bool,
    pub wanted: Wanted,
    /// What the origin gets.
    pub received: String,
}

impl Sent {
    /// A line of `heads.txt`.
    pub fn head(case: &Case) -> Self {
        let bytes = case.bytes(0);
        let (bytes, is_all) = match bytes.strip_suffix("…".as_bytes()) {
            Some(bytes) => (bytes.to_vec(), true),
            None => (bytes, false),
        };
        Self {
            bytes,
            is_all,
            wanted: Wanted::parse(case.column(1)),
            received: case.text(2),
            case: case.clone(),
        }
    }

    /// A line of `paths.txt`.
    pub fn path(case: &Case) -> Self {
        let sent = case.text(0);
        let (host, target) = sent.split_once(' ').expect("a host and a target");
        let received = match case.text(2).split_once(' ') {
            Some((host, target)) => format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n"),
            None => case.text(2),
        };
        Self {
            bytes: format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes(),
            is_all: false,
            wanted: Wanted::parse(case.column(1)),
            received,
            case: case.clone(),
        }
    }

    /// A line of `fields.txt`.
    pub fn fields(case: &Case) -> Self {
        let (target, fields) = (format!("/{}", case.mark), case.text(0));
        Self {
            bytes: format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n").into_bytes(),
            is_all: false,
            wanted: Wanted::parse("200"),
            received: received_fields(case, 1),
            case: case.clone(),
        }
    }

    fn method(&self) -> String {
        let line = String::from_utf8_lossy(&self.bytes);
        let line = line.trim_start();
        line.split(' ').next().unwrap_or_default().to_owned()
    }
}

/// What the origin gets of a GET with fields.
pub fn received_fields(case: &Case, column: usize) -> String {
    let fields = match case.text(column) {
        none if none == "-" => String::new(),
        fields => fields + "\r\n",
    };
    format!("GET /{} HTTP/1.1\r\nhost: a\r\n{fields}\r\n", case.mark)
}

/// Tries all of them, and judges.
pub async fn try_all(world: &World, all: Vec<Sent>) {
    let tries = futures::stream::iter(all).map(async |sent| Outcome {
        result: in_time(try_one(world, &sent)).await,
        case: sent.case.name,
        mark: sent.case.mark,
        received: sent.received,
    });
    let outcomes = tries.buffer_unordered(AT_A_TIME).collect().await;
    world.judge(outcomes).await;
}

async fn try_one(world: &World, sent: &Sent) -> Result<Seen, String> {
    let mut client = world.connect().await;
    let mark = &sent.case.mark;
    let follower = match (sent.is_all, sent.wanted.closes) {
        (true, _) => String::new(),
        (false, true) => get("smuggled", mark),
        (false, false) => get("next", mark),
    };
    let bytes = [&sent.bytes, follower.as_bytes()].concat();
    send(world, &mut client, &bytes).await;
    let answer = client.try_response(&sent.method()).await;
    let answer = answer.map_err(|error| format!("no answer: {error}"))?;
    let seen = check_answer(&answer, &sent.wanted)?;
    if sent.wanted.closes {
        if !client.is_closed().await {
            return Err("the connection is not closed".to_owned());
        }
    } else if !sent.is_all {
        check_own_answer(&mut client, &format!("/next.{mark}")).await?;
    }
    let mut fresh = world.connect().await;
    fresh.send(get("after", mark)).await;
    check_own_answer(&mut fresh, &format!("/after.{mark}")).await?;
    Ok(Seen {
        case: sent.case.name.clone(),
        ..seen
    })
}

/// In one piece, or under TLS in two records that are cut somewhere. The gateway may answer and close meanwhile.
async fn send(world: &World, client: &mut Client, bytes: &[u8]) {
    let cut = match world.over {
        Over::Clear => bytes.len(),
        Over::Tls => bytes.iter().map(|byte| usize::from(*byte)).sum::<usize>() % bytes.len(),
    };
    for part in [&bytes[..cut], &bytes[cut..]] {
        if !part.is_empty() && client.try_send(part).await.is_err() {
            return;
        }
    }
}

fn get(what: &str, mark: &str) -> String {
    format!("GET /{what}.{mark} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// Whoever asks gets the answer to what it asked for, and to nothing else.
async fn check_own_answer(client: &mut Client, target: &str) -> Result<(), String> {
    match client.try_response("GET").await {
        Ok(answer) if answer.status() == 200 && answer.json()["target"] == target => Ok(()),
        other => Err(format!("{target} got {other:?}")),
    }
}
