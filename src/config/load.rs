//! From a path to a configuration: files, includes, secrets; all errors, with their places.
//!
//! All reading of disks happens here and while values are read (certificates, secrets, lists), so that what is made of a
//! configuration afterwards needs neither disk nor network.

use super::context::{Context, Environment, Found, read_bounded};
use super::last_good::LastGood;
use super::model::OnError;
use super::node::{Entry, Node, Scalar, Value};
use super::{de, glob, links, node};
use crate::diagnostic::{Diagnostic, FileId, Severity, Sources, Span};
use crate::units::{OneOrMany, Spanned};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The size of all files together.
const SIZE_MAX: u64 = 64 << 20;

/// What an included file may hold, besides `version`.
pub(super) const SECTIONS: [&str; 6] = [
    "routes",
    "groups",
    "services",
    "profiles",
    "certificates",
    "consumers",
];

/// The version of the configuration language.
const VERSION: &str = "1";

/// A configuration that could be read.
#[derive(Debug)]
pub struct Loaded<C = super::Config> {
    pub config: C,
    /// What is odd about it.
    pub warnings: Vec<Diagnostic>,
    /// Its files, to show what later checks have to say.
    pub sources: Sources,
    pub includes: Includes,
    pub dependencies: Dependencies,
}

/// A configuration that could not be read.
#[derive(Debug)]
pub struct Failure<C = super::Config> {
    /// Errors and warnings, by file and position.
    pub diagnostics: Vec<Diagnostic>,
    pub sources: Sources,
    pub includes: Includes,
    pub dependencies: Dependencies,
    /// What could be read of it, for checks that may find more errors. It lacks everything that had one:
    /// [`Named::is_broken`](super::Named::is_broken) knows the names.
    pub partial: Option<C>,
}

/// What a configuration was made of, for those who watch it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dependencies {
    /// The same as long as nothing has changed in any file or variable that it read.
    pub fingerprint: Fingerprint,
    /// The files that were read, or could not be, sorted: YAML, certificates, keys, secrets, lists.
    pub files: Vec<PathBuf>,
    /// The directories in which a change may matter, sorted.
    pub directories: Vec<PathBuf>,
}

/// A digest (BLAKE3) of all that a configuration was read from.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a file and its includes as a configuration of type `C`. `check` looks at it whole, with the include that each
/// file came from.
pub(super) fn load_as<C: DeserializeOwned>(
    path: &Path,
    environment: &Environment<'_>,
    kept: &LastGood,
    check: impl FnOnce(&C, &Includes) -> Vec<Diagnostic>,
) -> Result<Loaded<C>, Box<Failure<C>>> {
    let mut loader = Loader::new(environment, kept);
    let root = loader.root(path);
    let mut config = None;
    if let Some(root) = &root {
        let cx = Context::new(environment, &loader.directories);
        config = de::read::<C>(root, &cx);
        let found = cx.into_found();
        loader.take(found);
        // of what could be read, the version is checked with everything else
        if config.is_none() {
            loader.check_version(root);
        }
    }
    if let Some(config) = &config {
        let checked = check(config, &loader.includes);
        loader.diagnostics.extend(checked);
    }
    loader.finish(config)
}

/// Which file came from which include, both by their order.
#[derive(Clone, Debug, Default)]
pub struct Includes {
    by_file: BTreeMap<FileId, usize>,
    patterns: Vec<(Span, usize)>,
    /// Those with `on_error: keep`, with what they are known by.
    keeping: BTreeMap<usize, Arc<str>>,
}

impl Includes {
    /// The place in `include` of what brought a file in; none for the main one.
    pub(super) fn of(&self, file: FileId) -> Option<usize> {
        self.by_file.get(&file).copied()
    }

    /// The include that an error lies in, or that names a file which can't be read.
    pub(super) fn named_by(&self, error: &Diagnostic) -> Option<usize> {
        let pattern = || {
            let mut patterns = self.patterns.iter();
            let named =
                patterns.find(|(span, _)| error.code == Some("file") && *span == error.span);
            named.map(|(_, index)| *index)
        };
        self.of(error.span.file).or_else(pattern)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (FileId, usize)> {
        self.by_file.iter().map(|(file, index)| (*file, *index))
    }

    pub(super) fn keeping(&self) -> impl Iterator<Item = (usize, &Arc<str>)> {
        self.keeping.iter().map(|(index, name)| (*index, name))
    }

    /// What an include with `on_error: keep` is known by.
    pub(super) fn keeps(&self, index: usize) -> Option<&Arc<str>> {
        self.keeping.get(&index)
    }

    /// Where the include of that name is written.
    pub fn place(&self, name: &str) -> Option<Span> {
        let (index, _) = self.keeping().find(|(_, one)| &***one == name)?;
        let mut patterns = self.patterns.iter();
        patterns.find(|(_, of)| *of == index).map(|(span, _)| *span)
    }
}

/// Reads files and puts them together.
struct Loader<'e> {
    environment: &'e Environment<'e>,
    /// Read instead of the files that are there.
    kept: &'e LastGood,
    sources: Sources,
    /// The directory of each file, by its id.
    directories: Vec<PathBuf>,
    diagnostics: Vec<Diagnostic>,
    includes: Includes,
    /// The include whose files are being read.
    including: Option<usize>,
    /// Files that were read, with the include that named them.
    read: BTreeMap<PathBuf, Span>,
    /// The keys of each section that files share, with where they were first written.
    keys: HashMap<Box<str>, HashMap<Box<str>, Span>>,
    size: u64,
    digests: BTreeMap<PathBuf, Option<blake3::Hash>>,
    variables: BTreeMap<String, Option<blake3::Hash>>,
    watched: BTreeSet<PathBuf>,
}

/// An include, as far as finding its files goes. The rest is read with everything else.
#[derive(Deserialize)]
struct Pattern {
    files: OneOrMany<Spanned<String>>,
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    on_error: Option<OnError>,
}

impl Pattern {
    /// Of an include in its short form.
    fn of(files: Spanned<String>) -> Self {
        Self {
            files: files.into(),
            owner: None,
            on_error: None,
        }
    }
}

impl<'e> Loader<'e> {
    fn new(environment: &'e Environment<'e>, kept: &'e LastGood) -> Self {
        Self {
            environment,
            kept,
            sources: Sources::default(),
            directories: Vec::new(),
            diagnostics: Vec::new(),
            includes: Includes::default(),
            including: None,
            read: BTreeMap::new(),
            keys: HashMap::new(),
            size: 0,
            digests: BTreeMap::new(),
            variables: BTreeMap::new(),
            watched: BTreeSet::new(),
        }
    }

    /// The tree of the main file, with what its includes hold.
    fn root(&mut self, path: &Path) -> Option<Node> {
        let mut root = self.file(path, Span::UNKNOWN)?;
        if !matches!(root.value, Value::Map(_)) {
            self.diagnostics.push(
                Diagnostic::error(
                    format!("a configuration is a map, not {}", root.kind()),
                    root.span,
                )
                .code("invalid_value")
                .hint("begin with `version: 1`"),
            );
            return None;
        }
        for (index, pattern) in self.patterns(&root) {
            self.including = Some(index);
            self.include(&mut root, index, &pattern);
        }
        Some(root)
    }

    /// Reads and parses one file. `named` is where another file names it.
    fn file(&mut self, path: &Path, named: Span) -> Option<Node> {
        let text = match read_bounded(path, SIZE_MAX) {
            Ok(text) => text,
            Err(invalid) => {
                self.note(path, None);
                self.diagnostics
                    .push(Diagnostic::error(invalid.to_string(), named).code("file"));
                return None;
            }
        };
        self.note(path, Some(blake3::hash(&text)));
        self.size += text.len() as u64;
        if self.size > SIZE_MAX {
            let message = format!("the files are larger than {} MiB together", SIZE_MAX >> 20);
            self.diagnostics
                .push(Diagnostic::error(message, named).code("file"));
            return None;
        }
        let text = match String::from_utf8(text) {
            Ok(text) => text,
            Err(error) => {
                self.not_utf8(path, &error);
                return None;
            }
        };
        self.parsed(path, text)
    }

    /// Parses the text of a file.
    fn parsed(&mut self, path: &Path, text: String) -> Option<Node> {
        let id = self.add(path, text);
        let text = self.sources.text(id).unwrap_or_default();
        let root = node::parse(id, text, &mut self.diagnostics);
        if root.is_some() {
            return root;
        }
        let empty = !self
            .diagnostics
            .iter()
            .any(|diagnostic| diagnostic.span.file == id);
        if empty {
            let span = Span::new(id, 0, 0);
            self.diagnostics
                .push(Diagnostic::error("the file is empty", span).code("empty_value"));
        }
        None
    }

    fn add(&mut self, path: &Path, text: String) -> FileId {
        let directory = path.parent().unwrap_or(Path::new(""));
        self.directories.push(directory.to_owned());
        let id = self.sources.add(path.display().to_string(), text);
        if let Some(index) = self.including {
            self.includes.by_file.insert(id, index);
        }
        id
    }

    fn not_utf8(&mut self, path: &Path, error: &std::string::FromUtf8Error) {
        let at = u32::try_from(error.utf8_error().valid_up_to()).unwrap_or(u32::MAX);
        let id = self.add(path, String::from_utf8_lossy(error.as_bytes()).into_owned());
        self.diagnostics.push(
            Diagnostic::error("the file is not UTF-8", Span::new(id, at, at))
                .code("syntax")
                .hint("save it as UTF-8"),
        );
    }

    /// Remembers that the configuration depends on a file.
    fn note(&mut self, path: &Path, digest: Option<blake3::Hash>) {
        self.watched.extend(links::directories_of(path));
        self.digests.insert(path.to_owned(), digest);
    }

    fn check_version(&mut self, root: &Node) {
        let Some(entry) = root.entry("version") else {
            return;
        };
        if let Value::Scalar(Scalar { text, .. }) = &entry.value.value
            && !text.contains("${")
            && &**text != VERSION
            && text.bytes().all(|byte| byte.is_ascii_digit())
        {
            self.diagnostics.push(
                Diagnostic::error(
                    format!("version {text} of the configuration is not known"),
                    entry.value.span,
                )
                .code("invalid_value")
                .hint(format!("this gateway reads version {VERSION}")),
            );
        }
    }

    /// The patterns of `include`, by the include's place. Whatever is wrong with them is reported when everything is
    /// read.
    fn patterns(&mut self, root: &Node) -> Vec<(usize, Spanned<String>)> {
        let Some(include) = root.entry("include") else {
            return Vec::new();
        };
        let includes = match &include.value.value {
            Value::List(includes) => includes.as_slice(),
            _ => std::slice::from_ref(&include.value),
        };
        let cx = Context::new(self.environment, &self.directories);
        let mut patterns = Vec::new();
        for (index, include) in includes.iter().enumerate() {
            let read = match include.value {
                Value::Scalar(_) => de::read(include, &cx).map(Pattern::of),
                _ => de::read::<Pattern>(include, &cx),
            };
            let Some(read) = read else {
                continue;
            };
            let first = read.files.0.first().map(|file| file.value().clone());
            if let (Some(OnError::Keep), Some(first)) = (read.on_error, first) {
                // an owner may have several
                let name = match read.owner {
                    Some(owner) => format!("{owner}: {first}"),
                    None => first,
                };
                self.includes.keeping.insert(index, name.into());
            }
            patterns.extend(read.files.into_iter().map(|file| (index, file)));
        }
        let spans = patterns.iter().map(|(index, file)| (file.span(), *index));
        self.includes.patterns = spans.collect();
        patterns
    }

    /// Reads the files of one pattern and puts what they hold into the main tree.
    fn include(&mut self, root: &mut Node, index: usize, pattern: &Spanned<String>) {
        let span = pattern.span();
        if self.include_kept(root, index, span) {
            return;
        }
        let base = self
            .directories
            .get(span.file.0 as usize)
            .cloned()
            .unwrap_or_default();
        let files = match self.files(&base, pattern) {
            Ok(files) => files,
            Err(error) => {
                let message = format!("can't look for `{}`: {error}", pattern.value());
                return self
                    .diagnostics
                    .push(Diagnostic::error(message, span).code("file"));
            }
        };
        if files.is_empty() {
            let message = format!("no file matches `{}`", pattern.value());
            self.diagnostics
                .push(Diagnostic::warning(message, span).code("include"));
        }
        for path in files {
            if self.is_new(&path, span)
                && let Some(included) = self.file(&path, span)
            {
                self.merge(root, included);
            }
        }
    }

    /// Reads what is kept of an include instead, once for all of its patterns.
    fn include_kept(&mut self, root: &mut Node, index: usize, span: Span) -> bool {
        let kept = self.includes.keeps(index);
        let Some(files) = kept.and_then(|name| self.kept.files(name)) else {
            return false;
        };
        for file in files {
            if self.read.insert(file.path.clone(), span).is_none()
                && let Some(included) = self.parsed(&file.path, file.text.to_string())
            {
                self.merge(root, included);
            }
        }
        true
    }

    fn files(&mut self, base: &Path, pattern: &Spanned<String>) -> std::io::Result<Vec<PathBuf>> {
        if !glob::is_pattern(pattern) {
            return Ok(vec![base.join(pattern.value())]);
        }
        let found = glob::find(base, pattern)?;
        for directory in &found.directories {
            // a file that does not exist yet may appear in it
            let any = links::directories_of(&directory.join("*"));
            self.watched.extend(any);
        }
        Ok(found.files)
    }

    /// Whether a file was not read yet: it could only repeat itself.
    fn is_new(&mut self, path: &Path, span: Span) -> bool {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let is_main = || {
            let main = self.sources.name(FileId(0)).map(Path::new);
            main.and_then(|main| main.canonicalize().ok()) == Some(path.clone())
        };
        let mut error = None;
        if is_main() {
            error = Some(Diagnostic::error("the file includes itself", span));
        } else if let Some(first) = self.read.get(&path) {
            let message = format!("`{}` is included twice", path.display());
            error = Some(Diagnostic::error(message, span).related(*first, "first included here"));
        }
        match error {
            Some(error) => {
                self.diagnostics.push(error.code("include"));
                false
            }
            None => {
                self.read.insert(path, span);
                true
            }
        }
    }

    /// Moves the sections of an included file into the main tree.
    fn merge(&mut self, root: &mut Node, included: Node) {
        let kind = included.kind();
        let Value::Map(sections) = included.value else {
            self.diagnostics.push(
                Diagnostic::error(
                    format!("an included file is a map, not {kind}"),
                    included.span,
                )
                .code("invalid_value")
                .hint("such as `routes: {…}`"),
            );
            return;
        };
        for section in sections {
            if &*section.key == "version" {
                let version = Node {
                    span: section.key_span,
                    value: Value::Map(vec![section]),
                };
                self.check_version(&version);
            } else if SECTIONS.contains(&&*section.key) {
                self.merge_section(root, section);
            } else {
                self.diagnostics.push(
                    Diagnostic::error(
                        format!("`{}` can't stand in an included file", section.key),
                        section.key_span,
                    )
                    .code("include")
                    .hint(format!(
                        "included files hold {}",
                        SECTIONS.map(|name| format!("`{name}`")).join(", ")
                    )),
                );
            }
        }
    }

    fn merge_section(&mut self, root: &mut Node, section: Entry) {
        let Value::Map(entries) = &mut root.value else {
            return;
        };
        let Some(main) = entries.iter_mut().find(|entry| entry.key == section.key) else {
            entries.push(section);
            return;
        };
        let (Value::Map(into), Value::Map(from)) = (&mut main.value.value, section.value.value)
        else {
            // what is not a map here is reported by its own file's reading
            return self.not_a_map(section.key_span, &section.key);
        };
        let first = self.keys.entry(section.key).or_insert_with(|| {
            into.iter()
                .map(|entry| (entry.key.clone(), entry.key_span))
                .collect()
        });
        for entry in from {
            if let Some(span) = first.get(&entry.key) {
                self.diagnostics.push(
                    Diagnostic::error(
                        format!("duplicate key `{}`", entry.key.escape_debug()),
                        entry.key_span,
                    )
                    .code("duplicate_key")
                    .related(*span, "first written here"),
                );
                continue;
            }
            first.insert(entry.key.clone(), entry.key_span);
            into.push(entry);
        }
    }

    fn not_a_map(&mut self, span: Span, section: &str) {
        self.diagnostics.push(
            Diagnostic::error(
                format!("expected `{section}` to be a map of names in every file"),
                span,
            )
            .code("invalid_value"),
        );
    }

    /// Takes over what the reading of the tree found out.
    fn take(&mut self, found: Found) {
        self.diagnostics.extend(found.diagnostics);
        for span in found.hidden {
            self.sources.hide(span);
        }
        for (path, digest) in found.files {
            self.note(&path, digest);
        }
        for folder in found.folders {
            self.watched.extend(links::directories_of(&folder));
            self.watched
                .extend(links::directories_of(&folder.join("*")));
        }
        self.variables.extend(found.variables);
    }

    fn finish<C>(self, config: Option<C>) -> Result<Loaded<C>, Box<Failure<C>>> {
        let dependencies = self.dependencies();
        let mut diagnostics = self.diagnostics;
        self.sources.sort(&mut diagnostics);
        let refused = diagnostics
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error);
        match config {
            Some(config) if !refused => Ok(Loaded {
                config,
                warnings: diagnostics,
                sources: self.sources,
                includes: self.includes,
                dependencies,
            }),
            partial => Err(Box::new(Failure {
                diagnostics,
                sources: self.sources,
                includes: self.includes,
                dependencies,
                partial,
            })),
        }
    }

    fn dependencies(&self) -> Dependencies {
        let mut hasher = blake3::Hasher::new();
        // every part is preceded by its length, so that no two sets of parts have the same bytes
        let mut part = |name: &[u8], digest: Option<&blake3::Hash>| {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name);
            let absent: &[u8] = &[0; 32];
            hasher.update(digest.map_or(absent, |digest| digest.as_bytes()));
        };
        for (path, digest) in &self.digests {
            part(path.as_os_str().as_encoded_bytes(), digest.as_ref());
        }
        for (name, digest) in &self.variables {
            part(name.as_bytes(), digest.as_ref());
        }
        Dependencies {
            fingerprint: Fingerprint(*hasher.finalize().as_bytes()),
            files: self.digests.keys().cloned().collect(),
            directories: self.watched.iter().cloned().collect(),
        }
    }
}
