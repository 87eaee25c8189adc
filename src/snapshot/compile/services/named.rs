//! Services that policies name, to send something there beside what the route sends.

use super::{Compiler, unknown};
use crate::diagnostic::Diagnostic;
use crate::identity::{Consumers, Proofs};
use crate::policy::compile::Named;
use crate::units::{Name, Spanned};
use crate::upstream::Service;
use std::sync::Arc;

impl Named for Compiler<'_> {
    fn service(&mut self, name: &Spanned<Name>) -> Result<Option<Arc<Service>>, Diagnostic> {
        let text = name.as_str();
        self.refers_to("service", text);
        if let Some(service) = self.services.get(text) {
            return Ok(service.clone());
        }
        if self.config.services.get(text).is_some() {
            let message = format!("`{text}` is a split");
            let hint = "name the service of one of its arms";
            return Err(Diagnostic::error(message, name.span()).hint(hint));
        }
        if self.is_broken("services", text) {
            return Ok(None);
        }
        Err(unknown(self, text, name.span()))
    }

    fn consumers(&self) -> &Arc<Consumers> {
        &self.consumers
    }

    fn proofs(&self) -> &Proofs {
        &self.proofs
    }

    fn asks_clients(&self) -> bool {
        let listeners = self.config.listeners.iter();
        let certificates = self.config.certificates.iter();
        listeners.filter(|(_, one)| one.client_ca.is_some()).count() > 0
            || certificates.filter(|(_, one)| one.client_ca.is_some()).count() > 0
            // what could not be read may be what asks for them
            || self.config.listeners.has_broken()
            || self.config.certificates.has_broken()
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }
}
