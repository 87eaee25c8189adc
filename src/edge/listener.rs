//! What a listener is, and the sockets that it accepts on.

use super::Limits;
use crate::exchange::client::TrustedProxies;
use crate::exchange::connection::ListenerFacts;
use crate::tls::TlsListener;
use crate::units::overlap;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, UnixAddr,
    bind, getsockopt, listen, setsockopt, socket, sockopt,
};
use std::fmt;
use std::fs::Permissions;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What a socket takes beyond what is under way to its client. The kernel would take megabytes of an answer that nobody
/// reads.
const UNSENT_BYTES: u32 = 128 << 10;

/// Seconds between the kernel's probes of a silent client, and how many go unanswered before it gives the connection up:
/// with the silence before them two minutes in all by default, less than most firewalls remember a connection.
const PROBES: (u32, u32) = (15, 4);

/// Where to accept. Two are the same socket if the place is the same; the mode of a Unix socket can change.
#[derive(Clone, Debug)]
pub enum Address {
    /// `[::]` takes IPv4 too.
    Ip(SocketAddr),
    /// A path, and the permission bits of the socket.
    Unix(PathBuf, u32),
}

impl Address {
    /// Whether two sockets cannot have both: one port, and one of them on every interface.
    pub(super) fn overlaps(&self, other: &Address) -> bool {
        match (self, other) {
            (Address::Ip(one), Address::Ip(other)) => overlap(one, other),
            _ => false,
        }
    }

    fn place(&self) -> Result<&SocketAddr, &Path> {
        match self {
            Address::Ip(address) => Ok(address),
            Address::Unix(path, _) => Err(path),
        }
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Address {}

impl std::hash::Hash for Address {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.place().hash(state);
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Unix(path, _) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// HTTP/1.0 and HTTP/1.1.
    pub h1: bool,
    /// HTTP/2 over TLS, chosen by ALPN.
    pub h2: bool,
    /// HTTP/2 without TLS, with prior knowledge (RFC 9113 §3.3).
    pub h2c: bool,
}

/// What the kernel is told of a socket, and of the connections that are accepted on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Connections that wait to be accepted; none: as many as the kernel allows (`net.core.somaxconn`).
    pub backlog: Option<u32>,
    /// The silence after which a client is probed (`SO_KEEPALIVE`, `TCP_KEEPIDLE`).
    pub keepalive: Option<Duration>,
    /// How long what was sent may stay unacknowledged (`TCP_USER_TIMEOUT`, RFC 5482); none leaves it to the kernel.
    pub user_timeout: Option<Duration>,
    /// Whether another process of the same user may have the same address (`SO_REUSEPORT`).
    pub reuse_port: bool,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            backlog: None,
            keepalive: Some(Duration::from_secs(60)),
            user_timeout: Some(Duration::from_secs(60)),
            reuse_port: false,
        }
    }
}

/// One listener as it should be.
#[derive(Clone, Debug)]
pub struct ListenerSpec {
    /// Its name identifies it over reloads.
    pub facts: Arc<ListenerFacts>,
    pub addresses: Vec<Address>,
    pub protocols: Protocols,
    /// Every connection begins with the PROXY protocol's header, and comes from one of `trusted`.
    pub proxy_protocol: bool,
    /// Absent on a plaintext listener.
    pub tls: Option<Arc<TlsListener>>,
    pub limits: Limits,
    /// Whose connections are not counted by their address.
    pub trusted: TrustedProxies,
    pub socket: SocketOptions,
    /// Operators ask here how things are: that all clients together have too many connections does not keep them out.
    pub operators: bool,
}

/// An address that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("listener `{listener}` cannot be bound to {address}: {error}")]
pub struct BindError {
    pub listener: Arc<str>,
    pub address: Address,
    pub error: io::Error,
}

/// A listening socket. Dropping it closes it, and removes the file of a Unix socket.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(TcpListener),
    Unix {
        socket: UnixListener,
        path: PathBuf,
        /// Device and inode of the file that is ours: another process may have put its own in place.
        file: Option<(u64, u64)>,
    },
}

impl Bound {
    /// Binds and listens. With `shares`, other processes that say so too may have the address.
    pub(super) fn new(address: &Address, shares: bool) -> io::Result<Self> {
        match address {
            Address::Ip(address) => bind_ip(*address, shares).map(Bound::Tcp),
            Address::Unix(path, mode) => bind_unix(path, *mode),
        }
    }

    /// Like [`Bound::new`], where sockets of ours that are about to leave stand in the way: `0.0.0.0:80` cannot be had
    /// while `127.0.0.1:80` is, and a change must have the new one before it gives the old one up. For the moment of
    /// binding they share the port, which the kernel allows among sockets of one user that all say so (`SO_REUSEPORT`,
    /// socket(7)).
    pub(super) fn beside(address: &Address, leaving: &[&Bound]) -> io::Result<Self> {
        let Address::Ip(address) = address else {
            return Err(io::ErrorKind::AddrInUse.into());
        };
        let mut before = Vec::new();
        for bound in leaving {
            before.push(getsockopt(bound, sockopt::ReusePort)?);
            setsockopt(bound, sockopt::ReusePort, &true)?;
        }
        let result = bind_ip(*address, true);
        for (bound, shared) in leaving.iter().zip(before) {
            setsockopt(bound, sockopt::ReusePort, &shared)?;
        }
        result.map(Bound::Tcp)
    }

    /// The address that the kernel gave, where port 0 left it the choice; none on a Unix socket.
    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Bound::Tcp(socket) => socket.local_addr().ok(),
            Bound::Unix { .. } => None,
        }
    }

    /// Tells the kernel what holds for the queue and for connections that are accepted from now on, which inherit it. What
    /// it does not take stays as it was: a socket that listens is worth more than an option.
    pub(super) fn set_options(&self, options: &SocketOptions) {
        let Bound::Tcp(socket) = self else {
            return;
        };
        if let Err(error) = tell(socket, options) {
            let address = self.local_address();
            tracing::warn!(?address, ?options, %error, "a socket does not take its options");
        }
    }

    /// Gives the file of a Unix socket other permissions.
    pub(super) fn set_mode(&self, address: &Address) {
        if let (Bound::Unix { path, .. }, Address::Unix(_, mode)) = (self, address)
            && let Err(error) = std::fs::set_permissions(path, Permissions::from_mode(*mode))
        {
            tracing::warn!(path = %path.display(), %error, "the mode of a socket could not be changed");
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.local_address()) {
            (Bound::Unix { path, .. }, _) => write!(f, "unix:{}", path.display()),
            (Bound::Tcp(_), Some(address)) => address.fmt(f),
            (Bound::Tcp(_), None) => f.write_str("a socket"),
        }
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Bound::Tcp(socket) => socket.as_fd(),
            Bound::Unix { socket, .. } => socket.as_fd(),
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Bound::Unix { path, file, .. } = self
            && file.is_some()
            && identity_of(path) == *file
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// With `shares`, the port may be that of another socket while this one is bound.
fn bind_ip(address: SocketAddr, shares: bool) -> io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let fd = open(family)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::ReusePort, &shares)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    bound_unsent(&fd, UNSENT_BYTES);
    match address {
        SocketAddr::V4(address) => bind_to(&fd, &SockaddrIn::from(address))?,
        SocketAddr::V6(address) => {
            setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
            bind_to(&fd, &SockaddrIn6::from(address))?;
        }
    }
    start(&fd)?;
    setsockopt(&fd, sockopt::ReusePort, &false)?;
    Ok(TcpListener::from(fd))
}

/// Above so many unsent bytes a socket has no room for more (tcp(7), `TCP_NOTSENT_LOWAT`).
fn bound_unsent(socket: &OwnedFd, bytes: u32) {
    let (value, length) = (&raw const bytes, size_of::<u32>() as nix::libc::socklen_t);
    // SAFETY: the option is read from an integer of this length. Where it is not known, the kernel takes as much as it has
    // room for, as it always did.
    unsafe {
        nix::libc::setsockopt(
            socket.as_raw_fd(),
            nix::libc::IPPROTO_TCP,
            nix::libc::TCP_NOTSENT_LOWAT,
            value.cast(),
            length,
        );
    }
}

fn tell(socket: &TcpListener, options: &SocketOptions) -> nix::Result<()> {
    setsockopt(socket, sockopt::KeepAlive, &options.keepalive.is_some())?;
    if let Some(silence) = options.keepalive {
        let seconds = u32::try_from(silence.as_secs()).unwrap_or(u32::MAX);
        setsockopt(socket, sockopt::TcpKeepIdle, &seconds)?;
        setsockopt(socket, sockopt::TcpKeepInterval, &PROBES.0)?;
        setsockopt(socket, sockopt::TcpKeepCount, &PROBES.1)?;
    }
    let unacknowledged = options.user_timeout.map_or(0, |time| time.as_millis());
    let unacknowledged = u32::try_from(unacknowledged).unwrap_or(u32::MAX);
    setsockopt(socket, sockopt::TcpUserTimeout, &unacknowledged)?;
    setsockopt(socket, sockopt::ReusePort, &options.reuse_port)?;
    let backlog = options.backlog.and_then(|count| i32::try_from(count).ok());
    let backlog = backlog.and_then(|count| Backlog::new(count).ok());
    // once more on a socket that listens: only the length of its queue is another
    listen(socket, backlog.unwrap_or(Backlog::MAXALLOWABLE))
}

/// The permissions are set between `bind` and `listen`, when nobody can connect yet.
fn bind_unix(path: &Path, mode: u32) -> io::Result<Bound> {
    remove_stale(path)?;
    let fd = open(AddressFamily::Unix)?;
    bind_to(&fd, &UnixAddr::new(path)?)?;
    let bound = Bound::Unix {
        socket: UnixListener::from(fd),
        path: path.to_owned(),
        file: identity_of(path),
    };
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    if let Bound::Unix { socket, .. } = &bound {
        start(socket)?;
    }
    Ok(bound)
}

fn open(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(family, SockType::Stream, flags, None)?)
}

fn bind_to(fd: &OwnedFd, address: &dyn SockaddrLike) -> io::Result<()> {
    Ok(bind(fd.as_raw_fd(), address)?)
}

/// As long a queue as the kernel allows (`net.core.somaxconn`).
fn start(fd: &impl AsFd) -> io::Result<()> {
    Ok(listen(fd, Backlog::MAXALLOWABLE)?)
}

/// Removes a socket that nobody listens on any more, and nothing else.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the path exists and is not a socket",
        ));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) => Err(error),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    /// What the kernel says of a socket: the silence before a probe, and how long anything may be unacknowledged.
    fn told(socket: &impl AsFd) -> (bool, u32, u32) {
        (
            getsockopt(socket, sockopt::KeepAlive).unwrap(),
            getsockopt(socket, sockopt::TcpKeepIdle).unwrap(),
            getsockopt(socket, sockopt::TcpUserTimeout).unwrap(),
        )
    }

    #[test]
    fn accepted_connections_have_the_options_of_their_listener_as_they_are_by_then() {
        let bound = Bound::new(&Address::Ip(([127, 0, 0, 1], 0).into()), false).unwrap();
        let Bound::Tcp(listener) = &bound else {
            panic!("TCP")
        };
        listener.set_nonblocking(false).unwrap();
        let accept = || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (listener.accept().unwrap().0, client)
        };
        bound.set_options(&SocketOptions::default());
        let (first, _client) = accept();
        assert_eq!(told(&first), (true, 60, 60_000));
        assert!(getsockopt(&first, sockopt::TcpNoDelay).unwrap());
        bound.set_options(&SocketOptions {
            backlog: Some(7),
            keepalive: Some(Duration::from_secs(5)),
            user_timeout: None,
            reuse_port: true,
        });
        let (second, _client) = accept();
        assert_eq!(told(&second), (true, 5, 0));
        assert!(getsockopt(listener, sockopt::ReusePort).unwrap());
        bound.set_options(&SocketOptions {
            keepalive: None,
            ..SocketOptions::default()
        });
        let (third, _client) = accept();
        assert!(!told(&third).0);
        assert!(!getsockopt(listener, sockopt::ReusePort).unwrap());
    }

    #[test]
    fn an_address_that_is_shared_can_be_had_twice() {
        let first = Bound::new(&Address::Ip(([127, 0, 0, 1], 0).into()), true).unwrap();
        let shared = SocketOptions {
            reuse_port: true,
            ..SocketOptions::default()
        };
        first.set_options(&shared);
        let address = Address::Ip(first.local_address().unwrap());
        assert!(Bound::new(&address, false).is_err());
        assert!(Bound::new(&address, true).is_ok());
    }
}
