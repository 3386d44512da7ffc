//! The text of a point in time in, microseconds since the epoch out, with the rules that had
//! to be applied to read it.

use chrono::{NaiveDate, NaiveDateTime};

use super::Rule;

/// A point in time, and what it took to read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Microseconds since the epoch, UTC.
    pub micros: i64,
    /// How many of `rules` are set.
    n_rules: usize,
    rules: [Option<Rule>; 3],
}

impl Time {
    /// The rules applied.
    pub fn rules(&self) -> impl Iterator<Item = Rule> + use<> {
        self.rules.into_iter().take(self.n_rules).flatten()
    }

    fn with(mut self, rule: Rule) -> Self {
        // No form takes more than three: no seconds excludes a fraction, a zone its absence.
        if let Some(slot) = self.rules.get_mut(self.n_rules) {
            *slot = Some(rule);
            self.n_rules += 1;
        }
        self
    }
}

/// Reads a time. FOCUS's own form first, `2024-09-01T00:00:00Z`; then every form a rule knows.
/// Nothing, when it is no time, has no such day, or has digits below a microsecond.
pub fn parse(text: &[u8]) -> Option<Time> {
    if let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, rest @ ..] = text {
        let date = date([*y1, *y2, *y3, *y4], [*m1, *m2], [*d1, *d2])?;
        return match rest {
            [] => Some(Time { micros: micros(date, 0, 0, 0, 0)?, ..Time::default() }.with(Rule::TimeDateOnly)),
            [b'T' | b't' | b' ', clock @ ..] => iso_clock(date, clock, rest[0] == b'T'),
            _ => None,
        };
    }
    us_time(std::str::from_utf8(text).ok()?)
}

fn date(year: [u8; 4], month: [u8; 2], day: [u8; 2]) -> Option<NaiveDate> {
    let year = two_digits(year[0], year[1])? * 100 + two_digits(year[2], year[3])?;
    NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, two_digits(month[0], month[1])?, two_digits(day[0], day[1])?)
}

fn two_digits(tens: u8, ones: u8) -> Option<u32> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| u32::from(tens - b'0') * 10 + u32::from(ones - b'0'))
}

fn micros(date: NaiveDate, hour: u32, minute: u32, second: u32, micro: u32) -> Option<i64> {
    // A leap second is none of FOCUS's; chrono would take it only as a fraction.
    Some(date.and_hms_micro_opt(hour, minute, second, micro)?.and_utc().timestamp_micros())
}

/// `HH:mm[:ss[.fraction]][zone]`.
fn iso_clock(date: NaiveDate, clock: &[u8], is_focus_form: bool) -> Option<Time> {
    let [h1, h2, b':', m1, m2, rest @ ..] = clock else { return None };
    let (hour, minute) = (two_digits(*h1, *h2)?, two_digits(*m1, *m2)?);
    let mut time = Time::default();
    let (second, rest) = match rest {
        [b':', s1, s2, rest @ ..] => (two_digits(*s1, *s2)?, rest),
        rest => {
            time = time.with(Rule::TimeWithoutSeconds);
            (0, rest)
        }
    };
    let (micro, zone) = match rest {
        [b'.', rest @ ..] if time.n_rules == 0 => {
            time = time.with(Rule::TimeFraction);
            fraction(rest)?
        }
        rest => (0, rest),
    };
    let offset_seconds = match zone {
        b"Z" if is_focus_form => 0,
        b"" => {
            time = time.with(Rule::TimeWithoutZone);
            0
        }
        zone => {
            time = time.with(Rule::TimeOffset);
            offset(zone)?
        }
    };
    time.micros = micros(date, hour, minute, second, micro)?.checked_sub(offset_seconds * 1_000_000)?;
    Some(time)
}

/// Digits behind the point, as microseconds, and what follows them.
fn fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let n_digits = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(n_digits);
    let (kept, beyond) = digits.split_at(digits.len().min(6));
    if digits.is_empty() || beyond.iter().any(|b| *b != b'0') {
        return None;
    }
    let value = kept.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    let missing = u32::try_from(6 - kept.len()).ok()?;
    Some((value * 10_u32.pow(missing), rest))
}

/// A zone's distance from UTC, in seconds.
fn offset(zone: &[u8]) -> Option<i64> {
    let (sign, digits) = match zone {
        b"Z" | b"z" | b"UTC" | b" UTC" | b" Z" => return Some(0),
        [b'+', digits @ ..] | [b' ', b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] | [b' ', b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match digits {
        [h1, h2, b':', m1, m2] | [h1, h2, m1, m2] => (two_digits(*h1, *h2)?, two_digits(*m1, *m2)?),
        [h1, h2] => (two_digits(*h1, *h2)?, 0),
        _ => return None,
    };
    (hours <= 14 && minutes < 60).then(|| sign * i64::from(hours * 3600 + minutes * 60))
}

/// `MM/DD/YYYY`, also with single digits and with a time of day, as spreadsheets write it.
fn us_time(text: &str) -> Option<Time> {
    let (month, rest) = text.split_once('/')?;
    let is_month = (1..=2).contains(&month.len()) && month.bytes().all(|b| b.is_ascii_digit());
    if !is_month || !rest.contains('/') {
        return None;
    }
    let time =
        NaiveDate::parse_from_str(text, "%m/%d/%Y").ok().and_then(|date| date.and_hms_opt(0, 0, 0)).or_else(|| {
            ["%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %I:%M %p"]
                .iter()
                .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
        })?;
    // chrono reads years of any length; a two-digit year is a guess we do not make.
    let has_four_digit_year = rest.split_once('/').is_some_and(|(_, year)| {
        year.len() >= 4
            && year.bytes().take(4).all(|b| b.is_ascii_digit())
            && !year.as_bytes().get(4).is_some_and(u8::is_ascii_digit)
    });
    has_four_digit_year
        .then(|| Time { micros: time.and_utc().timestamp_micros(), ..Time::default() }.with(Rule::TimeUsDate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> Option<(String, Vec<&'static str>)> {
        let time = parse(text.as_bytes())?;
        let shown = chrono::DateTime::from_timestamp_micros(time.micros)
            .expect("in range")
            .to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
        Some((shown, time.rules().map(Rule::as_str).collect()))
    }

    #[test]
    fn every_form_is_read_and_named() {
        for (text, time, rules) in [
            ("2024-09-01T00:00:00Z", "2024-09-01T00:00:00Z", &[][..]),
            ("2024-02-29T23:59:59Z", "2024-02-29T23:59:59Z", &[]),
            ("2024-10-01 00:00:00", "2024-10-01T00:00:00Z", &["time_without_zone"]),
            ("2024-10-01T13:14:15", "2024-10-01T13:14:15Z", &["time_without_zone"]),
            ("2024-09-01T00:00Z", "2024-09-01T00:00:00Z", &["time_without_seconds"]),
            ("2024-09-01 07:30", "2024-09-01T07:30:00Z", &["time_without_seconds", "time_without_zone"]),
            ("09/01/2024", "2024-09-01T00:00:00Z", &["time_us_date"]),
            ("9/30/2024", "2024-09-30T00:00:00Z", &["time_us_date"]),
            ("09/01/2024 05:06", "2024-09-01T05:06:00Z", &["time_us_date"]),
            ("9/1/2024 12:00:00 AM", "2024-09-01T00:00:00Z", &["time_us_date"]),
            ("2024-09-01", "2024-09-01T00:00:00Z", &["time_date_only"]),
            ("2024-09-01T00:00:00.000Z", "2024-09-01T00:00:00Z", &["time_fraction"]),
            ("2024-09-01T00:00:00.123456000Z", "2024-09-01T00:00:00.123456Z", &["time_fraction"]),
            ("2024-09-01 00:00:00.5 UTC", "2024-09-01T00:00:00.500Z", &["time_fraction", "time_offset"]),
            ("2024-09-01 00:00:00 UTC", "2024-09-01T00:00:00Z", &["time_offset"]),
            ("2024-09-01 00:00:00Z", "2024-09-01T00:00:00Z", &["time_offset"]),
            ("2024-09-01T02:00:00+02:00", "2024-09-01T00:00:00Z", &["time_offset"]),
            ("2024-08-31T19:30:00-0430", "2024-09-01T00:00:00Z", &["time_offset"]),
            ("1969-12-31T23:59:59Z", "1969-12-31T23:59:59Z", &[]),
        ] {
            assert_eq!(shown(text), Some((time.to_owned(), rules.to_vec())), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "soon",
            "2024-02-30T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-09-01T24:00:00Z",
            "2024-09-01T00:60:00Z",
            "2024-09-01T00:00:60Z",
            "2024-09-01T00:00:00.Z",
            "2024-09-01T00:00:00.1234567Z",
            "2024-09-01T00:00:00Zulu",
            "2024-09-01T00:00:00+99:00",
            "2024-9-1",
            "24-09-01",
            "2024-09-01T00:00:00Z ",
            " 2024-09-01T00:00:00Z",
            "13/01/2024",
            "09/31/2024",
            "09/01/24",
            "01.09.2024",
            "2024/09/01",
            "1725148800",
            "2024-09-01T",
            "2024-09-01T0:00:00Z",
            "09/01/20245",
            "-9/01/2024",
            "２０24-09-01",
        ] {
            assert_eq!(shown(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn chrono_agrees(seconds in -62_135_596_800_i64..253_402_300_800) {
            let time = chrono::DateTime::from_timestamp(seconds, 0).expect("in range");
            let text = time.format("%Y-%m-%dT%H:%M:%SZ").to_string();
            prop_assert_eq!(parse(text.as_bytes()), Some(Time { micros: time.timestamp_micros(), ..Time::default() }));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9TZ:/. +-]{0,30}") {
            let _ = parse(text.as_bytes());
        }
    }
}
