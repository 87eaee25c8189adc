//! The adversary's tables: security-requirements 1, 2, 4 and 5, row by row.
//!
//! The cases are in text files, a line each, and say in their first word which requirement they are about. For each
//! table there is one gateway and one origin. What is refused has the right status, a problem with the request's id, a
//! count and one line in the log, and nothing of it reaches the origin; what is accepted reaches it exactly as the table
//! says; and afterwards the next request, on the same connection and on a new one, gets its own answer.

mod backends;
mod http1;
mod http2;
mod table;
mod wire;
mod world;

use crate::harness::{Client, Http2, Message, Origin, Reply, eventually, frames};
use http1::Sent;
use std::sync::Arc;
use table::{Case, cases};
use wire::Ended;
use world::{Over, World};

const HEADS: &str = include_str!("heads.txt");
const FRAMES: &str = include_str!("frames.txt");
const PATHS: &str = include_str!("paths.txt");
const FIELDS: &str = include_str!("fields.txt");
const HOP_FIELDS: &str = include_str!("hop_fields.txt");
const HOPS: &str = include_str!("hops.txt");
const ANSWERS: &str = include_str!("answers.txt");

fn paths(world: &World) -> Vec<Case> {
    cases("paths.txt", PATHS, &[("port", world.usual_port())])
}

fn http1(world: &World) -> Vec<Sent> {
    let heads = cases("heads.txt", HEADS, &[]);
    let fields = cases("fields.txt", FIELDS, &[]);
    let hop_fields = cases("hop_fields.txt", HOP_FIELDS, &[]);
    let heads = heads.iter().map(Sent::head);
    let paths = paths(world);
    let fields = fields.iter().chain(&hop_fields).map(Sent::fields);
    heads
        .chain(paths.iter().map(Sent::path))
        .chain(fields)
        .collect()
}

#[tokio::test]
async fn http1_in_clear_is_what_the_tables_say() {
    let world = World::new(Over::Clear, "").await;
    http1::try_all(&world, http1(&world)).await;
}

#[tokio::test]
async fn http1_under_tls_is_what_the_tables_say() {
    let world = World::new(Over::Tls, "http/1.1").await;
    http1::try_all(&world, http1(&world)).await;
}

fn http2(world: &World) -> Vec<http2::Sent> {
    let frames = cases("frames.txt", FRAMES, &[]);
    let fields = cases("fields.txt", FIELDS, &[]);
    let paths = paths(world);
    let frames = frames.iter().map(http2::Sent::frames);
    let fields = fields.iter().map(http2::Sent::fields);
    frames
        .chain(paths.iter().map(http2::Sent::path))
        .chain(fields)
        .collect()
}

#[tokio::test]
async fn http2_in_clear_is_what_the_tables_say() {
    let world = World::new(Over::Clear, "").await;
    http2::try_all(&world, http2(&world)).await;
}

#[tokio::test]
async fn http2_under_tls_is_what_the_tables_say() {
    let world = World::new(Over::Tls, "h2").await;
    http2::try_all(&world, http2(&world)).await;
}

/// Who the client is behind a trusted proxy.
#[tokio::test]
async fn hops_are_walked_from_the_right_and_no_further_than_trust_goes() {
    let world = World::new(Over::Clear, "").await;
    let mut ids = Vec::new();
    for case in cases("hops.txt", HOPS, &[]) {
        let mut client = Client::connect(world.gateway.port(8082)).await;
        let head = format!("GET /{} HTTP/1.1\r\nHost: a\r\n", case.mark);
        client.send(format!("{head}{}\r\n\r\n", case.text(0))).await;
        let answer = client.response("GET").await;
        let id = answer.header("x-request-id").expect("an id").to_owned();
        let received = world.origin.last();
        let (name, hops) = (&case.name, case.text(2));
        assert_eq!(received.header("x-forwarded-for"), Some(&*hops), "{name}");
        assert_eq!(received.header("x-request-id"), Some(&*id), "{name}");
        match case.text(3) {
            none if none.is_empty() => assert!(id.parse::<uuid::Uuid>().is_ok(), "{name}: {id}"),
            kept => assert_eq!(id, kept, "{name}"),
        }
        ids.push((case, id));
    }
    eventually("the lines in the log", async || {
        let lines = world.log_lines();
        ids.iter()
            .all(|(_, id)| lines.contains_key(id))
            .then_some(())
    })
    .await;
    let lines = world.log_lines();
    for (case, id) in ids {
        assert_eq!(
            lines[&id][0]["client_address"],
            case.text(1),
            "{}",
            case.name
        );
    }
}

/// What an origin answers. Each case is tried by a client of either version.
#[tokio::test]
async fn answers_that_break_the_rules_are_502_and_others_lose_what_was_said_to_us_alone() {
    let answers = Arc::new(cases("answers.txt", ANSWERS, &[]));
    let script = answers.clone();
    let origin = Origin::start(move |request| {
        let of_request = |case: &&Case| request.target().contains(&case.mark);
        let Some(case) = script.iter().find(of_request) else {
            return Reply::echo(request);
        };
        let bytes = case.bytes(0);
        match bytes.strip_suffix("…".as_bytes()) {
            Some(bytes) => Reply::raw(bytes).then_hang(),
            None => Reply::raw(bytes).then_close(),
        }
    })
    .await;
    let world = World::before(origin, Over::Clear, "").await;
    let mut wrong = Vec::new();
    for case in answers.iter() {
        let target = format!("/{}", case.mark);
        let mut h2 = Http2::connect(world.address()).await;
        let over_h2 = h2.try_get(&format!("http://h.test{target}")).await;
        let over_h1 = world
            .gateway
            .call(&format!("GET {target}"))
            .try_send()
            .await;
        let both = [
            over_h1.map_err(|e| e.to_string()),
            over_h2.map_err(|e| e.to_string()),
        ];
        for answer in both {
            let right = answer.and_then(|answer| check_passed_on(&answer, &case.text(1)));
            wrong.extend(right.err().map(|why| format!("{}: {why}", case.name)));
        }
        // its connection may be one that the origin is closing, and the budget for another try be used up by then
        let next = eventually("an answer to the next one", async || {
            let next = world.gateway.get("/after").await;
            (next.status() == 200).then_some(next)
        })
        .await;
        assert_eq!(next.json()["target"], "/after", "{}", case.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether an answer is the problem that is wanted, or has the fields and the body that are wanted and no others.
fn check_passed_on(answer: &Message, wanted: &str) -> Result<(), String> {
    let (status, rest) = wanted.split_once(' ').expect("a status and more");
    if answer.status().to_string() != status {
        return Err(format!("{answer:?}"));
    }
    if status != "200" {
        return match answer.problem() {
            code if code == rest => Ok(()),
            code => Err(code),
        };
    }
    const OF_US: [&str; 7] = [
        "x-request-id",
        "date",
        "server",
        "connection",
        "content-length",
        "transfer-encoding",
        "via",
    ];
    let fields = answer.fields.iter();
    let fields = fields.filter(|(name, _)| !OF_US.contains(&&*name.to_ascii_lowercase()));
    let found: String = fields
        .map(|(name, value)| format!("{}: {value}\r\n", name.to_ascii_lowercase()))
        .collect();
    let found = format!("{found}\r\n{}", answer.text());
    match found == rest {
        true => Ok(()),
        false => Err(format!("{found:?} and not {rest:?}")),
    }
}

/// Security requirement 2.2, as clients are told of it; 2.5: nobody may ask for the extended CONNECT.
#[tokio::test]
async fn http2_clients_are_told_the_bounds() {
    let world = World::new(Over::Clear, "").await;
    let wire = http2::connect(&world).await.expect("a connection");
    let mut settings = wire.settings.clone();
    settings.sort();
    // streams, window, frame, head; not 8, which is that CONNECT
    let wanted = [(3, 100), (4, 64 << 10), (5, 16 << 10), (6, 32 << 10)];
    assert_eq!(settings, wanted);
}

/// Security requirement 2.2: at a hundred streams the next one is refused, and may be tried again.
#[tokio::test]
async fn more_streams_than_may_be_are_refused() {
    let origin = Origin::start(|request| match request.method() {
        "POST" => Reply::hang(),
        _ => Reply::echo(request),
    });
    let world = World::before(origin.await, Over::Clear, "").await;
    let mut wire = http2::connect(&world).await.expect("a connection");
    let post = ":method: POST¶:scheme: http¶:authority: a¶:path: /";
    for at in 0..=100 {
        wire.send(&http2::head(2 * at + 1, post))
            .await
            .expect("sent");
    }
    let ended = wire.ended(201).await.expect("an end");
    assert_eq!(ended, Ended::Reset("REFUSED_STREAM"));
    assert_eq!(world.gateway.get("/after").await.status(), 200);
}

/// Security requirement 2.3: streams that are opened and reset at once.
#[tokio::test]
async fn a_flood_of_resets_ends_the_connection_and_touches_no_other() {
    let world = World::new(Over::Clear, "").await;
    let mut other = http2::connect(&world).await.expect("a connection");
    let mut wire = http2::connect(&world).await.expect("a connection");
    let get = ":method: GET¶:scheme: http¶:authority: a¶:path: /next.flood";
    let mut flood = Vec::new();
    for stream in (1..1001).step_by(2) {
        flood.extend(http2::head(stream, get));
        flood.extend(frames::reset(stream, frames::CANCEL));
    }
    // the gateway may be gone before it has taken all of it
    let _ = wire.send(&flood).await;
    let ended = wire.ended(u32::MAX).await.expect("an end");
    assert_eq!(ended, Ended::GoneAway("ENHANCE_YOUR_CALM"));
    other.send(&http2::head(1, get)).await.expect("sent");
    let ended = other.ended(1).await.expect("an answer");
    assert!(
        matches!(ended, Ended::Answered { status: 200, .. }),
        "{ended:?}"
    );
}

/// Security requirement 2.5: HTTP/2 in clear is only spoken where a listener asks for it.
#[tokio::test]
async fn the_preface_is_no_request_where_http2_is_not_spoken() {
    let world = World::new(Over::Clear, "").await;
    let mut client = Client::connect(world.gateway.port(8081)).await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let answer = client.response("PRI").await;
    assert_eq!(
        (answer.status(), &*answer.problem()),
        (505, "request.version")
    );
    assert!(client.is_closed().await);
}

/// Requirements that no line of a table can show, and the tests that do.
const ELSEWHERE: [(&str, &str, &str); 2] = [
    (
        "2.3",
        include_str!("mod.rs"),
        "a_flood_of_resets_ends_the_connection_and_touches_no_other",
    ),
    (
        "2.4",
        include_str!("../../src/edge/tests/http2.rs"),
        "silence_does_not_keep_a_connection",
    ),
];

#[test]
fn every_requirement_has_its_cases() {
    let all = [HEADS, FRAMES, PATHS, FIELDS, HOP_FIELDS, HOPS, ANSWERS];
    let all: Vec<Case> = all
        .iter()
        .flat_map(|text| cases("all", text, &[]))
        .collect();
    let mut named = table::rows(&all);
    for (row, file, test) in ELSEWHERE {
        assert!(file.contains(&format!("async fn {test}")), "{row}: {test}");
        named.insert(row.to_owned());
    }
    let rows = [(1, 21), (2, 5), (4, 6), (5, 6)];
    for (section, last) in rows {
        for row in 1..=last {
            let row = format!("{section}.{row}");
            assert!(named.contains(&row), "{row} has no case");
        }
    }
    assert!(all.len() > 500, "{}", all.len());
}
