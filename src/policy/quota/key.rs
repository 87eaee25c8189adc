//! What a quota counts by: facts of a request as a text, since it is kept on the disk.

use crate::exchange::fact::{Fact, client_key};
use crate::exchange::{QuotaKey as Key, View};
use std::fmt::Write;
use std::net::IpAddr;

/// Longer ones are kept as a digest.
pub const BYTES_MAX: usize = 256;

/// The facts that make a key.
pub struct Keyed {
    pub facts: Box<[Fact]>,
    /// Whether each route counts for itself.
    pub per_route: bool,
}

impl Keyed {
    /// The key of a request. One that lacks a fact counts by its client's address, and nobody can send what is taken for
    /// that.
    pub fn of(&self, view: View<'_>) -> Key {
        let of = self.whose(view);
        self.on_route(of, view.facts.route.as_deref())
    }

    fn on_route(&self, mut text: String, route: Option<&str>) -> Key {
        let whose = text.len();
        if self.per_route {
            text.push(',');
            add(&mut text, route.unwrap_or_default());
        }
        Key::new(text, whose)
    }

    fn whose(&self, view: View<'_>) -> String {
        let mut key = String::with_capacity(64);
        for (at, fact) in self.facts.iter().enumerate() {
            let Some(value) = fact.read_key(view) else {
                let address = Fact::ClientAddress.read_key(view);
                return format!("%client_address={}", address.as_deref().unwrap_or("-"));
            };
            if at > 0 {
                key.push(',');
            }
            add(&mut key, &value);
        }
        bounded(key)
    }

    /// The key of values that somebody has written, one for each fact with commas between them; none if there are not as
    /// many, or no request can have them.
    pub fn written(&self, text: &str) -> Option<Box<str>> {
        let mut key = String::new();
        // what is last may hold commas
        let mut values = text.splitn(self.facts.len(), ',');
        for (at, fact) in self.facts.iter().enumerate() {
            let value = values.next()?.trim();
            if at > 0 {
                key.push(',');
            }
            match fact {
                Fact::ClientAddress => {
                    let address = value.strip_suffix("/64").unwrap_or(value);
                    let address: IpAddr = address.parse().ok()?;
                    match client_key(address) {
                        IpAddr::V4(address) => key.push_str(&address.to_string()),
                        // as requests have it
                        IpAddr::V6(network) => key.push_str(&format!("{network}/64")),
                    }
                }
                // as it is canonical
                Fact::Host | Fact::HostCapture(_)
                    if value.contains(|one: char| one.is_ascii_uppercase()) =>
                {
                    return None;
                }
                _ => add(&mut key, value),
            }
        }
        Some(bounded(key).into())
    }

    /// The key that an operator means.
    ///
    /// # Errors
    /// What has to be written, as a sentence.
    pub fn meant(&self, text: Option<&str>, route: Option<&str>) -> Result<Key, String> {
        let facts = self.facts_text();
        let text = text.ok_or_else(|| format!("it counts by key: `{facts}`"))?;
        let of = self
            .written(text)
            .ok_or_else(|| format!("that is no key of it: a key is `{facts}`"))?;
        match (self.per_route, route) {
            (true, None) => Err("each route counts for itself: name one as `route`".to_owned()),
            (false, Some(_)) => Err("it counts over all routes: name none".to_owned()),
            (_, route) => Ok(self.on_route(of.into(), route)),
        }
    }

    pub fn facts_text(&self) -> String {
        let facts: Vec<String> = self.facts.iter().map(Fact::to_string).collect();
        facts.join(",")
    }
}

fn bounded(key: String) -> String {
    match key.len() > BYTES_MAX {
        true => format!("%blake3={}", blake3::hash(key.as_bytes()).to_hex()),
        false => key,
    }
}

/// Adds a value so that where it ends can be seen: of `%`, `,` and control characters the escapes.
fn add(key: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '%' | ',' | '\0'..='\x1f' | '\x7f' => {
                // writing into a string does not fail
                let _ = write!(key, "%{:02X}", u32::from(character));
            }
            character => key.push(character),
        }
    }
}
