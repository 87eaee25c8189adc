//! The brake on guessing: what each password and key pays for it while nobody guesses, and while many do.

use criterion::Criterion;
use northgate::identity::guessing::{Brake, Guess};
use northgate::observe::random::mix;
use northgate::units::Rate;
use std::hint::black_box;

const START: u64 = 1_000_000_000_000_000;

fn guess(number: u64) -> Guess {
    Guess {
        address: Some(mix(number)),
        name: Some(mix(number + 1)),
        pair: mix(number + 2),
        whole: mix(number + 3),
    }
}

pub fn bench(criterion: &mut Criterion) {
    let limit = |rate: &str| Some(rate.parse::<Rate>().expect("a rate").into());
    let mut group = criterion.benchmark_group("guessing");
    for (name, failures) in [("quiet", 0), ("100000_failed", 100_000)] {
        let brake = Brake::new(limit("20/1m"), limit("10/1m"));
        for number in 0..failures {
            brake.failed(&guess(number * 8), None, START);
        }
        let known = guess(7);
        group.bench_function(format!("right/{name}"), |bencher| {
            bencher.iter(|| {
                let known = black_box(&known);
                assert!(brake.admit(known, START).is_ok());
                brake.succeeded(known, START);
            });
        });
        let mut number = 1 << 40;
        group.bench_function(format!("wrong/{name}"), |bencher| {
            bencher.iter(|| {
                number += 8;
                let wrong = guess(number);
                if brake.admit(&wrong, START).is_ok() {
                    brake.failed(&wrong, None, START);
                }
            });
        });
    }
    group.finish();
}
