//! Short forms: what may be written as one text or list where a map is meant. Each form's serde traits and schema stand
//! side by side, and the tests hold both to the same samples.

use super::model::{
    AccessLog, Certificate, ClientCa, ClientCaFields, ConsistentHash, Endpoint, HostHeader,
    Include, IncludeFields, NameServer, Redirect, Respond, RetryOn, Service, ServiceRef,
    ServiceTls, SrvName, TrustedProxy, WebSocket,
};
use crate::diagnostic::{Span, Spanned, did_you_mean};
use crate::exchange::fact::Fact;
use crate::exchange::template::Template;
use crate::observe::access_log::AccessLogConfig;
use crate::policy::respond::Answer;
use crate::units::{
    Address, ByteSize, Cidr, EMPTY_LIST, FileText, Invalid, Name, OneOrMany, OrOff, Ratio,
    TimeBound, Toggle, protocol,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{
    MapAccessDeserializer, SeqAccessDeserializer, StrDeserializer, U16Deserializer,
};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

/// A type with a long form, a map, and short ones.
trait ShortForm<'de>: Sized {
    /// The long form.
    type Long: Deserialize<'de> + Into<Self>;

    const EXPECTED: &'static str;

    /// From one text.
    fn from_text<E: Error>(text: &str) -> Result<Self, E>;

    /// From a list, where one may be written.
    fn from_list<A: SeqAccess<'de>>(_: A) -> Result<Self, A::Error> {
        Err(A::Error::invalid_type(
            serde::de::Unexpected::Seq,
            &Self::EXPECTED,
        ))
    }
}

/// Reads whichever form was written.
struct Form<T>(PhantomData<T>);

impl<'de, T: ShortForm<'de>> Visitor<'de> for Form<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::from_text(&number.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
        T::from_list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::Long::deserialize(MapAccessDeserializer::new(map)).map(Into::into)
    }
}

macro_rules! deserialize_forms {
    ($($type:ident)*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Form(PhantomData))
            }
        }
    )*};
}

deserialize_forms! {
    ConsistentHash Include Endpoint ServiceRef Redirect Respond WrittenLog ServiceTls WebSocket
}

/// How to hash in its long form.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ConsistentHashFields")]
struct ConsistentHashFields {
    /// The facts that make the key. A request that lacks one is balanced by `least_request`.
    by: OneOrMany<Fact>,
    /// How much more than its share an endpoint may have in flight before a request goes to the next: 25% by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    overload: Option<OrOff<Ratio>>,
}

impl From<ConsistentHashFields> for ConsistentHash {
    fn from(ConsistentHashFields { by, overload }: ConsistentHashFields) -> Self {
        Self { by, overload }
    }
}

impl<'de> ShortForm<'de> for ConsistentHash {
    type Long = ConsistentHashFields;
    const EXPECTED: &'static str = "facts, or `{by: …, overload: …}`";

    fn from_text<E: Error>(text: &str) -> Result<Self, E> {
        let by = text.parse::<Fact>().map_err(E::custom)?.into();
        Ok(Self { by, overload: None })
    }

    fn from_list<A: SeqAccess<'de>>(list: A) -> Result<Self, A::Error> {
        let by = Vec::<Fact>::deserialize(SeqAccessDeserializer::new(list))?;
        if by.is_empty() {
            return Err(A::Error::custom(EMPTY_LIST));
        }
        let by = OneOrMany(by);
        Ok(Self { by, overload: None })
    }
}

impl Serialize for ConsistentHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ConsistentHashFields {
            by: self.by.clone(),
            overload: self.overload,
        }
        .serialize(serializer)
    }
}

impl JsonSchema for ConsistentHash {
    fn schema_name() -> Cow<'static, str> {
        "ConsistentHash".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = generator.subschema_for::<OneOrMany<Fact>>();
        let long = generator.subschema_for::<ConsistentHashFields>();
        json_schema!({"description": "By which key, or by which and within which bounds.", "anyOf": [short, long]})
    }
}

impl From<IncludeFields> for Include {
    fn from(fields: IncludeFields) -> Self {
        Self(fields)
    }
}

impl ShortForm<'_> for Include {
    type Long = IncludeFields;
    const EXPECTED: &'static str = "files such as `conf.d/*.yaml`, or `{files: …}`";

    fn from_text<E: Error>(text: &str) -> Result<Self, E> {
        // where they stand is known from the tree, in which the files are looked for
        let files = Spanned::new(text.to_owned(), Span::UNKNOWN);
        Ok(Self(IncludeFields {
            files: files.into(),
            owner: None,
            host: None,
            path: None,
            on_error: None,
        }))
    }
}

impl Serialize for Include {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl JsonSchema for Include {
    fn schema_name() -> Cow<'static, str> {
        "Include".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = generator.subschema_for::<String>();
        let long = generator.subschema_for::<IncludeFields>();
        json_schema!({"description": "Files to read besides this one.", "anyOf": [short, long]})
    }
}

/// The long forms of an endpoint: exactly one of the three keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointFields {
    #[serde(default)]
    address: Option<Address>,
    #[serde(default)]
    srv: Option<SrvName>,
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    weight: Option<u32>,
}

/// An endpoint in its long form.
struct LongEndpoint(Endpoint);

impl<'de> Deserialize<'de> for LongEndpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = EndpointFields::deserialize(deserializer)?;
        let weighted = fields.weight.is_some();
        let endpoint = match (fields.address, fields.srv, fields.file) {
            (Some(address), None, None) => Endpoint::Address {
                address,
                weight: fields.weight.unwrap_or(1),
            },
            (None, Some(_), None) | (None, None, Some(_)) if weighted => {
                let invalid = Invalid::new("`weight` has no effect here");
                return Err(D::Error::custom(
                    invalid.hint("SRV records and files say the weights themselves"),
                ));
            }
            (None, Some(srv), None) => Endpoint::Srv(srv),
            (None, None, Some(file)) if file.is_empty() => {
                return Err(D::Error::custom("an empty path names no file"));
            }
            (None, None, Some(file)) => Endpoint::File(file),
            _ => {
                let invalid = Invalid::new("an endpoint has one of `address`, `srv` and `file`");
                return Err(D::Error::custom(
                    invalid.hint("a list may hold several endpoints"),
                ));
            }
        };
        Ok(Self(endpoint))
    }
}

impl From<LongEndpoint> for Endpoint {
    fn from(LongEndpoint(endpoint): LongEndpoint) -> Self {
        endpoint
    }
}

impl ShortForm<'_> for Endpoint {
    type Long = LongEndpoint;
    const EXPECTED: &'static str = "an address, or `{address: …, weight: …}`";

    fn from_text<E: Error>(text: &str) -> Result<Self, E> {
        let address = text.parse().map_err(E::custom)?;
        Ok(Self::Address { address, weight: 1 })
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = match self {
            Endpoint::Address { address, weight: 1 } => return address.serialize(serializer),
            _ => serializer.serialize_map(None)?,
        };
        match self {
            Endpoint::Address { address, weight } => {
                map.serialize_entry("address", address)?;
                map.serialize_entry("weight", weight)?;
            }
            Endpoint::Srv(name) => map.serialize_entry("srv", name)?,
            Endpoint::File(file) => map.serialize_entry("file", file)?,
        }
        map.end()
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let address = generator.subschema_for::<Address>();
        let srv = generator.subschema_for::<SrvName>();
        let long = |key: &str, value: Schema, description: &str| {
            json_schema!({
                "type": "object",
                "description": description,
                "properties": {key: value},
                "required": [key],
                "additionalProperties": false,
            })
        };
        let weighted = json_schema!({
            "type": "object",
            "properties": {
                "address": address,
                "weight": {
                    "description": "Its share, beside the others' weights; 0 takes no requests. 1 by default.",
                    "type": "integer", "format": "uint32", "minimum": 0,
                },
            },
            "required": ["address"],
            "additionalProperties": false,
        });
        let path = json_schema!({"type": "string", "minLength": 1});
        let srv = long("srv", srv, "SRV records: their targets, ports and weights.");
        let file = long(
            "file",
            path,
            "A watched file: a YAML list of `ip:port` or `{address, weight}`.",
        );
        json_schema!({
            "description": "An address of a service, or where several come from.",
            "anyOf": [address, weighted, srv, file],
        })
    }
}

impl<'de> ShortForm<'de> for ServiceRef {
    type Long = Service;
    const EXPECTED: &'static str = "the name of a service, a list of endpoints, or a service";

    fn from_text<E: Error>(text: &str) -> Result<Self, E> {
        if let Ok(address) = text.parse::<Address>() {
            let invalid =
                Invalid::new(format!("`{text}` is an address, not the name of a service"));
            let hint = match address {
                Address::Name { host, port } if *host == *"localhost" => {
                    format!("a list holds endpoints: `[\"127.0.0.1:{port}\"]`")
                }
                _ => format!("a list holds endpoints: `[\"{text}\"]`"),
            };
            return Err(E::custom(invalid.hint(hint)));
        }
        text.parse().map(ServiceRef::Name).map_err(E::custom)
    }

    fn from_list<A: SeqAccess<'de>>(list: A) -> Result<Self, A::Error> {
        let endpoints = Vec::<Spanned<Endpoint>>::deserialize(SeqAccessDeserializer::new(list))?;
        let (Some(first), Some(last)) = (endpoints.first(), endpoints.last()) else {
            return Err(A::Error::custom(EMPTY_LIST));
        };
        let span = Span::new(first.span().file, first.span().start, last.span().end);
        Ok(ServiceRef::Inline(Box::new(Service {
            endpoints: Some(Spanned::new(OneOrMany(endpoints), span)),
            ..Service::default()
        })))
    }
}

impl From<Service> for ServiceRef {
    fn from(service: Service) -> Self {
        ServiceRef::Inline(Box::new(service))
    }
}

impl Serialize for ServiceRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ServiceRef::Name(name) => name.serialize(serializer),
            ServiceRef::Inline(service) => service.serialize(serializer),
        }
    }
}

impl JsonSchema for ServiceRef {
    fn schema_name() -> Cow<'static, str> {
        "ServiceRef".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let name = generator.subschema_for::<Name>();
        let endpoint = generator.subschema_for::<Endpoint>();
        let service = generator.subschema_for::<Service>();
        json_schema!({
            "description": "The name of a service, a list of endpoints, or a service written in place.",
            "anyOf": [name, {"type": "array", "items": endpoint, "minItems": 1}, service],
        })
    }
}

/// A redirect in its long form.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RedirectFields")]
struct RedirectFields {
    /// Where to: a URL or a path, which may hold facts.
    to: Destination,
    /// 301, 302, 303, 307 or 308; 308 by default.
    #[serde(default)]
    status: RedirectStatus,
}

/// A URL, or a path from the root: a relative one would mean something else at every path.
struct Destination(Template);

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let to = Template::deserialize(deserializer)?;
        let text = to.to_string();
        match text.starts_with(['/', '{']) || text.contains("://") {
            true => Ok(Self(to)),
            false => Err(D::Error::custom(
                Invalid::new(format!("`{text}` is neither a URL nor a path"))
                    .hint("such as `https://example.com/new` or `/new`"),
            )),
        }
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl JsonSchema for Destination {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Destination".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[/{]|://", "examples": ["/new", "https://{host}/new"]})
    }
}

/// The status of a redirect.
#[derive(Clone, Copy)]
struct RedirectStatus(u16);

const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

impl Default for RedirectStatus {
    fn default() -> Self {
        Self(308)
    }
}

impl<'de> Deserialize<'de> for RedirectStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let status = u16::deserialize(deserializer)?;
        match REDIRECTS.contains(&status) {
            true => Ok(Self(status)),
            false => Err(D::Error::custom(
                Invalid::new(format!("{status} is not the status of a redirect"))
                    .hint("301, 302, 303, 307 or 308; 307 and 308 keep the method"),
            )),
        }
    }
}

impl Serialize for RedirectStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.0)
    }
}

impl JsonSchema for RedirectStatus {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RedirectStatus".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"enum": REDIRECTS})
    }
}

impl From<RedirectFields> for Redirect {
    fn from(RedirectFields { to, status }: RedirectFields) -> Self {
        Self {
            to: to.0,
            status: status.0,
        }
    }
}

impl ShortForm<'_> for Redirect {
    type Long = RedirectFields;
    const EXPECTED: &'static str = "where to, or `{to: …, status: …}`";

    fn from_text<E: Error>(text: &str) -> Result<Self, E> {
        let to = Destination::deserialize(StrDeserializer::new(text))?;
        let status = RedirectStatus::default();
        Ok(RedirectFields { to, status }.into())
    }
}

impl Serialize for Redirect {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RedirectFields {
            to: Destination(self.to.clone()),
            status: RedirectStatus(self.status),
        }
        .serialize(serializer)
    }
}

impl JsonSchema for Redirect {
    fn schema_name() -> Cow<'static, str> {
        "Redirect".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = generator.subschema_for::<Destination>();
        let long = generator.subschema_for::<RedirectFields>();
        json_schema!({"description": "Answers with a redirect.", "anyOf": [short, long]})
    }
}

impl From<Answer> for Respond {
    fn from(answer: Answer) -> Self {
        Self(answer)
    }
}

impl ShortForm<'_> for Respond {
    type Long = Answer;
    const EXPECTED: &'static str = "a status, or `{status: …, body: …}`";

    fn from_text<E: Error>(text: &str) -> Result<Self, E> {
        let status: u16 = text
            .parse()
            .map_err(|_| E::invalid_type(serde::de::Unexpected::Str(text), &Self::EXPECTED))?;
        Ok(Self(Answer {
            status: Deserialize::deserialize(U16Deserializer::new(status))?,
            body: None,
            headers: Default::default(),
        }))
    }
}

impl Serialize for Respond {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl JsonSchema for Respond {
    fn schema_name() -> Cow<'static, str> {
        "Respond".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = generator.subschema_for::<Answer>();
        json_schema!({
            "description": "Answers by itself.",
            "anyOf": [{"type": "integer", "minimum": 200, "maximum": 599}, long],
        })
    }
}

/// An access log that is written out. It has no short form, and says so to those who try one.
struct WrittenLog(AccessLogConfig);

impl From<AccessLogConfig> for WrittenLog {
    fn from(config: AccessLogConfig) -> Self {
        Self(config)
    }
}

impl ShortForm<'_> for WrittenLog {
    type Long = AccessLogConfig;
    const EXPECTED: &'static str = "`{path: …}`, or `off`";

    fn from_text<E: Error>(text: &str) -> Result<Self, E> {
        let (message, path) = match text {
            "on" | "true" => ("`on` does not say where the lines go".to_owned(), "-"),
            _ => (format!("`{text}` alone is no access log"), text),
        };
        let stdout = if path == "-" { ", which is stdout" } else { "" };
        Err(E::custom(
            Invalid::new(message).hint(format!("write `{{path: \"{path}\"}}`{stdout}")),
        ))
    }
}

impl<'de> Deserialize<'de> for AccessLog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        OrOff::deserialize(deserializer).map(|written| match written {
            OrOff::Off => AccessLog::Off,
            OrOff::On(WrittenLog(config)) => AccessLog::On(config),
        })
    }
}

impl Serialize for AccessLog {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            AccessLog::Off => serializer.serialize_str("off"),
            AccessLog::On(config) => config.serialize(serializer),
        }
    }
}

impl JsonSchema for AccessLog {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AccessLog".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        OrOff::<AccessLogConfig>::json_schema(generator)
    }
}

/// The words of `retries.on`, beside statuses.
const RETRY_WORDS: [(&str, RetryOn); 4] = [
    ("connect_failure", RetryOn::ConnectFailure),
    ("refused_stream", RetryOn::RefusedStream),
    ("reset", RetryOn::Reset),
    ("timeout", RetryOn::Timeout),
];

impl FromStr for RetryOn {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Some((_, on)) = RETRY_WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*on);
        }
        match text.parse::<u16>() {
            Ok(status @ (408 | 425 | 429 | 500..=599)) => Ok(RetryOn::Status(status)),
            Ok(status) => Err(Invalid::new(format!(
                "the answer to another try after a {status} would be no other"
            ))
            .hint("statuses are 408, 425, 429, and those from 500 on")),
            Err(_) => {
                let words = RETRY_WORDS.map(|(word, _)| word);
                let invalid =
                    Invalid::new(format!("`{}` is nothing to retry on", text.escape_debug()));
                Err(invalid.hint(match did_you_mean(text, words) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("`{}`, or a status such as 503", words.join("`, `")),
                }))
            }
        }
    }
}

impl<'de> Deserialize<'de> for RetryOn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrStatus;

        impl Visitor<'_> for WordOrStatus {
            type Value = RetryOn;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word such as `reset`, or a status")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RetryOn, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, status: u64) -> Result<RetryOn, E> {
                self.visit_str(&status.to_string())
            }
        }

        deserializer.deserialize_any(WordOrStatus)
    }
}

impl Serialize for RetryOn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let known = RETRY_WORDS.iter().find(|(_, on)| on == self);
        match (self, known) {
            (RetryOn::Status(status), _) => serializer.serialize_u16(*status),
            (_, word) => serializer.serialize_str(word.map_or("", |(word, _)| word)),
        }
    }
}

impl JsonSchema for RetryOn {
    fn schema_name() -> Cow<'static, str> {
        "RetryOn".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "What a request is tried again after.",
            "anyOf": [
                {"enum": RETRY_WORDS.map(|(word, _)| word)},
                {"enum": [408, 425, 429]},
                {"type": "integer", "minimum": 500, "maximum": 599},
            ],
        })
    }
}

impl<'de> Deserialize<'de> for ClientCa {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = ClientCa;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a file, or `{file: …, crl: …}`")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, parts: A) -> Result<ClientCa, A::Error> {
                // its place is that of the whole
                Ok(ClientCa(ClientCaFields {
                    file: FileText::deserialize(SeqAccessDeserializer::new(parts))?.into(),
                    crl: None,
                    required: None,
                }))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                fields: D,
            ) -> Result<ClientCa, D::Error> {
                ClientCaFields::deserialize(fields).map(ClientCa)
            }
        }

        deserializer.deserialize_newtype_struct(protocol::FILE_TEXT_OR_FIELDS, Either)
    }
}

impl Serialize for ClientCa {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl JsonSchema for ClientCa {
    fn schema_name() -> Cow<'static, str> {
        "ClientCa".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = generator.subschema_for::<FileText>();
        let long = generator.subschema_for::<ClientCaFields>();
        json_schema!({
            "description": "The authorities of clients' certificates: their file, or what else there is to say.",
            "anyOf": [short, long],
        })
    }
}

/// TLS of a service in its long form.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ServiceTlsFields")]
struct ServiceTlsFields {
    /// The name that a certificate must be for, and that is asked for. By default the host of a fixed `host_header`, else
    /// the DNS name of the endpoints, where all have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_name: Option<Spanned<String>>,
    /// Certificates of authorities, PEM; those of the system by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<Spanned<FileText>>,
    /// The certificate that the gateway shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<Certificate>,
    /// `off` lets anybody answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verify: Option<Spanned<Toggle>>,
}

impl From<ServiceTlsFields> for ServiceTls {
    fn from(fields: ServiceTlsFields) -> Self {
        Self {
            server_name: fields.server_name,
            ca: fields.ca,
            client: fields.client,
            verify: fields.verify,
        }
    }
}

impl ShortForm<'_> for ServiceTls {
    type Long = ServiceTlsFields;
    const EXPECTED: &'static str = "`on`, `off`, or `{server_name: …, ca: …}`";

    fn from_text<E: Error>(text: &str) -> Result<Self, E> {
        on_alone(text, &Self::EXPECTED)
    }
}

/// `on` stands for a long form with nothing in it.
fn on_alone<T: Default, E: Error>(text: &str, expected: &&'static str) -> Result<T, E> {
    match text {
        "on" | "true" => Ok(T::default()),
        _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), expected)),
    }
}

impl Serialize for ServiceTls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let fields = [
            self.server_name.is_some(),
            self.ca.is_some(),
            self.client.is_some(),
            self.verify.is_some(),
        ];
        if !fields.contains(&true) {
            return serializer.serialize_str("on");
        }
        let mut map = serializer.serialize_map(None)?;
        if let Some(name) = &self.server_name {
            map.serialize_entry("server_name", name)?;
        }
        if let Some(ca) = &self.ca {
            map.serialize_entry("ca", ca)?;
        }
        if let Some(client) = &self.client {
            map.serialize_entry("client", client)?;
        }
        if let Some(verify) = &self.verify {
            map.serialize_entry("verify", verify)?;
        }
        map.end()
    }
}

impl JsonSchema for ServiceTls {
    fn schema_name() -> Cow<'static, str> {
        "ServiceTls".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = generator.subschema_for::<ServiceTlsFields>();
        json_schema!({
            "description": "TLS with endpoints.",
            "anyOf": [{"enum": ["on", true]}, long],
        })
    }
}

/// WebSockets in their long form.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WebSocketFields")]
struct WebSocketFields {
    /// Pages of which origins, such as `https://app.example.com` or `https://*.example.com`; `*` is any. Those of the
    /// host that was asked for by default. Clients that are no pages send none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origins: Option<OneOrMany<Spanned<String>>>,
    /// How long both sides may be silent: 1 h by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idle: Option<OrOff<TimeBound>>,
    /// How long it may last; as long as it will by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_age: Option<OrOff<TimeBound>>,
    /// The longest message, in either direction; as long as it will by default. A longer one ends the WebSocket with 1009.
    /// Extensions, which compress messages, are not negotiated then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<OrOff<ByteSize>>,
}

impl From<WebSocketFields> for WebSocket {
    fn from(fields: WebSocketFields) -> Self {
        Self {
            origins: fields.origins,
            idle: fields.idle,
            max_age: fields.max_age,
            message: fields.message,
        }
    }
}

impl ShortForm<'_> for WebSocket {
    type Long = WebSocketFields;
    const EXPECTED: &'static str = "`on`, `off`, or `{origins: […], idle: …}`";

    fn from_text<E: Error>(text: &str) -> Result<Self, E> {
        on_alone(text, &Self::EXPECTED)
    }
}

impl Serialize for WebSocket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let fields = [
            self.origins.is_some(),
            self.idle.is_some(),
            self.max_age.is_some(),
            self.message.is_some(),
        ];
        if !fields.contains(&true) {
            return serializer.serialize_str("on");
        }
        let mut map = serializer.serialize_map(None)?;
        if let Some(origins) = &self.origins {
            map.serialize_entry("origins", origins)?;
        }
        if let Some(idle) = &self.idle {
            map.serialize_entry("idle", idle)?;
        }
        if let Some(max_age) = &self.max_age {
            map.serialize_entry("max_age", max_age)?;
        }
        if let Some(message) = &self.message {
            map.serialize_entry("message", message)?;
        }
        map.end()
    }
}

impl JsonSchema for WebSocket {
    fn schema_name() -> Cow<'static, str> {
        "WebSocket".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = generator.subschema_for::<WebSocketFields>();
        json_schema!({
            "description": "WebSockets that may be opened.",
            "anyOf": [{"enum": ["on", true]}, long],
        })
    }
}

/// A text that names one of a few cases, or holds a value.
macro_rules! text_forms {
    ($($type:ident $expected:literal $schema:tt)*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

text_forms! {
    TrustedProxy "a network, or `unix`" {
        "description": "A network, or `unix` for the peers of a Unix socket.",
        "type": "string",
        "examples": ["10.0.0.0/8", "unix"],
    }
    NameServer "the address of a DNS server" {
        "description": "The address of a DNS server; its port is 53 by default.",
        "type": "string",
        "examples": ["10.0.0.2", "10.0.0.2:5353", "[fd00::2]:53"],
    }
    SrvName "a name with SRV records, such as `_http._tcp.orders.internal`" {
        "description": "A name with SRV records (RFC 2782).",
        "type": "string",
        "examples": ["_http._tcp.orders.internal"],
    }
    HostHeader "`preserve`, `endpoint` or a host" {
        "description": "`preserve`: what the client sent. `endpoint`: the endpoint's name, else its address. Else a fixed value.",
        "type": "string",
        "examples": ["preserve", "endpoint", "orders.internal"],
    }
}

impl FromStr for NameServer {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let address = text
            .parse::<std::net::SocketAddr>()
            .or_else(|_| text.parse::<std::net::IpAddr>().map(|ip| (ip, 53).into()));
        match address {
            Ok(address) if address.port() > 0 => Ok(Self(address)),
            _ => Err(Invalid::new(format!(
                "`{}` is not the address of a DNS server",
                text.escape_debug()
            ))
            .hint("such as `10.0.0.2` or `10.0.0.2:53`; a name would have to be looked up first")),
        }
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SrvName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        // the rules of names, which hold for its labels too
        let is_name = matches!(format!("{name}:1").parse(), Ok(Address::Name { .. }));
        match is_name {
            true => Ok(Self(name.into())),
            false => Err(
                Invalid::new(format!("`{}` is not a name", text.escape_debug()))
                    .hint("such as `_http._tcp.orders.internal`; the port is in the records"),
            ),
        }
    }
}

impl fmt::Display for SrvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustedProxy {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "unix" => Ok(TrustedProxy::Unix),
            _ => text.parse::<Cidr>().map(TrustedProxy::Network),
        }
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrustedProxy::Network(network) => network.fmt(f),
            TrustedProxy::Unix => f.write_str("unix"),
        }
    }
}

impl FromStr for HostHeader {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "preserve" => return Ok(HostHeader::Preserve),
            "endpoint" => return Ok(HostHeader::Endpoint),
            _ => {}
        }
        let invalid = || Invalid::new(format!("`{}` can't be a host", text.escape_debug()));
        // a single word this near to one of ours was hardly meant to be a host
        if let Some(meant) = did_you_mean(text, ["preserve", "endpoint"]) {
            return Err(invalid().hint(format!("did you mean `{meant}`?")));
        }
        match http::uri::Authority::from_str(text) {
            Ok(authority) if !text.contains('@') && !authority.host().is_empty() => {
                Ok(HostHeader::Value(text.to_owned()))
            }
            _ => Err(invalid().hint("`preserve`, `endpoint`, or a host such as `orders.internal`")),
        }
    }
}

impl fmt::Display for HostHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HostHeader::Preserve => "preserve",
            HostHeader::Endpoint => "endpoint",
            HostHeader::Value(host) => host,
        })
    }
}
