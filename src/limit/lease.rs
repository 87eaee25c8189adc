//! A limit that several gateways share: what one of them may let through without asking for each request.
//!
//! The counts are in a store that all gateways ask ([`crate::store`]). A gateway takes units from it in advance, a
//! *lease*: they are counted in the store at once, and spent here without asking. For a key of which it holds none it
//! lets a few requests through on *credit*, and says so with its next question. What is neither leased nor on credit
//! waits for the answer.
//!
//! What always holds: let `S` be what the store counts for a key. The store leases only while `S` stays within the limit
//! `L`; credit is given anew only by an answer that says that there is room, and is never more than `C` ([`credit`]).
//! So `S` and all credit that may still be used are at most `L + C × gateways`, and that is the most that gets through
//! in a window. A lease lives for one part of a window, and the store counts one part more than a window has, so that
//! what is leased is never used outside of the window that it counts in ([`Terms`]).
//!
//! ```text
//!        ┌ fresh ── credit ── used up ──┐
//! ask ───┤                              ├─ wait ── answer ─┬─ units: spend them, ask again when half is left
//!        └ room ─── credit ── used up ──┘                  ├─ room: credit anew
//!                                                          └─ full: refuse until the oldest count leaves
//! ```
//!
//! Spending takes no lock; everything else takes the lock of its key. Time is an argument: nanoseconds of a clock that
//! never goes back.

use super::window;
use ahash::AHashMap;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::Notify;

/// The parts of a shared window. Its count is of two more than these: of the oldest, which is counted in full, and of
/// the one that leases may be late by. So what was admitted counts for at most a sixth of the window too long, as
/// where the window is not shared.
pub const PARTS: u64 = 2 * window::PARTS;

/// What is let through on credit for one key: a hundredth of the limit, at least one request.
pub fn credit(most: u64) -> u64 {
    (most / 100).clamp(1, 100)
}

/// How much more than the limit may get through in a window while the store answers, with so many gateways. `ahead`:
/// what a bucket leases that would have come back by the time it is used.
pub fn overshoot_max(most: u64, gateways: u64, ahead: u64) -> u64 {
    credit(most).saturating_mul(gateways).saturating_add(ahead)
}

/// A gateway's part of the limit, for when the store does not answer.
pub fn share(most: u64, gateways: u64) -> u64 {
    (most / gateways.max(1)).max(1)
}

/// How long keys that are full are left alone before the store is asked again, since an operator may have let them begin
/// anew, and others may have given back.
const LOOK_AGAIN: u64 = 500_000_000;

/// Units that nobody has spent for so long are given back.
const IDLE: u64 = 500_000_000;

/// A question that is under way for so long is lost.
const LOST: u64 = 3_000_000_000;

/// A lease that is used up faster than this was too small, and one that lasts longer than [`LONG`] too large.
const SHORT: u64 = 100_000_000;
const LONG: u64 = 1_000_000_000;

/// What the rule of a key is to its leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The limit, or the burst.
    pub most: u64,
    /// How long a lease lives, in nanoseconds: a part of the window; of a bucket, a part of the time that it takes to
    /// fill.
    pub life: u64,
    /// How long what is let through counts, in nanoseconds.
    pub memory: u64,
    /// Whether units are taken in advance. Where outcomes count, they are only counted.
    pub ahead: bool,
}

impl Terms {
    /// For a limit over a window.
    pub fn of_window(limit: u64, window: Duration) -> Self {
        let life = nanos(part(window));
        Self {
            most: limit,
            life,
            memory: life.saturating_mul(PARTS + 2),
            ahead: true,
        }
    }

    /// For a bucket.
    pub fn of_bucket(limit: u64, window: Duration, burst: u64) -> Self {
        let fill = u128::from(nanos(window)) * u128::from(burst) / u128::from(limit.max(1));
        let life = (fill / u128::from(PARTS)).clamp(50_000_000, 10_000_000_000);
        Self {
            most: burst,
            life: u64::try_from(life).unwrap_or(u64::MAX),
            memory: u64::try_from(fill).unwrap_or(u64::MAX),
            ahead: true,
        }
    }

    /// What comes back to a bucket during the life of a lease.
    pub fn ahead_of(self, limit: u64, window: Duration) -> u64 {
        let back =
            (u128::from(limit) * u128::from(self.life)).div_ceil(u128::from(nanos(window).max(1)));
        u64::try_from(back).unwrap_or(u64::MAX)
    }
}

/// The length of a part of a shared window: rounded up to microseconds, which is what stores count in.
pub fn part(window: Duration) -> Duration {
    let micros = window.as_micros().div_ceil(u128::from(PARTS)).max(1);
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Marks what was let through on credit.
const CREDIT: u64 = 0;

/// Units that belong into the store again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Back {
    pub units: u64,
    /// What the store has called the time of their lease.
    pub mark: u64,
}

/// All that there is to give back at a time.
pub type Backs = SmallVec<[Back; 2]>;

/// A question to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What has been let through already.
    pub charge: u64,
    /// What requests wait for.
    pub demand: u64,
    /// What is wanted, if that leaves enough for others.
    pub want: u64,
}

/// What the store says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How much was leased.
    pub granted: u64,
    /// What is left of the limit behind that.
    pub room: u64,
    /// Until more is left, in nanoseconds.
    pub after: u64,
    /// What the store calls the time of the lease; never 0.
    pub mark: u64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Admitted {
        /// What is left, as far as it is known.
        remaining: u64,
        /// Until more is left, in nanoseconds, as far as it is known.
        after: u64,
        /// By which it may be given back.
        mark: u64,
    },
    Refused {
        after: u64,
    },
    /// The store has to say.
    Wait,
    /// The cell is not the key's any more.
    Gone,
}

/// A decision, and what it leads to.
pub struct Decided {
    pub decision: Decision,
    /// The store is to be asked: with [`Cell::ask`], or else [`Cell::put_off`].
    pub ask: bool,
    pub backs: Backs,
}

#[derive(Clone, Copy, Debug)]
struct Batch {
    units: u64,
    /// They may be spent before this time.
    until: u64,
    mark: u64,
}

#[derive(Clone, Copy, Debug)]
struct Full {
    /// When more is left.
    until: u64,
    /// When the store may be asked again.
    look_at: u64,
}

/// What is known of a key.
#[derive(Debug, Default)]
struct Ledger {
    batches: VecDeque<Batch>,
    /// Let through on credit, and not said yet.
    owed: u64,
    /// Said in a question that has not been answered.
    telling: u64,
    /// Credit that may still be used.
    usable: u64,
    full: Option<Full>,
    /// Since when a question is under way.
    asking: Option<u64>,
    answered_at: Option<u64>,
    /// When something was last let through on credit, or found to be due.
    owed_at: u64,
    /// Of the last answer.
    mark: u64,
    want: u64,
    /// What requests wait for.
    demand: u64,
    /// Units that there were when it was last looked after, and since when.
    seen: (u64, u64),
    gone: bool,
}

/// What this gateway holds of one key.
pub struct Cell {
    /// Units that may be spent before `until`.
    units: AtomicU64,
    until: AtomicU64,
    mark: AtomicU64,
    /// More is to be asked for when less than so many are left.
    low: AtomicU64,
    room: AtomicU64,
    more_at: AtomicU64,
    ledger: Mutex<Ledger>,
    answers: Notify,
    /// What the key is called in the store.
    pub name: Box<[u8]>,
}

impl Cell {
    pub fn new(name: Box<[u8]>, terms: Terms) -> Self {
        let ledger = Ledger {
            usable: first_credit(terms),
            ..Ledger::default()
        };
        Self {
            units: AtomicU64::new(0),
            until: AtomicU64::new(0),
            mark: AtomicU64::new(CREDIT),
            low: AtomicU64::new(0),
            room: AtomicU64::new(terms.most),
            more_at: AtomicU64::new(0),
            ledger: Mutex::new(ledger),
            answers: Notify::new(),
            name,
        }
    }

    /// Tells when the store has answered.
    pub fn answers(&self) -> &Notify {
        &self.answers
    }

    /// Spends units that are held, and tells whether it is time for more. None if there are not enough.
    pub fn spend(&self, cost: u64, now: u64) -> Option<(Decision, bool)> {
        let mut units = self.units.load(SeqCst);
        loop {
            let left = units.checked_sub(cost)?;
            if now >= self.until.load(SeqCst) {
                return None;
            }
            // whoever changes the time takes all units out first, so that they are not spent under another's
            match self
                .units
                .compare_exchange_weak(units, left, SeqCst, SeqCst)
            {
                Ok(_) => {
                    let decision = self.admitted(left, self.mark.load(Relaxed), now);
                    return Some((decision, left < self.low.load(Relaxed)));
                }
                Err(other) => units = other,
            }
        }
    }

    /// Decides on a request. `waits`: it waits already, and is only asked about again.
    pub fn admit(&self, cost: u64, terms: Terms, now: u64, waits: bool) -> Decided {
        self.decide(now, |ledger, units| {
            if ledger.gone {
                return (Decision::Gone, false);
            }
            if cost <= *units {
                *units -= cost;
                let mark = ledger.batches.front().map_or(CREDIT, |batch| batch.mark);
                let low = *units < self.low.load(Relaxed);
                return (self.admitted(*units, mark, now), low);
            }
            if let Some(full) = ledger.full.filter(|full| now < full.until) {
                let after = full.until - now;
                return (Decision::Refused { after }, now >= full.look_at);
            }
            if cost <= ledger.usable {
                ledger.owe(cost, now);
                return (self.on_credit(ledger, now), true);
            }
            if cost > terms.most {
                return (Decision::Refused { after: terms.life }, false);
            }
            if !waits {
                ledger.demand = ledger.demand.saturating_add(cost);
            }
            (Decision::Wait, true)
        })
    }

    /// Whether there is room, where outcomes count. What is known may be as old as the life of a lease, or a second.
    pub fn look(&self, terms: Terms, now: u64) -> Decided {
        self.decide(now, |ledger, _| {
            if ledger.gone {
                return (Decision::Gone, false);
            }
            if let Some(full) = ledger.full.filter(|full| now < full.until) {
                let after = full.until - now;
                return (Decision::Refused { after }, now >= full.look_at);
            }
            if ledger.usable == 0 {
                return (Decision::Wait, true);
            }
            let age = ledger.answered_at.map(|at| now.saturating_sub(at));
            let stale = age.is_none_or(|age| age >= terms.life.min(LONG));
            (self.on_credit(ledger, now), stale)
        })
    }

    /// Counts what was found to be due after the request. Tells whether the store is to be asked.
    pub fn charge(&self, cost: u64, now: u64) -> bool {
        let mut ledger = self.ledger.lock();
        ledger.owe(cost, now);
        ledger.begins_to_ask_if(true, now)
    }

    /// It is time for more. Tells whether the store is to be asked.
    pub fn refill(&self, now: u64) -> bool {
        let mut ledger = self.ledger.lock();
        self.low.store(0, Relaxed);
        ledger.begins_to_ask_if(true, now)
    }

    /// One that waited goes away, with an answer or without.
    pub fn leave(&self, cost: u64) {
        let mut ledger = self.ledger.lock();
        ledger.demand = ledger.demand.saturating_sub(cost);
    }

    /// Gives back what a request took; tells what has to go into the store for it.
    pub fn give_back(&self, cost: u64, mark: u64, now: u64) -> Backs {
        let (back, mut backs) = self.change(now, |ledger, units| {
            if mark == CREDIT && ledger.owed >= cost {
                ledger.owed -= cost;
                ledger.usable = ledger.usable.saturating_add(cost);
                return None;
            }
            match ledger.batches.front_mut() {
                Some(batch) if batch.mark == mark => {
                    batch.units = batch.units.saturating_add(cost);
                    *units = units.saturating_add(cost);
                    None
                }
                _ if mark == CREDIT => Some(ledger.mark),
                _ => Some(mark),
            }
        });
        backs.extend(back.map(|mark| Back { units: cost, mark }));
        backs
    }

    /// The question to be sent now.
    pub fn ask(&self, terms: Terms, now: u64) -> Ask {
        let mut ledger = self.ledger.lock();
        let owed = std::mem::take(&mut ledger.owed);
        // what is older counts no more
        ledger.telling = match now.saturating_sub(ledger.owed_at) < terms.memory {
            true => ledger.telling.saturating_add(owed),
            false => 0,
        };
        let since = ledger.answered_at.map(|at| now.saturating_sub(at));
        ledger.want = match terms.ahead {
            true => wanted(ledger.want, since, terms.most),
            false => 0,
        };
        // of the room that this may take, nothing is let through on credit meanwhile
        let taken = ledger
            .telling
            .saturating_add(ledger.demand.max(ledger.want));
        let left = self.room.load(Relaxed).saturating_sub(taken);
        ledger.usable = ledger.usable.min(left);
        Ask {
            charge: ledger.telling,
            demand: ledger.demand,
            want: ledger.want,
        }
    }

    /// The question could not be sent, or was not answered: what it said is still to be said.
    pub fn put_off(&self) {
        let mut ledger = self.ledger.lock();
        let told = std::mem::take(&mut ledger.telling);
        ledger.owed = ledger.owed.saturating_add(told);
        ledger.asking = None;
        drop(ledger);
        self.answers.notify_waiters();
    }

    /// Takes the answer in to the question that was sent at `sent_at`.
    pub fn answered(&self, answer: Answer, sent_at: u64, terms: Terms, now: u64) -> Backs {
        let ((), backs) = self.change(now, |ledger, units| {
            ledger.asking = None;
            ledger.telling = 0;
            ledger.answered_at = Some(now);
            ledger.mark = answer.mark;
            *units = units.saturating_add(answer.granted);
            ledger.take_in(Batch {
                units: answer.granted,
                // it was leased later than it was asked for
                until: sent_at.saturating_add(terms.life),
                mark: answer.mark,
            });
            let more_at = now.saturating_add(answer.after);
            ledger.full = (answer.room == 0).then_some(Full {
                until: more_at,
                look_at: more_at.min(now.saturating_add(LOOK_AGAIN)),
            });
            let credit = credit(terms.most).min(answer.room);
            ledger.usable = credit.saturating_sub(ledger.owed);
            self.room.store(answer.room, Relaxed);
            self.more_at.store(more_at, Relaxed);
            let low = if answer.room == 0 { 0 } else { *units / 2 };
            self.low.store(low, Relaxed);
        });
        self.answers.notify_waiters();
        backs
    }

    /// Gives back what nobody spends. Tells besides whether it still holds any.
    pub fn look_after(&self, now: u64) -> (Backs, bool) {
        let (idle, mut backs) = self.change(now, |ledger, units| {
            if ledger.seen.0 != *units {
                ledger.seen = (*units, now);
            }
            let mut idle = Backs::new();
            if now.saturating_sub(ledger.seen.1) >= IDLE {
                *units = 0;
                ledger.want = 0;
                idle.extend(ledger.batches.drain(..).map(Batch::back));
            }
            idle
        });
        backs.extend(idle);
        (backs, self.units.load(Relaxed) > 0)
    }

    /// Forgets everything, as the store does.
    pub fn reset(&self, terms: Terms, now: u64) {
        self.change(now, |ledger, units| {
            *units = 0;
            ledger.batches.clear();
            ledger.owed = 0;
            ledger.full = None;
            ledger.want = 0;
            ledger.answered_at = None;
            ledger.usable = first_credit(terms);
        });
        self.room.store(terms.most, Relaxed);
        self.more_at.store(0, Relaxed);
    }

    /// Units that it holds.
    pub fn held(&self, now: u64) -> u64 {
        match now < self.until.load(Relaxed) {
            true => self.units.load(Relaxed),
            false => 0,
        }
    }

    fn admitted(&self, units: u64, mark: u64, now: u64) -> Decision {
        Decision::Admitted {
            remaining: units.saturating_add(self.room.load(Relaxed)),
            after: self.more_at.load(Relaxed).saturating_sub(now),
            mark,
        }
    }

    fn on_credit(&self, ledger: &Ledger, now: u64) -> Decision {
        let untold = ledger.owed.saturating_add(ledger.telling);
        Decision::Admitted {
            remaining: self.room.load(Relaxed).saturating_sub(untold),
            after: self.more_at.load(Relaxed).saturating_sub(now),
            mark: CREDIT,
        }
    }

    /// Takes the place away from the key, if nothing is lost by that: one that comes again begins with no more than it
    /// has now, or with nothing that counts.
    fn evict(&self, terms: Terms, now: u64) -> bool {
        let (gone, _) = self.change(now, |ledger, _| {
            let quiet = ledger.asking.is_none() && ledger.demand == 0 && ledger.batches.is_empty();
            let last = ledger.answered_at.unwrap_or(0).max(ledger.owed_at);
            let equal = ledger.owed == 0 && ledger.usable >= first_credit(terms);
            ledger.gone |= quiet && (equal || now.saturating_sub(last) >= terms.memory);
            ledger.gone
        });
        gone
    }

    fn decide(
        &self,
        now: u64,
        decide: impl FnOnce(&mut Ledger, &mut u64) -> (Decision, bool),
    ) -> Decided {
        let ((decision, ask), backs) = self.change(now, |ledger, units| {
            let (decision, ask) = decide(ledger, units);
            if ask {
                self.low.store(0, Relaxed);
            }
            (decision, ledger.begins_to_ask_if(ask, now))
        });
        Decided {
            decision,
            ask,
            backs,
        }
    }

    /// Takes all units out, changes what there is to change, and lets them be spent again.
    fn change<R>(&self, now: u64, then: impl FnOnce(&mut Ledger, &mut u64) -> R) -> (R, Backs) {
        let mut ledger = self.ledger.lock();
        let mut units = self.units.swap(0, SeqCst);
        let backs = ledger.settle(&mut units, now);
        let result = then(&mut ledger, &mut units);
        let front = ledger.batches.front();
        let (until, mark) = front.map_or((0, CREDIT), |batch| (batch.until, batch.mark));
        self.until.store(until, SeqCst);
        self.mark.store(mark, Relaxed);
        self.units.store(units, SeqCst);
        (result, backs)
    }
}

fn first_credit(terms: Terms) -> u64 {
    credit(terms.most).min(terms.most)
}

impl Batch {
    fn back(self) -> Back {
        Back {
            units: self.units,
            mark: self.mark,
        }
    }
}

impl Ledger {
    fn owe(&mut self, cost: u64, now: u64) {
        self.usable = self.usable.saturating_sub(cost);
        self.owed = self.owed.saturating_add(cost);
        self.owed_at = now;
    }

    fn begins_to_ask_if(&mut self, wanted: bool, now: u64) -> bool {
        // one that nobody answers, nor gives up, is lost
        let under_way = |at: u64| now.saturating_sub(at) < LOST;
        let begins = wanted && !self.asking.is_some_and(under_way);
        if begins {
            self.asking = Some(now);
        }
        begins
    }

    /// Takes off what was spent since, the oldest first, and what may not be spent any more.
    fn settle(&mut self, units: &mut u64, now: u64) -> Backs {
        let total: u64 = self.batches.iter().map(|batch| batch.units).sum();
        let mut spent = total.saturating_sub(*units);
        let mut backs = Backs::new();
        while let Some(front) = self.batches.front_mut() {
            let taken = spent.min(front.units);
            front.units -= taken;
            spent -= taken;
            if front.units > 0 && now < front.until {
                break;
            }
            if front.units > 0 {
                *units = units.saturating_sub(front.units);
                backs.push(front.back());
            }
            self.batches.pop_front();
        }
        backs
    }

    fn take_in(&mut self, batch: Batch) {
        if batch.units == 0 {
            return;
        }
        match self.batches.back_mut() {
            // leased in the same part, they may be spent until the end of the next one, whichever is asked for
            Some(last) if last.mark == batch.mark => {
                last.units = last.units.saturating_add(batch.units);
                last.until = last.until.max(batch.until);
            }
            _ => self.batches.push_back(batch),
        }
    }
}

/// How much to ask for, by how long the last lasted: as much as is used in some hundred milliseconds, and nothing for
/// keys that are seldom seen, which credit serves.
fn wanted(last: u64, since: Option<u64>, most: u64) -> u64 {
    let wanted = match since {
        Some(since) if since <= SHORT => last.saturating_mul(2).max(1),
        Some(since) if since <= LONG => last,
        _ => last / 2,
    };
    wanted.min(most.div_ceil(4))
}

/// Keys in a bucket of the table.
const PLACES: usize = 8;

type Places = Vec<(u64, Arc<Cell>)>;

#[derive(Default)]
struct Bucket {
    places: ArcSwapOption<Places>,
    changing: Mutex<()>,
}

/// What this gateway holds, by key. The table is bounded: a key takes the place of one that holds nothing, and where there
/// is none it gets no place.
pub struct Leases {
    buckets: Box<[Bucket]>,
    /// Cells that hold units.
    holding: Mutex<AHashMap<u64, Arc<Cell>>>,
}

impl Leases {
    /// For about so many keys that count at the same time.
    pub fn new(keys: u64) -> Self {
        let buckets = (0..buckets(keys)).map(|_| Bucket::default());
        Self {
            buckets: buckets.collect(),
            holding: Mutex::default(),
        }
    }

    /// The memory that a table for so many keys takes at most, in bytes.
    pub fn memory(keys: u64) -> u64 {
        let cell = size_of::<Cell>() + size_of::<(u64, Arc<Cell>)>() + 128;
        let bucket = size_of::<Bucket>() + PLACES * cell;
        buckets(keys).saturating_mul(bucket as u64)
    }

    /// The memory that is taken by now, about, in bytes.
    pub fn bytes(&self) -> u64 {
        let cells = self.buckets.iter().filter_map(|bucket| {
            let places = bucket.places.load();
            places.as_ref().map(|places| places.len())
        });
        let cell = size_of::<Cell>() + size_of::<(u64, Arc<Cell>)>() + 128;
        (cells.sum::<usize>() * cell + self.buckets.len() * size_of::<Bucket>()) as u64
    }

    /// Spends units of a key that are held; see [`Cell::spend`].
    pub fn spend(&self, key: u64, cost: u64, now: u64) -> Option<(Decision, bool)> {
        let places = self.bucket(key)?.places.load();
        let mut places = places.as_ref()?.iter();
        let (_, cell) = places.find(|(held, _)| *held == key)?;
        cell.spend(cost, now)
    }

    /// What is held of a key, if it has a place.
    pub fn find(&self, key: u64) -> Option<Arc<Cell>> {
        let places = self.bucket(key)?.places.load();
        let mut places = places.as_ref()?.iter();
        let (_, cell) = places.find(|(held, _)| *held == key)?;
        Some(cell.clone())
    }

    /// The cell of a key, made if there is none; nothing if all its places are taken.
    pub fn cell(
        &self,
        key: u64,
        terms: Terms,
        now: u64,
        name: impl FnOnce() -> Box<[u8]>,
    ) -> Option<Arc<Cell>> {
        if let Some(cell) = self.find(key) {
            return Some(cell);
        }
        let bucket = self.bucket(key)?;
        let _one = bucket.changing.lock();
        if let Some(cell) = self.find(key) {
            return Some(cell);
        }
        let mut places: Places = bucket
            .places
            .load()
            .as_ref()
            .map_or_else(Vec::new, |places| (**places).clone());
        if places.len() >= PLACES {
            let idle = places.iter().position(|(_, cell)| cell.evict(terms, now))?;
            places.remove(idle);
        }
        let cell = Arc::new(Cell::new(name(), terms));
        places.push((key, cell.clone()));
        bucket.places.store(Some(Arc::new(places)));
        Some(cell)
    }

    /// Notes that a cell holds units, so that it is looked after.
    pub fn holds(&self, key: u64, cell: &Arc<Cell>) {
        self.holding.lock().insert(key, cell.clone());
    }

    /// The cells that hold units: what they give back, and which they are.
    pub fn look_after(&self, now: u64) -> Vec<(Arc<Cell>, Backs)> {
        let mut given = Vec::new();
        self.holding.lock().retain(|_, cell| {
            let (backs, holds) = cell.look_after(now);
            if !backs.is_empty() {
                given.push((cell.clone(), backs));
            }
            holds
        });
        given
    }

    fn bucket(&self, key: u64) -> Option<&Bucket> {
        let at = (u128::from(key) * self.buckets.len() as u128) >> 64;
        self.buckets.get(at as usize)
    }
}

fn buckets(keys: u64) -> u64 {
    keys.div_ceil(PLACES as u64 / 2).max(1)
}

#[cfg(test)]
mod tests;
