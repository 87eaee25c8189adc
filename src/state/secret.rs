//! Secrets that nobody has set: made once, and kept in the state directory so that they are the same after a restart.

use ahash::AHashMap;
use parking_lot::Mutex;
use rustls::crypto::aws_lc_rs;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A secret that the gateway made itself.
pub struct MadeSecret {
    pub bytes: Zeroizing<[u8; 32]>,
    /// The file that it is kept in, or why it will not outlive the process.
    pub kept: Result<PathBuf, String>,
}

/// The secrets of this process.
#[derive(Default)]
pub(super) struct Secrets {
    directory: Option<PathBuf>,
    /// Only those that are kept already are found there; none is made.
    reads_only: bool,
    made: Mutex<AHashMap<&'static str, Arc<MadeSecret>>>,
}

impl Secrets {
    pub fn kept_in(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            ..Self::default()
        }
    }

    pub fn found_in(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            reads_only: true,
            ..Self::default()
        }
    }

    /// # Errors
    /// The system gives no random numbers.
    pub fn find(&self, name: &'static str) -> io::Result<Arc<MadeSecret>> {
        let mut made = self.made.lock();
        if let Some(known) = made.get(name) {
            return Ok(known.clone());
        }
        let directory = self.directory.as_deref();
        let directory = directory.filter(|directory| {
            // another user's directory may not be looked into, and then the file might as well not be there
            !self.reads_only || File::open(path_in(directory, name)).is_ok()
        });
        let secret = Arc::new(find(directory, name, random()?));
        made.insert(name, secret.clone());
        Ok(secret)
    }
}

/// Where state is kept: systemd's `StateDirectory=`, else the user's (XDG Base Directory Specification).
pub fn directory() -> Option<PathBuf> {
    let absolute = |value: OsString| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
    let variable = |name| std::env::var_os(name).and_then(absolute);
    if let Some(several) = std::env::var_os("STATE_DIRECTORY") {
        // the first of several, which stand between colons
        return std::env::split_paths(&several).find(|path| path.is_absolute());
    }
    variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("northgate"))
}

fn find(directory: Option<&Path>, name: &str, made: Zeroizing<[u8; 32]>) -> MadeSecret {
    let Some(directory) = directory else {
        return MadeSecret {
            bytes: made,
            kept: Err("a gateway that runs keeps it in its state directory".to_owned()),
        };
    };
    let path = path_in(directory, name);
    match keep(directory, &path, &made) {
        Ok(bytes) => MadeSecret {
            bytes,
            kept: Ok(path),
        },
        Err(error) => MadeSecret {
            bytes: made,
            kept: Err(format!(
                "it can't be kept in {}, and ends with the process: {error}",
                path.display()
            )),
        },
    }
}

fn path_in(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.key"))
}

fn random() -> io::Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut *bytes)
        .map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(bytes)
}

/// Makes the directory of a file, for its owner alone.
pub(super) fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), make)
}

fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// The secret of that file, which is made with these bytes if there is none.
fn keep(directory: &Path, path: &Path, made: &[u8; 32]) -> io::Result<Zeroizing<[u8; 32]>> {
    make(directory)?;
    // a file that has its name is complete: whoever comes first gives it, and the others read it
    let part = directory.join(format!(".{}.{}", std::process::id(), made_name(made)));
    if !path.exists() {
        let written = write(&part, made).and_then(|()| std::fs::hard_link(&part, path));
        let _ = std::fs::remove_file(&part);
        match written {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let mut text = Zeroizing::new(String::new());
    // a longer file is not ours
    File::open(path)?.take(128).read_to_string(&mut text)?;
    parse(text.trim_end())
        .ok_or_else(|| io::Error::other("the file is not a key of 64 hexadecimal digits"))
}

/// A name that no other thread has at the same time.
fn made_name(made: &[u8; 32]) -> String {
    blake3::hash(made).to_hex().chars().take(16).collect()
}

fn write(path: &Path, made: &[u8; 32]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let hex = Zeroizing::new(blake3::Hash::from_bytes(*made).to_hex().to_string());
    writeln!(file, "{}", &*hex)?;
    file.sync_all()
}

fn parse(hex: &str) -> Option<Zeroizing<[u8; 32]>> {
    let hash = blake3::Hash::from_hex(hex).ok()?;
    Some(Zeroizing::new(*hash.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/northgate");
        let first = Secrets::kept_in(Some(state.clone()))
            .find("cookies")
            .unwrap();
        let again = Secrets::kept_in(Some(state.clone()))
            .find("cookies")
            .unwrap();
        assert_eq!(first.bytes, again.bytes);
        let path = again.kept.clone().unwrap();
        assert_eq!(path, state.join("cookies.key"));
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&state)), (0o600, 0o700));
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1);
    }

    #[test]
    fn who_only_reads_finds_what_is_kept_and_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("northgate");
        let found = Secrets::found_in(Some(state.clone()))
            .find("digests")
            .unwrap();
        assert!(found.kept.is_err() && !state.exists());
        let kept = Secrets::kept_in(Some(state.clone()))
            .find("digests")
            .unwrap();
        let found = Secrets::found_in(Some(state)).find("digests").unwrap();
        assert_eq!((&found.bytes, found.kept.is_ok()), (&kept.bytes, true));
    }

    #[test]
    fn threads_and_processes_agree_on_one_secret() {
        let dir = tempfile::tempdir().unwrap();
        let find = || {
            Secrets::kept_in(Some(dir.path().into()))
                .find("cookies")
                .unwrap()
        };
        let found: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(find)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(
            found
                .iter()
                .all(|secret| secret.bytes == found[0].bytes && secret.kept.is_ok())
        );
    }

    #[test]
    fn where_nothing_can_be_kept_it_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let secrets = Secrets::kept_in(Some(file));
        let secret = secrets.find("cookies").unwrap();
        assert!(
            secret
                .kept
                .as_ref()
                .unwrap_err()
                .contains("ends with the process")
        );
        assert_eq!(secret.bytes, secrets.find("cookies").unwrap().bytes);
        // what stands there is never overwritten
        std::fs::write(dir.path().join("cookies.key"), "short").unwrap();
        let secret = Secrets::kept_in(Some(dir.path().into()))
            .find("cookies")
            .unwrap();
        assert!(secret.kept.is_err());
        assert_eq!(
            std::fs::read_to_string(dir.path().join("cookies.key")).unwrap(),
            "short"
        );
    }
}
