//! Notebooks as they are published, run unchanged: those of `resources/notebooks`, and the kinds beside plain Python.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use arrow::array::{
    ArrayRef, Decimal128Array, MapBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::array::{Int64Array, MapFieldNames};
use arrow::datatypes::Schema;
use costream_common::money::{Amount, PRECISION, SCALE};
use costream_common::record::{ColumnKind, ScopeKey, ScopeName, SourceName, row_field};
use costream_handler::compute::{self, ComputeConfig, PythonConfig, Tier};
use costream_handler::ident::TableName;
use costream_handler::store::Delivery;
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::house::{House, only, small_limits, with};

fn block_on<T>(claim: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Runtime::new()?.block_on(claim)
}

fn shipped(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/notebooks").join(name);
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// Service, cost, days ago, and a tag.
type Charge = (&'static str, &'static str, i64, Option<&'static str>);

const CHARGES: [Charge; 4] = [
    ("compute", "10.25", 1, Some("test")),
    ("compute", "0.5", 1, Some("test")),
    ("storage", "1.5", 3, None),
    ("compute", "100", 40, Some("it's")),
];

async fn with_charges(house: &House) -> Result<()> {
    let schema = Schema::new(vec![
        ColumnKind::Text.field("ServiceName"),
        ColumnKind::Text.field("ProviderName"),
        ColumnKind::Text.field("BillingCurrency"),
        ColumnKind::Decimal.field("BilledCost"),
        ColumnKind::Timestamp.field("BillingPeriodStart"),
        ColumnKind::Timestamp.field("ChargePeriodStart"),
        ColumnKind::Tags.field("Tags"),
        row_field(),
    ]);
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut tags = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    let mut billed = Vec::new();
    for (_, cost, _, org) in CHARGES {
        if let Some(org) = org {
            tags.keys().append_value("org");
            tags.values().append_value(org);
        }
        tags.append(true)?;
        billed.push(cost.parse::<Amount>()?.units());
    }
    let now = chrono::Utc::now();
    let days = CHARGES.map(|(_, _, days, _)| (now - chrono::Duration::days(days)).timestamp_micros());
    let times = |times: Vec<i64>| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")) };
    let rows = i64::try_from(CHARGES.len())?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(CHARGES.iter().map(|charge| Some(charge.0)).collect::<StringArray>()),
        Arc::new(StringArray::from(vec!["aws"; CHARGES.len()])),
        Arc::new(StringArray::from(vec!["USD"; CHARGES.len()])),
        Arc::new(Decimal128Array::from(billed).with_precision_and_scale(PRECISION, SCALE)?),
        times(vec![1_793_491_200_000_000; CHARGES.len()]),
        times(days.to_vec()),
        Arc::new(tags.finish()),
        Arc::new(Int64Array::from_iter_values(1..=rows)),
    ];
    let batch = RecordBatch::try_new(Arc::new(schema), columns)?;
    let delivery = Delivery {
        table: TableName::costs(),
        key: ScopeKey { source: SourceName::new("aws")?, scope: ScopeName::new("a.csv")? },
        snapshot: "20261122T130501123Z".parse()?,
        schema: batch.schema(),
        batches: futures::stream::iter([Ok(batch)]).boxed(),
    };
    house.handler.ingest().deliver(delivery, None).await?;
    Ok(())
}

pub(crate) fn reading(python: PathBuf) -> Result<()> {
    block_on(async {
        let house = House::open(with(&python, Default::default())).await?;
        with_charges(&house).await?;
        let (status, text) = house.run("spend_by_tag", &shipped("spend_by_tag.py")?, r#"{"tag": "org"}"#).await?;
        ensure!(status == 200, "{text}");
        let row = |owner: &str, service: &str, billed: f64| json!({"owner": owner, "servicename": service, "billingcurrency": "USD", "billed": billed});
        let expected =
            json!([row("it's", "compute", 100.0), row("test", "compute", 10.75), row("nobody", "storage", 1.5)]);
        ensure!(serde_json::from_str::<Value>(&text)? == expected, "{text}");
        let (_, text) = house.run("spend_by_tag", &shipped("spend_by_tag.py")?, r#"{"tag": "nobody's"}"#).await?;
        let rows: Vec<Value> = serde_json::from_str(&text)?;
        ensure!(rows.iter().all(|row| row["owner"] == "nobody") && rows.len() == 2, "{text}");

        let (status, text) = house.run("recent_spend", &shipped("recent_spend.py")?, r#"{"weeks": 2}"#).await?;
        let days: Vec<Value> = serde_json::from_str(&text).with_context(|| text.clone())?;
        let billed: Vec<_> = days.iter().filter_map(|day| day["billed"].as_f64()).collect();
        ensure!(status == 200 && billed == [1.5, 10.75], "{text}");
        let (_, text) = house.run("recent_spend", &shipped("recent_spend.py")?, r#"{"weeks": 9}"#).await?;
        ensure!(serde_json::from_str::<Vec<Value>>(&text)?.len() == 3, "{text}");
        Ok(())
    })
}

pub(crate) fn writing(python: PathBuf) -> Result<()> {
    block_on(async {
        let house = House::open(with(&python, small_limits())).await?;
        let code = shipped("annotations.py")?;
        let note = |id: &str, keys: Value| json!({"id": id, "keys": keys});
        for (parameters, expected) in [
            (json!({}), json!([])),
            (json!({"id": "vm-1", "owner": "ann"}), json!([note("vm-1", json!({"owner": "ann"}))])),
            (
                json!({"id": "it's; ü", "owner": "bob", "until": "2027"}),
                json!([
                    note("it's; ü", json!({"owner": "bob", "until": "2027"})),
                    note("vm-1", json!({"owner": "ann"}))
                ]),
            ),
            (
                json!({"id": "vm-1", "owner": "cleo"}),
                json!([
                    note("it's; ü", json!({"owner": "bob", "until": "2027"})),
                    note("vm-1", json!({"owner": "cleo"}))
                ]),
            ),
            (json!({"id": "it's; ü", "delete": true}), json!([note("vm-1", json!({"owner": "cleo"}))])),
        ] {
            let (status, text) = house.run("annotations", &code, &parameters.to_string()).await?;
            ensure!(status == 200, "{parameters}: {status} {text}");
            ensure!(serde_json::from_str::<Value>(&text)? == expected, "{parameters}: {text}");
        }
        Ok(())
    })
}

pub(crate) fn statements(python: PathBuf) -> Result<()> {
    block_on(async {
        let house = House::open(with(&python, small_limits())).await?;
        with_charges(&house).await?;
        house.upload("spend.sql", &shipped("spend.sql")?).await?;
        let ask = async |name: &str, accept: &str, parameters: &str| -> Result<(u16, String, String)> {
            let request = house.client.post(format!("{}/compute/{name}", house.url)).header("accept", accept);
            let answer = request.body(parameters.to_owned()).send().await?;
            let media_type = answer.headers()["content-type"].to_str()?.to_owned();
            Ok((answer.status().as_u16(), media_type, answer.text().await?))
        };
        let (status, media_type, text) = ask("spend.sql", "text/csv", "").await?;
        let expected = "providername,billingcurrency,billed,charges\r\naws,USD,112.25,4\r\n";
        ensure!(status == 200 && media_type == "text/csv; charset=utf-8" && text == expected, "{media_type} {text}");
        let (status, media_type, text) = ask("spend.sql", "*/*", "{}").await?;
        let answer: Value = serde_json::from_str(&text)?;
        ensure!(status == 200 && media_type == "application/json; charset=UTF-8", "{media_type} {text}");
        ensure!(answer["cols"] == json!(["providername", "billingcurrency", "billed", "charges"]), "{text}");
        house.upload("of.sql", "SELECT $1 AS a, $2 + 1 AS b, null AS c, '' AS d, 'x,\"y' AS e; -- the end\n").await?;
        let (_, _, text) = ask("of.sql", "text/csv", r#"{"2": 41, "1": "o'clock"}"#).await?;
        ensure!(text == "a,b,c,d,e\r\no'clock,42,,\"\",\"x,\"\"y\"\r\n", "{text:?}");
        for (parameters, status, expected) in [
            (r#"{"1": "a"}"#, 400, "4000"),
            (r#"{"x": 1}"#, 400, "called 1 to 1"),
            (r#"{"3": 1}"#, 400, "called 1 to 1"),
        ] {
            let (got, _, text) = ask("of.sql", "text/csv", parameters).await?;
            ensure!(got == status && text.contains(expected), "{parameters}: {got} {text}");
        }
        house.upload("nowhere.sql", "SELECT * FROM nowhere").await?;
        let (status, _, text) = ask("nowhere.sql", "text/csv", "").await?;
        ensure!(status == 404 && text.contains("RelationUnknown"), "{status} {text}");
        Ok(())
    })
}

pub(crate) fn jupyter(python: PathBuf) -> Result<()> {
    block_on(async {
        let house = House::open(with(&python, small_limits())).await?;
        let notebook = |cells: &[&str]| {
            let cells =
                cells.iter().map(|code| json!({"cell_type": "code", "metadata": {}, "outputs": [], "source": code}));
            let text = json!({"cell_type": "markdown", "metadata": {}, "source": ["# Costs"]});
            let cells: Vec<Value> = std::iter::once(text).chain(cells).collect();
            json!({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}).to_string()
        };
        for (cells, status, expected) in [
            (&["cursor.execute('SELECT 6 * 7')\n(answer,), = cursor.fetchall()", "print(answer)"][..], 200, "42"),
            (&["x = 1", "\n\nraise ValueError(x)"], 500, "cell_3.py\", line 3, in <module>"),
            (&["print(1)", "%matplotlib inline\nprint(2)"], 500, "cell_3.py line 1: '%matplotlib inline' is IPython's"),
            (&["!pip install x"], 500, "shell commands (!) are not run here"),
            (&["x = 7\nprint(x\n% 4)"], 200, "3"),
            (&["def f(:"], 500, "SyntaxError"),
        ] {
            let (got, text) = house.run("jupyter", &notebook(cells), "{}").await?;
            ensure!(got == status && text.contains(expected), "{cells:?}: {got} {text}");
        }
        let answer = house.ask(Method::POST, "/compute/a.ipynb/upload", "{}").await?;
        ensure!(answer.status() == 400, "{}", answer.status());
        Ok(())
    })
}

/// What pip says without a network, and that what it installs is the run's own.
pub(crate) fn pip(python: PathBuf) -> Result<()> {
    block_on(async {
        let house = House::open(with(&python, small_limits())).await?;
        let make = "import os, subprocess, zipfile\n\
            with zipfile.ZipFile('ours-1.0-py3-none-any.whl', 'w') as wheel:\n    \
                wheel.writestr('ours.py', 'word = 42')\n    \
                wheel.writestr('ours-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: ours\\nVersion: 1.0\\n')\n    \
                wheel.writestr('ours-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n    \
                wheel.writestr('ours-1.0.dist-info/RECORD', '')\n\
            subprocess.check_call([sys.executable, '-m', 'pip', 'install', '-q', './ours-1.0-py3-none-any.whl'])\n\
            import ours\n\
            print(ours.word)";
        let (status, text) = house.run("pip", make, "{}").await?;
        ensure!(status == 200 && text == "42", "{status} {text}");
        let (status, text) = house.run("pip", "import ours", "{}").await?;
        ensure!(status == 500 && text.contains("ModuleNotFoundError"), "{status} {text}");
        let network = "import subprocess\n\
            subprocess.check_call([sys.executable, '-m', 'pip', 'install', '--retries', '0', 'no-such-package-of-costream'])";
        let (status, text) = house.run("pip", network, "{}").await?;
        ensure!(
            status == 500 && text.contains("CalledProcessError") && text.contains("No matching distribution"),
            "{text}"
        );
        Ok(())
    })
}

/// The first run of a handler makes its own environment; a second handler finds it.
pub(crate) fn made(base: PathBuf) -> Result<()> {
    block_on(async {
        let python = PythonConfig { base, packages: vec!["crate==2.3.0".to_owned()], ..PythonConfig::default() };
        let config = ComputeConfig { python, ..ComputeConfig::default() };
        let house = House::open(config.clone()).await?;
        house.upload("first", "print('made')").await?;
        let asked = (0..3).map(|_| async {
            loop {
                let answer = house.ask(Method::POST, "/compute/first", "{}").await?;
                if answer.status() != 503 {
                    return anyhow::Ok((answer.status().as_u16(), answer.text().await?));
                }
                ensure!(answer.headers().contains_key("retry-after"));
                let told = answer.text().await?;
                ensure!(told.contains("is being made"), "{told}");
            }
        });
        for answer in futures::future::join_all(asked).await {
            ensure!(answer? == (200, "made".to_owned()));
        }
        let environments =
            std::fs::read_dir(house.data_dir.join("python"))?.flatten().filter(|entry| entry.path().is_dir());
        ensure!(environments.count() == 1, "once for all who asked");
        let said = compute::prepare(&config, &house.data_dir).await?;
        ensure!(said.starts_with("Python 3"), "{said}");
        Ok(())
    })
}

/// An interpreter that users without rights can read, with CrateDB's client, kept from one test run to the next.
pub(crate) fn readable_by_all() -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let base = Path::new("/usr/bin/python3");
    let base = if base.exists() { base } else { Path::new("python3") };
    let place = std::env::temp_dir().join("costream-tests-python");
    std::fs::create_dir_all(&place)?;
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755))?;
    let python =
        PythonConfig { base: base.into(), packages: vec!["crate==2.3.0".to_owned()], ..PythonConfig::default() };
    block_on(async {
        compute::prepare(&ComputeConfig { python, ..ComputeConfig::default() }, &place).await?;
        let mut environments = std::fs::read_dir(place.join("python"))?.flatten().map(|entry| entry.path());
        let made = environments.find(|path| path.join("complete").is_file()).context("an environment was made")?;
        Ok(made.join("bin/python"))
    })
}

/// A machine that cannot do what the configuration asks for runs nothing, and says why.
pub(crate) fn uncontained(python: PathBuf) -> Result<()> {
    block_on(async {
        // An interpreter that does not begin within the fences stands for a machine without the means.
        let config = ComputeConfig {
            containment: only(Tier::Isolated),
            environment: [("PYTHONHOME".to_owned(), "/nowhere".to_owned())].into(),
            ..with(&python, small_limits())
        };
        let house = House::open(config).await?;
        let (status, text) = house.run("a", "print(1)", "{}").await?;
        ensure!(status == 501 && text.contains("containment.at_least is isolated"), "{status} {text}");
        let told: Value = serde_json::from_str(&house.ask(Method::GET, "/-/capabilities", "").await?.text().await?)?;
        let why = told["compute"]["without"]["isolated"].as_str().unwrap_or_default().to_owned();
        ensure!(told["compute"]["runs"] == false && why.contains("does not work"), "{told}");
        Ok(())
    })
}
