//! Lists of what is revoked: ids of keys, or the `jti` of tokens (RFC 7519 §4.1.7), one in each line of a file.

use super::lines::{LineError, ids};
use ahash::AHashSet;

/// Revoked ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked(AHashSet<Box<str>>);

impl Revoked {
    /// Reads a list.
    ///
    /// # Errors
    /// The first line that is more than an id.
    pub fn parse(text: &str) -> Result<Self, LineError> {
        let ids = ids(text).map(|id| id.map(|(_, id)| id.into()));
        ids.collect::<Result<_, _>>().map(Self)
    }

    pub fn contains(&self, id: &str) -> bool {
        self.0.contains(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|id| &**id)
    }

    /// Adds the ids of another list.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Box<str>> for Revoked {
    fn from_iter<I: IntoIterator<Item = Box<str>>>(ids: I) -> Self {
        Self(ids.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_asked_by_id() {
        let mut list = Revoked::parse("a\n# b\nc # stolen\na\n").unwrap();
        list.extend(Revoked::parse("d").unwrap());
        assert!(list.contains("a") && list.contains("c") && list.contains("d"));
        assert!(!list.contains("b") && !list.contains("A"));
        assert_eq!((list.len(), list.iter().count()), (3, 3));
        assert!(Revoked::parse("a b").is_err());
        assert!(Revoked::parse("").unwrap().is_empty());
    }
}
