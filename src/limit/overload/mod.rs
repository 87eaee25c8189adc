//! What a process may have in hand at a time, requests and memory, and what it lets go of on the way there.
//!
//! The nearer the process is to one of its two limits, the more it leaves undone, cheapest and least important first
//! ([`Level`]): copies of requests, then waiting for places, then a share of the new requests that grows from nothing to
//! all of them, so that there is no cliff. What has been begun is never cut.
//!
//! - **Requests** are counted to the one ([`places`]): never more than the limit are in flight. Who comes above nine
//!   tenths of it is refused by chance, all the more often the fewer places are left. Nothing of this can swing: the
//!   share follows from what is in flight at this very moment.
//! - **Memory** is sampled from time to time ([`control`]), and follows what is done only slowly. So what is refused for
//!   it is more at once, and becomes less slowly.
//!
//! Who asks reads one number that rarely changes, and takes a place from its own thread's.

pub mod control;
pub mod places;

use control::{Controller, PARTS, Sample, Standing};
pub use control::{Level, RAMP};
use parking_lot::Mutex;
use places::{Place, Pool, Till};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// How much memory there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    Bytes(u64),
    /// So many millionths of what the process could have at all.
    Share(u32),
}

/// What a process may have in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight.
    pub requests: u32,
    pub memory: Memory,
    /// Connections of clients; the edge counts them.
    pub connections: u64,
}

/// The memory of the process, as the system tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    pub bytes: u64,
    /// What the process could have at all.
    pub available: u64,
}

/// Which limit a request is refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Requests,
    Memory,
}

/// What may be seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub level: Level,
    pub in_flight: u32,
    pub requests_max: u32,
    /// Zero where the system does not tell.
    pub memory_bytes: u64,
    pub memory_bytes_max: u64,
    /// The part of new requests that is refused, of the limit that refuses more, in millionths.
    pub refused_share: u32,
}

/// See the module. There is one for a process.
pub struct Overload {
    pool: Arc<Pool>,
    /// A [`Standing`], in one number.
    standing: AtomicU32,
    /// Since the last sample.
    refused: AtomicU64,
    memory_bytes: AtomicU64,
    memory_bytes_max: AtomicU64,
    controlled: Mutex<Controlled>,
}

struct Controlled {
    memory: Memory,
    controller: Controller,
}

impl Overload {
    /// For that many threads that ask.
    pub fn new(threads: usize, limits: Limits) -> Self {
        Self {
            pool: Arc::new(Pool::new(threads, limits.requests)),
            standing: AtomicU32::new(Standing::default().packed()),
            refused: AtomicU64::new(0),
            memory_bytes: AtomicU64::new(0),
            memory_bytes_max: AtomicU64::new(0),
            controlled: Mutex::new(Controlled {
                memory: limits.memory,
                controller: Controller::default(),
            }),
        }
    }

    /// Where a thread asks: the one of that number, from zero.
    pub fn desk(self: &Arc<Self>, thread: usize) -> Desk {
        Desk {
            till: Arc::new(Till::new(self.pool.clone(), thread)),
            overload: self.clone(),
        }
    }

    /// Other limits hold from now on; that of memory from the next sample on. What is in flight stays.
    pub fn set(&self, limits: Limits) {
        self.pool.resize(limits.requests);
        self.controlled.lock().memory = limits.memory;
    }

    /// Takes in how much memory is in use. None where the system does not tell: there is no limit then. Tells the level
    /// when it is another.
    pub fn sample(&self, now: Instant, resident: Option<Resident>) -> Option<Level> {
        let mut controlled = self.controlled.lock();
        let max = resident.map_or(0, |resident| match controlled.memory {
            Memory::Bytes(bytes) => bytes,
            Memory::Share(parts) => part_of(resident.available, parts),
        });
        let bytes = resident.map_or(0, |resident| resident.bytes);
        self.memory_bytes.store(bytes, Relaxed);
        self.memory_bytes_max.store(max, Relaxed);
        let sample = Sample {
            requests: parts_of(self.pool.in_flight().into(), self.pool.limit().into()),
            memory: match max {
                0 => 0,
                max => parts_of(bytes, max),
            },
            refused: self.refused.swap(0, Relaxed) > 0,
        };
        let before = controlled.controller.standing().level;
        let standing = controlled.controller.tick(now, sample);
        self.standing.store(standing.packed(), Relaxed);
        (standing.level != before).then_some(standing.level)
    }

    pub fn seen(&self) -> Seen {
        let standing = Standing::unpacked(self.standing.load(Relaxed));
        let (in_flight, limit) = (self.pool.in_flight(), self.pool.limit());
        Seen {
            level: standing.level,
            in_flight,
            requests_max: limit,
            memory_bytes: self.memory_bytes.load(Relaxed),
            memory_bytes_max: self.memory_bytes_max.load(Relaxed),
            refused_share: standing.share.max(self.pool.refused_share()),
        }
    }
}

/// Where one thread asks for places.
pub struct Desk {
    till: Arc<Till>,
    overload: Arc<Overload>,
}

impl Desk {
    /// Takes a request in, unless the process has too much in hand. Random numbers are asked for only where chance
    /// decides.
    ///
    /// # Errors
    /// The limit that it is refused for.
    pub fn enter(&self, random: impl Fn() -> u64) -> Result<(Place, Level), Refused> {
        let standing = Standing::unpacked(self.overload.standing.load(Relaxed));
        let falls = |share: u32| share > 0 && within(random(), share);
        let refused = |why| {
            self.overload.refused.fetch_add(1, Relaxed);
            Err(why)
        };
        if falls(standing.share) {
            return refused(Refused::Memory);
        }
        if falls(self.till.pool().refused_share()) {
            return refused(Refused::Requests);
        }
        match self.till.take() {
            Some(place) => Ok((place, standing.level)),
            None => refused(Refused::Requests),
        }
    }
}

/// Whether this random number falls into so many millionths.
fn within(random: u64, share: u32) -> bool {
    ((random >> 32) * u64::from(PARTS)) >> 32 < u64::from(share)
}

/// So many millionths of a number.
fn part_of(whole: u64, parts: u32) -> u64 {
    let part = u128::from(whole) * u128::from(parts) / u128::from(PARTS);
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// How many millionths one number is of another, up to twice as many.
fn parts_of(one: u64, other: u64) -> u32 {
    let parts = u128::from(one) * u128::from(PARTS) / u128::from(other.max(1));
    u32::try_from(parts).unwrap_or(u32::MAX).min(2 * PARTS)
}

#[cfg(test)]
mod tests;
