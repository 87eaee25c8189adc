//! Sessions of browsers: cached is what nearly every request pays, uncached what the first one pays at a gateway.

use criterion::Criterion;
use northgate::identity::oidc::seal::{Seal, Use};
use northgate::identity::oidc::session::{Session, joined, parts};
use northgate::issuers::cache::{Cache, Digest};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

const NOW: Duration = Duration::from_secs(1_700_000_000);

/// As large as those of Keycloak.
fn session(number: u32) -> Session {
    let mut session = Session {
        id: u128::from(number).to_le_bytes(),
        serial: 0,
        began: NOW.as_secs(),
        seen: NOW.as_secs(),
        renew_at: 0,
        ends: 0,
        id_token: "e".repeat(1200),
        refresh_token: Some("r".repeat(700)),
        scope: "openid profile email".into(),
    };
    session.tokens_hold(NOW, 300);
    session
}

pub fn bench(c: &mut Criterion) {
    let secret: &[u8] = b"a secret of some length";
    let seal = Seal::new(
        [secret],
        &["https://idp.example.com/realms/shop", "app", "sid"],
    );
    let sealed = |number: u32| {
        let mut nonce = [0; 24];
        nonce[..4].copy_from_slice(&number.to_le_bytes());
        let text = seal.seal(Use::Session, &session(number).write(), nonce);
        parts(&text.expect("a secret")).expect("it fits")
    };
    let text = |parts: &[String]| {
        joined(&parts[0], |at| parts.get(at).map(String::as_str)).expect("all parts")
    };
    let first = sealed(0);
    c.bench_function("oidc/uncached", |b| {
        b.iter(|| {
            let text = text(black_box(&first));
            let plain = seal.open(Use::Session, &text).expect("ours");
            Session::read(&plain).expect("a session")
        });
    });
    for count in [1, 100_000] {
        let cache = Cache::default();
        let mut cookies = Vec::new();
        for number in 0..count {
            let parts = sealed(number);
            let text = text(&parts);
            let session = Arc::new(session(number));
            cache.keep(Digest::of(&text), text.len(), session, NOW * 2, 0);
            cookies.push(parts);
        }
        let known = |parts: &Vec<String>| cache.find(&Digest::of(&text(parts)), 0, NOW);
        cookies.retain(|parts| known(parts).is_some());
        println!("oidc: of {count} sessions {} are kept", cookies.len());
        let mut at = 0;
        c.bench_function(&format!("oidc/cached_of_{count}"), |b| {
            b.iter(|| {
                at = (at + 1) % cookies.len();
                known(black_box(&cookies[at])).expect("it was kept")
            });
        });
    }
}
