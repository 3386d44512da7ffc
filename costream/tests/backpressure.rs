//! Whoever is slow slows the source: a store that takes ten batches a second is the pace at which the
//! body of `/records` is read, in one process and over HTTP. At every moment what has left the
//! snapshot is what the store has taken, what the kernel has in its socket buffers, and a few
//! batches, whatever the size of the report.
//!
//! What a report's bytes wait for while it is polled, the exporter's own tests show (`poll`, `report`).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request};
use axum::http::header::ACCEPT_ENCODING;
use axum::middleware::{Next, from_fn};
use costream_common::http::door::{Door, Exposure};
use costream_common::http::serve;
use costream_common::record::{MAX_BATCH_BYTES, ScopeKey, SnapshotId};
use costream_exporter::Exporter;
use costream_exporter::config::ExporterConfig;
use costream_exporter::profile::ProfileName;
use costream_handler::Handler;
use costream_handler::auth::Caller;
use costream_handler::config::HandlerConfig;
use costream_handler::ident::TableName;
use costream_handler::ingest::Ingest;
use costream_handler::store::{Committed, Delivery, Store, StoreError, StoreWrite, Upsert, Upserted};
use costream_scraper::config::HandlerAccess;
use costream_scraper::{HttpSink, Scraper, ScraperConfig, Sink, TargetConfig};
use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use url::Url;

/// From one batch to the next: ten a second.
const PACE: Duration = Duration::from_millis(100);
const BATCHES: usize = 50;
/// So long a row makes batches of about [`MAX_BATCH_BYTES`].
const NOTE_BYTES: usize = 100_000;
const ROWS_PER_BATCH: usize = 20;
/// From the snapshot to the store's hand: a batch and its encoding in the exporter's chunk, what hyper has still
/// to write and what it has read, the message in the reader's hand, and the batch that is checked.
const HOP_BYTES: usize = 5 * MAX_BATCH_BYTES;
/// Anything takes less.
const SURE: Duration = Duration::from_secs(120);

/// A store that takes its time.
struct Throttled {
    store: Arc<dyn StoreWrite>,
    taken: Arc<AtomicUsize>,
}

impl StoreWrite for Throttled {
    fn replace_scope(&self, delivery: Delivery) -> BoxFuture<'_, Result<Committed, StoreError>> {
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let state = (delivery.batches, ticks, Arc::clone(&self.taken));
        let batches = stream::unfold(state, |(mut batches, mut ticks, taken)| async move {
            ticks.tick().await;
            let batch = batches.next().await?;
            taken.fetch_add(1, Ordering::SeqCst);
            Some((batch, (batches, ticks, taken)))
        });
        self.store.replace_scope(Delivery { batches: batches.boxed(), ..delivery })
    }

    fn upsert(&self, upsert: Upsert) -> BoxFuture<'_, Result<Upserted, StoreError>> {
        self.store.upsert(upsert)
    }

    fn committed<'a>(
        &'a self,
        table: &'a TableName,
        key: &'a ScopeKey,
    ) -> BoxFuture<'a, Result<Option<SnapshotId>, StoreError>> {
        self.store.committed(table, key)
    }

    fn maintain(&self, shutdown: CancellationToken) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.maintain(shutdown)
    }
}

/// How the scraper gets at the store.
#[derive(Clone, Copy)]
enum Way {
    InProcess,
    OverHttp,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_store_is_the_pace_at_which_records_are_read() {
    paced(Way::InProcess).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_store_behind_a_handler_is_the_pace_at_which_records_are_read() {
    paced(Way::OverHttp).await;
}

async fn paced(way: Way) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let report = dir.path().join("report.csv");
    write_report(&report);
    let given = [report.to_str().expect("a path").to_owned()];
    let config = ExporterConfig::for_run(&given, ProfileName::Strict, dir.path()).expect("a source");
    let exporter = Exporter::start(config).await.expect("an exporter");
    let polled = exporter.poll_all().await;
    assert!(polled.iter().all(|outcome| outcome.result.is_ok()), "{polled:?}");
    let sent = Arc::new(AtomicUsize::new(0));
    let exporter_url = served(counted(exporter.router(), Arc::clone(&sent))).await;

    let whole = reqwest::Client::builder().no_proxy().build().expect("a client").get(below(&exporter_url, "records"));
    let whole = whole.header("Accept", costream_exporter::ARROW).send().await.expect("an answer").bytes_stream();
    let body_bytes = whole.try_fold(0, async |sum, chunk| Ok(sum + chunk.len())).await.expect("the whole body");
    assert_eq!(sent.swap(0, Ordering::SeqCst), body_bytes, "every byte is counted");
    let batch_bytes = body_bytes / BATCHES;

    let taken = Arc::<AtomicUsize>::default();
    let config = HandlerConfig { data_dir: dir.path().to_owned(), ..HandlerConfig::default() };
    let handler = Handler::open(config.clone()).await.expect("a store");
    let throttled = Throttled { store: handler.store().write.clone(), taken: Arc::clone(&taken) };
    let (sink, hops, ports) = match way {
        Way::InProcess => (Sink::InProcess(Ingest::new(Arc::new(throttled))), 1, vec![exporter_url.port()]),
        Way::OverHttp => {
            let store = Store { write: Arc::new(throttled), ..handler.store().clone() };
            let url = served(Handler::over(config, store).router().layer(Extension(Caller::default()))).await;
            let ports = vec![exporter_url.port(), url.port()];
            let access = HandlerAccess { url, ..HandlerAccess::default() };
            (Sink::Http(HttpSink::new(&access).expect("a sink")), 2, ports)
        }
    };
    let targets = vec![TargetConfig::new(exporter_url)];
    let scraper = Scraper::new(ScraperConfig { targets, ..ScraperConfig::default() }, sink).expect("a scraper");

    let bound = hops * HOP_BYTES;
    assert!(3 * bound < body_bytes, "a body of {body_bytes} bytes cannot break the bound of {bound}");
    let began = Instant::now();
    let cycle = tokio::spawn(async move { scraper.cycle_once().await });
    let mut most_ahead = 0;
    while !cycle.is_finished() {
        // In this order: what moves on between two looks is counted twice, and never not at all.
        let sent = sent.load(Ordering::SeqCst);
        let in_sockets = in_sockets(&ports);
        let stored = taken.load(Ordering::SeqCst) * batch_bytes;
        let ahead = sent.saturating_sub(stored + in_sockets);
        assert!(
            ahead <= bound,
            "{sent} bytes have left the snapshot, {stored} are stored and {in_sockets} in sockets: {ahead} are held"
        );
        most_ahead = most_ahead.max(ahead);
        assert!(began.elapsed() < SURE, "{stored} of {body_bytes} bytes were stored in {SURE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let reports = cycle.await.expect("no panic");
    assert!(reports[0].is_complete(), "{reports:?}");
    assert_eq!((taken.load(Ordering::SeqCst), sent.load(Ordering::SeqCst)), (BATCHES, body_bytes));
    assert!(began.elapsed() >= PACE * u32::try_from(BATCHES - 1).expect("few"), "the store was throttled");
    assert!(most_ahead > 0, "something was under way");
    eprintln!("at most {most_ahead} bytes were held of {body_bytes}; the bound is {bound}");
    let committed: u64 = reports[0].deliveries.iter().flat_map(|delivery| &delivery.result).map(|it| it.stored).sum();
    assert_eq!(committed, (BATCHES * ROWS_PER_BATCH) as u64);
}

/// Rows of which [`ROWS_PER_BATCH`] fill a batch.
fn write_report(path: &Path) {
    use std::io::Write as _;
    let file = std::fs::File::create(path).expect("a file");
    let (mut file, note) = (std::io::BufWriter::new(file), "x".repeat(NOTE_BYTES));
    writeln!(file, "BilledCost,BillingCurrency,BillingPeriodStart,x_Note").expect("written");
    for row in 0..BATCHES * ROWS_PER_BATCH {
        // No two say the same: what is said twice is sent once.
        writeln!(file, "{row}.000000000000000001,EUR,2026-08-01T00:00:00Z,{row}{note}").expect("written");
    }
    file.flush().expect("written");
}

/// Counts the bytes of `/records` as they are asked of it, uncompressed.
fn counted(router: Router, sent: Arc<AtomicUsize>) -> Router {
    router.layer(from_fn(move |mut request: Request, next: Next| {
        let sent = Arc::clone(&sent);
        async move {
            let is_counted = request.uri().path() == "/records";
            request.headers_mut().remove(ACCEPT_ENCODING);
            let response = next.run(request).await;
            response.map(|body| match is_counted {
                true => Body::from_stream(body.into_data_stream().inspect_ok(move |chunk| {
                    sent.fetch_add(chunk.len(), Ordering::SeqCst);
                })),
                false => body,
            })
        }
    }))
}

/// Serves as the programs do.
async fn served(router: Router) -> Url {
    let listener = Door::default().bind("127.0.0.1:0", None, Exposure::LoopbackOnly).await.expect("an address");
    let url = listener.url().parse().expect("a URL");
    tokio::spawn(serve::serve(listener, router, CancellationToken::new()));
    url
}

fn below(url: &Url, path: &str) -> Url {
    url.join(path).expect("a URL")
}

/// What the kernel holds for the connections of these ports, sent and not read: nobody's memory but its own, and
/// bounded by it (`net.ipv4.tcp_wmem`, `tcp_rmem`).
fn in_sockets(ports: &[Option<u16>]) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the connections");
    let number = |hex: &str| usize::from_str_radix(hex, 16).ok();
    let queued = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (near, far, queues) = (words.next()?, words.next()?, words.nth(1)?);
        let is_ours = [near, far].iter().any(|end| {
            let port = end.split_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
            port.is_some() && ports.contains(&port)
        });
        let (sent, received) = queues.split_once(':')?;
        is_ours.then_some(number(sent)? + number(received)?)
    });
    queued.sum()
}
