//! How an operator looks at what a policy counts, and lets a key begin anew: what is shown is what the admin API says.

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
    /// Of a quota: what it has been given beside its limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<u64>,
    /// Of a quota: when all of it is there again, as far as nothing is used meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_at: Option<String>,
}
