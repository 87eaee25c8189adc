//! Counts what h2 does not: streams that a client opens and resets after they were accepted ("rapid reset",
//! CVE-2023-44487, at a pace that stays below h2's own bound). Each of them is a request that an endpoint got.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Resets by the client within [`PERIOD`] (security requirement 2.3); one more, and the connection goes.
const RESETS_MAX: u32 = 100;
const PERIOD: Duration = Duration::from_secs(10);

/// Length, type, flags and stream of a frame (RFC 9113 §4.1).
const HEADER_BYTES: usize = 9;
const RST_STREAM: u8 = 3;

/// Follows the frames of one client, behind its preface.
#[derive(Debug)]
pub(super) struct Frames {
    header: [u8; HEADER_BYTES],
    /// What is known of the header.
    known: usize,
    /// Bytes to skip: the preface, or the rest of a frame.
    skip: usize,
    resets: u32,
    since: Instant,
    /// Told once there were too many.
    exceeded: Arc<Notify>,
}

impl Frames {
    pub(super) fn new(exceeded: Arc<Notify>) -> Self {
        Self {
            header: [0; HEADER_BYTES],
            known: 0,
            skip: super::connection::PREFACE.len(),
            resets: 0,
            since: Instant::now(),
            exceeded,
        }
    }

    /// Goes on with what was read.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let missing = self.header.get_mut(self.known..).unwrap_or_default();
            let taken = missing.len().min(bytes.len());
            let (head, rest) = bytes.split_at(taken);
            if let Some(place) = missing.get_mut(..taken) {
                place.copy_from_slice(head);
            }
            self.known += taken;
            bytes = rest;
            if self.known == HEADER_BYTES {
                self.known = 0;
                self.begin();
            }
        }
    }

    /// A header is complete.
    fn begin(&mut self) {
        let [high, middle, low, kind, ..] = self.header;
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.skip = usize::try_from(length).unwrap_or(usize::MAX);
        if kind != RST_STREAM {
            return;
        }
        if self.since.elapsed() > PERIOD {
            (self.since, self.resets) = (Instant::now(), 0);
        }
        self.resets += 1;
        if self.resets == RESETS_MAX + 1 {
            self.exceeded.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use proptest::prelude::*;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        // content that looks like resets
        frame.extend(std::iter::repeat_n(RST_STREAM, length.into()));
        frame
    }

    fn exceeds(bytes: &[u8], cuts: usize) -> bool {
        let exceeded = Arc::new(Notify::new());
        let mut frames = Frames::new(exceeded.clone());
        bytes
            .chunks(cuts.max(1))
            .for_each(|read| frames.advance(read));
        exceeded.notified().now_or_never().is_some()
    }

    proptest! {
        #[test]
        fn only_resets_count_however_the_bytes_are_cut(
            kinds in prop::collection::vec((0u8..12, 0u8..40), 0..400),
            cuts in 1usize..50,
        ) {
            let mut bytes = super::super::connection::PREFACE.to_vec();
            let frames = kinds.iter().map(|(kind, length)| frame(*kind % 4, *length));
            bytes.extend(frames.flatten());
            let resets = kinds.iter().filter(|(kind, _)| kind % 4 == RST_STREAM).count();
            prop_assert_eq!(exceeds(&bytes, cuts), resets > 100);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn resets_of_an_earlier_period_are_forgotten() {
        let exceeded = Arc::new(Notify::new());
        let mut frames = Frames::new(exceeded.clone());
        frames.advance(super::super::connection::PREFACE);
        for _ in 0..3 {
            (0..100).for_each(|_| frames.advance(&frame(RST_STREAM, 4)));
            tokio::time::advance(PERIOD + Duration::from_millis(1)).await;
        }
        assert!(exceeded.notified().now_or_never().is_none());
    }
}
