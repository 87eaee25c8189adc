//! `headers`: sets, adds and removes header fields, on the request that an endpoint gets and on the response that the
//! client gets, the gateway's own answers included.
//!
//! Values are templates over facts. Framing and hop-by-hop fields (RFC 9110 §7.6.1), and what the gateway itself owns,
//! can't be named: the connection would no longer mean what its bytes say.
//!
//! ```yaml
//! policies:
//!   headers:
//!     request: {set: {x-tenant: "{host.tenant}"}, remove: [x-debug]}
//!     response: {set: {strict-transport-security: max-age=31536000}, remove: [server]}
//! ```

use super::{CompileContext, Hooks, OnResponse, OnUpstreamRequest, Policy, Stage};
use crate::diagnostic::Diagnostic;
use crate::exchange::View;
use crate::exchange::fact::Fact;
use crate::exchange::template::Template;
use crate::units::{HeaderNameText, OneOrMany, Spanned};
use http::{HeaderName, HeaderValue};
use pingora_http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module.
pub struct Headers;

/// The settings of `headers`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "HeadersPolicy")]
pub struct Config {
    /// What the endpoint gets.
    #[serde(default)]
    pub request: Changes,
    /// What the client gets.
    #[serde(default)]
    pub response: Changes,
}

/// Changes of one head, made in this order: `remove`, `set`, `add`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "HeaderChanges")]
pub struct Changes {
    /// Replaces every field of that name. A value whose facts are missing removes it.
    #[serde(default)]
    pub set: BTreeMap<Spanned<HeaderNameText>, Template>,
    /// Adds a field beside those of that name.
    #[serde(default)]
    pub add: BTreeMap<Spanned<HeaderNameText>, Template>,
    #[serde(default)]
    pub remove: Option<OneOrMany<Spanned<HeaderNameText>>>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.remove.is_none() && self.set.is_empty() && self.add.is_empty()
    }
}

impl Policy for Headers {
    type Config = Config;
    const STAGE: Stage = Stage::Transform;
    const ADDS_UP: bool = true;
    const ALTERS: bool = true;

    fn compile(config: &Config, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic> {
        let request = Edit::compile(&config.request, cx);
        for (name, template) in config.request.set.iter().chain(&config.request.add) {
            if template.facts().any(Fact::is_of_identity) {
                cx.tells(name.name());
            }
        }
        let response = Edit::compile(&config.response, cx);
        if config.request.is_empty() && config.response.is_empty() {
            let message = "`headers` changes nothing";
            let hint = "add `request` or `response` with `set`, `add` or `remove`";
            return Err(Diagnostic::error(message, cx.span()).hint(hint));
        }
        let mut hooks = Hooks::new();
        if !request.is_empty() {
            hooks = hooks.on_upstream_request(Arc::new(request));
        }
        if !response.is_empty() {
            hooks = hooks.on_response(Arc::new(response));
        }
        Ok(hooks)
    }
}

/// Compiled changes: names parsed, fixed values made once.
struct Edit {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, Value)>,
    add: Vec<(HeaderName, Value)>,
}

enum Value {
    Fixed(HeaderValue),
    Made(Template),
}

impl Value {
    fn compile(template: &Template) -> Self {
        match template
            .fixed()
            .and_then(|text| HeaderValue::from_str(text).ok())
        {
            Some(value) => Value::Fixed(value),
            None => Value::Made(template.clone()),
        }
    }

    fn of(&self, view: View<'_>) -> Option<HeaderValue> {
        match self {
            Value::Fixed(value) => Some(value.clone()),
            Value::Made(template) => template.header_value(view),
        }
    }
}

impl Edit {
    fn compile(changes: &Changes, cx: &mut CompileContext<'_>) -> Self {
        let remove = changes.remove.iter().flat_map(|names| &names.0);
        Self {
            remove: remove.filter_map(|name| named(name, cx)).collect(),
            set: values(&changes.set, cx),
            add: values(&changes.add, cx),
        }
    }

    fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

fn values(
    fields: &BTreeMap<Spanned<HeaderNameText>, Template>,
    cx: &mut CompileContext<'_>,
) -> Vec<(HeaderName, Value)> {
    let each = fields.iter();
    each.filter_map(|(name, template)| Some((named(name, cx)?, Value::compile(template))))
        .collect()
}

/// The name of a field that may be changed.
fn named(name: &Spanned<HeaderNameText>, cx: &mut CompileContext<'_>) -> Option<HeaderName> {
    let header = name.name().clone();
    if is_reserved(&header) {
        let message = format!("`{header}` can't be changed");
        let hint =
            "it says how the connection or the body is to be read, or the gateway sets it itself";
        cx.report(Diagnostic::error(message, name.span()).hint(hint));
        return None;
    }
    Some(header)
}

/// Fields that decide how bytes are read, or that the gateway owns.
pub fn is_reserved(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "host"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "x-request-id"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-proto"
    )
}

/// The changes of a head, for both kinds of heads.
macro_rules! apply {
    ($edit:expr, $view:expr, $head:expr) => {
        for name in &$edit.remove {
            $head.remove_header(name);
        }
        for (name, value) in &$edit.set {
            match value.of($view) {
                // inserting fails only when a head has more fields than its map can hold
                Some(value) => drop($head.insert_header(name.clone(), value)),
                None => drop($head.remove_header(name)),
            }
        }
        for (name, value) in &$edit.add {
            if let Some(value) = value.of($view) {
                let _ = $head.append_header(name.clone(), value);
            }
        }
    };
}

impl OnUpstreamRequest for Edit {
    fn on_upstream_request(&self, view: View<'_>, upstream: &mut RequestHeader) {
        apply!(self, view, upstream);
    }
}

impl OnResponse for Edit {
    fn on_response(&self, view: View<'_>, response: &mut ResponseHeader) {
        apply!(self, view, response);
    }
}
