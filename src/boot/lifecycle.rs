//! Signals, from the first to the last.
//!
//! | signal | what happens |
//! |---|---|
//! | SIGHUP | the configuration is taken anew |
//! | SIGUSR1 | the access logs are reopened |
//! | SIGTERM, SIGINT | requests in flight are finished, then the process ends; a second one ends it at once |
//! | SIGQUIT | nothing, since there is no successor to hand over to; it is logged |
//!
//! Pingora would sleep its grace period in full and ignore signals meanwhile; here it is told to stop when all is done.

use super::process::Process;
use crate::supervisor::Pauses;
use async_trait::async_trait;
use futures::FutureExt;
use nix::sys::signal::{SigHandler, Signal};
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use std::io;
use std::sync::Arc;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::Mutex;

/// See the module.
pub struct Lifecycle {
    process: Arc<Process>,
}

impl Lifecycle {
    pub fn new(process: Arc<Process>) -> Self {
        Self { process }
    }

    /// Acts on signals until one says stop.
    async fn until_stop(&self, signals: &Mutex<Signals>) {
        let mut signals = signals.lock().await;
        let signals = &mut *signals;
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return,
                _ = signals.interrupt.recv() => return,
                _ = signals.reload.recv() => {
                    // a reload may take seconds, and a stop must not wait for it
                    let process = self.process.clone();
                    tokio::spawn(async move { process.reload_on_signal().await });
                }
                _ = signals.reopen.recv() => self.process.reopen_logs(),
                _ = signals.hand_over.recv() => {
                    tracing::warn!("SIGQUIT: there is no successor to hand over to; serving on");
                }
            }
        }
    }
}

/// Until there is somebody to act on them, signals that mean no stop must not be one: their default is to kill.
pub fn wait_with_signals() {
    for signal in [
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGQUIT,
    ] {
        // SAFETY: to ignore a signal runs no code of ours in a handler
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) };
    }
}

struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    reload: unix::Signal,
    reopen: unix::Signal,
    hand_over: unix::Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            hand_over: signal(SignalKind::quit())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[async_trait]
impl ShutdownSignalWatch for Lifecycle {
    async fn recv(&self) -> ShutdownSignal {
        let signals = match Signals::listen() {
            Ok(signals) => Mutex::new(signals),
            Err(error) => {
                tracing::error!(%error, "signals can't be received");
                return ShutdownSignal::FastShutdown;
            }
        };
        self.process.says_ready();
        let work = || self.until_stop(&signals).map(Ok);
        let supervisor = self.process.supervisor();
        supervisor.keep("signals", Pauses::USUAL, work).await;
        let mut signals = signals.lock().await;
        tokio::select! {
            _ = self.process.drain() => {}
            _ = signals.stop() => tracing::warn!("told twice to stop: connections are cut"),
        }
        ShutdownSignal::FastShutdown
    }
}
