//! Verdicts that are kept.

use crate::policy::auth::Accepted;
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::time::Instant;

/// A keyed digest of what a verdict depends on.
pub type Key = [u8; 32];

/// A bounded number of verdicts that let pass.
pub struct Verdicts(Cache<Key, Arc<(Accepted, Instant)>>);

impl Verdicts {
    pub fn new(size: usize) -> Self {
        Self(Cache::new(size))
    }

    /// One that is still good.
    pub fn find(&self, key: &Key, now: Instant) -> Option<Accepted> {
        let kept = self.0.get(key)?;
        if now >= kept.1 {
            self.0.remove(key);
            return None;
        }
        Some(kept.0.clone())
    }

    pub fn keep(&self, key: Key, accepted: Accepted, until: Instant) {
        self.0.insert(key, Arc::new((accepted, until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_good_until_its_time_is_over() {
        let verdicts = Verdicts::new(4);
        let now = Instant::now();
        let second = std::time::Duration::from_secs(1);
        verdicts.keep([1; 32], Arc::new(crate::identity::Identity::default()).into(), now + second);
        assert!(verdicts.find(&[1; 32], now).is_some());
        assert!(verdicts.find(&[2; 32], now).is_none());
        assert!(verdicts.find(&[1; 32], now + second).is_none());
        assert!(verdicts.find(&[1; 32], now).is_none());
    }
}
