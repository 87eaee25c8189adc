//! What quotas have counted, kept in a file so that it outlives the process.
//!
//! Requests count in memory ([`Ledger`]); what has changed is written together, in one commit that is on the disk when it
//! is over: every second or as often as is configured, or at once where a request waits for it. So a process that is
//! killed forgets what was counted since the last commit, and one that ends in good order nothing.
//!
//! One process has the file open at a time. One that begins while its predecessor ends waits for it a while.
//!
//! A disk that is full, or fails, loses nothing as long as the process runs: it goes on to count in memory and to refuse
//! what is over, and tries again to write all that has changed. Only requests that must not go on before they are on the
//! disk (`sync: always`) are refused meanwhile.

use crate::limit::quota::{Account, Ledger, Period, Slot, Span};
use crate::supervisor::joined;
use parking_lot::Mutex;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// By the name of a quota, a zero byte, and the key; the value is [`written`].
const ACCOUNTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("quota_accounts");

/// What stands first in a value.
const VERSION: u8 = 1;

/// What nobody has used for so long is of no period that there is: two months, and some days more.
const FORGOTTEN: i64 = 70 * 24 * 60 * 60;

/// Between two complaints that nothing can be written.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// After one that failed, however many requests wait for the next.
const TRIED_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How often a commit is tried while nothing asks for one more often.
const EVERY: Duration = Duration::from_secs(1);

/// How long a process that begins waits for one that ends and has the file open still.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(5);

/// Between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What of the file is kept in memory: accounts are read when a quota begins, and then only written.
const CACHE_BYTES: usize = 8 << 20;

/// Between two looks for what belongs to no period any more.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);

/// The counts of one quota.
pub struct Counts {
    name: Arc<str>,
    pub ledger: Ledger,
    /// Nanoseconds; how long a count may stay unwritten.
    every: AtomicU64,
}

impl Counts {
    /// Counts for so many keys, and has it written as often, from now on: a configuration that is refused changes nothing.
    pub fn bounded(&self, keys_max: usize, every: Duration) {
        let nanos = nanos(every);
        // nobody writes what all read for each request
        if self.every.load(Relaxed) != nanos {
            self.every.store(nanos, Relaxed);
        }
        self.ledger.set_keys_max(keys_max);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How it went with the last commit.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    /// All counts before this ticket are on the disk.
    upto: u64,
    /// Those before this one could not be written.
    failed: u64,
}

/// The file, and all quotas whose counts go into it.
pub struct Quotas {
    file: Option<File>,
    counts: Mutex<Vec<Arc<Counts>>>,
    tickets: AtomicU64,
    written: watch::Sender<Written>,
    wake: Notify,
    /// One commit at a time.
    committing: Mutex<Committing>,
    pub commits: AtomicU64,
    pub failures: AtomicU64,
}

#[derive(Default)]
struct Committing {
    /// Rows that make no sense any more.
    obsolete: Vec<Vec<u8>>,
    told_at: Option<Instant>,
    swept_at: Option<Instant>,
}

/// The file, which has to be opened anew once anything about it has failed.
struct File {
    open: Box<Open>,
    database: Mutex<Option<Database>>,
}

type Open = dyn Fn() -> Result<Database, String> + Send + Sync;

impl File {
    /// Does something with it.
    fn with<T>(&self, act: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, String> {
        let mut database = self.database.lock();
        let opened = match database.take() {
            Some(opened) => opened,
            None => (self.open)()?,
        };
        // dropped where it fails: a database that could not write once refuses everything from then on
        let done = act(&opened).map_err(|error| error.to_string())?;
        *database = Some(opened);
        Ok(done)
    }
}

/// Opens the file, or makes it. Waits for a predecessor that has not ended yet.
fn database(path: &Path) -> Result<Database, String> {
    let complain = |error: &dyn std::fmt::Display| format!("`{}`: {error}", path.display());
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    // a file that something else has written to is an error and no panic
    builder.set_check_integrity_on_open(true);
    let began = Instant::now();
    loop {
        match builder.create(path) {
            Err(redb::DatabaseError::DatabaseAlreadyOpen)
                if began.elapsed() < HANDED_OVER_WITHIN =>
            {
                #[allow(
                    clippy::disallowed_methods,
                    reason = "compiled and written outside of worker threads"
                )]
                std::thread::sleep(LOOK_EVERY);
            }
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(complain(&"another gateway has it open"));
            }
            opened => return opened.map_err(|error| complain(&error)),
        }
    }
}

/// Accounts that have changed, by their keys.
type Changes = Vec<(Box<str>, Account)>;

/// A count that is to be on the disk.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(u64);

impl Quotas {
    /// Counts that end with the process, as where a configuration is only looked at.
    pub fn forgetful() -> Self {
        Self {
            file: None,
            counts: Mutex::default(),
            tickets: AtomicU64::new(0),
            written: watch::Sender::new(Written::default()),
            wake: Notify::new(),
            committing: Mutex::default(),
            commits: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It can't be opened: another gateway has it, this one may not, or it is broken.
    pub fn open(path: &Path) -> Result<Self, String> {
        let path = path.to_owned();
        Self::kept_in(Box::new(move || database(&path)))
    }

    fn kept_in(open: Box<Open>) -> Result<Self, String> {
        let file = File {
            open,
            database: Mutex::default(),
        };
        // so that reading finds it
        file.with(|database| {
            let begun = database.begin_write()?;
            begun.open_table(ACCOUNTS)?;
            Ok(begun.commit()?)
        })?;
        Ok(Self {
            file: Some(file),
            ..Self::forgetful()
        })
    }

    /// Whether counts outlive the process.
    pub fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// The counts of the quota of that name, as they are, or as they were written; then for so many keys, and written so
    /// often. A name holds everything that would make old counts meaningless if it changed.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn counts(
        &self,
        name: &str,
        keys_max: usize,
        every: Duration,
        period: &Period,
        now: i64,
    ) -> Result<Arc<Counts>, String> {
        let mut all = self.counts.lock();
        if let Some(known) = all.iter().find(|counts| *counts.name == *name) {
            return Ok(known.clone());
        }
        let counts = Arc::new(Counts {
            name: name.into(),
            ledger: Ledger::new(keys_max),
            every: AtomicU64::new(nanos(every)),
        });
        self.read(&counts, period, now)?;
        all.push(counts.clone());
        Ok(counts)
    }

    fn read(&self, counts: &Counts, period: &Period, now: i64) -> Result<(), String> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        file.with(|file| {
            let table = file.begin_read()?.open_table(ACCOUNTS)?;
            let prefix = row(&counts.name, "");
            for found in table.range(prefix.as_slice()..)? {
                let (key, value) = found?;
                let Some(own) = key.value().strip_prefix(prefix.as_slice()) else {
                    break;
                };
                // what makes no sense is no reason to fail
                let account = read(value.value());
                if let (Ok(own), Some(account)) = (std::str::from_utf8(own), account) {
                    counts.ledger.restore(own, account, period, now);
                }
            }
            Ok(())
        })
    }

    /// What was just counted is to be on the disk before the request goes on.
    pub fn ticket(&self) -> Ticket {
        let ticket = Ticket(self.tickets.fetch_add(1, SeqCst) + 1);
        self.wake.notify_one();
        ticket
    }

    /// Waits until it is on the disk; whether it is.
    pub async fn is_written(&self, ticket: Ticket) -> bool {
        if self.file.is_none() {
            return true;
        }
        let mut written = self.written.subscribe();
        let over = written.wait_for(|written| written.upto.max(written.failed) >= ticket.0);
        over.await.is_ok_and(|written| written.upto >= ticket.0)
    }

    /// Writes what changes, until it is dropped.
    pub async fn run(self: &Arc<Self>) {
        if self.file.is_none() {
            return;
        }
        loop {
            let every = self
                .counts
                .lock()
                .iter()
                .map(|counts| counts.every.load(Relaxed))
                .min();
            let every = every.map_or(EVERY, Duration::from_nanos);
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = self.wake.notified() => {}
            }
            let writing = self.clone();
            // it goes on when nobody waits for it any more
            let done = tokio::task::spawn_blocking(move || {
                let done = writing.write();
                writing.sweep_at_times();
                done
            });
            if !joined(done.await).unwrap_or(false) {
                tokio::time::sleep(TRIED_AGAIN_AFTER).await;
            }
        }
    }

    /// Writes all that has changed. Returns once it is on the disk, or could not be written, and whether it is.
    pub fn write(&self) -> bool {
        let mut committing = self.committing.lock();
        let upto = self.tickets.load(SeqCst);
        let all: Vec<Arc<Counts>> = self.counts.lock().clone();
        let changed: Vec<_> = all
            .iter()
            .map(|counts| (counts, counts.ledger.changed()))
            .filter(|(_, changed)| !changed.is_empty())
            .collect();
        let obsolete = &committing.obsolete;
        let outcome = match &self.file {
            Some(file) if !changed.is_empty() => file.with(|file| commit(file, &changed, obsolete)),
            _ => Ok(()),
        };
        let is_written = outcome.is_ok();
        match outcome {
            Ok(()) => {
                self.commits
                    .fetch_add(u64::from(!changed.is_empty()), Relaxed);
                if !changed.is_empty() {
                    committing.obsolete.clear();
                }
                self.written
                    .send_modify(|written| written.upto = written.upto.max(upto));
            }
            Err(error) => {
                self.failures.fetch_add(1, Relaxed);
                for (counts, changed) in changed {
                    counts
                        .ledger
                        .unwritten(changed.into_iter().map(|(key, _)| key));
                }
                self.written
                    .send_modify(|written| written.failed = written.failed.max(upto));
                if committing
                    .told_at
                    .is_none_or(|told| told.elapsed() >= TOLD_EVERY)
                {
                    committing.told_at = Some(Instant::now());
                    tracing::error!(%error, "what quotas have counted can't be written; it is tried again");
                }
            }
        }
        drop(committing);
        drop(all);
        // those that no snapshot holds any more, once they are written
        self.counts
            .lock()
            .retain(|counts| Arc::strong_count(counts) > 1 || counts.ledger.has_changed());
        is_written
    }

    /// Finds what belongs to no period any more, which goes with the next commit.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn sweep(&self, now: i64) -> Result<(), String> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        // nobody writes meanwhile what is found here to be of no use
        let mut committing = self.committing.lock();
        committing.obsolete = file.with(|file| obsolete(file, now))?;
        committing.swept_at = Some(Instant::now());
        Ok(())
    }

    fn sweep_at_times(&self) {
        let swept_at = self.committing.lock().swept_at;
        if swept_at.is_none_or(|at| at.elapsed() >= SWEEP_EVERY)
            && let Err(error) = self.sweep(now())
        {
            tracing::warn!(%error, "what quotas have counted long ago can't be found");
        }
    }
}

/// Seconds since the epoch, by the machine's date.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

fn obsolete(file: &Database, now: i64) -> Result<Vec<Vec<u8>>, redb::Error> {
    let table = file.begin_read()?.open_table(ACCOUNTS)?;
    let mut obsolete = Vec::new();
    for found in table.iter()? {
        let (key, value) = found?;
        let last = read(value.value()).and_then(|account| Some(account.slots().last()?.span.end));
        if last.is_none_or(|last| last.saturating_add(FORGOTTEN) <= now) {
            obsolete.push(key.value().to_vec());
        }
    }
    Ok(obsolete)
}

fn commit(
    file: &Database,
    changed: &[(&Arc<Counts>, Changes)],
    obsolete: &[Vec<u8>],
) -> Result<(), redb::Error> {
    let mut writing = file.begin_write()?;
    writing.set_durability(Durability::Immediate)?;
    {
        let mut table = writing.open_table(ACCOUNTS)?;
        for key in obsolete {
            table.remove(key.as_slice())?;
        }
        for (counts, accounts) in changed {
            for (key, account) in accounts {
                let key = row(&counts.name, key);
                match account.slots().is_empty() {
                    true => drop(table.remove(key.as_slice())?),
                    false => drop(table.insert(key.as_slice(), written(account).as_slice())?),
                }
            }
        }
    }
    writing.commit()?;
    Ok(())
}

fn row(name: &str, key: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0", key.as_bytes()].concat()
}

/// A byte for the version, and four numbers of eight bytes for each slot, the lowest byte first.
fn written(account: &Account) -> Vec<u8> {
    let slots = account.slots();
    let mut bytes = Vec::with_capacity(1 + slots.len() * 32);
    bytes.push(VERSION);
    for slot in slots {
        bytes.extend_from_slice(&slot.span.start.to_le_bytes());
        bytes.extend_from_slice(&slot.span.end.to_le_bytes());
        bytes.extend_from_slice(&slot.used.to_le_bytes());
        bytes.extend_from_slice(&slot.granted.to_le_bytes());
    }
    bytes
}

fn read(bytes: &[u8]) -> Option<Account> {
    let slots = bytes.strip_prefix(&[VERSION])?;
    let (numbers, rest) = slots.as_chunks::<8>();
    let (slots, left) = numbers.as_chunks::<4>();
    if !rest.is_empty() || !left.is_empty() {
        return None;
    }
    Account::of(slots.iter().map(|[start, end, used, granted]| Slot {
        span: Span {
            start: i64::from_le_bytes(*start),
            end: i64::from_le_bytes(*end),
        },
        used: u64::from_le_bytes(*used),
        granted: u64::from_le_bytes(*granted),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::quota::Unit;
    use proptest::prelude::*;
    use redb::StorageBackend;
    use redb::backends::FileBackend;
    use std::sync::atomic::AtomicBool;

    const NOW: i64 = 1_800_000_000;

    fn day() -> Period {
        Period::Rolling { unit: Unit::Day }
    }

    fn take(counts: &Counts, key: &str, cost: u64) -> bool {
        counts.ledger.take(key, cost, 10, &day(), NOW).admitted
    }

    fn counts(quotas: &Quotas, name: &str) -> Arc<Counts> {
        quotas.counts(name, 100, EVERY, &day(), NOW).unwrap()
    }

    #[test]
    fn what_was_written_is_there_after_a_restart_and_nothing_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quota.redb");
        let quotas = Quotas::open(&path).unwrap();
        let (one, other) = (counts(&quotas, "top/quota"), counts(&quotas, "top/quota.b"));
        assert!(take(&one, "acme", 4) && take(&one, "shop", 1) && take(&other, "acme", 2));
        quotas.write();
        assert!(take(&one, "acme", 3));
        assert!(Quotas::open(&path).is_err_and(|error| error.contains("another gateway")));
        drop((one, other));
        // not in good order: what came after the commit is lost
        drop(quotas);
        let quotas = Quotas::open(&path).unwrap();
        let used = |name, key| {
            counts(&quotas, name)
                .ledger
                .standing(key, 10, &day(), NOW)
                .used
        };
        assert_eq!(
            (used("top/quota", "acme"), used("top/quota", "shop")),
            (4, 1)
        );
        assert_eq!(
            (used("top/quota.b", "acme"), used("top/quota.b", "shop")),
            (2, 0)
        );
        assert_eq!(used("top", "quota"), 0);
    }

    #[test]
    fn counts_that_nobody_holds_are_written_before_they_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let quotas = Quotas::open(&folder.path().join("quota.redb")).unwrap();
        assert!(take(&counts(&quotas, "a"), "acme", 4));
        assert_eq!(quotas.counts.lock().len(), 1);
        quotas.write();
        assert_eq!(quotas.counts.lock().len(), 0);
        assert_eq!(
            counts(&quotas, "a")
                .ledger
                .standing("acme", 10, &day(), NOW)
                .used,
            4
        );
        assert!(counts(&quotas, "a").ledger.reset("acme", &day(), NOW));
        quotas.write();
        assert_eq!(counts(&quotas, "a").ledger.len(), 0);
    }

    #[test]
    fn what_is_long_over_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quota.redb");
        let quotas = Quotas::open(&path).unwrap();
        let held = counts(&quotas, "a");
        assert!(take(&held, "old", 1));
        quotas.write();
        let later = NOW + 2 * FORGOTTEN;
        quotas.sweep(later).unwrap();
        assert!(held.ledger.take("new", 1, 10, &day(), later).admitted);
        quotas.write();
        let file = quotas.file.as_ref().unwrap();
        let obsolete = |now| file.with(|file| obsolete(file, now)).unwrap().len();
        assert_eq!(obsolete(later), 0);
        assert_eq!(obsolete(i64::MAX), 1);
    }

    /// A disk that is full from time to time.
    #[derive(Debug)]
    struct Disk {
        file: FileBackend,
        full: Arc<AtomicBool>,
    }

    impl Disk {
        fn check(&self) -> Result<(), std::io::Error> {
            match self.full.load(SeqCst) {
                true => Err(std::io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            }
        }
    }

    impl StorageBackend for Disk {
        fn len(&self) -> Result<u64, std::io::Error> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
            self.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
            self.check().and_then(|()| self.file.set_len(len))
        }

        fn sync_data(&self) -> Result<(), std::io::Error> {
            self.check().and_then(|()| self.file.sync_data())
        }

        fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
            self.check().and_then(|()| self.file.write(offset, data))
        }
    }

    #[tokio::test]
    async fn a_disk_that_was_full_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, full) = (
            folder.path().join("quota.redb"),
            Arc::new(AtomicBool::new(false)),
        );
        let (disk, place) = (full.clone(), path.clone());
        let open = move || {
            let mut options = std::fs::OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            let file = FileBackend::new(options.open(&place).unwrap()).unwrap();
            let full = disk.clone();
            Database::builder()
                .create_with_backend(Disk { file, full })
                .map_err(|error| error.to_string())
        };
        let quotas = Quotas::kept_in(Box::new(open)).unwrap();
        let held = counts(&quotas, "a");
        assert!(take(&held, "acme", 3));
        quotas.write();
        full.store(true, SeqCst);
        assert!(take(&held, "acme", 4));
        let ticket = quotas.ticket();
        quotas.write();
        assert!(!quotas.is_written(ticket).await);
        // not even opened anew
        quotas.write();
        assert_eq!(
            (quotas.commits.load(Relaxed), quotas.failures.load(Relaxed)),
            (1, 2)
        );
        full.store(false, SeqCst);
        let ticket = quotas.ticket();
        quotas.write();
        assert!(quotas.is_written(ticket).await);
        drop((quotas, held));
        let quotas = Quotas::open(&path).unwrap();
        let standing = counts(&quotas, "a")
            .ledger
            .standing("acme", 10, &day(), NOW);
        assert_eq!(standing.used, 7);
    }

    #[tokio::test]
    async fn whoever_waits_goes_on_when_it_is_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let quotas = Arc::new(Quotas::open(&folder.path().join("quota.redb")).unwrap());
        let held = quotas
            .counts("a", 100, Duration::from_secs(3600), &day(), NOW)
            .unwrap();
        let running = quotas.clone();
        let running = tokio::spawn(async move { running.run().await });
        for _ in 0..10 {
            assert!(take(&held, "acme", 1));
            assert!(quotas.is_written(quotas.ticket()).await);
        }
        assert!(!held.ledger.has_changed());
        running.abort();
    }

    proptest! {
        #[test]
        fn accounts_are_read_as_they_were_written(parts in prop::collection::vec((1..1000_i64, 1..1000_i64, any::<u64>(), any::<u64>()), 0..10)) {
            let mut at = -500;
            let slots: Vec<Slot> = parts.into_iter().map(|(pause, length, used, granted)| {
                let start = at + pause;
                at = start + length;
                Slot { span: Span { start, end: at }, used, granted }
            }).collect();
            let account = Account::of(slots).unwrap();
            prop_assert_eq!(read(&written(&account)), Some(account));
        }

        #[test]
        fn rubbish_is_no_account_and_no_panic(bytes: Vec<u8>) {
            if let Some(account) = read(&bytes) {
                prop_assert_eq!(written(&account), bytes);
            }
        }
    }
}
