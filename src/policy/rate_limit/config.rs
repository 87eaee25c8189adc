//! How `rate_limit` is written.

use crate::exchange::fact::Fact;
pub use crate::policy::key::{Before, Per};
use crate::units::{
    Count, FileText, Invalid, MethodText, Name, OneOrMany, Rate, Span, Spanned, StatusRange, Toggle,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

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
    pub limits: Overrides,
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

/// The fields that tell clients where they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "RateLimitHeaders")]
pub enum Style {
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11).
    #[default]
    Standard,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, in seconds from now.
    Legacy,
    Off,
}

/// Which requests count.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RateLimitOutcomes")]
pub struct Outcomes {
    /// Statuses of answers, such as `401` or `500-599`.
    pub status: OneOrMany<StatusRange>,
}

/// What requests cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    pub by_method: Vec<(MethodText, u32)>,
    pub others: u32,
}

impl Default for Cost {
    fn default() -> Self {
        Self {
            by_method: Vec::new(),
            others: 1,
        }
    }
}

impl<'de> Deserialize<'de> for Cost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = Cost;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or numbers by method")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Cost, E> {
                Ok(Cost {
                    others: whole(number).map_err(E::custom)?,
                    ..Cost::default()
                })
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Cost, E> {
                self.visit_str(&number.to_string())
            }

            // plain scalars are texts
            fn visit_str<E: Error>(self, text: &str) -> Result<Cost, E> {
                let number = text.parse::<u64>();
                self.visit_u64(number.map_err(|_| {
                    E::custom(format!(
                        "`{text}` is not a cost\nhint: a whole number from 0, or numbers by method"
                    ))
                })?)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cost, A::Error> {
                let mut cost = Cost::default();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    let number = whole(map.next_value()?).map_err(A::Error::custom)?;
                    if key == "default" {
                        cost.others = number;
                        continue;
                    }
                    let method = key.parse::<MethodText>().map_err(A::Error::custom)?;
                    cost.by_method.push((method, number));
                }
                Ok(cost)
            }
        }

        deserializer.deserialize_any(Form)
    }
}

fn whole(number: u64) -> Result<u32, String> {
    u32::try_from(number).map_err(|_| format!("`{number}` is too much for one request"))
}

impl Serialize for Cost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.by_method.is_empty() {
            return self.others.serialize(serializer);
        }
        let methods = self.by_method.iter();
        let methods = methods.map(|(method, cost)| (method.to_string(), cost));
        let all = methods.chain([("default".to_owned(), &self.others)]);
        serializer.collect_map(all)
    }
}

impl JsonSchema for Cost {
    fn schema_name() -> Cow<'static, str> {
        "RateLimitCost".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let number = serde_json::json!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
        schemars::json_schema!({
            "anyOf": [number, {"type": "object", "additionalProperties": number}]
        })
    }
}

/// Limits of some keys.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// By key, with the place where it is written, unless that is a file.
    pub all: BTreeMap<Box<str>, Spanned<Rate>>,
    file: Option<FileText>,
}

/// The long form.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RateLimitFile")]
struct Written {
    /// A file with a key and a limit in each line, such as `acme 1000/1s`; `#` begins a comment.
    file: FileText,
}

impl TryFrom<FileText> for Overrides {
    type Error = Invalid;

    fn try_from(file: FileText) -> Result<Self, Invalid> {
        let shown = file.path.display();
        let text = std::str::from_utf8(&file.text)
            .map_err(|_| Invalid::new(format!("`{shown}` is not UTF-8")))?;
        let mut all = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let at = |message: String| format!("{shown}:{}: {message}", index + 1);
            let Some((key, rate)) = line.rsplit_once(char::is_whitespace) else {
                return Err(Invalid::new(at(format!("`{line}` lacks a limit")))
                    .hint("a key and a limit in each line, such as `acme 1000/1s`"));
            };
            let rate = rate.parse().map_err(|invalid: Invalid| Invalid {
                message: at(invalid.message),
                hint: invalid.hint,
            })?;
            let (key, rate) = (key.trim_end(), Spanned::new(rate, Span::default()));
            if all.insert(key.into(), rate).is_some() {
                return Err(Invalid::new(at(format!("`{key}` has a limit already"))));
            }
        }
        Ok(Self {
            all,
            file: Some(file),
        })
    }
}

impl<'de> Deserialize<'de> for Overrides {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = Overrides;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("limits by key, or `{file: …}`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Overrides, A::Error> {
                let mut all = BTreeMap::new();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    if key == "file" && all.is_empty() {
                        let first = serde::de::value::CowStrDeserializer::new(key);
                        let written = First {
                            first: Some(first),
                            map,
                        };
                        let written = Written::deserialize(MapAccessDeserializer::new(written))?;
                        return Overrides::try_from(written.file).map_err(A::Error::custom);
                    }
                    all.insert(key.into(), map.next_value()?);
                }
                Ok(Overrides { all, file: None })
            }
        }

        deserializer.deserialize_any(Form)
    }
}

/// A map whose first key has been read already.
struct First<'de, A: MapAccess<'de>> {
    first: Option<serde::de::value::CowStrDeserializer<'de, A::Error>>,
    map: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for First<'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        match self.first.take() {
            Some(first) => seed.deserialize(first).map(Some),
            None => self.map.next_key_seed(seed),
        }
    }

    fn next_value_seed<V: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

impl Serialize for Overrides {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.file {
            Some(file) => Written { file: file.clone() }.serialize(serializer),
            None => serializer.collect_map(self.all.iter().map(|(key, rate)| (key, rate.value()))),
        }
    }
}

impl JsonSchema for Overrides {
    fn schema_name() -> Cow<'static, str> {
        "RateLimitOverrides".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rate = generator.subschema_for::<Rate>();
        let file = generator.subschema_for::<Written>();
        schemars::json_schema!({
            "anyOf": [file, {"type": "object", "additionalProperties": rate}]
        })
    }
}
