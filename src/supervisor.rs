//! Keeps going what must not end: accept loops, background work, threads that serve everybody.
//!
//! What panics, or ends though it should not, is started again after a pause; that is said in the error log, counted, and
//! kept for the status. What fails on something that is still there fails again, so the pauses double; what has worked
//! for a while begins with short ones. A panic that ends a single connection or request is no business of this module but
//! in one respect: it counts all of them.

use futures::FutureExt;
use parking_lot::Mutex;
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

/// What is told apart by its name; what is beyond that is [`OTHER`]. Names come from the configuration.
const NAMES_MAX: usize = 1000;
const OTHER: &str = "_other";

/// How long what has ended waits until it is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    first: Duration,
    longest: Duration,
}

impl Pauses {
    /// Of what nobody waits for.
    pub const USUAL: Pauses = Pauses {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(30),
    };
    /// Of what every client waits for.
    pub const SHORT: Pauses = Pauses {
        first: Duration::from_millis(10),
        longest: Duration::from_secs(1),
    };
}

/// What has been started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restarts {
    pub count: u64,
    /// When it last ended, and why.
    pub last_at: SystemTime,
    pub reason: Arc<str>,
}

/// See the module. There is one in a process.
#[derive(Debug, Default)]
pub struct Supervisor {
    panics: AtomicU64,
    restarts: Mutex<BTreeMap<Arc<str>, Restarts>>,
}

impl Supervisor {
    /// Does the work until it says that there is nothing more to do. An error says why it could not go on: it is started
    /// again then, as after a panic.
    pub async fn keep<W>(&self, task: &str, pauses: Pauses, work: impl Fn() -> W)
    where
        W: Future<Output = Result<(), String>>,
    {
        let mut pause = Pause::new(pauses);
        loop {
            let began = Instant::now();
            // the call too, not only what comes of it
            let ended = AssertUnwindSafe(async { work().await })
                .catch_unwind()
                .await;
            let Some(reason) = self.reason(ended) else {
                return;
            };
            let pause = pause.after(began.elapsed());
            self.note(task, reason, pause);
            tokio::time::sleep(pause).await;
        }
    }

    /// The same on a thread of its own.
    pub fn keep_thread(
        &self,
        task: &str,
        pauses: Pauses,
        mut work: impl FnMut() -> Result<(), String>,
    ) {
        let mut pause = Pause::new(pauses);
        loop {
            let began = Instant::now();
            let ended = catch_unwind(AssertUnwindSafe(&mut work));
            let Some(reason) = self.reason(ended) else {
                return;
            };
            let pause = pause.after(began.elapsed());
            self.note(task, reason, pause);
            #[expect(
                clippy::disallowed_methods,
                reason = "this thread has nothing else to do"
            )]
            std::thread::sleep(pause);
        }
    }

    /// What comes of the work, unless that panics; then what `instead` makes of the panic's message.
    pub async fn or_else<T>(
        &self,
        work: impl Future<Output = T>,
        instead: impl FnOnce(&str) -> T,
    ) -> T {
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(done) => done,
            Err(panic) => {
                self.panicked();
                instead(message_of(&*panic))
            }
        }
    }

    /// Counts a panic that was caught. It is a defect of ours whatever the input was.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    /// How many panics there have been.
    pub fn panics(&self) -> u64 {
        self.panics.load(Relaxed)
    }

    /// What has ever been started again, by name.
    pub fn restarts(&self) -> Vec<(Arc<str>, Restarts)> {
        let restarts = self.restarts.lock();
        let all = restarts.iter();
        all.map(|(task, restarts)| (task.clone(), restarts.clone()))
            .collect()
    }

    /// Why the work has to be started again; none if it is over.
    fn reason(&self, ended: Result<Result<(), String>, Box<dyn Any + Send>>) -> Option<String> {
        match ended {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(reason),
            Err(panic) => {
                self.panicked();
                Some(format!("it panicked: {}", message_of(&*panic)))
            }
        }
    }

    fn note(&self, task: &str, reason: String, pause: Duration) {
        tracing::error!(task, ?pause, "{reason}; it is started again after a pause");
        let mut restarts = self.restarts.lock();
        let known = restarts.contains_key(task) || restarts.len() < NAMES_MAX;
        let name = if known { task } else { OTHER };
        let before = restarts.get(name).map_or(0, |restarts| restarts.count);
        let now = Restarts {
            count: before + 1,
            last_at: SystemTime::now(),
            reason: reason.into(),
        };
        restarts.insert(name.into(), now);
    }
}

/// Goes on with the panic of work that was done elsewhere, where there was one: it is counted where this work is.
pub fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, tokio::task::JoinError> {
    match result {
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        result => result,
    }
}

/// What a panic says, where it says it in words.
fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a defect")
}

/// The pause after the next end.
struct Pause {
    pauses: Pauses,
    next: Duration,
}

impl Pause {
    fn new(pauses: Pauses) -> Self {
        Self {
            pauses,
            next: pauses.first,
        }
    }

    /// After an end of what has worked for so long. Twice the longest pause is long enough to forget.
    fn after(&mut self, worked: Duration) -> Duration {
        if worked >= self.pauses.longest * 2 {
            self.next = self.pauses.first;
        }
        let pause = self.next;
        self.next = (pause * 2).min(self.pauses.longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use tokio::time::Instant as Paused;

    #[tokio::test(start_paused = true)]
    async fn what_panics_or_ends_early_is_started_again_with_growing_pauses() {
        let (supervisor, runs) = (Supervisor::default(), AtomicUsize::new(0));
        let began = Paused::now();
        let work = || {
            let run = runs.fetch_add(1, Relaxed);
            // before there is anything to wait for
            assert!(run != 0, "the first");
            async move {
                match run {
                    1 => panic!("run {run}"),
                    2..8 => Err("it ended".to_owned()),
                    _ => Ok(()),
                }
            }
        };
        supervisor.keep("work", Pauses::USUAL, work).await;
        assert_eq!(runs.load(Relaxed), 9);
        // 1 + 2 + 4 + 8 + 16 + 30 + 30 + 30
        assert_eq!(began.elapsed().as_secs(), 121);
        assert_eq!(supervisor.panics(), 2);
        let restarts = supervisor.restarts();
        assert_eq!((&*restarts[0].0, restarts[0].1.count), ("work", 8));
        assert_eq!(&*restarts[0].1.reason, "it ended");
    }

    #[test]
    fn a_thread_goes_on_after_a_panic_and_with_what_it_has() {
        let supervisor = Supervisor::default();
        let mut runs = 0;
        supervisor.keep_thread("writer", Pauses::SHORT, || {
            runs += 1;
            assert!(runs > 2, "run {runs}");
            Ok(())
        });
        assert_eq!(runs, 3);
        let restarts = supervisor.restarts();
        assert_eq!((&*restarts[0].0, restarts[0].1.count), ("writer", 2));
        assert_eq!(&*restarts[0].1.reason, "it panicked: run 2");
        assert_eq!(supervisor.panics(), 2);
    }

    #[test]
    fn what_has_worked_for_long_begins_with_short_pauses() {
        let mut pause = Pause::new(Pauses::USUAL);
        let seconds: Vec<u64> = [0, 0, 59, 0, 60, 0]
            .map(|worked| pause.after(Duration::from_secs(worked)).as_secs())
            .into();
        assert_eq!(seconds, [1, 2, 4, 8, 1, 2]);
    }

    #[tokio::test]
    async fn a_panic_of_work_done_elsewhere_is_one_here() {
        let supervisor = Supervisor::default();
        let work = async {
            let elsewhere = tokio::task::spawn_blocking(|| panic!("over there"));
            joined::<()>(elsewhere.await).map_or_else(|_| "", |()| "")
        };
        let said = supervisor.or_else(work, |message| match message {
            "over there" => "its message",
            _ => "another",
        });
        assert_eq!(said.await, "its message");
        assert_eq!(supervisor.panics(), 1);
    }

    #[test]
    fn no_more_is_kept_than_has_a_bound() {
        let supervisor = Supervisor::default();
        for number in 0..NAMES_MAX + 5 {
            supervisor.note(&format!("task {number}"), String::new(), Duration::ZERO);
        }
        let restarts = supervisor.restarts();
        assert_eq!(restarts.len(), NAMES_MAX + 1);
        let other = restarts.iter().find(|(task, _)| &**task == OTHER);
        assert_eq!(other.map(|(_, restarts)| restarts.count), Some(5));
    }
}
