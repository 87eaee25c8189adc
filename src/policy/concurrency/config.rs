//! How `concurrency` is written.

use crate::exchange::fact::Fact;
use crate::policy::amounts::Overrides;
use crate::policy::key::{Before, Per};
use crate::units::{Count, Duration, OneOrMany, OrOn, Spanned};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The settings of `concurrency`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ConcurrencyPolicy")]
pub struct Config {
    /// How many requests may be in flight at the same time.
    pub limit: Spanned<Count>,
    /// The fact that is counted by, or a list of facts that are counted by together. Without it, all requests count as
    /// one. A request that lacks one of them counts by its client's address. IPv6 clients count by their /64.
    #[serde(default)]
    pub by: Option<OneOrMany<Spanned<Fact>>>,
    /// `route`: each route has places of its own.
    #[serde(default)]
    pub per: Option<Per>,
    /// How many may wait for a place, for each key. None by default: who finds no place is refused at once.
    #[serde(default)]
    pub queue: Option<Spanned<Count>>,
    /// How long they may wait: 1s by default.
    #[serde(default)]
    pub wait: Option<Spanned<Duration>>,
    /// Who goes first and stays longest, by plan, while there is a queue. Plans that are not named are `normal`, and so
    /// is who has none.
    #[serde(default)]
    pub priority: Option<Spanned<BTreeMap<Box<str>, Class>>>,
    /// `on`: fewer than `limit` are let in while more in flight only make answers slower.
    #[serde(default)]
    pub adaptive: Option<Spanned<OrOn<Adaptive>>>,
    /// Other limits for some keys: a map, or `{file}` with a key and a limit in each line. Keys of several facts are
    /// written with commas between them.
    #[serde(default)]
    pub limits: Overrides<Count>,
    /// Keys that are not limited; of client addresses, networks.
    #[serde(default)]
    pub exempt: Option<OneOrMany<Spanned<Box<str>>>>,
    /// `auth`: it acts before credentials are looked at.
    #[serde(default)]
    pub before: Option<Before>,
}

/// Whose turn it is first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ConcurrencyClass")]
#[repr(u8)]
pub enum Class {
    Low,
    Normal,
    High,
}

/// How the limit is found.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ConcurrencyAdaptive")]
pub struct Adaptive {
    /// How many are let in however slow answers are: 4 by default.
    #[serde(default)]
    pub min: Option<Spanned<Count>>,
    /// How many are let in before anything is known: 20 by default.
    #[serde(default)]
    pub initial: Option<Spanned<Count>>,
}
