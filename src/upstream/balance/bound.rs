//! Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads", 2016):
//! no endpoint has more in flight than `1 + overload` times its share of all; what is above goes to the next one on the
//! ring. A hot key is thus spread over just as many endpoints as it needs.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is known of a set as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Requests in flight.
    pub flying: u64,
    /// The weights of the endpoints that may be chosen, together.
    pub weight: u64,
}

impl Load {
    /// Whether an endpoint of this weight has so many requests in flight that another one is too much.
    pub fn fills(self, in_flight: u32, weight: u32, overload_ppm: u32) -> bool {
        // in_flight >= ceil(factor * (flying + 1) * weight / weights), without the division
        let factor = 1_000_000 + u128::from(overload_ppm);
        let allowed = factor * (u128::from(self.flying) + 1) * u128::from(weight);
        u128::from(in_flight) * 1_000_000 * u128::from(self.weight) >= allowed
    }
}

/// How long a look is good for, for each endpoint of the set: a look takes some nanoseconds for each, so that looking
/// takes less than a hundredth of the time.
const GOOD_FOR_NANOS: u64 = 1_000;

/// The last look at a large set: to count all of them for each choice would cost too much, and so would a counter that
/// every request writes. What an endpoint has in flight is read for each choice all the same; only what all have together
/// is known late.
#[derive(Debug, Default)]
pub struct Looks {
    good_for: u64,
    at: AtomicU64,
    changes: AtomicU64,
    flying: AtomicU64,
    weight: AtomicU64,
}

impl Looks {
    /// For a set of this size.
    pub fn new(endpoints: usize) -> Self {
        Self {
            good_for: endpoints as u64 * GOOD_FOR_NANOS,
            ..Self::default()
        }
    }

    /// What is known at `now`, after `changes` of endpoints to usable or back; `look` looks.
    pub fn load(&self, now: u64, changes: u64, look: impl FnOnce() -> Load) -> Load {
        let known = Load {
            flying: self.flying.load(Relaxed),
            weight: self.weight.load(Relaxed),
        };
        let at = self.at.load(Relaxed);
        let good = known.weight > 0
            && now.saturating_sub(at) < self.good_for
            && self.changes.load(Relaxed) == changes;
        // one thread looks, the others go by what is known
        if good
            || (known.weight > 0 && self.at.compare_exchange(at, now, Relaxed, Relaxed).is_err())
        {
            return known;
        }
        let load = look();
        self.flying.store(load.flying, Relaxed);
        self.weight.store(load.weight, Relaxed);
        self.changes.store(changes, Relaxed);
        self.at.store(now, Relaxed);
        load
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_full_at_its_share_and_a_quarter_rounded_up() {
        let capacity = |flying, weights, weight, overload| {
            let load = Load {
                flying,
                weight: weights,
            };
            (0..1000).find(|in_flight| load.fills(*in_flight, weight, overload))
        };
        assert_eq!(capacity(0, 3, 1, 250_000), Some(1));
        assert_eq!(capacity(99, 4, 1, 250_000), Some(32));
        assert_eq!(capacity(99, 4, 2, 250_000), Some(63));
        assert_eq!(capacity(99, 4, 1, 0), Some(25));
        assert_eq!(capacity(u64::MAX, 1, u32::MAX, 1_000_000), None);
    }

    #[test]
    fn a_look_is_good_for_a_while_or_until_something_changes() {
        let looks = Looks::new(1000);
        let found = |flying| Load { flying, weight: 5 };
        assert_eq!(looks.load(10, 0, || found(1)), found(1));
        assert_eq!(looks.load(1_000_009, 0, || found(2)), found(1));
        assert_eq!(looks.load(1_000_010, 0, || found(3)), found(3));
        assert_eq!(looks.load(1_000_011, 1, || found(4)), found(4));
    }
}
