//! How many connections there may be: of a listener, of one client address, and in all.
//!
//! A permit is taken as a connection is accepted, or, where a proxy names the client, once it has; and given back when
//! the connection ends, however it ends. What is kept for an address goes with its last connection, so that the table is
//! never larger than what is open.

use ahash::{AHashMap, RandomState};
use parking_lot::Mutex;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Parts of the table, so that threads which accept and close at the same time seldom meet.
const PARTS: usize = 16;

/// Why a connection is closed as it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// Its listener has as many as it may.
    Listener,
    /// Its client has.
    Address,
    /// All listeners together have.
    Total,
}

/// A number that has a bound.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicUsize);

impl Count {
    pub(super) fn get(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Counts one more, unless there are `at_most` already.
    pub(super) fn enter(&self, at_most: usize) -> bool {
        let entered = self.0.fetch_add(1, Relaxed) < at_most;
        if !entered {
            self.leave();
        }
        entered
    }

    pub(super) fn leave(&self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Open connections by client address.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    parts: [Mutex<AHashMap<Ipv6Addr, usize>>; PARTS],
    hasher: RandomState,
}

/// A connection in the count of its address, until this is dropped.
#[derive(Debug)]
pub(super) struct AddressPermit {
    addresses: Arc<Addresses>,
    /// What it is counted under.
    key: Ipv6Addr,
}

impl Addresses {
    /// Counts a connection, unless its address has `at_most` already.
    pub(super) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        at_most: usize,
    ) -> Option<AddressPermit> {
        let key = key_of(address);
        let mut part = self.part(&key)?.lock();
        let count = part.entry(key).or_insert(0);
        if *count >= at_most {
            // what is there is somebody's, unless nothing is allowed at all
            if *count == 0 {
                part.remove(&key);
            }
            return None;
        }
        *count += 1;
        Some(AddressPermit {
            addresses: self.clone(),
            key,
        })
    }

    fn part(&self, key: &Ipv6Addr) -> Option<&Mutex<AHashMap<Ipv6Addr, usize>>> {
        let number = usize::try_from(self.hasher.hash_one(key) >> 32).unwrap_or(0);
        self.parts.get(number % PARTS)
    }

    /// Addresses that have a connection.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let Some(part) = self.addresses.part(&self.key) else {
            return;
        };
        let mut part = part.lock();
        if let Some(count) = part.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                part.remove(&self.key);
            }
        }
    }
}

/// An IPv4 address, mapped; the /64 of an IPv6 address, which is what one customer has at least (RFC 6177).
fn key_of(address: IpAddr) -> Ipv6Addr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_as_many_as_allowed_and_gives_them_back() {
        let addresses = Arc::new(Addresses::default());
        let one = address("192.0.2.1");
        let held: Vec<_> = (0..3).filter_map(|_| addresses.enter(one, 3)).collect();
        assert_eq!(held.len(), 3);
        assert!(addresses.enter(one, 3).is_none());
        assert!(addresses.enter(address("::ffff:192.0.2.1"), 3).is_none());
        assert!(addresses.enter(address("192.0.2.2"), 3).is_some());
        drop(held);
        assert_eq!(addresses.len(), 0);
        assert!(addresses.enter(one, 3).is_some());
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let addresses = Arc::new(Addresses::default());
        let _held = addresses.enter(address("2001:db8::1"), 1);
        assert!(addresses.enter(address("2001:db8::ffff:2"), 1).is_none());
        assert!(addresses.enter(address("2001:db8:0:1::1"), 1).is_some());
    }

    proptest! {
        /// Whatever comes and goes, nobody has more than is allowed, and nothing is left when all have gone.
        #[test]
        fn nothing_is_left_of_those_who_have_gone(
            steps in prop::collection::vec((any::<bool>(), 0u8..6, any::<prop::sample::Index>()), 0..200),
            at_most in 0usize..4,
        ) {
            let addresses = Arc::new(Addresses::default());
            let mut held: Vec<(u8, AddressPermit)> = Vec::new();
            for (comes, who, which) in steps {
                if comes {
                    let before = held.iter().filter(|(other, _)| *other == who).count();
                    let permit = addresses.enter(IpAddr::from([198, 51, 100, who]), at_most);
                    prop_assert_eq!(permit.is_some(), before < at_most);
                    held.extend(permit.map(|permit| (who, permit)));
                } else if !held.is_empty() {
                    held.swap_remove(which.index(held.len()));
                }
                let mut known: Vec<_> = held.iter().map(|(who, _)| *who).collect();
                known.sort_unstable();
                known.dedup();
                prop_assert_eq!(addresses.len(), known.len());
            }
            held.clear();
            prop_assert_eq!(addresses.len(), 0);
        }
    }
}
