//! What clients are told of a limit.
//!
//! `RateLimit-Policy: "rate_limit";q=100;w=60` and `RateLimit: "rate_limit";r=42;t=17`
//! (draft-ietf-httpapi-ratelimit-headers-11), one item for each policy, by its key; what is counted by is not told. `t`
//! is when more is left: of a window, when the oldest of what counts is forgotten; of a bucket, when it is full; for a
//! refused request, when it may be asked again. Legacy clients get `X-RateLimit-Limit`, `-Remaining` and `-Reset` of the
//! policy that leaves them the least.

use crate::exchange::Standing;
use crate::units::whole_seconds;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use pingora_http::ResponseHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::time::Duration;

static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static LEGACY_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
static LEGACY_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
static LEGACY_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The fields that tell clients where they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "RateLimitHeaders")]
pub enum Style {
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11).
    #[default]
    Standard,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, in seconds from now.
    Legacy,
    Off,
}

/// What is the same in all answers.
pub struct Told {
    /// All that may be left: the limit, or the burst.
    most: u64,
    /// `"rate_limit"`.
    item: Box<str>,
    /// `"rate_limit";q=100;w=60`.
    policy: Box<str>,
}

impl Told {
    pub fn new(key: &str, limit: u64, most: u64, window: Duration) -> Self {
        let item = format!("\"{key}\"");
        let seconds = whole_seconds(window);
        Self {
            most,
            policy: format!("{item};q={limit};w={seconds}").into(),
            item: item.into(),
        }
    }

    pub fn tell(&self, standing: &Standing, style: Style, response: &mut ResponseHeader) {
        match style {
            Style::Off => {}
            Style::Standard => {
                let mut item = String::with_capacity(self.item.len() + 32);
                // writing into a string does not fail
                let _ = write!(
                    item,
                    "{};r={};t={}",
                    self.item, standing.remaining, standing.after
                );
                add(response, &RATELIMIT, &item);
                add(response, &RATELIMIT_POLICY, &self.policy);
            }
            Style::Legacy => {
                let told = response.headers.get(&LEGACY_REMAINING);
                let told = told.and_then(|told| told.to_str().ok()?.parse().ok());
                if told.is_some_and(|told: u64| told <= standing.remaining) {
                    return;
                }
                let fields = [
                    (&LEGACY_LIMIT, self.most),
                    (&LEGACY_REMAINING, standing.remaining),
                    (&LEGACY_RESET, standing.after),
                ];
                for (name, number) in fields {
                    // inserting fails only when a head has more fields than its map can hold
                    let _ = response.insert_header(name.clone(), HeaderValue::from(number));
                }
            }
        }
    }
}

/// Adds a member to a list, in one field: not every client joins several.
fn add(response: &mut ResponseHeader, name: &HeaderName, member: &str) {
    let mut value = Vec::new();
    for before in response.headers.get_all(name) {
        value.extend_from_slice(before.as_bytes());
        value.extend_from_slice(b", ");
    }
    value.extend_from_slice(member.as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
        let _ = response.insert_header(name.clone(), value);
    }
}
