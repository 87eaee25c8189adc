//! `plan`: whether the limits of plans act here. They do, unless it is `off`.
//!
//! What a plan limits stands at the plan, since it was bought for all routes: `rate_limit`, `quota` and `concurrency`,
//! with a count for each consumer. They act wherever `auth` finds out who calls, beside the limits of the route and
//! before them. `plan: off` lets a route out, such as one that asks how much is left; `plan: {lock: on}` sees to it that
//! none is.
//!
//! ```yaml
//! plans:
//!   bronze: {rate_limit: {limit: 60/1m}, concurrency: {limit: 2}}
//! issuers: {idp: {issuer: "https://idp.example.com/", audience: orders, plan: tier}}
//! policies: {auth: {jwt: idp}}
//! routes:
//!   all: {match: {path: /**}, respond: 204}
//!   account: {match: {path: /account}, respond: 204, policies: {plan: off}}
//! ```

use super::{CompileContext, Hooks, Policy, Stage};
use crate::diagnostic::Diagnostic;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The settings of `plan`: there are none.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PlanPolicy")]
pub struct Config {}

/// See the module.
pub struct Plan;

impl Policy for Plan {
    type Config = Config;
    const STAGE: Stage = Stage::Limit;
    // a limit that is to be tried out says so itself, at its plan
    const ALTERS: bool = true;
    const CONDITIONAL: bool = false;
    const BARE: bool = true;

    fn compile(_: &Config, cx: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic> {
        match cx.key() {
            "plan" => Ok(Hooks::new()),
            key => {
                let message = format!("`{key}` turns nothing on: plans are chosen by who calls");
                Err(Diagnostic::error(message, cx.span()).hint("write `plan`"))
            }
        }
    }
}
