//! Message signatures: the base made again, and verified.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use criterion::Criterion;
use http::{HeaderMap, HeaderValue};
use northgate::identity::signature::base::Covered;
use northgate::identity::signature::{Coverage, Key, KnownKeys, Message, Requirements, verify};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use sfv::{ListEntry, Parser};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn message(headers: &HeaderMap) -> Message<'_> {
    Message {
        method: "POST",
        scheme: "https",
        authority: "api.example.com",
        path: "/orders/17",
        query: Some("expand=items"),
        headers,
    }
}

/// The head of a signed request, by whatever signs its base.
fn signed(created: u64, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let digest = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
    headers.insert("content-digest", HeaderValue::from_static(digest));
    headers.insert("content-length", HeaderValue::from_static("19"));
    let input = format!(
        "sig=(\"@method\" \"@target-uri\" \"content-digest\");created={created};keyid=\"key-0\""
    );
    let members = Parser::parse_dictionary(input.as_bytes()).expect("an input");
    let Some(ListEntry::InnerList(list)) = members.get("sig") else {
        panic!("no list");
    };
    let covered = Covered::read(list).expect("components");
    let base = covered.base(&message(&headers)).expect("a base");
    let signature = format!("sig=:{}:", STANDARD.encode(sign(&base)));
    for (name, value) in [("signature-input", input), ("signature", signature)] {
        headers.insert(name, HeaderValue::try_from(value).expect("a value"));
    }
    headers
}

pub fn bench(criterion: &mut Criterion) {
    let now = SystemTime::now();
    let created = now.duration_since(UNIX_EPOCH).expect("a time").as_secs();
    let requirements = Requirements {
        label: None,
        tag: None,
        covers: Coverage::Whole,
        max_age: Duration::from_secs(300),
        leeway: Duration::from_secs(30),
        nonce: false,
    };
    let secret = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let ecdsa = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let by_hmac = |base: &[u8]| hmac::sign(&secret, base).as_ref().to_vec();
    let by_ed25519 = |base: &[u8]| {
        let pair = Ed25519KeyPair::from_pkcs8(&ed25519.serialize_der()).expect("a key");
        pair.sign(base).as_ref().to_vec()
    };
    let by_ecdsa = |base: &[u8]| {
        let der = ecdsa.serialize_der();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der);
        let signature = pair.expect("a key").sign(&SystemRandom::new(), base);
        signature.expect("a signature").as_ref().to_vec()
    };
    let public = |pair: &KeyPair| Key::public(pair.public_key_pem().as_bytes()).expect("a key");
    let mut group = criterion.benchmark_group("signature");
    for (name, count, key, headers) in [
        (
            "hmac_sha256/1",
            1,
            Key::secret(SECRET).expect("a key"),
            signed(created, by_hmac),
        ),
        (
            "hmac_sha256/100000",
            100_000,
            Key::secret(SECRET).expect("a key"),
            signed(created, by_hmac),
        ),
        (
            "ed25519/1",
            1,
            public(&ed25519),
            signed(created, by_ed25519),
        ),
        ("ecdsa_p256/1", 1, public(&ecdsa), signed(created, by_ecdsa)),
    ] {
        let consumer: Arc<str> = "acme".into();
        let mut keys = KnownKeys::default();
        keys.add("key-0", key, &consumer);
        for other in 1..count {
            let key = Key::secret(SECRET).expect("a key");
            keys.add(&format!("key-{other}"), key, &consumer);
        }
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let find = |id: &str| keys.find(id).map(|(key, _)| key);
                let verified = verify(&message(black_box(&headers)), find, &requirements, now);
                assert!(verified.is_ok());
            });
        });
    }
    group.finish();
}
