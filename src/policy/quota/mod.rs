//! `quota`: how much somebody may use in an hour, a day or a month, exactly, whatever restarts in between.
//!
//! It counts by consumer, or by the facts in `by`, and refuses with 429 what is over; what is refused does not count. A
//! period is the calendar's, in a `zone`, or with `rolling: on` the time before each request
//! ([`crate::limit::quota`]). The counts of a gateway are in a file of its state directory
//! ([`crate::state::quotas`]): a process that is killed forgets at most what `sync` says, and a disk that is full stops
//! nobody but those that `sync: always` has wait for it, who are refused.
//!
//! Another limit keeps what was counted; another period, or other facts, begin anew.
//!
//! ```yaml
//! policies:
//!   quota: {limit: 1M/month, zone: Europe/Berlin, by: client_address, limits: {203.0.113.7: 5M}}
//! ```

pub mod config;
mod counting;
mod key;
mod shared;

use super::amounts::{Cost, Costs};
use super::key::{Exempt, check_by, place};
use super::told::{Style, Told};
use super::{CompileContext, Flow, Hooks, OnRequest, OnResponse, Policy, Stage, Step};
use crate::diagnostic::Diagnostic;
use crate::exchange::fact::Fact;
use crate::exchange::{Exchange, Facts, LimitKey, QuotaKey, Standing, Used, View};
use crate::limit::lease;
use crate::limit::quota::{Period, Taken};
use crate::observe::metrics::QuotaMetrics;
use crate::problem::{Kind, Problem};
use crate::protocol::grpc;
use crate::state::quotas::{self, Counts, Quotas};
use crate::store::OnFailure;
use crate::units::{Span, Spanned, StatusRange};
use ahash::AHashMap;
use config::{Allowance, Config, Sync};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use key::Keyed;
use pingora_http::ResponseHeader;
use shared::{Account, Shared};
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

/// See the module.
pub struct Quota;

impl Policy for Quota {
    type Config = Config;
    const STAGE: Stage = Stage::Quota;
    const OF_PLANS: bool = true;

    fn compile(config: &Config, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic> {
        let rolling = config.rolling.as_ref().is_some_and(|rolling| rolling.0);
        let period = period(config, rolling)?;
        check(config, cx);
        let by = config.by.iter().flat_map(|by| by.iter());
        let keyed = Keyed {
            facts: match &config.by {
                None => [Fact::Consumer].into(),
                Some(_) => by.clone().map(|fact| fact.value().clone()).collect(),
            },
            per_route: config.per.is_some(),
        };
        let keys = config.keys.as_ref().map_or(KEYS, |keys| keys.get());
        let sync = sync(config, cx)?;
        let every = match sync {
            Sync::Every(every) => every.get(),
            Sync::Always => EVERY,
        };
        let shared = shared(config, rolling, cx);
        let quotas = cx.quotas().map_err(|error| cannot_be_kept(&error, cx))?;
        let name = name_of(cx, config, rolling, &keyed);
        let accounts = usize::try_from(keys).unwrap_or(usize::MAX);
        let counts = quotas
            .counts(&name, accounts, every, &period, quotas::now())
            .map_err(|error| cannot_be_kept(&error, cx))?;
        let mut overrides = AHashMap::new();
        for (text, count) in &config.limits.all {
            let at = place(count.span(), cx);
            let limit = Allowance {
                count: *count.value(),
                ..*config.limit
            };
            match keyed.written(text) {
                Some(key) => {
                    if overrides.insert(key, Rule::new(limit, cx)).is_some() {
                        let message = format!("`{text}` is a key that has a quota already");
                        let hint = "IPv6 clients count by their /64";
                        cx.report(Diagnostic::error(message, at).hint(hint));
                    }
                }
                None => cx.report(no_key(text, &keyed, at)),
            }
        }
        let exempt = config.exempt.as_ref();
        let exempt = Exempt::compile(exempt, &keyed.facts, cx, |text, cx| {
            let key = keyed.written(text);
            if key.is_none() {
                cx.report(no_key(text, &keyed, text.span()));
            }
            key
        });
        let quota = Arc::new(Limiter {
            number: cx.number(),
            keyed,
            rule: Rule::new(*config.limit, cx),
            period,
            overrides,
            exempt,
            cost: Costs::new(&config.cost),
            count: config
                .count
                .as_ref()
                .map(|count| count.status.0.clone().into()),
            style: config.headers,
            shared,
            sync,
            // a shadow keeps nobody waiting
            waits: sync == Sync::Always && !cx.is_shadow(),
            keys,
            accounts,
            every,
            counts,
            quotas,
            metrics: cx.metrics().quota(cx.place()),
        });
        let mut hooks = Hooks::new().on_request(quota.clone());
        hooks.counts_by = match &config.by {
            Some(_) => by.cloned().collect(),
            None => [Spanned::new(Fact::Consumer, cx.span())].into(),
        };
        hooks.counting = Some(quota.clone());
        Ok(match (quota.style, &quota.count) {
            (Style::Off, None) => hooks,
            _ => hooks.on_response(quota),
        })
    }
}

fn no_key(text: &str, keyed: &Keyed, at: Span) -> Diagnostic {
    let message = format!("`{}` is no key of this quota", text.escape_debug());
    Diagnostic::error(message, at).hint(format!("a key is made of `{}`", keyed.facts_text()))
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

fn sync(config: &Config, cx: &mut CompileContext<'_>) -> Result<Sync, Diagnostic> {
    let Some(written) = &config.sync else {
        return Ok(Sync::Every(crate::units::Duration(EVERY)));
    };
    match **written {
        Sync::Every(every) if every.get() < EVERY_MIN || every.get() > EVERY_MAX => {
            let message = format!("`{every}` is out of bounds");
            let hint = "from `100ms` to `1m`; `always` makes each request wait for the disk";
            Err(Diagnostic::error(message, written.span()).hint(hint))
        }
        Sync::Always if config.count.is_some() => {
            let message = "how a request ends is known when its answer is on its way: nothing can wait for the disk";
            let hint = "write `sync: every 100ms`, or remove `count`";
            cx.report(Diagnostic::error(message, written.span()).hint(hint));
            Ok(Sync::Always)
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
    check_by(config.by.as_ref(), config.per, None, cx);
    for count in config.limits.all.values() {
        if u64::from(dearest) > count.get() {
            let message = format!(
                "a request that costs {dearest} never gets through: {} is all there is",
                count.get()
            );
            cx.report(Diagnostic::error(message, place(count.span(), cx)));
        }
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

/// Where it counts together with others. Errors are reported.
fn shared(config: &Config, rolling: bool, cx: &mut CompileContext<'_>) -> Option<Shared> {
    let name = config.store.as_ref()?;
    if rolling {
        let message = "gateways count together by the calendar, and not by a rolling period";
        let hint = "remove `rolling`, or use `rate_limit` with a long window";
        cx.report(Diagnostic::error(message, name.span()).hint(hint));
    }
    if let Some(sync) = &config.sync {
        let message = "`sync` is about the disk of this gateway, and the counts are in a store";
        cx.report(Diagnostic::error(message, sync.span()).hint("remove `sync`, or `store`"));
    }
    match cx.store(name) {
        Ok(store) => Some(Shared {
            store: store?,
            place: cx.place().clone(),
            unit: config.limit.unit,
            debts: cx.state(&"debts", Default::default),
        }),
        Err(diagnostic) => {
            cx.report(diagnostic);
            None
        }
    }
}

/// What would make old counts meaningless, and whose they are.
fn name_of(cx: &CompileContext<'_>, config: &Config, rolling: bool, keyed: &Keyed) -> String {
    let mut name = format!("{} {:?}", cx.place(), config.limit.unit);
    if rolling {
        name.push_str(" rolling");
    }
    // writing into a string does not fail
    for fact in &keyed.facts {
        let _ = write!(name, " {fact}");
    }
    if keyed.per_route {
        let _ = write!(name, " {}", Fact::Route);
    }
    name
}

/// How much may be used.
struct Rule {
    written: Allowance,
    limit: u64,
    told: Told,
}

impl Rule {
    fn new(written: Allowance, cx: &CompileContext<'_>) -> Self {
        let limit = written.count.get();
        let window = Duration::from_secs(written.unit.seconds().unsigned_abs());
        Self {
            written,
            limit,
            told: Told::new(&cx.told_as(), limit, limit, window),
        }
    }
}

/// See the module.
struct Limiter {
    /// By which it finds in the facts what it has said.
    number: u32,
    keyed: Keyed,
    period: Period,
    rule: Rule,
    overrides: AHashMap<Box<str>, Rule>,
    exempt: Exempt<Box<str>>,
    cost: Costs,
    count: Option<Box<[StatusRange]>>,
    style: Style,
    shared: Option<Shared>,
    sync: Sync,
    /// Requests go on once what they have used is on the disk.
    waits: bool,
    keys: u64,
    accounts: usize,
    every: Duration,
    counts: Arc<Counts>,
    quotas: Arc<Quotas>,
    metrics: Arc<QuotaMetrics>,
}

impl Limiter {
    fn rule(&self, of: &str) -> &Rule {
        self.overrides.get(of).unwrap_or(&self.rule)
    }

    fn used<'f>(&self, facts: &'f Facts) -> Option<&'f Used> {
        facts.used.iter().find(|used| used.number == self.number)
    }

    /// Takes note of what was decided.
    fn note(
        &self,
        facts: &mut Facts,
        key: QuotaKey,
        cost: u64,
        now: i64,
        taken: Taken,
    ) -> Result<Flow, Problem> {
        let admitted = taken.admitted;
        facts.limits.push(Standing {
            number: self.number,
            key: LimitKey::default(),
            remaining: taken.remaining,
            after: taken.resets_at.map_or(u64::MAX, |at| seconds(at, now)),
            refused: !admitted,
            shadow: false,
            taken: 0,
            mark: 0,
        });
        facts.used.push(Used {
            number: self.number,
            key,
            taken: if admitted { cost } else { 0 },
            at: now,
            stored: None,
        });
        match admitted {
            true => Ok(Flow::Continue),
            false => Err(refusal(taken, now)),
        }
    }

    /// Decides where gateways count together.
    fn together<'a>(
        &'a self,
        shared: &'a Shared,
        account: Account,
        key: QuotaKey,
        cost: u64,
        now: i64,
        exchange: &'a mut Exchange<'_>,
    ) -> Step<'a> {
        if !shared.is_up(&account) {
            return Step::Now(self.instead(shared, &account, key, cost, now, exchange.facts));
        }
        Step::Later(Box::pin(async move {
            let limit = self.rule(key.of()).limit;
            let Ok(stored) = shared.take(&account, cost, limit).await else {
                return self.instead(shared, &account, key, cost, now, exchange.facts);
            };
            // outcomes are looked at, and what is free is let through in any case
            let admitted = match self.count {
                Some(_) => stored.room > 0,
                None => stored.admitted,
            };
            let taken = Taken {
                admitted,
                remaining: stored.room,
                resets_at: Some(account.span.end)
                    .filter(|_| admitted || cost.max(1) <= limit.saturating_add(stored.given)),
                shared: false,
            };
            let noted = self.note(exchange.facts, key, cost, now, taken);
            if let (true, Some(used)) = (admitted && cost > 0, exchange.facts.used.last_mut()) {
                let ledger = &self.counts.ledger;
                ledger.charge(used.key.counted(), cost, &self.period, now);
                used.stored = Some((account.name, true));
            }
            noted
        }))
    }

    /// Decides in place of a store that does not answer.
    fn instead(
        &self,
        shared: &Shared,
        account: &Account,
        key: QuotaKey,
        cost: u64,
        now: i64,
        facts: &mut Facts,
    ) -> Result<Flow, Problem> {
        let on_failure = shared.store.on_failure;
        facts.stores.instead = Some(on_failure.as_str());
        let ledger = &self.counts.ledger;
        match on_failure {
            OnFailure::Deny => Err(Problem::new(Kind::QuotaUnavailable).retry_after(EVERY)),
            OnFailure::Allow => {
                ledger.charge(key.counted(), cost, &self.period, now);
                shared.owe(account, cost);
                facts.used.push(Used {
                    number: self.number,
                    key,
                    taken: cost,
                    at: now,
                    stored: Some((account.name.clone(), false)),
                });
                Ok(Flow::Continue)
            }
            OnFailure::LocalShare => {
                let limit = self.rule(key.of()).limit;
                let part = lease::share(limit, shared.store.gateways());
                let taken = match self.count {
                    Some(_) => ledger.look(key.counted(), part, &self.period, now),
                    None => ledger.take(key.counted(), cost, part, &self.period, now),
                };
                let admitted = taken.admitted;
                let noted = self.note(facts, key, cost, now, taken);
                if let (true, Some(used)) = (admitted, facts.used.last_mut()) {
                    shared.owe(account, cost);
                    used.stored = Some((account.name.clone(), false));
                }
                noted
            }
        }
    }

    /// Waits until what was taken is on the disk. It is given back where that can't be.
    async fn is_written(&self, facts: &mut Facts) -> Result<Flow, Problem> {
        if self.quotas.is_written(self.quotas.ticket()).await {
            return Ok(Flow::Continue);
        }
        self.give_back(facts);
        Err(Problem::new(Kind::QuotaUnavailable).retry_after(EVERY))
    }
}

impl OnRequest for Limiter {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange<'_>) -> Step<'a> {
        let view = exchange.view();
        let key = self.keyed.of(view);
        if self.exempt.holds(key.of(), view.facts.client_address) {
            return Step::proceed();
        }
        self.counts.bounded(self.accounts, self.every);
        let (rule, now) = (self.rule(key.of()), quotas::now());
        let (ledger, period) = (&self.counts.ledger, &self.period);
        let cost = match self.count {
            Some(_) => 0,
            None => self.cost.of(&view.request.method),
        };
        if let Some(shared) = &self.shared {
            let account = shared.account(&key, period, now);
            return self.together(shared, account, key, cost, now, exchange);
        }
        let taken = match self.count {
            Some(_) => ledger.look(key.counted(), rule.limit, period, now),
            None => ledger.take(key.counted(), cost, rule.limit, period, now),
        };
        let noted = self.note(exchange.facts, key, cost, now, taken);
        if noted.is_err() || !self.waits || cost == 0 {
            return Step::Now(noted);
        }
        Step::Later(Box::pin(self.is_written(exchange.facts)))
    }

    fn give_back(&self, facts: &mut Facts) {
        let mut used = facts.used.iter_mut();
        let used = used.find(|used| used.number == self.number && used.taken > 0);
        let Some(used) = used else { return };
        let taken = std::mem::take(&mut used.taken);
        let ledger = &self.counts.ledger;
        ledger.give_back(used.key.counted(), taken, &self.period, used.at);
        if let (Some(shared), Some((name, known))) = (&self.shared, used.stored.take()) {
            shared.give_back(name, taken, known);
        }
        let mut standings = facts.limits.iter_mut();
        if let Some(standing) = standings.find(|one| one.number == self.number) {
            standing.remaining = standing.remaining.saturating_add(taken);
        }
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
    let problem = problem.retry_after(Duration::from_secs(seconds(at, now)));
    match Timestamp::from_second(at) {
        Ok(at) => problem.detail(format!("There is more at {at}.")),
        Err(_) => problem,
    }
}

impl OnResponse for Limiter {
    fn on_response(&self, view: View<'_>, response: &mut ResponseHeader) {
        let used = self.used(view.facts);
        let mut standings = view.facts.limits.iter();
        let standing = standings.find(|one| one.number == self.number);
        // what this very policy has refused has not been tried
        let tried = standing.is_none_or(|standing| !standing.refused);
        let status = grpc::outcome(view.request, response);
        let counts = |count: &[StatusRange]| count.iter().any(|range| range.contains(status));
        if tried && self.count.as_deref().is_some_and(counts) {
            let own = used.is_none().then(|| self.keyed.of(view));
            let key = used.map(|used| &used.key).or(own.as_ref());
            if let Some(key) =
                key.filter(|key| !self.exempt.holds(key.of(), view.facts.client_address))
            {
                let now = quotas::now();
                let ledger = &self.counts.ledger;
                ledger.charge(key.counted(), 1, &self.period, now);
                if let Some(shared) = &self.shared {
                    shared.charge(shared.account(key, &self.period, now), 1);
                }
            }
        }
        if let (Some(used), Some(standing)) = (used, standing.filter(|standing| !standing.shadow)) {
            let told = &self.rule(used.key.of()).told;
            told.tell(standing, self.style, response);
        }
    }
}
