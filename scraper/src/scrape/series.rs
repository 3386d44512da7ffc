//! A scrape of somebody else's Prometheus endpoint in; batches of series out: `series`, `x_source`,
//! `metric`, `labels`, `timestamp`, `value`. The pair of `series` and `timestamp` is a row's key.
//!
//! There is no snapshot here and no end mark in the older format, and a scrape beyond a limit stores nothing, as
//! with Prometheus. So a body is read twice: [`Spooled::receive`] writes it to a nameless file, which
//! the system removes, and checks all of it; [`Spooled::batches`] reads it back. Holds one chunk, one
//! line and one batch; the file is as large as the body, which `body_size_limit` bounds.
//!
//! The value is a double, which is what Prometheus means by it; exact money comes from an exporter of ours.

use std::collections::HashSet;
use std::io::{self, SeekFrom};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Builder, MapBuilder, MapFieldNames, RecordBatch, StringBuilder, TimestampMillisecondBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::{Buf as _, Bytes};
use chrono::{DateTime, Utc};
use costream_common::exposition::Format;
use costream_common::exposition::decode::{DecodeError, Decoder, Entry, Limits, Sample};
use costream_common::record::{ColumnKind, MAX_BATCH_BYTES, MAX_BATCH_ROWS, X_SOURCE};
use costream_common::stream::ipc::BodyError;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

/// The column of a series' identity: a digest of source, metric and labels.
pub const SERIES: &str = "series";
/// The column of a sample's time.
pub const TIMESTAMP: &str = "timestamp";

/// Bytes read back from the file at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// What a scrape may be; nought: no bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct SeriesLimits {
    /// Most samples.
    pub samples: u64,
    /// Most labels of a sample, the metric's name counted.
    pub labels: usize,
    /// Longest label name, in bytes.
    pub label_name_bytes: usize,
    /// Longest label value, in bytes.
    pub label_value_bytes: usize,
    /// Largest body, in bytes.
    pub body_bytes: u64,
}

/// A scrape of which nothing is stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeriesError {
    /// The body broke off.
    #[error("the scrape broke off")]
    Body(#[source] BodyError),
    /// It is no exposition.
    #[error(transparent)]
    Exposition(#[from] DecodeError),
    /// It is beyond a limit.
    #[error("line {line}: {what} above {name} {limit}")]
    Limit {
        /// The line, from 1.
        line: u64,
        /// What there was too much of.
        what: String,
        /// The limit's name in the configuration.
        name: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A sample has a label twice.
    #[error("line {line}: label {label} comes twice")]
    Duplicate {
        /// The line, from 1.
        line: u64,
        /// The label.
        label: String,
    },
    /// A sample's time is none.
    #[error("line {line}: no such time")]
    Time {
        /// The line, from 1.
        line: u64,
    },
    /// The file in between cannot be written or read.
    #[error("keep the scrape on disk")]
    Spool(#[source] io::Error),
    /// A batch could not be built.
    #[error("build a batch")]
    Batch(#[from] ArrowError),
}

/// A whole scrape that was found good.
pub struct Spooled {
    file: File,
    format: Format,
    /// Samples in it.
    pub samples: u64,
}

impl Spooled {
    /// Reads a body to its end and checks it.
    ///
    /// # Errors
    /// The body breaks off, is no exposition, or is beyond a limit.
    pub async fn receive(
        format: Format,
        mut chunks: BoxStream<'static, Result<Bytes, BodyError>>,
        limits: &SeriesLimits,
    ) -> Result<Self, SeriesError> {
        let file = tokio::task::spawn_blocking(tempfile::tempfile)
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(SeriesError::Spool)?;
        let mut spooled = Self { file: File::from_std(file), format, samples: 0 };
        let mut decoder = Decoder::new(format, Limits::default());
        let mut body_bytes = 0_u64;
        while let Some(chunk) = chunks.next().await.transpose().map_err(SeriesError::Body)? {
            body_bytes += chunk.len() as u64;
            check(decoder.line(), "body_size_limit", limits.body_bytes, body_bytes, || "a body".to_owned())?;
            let mut rest: &[u8] = &chunk;
            while let Some(entry) = decoder.decode(&mut rest)? {
                spooled.check(entry, limits)?;
            }
            spooled.file.write_all(&chunk).await.map_err(SeriesError::Spool)?;
        }
        while let Some(entry) = decoder.finish()? {
            spooled.check(entry, limits)?;
        }
        spooled.file.flush().await.map_err(SeriesError::Spool)?;
        Ok(spooled)
    }

    fn check(&mut self, entry: Entry<'_>, limits: &SeriesLimits) -> Result<(), SeriesError> {
        let Entry::Sample(sample) = entry else { return Ok(()) };
        let line = sample.line;
        self.samples += 1;
        check(line, "sample_limit", limits.samples, self.samples, || "samples".to_owned())?;
        check(line, "label_limit", limits.labels as u64, sample.labels.len() as u64 + 1, || {
            format!("labels of {}", sample.name)
        })?;
        for (name, value) in [("__name__", sample.name)].into_iter().chain(sample.labels.iter()) {
            check(line, "label_name_length_limit", limits.label_name_bytes as u64, name.len() as u64, || {
                format!("label {name}")
            })?;
            check(line, "label_value_length_limit", limits.label_value_bytes as u64, value.len() as u64, || {
                format!("value of label {name}")
            })?;
        }
        if sample.timestamp_ms.is_some_and(|ms| DateTime::from_timestamp_millis(ms).is_none()) {
            return Err(SeriesError::Time { line });
        }
        let mut names = HashSet::with_capacity(sample.labels.len());
        match sample.labels.iter().find(|(name, _)| !names.insert(*name)) {
            Some((label, _)) => Err(SeriesError::Duplicate { line, label: label.to_owned() }),
            None => Ok(()),
        }
    }

    /// The batches of a source's scrape, for one reader at a time; samples without a time of
    /// their own are of `scraped_at`.
    ///
    /// # Errors
    /// The file cannot be read from its beginning.
    pub async fn batches(&self, source: String, scraped_at: DateTime<Utc>) -> Result<SeriesReader, SeriesError> {
        // The copy shares its position with the original: one reader at a time.
        let mut file = self.file.try_clone().await.map_err(SeriesError::Spool)?;
        file.seek(SeekFrom::Start(0)).await.map_err(SeriesError::Spool)?;
        Ok(SeriesReader {
            chunks: ReaderStream::with_capacity(file, CHUNK_BYTES),
            chunk: Bytes::new(),
            decoder: Decoder::new(self.format, Limits::default()),
            rows: Rows::new(source, scraped_at),
            ended: false,
        })
    }
}

fn check(
    line: u64,
    name: &'static str,
    limit: u64,
    found: u64,
    what: impl FnOnce() -> String,
) -> Result<(), SeriesError> {
    if limit > 0 && found > limit { Err(SeriesError::Limit { line, what: what(), name, limit }) } else { Ok(()) }
}

/// Reads a scrape back.
pub struct SeriesReader {
    chunks: ReaderStream<File>,
    chunk: Bytes,
    decoder: Decoder,
    rows: Rows,
    ended: bool,
}

impl SeriesReader {
    /// The columns of every batch.
    pub fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new(SERIES, DataType::Utf8, false),
            Field::new(X_SOURCE, DataType::Utf8, false),
            Field::new("metric", DataType::Utf8, false),
            Field::new("labels", ColumnKind::Tags.data_type(), false),
            Field::new(TIMESTAMP, ColumnKind::Timestamp.data_type(), false),
            Field::new("value", DataType::Float64, false),
        ]))
    }

    /// The next batch.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, SeriesError> {
        loop {
            if let Some(batch) = self.take_chunk()? {
                return Ok(Some(batch));
            }
            if self.ended {
                return Ok(self.rows.flush()?);
            }
            match self.chunks.next().await.transpose().map_err(SeriesError::Spool)? {
                Some(chunk) => self.chunk = chunk,
                None => {
                    self.ended = true;
                    while let Some(entry) = self.decoder.finish()? {
                        if let Entry::Sample(sample) = entry {
                            self.rows.take(sample)?;
                        }
                    }
                }
            }
        }
    }

    fn take_chunk(&mut self) -> Result<Option<RecordBatch>, SeriesError> {
        let mut rest: &[u8] = &self.chunk;
        while let Some(entry) = self.decoder.decode(&mut rest)? {
            if let Entry::Sample(sample) = entry {
                self.rows.take(sample)?;
                if self.rows.is_full() {
                    let taken = self.chunk.len() - rest.len();
                    self.chunk.advance(taken);
                    return Ok(self.rows.flush()?);
                }
            }
        }
        self.chunk.clear();
        Ok(None)
    }
}

struct Rows {
    source: String,
    scraped_at: i64,
    schema: SchemaRef,
    series: StringBuilder,
    metric: StringBuilder,
    labels: MapBuilder<StringBuilder, StringBuilder>,
    timestamp: TimestampMillisecondBuilder,
    value: Float64Builder,
    rows: usize,
    bytes: usize,
}

impl Rows {
    fn new(source: String, scraped_at: DateTime<Utc>) -> Self {
        let names = MapFieldNames { entry: "key_value".to_owned(), key: "key".to_owned(), value: "value".to_owned() };
        Self {
            source,
            scraped_at: scraped_at.timestamp_millis(),
            schema: SeriesReader::schema(),
            series: StringBuilder::new(),
            metric: StringBuilder::new(),
            labels: MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new()),
            timestamp: TimestampMillisecondBuilder::new().with_timezone("UTC"),
            value: Float64Builder::new(),
            rows: 0,
            bytes: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.rows >= MAX_BATCH_ROWS || self.bytes >= MAX_BATCH_BYTES
    }

    fn take(&mut self, sample: Sample<'_>) -> Result<(), SeriesError> {
        // The order of labels is no part of a series' identity, and an empty one is none.
        let mut labels: Vec<(&str, &str)> = sample.labels.iter().filter(|(_, value)| !value.is_empty()).collect();
        labels.sort_unstable();
        self.series.append_value(series(&self.source, sample.name, &labels));
        self.metric.append_value(sample.name);
        self.bytes += sample.name.len();
        for (name, value) in labels {
            self.labels.keys().append_value(name);
            self.labels.values().append_value(value);
            self.bytes += name.len() + value.len();
        }
        self.labels.append(true)?;
        self.timestamp.append_value(sample.timestamp_ms.unwrap_or(self.scraped_at));
        // The decoder has seen that it is a number.
        self.value.append_value(sample.value.parse().unwrap_or(f64::NAN));
        self.rows += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        if rows == 0 {
            return Ok(None);
        }
        let mut sources = StringBuilder::with_capacity(rows, rows * self.source.len());
        sources.append_value_n(&self.source, rows);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.series.finish()),
            Arc::new(sources.finish()),
            Arc::new(self.metric.finish()),
            Arc::new(self.labels.finish()),
            cast(&self.timestamp.finish(), &ColumnKind::Timestamp.data_type())?,
            Arc::new(self.value.finish()),
        ];
        RecordBatch::try_new(self.schema.clone(), columns).map(Some)
    }
}

/// 128 bits of a digest over source, metric and sorted labels, in hex. Each part is preceded by its
/// length, so that no two series are spelled the same.
fn series(source: &str, metric: &str, labels: &[(&str, &str)]) -> String {
    let mut digest = Sha256::new();
    for part in [source, metric].into_iter().chain(labels.iter().flat_map(|(name, value)| [*name, *value])) {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray as _;
    use arrow::datatypes::{Float64Type, TimestampMicrosecondType};

    use super::*;

    async fn scrape(body: &str, limits: &SeriesLimits) -> Result<Vec<RecordBatch>, SeriesError> {
        let chunks: Vec<_> = body.as_bytes().chunks(7).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let spooled = Spooled::receive(Format::Text004, futures::stream::iter(chunks).boxed(), limits).await?;
        let mut reader =
            spooled.batches("node".to_owned(), DateTime::from_timestamp_millis(42).expect("a time")).await?;
        let mut batches = Vec::new();
        while let Some(batch) = reader.next().await? {
            batches.push(batch);
        }
        Ok(batches)
    }

    #[tokio::test]
    async fn samples_become_rows() {
        let body = "# TYPE up gauge\nup 1\nup{b=\"2\",a=\"x\\\"y\"} +Inf 1500\nup{a=\"x\\\"y\",empty=\"\",b=\"2\"} NaN 1500\nload 0.25";
        let batches = scrape(body, &SeriesLimits::default()).await.expect("a good scrape");
        let [batch] = batches.as_slice() else { panic!("one batch, not {}", batches.len()) };
        assert_eq!(batch.schema(), SeriesReader::schema());
        let text = |column: &str, row| batch[column].as_string::<i32>().value(row).to_owned();
        assert_eq!((0..4).map(|row| text("metric", row)).collect::<Vec<_>>(), ["up", "up", "up", "load"]);
        let times = batch[TIMESTAMP].as_primitive::<TimestampMicrosecondType>();
        assert_eq!(times.values().to_vec(), [42_000, 1_500_000, 1_500_000, 42_000]);
        let values = batch["value"].as_primitive::<Float64Type>();
        assert!(
            values.value(0) == 1.0
                && values.value(1) == f64::INFINITY
                && values.value(2).is_nan()
                && values.value(3) == 0.25
        );
        let labels = batch["labels"].as_map().value(1);
        assert_eq!(labels.column(1).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["x\"y", "2"]);
        assert_eq!(text(SERIES, 1), text(SERIES, 2), "the order of labels and an empty one make no other series");
        assert_ne!(text(SERIES, 0), text(SERIES, 1));
        assert_ne!(text(SERIES, 0), text(SERIES, 3));
    }

    #[tokio::test]
    async fn a_scrape_beyond_a_limit_brings_nothing() {
        let body = "up{a=\"123\"} 1\nup{a=\"12345\",bc=\"1\"} 1\n";
        let exact = SeriesLimits {
            samples: 2,
            labels: 3,
            label_name_bytes: 8,
            label_value_bytes: 5,
            body_bytes: body.len() as u64,
        };
        assert_eq!(scrape(body, &exact).await.expect("within its limits")[0].num_rows(), 2);
        for (limits, name) in [
            (SeriesLimits { samples: 1, ..exact }, "sample_limit 1"),
            (SeriesLimits { labels: 2, ..exact }, "label_limit 2"),
            (SeriesLimits { label_name_bytes: 1, ..exact }, "label_name_length_limit 1"),
            (SeriesLimits { label_value_bytes: 4, ..exact }, "label_value_length_limit 4"),
            (SeriesLimits { body_bytes: exact.body_bytes - 1, ..exact }, "body_size_limit"),
        ] {
            let error = scrape(body, &limits).await.expect_err(name);
            assert!(matches!(error, SeriesError::Limit { .. }) && error.to_string().contains(name), "{error}");
        }
        let error = scrape("up{a=\"1\",a=\"2\"} 1\n", &exact).await.expect_err("a label twice");
        assert_eq!(error.to_string(), "line 1: label a comes twice");
    }
}
