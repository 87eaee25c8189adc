//! What is counted of issuers: how often their keys were asked for, how many there are, how old they are.

use super::sharded::Counter;
use super::text::{Kind, Text};
use crate::state::monotonic_nanos;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is counted of one issuer.
pub struct IssuerMetrics {
    labels: Arc<str>,
    succeeded: Counter,
    failed: Counter,
    keys: AtomicU64,
    /// Monotonic nanoseconds; 0 before the first good fetch.
    fetched_at: AtomicU64,
}

impl IssuerMetrics {
    pub(super) fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            succeeded: Counter::default(),
            failed: Counter::default(),
            keys: AtomicU64::new(0),
            fetched_at: AtomicU64::new(0),
        }
    }

    /// Counts one fetch of the keys.
    pub fn refreshed(&self, succeeded: bool) {
        match succeeded {
            true => self.succeeded.increment(),
            false => self.failed.increment(),
        }
    }

    /// Says how many keys there are, and when they were last fetched, in nanoseconds of the monotonic clock.
    pub fn has(&self, keys: usize, fetched_at: u64) {
        self.keys.store(keys as u64, Relaxed);
        self.fetched_at.store(fetched_at, Relaxed);
    }
}

/// What became of a question about a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Introspected {
    Active,
    Inactive,
    /// There was no answer, or none that says anything.
    Failed,
}

/// What is counted of one policy that asks about tokens.
pub struct IntrospectionMetrics {
    labels: Arc<str>,
    questions: [Counter; 3],
}

impl IntrospectionMetrics {
    pub(super) fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            questions: Default::default(),
        }
    }

    /// Counts a question.
    pub fn introspected(&self, result: Introspected) {
        if let Some(counter) = self.questions.get(result as usize) {
            counter.increment();
        }
    }
}

/// What becomes of logins in browsers, and of the sessions that come of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginEvent {
    Begun,
    Finished,
    /// It came back, and did not count.
    Failed,
    Renewed,
    /// The provider could not be asked.
    RenewalFailed,
    /// The provider takes the session for over.
    RenewalRefused,
    LoggedOut,
}

/// What is counted of one policy that logs browsers in.
pub struct LoginMetrics {
    labels: Arc<str>,
    events: [Counter; 7],
}

impl LoginMetrics {
    pub(super) fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            events: Default::default(),
        }
    }

    /// Counts an event.
    pub fn happened(&self, event: LoginEvent) {
        if let Some(counter) = self.events.get(event as usize) {
            counter.increment();
        }
    }
}

pub(super) fn write_logins(policies: &[Arc<LoginMetrics>], text: &mut Text) {
    let name = "northgate_browser_logins_total";
    text.family(
        name,
        Kind::Counter,
        "What became of logins in browsers and of their sessions, by event.",
    );
    let events = [
        "begun",
        "finished",
        "failed",
        "renewed",
        "renewal_failed",
        "renewal_refused",
        "logged_out",
    ];
    for policy in policies {
        for (event, counter) in events.iter().zip(&policy.events) {
            let labels = format!("{},event=\"{event}\"", policy.labels);
            text.sample(name, &labels, counter.value());
        }
    }
}

pub(super) fn write_introspections(policies: &[Arc<IntrospectionMetrics>], text: &mut Text) {
    let name = "northgate_introspections_total";
    text.family(
        name,
        Kind::Counter,
        "Questions about tokens to authorisation servers, by their result.",
    );
    for policy in policies {
        for (result, counter) in ["active", "inactive", "failed"]
            .iter()
            .zip(&policy.questions)
        {
            let labels = format!("{},result=\"{result}\"", policy.labels);
            text.sample(name, &labels, counter.value());
        }
    }
}

pub(super) fn write(issuers: &[Arc<IssuerMetrics>], text: &mut Text) {
    let name = "northgate_issuer_refreshes_total";
    text.family(
        name,
        Kind::Counter,
        "Fetches of the keys of an issuer, by their result.",
    );
    for issuer in issuers {
        for (result, counter) in [("success", &issuer.succeeded), ("failure", &issuer.failed)] {
            let labels = format!("{},result=\"{result}\"", issuer.labels);
            text.sample(name, &labels, counter.value());
        }
    }
    let name = "northgate_issuer_keys";
    text.family(
        name,
        Kind::Gauge,
        "Keys of an issuer that tokens are verified with.",
    );
    for issuer in issuers {
        text.sample(name, &issuer.labels, issuer.keys.load(Relaxed));
    }
    let name = "northgate_issuer_keys_age_seconds";
    text.family(
        name,
        Kind::Gauge,
        "Time since the keys of an issuer were last fetched.",
    );
    for issuer in issuers {
        let at = issuer.fetched_at.load(Relaxed);
        if at > 0 {
            let age = monotonic_nanos().saturating_sub(at) / 1_000_000_000;
            text.sample(name, &issuer.labels, age);
        }
    }
}
