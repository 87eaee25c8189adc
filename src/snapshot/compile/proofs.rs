//! The certificates and keys that consumers prove themselves with.

use super::Compiler;
use crate::config::model::{CertificateName, KeyEncoding, SignatureKey};
use crate::diagnostic::Diagnostic;
use crate::identity::Proofs;
use crate::identity::certificate::{self, Attribute, KnownCertificates};
use crate::identity::signature::{Key, KnownKeys};
use crate::units::{Span, Spanned};
use ahash::AHashMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Takes those of all consumers together.
pub fn compile(compiler: &mut Compiler<'_>) {
    let config = compiler.config;
    let mut certificates = KnownCertificates::default();
    let mut keys = KnownKeys::default();
    let mut ids: AHashMap<&str, Span> = AHashMap::new();
    for (name, written) in &config.consumers {
        let Some(credentials) = &written.credentials else {
            continue;
        };
        let consumer: Arc<str> = name.as_str().into();
        if credentials.is_empty() {
            let message = "`credentials` holds none";
            compiler.report(Diagnostic::error(message, credentials.span()));
        }
        for one in credentials.mtls.iter().flatten() {
            known_certificate(compiler, one, &consumer, &mut certificates);
        }
        for one in credentials.signature.iter().flatten() {
            let Some(key) = key(compiler, one) else {
                continue;
            };
            let id = one.id.as_ref();
            let (id, at) = id.map_or((name.as_str(), one.span()), |id| (id.as_str(), id.span()));
            let before = ids.insert(id, at);
            if keys.add(id, key, &consumer).is_some() {
                let message = format!("two keys have the id `{id}`");
                let diagnostic = Diagnostic::error(message, at)
                    .hint("`id` tells them apart; it is the `keyid` of the signatures");
                compiler.report(match before {
                    Some(before) => diagnostic.related(before, "the other one is here"),
                    None => diagnostic,
                });
            }
        }
    }
    compiler.proofs = Proofs {
        certificates: Arc::new(certificates),
        signatures: Arc::new(keys),
    };
}

/// A certificate or key that no route takes lets nobody in.
pub fn check_used(compiler: &mut Compiler<'_>) {
    let config = compiler.config;
    let written = || {
        config
            .consumers
            .iter()
            .filter_map(|(_, one)| one.credentials.as_ref())
    };
    let certificates = written().flat_map(|one| one.mtls.iter().flatten());
    let keys = written().flat_map(|one| one.signature.iter().flatten());
    let certificate = certificates.map(Spanned::span).next();
    let key = keys.map(Spanned::span).next();
    for (at, what, method) in [
        (certificate, "client certificates", "mtls"),
        (key, "signatures", "signature"),
    ] {
        if let Some(at) = at
            && !compiler.is_used("credential", method)
        {
            let message = format!("no route takes {what}");
            let hint = format!("take them with `policies: {{auth: {{{method}: on}}}}`");
            compiler.report(Diagnostic::error(message, at).hint(hint));
        }
    }
}

fn known_certificate(
    compiler: &mut Compiler<'_>,
    written: &Spanned<CertificateName>,
    consumer: &Arc<str>,
    known: &mut KnownCertificates,
) {
    let (attribute, value): (_, Cow<'_, str>) = match &**written {
        CertificateName::Subject(name) => match certificate::written_name(name) {
            Some(name) => (Attribute::Subject, name.into()),
            None => {
                let shown = name.escape_debug();
                let message =
                    format!("`{shown}` is not a distinguished name in the form of RFC 4514");
                let hint = "such as `CN=orders,O=Acme`, the last part first: \
                            `openssl x509 -in cert.pem -noout -subject -nameopt RFC2253`";
                compiler.report(Diagnostic::error(message, written.span()).hint(hint));
                return;
            }
        },
        CertificateName::CommonName(name) => (Attribute::CommonName, name.into()),
        CertificateName::Dns(name) => (Attribute::Dns, name.to_ascii_lowercase().into()),
        CertificateName::Uri(uri) => (Attribute::Uri, uri.into()),
        CertificateName::Email(email) => (Attribute::Email, email.into()),
        CertificateName::Fingerprint(text) => {
            let digits = text.replace(':', "").to_ascii_lowercase();
            let is_one = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_one {
                let message = format!("`{text}` is not the SHA-256 of a certificate");
                let hint = "64 hexadecimal digits: `openssl x509 -in cert.pem -noout -fingerprint -sha256`";
                compiler.report(Diagnostic::error(message, written.span()).hint(hint));
                return;
            }
            (Attribute::Fingerprint, digits.into())
        }
    };
    if value.is_empty() {
        let message = "an empty name tells nobody";
        compiler.report(Diagnostic::error(message, written.span()));
        return;
    }
    if let Some(other) = known.add(attribute, &value, consumer) {
        let message = format!("this certificate is that of consumer `{other}` too");
        let hint = "one certificate is one consumer's";
        compiler.report(Diagnostic::error(message, written.span()).hint(hint));
    }
}

/// The key; none where it has errors.
fn key(compiler: &mut Compiler<'_>, written: &Spanned<SignatureKey>) -> Option<Key> {
    let mut failed = |message: String, at: Span, hint: &'static str| {
        compiler.report(Diagnostic::error(message, at).hint(hint));
        None
    };
    if let Some(encoding) = &written.encoding
        && written.key.is_none()
    {
        let message = "`encoding` has no effect without `key`".to_owned();
        return failed(message, encoding.span(), "a public key is always PEM");
    }
    match (&written.key, &written.public_key) {
        (Some(secret), None) => {
            let text = secret.expose().as_bytes();
            let base64 = written.encoding.as_ref();
            let bytes = match base64.map(|encoding| **encoding) {
                Some(KeyEncoding::Base64) => STANDARD.decode(text).map(Zeroizing::new).ok(),
                _ => Some(Zeroizing::new(text.to_vec())),
            };
            let Some(bytes) = bytes else {
                let message = "the key is not base64".to_owned();
                return failed(
                    message,
                    secret.span(),
                    "with padding, such as `base64` writes it",
                );
            };
            match Key::secret(&bytes) {
                Ok(key) => Some(key),
                Err(error) => {
                    let hint = "such as `openssl rand -base64 32` makes";
                    failed(error.to_string(), secret.span(), hint)
                }
            }
        }
        (None, Some(file)) => match Key::public(&file.text) {
            Ok(key) => Some(key),
            Err(error) => {
                let hint = "`openssl pkey -in private.pem -pubout`: Ed25519, ECDSA on P-256 or P-384, or RSA from 2048 bits";
                failed(format!("`public_key`: {error}"), file.span(), hint)
            }
        },
        _ => {
            let message = "a key is either `key` or `public_key`".to_owned();
            let hint = "`key` is a secret that both sides have, `public_key` a file";
            failed(message, written.span(), hint)
        }
    }
}
