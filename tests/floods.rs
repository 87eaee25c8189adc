//! Floods of HTTP/2: each is ended with a `GOAWAY`, and nobody else notices (security requirements 2.2 to 2.5).

use crate::harness::frames::{ENHANCE_YOUR_CALM, frame, reset};
use crate::harness::{Gateway, Origin, Reply, eventually};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::timeout;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const COMPRESSION_ERROR: u32 = 9;

/// Far more than is let through.
const SOME: u32 = 2000;
const MANY: u32 = 200_000;

/// Longer than any of them lasts.
const PATIENCE: Duration = Duration::from_secs(60);

const PLAIN: &str = r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
services: {app: {endpoints: "$app"}}
routes: {all: {match: {path: /**}, service: app}}
"#;

/// The fields of a request (RFC 7541, appendix A: 2 and 3 are the methods, 4 the path, 6 the scheme, 1 the authority).
fn request(method: u8) -> Vec<u8> {
    let authority = b"h.test";
    let mut block = vec![0x80 | method, 0x86, 0x84, 0x01, 6];
    block.extend(authority);
    block
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request(2))
}

/// A request whose content is still to come.
fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request(3))
}

/// The number of the client's nth stream.
fn nth(n: u32) -> u32 {
    2 * n + 1
}

/// One kind of flood.
struct Flood {
    name: &'static str,
    opening: Vec<u8>,
    unit: Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>,
    at_most: u32,
    /// What the gateway may say.
    codes: &'static [u32],
}

impl Flood {
    fn of(
        name: &'static str,
        opening: &[u8],
        codes: &'static [u32],
        at_most: u32,
        unit: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            opening: opening.to_vec(),
            unit: Box::new(unit),
            at_most,
            codes,
        }
    }
}

/// Sends what `unit` makes again and again until the gateway has closed, and reads all that comes meanwhile. Answers the
/// codes with which it was sent away.
async fn flood(
    address: SocketAddr,
    opening: &[u8],
    unit: impl Fn(u32) -> Vec<u8>,
    at_most: u32,
) -> Vec<u32> {
    let stream = TcpStream::connect(address).await.expect("a connection");
    let (read, mut write) = stream.into_split();
    let codes = tokio::spawn(go_aways(read));
    let settings = frame(SETTINGS, 0, 0, &[]);
    let mut sent = 0;
    if write
        .write_all(&[PREFACE, &settings, opening].concat())
        .await
        .is_ok()
    {
        while sent < at_most && write.write_all(&unit(sent)).await.is_ok() {
            sent += 1;
        }
    }
    let codes = timeout(PATIENCE, codes).await.expect("the connection ends");
    codes.expect("no panic")
}

/// The error codes of all `GOAWAY` until the connection ends.
async fn go_aways(mut stream: OwnedReadHalf) -> Vec<u32> {
    let mut codes = Vec::new();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return codes;
        }
        let [a, b, c, kind, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        if stream.read_exact(&mut payload).await.is_err() {
            return codes;
        }
        if kind == GOAWAY {
            let code = payload[4..8].try_into().expect("four bytes");
            codes.push(u32::from_be_bytes(code));
        }
    }
}

/// Ordinary requests on connections of their own, until it is told to stop.
struct Bystanders {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Bystanders {
    fn of(gateway: &Gateway) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let address = gateway.public();
        let tasks = (0..4).map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            tokio::spawn(async move {
                let mut client = crate::harness::Client::connect(address).await;
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(client.get("h.test", "/").await.status(), 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let tasks = tasks.collect();
        Self {
            stop,
            served,
            tasks,
        }
    }

    async fn finish(self) {
        let before = self.served.load(Ordering::Relaxed);
        eventually("another answer after the floods", async || {
            (self.served.load(Ordering::Relaxed) > before + 8).then_some(())
        })
        .await;
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("every answer is good");
        }
    }
}

async fn resident(gateway: &Gateway) -> f64 {
    let metrics = gateway.metrics().await;
    metrics.value("process_resident_memory_bytes", &[])
}

/// An origin that answers GET and waits for ever with everything else.
async fn origin() -> Origin {
    Origin::start(|request| match request.method() {
        "GET" => Reply::ok("here"),
        _ => Reply::hang(),
    })
    .await
}

/// Streams that are reset, by the client or because of what it does.
fn resets() -> Vec<Flood> {
    vec![
        // CVE-2023-44487
        Flood::of(
            "requests that are reset at once",
            &[],
            &[ENHANCE_YOUR_CALM],
            SOME,
            |n| [get(nth(n)), reset(nth(n), 8)].concat(),
        ),
        // CVE-2025-8671: the client breaks a rule of one stream, and we have to reset it
        Flood::of(
            "windows that grow by nothing",
            &[],
            &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR],
            SOME,
            |n| [post(nth(n)), frame(WINDOW_UPDATE, 0, nth(n), &[0; 4])].concat(),
        ),
        Flood::of(
            "windows that grow too large",
            &[],
            &[ENHANCE_YOUR_CALM],
            SOME,
            |n| {
                let most = 0x7fff_ffff_u32.to_be_bytes();
                [post(nth(n)), frame(WINDOW_UPDATE, 0, nth(n), &most)].concat()
            },
        ),
        Flood::of(
            "content behind its end",
            &[],
            &[ENHANCE_YOUR_CALM, STREAM_CLOSED, PROTOCOL_ERROR],
            SOME,
            |n| [get(nth(n)), frame(DATA, 0, nth(n), b"more")].concat(),
        ),
        Flood::of(
            "streams that depend on themselves",
            &[],
            &[ENHANCE_YOUR_CALM],
            SOME,
            |n| {
                let own = [&nth(n).to_be_bytes()[..], &[0]].concat();
                [post(nth(n)), frame(PRIORITY, 0, nth(n), &own)].concat()
            },
        ),
        Flood::of(
            "more streams than there may be",
            &[],
            &[ENHANCE_YOUR_CALM],
            20_000,
            |n| post(nth(n)),
        ),
    ]
}

/// Frames that carry nothing, or next to nothing.
fn empty_frames() -> Vec<Flood> {
    vec![
        // CVE-2019-9512, -9515 and their kin
        Flood::of("pings", &[], &[ENHANCE_YOUR_CALM], MANY, |_| {
            frame(PING, 0, 0, &[7; 8])
        }),
        Flood::of("settings", &[], &[ENHANCE_YOUR_CALM], MANY, |_| {
            frame(SETTINGS, 0, 0, &[])
        }),
        Flood::of(
            "settings that change the table",
            &[],
            &[ENHANCE_YOUR_CALM],
            MANY,
            |n| frame(SETTINGS, 0, 0, &[0, 1, 0, 0, (n % 16) as u8, 0]),
        ),
        Flood::of("priorities", &[], &[ENHANCE_YOUR_CALM], MANY, |n| {
            frame(PRIORITY, 0, nth(n % 1000), &[0, 0, 0, 0, 16])
        }),
        Flood::of(
            "windows that grow byte by byte",
            &[],
            &[ENHANCE_YOUR_CALM],
            MANY,
            |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        ),
        Flood::of(
            "frames that nobody knows",
            &[],
            &[ENHANCE_YOUR_CALM],
            MANY,
            |_| frame(0xbe, 0, 0, &[1; 32]),
        ),
        // CVE-2019-9518
        Flood::of(
            "content without any",
            &post(1),
            &[ENHANCE_YOUR_CALM],
            MANY,
            |_| frame(DATA, 0, 1, &[]),
        ),
        Flood::of(
            "content a byte at a time",
            &post(1),
            &[ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR],
            MANY,
            |_| frame(DATA, 0, 1, b"x"),
        ),
    ]
}

/// Heads that cost more than they say.
fn heads() -> Vec<Flood> {
    vec![
        // CVE-2024-27316 and its kin
        Flood::of(
            "a head without end",
            &frame(HEADERS, 0, 1, &request(2)),
            &[ENHANCE_YOUR_CALM, COMPRESSION_ERROR],
            MANY,
            |_| frame(CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'y']),
        ),
        Flood::of(
            "a head of nothing without end",
            &frame(HEADERS, 0, 1, &request(2)),
            &[ENHANCE_YOUR_CALM],
            MANY,
            |_| frame(CONTINUATION, 0, 1, &[]),
        ),
        // CVE-2019-9516
        Flood::of(
            "fields without names",
            &[],
            &[ENHANCE_YOUR_CALM, COMPRESSION_ERROR, PROTOCOL_ERROR],
            SOME,
            |n| {
                let block = [request(2), [0x40, 0, 0].repeat(200)].concat();
                frame(HEADERS, END_HEADERS | END_STREAM, nth(n), &block)
            },
        ),
        // h2 answers each with 431 by itself
        Flood::of(
            "heads that are too large",
            &[],
            &[ENHANCE_YOUR_CALM],
            SOME,
            |n| {
                let field = [&[0, 1, b'x', 0x7f, 0xe1, 0x5c][..], &[b'a'; 12_000]].concat();
                let begun = [request(2), field.clone()].concat();
                [
                    frame(HEADERS, END_STREAM, nth(n), &begun),
                    frame(CONTINUATION, 0, nth(n), &field),
                    frame(CONTINUATION, END_HEADERS, nth(n), &field),
                ]
                .concat()
            },
        ),
        // an entry of the table that each of two thousand bytes repeats
        Flood::of(
            "fields that are larger than what says so",
            &[],
            &[ENHANCE_YOUR_CALM, COMPRESSION_ERROR],
            SOME,
            |n| {
                let mut block = request(2);
                block.extend([0x40, 1, b'x', 0x7f, 0x81, 0x1d]);
                block.extend([b'a'; 3840]);
                block.extend([0xbe; 12_000]);
                frame(HEADERS, END_HEADERS | END_STREAM, nth(n), &block)
            },
        ),
    ]
}

#[tokio::test]
async fn a_flood_ends_its_connection_and_nobody_elses() {
    let origin = origin().await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    let bystanders = Bystanders::of(&gateway);
    let before = resident(&gateway).await;
    let floods = [resets(), empty_frames(), heads()];
    let count = floods.iter().map(Vec::len).sum::<usize>();
    let mut wrong = Vec::new();
    for kind in floods.iter().flatten() {
        let Flood {
            opening,
            unit,
            at_most,
            ..
        } = kind;
        let codes = flood(gateway.public(), opening, unit, *at_most).await;
        if !codes.last().is_some_and(|code| kind.codes.contains(code)) {
            wrong.push((kind.name, codes));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let after = resident(&gateway).await;
    assert!(after - before < f64::from(64 << 20), "{before}, {after}");
    bystanders.finish().await;
    let metrics = gateway.metrics().await;
    let labels = [("reason", "request.flood")];
    let counted = metrics.value("northgate_refused_total", &labels);
    assert!(counted >= count as f64 * 0.7, "{counted} of {count}");
    assert_eq!(metrics.value("northgate_panics_total", &[]), 0.0);
}

/// Asks for a hundred large answers on one connection.
fn greedy(window: u32) -> Vec<u8> {
    let window = [&[0, 4][..], &window.to_be_bytes()].concat();
    let block = [&request(2)[..], &[0, 5], b"large", &[1, b'1']].concat();
    let flags = END_HEADERS | END_STREAM;
    let requests = (0..100).map(|n| frame(HEADERS, flags, nth(n), &block));
    let opening = [frame(SETTINGS, 0, 0, &window)].into_iter().chain(requests);
    opening.flatten().collect()
}

/// What the client is owed piles up behind windows that it leaves open on one layer and shut on another
/// ("internal data buffering", CVE-2019-9517), or is taken byte by byte ("data dribble", CVE-2019-9511).
#[tokio::test]
async fn large_answers_that_are_not_taken_cost_little() {
    let large = vec![b'x'; 4 << 20];
    let origin = Origin::start(move |request| match request.header("large") {
        Some(_) => Reply::ok(&large),
        None => Reply::ok("here"),
    })
    .await;
    let gateway = Gateway::before(&origin, PLAIN).await;
    let bystanders = Bystanders::of(&gateway);
    let before = resident(&gateway).await;
    let connect = async |opening: Vec<u8>| {
        let mut stream = TcpStream::connect(gateway.public()).await.expect("one");
        let beginning = [PREFACE, &opening].concat();
        stream.write_all(&beginning).await.expect("an open one");
        stream
    };
    let room = frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes());
    let meanwhile = async |what: &str| {
        let served = bystanders.served.load(Ordering::Relaxed);
        eventually("a thousand answers meanwhile", async || {
            (bystanders.served.load(Ordering::Relaxed) > served + 1000).then_some(())
        })
        .await;
        let after = resident(&gateway).await;
        let grown = after - before;
        assert!(grown < f64::from(64 << 20), "{what}: {grown} bytes");
    };
    let unread = connect([greedy(0x7fff_ffff), room.clone()].concat()).await;
    meanwhile("unread").await;
    drop(unread);
    let (mut dribbled, mut dribbling) = connect([greedy(0), room].concat()).await.into_split();
    let dribble = tokio::spawn(async move {
        let updates = (0..100).map(|n| frame(WINDOW_UPDATE, 0, nth(n), &1_u32.to_be_bytes()));
        let updates: Vec<u8> = updates.flatten().collect();
        while dribbling.write_all(&updates).await.is_ok() {}
    });
    let taken = tokio::spawn(async move {
        let mut bytes = vec![0; 1 << 16];
        while dribbled.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
    });
    meanwhile("dribbled").await;
    taken.abort();
    dribble.abort();
    bystanders.finish().await;
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("northgate_panics_total", &[]), 0.0);
}
