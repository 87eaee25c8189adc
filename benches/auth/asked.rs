//! Those whom somebody else is asked about, introspected tokens and `forward`: through the compiled policy, with a server
//! on a thread of its own that answers at once. Cached is what nearly every request pays; uncached is two passes through
//! the kernel's loopback for the most part.

use criterion::Criterion;
use futures::FutureExt;
use northgate::boot::{configuration, install_crypto};
use northgate::exchange::Exchange;
use northgate::exchange::connection::{Connection, Peer};
use northgate::proxy::context::RequestContext;
use northgate::proxy::intake;
use pingora_http::RequestHeader;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// A request on its way through the policies of its route.
struct Request {
    head: RequestHeader,
    context: RequestContext,
}

impl Request {
    /// A GET with that token.
    fn with_token(&mut self, number: usize) {
        let value = format!("Bearer {number:043}");
        self.head
            .insert_header("authorization", value)
            .expect("a valid field");
    }

    /// All policies, each of which lets pass.
    async fn pass(&mut self) {
        let route = self.context.route.clone();
        let facts = self.context.facts.as_mut().expect("an understood request");
        facts.identity = None;
        facts.granted.clear();
        let request = &self.head;
        let passed = route
            .chain
            .on_request(&mut Exchange { request, facts })
            .await;
        assert!(passed.is_ok(), "{passed:?}");
    }
}

pub fn bench(c: &mut Criterion) {
    install_crypto();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let server = server();
    let introspection = |cache: &str| {
        format!(
            "{{introspection: {{url: \"http://{server}/\", client_id: edge, client_secret: secret{cache}}}}}"
        )
    };
    let forward =
        |cache: &str| format!("{{forward: {{service: asked, response_headers: x-user{cache}}}}}");
    uncached(
        c,
        &runtime,
        "introspection",
        &introspection(", cache: off"),
        server,
    );
    uncached(c, &runtime, "forward", &forward(""), server);
    let kept = forward(", cache: {ttl: 1h, by: header.authorization, size: 100000}");
    for count in [1, 10_000] {
        cached(
            c,
            &runtime,
            "introspection",
            &introspection(""),
            server,
            count,
        );
    }
    for count in [1, 100_000] {
        cached(c, &runtime, "forward", &kept, server, count);
    }
}

fn uncached(c: &mut Criterion, runtime: &Runtime, name: &str, auth: &str, server: SocketAddr) {
    let mut request = request(auth, server);
    let mut number = 0;
    c.bench_function(&format!("{name}/uncached"), |b| {
        b.iter(|| {
            number += 1;
            request.with_token(number);
            runtime.block_on(request.pass());
        });
    });
}

/// Bearers that were asked about before, as far as they are kept.
fn cached(
    c: &mut Criterion,
    runtime: &Runtime,
    name: &str,
    auth: &str,
    server: SocketAddr,
    count: usize,
) {
    let mut request = request(auth, server);
    let mut kept = Vec::new();
    for number in 0..count {
        request.with_token(number);
        runtime.block_on(request.pass());
    }
    for number in 0..count {
        request.with_token(number);
        // what has to be asked again is given up
        if request.pass().now_or_never().is_some() {
            kept.push(number);
        }
    }
    println!("{name}: of {count} verdicts {} are kept", kept.len());
    assert!(kept.len() * 10 > count * 9);
    let mut at = 0;
    c.bench_function(&format!("{name}/cached_of_{count}"), |b| {
        b.iter_custom(|times| {
            let mut took = Duration::ZERO;
            for _ in 0..times {
                at = (at + 1) % kept.len();
                // a client's field is read, not made
                request.with_token(kept[at]);
                let began = Instant::now();
                let passed = request.pass().now_or_never();
                took += began.elapsed();
                assert!(passed.is_some(), "it was kept");
            }
            took
        });
    });
}

/// One that has come in at a gateway with this `auth`.
fn request(auth: &str, server: SocketAddr) -> Request {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("northgate.yaml");
    let yaml = format!(
        "version: 1\nlisteners: {{public: {{address: 127.0.0.1:1}}}}\n\
         services: {{asked: {{endpoints: {server}}}}}\n\
         routes: {{all: {{match: {{path: /**}}, service: asked, policies: {{auth: {auth}}}}}}}\n"
    );
    std::fs::write(&path, yaml).expect("a file");
    let compiled = configuration::check(&path);
    let snapshot = Arc::new(
        compiled
            .map_err(|refused| refused.diagnostics)
            .expect("a configuration")
            .snapshot,
    );
    let listener = snapshot
        .listeners
        .get("public")
        .expect("a listener")
        .facts
        .clone();
    let peer = Peer::Ip(([192, 0, 2, 1], 1000).into());
    let connection = Arc::new(Connection::new(listener, peer, Some(80), None));
    let mut head = RequestHeader::build("GET", b"/orders/4711", None).expect("a target");
    head.insert_header("host", "api.example.com")
        .expect("a valid field");
    let mut context = RequestContext::new(snapshot);
    intake::understand(&mut head, connection, &mut context).expect("a route");
    Request { head, context }
}

/// Answers that whoever is asked about may pass, on connections that are kept.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    let body = r#"{"active":true,"client_id":"web","sub":"f81d4fae-7dec-11d0-a765-00a0c91e6bf6","scope":"openid","exp":4102444800}"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-user: alice\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.set_nodelay(true);
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        read.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&read).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length = length.map_or(0, |length| length.trim().parse().expect("a number"));
        if body.len() >= length {
            read.clear();
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}
