//! A session: what the provider said of somebody, kept by the browser, sealed.

use super::super::Reason;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The longest part of a session in one cookie. Browsers keep 4,096 bytes, of which the name and the attributes are
/// some.
pub const PART_BYTES_MAX: usize = 3800;

/// The most cookies of one session: together they have to fit into one field of 16 KiB, beside those of others.
pub const PARTS_MAX: usize = 3;

/// Tokens are renewed this long before they end, or earlier than that by a quarter of their life.
const RENEW_BEFORE_MAX: u64 = 60;

/// One session.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The same over all renewals.
    #[serde(rename = "i")]
    pub id: [u8; 16],
    /// How often its tokens were renewed.
    #[serde(rename = "n")]
    pub serial: u32,
    /// When somebody logged in; seconds since the epoch, as all times here.
    #[serde(rename = "b")]
    pub began: u64,
    /// When it was last used, as exactly as `idle` needs.
    #[serde(rename = "s")]
    pub seen: u64,
    /// From then on the tokens are renewed, if they can be.
    #[serde(rename = "w")]
    pub renew_at: u64,
    /// From then on the tokens say nothing any more.
    #[serde(rename = "e")]
    pub ends: u64,
    /// The id token, which was verified when it came.
    #[serde(rename = "t")]
    pub id_token: String,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    /// The scopes that were granted.
    #[serde(rename = "o", default, skip_serializing_if = "String::is_empty")]
    pub scope: String,
}

/// For how long sessions are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Since the login.
    pub lifetime: Duration,
    /// Since the last request; not at all if it is none.
    pub idle: Option<Duration>,
}

/// What there is to do about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Good,
    /// Good, and its tokens are about to end.
    Renewable,
    /// Its tokens have ended, and others can be asked for.
    Lapsed,
    Over(Reason),
}

impl Session {
    /// Times for tokens that came now and hold for so many seconds.
    pub fn tokens_hold(&mut self, now: Duration, seconds: u64) {
        let now = now.as_secs();
        self.ends = now.saturating_add(seconds);
        let before = (seconds / 4).min(RENEW_BEFORE_MAX);
        self.renew_at = self.ends.saturating_sub(before);
    }

    pub fn standing(&self, now: Duration, limits: &Limits) -> Standing {
        let now = now.as_secs();
        let since = |at: u64| Duration::from_secs(now.saturating_sub(at));
        if since(self.began) >= limits.lifetime
            || limits.idle.is_some_and(|idle| since(self.seen) >= idle)
        {
            return Standing::Over(Reason::OidcExpired);
        }
        match self.refresh_token.is_some() {
            _ if now < self.renew_at => Standing::Good,
            true if now < self.ends => Standing::Renewable,
            true => Standing::Lapsed,
            false if now < self.ends => Standing::Good,
            false => Standing::Over(Reason::OidcExpired),
        }
    }

    /// Whether the browser has to be told that it was used, so that it is not taken for idle.
    pub fn is_to_be_seen(&self, now: Duration, limits: &Limits) -> bool {
        let unseen = Duration::from_secs(now.as_secs().saturating_sub(self.seen));
        limits
            .idle
            .is_some_and(|idle| unseen >= (idle / 8).max(Duration::from_secs(1)))
    }

    /// The last moment for which it can be good, whatever is renewed.
    pub fn last(&self, limits: &Limits) -> Duration {
        Duration::from_secs(self.began).saturating_add(limits.lifetime)
    }

    /// What goes into the cookies.
    pub fn write(&self) -> zeroize::Zeroizing<Vec<u8>> {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    pub fn read(plain: &[u8]) -> Option<Self> {
        serde_json::from_slice(plain).ok()
    }
}

/// The values of the cookies that hold a text, the first of which says how many there are. None if it does not fit.
pub fn parts(text: &str) -> Option<Vec<String>> {
    let count = text.len().div_ceil(PART_BYTES_MAX).max(1);
    if count > PARTS_MAX || !text.is_ascii() {
        return None;
    }
    let mut rest = text;
    (0..count)
        .map(|at| {
            let (part, after) = rest.split_at_checked(PART_BYTES_MAX.min(rest.len()))?;
            rest = after;
            Some(match at {
                0 => format!("{count}.{part}"),
                _ => part.to_owned(),
            })
        })
        .collect()
}

/// The text again. `part` gives the value of the cookie of that number, counted from 0.
pub fn joined<'p>(
    first: &'p str,
    mut part: impl FnMut(usize) -> Option<&'p str>,
) -> Option<String> {
    let (count, first) = first.split_once('.')?;
    let count = match count.as_bytes() {
        [digit @ b'1'..=b'9'] => usize::from(digit - b'0'),
        _ => return None,
    };
    if count > PARTS_MAX {
        return None;
    }
    let mut text = first.to_owned();
    for at in 1..count {
        text.push_str(part(at)?);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_700_000_000;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(NOW + seconds)
    }

    fn session(refresh_token: Option<&str>) -> Session {
        let mut session = Session {
            id: [1; 16],
            serial: 0,
            began: NOW,
            seen: NOW,
            renew_at: 0,
            ends: 0,
            id_token: "a.b.c".into(),
            refresh_token: refresh_token.map(str::to_owned),
            scope: "openid".into(),
        };
        session.tokens_hold(at(0), 300);
        session
    }

    fn limits(lifetime: u64, idle: Option<u64>) -> Limits {
        Limits {
            lifetime: Duration::from_secs(lifetime),
            idle: idle.map(Duration::from_secs),
        }
    }

    #[test]
    fn tokens_are_renewed_before_they_end_if_they_can_be() {
        use Standing::*;
        let limits = limits(3600, None);
        for (token, cases) in [
            (
                Some("r"),
                [
                    (0, Good),
                    (239, Good),
                    (240, Renewable),
                    (299, Renewable),
                    (300, Lapsed),
                    (3599, Lapsed),
                ],
            ),
            (
                None,
                [
                    (0, Good),
                    (239, Good),
                    (240, Good),
                    (299, Good),
                    (300, Over(Reason::OidcExpired)),
                    (3599, Over(Reason::OidcExpired)),
                ],
            ),
        ] {
            for (after, standing) in cases {
                assert_eq!(
                    session(token).standing(at(after), &limits),
                    standing,
                    "{token:?} {after}"
                );
            }
        }
        assert_eq!(
            session(Some("r")).standing(at(3600), &limits),
            Over(Reason::OidcExpired)
        );
    }

    #[test]
    fn a_session_that_nobody_uses_is_over() {
        let limits = limits(3600, Some(80));
        let mut session = session(Some("r"));
        assert_eq!(session.standing(at(79), &limits), Standing::Good);
        assert_eq!(
            session.standing(at(80), &limits),
            Standing::Over(Reason::OidcExpired)
        );
        assert!(!session.is_to_be_seen(at(9), &limits));
        assert!(session.is_to_be_seen(at(10), &limits));
        session.seen = NOW + 79;
        assert_eq!(session.standing(at(80), &limits), Standing::Good);
    }

    #[test]
    fn a_session_is_read_as_it_was_written() {
        for token in [None, Some("r")] {
            let session = session(token);
            assert!(Session::read(&session.write()) == Some(session));
        }
        assert!(Session::read(b"{}").is_none());
    }

    proptest! {
        #[test]
        fn parts_make_the_whole_again(length in 0_usize..PART_BYTES_MAX * 4) {
            let text: String = (0..length).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
            match parts(&text) {
                None => prop_assert!(length > PART_BYTES_MAX * PARTS_MAX),
                Some(parts) => {
                    prop_assert!(parts.len() <= PARTS_MAX);
                    prop_assert!(parts.iter().all(|part| part.len() <= PART_BYTES_MAX + 2));
                    let whole = joined(&parts[0], |at| parts.get(at).map(String::as_str));
                    prop_assert_eq!(whole.unwrap(), text);
                    let missing = joined(&parts[0], |_| None);
                    prop_assert_eq!(missing.is_some(), parts.len() == 1);
                }
            }
        }
    }

    #[test]
    fn other_counts_are_none() {
        for first in ["", "a", ".a", "0.a", "01.a", "1a", "4.a", "12.a", "+1.a"] {
            assert_eq!(joined(first, |_| Some("b")), None, "{first}");
        }
        assert_eq!(joined("2.a", |_| Some("b")).as_deref(), Some("ab"));
    }
}
