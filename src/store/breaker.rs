//! Whether a store is asked at all: after some failures in a row it is not, until a probe has been answered.
//!
//! Of a cluster, each of some groups of slots has a breaker of its own, so that a server that has failed costs the keys
//! of others nothing.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// Failures in a row after which a store counts as down.
pub const FAILURES: u32 = 5;

/// See the module.
#[derive(Default)]
pub struct Breaker {
    failures: AtomicU32,
    open: AtomicBool,
    /// A key that could not be asked for, which the probe asks for.
    key: Mutex<Option<Box<[u8]>>>,
}

impl Breaker {
    pub fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// Takes a success in. Tells whether it has closed.
    pub fn succeeded(&self) -> bool {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        self.is_open() && self.open.swap(false, Relaxed)
    }

    /// Takes a failure in. Tells whether it has opened.
    pub fn failed(&self, key: &[u8]) -> bool {
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        failures >= FAILURES && self.open(Some(key))
    }

    /// Opens it, whatever there was before. Tells whether that is news.
    pub fn open(&self, key: Option<&[u8]>) -> bool {
        if self.open.swap(true, Relaxed) {
            return false;
        }
        if let Some(key) = key {
            *self.key.lock() = Some(key.into());
        }
        true
    }

    /// The key that a probe asks for; none if any will do.
    pub fn probe(&self) -> Option<Box<[u8]>> {
        self.key.lock().clone()
    }
}

/// Groups of slots of a cluster that fail together.
pub const GROUPS: usize = 64;

/// The group of the slot of a key (Redis Cluster specification, "Key distribution model").
pub fn group(key: &[u8]) -> usize {
    usize::from(slot(key) >> 8)
}

fn slot(key: &[u8]) -> u16 {
    crc16(tag(key)) % 16_384
}

/// What is between the first `{` and the next `}`, if that is anything.
fn tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else {
        return key;
    };
    let inside = key.get(open + 1..).unwrap_or_default();
    match inside.iter().position(|byte| *byte == b'}') {
        Some(close @ 1..) => inside.get(..close).unwrap_or(key),
        _ => key,
    }
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            let next = crc << 1;
            if crc & 0x8000 == 0 {
                next
            } else {
                next ^ 0x1021
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % 16_384);
        assert_eq!(tag(b"foo{{bar}}zap"), b"{bar");
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_with_a_success() {
        let breaker = Breaker::default();
        for _ in 1..FAILURES {
            assert!(!breaker.failed(b"k"));
        }
        assert!(!breaker.succeeded());
        for _ in 1..FAILURES {
            assert!(!breaker.failed(b"k") && !breaker.is_open());
        }
        assert!(breaker.failed(b"k") && breaker.is_open());
        assert!(!breaker.failed(b"other"));
        assert_eq!(breaker.probe().as_deref(), Some(&b"k"[..]));
        assert!(breaker.succeeded() && !breaker.is_open());
        assert!(breaker.open(None) && !breaker.open(None));
    }
}
