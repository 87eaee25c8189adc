//! `consistent_hash`: endpoints at many points of a ring; a key belongs to the first point after it (Karger et al.,
//! "Consistent hashing and random trees", 1997). When an endpoint leaves, the keys that were its own move and no others,
//! and when it joins it takes its keys from all of them alike.

use super::Key;
use crate::observe::random::mix;

/// The points of an endpoint of average weight: with so many, shares stray by about 6 %.
const POINTS: u64 = 256;

/// The most points of a ring, which take 2 MiB; beyond 1,024 endpoints each has fewer.
const POINTS_MAX: u64 = 1 << 18;

/// How many points a search for an endpoint looks at before it gives up.
const STEPS_MAX: usize = 1024;

/// See the module.
#[derive(Debug)]
pub struct Ring {
    points: Box<[Point]>,
    /// The first point in or after each equal part of the ring. Hashes are spread evenly, so the one that is looked for
    /// stands next to it.
    parts: Box<[u32]>,
    /// How far a hash is shifted to become the number of its part.
    shift: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    hash: u32,
    endpoint: u16,
}

impl Ring {
    /// A ring of these endpoints, by name and weight; those of weight 0 have no place on it.
    pub fn new<'a>(endpoints: impl Iterator<Item = (&'a str, u32)> + Clone) -> Self {
        let weighted = endpoints.clone().filter(|(_, weight)| *weight > 0);
        let (count, total) = weighted.fold((0, 0), |(count, total): (u64, u64), (_, weight)| {
            (count + 1, total + u64::from(weight))
        });
        let mut points = Vec::new();
        for (at, (name, weight)) in (0..).zip(endpoints) {
            let seed = Key::default().with(name.as_bytes()).0;
            let hash = |serial: u64| (mix(seed ^ mix(serial)) >> 32) as u32;
            points.extend((0..points_of(weight, count, total)).map(|serial| Point {
                hash: hash(serial),
                endpoint: at,
            }));
        }
        points.sort_unstable();
        // a few points for each part: they stand in one cache line, and the parts of a large ring stay in the cache
        let bits = (points.len() / 4).next_power_of_two().trailing_zeros();
        Self {
            parts: parts(&points, bits),
            points: points.into(),
            shift: 32 - bits,
        }
    }

    /// The endpoint of a key, of those that may be chosen. One that is `full` is passed over for the next on the ring.
    /// None if there is none near.
    pub fn pick(
        &self,
        key: Key,
        may: impl Fn(u16) -> bool,
        full: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let start = self.start((mix(key.0) >> 32) as u32);
        let (before, after) = self.points.split_at_checked(start)?;
        let around = after.iter().chain(before).take(STEPS_MAX);
        let mut last = None;
        for point in around {
            let at = point.endpoint;
            // neighbours are often of one endpoint
            if last.replace(at) != Some(at) && may(at) && !full(at) {
                return Some(at);
            }
        }
        None
    }

    /// The first point at or after a hash.
    fn start(&self, hash: u32) -> usize {
        // a shift by 32 is one part
        let part = hash.checked_shr(self.shift).unwrap_or(0) as usize;
        let first = self.parts.get(part).copied().unwrap_or(0) as usize;
        let rest = self.points.get(first..).unwrap_or_default();
        first + rest.iter().take_while(|point| point.hash < hash).count()
    }
}

/// How many points an endpoint has. What a unit of weight has is a power of two that changes only when the total weight
/// has doubled or halved, so that no endpoint's points depend on who else is there; and then the new points are a part of
/// the old ones, or the old ones of the new.
fn points_of(weight: u32, count: u64, total: u64) -> u64 {
    if weight == 0 {
        return 0;
    }
    let wanted = (count * POINTS).min(POINTS_MAX);
    let points = match (wanted.checked_div(total), total.checked_div(wanted)) {
        (Some(unit @ 1..), _) => u64::from(weight) << unit.ilog2(),
        (_, Some(weights @ 1..)) => u64::from(weight) >> (weights.ilog2() + 1),
        _ => 1,
    };
    points.max(1)
}

/// For each of `2^bits` equal parts of the ring, the first point in or after it.
fn parts(points: &[Point], bits: u32) -> Box<[u32]> {
    let mut next = 0;
    let starts = (0..1_u64 << bits).map(|part| {
        let start = part << (32 - bits);
        while points
            .get(next)
            .is_some_and(|point| u64::from(point.hash) < start)
        {
            next += 1;
        }
        u32::try_from(next).unwrap_or(u32::MAX)
    });
    starts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(count: usize) -> Vec<String> {
        (0..count)
            .map(|n| format!("10.0.{}.{}:80", n / 256, n % 256))
            .collect()
    }

    fn ring(endpoints: &[(&str, u32)]) -> Ring {
        Ring::new(endpoints.iter().copied())
    }

    fn owner<'a>(ring: &Ring, endpoints: &[(&'a str, u32)], key: u64) -> &'a str {
        let at = ring.pick(Key(mix(key)), |_| true, |_| false).unwrap();
        endpoints[usize::from(at)].0
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn when_an_endpoint_leaves_only_its_own_keys_move(count in 2_usize..40, leaves in any::<prop::sample::Index>()) {
            let names = names(count);
            let all: Vec<(&str, u32)> = names.iter().map(|name| (&**name, 1)).collect();
            let leaves = leaves.index(count);
            let mut fewer = all.clone();
            let (gone, _) = fewer.remove(leaves);
            let (before, after) = (ring(&all), ring(&fewer));
            let keys = 4_000_u64;
            let mut moved = 0.0;
            for key in 0..keys {
                let (old, new) = (owner(&before, &all, key), owner(&after, &fewer, key));
                if old != new {
                    prop_assert_eq!(old, gone);
                    moved += 1.0;
                }
            }
            // about one in `count`; the other direction is an endpoint that joins
            let share = moved / keys as f64 * count as f64;
            prop_assert!((0.6..1.5).contains(&share), "{} of {}", share, count);
            // barred is as good as gone
            let may = |at: u16| usize::from(at) != leaves;
            for key in 0..keys {
                let at = before.pick(Key(mix(key)), may, |_| false).unwrap();
                prop_assert_eq!(all[usize::from(at)].0, owner(&after, &fewer, key));
            }
        }

        #[test]
        fn keys_are_shared_by_weight(weights in prop::collection::vec(0_u32..6, 2..10)) {
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            let names = names(weights.len());
            let all: Vec<(&str, u32)> = names.iter().map(|name| &**name).zip(weights.iter().copied()).collect();
            let ring = ring(&all);
            let mut counts = vec![0_u32; weights.len()];
            for key in 0..20_000 {
                counts[usize::from(ring.pick(Key(mix(key)), |_| true, |_| false).unwrap())] += 1;
            }
            for (count, weight) in counts.iter().zip(&weights) {
                let share = f64::from(*weight) / f64::from(total);
                prop_assert!((f64::from(*count) / 20_000.0 - share).abs() < 0.02 + share * 0.35, "{:?} of {:?}", counts, weights);
                prop_assert!(*weight > 0 || *count == 0);
            }
        }

        #[test]
        fn a_search_finds_the_first_point_after_a_key(count in 1_usize..30, hashes in prop::collection::vec(any::<u32>(), 50)) {
            let names = names(count);
            let ring = Ring::new(names.iter().map(|name| (&**name, 1)));
            for hash in hashes {
                prop_assert_eq!(ring.start(hash), ring.points.partition_point(|point| point.hash < hash));
            }
        }
    }

    #[test]
    fn a_ring_of_nobody_has_nobody() {
        for endpoints in [&[][..], &[("a", 0)][..]] {
            assert_eq!(ring(endpoints).pick(Key(7), |_| true, |_| false), None);
        }
        assert_eq!(
            ring(&[("a", u32::MAX)]).pick(Key(7), |_| true, |_| false),
            Some(0)
        );
        assert!(
            ring(&[("a", u32::MAX), ("b", u32::MAX), ("c", 1)])
                .points
                .len()
                < 2048
        );
    }

    #[test]
    fn large_sets_stay_within_the_memory_of_the_ring() {
        let names = names(10_000);
        let ring = Ring::new(names.iter().map(|name| (&**name, 3)));
        assert!(ring.points.len() as u64 <= POINTS_MAX);
        assert!(ring.points.len() as u64 >= POINTS_MAX / 4);
    }
}
