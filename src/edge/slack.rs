//! Deadlines of thousands that came together, spread so that they don't end together.
//!
//! What ends a connection takes time, and everybody else waits for it: a crowd whose deadlines all pass in one moment
//! would be noticed by all others.

use crate::limit::mix;
use std::cell::Cell;
use std::time::Duration;

/// How much longer one connection is waited for than it must be: a sixteenth at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slack(u8);

impl Slack {
    /// Another one for each connection.
    pub(super) fn draw() -> Self {
        thread_local!(static DRAWN: Cell<u64> = const { Cell::new(0) });
        let drawn = DRAWN.replace(DRAWN.get().wrapping_add(1));
        Self(mix(drawn).to_le_bytes()[0])
    }

    /// The time that it is waited for.
    pub(super) fn of(self, limit: Duration) -> Duration {
        limit + limit / 4096 * u32::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_come_together_are_waited_for_differently_and_none_less_than_it_must_be() {
        let limit = Duration::from_secs(10);
        let all: std::collections::BTreeSet<Duration> =
            (0..1000).map(|_| Slack::draw().of(limit)).collect();
        assert!(all.len() > 200, "{}", all.len());
        assert!(
            all.iter()
                .all(|time| *time >= limit && *time < limit * 17 / 16)
        );
        let spread = *all.last().unwrap() - *all.first().unwrap();
        assert!(spread > limit / 20, "{spread:?}");
    }
}
