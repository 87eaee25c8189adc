//! Background work that a snapshot asks for, such as health checks and discovery: started with it, ended with it.
//!
//! Each snapshot brings the whole list of its jobs and takes the place of the last one's. A job therefore keeps what it
//! must not forget (when it is due again, what it knows) in `state/`, and goes on from there; so a storm of reloads
//! neither starves nor hastens it. A job that panics is started again ([`Supervisor`]), and so is what runs them all.

use crate::supervisor::{Pauses, Supervisor};
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;

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

    async fn run(&self, supervisor: &Supervisor) {
        let work = || (self.work)().map(Ok);
        supervisor.keep(&self.name, Pauses::USUAL, work).await;
    }
}

/// Hands the jobs of a snapshot to where they run.
#[derive(Clone)]
pub struct Jobs {
    current: watch::Sender<Arc<[Arc<Job>]>>,
}

/// Runs the jobs of the current snapshot, on a thread of its own.
pub struct Runner {
    current: watch::Receiver<Arc<[Arc<Job>]>>,
    supervisor: Arc<Supervisor>,
}

/// Makes both ends.
pub fn jobs(supervisor: Arc<Supervisor>) -> (Jobs, Runner) {
    let (sender, current) = watch::channel(Arc::default());
    let runner = Runner {
        current,
        supervisor,
    };
    (Jobs { current: sender }, runner)
}

impl Jobs {
    /// Ends the jobs of the last snapshot and starts these.
    pub fn reconcile(&self, jobs: Vec<Job>) {
        self.current
            .send_replace(jobs.into_iter().map(Arc::new).collect());
    }
}

impl Runner {
    async fn run(&self) {
        let task = "background work";
        let work = || self.run_current().map(Ok);
        self.supervisor.keep(task, Pauses::USUAL, work).await;
    }

    /// Runs what there is, then what takes its place, until nothing can.
    async fn run_current(&self) {
        let mut current = self.current.clone();
        loop {
            // dropping the set ends what runs in it
            let mut running = JoinSet::new();
            let jobs = current.borrow_and_update().clone();
            for job in jobs.iter() {
                let (job, supervisor) = (job.clone(), self.supervisor.clone());
                running.spawn(async move { job.run(&supervisor).await });
            }
            drop(jobs);
            loop {
                tokio::select! {
                    changed = current.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    // a job that ended leaves nothing behind
                    Some(_) = running.join_next() => {}
                }
            }
        }
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
        let (supervisor, runs) = (Arc::<Supervisor>::default(), Arc::new(AtomicUsize::new(0)));
        let done = Arc::new(Notify::new());
        let (ran, over) = (runs.clone(), done.clone());
        let (jobs, runner) = jobs(supervisor.clone());
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
        assert_eq!(supervisor.panics(), 2);
        let restarts = supervisor.restarts();
        assert_eq!((&*restarts[0].0, restarts[0].1.count), ("test", 2));
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
        let (jobs, runner) = jobs(Arc::default());
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
