//! An identity provider that browsers log in at, as strict as a good one is, and as wrong as it is told to be.

use super::origin::{Origin, Received, Reply};
use super::signer::{Signer, encoded};
use super::wait::Gate;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// A provider that lives as long as the value. Its client is `shop`, with the secret `s3cr&t+%`.
pub struct Provider {
    origin: Origin,
    shared: Arc<Mutex<Shared>>,
}

/// How its token endpoint answers.
#[derive(Clone)]
pub enum Manner {
    Well,
    /// Connections are closed without an answer.
    Down,
    /// Nothing is answered before the gate is open.
    Slow(Gate),
    /// This status and this text.
    Says(u16, String),
}

struct Shared {
    signer: Arc<Signer>,
    manner: Manner,
    /// Codes that count, with what the request for them said.
    codes: Vec<(String, Vec<(String, String)>)>,
    /// The refresh token that counts.
    refresh: Option<String>,
    serial: u64,
    expires_in: Value,
    /// Over what id tokens say by themselves; `null` leaves a claim out.
    claims: Value,
    header: Value,
    /// Members of the answer besides, or in place of others.
    answer: Value,
    names_itself: bool,
}

impl Provider {
    pub async fn start() -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            signer: Arc::new(Signer::new("ES256", "first")),
            manner: Manner::Well,
            codes: Vec::new(),
            refresh: None,
            serial: 0,
            expires_in: json!(300),
            claims: json!({}),
            header: json!({}),
            answer: json!({}),
            names_itself: false,
        }));
        let script = shared.clone();
        let origin = Origin::at((super::loopback(), 0).into(), move |request| {
            script.lock().expect("no panic").answer(request)
        });
        Self {
            origin: origin.await,
            shared,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.origin.address())
    }

    fn with<T>(&self, change: impl FnOnce(&mut Shared) -> T) -> T {
        change(&mut self.shared.lock().expect("no panic"))
    }

    pub fn is(&self, manner: Manner) {
        self.with(|shared| shared.manner = manner);
    }

    /// How long its access tokens say that they are good.
    pub fn expires_in(&self, seconds: impl Into<Value>) {
        self.with(|shared| shared.expires_in = seconds.into());
    }

    /// Puts these claims into id tokens, over its own.
    pub fn claims(&self, claims: Value) {
        self.with(|shared| shared.claims = claims);
    }

    /// Puts these members into the headers of id tokens.
    pub fn header(&self, header: Value) {
        self.with(|shared| shared.header = header);
    }

    /// Puts these members into answers of the token endpoint.
    pub fn answers(&self, answer: Value) {
        self.with(|shared| shared.answer = answer);
    }

    /// Signs with this key, and publishes it.
    pub fn signs_with(&self, signer: Arc<Signer>) {
        self.with(|shared| shared.signer = signer);
    }

    /// Its answers to browsers have `iss`, and its document says so.
    pub fn names_itself(&self) {
        self.with(|shared| shared.names_itself = true);
    }

    /// Takes back what sessions are renewed with.
    pub fn revokes(&self) {
        self.with(|shared| shared.refresh = None);
    }

    /// Somebody logs in: the code, and the `state` that goes back with it.
    pub fn logs_in(&self, location: &str) -> (String, String) {
        let asked = parameters(location.split_once('?').expect("a query").1);
        let of = |name: &str| value(&asked, name);
        assert!(
            location.starts_with(&format!("{}/auth?", self.url())),
            "{location}"
        );
        assert_eq!(of("response_type"), "code");
        assert_eq!(of("client_id"), "shop");
        assert_eq!(of("code_challenge_method"), "S256");
        let state = of("state");
        assert!(state.len() >= 22 && of("nonce").len() >= 22 && of("code_challenge").len() == 43);
        let code = self.with(|shared| {
            shared.serial += 1;
            let code = format!("code-{}-secret", shared.serial);
            shared.codes.push((code.clone(), asked));
            code
        });
        (code, state)
    }

    /// What its token endpoint was asked, by `grant_type`.
    pub fn asked(&self, grant_type: &str) -> Vec<Received> {
        let received = self.origin.received().into_iter();
        let wanted = format!("grant_type={grant_type}");
        received
            .filter(|request| request.target() == "/token")
            .filter(|request| String::from_utf8_lossy(&request.body).contains(&wanted))
            .collect()
    }
}

/// The parameters of a query or a form.
pub fn parameters(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| {
        let text = text.replace('+', " ");
        percent_encoding::percent_decode_str(&text)
            .decode_utf8_lossy()
            .into_owned()
    };
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

/// The value of the only parameter of that name.
pub fn value(parameters: &[(String, String)], name: &str) -> String {
    let mut found = parameters.iter().filter(|(known, _)| known == name);
    let value = found.next().map(|(_, value)| value.clone());
    assert!(found.next().is_none(), "{name} twice in {parameters:?}");
    value.unwrap_or_default()
}

impl Shared {
    fn answer(&mut self, request: &Received) -> Reply {
        let issuer = format!("http://{}", request.header("host").expect("a host"));
        match request.target() {
            "/.well-known/openid-configuration" => json_of(
                200,
                &json!({
                    "issuer": issuer,
                    "jwks_uri": format!("{issuer}/keys"),
                    "authorization_endpoint": format!("{issuer}/auth"),
                    "token_endpoint": format!("{issuer}/token"),
                    "end_session_endpoint": format!("{issuer}/end"),
                    "authorization_response_iss_parameter_supported": self.names_itself,
                }),
            ),
            "/keys" => json_of(200, &json!({"keys": [self.signer.jwk()]})),
            "/token" => match self.manner.clone() {
                Manner::Well => self.token(request, &issuer),
                Manner::Down => Reply::close(),
                Manner::Slow(gate) => Reply::after(&gate).then_reply(self.token(request, &issuer)),
                Manner::Says(status, text) => {
                    Reply::status(status, &[("Content-Type", "application/json")], text)
                }
            },
            _ => Reply::status(404, &[], ""),
        }
    }

    fn token(&mut self, request: &Received, issuer: &str) -> Reply {
        let refused = |error: &str| json_of(400, &json!({"error": error}));
        // `shop` and its secret, each encoded (RFC 6749 §2.3.1)
        if request.header("authorization") != Some("Basic c2hvcDpzM2NyJTI2dCUyQiUyNQ==") {
            return json_of(401, &json!({"error": "invalid_client"}));
        }
        let form = parameters(&String::from_utf8_lossy(&request.body));
        let of = |name: &str| value(&form, name);
        let nonce = match of("grant_type").as_str() {
            "authorization_code" => {
                let code = of("code");
                let Some(at) = self.codes.iter().position(|(known, _)| *known == code) else {
                    return refused("invalid_grant");
                };
                let (_, asked) = self.codes.remove(at);
                let digest = aws_lc_rs::digest::digest(
                    &aws_lc_rs::digest::SHA256,
                    of("code_verifier").as_bytes(),
                );
                if encoded(digest.as_ref()) != value(&asked, "code_challenge")
                    || of("redirect_uri") != value(&asked, "redirect_uri")
                {
                    return refused("invalid_grant");
                }
                Some(value(&asked, "nonce"))
            }
            "refresh_token" if self.refresh.as_ref() == Some(&of("refresh_token")) => None,
            _ => {
                // whoever uses one twice is not the only one who has it (RFC 9700 §4.14.2)
                self.refresh = None;
                return refused("invalid_grant");
            }
        };
        self.serial += 1;
        let refresh = format!("refresh-{}-secret", self.serial);
        self.refresh = Some(refresh.clone());
        let now = super::issuer::since_epoch();
        let mut claims =
            json!({"iss": issuer, "aud": "shop", "sub": "alice", "iat": now, "exp": now + 300});
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        overlay(&mut claims, &self.claims);
        let mut header = json!({"alg": "ES256", "kid": "first", "typ": "JWT"});
        overlay(&mut header, &self.header);
        let mut answer = json!({
            "access_token": format!("access-{}-secret", self.serial), "token_type": "Bearer",
            "expires_in": self.expires_in, "refresh_token": refresh,
            "id_token": self.signer.token_of(&header.to_string(), &claims.to_string()),
        });
        overlay(&mut answer, &self.answer);
        json_of(200, &answer)
    }
}

fn overlay(object: &mut Value, over: &Value) {
    for (name, value) in over.as_object().into_iter().flatten() {
        match value {
            Value::Null => {
                object.as_object_mut().expect("an object").remove(name);
            }
            value => object[name] = value.clone(),
        }
    }
}

fn json_of(status: u16, value: &Value) -> Reply {
    Reply::status(
        status,
        &[("Content-Type", "application/json")],
        value.to_string(),
    )
}
