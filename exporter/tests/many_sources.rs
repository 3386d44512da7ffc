//! Many sources, and sources with many reports, beside each other: how many are asked at once, and that none waits for
//! another that is slow or fails. The bucket is a server of ours that answers as S3 does (Amazon S3 API Reference,
//! `ListObjectsV2`, "Error responses").

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use costream_common::config;
use costream_common::report::one_line;
use costream_exporter::config::ExporterConfig;
use costream_exporter::{Exporter, PollOutcome};
use costream_tests::server::{Answer, Asked, Server};
use tempfile::TempDir;

const REPORT: &str = "BilledCost,BillingCurrency\n1.25,USD\n";
/// How long a server holds an answer back for others to come, at most.
const HELD_AT_MOST: Duration = Duration::from_secs(20);
const SECRET: &str = "verysecret";

/// Counts those that are being answered, and the most there were.
#[derive(Default)]
struct Crowd {
    now: AtomicUsize,
    most: AtomicUsize,
    changed: (Mutex<()>, Condvar),
}

impl Crowd {
    /// Answers; holds the answer back until so many have been there at once, or nobody else comes for a moment.
    fn answer(&self, others: usize, answer: impl FnOnce() -> Answer) -> Answer {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let (lock, changed) = &self.changed;
        changed.notify_all();
        let guard = lock.lock().expect("nobody panics");
        let is_alone = |_: &mut ()| self.most.load(Ordering::SeqCst) < others;
        drop(changed.wait_timeout_while(guard, HELD_AT_MOST, is_alone).expect("nobody panics"));
        let answer = answer();
        self.now.fetch_sub(1, Ordering::SeqCst);
        answer
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

async fn exporter(dir: &TempDir, keys: &str, sources: &str) -> Exporter {
    let text = format!("exporter:\n  spool_dir: {}/spool\n{keys}\n  sources:\n{sources}", dir.path().display());
    let config = config::parse::<config::File<ExporterConfig>>(&text, Path::new("costream.yaml"));
    Exporter::start(config.expect("a good section").exporter).await.expect("an exporter")
}

fn urls(server: &Server, n: usize, name: &str) -> String {
    (0..n).map(|at| format!("    - {{name: '{name}-{at}', url: '{}'}}\n", server.url(&format!("/{at}.csv")))).collect()
}

fn ensure_all_changed(outcomes: &[PollOutcome], n: usize) {
    let failed = outcomes.iter().find_map(|outcome| outcome.result.as_ref().err());
    assert_eq!(failed.map(|error| one_line(error)), None);
    assert_eq!(outcomes.iter().filter(|outcome| outcome.result.as_ref().is_ok_and(|polled| polled.changed)).count(), n);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_sources_are_polled_by_as_many_as_there_are_places() {
    let dir = tempfile::tempdir().expect("a folder");
    for (n, places, of_host, most) in [(50, 4, 9, 4), (500, 9, 3, 3)] {
        let crowd = Arc::new(Crowd::default());
        let server = Server::start(None, {
            let crowd = Arc::clone(&crowd);
            move |_| crowd.answer(most, || Answer::new(200, REPORT))
        });
        let server = server.expect("a server");
        let keys = format!("  concurrent_polls: {places}\n  concurrent_polls_per_host: {of_host}");
        let exporter = exporter(&dir, &keys, &urls(&server, n, "a")).await;
        ensure_all_changed(&exporter.poll_all().await, n);
        assert_eq!(crowd.most(), most, "{places} places, {of_host} of a host");
        let asked: BTreeSet<String> = server.asked().into_iter().map(|asked| asked.target).collect();
        assert_eq!((asked.len(), server.asked().len()), (n, n), "each was asked, and once");
        exporter.close().await;
        std::fs::remove_dir_all(dir.path().join("spool")).expect("the spool");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_answer_keeps_nobody_from_the_others() {
    let answered = Arc::new((Mutex::new(0_usize), Condvar::new()));
    let quick = Server::start(None, {
        let answered = Arc::clone(&answered);
        move |_| {
            *answered.0.lock().expect("nobody panics") += 1;
            answered.1.notify_all();
            Answer::new(200, REPORT)
        }
    });
    // Answers nobody before the other has answered everybody.
    let slow = Server::start(None, {
        let answered = Arc::clone(&answered);
        move |_| {
            let guard = answered.0.lock().expect("nobody panics");
            let waited = answered.1.wait_timeout_while(guard, HELD_AT_MOST, |n| *n < 100).expect("nobody panics");
            Answer::new(if waited.1.timed_out() { 500 } else { 200 }, REPORT)
        }
    });
    let (quick, slow) = (quick.expect("a server"), slow.expect("a server"));
    let dir = tempfile::tempdir().expect("a folder");
    let sources = urls(&slow, 100, "slow") + &urls(&quick, 100, "quick");
    let keys = "  retry_for: 0s\n  concurrent_polls: 3\n  concurrent_polls_per_host: 2";
    ensure_all_changed(&exporter(&dir, keys, &sources).await.poll_all().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_before_a_second_try_takes_no_place() {
    let tries = AtomicUsize::new(0);
    let server = Server::start(None, move |asked| {
        let is_first = asked.target == "/0.csv" && tries.fetch_add(1, Ordering::SeqCst) == 0;
        Answer::new(if is_first { 503 } else { 200 }, REPORT)
    });
    let server = server.expect("a server");
    let dir = tempfile::tempdir().expect("a folder");
    let exporter = exporter(&dir, "  concurrent_polls: 1", &urls(&server, 6, "a")).await;
    ensure_all_changed(&exporter.poll_all().await, 6);
    let asked: Vec<String> = server.asked().into_iter().map(|asked| asked.target).collect();
    assert_eq!((asked.len(), asked.last().map(String::as_str)), (7, Some("/0.csv")), "{asked:?}");
}

/// A bucket: what it has, and how it answers for it.
struct Bucket {
    objects: BTreeMap<String, String>,
    /// Keys in one page of a listing.
    page: usize,
}

const NAMES: &str = "2026-09-01T00:00:00.000Z";

impl Bucket {
    /// An AWS export of so many periods.
    fn of_periods(n: usize) -> Self {
        let mut objects = BTreeMap::new();
        for at in 0..n {
            let period = format!("{}-{:02}", 2018 + at / 12, at % 12 + 1);
            let file = format!("focus/data/BILLING_PERIOD={period}/focus-00001.csv");
            let manifest = format!("focus/metadata/BILLING_PERIOD={period}/focus-Manifest.json");
            objects.insert(manifest, format!("{{\"dataFiles\": [\"s3://costs/{file}\"]}}"));
            objects.insert(file, REPORT.to_owned());
        }
        Self { objects, page: 60 }
    }

    fn answer(&self, asked: &Asked) -> Answer {
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        let key = path.trim_start_matches("/costs").trim_start_matches('/').replace("%3D", "=");
        if key.is_empty() {
            return Answer::new(200, self.list(query));
        }
        match self.objects.get(&key) {
            Some(text) => Answer::new(200, text.as_str())
                .with("ETag", "\"tag\"")
                .with("Last-Modified", "Tue, 01 Sep 2026 00:00:00 GMT"),
            None => error(404, "NoSuchKey", "The specified key does not exist."),
        }
    }

    fn list(&self, query: &str) -> String {
        let after = query.split('&').find_map(|pair| pair.strip_prefix("continuation-token="));
        let start = after.and_then(|token| token.parse::<usize>().ok()).unwrap_or(0);
        let page = self.objects.iter().skip(start).take(self.page);
        let contents: String = page
            .map(|(key, text)| {
                format!("<Contents><Key>{key}</Key><LastModified>{NAMES}</LastModified><ETag>&quot;tag&quot;</ETag><Size>{}</Size></Contents>", text.len())
            })
            .collect();
        let next = start + self.page;
        let more = match next < self.objects.len() {
            true => format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{next}</NextContinuationToken>"),
            false => "<IsTruncated>false</IsTruncated>".to_owned(),
        };
        format!("<?xml version=\"1.0\"?><ListBucketResult><Name>costs</Name>{more}{contents}</ListBucketResult>")
    }
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    let request = format!("<CanonicalRequest>x-amz-security-token:{SECRET}</CanonicalRequest>");
    Answer::new(status, format!("<Error><Code>{code}</Code><Message>{message}</Message>{request}</Error>"))
}

fn of_bucket(server: &Server, dir: &TempDir) -> String {
    let secret = dir.path().join("secret");
    std::fs::write(&secret, SECRET).expect("written");
    format!(
        "    - name: aws
      url: s3://costs/
      object_store:
        AWS_ENDPOINT_URL: '{}'
        AWS_REGION: us-east-1
        AWS_ACCESS_KEY_ID: me
        AWS_SECRET_ACCESS_KEY: {{file: {secret}}}
        AWS_SESSION_TOKEN: {{file: {secret}}}
",
        server.url(""),
        secret = secret.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_periods_start_as_a_bounded_number_at_once() {
    let (bucket, crowd) = (Bucket::of_periods(100), Arc::new(Crowd::default()));
    let server = Server::start(None, {
        let crowd = Arc::clone(&crowd);
        move |asked| {
            let is_listing = !asked.target.contains("BILLING_PERIOD");
            crowd.answer(if is_listing { 0 } else { 3 }, || bucket.answer(asked))
        }
    });
    let (server, dir) = (server.expect("a server"), tempfile::tempdir().expect("a folder"));
    let keys = "  concurrent_polls: 5\n  concurrent_polls_per_host: 3";
    let exporter = exporter(&dir, keys, &of_bucket(&server, &dir)).await;
    ensure_all_changed(&exporter.poll_all().await, 100);
    assert_eq!(crowd.most(), 3);
    // Pages of 60 of 200 keys, and a manifest and a file for each period.
    assert_eq!(server.asked().len(), 4 + 200);
    let outcomes = exporter.poll_all().await;
    assert!(outcomes.len() == 100 && outcomes.iter().all(|outcome| outcome.result.as_ref().is_ok_and(|p| !p.changed)));
    assert_eq!(server.asked().len(), 4 + 200 + 4, "what is known is listed, and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_busy_is_asked_again_and_one_that_refuses_is_named() {
    let bucket = Bucket::of_periods(2);
    let (busy, refuses) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let server = Server::start(None, {
        let (busy, refuses) = (Arc::clone(&busy), Arc::clone(&refuses));
        move |asked| {
            if refuses.load(Ordering::SeqCst) > 0 {
                return error(400, "ExpiredToken", "The provided token has expired.");
            }
            match busy.fetch_add(1, Ordering::SeqCst) % 2 {
                0 => error(503, "SlowDown", "Please reduce your request rate."),
                _ => bucket.answer(asked),
            }
        }
    });
    let (server, dir) = (server.expect("a server"), tempfile::tempdir().expect("a folder"));
    let exporter = exporter(&dir, "  concurrent_polls: 1", &of_bucket(&server, &dir)).await;
    ensure_all_changed(&exporter.poll_all().await, 2);
    refuses.store(1, Ordering::SeqCst);
    let outcome = exporter.poll_all().await.pop().expect("one");
    let told = one_line(&outcome.result.expect_err("an expired token"));
    assert!(told.contains("s3://costs") && told.contains("ExpiredToken") && !told.contains(SECRET), "{told}");
    assert_eq!(exporter.snapshots().len(), 2, "what was there stays");
}
