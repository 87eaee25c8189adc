use super::*;
use proptest::prelude::*;

/// What the scripts of a store do, for one key.
struct Model {
    part: u64,
    limit: u64,
    gateways: u64,
    counts: std::collections::BTreeMap<u64, u64>,
}

impl Model {
    fn new(terms: Terms, gateways: u64) -> Self {
        Self {
            part: terms.life,
            limit: terms.most,
            gateways,
            counts: Default::default(),
        }
    }

    fn take(&mut self, ask: Ask, now: u64) -> Answer {
        // parts begin at 1: 0 is no mark
        let at = now / self.part + 1;
        self.counts.retain(|part, _| part + PARTS + 2 > at);
        *self.counts.entry(at).or_default() += ask.charge;
        let sum: u64 = self.counts.values().sum();
        let room = self.limit.saturating_sub(sum);
        let fair = ask.want.min(room / (2 * self.gateways));
        let granted = room.min(ask.demand.max(fair));
        *self.counts.entry(at).or_default() += granted;
        let oldest = self.counts.iter().find(|(_, count)| **count > 0);
        let leaves = oldest.map_or(at, |(part, _)| part + PARTS + 2);
        Answer {
            granted,
            room: room - granted,
            after: ((leaves - 1) * self.part).saturating_sub(now).max(1),
            mark: at,
        }
    }

    fn give_back(&mut self, backs: Backs) {
        for back in backs {
            if let Some(count) = self.counts.get_mut(&back.mark) {
                *count = count.saturating_sub(back.units);
            }
        }
    }
}

/// A gateway with one question under way at most, whose answer comes when it is told to.
struct Gateway {
    cell: Cell,
    wants: bool,
    way: Option<(Answer, u64)>,
}

const WINDOW: Duration = Duration::from_secs(12);

#[derive(Clone, Debug)]
enum Event {
    Request(usize, u64),
    Send(usize),
    Answer(usize),
    Lose(usize),
    LookAfter(usize),
    Back(usize),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let gateway = 0..3_usize;
    prop_oneof![
        12 => (gateway.clone(), 1..4_u64).prop_map(|(at, cost)| Event::Request(at, cost)),
        6 => gateway.clone().prop_map(Event::Send),
        6 => gateway.clone().prop_map(Event::Answer),
        1 => gateway.clone().prop_map(Event::Lose),
        2 => gateway.clone().prop_map(Event::LookAfter),
        1 => gateway.prop_map(Event::Back),
        4 => (1..700_000_000_u64).prop_map(Event::Pass),
        1 => (1..15_u64).prop_map(|parts| Event::Pass(parts * 1_000_000_000)),
    ]
}

/// What is let through, and when.
fn played(limit: u64, events: &[Event]) -> Vec<(u64, u64)> {
    let terms = Terms::of_window(limit, WINDOW);
    let mut store = Model::new(terms, 3);
    let mut gateways: Vec<Gateway> = (0..3)
        .map(|_| Gateway {
            cell: Cell::new(Box::default(), terms),
            wants: false,
            way: None,
        })
        .collect();
    let mut now = 5_000_000_000_u64;
    let mut admitted: Vec<(u64, u64)> = Vec::new();
    let mut last: Vec<Option<(usize, u64, u64)>> = vec![None; 3];
    for event in events {
        match *event {
            Event::Request(at, cost) => {
                let gateway = &mut gateways[at];
                let decision = match gateway.cell.spend(cost, now) {
                    Some((decision, low)) => {
                        gateway.wants |= low && gateway.cell.refill(now);
                        decision
                    }
                    None => {
                        let decided = gateway.cell.admit(cost, terms, now, false);
                        gateway.wants |= decided.ask;
                        store.give_back(decided.backs);
                        decided.decision
                    }
                };
                match decision {
                    Decision::Admitted { mark, .. } => {
                        last[at] = Some((admitted.len(), cost, mark));
                        admitted.push((now, cost));
                    }
                    Decision::Wait => gateway.cell.leave(cost),
                    _ => {}
                }
            }
            Event::Send(at) => {
                let gateway = &mut gateways[at];
                if gateway.wants && gateway.way.is_none() {
                    let ask = gateway.cell.ask(terms, now);
                    // the store is asked a little later than the question is sent
                    let sent_at = now;
                    now += 1_000_000;
                    gateway.way = Some((store.take(ask, now), sent_at));
                }
            }
            Event::Answer(at) => {
                let gateway = &mut gateways[at];
                if let Some((answer, sent_at)) = gateway.way.take() {
                    gateway.wants = false;
                    let backs = gateway.cell.answered(answer, sent_at, terms, now);
                    store.give_back(backs);
                }
            }
            Event::Lose(at) => {
                let gateway = &mut gateways[at];
                if gateway.way.take().is_some() {
                    gateway.wants = false;
                    gateway.cell.put_off();
                }
            }
            Event::LookAfter(at) => store.give_back(gateways[at].cell.look_after(now).0),
            Event::Back(at) => {
                // the last one of this gateway did not get through after all
                if let Some((index, cost, mark)) = last[at].take() {
                    store.give_back(gateways[at].cell.give_back(cost, mark, now));
                    admitted[index].1 = 0;
                }
            }
            Event::Pass(time) => now += time,
        }
    }
    admitted
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 2000, ..Default::default() })]

    #[test]
    fn no_window_holds_more_than_the_limit_and_the_credit_of_all(
        limit in prop_oneof![1..20_u64, 50..400_u64],
        events in prop::collection::vec(event(), 1..400),
    ) {
        let admitted = played(limit, &events);
        let bound = overshoot_max(limit, 3, 0) + limit;
        let window = WINDOW.as_nanos() as u64;
        for (begins, _) in &admitted {
            let inside = admitted.iter().filter(|(at, _)| at >= begins && *at < begins + window);
            let count: u64 = inside.map(|(_, cost)| cost).sum();
            prop_assert!(count <= bound, "{count} of {bound}");
        }
    }
}

fn answer(granted: u64, room: u64, mark: u64) -> Answer {
    Answer {
        granted,
        room,
        after: 3_000_000_000,
        mark,
    }
}

fn is_admitted(decision: Decision) -> bool {
    matches!(decision, Decision::Admitted { .. })
}

#[test]
fn a_fresh_key_has_credit_then_waits_and_then_spends_what_was_leased() {
    let terms = Terms::of_window(5, WINDOW);
    let cell = Cell::new(Box::default(), terms);
    assert!(cell.spend(1, 0).is_none());
    let first = cell.admit(1, terms, 0, false);
    assert!(is_admitted(first.decision) && first.ask);
    let second = cell.admit(1, terms, 0, false);
    assert_eq!((second.decision, second.ask), (Decision::Wait, false));
    let ask = cell.ask(terms, 0);
    assert_eq!((ask.charge, ask.demand, ask.want), (1, 1, 0));
    assert!(cell.answered(answer(1, 3, 7), 0, terms, 1).is_empty());
    assert!(is_admitted(cell.admit(1, terms, 1, true).decision));
    cell.leave(1);
    // an answer that says that there is room gives credit anew
    assert!(is_admitted(cell.admit(1, terms, 1, false).decision));
    assert_eq!(cell.ask(terms, 1).charge, 1);
    cell.answered(answer(0, 0, 7), 1, terms, 2);
    let full = cell.admit(1, terms, 2, false);
    assert_eq!(
        (full.decision, full.ask),
        (
            Decision::Refused {
                after: 3_000_000_000
            },
            false
        )
    );
}

#[test]
fn what_is_not_spent_in_time_or_not_at_all_is_given_back() {
    let terms = Terms::of_window(100, WINDOW);
    let cell = Cell::new(Box::default(), terms);
    cell.answered(answer(10, 50, 7), 0, terms, 0);
    assert_eq!(cell.held(0), 10);
    assert!(cell.spend(3, 1).is_some());
    assert!(cell.spend(8, 1).is_none());
    let late = terms.life;
    assert!(cell.spend(1, late).is_none() && cell.held(late) == 0);
    let given = cell.admit(101, terms, late, false).backs;
    assert_eq!(given.as_slice(), [Back { units: 7, mark: 7 }]);

    cell.answered(answer(4, 50, 8), late, terms, late);
    assert_eq!(cell.look_after(late + 1), (Backs::new(), true));
    let (given, holds) = cell.look_after(late + 1 + IDLE);
    assert_eq!(
        (given.as_slice(), holds),
        (&[Back { units: 4, mark: 8 }][..], false)
    );
}

#[test]
fn what_was_not_answered_is_told_again_as_long_as_it_counts() {
    let terms = Terms::of_window(100, WINDOW);
    let cell = Cell::new(Box::default(), terms);
    assert!(cell.charge(3, 5));
    assert_eq!(cell.ask(terms, 5).charge, 3);
    cell.put_off();
    assert!(cell.charge(1, 6));
    assert_eq!(cell.ask(terms, 6).charge, 4);
    cell.put_off();
    assert_eq!(cell.ask(terms, 6 + terms.memory).charge, 0);
}

#[test]
fn keys_that_are_often_seen_lease_more() {
    let next = |last, millis: u64| wanted(last, Some(millis * 1_000_000), 1000);
    assert_eq!(wanted(0, None, 1000), 0);
    assert_eq!([0, 1, 4].map(|last| next(last, 10)), [1, 2, 8]);
    assert_eq!((next(8, 500), next(8, 5000)), (8, 4));
    assert_eq!(next(400, 1), 250);
}

#[test]
fn a_place_is_taken_from_keys_that_hold_nothing_only() {
    let terms = Terms::of_window(100, WINDOW);
    let leases = Leases::new(1);
    let cell = |key| leases.cell(key, terms, 0, Box::default);
    let held: Vec<_> = (0..PLACES as u64).map(|key| cell(key).unwrap()).collect();
    for cell in &held {
        assert!(cell.admit(1, terms, 0, false).ask);
    }
    assert!(cell(100).is_none());
    held[3].ask(terms, 0);
    held[3].answered(answer(0, 98, 1), 0, terms, 0);
    let next = cell(100).unwrap();
    assert!(leases.find(3).is_none() && next.admit(1, terms, 0, false).ask);
    assert_eq!(held[3].admit(1, terms, 0, false).decision, Decision::Gone);
    // what is long over keeps no place
    for cell in &held {
        cell.put_off();
    }
    assert!(cell(101).is_none());
    assert!(
        leases
            .cell(102, terms, terms.memory, Box::default)
            .is_some()
    );
}

#[test]
fn threads_spend_no_unit_twice() {
    let terms = Terms::of_window(1_000_000, WINDOW);
    let cell = Cell::new(Box::default(), terms);
    let spent = AtomicU64::new(0);
    let leased = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    if cell.spend(1, 1).is_some() {
                        spent.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        let mut leased = 0;
        for part in 1..200 {
            cell.answered(answer(100, 1000, part), 0, terms, 1);
            leased += 100;
        }
        leased
    });
    let (given, _) = cell.look_after(terms.life);
    let given: u64 = given.iter().map(|back| back.units).sum();
    assert_eq!(spent.load(Relaxed) + given, leased);
}

#[test]
fn the_bound_is_a_hundredth_of_the_limit_for_each_gateway() {
    assert_eq!([1, 99, 250, 1_000_000].map(credit), [1, 1, 2, 100]);
    assert_eq!(overshoot_max(100, 3, 0), 3);
    assert_eq!(share(100, 3), 33);
    assert_eq!((share(1, 3), share(5, 0)), (1, 5));
    let bucket = Terms::of_bucket(10, Duration::from_secs(1), 120);
    assert_eq!(bucket.life, 1_000_000_000);
    assert_eq!(bucket.ahead_of(10, Duration::from_secs(1)), 10);
}
