//! From a path to a snapshot: what `run`, `check`, `reload` and `explain` all do.

use crate::config::{self, Config, Includes, LastGood};
use crate::diagnostic::{Colour, Diagnostic, Sources};
use crate::observe::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::snapshot::compile::{Completeness, World, compile};
use crate::state::{self, State};
use std::path::Path;
use std::sync::Arc;

pub type Loaded = config::Loaded<Config>;

/// A configuration that was read and compiled.
pub struct Compiled {
    pub loaded: Loaded,
    pub snapshot: Snapshot,
    /// Includes whose last good files were read instead, with what is wrong with those that are there.
    pub kept: Vec<KeptInclude>,
}

/// An include that goes on as it was.
#[derive(Clone, Debug)]
pub struct KeptInclude {
    /// Its owner, if it has one, and its first pattern.
    pub name: Arc<str>,
    /// What is wrong with its files, as text.
    pub error: Arc<str>,
}

/// Everything that is wrong with a configuration, and its files to show it in.
#[derive(Default)]
pub struct Refused {
    pub diagnostics: Vec<Diagnostic>,
    pub sources: Sources,
    pub includes: Includes,
}

impl Refused {
    /// Refused for reasons that no file holds.
    pub fn by(diagnostics: Vec<Diagnostic>, sources: Sources) -> Self {
        Self {
            diagnostics,
            sources,
            includes: Includes::default(),
        }
    }

    fn and(mut self, further: Vec<Diagnostic>, includes: Includes) -> Self {
        self.diagnostics.extend(further);
        self.sources.sort(&mut self.diagnostics);
        Self { includes, ..self }
    }
}

/// Reads and compiles, without touching anything that runs.
pub fn check(path: &Path) -> Result<Compiled, Refused> {
    // digests are compared with the key that they were made under, where it can be read
    let state = Arc::new(State::found_in(state::directory()));
    let metrics = Metrics::new();
    let world = World {
        state: &state,
        metrics: &metrics,
        access_logs: None,
    };
    attempt(path, 0, &world, &LastGood::default())
}

/// Reads and compiles. Where mistakes lie in includes with `on_error: keep` alone, takes their files as they are in
/// `last_good`, and warns.
///
/// # Errors
/// Errors of both steps at once: what could be read is compiled even when something could not.
pub fn load(
    path: &Path,
    generation: u64,
    world: &World<'_>,
    last_good: &LastGood,
) -> Result<Compiled, Refused> {
    let mut kept = LastGood::default();
    let mut first: Option<Refused> = None;
    loop {
        let refused = match (attempt(path, generation, world, &kept), &first) {
            (Ok(compiled), None) => return Ok(compiled),
            (Ok(compiled), Some(first)) => return Ok(keeping(compiled, &kept, first)),
            (Err(refused), _) => refused,
        };
        let instead = last_good.instead_of(&kept, &refused.diagnostics, &refused.includes);
        let first = first.get_or_insert(refused);
        match instead {
            Some(instead) => kept = instead,
            None => return Err(std::mem::take(first)),
        }
    }
}

/// Says of a configuration what it keeps, and why.
fn keeping(mut compiled: Compiled, kept: &LastGood, why: &Refused) -> Compiled {
    let (errors, _): (Vec<_>, Vec<_>) = why
        .diagnostics
        .iter()
        .cloned()
        .partition(Diagnostic::is_error);
    let error: Arc<str> = why.sources.render(&errors, Colour::Never).into();
    for name in kept.names() {
        let message = format!("the files of `{name}` have mistakes: they stay as they last were");
        let place = compiled.loaded.includes.place(name).unwrap_or_default();
        let warning = Diagnostic::warning(message, place).code("include");
        compiled.snapshot.warnings.push(warning);
        compiled.kept.push(KeptInclude {
            name: name.clone(),
            error: error.clone(),
        });
    }
    compiled
}

fn attempt(
    path: &Path,
    generation: u64,
    world: &World<'_>,
    kept: &LastGood,
) -> Result<Compiled, Refused> {
    match config::load_with(path, kept) {
        Ok(loaded) => match compile(
            &loaded.config,
            &loaded.sources,
            Completeness::Whole,
            generation,
            world,
        ) {
            Ok(mut snapshot) => {
                snapshot.warnings.extend(loaded.warnings.iter().cloned());
                loaded.sources.sort(&mut snapshot.warnings);
                Ok(Compiled {
                    loaded,
                    snapshot,
                    kept: Vec::new(),
                })
            }
            Err(diagnostics) => {
                let refused = Refused::by(loaded.warnings, loaded.sources);
                Err(refused.and(diagnostics, loaded.includes))
            }
        },
        Err(failure) => {
            let failure = *failure;
            let without_logs = World {
                access_logs: None,
                ..*world
            };
            let mut found = failure.diagnostics.iter();
            let completeness = match found.any(|diagnostic| diagnostic.code == Some("file")) {
                true => Completeness::Excerpt,
                false => Completeness::Part,
            };
            let further = failure.partial.and_then(|partial: Config| {
                compile(
                    &partial,
                    &failure.sources,
                    completeness,
                    generation,
                    &without_logs,
                )
                .err()
            });
            let refused = Refused::by(failure.diagnostics, failure.sources);
            Err(refused.and(further.unwrap_or_default(), failure.includes))
        }
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
