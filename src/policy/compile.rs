//! What a policy is given while it is compiled.

use super::Kind;
use crate::diagnostic::Diagnostic;
use crate::identity::{Consumers, Proofs};
use crate::observe::metrics::Metrics;
use crate::state::{Identity, Kept, State};
use crate::units::{Name, Span, Spanned};
use crate::upstream::Service;
use std::sync::Arc;

/// Finds what policies name.
pub trait Named {
    /// The service of that name; none if it has errors that are reported at its own place.
    ///
    /// # Errors
    /// There is none.
    fn service(&mut self, name: &Spanned<Name>) -> Result<Option<Arc<Service>>, Diagnostic>;

    /// The consumers that the configuration knows.
    fn consumers(&self) -> &Arc<Consumers>;

    /// The certificates and keys that consumers prove themselves with.
    fn proofs(&self) -> &Proofs;

    /// Whether any client is asked for a certificate.
    fn asks_clients(&self) -> bool;

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
            state,
            metrics,
            named,
        }
    }

    /// `scope/key`, such as `route.orders/rate_limit.shield`.
    pub fn place(&self) -> &Arc<str> {
        &self.place
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

    /// The consumers that the configuration knows.
    pub fn consumers(&self) -> &Arc<Consumers> {
        self.named.consumers()
    }

    /// The certificates and keys that consumers prove themselves with.
    pub fn proofs(&self) -> &Proofs {
        self.named.proofs()
    }

    /// Whether any client is asked for a certificate.
    pub fn asks_clients(&self) -> bool {
        self.named.asks_clients()
    }

    /// One of several errors. Whoever reports one goes on to the next; what is then compiled is never used.
    pub fn report(&mut self, diagnostic: Diagnostic) {
        self.named.report(diagnostic);
    }

    /// What all policies of this kind share, and keep over reloads.
    pub fn shared<T: Kept>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let identity = Identity {
            kind: self.kind.key,
            place: "".into(),
            shape: "".into(),
        };
        self.state.adopt(identity, make)
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
