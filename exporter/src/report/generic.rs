//! A report of any make opened: bytes in, rows of text out, in the report's order, under whatever columns it has:
//!
//! - CSV: those of its header, in its order, as it writes them;
//! - JSON: all keys, in order (an array of objects, an object whose first array of objects holds them, or objects one
//!   after another);
//! - a Prometheus HTTP API answer (`vector` or `matrix`): all labels in order, `__name__` as `metric_name`, then
//!   `value` and `timestamp` (RFC 3339), a row for each sample; a label called as one of these three is `label_value`, say;
//! - Parquet: its columns, in its order.
//!
//! Nothing is converted: amounts and times are the text they were, nested values their JSON. A row that cannot be read
//! is rejected, as in a cost report. Refuses JSON in which there is no array of objects. Pull-driven; peak memory is
//! the decoder's ([`crate::decode`]).

use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{DecodeError, DecodeOptions};
use crate::convert::{Reject, Rejected, joined, shortened};
use crate::decode::chunk::{Chunk, Message, Row};
use crate::decode::{self, Columns, Opened, Reading};

/// A report of any make whose columns are known. Dropping it ends its reading.
pub struct GenericReport {
    file: String,
    columns: Vec<String>,
    max_field_bytes: usize,
    chunks: mpsc::Receiver<Result<Message, DecodeError>>,
    chunk: Chunk,
    /// The chunk's row to be handed out next.
    at: usize,
    /// The ordinal of the row handed out last.
    row: u64,
    is_at_end: bool,
    _reader: AbortOnDropHandle<()>,
}

/// A row of a report of any make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenericRow {
    /// Its ordinal in the report, from 1, rejected rows counted.
    pub row: u64,
    /// Its fields, in the order of the columns; nothing where there is none.
    pub fields: Vec<Option<String>>,
}

impl GenericReport {
    /// Reads the columns' names. Of the options the profile is not looked at.
    ///
    /// # Errors
    /// The bytes cannot be read, are no rows, or have columns beyond the limits.
    pub async fn open(
        bytes: impl AsyncRead + Send + Unpin + 'static,
        options: DecodeOptions,
    ) -> Result<Self, DecodeError> {
        let DecodeOptions { profile, file, limits, csv_reader, scratch, .. } = options;
        let leniency = profile.leniency();
        let reading = Reading { file: file.clone(), leniency, limits, csv_reader, scratch, columns: Columns::Sorted };
        let Opened { names: columns, chunks, reader, .. } = decode::open(bytes, reading).await?;
        Ok(Self {
            file,
            columns,
            max_field_bytes: limits.max_field_bytes,
            chunks,
            chunk: Chunk::default(),
            at: 0,
            row: 0,
            is_at_end: false,
            _reader: reader,
        })
    }

    /// The columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The next row, or what was refused; nothing at the report's end. May be dropped and called again.
    ///
    /// # Errors
    /// The report cannot be read to its end: what came before is no report.
    pub async fn next(&mut self) -> Result<Option<Result<GenericRow, Rejected>>, DecodeError> {
        loop {
            if let Some(row) = self.chunk.row(self.at) {
                self.at += 1;
                self.row += 1;
                return Ok(Some(self.read(row)));
            }
            if self.is_at_end {
                return Ok(None);
            }
            match self.chunks.recv().await {
                Some(Ok(Message::Chunk(chunk))) => (self.chunk, self.at) = (chunk, 0),
                Some(Ok(Message::End)) => self.is_at_end = true,
                Some(Err(error)) => return Err(error),
                None => return Err(DecodeError::Stopped { file: self.file.clone(), row: self.row }),
            }
        }
    }

    fn read(&self, row: Row<'_>) -> Result<GenericRow, Rejected> {
        let rejected = |column: Option<usize>, reason, text: &[u8]| Rejected {
            row: self.row,
            column: column.map(|at| self.columns[at].clone()),
            reason,
            text: shortened(text),
        };
        if let Some(fault) = row.fault {
            return Err(rejected(None, fault.into(), &joined(row)));
        }
        if row.n_fields != self.columns.len() {
            return Err(rejected(None, Reject::WrongFieldCount, &joined(row)));
        }
        let fields = row.values().enumerate().map(|(at, field)| match field {
            Some(field) if field.len() > self.max_field_bytes => Err(rejected(Some(at), Reject::TooLong, field)),
            Some(field) => match std::str::from_utf8(field) {
                Ok(text) => Ok(Some(text.to_owned())),
                Err(_) => Err(rejected(Some(at), Reject::NotUtf8, field)),
            },
            None => Ok(None),
        });
        Ok(GenericRow { row: self.row, fields: fields.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(body: &str) -> Result<(Vec<String>, Vec<Result<GenericRow, Rejected>>), DecodeError> {
        let bytes = std::io::Cursor::new(body.to_owned().into_bytes());
        let mut report = GenericReport::open(bytes, DecodeOptions::new("any")).await?;
        let mut rows = Vec::new();
        while let Some(row) = report.next().await? {
            rows.push(row);
        }
        assert!(report.next().await?.is_none(), "the end stays the end");
        Ok((report.columns().to_vec(), rows))
    }

    /// Columns, then rows, with `-` where there is none.
    async fn table(body: &str) -> String {
        let (columns, rows) = read(body).await.expect("rows");
        let mut lines = vec![columns.join("|")];
        for row in rows {
            lines.push(match row {
                Ok(row) => row.fields.iter().map(|field| field.as_deref().unwrap_or("-")).collect::<Vec<_>>().join("|"),
                Err(rejected) => format!("{} {}: {}", rejected.row, rejected.reason, rejected.text),
            });
        }
        lines.join("\n")
    }

    #[tokio::test]
    async fn rows_come_under_the_columns_that_there_are() {
        for (body, expected) in [
            (
                "team,month,tokens,note\nml,2024-09,12.5,\"a \"\"b\"\", c\"\nweb,2024-09,3,\nx\n",
                "team|month|tokens|note\nml|2024-09|12.5|a \"b\", c\nweb|2024-09|3|-\n3 wrong_field_count: x",
            ),
            (
                r#"{"meta":1,"items":[{"b":2,"a":"x"},{"a":"y","c":1.50,"b":7}, 5, {"a":"","b":[1],"B":null}]}"#,
                "B|a|b|c\n-|x|2|-\n-|y|7|1.50\n3 not_an_object: 5\n-||[1]|-",
            ),
            (r#"[{"b":1e400,"a":true}]"#, "a|b\ntrue|1e400"),
            ("{\"a\":1}\n{\"a\":2,\"b\":[{\"c\":3}]}\n", "a|b\n1|-\n2|[{\"c\":3}]"),
            (
                r#"{"status":"success","data":{"resultType":"vector","result":[
                    {"metric":{"__name__":"up","job":"a"},"value":[1726650000.5,"1"]},
                    {"metric":{"__name__":"up","inst":"i"},"value":[1726650000,"0.25"]}]}}"#,
                "inst|job|metric_name|value|timestamp\n-|a|up|1|2024-09-18T09:00:00.5Z\ni|-|up|0.25|2024-09-18T09:00:00Z",
            ),
            (
                r#"{"status":"success","warnings":["slow"],"data":{"resultType":"matrix","result":[
                    {"metric":{"z":"1"},"values":[[1726650000,"1"],[1726650060,"NaN"],["x","2"]]},
                    {"metric":{},"histograms":[]}]}}"#,
                "z|value|timestamp\n1|1|2024-09-18T09:00:00Z\n1|NaN|2024-09-18T09:01:00Z\n\
                 3 not_an_object: [\"x\",\"2\"]\n4 not_an_object: {\"metric\":{},\"histograms\":[]}",
            ),
            (
                r#"{"status":"success","data":{"resultType":"vector","result":[
                    {"metric":{"__name__":"up","metric_name":"m","timestamp":"t","value":"v","label_value":"l"},
                     "value":[1726650000,"1"]}]}}"#,
                "label_label_value|label_metric_name|label_timestamp|label_value|metric_name|value|timestamp\n\
                 l|m|t|v|up|1|2024-09-18T09:00:00Z",
            ),
        ] {
            assert_eq!(table(body).await, expected, "{body}");
        }
    }

    #[tokio::test]
    async fn what_has_no_rows_is_an_error_and_not_an_empty_report() {
        for (body, error) in [
            ("", "any is empty"),
            ("[]", "any is empty"),
            (r#"{"items": []}"#, "any is JSON without an array of objects"),
            (r#"{"error": {"code": "x"}}"#, "any is JSON without an array of objects"),
            (
                r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#,
                "any is JSON without an array of objects",
            ),
            ("<html>", "any is an HTML page, not CSV, JSON or Parquet"),
            (r#"[{"a":1},{"a"#, "any is JSON that ends early, after row 1 (line 1)"),
            ("[{\"a\":1},\n}", "any is no JSON after row 1 (line 2): '}' is out of place"),
        ] {
            let error_of = read(body).await.expect_err("no rows");
            assert_eq!(costream_common::report::one_line(&error_of), error, "{body}");
        }
    }
}
