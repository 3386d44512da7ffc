//! Providers' exports, as they lie in buckets (moto's S3, Azurite, fake-gcs-server) and in directories that they were copied to: written
//! over, kept in versions, restated, half-written, and not as their manifests say.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use arrow::array::{ArrayRef, Decimal128Array, RecordBatch, StringArray};
use arrow::ipc::reader::StreamReader;
use arrow::util::display::array_value_to_string;
use axum::body::Body;
use axum::http::Request;
use costream_common::cloud::Cloud;
use costream_common::config;
use costream_common::report::one_line;
use costream_exporter::config::ExporterConfig;
use costream_exporter::{ARROW, Exporter};
use costream_tests::clouds::{self, azurite, fake_gcs, moto};
use costream_tests::parts::Suite;
use http_body_util::BodyExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::ArrowWriter;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tower::ServiceExt as _;
use url::Url;

type Claim = fn(House) -> Result<()>;

const AWS_CLAIMS: [(&str, Claim); 5] = [
    ("is_what_its_manifests_name", aws_overwritten),
    ("in_versions_is_the_newest", aws_versioned),
    ("with_a_missing_file_keeps_what_was_there", aws_missing_file),
    ("with_odd_manifests_says_so", aws_odd_manifests),
    ("as_plain_objects_is_known_again", plain_objects),
];
const AZURE_CLAIMS: [(&str, Claim); 5] = [
    ("is_what_its_newest_run_names", azure_runs),
    ("may_be_of_parquet", azure_of_parquet),
    ("that_is_not_as_its_manifest_says_keeps_what_was_there", azure_not_as_said),
    ("of_other_costs_is_refused", azure_of_prices),
    ("as_plain_objects_is_known_again", plain_objects),
];

const GCP_FOLDER: &str = "focus/billing_period=2026-09";

fn main() -> ExitCode {
    let mut suite = Suite::new().at_once(2);
    for (cloud, claims, part) in
        [("aws", &AWS_CLAIMS[..], moto as fn() -> Result<clouds::Part>), ("azure", &AZURE_CLAIMS[..], azurite)]
    {
        for (name, claim) in claims.iter().copied() {
            suite = suite
                .claim(&format!("{cloud}_in_a_directory_{name}"), move || House::in_directory().and_then(claim))
                .claim_with(&format!("{cloud}_in_a_bucket_{name}"), part(), move |part| {
                    House::in_cloud(&part).and_then(claim)
                });
        }
    }
    suite
        .claim_with("aws_in_a_bucket_that_is_being_written_over_is_left_alone", moto(), |part| {
            House::in_cloud(&part).and_then(aws_being_written)
        })
        .claim_with("a_bucket_that_is_not_there_is_named_without_its_secret", moto(), |part| {
            House::in_cloud(&part).and_then(nowhere)
        })
        .claim_with("gcp_in_a_bucket_as_plain_objects_is_known_again", fake_gcs(), |part| {
            House::in_cloud(&part).and_then(plain_objects)
        })
        .claim_with("gcp_in_a_bucket_is_left_alone_until_it_has_settled", fake_gcs(), |part| {
            House::in_cloud(&part).and_then(|house| gcp_being_written(&house).map(drop))
        })
        .claim("gcp_in_a_directory_is_a_report_a_folder_once_it_has_settled", || House::in_directory().and_then(gcp))
        .claim("oci_in_a_directory_is_a_report_a_file", || House::in_directory().and_then(oci))
        .run()
}

/// A place with exports in it, and an exporter's spool beside it.
struct House {
    dir: TempDir,
    /// What is read: `s3://costs`, or a directory.
    root: String,
    store: Arc<dyn ObjectStore>,
    settings: String,
    secret: &'static str,
    runtime: tokio::runtime::Runtime,
    cloud: Option<clouds::Cloud>,
}

impl House {
    fn in_directory() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let root = dir.path().join("exports");
        std::fs::create_dir(&root)?;
        let store = Arc::new(LocalFileSystem::new_with_prefix(&root)?);
        let root = root.to_str().context("text")?.to_owned();
        let runtime = tokio::runtime::Runtime::new()?;
        Ok(Self { dir, root, store, settings: String::new(), secret: "verysecret", runtime, cloud: None })
    }

    fn in_cloud(part: &clouds::Part) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let cloud = part.start(dir.path())?;
        let url = Url::parse(&cloud.bucket)?;
        let kind = Cloud::of_scheme(url.scheme()).context("a cloud")?;
        let store = kind.connect(&url, cloud.variables.clone())?;
        let secret_file = dir.path().join("secret");
        std::fs::write(&secret_file, cloud.secret)?;
        let mut settings = "      object_store:\n".to_owned();
        for (name, value) in &cloud.variables {
            let value = match value == cloud.secret {
                true => format!("{{file: {}}}", secret_file.display()),
                false => format!("'{value}'"),
            };
            settings.push_str(&format!("        {name}: {value}\n"));
        }
        let (root, secret) = (cloud.bucket.clone(), cloud.secret);
        let runtime = tokio::runtime::Runtime::new()?;
        Ok(Self { dir, root, store, settings, secret, runtime, cloud: Some(cloud) })
    }

    fn is_local(&self) -> bool {
        self.settings.is_empty()
    }

    fn put(&self, path: &str, text: impl Into<Vec<u8>>) -> Result<()> {
        // fake-gcs-server takes no objects as the crate puts them, which is the XML API's way.
        if let Some(cloud) = self.cloud.as_ref().filter(|cloud| cloud.bucket.starts_with("gs:")) {
            return cloud.put(path, text.into());
        }
        self.runtime.block_on(self.store.put(&ObjectPath::parse(path)?, text.into().into()))?;
        Ok(())
    }

    fn delete(&self, path: &str) -> Result<()> {
        Ok(self.runtime.block_on(self.store.delete(&ObjectPath::parse(path)?))?)
    }

    /// An exporter of one source below the root, on the spool that is there.
    fn exporter(&self, below: &str, keys: &str) -> Result<Served<'_>> {
        let key = if self.is_local() { "path" } else { "url" };
        let text = format!(
            "exporter:\n  spool_dir: {}\n  retry_for: 1s\n  sources:\n    - name: bills\n      {key}: '{}/{below}'\n{}{keys}",
            self.dir.path().join("spool").display(),
            self.root,
            self.settings
        );
        let config = config::parse::<config::File<ExporterConfig>>(&text, Path::new("costream.yaml"))?;
        let exporter = self.runtime.block_on(Exporter::start(config.exporter))?;
        Ok(Served { house: self, exporter })
    }
}

/// How a poll of a scope went: changed, unchanged, or an error.
type Went = (String, String);

struct Served<'a> {
    house: &'a House,
    exporter: Exporter,
}

impl Served<'_> {
    /// Polls once; scope by scope, how it went.
    fn poll(&self) -> Vec<Went> {
        let outcomes = self.house.runtime.block_on(self.exporter.poll_all());
        let went = outcomes.into_iter().map(|outcome| {
            let scope = outcome.scope.map(|scope| scope.to_string()).unwrap_or_default();
            let how = match outcome.result {
                Ok(polled) if polled.changed => "changed".to_owned(),
                Ok(polled) => format!("unchanged, {} bytes read", polled.read_bytes),
                Err(error) => one_line(&error),
            };
            assert!(!how.contains(self.house.secret), "a secret is told");
            (scope, how)
        });
        went.collect()
    }

    /// What is served: scope, rows, rejects and sum, in a line each.
    fn served(&self) -> Vec<String> {
        let line = |snapshot: costream_common::record::Snapshot| {
            let totals = &snapshot.totals;
            let sums: Vec<String> = totals.groups().map(|(_, sums)| sums.billed.to_string()).collect();
            format!("{} {} {} {}", snapshot.key.scope, totals.rows(), snapshot.rejected, sums.join("+"))
        };
        self.exporter.snapshots().into_iter().map(line).collect()
    }

    /// The files and rows of what was rejected.
    fn rejects(&self) -> Result<Vec<String>> {
        let request = Request::get("/rejects").header("accept", ARROW).body(Body::empty())?;
        let body = self.house.runtime.block_on(async {
            let answer = self.exporter.router().oneshot(request).await?;
            Ok::<_, anyhow::Error>(answer.into_body().collect().await?.to_bytes())
        })?;
        let mut cells = Vec::new();
        for batch in StreamReader::try_new(&body[..], None)? {
            let batch = batch?;
            for row in 0..batch.num_rows() {
                let cell = |name: &str| {
                    array_value_to_string(batch.column_by_name(name).context("a column")?, row).context("a value")
                };
                cells.push(format!("{} {}", cell("file")?, cell("row")?));
            }
        }
        Ok(cells)
    }
}

fn went(scope: &str, how: &str) -> Went {
    (scope.to_owned(), how.to_owned())
}

/// Amounts of the rows of a file, with or without another column.
fn csv(amounts: &[&str], note: bool) -> String {
    let (head, tail) = if note { (",x_Note", ",n") } else { ("", "") };
    let rows: String = amounts.iter().map(|amount| format!("{amount},USD,2026-09-01T00:00:00Z{tail}\n")).collect();
    format!("BilledCost,BillingCurrency,BillingPeriodStart{head}\n{rows}")
}

fn ensure_eq<T: PartialEq + std::fmt::Debug>(is: T, should_be: T) -> Result<()> {
    ensure!(is == should_be, "{is:#?} is not {should_be:#?}");
    Ok(())
}

// -- AWS

const AWS: &str = "exports/focus";

fn aws_data(period: &str, version: &str, part: u8) -> String {
    format!("{AWS}/data/BILLING_PERIOD={period}/{version}focus-{part:05}.csv")
}

fn aws_manifest(period: &str, version: &str) -> String {
    format!("{AWS}/metadata/BILLING_PERIOD={period}/{version}focus-Manifest.json")
}

/// The manifest of an execution, as the reference shows it.
fn aws_names(files: &[String]) -> String {
    let uris: Vec<String> = files.iter().map(|file| format!("s3://the-providers-own/{file}")).collect();
    json!({
        "executionId": "1f6d1a9e", "exportArn": "arn:aws:bcm-data-exports:us-east-1:111122223333:export/focus",
        "columns": [{"name": "BilledCost", "type": "double"}], "dataFiles": uris, "additionalOutputFiles": [],
    })
    .to_string()
}

fn aws_write(house: &House, period: &str, version: &str, parts: &[String]) -> Result<()> {
    let mut files = Vec::new();
    for (at, part) in (1..).zip(parts) {
        files.push(aws_data(period, version, at));
        house.put(&files[files.len() - 1], part.as_str())?;
    }
    house.put(&aws_manifest(period, version), aws_names(&files))
}

fn aws_overwritten(house: House) -> Result<()> {
    aws_write(&house, "2026-08", "", &[csv(&["1"], false)])?;
    aws_write(&house, "2026-09", "", &[csv(&["1", "oops", "2"], false), csv(&["oops", "4"], true)])?;
    let served = house.exporter("exports/", "")?;
    let all = [went("focus/2026-08", "changed"), went("focus/2026-09", "changed")];
    ensure_eq(served.poll(), all.to_vec())?;
    ensure_eq(served.served(), vec!["focus/2026-08 1 0 1".to_owned(), "focus/2026-09 3 2 7".to_owned()])?;
    let file = |part| format!("{}/{}", house.root, aws_data("2026-09", "", part));
    ensure_eq(served.rejects()?, vec![format!("{} 2", file(1)), format!("{} 1", file(2))])?;

    // What has not changed is not read again; by its names and times alone, a moment after it was written, where
    // nothing vouches for its bytes.
    if !house.is_local() {
        let same = "unchanged, 0 bytes read";
        ensure_eq(served.poll(), vec![went("focus/2026-08", same), went("focus/2026-09", same)])?;
    }

    // September is restated in one file: the rows that it does not have are gone.
    aws_write(&house, "2026-09", "", &[csv(&["2", "9"], true)])?;
    let polled = served.poll();
    ensure!(polled[0].1.starts_with("unchanged") && polled[1].1 == "changed", "{polled:?}");
    ensure_eq(served.served()[1].as_str(), "focus/2026-09 2 0 11")?;

    // The spool knows it again after a restart, and a period that is gone keeps its rows.
    drop(served);
    house.delete(&aws_manifest("2026-08", ""))?;
    let served = house.exporter("exports/", "      layout: aws\n")?;
    let polled = served.poll();
    ensure!(polled.len() == 1 && polled[0].1.starts_with("unchanged"), "{polled:?}");
    ensure_eq(served.served().len(), 2)
}

fn aws_versioned(house: House) -> Result<()> {
    let (first, second) = ("2026-09-10T03:00:00.000Z-aaaa/", "2026-09-11T03:00:00.000Z-bbbb/");
    aws_write(&house, "2026-09", first, &[csv(&["1", "2"], false)])?;
    let served = house.exporter("exports/", "")?;
    ensure_eq(served.poll(), vec![went("focus/2026-09", "changed")])?;
    aws_write(&house, "2026-09", second, &[csv(&["3"], false)])?;
    // Half of a third version: it has no manifest yet.
    house.put(&aws_data("2026-09", "2026-09-12T03:00:00.000Z-cccc/", 1), csv(&["100"], false))?;
    ensure_eq(served.poll(), vec![went("focus/2026-09", "changed")])?;
    ensure_eq(served.served(), vec!["focus/2026-09 1 0 3".to_owned()])?;
    // Where there is a manifest above the versions, it decides.
    house.put(&aws_manifest("2026-09", ""), aws_names(&[aws_data("2026-09", first, 1)]))?;
    ensure_eq(served.poll(), vec![went("focus/2026-09", "changed")])?;
    ensure_eq(served.served(), vec!["focus/2026-09 2 0 3".to_owned()])
}

fn aws_missing_file(house: House) -> Result<()> {
    aws_write(&house, "2026-08", "", &[csv(&["1"], false)])?;
    aws_write(&house, "2026-09", "", &[csv(&["1"], false), csv(&["2"], false)])?;
    let served = house.exporter("exports/", "")?;
    ensure_eq(served.poll().len(), 2)?;
    aws_write(&house, "2026-08", "", &[csv(&["8"], false)])?;
    house.delete(&aws_data("2026-09", "", 2))?;
    let polled = served.poll();
    let shown = |path: &str| format!("{}/{path}", house.root);
    let (manifest, file) = (shown(&aws_manifest("2026-09", "")), shown(&aws_data("2026-09", "", 2)));
    ensure_eq(polled[0].1.as_str(), "changed")?;
    ensure_eq(polled[1].1.clone(), format!("manifest {manifest} names {file}, which is not there"))?;
    ensure_eq(served.served(), vec!["focus/2026-08 1 0 8".to_owned(), "focus/2026-09 2 0 3".to_owned()])
}

fn aws_odd_manifests(house: House) -> Result<()> {
    for (period, manifest) in [
        ("2026-01", "{\"reportKeys\": []}".to_owned()),
        ("2026-02", "{\"dataFiles\": [".to_owned()),
        ("2026-03", "<html>".to_owned()),
        ("2026-04", aws_names(&[])),
        ("2026-05", aws_names(&["elsewhere/focus-00001.csv".to_owned()])),
    ] {
        house.put(&aws_manifest(period, ""), manifest)?;
    }
    aws_write(&house, "2026-06", "", &[csv(&["1"], false)])?;
    let polled = house.exporter("exports/", "")?.poll();
    for ((scope, how), says) in polled.iter().zip(["dataFiles", "EOF", "expected value", "names no file", "elsewhere"])
    {
        ensure!(how.contains("focus-Manifest.json") && how.contains(says), "{scope}: {how}");
    }
    ensure_eq(polled[5].clone(), went("focus/2026-06", "changed"))
}

fn aws_being_written(house: House) -> Result<()> {
    aws_write(&house, "2026-09", "", &[csv(&["1"], false), csv(&["2"], false)])?;
    let served = house.exporter("exports/", "")?;
    ensure_eq(served.poll(), vec![went("focus/2026-09", "changed")])?;
    // The next export has written its first file; S3 tells times by the second.
    newer(&house, &aws_data("2026-09", "", 1), &csv(&["10"], false), &aws_manifest("2026-09", ""))?;
    ensure_eq(served.poll(), vec![went("focus/2026-09", "unchanged, 0 bytes read")])?;
    ensure_eq(served.served(), vec!["focus/2026-09 2 0 3".to_owned()])?;
    aws_write(&house, "2026-09", "", &[csv(&["10"], false), csv(&["20"], false)])?;
    ensure_eq(served.poll(), vec![went("focus/2026-09", "changed")])?;
    ensure_eq(served.served(), vec!["focus/2026-09 2 0 30".to_owned()])?;
    // What was never whole is no report.
    aws_write(&house, "2026-10", "", &[csv(&["1"], false)])?;
    newer(&house, &aws_data("2026-10", "", 1), &csv(&["2"], false), &aws_manifest("2026-10", ""))?;
    let polled = served.poll();
    ensure!(polled[1].1.ends_with("is still being written"), "{polled:?}");
    Ok(())
}

/// Writes an object until its time is later than another's.
fn newer(house: &House, path: &str, text: &str, than: &str) -> Result<()> {
    let modified = |path: &str| {
        let path = ObjectPath::parse(path)?;
        Ok::<_, anyhow::Error>(house.runtime.block_on(house.store.head(&path))?.last_modified)
    };
    let (than, began) = (modified(than)?, Instant::now());
    loop {
        house.put(path, text)?;
        if modified(path)? > than {
            return Ok(());
        }
        ensure!(began.elapsed() < Duration::from_secs(20), "time stands still");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn nowhere(house: House) -> Result<()> {
    let house = House { root: "s3://nowhere".to_owned(), ..house };
    let polled = house.exporter("exports/", "")?.poll();
    ensure!(polled.len() == 1 && polled[0].0.is_empty() && polled[0].1.contains("NoSuchBucket"), "{polled:?}");
    Ok(())
}

// -- Azure

const AZURE: &str = "daily/20260901-20260930";

/// Writes a run as the documentation shows one; `told` are the rows that its manifest says.
fn azure_run(house: &House, run: &str, submitted: &str, parts: &[&str], told: &[u64]) -> Result<()> {
    let parts = parts.iter().map(|part| part.as_bytes().to_vec()).collect();
    azure_write(house, run, submitted, parts, told, "None")
}

/// The same, compressed: its bytes are not those that its manifest counts.
fn azure_gzip_run(house: &House, run: &str, submitted: &str, parts: &[&str], told: &[u64]) -> Result<()> {
    let gzip = async |part: &&str| {
        let mut packed = async_compression::tokio::write::GzipEncoder::new(Vec::new());
        packed.write_all(part.as_bytes()).await?;
        packed.shutdown().await?;
        Ok::<_, anyhow::Error>(packed.into_inner())
    };
    let parts = parts.iter().map(|part| house.runtime.block_on(gzip(part))).collect::<Result<_>>()?;
    azure_write(house, run, submitted, parts, told, "Gzip")
}

fn azure_write(
    house: &House,
    run: &str,
    submitted: &str,
    parts: Vec<Vec<u8>>,
    told: &[u64],
    compression: &str,
) -> Result<()> {
    let mut blobs = Vec::new();
    for (at, (part, rows)) in parts.into_iter().zip(told).enumerate() {
        let (suffix, bytes) = match compression {
            "None" => (".csv", part.len()),
            "Gzip" => (".csv.gz", part.len() * 9),
            _ => (".snappy.parquet", part.len() * 9),
        };
        let name = format!("{AZURE}/{run}/part_{at}_0001{suffix}");
        house.put(&name, part)?;
        blobs.push(json!({"blobName": format!("root/{name}"), "byteCount": bytes, "dataRowCount": rows}));
    }
    let manifest = azure_manifest("FocusCost", submitted, compression, json!(blobs));
    house.put(&format!("{AZURE}/{run}/manifest.json"), manifest)
}

fn azure_manifest(kind: &str, submitted: &str, compression: &str, blobs: serde_json::Value) -> String {
    json!({
        "manifestVersion": "2024-04-01",
        "exportConfig": {"exportName": "daily", "dataVersion": "1.0", "type": kind, "timeFrame": "MonthToDate"},
        "deliveryConfig": {"partitionData": true, "dataOverwriteBehavior": "CreateNewReport", "fileFormat": "Csv", "compressionMode": compression},
        "runInfo": {"submittedTime": submitted, "runId": "x", "startDate": "2026-09-01T00:00:00", "endDate": "2026-09-30T00:00:00Z"},
        "blobs": blobs,
    })
    .to_string()
}

fn azure_runs(house: House) -> Result<()> {
    // Their folders' names say nothing of their order.
    let (first, second) = (csv(&["1", "2"], false), csv(&["4", "5"], true));
    azure_run(&house, "202609100300/ffff", "2026-09-10T03:00:06.5234447Z", &[&first, &second], &[2, 2])?;
    let served = house.exporter("", "")?;
    ensure_eq(served.poll(), vec![went(AZURE, "changed")])?;
    ensure_eq(served.served(), vec![format!("{AZURE} 4 0 12")])?;
    let restated = csv(&["1", "3"], false);
    azure_gzip_run(&house, "202609110300/aaaa", "2026-09-11T03:00:06Z", &[&restated], &[2])?;
    ensure_eq(served.poll(), vec![went(AZURE, "changed")])?;
    ensure_eq(served.served(), vec![format!("{AZURE} 2 0 4")])?;
    // A run that is being written, and an old one that somebody ran again by hand, whose manifest came last.
    house.put(&format!("{AZURE}/202609120300/cccc/part_0_0001.csv"), csv(&["100"], false))?;
    azure_run(&house, "202609090300/bbbb", "2026-09-09T03:00:06Z", &[&csv(&["7"], false)], &[1])?;
    let polled = served.poll();
    ensure!(polled.len() == 1 && polled[0].1.starts_with("unchanged"), "{polled:?}");
    // An export that overwrites removes the runs before.
    for run in ["202609090300/bbbb", "202609100300/ffff"] {
        house.delete(&format!("{AZURE}/{run}/manifest.json"))?;
    }
    let polled = served.poll();
    ensure!(polled.len() == 1 && polled[0].1.starts_with("unchanged"), "{polled:?}");
    ensure_eq(served.served(), vec![format!("{AZURE} 2 0 4")])
}

fn azure_of_parquet(house: House) -> Result<()> {
    let parquet = |amounts: &[i128], note: Option<&str>| {
        let amount = Decimal128Array::from_iter_values(amounts.iter().map(|units| units * 100));
        let currency = StringArray::from_iter_values(amounts.iter().map(|_| "USD"));
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            ("BillingCurrency", Arc::new(currency)),
            ("BilledCost", Arc::new(amount.with_precision_and_scale(20, 2)?)),
        ];
        if let Some(note) = note {
            columns.push(("x_Note", Arc::new(StringArray::from_iter_values(amounts.iter().map(|_| note)))));
        }
        let batch = RecordBatch::try_from_iter(columns)?;
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None)?;
        writer.write(&batch)?;
        Ok::<_, anyhow::Error>(writer.into_inner()?)
    };
    let parts = vec![parquet(&[1, 2], None)?, parquet(&[4], Some("n"))?];
    azure_write(&house, "run-1", "2026-09-10T00:00:00Z", parts, &[2, 1], "Snappy")?;
    let served = house.exporter("", "")?;
    ensure_eq(served.poll(), vec![went(AZURE, "changed")])?;
    ensure_eq(served.served(), vec![format!("{AZURE} 3 0 7")])
}

fn azure_not_as_said(house: House) -> Result<()> {
    let good = csv(&["1", "oops"], false);
    azure_run(&house, "run-1", "2026-09-10T00:00:00Z", &[&good, &good], &[2, 2])?;
    let served = house.exporter("daily/", "      layout: azure\n")?;
    ensure_eq(served.poll(), vec![went(AZURE, "changed")])?;
    azure_run(&house, "run-2", "2026-09-11T00:00:00Z", &[&good, &good], &[2, 3])?;
    let polled = served.poll();
    ensure!(polled[0].1.contains("run-2/part_1_0001.csv has 2 rows, and its manifest"), "{polled:?}");
    ensure!(polled[0].1.ends_with("run-2/manifest.json says 3"), "{polled:?}");
    let short = json!([{"blobName": "x/part_0_0001.csv", "byteCount": good.len() + 1, "dataRowCount": 2}]);
    house.put(
        &format!("{AZURE}/run-2/manifest.json"),
        azure_manifest("FocusCost", "2026-09-11T00:00:00Z", "None", short),
    )?;
    let polled = served.poll();
    let bytes = format!("has {} bytes, and its manifest", good.len());
    ensure!(polled[0].1.contains(&bytes) && polled[0].1.ends_with(&format!("says {}", good.len() + 1)), "{polled:?}");
    ensure_eq(served.served(), vec![format!("{AZURE} 2 2 2")])
}

fn azure_of_prices(house: House) -> Result<()> {
    house.put(
        "prices/20260901-20260930/r/manifest.json",
        azure_manifest("PriceSheet", "2026-09-10T00:00:00Z", "None", json!([])),
    )?;
    azure_run(&house, "r", "2026-09-10T00:00:00Z", &[&csv(&["1"], false)], &[1])?;
    let polled = house.exporter("", "")?.poll();
    ensure_eq(polled[0].clone(), went(AZURE, "changed"))?;
    ensure!(polled[1].1.contains("PriceSheet") && polled[1].1.contains("prices/20260901-20260930/r"), "{polled:?}");
    Ok(())
}

// -- objects without a layout

fn plain_objects(house: House) -> Result<()> {
    for (path, amount) in [("b/one.csv", "1"), ("b/two.csv", "2"), ("b/deep/three.csv", "3")] {
        house.put(path, csv(&[amount], false))?;
    }
    for (given, scopes) in [
        ("b/one.csv", &["one.csv"][..]),
        ("b/", &["one.csv", "two.csv"]),
        ("b", &["one.csv", "two.csv"]),
        ("b/*.csv", &["one.csv", "two.csv"]),
        ("b/**/*.csv", &["deep/three.csv", "one.csv", "two.csv"]),
    ] {
        let _ = std::fs::remove_dir_all(house.dir.path().join("spool"));
        let served = house.exporter(given, "")?;
        let polled: Vec<String> = served.poll().into_iter().map(|(scope, _)| scope).collect();
        ensure_eq(polled, scopes.iter().map(|scope| (*scope).to_owned()).collect())?;
        ensure_eq(served.served().len(), scopes.len())?;
    }
    let served = house.exporter("b/**/*.csv", "")?;
    house.put("b/two.csv", csv(&["5"], false))?;
    let polled = served.poll();
    ensure!(polled[0].1.starts_with("unchanged") && polled[2].1 == "changed", "{polled:?}");
    ensure!(house.is_local() || polled[0].1.ends_with(" 0 bytes read"), "{polled:?}");
    let polled = house.exporter("c/", "").map(|served| {
        drop(served);
    });
    ensure!(polled.is_err(), "the spool is one exporter's");
    drop(served);
    let polled = house.exporter("c/", "")?.poll();
    ensure!(polled.len() == 1 && polled[0].1.contains("c"), "{polled:?}");
    Ok(())
}

// -- layouts without manifests

/// Two shards of a folder that have just come.
fn gcp_being_written(house: &House) -> Result<Served<'_>> {
    for (shard, amount) in [(0, "1"), (1, "2")] {
        house.put(&format!("{GCP_FOLDER}/focus-{shard:012}.csv"), csv(&[amount], shard == 1))?;
    }
    house.put(&format!("{GCP_FOLDER}/_SUCCESS"), "")?;
    let served = house.exporter("focus", "      layout: gcp\n")?;
    let polled = served.poll();
    ensure!(polled.len() == 1 && polled[0].1.ends_with("is still being written"), "{polled:?}");
    Ok(served)
}

fn gcp(house: House) -> Result<()> {
    let served = gcp_being_written(&house)?;
    let settled = std::time::SystemTime::now() - Duration::from_secs(3_600);
    for shard in 0..2 {
        let path = format!("{}/{GCP_FOLDER}/focus-{shard:012}.csv", house.root);
        std::fs::File::options().write(true).open(path)?.set_modified(settled)?;
    }
    ensure_eq(served.poll(), vec![went("billing_period=2026-09", "changed")])?;
    ensure_eq(served.served(), vec!["billing_period=2026-09 2 0 3".to_owned()])?;
    ensure_eq(served.poll(), vec![went("billing_period=2026-09", "unchanged, 0 bytes read")])?;
    // A third shard: what is served stays until it has settled.
    house.put(&format!("{GCP_FOLDER}/focus-000000000002.csv"), csv(&["4"], false))?;
    ensure_eq(served.poll(), vec![went("billing_period=2026-09", "unchanged, 0 bytes read")])
}

fn oci(house: House) -> Result<()> {
    for (day, amount) in [("01", "1"), ("02", "2")] {
        house.put(&format!("FOCUS Reports/2026/09/{day}/0001000000123456-00001.csv"), csv(&[amount], false))?;
    }
    let served = house.exporter("FOCUS Reports", "      layout: oci\n")?;
    let scopes: Vec<String> = served.poll().into_iter().map(|(scope, _)| scope).collect();
    ensure_eq(scopes, ["01", "02"].map(|day| format!("2026/09/{day}/0001000000123456-00001.csv")).to_vec())
}
