//! How many requests in flight a service takes, found out from how long it takes to answer: the gradient of Netflix's
//! concurrency-limits (`Gradient2Limit`, github.com/Netflix/concurrency-limits), whose reasoning is that of TCP Vegas
//! (Brakmo and Peterson, 1995): once requests queue, they take longer, and more in flight make nothing faster.
//!
//! What answers take without a queue is the yardstick, as in Vegas: the least that has been seen, which follows quickly
//! down, and up where nothing of ours can queue, because few are in flight. Under load it is found out from time to time: if
//! half as many in flight are answered no faster, then there is no queue, and the service has become slower. While
//! answers take up to `tolerance` times as long, the limit grows, by the square root of itself; as they take longer, it
//! shrinks in proportion. (With the moving average of `Gradient2Limit` as the yardstick, a load that lasts becomes the
//! normal state, and the limit grows with it to its maximum.)
//!
//! Time is an argument.

use std::time::Duration;

/// How the limit is found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub min: u32,
    pub max: u32,
    pub initial: u32,
    /// How many times as long as without a queue answers may take before the limit shrinks.
    pub tolerance: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            min: 4,
            max: 1000,
            initial: 20,
            tolerance: 1.5,
        }
    }
}

/// How fast the limit follows what is found.
const SMOOTHING: f64 = 0.2;

/// How fast the yardstick follows, for each decision: down, and up where few are in flight.
const DOWN: f64 = 0.2;
const UP: f64 = 0.05;

/// Decisions that held the limit down, after which half of it is tried: at least half a minute.
const TRY_AFTER: u32 = 300;

/// One failure in so many is a sign of too much, whatever the others took. (One in a window that is a tenth of a second
/// decides nothing: at a thousand requests a second there is always one.)
const FAILED_OF: u32 = 10;

/// Samples that one decision is made from, at least: one slow answer decides nothing.
const SAMPLES: u32 = 10;

/// Not more often than this.
const EVERY: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Clone, Debug)]
pub struct Gradient {
    settings: Settings,
    limit: f64,
    /// What answers take without a queue, in seconds; 0 before the first decision.
    yardstick: f64,
    /// What has come since the last decision: sum of seconds, how many, how many others failed, and the most that were in
    /// flight.
    sum: f64,
    samples: u32,
    failed: u32,
    most: u32,
    decided: u64,
    trial: Trial,
}

/// Whether half the limit is being tried.
#[derive(Clone, Copy, Debug)]
enum Trial {
    /// Not yet, after so many decisions that held the limit down.
    After(u32),
    /// It is, while the limit was that much and answers took so long. What is answered first was asked before.
    Begun {
        limit: f64,
        took: f64,
    },
    Measured {
        limit: f64,
        took: f64,
    },
}

impl Gradient {
    pub fn new(settings: Settings) -> Self {
        Self {
            limit: f64::from(settings.initial.clamp(settings.min, settings.max)),
            settings,
            yardstick: 0.0,
            sum: 0.0,
            samples: 0,
            failed: 0,
            most: 0,
            decided: 0,
            trial: Trial::After(0),
        }
    }

    /// How many may be in flight.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// Takes in how long an answer took, and how many were in flight with it; `dropped`: it did not come, or said that
    /// there is too much to do. `now` is in nanoseconds. Tells the limit when it is decided anew.
    pub fn add(&mut self, took: Duration, in_flight: u32, dropped: bool, now: u64) -> Option<u32> {
        match dropped {
            true => self.failed += 1,
            false => {
                self.sum += took.as_secs_f64();
                self.samples += 1;
            }
        }
        self.most = self.most.max(in_flight);
        let soon = now.saturating_sub(self.decided) < EVERY.as_nanos() as u64;
        let all = self.samples + self.failed;
        if all < SAMPLES || soon {
            return None;
        }
        let fails = self.failed >= all.div_ceil(FAILED_OF);
        let short = self.sum / f64::from(self.samples.max(1));
        let most = self.most;
        (self.sum, self.samples, self.failed, self.most) = (0.0, 0, 0, 0);
        self.decided = now;
        if fails {
            let limit = match std::mem::replace(&mut self.trial, Trial::After(0)) {
                Trial::After(_) => self.limit,
                Trial::Begun { limit, .. } | Trial::Measured { limit, .. } => limit,
            };
            self.set(limit * 0.7);
            return Some(self.limit());
        }
        if let Some(limit) = self.tried(short) {
            return Some(limit);
        }
        // nobody knows what more in flight would do while there are so few
        let few = f64::from(most) < self.limit / 2.0;
        self.measure(short, few);
        if few {
            return None;
        }
        let gradient = self.settings.tolerance * self.yardstick / short.max(f64::MIN_POSITIVE);
        let queue = self.limit.sqrt().max(1.0);
        let found = self.limit * gradient.clamp(0.5, 1.0) + queue;
        self.set(self.limit * (1.0 - SMOOTHING) + found * SMOOTHING);
        self.trial = match self.trial {
            Trial::After(held) if gradient < 1.0 && held >= TRY_AFTER => {
                let limit = self.limit;
                self.set(limit / 2.0);
                Trial::Begun { limit, took: short }
            }
            Trial::After(held) => Trial::After(held + u32::from(gradient < 1.0)),
            trial => trial,
        };
        Some(self.limit())
    }

    /// Goes on with a trial, if there is one.
    fn tried(&mut self, short: f64) -> Option<u32> {
        match self.trial {
            Trial::After(_) => return None,
            Trial::Begun { limit, took } => self.trial = Trial::Measured { limit, took },
            Trial::Measured { limit, took } => {
                self.trial = Trial::After(0);
                self.set(limit);
                if short > took * 0.9 {
                    self.yardstick = self.yardstick.max(short);
                }
            }
        }
        Some(self.limit())
    }

    fn measure(&mut self, short: f64, few: bool) {
        let share = match (self.yardstick == 0.0, short < self.yardstick, few) {
            (true, ..) => 1.0,
            (_, true, _) => DOWN,
            (_, _, true) => UP,
            _ => 0.0,
        };
        self.yardstick += (short - self.yardstick) * share;
    }

    fn set(&mut self, limit: f64) {
        let (min, max) = (f64::from(self.settings.min), f64::from(self.settings.max));
        self.limit = limit.clamp(min, max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A service that does so many at a time, each in 10 ms; the others wait. As many as the limit lets are in flight.
    fn settled(gradient: &mut Gradient, at_once: f64, steps: u64, began: u64) -> u32 {
        for step in 0..steps {
            let in_flight = gradient.limit();
            let took = 0.010 * (f64::from(in_flight) / at_once).max(1.0);
            let now = began + step * 10 * MS;
            gradient.add(Duration::from_secs_f64(took), in_flight, false, now);
        }
        gradient.limit()
    }

    #[test]
    fn it_grows_while_answers_take_no_longer() {
        let mut gradient = Gradient::new(Settings::default());
        let limit = settled(&mut gradient, 1e9, 20_000, MS);
        assert_eq!(limit, 1000);
    }

    #[test]
    fn it_settles_near_what_a_service_does_at_once_and_follows_it() {
        let mut gradient = Gradient::new(Settings::default());
        let limit = settled(&mut gradient, 50.0, 20_000, MS);
        assert!((50..150).contains(&limit), "{limit}");
        let less = settled(&mut gradient, 10.0, 20_000, 300_000 * MS);
        assert!((10..40).contains(&less), "{less}");
    }

    #[test]
    fn a_service_that_has_become_slower_for_good_is_believed() {
        let mut gradient = Gradient::new(Settings::default());
        for step in 0..20_000 {
            let took = Duration::from_millis(if step < 1000 { 10 } else { 100 });
            gradient.add(took, gradient.limit(), false, step * 10 * MS);
        }
        assert!(gradient.limit() > 500, "{}", gradient.limit());
    }

    #[test]
    fn few_in_flight_and_one_slow_answer_change_nothing() {
        let mut gradient = Gradient::new(Settings::default());
        for step in 0..2000 {
            gradient.add(Duration::from_millis(10), 2, false, step * 20 * MS);
        }
        assert_eq!(gradient.limit(), 20);
        assert_eq!(
            gradient.add(Duration::from_secs(3), 2, false, 40_001 * MS),
            None
        );
        assert_eq!(gradient.limit(), 20);
    }

    #[test]
    fn failures_shrink_it_and_not_below_the_least() {
        let mut gradient = Gradient::new(Settings::default());
        let fails = |gradient: &mut Gradient, now| {
            let all = (0..10).map(|_| gradient.add(Duration::from_secs(30), 20, true, now));
            all.last().flatten()
        };
        assert_eq!(fails(&mut gradient, 200 * MS), Some(14));
        // those that fail at the same time say the same
        assert_eq!(fails(&mut gradient, 201 * MS), None);
        for step in 2..50 {
            fails(&mut gradient, step * 200 * MS);
        }
        assert_eq!(gradient.limit(), 4);
    }

    #[test]
    fn one_failure_among_many_answers_shrinks_nothing() {
        let mut gradient = Gradient::new(Settings::default());
        for step in 0..20_000 {
            let (took, failed) = (Duration::from_millis(10), step % 50 == 0);
            gradient.add(took, gradient.limit(), failed, step * MS);
        }
        assert!(gradient.limit() > 50, "{}", gradient.limit());
    }
}
