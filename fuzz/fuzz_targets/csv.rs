//! A report's bytes through the exporter: [`Report`] from opening to its end. Claims:
//!
//! - it ends with rows or an error, and does not panic;
//! - any split of the bytes gives the same batches, rejects, rules, and error;
//! - rows are numbered from 1, and each is in a batch or a reject;
//! - of a plain text that is read to its end, there are as many rows, with the same fields, as
//!   the `csv` crate reads;
//! - memory does not grow with the report.
#![no_main]

use std::io::{self, Cursor};
use std::sync::LazyLock;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use costream_common::record::Texts;
use costream_exporter::report::{DecodeOptions, Decoded, Limits, Report};
use costream_fuzz::{piece_size, within};
use csv::ByteRecord;
use futures::stream;
use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncRead;
use tokio::runtime::{Builder, Runtime};
use tokio_util::io::StreamReader;

/// Small, so that a small input meets them; a FOCUS header fits.
const LIMITS: Limits =
    Limits { max_record_bytes: 4_096, max_header_bytes: 2_048, max_field_bytes: 256, max_columns: 100 };
/// Two readings at a time: each some chunks of 256 KiB and their fields' bounds, two batches of 2 MiB.
const HEAP_BYTES: usize = 64 << 20;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

fuzz_target!(|bytes: &[u8]| {
    let pieces = bytes.chunks(piece_size(bytes)).map(|piece| Ok::<_, io::Error>(Bytes::copy_from_slice(piece)));
    let split = StreamReader::new(stream::iter(pieces.collect::<Vec<_>>()));
    let whole = Cursor::new(bytes.to_vec());
    within(HEAP_BYTES, || RUNTIME.block_on(read_together(whole, split, bytes)));
});

/// Reads one report twice, side by side.
async fn read_together(
    whole: impl AsyncRead + Send + Unpin + 'static,
    split: impl AsyncRead + Send + Unpin + 'static,
    bytes: &[u8],
) {
    let options = DecodeOptions { limits: LIMITS, ..DecodeOptions::new("report.csv") };
    let opened = (Report::open(whole, options.clone()).await, Report::open(split, options).await);
    let (mut whole, mut split) = match opened {
        (Ok(whole), Ok(split)) => (whole, split),
        (Err(whole), Err(split)) => return assert_eq!(format!("{whole:?}"), format!("{split:?}")),
        (whole, split) => panic!("one was opened: {:?}, {:?}", whole.err(), split.err()),
    };
    assert_eq!((whole.schema(), whole.profile(), whole.version()), (split.schema(), split.profile(), split.version()));
    let plain = plain_records(bytes, &whole);

    let mut ordinals = Ordinals::default();
    loop {
        match (whole.next().await, split.next().await) {
            (Ok(Some(Decoded::Batch(batch))), Ok(Some(Decoded::Batch(same)))) => {
                assert_eq!(batch, same);
                let rows = batch.column(batch.num_columns() - 1).as_primitive::<Int64Type>();
                rows.values().iter().for_each(|row| ordinals.take(row.unsigned_abs()));
                if let Some(plain) = &plain {
                    compare(&batch, plain);
                }
            }
            (Ok(Some(Decoded::Rejected(rejected))), Ok(Some(Decoded::Rejected(same)))) => {
                assert_eq!(rejected, same);
                ordinals.take(rejected.row);
            }
            (Ok(None), Ok(None)) => break,
            (Err(error), Err(same)) => return assert_eq!(format!("{error:?}"), format!("{same:?}")),
            (one, other) => panic!("{one:?}, {other:?}"),
        }
        assert_eq!(whole.rules(), split.rules());
    }
    assert_eq!(ordinals, Ordinals::to(ordinals.count));
    if let Some(plain) = plain {
        assert_eq!(ordinals.count, plain.len() as u64 - 1, "rows");
    }
}

/// The records that the `csv` crate reads, the header first; nothing of what is compressed.
fn plain_records(bytes: &[u8], report: &Report) -> Option<Vec<ByteRecord>> {
    let is_skippable_frame = bytes.get(1..4) == Some(b"\x2a\x4d\x18");
    if bytes.starts_with(b"\x1f\x8b") || bytes.starts_with(b"\x28\xb5\x2f\xfd") || is_skippable_frame {
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
        for (text, row) in (0..).map(|at| texts.get(at)).zip(rows.values()) {
            let record = usize::try_from(*row).ok().and_then(|row| plain.get(row)).expect("a record of that number");
            let field = record.get(at).filter(|field| !field.is_empty() && *field != b"NULL");
            assert_eq!(text.map(str::as_bytes), field, "row {row}, column {at}");
        }
    }
}

/// Numbers that are 1, 2, ... in some order when their count and sum are those of these.
#[derive(Debug, Default, PartialEq)]
struct Ordinals {
    count: u64,
    sum: u64,
    last: u64,
}

impl Ordinals {
    fn take(&mut self, ordinal: u64) {
        self.count += 1;
        self.sum += ordinal;
        self.last = self.last.max(ordinal);
    }

    fn to(last: u64) -> Self {
        Self { count: last, sum: last * (last + 1) / 2, last }
    }
}
