//! `rate_limit`: how many requests are let through in a time, by whatever is known of them.
//!
//! A policy counts by the facts in `by` and refuses with 429 what is over the limit; refused requests do not count. The
//! counters belong to the place where the policy is written: at the top of the file it is one budget over all routes,
//! with `per: route` each route has its own. There may be several, as `rate_limit.NAME`; each has its say.
//!
//! `sliding_window` counts on pingora-limits' estimator, in memory that does not depend on how many keys there are: never
//! more than the limit in any window, and what was admitted counts for up to a sixth of the window longer
//! ([`crate::limit::window`]). `token_bucket` is exact, with a burst ([`crate::limit::bucket`]).
//!
//! It acts once it is known who calls; with `before: auth`, before credentials are looked at. With `count` it does not
//! count requests but how they ended: `count: {status: [401, 403]}` refuses those who guess.
//!
//! ```yaml
//! policies:
//!   rate_limit: {limit: 100/1m, by: client_address}
//!   rate_limit.write: {limit: 10/1s, by: [client_address, route], algorithm: token_bucket, burst: 30, when: {method: POST}}
//! ```

mod config;
mod counting;
mod rule;
mod shared;

use super::amounts::{Cost, Costs};
use super::key::{self, Before, Exempt, Keyed, Seed, no_key, place};
use super::told::Style;
use super::{CompileContext, Flow, Hooks, OnRequest, OnResponse, Policy, Stage, Step, Tends};
use crate::diagnostic::Diagnostic;
use crate::exchange::{Exchange, Facts, LimitKey as Key, Standing, View};
use crate::observe::metrics::{Instead, RateLimitMetrics};
use crate::problem::{Kind, Problem};
use crate::protocol::grpc;
use crate::state::monotonic_nanos;
use crate::store::{OnFailure, Store};
use crate::units::{Rate, Span, StatusRange, whole_seconds};
use ahash::AHashMap;
use config::{Algorithm, Config};
use counting::Counted;
use futures::future::BoxFuture;
use pingora_http::ResponseHeader;
use rule::{HERE, Rule, Tables, Verdict, burst_of};
use shared::{Next, Shared, Why};
use std::sync::Arc;
use std::time::Duration;

/// Keys that are expected where nothing is written.
const KEYS: u64 = 10_000;

/// A table of more would take gigabytes.
const KEYS_MAX: u64 = 10_000_000;

/// Windows are counted in nanoseconds.
const WINDOW_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Clients are told whole seconds.
const WINDOW_MIN: Duration = Duration::from_secs(1);

/// As long as a bucket may take to be full again: times are kept in 64 bits.
const FILL_MAX: Duration = Duration::from_secs(4 * 365 * 86_400);

/// See the module.
pub struct RateLimit;

impl Policy for RateLimit {
    type Config = Config;
    const STAGE: Stage = Stage::Limit;
    const OF_PLANS: bool = true;

    fn stage(config: &Config) -> Stage {
        match config.before {
            Some(Before::Auth) => Stage::Shield,
            None => Self::STAGE,
        }
    }

    fn compile(config: &Config, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic> {
        check(config, cx);
        let seed = cx.shared_as("seed", Seed::default);
        let by = config.by.iter().flat_map(|by| &by.0);
        let keyed = Keyed::of_policy(config.by.as_ref(), config.per, cx);
        let keys = match keyed.is_one() {
            true => 1,
            false => config.keys.as_ref().map_or(KEYS, |keys| keys.get()),
        };
        let store = store(config, cx);
        let mut tables = Tables {
            keys,
            windows: AHashMap::new(),
            buckets: None,
            store,
            leases: AHashMap::new(),
            keyed: &keyed,
            cx,
        };
        let rule = tables.rule(config, *config.limit.value());
        let mut overrides = AHashMap::new();
        for (text, rate) in &config.limits.all {
            let own = tables.rule(config, *rate.value());
            let at = place(rate.span(), tables.cx);
            match keyed.written(&seed, text) {
                Some(key) if overrides.insert(key, own).is_some() => {
                    let message = format!("`{text}` is a key that has a limit already");
                    let hint = "IPv6 clients count by their /64";
                    tables.cx.report(Diagnostic::error(message, at).hint(hint));
                }
                Some(_) => {}
                None => no_key(text, at, &keyed, tables.cx),
            }
        }
        let mut counters: Vec<Counted> =
            tables.windows.into_values().map(Counted::Window).collect();
        counters.extend(tables.buckets.map(Counted::Buckets));
        counters.extend(tables.leases.into_values().map(Counted::Leases));
        let exempt = Exempt::of_numbers(config.exempt.as_ref(), &keyed, &seed, cx);
        let limiter = Arc::new(Limiter {
            number: cx.number(),
            cost: Costs::new(&config.cost),
            count: config
                .count
                .as_ref()
                .map(|count| count.status.0.clone().into()),
            style: config.headers,
            seed,
            keyed,
            rule,
            overrides,
            exempt,
            keys,
            counted: counters.into(),
            metrics: cx.metrics().rate_limit(cx.place()),
        });
        let mut hooks = Hooks::new().on_request(limiter.clone());
        hooks.counts_by = by.cloned().collect();
        hooks.counting = Some(limiter.clone());
        if limiter.rule.shared.is_some() {
            hooks.tends = Some(limiter.clone());
        }
        Ok(match (limiter.style, &limiter.count) {
            (Style::Off, None) => hooks,
            _ => hooks.on_response(limiter),
        })
    }
}

fn check(config: &Config, cx: &mut CompileContext<'_>) {
    if let (Some(burst), Algorithm::SlidingWindow) = (&config.burst, config.algorithm) {
        let message = "a sliding window has no `burst`: all of the limit may come at once";
        let hint = "add `algorithm: token_bucket`, or remove `burst`";
        cx.report(Diagnostic::error(message, burst.span()).hint(hint));
    }
    if let Some(keys) = config.keys.as_ref().filter(|keys| keys.get() > KEYS_MAX) {
        let most =
            "at most 10M; what is beyond them shares counters, and nobody gets more than the limit";
        let message = format!("`{}` keys are too many", keys.value());
        cx.report(Diagnostic::error(message, keys.span()).hint(most));
    }
    if let Some(keys) = config
        .keys
        .as_ref()
        .filter(|_| config.by.is_none() && config.per.is_none() && cx.counts_by().is_none())
    {
        let message = "there is one key: all requests count as one";
        cx.report(Diagnostic::error(message, keys.span()).hint("add `by`, or remove `keys`"));
    }
    check_rate(config, *config.limit.value(), config.limit.span(), cx);
    for rate in config.limits.all.values() {
        check_rate(config, *rate.value(), place(rate.span(), cx), cx);
    }
    if config.count.is_some() && config.cost != Cost::default() {
        let message = "what counts here is how requests end, and each counts 1";
        cx.report(Diagnostic::error(message, cx.span()).hint("remove `cost`, or `count`"));
    }
    if costs(config).all(|cost| cost == 0) {
        let message = "every request costs 0: nothing is ever counted";
        cx.report(Diagnostic::error(message, cx.span()).hint("some requests cost more than 0"));
    }
    key::check_by(config.by.as_ref(), config.per, config.before, cx);
}

/// Where it counts together with others, and whether each request is asked for. Errors are reported.
fn store(config: &Config, cx: &mut CompileContext<'_>) -> Option<(Arc<Store>, bool)> {
    let Some(name) = &config.store else {
        if let Some(exact) = &config.exact {
            let message = "`exact` is about a store, and there is none";
            let hint = "add `store: NAME`, or remove `exact`";
            cx.report(Diagnostic::error(message, exact.span()).hint(hint));
        }
        return None;
    };
    match cx.store(name) {
        Ok(store) => {
            let exact = config.exact.as_ref().is_some_and(|exact| exact.value().0);
            Some((store?, exact))
        }
        Err(diagnostic) => {
            cx.report(diagnostic);
            None
        }
    }
}

/// All that requests may cost.
fn costs(config: &Config) -> impl Iterator<Item = u32> {
    let by_method = config.cost.by_method.iter().map(|(_, cost)| *cost);
    by_method.chain([config.cost.others])
}

fn check_rate(config: &Config, rate: Rate, at: Span, cx: &mut CompileContext<'_>) {
    let window: Duration = rate.window.get();
    if window > WINDOW_MAX {
        cx.report(Diagnostic::error("the window is longer than a year", at));
        return;
    }
    if window < WINDOW_MIN {
        let message = "the window is shorter than a second";
        cx.report(Diagnostic::error(message, at).hint("clients are told whole seconds"));
        return;
    }
    let burst = burst_of(config, rate);
    let most = burst.unwrap_or(rate.count.get());
    let dearest = costs(config).max().unwrap_or(1);
    if u64::from(dearest) > most {
        let message =
            format!("a request that costs {dearest} never gets through: {most} is all there is");
        cx.report(Diagnostic::error(message, at));
    }
    // nanoseconds for each, times how many: no more than 96 bits
    let fill = window.as_nanos() / u128::from(rate.count.get()) * u128::from(burst.unwrap_or(1));
    if fill > FILL_MAX.as_nanos() {
        let message = "a burst that takes more than four years to come back";
        let hint = "a smaller `burst`, or more in a shorter window";
        let at = config.burst.as_ref().map_or(at, |burst| burst.span());
        cx.report(Diagnostic::error(message, at).hint(hint));
    }
}

/// See the module.
struct Limiter {
    /// By which it finds in the facts what it has said.
    number: u32,
    seed: Arc<Seed>,
    keyed: Keyed,
    rule: Rule,
    overrides: AHashMap<u64, Rule>,
    exempt: Exempt<u64>,
    cost: Costs,
    count: Option<Box<[StatusRange]>>,
    style: Style,
    /// That memory is made for.
    keys: u64,
    counted: Box<[Counted]>,
    metrics: Arc<RateLimitMetrics>,
}

impl Limiter {
    fn rule(&self, key: Key) -> &Rule {
        if self.overrides.is_empty() {
            return &self.rule;
        }
        self.overrides.get(&key.of).unwrap_or(&self.rule)
    }

    /// Counts how a request has ended, which may have been refused before it came here.
    fn charge(&self, key: Option<Key>, view: View<'_>) {
        let key = key.unwrap_or_else(|| self.keyed.of(&self.seed, view));
        if self.exempt.holds(&key.of, view.facts.client_address) {
            return;
        }
        let (rule, now) = (self.rule(key), monotonic_nanos());
        let together = rule.shared.as_ref().is_some_and(|shared| {
            let digest = self.keyed.digest(view);
            shared.charge(key.counted, &digest, now)
        });
        if !together {
            rule.charge(key.counted, now);
        }
    }

    /// Notes in the facts what was decided.
    fn note(
        &self,
        facts: &mut Facts,
        key: Key,
        cost: u64,
        verdict: &Verdict,
    ) -> Result<Flow, Problem> {
        let after = whole_seconds(verdict.after);
        facts.limits.push(Standing {
            number: self.number,
            key,
            remaining: verdict.remaining,
            after,
            refused: !verdict.admitted,
            shadow: false,
            taken: if verdict.admitted { cost } else { 0 },
            mark: verdict.mark,
        });
        match verdict.admitted {
            true => Ok(Flow::Continue),
            false => Err(Problem::new(Kind::RateLimited).retry_after(verdict.after)),
        }
    }

    /// Decides where gateways count together.
    fn together<'a>(
        &'a self,
        shared: &'a Arc<Shared>,
        key: Key,
        cost: u64,
        exchange: &'a mut Exchange<'_>,
    ) -> Step<'a> {
        let now = monotonic_nanos();
        if self.count.is_none() && !shared.exact {
            if cost == 0 {
                let free = self.free(key);
                return Step::Now(self.note(exchange.facts, key, 0, &free));
            }
            if let Some(verdict) = shared.spend(key.counted, cost, now) {
                return Step::Now(self.note(exchange.facts, key, cost, &verdict));
            }
        }
        let digest = self.keyed.digest(exchange.view());
        if shared.exact {
            let name = shared.name(&digest);
            if !shared.store.is_up(&name) {
                return Step::Now(self.instead(Why::Away, key, cost, exchange.facts));
            }
            return Step::Later(Box::pin(async move {
                let free = cost == 0 && self.count.is_none();
                match shared.ask_exactly(&name, cost).await {
                    Ok(verdict) => {
                        let verdict = Verdict {
                            admitted: verdict.admitted || free,
                            ..verdict
                        };
                        if verdict.admitted && cost > 0 {
                            exchange.facts.stores.names.push((self.number, name));
                        }
                        self.note(exchange.facts, key, cost, &verdict)
                    }
                    Err(_) => self.instead(Why::Away, key, cost, exchange.facts),
                }
            }));
        }
        let next = match self.count {
            Some(_) => shared.look(key.counted, &digest, now),
            None => shared.admit(key.counted, cost, &digest, now),
        };
        match next {
            Next::Decided(verdict) => Step::Now(self.note(exchange.facts, key, cost, &verdict)),
            Next::Instead(why) => Step::Now(self.instead(why, key, cost, exchange.facts)),
            Next::Wait(waiting) => Step::Later(Box::pin(async move {
                match waiting.verdict().await {
                    Ok(verdict) => self.note(exchange.facts, key, cost, &verdict),
                    Err(why) => self.instead(why, key, cost, exchange.facts),
                }
            })),
        }
    }

    /// What costs nothing is let through, whatever else has used the limit up.
    fn free(&self, key: Key) -> Verdict {
        let rule = self.rule(key);
        Verdict {
            admitted: true,
            remaining: rule.most,
            after: rule.window,
            mark: 0,
        }
    }

    /// Decides in place of a store.
    fn instead(&self, why: Why, key: Key, cost: u64, facts: &mut Facts) -> Result<Flow, Problem> {
        let rule = self.rule(key);
        let Some(shared) = &rule.shared else {
            return Ok(Flow::Continue);
        };
        // no flood of keys lets anybody through
        let on_failure = match why {
            Why::Crowded => OnFailure::LocalShare,
            Why::Away => shared.store.on_failure,
        };
        let (how, now) = match (why, on_failure) {
            (Why::Crowded, _) => (Instead::Crowded, monotonic_nanos()),
            (_, OnFailure::LocalShare) => (Instead::LocalShare, monotonic_nanos()),
            (_, OnFailure::Allow) => (Instead::Allow, 0),
            (_, OnFailure::Deny) => (Instead::Deny, 0),
        };
        self.metrics.decided_instead(how);
        if why == Why::Away {
            facts.stores.instead = Some(on_failure.as_str());
        }
        let gateways = shared.store.gateways();
        match on_failure {
            OnFailure::LocalShare if self.count.is_some() => {
                let verdict = rule.look_share(key.counted, gateways, now);
                self.note(facts, key, 0, &verdict)
            }
            OnFailure::LocalShare if cost > 0 => {
                let verdict = rule.admit_share(key.counted, cost, gateways, now);
                self.note(facts, key, cost, &verdict)
            }
            OnFailure::LocalShare | OnFailure::Allow => {
                let free = self.free(key);
                self.note(facts, key, 0, &free)
            }
            OnFailure::Deny => {
                let problem = Problem::new(Kind::RateLimitUnavailable);
                Err(problem.retry_after(Duration::from_secs(1)))
            }
        }
    }
}

impl OnRequest for Limiter {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange<'_>) -> Step<'a> {
        let view = exchange.view();
        let key = self.keyed.of(&self.seed, view);
        if self.exempt.holds(&key.of, view.facts.client_address) {
            return Step::proceed();
        }
        let (rule, now) = (self.rule(key), monotonic_nanos());
        let cost = match self.count {
            Some(_) => 0,
            None => self.cost.of(&view.request.method),
        };
        if let Some(shared) = &rule.shared {
            return self.together(shared, key, cost, exchange);
        }
        let verdict = match self.count {
            Some(_) => rule.look(key.counted, now),
            None => rule.admit(key.counted, cost, now),
        };
        Step::Now(self.note(exchange.facts, key, cost, &verdict))
    }

    fn give_back(&self, facts: &mut Facts) {
        let mut limits = facts.limits.iter_mut();
        let Some(standing) = limits.find(|one| one.number == self.number && one.taken > 0) else {
            return;
        };
        let (key, taken) = (standing.key, std::mem::take(&mut standing.taken));
        let (rule, now, mark) = (self.rule(key), monotonic_nanos(), standing.mark);
        match &rule.shared {
            Some(shared) if mark & HERE == 0 && shared.exact => {
                let mut names = facts.stores.names.iter_mut();
                if let Some((_, name)) = names.find(|(number, _)| *number == self.number) {
                    shared.give_back_as(std::mem::take(name), taken, mark);
                }
            }
            Some(shared) if mark & HERE == 0 => {
                shared.give_back_held(key.counted, taken, mark, now);
            }
            _ => rule.give_back(key.counted, taken, mark & !HERE, now),
        }
        standing.remaining = standing.remaining.saturating_add(taken).min(rule.most);
    }
}

impl Tends for Limiter {
    fn tend(&self) -> BoxFuture<'_, ()> {
        let rules = [&self.rule].into_iter().chain(self.overrides.values());
        let mut shared: Vec<&Arc<Shared>> = rules.filter_map(|rule| rule.shared.as_ref()).collect();
        // rules whose leases live alike hold them in one table
        let table = |shared: &&Arc<Shared>| Arc::as_ptr(&shared.table).addr();
        shared.sort_by_key(table);
        shared.dedup_by_key(|shared| table(shared));
        let tending: Vec<_> = shared.into_iter().map(|shared| shared.tend()).collect();
        Box::pin(async move { drop(futures::future::join_all(tending).await) })
    }
}

impl OnResponse for Limiter {
    fn on_response(&self, view: View<'_>, response: &mut ResponseHeader) {
        let mut limits = view.facts.limits.iter();
        let standing = limits.find(|one| one.number == self.number);
        let status = grpc::outcome(view.request, response);
        let counts = |range: &StatusRange| range.contains(status);
        // what this very policy has refused has not been tried
        let tried = standing.is_none_or(|standing| !standing.refused);
        if tried
            && self
                .count
                .as_ref()
                .is_some_and(|count| count.iter().any(counts))
        {
            self.charge(standing.map(|standing| standing.key), view);
        }
        if let Some(standing) = standing.filter(|standing| !standing.shadow) {
            let told = &self.rule(standing.key).told;
            told.tell(standing, self.style, response);
        }
    }
}
