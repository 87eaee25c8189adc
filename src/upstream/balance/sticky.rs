//! `sticky: {cookie: …}`: a client goes on with the endpoint that it had.
//!
//! The cookie's value is a keyed BLAKE3 digest of the service and the endpoint's address, 128 bits of it. So it says which
//! endpoint to those who have the key, and nothing to anybody else: no client can learn an address from it, or make one up
//! for an endpoint that it was not given. It is the same in every gateway with the key, and needs no memory of clients.

use super::super::endpoint::Place;
use http::HeaderValue;
use std::fmt::Write;
use std::time::Duration;

/// What the key of cookies is derived for (BLAKE3's `derive_key`): another use of the same secret has another key.
const PURPOSE: &str = "northgate 2026-11 sticky cookies of services";

/// How one service makes and reads its cookies.
pub struct Sticky {
    cookie: Box<str>,
    max_age: Option<Duration>,
    service: Box<str>,
    /// The first makes cookies.
    keys: Box<[[u8; 32]]>,
}

impl std::fmt::Debug for Sticky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cookie {} of {}", self.cookie, self.service)
    }
}

/// An endpoint, as a cookie names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(u128);

impl Token {
    /// What a cookie says; none if it can't be one of ours.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if value.len() != 32 || !value.iter().all(is_digit) {
            return None;
        }
        let text = std::str::from_utf8(value).ok()?;
        u128::from_str_radix(text, 16).ok().map(Self)
    }
}

impl Sticky {
    /// `secrets` are what operators set for the whole gateway, or what it made for itself. The first makes cookies.
    pub fn new(cookie: &str, max_age: Option<Duration>, service: &str, secrets: &[&[u8]]) -> Self {
        Self {
            cookie: cookie.into(),
            max_age,
            service: service.into(),
            keys: secrets
                .iter()
                .map(|secret| blake3::derive_key(PURPOSE, secret))
                .collect(),
        }
    }

    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    /// What cookies call this endpoint: the newest name first.
    pub fn tokens(&self, place: &Place) -> impl Iterator<Item = Token> {
        self.keys.iter().map(|key| self.token(key, place))
    }

    fn token(&self, key: &[u8; 32], place: &Place) -> Token {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(&(self.service.len() as u64).to_le_bytes());
        hasher.update(self.service.as_bytes());
        hasher.update(place.to_string().as_bytes());
        let digest = hasher.finalize();
        let (half, _) = digest
            .as_bytes()
            .split_first_chunk()
            .unwrap_or((&[0; 16], &[]));
        Token(u128::from_be_bytes(*half))
    }

    /// The `Set-Cookie` that binds a client to this endpoint. Scripts don't see it, and other sites' requests don't have
    /// it, but for links to here.
    pub fn set_cookie(&self, place: &Place, secure: bool) -> Option<HeaderValue> {
        let Token(token) = self.tokens(place).next()?;
        let mut text = format!(
            "{}={token:032x}; Path=/; HttpOnly; SameSite=Lax",
            self.cookie
        );
        if secure {
            text.push_str("; Secure");
        }
        if let Some(age) = self.max_age {
            // writing to a string can't fail
            let _ = write!(text, "; Max-Age={}", age.as_secs());
        }
        HeaderValue::try_from(text).ok()
    }
}

/// The endpoints of a set by their tokens.
#[derive(Debug, Default)]
pub struct Tokens(Box<[(Token, u16)]>);

impl Tokens {
    pub fn new<'a>(sticky: &Sticky, places: impl Iterator<Item = &'a Place>) -> Self {
        let mut tokens: Box<[(Token, u16)]> = (0..)
            .zip(places)
            .flat_map(|(at, place)| sticky.tokens(place).map(move |token| (token, at)))
            .collect();
        tokens.sort_unstable();
        Self(tokens)
    }

    /// The endpoint that a cookie names, if it is one of the set.
    pub fn find(&self, token: Token) -> Option<u16> {
        let at = self.0.binary_search_by_key(&token, |(token, _)| *token);
        self.0.get(at.ok()?).map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        Place::Tcp(text.parse().unwrap())
    }

    fn value(cookie: &HeaderValue) -> &[u8] {
        let text = cookie.to_str().unwrap();
        text.split([';', '=']).nth(1).unwrap().as_bytes()
    }

    #[test]
    fn a_cookie_leads_back_to_its_endpoint_with_the_same_key_only() {
        let places = [
            place("10.0.0.1:80"),
            place("10.0.0.2:80"),
            Place::Unix("/run/a".into()),
        ];
        let sticky = Sticky::new("sid", None, "shop", &[b"a secret of some length"]);
        let tokens = Tokens::new(&sticky, places.iter());
        for (at, place) in places.iter().enumerate() {
            let cookie = sticky.set_cookie(place, false).unwrap();
            assert_eq!(
                tokens.find(Token::parse(value(&cookie)).unwrap()),
                Some(at as u16)
            );
            for other in [
                Sticky::new("sid", None, "shop", &[b"another secret"]),
                Sticky::new("sid", None, "store", &[b"a secret of some length"]),
            ] {
                let forged = other.set_cookie(place, false).unwrap();
                assert_eq!(tokens.find(Token::parse(value(&forged)).unwrap()), None);
            }
        }
    }

    #[test]
    fn a_secret_is_replaced_and_its_cookies_still_count() {
        let place = place("10.0.0.1:80");
        let old = Sticky::new("sid", None, "shop", &[b"one"]);
        let both = Sticky::new("sid", None, "shop", &[b"two", b"one"]);
        let tokens = Tokens::new(&both, std::iter::once(&place));
        for sticky in [&old, &both] {
            let cookie = sticky.set_cookie(&place, false).unwrap();
            assert_eq!(tokens.find(Token::parse(value(&cookie)).unwrap()), Some(0));
        }
    }

    #[test]
    fn what_is_no_token_is_none() {
        for value in [
            "",
            "0",
            "10.0.0.1:80",
            "g0000000000000000000000000000000",
            "+0000000000000000000000000000000",
            "ABCDEF00000000000000000000000000",
        ] {
            assert_eq!(Token::parse(value.as_bytes()), None, "{value}");
        }
        assert!(Token::parse(b"00000000000000000000000000000000").is_some());
    }

    #[test]
    fn attributes_are_as_tight_as_they_can_be() {
        let sticky = Sticky::new("sid", Some(Duration::from_secs(3600)), "shop", &[b"secret"]);
        let text = sticky.set_cookie(&place("10.0.0.1:80"), true).unwrap();
        let (_, attributes) = text.to_str().unwrap().split_once("; ").unwrap();
        assert_eq!(
            attributes,
            "Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=3600"
        );
        assert!(!text.to_str().unwrap().contains("10.0"));
    }
}
