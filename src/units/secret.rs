//! Text that must not be seen.

use super::protocol;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use zeroize::Zeroizing;

/// What is shown instead of a secret. Reading it back is an error, so that a masked configuration is never applied.
pub const MASK: &str = "***";

/// A password, key or token: written `${file:/path}` or `${credential:name}`, or in place. It is never empty, is
/// overwritten in memory when dropped, and no output shows it.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The secret, for the one place that uses it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret, such as `${file:/path}`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
                self.visit_string(text.to_owned())
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Secret, E> {
                let text = Zeroizing::new(text);
                match text.as_str() {
                    "" => Err(E::custom("the secret is empty")),
                    MASK => Err(E::custom(
                        "this is a mask, not a secret\nhint: write the secret or a reference to it",
                    )),
                    _ => Ok(Secret(text)),
                }
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                plain: D,
            ) -> Result<Secret, D::Error> {
                plain.deserialize_string(self)
            }
        }

        deserializer.deserialize_newtype_struct(protocol::SECRET, Text)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "description": "A secret: `${file:/path}`, `${credential:name}` (systemd), or `${env:NAME}`.",
            "type": "string",
            "minLength": 1,
            "examples": ["${file:/etc/northgate/secrets/key}", "${credential:key}"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_in_no_output() {
        let secret: Secret = serde_json::from_str("\"hunter2\"").expect("a secret");
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(serde_json::to_string(&secret).expect("JSON"), "\"***\"");
    }

    #[test]
    fn neither_nothing_nor_a_mask_is_a_secret() {
        assert!(serde_json::from_str::<Secret>("\"\"").is_err());
        assert!(serde_json::from_str::<Secret>("\"***\"").is_err());
    }
}
