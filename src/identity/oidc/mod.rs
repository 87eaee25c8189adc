//! Login in a browser (OpenID Connect Core 1.0, the authorisation code flow of RFC 6749 with PKCE, RFC 7636).
//!
//! Pure: what goes into cookies and how it is sealed ([`seal`]), a login that is under way ([`login`]), a session that
//! came of it ([`session`]), and what the provider's answers have to say to count ([`tokens`]). Time and randomness are
//! arguments; nobody here asks a network.
//!
//! # What the best practices ask for
//!
//! RFC 9700 (OAuth 2.0 Security), as far as it concerns a client. Tests are in `tests/oidc.rs`, else in this folder.
//!
//! | Practice | Here | Test |
//! |---|---|---|
//! | §2.1 redirect URIs are matched exactly | one path, under the origin that is configured or asked for | `redirects_are_of_this_origin_only` |
//! | §2.1.1, §4.5 PKCE with `S256`, for all clients | [`login::Login::challenge`]; a nonce besides | `a_login_ends_in_a_session_that_the_origin_never_sees` |
//! | §2.1, §4.7 `state` binds the answer to the browser | its name finds a sealed cookie of this browser | `an_answer_counts_once_and_in_the_browser_that_asked` |
//! | §4.4 an answer of another provider (mix-up) | `iss` (RFC 9207), and one path for each client | `answers_of_another_issuer_are_refused` |
//! | §4.2.4 codes do not leak | the callback answers with a redirect, `no-store`; masked in the log | `codes_and_tokens_are_in_no_log` |
//! | §4.11 no open redirector | [`login::target`] | `login::tests::targets_stay_on_this_origin` |
//! | §4.14 refresh tokens rotate | one request renews, the others share what it got | `requests_that_come_together_renew_once` |

pub mod login;
pub mod seal;
pub mod session;
pub mod tokens;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What `application/x-www-form-urlencoded` leaves as it is.
pub const FORM: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'*');

/// A URL with further query parameters.
pub fn with_query(url: &str, parameters: &[(&str, &str)]) -> String {
    let mut text = url.to_owned();
    for (at, (name, value)) in parameters.iter().enumerate() {
        text.push(match at == 0 && !url.contains('?') {
            true => '?',
            false => '&',
        });
        text.extend(utf8_percent_encode(name, FORM));
        text.push('=');
        text.extend(utf8_percent_encode(value, FORM));
    }
    text
}

/// Random bytes as the text that they are sent as.
pub fn random_text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_added_and_encoded() {
        let parameters = [("scope", "openid a&b"), ("state", "x=y")];
        for (url, expected) in [
            (
                "https://idp.example/auth",
                "https://idp.example/auth?scope=openid%20a%26b&state=x%3Dy",
            ),
            (
                "https://idp.example/auth?tenant=1",
                "https://idp.example/auth?tenant=1&scope=openid%20a%26b&state=x%3Dy",
            ),
        ] {
            assert_eq!(with_query(url, &parameters), expected);
        }
        assert_eq!(
            with_query("https://idp.example/", &[]),
            "https://idp.example/"
        );
    }
}
