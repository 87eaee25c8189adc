//! Tickets by which clients resume sessions (RFC 8446 §4.6.1, RFC 5077), and the keys that they are sealed with.
//!
//! A key makes tickets for six hours and opens them for six more. Gateways that are given the same secret need not talk
//! to have the same keys, since each is derived from the secret and the hours that it is for; a gateway whose clock is
//! ahead is understood too. Without a secret a key is made of random numbers and forgotten with its time, or with the
//! process.
//!
//! Keys are derived from the listener's name as well: of two listeners each may ask something else of clients, and a
//! session of one must not be resumed on the other. A ticket that nobody can open costs a full handshake, nothing more.

use super::TlsError;
use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand;
use parking_lot::Mutex;
use rustls::server::ProducesTickets;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

/// How long a key makes tickets. All gateways that share a secret must have the same.
const EPOCH: Duration = Duration::from_secs(6 * 60 * 60);

/// What clients are told: after two epochs no ticket can be opened any more.
const LIFETIME_SECONDS: u32 = 12 * 60 * 60;

/// What tells keys apart, at the beginning of a ticket.
const ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// Ours have some two hundred bytes; what is longer is not looked at.
const TICKET_BYTES_MAX: usize = 4096;

type Root = Zeroizing<[u8; 32]>;

/// What gateways of a fleet share. The first makes keys for tickets, and those of the others still open them.
#[derive(Clone)]
pub struct TicketSecrets(Arc<[Root]>);

impl TicketSecrets {
    /// Of secrets that can't be guessed; `None` if there are none.
    pub fn new<'a>(secrets: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let root = |secret| {
            let context = "northgate session tickets 2026-11";
            Zeroizing::new(blake3::derive_key(context, secret))
        };
        let roots: Arc<[Root]> = secrets.map(root).collect();
        (!roots.is_empty()).then_some(Self(roots))
    }
}

/// The keys that this process makes up, kept over reloads.
#[derive(Clone)]
pub struct Tickets(Arc<Mutex<OwnRoots>>);

struct OwnRoots {
    epoch: u64,
    current: Root,
    previous: Option<Root>,
}

impl Tickets {
    /// # Errors
    /// The system gives no random numbers.
    pub fn new() -> Result<Self, TlsError> {
        Ok(Self(Arc::new(Mutex::new(OwnRoots {
            epoch: 0,
            current: random()?,
            previous: None,
        }))))
    }

    /// What makes and opens the tickets of one listener.
    pub(super) fn of(&self, listener: &str, secrets: Option<&TicketSecrets>) -> ListenerTickets {
        let source = match secrets {
            Some(secrets) => Source::Shared(secrets.clone()),
            None => Source::Own(self.clone()),
        };
        ListenerTickets {
            listener: listener.into(),
            source,
            keys: ArcSwap::default(),
        }
    }

    /// The roots of this epoch and of the one before. A clock that goes back goes on with the same.
    fn roots(&self, epoch: u64) -> Result<Vec<Root>, TlsError> {
        let mut own = self.0.lock();
        if epoch > own.epoch {
            let before = std::mem::replace(&mut own.current, random()?);
            // one that was never used, or whose time is over, is forgotten
            own.previous = (epoch == own.epoch + 1).then_some(before);
            own.epoch = epoch;
        }
        let all = [Some(&own.current), own.previous.as_ref()];
        Ok(all.into_iter().flatten().cloned().collect())
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // nothing of the keys
        f.write_str("Tickets")
    }
}

impl fmt::Debug for TicketSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecrets")
    }
}

fn random() -> Result<Root, TlsError> {
    let mut bytes = Root::default();
    rand::fill(&mut *bytes)
        .map_err(|_| rustls::Error::FailedToGetRandomBytes)
        .map_err(TlsError::from)?;
    Ok(bytes)
}

enum Source {
    Shared(TicketSecrets),
    Own(Tickets),
}

/// Makes and opens the tickets of one listener.
pub(super) struct ListenerTickets {
    listener: Box<str>,
    source: Source,
    keys: ArcSwap<Keys>,
}

/// The keys of one epoch.
#[derive(Default)]
struct Keys {
    /// None before the first ticket.
    epoch: Option<u64>,
    /// The first makes tickets.
    all: Vec<Key>,
}

struct Key {
    id: [u8; ID_BYTES],
    /// Of this kind, two tickets with the same nonce would betray nothing but whether they are the same: with random
    /// nonces of twelve bytes that can happen to a large fleet.
    cipher: LessSafeKey,
}

impl Key {
    fn derive(root: &Root, listener: &str, epoch: u64) -> Option<Self> {
        let mut hasher = blake3::Hasher::new_keyed(root);
        hasher.update(&epoch.to_le_bytes());
        hasher.update(listener.as_bytes());
        let mut output = hasher.finalize_xof();
        let (mut id, mut key) = ([0; ID_BYTES], Root::default());
        output.fill(&mut id);
        output.fill(&mut *key);
        let cipher = UnboundKey::new(&AES_256_GCM_SIV, &*key).ok()?;
        Some(Self {
            id,
            cipher: LessSafeKey::new(cipher),
        })
    }
}

impl ListenerTickets {
    /// The keys of an epoch, made when the first asks for them.
    fn keys(&self, epoch: u64) -> Option<Arc<Keys>> {
        let known = self.keys.load();
        if known.epoch == Some(epoch) {
            return Some(known.clone());
        }
        let all: Option<Vec<Key>> = match &self.source {
            Source::Own(tickets) => {
                let roots = tickets.roots(epoch).ok()?;
                let keys = roots
                    .iter()
                    .map(|root| Key::derive(root, &self.listener, 0));
                keys.collect()
            }
            Source::Shared(TicketSecrets(roots)) => {
                // the next too, for gateways whose clocks are ahead
                let epochs = [epoch, epoch.saturating_sub(1), epoch.saturating_add(1)];
                let derive = |root| epochs.map(|epoch| Key::derive(root, &self.listener, epoch));
                roots.iter().flat_map(derive).collect()
            }
        };
        let keys = Arc::new(Keys {
            epoch: Some(epoch),
            all: all?,
        });
        self.keys.store(keys.clone());
        Some(keys)
    }

    /// Key, nonce, then what is sealed with its tag.
    fn seal(&self, message: &[u8], epoch: u64) -> Option<Vec<u8>> {
        let keys = self.keys(epoch)?;
        let key = keys.all.first()?;
        let mut nonce = [0; NONCE_BYTES];
        rand::fill(&mut nonce).ok()?;
        let length = ID_BYTES + NONCE_BYTES + message.len() + TAG_BYTES;
        let mut ticket = Vec::with_capacity(length);
        ticket.extend_from_slice(&key.id);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(message);
        let sealed = ticket.get_mut(ID_BYTES + NONCE_BYTES..)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key
            .cipher
            .seal_in_place_separate_tag(nonce, Aad::from(key.id), sealed);
        ticket.extend_from_slice(tag.ok()?.as_ref());
        (ticket.len() <= TICKET_BYTES_MAX).then_some(ticket)
    }

    fn open(&self, ticket: &[u8], epoch: u64) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (id, rest) = ticket.split_first_chunk::<ID_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let keys = self.keys(epoch)?;
        let key = keys.all.iter().find(|key| key.id == *id)?;
        let mut message = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key
            .cipher
            .open_in_place(nonce, Aad::from(key.id), &mut message);
        let length = opened.ok()?.len();
        message.truncate(length);
        Some(message)
    }
}

impl ProducesTickets for ListenerTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    fn encrypt(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.seal(message, epoch_at(SystemTime::now()))
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, epoch_at(SystemTime::now()))
    }
}

impl fmt::Debug for ListenerTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // nothing of the keys
        f.debug_tuple("ListenerTickets")
            .field(&self.listener)
            .finish()
    }
}

/// The number of an epoch; one that cannot be told is the first.
fn epoch_at(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs() / EPOCH.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(listener: &str, secrets: &[&str]) -> ListenerTickets {
        let secrets = TicketSecrets::new(secrets.iter().map(|secret| secret.as_bytes()));
        Tickets::new().unwrap().of(listener, secrets.as_ref())
    }

    #[test]
    fn who_shares_a_secret_opens_the_tickets_of_the_others() {
        let (one, other) = (shared("web", &["secret"]), shared("web", &["secret"]));
        let ticket = one.seal(b"session", 100).unwrap();
        for (epoch, opens) in [
            (98, false),
            (99, true),
            (100, true),
            (101, true),
            (102, false),
        ] {
            let opened = other.open(&ticket, epoch);
            assert_eq!(
                opened.as_deref(),
                opens.then_some(&b"session"[..]),
                "{epoch}"
            );
        }
        assert_eq!(shared("web", &["another"]).open(&ticket, 100), None);
    }

    #[test]
    fn a_secret_can_be_replaced_without_a_handshake_more() {
        let (old, new) = (shared("web", &["old"]), shared("web", &["new"]));
        let (first, second) = (
            shared("web", &["old", "new"]),
            shared("web", &["new", "old"]),
        );
        for tickets in [&old, &first] {
            let ticket = tickets.seal(b"session", 7).unwrap();
            assert!(first.open(&ticket, 7).is_some() && second.open(&ticket, 7).is_some());
            assert_eq!(new.open(&ticket, 7), None);
        }
        let ticket = second.seal(b"session", 7).unwrap();
        assert!(first.open(&ticket, 7).is_some() && new.open(&ticket, 7).is_some());
    }

    #[test]
    fn no_listener_opens_the_tickets_of_another() {
        let tickets = Tickets::new().unwrap();
        let secrets = TicketSecrets::new([&b"secret"[..]].into_iter());
        for secrets in [None, secrets.as_ref()] {
            let (one, other) = (tickets.of("one", secrets), tickets.of("other", secrets));
            let ticket = one.seal(b"session", 1).unwrap();
            assert_eq!(other.open(&ticket, 1), None);
            // one of the same name, as after a reload
            assert!(tickets.of("one", secrets).open(&ticket, 1).is_some());
        }
    }

    #[test]
    fn keys_that_were_made_up_are_forgotten_with_their_time() {
        let tickets = Tickets::new().unwrap();
        let web = tickets.of("web", None);
        let ticket = web.seal(b"session", 100).unwrap();
        assert!(web.open(&ticket, 101).is_some());
        // the clock goes back, and on again
        assert!(web.open(&ticket, 99).is_some());
        assert!(web.open(&ticket, 101).is_some());
        assert_eq!(web.open(&ticket, 102), None);
        assert_eq!(web.open(&ticket, 101), None, "it is gone");
        let before_a_pause = web.seal(b"session", 102).unwrap();
        assert_eq!(web.open(&before_a_pause, 104), None);
        assert_eq!(
            Tickets::new().unwrap().of("web", None).open(&ticket, 100),
            None
        );
    }

    #[test]
    fn a_ticket_that_was_changed_is_not_opened() {
        let web = shared("web", &["secret"]);
        let ticket = web.seal(b"session", 1).unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(web.open(&changed, 1), None, "{at}");
            assert_eq!(web.open(&ticket[..at], 1), None, "{at}");
        }
        assert_ne!(ticket, web.seal(b"session", 1).unwrap());
        assert_eq!(web.open(&vec![0; 1 << 16], 1), None);
        assert_eq!(web.seal(&vec![0; 1 << 16], 1), None);
    }
}
