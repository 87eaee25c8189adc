//! Whose certificates clients may show.

use super::super::Compiler;
use crate::config::model;
use crate::diagnostic::Diagnostic;
use crate::tls::{Certificates, ClientAuthorities, ClientsError, Written};
use crate::units::{Span, Spanned, Toggle};
use std::sync::Arc;
use std::time::SystemTime;

/// The authorities of a listener; none where they have errors, which refuse the configuration.
pub fn of_listener(
    compiler: &mut Compiler<'_>,
    listener: &model::Listener,
) -> Option<Arc<ClientAuthorities>> {
    let written = listener.client_ca.as_ref()?;
    if listener.tls.is_none() {
        let message = "`client_ca` has no effect without `tls`";
        let hint = "certificates are shown in the TLS handshake";
        compiler.report(Diagnostic::error(message, written.span()).hint(hint));
        return None;
    }
    compile(compiler, written)
}

/// The authorities that stand in one place; none where they have errors.
pub fn compile(
    compiler: &mut Compiler<'_>,
    written: &Spanned<model::ClientCa>,
) -> Option<Arc<ClientAuthorities>> {
    let fields = &written.0;
    let at = |span: Span| match span.is_known() {
        true => span,
        // the short form has no place of its own
        false => written.span(),
    };
    let lists = fields.crl.iter().flatten();
    let authorities = ClientAuthorities::new(&Written {
        authorities: &fields.file.text,
        lists: lists.map(|list| &list.text[..]).collect(),
        required: matches!(&fields.required, Some(required) if **required == Toggle::ON),
    });
    let authorities = match authorities {
        Ok(authorities) => authorities,
        Err(error) => {
            let (file, hint) = match &error {
                ClientsError::NoList | ClientsError::MalformedList(_) => {
                    let first = fields.crl.iter().flatten().next();
                    let hint = "such as `openssl ca -gencrl` writes";
                    (first.map_or(written.span(), |list| list.span()), Some(hint))
                }
                ClientsError::NoAuthority(_) => {
                    let hint = "whoever has its key could sign for anybody; name the authority that signed it, and the \
                                client among the consumers";
                    (fields.file.span(), Some(hint))
                }
                _ => (fields.file.span(), None),
            };
            let diagnostic = Diagnostic::error(format!("`client_ca`: {error}"), at(file));
            compiler.report(match hint {
                Some(hint) => diagnostic.hint(hint),
                None => diagnostic,
            });
            return None;
        }
    };
    let now = SystemTime::now();
    let (authorities_end, lists_end) = authorities.ends();
    if authorities_end.is_some_and(|end| end < now) {
        let message = "an authority of `client_ca` has expired";
        let hint = "it is trusted until it is taken out of the file";
        compiler.report(Diagnostic::warning(message, at(fields.file.span())).hint(hint));
    }
    if lists_end.is_some_and(|end| end < now) {
        let message = "a list of revoked certificates is past its `nextUpdate`";
        let hint = "no certificate of its authority is accepted until there is a newer one";
        let first = fields.crl.iter().flatten().next();
        let span = first.map_or(written.span(), |list| list.span());
        compiler.report(Diagnostic::warning(message, at(span)).hint(hint));
    }
    Some(Arc::new(authorities))
}

/// What one host demands of its clients must not depend on which of its certificates a client can verify.
pub fn check(compiler: &mut Compiler<'_>, certificates: &Certificates, at: Span) {
    if let Some((host, one, other)) = certificates.contradiction() {
        let message = format!(
            "certificates `{}` and `{}` both stand for `{host}`, and ask for different client certificates",
            one.name(),
            other.name()
        );
        let hint = "give both the same `client_ca`";
        compiler.report(Diagnostic::error(message, at).hint(hint));
    }
}
