//! Stores: places outside of the process where gateways count together. Redis or Valkey, one server or a cluster.
//!
//! ```yaml
//! stores:
//!   shared: {redis: "redis://127.0.0.1:6379", timeout: 5ms, on_failure: local_share}
//! policies:
//!   rate_limit: {limit: 100/1m, by: client_address, store: shared}
//! routes:
//!   app: {match: {path: /**}, respond: 204}
//! ```
//!
//! ```text
//! Store          what one configuration says of it: deadline, what happens on failure, prefix
//! └─ Link        outlives snapshots: the connection, whether it answers, what is to be done in the background
//!    ├─ Breaker  for one server one, for a cluster one for each group of slots
//!    └─ job      (tasks/) connects, says that this gateway is there, probes, does what the queue holds
//! ```
//!
//! What always holds: nobody connects but the job, so that a request never waits for a connection; a question has a
//! deadline, and after [`breaker::FAILURES`] that came to nothing no more are asked until a probe has been answered; what
//! waits and what is under way is bounded. One question is one script and one key (EVALSHA, then EVAL where the server
//! does not know it), and time is the server's. What is counted by is in no key of the store: [`Store::name`] is made of
//! a digest. URLs hold passwords, so nothing of them, and nothing that a server says, is in a log or an error.

pub mod breaker;
mod link;
mod scripts;

pub use link::{Link, Place, PlaceError};
pub use scripts::{Count, QuotaTaken, QuotaTaking, Taken, Taking};

use crate::observe::metrics::StoreError;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// What is decided while a store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "StoreFailure")]
pub enum OnFailure {
    /// Each gateway counts for itself and lets its part through: the limit, divided by how many gateways there were.
    #[default]
    LocalShare,
    /// Everything is let through.
    Allow,
    /// Nothing is let through: 503.
    Deny,
}

impl OnFailure {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LocalShare => "local_share",
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// A store as the configuration has it.
pub struct Store {
    pub name: Arc<str>,
    /// For each answer.
    pub timeout: Duration,
    pub on_failure: OnFailure,
    /// What the name of everything in it begins with.
    pub prefix: Box<str>,
    pub link: Arc<Link>,
}

/// What there is to say of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStatus {
    /// Whether it answers; of a cluster, for all keys.
    pub up: bool,
    /// Gateways that share it, as far as it has said.
    pub gateways: u64,
    /// What went wrong last, unless it has answered since.
    pub error: Option<&'static str>,
}

impl Store {
    /// What a counter is called: by where its policy is written, by what would make old counts meaningless, and by the
    /// digest of what is counted. All of it is one hash tag, so that a cluster keeps it in one place.
    pub fn name(&self, place: &str, shape: &str, digest: &[u8]) -> Box<[u8]> {
        use std::fmt::Write;
        let mut name = format!("{}{{{place}:{shape}:", self.prefix);
        for byte in digest {
            // writing into a string does not fail
            let _ = write!(name, "{byte:02x}");
        }
        name.push('}');
        name.into_bytes().into()
    }

    /// Whether it answers, for that key.
    pub fn is_up(&self, key: &[u8]) -> bool {
        self.link.is_up(key)
    }

    /// How many gateways share it, this one among them.
    pub fn gateways(&self) -> u64 {
        self.link.gateways()
    }

    pub fn status(&self) -> StoreStatus {
        self.link.status()
    }

    /// Takes from a counter.
    ///
    /// # Errors
    /// There was no answer in time, or none at all.
    pub async fn take(&self, key: &[u8], taking: Taking) -> Result<Taken, StoreError> {
        let question = scripts::take(key, taking);
        let answer = self.link.ask(&question, self.timeout).await?;
        Taken::of(&answer)
    }

    /// The same in the background, where an answer is worth something that comes late.
    ///
    /// # Errors
    /// There was none at all.
    pub async fn take_patiently(&self, key: &[u8], taking: Taking) -> Result<Taken, StoreError> {
        let question = scripts::take(key, taking);
        let answer = self.link.ask_patiently(&question, self.timeout).await?;
        Taken::of(&answer)
    }

    /// Gives back what was taken from a counter, by the mark that it was taken with.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn give_back(
        &self,
        key: &[u8],
        count: Count,
        units: u64,
        mark: u64,
    ) -> Result<(), StoreError> {
        let question = scripts::give_back(key, count, units, mark);
        let answer = self.link.ask_patiently(&question, self.timeout).await;
        answer.map(drop)
    }

    /// Takes from a quota of one period.
    ///
    /// # Errors
    /// There was no answer in time, or none at all.
    pub async fn take_quota(
        &self,
        key: &[u8],
        taking: QuotaTaking,
    ) -> Result<QuotaTaken, StoreError> {
        let question = scripts::take_quota(key, taking);
        let answer = self.link.ask(&question, self.timeout).await?;
        QuotaTaken::of(&answer, taking.demand)
    }

    /// The same in the background, where an answer is worth something that comes late.
    ///
    /// # Errors
    /// There was none at all.
    pub async fn take_quota_patiently(
        &self,
        key: &[u8],
        taking: QuotaTaking,
    ) -> Result<QuotaTaken, StoreError> {
        let question = scripts::take_quota(key, taking);
        let answer = self.link.ask_patiently(&question, self.timeout).await?;
        QuotaTaken::of(&answer, taking.demand)
    }

    /// Gives back what was taken from a quota.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn give_back_quota(&self, key: &[u8], units: u64) -> Result<(), StoreError> {
        let question = scripts::give_back_quota(key, units);
        let answer = self.link.ask_patiently(&question, self.timeout).await;
        answer.map(drop)
    }

    /// Lets a quota be used for so much more.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn grant_quota(
        &self,
        key: &[u8],
        amount: u64,
        kept: Duration,
    ) -> Result<(), StoreError> {
        let question = scripts::grant_quota(key, amount, kept);
        let answer = self.link.ask_patiently(&question, self.timeout).await;
        answer.map(drop)
    }

    /// Forgets a counter.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn forget(&self, key: &[u8]) -> Result<(), StoreError> {
        let question = scripts::forget(key);
        let answer = self.link.ask_patiently(&question, self.timeout).await;
        answer.map(drop)
    }

    /// Does something in the background; false if too much is to be done there already.
    pub fn in_background(&self, work: BoxFuture<'static, ()>) -> bool {
        self.link.in_background(work)
    }

    /// Waits for something that is done in the background, on a thread that may wait.
    ///
    /// # Errors
    /// There was no answer in time.
    pub fn wait_for<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let work = Box::pin(async move {
            // whoever asked may have gone away
            let _ = tell.send(work.await);
        });
        if !self.in_background(work) {
            return Err(StoreError::Busy);
        }
        let answer = told.recv_timeout(link::PATIENCE);
        answer.unwrap_or(Err(StoreError::Timeout))
    }

    /// Keeps it connected and does what is to be done in the background, for as long as it is polled.
    pub async fn run(&self) {
        self.link.run(self).await;
    }
}
