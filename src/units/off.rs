//! What can be switched off in so many words.

use super::protocol;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// `on` or `off`; `true` and `false` are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Toggle(pub bool);

impl Toggle {
    pub const ON: Toggle = Toggle(true);
    pub const OFF: Toggle = Toggle(false);

    pub fn is_on(self) -> bool {
        self.0
    }
}

impl<'de> Deserialize<'de> for Toggle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;

        impl Visitor<'_> for Word {
            type Value = Toggle;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`on` or `off`")
            }

            fn visit_bool<E: Error>(self, on: bool) -> Result<Toggle, E> {
                Ok(Toggle(on))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Toggle, E> {
                match text {
                    "on" | "true" => Ok(Toggle::ON),
                    "off" | "false" => Ok(Toggle::OFF),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
        }

        deserializer.deserialize_any(Word)
    }
}

impl fmt::Display for Toggle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "on" } else { "off" })
    }
}

impl Serialize for Toggle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Toggle {
    fn schema_name() -> Cow<'static, str> {
        "Toggle".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "description": "`on` or `off`.",
            "enum": ["on", "off", true, false],
        })
    }
}

/// A setting, or `off`, which must be written: leaving the key out is something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OrOff<T> {
    Off,
    On(T),
}

impl<T> OrOff<T> {
    /// The setting, unless it is off.
    pub fn on(self) -> Option<T> {
        match self {
            OrOff::Off => None,
            OrOff::On(value) => Some(value),
        }
    }

    pub fn as_ref(&self) -> OrOff<&T> {
        match self {
            OrOff::Off => OrOff::Off,
            OrOff::On(value) => OrOff::On(value),
        }
    }
}

/// Settings that all have a default, so that `on` says enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrOn<T>(pub T);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for OrOn<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for Form<T> {
            type Value = OrOn<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`on` or a map of settings")
            }

            fn visit_bool<E: Error>(self, on: bool) -> Result<OrOn<T>, E> {
                match on {
                    true => Ok(OrOn::default()),
                    false => Err(E::custom("leave it out where it is off")),
                }
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<OrOn<T>, E> {
                match text {
                    "on" => Ok(OrOn::default()),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OrOn<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(OrOn)
            }
        }

        deserializer.deserialize_any(Form(PhantomData))
    }
}

impl<T: Serialize> Serialize for OrOn<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<T: JsonSchema> JsonSchema for OrOn<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}OrOn", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let settings = generator.subschema_for::<T>();
        schemars::json_schema!({"anyOf": [{"enum": ["on", true]}, settings]})
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrOff<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(protocol::OR_OFF, Known(PhantomData))
    }
}

/// What the configuration's deserialiser answers, which knows `off` from its own.
struct Known<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Known<T> {
    type Value = OrOff<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or `off`")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(OrOff::Off)
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        T::deserialize(value).map(OrOff::On)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, plain: D) -> Result<Self::Value, D::Error> {
        plain.deserialize_any(Plain(PhantomData))
    }
}

/// The same from values of any deserialiser.
struct Plain<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Plain<T> {
    type Value = OrOff<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or `off`")
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<Self::Value, E> {
        match on {
            false => Ok(OrOff::Off),
            true => Err(E::invalid_value(serde::de::Unexpected::Bool(on), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        match text {
            "off" | "false" => Ok(OrOff::Off),
            _ => T::deserialize(StrDeserializer::new(text)).map(OrOff::On),
        }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        T::deserialize(serde::de::value::U64Deserializer::new(number)).map(OrOff::On)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(OrOff::On)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        T::deserialize(SeqAccessDeserializer::new(list)).map(OrOff::On)
    }
}

impl<T: Serialize> Serialize for OrOff<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            OrOff::Off => serializer.serialize_str("off"),
            OrOff::On(value) => value.serialize(serializer),
        }
    }
}

impl<T: JsonSchema> JsonSchema for OrOff<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OrOff{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let on = generator.subschema_for::<T>();
        schemars::json_schema!({"anyOf": [on, {"enum": ["off", false]}]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Duration;

    #[test]
    fn off_is_not_a_duration_of_nothing() {
        let read = |text: &str| serde_json::from_str::<OrOff<Duration>>(text);
        assert_eq!(read("\"off\"").expect("off"), OrOff::Off);
        assert_eq!(read("false").expect("off"), OrOff::Off);
        assert_eq!(
            read("\"5s\"").expect("a duration"),
            OrOff::On(Duration::from_secs(5))
        );
        assert!(read("true").is_err());
        assert!(read("\"never\"").is_err());
    }

    #[test]
    fn both_print_what_they_read() {
        for text in ["\"off\"", "\"30s\""] {
            let value: OrOff<Duration> = serde_json::from_str(text).expect("a value");
            assert_eq!(serde_json::to_string(&value).expect("JSON"), text);
        }
        for text in ["\"on\"", "\"off\""] {
            let value: Toggle = serde_json::from_str(text).expect("a value");
            assert_eq!(serde_json::to_string(&value).expect("JSON"), text);
        }
    }
}
