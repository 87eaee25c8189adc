//! How much memory: so many bytes, or a part of what there is.

use super::{ByteSize, Invalid, Ratio, written_as_text};
use std::fmt;
use std::str::FromStr;

/// `2GiB`, or `80%` of the memory that the process could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryBound {
    Size(ByteSize),
    Share(Ratio),
}

impl FromStr for MemoryBound {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.ends_with('%') {
            true => text.parse().map(Self::Share),
            false => text.parse().map(Self::Size),
        }
    }
}

impl fmt::Display for MemoryBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => size.fmt(f),
            Self::Share(share) => share.fmt(f),
        }
    }
}

written_as_text!(MemoryBound, "a size or a ratio, such as `2GiB` or `80%`", {
    "description": "So many bytes, or a part of the memory that the process may have: the limit of its cgroup, else that of the machine.",
    "type": "string",
    "pattern": "^([0-9]+(B|KiB|MiB|GiB)|[0-9]+(\\.[0-9]{1,4})?%)$",
    "examples": ["2GiB", "80%"],
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_back() {
        for text in ["2GiB", "80%", "0.5%", "100000B"] {
            let bound: MemoryBound = text.parse().unwrap();
            assert_eq!(bound.to_string(), text);
        }
        for text in ["", "80", "2GB", "101%", "%"] {
            assert!(text.parse::<MemoryBound>().is_err(), "{text}");
        }
    }
}
