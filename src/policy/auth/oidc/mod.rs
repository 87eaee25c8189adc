//! `oidc`: a person logs in with a browser, at an identity provider (OpenID Connect Core 1.0, RFC 6749, RFC 7636).
//!
//! ```text
//! browser ── GET /page, no session ──▶ 302 to the provider, and a cookie that remembers the login
//!         ◀─ logs in there ─────────── 302 to `callback`, with a code
//!         ── GET callback ───────────▶ the code is redeemed, the id token verified; 302 to /page, and a session cookie
//!         ── GET /page, session ─────▶ the endpoint, which never sees the cookie
//! ```
//!
//! Only who goes to a page is sent to log in; scripts get 401, and so does everything that is no GET. The session is in
//! the browser's hands alone, sealed with `secrets.cookies` ([`crate::identity::oidc::seal`]), so that every gateway with
//! the same secret can serve it; here, what was opened is remembered for a while (`known`). When the tokens of a
//! session are about to end, one request renews them and the others share what it got. A provider that can't be asked
//! ends no session before its tokens do; one that says that a session is over ends it.
//!
//! ```yaml
//! secrets: {cookies: "${file:/etc/northgate/secrets/cookies}"}
//! issuers: {idp: {issuer: "https://idp.example.com/"}}
//! routes:
//!   app:
//!     match: {host: app.example.com, path: /**}
//!     respond: 204
//!     policies:
//!       auth:
//!         oidc: {issuer: idp, client_id: app, client_secret: "${file:/etc/northgate/secrets/app}"}
//! ```

mod browser;
mod client;
mod config;
mod cookies;
mod known;
mod pages;

pub use config::Config;

use super::jwt::since_epoch;
use super::{Accepted, Carrier, Judgement, Method, Refusal};
use crate::exchange::View;
use crate::exchange::answer::Answer;
use crate::exchange::canonical::{canonical_path, query_pairs};
use crate::identity::Reason;
use crate::identity::oidc::login::{self, Login, Randomness, is_id};
use crate::identity::oidc::seal::{Seal, Use};
use crate::identity::oidc::session::{Limits, Session, Standing};
use crate::identity::oidc::with_query;
use crate::issuers::cache::Digest;
use crate::issuers::metadata::Metadata;
use crate::observe::metrics::{AuthMetrics, LoginEvent, LoginMetrics};
use crate::policy::OwnPath;
use crate::problem::{Kind, Problem};
use browser::{Origin, is_navigation, is_our_own};
use client::{Client, Failed};
use cookies::{Cookies, Found, SameSite};
use futures::FutureExt;
use http::header::{ALLOW, CACHE_CONTROL, LOCATION, RETRY_AFTER, SET_COOKIE};
use http::{HeaderValue, Method as HttpMethod, StatusCode};
use known::{Known, Opened, Renewal};
use pingora_http::RequestHeader;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

pub(super) use config::compile;

/// The most logins of one browser at a time, and what their cookies may weigh together: the field has 16 KiB.
const LOGINS_MAX: usize = 5;
const LOGIN_BYTES_MAX: usize = 4096;

/// The most logins that one answer takes away. A browser has no more, whoever makes up cookies may.
const LOGINS_GONE_MAX: usize = 20;

/// The longest code that is redeemed.
const CODE_BYTES_MAX: usize = 4096;

/// After a renewal for which the provider could not be asked, nobody asks for that session again so long.
const PAUSE: Duration = Duration::from_secs(5);

/// What a login comes back to, where one begins, and where a session ends.
struct Paths {
    callback: Arc<str>,
    login: Option<Arc<str>>,
    logout: Arc<str>,
    own: Box<[OwnPath]>,
}

/// Compiled settings.
struct Rules {
    client: Client,
    cookies: Cookies,
    limits: Limits,
    seal: Seal,
    paths: Paths,
    /// Where the browser believes to be, if that is not what it asks for.
    origin: Option<Origin>,
    /// A path, or a URL.
    after_logout: Option<Box<str>>,
    /// `scope`, and what else is asked for.
    scope: Box<str>,
    parameters: Box<[(Box<str>, Box<str>)]>,
    known: Arc<Known>,
    metrics: Arc<LoginMetrics>,
    refused: Arc<AuthMetrics>,
}

/// See the module.
struct Oidc {
    carriers: [Carrier; 2],
    rules: Arc<Rules>,
}

/// A session as far as it could be judged at once.
enum Judged {
    Good(Accepted),
    Refused(Reason),
    Unavailable,
    /// Its tokens have to be renewed; they still hold, or they do not.
    Renews(Arc<Opened>, bool),
}

impl Rules {
    fn origin(&self, view: View<'_>) -> Option<Cow<'_, Origin>> {
        match &self.origin {
            Some(origin) => Some(Cow::Borrowed(origin)),
            None => Origin::of(view).map(Cow::Owned),
        }
    }

    fn is_secure(&self, view: View<'_>) -> bool {
        match &self.origin {
            Some(origin) => origin.secure,
            None => view.facts.scheme == crate::exchange::Scheme::Https,
        }
    }

    /// The session of a request, opened, and not judged.
    fn opened(&self, view: View<'_>, now: Duration) -> Result<Arc<Opened>, Reason> {
        let text = match self.cookies.session(view, self.is_secure(view)) {
            Found::Nothing => return Err(Reason::Missing),
            Found::Broken => return Err(Reason::OidcSession),
            Found::Text(text) => text,
        };
        let digest = Digest::of(&text);
        if let Some(opened) = self.known.opened.find(&digest, 0, now) {
            return Ok(opened);
        }
        let plain = self.seal.open(Use::Session, &text);
        let session = plain.and_then(|plain| Session::read(&plain));
        let opened = session.and_then(|session| self.client.opened(session, &self.limits));
        let opened = Arc::new(opened.ok_or(Reason::OidcSession)?);
        let until = opened.session.last(&self.limits);
        let bytes = text.len().saturating_mul(3);
        self.known.opened.keep(digest, bytes, opened.clone(), until, 0);
        Ok(opened)
    }

    fn judge_now(&self, view: View<'_>, now: Duration) -> Judged {
        let mut opened = match self.opened(view, now) {
            Ok(opened) => opened,
            Err(reason) => return Judged::Refused(reason),
        };
        let mut told = true;
        let mut paused = false;
        if let Some(turn) = self.known.turn(&opened.session.id) {
            paused = now.as_secs() < turn.paused;
            if let Some(newer) = turn.newer.as_ref().filter(|newer| newer.session.serial > opened.session.serial) {
                (opened, told) = (newer.clone(), false);
            }
            if turn.is_over(opened.session.serial) {
                return Judged::Refused(Reason::OidcEnded);
            }
        }
        if self.client.issuer.revokes(&opened.identity) {
            return Judged::Refused(Reason::JwtRevoked);
        }
        match opened.session.standing(now, &self.limits) {
            Standing::Over(reason) => Judged::Refused(reason),
            Standing::Renewable if !paused => Judged::Renews(opened, true),
            Standing::Lapsed if paused => Judged::Unavailable,
            Standing::Lapsed => Judged::Renews(opened, false),
            Standing::Good | Standing::Renewable => {
                let told = told && !opened.session.is_to_be_seen(now, &self.limits);
                Judged::Good(self.accepted(view, &opened, told, now))
            }
        }
    }

    /// `told`: the browser has the session as it is.
    fn accepted(&self, view: View<'_>, opened: &Opened, told: bool, now: Duration) -> Accepted {
        let mut accepted = Accepted::from(opened.identity.clone());
        if !told {
            let mut session = opened.session.clone();
            session.seen = now.as_secs();
            // one that can't be set any more is good as long as the browser has it
            accepted.set_cookies = self.set(view, &session, now).unwrap_or_default();
        }
        accepted
    }

    /// The cookies that hold a session.
    fn set(&self, view: View<'_>, session: &Session, now: Duration) -> Option<Vec<HeaderValue>> {
        let text = self.seal.seal(Use::Session, &session.write(), random()?)?;
        let left = session.last(&self.limits).saturating_sub(now);
        self.cookies.set_session(view, self.is_secure(view), &text, left)
    }

    async fn judge_later(self: &Arc<Self>, view: View<'_>) -> Result<Accepted, Refusal> {
        let (opened, holds) = match self.judge_now(view, since_epoch()) {
            Judged::Renews(opened, holds) => (opened, holds),
            judged => return self.settle(view, judged),
        };
        let (rules, old) = (self.clone(), opened.clone());
        let renewing = async move { rules.renew(old).await };
        let (renewal, _) = self.known.renewals.join((opened.session.id, opened.session.serial), renewing).await;
        let now = since_epoch();
        match renewal {
            Renewal::Renewed(opened) => Ok(self.accepted(view, &opened, false, now)),
            Renewal::Ended => Err(self.refuse(view, Reason::OidcEnded)),
            Renewal::Failed if holds => Ok(self.accepted(view, &opened, true, now)),
            Renewal::Failed => Err(unavailable()),
        }
    }

    fn settle(&self, view: View<'_>, judged: Judged) -> Result<Accepted, Refusal> {
        match judged {
            Judged::Good(accepted) => Ok(accepted),
            Judged::Refused(reason) => Err(self.refuse(view, reason)),
            Judged::Unavailable | Judged::Renews(..) => Err(unavailable()),
        }
    }

    /// Asks for new tokens. One request does this for a session, and others wait for it.
    async fn renew(&self, opened: Arc<Opened>) -> Renewal {
        let mut turn = self.known.turn(&opened.session.id).unwrap_or_default();
        // whoever comes late finds it done
        if let Some(newer) = turn.newer.take().filter(|newer| newer.session.serial > opened.session.serial) {
            return Renewal::Renewed(newer);
        }
        if turn.is_over(opened.session.serial) {
            return Renewal::Ended;
        }
        match self.client.renew(&opened.session).await {
            Ok(session) => match self.client.opened(session, &self.limits) {
                Some(renewed) => {
                    let renewed = Arc::new(renewed);
                    if !self.known.renewed(&renewed) {
                        // the user has logged out in the meantime
                        return Renewal::Ended;
                    }
                    self.metrics.happened(LoginEvent::Renewed);
                    Renewal::Renewed(renewed)
                }
                None => self.over(&opened),
            },
            Err(Failed::Refused(reason, why)) => {
                tracing::info!(issuer = &*self.client.issuer.name, reason = reason.code(), why, "a session was not renewed");
                self.over(&opened)
            }
            Err(Failed::Unavailable(why)) => {
                tracing::warn!(issuer = &*self.client.issuer.name, error = why, "a session could not be renewed");
                self.metrics.happened(LoginEvent::RenewalFailed);
                self.known.paused(&opened, since_epoch().saturating_add(PAUSE));
                Renewal::Failed
            }
        }
    }

    fn over(&self, opened: &Opened) -> Renewal {
        self.metrics.happened(LoginEvent::RenewalRefused);
        self.known.refused(&opened.session);
        Renewal::Ended
    }

    /// Whose session is none is sent to log in, if it goes to a page.
    fn refuse(&self, view: View<'_>, reason: Reason) -> Refusal {
        if !is_navigation(view) {
            return reason.into();
        }
        self.refused.refused(reason);
        let mut refusal = self.begin(view, asked(view));
        if let Refusal::Answer(answer) = &mut refusal {
            // who does not log in after all is nobody, and not somebody whose session is over
            let gone = self.cookies.remove_session(view, self.is_secure(view));
            answer.headers.extend(gone.into_iter().map(|cookie| (SET_COOKIE, cookie)));
        }
        refusal
    }

    /// Sends a browser to the provider.
    fn begin(&self, view: View<'_>, target: &str) -> Refusal {
        let Some(origin) = self.origin(view) else {
            return self.failed(Reason::OidcClear, "", "logins need https", None);
        };
        let metadata = self.client.metadata();
        let Some((metadata, endpoint)) = metadata.as_deref().and_then(|known| Some((known, known.authorization.as_ref()?))) else {
            return unready();
        };
        if metadata.token.is_none() {
            return unready();
        }
        let now = since_epoch();
        let begun = (|| {
            let randomness = Randomness {
                id: random()?,
                nonce: random()?,
                verifier: random()?,
            };
            let login = Login::begin(target, now, &randomness);
            let sealed = self.seal.seal(Use::Login, &login.write(), random()?)?;
            let cookie = self.cookies.set_login(&login.id, &sealed, origin.secure)?;
            Some((login, sealed.len(), cookie))
        })();
        let Some((login, length, cookie)) = begun else {
            return Problem::new(Kind::Internal).source("the system gives no random numbers").into();
        };
        let (challenge, redirect) = (login.challenge(), self.redirect_uri(&origin));
        let mut parameters = vec![
            ("response_type", "code"),
            ("client_id", &*self.client.id),
            ("redirect_uri", &*redirect),
            ("scope", &*self.scope),
            ("state", &*login.id),
            ("nonce", &*login.nonce),
            ("code_challenge", &*challenge),
            ("code_challenge_method", "S256"),
        ];
        parameters.extend(self.parameters.iter().map(|(name, value)| (&**name, &**value)));
        let Ok(location) = HeaderValue::try_from(with_query(endpoint.as_str(), &parameters)) else {
            return unready();
        };
        self.metrics.happened(LoginEvent::Begun);
        let mut answer = redirect_to(location).header(SET_COOKIE, cookie);
        for id in self.too_many(view, origin.secure, length) {
            answer.headers.extend(self.cookies.remove_login(id, origin.secure).map(|cookie| (SET_COOKIE, cookie)));
        }
        Refusal::Answer(Box::new(answer))
    }

    /// The logins that go to make room for another of that length: those that are none any more, and the oldest.
    fn too_many<'v>(&'v self, view: View<'v>, secure: bool, length: usize) -> Vec<&'v str> {
        let mut logins: Vec<(u64, &str, usize)> = self
            .cookies
            .logins(view, secure)
            .map(|(id, text)| {
                let login = self.login(text).filter(|login| login.is_open(since_epoch()));
                (login.map_or(0, |login| login.began), id, text.len())
            })
            .collect();
        logins.sort_unstable();
        let mut count = logins.len();
        let mut bytes = logins.iter().map(|(.., length)| length).sum::<usize>().saturating_add(length);
        let mut gone = Vec::new();
        for (began, id, length) in logins {
            if gone.len() >= LOGINS_GONE_MAX || began > 0 && count < LOGINS_MAX && bytes <= LOGIN_BYTES_MAX {
                break;
            }
            gone.push(id);
            count -= 1;
            bytes = bytes.saturating_sub(length);
        }
        gone
    }

    fn login(&self, text: &str) -> Option<Login> {
        Login::read(&self.seal.open(Use::Login, text)?)
    }

    fn redirect_uri(&self, origin: &Origin) -> String {
        format!("{}{}", origin.text, self.paths.callback)
    }

    /// Takes a login back.
    async fn finish(&self, view: View<'_>) -> Refusal {
        let Some(origin) = self.origin(view) else {
            return self.failed(Reason::OidcClear, "", "logins need https", None);
        };
        let returned = Returned::of(view);
        let id = returned.as_ref().and_then(|returned| returned.state.as_deref()).unwrap_or_default();
        let now = since_epoch();
        // the cookie of that name, once, and what is in it is that login
        let mut cookies = self.cookies.logins(view, origin.secure).filter(|(known, _)| *known == id);
        let (first, second) = (cookies.next(), cookies.next());
        let login = first.filter(|_| second.is_none()).and_then(|(_, text)| self.login(text));
        let login = login.filter(|login| login.id == id && login.is_open(now));
        let (Some(returned), Some(login)) = (returned, login) else {
            let why = "this browser has not begun this login, or has finished it already; go to the page once more";
            return self.failed(Reason::OidcState, "", why, None);
        };
        let forget = self.cookies.remove_login(&login.id, origin.secure);
        let metadata = match self.client.metadata() {
            Some(metadata) => metadata,
            None => return unready(),
        };
        let issuer = &*self.client.issuer.rules.issuer;
        let is_named = match &returned.issuer {
            Some(named) => **named == *issuer,
            None => !metadata.names_itself,
        };
        if !is_named {
            return self.failed(Reason::OidcIssuer, "", "the answer is another provider's", forget);
        }
        let code = match (returned.error, returned.code) {
            (Some(error), _) => {
                let why = match &*error {
                    "access_denied" => "the identity provider says that access was denied, or that the user declined",
                    "login_required" | "interaction_required" | "consent_required" => "the identity provider needs the user for it",
                    "temporarily_unavailable" | "server_error" => "the identity provider can't do it now",
                    _ => "the identity provider answered with an error",
                };
                return self.failed(Reason::OidcDenied, &word(&error), why, forget);
            }
            (None, Some(code)) => code,
            (None, None) => return self.failed(Reason::OidcState, "", "the answer has no code", forget),
        };
        let redirect = self.redirect_uri(&origin);
        let session = match self.client.redeem(&code, &redirect, &login, &self.scope).await {
            Ok(session) => session,
            Err(Failed::Refused(reason, why)) => {
                return self.failed(reason, &why, "the identity provider's answer can't be used; go to the page once more", forget);
            }
            Err(Failed::Unavailable(why)) => {
                tracing::warn!(issuer = &*self.client.issuer.name, error = why, "a login could not be finished");
                self.metrics.happened(LoginEvent::Failed);
                return unavailable();
            }
        };
        let Some(set) = self.set(view, &session, now) else {
            return self.failed(Reason::OidcTooLarge, "", "the identity provider says too much", forget);
        };
        self.metrics.happened(LoginEvent::Finished);
        let target = format!("{}{}", origin.text, self.target(&login.target));
        let mut answer = match (self.cookies.same_site, HeaderValue::try_from(&*target)) {
            (SameSite::Lax, Ok(location)) => redirect_to(location),
            // a redirect would go on as that of another site, without the cookie
            _ => pages::onward(&target),
        };
        let cookies = set.into_iter().chain(forget);
        answer.headers.extend(cookies.map(|cookie| (SET_COOKIE, cookie)));
        Refusal::Answer(Box::new(answer))
    }

    /// A login that does not count.
    fn failed(&self, reason: Reason, more: &str, why: &'static str, forget: Option<HeaderValue>) -> Refusal {
        self.metrics.happened(LoginEvent::Failed);
        self.refused.refused(reason);
        let source = match more {
            "" => reason.code().to_owned(),
            more => format!("{}: {more}", reason.code()),
        };
        let problem = Problem::new(Kind::AuthLogin).detail(why).source(source);
        match forget {
            Some(cookie) => problem.header(SET_COOKIE, cookie).into(),
            None => problem.into(),
        }
    }

    /// Ends a session, here and at the provider, if it is the user who wants that.
    fn log_out(&self, view: View<'_>) -> Refusal {
        let Some(origin) = self.origin(view) else {
            return self.failed(Reason::OidcClear, "", "logins need https", None);
        };
        if !is_our_own(view, &origin) {
            // another site may have sent the browser here: the user decides
            return Refusal::Answer(Box::new(pages::confirm_logout(&self.paths.logout)));
        }
        let opened = self.opened(view, since_epoch()).ok();
        if let Some(opened) = &opened {
            self.known.logged_out(&opened.session);
            self.metrics.happened(LoginEvent::LoggedOut);
        }
        let after = self.after_logout.as_deref().map(|after| match after.starts_with('/') {
            true => format!("{}{after}", origin.text),
            false => after.to_owned(),
        });
        let metadata = self.client.metadata();
        let at_provider = metadata.as_deref().and_then(|metadata: &Metadata| metadata.end_session.as_ref());
        let location = match (at_provider, &after) {
            (Some(endpoint), after) => {
                let mut parameters = vec![("client_id", &*self.client.id)];
                parameters.extend(opened.as_ref().map(|opened| ("id_token_hint", opened.session.id_token.as_str())));
                parameters.extend(after.as_ref().map(|after| ("post_logout_redirect_uri", after.as_str())));
                Some(with_query(endpoint.as_str(), &parameters))
            }
            (None, Some(after)) => Some(after.clone()),
            (None, None) => None,
        };
        let location = location.and_then(|location| HeaderValue::try_from(location).ok());
        let mut answer = match location {
            Some(location) => Answer::empty(StatusCode::SEE_OTHER)
                .header(LOCATION, location)
                .header(CACHE_CONTROL, HeaderValue::from_static("no-store")),
            None => pages::logged_out(),
        };
        let cookies = self.cookies.remove_session(view, origin.secure);
        answer.headers.extend(cookies.into_iter().map(|cookie| (SET_COOKIE, cookie)));
        Refusal::Answer(Box::new(answer))
    }

    /// Where a login leads to: no path of its own, which would do as a page of ours what some other site's link says, such
    /// as to log out.
    fn target<'t>(&self, written: &'t str) -> &'t str {
        let target = login::target(written);
        let path = target.split(['?', '#']).next().unwrap_or(target);
        match canonical_path(path) {
            Ok(path) if self.own_path(&path.text).is_none() => target,
            _ => "/",
        }
    }

    /// Which of the own paths a request is for.
    fn own(&self, view: View<'_>) -> Option<Own> {
        self.own_path(view.request.uri.path())
    }

    fn own_path(&self, path: &str) -> Option<Own> {
        let is = |own: &str| *path == *own;
        match () {
            () if is(&self.paths.callback) => Some(Own::Callback),
            () if is(&self.paths.logout) => Some(Own::Logout),
            () if self.paths.login.as_deref().is_some_and(is) => Some(Own::Login),
            () => None,
        }
    }
}

/// A request that is for the method itself.
#[derive(Clone, Copy)]
enum Own {
    Callback,
    Login,
    Logout,
}

/// What a provider sends back with the browser.
struct Returned<'v> {
    state: Option<Cow<'v, str>>,
    code: Option<Cow<'v, str>>,
    issuer: Option<Cow<'v, str>>,
    error: Option<Cow<'v, str>>,
}

impl<'v> Returned<'v> {
    /// None if anything that counts stands there twice, or is too long to be right (RFC 6749 §3.1).
    fn of(view: View<'v>) -> Option<Self> {
        let mut returned = Self {
            state: None,
            code: None,
            issuer: None,
            error: None,
        };
        for (name, value) in query_pairs(view.request.uri.query()) {
            let place = match &*name {
                "state" => &mut returned.state,
                "code" => &mut returned.code,
                "iss" => &mut returned.issuer,
                "error" => &mut returned.error,
                _ => continue,
            };
            if place.is_some() || value.len() > CODE_BYTES_MAX {
                return None;
            }
            *place = Some(value);
        }
        returned.state.as_deref().is_some_and(is_id).then_some(returned)
    }
}

/// What was asked for, to return there.
fn asked(view: View<'_>) -> &str {
    view.request.uri.path_and_query().map_or("/", |target| target.as_str())
}

/// A word of somebody else's that may stand in a log: what error codes are made of, and no more of it.
fn word(text: &str) -> String {
    let letters = text.chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '_');
    letters.take(40).collect()
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(bytes)
}

fn redirect_to(location: HeaderValue) -> Answer {
    Answer::empty(StatusCode::FOUND)
        .header(LOCATION, location)
        .header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

/// The provider can't be asked.
fn unavailable() -> Refusal {
    let problem = Problem::new(Kind::AuthUnavailable);
    problem.header(RETRY_AFTER, HeaderValue::from_static("5")).into()
}

/// Nobody knows yet where to log in.
fn unready() -> Refusal {
    let problem = Problem::new(Kind::UnreadyKeys).source("the identity provider's discovery document is not known, or says nothing of logins");
    problem.header(RETRY_AFTER, HeaderValue::from_static("5")).into()
}

impl Method for Oidc {
    fn carriers(&self) -> &[Carrier] {
        &self.carriers
    }

    fn is_presented(&self, view: View<'_>) -> bool {
        self.rules.cookies.is_presented(view, self.rules.is_secure(view))
    }

    fn judge<'a>(&'a self, view: View<'a>) -> Judgement<'a> {
        let rules = &self.rules;
        let method = &view.request.method;
        let reads = matches!(*method, HttpMethod::GET | HttpMethod::HEAD);
        let only = |allowed| {
            let problem = Problem::new(Kind::RouteMethod).header(ALLOW, HeaderValue::from_static(allowed));
            Judgement::Now(Err(problem.into()))
        };
        match rules.own(view) {
            Some(Own::Callback) if *method != HttpMethod::GET => return only("GET"),
            Some(Own::Callback) => {
                return Judgement::Later(async move { Err(rules.finish(view).await) }.boxed());
            }
            Some(Own::Login) if !reads => return only("GET, HEAD"),
            Some(Own::Login) => {
                let to = query_pairs(view.request.uri.query()).find(|(name, _)| name == "to");
                let target = to.map_or(Cow::Borrowed("/"), |(_, target)| target);
                return Judgement::Now(Err(rules.begin(view, &target)));
            }
            Some(Own::Logout) if *method != HttpMethod::GET && *method != HttpMethod::POST => return only("GET, POST"),
            Some(Own::Logout) => return Judgement::Now(Err(rules.log_out(view))),
            None => {}
        }
        match rules.judge_now(view, since_epoch()) {
            Judged::Renews(..) => Judgement::Later(rules.judge_later(view).boxed()),
            judged => Judgement::Now(rules.settle(view, judged)),
        }
    }

    fn owns(&self, view: View<'_>) -> bool {
        self.rules.own(view).is_some()
    }

    fn invite(&self, view: View<'_>) -> Option<Refusal> {
        is_navigation(view).then(|| self.rules.begin(view, asked(view)))
    }

    fn paths(&self) -> &[OwnPath] {
        &self.rules.paths.own
    }

    fn is_stripped(&self, view: View<'_>) -> bool {
        self.rules.cookies.any(view)
    }

    fn strip(&self, upstream: &mut RequestHeader) {
        self.rules.cookies.strip(upstream);
    }

    fn challenge(&self, _: Reason) -> Option<HeaderValue> {
        // a 401 has to say something (RFC 9110 §15.5.2), and what a browser needs is a page to go to
        Some(HeaderValue::from_static("Cookie realm=\"browser\""))
    }
}
