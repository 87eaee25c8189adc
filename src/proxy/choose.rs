//! What the choice of an endpoint goes by, found once for a request and kept over its tries: the key of
//! `consistent_hash` and the endpoint of the `sticky` cookie.

use super::context::RequestContext;
use crate::exchange::canonical::cookies;
use crate::exchange::{Scheme, View};
use crate::state::monotonic_nanos_coarse;
use crate::upstream::balance::sticky::Token;
use crate::upstream::balance::{Balance, Key};
use crate::upstream::{Choice, EndpointSet, Service};
use http::HeaderValue;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Basis {
    key: Option<Key>,
    sticky: Option<u16>,
}

impl Basis {
    /// What a request says about where it belongs. `set` is what will be chosen from.
    pub fn of(service: &Service, set: &EndpointSet, view: Option<View<'_>>) -> Self {
        let balancing = &service.maker.balancing;
        let Some(view) = view else {
            return Self::default();
        };
        let key = match &balancing.balance {
            Balance::ConsistentHash(hashing) => hashing.key.of(view),
            _ => None,
        };
        let sticky = balancing.sticky.as_ref().and_then(|sticky| {
            // somebody may have set another one of the same name for a part of the paths
            let own = cookies(&view.request.headers)
                .filter(|(name, _)| *name == sticky.cookie().as_bytes());
            own.filter_map(|(_, value)| Token::parse(value))
                .find_map(|token| set.named_by(token))
        });
        Self { key, sticky }
    }

    /// The choice of one try.
    pub fn choice<'t>(self, set: &EndpointSet, tried: &'t [u16]) -> Choice<'t> {
        Choice {
            tried,
            key: self.key,
            sticky: self.sticky,
            now: if set.takes_time() {
                monotonic_nanos_coarse()
            } else {
                0
            },
        }
    }
}

/// The cookie for a client that was answered by another endpoint than the one it has a cookie for.
pub fn cookie(context: &RequestContext, view: View<'_>) -> Option<HeaderValue> {
    let forward = context.forward.as_ref()?;
    let sticky = forward.service.maker.balancing.sticky.as_ref()?;
    let picked = forward.picked.as_ref()?;
    if forward.basis.sticky == Some(picked.at()) {
        return None;
    }
    let secure = view.facts.scheme == Scheme::Https;
    sticky.set_cookie(&picked.endpoint()?.place, secure)
}
