//! Where a gateway's admin API listens, according to its configuration file.
//!
//! `northgate reload` must find the gateway above all when the file is broken: that is how one learns what is wrong. So
//! the block `admin:` is cut out and read alone, which is also fast however many routes there are. Only where that does
//! not tell (a root in braces, `${env:…}`) is the whole configuration read.

use super::AdminAddress;
use granit_parser::{Event, Parser};
use std::io;
use std::path::Path;

/// What the block says.
#[derive(Debug, PartialEq, Eq)]
enum Block {
    Says(Vec<AdminAddress>),
    /// It takes more than the block to know.
    Unclear,
}

/// The addresses that the file names; none if it names none.
///
/// # Errors
/// If it can't be read, or holds nothing.
pub fn configured(path: &Path) -> io::Result<Vec<AdminAddress>> {
    // a pipe would block, and a device never end; the gateway says what is wrong with them
    if path.exists() && !path.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a file",
        ));
    }
    let text = std::fs::read_to_string(path)?;
    if text.trim().is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
    }
    Ok(match block(&text) {
        Block::Says(addresses) => addresses,
        Block::Unclear => from_whole(path),
    })
}

fn block(text: &str) -> Block {
    let mut blocks = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with(['{', '"', '\'', '?', '&', '!']) {
            return Block::Unclear;
        }
        let blank = line.trim_start().is_empty() || line.starts_with('#');
        if !blank && !line.starts_with([' ', '\t']) {
            inside = is_admin(line);
        }
        if inside && !blank {
            blocks.extend([line, "\n"]);
        }
    }
    if blocks.is_empty() {
        return Block::Says(Vec::new());
    }
    addresses(&blocks.concat()).map_or(Block::Unclear, Block::Says)
}

fn is_admin(line: &str) -> bool {
    let after = line.strip_prefix("admin").map(str::trim_start);
    after.is_some_and(|after| after.starts_with(':'))
}

/// Reads `admin: {address: …}` with one address or a list. Any other key takes the whole to know what it means.
fn addresses(block: &str) -> Option<Vec<AdminAddress>> {
    let events: Result<Vec<_>, _> = Parser::new_from_str(block)
        .map(|event| Ok(event?.0))
        .collect();
    let mut events = events.map_err(|_: granit_parser::ScanError| ()).ok()?;
    events.retain(is_node);
    use Event::{MappingEnd, MappingStart, Scalar, SequenceEnd, SequenceStart};
    let texts = match events.as_slice() {
        [
            MappingStart(..),
            Scalar(..),
            MappingStart(..),
            MappingEnd,
            MappingEnd,
        ] => &[],
        [
            MappingStart(..),
            Scalar(..),
            MappingStart(..),
            key,
            one @ Scalar(..),
            MappingEnd,
            MappingEnd,
        ] if is_address(key) => std::slice::from_ref(one),
        [
            MappingStart(..),
            Scalar(..),
            MappingStart(..),
            key,
            SequenceStart(..),
            many @ ..,
            SequenceEnd,
            MappingEnd,
            MappingEnd,
        ] if is_address(key) => many,
        _ => return None,
    };
    texts.iter().map(address).collect()
}

/// Whether an event is of the tree, and not of the text around it.
fn is_node(event: &Event<'_>) -> bool {
    use Event::{
        Alias, MappingEnd, MappingStart, Scalar, SequenceEnd, SequenceStart, UnresolvedAlias,
    };
    matches!(
        event,
        Alias(..)
            | UnresolvedAlias(..)
            | Scalar(..)
            | MappingStart(..)
            | MappingEnd
            | SequenceStart(..)
            | SequenceEnd
    )
}

fn is_address(key: &Event<'_>) -> bool {
    matches!(key, Event::Scalar(text, ..) if text == "address")
}

fn address(event: &Event<'_>) -> Option<AdminAddress> {
    match event {
        Event::Scalar(text, ..) if !text.contains("${") => text.parse().ok(),
        _ => None,
    }
}

fn from_whole(path: &Path) -> Vec<AdminAddress> {
    let config = match crate::config::load(path) {
        Ok(loaded) => Some(loaded.config),
        Err(failure) => failure.partial,
    };
    let addresses = config.and_then(|config| config.admin.address);
    let addresses = addresses.into_iter().flat_map(|addresses| addresses.0);
    addresses
        .filter_map(|address| address.to_string().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(addresses: &[&str]) -> Block {
        Block::Says(
            addresses
                .iter()
                .map(|address| address.parse().unwrap())
                .collect(),
        )
    }

    #[test]
    fn the_block_is_read_in_every_form() {
        for text in [
            "version: 1\nadmin: {address: \"unix:/a\"}\nroutes: {}\n",
            "admin:\n  # why\n  address: unix:/a # here\nroutes:\n  admin: {address: x}\n",
            "admin :\n\n    address:\n      - unix:/a\n",
            "admin: {\n  address: unix:/a\n  }\n",
        ] {
            assert_eq!(block(text), says(&["unix:/a"]), "{text}");
        }
        let two = "admin:\n  address: [unix:/a, \"127.0.0.1:9901\"]\n";
        assert_eq!(block(two), says(&["unix:/a", "127.0.0.1:9901"]));
    }

    #[test]
    fn a_file_that_is_broken_elsewhere_still_tells() {
        let broken = "routes: [}\n\tx\nadmin: {address: unix:/a}\nlisteners: {a: b: c}\n";
        assert_eq!(block(broken), says(&["unix:/a"]));
    }

    #[test]
    fn a_file_without_the_block_names_no_place() {
        for text in [
            "",
            "version: 1\nadmins: {address: unix:/a}\n",
            "a:\n  admin: {address: unix:/a}\n",
            "admin: {}\n",
        ] {
            assert_eq!(block(text), says(&[]), "{text}");
        }
    }

    #[test]
    fn what_the_block_does_not_tell_is_left_to_the_whole() {
        for text in [
            "{version: 1, admin: {address: unix:/a}}\n",
            "\"admin\": {address: unix:/a}\n",
            "admin: {address: \"unix:${env:HOME}/a\"}\n",
            "admin: {address: localhost}\n",
            "admin: [\n",
        ] {
            assert_eq!(block(text), Block::Unclear, "{text}");
        }
    }
}
