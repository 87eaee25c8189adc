//! Laws that hold for every balancer, seen through whole sets of endpoints.

use super::{Balance, Balancing, Hashing, Key, Keyed};
use crate::observe::metrics::Metrics;
use crate::observe::random::mix;
use crate::state::State;
use crate::upstream::endpoint::Connecting;
use crate::upstream::service::{Maker, Placed};
use crate::upstream::wire::{Protocol, Wire};
use crate::upstream::{Bar, Choice, EndpointSet, Held, Observed, Outcome, Picked, Place};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;

fn hashing(overload_ppm: Option<u32>) -> Balance {
    Balance::ConsistentHash(Arc::new(Hashing {
        key: Keyed([].into()),
        overload_ppm,
    }))
}

fn balancers() -> [Balance; 5] {
    [
        Balance::LeastRequest,
        Balance::Ewma,
        Balance::RoundRobin,
        Balance::Random,
        hashing(None),
    ]
}

fn set(balance: Balance, slow_start: Option<Duration>, weights: &[u32]) -> Arc<Held> {
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
    let maker = Maker::new("s", balancing, connecting, &state, &metrics);
    let endpoints = weights.iter().enumerate().map(|(at, weight)| {
        let address = format!("10.0.{}.{}:80", at / 256, at % 256);
        let placed = Placed {
            place: Place::Tcp(address.parse().unwrap()),
            weight: *weight,
            name: None,
        };
        maker.endpoint(placed).unwrap()
    });
    let endpoints = endpoints.collect();
    Held::new(maker.set(endpoints))
}

fn pick(set: &Arc<Held>, key: u64, now: u64, tried: &[u16]) -> Option<Picked> {
    set.pick(Choice {
        tried,
        key: Some(Key(mix(key))),
        sticky: None,
        now,
    })
}

/// How often each endpoint is chosen, one request after the other.
fn counts(set: &Arc<Held>, requests: u64, now: u64) -> Vec<f64> {
    let mut counts = vec![0.0; set.endpoints().len()];
    for key in 0..requests {
        if let Some(picked) = pick(set, key, now, &[]) {
            counts[usize::from(picked.at())] += 1.0;
        }
    }
    counts
}

fn bar(set: &EndpointSet, at: usize, bar: Bar) {
    set.endpoints()[at].state.bar(bar, "a test");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_balancer_shares_by_weight(weights in prop::collection::vec(0_u32..6, 2..8)) {
        let total: u32 = weights.iter().sum();
        for balance in balancers() {
            let tolerance = match balance {
                Balance::ConsistentHash(_) => 0.35,
                _ => 0.15,
            };
            let set = set(balance.clone(), None, &weights);
            let counts = counts(&set, 8_000, SECOND);
            for (count, weight) in counts.iter().zip(&weights) {
                let share = f64::from(*weight) / f64::from(total.max(1));
                prop_assert!(
                    (count / 8_000.0 - share).abs() < 0.02 + share * tolerance,
                    "{:?}: {:?} of {:?}", balance, counts, weights
                );
                prop_assert!(*weight > 0 || *count == 0.0, "weight 0 drains");
            }
        }
    }

    #[test]
    fn nothing_barred_drained_or_tried_is_chosen_unless_that_is_a_panic(
        endpoints in prop::collection::vec((0_u32..4, any::<bool>(), any::<bool>()), 1..24), seed: u64,
    ) {
        let weights: Vec<u32> = endpoints.iter().map(|(weight, ..)| *weight).collect();
        let tried: Vec<u16> = (0..).zip(&endpoints).filter(|(_, (.., tried))| *tried).map(|(at, _)| at).collect();
        for balance in balancers().into_iter().chain([hashing(Some(250_000))]) {
            for slow_start in [None, Some(Duration::from_secs(30))] {
                let set = set(balance.clone(), slow_start, &weights);
                for (at, (_, barred, _)) in endpoints.iter().enumerate() {
                    if *barred {
                        bar(&set, at, Bar::Unhealthy);
                    }
                }
                let may = |at: usize| {
                    let (weight, barred, tried) = endpoints[at];
                    weight > 0 && !tried && (!barred || set.is_panicking())
                };
                let possible = (0..endpoints.len()).any(may);
                for n in 0..50 {
                    let picked = pick(&set, seed ^ n, SECOND, &tried);
                    prop_assert_eq!(picked.is_some(), possible, "{:?}", balance);
                    prop_assert!(picked.is_none_or(|picked| may(usize::from(picked.at()))), "{:?}", balance);
                }
            }
        }
    }

    #[test]
    fn a_bounded_load_is_never_exceeded(weights in prop::collection::vec(1_u32..4, 2..12), hot in 1_u64..4) {
        let set = set(hashing(Some(250_000)), None, &weights);
        let total: u32 = weights.iter().sum();
        let mut held = Vec::new();
        for n in 0..400_u64 {
            // a few keys that everybody asks for, and none of them is answered
            held.extend(pick(&set, n % hot, SECOND, &[]));
            for (endpoint, weight) in set.endpoints().iter().zip(&weights) {
                let share = (n + 1) as f64 * f64::from(*weight) / f64::from(total);
                let flying = f64::from(endpoint.state.in_flight());
                prop_assert!(flying <= (share * 1.25).ceil(), "{} of {}", flying, share);
            }
        }
        prop_assert_eq!(held.len(), 400);
    }

    #[test]
    fn the_turn_of_one_that_is_out_is_shared_by_the_others(weights in prop::collection::vec(1_u32..4, 4..9)) {
        let set = set(Balance::RoundRobin, None, &weights);
        bar(&set, 1, Bar::Ejected);
        let left: u32 = weights.iter().sum::<u32>() - weights[1];
        let counts = counts(&set, u64::from(left) * 50, SECOND);
        for (at, count) in counts.iter().enumerate() {
            let wanted = if at == 1 { 0.0 } else { f64::from(weights[at]) * 50.0 };
            prop_assert!((count - wanted).abs() <= 2.0, "{:?} of {:?}", counts, weights);
        }
    }
}

#[test]
fn a_large_set_is_bounded_as_far_as_a_look_is_fresh() {
    let set = set(hashing(Some(250_000)), None, &[1; 100]);
    let mut held = Vec::new();
    for n in 0..2_000_u64 {
        held.extend(pick(&set, 7, n * 100_000 + SECOND, &[]));
    }
    let most = set.endpoints().iter().map(|one| one.state.in_flight());
    assert_eq!(held.len(), 2_000);
    assert!(most.max().unwrap() <= 26);
}

#[test]
fn a_key_stays_with_its_endpoint() {
    let set = set(hashing(Some(250_000)), None, &[1; 20]);
    for key in 0..500 {
        let first = pick(&set, key, SECOND, &[]).unwrap().at();
        let again = pick(&set, key, SECOND, &[]).unwrap().at();
        assert_eq!(first, again);
        let other = pick(&set, key, SECOND, &[first]).unwrap().at();
        assert_ne!(first, other);
    }
}

#[test]
fn the_share_of_an_endpoint_that_returns_grows_with_time() {
    let window = Duration::from_secs(30);
    for balance in balancers() {
        let set = set(balance.clone(), Some(window), &[1, 1, 1]);
        let state = &set.endpoints()[1].state;
        state.bar(Bar::Unhealthy, "a test");
        state.admit(Bar::Unhealthy, "a test");
        let began = crate::state::monotonic_nanos();
        state.begins(began);
        let shares: Vec<f64> = [0, 10, 20, 31]
            .iter()
            .map(|seconds| counts(&set, 9_000, began + seconds * SECOND)[1] / 9_000.0)
            .collect();
        assert!((0.01..0.10).contains(&shares[0]), "{balance:?}: {shares:?}");
        for pair in shares.windows(2) {
            assert!(pair[1] > pair[0] + 0.03, "{balance:?}: {shares:?}");
        }
        assert!((0.25..0.42).contains(&shares[3]), "{balance:?}: {shares:?}");
    }
}

#[test]
fn a_key_moves_once_to_an_endpoint_that_returns() {
    let set = set(hashing(None), Some(Duration::from_secs(30)), &[1; 5]);
    let began = SECOND * 100;
    set.endpoints()[2].state.begins(began);
    for key in 0..200 {
        let at = |seconds: u64| pick(&set, key, began + seconds * SECOND, &[]).unwrap().at();
        let seen: Vec<u16> = (0..=30).map(at).collect();
        let moves = seen.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(moves <= 1, "{seen:?}");
    }
}

#[test]
fn a_set_in_which_all_begin_serves() {
    for balance in balancers() {
        let set = set(balance, Some(Duration::from_secs(30)), &[1, 2, 3]);
        for endpoint in set.endpoints() {
            endpoint.state.begins(SECOND);
        }
        assert_eq!(counts(&set, 1_000, SECOND).iter().sum::<f64>(), 1_000.0);
    }
}

#[test]
fn the_slow_and_the_failing_get_less_with_ewma() {
    let set = set(Balance::Ewma, None, &[1, 1, 1]);
    let now = crate::state::monotonic_nanos();
    let millis = Duration::from_millis;
    let observe = |at: usize, outcome, took| {
        set.endpoints()[at].observe(Observed { outcome, took });
    };
    observe(0, Outcome::Answered(200), millis(10));
    observe(1, Outcome::Answered(200), millis(200));
    observe(2, Outcome::Unreachable, millis(0));
    let idle = counts(&set, 3_000, now);
    assert!(idle[0] > 1_800.0 && idle[2] < 10.0, "{idle:?}");
    // and the fast one does not get everything: what it has in flight counts
    let held: Vec<_> = (0..60)
        .filter_map(|key| pick(&set, key, now, &[]))
        .collect();
    assert_eq!(held.len(), 60);
    let flying: Vec<u32> = set
        .endpoints()
        .iter()
        .map(|one| one.state.in_flight())
        .collect();
    assert!(flying[0] > flying[1] && flying[1] > 0, "{flying:?}");
}

#[test]
fn least_request_spares_the_busy() {
    let set = set(Balance::LeastRequest, None, &[3, 1]);
    let held: Vec<_> = (0..400)
        .filter_map(|key| pick(&set, key, SECOND, &[]))
        .collect();
    assert_eq!(held.len(), 400);
    let flying = |at: usize| set.endpoints()[at].state.in_flight();
    assert!((295..=305).contains(&flying(0)), "{}", flying(0));
}

#[test]
fn a_request_without_a_key_is_balanced_by_load() {
    let set = set(hashing(Some(250_000)), None, &[1, 1]);
    let held: Vec<_> = (0..100)
        .filter_map(|_| set.pick(Choice::default()))
        .collect();
    assert_eq!(held.len(), 100);
    assert_eq!(set.endpoints()[0].state.in_flight(), 50);
}

#[test]
fn a_cookie_decides_unless_its_endpoint_is_out() {
    for balance in balancers() {
        let set = set(balance, None, &[1, 1, 0, 1]);
        let with = |at| {
            let choice = Choice {
                sticky: Some(at),
                ..Choice::default()
            };
            set.pick(choice).unwrap().at()
        };
        assert!((0..50).all(|_| with(1) == 1));
        // drained, or of another set
        assert!((0..50).all(|_| with(2) != 2 && with(9) != 9));
        bar(&set, 1, Bar::Ejected);
        assert!((0..50).all(|_| with(1) != 1));
    }
}

#[test]
fn endpoints_of_the_start_have_their_whole_share_and_later_ones_begin() {
    let window = Duration::from_secs(30);
    let (state, metrics) = (Arc::new(State::default()), Metrics::new());
    let connecting = Connecting {
        wire: Wire::new("s", Protocol::Auto, None),
        steps: Default::default(),
        pool_idle: None,
        post_idle: None,
    };
    let maker = || {
        Maker::new(
            "s",
            Balancing::default(),
            connecting.clone(),
            &state,
            &metrics,
        )
    };
    let endpoint = |maker: &Maker, address: &str| {
        let place = Place::Tcp(address.parse().unwrap());
        maker
            .endpoint(Placed {
                place,
                weight: 1,
                name: None,
            })
            .unwrap()
    };
    let first = maker();
    let endpoints = vec![endpoint(&first, "10.0.0.1:80")];
    let parts = crate::upstream::service::Parts {
        timeouts: crate::upstream::Timeouts::DEFAULT,
        host: crate::upstream::service::Host::Preserve,
        body_limit: None,
        message_limit: None,
        health_check: None,
        retries: Default::default(),
        guards: Default::default(),
        connecting_max: None,
    };
    let service = crate::upstream::Service::new(first, endpoints, parts);
    let height = |at: usize| {
        let now = crate::state::monotonic_nanos();
        service.set().endpoints()[at].state.height(now, window)
    };
    assert_eq!(height(0), 1.0);
    // by discovery
    let both = ["10.0.0.1:80", "10.0.0.2:80"];
    service.replace(both.map(|address| endpoint(&service.maker, address)).into());
    assert_eq!(height(0), 1.0);
    assert!(height(1) < 0.2);
    // by a reload
    let second = maker();
    let reloaded = ["10.0.0.1:80", "10.0.0.3:80"].map(|address| endpoint(&second, address));
    let now = crate::state::monotonic_nanos();
    assert_eq!(reloaded[0].state.height(now, window), 1.0);
    assert!(reloaded[1].state.height(now, window) < 0.2);
}
