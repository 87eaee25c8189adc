//! What a file named in the configuration holds.

use super::protocol;
use super::span::next;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// A file named by its path, read while the configuration is loaded: whatever is made of it later needs no disk, and an
/// unreadable file is an error at the line that names it. Relative paths begin at the file in which they stand.
///
/// It may be a private key: no output shows more than the path, and it is overwritten in memory when dropped.
#[derive(Clone)]
pub struct FileText {
    /// The path, with a relative one resolved.
    pub path: PathBuf,
    /// All bytes of the file.
    pub text: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for FileText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

/// Bytes as serde hands them over, where a plain `Vec` would ask for a list of numbers.
pub(super) struct Bytes(pub Zeroizing<Vec<u8>>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;

        impl Visitor<'_> for Whole {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(Zeroizing::new(bytes.to_vec())))
            }
        }

        deserializer.deserialize_bytes(Whole)
    }
}

impl<'de> Deserialize<'de> for FileText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(protocol::FILE_TEXT, Parts)
    }
}

struct Parts;

impl<'de> Visitor<'de> for Parts {
    type Value = FileText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the path of a file")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<FileText, A::Error> {
        let path: String = next(&mut parts)?;
        let Bytes(text) = next(&mut parts)?;
        Ok(FileText {
            path: path.into(),
            text,
        })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, _: D) -> Result<FileText, D::Error> {
        Err(D::Error::custom(
            "files are read only where a configuration is loaded from one",
        ))
    }
}

/// A file of many lines, which may be much larger than other files that a value names.
#[derive(Clone, Debug)]
pub struct LargeFile(pub FileText);

impl<'de> Deserialize<'de> for LargeFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let file = deserializer.deserialize_newtype_struct(protocol::LARGE_FILE, Parts)?;
        Ok(Self(file))
    }
}

impl Serialize for LargeFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl JsonSchema for LargeFile {
    fn schema_name() -> Cow<'static, str> {
        FileText::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        FileText::json_schema(generator)
    }
}

impl Serialize for FileText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.path.display())
    }
}

impl JsonSchema for FileText {
    fn schema_name() -> Cow<'static, str> {
        "FileText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "description": "The path of a file; a relative one begins at the file in which it stands.",
            "type": "string",
            "minLength": 1,
        })
    }
}
