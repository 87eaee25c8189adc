//! What is known and found out while a configuration is read: its files, its errors, what it depends on.

use super::certificates::{self, Pair};
use super::de::Failure;
use super::node::Node;
use super::reference::Resolve;
use crate::diagnostic::{Diagnostic, Span};
use crate::units::{FileId, Invalid};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// How many errors are reported. More help nobody, and each one costs another look at what holds it.
const ERRORS_MAX: usize = 100;

/// The largest file that a value may name: certificates, keys, lists of networks.
const FILE_MAX: u64 = 16 << 20;

/// The largest file of credentials: some six million keys.
const LARGE_FILE_MAX: u64 = 512 << 20;

/// The largest file that a secret may come from.
const SECRET_MAX: u64 = 1 << 20;

/// Looks up an environment variable.
type Lookup<'e> = dyn Fn(&str) -> Option<String> + 'e;

/// What the process was started with, as far as a configuration can see it.
pub struct Environment<'e> {
    variable: Box<Lookup<'e>>,
}

impl<'e> Environment<'e> {
    /// The process's own.
    pub fn of_process() -> Self {
        Self::new(|name| std::env::var(name).ok())
    }

    pub fn new(variable: impl Fn(&str) -> Option<String> + 'e) -> Self {
        Self {
            variable: Box::new(variable),
        }
    }
}

/// Whether the values of named maps are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NamedMaps {
    /// Every named map looks empty: what stands around them is read first, as often as it has errors.
    Skip,
    Read,
}

/// How large a file that a value names may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileSize {
    Usual,
    Large,
}

/// A certificate with the texts of its chain and its key.
type PairText = (Pair, Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>);

/// One reading of one tree.
pub(super) struct Context<'c> {
    environment: &'c Environment<'c>,
    /// The directory of each file, by its id.
    directories: &'c [PathBuf],
    named_maps: Cell<NamedMaps>,
    found: RefCell<Found>,
    /// Nodes that had an error, by address: they are left out when what holds them is read again.
    excluded: RefCell<HashSet<usize>>,
    /// Named maps that were read. They are not read again when something beside them fails.
    visited: RefCell<HashSet<usize>>,
}

/// What a reading found out.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub diagnostics: Vec<Diagnostic>,
    /// Places whose text is a secret.
    pub hidden: Vec<Span>,
    /// Files that values name, with a digest of what they hold; none where they can't be read.
    pub files: BTreeMap<PathBuf, Option<blake3::Hash>>,
    /// Folders in which a new file would matter.
    pub folders: Vec<PathBuf>,
    /// Variables that values name, with a digest.
    pub variables: BTreeMap<String, Option<blake3::Hash>>,
}

fn address(node: &Node) -> usize {
    std::ptr::from_ref(node).addr()
}

impl<'c> Context<'c> {
    pub fn new(environment: &'c Environment<'c>, directories: &'c [PathBuf]) -> Self {
        Self {
            environment,
            directories,
            named_maps: Cell::new(NamedMaps::Read),
            found: RefCell::default(),
            excluded: RefCell::default(),
            visited: RefCell::default(),
        }
    }

    pub fn into_found(self) -> Found {
        self.found.into_inner()
    }

    pub fn set_named_maps(&self, named_maps: NamedMaps) {
        self.named_maps.set(named_maps);
    }

    /// Whether this named map is to be read: once, and not while maps are skipped.
    pub fn enters(&self, node: &Node) -> bool {
        self.named_maps.get() == NamedMaps::Read && self.visited.borrow_mut().insert(address(node))
    }

    pub fn is_excluded(&self, node: &Node) -> bool {
        let excluded = self.excluded.borrow();
        !excluded.is_empty() && excluded.contains(&address(node))
    }

    /// Whether enough errors were found.
    pub fn is_full(&self) -> bool {
        self.found.borrow().diagnostics.len() >= ERRORS_MAX
    }

    /// Reports a failure and leaves out from now on what had it. False where that was left out already, so that reading
    /// again would find nothing new.
    pub fn record(&self, failure: Failure, within: &Node) -> bool {
        let at = failure.node.unwrap_or(address(within));
        if let Some(diagnostic) = failure.into_diagnostic() {
            let mut found = self.found.borrow_mut();
            if !found.diagnostics.contains(&diagnostic) {
                found.diagnostics.push(diagnostic);
            }
        }
        self.excluded.borrow_mut().insert(at)
    }

    pub fn hide(&self, span: Span) {
        self.found.borrow_mut().hidden.push(span);
    }

    /// A path of a value: relative ones begin at the file in which they stand.
    fn resolve_path(&self, path: &str, file: FileId) -> PathBuf {
        match self.directories.get(file.0 as usize) {
            Some(directory) => directory.join(path),
            None => PathBuf::from(path),
        }
    }

    /// The resolved path and the bytes of a file that a value names.
    pub fn read_file(
        &self,
        path: &str,
        file: FileId,
        size: FileSize,
    ) -> Result<(PathBuf, Vec<u8>), Invalid> {
        if path.is_empty() {
            return Err(Invalid::new("the path is empty"));
        }
        let path = self.resolve_path(path, file);
        let most = match size {
            FileSize::Usual => FILE_MAX,
            FileSize::Large => LARGE_FILE_MAX,
        };
        let bytes = self.read_noted(&path, most)?;
        Ok((path, bytes))
    }

    /// The certificates and keys in a folder that a value names: its resolved path, and each pair with both texts.
    pub fn read_certificates(
        &self,
        path: &str,
        file: FileId,
    ) -> Result<(PathBuf, Vec<PairText>), Invalid> {
        if path.is_empty() {
            return Err(Invalid::new("the path is empty"));
        }
        let folder = self.resolve_path(path, file);
        let found = {
            let mut found = self.found.borrow_mut();
            certificates::find(&folder, &mut found.folders)
        };
        let pairs = found.map_err(|unusable| {
            // as if it could not be read, so that it is another configuration without it
            let mut found = self.found.borrow_mut();
            found.files.insert(unusable.at, None);
            unusable.why
        })?;
        let mut left = certificates::BYTES_MAX;
        let mut read = |path: &Path| {
            let bytes = self.read_noted(path, certificates::FILE_BYTES_MAX)?;
            left = left.checked_sub(bytes.len() as u64).ok_or_else(|| {
                let most = certificates::BYTES_MAX >> 20;
                let shown = folder.display();
                Invalid::new(format!(
                    "the certificates in `{shown}` are larger than {most} MiB"
                ))
            })?;
            Ok(Zeroizing::new(bytes))
        };
        let mut texts = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let chain = read(&pair.chain)?;
            let key = match pair.key == pair.chain {
                true => chain.clone(),
                false => read(&pair.key)?,
            };
            texts.push((pair, chain, key));
        }
        Ok((folder, texts))
    }

    fn read_noted(&self, path: &Path, most: u64) -> Result<Vec<u8>, Invalid> {
        let read = read_bounded(path, most);
        let digest = read.as_ref().ok().map(|bytes| blake3::hash(bytes));
        self.found
            .borrow_mut()
            .files
            .insert(path.to_owned(), digest);
        read
    }

    fn read_secret(&self, path: &Path) -> Result<String, Invalid> {
        let bytes = Zeroizing::new(self.read_noted(path, SECRET_MAX)?);
        let shown = path.display();
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| Invalid::new(format!("`{shown}` is not UTF-8")))?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        match text.is_empty() {
            true => Err(Invalid::new(format!("the secret in `{shown}` is empty"))),
            false => Ok(text.to_owned()),
        }
    }

    /// Where references in a value of this file lead.
    pub fn resolver(&self, file: FileId) -> Resolver<'_> {
        Resolver { cx: self, file }
    }
}

/// Reads a regular file: a pipe would block, and a device never end.
pub(super) fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, Invalid> {
    let shown = path.display();
    let because = |error: std::io::Error| {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
            std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            std::io::ErrorKind::NotADirectory => "a part of the path is not a directory".to_owned(),
            _ => error.to_string(),
        };
        Invalid::new(format!("can't read `{shown}`: {reason}"))
    };
    let metadata = std::fs::metadata(path).map_err(because)?;
    if !metadata.is_file() {
        return Err(Invalid::new(format!(
            "can't read `{shown}`: it is not a regular file"
        )));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        .map_err(because)?;
    if bytes.len() as u64 > most {
        return Err(Invalid::new(format!(
            "`{shown}` is larger than {} MiB",
            most >> 20
        )));
    }
    Ok(bytes)
}

/// Resolves references of values in one file.
pub(super) struct Resolver<'r> {
    cx: &'r Context<'r>,
    file: FileId,
}

impl Resolve for Resolver<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        let value = (self.cx.environment.variable)(name);
        let digest = value.as_ref().map(|value| blake3::hash(value.as_bytes()));
        self.cx
            .found
            .borrow_mut()
            .variables
            .insert(name.to_owned(), digest);
        value
    }

    fn secret_file(&self, path: &str) -> Result<String, Invalid> {
        if path.is_empty() {
            return Err(Invalid::new("the path is empty").hint("`${file:/path}`"));
        }
        self.cx.read_secret(&self.cx.resolve_path(path, self.file))
    }

    fn credential(&self, name: &str) -> Result<String, Invalid> {
        let plain = !name.is_empty() && !name.contains(['/', '\0']) && !matches!(name, "." | "..");
        if !plain {
            return Err(Invalid::new(format!(
                "`{}` is not the name of a credential",
                name.escape_debug()
            ))
            .hint("the name that `LoadCredential=` gives it in the systemd unit"));
        }
        let directory =
            (self.cx.environment.variable)("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                Invalid::new(
                    "there are no credentials: the gateway was not started by systemd with any",
                )
                .hint("`LoadCredential=` in the unit, or `${file:/path}`")
            })?;
        self.cx.read_secret(&Path::new(&directory).join(name))
    }
}
