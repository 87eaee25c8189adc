//! How many may be inside at the same time, and who waits for a place.
//!
//! A gate takes in whoever comes while there is room, without a lock. Once it is full, those who may wait stand in a
//! queue: the higher class first, within a class whoever came first. A place that becomes free goes to the head of the
//! queue, never to somebody who comes later. A [`Permit`] gives its place back when it is dropped, and so does whoever
//! leaves the queue.
//!
//! [`Gates`] has a gate for each key, which is there only while somebody is inside or waits.

use ahash::RandomState;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// One bit of the word of a gate: somebody is in the queue, so that nobody may pass it.
const QUEUED: u64 = 1 << 32;

/// How many may be inside, and how many may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub inside: u32,
    pub waiting: u32,
}

/// What becomes of whoever comes.
pub enum Entry {
    In(Permit),
    /// A place may come.
    Wait(Waiting),
    /// There is no place, neither inside nor in the queue.
    Full,
}

/// See the module.
pub struct Gate {
    /// How many are inside, and whether anybody waits.
    word: AtomicU64,
    /// How many may be inside, as it was last said.
    inside: AtomicU32,
    queue: Mutex<Queue>,
    /// Where the gate of a key is to be forgotten.
    home: Option<(Arc<Shards>, u64)>,
}

#[derive(Default)]
struct Queue {
    /// By class, the higher first, and by turn.
    waiting: BTreeMap<(u8, u64), oneshot::Sender<()>>,
    next: u64,
}

impl Gate {
    /// One that is not found by a key.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::at(None))
    }

    fn at(home: Option<(Arc<Shards>, u64)>) -> Self {
        Self {
            word: AtomicU64::new(0),
            inside: AtomicU32::new(u32::MAX),
            queue: Mutex::default(),
            home,
        }
    }

    /// How many are inside.
    pub fn inside(&self) -> u32 {
        self.word.load(Relaxed) as u32
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        match self.word.load(Relaxed) & QUEUED {
            0 => 0,
            _ => self.queue.lock().waiting.len(),
        }
    }

    /// Lets somebody in, or to the queue. A higher class goes before a lower one.
    pub fn enter(self: &Arc<Self>, bounds: Bounds, class: u8) -> Entry {
        if self.inside.load(Relaxed) != bounds.inside {
            self.resize(bounds.inside);
        }
        if self.take(bounds.inside) {
            return Entry::In(Permit(self.clone()));
        }
        if bounds.waiting == 0 {
            return Entry::Full;
        }
        let mut queue = self.queue.lock();
        // from here on, whoever leaves finds the queue
        let before = self.word.fetch_or(QUEUED, SeqCst);
        if queue.waiting.is_empty() && (before as u32) < bounds.inside {
            self.word.fetch_add(1, SeqCst);
            self.settle(&queue);
            return Entry::In(Permit(self.clone()));
        }
        if queue.waiting.len() >= bounds.waiting as usize {
            // the last of a lower class makes room
            let lowest = queue.waiting.last_key_value().map(|((rank, _), _)| *rank);
            if lowest.is_none_or(|rank| rank <= u8::MAX - class) {
                return Entry::Full;
            }
            queue.waiting.pop_last();
        }
        let (sender, receiver) = oneshot::channel();
        let turn = (u8::MAX - class, queue.next);
        queue.next += 1;
        queue.waiting.insert(turn, sender);
        Entry::Wait(Waiting {
            gate: self.clone(),
            turn,
            receiver: Some(receiver),
        })
    }

    /// Lets somebody in, however many there are. Tells how many were inside before.
    pub fn count(self: &Arc<Self>) -> (Permit, u32) {
        let before = self.word.fetch_add(1, SeqCst);
        (Permit(self.clone()), before as u32)
    }

    /// Says how many may be inside from now on. Those who wait come in where there are more.
    pub fn resize(&self, inside: u32) {
        let before = self.inside.swap(inside, Relaxed);
        if inside > before && self.word.load(SeqCst) & QUEUED != 0 {
            self.admit(&mut self.queue.lock());
        }
    }

    /// Takes a place, if there is one and nobody waits for it.
    fn take(&self, inside: u32) -> bool {
        let one_more = |word: u64| (word < u64::from(inside)).then(|| word + 1);
        self.word.fetch_update(SeqCst, Relaxed, one_more).is_ok()
    }

    fn leave(&self) {
        let word = self.word.fetch_sub(1, SeqCst);
        if word & QUEUED != 0 {
            self.admit(&mut self.queue.lock());
        }
        self.forget();
    }

    /// Lets in who waits, as far as there is room.
    fn admit(&self, queue: &mut Queue) {
        let inside = self.inside.load(Relaxed);
        while (self.word.load(SeqCst) as u32) < inside {
            let Some((_, sender)) = queue.waiting.pop_first() else {
                break;
            };
            self.word.fetch_add(1, SeqCst);
            if sender.send(()).is_err() {
                self.word.fetch_sub(1, SeqCst);
            }
        }
        self.settle(queue);
    }

    fn settle(&self, queue: &Queue) {
        if queue.waiting.is_empty() {
            self.word.fetch_and(!QUEUED, SeqCst);
        }
    }

    /// Forgets the gate of a key that nobody needs any more.
    fn forget(&self) {
        let Some((shards, key)) = &self.home else {
            return;
        };
        if self.word.load(SeqCst) != 0 {
            return;
        }
        let mut shard = shards.of(*key).lock();
        // in the meantime somebody may have come, or another gate may stand there
        let own = shard
            .get(key)
            .is_some_and(|held| std::ptr::eq(&**held, self));
        if own && self.word.load(SeqCst) == 0 {
            shard.remove(key);
        }
    }
}

/// A place inside, given back when it is dropped.
pub struct Permit(Arc<Gate>);

impl Permit {
    pub fn gate(&self) -> &Arc<Gate> {
        &self.0
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// A place in the queue, given back when it is dropped. Becomes a permit, or nothing when a higher class needs the place.
pub struct Waiting {
    gate: Arc<Gate>,
    turn: (u8, u64),
    /// None once it has become a permit.
    receiver: Option<oneshot::Receiver<()>>,
}

impl Future for Waiting {
    type Output = Option<Permit>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Permit>> {
        let Some(receiver) = &mut self.receiver else {
            return Poll::Ready(None);
        };
        let came = std::task::ready!(Pin::new(receiver).poll(context));
        self.receiver = None;
        Poll::Ready(came.ok().map(|()| Permit(self.gate.clone())))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(mut receiver) = self.receiver.take() else {
            return;
        };
        {
            let mut queue = self.gate.queue.lock();
            queue.waiting.remove(&self.turn);
            self.gate.settle(&queue);
        }
        if receiver.try_recv().is_ok() {
            // the place came, and nobody was there any more to take it
            self.gate.leave();
        } else {
            self.gate.forget();
        }
    }
}

type Shard = Mutex<HashMap<u64, Arc<Gate>, RandomState>>;

struct Shards(Box<[Shard]>);

impl Shards {
    fn of(&self, key: u64) -> &Shard {
        let at = ((u128::from(key) * self.0.len() as u128) >> 64) as usize;
        let shard = self.0.get(at).or(self.0.first());
        shard.unwrap_or_else(|| unreachable!("there is a shard"))
    }
}

/// A gate for each key. Memory is taken by who is inside or waits, and by nobody else.
#[derive(Clone)]
pub struct Gates(Arc<Shards>);

impl Default for Gates {
    fn default() -> Self {
        const SHARDS: usize = 64;
        Self(Arc::new(Shards(
            (0..SHARDS).map(|_| Shard::default()).collect(),
        )))
    }
}

impl Gates {
    /// Lets somebody in through the gate of that key, or to its queue. The key is a hash, evenly spread over all numbers.
    pub fn enter(&self, key: u64, bounds: Bounds, class: u8) -> Entry {
        let mut shard = self.0.of(key).lock();
        let gate = shard
            .entry(key)
            .or_insert_with(|| Arc::new(Gate::at(Some((self.0.clone(), key)))))
            .clone();
        // held until somebody is inside, so that the gate is not forgotten in between
        let entry = gate.enter(bounds, class);
        if matches!(entry, Entry::Full) && gate.word.load(SeqCst) == 0 {
            shard.remove(&key);
        }
        entry
    }

    /// Lets somebody in, however many there are for that key. Tells how many were inside before.
    pub fn count(&self, key: u64) -> (Permit, u32) {
        let mut shard = self.0.of(key).lock();
        shard
            .entry(key)
            .or_insert_with(|| Arc::new(Gate::at(Some((self.0.clone(), key)))))
            .count()
    }

    /// How many are inside and how many wait, for that key.
    pub fn look(&self, key: u64) -> (u32, usize) {
        let gate = self.0.of(key).lock().get(&key).cloned();
        gate.map_or((0, 0), |gate| (gate.inside(), gate.waiting()))
    }

    /// How many keys have somebody inside or waiting.
    pub fn len(&self) -> usize {
        self.0.0.iter().map(|shard| shard.lock().len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const fn bounds(inside: u32, waiting: u32) -> Bounds {
        Bounds { inside, waiting }
    }

    fn permit(entry: Entry) -> Permit {
        match entry {
            Entry::In(permit) => permit,
            Entry::Wait(_) => panic!("it waits"),
            Entry::Full => panic!("it is full"),
        }
    }

    fn waiting(entry: Entry) -> Waiting {
        match entry {
            Entry::Wait(waiting) => waiting,
            Entry::In(_) => panic!("it is inside"),
            Entry::Full => panic!("it is full"),
        }
    }

    #[tokio::test]
    async fn a_place_that_is_free_goes_to_the_head_of_the_queue() {
        let gate = Gate::new();
        let first = permit(gate.enter(bounds(1, 2), 0));
        let second = waiting(gate.enter(bounds(1, 2), 0));
        let third = waiting(gate.enter(bounds(1, 2), 0));
        assert!(matches!(gate.enter(bounds(1, 2), 0), Entry::Full));
        drop(first);
        // though there is a place, it is somebody's
        assert!(matches!(gate.enter(bounds(1, 2), 0), Entry::Wait(_)));
        let second = second.await.unwrap();
        assert_eq!((gate.inside(), gate.waiting()), (1, 1));
        drop(second);
        drop(third.await.unwrap());
        assert_eq!((gate.inside(), gate.waiting()), (0, 0));
        permit(gate.enter(bounds(1, 0), 0));
    }

    #[tokio::test]
    async fn a_higher_class_goes_first_and_takes_the_place_of_the_last() {
        let gate = Gate::new();
        let inside = permit(gate.enter(bounds(1, 2), 0));
        let low = waiting(gate.enter(bounds(1, 2), 1));
        let lower = waiting(gate.enter(bounds(1, 2), 0));
        let high = waiting(gate.enter(bounds(1, 2), 2));
        assert!(lower.await.is_none());
        assert!(matches!(gate.enter(bounds(1, 2), 1), Entry::Full));
        drop(inside);
        let high = high.await.unwrap();
        assert_eq!(gate.waiting(), 1);
        drop(high);
        low.await.unwrap();
    }

    #[tokio::test]
    async fn whoever_leaves_the_queue_leaves_no_place_behind() {
        let gate = Gate::new();
        let inside = permit(gate.enter(bounds(1, 5), 0));
        let gone = waiting(gate.enter(bounds(1, 5), 0));
        let stays = waiting(gate.enter(bounds(1, 5), 0));
        drop(gone);
        assert_eq!(gate.waiting(), 1);
        drop(inside);
        // it has its place and never asks for it
        drop(stays);
        assert_eq!((gate.inside(), gate.waiting()), (0, 0));
        permit(gate.enter(bounds(1, 0), 0));
    }

    #[tokio::test]
    async fn more_room_lets_in_who_waits_and_less_room_nobody() {
        let gate = Gate::new();
        let first = permit(gate.enter(bounds(1, 5), 0));
        let second = waiting(gate.enter(bounds(1, 5), 0));
        gate.resize(2);
        let second = second.await.unwrap();
        gate.resize(1);
        drop(first);
        assert!(matches!(gate.enter(bounds(1, 0), 0), Entry::Full));
        drop(second);
        permit(gate.enter(bounds(1, 0), 0));
    }

    #[tokio::test]
    async fn another_bound_is_said_by_whoever_comes_next() {
        let gate = Gate::new();
        let _first = permit(gate.enter(bounds(1, 5), 0));
        let second = waiting(gate.enter(bounds(1, 5), 0));
        let third = waiting(gate.enter(bounds(2, 5), 0));
        let _second = second.await.unwrap();
        assert_eq!((gate.inside(), gate.waiting()), (2, 1));
        drop(third);
    }

    #[tokio::test]
    async fn whoever_is_only_counted_is_let_in_and_takes_a_place() {
        let gates = Gates::default();
        let (first, before) = gates.count(7);
        assert_eq!(before, 0);
        let (second, before) = gates.count(7);
        assert_eq!(before, 1);
        assert!(matches!(gates.enter(7, bounds(2, 0), 0), Entry::Full));
        drop(first);
        permit(gates.enter(7, bounds(2, 0), 0));
        drop(second);
        assert!(gates.is_empty());
    }

    #[tokio::test]
    async fn keys_have_gates_of_their_own_and_leave_nothing_behind() {
        let gates = Gates::default();
        let (one, other) = (7, u64::MAX);
        let first = permit(gates.enter(one, bounds(1, 1), 0));
        let _second = permit(gates.enter(other, bounds(1, 1), 0));
        let third = waiting(gates.enter(one, bounds(1, 1), 0));
        assert_eq!(gates.look(one), (1, 1));
        assert_eq!(gates.len(), 2);
        drop(first);
        drop(third.await.unwrap());
        assert_eq!(gates.len(), 1);
        assert!(matches!(gates.enter(3, bounds(0, 0), 0), Entry::Full));
        assert_eq!(gates.len(), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 8)]
    async fn many_at_once_are_never_too_many_and_all_are_let_in() {
        const INSIDE: u32 = 3;
        let gates = Gates::default();
        let now = Arc::new(AtomicU32::new(0));
        let tasks: Vec<_> = (0..200u64)
            .map(|number| {
                let (gates, now) = (gates.clone(), now.clone());
                tokio::spawn(async move {
                    for _ in 0..50 {
                        let permit = match gates.enter(42, bounds(INSIDE, 200), number as u8 % 3) {
                            Entry::In(permit) => permit,
                            Entry::Wait(waiting) if number % 5 == 0 => {
                                let short = Duration::from_micros(50);
                                match tokio::time::timeout(short, waiting).await {
                                    Ok(permit) => permit.unwrap(),
                                    Err(_) => continue,
                                }
                            }
                            Entry::Wait(waiting) => waiting.await.unwrap(),
                            Entry::Full => panic!("the queue is long enough"),
                        };
                        assert!(now.fetch_add(1, SeqCst) < INSIDE);
                        tokio::task::yield_now().await;
                        now.fetch_sub(1, SeqCst);
                        drop(permit);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(gates.is_empty());
    }
}
