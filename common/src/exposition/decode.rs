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
mod tests;
