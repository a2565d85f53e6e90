//! Times of TOC entries: RFC 3339, UTC, with a fraction only when there is one.

/// The last second that containerd's applier sets; later times, and those before 1970, become 1970.
const LAST_SECOND: i64 = i64::MAX / 1_000_000_000;

/// Returns the time that an unpacked file gets for a tar header's time: 1970 if it is before that or past 2262.
pub fn bounded(seconds: i64, nanos: u32) -> (i64, u32) {
    if (0..LAST_SECOND).contains(&seconds) { (seconds, nanos) } else { (0, 0) }
}

/// Formats a time at or after 1970 and before the year 10000.
pub fn format(seconds: i64, nanos: u32) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}");
    if nanos != 0 {
        let digits = format!("{nanos:09}");
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Parses what [`format()`] and the reference writer write; returns `None` for anything else.
pub fn parse(text: &str) -> Option<(i64, u32)> {
    let text = text.strip_suffix('Z')?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let b = whole.as_bytes();
    if b.len() != 19 || [b[4], b[7], b[10], b[13], b[16]] != *b"--T::" || !fraction.bytes().all(|c| c.is_ascii_digit())
    {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = whole.get(from..to)?;
        digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    let days = days_from_civil(number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let seconds = days * 86_400 + number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let nanos = format!("{:0<9.9}", fraction).parse().ok()?;
    Some((seconds, nanos))
}

/// Days since 1970 to year, month, day. Years are counted from March, so that the leap day is the last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_format() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_700_000_000, 700_000_000, "2023-11-14T22:13:20.7Z"),
            (9_223_372_035, 1, "2262-04-11T23:47:15.000000001Z"),
        ] {
            assert_eq!(format(seconds, nanos), text);
            assert_eq!(parse(text), Some((seconds, nanos)));
        }
        assert_eq!(parse("1969-12-31T23:59:55Z"), Some((-5, 0)));
        assert_eq!(parse("2023-11-14"), None);
        assert_eq!(parse("2023-11-14T22:13:20+01:00"), None);
    }

    #[test]
    fn times_out_of_bounds_become_1970() {
        assert_eq!(bounded(-1, 5), (0, 0));
        assert_eq!(bounded(LAST_SECOND, 0), (0, 0));
        assert_eq!(bounded(1, 5), (1, 5));
    }
}
