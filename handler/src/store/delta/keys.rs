//! Keys of rows: a batch in, a digest of each row's key out; and what is known of the keys of a
//! delivery, by which files are passed over and rows found again.
//!
//! A digest is 128 bits that nobody outside this process can foresee (SipHash, with seeds of its
//! own), so that two keys have the same one by no one's design. Memory: 25 bytes a key.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::compute::{max, min};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use costream_common::field::time;
use futures::StreamExt as _;

use super::files::{self, DataFile, FileError, Rows, Written};
use super::table::Table;
use crate::store::StoreError;

/// A key, as far as it is remembered.
pub(super) type Digest = [u64; 2];

/// The columns that make a row's identity.
pub(super) struct Key {
    pub(super) columns: Vec<String>,
    schema: SchemaRef,
    converter: RowConverter,
    seeds: [RandomState; 2],
}

impl Key {
    /// # Errors
    /// A column is not delivered, or is of a type that no key has; there is none.
    pub(super) fn new(table: &Table, columns: Vec<String>, schema: &SchemaRef) -> Result<Self, StoreError> {
        let mut fields: Vec<Field> = Vec::new();
        for name in &columns {
            let field = schema
                .field_with_name(name)
                .map_err(|_| table.column_error(name, "is part of the key and not delivered"))?;
            let text_or_number = matches!(
                field.data_type(),
                DataType::Utf8
                    | DataType::Int64
                    | DataType::Boolean
                    | DataType::Decimal128(..)
                    | DataType::Timestamp(TimeUnit::Microsecond, _)
            );
            if !text_or_number {
                return Err(table.column_error(name, format!("is {} and cannot be part of a key", field.data_type())));
            }
            fields.push(Field::new(name, field.data_type().clone(), true));
        }
        if fields.is_empty() {
            return Err(table.column_error("*", "a key has no columns"));
        }
        let sorts = fields.iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(sorts).map_err(|e| table.failed("write", e))?;
        Ok(Self { columns, schema: Arc::new(Schema::new(fields)), converter, seeds: Default::default() })
    }

    /// The digest of each row's key. A column that the batch lacks is null.
    pub(super) fn digests(&self, batch: &RecordBatch) -> Result<Vec<Digest>, FileError> {
        let keys = files::conform(batch, &self.schema)?;
        let rows = self.converter.convert_columns(keys.columns())?;
        Ok(rows.iter().map(|row| [0, 1].map(|at: usize| self.seeds[at].hash_one(row.data()))).collect())
    }

    /// The digests of a file's rows, in order.
    pub(super) async fn of_file<'a>(
        &'a self,
        table: &Table,
        file: &'a DataFile,
        partition_columns: &'a [String],
    ) -> Result<FileKeys<'a>, FileError> {
        let batches = files::read(&table.object_store(), file, Some(&self.columns)).await?;
        Ok(FileKeys { key: self, file, partition_columns, batches, at: 0, ready: Vec::new().into_iter() })
    }
}

/// The keys of a file's rows, one batch in hand.
pub(super) struct FileKeys<'a> {
    key: &'a Key,
    file: &'a DataFile,
    partition_columns: &'a [String],
    batches: Rows,
    at: u32,
    ready: std::vec::IntoIter<Digest>,
}

impl FileKeys<'_> {
    /// The next row's number and the digest of its key.
    pub(super) async fn next(&mut self) -> Result<Option<(u32, Digest)>, FileError> {
        loop {
            if let Some(digest) = self.ready.next() {
                self.at += 1;
                return Ok(Some((self.at - 1, digest)));
            }
            let Some(batch) = self.batches.next().await else { return Ok(None) };
            let batch = files::whole(self.file, batch?, &self.key.schema, self.partition_columns)?;
            self.ready = self.key.digests(&batch)?.into_iter();
        }
    }
}

/// Rows of one file, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct RowSet {
    bits: Vec<u64>,
    len: u64,
}

impl RowSet {
    pub(super) fn insert(&mut self, row: u32) {
        let (word, bit) = (row as usize / 64, 1 << (row % 64));
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        self.len += u64::from(self.bits[word] & bit == 0);
        self.bits[word] |= bit;
    }

    pub(super) fn contains(&self, row: usize) -> bool {
        self.bits.get(row / 64).is_some_and(|word| word & (1 << (row % 64)) != 0)
    }

    /// Takes in another's.
    pub(super) fn extend(&mut self, other: &Self) {
        if self.bits.len() < other.bits.len() {
            self.bits.resize(other.bits.len(), 0);
        }
        self.bits.iter_mut().zip(&other.bits).for_each(|(word, other)| *word |= other);
        self.len = self.bits.iter().map(|word| u64::from(word.count_ones())).sum();
    }

    /// How many.
    pub(super) fn len(&self) -> u64 {
        self.len
    }
}

/// Which files cannot hold a row of a delivery's keys, by what the log says of them.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Least and greatest value of the key's time columns.
    times: HashMap<String, (i64, i64)>,
    /// The values of the key's partition columns, together.
    partitions: BTreeSet<Vec<String>>,
    /// Those columns.
    partition_columns: Vec<String>,
}

impl Reach {
    /// Takes in the times of a batch.
    pub(super) fn add(&mut self, key: &Key, batch: &RecordBatch) {
        for name in &key.columns {
            let Some(times) =
                batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>())
            else {
                continue;
            };
            // A null time is in no file's bounds: every file may hold it.
            let bounds = if times.null_count() > 0 { Some((i64::MIN, i64::MAX)) } else { min(times).zip(max(times)) };
            if let Some((least, most)) = bounds {
                let bounds = self.times.entry(name.clone()).or_insert((least, most));
                *bounds = (bounds.0.min(least), bounds.1.max(most));
            }
        }
    }

    /// Takes in the partitions of what was written.
    pub(super) fn within(&mut self, key: &Key, written: &Written, partition_columns: &[String]) {
        self.partition_columns = partition_columns.iter().filter(|name| key.columns.contains(name)).cloned().collect();
        self.partitions = written.files().map(|(_, file)| self.partition_of(&file)).collect();
    }

    fn partition_of(&self, file: &DataFile) -> Vec<String> {
        let value = |name: &String| file.partition.get(name).and_then(Option::as_deref).unwrap_or_default();
        // Others may spell the same time otherwise.
        let spelt =
            |value: &str| time::parse(value.as_bytes()).map_or_else(|| value.to_owned(), |t| t.micros.to_string());
        self.partition_columns.iter().map(|name| spelt(value(name))).collect()
    }

    /// Whether a file may hold a row of one of the keys.
    pub(super) fn may_touch(&self, file: &DataFile) -> bool {
        let at_another_time = self.times.iter().any(|(column, (least, most))| {
            file.times.get(column).is_some_and(|(low, high)| high < least || low > most)
        });
        !at_another_time && self.partitions.contains(&self.partition_of(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_rows_counts_each_once() {
        let mut rows = RowSet::default();
        for row in [0, 63, 64, 1_000_000, 64, 0] {
            rows.insert(row);
        }
        assert_eq!(rows.len(), 4);
        let mut more = RowSet::default();
        more.insert(1);
        more.extend(&rows);
        rows.extend(&more);
        assert_eq!((rows.len(), more.len()), (5, 5));
        for (row, is_in) in [
            (0, true),
            (1, true),
            (2, false),
            (63, true),
            (64, true),
            (65, false),
            (1_000_000, true),
            (2_000_000, false),
        ] {
            assert_eq!(rows.contains(row), is_in, "{row}");
        }
    }
}
