//! A limit that gateways share in a store: by leases, which keep requests from waiting, or asked for each request.
//!
//! ```text
//! leases  spend what is held ── none: credit ── used up: wait for the answer, as long as `timeout`
//! exact   ask, as long as `timeout`
//!         └ the store is away, or does not answer in time: `on_failure`
//! ```

use super::rule::{Held, Verdict};
use crate::limit::lease::{self, Backs, Cell, Decided, Decision, Leases, Terms};
use crate::observe::metrics::StoreError;
use crate::policy::key::Digest;
use crate::state::monotonic_nanos;
use crate::store::{Count, Store, Taken, Taking};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How often what nobody spends is looked for.
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// What waits to be given back while a store is away. More counts on in it.
const LATER_MAX: usize = 1024;

/// What one rule counts in its store.
pub struct Shared {
    pub store: Arc<Store>,
    /// Each request is asked for.
    pub exact: bool,
    /// `scope/key`.
    pub place: Arc<str>,
    /// What would make old counts meaningless.
    pub shape: Box<str>,
    pub count: Count,
    pub terms: Terms,
    pub window: Duration,
    pub table: Arc<Held<Table>>,
}

/// What this gateway holds for rules whose leases live alike.
pub struct Table {
    pub leases: Leases,
    /// What is given back when the store answers again.
    later: Mutex<Vec<Later>>,
}

/// Units of a counter, with their mark.
struct Later {
    name: Box<[u8]>,
    count: Count,
    units: u64,
    mark: u64,
}

impl Table {
    pub fn new(keys: u64) -> Self {
        Self {
            leases: Leases::new(keys),
            later: Mutex::default(),
        }
    }
}

/// What there is to say of a request at once.
pub enum Next {
    Decided(Verdict),
    Wait(Waiting),
    /// The store does not decide.
    Instead(Why),
}

/// Why a store does not decide on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It does not answer, or not in time.
    Away,
    /// More keys count here than there are places for.
    Crowded,
}

/// A request that waits for an answer to its key.
pub struct Waiting {
    shared: Arc<Shared>,
    cell: Arc<Cell>,
    key: u64,
    cost: u64,
    /// Whether outcomes count, and it only wants to know.
    looks: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.looks {
            self.cell.leave(self.cost);
        }
    }
}

impl Waiting {
    /// Waits for the verdict, as long as the store may take.
    pub async fn verdict(self) -> Result<Verdict, Why> {
        let deadline = Instant::now() + self.shared.store.timeout;
        loop {
            let answers = self.cell.answers().notified();
            futures::pin_mut!(answers);
            // what is answered from here on is not missed
            answers.as_mut().enable();
            if !self.shared.store.is_up(&self.cell.name) {
                return Err(Why::Away);
            }
            let (terms, now) = (self.shared.terms, monotonic_nanos());
            let decided = match self.looks {
                true => self.cell.look(terms, now),
                false => self.cell.admit(self.cost, terms, now, true),
            };
            match self.shared.follow(self.key, &self.cell, decided) {
                Ok(Some(verdict)) => return Ok(verdict),
                Ok(None) => {}
                Err(why) => return Err(why),
            }
            if timeout_at(deadline, answers).await.is_err() {
                return Err(Why::Away);
            }
        }
    }
}

/// A question under way: whatever becomes of it, the key does not wait for it for ever.
struct Asking<'a>(Option<&'a Cell>);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(cell) = self.0 {
            cell.put_off();
        }
    }
}

impl Shared {
    /// What the key is called in the store.
    pub fn name(&self, digest: &Digest) -> Box<[u8]> {
        self.store.name(&self.place, &self.shape, digest)
    }

    /// Spends what is held, if there is enough.
    pub fn spend(self: &Arc<Self>, key: u64, cost: u64, now: u64) -> Option<Verdict> {
        let (decision, low) = self.table.0.leases.spend(key, cost, now)?;
        if low {
            self.refill(key, now);
        }
        self.verdict(decision)
    }

    #[cold]
    fn refill(self: &Arc<Self>, key: u64, now: u64) {
        if let Some(cell) = self
            .table
            .0
            .leases
            .find(key)
            .filter(|cell| cell.refill(now))
        {
            self.ask(key, &cell);
        }
    }

    /// Decides on a request of which nothing is held.
    pub fn admit(self: &Arc<Self>, key: u64, cost: u64, digest: &Digest, now: u64) -> Next {
        self.decide(key, digest, now, cost, |cell| {
            cell.admit(cost, self.terms, now, false)
        })
    }

    /// Whether there is room, where outcomes count.
    pub fn look(self: &Arc<Self>, key: u64, digest: &Digest, now: u64) -> Next {
        self.decide(key, digest, now, 0, |cell| cell.look(self.terms, now))
    }

    fn decide(
        self: &Arc<Self>,
        key: u64,
        digest: &Digest,
        now: u64,
        cost: u64,
        decide: impl Fn(&Cell) -> Decided,
    ) -> Next {
        let cell = self
            .table
            .0
            .leases
            .cell(key, self.terms, now, || self.name(digest));
        let Some(cell) = cell else {
            return Next::Instead(Why::Crowded);
        };
        if !self.store.is_up(&cell.name) {
            return Next::Instead(Why::Away);
        }
        match self.follow(key, &cell, decide(&cell)) {
            Ok(Some(verdict)) => Next::Decided(verdict),
            Ok(None) => Next::Wait(Waiting {
                shared: self.clone(),
                looks: cost == 0,
                cell,
                key,
                cost,
            }),
            Err(why) => Next::Instead(why),
        }
    }

    /// Does what a decision leads to. None: the request waits.
    fn follow(
        self: &Arc<Self>,
        key: u64,
        cell: &Arc<Cell>,
        decided: Decided,
    ) -> Result<Option<Verdict>, Why> {
        self.give_back(cell, decided.backs);
        let asked = !decided.ask || self.ask(key, cell);
        match decided.decision {
            Decision::Gone => Err(Why::Crowded),
            Decision::Wait if !asked => Err(Why::Crowded),
            Decision::Wait => Ok(None),
            decision => Ok(self.verdict(decision)),
        }
    }

    fn verdict(&self, decision: Decision) -> Option<Verdict> {
        let after = |after| match after {
            0 => self.window,
            after => Duration::from_nanos(after),
        };
        match decision {
            Decision::Admitted {
                remaining,
                after: more,
                mark,
            } => Some(Verdict {
                admitted: true,
                remaining: remaining.min(self.terms.most),
                after: after(more),
                mark,
            }),
            Decision::Refused { after: more } => Some(Verdict {
                admitted: false,
                remaining: 0,
                after: after(more),
                mark: 0,
            }),
            Decision::Wait | Decision::Gone => None,
        }
    }

    /// Has the store asked in the background; false if it has too much to do.
    fn ask(self: &Arc<Self>, key: u64, cell: &Arc<Cell>) -> bool {
        let (shared, asked) = (self.clone(), cell.clone());
        let work = async move { shared.asked(key, &asked).await };
        let queued = self.store.in_background(Box::pin(work));
        if !queued {
            cell.put_off();
        }
        queued
    }

    async fn asked(self: Arc<Self>, key: u64, cell: &Arc<Cell>) {
        let mut asking = Asking(Some(cell));
        let sent_at = monotonic_nanos();
        let ask = cell.ask(self.terms, sent_at);
        let taking = Taking {
            charge: ask.charge,
            demand: ask.demand,
            want: ask.want,
            share: self.store.gateways().saturating_mul(2),
            ..self.taking()
        };
        let Ok(taken) = self.store.take_patiently(&cell.name, taking).await else {
            return;
        };
        asking.0 = None;
        let answer = lease::Answer {
            granted: taken.granted,
            room: taken.room,
            after: u64::try_from(taken.after.as_nanos()).unwrap_or(u64::MAX),
            mark: taken.mark,
        };
        let backs = cell.answered(answer, sent_at, self.terms, monotonic_nanos());
        if taken.granted > 0 {
            self.table.0.leases.holds(key, cell);
        }
        self.give_back(cell, backs);
    }

    /// Takes nothing and asks for nothing.
    pub fn taking(&self) -> Taking {
        Taking {
            count: self.count,
            most: self.terms.most,
            charge: 0,
            demand: 0,
            want: 0,
            share: 1,
            whole: false,
            now: None,
        }
    }

    fn give_back(&self, cell: &Arc<Cell>, backs: Backs) {
        for back in backs {
            self.give_back_as(cell.name.clone(), back.units, back.mark);
        }
    }

    /// Has units given back in the background, once the store answers.
    pub fn give_back_as(&self, name: Box<[u8]>, units: u64, mark: u64) {
        self.return_to_store(Later {
            name,
            count: self.count,
            units,
            mark,
        });
    }

    /// What may have been given back, although that was not answered, is not given back again: never too little counts.
    fn return_to_store(&self, back: Later) {
        if !self.store.is_up(&back.name) {
            let mut later = self.table.0.later.lock();
            if later.len() < LATER_MAX {
                later.push(back);
            }
            return;
        }
        let store = self.store.clone();
        self.store.in_background(Box::pin(async move {
            let given = store.give_back(&back.name, back.count, back.units, back.mark);
            let _ = given.await;
        }));
    }

    /// Gives back what a request took of what is held.
    pub fn give_back_held(&self, key: u64, taken: u64, mark: u64, now: u64) {
        if let Some(cell) = self.table.0.leases.find(key) {
            self.give_back(&cell, cell.give_back(taken, mark, now));
            self.table.0.leases.holds(key, &cell);
        }
    }

    /// Asks for one request.
    pub async fn ask_exactly(&self, name: &[u8], cost: u64) -> Result<Verdict, StoreError> {
        let taking = Taking {
            demand: cost,
            whole: true,
            ..self.taking()
        };
        let taken = self.store.take(name, taking).await?;
        let admitted = match cost {
            0 => taken.room > 0,
            cost => taken.granted == cost,
        };
        Ok(Verdict {
            admitted,
            remaining: taken.room,
            after: match taken.after.is_zero() {
                true => self.window,
                false => taken.after,
            },
            mark: taken.mark,
        })
    }

    /// Counts how a request has ended. False if the store is away.
    pub fn charge(self: &Arc<Self>, key: u64, digest: &Digest, now: u64) -> bool {
        if self.exact {
            let name = self.name(digest);
            let taking = Taking {
                charge: 1,
                ..self.taking()
            };
            let store = self.store.clone();
            return self.store.is_up(&name)
                && self.store.in_background(Box::pin(async move {
                    let _ = store.take_patiently(&name, taking).await;
                }));
        }
        let cell = self
            .table
            .0
            .leases
            .cell(key, self.terms, now, || self.name(digest));
        let Some(cell) = cell.filter(|cell| self.store.is_up(&cell.name)) else {
            return false;
        };
        if cell.charge(1, now) {
            self.ask(key, &cell);
        }
        true
    }

    /// Where a key stands, on a thread that may wait.
    pub fn standing(&self, name: Box<[u8]>) -> Result<Taken, StoreError> {
        let (store, taking) = (self.store.clone(), self.taking());
        let ask = async move { store.take_patiently(&name, taking).await };
        self.store.wait_for(ask)
    }

    /// Lets a key begin anew, on a thread that may wait.
    pub fn forget(&self, key: u64, name: Box<[u8]>) -> Result<(), StoreError> {
        let store = self.store.clone();
        self.store
            .wait_for(async move { store.forget(&name).await })?;
        if let Some(cell) = self.table.0.leases.find(key) {
            cell.reset(self.terms, monotonic_nanos());
        }
        Ok(())
    }

    /// How much more than the limit may get through in a window: for each gateway, and besides.
    pub fn overshoot(&self) -> (u64, u64) {
        if self.exact {
            return (0, 0);
        }
        let besides = match self.count {
            Count::Window { .. } => 0,
            Count::Bucket { units, window } => self.terms.ahead_of(units, window),
        };
        (lease::credit(self.terms.most), besides)
    }

    /// Gives back what nobody spends, for as long as it is polled.
    pub async fn tend(&self) {
        loop {
            tokio::time::sleep(LOOK_AFTER).await;
            // what is held can be spent meanwhile
            if !self.store.status().up {
                continue;
            }
            let later = std::mem::take(&mut *self.table.0.later.lock());
            later
                .into_iter()
                .for_each(|back| self.return_to_store(back));
            let idle = self.table.0.leases.look_after(monotonic_nanos());
            for (cell, backs) in idle {
                self.give_back(&cell, backs);
            }
        }
    }
}
