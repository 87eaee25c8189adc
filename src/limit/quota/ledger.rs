//! The accounts of all keys of one quota.

use super::Period;
use super::account::Account;
use ahash::{AHashMap, RandomState};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Locks are for so many parts, so that few requests meet at one.
const SHARDS: usize = 64;

/// Seconds between two looks for accounts that are over.
const SWEEP_EVERY: i64 = 60;

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
    /// Keys that have no account any more, which is to be written too.
    forgotten: Vec<Box<str>>,
    /// When accounts that are over were looked for.
    swept_at: Option<i64>,
}

impl Shard {
    /// Forgets what is over and written. Whoever sends new keys all the time can't make each of them look at all accounts.
    fn sweep(&mut self, period: &Period, now: i64) -> usize {
        let rests = |at: i64| (0..SWEEP_EVERY).contains(&now.saturating_sub(at));
        if self.swept_at.is_some_and(rests) {
            return 0;
        }
        self.swept_at = Some(now);
        let before = self.accounts.len();
        let forgotten = &mut self.forgotten;
        self.accounts.retain(|key, entry| {
            let stays = entry.is_changed || !entry.account.is_over(period, now);
            if !stays && !entry.account.slots().is_empty() {
                forgotten.push(key.clone());
            }
            stays
        });
        before - self.accounts.len()
    }
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
        if !shard.accounts.contains_key(key) {
            if self.keys.load(Relaxed) >= self.keys_max.load(Relaxed) {
                let gone = shard.sweep(period, now);
                self.keys.fetch_sub(gone, Relaxed);
            }
            // threads that come here at once may make an account each
            if self.keys.load(Relaxed) >= self.keys_max.load(Relaxed) {
                drop(shard);
                self.shared_decisions.fetch_add(1, Relaxed);
                return act(&mut self.shared.lock().account, true).0;
            }
            self.keys.fetch_add(1, Relaxed);
            shard.accounts.insert(key.into(), Entry::default());
        }
        let Shard {
            accounts, changed, ..
        } = &mut *shard;
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

    /// Adds to what a key may use until counting begins anew. Not where it has no account of its own: others would get it
    /// too.
    #[must_use]
    pub fn grant(&self, key: &str, amount: u64, period: &Period, now: i64) -> bool {
        self.own(key, period, now, |account| {
            account.add(period, now, 0, amount);
        })
    }

    /// Forgets what a key has used and was granted. Not where it has no account of its own.
    #[must_use]
    pub fn reset(&self, key: &str, period: &Period, now: i64) -> bool {
        self.own(key, period, now, |account| *account = Account::default())
    }

    /// Changes the account of a key, and of no other.
    fn own(&self, key: &str, period: &Period, now: i64, change: impl FnOnce(&mut Account)) -> bool {
        self.with(key, period, now, |account, shared| {
            if !shared {
                change(account);
            }
            (!shared, !shared)
        })
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
            let Shard {
                accounts,
                changed,
                forgotten,
                ..
            } = &mut *shard;
            // one that is back has been written over, or is going to be
            let gone = forgotten.drain(..);
            let gone = gone.filter(|key| !accounts.contains_key(key));
            all.extend(gone.map(|key| (key, Account::default())));
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
            let Shard {
                accounts,
                changed,
                forgotten,
                ..
            } = &mut *shard;
            match accounts.get_mut(&key) {
                None => forgotten.push(key),
                Some(entry) if entry.is_changed => {}
                Some(entry) => {
                    entry.is_changed = true;
                    changed.push(key);
                }
            }
        }
    }

    /// Whether anything is to be written.
    pub fn has_changed(&self) -> bool {
        self.shards
            .iter()
            .map(|shard| shard.lock())
            .any(|shard| !shard.changed.is_empty() || !shard.forgotten.is_empty())
    }

    /// Another number of keys that have accounts of their own; those that are there stay.
    pub fn set_keys_max(&self, keys_max: usize) {
        // nobody writes what all read for each request
        if self.keys_max.load(Relaxed) != keys_max {
            self.keys_max.store(keys_max, Relaxed);
        }
    }

    /// Bytes that so many keys take at most: with the longest texts, and in a rolling period all its parts.
    pub fn memory(keys: u64, key_bytes_max: u64, period: &Period) -> u64 {
        let slots = match period {
            Period::Calendar { .. } => 0,
            // and those of a period before, which a clock that is set back asks for
            Period::Rolling { .. } => 2 * (super::PARTS as u64 + 1),
        };
        // tables of hashes are at most twice as large as what is in them needs them to be, and each key may be to be written
        let place = 2 * (size_of::<(Box<str>, Entry)>() as u64 + 1) + size_of::<Box<str>>() as u64;
        let each = place + 2 * key_bytes_max + slots * size_of::<super::Slot>() as u64;
        keys.saturating_mul(each)
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
                        prop_assert!(ledger.grant(&key.to_string(), amount, &period, now));
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

        /// Against calendars: what has happened under the date, or the date and the hour, that a clock in the zone showed.
        #[test]
        fn calendars_count_what_their_clocks_say(
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata", "Australia/Lord_Howe"]),
            unit in prop::sample::select(vec![Unit::Hour, Unit::Day, Unit::Month]),
            // changes of clocks in spring and in autumn, the ends of a month, a leap day and a year
            start in prop::sample::select(vec!["2026-03-28T22:00:00Z", "2026-10-24T12:00:00Z", "2018-11-03T20:00:00Z", "2026-04-04T08:00:00Z", "2026-01-30T06:00:00Z", "2028-02-28T18:00:00Z", "2026-12-31T20:00:00Z"]),
            steps in prop::collection::vec(step(), 0..150),
        ) {
            const LIMIT: u64 = 7;
            let zone = jiff::tz::TimeZone::get(zone).unwrap();
            let shown = |now: i64| {
                let shown = jiff::Timestamp::from_second(now).unwrap().to_zoned(zone.clone());
                let hour = (shown.hour(), shown.offset().seconds());
                match unit {
                    Unit::Month => (shown.year(), shown.month(), 0, (0, 0)),
                    Unit::Day => (shown.year(), shown.month(), shown.day(), (0, 0)),
                    Unit::Hour => (shown.year(), shown.month(), shown.day(), hour),
                }
            };
            let scale = match unit {
                Unit::Hour => 1,
                Unit::Day => 4,
                Unit::Month => 60,
            };
            let period = Period::Calendar { unit, zone: zone.clone() };
            let mut now = start.parse::<jiff::Timestamp>().unwrap().as_second();
            let (ledger, mut happened) = (Ledger::new(100), Vec::new());
            for step in steps {
                match step {
                    Step::Wait(seconds) => now += seconds / 8 * scale,
                    Step::Grant { key, amount } => {
                        prop_assert!(ledger.grant(&key.to_string(), amount, &period, now));
                        happened.push((key, shown(now), 0, amount));
                    }
                    Step::Take { key, cost } => {
                        let counts = happened.iter().filter(|one| one.0 == key && one.1 == shown(now));
                        let (used, granted) = counts.fold((0, 0), |sum, one| (sum.0 + one.2, sum.1 + one.3));
                        let room = LIMIT + granted - used;
                        let taken = ledger.take(&key.to_string(), cost, LIMIT, &period, now);
                        prop_assert_eq!(taken.admitted, room >= cost);
                        prop_assert_eq!(taken.remaining, room - if taken.admitted { cost } else { 0 });
                        if let (false, Some(at)) = (taken.admitted, taken.resets_at) {
                            prop_assert!(shown(at) != shown(now) && shown(at - 1) == shown(now));
                        }
                        if taken.admitted {
                            happened.push((key, shown(now), cost, 0));
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
        // what nobody else may get, and what others have used
        assert!(!ledger.grant("another", 1, &day(), now));
        assert!(!ledger.reset("another", &day(), now));
        // those of yesterday make room, once they are written
        let written = ledger.changed().len();
        let later = now + 3 * 24 * 60 * 60;
        let shared = (0..64).filter(|key| {
            ledger
                .take(&format!("new{key}"), 1, 5, &day(), later)
                .shared
        });
        assert!(shared.count() < 40);
        let gone = ledger.changed();
        let gone = gone
            .iter()
            .filter(|(_, account)| account.slots().is_empty());
        assert!((1..=written).contains(&gone.count()));
    }

    #[test]
    fn what_was_written_is_read_and_what_could_not_be_is_said_again() {
        let (ledger, now) = (Ledger::new(10), 1_800_000_000);
        ledger.take("a", 3, 5, &day(), now);
        assert!(ledger.grant("a", 2, &day(), now));
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
        assert!(next.reset("a", &day(), now));
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
