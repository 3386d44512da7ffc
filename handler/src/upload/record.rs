//! The text of one record in, its labels out: `{"labels": {"BilledCost": "1.2", ...}, "value": 1.2,
//! "timestamp": 1700000000}`. Holds one record. A label's value is a text, or what stands there in its
//! place (a number keeps every digit, an object is its JSON text); null is as if the label were not there.
//! Of a label that stands twice the last one counts, as JSON readers have it. What stands beside `labels` and `value` is passed over.

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
    text: String,
    labels: Vec<Label>,
    value: Option<f64>,
}

#[derive(Debug)]
struct Label {
    name: Range<usize>,
    value: Option<Range<usize>>,
}

impl Record {
    /// Reads a record in the place of the one before.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn read(&mut self, text: &[u8]) -> Result<(), RecordError> {
        self.text.clear();
        self.labels.clear();
        self.value = None;
        let mut json = serde_json::Deserializer::from_slice(text);
        let mut has_labels = false;
        let read = json.deserialize_map(Fields { record: self, has_labels: &mut has_labels }).and_then(|()| json.end());
        match read {
            Ok(()) if has_labels => Ok(()),
            Ok(()) => Err(RecordError::NoRecord("it has no labels".to_owned())),
            Err(error) if error.classify() == Category::Data => Err(RecordError::NoRecord(error.to_string())),
            Err(error) => Err(RecordError::NotJson(error)),
        }
    }

    /// The labels with their values, in the order of the text.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.labels
            .iter()
            .map(|label| (&self.text[label.name.clone()], label.value.clone().map(|value| &self.text[value])))
    }

    /// The value of the label at a place; empty when it has none.
    pub(super) fn value_at(&self, at: usize) -> &str {
        let value = self.labels.get(at).and_then(|label| label.value.clone());
        value.map_or("", |value| &self.text[value])
    }

    /// Bytes of the labels.
    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The record's own value, which says once more what one of the labels does.
    pub(super) fn value(&self) -> Option<f64> {
        self.value
    }

    fn push(&mut self, text: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(text);
        start..self.text.len()
    }

    fn push_value(&mut self, json: &str) -> serde_json::Result<Option<Range<usize>>> {
        Ok(match json.as_bytes() {
            b"null" => None,
            [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => Some(self.push(&json[1..json.len() - 1])),
            [b'"', ..] => Some(self.push(&serde_json::from_str::<String>(json)?)),
            _ => Some(self.push(json)),
        })
    }

    fn drop_earlier(&mut self) {
        let name = |label: &Label| &self.text[label.name.clone()];
        let Some((last, earlier)) = self.labels.split_last() else { return };
        let Some(at) = earlier.iter().position(|label| name(label) == name(last)) else { return };
        self.labels.remove(at);
    }
}

struct Fields<'r> {
    record: &'r mut Record,
    has_labels: &'r mut bool,
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with labels")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key_seed(Name)? {
            match field {
                Field::Labels => {
                    self.record.labels.clear();
                    map.next_value_seed(Labels(self.record))?;
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

struct Labels<'r>(&'r mut Record);

impl<'de> DeserializeSeed<'de> for Labels<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Labels<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of labels")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(record) = self;
        // Senders write labels in order: one that is not may stand twice.
        let mut is_sorted = true;
        while let Some(name) = map.next_key_seed(Pushed(record))? {
            if record.labels.len() == MAX_LABELS {
                return Err(A::Error::custom(format_args!("it has more than {MAX_LABELS} labels")));
            }
            let value: &RawValue = map.next_value()?;
            let value = record.push_value(value.get()).map_err(A::Error::custom)?;
            if let Some(last) = record.labels.last() {
                is_sorted &= record.text[last.name.clone()] < record.text[name.clone()];
            }
            record.labels.push(Label { name, value });
            if !is_sorted {
                record.drop_earlier();
            }
        }
        Ok(())
    }
}

struct Pushed<'r>(&'r mut Record);

impl<'de> DeserializeSeed<'de> for Pushed<'_> {
    type Value = Range<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Pushed<'_> {
    type Value = Range<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a label's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.push(name))
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
