//! What limits of several kinds have in common in how they are written: what requests cost, which of them count, and other
//! amounts for some keys.

use crate::units::{
    Count, FileText, Invalid, MethodText, OneOrMany, Rate, Span, Spanned, StatusRange,
};
use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

/// Which requests count.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LimitOutcomes")]
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
        "LimitCost".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let number = serde_json::json!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
        schemars::json_schema!({
            "anyOf": [number, {"type": "object", "additionalProperties": number}]
        })
    }
}

/// What requests cost, by method.
pub struct Costs {
    by_method: Vec<(Method, u64)>,
    others: u64,
}

impl Costs {
    pub fn new(cost: &Cost) -> Self {
        let by_method = cost.by_method.iter();
        let by_method = by_method.map(|(method, cost)| (method.method().clone(), u64::from(*cost)));
        let mut by_method: Vec<_> = by_method.collect();
        // as where routes are chosen, GET covers HEAD
        let of = |wanted: Method| by_method.iter().find(|(method, _)| *method == wanted);
        if let (Some((_, cost)), None) = (of(Method::GET), of(Method::HEAD)) {
            by_method.push((Method::HEAD, *cost));
        }
        Self {
            by_method,
            others: cost.others.into(),
        }
    }

    pub fn of(&self, method: &Method) -> u64 {
        let own = self.by_method.iter().find(|(known, _)| known == method);
        own.map_or(self.others, |(_, cost)| *cost)
    }
}

/// An amount that stands beside a key, such as `1000/1s`.
pub trait Amount: FromStr<Err = Invalid> + JsonSchema + Serialize {
    /// What files and short forms are called in the schema.
    const NAME: &'static str;
    const EXAMPLE: &'static str;
}

impl Amount for Rate {
    const NAME: &'static str = "RateLimitOverrides";
    const EXAMPLE: &'static str = "acme 1000/1s";
}

impl Amount for Count {
    const NAME: &'static str = "QuotaOverrides";
    const EXAMPLE: &'static str = "acme 5M";
}

/// Limits of some keys.
#[derive(Clone, Debug)]
pub struct Overrides<T> {
    /// By key, with the place where it is written, unless that is a file.
    pub all: BTreeMap<Box<str>, Spanned<T>>,
    file: Option<FileText>,
}

impl<T> Default for Overrides<T> {
    fn default() -> Self {
        Self {
            all: BTreeMap::new(),
            file: None,
        }
    }
}

impl<T> Overrides<T> {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.file.is_none()
    }
}

/// The long form.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LimitFile")]
struct Written {
    /// A file with a key and a limit in each line, such as `acme 1000/1s`; `#` begins a comment.
    file: FileText,
}

impl<T: Amount> TryFrom<FileText> for Overrides<T> {
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
                return Err(
                    Invalid::new(at(format!("`{line}` lacks a limit"))).hint(format!(
                        "a key and a limit in each line, such as `{}`",
                        T::EXAMPLE
                    )),
                );
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

impl<'de, T: Amount + Deserialize<'de>> Deserialize<'de> for Overrides<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form<T>(PhantomData<T>);

        impl<'de, T: Amount + Deserialize<'de>> Visitor<'de> for Form<T> {
            type Value = Overrides<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("limits by key, or `{file: …}`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Overrides<T>, A::Error> {
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

        deserializer.deserialize_any(Form(PhantomData))
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

impl<T: Serialize> Serialize for Overrides<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.file {
            Some(file) => Written { file: file.clone() }.serialize(serializer),
            None => serializer.collect_map(self.all.iter().map(|(key, rate)| (key, rate.value()))),
        }
    }
}

impl<T: Amount> JsonSchema for Overrides<T> {
    fn schema_name() -> Cow<'static, str> {
        T::NAME.into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rate = generator.subschema_for::<T>();
        let file = generator.subschema_for::<Written>();
        schemars::json_schema!({
            "anyOf": [file, {"type": "object", "additionalProperties": rate}]
        })
    }
}
