//! What an operator sees of a limit, and how a key begins anew.

use super::Limiter;
use super::rule::{Counters, Held, Rule};
use super::shared::{Shared, Table};
use crate::exchange::LimitKey as Key;
use crate::exchange::fact::Fact;
use crate::limit::bucket::TokenBuckets;
use crate::limit::lease::Leases;
use crate::limit::window::SlidingWindow;
use crate::policy::counting::{Counting, KeyStatus, NotReset, Overview, SharedIn};
use crate::state::monotonic_nanos;
use crate::units::whole_seconds;
use std::net::IpAddr;
use std::sync::Arc;

/// What a limit counts in: limits of several windows have a table for each.
pub enum Counted {
    Window(Arc<Held<SlidingWindow>>),
    Buckets(Arc<Held<TokenBuckets>>),
    Leases(Arc<Held<Table>>),
}

impl Counted {
    fn bytes(&self) -> u64 {
        match self {
            Counted::Window(table) => table.0.bytes(),
            Counted::Buckets(table) => table.0.bytes(),
            Counted::Leases(table) => table.0.leases.bytes(),
        }
    }

    fn bytes_max(&self, keys: u64) -> u64 {
        match self {
            Counted::Window(_) => SlidingWindow::memory(keys),
            Counted::Buckets(_) => TokenBuckets::memory(keys),
            Counted::Leases(_) => Leases::memory(keys),
        }
    }
}

impl Rule {
    fn burst(&self) -> Option<u64> {
        matches!(self.counters, Counters::Bucket(..)).then_some(self.most)
    }

    fn standing(&self, key: Key, now: u64) -> KeyStatus {
        let (counted, remaining, more_after) = match &self.counters {
            Counters::Window(table) => {
                let counted = table.0.counted(key.counted, now);
                let left = self.limit.saturating_sub(counted);
                (Some(counted), left, table.0.refills_after(key.counted, now))
            }
            Counters::Bucket(table, rate) => {
                let there = table.0.look(key.counted, 0, *rate, now);
                let next = table.0.look(key.counted, 1, *rate, now);
                let after = next.retry_after.unwrap_or(there.full_after);
                (
                    None,
                    there.remaining,
                    Some(after).filter(|after| !after.is_zero()),
                )
            }
        };
        KeyStatus {
            limit: self.written.to_string(),
            burst: self.burst(),
            counted,
            remaining,
            more_after_seconds: more_after.map(whole_seconds),
            exempt: false,
            ..KeyStatus::default()
        }
    }

    /// Where a key stands that gateways count together, as far as the store says so.
    fn standing_together(&self, shared: &Shared, name: Box<[u8]>, key: Key, now: u64) -> KeyStatus {
        let Ok(taken) = shared.standing(name) else {
            return KeyStatus {
                away: true,
                ..self.standing(key, now)
            };
        };
        let held = shared.table.0.leases.find(key.counted);
        let held = held.map_or(0, |cell| cell.held(now));
        KeyStatus {
            limit: self.written.to_string(),
            burst: self.burst(),
            counted: match self.counters {
                Counters::Window(_) => Some(self.limit.saturating_sub(taken.room)),
                Counters::Bucket(..) => None,
            },
            remaining: taken.room.saturating_add(held).min(self.most),
            more_after_seconds: Some(taken.after)
                .filter(|after| !after.is_zero())
                .map(whole_seconds),
            ..KeyStatus::default()
        }
    }
}

fn shared_in(shared: &Shared) -> SharedIn {
    let (each, besides) = shared.overshoot();
    let status = shared.store.status();
    SharedIn {
        name: shared.store.name.to_string(),
        exact: shared.exact,
        overshoot_per_gateway: each,
        overshoot_besides: besides,
        up: status.up,
        gateways: status.gateways,
    }
}

impl Limiter {
    fn is_exempt(&self, key: Key, text: Option<&str>) -> bool {
        let address = text.map(|text| text.strip_suffix("/64").unwrap_or(text).trim());
        let address = address.and_then(|text| text.parse::<IpAddr>().ok());
        self.exempt.keys.contains(&key.of)
            || address.is_some_and(|address| self.exempt.networks.contains(address))
    }
}

impl Counting for Limiter {
    fn overview(&self) -> Overview {
        let tables = || self.counted.iter();
        Overview {
            algorithm: match self.rule.counters {
                Counters::Window(_) => "sliding_window".to_owned(),
                Counters::Bucket(..) => "token_bucket".to_owned(),
            },
            limit: self.rule.written.to_string(),
            burst: self.rule.burst(),
            by: self.keyed.facts.iter().map(Fact::to_string).collect(),
            per_route: self.keyed.is_per_route(),
            keys: self.keys,
            bytes: tables().map(Counted::bytes).sum(),
            bytes_max: tables().map(|table| table.bytes_max(self.keys)).sum(),
            written: None,
            store: self.rule.shared.as_ref().map(|shared| shared_in(shared)),
        }
    }

    fn standing(&self, text: Option<&str>, route: Option<&str>) -> Result<KeyStatus, String> {
        let key = self.keyed.meant(&self.seed, text, route)?;
        let (rule, now) = (self.rule(key), monotonic_nanos());
        let digest = self.keyed.digest_meant(text, route);
        let standing = match (&rule.shared, digest) {
            (Some(shared), Some(digest)) => {
                rule.standing_together(shared, shared.name(&digest), key, now)
            }
            _ => rule.standing(key, now),
        };
        Ok(KeyStatus {
            exempt: self.is_exempt(key, text),
            ..standing
        })
    }

    fn reset(&self, text: Option<&str>, route: Option<&str>) -> Result<(), NotReset> {
        let key = self.keyed.meant(&self.seed, text, route);
        let key = key.map_err(NotReset::NoKey)?;
        let (rule, now) = (self.rule(key), monotonic_nanos());
        let digest = self.keyed.digest_meant(text, route);
        if let (Some(shared), Some(digest)) = (&rule.shared, digest) {
            let name = shared.name(&digest);
            shared
                .forget(key.counted, name)
                .map_err(|_| NotReset::Away)?;
        }
        let done = match &rule.counters {
            Counters::Window(table) => table.0.forget(key.counted, now),
            Counters::Bucket(table, _) => table.0.forget(key.counted, now),
        };
        done.then_some(()).ok_or(NotReset::Full)
    }

    fn measure(&self) {
        let shared = self.counted.iter().filter_map(|table| match table {
            Counted::Buckets(table) => Some(table.0.shared_decisions()),
            Counted::Window(_) | Counted::Leases(_) => None,
        });
        let bytes = self.counted.iter().map(Counted::bytes).sum();
        self.metrics
            .measured(bytes, shared.reduce(|one, other| one + other));
        if let Some(shared) = &self.rule.shared {
            let (each, besides) = shared.overshoot();
            let all = each.saturating_mul(shared.store.gateways());
            let up = shared.store.status().up;
            self.metrics
                .measured_shared(all.saturating_add(besides), !up);
        }
    }
}
