//! Clients that take their time, in every way there is, beside others that must not notice (security requirements 3).

use crate::harness::frames::frame;
use crate::harness::{Client, Gateway, Origin, Pki, Reply, eventually, within};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const BOTH: &str = r#"
listeners:
  public: {address: "$address:8080", protocols: [h1, h2c]}
  secure: {address: "$address:8443", tls: {default: a}}
certificates:
  a: {cert: "$dir/a.pem", key: "$dir/a.key"}
services: {app: {endpoints: "$app"}}
routes: {all: {match: {path: /**}, service: app}}
"#;

/// Of each kind.
const CROWD: usize = 150;

/// What a slow client begins with, and what it goes on with, a piece at a time.
#[derive(Clone, Copy)]
enum Slow {
    Head,
    Content,
    Chunks,
    /// Asks for much, and reads nothing.
    Reader,
    /// Has had its answer.
    Idle,
    Handshake,
    /// Content over HTTP/2.
    Stream,
    /// A head over HTTP/2.
    Continuation,
}

const KINDS: [Slow; 8] = [
    Slow::Head,
    Slow::Content,
    Slow::Chunks,
    Slow::Reader,
    Slow::Idle,
    Slow::Handshake,
    Slow::Stream,
    Slow::Continuation,
];

impl Slow {
    fn port(self) -> u16 {
        match self {
            Slow::Handshake => 8443,
            _ => 8080,
        }
    }

    fn beginning(self) -> Vec<u8> {
        // `POST http://h.test/`, by the numbers of RFC 7541, appendix A
        let block = [&[0x83, 0x86, 0x84, 0x01, 6][..], b"h.test"].concat();
        let over_http2 = |flags| {
            let settings = frame(4, 0, 0, &[]);
            [PREFACE, &settings, &frame(1, flags, 1, &block)].concat()
        };
        let post = |framing: &str| format!("POST / HTTP/1.1\r\nHost: h.test\r\n{framing}\r\n\r\n");
        match self {
            Slow::Head => b"GET / HTTP/1.1\r\nHost: h.test\r\nX: ".to_vec(),
            Slow::Content => post("Content-Length: 100000").into_bytes(),
            Slow::Chunks => post("Transfer-Encoding: chunked").into_bytes(),
            Slow::Reader => b"GET /large HTTP/1.1\r\nHost: h.test\r\n\r\n".to_vec(),
            Slow::Idle => b"GET / HTTP/1.1\r\nHost: h.test\r\n\r\n".to_vec(),
            // a hello of 512 bytes, of which little comes
            Slow::Handshake => vec![22, 3, 1, 2, 0, 1],
            Slow::Stream => over_http2(4),
            Slow::Continuation => over_http2(0),
        }
    }

    fn piece(self) -> Vec<u8> {
        match self {
            Slow::Head | Slow::Content => b"x".to_vec(),
            Slow::Chunks => b"1\r\nx\r\n".to_vec(),
            Slow::Reader | Slow::Idle => Vec::new(),
            Slow::Handshake => vec![0],
            Slow::Stream => frame(0, 0, 1, b"x"),
            Slow::Continuation => frame(9, 0, 1, &[0, 1, b'x', 1, b'y']),
        }
    }

    /// Goes on until the gateway has had enough of it, or the test is over.
    async fn run(self, address: SocketAddr) -> io::Result<()> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&self.beginning()).await?;
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            stream.write_all(&self.piece()).await?;
        }
    }
}

#[tokio::test]
async fn slow_clients_of_every_kind_leave_the_others_alone() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(soft.max(8192)), hard).expect("a higher limit");
    let pki = Pki::new();
    let large = vec![b'x'; 4 << 20];
    let origin = Origin::start(move |request| match request.target() {
        "/large" => Reply::ok(&large),
        _ => Reply::ok("here"),
    })
    .await;
    let gateway = Gateway::builder(BOTH)
        .with("app", &origin)
        .identity("a", &pki.server(&["a.test"]))
        .start()
        .await;
    let mut good = gateway.client().await;
    assert_eq!(good.get("h.test", "/").await.status(), 200);
    let resident = async || {
        let metrics = gateway.metrics().await;
        metrics.value("process_resident_memory_bytes", &[])
    };
    let before = resident().await;
    let mut crowd = JoinSet::new();
    for kind in KINDS {
        for _ in 0..CROWD {
            crowd.spawn(kind.run(gateway.port(kind.port())));
        }
    }
    let all = f64::from(u32::try_from(KINDS.len() * CROWD).expect("few"));
    eventually("all of them connected", async || {
        let metrics = gateway.metrics().await;
        let open = |name| metrics.value("northgate_connections", &[("listener", name)]);
        (open("public") + open("secure") > all).then_some(())
    })
    .await;
    for number in 0..300 {
        assert_eq!(good.get("h.test", "/").await.status(), 200);
        if number % 10 == 0 {
            let (mut fresh, _) =
                Client::connect_tls(gateway.port(8443), "a.test", pki.client(&["http/1.1"]))
                    .await
                    .expect("a handshake");
            assert_eq!(fresh.get("a.test", "/").await.status(), 200);
        }
    }
    // what one may take: buffers of 64 KiB each way, and those of HTTP/2
    let each = (resident().await - before) / all;
    assert!(each < f64::from(160 << 10), "{each} bytes for each");
    crowd.shutdown().await;
    eventually("none of them left", async || {
        let metrics = gateway.metrics().await;
        let open = |name| metrics.value("northgate_connections", &[("listener", name)]);
        (open("public") <= 1.0 && open("secure") <= 1.0).then_some(())
    })
    .await;
    assert_eq!(good.get("h.test", "/").await.status(), 200);
}

/// Asks on stream 1, with no room for content; then makes so much room every 50 ms, until the stream has ended. Answers
/// how much content came, and whether it was all of it.
async fn drips(address: SocketAddr, room: u32) -> (usize, bool) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // SETTINGS_INITIAL_WINDOW_SIZE is 0
    let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let block = [&[0x82, 0x86, 0x84, 0x01, 6][..], b"h.test"].concat();
    let beginning = [PREFACE, &settings, &frame(1, 5, 1, &block)].concat();
    stream.write_all(&beginning).await.expect("an open one");
    let (mut read, mut write) = stream.into_split();
    let dripping = tokio::spawn(async move {
        let update = frame(8, 0, 1, &room.to_be_bytes());
        while write.write_all(&update).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let ended = async {
        let mut content = 0;
        loop {
            let mut head = [0; 9];
            read.read_exact(&mut head).await.expect("a frame");
            let [a, b, c, kind, flags, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            read.read_exact(&mut payload).await.expect("a frame");
            match kind {
                0 => content += payload.len(),
                3 => return (content, false),
                _ => {}
            }
            if kind == 0 && flags & 1 == 1 {
                return (content, true);
            }
        }
    };
    let ended = within("the end of the stream", ended).await;
    dripping.abort();
    ended
}

/// Security requirement 2.4: room for a few bytes now and then is no progress, whatever the pieces are in which the answer
/// comes; and who takes enough is waited for, however long the answer is.
#[tokio::test]
async fn an_answer_over_http2_is_taken_at_a_rate_or_not_at_all() {
    let pieces = vec!["x".repeat(50); 1000];
    let origin = Origin::start(move |_| {
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        Reply::chunked(&[], &pieces)
    })
    .await;
    let limited = BOTH.replace(
        "[h1, h2c]}",
        "[h1, h2c], limits: {write: 1s, write_rate: 4KiB}}",
    );
    let gateway = Gateway::builder(&limited)
        .with("app", &origin)
        .identity("a", &Pki::new().server(&["a.test"]))
        .start()
        .await;
    let address = gateway.public();
    let (slow, slower, patient) =
        tokio::join!(drips(address, 50), drips(address, 1), drips(address, 1000));
    assert!(!slow.1 && slow.0 > 0 && slow.0 < 20_000, "{slow:?}");
    assert!(!slower.1 && slower.0 < 1000, "{slower:?}");
    assert_eq!(patient, (50_000, true));
}

/// What TLS has decrypted is not in the socket any more: an upload is read to its end however its records are cut, also
/// where nobody looks at how fast it comes, as behind a request for a stream of events.
#[tokio::test]
async fn an_upload_that_was_waited_for_is_read_to_its_end_under_tls() {
    let origin = Origin::start(|request| Reply::ok(request.message.body.len().to_string())).await;
    let pki = Pki::new();
    let gateway = Gateway::builder(BOTH)
        .with("app", &origin)
        .identity("a", &pki.server(&["a.test"]))
        .start()
        .await;
    let mut config = (*pki.client(&["http/1.1"])).clone();
    config.max_fragment_size = Some(10_000);
    let config = std::sync::Arc::new(config);
    for (bytes, accept) in [
        (66_000, "text/event-stream"),
        (68_000, "text/event-stream"),
        (150_000, "text/event-stream"),
        (68_000, "*/*"),
    ] {
        let connected = Client::connect_tls(gateway.port(8443), "a.test", config.clone()).await;
        let (mut client, _) = connected.expect("a connection");
        let head = format!(
            "POST / HTTP/1.1\r\nHost: a.test\r\nAccept: {accept}\r\nContent-Length: {bytes}\r\n\r\n"
        );
        client.send(head).await;
        // so that the content has to be waited for; where it is not, the test shows less, and does not fail
        tokio::time::sleep(Duration::from_millis(150)).await;
        client.send("x".repeat(bytes)).await;
        let answer = client.response("POST").await;
        assert_eq!(answer.body, bytes.to_string().as_bytes(), "{accept}");
    }
}
