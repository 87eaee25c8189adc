//! Draws by weight.

use crate::observe::random::{below, mix};

/// How often a draw is repeated before every endpoint is looked at in turn.
const DRAWS_MAX: u32 = 8;

/// Draws endpoints at random in proportion to their weights.
#[derive(Debug)]
pub struct Shares {
    /// Running sums of the weights.
    ends: Box<[u32]>,
    /// Whether all weights are the same, which makes a draw a multiplication.
    even: bool,
}

impl Shares {
    /// Weights are scaled down together where their sum would not fit 32 bits.
    pub fn new(weights: &[u32]) -> Self {
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let shift = (64 - sum.leading_zeros()).saturating_sub(31);
        let mut end = 0_u32;
        let ends = weights.iter().map(|weight| {
            let kept = if *weight > 0 {
                (weight >> shift).max(1)
            } else {
                0
            };
            end = end.saturating_add(kept);
            end
        });
        let first = weights.first().copied().unwrap_or(0);
        Self {
            ends: ends.collect(),
            even: first > 0 && weights.iter().all(|weight| *weight == first),
        }
    }

    /// The endpoint that this random number falls on. None when every weight is 0. The same number falls on the same one
    /// while the weights are, and on another only as far as shares have moved.
    pub fn draw(&self, random: u64) -> Option<u16> {
        if self.even {
            let count = u32::try_from(self.ends.len()).ok()?;
            return u16::try_from(below(random, count)).ok();
        }
        let total = *self.ends.last()?;
        if total == 0 {
            return None;
        }
        let at = below(random, total);
        u16::try_from(self.ends.partition_point(|end| *end <= at)).ok()
    }

    /// Draws until the endpoint may be chosen; after a few draws takes the first that may, from a random one on.
    pub fn draw_where(&self, random: u64, may: impl Fn(u16) -> bool) -> Option<u16> {
        for salt in 0..DRAWS_MAX {
            let at = self.draw(mix(random ^ u64::from(salt)))?;
            if may(at) {
                return Some(at);
            }
        }
        let count = u16::try_from(self.ends.len()).unwrap_or(u16::MAX);
        let start = self.draw(random)?;
        (start..count)
            .chain(0..start)
            .find(|at| self.has_weight(*at) && may(*at))
    }

    fn has_weight(&self, at: u16) -> bool {
        let at = usize::from(at);
        let before = at.checked_sub(1).and_then(|before| self.ends.get(before));
        self.ends.get(at) > Some(before.unwrap_or(&0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_weights_are_scaled_and_never_lost() {
        let shares = Shares::new(&[u32::MAX, u32::MAX, 1]);
        assert!((0..1000).all(|seed| shares.draw(mix(seed)).is_some()));
    }

    #[test]
    fn a_share_that_grows_takes_requests_only_from_the_others() {
        let (before, after) = (Shares::new(&[95, 5]), Shares::new(&[90, 10]));
        let moved = (0..10_000)
            .map(mix)
            .filter(|random| before.draw(*random) != after.draw(*random))
            .inspect(|random| assert_eq!(after.draw(*random), Some(1)))
            .count();
        assert!((350..650).contains(&moved), "{moved}");
    }
}
