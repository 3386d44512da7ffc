//! The rows of a report as the inherited `/metrics` has them: batches in, two files beside the records out. One has each
//! row's labels and billed cost, in the report's order. Rows whose labels are the same would be one series twice, so
//! the other says of those that have a twin what the first of them shows, which is their sum, and which others are left
//! out. Twins are found by a digest of the labels, sorted outside of memory ([`sorted`]).
//!
//! Memory while a report is written: a batch and the labels made of it, and two runs of the sorter (8 MiB); while it is
//! read a batch. Disk: the labels (LZ4), and while they are written 40 bytes a row more. Nothing grows with the report.
//!
//! A label's value is the report's own text, so `0.00` and `0` are two series, as they always were.

mod labels;
mod sorted;

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Write};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Decimal128Type, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use costream_common::money::{Amount, Sum};
use costream_common::record::ColumnKind;
use sha2::{Digest as _, Sha256};

use self::sorted::Sorter;
use crate::decode::BILLED_COST;
pub(crate) use labels::Labels;

/// What the column of labels is called, which comes behind all others.
const LABELS: &str = "labels";
/// A digest of labels, the row, its amount's units.
const ROW_BYTES: usize = 16 + 8 + 16;
/// A row, whether it is shown, what it shows.
const TWIN_BYTES: usize = 8 + 1 + 8;

/// The column of labels.
pub(crate) fn labels_field() -> Field {
    Field::new(LABELS, DataType::Utf8, false)
}

/// The schema of the file of rows.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![labels_field(), ColumnKind::Decimal.record_field(BILLED_COST)]))
}

/// A schema without the column of labels, when it ends in one.
pub(crate) fn without_labels(schema: &SchemaRef) -> SchemaRef {
    match schema.fields().split_last() {
        Some((last, rest)) if **last == labels_field() => Arc::new(Schema::new(rest.to_vec())),
        _ => Arc::clone(schema),
    }
}

/// A batch without its labels, and they.
///
/// # Errors
/// None for batches of ours: their columns are of one length.
pub(crate) fn parted(batch: &RecordBatch) -> Result<(RecordBatch, Option<StringArray>), ArrowError> {
    let n = batch.num_columns();
    let has_labels = batch.schema_ref().fields().last().is_some_and(|last| **last == labels_field());
    if !has_labels {
        return Ok((batch.clone(), None));
    }
    let records = batch.project(&(0..n - 1).collect::<Vec<_>>())?;
    Ok((records, batch.column(n - 1).as_string_opt().cloned()))
}

/// Makes the file of rows, batch by batch, and finds twins.
#[derive(Debug)]
pub(crate) struct Twins {
    rows: Sorter<ROW_BYTES>,
    shown: Sorter<TWIN_BYTES>,
    ordinal: u64,
}

impl Twins {
    /// None yet; the files that this takes are made under the names, and lose them at once.
    pub(crate) fn new(first: &Path, second: &Path) -> io::Result<Self> {
        Ok(Self { rows: Sorter::new(first)?, shown: Sorter::new(second)?, ordinal: 0 })
    }

    /// The rows of a batch of records, to be written.
    pub(crate) fn rows(
        &mut self,
        records: &RecordBatch,
        labels: Option<StringArray>,
    ) -> Result<RecordBatch, ArrowError> {
        let labels = labels.unwrap_or_else(|| labels::of_records(records));
        let billed =
            records.column_by_name(BILLED_COST).filter(|array| array.as_primitive_opt::<Decimal128Type>().is_some());
        let billed = billed.ok_or_else(|| ArrowError::SchemaError(format!("no column {BILLED_COST}")))?;
        let amounts = billed.as_primitive::<Decimal128Type>();
        for row in 0..labels.len() {
            let mut entry = [0; ROW_BYTES];
            let digest = Sha256::digest(labels.value(row));
            entry[..16].copy_from_slice(&digest[..16]);
            entry[16..24].copy_from_slice(&self.ordinal.to_be_bytes());
            entry[24..].copy_from_slice(&amounts.value(row).to_be_bytes());
            self.rows.push(entry)?;
            self.ordinal += 1;
        }
        let columns: Vec<ArrayRef> = vec![Arc::new(labels), Arc::clone(billed)];
        RecordBatch::try_new(schema(), columns)
    }

    /// Writes what twins show, in the order of their rows.
    pub(crate) fn finish(self, to: &mut impl Write) -> io::Result<()> {
        let Self { rows, mut shown, .. } = self;
        // The first of a series, and the sum of it and its twins so far.
        let mut open: Option<([u8; 24], Sum, u64)> = None;
        let close = |shown: &mut Sorter<TWIN_BYTES>, series: Option<([u8; 24], Sum, u64)>| match series {
            Some((key, sum, n)) if n > 1 => shown.push(twin(&key, Some(sum.to_f64()))),
            _ => Ok(()),
        };
        for entry in rows.sorted()? {
            let entry = entry?;
            let (mut key, mut units) = ([0; 24], [0; 16]);
            key.copy_from_slice(&entry[..24]);
            units.copy_from_slice(&entry[24..]);
            let sum = Amount::from_units(i128::from_be_bytes(units)).map(Sum::from).unwrap_or_default();
            match &mut open {
                Some((first, total, n)) if first[..16] == key[..16] => {
                    total.add_sum(sum);
                    *n += 1;
                    shown.push(twin(&key, None))?;
                }
                other => close(&mut shown, other.replace((key, sum, 1)))?,
            }
        }
        close(&mut shown, open)?;
        for entry in shown.sorted()? {
            to.write_all(&entry?)?;
        }
        to.flush()
    }
}

fn twin(key: &[u8; 24], value: Option<f64>) -> [u8; TWIN_BYTES] {
    let mut entry = [0; TWIN_BYTES];
    entry[..8].copy_from_slice(&key[16..]);
    entry[8] = u8::from(value.is_some());
    entry[9..].copy_from_slice(&value.unwrap_or_default().to_bits().to_be_bytes());
    entry
}

/// Says row by row what is shown.
#[derive(Debug)]
pub(crate) struct Shown {
    twins: BufReader<File>,
    next: Option<(u64, Option<f64>)>,
    ordinal: u64,
}

impl Shown {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut shown = Self { twins: BufReader::new(File::open(path)?), next: None, ordinal: 0 };
        shown.next = shown.read()?;
        Ok(shown)
    }

    fn read(&mut self) -> io::Result<Option<(u64, Option<f64>)>> {
        let mut entry = [0; TWIN_BYTES];
        match self.twins.read_exact(&mut entry) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let (mut ordinal, mut bits) = ([0; 8], [0; 8]);
        ordinal.copy_from_slice(&entry[..8]);
        bits.copy_from_slice(&entry[9..]);
        let value = (entry[8] == 1).then(|| f64::from_bits(u64::from_be_bytes(bits)));
        Ok(Some((u64::from_be_bytes(ordinal), value)))
    }

    /// What the next row shows, whose own cost this is; nothing when a twin shows it.
    pub(crate) fn value(&mut self, own: Option<Amount>) -> io::Result<Option<f64>> {
        let row = self.ordinal;
        self.ordinal += 1;
        match self.next {
            Some((twin, value)) if twin == row => {
                self.next = self.read()?;
                Ok(value)
            }
            _ => Ok(own.map(Amount::to_f64)),
        }
    }
}

/// A double as Go's client library writes it: the shortest digits that are it, with an exponent below 0.0001 and from a
/// million on.
pub(crate) fn go_float(value: f64) -> String {
    let text = format!("{value:e}");
    let Some((digits, Ok(exponent))) = text.split_once('e').map(|(digits, e)| (digits, e.parse::<i32>())) else {
        return costream_common::exposition::encode::float(value);
    };
    if (-4..6).contains(&exponent) {
        return value.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// A buffered file that is safe on the disk when it is finished.
pub(crate) fn written(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<u64> {
    let mut file = BufWriter::new(File::create(path)?);
    write(&mut file)?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_written_as_go_does() {
        for (value, text) in [
            (0.0, "0"),
            (-2.16e-7, "-2.16e-07"),
            (1e-9, "1e-09"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (0.096_000_001, "0.096000001"),
            (100_000.0, "100000"),
            (1_000_000.0, "1e+06"),
            (123_456_789.5, "1.234567895e+08"),
            (-3.0, "-3"),
            (1e100, "1e+100"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(go_float(value), text);
        }
    }

    #[test]
    fn twins_are_summed_in_the_first_of_them() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        let mut twins = Twins::new(&path("a"), &path("b")).expect("files");
        let rows = [("a", "1"), ("b", "0.1"), ("a", "-0.5"), ("c", "7"), ("b", "0.2"), ("b", "0.000000000000000001")];
        let amount = |text: &str| Amount::parse(text.as_bytes()).expect("an amount");
        let schema = Arc::new(Schema::new(vec![ColumnKind::Decimal.record_field(BILLED_COST)]));
        let mut labels = Vec::new();
        for batch in rows.chunks(4) {
            let amounts =
                arrow::array::Decimal128Array::from_iter_values(batch.iter().map(|(_, text)| amount(text).units()));
            let amounts = amounts.with_data_type(ColumnKind::Decimal.data_type());
            let records = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(amounts)]).expect("a batch");
            let of = StringArray::from_iter_values(batch.iter().map(|(label, _)| *label));
            let rows = twins.rows(&records, Some(of)).expect("rows");
            labels.extend(rows.column(0).as_string::<i32>().iter().flatten().map(str::to_owned));
        }
        assert_eq!(labels, rows.map(|(label, _)| label));
        written(&path("twins"), |to| twins.finish(to)).expect("written");
        let mut shown = Shown::open(&path("twins")).expect("twins");
        let values = rows.map(|(_, text)| shown.value(Some(amount(text))).expect("read"));
        assert_eq!(values, [Some(0.5), Some(0.3), None, Some(7.0), None, None]);
    }
}
