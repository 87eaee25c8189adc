//! Turns for clients that let us wait.
//!
//! A thread runs its tasks in the order in which they are woken. A piece of a request that comes late costs little, but
//! thousands of clients whose pieces come in one moment are thousands of tasks, and whoever is fast waits behind all of
//! them. So a client that let us wait for long has its next piece read when its turn comes: a few in each millisecond,
//! between the others. Where there are only a few, none waits.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// Whoever was waited for as long takes turns.
pub(super) const LONG: Duration = Duration::from_millis(100);
/// A round of turns, which is as fine as the timers are.
const ROUND: Duration = Duration::from_millis(1);
/// Turns in one round at least.
const ROUND_MIN: usize = 16;
/// Of those who wait, one in so many has its turn in the next round. So thousands wait for half a second at most, in which
/// more comes from a client that is not so slow, and tens of thousands for a second or two.
const ROUND_SHARE: usize = 512;
/// What is made up for at once when a thread was late: so many rounds.
const LATE_MAX: usize = 8;

/// A place in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(NonZeroU64);

thread_local!(static LINE: Line = const { Line::new() });

/// Those of one thread who wait for their turn. A connection stays on its thread.
struct Line {
    /// The first has the ticket `called + 1`. One that has gone meanwhile is woken for nothing.
    waiting: RefCell<VecDeque<Waker>>,
    called: Cell<u64>,
    /// Turns in this round that nobody had to wait for.
    given: Cell<usize>,
    round: Cell<Option<Instant>>,
    /// Somebody calls.
    calling: Cell<bool>,
}

/// Waits for a turn. `ticket` is kept by the caller in between, and is gone when this is ready. Outside of a runtime there
/// are no turns.
pub(super) fn poll_turn(
    ticket: &mut Option<Ticket>,
    now: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    LINE.with(|line| line.poll_turn(ticket, now, cx))
}

impl Line {
    const fn new() -> Self {
        Self {
            waiting: RefCell::new(VecDeque::new()),
            called: Cell::new(0),
            given: Cell::new(0),
            round: Cell::new(None),
            calling: Cell::new(false),
        }
    }

    fn poll_turn(
        &self,
        ticket: &mut Option<Ticket>,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        match *ticket {
            Some(Ticket(number)) => self.poll_called(ticket, number.get(), cx),
            None if self.is_free(now) => Poll::Ready(()),
            None => {
                *ticket = self.join(cx);
                match ticket {
                    Some(_) => Poll::Pending,
                    None => Poll::Ready(()),
                }
            }
        }
    }

    fn poll_called(
        &self,
        ticket: &mut Option<Ticket>,
        number: u64,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let before = number.checked_sub(self.called.get() + 1);
        let place = before.and_then(|before| usize::try_from(before).ok());
        let mut waiting = self.waiting.borrow_mut();
        match place.and_then(|place| waiting.get_mut(place)) {
            Some(waker) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            None => {
                *ticket = None;
                Poll::Ready(())
            }
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

    fn join(&self, cx: &Context<'_>) -> Option<Ticket> {
        if !self.calling.get() {
            let runtime = tokio::runtime::Handle::try_current().ok()?;
            self.calling.set(true);
            runtime.spawn(call(Calling));
        }
        let mut waiting = self.waiting.borrow_mut();
        waiting.push_back(cx.waker().clone());
        NonZeroU64::new(self.called.get() + waiting.len() as u64).map(Ticket)
    }

    /// Calls those of so many rounds. Tells whether others are left.
    fn call(&self, rounds: usize) -> bool {
        let many = self.waiting.borrow().len();
        for _ in 0..ROUND_MIN.max(many / ROUND_SHARE) * rounds {
            // not borrowed while a task is woken, which is foreign code
            let Some(first) = self.waiting.borrow_mut().pop_front() else {
                break;
            };
            self.called.set(self.called.get() + 1);
            first.wake();
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
    use tokio::task::LocalSet;

    /// Takes a turn, and then does what it does.
    async fn turn(now: Instant) {
        let mut ticket = None;
        poll_fn(|cx| poll_turn(&mut ticket, now, cx)).await;
        assert_eq!(ticket, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_do_not_wait() {
        let now = Instant::now();
        for round in 0..10 {
            for _ in 0..ROUND_MIN {
                let mut ticket = None;
                let free =
                    poll_fn(|cx| Poll::Ready(poll_turn(&mut ticket, now + ROUND * round, cx)));
                assert_eq!(free.await, Poll::Ready(()));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_lets_others_in_between_and_nobody_waits_for_long() {
        const CROWD: usize = 10_000;
        let (now, begun) = (Instant::now(), tokio::time::Instant::now());
        let served = Rc::new(Cell::new(0));
        let tasks = LocalSet::new();
        for _ in 0..CROWD {
            let served = served.clone();
            tasks.spawn_local(async move {
                turn(now).await;
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
        assert!(took < Duration::from_secs(2), "{took:?}");
        LINE.with(|line| assert_eq!(line.waiting.borrow().capacity(), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_go_while_they_wait_hold_up_nobody() {
        let now = Instant::now();
        for _ in 0..3 {
            for _ in 0..1000 {
                let mut ticket = None;
                let _ = poll_fn(|cx| Poll::Ready(poll_turn(&mut ticket, now, cx))).await;
            }
            let last = tokio::time::timeout(Duration::from_secs(1), turn(now));
            last.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_polled_for_another_reason_keeps_its_place() {
        let now = Instant::now();
        for _ in 0..ROUND_MIN {
            turn(now).await;
        }
        let mut tickets = vec![None; 100];
        for _ in 0..3 {
            for ticket in &mut tickets {
                let called = poll_fn(|cx| Poll::Ready(poll_turn(ticket, now, cx))).await;
                assert_eq!(called, Poll::Pending);
            }
        }
        LINE.with(|line| assert_eq!(line.waiting.borrow().len(), tickets.len()));
        tokio::time::sleep(2 * ROUND).await;
        let mut called = Vec::new();
        for ticket in &mut tickets {
            called.push(
                poll_fn(|cx| Poll::Ready(poll_turn(ticket, now, cx)))
                    .await
                    .is_ready(),
            );
        }
        let first = called.iter().take_while(|called| **called).count();
        assert!(
            first >= ROUND_MIN && called.iter().skip(first).all(|called| !called),
            "{called:?}"
        );
    }
}
