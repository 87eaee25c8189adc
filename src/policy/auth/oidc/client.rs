//! The gateway as a client of one provider: codes and refresh tokens are redeemed, and what comes is verified.

use super::super::introspection::{self, ClientAuth};
use super::super::jwt::since_epoch;
use super::known::Opened;
use super::random;
use crate::identity::jwt::{Rules, Token, json};
use crate::identity::oidc::FORM;
use crate::identity::oidc::login::Login;
use crate::identity::oidc::session::{Limits, Session};
use crate::identity::oidc::tokens::{Expected, Tokens, check, is_id_token};
use crate::identity::{Claims, Reason};
use crate::issuers::Issuer;
use crate::issuers::metadata::Metadata;
use crate::outbound::Question;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method};
use percent_encoding::utf8_percent_encode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Questions at a time. Those beyond wait, as long as an answer may take.
const QUESTIONS_MAX: usize = 64;

/// How the gateway says who it is.
pub enum Secrets {
    /// It has no secret.
    Public(introspection::Client),
    /// As the configuration says, else as the provider wants it.
    Secret {
        how: Option<ClientAuth>,
        basic: introspection::Client,
        post: introspection::Client,
    },
}

/// See the module.
pub struct Client {
    pub issuer: Arc<Issuer>,
    /// What is asked of id tokens: those of the issuer, for this client.
    pub rules: Rules,
    pub id: Box<str>,
    pub secrets: Secrets,
    pub questions: Semaphore,
}

/// Why there are no tokens.
pub enum Failed {
    /// For this reason; the text is fit for the log.
    Refused(Reason, String),
    /// The provider can't be asked.
    Unavailable(String),
}

impl From<Reason> for Failed {
    fn from(reason: Reason) -> Self {
        Failed::Refused(reason, String::new())
    }
}

impl Client {
    pub fn questions() -> Semaphore {
        Semaphore::new(QUESTIONS_MAX)
    }

    pub fn metadata(&self) -> Option<Arc<Metadata>> {
        self.issuer.published()?.metadata()
    }

    /// Redeems the code of a login.
    pub async fn redeem(
        &self,
        code: &str,
        redirect_uri: &str,
        login: &Login,
        scope: &str,
    ) -> Result<Session, Failed> {
        let form = form(&[
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", &login.verifier),
        ]);
        let tokens = self.ask(form).await?;
        let id_token = tokens.id_token.as_deref().ok_or(Reason::OidcToken)?;
        let nonce = Some(login.nonce.as_str());
        let ends = self.verify(id_token, &tokens.access_token, nonce, None).await?;
        let now = since_epoch();
        let mut session = Session {
            id: random().ok_or_else(|| Failed::Unavailable("the system gives no random numbers".into()))?,
            serial: 0,
            began: now.as_secs(),
            seen: now.as_secs(),
            renew_at: 0,
            ends: 0,
            id_token: id_token.to_owned(),
            refresh_token: tokens.refresh_token,
            scope: tokens.scope.unwrap_or_else(|| scope.to_owned()),
        };
        session.tokens_hold(now, holds(tokens.expires_in, ends, now));
        Ok(session)
    }

    /// Asks for the tokens that follow on those of a session.
    pub async fn renew(&self, session: &Session) -> Result<Session, Failed> {
        let refresh_token = session.refresh_token.as_deref().ok_or(Reason::OidcExpired)?;
        let form = form(&[
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token),
        ]);
        let tokens = self.ask(form).await?;
        let now = since_epoch();
        let mut renewed = session.clone();
        let mut ends = Duration::ZERO;
        if let Some(id_token) = tokens.id_token {
            let subject = claims_of(&session.id_token);
            let subject = subject.as_ref().and_then(|claims| claims.get("sub")?.as_str());
            ends = self.verify(&id_token, &tokens.access_token, None, subject).await?;
            renewed.id_token = id_token;
        }
        renewed.serial = session.serial.saturating_add(1);
        renewed.seen = now.as_secs();
        if tokens.refresh_token.is_some() {
            renewed.refresh_token = tokens.refresh_token;
        }
        if let Some(scope) = tokens.scope {
            renewed.scope = scope;
        }
        // who says nothing of the time means as long as before
        let before = session.ends.saturating_sub(session.renew_at).saturating_mul(4).max(60);
        let seconds = match tokens.expires_in {
            None if ends <= now => before,
            expires_in => holds(expires_in, ends, now),
        };
        renewed.tokens_hold(now, seconds);
        Ok(renewed)
    }

    /// Whether an id token counts, and when it ends.
    async fn verify(
        &self,
        text: &str,
        access_token: &str,
        nonce: Option<&str>,
        subject: Option<&str>,
    ) -> Result<Duration, Failed> {
        let token = Token::parse(text).map_err(Reason::from)?;
        if !is_id_token(&token) {
            return Err(Reason::OidcToken.into());
        }
        let verified = self.issuer.judge(&token, &self.rules, since_epoch()).await;
        let verified = verified.map_err(|refusal| match refusal {
            Some(refusal) => Reason::from(refusal).into(),
            None => Failed::Unavailable("its keys are not known".into()),
        })?;
        let expected = Expected {
            client: &self.id,
            nonce,
            subject,
        };
        check(&verified.claims, token.header.algorithm, access_token, &expected)?;
        Ok(verified.expires)
    }

    /// Who a session is about. Its id token was verified before it was sealed.
    pub fn opened(&self, session: Session, limits: &Limits) -> Option<Opened> {
        let claims = claims_of(&session.id_token)?;
        let ends = match session.refresh_token {
            Some(_) => session.last(limits),
            None => Duration::from_secs(session.ends).min(session.last(limits)),
        };
        let mut identity = self.issuer.naming.identity("oidc", claims, None);
        identity.expires_at = SystemTime::UNIX_EPOCH.checked_add(ends);
        // id tokens say nothing of scopes, unless the configuration knows a claim that does
        if identity.scopes.is_empty() {
            identity.scopes = session.scope.split(' ').filter(|word| !word.is_empty()).map(Into::into).collect();
        }
        Some(Opened {
            session,
            identity: Arc::new(identity),
        })
    }

    async fn ask(&self, form: Zeroizing<String>) -> Result<Tokens, Failed> {
        let unavailable = |why: &str| Failed::Unavailable(why.to_owned());
        let published = self.issuer.published().ok_or_else(|| unavailable("it publishes nothing"))?;
        let metadata = published.metadata().ok_or_else(|| unavailable("its discovery document is not known"))?;
        let url = metadata.token.as_ref().ok_or_else(|| unavailable("it has no `token_endpoint`"))?;
        let client = self.secrets.of(&metadata);
        let mut headers = vec![
            (ACCEPT, HeaderValue::from_static("application/json")),
            (CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded")),
        ];
        headers.extend(client.authorization.clone().map(|value| (AUTHORIZATION, value)));
        let question = Question {
            method: Method::POST,
            headers,
            body: Bytes::from(format!("{}{}", &*form, &*client.form)),
        };
        let asking = async {
            let _turn = self.questions.acquire().await.map_err(|_| unavailable("nobody is asked any more"))?;
            let answered = published.ask_endpoint(url, question, ANSWER_BYTES_MAX).await;
            answered.map_err(|failure| Failed::Unavailable(failure.to_string()))
        };
        let answered = tokio::time::timeout(published.timeout(), asking).await;
        let answered = answered.map_err(|_| unavailable("no answer in time"))??;
        let body = json::object(&answered.body);
        match answered.status.as_u16() {
            200 => {
                let tokens = body.as_ref().and_then(Tokens::of);
                tokens.ok_or_else(|| Failed::Refused(Reason::OidcToken, "it is no answer of a token endpoint".into()))
            }
            status @ 400..=403 => {
                let error = body.as_ref().and_then(|body| body.get("error")?.as_str()).unwrap_or_default();
                match error {
                    // the code or the refresh token counts no more (RFC 6749 §5.2)
                    "invalid_grant" => Err(Failed::Refused(Reason::OidcCode, error.to_owned())),
                    "temporarily_unavailable" | "slow_down" => Err(unavailable(error)),
                    // the gateway is not taken for the client that it says to be: no session ends by that
                    _ => Err(Failed::Unavailable(format!("it answered {status} {}", super::word(error)))),
                }
            }
            status => Err(Failed::Unavailable(format!("it answered {status}"))),
        }
    }
}

impl Secrets {
    fn of(&self, metadata: &Metadata) -> &introspection::Client {
        match self {
            Secrets::Public(client) => client,
            Secrets::Secret { how, basic, post } => {
                let takes = |method: &str| metadata.methods.iter().any(|known| **known == *method);
                match how {
                    Some(ClientAuth::Basic) => basic,
                    Some(ClientAuth::Post) => post,
                    None if !takes("client_secret_basic") && takes("client_secret_post") => post,
                    None => basic,
                }
            }
        }
    }
}

/// For how many seconds tokens hold: as the access token does, else the id token.
fn holds(expires_in: Option<u64>, ends: Duration, now: Duration) -> u64 {
    let left = ends.as_secs().saturating_sub(now.as_secs());
    expires_in.unwrap_or(left).max(1)
}

/// The claims of a token that was verified.
fn claims_of(id_token: &str) -> Option<Claims> {
    Token::parse(id_token).ok()?.claims().ok()
}

fn form(pairs: &[(&str, &str)]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    for (at, (name, value)) in pairs.iter().enumerate() {
        if at > 0 {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        text.extend(utf8_percent_encode(value, FORM));
    }
    text
}
