//! One source of endpoints: what it is, what it said last, how it is asked.

use super::answer::{Answer, Failure, Found, Known, Listed, Missing};
use super::gate::{Gate, Refusal};
use super::resolver::{Addresses, Resolver};
use super::{share, srv};
use crate::observe::metrics::{DiscoveryMetrics, Metrics};
use crate::state::{Identity, Kept, State, monotonic_nanos};
use crate::supervisor::joined;
use futures::StreamExt;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often a watched file is looked at. Its metadata tell what is needed, over links and network file systems too,
/// where no event does.
const LOOK: Duration = Duration::from_millis(500);

/// A file that is being written is left alone until it has not changed for this long.
const SETTLE: Duration = Duration::from_millis(100);

/// The longest that a writer without end can put the reading off, in [`SETTLE`]s.
const SETTLES_MAX: u32 = 50;

/// Targets of SRV records that are asked for.
const TARGETS_MAX: usize = 1000;

/// Names of one answer that are asked for at a time.
const NAMES_AT_ONCE: usize = 16;

/// Reads the endpoints that a file lists; the error says where in it.
pub type Read = Arc<dyn Fn(&Path) -> Result<Vec<Listed>, String> + Send + Sync>;

/// What a source is.
pub enum Kind {
    /// A and AAAA of a name; every address is an endpoint.
    Name {
        host: Arc<str>,
        port: u16,
        weight: u32,
    },
    /// SRV records, and the addresses of their targets.
    Srv(Arc<str>),
    /// A file that is read when it changes.
    File { path: PathBuf, read: Read },
}

/// What is known of a source. It outlives snapshots: found by service and source.
#[derive(Default)]
pub struct SourceState(Mutex<Known>);

impl Kept for SourceState {
    fn export(&self) -> Option<serde_json::Value> {
        serde_json::to_value(&*self.0.lock()).ok()
    }

    fn restore(&self, exported: &serde_json::Value) {
        if let Ok(known) = serde_json::from_value::<Known>(exported.clone()) {
            *self.0.lock() = Known {
                is_settled: known.answered_at.is_some(),
                ..known
            };
        }
    }
}

/// See the module.
pub struct Source {
    pub kind: Kind,
    /// For people: `orders.internal:8080`, `srv _http._tcp.orders.internal`, `file /etc/northgate/orders.yaml`.
    pub label: Arc<str>,
    service: Arc<str>,
    state: Arc<SourceState>,
    metrics: Arc<DiscoveryMetrics>,
    /// What the file looked like when it was last read.
    stamp: Mutex<Option<Stamp>>,
}

/// What tells one state of a file from another.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

/// What there is to say of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStatus {
    pub label: Arc<str>,
    /// Endpoints that it gives.
    pub endpoints: usize,
    pub refused: Vec<(SocketAddr, Refusal)>,
    /// Since its last answer.
    pub age: Option<Duration>,
    pub error: Option<String>,
}

impl Source {
    /// The source of a service, with what is known of it already.
    pub fn new(service: &str, kind: Kind, state: &State, metrics: &Metrics) -> Self {
        let label: Arc<str> = match &kind {
            Kind::Name { host, port, .. } => format!("{host}:{port}").into(),
            Kind::Srv(name) => format!("srv {name}").into(),
            Kind::File { path, .. } => format!("file {}", path.display()).into(),
        };
        let identity = Identity {
            kind: "discovery",
            place: format!("{service}/{label}").into(),
            shape: "".into(),
        };
        Self {
            state: state.adopt(identity, SourceState::default),
            metrics: metrics.discovery(service, &label),
            service: service.into(),
            kind,
            label,
            stamp: Mutex::new(None),
        }
    }

    /// Takes in what was found while the configuration was loaded, unless more is known already.
    pub fn begin_with(&self, listed: Vec<Listed>) {
        let now = monotonic_nanos();
        let mut known = self.state.0.lock();
        if known.answered_at.is_none() {
            known.take(full(listed, None), now, 0.0);
            self.metrics.answered(known.answered_at);
        }
    }

    /// What it gives now: not too old, and let through by the gate.
    pub fn found(&self, now: u64, max_stale: Duration, gate: &Gate) -> Vec<Found> {
        let known = self.state.0.lock();
        let usable = known.usable(now, max_stale);
        let passing = usable.filter(|one| gate.check(one.address).is_ok());
        passing
            .map(|one| Found {
                weight: self.weight().unwrap_or(one.weight),
                ..one.clone()
            })
            .collect()
    }

    /// The weight of all its endpoints, where that is written beside it.
    fn weight(&self) -> Option<u32> {
        match self.kind {
            Kind::Name { weight, .. } => Some(weight),
            _ => None,
        }
    }

    /// Whether it has answered, or has said that there is no answer.
    pub fn is_settled(&self) -> bool {
        self.state.0.lock().is_settled
    }

    /// Whether there is an answer that may be used, if only an empty one.
    pub fn has_answer(&self, now: u64, max_stale: Duration) -> bool {
        let known = self.state.0.lock();
        let kept = known.usable(now, max_stale).next().is_some();
        kept || known.answered_at.is_some() && known.found.is_empty()
    }

    /// How long there is nothing to do.
    pub fn wait(&self, now: u64, max_stale: Duration) -> Duration {
        match self.kind {
            Kind::File { .. } if self.stamp.lock().is_none() => Duration::ZERO,
            Kind::File { .. } => LOOK,
            _ => {
                let next = self.state.0.lock().next_at(max_stale, now);
                Duration::from_nanos(next.saturating_sub(now))
            }
        }
    }

    pub fn is_due(&self, now: u64) -> bool {
        matches!(self.kind, Kind::File { .. }) || self.state.0.lock().due_at <= now
    }

    /// Asks, and keeps the answer.
    pub async fn refresh(&self, resolver: &Resolver, gate: &Gate) {
        let answer = match &self.kind {
            Kind::Name { host, port, .. } => of_name(resolver, host, *port).await,
            Kind::Srv(name) => of_srv(resolver, name).await,
            Kind::File { path, read } => match self.of_file(path, read).await {
                Some(answer) => answer,
                None => return,
            },
        };
        self.keep(answer, gate);
    }

    fn keep(&self, answer: Result<Answer, Failure>, gate: &Gate) {
        let now = monotonic_nanos();
        let mut known = self.state.0.lock();
        let complete = matches!(&answer, Ok(answer) if answer.error.is_none());
        let in_part = answer.is_ok() && !complete;
        let news = match answer {
            Ok(answer) => known.take(answer, now, share()),
            Err(failure) => known.fail(failure, now, share()),
        };
        self.metrics.refreshed(complete);
        self.metrics.answered(known.answered_at);
        let refused: Vec<_> = known
            .found
            .iter()
            .filter_map(|one| Some((one.address, gate.check(one.address).err()?)))
            .collect();
        for (_, refusal) in &refused {
            self.metrics.refused(*refusal as usize);
        }
        let (service, source) = (&*self.service, &*self.label);
        if known.refused != refused {
            for (address, refusal) in &refused {
                let reason = refusal.as_str();
                tracing::warn!(
                    service, source, %address, reason,
                    "an address that was discovered is not taken; `discovery: {{allow: …}}` takes all but own listeners"
                );
            }
            known.refused = refused;
        }
        match &known.error {
            Some(error) if news => {
                let kept = known.found.len() - known.refused.len();
                let what = match in_part {
                    true => "some of the endpoints",
                    false => "endpoints",
                };
                tracing::warn!(service, source, kept, "{what} can't be discovered: {error}");
            }
            None if news => tracing::info!(service, source, "endpoints are discovered again"),
            _ => {}
        }
    }

    /// None: the file is as it was.
    async fn of_file(&self, path: &Path, read: &Read) -> Option<Result<Answer, Failure>> {
        let mut stamp = stamp_of(path).await;
        if *self.stamp.lock() == Some(stamp) {
            return None;
        }
        for _ in 0..SETTLES_MAX {
            tokio::time::sleep(SETTLE).await;
            let now = stamp_of(path).await;
            if std::mem::replace(&mut stamp, now) == now {
                break;
            }
        }
        let (path, read) = (path.to_owned(), read.clone());
        let reading = tokio::task::spawn_blocking(move || read(&path));
        let read = reading.await;
        // whatever it came to: what it panics on would make it panic again
        *self.stamp.lock() = Some(stamp);
        let listed = match joined(read) {
            Ok(listed) => listed,
            Err(error) => Err(error.to_string()),
        };
        Some(match listed {
            Ok(listed) => Ok(full(listed, None)),
            Err(error) => Err(Failure {
                error,
                is_definite: true,
            }),
        })
    }

    /// What there is to say of it.
    pub fn status(&self, now: u64, max_stale: Duration, gate: &Gate) -> SourceStatus {
        let endpoints = self.found(now, max_stale, gate).len();
        let known = self.state.0.lock();
        SourceStatus {
            label: self.label.clone(),
            endpoints,
            refused: known.refused.clone(),
            age: known
                .answered_at
                .map(|at| Duration::from_nanos(now.saturating_sub(at))),
            error: known.error.clone(),
        }
    }
}

fn full(listed: Vec<Listed>, ttl: Option<Duration>) -> Answer {
    Answer {
        listed,
        ttl,
        missing: Vec::new(),
        error: None,
    }
}

async fn stamp_of(path: &Path) -> Stamp {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    Some((
        metadata.dev(),
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.len(),
    ))
}

async fn of_name(resolver: &Resolver, host: &Arc<str>, port: u16) -> Result<Answer, Failure> {
    let addresses = resolver.addresses(host).await?;
    let mut answer = full(Vec::new(), Some(addresses.ttl));
    add(&mut answer, host, port, 1, addresses);
    Ok(answer)
}

/// Adds the addresses of a name to an answer.
fn add(answer: &mut Answer, name: &Arc<str>, port: u16, weight: u32, addresses: Addresses) {
    answer.ttl = answer.ttl.map(|ttl| ttl.min(addresses.ttl));
    let listed = addresses.found.into_iter().map(|ip| Listed {
        address: SocketAddr::new(ip, port),
        weight,
        name: Some(name.clone()),
    });
    answer.listed.extend(listed);
    for (family, error) in addresses.missing {
        let name = name.clone();
        answer.missing.push(Missing { name, family });
        answer.error.get_or_insert(error);
    }
}

/// The targets of the first group that has any: the next one is asked only if the names of this one are all gone.
async fn of_srv(resolver: &Resolver, name: &str) -> Result<Answer, Failure> {
    use super::answer::Family;
    let (records, ttl) = resolver.services(name).await?;
    let mut last = Failure {
        error: "the name has no SRV records with a target".into(),
        is_definite: true,
    };
    for mut group in srv::groups(&records) {
        group.truncate(TARGETS_MAX);
        let asked = futures::stream::iter(group).map(|target| async move {
            let addresses = resolver.addresses(&target.name).await;
            (target, addresses)
        });
        let mut asked: Vec<_> = asked.buffer_unordered(NAMES_AT_ONCE).collect().await;
        asked.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut answer = full(Vec::new(), Some(ttl));
        for (target, addresses) in asked {
            let name: Arc<str> = target.name.as_str().into();
            match addresses {
                Ok(addresses) => add(&mut answer, &name, target.port, target.weight, addresses),
                Err(failure) => {
                    let error = format!("{name}: {}", failure.error);
                    answer.error.get_or_insert(error.clone());
                    if !failure.is_definite {
                        let parts = [Family::V4, Family::V6];
                        let name = &name;
                        answer.missing.extend(parts.map(|family| Missing {
                            name: name.clone(),
                            family,
                        }));
                    }
                    last = Failure { error, ..failure };
                }
            }
        }
        if !answer.listed.is_empty() {
            return Ok(answer);
        }
        if !answer.missing.is_empty() {
            break;
        }
    }
    Err(last)
}
