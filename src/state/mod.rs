//! What happened so far, and outlives snapshots: counters, positions, health.
//!
//! A snapshot holds its state by `Arc`; this registry only remembers where each piece is, by identity (kind, place) and
//! shape, so that the next snapshot adopts it. What no snapshot holds any more is gone. Everything kept can be exported
//! and taken in again, with times as monotonic nanoseconds: the two sides of an upgrade share the machine's clock.

pub mod quotas;
mod secret;

pub use secret::{MadeSecret, directory};

use ahash::AHashMap;
use nix::time::ClockId;
use parking_lot::Mutex;
use quotas::Quotas;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

/// What a piece of state belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// `rate_limit`, `endpoint`, `round_robin`…
    pub kind: &'static str,
    /// Whose it is: `scope/key` of a policy, the name of a service, `service/address` of an endpoint.
    pub place: Arc<str>,
    /// What would make old contents meaningless if it changed, such as the length of a window.
    pub shape: Arc<str>,
}

/// State that can be handed from one process to the next.
pub trait Kept: Any + Send + Sync {
    /// Everything that the successor needs, or nothing when a fresh start says the same.
    fn export(&self) -> Option<serde_json::Value>;

    /// Takes in what another process exported. Contents that make no sense are ignored: state is never a reason to fail.
    fn restore(&self, exported: &serde_json::Value);
}

/// One exported piece.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exported {
    pub kind: String,
    pub place: String,
    pub shape: String,
    pub contents: serde_json::Value,
}

/// The file of quotas in the state directory.
const QUOTAS: &str = "quotas.redb";

/// The registry of everything that outlives snapshots.
#[derive(Default)]
pub struct State {
    held: Mutex<Held>,
    secrets: secret::Secrets,
    quotas: Book,
}

/// The file of quotas, which is opened when the first is configured.
#[derive(Default)]
struct Book {
    /// None where a configuration is only looked at.
    path: Option<Option<PathBuf>>,
    open: Mutex<Option<Arc<Quotas>>>,
}

#[derive(Default)]
struct Held {
    pieces: AHashMap<Identity, Weak<dyn Piece>>,
    /// What a predecessor exported and nobody has asked for yet.
    inherited: AHashMap<(String, String, String), serde_json::Value>,
}

/// Both faces of a piece: to be exported, and to be found by its own type.
trait Piece: Kept {
    fn any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<T: Kept> Piece for T {
    fn any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl State {
    /// State whose secrets outlive the process, in this directory. Without one they are made up and forgotten.
    pub fn kept_in(directory: Option<std::path::PathBuf>) -> Self {
        Self {
            quotas: Book {
                path: Some(directory.as_ref().map(|directory| directory.join(QUOTAS))),
                open: Mutex::default(),
            },
            secrets: secret::Secrets::kept_in(directory),
            ..Self::default()
        }
    }

    /// State whose secrets are those that a gateway keeps in this directory; nothing is written into it.
    pub fn found_in(directory: Option<std::path::PathBuf>) -> Self {
        Self {
            secrets: secret::Secrets::found_in(directory),
            ..Self::default()
        }
    }

    /// A secret that nobody has set: the one that was made before, or a new one.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn secret(&self, name: &'static str) -> std::io::Result<Arc<MadeSecret>> {
        self.secrets.find(name)
    }

    /// What quotas count in: a file in the state directory, or memory alone where a configuration is only looked at.
    ///
    /// # Errors
    /// There is no state directory, or the file can't be opened.
    pub fn quotas(&self) -> Result<Arc<Quotas>, String> {
        let mut open = self.quotas.open.lock();
        if let Some(known) = &*open {
            return Ok(known.clone());
        }
        let quotas = match &self.quotas.path {
            None => Quotas::forgetful(),
            Some(None) => return Err("there is no state directory".to_owned()),
            Some(Some(path)) => {
                let quotas = secret::make_parent(path)
                    .map_err(|error| format!("`{}`: {error}", path.display()))
                    .and_then(|()| Quotas::open(path))?;
                quotas.sweep(quotas::now())?;
                quotas
            }
        };
        let quotas = Arc::new(quotas);
        *open = Some(quotas.clone());
        Ok(quotas)
    }

    /// The same, if any quota has been configured.
    pub fn open_quotas(&self) -> Option<Arc<Quotas>> {
        self.quotas.open.lock().clone()
    }

    /// The piece of that identity if one is alive, else a new one, filled with what a predecessor left for it.
    pub fn adopt<T: Kept>(&self, identity: Identity, make: impl FnOnce() -> T) -> Arc<T> {
        let mut held = self.held.lock();
        let known = held.pieces.get(&identity).and_then(Weak::upgrade);
        if let Some(Ok(known)) = known.map(|piece| piece.any().downcast::<T>()) {
            return known;
        }
        let fresh = Arc::new(make());
        let left = (
            identity.kind.to_owned(),
            identity.place.to_string(),
            identity.shape.to_string(),
        );
        if let Some(contents) = held.inherited.remove(&left) {
            fresh.restore(&contents);
        }
        let piece: Arc<dyn Piece> = fresh.clone();
        held.pieces.insert(identity, Arc::downgrade(&piece));
        fresh
    }

    /// Forgets the identities of what no snapshot holds any more.
    pub fn sweep(&self) {
        let mut held = self.held.lock();
        held.pieces.retain(|_, piece| piece.strong_count() > 0);
    }

    /// Everything alive that has something to hand over.
    pub fn export(&self) -> Vec<Exported> {
        let held = self.held.lock();
        let alive = held
            .pieces
            .iter()
            .filter_map(|(identity, piece)| Some((identity, piece.upgrade()?)));
        alive
            .filter_map(|(identity, piece)| {
                Some(Exported {
                    kind: identity.kind.to_owned(),
                    place: identity.place.to_string(),
                    shape: identity.shape.to_string(),
                    contents: piece.export()?,
                })
            })
            .collect()
    }

    /// Keeps what a predecessor exported until the first snapshot adopts it.
    pub fn inherit(&self, exported: Vec<Exported>) {
        let mut held = self.held.lock();
        held.inherited = exported
            .into_iter()
            .map(|piece| ((piece.kind, piece.place, piece.shape), piece.contents))
            .collect();
    }
}

/// Nanoseconds of the machine's monotonic clock: the same for every process on it, and untouched by changes of the date.
pub fn monotonic_nanos() -> u64 {
    nanos(ClockId::CLOCK_MONOTONIC)
}

/// The same clock as it was at the kernel's last tick, at most some milliseconds ago. A tenth of the cost, where a request
/// asks for nothing more exact.
pub fn monotonic_nanos_coarse() -> u64 {
    nanos(ClockId::CLOCK_MONOTONIC_COARSE)
}

fn nanos(clock: ClockId) -> u64 {
    let now = nix::time::clock_gettime(clock);
    now.map_or(0, |now| {
        u64::try_from(now.tv_sec())
            .unwrap_or(0)
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::try_from(now.tv_nsec()).unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Count(AtomicU64);

    impl Kept for Count {
        fn export(&self) -> Option<serde_json::Value> {
            Some(self.0.load(Ordering::Relaxed).into())
        }
        fn restore(&self, exported: &serde_json::Value) {
            if let Some(count) = exported.as_u64() {
                self.0.store(count, Ordering::Relaxed);
            }
        }
    }

    fn identity(shape: &str) -> Identity {
        Identity {
            kind: "count",
            place: "here".into(),
            shape: shape.into(),
        }
    }

    fn zero() -> Count {
        Count(AtomicU64::new(0))
    }

    #[test]
    fn a_piece_lives_while_it_is_held_and_its_shape_stays() {
        let state = State::default();
        let first = state.adopt(identity("1m"), zero);
        first.0.store(7, Ordering::Relaxed);
        assert_eq!(
            state.adopt(identity("1m"), zero).0.load(Ordering::Relaxed),
            7
        );
        assert_eq!(
            state.adopt(identity("1h"), zero).0.load(Ordering::Relaxed),
            0
        );
        drop(first);
        state.sweep();
        assert_eq!(
            state.adopt(identity("1m"), zero).0.load(Ordering::Relaxed),
            0
        );
    }

    #[test]
    fn an_exported_piece_is_taken_in_by_the_next_process() {
        let old = State::default();
        let piece = old.adopt(identity("1m"), zero);
        piece.0.store(42, Ordering::Relaxed);
        let wire = serde_json::to_string(&old.export()).unwrap();

        let new = State::default();
        new.inherit(serde_json::from_str(&wire).unwrap());
        assert_eq!(
            new.adopt(identity("1m"), zero).0.load(Ordering::Relaxed),
            42
        );
        assert_eq!(new.adopt(identity("1h"), zero).0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn nonsense_is_ignored() {
        let new = State::default();
        new.inherit(vec![Exported {
            kind: "count".into(),
            place: "here".into(),
            shape: "1m".into(),
            contents: "rubbish".into(),
        }]);
        assert_eq!(new.adopt(identity("1m"), zero).0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_clock_does_not_go_back() {
        let before = monotonic_nanos();
        assert!(before > 0 && monotonic_nanos() >= before);
    }
}
