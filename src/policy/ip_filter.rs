//! `ip_filter`: who may ask at all, by client address.
//!
//! An address that `deny` holds is refused, whatever `allow` says. Where there is an `allow`, everybody else is refused
//! too. The address is that of the client behind `trusted_proxies`, so a forged header decides nothing. A client without
//! an address (a Unix socket) passes unless there is an `allow`.
//!
//! ```yaml
//! policies:
//!   ip_filter: {allow: [10.0.0.0/8, "2001:db8::/32"], deny: 10.6.6.6}
//! ```

use super::{CompileContext, Flow, Hooks, OnRequest, Policy, Stage, Step};
use crate::diagnostic::Diagnostic;
use crate::exchange::Exchange;
use crate::problem::{Kind, Problem};
use crate::units::{AddressSet, Networks};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

/// See the module.
pub struct IpFilter;

/// The settings of `ip_filter`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "IpFilterPolicy")]
pub struct Config {
    /// Networks, or `{file}` with one in each line. Everybody else is refused.
    #[serde(default)]
    pub allow: Option<Networks>,
    /// Networks, or `{file}` with one in each line.
    #[serde(default)]
    pub deny: Option<Networks>,
}

impl Policy for IpFilter {
    type Config = Config;
    const STAGE: Stage = Stage::Filter;
    const ADDS_UP: bool = true;

    fn compile(config: &Config, _: &mut CompileContext<'_>) -> Result<Hooks, Diagnostic> {
        Ok(Hooks::new().on_request(Arc::new(Filter {
            allow: config.allow.as_ref().map(Networks::set),
            deny: config.deny.as_ref().map(Networks::set),
        })))
    }
}

struct Filter {
    allow: Option<AddressSet>,
    deny: Option<AddressSet>,
}

impl Filter {
    fn admits(&self, address: Option<IpAddr>) -> bool {
        let Some(address) = address else {
            return self.allow.is_none();
        };
        let denied = self
            .deny
            .as_ref()
            .is_some_and(|deny| deny.contains(address));
        !denied
            && self
                .allow
                .as_ref()
                .is_none_or(|allow| allow.contains(address))
    }
}

impl OnRequest for Filter {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange<'_>) -> Step<'a> {
        if self.admits(exchange.facts.client_address) {
            return Step::Now(Ok(Flow::Continue));
        }
        Step::Now(Err(Problem::new(Kind::IpFilter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(allow: &[&str], deny: &[&str]) -> Filter {
        let set = |networks: &[&str]| {
            (!networks.is_empty()).then(|| {
                networks
                    .iter()
                    .map(|network| network.parse().unwrap())
                    .collect::<AddressSet>()
            })
        };
        Filter {
            allow: set(allow),
            deny: set(deny),
        }
    }

    fn admits(filter: &Filter, address: &str) -> bool {
        filter.admits(Some(address.parse().unwrap()))
    }

    #[test]
    fn deny_beats_allow_and_allow_refuses_the_rest() {
        let filter = filter(&["10.0.0.0/8", "2001:db8::/32"], &["10.6.6.6"]);
        assert!(admits(&filter, "10.1.2.3"));
        assert!(admits(&filter, "2001:db8::1"));
        assert!(!admits(&filter, "10.6.6.6"));
        assert!(!admits(&filter, "192.0.2.1"));
        assert!(!admits(&filter, "2001:db9::1"));
    }

    #[test]
    fn a_client_without_an_address_passes_unless_there_is_an_allow() {
        assert!(filter(&[], &["10.0.0.0/8"]).admits(None));
        assert!(!filter(&["10.0.0.0/8"], &[]).admits(None));
    }
}
