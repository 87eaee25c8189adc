//! The settings of `oidc`, and what is wrong with them.

use super::super::introspection::{self, ClientAuth};
use super::super::{Carrier, Method};
use super::browser::{Origin, is_local};
use super::client::{Client, Secrets};
use super::cookies::{Cookies, SameSite};
use super::known::Known;
use super::{Oidc, Paths, Rules};
use crate::diagnostic::Diagnostic;
use crate::identity::jwt;
use crate::identity::oidc::login;
use crate::identity::oidc::seal::Seal;
use crate::identity::oidc::session::Limits;
use crate::outbound::Url;
use crate::policy::{CompileContext, OwnPath};
use crate::units::{self, Name, OneOrMany, OrOff, Secret, Span, Spanned};
use http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const CALLBACK: &str = "/oauth2/callback";
const LOGOUT: &str = "/oauth2/logout";
const COOKIE: &str = "northgate-session";
const LIFETIME: Duration = Duration::from_secs(8 * 3600);
const LIFETIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const IDLE: Duration = Duration::from_secs(3600);

/// What the gateway asks for itself.
const OURS: &[&str] = &[
    "response_type", "response_mode", "client_id", "client_secret", "redirect_uri", "scope", "state", "nonce",
    "code_challenge", "code_challenge_method", "request", "request_uri",
];

/// The settings of `oidc`, which are many.
pub type Config = Box<Settings>;

/// The provider, who the gateway is to it, and for how long people stay logged in.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "OidcMethod")]
pub struct Settings {
    /// The provider: the name of an issuer that is found by its own URL.
    pub issuer: Spanned<Name>,
    /// Who the gateway is to the provider. Id tokens have to be for it.
    pub client_id: Spanned<String>,
    /// Its secret. Without one it is a public client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Spanned<Secret>>,
    /// How the secret is sent: `basic`, or `post`, in the form. By default as the provider says that it takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<Spanned<ClientAuth>>,
    /// What is asked for: `openid` by default. With `offline_access`, many providers give what sessions are renewed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Spanned<OneOrMany<Spanned<String>>>>,
    /// Further parameters of the request that the browser takes to the provider, such as `prompt` or `audience`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, Spanned<String>>,
    /// What browsers see as the origin, such as `https://app.example.com`. By default the one that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Spanned<String>>,
    /// The path that the provider sends browsers back to: `/oauth2/callback` by default. The provider has to know it, as
    /// a whole URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<Spanned<String>>,
    /// A path that sends browsers to log in, and then to what `to` says in its query. None by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Spanned<String>>,
    /// The path that ends a session: `/oauth2/logout` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logout: Option<Spanned<String>>,
    /// Where browsers go after that: a path, or a URL. If the provider has a logout of its own, it has to know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_logout: Option<Spanned<String>>,
    /// The session, which the browser keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionSettings>,
}

/// The session, which the browser keeps.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "OidcSession")]
pub struct SessionSettings {
    /// The cookie: `northgate-session` by default, with `__Host-` before it over TLS. Two clients on one host need two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Spanned<String>>,
    /// How long it may last in all: 8 h by default, 30 d at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Spanned<units::Duration>>,
    /// How long it lasts without a request: 1 h by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Spanned<OrOff<units::Duration>>>,
    /// Whether it comes along when another site leads here: `lax` by default, which it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_site: Option<Site>,
}

/// Whether a cookie comes along when another site leads here (RFC 6265bis §5.5.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "OidcSameSite")]
pub enum Site {
    Lax,
    Strict,
}

pub(in super::super) fn compile(
    config: &Spanned<Config>,
    cx: &mut CompileContext<'_>,
) -> Result<Arc<dyn Method>, Diagnostic> {
    let issuer = cx.issuer(&config.issuer)?;
    if config.client_id.is_empty() {
        let hint = "the provider gives one to each client";
        return Err(Diagnostic::error("the id is empty", config.client_id.span()).hint(hint));
    }
    let secrets = secrets(config)?;
    let scope = scope(config)?;
    let parameters = parameters(config)?;
    let origin = origin(config)?;
    let mut paths = paths(config)?;
    let after_logout = after_logout(config)?;
    let (cookie, limits, same_site) = session(config)?;
    let sealed_with = cx.cookie_secrets(config.span());
    let (Some(issuer), Some(sealed_with)) = (issuer, sealed_with) else {
        // what is wrong with them is said at their places
        return Ok(Arc::new(Nobody));
    };
    if !issuer.published().is_some_and(|published| published.is_discovered()) {
        let message = format!("nobody knows where to log in: issuer `{}` is not found by its own URL", issuer.name);
        let hint = "leave `key`, `jwks_url` and `jwks_file` out of it, so that its discovery document is asked for";
        return Err(Diagnostic::error(message, config.issuer.span()).hint(hint));
    }
    // the browser's cookies count for the same client in all policies, and for no other
    let bound = [&*issuer.rules.issuer, config.client_id.as_str(), &*cookie];
    let whose: Arc<str> = format!("{bound:?}").into();
    for own in &mut paths.own {
        own.whose = whose.clone();
    }
    let seal = Seal::new(sealed_with.iter().map(|secret| &***secret), &bound);
    // what was opened says what its issuer's claims mean
    let shape = format!("oidc {:?} {bound:?} {:?} {limits:?}", seal.fingerprint(), issuer.naming);
    let known = cx.shared_as(&shape, Known::default);
    let cookies = Cookies::new(&cookie, same_site);
    let carriers = cookies.names().map(|name| Carrier::Cookie(name.into()));
    let rules = jwt::Rules {
        audiences: [config.client_id.as_str().into()].into(),
        kinds: None,
        ..issuer.rules.clone()
    };
    Ok(Arc::new(Oidc {
        carriers,
        rules: Arc::new(Rules {
            client: Client {
                issuer,
                rules,
                id: config.client_id.as_str().into(),
                secrets,
                questions: Client::questions(),
            },
            cookies,
            limits,
            seal,
            paths,
            origin,
            after_logout,
            scope,
            parameters,
            known,
            metrics: cx.metrics().logins(cx.place()),
            refused: cx.metrics().auth().clone(),
        }),
    }))
}

fn secrets(config: &Settings) -> Result<Secrets, Diagnostic> {
    let id = config.client_id.as_str();
    match (&config.client_secret, &config.client_auth) {
        (None, None) => Ok(Secrets::Public(introspection::Client::public(id))),
        (None, Some(how)) => {
            let message = "`client_auth` has no effect without `client_secret`";
            Err(Diagnostic::error(message, how.span()).hint("a public client has nothing to send"))
        }
        (Some(secret), how) => Ok(Secrets::Secret {
            how: how.as_deref().copied(),
            basic: introspection::Client::new(id, secret, Some(ClientAuth::Basic)),
            post: introspection::Client::new(id, secret, Some(ClientAuth::Post)),
        }),
    }
}

fn scope(config: &Settings) -> Result<Box<str>, Diagnostic> {
    let Some(scopes) = &config.scopes else {
        return Ok("openid".into());
    };
    // RFC 6749 §3.3
    let is_scope = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte));
    for scope in scopes.iter() {
        if !is_scope(scope) {
            let message = format!("`{}` is no scope", scope.escape_debug());
            return Err(Diagnostic::error(message, scope.span()).hint("one word each: `[openid, email]`"));
        }
    }
    if scopes.iter().all(|scope| scope.as_str() != "openid") {
        let message = "without `openid` the provider says nothing of who logs in";
        return Err(Diagnostic::error(message, scopes.span()).hint("such as `[openid, email]`"));
    }
    let words: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    Ok(words.join(" ").into())
}

type Parameters = Box<[(Box<str>, Box<str>)]>;

fn parameters(config: &Settings) -> Result<Parameters, Diagnostic> {
    for (name, value) in &config.parameters {
        if OURS.contains(&name.as_str()) {
            let message = format!("`{name}` is the gateway's to say");
            let hint = "what else a provider takes, such as `prompt: select_account`";
            return Err(Diagnostic::error(message, value.span()).hint(hint));
        }
    }
    let all = config.parameters.iter();
    Ok(all.map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect())
}

fn origin(config: &Settings) -> Result<Option<Origin>, Diagnostic> {
    let Some(written) = &config.origin else {
        return Ok(None);
    };
    let wrong = |message: String| Err(Diagnostic::error(message, written.span()).hint("such as `https://app.example.com`"));
    let uri = written.parse::<Uri>().ok();
    let parts = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)));
    match parts {
        Some((scheme @ ("https" | "http"), authority))
            if **written == format!("{scheme}://{}", authority.as_str().to_ascii_lowercase())
                && !authority.as_str().contains('@') =>
        {
            if scheme == "http" && !is_local(authority.host()) {
                return wrong(format!("`{}`: in clear, sessions would be anybody's", **written));
            }
            Ok(Some(Origin {
                text: written.as_str().into(),
                secure: scheme == "https",
            }))
        }
        _ => wrong(format!("`{}` is no origin", written.escape_debug())),
    }
}

fn paths(config: &Spanned<Config>) -> Result<Paths, Diagnostic> {
    let written = [
        ("callback", &config.callback, Some(CALLBACK)),
        ("logout", &config.logout, Some(LOGOUT)),
        ("login", &config.login, None),
    ];
    let mut own: Vec<OwnPath> = Vec::new();
    for (setting, written, usual) in written {
        let (text, at) = match (written, usual) {
            (Some(written), _) => (written.as_str(), written.span()),
            (None, Some(usual)) => (usual, config.issuer.span()),
            (None, None) => continue,
        };
        check_path(text, at)?;
        if own.iter().any(|known| *known.path == *text) {
            let message = format!("`{text}` is one path for two things");
            return Err(Diagnostic::error(message, at).hint("`callback`, `login` and `logout` have paths of their own"));
        }
        own.push(OwnPath {
            setting,
            path: text.into(),
            whose: "".into(),
            at,
        });
    }
    let of = |setting: &str| own.iter().find(|path| path.setting == setting).map(|path| path.path.clone());
    Ok(Paths {
        callback: of("callback").unwrap_or_else(|| CALLBACK.into()),
        login: of("login"),
        logout: of("logout").unwrap_or_else(|| LOGOUT.into()),
        own: own.into(),
    })
}

/// A path as a canonical request has it, letter for letter.
fn check_path(text: &str, at: Span) -> Result<(), Diagnostic> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let dots = text.split('/').any(|segment| matches!(segment, "." | ".."));
    if login::target(text) == text && text.len() > 1 && text.bytes().all(plain) && !text.contains("//") && !dots {
        return Ok(());
    }
    let message = format!("`{}` can't be a path of the gateway's own", text.escape_debug());
    Err(Diagnostic::error(message, at).hint("one path, of letters, digits, `-`, `.`, `_` and `~`, such as `/oauth2/callback`"))
}

fn after_logout(config: &Settings) -> Result<Option<Box<str>>, Diagnostic> {
    let Some(written) = &config.after_logout else {
        return Ok(None);
    };
    let is_path = written.starts_with('/') && login::target(written) == written.as_str();
    if is_path || written.parse::<Url>().is_ok() {
        return Ok(Some(written.as_str().into()));
    }
    let message = format!("`{}` is neither a path nor a URL that browsers are sent to", written.escape_debug());
    Err(Diagnostic::error(message, written.span()).hint("such as `/goodbye`, or `https://example.com/`"))
}

fn session(config: &Settings) -> Result<(Box<str>, Limits, SameSite), Diagnostic> {
    let usual = SessionSettings::default();
    let written = config.session.as_ref().unwrap_or(&usual);
    let cookie = match &written.cookie {
        None => COOKIE.into(),
        Some(name) => cookie(name)?,
    };
    let bounded = |time: &Spanned<units::Duration>, most: Duration| match time.0 {
        time if time >= Duration::from_secs(1) && time <= most => Ok(time),
        _ => {
            let message = format!("`{}` is out of bounds", **time);
            let hint = format!("from `1s` to `{}`", units::Duration(most));
            Err(Diagnostic::error(message, time.span()).hint(hint))
        }
    };
    let lifetime = match &written.lifetime {
        None => LIFETIME,
        Some(time) => bounded(time, LIFETIME_MAX)?,
    };
    let idle = match &written.idle {
        // a session that is over by then has no need of it
        None => Some(IDLE).filter(|idle| *idle < lifetime),
        Some(written) => match &**written {
            OrOff::Off => None,
            OrOff::On(idle) => Some(bounded(&Spanned::new(*idle, written.span()), lifetime)?),
        },
    };
    let same_site = match written.same_site {
        None | Some(Site::Lax) => SameSite::Lax,
        Some(Site::Strict) => SameSite::Strict,
    };
    Ok((cookie, Limits { lifetime, idle }, same_site))
}

fn cookie(name: &Spanned<String>) -> Result<Box<str>, Diagnostic> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if name.starts_with("__") {
        let message = format!("`{}` begins like what browsers treat in their own way", name.escape_debug());
        return Err(Diagnostic::error(message, name.span()).hint("over TLS, `__Host-` is put before it"));
    }
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        let message = format!("`{}` can't be the name of a session", name.escape_debug());
        return Err(Diagnostic::error(message, name.span()).hint("letters, digits, `-` and `_`, 64 of them at most"));
    }
    Ok(name.as_str().into())
}

/// Stands in for a method with errors that are reported elsewhere; it is never used.
struct Nobody;

impl Method for Nobody {
    fn carriers(&self) -> &[Carrier] {
        &[]
    }

    fn is_presented(&self, _: crate::exchange::View<'_>) -> bool {
        false
    }

    fn judge<'a>(&'a self, _: crate::exchange::View<'a>) -> super::Judgement<'a> {
        super::Judgement::Now(Err(crate::identity::Reason::Missing.into()))
    }

    fn strip(&self, _: &mut pingora_http::RequestHeader) {}

    fn challenge(&self, _: crate::identity::Reason) -> Option<http::HeaderValue> {
        None
    }
}
