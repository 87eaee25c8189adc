//! What one key has used.

use super::{Period, Span};
use smallvec::SmallVec;

/// One stretch of time of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub span: Span,
    pub used: u64,
    /// What an operator has given beside the limit.
    pub granted: u64,
}

/// The stretches in which one key has used something, the oldest first.
///
/// Of those that count no more as many are kept as the period is long: a clock that jumps ahead and is set back forgets
/// nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account(SmallVec<[Slot; 2]>);

/// What of an account counts at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub used: u64,
    pub granted: u64,
}

impl Sum {
    pub fn room(self, limit: u64) -> u64 {
        limit.saturating_add(self.granted).saturating_sub(self.used)
    }
}

impl Account {
    /// One that was written down. Stretches that overlap or are empty make no sense, and nothing is read then.
    pub fn of(slots: impl IntoIterator<Item = Slot>) -> Option<Self> {
        let slots: SmallVec<[Slot; 2]> = slots.into_iter().collect();
        let sound = slots.iter().all(|slot| slot.span.start < slot.span.end);
        let ordered = slots
            .iter()
            .zip(slots.iter().skip(1))
            .all(|(one, next)| one.span.end <= next.span.start);
        (sound && ordered).then_some(Self(slots))
    }

    pub fn slots(&self) -> &[Slot] {
        &self.0
    }

    /// What counts now. A stretch that a clock has put into the future counts in a rolling period, and not in a calendar.
    pub(super) fn sum(&self, period: &Period, now: i64) -> Sum {
        let counts = |slot: &&Slot| match period {
            Period::Calendar { .. } => slot.span.contains(now),
            Period::Rolling { .. } => slot.span.end.saturating_add(period.echo()) > now,
        };
        let counting = self.0.iter().filter(counts);
        counting.fold(Sum::default(), |sum, slot| Sum {
            used: sum.used.saturating_add(slot.used),
            granted: sum.granted.saturating_add(slot.granted),
        })
    }

    /// When there is room for so much, if nothing else is used meanwhile; none if there never is.
    pub(super) fn room_at(&self, period: &Period, cost: u64, limit: u64, now: i64) -> Option<i64> {
        if let Period::Calendar { .. } = period {
            return match (self.sum(period, now).room(limit) >= cost, cost <= limit) {
                (true, _) => Some(now),
                (false, true) => Some(period.span(now).end),
                (false, false) => None,
            };
        }
        let ends = self
            .0
            .iter()
            .map(|slot| slot.span.end.saturating_add(period.echo()));
        let mut times = std::iter::once(now).chain(ends.filter(|end| *end > now));
        times.find(|time| self.sum(period, *time).room(limit) >= cost)
    }

    /// When none of what counts now counts any more.
    pub(super) fn forgotten_at(&self, period: &Period, now: i64) -> i64 {
        match (period, self.0.last()) {
            (Period::Rolling { .. }, Some(last)) => {
                last.span.end.saturating_add(period.echo()).max(now)
            }
            (Period::Rolling { .. }, None) => now,
            (Period::Calendar { .. }, _) => period.span(now).end,
        }
    }

    /// Whether nothing of it will count again, not even when the clock is set back by a period.
    pub(super) fn is_over(&self, period: &Period, now: i64) -> bool {
        self.0
            .last()
            .is_none_or(|last| is_over(&last.span, period, now))
    }

    pub(super) fn add(&mut self, period: &Period, now: i64, used: u64, granted: u64) {
        let slot = self.slot(period, now);
        slot.used = slot.used.saturating_add(used);
        slot.granted = slot.granted.saturating_add(granted);
    }

    /// Takes back what was used in the stretch of that moment.
    pub(super) fn give_back(&mut self, at: i64, used: u64) {
        if let Some(slot) = self.0.iter_mut().find(|slot| slot.span.contains(at)) {
            slot.used = slot.used.saturating_sub(used);
        }
    }

    fn slot(&mut self, period: &Period, now: i64) -> &mut Slot {
        self.0.retain(|slot| !is_over(&slot.span, period, now));
        let at = match self.0.iter().rposition(|slot| slot.span.start <= now) {
            Some(at) if self.0.get(at).is_some_and(|slot| slot.span.contains(now)) => at,
            before => {
                let at = before.map_or(0, |at| at + 1);
                let mut span = period.span(now);
                // another zone's days overlap with those that were counted
                if let Some(before) = before.and_then(|at| self.0.get(at)) {
                    span.start = span.start.max(before.span.end);
                }
                if let Some(next) = self.0.get(at) {
                    span.end = span.end.min(next.span.start);
                }
                let slot = Slot {
                    span,
                    used: 0,
                    granted: 0,
                };
                self.0.insert(at, slot);
                at
            }
        };
        #[allow(clippy::indexing_slicing, reason = "it was found, or made, above")]
        &mut self.0[at]
    }
}

fn is_over(span: &Span, period: &Period, now: i64) -> bool {
    let length = match period {
        Period::Calendar { .. } => span.end - span.start,
        Period::Rolling { .. } => period.echo(),
    };
    span.end
        .saturating_add(period.echo())
        .saturating_add(length)
        <= now
}
