//! Maps from names to what they name.

use crate::units::{Name, Spanned, protocol};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::marker::PhantomData;

/// Named things, in the order in which they were written, which means nothing.
#[derive(Debug)]
pub struct Named<T>(pub Vec<(Spanned<Name>, T)>, Index);

/// Where each name stands, and the names that were written in vain.
#[derive(Debug, Default)]
struct Index {
    places: HashMap<Name, usize>,
    broken: BTreeSet<Box<str>>,
}

impl<T> Named<T> {
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Spanned<Name>, &T)> + Clone {
        self.0.iter().map(|(name, value)| (name, value))
    }

    pub fn get(&self, name: &str) -> Option<&T> {
        self.entry(name).map(|(_, value)| value)
    }

    /// The name with its place, and what it names.
    pub fn entry(&self, name: &str) -> Option<(&Spanned<Name>, &T)> {
        let (name, value) = self.0.get(*self.1.places.get(name)?)?;
        Some((name, value))
    }

    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether that name was written, but what it names could not be read. A reference to it does not dangle; its
    /// errors are reported where it is written.
    pub fn is_broken(&self, name: &str) -> bool {
        self.1.broken.contains(name)
    }

    /// Whether any name was written in vain.
    pub fn has_broken(&self) -> bool {
        !self.1.broken.is_empty()
    }

    /// Adds a thing. A later one of the same name is not found by it.
    pub fn push(&mut self, name: Spanned<Name>, value: T) {
        self.1
            .places
            .entry(name.value().clone())
            .or_insert(self.0.len());
        self.0.push((name, value));
    }
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new(), Index::default())
    }
}

impl<T> FromIterator<(Spanned<Name>, T)> for Named<T> {
    fn from_iter<I: IntoIterator<Item = (Spanned<Name>, T)>>(items: I) -> Self {
        let mut named = Self::default();
        for (name, value) in items {
            named.push(name, value);
        }
        named
    }
}

impl<'a, T> IntoIterator for &'a Named<T> {
    type Item = &'a (Spanned<Name>, T);
    type IntoIter = std::slice::Iter<'a, (Spanned<Name>, T)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(protocol::NAMED, Resuming(PhantomData))
    }
}

/// Reads on after the error of an entry, which the configuration's deserialiser has then reported.
struct Resuming<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Resuming<T> {
    type Value = Named<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
        let mut named = Named::default();
        loop {
            let name = match map.next_key::<Spanned<Name>>() {
                Ok(Some(name)) => name,
                Ok(None) => return Ok(named),
                Err(_) => continue,
            };
            match map.next_value() {
                // it was read in the end, but not all of what was written
                Ok(_) if named.1.broken.contains(name.as_str()) => {}
                Ok(value) => named.push(name, value),
                Err(_) => {
                    named.1.broken.insert(name.as_str().into());
                }
            }
        }
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, plain: D) -> Result<Named<T>, D::Error> {
        plain.deserialize_map(Strict(PhantomData))
    }
}

/// The same from any deserialiser: the first error ends it.
struct Strict<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Strict<T> {
    type Value = Named<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
        let mut named = Named::default();
        while let Some((name, value)) = map.next_entry()? {
            named.push(name, value);
        }
        Ok(named)
    }
}

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Named{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        let name = generator.subschema_for::<Name>();
        schemars::json_schema!({
            "type": "object",
            "additionalProperties": value,
            "propertyNames": name,
        })
    }
}
