//! Times as text, kept for the second.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// `2026-11-20T18:58:00.123Z` (RFC 3339), where a line is not written for each request.
pub fn rfc3339(time: SystemTime) -> String {
    let mut text = Vec::new();
    Clock::default().write_rfc3339(time, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

/// The text of the last second that was asked for: most lines are of the same one.
#[derive(Default)]
pub struct Clock {
    second: Option<u64>,
    rfc3339: String,
    ncsa: String,
}

impl Clock {
    /// `2026-11-20T18:58:00.123Z` (RFC 3339).
    pub fn write_rfc3339(&mut self, time: SystemTime, line: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.turn_to(since.as_secs());
        line.extend_from_slice(self.rfc3339.as_bytes());
        let milliseconds = since.subsec_millis();
        let digit = |of: u32| b'0' + (milliseconds / of % 10) as u8;
        line.extend_from_slice(&[b'.', digit(100), digit(10), digit(1), b'Z']);
    }

    /// `20/Nov/2026:18:58:00 +0000`, as in the combined format.
    pub fn write_ncsa(&mut self, time: SystemTime, line: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.turn_to(since.as_secs());
        line.extend_from_slice(self.ncsa.as_bytes());
    }

    fn turn_to(&mut self, second: u64) {
        if self.second == Some(second) {
            return;
        }
        let (year, month, day) = civil_date(second / 86_400);
        let (hour, minute, rest) = (second / 3600 % 24, second / 60 % 60, second % 60);
        let name = usize::try_from(month - 1)
            .ok()
            .and_then(|at| MONTHS.get(at));
        let name = name.copied().unwrap_or_default();
        self.rfc3339 = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{rest:02}");
        self.ncsa = format!("{day:02}/{name}/{year:04}:{hour:02}:{minute:02}:{rest:02} +0000");
        self.second = Some(second);
    }
}

/// Year, month from 1, day from 1 of a day counted from 1970-01-01, in the Gregorian calendar (Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`, for days from 1970 on).
fn civil_date(days: u64) -> (u64, u64, u64) {
    // counted from 0000-03-01, so that a leap day ends its year
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn both(milliseconds: u64) -> (String, String) {
        let time = UNIX_EPOCH + Duration::from_millis(milliseconds);
        let (mut clock, mut rfc3339, mut ncsa) = (Clock::default(), Vec::new(), Vec::new());
        clock.write_rfc3339(time, &mut rfc3339);
        clock.write_ncsa(time, &mut ncsa);
        (
            String::from_utf8(rfc3339).unwrap(),
            String::from_utf8(ncsa).unwrap(),
        )
    }

    #[test]
    fn known_times_are_written_as_known() {
        assert_eq!(rfc3339(UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
        assert_eq!(both(0).0, "1970-01-01T00:00:00.000Z");
        let (rfc3339, ncsa) = both(1_709_251_199_007);
        assert_eq!(rfc3339, "2024-02-29T23:59:59.007Z");
        assert_eq!(ncsa, "29/Feb/2024:23:59:59 +0000");
        assert_eq!(both(4_107_542_400_000).0, "2100-03-01T00:00:00.000Z");
    }

    proptest! {
        #[test]
        fn days_agree_with_an_independent_calendar(second in 0u64..253_402_300_800) {
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            let fields: Vec<&str> = date.split(' ').collect();
            let ncsa = both(second * 1000).1;
            prop_assert_eq!(ncsa, format!("{}/{}/{}:{} +0000", fields[1], fields[2], fields[3], fields[4]));
        }
    }
}
