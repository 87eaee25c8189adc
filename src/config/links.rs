//! Where a change shows that a path leads to something else now: the folder of the file, and those of the links on the
//! way to it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// As many links as Linux follows before it says that they go round in a circle (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

/// The folders to watch for what `path` leads to. Their own names hold no links: of a link that is pointed elsewhere,
/// the next call names another folder.
pub fn directories_of(path: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut links = 0;
    let mut at = PathBuf::new();
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // the last step first
    let mut steps = reversed(&absolute);
    while let Some(step) = steps.pop() {
        let next = match Path::new(&step).components().next() {
            Some(Component::ParentDir) => {
                at.pop();
                continue;
            }
            // of a root, `join` makes the root
            _ => at.join(&step),
        };
        match std::fs::read_link(&next) {
            Ok(target) if links < LINKS_MAX => {
                links += 1;
                found.insert(at.clone());
                steps.extend(reversed(&target));
            }
            _ => {
                if steps.is_empty() {
                    found.insert(at);
                }
                at = next;
            }
        }
    }
    found
}

fn reversed(path: &Path) -> Vec<OsString> {
    let steps = path.components().rev();
    let steps = steps.filter(|step| *step != Component::CurDir);
    steps.map(|step| step.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn without_links_it_is_the_folder_of_the_file() -> std::io::Result<()> {
        let base = tempfile::tempdir()?;
        let base = base.path().canonicalize()?;
        let found = directories_of(&base.join("a/./../northgate.yaml"));
        assert_eq!(found, BTreeSet::from([base]));
        Ok(())
    }

    #[test]
    fn links_are_followed_whether_they_stand_for_files_or_folders() -> std::io::Result<()> {
        let base = tempfile::tempdir()?;
        let base = base.path().canonicalize()?;
        for name in ["etc", "releases/1", "files"] {
            std::fs::create_dir_all(base.join(name))?;
        }
        symlink("releases/1", base.join("current"))?;
        symlink(base.join("files/real.yaml"), base.join("releases/1/a.yaml"))?;
        symlink("../current/a.yaml", base.join("etc/northgate.yaml"))?;
        let found = directories_of(&base.join("etc/northgate.yaml"));
        let expected = [
            base.join("etc"),
            base.clone(),
            base.join("releases/1"),
            base.join("files"),
        ];
        assert_eq!(found, BTreeSet::from(expected));
        Ok(())
    }

    #[test]
    fn a_circle_of_links_ends() -> std::io::Result<()> {
        let base = tempfile::tempdir()?;
        let base = base.path().canonicalize()?;
        symlink("b", base.join("a"))?;
        symlink("a", base.join("b"))?;
        assert_eq!(directories_of(&base.join("a")), BTreeSet::from([base]));
        Ok(())
    }
}
