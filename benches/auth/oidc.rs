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
fn session(number: u8) -> Session {
    let mut session = Session {
        id: [number; 16],
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
    let cookies: Vec<Vec<String>> = (0..100)
        .map(|number| {
            let text = seal.seal(Use::Session, &session(number).write(), [number; 24]);
            parts(&text.expect("a secret")).expect("it fits")
        })
        .collect();
    let text = |parts: &[String]| {
        joined(&parts[0], |at| parts.get(at).map(String::as_str)).expect("all parts")
    };
    c.bench_function("oidc/uncached", |b| {
        b.iter(|| {
            let text = text(black_box(&cookies[0]));
            let plain = seal.open(Use::Session, &text).expect("ours");
            Session::read(&plain).expect("a session")
        });
    });
    for count in [1, 100] {
        let cache = Cache::default();
        for parts in &cookies[..count] {
            let text = text(parts);
            cache.keep(
                Digest::of(&text),
                text.len(),
                Arc::new(session(0)),
                NOW * 2,
                0,
            );
        }
        let mut at = 0;
        c.bench_function(&format!("oidc/cached_of_{count}"), |b| {
            b.iter(|| {
                at = (at + 1) % count;
                cache
                    .find(&Digest::of(&text(black_box(&cookies[at]))), 0, NOW)
                    .expect("known")
            });
        });
    }
}
