//! Includes with `on_error: keep`: where only their files are wrong, the last ones that were right go on, so that one
//! team's mistake does not hold up everybody else's change.

use super::load::Includes;
use crate::diagnostic::{Diagnostic, FileId, Sources};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// The files of such includes as they were when they were right, by the include's owner and first pattern.
#[derive(Clone, Debug, Default)]
pub struct LastGood(BTreeMap<Arc<str>, Vec<KeptFile>>);

/// One file of an include, as it was.
#[derive(Clone, Debug)]
pub(super) struct KeptFile {
    pub path: PathBuf,
    pub text: Arc<str>,
}

impl LastGood {
    /// Takes the files of a configuration that is right. What it had to keep itself stays as it is.
    pub fn take(&mut self, includes: &Includes, sources: &Sources) {
        let names = includes.keeping().map(|(_, name)| name.clone());
        let mut taken: BTreeMap<_, Vec<_>> = names.map(|name| (name, Vec::new())).collect();
        for (file, index) in includes.files() {
            let name = includes.keeps(index);
            let into = name.and_then(|name| taken.get_mut(name));
            if let (Some(into), Some(file)) = (into, file_of(file, sources)) {
                into.push(file);
            }
        }
        self.0 = taken;
    }

    /// The files to be read instead of an include's own.
    pub(super) fn files(&self, name: &str) -> Option<&[KeptFile]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Whose files these are.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.keys()
    }

    /// What to read instead, besides what `already` is, so that none of these errors is left. None where an error lies
    /// elsewhere, where an include has never been right, or where nothing else would be read.
    pub fn instead_of(
        &self,
        already: &LastGood,
        errors: &[Diagnostic],
        includes: &Includes,
    ) -> Option<LastGood> {
        let mut at_fault = BTreeSet::new();
        for error in errors.iter().filter(|diagnostic| diagnostic.is_error()) {
            at_fault.insert(includes.keeps(includes.named_by(error)?)?.clone());
            // of two that contradict each other, either may be the one that has changed
            let related = error
                .related
                .iter()
                .filter_map(|(span, _)| includes.of(span.file));
            at_fault.extend(related.filter_map(|index| includes.keeps(index).cloned()));
        }
        let mut instead = already.clone();
        for name in at_fault {
            let files = self.0.get(&name)?.clone();
            instead.0.entry(name).or_insert(files);
        }
        (instead.0.len() > already.0.len()).then_some(instead)
    }
}

fn file_of(id: FileId, sources: &Sources) -> Option<KeptFile> {
    Some(KeptFile {
        path: sources.name(id)?.into(),
        text: sources.text(id)?.into(),
    })
}
