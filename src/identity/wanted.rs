//! What a claim has to hold: the values of a condition, in `authorize` and in the `when` of policies.

use crate::units::{EMPTY_LIST, OneOrMany};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt::{self, Write};

/// Values, and how many of them are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// As it is usual for what they are values of.
    Plain(Vec<String>),
    Any(Vec<String>),
    All(Vec<String>),
}

impl Wanted {
    pub fn values(&self) -> &[String] {
        match self {
            Wanted::Plain(values) | Wanted::Any(values) | Wanted::All(values) => values,
        }
    }

    /// Whether a claim holds one of the values, or all of those under `all`. It may be a text, a number, a list or a text
    /// of words. Nothing is allocated.
    pub fn is_held_by(&self, claim: &Value) -> bool {
        self.any_by_default(|value| holds(claim, value))
    }

    pub fn any_by_default(&self, holds: impl Fn(&str) -> bool) -> bool {
        match self {
            Wanted::Plain(values) | Wanted::Any(values) => values.iter().any(|value| holds(value)),
            Wanted::All(values) => values.iter().all(|value| holds(value)),
        }
    }

    pub fn all_by_default(&self, holds: impl Fn(&str) -> bool) -> bool {
        match self {
            Wanted::Any(values) => values.iter().any(|value| holds(value)),
            Wanted::Plain(values) | Wanted::All(values) => values.iter().all(|value| holds(value)),
        }
    }
}

/// Whether a claim is that value, has it in its list, or has it among its words.
fn holds(claim: &Value, value: &str) -> bool {
    match claim {
        Value::String(text) => text == value || text.split(' ').any(|word| word == value),
        Value::Bool(_) | Value::Number(_) => is_written(claim, value),
        Value::Array(members) => members.iter().any(|member| match member {
            Value::String(text) => text == value,
            Value::Bool(_) | Value::Number(_) => is_written(member, value),
            _ => false,
        }),
        Value::Null | Value::Object(_) => false,
    }
}

/// Whether a number or a truth value is written so.
fn is_written(value: &Value, text: &str) -> bool {
    let mut rest = Rest(text);
    write!(rest, "{value}").is_ok() && rest.0.is_empty()
}

/// What is left of a text that is compared while another one is written.
struct Rest<'t>(&'t str);

impl Write for Rest<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(part).ok_or(fmt::Error)?;
        Ok(())
    }
}

/// The long form.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "AnyOrAll")]
enum Long {
    Any(OneOrMany<String>),
    All(OneOrMany<String>),
}

/// The short form is one value or a list, instead of `{any: …}` or `{all: …}`.
impl<'de> Deserialize<'de> for Wanted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = Wanted;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, a list of values, `{any: …}` or `{all: …}`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Wanted, E> {
                Ok(Wanted::Plain(vec![text.to_owned()]))
            }

            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Wanted, E> {
                Ok(Wanted::Plain(vec![value.to_string()]))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Wanted, E> {
                Ok(Wanted::Plain(vec![value.to_string()]))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Wanted, E> {
                Ok(Wanted::Plain(vec![value.to_string()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Wanted, A::Error> {
                // what is left of `OneOrMany` without its own deserializer does not look for this
                let values: Vec<String> = Vec::deserialize(SeqAccessDeserializer::new(seq))?;
                match values.is_empty() {
                    true => Err(serde::de::Error::custom(EMPTY_LIST)),
                    false => Ok(Wanted::Plain(values)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Wanted, A::Error> {
                Ok(match Long::deserialize(MapAccessDeserializer::new(map))? {
                    Long::Any(values) => Wanted::Any(values.0),
                    Long::All(values) => Wanted::All(values.0),
                })
            }
        }

        deserializer.deserialize_any(Form)
    }
}

impl Serialize for Wanted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Wanted::Plain(values) => match &**values {
                [one] => one.serialize(serializer),
                values => values.serialize(serializer),
            },
            Wanted::Any(values) => Long::Any(OneOrMany(values.clone())).serialize(serializer),
            Wanted::All(values) => Long::All(OneOrMany(values.clone())).serialize(serializer),
        }
    }
}

impl JsonSchema for Wanted {
    fn schema_name() -> Cow<'static, str> {
        "WantedValues".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = generator.subschema_for::<OneOrMany<String>>();
        let long = generator.subschema_for::<Long>();
        schemars::json_schema!({"anyOf": [short, {"type": ["boolean", "integer"]}, long]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wanted(value: Value) -> Wanted {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn values_are_written_as_they_are_read() {
        for value in [
            json!("a"),
            json!(["a", "b"]),
            json!({"any": ["a", "b"]}),
            json!({"all": ["a", "b"]}),
        ] {
            assert_eq!(serde_json::to_value(wanted(value.clone())).unwrap(), value);
        }
        assert_eq!(wanted(json!(7)), wanted(json!("7")));
        assert!(serde_json::from_value::<Wanted>(json!([])).is_err());
        assert!(serde_json::from_value::<Wanted>(json!({"some": "a"})).is_err());
    }

    #[test]
    fn claims_of_every_kind_hold_values() {
        for (claim, value, holds) in [
            (json!("gold"), json!("gold"), true),
            (json!("gold"), json!("Gold"), false),
            (json!("read write"), json!("write"), true),
            (json!("read write"), json!("read write"), true),
            (json!("readwrite"), json!("read"), false),
            (json!(true), json!(true), true),
            (json!(true), json!("false"), false),
            (json!(12), json!(12), true),
            (json!(12), json!("1"), false),
            (json!(1), json!("12"), false),
            (json!(-0.5), json!("-0.5"), true),
            (json!(["a", 2, false]), json!(["x", "2"]), true),
            (json!(["a b"]), json!("a"), false),
            (json!(["a", "b"]), json!({"all": ["a", "b"]}), true),
            (json!(["a", "b"]), json!({"all": ["a", "c"]}), false),
            (json!(null), json!("null"), false),
            (json!({"a": 1}), json!("a"), false),
            (json!([["a"]]), json!("a"), false),
        ] {
            assert_eq!(
                wanted(value.clone()).is_held_by(&claim),
                holds,
                "{claim} {value}"
            );
        }
    }
}
