//! Which nonces have been seen: a request that was signed to be sent once is accepted once (RFC 9421 §7.2.2).

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// Shards, so that requests wait for each other only by chance.
const SHARDS: usize = 16;

/// How often what is over is thrown away.
const SWEEP: Duration = Duration::from_secs(10);

/// Whether a nonce may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    First,
    Again,
    /// There are as many as can be remembered. Nobody can say whether this one has been seen.
    Full,
}

/// Nonces by their keyed digests, each remembered for as long as its signature would be accepted. Only good signatures
/// get here, so nobody without a key can fill it.
pub struct Seen {
    key: [u8; 32],
    shards: [Mutex<Shard>; SHARDS],
    shard_max: usize,
}

#[derive(Default)]
struct Shard {
    until: HashMap<u128, SystemTime, ahash::RandomState>,
    swept_at: Option<SystemTime>,
}

impl Seen {
    /// Remembers that many at a time. `key` is random, and nobody else's.
    pub fn new(key: [u8; 32], max: usize) -> Self {
        Self {
            key,
            shards: Default::default(),
            shard_max: max.div_ceil(SHARDS),
        }
    }

    /// Remembers a nonce of a key up to that moment.
    pub fn admit(&self, keyid: &str, nonce: &str, until: SystemTime, now: SystemTime) -> Admission {
        let digest = self.digest(keyid, nonce);
        let at = usize::try_from(digest % SHARDS as u128).unwrap_or_default();
        let Some(shard) = self.shards.get(at) else {
            return Admission::Full;
        };
        let mut shard = shard.lock();
        let due = shard
            .swept_at
            .is_none_or(|swept| now.duration_since(swept).is_ok_and(|since| since >= SWEEP));
        if due || shard.until.len() >= self.shard_max {
            shard.until.retain(|_, until| *until >= now);
            shard.swept_at = Some(now);
        }
        if shard.until.get(&digest).is_some_and(|until| *until >= now) {
            return Admission::Again;
        }
        if shard.until.len() >= self.shard_max {
            return Admission::Full;
        }
        shard.until.insert(digest, until);
        Admission::First
    }

    fn digest(&self, keyid: &str, nonce: &str) -> u128 {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&(keyid.len() as u64).to_le_bytes());
        hasher.update(keyid.as_bytes());
        hasher.update(nonce.as_bytes());
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        u128::from_le_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_nonce_is_good_once_for_each_key() {
        let seen = Seen::new([1; 32], 1000);
        assert_eq!(seen.admit("a", "n", at(60), at(0)), Admission::First);
        assert_eq!(seen.admit("a", "n", at(60), at(59)), Admission::Again);
        assert_eq!(seen.admit("a", "n", at(60), at(60)), Admission::Again);
        assert_eq!(seen.admit("b", "n", at(60), at(0)), Admission::First);
        // the parts can't be shifted against each other
        assert_eq!(seen.admit("ab", "", at(60), at(0)), Admission::First);
        assert_eq!(seen.admit("a", "b", at(60), at(0)), Admission::First);
    }

    #[test]
    fn what_is_over_makes_room_and_what_is_not_is_never_forgotten() {
        let seen = Seen::new([1; 32], SHARDS * 4);
        let mut first = Vec::new();
        for n in 0..1000 {
            let nonce = n.to_string();
            match seen.admit("a", &nonce, at(60), at(0)) {
                Admission::First => first.push(nonce),
                admission => assert_eq!(admission, Admission::Full),
            }
        }
        assert_eq!(first.len(), SHARDS * 4);
        for nonce in &first {
            assert_eq!(seen.admit("a", nonce, at(60), at(30)), Admission::Again);
        }
        assert_eq!(seen.admit("a", "new", at(200), at(61)), Admission::First);
    }
}
