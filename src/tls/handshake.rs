//! Handshakes, and the threads that calculate for them.
//!
//! A full handshake takes as much of a processor as ten or fifty requests: on the thread of a connection, a storm of them
//! would be between every two requests that are served there. So its steps are calculated elsewhere, on threads that run
//! at lower priority: where the processors are busy with requests, about a tenth is left for handshakes, and where they
//! are not, handshakes have all there is. Reading and writing stays on the connection's own thread, which then waits, so
//! that a step costs two wake-ups and no registration of a socket.

use super::listener::TlsListener;
use crossbeam_channel::Sender;
use pingora_core::tls::{ServerTlsStream, TlsAcceptor};
use rustls::server::{Acceptor, ServerConnection};
use rustls::{HandshakeKind, ProtocolVersion};
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio_rustls::LazyConfigAcceptor;

/// How much nicer the threads are than others (`setpriority(2)`): where both want to run, they get a tenth.
const NICENESS: i32 = 10;

/// One read of the rest of a handshake; the larger messages come in several.
const READ_BYTES: usize = 4096;

type Step = Box<dyn FnOnce() + Send>;

/// The threads, which start when the first handshake needs them and end when this is dropped.
pub struct HandshakeThreads {
    count: usize,
    /// None where none can be started: then every connection's own thread does it all.
    steps: OnceLock<Option<Sender<Step>>>,
}

impl HandshakeThreads {
    /// As many as there are threads that serve.
    pub fn new(count: usize) -> Self {
        Self {
            count,
            steps: OnceLock::new(),
        }
    }

    /// What `step` comes to, calculated on one of the threads. A panic there is one here.
    async fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let steps = self.steps.get_or_init(|| start(self.count));
        let Some(steps) = steps else {
            return Ok(step());
        };
        let (answer, answered) = oneshot::channel::<Result<T, Box<dyn Any + Send>>>();
        let step = move || {
            // whoever asked may be gone, after its deadline for example: what it would come to is nobody's any more
            if !answer.is_closed() {
                let _ = answer.send(catch_unwind(AssertUnwindSafe(step)));
            }
        };
        // at most one for each connection waits there, and those are bounded
        if steps.send(Box::new(step)).is_err() {
            return Err(io::Error::other("the threads for handshakes have ended"));
        }
        match answered.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(io::Error::other("the threads for handshakes have ended")),
        }
    }
}

fn start(count: usize) -> Option<Sender<Step>> {
    let (steps, waiting) = crossbeam_channel::unbounded::<Step>();
    let started = (0..count).filter(|number| {
        let waiting = waiting.clone();
        let thread = std::thread::Builder::new().name(format!("handshake {number}"));
        let thread = thread.spawn(move || {
            yield_to_others();
            waiting.iter().for_each(|step| step());
        });
        if let Err(error) = &thread {
            tracing::warn!(%error, "a thread for handshakes can't be started");
        }
        thread.is_ok()
    });
    (started.count() > 0).then_some(steps)
}

/// Lowers the priority of this thread. Where that fails it is a thread like the others.
fn yield_to_others() {
    // SAFETY: it takes numbers and touches no memory; on Linux 0 is the calling thread, and no other
    unsafe {
        nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, NICENESS);
    }
}

impl TlsListener {
    /// Runs a handshake.
    pub(crate) async fn accept<S>(
        &self,
        socket: S,
        threads: &HandshakeThreads,
    ) -> io::Result<ServerTlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let (accepted, mut socket) = (begun.accepted, begun.io);
        // what a client is asked for depends on whom it asks for
        let (config, asks) = self.config_for(accepted.client_hello().server_name())?;
        let own = config.clone();
        let connection = threads.run(move || accepted.into_connection(own)).await?;
        let mut connection = match connection {
            Ok(connection) => connection,
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                alert.write_all(&mut bytes)?;
                let _ = socket.write_all(&bytes).await;
                return Err(invalid(error));
            }
        };
        loop {
            send(&mut connection, &mut socket).await?;
            if !connection.is_handshaking() {
                break;
            }
            let mut bytes = vec![0; READ_BYTES];
            let read = socket.read(&mut bytes).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.truncate(read);
            let is_cheap = !asks && is_agreed(&connection);
            let step = move || {
                let taken = take(&mut connection, &bytes);
                (connection, taken)
            };
            let (mut next, taken) = match is_cheap {
                true => step(),
                false => threads.run(step).await?,
            };
            if let Err(error) = taken {
                // the alert that says why
                let _ = send(&mut next, &mut socket).await;
                return Err(error);
            }
            connection = next;
        }
        // the stream is made with a connection of its own, which has not begun: ours takes its place
        let stream = TlsAcceptor::from(config).accept_with(socket, |fresh| *fresh = connection);
        stream.await
    }
}

/// Whether keys have been agreed on with TLS 1.3. What is left of such a handshake is hashing, unless the client shows a
/// certificate. One that began anew with other keys may not be there yet.
fn is_agreed(connection: &ServerConnection) -> bool {
    let kind = connection.handshake_kind();
    connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
        && matches!(kind, Some(HandshakeKind::Full | HandshakeKind::Resumed))
}

/// Takes in what was read.
fn take(connection: &mut ServerConnection, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        if connection.read_tls(&mut bytes)? == 0 {
            // what follows the client's goodbye is not taken
            return Ok(());
        }
        connection.process_new_packets().map_err(invalid)?;
    }
    Ok(())
}

async fn send<S>(connection: &mut ServerConnection, socket: &mut S) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes)?;
    }
    match bytes.is_empty() {
        true => Ok(()),
        false => socket.write_all(&bytes).await,
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_step_is_calculated_on_another_thread_of_lower_priority() {
        let threads = HandshakeThreads::new(2);
        let niceness = || {
            // SAFETY: it takes numbers and touches no memory
            unsafe { nix::libc::getpriority(nix::libc::PRIO_PROCESS, 0) }
        };
        let own = (std::thread::current().id(), niceness());
        let run = threads.run(move || (std::thread::current().id(), niceness()));
        let (thread, nice) = run.await.unwrap();
        assert_ne!(thread, own.0);
        assert!(nice >= NICENESS && niceness() == own.1, "{nice}");
    }

    #[tokio::test]
    async fn a_panic_is_that_of_whoever_asked_and_the_thread_goes_on() {
        let threads = Arc::new(HandshakeThreads::new(1));
        let asking = threads.clone();
        let asked = tokio::spawn(async move { asking.run(|| panic!("a defect")).await });
        assert!(asked.await.unwrap_err().is_panic());
        assert_eq!(threads.run(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn without_threads_it_is_calculated_here() {
        let threads = HandshakeThreads::new(0);
        let own = std::thread::current().id();
        let run = threads.run(move || std::thread::current().id() == own);
        assert!(run.await.unwrap());
    }
}
