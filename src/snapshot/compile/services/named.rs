//! Services that policies name, to send something there beside what the route sends.

use super::{Compiler, unknown};
use crate::diagnostic::Diagnostic;
use crate::discovery::Resolver;
use crate::identity::Consumers;
use crate::identity::certificate::KnownCertificates;
use crate::identity::credentials::{ApiKeys, passwords::Passwords};
use crate::identity::signature::KnownKeys;
use crate::issuers::Issuer;
use crate::policy::compile::Named;
use crate::snapshot::compile::{issuers, stores};
use crate::store::Store;
use crate::units::{Name, Span, Spanned};
use crate::upstream::Service;
use http::HeaderName;
use std::sync::Arc;
use zeroize::Zeroizing;

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

    fn issuer(&mut self, name: &Spanned<Name>) -> Result<Option<Arc<Issuer>>, Diagnostic> {
        issuers::named(self, name)
    }

    fn store(&mut self, name: &Spanned<Name>) -> Result<Option<Arc<Store>>, Diagnostic> {
        stores::named(self, name)
    }

    fn takes_tokens_of(&mut self, issuer: &str) {
        self.refers_to("issuer's tokens", issuer);
    }

    fn resolver(&mut self, asks: bool) -> Arc<Resolver> {
        self.asks_dns |= asks;
        self.resolver.clone()
    }

    fn consumers(&self) -> &Arc<Consumers> {
        &self.consumers
    }

    fn known_certificates(&mut self) -> Option<Arc<KnownCertificates>> {
        self.refers_to("credential", "mtls");
        let known = self.proofs.certificates.clone();
        (!known.is_empty() || self.config.consumers.has_broken()).then_some(known)
    }

    fn signature_keys(&mut self) -> Option<Arc<KnownKeys>> {
        self.refers_to("credential", "signature");
        let known = self.proofs.signatures.clone();
        // some of them may have errors, which are reported where they are written
        let written = self.config.consumers.iter().any(|(_, consumer)| {
            let credentials = consumer.credentials.as_ref();
            credentials.is_some_and(|credentials| credentials.signature.is_some())
        });
        (written || self.config.consumers.has_broken()).then_some(known)
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

    fn api_keys(&mut self) -> Option<Arc<ApiKeys>> {
        self.refers_to("credential", "api_key");
        let keys = self.credentials.api_keys.clone();
        // where consumers could not be read, some of them may have had keys
        let broken = self.config.consumers.has_broken();
        keys.or_else(|| broken.then(|| Arc::new(ApiKeys::none())))
    }

    fn passwords(&mut self) -> Option<Arc<Passwords>> {
        self.refers_to("credential", "basic");
        let passwords = self.credentials.passwords.clone();
        passwords.or_else(|| self.config.consumers.has_broken().then(Arc::default))
    }

    fn cookie_secrets(&mut self, at: Span) -> Option<Vec<Zeroizing<Vec<u8>>>> {
        super::balance::cookie_secrets(self, at)
    }

    fn plans(&self) -> Vec<&str> {
        self.config.plans.names().collect()
    }

    fn tells(&mut self, name: &HeaderName) {
        self.told.insert(name.clone());
    }

    fn reads(&mut self, name: &HeaderName) {
        self.carriers.insert(name.clone());
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }
}
