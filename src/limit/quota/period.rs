//! Which stretch of time a moment belongs to.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Unit as Precision, ZonedRound};

/// A rolling period is counted in so many parts, the oldest of which counts in full: never more than the limit in any
/// period, and nothing counts for longer than a thirtieth of the period too long.
pub const PARTS: i64 = 30;

/// How long a period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    Hour,
    Day,
    Month,
}

impl Unit {
    /// Its length in seconds where it is no calendar's; 30 days are a month.
    pub fn seconds(self) -> i64 {
        match self {
            Unit::Hour => 60 * 60,
            Unit::Day => 24 * 60 * 60,
            Unit::Month => 30 * 24 * 60 * 60,
        }
    }
}

/// From when until when counts belong together, in seconds since the epoch; the end is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: i64,
    pub end: i64,
}

impl Span {
    pub fn contains(self, time: i64) -> bool {
        (self.start..self.end).contains(&time)
    }
}

/// When counting begins anew.
#[derive(Clone, Debug)]
pub enum Period {
    /// With the hour, day or month of a calendar.
    Calendar { unit: Unit, zone: TimeZone },
    /// All the time: what is older than that counts no more.
    Rolling { unit: Unit },
}

impl Period {
    /// The stretch that is counted as one: the hour, day or month, or the part of a rolling period.
    pub fn span(&self, now: i64) -> Span {
        match self {
            Period::Rolling { unit } => {
                let part = unit.seconds() / PARTS;
                let start = now - now.rem_euclid(part);
                Span {
                    start,
                    end: start + part,
                }
            }
            // what no calendar knows, some ten thousand years from now, is counted by days of the epoch
            Period::Calendar { unit, zone } => calendar(*unit, zone, now).unwrap_or_else(|| {
                let day = Unit::Day.seconds();
                let start = now - now.rem_euclid(day);
                Span {
                    start,
                    end: start + day,
                }
            }),
        }
    }

    /// How long a stretch goes on to count after its end: nothing for calendars.
    pub fn echo(&self) -> i64 {
        match self {
            Period::Calendar { .. } => 0,
            Period::Rolling { unit } => unit.seconds(),
        }
    }
}

fn calendar(unit: Unit, zone: &TimeZone, now: i64) -> Option<Span> {
    let now = Timestamp::from_second(now).ok()?.to_zoned(zone.clone());
    let (start, end) = match unit {
        Unit::Hour => {
            let down = ZonedRound::new()
                .smallest(Precision::Hour)
                .mode(jiff::RoundMode::Trunc);
            let start = now.round(down).ok()?;
            // an hour that a change of the clocks cuts ends with the change
            let end = start.checked_add(1.hour()).ok()?;
            (start, end)
        }
        Unit::Day => {
            let start = now.start_of_day().ok()?;
            let end = start.checked_add(1.day()).ok()?.start_of_day().ok()?;
            (start, end)
        }
        Unit::Month => {
            let start = now.first_of_month().ok()?.start_of_day().ok()?;
            let end = start.checked_add(1.month()).ok()?.start_of_day().ok()?;
            (start, end)
        }
    };
    let (start, end) = (start.timestamp().as_second(), end.timestamp().as_second());
    (start < end).then_some(Span { start, end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn calendar(unit: Unit, zone: &str) -> Period {
        let zone = TimeZone::get(zone).unwrap();
        Period::Calendar { unit, zone }
    }

    #[test]
    fn months_and_days_begin_where_the_zone_says() {
        for (unit, zone, now, start, end) in [
            (
                Unit::Month,
                "UTC",
                "2026-11-26T12:00:00Z",
                "2026-11-01T00:00:00Z",
                "2026-12-01T00:00:00Z",
            ),
            (
                Unit::Month,
                "UTC",
                "2024-02-29T23:59:59Z",
                "2024-02-01T00:00:00Z",
                "2024-03-01T00:00:00Z",
            ),
            (
                Unit::Month,
                "Europe/Berlin",
                "2026-12-31T23:30:00Z",
                "2026-12-31T23:00:00Z",
                "2027-01-31T23:00:00Z",
            ),
            // 23 and 25 hours
            (
                Unit::Day,
                "Europe/Berlin",
                "2026-03-29T10:00:00Z",
                "2026-03-28T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            (
                Unit::Day,
                "Europe/Berlin",
                "2026-10-25T10:00:00Z",
                "2026-10-24T22:00:00Z",
                "2026-10-25T23:00:00Z",
            ),
            // midnight did not happen there
            (
                Unit::Day,
                "America/Sao_Paulo",
                "2018-11-04T12:00:00Z",
                "2018-11-04T03:00:00Z",
                "2018-11-05T02:00:00Z",
            ),
            (
                Unit::Hour,
                "Asia/Kolkata",
                "2026-11-26T12:15:00Z",
                "2026-11-26T11:30:00Z",
                "2026-11-26T12:30:00Z",
            ),
            // the hour that happens twice
            (
                Unit::Hour,
                "Europe/Berlin",
                "2026-10-25T00:30:00Z",
                "2026-10-25T00:00:00Z",
                "2026-10-25T01:00:00Z",
            ),
            (
                Unit::Hour,
                "Europe/Berlin",
                "2026-10-25T01:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T02:00:00Z",
            ),
        ] {
            let span = calendar(unit, zone).span(at(now));
            let expected = Span {
                start: at(start),
                end: at(end),
            };
            assert_eq!(span, expected, "{unit:?} {zone} {now}");
        }
    }

    proptest! {
        #[test]
        fn each_moment_is_in_its_span_and_spans_meet(
            now in -4_000_000_000_i64..40_000_000_000,
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata", "Pacific/Apia", "Australia/Lord_Howe"]),
            unit in prop::sample::select(vec![Unit::Hour, Unit::Day, Unit::Month]),
            rolling: bool,
        ) {
            let period = match rolling {
                true => Period::Rolling { unit },
                false => calendar(unit, zone),
            };
            let span = period.span(now);
            prop_assert!(span.contains(now), "{span:?}");
            prop_assert_eq!(period.span(span.start), span);
            prop_assert_eq!(period.span(span.end - 1), span);
            prop_assert_eq!(period.span(span.end).start, span.end);
        }

        #[test]
        fn no_time_is_too_far_away(now: i64, month: bool) {
            let unit = if month { Unit::Month } else { Unit::Hour };
            // what the sum of a time and a length can't hold is refused by whoever reads clocks
            let now = now / 2;
            prop_assert!(calendar(unit, "Europe/Berlin").span(now).contains(now));
        }
    }
}
