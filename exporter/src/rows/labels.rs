//! A row's fields in, its labels as the inherited `/metrics` writes them out: the report's own texts under the columns'
//! names, sorted by them, columns that begin with `x_` left out, a name that no label can have escaped as Prometheus
//! does it, `Tags` without braces and quotes and with `;` between them. Holds the labels of one batch.

use std::borrow::Cow;

use arrow::array::builder::StringBuilder;
use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use costream_common::exposition::escape::{Name, escape_value};
use costream_common::record::X_ROW;
use serde::Deserialize;

use crate::expose::cell;

const TAGS: &str = "Tags";
const CUSTOM: &str = "x_";

/// Makes the labels of one report's rows.
#[derive(Debug)]
pub(crate) struct Labels {
    columns: Vec<Label>,
    texts: StringBuilder,
    row: Vec<u8>,
}

#[derive(Debug)]
struct Label {
    /// The column's position in the report.
    at: usize,
    /// As it is written: `Name="`.
    opening: String,
    is_tags: bool,
}

impl Labels {
    /// Of columns by their names, in the report's order.
    pub(crate) fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let is_custom = |name: &str| name.get(..CUSTOM.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(CUSTOM));
        let shown = names.enumerate().filter(|(_, name)| !is_custom(name));
        let mut columns: Vec<Label> = shown
            .map(|(at, name)| {
                let opening = format!("{}=\"", Name::Label.escape(name));
                Label { at, opening, is_tags: name == TAGS }
            })
            .collect();
        columns.sort_by(|a, b| a.opening.cmp(&b.opening));
        Self { columns, texts: StringBuilder::new(), row: Vec::new() }
    }

    /// Adds a row by its fields.
    pub(crate) fn append<'a>(&mut self, field: impl Fn(usize) -> Cow<'a, str>) {
        self.row.clear();
        for (nth, Label { at, opening, is_tags }) in self.columns.iter().enumerate() {
            if nth > 0 {
                self.row.push(b',');
            }
            self.row.extend_from_slice(opening.as_bytes());
            let text = field(*at);
            let text = if *is_tags { Cow::Owned(tags(&text)) } else { text };
            escape_value(&text, |bytes| self.row.extend_from_slice(bytes));
            self.row.push(b'"');
        }
        self.texts.append_value(String::from_utf8_lossy(&self.row));
    }

    /// The labels of the rows added since the last time.
    pub(crate) fn finish(&mut self) -> StringArray {
        self.texts.finish()
    }
}

/// A tag of a FocusConfig.
#[derive(Deserialize)]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

/// Tags as they stand in a report, without what holds them together there; of a list of keys and values, those.
fn tags(text: &str) -> String {
    if text.trim_start().starts_with('[')
        && let Ok(list) = serde_json::from_str::<Vec<Tag>>(text)
    {
        return list.iter().map(|Tag { key, value }| format!("{key}:{value}")).collect::<Vec<_>>().join(";");
    }
    let kept = text.chars().filter(|c| !matches!(c, '{' | '}' | '"'));
    kept.map(|c| if c == ',' { ';' } else { c }).collect()
}

/// The labels of a batch whose report's own texts are not at hand: those of the records.
pub(super) fn of_records(batch: &RecordBatch) -> StringArray {
    let schema = batch.schema_ref();
    let names = schema.fields().iter().map(|field| field.name().as_str()).filter(|name| *name != X_ROW);
    let mut labels = Labels::of(names);
    for row in 0..batch.num_rows() {
        labels.append(|at| {
            let array = batch.column(at);
            match array.as_map_opt() {
                Some(map) if map.is_valid(row) => {
                    let entries = map.value(row);
                    let texts = |at: usize| entries.column(at).as_string_opt::<i32>();
                    let pairs = texts(0).into_iter().flatten().zip(texts(1).into_iter().flatten());
                    let pairs =
                        pairs.map(|(key, value)| format!("{}:{}", key.unwrap_or_default(), value.unwrap_or_default()));
                    pairs.collect::<Vec<_>>().join(";").into()
                }
                _ => cell(array, row).unwrap_or_default(),
            }
        });
    }
    labels.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_escaped_and_without_custom_columns() {
        let names = ["ServiceName", "x_Team", "BilledCost", "Tags", "Odd Name", "X_y"];
        let mut labels = Labels::of(names.into_iter());
        let rows = [
            ["a \"b\"\n\\", "hush", "0.10", r#"{"k": "v","l": "w"}"#, "", "hush"],
            ["", "hush", "1", "k=v;l=w", "o", "hush"],
            ["", "hush", "1", r#"[{"key": "k", "value": "v"}, {"key": "l"}]"#, "o", "hush"],
        ];
        for row in rows {
            labels.append(|at| row[at].into());
        }
        let written: Vec<_> = labels.finish().iter().map(|text| text.unwrap_or_default().to_owned()).collect();
        assert_eq!(
            written,
            [
                r#"BilledCost="0.10",ServiceName="a \"b\"\n\\",Tags="k: v;l: w",U__Odd_20_Name="""#,
                r#"BilledCost="1",ServiceName="",Tags="k=v;l=w",U__Odd_20_Name="o""#,
                r#"BilledCost="1",ServiceName="",Tags="k:v;l:",U__Odd_20_Name="o""#
            ]
        );
        assert!(labels.finish().is_empty());
    }
}
