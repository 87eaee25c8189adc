//! `concurrency`: how many requests are in flight at the same time, by whatever is known of them.
//!
//! A request takes a place when nothing else refuses it any more, and keeps it while it is served: to the end of the
//! answer that an endpoint gives, of a WebSocket, a call of gRPC or an event stream to their end, however they end. It
//! holds its place by value ([`crate::exchange::Hold`]): whatever drops the request gives the place back.
//!
//! Once all places are taken, up to `queue` requests wait, at most for `wait`. A place that becomes free goes to the
//! higher class, within a class to whoever came first; where the queue is full, a higher class takes the turn of the
//! last of a lower one ([`crate::limit::gate`]). Who gets no place is refused with 503. A client that leaves gives up its
//! turn. Nobody begins to wait while the gateway has too much to do ([`crate::limit::overload`]). (One that has still to send its body is not listened to meanwhile, and waits on until it is refused or served.)
//!
//! Where several act on a request, those that count `by` something take it first, then narrower ones before wider ones:
//! who waits for a place of few holds no place of many, so that nobody keeps others out by waiting.
//!
//! With `adaptive` the limit is found between `min` and `limit`, from how long endpoints take to answer
//! ([`crate::limit::gradient`]).
//!
//! The places belong to where the policy is written: at the top of the file they are shared by all routes, with
//! `per: route` each route has its own. A reload with another limit keeps who is in.
//!
//! ```yaml
//! policies:
//!   concurrency: {limit: 50, queue: 100, wait: 2s, adaptive: on}
//!   concurrency.each: {limit: 5, by: client_address}
//! ```

mod config;

use super::key::{self, Before, Exempt, Keyed, Seed};
use super::{CompileContext, Hooks, OnRequest, Policy, Stage, Step};
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::exchange::{Exchange, Facts, Hold, LimitKey as Key, Strain, View};
use crate::limit::gate::{Bounds, Entry, Gate, Gates, Permit, Waiting};
use crate::limit::gradient::{Gradient, Settings};
use crate::limit::overload::Level;
use crate::observe::metrics::{ConcurrencyMetrics, Crowded, InFlight};
use crate::problem::{Kind, Problem};
use crate::state::{Kept, monotonic_nanos};
use crate::units::{Count, Span, Spanned};
use ahash::AHashMap;
use config::{Class, Config};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// How long a request waits where nothing is written.
const WAIT: Duration = Duration::from_secs(1);

/// A machine has no more requests in flight than this.
const COUNT_MAX: u64 = 10_000_000;

/// See the module.
pub struct Concurrency;

impl Policy for Concurrency {
    type Config = Config;
    const STAGE: Stage = Stage::Places;
    const OF_PLANS: bool = true;

    fn stage(config: &Config) -> Stage {
        match (config.before, &config.by) {
            (Some(Before::Auth), Some(_)) => Stage::ShieldOwnPlaces,
            (Some(Before::Auth), None) => Stage::ShieldPlaces,
            (None, Some(_)) => Stage::OwnPlaces,
            (None, None) => Self::STAGE,
        }
    }

    fn compile(config: &Config, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic> {
        check(config, cx);
        let by = config.by.iter().flat_map(|by| &by.0);
        let keyed = Keyed::of_policy(config.by.as_ref(), config.per, cx);
        let limit = whole(&config.limit);
        let finder = config.adaptive.as_ref().map(|adaptive| {
            let known = Settings::default();
            let written = |count: &Option<Spanned<Count>>| count.as_ref().map(whole);
            let adaptive = &adaptive.value().0;
            let min = written(&adaptive.min).unwrap_or(known.min).min(limit);
            let settings = Settings {
                min,
                max: limit,
                initial: written(&adaptive.initial).unwrap_or(known.initial),
                ..known
            };
            cx.state(&settings, || Finder::new(settings))
        });
        let wait = config.wait.as_ref().map_or(WAIT, |wait| wait.value().get());
        let metrics = cx.metrics().concurrency(cx.place());
        metrics.begin_with(finder.as_ref().map_or(limit, |finder| finder.limit()));
        let waits = config.queue.as_ref().map(|_| wait);
        let written = config.priority.as_ref().map(|priority| priority.value());
        let classes = written.into_iter().flatten();
        let seed = cx.shared_as("seed", Seed::default);
        let overrides = overrides(config, &keyed, &seed, cx);
        let mut hooks = Hooks::new().on_request(Arc::new(Limiter {
            overrides,
            exempt: Exempt::of_numbers(config.exempt.as_ref(), &keyed, &seed, cx),
            seed,
            places: cx.state(&keyed, || Places::new(&keyed)),
            keyed,
            bounds: Bounds {
                inside: limit,
                waiting: config.queue.as_ref().map_or(0, whole),
            },
            wait,
            classes: classes
                .map(|(plan, class)| (plan.clone(), *class))
                .collect(),
            shared: Arc::new(Shared { metrics, finder }),
            shadow: cx.is_shadow(),
            retry_after: waits.unwrap_or_default(),
        }));
        hooks.counts_by = by.cloned().collect();
        hooks.ranks_by_plan = config.priority.as_ref().map(|priority| priority.span());
        Ok(hooks)
    }
}

/// How many of some keys may be in flight.
fn overrides(
    config: &Config,
    keyed: &Keyed,
    seed: &Seed,
    cx: &mut CompileContext<'_>,
) -> AHashMap<u64, u32> {
    let mut overrides = AHashMap::new();
    for (text, count) in &config.limits.all {
        let at = key::place(count.span(), cx);
        check_count(count, at, cx);
        match keyed.written(seed, text) {
            Some(key) => {
                if overrides.insert(key, whole(count)).is_some() {
                    let message = format!("`{text}` is a key that has a limit already");
                    let hint = "IPv6 clients count by their /64";
                    cx.report(Diagnostic::error(message, at).hint(hint));
                }
            }
            None => key::no_key(text, at, keyed, cx),
        }
    }
    overrides
}

fn check_count(count: &Spanned<Count>, at: Span, cx: &mut CompileContext<'_>) {
    if count.get() > COUNT_MAX {
        let message = format!("`{}` requests at the same time are too many", count.value());
        cx.report(Diagnostic::error(message, at).hint("at most 10M"));
    }
}

fn check(config: &Config, cx: &mut CompileContext<'_>) {
    key::check_by(config.by.as_ref(), config.per, config.before, cx);
    for count in [Some(&config.limit), config.queue.as_ref()]
        .into_iter()
        .flatten()
    {
        check_count(count, count.span(), cx);
    }
    if let Some(wait) = &config.wait {
        if wait.value().is_zero() {
            let message = "nobody can wait for no time";
            let hint = "remove `queue` and `wait`: who finds no place is then refused at once";
            cx.report(Diagnostic::error(message, wait.span()).hint(hint));
        } else if config.queue.is_none() {
            let message = "nobody waits: there is no `queue`";
            let hint = "add `queue`, such as `queue: 100`, or remove `wait`";
            cx.report(Diagnostic::error(message, wait.span()).hint(hint));
        }
    }
    check_priority(config, cx);
    check_adaptive(config, cx);
}

fn check_priority(config: &Config, cx: &mut CompileContext<'_>) {
    let Some(priority) = &config.priority else {
        return;
    };
    let at = priority.span();
    if config.queue.is_none() {
        let message = "nobody waits, so nobody goes first: there is no `queue`";
        cx.report(Diagnostic::error(message, at).hint("add `queue`, or remove `priority`"));
    }
    if cx.is_of_plan() {
        let message = "whoever waits here has the same plan";
        let hint = "`priority` is for limits that several plans share";
        cx.report(Diagnostic::error(message, at).hint(hint));
    }
    if config.before.is_some() {
        let message = "plans are not known before `auth`";
        cx.report(
            Diagnostic::error(message, at).hint("remove `before: auth`, or remove `priority`"),
        );
    }
    // one whose values are mistakes is empty here, and they have been reported
    let mut classes = priority.value().values().peekable();
    if classes.peek().is_some() && classes.all(|class| *class == Class::Normal) {
        let message = "this makes no difference: who is not named is `normal` too";
        cx.report(Diagnostic::error(message, at).hint("make some plans `high` or `low`"));
    }
    // tokens may name plans that are declared nowhere, but hardly ones that are spelled nearly like one that is
    for plan in priority.value().keys() {
        let plans = cx.plans();
        if plans.contains(&&**plan) {
            continue;
        }
        if let Some(meant) = did_you_mean(plan, &plans) {
            let message = format!("there is no plan `{}`", plan.escape_debug());
            cx.report(Diagnostic::error(message, at).hint(format!("did you mean `{meant}`?")));
        }
    }
}

fn check_adaptive(config: &Config, cx: &mut CompileContext<'_>) {
    let Some(adaptive) = &config.adaptive else {
        return;
    };
    if cx.is_of_plan() {
        let message =
            "what a service takes is found from all requests together, not from those of one plan";
        let hint = "write it where the service is, such as in the policies of its routes";
        cx.report(Diagnostic::error(message, adaptive.span()).hint(hint));
    } else if config.by.is_some() || config.per.is_some() {
        let message =
            "what a service takes is found from all requests together, not from those of one key";
        let hint = "remove `by` and `per`, and write a second policy, such as `concurrency.each`, for the keys";
        cx.report(Diagnostic::error(message, adaptive.span()).hint(hint));
    }
    let limit = config.limit.get();
    let settings = &adaptive.value().0;
    for count in [&settings.min, &settings.initial].into_iter().flatten() {
        if count.get() > limit {
            let message = format!("`{}` is more than the `limit`, {limit}", count.value());
            let hint = "`limit` is what is never exceeded";
            cx.report(Diagnostic::error(message, count.span()).hint(hint));
        }
    }
    if let (Some(min), Some(initial)) = (&settings.min, &settings.initial)
        && initial.get() < min.get()
    {
        let message = format!("`{}` is less than `min`", initial.value());
        cx.report(Diagnostic::error(message, initial.span()).hint("at least `min`"));
    }
    let least = u64::from(Settings::default().min);
    let min = settings.min.as_ref().map(|min| min.get());
    let nothing = min.map_or(least >= limit, |min| min == limit);
    if nothing {
        let min = limit.min(min.unwrap_or(least));
        let message =
            format!("there is nothing to be found: at least {min} are let in, and at most {limit}");
        let hint = "write a smaller `min`, or remove `adaptive`";
        cx.report(Diagnostic::error(message, adaptive.span()).hint(hint));
    }
}

/// Those that are too large have been reported.
fn whole(count: &Spanned<Count>) -> u32 {
    u32::try_from(count.get()).unwrap_or(u32::MAX)
}

/// Who is in flight, over reloads. One place is as good as another, so another limit changes nothing about it.
enum Places {
    One(Arc<Gate>),
    Keyed(Gates),
}

impl Kept for Places {
    /// Who is in flight is so in this process.
    fn export(&self) -> Option<serde_json::Value> {
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

impl Places {
    fn new(keyed: &Keyed) -> Self {
        match keyed.is_one() {
            true => Self::One(Gate::new()),
            false => Self::Keyed(Gates::default()),
        }
    }

    fn enter(&self, key: u64, bounds: Bounds, class: Class) -> Entry {
        match self {
            Self::One(gate) => gate.enter(bounds, class as u8),
            Self::Keyed(gates) => gates.enter(key, bounds, class as u8),
        }
    }

    fn count(&self, key: u64) -> (Permit, u32) {
        match self {
            Self::One(gate) => gate.count(),
            Self::Keyed(gates) => gates.count(key),
        }
    }
}

/// Finds the limit, over reloads.
struct Finder {
    gradient: Mutex<Gradient>,
    limit: AtomicU32,
}

impl Kept for Finder {
    fn export(&self) -> Option<serde_json::Value> {
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

impl Finder {
    fn new(settings: Settings) -> Self {
        let gradient = Gradient::new(settings);
        Self {
            limit: AtomicU32::new(gradient.limit()),
            gradient: Mutex::new(gradient),
        }
    }

    fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Takes in how a try ended. Tells the limit when it is another.
    fn add(&self, took: Duration, in_flight: u32, strain: Strain) -> Option<u32> {
        let dropped = strain == Strain::Overloaded;
        // nobody waits for this: where many answer at once, some of them are enough
        let mut gradient = self.gradient.try_lock()?;
        let limit = gradient.add(took, in_flight, dropped, monotonic_nanos())?;
        (self.limit.swap(limit, Relaxed) != limit).then_some(limit)
    }
}

/// What a policy shares with those who hold its places.
struct Shared {
    metrics: Arc<ConcurrencyMetrics>,
    finder: Option<Arc<Finder>>,
}

/// A place, given back when it is dropped.
struct Place {
    permit: Permit,
    shared: Arc<Shared>,
    // behind the permit: who is not counted any more has given it back
    _counted: InFlight,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

impl Hold for Place {
    fn observes(&self) -> bool {
        self.shared.finder.is_some()
    }

    fn observe(&self, strain: Strain, took: Duration) {
        let Some(finder) = &self.shared.finder else {
            return;
        };
        let gate = self.permit.gate();
        if let Some(limit) = finder.add(took, gate.inside(), strain) {
            self.shared.metrics.set_limit(limit);
            gate.resize(limit);
        }
    }
}

impl Shared {
    fn hold(self: Arc<Self>, permit: Permit) -> Arc<dyn Hold> {
        Arc::new(Place {
            permit,
            _counted: self.metrics.enters(),
            shared: self,
        })
    }

    fn refuse(&self, why: Crowded, retry_after: Duration) -> Problem {
        self.metrics.refused(why);
        Problem::new(Kind::ConcurrencyExceeded).retry_after(retry_after)
    }

    async fn wait(
        self: Arc<Self>,
        waiting: Waiting,
        wait: Duration,
        retry_after: Duration,
    ) -> Result<Arc<dyn Hold>, Problem> {
        let _counted = self.metrics.waits();
        let why = match tokio::time::timeout(wait, waiting).await {
            Ok(Some(permit)) => return Ok(self.hold(permit)),
            Ok(None) => Crowded::Displaced,
            Err(_) => Crowded::Late,
        };
        Err(self.refuse(why, retry_after))
    }
}

/// See the module.
struct Limiter {
    seed: Arc<Seed>,
    keyed: Keyed,
    places: Arc<Places>,
    bounds: Bounds,
    /// How many of some keys may be in flight.
    overrides: AHashMap<u64, u32>,
    exempt: Exempt<u64>,
    wait: Duration,
    classes: Vec<(Box<str>, Class)>,
    shared: Arc<Shared>,
    shadow: bool,
    /// In seconds.
    retry_after: Duration,
}

impl Limiter {
    fn bounds(&self) -> Bounds {
        let found = self.shared.finder.as_ref().map(|finder| finder.limit());
        Bounds {
            inside: found.unwrap_or(self.bounds.inside),
            ..self.bounds
        }
    }

    fn class(&self, facts: &Facts) -> Class {
        if self.classes.is_empty() {
            return Class::Normal;
        }
        let identity = facts.identity.as_ref();
        let plan = identity.and_then(|identity| identity.plan.as_deref());
        let named = plan.and_then(|plan| self.classes.iter().find(|(known, _)| **known == *plan));
        named.map_or(Class::Normal, |(_, class)| *class)
    }

    /// The key, and how many of it may be in flight; none if it is not limited.
    fn own(&self, view: View<'_>, bounds: Bounds) -> Option<(Key, Bounds)> {
        let key = self.keyed.of(&self.seed, view);
        if self.exempt.holds(&key.of, view.facts.client_address) {
            return None;
        }
        let inside = self.overrides.get(&key.of).copied();
        let inside = inside.unwrap_or(bounds.inside);
        Some((key, Bounds { inside, ..bounds }))
    }

    /// Takes a place whether there is one or not. Who would have waited counts as let in.
    fn shadow(&self, exchange: &mut Exchange<'_>, key: Key, bounds: Bounds) -> Result<(), Problem> {
        let (permit, before) = self.places.count(key.counted);
        exchange.facts.held.push(self.shared.clone().hold(permit));
        if before < bounds.inside.saturating_add(bounds.waiting) {
            return Ok(());
        }
        Err(Kind::ConcurrencyExceeded.into())
    }
}

impl OnRequest for Limiter {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange<'_>) -> Step<'a> {
        let bounds = self.bounds();
        self.shared.metrics.set_limit(bounds.inside);
        let Some((key, bounds)) = self.own(exchange.view(), bounds) else {
            return Step::proceed();
        };
        let overload = exchange.facts.overload >= Level::Waiting;
        if self.shadow {
            let counted = self.shadow(exchange, key, bounds);
            return Step::Now(counted.map(|()| super::Flow::Continue));
        }
        let class = self.class(exchange.facts);
        let shared = self.shared.clone();
        let allowed = match overload {
            // who waits already goes on
            true => Bounds {
                waiting: 0,
                ..bounds
            },
            false => bounds,
        };
        match self.places.enter(key.counted, allowed, class) {
            Entry::In(permit) => {
                exchange.facts.held.push(shared.hold(permit));
                Step::proceed()
            }
            Entry::Wait(waiting) => {
                let turn = shared.wait(waiting, self.wait, self.retry_after);
                Step::Queue(Box::pin(turn))
            }
            Entry::Full => {
                let why = match overload && bounds.waiting > 0 {
                    true => Crowded::Overload,
                    false => Crowded::Full,
                };
                Step::Now(Err(shared.refuse(why, self.retry_after)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finder_tells_a_limit_once_it_is_another() {
        let finder = Finder::new(Settings {
            min: 4,
            max: 100,
            ..Settings::default()
        });
        assert_eq!(finder.limit(), 20);
        let slow = Duration::from_secs(30);
        let told = (0..10).filter_map(|_| finder.add(slow, 20, Strain::Overloaded));
        assert_eq!(told.collect::<Vec<_>>(), [14]);
        assert_eq!(finder.limit(), 14);
    }
}
