//! The connection to a store, and what is done for it in the background.

use super::breaker::{self, Breaker};
use super::scripts::{self, Question};
use super::{Store, StoreStatus};
use crate::observe::metrics::{StoreError, StoreMetrics};
use crate::observe::random;
use crate::state::{Kept, monotonic_nanos};
use arc_swap::ArcSwapOption;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult, ServerErrorKind,
    TlsCertificates,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

/// How long an answer is waited for that is worth something late.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause after a failed try to connect; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Between two probes of a store that is down.
const PROBE: Duration = Duration::from_millis(250);

/// Probes without an answer after which a connection is given up.
const PROBES_MAX: u32 = 8;

/// Between two words that a gateway is there, and how long one counts.
const BEAT: Duration = Duration::from_secs(1);
const BEAT_LASTS: Duration = Duration::from_secs(5);

/// A number of gateways that is smaller is believed when the larger one is so old: others may not have had the time to
/// say that they are there.
const GATEWAYS_KEPT: Duration = Duration::from_secs(10);

/// What waits to be done in the background, and what is under way there.
const QUEUE_MAX: usize = 1024;
const RUNNING_MAX: usize = 256;

/// Questions of requests that are under way.
const ASKING_MAX: usize = 4096;

/// Where a store is.
pub enum Place {
    Server(Box<Client>),
    Cluster(Box<ClusterClient>),
}

/// Why a text says no place. Nothing of the text is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error("this is not the URL of a Redis server")]
    Url,
    #[error("a cluster has database 0 alone, and is not reached by Unix sockets")]
    Cluster,
    #[error("`ca` vouches for `rediss://` alone")]
    NoTls,
    #[error("the servers of a cluster have the same user, password and TLS")]
    Different,
}

impl Place {
    /// The server of a URL, or the cluster of some of its servers.
    ///
    /// # Errors
    /// There is no such place.
    pub fn new(urls: &[&str], cluster: bool, ca: Option<&[u8]>) -> Result<Self, PlaceError> {
        let mut infos = Vec::new();
        for url in urls {
            let info = redis::IntoConnectionInfo::into_connection_info(*url);
            infos.push(info.map_err(|_| PlaceError::Url)?);
        }
        let tls = |info: &redis::ConnectionInfo| {
            matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. })
        };
        if ca.is_some() && !infos.iter().all(tls) {
            return Err(PlaceError::NoTls);
        }
        let certificates = ca.map(|ca| TlsCertificates {
            client_tls: None,
            root_cert: Some(ca.to_vec()),
        });
        if !cluster {
            let info = infos.pop().ok_or(PlaceError::Url)?;
            let client = match certificates {
                Some(certificates) => Client::build_with_tls(info, certificates),
                None => Client::open(info),
            };
            return client
                .map(|client| Self::Server(Box::new(client)))
                .map_err(|_| PlaceError::Url);
        }
        let unlike = |info: &redis::ConnectionInfo| {
            info.redis_settings().db() != 0 || matches!(info.addr(), redis::ConnectionAddr::Unix(_))
        };
        if infos.iter().any(unlike) {
            return Err(PlaceError::Cluster);
        }
        let mut builder = ClusterClient::builder(infos)
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(PATIENCE)
            .retries(2)
            .connection_concurrency_limit(ASKING_MAX);
        if let Some(certificates) = certificates {
            builder = builder.certs(certificates);
        }
        let client = builder.build().map_err(|_| PlaceError::Different)?;
        Ok(Self::Cluster(Box::new(client)))
    }

    async fn connect(&self) -> RedisResult<Connection> {
        let mut connection = self.open().await?;
        connection.teach().await;
        Ok(connection)
    }

    async fn open(&self) -> RedisResult<Connection> {
        match self {
            Self::Server(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT_TIMEOUT))
                    .set_response_timeout(Some(PATIENCE));
                let connection = client.get_multiplexed_async_connection_with_config(&config);
                connection.await.map(Connection::Server)
            }
            Self::Cluster(client) => client.get_async_connection().await.map(Connection::Cluster),
        }
    }

    fn groups(&self) -> usize {
        match self {
            Self::Server(_) => 1,
            Self::Cluster(_) => breaker::GROUPS,
        }
    }
}

#[derive(Clone)]
enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    async fn ask(&mut self, question: &Question, until: u64) -> RedisResult<Vec<i64>> {
        let script = question.script;
        match self
            .query(&command("EVALSHA", &script.digest, question, until))
            .await
        {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.query(&command("EVAL", script.text, question, until))
                    .await
            }
            answer => answer,
        }
    }

    /// Makes the scripts known, so that what is asked once is done once it is heard, though nobody waits any more. A server
    /// that forgets them is told them again with the first question.
    async fn teach(&mut self) {
        for script in scripts::all() {
            let mut command = redis::cmd("SCRIPT");
            command.arg("LOAD").arg(script.text);
            let _: RedisResult<redis::Value> = match self {
                Self::Server(connection) => command.query_async(connection).await,
                Self::Cluster(connection) => command.query_async(connection).await,
            };
        }
    }

    async fn query(&mut self, command: &redis::Cmd) -> RedisResult<Vec<i64>> {
        match self {
            Self::Server(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }
}

fn command(name: &str, script: &str, question: &Question, until: u64) -> redis::Cmd {
    let mut command = redis::cmd(name);
    command.arg(script).arg(1).arg(&*question.key);
    if let Some(who) = &question.who {
        command.arg(&**who);
    }
    command.arg(&question.arguments);
    if question.timed {
        command.arg(until);
    }
    command
}

/// What is done in the background. It outlives the jobs that do it: nothing that is under way is lost by a reload.
struct Worker {
    queue: mpsc::Receiver<BoxFuture<'static, ()>>,
    running: FuturesUnordered<BoxFuture<'static, ()>>,
}

/// See the module. It outlives snapshots: found by the store's name and place.
pub struct Link {
    name: Arc<str>,
    place: Place,
    connection: ArcSwapOption<Connection>,
    breakers: Box<[Breaker]>,
    /// Something has changed that the job looks after.
    stirred: Notify,
    /// What this gateway is called among the others.
    who: Box<str>,
    gateways: Mutex<(u64, Option<Instant>)>,
    /// The same number, for requests.
    known_gateways: AtomicU64,
    asking: AtomicUsize,
    /// How far the store's clock is ahead of this machine's monotonic one, in microseconds.
    ahead: AtomicI64,
    enqueue: mpsc::Sender<BoxFuture<'static, ()>>,
    worker: Mutex<Option<Worker>>,
    returned: Notify,
    told: Mutex<Told>,
    metrics: Arc<StoreMetrics>,
}

/// What was last said.
#[derive(Default)]
struct Told {
    up: Option<bool>,
    error: Option<&'static str>,
}

impl Kept for Link {
    fn export(&self) -> Option<serde_json::Value> {
        // the counts are in the store, and what is leased is given back, or ends
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

impl Link {
    pub fn new(name: Arc<str>, place: Place, metrics: Arc<StoreMetrics>) -> Self {
        let (enqueue, queue) = mpsc::channel(QUEUE_MAX);
        let running = FuturesUnordered::new();
        Self {
            name,
            connection: ArcSwapOption::empty(),
            breakers: (0..place.groups()).map(|_| Breaker::default()).collect(),
            place,
            stirred: Notify::new(),
            who: format!("{:016x}{:016x}", random::next(), random::next()).into(),
            gateways: Mutex::new((1, None)),
            known_gateways: AtomicU64::new(1),
            asking: AtomicUsize::new(0),
            ahead: AtomicI64::new(i64::MIN),
            enqueue,
            worker: Mutex::new(Some(Worker { queue, running })),
            returned: Notify::new(),
            told: Mutex::default(),
            metrics,
        }
    }

    fn breaker(&self, key: &[u8]) -> Option<&Breaker> {
        match self.breakers.len() {
            0 | 1 => self.breakers.first(),
            _ => self.breakers.get(breaker::group(key)),
        }
    }

    pub(super) fn is_up(&self, key: &[u8]) -> bool {
        self.connection.load().is_some() && self.breaker(key).is_some_and(|one| !one.is_open())
    }

    /// Whether it has been found out if it answers.
    pub fn is_settled(&self) -> bool {
        self.told.lock().up.is_some()
    }

    pub(super) fn gateways(&self) -> u64 {
        self.known_gateways.load(Relaxed)
    }

    pub(super) fn status(&self) -> StoreStatus {
        StoreStatus {
            up: self.is_whole(),
            gateways: self.gateways(),
            error: self.told.lock().error,
        }
    }

    fn is_whole(&self) -> bool {
        self.connection.load().is_some() && self.breakers.iter().all(|one| !one.is_open())
    }

    pub(super) fn in_background(&self, work: BoxFuture<'static, ()>) -> bool {
        self.enqueue.try_send(work).is_ok()
    }

    /// Asks, and waits for the answer as long as a request may.
    pub(super) async fn ask(
        &self,
        question: &Question,
        patience: Duration,
    ) -> Result<Vec<i64>, StoreError> {
        let connection = self.may_ask(&question.key)?;
        let _place = self.enters()?;
        let began = Instant::now();
        let until = self.until(patience);
        let answer = timeout(patience, ask_on(&connection, question, until)).await;
        self.judge(question, &connection, began, answer.ok())
    }

    /// Asks, and waits longer than a request may. What is not answered in the time of a request counts as a failure all
    /// the same.
    pub(super) async fn ask_patiently(
        &self,
        question: &Question,
        patience: Duration,
    ) -> Result<Vec<i64>, StoreError> {
        let connection = self.may_ask(&question.key)?;
        let began = Instant::now();
        let asking = ask_on(&connection, question, self.until(PATIENCE));
        futures::pin_mut!(asking);
        if let Ok(answer) = timeout(patience, &mut asking).await {
            return self.judge(question, &connection, began, Some(answer));
        }
        let _ = self.judge(question, &connection, began, None);
        match timeout(PATIENCE, asking).await {
            Ok(Ok(answer)) if !self.came_too_late(&answer) => Ok(answer),
            _ => Err(StoreError::Timeout),
        }
    }

    /// Until when an answer is waited for, by the store's clock: what it gets to see later, it leaves alone. Otherwise all
    /// that was asked while it stood still would be taken when it goes on, for nobody.
    fn until(&self, patience: Duration) -> u64 {
        match self.ahead.load(Relaxed) {
            // its time is not known yet
            i64::MIN => 0,
            ahead => local_micros(patience).saturating_add_signed(ahead),
        }
    }

    /// Whether the store saw a question when nobody waited for the answer any more. If it was its clock that had moved,
    /// that is known from here on.
    fn came_too_late(&self, answer: &[i64]) -> bool {
        let &[-1, _, _, now] = answer else {
            return false;
        };
        self.learn_time(now, Duration::ZERO);
        true
    }

    fn learn_time(&self, now: i64, asked_before: Duration) {
        let here = local_micros(Duration::ZERO);
        let before = u64::try_from(asked_before.as_micros()).unwrap_or(0);
        let here = i64::try_from(here.saturating_sub(before)).unwrap_or(0);
        self.ahead.store(now.saturating_sub(here), Relaxed);
    }

    fn may_ask(&self, key: &[u8]) -> Result<Arc<Connection>, StoreError> {
        match self.connection.load_full() {
            Some(connection) if self.breaker(key).is_some_and(|one| !one.is_open()) => {
                Ok(connection)
            }
            _ => Err(StoreError::Connection),
        }
    }

    fn enters(&self) -> Result<Asking<'_>, StoreError> {
        if self.asking.fetch_add(1, Relaxed) < ASKING_MAX {
            return Ok(Asking(&self.asking));
        }
        drop(Asking(&self.asking));
        self.metrics.failed(StoreError::Busy);
        Err(StoreError::Busy)
    }

    /// Takes in what became of a question. None: there was no answer in time.
    fn judge(
        &self,
        question: &Question,
        connection: &Arc<Connection>,
        began: Instant,
        answer: Option<RedisResult<Vec<i64>>>,
    ) -> Result<Vec<i64>, StoreError> {
        let breaker = self.breaker(&question.key);
        match answer {
            Some(Ok(answer)) => {
                self.metrics.answered(began.elapsed());
                if breaker.is_some_and(Breaker::succeeded) {
                    self.tell();
                }
                if self.came_too_late(&answer) {
                    self.metrics.failed(StoreError::Timeout);
                    return Err(StoreError::Timeout);
                }
                Ok(answer)
            }
            failed => {
                let error = failed.and_then(Result::err);
                let (why, said) = error
                    .as_ref()
                    .map_or((StoreError::Timeout, "it does not answer in time"), reason);
                self.metrics.failed(why);
                self.told.lock().error = Some(said);
                let broken = error.is_some_and(|error| error.is_connection_dropped());
                if broken && matches!(self.place, Place::Server(_)) {
                    self.lose(connection);
                } else if breaker.is_some_and(|one| match broken {
                    // a server of a cluster is gone, and the connection to the others is not
                    true => one.open(Some(&question.key)),
                    false => one.failed(&question.key),
                }) {
                    self.tell();
                    self.stirred.notify_one();
                }
                Err(why)
            }
        }
    }

    /// Gives a connection up.
    fn lose(&self, connection: &Arc<Connection>) {
        let current = self.connection.load();
        // another may have taken its place
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, connection))
        {
            self.connection.store(None);
            self.tell();
            self.stirred.notify_one();
        }
    }

    /// Says whether it answers, if that is news.
    fn tell(&self) {
        let up = self.is_whole();
        let mut told = self.told.lock();
        if told.up == Some(up) {
            return;
        }
        let was = told.up.replace(up);
        self.metrics.set_up(up);
        match (up, told.error) {
            (true, _) => {
                told.error = None;
                if was.is_some() {
                    tracing::info!(store = %self.name, "the store answers again");
                }
            }
            (false, error) => tracing::warn!(
                store = %self.name,
                error = error.unwrap_or("there is no connection"),
                "the store is away; `on_failure` decides"
            ),
        }
    }

    pub(super) async fn run(&self, store: &Store) {
        let mut borrowed = loop {
            let returned = self.returned.notified();
            let worker = self.worker.lock().take();
            match worker {
                Some(worker) => break Borrowed(self, Some(worker)),
                // that of the last snapshot lets go of it when it ends
                None => returned.await,
            }
        };
        let Some(worker) = borrowed.1.as_mut() else {
            return;
        };
        let keeping = self.keep(store);
        futures::pin_mut!(keeping);
        loop {
            let room = worker.running.len() < RUNNING_MAX;
            tokio::select! {
                () = &mut keeping => return,
                Some(work) = worker.queue.recv(), if room => worker.running.push(work),
                Some(()) = worker.running.next(), if !worker.running.is_empty() => {}
            }
        }
    }

    /// Keeps it connected, says that this gateway is there, and probes what is down.
    async fn keep(&self, store: &Store) {
        let beats = format!("{}{{gateways}}", store.prefix).into_bytes();
        let (mut pause, mut unanswered) = (RETRY_MIN, 0);
        let mut beat_at = Instant::now();
        loop {
            let Some(connection) = self.connection.load_full() else {
                match timeout(CONNECT_TIMEOUT, self.place.connect()).await {
                    Ok(Ok(connection)) => {
                        self.connection.store(Some(Arc::new(connection)));
                        (pause, unanswered, beat_at) = (RETRY_MIN, 0, Instant::now());
                        // what is asked first says whether it answers
                        for breaker in &self.breakers {
                            breaker.open(None);
                        }
                    }
                    failed => {
                        let (_, said) = failed
                            .ok()
                            .and_then(Result::err)
                            .as_ref()
                            .map_or((StoreError::Timeout, "it can't be connected to"), reason);
                        self.metrics.failed(StoreError::Connection);
                        self.told.lock().error = Some(said);
                        self.tell();
                        sleep(pause).await;
                        pause = (pause * 2).min(RETRY_MAX);
                    }
                }
                continue;
            };
            let answers = self.probe(&connection, store).await;
            unanswered = if answers { 0 } else { unanswered + 1 };
            if unanswered >= PROBES_MAX {
                unanswered = 0;
                self.lose(&connection);
                continue;
            }
            if beat_at <= Instant::now() {
                beat_at = Instant::now() + BEAT;
                self.beat(&connection, &beats, store.timeout).await;
            }
            self.tell();
            let due = match self.is_whole() {
                true => beat_at.saturating_duration_since(Instant::now()),
                false => PROBE,
            };
            // whoever loses the connection, or finds it down, says so
            let _ = timeout(due, self.stirred.notified()).await;
        }
    }

    /// Asks for what is down. False if nothing of that was answered, and there was something.
    async fn probe(&self, connection: &Arc<Connection>, store: &Store) -> bool {
        let all = self.breakers.iter().enumerate();
        let open: Vec<_> = all.filter(|(_, breaker)| breaker.is_open()).collect();
        let down = open.len();
        let probes = open.into_iter().map(|(group, breaker)| async move {
            let key = breaker.probe();
            let key = key.unwrap_or_else(|| self.key_in(group, &store.prefix));
            let question = scripts::probe(&key);
            let began = Instant::now();
            let answer = timeout(store.timeout, ask_on(connection, &question, 0)).await;
            match answer {
                Ok(Ok(_)) => {
                    self.metrics.answered(began.elapsed());
                    breaker.succeeded();
                    true
                }
                failed => {
                    let (why, said) = failed
                        .ok()
                        .and_then(Result::err)
                        .as_ref()
                        .map_or((StoreError::Timeout, "it does not answer in time"), reason);
                    self.metrics.failed(why);
                    self.told.lock().error = Some(said);
                    false
                }
            }
        });
        let answered = futures::future::join_all(probes).await;
        down == 0 || answered.contains(&true)
    }

    /// Some key whose slot is in that group.
    fn key_in(&self, group: usize, prefix: &str) -> Box<[u8]> {
        let mut keys = (0..100_000_u32).map(|number| format!("{prefix}{{{number}}}").into_bytes());
        let alone = self.breakers.len() == 1;
        let key = keys.find(|key| alone || breaker::group(key) == group);
        key.unwrap_or_default().into()
    }

    async fn beat(&self, connection: &Arc<Connection>, key: &[u8], patience: Duration) {
        let question = scripts::beat(key, &self.who, BEAT_LASTS);
        let began = Instant::now();
        let answer = timeout(patience, ask_on(connection, &question, 0)).await;
        let Ok(answer) = self.judge(&question, connection, began, answer.ok()) else {
            return;
        };
        if let Some(time) = answer.get(1) {
            self.learn_time(*time, began.elapsed());
        }
        let now = answer.first().and_then(|now| u64::try_from(*now).ok());
        let now = now.unwrap_or(1).max(1);
        let mut known = self.gateways.lock();
        let old = known.1.is_none_or(|at| at.elapsed() >= GATEWAYS_KEPT);
        if now >= known.0 || old {
            *known = (now, Some(Instant::now()));
            self.known_gateways.store(now, Relaxed);
            self.metrics.set_gateways(now);
        }
    }
}

async fn ask_on(connection: &Connection, question: &Question, until: u64) -> RedisResult<Vec<i64>> {
    connection.clone().ask(question, until).await
}

/// This machine's clock, so far ahead.
fn local_micros(ahead: Duration) -> u64 {
    let ahead = u64::try_from(ahead.as_micros()).unwrap_or(u64::MAX);
    (monotonic_nanos() / 1000).saturating_add(ahead)
}

/// What an error is, in words of our own.
fn reason(error: &RedisError) -> (StoreError, &'static str) {
    match error.kind() {
        ErrorKind::AuthenticationFailed => (
            StoreError::Refused,
            "it does not take the user or the password",
        ),
        ErrorKind::Io if error.is_timeout() => (StoreError::Timeout, "it does not answer in time"),
        ErrorKind::Io => (StoreError::Connection, "the connection failed"),
        ErrorKind::ClusterConnectionNotFound => (
            StoreError::Connection,
            "a server of the cluster can't be reached",
        ),
        ErrorKind::Server(
            ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown | ServerErrorKind::TryAgain,
        ) => (StoreError::Refused, "the cluster is down"),
        ErrorKind::Server(ServerErrorKind::BusyLoading) => {
            (StoreError::Refused, "it is loading its data")
        }
        ErrorKind::Server(ServerErrorKind::ReadOnly) => (StoreError::Refused, "it is read-only"),
        ErrorKind::Server(ServerErrorKind::NoPerm) => {
            (StoreError::Refused, "its user may not run scripts there")
        }
        _ if error.is_connection_dropped() => (StoreError::Connection, "the connection failed"),
        _ if error.code() == Some("NOAUTH") => (StoreError::Refused, "it wants a password"),
        _ if error.code() == Some("OOM") => (StoreError::Refused, "its memory is full"),
        _ => (StoreError::Refused, "it refuses the question"),
    }
}

struct Asking<'a>(&'a AtomicUsize);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Lets go of the worker, however the job ends.
struct Borrowed<'a>(&'a Link, Option<Worker>);

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        *self.0.worker.lock() = self.1.take();
        self.0.returned.notify_one();
    }
}
