use super::control::refused_at;
use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);

fn limits(requests: u32) -> Limits {
    Limits {
        connections: 1,
        requests,
        memory: Memory::Bytes(1000),
    }
}

fn overload(threads: usize, requests: u32) -> Arc<Overload> {
    Arc::new(Overload::new(threads, limits(requests)))
}

/// By nobody is anything refused by chance.
fn lucky() -> u64 {
    u64::MAX
}

fn resident(bytes: u64) -> Option<Resident> {
    Some(Resident {
        bytes,
        available: 10_000,
    })
}

fn memory(parts: u32) -> Sample {
    Sample {
        memory: parts,
        ..Sample::default()
    }
}

#[test]
fn never_more_than_the_limit_are_in_and_who_is_refused_found_none() {
    for (threads, limit) in [(1, 1), (2, 7), (4, 100), (4, 1000), (8, 50_000)] {
        let overload = overload(threads, limit);
        let desks: Vec<Desk> = (0..threads).map(|at| overload.desk(at)).collect();
        let enter = |at: usize| desks[at % threads].enter(lucky).map(|(place, _)| place);
        let mut inside: Vec<Place> = (0..limit as usize)
            .map(|at| enter(at).expect("a place"))
            .collect();
        for at in 0..threads {
            assert!(matches!(enter(at), Err(Refused::Requests)), "{limit}");
        }
        assert_eq!(overload.seen().in_flight, limit);
        // one that any thread gives back is one for every thread
        for at in 0..threads {
            inside.swap_remove(at % inside.len());
            inside.push(enter(at).expect("the place that is free"));
        }
        drop(inside);
        assert_eq!(overload.seen().in_flight, 0);
    }
}

#[test]
fn under_way_on_several_threads_there_are_never_too_many_and_none_is_lost() {
    const LIMIT: u32 = 700;
    let overload = overload(4, LIMIT);
    let (now, most) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (desk, now, most) = (overload.desk(thread), &now, &most);
            scope.spawn(move || {
                let mut held = VecDeque::new();
                for step in 0..50_000_usize {
                    if let Ok((place, _)) = desk.enter(lucky) {
                        most.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
                        held.push_back(place);
                    }
                    while held.len() > (step / 100 * 31) % 400 {
                        now.fetch_sub(1, Relaxed);
                        held.pop_front();
                    }
                }
                now.fetch_sub(held.len() as u32, Relaxed);
            });
        }
    });
    assert!(most.load(Relaxed) <= LIMIT, "{most:?}");
    assert_eq!(overload.seen().in_flight, 0);
    let desk = overload.desk(0);
    let all: Vec<_> = (0..LIMIT).map_while(|_| desk.enter(lucky).ok()).collect();
    assert_eq!(all.len(), LIMIT as usize);
}

#[test]
fn with_a_smaller_limit_nobody_loses_a_place_and_nobody_comes_in_before_there_is_room() {
    let overload = overload(2, 2000);
    let (one, other) = (overload.desk(0), overload.desk(1));
    let mut inside: Vec<_> = (0..1000)
        .map(|_| one.enter(lucky).expect("a place"))
        .collect();
    inside.extend((0..500).map(|_| other.enter(lucky).expect("a place")));
    overload.set(limits(100));
    assert_eq!(overload.seen().in_flight, 1500);
    while inside.len() > 100 {
        assert!(one.enter(lucky).is_err() && other.enter(lucky).is_err());
        inside.pop();
    }
    assert!(other.enter(lucky).is_err());
    inside.pop();
    assert!(other.enter(lucky).is_ok());
    overload.set(limits(2000));
    let more = (0..1901)
        .map_while(|_| one.enter(lucky).ok())
        .collect::<Vec<_>>();
    assert_eq!(more.len(), 1901);
}

#[test]
fn of_requests_the_share_that_is_refused_grows_with_those_in_flight() {
    let overload = overload(1, 1000);
    let desk = overload.desk(0);
    let mut inside = Vec::new();
    let mut before = 0;
    while let Ok(entered) = desk.enter(lucky) {
        inside.push(entered);
        let share = overload.seen().refused_share;
        assert!(share >= before, "{} at {}", share, inside.len());
        assert!(
            share == 0 || inside.len() > 760,
            "{share} at {}",
            inside.len()
        );
        before = share;
    }
    assert_eq!((inside.len(), before), (1000, PARTS - 1));
    // by chance, and not by a cliff: at 9 of 10 about half, less what the thread keeps
    inside.truncate(900);
    let by_chance = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let let_in = (0..10_000).filter(|number| desk.enter(|| by_chance(*number)).is_ok());
    let let_in = let_in.count();
    assert!((2000..6500).contains(&let_in), "{let_in}");
    // of few places each counts
    let few = super::tests::overload(1, 39);
    let desk = few.desk(0);
    let _all: Vec<_> = (0..39)
        .map(|_| desk.enter(|| 0).expect("a place"))
        .collect();
}

#[test]
fn memory_is_measured_in_bytes_or_as_a_share_of_what_there_is() {
    let overload = overload(1, 10);
    let begin = Instant::now();
    assert_eq!(overload.sample(begin, resident(900)), Some(Level::Some));
    assert_eq!(overload.seen().memory_bytes_max, 1000);
    assert_eq!(overload.seen().refused_share, 500_000);
    let desk = overload.desk(0);
    assert!(matches!(desk.enter(|| 0), Err(Refused::Memory)));
    assert!(desk.enter(lucky).is_ok());
    assert_eq!(
        overload.sample(begin + TICK, resident(1000)),
        Some(Level::All)
    );
    assert!(matches!(desk.enter(lucky), Err(Refused::Memory)));
    overload.set(Limits {
        connections: 1,
        requests: 10,
        memory: Memory::Share(PARTS / 2),
    });
    let later = begin + Duration::from_secs(60);
    assert_eq!(overload.sample(later, resident(1000)), None);
    assert_eq!(overload.seen().memory_bytes_max, 5000);
    assert_eq!(overload.seen().refused_share, 0);
    assert!(desk.enter(|| 0).is_ok());
    // nothing is known, nothing is refused
    let other = super::tests::overload(1, 10);
    assert_eq!(other.sample(begin, None), None);
    assert!(other.desk(0).enter(|| 0).is_ok());
}

#[test]
fn what_is_refused_between_two_samples_is_seen() {
    let overload = overload(1, 2);
    let desk = overload.desk(0);
    let inside = [desk.enter(lucky), desk.enter(lucky)];
    assert!(desk.enter(lucky).is_err());
    drop(inside);
    assert_eq!(
        overload.sample(Instant::now(), resident(1)),
        Some(Level::Some)
    );
}

/// The levels that a run of samples goes through, without repetitions.
fn levels(samples: impl IntoIterator<Item = Sample>) -> Vec<Level> {
    let (mut controller, begin) = (Controller::default(), Instant::now());
    let mut seen = Vec::new();
    for (at, sample) in samples.into_iter().enumerate() {
        let level = controller.tick(begin + TICK * at as u32, sample).level;
        if seen.last() != Some(&level) {
            seen.push(level);
        }
    }
    seen
}

#[test]
fn a_step_is_answered_at_once_and_taken_back_slowly() {
    let (mut controller, begin) = (Controller::default(), Instant::now());
    assert_eq!(controller.tick(begin, memory(100_000)).share, 0);
    let at = |ticks: u32| begin + TICK * ticks;
    let up = controller.tick(at(1), memory(1_100_000));
    assert_eq!((up.level, up.share), (Level::All, PARTS));
    let mut before = PARTS;
    for ticks in 2..=101 {
        let share = controller.tick(at(ticks), memory(100_000)).share;
        assert!(share < before && before - share <= PARTS / 100, "{share}");
        before = share;
    }
    assert_eq!(before, 0);
    assert_eq!(controller.tick(at(102), memory(100_000)).level, Level::Some);
    assert_eq!(
        controller.tick(at(152), memory(100_000)).level,
        Level::Nothing
    );
}

#[test]
fn a_ramp_up_and_down_enters_each_level_once() {
    let up = (0..1200).map(|step| memory(step * 1000));
    let down = (0..1200).rev().map(|step| memory(step * 1000));
    let found = levels(up.chain(down));
    let all = Level::ALL.iter();
    let wanted: Vec<Level> = all.clone().chain(all.rev().skip(1)).copied().collect();
    assert_eq!(found, wanted);
}

proptest! {
    #[test]
    fn a_standing_is_read_back(share in 0..=PARTS, level in 0..5_usize) {
        let standing = Standing { level: Level::ALL[level], share };
        prop_assert_eq!(Standing::unpacked(standing.packed()), standing);
    }

    /// Whatever comes, the share is never less than the pressure asks for, never more than all, and never falls faster
    /// than it may.
    #[test]
    fn the_share_is_what_is_due_and_its_fall_is_bounded(samples in prop::collection::vec((0..1_500_000_u32, 0..400_u64), 1..200)) {
        let (mut controller, mut now) = (Controller::default(), Instant::now());
        let mut before = 0;
        for (pressure, millis) in samples {
            now += Duration::from_millis(millis);
            let standing = controller.tick(now, memory(pressure));
            prop_assert!((refused_at(pressure)..=PARTS).contains(&standing.share));
            let fall = u64::from(before).saturating_sub(standing.share.into());
            prop_assert!(fall <= millis * u64::from(PARTS) / 10_000 + 1);
            prop_assert!(standing.level >= Level::at(pressure));
            before = standing.share;
        }
    }

    /// Noise round any mark changes the level once, and no more.
    #[test]
    fn noise_does_not_make_it_flap(middle in 0..1_200_000_u32, noise in prop::collection::vec(-24_000..24_000_i32, 50..300)) {
        let samples = noise.iter().map(|noise| memory(middle.saturating_add_signed(*noise)));
        let found = levels(samples);
        // the highest that the noise reaches, by one step for each mark that lies in it, and never back
        prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
    }

    /// A process whose memory follows what it lets in, late and in part: under a steady load up to three times what it can
    /// bear, what it refuses settles, and with it the level.
    #[test]
    fn a_process_under_a_steady_load_settles(
        load in 0.5..3.0_f64,
        delay in 1..3_usize,
        base in 0.2..0.6_f64,
        life in 5.0..30.0_f64,
    ) {
        let (mut controller, begin) = (Controller::default(), Instant::now());
        // what is in flight, of all that fills the memory; each ends after `life` ticks on average
        let mut inside = 0.0;
        let mut late: VecDeque<f64> = std::iter::repeat_n(base, delay).collect();
        let (mut shares, mut changes, mut level) = (Vec::new(), 0, Level::Nothing);
        for tick in 0..4000_u32 {
            let seen = late.pop_front().unwrap_or(base);
            let standing = controller.tick(begin + TICK * tick, memory((seen * 1e6) as u32));
            let admitted = 1.0 - f64::from(standing.share) / f64::from(PARTS);
            inside += load * admitted * (1.0 - base) / life - inside / life;
            late.push_back(base + inside);
            if tick >= 2000 {
                shares.push(standing.share);
                changes += u32::from(standing.level != level);
            }
            level = standing.level;
        }
        let (least, most) = (shares.iter().min(), shares.iter().max());
        let swing = most.copied().unwrap_or(0) - least.copied().unwrap_or(0);
        prop_assert!(swing <= PARTS / 4, "the share swings by {swing}");
        prop_assert!(changes <= 1, "{changes} changes of level");
    }
}
