//! A FOCUS CSV to typed, validated batches, beside the `csv` crate that only takes the same text
//! apart into `ByteRecord`s.
//!
//! The report is `COSTREAM_BENCH_REPORT`, or the shipped sample with its rows repeated.

use std::hint::black_box;
use std::io::Read;
use std::time::Duration;

use costream_exporter::report::{DecodeOptions, Decoded, Report};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::{Builder, Runtime};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../resources/sample/focus.csv.gz");
/// About 60 MB of text: more than any cache holds.
const SAMPLE_REPEATED: usize = 8;

fn shipped_or_named() -> &'static [u8] {
    let text = match std::env::var_os("COSTREAM_BENCH_REPORT") {
        Some(path) => std::fs::read(path).expect("the report can be read"),
        None => {
            let mut sample = Vec::new();
            let file = std::fs::File::open(SAMPLE).expect("the sample is there");
            flate2::read::MultiGzDecoder::new(file).read_to_end(&mut sample).expect("the sample is gzip");
            let header = sample.iter().position(|byte| *byte == b'\n').expect("a header") + 1;
            let rows = sample[header..].repeat(SAMPLE_REPEATED);
            [&sample[..header], &rows].concat()
        }
    };
    text.leak()
}

/// Rows taken and refused.
async fn read(report: &'static [u8]) -> (usize, usize) {
    let mut report = Report::open(report, DecodeOptions::new("bench.csv")).await.expect("a report");
    let (mut taken, mut refused) = (0, 0);
    while let Some(decoded) = report.next().await.expect("a whole report") {
        match decoded {
            Decoded::Batch(batch) => taken += black_box(batch).num_rows(),
            Decoded::Rejected(rejected) => refused += usize::from(black_box(rejected).row > 0),
        }
    }
    (taken, refused)
}

fn peer(report: &[u8]) -> usize {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(report);
    let mut record = csv::ByteRecord::new();
    let mut rows = 0;
    while reader.read_byte_record(&mut record).expect("a record") {
        rows += 1;
        black_box(&record);
    }
    rows
}

async fn beneath(report: &[u8]) -> usize {
    let mut reader = csv_async::AsyncReaderBuilder::new().flexible(true).create_reader(report);
    let mut record = csv_async::ByteRecord::new();
    let mut rows = 0;
    while reader.read_byte_record(&mut record).await.expect("a record") {
        rows += 1;
        black_box(&record);
    }
    rows
}

fn benches(criterion: &mut Criterion) {
    let report = shipped_or_named();
    let one: Runtime = Builder::new_current_thread().build().expect("a runtime");
    let two: Runtime = Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let rows = peer(report);
    let (taken, refused) = one.block_on(read(report));
    assert_eq!(taken + refused, rows, "both read the same rows");
    eprintln!("{rows} rows, {refused} of them refused, {} bytes", report.len());

    let mut group = criterion.benchmark_group("csv to records");
    let throughput = Throughput::Bytes(report.len() as u64);
    group.throughput(throughput).sample_size(10).measurement_time(Duration::from_secs(8));
    group.bench_function("peer: csv crate, ByteRecord", |bencher| bencher.iter(|| peer(report)));
    group.bench_function("beneath: csv-async, ByteRecord", |bencher| bencher.iter(|| one.block_on(beneath(report))));
    group.bench_function("costream, one thread", |bencher| bencher.iter(|| one.block_on(read(report))));
    group.bench_function("costream, as it runs: two threads", |bencher| {
        bencher.iter(|| two.block_on(async { tokio::spawn(read(report)).await.expect("no panic") }));
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
