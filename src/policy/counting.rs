//! How an operator looks at what a policy counts, and lets a key begin anew.

use std::time::Duration;

/// A policy that counts by key.
///
/// Keys say who calls: they are in no answer, log or metric.
pub trait Counting: Send + Sync {
    fn overview(&self) -> Overview;

    /// Where a key stands; without one, where all requests stand that count as one.
    ///
    /// # Errors
    /// That is no key of it; says what is, as a sentence.
    fn standing(&self, key: Option<&str>, route: Option<&str>) -> Result<Standing, String>;

    /// Lets a key begin anew. No other key counts less for it.
    ///
    /// # Errors
    /// It can't be.
    fn reset(&self, key: Option<&str>, route: Option<&str>) -> Result<(), NotReset>;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    pub algorithm: &'static str,
    /// Such as `100/1m`.
    pub limit: String,
    pub burst: Option<u64>,
    /// The facts that make a key.
    pub by: Vec<String>,
    pub per_route: bool,
    /// Keys that memory is made for.
    pub keys: u64,
    /// Taken by now.
    pub bytes: u64,
    /// Taken at most.
    pub bytes_max: u64,
}

/// Where a key stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Such as `100/1m`: some keys have their own.
    pub limit: String,
    pub burst: Option<u64>,
    /// In the window; a bucket counts nothing.
    pub counted: Option<u64>,
    pub remaining: u64,
    /// Until more is left; of a bucket that is not empty, until it is full.
    pub more_after: Option<Duration>,
    /// It is not limited.
    pub exempt: bool,
}
