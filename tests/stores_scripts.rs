//! What a store answers, against arithmetic that is exact: the scripts on a real Redis, with time as an argument.

use crate::harness::{Redis, eventually};
use northgate::limit::lease;
use northgate::observe::metrics::Metrics;
use northgate::store::{Count, Link, OnFailure, Place, Store, Taken, Taking};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const WINDOW: Duration = Duration::from_secs(12);
const PART: u64 = 1_000_000;

/// A store of that server, with the job that keeps it.
async fn store(redis: &Redis) -> Arc<Store> {
    let place = Place::new(&[&redis.url()], false, None).expect("a place");
    let link = Link::new("test".into(), place, Metrics::new().store("test"));
    let store = Arc::new(Store {
        name: "test".into(),
        timeout: Duration::from_secs(1),
        on_failure: OnFailure::Deny,
        prefix: "t:".into(),
        link: Arc::new(link),
    });
    let kept = store.clone();
    tokio::spawn(async move { kept.run().await });
    eventually("the store to answer", async || {
        store.is_up(b"any").then_some(())
    })
    .await;
    store
}

/// A small generator, so that a failure can be seen again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

fn taking(count: Count, most: u64, now: u64) -> Taking {
    Taking {
        count,
        most,
        charge: 0,
        demand: 0,
        want: 0,
        share: 6,
        whole: false,
        now: Some(now),
    }
}

#[tokio::test]
async fn a_window_counts_as_the_exact_one_does_leases_and_whole_requests() {
    let redis = Redis::start().await;
    let store = store(&redis).await;
    let (limit, mut dice) = (40, Dice(7));
    let count = Count::Window { window: WINDOW };
    for (round, whole) in [true, false].into_iter().enumerate() {
        let key = format!("t:{{window{round}}}").into_bytes();
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        let mut now = 1_000_000_000_000_000_u64;
        for step in 0..600 {
            now += dice.below(900_000);
            let mut wanted = taking(count, limit, now);
            wanted.whole = whole;
            wanted.demand = dice.below(6);
            if !whole {
                wanted.want = dice.below(20);
                wanted.charge = dice.below(3);
            }
            let at = now / PART;
            let parts = lease::PARTS + if whole { 1 } else { 2 };
            counts.retain(|part, _| part + parts > at);
            let sum: u64 = counts.values().sum();
            let room = limit.saturating_sub(sum + wanted.charge);
            let granted = match whole {
                true if wanted.demand <= room => wanted.demand,
                true => 0,
                false => room.min(wanted.demand.max(wanted.want.min(room / 6))),
            };
            let taken = store.take(&key, wanted).await.expect("an answer");
            let seen = (taken.granted, taken.room, taken.mark);
            assert_eq!(seen, (granted, room - granted, at), "step {step}");
            *counts.entry(at).or_default() += wanted.charge + granted;
            counts.retain(|_, count| *count > 0);
            if let Some((first, _)) = counts.first_key_value()
                && granted >= wanted.demand
                && taken.room > 0
            {
                let leaves = (first + parts) * PART - now;
                assert_eq!(taken.after, Duration::from_micros(leaves), "step {step}");
            }
            // what was refused is admitted when it is said to be
            if whole && granted < wanted.demand {
                let then = now + u64::try_from(taken.after.as_micros()).expect("soon");
                let left: u64 = counts
                    .iter()
                    .filter(|(part, _)| **part + parts > then / PART)
                    .map(|(_, count)| count)
                    .sum();
                assert!(limit - left >= wanted.demand, "step {step}");
            }
            if dice.below(5) == 0 && granted > 0 {
                let back = dice.below(granted + 3);
                store.give_back(&key, count, back, at).await.expect("done");
                let held = counts.entry(at).or_default();
                *held = held.saturating_sub(back);
            }
        }
    }
}

#[tokio::test]
async fn a_bucket_fills_as_the_exact_one_does() {
    let redis = Redis::start().await;
    let store = store(&redis).await;
    let (burst, mut dice) = (30_u64, Dice(11));
    // 10 in a second
    let count = Count::Bucket {
        units: 10,
        window: Duration::from_secs(1),
    };
    // in millionths of a unit, which is what comes back in a tenth of a microsecond
    let (mut level, mut since) = (0_u64, 0_u64);
    let mut now = 1_000_000_000_000_000_u64;
    for step in 0..600 {
        now += dice.below(250_000);
        let mut wanted = taking(count, burst, now);
        wanted.demand = dice.below(6);
        wanted.whole = dice.below(2) == 0;
        wanted.want = if wanted.whole { 0 } else { dice.below(20) };
        wanted.charge = if wanted.whole { 0 } else { dice.below(3) };
        level = level.saturating_sub((now - since) * 10) + wanted.charge * 1_000_000;
        since = now;
        let room = (burst * 1_000_000).saturating_sub(level) / 1_000_000;
        let granted = match wanted.whole {
            true if wanted.demand <= room => wanted.demand,
            true => 0,
            false => room.min(wanted.demand.max(wanted.want.min(room / 6))),
        };
        let taken = store.take(b"t:{bucket}", wanted).await.expect("an answer");
        let seen = (taken.granted, taken.room, taken.mark);
        assert_eq!(seen, (granted, room - granted, now), "step {step}");
        level += granted * 1_000_000;
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_frees_nobody_and_locks_nobody_out() {
    let redis = Redis::start().await;
    let store = store(&redis).await;
    let count = Count::Window { window: WINDOW };
    let all = |now| Taking {
        demand: 10,
        whole: true,
        ..taking(count, 10, now)
    };
    let now = 1_000_000_000_000_000_u64;
    let ask = async |now| store.take(b"t:{clock}", all(now)).await.expect("an answer");
    assert_eq!(ask(now).await.granted, 10);
    // a little, as when a replica takes over: it is the same time still
    let back: Taken = ask(now - 3 * PART).await;
    assert_eq!((back.granted, back.mark), (0, now / PART));
    // by an hour: what counts does so for one more window
    let hour = now - 3_600_000_000;
    assert_eq!(ask(hour).await.granted, 0);
    assert_eq!(ask(hour + 12 * PART).await.granted, 0);
    assert_eq!(ask(hour + 13 * PART).await.granted, 10);
}

#[tokio::test]
async fn what_is_given_back_to_a_bucket_late_has_come_back_already() {
    let redis = Redis::start().await;
    let store = store(&redis).await;
    let count = Count::Bucket {
        units: 1,
        window: Duration::from_secs(3600),
    };
    let ask = async |demand| {
        let wanted = Taking {
            demand,
            now: None,
            ..taking(count, 10, 0)
        };
        let taken = store.take(b"t:{late}", wanted).await;
        taken.expect("an answer")
    };
    let taken = ask(10).await;
    assert_eq!(taken.granted, 10);
    // taken two hours ago, two of five have come back since
    let mark = taken.mark - 2 * 3_600_000_000;
    let given = store.give_back(b"t:{late}", count, 5, mark).await;
    given.expect("done");
    assert_eq!(ask(10).await.granted, 3);
}
