//! API keys: verifying one with 1, 100,000 and a million of them, and reading a file of a million.

use criterion::{BenchmarkId, Criterion};
use northgate::identity::credentials::ApiKeys;
use northgate::identity::credentials::digest::DigestKey;
use northgate::identity::credentials::lines;
use northgate::identity::credentials::table::{Builder, Table};
use northgate::units::Timestamp;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;
use std::hint::black_box;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Instant;

/// Counts the bytes that are in use.
struct Counting;

static IN_USE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: everything is passed on to the system's allocator
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(rounded(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promises
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(rounded(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promises
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What an allocator takes for it: the next multiple of 16.
fn rounded(size: usize) -> isize {
    isize::try_from(size.next_multiple_of(16)).unwrap_or(isize::MAX)
}

fn key_of(number: usize) -> String {
    format!("ng_{number:043}000000")
}

/// A file of so many keys, each of a consumer of its own.
fn file(digests: &DigestKey, count: usize) -> String {
    let mut text = String::new();
    for number in 0..count {
        let digest = digests.written(digests.digest(key_of(number).as_bytes()));
        let _ = writeln!(
            text,
            "key-{number} {digest} consumer-{number} 2100-01-01 plan=gold"
        );
    }
    text
}

/// As a configuration is compiled.
fn table(digests: &DigestKey, text: &str) -> Table {
    let mut builder = Builder::default();
    builder.reserve(memchr::memchr_iter(b'\n', text.as_bytes()).count());
    for line in lines::keys(text) {
        let line = line.expect("a line");
        assert!(digests.made(&line.digest));
        builder.add(&line.key, line.line).expect("no clash");
    }
    builder.finish()
}

pub fn bench(criterion: &mut Criterion) {
    let digests = DigestKey::new(b"a key of sixteen bytes and more");
    let now: Timestamp = "2027-01-01".parse().expect("a moment");
    let mut group = criterion.benchmark_group("api_key");
    for count in [1, 100_000, 1_000_000] {
        let text = file(&digests, count);
        let (before, started) = (IN_USE.load(Ordering::Relaxed), Instant::now());
        let table = table(&digests, &text);
        let (took, used) = (started.elapsed(), IN_USE.load(Ordering::Relaxed) - before);
        println!(
            "api_key: {count} keys were read in {took:.2?}, and take {} bytes each",
            used / isize::try_from(count).expect("a count")
        );
        drop(text);
        let keys = ApiKeys {
            key: digests.clone(),
            table,
        };
        let sample: Vec<String> = (0..1024).map(|at| key_of(at * count / 1024)).collect();
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("accepted", count), |bencher| {
            bencher.iter(|| {
                turn = (turn + 1) % sample.len();
                let key = sample.get(turn).expect("a key");
                assert!(keys.verify(black_box(key.as_bytes()), now).is_ok());
            });
        });
        group.bench_function(BenchmarkId::new("unknown", count), |bencher| {
            bencher.iter(|| assert!(keys.verify(black_box(b"ng_unknown"), now).is_err()));
        });
    }
    group.finish();
}
