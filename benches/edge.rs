//! What the guard around the stream looks at: heads and chunks of HTTP/1, frames of HTTP/2. Each byte is looked at once.

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(clippy::expect_used, reason = "a bench may end by panicking")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use northgate::edge::{Chunks, Frames, HeadLimits, HeadScanner, Verdict};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

/// What a tool sends.
const SMALL: &str = "GET /orders/7f9c24e5 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

/// What a browser sends: about 1.2 KiB.
fn browser() -> String {
    let fields = [
        ("Host", "shop.example.com"),
        ("Connection", "keep-alive"),
        ("sec-ch-ua", r#""Chromium";v="131", "Not_A Brand";v="24""#),
        ("sec-ch-ua-mobile", "?0"),
        ("sec-ch-ua-platform", r#""Linux""#),
        ("Upgrade-Insecure-Requests", "1"),
        (
            "User-Agent",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
        ),
        (
            "Accept",
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
        ),
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Dest", "document"),
        ("Referer", "https://shop.example.com/orders?page=1"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Accept-Language", "en-GB,en;q=0.9,de;q=0.8"),
    ];
    let lines: String = fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let cookie = "0123456789abcdef".repeat(20);
    format!("GET /orders?page=2 HTTP/1.1\r\n{lines}Cookie: session={cookie}\r\n\r\n")
}

fn heads(criterion: &mut Criterion) {
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a.example\r\n{}\r\n",
        format!("X-Field: {}\r\n", "v".repeat(300)).repeat(90)
    );
    let mut group = criterion.benchmark_group("head");
    for (name, head) in [
        ("small", SMALL.to_owned()),
        ("browser", browser()),
        ("28_kib", large),
    ] {
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut scanner = HeadScanner::new(HeadLimits::default());
                let head = scanner.advance(black_box(head.as_bytes()));
                black_box(head.expect("well formed").is_some())
            });
        });
    }
    // as slowly as it may come: what is known of it is not looked at again
    let head = browser();
    group.throughput(Throughput::Bytes(head.len() as u64));
    group.bench_function("browser_in_16_reads", |bencher| {
        bencher.iter(|| {
            let mut scanner = HeadScanner::new(HeadLimits::default());
            let mut found = false;
            for part in 1..=16 {
                let known = head.as_bytes().get(..head.len() * part / 16);
                let head = scanner.advance(black_box(known.unwrap_or_default()));
                found = head.expect("well formed").is_some();
            }
            black_box(found)
        });
    });
    group.finish();
}

fn chunks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunks");
    for (name, bytes, count) in [
        ("1_of_1_kib", 1024, 1),
        ("16_of_4_kib", 4096, 16),
        ("64_of_16_bytes", 16, 64),
    ] {
        let chunk = format!("{bytes:x}\r\n{}\r\n", "x".repeat(bytes));
        let content = chunk.repeat(count) + "0\r\n\r\n";
        group.throughput(Throughput::Bytes(content.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut chunks = Chunks::default();
                let taken = chunks.advance(black_box(content.as_bytes()));
                black_box(taken.expect("well formed"))
            });
        });
    }
    group.finish();
}

fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
    let [.., high, middle, low] = u32::try_from(length).expect("a frame").to_be_bytes();
    let mut frame = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
    frame.resize(9 + length, 0x55);
    frame
}

fn frames(criterion: &mut Criterion) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let request = frame(1, 5, 60);
    let upload = [frame(1, 4, 60), frame(0, 1, 16384)].concat();
    let windows = frame(8, 0, 4).repeat(100);
    let mut group = criterion.benchmark_group("frames");
    for (name, bytes) in [
        ("one_request", request),
        ("upload_of_16_kib", upload),
        ("100_window_updates", windows),
    ] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| {
            let following = || {
                let mut frames =
                    Frames::new(Arc::<Verdict>::default(), Duration::from_secs(10), 32 << 10);
                frames.read(PREFACE);
                frames
            };
            bencher.iter_batched_ref(
                following,
                |frames| frames.read(black_box(&bytes)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, heads, chunks, frames);
criterion_main!(benches);
