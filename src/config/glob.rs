//! File patterns: `*` stands for any part of a name, `?` for one character, neither for `/`.
//!
//! A name that begins with a dot is only matched by a pattern that does: editors and deployments leave such files.

use std::io;
use std::path::{Path, PathBuf};

/// Whether a path is a pattern.
pub(super) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?'])
}

/// What a pattern found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Files, sorted.
    pub files: Vec<PathBuf>,
    /// Directories that were looked through: a new file in one of them could match.
    pub directories: Vec<PathBuf>,
}

/// The files that a pattern matches, beginning at a directory.
///
/// # Errors
/// A directory on the way exists and can't be read.
pub(super) fn find(base: &Path, pattern: &str) -> io::Result<Found> {
    let mut found = Found::default();
    let mut level = vec![match pattern.starts_with('/') {
        true => PathBuf::from("/"),
        false => base.to_owned(),
    }];
    let mut parts = pattern
        .split('/')
        .filter(|part| !part.is_empty())
        .peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let mut next = Vec::new();
        for directory in level {
            if is_pattern(part) {
                next.extend(matching(&directory, part, last)?);
                found.directories.push(directory);
            } else {
                let path = directory.join(part);
                if !last || path.is_file() {
                    next.push(path);
                }
            }
        }
        level = next;
    }
    level.sort();
    found.files = level;
    Ok(found)
}

/// What in a directory has a matching name, and is a directory or not, as asked for. What is neither directory nor file,
/// such as a link that leads nowhere, is an error when it is read: left out, it would take its routes along.
fn matching(directory: &Path, pattern: &str, files: bool) -> io::Result<Vec<PathBuf>> {
    // `read_dir("")` fails, where an empty path means this directory
    let listed = match directory.as_os_str().is_empty() {
        true => Path::new("."),
        false => directory,
    };
    let entries = match std::fs::read_dir(listed) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let path = directory.join(name);
        if matches(pattern, name) && path.is_dir() != files {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Whether a name matches one part of a pattern.
fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    // where the last `*` stood, and what it took so far: only that one ever has to take more
    let (mut at, mut star) = (0, None);
    let name: Vec<char> = name.chars().collect();
    let mut taken = 0;
    while let Some(character) = name.get(taken) {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at + 1, taken));
                at += 1;
            }
            Some(expected) if *expected == '?' || expected == character => {
                at += 1;
                taken += 1;
            }
            _ => match &mut star {
                Some((after, from)) => {
                    *from += 1;
                    (at, taken) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    pattern
        .get(at..)
        .is_some_and(|rest| rest.iter().all(|part| *part == '*'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn regex(pattern: &str) -> regex::Regex {
        let escaped = regex::escape(pattern)
            .replace("\\*", ".*")
            .replace("\\?", ".");
        regex::Regex::new(&format!("^{escaped}$")).expect("a pattern")
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_its_regex_does(pattern in "[ab*?]{0,8}", name in "[ab]{0,8}") {
            prop_assert_eq!(matches(&pattern, &name), regex(&pattern).is_match(&name));
        }
    }

    #[test]
    fn hidden_files_are_found_only_on_request() {
        assert!(matches("*.yaml", "a.yaml"));
        assert!(!matches("*.yaml", ".a.yaml"));
        assert!(matches(".*.yaml", ".a.yaml"));
    }

    #[test]
    fn files_are_found_sorted_and_directories_are_not_files() -> io::Result<()> {
        let base = tempfile::tempdir()?;
        for name in ["b.yaml", "a.yaml", "c.yml", ".d.yaml"] {
            std::fs::write(base.path().join(name), "")?;
        }
        std::fs::create_dir(base.path().join("e.yaml"))?;
        std::fs::create_dir(base.path().join("team"))?;
        std::fs::write(base.path().join("team/routes.yaml"), "")?;
        let names = |pattern: &str| -> io::Result<Vec<String>> {
            let found = find(base.path(), pattern)?;
            let names = found
                .files
                .iter()
                .filter_map(|path| path.strip_prefix(base.path()).ok());
            Ok(names.map(|path| path.display().to_string()).collect())
        };
        assert_eq!(names("*.yaml")?, ["a.yaml", "b.yaml"]);
        assert_eq!(names("t*/*.yaml")?, ["team/routes.yaml"]);
        assert_eq!(names("nothing/*.yaml")?, Vec::<String>::new());
        assert_eq!(find(base.path(), "t*/*.yaml")?.directories.len(), 2);
        Ok(())
    }
}
