//! A brake on guessing: how many wrong passwords and keys may be tried, from one address and for one name.
//!
//! Both are counted in a [`Sketch`] of fixed size: whatever is sent, memory stays the same, and nobody is counted for less
//! than was tried. A failure moves the moment of its key on by `window / count`, and nothing more is tried while it is
//! further ahead than the window. So `20/1m` allows twenty at once, and then one every 3 s.
//!
//! A name alone would be a way to lock its user out: whoever fails often enough for it, from anywhere, would close it for
//! everybody. So who was let in within a day from an address, by that name or with that key, is known there, and counts
//! alone: failures of others, for the name or from the address, do not touch it, and its own are counted for the pair (the
//! "device cookies" of OWASP, with the address in place of the cookie). A neighbour behind the same address gets as many
//! guesses for a name that is known there as anybody else gets for the name, and no more. What is left to an attacker is
//! to keep a user out who comes from a new address, for as long as the attack lasts and no longer than one interval after.
//!
//! What failed before, from the same address, tells whoever sends it nothing new, and is not counted again: a program with
//! an old password does not close the way for its neighbours.
//!
//! Time is an argument, in nanoseconds of a monotonic clock. What is looked up is a hash, made with a key that nobody knows:
//! else whoever guesses could choose whom to share cells with.

use crate::limit::sketch::Sketch;
use crate::units::Rate;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Cells in a row. With 20 failures a minute for each address, some 10,000 addresses that do nothing else have to guess at
/// a time before those who share cells with them are held up without having failed.
const CELLS: usize = 1 << 14;

/// Pairs of an address and a name, or a key, that are known; the oldest of a bucket makes room.
const KNOWN_BUCKETS: usize = 1 << 13;
/// How long: who comes every day is not a stranger.
const KNOWN_FOR: u64 = 24 * 3600 * SECOND;
/// How much of that may pass before it is noted again.
const NOTED_AGAIN: u64 = 3600 * SECOND;

/// What has failed, and for how long it is no new guess; the same time for which verdicts on passwords are kept, so that
/// asking again costs no more than a look-up.
const FAILED_BUCKETS: usize = 1 << 11;
const FAILED_FOR: u64 = 300 * SECOND;

const SECOND: u64 = 1_000_000_000;

/// So many failures in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// For one failure.
    interval: u64,
    window: u64,
}

impl From<Rate> for Limit {
    fn from(rate: Rate) -> Self {
        let window = u64::try_from(rate.window.as_nanos()).unwrap_or(u64::MAX / 4);
        Self {
            interval: (window / rate.count.get()).max(1),
            window,
        }
    }
}

/// One try, as hashes of what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guess {
    /// The address; none where clients have no address.
    pub address: Option<u64>,
    /// The name alone, whether anybody has it or not; none where the credential has no name beside it.
    pub name: Option<u64>,
    /// The address and the name, or, where there is none, the credential: who is known.
    pub pair: u64,
    /// The address and all that was sent.
    pub whole: u64,
}

/// Whom the brake holds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Braked {
    Address,
    Name,
}

/// What is charged for a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// Whoever is known here: the pair alone.
    Pair,
    /// A stranger: the address and the name.
    Stranger,
}

/// See the module.
pub struct Brake {
    per_address: Option<Limit>,
    per_name: Option<Limit>,
    addresses: Sketch,
    names: Sketch,
    known: Lately,
    failed: Lately,
    /// Until when any cell is ahead of the clock: while none is, nobody is held up, and nothing is looked up.
    until: AtomicU64,
}

impl Brake {
    /// A brake with these limits. None: not by this.
    pub fn new(per_address: Option<Limit>, per_name: Option<Limit>) -> Self {
        Self {
            per_address,
            per_name,
            addresses: Sketch::new(CELLS),
            names: Sketch::new(CELLS),
            known: Lately::new(KNOWN_BUCKETS),
            failed: Lately::new(FAILED_BUCKETS),
            until: AtomicU64::new(0),
        }
    }

    /// Whether nobody is held up, so that nothing has to be looked up.
    pub fn is_quiet(&self, now: u64) -> bool {
        now >= self.until.load(Relaxed)
    }

    /// Whether this may be tried now.
    ///
    /// # Errors
    /// It may not, and when it may: so many nanoseconds later, if nobody else tries.
    pub fn admit(&self, guess: &Guess, now: u64) -> Result<(), (Braked, u64)> {
        if self.is_quiet(now) {
            return Ok(());
        }
        for (sketch, key, limit, braked) in self.counts(guess, self.charge_for(guess, now)) {
            let ahead = sketch.moment(key).saturating_sub(now);
            let most = limit.window.saturating_sub(limit.interval);
            if ahead > most {
                return Err((braked, ahead - most));
            }
        }
        Ok(())
    }

    /// Charges a try whose outcome takes time to find out, so that not many are let in at a time; it is given back by
    /// [`Self::refund`] if it was no failure.
    ///
    /// # Errors
    /// As of [`Self::admit`].
    pub fn reserve(&self, guess: &Guess, now: u64) -> Result<Charge, (Braked, u64)> {
        let charge = self.charge_for(guess, now);
        let mut over = None;
        for (sketch, key, limit, braked) in self.counts(guess, charge) {
            let ahead = sketch.advance(key, limit.interval, now).saturating_sub(now);
            if ahead > limit.window && over.is_none() {
                over = Some((braked, ahead - limit.window));
            }
            self.ahead(now, ahead);
        }
        match over {
            None => Ok(charge),
            Some(over) => {
                self.refund(guess, charge);
                Err(over)
            }
        }
    }

    /// Gives back what was charged, all of it: nobody is held up for a right password that took long to verify. What failed
    /// in the meantime may then count for less, by no more than that time.
    pub fn refund(&self, guess: &Guess, charge: Charge) {
        for (sketch, key, limit, _) in self.counts(guess, charge) {
            sketch.take_back(key, limit.interval);
        }
    }

    /// It was wrong. Counted unless it was charged before, and unless the same has failed before.
    pub fn failed(&self, guess: &Guess, charged: Option<Charge>, now: u64) {
        let again = self.failed.has(guess.whole, FAILED_FOR, now);
        if !again {
            self.failed.note(guess.whole, now);
        }
        match (charged, again) {
            (Some(charge), true) => self.refund(guess, charge),
            (Some(_), false) | (None, true) => {}
            (None, false) => {
                for (sketch, key, limit, _) in self.counts(guess, self.charge_for(guess, now)) {
                    let ahead = sketch.advance(key, limit.interval, now).saturating_sub(now);
                    self.ahead(now, ahead);
                }
            }
        }
    }

    /// It was right: whoever sent it is known there.
    pub fn succeeded(&self, guess: &Guess, now: u64) {
        if !self.known.has(guess.pair, NOTED_AGAIN, now) {
            self.known.note(guess.pair, now);
        }
    }

    fn charge_for(&self, guess: &Guess, now: u64) -> Charge {
        match self.known.has(guess.pair, KNOWN_FOR, now) {
            true => Charge::Pair,
            false => Charge::Stranger,
        }
    }

    /// Where a try counts.
    fn counts(
        &self,
        guess: &Guess,
        charge: Charge,
    ) -> impl Iterator<Item = (&Sketch, u64, Limit, Braked)> {
        let stranger = charge == Charge::Stranger;
        let address = guess.address.filter(|_| stranger).zip(self.per_address);
        let name = match charge {
            Charge::Pair => guess.name.map(|_| guess.pair),
            Charge::Stranger => guess.name,
        };
        let address = address.map(|(key, limit)| (&self.addresses, key, limit, Braked::Address));
        let name = name
            .zip(self.per_name)
            .map(|(key, limit)| (&self.names, key, limit, Braked::Name));
        address.into_iter().chain(name)
    }

    fn ahead(&self, now: u64, ahead: u64) {
        self.until.fetch_max(now.saturating_add(ahead), Relaxed);
    }
}

/// What was seen lately: a table of fixed size in which the oldest of a bucket makes room. What was seen and has made room
/// is not there any more; what was not seen is there once in 2^46 times.
struct Lately(Box<[AtomicU64]>);

/// Places in a bucket.
const PLACES: usize = 4;
/// The low bits of a place hold the moment, in these units.
const MOMENT_BITS: u32 = 16;
const MOMENT: u64 = 16 * SECOND;

impl Lately {
    fn new(buckets: usize) -> Self {
        let places = buckets * PLACES;
        Self(
            std::iter::repeat_with(AtomicU64::default)
                .take(places)
                .collect(),
        )
    }

    fn bucket(&self, key: u64) -> &[AtomicU64] {
        let buckets = (self.0.len() / PLACES).max(1);
        // the low bits, which are not in the mark
        let at = (key as usize % buckets) * PLACES;
        self.0.get(at..at + PLACES).unwrap_or_default()
    }

    /// Zero is an empty place: the mark is never zero.
    fn mark(key: u64) -> u64 {
        (key >> MOMENT_BITS).max(1)
    }

    /// How old it is. The clock has started before, and the units come round after twelve days, by when an old entry may
    /// seem new; what is asked for is a day at most, and to be known again for a day is not much.
    fn age(place: u64, now: u64) -> u64 {
        let moment = place & ((1 << MOMENT_BITS) - 1);
        let now = now / MOMENT;
        (now.wrapping_sub(moment) & ((1 << MOMENT_BITS) - 1)) * MOMENT
    }

    fn has(&self, key: u64, within: u64, now: u64) -> bool {
        let mark = Self::mark(key);
        self.bucket(key).iter().any(|place| {
            let place = place.load(Relaxed);
            place >> MOMENT_BITS == mark && Self::age(place, now) < within
        })
    }

    fn note(&self, key: u64, now: u64) {
        let mark = Self::mark(key);
        let worth = |place: &&AtomicU64| {
            let place = place.load(Relaxed);
            match place >> MOMENT_BITS {
                same if same == mark => u64::MAX,
                0 => u64::MAX - 1,
                _ => Self::age(place, now),
            }
        };
        if let Some(place) = self.bucket(key).iter().max_by_key(worth) {
            let moment = (now / MOMENT) & ((1 << MOMENT_BITS) - 1);
            place.store(mark << MOMENT_BITS | moment, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::mix;
    use proptest::prelude::*;

    const START: u64 = 1_000_000 * SECOND;

    fn rate(text: &str) -> Option<Limit> {
        Some(text.parse::<Rate>().expect("a rate").into())
    }

    fn brake() -> Brake {
        Brake::new(rate("20/1m"), rate("10/1m"))
    }

    /// Somebody at an address who sends a name and a password.
    fn of(address: u64, name: u64, password: u64) -> Guess {
        Guess {
            address: Some(mix(address)),
            name: Some(mix(1_000_000 + name)),
            pair: mix(mix(address) ^ name),
            whole: mix(mix(mix(address) ^ name) ^ password),
        }
    }

    /// Somebody who sends a key.
    fn key(address: u64, key: u64) -> Guess {
        let pair = mix(mix(address) ^ key);
        Guess {
            address: Some(mix(address)),
            name: None,
            pair,
            whole: pair,
        }
    }

    /// How many of these are tried, all at once, all wrong.
    fn tried(brake: &Brake, guesses: impl Iterator<Item = Guess>, now: u64) -> usize {
        let mut tried = 0;
        for guess in guesses {
            if brake.admit(&guess, now).is_ok() {
                brake.failed(&guess, None, now);
                tried += 1;
            }
        }
        tried
    }

    #[test]
    fn so_many_are_tried_at_once_and_then_one_at_a_time() {
        let brake = brake();
        // a name from anywhere
        assert_eq!(tried(&brake, (0..100).map(|at| of(at, 7, at)), START), 10);
        assert_eq!(
            brake.admit(&of(500, 7, 500), START),
            Err((Braked::Name, 6 * SECOND))
        );
        let later = START + 6 * SECOND;
        assert_eq!(
            tried(&brake, (0..100).map(|at| of(at, 7, 1000 + at)), later),
            1
        );
        let much_later = START + 3600 * SECOND;
        assert_eq!(
            tried(&brake, (0..100).map(|at| of(at, 7, 2000 + at)), much_later),
            10
        );
        // an address, whatever the names
        assert_eq!(
            tried(&brake, (0..100).map(|at| of(1009, 100 + at, at)), START),
            20
        );
        assert_eq!(
            brake.admit(&of(1009, 900, 0), START),
            Err((Braked::Address, 3 * SECOND))
        );
        assert_eq!(tried(&brake, (0..100).map(|at| key(1010, at)), START), 20);
        assert_eq!(brake.admit(&of(1011, 8, 0), START), Ok(()));
    }

    #[test]
    fn who_is_known_at_an_address_is_not_locked_out_by_others() {
        let brake = brake();
        let (home, name) = (1, 7);
        brake.succeeded(&of(home, name, 0), START);
        let now = START + 3600 * SECOND;
        assert_eq!(tried(&brake, (2..1000).map(|at| of(at, name, at)), now), 10);
        assert!(brake.admit(&of(2, name, 0), now).is_err());
        assert_eq!(brake.admit(&of(home, name, 0), now), Ok(()));
        // neighbours who guess other names hold up strangers alone
        assert_eq!(
            tried(&brake, (0..100).map(|at| of(home, 100 + at, at)), now),
            20
        );
        assert!(brake.admit(&of(home, 900, 0), now).is_err());
        assert_eq!(brake.admit(&of(home, name, 0), now), Ok(()));
        // nor may they guess that name without end
        assert_eq!(
            tried(&brake, (0..100).map(|at| of(home, name, 1 + at)), now),
            10
        );
        assert_eq!(
            brake.admit(&of(home, name, 0), now),
            Err((Braked::Name, 6 * SECOND))
        );
        // a day later it is a stranger
        let later = now + KNOWN_FOR + MOMENT;
        assert_eq!(
            tried(&brake, (2..1000).map(|at| of(at, name, at)), later),
            10
        );
        assert!(brake.admit(&of(home, name, 0), later).is_err());
    }

    #[test]
    fn a_key_that_was_right_is_not_held_up_by_its_neighbours() {
        let brake = brake();
        let good = key(1, 999);
        brake.succeeded(&good, START);
        assert_eq!(tried(&brake, (0..100).map(|at| key(1, at)), START), 20);
        assert!(brake.admit(&key(1, 998), START).is_err());
        assert_eq!(brake.admit(&good, START), Ok(()));
        assert!(brake.admit(&key(2, 999), START).is_ok());
    }

    #[test]
    fn the_same_mistake_is_counted_once() {
        let brake = brake();
        let wrong = of(1, 7, 1);
        assert_eq!(tried(&brake, std::iter::repeat_n(wrong, 1000), START), 1000);
        for _ in 0..1000 {
            let charge = brake.reserve(&wrong, START).expect("it is not counted");
            brake.failed(&wrong, Some(charge), START);
        }
        assert_eq!(tried(&brake, (2..100).map(|at| of(1, 7, at)), START), 9);
        let later = START + FAILED_FOR + MOMENT;
        brake.failed(&wrong, None, later);
        assert_eq!(tried(&brake, (100..200).map(|at| of(1, 7, at)), later), 9);
    }

    #[test]
    fn no_more_are_tried_at_a_time_than_may_fail() {
        let brake = brake();
        assert!(brake.is_quiet(START));
        let guesses: Vec<Guess> = (0..100).map(|at| of(at, 7, at)).collect();
        let reserved: Vec<_> = guesses
            .iter()
            .filter_map(|guess| Some((guess, brake.reserve(guess, START).ok()?)))
            .collect();
        assert_eq!(reserved.len(), 10);
        // those that were right are given back
        for (guess, charge) in &reserved {
            brake.refund(guess, *charge);
        }
        assert_eq!(brake.admit(&guesses[50], START), Ok(()));
        assert_eq!(tried(&brake, (200..300).map(|at| of(at, 7, at)), START), 10);
    }

    #[test]
    fn nothing_is_looked_up_while_nobody_fails() {
        let brake = brake();
        brake.failed(&of(1, 1, 1), None, START);
        assert!(brake.until.load(Relaxed) > START);
        assert!(brake.until.load(Relaxed) <= START + 6 * SECOND);
    }

    #[test]
    fn memory_is_the_same_whatever_is_tried_and_what_is_known_makes_room() {
        let lately = Lately::new(64);
        for key in 0..10_000 {
            lately.note(mix(key), START + key * MOMENT);
        }
        let now = START + 10_000 * MOMENT;
        let found = (0..10_000)
            .filter(|key| lately.has(mix(*key), u64::MAX, now))
            .count();
        assert!(found <= 64 * PLACES && found > 64, "{found}");
        assert!(lately.has(mix(9_999), 2 * MOMENT, now));
    }

    proptest! {
        /// However tries are spread over time, names and addresses, no window has more failures than twice the limit: so many
        /// that were saved up, and so many that came in the meantime.
        #[test]
        fn nobody_tries_more_than_the_limit_allows(
            steps in prop::collection::vec((0..3000_u64, 0..3_u64, 0..3_u64), 1..400),
        ) {
            let brake = brake();
            let mut now = START;
            let mut failures: Vec<(u64, u64, u64)> = Vec::new();
            for (at, (pause, address, name)) in steps.into_iter().enumerate() {
                now += pause * SECOND / 1000;
                let guess = of(address, name, at as u64);
                if brake.admit(&guess, now).is_ok() {
                    brake.failed(&guess, None, now);
                    failures.push((now, address, name));
                }
            }
            for (end, address, name) in &failures {
                let within = failures.iter().filter(|(at, ..)| *at <= *end && *at + 60 * SECOND > *end);
                let of_address = within.clone().filter(|(_, of, _)| of == address).count();
                let of_name = within.filter(|(_, _, of)| of == name).count();
                prop_assert!(of_address <= 40 && of_name <= 20, "{of_address} {of_name}");
            }
        }

        #[test]
        fn no_sequence_panics(
            steps in prop::collection::vec((any::<u64>(), 0..4_u8, any::<u64>(), any::<bool>()), 0..50),
        ) {
            let brake = brake();
            for (key, what, now, named) in steps {
                let guess = Guess {
                    address: Some(key),
                    name: named.then_some(key),
                    pair: key,
                    whole: key,
                };
                match what {
                    0 => { let _ = brake.admit(&guess, now); }
                    1 => brake.succeeded(&guess, now),
                    2 => brake.failed(&guess, None, now),
                    _ => if let Ok(charge) = brake.reserve(&guess, now) { brake.refund(&guess, charge) },
                }
            }
        }
    }
}
