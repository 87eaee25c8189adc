//! How an operator looks at what a policy counts, and lets a key begin anew: what is shown is what the admin API says.

use crate::exchange::View;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// A policy that counts by key.
///
/// Keys say who calls: they are in no answer, log or metric.
pub trait Counting: Send + Sync {
    fn overview(&self) -> Overview;

    /// Where a key stands; without one, where all requests stand that count as one.
    ///
    /// # Errors
    /// That is no key of it; says what is, as a sentence.
    fn standing(&self, key: Option<&str>, route: Option<&str>) -> Result<KeyStatus, String>;

    /// Lets a key begin anew. No other key counts less for it.
    ///
    /// # Errors
    /// It can't be.
    fn reset(&self, key: Option<&str>, route: Option<&str>) -> Result<(), NotReset>;

    /// Lets a key use more until its period is over.
    ///
    /// # Errors
    /// That is no key of it, or it is no quota.
    fn grant(
        &self,
        _key: Option<&str>,
        _route: Option<&str>,
        _amount: u64,
    ) -> Result<(), NotReset> {
        let message = "what it counts is not bought: another `limit` in `limits` is for good";
        Err(NotReset::NoKey(message.to_owned()))
    }

    /// Waits until what has changed outlives the process, where it ever does; whether it does.
    fn is_written(&self) -> BoxFuture<'static, bool> {
        Box::pin(std::future::ready(true))
    }

    /// The key of a request, as an operator writes it; none where keys are numbers, or the request lacks what is counted by.
    fn key_of(&self, _view: View<'_>) -> Option<String> {
        None
    }

    /// Brings its metrics up to date.
    fn measure(&self);
}

/// Why a key does not begin anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReset {
    /// That is no key.
    NoKey(String),
    /// Too much counts at the moment to tell this key from others.
    Full,
    /// The store that counts it does not answer.
    Away,
}

/// What a policy counts, and what it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    /// `sliding_window` or `token_bucket`; of a quota, its period: `calendar` with its zone, or `rolling`.
    pub algorithm: String,
    /// Such as `100/1m`.
    pub limit: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// The facts that make a key; none if all requests count as one.
    pub by: Vec<String>,
    /// Whether each route counts for itself.
    pub per_route: bool,
    /// Keys that memory is made for.
    pub keys: u64,
    /// Memory that is taken by now.
    pub bytes: u64,
    /// Memory that is taken at most.
    pub bytes_max: u64,
    /// Of a quota: when counts are on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<String>,
    /// The store in which gateways count together, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<SharedIn>,
}

/// How gateways count together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedIn {
    pub name: String,
    /// Whether the store is asked for each request.
    pub exact: bool,
    /// How much more than the limit may get through in a window for each gateway, while the store answers.
    pub overshoot_per_gateway: u64,
    /// The same for all gateways together: what a bucket gets back while a lease lives.
    pub overshoot_besides: u64,
    /// Whether it answers.
    pub up: bool,
    /// Gateways that share it, as far as it has said.
    pub gateways: u64,
}

/// Where a key of a limit stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// Such as `100/1m`: some keys have their own.
    pub limit: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// What counts in the window, by the estimate; none of a bucket.
    pub counted: Option<u64>,
    pub remaining: u64,
    /// Until more is left, rounded up; of a bucket that is not empty, until it is full; none if nothing counts.
    pub more_after_seconds: Option<u64>,
    /// It is not limited.
    pub exempt: bool,
    /// The store that counts it does not answer: this is what counts here meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub away: bool,
    /// Of a quota: what it has been given beside its limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<u64>,
    /// Of a quota: when all of it is there again, as far as nothing is used meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_at: Option<String>,
}
