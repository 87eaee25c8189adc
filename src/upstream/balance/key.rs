//! What `consistent_hash` and sticky splits go by: some facts of a request as one number, which is the same in every
//! gateway of a fleet and after every restart.

use crate::exchange::View;
use crate::exchange::fact::{Fact, client_key};
use crate::observe::random::mix;
use std::net::IpAddr;

/// The facts that make a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed(pub Box<[Fact]>);

impl Keyed {
    /// The key of a request; none if it lacks one of the facts.
    pub fn of(&self, view: View<'_>) -> Option<Key> {
        self.0.iter().try_fold(Key::default(), |key, fact| {
            // most ask for this one, and its text would be made for each request
            if let (Fact::ClientAddress, Some(address)) = (fact, view.facts.client_address) {
                return Some(match client_key(address) {
                    IpAddr::V4(address) => key.with(&address.octets()),
                    IpAddr::V6(address) => key.with(&address.octets()),
                });
            }
            Some(key.with(fact.read_key(view)?.as_bytes()))
        })
    }
}

/// A hash. Not keyed, so that all gateways agree: what clients can do with that is bounded by the bound on loads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key(pub u64);

impl Key {
    /// This and one more part, eight bytes at a time through SplitMix64's mixer. The length goes in too, so that where
    /// one part ends and the next begins makes a difference.
    pub fn with(self, part: &[u8]) -> Self {
        let word = |bytes: &[u8]| {
            bytes
                .iter()
                .rev()
                .fold(0, |word: u64, byte| word << 8 | u64::from(*byte))
        };
        let seeded = mix(self.0 ^ (part.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (words, rest) = part.as_chunks::<8>();
        let hash = words.iter().fold(seeded, |hash, bytes| {
            mix(hash ^ u64::from_le_bytes(*bytes)).wrapping_add(hash)
        });
        Self(mix(hash ^ word(rest)).wrapping_add(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;
    use std::collections::HashSet;

    fn key(facts: &[&str], sample: &Sample) -> Option<Key> {
        let facts = facts.iter().map(|fact| fact.parse().unwrap());
        Keyed(facts.collect()).of(sample.view())
    }

    #[test]
    fn parts_are_kept_apart_and_a_missing_one_leaves_no_key() {
        let sample = |a: &str, b: &str| Sample::get("/").header("x-a", a).header("x-b", b);
        let of = |a: &str, b: &str| key(&["header.x-a", "header.x-b"], &sample(a, b));
        assert_eq!(of("a", "b"), of("a", "b"));
        assert_ne!(of("ab", "c"), of("a", "bc"));
        assert_ne!(of("a", ""), of("", "a"));
        assert_eq!(key(&["header.x-a", "header.x-c"], &sample("a", "b")), None);
    }

    #[test]
    fn a_client_with_a_whole_network_has_one_key() {
        let of = |address: &str| key(&["client_address"], &Sample::get("/").client(address));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    }

    #[test]
    fn the_hash_is_the_same_for_ever_and_spreads() {
        // another value would move every key of a fleet while it is upgraded
        assert_eq!(Key::default().with(b"acme"), Key(3_797_994_260_672_646_350));
        let keys: HashSet<u64> = (0..10_000_u32)
            .map(|n| Key::default().with(format!("user-{n}").as_bytes()).0 >> 40)
            .collect();
        // of 2^24 places, 10,000 keys share about three
        assert!(keys.len() > 9_980, "{}", keys.len());
    }
}
