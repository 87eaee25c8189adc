//! `jwt`: bearer tokens that an issuer signed (RFC 7519, RFC 6750, RFC 9068).
//!
//! The token stands in `Authorization: Bearer …`, or in one other place if that is said. Of several issuers, its `iss`
//! chooses one, and then only that one's keys and rules count. A token that was verified before is found by its digest.
//! One whose key is unknown waits, a bounded time, for the one fetch that may bring it; see [`crate::issuers::keys`].
//!
//! ```yaml
//! issuers:
//!   idp: {issuer: "https://idp.example.com/", audience: orders}
//!   old: {issuer: "https://old.example.com/", audience: orders, jwks_url: "https://old.example.com/keys"}
//! policies:
//!   auth: {jwt: [idp, old]}
//! routes:
//!   events: {match: {path: /events}, respond: 204, policies: {auth: {jwt: {issuer: idp, query: access_token}}}}
//! ```

use super::carried::Carried;
use super::{Carrier, Judgement, Method, Refusal};
use crate::diagnostic::Diagnostic;
use crate::exchange::View;
use crate::identity::jwt::{TOKEN_BYTES_MAX, Token};
use crate::identity::{Identity, Reason};
use crate::issuers::cache::Digest;
use crate::issuers::{Issuer, Verdict};
use crate::policy::CompileContext;
use crate::problem::{Kind, Problem};
use crate::units::{HeaderNameText, Name, OneOrMany, Spanned};
use futures::FutureExt;
use http::HeaderValue;
use http::header::RETRY_AFTER;
use pingora_http::RequestHeader;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Which issuers, and where the token stands. Short form: the issuers.
#[derive(Debug, Serialize)]
pub struct Config {
    issuer: OneOrMany<Spanned<Name>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<Spanned<HeaderNameText>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie: Option<Spanned<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<Spanned<String>>,
}

/// Which issuers, and where the token stands.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "JwtFields")]
struct Fields {
    /// The names of issuers. Of several, the `iss` of the token chooses.
    issuer: OneOrMany<Spanned<Name>>,
    /// The header that holds the token, and nothing else. `Authorization: Bearer …` by default.
    #[serde(default)]
    header: Option<Spanned<HeaderNameText>>,
    /// The cookie that holds the token.
    #[serde(default)]
    cookie: Option<Spanned<String>>,
    /// The query parameter that holds the token. It shows in logs and histories on its way.
    #[serde(default)]
    query: Option<Spanned<String>>,
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Config;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an issuer, a list of them, or `{issuer, header, cookie, query}`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Config, E> {
                let name = Name::deserialize(StrDeserializer::new(text))?;
                Ok(of(OneOrMany(vec![name.into()])))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Config, A::Error> {
                let list = Vec::deserialize(SeqAccessDeserializer::new(list))?;
                match list.is_empty() {
                    true => Err(A::Error::custom("an empty list names no issuer")),
                    false => Ok(of(OneOrMany(list))),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Config, A::Error> {
                let fields = Fields::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Config {
                    issuer: fields.issuer,
                    header: fields.header,
                    cookie: fields.cookie,
                    query: fields.query,
                })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

fn of(issuer: OneOrMany<Spanned<Name>>) -> Config {
    Config {
        issuer,
        header: None,
        cookie: None,
        query: None,
    }
}

impl JsonSchema for Config {
    fn schema_name() -> Cow<'static, str> {
        "JwtMethod".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = generator.subschema_for::<OneOrMany<Name>>();
        let long = generator.subschema_for::<Fields>();
        schemars::json_schema!({"anyOf": [short, long]})
    }
}

pub(super) fn compile(
    config: &Spanned<Config>,
    cx: &mut CompileContext<'_>,
) -> Result<Arc<dyn Method>, Diagnostic> {
    let carrier = super::carried::written(&config.header, &config.cookie, &config.query);
    let mut issuers: Vec<Arc<Issuer>> = Vec::new();
    for name in config.issuer.iter() {
        let at = if name.span().is_known() { name.span() } else { config.span() };
        cx.takes_tokens_of(name.as_str());
        let Some(issuer) = cx.issuer(&Spanned::new(name.value().clone(), at))? else {
            // what is wrong with it is said at its place
            continue;
        };
        if issuer.rules.audiences.is_empty() {
            let message = format!("issuer `{}` has no `audience`, and its tokens could be for anybody", issuer.name);
            return Err(Diagnostic::error(message, at).hint("write what `aud` must be, in the issuer: `audience: orders`"));
        }
        let alike = issuers.iter().find(|known| known.rules.issuer == issuer.rules.issuer);
        if let Some(alike) = alike {
            let message = match alike.name == issuer.name {
                true => format!("issuer `{}` is named twice", issuer.name),
                false => format!("issuers `{}` and `{}` have the same `issuer`, by which a token would choose", alike.name, issuer.name),
            };
            return Err(Diagnostic::error(message, at).hint("name one of them"));
        }
        issuers.push(issuer);
    }
    Ok(Arc::new(Jwt {
        carriers: [carrier?],
        issuers,
    }))
}

struct Jwt {
    carriers: [Carrier; 1],
    /// No two of them have the same `iss`.
    issuers: Vec<Arc<Issuer>>,
}

/// A token as far as it could be judged at once.
enum Judged {
    Accepted(Arc<Identity>),
    Refused(Reason),
    Unready,
    /// It has to wait for newer keys of this issuer.
    Waits(Arc<Issuer>, Reason),
}

impl Jwt {
    fn read<'v>(&self, view: View<'v>) -> Carried<'v> {
        let [carrier] = &self.carriers;
        carrier.read(view)
    }

    fn judge_now(&self, view: View<'_>) -> Judged {
        match self.read(view) {
            Carried::Nothing => Judged::Refused(Reason::Missing),
            Carried::Several => Judged::Refused(Reason::Repeated),
            Carried::Unreadable => Judged::Refused(Reason::JwtMalformed),
            Carried::One(text) => self.verify(&text, since_epoch()),
        }
    }

    fn verify(&self, text: &str, now: Duration) -> Judged {
        if text.len() > TOKEN_BYTES_MAX {
            return Judged::Refused(Reason::JwtTooLong);
        }
        let digest = Digest::of(text);
        let known = self.issuers.iter().find_map(|issuer| issuer.known(&digest, now));
        if let Some(identity) = known {
            return Judged::Accepted(identity);
        }
        let (token, issuer) = match self.of(text) {
            Ok(found) => found,
            Err(reason) => return Judged::Refused(reason),
        };
        match issuer.verify(text, &token, digest, now) {
            Verdict::Accepted(identity) => Judged::Accepted(identity),
            Verdict::Refused(refusal) => Judged::Refused(refusal.into()),
            Verdict::MaybeNewer(refusal) => Judged::Waits(issuer.clone(), refusal.into()),
            Verdict::Unready => Judged::Unready,
        }
    }

    /// The token, and the issuer that it says it is of: the only one whose rules count for it.
    fn of<'t>(&self, text: &'t str) -> Result<(Token<'t>, &Arc<Issuer>), Reason> {
        let token = Token::parse(text)?;
        let chosen = match &*self.issuers {
            [only] => Some(only),
            several => {
                let claims = token.claims()?;
                let issuer = claims.get("iss").and_then(serde_json::Value::as_str);
                several.iter().find(|known| Some(&*known.rules.issuer) == issuer)
            }
        };
        Ok((token, chosen.ok_or(Reason::JwtIssuer)?))
    }

    /// Judges once more, when newer keys have come or it is clear that there are none.
    async fn judge_later(&self, view: View<'_>) -> Result<super::Accepted, Refusal> {
        let judged = match self.judge_now(view) {
            Judged::Waits(issuer, reason) => match issuer.newer_keys().await {
                true => self.judge_now(view),
                false => Judged::Refused(reason),
            },
            judged => judged,
        };
        match judged {
            Judged::Accepted(identity) => Ok(identity.into()),
            Judged::Refused(reason) | Judged::Waits(_, reason) => Err(reason.into()),
            Judged::Unready => Err(unready()),
        }
    }
}

/// The keys are asked for every few seconds until they are there.
fn unready() -> Refusal {
    let problem = Problem::new(Kind::UnreadyKeys);
    problem.header(RETRY_AFTER, HeaderValue::from_static("5")).into()
}

/// A clock before the epoch makes every token one of the future.
pub(super) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

impl Method for Jwt {
    fn carriers(&self) -> &[Carrier] {
        &self.carriers
    }

    fn is_presented(&self, view: View<'_>) -> bool {
        self.read(view) != Carried::Nothing
    }

    fn judge<'a>(&'a self, view: View<'a>) -> Judgement<'a> {
        match self.judge_now(view) {
            Judged::Accepted(identity) => Judgement::Now(Ok(identity.into())),
            Judged::Refused(reason) => Judgement::Now(Err(reason.into())),
            Judged::Unready => Judgement::Now(Err(unready())),
            Judged::Waits(..) => Judgement::Later(self.judge_later(view).boxed()),
        }
    }

    fn strip(&self, upstream: &mut RequestHeader) {
        let [carrier] = &self.carriers;
        carrier.strip(upstream);
    }

    fn challenge(&self, refused: Reason) -> Option<HeaderValue> {
        Some(bearer(refused))
    }
}

/// RFC 6750 §3: without a credential only what to send; else that it is not valid, and nothing about why.
pub(super) fn bearer(refused: Reason) -> HeaderValue {
    HeaderValue::from_static(match refused.public() {
        crate::identity::Public::Missing => "Bearer realm=\"api\"",
        crate::identity::Public::Expired => "Bearer realm=\"api\", error=\"invalid_token\", error_description=\"expired\"",
        _ => "Bearer realm=\"api\", error=\"invalid_token\"",
    })
}
