//! What came out about passwords: worked out off the request threads, and remembered for a while.
//!
//! Verdicts stand under a digest, with a key that the process draws at its start, of the user, the hash and the password;
//! no password is kept. Requests that ask the same wait for one answer. As many passwords are worked out at once as half of
//! the processors can, and a bounded number of others wait: whoever guesses passwords takes neither the machine nor, where
//! their password is known already, those who log in.

use crate::identity::credentials::password::PasswordHash;
use crate::identity::credentials::passwords::User;
use crate::state::{Kept, monotonic_nanos_coarse};
use crate::supervisor::joined;
use quick_cache::sync::Cache;
use rustls::crypto::aws_lc_rs;
use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

/// Verdicts that are remembered.
const REMEMBERED: usize = 16 * 1024;

/// For how long. A changed hash makes another question at once; this is for those who have left.
const REMEMBERED_FOR: Duration = Duration::from_secs(300);

/// Passwords that wait to be worked out.
const WAITING_MAX: usize = 100;

/// How long one waits at most: clients have gone by then, or should.
const WAITS_AT_MOST: Duration = Duration::from_secs(5);

/// Whether a password is that of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Right,
    Wrong,
}

/// Too many passwords wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Whether this user has this password.
#[derive(Clone, Copy)]
pub struct Question {
    digest: [u8; 32],
    mark: u64,
}

impl Question {
    /// A number that belongs to the name alone.
    pub fn mark(&self) -> u64 {
        self.mark
    }
}

/// A verdict and the moment from which it is forgotten, in nanoseconds of the monotonic clock.
#[derive(Clone, Copy)]
struct Remembered {
    verdict: Verdict,
    until: u64,
}

/// Shared by all policies, and kept over reloads.
pub struct Verdicts {
    key: Zeroizing<[u8; 32]>,
    remembered: Cache<[u8; 32], Remembered>,
    workers: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Kept for Verdicts {
    fn export(&self) -> Option<serde_json::Value> {
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

impl Verdicts {
    /// # Errors
    /// The system gives no random numbers.
    pub fn new() -> io::Result<Self> {
        let mut key = Zeroizing::new([0; 32]);
        let provider = aws_lc_rs::default_provider();
        provider
            .secure_random
            .fill(&mut *key)
            .map_err(|_| io::Error::other("the system gives no random numbers"))?;
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Ok(Self {
            key,
            remembered: Cache::new(REMEMBERED),
            workers: Arc::new(Semaphore::new((processors / 2).clamp(1, 8))),
            waiting: AtomicUsize::new(0),
        })
    }

    pub fn question(&self, name: &str, password: &[u8], user: Option<&User>) -> Question {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        // the length comes first, so that no other name and password have the same bytes
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        let mut mark = [0; 8];
        hasher.finalize_xof().fill(&mut mark);
        hasher.update(&user.map(|user| user.mark).unwrap_or_default());
        hasher.update(password);
        Question {
            digest: *hasher.finalize().as_bytes(),
            mark: u64::from_le_bytes(mark),
        }
    }

    /// The answer, if it is remembered.
    pub fn known(&self, question: &Question) -> Option<Verdict> {
        let now = monotonic_nanos_coarse();
        let known = self.remembered.get(&question.digest)?;
        (now < known.until).then_some(known.verdict)
    }

    /// Works the answer out, or waits for whoever does.
    ///
    /// # Errors
    /// Too many wait, or it took too long to come to this one.
    pub async fn find_out(
        &self,
        question: &Question,
        hash: PasswordHash,
        password: Zeroizing<Vec<u8>>,
    ) -> Result<Verdict, Busy> {
        let _place = self.queue()?;
        let now = monotonic_nanos_coarse();
        let stale = |known: &Remembered| known.until <= now;
        self.remembered.remove_if(&question.digest, stale);
        let waited = tokio::time::timeout(WAITS_AT_MOST, async {
            match self.remembered.get_value_or_guard_async(&question.digest).await {
                Ok(known) => Ok(known),
                Err(guard) => {
                    let permit = self.workers.clone().acquire_owned().await;
                    Err((guard, permit.map_err(|_| Busy)))
                }
            }
        });
        match waited.await.map_err(|_| Busy)? {
            Ok(known) => Ok(known.verdict),
            Err((guard, permit)) => {
                let verdict = work(hash, password, permit?).await?;
                let lasts = u64::try_from(REMEMBERED_FOR.as_nanos()).unwrap_or(u64::MAX);
                let until = monotonic_nanos_coarse().saturating_add(lasts);
                let _ = guard.insert(Remembered { verdict, until });
                Ok(verdict)
            }
        }
    }

    fn queue(&self) -> Result<Place<'_>, Busy> {
        let place = Place(&self.waiting);
        match self.waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX {
            true => Ok(place),
            false => Err(Busy),
        }
    }
}

/// A place among those that wait, given back when dropped.
struct Place<'w>(&'w AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// On a thread that may block. It goes on when the client leaves, and so does its permit.
async fn work(
    hash: PasswordHash,
    password: Zeroizing<Vec<u8>>,
    permit: OwnedSemaphorePermit,
) -> Result<Verdict, Busy> {
    let working = tokio::task::spawn_blocking(move || {
        let right = hash.matches(&password);
        drop(permit);
        right
    });
    match joined(working.await) {
        Ok(true) => Ok(Verdict::Right),
        Ok(false) => Ok(Verdict::Wrong),
        // the runtime is shutting down
        Err(_) => Err(Busy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;

    fn hash(password: &str) -> PasswordHash {
        PasswordHash::parse(&bcrypt::hash(password, 4).unwrap()).unwrap()
    }

    fn password(text: &str) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(text.as_bytes().to_vec())
    }

    #[tokio::test]
    async fn what_came_out_is_remembered_and_not_for_another_question() {
        let verdicts = Verdicts::new().unwrap();
        let user = User::new("anna".into(), hash("right"));
        let ask = |name: &str, text: &str| verdicts.question(name, text.as_bytes(), Some(&user));
        for (text, wanted) in [("right", Verdict::Right), ("wrong", Verdict::Wrong)] {
            let asked = ask("anna", text);
            assert_eq!(verdicts.known(&asked), None);
            let found = verdicts.find_out(&asked, user.hash.clone(), password(text)).await;
            assert_eq!(found, Ok(wanted));
            assert_eq!(verdicts.known(&asked), Some(wanted));
        }
        let other = User::new("anna".into(), hash("right"));
        let moved = verdicts.question("annar", b"ight", Some(&user));
        let changed = verdicts.question("anna", b"right", Some(&other));
        let gone = verdicts.question("anna", b"right", None);
        for asked in [moved, changed, gone, ask("Anna", "right")] {
            assert_eq!(verdicts.known(&asked), None);
        }
        assert_eq!(ask("anna", "a").mark(), gone.mark());
    }

    #[tokio::test]
    async fn beyond_a_bound_nobody_waits_and_places_are_given_back() {
        let verdicts = Verdicts::new().unwrap();
        let costly = PasswordHash::parse(&bcrypt::hash("right", 6).unwrap()).unwrap();
        let asked = |number: usize| {
            let text = number.to_string();
            let question = verdicts.question("anna", text.as_bytes(), None);
            let (verdicts, hash) = (&verdicts, costly.clone());
            async move { verdicts.find_out(&question, hash, password(&text)).await }
        };
        let found = join_all((0..WAITING_MAX + 50).map(asked)).await;
        let busy = found.iter().filter(|found| **found == Err(Busy)).count();
        assert_eq!(busy, 50);
        assert_eq!(verdicts.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(asked(WAITING_MAX + 50).await, Ok(Verdict::Wrong));
    }

    #[tokio::test]
    async fn who_leaves_keeps_nobody_waiting() {
        let verdicts = Verdicts::new().unwrap();
        let question = verdicts.question("anna", b"right", None);
        // much work, so that it is not done by the time this is looked at
        let costly = PasswordHash::parse(&bcrypt::hash("right", 10).unwrap()).unwrap();
        let ask = || verdicts.find_out(&question, costly.clone(), password("right"));
        let mut leaving = Box::pin(ask());
        assert!(futures::poll!(&mut leaving).is_pending());
        drop(leaving);
        assert_eq!(ask().await, Ok(Verdict::Right));
    }
}
