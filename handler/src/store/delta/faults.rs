//! The store in a bucket in memory: the conformance suite where there are no directories, and
//! what becomes of a commit whose answer is lost or is not to be relied upon.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio_util::sync::CancellationToken;

use super::{DeltaOptions, DeltaStore};
use crate::ident::{ColumnName, TableName};
use crate::store::conformance::edit::{count, create_counters};
use crate::store::conformance::{ask, charges, delivery, each_case, key, plain, replace, row, snapshot, stream};
use crate::store::{Committed, Store, Upsert};

const SEPTEMBER: &str = "2026-09-01T00:00:00Z";

/// A test of every case in a bucket.
macro_rules! bucket_tests {
    ([] $($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::store::conformance::$case(&open(&Bucket::new())).await;
            }
        )*
    };
}
each_case!(bucket_tests);

/// What becomes of a conditional put.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It is done, the answer is lost, and the client asks again: it is there already.
    DoneAndRefused,
    /// It is done, and nothing is heard of it.
    DoneAndSilent,
    /// It is not done, because something else is under way.
    Refused,
}

/// A bucket in memory, whose next conditional puts fail as told.
#[derive(Debug)]
struct Bucket {
    objects: InMemory,
    faults: Mutex<VecDeque<Fault>>,
}

impl Bucket {
    fn new() -> Arc<Self> {
        Arc::new(Self { objects: InMemory::new(), faults: Mutex::default() })
    }

    fn next_commits(&self, faults: &[Fault]) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
    }

    fn faults_left(&self) -> usize {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    async fn data_files(&self) -> usize {
        let files: Vec<_> = self.objects.list(None).try_collect().await.expect("a listing");
        files.iter().filter(|file| file.location.as_ref().ends_with(".parquet") && !is_log(&file.location)).count()
    }

    async fn commits(&self) -> usize {
        let files: Vec<_> = self.objects.list(None).try_collect().await.expect("a listing");
        files.iter().filter(|file| file.location.as_ref().ends_with(".json") && is_log(&file.location)).count()
    }
}

fn is_log(path: &Path) -> bool {
    path.as_ref().contains("/_delta_log/")
}

fn refused(path: &Path) -> Error {
    Error::AlreadyExists { path: path.to_string(), source: "412 Precondition Failed".into() }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, to: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = match options.mode {
            PutMode::Create => self.faults.lock().unwrap_or_else(PoisonError::into_inner).pop_front(),
            _ => None,
        };
        match fault {
            None => self.objects.put_opts(to, payload, options).await,
            Some(Fault::Refused) => Err(refused(to)),
            Some(fault) => {
                self.objects.put_opts(to, payload, options).await?;
                match fault {
                    Fault::DoneAndSilent => Err(Error::Generic { store: "bucket", source: "timed out".into() }),
                    _ => Err(refused(to)),
                }
            }
        }
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.objects.get_opts(from, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(paths)
    }

    fn list(&self, below: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(below)
    }

    async fn list_with_delimiter(&self, below: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(below).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

fn open(bucket: &Arc<Bucket>) -> Store {
    let options = DeltaOptions::at("s3://bucket/a/store".parse().expect("a place"));
    DeltaStore::over(bucket.clone(), options).expect("a store").into()
}

const UNSURE: [&[Fault]; 3] =
    [&[Fault::DoneAndRefused], &[Fault::Refused, Fault::Refused], &[Fault::Refused, Fault::DoneAndRefused]];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_whose_commit_was_answered_wrongly_is_there_once() {
    for faults in UNSURE {
        let bucket = Bucket::new();
        let store = open(&bucket);
        for number in 1..=3 {
            bucket.next_commits(faults);
            let rows = [row(SEPTEMBER, "1", "a"), row(SEPTEMBER, "2", "b")];
            let committed = replace(&store, &key("aws", "a.csv"), number, &rows).await;
            assert_eq!(committed, Committed { rows: 2, already: false, current: snapshot(number) }, "{faults:?}");
        }
        assert_eq!(bucket.faults_left(), 0);
        for store in [store, open(&bucket)] {
            let sums = ask(&store, "SELECT count(*), sum(billedcost) FROM costs").await;
            assert_eq!((sums[0][0].as_str(), plain(&sums[0][1]).as_str()), ("2", "3"), "{faults:?}");
        }
        assert_eq!((bucket.commits().await, bucket.data_files().await), (3, 3), "{faults:?}: three, and the past");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_whose_commit_was_never_answered_is_delivered_again_and_there_once() {
    let bucket = Bucket::new();
    let store = open(&bucket);
    let (key, batch) = (key("aws", "a.csv"), charges(&[row(SEPTEMBER, "1", "a")]));
    bucket.next_commits(&[Fault::DoneAndSilent]);
    let unsure = store.write.replace_scope(delivery(&key, 1, batch.schema(), stream(vec![batch.clone()]))).await;
    assert!(unsure.expect_err("nothing was heard").is_retryable());
    assert!(replace(&store, &key, 1, &[row(SEPTEMBER, "1", "a")]).await.already);
    assert_eq!(ask(&store, "SELECT count(*) FROM costs").await, [["1"]]);
    assert_eq!((bucket.commits().await, bucket.data_files().await), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_by_key_whose_commit_was_answered_wrongly_are_there_once() {
    for faults in UNSURE {
        let bucket = Bucket::new();
        let store = open(&bucket);
        for service in ["a", "b"] {
            bucket.next_commits(faults);
            let batch = charges(&[row(SEPTEMBER, "1", service)]);
            let upsert = Upsert {
                table: TableName::new("metrics").expect("a name"),
                key: vec![ColumnName::of("servicename")],
                schema: batch.schema(),
                batches: stream(vec![batch]),
            };
            store.write.upsert(upsert).await.expect("stored rows");
        }
        assert_eq!(bucket.faults_left(), 0);
        let rows = ask(&open(&bucket), "SELECT servicename FROM metrics ORDER BY 1").await;
        assert_eq!(rows, [["a"], ["b"]], "{faults:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_commit_was_answered_wrongly_is_made_once() {
    for faults in UNSURE {
        let bucket = Bucket::new();
        let store = open(&bucket);
        bucket.next_commits(faults);
        assert!(create_counters(&store).await);
        for _ in 0..2 {
            bucket.next_commits(faults);
            count(&store, 7).await.expect("stored");
        }
        assert_eq!(bucket.faults_left(), 0);
        assert_eq!(ask(&open(&bucket), "SELECT id, \"N\" FROM counters").await, [["7", "2"]], "{faults:?}");
        assert_eq!((bucket.commits().await, bucket.data_files().await), (3, 2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_commit_was_never_answered_is_there_with_its_files() {
    let bucket = Bucket::new();
    let store = open(&bucket);
    create_counters(&store).await;
    bucket.next_commits(&[Fault::DoneAndSilent]);
    count(&store, 7).await.expect_err("nobody answered");
    assert_eq!(ask(&store, "SELECT id, \"N\" FROM counters").await, [["7", "1"]]);
    count(&store, 7).await.expect("stored");
    assert_eq!(ask(&open(&bucket), "SELECT id, \"N\" FROM counters").await, [["7", "2"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_whose_commit_was_answered_wrongly_loses_no_row() {
    for faults in UNSURE {
        let bucket = Bucket::new();
        let store = open(&bucket);
        // Each period by turns: more partitions than files may be open, so that files are small.
        let months: Vec<String> = (1..=9).map(|month| format!("2025-0{month}-01T00:00:00Z")).collect();
        let months: Vec<&'static str> = months.into_iter().map(|month| &*month.leak()).collect();
        let batches: Vec<_> = (0..72).map(|number| charges(&[row(months[number % 9], "1", "a")])).collect();
        let schema = batches[0].schema();
        let stored = store.write.replace_scope(delivery(&key("aws", "a.csv"), 1, schema, stream(batches))).await;
        assert_eq!(stored.expect("a stored snapshot").rows, 72);
        assert_eq!(bucket.data_files().await, 72);
        bucket.next_commits(faults);
        store.write.maintain(CancellationToken::new()).await.expect("a round");
        assert_eq!(bucket.faults_left(), 0, "something was merged");
        assert_eq!(bucket.data_files().await, 72 + 9, "{faults:?}: the past, and the merged");
        assert_eq!(ask(&open(&bucket), "SELECT count(*) FROM costs").await, [["72"]]);
        let sum = ask(&open(&bucket), "SELECT sum(billedcost) FROM costs").await;
        assert_eq!(plain(&sum[0][0]), "72", "{faults:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_always_refuses_is_given_up_and_nothing_is_stored() {
    let bucket = Bucket::new();
    let store = open(&bucket);
    bucket.next_commits(&[Fault::Refused; 200]);
    let batch = charges(&[row(SEPTEMBER, "1", "a")]);
    let refused =
        store.write.replace_scope(delivery(&key("aws", "a.csv"), 1, batch.schema(), stream(vec![batch]))).await;
    let error = costream_common::report::one_line(&refused.expect_err("a bucket that refuses"));
    assert!(error.contains("commit to table costs") && error.contains("refused"), "{error}");
    assert_eq!(bucket.commits().await, 0);
    assert!(bucket.faults_left() > 0, "it gave up");
}
