//! `introspection`: tokens that only the authorisation server can read, which is asked about each (RFC 7662).
//!
//! Its word is kept for `cache`, and never longer than the token holds; what it refused, for `negative_cache`. Of
//! requests with one token that nobody has asked about, one asks and the others share the answer. When the server
//! can't be asked, nobody gets in: 503 `auth.unavailable`, and for a second nobody asks about that token again.
//!
//! ```yaml
//! policies:
//!   auth:
//!     introspection:
//!       url: https://idp.example.com/oauth2/introspect
//!       client_id: gateway
//!       client_secret: a secret that the server knows
//!       audience: orders
//!       consumer: client_id
//! ```

use super::carried::Carried;
use super::jwt::{bearer, since_epoch};
use super::{Accepted, Carrier, Judgement, Method, Refusal};
use crate::diagnostic::Diagnostic;
use crate::discovery::Resolver;
use crate::exchange::View;
use crate::identity::introspection::{Answer, Expected, is_token, judge};
use crate::identity::jwt::{TOKEN_BYTES_MAX, json};
use crate::identity::{Identity, Reason};
use crate::issuers::Naming;
use crate::issuers::cache::Digest;
use crate::observe::metrics::{Introspected, IntrospectionMetrics};
use crate::outbound::{Asked, Outbound, Question, Url};
use crate::policy::CompileContext;
use crate::problem::{Kind, Problem};
use crate::state::Kept;
use crate::tls::Authorities;
use crate::units::{self, FileText, HeaderNameText, OneOrMany, OrOff, Secret, Spanned};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::FutureExt;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method as HttpMethod};
use crate::identity::oidc::FORM;
use percent_encoding::utf8_percent_encode;
use pingora_http::RequestHeader;
use quick_cache::sync::Cache;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

const CACHE: Duration = Duration::from_secs(60);
const CACHE_MAX: Duration = Duration::from_secs(3600);
const NEGATIVE: Duration = Duration::from_secs(5);
const NEGATIVE_MAX: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(2);
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// How long nobody asks again about a token that nothing could be learnt of.
const FAILED: Duration = Duration::from_secs(1);

/// Between two warnings that tokens can't be judged; metrics count all of them.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Tokens that are kept; each has an identity of at most some kilobytes.
const ENTRIES_MAX: usize = 10_000;

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Questions at a time. Those beyond wait, as long as an answer may take.
const QUESTIONS_MAX: usize = 64;

/// Whom to ask, as whom, and what the answer has to say.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "IntrospectionMethod")]
pub struct Config {
    /// The introspection endpoint: `https`, or `http` on this machine.
    pub url: Spanned<String>,
    /// Who the gateway is to the server.
    pub client_id: Spanned<String>,
    pub client_secret: Secret,
    /// How the gateway says so: `basic` by default, or `post`, in the form (RFC 6749 §2.3.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
    /// What the answer's `iss` must be. Not looked at by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Spanned<String>>,
    /// What the answer's `aud` must be, or have among others. Not looked at by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<Spanned<OneOrMany<Spanned<String>>>>,
    /// How long the server's word is kept, if the token holds that long: 1 minute by default, 1 hour at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Spanned<OrOff<units::Duration>>>,
    /// How long a refusal is kept: 5 s by default, 1 minute at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_cache: Option<Spanned<OrOff<units::Duration>>>,
    /// For one answer: 2 s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Spanned<units::Duration>>,
    /// Certificates of the authorities that vouch for the server; those of the system by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Spanned<FileText>>,
    /// The member that names the consumer, such as `client_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<Spanned<String>>,
    /// The member that names the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Spanned<String>>,
    /// The member that names the groups: a text, or a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Spanned<String>>,
    /// The member that holds the scopes: `scope` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Spanned<String>>,
    /// The header that holds the token, and nothing else. `Authorization: Bearer …` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<Spanned<HeaderNameText>>,
    /// The cookie that holds the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Spanned<String>>,
    /// The query parameter that holds the token. It shows in logs and histories on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<Spanned<String>>,
}

/// How the gateway proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    Basic,
    Post,
}

pub(super) fn compile(
    config: &Spanned<Config>,
    cx: &mut CompileContext<'_>,
) -> Result<Arc<dyn Method>, Diagnostic> {
    let carrier = super::carried::written(&config.header, &config.cookie, &config.query)?;
    let url: Url = config.url.parse().map_err(|error| {
        let message = format!("`{}` can't be asked: {error}", config.url.escape_debug());
        Diagnostic::error(message, config.url.span()).hint("such as `https://idp.example.com/oauth2/introspect`")
    })?;
    if config.client_id.is_empty() {
        return Err(Diagnostic::error("the id is empty", config.client_id.span())
            .hint("the server gives one to each client"));
    }
    let authorities = match &config.ca {
        None => None,
        Some(ca) if !url.is_tls() => {
            let message = "`ca` has no effect without TLS";
            return Err(Diagnostic::error(message, ca.span()).hint("an `https` URL"));
        }
        Some(ca) => {
            let authorities = Authorities::from_pem(&ca.text);
            let wrong = |error| Diagnostic::error(format!("`ca`: {error}"), ca.span());
            Some(Arc::new(authorities.map_err(wrong)?))
        }
    };
    let naming = Naming {
        consumer: path(&config.consumer)?,
        plan: path(&config.plan)?,
        groups: path(&config.groups)?,
        scopes: path(&config.scopes)?,
    };
    let expected = Expected {
        issuer: config.issuer.as_ref().map(|issuer| issuer.as_str().into()),
        audiences: config.audience.as_ref().map(|audiences| {
            audiences.iter().map(|audience| audience.as_str().into()).collect()
        }),
    };
    let kept = kept(&config.cache, CACHE, CACHE_MAX)?;
    if let Some(negative) = &config.negative_cache
        && kept.is_zero()
        && matches!(**negative, OrOff::On(_))
    {
        let message = "`negative_cache` has no effect with `cache: off`: nothing is kept";
        let hint = "leave it out, or keep what is good too";
        return Err(Diagnostic::error(message, negative.span()).hint(hint));
    }
    let timeout = match &config.timeout {
        Some(written) if written.0.is_zero() || written.0 > TIMEOUT_MAX => {
            let message = format!("`{}` is out of bounds", **written);
            return Err(Diagnostic::error(message, written.span()).hint("from `1ms` to `30s`"));
        }
        written => written.as_ref().map_or(TIMEOUT, |timeout| timeout.0),
    };
    // the word of another server, or to another question, is another
    let shape = ("introspection", url.as_str().to_owned(), config.client_id.as_str().to_owned(), &naming, &expected, kept);
    let state = cx.state(&shape, Known::default);
    let asking = Asking {
        asked: Asked {
            authorities,
            timeout,
            body_bytes_max: ANSWER_BYTES_MAX,
            loopback: false,
            keep: true,
        },
        client: Client::new(&config.client_id, &config.client_secret, config.client_auth),
        outbound: cx.shared(Outbound::default),
        resolver: cx.resolver(url.is_looked_up()),
        url,
    };
    Ok(Arc::new(Introspection {
        carriers: [carrier],
        naming,
        expected,
        kept,
        refused: self::kept(&config.negative_cache, NEGATIVE, NEGATIVE_MAX)?,
        asking,
        state,
        metrics: cx.metrics().introspection(cx.place()),
    }))
}

fn path(written: &Option<Spanned<String>>) -> Result<Option<Box<str>>, Diagnostic> {
    match written {
        Some(text) if text.is_empty() || text.starts_with('.') || text.ends_with('.') => {
            let message = format!("`{}` names no member", text.escape_debug());
            Err(Diagnostic::error(message, text.span()).hint("such as `client_id`"))
        }
        written => Ok(written.as_ref().map(|text| text.as_str().into())),
    }
}

/// How long something is kept; not at all if `off`.
fn kept(
    written: &Option<Spanned<OrOff<units::Duration>>>,
    default: Duration,
    most: Duration,
) -> Result<Duration, Diagnostic> {
    let Some(written) = written else {
        return Ok(default);
    };
    match &**written {
        OrOff::Off => Ok(Duration::ZERO),
        OrOff::On(kept) if !kept.is_zero() && kept.0 <= most => Ok(kept.0),
        OrOff::On(kept) => {
            let message = format!("`{kept}` is out of bounds");
            let hint = format!("at most `{}`, or `off`", units::Duration(most));
            Err(Diagnostic::error(message, written.span()).hint(hint))
        }
    }
}

/// Who the gateway is to the server, ready to be sent.
pub(super) struct Client {
    pub(super) authorization: Option<HeaderValue>,
    /// What follows in the form.
    pub(super) form: Zeroizing<String>,
}

impl Client {
    /// One without a secret (RFC 6749 §2.1).
    pub(super) fn public(id: &str) -> Self {
        let id = utf8_percent_encode(id, FORM);
        Self {
            authorization: None,
            form: Zeroizing::new(format!("&client_id={id}")),
        }
    }

    pub(super) fn new(id: &str, secret: &Secret, how: Option<ClientAuth>) -> Self {
        let form = |text: &str| utf8_percent_encode(text, FORM).to_string();
        let secret = Zeroizing::new(form(secret.expose()));
        match how.unwrap_or(ClientAuth::Basic) {
            // both are encoded before they are joined (RFC 6749 §2.3.1)
            ClientAuth::Basic => {
                let pair = Zeroizing::new(format!("{}:{}", form(id), &*secret));
                let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
                let mut value = HeaderValue::from_str(&value).ok();
                if let Some(value) = &mut value {
                    value.set_sensitive(true);
                }
                Self {
                    authorization: value,
                    form: Zeroizing::default(),
                }
            }
            ClientAuth::Post => Self {
                authorization: None,
                form: Zeroizing::new(format!("&client_id={}&client_secret={}", form(id), &*secret)),
            },
        }
    }
}

/// What was said of tokens. It outlives snapshots.
struct Known {
    words: Cache<Digest, Word>,
    questions: Semaphore,
    /// Seconds since the epoch at which a failure was last told.
    told_at: AtomicU64,
}

impl Known {
    /// Whether a failure is to be told now. While the server is down each token fails, and a line for each would fill
    /// disks.
    fn tells(&self, now: Duration) -> bool {
        let (now, last) = (now.as_secs(), self.told_at.load(Relaxed));
        now.abs_diff(last) >= TOLD_EVERY.as_secs()
            && self.told_at.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }
}

impl Default for Known {
    fn default() -> Self {
        Self {
            words: Cache::new(ENTRIES_MAX),
            questions: Semaphore::new(QUESTIONS_MAX),
            told_at: AtomicU64::new(0),
        }
    }
}

impl Kept for Known {
    fn export(&self) -> Option<serde_json::Value> {
        // the server still knows
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

/// What is known of one token, until then.
#[derive(Clone, Debug)]
struct Word {
    said: Said,
    until: Duration,
}

#[derive(Clone, Debug)]
enum Said {
    Active(Arc<Identity>),
    Refused(Reason),
    /// Nothing could be learnt.
    Nothing,
}

struct Asking {
    url: Url,
    asked: Asked,
    client: Client,
    outbound: Arc<Outbound>,
    resolver: Arc<Resolver>,
}

impl Asking {
    /// What the server answers about a token; the error says for the log why it did not.
    async fn ask(&self, token: &str) -> Result<crate::identity::Claims, String> {
        let token = utf8_percent_encode(token, FORM);
        let body = format!("token={token}&token_type_hint=access_token{}", &*self.client.form);
        let json_form = "application/x-www-form-urlencoded";
        let mut headers = vec![
            (ACCEPT, HeaderValue::from_static("application/json")),
            (CONTENT_TYPE, HeaderValue::from_static(json_form)),
        ];
        headers.extend(self.client.authorization.clone().map(|value| (AUTHORIZATION, value)));
        let question = Question {
            method: HttpMethod::POST,
            headers,
            body: Bytes::from(body),
        };
        let answered = self.outbound.ask(&self.url, question, &self.resolver, &self.asked).await;
        let answered = answered.map_err(|failure| failure.to_string())?;
        match answered.status.as_u16() {
            200 => json::object(&answered.body).ok_or_else(|| "the answer is not a JSON object".into()),
            status => Err(format!("it answered {status}")),
        }
    }
}

struct Introspection {
    carriers: [Carrier; 1],
    naming: Naming,
    expected: Expected,
    kept: Duration,
    refused: Duration,
    asking: Asking,
    state: Arc<Known>,
    metrics: Arc<IntrospectionMetrics>,
}

impl Introspection {
    fn read<'v>(&self, view: View<'v>) -> Carried<'v> {
        let [carrier] = &self.carriers;
        carrier.read(view)
    }

    /// The token, if it can be one.
    fn token<'v>(&self, view: View<'v>) -> Result<std::borrow::Cow<'v, str>, Reason> {
        match self.read(view) {
            Carried::Nothing => Err(Reason::Missing),
            Carried::Several => Err(Reason::Repeated),
            Carried::Unreadable => Err(Reason::IntrospectionMalformed),
            Carried::One(text) if text.len() > TOKEN_BYTES_MAX || !is_token(&text) => {
                Err(Reason::IntrospectionMalformed)
            }
            Carried::One(text) => Ok(text),
        }
    }

    fn known(&self, digest: &Digest, now: Duration) -> Option<Said> {
        let word = self.state.words.get(digest)?;
        if now < word.until {
            return Some(word.said);
        }
        self.state.words.remove(digest);
        None
    }

    async fn learn(&self, token: &str, digest: Digest) -> Said {
        if self.kept.is_zero() {
            // what is not kept can't be shared
            return self.ask(token).await.said;
        }
        let most = self.asking.asked.timeout.saturating_mul(2);
        // whoever shares an answer waits for one question at most, and for its turn
        let shared = self.state.words.get_value_or_guard_async(&digest);
        let learnt = tokio::time::timeout(most, async {
            match shared.await {
                Ok(word) => word.said,
                Err(place) => {
                    let word = self.ask(token).await;
                    let said = word.said.clone();
                    if word.until > since_epoch() {
                        let _ = place.insert(word);
                    }
                    said
                }
            }
        });
        learnt.await.unwrap_or(Said::Nothing)
    }

    async fn ask(&self, token: &str) -> Word {
        let asking = async {
            let turn = self.state.questions.acquire().await;
            let _turn = turn.map_err(|_| "nobody is asked any more".to_owned())?;
            self.asking.ask(token).await
        };
        let answered = tokio::time::timeout(self.asking.asked.timeout, asking).await;
        let answered = answered.unwrap_or_else(|_| Err("no answer in time".into()));
        let now = since_epoch();
        let nothing = |why: &str| {
            match self.state.tells(now) {
                true => {
                    tracing::warn!(url = %self.asking.url, error = why, "a token could not be judged by introspection");
                }
                false => {
                    tracing::debug!(url = %self.asking.url, error = why, "a token could not be judged by introspection");
                }
            }
            self.metrics.introspected(Introspected::Failed);
            Word {
                said: Said::Nothing,
                until: now.saturating_add(FAILED),
            }
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(why) => return nothing(&why),
        };
        match judge(&answer, &self.expected, now) {
            Answer::Broken => nothing("the answer does not say whether the token is active"),
            Answer::Refused(reason) => {
                self.metrics.introspected(Introspected::Inactive);
                Word {
                    said: Said::Refused(reason),
                    until: now.saturating_add(self.refused),
                }
            }
            Answer::Active(ends) => {
                self.metrics.introspected(Introspected::Active);
                let until = now.saturating_add(self.kept);
                let identity = self.naming.identity("introspection", answer, ends);
                Word {
                    said: Said::Active(Arc::new(identity)),
                    until: ends.map_or(until, |ends| until.min(ends)),
                }
            }
        }
    }
}

fn judged(said: Said) -> Result<Accepted, Refusal> {
    match said {
        Said::Active(identity) => Ok(identity.into()),
        Said::Refused(reason) => Err(reason.into()),
        Said::Nothing => {
            let problem = Problem::new(Kind::AuthUnavailable);
            Err(problem.header(RETRY_AFTER, HeaderValue::from_static("1")).into())
        }
    }
}

impl Method for Introspection {
    fn carriers(&self) -> &[Carrier] {
        &self.carriers
    }

    fn is_presented(&self, view: View<'_>) -> bool {
        self.read(view) != Carried::Nothing
    }

    fn judge<'a>(&'a self, view: View<'a>) -> Judgement<'a> {
        let token = match self.token(view) {
            Ok(token) => token,
            Err(reason) => return Judgement::Now(Err(reason.into())),
        };
        let digest = Digest::of(&token);
        if let Some(said) = self.known(&digest, since_epoch()) {
            return Judgement::Now(judged(said));
        }
        Judgement::Later(async move { judged(self.learn(&token, digest).await) }.boxed())
    }

    fn strip(&self, upstream: &mut RequestHeader) {
        let [carrier] = &self.carriers;
        carrier.strip(upstream);
    }

    fn challenge(&self, refused: Reason) -> Option<HeaderValue> {
        Some(bearer(refused))
    }
}
