use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType};
use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};
use bigdecimal::BigDecimal;
use costream_common::money::Amount;
use costream_common::record::{ColumnKind, MAX_BATCH_BYTES, MAX_BATCH_ROWS, Texts, Totals, X_ROW};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, ReadBuf};

use super::*;
use crate::convert::MAX_REJECT_TEXT_BYTES;
use crate::decode::chunk::N_READY_CHUNKS;

mod json;

/// Everything that came out of a report.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    /// Each row's cells as text, `x_row` last.
    rows: Vec<Vec<Option<String>>>,
    rejected: Vec<Rejected>,
    rules: BTreeMap<&'static str, u64>,
    profile: ProfileName,
}

impl Outcome {
    fn column(&self, at: usize) -> Vec<Option<&str>> {
        self.rows.iter().map(|row| row[at].as_deref()).collect()
    }

    fn reasons(&self) -> Vec<(u64, Option<&str>, &str, &str)> {
        let shown = |r: &Rejected| (r.row, r.reason.as_str());
        self.rejected.iter().map(|r| (shown(r).0, r.column.as_deref(), shown(r).1, r.text.as_str())).collect()
    }
}

async fn read(bytes: impl AsyncRead + Send + Unpin + 'static, options: DecodeOptions) -> Result<Outcome, DecodeError> {
    let mut report = Report::open(bytes, options).await?;
    let mut outcome = Outcome { profile: report.profile(), ..Outcome::default() };
    while let Some(decoded) = report.next().await? {
        match decoded {
            Decoded::Batch(batch) => {
                assert_eq!(batch.schema(), report.schema());
                assert!((1..=MAX_BATCH_ROWS).contains(&batch.num_rows()));
                outcome.rows.extend((0..batch.num_rows()).map(|row| cells(&batch, row)));
            }
            Decoded::Rejected(rejected) => outcome.rejected.push(rejected),
        }
    }
    assert!(report.next().await?.is_none(), "the end stays the end");
    outcome.rules.clone_from(report.rules());
    Ok(outcome)
}

fn cells(batch: &RecordBatch, row: usize) -> Vec<Option<String>> {
    let cell = |array: &arrow::array::ArrayRef| {
        if array.is_null(row) {
            return None;
        }
        Some(match ColumnKind::of(array.data_type()) {
            Some(ColumnKind::Text) => Texts::of(array).and_then(|texts| texts.get(row)).expect("a text").to_owned(),
            Some(ColumnKind::Decimal) => {
                let units = array.as_primitive::<Decimal128Type>().value(row);
                Amount::from_units(units).expect("at most 38 digits").to_string()
            }
            Some(ColumnKind::Timestamp) => {
                let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
                chrono::DateTime::from_timestamp_micros(micros)
                    .expect("a time")
                    .to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
            }
            Some(ColumnKind::Tags) => {
                let entries = array.as_map().value(row);
                let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
                let pair = |at: usize| {
                    format!("{}={}", keys.value(at), if values.is_null(at) { "<null>" } else { values.value(at) })
                };
                (0..entries.len()).map(pair).collect::<Vec<_>>().join("|")
            }
            None => array.as_primitive::<Int64Type>().value(row).to_string(),
        })
    };
    batch.columns().iter().map(cell).collect()
}

async fn read_text(text: &str, profile: ProfileName) -> Result<Outcome, DecodeError> {
    let options = DecodeOptions { profile, ..DecodeOptions::new("costs.csv") };
    read(std::io::Cursor::new(text.to_owned().into_bytes()), options).await
}

async fn error_of(bytes: &[u8], limits: Limits) -> String {
    let options = DecodeOptions { limits, ..DecodeOptions::new("costs.csv") };
    let error = read(std::io::Cursor::new(bytes.to_vec()), options).await.expect_err("a report that cannot be read");
    costream_common::report::one_line(&error)
}

/// Hands out bytes in pieces of the given sizes, over and over, and is pending between them.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    sizes: Vec<usize>,
    n_pieces: usize,
    is_pending: bool,
}

impl Pieces {
    fn new(bytes: &[u8], sizes: &[usize]) -> Self {
        Self { bytes: bytes.to_vec(), at: 0, sizes: sizes.to_vec(), n_pieces: 0, is_pending: false }
    }
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        self.is_pending = !self.is_pending;
        if self.is_pending {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let size = self.sizes[self.n_pieces % self.sizes.len()].min(buf.remaining()).min(self.bytes.len() - self.at);
        buf.put_slice(&self.bytes[self.at..self.at + size]);
        self.at += size;
        self.n_pieces += 1;
        Poll::Ready(Ok(()))
    }
}

/// Says something over and over, and counts the bytes it was asked for.
struct Endless {
    start: &'static [u8],
    line: &'static [u8],
    handed_out: Arc<AtomicUsize>,
    at: usize,
}

impl AsyncRead for Endless {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        while buf.remaining() > 0 {
            let byte = match self.start.get(self.at) {
                Some(byte) => *byte,
                None => self.line[(self.at - self.start.len()) % self.line.len()],
            };
            buf.put_slice(&[byte]);
            self.at += 1;
        }
        self.handed_out.store(self.at, Ordering::SeqCst);
        Poll::Ready(Ok(()))
    }
}

fn endless(start: &'static [u8], line: &'static [u8]) -> (Endless, Arc<AtomicUsize>) {
    let handed_out = Arc::new(AtomicUsize::new(0));
    (Endless { start, line, handed_out: Arc::clone(&handed_out), at: 0 }, handed_out)
}

async fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::new();
    GzipEncoder::new(bytes).read_to_end(&mut compressed).await.expect("in memory");
    compressed
}

async fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::new();
    ZstdEncoder::new(bytes).read_to_end(&mut compressed).await.expect("in memory");
    compressed
}

const ODD: &str = "\u{feff}BilledCost,BillingPeriodStart,BillingCurrency,Tags,x_Note\r\n\
    0.000000800000000,2024-09-01T00:00:00Z,USD,\"{\"\"a.b\"\": \"\"1\"\"}\",\"a \"\"quoted\"\", note\"\r\n\
    -1.5e-3,2024-10-01 00:00:00,NULL,\"\"\"a\"\": \"\"1\"\",\"\"b\"\": \"\"2\"\"\",NULL\r\n\
    1E2,2024-09-01T00:00Z,EUR,k=v;l=w,\r\n\
    12345678901234567890.123456789012345678,09/01/2024,EUR,k:v;u:http://x:80,\"two\nlines\"\r\n\
    12345678901234567890.123456789012345678,09/01/2024,EUR,k:v;u:http://x:80,\"two\nlines\"\r\n\
    0,,,k: v; l: w,ü\r\n";

#[tokio::test]
async fn auto_takes_every_oddity_and_counts_the_rules() {
    let outcome = read_text(ODD, ProfileName::Auto).await.expect("a report");
    assert_eq!(outcome.rejected, []);
    let large = Some("12345678901234567890.123456789012345678");
    assert_eq!(outcome.column(0), [Some("0.0000008"), Some("-0.0015"), Some("100"), large, large, Some("0")]);
    let (september, october) = (Some("2024-09-01T00:00:00Z"), Some("2024-10-01T00:00:00Z"));
    assert_eq!(outcome.column(1), [september, october, september, september, september, None]);
    assert_eq!(outcome.column(2), [Some("USD"), None, Some("EUR"), Some("EUR"), Some("EUR"), None]);
    let url = Some("k=v|u=http://x:80");
    assert_eq!(outcome.column(3), [Some("a.b=1"), Some("a=1|b=2"), Some("k=v|l=w"), url, url, Some("k=v|l=w")]);
    assert_eq!(
        outcome.column(4),
        [Some("a \"quoted\", note"), None, None, Some("two\nlines"), Some("two\nlines"), Some("ü")]
    );
    assert_eq!(outcome.column(5), ["1", "2", "3", "4", "5", "6"].map(Some));
    let rules = [
        ("byte_order_mark", 1),
        ("exponent", 2),
        ("null_literal", 2),
        ("tags_colon", 2),
        ("tags_colon_blank", 1),
        ("tags_equals", 1),
        ("tags_no_braces", 1),
        ("time_us_date", 2),
        ("time_without_seconds", 1),
        ("time_without_zone", 1),
    ];
    assert_eq!(outcome.rules, BTreeMap::from(rules));
    assert_eq!(outcome.profile, ProfileName::Sample);
}

#[tokio::test]
async fn a_bad_row_is_rejected_with_its_place_and_leaves_nothing_behind() {
    let long = "x".repeat(MAX_REJECT_TEXT_BYTES + 500);
    let text = format!(
        "BilledCost,Tags,ChargePeriodStart,x_Note,ListCost\n\
         1,a=1,2024-09-01,first,1\n\
         1,a=1,2024-09-01\n\
         1,a=1,2024-09-01,too,1,many\n\
         ,a=1,2024-09-01,n,1\n\
         NULL,a=1,2024-09-01,n,1\n\
         \"1,5\",a=1,2024-09-01,n,1\n\
         1e20,a=1,2024-09-01,n,1\n\
         1,a=1,2024-09-01,n,0.0000000000000000001\n\
         1,untagged,2024-09-01,n,1\n\
         1,a=1,2024-09-31,n,1\n\
         1,a=1;{long},2024-09-01,n,1\n\
         1,a=1,yesterday,n,one\n\
         2,b=2,2024-09-02,last,2\n\
         \n"
    );
    let outcome = read_text(&text, ProfileName::Auto).await.expect("a report");
    let shortened = format!("a=1;{}…", &long[..MAX_REJECT_TEXT_BYTES - 4]);
    assert_eq!(
        outcome.reasons(),
        [
            (2, None, "wrong_field_count", "1,a=1,2024-09-01"),
            (3, None, "wrong_field_count", "1,a=1,2024-09-01,too,1"),
            (4, Some("BilledCost"), "missing_amount", ""),
            (5, Some("BilledCost"), "missing_amount", "NULL"),
            (6, Some("BilledCost"), "not_a_number", "1,5"),
            (7, Some("BilledCost"), "too_many_digits", "1e20"),
            (8, Some("ListCost"), "too_many_digits", "0.0000000000000000001"),
            (9, Some("Tags"), "bad_tags", "untagged"),
            (10, Some("ChargePeriodStart"), "not_a_time", "2024-09-31"),
            (11, Some("Tags"), "bad_tags", shortened.as_str()),
            (12, Some("ChargePeriodStart"), "not_a_time", "yesterday"),
        ]
    );
    let row = |cells: [&str; 6]| cells.map(|cell| Some(cell.to_owned())).to_vec();
    assert_eq!(
        outcome.rows,
        [
            row(["1", "a=1", "2024-09-01T00:00:00Z", "first", "1", "1"]),
            row(["2", "b=2", "2024-09-02T00:00:00Z", "last", "2", "13"])
        ]
    );
    assert_eq!(
        outcome.rules,
        BTreeMap::from([("tags_equals", 2), ("time_date_only", 2)]),
        "rejected rows are not counted"
    );
}

#[tokio::test]
async fn fields_that_are_not_utf8_or_too_long_reject_their_row() {
    let mut bytes = b"BilledCost,x_A,x_B\n1,\xc3,\xa9\n2,\xc3\xa9,".to_vec();
    bytes.extend_from_slice("ß".repeat(600).as_bytes());
    bytes.extend_from_slice(b"\n3,ok,ok\n");
    let limits = Limits { max_field_bytes: 1_100, ..Limits::default() };
    let options = DecodeOptions { limits, ..DecodeOptions::new("costs.csv") };
    let outcome = read(std::io::Cursor::new(bytes), options).await.expect("a report");
    let shortened = "ß".repeat(512) + "…";
    assert_eq!(
        outcome.reasons(),
        [(1, Some("x_A"), "not_utf8", "\u{fffd}"), (2, Some("x_B"), "too_long", shortened.as_str())]
    );
    assert_eq!(outcome.column(3), [Some("3")]);
}

#[tokio::test]
async fn strict_takes_focus_as_written_and_nothing_else() {
    let text = "BilledCost,ChargePeriodStart,Tags,x_Note\n\
        1e-3,2024-09-01T00:00:00Z,\"{\"\"a\"\": true}\",NULL\n\
        NULL,,,\n\
        1,2024-09-01 00:00:00,,\n\
        1,2024-09-01T00:00:00.000Z,,\n\
        1,,a=1,\n";
    let outcome = read_text(text, ProfileName::Strict).await.expect("a report");
    assert_eq!(
        outcome.rows,
        [["0.001", "2024-09-01T00:00:00Z", "a=true", "NULL", "1"].map(|cell| Some(cell.to_owned())).to_vec()]
    );
    let reasons: Vec<_> = outcome.rejected.iter().map(|rejected| (rejected.row, rejected.reason)).collect();
    assert_eq!(reasons, [(2, Reject::NotANumber), (3, Reject::NotATime), (4, Reject::NotATime), (5, Reject::BadTags)]);
    assert_eq!(outcome.rules, BTreeMap::from([("exponent", 1)]));
}

#[tokio::test]
async fn another_delimiter_is_counted_and_columns_keep_the_reports_order() {
    let outcome = read_text("x_B;billedcost;x_a\nb;1;a\n", ProfileName::Auto).await.expect("a report");
    assert_eq!(outcome.rows, [["b", "1", "a", "1"].map(|cell| Some(cell.to_owned())).to_vec()]);
    assert_eq!(outcome.rules, BTreeMap::from([("delimiter_semicolon", 1), ("header_case", 1)]));
    let error = read_text("x_B;billedcost\nb;1\n", ProfileName::Strict).await.expect_err("one column");
    assert!(matches!(error, DecodeError::MissingColumn { column: "BilledCost", .. }), "{error}");
}

#[tokio::test]
async fn a_report_without_rows_is_a_report() {
    for text in ["BilledCost,Tags", "BilledCost,Tags\r\n", "\n\nBilledCost,Tags\n\n\n"] {
        let outcome = read_text(text, ProfileName::Auto).await.expect("a report");
        assert_eq!((outcome.rows.len(), outcome.rejected.len()), (0, 0), "{text:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_that_names_the_file_and_the_place() {
    let header = b"BilledCost,Tags\n";
    let with_header = |rows: &[u8]| [&header[..], rows].concat();
    let small = Limits { max_record_bytes: 1_000, max_header_bytes: 200, max_columns: 3, ..Limits::default() };
    let filler = "x".repeat(2_000);
    for (bytes, limits, error) in [
        (b"".to_vec(), small, "costs.csv is empty"),
        (b"\xef\xbb\xbf".to_vec(), small, "costs.csv is empty"),
        (b"\n\r\n\n".to_vec(), small, "costs.csv is empty"),
        (b"<!doctype html>".to_vec(), small, "costs.csv is an HTML page, not CSV, JSON or Parquet"),
        (
            b"PAR1....".to_vec(),
            small,
            "read the Parquet file costs.csv after row 0: Parquet error: it does not end as Parquet does: it is cut off",
        ),
        (gzip(b"%PDF-").await, small, "costs.csv is PDF, not CSV, JSON or Parquet"),
        (b"Cost,Tags\n1,\n".to_vec(), small, "costs.csv has no column BilledCost"),
        (b"BilledCost,\xff\n".to_vec(), small, "column 2 of the header of costs.csv is not UTF-8"),
        (b"BilledCost,a,b,c\n".to_vec(), small, "the header of costs.csv has 4 columns, and 3 are the most"),
        (
            format!("BilledCost,{}\n", &filler[..150]).repeat(2).replace('\n', "y").into_bytes(),
            small,
            "the header of costs.csv has 201 bytes or more, and 200 are the most",
        ),
        (
            format!("BilledCost,{filler}\n").into_bytes(),
            Limits::default(),
            "the header of costs.csv has 2000 bytes in one name, and 256 are the most",
        ),
        (b"BilledCost,\"Tags\n1,".to_vec(), small, "costs.csv ends inside a quoted field of row 0 (line 1)"),
        (with_header(b"1,a=1\n2,\"b=2\n"), small, "costs.csv ends inside a quoted field of row 2 (line 3)"),
        (with_header(b"1,\""), small, "costs.csv ends inside a quoted field of row 1 (line 2)"),
        (with_header(b"1,\"a\"\""), small, "costs.csv ends inside a quoted field of row 1 (line 2)"),
        (
            with_header(format!("1,\n2,\"{filler}\"\n").as_bytes()),
            small,
            "row 2 of costs.csv (line 3) is longer than 1000 bytes: a quote may be missing",
        ),
        (
            with_header(format!("1,\n2,{}\n", &filler[..998]).as_bytes()),
            small,
            "row 2 of costs.csv (line 3) is longer than 1000 bytes: a quote may be missing",
        ),
    ] {
        assert_eq!(error_of(&bytes, limits).await, error);
    }
    let fits = with_header(format!("1,\n2,x={}\n", &filler[..995]).as_bytes());
    let options = DecodeOptions { limits: small, ..DecodeOptions::new("costs.csv") };
    assert_eq!(read(std::io::Cursor::new(fits), options).await.expect("just within the bound").rows.len(), 2);
}

#[tokio::test]
async fn a_text_that_holds_the_end_mark_is_read_on() {
    let text = "BilledCost,x_Note\n\u{4}\n1,\u{4}\n\u{4}\n2,b\n\u{4}";
    let outcome = read_text(text, ProfileName::Auto).await.expect("a report");
    assert_eq!(outcome.column(0), [Some("1"), Some("2")]);
    assert_eq!(outcome.rejected.len(), 3);
}

#[tokio::test]
async fn after_an_error_there_is_no_end() {
    let text = "BilledCost,Tags\n".to_owned() + &"1,a=1\n".repeat(100_000);
    let mut cut = gzip(text.as_bytes()).await;
    cut.truncate(cut.len() - 4);
    let options = DecodeOptions::new("costs.csv.gz");
    let mut report = Report::open(std::io::Cursor::new(cut), options).await.expect("its first rows");
    let error = loop {
        match report.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a cut body has no end"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, DecodeError::Truncated { row: 100_000, .. }), "{error}");
    assert!(error.is_retryable());
    assert!(matches!(report.next().await, Err(DecodeError::Stopped { .. })));
}

#[tokio::test]
async fn every_cut_of_a_compressed_body_is_an_error() {
    let (head, tail) = ODD.as_bytes().split_at(ODD.len() / 2);
    let two_members = [gzip(head).await, gzip(tail).await].concat();
    let two_frames = [zstd(head).await, zstd(tail).await].concat();
    // Between the members a cut looks like an end; what is left is cut inside a row, or not.
    let seams = [gzip(head).await.len(), zstd(head).await.len()];
    for (bytes, seam) in [two_members, two_frames].into_iter().zip(seams) {
        for cut in (0..bytes.len()).filter(|cut| *cut != seam) {
            let result = read(std::io::Cursor::new(bytes[..cut].to_vec()), DecodeOptions::new("costs.csv")).await;
            assert!(result.is_err(), "cut at {cut} of {}", bytes.len());
        }
        let whole = read(std::io::Cursor::new(bytes), DecodeOptions::new("costs.csv")).await.expect("the whole body");
        assert_eq!(whole, read_text(ODD, ProfileName::Auto).await.expect("a report"));
    }
}

#[tokio::test]
async fn a_flipped_bit_changes_nothing_or_is_an_error() {
    let whole = read_text(ODD, ProfileName::Auto).await.expect("a report");
    let bytes = gzip(ODD.as_bytes()).await;
    for at in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        if let Ok(outcome) = read(std::io::Cursor::new(flipped), DecodeOptions::new("costs.csv")).await {
            assert_eq!(outcome, whole, "bit {at}");
        }
    }
}

#[tokio::test]
async fn batches_are_bounded_and_rows_keep_their_ordinals() {
    let mut text = "BilledCost,x_Note\n".to_owned();
    let rows = 2 * MAX_BATCH_ROWS + 100;
    for row in 1..=rows {
        text += if row % 1_000 == 0 { "bad,\n" } else { "1,same\n" };
    }
    let outcome = read_text(&text, ProfileName::Auto).await.expect("a report");
    let ordinals: Vec<usize> =
        outcome.column(2).into_iter().flatten().map(|row| row.parse().expect("a number")).collect();
    let expected: Vec<usize> = (1..=rows).filter(|row| row % 1_000 != 0).collect();
    assert_eq!(ordinals, expected, "identical rows are charges of their own");
    let rejected = (1..=rows as u64).filter(|row| row % 1_000 == 0);
    assert!(outcome.rejected.iter().map(|rejected| rejected.row).eq(rejected));
}

#[tokio::test]
async fn long_rows_make_small_batches() {
    let text = "BilledCost,x_Note\n".to_owned() + &format!("1,{}\n", "x".repeat(100_000)).repeat(200);
    let mut report =
        Report::open(std::io::Cursor::new(text.into_bytes()), DecodeOptions::new("costs.csv")).await.expect("a report");
    let mut rows = 0;
    while let Some(decoded) = report.next().await.expect("a report") {
        let Decoded::Batch(batch) = decoded else { panic!("no row is rejected") };
        let field_bytes: usize = batch.column(1).as_any_dictionary().values().as_string::<i32>().value_data().len();
        assert!(field_bytes <= MAX_BATCH_BYTES);
        rows += batch.num_rows();
    }
    assert_eq!(rows, 200);
}

#[tokio::test]
async fn an_endless_row_ends_the_report_within_its_bound() {
    for (start, line) in
        [(&b"BilledCost,Tags\n1,\""[..], &b"x\n"[..]), (b"BilledCost,Tags\n", b","), (b"BilledCost,Tags\n", b"\n")]
    {
        let (source, handed_out) = endless(start, line);
        let limits = Limits { max_record_bytes: 1 << 20, ..Limits::default() };
        let options = DecodeOptions { limits, ..DecodeOptions::new("costs.csv") };
        let error = read(source, options).await.expect_err("an endless row");
        assert!(matches!(error, DecodeError::RecordTooLong { row: 1, .. }), "{error}");
        assert!(handed_out.load(Ordering::SeqCst) < (1 << 20) + (256 << 10));
    }
    let (source, handed_out) = endless(b"", b"BilledCost,");
    let error = read(source, DecodeOptions::new("costs.csv")).await.expect_err("an endless header");
    assert!(matches!(error, DecodeError::HeaderTooLarge { .. }), "{error}");
    assert!(handed_out.load(Ordering::SeqCst) < 3 << 20);
}

// On one thread, a task that still had room to read would be run by the yields.
#[tokio::test(flavor = "current_thread")]
async fn a_reader_that_stalls_stalls_the_source_and_one_that_goes_ends_it() {
    let (source, handed_out) = endless(b"BilledCost,Tags\n", b"1,a=b\n");
    let alive = Arc::downgrade(&handed_out);
    let report = Report::open(source, DecodeOptions::new("costs.csv")).await.expect("a report");
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    let read_ahead = handed_out.load(Ordering::SeqCst);
    assert!(read_ahead < (N_READY_CHUNKS + 3) * (256 << 10), "{read_ahead} bytes read ahead");
    drop((report, handed_out));
    let gone = async {
        while alive.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.expect("the reading task ends");
}

#[tokio::test]
async fn every_row_of_the_foundations_sample_is_taken_and_its_sums_are_exact() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/focus_sample.csv");
    let Ok(bytes) = std::fs::read(&path) else {
        eprintln!("skipped: the foundation's sample is not there ({})", path.display());
        return;
    };
    // The oracle: another CSV reader, another decimal.
    let mut csv = csv::Reader::from_reader(&bytes[..]);
    let header = csv.headers().expect("a header").clone();
    let cost_at = |name: &str| header.iter().position(|column| column == name).expect("the sample has it");
    let costs = ["BilledCost", "EffectiveCost", "ListCost", "ContractedCost"].map(cost_at);
    let mut sums = costs.map(|_| BigDecimal::default());
    let mut n_rows = 0;
    for record in csv.records() {
        let record = record.expect("a record");
        for (sum, at) in sums.iter_mut().zip(costs) {
            if &record[at] != "NULL" {
                *sum += record[at].parse::<BigDecimal>().expect("a number");
            }
        }
        n_rows += 1;
    }
    assert_eq!(n_rows, 1_000);

    for profile in [ProfileName::Auto, ProfileName::Sample] {
        let options = DecodeOptions { profile, ..DecodeOptions::new("focus_sample.csv") };
        let mut report = Report::open(std::io::Cursor::new(bytes.clone()), options).await.expect("a report");
        assert_eq!((report.profile(), report.version()), (ProfileName::Sample, Some(focus::Version::V1_0)));
        let mut totals = Totals::default();
        while let Some(decoded) = report.next().await.expect("a report") {
            match decoded {
                Decoded::Batch(batch) => totals.add_batch(&batch).expect("few groups"),
                Decoded::Rejected(rejected) => panic!("{rejected:?}"),
            }
        }
        assert_eq!(totals.rows(), 1_000);
        let mut all = costream_common::record::GroupTotals::default();
        totals.groups().for_each(|(_, group)| all.add(group));
        let ours = [all.billed, all.effective, all.list, all.contracted]
            .map(|sum| sum.to_string().parse::<BigDecimal>().expect("a number"));
        assert_eq!(ours, sums);
        assert!(report.rules()["null_literal"] > 0 && report.rules()["time_without_zone"] == 4_000);
        assert_eq!(report.schema().field(report.schema().fields().len() - 1).name(), X_ROW);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

/// Rows in the oddest forms, good and bad.
fn rows() -> impl Strategy<Value = String> {
    let row = prop_oneof![
        5 => "-?[0-9]{1,3}(\\.[0-9]{1,5})?,(USD|NULL|\"U,\n\"\"S\"|é)?,((a=1|b:2|k: v);){0,2}(a=1|b:2)?",
        1 => "[a1,\"\n\r é]{0,12}",
    ];
    let rows = proptest::collection::vec((row, prop_oneof![Just("\n"), Just("\r\n"), Just("\n\n")]), 0..12);
    rows.prop_map(|rows| {
        rows.into_iter().fold("BilledCost,BillingCurrency,Tags\n".to_owned(), |text, (row, end)| text + &row + end)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_split_of_the_bytes_decodes_the_same(text in rows(), sizes in proptest::collection::vec(1_usize..40, 1..5), seam in 0.0..1.0_f64) {
        runtime().block_on(async {
            let bytes = text.as_bytes();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "somewhere in the text")]
            let (head, tail) = bytes.split_at((bytes.len() as f64 * seam) as usize);
            let gzip_members = [gzip(head).await, gzip(b"").await, gzip(tail).await].concat();
            let zstd_frames = [zstd(head).await, zstd(tail).await].concat();
            let options = || DecodeOptions::new("costs.csv");
            let whole = read(std::io::Cursor::new(bytes.to_vec()), options()).await.map_err(|error| error.to_string());
            for body in [bytes, &gzip_members, &zstd_frames] {
                for sizes in [&sizes[..], &[1], &[usize::MAX]] {
                    let split = read(Pieces::new(body, sizes), options()).await;
                    let split = split.map_err(|error| error.to_string());
                    assert_eq!(split, whole, "in pieces of {sizes:?}");
                }
            }
        });
    }

    #[test]
    fn another_csv_reader_reads_the_same_fields(text in "[ab,\"\n\r;é ]{0,60}", is_ours in any::<bool>()) {
        // No row has more fields than that.
        let text = format!("BilledCost{}\n{text}", ",x".repeat(60));
        let reader = if is_ours { CsvReader::Searching } else { CsvReader::Automaton };
        // The mark tells the oracle, too, whether the text ended inside a quoted field.
        let marked = format!("{text}\n\u{4}\n");
        let mut oracle = csv::ReaderBuilder::new().flexible(true).has_headers(true).from_reader(marked.as_bytes());
        let mut expected: Vec<Vec<Vec<u8>>> =
            oracle.byte_records().map(|record| record.expect("in memory").iter().map(<[u8]>::to_vec).collect()).collect();
        let is_whole = expected.pop() == Some(vec![b"\x04".to_vec()]);

        let fields = runtime().block_on(async {
            let reading = Reading {
                file: "costs.csv".to_owned(),
                leniency: ProfileName::Strict.leniency(),
                limits: Limits::default(),
                csv_reader: reader,
                scratch: Scratch::default(),
                columns: Columns::AsTheyCome,
            };
            let body = std::io::Cursor::new(text.clone().into_bytes());
            let Opened { mut chunks, reader: _reader, .. } = decode::open(body, reading).await.expect("a header");
            let mut fields: Vec<Vec<Vec<u8>>> = Vec::new();
            loop {
                match chunks.recv().await.expect("a last word") {
                    Ok(Message::Chunk(chunk)) => fields.extend(
                        (0..chunk.len()).map(|at| chunk.row(at).expect("within").fields().map(<[u8]>::to_vec).collect()),
                    ),
                    Ok(Message::End) => return Ok(fields),
                    Err(error) => return Err((fields, error)),
                }
            }
        });
        match fields {
            Ok(fields) => {
                prop_assert!(is_whole);
                prop_assert_eq!(fields, expected);
            }
            Err((fields, error)) => {
                let is_unterminated = matches!(error, DecodeError::UnterminatedQuote { .. });
                prop_assert!(!is_whole && is_unterminated);
                prop_assert_eq!(fields, expected);
            }
        }
    }
}
