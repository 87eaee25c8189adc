//! Moments of the calendar.

use super::{Invalid, written_as_text};
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second that can be written: 9999-12-31T23:59:59Z.
const SECONDS_MAX: u64 = 253_402_300_799;

/// A moment in UTC, to the second: `2027-03-01`, which is when that day begins, or `2027-03-01T12:00:00Z` (RFC 3339).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Seconds since 1970, which are at most those of the year 9999.
    pub fn of_unix(seconds: u64) -> Self {
        Self(seconds.min(SECONDS_MAX))
    }

    /// Seconds since 1970.
    pub fn unix(self) -> u64 {
        self.0
    }

    pub fn system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0)
    }
}

impl FromStr for Timestamp {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        parse(text).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            Invalid::new(format!("`{}` is not a moment", shown.escape_debug()))
                .hint("a day such as `2027-03-01`, or `2027-03-01T12:00:00Z`")
        })
    }
}

fn parse(text: &str) -> Option<Timestamp> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    let exists =
        year >= 1970 && (1..=days).contains(&day) && hour < 24 && minute < 60 && second < 60;
    if !exists {
        return None;
    }
    let seconds = days_from_civil(year, month, day)? * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(Timestamp(seconds))
}

/// Three numbers of exactly so many digits.
fn numbers(text: &str, separator: char, lengths: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut read = [0; 3];
    for (to, length) in read.iter_mut().zip(lengths) {
        let part = parts.next()?;
        let digits = part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit());
        *to = digits.then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(read)
}

/// The day counted from 1970-01-01, in the Gregorian calendar (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `days_from_civil`, for years from 1970 on).
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    // counted from March, so that a leap day ends its year
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `civil_from_days` of the same source
        let days = self.0 / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02}")?;
        match self.0 % 86_400 {
            0 => Ok(()),
            rest => {
                let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
                write!(f, "T{hour:02}:{minute:02}:{second:02}Z")
            }
        }
    }
}

written_as_text!(Timestamp, "a moment, such as `2027-03-01`", {
    "description": "A day, which means its beginning in UTC, or a moment to the second (RFC 3339).",
    "type": "string",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?$",
    "examples": ["2027-03-01", "2027-03-01T12:00:00Z"],
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_moments_are_read_as_known() {
        let unix = |text: &str| text.parse::<Timestamp>().unwrap().unix();
        assert_eq!(unix("1970-01-01"), 0);
        assert_eq!(unix("2024-02-29T23:59:59Z"), 1_709_251_199);
        assert_eq!(unix("2100-03-01"), 4_107_542_400);
        assert_eq!(unix("9999-12-31T23:59:59Z"), SECONDS_MAX);
    }

    #[test]
    fn what_is_no_moment_is_an_error() {
        for text in [
            "",
            "2027",
            "2027-3-1",
            "2027-02-29",
            "2100-02-29",
            "2027-13-01",
            "2027-00-01",
            "2027-01-00",
            "1969-12-31",
            "2027-01-01T",
            "2027-01-01T12:00Z",
            "2027-01-01T24:00:00Z",
            "2027-01-01T12:00:60Z",
            "2027-01-01T12:00:00+01:00",
            "2027-01-01 12:00:00Z",
            "+027-01-01",
            "2027-01-01-01",
            "01/02/2027",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_moment_is_written_as_it_is_read(seconds in 0..=SECONDS_MAX) {
            let moment = Timestamp::of_unix(seconds);
            prop_assert_eq!(moment.to_string().parse::<Timestamp>(), Ok(moment));
            let date = httpdate::fmt_http_date(moment.system_time());
            let fields: Vec<&str> = date.split(' ').collect();
            let shown = moment.to_string();
            prop_assert!(shown.starts_with(fields[3]) && shown[8..].starts_with(fields[1]));
        }

        #[test]
        fn no_text_panics(text in "[0-9T:Z-]{0,25}") {
            let _ = text.parse::<Timestamp>();
        }
    }
}
