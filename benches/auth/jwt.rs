//! Tokens: cached is what nearly every request pays, uncached what the first with a token pays.

use criterion::Criterion;
use northgate::identity::jwt::jwks::From;
use northgate::identity::jwt::{Algorithm, Keys, Rules, Token, verify};
use northgate::issuers::cache::Digest;
use northgate::issuers::{Issuer, Naming, Source, Verdict};
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Duration;

#[path = "../../tests/harness/signer.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod signer;

use signer::Signer;

const NOW: Duration = Duration::from_secs(1_700_000_000);

fn claims(number: usize) -> Value {
    json!({
        "iss": "https://idp.example.com/realms/shop", "aud": ["orders", "account"], "sub": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "exp": NOW.as_secs() + 300, "iat": NOW.as_secs(), "jti": format!("{number:036}"), "azp": "web", "scope": "openid profile email",
        "realm_access": {"roles": ["user", "offline_access"]}, "email_verified": true, "preferred_username": "alice",
    })
}

fn issuer(signer: &Signer) -> Issuer {
    let set = json!({"keys": [signer.jwk()]}).to_string();
    let accepted = [Algorithm::from_name(signer.algorithm()).expect("an algorithm")];
    Issuer {
        name: "idp".into(),
        rules: Rules {
            issuer: "https://idp.example.com/realms/shop".into(),
            audiences: ["orders".into()].into(),
            leeway: Duration::from_secs(30),
            kinds: None,
        },
        naming: Naming {
            consumer: Some("azp".into()),
            groups: Some("realm_access.roles".into()),
            ..Naming::default()
        },
        source: Source::Fixed(
            Keys::from_jwks(set.as_bytes(), &accepted, From::File).expect("keys"),
        ),
        revoked: Default::default(),
        verified: Default::default(),
    }
}

fn keys(issuer: &Issuer) -> &Keys {
    match &issuer.source {
        Source::Fixed(keys) => keys,
        Source::Published(_) => unreachable!("they are fixed"),
    }
}

pub fn bench(c: &mut Criterion) {
    for algorithm in ["ES256", "RS256", "PS256", "ES384", "EdDSA"] {
        uncached(c, &Signer::new(algorithm, "key"));
    }
    uncached(c, &Signer::secret("HS256", "key", &[7; 32]));
    let signer = Signer::new("ES256", "key");
    for count in [1, 10_000, 100_000] {
        cached(c, &signer, count);
    }
    let (issuer, stranger) = (issuer(&signer), Signer::new("ES256", "other"));
    let token = stranger.token(&claims(0));
    c.bench_function("jwt/unknown_key", |b| {
        b.iter(|| {
            let token = Token::parse(black_box(&token)).expect("a token");
            verify(&token, keys(&issuer), &issuer.rules, NOW).is_err()
        });
    });
}

fn uncached(c: &mut Criterion, signer: &Signer) {
    let (issuer, text) = (issuer(signer), signer.token(&claims(0)));
    c.bench_function(&format!("jwt/uncached_{}", signer.algorithm()), |b| {
        b.iter(|| {
            let token = Token::parse(black_box(&text)).expect("a token");
            verify(&token, keys(&issuer), &issuer.rules, NOW).expect("it counts")
        });
    });
}

/// The digest of the token, and who its bearer is.
fn cached(c: &mut Criterion, signer: &Signer, count: usize) {
    let issuer = issuer(signer);
    let tokens: Vec<String> = (0..count)
        .map(|number| signer.token(&claims(number)))
        .collect();
    for text in &tokens {
        let token = Token::parse(text).expect("a token");
        let verdict = issuer.verify(text, &token, Digest::of(text), NOW);
        assert!(matches!(verdict, Verdict::Accepted(_)));
    }
    let known = |text: &String| issuer.known(&Digest::of(text), NOW);
    let kept: Vec<&String> = tokens.iter().filter(|text| known(text).is_some()).collect();
    println!("jwt: of {count} verified tokens {} are kept", kept.len());
    // what is kept is bounded by its bytes
    assert!(count > 10_000 || kept.len() * 10 > count * 9);
    let mut at = 0;
    c.bench_function(&format!("jwt/cached_of_{count}"), |b| {
        b.iter(|| {
            at = (at + 1) % kept.len();
            known(black_box(kept[at])).expect("it was verified")
        });
    });
}
