//! What a choice among the endpoints of a service costs: for each balancer, with 3, 100 and 5,000 endpoints, on one
//! thread and on eight at the same time. A choice is counted with all that comes with it: the request in flight, begun
//! and ended, and the set, found, held and let go.
//!
//! What is measured is the time on a processor, of all threads together, for each choice: that is what a choice takes from
//! everything else. Eight threads on fewer processors take turns, and by the clock each choice would count the turns of
//! the others; waiting for a cache line that another processor writes is time on a processor, and is in it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a bench may end by panicking"
)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use nix::time::{ClockId, clock_gettime};
use northgate::observe::metrics::Metrics;
use northgate::state::{State, monotonic_nanos_coarse};
use northgate::upstream::balance::{Balance, Balancing, Hashing, Key, Keyed};
use northgate::upstream::endpoint::Connecting;
use northgate::upstream::service::{Host, Maker, Parts, Placed, Timeouts};
use northgate::upstream::wire::{Protocol, Wire};
use northgate::upstream::{Choice, Observed, Outcome, Place, Service};
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::Duration;

const SIZES: [u16; 3] = [3, 100, 5_000];
const THREADS: [u32; 2] = [1, 8];

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

fn service(balance: Balance, slow_start: Option<Duration>, size: u16) -> Service {
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
    let parts = Parts {
        health_check: None,
        timeouts: Timeouts::DEFAULT,
        host: Host::Preserve,
        body_limit: None,
        message_limit: None,
        retries: Default::default(),
        guards: Default::default(),
        connecting_max: None,
    };
    Service::new(maker, endpoints, parts)
}

fn choose(service: &Service, key: u64) {
    let set = service.set();
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

/// The time that this thread has had on a processor.
fn on_processor() -> Duration {
    let spent = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock of the thread");
    spent.into()
}

/// What so many choices take.
fn alone(service: &Service, choices: u64, thread: u64) -> Duration {
    let before = on_processor();
    for key in 0..choices {
        choose(service, thread << 32 | key);
    }
    on_processor() - before
}

/// What so many choices take on each of some threads, started together; the mean of the threads.
fn together(service: &Service, threads: u32, choices: u64) -> Duration {
    let barrier = Barrier::new(threads as usize);
    let all: Duration = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    alone(service, choices, thread.into())
                })
            })
            .collect();
        let each = running
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        each.sum()
    });
    all / threads
}

fn balance(criterion: &mut Criterion) {
    for (name, balance, slow_start) in balancers() {
        let mut group = criterion.benchmark_group(format!("balance/{name}"));
        group.sample_size(20);
        group.measurement_time(Duration::from_secs(2));
        group.warm_up_time(Duration::from_millis(500));
        for size in SIZES {
            let service = service(balance.clone(), slow_start, size);
            for threads in THREADS {
                let id =
                    BenchmarkId::new(format!("{size}_endpoints"), format!("{threads}_threads"));
                group.bench_function(id, |bencher| {
                    bencher.iter_custom(|choices| match threads {
                        1 => alone(&service, choices, 0),
                        _ => together(&service, threads, choices),
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, balance);
criterion_main!(benches);
