//! The text of one record in, its labels out: `{"labels": {"BilledCost": "1.2", ...}, "value": 1.2,
//! "timestamp": 1700000000}`. Holds one record. A label's value is a text, or what stands there in its
//! place (a number keeps every digit, an object is its JSON text); null is as if the label were not there.
//! Of a label that stands twice the last one counts, as JSON readers have it. What stands beside `labels` and `value` is passed over.
//!
//! Record after record has the same labels in the same order: their names are compared with those of the one before, and
//! looked at closer only when they are others.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

/// The most labels of a record.
pub const MAX_LABELS: usize = 1_000;

/// A text that is no record.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    /// It is not even JSON.
    #[error("{0}")]
    NotJson(serde_json::Error),
    /// It is JSON, and something else.
    #[error("{0}")]
    NoRecord(String),
}

/// One record, and the room for it.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// The labels' names; those of the record before, as far as this one has not come to its own.
    names: Vec<String>,
    /// Where their values stand in `text`.
    values: Vec<Option<Range<usize>>>,
    /// The record's own text, and behind it values that stand there with escapes.
    text: String,
    /// Bytes of the values.
    bytes: usize,
    value: Option<f64>,
    /// Another number when the names are others.
    shape: u64,
    /// The shape in which no name stands twice.
    distinct: u64,
    reading: Reading,
}

/// How values are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reading {
    /// All are texts or null.
    #[default]
    Texts,
    /// They are what stands there: for numbers, which keep their digits, and whatever else comes.
    Raw,
}

impl Record {
    /// Reads a record in the place of the one before.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn read(&mut self, text: &[u8]) -> Result<(), RecordError> {
        let text = std::str::from_utf8(text).map_err(|error| RecordError::NotJson(Error::custom(error)))?;
        if self.reading == Reading::Texts && matches!(self.read_as(Reading::Texts, text), Ok(true)) {
            return Ok(());
        }
        match self.read_as(Reading::Raw, text) {
            Ok(true) => {
                self.reading = Reading::Raw;
                Ok(())
            }
            Ok(false) => Err(RecordError::NoRecord("it has no labels".to_owned())),
            Err(error) if error.classify() == Category::Data => Err(RecordError::NoRecord(error.to_string())),
            Err(error) => Err(RecordError::NotJson(error)),
        }
    }

    /// Whether there are labels.
    fn read_as(&mut self, reading: Reading, text: &str) -> serde_json::Result<bool> {
        self.values.clear();
        self.text.clear();
        self.text.push_str(text);
        (self.bytes, self.value) = (0, None);
        let mut json = serde_json::Deserializer::from_str(text);
        let mut has_labels = false;
        json.deserialize_map(Fields { record: self, reading, text, has_labels: &mut has_labels })?;
        json.end()?;
        self.end();
        Ok(has_labels)
    }

    /// The labels with their values, in the order of the text.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let values = self.values.iter().map(|value| value.clone().map(|value| &self.text[value]));
        self.names.iter().map(String::as_str).zip(values)
    }

    /// The same number for records with the same names in the same order, as long as no others come between.
    pub(super) fn shape(&self) -> u64 {
        self.shape
    }

    /// The value of the label at a place; empty when it has none.
    pub(super) fn value_at(&self, at: usize) -> &str {
        self.values.get(at).and_then(Clone::clone).map_or("", |value| &self.text[value])
    }

    /// Bytes of the labels' values.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The record's own value, which says once more what one of the labels does.
    pub(super) fn value(&self) -> Option<f64> {
        self.value
    }

    /// The name of the label that is to come.
    fn begin_label(&mut self, name: &str) {
        match self.names.get_mut(self.values.len()) {
            Some(known) if known == name => {}
            Some(other) => {
                self.shape += 1;
                name.clone_into(other);
            }
            None => {
                self.shape += 1;
                self.names.push(name.to_owned());
            }
        }
    }

    /// A value that does not stand in the record as it is.
    fn push(&mut self, value: &str) {
        let start = self.text.len();
        self.text.push_str(value);
        self.bytes += value.len();
        self.values.push(Some(start..self.text.len()));
    }

    /// A value that is a part of the record's `text`, and need not be copied once more.
    fn push_part(&mut self, text: &str, value: &str) {
        let start = value.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
        match start.checked_add(value.len()) {
            Some(end) if end <= text.len() => {
                self.bytes += value.len();
                self.values.push(Some(start..end));
            }
            _ => self.push(value),
        }
    }

    fn push_raw(&mut self, text: &str, json: &str) -> serde_json::Result<()> {
        match json.as_bytes() {
            b"null" => self.values.push(None),
            [b'"', ..] => self.push(&serde_json::from_str::<String>(json)?),
            _ => self.push_part(text, json),
        }
        Ok(())
    }

    /// All labels have come: of equal ones the last stays.
    fn end(&mut self) {
        if self.names.len() > self.values.len() {
            self.shape += 1;
            self.names.truncate(self.values.len());
        }
        if std::mem::replace(&mut self.distinct, self.shape) == self.shape {
            return;
        }
        // Most senders write them in order, and then none stands twice.
        if self.names.is_sorted_by(|one, next| one < next) {
            return;
        }
        let mut seen = HashSet::with_capacity(self.names.len());
        let is_last: Vec<bool> = self.names.iter().rev().map(|name| seen.insert(name.as_str())).collect();
        let mut of_names = is_last.iter().rev();
        let mut of_values = is_last.iter().rev();
        self.names.retain(|_| of_names.next().is_some_and(|is_last| *is_last));
        self.values.retain(|_| of_values.next().is_some_and(|is_last| *is_last));
    }
}

struct Fields<'r, 'de> {
    record: &'r mut Record,
    reading: Reading,
    text: &'de str,
    has_labels: &'r mut bool,
}

impl<'de> Visitor<'de> for Fields<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with labels")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key_seed(Name)? {
            match field {
                Field::Labels => {
                    self.record.values.clear();
                    map.next_value_seed(Labels { record: self.record, reading: self.reading, text: self.text })?;
                    *self.has_labels = true;
                }
                Field::Value => {
                    let value: &RawValue = map.next_value()?;
                    self.record.value = serde_json::from_str(value.get()).ok();
                }
                Field::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

enum Field {
    Labels,
    Value,
    Other,
}

struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Field, E> {
        Ok(match name {
            "labels" => Field::Labels,
            "value" => Field::Value,
            _ => Field::Other,
        })
    }
}

struct Labels<'r, 'de> {
    record: &'r mut Record,
    reading: Reading,
    text: &'de str,
}

impl<'de> DeserializeSeed<'de> for Labels<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Labels<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of labels")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { record, reading, text } = self;
        while map.next_key_seed(LabelName(record))?.is_some() {
            if record.values.len() == MAX_LABELS {
                return Err(A::Error::custom(format_args!("it has more than {MAX_LABELS} labels")));
            }
            match reading {
                Reading::Texts => map.next_value_seed(LabelText { record, text })?,
                Reading::Raw => {
                    let value: &'de RawValue = map.next_value()?;
                    record.push_raw(text, value.get()).map_err(A::Error::custom)?;
                }
            }
        }
        Ok(())
    }
}

struct LabelName<'r>(&'r mut Record);

impl<'de> DeserializeSeed<'de> for LabelName<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for LabelName<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a label's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<(), E> {
        self.0.begin_label(name);
        Ok(())
    }
}

/// A value that is a text or null; others are errors.
struct LabelText<'r, 'de> {
    record: &'r mut Record,
    text: &'de str,
}

impl<'de> DeserializeSeed<'de> for LabelText<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for LabelText<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or null")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<(), E> {
        self.record.push_part(self.text, value);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.record.push(value);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.record.values.push(None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, Option<String>)>, String> {
        let mut record = Record::default();
        record.read(br#"{"labels": {"before": "x"}, "value": 3}"#).expect("a record");
        record.read(text.as_bytes()).map_err(|error| format!("{error:?}"))?;
        Ok(record.labels().map(|(name, value)| (name.to_owned(), value.map(str::to_owned))).collect())
    }

    #[test]
    fn a_records_labels_are_texts_digit_for_digit() {
        for (text, expected) in [
            (
                r#"{"labels":{"BilledCost":"-2.61","Tags":""},"value":-2.61,"timestamp":1}"#,
                &[("BilledCost", Some("-2.61")), ("Tags", Some(""))][..],
            ),
            (r#"{"labels":{}}"#, &[]),
            (
                r#"{"x":[{"labels":1}],"labels":{"n":0.10000000000000000001,"t":true,"o":{"a": 1}}}"#,
                &[("n", Some("0.10000000000000000001")), ("t", Some("true")), ("o", Some(r#"{"a": 1}"#))],
            ),
            (r#"{"labels":{"a\"b":"x\ny\u00e9","n":null}}"#, &[("a\"b", Some("x\nyé")), ("n", None)]),
            (r#"{"labels":{"a":"1","b":"2","a":"3"}}"#, &[("b", Some("2")), ("a", Some("3"))]),
            (r#"{"labels":{"a":"1"},"labels":{"b":"2"}}"#, &[("b", Some("2"))]),
        ] {
            let expected =
                expected.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect();
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        let mut record = Record::default();
        record.read(br#"{"value": 1.5, "labels": {}}"#).expect("a record");
        assert_eq!(record.value(), Some(1.5));
    }

    /// Whatever came before, a record that is none among it.
    #[test]
    fn records_with_the_same_names_are_of_one_shape_and_no_others() {
        let mut record = Record::default();
        let mut shapes: Vec<(Vec<String>, u64)> = Vec::new();
        for (names, value, is_record) in [
            ("a b", r#""1""#, true),
            ("a b", r#""2""#, true),
            ("a b", "3.0", true),
            ("a c", r#""4""#, false),
            ("a c", "4", true),
            ("a b c", r#""5""#, true),
            ("a b", r#""6""#, true),
            ("b a b", r#""7""#, true),
            ("a b", r#""8""#, true),
            ("a b", "null", true),
            ("", "", true),
        ] {
            let label = |name| format!(r#""{name}": {value}"#);
            let labels: Vec<_> = names.split_whitespace().map(label).collect();
            let end = if is_record { "}" } else { "" };
            let read = record.read(format!(r#"{{"labels": {{{}}}{end}"#, labels.join(",")).as_bytes());
            assert_eq!(read.is_ok(), is_record, "{names}: {read:?}");
            if is_record {
                let read: Vec<String> = record.labels().map(|(name, _)| name.to_owned()).collect();
                if let Some((before, shape)) = shapes.last() {
                    assert!(*before == read || *shape != record.shape(), "{before:?} and {read:?}");
                }
                shapes.push((read, record.shape()));
            }
        }
        let is_kept = |pair: &[(Vec<String>, u64)]| pair[0].1 == pair[1].1;
        let kept: Vec<_> = shapes.windows(2).map(is_kept).collect();
        assert_eq!(kept, [true, true, false, false, false, false, true, true, false]);
    }

    #[test]
    fn what_is_no_record_is_told_from_what_is_no_json() {
        for (text, expected) in [
            ("1", "NoRecord"),
            ("null", "NoRecord"),
            ("[]", "NoRecord"),
            ("{}", "NoRecord"),
            (r#"{"labels":[]}"#, "NoRecord"),
            (r#"{"labels":"x"}"#, "NoRecord"),
            (r#"{"labels":{"a":}}"#, "NotJson"),
            (r#"{"labels":{"a":"\ud800"}}"#, "NoRecord"),
            (r#"{"labels":{}"#, "NotJson"),
            (r#"{labels:{}}"#, "NotJson"),
            ("oops", "NotJson"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        let mut record = Record::default();
        assert!(matches!(record.read(b"{\"labels\":{\"a\":\"\xff\"}}"), Err(RecordError::NotJson(_))));
    }
}
