use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use proptest::prelude::*;

/// RFC 9421 appendix B.1.
const SECRET: &str =
    "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";
const ED25519: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----";
const P256: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqIVYZVLCrPZHGHjP17CTW0/+D9Lf
w0EkjqF7xB4FivAxzic30tMM4GF+hR6Dxh71Z50VGGdldkkDXZCnTNnoXQ==
-----END PUBLIC KEY-----";
const CREATED: u64 = 1_618_884_473;

fn secret() -> Key {
    Key::secret(&STANDARD.decode(SECRET).unwrap()).unwrap()
}

fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

/// The request of RFC 9421 appendix B.2.
fn request(signed: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = fields(&[
        ("host", "example.com"),
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("content-type", "application/json"),
        (
            "content-digest",
            "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
        ),
        ("content-length", "18"),
    ]);
    headers.extend(fields(signed));
    headers
}

fn message(headers: &HeaderMap) -> Message<'_> {
    Message {
        method: "POST",
        scheme: "https",
        authority: "example.com",
        path: "/foo",
        query: Some("param=Value&Pet=dog"),
        headers,
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(CREATED + 10)
}

fn any(components: &[&str]) -> Requirements {
    Requirements {
        covers: Coverage::Components(components.iter().map(|name| (*name).into()).collect()),
        ..whole()
    }
}

fn whole() -> Requirements {
    Requirements {
        label: None,
        tag: None,
        covers: Coverage::Whole,
        max_age: Duration::from_secs(300),
        leeway: Duration::from_secs(30),
        nonce: false,
    }
}

fn judged(headers: &HeaderMap, key: &Key, requirements: &Requirements) -> Result<Verified, Reason> {
    verify(&message(headers), |_| Some(key), requirements, now())
}

#[test]
fn the_requests_that_the_rfc_signs_are_good() {
    // B.2.5
    let hmac = request(&[
        (
            "signature-input",
            "sig-b25=(\"date\" \"@authority\" \"content-type\");created=1618884473;keyid=\"test-shared-secret\"",
        ),
        (
            "signature",
            "sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:",
        ),
    ]);
    let verified = judged(&hmac, &secret(), &any(&["date"])).unwrap();
    assert_eq!(
        (verified.keyid.as_str(), verified.nonce),
        ("test-shared-secret", None)
    );
    assert_eq!(
        judged(&hmac, &secret(), &whole()),
        Err(Reason::SignatureCoverage)
    );
    assert_eq!(
        judged(&hmac, &secret(), &any(&["@method"])),
        Err(Reason::SignatureCoverage)
    );
    // B.2.6
    let ed25519 = request(&[
        (
            "signature-input",
            "sig-b26=(\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\")\
             ;created=1618884473;keyid=\"test-key-ed25519\"",
        ),
        (
            "signature",
            "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
        ),
    ]);
    let key = Key::public(ED25519.as_bytes()).unwrap();
    judged(&ed25519, &key, &any(&["@method", "@path"])).unwrap();
    // another key, another algorithm
    assert_eq!(
        judged(&ed25519, &secret(), &any(&[])),
        Err(Reason::SignatureWrong)
    );
    let p256 = Key::public(P256.as_bytes()).unwrap();
    assert_eq!(
        judged(&ed25519, &p256, &any(&[])),
        Err(Reason::SignatureWrong)
    );
}

/// B.2.4 signs an answer, which a gateway never has to verify: its base as it stands.
#[test]
fn the_answer_that_the_rfc_signs_with_ecdsa_is_good() {
    let base = "\"@status\": 200
\"content-type\": application/json
\"content-digest\": sha-512=:mEWXIS7MaLRuGgxOBdODa3xqM1XdEvxoYhvlCFJ41QJgJc4GTsPp29l5oGX69wWdXymyU0rjJuahq4l5aGgfLQ==:
\"content-length\": 23
\"@signature-params\": (\"@status\" \"content-type\" \"content-digest\" \"content-length\");created=1618884473;keyid=\"test-key-ecc-p256\"";
    let signature = STANDARD
        .decode("wNmSUAhwb5LxtOtOpNa6W5xj067m5hFrj0XQ4fvpaCLx0NKocgPquLgyahnzDnDAUy5eCdlYUEkLIj+32oiasw==")
        .unwrap();
    let key = Key::public(P256.as_bytes()).unwrap();
    assert_eq!(key.algorithm(), "ecdsa-p256-sha256");
    assert!(key.verify(base.as_bytes(), &signature));
    assert!(!key.verify(&base.as_bytes()[1..], &signature));
}

/// RFC 9421 §2.1 to §2.2.
#[test]
fn every_component_has_the_value_that_the_rfc_gives_it() {
    let mut headers = fields(&[
        ("example-dict", "a=1,    b=2;x=1;y=2,   c=(a   b   c), d"),
        ("empty", ""),
        ("cache-control", "max-age=60"),
        ("cache-control", "   must-revalidate  "),
        ("content-digest", "sha-256=:AAAA:,   sha-512=:BBBB:"),
        ("example-list", "value, with, lots"),
        ("example-list", "of, commas"),
    ]);
    headers.append("host", HeaderValue::from_static("example.com"));
    let message = Message {
        query: Some(
            "var=this%20is%20a%20big%0Amultiline%20value&bar=with+plus+whitespace&fa%C3%A7ade%22%3A%20=something&twice=1&twice=2&qparam",
        ),
        ..message(&headers)
    };
    let line = |component: &str| {
        let input = format!("x=({component})");
        let members = Parser::parse_dictionary(input.as_bytes()).ok()?;
        let Some(ListEntry::InnerList(list)) = members.get("x") else {
            return None;
        };
        let base = Covered::read(list).ok()?.base(&message).ok()?;
        let text = String::from_utf8(base).unwrap();
        Some(text.lines().next().unwrap().to_owned())
    };
    for (component, wanted) in [
        ("\"@method\"", "\"@method\": POST"),
        ("\"@authority\"", "\"@authority\": example.com"),
        ("\"@scheme\"", "\"@scheme\": https"),
        ("\"@path\"", "\"@path\": /foo"),
        (
            "\"cache-control\"",
            "\"cache-control\": max-age=60, must-revalidate",
        ),
        ("\"empty\"", "\"empty\": "),
        (
            "\"example-dict\";key=\"a\"",
            "\"example-dict\";key=\"a\": 1",
        ),
        (
            "\"example-dict\";key=\"d\"",
            "\"example-dict\";key=\"d\": ?1",
        ),
        (
            "\"example-dict\";key=\"b\"",
            "\"example-dict\";key=\"b\": 2;x=1;y=2",
        ),
        (
            "\"example-dict\";key=\"c\"",
            "\"example-dict\";key=\"c\": (a b c)",
        ),
        (
            "\"content-digest\";sf",
            "\"content-digest\";sf: sha-256=:AAAA:, sha-512=:BBBB:",
        ),
        (
            "\"example-list\";bs",
            "\"example-list\";bs: :dmFsdWUsIHdpdGgsIGxvdHM=:, :b2YsIGNvbW1hcw==:",
        ),
        (
            "\"@query-param\";name=\"var\"",
            "\"@query-param\";name=\"var\": this%20is%20a%20big%0Amultiline%20value",
        ),
        (
            "\"@query-param\";name=\"bar\"",
            "\"@query-param\";name=\"bar\": with%20plus%20whitespace",
        ),
        (
            "\"@query-param\";name=\"fa%C3%A7ade%22%3A%20\"",
            "\"@query-param\";name=\"fa%C3%A7ade%22%3A%20\": something",
        ),
        (
            "\"@query-param\";name=\"qparam\"",
            "\"@query-param\";name=\"qparam\": ",
        ),
    ] {
        assert_eq!(line(component).as_deref(), Some(wanted), "{component}");
    }
    assert_eq!(
        line("\"@target-uri\"").unwrap(),
        format!(
            "\"@target-uri\": https://example.com/foo?{}",
            message.query.unwrap()
        )
    );
    assert_eq!(
        line("\"@query\"").unwrap(),
        format!("\"@query\": ?{}", message.query.unwrap())
    );
    for refused in [
        "\"@status\"",
        "\"@signature-params\"",
        "\"@method\";req",
        "\"@query-param\"",
        "\"@query-param\";name=\"missing\"",
        // nobody could say which of them was signed
        "\"@query-param\";name=\"twice\"",
        "\"missing\"",
        "\"Date\"",
        "\"example-dict\";key=\"z\"",
        // what is not known to be a structured field has no such form
        "\"cache-control\";sf",
        "\"cache-control\";tr",
        "\"cache-control\";bs;sf",
        "\"example-list\";bs=?0",
        "\"@method\" \"@method\"",
        "date",
        "1",
    ] {
        assert_eq!(line(refused), None, "{refused}");
    }
}

/// Signs the request with the secret.
fn sign(covered: &str, params: &str, message: &Message<'_>) -> HeaderMap {
    let input = format!("sig=({covered}){params}");
    let members = Parser::parse_dictionary(input.as_bytes()).unwrap();
    let Some(ListEntry::InnerList(list)) = members.get("sig") else {
        panic!("{input}");
    };
    let base = Covered::read(list).unwrap().base(message).unwrap();
    let secret = STANDARD.decode(SECRET).unwrap();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
    let tag = aws_lc_rs::hmac::sign(&key, &base);
    let mut headers = message.headers.clone();
    headers.append("signature-input", HeaderValue::try_from(input).unwrap());
    let signature = format!("sig=:{}:", STANDARD.encode(tag));
    headers.append("signature", HeaderValue::try_from(signature).unwrap());
    headers
}

const WHOLE: &str = "\"@method\" \"@target-uri\" \"content-digest\"";

#[test]
fn the_whole_of_a_request_has_to_be_covered() {
    let plain = request(&[]);
    let bodiless = fields(&[("host", "example.com")]);
    let params = ";created=1618884473;keyid=\"k\"";
    for (covered, headers, good) in [
        (WHOLE, &plain, true),
        ("\"@method\" \"@target-uri\"", &plain, false),
        ("\"@target-uri\" \"content-digest\"", &plain, false),
        ("\"@method\" \"content-digest\"", &plain, false),
        ("\"@method\" \"@target-uri\"", &bodiless, true),
        (
            "\"@method\" \"@authority\" \"@path\" \"@query\"",
            &bodiless,
            true,
        ),
        (
            "\"@method\" \"@authority\" \"@request-target\"",
            &bodiless,
            true,
        ),
        ("\"@method\" \"@authority\" \"@path\"", &bodiless, false),
        ("\"@method\" \"@path\" \"@query\"", &bodiless, false),
        // a part is not the whole
        (
            "\"@method\" \"@target-uri\" \"content-digest\";key=\"sha-512\"",
            &plain,
            false,
        ),
        (
            "\"@method\" \"@authority\" \"@path\" \"@query-param\";name=\"Pet\"",
            &bodiless,
            false,
        ),
    ] {
        let signed = sign(covered, params, &message(headers));
        let verified = judged(&signed, &secret(), &whole());
        match good {
            true => assert!(verified.is_ok(), "{covered}: {verified:?}"),
            false => assert_eq!(verified, Err(Reason::SignatureCoverage), "{covered}"),
        }
    }
    let signed = sign(WHOLE, params, &message(&plain));
    let verified = judged(&signed, &secret(), &whole()).unwrap();
    assert!(
        matches!(&verified.body, Body::Digests(digests) if digests.are_of(b"{\"hello\": \"world\"}"))
    );
    let signed = sign("\"@method\" \"@target-uri\"", params, &message(&bodiless));
    assert_eq!(
        judged(&signed, &secret(), &whole()).unwrap().body,
        Body::None
    );
}

#[test]
fn times_nonces_and_names_are_held_to() {
    let plain = request(&[]);
    let mut strict = whole();
    strict.nonce = true;
    for (params, requirements, wanted) in [
        (";created=1618884473;keyid=\"k\"", whole(), None),
        // ten seconds ago is now
        (";created=1618884513;keyid=\"k\"", whole(), None),
        (
            ";created=1618884514;keyid=\"k\"",
            whole(),
            Some(Reason::SignatureEarly),
        ),
        (";created=1618884153;keyid=\"k\"", whole(), None),
        (
            ";created=1618884152;keyid=\"k\"",
            whole(),
            Some(Reason::SignatureExpired),
        ),
        (
            ";created=1618884473;expires=1618884453;keyid=\"k\"",
            whole(),
            None,
        ),
        (
            ";created=1618884473;expires=1618884452;keyid=\"k\"",
            whole(),
            Some(Reason::SignatureExpired),
        ),
        (
            ";created=-1;keyid=\"k\"",
            whole(),
            Some(Reason::SignatureExpired),
        ),
        (
            ";created=999999999999999;keyid=\"k\"",
            whole(),
            Some(Reason::SignatureEarly),
        ),
        (";keyid=\"k\"", whole(), Some(Reason::SignatureMalformed)),
        (
            ";created=1.5;keyid=\"k\"",
            whole(),
            Some(Reason::SignatureMalformed),
        ),
        (";created=1618884473", whole(), Some(Reason::SignatureKey)),
        (
            ";created=1618884473;keyid=k",
            whole(),
            Some(Reason::SignatureMalformed),
        ),
        (
            ";created=1618884473;keyid=\"k\"",
            strict.clone(),
            Some(Reason::SignatureNonce),
        ),
        (
            ";created=1618884473;keyid=\"k\";nonce=\"\"",
            strict.clone(),
            Some(Reason::SignatureNonce),
        ),
        (
            ";created=1618884473;keyid=\"k\";nonce=\"n\"",
            strict.clone(),
            None,
        ),
        (
            ";created=1618884473;keyid=\"k\";alg=\"hmac-sha256\"",
            whole(),
            None,
        ),
        (
            ";created=1618884473;keyid=\"k\";alg=\"ed25519\"",
            whole(),
            Some(Reason::SignatureAlgorithm),
        ),
        (";created=1618884473;keyid=\"k\";what=ever", whole(), None),
    ] {
        let signed = sign(WHOLE, params, &message(&plain));
        assert_eq!(
            judged(&signed, &secret(), &requirements).err(),
            wanted,
            "{params}"
        );
    }
    let signed = sign(
        WHOLE,
        ";created=1618884473;keyid=\"k\";nonce=\"n\"",
        &message(&plain),
    );
    let verified = judged(&signed, &secret(), &strict).unwrap();
    let until = UNIX_EPOCH + Duration::from_secs(CREATED + 330);
    assert_eq!(verified.nonce, Some(("n".to_owned(), until)));
}

#[test]
fn of_several_signatures_the_one_that_is_meant_counts() {
    let plain = request(&[]);
    let params = ";created=1618884473;keyid=\"k\";tag=\"app\"";
    let mut signed = sign(WHOLE, params, &message(&plain));
    signed.append(
        "signature-input",
        HeaderValue::from_static("other=();created=1;keyid=\"x\";tag=\"proxy\""),
    );
    signed.append("signature", HeaderValue::from_static("other=:AAAA:"));
    assert_eq!(
        judged(&signed, &secret(), &whole()),
        Err(Reason::SignatureSeveral)
    );
    let mut labelled = whole();
    labelled.label = Some("sig".into());
    assert!(judged(&signed, &secret(), &labelled).is_ok());
    let mut tagged = whole();
    tagged.tag = Some("app".into());
    assert!(judged(&signed, &secret(), &tagged).is_ok());
    tagged.tag = Some("none".into());
    assert_eq!(
        judged(&signed, &secret(), &tagged),
        Err(Reason::SignatureMissing)
    );
    signed.remove("signature");
    assert_eq!(
        judged(&signed, &secret(), &labelled),
        Err(Reason::SignatureMissing)
    );
}

#[test]
fn what_is_no_key_says_why() {
    assert_eq!(Key::secret(b"short").unwrap_err(), KeyError::ShortSecret(5));
    assert_eq!(Key::public(b"").unwrap_err(), KeyError::NoKey);
    let private = rcgen::KeyPair::generate().unwrap();
    assert_eq!(
        Key::public(private.serialize_pem().as_bytes()).unwrap_err(),
        KeyError::NoKey
    );
    assert_eq!(
        Key::public(private.public_key_pem().as_bytes())
            .unwrap()
            .algorithm(),
        "ecdsa-p256-sha256"
    );
    let broken = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----";
    assert_eq!(
        Key::public(broken.as_bytes()).unwrap_err(),
        KeyError::Malformed
    );
}

#[test]
fn a_key_on_p384_verifies_too() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    use aws_lc_rs::encoding::AsDer;
    let der: aws_lc_rs::encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----",
        STANDARD.encode(der.as_ref())
    );
    let key = Key::public(pem.as_bytes()).unwrap();
    assert_eq!(key.algorithm(), "ecdsa-p384-sha384");
    let signature = pair.sign(&SystemRandom::new(), b"base").unwrap();
    assert!(key.verify(b"base", signature.as_ref()));
    assert!(!key.verify(b"bass", signature.as_ref()));
}

/// What an attacker changes of a signed request.
#[derive(Clone, Debug)]
enum Change {
    Method(String),
    Scheme(String),
    Authority(String),
    Path(String),
    Query(Option<String>),
    Digest(usize),
    Signature(usize, u8),
    Input(usize, char),
    Covered,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        "[A-Z]{1,8}".prop_map(Change::Method),
        Just(Change::Scheme("http".to_owned())),
        "[a-z.]{1,16}".prop_map(Change::Authority),
        "/[ -~&&[^?#]]{0,16}".prop_map(Change::Path),
        proptest::option::of("[a-zA-Z=&%0-9]{0,16}").prop_map(Change::Query),
        (9usize..90).prop_map(Change::Digest),
        (0usize..32, 1u8..=255).prop_map(|(at, by)| Change::Signature(at, by)),
        (0usize..100, proptest::char::range(' ', '~')).prop_map(|(at, to)| Change::Input(at, to)),
        Just(Change::Covered),
    ]
}

proptest! {
    /// Nothing that is covered can be changed, nor what is said about it.
    #[test]
    fn no_change_of_what_was_signed_is_accepted(change in change()) {
        let plain = request(&[]);
        let params = ";created=1618884473;keyid=\"k\";nonce=\"n\"";
        let mut headers = sign(WHOLE, params, &message(&plain));
        let mut parts = ("POST".to_owned(), "https".to_owned(), "example.com".to_owned(), "/foo".to_owned(),
            Some("param=Value&Pet=dog".to_owned()));
        let before = parts.clone();
        let original = headers.clone();
        let replace = |headers: &mut HeaderMap, name: &'static str, text: String| {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        };
        match change {
            Change::Method(method) => parts.0 = method,
            Change::Scheme(scheme) => parts.1 = scheme,
            Change::Authority(authority) => parts.2 = authority,
            Change::Path(path) => parts.3 = path,
            Change::Query(query) => parts.4 = query,
            Change::Digest(at) => {
                let mut text = headers["content-digest"].to_str().unwrap().as_bytes().to_vec();
                text[at] = if text[at] == b'A' { b'B' } else { b'A' };
                replace(&mut headers, "content-digest", String::from_utf8(text).unwrap());
            }
            Change::Signature(at, by) => {
                let text = headers["signature"].to_str().unwrap().to_owned();
                let encoded = text.trim_start_matches("sig=:").trim_end_matches(':');
                let mut bytes = STANDARD.decode(encoded).unwrap();
                bytes[at] ^= by;
                replace(&mut headers, "signature", format!("sig=:{}:", STANDARD.encode(bytes)));
            }
            Change::Input(at, to) => {
                let mut text = headers["signature-input"].to_str().unwrap().as_bytes().to_vec();
                let at = at % text.len();
                text[at] = to as u8;
                replace(&mut headers, "signature-input", String::from_utf8(text).unwrap());
            }
            Change::Covered => {
                let input = "sig=(\"@method\" \"@target-uri\");created=1618884473;keyid=\"k\";nonce=\"n\"";
                replace(&mut headers, "signature-input", input.to_owned());
            }
        }
        prop_assume!(parts != before || headers != original);
        let changed = Message {
            method: &parts.0,
            scheme: &parts.1,
            authority: &parts.2,
            path: &parts.3,
            query: parts.4.as_deref(),
            headers: &headers,
        };
        let key = secret();
        let verified = verify(&changed, |_| Some(&key), &whole(), now());
        // blanks of a list may be as many as one likes, and mean the same
        let same = verified.as_ref().is_ok_and(|verified| {
            let input = |headers: &HeaderMap| {
                Parser::parse_dictionary(headers["signature-input"].as_bytes()).ok()
            };
            parts == before && input(&headers) == input(&original) && verified.keyid == "k"
        });
        prop_assert!(verified.is_err() || same, "{verified:?}");
    }

    /// Whatever is sent, it is judged.
    #[test]
    fn nothing_that_is_sent_can_make_it_panic(input in "\\PC{0,200}", signature in "\\PC{0,100}") {
        let mut headers = request(&[]);
        for (name, text) in [("signature-input", input), ("signature", signature)] {
            if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
                headers.insert(name, value);
            }
        }
        let key = secret();
        let _ = verify(&message(&headers), |_| Some(&key), &whole(), now());
    }
}
