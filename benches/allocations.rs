//! How often, and how much, one plain request allocates on its way through the whole gateway.
//!
//! Counts instead of seconds: the figures are the same on a busy machine, so they are kept in `benches/allocations.txt`
//! and checked. Client and origin are threads of this process that read and write into fixed buffers and never allocate,
//! so that what is counted is the gateway's. Bare Pingora, with nothing added to it, is the yardstick.
//!
//! ```sh
//! cargo bench --bench allocations              # prints the figures
//! cargo bench --bench allocations -- --bless   # and keeps them
//! cargo test --bench allocations -- --check    # fails when a request allocates more than what was kept
//! ```

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench may end by panicking"
)]

use northgate::boot::{self, Options};
use pingora::prelude::*;
use pingora::server::configuration::{Opt, ServerConf};
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Passes everything on, and counts.
struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

fn count(bytes: usize) {
    COUNT.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc`
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc`
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BODY_BYTES: usize = 1024;
const WARM_UP: u32 = 500;
const REQUESTS: u32 = 2000;

/// What a run may allocate beyond the kept figure: background work of a second or two falls into it.
const TOLERANCE: f64 = 0.5;

/// Each is measured in a process of its own, since a process has one gateway.
const CASES: &[&str] = &[
    "bare Pingora",
    "metrics, no log",
    "metrics, JSON log",
    "eight policies",
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, case] = arguments.as_slice()
        && flag == "--case"
    {
        return one(case);
    }
    let report: String = CASES.iter().map(|case| run_case(case)).collect();
    print!("{report}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/allocations.txt");
    if arguments.iter().any(|argument| argument == "--bless") {
        std::fs::write(path, report).expect("the figures");
        return ExitCode::SUCCESS;
    }
    let checks = arguments.iter().any(|argument| argument == "--check");
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    if checks && !holds(&report, &kept) {
        eprintln!("a request allocates more often than benches/allocations.txt says:\n{kept}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The line of a case, from a process of its own.
fn run_case(case: &str) -> String {
    let own = std::env::current_exe().expect("this program");
    let output = Command::new(own)
        .args(["--case", case])
        .output()
        .expect("a child");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        !text.is_empty(),
        "{case}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Whether no case allocates more often than it did.
fn holds(report: &str, kept: &str) -> bool {
    let figures = |text: &str| -> Vec<f64> {
        text.lines()
            .filter_map(|line| line.split_whitespace().rev().nth(3)?.parse().ok())
            .collect()
    };
    let (now, then) = (figures(report), figures(kept));
    now.len() == then.len()
        && now
            .iter()
            .zip(&then)
            .all(|(now, then)| *now <= then + TOLERANCE)
}

fn one(case: &str) -> ExitCode {
    let origin = origin();
    let front = free_address();
    if case == "bare Pingora" {
        std::thread::spawn(move || bare(front, origin));
    } else {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("northgate.yaml");
        std::fs::write(&path, configuration(case, folder.path(), front, origin)).expect("a file");
        // the folder lives as long as this process, which ends without asking the gateway
        let _ = folder.keep();
        std::thread::spawn(move || {
            boot::run(Options {
                config: Some(path),
                demo: false,
            })
        });
    }
    let mut client = Client::connect(front);
    for _ in 0..WARM_UP {
        client.exchange();
    }
    let before = (COUNT.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    for _ in 0..REQUESTS {
        client.exchange();
    }
    let calls = COUNT.load(Ordering::Relaxed) - before.0;
    let bytes = BYTES.load(Ordering::Relaxed) - before.1;
    let each = |total: u64| total as f64 / f64::from(REQUESTS);
    println!(
        "{case:18}{:8.1} calls{:8.0} bytes",
        each(calls),
        each(bytes)
    );
    ExitCode::SUCCESS
}

fn configuration(case: &str, folder: &Path, front: SocketAddr, origin: SocketAddr) -> String {
    let folder = folder.display();
    let log = match case {
        "metrics, JSON log" => format!("{{path: \"{folder}/access.log\"}}"),
        _ => "off".to_owned(),
    };
    let policies = match case {
        "eight policies" => EIGHT_POLICIES,
        _ => "",
    };
    format!(
        "version: 1\nthreads: 1\nadmin: {{address: \"unix:{folder}/admin.sock\"}}\naccess_log: {log}\n\
         listeners: {{public: {{address: \"{front}\"}}}}\nservices: {{app: {{endpoints: \"{origin}\"}}}}\n\
         routes: {{all: {{match: {{path: /**}}, service: app}}}}\n{policies}"
    )
}

const EIGHT_POLICIES: &str = r#"
policies:
  ip_filter: {deny: 192.0.2.0/24}
  ip_filter.second: {deny: 198.51.100.0/24}
  cors: {origins: "https://app.example.com"}
  respond.maintenance: {status: 503, when: {path: /shop/**}}
  respond.robots: {status: 403, when: {header: {user-agent: BadBot}}}
  headers: {request: {set: {x-a: "1"}}}
  headers.second: {response: {set: {x-b: "2"}}}
  headers.third: {response: {remove: server}}
"#;

/// Sends every request to one endpoint, and nothing else.
struct Bare(SocketAddr);

#[async_trait::async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn early_request_filter(&self, session: &mut Session, (): &mut ()) -> Result<()> {
        session.set_keepalive(Some(75));
        Ok(())
    }

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

fn bare(front: SocketAddr, origin: SocketAddr) {
    let conf = ServerConf {
        threads: 1,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None::<Opt>, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare(origin));
    service.add_tcp(&front.to_string());
    server.add_service(service);
    server.run_forever();
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    listener.local_addr().expect("its address")
}

/// Answers everything with 1 KiB, on as many connections as come.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
    );
    let mut response = head.into_bytes();
    response.resize(response.len() + BODY_BYTES, b'x');
    let _ = stream.set_nodelay(true);
    let (mut buffer, mut filled) = ([0; 8192], 0);
    while let Ok(count @ 1..) = stream.read(&mut buffer[filled..]) {
        filled += count;
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            if stream.write_all(&response).is_err() {
                return;
            }
        }
    }
}

/// One kept connection.
struct Client {
    stream: TcpStream,
    buffer: [u8; 8192],
}

impl Client {
    /// Waits for the gateway to listen.
    fn connect(address: SocketAddr) -> Self {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
                Ok(stream) => {
                    stream.set_nodelay(true).expect("TCP_NODELAY");
                    stream
                        .set_read_timeout(Some(Duration::from_secs(20)))
                        .expect("a timeout");
                    let buffer = [0; 8192];
                    return Self { stream, buffer };
                }
                Err(error) if Instant::now() > deadline => panic!("{address}: {error}"),
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    /// A request and its whole answer.
    fn exchange(&mut self) {
        let request = b"GET /orders/42?page=1 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
        self.stream.write_all(request).expect("sent");
        let (mut filled, mut wanted) = (0, usize::MAX);
        while filled < wanted {
            let count = self
                .stream
                .read(&mut self.buffer[filled..])
                .expect("an answer");
            assert!(count > 0, "the gateway closed");
            filled += count;
            if wanted == usize::MAX {
                let head = self.buffer[..filled]
                    .windows(4)
                    .position(|end| end == b"\r\n\r\n");
                wanted = head.map_or(usize::MAX, |head| head + 4 + BODY_BYTES);
            }
        }
        assert!(self.buffer.starts_with(b"HTTP/1.1 200 "), "not 200");
    }
}
