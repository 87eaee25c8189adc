//! `auth`: who calls. Each method verifies one kind of credential; this module decides which of them has the say.
//!
//! With `any_of` the one credential that is present decides; two are refused, since nobody can say which of them was
//! meant. Methods that need no credential in the request (`mtls`, `forward`) have the say only when there is no other.
//! With `all_of` every method has to agree, on one consumer. A credential that is not valid is refused even where
//! `anonymous: allow` lets in those who have none.
//!
//! A credential in a cookie counts only for pages of the host itself and of `trusted_origins`, where the request may change
//! something: see `cross_site`, which is 403 `auth.cross_site` whatever the credential is worth.
//!
//! Whoever tries too many passwords or keys that are wrong is held up: see `guessing`.
//!
//! What was verified is taken out of the request that is sent on, unless `forward_credential: true`. With
//! `close_at_expiry: true` nothing that it opened stays open when a new request with it would be refused; see
//! [`crate::exchange::Facts::closes_at`], and the proxy for how.
//!
//! # What RFC 9700 (OAuth 2.0 Security) asks of whoever takes credentials
//!
//! What it asks about tokens themselves is in [`crate::identity::jwt`], and about clients, which the gateway is where it logs
//! people in, in [`crate::identity::oidc`]. A test sees to it that those in the last column are there.
//!
//! | Practice | Here | Test |
//! |---|---|---|
//! | §2.2.1, §4.10.1 tokens bound to their sender | `all_of: [{mtls: …}, {jwt: …}]`, of one consumer; `cnf` is not looked at | `all_of_them_have_to_agree_on_one_consumer` |
//! | §2.3 tokens restricted to what is needed | `authorize: {scopes: …}`, 403 `insufficient_scope` | `whoever_may_passes_and_nobody_else_does` |
//! | §2.6 keys and answers from whom one thinks | `https` and a verified certificate | `keys_come_over_tls_from_whom_the_configured_authority_vouches_for` |
//! | §4.2.4, §4.3.2 tokens leak through logs and URLs | none in any output; a query only where it is asked for | `tokens_are_in_no_log_and_no_metric`, `neither_tokens_nor_the_secret_are_in_any_output`, `nobody_gets_to_see_a_key_or_its_digest` |
//! | §4.7 cross-site requests | a cookie counts for pages of the host alone | `a_page_of_another_site_can_not_act_with_a_cookie`, `a_page_of_another_site_opens_no_websocket_with_a_cookie` |
//! | §4.9.2 an origin is broken into | credentials are taken out | `a_key_is_read_from_one_place_and_taken_out_of_it`, `a_signed_request_is_the_consumers_and_loses_its_signature` |
//! | §4.10.2 tokens of others | of the issuer and for the audience that is configured, or not active | `what_is_not_active_or_not_for_us_is_refused` |
//! | §4.13 a proxy that ends TLS removes what clients may not say | identity headers, in any spelling | `endpoints_are_told_who_calls_and_clients_can_not_tell_them`, `what_users_call_themselves_can_not_break_out_of_its_field` |
//! | secrets can't be guessed (RFC 6749 §10.10) | a brake by address and name | `guesses_for_a_name_are_held_up_whether_anybody_has_it_or_not`, `an_address_that_guesses_is_held_up_whatever_it_tries` |
//! | no mutation of a credential is accepted | keys, passwords, signatures | `no_mutation_of_a_key_is_accepted`, `no_other_password_is_right`, `no_change_of_what_was_signed_is_accepted` |
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
mod cross_site;
mod engine;
mod flights;
mod guessing;
mod method;
mod place;

pub use guessing::{Guessed, Tried};
pub use method::{Accepted, Carrier, Judgement, Method, Refusal};

use super::cors::Origin;
use super::{CompileContext, Hooks, Knowledge, OwnPath, Policy, Stage};
use crate::diagnostic::Diagnostic;
use crate::units::{OneOrMany, OrOff, Span, Spanned, Toggle};
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
            pub forward_credential: Option<Spanned<Toggle>>,
            /// Whether what is still open when the credential ends does so too: WebSockets, streams, long answers. Off by
            /// default.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub close_at_expiry: Option<Spanned<Toggle>>,
            /// Whose pages may act with a credential that stands in a cookie, beside those of the host that is asked:
            /// `https://app.example.com`, or `https://*.example.com` for any host below.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub trusted_origins: Option<Spanned<OneOrMany<Spanned<String>>>>,
            /// How many wrong passwords and keys may be tried, or `off`.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub guessing: Option<Spanned<OrOff<guessing::Settings>>>,
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
    /// A browser that logged in at an identity provider (OpenID Connect).
    oidc Oidc;
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
        let written = alone.len() + listed.len();
        let mut methods: Vec<(Span, Arc<dyn Method>)> = Vec::new();
        for (span, compiled) in alone.into_iter().chain(listed) {
            match compiled {
                Ok(method) => methods.push((span, method)),
                Err(diagnostic) => cx.report(diagnostic),
            }
        }
        check_carriers(&methods, cx);
        let own_paths = check_paths(&methods, cx);
        for carrier in methods.iter().flat_map(|(_, method)| method.carriers()) {
            if let Carrier::Header(name) = carrier {
                cx.reads(name);
            }
        }
        if config.any_of.is_some() {
            check_turns(&methods, cx);
        }
        let takes_nothing =
            |carrier: &Carrier| matches!(carrier, Carrier::ClientCertificate | Carrier::Request);
        if let Some(forward) = config
            .forward_credential
            .as_ref()
            .filter(|forward| forward.0)
            && !methods.is_empty()
            && methods
                .iter()
                .flat_map(|(_, method)| method.carriers())
                .all(takes_nothing)
        {
            let message =
                "`forward_credential` has no effect: no credential is taken out of requests here";
            let hint = "leave it out; `client_cert: on` under `mtls` sends certificates on";
            cx.report(Diagnostic::error(message, forward.span()).hint(hint));
        }
        let closing = config.close_at_expiry.as_ref().filter(|close| close.0);
        if let Some(at) = closing.map(Spanned::span)
            && !methods.iter().any(|(_, method)| method.expires())
        {
            let message = "`close_at_expiry` has no effect: what these methods take never expires";
            let hint = "tokens, keys, certificates and signatures do";
            cx.report(Diagnostic::error(message, at).hint(hint));
        }
        let anonymous = config.anonymous.as_ref();
        let asked_anyway = methods
            .iter()
            .any(|(_, method)| method.is_always_presented());
        if let Some(allow) = anonymous.filter(|anonymous| ***anonymous == Anonymous::Allow)
            && config.all_of.is_none()
            && asked_anyway
        {
            let message = "`anonymous` has no effect beside `forward`";
            let hint = "the authoriser is asked about requests without a credential too, and lets in whom it wants";
            cx.report(Diagnostic::error(message, allow.span()).hint(hint));
        }
        if let Some(anonymous) = anonymous.filter(|_| config.all_of.is_some()) {
            let message = "`anonymous` has no effect beside `all_of`";
            let hint = "all of the credentials are needed; with `any_of` a request may have none";
            cx.report(Diagnostic::error(message, anonymous.span()).hint(hint));
        }
        let entries = own_paths.iter().any(|path| path.setting == "login");
        if let Some(first) = own_paths.first()
            && anonymous.is_some_and(|anonymous| **anonymous == Anonymous::Allow)
            && !entries
        {
            let message = "with `anonymous: allow` nobody is sent to log in";
            let hint = "give the login a path for the page to lead to: `login: /oauth2/login`";
            cx.report(Diagnostic::error(message, first.at).hint(hint));
        }
        let finds = methods.iter().map(|(_, method)| method.finds());
        // one that has errors may find out anything
        let unknown = methods.len() < written;
        let nothing = Knowledge {
            scopes: unknown,
            claims: unknown,
        };
        let finds = finds.fold(nothing, |all, one| Knowledge {
            scopes: all.scopes || one.scopes,
            claims: all.claims || one.claims,
        });
        let trusted_origins = trusted_origins(config, &methods, cx);
        let guessed = methods.iter().map(|(_, method)| method.guessed());
        let guard = guessing::compile(&config.guessing, guessed, cx);
        let engine = Arc::new(engine::Engine {
            methods: methods.into_iter().map(|(_, method)| method).collect(),
            all: config.all_of.is_some(),
            anonymous: anonymous.is_some_and(|anonymous| **anonymous == Anonymous::Allow),
            closes: closing.is_some(),
            trusted_origins,
            guard,
            consumers: cx.consumers().clone(),
            metrics: cx.metrics().auth().clone(),
        });
        let mut hooks = Hooks::new().on_request(engine.clone());
        hooks.closes_at_expiry = closing.map(Spanned::span);
        hooks.finds = finds;
        if !config
            .forward_credential
            .as_ref()
            .is_some_and(|forward| forward.0)
        {
            hooks = hooks.on_upstream_request(engine);
        }
        hooks.own_paths = own_paths;
        Ok(hooks)
    }
}

/// The paths that are a method's own. Only one can have some: a browser is sent to one place.
fn check_paths(methods: &[(Span, Arc<dyn Method>)], cx: &mut CompileContext<'_>) -> Box<[OwnPath]> {
    let mut with = methods
        .iter()
        .filter(|(_, method)| !method.paths().is_empty());
    let first = with.next();
    if let Some((span, _)) = with.next() {
        let message = "two methods send browsers to log in, and nobody can say to which";
        let hint = "write one `oidc`; a provider can offer others by itself";
        cx.report(Diagnostic::error(message, *span).hint(hint));
    }
    first
        .map(|(_, method)| method.paths().into())
        .unwrap_or_default()
}

/// Behind a method that finds something in every request, those that count only where there is nothing else never do.
fn check_turns(methods: &[(Span, Arc<dyn Method>)], cx: &mut CompileContext<'_>) {
    let mut last = methods.iter().filter(|(_, method)| method.is_last());
    if last
        .by_ref()
        .any(|(_, method)| method.is_always_presented())
    {
        // of two authorisers something else is said
        for (span, _) in last.filter(|(_, method)| !method.is_always_presented()) {
            let message = "this never has the say: the authoriser before it always has";
            cx.report(Diagnostic::error(message, *span).hint("write it before `forward`"));
        }
    }
}

/// Whose pages may act with cookies, where there is a credential in one.
fn trusted_origins(
    config: &Config,
    methods: &[(Span, Arc<dyn Method>)],
    cx: &mut CompileContext<'_>,
) -> Vec<Origin> {
    let Some(written) = &config.trusted_origins else {
        return Vec::new();
    };
    let mut carriers = methods.iter().flat_map(|(_, method)| method.carriers());
    if !carriers.any(|carrier| matches!(carrier, Carrier::Cookie(_))) {
        let message = "`trusted_origins` has no effect: no method reads a cookie";
        let hint = "it is about credentials that stand in a cookie";
        cx.report(Diagnostic::error(message, written.span()).hint(hint));
    }
    let mut origins = Vec::new();
    for origin in written.iter() {
        match Origin::parse(origin) {
            Ok(origin) => origins.push(origin),
            Err(diagnostic) => cx.report(diagnostic),
        }
    }
    origins
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
