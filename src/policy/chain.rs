//! The policies of a route, flattened at load into one array per moment.
//!
//! Here, once, stand the wrappers that any policy may have: `when` skips it, `mode: shadow` runs it and forgets the
//! answer, and every decision is counted and timed.

use super::{
    BodyFilter, BodyTap, Flow, Hooks, Mode, OnRequest, OnRequestBody, OnResponse, OnResponseBody,
    OnUpstreamRequest, Stage, Step, Turn,
};
use crate::exchange::answer::Answer;
use crate::exchange::{Exchange, Facts, Hold, View};
use crate::identity::PlanNumber;
use crate::observe::metrics::{Decision, PolicyMetrics};
use crate::problem::Problem;
use crate::router::Matcher;
use crate::upstream::Service;
use pingora_http::{RequestHeader, ResponseHeader};
use std::sync::Arc;
use std::time::Instant;

/// A compiled policy at the place where it is written. Routes share it.
pub struct Compiled {
    /// `scope/key`.
    pub place: Arc<str>,
    /// The key of its kind.
    pub kind: &'static str,
    pub stage: Stage,
    pub hooks: Hooks,
    pub when: Option<Matcher>,
    /// The plan whose consumers it acts on; otherwise on everybody.
    pub plan: Option<PlanNumber>,
    pub mode: Mode,
    pub metrics: PolicyMetrics,
    /// Where in the files it is written: `file:line:column`.
    pub source: Option<String>,
}

impl Compiled {
    /// Whether it belongs to no plan, or to that of whoever calls, and its `when` holds.
    pub fn acts_on(&self, view: View<'_>) -> bool {
        self.is_for(view.facts) && self.when.as_ref().is_none_or(|when| when.matches(view))
    }

    fn is_for(&self, facts: &Facts) -> bool {
        self.plan.is_none_or(|plan| facts.plan == Some(plan))
    }

    /// Whether it acts on nobody's request as long as nobody is known.
    pub fn needs_an_identity(&self) -> bool {
        self.when.as_ref().is_some_and(Matcher::needs_an_identity)
    }

    /// Whether it decides who may pass.
    pub fn is_guard(&self) -> bool {
        use Stage::*;
        matches!(self.stage, Block | Filter | Authenticate | Authorize)
            && self.mode == Mode::Enforce
    }

    /// Whether it decides whether this request may pass.
    pub fn guards(&self, view: View<'_>) -> bool {
        self.is_guard() && self.acts_on(view)
    }
}

/// What acts in one moment, with the policy it belongs to.
struct Link<H: ?Sized> {
    hook: Arc<H>,
    policy: Arc<Compiled>,
}

/// What a chain decided on a request that does not go on, and which policy it was (`scope/key`).
#[derive(Debug)]
pub enum Stop {
    Answer {
        answer: Box<Answer>,
        by: Arc<str>,
    },
    Problem {
        problem: Box<Problem>,
        by: Arc<str>,
    },
    /// It waits for its turn at one of them, and goes on behind it.
    Queue(Box<Queued>),
}

/// A request that waits at a policy.
pub struct Queued {
    at: usize,
    since: Instant,
    pub turn: Turn,
}

impl std::fmt::Debug for Queued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queued")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// All policies of a route, by moment.
#[derive(Default)]
pub struct Chain {
    policies: Vec<Arc<Compiled>>,
    on_request: Box<[Link<dyn OnRequest>]>,
    on_upstream_request: Box<[Link<dyn OnUpstreamRequest>]>,
    on_request_body: Box<[Link<dyn OnRequestBody>]>,
    on_response: Box<[Link<dyn OnResponse>]>,
    on_response_body: Box<[Link<dyn OnResponseBody>]>,
}

impl Chain {
    /// Flattens policies that are in the order in which they act on a request.
    pub fn new(policies: Vec<Arc<Compiled>>) -> Self {
        let links = |policy: &Arc<Compiled>| policy.clone();
        let mut chain = Self {
            on_request: policies
                .iter()
                .filter_map(|policy| {
                    let hook = policy.hooks.on_request.clone()?;
                    Some(Link {
                        hook,
                        policy: links(policy),
                    })
                })
                .collect(),
            on_upstream_request: policies
                .iter()
                .filter(|policy| policy.mode == Mode::Enforce)
                .filter_map(|policy| {
                    let hook = policy.hooks.on_upstream_request.clone()?;
                    Some(Link {
                        hook,
                        policy: links(policy),
                    })
                })
                .collect(),
            on_request_body: policies
                .iter()
                .filter_map(|policy| {
                    let hook = policy.hooks.on_request_body.clone()?;
                    Some(Link {
                        hook,
                        policy: links(policy),
                    })
                })
                .collect(),
            // responses pass the same policies on their way back
            on_response: policies
                .iter()
                .rev()
                .filter_map(|policy| {
                    let hook = policy.hooks.on_response.clone()?;
                    Some(Link {
                        hook,
                        policy: links(policy),
                    })
                })
                .collect(),
            on_response_body: policies
                .iter()
                .rev()
                .filter_map(|policy| {
                    let hook = policy.hooks.on_response_body.clone()?;
                    Some(Link {
                        hook,
                        policy: links(policy),
                    })
                })
                .collect(),
            policies: Vec::new(),
        };
        chain.policies = policies;
        chain
    }

    /// The same without those that are not wanted.
    pub fn only(self, wanted: impl Fn(&Compiled) -> bool) -> Self {
        let mut policies = self.policies;
        policies.retain(|policy| wanted(policy));
        Self::new(policies)
    }

    /// The policies, in the order in which they act on a request.
    pub fn policies(&self) -> &[Arc<Compiled>] {
        &self.policies
    }

    /// Whether a response is looked at, or changed.
    pub fn acts_on_responses(&self) -> bool {
        !self.on_response.is_empty() || !self.on_response_body.is_empty()
    }

    /// Runs a request through every policy that decides on it.
    pub async fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<(), Stop> {
        self.go_on(0, exchange).await
    }

    /// The same from one of them on, behind which the request has waited.
    pub async fn go_on(&self, from: usize, exchange: &mut Exchange<'_>) -> Result<(), Stop> {
        for (at, link) in self.on_request.iter().enumerate().skip(from) {
            let policy = &link.policy;
            // those of other plans have nothing to do with it
            if !policy.is_for(exchange.facts) {
                continue;
            }
            if !policy.acts_on(exchange.view()) {
                policy.metrics.decided(Decision::Skip);
                continue;
            }
            let before = (policy.mode == Mode::Shadow)
                .then(|| (exchange.facts.caller(), exchange.facts.limits.len()));
            let started = Instant::now();
            let decided = match link.hook.on_request(exchange) {
                Step::Now(decided) => decided,
                Step::Later(decision) => decision.await,
                // a shadow keeps nobody
                Step::Queue(_) if before.is_some() => Ok(Flow::Continue),
                Step::Queue(turn) => {
                    let since = started;
                    return Err(Stop::Queue(Box::new(Queued { at, since, turn })));
                }
            };
            policy.metrics.took(started.elapsed());
            policy.metrics.decided(decision_of(&decided));
            if let Some((caller, limits)) = before {
                // what a shadow finds out is nobody's
                exchange.facts.set_caller(caller);
                let limits = exchange.facts.limits.iter_mut().skip(limits);
                limits.for_each(|standing| standing.shadow = true);
                continue;
            }
            match decided {
                Ok(Flow::Continue) => {}
                Ok(Flow::Answer(answer)) => {
                    let by = policy.place.clone();
                    return Err(Stop::Answer { answer, by });
                }
                Err(problem) => {
                    self.give_back(at, policy.stage, exchange.facts);
                    let (problem, by) = (Box::new(problem), policy.place.clone());
                    return Err(Stop::Problem { problem, by });
                }
            }
        }
        Ok(())
    }

    /// Takes in what the turn of a request has brought. Tells from which policy on it then goes on.
    ///
    /// # Errors
    /// It is refused.
    pub fn take_turn(
        &self,
        queued: &Queued,
        brought: Result<Arc<dyn Hold>, Problem>,
        facts: &mut Facts,
    ) -> Result<usize, Stop> {
        let next = queued.at + 1;
        let Some(link) = self.on_request.get(queued.at) else {
            return Ok(next);
        };
        let policy = &link.policy;
        policy.metrics.took(queued.since.elapsed());
        match brought {
            Ok(hold) => {
                policy.metrics.decided(Decision::Allow);
                facts.held.push(hold);
                Ok(next)
            }
            Err(problem) => {
                policy.metrics.decided(Decision::Refuse);
                self.give_back(queued.at, policy.stage, facts);
                let (problem, by) = (Box::new(problem), policy.place.clone());
                Err(Stop::Problem { problem, by })
            }
        }
    }

    /// Lets the policies before this one give back what a request took that did not get through their stage.
    fn give_back(&self, at: usize, stage: Stage, facts: &mut Facts) {
        let earlier = self.on_request.iter().take(at);
        let earlier = earlier.filter(|link| link.policy.stage.counts_with(stage));
        earlier.for_each(|link| link.hook.give_back(facts));
    }

    /// Lets the policies change the head that an endpoint gets.
    pub fn on_upstream_request(&self, view: View<'_>, upstream: &mut RequestHeader) {
        for link in &self.on_upstream_request {
            if link.policy.acts_on(view) {
                link.hook.on_upstream_request(view, upstream);
            }
        }
    }

    /// Asks the policies whether they want to see the body of a request that is sent on. Nothing is allocated where none
    /// does.
    pub fn on_request_body(
        &self,
        view: View<'_>,
        upstream: &RequestHeader,
        service: &Service,
    ) -> Vec<Box<dyn BodyTap>> {
        let mut taps = Vec::new();
        for link in &self.on_request_body {
            if link.policy.acts_on(view) {
                taps.extend(link.hook.on_request_body(view, upstream, service));
            }
        }
        taps
    }

    /// Lets the policies change the head that the client gets.
    pub fn on_response(&self, view: View<'_>, response: &mut ResponseHeader) {
        for link in &self.on_response {
            if link.policy.acts_on(view) {
                link.hook.on_response(view, response);
            }
        }
    }

    /// Asks the policies what they do to the body of an endpoint's answer, and lets them say so in its head. Nothing is
    /// allocated where no policy does anything.
    pub fn on_response_body(
        &self,
        view: View<'_>,
        response: &mut ResponseHeader,
    ) -> Vec<Box<dyn BodyFilter>> {
        let mut filters = Vec::new();
        for link in &self.on_response_body {
            if link.policy.acts_on(view) {
                filters.extend(link.hook.on_response_body(view, response));
            }
        }
        filters
    }

    /// Whether any policy changes responses.
    pub fn changes_responses(&self) -> bool {
        !self.on_response.is_empty()
    }
}

fn decision_of(decided: &Result<Flow, Problem>) -> Decision {
    match decided {
        Ok(Flow::Continue) => Decision::Allow,
        Ok(Flow::Answer(_)) => Decision::Answer,
        Err(_) => Decision::Refuse,
    }
}
