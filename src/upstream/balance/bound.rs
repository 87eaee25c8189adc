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
    /// The most requests that an endpoint of this weight may have in flight, the one to be placed included.
    pub fn capacity(self, weight: u32, overload_ppm: u32) -> u64 {
        let flying = u128::from(self.flying) + 1;
        let factor = 1_000_000 + u128::from(overload_ppm);
        let whole = 1_000_000 * u128::from(self.weight.max(1));
        let capacity = (flying * factor * u128::from(weight)).div_ceil(whole);
        u64::try_from(capacity).unwrap_or(u64::MAX)
    }
}

/// How long a look at all endpoints of a large set is good for.
const GOOD_FOR_NANOS: u64 = 1_000_000;

/// The last look at a large set: to count all of them for each choice would cost too much, and so would a counter that
/// every request writes. What begins within the millisecond that a look is good for is not seen by the bound.
#[derive(Debug, Default)]
pub struct Looks {
    at: AtomicU64,
    changes: AtomicU64,
    flying: AtomicU64,
    weight: AtomicU64,
}

impl Looks {
    /// What is known at `now`, after `changes` of endpoints to usable or back; `look` looks.
    pub fn load(&self, now: u64, changes: u64, look: impl FnOnce() -> Load) -> Load {
        let known = Load {
            flying: self.flying.load(Relaxed),
            weight: self.weight.load(Relaxed),
        };
        let at = self.at.load(Relaxed);
        let good = known.weight > 0
            && now.saturating_sub(at) < GOOD_FOR_NANOS
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
    fn a_capacity_is_the_share_and_a_quarter_rounded_up() {
        let load = |flying, weight| Load { flying, weight };
        assert_eq!(load(0, 3).capacity(1, 250_000), 1);
        assert_eq!(load(99, 4).capacity(1, 250_000), 32);
        assert_eq!(load(99, 4).capacity(2, 250_000), 63);
        assert_eq!(load(99, 4).capacity(1, 0), 25);
        assert!(load(u64::MAX, 1).capacity(u32::MAX, 1_000_000) > 0);
    }

    #[test]
    fn a_look_is_good_for_a_millisecond_or_until_something_changes() {
        let looks = Looks::default();
        let found = |flying| Load { flying, weight: 5 };
        assert_eq!(looks.load(10, 0, || found(1)), found(1));
        assert_eq!(looks.load(1_000_009, 0, || found(2)), found(1));
        assert_eq!(looks.load(1_000_010, 0, || found(3)), found(3));
        assert_eq!(looks.load(1_000_011, 1, || found(4)), found(4));
    }
}
