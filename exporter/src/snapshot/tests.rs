use arrow::ipc::writer::StreamWriter;
use costream_common::record::{RowKind, ScopeName};
use proptest::prelude::*;

use super::quarantine::REJECTS_PER_BATCH;
use super::*;
use crate::convert::Rejected;
use crate::report::{DecodeOptions, Decoded, Report};

const GOOD: &str = "BilledCost,BillingCurrency,ServiceName\n1.5,USD,a\n2.5,USD,b\nmuch,USD,c\n";

fn names(names: &[&str]) -> BTreeSet<SourceName> {
    names.iter().map(|name| name.parse().expect("a name")).collect()
}

fn open(dir: &Path) -> Result<Spool, SpoolError> {
    open_with(dir, None, Dimensions::default())
}

fn open_with(dir: &Path, max_bytes: Option<u64>, dimensions: Dimensions) -> Result<Spool, SpoolError> {
    Spool::open(dir, max_bytes, dimensions, 100, false, &names(&["s"]))
}

fn key() -> ScopeKey {
    ScopeKey { source: "s".parse().expect("a name"), scope: ScopeName::new("costs.csv").expect("a name") }
}

fn facts() -> ReportFacts {
    let seen = r#"{"mark": {"http": {}}, "digest": "abc", "bytes": 3}"#;
    ReportFacts {
        seen: serde_json::from_str(seen).expect("seen"),
        conversion: "1".to_owned(),
        profile: ProfileName::Strict,
        focus_version: None,
        rules: BTreeMap::new(),
    }
}

fn in_a_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}

async fn report(csv: &str) -> Report {
    let bytes = std::io::Cursor::new(csv.as_bytes().to_vec());
    Report::open(bytes, DecodeOptions::new("costs.csv")).await.expect("a report")
}

/// Writes a report, up to its end but not beyond.
fn written(spool: &Spool, csv: &str) -> Result<Writer, SpoolError> {
    in_a_runtime(async {
        let mut report = report(csv).await;
        let mut writer = spool.begin(key(), "costs.csv".to_owned(), &report.schema(), RowKind::Charges)?;
        while let Some(piece) = report.next().await.expect("a good report") {
            match piece {
                Decoded::Batch(batch) => writer.batch(&batch)?,
                Decoded::Rejected(rejected) => writer.reject(&rejected)?,
            }
        }
        Ok(writer)
    })
}

/// What a report has, nowhere written.
fn decoded(csv: &str) -> (Vec<RecordBatch>, Vec<Rejected>) {
    in_a_runtime(async {
        let (mut report, mut batches, mut rejects) = (report(csv).await, Vec::new(), Vec::new());
        while let Some(piece) = report.next().await.expect("a good report") {
            match piece {
                Decoded::Batch(batch) => batches.push(batch),
                Decoded::Rejected(rejected) => rejects.push(rejected),
            }
        }
        (batches, rejects)
    })
}

fn committed(spool: &Spool, csv: &str) -> Result<Arc<Generation>, SpoolError> {
    written(spool, csv)?.commit(facts())
}

fn files(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir)
        .expect("the spool")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    names.filter(|name| name != LOCK).collect()
}

fn rows(batches: Batches) -> usize {
    batches.map(|batch| batch.expect("a batch").num_rows()).sum()
}

#[test]
fn a_snapshot_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let spool = open(dir.path()).expect("a spool");
    let snapshot = committed(&spool, GOOD).expect("a snapshot").snapshot().clone();
    assert_eq!((snapshot.totals.rows(), snapshot.rejected), (2, 1));
    assert!(matches!(open(dir.path()), Err(SpoolError::Locked(_))));
    let (used, series) = (spool.used_bytes(), spool.get(&key()).expect("it").shown().expect("its series").series);
    drop(spool);

    let spool = open(dir.path()).expect("the spool again");
    let generation = spool.get(&key()).expect("the snapshot again");
    assert_eq!(*generation.snapshot(), snapshot);
    assert_eq!(generation.seen(), facts().seen);
    assert_eq!((rows(generation.records().expect("records")), rows(generation.rejects().expect("rejects"))), (2, 1));
    assert_eq!(spool.used_bytes(), used);
    assert_eq!(generation.shown().expect("its series").series, series);
    drop((spool, generation));

    let few = Dimensions::try_from(vec!["ServiceName".to_owned()]).expect("dimensions");
    let spool = open_with(dir.path(), None, few).expect("the spool, summed otherwise");
    let series = spool.get(&key()).expect("it").shown().expect("its series").series;
    assert_eq!(series.iter().map(|series| series.values[3].as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn what_a_killed_poll_left_is_removed_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let spool = open(dir.path()).expect("a spool");
    committed(&spool, GOOD).expect("a snapshot");
    let good = files(dir.path());
    drop(spool);

    let stem = good.iter().next().and_then(|name| name.split_once('.')).expect("a stem").0.to_owned();
    let killed = stem
        .replace("Z", "")
        .split_once('-')
        .map(|(digest, _)| format!("{digest}-29991231T235959999Z"))
        .expect("a stem");
    for leftover in ["records.arrow", "rejects.arrow", "rollup.json", "json.tmp"] {
        fs::write(dir.path().join(format!("{killed}.{leftover}")), "half").expect("write");
    }
    fs::write(dir.path().join("notes.json"), "mine").expect("write");
    let spool = open(dir.path()).expect("the spool again");
    let mut expected = good.clone();
    expected.insert("notes.json".to_owned());
    assert_eq!(files(dir.path()), expected);
    drop(spool);

    // A later one whose poll was killed between its manifest and the removal of this one.
    for name in &good {
        fs::copy(dir.path().join(name), dir.path().join(format!("old.{name}"))).expect("copy");
    }
    let spool = open(dir.path()).expect("the spool again");
    let newer = committed(&spool, GOOD).expect("a snapshot").snapshot().snapshot;
    drop(spool);
    for name in &good {
        fs::rename(dir.path().join(format!("old.{name}")), dir.path().join(name)).expect("rename");
    }
    let spool = open(dir.path()).expect("the spool again");
    assert_eq!(spool.get(&key()).expect("it").snapshot().snapshot, newer);
    assert_eq!(files(dir.path()).len(), good.len() + 1);
}

#[test]
fn a_damaged_snapshot_is_not_served() {
    for (suffix, damage) in [(RECORDS, "short"), (REJECTS, ""), (MANIFEST, "{}")] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let spool = open(dir.path()).expect("a spool");
        committed(&spool, GOOD).expect("a snapshot");
        drop(spool);
        let name = files(dir.path())
            .into_iter()
            .find(|name| name.split_once('.').is_some_and(|(_, found)| found == suffix))
            .expect("the file");
        fs::write(dir.path().join(name), damage).expect("damage");
        let spool = open(dir.path()).expect("the spool again");
        assert!(spool.current().is_empty() && files(dir.path()).is_empty(), "{suffix}");
        assert_eq!(spool.used_bytes(), 0);
    }
}

#[test]
fn lost_sums_are_made_anew() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let spool = open(dir.path()).expect("a spool");
    let generation = committed(&spool, GOOD).expect("a snapshot");
    let series = generation.shown().expect("what is shown").series;
    fs::write(generation.path(ROLLUP), "{").expect("damage");
    assert_eq!(generation.shown().expect("what is shown").series, series);
}

#[test]
fn a_replaced_snapshot_goes_when_its_last_reader_does() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let spool = open(dir.path()).expect("a spool");
    let old = committed(&spool, GOOD).expect("a snapshot");
    let of_one = files(dir.path());
    let mut reading = old.records().expect("records");
    committed(&spool, "BilledCost\n7\n").expect("another snapshot");
    assert_eq!(files(dir.path()).len(), 2 * of_one.len());
    assert_eq!(reading.next().expect("a batch").expect("a good one").num_rows(), 2);
    drop(reading);
    drop(old);
    assert_eq!(files(dir.path()).len(), of_one.len());
    assert!(files(dir.path()).is_disjoint(&of_one));
    let current = spool.get(&key()).expect("the other");
    assert_eq!(spool.used_bytes(), current.manifest.records_bytes + current.manifest.rejects_bytes);
}

#[test]
fn a_poll_that_does_not_end_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let spool = open(dir.path()).expect("a spool");
    committed(&spool, GOOD).expect("a snapshot");
    let (before, used) = (files(dir.path()), spool.used_bytes());
    let writer = written(&spool, GOOD).expect("a writer");
    assert_ne!(files(dir.path()), before);
    drop(writer);
    assert_eq!((files(dir.path()), spool.used_bytes()), (before, used));
}

#[test]
fn a_budget_used_up_keeps_what_is_served() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let spool = open(dir.path()).expect("a spool");
    committed(&spool, GOOD).expect("a snapshot");
    let (before, used) = (files(dir.path()), spool.used_bytes());
    drop(spool);

    let spool = open_with(dir.path(), Some(used + 100), Dimensions::default()).expect("the spool, with a budget");
    let error = committed(&spool, GOOD).map(|_| ()).expect_err("no room for two");
    let line = costream_common::report::one_line(&error);
    assert!(line.contains("spool_max_bytes") && matches!(error, SpoolError::Write { .. }), "{line}");
    assert_eq!((files(dir.path()), spool.used_bytes()), (before, used));
    assert_eq!(rows(spool.get(&key()).expect("the first").records().expect("records")), 2);
}

#[test]
fn what_belongs_to_no_source_is_removed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    committed(&open(dir.path()).expect("a spool"), GOOD).expect("a snapshot");
    let spool = Spool::open(dir.path(), None, Dimensions::default(), 100, false, &names(&["other"]))
        .expect("the spool of another");
    assert!(spool.current().is_empty() && files(dir.path()).is_empty());
    assert_eq!(spool.used_bytes(), 0);
}

#[test]
fn a_truncated_file_is_noticed_while_it_is_read() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let spool = open(dir.path()).expect("a spool");
    let generation = committed(&spool, GOOD).expect("a snapshot");
    let (schema, path) = (generation.records().expect("records").schema(), generation.path(RECORDS));
    StreamWriter::try_new(File::create(&path).expect("a file"), &schema)
        .and_then(|mut empty| empty.finish())
        .expect("an empty stream");
    assert!(matches!(
        generation.records().expect("records").next(),
        Some(Err(SpoolError::Short { read: 0, expected: 2, .. }))
    ));
}

#[test]
fn rejects_are_numbered_and_say_where_they_are_from() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let spool = open(dir.path()).expect("a spool");
    let csv: String = std::iter::once("BilledCost\n".to_owned())
        .chain((0..REJECTS_PER_BATCH + 5).map(|row| format!("no {row}\n")))
        .collect();
    let generation = committed(&spool, &csv).expect("a snapshot");
    let batches: Vec<_> = generation.rejects().expect("rejects").map(|batch| batch.expect("a batch")).collect();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [REJECTS_PER_BATCH, 5]);
    let cell = |batch: &RecordBatch, column: &str, row: usize| {
        arrow::util::display::array_value_to_string(batch.column_by_name(column).expect("a column"), row)
            .expect("a value")
    };
    let last = &batches[1];
    let found = ["source", "file", "row", "column", "reason", "text", "x_row"].map(|column| cell(last, column, 4));
    assert_eq!(found, ["s", "costs.csv", "1029", "BilledCost", "not_a_number", "no 1028", "1029"]);
    assert_eq!(generation.manifest.rejects, [("not_a_number".to_owned(), 1029)].into());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_spooled_is_read_after_a_restart(rows in proptest::collection::vec(("-?[0-9]{1,20}[.][0-9]{1,18}|bad", any::<String>(), "|(a=b;c: d)|[{}]{0,3}"), 0..20)) {
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record(["BilledCost", "x_Note", "Tags"]).expect("in memory");
        for (billed, note, tags) in &rows {
            csv.write_record([billed, note, tags]).expect("in memory");
        }
        let csv = String::from_utf8(csv.into_inner().expect("in memory")).expect("text");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let snapshot = {
            let spool = open(dir.path()).expect("a spool");
            committed(&spool, &csv).expect("a snapshot").snapshot().clone()
        };
        let spool = open(dir.path()).expect("the spool again");
        let generation = spool.get(&key()).expect("the snapshot again");
        prop_assert_eq!(generation.snapshot(), &snapshot);
        let (batches, rejected) = decoded(&csv);
        let read: Vec<_> = generation.records().expect("records").map(|batch| batch.expect("a batch")).collect();
        prop_assert_eq!(read, batches);
        prop_assert_eq!(self::rows(generation.rejects().expect("rejects")), rejected.len());
        prop_assert_eq!(snapshot.rejected, rejected.len() as u64);
    }
}
