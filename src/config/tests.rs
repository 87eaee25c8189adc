//! Whole files: the cases under `tests/diagnostics`, what `conf/` ships, includes, fingerprints.

use super::{Config, Environment, Failure, Loaded, load_in, schema};
use crate::diagnostic::Colour;
use std::path::{Path, PathBuf};

/// Loads without an environment, so that the outcome is the file's alone.
fn load(path: &Path) -> Result<Loaded, Box<Failure>> {
    load_in(path, &Environment::new(|_| None))
}

fn yaml_files(directory: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .expect("a directory")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    files
}

/// Files with errors that only a compiled configuration shows belong to the test of `northgate check`.
#[test]
fn every_file_that_can_not_be_read_is_refused_in_the_words_that_stand_beside_it() {
    let mut wrong = Vec::new();
    for path in yaml_files("tests/diagnostics") {
        let Err(failure) = load(&path) else { continue };
        let shown = failure
            .sources
            .render(&failure.diagnostics, Colour::Never);
        let beside = path.with_extension("txt");
        if std::env::var_os("NORTHGATE_UPDATE_EXPECTED").is_some() {
            std::fs::write(&beside, &shown).expect("written");
        }
        let expected = std::fs::read_to_string(&beside).unwrap_or_default();
        if shown != expected {
            wrong.push(format!("{}:\n{shown}", path.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nNORTHGATE_UPDATE_EXPECTED=1 writes what is said now",
        wrong.join("\n")
    );
}
