//! A JSON report's bytes through the exporter, as a cost report and as a generic one. Claims:
//!
//! - it ends with rows or an error, and does not panic;
//! - any split of the bytes gives the same batches, rejects, rules, and error;
//! - rows are numbered from 1, and each is in a batch or a reject;
//! - of an array that is read to its end, there are as many rows as `serde_json` finds elements;
//! - memory does not grow with the report.
#![no_main]

use std::io::Cursor;

use costream_exporter::report::generic::GenericReport;
use costream_exporter::report::{DecodeOptions, Limits};
use costream_fuzz::report::read_twice;
use costream_fuzz::within;
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use tokio::runtime::Builder;

/// Small, so that a small input meets them.
const LIMITS: Limits = Limits { max_record_bytes: 512, max_header_bytes: 2_048, max_field_bytes: 256, max_columns: 20 };
/// Two readings at a time: each a buffer of 2 MiB before the disk, some chunks of 256 KiB, two batches of 2 MiB.
const HEAP_BYTES: usize = 64 << 20;

fuzz_target!(|bytes: &[u8]| {
    // What is not JSON is for the other targets.
    if !matches!(bytes.trim_ascii_start(), [b'[' | b'{', ..]) {
        return;
    }
    let elements = serde_json::from_slice::<Vec<Box<RawValue>>>(bytes).map(|elements| elements.len() as u64);
    within(HEAP_BYTES, || {
        let rows = read_twice(bytes, LIMITS, |_, _| ());
        if let (Some(rows), Ok(elements)) = (rows, elements) {
            assert_eq!(rows, elements, "rows");
        }
        generic(bytes);
    });
});

fn generic(bytes: &[u8]) {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let options = DecodeOptions { limits: LIMITS, ..DecodeOptions::new("report") };
        let Ok(mut report) = GenericReport::open(Cursor::new(bytes.to_vec()), options).await else { return };
        let n_columns = report.columns().len();
        for ordinal in 1.. {
            match report.next().await {
                Ok(Some(Ok(row))) => assert_eq!((row.row, row.fields.len()), (ordinal, n_columns)),
                Ok(Some(Err(rejected))) => assert_eq!(rejected.row, ordinal),
                Ok(None) | Err(_) => return,
            }
        }
    });
}
