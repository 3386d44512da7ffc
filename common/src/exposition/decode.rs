//! Exposition bytes in, in any pieces; help, type and sample lines out, lent one at a time.
//!
//! A push decoder: it does no IO, keeps its state between calls (a caller that is cancelled
//! between two loses nothing), and copies a line only when it came in pieces. Holds at most one line
//! ([`Limits::max_line_bytes`]). Does not check that families stand together, that series differ,
//! or that a label's name occurs once: a reader that builds upon it does.
//!
//! Beyond the letter of the two formats it takes blanks and tabs between tokens, carriage
//! returns before line feeds, a last line without its end (0.0.4), and Prometheus 3's quoted names:
//! `{"metric.name","label name"="v"}`.

use std::fmt;
use std::ops::Range;

use memchr::{memchr, memchr2};

use super::escape::{Name, unescape_value};
use super::{Format, Kind};

/// Bounds of what a decoder takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest line, in bytes, without its end.
    pub max_line_bytes: usize,
    /// Most labels of one sample.
    pub max_labels: usize,
    /// Longest label value, in bytes as meant, without escapes.
    pub max_label_value_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_line_bytes: 16 << 20, max_labels: 4096, max_label_value_bytes: 4 << 20 }
    }
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry<'a> {
    /// `# HELP`.
    Help {
        /// The family, as written.
        family: &'a str,
        /// The text as meant.
        text: &'a str,
    },
    /// `# TYPE`.
    Type {
        /// The family, as written.
        family: &'a str,
        /// What its samples are.
        kind: Kind,
    },
    /// `# UNIT`.
    Unit {
        /// The family, as written.
        family: &'a str,
        /// The unit.
        unit: &'a str,
    },
    /// A sample.
    Sample(Sample<'a>),
    /// `# EOF`: the end of an OpenMetrics exposition.
    Eof,
}

/// One sample, lent from the decoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'a> {
    /// The line it stands on, from 1.
    pub line: u64,
    /// The metric's name as written; see [`super::escape::unescape_name`].
    pub name: &'a str,
    /// Its labels.
    pub labels: Labels<'a>,
    /// The value as written, a number that [`f64`] reads.
    pub value: &'a str,
    /// Milliseconds since the epoch, in both formats.
    pub timestamp_ms: Option<i64>,
}

/// A sample's labels, in the order of the line.
#[derive(Clone, Copy)]
pub struct Labels<'a> {
    line: &'a str,
    scratch: &'a str,
    spans: &'a [(Piece, Piece)],
}

impl<'a> Labels<'a> {
    /// Names as written and values as meant.
    pub fn iter(self) -> impl ExactSizeIterator<Item = (&'a str, &'a str)> + use<'a> {
        self.spans
            .iter()
            .map(move |(name, value)| (name.of(self.line, self.scratch), value.of(self.line, self.scratch)))
    }

    /// The value of a label.
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.spans.is_empty()
    }
}

impl fmt::Debug for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl PartialEq for Labels<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// A line that is no exposition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct DecodeError {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub what: Wrong,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Wrong {
    /// [`Limits::max_line_bytes`].
    #[error("longer than {0} bytes")]
    LineTooLong(usize),
    /// [`Limits::max_labels`].
    #[error("more than {0} labels")]
    TooManyLabels(usize),
    /// [`Limits::max_label_value_bytes`].
    #[error("a label value longer than {0} bytes")]
    ValueTooLong(usize),
    /// Not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// Something else stands where a token should.
    #[error("no {expected} at byte {byte}")]
    Missing {
        /// The token.
        expected: &'static str,
        /// Where in the line, from 1.
        byte: usize,
    },
    /// The value or timestamp is no number.
    #[error("{0:?} is no {1}")]
    NotANumber(String, &'static str),
    /// The word after `# TYPE` is none of the types.
    #[error("unknown type {0:?}")]
    UnknownType(String),
    /// Lines follow `# EOF`.
    #[error("text after # EOF")]
    AfterEof,
    /// The body ended and there was no `# EOF`.
    #[error("the body ends without # EOF")]
    MissingEof,
}

/// The decoder. After an error it is of no further use.
#[derive(Debug)]
pub struct Decoder {
    parser: Parser,
    /// The beginning of a line whose end has not come yet, or the line lent out last.
    partial: Vec<u8>,
    /// The line in `partial` was lent out and may be dropped.
    lent: bool,
    line: u64,
    eof: bool,
}

impl Decoder {
    /// A decoder of one body.
    pub fn new(format: Format, limits: Limits) -> Self {
        let parser = Parser { format, limits, spans: Vec::new(), scratch: String::new() };
        Self { parser, partial: Vec::new(), lent: false, line: 0, eof: false }
    }

    /// The number of the line read last, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Takes bytes off the front of `input` up to and with the next line that says something,
    /// and lends it. Nothing when all of `input` is taken and no such line is complete: call again with
    /// the bytes that follow.
    ///
    /// # Errors
    /// The line is no exposition, or beyond the limits.
    pub fn decode<'a, 'input: 'a>(&'a mut self, input: &mut &'input [u8]) -> Result<Option<Entry<'a>>, DecodeError> {
        self.drop_lent();
        loop {
            let Some(end) = memchr(b'\n', input) else {
                self.keep(input)?;
                *input = &[];
                return Ok(None);
            };
            let whole = &input[..end];
            *input = &input[end + 1..];
            if self.partial.is_empty() {
                self.line += 1;
                let line = self.parser.text(whole).map_err(wrong(self.line))?;
                let said = self.parser.parse(line, self.eof).map_err(wrong(self.line))?;
                if !matches!(said, Said::Nothing) {
                    self.eof |= matches!(said, Said::Eof);
                    return Ok(Some(self.parser.lend(said, line, self.line)));
                }
            } else {
                self.keep(whole)?;
                if let Some(said) = self.parse_partial()? {
                    return self.lend_partial(said).map(Some);
                }
            }
        }
    }

    /// Says that no bytes follow, and lends the last line when it had no end. Call until it
    /// gives nothing.
    ///
    /// # Errors
    /// As [`Decoder::decode`]; or an OpenMetrics body without its `# EOF`.
    pub fn finish(&mut self) -> Result<Option<Entry<'_>>, DecodeError> {
        self.drop_lent();
        if !self.partial.is_empty()
            && let Some(said) = self.parse_partial()?
        {
            return self.lend_partial(said).map(Some);
        }
        if self.parser.format == Format::OpenMetrics100 && !self.eof {
            return Err(DecodeError { line: self.line, what: Wrong::MissingEof });
        }
        Ok(None)
    }

    fn drop_lent(&mut self) {
        if std::mem::take(&mut self.lent) {
            self.partial.clear();
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let max = self.parser.limits.max_line_bytes;
        if self.partial.len() + bytes.len() > max {
            return Err(DecodeError { line: self.line + 1, what: Wrong::LineTooLong(max) });
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    fn parse_partial(&mut self) -> Result<Option<Said>, DecodeError> {
        self.line += 1;
        let line = self.parser.text(&self.partial).map_err(wrong(self.line))?;
        let said = self.parser.parse(line, self.eof).map_err(wrong(self.line))?;
        if matches!(said, Said::Nothing) {
            self.partial.clear();
            return Ok(None);
        }
        self.eof |= matches!(said, Said::Eof);
        self.lent = true;
        Ok(Some(said))
    }

    fn lend_partial(&self, said: Said) -> Result<Entry<'_>, DecodeError> {
        let line = self.parser.text(&self.partial).map_err(wrong(self.line))?;
        Ok(self.parser.lend(said, line, self.line))
    }
}

fn wrong(line: u64) -> impl Fn(Wrong) -> DecodeError {
    move |what| DecodeError { line, what }
}

/// A part of the line, or of the scratch text when it was escaped.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    end: usize,
    scratch: bool,
}

impl Piece {
    fn of<'a>(&self, line: &'a str, scratch: &'a str) -> &'a str {
        &(if self.scratch { scratch } else { line })[self.start..self.end]
    }
}

/// An [`Entry`] that borrows nothing yet.
enum Said {
    Nothing,
    Help { family: Piece, text: Piece },
    Type { family: Piece, kind: Kind },
    Unit { family: Piece, unit: Range<usize> },
    Sample { name: Piece, value: Range<usize>, timestamp_ms: Option<i64> },
    Eof,
}

#[derive(Debug)]
struct Parser {
    format: Format,
    limits: Limits,
    spans: Vec<(Piece, Piece)>,
    /// What was unescaped of the line at hand.
    scratch: String,
}

impl Parser {
    fn text<'a>(&self, line: &'a [u8]) -> Result<&'a str, Wrong> {
        if line.len() > self.limits.max_line_bytes {
            return Err(Wrong::LineTooLong(self.limits.max_line_bytes));
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        std::str::from_utf8(line).map_err(|_| Wrong::NotUtf8)
    }

    fn lend<'a>(&'a self, said: Said, line: &'a str, number: u64) -> Entry<'a> {
        let scratch = self.scratch.as_str();
        match said {
            Said::Help { family, text } => {
                Entry::Help { family: family.of(line, scratch), text: text.of(line, scratch) }
            }
            Said::Type { family, kind } => Entry::Type { family: family.of(line, scratch), kind },
            Said::Unit { family, unit } => Entry::Unit { family: family.of(line, scratch), unit: &line[unit] },
            Said::Sample { name, value, timestamp_ms } => Entry::Sample(Sample {
                line: number,
                name: name.of(line, scratch),
                labels: Labels { line, scratch, spans: &self.spans },
                value: &line[value],
                timestamp_ms,
            }),
            Said::Nothing | Said::Eof => Entry::Eof,
        }
    }

    fn parse(&mut self, line: &str, eof: bool) -> Result<Said, Wrong> {
        self.spans.clear();
        self.scratch.clear();
        let mut rest = Cursor { line, at: 0 };
        rest.skip_blanks();
        match rest.peek() {
            None => Ok(Said::Nothing),
            Some(_) if eof => Err(Wrong::AfterEof),
            Some(b'#') => self.comment(&mut rest),
            Some(_) => self.sample(&mut rest),
        }
    }

    fn comment(&mut self, rest: &mut Cursor<'_>) -> Result<Said, Wrong> {
        let line = rest.line;
        rest.at += 1;
        rest.skip_blanks();
        let keyword = &line[rest.word()];
        rest.skip_blanks();
        let open_metrics = self.format == Format::OpenMetrics100;
        match keyword {
            "EOF" if open_metrics && rest.peek().is_none() => return Ok(Said::Eof),
            "HELP" | "TYPE" if rest.peek().is_some() => {}
            "UNIT" if open_metrics && rest.peek().is_some() => {}
            _ => return Ok(Said::Nothing),
        }
        let family = match rest.peek() {
            Some(b'"') => self.quoted(rest)?,
            _ => rest.name(Name::Metric, "metric name")?,
        };
        if !rest.skip_blanks() && rest.peek().is_some() {
            return Err(rest.missing("blank after the metric name"));
        }
        if keyword == "HELP" {
            return Ok(Said::Help { family, text: self.help(rest) });
        }
        let word = rest.word();
        rest.end()?;
        if keyword == "UNIT" {
            return Ok(Said::Unit { family, unit: word });
        }
        let kind = Kind::of(&line[word.clone()]).ok_or_else(|| Wrong::UnknownType(shown(&line[word])))?;
        Ok(Said::Type { family, kind })
    }

    fn help(&mut self, rest: &Cursor<'_>) -> Piece {
        let escaped = &rest.line[rest.at..];
        if memchr(b'\\', escaped.as_bytes()).is_none() {
            return Piece { start: rest.at, end: rest.line.len(), scratch: false };
        }
        let start = self.scratch.len();
        unescape_value(escaped, &mut self.scratch);
        Piece { start, end: self.scratch.len(), scratch: true }
    }

    fn sample(&mut self, rest: &mut Cursor<'_>) -> Result<Said, Wrong> {
        let mut name = None;
        if rest.peek() != Some(b'{') {
            name = Some(rest.name(Name::Metric, "metric name")?);
            if !rest.skip_blanks() && rest.peek() != Some(b'{') {
                return Err(rest.missing("blank or brace after the metric name"));
            }
        }
        if rest.peek() == Some(b'{') {
            rest.at += 1;
            self.labels(rest, &mut name)?;
            rest.skip_blanks();
        }
        let name = name.ok_or_else(|| rest.missing("metric name before or within the braces"))?;

        let value = rest.word();
        number(&rest.line[value.clone()], "value")?;
        rest.skip_blanks();
        let mut timestamp_ms = None;
        if rest.peek().is_some_and(|byte| byte != b'#') {
            let word = rest.word();
            timestamp_ms = Some(self.timestamp(&rest.line[word])?);
            rest.skip_blanks();
        }
        if rest.peek() == Some(b'#') && self.format == Format::OpenMetrics100 {
            self.exemplar(rest)?;
        }
        rest.end()?;
        Ok(Said::Sample { name, value, timestamp_ms })
    }

    /// Reads labels and the closing brace. A quoted text without a value is the metric's name.
    fn labels(&mut self, rest: &mut Cursor<'_>, metric: &mut Option<Piece>) -> Result<(), Wrong> {
        loop {
            rest.skip_blanks();
            let quoted = rest.peek() == Some(b'"');
            let name = match rest.peek() {
                Some(b'}') => {
                    rest.at += 1;
                    return Ok(());
                }
                _ if quoted => self.quoted(rest)?,
                _ => rest.name(Name::Label, "label name or closing brace")?,
            };
            rest.skip_blanks();
            match rest.peek() {
                Some(b'=') => {
                    rest.at += 1;
                    rest.skip_blanks();
                    let value = self.quoted(rest)?;
                    if self.spans.len() >= self.limits.max_labels {
                        return Err(Wrong::TooManyLabels(self.limits.max_labels));
                    }
                    self.spans.push((name, value));
                    rest.skip_blanks();
                }
                _ if quoted && metric.is_none() => *metric = Some(name),
                _ => return Err(rest.missing("equals sign after the label name")),
            }
            match rest.peek() {
                Some(b',') => rest.at += 1,
                Some(b'}') => {}
                _ => return Err(rest.missing("comma or closing brace")),
            }
        }
    }

    /// Reads a text in quotes, unescaped into the scratch text when it needs to be.
    fn quoted(&mut self, rest: &mut Cursor<'_>) -> Result<Piece, Wrong> {
        if rest.peek() != Some(b'"') {
            return Err(rest.missing("quote"));
        }
        rest.at += 1;
        let start = rest.at;
        let bytes = rest.line.as_bytes();
        let mut escaped = false;
        let end = loop {
            let Some(found) = memchr2(b'"', b'\\', &bytes[rest.at..]) else {
                rest.at = bytes.len();
                return Err(rest.missing("closing quote"));
            };
            rest.at += found;
            if bytes[rest.at] == b'"' {
                break rest.at;
            }
            escaped = true;
            rest.at = (rest.at + 2).min(bytes.len());
        };
        rest.at = end + 1;
        let piece = if escaped {
            let from = self.scratch.len();
            unescape_value(&rest.line[start..end], &mut self.scratch);
            Piece { start: from, end: self.scratch.len(), scratch: true }
        } else {
            Piece { start, end, scratch: false }
        };
        if piece.end - piece.start > self.limits.max_label_value_bytes {
            return Err(Wrong::ValueTooLong(self.limits.max_label_value_bytes));
        }
        Ok(piece)
    }

    fn timestamp(&self, text: &str) -> Result<i64, Wrong> {
        let wrong = || Wrong::NotANumber(shown(text), "timestamp");
        match self.format {
            Format::Text004 => text.parse().map_err(|_| wrong()),
            Format::OpenMetrics100 => {
                let ms = (text.parse::<f64>().map_err(|_| wrong())? * 1000.0).round();
                // Beyond the year 10,000 there is no time, and every double is a whole number that fits.
                if ms.is_nan() || ms.abs() > 253_402_300_800_000.0 {
                    return Err(wrong());
                }
                #[expect(clippy::cast_possible_truncation, reason = "whole, and within the range checked above")]
                Ok(ms as i64)
            }
        }
    }

    /// Reads over ` # {labels} value [timestamp]`.
    fn exemplar(&mut self, rest: &mut Cursor<'_>) -> Result<(), Wrong> {
        rest.at += 1;
        rest.skip_blanks();
        if rest.peek() != Some(b'{') {
            return Err(rest.missing("brace of the exemplar"));
        }
        rest.at += 1;
        let labels = self.spans.len();
        // An exemplar has no name of its own.
        let mut name = Some(Piece { start: 0, end: 0, scratch: false });
        let read = self.labels(rest, &mut name);
        self.spans.truncate(labels);
        read?;
        rest.skip_blanks();
        let value = rest.word();
        number(&rest.line[value], "value of an exemplar")?;
        rest.skip_blanks();
        if rest.peek().is_some() {
            let word = rest.word();
            self.timestamp(&rest.line[word])?;
        }
        Ok(())
    }
}

struct Cursor<'a> {
    line: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.line.as_bytes().get(self.at).copied()
    }

    /// Moves over blanks and tabs; whether there were any.
    fn skip_blanks(&mut self) -> bool {
        let from = self.at;
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        self.at > from
    }

    /// What stands up to the next blank.
    fn word(&mut self) -> Range<usize> {
        let from = self.at;
        while self.peek().is_some_and(|byte| !matches!(byte, b' ' | b'\t')) {
            self.at += 1;
        }
        from..self.at
    }

    fn name(&mut self, kind: Name, expected: &'static str) -> Result<Piece, Wrong> {
        let start = self.at;
        if self.peek().is_some_and(|byte| !byte.is_ascii_digit()) {
            while self.peek().is_some_and(|byte| kind.takes(byte)) {
                self.at += 1;
            }
        }
        if self.at == start {
            return Err(self.missing(expected));
        }
        Ok(Piece { start, end: self.at, scratch: false })
    }

    fn end(&mut self) -> Result<(), Wrong> {
        self.skip_blanks();
        if self.peek().is_some() { Err(self.missing("end of the line")) } else { Ok(()) }
    }

    fn missing(&self, expected: &'static str) -> Wrong {
        Wrong::Missing { expected, byte: self.at + 1 }
    }
}

fn number(text: &str, what: &'static str) -> Result<f64, Wrong> {
    text.parse().map_err(|_| Wrong::NotANumber(shown(text), what))
}

/// As much of a text as an error may repeat.
fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::super::encode::TextWriter;
    use super::super::escape::unescape_name;
    use super::*;
    use proptest::prelude::*;

    const OPEN: Format = Format::OpenMetrics100;
    const TEXT: Format = Format::Text004;

    /// What a body says, one line an entry, as fed in pieces that end at `cuts`.
    fn said(format: Format, limits: Limits, body: &[u8], cuts: &[usize]) -> Result<Vec<String>, DecodeError> {
        let mut decoder = Decoder::new(format, limits);
        let mut said = Vec::new();
        let mut from = 0;
        for to in cuts.iter().copied().chain([body.len()]) {
            let mut piece = &body[from..to.max(from)];
            from = to.max(from);
            while let Some(entry) = decoder.decode(&mut piece)? {
                said.push(format!("{entry:?}"));
            }
        }
        while let Some(entry) = decoder.finish()? {
            said.push(format!("{entry:?}"));
        }
        Ok(said)
    }

    /// The only sample of a body.
    fn sample(format: Format, body: &str, check: impl FnOnce(Sample<'_>)) {
        let mut decoder = Decoder::new(format, Limits::default());
        let body = format!("{body}\n");
        let mut rest = body.as_bytes();
        match decoder.decode(&mut rest) {
            Ok(Some(Entry::Sample(found))) => check(found),
            other => panic!("{body:?} gave {other:?}"),
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn samples_are_read_in_all_their_forms() {
        /// Line; name, labels, value and timestamp.
        type Case =
            (Format, &'static str, &'static str, &'static [(&'static str, &'static str)], &'static str, Option<i64>);
        let cases: &[Case] = &[
            (TEXT, "up 1", "up", &[], "1", None),
            (TEXT, "up{} NaN", "up", &[], "NaN", None),
            (TEXT, "up{}1", "up", &[], "1", None),
            (TEXT, " \tup \t{ a = \"1\" ,\tb=\"2\", } \t+Inf \t-5 ", "up", &[("a", "1"), ("b", "2")], "+Inf", Some(-5)),
            (
                TEXT,
                "a:b{c=\"\"} 12345678901234567890.123456789012345678 1700000000007",
                "a:b",
                &[("c", "")],
                "12345678901234567890.123456789012345678",
                Some(1_700_000_000_007),
            ),
            (TEXT, r#"up{a="q\" b\\ n\n u\x {},= #"} 1"#, "up", &[("a", "q\" b\\ n\n u\\x {},= #")], "1", None),
            (
                TEXT,
                "up{a=\"\u{e4}\u{1f4b6}\",b=\"\\\\\u{1f4b6}\"} -1e-7\r",
                "up",
                &[("a", "\u{e4}\u{1f4b6}"), ("b", "\\\u{1f4b6}")],
                "-1e-7",
                None,
            ),
            (
                TEXT,
                r#"{"metric.name","label name"="v\"",x="y"} 1"#,
                "metric.name",
                &[("label name", "v\""), ("x", "y")],
                "1",
                None,
            ),
            (TEXT, r#"{x="y","quo\"ted"} 1"#, "quo\"ted", &[("x", "y")], "1", None),
            (TEXT, r#"up{"a b"="c"} 1"#, "up", &[("a b", "c")], "1", None),
            (OPEN, "up 1 1700000000.0071", "up", &[], "1", Some(1_700_000_000_007)),
            (OPEN, "up 1 -1", "up", &[], "1", Some(-1000)),
            (
                OPEN,
                r#"a_bucket{le="1"} 11 # {trace_id="K\"5"} 9.8 1520879607.789"#,
                "a_bucket",
                &[("le", "1")],
                "11",
                None,
            ),
            (OPEN, r#"a_bucket{le="1"} 11 1 # {} 9.8"#, "a_bucket", &[("le", "1")], "11", Some(1000)),
        ];
        for (format, line, name, labels, value, timestamp_ms) in cases {
            sample(*format, line, |sample| {
                assert_eq!(
                    (sample.name, sample.value, sample.timestamp_ms, sample.line),
                    (*name, *value, *timestamp_ms, 1),
                    "{line}"
                );
                assert_eq!(sample.labels.iter().collect::<Vec<_>>(), *labels, "{line}");
            });
        }
    }

    #[test]
    fn comments_are_read() {
        let body = "# HELP up Whether\\n\\\\ it \"is\".\r\n#TYPE up gauge\n# TYPE \"a.b\" counter \n# UNIT up seconds\n\n# any EOF\n# HELP\n# EOF";
        let open = said(OPEN, Limits::default(), body.as_bytes(), &[]).expect("a good body");
        assert_eq!(
            open,
            [
                r#"Help { family: "up", text: "Whether\n\\ it \"is\"." }"#,
                r#"Type { family: "up", kind: Gauge }"#,
                r#"Type { family: "a.b", kind: Counter }"#,
                r#"Unit { family: "up", unit: "seconds" }"#,
                "Eof",
            ]
        );
        let text = said(TEXT, Limits::default(), body.as_bytes(), &[]).expect("a good body");
        assert_eq!(text, open[..3]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let limits = Limits { max_line_bytes: 40, max_labels: 2, max_label_value_bytes: 8 };
        let cases: &[(Format, &[u8], &str)] = &[
            (TEXT, b"\nup", "line 2: no blank or brace after the metric name at byte 3"),
            (TEXT, b"up ", "line 1: \"\" is no value"),
            (TEXT, b"up x\n", "line 1: \"x\" is no value"),
            (TEXT, b"up 1 x", "line 1: \"x\" is no timestamp"),
            (TEXT, b"up 1 1.5", "line 1: \"1.5\" is no timestamp"),
            (OPEN, b"up 1 1e30", "line 1: \"1e30\" is no timestamp"),
            (OPEN, b"up 1 NaN", "line 1: \"NaN\" is no timestamp"),
            (TEXT, b"up 1 1 1", "line 1: no end of the line at byte 8"),
            (TEXT, b"up 1 # {} 1", "line 1: no end of the line at byte 6"),
            (TEXT, b"0up 1", "line 1: no metric name at byte 1"),
            (TEXT, b"{} 1", "line 1: no metric name before or within the braces at byte 4"),
            (TEXT, b"up{\"up\"} 1", "line 1: no equals sign after the label name at byte 8"),
            (TEXT, b"up{a} 1", "line 1: no equals sign after the label name at byte 5"),
            (TEXT, b"up{a=1} 1", "line 1: no quote at byte 6"),
            (TEXT, b"up{a=\"1} 1", "line 1: no closing quote at byte 11"),
            (TEXT, b"up{a=\"1\\", "line 1: no closing quote at byte 9"),
            (TEXT, b"up{a=\"1\" b=\"2\"} 1", "line 1: no comma or closing brace at byte 10"),
            (TEXT, b"up{a=\"1\"", "line 1: no comma or closing brace at byte 9"),
            (TEXT, b"up{a:b=\"1\"} 1", "line 1: no equals sign after the label name at byte 5"),
            (TEXT, b"up{,} 1", "line 1: no label name or closing brace at byte 4"),
            (TEXT, b"up{a=\"\xff\"} 1", "line 1: not UTF-8"),
            (TEXT, b"up{a=\"1\",b=\"2\",c=\"3\"} 1", "line 1: more than 2 labels"),
            (TEXT, b"up{a=\"123456789\"} 1", "line 1: a label value longer than 8 bytes"),
            (TEXT, b"# 3456789 123456789 123456789 123456789 1", "line 1: longer than 40 bytes"),
            (TEXT, b"# TYPE up gouge", "line 1: unknown type \"gouge\""),
            (TEXT, b"# TYPE up gauge x", "line 1: no end of the line at byte 17"),
            (TEXT, b"# TYPE 1 gauge", "line 1: no metric name at byte 8"),
            (OPEN, b"up 1\n", "line 1: the body ends without # EOF"),
            (OPEN, b"# EOF\nup 1\n", "line 2: text after # EOF"),
            (OPEN, b"up 1 # 1", "line 1: no brace of the exemplar at byte 8"),
        ];
        for (format, body, error) in cases {
            for cuts in [vec![], (0..body.len()).collect()] {
                let found = said(*format, limits, body, &cuts).expect_err("a bad body").to_string();
                assert_eq!(found, *error, "{:?}", String::from_utf8_lossy(body));
            }
        }
    }

    #[test]
    fn a_line_without_end_does_not_grow_beyond_its_bound() {
        let limits = Limits { max_line_bytes: 100, ..Limits::default() };
        let mut decoder = Decoder::new(TEXT, limits);
        let error = (0..1000).find_map(|_| decoder.decode(&mut &b"0123456789"[..]).err()).expect("a bound");
        assert_eq!(error.to_string(), "line 1: longer than 100 bytes");
        assert!(decoder.partial.capacity() <= 200);
    }

    /// Texts that are hard to carry.
    fn texts(longest: usize) -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            r#"[\\"\n\r\t {}=,#a]*"#,
            (r#"[\\"\na\x{1f4b6}]{1,8}"#, 1..longest).prop_map(|(text, times)| text.repeat(times)),
        ]
    }

    type Written = (String, Vec<(String, String)>, String, Option<i64>);

    fn samples() -> impl Strategy<Value = Vec<Written>> {
        let value =
            prop_oneof!["[-+]?[0-9]{1,20}([.][0-9]{0,18})?", any::<f64>().prop_map(crate::exposition::encode::float),];
        let labels = proptest::collection::vec((any::<String>(), texts(1250)), 0..6);
        let timestamp = proptest::option::of(-1_000_000_000_000_i64..10_000_000_000_000);
        proptest::collection::vec((any::<String>(), labels, value, timestamp), 0..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read(samples in samples(), help in texts(10), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20)) {
            for format in [TEXT, OPEN] {
                let mut writer = TextWriter::new(format);
                writer.family("family", Kind::Gauge, &help);
                for (name, labels, value, timestamp_ms) in &samples {
                    writer.sample(name, labels.iter().map(|(k, v)| (k, v)), value, *timestamp_ms);
                }
                writer.finish();
                let body = writer.take();
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).collect();
                cuts.sort_unstable();

                let mut decoder = Decoder::new(format, Limits::default());
                let mut read: Vec<Written> = Vec::new();
                let mut found_help = None;
                let mut from = 0;
                for to in cuts.into_iter().chain([body.len()]) {
                    let mut piece = &body[from..to];
                    from = to;
                    while let Some(entry) = decoder.decode(&mut piece).expect("our own text") {
                        match entry {
                            Entry::Sample(sample) => read.push((
                                unescape_name(sample.name).into_owned(),
                                sample.labels.iter().map(|(k, v)| (unescape_name(k).into_owned(), v.to_owned())).collect(),
                                sample.value.to_owned(),
                                sample.timestamp_ms,
                            )),
                            Entry::Help { text, .. } => found_help = Some(text.to_owned()),
                            _ => {}
                        }
                    }
                }
                prop_assert!(decoder.finish().expect("our own text").is_none());
                prop_assert_eq!(&read, &samples);
                // A carriage return before the line's end is taken for a part of it, blanks before the text for none.
                let found_help = found_help.expect("a help line");
                prop_assert!(help.trim_start_matches([' ', '\t']).starts_with(&found_help) || found_help == help);
            }
        }

        #[test]
        fn any_split_decodes_the_same(
            lines in proptest::collection::vec(prop_oneof![
                Just("up{a=\"1\",b=\"\\n\u{1f4b6}\"} 1 2"), Just("{\"m.n\"} NaN"), Just("# TYPE up gauge"), Just(""), Just("# HELP up x\\ny\r"),
                Just("up{"), Just("up 1 x"), Just("# EOF"), Just("up{a=\"12345678901234567890\"} 1"),
            ], 0..12),
            ended: bool,
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let body = lines.join("\n") + if ended { "\n" } else { "" };
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            cuts.sort_unstable();
            let limits = Limits { max_line_bytes: 40, max_labels: 2, max_label_value_bytes: 18 };
            for format in [TEXT, OPEN] {
                prop_assert_eq!(said(format, limits, body.as_bytes(), &cuts), said(format, limits, body.as_bytes(), &[]));
            }
        }
    }

    /// What Prometheus' own reader says of a body; nothing when it is not installed.
    fn promtool(body: &str) -> Option<(Option<i32>, String)> {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            assert_ne!(
                std::env::var("COSTREAM_TEST_REQUIRE").as_deref(),
                Ok("all"),
                "promtool is not installed (Debian's package prometheus)"
            );
            eprintln!("skipped: promtool is not installed (Debian's package prometheus)");
            return None;
        };
        child.stdin.take().expect("a pipe").write_all(body.as_bytes()).expect("promtool reads");
        let output = child.wait_with_output().expect("promtool ends");
        Some((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    #[test]
    fn promtool_has_nothing_to_say_of_our_text() {
        let mut writer = TextWriter::new(TEXT);
        writer.family("billed_cost", Kind::Gauge, "One \"charge\" a sample,\nexact: C:\\.");
        let long = "\"\\\n\u{e4}\u{1f4b6}\t,={}#".repeat(700);
        for row in 1..4 {
            let row = row.to_string();
            writer.sample(
                "billed_cost",
                [("Service Name", long.as_str()), ("U__a", "b"), ("\u{e4}:", ""), ("x_row", &row)],
                "12345678901234567890.123456789012345678",
                Some(1_700_000_000_007),
            );
        }
        writer.family("polls", Kind::Counter, "Polls.");
        writer.sample("polls", [("", "empty name")], "NaN", None);
        let body = String::from_utf8(writer.take().to_vec()).expect("text");
        let Some(found) = promtool(&body) else { return };
        assert_eq!(found, (Some(0), String::new()), "{body}");
    }

    #[test]
    fn promtool_takes_and_refuses_what_we_do() {
        for body in [
            "up 1\n",
            "up{} NaN\n",
            " \tup \t{ a = \"1\" ,\tb=\"2\", } \t+Inf \t-5\n",
            "up{a=\"q\\\" b\\\\ n\\n {},= #\"} 1\n",
            "up 1e-7\n",
            "up .5\n",
            "up 5.\n",
            "up infinity\n",
            "# any\nup 1\n",
            "#TYPE up gauge\nup 1\n",
            "# TYPE up  counter\nup 1\n",
            "# HELP up\nup 1\n",
            "up\n",
            "up \n",
            "up x\n",
            "up 1 x\n",
            "up 1 1.5\n",
            "up 1 1 1\n",
            "0up 1\n",
            "{} 1\n",
            "up{a} 1\n",
            "up{a=1} 1\n",
            "up{a=\"1} 1\n",
            "up{a=\"1\" b=\"2\"} 1\n",
            "up{a:b=\"1\"} 1\n",
            "up{,} 1\n",
            "up{0=\"1\"} 1\n",
            "# TYPE up gouge\nup 1\n",
            "# TYPE up gauge x\nup 1\n",
            "up 1 # {} 1\n",
        ] {
            let ours = said(TEXT, Limits::default(), body.as_bytes(), &[]);
            let Some((status, said)) = promtool(body) else { return };
            // 3: read, and something said about names or helps.
            assert_eq!(ours.is_ok(), matches!(status, Some(0 | 3)), "{body:?}: {ours:?}, promtool: {said}");
        }
    }
}
