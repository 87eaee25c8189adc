//! The buffers between requests and files, and the thread that empties them.

use super::layout::Layout;
use super::sample::Sampling;
use super::{AccessLog, AccessLogConfig, LogPath, OpenError};
use crate::observe::metrics::{Counter, Padded, shard_count, thread_number};
use crate::observe::time::Clock;
use crate::supervisor::{Pauses, Supervisor};
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::fcntl::OFlag;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// What one buffer holds before lines are dropped: ten thousand lines, tens of milliseconds of a busy thread. There are
/// at most 16 for each log.
const BUFFER_BYTES_MAX: usize = 4 << 20;
/// A buffer that grew beyond this in a burst is given back to the allocator when the burst is over.
const BUFFER_BYTES_KEPT: usize = 256 << 10;
/// How long lines gather before they are written: long enough for one call to write many, short for who watches.
const GATHER: Duration = Duration::from_millis(10);
/// How often and how long the thread waits for a pipe that takes nothing, before it drops what it holds.
const PIPE_TRIES: u32 = 100;
const PIPE_WAIT: Duration = Duration::from_millis(10);

enum Command {
    /// There are lines.
    Gather,
    /// Open all files anew.
    Reopen,
    /// Write what there is and answer.
    Flush(Sender<()>),
    Stop,
}

/// All access logs of a gateway, and the thread that writes them.
pub struct AccessLogs {
    destinations: Arc<Mutex<Vec<Arc<Destination>>>>,
    commands: Sender<Command>,
    dropped: Arc<Counter>,
}

impl AccessLogs {
    /// Starts the thread. `dropped` counts the lines that are lost.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start(dropped: &Arc<Counter>, supervisor: &Arc<Supervisor>) -> io::Result<Self> {
        let (commands, inbox) = bounded(64);
        let destinations: Arc<Mutex<Vec<Arc<Destination>>>> = Arc::default();
        let mut writer = Writer {
            destinations: Arc::clone(&destinations),
            spare: Vec::new(),
        };
        let supervisor = Arc::clone(supervisor);
        thread::Builder::new()
            .name("access log".into())
            .spawn(move || {
                supervisor.keep_thread("access log", Pauses::USUAL, || {
                    writer.run(&inbox);
                    Ok(())
                });
            })?;
        Ok(Self {
            destinations,
            commands,
            dropped: Arc::clone(dropped),
        })
    }

    /// Makes a log ready: its file is created, or shared with the log that writes to the same path already.
    ///
    /// # Errors
    /// If the settings contradict each other or the file can't be opened.
    pub fn open(&self, config: &AccessLogConfig) -> Result<AccessLog, OpenError> {
        let layout = Layout::new(config).map_err(OpenError::Config)?;
        Ok(AccessLog {
            destination: self.destination(&config.path)?,
            layout,
            sampling: Sampling::new(config.sample),
        })
    }

    /// Opens all files anew, for log rotation. What was logged before goes to the old files. A file that can't be
    /// opened is reported, and the old one written on.
    pub fn reopen_all(&self) {
        // the queue of commands is only full while the thread is about to write anyway; it waits here at most as long
        let _ = self
            .commands
            .send_timeout(Command::Reopen, PIPE_WAIT * PIPE_TRIES);
    }

    /// Writes everything that was logged before this call. False if that took longer than `within`.
    pub fn flush(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let (done, answer) = bounded(1);
        self.commands
            .send_deadline(Command::Flush(done), deadline)
            .is_ok()
            && answer.recv_deadline(deadline).is_ok()
    }

    fn destination(&self, path: &LogPath) -> Result<Arc<Destination>, OpenError> {
        let mut destinations = self.destinations.lock();
        if let Some(known) = destinations.iter().find(|known| known.path == *path) {
            return Ok(Arc::clone(known));
        }
        let file = open(path).map_err(|source| OpenError::Open {
            path: path.clone(),
            source,
        })?;
        let buffers = (0..shard_count()).map(|_| Padded::default());
        let destination = Arc::new(Destination {
            path: path.clone(),
            buffers: buffers.collect(),
            awaited: AtomicBool::new(false),
            output: Mutex::new(Output::new(file)),
            commands: self.commands.clone(),
            dropped: Arc::clone(&self.dropped),
        });
        destinations.push(Arc::clone(&destination));
        Ok(destination)
    }
}

impl Drop for AccessLogs {
    fn drop(&mut self) {
        let _ = self.commands.try_send(Command::Stop);
    }
}

/// Lines on their way, and the clock that wrote their times.
#[derive(Default)]
struct Buffer {
    lines: Vec<u8>,
    clock: Clock,
}

/// One file and what is to be written to it.
pub struct Destination {
    path: LogPath,
    /// One for each few threads, so that their locks are free.
    buffers: Box<[Padded<Mutex<Buffer>>]>,
    /// Whether the thread knows that there are lines.
    awaited: AtomicBool,
    output: Mutex<Output>,
    commands: Sender<Command>,
    dropped: Arc<Counter>,
}

impl Destination {
    /// Lets `write` append one line, or drops it if there is no room.
    pub fn append(&self, write: impl FnOnce(&mut Vec<u8>, &mut Clock)) {
        let slot = thread_number() & self.buffers.len().wrapping_sub(1);
        let Some(Padded(buffer)) = self.buffers.get(slot) else {
            return self.dropped.increment();
        };
        let mut buffer = buffer.lock();
        if buffer.lines.len() >= BUFFER_BYTES_MAX {
            return self.dropped.increment();
        }
        let Buffer { lines, clock } = &mut *buffer;
        write(lines, clock);
        drop(buffer);
        self.announce();
    }

    /// The thread takes back `awaited` before it locks a buffer: whoever appends after that sees it taken back.
    fn announce(&self) {
        if !self.awaited.load(Relaxed) && !self.awaited.swap(true, Relaxed) {
            // with a full queue of commands the thread is about to look anyway
            let _ = self.commands.try_send(Command::Gather);
        }
    }

    /// Writes what there is; says whether there was any.
    fn write_all(&self, spare: &mut Vec<u8>) -> bool {
        self.awaited.store(false, Relaxed);
        let mut output = self.output.lock();
        let mut any = false;
        for Padded(buffer) in &self.buffers {
            std::mem::swap(&mut buffer.lock().lines, spare);
            any |= !spare.is_empty();
            let lost = output.write(&self.path, spare);
            self.dropped.add(lost);
            let burst = spare.len() < BUFFER_BYTES_KEPT && spare.capacity() > BUFFER_BYTES_KEPT;
            spare.clear();
            if burst {
                spare.shrink_to(BUFFER_BYTES_KEPT);
            }
        }
        any
    }

    fn reopen(&self) {
        if self.path == LogPath::Stdout {
            return;
        }
        match open(&self.path) {
            Ok(file) => *self.output.lock() = Output::new(file),
            Err(error) => tracing::error!(
                "cannot open {} anew, writing on to the old file: {error}",
                self.path
            ),
        }
    }
}

fn open(path: &LogPath) -> io::Result<File> {
    match path {
        LogPath::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        LogPath::File(path) => open_file(path),
    }
}

/// Never waits: a named pipe without a reader is an error instead. The log may hold personal data, so others than the
/// owner and the group can't read it.
fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640);
    options.custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
    options.open(path)
}

/// An open file, and how the last write went.
struct Output {
    file: File,
    /// The last write ended inside a line.
    torn: bool,
    failing: bool,
}

impl Output {
    fn new(file: File) -> Self {
        Self {
            file,
            torn: false,
            failing: false,
        }
    }

    /// Writes whole lines; says how many were lost.
    fn write(&mut self, path: &LogPath, lines: &[u8]) -> u64 {
        if lines.is_empty() {
            return 0;
        }
        let mut rest = lines;
        let outcome = self
            .mend()
            .and_then(|()| write_rest(&mut self.file, &mut rest));
        let written = lines.len() - rest.len();
        if written > 0 {
            self.torn = lines.get(written - 1) != Some(&b'\n');
        }
        self.report(path, &outcome);
        memchr::memchr_iter(b'\n', rest).count() as u64
    }

    /// Ends a line that a failed write left torn, so that the next one is whole.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            write_rest(&mut self.file, &mut b"\n".as_slice())?;
            self.torn = false;
        }
        Ok(())
    }

    /// Says when writing begins to fail and when it works again, not each time.
    fn report(&mut self, path: &LogPath, outcome: &io::Result<()>) {
        match outcome {
            Err(error) if !self.failing => {
                tracing::error!("cannot write {path}, dropping lines: {error}")
            }
            Ok(()) if self.failing => tracing::info!("{path} is written again"),
            _ => {}
        }
        self.failing = outcome.is_err();
    }
}

/// Like `write_all`, but leaves in `rest` what was not written, and waits a bounded time for a pipe to take more.
fn write_rest(file: &mut File, rest: &mut &[u8]) -> io::Result<()> {
    let mut waits = 0;
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => *rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && waits < PIPE_TRIES => {
                waits += 1;
                pause(PIPE_WAIT);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "this thread serves nobody but the logs"
)]
fn pause(length: Duration) {
    thread::sleep(length);
}

/// The thread.
struct Writer {
    destinations: Arc<Mutex<Vec<Arc<Destination>>>>,
    /// Changes places with each buffer in turn.
    spare: Vec<u8>,
}

impl Writer {
    fn run(&mut self, inbox: &Receiver<Command>) {
        // where it begins again there may be lines of which it has been told already
        self.spare.clear();
        let mut busy = true;
        while let Some(command) = next(inbox, busy) {
            let destinations;
            (destinations, busy) = self.write_all();
            match command {
                Command::Gather => {}
                Command::Reopen => {
                    destinations
                        .iter()
                        .for_each(|destination| destination.reopen());
                    tracing::info!("the access logs are reopened");
                }
                Command::Flush(done) => drop(done.try_send(())),
                Command::Stop => return,
            }
        }
    }

    /// Writes what there is, and says whether there was any. A destination that no log uses any more is written for the
    /// last time.
    fn write_all(&mut self) -> (Vec<Arc<Destination>>, bool) {
        let (used, unused) = {
            let mut known = self.destinations.lock();
            let unused = known.extract_if(.., |destination| Arc::strong_count(destination) == 1);
            let unused: Vec<_> = unused.collect();
            (known.clone(), unused)
        };
        let mut any = false;
        for destination in used.iter().chain(&unused) {
            any |= destination.write_all(&mut self.spare);
        }
        (used, any)
    }
}

/// What to do next; nothing once nobody can say. As long as lines come, the thread looks for them without being told:
/// to wait until it is told, and to wake it, would take a request some system calls more.
fn next(inbox: &Receiver<Command>, busy: bool) -> Option<Command> {
    if !busy {
        match inbox.recv().ok()? {
            Command::Gather => {}
            command => return Some(command),
        }
    }
    pause(GATHER);
    // one look answers all who asked for one
    let mut others = inbox
        .try_iter()
        .filter(|command| !matches!(command, Command::Gather));
    Some(others.next().unwrap_or(Command::Gather))
}

#[cfg(test)]
mod tests {
    use super::super::layout::tests::record;
    use super::*;
    use nix::sys::stat::Mode;
    use std::path::PathBuf;

    const SOON: Duration = Duration::from_secs(10);

    struct Logs {
        logs: AccessLogs,
        dropped: Arc<Counter>,
        folder: tempfile::TempDir,
    }

    impl Logs {
        fn new() -> Self {
            let dropped: Arc<Counter> = Arc::default();
            Self {
                logs: AccessLogs::start(&dropped, &Arc::default()).unwrap(),
                dropped,
                folder: tempfile::tempdir().unwrap(),
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn open(&self, path: &Path) -> Result<AccessLog, OpenError> {
            self.logs.open(&AccessLogConfig {
                path: LogPath::File(path.to_owned()),
                ..Default::default()
            })
        }

        fn lines(&self, name: &str) -> usize {
            assert!(self.logs.flush(SOON));
            let text = std::fs::read_to_string(self.path(name)).unwrap();
            for line in text.lines() {
                serde_json::from_str::<serde_json::Value>(line).unwrap();
            }
            text.lines().count()
        }
    }

    #[test]
    fn every_line_of_every_thread_is_written_whole() {
        let logs = Logs::new();
        let log = logs.open(&logs.path("a")).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|_| log.write(&record())));
            }
        });
        assert_eq!(logs.lines("a"), 2000);
        assert_eq!(logs.dropped.value(), 0);
    }

    #[test]
    fn two_logs_of_one_path_share_it() {
        let logs = Logs::new();
        let (one, two) = (
            logs.open(&logs.path("a")).unwrap(),
            logs.open(&logs.path("a")).unwrap(),
        );
        one.write(&record());
        two.write(&record());
        assert!(Arc::ptr_eq(&one.destination, &two.destination));
        assert_eq!(logs.lines("a"), 2);
    }

    #[test]
    fn a_log_that_nobody_uses_any_more_loses_no_line() {
        let logs = Logs::new();
        let log = logs.open(&logs.path("a")).unwrap();
        log.write(&record());
        drop(log);
        assert_eq!(logs.lines("a"), 1);
        assert!(logs.logs.destinations.lock().is_empty());
    }

    #[test]
    fn after_a_rotation_lines_go_to_the_new_file() {
        let logs = Logs::new();
        let log = logs.open(&logs.path("a")).unwrap();
        log.write(&record());
        std::fs::rename(logs.path("a"), logs.path("a.1")).unwrap();
        log.write(&record());
        logs.logs.reopen_all();
        assert!(logs.logs.flush(SOON));
        log.write(&record());
        assert_eq!((logs.lines("a.1"), logs.lines("a")), (2, 1));
    }

    #[test]
    fn a_file_that_cannot_be_opened_anew_is_written_on() {
        let logs = Logs::new();
        let folder = logs.path("folder");
        std::fs::create_dir(&folder).unwrap();
        let log = logs.open(&folder.join("a")).unwrap();
        std::fs::rename(&folder, logs.path("moved")).unwrap();
        logs.logs.reopen_all();
        log.write(&record());
        assert_eq!(logs.lines("moved/a"), 1);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error_with_its_path() {
        let logs = Logs::new();
        let error = logs
            .open(&logs.path("missing/a"))
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("missing/a") && error.contains("No such file"),
            "{error}"
        );
    }

    #[test]
    fn a_full_disk_loses_lines_and_counts_them() {
        let logs = Logs::new();
        let log = logs.open(Path::new("/dev/full")).unwrap();
        (0..3).for_each(|_| log.write(&record()));
        assert!(logs.logs.flush(SOON));
        assert_eq!(logs.dropped.value(), 3);
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut output = Output::new(open_file(&path).unwrap());
        output.write(&LogPath::Stdout, b"{\"torn\":");
        assert!(output.torn);
        output.write(&LogPath::Stdout, b"{}\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"{\"torn\":\n{}\n");
    }

    /// A pipe that nobody reads is a disk that never answers.
    #[test]
    fn a_request_never_waits_for_the_destination() {
        let logs = Logs::new();
        let path = logs.path("pipe");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert!(logs.open(&path).is_err(), "a pipe without a reader");
        let reader = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&path)
            .unwrap();
        let log = logs.open(&path).unwrap();
        let mut line = Vec::new();
        log.layout
            .write(&record(), &mut Clock::default(), &mut line);
        // what the thread holds, what the buffer holds, and as much again
        let lines = 3 * BUFFER_BYTES_MAX / line.len();
        (0..lines).for_each(|_| log.write(&record()));
        assert!(logs.dropped.value() > 0);
        assert!(!logs.logs.flush(Duration::from_millis(1)));
        drop(reader);
    }

    #[test]
    fn a_log_is_not_for_everybody_to_read() {
        use std::os::unix::fs::PermissionsExt;
        let logs = Logs::new();
        let _log = logs.open(&logs.path("a")).unwrap();
        let mode = std::fs::metadata(logs.path("a"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o137, 0);
    }
}
