//! `auth`: who calls. Each method verifies one kind of credential; this module decides which of them has the say.
//!
//! With `any_of` the one credential that is present decides; two are refused, since nobody can say which of them was
//! meant. Methods that need no credential in the request (`mtls`, `forward`) have the say only when there is no other.
//! With `all_of` every method has to agree, on one consumer. A credential that is not valid is refused even where
//! `anonymous: allow` lets in those who have none.
//!
//! What was verified is taken out of the request that is sent on, unless `forward_credential: true`. With
//! `close_at_expiry: true` nothing that it opened stays open when a new request with it would be refused; see
//! [`crate::exchange::Facts::closes_at`], and the proxy for how.
//!
//! ```yaml
//! secrets: {digests: "${file:/etc/northgate/secrets/digests}"}
//! consumers:
//!   acme: {credentials: {api_key: {key: "${file:/etc/northgate/secrets/acme}"}}}
//!   anna: {credentials: {basic: {hash: "${file:/etc/northgate/secrets/anna}"}}}
//! issuers:
//!   idp: {issuer: "https://idp.example.com/", audience: orders}
//! policies:
//!   auth: {any_of: [{jwt: idp}, {basic: on}, {api_key: {header: x-api-key}}], anonymous: allow}
//! ```

mod carried;
mod engine;
mod method;
mod place;

pub use method::{Accepted, Carrier, Judgement, Method, Refusal};

use super::{CompileContext, Hooks, Policy, Stage};
use crate::diagnostic::Diagnostic;
use crate::units::{OneOrMany, Span, Spanned, Toggle};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See the module.
pub struct Auth;

/// Whether those without a credential pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    Allow,
    Deny,
}

/// Declares the methods as one table: the key is the name of the module, whose `Config` stands under it, and whose
/// `compile` makes it ready. The settings of `auth` have a field for each, so that errors keep their places.
macro_rules! methods {
    ($($(#[doc = $doc:literal])* $module:ident $variant:ident;)*) => {
        $(pub mod $module;)*

        /// The settings of `auth`: one method, or `any_of` or `all_of` several.
        #[derive(Debug, Deserialize, Serialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(rename = "AuthPolicy")]
        pub struct Config {
            /// The one credential that is present decides.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub any_of: Option<Spanned<OneOrMany<Spanned<MethodConfig>>>>,
            /// All of them are needed.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub all_of: Option<Spanned<OneOrMany<Spanned<MethodConfig>>>>,
            /// Whether requests without any credential pass: `deny` by default.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub anonymous: Option<Spanned<Anonymous>>,
            /// Whether endpoints get the credential too. Off by default: they have no need to be able to use it.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub forward_credential: Option<Toggle>,
            /// Whether what is still open when the credential ends does so too: WebSockets, streams, long answers. Off by
            /// default.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub close_at_expiry: Option<Spanned<Toggle>>,
            $($(#[doc = $doc])* #[serde(default, skip_serializing_if = "Option::is_none")]
            pub $module: Option<Spanned<$module::Config>>,)*
        }

        /// One method and its settings.
        #[derive(Debug, Deserialize, Serialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        #[schemars(rename = "AuthMethod")]
        #[allow(clippy::large_enum_variant, reason = "a few in a configuration, and none on a request")]
        pub enum MethodConfig {
            $($(#[doc = $doc])* $variant(Spanned<$module::Config>)),*
        }

        impl MethodConfig {
            fn compile(&self, cx: &mut CompileContext<'_>) -> Result<Arc<dyn Method>, Diagnostic> {
                match *self {
                    $(Self::$variant(ref config) => $module::compile(config, cx)),*
                }
            }
        }

        impl Config {
            /// The methods that stand under their own keys, with their places.
            fn alone(&self, cx: &mut CompileContext<'_>) -> Vec<(Span, Result<Arc<dyn Method>, Diagnostic>)> {
                let mut found = Vec::new();
                $(if let Some(config) = &self.$module {
                    found.push((config.span(), $module::compile(config, cx)));
                })*
                found
            }
        }
    };
}

methods! {
    /// Somebody else says who may pass.
    forward Forward;
    /// The certificate that the client showed in the TLS handshake.
    mtls Mtls;
    /// The client's signature of the request (RFC 9421).
    signature Signature;
    /// An API key, in a header, query parameter or cookie.
    api_key ApiKey;
    /// A user and a password (RFC 7617).
    basic Basic;
    /// A token that an authorisation server is asked about (RFC 7662).
    introspection Introspection;
    /// A signed token of an issuer.
    jwt Jwt;
}

impl Policy for Auth {
    type Config = Config;
    const STAGE: Stage = Stage::Authenticate;
    const CONDITIONAL: bool = false;

    fn compile(config: &Config, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic> {
        let alone = config.alone(cx);
        let lists = [&config.any_of, &config.all_of];
        let ways = alone.len() + lists.iter().filter(|list| list.is_some()).count();
        if ways != 1 {
            let message = match ways {
                0 => "`auth` has no method",
                _ => "`auth` has several methods, and nothing says how they go together",
            };
            let hint = "write one method, or a list of them under `any_of` or `all_of`";
            return Err(Diagnostic::error(message, cx.span()).hint(hint));
        }
        let listed = lists.into_iter().flatten().flat_map(|list| list.iter());
        let listed: Vec<_> = listed
            .map(|method| (method.span(), method.compile(cx)))
            .collect();
        let mut methods: Vec<(Span, Arc<dyn Method>)> = Vec::new();
        for (span, compiled) in alone.into_iter().chain(listed) {
            match compiled {
                Ok(method) => methods.push((span, method)),
                Err(diagnostic) => cx.report(diagnostic),
            }
        }
        check_carriers(&methods, cx);
        let closing = config.close_at_expiry.as_ref().filter(|close| close.0);
        if let Some(at) = closing.map(Spanned::span)
            && !methods.iter().any(|(_, method)| method.expires())
        {
            let message = "`close_at_expiry` has no effect: what these methods take never expires";
            let hint = "tokens, keys, certificates and signatures do";
            cx.report(Diagnostic::error(message, at).hint(hint));
        }
        let anonymous = config.anonymous.as_ref();
        if let Some(anonymous) = anonymous.filter(|_| config.all_of.is_some()) {
            let message = "`anonymous` has no effect beside `all_of`";
            let hint = "all of the credentials are needed; with `any_of` a request may have none";
            cx.report(Diagnostic::error(message, anonymous.span()).hint(hint));
        }
        let engine = Arc::new(engine::Engine {
            methods: methods.into_iter().map(|(_, method)| method).collect(),
            all: config.all_of.is_some(),
            anonymous: anonymous.is_some_and(|anonymous| **anonymous == Anonymous::Allow),
            closes: closing.is_some(),
            consumers: cx.consumers().clone(),
            metrics: cx.metrics().auth().clone(),
        });
        let mut hooks = Hooks::new().on_request(engine.clone());
        hooks.closes_at_expiry = closing.map(Spanned::span);
        if !config.forward_credential.is_some_and(|forward| forward.0) {
            hooks = hooks.on_upstream_request(engine);
        }
        Ok(hooks)
    }
}

/// Two methods that read the same place can't tell whose credential stands there.
fn check_carriers(methods: &[(Span, Arc<dyn Method>)], cx: &mut CompileContext<'_>) {
    for (at, (span, method)) in methods.iter().enumerate() {
        let others = methods.iter().take(at).map(|(_, other)| other);
        let clash = others
            .flat_map(|other| other.carriers())
            .find(|carrier| method.carriers().contains(carrier));
        if let Some(carrier) = clash {
            let message = format!("two methods read {carrier}");
            let hint = "give one of them another header, query parameter or cookie; of issuers, `jwt: [a, b]` takes several";
            cx.report(Diagnostic::error(message, *span).hint(hint));
        }
    }
}
