//! What an operator sees of a quota, how a key begins anew, and how it gets more.

use super::config::Sync;
use super::key::BYTES_MAX;
use super::{Limiter, seconds};
use crate::exchange::fact::Fact;
use crate::exchange::{QuotaKey as Key, View};
use crate::limit::quota::{Ledger, Period, Standing};
use crate::policy::counting::{Counting, KeyStatus, NotReset, Overview, SharedIn};
use crate::state::quotas;
use futures::future::BoxFuture;
use jiff::Timestamp;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

/// About what an account takes: its key, its stretches of time, and the place in a map.
const ACCOUNT: u64 = 250;

impl Limiter {
    fn key(&self, text: Option<&str>, route: Option<&str>) -> Result<Key, NotReset> {
        self.keyed.meant(text, route).map_err(NotReset::NoKey)
    }
}

impl Counting for Limiter {
    fn overview(&self) -> Overview {
        let accounts = u64::try_from(self.counts.ledger.len()).unwrap_or(u64::MAX);
        Overview {
            algorithm: match &self.period {
                Period::Calendar { zone, .. } => {
                    format!("calendar, {}", zone.iana_name().unwrap_or("UTC"))
                }
                Period::Rolling { .. } => "rolling".to_owned(),
            },
            limit: self.rule.written.to_string(),
            burst: None,
            by: self.keyed.facts.iter().map(Fact::to_string).collect(),
            per_route: self.keyed.per_route,
            keys: self.keys,
            bytes: accounts * ACCOUNT,
            bytes_max: Ledger::memory(self.keys, BYTES_MAX as u64, &self.period),
            store: self.shared.as_ref().map(|shared| {
                let status = shared.store.status();
                SharedIn {
                    name: shared.store.name.to_string(),
                    exact: true,
                    up: status.up,
                    gateways: status.gateways,
                    ..SharedIn::default()
                }
            }),
            written: Some(match (self.quotas.is_kept(), self.sync) {
                _ if self.shared.is_some() => "at once".to_owned(),
                (false, _) => "never".to_owned(),
                (true, Sync::Always) => "always".to_owned(),
                (true, sync) => sync.to_string(),
            }),
        }
    }

    fn standing(&self, text: Option<&str>, route: Option<&str>) -> Result<KeyStatus, String> {
        let key = self.keyed.meant(text, route)?;
        let address = text.map(|text| text.strip_suffix("/64").unwrap_or(text).trim());
        let address = address.and_then(|text| text.parse::<IpAddr>().ok());
        let (rule, now) = (self.rule(key.of()), quotas::now());
        let ledger = &self.counts.ledger;
        let here = ledger.standing(key.counted(), rule.limit, &self.period, now);
        let together = self.shared.as_ref().map(|shared| {
            let account = shared.account(&key, &self.period, now);
            let resets_at = account.span.end;
            shared.standing(account, rule.limit).map(|taken| Standing {
                used: taken.used,
                granted: taken.given,
                remaining: taken.room,
                resets_at,
            })
        });
        let away = matches!(together, Some(Err(_)));
        let standing = together.and_then(Result::ok).unwrap_or(here);
        Ok(KeyStatus {
            limit: rule.written.to_string(),
            burst: None,
            counted: Some(standing.used),
            remaining: standing.remaining,
            more_after_seconds: (standing.used > 0).then(|| seconds(standing.resets_at, now)),
            exempt: self.exempt.holds(key.of(), address),
            granted: Some(standing.granted),
            resets_at: Timestamp::from_second(standing.resets_at)
                .ok()
                .map(|at| at.to_string()),
            away,
        })
    }

    fn reset(&self, text: Option<&str>, route: Option<&str>) -> Result<(), NotReset> {
        let (key, now) = (self.key(text, route)?, quotas::now());
        if let Some(shared) = &self.shared {
            let account = shared.account(&key, &self.period, now);
            shared.forget(account).map_err(|_| NotReset::Away)?;
        }
        let ledger = &self.counts.ledger;
        let done = ledger.reset(key.counted(), &self.period, now);
        done.then_some(()).ok_or(NotReset::Full)
    }

    fn grant(&self, text: Option<&str>, route: Option<&str>, amount: u64) -> Result<(), NotReset> {
        let (key, now) = (self.key(text, route)?, quotas::now());
        if let Some(shared) = &self.shared {
            let account = shared.account(&key, &self.period, now);
            let granted = shared.grant(account, amount);
            return granted.map_err(|_| NotReset::Away);
        }
        let ledger = &self.counts.ledger;
        let done = ledger.grant(key.counted(), amount, &self.period, now);
        done.then_some(()).ok_or(NotReset::Full)
    }

    fn is_written(&self) -> BoxFuture<'static, bool> {
        if self.shared.is_some() {
            return Box::pin(std::future::ready(true));
        }
        let quotas = self.quotas.clone();
        let ticket = quotas.ticket();
        Box::pin(async move { quotas.is_written(ticket).await })
    }

    fn key_of(&self, view: View<'_>) -> Option<String> {
        let facts = self.keyed.facts.iter();
        let values: Option<Vec<_>> = facts.map(|fact| fact.read_key(view)).collect();
        values.map(|values| values.join(","))
    }

    fn measure(&self) {
        let ledger = &self.counts.ledger;
        let keys = u64::try_from(ledger.len()).unwrap_or(u64::MAX);
        self.metrics
            .measured(keys, ledger.shared_decisions.load(Relaxed));
    }
}
