//! How much may be let through, and the counters that know how much has been: of the policy, and of keys that have limits
//! of their own.

use super::config::{Algorithm, Config};
use super::shared::{Shared, Table};
use super::{CompileContext, Keyed};
use crate::limit::bucket::{self, TokenBuckets};
use crate::limit::lease::{self, Terms};
use crate::limit::window::SlidingWindow;
use crate::policy::told::Told;
use crate::state::Kept;
use crate::store::{self, Store};
use crate::units::Rate;
use ahash::AHashMap;
use std::sync::Arc;
use std::time::Duration;

/// Counters that outlive snapshots.
pub struct Held<T>(pub T);

impl<T: Send + Sync + 'static> Kept for Held<T> {
    fn export(&self) -> Option<serde_json::Value> {
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

/// Makes the counters of the rules of one policy: those of one window count together.
pub struct Tables<'t, 'c> {
    pub keys: u64,
    pub windows: AHashMap<Duration, Arc<Held<SlidingWindow>>>,
    pub buckets: Option<Arc<Held<TokenBuckets>>>,
    /// Where it counts together with others, and whether each request is asked for.
    pub store: Option<(Arc<Store>, bool)>,
    /// By window; of buckets, none.
    pub leases: AHashMap<Option<Duration>, Arc<Held<Table>>>,
    pub keyed: &'t Keyed,
    pub cx: &'t mut CompileContext<'c>,
}

impl Tables<'_, '_> {
    pub fn rule(&mut self, config: &Config, rate: Rate) -> Rule {
        let (count, window) = (rate.count.get(), rate.window.get());
        let most = burst_of(config, rate).unwrap_or(count);
        // what would make old counts meaningless
        let (keys, shape) = (self.keys, (config.algorithm, self.keys, self.keyed));
        let counters = match config.algorithm {
            Algorithm::SlidingWindow => {
                let (cx, known) = (&*self.cx, self.windows.entry(window));
                let table = known.or_insert_with(|| {
                    cx.state(&(shape, window), || Held(SlidingWindow::new(window, keys)))
                });
                Counters::Window(table.clone())
            }
            Algorithm::TokenBucket => {
                let cx = &*self.cx;
                let table = self
                    .buckets
                    .get_or_insert_with(|| cx.state(&shape, || Held(TokenBuckets::new(keys))));
                Counters::Bucket(table.clone(), bucket::Rate::new(count, window, most))
            }
        };
        let shared = self.shared(config, rate, most);
        Rule {
            shared,
            written: rate,
            limit: count,
            most,
            window,
            told: Told::new(&self.cx.told_as(), count, most, window),
            counters,
        }
    }

    fn shared(&mut self, config: &Config, rate: Rate, most: u64) -> Option<Arc<Shared>> {
        let (store, exact) = self.store.clone()?;
        let (count, window) = (rate.count.get(), rate.window.get());
        let (of, table, terms, shape) = match config.algorithm {
            Algorithm::SlidingWindow => (
                store::Count::Window { window },
                Some(window),
                Terms::of_window(count, window),
                format!("w{}", window.as_millis()),
            ),
            Algorithm::TokenBucket => (
                store::Count::Bucket {
                    units: count,
                    window,
                },
                None,
                Terms::of_bucket(count, window, most),
                "b".to_owned(),
            ),
        };
        let (keys, cx) = (self.keys, &*self.cx);
        let shape_here = ("leases", &store.name, keys, self.keyed, table);
        let leases = self.leases.entry(table);
        let leases = leases.or_insert_with(|| cx.state(&shape_here, || Held(Table::new(keys))));
        Some(Arc::new(Shared {
            exact,
            place: cx.place().clone(),
            shape: shape.into(),
            count: of,
            terms: Terms {
                ahead: config.count.is_none(),
                ..terms
            },
            window,
            table: leases.clone(),
            store,
        }))
    }
}

pub enum Counters {
    Window(Arc<Held<SlidingWindow>>),
    Bucket(Arc<Held<TokenBuckets>>, bucket::Rate),
}

/// How much, and what has been counted.
pub struct Rule {
    /// Where it counts together with others.
    pub shared: Option<Arc<Shared>>,
    pub written: Rate,
    pub limit: u64,
    /// All that may be left: the limit, or the burst.
    pub most: u64,
    pub window: Duration,
    pub told: Told,
    pub counters: Counters,
}

/// In the mark of what this gateway has counted for itself while the store was away: times and parts of time are smaller.
pub const HERE: u64 = 1 << 63;

/// What became of a request.
pub struct Verdict {
    pub admitted: bool,
    pub remaining: u64,
    /// Until a refused request may be admitted, or more is left.
    pub after: Duration,
    /// By which the counters find again what the request took.
    pub mark: u64,
}

impl Rule {
    pub fn admit(&self, key: u64, cost: u64, now: u64) -> Verdict {
        match &self.counters {
            // what is free is let through, whatever else has used the limit up
            Counters::Window(table) if cost == 0 => {
                let counted = table.0.counted(key, now);
                Verdict {
                    admitted: true,
                    ..self.looked(counted, table, key, now)
                }
            }
            Counters::Window(table) => {
                let verdict = table.0.admit(key, cost, self.limit, now);
                let after = match verdict.admitted {
                    true => table.0.refills_after(key, now),
                    false => verdict.retry_after,
                };
                Verdict {
                    admitted: verdict.admitted,
                    remaining: verdict.remaining,
                    after: after.unwrap_or(self.window),
                    mark: verdict.counted_in,
                }
            }
            Counters::Bucket(table, rate) => {
                let verdict = table.0.admit(key, cost, *rate, now);
                Verdict {
                    admitted: verdict.admitted,
                    remaining: verdict.remaining,
                    after: match verdict.admitted {
                        true => verdict.full_after,
                        false => verdict.retry_after.unwrap_or(self.window),
                    },
                    mark: now,
                }
            }
        }
    }

    /// Whether there is room for one more, which is not counted.
    pub fn look(&self, key: u64, now: u64) -> Verdict {
        match &self.counters {
            Counters::Window(table) => {
                let counted = table.0.counted(key, now);
                self.looked(counted, table, key, now)
            }
            Counters::Bucket(table, rate) => {
                let next = table.0.look(key, 1, *rate, now);
                let standing = table.0.look(key, 0, *rate, now);
                Verdict {
                    admitted: next.admitted,
                    remaining: standing.remaining,
                    after: next.retry_after.unwrap_or(standing.full_after),
                    mark: now,
                }
            }
        }
    }

    fn looked(&self, counted: u64, table: &Held<SlidingWindow>, key: u64, now: u64) -> Verdict {
        Verdict {
            admitted: counted < self.limit,
            remaining: self.limit.saturating_sub(counted),
            after: table.0.refills_after(key, now).unwrap_or(self.window),
            mark: now,
        }
    }

    /// The same where this gateway counts for itself, and lets its part through.
    pub fn admit_share(&self, key: u64, cost: u64, gateways: u64, now: u64) -> Verdict {
        let most = lease::share(self.most, gateways);
        let verdict = match &self.counters {
            Counters::Window(table) => {
                let verdict = table.0.admit(key, cost, most, now);
                Verdict {
                    admitted: verdict.admitted,
                    remaining: verdict.remaining,
                    after: verdict.retry_after.unwrap_or(self.window),
                    mark: verdict.counted_in,
                }
            }
            Counters::Bucket(table, _) => {
                let verdict = table.0.admit(key, cost, self.rate_of_share(gateways), now);
                Verdict {
                    admitted: verdict.admitted,
                    remaining: verdict.remaining,
                    after: verdict.retry_after.unwrap_or(self.window),
                    mark: now,
                }
            }
        };
        Verdict {
            mark: verdict.mark | HERE,
            ..verdict
        }
    }

    /// The same for [`Rule::look`].
    pub fn look_share(&self, key: u64, gateways: u64, now: u64) -> Verdict {
        let most = lease::share(self.most, gateways);
        let left = match &self.counters {
            Counters::Window(table) => most.saturating_sub(table.0.counted(key, now)),
            Counters::Bucket(table, _) => {
                let rate = self.rate_of_share(gateways);
                table.0.look(key, 0, rate, now).remaining
            }
        };
        Verdict {
            admitted: left > 0,
            remaining: left,
            after: self.window,
            mark: HERE,
        }
    }

    fn rate_of_share(&self, gateways: u64) -> bucket::Rate {
        let (limit, burst) = (
            lease::share(self.limit, gateways),
            lease::share(self.most, gateways),
        );
        bucket::Rate::new(limit, self.window, burst)
    }

    pub fn charge(&self, key: u64, now: u64) {
        match &self.counters {
            Counters::Window(table) => table.0.charge(key, 1, now),
            Counters::Bucket(table, rate) => table.0.charge(key, 1, *rate, now),
        }
    }

    pub fn give_back(&self, key: u64, taken: u64, mark: u64, now: u64) {
        match &self.counters {
            Counters::Window(table) => table.0.give_back(key, taken, mark),
            Counters::Bucket(table, rate) => table.0.give_back(key, taken, *rate, mark, now),
        }
    }
}

/// How much is there at once, of a token bucket: of other limits, as large a part as of the main one.
pub fn burst_of(config: &Config, rate: Rate) -> Option<u64> {
    let (limit, count) = (config.limit.value().count.get(), rate.count.get());
    match (config.algorithm, &config.burst) {
        (Algorithm::SlidingWindow, _) => None,
        (Algorithm::TokenBucket, None) => Some(count),
        (Algorithm::TokenBucket, Some(burst)) => Some(proportional(burst.get(), count, limit)),
    }
}

fn proportional(burst: u64, limit: u64, of: u64) -> u64 {
    let burst = u128::from(burst) * u128::from(limit) / u128::from(of.max(1));
    u64::try_from(burst).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_limits_have_as_large_a_part_of_themselves_as_burst() {
        assert_eq!(proportional(30, 100, 10), 300);
        assert_eq!(proportional(1, 1, 100), 1);
        assert_eq!(proportional(u64::MAX, u64::MAX, 1), u64::MAX);
    }
}
