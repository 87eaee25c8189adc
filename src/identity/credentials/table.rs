//! Which key is whose: digests in a table that is made at load and never changes.
//!
//! A key is looked for by its digest under a key that only the gateway knows ([`super::digest`]). Where in the table the
//! search ends, and how long it takes, depends on that digest alone, of which nobody outside can tell a single bit; and the
//! digest that is found there is compared whole.
//!
//! A million keys of a million consumers take less than 200 bytes each, strings included: `benches/auth.rs` counts them.

use super::digest::Digest;
use crate::units::Timestamp;
use ahash::AHashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Of nothing there is.
const NONE: u32 = u32::MAX;

/// Stands for "never" in a compact entry.
const NEVER: u64 = u64::MAX;

/// The most keys of one configuration.
pub const KEYS_MAX: usize = 16_000_000;

/// A key as it is configured.
#[derive(Clone, Debug)]
pub struct Key<'a> {
    /// What it is called in logs and on lists of revoked keys.
    pub id: &'a str,
    pub digest: Digest,
    pub owner: Owner<'a>,
    pub not_before: Option<Timestamp>,
    pub expires: Option<Timestamp>,
}

/// Whose a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    pub consumer: &'a str,
    pub plan: Option<&'a str>,
    /// Separated by commas.
    pub groups: Option<&'a str>,
}

/// What a consumer has besides its name. Many have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    pub plan: Option<Arc<str>>,
    pub groups: Arc<[Arc<str>]>,
}

/// Why a key is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Unknown,
    Revoked,
    /// Its `not_before` is to come.
    Early,
    Expired,
}

/// A key that was found and is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub id: Arc<str>,
    pub consumer: Arc<str>,
    pub terms: Terms,
    pub expires: Option<Timestamp>,
}

/// All keys of a configuration.
#[derive(Default)]
pub struct Table {
    entries: Box<[Entry]>,
    owners: Box<[Holder]>,
    terms: Box<[Terms]>,
    slots: Slots,
}

struct Entry {
    digest: Digest,
    id: Arc<str>,
    not_before: u64,
    /// Zero for a revoked key.
    expires: u64,
    owner: u32,
}

struct Holder {
    name: Arc<str>,
    terms: u32,
}

impl Table {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The key of that digest, if it is valid now.
    ///
    /// # Errors
    /// There is none, or it is not valid.
    pub fn find(&self, digest: &Digest, now: Timestamp) -> Result<Found, Refusal> {
        let found = self.slots.find(&self.entries, digest);
        let entry = found.ok_or(Refusal::Unknown)?;
        let now = now.unix();
        if entry.expires == 0 {
            return Err(Refusal::Revoked);
        }
        if now >= entry.expires {
            return Err(Refusal::Expired);
        }
        if now < entry.not_before {
            return Err(Refusal::Early);
        }
        let owner = self.owners.get(entry.owner as usize);
        let owner = owner.ok_or(Refusal::Unknown)?;
        let terms = self.terms.get(owner.terms as usize);
        Ok(Found {
            id: entry.id.clone(),
            consumer: owner.name.clone(),
            terms: terms.cloned().unwrap_or_default(),
            expires: (entry.expires != NEVER).then(|| Timestamp::of_unix(entry.expires)),
        })
    }

    /// Names of consumers, in the order in which they came.
    pub fn consumers(&self) -> impl Iterator<Item = &Arc<str>> {
        self.owners.iter().map(|owner| &owner.name)
    }
}

/// Open addressing, at most two thirds full.
struct Slots {
    hasher: RandomState,
    /// Places of entries. The length is a power of two.
    places: Box<[u32]>,
}

impl Default for Slots {
    fn default() -> Self {
        Self::for_entries(0)
    }
}

impl Slots {
    fn for_entries(entries: usize) -> Self {
        let length = (entries + entries / 2 + 1).next_power_of_two();
        Self {
            hasher: RandomState::new(),
            places: vec![NONE; length].into_boxed_slice(),
        }
    }

    /// Goes over the entries that may have that digest, and hands out where the search ended.
    fn probe<'e>(
        &self,
        entries: &'e [Entry],
        digest: &Digest,
    ) -> (Option<(&'e Entry, u32)>, usize) {
        let mask = self.places.len().wrapping_sub(1);
        // a digest is random already; hashed again, it is so for those that somebody wrote by hand too
        let mut slot = (self.hasher.hash_one(digest.0) as usize) & mask;
        loop {
            let place = self.places.get(slot).copied().unwrap_or(NONE);
            match entries.get(place as usize) {
                None => return (None, slot),
                Some(entry) if entry.digest == *digest => return (Some((entry, place)), slot),
                Some(_) => slot = slot.wrapping_add(1) & mask,
            }
        }
    }

    fn find<'e>(&self, entries: &'e [Entry], digest: &Digest) -> Option<&'e Entry> {
        self.probe(entries, digest).0.map(|(entry, _)| entry)
    }
}

/// A key that can't be added, because of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clash<P> {
    /// The same key has another id already.
    Digest(P),
    /// The id is taken.
    Id(P),
    /// The same consumer has another plan or other groups there.
    Terms(P),
    /// More than [`KEYS_MAX`].
    Full,
}

/// Collects keys. `P` says where one is written.
pub struct Builder<P> {
    entries: Vec<Entry>,
    places: Vec<P>,
    slots: Slots,
    ids: AHashMap<Arc<str>, u32>,
    owners: Vec<(Holder, P)>,
    by_name: AHashMap<Arc<str>, u32>,
    terms: Vec<Terms>,
    /// Terms as they are written: thousands of tenants may have a group of their own each.
    by_text: AHashMap<Box<str>, u32>,
    /// Where they are written before they are looked for.
    text: String,
}

impl<P: Copy> Default for Builder<P> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            places: Vec::new(),
            slots: Slots::default(),
            ids: AHashMap::new(),
            owners: Vec::new(),
            by_name: AHashMap::new(),
            terms: Vec::new(),
            by_text: AHashMap::new(),
            text: String::new(),
        }
    }
}

impl<P: Copy> Builder<P> {
    /// Makes room for so many more keys, so that a large file is not copied again and again as its table grows.
    pub fn reserve(&mut self, keys: usize) {
        let keys = keys.min(KEYS_MAX.saturating_sub(self.entries.len()));
        self.entries.reserve(keys);
        self.places.reserve(keys);
        self.ids.reserve(keys);
        // of as many consumers, if each has but one
        self.owners.reserve(keys);
        self.by_name.reserve(keys);
        let entries = self.entries.len() + keys;
        if (entries + 1) * 3 > self.slots.places.len() * 2 {
            self.grow_to(entries + 1);
        }
    }

    /// Adds a key.
    ///
    /// # Errors
    /// It can't stand beside an earlier one.
    pub fn add(&mut self, key: &Key<'_>, place: P) -> Result<(), Clash<P>> {
        if self.entries.len() >= KEYS_MAX {
            return Err(Clash::Full);
        }
        // at most two thirds full, this one included
        if (self.entries.len() + 1) * 3 > self.slots.places.len() * 2 {
            self.grow_to(self.entries.len() * 2 + 4);
        }
        let earlier = |at: u32| self.places.get(at as usize).copied();
        let (found, slot) = self.slots.probe(&self.entries, &key.digest);
        if let Some((_, at)) = found
            && let Some(place) = earlier(at)
        {
            return Err(Clash::Digest(place));
        }
        if let Some(place) = self.ids.get(key.id).and_then(|at| earlier(*at)) {
            return Err(Clash::Id(place));
        }
        let owner = self.owner(&key.owner, place)?;
        let id: Arc<str> = key.id.into();
        let at = u32::try_from(self.entries.len()).map_err(|_| Clash::Full)?;
        self.ids.insert(id.clone(), at);
        if let Some(slot) = self.slots.places.get_mut(slot) {
            *slot = at;
        }
        self.places.push(place);
        self.entries.push(Entry {
            digest: key.digest,
            id,
            not_before: key.not_before.map_or(0, Timestamp::unix),
            // a key that expired with the epoch is not revoked
            expires: key.expires.map_or(NEVER, |at| at.unix().max(1)),
            owner,
        });
        Ok(())
    }

    /// Revokes a key. Whether there is one of that id.
    pub fn revoke(&mut self, id: &str) -> bool {
        let at = self.ids.get(id).copied();
        let entry = at.and_then(|at| self.entries.get_mut(at as usize));
        if let Some(entry) = entry {
            entry.expires = 0;
            return true;
        }
        false
    }

    pub fn finish(self) -> Table {
        Table {
            entries: self.entries.into_boxed_slice(),
            owners: self.owners.into_iter().map(|(holder, _)| holder).collect(),
            terms: self.terms.into_boxed_slice(),
            slots: self.slots,
        }
    }

    fn owner(&mut self, owner: &Owner<'_>, place: P) -> Result<u32, Clash<P>> {
        let known = self.by_name.get(owner.consumer).copied();
        if let Some(at) = known
            && let Some((holder, first)) = self.owners.get(at as usize)
        {
            let terms = self.terms.get(holder.terms as usize);
            return match terms.is_some_and(|terms| terms.are(owner)) {
                true => Ok(at),
                false => Err(Clash::Terms(*first)),
            };
        }
        let terms = self.terms_of(owner)?;
        let at = u32::try_from(self.owners.len()).map_err(|_| Clash::Full)?;
        let name: Arc<str> = owner.consumer.into();
        self.by_name.insert(name.clone(), at);
        self.owners.push((Holder { name, terms }, place));
        Ok(at)
    }

    fn terms_of(&mut self, owner: &Owner<'_>) -> Result<u32, Clash<P>> {
        self.text.clear();
        // a plan holds no line break, and is not empty
        self.text.push_str(owner.plan.unwrap_or_default());
        self.text.push('\n');
        self.text.push_str(owner.groups.unwrap_or_default());
        if let Some(at) = self.by_text.get(&*self.text) {
            return Ok(*at);
        }
        let at = u32::try_from(self.terms.len()).map_err(|_| Clash::Full)?;
        self.terms.push(Terms::of(owner));
        self.by_text.insert(self.text.as_str().into(), at);
        Ok(at)
    }

    fn grow_to(&mut self, entries: usize) {
        let mut slots = Slots::for_entries(entries);
        for (at, entry) in self.entries.iter().enumerate() {
            let (_, slot) = slots.probe(&self.entries, &entry.digest);
            if let (Some(slot), Ok(at)) = (slots.places.get_mut(slot), u32::try_from(at)) {
                *slot = at;
            }
        }
        self.slots = slots;
    }
}

impl Terms {
    fn of(owner: &Owner<'_>) -> Self {
        Self {
            plan: owner.plan.map(Arc::from),
            groups: groups(owner).map(Arc::from).collect(),
        }
    }

    fn are(&self, owner: &Owner<'_>) -> bool {
        self.plan.as_deref() == owner.plan
            && self.groups.iter().map(|group| &**group).eq(groups(owner))
    }
}

fn groups<'a>(owner: &Owner<'a>) -> impl Iterator<Item = &'a str> + use<'a> {
    owner
        .groups
        .into_iter()
        .flat_map(|groups| groups.split(','))
}

#[cfg(test)]
mod tests {
    use super::super::digest::DigestKey;
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000;

    fn now() -> Timestamp {
        Timestamp::of_unix(NOW)
    }

    fn key<'a>(id: &'a str, consumer: &'a str, digest: Digest) -> Key<'a> {
        Key {
            id,
            digest,
            owner: Owner {
                consumer,
                plan: None,
                groups: None,
            },
            not_before: None,
            expires: None,
        }
    }

    fn digest(secret: &str) -> Digest {
        DigestKey::new(b"test").digest(secret.as_bytes())
    }

    #[test]
    fn a_consumer_may_have_two_keys_at_once() {
        let mut builder = Builder::default();
        builder.add(&key("old", "acme", digest("1")), 1).unwrap();
        builder.add(&key("new", "acme", digest("2")), 2).unwrap();
        let table = builder.finish();
        let found = |secret| table.find(&digest(secret), now()).unwrap();
        assert_eq!((&*found("1").id, &*found("2").id), ("old", "new"));
        assert!(Arc::ptr_eq(&found("1").consumer, &found("2").consumer));
        assert_eq!(table.consumers().count(), 1);
    }

    #[test]
    fn consumers_with_the_same_terms_share_them() {
        let mut builder = Builder::default();
        builder.reserve(5);
        let terms = [
            (None, None),
            (Some("gold"), None),
            (None, Some("gold")),
            (Some("gold"), Some("a,b")),
            (Some("gold"), Some("a,b")),
        ];
        for (number, (plan, groups)) in terms.into_iter().enumerate() {
            let (id, name) = (format!("k{number}"), format!("c{number}"));
            let owner = Owner {
                consumer: &name,
                plan,
                groups,
            };
            let key = Key {
                owner,
                ..key(&id, "", digest(&id))
            };
            builder.add(&key, ()).unwrap();
        }
        let table = builder.finish();
        assert_eq!(table.terms.len(), 4);
        for (number, (plan, groups)) in terms.into_iter().enumerate() {
            let found = table.find(&digest(&format!("k{number}")), now()).unwrap();
            assert_eq!(found.terms.plan.as_deref(), plan);
            let joined = found.terms.groups.join(",");
            assert_eq!(joined, groups.unwrap_or_default());
        }
    }

    #[test]
    fn a_key_is_valid_from_its_beginning_until_before_its_end() {
        let at = |seconds| Some(Timestamp::of_unix(seconds));
        let mut builder = Builder::default();
        let bounded = Key {
            not_before: at(100),
            expires: at(200),
            ..key("k", "acme", digest("1"))
        };
        builder.add(&bounded, ()).unwrap();
        let ended = Key {
            expires: at(0),
            ..key("e", "acme", digest("2"))
        };
        builder.add(&ended, ()).unwrap();
        let table = builder.finish();
        let of = |seconds| {
            let found = table.find(&digest("1"), Timestamp::of_unix(seconds));
            found.map(|found| found.expires)
        };
        assert_eq!(of(99), Err(Refusal::Early));
        assert_eq!(of(100), Ok(at(200)));
        assert_eq!(of(199), Ok(at(200)));
        assert_eq!(of(200), Err(Refusal::Expired));
        assert_eq!(table.find(&digest("2"), now()), Err(Refusal::Expired));
    }

    #[test]
    fn a_revoked_key_is_refused_and_its_neighbour_is_not() {
        let mut builder = Builder::default();
        builder.add(&key("a", "acme", digest("1")), ()).unwrap();
        builder.add(&key("b", "acme", digest("2")), ()).unwrap();
        assert!(builder.revoke("a"));
        assert!(!builder.revoke("c"));
        let table = builder.finish();
        assert_eq!(table.find(&digest("1"), now()), Err(Refusal::Revoked));
        assert!(table.find(&digest("2"), now()).is_ok());
    }

    #[test]
    fn what_contradicts_an_earlier_key_is_told_with_its_place() {
        let mut builder = Builder::default();
        builder.add(&key("a", "acme", digest("1")), 7).unwrap();
        let add = |builder: &mut Builder<i32>, key| builder.add(&key, 8);
        assert_eq!(
            add(&mut builder, key("b", "acme", digest("1"))),
            Err(Clash::Digest(7))
        );
        assert_eq!(
            add(&mut builder, key("a", "acme", digest("2"))),
            Err(Clash::Id(7))
        );
        let mut other = key("c", "acme", digest("3"));
        other.owner.plan = Some("gold");
        assert_eq!(add(&mut builder, other), Err(Clash::Terms(7)));
    }

    #[test]
    fn an_empty_table_knows_nobody() {
        assert_eq!(
            Table::default().find(&digest("1"), now()),
            Err(Refusal::Unknown)
        );
    }

    proptest! {
        #[test]
        fn every_key_is_found_as_its_own_and_nothing_else_is(
            count in 0..300_usize, probe: [u8; 32], bit in 0..256_usize,
        ) {
            let mut builder = Builder::default();
            let names: Vec<String> = (0..count).map(|number| format!("k{number}")).collect();
            for name in &names {
                builder.add(&key(name, name, digest(name)), ()).unwrap();
            }
            let table = builder.finish();
            prop_assert_eq!(table.len(), count);
            for name in &names {
                let found = table.find(&digest(name), now()).unwrap();
                prop_assert_eq!((&*found.id, &*found.consumer), (name.as_str(), name.as_str()));
                let mut other = digest(name);
                other.0[bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(table.find(&other, now()), Err(Refusal::Unknown));
            }
            prop_assert_eq!(table.find(&Digest(probe), now()), Err(Refusal::Unknown));
        }
    }
}
