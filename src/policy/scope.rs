//! `policies:` as it stands at one scope, and how the scopes of a route become one chain (design 3.4).

use super::Stage;
use super::registry::{self, KEYS, Kind, Settings};
use crate::diagnostic::Diagnostic;
use crate::observe::metrics;
use crate::router::Match;
use crate::units::{OneOrMany, Span, Spanned, Toggle};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The key of a policy: its kind, or `kind.name` where there are several of one kind.
#[derive(Clone, Copy, Debug)]
pub struct PolicyKey<'a> {
    pub kind: &'static Kind,
    pub name: Option<&'a str>,
}

/// Whether a policy decides, or only says what it would have decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Enforce,
    Shadow,
}

impl From<Mode> for metrics::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Enforce => Self::Enforce,
            Mode::Shadow => Self::Shadow,
        }
    }
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Shadow => "shadow",
        }
    }
}

/// What stands under the key of a policy.
#[derive(Debug)]
pub enum Entry {
    /// `off`: removes what wider scopes wrote under this key.
    Off,
    On(On),
}

/// A policy that is written out.
#[derive(Debug)]
pub struct On {
    pub settings: Box<dyn Settings>,
    /// The requests it acts on; all by default.
    pub when: Option<OneOrMany<Match>>,
    pub mode: Mode,
    /// Narrower scopes may neither replace nor remove it.
    pub lock: bool,
}

/// One line of `policies:`.
#[derive(Debug)]
pub struct Written {
    /// As written: `kind` or `kind.name`.
    pub key: Spanned<Box<str>>,
    pub kind: &'static Kind,
    pub entry: Entry,
}

/// The policies of one scope.
#[derive(Clone, Debug, Default)]
pub struct Policies(pub Arc<Vec<Written>>);

impl Policies {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Policies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;

        impl<'de> Visitor<'de> for Map {
            type Value = Vec<Written>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("policies by their keys")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(key) = map.next_key::<Spanned<PolicyName>>()? {
                    let (name, span) = key.into_parts();
                    let entry = map.next_value_seed(EntryOf(name.kind))?;
                    all.push(Written {
                        key: Spanned::new(name.text, span),
                        kind: name.kind,
                        entry,
                    });
                }
                Ok(all)
            }
        }

        deserializer
            .deserialize_map(Map)
            .map(|all| Policies(Arc::new(all)))
    }
}

/// A key, split into its kind and the name after the dot.
struct PolicyName {
    text: Box<str>,
    kind: &'static Kind,
}

impl<'de> Deserialize<'de> for PolicyName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (kind, name) = match text.split_once('.') {
            Some((kind, name)) => (kind, Some(name)),
            None => (text.as_str(), None),
        };
        let Some(kind) = registry::kind_of(kind) else {
            return Err(serde::de::Error::unknown_field(kind, KEYS));
        };
        if name.is_some_and(|name| !crate::units::is_name(name)) {
            return Err(serde::de::Error::custom(format_args!(
                "`{text}` is not the key of a policy\nhint: after the dot, a name of letters, digits, `_` and `-`"
            )));
        }
        Ok(Self {
            kind,
            text: text.into(),
        })
    }
}

/// Reads what stands under the key of a policy of this kind.
struct EntryOf(&'static Kind);

impl<'de> DeserializeSeed<'de> for EntryOf {
    type Value = Entry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entry, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for EntryOf {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = if self.0.bare { "`on`, `off`" } else { "`off`" };
        write!(f, "{words} or the settings of `{}`", self.0.key)
    }

    fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<Entry, E> {
        if on && self.0.bare {
            let nothing = std::iter::empty::<(&str, &str)>();
            let defaults = serde::de::value::MapDeserializer::new(nothing);
            return registry::settings(self.0, defaults).map(|settings| {
                Entry::On(On {
                    settings,
                    when: None,
                    mode: Mode::Enforce,
                    lock: false,
                })
            });
        }
        if on {
            return Err(E::custom(format_args!(
                "`{}` needs its settings here\nhint: only `off` can stand alone",
                self.0.key
            )));
        }
        Ok(Entry::Off)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Entry, E> {
        match text {
            "off" | "false" => self.visit_bool(false),
            "on" | "true" => self.visit_bool(true),
            _ => Err(E::invalid_type(serde::de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
        let mut wrapper = Wrapper::default();
        let settings = registry::settings(
            self.0,
            MapAccessDeserializer::new(Unwrap {
                map,
                wrapper: &mut wrapper,
            }),
        )?;
        if wrapper.when.is_some() && !self.0.conditional {
            return Err(serde::de::Error::custom(format_args!(
                "`{}` has no `when`: it would leave a door open\nhint: write it, or `off`, on the routes that you mean",
                self.0.key
            )));
        }
        let mode = wrapper.mode.unwrap_or_default();
        if mode == Mode::Shadow && self.0.alters {
            return Err(serde::de::Error::custom(format_args!(
                "`{}` can't be shadowed: it alters the exchange\nhint: `mode: shadow` is for policies that decide",
                self.0.key
            )));
        }
        Ok(Entry::On(On {
            settings,
            when: wrapper.when,
            mode,
            lock: wrapper.lock.unwrap_or_default().0,
        }))
    }
}

/// What any policy may have besides its own settings.
#[derive(Default)]
struct Wrapper {
    when: Option<OneOrMany<Match>>,
    mode: Option<Mode>,
    lock: Option<Toggle>,
}

/// Takes `when`, `mode` and `lock` out of a map and leaves the rest to the policy's own type, positions and all.
struct Unwrap<'w, A> {
    map: A,
    wrapper: &'w mut Wrapper,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Unwrap<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "when" => self.wrapper.when = Some(self.map.next_value()?),
                "mode" => self.wrapper.mode = Some(self.map.next_value()?),
                "lock" => self.wrapper.lock = Some(self.map.next_value()?),
                _ => {
                    let key = serde::de::value::CowStrDeserializer::new(key);
                    return seed.deserialize(key).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

impl Serialize for Policies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for written in self.0.iter() {
            map.serialize_entry(&**written.key, &written.entry.shown())?;
        }
        map.end()
    }
}

impl Entry {
    /// As it is shown to an operator.
    pub fn shown(&self) -> serde_json::Value {
        let on = match self {
            Entry::Off => return "off".into(),
            Entry::On(on) => on,
        };
        let mut shown = on.settings.shown();
        if let Some(fields) = shown.as_object_mut() {
            if let Some(when) = &on.when {
                fields.insert(
                    "when".into(),
                    serde_json::to_value(when).unwrap_or_default(),
                );
            }
            if on.mode == Mode::Shadow {
                fields.insert("mode".into(), "shadow".into());
            }
            if on.lock {
                fields.insert("lock".into(), true.into());
            }
        }
        shown
    }
}

impl JsonSchema for Policies {
    fn schema_name() -> Cow<'static, str> {
        "Policies".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Self::schema_of(generator, |_| true)
    }
}

impl Policies {
    /// The schema of a place that has some kinds only.
    pub fn schema_of(generator: &mut SchemaGenerator, has: fn(&Kind) -> bool) -> Schema {
        let mut properties = serde_json::Map::new();
        let mut patterns = serde_json::Map::new();
        for kind in registry::KINDS.iter().filter(|kind| has(kind)) {
            let name = format!("{}Entry", kind.key);
            if !generator.definitions().contains_key(&name) {
                let schema = entry_schema(kind, generator);
                generator.definitions_mut().insert(name.clone(), schema);
            }
            let schema = serde_json::json!({"$ref": format!("#/definitions/{name}")});
            properties.insert(kind.key.into(), schema.clone());
            patterns.insert(format!("^{}\\.[A-Za-z0-9_-]+$", kind.key), schema);
        }
        schemars::json_schema!({
            "description": "Policies by their keys: a kind, or `kind.name`.",
            "type": "object",
            "properties": properties,
            "patternProperties": patterns,
            "additionalProperties": false,
        })
    }
}

/// `off`, or the kind's own schema with `when`, `mode` and `lock` beside its fields.
fn entry_schema(kind: &Kind, generator: &mut SchemaGenerator) -> serde_json::Value {
    let when = generator.subschema_for::<OneOrMany<Match>>();
    let mode = generator.subschema_for::<Mode>();
    let lock = generator.subschema_for::<Toggle>();
    let reference = (kind.schema)(generator);
    let mut own = resolved(&reference, generator);
    if let Some(fields) = own.as_object_mut() {
        let properties = fields
            .entry("properties")
            .or_insert_with(|| serde_json::json!({}));
        if let Some(properties) = properties.as_object_mut() {
            properties.insert("when".into(), when.to_value());
            if !kind.alters {
                properties.insert("mode".into(), mode.to_value());
            }
            properties.insert("lock".into(), lock.to_value());
        }
    }
    let words = match kind.bare {
        true => serde_json::json!(["on", "off", true, false]),
        false => serde_json::json!(["off", false]),
    };
    serde_json::json!({"anyOf": [{"enum": words}, own]})
}

/// The definition behind a `$ref`, since `additionalProperties: false` can't be widened from outside.
fn resolved(schema: &Schema, generator: &SchemaGenerator) -> serde_json::Value {
    let value = schema.clone().to_value();
    let name = value
        .get("$ref")
        .and_then(|reference| reference.as_str())
        .and_then(|reference| reference.rsplit('/').next());
    name.and_then(|name| generator.definitions().get(name).cloned())
        .unwrap_or(value)
}

/// One policy that acts on a route, with the scope that wrote it.
#[derive(Clone, Copy, Debug)]
pub struct Effective<'a> {
    /// The place of its scope in the list that [`resolve`] was given.
    pub scope: usize,
    /// Its place in that scope.
    pub index: usize,
    pub written: &'a Written,
}

/// Whether the limits of plans don't act there: the narrowest scope that says something about it decides.
pub fn is_out_of_plans(scopes: &[&Policies]) -> bool {
    let mut written = scopes.iter().rev().flat_map(|scope| scope.0.iter());
    let says = written.find(|written| &**written.key.value() == "plan");
    says.is_some_and(|written| matches!(written.entry, Entry::Off))
}

/// Turns the scopes of a route, widest first, into the policies that act on it, in the order in which they act.
///
/// # Errors
/// A policy that replaces or removes a locked one; an `off` that removes nothing.
pub fn resolve<'a>(scopes: &[&'a Policies]) -> Result<Vec<Effective<'a>>, Vec<Diagnostic>> {
    let mut acting: Vec<Effective<'a>> = Vec::new();
    let mut errors = Vec::new();
    for (scope, policies) in scopes.iter().enumerate() {
        for (index, written) in policies.0.iter().enumerate() {
            let same = |other: &Effective<'_>| *other.written.key == *written.key;
            let replaces = matches!(written.entry, Entry::Off) || !written.kind.adds_up;
            if replaces {
                if let Some(locked) = acting
                    .iter()
                    .find(|other| same(other) && other.written.locked())
                {
                    errors.push(locked_error(written, locked.written.key.span()));
                    continue;
                }
                acting.retain(|other| !same(other));
            }
            if matches!(written.entry, Entry::On(_)) {
                acting.push(Effective {
                    scope,
                    index,
                    written,
                });
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    acting.sort_by(|one, other| {
        let stage = one.written.stage();
        let scopes = match stage.begins_within() {
            true => other.scope.cmp(&one.scope),
            false => one.scope.cmp(&other.scope),
        };
        let keys = || one.written.key.value().cmp(other.written.key.value());
        stage
            .cmp(&other.written.stage())
            .then(scopes)
            .then_with(keys)
    });
    Ok(acting)
}

fn locked_error(written: &Written, lock: Span) -> Diagnostic {
    Diagnostic::error(
        format!("`{}` is locked by a wider scope", &**written.key),
        written.key.span(),
    )
    .hint("a locked policy can be neither replaced nor turned off below")
    .related(lock, "locked here")
}

impl Written {
    /// Where it acts.
    pub fn stage(&self) -> Stage {
        match &self.entry {
            Entry::On(on) => on.settings.stage(),
            Entry::Off => self.kind.stage,
        }
    }

    fn locked(&self) -> bool {
        matches!(&self.entry, Entry::On(on) if on.lock)
    }
}
