//! The store in object stores as clouds have them: the conformance suite, writers side by side,
//! and what is told when a cloud cannot be used.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use costream_common::report::one_line;
use costream_handler::ident;
use costream_tests::clouds::{Cloud, Part, azurite, moto};
use costream_tests::parts::Suite;
use costream_tests::programs::free_address;
use futures::future::LocalBoxFuture;
use futures::{FutureExt as _, TryStreamExt as _};
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use tokio_util::sync::CancellationToken;

use self::conformance::{ask, ask_as_of, charges, delivery, each_case, key, next_moment, plain, replace, row, stream};
use self::store::delta::{DeltaOptions, DeltaStore, StoreUrl};
use self::store::{Store, StoreError};

#[path = "../src/store/conformance.rs"]
mod conformance;

/// The library's, with its conformance suite where that is in the library.
mod store {
    pub(crate) use costream_handler::store::*;
}

const SEPTEMBER: &str = "2026-09-01T00:00:00Z";
/// Longest that a store may take to say that it cannot be reached.
const SOON: Duration = Duration::from_secs(60);

type Case = (&'static str, for<'a> fn(&'a Store) -> LocalBoxFuture<'a, ()>);

/// The conformance suite's cases with their names.
macro_rules! cases {
    ([] $($case:ident,)*) => {
        &[$((stringify!($case), |store: &Store| conformance::$case(store).boxed_local()),)*]
    };
}
const CASES: &[Case] = each_case!(cases);

fn main() -> ExitCode {
    let mut suite = Suite::new();
    for (name, part) in [("s3", moto as fn() -> Result<Part>), ("azure", azurite)] {
        suite = suite
            .claim_with(&format!("{name}_conforms"), part(), |part| on(&part, conforms))
            .claim_with(&format!("{name}_takes_writers_side_by_side"), part(), |part| on(&part, side_by_side))
            .claim_with(&format!("{name}_is_kept_in_order"), part(), |part| on(&part, kept_in_order))
            .claim_with(&format!("{name}_says_what_is_wrong"), part(), |part| on(&part, says_what_is_wrong));
    }
    suite.claim_with("azure_takes_the_long_form_of_a_url", azurite(), |part| on(&part, long_form)).run()
}

/// Runs a test on a cloud of its own.
fn on<F: Future<Output = Result<()>>>(part: &Part, test: impl FnOnce(Arc<Cloud>) -> F) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let cloud = Arc::new(part.start(folder.path())?);
    tokio::runtime::Runtime::new().context("start a runtime")?.block_on(test(cloud))
}

fn open(cloud: &Cloud, folder: &str) -> Result<DeltaStore> {
    let place: StoreUrl = format!("{}/{folder}", cloud.bucket).parse()?;
    let bucket = place.connect(cloud.variables.iter().cloned())?;
    Ok(DeltaStore::over(bucket, DeltaOptions::at(place))?)
}

async fn conforms(cloud: Arc<Cloud>) -> Result<()> {
    for (name, case) in CASES {
        let began = Instant::now();
        // A case that fails panics, and this says which it was.
        println!("{name}");
        case(&open(&cloud, name)?.into()).await;
        println!("{name} took {:?}", began.elapsed());
    }
    Ok(())
}

/// Three handlers on one place: no commit is lost, none is made twice, nothing lies about.
async fn side_by_side(cloud: Arc<Cloud>) -> Result<()> {
    let stores = (0..3).map(|_| open(&cloud, "side by side").map(Store::from)).collect::<Result<Vec<_>>>()?;
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
        written += committed?.rows;
    }
    ensure!(written == 16, "{written} rows were written");
    for store in &stores {
        let counts = ask(store, "SELECT count(*), count(DISTINCT x_scope) FROM costs").await;
        ensure!(counts == [["16", "16"]], "{counts:?}");
    }
    let files = objects(&cloud, "side by side", "/_delta_log/").await?;
    let commits = files.iter().filter(|file| file.ends_with(".json")).count();
    ensure!(commits == 16, "{commits} commits of 16: {files:?}");
    let data = objects(&cloud, "side by side", "").await?.len() - files.len();
    ensure!(data == 16, "{data} files of 16");
    Ok(())
}

/// Small files are merged, the past can be asked for, the log gets its checkpoints.
async fn kept_in_order(cloud: Arc<Cloud>) -> Result<()> {
    let store: Store = open(&cloud, "kept")?.into();
    for number in 1..=20 {
        replace(&store, &key("aws", "a.csv"), number, &[row(SEPTEMBER, &number.to_string(), "a")]).await;
    }
    let between = next_moment().await;
    next_moment().await;
    // Each period by turns: more partitions than files may be open, so that files are small.
    let months = ["01", "02", "03", "04", "05", "06", "07", "08", "09"];
    let months = months.map(|month| &*format!("2025-{month}-01T00:00:00Z").leak());
    let batches: Vec<_> = (0..72).map(|number| charges(&[row(months[number % 9], "0.5", "b")])).collect();
    let schema = batches[0].schema();
    store.write.replace_scope(delivery(&key("aws", "a.csv"), 21, schema, stream(batches))).await?;

    let log = objects(&cloud, "kept", "/_delta_log/").await?;
    ensure!(log.iter().any(|file| file.contains("checkpoint.parquet")), "{log:?}");
    let files = objects(&cloud, "kept", "").await?.len() - log.len();
    ensure!(files == 92, "{files} files");
    store.write.maintain(CancellationToken::new()).await?;
    let log = objects(&cloud, "kept", "/_delta_log/").await?;
    let files = objects(&cloud, "kept", "").await?.len() - log.len();
    ensure!(files == 92 + 9, "{files} files: the past, and nine merged");
    for store in [store, open(&cloud, "kept")?.into()] {
        let now = ask(&store, "SELECT sum(billedcost) FROM costs").await;
        ensure!(plain(&now[0][0]) == "36", "{now:?}");
        let then = ask_as_of(&store, "SELECT sum(billedcost) FROM costs", Some(between)).await?;
        ensure!(plain(&then[0][0]) == "20", "{then:?}");
    }
    Ok(())
}

/// Account and container in the URL are those of the variables' endpoint.
async fn long_form(cloud: Arc<Cloud>) -> Result<()> {
    let place: StoreUrl = "abfss://costs@devstoreaccount1.dfs.core.windows.net/long".parse()?;
    let bucket = place.connect(cloud.variables.iter().cloned())?;
    let store: Store = DeltaStore::over(bucket, DeltaOptions::at(place))?.into();
    replace(&store, &key("aws", "a.csv"), 1, &[row(SEPTEMBER, "1", "a")]).await;
    for store in [store, open(&cloud, "long")?.into()] {
        let count = ask(&store, "SELECT count(*), max(servicename) FROM costs").await;
        ensure!(count == [["1", "a"]], "{count:?}");
    }
    Ok(())
}

async fn objects(cloud: &Cloud, folder: &str, with: &str) -> Result<Vec<String>> {
    let place: StoreUrl = format!("{}/{folder}", cloud.bucket).parse()?;
    let bucket = PrefixStore::new(place.connect(cloud.variables.iter().cloned())?, folder);
    let all: Vec<_> = bucket.list(None).map_ok(|object| object.location.to_string()).try_collect().await?;
    Ok(all.into_iter().filter(|path| path.contains(with)).collect())
}

/// One line that names the place and the reason, and no secret; within a bounded time.
async fn says_what_is_wrong(cloud: Arc<Cloud>) -> Result<()> {
    let scheme = cloud.bucket.split(':').next().unwrap_or_default();
    let nobody = format!("http://{}", free_address()?);
    let (endpoint, reason) = match scheme {
        "s3" => ("AWS_ENDPOINT_URL", "NoSuchBucket"),
        _ => ("AZURE_STORAGE_ENDPOINT", "ContainerNotFound"),
    };
    let mut cases = vec![
        ("missing/a".to_owned(), cloud.variables.clone(), reason),
        ("costs/a".to_owned(), cloud.with(endpoint, &nobody), "refused"),
    ];
    if scheme == "az" {
        // moto takes any credential.
        let wrong = cloud.with("AZURE_STORAGE_ACCOUNT_KEY", "dmVyeXNlY3JldA==");
        cases.push(("costs/a".to_owned(), wrong, "AuthorizationFailure"));
    }
    for (folder, variables, reason) in cases {
        let place: StoreUrl = format!("{scheme}://{folder}").parse()?;
        let began = Instant::now();
        let store = DeltaStore::over(place.connect(variables)?, DeltaOptions::at(place.clone()))?;
        let reached: Result<(), StoreError> = store.reach().await;
        let line = one_line(&reached.err().context("a store that cannot be used")?);
        println!("{line} ({:?})", began.elapsed());
        ensure!(line.starts_with(&format!("list store {place}: ")) && line.contains(reason), "{line}");
        ensure!(
            !line.contains(cloud.secret) && !line.contains("dmVyeXNlY3JldA") && !line.contains(['<', '\n']),
            "{line}"
        );
        ensure!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    }
    Ok(())
}
