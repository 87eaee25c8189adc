//! `mirror`: sends copies of a share of the requests to another service, and drops what it answers: to try a new
//! version with the load of the old one.
//!
//! The copy is what the endpoint of the route gets: method, target, fields (credentials included, since they are what
//! the service is asked with) and body, marked with `x-mirror: 1`. It is sent once the request is complete, in the
//! background; nothing that becomes of it is seen by the client, or waited for. As many copies as `in_flight` says are
//! under way at a time, each within `timeout`; what is beyond that is not copied, and counted. None is made while the
//! gateway has too much to do ([`crate::limit::overload`]). Not copied at all are bodies above `body_limit`, gRPC, upgrades, copies, and what goes to that service anyway.
//!
//! ```yaml
//! policies:
//!   mirror: {service: shadow, share: 10%, body_limit: 64KiB, timeout: 5s, in_flight: 100}
//! services:
//!   shadow: {endpoints: 10.0.0.9:8080}
//! ```

pub(super) mod send;

use super::{BodyTap, CompileContext, Hooks, OnRequestBody, Policy, Stage};
use crate::diagnostic::Diagnostic;
use crate::exchange::View;
use crate::limit::overload::Level;
use crate::observe::metrics::{MirrorMetrics, Mirrored};
use crate::observe::random;
use crate::state::Kept;
use crate::units::{ByteSize, Duration, Name, Ratio, Spanned};
use crate::upstream::Service;
use crate::upstream::proxy_protocol::Parties;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, header};
use pingora_http::RequestHeader;
use schemars::JsonSchema;
use send::{Copy, Outbound};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What marks a copy.
static X_MIRROR: HeaderName = HeaderName::from_static("x-mirror");

/// Where nothing is written.
const BODY_LIMIT: ByteSize = ByteSize(64 * 1024);
const TIMEOUT: Duration = Duration::from_secs(5);
const IN_FLIGHT: u32 = 100;

/// A copy is held in memory until it is sent.
const BODY_LIMIT_MAX: ByteSize = ByteSize(16 * 1024 * 1024);
const IN_FLIGHT_MAX: u32 = 10_000;

/// See the module.
pub struct Mirror;

/// The settings of `mirror`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MirrorPolicy")]
pub struct Config {
    /// The service that gets the copies; not a split.
    pub service: Spanned<Name>,
    /// The share of requests that are copied: all by default.
    #[serde(default)]
    pub share: Option<Spanned<Ratio>>,
    /// Requests with larger bodies are not copied: 64 KiB by default, 16 MiB at most.
    #[serde(default)]
    pub body_limit: Option<Spanned<ByteSize>>,
    /// How long sending a copy and reading its answer may take together: 5 s by default.
    #[serde(default)]
    pub timeout: Option<Spanned<Duration>>,
    /// The most copies that are collected and under way at a time: 100 by default, 10,000 at most.
    #[serde(default)]
    pub in_flight: Option<Spanned<u32>>,
}

impl Policy for Mirror {
    type Config = Config;
    const STAGE: Stage = Stage::Transform;
    // shadow must not send anything
    const ALTERS: bool = true;

    fn compile(config: &Config, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic> {
        config.check()?;
        let Some(service) = cx.service(&config.service)? else {
            // what is wrong with the service is said at its place
            return Ok(Hooks::new());
        };
        let in_flight = config.in_flight.as_ref().map_or(IN_FLIGHT, |count| **count);
        let places = cx.state(&in_flight, || Places::new(in_flight));
        let rules = Rules {
            share: config.share.as_ref().map_or(Ratio::ONE, |share| **share),
            body_limit: config
                .body_limit
                .as_ref()
                .map_or(BODY_LIMIT, |limit| **limit)
                .0,
            timeout: config
                .timeout
                .as_ref()
                .map_or(TIMEOUT, |timeout| **timeout)
                .0,
            places: places.0.clone(),
            outbound: cx.shared(Outbound::new),
            metrics: cx.metrics().mirror(cx.place()),
            service: service.clone(),
        };
        let tapping = Arc::new(Tapping(Arc::new(rules)));
        Ok(Hooks::new().on_request_body(tapping).beside(service))
    }
}

impl Config {
    fn check(&self) -> Result<(), Diagnostic> {
        if let Some(share) = &self.share
            && **share == Ratio::default()
        {
            return Err(
                Diagnostic::error("a share of 0% mirrors nothing", share.span())
                    .hint("to turn it off: `mirror: off`, or leave it out"),
            );
        }
        if let Some(limit) = &self.body_limit
            && **limit > BODY_LIMIT_MAX
        {
            let message = format!("`{}` is more than a copy may be", **limit);
            return Err(Diagnostic::error(message, limit.span()).hint(format!(
                "at most `{BODY_LIMIT_MAX}`: copies are held in memory"
            )));
        }
        if let Some(timeout) = &self.timeout
            && timeout.is_zero()
        {
            let message = "nothing can be mirrored in no time";
            return Err(Diagnostic::error(message, timeout.span()).hint("such as `5s`"));
        }
        match &self.in_flight {
            Some(count) if !(1..=IN_FLIGHT_MAX).contains(&**count) => {
                let message = format!("{} copies can't be in flight", **count);
                Err(Diagnostic::error(message, count.span())
                    .hint(format!("from 1 to {IN_FLIGHT_MAX}")))
            }
            _ => Ok(()),
        }
    }
}

/// The room for copies. It outlives a snapshot, so that a reload lets nobody exceed it.
struct Places(Arc<Semaphore>);

impl Places {
    fn new(count: u32) -> Self {
        Self(Arc::new(Semaphore::new(count as usize)))
    }
}

impl Kept for Places {
    fn export(&self) -> Option<serde_json::Value> {
        // copies stay with the process that sends them
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

/// Compiled settings.
struct Rules {
    service: Arc<Service>,
    share: Ratio,
    body_limit: u64,
    timeout: std::time::Duration,
    places: Arc<Semaphore>,
    outbound: Arc<Outbound>,
    metrics: Arc<MirrorMetrics>,
}

/// The rules, where requests find them.
struct Tapping(Arc<Rules>);

impl Tapping {
    /// Whether requests such as this are copied at all.
    fn takes(&self, view: View<'_>, service: &Service) -> bool {
        let headers = &view.request.headers;
        !std::ptr::eq(service, Arc::as_ptr(&self.0.service))
            && !headers.contains_key(&X_MIRROR)
            && !headers.contains_key(header::UPGRADE)
            && !is_grpc(headers)
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    value.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Whether this random number falls into the share.
fn is_chosen(share: Ratio, random: u64) -> bool {
    random::below(random, 1_000_000) < share.parts_per_million()
}

impl OnRequestBody for Tapping {
    fn on_request_body(
        &self,
        view: View<'_>,
        upstream: &RequestHeader,
        service: &Service,
    ) -> Option<Box<dyn BodyTap>> {
        let rules = &self.0;
        if !is_chosen(rules.share, random::next()) || !self.takes(view, service) {
            return None;
        }
        if announced(&upstream.headers).is_some_and(|length| length > rules.body_limit) {
            rules.metrics.mirrored(Mirrored::TooLarge);
            return None;
        }
        if view.facts.overload >= Level::Copies {
            rules.metrics.mirrored(Mirrored::Overload);
            return None;
        }
        let Ok(place) = rules.places.clone().try_acquire_owned() else {
            rules.metrics.mirrored(Mirrored::Dropped);
            return None;
        };
        Some(Box::new(Tap {
            rules: rules.clone(),
            collected: Some((Copy::new(upstream.clone(), Parties::of(view.facts)), place)),
        }))
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

/// A copy that is being collected, and the place that it takes.
struct Tap {
    rules: Arc<Rules>,
    /// None once it is sent, or given up.
    collected: Option<(Copy, OwnedSemaphorePermit)>,
}

impl BodyTap for Tap {
    fn again(&mut self) {
        if let Some((copy, _)) = &mut self.collected {
            copy.body.clear();
        }
    }

    fn piece(&mut self, piece: &[u8], end: bool) -> Option<BoxFuture<'static, ()>> {
        let (copy, _) = self.collected.as_mut()?;
        let length = copy.body.len() as u64;
        if length.saturating_add(piece.len() as u64) > self.rules.body_limit {
            self.collected = None;
            self.rules.metrics.mirrored(Mirrored::TooLarge);
            return None;
        }
        copy.body.extend_from_slice(piece);
        if !end {
            return None;
        }
        let (copy, place) = self.collected.take()?;
        let rules = self.rules.clone();
        let work = async move {
            let result = rules
                .outbound
                .send(copy, &rules.service, rules.timeout)
                .await;
            rules.metrics.mirrored(result);
            drop(place);
        };
        Some(work.boxed())
    }
}

/// A request that broke off, or was answered before it was complete.
impl Drop for Tap {
    fn drop(&mut self) {
        if self.collected.is_some() {
            self.rules.metrics.mirrored(Mirrored::Incomplete);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_kept() {
        for (percent, least, most) in [
            (1, 850, 1150),
            (50, 49_000, 51_000),
            (100, 100_000, 100_000),
        ] {
            let share = Ratio::from_percent(percent);
            let chosen = (0..100_000)
                .filter(|_| is_chosen(share, random::next()))
                .count();
            assert!((least..=most).contains(&chosen), "{chosen} at {percent} %");
        }
        assert!(!is_chosen(Ratio::default(), 0));
    }
}
