//! What was verified before, so that it is not verified again: bounded, and found by a digest of the credential, so that
//! the credential itself is kept nowhere.

use aws_lc_rs::rand;
use quick_cache::Weighter;
use quick_cache::sync::Cache as Quick;
use std::sync::LazyLock;
use std::time::Duration;

/// What the entries of one cache may weigh, in bytes of credentials and [`ENTRY_BYTES`] for each.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What an entry costs besides its credential.
const ENTRY_BYTES: u64 = 512;

/// The key of the digests: others must not be able to tell where a credential stands.
static KEY: LazyLock<[u8; 32]> = LazyLock::new(|| {
    let mut key = [0; 32];
    // without random numbers it is a digest all the same, of 256 bits
    let _ = rand::fill(&mut key);
    key
});

/// The digest of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(credential: &str) -> Self {
        Self(*blake3::keyed_hash(&KEY, credential.as_bytes()).as_bytes())
    }
}

/// One verdict, and how long it holds.
#[derive(Clone, Debug)]
struct Entry<T> {
    verdict: T,
    /// Since the epoch; from then on it is none.
    until: Duration,
    /// What it was verified with, and does not outlive.
    generation: u64,
    bytes: u64,
}

#[derive(Clone)]
struct Bytes;

impl<T> Weighter<Digest, Entry<T>> for Bytes {
    fn weight(&self, _: &Digest, entry: &Entry<T>) -> u64 {
        entry.bytes
    }
}

/// See the module.
pub struct Cache<T>(Quick<Digest, Entry<T>, Bytes>);

impl<T: Clone> Default for Cache<T> {
    fn default() -> Self {
        // an estimate of how many there are; the weight is what bounds them
        let items = 16 * 1024;
        Self(Quick::with_weighter(items, BYTES_MAX, Bytes))
    }
}

impl<T: Clone> Cache<T> {
    /// The verdict on that credential, if it still holds.
    pub fn find(&self, digest: &Digest, generation: u64, now: Duration) -> Option<T> {
        let entry = self.0.get(digest)?;
        if now < entry.until && entry.generation == generation {
            return Some(entry.verdict);
        }
        self.0.remove(digest);
        None
    }

    /// Keeps a verdict on a credential of so many bytes.
    pub fn keep(&self, digest: Digest, bytes: usize, verdict: T, until: Duration, generation: u64) {
        let bytes = (bytes as u64).saturating_add(ENTRY_BYTES);
        self.0.insert(
            digest,
            Entry {
                verdict,
                until,
                generation,
                bytes,
            },
        );
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_verdict_holds_until_its_end_and_for_its_keys() {
        let cache = Cache::default();
        let digest = Digest::of("token");
        assert_eq!(cache.find(&digest, 1, at(0)), None);
        cache.keep(digest, 100, 'a', at(10), 1);
        assert_eq!(cache.find(&digest, 1, at(9)), Some('a'));
        assert_eq!(cache.find(&Digest::of("other"), 1, at(9)), None);
        assert_eq!(cache.find(&digest, 1, at(10)), None);
        cache.keep(digest, 100, 'a', at(10), 1);
        assert_eq!(cache.find(&digest, 2, at(9)), None);
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let cache = Cache::default();
        for number in 0..10_000 {
            cache.keep(Digest::of(&number.to_string()), 8 * 1024, (), at(10), 1);
        }
        assert!(cache.len() as u64 <= BYTES_MAX / (8 * 1024 + ENTRY_BYTES));
    }
}
