//! The keys of an issuer that publishes them: asked for in the background, never by a request.
//!
//! ```text
//! ┌ job (tasks/) ───────────────────────────────┐        ┌ request ─────────────────────────┐
//! │ due, or wanted ── fetch ── good: replace     │ keys   │ known kid: verify                │
//! │                        └── bad: keep, retry  ├───────▶│ unknown: want, wait, verify      │
//! │ one round over ─────────────────────────────┼───────▶│ none that may be used: 503       │
//! └─────────────────────────────────────────────┘ rounds └──────────────────────────────────┘
//! ```
//!
//! What always holds (security requirement 6.6): a set that can't be used never takes the place of one that can; what
//! was good is kept for `max_stale` when nothing newer can be had; whoever sends unknown `kid`s, however many, causes
//! one fetch in [`ASK_PAUSE`], and all that wait for it share it. What is known outlives snapshots, and is handed over
//! in an upgrade.

use super::metadata::Metadata;
use crate::discovery::{self, Resolver};
use crate::identity::jwt::jwks::{From, SET_BYTES_MAX, Set};
use crate::identity::jwt::{Algorithm, Keys, json};
use crate::observe::metrics::IssuerMetrics;
use crate::outbound::{self, Asked, Outbound, Question, Url};
use crate::state::{Kept, monotonic_nanos, monotonic_nanos_coarse};
use crate::tls::Authorities;
use arc_swap::{ArcSwapOption, Guard};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Between two fetches that unknown `kid`s cause.
pub const ASK_PAUSE: Duration = Duration::from_secs(10);

/// The pause after a fetch that failed; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How many requests of an issuer wait for keys at a time. Those beyond are answered at once.
const WAITING_MAX: usize = 1000;

/// The longest discovery document that is read.
const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// Where the keys are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where the discovery document of the issuer says (OpenID Connect Discovery 1.0 §4).
    Discovered {
        document: Url,
        issuer: Box<str>,
    },
    Set(Url),
}

/// How they are asked for.
#[derive(Clone)]
pub struct Settings {
    pub place: Place,
    pub accepted: Vec<Algorithm>,
    pub authorities: Option<Arc<Authorities>>,
    /// For each answer.
    pub timeout: Duration,
    /// Between two fetches when all is well.
    pub refresh: Duration,
    /// How long keys are used after the last good fetch.
    pub max_stale: Duration,
}

/// Why keys could not be had. Nothing in it came from the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    Document(String),
    Set(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document(why) => write!(f, "discovery document: {why}"),
            Self::Set(why) => write!(f, "keys: {why}"),
        }
    }
}

/// The keys of one generation.
#[derive(Debug)]
pub struct Held {
    pub keys: Keys,
    /// Another one whenever the keys are others.
    pub generation: u64,
}

/// What is known. It outlives snapshots: found by the issuer's name and place.
pub struct KeyState {
    accepted: Vec<Algorithm>,
    current: ArcSwapOption<Held>,
    /// What the discovery document says besides, if there is one.
    metadata: ArcSwapOption<Metadata>,
    /// Monotonic nanoseconds of the last good fetch; 0 before it.
    fetched_at: AtomicU64,
    told: Mutex<Told>,
    /// Monotonic nanoseconds at which an unknown `kid` last caused a fetch.
    asked_at: AtomicU64,
    /// Somebody waits for a fetch.
    wanted: AtomicBool,
    fetching: AtomicBool,
    wake: Notify,
    waiting: AtomicUsize,
    /// Counts fetches that are over.
    rounds: watch::Sender<u64>,
}

#[derive(Default)]
struct Told {
    /// The set as it was published.
    text: Vec<u8>,
    generation: u64,
    due_at: u64,
    failures: u32,
    error: Option<String>,
    /// It has answered, or has said that there is no answer.
    is_settled: bool,
}

impl KeyState {
    pub fn new(accepted: Vec<Algorithm>) -> Self {
        Self {
            accepted,
            current: ArcSwapOption::empty(),
            metadata: ArcSwapOption::empty(),
            fetched_at: AtomicU64::new(0),
            told: Mutex::default(),
            asked_at: AtomicU64::new(0),
            wanted: AtomicBool::new(false),
            fetching: AtomicBool::new(false),
            wake: Notify::new(),
            waiting: AtomicUsize::new(0),
            rounds: watch::Sender::new(0),
        }
    }

    /// Takes a good set in.
    fn take(&self, set: Set, text: Vec<u8>, at: u64) {
        let mut told = self.told.lock();
        if told.text != text || self.current.load().is_none() {
            told.generation += 1;
            self.current.store(Some(Arc::new(Held {
                keys: set.into_keys(),
                generation: told.generation,
            })));
            told.text = text;
        }
        told.failures = 0;
        told.error = None;
        told.is_settled = true;
        self.fetched_at.store(at, Relaxed);
    }
}

impl Kept for KeyState {
    fn export(&self) -> Option<serde_json::Value> {
        let told = self.told.lock();
        let text = std::str::from_utf8(&told.text).ok()?;
        let at = self.fetched_at.load(Relaxed);
        let metadata = self.metadata.load();
        let metadata = metadata.as_ref().map(|metadata| metadata.export());
        (at > 0).then(|| serde_json::json!({"set": text, "fetched_at": at, "metadata": metadata}))
    }

    fn restore(&self, exported: &serde_json::Value) {
        let text = exported.get("set").and_then(serde_json::Value::as_str);
        let at = exported
            .get("fetched_at")
            .and_then(serde_json::Value::as_u64);
        let (Some(text), Some(at)) = (text, at) else {
            return;
        };
        if let Ok(set) = Set::parse(text.as_bytes(), &self.accepted, From::Url)
            && at <= monotonic_nanos()
        {
            self.take(set, text.as_bytes().to_vec(), at);
            let metadata = exported
                .get("metadata")
                .and_then(serde_json::Value::as_object);
            let metadata = metadata.map(|metadata| Arc::new(Metadata::of(metadata, true)));
            self.metadata.store(metadata);
        }
    }
}

/// What there is to say of the keys of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyStatus {
    pub keys: usize,
    /// Since the last good fetch.
    pub age: Option<Duration>,
    pub error: Option<String>,
}

/// What is asked for the time, in monotonic nanoseconds, and waits; another one in tests.
#[derive(Clone, Copy)]
struct Clock {
    exact: fn() -> u64,
    /// Some milliseconds behind, at a tenth of the cost: for requests.
    coarse: fn() -> u64,
    sleep: fn(Duration) -> BoxFuture<'static, ()>,
}

/// The clock of the machine.
const MACHINE: Clock = Clock {
    exact: monotonic_nanos,
    coarse: monotonic_nanos_coarse,
    sleep: |time| tokio::time::sleep(time).boxed(),
};

/// What a fetch brings: a set, its text, and what the issuer says about itself where that was asked for.
type Fetched = Result<(Set, Vec<u8>, Option<Metadata>), Failure>;

/// See the module.
pub struct Published {
    issuer: Arc<str>,
    settings: Settings,
    state: Arc<KeyState>,
    outbound: Arc<Outbound>,
    resolver: Arc<Resolver>,
    metrics: Arc<IssuerMetrics>,
    clock: Clock,
}

impl Published {
    pub fn new(
        issuer: Arc<str>,
        settings: Settings,
        state: Arc<KeyState>,
        outbound: Arc<Outbound>,
        resolver: Arc<Resolver>,
        metrics: Arc<IssuerMetrics>,
    ) -> Self {
        let published = Self {
            issuer,
            settings,
            state,
            outbound,
            resolver,
            metrics,
            clock: MACHINE,
        };
        published.tell();
        published
    }

    /// The keys of this moment; none if there are none that may be used.
    pub fn current(&self) -> Guard<Option<Arc<Held>>> {
        let held = self.state.current.load();
        let age = (self.clock.coarse)().saturating_sub(self.state.fetched_at.load(Relaxed));
        match held.is_some() && age <= nanos(self.settings.max_stale) {
            true => held,
            false => Guard::from_inner(None),
        }
    }

    /// What the discovery document says besides, as long as the keys may be used.
    pub fn metadata(&self) -> Option<Arc<Metadata>> {
        self.current().as_ref()?;
        self.state.metadata.load_full()
    }

    /// Whether there is a discovery document.
    pub fn is_discovered(&self) -> bool {
        matches!(self.settings.place, Place::Discovered { .. })
    }

    /// Asks one of the issuer's other endpoints.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn ask_endpoint(
        &self,
        url: &Url,
        question: Question,
        body_bytes_max: usize,
    ) -> Result<outbound::Answered, outbound::Failure> {
        let asked = self.asked(body_bytes_max, true);
        self.outbound
            .ask(url, question, &self.resolver, &asked)
            .await
    }

    /// For one answer of the issuer.
    pub fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Waits until a fetch is over that may bring newer keys; tells whether there was one to wait for.
    pub async fn newer(&self) -> bool {
        let state = &*self.state;
        let mut rounds = state.rounds.subscribe();
        if !self.want((self.clock.exact)()) {
            return false;
        }
        if state.waiting.fetch_add(1, Relaxed) >= WAITING_MAX {
            state.waiting.fetch_sub(1, Relaxed);
            return false;
        }
        let _waiting = Waiting(&state.waiting);
        // a discovery document and a set
        let most = self.settings.timeout.saturating_mul(2);
        tokio::select! {
            _ = rounds.changed() => true,
            () = (self.clock.sleep)(most) => false,
        }
    }

    /// Asks for a fetch, unless an unknown `kid` has caused one just now. Tells whether there is one to wait for.
    fn want(&self, now: u64) -> bool {
        let state = &*self.state;
        if state.fetching.load(Relaxed) || state.wanted.load(Relaxed) {
            return true;
        }
        let last = state.asked_at.load(Relaxed);
        if last > 0 && now.saturating_sub(last) < nanos(ASK_PAUSE) {
            return false;
        }
        // of those that come at once, one asks, and the others share its answer
        let first = state
            .asked_at
            .compare_exchange(last, now.max(1), Relaxed, Relaxed);
        if first.is_ok() {
            state.wanted.store(true, Relaxed);
            state.wake.notify_one();
        }
        true
    }

    /// Fetches the keys whenever it is due or wanted, for as long as this is polled.
    pub async fn run(&self) {
        self.run_with(|| self.fetch()).await;
    }

    /// The same, with another way to fetch them.
    async fn run_with<F: Future<Output = Fetched>>(&self, fetch: impl Fn() -> F) {
        loop {
            let wanted = self.state.wanted.load(Relaxed);
            let now = (self.clock.exact)();
            let wait = Duration::from_nanos(self.due_at().saturating_sub(now));
            if !wanted && !wait.is_zero() {
                tokio::select! {
                    () = (self.clock.sleep)(wait) => {}
                    () = self.state.wake.notified() => {}
                }
                continue;
            }
            self.refresh(fetch()).await;
        }
    }

    /// When they are to be fetched again. What a longer `refresh` of an earlier configuration put off is not put off.
    fn due_at(&self) -> u64 {
        let told = self.state.told.lock();
        let fetched_at = self.state.fetched_at.load(Relaxed);
        match told.failures {
            0 => told
                .due_at
                .min(fetched_at.saturating_add(nanos(self.settings.refresh))),
            _ => told.due_at,
        }
    }

    /// Fetches the keys if nobody has tried yet.
    pub async fn warm(&self) {
        if !self.is_settled() {
            self.refresh(self.fetch()).await;
        }
    }

    /// Whether there was an answer, be it that there is none.
    pub fn is_settled(&self) -> bool {
        self.state.told.lock().is_settled
    }

    pub fn status(&self) -> KeyStatus {
        let at = self.state.fetched_at.load(Relaxed);
        KeyStatus {
            keys: self
                .state
                .current
                .load()
                .as_ref()
                .map_or(0, |held| held.keys.len()),
            age: (at > 0).then(|| Duration::from_nanos((self.clock.exact)().saturating_sub(at))),
            error: self.state.told.lock().error.clone(),
        }
    }

    async fn refresh(&self, fetch: impl Future<Output = Fetched>) {
        let state = &*self.state;
        let round = Round::begin(state);
        let fetched = fetch.await;
        let now = (self.clock.exact)();
        self.metrics.refreshed(fetched.is_ok());
        let pause = match fetched {
            Ok((set, text, metadata)) => {
                state.metadata.store(metadata.map(Arc::new));
                let (known, passed_over) = (set.keys.len(), set.passed_over);
                let before = state.current.load().as_ref().map(|held| held.generation);
                state.take(set, text, now);
                let after = state.current.load().as_ref().map(|held| held.generation);
                if before != after {
                    tracing::info!(
                        issuer = &*self.issuer,
                        keys = known,
                        passed_over,
                        "the keys of an issuer changed"
                    );
                }
                self.settings.refresh
            }
            Err(failure) => self.failed(&failure),
        };
        self.tell();
        // a tenth earlier, by chance, so that many gateways do not ask in step
        let share = discovery::share() * 0.1;
        state.told.lock().due_at = now.saturating_add(nanos(pause.mul_f64(1.0 - share)));
        round.over();
    }

    fn failed(&self, failure: &Failure) -> Duration {
        let mut told = self.state.told.lock();
        let error = failure.to_string();
        if told.error.as_ref() != Some(&error) {
            tracing::warn!(
                issuer = &*self.issuer,
                error,
                "the keys of an issuer can't be had"
            );
        }
        told.error = Some(error);
        told.is_settled = true;
        let doubled = RETRY_MIN.saturating_mul(1 << told.failures.min(16));
        told.failures = told.failures.saturating_add(1);
        doubled.min(RETRY_MAX).min(self.settings.refresh)
    }

    /// What is known, for metrics.
    fn tell(&self) {
        let keys = self
            .state
            .current
            .load()
            .as_ref()
            .map_or(0, |held| held.keys.len());
        self.metrics.has(keys, self.state.fetched_at.load(Relaxed));
    }

    async fn fetch(&self) -> Fetched {
        let (url, metadata) = match &self.settings.place {
            Place::Set(url) => (url.clone(), None),
            Place::Discovered { document, issuer } => self
                .discover(document, issuer)
                .await
                .map(|(url, metadata)| (url, Some(metadata)))
                .map_err(Failure::Document)?,
        };
        let text = self.ask(&url, SET_BYTES_MAX).await.map_err(Failure::Set)?;
        let set = Set::parse(&text, &self.settings.accepted, From::Url);
        let set = set.map_err(|error| Failure::Set(error.to_string()))?;
        Ok((set, text, metadata))
    }

    /// Where the issuer says that its keys are, and what else it says.
    async fn discover(&self, document: &Url, issuer: &str) -> Result<(Url, Metadata), String> {
        let text = self.ask(document, DOCUMENT_BYTES_MAX).await?;
        let found = json::object(&text).ok_or("it is not a JSON object")?;
        // whoever can answer for another issuer could answer for any (OpenID Connect Discovery 1.0 §4.3)
        let named = found.get("issuer").and_then(serde_json::Value::as_str);
        if let Some(why) = other_issuer(named, issuer) {
            return Err(why.into());
        }
        let text = found.get("jwks_uri").and_then(serde_json::Value::as_str);
        let url: Url = text
            .ok_or("it has no `jwks_uri`")?
            .parse()
            .map_err(|error| format!("its `jwks_uri` can't be asked: {error}"))?;
        // an issuer elsewhere has no business on this machine
        if url.is_of_this_machine() && !document.is_of_this_machine() {
            return Err("its `jwks_uri` is on this machine".into());
        }
        Ok((url, Metadata::of(&found, document.is_of_this_machine())))
    }

    fn asked(&self, body_bytes_max: usize, keep: bool) -> Asked {
        Asked {
            authorities: self.settings.authorities.clone(),
            timeout: self.settings.timeout,
            body_bytes_max,
            loopback: false,
            keep,
        }
    }

    async fn ask(&self, url: &Url, body_bytes_max: usize) -> Result<Vec<u8>, String> {
        let asked = self.asked(body_bytes_max, false);
        let answered = self
            .outbound
            .ask(url, Question::get(), &self.resolver, &asked)
            .await;
        let answered = answered.map_err(|failure: outbound::Failure| failure.to_string())?;
        match answered.status.as_u16() {
            200 => Ok(answered.body),
            status => Err(format!("it answered {status}")),
        }
    }
}

/// Why the issuer that a document names is not the one that was asked for.
fn other_issuer(named: Option<&str>, wanted: &str) -> Option<&'static str> {
    let bare = |text: &str| text.trim_end_matches('/').to_owned();
    match named {
        None => Some("it has no `issuer`"),
        Some(named) if named == wanted => None,
        // the usual slip; tokens name it letter for letter too
        Some(named) if bare(named) == bare(wanted) => Some(match named.ends_with('/') {
            true => "its `issuer` has a `/` at its end, and the one that is configured has none",
            false => "its `issuer` has no `/` at its end, and the one that is configured has one",
        }),
        Some(_) => Some("its `issuer` is another one"),
    }
}

/// A fetch that goes on. Whoever waits learns when it is over; one that is cut off by a reload is begun again.
struct Round<'s> {
    state: &'s KeyState,
    over: bool,
}

impl<'s> Round<'s> {
    fn begin(state: &'s KeyState) -> Self {
        state.fetching.store(true, Relaxed);
        Self { state, over: false }
    }

    fn over(mut self) {
        self.state.wanted.store(false, Relaxed);
        self.over = true;
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        let state = self.state;
        state.fetching.store(false, Relaxed);
        match self.over {
            true => state
                .rounds
                .send_modify(|rounds| *rounds = rounds.wrapping_add(1)),
            // those who wait are not told of a fetch that was not made
            false if state.waiting.load(Relaxed) > 0 => state.wanted.store(true, Relaxed),
            false => {}
        }
    }
}

/// A request that waits.
struct Waiting<'s>(&'s AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod outage;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Metrics;

    const SET: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    #[test]
    fn an_issuer_is_the_one_that_was_asked_for_letter_for_letter() {
        let wanted = "https://idp.test";
        assert_eq!(other_issuer(Some(wanted), wanted), None);
        let why = |named| other_issuer(named, wanted).unwrap_or_default();
        assert!(why(Some("https://idp.test/")).contains("has a `/`"));
        assert!(why(Some("https://idp.test.evil")).contains("another one"));
        assert!(why(None).contains("no `issuer`"));
        assert!(
            other_issuer(Some(wanted), "https://idp.test/")
                .is_some_and(|why| why.contains("has no `/`"))
        );
    }

    fn state() -> Arc<KeyState> {
        Arc::new(KeyState::new(Algorithm::ASYMMETRIC.to_vec()))
    }

    fn published(state: &Arc<KeyState>, max_stale: Duration) -> Published {
        let settings = Settings {
            place: Place::Set("http://127.0.0.1:9/keys".parse().unwrap()),
            accepted: Algorithm::ASYMMETRIC.to_vec(),
            authorities: None,
            timeout: Duration::from_millis(200),
            refresh: Duration::from_secs(300),
            max_stale,
        };
        let metrics = Metrics::new().issuer("idp");
        Published::new(
            "idp".into(),
            settings,
            state.clone(),
            Arc::default(),
            Arc::default(),
            metrics,
        )
    }

    fn take(state: &KeyState, text: &str) {
        let set = Set::parse(text.as_bytes(), Algorithm::ASYMMETRIC, From::Url).unwrap();
        state.take(set, text.into(), monotonic_nanos());
    }

    #[test]
    fn the_same_keys_are_the_same_generation() {
        let state = state();
        let generation =
            |state: &KeyState| state.current.load().as_ref().map(|held| held.generation);
        take(&state, SET);
        let first = generation(&state);
        take(&state, SET);
        assert_eq!(generation(&state), first);
        take(&state, &SET.replace("\"a\"", "\"b\""));
        assert_ne!(generation(&state), first);
    }

    #[test]
    fn keys_are_handed_to_the_next_process_and_nonsense_is_not_taken() {
        let old = state();
        assert_eq!(old.export(), None);
        take(&old, SET);
        let exported = old.export().unwrap();
        let new = state();
        new.restore(&exported);
        assert_eq!(published(&new, Duration::from_secs(60)).status().keys, 1);
        assert!(published(&new, Duration::from_secs(60)).is_settled());
        for nonsense in [
            serde_json::json!({"set": "{}", "fetched_at": 1}),
            serde_json::json!({"set": SET, "fetched_at": u64::MAX}),
            serde_json::json!({"set": SET}),
            serde_json::json!([]),
        ] {
            let new = state();
            new.restore(&nonsense);
            assert_eq!(
                published(&new, Duration::from_secs(60)).status().keys,
                0,
                "{nonsense}"
            );
        }
    }

    #[test]
    fn one_fetch_is_asked_for_in_a_while_and_shared_until_it_is_over() {
        let state = state();
        let published = published(&state, Duration::from_secs(60));
        let second = 1_000_000_000;
        assert!(published.want(100 * second));
        // it goes on: whoever comes now shares it
        assert!(published.want(101 * second));
        Round::begin(&state).over();
        assert!(!published.want(101 * second));
        assert!(!published.want(109 * second));
        assert!(published.want(110 * second));
    }

    #[test]
    fn a_fetch_that_a_reload_cuts_off_is_begun_again_if_somebody_waits() {
        let state = state();
        drop(Round::begin(&state));
        assert!(!state.wanted.load(Relaxed));
        state.waiting.store(1, Relaxed);
        drop(Round::begin(&state));
        assert!(state.wanted.load(Relaxed) && *state.rounds.borrow() == 0);
        Round::begin(&state).over();
        assert!(!state.wanted.load(Relaxed) && *state.rounds.borrow() == 1);
    }

    #[tokio::test]
    async fn an_issuer_that_is_down_is_asked_again_with_growing_pauses() {
        let state = state();
        let published = published(&state, Duration::from_secs(60));
        let mut last = 0;
        for _ in 0..4 {
            published.refresh(published.fetch()).await;
            let pause = state.told.lock().due_at.saturating_sub(monotonic_nanos());
            assert!(pause > last, "{pause} after {last}");
            last = pause;
        }
        assert!(published.current().is_none() && published.is_settled());
        take(&state, SET);
        assert!(published.current().is_some());
        published.refresh(published.fetch()).await;
        assert!(published.current().is_some() && published.status().error.is_some());
    }

    #[test]
    fn keys_are_used_as_long_as_they_may_be_stale() {
        let state = state();
        take(&state, SET);
        assert!(
            published(&state, Duration::from_secs(60))
                .current()
                .is_some()
        );
        let hour_ago = monotonic_nanos()
            .saturating_sub(nanos(Duration::from_secs(3600)))
            .max(1);
        state.fetched_at.store(hour_ago, Relaxed);
        assert!(
            published(&state, Duration::from_millis(1))
                .current()
                .is_none()
        );
    }
}
