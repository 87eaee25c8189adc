//! Counters by status, made when a status is first seen, found without a lock.

use super::sharded::Counter;
use super::text::Text;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// Statuses 100 to 599, and one place for no status at all.
const STATUSES: usize = 501;
const NO_STATUS: usize = STATUSES - 1;
/// Neighbouring statuses share a block: a route answers with few of them.
const BLOCK: usize = 32;
const BLOCKS: usize = STATUSES.div_ceil(BLOCK);

type Block = [OnceLock<Box<Counter>>; BLOCK];

/// How many series may still be made, over all tables of one family, and where what is beyond them is counted.
pub struct Budget {
    left: AtomicUsize,
    pub overflow: Counter,
}

impl Budget {
    pub fn new(series_max: usize) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(series_max),
            overflow: Counter::default(),
        })
    }

    fn take(&self) -> bool {
        let take_one = |left: usize| left.checked_sub(1);
        self.left.fetch_update(Relaxed, Relaxed, take_one).is_ok()
    }

    fn give_back(&self, series: usize) {
        self.left.fetch_add(series, Relaxed);
    }
}

/// One counter per status that was seen.
pub struct ByStatus {
    blocks: [OnceLock<Box<Block>>; BLOCKS],
    budget: Arc<Budget>,
}

impl ByStatus {
    pub fn new(budget: &Arc<Budget>) -> Self {
        Self {
            blocks: Default::default(),
            budget: Arc::clone(budget),
        }
    }

    /// Counts an answer; `None`, and what is no HTTP status, stand for none.
    pub fn increment(&self, status: Option<u16>) {
        let at = status.map_or(NO_STATUS, |status| {
            usize::from(status)
                .checked_sub(100)
                .map_or(NO_STATUS, |at| at.min(NO_STATUS))
        });
        self.counter(at)
            .unwrap_or(&self.budget.overflow)
            .increment();
    }

    /// Writes a sample for each status that was seen.
    pub fn write(&self, name: &str, labels: &str, text: &mut Text) {
        for (at, counter) in self.counters() {
            let labels = match at {
                NO_STATUS => format!("{labels},status=\"_none\""),
                at => format!("{labels},status=\"{}\"", at + 100),
            };
            text.sample(name, &labels, counter.value());
        }
    }

    fn counters(&self) -> impl Iterator<Item = (usize, &Counter)> {
        let cells = self.blocks.iter().enumerate().flat_map(|(block, cells)| {
            let cells = cells.get().into_iter().flat_map(|cells| cells.iter());
            cells
                .enumerate()
                .map(move |(at, cell)| (block * BLOCK + at, cell))
        });
        cells.filter_map(|(at, cell)| Some((at, &**cell.get()?)))
    }

    fn counter(&self, at: usize) -> Option<&Counter> {
        let block = self.blocks.get(at / BLOCK)?.get_or_init(Box::default);
        let cell = block.get(at % BLOCK)?;
        match cell.get() {
            Some(counter) => Some(counter),
            None => self.first_seen(cell),
        }
    }

    fn first_seen<'a>(&self, cell: &'a OnceLock<Box<Counter>>) -> Option<&'a Counter> {
        if !self.budget.take() {
            return None;
        }
        let mut made = false;
        let counter = cell.get_or_init(|| {
            made = true;
            Box::default()
        });
        if !made {
            self.budget.give_back(1);
        }
        Some(counter)
    }
}

impl Drop for ByStatus {
    fn drop(&mut self) {
        self.budget.give_back(self.counters().count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(table: &ByStatus) -> String {
        let mut text = Text::default();
        table.write("n", "a=\"b\"", &mut text);
        text.finish()
    }

    #[test]
    fn statuses_at_the_edges_are_themselves() {
        let table = ByStatus::new(&Budget::new(100));
        for status in [Some(100), Some(599), Some(600), Some(99), None] {
            table.increment(status);
        }
        let expected = "n{a=\"b\",status=\"100\"} 1\nn{a=\"b\",status=\"599\"} 1\nn{a=\"b\",status=\"_none\"} 3\n";
        assert_eq!(written(&table), expected);
    }

    #[test]
    fn what_is_beyond_the_budget_is_counted_together_and_room_comes_back() {
        let budget = Budget::new(1);
        let table = ByStatus::new(&budget);
        for status in [200, 404, 200, 500] {
            table.increment(Some(status));
        }
        assert_eq!(written(&table), "n{a=\"b\",status=\"200\"} 2\n");
        assert_eq!(budget.overflow.value(), 2);
        drop(table);
        assert!(budget.take());
    }

    proptest! {
        #[test]
        fn each_status_is_counted_where_it_belongs(statuses in prop::collection::vec(100u16..600, 0..200)) {
            let table = ByStatus::new(&Budget::new(1000));
            statuses.iter().for_each(|status| table.increment(Some(*status)));
            for (at, counter) in table.counters() {
                let expected = statuses.iter().filter(|status| usize::from(**status) == at + 100).count();
                prop_assert_eq!(counter.value(), expected as u64);
            }
        }
    }
}
