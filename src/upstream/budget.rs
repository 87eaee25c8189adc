//! How many requests of a service may be repeated, as a share of those that came in: when all of it fails, repeating
//! everything would only double its load (Nygard, "Release It!", 2007; the window is that of Finagle's `RetryBudget`).

use super::window::{SLOTS, Window};
use crate::units::Ratio;

/// Milliseconds of one slot: the share is that of ten seconds, so that a burst of failures, such as an endpoint that
/// goes away under load, can be made good from the requests before it.
const SLOT_MILLIS: u64 = 1000;

/// What may be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Of the requests of the last ten seconds; none for no bound.
    pub ratio: Option<Ratio>,
    /// Repeats a second that are always allowed, so that little traffic can be repeated too.
    pub min_per_second: u32,
}

/// What was spent at a service. Outlives snapshots with it.
#[derive(Debug, Default)]
pub struct Budget {
    /// Requests and repeats.
    window: Window,
}

impl Budget {
    /// A request came in. Times are of [`super::window::millis`].
    pub fn earn(&self, now: u64) {
        self.window.add(now / SLOT_MILLIS, 1, 0);
    }

    /// Whether one of them may be repeated; if so, that is spent.
    ///
    /// Over the last nine seconds and the current one, repeats are at most the share of the requests, or the minimum
    /// where that is more. Threads that ask at the same time can only be refused too much.
    pub fn spend(&self, share: Share, now: u64) -> bool {
        let time = now / SLOT_MILLIS;
        self.window.add(time, 0, 1);
        let (requests, repeats) = self.window.sums(time);
        let Some(ratio) = share.ratio else {
            return true;
        };
        let minimum = u64::from(share.min_per_second) * SLOTS;
        if repeats <= ratio.of(requests).max(minimum) {
            return true;
        }
        self.refund(now);
        false
    }

    /// Takes back what was spent at this time, on a repeat that nobody could be asked for.
    pub fn refund(&self, now: u64) {
        self.window.take_back(now / SLOT_MILLIS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn repeats_are_never_more_than_the_share(
            events in prop::collection::vec((any::<bool>(), 0_u64..700), 1..600),
            percent in 0_u32..=100, min_per_second in 0_u32..3, start in 1_u64..1_000_000,
        ) {
            let share = Share { ratio: Some(Ratio::from_percent(percent)), min_per_second };
            let budget = Budget::default();
            let mut now = start;
            let (mut requests, mut repeats) = (Vec::new(), Vec::new());
            for (request, pass) in events {
                now += pass;
                if request {
                    budget.earn(now);
                    requests.push(now);
                } else if budget.spend(share, now) {
                    repeats.push(now);
                }
                let recent = |times: &[u64]| {
                    let slot = now / SLOT_MILLIS;
                    times.iter().filter(|time| slot - **time / SLOT_MILLIS < SLOTS).count() as u64
                };
                let most = (recent(&requests) * u64::from(percent) / 100).max(u64::from(min_per_second) * SLOTS);
                prop_assert!(repeats.last() != Some(&now) || recent(&repeats) <= most);
            }
        }
    }

    #[test]
    fn what_was_spent_on_nothing_can_be_spent_again() {
        let budget = Budget::default();
        let share = Share {
            ratio: Some(Ratio::from_percent(20)),
            min_per_second: 0,
        };
        (0..5).for_each(|_| budget.earn(5000));
        assert!(budget.spend(share, 5000));
        budget.refund(5000);
        assert!(budget.spend(share, 5000));
        assert!(!budget.spend(share, 5000));
    }

    #[test]
    fn threads_together_spend_no_more_than_one_would() {
        let budget = Budget::default();
        let share = Share {
            ratio: Some(Ratio::from_percent(20)),
            min_per_second: 0,
        };
        (0..1000).for_each(|_| budget.earn(5000));
        let spent: usize = std::thread::scope(|scope| {
            let spend = || (0..500).filter(|_| budget.spend(share, 5000)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(spend)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert!((190..=200).contains(&spent), "{spent}");
    }
}
