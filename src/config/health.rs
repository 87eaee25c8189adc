//! `health_check` and `outlier` as they are written.

use crate::units::{
    Duration, HeaderValueText, MethodText, OneOrMany, OrOff, Ratio, Spanned, StatusRange, Toggle,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// What each endpoint is asked from time to time. One of `path`, `tcp` and `grpc`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// HTTP: asks for this path, over TLS where the service has it.
    #[serde(default)]
    pub path: Option<Spanned<String>>,
    /// With `path`: GET by default.
    #[serde(default)]
    pub method: Option<Spanned<MethodText>>,
    /// With `path`: what `Host` says; what `host_header` says if that is a value, else the endpoint's address.
    #[serde(default)]
    pub host: Option<Spanned<HeaderValueText>>,
    /// With `path`: the statuses of a healthy endpoint, 200-299 by default.
    #[serde(default)]
    pub status: Option<Spanned<OneOrMany<StatusRange>>>,
    /// With `path`: what the first 64 KiB of the body must hold.
    #[serde(default)]
    pub body: Option<Spanned<BodyMatch>>,
    /// Makes a connection, and nothing more.
    #[serde(default)]
    pub tcp: Option<Spanned<Toggle>>,
    /// Asks `grpc.health.v1.Health/Check`.
    #[serde(default)]
    pub grpc: Option<Spanned<GrpcCheck>>,
    /// The port to ask; the endpoint's own by default.
    #[serde(default)]
    pub port: Option<Spanned<u16>>,
    /// From one check of an endpoint to its next: 10 s by default.
    #[serde(default)]
    pub interval: Option<Spanned<Duration>>,
    /// For all of a check: 2 s by default.
    #[serde(default)]
    pub timeout: Option<Spanned<Duration>>,
    /// Makes each interval longer by up to this part of it, at random: 10% by default.
    #[serde(default)]
    pub jitter: Option<Ratio>,
    /// Good checks in a row that make an unhealthy endpoint healthy: 2 by default. The first check decides alone.
    #[serde(default)]
    pub healthy: Option<Spanned<u32>>,
    /// Bad checks in a row that make a healthy endpoint unhealthy: 3 by default.
    #[serde(default)]
    pub unhealthy: Option<Spanned<u32>>,
}

/// A check of the gRPC health protocol.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrpcCheck {
    /// The gRPC service that is asked about, such as `shop.Orders`; the whole server by default.
    #[serde(default)]
    pub service: Option<String>,
}

/// What a body must hold. Short form: a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyMatch {
    Contains(String),
    Regex(String),
}

/// When endpoints that fail are left out, and for how long. A failure is a connection that could not be made or broke, a
/// missing or invalid answer, or one with the status 502, 503 or 504.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Outlier {
    /// Failures in a row: 5 by default.
    #[serde(default)]
    pub consecutive_failures: Option<Spanned<OrOff<u32>>>,
    /// Failures as a share of the requests in a window. Off by default.
    #[serde(default)]
    pub error_ratio: Option<Spanned<ErrorRatio>>,
    /// How long the first ejection lasts: 30 s by default. The second in a row lasts twice as long, and so on.
    #[serde(default)]
    pub ejection: Option<Spanned<Duration>>,
    /// How long any lasts at most: 5 m by default, or as long as the first.
    #[serde(default)]
    pub ejection_max: Option<Spanned<Duration>>,
    /// The share of the endpoints that may be left out at once: 50% by default, rounded down; at least one of two or
    /// more, and never the last.
    #[serde(default)]
    pub max_ejected: Option<Spanned<Ratio>>,
}

/// A share of failures. Short form: the share.
#[derive(Clone, Debug)]
pub struct ErrorRatio {
    pub threshold: Ratio,
    pub window: Option<Duration>,
    pub min_requests: Option<u32>,
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ErrorRatioFields")]
struct ErrorRatioFields {
    /// From this share of failures on.
    threshold: Ratio,
    /// Over this time, which slides: 10 s by default.
    #[serde(default)]
    window: Option<Duration>,
    /// With fewer requests in the window nothing is decided: 20 by default.
    #[serde(default)]
    min_requests: Option<u32>,
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[schemars(rename = "BodyMatchFields")]
enum BodyMatchFields {
    /// This text.
    Contains(String),
    /// Something that this regular expression finds.
    Regex(String),
}

impl From<BodyMatchFields> for BodyMatch {
    fn from(fields: BodyMatchFields) -> Self {
        match fields {
            BodyMatchFields::Contains(text) => BodyMatch::Contains(text),
            BodyMatchFields::Regex(text) => BodyMatch::Regex(text),
        }
    }
}

impl From<ErrorRatioFields> for ErrorRatio {
    fn from(fields: ErrorRatioFields) -> Self {
        Self {
            threshold: fields.threshold,
            window: fields.window,
            min_requests: fields.min_requests,
        }
    }
}

/// A text, or a map.
trait TextOrMap: Sized {
    type Map: for<'de> Deserialize<'de> + Into<Self>;
    const EXPECTED: &'static str;

    fn from_text<E: Error>(text: &str) -> Result<Self, E>;
}

impl TextOrMap for BodyMatch {
    type Map = BodyMatchFields;
    const EXPECTED: &'static str = "a text, or `{regex: …}`";

    fn from_text<E: Error>(text: &str) -> Result<Self, E> {
        Ok(BodyMatch::Contains(text.to_owned()))
    }
}

impl TextOrMap for ErrorRatio {
    type Map = ErrorRatioFields;
    const EXPECTED: &'static str = "a ratio, or `{threshold: …, window: …, min_requests: …}`";

    fn from_text<E: Error>(text: &str) -> Result<Self, E> {
        Ok(Self {
            threshold: Ratio::deserialize(StrDeserializer::new(text))?,
            window: None,
            min_requests: None,
        })
    }
}

struct Form<T>(PhantomData<T>);

impl<'de, T: TextOrMap> Visitor<'de> for Form<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::Map::deserialize(MapAccessDeserializer::new(map)).map(Into::into)
    }
}

impl<'de> Deserialize<'de> for BodyMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Form(PhantomData))
    }
}

impl<'de> Deserialize<'de> for ErrorRatio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Form(PhantomData))
    }
}

impl Serialize for BodyMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            BodyMatch::Contains(text) => serializer.serialize_str(text),
            BodyMatch::Regex(text) => BodyMatchFields::Regex(text.clone()).serialize(serializer),
        }
    }
}

impl Serialize for ErrorRatio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ErrorRatioFields {
            threshold: self.threshold,
            window: self.window,
            min_requests: self.min_requests,
        }
        .serialize(serializer)
    }
}

impl JsonSchema for BodyMatch {
    fn schema_name() -> Cow<'static, str> {
        "BodyMatch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = generator.subschema_for::<BodyMatchFields>();
        json_schema!({"description": "What a body must hold.", "anyOf": [{"type": "string"}, long]})
    }
}

impl JsonSchema for ErrorRatio {
    fn schema_name() -> Cow<'static, str> {
        "ErrorRatio".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = generator.subschema_for::<Ratio>();
        let long = generator.subschema_for::<ErrorRatioFields>();
        json_schema!({"description": "A share of failures.", "anyOf": [short, long]})
    }
}
