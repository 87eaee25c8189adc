//! Tables of tokens, good and bad, for each algorithm; the RFCs' own examples; and mutations, none of which counts.

use super::jwks::{self, From, Set, SetError};
use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::sync::LazyLock;

#[path = "../../../tests/harness/signer.rs"]
#[allow(dead_code, reason = "the harness and the benches use the rest")]
pub(crate) mod signer;

use signer::{Signer, encoded};

const NOW: u64 = 1_700_000_000;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

const ALL: &[&str] = &[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "HS256",
    "HS384", "HS512",
];

/// One key for each algorithm; making RSA keys takes a while.
static SIGNERS: LazyLock<Vec<Signer>> =
    LazyLock::new(|| ALL.iter().map(|name| made(name)).collect());

fn made(algorithm: &'static str) -> Signer {
    match algorithm.starts_with("HS") {
        true => Signer::secret(algorithm, &format!("kid-{algorithm}"), SECRET),
        false => Signer::new(algorithm, &format!("kid-{algorithm}")),
    }
}

fn signer(algorithm: &str) -> &'static Signer {
    SIGNERS
        .iter()
        .find(|one| one.algorithm() == algorithm)
        .unwrap()
}

/// The key of that signer, alone, as its issuer publishes it.
fn keys_of(signer: &Signer) -> Keys {
    set(&[signer.jwk()])
}

fn set(keys: &[Value]) -> Keys {
    let text = json!({ "keys": keys }).to_string();
    let all: Vec<Algorithm> = ALL
        .iter()
        .filter_map(|name| Algorithm::from_name(name))
        .collect();
    Keys::from_jwks(text.as_bytes(), &all, From::File).unwrap()
}

fn rules() -> Rules {
    Rules {
        issuer: "https://idp.example/".into(),
        audiences: ["orders".into()].into(),
        leeway: Duration::from_secs(30),
        kinds: None,
    }
}

fn claims() -> Value {
    json!({"iss": "https://idp.example/", "aud": "orders", "sub": "alice", "exp": NOW + 60})
}

fn judge(token: &str, keys: &Keys) -> Result<Verified, Refusal> {
    judge_by(token, keys, &rules())
}

fn judge_by(token: &str, keys: &Keys, rules: &Rules) -> Result<Verified, Refusal> {
    let token = Token::parse(token)?;
    verify(&token, keys, rules, Duration::from_secs(NOW)).map_err(|rejected| rejected.refusal)
}

#[test]
fn a_good_token_of_each_algorithm_counts_and_others_do_not() {
    for signer in SIGNERS.iter() {
        let keys = keys_of(signer);
        let name = signer.algorithm();
        let header = |extra: &str| format!(r#"{{"alg":"{name}","kid":"{}"{extra}}}"#, signer.kid);
        let good = claims().to_string();
        let with = |member: &str, value: Value| {
            let mut claims = claims();
            claims[member] = value;
            claims.to_string()
        };
        use Refusal::*;
        for (header, payload, expected) in [
            (header(""), good.clone(), None),
            (header(r#","typ":"JWT""#), good.clone(), None),
            (header(r#","typ":"at+jwt""#), good.clone(), None),
            (
                header(r#","jku":"http://127.0.0.1:9/","x5c":[]"#),
                good.clone(),
                None,
            ),
            (format!(r#"{{"alg":"{name}"}}"#), good.clone(), None),
            (header(r#","crit":["exp"]"#), good.clone(), Some(Critical)),
            (header(r#","b64":false"#), good.clone(), Some(Critical)),
            (header(r#","typ":"secevent+jwt""#), good.clone(), Some(Kind)),
            (
                format!(r#"{{"alg":"{name}","kid":"other"}}"#),
                good.clone(),
                Some(Key),
            ),
            (
                format!(r#"{{"kid":"{}"}}"#, signer.kid),
                good.clone(),
                Some(Algorithm),
            ),
            (r#"{"alg":"none"}"#.into(), good.clone(), Some(Algorithm)),
            (header(""), with("exp", json!(NOW - 31)), Some(Expired)),
            (header(""), with("exp", json!("soon")), Some(Claims)),
            (header(""), with("nbf", json!(NOW + 31)), Some(NotBefore)),
            (header(""), with("iat", json!(NOW + 31)), Some(IssuedLater)),
            (
                header(""),
                with("iss", json!("https://evil.example/")),
                Some(Issuer),
            ),
            (header(""), with("aud", json!("billing")), Some(Audience)),
            (header(""), "[]".into(), Some(Malformed)),
            (header(""), format!("{good} x"), Some(Malformed)),
            (
                header(""),
                format!("{},\"exp\":1}}", &good[..good.len() - 1]),
                Some(Malformed),
            ),
        ] {
            let token = signer.token_of(&header, &payload);
            let judged = judge(&token, &keys).err();
            assert_eq!(judged, expected, "{header} {payload}");
        }
        let verified = judge(&signer.token(&claims()), &keys).unwrap();
        assert_eq!(verified.claims["sub"], "alice");
        assert_eq!(verified.expires, Duration::from_secs(NOW + 60));
    }
}

/// RFC 8725 §2.1 and §3.1: what the key is for decides, not what the token says.
#[test]
fn an_algorithm_that_is_not_the_keys_own_is_refused() {
    for signer in SIGNERS.iter() {
        let keys = keys_of(signer);
        for other in ALL.iter().filter(|other| **other != signer.algorithm()) {
            let header = json!({"alg": other, "kid": signer.kid}).to_string();
            let token = signer.token_of(&header, &claims().to_string());
            assert_eq!(
                judge(&token, &keys).err(),
                Some(Refusal::Algorithm),
                "{header}"
            );
        }
    }
}

/// The classic: the text of a public key, which everybody has, as the secret of an HMAC.
#[test]
fn a_public_key_is_no_secret() {
    for name in ["RS256", "ES256", "EdDSA"] {
        let signer = signer(name);
        let keys = keys_of(signer);
        let jwk = signer.jwk().to_string();
        for secret in [signer.pem().into_bytes(), jwk.into_bytes()] {
            let forger = Signer::secret("HS256", &signer.kid, &secret);
            let token = forger.token(&claims());
            assert_eq!(judge(&token, &keys).err(), Some(Refusal::Algorithm));
            let anonymous = forger.token_of(r#"{"alg":"HS256"}"#, &claims().to_string());
            assert_eq!(judge(&anonymous, &keys).err(), Some(Refusal::Algorithm));
        }
        let error = super::Key::from_secret(signer.pem().as_bytes(), Algorithm::HS256);
        assert_eq!(error.err(), Some(KeyError::PemAsSecret));
    }
}

#[test]
fn keys_of_the_attacker_are_never_used() {
    for name in ["RS256", "ES256", "EdDSA"] {
        let keys = keys_of(signer(name));
        let evil = Signer::new(name, &signer(name).kid);
        let header = json!({
            "alg": name,
            "kid": signer(name).kid,
            "jwk": evil.jwk(),
            "jku": "http://127.0.0.1:9/keys",
            "x5u": "http://127.0.0.1:9/chain",
            "x5c": ["AAAA"],
        });
        let token = evil.token_of(&header.to_string(), &claims().to_string());
        assert_eq!(judge(&token, &keys).err(), Some(Refusal::Signature));
    }
}

#[test]
fn a_token_of_another_issuer_is_refused() {
    let (ours, theirs) = (signer("ES256"), Signer::new("ES256", "kid-ES256"));
    let mut claimed = claims();
    claimed["iss"] = json!("https://theirs.example/");
    let keys = keys_of(ours);
    // signed by another, whatever it claims; and signed by ours, for another
    assert_eq!(
        judge(&theirs.token(&claims()), &keys).err(),
        Some(Refusal::Signature)
    );
    assert_eq!(
        judge(&ours.token(&claimed), &keys).err(),
        Some(Refusal::Issuer)
    );
}

#[test]
fn tokens_of_another_kind_are_refused() {
    let signer = signer("EdDSA");
    let keys = keys_of(signer);
    let only = Rules {
        kinds: Some(["at+jwt".into()].into()),
        ..rules()
    };
    for (kind, usual, narrow) in [
        (None, true, false),
        (Some("JWT"), true, false),
        (Some("jwt"), true, false),
        (Some("application/jwt"), true, false),
        (Some("at+jwt"), true, true),
        (Some("AT+JWT"), true, true),
        (Some("application/at+jwt"), true, true),
        (Some("Application/AT+jwt"), true, true),
        (Some("logout+jwt"), false, false),
        (Some("dpop+jwt"), false, false),
        (Some(""), false, false),
        (Some("application/"), false, false),
        (Some("text/at+jwt"), false, false),
    ] {
        let mut header = json!({"alg": "EdDSA"});
        if let Some(kind) = kind {
            header["typ"] = json!(kind);
        }
        let token = signer.token_of(&header.to_string(), &claims().to_string());
        assert_eq!(judge(&token, &keys).is_ok(), usual, "{kind:?}");
        assert_eq!(judge_by(&token, &keys, &only).is_ok(), narrow, "{kind:?}");
    }
}

#[test]
fn a_key_is_found_by_its_name_and_may_have_none() {
    let (one, two) = (Signer::new("ES256", "one"), Signer::new("ES256", "two"));
    let anonymous = |signer: &Signer| signer.token_of(r#"{"alg":"ES256"}"#, &claims().to_string());
    let newer = |token: &str, keys: &Keys| {
        let token = Token::parse(token).unwrap();
        let rejected = verify(&token, keys, &rules(), Duration::from_secs(NOW)).err();
        rejected.map(|rejected| rejected.maybe_newer_key)
    };
    let both = set(&[one.jwk(), two.jwk()]);
    assert!(judge(&two.token(&claims()), &both).is_ok());
    assert!(judge(&anonymous(&two), &both).is_ok());
    // a token that names a key that is gone, and one that names a key of another
    let first = set(&[one.jwk()]);
    assert_eq!(newer(&two.token(&claims()), &first), Some(true));
    assert_eq!(newer(&anonymous(&two), &first), Some(true));
    let posing = Signer::new("ES256", "one");
    assert_eq!(newer(&posing.token(&claims()), &first), Some(false));
    // a set that names none of its keys
    let mut nameless = two.jwk();
    nameless.as_object_mut().unwrap().remove("kid");
    assert!(judge(&two.token(&claims()), &set(&[nameless.clone()])).is_ok());
    // the one with the right name counts, not the one without
    let mixed = set(&[one.jwk(), nameless]);
    assert_eq!(newer(&posing.token(&claims()), &mixed), Some(false));
    // one name for keys of two kinds (RFC 7517 §4.5)
    let ed = Signer::new("EdDSA", "one");
    let kinds = set(&[one.jwk(), ed.jwk()]);
    assert!(judge(&one.token(&claims()), &kinds).is_ok());
    assert!(judge(&ed.token(&claims()), &kinds).is_ok());
}

#[test]
fn few_keys_are_tried_for_a_token_that_names_none() {
    let many: Vec<Signer> = (0..5)
        .map(|at| Signer::new("EdDSA", &format!("k{at}")))
        .collect();
    let token = many[0].token_of(r#"{"alg":"EdDSA"}"#, &claims().to_string());
    let jwks: Vec<Value> = many.iter().map(Signer::jwk).collect();
    assert!(judge(&token, &set(&jwks[..4])).is_ok());
    assert_eq!(judge(&token, &set(&jwks)).err(), Some(Refusal::Key));
}

#[test]
fn sets_are_bounded_and_what_is_of_no_use_is_passed_over() {
    let parse = |text: &str| Set::parse(text.as_bytes(), Algorithm::ASYMMETRIC, From::Url);
    let good = signer("ES256").jwk();
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut key = good.clone();
        edit(&mut key);
        key
    };
    for passed_over in [
        edited(&|key| key["use"] = json!("enc")),
        edited(&|key| key["use"] = json!(1)),
        edited(&|key| key["key_ops"] = json!(["sign"])),
        edited(&|key| key["key_ops"] = json!("verify")),
        edited(&|key| key["alg"] = json!("ES384")),
        edited(&|key| key["alg"] = json!("ECDH-ES")),
        edited(&|key| key["alg"] = json!(null)),
        edited(&|key| key["kid"] = json!(7)),
        edited(&|key| key["kty"] = json!("RSA")),
        edited(&|key| key["kty"] = json!("EC2")),
        edited(&|key| key["crv"] = json!("P-384")),
        edited(&|key| key["crv"] = json!("secp256k1")),
        edited(&|key| key["x"] = json!("AAAA")),
        // not a point of the curve
        edited(&|key| key["x"] = key["y"].clone()),
        edited(&|key| key["x"] = json!(format!("{}=", key["x"].as_str().unwrap()))),
        signer("HS256").jwk(),
        Signer::new("ES512", "p521").jwk(),
        json!({}),
    ] {
        let alone = parse(&json!({ "keys": [passed_over] }).to_string());
        assert_eq!(alone.err(), Some(SetError::NoKey), "{passed_over}");
        let set = parse(&json!({ "keys": [passed_over, good] }).to_string()).unwrap();
        assert_eq!((set.keys.len(), set.passed_over), (1, 1), "{passed_over}");
    }
    // a secret counts where only we can read it, and only where it is asked for
    let secret = json!({ "keys": [signer("HS256").jwk()] }).to_string();
    let from_file = |accepted| Set::parse(secret.as_bytes(), accepted, From::File);
    assert!(from_file(&[Algorithm::HS256]).is_ok());
    assert!(from_file(Algorithm::ASYMMETRIC).is_err());
    assert!(Set::parse(secret.as_bytes(), &[Algorithm::HS256], From::Url).is_err());

    for (text, error) in [
        ("".to_owned(), SetError::Malformed),
        ("[]".into(), SetError::Malformed),
        ("{}".into(), SetError::Malformed),
        (r#"{"keys":{}}"#.into(), SetError::Malformed),
        (r#"{"keys":[1]}"#.into(), SetError::Malformed),
        (r#"{"keys":[]}"#.into(), SetError::NoKey),
        ("<html>not here</html>".into(), SetError::Malformed),
        (
            json!({ "keys": vec![&good; 65] }).to_string(),
            SetError::TooMany,
        ),
        (" ".repeat(jwks::SET_BYTES_MAX + 1), SetError::TooLong),
    ] {
        assert_eq!(parse(&text).err(), Some(error));
    }
    assert_eq!(
        parse(&json!({ "keys": vec![&good; 64] }).to_string())
            .unwrap()
            .keys
            .len(),
        64
    );
}

/// Of an RSA key that says nothing, the configuration's first algorithm counts, and no other.
#[test]
fn a_key_has_one_algorithm() {
    let mut jwk = signer("RS256").jwk();
    jwk.as_object_mut().unwrap().remove("alg");
    let text = json!({ "keys": [jwk] }).to_string();
    for (accepted, algorithm) in [
        (Algorithm::ASYMMETRIC, Algorithm::RS256),
        (&[Algorithm::PS256, Algorithm::RS256][..], Algorithm::PS256),
    ] {
        let set = Set::parse(text.as_bytes(), accepted, From::Url).unwrap();
        assert_eq!(set.keys[0].algorithm, algorithm);
    }
}

#[test]
fn pem_keys_are_read_with_the_algorithm_of_their_kind() {
    for signer in SIGNERS
        .iter()
        .filter(|one| !one.algorithm().starts_with("HS"))
    {
        let algorithm = Algorithm::from_name(signer.algorithm()).unwrap();
        let key = super::Key::from_pem(&signer.pem(), &[algorithm]).unwrap();
        assert_eq!(key.algorithm, algorithm);
        assert!(judge(&signer.token(&claims()), &Keys::new(vec![key])).is_ok());
    }
    let certificate = rcgen::generate_simple_self_signed(["idp.example".to_owned()]).unwrap();
    let key = super::Key::from_pem(&certificate.cert.pem(), Algorithm::ASYMMETRIC).unwrap();
    assert_eq!(key.algorithm, Algorithm::ES256);
}

#[test]
fn keys_that_are_none_are_refused() {
    let pem = |text: &str| super::Key::from_pem(text, Algorithm::ASYMMETRIC).err();
    let private = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let broken = signer::pem("PUBLIC KEY", b"nonsense");
    for (text, error) in [
        ("secret", KeyError::NotPem),
        (&private, KeyError::Private),
        (
            "-----BEGIN RSA PUBLIC KEY-----\nAAAA\n-----END RSA PUBLIC KEY-----\n",
            KeyError::OtherPem,
        ),
        (&broken, KeyError::Broken),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n", KeyError::Broken),
        (&Signer::new("ES512", "k").pem(), KeyError::Unsupported),
    ] {
        assert_eq!(pem(text), Some(error), "{text}");
    }
    let only = super::Key::from_pem(&signer("ES256").pem(), &[Algorithm::RS256]);
    assert_eq!(only.err(), Some(KeyError::NoAlgorithm));
    for (length, error) in [
        (0, Some(KeyError::ShortSecret(0))),
        (31, Some(KeyError::ShortSecret(31))),
        (32, None),
    ] {
        let key = super::Key::from_secret(&vec![7; length], Algorithm::HS256);
        assert_eq!(key.err(), error);
    }
    // 1,024 bits
    let short = json!({"kty": "RSA", "e": "AQAB", "n": encoded(&[0xff; 128])});
    let huge = json!({"kty": "RSA", "e": "AQAB", "n": encoded(&[0xff; 1025])});
    let even = json!({"kty": "RSA", "e": "AQAB", "n": encoded(&[0xfe; 256])});
    let good = signer("RS256").jwk();
    let exponents = ["AQ", "Ag", "AQAA", "AQAAAAE"].map(|exponent| {
        let mut key = good.clone();
        key["e"] = json!(exponent);
        key
    });
    for key in exponents.into_iter().chain([short, huge, even]) {
        let text = json!({ "keys": [key] }).to_string();
        assert!(Set::parse(text.as_bytes(), Algorithm::ASYMMETRIC, From::Url).is_err());
    }
}

/// RFC 7515 appendix A.1 to A.3: signed by others, long ago, and for nobody.
#[test]
fn the_examples_of_rfc_7515_have_good_signatures() {
    let payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let joe = Rules {
        issuer: "joe".into(),
        ..rules()
    };
    for (header, signature, key) in [
        (
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            json!({"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow", "alg": "HS256"}),
        ),
        (
            "eyJhbGciOiJSUzI1NiJ9",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
            json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}),
        ),
        (
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
        ),
    ] {
        let token = format!("{header}.{payload}.{signature}");
        // they name no audience, and that is the first thing that is wrong with them
        assert_eq!(
            judge_by(&token, &set(std::slice::from_ref(&key)), &joe).err(),
            Some(Refusal::Audience),
            "{key}"
        );
    }
}

/// RFC 8037 appendix A.4. Its payload is no JSON, which only shows once the signature is known to be good.
#[test]
fn the_example_of_rfc_8037_has_a_good_signature() {
    let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let keys = set(&[
        json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
    ]);
    assert_eq!(judge(token, &keys).err(), Some(Refusal::Malformed));
    let flipped = token.replace("hgyY", "hgyZ");
    assert_eq!(judge(&flipped, &keys).err(), Some(Refusal::Signature));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any letter of a good token replaced, removed or added leaves nothing that counts.
    #[test]
    fn no_mutation_of_a_good_token_counts(
        which in 0..ALL.len(),
        at in any::<prop::sample::Index>(),
        letter in "[A-Za-z0-9_.=-]",
        how in 0..4,
    ) {
        let signer = &SIGNERS[which];
        let (token, keys) = (signer.token(&claims()), keys_of(signer));
        let at = at.index(token.len());
        let (before, rest) = token.split_at(at);
        let mutated = match how {
            0 => format!("{before}{letter}{}", &rest[1..]),
            1 => format!("{before}{}", &rest[1..]),
            2 => format!("{before}{letter}{rest}"),
            _ => before.to_owned(),
        };
        prop_assert_eq!(judge(&mutated, &keys).is_ok(), mutated == token);
    }

    /// Parts of good tokens put together anew are no good token.
    #[test]
    fn no_mixture_of_good_tokens_counts(which in 0..ALL.len(), part in 0..3_usize) {
        let signer = &SIGNERS[which];
        let keys = keys_of(signer);
        let mut other = claims();
        other["sub"] = json!("mallory");
        let ours = signer.token(&claims());
        let theirs = signer.token_of(&json!({"alg": signer.algorithm()}).to_string(), &other.to_string());
        let mut parts: Vec<&str> = ours.split('.').collect();
        parts[part] = theirs.split('.').nth(part).unwrap();
        prop_assert!(judge(&parts.join("."), &keys).is_err());
    }
}
