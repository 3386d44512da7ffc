//! CrateDB's own clients from PyPI against a served handler: `crate` and `crash`, and what stands on
//! `crate` and writes, SQLAlchemy and pandas.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use arrow::array::TimestampMicrosecondArray;
use arrow::array::{
    ArrayRef, Decimal128Array, Int64Array, MapBuilder, MapFieldNames, RecordBatch, StringArray, StringBuilder,
};
use arrow::datatypes::Schema;
use costream_common::http::door::Door;
use costream_common::money::{Amount, PRECISION, SCALE};
use costream_common::record::{ColumnKind, ScopeKey, ScopeName, SourceName, row_field};
use costream_handler::Handler;
use costream_handler::config::HandlerConfig;
use costream_handler::ident::TableName;
use costream_handler::store::Delivery;
use costream_tests::parts::{Suite, python};
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let readers = python(&["crate==2.3.0", "crash==0.32.0"]);
    let writers = python(&["crate==2.3.0", "sqlalchemy-cratedb==0.44.0", "pandas==3.1.1"]);
    Suite::new()
        .claim_with("cratedbs_own_clients_work_against_the_handler", readers, |python| silent(&python, "clients.py"))
        .claim_with("what_writes_through_cratedbs_client_works_too", writers, |python| silent(&python, "writers.py"))
        .run()
}

/// Runs a script against a handler of its own; it says what it did not like.
fn silent(python: &Path, script: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (url, _serving) = runtime.block_on(served())?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let output = Command::new(python).arg(script).arg(&url).output()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success() && said.is_empty(), "{said}");
    Ok(())
}

/// A handler with three charges on a free port, until the guard is dropped.
async fn served() -> anyhow::Result<(String, impl Drop)> {
    let dir = tempfile::tempdir()?;
    let config = HandlerConfig {
        listen_address: "127.0.0.1:0".to_owned(),
        data_dir: dir.path().to_owned(),
        ..HandlerConfig::default()
    };
    let handler = Handler::open(config).await?;
    let batch = charges()?;
    let delivery = Delivery {
        table: TableName::costs(),
        key: ScopeKey { source: SourceName::new("aws")?, scope: ScopeName::new("a.csv")? },
        snapshot: "20261122T130501123Z".parse()?,
        schema: batch.schema(),
        batches: futures::stream::iter([Ok(batch)]).boxed(),
    };
    handler.ingest().deliver(delivery, None).await?;
    let listener = handler.bind(&Door::default()).await?;
    let url = listener.url();
    let shutdown = CancellationToken::new();
    let guard = shutdown.clone().drop_guard();
    tokio::spawn(async move {
        let _keep = dir;
        handler.serve(listener, shutdown).await
    });
    Ok((url, guard))
}

/// Service, cost and tags.
type Charge = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

fn charges() -> anyhow::Result<RecordBatch> {
    let rows: [Charge; 3] = [
        ("compute", "12345678901234567890.123456789012345678", &[("org", "test")]),
        ("storage", "1.5", &[]),
        ("compute", "0.25", &[("org", "prod"), ("a b", "x")]),
    ];
    let schema = Schema::new(vec![
        ColumnKind::Text.field("ServiceName"),
        ColumnKind::Decimal.field("BilledCost"),
        ColumnKind::Timestamp.field("BillingPeriodStart"),
        ColumnKind::Tags.field("Tags"),
        row_field(),
    ]);
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut tags = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    let mut billed = Vec::new();
    for (_, cost, pairs) in rows {
        for (key, value) in pairs {
            tags.keys().append_value(key);
            tags.values().append_value(value);
        }
        tags.append(true)?;
        billed.push(cost.parse::<Amount>()?.units());
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.0)).collect::<StringArray>()),
        Arc::new(Decimal128Array::from(billed).with_precision_and_scale(PRECISION, SCALE)?),
        Arc::new(TimestampMicrosecondArray::from(vec![1_793_491_200_000_000; 3]).with_timezone("UTC")),
        Arc::new(tags.finish()),
        Arc::new(Int64Array::from(vec![1, 2, 3])),
    ];
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}
