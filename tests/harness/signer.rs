//! Keys that sign tokens, as an issuer has them. Unit tests and benches include this file too.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A key pair, or a secret.
pub struct Signer {
    pub kid: String,
    algorithm: &'static str,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair, &'static str),
    Ed25519(Ed25519KeyPair),
    Secret(Box<hmac::Key>, Vec<u8>),
}

impl Signer {
    /// A new key for that algorithm.
    pub fn new(algorithm: &'static str, kid: &str) -> Self {
        let ecdsa = |algorithm: &'static EcdsaSigningAlgorithm, curve| {
            Pair::Ecdsa(EcdsaKeyPair::generate(algorithm).expect("a key"), curve)
        };
        let rsa = |encoding| {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
            Pair::Rsa(pair, encoding)
        };
        let pair = match algorithm {
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "RS384" => rsa(&signature::RSA_PKCS1_SHA384),
            "RS512" => rsa(&signature::RSA_PKCS1_SHA512),
            "PS256" => rsa(&signature::RSA_PSS_SHA256),
            "PS384" => rsa(&signature::RSA_PSS_SHA384),
            "PS512" => rsa(&signature::RSA_PSS_SHA512),
            "ES256" => ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            "ES384" => ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            "ES512" => ecdsa(&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
            "EdDSA" => Pair::Ed25519(Ed25519KeyPair::generate().expect("a key")),
            other => panic!("{other} has no key pair"),
        };
        let kid = kid.to_owned();
        Self {
            kid,
            algorithm,
            pair,
        }
    }

    /// Signs with a shared secret.
    pub fn secret(algorithm: &'static str, kid: &str, secret: &[u8]) -> Self {
        let by = match algorithm {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            "HS512" => hmac::HMAC_SHA512,
            other => panic!("{other} takes no secret"),
        };
        Self {
            kid: kid.to_owned(),
            algorithm,
            pair: Pair::Secret(Box::new(hmac::Key::new(by, secret)), secret.to_vec()),
        }
    }

    pub fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// The public key as sets of keys have it; of a secret, the secret.
    pub fn jwk(&self) -> Value {
        let mut key = match &self.pair {
            Pair::Rsa(pair, _) => {
                let parts = PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": encoded(&parts.n), "e": encoded(&parts.e)})
            }
            Pair::Ecdsa(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": encoded(x), "y": encoded(y)})
            }
            Pair::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(pair.public_key().as_ref())})
            }
            Pair::Secret(_, secret) => json!({"kty": "oct", "k": encoded(secret)}),
        };
        key["kid"] = json!(self.kid);
        key["alg"] = json!(self.algorithm);
        key["use"] = json!("sig");
        key
    }

    /// The public key as a PEM block.
    pub fn pem(&self) -> String {
        let der: PublicKeyX509Der<'_> = match &self.pair {
            Pair::Rsa(pair, _) => pair.public_key().as_der().expect("DER"),
            Pair::Ecdsa(pair, _) => pair.public_key().as_der().expect("DER"),
            Pair::Ed25519(pair) => pair.public_key().as_der().expect("DER"),
            Pair::Secret(..) => panic!("a secret has no public half"),
        };
        pem("PUBLIC KEY", der.as_ref())
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm, "kid": self.kid, "typ": "JWT"});
        self.token_of(&header.to_string(), &claims.to_string())
    }

    /// A token of this header and payload, whatever they say.
    pub fn token_of(&self, header: &str, payload: &str) -> String {
        let signed = format!(
            "{}.{}",
            encoded(header.as_bytes()),
            encoded(payload.as_bytes())
        );
        let signature = encoded(&self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    pub fn sign(&self, text: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, text, &mut signature)
                    .expect("a signature");
                signature
            }
            Pair::Ecdsa(pair, _) => pair
                .sign(&random, text)
                .expect("a signature")
                .as_ref()
                .to_vec(),
            Pair::Ed25519(pair) => pair.sign(text).as_ref().to_vec(),
            Pair::Secret(key, _) => hmac::sign(key, text).as_ref().to_vec(),
        }
    }
}

/// base64url without padding.
pub fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A PEM block.
pub fn pem(kind: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("ASCII"))
        .collect();
    format!(
        "-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n",
        lines.join("\n")
    )
}
