//! What is known of one request while it is served: set step by step, each part by one step.

use super::choose::Basis;
use super::deadline::Watch;
use super::signed::SignedBody;
use super::tunnel::Tunnel;
use crate::exchange::connection::Interrupt;
use crate::exchange::present::Present;
use crate::exchange::{Facts, Hold, View};
use crate::limit::overload::places::Place;
use crate::observe::trace::TraceContext;
use crate::policy::{BodyFilter, BodyTap};
use crate::problem::{Kind, Problem};
use crate::protocol::grpc::Messages;
use crate::snapshot::{Listener, Route, Snapshot};
use crate::upstream::connections::Claim;
use crate::upstream::endpoint::Pooled;
use crate::upstream::service::Admitted;
use crate::upstream::service::Timeouts;
use crate::upstream::{Picked, Retries, Service};
use pingora_http::RequestHeader;
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// See the module.
pub struct RequestContext {
    pub snapshot: Arc<Snapshot>,
    /// Its place among all requests in flight, once it has been let in.
    pub place: Option<Place>,
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
    /// Whether a WebSocket is asked for where one may be opened.
    pub upgrade: bool,
    /// Set for a call of gRPC.
    pub call: Option<Call>,
    /// Ends the exchange where its connection to the endpoint is not its own.
    pub interrupt: Option<Arc<Interrupt>>,
    pub request_bytes: u64,
    /// Whether the whole request has been read.
    pub sent: bool,
    /// The part of the time that the gateway itself took: before the first try, and over the head of the answer.
    pub own: Duration,
    /// When the head of the origin's answer arrived.
    pub answered_at: Option<Instant>,
    /// What the body has to be, where a signature says so; none before the head is sent on.
    pub signed: Option<SignedBody>,
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

/// A call of gRPC.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    /// Its outcome, once the endpoint or the gateway has said it.
    pub status: Option<u16>,
    pub messages: Messages,
}

/// What is known once a request is going to be sent on.
pub struct Forward {
    pub service: Arc<Service>,
    pub timeouts: Timeouts,
    /// What the route's rewrite made of the target.
    pub target: Option<http::Uri>,
    /// The largest request body.
    pub body_limit: crate::snapshot::route::Limit,
    /// The WebSocket that the request asks for, or has opened.
    pub tunnel: Option<Tunnel>,
    /// The idle time between pieces of the answer, where it is shorter than what Pingora waits for its head.
    pub idle: Option<Duration>,
    /// Whether the end of the endpoint's connection is the end of its answer.
    pub until_close: bool,
    /// Whether the idle time of streams applies.
    pub streams: bool,
    /// The endpoint of the current try.
    pub picked: Option<Picked>,
    /// Its place among the requests of the service.
    pub admitted: Admitted,
    /// What the request holds that wants to know how its tries end.
    pub observers: SmallVec<[Arc<dyn Hold>; 1]>,
    pub retries: Arc<Retries>,
    /// What every choice goes by.
    pub basis: Basis,
    /// Endpoints that failed this request.
    pub tried: SmallVec<[u16; 2]>,
    pub tries: u8,
    /// How long to wait before the next try.
    pub pause: Duration,
    /// Which connections the next try may take.
    pub pooled: Pooled,
    /// Where the connections to the endpoint are bounded, what the request has of that.
    pub claim: Option<Box<Claim>>,
    /// Which connections of HTTP/2 the current try may take.
    pub line: u32,
    /// When the head of the final answer is due, all tries together.
    pub due: Option<Instant>,
    /// When the whole call is over, which is what `grpc-timeout` says.
    pub call_ends: Option<Instant>,
    /// When the credential ends, and what is open then with it.
    pub closes: Option<Instant>,
    /// When the exchange is over because of either. Before the head of an answer only calls of gRPC are: what was asked in
    /// time is answered.
    pub ends: Option<Instant>,
    /// When the current try began.
    pub try_started: Option<Instant>,
    /// Since when the endpoint of the current try has had the whole request.
    pub awaited: Option<Instant>,
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
            place: None,
            started: Instant::now(),
            received: SystemTime::now(),
            watch: Watch::default(),
            facts: None,
            present: Present::default(),
            trace: None,
            listener: None,
            route,
            forward: None,
            upgrade: false,
            call: None,
            interrupt: None,
            request_bytes: 0,
            sent: false,
            own: Duration::ZERO,
            answered_at: None,
            signed: None,
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

    /// Gives back what the request holds: all that is left to be done is for the client alone. Whatever ends a request
    /// early gives it back too, by dropping it.
    pub fn give_back(&mut self) {
        if let Some(facts) = &mut self.facts {
            facts.held.clear();
        }
        if let Some(forward) = &mut self.forward {
            forward.observers.clear();
        }
    }

    /// Notes why the gateway answers itself. The first reason stays: what follows is its consequence.
    pub fn refuse(&mut self, problem: &Problem) {
        if self.problem.is_none() {
            self.problem = Some(problem.kind);
            self.source = problem.source.clone();
        }
    }
}
