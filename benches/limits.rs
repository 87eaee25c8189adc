//! What a decision of a limit costs: by window and by bucket, on one thread, on two and on eight at the same time, all for
//! one key, and for 100,000 keys of which few are asked for often (Zipf). And what a place among all requests in flight
//! costs, to be taken and given back, against one count that all threads write.
//!
//! As in `balance`, what is measured is the time on a processor, of all threads together, for each decision.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a bench may end by panicking"
)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use nix::time::{ClockId, clock_gettime};
use northgate::limit::bucket::{Rate, TokenBuckets};
use northgate::limit::lease::{Answer, Leases, Terms};
use northgate::limit::overload::{Desk, Limits, Memory, Overload};
use northgate::limit::window::SlidingWindow;
use northgate::state::monotonic_nanos;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::time::Duration;

const THREADS: [u64; 3] = [1, 2, 8];
const KEYS: u64 = 100_000;
const LIMIT: u64 = 1_000_000;
const WINDOW: Duration = Duration::from_secs(60);

/// An even spread (the finisher of SplitMix64).
fn spread(of: u64) -> u64 {
    let of = (of ^ (of >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let of = (of ^ (of >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    of ^ (of >> 31)
}

/// Keys in the order in which they are asked for: the n-th as often as 1/n.
fn zipf() -> Vec<u64> {
    let drawn = (0..1u64 << 16).map(|at| {
        // of a density of 1/x, the logarithm is even
        let even = spread(at + 1) as f64 / u64::MAX as f64;
        (KEYS as f64).powf(even) as u64
    });
    drawn.map(|rank| spread(rank + 1)).collect()
}

/// The time that this thread has had on a processor.
fn on_processor() -> Duration {
    let spent = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock of the thread");
    spent.into()
}

/// What so many decisions on each thread take, of all threads the mean.
fn measured(
    threads: u64,
    times: u64,
    keys: &[u64],
    decide: &(impl Fn(usize, u64) + Sync),
) -> Duration {
    let together = Barrier::new(threads as usize);
    let each: Duration = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                let together = &together;
                scope.spawn(move || {
                    let from = keys.len() * thread as usize / threads as usize;
                    let mut order = keys.iter().cycle().skip(from);
                    together.wait();
                    let before = on_processor();
                    for _ in 0..times {
                        decide(thread as usize, black_box(*order.next().expect("a cycle")));
                    }
                    on_processor() - before
                })
            })
            .collect();
        let times = running.into_iter().map(|one| one.join().expect("a thread"));
        times.sum()
    });
    each / u32::try_from(threads).expect("few")
}

/// Leases of all these keys that nobody uses up.
fn leased(keys: &[u64]) -> Leases {
    let day = Duration::from_secs(86_400);
    let (leases, terms, now) = (
        Leases::new(KEYS),
        Terms::of_window(LIMIT, day),
        monotonic_nanos(),
    );
    for key in keys {
        // the few that find no place are decided on elsewhere
        if let Some(cell) = leases.cell(*key, terms, now, Box::default) {
            let answer = Answer {
                granted: 1 << 40,
                room: LIMIT,
                after: 0,
                mark: 1,
            };
            cell.answered(answer, now, terms, now);
        }
    }
    leases
}

fn limits(criterion: &mut Criterion) {
    let orders = [("hot", vec![spread(7)]), ("zipf", zipf())];
    for (name, keys) in &orders {
        let mut group = criterion.benchmark_group(format!("limits/window/{name}"));
        for threads in THREADS {
            let window = SlidingWindow::new(WINDOW, KEYS);
            let decide = |_, key| {
                black_box(window.admit(key, 1, LIMIT, monotonic_nanos()));
            };
            group.bench_function(BenchmarkId::from_parameter(threads), |bencher| {
                bencher.iter_custom(|times| measured(threads, times, keys, &decide));
            });
        }
        group.finish();
        let mut group = criterion.benchmark_group(format!("limits/bucket/{name}"));
        for threads in THREADS {
            let (buckets, rate) = (TokenBuckets::new(KEYS), Rate::new(LIMIT, WINDOW, LIMIT));
            let decide = |_, key| {
                black_box(buckets.admit(key, 1, rate, monotonic_nanos()));
            };
            group.bench_function(BenchmarkId::from_parameter(threads), |bencher| {
                bencher.iter_custom(|times| measured(threads, times, keys, &decide));
            });
        }
        group.finish();
        // of a limit that gateways share: what is leased is spent
        let mut group = criterion.benchmark_group(format!("limits/lease/{name}"));
        for threads in THREADS {
            let leases = leased(keys);
            let decide = |_, key| {
                black_box(leases.spend(key, 1, monotonic_nanos()));
            };
            group.bench_function(BenchmarkId::from_parameter(threads), |bencher| {
                bencher.iter_custom(|times| measured(threads, times, keys, &decide));
            });
        }
        group.finish();
    }
}

fn overload(criterion: &mut Criterion) {
    const LIMIT: u32 = 100_000;
    let limits = Limits {
        connections: 1,
        requests: LIMIT,
        memory: Memory::Share(900_000),
    };
    let mut group = criterion.benchmark_group("limits/overload");
    for threads in THREADS {
        let overload = Arc::new(Overload::new(threads as usize, limits));
        let desks: Vec<Desk> = (0..threads).map(|at| overload.desk(at as usize)).collect();
        let enter = |thread: usize, _| {
            black_box(desks[thread].enter(|| 0).expect("a place"));
        };
        group.bench_function(BenchmarkId::new("place", threads), |bencher| {
            bencher.iter_custom(|times| measured(threads, times, &[7], &enter));
        });
        let count = AtomicU32::new(0);
        let both = |_, _| {
            assert!(black_box(count.fetch_add(1, Relaxed)) < LIMIT);
            count.fetch_sub(1, Relaxed);
        };
        group.bench_function(BenchmarkId::new("one_count", threads), |bencher| {
            bencher.iter_custom(|times| measured(threads, times, &[7], &both));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = limits, overload
}
criterion_main!(benches);
