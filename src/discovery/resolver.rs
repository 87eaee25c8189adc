//! Questions to DNS, with the TTL of the answers. Nothing blocks: no `getaddrinfo`, and no thread that waits.
//!
//! Names are whole: search domains are never tried, since a name must not mean something else on another machine. There
//! is no cache besides [`super::answer::Known`], so that asking is asking.

use super::answer::{Failure, Family};
use super::srv;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Resolver as Hickory, TokioResolver};
use parking_lot::Mutex;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;

/// Questions at a time, of all services of a snapshot.
const QUESTIONS_MAX: usize = 64;

/// The longest text of an error that is shown.
const ERROR_MAX: usize = 200;

/// How DNS is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Empty: those of `/etc/resolv.conf`, with `/etc/hosts` before them.
    pub servers: Vec<SocketAddr>,
    /// For one server to answer.
    pub timeout: Duration,
    /// How often a question is repeated in all.
    pub attempts: usize,
    /// The only kind of addresses that is wanted; both if none.
    pub family: Option<Family>,
}

/// See the module.
pub struct Resolver {
    settings: Settings,
    /// Made when it is first needed, and anew when the system's files have changed.
    made: Mutex<Option<(Stamps, TokioResolver)>>,
    permits: Semaphore,
}

/// When the files that the system configures DNS with were last changed.
type Stamps = [Option<SystemTime>; 2];

/// The addresses of a name.
#[derive(Debug, Default)]
pub struct Addresses {
    pub found: Vec<IpAddr>,
    /// The shortest TTL of all records that led to them.
    pub ttl: Duration,
    /// Kinds that could not be asked for, and why.
    pub missing: Vec<(Family, String)>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new(Settings {
            servers: Vec::new(),
            timeout: Duration::from_secs(2),
            attempts: 2,
            family: None,
        })
    }
}

impl Resolver {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            made: Mutex::new(None),
            permits: Semaphore::new(QUESTIONS_MAX),
        }
    }

    /// All addresses of a name.
    ///
    /// # Errors
    /// Not one could be had.
    pub async fn addresses(&self, host: &str) -> Result<Addresses, Failure> {
        let families = match self.settings.family {
            None => vec![Family::V4, Family::V6],
            Some(family) => vec![family],
        };
        let asked = families.into_iter().map(|family| async move {
            let kind = match family {
                Family::V4 => RecordType::A,
                Family::V6 => RecordType::AAAA,
            };
            (family, self.ask(host, kind).await)
        });
        let mut all = Addresses {
            ttl: Duration::MAX,
            ..Addresses::default()
        };
        let mut failed: Vec<(Family, Failure)> = Vec::new();
        for (family, answer) in futures::future::join_all(asked).await {
            match answer {
                Ok(records) => {
                    all.ttl = all.ttl.min(ttl_of(&records));
                    all.found.extend(records.iter().filter_map(|record| {
                        match (&record.data, family) {
                            (RData::A(address), Family::V4) => Some(IpAddr::V4(address.0)),
                            (RData::AAAA(address), Family::V6) => Some(IpAddr::V6(address.0)),
                            _ => None,
                        }
                    }));
                }
                Err(failure) => failed.push((family, failure)),
            }
        }
        if all.found.is_empty() {
            return Err(worst(failed));
        }
        // a name with addresses of one kind alone has no others, and that is an answer
        failed.retain(|(_, failure)| !failure.is_definite);
        all.missing = failed
            .into_iter()
            .map(|(family, failure)| (family, failure.error))
            .collect();
        Ok(all)
    }

    /// The SRV records of a name, and their shortest TTL.
    ///
    /// # Errors
    /// None could be had.
    pub async fn services(&self, name: &str) -> Result<(Vec<srv::Record>, Duration), Failure> {
        let records = self.ask(name, RecordType::SRV).await?;
        let found: Vec<srv::Record> = records
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(srv::Record {
                    priority: srv.priority,
                    weight: srv.weight,
                    port: srv.port,
                    target: srv.target.to_ascii().trim_end_matches('.').to_owned(),
                }),
                _ => None,
            })
            .collect();
        Ok((found, ttl_of(&records)))
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Result<Vec<Record>, Failure> {
        let passing = |error: String| Failure {
            error,
            is_definite: false,
        };
        let mut whole = Name::from_str(name).map_err(|error| passing(error.to_string()))?;
        whole.set_fqdn(true);
        let resolver = self.resolver().map_err(|error| passing(text_of(&error)))?;
        let _permit = self.permits.acquire().await;
        // every server, every attempt, over UDP and TCP: a bound for what else may hang
        let attempts = u32::try_from(self.settings.attempts).unwrap_or(u32::MAX);
        let bound = self
            .settings
            .timeout
            .saturating_mul(attempts.saturating_mul(4))
            + Duration::from_secs(1);
        match tokio::time::timeout(bound, resolver.lookup(whole, kind)).await {
            Ok(Ok(lookup)) => Ok(lookup.answers().to_vec()),
            Ok(Err(error)) => Err(failure_of(&error, kind)),
            Err(_) => Err(passing(format!("{kind}: no answer in time"))),
        }
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut made = self.made.lock();
        let stamps = match self.settings.servers.is_empty() {
            true => ["/etc/resolv.conf", "/etc/hosts"].map(|path| {
                let metadata = std::fs::metadata(path).ok()?;
                metadata.modified().ok()
            }),
            false => [None; 2],
        };
        if let Some((known, resolver)) = &*made
            && *known == stamps
        {
            return Ok(resolver.clone());
        }
        let resolver = self.make()?;
        *made = Some((stamps, resolver.clone()));
        Ok(resolver)
    }

    fn make(&self) -> Result<TokioResolver, NetError> {
        let settings = &self.settings;
        let (config, mut options) = match settings.servers.is_empty() {
            true => {
                let (system, options) = read_system_conf()?;
                (
                    ResolverConfig::from_parts(None, Vec::new(), system.name_servers().to_vec()),
                    options,
                )
            }
            false => {
                let servers = settings.servers.iter().map(server).collect();
                (
                    ResolverConfig::from_parts(None, Vec::new(), servers),
                    ResolverOpts::default(),
                )
            }
        };
        options.use_hosts_file = match settings.servers.is_empty() {
            true => ResolveHosts::Always,
            false => ResolveHosts::Never,
        };
        options.timeout = settings.timeout;
        // theirs counts what comes after the first
        options.attempts = settings.attempts.saturating_sub(1);
        options.cache_size = 0;
        options.try_tcp_on_error = true;
        let mut builder = Hickory::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        builder.build()
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

fn ttl_of(records: &[Record]) -> Duration {
    let shortest = records.iter().map(|record| record.ttl).min();
    Duration::from_secs(shortest.unwrap_or(0).into())
}

/// Of several failures, the one that leaves hope; it is that which matters.
fn worst(failed: Vec<(Family, Failure)>) -> Failure {
    let is_definite = failed.iter().all(|(_, failure)| failure.is_definite);
    let one = failed
        .into_iter()
        .map(|(_, failure)| failure)
        .find(|failure| failure.is_definite == is_definite);
    one.unwrap_or(Failure {
        error: "it has no addresses".into(),
        is_definite: true,
    })
}

fn failure_of(error: &NetError, kind: RecordType) -> Failure {
    let definite = |error: String| Failure {
        error,
        is_definite: true,
    };
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => definite("there is no such name".into()),
            ResponseCode::NoError if kind == RecordType::SRV => {
                definite("the name has no SRV records".into())
            }
            ResponseCode::NoError => definite("the name has no addresses".into()),
            code => Failure {
                error: format!("{kind}: {code}"),
                is_definite: false,
            },
        },
        NetError::Timeout => Failure {
            error: format!("{kind}: no answer in time"),
            is_definite: false,
        },
        other => Failure {
            error: format!("{kind}: {}", text_of(other)),
            is_definite: false,
        },
    }
}

fn text_of(error: &NetError) -> String {
    error.to_string().chars().take(ERROR_MAX).collect()
}
