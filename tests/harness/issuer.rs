//! An issuer of tokens: it publishes its keys, rotates them, goes down, is slow, answers rubbish.

use super::origin::{Origin, Received, Reply};
use super::signer::Signer;
use super::wait::Gate;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// How the issuer answers.
#[derive(Clone)]
pub enum Mood {
    Well,
    /// Connections are closed without an answer.
    Down,
    /// Nothing is answered before the gate is open.
    Slow(Gate),
    /// This status and this text, whatever was asked for.
    Answers(u16, String),
    /// Its discovery document says that it is somebody else.
    Posing,
}

/// An issuer that lives as long as the value.
pub struct Issuer {
    origin: Origin,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    signers: Vec<Arc<Signer>>,
    mood: Mood,
    /// What is said of each token that is asked about.
    tokens: Vec<(String, Value)>,
}

impl Issuer {
    /// One with a key of its own.
    pub async fn start() -> Self {
        Self::at((super::loopback(), 0).into()).await
    }

    /// One at this address.
    pub async fn at(address: SocketAddr) -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            signers: vec![Arc::new(Signer::new("ES256", "first"))],
            mood: Mood::Well,
            tokens: Vec::new(),
        }));
        let script = shared.clone();
        let origin = Origin::at(address, move |request| {
            script.lock().expect("no panic").answer(request)
        });
        Self {
            origin: origin.await,
            shared,
        }
    }

    /// What its tokens say in `iss`.
    pub fn url(&self) -> String {
        format!("http://{}", self.origin.address())
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The questions about tokens.
    pub fn questions(&self) -> Vec<Received> {
        let received = self.origin.received().into_iter();
        received
            .filter(|request| request.target() == "/introspect")
            .collect()
    }

    /// How often its keys were asked for.
    pub fn fetches(&self) -> usize {
        let received = self.origin.received();
        let of_keys = received
            .iter()
            .filter(|request| request.target() == "/keys");
        of_keys.count()
    }

    pub fn is(&self, mood: Mood) {
        self.shared.lock().expect("no panic").mood = mood;
    }

    /// Publishes these keys, and no others.
    pub fn publishes(&self, signers: &[Arc<Signer>]) {
        self.shared.lock().expect("no panic").signers = signers.to_vec();
    }

    /// The key that it signs with: the last of those that it publishes.
    pub fn signer(&self) -> Arc<Signer> {
        let shared = self.shared.lock().expect("no panic");
        shared.signers.last().expect("a key").clone()
    }

    /// Answers this to whoever asks about that token (RFC 7662).
    pub fn knows(&self, token: &str, answer: Value) {
        let mut shared = self.shared.lock().expect("no panic");
        shared.tokens.retain(|(known, _)| known != token);
        shared.tokens.push((token.to_owned(), answer));
    }

    /// Claims for `orders` that hold for five minutes.
    pub fn claims(&self) -> Value {
        let now = since_epoch();
        json!({"iss": self.url(), "aud": "orders", "sub": "alice", "iat": now, "exp": now + 300})
    }

    /// A good token with these claims besides.
    pub fn token(&self, more: Value) -> String {
        let mut claims = self.claims();
        for (name, value) in more.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        self.signer().token(&claims)
    }
}

pub fn since_epoch() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after the epoch").as_secs()
}

impl Shared {
    fn answer(&self, request: &Received) -> Reply {
        let issuer = format!("http://{}", request.header("host").expect("a host"));
        let well = || match request.target() {
            "/.well-known/openid-configuration" => json_of(&json!({
                "issuer": issuer,
                "jwks_uri": format!("{issuer}/keys"),
                "introspection_endpoint": format!("{issuer}/introspect"),
            })),
            "/keys" => {
                let keys: Vec<Value> = self.signers.iter().map(|signer| signer.jwk()).collect();
                json_of(&json!({ "keys": keys }))
            }
            "/introspect" => self.introspect(request),
            _ => Reply::status(404, &[], ""),
        };
        match &self.mood {
            Mood::Well => well(),
            Mood::Down => Reply::close(),
            Mood::Slow(gate) => Reply::after(gate).then_reply(well()),
            Mood::Answers(status, text) => Reply::status(*status, &[], text),
            Mood::Posing => json_of(&json!({
                "issuer": "https://somebody.else.example/",
                "jwks_uri": format!("{issuer}/keys"),
            })),
        }
    }

    fn introspect(&self, request: &Received) -> Reply {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let asked = body.split('&').find_map(|pair| pair.strip_prefix("token="));
        let known = self
            .tokens
            .iter()
            .find(|(token, _)| Some(token.as_str()) == asked);
        match known {
            Some((_, answer)) => json_of(answer),
            None => json_of(&json!({"active": false})),
        }
    }
}

fn json_of(value: &Value) -> Reply {
    Reply::status(
        200,
        &[("Content-Type", "application/json")],
        value.to_string(),
    )
}
