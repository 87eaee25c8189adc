//! What a choice among the endpoints of a service costs: for each balancer, with 3, 100 and 5,000 endpoints, on one
//! thread and on eight at the same time. A choice is counted with all that comes with it: the request in flight, begun
//! and ended, and the set, held and let go.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a bench may end by panicking"
)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use northgate::observe::metrics::Metrics;
use northgate::state::{State, monotonic_nanos_coarse};
use northgate::upstream::balance::{Balance, Balancing, Hashing, Key, Keyed};
use northgate::upstream::endpoint::Connecting;
use northgate::upstream::service::{Maker, Placed};
use northgate::upstream::wire::{Protocol, Wire};
use northgate::upstream::{Choice, EndpointSet, Observed, Outcome, Place};
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const SIZES: [u16; 3] = [3, 100, 5_000];
const THREADS: [usize; 2] = [1, 8];

fn balancers() -> [(&'static str, Balance, Option<Duration>); 6] {
    let hashing = Hashing {
        key: Keyed([].into()),
        overload_ppm: Some(250_000),
    };
    [
        ("least_request", Balance::LeastRequest, None),
        (
            "least_request_slow_start",
            Balance::LeastRequest,
            Some(Duration::from_secs(30)),
        ),
        ("ewma", Balance::Ewma, None),
        ("round_robin", Balance::RoundRobin, None),
        ("random", Balance::Random, None),
        (
            "consistent_hash",
            Balance::ConsistentHash(Arc::new(hashing)),
            None,
        ),
    ]
}

fn set(balance: Balance, slow_start: Option<Duration>, size: u16) -> Arc<EndpointSet> {
    let balancing = Balancing {
        balance,
        slow_start,
        sticky: None,
    };
    let connecting = Connecting {
        wire: Wire::new("s", Protocol::Auto, None),
        steps: Default::default(),
        pool_idle: None,
        post_idle: None,
    };
    let (state, metrics) = (Arc::new(State::default()), Metrics::new());
    let maker = Maker::new("bench", balancing, connecting, &state, &metrics);
    let endpoints = (0..size).map(|at| {
        let [high, low] = at.to_be_bytes();
        let placed = Placed {
            place: Place::Tcp(([10, 0, high, low], 80).into()),
            weight: 1 + u32::from(at % 3),
            name: None,
        };
        let endpoint = maker.endpoint(placed).expect("an address");
        endpoint.observe(Observed {
            outcome: Outcome::Answered(200),
            took: Duration::from_micros(500 + u64::from(at % 7) * 100),
        });
        endpoint
    });
    let endpoints = endpoints.collect();
    Arc::new(maker.set(endpoints))
}

fn choose(set: &Arc<EndpointSet>, key: u64) {
    let choice = Choice {
        key: Some(Key(key)),
        now: if set.takes_time() {
            monotonic_nanos_coarse()
        } else {
            0
        },
        ..Choice::default()
    };
    black_box(set.pick(choice)).expect("somebody is there");
}

/// How long so many choices take on each of some threads, started together.
fn together(set: &Arc<EndpointSet>, threads: usize, choices: u64) -> Duration {
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads as u64)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    for key in 0..choices {
                        choose(set, thread << 32 | key);
                    }
                })
            })
            .collect();
        barrier.wait();
        let started = Instant::now();
        for thread in running {
            thread.join().expect("no panic");
        }
        started.elapsed()
    })
}

fn balance(criterion: &mut Criterion) {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    for (name, balance, slow_start) in balancers() {
        let mut group = criterion.benchmark_group(format!("balance/{name}"));
        group.sample_size(20);
        group.measurement_time(Duration::from_secs(2));
        group.warm_up_time(Duration::from_millis(500));
        for size in SIZES {
            let set = set(balance.clone(), slow_start, size);
            for threads in THREADS {
                let id =
                    BenchmarkId::new(format!("{size}_endpoints"), format!("{threads}_threads"));
                group.bench_function(id, |bencher| {
                    bencher.iter_custom(|choices| match threads {
                        1 => {
                            let started = Instant::now();
                            (0..choices).for_each(|key| choose(&set, key));
                            started.elapsed()
                        }
                        // threads beyond the processors wait for their turn, which is no part of a choice
                        _ => together(&set, threads, choices)
                            .mul_f64(processors.min(threads) as f64 / threads as f64),
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, balance);
criterion_main!(benches);
