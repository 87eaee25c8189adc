//! What a policy is given while it is compiled.

use super::Kind;
use crate::diagnostic::Diagnostic;
use crate::discovery::Resolver;
use crate::exchange::fact::Fact;
use crate::identity::Consumers;
use crate::identity::certificate::KnownCertificates;
use crate::identity::credentials::{ApiKeys, passwords::Passwords};
use crate::identity::signature::KnownKeys;
use crate::issuers::Issuer;
use crate::observe::metrics::Metrics;
use crate::state::quotas::Quotas;
use crate::state::{Identity, Kept, State};
use crate::store::Store;
use crate::units::{Name, Span, Spanned};
use crate::upstream::Service;
use http::HeaderName;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use zeroize::Zeroizing;

/// Finds what policies name.
pub trait Named {
    /// The service of that name; none if it has errors that are reported at its own place.
    ///
    /// # Errors
    /// There is none.
    fn service(&mut self, name: &Spanned<Name>) -> Result<Option<Arc<Service>>, Diagnostic>;

    /// The issuer of that name; none if it has errors that are reported at its own place.
    ///
    /// # Errors
    /// There is none.
    fn issuer(&mut self, name: &Spanned<Name>) -> Result<Option<Arc<Issuer>>, Diagnostic>;

    /// The store of that name; none if it has errors that are reported at its own place.
    ///
    /// # Errors
    /// There is none.
    fn store(&mut self, name: &Spanned<Name>) -> Result<Option<Arc<Store>>, Diagnostic>;

    /// Notes that tokens of that issuer are credentials, by all that is asked of them.
    fn takes_tokens_of(&mut self, issuer: &str);

    /// What asks DNS for this configuration. `asks`: for a name that it will be asked for.
    fn resolver(&mut self, asks: bool) -> Arc<Resolver>;

    /// The consumers that the configuration knows.
    fn consumers(&self) -> &Arc<Consumers>;

    /// The client certificates of all consumers, for a method that takes them; none if none is configured anywhere.
    fn known_certificates(&mut self) -> Option<Arc<KnownCertificates>>;

    /// The keys that consumers sign with, for a method that takes them; none if no key is configured anywhere.
    fn signature_keys(&mut self) -> Option<Arc<KnownKeys>>;

    /// Whether any client is asked for a certificate.
    fn asks_clients(&self) -> bool;

    /// The API keys of all consumers, for a method that takes them; none if no key is configured anywhere.
    fn api_keys(&mut self) -> Option<Arc<ApiKeys>>;

    /// The passwords of all consumers, for a method that takes them; none if no password is configured anywhere.
    fn passwords(&mut self) -> Option<Arc<Passwords>>;

    /// What cookies are sealed with, the first of which seals; none if there are errors, which are reported.
    fn cookie_secrets(&mut self, at: Span) -> Option<Vec<Zeroizing<Vec<u8>>>>;

    /// The names of all plans.
    fn plans(&self) -> Vec<&str>;

    /// Takes down a field that endpoints believe to come from the gateway: clients' own do not get there, on any route.
    fn tells(&mut self, name: &HeaderName);

    /// Takes down a field in which clients send a credential.
    fn reads(&mut self, name: &HeaderName);

    /// Takes down an error, which refuses the configuration once everything else has been looked at.
    fn report(&mut self, diagnostic: Diagnostic);
}

/// The place where a policy is written, and what it may reach from there.
///
/// `compile` waits for nothing and spawns nothing, so that it can be tested and benched.
pub struct CompileContext<'a> {
    kind: &'static Kind,
    /// `scope/key`: where counters belong to, and the label of metrics.
    place: Arc<str>,
    span: Span,
    shadow: bool,
    of_plan: bool,
    state: &'a State,
    metrics: &'a Metrics,
    named: &'a mut dyn Named,
}

impl<'a> CompileContext<'a> {
    pub fn new(
        kind: &'static Kind,
        place: Arc<str>,
        span: Span,
        state: &'a State,
        metrics: &'a Metrics,
        named: &'a mut dyn Named,
    ) -> Self {
        Self {
            kind,
            place,
            span,
            shadow: false,
            of_plan: false,
            state,
            metrics,
            named,
        }
    }

    /// The same for a policy with `mode: shadow`, or not.
    pub fn shadowed(self, shadow: bool) -> Self {
        Self { shadow, ..self }
    }

    /// The same for a policy that stands at a plan, or not.
    pub fn of_plan(self, of_plan: bool) -> Self {
        Self { of_plan, ..self }
    }

    /// Whether it stands at a plan: it then acts on its consumers, over all routes.
    pub fn is_of_plan(&self) -> bool {
        self.of_plan
    }

    /// What it is called to clients: the name of a plan is nobody's business.
    pub fn told_as(&self) -> String {
        match self.of_plan {
            true => format!("plan.{}", self.key()),
            false => self.key().to_owned(),
        }
    }

    /// What is counted by where nothing is written.
    pub fn counts_by(&self) -> Option<Fact> {
        self.of_plan.then_some(Fact::Consumer)
    }

    /// Whether what it decides is only counted: what others decide must not depend on it.
    pub fn is_shadow(&self) -> bool {
        self.shadow
    }

    /// `scope/key`, such as `route.orders/rate_limit.shield`.
    pub fn place(&self) -> &Arc<str> {
        &self.place
    }

    /// Its key, such as `rate_limit.shield`.
    pub fn key(&self) -> &str {
        self.place
            .rsplit_once('/')
            .map_or(&*self.place, |(_, key)| key)
    }

    /// A number that no other policy of this process has.
    pub fn number(&self) -> u32 {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Where its key stands, for errors about the whole.
    pub fn span(&self) -> Span {
        self.span
    }

    pub fn metrics(&self) -> &'a Metrics {
        self.metrics
    }

    /// The service of that name, which this makes one that is used; none if it has errors of its own.
    ///
    /// # Errors
    /// There is none of that name, or it is a split.
    pub fn service(&mut self, name: &Spanned<Name>) -> Result<Option<Arc<Service>>, Diagnostic> {
        self.named.service(name)
    }

    /// The issuer of that name, which this makes one that is used; none if it has errors of its own.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn issuer(&mut self, name: &Spanned<Name>) -> Result<Option<Arc<Issuer>>, Diagnostic> {
        self.named.issuer(name)
    }

    /// The store of that name, which this makes one that is used; none if it has errors of its own.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn store(&mut self, name: &Spanned<Name>) -> Result<Option<Arc<Store>>, Diagnostic> {
        self.named.store(name)
    }

    /// Notes that tokens of that issuer are credentials, by all that is asked of them.
    pub fn takes_tokens_of(&mut self, issuer: &str) {
        self.named.takes_tokens_of(issuer);
    }

    /// What asks DNS for this configuration. `asks`: for a name that it will be asked for.
    pub fn resolver(&mut self, asks: bool) -> Arc<Resolver> {
        self.named.resolver(asks)
    }

    /// The consumers that the configuration knows.
    pub fn consumers(&self) -> &Arc<Consumers> {
        self.named.consumers()
    }

    /// The client certificates of all consumers, for a method that takes them; none if none is configured anywhere.
    pub fn known_certificates(&mut self) -> Option<Arc<KnownCertificates>> {
        self.named.known_certificates()
    }

    /// The keys that consumers sign with, for a method that takes them; none if no key is configured anywhere.
    pub fn signature_keys(&mut self) -> Option<Arc<KnownKeys>> {
        self.named.signature_keys()
    }

    /// Whether any client is asked for a certificate.
    pub fn asks_clients(&self) -> bool {
        self.named.asks_clients()
    }

    /// The API keys of all consumers, for a method that takes them; none if no key is configured anywhere.
    pub fn api_keys(&mut self) -> Option<Arc<ApiKeys>> {
        self.named.api_keys()
    }

    /// The passwords of all consumers, for a method that takes them; none if no password is configured anywhere.
    pub fn passwords(&mut self) -> Option<Arc<Passwords>> {
        self.named.passwords()
    }

    /// What cookies are sealed with, the first of which seals; none if there are errors, which are reported.
    pub fn cookie_secrets(&mut self, at: Span) -> Option<Vec<Zeroizing<Vec<u8>>>> {
        self.named.cookie_secrets(at)
    }

    /// The names of all plans.
    pub fn plans(&self) -> Vec<&str> {
        self.named.plans()
    }

    /// Endpoints believe that this field comes from the gateway, since it says who calls: clients' own do not get there,
    /// on any route (security requirement 5.2).
    pub fn tells(&mut self, name: &HeaderName) {
        self.named.tells(name);
    }

    /// Clients send a credential in this field.
    pub fn reads(&mut self, name: &HeaderName) {
        self.named.reads(name);
    }

    /// One of several errors. Whoever reports one goes on to the next; what is then compiled is never used.
    pub fn report(&mut self, diagnostic: Diagnostic) {
        self.named.report(diagnostic);
    }

    /// What all policies of this kind share, and keep over reloads.
    pub fn shared<T: Kept>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        self.shared_as("", make)
    }

    /// The same, where policies of this kind share several things.
    pub fn shared_as<T: Kept>(&self, what: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let identity = Identity {
            kind: self.kind.key,
            place: what.into(),
            shape: "".into(),
        };
        self.state.adopt(identity, make)
    }

    /// What quotas count in.
    ///
    /// # Errors
    /// The file that keeps it can't be opened.
    pub fn quotas(&self) -> Result<Arc<Quotas>, String> {
        let quotas = self.state.quotas()?;
        self.metrics.quotas(&quotas);
        Ok(quotas)
    }

    /// What this policy keeps over reloads: found by its place, made anew when `shape` is another, because a change of
    /// shape is one that would make the old contents meaningless.
    pub fn state<T: Kept>(&self, shape: &impl std::fmt::Debug, make: impl FnOnce() -> T) -> Arc<T> {
        let identity = Identity {
            kind: self.kind.key,
            place: self.place.clone(),
            shape: format!("{shape:?}").into(),
        };
        self.state.adopt(identity, make)
    }
}
