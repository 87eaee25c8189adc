//! `api_key`: a long random word that the caller was given once.
//!
//! It stands in one place, a header unless another is named; twice it is refused, as is a place that is there and empty.
//! The gateway keeps digests alone ([`crate::identity::credentials`]). The parameter of a query must have a name that the
//! access log masks.
//!
//! ```yaml
//! secrets: {digests: "${file:/etc/northgate/secrets/digests}"}
//! consumers:
//!   acme: {credentials: {api_key: {id: acme-1, key: "${file:/etc/northgate/secrets/acme}"}}}
//! policies:
//!   auth: {api_key: {header: x-token}}
//! routes:
//!   all: {match: {path: /**}, respond: 204}
//!   events: {match: {path: /events}, respond: 204, policies: {auth: {api_key: {query: api_key}}}}
//! ```

use super::place::{self, Place, Presented};
use super::{Carrier, Guessed, Judgement, Method, Tried};
use crate::diagnostic::Diagnostic;
use crate::exchange::View;
use crate::identity::Reason;
use crate::identity::credentials::ApiKeys;
use crate::policy::{CompileContext, Knowledge};
use crate::units::{HeaderNameText, OrOn, Spanned, Timestamp};
use http::{HeaderName, HeaderValue};
use pingora_http::RequestHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::SystemTime;

/// Where a key stands if nothing is said.
const HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// What clients are told: no scheme is registered for keys, and this is what others write.
const CHALLENGE: HeaderValue = HeaderValue::from_static("ApiKey realm=\"restricted\"");

/// The settings of `api_key`, or `on`.
pub type Config = OrOn<Settings>;

/// Where the key stands: in the header `X-API-Key` by default.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ApiKeyMethod")]
pub struct Settings {
    /// In this header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<Spanned<HeaderNameText>>,
    /// In this parameter of the query. URLs end up in histories, logs and `Referer`: take a header where you can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<Spanned<String>>,
    /// In this cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Spanned<String>>,
}

pub(super) fn compile(
    config: &Spanned<Config>,
    cx: &mut CompileContext<'_>,
) -> Result<Arc<dyn Method>, Diagnostic> {
    let keys = cx.api_keys();
    let place = place_of(config)?;
    let keys = keys.ok_or_else(|| {
        let message = "no consumer has an API key";
        let hint = "`consumers: {name: {credentials: {api_key: …}}}`, or `credential_files: {api_key: …}`; `northgate key new` makes one";
        Diagnostic::error(message, config.span()).hint(hint)
    })?;
    Ok(Arc::new(ApiKey {
        carriers: [place.carrier()],
        place,
        keys,
    }))
}

fn place_of(config: &Spanned<Config>) -> Result<Place, Diagnostic> {
    let Settings {
        header,
        query,
        cookie,
    } = &config.0;
    match (header, query, cookie) {
        (None, None, None) => Ok(Place::Header(HEADER)),
        (Some(name), None, None) => Ok(Place::Header(place::header(name)?)),
        (None, Some(name), None) => Ok(Place::Query(place::query(name)?)),
        (None, None, Some(name)) => Ok(Place::Cookie(place::cookie(name)?)),
        _ => {
            let message = "a key stands in one place";
            let hint = "write one of `header`, `query` and `cookie`; `any_of` takes several methods";
            Err(Diagnostic::error(message, config.span()).hint(hint))
        }
    }
}

/// The compiled method.
struct ApiKey {
    place: Place,
    carriers: [Carrier; 1],
    keys: Arc<ApiKeys>,
}

impl Method for ApiKey {
    fn carriers(&self) -> &[Carrier] {
        &self.carriers
    }

    fn finds(&self) -> Knowledge {
        Knowledge::default()
    }

    fn is_presented(&self, view: View<'_>) -> bool {
        self.place.is_presented(view)
    }

    fn judge<'a>(&'a self, view: View<'a>) -> Judgement<'a> {
        let key = match self.place.read(view) {
            Presented::One(key) => key,
            Presented::Nothing => return Judgement::Now(Err(Reason::Missing.into())),
            Presented::Several => return Judgement::Now(Err(Reason::Repeated.into())),
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = Timestamp::of_unix(now.unwrap_or_default().as_secs());
        let verified = self.keys.verify(&key, now);
        Judgement::Now(match verified {
            Ok(identity) => Ok(Arc::new(identity).into()),
            Err(reason) => Err(reason.into()),
        })
    }

    fn guessed(&self) -> Guessed {
        Guessed::Alone
    }

    fn tried<'v>(&self, view: View<'v>) -> Option<Tried<'v>> {
        match self.place.read(view) {
            Presented::One(credential) => Some(Tried {
                name: None,
                credential,
            }),
            Presented::Nothing | Presented::Several => None,
        }
    }

    fn strip(&self, upstream: &mut RequestHeader) {
        self.place.strip(upstream);
    }

    fn challenge(&self, _: Reason) -> Option<HeaderValue> {
        Some(CHALLENGE)
    }
}
