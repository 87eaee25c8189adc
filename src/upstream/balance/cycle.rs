//! `round_robin`.

/// The longest cycle for endpoints whose weights differ; beyond it they are rounded.
const CYCLE_MAX: u64 = 4096;

/// How many turns one choice takes before it goes through the order by itself.
const TURNS_MAX: u32 = 16;

/// The order of `round_robin`: every endpoint as often as its weight says, spread evenly (nginx's smooth weighted round
/// robin, 2012), unrolled at load so that a choice is one increment and one read.
#[derive(Debug)]
pub struct Cycle(Box<[u16]>);

impl Cycle {
    /// Unrolls the order of endpoints with these weights; those of weight 0 are left out.
    pub fn new(weights: &[u32]) -> Self {
        let weights = reduced(weights);
        let total: i64 = weights.iter().sum();
        if weights.iter().all(|weight| *weight <= 1) {
            let weighted = (0..).zip(&weights).filter(|(_, weight)| **weight == 1);
            return Self(weighted.map(|(at, _)| at).collect());
        }
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

    /// The endpoint whose turn it is, of those that may be chosen. A turn of one that may not is nobody's: whoever comes
    /// next in the order would have it on top of its own.
    pub fn pick(&self, mut turn: impl FnMut() -> usize, may: impl Fn(u16) -> bool) -> Option<u16> {
        let mut at = || turn().checked_rem(self.0.len());
        for _ in 1..TURNS_MAX {
            let next = *self.0.get(at()?)?;
            if may(next) {
                return Some(next);
            }
        }
        let (before, after) = self.0.split_at_checked(at()?)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn round_robin_interleaves_instead_of_bunching() {
        assert_eq!(&*Cycle::new(&[5, 1, 1]).0, &[0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(&*Cycle::new(&[20, 20]).0, &[0, 1]);
    }

    #[test]
    fn huge_weights_are_scaled_and_never_lost() {
        let cycle = Cycle::new(&[1_000_000, 1, 0]);
        assert!(cycle.0.len() as u64 <= CYCLE_MAX + 2);
        assert!(cycle.0.contains(&1) && !cycle.0.contains(&2));
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
    }
}
