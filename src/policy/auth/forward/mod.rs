//! `forward`: somebody else says who may pass, over HTTP: the contract of nginx' `auth_request`, Traefik's
//! `ForwardAuth` and Envoy's `ext_authz` over HTTP.
//!
//! A service is asked about each request with its head and without its body: `GET`, the fields of the request, and what
//! it was in `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri` and `-For`, and in `X-Original-Method`, `-URL` and `-URI`.
//! 2xx lets the request pass; the answer's `response_headers` go to the endpoint, in place of any that the client sent
//! under these names. 401, 403 and 3xx are given to the client as they are, with their body up to 64 KiB. Anything else,
//! no answer within `timeout`, and no connection are 503. With `on_failure: allow` a request passes where the authoriser
//! is down: no connection, no answer, a broken one, or 5xx. What a client can bring about, such as an answer that its
//! request is too long, opens no door even then. A call of gRPC gets its status instead of a page.
//!
//! Verdicts can be kept for a while by what they depend on (`cache`); those who ask for the same at the same time then
//! wait for one question, and if it is denied ask for themselves. It has the say only where no other credential is present.
//!
//! ```yaml
//! policies:
//!   auth: {forward: {service: authoriser, path: /verify, response_headers: [x-user, x-groups], subject: x-user}}
//! services:
//!   authoriser: {endpoints: 10.0.0.7:9091}
//! ```

mod ask;
mod flight;

use super::{Accepted, Carrier, Judgement, Method, Refusal};
use crate::diagnostic::Diagnostic;
use crate::exchange::View;
use crate::exchange::answer::Answer;
use crate::exchange::client::{self, ForwardedBy, Writer};
use crate::exchange::fact::Fact;
use crate::identity::signature::Body;
use crate::identity::{Identity, Reason};
use crate::observe::metrics::AuthMetrics;
use crate::policy::{CompileContext, Knowledge};
use crate::problem::{Kind, Problem};
use crate::protocol::grpc;
use crate::state::Kept;
use crate::units::{Duration, HeaderNameText, Name, OneOrMany, Spanned, Toggle};
use crate::upstream::Service;
use crate::upstream::proxy_protocol::Parties;
use ask::{Asked, Outbound, Question};
use super::flights::{Flights, Seat};
use flight::{Key, Verdicts};
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod, StatusCode, Uri, header};
use pingora_http::RequestHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;

/// Where nothing is written.
const TIMEOUT: Duration = Duration::from_secs(2);
const IN_FLIGHT: u32 = 1000;
const ENTRIES: u32 = 10_000;

const TIMEOUT_MAX: Duration = Duration::from_secs(30);
const IN_FLIGHT_MAX: u32 = 100_000;
const ENTRIES_MAX: u32 = 1_000_000;
const TTL_MAX: Duration = Duration::from_secs(3600);

/// What marks a question: one that comes back in is about itself, and so would all that follow.
const VIA: &str = "1.1 northgate-forward-auth";

static X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
static X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
static X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
static X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
static X_ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");

/// The settings of `forward`, which are many.
pub type Config = Box<Settings>;

/// The settings of `forward`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ForwardMethod")]
pub struct Settings {
    /// The service that is asked; not a split.
    pub service: Spanned<Name>,
    /// What it is asked for: `/` by default; it may have a query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Spanned<String>>,
    /// Puts the path and query of the request behind `path`, as Envoy does. Off by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append_path: Option<Toggle>,
    /// `GET`, or `same` as that of the request: `GET` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Asking>,
    /// The fields of the request that it gets; all by default, but what is about the connection and the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<OneOrMany<Spanned<HeaderNameText>>>,
    /// The fields of its answer that the endpoint gets, in place of what the client sent under these names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_headers: Option<OneOrMany<Spanned<HeaderNameText>>>,
    /// The field of its answer that names the consumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<Spanned<HeaderNameText>>,
    /// The field of its answer that says who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Spanned<HeaderNameText>>,
    /// The field of its answer that lists groups, with commas between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Spanned<HeaderNameText>>,
    /// How long it may take in all: 2 s by default, 30 s at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Spanned<Duration>>,
    /// The most questions at a time: 1,000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<Spanned<u32>>,
    /// What becomes of requests while the authoriser is down: `deny`, which is 503, by default. `allow` never holds for what a
    /// client may have brought about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// Keeps verdicts that let pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Spanned<CacheConfig>>,
}

/// The method of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "ForwardAsking")]
pub enum Asking {
    #[serde(rename = "GET")]
    Get,
    #[serde(rename = "same")]
    Same,
}

/// What becomes of requests that nobody could judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ForwardOnFailure")]
pub enum OnFailure {
    Deny,
    Allow,
}

/// Verdicts that are kept.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ForwardCache")]
pub struct CacheConfig {
    /// How long a verdict is good for: 1 h at most.
    pub ttl: Spanned<Duration>,
    /// The facts that it depends on, and all that it depends on: `[header.authorization, host, path]`.
    pub by: OneOrMany<Spanned<Fact>>,
    /// The most verdicts: 10,000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Spanned<u32>>,
}

/// Makes it ready for requests.
pub(super) fn compile(
    config: &Spanned<Config>,
    cx: &mut CompileContext<'_>,
) -> Result<Arc<dyn Method>, Diagnostic> {
    let service = cx.service(&config.service)?;
    let path = path_of(config)?;
    let timeout = match &config.timeout {
        None => TIMEOUT,
        Some(written) if !written.is_zero() && written.0 <= TIMEOUT_MAX.0 => **written,
        Some(written) => {
            let message = format!("`{}` is not between nothing and `{TIMEOUT_MAX}`", **written);
            return Err(Diagnostic::error(message, written.span()).hint("such as `2s`"));
        }
    };
    let in_flight = count(&config.in_flight, IN_FLIGHT, IN_FLIGHT_MAX)?;
    let names = |list: &Option<OneOrMany<Spanned<HeaderNameText>>>| -> Vec<HeaderName> {
        list.iter().flatten().map(|name| name.name().clone()).collect()
    };
    for name in config.response_headers.iter().flatten() {
        if is_ours(name.name()) {
            let message = format!("`{}` is not for an authoriser to set", name.name());
            let hint = "it says where a message ends, or who the client is";
            cx.report(Diagnostic::error(message, name.span()).hint(hint));
        }
        cx.tells(name.name());
    }
    let cache = match &config.cache {
        None => None,
        Some(cache) => Some(cached(cache, cx)?),
    };
    let Some(service) = service else {
        // what is wrong with the service is said at its place
        return Ok(Arc::new(Nobody));
    };
    let one = |name: &Option<Spanned<HeaderNameText>>| name.as_ref().map(|name| name.name().clone());
    Ok(Arc::new(Forward(Arc::new(Rules {
        service,
        path,
        append_path: config.append_path.is_some_and(|on| on.0),
        same_method: config.method == Some(Asking::Same),
        sent: config.request_headers.is_some().then(|| names(&config.request_headers)),
        granted: names(&config.response_headers),
        consumer: one(&config.consumer),
        subject: one(&config.subject),
        groups: one(&config.groups),
        timeout: timeout.0,
        allow: config.on_failure == Some(OnFailure::Allow),
        places: cx.state(&in_flight, || Places::new(in_flight)),
        outbound: cx.shared(Outbound::new),
        metrics: cx.metrics().auth().clone(),
        cache,
    }))))
}

fn path_of(config: &Settings) -> Result<String, Diagnostic> {
    let Some(written) = &config.path else {
        return Ok(String::new());
    };
    let is_target = written.starts_with('/') && !written.contains('#') && written.parse::<Uri>().is_ok();
    if !is_target {
        let message = format!("`{}` is not a path", **written);
        return Err(Diagnostic::error(message, written.span()).hint("such as `/verify`"));
    }
    if config.append_path.is_some_and(|on| on.0) && written.contains('?') {
        let message = "a path can't be put behind a query";
        return Err(Diagnostic::error(message, written.span()));
    }
    Ok(written.value().clone())
}

fn count(written: &Option<Spanned<u32>>, usual: u32, max: u32) -> Result<u32, Diagnostic> {
    match written {
        None => Ok(usual),
        Some(count) if (1..=max).contains(&**count) => Ok(**count),
        Some(count) => {
            let message = format!("{} is not from 1 to {max}", **count);
            Err(Diagnostic::error(message, count.span()))
        }
    }
}

fn cached(cache: &CacheConfig, cx: &mut CompileContext<'_>) -> Result<Cached, Diagnostic> {
    if cache.ttl.is_zero() || cache.ttl.0 > TTL_MAX.0 {
        let message = format!("`{}` is not between nothing and `{TTL_MAX}`", *cache.ttl);
        return Err(Diagnostic::error(message, cache.ttl.span()).hint("such as `30s`"));
    }
    for fact in &cache.by {
        use Fact::*;
        if matches!(&**fact, Consumer | Plan | Group | Credential | Claim(_) | RequestId) {
            let message = format!("`{}` tells nothing here", **fact);
            let hint = "it is not known yet, or never the same; name what the verdict depends on, such as \
                        `header.authorization`";
            return Err(Diagnostic::error(message, fact.span()).hint(hint));
        }
    }
    let size = count(&cache.size, ENTRIES, ENTRIES_MAX)?;
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key)
        .map_err(|_| Diagnostic::error("the system gives no random numbers", cx.span()))?;
    Ok(Cached {
        // a change of what is asked, or by what, makes other verdicts
        verdicts: Arc::new(Verdicts::new(size as usize)),
        flights: Arc::new(Flights::default()),
        by: cache.by.iter().map(|fact| fact.value().clone()).collect(),
        ttl: cache.ttl.0,
        key,
    })
}

/// Fields that an authoriser must not be able to replace on a request.
fn is_ours(name: &HeaderName) -> bool {
    client::writer_of(name.as_str()) == Writer::Proxy
        || crate::policy::headers::is_reserved(name)
        || *name == header::HOST
        || name.as_str().starts_with("content-")
}

/// The room for questions. It outlives a snapshot, so that a reload lets nobody exceed it.
struct Places(Arc<Semaphore>);

impl Places {
    fn new(count: u32) -> Self {
        Self(Arc::new(Semaphore::new(count as usize)))
    }
}

impl Kept for Places {
    fn export(&self) -> Option<serde_json::Value> {
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

/// Compiled settings.
struct Rules {
    service: Arc<Service>,
    /// Empty where nothing was written.
    path: String,
    append_path: bool,
    same_method: bool,
    /// All where none are named.
    sent: Option<Vec<HeaderName>>,
    granted: Vec<HeaderName>,
    consumer: Option<HeaderName>,
    subject: Option<HeaderName>,
    groups: Option<HeaderName>,
    timeout: std::time::Duration,
    allow: bool,
    places: Arc<Places>,
    outbound: Arc<Outbound>,
    metrics: Arc<AuthMetrics>,
    cache: Option<Cached>,
}

struct Cached {
    verdicts: Arc<Verdicts>,
    flights: Arc<Flights<Key, Verdict>>,
    by: Box<[Fact]>,
    ttl: std::time::Duration,
    /// Of the digests that verdicts are found by, so that nobody can aim at one.
    key: [u8; 32],
}

impl Cached {
    /// What the verdict about this request is found by; none if that can't be told to the byte.
    fn key_of(&self, view: View<'_>) -> Option<[u8; 32]> {
        let mut digest = blake3::Hasher::new_keyed(&self.key);
        for fact in &self.by {
            let value = fact.read(view);
            if value.as_ref().is_some_and(|value| value.contains('\u{fffd}')) {
                return None;
            }
            digest.update(&[u8::from(value.is_some())]);
            let value = value.as_deref().unwrap_or_default();
            digest.update(&(value.len() as u64).to_le_bytes());
            digest.update(value.as_bytes());
        }
        Some(*digest.finalize().as_bytes())
    }
}

/// What the authoriser said, as far as it can be said again to somebody else.
#[derive(Clone, Debug)]
enum Verdict {
    Pass(Accepted),
    Deny(Arc<Answer>),
    /// Why nobody could say; fit for the log.
    Failed(&'static str),
    /// The same, where the client may have brought it about: it passes nowhere.
    Unasked(&'static str),
}

impl Rules {
    /// A question about this request.
    fn question(&self, view: View<'_>) -> Option<Question> {
        let (request, facts) = (view.request, view.facts);
        let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
        let asked = match (self.append_path, self.path.as_str()) {
            (true, prefix) => format!("{}{target}", prefix.trim_end_matches('/')),
            (false, "") => "/".to_owned(),
            (false, path) => path.to_owned(),
        };
        let method = match self.same_method {
            true => request.method.clone(),
            false => HttpMethod::GET,
        };
        let mut head = RequestHeader::build(method, asked.as_bytes(), None).ok()?;
        let authority = client::authority_value(&request.headers, facts);
        client::edit_fields(&mut head, |fields| {
            self.copy(&request.headers, fields);
            client::set_forwarded(fields, facts, ForwardedBy::XForwardedFor, authority.as_ref());
            let text = |text: String| HeaderValue::try_from(text).ok();
            let host = authority.as_ref().map(|authority| authority.value.clone());
            let scheme = facts.scheme.as_str();
            let shown = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
            let method = HeaderValue::from_str(request.method.as_str()).ok();
            let uri = text(target.to_owned());
            for (name, value) in [
                (&X_FORWARDED_METHOD, method.clone()),
                (&X_FORWARDED_URI, uri.clone()),
                (&X_ORIGINAL_METHOD, method),
                (&X_ORIGINAL_URI, uri),
                (&X_ORIGINAL_URL, text(format!("{scheme}://{shown}{target}"))),
                (&header::HOST, host),
                (&header::VIA, Some(HeaderValue::from_static(VIA))),
            ] {
                match value {
                    Some(value) => fields.insert(name.clone(), value),
                    None => fields.remove(name),
                };
            }
            if self.same_method && fields.get(header::CONTENT_LENGTH).is_none() {
                fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
        });
        Some(Question {
            head,
            parties: Parties::of(facts),
        })
    }

    /// The fields of the request that go along: nothing about the connection, nothing about a body that does not.
    fn copy(&self, request: &HeaderMap, fields: &mut HeaderMap) {
        const LEFT: &[HeaderName] = &[
            header::HOST,
            header::CONNECTION,
            header::EXPECT,
            header::TE,
            header::TRAILER,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
            header::VIA,
        ];
        for (name, value) in request {
            let wanted = self.sent.as_ref().is_none_or(|sent| sent.contains(name));
            let left = LEFT.contains(name)
                || name.as_str().starts_with("content-")
                || name.as_str().starts_with("sec-websocket-")
                || name.as_str().starts_with("x-original-");
            if wanted && !left {
                fields.append(name.clone(), value.clone());
            }
        }
    }

    /// Asks, within the bounds.
    async fn ask(self: Arc<Self>, question: Question) -> Verdict {
        let Ok(_place) = self.places.0.clone().try_acquire_owned() else {
            return Verdict::Unasked("as many questions to the authoriser as there may be");
        };
        let asked = self.outbound.ask(question, &self.service, self.timeout).await;
        match asked {
            Err(failure) => Verdict::Failed(failure),
            Ok(asked) if asked.status.is_success() => self.pass(&asked.headers),
            Ok(asked) if denies(asked.status) => Verdict::Deny(Arc::new(denial(asked))),
            Ok(asked) if asked.status.is_server_error() => Verdict::Failed("the authoriser has failed"),
            // such as that the head is too long for it
            Ok(_) => Verdict::Unasked("the authoriser answered neither yes nor no"),
        }
    }

    fn pass(&self, headers: &HeaderMap) -> Verdict {
        let text = |name: &Option<HeaderName>| -> Option<Arc<str>> {
            let value = headers.get(name.as_ref()?)?.to_str().ok()?.trim();
            (!value.is_empty()).then(|| value.into())
        };
        let groups = text(&self.groups);
        let groups = groups.iter().flat_map(|groups| groups.split(','));
        let identity = Identity {
            method: "forward",
            consumer: text(&self.consumer),
            subject: text(&self.subject),
            groups: groups
                .map(str::trim)
                .filter(|group| !group.is_empty())
                .map(Arc::from)
                .collect(),
            ..Identity::default()
        };
        Verdict::Pass(self.accepted(identity, headers))
    }

    /// What the client wrote under the names of the authoriser's fields goes, whether there is something else or not.
    fn accepted(&self, identity: Identity, headers: &HeaderMap) -> Accepted {
        let mut granted = Vec::with_capacity(self.granted.len());
        for name in &self.granted {
            let before = granted.len();
            let values = headers.get_all(name).iter();
            granted.extend(values.map(|value| (name.clone(), Some(value.clone()))));
            if granted.len() == before {
                granted.push((name.clone(), None));
            }
        }
        Accepted {
            identity: Arc::new(identity),
            headers: granted,
            body: Body::Unsaid,
            set_cookies: Vec::new(),
        }
    }

    fn settle(&self, view: View<'_>, verdict: Verdict) -> Result<Accepted, Refusal> {
        match verdict {
            Verdict::Pass(accepted) => Ok(accepted),
            Verdict::Deny(answer) => {
                self.metrics.refused(Reason::ForwardDenied);
                if grpc::is_call(&view.request.headers) {
                    return Err(in_grpc(&answer).into());
                }
                Err(Refusal::Answer(Box::new((*answer).clone())))
            }
            Verdict::Failed(why) if self.allow => {
                tracing::debug!(why, "nobody could judge a request, and it passes");
                let identity = Identity {
                    method: "forward",
                    ..Identity::default()
                };
                Ok(self.accepted(identity, &HeaderMap::new()))
            }
            Verdict::Failed(why) | Verdict::Unasked(why) => {
                self.metrics.refused(Reason::ForwardFailed);
                Err(Problem::new(Kind::AuthUnavailable).source(why).into())
            }
        }
    }

    /// The verdict about a request: one that is kept, or that somebody is asking for, or a new one.
    async fn verdict(self: &Arc<Self>, view: View<'_>) -> Verdict {
        if comes_back(&view.request.headers) {
            return Verdict::Unasked("the authoriser's service leads back to where it is asked");
        }
        let Some(question) = self.question(view) else {
            return Verdict::Unasked("the request can't be put into a question");
        };
        let key = self.cache.as_ref().and_then(|cache| Some((cache, cache.key_of(view)?)));
        let Some((cache, key)) = key else {
            return self.clone().ask(question).await;
        };
        if let Some(kept) = cache.verdicts.find(&key, Instant::now()) {
            return Verdict::Pass(kept);
        }
        let (rules, verdicts, ttl) = (self.clone(), cache.verdicts.clone(), cache.ttl);
        let asking = async move {
            let verdict = rules.ask(question).await;
            if let Verdict::Pass(accepted) = &verdict {
                verdicts.keep(key, accepted.clone(), Instant::now() + ttl);
            }
            verdict
        };
        match cache.flights.join(key, asking).await {
            // a redirect to a login, or its cookie, is about the request that it answers
            (Verdict::Deny(_), Seat::Guest) => match self.question(view) {
                Some(question) => self.clone().ask(question).await,
                None => Verdict::Unasked("the request can't be put into a question"),
            },
            (verdict, _) => verdict,
        }
    }
}

/// Whether the request is a question of ours. Whoever writes that in clear is refused, and gets nothing by it.
fn comes_back(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::VIA).iter();
    lines.any(|line| memchr::memmem::find(line.as_bytes(), VIA.as_bytes()).is_some())
}

/// What is given to the client as it is.
fn denies(status: StatusCode) -> bool {
    status.is_redirection() && status != StatusCode::NOT_MODIFIED
        || matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// A denial as a call of gRPC is told of it: its clients look for no page, and follow no redirect.
fn in_grpc(denial: &Answer) -> Problem {
    let kind = match denial.status {
        StatusCode::FORBIDDEN => Kind::AuthorizeDenied,
        _ => Kind::AuthInvalid,
    };
    let challenges = denial.headers.iter().filter(|(name, _)| *name == header::WWW_AUTHENTICATE);
    challenges.fold(Problem::new(kind).source(Reason::ForwardDenied.code()), |problem, (name, value)| {
        problem.header(name.clone(), value.clone())
    })
}

/// What the authoriser answered, without what was about its own connection.
fn denial(asked: Asked) -> Answer {
    const KEPT: &[HeaderName] = &[
        header::LOCATION,
        header::WWW_AUTHENTICATE,
        header::SET_COOKIE,
        header::CONTENT_TYPE,
        header::CONTENT_LANGUAGE,
        header::RETRY_AFTER,
    ];
    let mut answer = Answer::empty(asked.status);
    answer.reason = Some(Reason::ForwardDenied.code());
    for (name, value) in &asked.headers {
        if KEPT.contains(name) && (*name != header::CONTENT_TYPE || !asked.body.is_empty()) {
            answer = answer.header(name.clone(), value.clone());
        }
    }
    // what one caller is refused is nobody else's
    answer = answer.header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer.body = asked.body;
    answer
}

struct Forward(Arc<Rules>);

impl Method for Forward {
    fn carriers(&self) -> &[Carrier] {
        &[Carrier::Request]
    }

    fn finds(&self) -> Knowledge {
        Knowledge::default()
    }

    fn is_presented(&self, _: View<'_>) -> bool {
        true
    }

    fn judge<'a>(&'a self, view: View<'a>) -> Judgement<'a> {
        let judged = async move {
            let verdict = self.0.verdict(view).await;
            self.0.settle(view, verdict)
        };
        Judgement::Later(judged.boxed())
    }

    fn strip(&self, _: &mut RequestHeader) {
        // which of the fields is the credential, only the authoriser knows
    }

    fn expires(&self) -> bool {
        false
    }

    fn challenge(&self, _: Reason) -> Option<HeaderValue> {
        None
    }

    fn is_last(&self) -> bool {
        true
    }

    fn is_always_presented(&self) -> bool {
        true
    }
}

/// Stands for an authoriser whose service could not be compiled; the configuration is refused.
struct Nobody;

impl Method for Nobody {
    fn carriers(&self) -> &[Carrier] {
        &[Carrier::Request]
    }

    fn is_presented(&self, _: View<'_>) -> bool {
        true
    }

    fn judge<'a>(&'a self, _: View<'a>) -> Judgement<'a> {
        Judgement::Now(Err(Problem::new(Kind::AuthUnavailable).into()))
    }

    fn strip(&self, _: &mut RequestHeader) {}

    fn challenge(&self, _: Reason) -> Option<HeaderValue> {
        None
    }

    fn is_last(&self) -> bool {
        true
    }

    fn is_always_presented(&self) -> bool {
        true
    }
}
