//! `match` as it is written, in routes, groups, invariants and `when` (design 3.3).

use super::pattern::{HostPattern, PathPattern};
use super::value::{FieldName, GrpcPattern, MethodName, ParameterName, Pattern, ValueMatch};
use super::who::{Claims, Names};
use crate::identity::Wanted;
use crate::units::{Cidr, Name, OneOrMany};
use schemars::JsonSchema;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;

/// Which requests. All that is written has to hold; of a list of matches, any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// The names of the listeners that take the request; any by default.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<Name>")]
    pub listener: Option<OneOrMany<Name>>,
    /// The host: exact, `*.example.com`, `{tenant}.example.com`; any by default.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<HostPattern>")]
    pub host: Option<OneOrMany<HostPattern>>,
    /// The path: exact, `/orders/{id}`, `/orders/**`; any by default.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<PathPattern>")]
    pub path: Option<OneOrMany<PathPattern>>,
    /// The method. GET covers HEAD; a CORS preflight has the method that it asks about.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<MethodName>")]
    pub method: Option<OneOrMany<MethodName>>,
    /// A regular expression for the whole path, with escapes decoded except `%2F`.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Pattern")]
    pub path_regex: Option<Pattern>,
    /// Request headers, by name.
    #[serde(
        default,
        deserialize_with = "filled_map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub header: BTreeMap<FieldName, ValueMatch>,
    /// Query parameters, by name, decoded.
    #[serde(
        default,
        deserialize_with = "filled_map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub query: BTreeMap<ParameterName, ValueMatch>,
    /// Cookies, by name.
    #[serde(
        default,
        deserialize_with = "filled_map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub cookie: BTreeMap<ParameterName, ValueMatch>,
    /// Networks that the client's address lies in.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<Cidr>")]
    pub client_address: Option<OneOrMany<Cidr>>,
    /// gRPC services or methods.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<GrpcPattern>")]
    pub grpc: Option<OneOrMany<GrpcPattern>>,
    /// Consumers, in a `when` of what acts after `auth`.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short_names",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<String>")]
    pub consumer: Names,
    /// Plans of consumers, in a `when` of what acts after `auth`.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short_names",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<String>")]
    pub plan: Names,
    /// Groups of consumers, in a `when` of what acts after `auth`.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short_names",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<String>")]
    pub group: Names,
    /// What credentials are called, such as the ids of keys, in a `when` of what acts after `auth`.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short_names",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<String>")]
    pub credential: Names,
    /// Claims by their paths, and what they have to hold: one of these values, or all of those under `all`; in a `when` of
    /// what acts after `auth`.
    #[serde(
        default,
        deserialize_with = "filled_claims",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "BTreeMap<String, Wanted>")]
    pub claim: Claims,
    /// What must not hold; of a list, none.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<Not>")]
    pub not: Option<OneOrMany<Not>>,
}

/// Which requests not: those for which all that is written here holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Not {
    /// The method.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<MethodName>")]
    pub method: Option<OneOrMany<MethodName>>,
    /// A regular expression for the whole path, with escapes decoded except `%2F`.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Pattern")]
    pub path_regex: Option<Pattern>,
    /// Request headers, by name.
    #[serde(
        default,
        deserialize_with = "filled_map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub header: BTreeMap<FieldName, ValueMatch>,
    /// Query parameters, by name, decoded.
    #[serde(
        default,
        deserialize_with = "filled_map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub query: BTreeMap<ParameterName, ValueMatch>,
    /// Cookies, by name.
    #[serde(
        default,
        deserialize_with = "filled_map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub cookie: BTreeMap<ParameterName, ValueMatch>,
    /// Networks that the client's address lies in.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<Cidr>")]
    pub client_address: Option<OneOrMany<Cidr>>,
    /// gRPC services or methods.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<GrpcPattern>")]
    pub grpc: Option<OneOrMany<GrpcPattern>>,
    /// Consumers, in a `when` of what acts after `auth`.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short_names",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<String>")]
    pub consumer: Names,
    /// Plans of consumers, in a `when` of what acts after `auth`.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short_names",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<String>")]
    pub plan: Names,
    /// Groups of consumers, in a `when` of what acts after `auth`.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short_names",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<String>")]
    pub group: Names,
    /// What credentials are called, such as the ids of keys, in a `when` of what acts after `auth`.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "short_names",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "OneOrMany<String>")]
    pub credential: Names,
    /// Claims by their paths, and what they have to hold: one of these values, or all of those under `all`; in a `when` of
    /// what acts after `auth`.
    #[serde(
        default,
        deserialize_with = "filled_claims",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "BTreeMap<String, Wanted>")]
    pub claim: Claims,
}

impl Match {
    /// Whether nothing is written, which is an oversight more often than a wish for every request.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The paths that are asked for: those written, else those of the gRPC methods, else none, for any.
    pub(super) fn paths(&self) -> Vec<PathPattern> {
        let of_grpc = |grpc: &GrpcPattern| PathPattern::grpc(&grpc.service, grpc.method.as_deref());
        match (&self.path, &self.grpc) {
            (Some(paths), _) => paths.0.clone(),
            (None, Some(grpc)) => grpc.0.iter().map(of_grpc).collect(),
            (None, None) => Vec::new(),
        }
    }
}

/// The elements of a field; none where it is left out.
pub(super) fn each<T>(field: &Option<OneOrMany<T>>) -> &[T] {
    field
        .as_ref()
        .map(|many| many.0.as_slice())
        .unwrap_or_default()
}

/// A field that stands in the file has a value: what is left of one whose children were commented out is an error.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn filled_claims<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Claims, D::Error> {
    let claims: Claims = given(deserializer)?;
    match claims.as_ref().is_some_and(|claims| claims.is_empty()) {
        true => Err(D::Error::custom(NOTHING_NAMED)),
        false => Ok(claims),
    }
}

const NOTHING_NAMED: &str =
    "nothing is named\nhint: write a name and its value, or leave the key out";

fn filled_map<'de, K, D>(deserializer: D) -> Result<BTreeMap<K, ValueMatch>, D::Error>
where
    K: Deserialize<'de> + Ord,
    D: Deserializer<'de>,
{
    let map = BTreeMap::deserialize(deserializer)?;
    match map.is_empty() {
        true => Err(D::Error::custom(NOTHING_NAMED)),
        false => Ok(map),
    }
}

/// One element without brackets, as it may be written.
fn short<T: Serialize, S: Serializer>(
    field: &Option<OneOrMany<T>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match each(field) {
        [one] => one.serialize(serializer),
        many => many.serialize(serializer),
    }
}

fn short_names<S: Serializer>(names: &Names, serializer: S) -> Result<S::Ok, S::Error> {
    match names.as_ref().map(|names| &*names.value().0) {
        Some([one]) => one.serialize(serializer),
        many => many.serialize(serializer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Match, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_match_is_written_as_it_is_read() {
        for json in [
            "{}",
            r#"{"path":"/a"}"#,
            r#"{"listener":"public","host":["a.com","*.b.com"],"path":["/a/{id}","/b/**"],"method":["GET","POST"],"path_regex":"/a.*","header":{"x-a":"1","x-b":{"prefix":"2"}},"query":{"q":{"present":true}},"cookie":{"c":{"regex":"a|b"}},"client_address":["10.0.0.0/8","192.0.2.1"],"grpc":"a.B/C","consumer":"a","plan":["b","c"],"group":"d","credential":"e","claim":{"f":"g","h.i":{"all":["j","k"]}},"not":[{"header":{"x-c":{"present":true}}},{"method":"PUT"}]}"#,
        ] {
            assert_eq!(serde_json::to_string(&read(json).unwrap()).unwrap(), json);
        }
    }

    #[test]
    fn what_is_empty_or_unknown_is_an_error() {
        for (json, part) in [
            (r#"{"pth":"/a"}"#, "unknown field `pth`"),
            (r#"{"host":[]}"#, "an empty list"),
            (r#"{"header":{}}"#, "nothing is named"),
            (r#"{"claim":{}}"#, "nothing is named"),
            (r#"{"consumer":[]}"#, "an empty list"),
            (r#"{"plan":null}"#, "one value or a list"),
            (r#"{"path":null}"#, "one value or a list"),
            (r#"{"path_regex":null}"#, "a regular expression"),
            (r#"{"method":"get"}"#, "write GET"),
            (r#"{"not":{"path":"/a"}}"#, "unknown field `path`"),
        ] {
            let message = read(json).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn the_schema_knows_every_field() {
        let schema = schemars::schema_for!(Match).to_value();
        let fields = schema
            .pointer("/properties")
            .and_then(|fields| fields.as_object())
            .unwrap();
        assert_eq!(fields.len(), 16);
        assert!(
            fields
                .values()
                .all(|field| field.get("description").is_some() || field.get("$ref").is_some()),
            "{schema}"
        );
        assert_eq!(schema.pointer("/required"), None);
    }
}
