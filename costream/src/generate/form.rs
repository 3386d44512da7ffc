//! The forms in which times, tags, decimals and texts stand in reports.

/// How points in time are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeForm {
    /// `2026-08-01T00:00:00Z`
    Zulu,
    /// `2026-08-01T00:00Z`
    ZuluMinutes,
    /// `2026-08-01 00:00:00`, which is UTC.
    Zoneless,
    /// `08/01/2026` for a midnight; else as `ZuluMinutes`.
    American,
}

/// How tags are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TagForm {
    /// `{"a": "1", "b": "2"}`
    Json,
    /// `"a": "1","b": "2"`
    Braceless,
    /// `a=1;b=2`
    Equals,
    /// `a:1;b:2`
    Colons,
    /// `[{"key": "a", "value": "1"}]`, as BigQuery has it.
    List,
}

/// How decimals are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecimalForm {
    /// No more digits than needed.
    Shortest,
    /// At least so many decimal places.
    Padded(usize),
    /// With an exponent when very small or large, as .NET (`1.6E-05`) or Python (`1.6e-05`).
    Scientific(char),
}

/// What stands around a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quotes {
    /// Quotes where RFC 4180 wants them.
    WhereNeeded,
    /// Quotes around every text; nulls and numbers without.
    AroundText,
    /// None around a quote within a text: parsers take it as it stands.
    Lazy,
}

impl Quotes {
    /// Writes a text as a field.
    pub(crate) fn write(self, text: &str, out: &mut Vec<u8>) {
        // Without a way out of the loop it is done many bytes at a time.
        let (breaks, quotes) = text.bytes().fold((false, false), |(breaks, quotes), b| {
            (breaks | (b == b',') | (b == b'\n') | (b == b'\r'), quotes | (b == b'"'))
        });
        let must_quote = match self {
            Self::AroundText => true,
            Self::WhereNeeded => breaks || quotes,
            Self::Lazy => breaks || text.starts_with('"'),
        };
        if must_quote {
            out.push(b'"');
        }
        if must_quote && quotes {
            out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
        } else {
            out.extend_from_slice(text.as_bytes());
        }
        if must_quote {
            out.push(b'"');
        }
    }
}

impl DecimalForm {
    /// Writes `units` times 10^-18.
    pub(crate) fn write(self, units: i128, out: &mut Vec<u8>) {
        if units < 0 {
            out.push(b'-');
        }
        let magnitude = units.unsigned_abs();
        let scientific = magnitude != 0 && !(100_000_000_000_000..100_000 * 10_u128.pow(18)).contains(&magnitude);
        match self {
            Self::Scientific(e) if scientific => write_scientific(magnitude, e, out),
            Self::Padded(places) => write_plain(magnitude, places, out),
            Self::Shortest | Self::Scientific(_) => write_plain(magnitude, 0, out),
        }
    }
}

/// A text as a field of a CSV, for those that are written often.
pub(crate) fn field(text: &str) -> String {
    let mut out = Vec::new();
    Quotes::WhereNeeded.write(text, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

impl TagForm {
    /// All forms, in the order of [`Self::fields`].
    const ALL: [Self; 5] = [Self::Json, Self::Braceless, Self::Equals, Self::Colons, Self::List];

    /// The tags in each form, as fields.
    pub(crate) fn fields(tags: &[(&str, &str)]) -> [String; 5] {
        Self::ALL.map(|form| field(&form.text(tags)))
    }

    /// Which of [`Self::fields`] is in this form.
    pub(crate) fn place(self) -> usize {
        Self::ALL.iter().position(|form| *form == self).unwrap_or(0)
    }

    fn text(self, tags: &[(&str, &str)]) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\\\""));
        let parts: Vec<_> = tags
            .iter()
            .map(|(key, value)| match self {
                Self::Json | Self::Braceless => format!("{}: {}", quoted(key), quoted(value)),
                Self::Equals => format!("{key}={value}"),
                Self::Colons => format!("{key}:{value}"),
                Self::List => format!("{{\"key\": {}, \"value\": {}}}", quoted(key), quoted(value)),
            })
            .collect();
        match self {
            Self::Json => format!("{{{}}}", parts.join(", ")),
            Self::Braceless => parts.join(","),
            Self::Equals | Self::Colons => parts.join(";"),
            Self::List => format!("[{}]", parts.join(", ")),
        }
    }
}

/// `magnitude` times 10^-18 as plain text with at least `places` decimal places.
fn write_plain(magnitude: u128, places: usize, out: &mut Vec<u8>) {
    const ONE: u128 = 10_u128.pow(18);
    // No generated amount comes near 2^64 whole units.
    write_integer(u64::try_from(magnitude / ONE).unwrap_or(u64::MAX), out);
    let fraction = eighteen_digits(u64::try_from(magnitude % ONE).unwrap_or(0));
    let significant = fraction.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
    let needed = significant.max(places.min(18));
    if needed > 0 {
        out.push(b'.');
        out.extend_from_slice(&fraction[..needed]);
    }
}

/// Writes a count.
pub(crate) fn write_integer(number: u64, out: &mut Vec<u8>) {
    if number < 10 {
        out.push(digit(number));
    } else {
        out.extend_from_slice(number.to_string().as_bytes());
    }
}

fn eighteen_digits(mut number: u64) -> [u8; 18] {
    let mut digits = [b'0'; 18];
    for place in digits.iter_mut().rev() {
        if number == 0 {
            break;
        }
        *place = digit(number % 10);
        number /= 10;
    }
    digits
}

fn digit(number: u64) -> u8 {
    b'0' + u8::try_from(number).unwrap_or(0)
}

/// `magnitude` times 10^-18, which is not nought, as `d.ddde-05`.
fn write_scientific(magnitude: u128, e: char, out: &mut Vec<u8>) {
    let digits = magnitude.to_string();
    let significant = digits.trim_end_matches('0');
    out.extend_from_slice(&significant.as_bytes()[..1]);
    if significant.len() > 1 {
        out.push(b'.');
        out.extend_from_slice(&significant.as_bytes()[1..]);
    }
    let sign = if digits.len() < 19 { '-' } else { '+' };
    out.extend_from_slice(format!("{e}{sign}{:02}", digits.len().abs_diff(19)).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_written_in_each_form() {
        let write = |units: i128, decimals: DecimalForm| {
            let mut out = Vec::new();
            decimals.write(units, &mut out);
            String::from_utf8(out).expect("text")
        };
        let one = 10_i128.pow(18);
        for (units, form, text) in [
            (0, DecimalForm::Shortest, "0"),
            (0, DecimalForm::Padded(10), "0.0000000000"),
            (0, DecimalForm::Scientific('E'), "0"),
            (1, DecimalForm::Shortest, "0.000000000000000001"),
            (-1, DecimalForm::Scientific('e'), "-1e-18"),
            (-216_000_000_000, DecimalForm::Scientific('e'), "-2.16e-07"),
            (one / 8, DecimalForm::Scientific('e'), "0.125"),
            (one * 1_250_000, DecimalForm::Scientific('E'), "1.25E+06"),
            (one / 1_000_000 + 1, DecimalForm::Padded(10), "0.000001000000000001"),
            (-one * 3 / 2, DecimalForm::Padded(15), "-1.500000000000000"),
        ] {
            assert_eq!(write(units, form), text);
        }
    }

    #[test]
    fn texts_are_quoted_where_they_must_be() {
        let write = |text: &str, quotes: Quotes| {
            let mut out = Vec::new();
            quotes.write(text, &mut out);
            String::from_utf8(out).expect("text")
        };
        for (text, quotes, field) in [
            ("plain", Quotes::WhereNeeded, "plain"),
            ("plain", Quotes::AroundText, "\"plain\""),
            ("a, \"b\"\n", Quotes::WhereNeeded, "\"a, \"\"b\"\"\n\""),
            ("3.5\" disks", Quotes::Lazy, "3.5\" disks"),
            ("\"b\"", Quotes::Lazy, "\"\"\"b\"\"\""),
            ("3.5\", new", Quotes::Lazy, "\"3.5\"\", new\""),
        ] {
            assert_eq!(write(text, quotes), field);
        }
    }

    #[test]
    fn tags_are_written_in_each_form() {
        let tags = [("a.b", "http://x:1"), ("note", "the \"b\"")];
        assert_eq!(
            TagForm::ALL.map(|form| form.text(&tags)),
            [
                r#"{"a.b": "http://x:1", "note": "the \"b\""}"#,
                r#""a.b": "http://x:1","note": "the \"b\"""#,
                r#"a.b=http://x:1;note=the "b""#,
                r#"a.b:http://x:1;note:the "b""#,
                r#"[{"key": "a.b", "value": "http://x:1"}, {"key": "note", "value": "the \"b\""}]"#,
            ]
        );
    }
}
