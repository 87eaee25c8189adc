//! From a path to a snapshot: what `run`, `check`, `reload` and `explain` all do.

use crate::config::{self, Config};
use crate::diagnostic::{Diagnostic, Sources};
use crate::observe::access_log::AccessLogs;
use crate::observe::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::snapshot::compile::{World, compile};
use crate::state::State;
use std::path::Path;

pub type Loaded = config::Loaded<Config>;

/// A configuration that was read and compiled.
pub struct Compiled {
    pub loaded: Loaded,
    pub snapshot: Snapshot,
}

/// Everything that is wrong with a configuration, and its files to show it in.
pub struct Refused {
    pub diagnostics: Vec<Diagnostic>,
    pub sources: Sources,
}

/// Reads and compiles, without touching anything that runs.
pub fn check(path: &Path) -> Result<Compiled, Refused> {
    load(path, 0, &State::default(), &Metrics::new(), None)
}

/// Reads and compiles.
///
/// # Errors
/// Errors of both steps at once: what could be read is compiled even when something could not.
pub fn load(
    path: &Path,
    generation: u64,
    state: &State,
    metrics: &Metrics,
    access_logs: Option<&AccessLogs>,
) -> Result<Compiled, Refused> {
    let world = World {
        state,
        metrics,
        access_logs,
    };
    match config::load(path) {
        Ok(loaded) => match compile(&loaded.config, &loaded.sources, generation, &world) {
            Ok(mut snapshot) => {
                snapshot.warnings.extend(loaded.warnings.iter().cloned());
                loaded.sources.sort(&mut snapshot.warnings);
                Ok(Compiled { loaded, snapshot })
            }
            Err(diagnostics) => Err(refused(loaded.warnings, diagnostics, loaded.sources)),
        },
        Err(failure) => {
            let failure = *failure;
            let without_logs = World {
                access_logs: None,
                ..world
            };
            let further = failure.partial.and_then(|partial: Config| {
                compile(&partial, &failure.sources, generation, &without_logs).err()
            });
            Err(refused(
                failure.diagnostics,
                further.unwrap_or_default(),
                failure.sources,
            ))
        }
    }
}

fn refused(
    mut diagnostics: Vec<Diagnostic>,
    further: Vec<Diagnostic>,
    sources: Sources,
) -> Refused {
    diagnostics.extend(further);
    sources.sort(&mut diagnostics);
    Refused {
        diagnostics,
        sources,
    }
}

/// Threads that serve requests: as written, else one for each processor.
pub fn threads(config: &Config) -> usize {
    let written = config
        .threads
        .as_ref()
        .map(|threads| usize::from(**threads));
    written
        .filter(|threads| *threads > 0)
        .unwrap_or_else(processors)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
