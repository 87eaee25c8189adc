//! The accounts of all keys of one quota.

use super::Period;
use super::account::Account;
use ahash::{AHashMap, RandomState};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Locks are for so many parts, so that few requests meet at one.
const SHARDS: usize = 64;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub admitted: bool,
    /// What is left after it.
    pub remaining: u64,
    /// When all counts anew, in seconds since the epoch; for one that was refused, when there is room for it, if ever.
    pub resets_at: Option<i64>,
    /// It was counted together with other keys, because there is no memory for its own account.
    pub shared: bool,
}

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub used: u64,
    pub granted: u64,
    pub remaining: u64,
    pub resets_at: i64,
}

/// All accounts. Exact for as many keys as there is memory for; those beyond share one account, which refuses too early and
/// never too late.
pub struct Ledger {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    keys: AtomicUsize,
    keys_max: AtomicUsize,
    shared: Mutex<Entry>,
    /// Decisions that the shared account made.
    pub shared_decisions: AtomicU64,
}

#[derive(Default)]
struct Shard {
    accounts: AHashMap<Box<str>, Entry>,
    /// Keys whose accounts are to be written.
    changed: Vec<Box<str>>,
}

#[derive(Default)]
struct Entry {
    account: Account,
    is_changed: bool,
}

impl Ledger {
    /// One with accounts of its own for so many keys.
    pub fn new(keys_max: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            keys: AtomicUsize::new(0),
            keys_max: AtomicUsize::new(keys_max),
            shared: Mutex::default(),
            shared_decisions: AtomicU64::new(0),
        }
    }

    fn with<T>(
        &self,
        key: &str,
        period: &Period,
        now: i64,
        act: impl FnOnce(&mut Account, bool) -> (T, bool),
    ) -> T {
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        let Some(shard) = self.shards.get(at) else {
            // there are as many as the remainder can be
            return act(&mut self.shared.lock().account, true).0;
        };
        let mut shard = shard.lock();
        let Shard { accounts, changed } = &mut *shard;
        if !accounts.contains_key(key) {
            if self.keys.load(Relaxed) >= self.keys_max.load(Relaxed) {
                let before = accounts.len();
                accounts.retain(|_, entry| entry.is_changed || !entry.account.is_over(period, now));
                self.keys.fetch_sub(before - accounts.len(), Relaxed);
            }
            // threads that come here at once may make an account each
            if self.keys.load(Relaxed) >= self.keys_max.load(Relaxed) {
                drop(shard);
                self.shared_decisions.fetch_add(1, Relaxed);
                return act(&mut self.shared.lock().account, true).0;
            }
            self.keys.fetch_add(1, Relaxed);
            accounts.insert(key.into(), Entry::default());
        }
        let Some(entry) = accounts.get_mut(key) else {
            return act(&mut Account::default(), true).0;
        };
        let (said, is_changed) = act(&mut entry.account, false);
        if is_changed && !entry.is_changed {
            entry.is_changed = true;
            changed.push(key.into());
        }
        said
    }

    /// Counts a request if there is room for it.
    pub fn take(&self, key: &str, cost: u64, limit: u64, period: &Period, now: i64) -> Taken {
        self.with(key, period, now, |account, shared| {
            let room = account.sum(period, now).room(limit);
            let admitted = room >= cost;
            if admitted && cost > 0 {
                account.add(period, now, cost, 0);
            }
            let resets_at = match admitted {
                true => Some(account.forgotten_at(period, now)),
                false => account.room_at(period, cost, limit, now),
            };
            let taken = Taken {
                admitted,
                remaining: if admitted { room - cost } else { room },
                resets_at,
                shared,
            };
            (taken, admitted && cost > 0)
        })
    }

    /// Whether there is room for one more, which is not counted.
    pub fn look(&self, key: &str, limit: u64, period: &Period, now: i64) -> Taken {
        self.with(key, period, now, |account, shared| {
            let remaining = account.sum(period, now).room(limit);
            let admitted = remaining > 0;
            let resets_at = match admitted {
                true => Some(account.forgotten_at(period, now)),
                false => account.room_at(period, 1, limit, now),
            };
            (
                Taken {
                    admitted,
                    remaining,
                    resets_at,
                    shared,
                },
                false,
            )
        })
    }

    /// Counts what has happened, with or without room.
    pub fn charge(&self, key: &str, cost: u64, period: &Period, now: i64) {
        self.with(key, period, now, |account, _| {
            account.add(period, now, cost, 0);
            ((), true)
        });
    }

    /// Takes back what [`take`](Self::take) counted at that moment.
    pub fn give_back(&self, key: &str, cost: u64, period: &Period, at: i64) {
        self.with(key, period, at, |account, _| {
            account.give_back(at, cost);
            ((), true)
        });
    }

    /// Adds to what a key may use until counting begins anew.
    pub fn grant(&self, key: &str, amount: u64, period: &Period, now: i64) {
        self.with(key, period, now, |account, _| {
            account.add(period, now, 0, amount);
            ((), true)
        });
    }

    /// Forgets what a key has used and was granted.
    pub fn reset(&self, key: &str, period: &Period, now: i64) {
        self.with(key, period, now, |account, _| {
            *account = Account::default();
            ((), true)
        });
    }

    /// Where a key stands.
    pub fn standing(&self, key: &str, limit: u64, period: &Period, now: i64) -> Standing {
        let shard = self.shards.get(self.hasher.hash_one(key) as usize % SHARDS);
        let account = shard.and_then(|shard| Some(shard.lock().accounts.get(key)?.account.clone()));
        let account = account.unwrap_or_default();
        let sum = account.sum(period, now);
        Standing {
            used: sum.used,
            granted: sum.granted,
            remaining: sum.room(limit),
            resets_at: account.forgotten_at(period, now),
        }
    }

    /// Takes in an account that was written down. What has been counted since stays.
    pub fn restore(&self, key: &str, account: Account, period: &Period, now: i64) {
        if account.is_over(period, now) {
            return;
        }
        self.with(key, period, now, |known, shared| {
            if !shared && known.slots().is_empty() {
                *known = account;
            }
            ((), false)
        });
    }

    /// The accounts that have changed since the last time.
    pub fn changed(&self) -> Vec<(Box<str>, Account)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            let Shard { accounts, changed } = &mut *shard;
            for key in changed.drain(..) {
                if let Some(entry) = accounts.get_mut(&key) {
                    entry.is_changed = false;
                    all.push((key, entry.account.clone()));
                }
            }
        }
        all
    }

    /// Says again what could not be written.
    pub fn unwritten(&self, keys: impl IntoIterator<Item = Box<str>>) {
        for key in keys {
            let Some(shard) = self
                .shards
                .get(self.hasher.hash_one(&*key) as usize % SHARDS)
            else {
                continue;
            };
            let mut shard = shard.lock();
            let Shard { accounts, changed } = &mut *shard;
            if let Some(entry) = accounts.get_mut(&key).filter(|entry| !entry.is_changed) {
                entry.is_changed = true;
                changed.push(key);
            }
        }
    }

    /// Whether anything is to be written.
    pub fn has_changed(&self) -> bool {
        self.shards
            .iter()
            .any(|shard| !shard.lock().changed.is_empty())
    }

    /// Another number of keys that have accounts of their own; those that are there stay.
    pub fn set_keys_max(&self, keys_max: usize) {
        self.keys_max.store(keys_max, Relaxed);
    }

    /// How many keys have accounts.
    pub fn len(&self) -> usize {
        self.keys.load(Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::Unit;
    use super::*;
    use proptest::prelude::*;

    fn day() -> Period {
        Period::Calendar {
            unit: Unit::Day,
            zone: jiff::tz::TimeZone::UTC,
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take { key: u8, cost: u64 },
        Grant { key: u8, amount: u64 },
        Wait(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..3_u8, 0..4_u64).prop_map(|(key, cost)| Step::Take { key, cost }),
            1 => (0..3_u8, 1..5_u64).prop_map(|(key, amount)| Step::Grant { key, amount }),
            3 => (0..20_000_i64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Against a list of all that has happened.
        #[test]
        fn counts_are_exact(steps in prop::collection::vec(step(), 0..200), rolling: bool) {
            const LIMIT: u64 = 7;
            let period = match rolling {
                true => Period::Rolling { unit: Unit::Day },
                false => day(),
            };
            let (ledger, mut now) = (Ledger::new(100), 1_800_000_000);
            let mut happened: Vec<(u8, i64, u64, u64)> = Vec::new();
            let part = Unit::Day.seconds() / super::super::PARTS;
            for step in steps {
                match step {
                    Step::Wait(seconds) => now += seconds,
                    Step::Grant { key, amount } => {
                        ledger.grant(&key.to_string(), amount, &period, now);
                        happened.push((key, now, 0, amount));
                    }
                    Step::Take { key, cost } => {
                        let taken = ledger.take(&key.to_string(), cost, LIMIT, &period, now);
                        // exactly a day, and a part more
                        let since = |from: i64| happened.iter().filter(move |one| one.0 == key && one.1 >= from)
                            .fold((0, 0), |sum: (u64, u64), one| (sum.0 + one.2, sum.1 + one.3));
                        let room = |(used, granted): (u64, u64)| (LIMIT + granted).saturating_sub(used);
                        match rolling {
                            false => {
                                let room = room(since(period.span(now).start));
                                prop_assert_eq!(taken.admitted, room >= cost);
                                prop_assert_eq!(taken.remaining, room - if taken.admitted { cost } else { 0 });
                            }
                            true if happened.iter().all(|one| one.3 == 0) => {
                                let day = Unit::Day.seconds();
                                if taken.admitted {
                                    prop_assert!(room(since(now - day + 1)) >= cost);
                                } else {
                                    prop_assert!(room(since(now - day - part)) < cost);
                                }
                            }
                            true => {}
                        }
                        if taken.admitted {
                            happened.push((key, now, cost, 0));
                        } else if let Some(at) = taken.resets_at {
                            prop_assert!(at > now);
                            let account = ledger.changed();
                            let copy = Ledger::new(100);
                            for (key, account) in &account {
                                copy.restore(key, account.clone(), &period, now);
                            }
                            ledger.unwritten(account.iter().map(|(key, _)| key.clone()));
                            // a copy, where it was changed since the last time
                            if account.iter().any(|(known, _)| **known == key.to_string()) {
                                prop_assert!(!copy.take(&key.to_string(), cost, LIMIT, &period, at - 1).admitted);
                                prop_assert!(copy.take(&key.to_string(), cost, LIMIT, &period, at).admitted);
                            }
                        } else {
                            prop_assert!(cost > LIMIT);
                        }
                    }
                }
            }
        }

        /// Whatever clocks do, an account that was written is an account that can be read.
        #[test]
        fn accounts_are_sound_whatever_the_clock_does(
            times in prop::collection::vec(0..400_000_i64, 1..50),
            kinds in prop::collection::vec(0..3_u8, 50),
        ) {
            let berlin = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
            let ledger = Ledger::new(10);
            for (time, kind) in times.iter().zip(kinds) {
                let period = match kind {
                    0 => day(),
                    1 => Period::Rolling { unit: Unit::Day },
                    _ => Period::Calendar { unit: Unit::Day, zone: berlin.clone() },
                };
                ledger.charge("a", 1, &period, 1_800_000_000 + time);
            }
            let (_, account) = ledger.changed().pop().unwrap();
            prop_assert_eq!(Account::of(account.slots().iter().copied()), Some(account));
        }
    }

    #[test]
    fn a_clock_that_is_set_back_forgets_nothing() {
        let (ledger, now) = (Ledger::new(10), 1_800_000_000);
        for _ in 0..5 {
            assert!(ledger.take("a", 1, 5, &day(), now).admitted);
        }
        let ahead = now + 30 * 60 * 60;
        assert!(ledger.take("a", 1, 5, &day(), ahead).admitted);
        assert!(!ledger.take("a", 1, 5, &day(), now).admitted);
        assert_eq!(ledger.standing("a", 5, &day(), ahead).used, 1);
    }

    #[test]
    fn keys_beyond_the_bound_share_an_account_and_evict_nobody() {
        let (ledger, now) = (Ledger::new(64), 1_800_000_000);
        for _ in 0..5 {
            assert!(ledger.take("hot", 1, 5, &day(), now).admitted);
        }
        let admitted =
            (0..10_000).filter(|key| ledger.take(&key.to_string(), 5, 5, &day(), now).admitted);
        let admitted = admitted.count();
        assert!(admitted <= 65, "{admitted}");
        assert!(ledger.len() <= 64);
        assert!(ledger.shared_decisions.load(Relaxed) >= 9_000);
        assert!(!ledger.take("hot", 1, 5, &day(), now).admitted);
        // those of yesterday make room, once they are written
        ledger.changed();
        let later = now + 3 * 24 * 60 * 60;
        let shared = (0..64).filter(|key| {
            ledger
                .take(&format!("new{key}"), 1, 5, &day(), later)
                .shared
        });
        assert!(shared.count() < 40);
    }

    #[test]
    fn what_was_written_is_read_and_what_could_not_be_is_said_again() {
        let (ledger, now) = (Ledger::new(10), 1_800_000_000);
        ledger.take("a", 3, 5, &day(), now);
        ledger.grant("a", 2, &day(), now);
        let written = ledger.changed();
        assert_eq!(written.len(), 1);
        assert!(ledger.changed().is_empty());
        ledger.unwritten(written.iter().map(|(key, _)| key.clone()));
        assert_eq!(ledger.changed(), written);
        let next = Ledger::new(10);
        for (key, account) in written {
            next.restore(&key, account, &day(), now);
        }
        assert!(next.changed().is_empty());
        let standing = next.standing("a", 5, &day(), now);
        assert_eq!(
            (standing.used, standing.granted, standing.remaining),
            (3, 2, 4)
        );
        next.give_back("a", 1, &day(), now);
        assert_eq!(next.standing("a", 5, &day(), now).used, 2);
        next.reset("a", &day(), now);
        assert_eq!(next.standing("a", 5, &day(), now).remaining, 5);
    }

    #[test]
    fn threads_together_take_no_more_than_there_is() {
        let ledger = Ledger::new(10);
        let admitted: usize = std::thread::scope(|scope| {
            let takes = || {
                (0..1000)
                    .filter(|_| ledger.take("a", 1, 1500, &day(), 1_800_000_000).admitted)
                    .count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(takes)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(admitted, 1500);
    }
}
