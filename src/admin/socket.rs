//! Where the admin socket is, and making its place ready: Pingora would remove whatever stands there.

use nix::unistd::{AccessFlags, access};
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Where a packaged gateway listens.
const SYSTEM: &str = "/run/northgate/admin.sock";
/// A socket's path, with its end, in Linux (unix(7)).
const PATH_BYTES_MAX: usize = 107;

/// Why there can be no socket at that path.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("the path is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    #[error("something other than a socket is there")]
    NotASocket,
    #[error("another process listens there")]
    Taken,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where to listen and where to look, unless the configuration names a place: the system's, and for those who are not
/// root their own.
pub fn default_sockets() -> Vec<PathBuf> {
    sockets(std::env::var_os("XDG_RUNTIME_DIR"))
}

fn sockets(runtime_folder: Option<OsString>) -> Vec<PathBuf> {
    let own = runtime_folder
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute());
    let own = own.map(|folder| folder.join("northgate").join("admin.sock"));
    std::iter::once(PathBuf::from(SYSTEM)).chain(own).collect()
}

/// The first of these places where a socket can be.
///
/// # Errors
/// Each place, and why there can be none.
pub fn choose_socket(places: Vec<PathBuf>) -> Result<PathBuf, Vec<(PathBuf, SocketError)>> {
    let mut failures = Vec::new();
    for place in places {
        match prepare_socket(&place) {
            Ok(()) => return Ok(place),
            Err(error) => failures.push((place, error)),
        }
    }
    Err(failures)
}

/// Makes sure that a socket can be bound there: creates the folder, removes a socket that a dead process left.
///
/// # Errors
/// If something is in the way, such as another gateway that answers.
pub fn prepare_socket(path: &Path) -> Result<(), SocketError> {
    if path.as_os_str().len() > PATH_BYTES_MAX {
        return Err(SocketError::TooLong);
    }
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(folder)?;
        access(folder, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from)?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(found) if !found.file_type().is_socket() => Err(SocketError::NotASocket),
        Ok(_) => remove_dead(path),
    }
}

fn remove_dead(path: &Path) -> Result<(), SocketError> {
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Taken),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Ok(fs::remove_file(path)?)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn who_has_a_runtime_folder_has_a_place_of_their_own() {
        let own = PathBuf::from("/run/user/7/northgate/admin.sock");
        assert_eq!(
            sockets(Some("/run/user/7".into())),
            [PathBuf::from(SYSTEM), own]
        );
        assert_eq!(sockets(Some("relative".into())), [PathBuf::from(SYSTEM)]);
        assert_eq!(sockets(None), [PathBuf::from(SYSTEM)]);
    }

    #[test]
    fn a_dead_socket_is_removed_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/admin.sock");
        prepare_socket(&path).unwrap();
        let live = UnixListener::bind(&path).unwrap();
        assert!(matches!(prepare_socket(&path), Err(SocketError::Taken)));
        drop(live);
        prepare_socket(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            prepare_socket(&path),
            Err(SocketError::NotASocket)
        ));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let long = folder.path().join("x".repeat(120));
        assert!(matches!(prepare_socket(&long), Err(SocketError::TooLong)));
    }

    #[test]
    fn the_first_place_that_can_be_is_chosen() {
        let folder = tempfile::tempdir().unwrap();
        let (file, free) = (folder.path().join("file"), folder.path().join("free"));
        fs::write(&file, "").unwrap();
        assert_eq!(
            choose_socket(vec![file.clone(), free.clone()]).unwrap(),
            free
        );
        assert_eq!(choose_socket(vec![file]).unwrap_err().len(), 1);
    }
}
