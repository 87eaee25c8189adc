//! How `quota` is written.

use crate::exchange::fact::Fact;
use crate::limit::quota::Unit;
use crate::policy::amounts::{Cost, Outcomes, Overrides};
use crate::policy::key::Per;
use crate::policy::told::Style;
use crate::units::{Count, Duration, Invalid, Name, OneOrMany, Spanned, Toggle};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// The settings of `quota`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "QuotaPolicy")]
pub struct Config {
    /// How much, and in which period: `1M/month`, `10000/day` or `500/hour`.
    pub limit: Spanned<Allowance>,
    /// The fact that is counted by, or a list of facts that are counted by together: `consumer` by default. A request that
    /// lacks one of them counts by its client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<OneOrMany<Spanned<Fact>>>,
    /// The period is the hour, day or 30 days before each request, in place of those of a calendar. Off by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<Spanned<Toggle>>,
    /// Where days and months of the calendar begin, such as `Europe/Berlin`: `UTC` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Spanned<String>>,
    /// What a request costs: 1 by default; a number, or numbers by method, and `default` for the others.
    #[serde(default)]
    pub cost: Cost,
    /// Only requests that were answered so count, and only then: such as `{status: 200-299}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<Outcomes>,
    /// Other amounts for some keys, in the same period: `{acme: 5M}`, or `{file}` with a key and an amount in each line.
    /// Keys of several facts are written with commas between them.
    #[serde(default, skip_serializing_if = "Overrides::is_empty")]
    pub limits: Overrides<Count>,
    /// Keys that are not limited; of client addresses, networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exempt: Option<OneOrMany<Spanned<Box<str>>>>,
    /// `route`: each route has counts of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Per>,
    /// How many keys have counts of their own: 100,000 by default. Those beyond share one, and are refused too early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Spanned<Count>>,
    /// A store of `stores`: all gateways that have it count together, and each request asks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Spanned<Name>>,
    /// When counts are on the disk: `every 1s`, the default, which is what a process that is killed forgets; or `always`,
    /// before the request goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<Spanned<Sync>>,
    /// The fields that tell clients where they stand.
    #[serde(default)]
    pub headers: Style,
}

/// So much in a period: `1M/month`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Allowance {
    pub count: Count,
    pub unit: Unit,
}

impl FromStr for Allowance {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let example = "such as `1M/month`, `10000/day` or `500/hour`";
        let invalid = || Invalid::new(format!("`{text}` is not a quota")).hint(example);
        let (count, unit) = text.split_once('/').ok_or_else(invalid)?;
        let unit = match unit {
            "hour" => Unit::Hour,
            "day" => Unit::Day,
            "month" => Unit::Month,
            "minute" | "second" | "1s" | "1m" => {
                return Err(Invalid::new(format!(
                    "a quota is for an `hour`, a `day` or a `month`, not for `{unit}`"
                ))
                .hint("`rate_limit` is for shorter times"));
            }
            _ => return Err(invalid()),
        };
        Ok(Self {
            count: count.parse()?,
            unit,
        })
    }
}

impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Hour => "hour",
            Unit::Day => "day",
            Unit::Month => "month",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

/// When counts are on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    Every(Duration),
    Always,
}

impl FromStr for Sync {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "always" {
            return Ok(Sync::Always);
        }
        let every = text.strip_prefix("every ").ok_or_else(|| {
            Invalid::new(format!("`{text}` says no time")).hint("`every 1s`, or `always`")
        })?;
        every.trim().parse().map(Sync::Every)
    }
}

impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sync::Always => f.write_str("always"),
            Sync::Every(time) => write!(f, "every {time}"),
        }
    }
}

/// Reads and writes a type by its text.
macro_rules! as_text {
    ($type:ty, $name:literal, $pattern:literal, $examples:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Cow::<'de, str>::deserialize(deserializer)?
                    .parse()
                    .map_err(D::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                schemars::json_schema!({"type": "string", "pattern": $pattern, "examples": $examples})
            }
        }
    };
}

as_text!(
    Allowance,
    "QuotaAllowance",
    "^[0-9]+[kM]?/(hour|day|month)$",
    ["1M/month", "10000/day"]
);
as_text!(
    Sync,
    "QuotaSync",
    "^(always|every .+)$",
    ["every 1s", "always"]
);
