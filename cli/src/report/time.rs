//! Moments as text: RFC 3339 in UTC, and the ids of runs.

use std::time::{SystemTime, UNIX_EPOCH};

/// `2026-11-23T15:03:01Z`; a clock before 1970 counts as 1970.
pub(crate) fn rfc3339(moment: SystemTime) -> String {
    let [year, month, day, hour, minute, second] = civil(moment);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `20261123T150301Z-k3f9x2ab`: sorts by time; the suffix tells runs of the same second apart.
pub(crate) fn run_id(moment: SystemTime, suffix: &str) -> String {
    let [year, month, day, hour, minute, second] = civil(moment);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z-{suffix}")
}

/// `Mon Nov 23 15:03:01 UTC 2026`, as Java's `Date.toString` has it.
pub(super) fn java_date(moment: SystemTime) -> String {
    // 1970-01-01 was a Thursday.
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = moment.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs() / 86_400);
    let [year, month, day, hour, minute, second] = civil(moment);
    // Both are within their tables, by the remainder and by the calendar.
    let (weekday, month) = (WEEKDAYS[(days % 7) as usize], MONTHS[(month - 1) as usize]);
    format!("{weekday} {month} {day:02} {hour:02}:{minute:02}:{second:02} UTC {year}")
}

/// Days to a date: Howard Hinnant's `civil_from_days` (<https://howardhinnant.github.io/date_algorithms.html>).
fn civil(moment: SystemTime) -> [u64; 6] {
    let seconds = moment.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    [year, month, day, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_as_text() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_795_446_181, "2026-11-23T15:03:01Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        for (seconds, text) in [
            (0, "Thu Jan 01 00:00:00 UTC 1970"),
            (951_782_400, "Tue Feb 29 00:00:00 UTC 2000"),
            (1_735_689_599, "Tue Dec 31 23:59:59 UTC 2024"),
            (1_795_446_181, "Mon Nov 23 15:03:01 UTC 2026"),
        ] {
            assert_eq!(java_date(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        let id = run_id(UNIX_EPOCH + Duration::from_secs(1_795_446_181), "k3f9x2ab");
        assert_eq!(id, "20261123T150301Z-k3f9x2ab");
    }
}
