//! The certificates in a folder.

use super::file_text::Bytes;
use super::span::next;
use super::{FileText, protocol};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

/// A folder named by its path, whose certificates and keys are read while the configuration is loaded, as those of a
/// [`FileText`] are. Never an empty one.
#[derive(Clone)]
pub struct CertificateFolder {
    /// The path, with a relative one resolved.
    pub path: PathBuf,
    pub pairs: Vec<CertificatePair>,
}

/// A certificate chain and its key, as two files hold them, or one.
#[derive(Clone, Debug)]
pub struct CertificatePair {
    /// The path of the chain below the folder.
    pub name: String,
    pub chain: FileText,
    pub key: FileText,
}

impl fmt::Debug for CertificateFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

impl<'de> Deserialize<'de> for CertificateFolder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(protocol::CERTIFICATE_FOLDER, Parts)
    }
}

struct Parts;

impl<'de> Visitor<'de> for Parts {
    type Value = CertificateFolder;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the path of a folder")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<CertificateFolder, A::Error> {
        let path: String = next(&mut parts)?;
        let mut pairs = Vec::new();
        while let Some(name) = parts.next_element()? {
            pairs.push(CertificatePair {
                name,
                chain: file(&mut parts)?,
                key: file(&mut parts)?,
            });
        }
        Ok(CertificateFolder {
            path: path.into(),
            pairs,
        })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        _: D,
    ) -> Result<CertificateFolder, D::Error> {
        Err(D::Error::custom(
            "folders are read only where a configuration is loaded from a file",
        ))
    }
}

fn file<'de, A: SeqAccess<'de>>(parts: &mut A) -> Result<FileText, A::Error> {
    let path: String = next(parts)?;
    let Bytes(text) = next(parts)?;
    Ok(FileText {
        path: path.into(),
        text,
    })
}

impl Serialize for CertificateFolder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.path.display())
    }
}

impl JsonSchema for CertificateFolder {
    fn schema_name() -> Cow<'static, str> {
        "CertificateFolder".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "description": "The path of a folder; a relative one begins at the file in which it stands.",
            "type": "string",
            "minLength": 1,
        })
    }
}
