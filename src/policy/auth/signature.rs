//! `signature`: what the client has signed with its key is what it sent (RFC 9421).
//!
//! A signature has to cover the method, the whole target (`@target-uri`, or `@authority` with `@path` and, where there is
//! one, `@query`) and, where there is a body, its `content-digest` (RFC 9530); `components` says otherwise. It has to
//! be made within `max_age`, and a `nonce` is good once. The target is signed in its canonical form, as the endpoint gets
//! it before a rewrite.
//!
//! A body is looked at while it passes, one piece behind. One that is not what was signed is broken off before its last
//! piece is sent on: the endpoint never has a complete request, and of a body in one piece, which most are, nothing but
//! the head. Of a longer one it has had a part by then, so it must not act on what is not complete.
//!
//! ```yaml
//! policies:
//!   auth: {signature: {max_age: 2m, nonce: required}}
//! consumers:
//!   acme: {credentials: {signature: {id: acme-1, public_key: /etc/northgate/keys/acme.pub}}}
//! ```

use super::{Accepted, Carrier, Judgement, Method, Refusal};
use crate::diagnostic::Diagnostic;
use crate::exchange::View;
use crate::identity::signature::replay::Admission;
use crate::identity::signature::{
    self, Component, Coverage, KnownKeys, Message, Requirements, SIGNATURE, SIGNATURE_INPUT, Seen,
};
use crate::identity::{Identity, Reason};
use crate::policy::{CompileContext, Knowledge};
use crate::problem::{Kind, Problem};
use crate::state::Kept;
use crate::units::{Duration, OneOrMany, OrOn, Spanned};
use http::HeaderValue;
use pingora_http::RequestHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::SystemTime;

/// Where nothing is written.
const MAX_AGE: Duration = Duration::from_secs(300);
const LEEWAY: Duration = Duration::from_secs(30);

/// Clocks that differ by more are wrong (the same bound as that of tokens).
const LEEWAY_MAX: Duration = Duration::from_secs(120);
/// A nonce is remembered for as long.
const MAX_AGE_MAX: Duration = Duration::from_secs(3600);

/// Nonces that are remembered at a time, some 50 MB.
const NONCES_MAX: usize = 1_000_000;

/// The settings of `signature`; all have a default.
pub type Config = OrOn<Settings>;

/// The settings of `signature`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SignatureMethod")]
pub struct Settings {
    /// What has to be covered, and all that has to be: `@method`, `@target-uri`, names of fields. By default the method,
    /// the whole target, and the digest of a body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<OneOrMany<Spanned<String>>>,
    /// How old a signature may be: 5 min by default, 1 h at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Spanned<Duration>>,
    /// By how much the clocks of clients may differ: 30 s by default, 120 s at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leeway: Option<Spanned<Duration>>,
    /// `required` refuses signatures without a `nonce`, which can be sent again as long as they are not too old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Nonce>,
    /// The label of the signature that counts, where clients send several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The `tag` that a signature needs: what it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// Whether a signature needs a `nonce`. One that is there is good once, in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Nonce {
    Optional,
    Required,
}

/// Makes it ready for requests.
pub(super) fn compile(
    config: &Spanned<Config>,
    cx: &mut CompileContext<'_>,
) -> Result<Arc<dyn Method>, Diagnostic> {
    let settings = &config.0;
    let Some(keys) = cx.signature_keys() else {
        let message = "no consumer has a key to sign with among its credentials";
        let hint = "`consumers: {acme: {credentials: {signature: {public_key: acme.pem}}}}`";
        return Err(Diagnostic::error(message, config.span()).hint(hint));
    };
    for name in settings.components.iter().flatten() {
        if Component::named(name).is_none() {
            let message = format!("`{}` can't be covered by a signature of a request", **name);
            let hint = "`@method`, `@target-uri`, `@authority`, `@scheme`, `@request-target`, `@path`, `@query`, or the \
                        name of a field in lower case";
            cx.report(Diagnostic::error(message, name.span()).hint(hint));
        }
    }
    let bounded = |written: &Option<Spanned<Duration>>, usual: Duration, max: Duration| {
        let Some(written) = written else {
            return Ok(usual);
        };
        match !written.is_zero() && written.0 <= max.0 {
            true => Ok(**written),
            false => {
                let message = format!("`{}` is not between nothing and `{max}`", **written);
                Err(Diagnostic::error(message, written.span()).hint(format!("such as `{usual}`")))
            }
        }
    };
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key).map_err(|_| {
        Diagnostic::error("the system gives no random numbers", config.span())
    })?;
    let components = settings.components.as_ref();
    let names = |list: &OneOrMany<Spanned<String>>| list.iter().map(|name| (***name).into()).collect();
    Ok(Arc::new(Signed {
        keys,
        requirements: Requirements {
            label: settings.label.as_deref().map(Into::into),
            tag: settings.tag.as_deref().map(Into::into),
            covers: components.map_or(Coverage::Whole, |list| Coverage::Components(names(list))),
            max_age: bounded(&settings.max_age, MAX_AGE, MAX_AGE_MAX)?.0,
            leeway: bounded(&settings.leeway, LEEWAY, LEEWAY_MAX)?.0,
            nonce: settings.nonce == Some(Nonce::Required),
        },
        // a nonce that was seen on one route is not good on another
        seen: cx.shared(|| Nonces(Seen::new(key, NONCES_MAX))),
    }))
}

/// Outlives a snapshot, or a reload would let everything in once more.
struct Nonces(Seen);

impl Kept for Nonces {
    fn export(&self) -> Option<serde_json::Value> {
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

struct Signed {
    keys: Arc<KnownKeys>,
    requirements: Requirements,
    seen: Arc<Nonces>,
}

impl Signed {
    fn caller(&self, view: View<'_>, now: SystemTime) -> Result<Accepted, Refusal> {
        let (request, facts) = (view.request, view.facts);
        let host = facts.host.as_str();
        let authority = match facts.port {
            Some(port) => format!("{host}:{port}").into(),
            None => std::borrow::Cow::Borrowed(host),
        };
        let message = Message {
            method: request.method.as_str(),
            scheme: facts.scheme.as_str(),
            authority: &authority,
            path: request.uri.path(),
            query: request.uri.query(),
            headers: &request.headers,
        };
        let mut consumer = None;
        let find = |id: &str| {
            let (key, owner) = self.keys.find(id)?;
            consumer = Some(owner.clone());
            Some(key)
        };
        let verified = signature::verify(&message, find, &self.requirements, now)?;
        if let Some((nonce, until)) = &verified.nonce {
            match self.seen.0.admit(&verified.keyid, nonce, *until, now) {
                Admission::First => {}
                Admission::Again => return Err(Reason::SignatureReplayed.into()),
                Admission::Full => {
                    let problem = Problem::new(Kind::AuthUnavailable);
                    return Err(problem.source("as many nonces as can be remembered").into());
                }
            }
        }
        Ok(Accepted {
            identity: Arc::new(Identity {
                method: "signature",
                credential: Some(verified.keyid.into()),
                consumer,
                expires_at: verified.expires_at,
                ..Identity::default()
            }),
            headers: Vec::new(),
            body: verified.body,
            set_cookies: Vec::new(),
        })
    }
}

impl Method for Signed {
    fn carriers(&self) -> &[Carrier] {
        static CARRIERS: [Carrier; 2] = [
            Carrier::Header(SIGNATURE),
            Carrier::Header(SIGNATURE_INPUT),
        ];
        &CARRIERS
    }

    fn finds(&self) -> Knowledge {
        Knowledge::default()
    }

    fn is_presented(&self, view: View<'_>) -> bool {
        signature::is_presented(&view.request.headers)
    }

    fn judge<'a>(&'a self, view: View<'a>) -> Judgement<'a> {
        Judgement::Now(self.caller(view, SystemTime::now()))
    }

    fn strip(&self, upstream: &mut RequestHeader) {
        upstream.remove_header(&SIGNATURE);
        upstream.remove_header(&SIGNATURE_INPUT);
    }

    fn challenge(&self, _: Reason) -> Option<HeaderValue> {
        // no scheme of `Authorization` stands for it; this is what the drafts before the RFC asked with
        Some(HeaderValue::from_static("Signature"))
    }
}
