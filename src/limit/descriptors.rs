//! Who gets the last file descriptors.
//!
//! The kernel hands out the lowest descriptor that is free, so the number of a new one tells how many are in use, without
//! a count that everybody would share. Clients stop first, an eighth before the end; connections to endpoints go on for
//! three quarters of that, since somebody waits for them already; and the last of them are for the admin API, reloads,
//! health checks and logs, which are wanted most when all the others are gone.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::os::fd::RawFd;

/// What clients do not get: an eighth, within these bounds.
const RESERVED: (u64, u64) = (16, 1024);

/// For whom a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A connection of a client.
    Client,
    /// A connection to an endpoint.
    Endpoint,
    /// A connection of somebody who looks how the process does.
    Operator,
}

/// Lets the process have as many as it may ever have, whatever it was started with: the lower bound that shells and
/// service managers set is for programs that use `select` (setrlimit(2), systemd.exec(5)). Tells how many those are.
///
/// # Errors
/// If the system refuses.
pub fn raise() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Descriptors below this one may be used so. It is asked for again and again: it can be changed while a process runs
/// (prlimit(2)).
///
/// # Errors
/// If the system does not tell.
pub fn at_most(for_whom: Use) -> io::Result<u64> {
    let (most, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(share(most, for_whom))
}

fn share(most: u64, for_whom: Use) -> u64 {
    let reserved = (most / 8).clamp(RESERVED.0, RESERVED.1);
    most.saturating_sub(match for_whom {
        Use::Client => reserved,
        Use::Endpoint => reserved / 4,
        Use::Operator => 0,
    })
}

/// Fails as if there were no descriptors left where this one is not below the bound.
///
/// # Errors
/// `EMFILE`.
pub fn within(descriptor: RawFd, at_most: u64) -> io::Result<()> {
    let descriptor = u64::try_from(descriptor).unwrap_or(u64::MAX);
    match descriptor < at_most {
        true => Ok(()),
        false => Err(Errno::EMFILE.into()),
    }
}

/// Whether the system had no descriptors, or no memory for a socket.
pub fn is_exhaustion(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_stop_before_connections_to_endpoints_and_those_before_the_end() {
        for (most, client, endpoint) in [
            (1_048_576, 1_047_552, 1_048_320),
            (1024, 896, 992),
            (128, 112, 124),
            (10, 0, 6),
        ] {
            assert_eq!(share(most, Use::Client), client);
            assert_eq!(share(most, Use::Endpoint), endpoint);
        }
    }

    #[test]
    fn the_number_of_a_descriptor_tells_how_many_there_are() {
        assert!(within(111, 112).is_ok());
        let error = within(112, 112).unwrap_err();
        assert!(is_exhaustion(&error), "{error}");
        assert!(!is_exhaustion(&Errno::ECONNREFUSED.into()));
    }
}
