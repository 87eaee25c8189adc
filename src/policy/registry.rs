//! The kinds of policies there are: one line each. The line's place means nothing; stages order.

use super::{CompileContext, Hooks, Policy, Stage};
use crate::diagnostic::Diagnostic;
use schemars::{Schema, SchemaGenerator};
use serde::Deserialize;
use serde::Deserializer;
use std::fmt::Debug;

/// What is fixed for a kind of policy.
#[derive(Debug)]
pub struct Kind {
    /// Config key, module and metric label.
    pub key: &'static str,
    pub stage: Stage,
    pub adds_up: bool,
    pub alters: bool,
    pub conditional: bool,
    /// `on` alone is enough.
    pub bare: bool,
    /// A plan may have it.
    pub of_plans: bool,
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
}

/// The settings of one policy, of whatever kind.
pub trait Settings: Debug + Send + Sync {
    fn compile(&self, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic>;

    /// Where it acts.
    fn stage(&self) -> Stage;

    /// As it is shown to an operator; secrets are masked by their own types.
    fn shown(&self) -> serde_json::Value;
}

/// Ties settings to the policy that compiles them.
struct Of<P: Policy>(P::Config);

impl<P: Policy> Debug for Of<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl<P: Policy> Settings for Of<P> {
    fn compile(&self, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic> {
        P::compile(&self.0, cx)
    }

    fn stage(&self) -> Stage {
        P::stage(&self.0)
    }

    fn shown(&self) -> serde_json::Value {
        serde_json::to_value(&self.0).unwrap_or_default()
    }
}

macro_rules! policies {
    ($($module:ident: $policy:ident),* $(,)?) => {
        /// All kinds, by key.
        pub static KINDS: &[Kind] = &[$(Kind {
            key: stringify!($module),
            stage: <super::$module::$policy as Policy>::STAGE,
            adds_up: <super::$module::$policy as Policy>::ADDS_UP,
            alters: <super::$module::$policy as Policy>::ALTERS,
            conditional: <super::$module::$policy as Policy>::CONDITIONAL,
            bare: <super::$module::$policy as Policy>::BARE,
            of_plans: <super::$module::$policy as Policy>::OF_PLANS,
            schema: |generator| generator.subschema_for::<<super::$module::$policy as Policy>::Config>(),
        }),*];

        /// The keys of all kinds.
        pub const KEYS: &[&str] = &[$(stringify!($module)),*];

        /// Reads the settings of a policy of this kind.
        pub(super) fn settings<'de, D: Deserializer<'de>>(
            kind: &'static Kind,
            deserializer: D,
        ) -> Result<Box<dyn Settings>, D::Error> {
            match kind.key {
                $(stringify!($module) => {
                    <<super::$module::$policy as Policy>::Config>::deserialize(deserializer)
                        .map(|config| Box::new(Of::<super::$module::$policy>(config)) as Box<dyn Settings>)
                })*
                other => Err(serde::de::Error::unknown_variant(other, KEYS)),
            }
        }
    };
}

policies! { auth: Auth, authorize: Authorize, compress: Compress, concurrency: Concurrency, cors: Cors, headers: Headers, ip_filter: IpFilter, mirror: Mirror, plan: Plan, quota: Quota, rate_limit: RateLimit, respond: Respond }

/// The kind of that key.
pub fn kind_of(key: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.key == key)
}
