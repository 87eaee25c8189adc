//! Slow start: the share of an endpoint that begins or returns grows from a tenth to the whole, in a straight line.
//!
//! For each request, an endpoint on its ramp takes part in the choice with the probability of its height: a draw by
//! weight that is accepted or rejected is a draw by weight times height. One request decides once for each endpoint, so
//! that drawing again is no second chance.

use std::time::Duration;

/// Where a ramp begins: with less, an endpoint of a service with little traffic would wait long for its first request.
pub const LOWEST: f64 = 0.1;

/// How high the ramp is, up to 1, for an endpoint that became usable at `since`. Zero is before all memory: it has its
/// whole share.
pub fn height(since: u64, now: u64, window: Duration) -> f64 {
    let window = window.as_nanos() as f64;
    if since == 0 || window <= 0.0 {
        return 1.0;
    }
    (now.saturating_sub(since) as f64 / window).clamp(LOWEST, 1.0)
}

/// Whether it takes part for a request with this random number.
pub fn takes(height: f64, random: u64) -> bool {
    height >= 1.0 || (random >> 11) as f64 / ((1_u64 << 53) as f64) < height
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::random::mix;

    #[test]
    fn a_ramp_is_a_straight_line_from_a_tenth() {
        let window = Duration::from_secs(10);
        let second = 1_000_000_000;
        let at = |seconds: u64| height(100 * second, (100 + seconds) * second, window);
        assert_eq!(at(0), LOWEST);
        assert_eq!(at(5), 0.5);
        assert_eq!(at(10), 1.0);
        assert_eq!(at(1000), 1.0);
        assert_eq!(height(0, second, window), 1.0);
        // a clock that is read a moment earlier by another thread
        assert_eq!(height(100 * second, 99 * second, window), LOWEST);
    }

    #[test]
    fn as_many_are_taken_as_it_is_high() {
        for height in [0.1, 0.5, 0.9, 1.0] {
            let taken = (0..10_000).filter(|seed| takes(height, mix(*seed))).count();
            let expected = height * 10_000.0;
            assert!((taken as f64 - expected).abs() < 200.0, "{height}: {taken}");
        }
    }
}
