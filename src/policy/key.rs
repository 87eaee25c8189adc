//! What is counted by: some facts of a request as one number, which nobody can foretell.

use super::CompileContext;
use crate::diagnostic::Diagnostic;
use crate::exchange::fact::{Fact, client_key};
use crate::exchange::{LimitKey as Key, View};
use crate::state::Kept;
use crate::units::{AddressSet, Cidr, OneOrMany, Span, Spanned};
use ahash::{AHashSet, RandomState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;

/// What a limit acts before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "LimitBefore")]
pub enum Before {
    Auth,
}

/// What a limit counts for each on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "LimitPer")]
pub enum Per {
    Route,
}

/// Reports facts that make no key, or are not known where a limit acts.
pub fn check_by(
    by: Option<&OneOrMany<Spanned<Fact>>>,
    per: Option<Per>,
    before: Option<Before>,
    cx: &mut CompileContext<'_>,
) {
    let by = || by.iter().flat_map(|by| &by.0);
    for (at, fact) in by().enumerate() {
        if fact.is_of_identity() && before.is_some() {
            let message = format!("`{}` is not known before `auth`", fact.value());
            let hint = "remove `before: auth`, or count by `client_address`";
            cx.report(Diagnostic::error(message, fact.span()).hint(hint));
        }
        if by().take(at).any(|other| other == fact) {
            let message = format!("`{}` stands twice", fact.value());
            cx.report(Diagnostic::error(message, fact.span()).hint("once is enough"));
        }
        if *fact.value() == Fact::RequestId {
            let message = "no two requests have the same id: nothing would be limited";
            let hint = "count by what requests have in common, such as `client_address`";
            cx.report(Diagnostic::error(message, fact.span()).hint(hint));
        }
        if *fact.value() == Fact::Route && per.is_some() {
            let message = "`per: route` says it already";
            cx.report(Diagnostic::error(message, fact.span()).hint("leave one of them out"));
        }
    }
}

/// The key of hashes, made by chance for each process: whoever could foretell hashes could choose names that share the
/// counters of others.
pub struct Seed(RandomState);

impl Default for Seed {
    fn default() -> Self {
        Self(RandomState::new())
    }
}

impl Kept for Seed {
    fn export(&self) -> Option<serde_json::Value> {
        None
    }

    fn restore(&self, _: &serde_json::Value) {}
}

/// The facts that make a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed {
    pub facts: Box<[Fact]>,
    /// Whether each route counts for itself.
    per: Option<Per>,
}

/// Marks the keys of requests that lack a fact, so that no client shares them by what it sends.
const LACKS: u8 = 1;
const WHOLE: u8 = 0;

impl Keyed {
    pub fn new(by: impl IntoIterator<Item = Fact>, per: Option<Per>) -> Self {
        Self {
            facts: by.into_iter().collect(),
            per,
        }
    }

    /// As a policy has it written: where nothing is, the limits of plans count by consumer, and others all requests as one.
    pub fn of_policy(
        by: Option<&OneOrMany<Spanned<Fact>>>,
        per: Option<Per>,
        cx: &CompileContext<'_>,
    ) -> Self {
        match by {
            Some(by) => Self::new(by.0.iter().map(|fact| fact.value().clone()), per),
            None => Self::new(cx.counts_by(), per),
        }
    }

    /// How many there may be: one, or more than are known.
    pub fn is_one(&self) -> bool {
        self.facts.is_empty() && self.per.is_none()
    }

    /// The key of a request. One that lacks a fact counts by its client's address, and one that lacks that too together
    /// with all others of its kind.
    pub fn of(&self, seed: &Seed, view: View<'_>) -> Key {
        let of = self.whose(seed, view);
        let counted = match (self.per, &view.facts.route) {
            (Some(Per::Route), Some(route)) => Self::on_route(seed, of, route),
            _ => of,
        };
        Key { of, counted }
    }

    /// What is counted for that key on that route, where each counts for itself.
    fn on_route(seed: &Seed, of: u64, route: &str) -> u64 {
        let mut hasher = seed.0.build_hasher();
        hasher.write_u64(of);
        add_bytes(&mut hasher, route.as_bytes());
        hasher.finish()
    }

    fn whose(&self, seed: &Seed, view: View<'_>) -> u64 {
        self.hash(|| seed.0.build_hasher(), view).finish()
    }

    fn hash<H: Hasher>(&self, make: impl Fn() -> H, view: View<'_>) -> H {
        let mut hasher = make();
        hasher.write_u8(WHOLE);
        if self.facts.iter().all(|fact| add(&mut hasher, fact, view)) {
            return hasher;
        }
        let mut hasher = make();
        hasher.write_u8(LACKS);
        add(&mut hasher, &Fact::ClientAddress, view);
        hasher
    }

    /// What the key of a request is called where gateways count together: the same for all of them, and nothing that it
    /// is made of can be read from it.
    pub fn digest(&self, view: View<'_>) -> Digest {
        let of = self.hash(|| Blake::new(self), view);
        self.digest_on(of, view.facts.route.as_deref())
    }

    /// The same for the key that an operator means, of which [`Keyed::meant`] knows that there is one.
    pub fn digest_meant(&self, text: Option<&str>, route: Option<&str>) -> Option<Digest> {
        let mut hasher = Blake::new(self);
        hasher.write_u8(WHOLE);
        let of = match text {
            Some(text) => self.hash_written(hasher, text)?,
            None => hasher,
        };
        Some(self.digest_on(of, route))
    }

    fn digest_on(&self, mut of: Blake, route: Option<&str>) -> Digest {
        if let (Some(Per::Route), Some(route)) = (self.per, route) {
            add_bytes(&mut of, route.as_bytes());
        }
        of.digest()
    }

    /// The key of values that somebody has written, one for each fact with commas between them; none if there are not as
    /// many, or no request can have them.
    pub fn written(&self, seed: &Seed, text: &str) -> Option<u64> {
        if self.facts.is_empty() {
            return None;
        }
        let mut hasher = seed.0.build_hasher();
        hasher.write_u8(WHOLE);
        Some(self.hash_written(hasher, text)?.finish())
    }

    fn hash_written<H: Hasher>(&self, mut hasher: H, text: &str) -> Option<H> {
        // what is last may hold commas
        let mut values = text.splitn(self.facts.len(), ',');
        for fact in &self.facts {
            let value = values.next()?.trim();
            match fact {
                Fact::ClientAddress => {
                    let address = value.strip_suffix("/64").unwrap_or(value);
                    add_address(&mut hasher, address.parse().ok()?);
                }
                // as it is canonical
                Fact::Host | Fact::HostCapture(_)
                    if value.contains(|one: char| one.is_ascii_uppercase()) =>
                {
                    return None;
                }
                _ => add_bytes(&mut hasher, value.as_bytes()),
            }
        }
        Some(hasher)
    }

    /// The key that an operator means.
    ///
    /// # Errors
    /// What has to be written, as a sentence.
    pub fn meant(
        &self,
        seed: &Seed,
        text: Option<&str>,
        route: Option<&str>,
    ) -> Result<Key, String> {
        let facts: Vec<String> = self.facts.iter().map(Fact::to_string).collect();
        let facts = facts.join(",");
        let of = match (text, self.facts.is_empty()) {
            (None, true) => {
                let mut hasher = seed.0.build_hasher();
                hasher.write_u8(WHOLE);
                hasher.finish()
            }
            (Some(_), true) => {
                return Err("it counts all requests as one: it has no keys".to_owned());
            }
            (None, false) => return Err(format!("it counts by key: `{facts}`")),
            (Some(text), false) => {
                let written = self.written(seed, text);
                written.ok_or_else(|| format!("that is no key of it: a key is `{facts}`"))?
            }
        };
        let counted = match (self.per, route) {
            (None, None) => of,
            (Some(Per::Route), Some(route)) => Self::on_route(seed, of, route),
            (Some(Per::Route), None) => {
                return Err("each route counts for itself: name one as `route`".to_owned());
            }
            (None, Some(_)) => return Err("it counts over all routes: name none".to_owned()),
        };
        Ok(Key { of, counted })
    }

    /// Whether each route counts for itself.
    pub fn is_per_route(&self) -> bool {
        self.per.is_some()
    }
}

/// Half of a BLAKE3 hash: nobody finds two keys that have the same.
pub type Digest = [u8; 16];

struct Blake(blake3::Hasher);

impl Blake {
    /// What is counted by is a part of it: with other facts, it is another key.
    fn new(keyed: &Keyed) -> Self {
        let mut hasher = Self(blake3::Hasher::new_derive_key(
            "northgate 1 key of a shared limit",
        ));
        for fact in &keyed.facts {
            add_bytes(&mut hasher, fact.to_string().as_bytes());
        }
        hasher.write_u8(u8::from(keyed.is_per_route()));
        hasher
    }

    fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        self.0.finalize_xof().fill(&mut digest);
        digest
    }
}

impl Hasher for Blake {
    fn finish(&self) -> u64 {
        let mut start = [0; 8];
        self.0.finalize_xof().fill(&mut start);
        u64::from_le_bytes(start)
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    // the same on all machines
    fn write_u64(&mut self, number: u64) {
        self.write(&number.to_le_bytes());
    }
}

fn add(hasher: &mut impl Hasher, fact: &Fact, view: View<'_>) -> bool {
    // most ask for this one, and its text would be made for each request
    if let (Fact::ClientAddress, Some(address)) = (fact, view.facts.client_address) {
        add_address(hasher, address);
        return true;
    }
    let value = fact.read(view);
    if let Some(value) = &value {
        add_bytes(hasher, value.as_bytes());
    }
    value.is_some()
}

fn add_address(hasher: &mut impl Hasher, address: IpAddr) {
    match client_key(address) {
        IpAddr::V4(address) => add_bytes(hasher, &address.octets()),
        IpAddr::V6(address) => add_bytes(hasher, &address.octets()),
    }
}

/// With the length, so that where one part ends and the next begins makes a difference.
fn add_bytes(hasher: &mut impl Hasher, bytes: &[u8]) {
    hasher.write_u64(bytes.len() as u64);
    hasher.write(bytes);
}

/// Where something is written, or the policy where that is a file.
pub fn place(at: Span, cx: &CompileContext<'_>) -> Span {
    match at.is_known() {
        true => at,
        false => cx.span(),
    }
}

/// Reports what is no key of a limit.
pub fn no_key(text: &str, at: Span, keyed: &Keyed, cx: &mut CompileContext<'_>) {
    let facts: Vec<String> = keyed.facts.iter().map(Fact::to_string).collect();
    let message = format!("`{text}` is no key of this limit");
    let hint = match facts.as_slice() {
        [] => "it counts all requests as one: add `by`".to_owned(),
        facts => format!("a key is made of `{}`", facts.join(",")),
    };
    cx.report(Diagnostic::error(message, at).hint(hint));
}

/// Who is not limited: networks, where clients' addresses are counted by, and keys as the limit knows them.
pub struct Exempt<K> {
    pub networks: AddressSet,
    pub keys: AHashSet<K>,
}

impl<K: Eq + Hash> Exempt<K> {
    /// `key` makes a key of what is written; none, which it reports, if no request can have it.
    pub fn compile<'c>(
        exempt: Option<&OneOrMany<Spanned<Box<str>>>>,
        facts: &[Fact],
        cx: &mut CompileContext<'c>,
        mut key: impl FnMut(&Spanned<Box<str>>, &mut CompileContext<'c>) -> Option<K>,
    ) -> Self {
        let (mut networks, mut keys) = (Vec::new(), AHashSet::new());
        for text in exempt.iter().flat_map(|exempt| &exempt.0) {
            if *facts != [Fact::ClientAddress] {
                keys.extend(key(text, cx));
                continue;
            }
            match text.value().parse::<Cidr>() {
                Ok(network) => networks.push(network),
                Err(invalid) => {
                    let hint = invalid.hint.unwrap_or_default();
                    cx.report(Diagnostic::error(invalid.message, text.span()).hint(hint));
                }
            }
        }
        Self {
            networks: networks.into_iter().collect(),
            keys,
        }
    }

    pub fn holds<Q>(&self, of: &Q, client: Option<IpAddr>) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        (!self.keys.is_empty() && self.keys.contains(of))
            || (!self.networks.is_empty()
                && client.is_some_and(|address| self.networks.contains(address)))
    }
}

impl Exempt<u64> {
    /// Of a limit that knows its keys as numbers.
    pub fn of_numbers(
        exempt: Option<&OneOrMany<Spanned<Box<str>>>>,
        keyed: &Keyed,
        seed: &Seed,
        cx: &mut CompileContext<'_>,
    ) -> Self {
        Self::compile(exempt, &keyed.facts, cx, |text, cx| {
            let key = keyed.written(seed, text.value());
            if key.is_none() {
                no_key(text.value(), text.span(), keyed, cx);
            }
            key
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::fact::sample::Sample;

    fn keyed(facts: &[&str]) -> Keyed {
        Keyed::new(facts.iter().map(|fact| fact.parse().unwrap()), None)
    }

    #[test]
    fn what_is_written_is_the_key_of_requests_that_have_it() {
        let seed = Seed::default();
        let sample = Sample::get("/")
            .header("x-a", "one")
            .header("x-b", "two, three");
        let both = keyed(&["header.x-a", "header.x-b"]);
        assert_eq!(
            both.written(&seed, "one,two, three"),
            Some(both.of(&seed, sample.view()).of)
        );
        assert_eq!(both.written(&seed, "one"), None);
        let address = keyed(&["client_address"]);
        let sample = Sample::get("/").client("2001:db8::17");
        for written in ["2001:db8::17", "2001:db8::/64", "2001:db8::ffff"] {
            let key = address.written(&seed, written);
            assert_eq!(key, Some(address.of(&seed, sample.view()).of));
        }
        assert_eq!(address.written(&seed, "somebody"), None);
    }

    #[test]
    fn a_request_that_lacks_a_fact_counts_by_its_client() {
        let seed = Seed::default();
        let keyed = keyed(&["header.x-a", "header.x-b"]);
        let of = |sample: Sample| keyed.of(&seed, sample.view());
        let lacking = of(Sample::get("/").header("x-a", "1").client("192.0.2.1"));
        assert_eq!(
            lacking,
            of(Sample::get("/").header("x-b", "2").client("192.0.2.1"))
        );
        assert_ne!(lacking, of(Sample::get("/").client("192.0.2.2")));
        assert_ne!(
            of(Sample::get("/").header("x-a", "ab").header("x-b", "c")),
            of(Sample::get("/").header("x-a", "a").header("x-b", "bc"))
        );
    }

    #[test]
    fn what_can_not_be_a_key_is_none() {
        let seed = Seed::default();
        assert_eq!(keyed(&[]).written(&seed, "all"), None);
        assert_eq!(keyed(&["host"]).written(&seed, "A.test"), None);
        assert!(keyed(&["host"]).written(&seed, "a.test").is_some());
    }

    #[test]
    fn each_route_counts_for_itself_also_who_lacks_a_fact() {
        let seed = Seed::default();
        let by = || ["header.x-a".parse::<Fact>().unwrap()];
        let (all, each) = (Keyed::new(by(), None), Keyed::new(by(), Some(Per::Route)));
        for sample in [
            || Sample::get("/").client("192.0.2.1"),
            || Sample::get("/").client("192.0.2.1").header("x-a", "1"),
        ] {
            let (one, two) = (sample().route("one"), sample().route("two"));
            let of = |keyed: &Keyed, sample: &Sample| keyed.of(&seed, sample.view());
            assert_eq!(of(&all, &one), of(&all, &two));
            assert_eq!(of(&each, &one).of, of(&each, &two).of);
            assert_ne!(of(&each, &one).counted, of(&each, &two).counted);
        }
        assert!(all.written(&seed, "1").is_some());
        assert_eq!(all.written(&seed, "1"), each.written(&seed, "1"));
    }

    #[test]
    fn gateways_that_count_together_call_a_key_the_same() {
        let keyed = keyed(&["header.x-a", "header.x-b"]);
        let of = |a, b| keyed.digest(Sample::get("/").header("x-a", a).header("x-b", b).view());
        let hex: String = of("a", "b")
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, "3da0631440eff7d13a4a4be79f25d1db");
        assert_eq!(keyed.digest_meant(Some("a,b"), None), Some(of("a", "b")));
        assert_ne!(of("ab", ""), of("a", "b"));
        let other = super::tests::keyed(&["header.x-b", "header.x-a"]);
        assert_ne!(other.digest_meant(Some("a,b"), None), Some(of("a", "b")));
        let each = Keyed::new(keyed.facts.iter().cloned(), Some(Per::Route));
        let (one, two) = (
            each.digest_meant(Some("a,b"), Some("one")),
            each.digest_meant(Some("a,b"), Some("two")),
        );
        assert!(one != two && one != Some(of("a", "b")));
        let sample = Sample::get("/")
            .header("x-a", "a")
            .header("x-b", "b")
            .route("one");
        assert_eq!(Some(each.digest(sample.view())), one);
    }

    #[test]
    fn nothing_that_is_sent_makes_the_key_of_a_request_that_lacks_it() {
        let seed = Seed::default();
        let keyed = keyed(&["header.x-a"]);
        let address = [192, 0, 2, 1].map(char::from);
        let forged: String = address.iter().collect();
        assert_ne!(
            Some(
                keyed
                    .of(&seed, Sample::get("/").client("192.0.2.1").view())
                    .of
            ),
            keyed.written(&seed, &forged),
        );
    }
}
