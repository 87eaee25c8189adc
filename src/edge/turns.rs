//! Turns for clients that let us wait.
//!
//! A thread runs its tasks in the order in which they are woken. A piece of a request that comes late costs little, but
//! thousands of clients whose pieces come in one moment are thousands of tasks, and whoever is fast waits behind all of
//! them. So a client that let us wait for long has its next piece read when its turn comes: a few in each millisecond,
//! between the others. Where there are only a few, none waits.
//!
//! Who has taken a turn before asks for the next one as soon as the socket has something, while its task sleeps on: of
//! all that a piece costs, only to find the task out of thousands and to run it makes a crowd felt.

use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// Whoever was waited for as long takes turns.
const LONG: Duration = Duration::from_millis(100);
/// A round of turns, which is as fine as the timers are.
const ROUND: Duration = Duration::from_millis(1);
/// Turns in one round at least.
const ROUND_MIN: usize = 8;
/// Of those who wait, one in so many has its turn in the next round. So thousands wait for half a second at most, in which
/// more comes from a client that is not so slow, and tens of thousands for a second or two.
const ROUND_SHARE: usize = 512;
/// What is made up for at once when a thread was late: so many rounds.
const LATE_MAX: usize = 4;

thread_local!(static LINE: Line = const { Line::new() });

/// Whether who is waited for since then takes turns.
pub(super) fn is_long(since: Instant) -> bool {
    now().saturating_duration_since(since) > LONG
}

pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// One client's place.
#[derive(Debug)]
pub(super) struct Turn(Mutex<State>);

#[derive(Debug)]
struct State {
    place: Place,
    /// Of the task that reads, until its turn has come.
    reader: Option<Waker>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// The client is waited for since then.
    Outside(Instant),
    /// The client waits since then.
    InLine(Instant),
    /// It did, and its turn has come.
    Called(Instant),
}

impl Turn {
    /// Of a client that is waited for since then.
    pub(super) fn new(since: Instant) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            place: Place::Outside(since),
            reader: None,
        })))
    }

    /// Waits for a client that is waited for `since` then, and for its turn if that was long. Ready with the moment in which
    /// the client began to wait for us. `poll_socket` tells whether the client has sent something.
    pub(super) fn poll(
        self: &Arc<Self>,
        since: Instant,
        cx: &Context<'_>,
        poll_socket: impl FnOnce(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<Instant> {
        if let Some(place) = self.wait(since, cx) {
            return place;
        }
        let asks = Waker::from(Arc::clone(self));
        ready!(poll_socket(&mut Context::from_waker(&asks)));
        let now = now();
        if self.has_to_wait(since, now) {
            return Poll::Pending;
        }
        // what the socket wakes from here on is nobody's
        self.0.lock().reader = None;
        Poll::Ready(now)
    }

    /// Waits for a turn that was asked for. There is none while the client is waited for.
    fn wait(&self, since: Instant, cx: &Context<'_>) -> Option<Poll<Instant>> {
        let mut state = self.0.lock();
        let place = std::mem::replace(&mut state.place, Place::Outside(since));
        if let Place::Called(asked) = place {
            return Some(Poll::Ready(asked));
        }
        match &mut state.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        match place {
            Place::InLine(_) => {
                state.place = place;
                Some(Poll::Pending)
            }
            _ => None,
        }
    }

    /// Stands in line, if there is reason to.
    fn has_to_wait(self: &Arc<Self>, since: Instant, now: Instant) -> bool {
        // an error means that the thread is ending
        let waits = now.saturating_duration_since(since) > LONG
            && LINE
                .try_with(|line| !line.is_free(now) && line.join(self))
                .unwrap_or(false);
        if waits {
            self.0.lock().place = Place::InLine(now);
        }
        waits
    }

    /// The turn has come, which was asked for then.
    fn call(&self, asked: Instant) {
        let reader = {
            let mut state = self.0.lock();
            state.place = Place::Called(asked);
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The first in line has its turn.
    fn call_first(&self) {
        let place = self.0.lock().place;
        if let Place::InLine(asked) = place {
            self.call(asked);
        }
    }
}

/// The socket has something.
impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let since = match *self.0.lock() {
            State {
                place: Place::Outside(since),
                reader: Some(_),
            } => since,
            // it is in line, or nobody waits for it any more
            _ => return,
        };
        let now = now();
        if !self.has_to_wait(since, now) {
            self.call(now);
        }
    }
}

/// Those of one thread who wait for their turn. A connection stays on its thread.
struct Line {
    /// One that has gone meanwhile is called for nothing.
    waiting: RefCell<VecDeque<Arc<Turn>>>,
    /// Turns in this round that nobody had to wait for.
    given: Cell<usize>,
    round: Cell<Option<Instant>>,
    /// Somebody calls.
    calling: Cell<bool>,
}

impl Line {
    const fn new() -> Self {
        Self {
            waiting: RefCell::new(VecDeque::new()),
            given: Cell::new(0),
            round: Cell::new(None),
            calling: Cell::new(false),
        }
    }

    /// Whether there is a turn for which nobody has to wait.
    fn is_free(&self, now: Instant) -> bool {
        if !self.waiting.borrow().is_empty() {
            return false;
        }
        let round = self.round.get();
        if round.is_none_or(|round| now.saturating_duration_since(round) >= ROUND) {
            self.round.set(Some(now));
            self.given.set(0);
        }
        self.given.set(self.given.get() + 1);
        self.given.get() <= ROUND_MIN
    }

    /// Takes a place. Outside of a runtime there are none.
    fn join(&self, turn: &Arc<Turn>) -> bool {
        if !self.calling.get() {
            let Ok(runtime) = tokio::runtime::Handle::try_current() else {
                return false;
            };
            self.calling.set(true);
            runtime.spawn(call(Calling));
        }
        self.waiting.borrow_mut().push_back(Arc::clone(turn));
        true
    }

    /// Calls those of so many rounds. Tells whether others are left.
    fn call(&self, rounds: usize) -> bool {
        let many = self.waiting.borrow().len();
        for _ in 0..ROUND_MIN.max(many / ROUND_SHARE) * rounds {
            // not borrowed while a task is woken, which is foreign code
            let Some(first) = self.waiting.borrow_mut().pop_front() else {
                break;
            };
            first.call_first();
        }
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            // a crowd is an exception: its memory is given back
            *waiting = VecDeque::new();
        }
        !waiting.is_empty()
    }
}

/// Calls until nobody waits.
async fn call(_calling: Calling) {
    let mut last = tokio::time::Instant::now();
    let mut rounds = tokio::time::interval_at(last + ROUND, ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        rounds.tick().await;
        let now = tokio::time::Instant::now();
        let due = usize::try_from((now - last).as_millis()).unwrap_or(LATE_MAX);
        last = now;
        if !LINE.with(|line| line.call(due.clamp(1, LATE_MAX))) {
            return;
        }
    }
}

/// Ends with the task that calls, whatever ends it: the next who comes starts another.
struct Calling;

impl Drop for Calling {
    fn drop(&mut self) {
        // an error means that the thread is ending
        let _ = LINE.try_with(|line| line.calling.set(false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::task::LocalSet;

    /// Longer than anybody may be waited for without taking turns.
    const SLOW: Duration = LONG.saturating_mul(2);

    /// Of a client that let us wait for so long and has sent something now.
    fn ask(turn: &Arc<Turn>, since: Instant, cx: &Context<'_>) -> Poll<Instant> {
        turn.poll(since, cx, |_| Poll::Ready(()))
    }

    /// Takes a turn.
    async fn turn(since: Instant) -> Instant {
        let turn = Turn::new(since);
        poll_fn(|cx| ask(&turn, since, cx)).await
    }

    fn slow() -> Instant {
        now().checked_sub(SLOW).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_do_not_wait() {
        for _ in 0..10 {
            for _ in 0..ROUND_MIN {
                let turn = Turn::new(slow());
                let free = poll_fn(|cx| Poll::Ready(ask(&turn, slow(), cx))).await;
                assert_eq!(free, Poll::Ready(now()));
            }
            tokio::time::advance(ROUND).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_not_slow_does_not_wait() {
        for _ in 0..1000 {
            let turn = Turn::new(slow());
            let _ = poll_fn(|cx| Poll::Ready(ask(&turn, slow(), cx))).await;
        }
        let fast = now().checked_sub(LONG / 2).unwrap();
        assert_eq!(turn(fast).await, now());
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_lets_others_in_between_and_nobody_waits_for_long() {
        const CROWD: usize = 10_000;
        let (since, begun) = (slow(), tokio::time::Instant::now());
        let served = Rc::new(Cell::new(0));
        let tasks = LocalSet::new();
        for _ in 0..CROWD {
            let served = served.clone();
            tasks.spawn_local(async move {
                let asked = turn(since).await;
                assert_eq!(asked, begun.into_std());
                served.set(served.get() + 1);
            });
        }
        let others = async {
            let mut most = 0;
            while served.get() < CROWD {
                let before = served.get();
                tokio::time::sleep(ROUND).await;
                most = most.max(served.get() - before);
            }
            most
        };
        let most = tasks.run_until(others).await;
        // two rounds may fall into one sleep
        assert!(most <= 2 * CROWD / ROUND_SHARE + 2 * ROUND_MIN, "{most}");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(3), "{took:?}");
        LINE.with(|line| assert_eq!(line.waiting.borrow().capacity(), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_go_while_they_wait_hold_up_nobody() {
        for _ in 0..3 {
            for _ in 0..1000 {
                let turn = Turn::new(slow());
                let _ = poll_fn(|cx| Poll::Ready(ask(&turn, slow(), cx))).await;
            }
            let last = tokio::time::timeout(Duration::from_secs(1), turn(slow()));
            last.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_polled_for_another_reason_keeps_its_place() {
        for _ in 0..ROUND_MIN {
            turn(slow()).await;
        }
        let since = slow();
        let turns: Vec<_> = (0..100).map(|_| Turn::new(since)).collect();
        for _ in 0..3 {
            for turn in &turns {
                let called = poll_fn(|cx| Poll::Ready(ask(turn, since, cx))).await;
                assert_eq!(called, Poll::Pending);
            }
        }
        LINE.with(|line| assert_eq!(line.waiting.borrow().len(), turns.len()));
        tokio::time::sleep(2 * ROUND).await;
        let mut called = Vec::new();
        for turn in &turns {
            let again = |_: &mut Context<'_>| Poll::Pending;
            called.push(poll_fn(|cx| Poll::Ready(turn.poll(since, cx, again).is_ready())).await);
        }
        let first = called.iter().take_while(|called| **called).count();
        assert!(
            first >= ROUND_MIN && called.iter().skip(first).all(|called| !called),
            "{called:?}"
        );
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A client whose socket is empty, and what its socket wakes then.
    fn waited_for(turn: &Arc<Turn>, since: Instant, woken: &Arc<Woken>) -> Waker {
        let mut socket = None;
        let task = Waker::from(Arc::clone(woken));
        let read = turn.poll(since, &Context::from_waker(&task), |cx| {
            socket = Some(cx.waker().clone());
            Poll::Pending
        });
        assert_eq!(read, Poll::Pending);
        socket.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_sleeps_until_its_turn_has_come() {
        let crowd: Vec<_> = (0..100)
            .map(|_| (Turn::new(now()), Arc::<Woken>::default()))
            .collect();
        let waited_for: Vec<_> = crowd
            .iter()
            .map(|(turn, woken)| waited_for(turn, now(), woken))
            .collect();
        tokio::time::advance(SLOW).await;
        let asked = now();
        for _ in 0..2 {
            // a second event changes nothing
            waited_for.iter().for_each(Waker::wake_by_ref);
        }
        let woken = || -> usize {
            let woken = crowd
                .iter()
                .map(|(_, woken)| woken.0.load(Ordering::Relaxed));
            woken.sum()
        };
        assert_eq!(woken(), ROUND_MIN);
        let mut before = woken();
        while woken() < crowd.len() {
            tokio::time::sleep(2 * ROUND).await;
            assert!(
                (before + 1..=before + 3 * ROUND_MIN).contains(&woken()),
                "{before}"
            );
            before = woken();
        }
        for (turn, _) in &crowd {
            // it has been called, which was asked for then
            let called = poll_fn(|cx| Poll::Ready(turn.poll(now(), cx, |_| Poll::Pending)));
            assert_eq!(called.await, Poll::Ready(asked));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_not_waited_for_any_more_or_was_not_for_long_is_no_part_of_it() {
        let (turn, woken) = (Turn::new(now()), Arc::<Woken>::default());
        let socket = waited_for(&turn, now(), &woken);
        for _ in 0..1000 {
            let turn = Turn::new(slow());
            let _ = poll_fn(|cx| Poll::Ready(ask(&turn, slow(), cx))).await;
        }
        socket.wake_by_ref();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        socket.wake();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }
}
