//! Values that carry their meaning, parsed once: durations, sizes, rates, addresses, names, secrets.
//!
//! Every type here is written as text, reads back what it prints, and says in its error what to write instead. The
//! wrappers ([`Spanned`], [`OneOrMany`], [`OrOff`], [`Secret`], [`FileText`]) are understood by the configuration's own
//! deserialiser through the names in [`protocol`]; with any other deserialiser they read plain values.

mod address;
mod certificate_folder;
mod cidr;
mod duration;
mod file_text;
mod header;
mod media;
mod memory;
mod name;
mod networks;
mod off;
mod one_or_many;
mod quantity;
mod secret;
mod span;
mod status;
mod timestamp;

pub use address::{Address, overlap};
pub use certificate_folder::{CertificateFolder, CertificatePair};
pub use cidr::Cidr;
pub use duration::{Duration, TimeBound, whole_seconds};
pub use file_text::{FileText, LargeFile};
pub use header::{HeaderNameText, HeaderValueText, MethodText};
pub use media::MediaPattern;
pub use memory::MemoryBound;
pub use name::{Name, is_name};
pub use networks::{AddressSet, Networks};
pub use off::{OrOff, OrOn, Toggle};
pub(crate) use one_or_many::EMPTY_LIST;
pub use one_or_many::OneOrMany;
pub use quantity::{ByteSize, Count, Rate, Ratio};
pub use secret::{MASK, Secret};
pub use span::{FileId, Span, Spanned};
pub use status::StatusRange;
pub use timestamp::Timestamp;

use std::fmt;

/// The newtype names by which a wrapper asks the configuration's deserialiser for more than serde's data model has.
/// Another deserialiser does not know them and calls `visit_newtype_struct`, which reads the plain value.
pub mod protocol {
    /// A sequence: file, start, end, and the value.
    pub const SPANNED: &str = "$northgate::Spanned";
    /// A sequence, also where one value was written without brackets; never an empty one.
    pub const ONE_OR_MANY: &str = "$northgate::OneOrMany";
    /// `visit_none` for `off`, else `visit_some`.
    pub const OR_OFF: &str = "$northgate::OrOff";
    /// A string in which references to secrets are resolved.
    pub const SECRET: &str = "$northgate::Secret";
    /// A sequence: the resolved path and the bytes of the file.
    pub const FILE_TEXT: &str = "$northgate::FileText";
    /// The same for a text; anything else is read as it stands, by `visit_newtype_struct`.
    pub const FILE_TEXT_OR_FIELDS: &str = "$northgate::FileTextOrFields";
    /// The same of a file that may be much larger.
    pub const LARGE_FILE: &str = "$northgate::LargeFile";
    /// A sequence: the resolved path of the folder, and for each certificate its name, then path and bytes of its chain
    /// and of its key.
    pub const CERTIFICATE_FOLDER: &str = "$northgate::CertificateFolder";
    /// A string; as a key, one that no earlier key of its map equals but for upper and lower case.
    pub const HEADER_NAME: &str = "$northgate::HeaderName";
    /// A map that may be read on after the error of an entry: the same entry comes again, without the part that
    /// failed, as long as something of it is left.
    pub const NAMED: &str = "$northgate::Named";
}

/// Why a text is not a value of its type, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub message: String,
    pub hint: Option<String>,
}

impl Invalid {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Two lines, which the configuration's deserialiser takes apart again: the message, and `hint: …`.
impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Invalid {}

/// Gives a type that is written as text its serde traits and its schema, by way of `FromStr` and `Display`.
macro_rules! written_as_text {
    ($type:ident, $expected:literal, $schema:tt) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl serde::de::Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}
use written_as_text;

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples that each schema's pattern must accept, so that editors agree with the parser.
    fn accepts<T: schemars::JsonSchema + std::str::FromStr>(samples: &[&str]) {
        let schema = schemars::schema_for!(T);
        let pattern = schema
            .get("pattern")
            .and_then(|value| value.as_str())
            .expect("a pattern");
        let pattern = regex::Regex::new(pattern).expect("a valid pattern");
        for sample in samples {
            assert_eq!(
                pattern.is_match(sample),
                sample.parse::<T>().is_ok(),
                "{sample}"
            );
        }
    }

    #[test]
    fn schemas_accept_what_the_parsers_accept() {
        accepts::<Duration>(&[
            "250ms", "30s", "5m", "1h", "30d", "30", "", "1.5s", "-1s", "1h30m", "1 s",
        ]);
        accepts::<TimeBound>(&["250ms", "30s", "010s", "0s", "00ms", "30", ""]);
        accepts::<ByteSize>(&["64KiB", "10MiB", "1GiB", "12B", "12", "10MB", "10mib"]);
        accepts::<Rate>(&["100/1s", "5000/1h", "1/250ms", "100/s", "100"]);
        accepts::<Ratio>(&["20%", "0.5%", "100%", "0%", "20", "0.2"]);
        accepts::<Name>(&["orders", "a-b_c", "A1", "-a", "", "a.b", "a b"]);
        accepts::<HeaderNameText>(&["x-request-id", "Accept", "a b", ""]);
        accepts::<MediaPattern>(&[
            "text/*",
            "application/*+json",
            "a/b",
            "a",
            "a/*b",
            "*/*",
            "a/b;c",
        ]);
    }

    #[test]
    fn a_hint_is_the_second_line() {
        let invalid = Invalid::new("no").hint("yes");
        assert_eq!(invalid.to_string(), "no\nhint: yes");
    }
}
