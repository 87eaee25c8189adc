//! JSON as strict as signed data has to be: two readers must not see two meanings.
//!
//! UTF-8 only, nothing behind the value, no repeated member names (RFC 8259 §4 leaves open which one counts, and
//! attackers choose), no deeper than [`DEPTH_MAX`], and numbers that are numbers.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// How deep arrays and objects may lie in each other.
pub const DEPTH_MAX: u8 = 16;

/// The object that is all of the text; none if it is anything else.
pub fn object(text: &[u8]) -> Option<Map<String, Value>> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict { room: DEPTH_MAX }
        .deserialize(&mut deserializer)
        .ok()?;
    deserializer.end().ok()?;
    match value {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// A value that may hold this many levels.
#[derive(Clone, Copy)]
struct Strict {
    room: u8,
}

impl Strict {
    fn inner<E: Error>(self) -> Result<Self, E> {
        let room = self.room.checked_sub(1);
        room.map(|room| Self { room })
            .ok_or_else(|| E::custom("too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(inner)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a member is repeated"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_one_meaning_is_read() {
        for text in [
            &b"{}"[..],
            br#"{"a":1,"b":[true,null,"x",{"a":2}]}"#,
            b" {\"a\": -1.5e3 } \n",
            // another extension of serde_json must not be reached from outside
            br#"{"$serde_json::private::RawValue":"1"}"#,
        ] {
            assert!(object(text).is_some(), "{}", String::from_utf8_lossy(text));
        }
        for text in [
            &b""[..],
            b"1",
            b"[]",
            b"null",
            b"{}x",
            b"{}{}",
            b"{}\0",
            b"{\"a\":1,}",
            b"{\"a\":1,\"a\":1}",
            // the same name in other letters
            br#"{"a":1,"\u0061":2}"#,
            br#"{"b":{"exp":1,"exp":2}}"#,
            b"{\"a\":NaN}",
            b"{\"a\":Infinity}",
            b"{\"a\":1e999}",
            b"{\"a\":01}",
            b"{'a':1}",
            b"\xef\xbb\xbf{}",
            b"{\"a\":\"\xff\"}",
            b"{\"a\":\"\xc0\xaf\"}",
            br#"{"a":"\ud800"}"#,
            b"{\"a\":\"\n\"}",
        ] {
            assert!(object(text).is_none(), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn the_depth_has_a_bound() {
        let nested = |levels: usize| {
            let inner = levels - 1;
            format!("{{\"a\":{}{}}}", "[".repeat(inner), "]".repeat(inner))
        };
        assert!(object(nested(usize::from(DEPTH_MAX)).as_bytes()).is_some());
        assert!(object(nested(usize::from(DEPTH_MAX) + 1).as_bytes()).is_none());
        assert!(object(nested(100_000).as_bytes()).is_none());
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_what_serde_json_reads(text in "[\\{\\}\\[\\]\":,a-c0-9\\\\. ]{0,40}") {
            if let Some(read) = object(text.as_bytes()) {
                prop_assert_eq!(Value::Object(read), serde_json::from_str::<Value>(&text).unwrap());
            }
        }
    }
}
