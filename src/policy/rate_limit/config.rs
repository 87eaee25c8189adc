//! How `rate_limit` is written.

use crate::exchange::fact::Fact;
use crate::policy::amounts::{Cost, Outcomes, Overrides};
pub use crate::policy::key::{Before, Per};
use crate::policy::told::Style;
use crate::units::{Count, Name, OneOrMany, Rate, Spanned, Toggle};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The settings of `rate_limit`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RateLimitPolicy")]
pub struct Config {
    /// How much, and in which time, such as `100/1m`.
    pub limit: Spanned<Rate>,
    /// The fact that is counted by, or a list of facts that are counted by together. Without it, all requests count as
    /// one. A request that lacks one of them counts by its client's address. IPv6 clients count by their /64.
    #[serde(default)]
    pub by: Option<OneOrMany<Spanned<Fact>>>,
    /// `sliding_window`: never more than the limit in any window, in constant memory. `token_bucket`: exact, with
    /// `burst`.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// How much is there at once after a pause, with `token_bucket`: the whole limit by default.
    #[serde(default)]
    pub burst: Option<Spanned<Count>>,
    /// What a request costs: 1 by default; a number, or numbers by method, and `default` for the others.
    #[serde(default)]
    pub cost: Cost,
    /// A store of `stores`: all gateways that have it count together.
    #[serde(default)]
    pub store: Option<Spanned<Name>>,
    /// The store is asked for each request, which waits for the answer. By default a gateway takes units of it in advance.
    #[serde(default)]
    pub exact: Option<Spanned<Toggle>>,
    /// How many keys are expected in a window: memory is made for them. 10,000 by default.
    #[serde(default)]
    pub keys: Option<Spanned<Count>>,
    /// Other limits for some keys: a map, or `{file}` with a key and a limit in each line. Keys of several facts are
    /// written with commas between them.
    #[serde(default)]
    pub limits: Overrides<Rate>,
    /// Keys that are not limited; of client addresses, networks.
    #[serde(default)]
    pub exempt: Option<OneOrMany<Spanned<Box<str>>>>,
    /// `auth`: it acts before credentials are looked at.
    #[serde(default)]
    pub before: Option<Before>,
    /// `route`: each route has counters of its own.
    #[serde(default)]
    pub per: Option<Per>,
    /// Only requests that were answered so count, and only then: such as `{status: [401, 403]}` against guessing.
    #[serde(default)]
    pub count: Option<Outcomes>,
    /// The fields that tell clients where they stand.
    #[serde(default)]
    pub headers: Style,
}

/// How requests are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "RateLimitAlgorithm")]
pub enum Algorithm {
    #[default]
    SlidingWindow,
    TokenBucket,
}
