use std::pin::Pin;
use std::task::{Context, Poll};

use std::sync::atomic::AtomicU64;

use costream_common::record::MAX_BATCH_BYTES;
use tokio::io::{AsyncRead, ReadBuf};

use super::*;
use crate::decode::chunk::N_READY_CHUNKS;

const HEADER: &[u8] = b"BilledCost,BillingCurrency,x_Note\n";
/// So many rows fill a batch by their number and by their bytes, about.
const ROW_BYTES: u64 = 1_000;
/// What the decoder hands over at a time, and its two buffers together at most.
const CHUNK_BYTES: u64 = 256 << 10;
/// Batches: those that wait, the one that is handed over and the one that is open. Chunks: those that wait, the one
/// that is filled and the one that is converted, and one for the buffers.
const AHEAD_BYTES: u64 =
    (N_READY_PIECES as u64 + 2) * MAX_BATCH_BYTES as u64 + (N_READY_CHUNKS as u64 + 3) * CHUNK_BYTES;

/// A report without an end, which counts what was read of it.
struct Endless {
    row: Vec<u8>,
    at: usize,
    read: Arc<AtomicU64>,
}

impl AsyncRead for Endless {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let n = to.remaining().min(self.row.len() - self.at);
        to.put_slice(&self.row[self.at..self.at + n]);
        self.at = (self.at + n) % self.row.len();
        self.read.fetch_add(n as u64, Ordering::SeqCst);
        Poll::Ready(Ok(()))
    }
}

#[test]
fn a_source_that_gives_nothing_is_asked_again_sooner_and_then_less_and_less_often() {
    let hours = Duration::from_secs(12 * 3600);
    let pauses = [0, 1, 2, 3, 4, 5, 6, u32::MAX].map(|failures| paced(hours, failures).as_secs());
    assert_eq!(pauses, [43_200, 60, 120, 240, 480, 900, 900, 900]);
    assert_eq!(paced(Duration::from_secs(5), 9), Duration::from_secs(5), "and never less often than it says");
}

// On one thread, a task that still had room to read would be run by the yields.
#[tokio::test(flavor = "current_thread")]
async fn a_slow_writer_is_the_pace_at_which_the_source_is_read() {
    let note = "x".repeat(usize::try_from(ROW_BYTES).expect("few") - b"1,EUR,\n".len());
    let (row, read) = (format!("1,EUR,{note}\n").into_bytes(), Arc::<AtomicU64>::default());
    assert_eq!(row.len() as u64, ROW_BYTES);
    let rows = Endless { row, at: 0, read: Arc::clone(&read) };
    let source = tokio::io::AsyncReadExt::chain(HEADER, rows);
    let parts = Parts::of_all(vec![(Box::new(source), "costs.csv".to_owned())]);
    let options = DecodeOptions::new("costs.csv");
    let mut assembly = Assembly::open(parts, options, None).await.expect("a report");
    let (pieces, mut received) = mpsc::channel(N_READY_PIECES);
    let handing = tokio::spawn(async move { hand_over(&mut assembly, &pieces, &Flight::default()).await });
    let mut written = 0;
    for _ in 0..30 {
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        let ahead = read.load(Ordering::SeqCst) - written * ROW_BYTES;
        assert!((1..AHEAD_BYTES).contains(&ahead), "{ahead} bytes are read ahead of {written} rows");
        match received.recv().await {
            Some(ToDisk::Piece(Piece::Batch(batch))) => written += batch.num_rows() as u64,
            _ => panic!("every row is good"),
        }
    }
    assert!(written * ROW_BYTES > 3 * AHEAD_BYTES, "enough was written to break the bound");
    drop(received);
    handing.await.expect("no panic").expect("a writer that has ended is no error of the report");
}

/// A source of usage that an inherited configuration's ProviderConfig asks for, every half day, and its folder of resources.
fn usage_of_a_provider() -> (tempfile::TempDir, Polls, Arc<Polling>) {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "kind: ExporterScraperConfig
metadata: {name: azure}
spec: {exporterConfig: {provider: {name: p}, url: 'http://127.0.0.1:1/', metricType: cost, pollingInterval: 12h}}
";
    let path = dir.path().join("config.yaml");
    std::fs::write(&path, config).expect("written");
    let resources = dir.path().join("resources");
    std::fs::create_dir(&resources).expect("a folder");
    let loaded = crate::inherited::Loaded::read(&path, Some(&resources)).expect("a configuration");
    let usage = loaded.exporter.sources.into_iter().nth(1).expect("the usage");
    let spool = Spool::open(
        &dir.path().join("spool"),
        None,
        crate::dimensions::Dimensions::none(),
        100,
        false,
        &BTreeSet::from([usage.name.clone()]),
    );
    let polls = Polls::new(
        spool.expect("a spool"),
        Telemetry::new(),
        Duration::ZERO,
        Limits::default(),
        CsvReader::default(),
        Places::new(1, 1),
    );
    let source = Source::new(usage, Duration::from_secs(60)).expect("a source");
    (dir, polls, Arc::new(Polling::new(source, &Arc::default()).expect("a source that can be asked")))
}

#[tokio::test]
async fn usage_is_asked_for_soon_once_what_it_waits_for_may_be_there() {
    let (dir, polls, polling) = usage_of_a_provider();
    let outcomes = polling.poll(&polls).await;
    let error = outcomes[0].result.as_ref().expect_err("no ProviderConfig");
    assert!(one_line(error).starts_with("ProviderConfig p: there is none in "), "{error}");
    assert_eq!(polling.pause(), FIRST_PAUSE);
    let tree = "kind: ProviderConfig\nmetadata: {name: p}\nspec: {resourcesRef: [{name: r}]}
---\nkind: ResourceConfig\nmetadata: {name: r}\nspec: {resourceFocusName: VM, metricsRef: [{name: m}]}
---\nkind: MetricConfig\nmetadata: {name: m}\nspec: {metricName: CPU, endpoint: {resourceSuffix: /m}}
";
    std::fs::write(dir.path().join("resources/tree.yaml"), tree).expect("written");
    // Now it waits for the report, and an interval of hours is no matter for that.
    let (polls, shutdown) = (Arc::new(polls), CancellationToken::new());
    *locked(&polling.next) = None;
    let keeping = tokio::spawn({
        let (polling, polls, shutdown) = (Arc::clone(&polling), Arc::clone(&polls), shutdown.clone());
        async move { polling.keep_polling(&polls, shutdown).await }
    });
    let waits = async {
        while !(Duration::from_secs(1)..=WAITS_FOR_COSTS).contains(&polling.wait()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waits).await.expect("it looks again in a few seconds");
    let failure = polling.status().failure.expect("a failure");
    assert!(failure.contains("no cost report of source azure has been read yet"), "{failure}");
    shutdown.cancel();
    keeping.await.expect("no panic");
}
