//! Counts what h2 does not: frames that are legal, and cost more than they bring if there are many.
//!
//! - Streams that a client opens and resets after they were accepted ("rapid reset", CVE-2023-44487, at a pace that stays
//!   below h2's own bound), and those that it makes us reset (CVE-2025-8671). Each is a request that an endpoint got.
//! - Frames that carry nothing of a request: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, unknown ones, empty ones
//!   (CVE-2019-9511 to -9518). An honest client sends them in proportion to what is carried.
//! - Heads that take long: their HEADERS and CONTINUATION frames have one deadline, as the bytes of a head of HTTP/1 do.
//!
//! Only frame headers are looked at; nothing is copied but a header that a read cuts in two.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

/// Resets within [`PERIOD`] (security requirement 2.3); one more, and the connection goes.
const RESETS_MAX: u32 = 100;
/// Frames that carry nothing within [`PERIOD`], and how many more for each that does. Clients acknowledge each piece of
/// content with two WINDOW_UPDATE at most, and measure the line with a PING now and then.
const EMPTY_MAX: u32 = 1000;
const EMPTY_MAX_FOR_EACH: u32 = 10;
const PERIOD: Duration = Duration::from_secs(10);

/// Length, type, flags and stream of a frame (RFC 9113 §4.1).
const HEADER_BYTES: usize = 9;
/// With the error code of a reset.
const RESET_BYTES: usize = HEADER_BYTES + 4;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Why a client is sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// Too many streams were reset.
    Resets,
    /// Too many frames carried nothing.
    EmptyFrames,
    /// A head was not finished in time.
    SlowHead,
}

/// Where a breach is told.
#[derive(Debug, Default)]
pub struct Verdict {
    breach: OnceLock<Breach>,
    reached: Notify,
    /// Requests that h2 has reset because they were malformed, and nobody has taken note of.
    malformed: AtomicU32,
    /// The same of heads that are too large before they are decoded, to which h2 answers 431 by itself.
    oversized: AtomicU32,
    more: Notify,
}

impl Verdict {
    fn reach(&self, breach: Breach) {
        if self.breach.set(breach).is_ok() {
            self.reached.notify_one();
        }
    }

    fn add_malformed(&self) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
        self.more.notify_one();
    }

    fn add_oversized(&self) {
        self.oversized.fetch_add(1, Ordering::Relaxed);
        self.more.notify_one();
    }

    /// Resolves when h2 may have refused a request by itself.
    pub async fn more(&self) {
        self.more.notified().await;
    }

    /// How many heads were too large since this was asked last.
    pub fn take_oversized(&self) -> u32 {
        self.oversized.swap(0, Ordering::Relaxed)
    }

    /// How many it has reset as malformed since this was asked last.
    pub fn take_malformed(&self) -> u32 {
        self.malformed.swap(0, Ordering::Relaxed)
    }

    pub fn breach(&self) -> Option<Breach> {
        self.breach.get().copied()
    }

    /// Resolves once, at the first breach.
    pub async fn reached(&self) -> Breach {
        loop {
            self.reached.notified().await;
            if let Some(breach) = self.breach() {
                return breach;
            }
        }
    }
}

/// Follows the frames of one connection, both ways.
#[derive(Debug)]
pub struct Frames {
    read: Reader,
    written: Reader,
    resets: u32,
    resets_since: Instant,
    empty: u32,
    /// Frames that carry something, of either side.
    carried: u32,
    empty_since: Instant,
    head: Head,
    /// The last frame of a request was content that goes on.
    within_content: bool,
    verdict: Arc<Verdict>,
}

/// The head that is being read.
#[derive(Debug)]
struct Head {
    /// How long one may take, and how large it may be.
    at_most: Duration,
    bytes_max: usize,
    /// What has come of it, before it is decoded.
    bytes: usize,
    since: Option<Instant>,
    /// The frame in hand is its last.
    ends: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Frames {
    /// Behind the client's preface.
    pub fn new(verdict: Arc<Verdict>, head_at_most: Duration, head_bytes_max: usize) -> Self {
        let now = Instant::now();
        Self {
            read: Reader::behind(super::connection::PREFACE.len()),
            written: Reader::behind(0),
            resets: 0,
            resets_since: now,
            empty: 0,
            carried: 0,
            empty_since: now,
            head: Head {
                at_most: head_at_most,
                bytes_max: head_bytes_max,
                bytes: 0,
                since: None,
                ends: false,
                timer: None,
            },
            within_content: false,
            verdict,
        }
    }

    /// Whether the client is sent away.
    pub fn is_over(&self) -> bool {
        self.verdict.breach().is_some()
    }

    /// Whether what came last was of a request that goes on, and no beginning of one.
    pub fn is_within_request(&self) -> bool {
        self.within_content || self.head.since.is_some()
    }

    /// Goes on with what was read.
    pub fn read(&mut self, mut bytes: &[u8]) {
        loop {
            let frame = self.read.next(&mut bytes);
            // the last frame of a head is there, whether or not another one has begun
            if self.head.ends && (frame.is_some() || self.read.skip == 0) {
                self.head.end();
            }
            match frame {
                Some(frame) => self.received(&frame),
                None => return,
            }
        }
    }

    /// Goes on with what was written.
    pub fn written(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.written.next(&mut bytes) {
            match frame.kind {
                DATA | HEADERS => self.carried = self.carried.saturating_add(1),
                RST_STREAM if frame.is_fault() => {
                    if frame.is_malformed() {
                        self.verdict.add_malformed();
                    }
                    self.count_reset();
                }
                _ => {}
            }
        }
    }

    fn received(&mut self, frame: &Frame) {
        match frame.kind {
            DATA => self.within_content = !frame.has(END_STREAM),
            HEADERS | RST_STREAM => self.within_content = false,
            // or a client could buy itself out
            _ => {}
        }
        match frame.kind {
            RST_STREAM => self.count_reset(),
            DATA if frame.length > 0 || frame.has(END_STREAM) => {
                self.carried = self.carried.saturating_add(1);
            }
            HEADERS | CONTINUATION => {
                self.head.since.get_or_insert_with(Instant::now);
                self.head.ends = frame.has(END_HEADERS);
                self.head.bytes = self.head.bytes.saturating_add(frame.length as usize);
                if self.head.ends && self.head.bytes > self.head.bytes_max {
                    self.verdict.add_oversized();
                }
                match frame.length {
                    0 => self.count_empty(),
                    _ => self.carried = self.carried.saturating_add(1),
                }
                if self.head.ends && self.read.skip == 0 {
                    self.head.end();
                }
            }
            _ => self.count_empty(),
        }
    }

    fn count_reset(&mut self) {
        if self.resets_since.elapsed() > PERIOD {
            (self.resets_since, self.resets) = (Instant::now(), 0);
        }
        self.resets += 1;
        if self.resets == RESETS_MAX + 1 {
            self.verdict.reach(Breach::Resets);
        }
    }

    /// The clock is only read when there have been many.
    fn count_empty(&mut self) {
        self.empty = self.empty.saturating_add(1);
        let allowance = self.carried.saturating_mul(EMPTY_MAX_FOR_EACH);
        if self.empty <= EMPTY_MAX.saturating_add(allowance) {
            return;
        }
        if self.empty_since.elapsed() <= PERIOD {
            return self.verdict.reach(Breach::EmptyFrames);
        }
        (self.empty, self.carried) = (1, 0);
        self.empty_since = Instant::now();
    }

    /// Nothing more has come for now: a head that is not complete must be in time.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) {
        let Some(since) = self.head.since else { return };
        let until = since + self.head.at_most;
        let timer = self
            .head
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        if let Poll::Ready(()) = timer.as_mut().poll(cx) {
            self.head.end();
            self.verdict.reach(Breach::SlowHead);
        }
    }
}

impl Head {
    fn end(&mut self) {
        (self.since, self.ends, self.timer) = (None, false, None);
        self.bytes = 0;
    }
}

/// The beginning of a frame.
#[derive(Clone, Copy, Debug)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    /// Of a reset.
    code: u32,
}

impl Frame {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether a reset of ours says that the client is at fault: it broke the protocol, or asked for more than it may.
    /// What ends without a fault, was given up, or failed behind us (RFC 9113 §7: 0, 2, 8) is not the client's doing.
    fn is_fault(&self) -> bool {
        !matches!(self.code, 0 | 2 | 8)
    }

    /// Whether it says that a request breaks the protocol: by its fields, its content, or the size of a frame (RFC 9113
    /// §7: 1, 3, 6).
    fn is_malformed(&self) -> bool {
        matches!(self.code, 1 | 3 | 6)
    }
}

/// Finds the frames among the bytes of one direction, however they are cut.
#[derive(Debug)]
struct Reader {
    start: [u8; RESET_BYTES],
    /// What is known of the start.
    known: usize,
    /// Bytes to skip: the preface, or the rest of a frame.
    skip: usize,
}

impl Reader {
    fn behind(preface: usize) -> Self {
        Self {
            start: [0; RESET_BYTES],
            known: 0,
            skip: preface,
        }
    }

    /// The next frame whose start is complete; takes from `bytes` what it has looked at.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            *bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                return None;
            }
            let wanted = self.wanted();
            let missing = self.start.get_mut(self.known..wanted);
            let missing = missing.unwrap_or_default();
            let taken = missing.len().min(bytes.len());
            let (head, rest) = bytes.split_at(taken);
            if let Some(place) = missing.get_mut(..taken) {
                place.copy_from_slice(head);
            }
            self.known += taken;
            *bytes = rest;
            if self.known >= HEADER_BYTES && self.known == self.wanted() {
                return Some(self.begin());
            }
        }
    }

    /// How much there is to know of this frame before its rest is skipped.
    fn wanted(&self) -> usize {
        match self.start {
            [0, 0, 4, RST_STREAM, ..] if self.known >= HEADER_BYTES => RESET_BYTES,
            _ => HEADER_BYTES,
        }
    }

    fn begin(&mut self) -> Frame {
        let [high, middle, low, kind, flags, _, _, _, _, code @ ..] = self.start;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let behind = usize::try_from(length).unwrap_or(usize::MAX);
        self.skip = (HEADER_BYTES + behind).saturating_sub(self.known);
        self.known = 0;
        Frame {
            length,
            kind,
            flags,
            code: u32::from_be_bytes(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use futures::task::noop_waker;
    use proptest::prelude::*;

    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        // content that looks like resets
        frame.extend(std::iter::repeat_n(RST_STREAM, length.into()));
        frame
    }

    fn reset(code: u8) -> Vec<u8> {
        vec![0, 0, 4, RST_STREAM, 0, 0, 0, 0, 1, 0, 0, 0, code]
    }

    fn following() -> (Frames, Arc<Verdict>) {
        let verdict = Arc::new(Verdict::default());
        let mut frames = Frames::new(verdict.clone(), Duration::from_secs(10), 32 << 10);
        frames.read(super::super::connection::PREFACE);
        (frames, verdict)
    }

    fn told(verdict: &Verdict) -> Option<Breach> {
        verdict.reached().now_or_never()
    }

    proptest! {
        #[test]
        fn only_resets_count_however_the_bytes_are_cut(
            kinds in prop::collection::vec((0u8..12, 0u8..40), 0..400),
            cuts in 1usize..50,
        ) {
            let verdict = Arc::new(Verdict::default());
            let mut frames = Frames::new(verdict.clone(), Duration::from_secs(10), 32 << 10);
            let mut bytes = super::super::connection::PREFACE.to_vec();
            let sent = kinds.iter().map(|(kind, length)| frame(*kind % 4, END_HEADERS, *length));
            bytes.extend(sent.flatten());
            bytes.chunks(cuts).for_each(|read| frames.read(read));
            let resets = kinds.iter().filter(|(kind, _)| kind % 4 == RST_STREAM).count();
            prop_assert_eq!(told(&verdict), (resets > 100).then_some(Breach::Resets));
        }

        #[test]
        fn resets_of_ours_count_where_the_client_is_at_fault(
            codes in prop::collection::vec(0u8..14, 0..250),
            cuts in 1usize..30,
        ) {
            let (mut frames, verdict) = following();
            let bytes: Vec<u8> = codes.iter().flat_map(|code| reset(*code)).collect();
            bytes.chunks(cuts).for_each(|written| frames.written(written));
            let faults = codes.iter().filter(|code| ![0, 2, 8].contains(*code)).count();
            prop_assert_eq!(told(&verdict), (faults > 100).then_some(Breach::Resets));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_counted_in_an_earlier_period_is_forgotten() {
        let (mut frames, verdict) = following();
        for _ in 0..3 {
            (0..100).for_each(|_| frames.read(&reset(8)));
            (0..1000).for_each(|_| frames.read(&frame(PING, 0, 8)));
            tokio::time::advance(PERIOD + Duration::from_millis(1)).await;
        }
        assert_eq!(told(&verdict), None);
    }

    #[test]
    fn frames_that_carry_nothing_are_allowed_in_proportion_to_those_that_do() {
        for kind in [2, 4, PING, WINDOW_UPDATE, 77] {
            let (mut frames, verdict) = following();
            (0..1000).for_each(|_| frames.read(&frame(kind, 0, 8)));
            assert_eq!(told(&verdict), None, "{kind}");
            frames.read(&frame(kind, 0, 8));
            assert_eq!(told(&verdict), Some(Breach::EmptyFrames), "{kind}");
        }
        let (mut frames, verdict) = following();
        for _ in 0..10_000 {
            frames.written(&frame(DATA, 0, 200));
            frames.read(&frame(WINDOW_UPDATE, 0, 4));
            frames.read(&frame(WINDOW_UPDATE, 0, 4));
        }
        assert_eq!(told(&verdict), None);
        // an empty one brings nothing, unless it ends its stream
        let (mut frames, verdict) = following();
        (0..2000).for_each(|_| frames.read(&frame(DATA, END_STREAM, 0)));
        assert_eq!(told(&verdict), None);
        (0..30_000).for_each(|_| frames.read(&frame(DATA, 0, 0)));
        assert_eq!(told(&verdict), Some(Breach::EmptyFrames));
    }

    #[test]
    fn heads_are_too_large_by_all_of_their_frames() {
        let (mut frames, verdict) = following();
        let frame = |kind: u8, flags: u8, length: u32| {
            let [_, high, middle, low] = length.to_be_bytes();
            let head = [high, middle, low, kind, flags, 0, 0, 0, 1];
            [&head[..], &vec![0; length as usize]].concat()
        };
        for _ in 0..2 {
            frames.read(&frame(HEADERS, 0, 16 << 10));
            frames.read(&frame(CONTINUATION, END_HEADERS, 16 << 10));
        }
        assert_eq!(verdict.take_oversized(), 0);
        frames.read(&frame(HEADERS, 0, 16 << 10));
        frames.read(&frame(CONTINUATION, 0, 16 << 10));
        frames.read(&frame(CONTINUATION, END_HEADERS, 1));
        assert_eq!((verdict.take_oversized(), verdict.take_oversized()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_one_deadline_however_many_frames_it_takes() {
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        for (last, late) in [(END_HEADERS, false), (0, true)] {
            let (mut frames, verdict) = following();
            frames.read(&frame(HEADERS, 0, 20));
            frames.poll_head(&mut cx);
            tokio::time::advance(Duration::from_secs(6)).await;
            let end = frame(CONTINUATION, last, 20);
            frames.read(&end[..15]);
            frames.poll_head(&mut cx);
            frames.read(&end[15..]);
            frames.poll_head(&mut cx);
            tokio::time::advance(Duration::from_secs(6)).await;
            frames.poll_head(&mut cx);
            assert_eq!(told(&verdict), late.then_some(Breach::SlowHead));
        }
        // what follows a head is none of it, wherever the reads end
        let (mut frames, verdict) = following();
        let head = frame(HEADERS, END_HEADERS, 20);
        let data = frame(DATA, 0, 200);
        frames.read(&[&head[..], &data[..50]].concat());
        for at in [100, 200] {
            frames.poll_head(&mut cx);
            tokio::time::advance(Duration::from_secs(6)).await;
            frames.read(&data[at - 50..at]);
        }
        frames.poll_head(&mut cx);
        assert_eq!(told(&verdict), None);
        let (mut frames, verdict) = following();
        frames.read(&[&head[..], &data[..3]].concat());
        frames.poll_head(&mut cx);
        tokio::time::advance(Duration::from_secs(11)).await;
        frames.poll_head(&mut cx);
        assert_eq!(told(&verdict), None);
        // one that stops within its only frame
        let (mut frames, verdict) = following();
        frames.read(&frame(HEADERS, END_HEADERS, 20)[..20]);
        frames.poll_head(&mut cx);
        tokio::time::advance(Duration::from_secs(11)).await;
        frames.poll_head(&mut cx);
        assert_eq!(told(&verdict), Some(Breach::SlowHead));
    }
}
