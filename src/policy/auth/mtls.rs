//! `mtls`: the certificate that the client showed in the TLS handshake.
//!
//! The listener's `client_ca` has verified it by then; here it is told whose it is. A consumer that has it among its
//! `credentials` is the caller. Of the others `consumer` says what they are: `known` refuses them, `identity` takes the
//! consumer's name from the certificate; without it they pass as nobody's, which is for `authorize` to judge. It has the
//! say only where the request carries no other credential. What the certificate says are its claims: `subject`,
//! `issuer`, `serial`, `fingerprint`, `common_name`, and the lists `dns`, `uri`, `email`, `address`.
//!
//! ```yaml
//! listeners: {partners: {address: "[::]:8443", tls: {}, client_ca: /etc/northgate/certs/partners.pem}}
//! certificates: {example: {cert: /etc/northgate/certs/example.pem, key: /etc/northgate/certs/example.key}}
//! policies:
//!   auth: {mtls: {identity: common_name, consumer: known}}
//! consumers:
//!   acme: {credentials: {mtls: {subject: "CN=orders,O=Acme"}}}
//! ```

use super::{Accepted, Carrier, Judgement, Method};
use crate::diagnostic::Diagnostic;
use crate::exchange::View;
use crate::identity::certificate::{Attribute, ClientCertificate, KnownCertificates};
use crate::identity::signature::Body;
use crate::identity::{Identity, Reason};
use crate::policy::{CompileContext, Knowledge};
use crate::units::{OrOn, Spanned, Toggle};
use http::{HeaderName, HeaderValue};
use pingora_http::RequestHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::SystemTime;

/// The certificate as endpoints get it (RFC 9440 §2.2).
static CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");

/// The settings of `mtls`; all have a default.
pub type Config = OrOn<Settings>;

/// The settings of `mtls`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MtlsMethod")]
pub struct Settings {
    /// What of the certificate is the subject that endpoints are told: the distinguished name by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<NameOf>,
    /// Whose certificates are those that no consumer has among its credentials: nobody's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<Spanned<ConsumerOf>>,
    /// Sends the certificate to the endpoint, in `Client-Cert` (RFC 9440). Off by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<Toggle>,
}

/// What of a certificate tells who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "MtlsIdentity")]
pub enum NameOf {
    /// The distinguished name in the form of RFC 4514, the last part first.
    #[default]
    Subject,
    CommonName,
    /// The only alternative name that is a host.
    Dns,
    /// The only alternative name that is a URI.
    Uri,
    /// The only alternative name that is an address of mail.
    Email,
    /// SHA-256 of the certificate, in hexadecimal.
    Fingerprint,
}

impl NameOf {
    fn attribute(self) -> Attribute {
        match self {
            NameOf::Subject => Attribute::Subject,
            NameOf::CommonName => Attribute::CommonName,
            NameOf::Dns => Attribute::Dns,
            NameOf::Uri => Attribute::Uri,
            NameOf::Email => Attribute::Email,
            NameOf::Fingerprint => Attribute::Fingerprint,
        }
    }
}

/// Whose a certificate is that no consumer has among its credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "MtlsConsumer")]
pub enum ConsumerOf {
    /// It is refused.
    Known,
    /// That of the consumer whose name is the `identity`.
    Identity,
}

/// Makes it ready for requests.
pub(super) fn compile(
    config: &Spanned<Config>,
    cx: &mut CompileContext<'_>,
) -> Result<Arc<dyn Method>, Diagnostic> {
    let known = cx.known_certificates();
    if !cx.asks_clients() {
        let message = "no client is asked for a certificate";
        let hint = "give a listener, or an entry of `certificates`, a `client_ca`";
        return Err(Diagnostic::error(message, config.span()).hint(hint));
    }
    let settings = &config.0;
    if let Some(consumer) = &settings.consumer
        && **consumer == ConsumerOf::Known
        && known.is_none()
    {
        let message = "no consumer has a certificate among its credentials";
        let hint = "`consumers: {acme: {credentials: {mtls: {subject: …}}}}`";
        return Err(Diagnostic::error(message, consumer.span()).hint(hint));
    }
    Ok(Arc::new(Mtls {
        known: known.unwrap_or_default(),
        identity: settings.identity.unwrap_or_default().attribute(),
        consumer: settings.consumer.as_ref().map(|consumer| **consumer),
        client_cert: settings.client_cert.is_some_and(|on| on.0),
    }))
}

struct Mtls {
    known: Arc<KnownCertificates>,
    identity: Attribute,
    consumer: Option<ConsumerOf>,
    client_cert: bool,
}

/// What the client showed, if anything.
fn shown<'a>(view: View<'a>) -> Option<&'a ClientCertificate> {
    view.facts.connection.tls.as_ref()?.client.as_deref()
}

impl Mtls {
    fn caller(&self, certificate: &ClientCertificate, now: SystemTime) -> Result<Identity, Reason> {
        if !certificate.is_valid_at(now) {
            return Err(Reason::CertificateExpired);
        }
        let subject = certificate.value(self.identity).cloned();
        let consumer = match (self.known.find(certificate)?, self.consumer) {
            (Some(known), _) => Some(known.clone()),
            (None, None) => None,
            (None, Some(ConsumerOf::Known)) => return Err(Reason::CertificateUnknown),
            (None, Some(ConsumerOf::Identity)) => {
                Some(subject.clone().ok_or(Reason::CertificateName)?)
            }
        };
        Ok(Identity {
            method: "mtls",
            credential: Some(certificate.fingerprint.clone()),
            consumer,
            // endpoints that go by it must not get none from one of two names
            subject: Some(subject.ok_or(Reason::CertificateName)?),
            claims: Some(certificate.claims().clone()),
            expires_at: Some(certificate.not_after),
            ..Identity::default()
        })
    }
}

impl Method for Mtls {
    fn carriers(&self) -> &[Carrier] {
        &[Carrier::ClientCertificate]
    }

    fn finds(&self) -> Knowledge {
        Knowledge {
            scopes: false,
            claims: true,
        }
    }

    fn is_presented(&self, view: View<'_>) -> bool {
        shown(view).is_some()
    }

    fn judge<'a>(&'a self, view: View<'a>) -> Judgement<'a> {
        let certificate = match shown(view) {
            Some(certificate) => certificate,
            None => return Judgement::Now(Err(Reason::Missing.into())),
        };
        let judged = self.caller(certificate, SystemTime::now()).map(|identity| {
            let field = self.client_cert.then(|| certificate.field().cloned());
            Accepted {
                identity: Arc::new(identity),
                headers: field.map(|field| (CLIENT_CERT.clone(), field)).into_iter().collect(),
                body: Body::Unsaid,
                set_cookies: Vec::new(),
            }
        });
        Judgement::Now(judged.map_err(Into::into))
    }

    fn strip(&self, _: &mut RequestHeader) {
        // it stands in no field
    }

    fn challenge(&self, _: Reason) -> Option<HeaderValue> {
        None
    }

    fn is_last(&self) -> bool {
        true
    }
}
