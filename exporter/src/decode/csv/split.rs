//! Text in, as it comes; the bounds of its records' fields out. Does no IO and gives the same records for any split
//! of the text: where it stopped is state. Holds the text that was not taken yet, of which nothing is looked at twice.
//!
//! Fields are told apart by searching for the byte that ends them, most of whose work a processor does in blocks of
//! 32; an automaton that looks at every byte, as that of the `csv` crate, takes three times as long. What it makes
//! of a text is the same: a quote inside an unquoted field is a character, what follows a closing quote belongs to
//! the field; line breaks are `\n`, `\r` or `\r\n`; empty lines are no records.

use memchr::{memchr, memchr_iter, memchr3};

use super::super::chunk::{Bound, Chunk, Empty, Record};

/// Takes a text apart.
pub(super) struct Splitter {
    delimiter: u8,
    /// The most fields of a record that are kept; the others are counted.
    pub(super) max_fields: usize,
    /// The most bytes of a record.
    pub(super) max_record_bytes: u64,
    /// What has come and was not taken.
    text: Vec<u8>,
    /// How far it has been looked at.
    at: usize,
    state: State,
    /// Where the record before ended: empty lines count towards the open one.
    record_at: usize,
    /// Where its open field starts.
    field_at: usize,
    /// Its fields so far, those that are not kept among them.
    n_fields: usize,
    /// How that field is written.
    written: Written,
    /// Line breaks, in the sense of `\n`, before the place looked at.
    lines: u64,
    /// The line that the open record starts in.
    record_line: u64,
    /// The fields' bounds in the text.
    bounds: Vec<Bound>,
    /// The whole records.
    records: Vec<Record>,
    /// Where the bounds of the open record start.
    open_at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between two records.
    Between,
    /// Before a field.
    Before,
    /// In a field, where a quote is a character.
    Plain,
    /// In a quoted field.
    Quoted,
    /// Behind a quote in a quoted field: its end, or half a quote.
    Quote,
}

/// How an open field was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    /// As it is.
    Plain,
    /// Between two quotes.
    Quoted,
    /// With quotes in quotes, or with something behind the closing quote.
    Mixed,
}

/// A record that is longer than it may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// A text that ended inside a quoted field.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unterminated;

impl Splitter {
    pub(super) fn new(delimiter: u8) -> Self {
        Self {
            delimiter,
            max_fields: usize::MAX,
            max_record_bytes: u64::MAX,
            text: Vec::new(),
            at: 0,
            state: State::Between,
            record_at: 0,
            field_at: 0,
            n_fields: 0,
            written: Written::Plain,
            lines: 0,
            record_line: 0,
            bounds: Vec::new(),
            records: Vec::new(),
            open_at: 0,
        }
    }

    /// Where text is to be put, behind what is there.
    pub(super) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Whole records that can be taken.
    pub(super) fn n_records(&self) -> usize {
        self.records.len()
    }

    /// The line, from 1, that the open record starts in.
    pub(super) fn record_line(&self) -> u64 {
        self.record_line + 1
    }

    /// Takes apart what has come, up to so many records.
    ///
    /// # Errors
    /// The record after the whole ones is too long.
    pub(super) fn split(&mut self, most: usize) -> Result<(), TooLong> {
        while self.at < self.text.len() {
            match self.state {
                State::Between if self.n_records() >= most => return Ok(()),
                State::Between => match self.text[self.at] {
                    byte @ (b'\n' | b'\r') => {
                        self.lines += u64::from(byte == b'\n');
                        self.at += 1;
                    }
                    _ => {
                        (self.record_line, self.n_fields) = (self.lines, 0);
                        self.state = State::Before;
                    }
                },
                State::Before => {
                    self.field_at = self.at;
                    if self.text[self.at] == b'"' {
                        (self.state, self.written) = (State::Quoted, Written::Quoted);
                        self.at += 1;
                    } else {
                        (self.state, self.written) = (State::Plain, Written::Plain);
                    }
                }
                State::Plain => match memchr3(self.delimiter, b'\n', b'\r', &self.text[self.at..]) {
                    Some(length) => {
                        self.at += length;
                        self.end_field()?;
                    }
                    None => self.at = self.text.len(),
                },
                State::Quoted => {
                    let rest = &self.text[self.at..];
                    let quote = memchr(b'"', rest);
                    let length = quote.unwrap_or(rest.len());
                    self.lines += memchr_iter(b'\n', &rest[..length]).count() as u64;
                    self.at += length;
                    if quote.is_some() {
                        self.at += 1;
                        self.state = State::Quote;
                    }
                }
                State::Quote => match self.text[self.at] {
                    b'"' => {
                        (self.state, self.written) = (State::Quoted, Written::Mixed);
                        self.at += 1;
                    }
                    b'\n' | b'\r' => self.end_field()?,
                    byte if byte == self.delimiter => self.end_field()?,
                    _ => (self.state, self.written) = (State::Plain, Written::Mixed),
                },
            }
        }
        self.bounded()
    }

    /// Whether the open record may go on.
    fn bounded(&self) -> Result<(), TooLong> {
        if (self.at - self.record_at) as u64 > self.max_record_bytes { Err(TooLong) } else { Ok(()) }
    }

    /// Ends the text, and with it the open record.
    ///
    /// # Errors
    /// The open record cannot be ended here: it is cut off.
    pub(super) fn finish(&mut self) -> Result<(), Unterminated> {
        match self.state {
            State::Between => return Ok(()),
            State::Quoted => return Err(Unterminated),
            State::Before => (self.field_at, self.written) = (self.at, Written::Plain),
            State::Plain | State::Quote => {}
        }
        self.push_field();
        self.end_record();
        Ok(())
    }

    /// The whole records. What is left of the text moves into a buffer of its own, with room for `room` bytes.
    pub(super) fn take(&mut self, room: usize) -> Chunk {
        let end = if self.state == State::Between { self.at } else { self.record_at };
        let mut rest = Vec::with_capacity(room.max(self.text.len() - end));
        rest.extend_from_slice(&self.text[end..]);
        self.text.truncate(end);
        self.at -= end;
        self.record_at = 0;
        self.field_at = self.field_at.saturating_sub(end);
        // The next chunk will have about as many.
        let mut open = Vec::with_capacity(self.bounds.len());
        open.extend(self.bounds.drain(self.open_at..).map(|bound| bound.earlier(end)));
        self.open_at = 0;
        let records = Vec::with_capacity(self.records.len());
        Chunk::new(
            std::mem::replace(&mut self.text, rest),
            std::mem::replace(&mut self.bounds, open),
            std::mem::replace(&mut self.records, records),
            Empty::Null,
        )
    }

    /// Ends the open field, whose end has been found, and maybe its record.
    fn end_field(&mut self) -> Result<(), TooLong> {
        self.push_field();
        let byte = self.text[self.at];
        self.at += 1;
        if byte == self.delimiter {
            self.state = State::Before;
            return Ok(());
        }
        self.lines += u64::from(byte == b'\n');
        self.bounded()?;
        self.end_record();
        Ok(())
    }

    fn end_record(&mut self) {
        self.records.push(Record { bounds_at: self.open_at, n_fields: self.n_fields, fault: None });
        (self.open_at, self.record_at) = (self.bounds.len(), self.at);
        self.state = State::Between;
    }

    fn push_field(&mut self) {
        self.n_fields += 1;
        if self.n_fields > self.max_fields {
            return;
        }
        let (start, end) = match self.written {
            Written::Plain => (self.field_at, self.at),
            Written::Quoted => (self.field_at + 1, self.at - 1),
            Written::Mixed => (self.field_at, self.field_at + unquote(&mut self.text[self.field_at..self.at])),
        };
        self.bounds.push(Bound::new(start, end));
    }
}

/// Brings a field that starts with a quote to what it says, at its own place; how long that is. Behind it stand blanks.
fn unquote(field: &mut [u8]) -> usize {
    let (mut read, mut end) = (1, 0);
    while let Some(length) = memchr(b'"', &field[read..]) {
        let is_half = field.get(read + length + 1) == Some(&b'"');
        // Half a quote goes along, and its other half does not.
        let kept = length + usize::from(is_half);
        field.copy_within(read..read + kept, end);
        end += kept;
        read += length + 1 + usize::from(is_half);
        if !is_half {
            break;
        }
    }
    let behind = field.len() - read;
    field.copy_within(read.., end);
    end += behind;
    field[end..].fill(b' ');
    end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Fields = Vec<Vec<Vec<u8>>>;

    /// The records of a text that comes in pieces of these sizes, taken at every so many; nothing when it is cut off.
    fn split(text: &[u8], pieces: &[usize], take_at: usize) -> Option<Fields> {
        let mut splitter = Splitter::new(b',');
        let mut records = Fields::new();
        let mut take = |splitter: &mut Splitter| {
            let chunk = splitter.take(0);
            let rows = (0..chunk.len()).map(|at| chunk.row(at).expect("a row"));
            records.extend(rows.map(|row| row.fields().map(<[u8]>::to_vec).collect::<Vec<_>>()));
        };
        let mut rest = text;
        for size in pieces.iter().cycle() {
            let (piece, later) = rest.split_at((*size).min(rest.len()));
            splitter.text().extend_from_slice(piece);
            splitter.split(usize::MAX).expect("no bound");
            if splitter.n_records() >= take_at {
                take(&mut splitter);
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        splitter.finish().ok()?;
        take(&mut splitter);
        Some(records)
    }

    fn by_the_csv_crate(text: &[u8]) -> Fields {
        let reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
        let records = reader.into_byte_records().map(|record| record.expect("bytes in memory"));
        records.map(|record| record.iter().map(<[u8]>::to_vec).collect()).collect()
    }

    #[test]
    fn a_field_says_what_it_says_to_the_csv_crate() {
        for text in [
            "a,b\n1,2\n",
            "a,b\r\n1,2\r\n\r\n\n3,4",
            "a,\"b\",\"\"\n\"\n\",\"x,y\",\"say \"\"so\"\"\"\n",
            "\"a\"b,\"a\"b\"c,a\"b\",\"a\"\"\"b\"\"\n",
            "a,b,\n,\n\"\"\n",
            "\"\"\"\"\"\",\"\"\"\",\"\"x\"\",y",
            "a\rb\rc",
            "\"ends with a quote\"",
            "",
            "\n\r\n",
        ] {
            for size in [1, 2, 3, 100] {
                assert_eq!(split(text.as_bytes(), &[size], 1), Some(by_the_csv_crate(text.as_bytes())), "{text:?}");
            }
        }
        assert_eq!(split(b"a,\"b\n", &[2], 1), None, "an open quote is no end");
    }

    #[test]
    fn a_record_is_bounded_whole_or_open() {
        for (text, fits) in
            [("abcd\nab,\n", true), ("abcde\n", false), ("\"abcd", true), ("\"abcde", false), ("\n\n\n\n\n\n", false)]
        {
            let mut splitter = Splitter::new(b',');
            splitter.max_record_bytes = 5;
            splitter.text().extend_from_slice(text.as_bytes());
            assert_eq!(splitter.split(usize::MAX).is_ok(), fits, "{text:?}");
        }
    }

    #[test]
    fn fields_beyond_the_most_are_counted_and_not_kept() {
        let mut splitter = Splitter::new(b',');
        splitter.max_fields = 2;
        splitter.text().extend_from_slice(b"a,b,\"c\"\"\",d\n");
        splitter.split(usize::MAX).expect("no bound");
        let chunk = splitter.take(0);
        let row = chunk.row(0).expect("a row");
        assert_eq!((row.n_fields, row.fields().collect::<Vec<_>>()), (4, vec![&b"a"[..], b"b"]));
    }

    proptest! {
        #[test]
        fn any_split_of_any_text_gives_the_csv_crates_records(
            text in "[ab,\"\n\ré]{0,60}", pieces in proptest::collection::vec(1..9_usize, 1..6), take_at in 0..4_usize
        ) {
            let ours = split(text.as_bytes(), &pieces, take_at);
            // The other one takes an open quote at the end for a field.
            if let Some(ours) = ours {
                prop_assert_eq!(ours, by_the_csv_crate(text.as_bytes()));
            }
        }
    }
}
