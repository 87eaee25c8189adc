//! How one of several endpoints is chosen. Pure: randomness, loads and position come as arguments.

use crate::observe::random::{below, mix};

/// The longest cycle of [`Cycle`] for endpoints whose weights differ; beyond it they are rounded.
const CYCLE_MAX: u64 = 4096;

/// How often a choice among weights is repeated before every endpoint is looked at in turn.
const DRAWS_MAX: u32 = 8;

/// The order of `round_robin`: every endpoint as often as its weight says, spread evenly (nginx's smooth weighted round
/// robin, 2012), unrolled at load so that a choice is one increment and one read.
#[derive(Debug)]
pub struct Cycle(Box<[u16]>);

impl Cycle {
    /// Unrolls the order of endpoints with these weights; those of weight 0 are left out.
    pub fn new(weights: &[u32]) -> Self {
        let weights = reduced(weights);
        let total: i64 = weights.iter().sum();
        let mut credit = vec![0_i64; weights.len()];
        let mut order = Vec::new();
        for _ in 0..total {
            let mut best: Option<(usize, i64)> = None;
            for (at, (credit, weight)) in credit.iter_mut().zip(&weights).enumerate() {
                *credit += weight;
                if *weight > 0 && best.is_none_or(|(_, most)| *credit > most) {
                    best = Some((at, *credit));
                }
            }
            let Some((at, _)) = best else { break };
            if let Some(credit) = credit.get_mut(at) {
                *credit -= total;
            }
            order.push(u16::try_from(at).unwrap_or(u16::MAX));
        }
        Self(order.into())
    }

    /// The next endpoint from `position` on that may be chosen.
    pub fn pick(&self, position: usize, may: impl Fn(u16) -> bool) -> Option<u16> {
        let start = position.checked_rem(self.0.len())?;
        let (before, after) = self.0.split_at_checked(start)?;
        after.iter().chain(before).copied().find(|at| may(*at))
    }
}

/// Divides weights by their greatest common divisor, and scales them down where the cycle would become too long.
fn reduced(weights: &[u32]) -> Vec<i64> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let sum: u64 = weights
        .iter()
        .map(|weight| u64::from(weight / divisor))
        .sum();
    let scaled = |weight: u32| {
        let weight = u64::from(weight / divisor);
        if sum <= CYCLE_MAX || weight == 0 {
            return weight;
        }
        ((weight * CYCLE_MAX + sum / 2) / sum).max(1)
    };
    let scaled: Vec<u64> = weights.iter().map(|weight| scaled(*weight)).collect();
    let divisor = scaled.iter().copied().fold(0, gcd64).max(1);
    scaled
        .iter()
        .map(|weight| (weight / divisor) as i64)
        .collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    gcd64(u64::from(a), u64::from(b)) as u32
}

fn gcd64(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd64(b, a % b) }
}

/// Draws endpoints at random in proportion to their weights.
#[derive(Debug)]
pub struct Shares {
    /// Running sums of the weights.
    ends: Box<[u32]>,
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
        Self {
            ends: ends.collect(),
        }
    }

    /// The endpoint that this random number falls on. None when every weight is 0.
    pub fn draw(&self, random: u64) -> Option<u16> {
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

/// `least_request`: of two endpoints drawn by weight, the one with fewer requests in flight for its weight
/// (Mitzenmacher, "The power of two choices in randomized load balancing", 2001). Idle endpoints share by weight.
pub fn least_request(
    shares: &Shares,
    random: u64,
    may: impl Fn(u16) -> bool,
    load: impl Fn(u16) -> (u32, u32),
) -> Option<u16> {
    let first = shares.draw_where(random, &may)?;
    let Some(second) = shares.draw_where(mix(random), |at| at != first && may(at)) else {
        return Some(first);
    };
    let ((first_flying, first_weight), (second_flying, second_weight)) =
        (load(first), load(second));
    // a / wa > b / wb without a division
    let heavier = u64::from(first_flying) * u64::from(second_weight)
        > u64::from(second_flying) * u64::from(first_weight);
    Some(if heavier { second } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::random;
    use proptest::prelude::*;

    #[test]
    fn round_robin_interleaves_instead_of_bunching() {
        assert_eq!(&*Cycle::new(&[5, 1, 1]).0, &[0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(&*Cycle::new(&[20, 20]).0, &[0, 1]);
    }

    proptest! {
        #[test]
        fn a_cycle_holds_each_endpoint_as_often_as_its_weight(weights in prop::collection::vec(0_u32..12, 1..8)) {
            let cycle = Cycle::new(&weights);
            let divisor = weights.iter().copied().fold(0, gcd).max(1);
            for (at, weight) in weights.iter().enumerate() {
                let count = cycle.0.iter().filter(|chosen| usize::from(**chosen) == at).count();
                prop_assert_eq!(count as u32, weight / divisor);
            }
        }

        #[test]
        fn no_window_of_a_cycle_strays_more_than_one_from_its_share(weights in prop::collection::vec(1_u32..9, 2..5)) {
            let cycle = Cycle::new(&weights);
            let total = cycle.0.len() as f64;
            let sum: u32 = weights.iter().sum();
            for (at, weight) in weights.iter().enumerate() {
                let mut seen = 0.0;
                for (position, chosen) in cycle.0.iter().enumerate() {
                    seen += f64::from(u8::from(usize::from(*chosen) == at));
                    let share = (position + 1) as f64 * f64::from(*weight) / f64::from(sum);
                    prop_assert!((seen - share).abs() <= weights.len() as f64, "{} of {}", seen, total);
                }
            }
        }

        #[test]
        fn what_may_not_be_chosen_never_is(
            weights in prop::collection::vec(0_u32..5, 1..9), barred in prop::collection::vec(any::<bool>(), 9), seed: u64,
        ) {
            let may = |at: u16| !barred[usize::from(at)];
            let possible = weights.iter().enumerate().any(|(at, weight)| *weight > 0 && !barred[at]);
            let shares = Shares::new(&weights);
            let picks = [
                Cycle::new(&weights).pick(seed as usize, may),
                shares.draw_where(seed, may),
                least_request(&shares, seed, may, |_| (0, 1)),
            ];
            for pick in picks {
                prop_assert_eq!(pick.is_some(), possible);
                if let Some(at) = pick {
                    prop_assert!(may(at) && weights[usize::from(at)] > 0);
                }
            }
        }
    }

    #[test]
    fn huge_weights_are_scaled_and_never_lost() {
        let cycle = Cycle::new(&[1_000_000, 1, 0]);
        assert!(cycle.0.len() as u64 <= CYCLE_MAX + 2);
        assert!(cycle.0.contains(&1) && !cycle.0.contains(&2));
        let shares = Shares::new(&[u32::MAX, u32::MAX, 1]);
        assert!((0..1000).all(|seed| shares.draw(mix(seed)).is_some()));
    }

    #[test]
    fn idle_endpoints_share_by_weight_and_busy_ones_are_spared() {
        let weights = [3, 1];
        let shares = Shares::new(&weights);
        let mut counts = [0_u32; 2];
        for _ in 0..40_000 {
            let at = least_request(
                &shares,
                random::next(),
                |_| true,
                |at| (0, weights[usize::from(at)]),
            )
            .unwrap();
            counts[usize::from(at)] += 1;
        }
        assert!((28_500..31_500).contains(&counts[0]), "{counts:?}");

        let load = |at: u16| if at == 0 { (50, 3) } else { (0, 1) };
        let spared =
            (0..1000).all(|seed| least_request(&shares, mix(seed), |_| true, load) == Some(1));
        assert!(spared);
    }
}
