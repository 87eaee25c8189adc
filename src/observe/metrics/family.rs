//! Handles by label set: made when a snapshot is compiled, gone with the last snapshot that held them.

use super::text;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

/// The label value that stands for everything beyond a cap, and for a method that is not known.
pub const OTHER: &str = "_other";

/// A family of series by label set. The same labels give the same handle as long as anyone holds it, so that counts go
/// on over a reload; nobody does once the route or service is gone, and its series go with it.
pub struct Family<S> {
    label_names: &'static [&'static str],
    held: Mutex<Held<S>>,
    series_max: usize,
    overflow: OnceLock<Arc<S>>,
    warned: AtomicBool,
}

impl<S> Family<S> {
    pub fn new(label_names: &'static [&'static str], series_max: usize) -> Self {
        Self {
            label_names,
            held: Mutex::new(Held {
                series: BTreeMap::new(),
                refused: 0,
            }),
            series_max,
            overflow: OnceLock::new(),
            warned: AtomicBool::new(false),
        }
    }

    /// The handle for these label values. Beyond the cap all share one whose labels are `_other`.
    pub fn handle(&self, values: &[&str], make: impl FnOnce(Arc<str>) -> S) -> Arc<S> {
        let labels: Arc<str> = self.labels(values.iter().copied());
        let mut held = self.held.lock();
        if let Some(live) = held.series.get(&labels).and_then(Weak::upgrade) {
            return live;
        }
        if !held.has_room(self.series_max) {
            drop(held);
            self.warn();
            let others = self.labels(std::iter::repeat_n(OTHER, self.label_names.len()));
            return Arc::clone(self.overflow.get_or_init(|| Arc::new(make(others))));
        }
        let handle = Arc::new(make(Arc::clone(&labels)));
        held.series.insert(labels, Arc::downgrade(&handle));
        handle
    }

    /// The handles that somebody holds, sorted by their labels, and the shared one, if it was ever needed.
    pub fn live(&self) -> Vec<Arc<S>> {
        let mut live = Vec::new();
        self.held.lock().keep(|handle| {
            let handle = handle.upgrade();
            let alive = handle.is_some();
            live.extend(handle);
            alive
        });
        live.extend(self.overflow.get().cloned());
        live
    }

    fn labels<'a>(&self, values: impl Iterator<Item = &'a str>) -> Arc<str> {
        let pairs: Vec<_> = self.label_names.iter().copied().zip(values).collect();
        text::labels(&pairs).into()
    }

    fn warn(&self) {
        if !self.warned.swap(true, Relaxed) {
            let (labels, max) = (self.label_names.join(","), self.series_max);
            tracing::warn!(
                "more than {max} series by {labels}: the others are counted together as {OTHER}"
            );
        }
    }
}

struct Held<S> {
    /// By the rendered labels, which keeps the output sorted.
    series: BTreeMap<Arc<str>, Weak<S>>,
    /// How many were refused since those that nobody holds were last taken out.
    refused: usize,
}

impl<S> Held<S> {
    /// Looks through all only once in as many calls as there are series: with ten times as many routes as the cap
    /// allows, a reload must not take ten times as many looks through all of them.
    fn has_room(&mut self, max: usize) -> bool {
        if self.series.len() >= max && self.refused.checked_rem(max) == Some(0) {
            self.keep(|handle| handle.strong_count() > 0);
        }
        let room = self.series.len() < max;
        self.refused += usize::from(!room);
        room
    }

    fn keep(&mut self, mut alive: impl FnMut(&Weak<S>) -> bool) {
        self.series.retain(|_, handle| alive(handle));
        self.refused = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_labels_give_the_same_handle_while_it_is_held() {
        let family: Family<Arc<str>> = Family::new(&["route"], 10);
        let first = family.handle(&["a"], |labels| labels);
        assert!(Arc::ptr_eq(&first, &family.handle(&["a"], |labels| labels)));
        assert_eq!(family.live().len(), 1);
        drop(first);
        assert!(family.live().is_empty());
    }

    #[test]
    fn beyond_the_cap_handles_are_shared_until_there_is_room() {
        let family: Family<Arc<str>> = Family::new(&["route"], 2);
        let held = ["a", "b"].map(|name| family.handle(&[name], |labels| labels));
        let (c, d) = (family.handle(&["c"], |l| l), family.handle(&["d"], |l| l));
        assert!(Arc::ptr_eq(&c, &d));
        assert_eq!(&**c, "route=\"_other\"");
        drop(held);
        assert_eq!(family.live().len(), 1);
        assert_eq!(&**family.handle(&["c"], |labels| labels), "route=\"c\"");
    }
}
