//! Many readers at once, a quarter of whom read no further than the head: the others are served whole and
//! exact, and the exporter holds for each no more than a few buffers, however large the body.
//!
//! That a reader who stalls is let go after a minute is shown where the minute is a second: in the unit
//! tests of `costream_common::http::stall`.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bigdecimal::BigDecimal;
use costream_tests::programs::{Program, client, get, run, runtime, until};
use costream_tests::report;
use reqwest::Response;
use tokio::sync::Barrier;

const ARROW: &str = "application/vnd.apache.arrow.stream";
const TEXT: &str = "text/plain";
/// Readers: how many, of what, in which form.
const SERVED: [(usize, &str, &str); 3] =
    [(40, "/metrics", TEXT), (30, "/records?source=large", ARROW), (80, "/records?source=small", TEXT)];
const STALLED: [(usize, &str, &str); 2] = [(38, "/records?source=large", ARROW), (12, "/records?source=large", TEXT)];
/// What the exporter holds for a reader of rows: what hyper has read and has to write (`MAX_BUFFER_BYTES` each), the
/// chunk in hand (`CHUNK_BYTES`), a batch (`MAX_BATCH_BYTES`) and its encoding.
const READER_BYTES: u64 = 2 * (128 << 10) + (256 << 10) + 2 * (2 << 20);
/// Longer than it takes on a loaded machine.
const SURE: Duration = Duration::from_secs(300);

#[test]
fn readers_that_stall_cost_a_few_buffers_and_hold_up_nobody() -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    for (name, rows) in [("large", "50000"), ("small", "200")] {
        let out = format!("{name}.csv");
        let arguments = ["generate", "--rows", rows, "--seed", "5", "--profile", "aws", "--out", &out];
        let (status, _, errors) = run("costream", folder.path(), &arguments)?;
        ensure!(status == Some(0), "generate ended with {status:?}: {errors}");
    }
    let config = "exporter:\n  listen_address: 127.0.0.1:0\n  spool_dir: spool\n  poll_interval: 1h\n  sources:\n    - {name: large, path: large.csv}\n    - {name: small, path: small.csv}\n";
    fs::write(folder.path().join("costream.yaml"), config).context("write the configuration")?;
    let mut exporter = Program::start("costream-exporter", folder.path(), &["--config.file", "costream.yaml"])?;
    let url = exporter.word_after("listening on ")?;
    until("both reports are served", || {
        let metrics = get(&format!("{url}/metrics"))?;
        let shows = |(_, text): &(u16, String)| {
            ["large", "small"]
                .iter()
                .all(|name| bill(text).iter().any(|line| line.contains(&format!("source=\"{name}\""))))
        };
        Ok(metrics.filter(shows))
    })?;

    let alone = runtime().block_on(async {
        let mut bodies = BTreeMap::new();
        for (_, path, form) in SERVED {
            let body = asked(&url, path, form).await?.bytes().await.context("read a body")?;
            bodies.insert(path, Arc::new(body.to_vec()));
        }
        anyhow::Ok(bodies)
    })?;
    let small = sums_of_text(std::str::from_utf8(&alone["/records?source=small"]).context("text")?)?;
    let mut expected = BTreeMap::<String, BigDecimal>::new();
    for ((_, currency), sums) in report::sums(&folder.path().join("small.csv"))? {
        *expected.entry(currency).or_default() += &sums.costs[0];
    }
    ensure!(small == expected, "{small:?} are the sums of {expected:?}");
    let large = alone["/records?source=large"].len() as u64;
    ensure!(large > 3 * sent_at_most()?, "a body of {large} bytes fits the sockets' buffers");

    let before = resident(exporter.id())?;
    let (height, ended) = (AtomicU64::new(before), AtomicBool::new(false));
    let crowd = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                height.fetch_max(resident(exporter.id()).unwrap_or_default(), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let crowd = runtime().block_on(async { tokio::time::timeout(SURE, crowd(&url, &alone)).await });
        ended.store(true, Ordering::SeqCst);
        crowd
    });
    crowd.with_context(|| format!("the readers were not served in {SURE:?}"))??;
    let (readers, held) = (n_readers() as u64, height.into_inner().saturating_sub(before));
    println!("{} MiB before, {} MiB more for {readers} readers", before >> 20, held >> 20);
    ensure!(held < readers * READER_BYTES, "{readers} readers took {held} bytes, {READER_BYTES} each are the most");
    ensure!(readers * READER_BYTES < readers * large / 4, "the bound is below what the bodies would take");
    let status = exporter.terminate()?;
    ensure!(status.success(), "the exporter ended with {status}");
    Ok(())
}

fn n_readers() -> usize {
    SERVED.iter().chain(&STALLED).map(|(readers, ..)| readers).sum()
}

/// Everybody has the head before anybody reads on; the stalled ones let go when all others are served.
async fn crowd(url: &str, alone: &BTreeMap<&str, Arc<Vec<u8>>>) -> Result<()> {
    let begin = Arc::new(Barrier::new(n_readers()));
    let mut reading = tokio::task::JoinSet::new();
    let mut stalled = tokio::task::JoinSet::new();
    for (readers, path, form) in STALLED {
        for _ in 0..readers {
            let (url, begin) = (url.to_owned(), Arc::clone(&begin));
            stalled.spawn(async move {
                let response = asked(&url, path, form).await?;
                begin.wait().await;
                anyhow::Ok(response)
            });
        }
    }
    for (readers, path, form) in SERVED {
        for _ in 0..readers {
            let (url, begin, alone) = (url.to_owned(), Arc::clone(&begin), Arc::clone(&alone[path]));
            reading.spawn(async move {
                let response = asked(&url, path, form).await?;
                begin.wait().await;
                same(response, path, &alone).await.with_context(|| format!("{path} as {form}"))
            });
        }
    }
    let mut held = Vec::new();
    while let Some(response) = stalled.join_next().await {
        held.push(response.context("a stalled reader")??);
    }
    while let Some(read) = reading.join_next().await {
        read.context("a reader")??;
    }
    drop(held);
    Ok(())
}

async fn asked(url: &str, path: &str, form: &str) -> Result<Response> {
    let response = client().get(format!("{url}{path}")).header("Accept", form).send().await.context("ask")?;
    ensure!(response.status().is_success(), "{path}: {}", response.status());
    Ok(response)
}

/// A body is the one that was read when nobody else did: of `/metrics` the bill, which is not about the process.
async fn same(mut response: Response, path: &str, alone: &[u8]) -> Result<()> {
    if path == "/metrics" {
        let body = response.bytes().await.context("read")?;
        let (body, alone) = (std::str::from_utf8(&body).context("text")?, std::str::from_utf8(alone).context("text")?);
        ensure!(bill(body) == bill(alone) && !bill(alone).is_empty(), "the bill is another");
        return Ok(());
    }
    let mut left = alone;
    while let Some(chunk) = response.chunk().await.context("read")? {
        match left.strip_prefix(&*chunk) {
            Some(rest) => left = rest,
            None => bail!("it differs within {} bytes after {}", chunk.len(), alone.len() - left.len()),
        }
    }
    ensure!(left.is_empty(), "it ends {} bytes early", left.len());
    Ok(())
}

fn bill(metrics: &str) -> Vec<&str> {
    metrics.lines().filter(|line| line.contains("_cost{") || line.starts_with("costream_charges{")).collect()
}

/// The exact sums of the rows by currency.
fn sums_of_text(text: &str) -> Result<BTreeMap<String, BigDecimal>> {
    let mut sums = BTreeMap::<String, BigDecimal>::new();
    for line in text.lines().filter(|line| line.starts_with("billed_cost{")) {
        let label = |name: &str| line.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        let (currency, _) = label("BillingCurrency").context("a currency")?;
        let (billed, _) = label("BilledCost").context("a billed cost")?;
        *sums.entry(currency.to_owned()).or_default() += billed.parse::<BigDecimal>().context("read an amount")?;
    }
    Ok(sums)
}

/// The memory that is a process's own, in bytes.
fn resident(id: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).context("ask for its memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("its memory")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("read its memory")?;
    Ok(kib << 10)
}

/// What the kernel takes of a body at most before anybody reads it.
fn sent_at_most() -> Result<u64> {
    let bounds = fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").context("read the kernel's bounds")?;
    bounds.split_whitespace().last().context("a bound")?.parse().context("read a bound")
}
