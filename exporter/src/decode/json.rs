//! A JSON report on the disk in, its rows out, in [`Chunk`]s: an array of objects, an object whose first array of
//! objects holds them (`items`, `value`, ...; `data.result` of a Prometheus answer), or objects one after another. Every
//! object is a row, and a `FocusConfig` (`spec.focusSpec`) is what it says.
//!
//! The columns are the keys of all rows, so the text is read twice: once for the keys, once for the rows. A key that is
//! missing, or `null`, is a null; strings are their text, and everything else is its JSON as it is written, so that
//! numbers keep every digit. An element that is no object, or has a key twice, is a bad row of its own; what ends
//! early, or is not divided by commas, ends the report.
//!
//! Peak memory: one record ([`Limits::max_record_bytes`], and 40 bytes for each of its members), the names of the
//! columns, a chunk.

mod answer;
mod frame;
mod record;

use std::collections::HashMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::Range;

use costream_common::focus;

use self::frame::{Form, FrameError, Framer};
use self::record::{Field, Members};
use super::chunk::{Chunk, ChunkBuilder, Fault};
use super::scratch::Kept;
use super::{BILLED_COST, DecodeError, KeptRows, Limits, Reading, too_many_columns};

/// What is read at a time.
const READ_BYTES: usize = 256 << 10;

/// What the columns are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// The keys as they come; those that FOCUS knows are one column whatever their case.
    AsTheyCome,
    /// The keys in order; of a Prometheus answer, its labels in order, then `value` and `timestamp`.
    Sorted,
}

/// The rows of a JSON report.
pub(super) struct Rows {
    records: Records,
    keys: Keys,
    /// The records are those of a Prometheus answer, and are to be read as such.
    is_answer: bool,
    chunk: ChunkBuilder,
    is_at_end: bool,
}

impl Rows {
    /// Reads the whole text for its columns.
    pub(super) fn open(kept: Kept, reading: &Reading) -> Result<Self, DecodeError> {
        let mut records = Records::open(kept, reading)?;
        let mut keys = Keys { focus: reading.columns == Columns::AsTheyCome, ..Keys::default() };
        let mut is_answer = false;
        while let Some(found) = records.find()? {
            is_answer = reading.columns == Columns::Sorted && records.framer.is_answer();
            let Ok(text) = std::str::from_utf8(records.framer.record(found)) else { continue };
            let Some(members) = Members::of(text) else { continue };
            if is_answer {
                answer::labels(&members).for_each(|label| keys.add(&label));
            } else {
                members.0.iter().for_each(|(key, _)| keys.add(key));
            }
            if keys.places.len() > reading.limits.max_columns {
                return Err(too_many_columns(&reading.file, keys.places.len(), &reading.limits));
            }
        }
        if records.n_found == 0 {
            let file = reading.file.clone();
            let is_list = records.form == Form::Array;
            return Err(if is_list { DecodeError::Empty { file } } else { DecodeError::NoList { file } });
        }
        if reading.columns == Columns::Sorted {
            keys.sort();
        }
        if is_answer {
            keys.names.extend(answer::COLUMNS.map(str::to_owned));
        }
        records.start_over(records.form)?;
        Ok(Self { records, keys, is_answer, chunk: ChunkBuilder::default(), is_at_end: false })
    }
}

impl KeptRows for Rows {
    fn names(&self) -> Vec<String> {
        self.keys.names.clone()
    }

    fn next(&mut self) -> Result<Option<Chunk>, DecodeError> {
        while !self.is_at_end && !self.chunk.is_full() {
            match self.records.find()?.map(|found| self.records.framer.record(found)) {
                Some(record) if self.is_answer => answer::rows(record, &self.keys, &mut self.chunk),
                Some(record) => row(record, &self.keys, &mut self.chunk),
                None => self.is_at_end = true,
            }
        }
        Ok(self.chunk.take())
    }
}

/// Writes a record as a row, its fields in the order of the columns.
fn row(record: &[u8], keys: &Keys, chunk: &mut ChunkBuilder) {
    if let Err(fault) = fields(record, keys, chunk) {
        chunk.end_bad_row(fault, record);
    }
}

fn fields(record: &[u8], keys: &Keys, chunk: &mut ChunkBuilder) -> Result<(), Fault> {
    let text = std::str::from_utf8(record).map_err(|_| Fault::NotUtf8)?;
    let members = Members::of(text).ok_or(Fault::NotAnObject)?;
    let mut values = vec![None; keys.names.len()];
    for (key, value) in &members.0 {
        // Every key was seen before.
        let place = keys.places.get(&**key).ok_or(Fault::NotAnObject)?;
        if values[*place].replace(value.get()).is_some() {
            return Err(Fault::DuplicateColumn);
        }
    }
    for value in values {
        match value.map(Field::of) {
            Some(Some(Field::Text(text))) => chunk.push(text.as_bytes()),
            Some(None) => return Err(Fault::NotAnObject),
            None | Some(Some(Field::Null)) => chunk.push_null(),
        }
    }
    chunk.end_row();
    Ok(())
}

/// The keys seen, and the columns they are.
#[derive(Default)]
struct Keys {
    places: HashMap<Box<str>, usize>,
    names: Vec<String>,
    /// The same column for a key that FOCUS knows, whatever its case.
    focus: bool,
    canonical: HashMap<&'static str, usize>,
}

impl Keys {
    fn add(&mut self, key: &str) {
        if self.places.contains_key(key) {
            return;
        }
        let next = self.names.len();
        let place = match focus::canonical(key).filter(|_| self.focus) {
            Some(canonical) => *self.canonical.entry(canonical).or_insert(next),
            None => next,
        };
        if place == next {
            self.names.push(key.to_owned());
        }
        self.places.insert(key.into(), place);
    }

    /// Brings the columns into order; every key is one.
    fn sort(&mut self) {
        self.names.sort_unstable();
        self.places = self.names.iter().zip(0..).map(|(name, place)| (name.as_str().into(), place)).collect();
    }
}

/// Finds the records of a text on the disk.
struct Records {
    kept: Kept,
    form: Form,
    framer: Framer,
    file: String,
    limits: Limits,
    /// Records found.
    n_found: u64,
}

impl Records {
    /// Finds out how the records are divided.
    fn open(kept: Kept, reading: &Reading) -> Result<Self, DecodeError> {
        let Reading { file, limits, columns, .. } = reading;
        let (form, framer) = (Form::Lines, framer(Form::Lines, limits));
        let mut records = Self { kept, form, framer, file: file.clone(), limits: *limits, n_found: 0 };
        let form = records.find_form(*columns)?;
        records.start_over(form)?;
        Ok(records)
    }

    /// Of a text that opens an object, that object's end tells, when it is near enough.
    fn find_form(&mut self, columns: Columns) -> Result<Form, DecodeError> {
        let first = match self.find() {
            Ok(found) => self.framer.record(found.unwrap_or_default()).to_vec(),
            Err(DecodeError::NotJson { found: '[', .. }) => return Ok(Form::Array),
            Err(DecodeError::RecordTooLong { .. } | DecodeError::UnfinishedJson { .. }) => return Ok(Form::Envelope),
            Err(error) => return Err(error),
        };
        if !matches!(self.find(), Ok(None)) {
            return Ok(Form::Lines);
        }
        let members = std::str::from_utf8(&first).ok().and_then(Members::of);
        let has_cost = members.is_some_and(|members| members.has(BILLED_COST));
        let mut envelope = framer(Form::Envelope, &self.limits);
        envelope.text().extend_from_slice(&first);
        if !has_cost && matches!(envelope.next(), Ok(Some(_))) {
            return Ok(Form::Envelope);
        }
        match columns {
            Columns::AsTheyCome => Ok(Form::Lines),
            Columns::Sorted => Err(DecodeError::NoList { file: self.file.clone() }),
        }
    }

    /// Begins again with the first record.
    fn start_over(&mut self, form: Form) -> Result<(), DecodeError> {
        (self.form, self.framer, self.n_found) = (form, framer(form, &self.limits), 0);
        self.kept.file.seek(SeekFrom::Start(0)).map_err(|source| self.unreadable(source)).map(drop)
    }

    /// Where in the framer's text the next record is; nothing at the end.
    fn find(&mut self) -> Result<Option<Range<usize>>, DecodeError> {
        loop {
            if let Some(found) = self.framer.next().map_err(|error| self.failed(error))? {
                self.n_found += 1;
                return Ok(Some(found));
            }
            if self.kept.unwanted.is_cancelled() {
                return Err(DecodeError::Stopped { file: self.file.clone(), row: self.n_found });
            }
            let read = (&mut self.kept.file).take(READ_BYTES as u64).read_to_end(self.framer.text());
            if read.map_err(|source| self.unreadable(source))? == 0 {
                return self.framer.finish().map(|()| None).map_err(|error| self.failed(error));
            }
        }
    }

    fn failed(&self, error: FrameError) -> DecodeError {
        let (file, row, line) = (self.file.clone(), self.n_found, self.framer.line());
        match error {
            FrameError::TooLong => {
                DecodeError::RecordTooLong { file, row: row + 1, line, max: self.limits.max_record_bytes }
            }
            FrameError::Misplaced(found) => DecodeError::NotJson { file, row, line, found },
            FrameError::Unfinished => DecodeError::UnfinishedJson { file, row, line },
        }
    }

    fn unreadable(&self, source: std::io::Error) -> DecodeError {
        DecodeError::Keep { file: self.file.clone(), source }
    }
}

fn framer(form: Form, limits: &Limits) -> Framer {
    Framer::new(form, usize::try_from(limits.max_record_bytes).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::{CsvReader, Scratch};
    use super::*;
    use crate::profile::ProfileName;

    #[tokio::test]
    async fn a_report_that_nobody_wants_any_more_is_not_read_on() {
        let text = format!("[{}{{}}]", "{\"a\": 1},".repeat(READ_BYTES));
        let reading = Reading {
            file: "costs.json".to_owned(),
            leniency: ProfileName::Auto.leniency(),
            limits: Limits::default(),
            csv_reader: CsvReader::default(),
            scratch: Scratch::default(),
            columns: Columns::AsTheyCome,
        };
        let kept = reading.scratch.keep(text.as_bytes(), "costs.json", None).await.expect("room");
        let unwanted = kept.unwanted.clone();
        let mut records = Records::open(kept, &reading).expect("a list");
        assert!(records.find().expect("the first").is_some());
        unwanted.cancel();
        let error = loop {
            if let Err(error) = records.find() {
                break error;
            }
        };
        assert!(matches!(error, DecodeError::Stopped { row, .. } if row < text.len() as u64 / 18), "{error:?}");
    }
}
