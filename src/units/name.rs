//! Names of routes, services, listeners and the like.

use super::{Invalid, written_as_text};
use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

/// The longest name. Names are metric labels and log fields.
const LENGTH_MAX: usize = 64;

/// A name in the configuration: letters, digits, `_` and `-`, the first one a letter or a digit. Names that begin with
/// `_` are kept for what the gateway itself has to name, such as the label `_none`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Whether a text may be a [`Name`].
pub fn is_name(text: &str) -> bool {
    text.len() <= LENGTH_MAX
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl FromStr for Name {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if is_name(text) {
            return Ok(Self(text.into()));
        }
        let shown: String = text.chars().take(LENGTH_MAX).collect();
        let invalid = Invalid::new(format!("`{}` can't be a name", shown.escape_debug()));
        if text.len() > LENGTH_MAX {
            return Err(invalid.hint(format!("a name has at most {LENGTH_MAX} characters")));
        }
        Err(invalid.hint("letters, digits, `_` and `-`; the first one a letter or a digit"))
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

written_as_text!(Name, "a name", {
    "description": "A name: letters, digits, `_` and `-`.",
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_name_is_what_was_written(text in "[A-Za-z0-9][A-Za-z0-9_-]{0,63}") {
            let name: Name = text.parse().expect("a name");
            prop_assert_eq!(name.as_str(), text);
        }

        #[test]
        fn no_name_needs_escaping(text in ".*") {
            if let Ok(name) = text.parse::<Name>() {
                prop_assert!(!name.contains(['"', '\\', '\n', '/', '.', ' ']));
            }
        }
    }

    #[test]
    fn the_gateways_own_labels_are_not_names() {
        assert!(!is_name("_none"));
        assert!(!is_name("_other"));
    }
}
