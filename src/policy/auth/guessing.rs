//! `guessing`: how many wrong passwords and keys may be tried, where [`crate::identity::guessing`] says what is counted.
//!
//! Whoever has tried too many gets 429 `auth.guessing` with `Retry-After`, whatever is sent, and before it is verified: the
//! answer is the same for names that somebody has and for those that nobody has, for right passwords and for wrong ones.
//! Only passwords and keys are counted. Tokens and signatures can't be guessed, and refusing them for what others send would
//! hold up, behind the one address of a mobile network, all whose token ends at a bad moment.
//!
//! What is counted belongs to all policies with the same limits, and is kept over reloads.

use super::{Judgement, Method, Refusal};
use crate::diagnostic::Diagnostic;
use crate::exchange::View;
use crate::exchange::fact::client_key;
use crate::identity::Reason;
use crate::identity::guessing::{Brake, Braked, Charge, Guess, Limit};
use crate::observe::metrics::AuthMetrics;
use crate::policy::CompileContext;
use crate::policy::auth::Accepted;
use crate::problem::{Kind, Problem};
use crate::state::{Kept, monotonic_nanos_coarse};
use crate::units::{OrOff, Rate, Spanned};
use futures::FutureExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

/// Failures for one address: who shares one with many needs some room.
const PER_ADDRESS: u64 = 20;
/// Failures for one name, from all addresses at which it is not known.
const PER_NAME: u64 = 10;
const WINDOW: Duration = Duration::from_secs(60);

/// The longest window: who has waited for a day has waited long enough.
const WINDOW_MAX: Duration = Duration::from_secs(24 * 3600);

/// How many wrong passwords and keys may be tried.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GuessingLimits")]
pub struct Settings {
    /// Failures of a client address, an IPv6 address by its /64: `20/1m` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_address: Option<Spanned<OrOff<Rate>>>,
    /// Failures for a user name, from anywhere: `10/1m` by default. Where the name was let in lately, it is counted for that
    /// address alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_name: Option<Spanned<OrOff<Rate>>>,
}

/// Whether a credential can be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guessed {
    Never,
    /// It is one word.
    Alone,
    /// It belongs to a name.
    ForAName,
}

/// What a request tries.
pub struct Tried<'v> {
    /// The name, whether anybody has it or not.
    pub name: Option<Cow<'v, str>>,
    /// The whole credential.
    pub credential: Cow<'v, [u8]>,
}

/// The brake of one policy.
pub struct Guard {
    state: Arc<Held>,
    metrics: Arc<AuthMetrics>,
}

/// What outlives a snapshot.
struct Held {
    brake: Brake,
    /// SipHash with a key that the process draws.
    hasher: RandomState,
}

impl Kept for Held {
    fn export(&self) -> Option<serde_json::Value> {
        // hashes mean nothing to another process
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

/// Makes it ready, unless it is off or nothing that the methods take can be guessed.
pub(super) fn compile(
    written: &Option<Spanned<OrOff<Settings>>>,
    methods: impl Iterator<Item = Guessed>,
    cx: &mut CompileContext<'_>,
) -> Option<Guard> {
    let guessed = methods.max().unwrap_or(Guessed::Never);
    if let Some(written) = written
        && guessed == Guessed::Never
    {
        let message = "`guessing` has no effect: none of the methods takes what can be guessed";
        let hint =
            "it counts passwords and keys; tokens, signatures and certificates can't be guessed";
        cx.report(Diagnostic::error(message, written.span()).hint(hint));
    }
    let usual = Settings::default();
    let settings = match written.as_ref().map(|written| &**written) {
        Some(OrOff::Off) => return None,
        Some(OrOff::On(settings)) => settings,
        None => &usual,
    };
    if let Some(per_name) = &settings.per_name
        && guessed == Guessed::Alone
    {
        let message = "`per_name` has no effect: keys have no name beside them";
        cx.report(Diagnostic::error(message, per_name.span()).hint("`basic` has; leave it out"));
    }
    let per_address = limit(&settings.per_address, PER_ADDRESS, cx);
    let per_name = limit(&settings.per_name, PER_NAME, cx);
    let counts = per_address.is_some() || per_name.is_some();
    if guessed == Guessed::Never || !counts {
        return None;
    }
    // one place for all, or each route would give the same guesses again
    let place = if cx.is_shadow() {
        cx.place().clone()
    } else {
        "".into()
    };
    let shape = format!("guessing {per_address:?} {per_name:?} {place}");
    Some(Guard {
        state: cx.shared_as(&shape, || Held {
            brake: Brake::new(per_address, per_name),
            hasher: RandomState::new(),
        }),
        metrics: cx.metrics().auth().clone(),
    })
}

fn limit(
    written: &Option<Spanned<OrOff<Rate>>>,
    usual: u64,
    cx: &mut CompileContext<'_>,
) -> Option<Limit> {
    let usual = Rate {
        count: NonZeroU64::new(usual).unwrap_or(NonZeroU64::MIN),
        window: crate::units::Duration(WINDOW),
    };
    let rate = match written.as_ref() {
        None => usual,
        Some(written) => {
            let rate = written.on()?;
            if rate.window.0 > WINDOW_MAX {
                let message = format!("the window of `{rate}` is too long");
                let hint = "a day at most: `100/1d`";
                cx.report(Diagnostic::error(message, written.span()).hint(hint));
            }
            rate
        }
    };
    Some(rate.into())
}

impl Guard {
    /// Judges by this method, if there is a try left.
    pub fn judge<'a>(&'a self, method: &'a dyn Method, view: View<'a>) -> Judgement<'a> {
        let now = monotonic_nanos_coarse();
        let mut guess = None;
        if !self.state.brake.is_quiet(now) {
            guess = self.guess(method, view);
            let admitted = guess.map(|guess| self.state.brake.admit(&guess, now));
            if let Some(Err((braked, wait))) = admitted {
                return Judgement::Now(Err(self.refusal(braked, wait)));
            }
        }
        match method.judge(view) {
            Judgement::Now(judged) => {
                let guess = guess.or_else(|| self.guess(method, view));
                self.settle(guess, None, &judged);
                Judgement::Now(judged)
            }
            // it takes time, in which others must not be tried without being counted
            Judgement::Later(judged) => Judgement::Later(
                async move {
                    let guess = self.guess(method, view);
                    let brake = &self.state.brake;
                    let reserve = |guess| brake.reserve(guess, monotonic_nanos_coarse());
                    let charge = match guess.as_ref().map(reserve) {
                        Some(Err((braked, wait))) => return Err(self.refusal(braked, wait)),
                        Some(Ok(charge)) => Some(charge),
                        None => None,
                    };
                    let judged = judged.await;
                    self.settle(guess, charge, &judged);
                    judged
                }
                .boxed(),
            ),
        }
    }

    fn settle(
        &self,
        guess: Option<Guess>,
        charge: Option<Charge>,
        judged: &Result<Accepted, Refusal>,
    ) {
        let Some(guess) = guess else {
            return;
        };
        let (brake, now) = (&self.state.brake, monotonic_nanos_coarse());
        match judged {
            Err(Refusal::Credential(reason)) if is_wrong(*reason) => {
                brake.failed(&guess, charge, now);
                return;
            }
            Ok(_) => brake.succeeded(&guess, now),
            Err(_) => {}
        }
        if let Some(charge) = charge {
            brake.refund(&guess, charge);
        }
    }

    fn guess(&self, method: &dyn Method, view: View<'_>) -> Option<Guess> {
        let Tried { name, credential } = method.tried(view)?;
        let hasher = &self.state.hasher;
        let address = view.facts.client_address.map(client_key);
        // what begins alike is not the same
        let address = address.map(|address| hasher.hash_one(("address", address)));
        let alone = hasher.hash_one(("credential", address, &credential));
        Some(match name {
            Some(name) => {
                let pair = hasher.hash_one(("pair", address, &name));
                Guess {
                    address,
                    name: Some(hasher.hash_one(("name", &name))),
                    pair,
                    whole: alone,
                }
            }
            None => Guess {
                address,
                name: None,
                pair: alone,
                whole: alone,
            },
        })
    }

    fn refusal(&self, braked: Braked, wait: u64) -> Refusal {
        let reason = match braked {
            Braked::Address => Reason::GuessingAddress,
            Braked::Name => Reason::GuessingName,
        };
        self.metrics.refused(reason);
        Problem::new(Kind::AuthGuessing)
            .retry_after(Duration::from_nanos(wait))
            .source(reason.code())
            .into()
    }
}

/// Whether it was a guess that is wrong. Who has a key that is over or revoked did not guess it.
fn is_wrong(reason: Reason) -> bool {
    use Reason::{BasicPassword, BasicUser, KeyUnknown};
    matches!(reason, KeyUnknown | BasicUser | BasicPassword)
}
