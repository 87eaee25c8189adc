//! `quota`: how much somebody may use in an hour, a day or a month, exactly, whatever restarts in between.
//!
//! It counts by consumer, or by the facts in `by`, and refuses with 429 what is over; what is refused does not count. A
//! period is the calendar's, in a `zone`, or with `rolling: on` the time before each request
//! ([`crate::limit::quota`]). The counts of a gateway are in a file of its state directory
//! ([`crate::state::quotas`]): a process that is killed forgets at most what `sync` says.
//!
//! Another limit keeps what was counted; another period, or other facts, begin anew.
//!
//! ```yaml
//! policies:
//!   quota: {limit: 1M/month, zone: Europe/Berlin, limits: {acme: 5M}}
//! ```

pub mod config;

use super::rate_limit::config::{Cost, Per, Style};
use super::rate_limit::told::Told;
use super::{CompileContext, Flow, Hooks, OnRequest, OnResponse, Policy, Stage, Step};
use crate::diagnostic::Diagnostic;
use crate::exchange::fact::Fact;
use crate::exchange::{Exchange, Standing, View};
use crate::limit::quota::{Period, Taken};
use crate::problem::{Kind, Problem};
use crate::state::quotas::{self, Counts, Quotas};
use crate::units::StatusRange;
use ahash::{AHashMap, AHashSet};
use config::{Config, Sync};
use http::header::RETRY_AFTER;
use http::{HeaderValue, Method};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use pingora_http::ResponseHeader;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Keys that have counts of their own, where nothing is written.
const KEYS: u64 = 100_000;

/// Each takes some hundred bytes.
const KEYS_MAX: u64 = 10_000_000;

/// How long counts may stay unwritten: by default, at least and at most.
const EVERY: Duration = Duration::from_secs(1);
const EVERY_MIN: Duration = Duration::from_millis(100);
const EVERY_MAX: Duration = Duration::from_secs(60);

/// Longer keys are kept as a digest.
const KEY_BYTES_MAX: usize = 256;

/// See the module.
pub struct Quota;

impl Policy for Quota {
    type Config = Config;
    const STAGE: Stage = Stage::Quota;

    fn compile(config: &Config, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic> {
        let rolling = config.rolling.as_ref().is_some_and(|rolling| rolling.0);
        let period = period(config, rolling)?;
        let by: Vec<Fact> = match &config.by {
            None => vec![Fact::Consumer],
            Some(by) => by.iter().map(|fact| fact.value().clone()).collect(),
        };
        let mut facts = by;
        facts.extend(config.per.map(|Per::Route| Fact::Route));
        check(config, cx);
        let keys = config.keys.as_ref().map_or(KEYS, |keys| keys.get());
        let sync = sync(config)?;
        let every = match sync {
            Sync::Every(every) => every.get(),
            Sync::Always => EVERY,
        };
        let quotas = cx.quotas().map_err(|error| cannot_be_kept(&error, cx))?;
        let name = name_of(cx, config, rolling, &facts);
        let keys = usize::try_from(keys).unwrap_or(usize::MAX);
        let counts = quotas
            .counts(&name, keys, every, &period, quotas::now())
            .map_err(|error| cannot_be_kept(&error, cx))?;
        let unit = config.limit.unit;
        let told = |limit: u64| {
            let window = Duration::from_secs(unit.seconds().unsigned_abs());
            Told::new(cx.key(), limit, window)
        };
        let limit = config.limit.count.get();
        let rule = Rule {
            limit,
            told: told(limit),
        };
        let overrides = config.limits.iter().map(|(key, count)| {
            let limit = count.get();
            (
                key.clone(),
                Rule {
                    limit,
                    told: told(limit),
                },
            )
        });
        let overrides: AHashMap<Box<str>, Rule> = overrides.collect();
        let exempt = config.exempt.iter().flat_map(|exempt| exempt.iter());
        let quota = Arc::new(Limiter {
            number: cx.number(),
            facts: facts.into(),
            period,
            rule,
            overrides,
            exempt: exempt.map(|key| key.value().clone()).collect(),
            cost: config.cost.clone(),
            count: config
                .count
                .as_ref()
                .map(|count| count.status.0.clone().into()),
            style: config.headers,
            always: sync == Sync::Always,
            counts,
            quotas,
        });
        let hooks = Hooks::new().on_request(quota.clone());
        Ok(match (quota.style, &quota.count) {
            (Style::Off, None) => hooks,
            _ => hooks.on_response(quota),
        })
    }
}

fn period(config: &Config, rolling: bool) -> Result<Period, Diagnostic> {
    let unit = config.limit.unit;
    let Some(zone) = &config.zone else {
        return Ok(match rolling {
            true => Period::Rolling { unit },
            false => Period::Calendar {
                unit,
                zone: TimeZone::UTC,
            },
        });
    };
    if rolling {
        return Err(
            Diagnostic::error("`zone` has no effect beside `rolling`", zone.span())
                .hint("a rolling period is the same everywhere: remove one of them"),
        );
    }
    match TimeZone::get(zone) {
        Ok(zone) => Ok(Period::Calendar { unit, zone }),
        Err(_) => {
            let message = format!("there is no time zone `{}`", zone.escape_debug());
            let hint = "its name in the IANA database, such as `Europe/Berlin`";
            Err(Diagnostic::error(message, zone.span()).hint(hint))
        }
    }
}

fn sync(config: &Config) -> Result<Sync, Diagnostic> {
    let Some(written) = &config.sync else {
        return Ok(Sync::Every(crate::units::Duration(EVERY)));
    };
    match **written {
        Sync::Every(every) if every.get() < EVERY_MIN || every.get() > EVERY_MAX => {
            let message = format!("`{every}` is out of bounds");
            let hint = "from `100ms` to `1m`; `always` makes each request wait for the disk";
            Err(Diagnostic::error(message, written.span()).hint(hint))
        }
        sync => Ok(sync),
    }
}

fn check(config: &Config, cx: &mut CompileContext<'_>) {
    if let Some(keys) = config.keys.as_ref().filter(|keys| keys.get() > KEYS_MAX) {
        let message = format!("`{}` keys are too many", keys.value());
        let hint = "at most 10M; those beyond share one count";
        cx.report(Diagnostic::error(message, keys.span()).hint(hint));
    }
    let dearest = config.cost.by_method.iter().map(|(_, cost)| *cost);
    let dearest = dearest.chain([config.cost.others]).max().unwrap_or(1);
    let most = config.limit.count.get();
    if u64::from(dearest) > most {
        let message =
            format!("a request that costs {dearest} never gets through: {most} is all there is");
        cx.report(Diagnostic::error(message, config.limit.span()));
    }
    if dearest == 0 {
        let message = "no request counts: all cost 0";
        cx.report(Diagnostic::error(message, cx.span()).hint("remove `cost`, or the quota"));
    }
    if config.count.is_some() && config.cost != Cost::default() {
        let message = "what counts here is how requests end, and each counts 1";
        cx.report(Diagnostic::error(message, cx.span()).hint("remove `cost`, or `count`"));
    }
}

fn cannot_be_kept(error: &str, cx: &CompileContext<'_>) -> Diagnostic {
    Diagnostic::error(format!("what is counted can't be kept: {error}"), cx.span()).hint(
        "each gateway needs a state directory of its own: systemd's `StateDirectory=`, or `XDG_STATE_HOME`",
    )
}

/// What would make old counts meaningless, and whose they are.
fn name_of(cx: &CompileContext<'_>, config: &Config, rolling: bool, facts: &[Fact]) -> String {
    let mut name = format!("{} {:?}", cx.place(), config.limit.unit);
    if rolling {
        name.push_str(" rolling");
    }
    for fact in facts {
        // writing into a string does not fail
        let _ = write!(name, " {fact}");
    }
    name
}

struct Rule {
    limit: u64,
    told: Told,
}

/// See the module.
struct Limiter {
    /// By which it finds in the facts what it has said.
    number: u32,
    facts: Box<[Fact]>,
    period: Period,
    rule: Rule,
    overrides: AHashMap<Box<str>, Rule>,
    exempt: AHashSet<Box<str>>,
    cost: Cost,
    count: Option<Box<[StatusRange]>>,
    style: Style,
    always: bool,
    counts: Arc<Counts>,
    quotas: Arc<Quotas>,
}

impl Limiter {
    fn rule(&self, key: &str) -> &Rule {
        self.overrides.get(key).unwrap_or(&self.rule)
    }

    fn cost(&self, method: &Method) -> u64 {
        let own = self
            .cost
            .by_method
            .iter()
            .find(|(known, _)| known.method() == method);
        own.map_or(self.cost.others, |(_, cost)| *cost).into()
    }

    /// The key of a request. One that lacks a fact counts by its client's address, and nobody can send what is taken for
    /// that.
    fn key(&self, view: View<'_>) -> String {
        let mut key = String::new();
        for fact in &self.facts {
            let Some(value) = fact.read_key(view) else {
                let address = Fact::ClientAddress.read_key(view);
                return format!("%client_address={}", address.as_deref().unwrap_or("-"));
            };
            if !std::ptr::eq(fact, self.facts.first().unwrap_or(fact)) {
                key.push(',');
            }
            add(&mut key, &value);
        }
        match key.len() > KEY_BYTES_MAX {
            true => format!("%blake3={}", blake3::hash(key.as_bytes()).to_hex()),
            false => key,
        }
    }
}

/// Adds a value so that where it ends can be seen: of `%`, `,` and control characters the escapes.
fn add(key: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '%' | ',' | '\0'..='\x1f' | '\x7f' => {
                let _ = write!(key, "%{:02X}", u32::from(character));
            }
            character => key.push(character),
        }
    }
}

impl OnRequest for Limiter {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange<'_>) -> Step<'a> {
        let view = exchange.view();
        let key = self.key(view);
        if self.exempt.contains(&*key) {
            return Step::proceed();
        }
        let (rule, now) = (self.rule(&key), quotas::now());
        let ledger = &self.counts.ledger;
        let taken = match self.count {
            Some(_) => ledger.look(&key, rule.limit, &self.period, now),
            None => ledger.take(
                &key,
                self.cost(&view.request.method),
                rule.limit,
                &self.period,
                now,
            ),
        };
        let after = taken.resets_at.map_or(u64::MAX, |at| seconds(at, now));
        if self.style != Style::Off {
            exchange.facts.limits.push(Standing {
                number: self.number,
                remaining: taken.remaining,
                after,
            });
        }
        if !taken.admitted {
            return Step::Now(Err(refusal(taken, now)));
        }
        if !self.always || self.count.is_some() {
            return Step::proceed();
        }
        let ticket = self.quotas.ticket();
        Step::Later(Box::pin(async move {
            match self.quotas.is_written(ticket).await {
                true => Ok(Flow::Continue),
                false => {
                    self.counts.ledger.give_back(
                        &key,
                        self.cost(&exchange.request.method),
                        &self.period,
                        now,
                    );
                    Err(Problem::new(Kind::QuotaUnavailable)
                        .header(RETRY_AFTER, HeaderValue::from(1)))
                }
            }
        }))
    }
}

fn seconds(at: i64, now: i64) -> u64 {
    u64::try_from(at.saturating_sub(now)).unwrap_or(1).max(1)
}

fn refusal(taken: Taken, now: i64) -> Problem {
    let problem = Problem::new(Kind::QuotaExceeded);
    let Some(at) = taken.resets_at else {
        return problem;
    };
    let problem = problem.header(RETRY_AFTER, HeaderValue::from(seconds(at, now)));
    match Timestamp::from_second(at) {
        Ok(at) => problem.detail(format!("There is more at {at}.")),
        Err(_) => problem,
    }
}

impl OnResponse for Limiter {
    fn on_response(&self, view: View<'_>, response: &mut ResponseHeader) {
        let counts = |range: &StatusRange| range.contains(response.status.as_u16());
        let counted = self
            .count
            .as_ref()
            .is_some_and(|count| count.iter().any(counts));
        let standing = view
            .facts
            .limits
            .iter()
            .find(|one| one.number == self.number);
        if !counted && standing.is_none() {
            return;
        }
        let key = self.key(view);
        // what this very policy has refused has not been tried
        let refused = standing.is_some_and(|standing| standing.remaining == 0);
        if counted && !refused && !self.exempt.contains(&*key) {
            self.counts
                .ledger
                .charge(&key, 1, &self.period, quotas::now());
        }
        if let Some(standing) = standing {
            self.rule(&key).told.tell(*standing, self.style, response);
        }
    }
}
