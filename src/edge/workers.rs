//! The threads that serve.
//!
//! Each has a runtime of its own, and whatever begins on a thread ends on it: a connection, its exchanges, and the
//! connections to endpoints that they keep, since each thread has an application of its own. So no request waits for
//! another thread's lock or wakes it, which a work-stealing runtime costs a tenth of the whole. In return a connection
//! is never moved: a new one goes to the thread that serves the fewest (Envoy's "exact balance").

use super::Environment;
use super::connection::{self, Accepted};
use crate::supervisor::{Pauses, Supervisor};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// The threads before they serve anything. They end, with all that runs on them, when this is dropped.
pub(super) struct Threads {
    handles: Vec<Handle>,
    _running: watch::Sender<()>,
}

impl Threads {
    /// Starts so many threads.
    ///
    /// # Errors
    /// If the system has no threads, or no descriptors for their runtimes.
    pub(super) fn start(count: usize, supervisor: &Arc<Supervisor>) -> io::Result<Self> {
        let (running, until) = watch::channel(());
        let handles = (0..count).map(|number| start(number, until.clone(), supervisor.clone()));
        Ok(Self {
            handles: handles.collect::<io::Result<_>>()?,
            _running: running,
        })
    }

    pub(super) fn handles(&self) -> &[Handle] {
        &self.handles
    }
}

fn start(
    number: usize,
    mut until: watch::Receiver<()>,
    supervisor: Arc<Supervisor>,
) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let name = format!("edge {number}");
    std::thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            // tasks keep their panics to themselves: what is left are those of the runtime
            supervisor.keep_thread(&name, Pauses::SHORT, || {
                // an error means that the sender is gone, which is what is waited for
                runtime.block_on(async { drop(until.changed().await) });
                Ok(())
            });
            // a connection that was let go of may be in a callback that blocks; nobody waits for it
            runtime.shutdown_background();
        })?;
    Ok(handle)
}

/// One thread with what its connections need.
pub(super) struct Worker<A> {
    pub environment: Arc<Environment<A>>,
    pub runtime: Handle,
    /// Open connections.
    connections: AtomicUsize,
}

/// All of them.
pub(super) struct Workers<A> {
    workers: Box<[Arc<Worker<A>>]>,
    /// Accept loops that were placed.
    acceptors: AtomicUsize,
}

/// A connection in the count of its thread, until this is dropped.
pub(super) struct Seat<A>(Arc<Worker<A>>);

impl<A> Seat<A> {
    pub(super) fn environment(&self) -> &Arc<Environment<A>> {
        &self.0.environment
    }
}

impl<A> Drop for Seat<A> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

impl<A> Workers<A>
where
    A: pingora_core::apps::HttpServerApp + Send + Sync + 'static,
{
    pub(super) fn new(all: impl Iterator<Item = (Handle, Environment<A>)>) -> Self {
        let workers = all.map(|(runtime, environment)| {
            Arc::new(Worker {
                environment: Arc::new(environment),
                runtime,
                connections: AtomicUsize::new(0),
            })
        });
        Self {
            workers: workers.collect(),
            acceptors: AtomicUsize::new(0),
        }
    }

    /// The thread for the next accept loop: they take turns.
    pub(super) fn home(&self) -> Option<&Worker<A>> {
        let number = self.acceptors.fetch_add(1, Relaxed);
        let at = number.checked_rem(self.workers.len())?;
        self.workers.get(at).map(|worker| &**worker)
    }

    /// Serves a connection on the thread that has the fewest.
    pub(super) fn serve(&self, accepted: Accepted) {
        let fewest = self
            .workers
            .iter()
            .min_by_key(|worker| worker.connections.load(Relaxed));
        let Some(worker) = fewest else { return };
        worker.connections.fetch_add(1, Relaxed);
        let seat = Seat(worker.clone());
        // no block around it, which would make each connection larger by what it is given
        worker.runtime.spawn(connection::serve(seat, accepted));
    }
}
