//! Where a request goes: its service, its target, its bounds, and the first endpoint, or a wait for a place at one.

use super::choose::Basis;
use super::context::{Forward, RequestContext};
use super::grpc_timeout::{self, GRPC_TIMEOUT};
use super::retry;
use super::tunnel::Tunnel;
use crate::exchange::View;
use crate::exchange::present::Present;
use crate::problem::{Kind, Problem};
use crate::snapshot::route::Limit;
use crate::snapshot::{Bypass, Route, Target};
use crate::upstream::endpoint::Pooled;
use crate::upstream::service::{Admitted, Timeouts};
use crate::upstream::{Held, Picked, Refusal, Retries, Service, window};
use http::{HeaderMap, HeaderValue, Uri, header};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// What is known of a request's way before it has a place at an endpoint.
pub struct Plan {
    service: Arc<Service>,
    set: Arc<Held>,
    basis: Basis,
    timeouts: Timeouts,
    retries: Arc<Retries>,
    pooled: Pooled,
    target: Option<Uri>,
    body_limit: Limit,
    call_ends: Option<Instant>,
    closes: Option<Instant>,
    ends: Option<Instant>,
    due: Option<Instant>,
    streams: bool,
}

/// Decides where a request goes and chooses the first endpoint, while the connection can still be kept if there is none.
/// Returns the plan if the request has to [wait](Plan::wait) for a place.
pub fn begin(
    session: &Session,
    context: &mut RequestContext,
) -> Result<Option<Box<Plan>>, Problem> {
    let plan = plan(session, context)?;
    // near enough to now, and known
    let now = context.started;
    let found = match plan.service.is_queueing() {
        true => Err(Refusal::Full),
        false => plan.place(now),
    };
    match found {
        // boxed, so that the others do not carry it along
        Err(Refusal::Full) if plan.service.pending().is_some() => Ok(Some(Box::new(plan))),
        found => plan.take_up(context, found).map(|()| None),
    }
}

fn plan(session: &Session, context: &RequestContext) -> Result<Plan, Problem> {
    let request = session.req_header();
    let route = &*context.route;
    let service = service_for(route, context, request)?;
    let timeouts = service.timeouts.with(&route.timeouts);
    let call = context.call.is_some();
    let limit = match call {
        true => service.message_limit,
        false => service.body_limit,
    };
    let body_limit = route
        .body_limit
        .unwrap_or(limit.map_or(Limit::Off, Limit::Bytes));
    let present = context.present;
    let has_length = present.any(Present::CONTENT_LENGTH);
    if !call
        && has_length
        && content_length(&request.headers).is_some_and(|length| body_limit.exceeded_by(length))
    {
        return Err(Kind::RequestBody.into());
    }
    let target = rewritten(route, context, request)?;
    let call_ends = call_ends(context, request)?;
    let closes = closes(context);
    let ends = earliest(call_ends, closes.filter(|_| call));
    let total = timeouts.total.map(|total| context.started + total);
    let retries = route.retries_at(&service).clone();
    let set = service.set();
    Ok(Plan {
        basis: Basis::of(&service, &set, context.view(request)),
        pooled: retry::pooled(&retries, request, has_length),
        streams: present.any(Present::ACCEPT | Present::CONTENT_TYPE)
            && expects_stream(&request.headers),
        due: earliest(total, ends),
        timeouts,
        retries,
        target,
        body_limit,
        call_ends,
        closes,
        ends,
        set,
        service,
    })
}

impl Plan {
    fn place(&self, now: Instant) -> Result<(Admitted, Picked), Refusal> {
        let admitted = self.service.admit(now)?;
        match self.set.find(self.basis.choice(&self.set, &[])) {
            Ok(picked) => Ok((admitted, picked)),
            Err(refusal) => {
                admitted.undo();
                Err(refusal)
            }
        }
    }

    /// Waits for a place behind those who wait already, and begins.
    pub async fn wait(self: Box<Self>, context: &mut RequestContext) -> Result<(), Problem> {
        let until = waits_until(&self.timeouts, self.due);
        let look = || self.place(Instant::now());
        let found = self.service.wait(until, look).await;
        self.take_up(context, found)
    }

    fn take_up(
        self,
        context: &mut RequestContext,
        found: Result<(Admitted, Picked), Refusal>,
    ) -> Result<(), Problem> {
        let (admitted, picked) = found.map_err(|refusal| refused(&self.service, refusal))?;
        let held = context.facts.iter().flat_map(|facts| &facts.held);
        let observers = held.filter(|held| held.observes()).cloned().collect();
        let budget = &self.service.state().budget;
        budget.earn(window::millis(context.started));
        context.forward = Some(Forward {
            timeouts: self.timeouts,
            admitted,
            observers,
            retries: self.retries,
            pause: Duration::ZERO,
            pooled: self.pooled,
            claim: None,
            line: 0,
            due: self.due,
            call_ends: self.call_ends,
            closes: self.closes,
            ends: self.ends,
            target: self.target,
            body_limit: self.body_limit,
            idle: None,
            until_close: false,
            streams: self.streams,
            tunnel: Tunnel::of(context, self.closes),
            picked: Some(picked),
            basis: self.basis,
            tried: Default::default(),
            tries: 0,
            try_started: None,
            awaited: None,
            waited: Default::default(),
            try_counted: true,
            interim: 0,
            status: None,
            service: self.service,
        });
        Ok(())
    }
}

/// How long a request waits for a place: as long as for a connection, and not beyond its own end.
fn waits_until(timeouts: &Timeouts, due: Option<Instant>) -> Instant {
    let connect = timeouts.connect.or(Timeouts::DEFAULT.connect);
    let until = Instant::now() + connect.unwrap_or_default();
    due.map_or(until, |due| due.min(until))
}

/// What a request is told that no endpoint can take.
fn refused(service: &Service, refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Nobody => service.lacks_endpoints(),
        Refusal::Full => Kind::UpstreamOverloaded.into(),
        Refusal::Open(left) => Problem::new(Kind::UpstreamOpen).retry_after(left),
    }
}

/// When a call of gRPC is over, as its caller says.
fn call_ends(
    context: &RequestContext,
    request: &RequestHeader,
) -> Result<Option<Instant>, Problem> {
    if !context.present.any(Present::CONTENT_TYPE) {
        return Ok(None);
    }
    let headers = &request.headers;
    let grpc = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/grpc");
    if !headers.get(header::CONTENT_TYPE).is_some_and(grpc) {
        return Ok(None);
    }
    let mut fields = headers.get_all(&GRPC_TIMEOUT).iter();
    let Some(field) = fields.next() else {
        return Ok(None);
    };
    match grpc_timeout::parse(field.as_bytes()) {
        // what is longer than any clock is no bound
        Some(time) if fields.next().is_none() => Ok(context.started.checked_add(time)),
        _ => Err(Kind::RequestGrpcTimeout.into()),
    }
}

/// When the credential ends, where what is open then ends with it, by the clock of timers.
fn closes(context: &RequestContext) -> Option<Instant> {
    let at = context.facts.as_ref()?.closes_at?;
    let left = at.duration_since(SystemTime::now()).unwrap_or_default();
    // what ends later than any clock says does not
    Instant::now().checked_add(left)
}

/// The sooner of two moments, either of which may be never.
pub fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// What the route's rewrite makes of the target. Found before an endpoint is chosen: what can't be sent on is the
/// client's mistake, and costs nobody a connection.
pub fn rewritten(
    route: &Route,
    context: &RequestContext,
    request: &RequestHeader,
) -> Result<Option<Uri>, Problem> {
    let (Some(rewrite), Some(view)) = (&route.rewrite, context.view(request)) else {
        return Ok(None);
    };
    let target: Uri = rewrite.target(view)?.parse().map_err(|error| {
        Problem::new(Kind::RequestPath).source(format!("after the rewrite: {error}"))
    })?;
    if route.rechecks {
        let mut head = request.clone();
        head.set_uri(target.clone());
        let rewritten = View {
            request: &head,
            ..view
        };
        // as if the path were not there: nobody asked for a way round
        let refused =
            |why| Problem::new(Kind::RouteNone).source(format!("after the rewrite {why}"));
        match context.snapshot.bypass(route, view, rewritten) {
            None => {}
            Some(Bypass::Guard(asked, kind)) => {
                let why = format!("it is a request for route `{asked}`, which `{kind}` guards");
                return Err(refused(why));
            }
            Some(Bypass::Ambiguous) => {
                let why = "its path has parameters that other servers would cut off";
                return Err(refused(why.to_owned()));
            }
        }
    }
    Ok(Some(target))
}

fn service_for(
    route: &Route,
    context: &RequestContext,
    request: &RequestHeader,
) -> Result<Arc<Service>, Problem> {
    let Target::Upstream(upstream) = &route.target else {
        return Err(Problem::new(Kind::Internal).source("a route without a service was forwarded"));
    };
    let view = context.view(request);
    let service = view.and_then(|view| upstream.service_for(view));
    service.cloned().ok_or_else(|| {
        Problem::new(Kind::UpstreamNone).source("no arm of the split takes the request")
    })
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Whether the answer may be silent for long: event streams and gRPC.
fn expects_stream(headers: &HeaderMap) -> bool {
    let starts = |name, what: &[u8]| {
        let value: Option<&HeaderValue> = headers.get(name);
        value.is_some_and(|value| value.as_bytes().starts_with(what))
    };
    starts(header::ACCEPT, b"text/event-stream")
        || starts(header::CONTENT_TYPE, b"application/grpc")
}
