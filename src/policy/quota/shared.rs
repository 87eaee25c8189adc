//! A quota that gateways share in a store: each request asks it, and the store counts exactly.
//!
//! While it does not answer, `on_failure` decides: each gateway lets its part of the quota through, counted with what it
//! has let through before; or all, or none. What is let through meanwhile is owed to the store, and told with the next
//! question about the same key. A gateway that ends keeps that to itself.

use crate::exchange::QuotaKey;
use crate::limit::quota::{Period, Span, Unit};
use crate::observe::metrics::StoreError;
use crate::state::Kept;
use crate::store::{QuotaTaken, QuotaTaking, Store};
use ahash::AHashMap;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// How many keys may owe something at a time. What more owe is not told: the store counts too little of them.
const DEBTS_MAX: usize = 10_000;

/// How long a count is kept behind the end of its period, by whatever clocks differ.
const KEPT: i64 = 24 * 60 * 60;

/// What was let through and the store does not know yet, by what it calls the counts.
#[derive(Default)]
pub struct Debts(Mutex<AHashMap<Box<[u8]>, Debt>>);

struct Debt {
    units: u64,
    /// When its period ends, in seconds since the epoch: nobody asks for it then.
    end: i64,
}

impl Kept for Debts {
    fn export(&self) -> Option<serde_json::Value> {
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

impl Debts {
    fn owe(&self, account: &Account, units: u64) {
        if units == 0 {
            return;
        }
        let mut debts = self.0.lock();
        if let Some(debt) = debts.get_mut(&account.name) {
            debt.units = debt.units.saturating_add(units);
            return;
        }
        if debts.len() >= DEBTS_MAX {
            debts.retain(|_, debt| debt.end > account.span.start);
        }
        if debts.len() < DEBTS_MAX {
            let end = account.span.end;
            debts.insert(account.name.clone(), Debt { units, end });
        }
    }

    fn forgive(&self, name: &[u8], units: u64) {
        let mut debts = self.0.lock();
        if let Some(debt) = debts.get_mut(name) {
            debt.units = debt.units.saturating_sub(units);
            if debt.units == 0 {
                debts.remove(name);
            }
        }
    }

    fn settle(&self, name: &[u8]) -> u64 {
        let debt = self.0.lock().remove(name);
        debt.map_or(0, |debt| debt.units)
    }
}

/// Puts a debt back that nobody was told of.
struct Owed<'a> {
    debts: &'a Debts,
    account: &'a Account,
    units: u64,
}

impl<'a> Owed<'a> {
    fn of(debts: &'a Debts, account: &'a Account) -> Self {
        let units = debts.settle(&account.name);
        Self {
            debts,
            account,
            units,
        }
    }
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        self.debts.owe(self.account, self.units);
    }
}

/// Where a quota counts together with others.
#[derive(Clone)]
pub struct Shared {
    pub store: Arc<Store>,
    /// `scope/key`.
    pub place: Arc<str>,
    pub unit: Unit,
    pub debts: Arc<Debts>,
}

/// The count of a key in one period.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: Box<[u8]>,
    pub span: Span,
    kept: Duration,
}

impl Shared {
    /// What counts for a key now.
    pub fn account(&self, key: &QuotaKey, period: &Period, now: i64) -> Account {
        let span = period.span(now);
        let shape = match self.unit {
            Unit::Hour => "hour",
            Unit::Day => "day",
            Unit::Month => "month",
        };
        let digest = blake3::hash(key.counted().as_bytes());
        let (digest, _) = digest.as_bytes().split_at(16);
        let kept = span.end.saturating_sub(now).saturating_add(KEPT);
        Account {
            name: self
                .store
                .name(&self.place, &format!("{shape}{}", span.start), digest),
            span,
            kept: Duration::from_secs(u64::try_from(kept).unwrap_or(0)),
        }
    }

    pub fn is_up(&self, account: &Account) -> bool {
        self.store.is_up(&account.name)
    }

    /// Takes so much, if there is as much.
    pub async fn take(
        &self,
        account: &Account,
        demand: u64,
        limit: u64,
    ) -> Result<QuotaTaken, StoreError> {
        let mut owed = Owed::of(&self.debts, account);
        let taking = QuotaTaking {
            charge: owed.units,
            demand,
            limit,
            kept: account.kept,
        };
        let taken = self.store.take_quota(&account.name, taking).await?;
        owed.units = 0;
        Ok(taken)
    }

    /// What was let through without the store.
    pub fn owe(&self, account: &Account, units: u64) {
        self.debts.owe(account, units);
    }

    /// Counts what has happened, in the background.
    pub fn charge(&self, account: Account, units: u64) {
        let shared = self.clone();
        self.debts.owe(&account, units);
        if self.is_up(&account) {
            self.store.in_background(Box::pin(async move {
                let _ = shared.settle(&account, 0).await;
            }));
        }
    }

    /// Gives back what was taken, in the background, or is owed still. What can't be given back goes on to count.
    pub fn give_back(&self, name: Box<[u8]>, units: u64, known: bool) {
        if !known {
            self.debts.forgive(&name, units);
            return;
        }
        let store = self.store.clone();
        self.store.in_background(Box::pin(async move {
            let _ = store.give_back_quota(&name, units).await;
        }));
    }

    async fn settle(&self, account: &Account, limit: u64) -> Result<QuotaTaken, StoreError> {
        let mut owed = Owed::of(&self.debts, account);
        let taking = QuotaTaking {
            charge: owed.units,
            demand: 0,
            limit,
            kept: account.kept,
        };
        let taken = self.store.take_quota_patiently(&account.name, taking);
        let taken = taken.await?;
        owed.units = 0;
        Ok(taken)
    }

    /// Where a key stands, on a thread that may wait.
    pub fn standing(&self, account: Account, limit: u64) -> Result<QuotaTaken, StoreError> {
        let shared = self.clone();
        let ask = async move { shared.settle(&account, limit).await };
        self.store.wait_for(ask)
    }

    /// Lets a key begin anew, on a thread that may wait.
    pub fn forget(&self, account: Account) -> Result<(), StoreError> {
        let shared = self.clone();
        self.store.wait_for(async move {
            shared.store.forget(&account.name).await?;
            shared.debts.settle(&account.name);
            Ok(())
        })
    }

    /// Lets a key use more, on a thread that may wait.
    pub fn grant(&self, account: Account, amount: u64) -> Result<(), StoreError> {
        let store = self.store.clone();
        let grant = async move { store.grant_quota(&account.name, amount, account.kept).await };
        self.store.wait_for(grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: usize, span: Span) -> Account {
        Account {
            name: name.to_string().into_bytes().into(),
            span,
            kept: Duration::ZERO,
        }
    }

    #[test]
    fn what_is_owed_is_bounded_and_makes_room_once_its_period_is_over() {
        let (one, next) = (Span { start: 0, end: 10 }, Span { start: 10, end: 20 });
        let debts = Debts::default();
        for name in 0..DEBTS_MAX + 5 {
            debts.owe(&account(name, one), 1);
        }
        debts.owe(&account(0, one), 2);
        assert_eq!(debts.0.lock().len(), DEBTS_MAX);
        assert_eq!(debts.settle(&account(0, one).name), 3);
        assert_eq!(debts.settle(&account(DEBTS_MAX, one).name), 0);
        debts.owe(&account(0, one), 1);
        debts.owe(&account(DEBTS_MAX + 7, next), 4);
        assert_eq!(debts.0.lock().len(), 1);
        debts.forgive(&account(DEBTS_MAX + 7, next).name, 3);
        drop(Owed::of(&debts, &account(DEBTS_MAX + 7, next)));
        assert_eq!(debts.settle(&account(DEBTS_MAX + 7, next).name), 1);
        debts.owe(&account(1, next), 2);
        debts.forgive(&account(1, next).name, 2);
        assert!(debts.0.lock().is_empty());
    }
}
