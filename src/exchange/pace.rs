//! How slow a client may be where it alone is waited for (security requirements 2.4 and 3).
//!
//! A client that moves a byte now and then makes progress, and would hold its connection, its buffers and the endpoint for
//! hours. So the time in which nothing but the client is waited for is added up, and in each period of it the client has
//! to move so much. Time in which somebody else is waited for does not count, and neither does a client that is fast
//! enough never to be waited for.

use std::time::{Duration, Instant};

/// What has to be moved in each period of waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Least {
    /// Bytes a second.
    pub rate: u32,
    pub period: Duration,
}

impl Least {
    /// In one period.
    pub fn bytes(&self) -> u64 {
        self.bytes_in(self.period)
    }

    /// A byte at least.
    fn bytes_in(&self, waited: Duration) -> u64 {
        let bytes = u128::from(self.rate) * waited.as_micros() / 1_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX).max(1)
    }
}

/// How slow the clients of a listener may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// The content of a request.
    pub read: Least,
    /// An answer.
    pub write: Least,
    /// Between two pieces of a request's content.
    pub silence: Duration,
}

/// The client was waited for, and has moved too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSlow;

/// One direction of one exchange.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// The client is waited for since then.
    since: Option<Instant>,
    /// In this period so far.
    waited_micros: u32,
    moved_bytes: u32,
}

impl Pace {
    /// The client is waited for from now on, unless it is already.
    pub fn wait(&mut self, now: impl FnOnce() -> Instant) -> Instant {
        *self.since.get_or_insert_with(now)
    }

    pub fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// Since when the client is waited for.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// The client is not waited for any more, though it has not moved: the time until then counts.
    pub fn pause(&mut self, now: Instant) {
        let Some(since) = self.since.take() else {
            return;
        };
        let waited = now.saturating_duration_since(since).as_micros();
        let waited = u32::try_from(waited).unwrap_or(u32::MAX);
        self.waited_micros = self.waited_micros.saturating_add(waited);
    }

    /// The wait was for somebody else after all.
    pub fn forget_wait(&mut self) {
        self.since = None;
    }

    /// The client has moved something.
    ///
    /// # Errors
    /// A period is over in which it has moved too little.
    pub fn moved(
        &mut self,
        bytes: usize,
        least: Least,
        now: impl FnOnce() -> Instant,
    ) -> Result<(), TooSlow> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.moved_bytes = self.moved_bytes.saturating_add(bytes);
        if !self.is_waiting() {
            return Ok(());
        }
        self.pause(now());
        let waited = Duration::from_micros(self.waited_micros.into());
        if waited < least.period {
            return Ok(());
        }
        let moved = u64::from(self.moved_bytes);
        *self = Self::default();
        match moved < least.bytes_in(waited) {
            true => Err(TooSlow),
            false => Ok(()),
        }
    }

    /// How much of the period is left.
    pub fn left(&self, least: Least) -> Duration {
        let waited = Duration::from_micros(self.waited_micros.into());
        least.period.saturating_sub(waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEAST: Least = Least {
        rate: 240,
        period: Duration::from_secs(10),
    };

    /// A client that moves so many bytes after each pause.
    fn moves(bytes: usize, pause: Duration, times: u32) -> Result<(), TooSlow> {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..times {
            pace.wait(|| now);
            now += pause;
            pace.moved(bytes, LEAST, || now)?;
        }
        Ok(())
    }

    #[test]
    fn a_byte_now_and_then_is_too_slow() {
        assert_eq!(moves(1, Duration::from_secs(5), 1), Ok(()));
        assert_eq!(moves(1, Duration::from_secs(5), 2), Err(TooSlow));
        assert_eq!(moves(1, Duration::from_secs(29), 1), Err(TooSlow));
        assert_eq!(moves(1, Duration::from_millis(5), 1999), Ok(()));
        assert_eq!(moves(1, Duration::from_millis(5), 2000), Err(TooSlow));
    }

    #[test]
    fn a_burst_earns_no_more_than_its_period() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.moved(1 << 30, LEAST, || start).unwrap();
        pace.wait(|| start);
        let mut now = start + LEAST.period;
        assert_eq!(pace.moved(1, LEAST, || now), Ok(()));
        pace.wait(|| now);
        now += LEAST.period;
        assert_eq!(pace.moved(1, LEAST, || now), Err(TooSlow));
    }

    #[test]
    fn time_in_which_nobody_waits_for_the_client_does_not_count() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..100 {
            pace.wait(|| now);
            now += Duration::from_millis(50);
            pace.moved(1, LEAST, || now).unwrap();
            now += Duration::from_secs(60);
        }
        pace.wait(|| now);
        now += Duration::from_secs(60);
        pace.forget_wait();
        assert!(!pace.is_waiting());
        assert_eq!(pace.moved(1, LEAST, || now), Ok(()));
    }

    #[test]
    fn time_in_which_our_own_line_is_waited_in_does_not_count_and_the_rest_does() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let mut moved = Ok(());
        for _ in 0..100 {
            pace.wait(|| now);
            now += Duration::from_millis(101);
            pace.pause(now);
            now += Duration::from_secs(60);
            pace.wait(|| now);
            assert_eq!(moved, Ok(()));
            moved = pace.moved(1, LEAST, || now);
        }
        assert_eq!(moved, Err(TooSlow));
    }

    proptest! {
        #[test]
        fn who_keeps_the_rate_is_never_too_slow(bytes in 1_usize..100_000, times in 1_u32..500) {
            let pause = Duration::from_micros(bytes as u64 * 1_000_000 / 241);
            prop_assert_eq!(moves(bytes, pause, times), Ok(()));
        }

        #[test]
        fn who_is_slower_is_found_out_when_the_period_is_over(bytes in 1_usize..10_000) {
            let pause = Duration::from_micros(bytes as u64 * 1_000_000 / 230);
            let times = (LEAST.period.as_micros() / pause.as_micros()) as u32 + 1;
            prop_assert_eq!(moves(bytes, pause, times), Err(TooSlow));
        }
    }
}
