//! `watch: on`: takes the configuration anew when one of its files has changed.
//!
//! Directories are watched, not files: editors write a new file and rename it, and Kubernetes swaps a link beside it.
//! Events only say that it is time to look; whether anything changed is decided by the contents, after a pause in which
//! whoever writes several files can finish. What a file system does not tell (NFS) is found by SIGHUP.

use crate::config::Dependencies;
use crate::supervisor::{Pauses, Supervisor};
use async_trait::async_trait;
use futures::future::BoxFuture;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Events within this time of one another are one change.
const PAUSE: Duration = Duration::from_millis(200);

/// The longest that a stream of events can put a reload off.
const PAUSES_MAX: u32 = 25;

/// Reloads if the files are not what is in force, and tells what they are now; nothing if that can't be found out.
pub type Reload =
    Box<dyn Fn(&Dependencies) -> BoxFuture<'static, Option<Dependencies>> + Send + Sync>;

/// See the module.
pub struct Watch {
    /// What was found last.
    known: Mutex<Dependencies>,
    reload: Reload,
    supervisor: Arc<Supervisor>,
}

impl Watch {
    /// `first` is what the configuration in force was read from.
    pub fn new(first: Dependencies, reload: Reload, supervisor: Arc<Supervisor>) -> Self {
        Self {
            known: Mutex::new(first),
            reload,
            supervisor,
        }
    }

    /// Goes on until it can't.
    async fn run(&self) -> notify::Result<()> {
        let stirred = Arc::new(Notify::new());
        let stir = stirred.clone();
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // reading a file is an event too, and reading is what a reload does
                if event.is_ok_and(|event| !event.kind.is_access()) {
                    stir.notify_one();
                }
            })?;
        let mut known = self.known.lock().clone();
        let mut watched = BTreeSet::new();
        follow(&mut watcher, &mut watched, &known);
        // what changed between the reading of the files and the first watch sent no event
        stirred.notify_one();
        loop {
            stirred.notified().await;
            for _ in 0..PAUSES_MAX {
                if timeout(PAUSE, stirred.notified()).await.is_err() {
                    break;
                }
            }
            if let Some(now) = (self.reload)(&known).await {
                // also where nothing has changed: the same files may lie in other directories now
                follow(&mut watcher, &mut watched, &now);
                if now != known {
                    *self.known.lock() = now.clone();
                    known = now;
                    stirred.notify_one();
                }
            }
        }
    }
}

/// Watches the directories in which a change may matter, and no others.
fn follow(
    watcher: &mut RecommendedWatcher,
    watched: &mut BTreeSet<PathBuf>,
    dependencies: &Dependencies,
) {
    let wanted: BTreeSet<PathBuf> = dependencies.directories.iter().cloned().collect();
    for gone in watched.difference(&wanted) {
        // a directory that was removed is not watched any more either
        let _ = watcher.unwatch(gone);
    }
    // the known ones too: one of the same name may be another than the one that was watched
    for directory in &wanted {
        if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive)
            && !watched.contains(directory)
        {
            tracing::warn!(directory = %directory.display(), %error, "can't be watched; SIGHUP reloads");
        }
    }
    *watched = wanted;
}

#[async_trait]
impl BackgroundService for Watch {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let work = || async {
            let ended = self.run().await;
            ended.map_err(|error| format!("files can't be watched, and SIGHUP reloads: {error}"))
        };
        tokio::select! {
            () = self.supervisor.keep("watching files", Pauses::USUAL, work) => {}
            _ = shutdown.changed() => {}
        }
    }
}
