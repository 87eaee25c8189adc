//! The loop that accepts.

use super::EdgeEvents;
use super::connection::Accepted;
use super::control::{Accepting, Acceptor, Target};
use super::listener::Bound;
use super::workers::Workers;
use crate::exchange::connection::Peer;
use crate::limit::descriptors::{self, Use};
use crate::supervisor::{Pauses, Supervisor};
use nix::errno::Errno;
use pingora_core::apps::HttpServerApp;
use rustix::net::{SocketFlags, acceptfrom_with};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;

/// The first pause after running out of file descriptors, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// So many connections are taken before other tasks get their turn. What they ask for at once takes a thread a millisecond.
const BATCH: usize = 16;
/// So near to the last descriptor each one is looked for before it is taken.
const NEAR: u64 = 64;

/// A socket just accepted, not yet in any runtime: it joins that of the thread which will serve it.
#[derive(Debug)]
pub(super) enum Incoming {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsRawFd for Incoming {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Incoming::Tcp(socket) => socket.as_raw_fd(),
            Incoming::Unix(socket) => socket.as_raw_fd(),
        }
    }
}

/// Tells when a listening socket has someone waiting. Tokio's own listeners accept into the runtime that waits, where a
/// connection would stay although another thread serves it; mere readiness it offers for streams, whose registration is
/// the same.
struct Readiness(tokio::net::TcpStream);

impl Readiness {
    fn of(bound: &Bound) -> io::Result<Self> {
        let descriptor = bound.as_fd().try_clone_to_owned()?;
        tokio::net::TcpStream::from_std(TcpStream::from(descriptor)).map(Self)
    }

    async fn wait(&self) {
        // an error shows again when the socket is asked for a connection
        let _ = self.0.readable().await;
    }

    /// Nobody waits any more: the next wait is for somebody new.
    fn accept(&self, bound: &Bound) -> io::Result<(Incoming, Peer)> {
        self.0.try_io(Interest::READABLE, || accept(bound))
    }
}

/// How a batch ended.
enum Step {
    /// There may be more.
    Accepted,
    /// Nobody waits.
    Empty,
    /// It would fail again at once: there are no descriptors, or there is no memory.
    Exhausted,
}

/// Accepts until it is stopped, whatever happens. Who comes while it is started again waits in the queue of the kernel.
pub(super) async fn keep<A>(
    supervisor: Arc<Supervisor>,
    workers: Arc<Workers<A>>,
    events: Arc<dyn EdgeEvents>,
    acceptor: Arc<Acceptor>,
    accepting: Accepting,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    let task = format!("accepting on {}", acceptor.bound);
    let work = || run(&workers, &events, &acceptor, &accepting);
    supervisor.keep(&task, Pauses::SHORT, work).await;
}

/// Accepts until it is stopped, then takes what already waits in the queue, so that no client that was let in is reset.
///
/// # Errors
/// If the socket can't be watched.
async fn run<A>(
    workers: &Arc<Workers<A>>,
    events: &Arc<dyn EdgeEvents>,
    acceptor: &Acceptor,
    accepting: &Accepting,
) -> Result<(), String>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    if !accepting.is_stopped() {
        let readiness = Readiness::of(&acceptor.bound);
        let readiness =
            readiness.map_err(|error| format!("its socket can't be watched: {error}"))?;
        until_stopped(workers, events, acceptor, accepting, &readiness).await;
    }
    // asked directly: the reactor may not have heard yet of those who wait
    let mut room = Room::default();
    while matches!(
        accept_all(
            acceptor,
            &mut room,
            || accept(&acceptor.bound),
            |incoming, peer| admit(workers, events, acceptor, incoming, peer)
        ),
        Step::Accepted
    ) {
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn until_stopped<A>(
    workers: &Arc<Workers<A>>,
    events: &Arc<dyn EdgeEvents>,
    acceptor: &Acceptor,
    accepting: &Accepting,
    readiness: &Readiness,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    let mut pause = PAUSE.0;
    let mut room = Room::default();
    loop {
        tokio::select! {
            biased;
            () = accepting.stopped() => break,
            () = readiness.wait() => {}
        }
        let admit = |incoming, peer| admit(workers, events, acceptor, incoming, peer);
        let next = || readiness.accept(&acceptor.bound);
        match accept_all(acceptor, &mut room, next, admit) {
            Step::Exhausted => {
                events.accept_paused(&acceptor.target.load().spec.facts);
                tokio::select! {
                    () = accepting.stopped() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE.1);
            }
            Step::Empty => pause = PAUSE.0,
            Step::Accepted => tokio::task::yield_now().await,
        }
    }
}

/// What is known of the descriptors that are left for a listener.
#[derive(Default)]
struct Room {
    /// Not to be reached.
    at_most: u64,
    /// That of the last connection, or the lowest that was free.
    last: u64,
}

impl Room {
    /// Whether there is one left for another connection. It is looked for before somebody is accepted, who then waits in
    /// the kernel's queue instead of being let go; and only where the last one was near the bound.
    fn is_left(&mut self, bound: &Bound) -> bool {
        if self.last.saturating_add(NEAR) < self.at_most {
            return true;
        }
        // the kernel hands out the lowest that is free
        let Ok(probe) = bound.as_fd().try_clone_to_owned() else {
            return false;
        };
        self.note(&probe);
        self.last < self.at_most
    }

    fn note(&mut self, descriptor: &impl AsRawFd) {
        self.last = u64::try_from(descriptor.as_raw_fd()).unwrap_or(u64::MAX);
    }
}

/// Accepts a batch.
fn accept_all(
    acceptor: &Acceptor,
    room: &mut Room,
    next: impl Fn() -> io::Result<(Incoming, Peer)>,
    admit: impl Fn(Incoming, Peer),
) -> Step {
    let whose = match acceptor.target.load().spec.operators {
        true => Use::Operator,
        false => Use::Client,
    };
    // asked for once in a batch: it can be changed while we run (prlimit(2)), and seldom is
    let Ok(at_most) = descriptors::at_most(whose) else {
        return Step::Exhausted;
    };
    room.at_most = at_most;
    let mut lost = 0;
    for _ in 0..BATCH {
        if !room.is_left(&acceptor.bound) {
            return Step::Exhausted;
        }
        match next() {
            Ok((incoming, peer)) => {
                room.note(&incoming);
                admit(incoming, peer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Empty,
            Err(error) if descriptors::is_exhaustion(&error) => return Step::Exhausted,
            // the client went away while it waited, or the network failed: accept(2) reports that here
            Err(error) => {
                lost += 1;
                tracing::debug!(%error, "a connection was lost before it was accepted");
            }
        }
    }
    match lost == BATCH {
        true => Step::Exhausted,
        false => Step::Accepted,
    }
}

/// One system call for a connection that does not block its thread; the standard library needs two.
fn accept(bound: &Bound) -> io::Result<(Incoming, Peer)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (socket, address) = acceptfrom_with(bound, flags)?;
    match bound {
        Bound::Tcp(_) => {
            let address = address.ok_or(Errno::EINVAL)?;
            let peer = Peer::Ip(SocketAddr::try_from(address)?);
            Ok((Incoming::Tcp(socket.into()), peer))
        }
        Bound::Unix { .. } => Ok((Incoming::Unix(socket.into()), Peer::Unix)),
    }
}

/// Gives the connection to a thread, unless there are as many as there may be.
fn admit<A>(
    workers: &Workers<A>,
    events: &Arc<dyn EdgeEvents>,
    acceptor: &Acceptor,
    incoming: Incoming,
    peer: Peer,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    let target: Arc<Target> = acceptor.target.load_full();
    let spec = &target.spec;
    let open = match target.state.open(spec, &peer, events) {
        Ok(open) => open,
        Err(reason) => return events.turned_away(&spec.facts, &peer, reason),
    };
    workers.serve(Accepted {
        incoming,
        peer,
        local: acceptor.local,
        spec: spec.clone(),
        open,
    });
}
