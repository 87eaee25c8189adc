//! A write that waits for its client: not for ever, and not for a client that takes a byte now and then.
//!
//! What counts is what the client has acknowledged. That the socket takes more says little: it holds megabytes, and may
//! say nothing for minutes to a slow client that reads all the time.
//!
//! While memory is short nobody is waited for any longer than [`LOOK`]: what waits for its client is what takes the memory.

use crate::exchange::pace::Least;
use std::future::Future;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// How often is looked whether memory is short.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// The client takes too little, or nothing.
#[derive(Debug)]
pub(super) struct TooSlow;

/// What is known of a client that writes have waited for.
#[derive(Debug)]
pub(super) struct Stall {
    timer: Pin<Box<Sleep>>,
    /// A write waits since then.
    since: Option<Instant>,
    /// How long writes have waited in this period.
    waited: Duration,
    /// What the client had not acknowledged when the period began, and what was written since.
    owed: u64,
}

impl Stall {
    pub(super) fn new(socket: RawFd) -> Self {
        Self {
            timer: Box::pin(sleep_until(Instant::now())),
            since: None,
            waited: Duration::ZERO,
            owed: unacknowledged(socket),
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// A write waits: resolves when the client has taken less than it must for a whole period, or memory is short.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        least: Least,
        socket: RawFd,
        is_short: impl Fn() -> bool,
    ) -> Poll<TooSlow> {
        loop {
            if self.since.is_none() {
                let now = Instant::now();
                self.since = Some(now);
                let left = least.period.saturating_sub(self.waited);
                self.timer.as_mut().reset(now + left.min(LOOK));
            }
            ready!(self.timer.as_mut().poll(cx));
            if is_short() || self.written(0, least, socket).is_err() {
                return Poll::Ready(TooSlow);
            }
        }
    }

    /// The socket has taken so many bytes.
    ///
    /// # Errors
    /// A period is over in which the client has taken too little.
    pub(super) fn written(
        &mut self,
        bytes: usize,
        least: Least,
        socket: RawFd,
    ) -> Result<(), TooSlow> {
        self.owed = self.owed.saturating_add(bytes as u64);
        let Some(since) = self.since.take() else {
            return Ok(());
        };
        self.waited += since.elapsed();
        if self.waited < least.period {
            return Ok(());
        }
        let left = unacknowledged(socket);
        let taken = self.owed.saturating_sub(left);
        (self.owed, self.waited) = (left, Duration::ZERO);
        match taken < least.bytes() {
            true => Err(TooSlow),
            false => Ok(()),
        }
    }
}

/// What has been written to a socket and not been acknowledged by its other side (tcp(7), `SIOCOUTQ`); nothing where
/// that can't be told.
fn unacknowledged(socket: RawFd) -> u64 {
    let mut bytes: nix::libc::c_int = 0;
    // SAFETY: the request writes one integer, to where the pointer points
    let result = unsafe { nix::libc::ioctl(socket, nix::libc::TIOCOUTQ, &raw mut bytes) };
    match result {
        0 => u64::try_from(bytes).unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    const LEAST: Least = Least {
        rate: 1024,
        period: Duration::from_millis(100),
    };

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        (server, client)
    }

    fn fill(mut socket: &TcpStream) -> usize {
        let mut filled = 0;
        while let Ok(written) = socket.write(&[b'x'; 65536]) {
            filled += written;
        }
        filled
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_found_out_after_a_period() {
        let (socket, _client) = pair();
        let fd = socket.as_raw_fd();
        let mut stall = Stall::new(fd);
        stall.written(fill(&socket), LEAST, fd).unwrap();
        let wait = std::future::poll_fn(|cx| stall.poll(cx, LEAST, fd, || false));
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn what_a_client_reads_counts_though_the_socket_has_no_room_yet() {
        let (socket, mut client) = pair();
        let fd = socket.as_raw_fd();
        fill(&socket);
        let mut stall = Stall::new(fd);
        // until the other side has acknowledged something of what did not fit into it
        let started = unacknowledged(fd);
        while unacknowledged(fd) + LEAST.bytes() > started {
            client.read_exact(&mut [0; 4096]).unwrap();
        }
        let mut waits_a_period = || {
            stall.since = Instant::now().checked_sub(LEAST.period);
            stall.written(0, LEAST, fd)
        };
        assert!(waits_a_period().is_ok());
        assert!(waits_a_period().is_err());
    }
}
