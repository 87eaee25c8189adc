//! `respond`: answers in place of the service when its `when` holds, such as for maintenance or unwanted agents. The
//! same settings are the `respond` of a route.
//!
//! ```yaml
//! policies:
//!   respond.maintenance:
//!     status: 503
//!     headers: {retry-after: "600"}
//!     body: back at noon
//!     when: {path: /shop/**}
//! ```

use super::{CompileContext, Flow, Hooks, OnRequest, Policy, Stage, Step};
use crate::diagnostic::Diagnostic;
use crate::exchange::Exchange;
use crate::exchange::answer;
use crate::units::{HeaderNameText, HeaderValueText};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What to do about a body where none may be.
pub const BODY_HINT: &str = "leave `body` out, or answer with another status";

/// See the module.
pub struct Respond;

/// The settings of `respond`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RespondPolicy")]
pub struct Answer {
    /// 200 to 599; 200 by default.
    #[serde(default)]
    pub status: Status,
    /// Text, sent as it is. `text/plain` unless `headers` has a `content-type`.
    #[serde(default)]
    pub body: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<HeaderNameText, HeaderValueText>,
}

/// The status of a final answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub StatusCode);

impl Default for Status {
    fn default() -> Self {
        Self(StatusCode::OK)
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u16::deserialize(deserializer)?;
        match StatusCode::from_u16(number) {
            Ok(status) if (200..600).contains(&number) => Ok(Self(status)),
            _ => Err(serde::de::Error::custom(format_args!(
                "{number} is not the status of an answer\nhint: from 200 to 599"
            ))),
        }
    }
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.0.as_u16())
    }
}

impl JsonSchema for Status {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Status".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({"type": "integer", "minimum": 200, "maximum": 599})
    }
}

impl Answer {
    /// Finds a body that would never be sent (RFC 9110 §15.3.5, §15.3.6, §15.4.5).
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn check(&self) -> Result<(), String> {
        let status = self.status.0.as_u16();
        let body = self.body.as_deref().unwrap_or_default();
        match matches!(status, 204 | 205 | 304) && !body.is_empty() {
            true => Err(format!("an answer with status {status} has no body")),
            false => Ok(()),
        }
    }

    /// Made once at load; a request clones it without copying the body.
    pub fn compile(&self) -> answer::Answer {
        let mut answer = answer::Answer::empty(self.status.0);
        let named = self
            .headers
            .iter()
            .any(|(name, _)| name.name() == header::CONTENT_TYPE);
        if let Some(body) = &self.body {
            answer.body = Bytes::from(body.clone());
            if !named {
                let text = HeaderValue::from_static("text/plain; charset=utf-8");
                answer = answer.header(header::CONTENT_TYPE, text);
            }
        }
        for (name, value) in &self.headers {
            answer = answer.header(name.name().clone(), value.value().clone());
        }
        answer
    }
}

impl Policy for Respond {
    type Config = Answer;
    const STAGE: Stage = Stage::Block;

    fn compile(config: &Answer, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic> {
        if let Err(error) = config.check() {
            return Err(Diagnostic::error(error, cx.span()).hint(BODY_HINT));
        }
        Ok(Hooks::new().on_request(Arc::new(Fixed(config.compile()))))
    }
}

struct Fixed(answer::Answer);

impl OnRequest for Fixed {
    fn on_request<'a>(&'a self, _: &'a mut Exchange<'_>) -> Step<'a> {
        Step::Now(Ok(Flow::Answer(Box::new(self.0.clone()))))
    }
}
