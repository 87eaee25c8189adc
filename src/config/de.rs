//! From the tree to the types: our own serde deserialiser, so that the types are plain derives and still every error
//! knows its place, its hint, and does not hide the others.
//!
//! Three things differ from serde's usual ways. Scalars are text until a type asks for something else, and an empty
//! value is always an error. The wrappers of [`crate::units`] ask for places, secrets and files through
//! [`protocol`]. And a failure does not end the reading: what failed is left out, and what holds it is read again until
//! nothing new is found ([`read`]); an error that only comes of leaving something out is not reported.

use super::context::{Context, FileSize, NamedMaps};
use super::node::{Entry, Node, Scalar, Value};
use super::reference::{Expects, expand};
use crate::diagnostic::{Diagnostic, Span, did_you_mean, sounds_secret};
use crate::units::{EMPTY_LIST, Invalid, protocol};
use serde::Deserialize;
use serde::de::value::{BorrowedStrDeserializer, BytesDeserializer, StringDeserializer};
use serde::de::{
    Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use std::borrow::Cow;
use std::fmt;
use std::path::Path;

/// How many expected names a hint lists.
const LISTED_MAX: usize = 24;

/// Reads a tree as a type, and reports every error to the context. Where there were errors, the value lacks what had
/// them; it is none where even that can't be.
pub(super) fn read<'a, T: Deserialize<'a>>(root: &'a Node, cx: &'a Context<'a>) -> Option<T> {
    let top = De {
        node: root,
        key: None,
        cx,
    };
    // what stands around the large maps first: it may have to be read many times
    cx.set_named_maps(NamedMaps::Skip);
    while let Err(failure) = T::deserialize(top) {
        let hopeless = failure.is_at(root);
        if !cx.record(failure, root) || hopeless || cx.is_full() {
            break;
        }
    }
    cx.set_named_maps(NamedMaps::Read);
    T::deserialize(top)
        .map_err(|failure| cx.record(failure, root))
        .ok()
}

/// Why a node could not be read as what it should be.
#[derive(Debug)]
pub(super) struct Failure {
    cause: Cause,
    span: Option<Span>,
    /// The address of the node that has to be left out; none until the failure met a node.
    pub(super) node: Option<usize>,
    /// It only comes of something that was left out, or was reported already.
    silent: bool,
}

#[derive(Debug)]
enum Cause {
    Message(String),
    UnknownField(String, &'static [&'static str]),
    UnknownVariant(String, &'static [&'static str]),
    MissingField(&'static str),
    Empty,
}

impl Failure {
    fn new(cause: Cause) -> Self {
        Self {
            cause,
            span: None,
            node: None,
            silent: false,
        }
    }

    /// Stands for one that was recorded.
    fn recorded() -> Self {
        Self {
            silent: true,
            ..Self::new(Cause::Empty)
        }
    }

    pub(super) fn is_at(&self, node: &Node) -> bool {
        self.node == Some(std::ptr::from_ref(node).addr())
    }

    /// Gives it the place of this node, unless it has one.
    fn at(mut self, de: De<'_>) -> Self {
        if self.node.is_some() {
            return self;
        }
        let left_out = |entry: &Entry| de.cx.is_excluded(&entry.value);
        let entries = de.node.entries();
        let place = match &self.cause {
            Cause::UnknownField(name, _) => entries
                .iter()
                .find(|entry| entry.key.split('.').next() == Some(name) || *entry.key == **name)
                .map(|entry| (entry.key_span, &entry.value)),
            Cause::MissingField(field) => {
                // written and wrong, or misspelt: reported there
                self.silent |= entries.iter().any(|entry| {
                    entry.value.is_faulty() || left_out(entry) && meant(&entry.key, field)
                });
                Some((de.key.unwrap_or(de.first_line()), de.node))
            }
            Cause::Empty => Some((de.key.unwrap_or(de.node.span), de.node)),
            _ => {
                self.silent |= entries.iter().any(left_out)
                    || de.items().iter().any(|item| de.cx.is_excluded(item));
                None
            }
        };
        let (span, node) = place.unwrap_or((de.node.span, de.node));
        self.span = Some(span);
        self.node = Some(std::ptr::from_ref(node).addr());
        self
    }

    /// Gives it the place of a key. With the key, its value is left out.
    fn at_key(mut self, entry: &Entry) -> Self {
        if self.node.is_none() {
            self.span = Some(entry.key_span);
            self.node = Some(std::ptr::from_ref(&entry.value).addr());
            self.silent |= entry.value.is_faulty();
        }
        self
    }

    /// What is reported of it, if anything.
    pub(super) fn into_diagnostic(self) -> Option<Diagnostic> {
        if self.silent {
            return None;
        }
        let span = self.span.unwrap_or_default();
        let diagnostic = match self.cause {
            Cause::Message(message) => Diagnostic::error(message, span).code("invalid_value"),
            Cause::UnknownField(name, expected) => {
                let message = format!("unknown field `{}`", name.escape_debug());
                Diagnostic::error(message, span)
                    .code("unknown_field")
                    .hint(instead_of(&name, expected))
            }
            Cause::UnknownVariant(name, expected) => {
                let message = format!("`{}` is not one of the values here", name.escape_debug());
                Diagnostic::error(message, span)
                    .code("invalid_value")
                    .hint(instead_of(&name, expected))
            }
            Cause::MissingField(field) => {
                Diagnostic::error(format!("`{field}` is missing"), span).code("missing_field")
            }
            Cause::Empty => Diagnostic::error("nothing is written here", span)
                .code("empty_value")
                .hint("write a value, or leave the key out; an empty text is `\"\"`, an empty map `{}`"),
        };
        Some(diagnostic)
    }
}

/// Whether a key is that field, or a misspelling of it.
fn meant(key: &str, field: &'static str) -> bool {
    key == field || did_you_mean(key, [field]).is_some()
}

fn instead_of(name: &str, expected: &[&str]) -> String {
    if let Some(meant) = did_you_mean(name, expected) {
        return format!("did you mean `{meant}`?");
    }
    let listed: Vec<_> = expected
        .iter()
        .take(LISTED_MAX)
        .map(|name| format!("`{name}`"))
        .collect();
    match listed.len() < expected.len() {
        true => format!("one of {}, …", listed.join(", ")),
        false if expected.is_empty() => "nothing can stand here".to_owned(),
        false => format!("one of {}", listed.join(", ")),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Message(message) => f.write_str(message),
            Cause::UnknownField(name, _) => write!(f, "unknown field `{name}`"),
            Cause::UnknownVariant(name, _) => write!(f, "`{name}` is not one of the values here"),
            Cause::MissingField(field) => write!(f, "`{field}` is missing"),
            Cause::Empty => f.write_str("nothing is written here"),
        }
    }
}

impl std::error::Error for Failure {}

impl serde::de::Error for Failure {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Cause::Message(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {expected}, found {}", Found(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {expected}, found {length} of them"))
    }

    fn unknown_variant(name: &str, expected: &'static [&'static str]) -> Self {
        Self::new(Cause::UnknownVariant(name.to_owned(), expected))
    }

    fn unknown_field(name: &str, expected: &'static [&'static str]) -> Self {
        Self::new(Cause::UnknownField(name.to_owned(), expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Cause::MissingField(field))
    }
}

/// What was found, in words of YAML.
struct Found<'u>(Unexpected<'u>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Unexpected::Str(text) => write!(f, "`{}`", text.escape_debug()),
            Unexpected::Bool(true) => f.write_str("`on`"),
            Unexpected::Bool(false) => f.write_str("`off`"),
            Unexpected::Seq => f.write_str("a list"),
            Unexpected::Map | Unexpected::StructVariant => f.write_str("a map"),
            Unexpected::Unit | Unexpected::Option => f.write_str("nothing"),
            other => other.fmt(f),
        }
    }
}

/// A node that is being read.
#[derive(Clone, Copy)]
struct De<'a> {
    node: &'a Node,
    /// The key that it is the value of.
    key: Option<Span>,
    cx: &'a Context<'a>,
}

impl<'a> De<'a> {
    fn of_entry(entry: &'a Entry, cx: &'a Context<'a>) -> Self {
        Self {
            node: &entry.value,
            key: Some(entry.key_span),
            cx,
        }
    }

    fn located<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        result.map_err(|failure| failure.at(self))
    }

    fn fail<T>(self, failure: Failure) -> Result<T, Failure> {
        Err(failure.at(self))
    }

    fn items(self) -> &'a [Node] {
        match &self.node.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The first key of a map, or the node itself.
    fn first_line(self) -> Span {
        match self.node.entries().first() {
            Some(entry) => entry.key_span,
            None => self.node.span,
        }
    }

    /// A value of the wrong kind.
    fn mismatch<T>(self, expected: &dyn Expected) -> Result<T, Failure> {
        let found = match &self.node.value {
            Value::Empty => return self.fail(Failure::new(Cause::Empty)),
            Value::Faulty => return self.fail(Failure::recorded()),
            Value::Scalar(scalar) => Unexpected::Str(&scalar.text),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        };
        self.fail(Failure::invalid_type(found, expected))
    }

    fn expand(self, scalar: &'a Scalar, expects: Expects) -> Result<Cow<'a, str>, Failure> {
        let resolver = self.cx.resolver(self.node.span.file);
        expand(&scalar.text, expects, &resolver)
            .map_err(|invalid| Failure::custom(invalid).at(self))
    }

    /// The text of a scalar, with its references resolved.
    fn text(self, expected: &dyn Expected) -> Result<Cow<'a, str>, Failure> {
        match &self.node.value {
            Value::Scalar(scalar) => self.expand(scalar, Expects::Plain),
            _ => self.mismatch(expected),
        }
    }

    /// `on` or `off`, where those words stand without quotes. A reference needs quotes in many places, so there the
    /// text that it stands for decides.
    fn switch(self, scalar: &Scalar, text: &str) -> Option<bool> {
        let word = !scalar.quoted || scalar.text.contains("${");
        match text {
            "on" | "true" if word => Some(true),
            "off" | "false" if word => Some(false),
            _ => None,
        }
    }

    fn number<N: std::str::FromStr + fmt::Display>(self, kind: Number<N>) -> Result<N, Failure> {
        let text = self.text(&kind)?;
        kind.parse(&text).map_err(|failure| failure.at(self))
    }

    fn visit_text<V: Visitor<'a>>(
        self,
        text: Cow<'a, str>,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.located(match text {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        })
    }

    fn visit_map<V: Visitor<'a>>(
        self,
        entries: &'a [Entry],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.located(visitor.visit_map(Fields {
            all: entries,
            entries: entries.iter(),
            current: None,
            cx: self.cx,
        }))
    }

    /// The items of a list, or the only one, which has the list's key.
    fn visit_list<V: Visitor<'a>>(
        self,
        items: &'a [Node],
        key: Option<Span>,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.located(visitor.visit_seq(Items {
            items: items.iter(),
            key,
            cx: self.cx,
        }))
    }

    fn secret<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        let Value::Scalar(scalar) = &self.node.value else {
            return self.mismatch(&visitor);
        };
        if !scalar.text.contains("${") {
            self.cx.hide(self.node.span);
        }
        let text = self.expand(scalar, Expects::Secret)?;
        self.located(visitor.visit_string(text.into_owned()))
    }

    fn file_text<V: Visitor<'a>>(self, visitor: V, size: FileSize) -> Result<V::Value, Failure> {
        let path = self.text(&visitor)?;
        let read = self.cx.read_file(&path, self.node.span.file, size);
        let (path, bytes) = self.located(read.map_err(Failure::custom))?;
        let bytes = zeroize::Zeroizing::new(bytes);
        let parts = vec![FilePart::of_path(&path), FilePart::Bytes(&bytes)];
        self.located(visitor.visit_seq(FileParts(parts.into_iter())))
    }

    fn certificate_folder<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        let path = self.text(&visitor)?;
        let read = self.cx.read_certificates(&path, self.node.span.file);
        let (path, pairs) = self.located(read.map_err(Failure::custom))?;
        let mut parts = vec![FilePart::of_path(&path)];
        for (pair, chain, key) in &pairs {
            parts.push(FilePart::Text(pair.name.clone()));
            parts.extend([FilePart::of_path(&pair.chain), FilePart::Bytes(chain)]);
            parts.extend([FilePart::of_path(&pair.key), FilePart::Bytes(key)]);
        }
        self.located(visitor.visit_seq(FileParts(parts.into_iter())))
    }

    fn one_or_many<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Empty | Value::Faulty => self.mismatch(&visitor),
            Value::List(items) if items.is_empty() => self.fail(Failure::custom(EMPTY_LIST)),
            Value::List(items) => self.visit_list(items, None, visitor),
            _ => self.visit_list(std::slice::from_ref(self.node), self.key, visitor),
        }
    }

    fn or_off<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        if let Value::Scalar(scalar) = &self.node.value {
            let text = self.expand(scalar, Expects::Plain)?;
            if self.switch(scalar, &text) == Some(false) {
                return visitor.visit_none();
            }
        }
        self.located(visitor.visit_some(self))
    }

    fn named<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        let Value::Map(entries) = &self.node.value else {
            return self.mismatch(&"a map of names");
        };
        let entries = match self.cx.enters(self.node) {
            true => entries.as_slice(),
            false => &[],
        };
        self.located(visitor.visit_map(Resumable {
            entries: entries.iter(),
            again: None,
            current: None,
            cx: self.cx,
        }))
    }
}

/// Whole numbers and fractions, read from text.
struct Number<N> {
    what: &'static str,
    range: Option<(N, N)>,
}

impl<N: fmt::Display> Expected for Number<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.range {
            Some((least, most)) => write!(f, "{} from {least} to {most}", self.what),
            None => f.write_str(self.what),
        }
    }
}

impl<N: std::str::FromStr + fmt::Display> Number<N> {
    fn parse(&self, text: &str) -> Result<N, Failure> {
        // a leading zero is octal in one YAML and decimal in another
        let octal = text.len() > 1 && text.starts_with('0') && !text.starts_with("0.");
        let plain = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'.'));
        text.parse()
            .ok()
            .filter(|_| plain && !octal)
            .ok_or_else(|| Failure::invalid_value(Unexpected::Str(text), self))
    }
}

macro_rules! deserialize_integers {
    ($($method:ident $visit:ident $type:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            let number = self.number(Number { what: "a whole number", range: Some(($type::MIN, $type::MAX)) })?;
            self.located(visitor.$visit(number))
        }
    )*};
}

impl<'de> Deserializer<'de> for De<'de> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Empty | Value::Faulty => self.mismatch(&visitor),
            Value::List(items) => self.visit_list(items, None, visitor),
            Value::Map(entries) => self.visit_map(entries, visitor),
            // raw text, `on` and `1.10` too: who asks for anything must take them as such
            Value::Scalar(scalar) => self.visit_text(self.expand(scalar, Expects::Plain)?, visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let text = self.text(&"`on` or `off`")?;
        match &*text {
            "on" | "true" => self.located(visitor.visit_bool(true)),
            "off" | "false" => self.located(visitor.visit_bool(false)),
            other => self.fail(Failure::invalid_value(
                Unexpected::Str(other),
                &"`on` or `off`",
            )),
        }
    }

    deserialize_integers! {
        deserialize_u8 visit_u8 u8
        deserialize_u16 visit_u16 u16
        deserialize_u32 visit_u32 u32
        deserialize_u64 visit_u64 u64
        deserialize_u128 visit_u128 u128
        deserialize_i8 visit_i8 i8
        deserialize_i16 visit_i16 i16
        deserialize_i32 visit_i32 i32
        deserialize_i64 visit_i64 i64
        deserialize_i128 visit_i128 i128
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let number = self.number(Number::<f64> {
            what: "a number",
            range: None,
        })?;
        self.located(visitor.visit_f64(number))
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let text = self.text(&visitor)?;
        self.visit_text(text, visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        // a `String` says that it expects "a string", which is a word of programmers
        let text = self.text(&"text")?;
        self.visit_text(text, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Empty | Value::Faulty => self.mismatch(&visitor),
            _ => self.located(visitor.visit_some(self)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match name {
            protocol::SPANNED => {
                self.located(visitor.visit_seq(SpannedParts::new(self.node.span, self)))
            }
            protocol::ONE_OR_MANY => self.one_or_many(visitor),
            protocol::OR_OFF => self.or_off(visitor),
            protocol::SECRET => self.secret(visitor),
            protocol::FILE_TEXT => self.file_text(visitor, FileSize::Usual),
            protocol::FILE_TEXT_OR_FIELDS => match &self.node.value {
                Value::Scalar(_) => self.file_text(visitor, FileSize::Usual),
                _ => self.located(visitor.visit_newtype_struct(self)),
            },
            protocol::LARGE_FILE => self.file_text(visitor, FileSize::Large),
            protocol::CERTIFICATE_FOLDER => self.certificate_folder(visitor),
            protocol::NAMED => self.named(visitor),
            protocol::HEADER_NAME => self.deserialize_str(visitor),
            _ => self.located(visitor.visit_newtype_struct(self)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::List(items) => self.visit_list(items, None, visitor),
            _ => self.mismatch(&"a list"),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Map(entries) => self.visit_map(entries, visitor),
            _ => self.mismatch(&"a map"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Map(entries) => self.visit_map(entries, visitor),
            Value::Scalar(scalar) if holds_secrets(fields) && !scalar.text.contains("${") => {
                // the secret itself may stand where its settings belong
                self.cx.hide(self.node.span);
                let expected = FieldsOf(fields);
                let expected: &dyn Expected = &expected;
                let message = format!("expected {expected}, found a text");
                let hint = instead_of("", fields);
                self.fail(Failure::custom(Invalid::new(message).hint(hint)))
            }
            _ => self.mismatch(&FieldsOf(fields)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Scalar(_) => {
                let name = self.text(&OneOf(variants))?;
                self.located(visitor.visit_enum(Variant {
                    name,
                    content: None,
                }))
            }
            Value::Map(entries) => match entries.as_slice() {
                [entry] => {
                    let content = (!self.cx.is_excluded(&entry.value)).then_some((entry, self.cx));
                    let name = Cow::Borrowed(&*entry.key);
                    self.located(visitor.visit_enum(Variant { name, content }))
                }
                _ => self.fail(Failure::custom(format_args!(
                    "expected exactly one key, {}",
                    OneOf(variants)
                ))),
            },
            _ => self.mismatch(&OneOf(variants)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! { bytes byte_buf unit unit_struct tuple tuple_struct identifier }
}

/// Whether settings with these fields have a secret of their own among them.
fn holds_secrets(fields: &[&str]) -> bool {
    const SECRETS: [&str; 4] = ["client_secret", "digest", "hash", "public_key"];
    fields.iter().any(|field| SECRETS.contains(field))
}

/// Fields, as they are expected where something else was found.
struct FieldsOf(&'static [&'static str]);

impl Expected for FieldsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("an empty map `{}`"),
            [one] => write!(f, "a map `{{{one}: …}}`"),
            [first, ..] => write!(f, "a map such as `{{{first}: …}}`"),
        }
    }
}

/// Alternatives, as they are expected where something else was found.
struct OneOf(&'static [&'static str]);

impl fmt::Display for OneOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&instead_of("", self.0))
    }
}

impl Expected for OneOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The entries of a map.
struct Fields<'a> {
    all: &'a [Entry],
    entries: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
    cx: &'a Context<'a>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Failure;

    fn next_key_seed<K: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failure> {
        let cx = self.cx;
        let Some(entry) = self.entries.find(|entry| !cx.is_excluded(&entry.value)) else {
            return Ok(None);
        };
        self.current = Some(entry);
        Key::read(entry, self.all, cx, seed).map(Some)
    }

    fn next_value_seed<V: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, Failure> {
        let entry = self.current.take().ok_or_else(out_of_order)?;
        let de = De::of_entry(entry, self.cx);
        de.located(seed.deserialize(de))
    }

    fn size_hint(&self) -> Option<usize> {
        self.entries.size_hint().1
    }
}

fn out_of_order() -> Failure {
    Failure::custom("a value was asked for without its key")
}

/// The entries of a named map. A failure is reported at once, and the entry comes again without what failed, so that
/// one reading finds every error of every entry.
struct Resumable<'a> {
    entries: std::slice::Iter<'a, Entry>,
    again: Option<&'a Entry>,
    current: Option<&'a Entry>,
    cx: &'a Context<'a>,
}

impl<'de> MapAccess<'de> for Resumable<'de> {
    type Error = Failure;

    fn next_key_seed<K: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failure> {
        let cx = self.cx;
        if cx.is_full() {
            return Ok(None);
        }
        let again = self.again.take();
        let Some(entry) =
            again.or_else(|| self.entries.find(|entry| !cx.is_excluded(&entry.value)))
        else {
            return Ok(None);
        };
        self.current = Some(entry);
        Key::read(entry, &[], cx, seed)
            .map(Some)
            .map_err(|failure| {
                cx.record(failure, &entry.value);
                Failure::recorded()
            })
    }

    fn next_value_seed<V: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, Failure> {
        let entry = self.current.take().ok_or_else(out_of_order)?;
        let de = De::of_entry(entry, self.cx);
        de.located(seed.deserialize(de)).map_err(|failure| {
            let progress = self.cx.record(failure, &entry.value);
            if progress && !self.cx.is_excluded(&entry.value) {
                self.again = Some(entry);
            }
            Failure::recorded()
        })
    }

    fn size_hint(&self) -> Option<usize> {
        self.entries.size_hint().1
    }
}

/// The items of a list.
struct Items<'a> {
    items: std::slice::Iter<'a, Node>,
    key: Option<Span>,
    cx: &'a Context<'a>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Failure;

    fn next_element_seed<T: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Failure> {
        let cx = self.cx;
        let Some(node) = self.items.find(|node| !cx.is_excluded(node)) else {
            return Ok(None);
        };
        let de = De {
            node,
            key: self.key,
            cx,
        };
        de.located(seed.deserialize(de)).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        self.items.size_hint().1
    }
}

/// A key that is being read. Keys hold no references.
#[derive(Clone, Copy)]
struct Key<'a> {
    entry: &'a Entry,
    /// The map that it stands in.
    map: &'a [Entry],
}

impl<'a> Key<'a> {
    fn read<K: serde::de::DeserializeSeed<'a>>(
        entry: &'a Entry,
        map: &'a [Entry],
        cx: &'a Context<'a>,
        seed: K,
    ) -> Result<K::Value, Failure> {
        seed.deserialize(Key { entry, map }).map_err(|failure| {
            // what was meant may have been a secret, and then its value is shown with the line
            if matches!(failure.cause, Cause::UnknownField(..)) && sounds_secret(&entry.key) {
                cx.hide(entry.value.span);
            }
            failure.at_key(entry)
        })
    }
}

impl<'a> Key<'a> {
    /// Of two spellings of one name, the later would silently win.
    fn header_name<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        let key = &self.entry.key;
        let earlier = self
            .map
            .iter()
            .take_while(|entry| !std::ptr::eq(*entry, self.entry))
            .find(|entry| entry.key.eq_ignore_ascii_case(key));
        match earlier {
            Some(earlier) => Err(Failure::custom(
                Invalid::new(format!("`{key}` and `{}` are one header", earlier.key))
                    .hint("names of headers ignore case"),
            )),
            None => visitor.visit_borrowed_str(key),
        }
    }
}

macro_rules! deserialize_number_keys {
    ($($method:ident $visit:ident $type:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            let number = Number { what: "a whole number", range: Some(($type::MIN, $type::MAX)) };
            visitor.$visit(number.parse(&self.entry.key)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_borrowed_str(&self.entry.key)
    }

    deserialize_number_keys! {
        deserialize_u8 visit_u8 u8
        deserialize_u16 visit_u16 u16
        deserialize_u32 visit_u32 u32
        deserialize_u64 visit_u64 u64
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match name {
            protocol::SPANNED => visitor.visit_seq(SpannedParts::new(self.entry.key_span, self)),
            protocol::HEADER_NAME => self.header_name(visitor),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_enum(BorrowedStrDeserializer::new(&self.entry.key))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        struct identifier ignored_any
    }
}

/// The parts of a [`crate::units::Spanned`].
struct SpannedParts<D> {
    numbers: std::array::IntoIter<u32, 3>,
    value: Option<D>,
}

impl<D> SpannedParts<D> {
    fn new(span: Span, value: D) -> Self {
        Self {
            numbers: [span.file.0, span.start, span.end].into_iter(),
            value: Some(value),
        }
    }
}

impl<'de, D: Deserializer<'de, Error = Failure>> SeqAccess<'de> for SpannedParts<D> {
    type Error = Failure;

    fn next_element_seed<T: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Failure> {
        if let Some(number) = self.numbers.next() {
            return seed.deserialize(number.into_deserializer()).map(Some);
        }
        self.value
            .take()
            .map(|value| seed.deserialize(value))
            .transpose()
    }
}

/// The parts of a [`crate::units::FileText`], or of a folder of files.
struct FileParts<'b>(std::vec::IntoIter<FilePart<'b>>);

enum FilePart<'b> {
    Text(String),
    Bytes(&'b [u8]),
}

impl FilePart<'_> {
    fn of_path(path: &Path) -> Self {
        Self::Text(path.to_string_lossy().into_owned())
    }
}

impl<'de> SeqAccess<'de> for FileParts<'_> {
    type Error = Failure;

    fn next_element_seed<T: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Failure> {
        match self.0.next() {
            None => Ok(None),
            Some(FilePart::Text(text)) => seed.deserialize(StringDeserializer::new(text)).map(Some),
            Some(FilePart::Bytes(bytes)) => {
                seed.deserialize(BytesDeserializer::new(bytes)).map(Some)
            }
        }
    }
}

/// One alternative: a word, or a key with what belongs to it.
struct Variant<'a> {
    name: Cow<'a, str>,
    content: Option<(&'a Entry, &'a Context<'a>)>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Failure;
    type Variant = Content<'de>;

    fn variant_seed<V: serde::de::DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Content<'de>), Failure> {
        let entry = self.content.map(|(entry, _)| entry);
        let name: serde::de::value::CowStrDeserializer<'_, Failure> =
            self.name.clone().into_deserializer();
        let value = seed.deserialize(name).map_err(|failure| match entry {
            Some(entry) => failure.at_key(entry),
            None => failure,
        })?;
        let content = Content {
            name: self.name,
            content: self.content,
        };
        Ok((value, content))
    }
}

/// What belongs to an alternative.
struct Content<'a> {
    name: Cow<'a, str>,
    content: Option<(&'a Entry, &'a Context<'a>)>,
}

impl<'a> Content<'a> {
    fn value(&self) -> Result<De<'a>, Failure> {
        match self.content {
            Some((entry, cx)) => Ok(De::of_entry(entry, cx)),
            None => Err(Failure::custom(
                Invalid::new(format!("`{}` needs a value", self.name))
                    .hint(format!("`{{{}: …}}`", self.name)),
            )),
        }
    }
}

impl<'de> VariantAccess<'de> for Content<'de> {
    type Error = Failure;

    fn unit_variant(self) -> Result<(), Failure> {
        match self.content {
            Some((entry, _)) => Err(Failure::custom(format_args!(
                "`{0}` takes no value\nhint: write `{0}` alone",
                self.name
            ))
            .at_key(entry)),
            None => Ok(()),
        }
    }

    fn newtype_variant_seed<T: serde::de::DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, Failure> {
        let de = self.value()?;
        de.located(seed.deserialize(de))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Failure> {
        self.value()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.value()?.deserialize_struct("", fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::super::context::Environment;
    use super::super::named::Named;
    use super::super::node;
    use super::*;
    use crate::diagnostic::Sources;
    use crate::units::{
        Address, Duration, FileText, HeaderNameText, Name, Networks, OneOrMany, OrOff, Secret,
        Spanned, Toggle,
    };
    use proptest::prelude::*;
    use serde::de::DeserializeOwned;
    use std::collections::BTreeMap;

    /// Something like a configuration.
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        version: Spanned<u32>,
        #[serde(default)]
        title: Option<String>,
        #[serde(default)]
        enabled: Toggle,
        #[serde(default)]
        idle: Option<OrOff<Duration>>,
        #[serde(default)]
        address: Option<OneOrMany<Spanned<Address>>>,
        #[serde(default)]
        mode: Option<Mode>,
        #[serde(default)]
        secret: Option<Secret>,
        #[serde(default)]
        file: Option<FileText>,
        #[serde(default)]
        networks: Option<Networks>,
        #[serde(default)]
        codes: BTreeMap<u16, Duration>,
        #[serde(default)]
        headers: BTreeMap<Spanned<HeaderNameText>, String>,
        #[serde(default)]
        items: Named<Item>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        name: Spanned<Name>,
        #[serde(default)]
        count: Option<u16>,
        #[serde(default)]
        idle: Option<Duration>,
        #[serde(default)]
        inner: Named<Item>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        Fast,
        Slow(Spanned<Duration>),
        Mixed { share: u8 },
    }

    fn read_as<T: DeserializeOwned>(text: &str) -> (Option<T>, Vec<String>) {
        let mut sources = Sources::default();
        let file = sources.add("a", text);
        let mut diagnostics = Vec::new();
        let root = node::parse(file, text, &mut diagnostics).expect("YAML");
        let environment = Environment::new(|name| match name {
            "NUMBER" => Some("7".into()),
            "OFF" => Some("off".into()),
            "YAML" => Some("{a: b}".into()),
            _ => None,
        });
        let cx = Context::new(&environment, &[]);
        let value = read(&root, &cx);
        diagnostics.extend(cx.into_found().diagnostics);
        sources.sort(&mut diagnostics);
        let lines = diagnostics
            .iter()
            .map(|diagnostic| {
                let place = sources.place(diagnostic.span).unwrap_or_default();
                let hint = diagnostic.hint.as_deref().unwrap_or_default();
                format!("{place}: {} ({hint})", diagnostic.message)
            })
            .collect();
        (value, lines)
    }

    fn good(text: &str) -> Sample {
        let (value, errors) = read_as(text);
        assert_eq!(errors, Vec::<String>::new());
        value.expect("a value")
    }

    fn errors(text: &str) -> Vec<String> {
        read_as::<Sample>(text).1
    }

    #[test]
    fn values_are_what_their_types_ask_for() {
        let sample = good(
            "version: 1\ntitle: 1.10\nenabled: on\nidle: off\naddress: 10.0.0.1:80\nmode: {slow: 5s}\ncodes: {404: 10s}\n\
             headers: {X-A: \"on\"}\nitems:\n  a: {name: b, count: 3}\n",
        );
        assert_eq!(sample.title.as_deref(), Some("1.10"));
        assert!(sample.enabled.is_on());
        assert_eq!(sample.idle, Some(OrOff::Off));
        assert_eq!(sample.address.map(|list| list.len()), Some(1));
        assert_eq!(sample.mode, Some(Mode::Slow(Duration::from_secs(5).into())));
        assert_eq!(sample.codes.get(&404), Some(&Duration::from_secs(10)));
        assert_eq!(
            sample.headers.values().next().map(String::as_str),
            Some("on")
        );
        assert!(sample.file.is_none() && sample.networks.is_none());
        let (name, item) = sample.items.entry("a").expect("an item");
        assert_eq!(
            (item.count, item.idle, item.inner.len()),
            (Some(3), None, 0)
        );
        assert_eq!((name.span().start, item.name.span().start), (131, 141));
    }

    #[test]
    fn a_list_and_its_only_element_are_the_same() {
        let one = good("version: 1\naddress: 10.0.0.1:80\nnetworks: 10.0.0.0/8").address;
        let list = good("version: 1\naddress: [10.0.0.1:80]\nnetworks: [10.0.0.0/8]").address;
        assert_eq!(one, list);
        assert_eq!(
            errors("version: 1\naddress: []\nnetworks: []"),
            [
                "a:2:10: an empty list has no effect (leave the key out, or write what it should hold)",
                "a:3:11: an empty list has no effect (leave the key out, or write what it should hold)",
            ]
        );
    }

    #[test]
    fn an_empty_value_is_never_a_default() {
        assert_eq!(
            errors("version: 1\ntitle:\nenabled:\nidle: ~\naddress:\nmode: null\nsecret:\nitems:\n"),
            [2, 3, 4, 5, 6, 7, 8].map(|line| format!(
                "a:{line}:1: nothing is written here (write a value, or leave the key out; an empty text is `\"\"`, an \
                 empty map `{{}}`)"
            ))
        );
        assert!(good("version: 1\nitems: {}\ntitle: ''").title.is_some());
    }

    #[test]
    fn unknown_fields_and_values_are_told_what_was_meant() {
        assert_eq!(
            errors(
                "version: 1\ntitel: x\nmode: fsat\nitems:\n  a: {nam: b}\n  c: {name: d, colour: red}\n"
            ),
            [
                "a:2:1: unknown field `titel` (did you mean `title`?)",
                "a:3:7: `fsat` is not one of the values here (did you mean `fast`?)",
                "a:5:7: unknown field `nam` (did you mean `name`?)",
                "a:6:16: unknown field `colour` (one of `name`, `count`, `idle`, `inner`)",
            ]
        );
    }

    #[test]
    fn every_error_is_found_at_once() {
        let found = errors(
            "title: {}\nidle: 5\nitems:\n  a: {name: b, count: x, idle: 7}\n  b!: {name: c}\n  c:\n    name: d\n    \
             inner: {e: {name: f, count: 70000}, g: {name: _}}\n    count: -1\n",
        );
        assert_eq!(
            found,
            [
                "a:1:1: `version` is missing ()",
                "a:1:8: expected text, found a map ()",
                "a:2:7: the duration `5` lacks a unit (`5s` or `5ms`)",
                "a:4:23: expected a whole number from 0 to 65535, found `x` ()",
                "a:4:32: the duration `7` lacks a unit (`7s` or `7ms`)",
                "a:5:3: `b!` can't be a name (letters, digits, `_` and `-`; the first one a letter or a digit)",
                "a:8:33: expected a whole number from 0 to 65535, found `70000` ()",
                "a:8:51: `_` can't be a name (letters, digits, `_` and `-`; the first one a letter or a digit)",
                "a:9:12: expected a whole number from 0 to 65535, found `-1` ()",
            ]
        );
    }

    #[test]
    fn names_of_what_failed_are_remembered() {
        let (value, errors) =
            read_as::<Sample>("version: 1\nitems:\n  a: {name: b}\n  c: {name: d, count: x}\n");
        assert_eq!(errors.len(), 1);
        let items = value.expect("the rest").items;
        assert!(items.get("a").is_some() && !items.is_broken("a"));
        assert!(items.get("c").is_none() && items.is_broken("c"));
    }

    #[test]
    fn alternatives_take_what_belongs_to_them() {
        assert_eq!(
            good("version: 1\nmode: {mixed: {share: 7}}").mode,
            Some(Mode::Mixed { share: 7 })
        );
        assert_eq!(
            errors("version: 1\nmode: {fast: {}}"),
            ["a:2:8: `fast` takes no value (write `fast` alone)"]
        );
        assert_eq!(
            errors("version: 1\nmode: slow"),
            ["a:2:7: `slow` needs a value (`{slow: …}`)"]
        );
        assert_eq!(
            errors("version: 1\nmode: {fast: {}, slow: 5s}"),
            ["a:2:7: expected exactly one key, one of `fast`, `slow`, `mixed` ()"]
        );
        assert_eq!(
            errors("version: 1\nmode: {slow: 5}"),
            ["a:2:14: the duration `5` lacks a unit (`5s` or `5ms`)"]
        );
    }

    #[test]
    fn two_spellings_of_one_header_are_duplicates() {
        assert_eq!(
            errors("version: 1\nheaders: {X-A: b, x-b: c, x-a: d}"),
            ["a:2:27: `x-a` and `X-A` are one header (names of headers ignore case)"]
        );
    }

    #[test]
    fn references_are_values_and_never_structure() {
        let sample = good(
            "version: ${env:NUMBER}\nidle: '${env:OFF}'\ntitle: ${env:YAML}\nsecret: ${env:NUMBER}",
        );
        assert_eq!(*sample.version, 7);
        assert_eq!(sample.idle, Some(OrOff::Off));
        assert_eq!(sample.title.as_deref(), Some("{a: b}"));
        assert_eq!(
            sample
                .secret
                .map(|secret| secret.expose().to_owned())
                .as_deref(),
            Some("7")
        );
        assert_eq!(
            errors("version: 1\ntitle: ${env:NONE}\nitems: {a: {name: \"${file:/etc/passwd}\"}}"),
            [
                "a:2:8: the environment variable `NONE` is not set (set it, or give a default: `${env:NONE:-…}`)",
                "a:3:19: `${file:/etc/passwd}` may only stand where a secret is expected (`${env:NAME}` may stand \
                 anywhere)",
            ]
        );
    }

    #[test]
    fn what_can_not_be_read_is_an_error_where_it_is_named() {
        assert_eq!(
            errors("version: 1\nfile: /nowhere/a.pem\nsecret: ${file:/nowhere/key}"),
            [
                "a:2:7: can't read `/nowhere/a.pem`: there is no such file ()",
                "a:3:9: can't read `/nowhere/key`: there is no such file ()",
            ]
        );
        assert_eq!(
            errors("version: 1\nfile: /dev/zero"),
            ["a:2:7: can't read `/dev/zero`: it is not a regular file ()"]
        );
    }

    #[test]
    fn errors_beyond_the_bound_are_not_reported() {
        let mut text = String::from("version: 1\nitems:\n");
        for number in 0..1000 {
            text.push_str(&format!("  n{number}: {{name: a, count: x, idle: y}}\n"));
        }
        assert_eq!(errors(&text).len(), 100);
    }

    proptest! {
        #[test]
        fn no_tree_panics_or_reads_without_end(text in "[a-c:{}\\[\\], \n-]{0,60}") {
            let mut diagnostics = Vec::new();
            if let Some(root) = node::parse(crate::units::FileId(0), &text, &mut diagnostics) {
                let environment = Environment::new(|_| None);
                let cx = Context::new(&environment, &[]);
                let value = read::<Sample>(&root, &cx);
                diagnostics.extend(cx.into_found().diagnostics);
                prop_assert!(value.is_some() || !diagnostics.is_empty());
            }
        }
    }
}
