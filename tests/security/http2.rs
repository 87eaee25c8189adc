//! Cases over HTTP/2: one connection for each, field by field or frame by frame.

use super::table::{Case, fields, unescaped};
use super::wire::{self, Ended, Wire};
use super::world::{Outcome, Over, Seen, World, in_time};
use crate::harness::frames::frame;
use crate::harness::{tcp, tls};
use futures::StreamExt;
use std::io;

/// Cases on their way at a time.
const AT_A_TIME: usize = 32;
/// The stream of the request that follows a case.
const NEXT: u32 = 101;
/// What the gateway calls a request that HTTP/2's own parser refused.
/// What is counted where h2 answers that a head is too large.
const TOO_LARGE: &str = "request.head_too_large";
const UNPARSED: &str = "request.header";
/// And what it calls one, or a connection, that breaks the rules of HTTP/2.
const MALFORMED: &str = "request.frames";

/// What is sent on stream 1, and what is wanted.
#[derive(Clone, Debug)]
pub struct Sent {
    case: Case,
    bytes: Vec<u8>,
    /// `400 request.path`, `RESET PROTOCOL_ERROR`, `GOAWAY PROTOCOL_ERROR`.
    wanted: String,
    received: String,
}

impl Sent {
    /// A line of `frames.txt`.
    pub fn frames(case: &Case) -> Self {
        let sent = case.column(0);
        Self {
            bytes: match sent.starts_with('<') {
                true => frames(sent),
                false => request(sent),
            },
            wanted: case.column(1).to_owned(),
            received: case.text(2),
            case: case.clone(),
        }
    }

    /// A line of `paths.txt`.
    pub fn path(case: &Case) -> Self {
        let (host, target) = case.column(0).split_once(' ').expect("a host and a target");
        let received = match case.text(2).split_once(' ') {
            Some((host, target)) => format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n"),
            None => case.text(2),
        };
        let pseudo = format!(":method: GET¶:scheme: http¶:authority: {host}¶:path: {target}");
        Self {
            bytes: request(&pseudo),
            wanted: case.column(1).to_owned(),
            received,
            case: case.clone(),
        }
    }

    /// A line of `fields.txt`.
    pub fn fields(case: &Case) -> Self {
        let target = format!("/{}", case.mark);
        let lowered = case.column(0).split('¶').map(|line| {
            let (name, value) = line.split_once(':').expect("a field");
            format!("{}:{value}", name.to_ascii_lowercase())
        });
        let lowered: Vec<String> = lowered.collect();
        let pseudo = format!(":method: GET¶:scheme: http¶:authority: a¶:path: {target}");
        Self {
            bytes: request(&format!("{pseudo}¶{}", lowered.join("¶"))),
            wanted: "200".to_owned(),
            received: super::http1::received_fields(case, 1),
            case: case.clone(),
        }
    }
}

/// A head, and behind empty lines a body and trailers.
fn request(text: &str) -> Vec<u8> {
    let mut parts = text.splitn(3, "¶¶");
    let head = wire::block(&fields(parts.next().unwrap_or_default()));
    let (body, trailers) = (parts.next(), parts.next());
    let end = |is_last| if is_last { wire::END_STREAM } else { 0 };
    let mut bytes = head_frames(&head, end(body.is_none()));
    if let Some(body) = body {
        let flags = end(trailers.is_none());
        bytes.extend(frame(wire::DATA, flags, 1, &unescaped(body)));
    }
    if let Some(trailers) = trailers {
        let block = wire::block(&fields(trailers));
        bytes.extend(frame(
            wire::HEADERS,
            wire::END_HEADERS | wire::END_STREAM,
            1,
            &block,
        ));
    }
    bytes
}

/// A request without a body, on this stream.
pub fn head(stream: u32, text: &str) -> Vec<u8> {
    let flags = wire::END_HEADERS | wire::END_STREAM;
    frame(wire::HEADERS, flags, stream, &wire::block(&fields(text)))
}

/// A block in as many frames as it needs.
fn head_frames(block: &[u8], flags: u8) -> Vec<u8> {
    let mut pieces = block.chunks(16_000).peekable();
    let (mut kind, mut flags) = (wire::HEADERS, flags);
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            flags |= wire::END_HEADERS;
        }
        bytes.extend(frame(kind, flags, 1, piece));
        (kind, flags) = (wire::CONTINUATION, 0);
    }
    bytes
}

/// `<TYPE FLAG … STREAM>payload`, one after another.
fn frames(text: &str) -> Vec<u8> {
    let frames = text.split('<').skip(1).map(|text| {
        let (head, payload) = text.split_once('>').expect("a frame");
        let words: Vec<&str> = head.split(' ').collect();
        let [kind, flags @ .., stream] = words.as_slice() else {
            panic!("no frame: {text}");
        };
        let flags = flags.iter().map(|name| wire::flag_of(name));
        let flags = flags.fold(0, |all, one| all | one);
        let inner = payload
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        let payload = match inner {
            Some(text) => wire::block(&fields(text)),
            None => unescaped(payload),
        };
        let stream = stream.parse().expect("a stream");
        frame(wire::type_of(kind), flags, stream, &payload)
    });
    frames.collect::<Vec<_>>().concat()
}

/// A connection of its own.
pub async fn connect(world: &World) -> io::Result<Wire> {
    match world.over {
        Over::Clear => Wire::over(tcp(world.address(), None).await?).await,
        Over::Tls => {
            let (name, config) = world.tls();
            Wire::over(tls(world.address(), name, config).await?.0).await
        }
    }
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
    let failed = |error: io::Error| format!("the connection failed: {error}");
    let mut wire = connect(world).await.map_err(failed)?;
    send(world, &mut wire, &sent.bytes).await;
    let ended = wire.ended(1).await.map_err(failed)?;
    let seen = check_ended(&ended, sent)?;
    let mark = &sent.case.mark;
    match ended {
        Ended::GoneAway(_) | Ended::Closed => {}
        _ => check_follower(&mut wire, &format!("/next.{mark}")).await?,
    }
    let mut fresh = connect(world).await.map_err(failed)?;
    check_follower(&mut fresh, &format!("/after.{mark}")).await?;
    Ok(seen)
}

/// At once, or under TLS in two records that are cut somewhere. The gateway may have closed meanwhile.
async fn send(world: &World, wire: &mut Wire, bytes: &[u8]) {
    let cut = match world.over {
        Over::Clear => bytes.len(),
        Over::Tls => bytes.iter().map(|byte| usize::from(*byte)).sum::<usize>() % bytes.len(),
    };
    for part in [&bytes[..cut], &bytes[cut..]] {
        if !part.is_empty() && wire.send(part).await.is_err() {
            return;
        }
    }
}

/// Whether it ended as is wanted; what the gateway should say of it.
fn check_ended(ended: &Ended, sent: &Sent) -> Result<Seen, String> {
    let words: Vec<&str> = sent.wanted.split(' ').collect();
    let plain = |word: &&&str| word.contains('.') && !word.starts_with('+');
    let code = words.iter().find(plain).copied();
    let seen = |status, code: Option<&str>, id: &str| Seen {
        case: sent.case.name.clone(),
        status,
        code: code.map(str::to_owned),
        id: id.to_owned(),
        also: None,
    };
    let also = words.iter().find_map(|word| word.strip_prefix('+'));
    let reset = || Seen {
        also: also.map(str::to_owned),
        ..seen(0, Some(MALFORMED), "")
    };
    match (ended, words[0]) {
        (Ended::Reset(code), "RESET") if *code == words[1] => Ok(reset()),
        (Ended::GoneAway(code), "GOAWAY") if *code == words[1] => Ok(seen(0, Some(MALFORMED), "")),
        (Ended::Answered { status, body }, wanted) if wanted == status.to_string() => {
            let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
            if *status == 200 {
                let headers = answer["headers"].as_array().cloned().unwrap_or_default();
                let id = headers.iter().find(|field| field[0] == "x-request-id");
                let id = id.map_or("", |field| field[1].as_str().unwrap_or_default());
                return Ok(seen(*status, None, id));
            }
            let id = answer["instance"].as_str().unwrap_or_default();
            match code {
                Some(code) if answer["code"] == code && answer["status"] == *status => {
                    Ok(seen(*status, Some(code), id))
                }
                Some(_) => Err(format!("{status} {answer}")),
                // h2 answers by itself
                None if *status == 431 => Ok(seen(*status, Some(TOO_LARGE), "")),
                None => Ok(seen(*status, Some(UNPARSED), "")),
            }
        }
        (Ended::Answered { status, body }, _) => {
            Err(format!("{status} {}", String::from_utf8_lossy(body)))
        }
        (other, _) => Err(format!("{other:?}")),
    }
}

/// Whoever asks gets the answer to what it asked for, and to nothing else.
async fn check_follower(wire: &mut Wire, target: &str) -> Result<(), String> {
    let pseudo = format!(":method: GET¶:scheme: http¶:authority: a¶:path: {target}");
    let bytes = head(NEXT, &pseudo);
    let asked = async {
        wire.send(&bytes).await?;
        wire.ended(NEXT).await
    };
    let ended = asked.await.map_err(|error| format!("{target}: {error}"))?;
    if let Ended::Answered { status: 200, body } = &ended {
        let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        if answer["target"] == target {
            return Ok(());
        }
    }
    Err(format!("{target} got {ended:?}"))
}
