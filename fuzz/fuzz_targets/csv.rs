//! A report's bytes through the exporter: [`Report`] from opening to its end. Claims:
//!
//! - it ends with rows or an error, and does not panic;
//! - any split of the bytes gives the same batches, rejects, rules, and error;
//! - rows are numbered from 1, and each is in a batch or a reject;
//! - of a plain text that is read to its end, there are as many rows, with the same fields, as
//!   the `csv` crate reads;
//! - memory does not grow with the report.
#![no_main]

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use costream_common::record::Texts;
use costream_exporter::report::{Limits, Report};
use costream_fuzz::report::read_twice;
use costream_fuzz::within;
use csv::ByteRecord;
use libfuzzer_sys::fuzz_target;

/// Small, so that a small input meets them; a FOCUS header fits.
const LIMITS: Limits =
    Limits { max_record_bytes: 4_096, max_header_bytes: 2_048, max_field_bytes: 256, max_columns: 100 };
/// Two readings at a time: each some chunks of 256 KiB and their fields' bounds, two batches of 2 MiB.
const HEAP_BYTES: usize = 64 << 20;

fuzz_target!(|bytes: &[u8]| {
    within(HEAP_BYTES, || {
        let mut plain = None;
        let rows = read_twice(bytes, LIMITS, |report, batch| {
            if let Some(plain) = plain.get_or_insert_with(|| plain_records(bytes, report)) {
                compare(batch, plain);
            }
        });
        if let (Some(rows), Some(Some(plain))) = (rows, plain) {
            assert_eq!(rows, plain.len() as u64 - 1, "rows");
        }
    });
});

/// The records that the `csv` crate reads, the header first; nothing of what is compressed, or another format.
fn plain_records(bytes: &[u8], report: &Report) -> Option<Vec<ByteRecord>> {
    let is_skippable_frame = bytes.get(1..4) == Some(b"\x2a\x4d\x18");
    if bytes.starts_with(b"\x1f\x8b") || bytes.starts_with(b"\x28\xb5\x2f\xfd") || is_skippable_frame {
        return None;
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    if text.starts_with(b"[") || text.starts_with(b"{") || bytes.starts_with(b"PAR1") {
        return None;
    }
    let delimiter = match report.rules() {
        rules if rules.contains_key("delimiter_semicolon") => b';',
        rules if rules.contains_key("delimiter_tab") => b'\t',
        _ => b',',
    };
    let mut csv = csv::ReaderBuilder::new();
    let csv = csv.has_headers(false).flexible(true).delimiter(delimiter).from_reader(bytes);
    Some(csv.into_byte_records().map(|record| record.expect("bytes in memory")).collect())
}

/// The text columns of a batch, held against the records they were read from.
fn compare(batch: &RecordBatch, plain: &[ByteRecord]) {
    let rows = batch.column(batch.num_columns() - 1).as_primitive::<Int64Type>();
    for (at, column) in batch.columns().iter().enumerate() {
        let Some(texts) = Texts::of(column) else { continue };
        for (nth, row) in rows.values().iter().enumerate() {
            let text = texts.get(nth);
            let record = usize::try_from(*row).ok().and_then(|row| plain.get(row)).expect("a record of that number");
            let field = record.get(at).filter(|field| !field.is_empty() && *field != b"NULL");
            assert_eq!(text.map(str::as_bytes), field, "row {row}, column {at}");
        }
    }
}
