//! The certificates of listeners, of single files and of folders, and the secrets that key their tickets.

use super::super::Compiler;
use super::clients;
use crate::config::model::{self, ServerCertificate};
use crate::diagnostic::Diagnostic;
use crate::observe::time::rfc3339;
use crate::tls::{Certificate, CertificateError, Certificates, ClientAuthorities, TicketSecrets};
use crate::units::{CertificateFolder, FileText, Name, Span, Spanned};
use ahash::AHashMap;
use std::sync::Arc;
use std::time::SystemTime;

/// A shorter secret can be guessed.
const SECRET_BYTES_MIN: usize = 16;

/// The certificates of each entry; none where they have errors.
pub type Entries = AHashMap<String, Option<Vec<Arc<Certificate>>>>;

/// Reads all certificates.
pub fn compile(compiler: &mut Compiler<'_>) -> Entries {
    let config = compiler.config;
    let mut all = AHashMap::new();
    for (name, written) in &config.certificates.0 {
        let clients = written.client_ca.as_ref();
        let clients = clients.map(|written| clients::compile(compiler, written));
        let read = match clients {
            // one whose authorities could not be read must not be one that asks for nothing
            Some(None) => None,
            clients => entry(compiler, name, written, clients.flatten().as_ref()),
        };
        all.insert(name.as_str().to_owned(), read);
    }
    all
}

/// The certificates of one entry.
fn entry(
    compiler: &mut Compiler<'_>,
    name: &Spanned<Name>,
    written: &ServerCertificate,
    clients: Option<&Arc<ClientAuthorities>>,
) -> Option<Vec<Arc<Certificate>>> {
    if let Some(folder) = &written.dir {
        return of_folder(compiler, name, folder, clients);
    }
    let (cert, key) = (written.cert.as_ref()?, written.key.as_ref()?);
    match read(name.shared(), cert, key, clients) {
        Ok(certificate) => {
            watch_expiry(compiler, &certificate, cert.span());
            Some(vec![certificate])
        }
        Err(error) => {
            let at = if is_of_key(&error) {
                key.span()
            } else {
                cert.span()
            };
            let message = format!("certificate `{}`: {error}", name.as_str());
            compiler.report(hinted(Diagnostic::error(message, at), &error));
            None
        }
    }
}

/// All certificates of a folder, or none: a name whose own one is left out would be served with another.
fn of_folder(
    compiler: &mut Compiler<'_>,
    name: &Spanned<Name>,
    folder: &Spanned<CertificateFolder>,
    clients: Option<&Arc<ClientAuthorities>>,
) -> Option<Vec<Arc<Certificate>>> {
    let mut all = Vec::with_capacity(folder.pairs.len());
    for pair in &folder.pairs {
        // no entry has a slash in its name
        let own: Arc<str> = format!("{}/{}", name.as_str(), pair.name).into();
        match read(own, &pair.chain, &pair.key, clients) {
            Ok(certificate) => {
                watch_expiry(compiler, &certificate, folder.span());
                all.push(certificate);
            }
            Err(error) => {
                let file = if is_of_key(&error) {
                    &pair.key
                } else {
                    &pair.chain
                };
                let shown = file.path.display();
                let message = format!("certificate `{}`: `{shown}`: {error}", name.as_str());
                let mut diagnostic = Diagnostic::error(message, folder.span());
                if matches!(error, CertificateError::NoKey) {
                    let beside = pair.chain.path.with_extension("key");
                    let hint = format!(
                        "the key stands in the same file, or in `{}`",
                        beside.display()
                    );
                    diagnostic = diagnostic.hint(hint);
                }
                compiler.report(hinted(diagnostic, &error));
            }
        }
    }
    (all.len() == folder.pairs.len()).then_some(all)
}

fn read(
    name: Arc<str>,
    chain: &FileText,
    key: &FileText,
    clients: Option<&Arc<ClientAuthorities>>,
) -> Result<Arc<Certificate>, CertificateError> {
    let certificate = Certificate::from_pem(name, &chain.text, &key.text)?;
    Ok(Arc::new(certificate.asking(clients.cloned())))
}

/// Whether it is the file of the key that is wrong.
fn is_of_key(error: &CertificateError) -> bool {
    matches!(
        error,
        CertificateError::NoKey
            | CertificateError::EncryptedKey
            | CertificateError::Key(_)
            | CertificateError::KeyMismatch
    )
}

fn hinted(diagnostic: Diagnostic, error: &CertificateError) -> Diagnostic {
    match error {
        CertificateError::EncryptedKey => diagnostic
            .hint("`openssl pkey -in KEY -out NEW` decrypts it; the file's mode protects it then"),
        _ => diagnostic,
    }
}

/// An expired certificate is no reason to refuse a reload that may be about something else.
fn watch_expiry(compiler: &mut Compiler<'_>, certificate: &Certificate, at: Span) {
    let now = SystemTime::now();
    if !certificate.is_invalid_at(now) {
        return;
    }
    let what = match now < certificate.not_before() {
        true => format!("is not valid before {}", rfc3339(certificate.not_before())),
        false => format!("has expired at {}", rfc3339(certificate.not_after())),
    };
    let message = format!("certificate `{}` {what}", certificate.name());
    compiler.report(Diagnostic::warning(message, at).hint("clients refuse it"));
}

/// The certificates that a listener presents.
pub fn presented(
    compiler: &mut Compiler<'_>,
    tls: &Spanned<model::ListenerTls>,
    all: &Entries,
) -> Option<Certificates> {
    let named = tls.certificates.as_ref().map(|names| &names.0);
    let mut chosen = Vec::new();
    let mut complete = true;
    let mut take = |compiler: &mut Compiler<'_>, name: &str, at: Span| {
        compiler.refers_to("certificate", name);
        match all.get(name) {
            Some(Some(certificates)) => chosen.extend_from_slice(certificates),
            Some(None) => complete = false,
            None => {
                complete = false;
                if !compiler.is_broken("certificates", name) {
                    let known: Vec<&str> = all.keys().map(String::as_str).collect();
                    let diagnostic = compiler.unknown("certificate", name, &known, at);
                    compiler.report(diagnostic);
                }
            }
        }
    };
    match named {
        Some(named) => named
            .iter()
            .for_each(|name| take(compiler, name.as_str(), name.span())),
        None => {
            let config = compiler.config;
            config
                .certificates
                .0
                .iter()
                .for_each(|(name, _)| take(compiler, name.as_str(), name.span()));
            // one that could not be read may be the one that is missing here
            complete &= !config.certificates.has_broken();
        }
    }
    let presents = |default: &Name| match named {
        Some(named) => named.iter().any(|name| name.as_str() == default.as_str()),
        // of all, those too that could not be read
        None => {
            all.contains_key(default.as_str())
                || compiler.is_broken("certificates", default.as_str())
        }
    };
    if let Some(default) = &tls.default
        && !presents(default)
    {
        let message = format!(
            "`{}` is not one of this listener's certificates",
            default.as_str()
        );
        compiler.report(Diagnostic::error(message, default.span()));
        return None;
    }
    if let Some(default) = &tls.default
        && let Some(entry) = compiler.config.certificates.get(default.as_str())
        && entry.dir.is_some()
    {
        let message = format!(
            "`{}` is a folder, and there is one default",
            default.as_str()
        );
        let hint = "give that certificate an entry of its own, with `cert` and `key`";
        compiler.report(Diagnostic::error(message, default.span()).hint(hint));
        return None;
    }
    let default = tls.default.as_ref().map(|name| name.as_str());
    let certificates = complete
        .then(|| Certificates::new(chosen, default))
        .flatten();
    if certificates.is_none() && complete {
        let message = "a listener with `tls` needs a certificate";
        compiler
            .report(Diagnostic::error(message, tls.span()).hint("add one under `certificates`"));
    }
    certificates
}

/// What tickets are made with, if that is not made up; none where it has errors too.
pub fn ticket_secrets(compiler: &mut Compiler<'_>) -> Option<TicketSecrets> {
    let config = compiler.config;
    let secrets = config.secrets.tickets.as_ref()?;
    let mut listeners = config.listeners.iter();
    if !listeners.any(|(_, listener)| listener.tls.is_some()) && !config.listeners.has_broken() {
        let message = "`tickets` keys no ticket";
        let hint = "it has an effect beside a listener with `tls`";
        compiler.report(Diagnostic::error(message, secrets.span()).hint(hint));
    }
    let short = secrets
        .iter()
        .find(|secret| secret.expose().len() < SECRET_BYTES_MIN);
    if let Some(secret) = short {
        let message = format!("a secret of fewer than {SECRET_BYTES_MIN} bytes can be guessed");
        let hint = "such as the output of `openssl rand -hex 32`";
        compiler.report(Diagnostic::error(message, secret.span()).hint(hint));
        return None;
    }
    TicketSecrets::new(secrets.iter().map(|secret| secret.expose().as_bytes()))
}
