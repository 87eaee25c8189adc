//! Background work that a snapshot asks for, such as health checks and discovery: started with it, ended with it.
//!
//! Each snapshot brings the whole list of its jobs and takes the place of the last one's. A job therefore keeps what it
//! must not forget (when it is due again, what it knows) in `state/`, and goes on from there; so a storm of reloads
//! neither starves nor hastens it. A job that panics is started again with growing pauses, and is counted.

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The pause after the first panic of a job; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// One piece of background work.
pub struct Job {
    /// For logs: what it does, and for which service.
    pub name: Arc<str>,
    /// Does it. Ends early only if there is nothing more to do.
    pub work: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Job {
    pub fn new<W>(name: impl Into<Arc<str>>, work: impl Fn() -> W + Send + Sync + 'static) -> Self
    where
        W: Future<Output = ()> + Send + 'static,
    {
        Self {
            name: name.into(),
            work: Box::new(move || work().boxed()),
        }
    }

    async fn run(self, panicked: Arc<dyn Fn() + Send + Sync>) {
        let mut pause = PAUSE;
        while AssertUnwindSafe((self.work)())
            .catch_unwind()
            .await
            .is_err()
        {
            panicked();
            tracing::error!(job = %self.name, ?pause, "a background job panicked; it is started again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Hands the jobs of a snapshot to where they run.
#[derive(Clone)]
pub struct Jobs {
    next: watch::Sender<Option<Vec<Job>>>,
}

/// Runs the jobs of the current snapshot, on a thread of its own.
pub struct Runner {
    next: watch::Receiver<Option<Vec<Job>>>,
    sender: watch::Sender<Option<Vec<Job>>>,
    panicked: Arc<dyn Fn() + Send + Sync>,
}

/// Makes both ends. `panicked` counts the panics of jobs.
pub fn jobs(panicked: Arc<dyn Fn() + Send + Sync>) -> (Jobs, Runner) {
    let (sender, next) = watch::channel(None);
    let jobs = Jobs {
        next: sender.clone(),
    };
    let runner = Runner {
        next,
        sender,
        panicked,
    };
    (jobs, runner)
}

impl Jobs {
    /// Ends the jobs of the last snapshot and starts these.
    pub fn reconcile(&self, jobs: Vec<Job>) {
        self.next.send_replace(Some(jobs));
    }
}

impl Runner {
    async fn run(&self) {
        let mut next = self.next.clone();
        // dropping the set ends what runs in it
        let mut running = JoinSet::new();
        loop {
            let jobs = self.take();
            if let Some(jobs) = jobs {
                running = JoinSet::new();
                for job in jobs {
                    running.spawn(job.run(self.panicked.clone()));
                }
            }
            tokio::select! {
                changed = next.changed() => if changed.is_err() { return },
                // a job that ended leaves nothing behind
                Some(_) = running.join_next() => {}
            }
        }
    }

    /// Takes the jobs that wait, without telling anybody of a change.
    fn take(&self) -> Option<Vec<Job>> {
        let mut taken = None;
        self.sender.send_if_modified(|jobs| {
            taken = jobs.take();
            false
        });
        taken
    }
}

#[async_trait]
impl BackgroundService for Runner {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        tokio::select! {
            () = self.run() => {}
            _ = shutdown.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    #[tokio::test(start_paused = true)]
    async fn a_job_that_panics_is_started_again_and_counted() {
        let (runs, panics) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let done = Arc::new(Notify::new());
        let (counted, ran, over) = (panics.clone(), runs.clone(), done.clone());
        let panicked = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let (jobs, runner) = jobs(panicked);
        jobs.reconcile(vec![Job::new("test", move || {
            let (ran, over) = (ran.clone(), over.clone());
            async move {
                assert!(
                    ran.fetch_add(1, Ordering::Relaxed) > 1,
                    "the first two fail"
                );
                over.notify_one();
            }
        })]);
        let running = tokio::spawn(async move { runner.run().await });
        done.notified().await;
        assert_eq!(runs.load(Ordering::Relaxed), 3);
        assert_eq!(panics.load(Ordering::Relaxed), 2);
        running.abort();
    }

    #[tokio::test]
    async fn the_jobs_of_a_snapshot_end_with_it() {
        struct Ended(Arc<Notify>);
        impl Drop for Ended {
            fn drop(&mut self) {
                self.0.notify_one();
            }
        }
        let (jobs, runner) = jobs(Arc::new(|| {}));
        let running = tokio::spawn(async move { runner.run().await });
        let (began, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (begins, ends) = (began.clone(), ended.clone());
        jobs.reconcile(vec![Job::new("first", move || {
            let (begins, ends) = (begins.clone(), Ended(ends.clone()));
            async move {
                let _ends = ends;
                begins.notify_one();
                std::future::pending().await
            }
        })]);
        began.notified().await;
        jobs.reconcile(Vec::new());
        ended.notified().await;
        running.abort();
    }
}
