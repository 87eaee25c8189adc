//! What is known of one request while it is served: set step by step, each part by one step.

use super::deadline::Watch;
use crate::exchange::present::Present;
use crate::exchange::{Facts, View};
use crate::observe::trace::TraceContext;
use crate::policy::{BodyFilter, BodyTap};
use crate::problem::{Kind, Problem};
use crate::snapshot::{Listener, Route, Snapshot};
use crate::upstream::service::Timeouts;
use crate::upstream::{Picked, Service};
use pingora_http::RequestHeader;
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// See the module.
pub struct RequestContext {
    pub snapshot: Arc<Snapshot>,
    /// When it began to be read.
    pub started: Instant,
    /// The same by the calendar.
    pub received: SystemTime,
    pub watch: Watch,
    /// Set by `intake`. None only while, or because, the request could not be understood at all.
    pub facts: Option<Facts>,
    /// The fields that the client sent.
    pub present: Present,
    pub trace: Option<TraceContext>,
    pub listener: Option<Arc<Listener>>,
    pub route: Arc<Route>,
    pub forward: Option<Forward>,
    pub request_bytes: u64,
    /// Whether the whole request has been read.
    pub sent: bool,
    /// The part of the time that the gateway itself took: before the first try, and over the head of the answer.
    pub own: Duration,
    /// When the head of the origin's answer arrived.
    pub answered_at: Option<Instant>,
    /// Who looks on while the request is sent; none before its head is.
    pub taps: Option<Vec<Box<dyn BodyTap>>>,
    /// What is done to the body of the answer, in this order.
    pub body_filters: Vec<Box<dyn BodyFilter>>,
    /// Why the gateway answered itself.
    pub problem: Option<Kind>,
    /// What happened, for the log only.
    pub source: Option<String>,
    /// The final status that was sent, or is about to be.
    pub status: Option<u16>,
}

/// What is known once a request is going to be sent on.
pub struct Forward {
    pub service: Arc<Service>,
    pub timeouts: Timeouts,
    /// What the route's rewrite made of the target.
    pub target: Option<http::Uri>,
    /// The largest request body.
    pub body_limit: crate::snapshot::route::Limit,
    /// The idle time between pieces of the answer, where it is shorter than what Pingora waits for its head.
    pub idle: Option<Duration>,
    /// Whether the idle time of streams applies.
    pub streams: bool,
    /// The endpoint of the current try.
    pub picked: Option<Picked>,
    /// Endpoints that failed this request.
    pub tried: SmallVec<[u16; 2]>,
    pub tries: u8,
    /// When the current try began.
    pub try_started: Option<Instant>,
    /// Spent waiting for endpoints, all tries together.
    pub waited: Duration,
    /// Whether the current try has been counted.
    pub try_counted: bool,
    /// Interim answers of the current try.
    pub interim: u8,
    /// The status of the origin's final answer.
    pub status: Option<u16>,
}

impl RequestContext {
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        let route = snapshot.unrouted.clone();
        Self {
            snapshot,
            started: Instant::now(),
            received: SystemTime::now(),
            watch: Watch::default(),
            facts: None,
            present: Present::default(),
            trace: None,
            listener: None,
            route,
            forward: None,
            request_bytes: 0,
            sent: false,
            own: Duration::ZERO,
            answered_at: None,
            taps: None,
            body_filters: Vec::new(),
            problem: None,
            source: None,
            status: None,
        }
    }

    /// The request as matching, templates and policies read it.
    pub fn view<'a>(&'a self, request: &'a RequestHeader) -> Option<View<'a>> {
        self.facts.as_ref().map(|facts| View { request, facts })
    }

    /// Notes why the gateway answers itself. The first reason stays: what follows is its consequence.
    pub fn refuse(&mut self, problem: &Problem) {
        if self.problem.is_none() {
            self.problem = Some(problem.kind);
            self.source = problem.source.clone();
        }
    }
}
