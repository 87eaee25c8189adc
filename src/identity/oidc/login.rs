//! A login that is under way: what the browser that began it keeps, and what has to come back with it.

use super::random_text;
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a login may take.
pub const LOGIN_MAX: Duration = Duration::from_secs(600);

/// The longest target that is returned to afterwards; the cookie has to have room for it.
pub const TARGET_BYTES_MAX: usize = 1024;

/// Randomness for a login.
pub struct Randomness {
    pub id: [u8; 16],
    pub nonce: [u8; 16],
    pub verifier: [u8; 32],
}

/// One login. It is sealed into a cookie of its own, so that several tabs can log in at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The `state` of the request, and the end of the cookie's name.
    #[serde(rename = "i")]
    pub id: String,
    /// What the id token has to repeat.
    #[serde(rename = "n")]
    pub nonce: String,
    /// What proves that whoever redeems the code asked for it (RFC 7636 §4.1).
    #[serde(rename = "v")]
    pub verifier: String,
    /// Where the browser goes afterwards: a path, and a query.
    #[serde(rename = "t")]
    pub target: String,
    /// When it was begun, in seconds since the epoch.
    #[serde(rename = "a")]
    pub began: u64,
}

impl Login {
    pub fn begin(target: &str, now: Duration, randomness: &Randomness) -> Self {
        Self {
            id: random_text(&randomness.id),
            nonce: random_text(&randomness.nonce),
            verifier: random_text(&randomness.verifier),
            target: self::target(target).to_owned(),
            began: now.as_secs(),
        }
    }

    /// `code_challenge`, of the method `S256` (RFC 7636 §4.2).
    pub fn challenge(&self) -> String {
        random_text(digest(&SHA256, self.verifier.as_bytes()).as_ref())
    }

    /// Whether it may still be finished.
    pub fn is_open(&self, now: Duration) -> bool {
        let now = now.as_secs();
        // a clock that was put back does not make it live longer
        self.began <= now.saturating_add(60) && now < self.began.saturating_add(LOGIN_MAX.as_secs())
    }

    /// What goes into the cookie.
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub fn read(plain: &[u8]) -> Option<Self> {
        serde_json::from_slice(plain).ok()
    }
}

/// Whether a text can be the id of a login: the letters of base64url, as many as 16 bytes have.
pub fn is_id(text: &str) -> bool {
    text.len() == 22
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// A place on this origin to return to: the path and query, or `/` if a browser could take it for another place.
pub fn target(text: &str) -> &str {
    let is_path = text.starts_with('/') && !text.starts_with("//") && !text.starts_with("/\\");
    let is_plain = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    match is_path && is_plain && text.len() <= TARGET_BYTES_MAX {
        true => text,
        false => "/",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    fn login(target: &str) -> Login {
        let randomness = Randomness {
            id: [1; 16],
            nonce: [2; 16],
            verifier: [3; 32],
        };
        Login::begin(target, NOW, &randomness)
    }

    #[test]
    fn a_login_is_read_as_it_was_written() {
        let login = login("/a?b=c");
        assert_eq!(Login::read(&login.write()), Some(login.clone()));
        assert!(is_id(&login.id) && login.verifier.len() == 43);
        assert!(!is_id("a") && !is_id(&"=".repeat(22)));
        assert_eq!(Login::read(b"{}"), None);
    }

    #[test]
    fn the_challenge_is_that_of_the_standard() {
        // RFC 7636, appendix B
        let login = Login {
            verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into(),
            ..login("/")
        };
        assert_eq!(
            login.challenge(),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
    }

    #[test]
    fn a_login_is_open_for_ten_minutes() {
        let login = login("/");
        assert!(login.is_open(NOW));
        assert!(login.is_open(NOW + Duration::from_secs(599)));
        assert!(!login.is_open(NOW + LOGIN_MAX));
        assert!(!login.is_open(NOW - Duration::from_secs(61)));
    }

    #[test]
    fn targets_stay_on_this_origin() {
        for good in ["/", "/a/b?c=https://x/", "/%2F%2Fevil.example", "/a//b"] {
            assert_eq!(target(good), good);
        }
        for bad in [
            "",
            "a",
            "//evil.example/",
            "/\\evil.example",
            "/a\\b",
            "https://evil.example/",
            "javascript:alert(1)",
            "/a\r\nb: c",
            "/a b",
            "/é",
            "*",
        ] {
            assert_eq!(target(bad), "/", "{bad}");
        }
        let long = format!("/{}", "a".repeat(TARGET_BYTES_MAX));
        assert_eq!(target(&long), "/");
        assert_eq!(target(&long[1..]), "/");
    }
}
