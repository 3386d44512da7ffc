//! The conformance suite on the Delta store, and what is its own: other processes on the same
//! directory, files, housekeeping.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow::array::RecordBatch;
use costream_common::record::SnapshotId;
use deltalake::kernel::Action;
use futures::TryStreamExt as _;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{DeltaOptions, DeltaStore};
use crate::ident::TableName;
use crate::store::conformance::{
    ask, ask_as_of, charges, delivery, each_case, key, next_moment, plain, replace, row, snapshot, stream,
};
use crate::store::{Query, Store, StoreError};

const SEPTEMBER: &str = "2026-09-01T00:00:00Z";

async fn fresh() -> (Store, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    (open(dir.path()).into(), dir)
}

fn options(dir: &Path) -> DeltaOptions {
    DeltaOptions::in_directory(&dir.join("store")).expect("a directory")
}

fn open(dir: &Path) -> DeltaStore {
    DeltaStore::open(options(dir)).expect("a store")
}

/// A test of every case, with `$factory()` a future of a [`Store`] and of whatever must live as
/// long as it.
macro_rules! conformance_tests {
    ([$factory:path] $($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (store, _keep) = $factory().await;
                crate::store::conformance::$case(&store).await;
            }
        )*
    };
}
each_case!(conformance_tests fresh);

/// Data files in a table's directory.
fn data_files(dir: &Path) -> usize {
    let mut files = 0;
    let mut folders = vec![dir.join("store/costs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                if !entry.ends_with("_delta_log") {
                    folders.push(entry);
                }
            } else {
                files += 1;
            }
        }
    }
    files
}

async fn until(what: &str, reached: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !reached() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} never happened"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_on_one_directory_lose_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let stores: Vec<Store> = (0..3).map(|_| open(dir.path()).into()).collect();
    let all = stores.iter().enumerate().flat_map(|(process, store)| {
        (0..6).map(move |scope| {
            let store = store.clone();
            // Every process has scopes of its own, and one that all of them deliver.
            let name = if scope == 0 { "shared".to_owned() } else { format!("{process}-{scope}") };
            tokio::spawn(async move { replace(&store, &key("aws", &name), 1, &[row(SEPTEMBER, "1", &name)]).await })
        })
    });
    let mut written = 0;
    for committed in futures::future::join_all(all.collect::<Vec<_>>()).await {
        written += committed.expect("no panic").rows;
    }
    assert_eq!(written, 16);
    for store in &stores {
        assert_eq!(ask(store, "SELECT count(*), count(DISTINCT x_scope) FROM costs").await, [["16", "16"]]);
    }
    until("only the table's files remain", || data_files(dir.path()) == 16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_another_process_commit() {
    let dir = tempfile::tempdir().expect("a directory");
    let (writer, reader): (Store, Store) = (open(dir.path()).into(), open(dir.path()).into());
    assert!(ask_as_of(&reader, "SELECT count(*) FROM costs", None).await.is_err(), "no table yet");
    for number in 1..=45 {
        replace(&writer, &key("aws", "a.csv"), number, &[row(SEPTEMBER, &number.to_string(), "a")]).await;
        if number % 9 == 0 {
            assert_eq!(plain(&ask(&reader, "SELECT sum(billedcost) FROM costs").await[0][0]), number.to_string());
        }
    }
    assert!(dir.path().join("store/costs/_delta_log/_last_checkpoint").exists(), "the log has checkpoints");
    let fresh: Store = open(dir.path()).into();
    assert_eq!(plain(&ask(&fresh, "SELECT sum(billedcost) FROM costs").await[0][0]), "45");
    assert_eq!(
        fresh.write.committed(&TableName::costs(), &key("aws", "a.csv")).await.expect("an answer"),
        Some(snapshot(45))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_committed_leaves_no_files() {
    let (store, dir) = fresh().await;
    let key = key("aws", "a.csv");
    replace(&store, &key, 1, &[row(SEPTEMBER, "1", "a")]).await;
    let batch = charges(&[row(SEPTEMBER, "2", "a")]);
    let cut = futures::stream::iter([Ok(batch.clone()), Err("cut".into())]);
    store.write.replace_scope(delivery(&key, 2, batch.schema(), Box::pin(cut))).await.expect_err("a cut delivery");
    until("the unfinished file is gone", || data_files(dir.path()) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_whose_directory_was_cleared_starts_over() {
    let (store, dir) = fresh().await;
    let key = key("aws", "a.csv");
    for number in 1..=3 {
        replace(&store, &key, number, &[row(SEPTEMBER, "1", "a")]).await;
    }
    std::fs::remove_dir_all(dir.path().join("store/costs")).expect("a directory to clear");
    assert!(!replace(&store, &key, 3, &[row(SEPTEMBER, "2", "a")]).await.already);
    assert_eq!(plain(&ask(&store, "SELECT sum(billedcost) FROM costs").await[0][0]), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_beyond_38_digits_is_an_error() {
    let (store, _dir) = fresh().await;
    let most = "99999999999999999999.999999999999999999";
    let rows: Vec<_> = (0..4).map(|_| row(SEPTEMBER, most, "a")).collect();
    replace(&store, &key("a", "b"), 1, &rows).await;
    for sql in [
        "SELECT sum(billedcost) FROM costs",
        "SELECT servicename, sum(billedcost) FROM costs GROUP BY servicename",
        "SELECT sum(billedcost) OVER (ORDER BY x_row ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM costs",
    ] {
        let error = ask_as_of(&store, sql, None).await.expect_err("too many digits");
        let error = costream_common::report::one_line(&error);
        assert!(error.contains("more than 38 digits"), "{sql}: {error}");
    }
    let fits = ask(&store, "SELECT sum(billedcost) FILTER (WHERE x_row = 1), sum(-billedcost) FILTER (WHERE x_row = 2), sum(x_row) FROM costs").await;
    assert_eq!(
        (plain(&fits[0][0]), plain(&fits[0][1]), fits[0][2].as_str()),
        (most.to_owned(), format!("-{most}"), "10")
    );
    let window = ask(&store, "SELECT sum(x_row * 1.5) OVER (ORDER BY x_row ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM costs ORDER BY x_row").await;
    let window: Vec<_> = window.iter().map(|row| plain(&row[0])).collect();
    assert_eq!(window, ["1.5", "4.5", "7.5", "10.5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_reading_is_allowed() {
    let (store, _dir) = fresh().await;
    replace(&store, &key("a", "b"), 1, &[row(SEPTEMBER, "1", "a")]).await;
    for sql in [
        "DELETE FROM costs",
        "DROP TABLE costs",
        "CREATE TABLE x AS SELECT 1",
        "SET x = 1",
        "COPY costs TO '/tmp/x'",
        "INSERT INTO costs SELECT * FROM costs",
    ] {
        assert!(ask_as_of(&store, sql, None).await.is_err(), "{sql}");
    }
    let query = Query { sql: "SELECT $1 + count(*) FROM costs".to_owned(), params: vec![41_i64.into()], as_of: None };
    let answer: Vec<RecordBatch> = store.read.query(query).await.expect("an answer").try_collect().await.expect("rows");
    assert_eq!(answer.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_are_merged_and_the_past_stays() {
    let (store, dir) = fresh().await;
    let key = key("aws", "a.csv");
    replace(&store, &key, 1, &[row(SEPTEMBER, "7", "before")]).await;
    let before = next_moment().await;
    next_moment().await;
    // Each period by turns: more partitions than files may be open, so that files are small.
    let periods = [
        "2025-01-01T00:00:00Z",
        "2025-02-01T00:00:00Z",
        "2025-03-01T00:00:00Z",
        "2025-04-01T00:00:00Z",
        "2025-05-01T00:00:00Z",
        "2025-06-01T00:00:00Z",
        "2025-07-01T00:00:00Z",
        "2025-08-01T00:00:00Z",
        "2025-09-01T00:00:00Z",
    ];
    let batches: Vec<_> =
        (0..90).map(|number| charges(&[row(periods[number % 9], "0.000000000000000001", "a")])).collect();
    store
        .write
        .replace_scope(delivery(&key, 2, batches[0].schema(), stream(batches)))
        .await
        .expect("a stored snapshot");
    assert_eq!(data_files(dir.path()), 91);
    let active = "SELECT count(*), sum(billedcost), count(DISTINCT billingperiodstart), min(x_snapshot) FROM costs";
    let expected = ask(&store, active).await;

    store.write.maintain(CancellationToken::new()).await.expect("a round");
    assert_eq!(data_files(dir.path()), 100, "nine new files, and the past");
    assert_eq!(ask(&store, active).await, expected);
    assert_eq!(ask_as_of(&store, "SELECT servicename FROM costs", Some(before)).await.expect("the past"), [["before"]]);
    // A second round finds nothing to do, and the snapshot is still known and replaceable.
    store.write.maintain(CancellationToken::new()).await.expect("a round");
    assert_eq!(data_files(dir.path()), 100);
    assert!(replace(&store, &key, 2, &[row(SEPTEMBER, "1", "a")]).await.already);
    replace(&store, &key, 3, &[row(SEPTEMBER, "1", "a")]).await;
    assert_eq!(ask(&store, "SELECT count(*) FROM costs").await, [["1"]]);
}

/// Every file below `folder`.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn set_age(path: &Path, age: Duration) {
    let file = std::fs::File::options().append(true).open(path).expect("a file");
    file.set_modified(SystemTime::now() - age).expect("an older file");
}

/// A table's commits and files are made `age` older than they are.
fn make_older(table: &Path, age: Duration) {
    let earlier = |value: &mut serde_json::Value| {
        let time = value.as_i64().expect("milliseconds");
        *value = (time - i64::try_from(age.as_millis()).expect("a short time")).into();
    };
    for path in files_below(table) {
        let is = |name: &str| path.file_name().is_some_and(|file| file.to_string_lossy().contains(name));
        if is("checkpoint") {
            std::fs::remove_file(&path).expect("a checkpoint");
            continue;
        }
        if is(".json") {
            let entry = std::fs::read_to_string(&path).expect("a commit");
            let mut actions: Vec<serde_json::Value> =
                entry.lines().map(|line| serde_json::from_str(line).expect("an action")).collect();
            for action in &mut actions {
                for pointer in ["/commitInfo/timestamp", "/remove/deletionTimestamp"] {
                    action.pointer_mut(pointer).into_iter().for_each(earlier);
                }
            }
            let entry: Vec<String> = actions.iter().map(ToString::to_string).collect();
            std::fs::write(&path, entry.join("\n")).expect("a commit");
        }
        set_age(&path, age);
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn open_with_retention(dir: &Path, retention: Duration) -> DeltaStore {
    let mut options = options(dir);
    options.retention = retention;
    DeltaStore::open(options).expect("a store")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_beyond_the_retention_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let (key, table) = (key("aws", "a.csv"), dir.path().join("store/costs"));
    let store: Store = open(dir.path()).into();
    for number in 1..=30 {
        replace(&store, &key, number, &[row(SEPTEMBER, &number.to_string(), "a")]).await;
    }
    make_older(&table, 10 * DAY);
    let store = open_with_retention(dir.path(), 5 * DAY);
    store.shared.table(&TableName::costs()).expect("a table").checkpoint().await;
    let store: Store = store.into();
    for number in 31..=33 {
        replace(&store, &key, number, &[row(SEPTEMBER, &number.to_string(), "a")]).await;
    }
    let (orphan, unfinished) = (table.join("orphan.parquet"), table.join("0123/x.parquet#1"));
    let young = table.join("0123/being-written.parquet");
    std::fs::create_dir_all(table.join("0123")).expect("a folder");
    for path in [&orphan, &unfinished, &young] {
        std::fs::write(path, b"x").expect("a file");
    }
    set_age(&orphan, 10 * DAY);
    set_age(&unfinished, 10 * DAY);

    store.write.maintain(CancellationToken::new()).await.expect("a round");
    assert!(!orphan.exists() && !unfinished.exists(), "what nobody knows and is old goes");
    assert!(young.exists(), "what may be being written stays");
    assert_eq!(data_files(dir.path()), 5, "31 to 33, the one before them, and the young one");
    let entries = || {
        files_below(&table.join("_delta_log"))
            .iter()
            .filter(|path| path.extension().is_some_and(|end| end == "json"))
            .count()
    };
    assert!(entries() < 10, "the log is short: {}", entries());
    // Within the retention everything can be asked for, also what became current long before.
    let sum = "SELECT billedcost FROM costs";
    let at = |days: u32| Some(chrono::Utc::now() - chrono::Duration::from_std(DAY * days).expect("days"));
    assert_eq!(plain(&ask_as_of(&store, sum, at(4)).await.expect("the past")[0][0]), "30");
    assert_eq!(plain(&ask(&store, sum).await[0][0]), "33");
    let fresh: Store = open_with_retention(dir.path(), 5 * DAY).into();
    assert_eq!(plain(&ask_as_of(&fresh, sum, at(4)).await.expect("the past")[0][0]), "30");
    assert!(matches!(ask_as_of(&fresh, sum, at(11)).await, Err(StoreError::NoHistory { .. })));
    assert!(replace(&fresh, &key, 33, &[]).await.already, "snapshots are known as long as the table is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_reads_the_files_it_needs() {
    let (store, _dir) = fresh().await;
    for scope in ["a.csv", "b.csv"] {
        let rows = ["2026-08-01T00:00:00Z", SEPTEMBER].map(|period| row(period, "1", scope));
        replace(&store, &key("aws", scope), 1, &rows).await;
    }
    for (condition, files) in [
        ("true", 4),
        ("x_scope = 'b.csv'", 2),
        ("billingperiodstart > TIMESTAMP '2026-08-01T00:00:00Z'", 2),
        ("billingperiodstart = '2026-08-01T00:00:00Z' AND x_scope <> 'a.csv'", 1),
        ("servicename = 'b.csv'", 2),
    ] {
        let plan = ask(&store, &format!("EXPLAIN SELECT billedcost, servicename FROM costs WHERE {condition}")).await;
        let physical = plan.iter().find(|line| line[0] == "physical_plan").expect("a plan").concat();
        assert_eq!(physical.matches(".parquet").count(), files, "{condition}: {physical}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_what_other_readers_need() {
    let (store, dir) = fresh().await;
    replace(
        &store,
        &key("aws", "a.csv"),
        1,
        &[row("2026-09-01T00:00:00.5Z", "1", "short"), row(SEPTEMBER, "2", &"long ".repeat(20))],
    )
    .await;
    let entry = std::fs::read_to_string(dir.path().join("store/costs/_delta_log/00000000000000000000.json"))
        .expect("the first commit");
    let actions: Vec<Action> = entry.lines().map(|line| serde_json::from_str(line).expect("an action")).collect();
    assert!(matches!(actions[0], Action::CommitInfo(_)), "the commit's time comes first");
    let adds: Vec<_> =
        actions.iter().filter_map(|action| if let Action::Add(add) = action { Some(add) } else { None }).collect();
    assert_eq!(adds.len(), 2);
    let stats: serde_json::Value = serde_json::from_str(adds[0].stats.as_deref().expect("statistics")).expect("json");
    assert_eq!(stats["numRecords"], 1);
    assert!(stats["minValues"].get("billedcost").is_none(), "no rounded bounds");
    assert_eq!(
        (&stats["minValues"]["x_row"], &stats["nullCount"]["x_row"]),
        (&stats["maxValues"]["x_row"], &serde_json::json!(0))
    );
    let txn: Vec<_> =
        actions.iter().filter_map(|action| if let Action::Txn(txn) = action { Some(txn) } else { None }).collect();
    assert_eq!(SnapshotId::from_version(txn[0].version), Some(snapshot(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_share_one_memory_pool_and_spill() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut options = options(dir.path());
    options.query_memory_bytes = 16 << 20;
    options.spill_dir = Some(dir.path().join("spill"));
    let store: Store = DeltaStore::open(options).expect("a store").into();
    let batches: Vec<_> = (0..120)
        .map(|batch| {
            charges(
                &(0..1000)
                    .map(|at| row(SEPTEMBER, "1", &format!("{batch} {at} {}", "x".repeat(100))))
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    store
        .write
        .replace_scope(delivery(&key("a", "b"), 1, batches[0].schema(), stream(batches)))
        .await
        .expect("a stored snapshot");
    let grouped =
        ask(&store, "SELECT count(*) FROM (SELECT servicename, sum(billedcost) FROM costs GROUP BY servicename)").await;
    assert_eq!(grouped, [["120000"]]);
    let sorted = ask(&store, "SELECT count(*) FROM (SELECT servicename, row_number() OVER (ORDER BY servicename) AS n FROM costs) WHERE n > 0").await;
    assert_eq!(sorted, [["120000"]]);
    let session = store.read.session(None).await.expect("a session").expect("an embedded store");
    let other = store.read.session(None).await.expect("a session").expect("an embedded store");
    assert!(Arc::ptr_eq(&session.runtime_env(), &other.runtime_env()));
}
