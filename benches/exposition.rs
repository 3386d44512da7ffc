//! Records to exposition text and text to records, beside `openmetrics-parser`, `prometheus-parse`
//! and the Python client (where `COSTREAM_BENCH_PYTHON`, or `python3`, has it). All on one core.
//!
//! The text is that of the shipped sample's rows nearly as `/records` writes them: one sample a row, every
//! column a label, also where it has no value, since `openmetrics-parser` wants all samples alike.

use std::hint::black_box;
use std::io::{Read, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use costream_common::exposition::decode::{Decoder, Entry, Limits};
use costream_common::exposition::encode::TextWriter;
use costream_common::exposition::{Format, Kind};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../resources/sample/focus.csv.gz");
/// As they come off the network.
const CHUNK_BYTES: usize = 64 << 10;

/// Parses the text on standard input so many times, and prints the seconds it took.
const PYTHON: &str = "
import sys, time
from prometheus_client.parser import text_string_to_metric_families as parse
text = sys.stdin.read()
began = time.perf_counter()
for _ in range(int(sys.argv[1])):
    for family in parse(text):
        for sample in family.samples:
            len(sample.labels)
print(time.perf_counter() - began)
";

/// A sample of a row: its labels, and its value.
type Row = (Vec<(String, String)>, String);

fn rows() -> Vec<Row> {
    let mut text = Vec::new();
    let file = std::fs::File::open(SAMPLE).expect("the sample is there");
    flate2::read::MultiGzDecoder::new(file).read_to_end(&mut text).expect("the sample is gzip");
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(&*text);
    let header = reader.headers().expect("a header").clone();
    let row = |(record, ordinal): (Result<csv::ByteRecord, csv::Error>, u64)| {
        let record = record.expect("a record");
        let field = |at: usize| record.get(at).map(String::from_utf8_lossy).unwrap_or_default().into_owned();
        let columns = header.iter().enumerate().map(|(at, name)| (name.to_owned(), field(at)));
        let labels: Vec<_> = columns.chain([("x_row".to_owned(), ordinal.to_string())]).collect();
        let billed = labels.iter().find(|(name, _)| name == "BilledCost").map(|(_, value)| value.clone());
        // A few rows of the sample are there to be refused.
        (labels, billed.filter(|billed| billed.parse::<f64>().is_ok()).unwrap_or_else(|| "0".to_owned()))
    };
    reader.byte_records().zip(1..).map(row).collect()
}

fn encode(rows: &[Row]) -> Vec<u8> {
    let mut writer = TextWriter::new(Format::Text004);
    let mut bytes = Vec::new();
    writer.family("billed_cost", Kind::Gauge, "Charges");
    for (labels, value) in rows {
        writer.sample("billed_cost", labels.iter().map(|(name, value)| (name, value)), value, None);
        if writer.len() >= CHUNK_BYTES {
            bytes.extend_from_slice(&writer.take());
        }
    }
    writer.finish();
    bytes.extend_from_slice(&writer.take());
    bytes
}

/// Samples and bytes of their labels' values.
fn decode(text: &[u8]) -> (usize, usize) {
    let mut decoder = Decoder::new(Format::Text004, Limits::default());
    let (mut samples, mut value_bytes) = (0, 0);
    let mut take = |entry: Entry<'_>| {
        if let Entry::Sample(sample) = entry {
            samples += 1;
            value_bytes += sample.labels.iter().map(|(_, value)| value.len()).sum::<usize>();
        }
    };
    for mut chunk in text.chunks(CHUNK_BYTES) {
        while let Some(entry) = decoder.decode(&mut chunk).expect("an exposition") {
            take(entry);
        }
    }
    while let Some(entry) = decoder.finish().expect("an exposition") {
        take(entry);
    }
    (samples, value_bytes)
}

fn prometheus_parse(text: &str) -> usize {
    let lines = text.lines().map(|line| Ok(line.to_owned()));
    prometheus_parse::Scrape::parse(lines).expect("an exposition").samples.len()
}

fn openmetrics_parser(text: &str) -> usize {
    let parsed = openmetrics_parser::prometheus::parse_prometheus(text).expect("an exposition");
    parsed.families.values().map(|family| family.iter_samples().count()).sum()
}

/// Seconds that the Python client takes to read the text so many times; nothing where it is not there.
fn python(text: &[u8], times: u64) -> Option<Duration> {
    let python = std::env::var("COSTREAM_BENCH_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(python);
    command.args(["-c", PYTHON, &times.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    child.stdin.take()?.write_all(text).ok()?;
    let output = child.wait_with_output().ok()?;
    let seconds: f64 = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
    Some(Duration::from_secs_f64(seconds))
}

fn benches(criterion: &mut Criterion) {
    let rows = rows();
    let bytes = encode(&rows);
    let text = std::str::from_utf8(&bytes).expect("an exposition is UTF-8");
    assert_eq!(decode(&bytes).0, rows.len());
    eprintln!("{} samples, {} bytes", rows.len(), bytes.len());

    let mut group = criterion.benchmark_group("exposition");
    let throughput = Throughput::Bytes(bytes.len() as u64);
    group.throughput(throughput).sample_size(10).measurement_time(Duration::from_secs(5));
    group.bench_function("encode: costream", |bencher| bencher.iter(|| black_box(encode(&rows)).len()));
    group.bench_function("decode: costream", |bencher| bencher.iter(|| decode(&bytes)));
    group.bench_function("decode: prometheus-parse", |bencher| bencher.iter(|| prometheus_parse(text)));
    group.bench_function("decode: openmetrics-parser", |bencher| bencher.iter(|| openmetrics_parser(text)));
    if python(&bytes, 1).is_some() {
        group.bench_function("decode: Python client", |bencher| {
            bencher.iter_custom(|times| python(&bytes, times).expect("it went well before"));
        });
    } else {
        eprintln!("left out: no Python with prometheus_client; name one in COSTREAM_BENCH_PYTHON");
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
