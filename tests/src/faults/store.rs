//! What is in the store, from two sides that know nothing of each other: the rows over SQL, and
//! the commits from the Delta log on disk.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bigdecimal::BigDecimal;
use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

use super::ledger::{Ledger, cell};
use super::script::{GENERATION, Kind, kind_of};
use crate::programs::{PATIENCE, client, runtime};
use crate::report::{COSTS, Sums};

/// A store, and the handler that answers for it.
#[derive(Clone, Debug)]
pub struct Store {
    url: String,
    folder: PathBuf,
    /// The scope and its snapshot that was last looked at: it does not become another.
    looked_at: RefCell<Option<(String, i64)>>,
}

/// One commit of a table.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// When, in milliseconds since 1970.
    pub time: i64,
    /// What it did.
    pub operation: String,
    /// The scopes' snapshots it brought: application, and the snapshot's number.
    pub transactions: Vec<(String, i64)>,
    /// Files it brought.
    pub added: Vec<String>,
    /// Files it took away.
    pub removed: Vec<String>,
}

impl Store {
    /// The store in a folder, behind the handler at a URL.
    pub fn new(url: String, folder: PathBuf) -> Self {
        Self { url, folder, looked_at: RefCell::default() }
    }

    /// The folder.
    pub fn folder(&self) -> &PathBuf {
        &self.folder
    }

    /// Asks one statement, now or as of a time in milliseconds; nothing when nobody answers, or the
    /// statement cannot be answered yet.
    ///
    /// # Errors
    /// The answer is none.
    pub fn ask(&self, statement: &str, arguments: &[&str], as_of: Option<i64>) -> Result<Option<Vec<Vec<Value>>>> {
        let as_of = as_of.map(|time| DateTime::from_timestamp_millis(time).context("a time")).transpose()?;
        let as_of = as_of.map(|time| format!("?as_of={}", time.to_rfc3339_opts(SecondsFormat::Millis, true)));
        let url = format!("{}/_sql{}", self.url, as_of.unwrap_or_default());
        let body = json!({"stmt": statement, "args": arguments}).to_string();
        let answered = runtime().block_on(async {
            let request = client().post(&url).header("content-type", "application/json").body(body).timeout(PATIENCE);
            let Ok(response) = request.send().await else { return Ok(None) };
            let status = response.status();
            let Ok(text) = response.text().await else { return Ok(None) };
            anyhow::Ok(status.is_success().then_some(text))
        })?;
        let Some(text) = answered else { return Ok(None) };
        let mut answer: Value = serde_json::from_str(&text).with_context(|| format!("read the answer {text}"))?;
        Ok(Some(serde_json::from_value(answer["rows"].take()).context("read the answer's rows")?))
    }

    /// As [`Store::ask`], where there must be an answer.
    fn asked(&self, statement: &str, arguments: &[&str], as_of: Option<i64>) -> Result<Vec<Vec<Value>>> {
        self.ask(statement, arguments, as_of)?.with_context(|| format!("no answer to {statement} as of {as_of:?}"))
    }

    /// Whether a scope has a generation of as many rows as its ledger and no other, and its rejects are
    /// those of the same snapshot; nothing while that is not so.
    ///
    /// # Errors
    /// The log or an answer cannot be read.
    pub fn is_stored(&self, source: &str, scope: &str, generation: &str, ledger: &Ledger) -> Result<Option<()>> {
        // The log is cheap to look at, and a statement is not.
        let last = |table| anyhow::Ok(self.snapshots(table, source, scope)?.last().map(|(snapshot, _)| *snapshot));
        let Some(snapshot) = last("costs")? else { return Ok(None) };
        let here = Some((scope.to_owned(), snapshot));
        // A scope that never had any leaves no trace among the rejects.
        let rejects = last("rejects")?;
        let has_rejects = rejects == Some(snapshot) || (rejects.is_none() && ledger.rejects.is_empty());
        if !has_rejects || *self.looked_at.borrow() == here {
            return Ok(None);
        }
        let statement = format!("SELECT {GENERATION}, COUNT(*) FROM costs WHERE x_source = ? GROUP BY 1");
        let Some(rows) = self.ask(&statement, &[source], None)? else { return Ok(None) };
        self.looked_at.replace(here);
        Ok((rows == [[json!(generation), json!(ledger.n_rows())]]).then_some(()))
    }

    /// A source's rows with these columns, now or as of a time, in the form of a ledger.
    ///
    /// # Errors
    /// The store does not answer, or not with what was stored.
    pub fn ledger(&self, source: &str, columns: &[String], as_of: Option<i64>) -> Result<Ledger> {
        let mut ledger = Ledger { columns: columns.to_vec(), ..Ledger::default() };
        let selected = columns.iter().map(|column| match kind_of(column) {
            // As text, so that no double comes between.
            Kind::Amount => format!("CAST({column} AS TEXT)"),
            _ => column.clone(),
        });
        let selected: Vec<_> = selected.collect();
        let statement =
            format!("SELECT x_row, {} FROM costs WHERE x_source = ? ORDER BY x_scope, x_row", selected.join(", "));
        for row in self.asked(&statement, &[source], as_of)? {
            let number = row.first().and_then(Value::as_u64).context("a row number")?;
            let cells = columns.iter().zip(&row[1..]).map(|(column, value)| shown(kind_of(column), value));
            ledger.rows.entry(number).or_default().push(cells.collect::<Result<Vec<_>>>()?.join(" | "));
        }
        let sums = COSTS.map(|cost| format!("CAST(SUM({cost}) AS TEXT)")).join(", ");
        let statement =
            format!("SELECT BillingCurrency, COUNT(*), {sums} FROM costs WHERE x_source = ? GROUP BY 1 ORDER BY 1");
        for row in self.asked(&statement, &[source], as_of)? {
            let currency = row.first().and_then(Value::as_str).context("a currency")?.to_owned();
            let mut sums = Sums { rows: row.get(1).and_then(Value::as_u64).context("a count")?, ..Sums::default() };
            for (sum, value) in sums.costs.iter_mut().zip(&row[2..]) {
                *sum = value.as_str().context("a sum")?.parse::<BigDecimal>().context("read a sum")?;
            }
            ledger.sums.insert(currency, sums);
        }
        if as_of.is_none() {
            let statement = "SELECT \"row\", \"text\" FROM rejects WHERE x_source = ? ORDER BY 1";
            for row in self.asked(statement, &[source], None)? {
                let number = row.first().and_then(Value::as_u64).context("a row number")?;
                let text = row.get(1).and_then(Value::as_str).context("a text")?.to_owned();
                ledger.rejects.entry(number).or_default().push(text);
            }
        }
        Ok(ledger)
    }

    /// The commits of a table, oldest first: none when there is no table.
    ///
    /// # Errors
    /// The log cannot be read, or a version is missing.
    pub fn log(&self, table: &str) -> Result<Vec<Commit>> {
        let folder = self.folder.join(table).join("_delta_log");
        let mut commits = Vec::new();
        let Ok(entries) = fs::read_dir(&folder) else { return Ok(commits) };
        let mut versions: Vec<u64> =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".json")?.parse().ok()).collect();
        versions.sort_unstable();
        for (version, expected) in versions.into_iter().zip(0..) {
            ensure!(version == expected, "version {expected} is missing from the log of {table}");
            let path = folder.join(format!("{version:020}.json"));
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            commits.push(Commit::read(&text).with_context(|| format!("read {}", path.display()))?);
        }
        Ok(commits)
    }

    /// A table's data files on disk, below its folder.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn data_files(&self, table: &str) -> Result<BTreeSet<String>> {
        let folder = self.folder.join(table);
        let mut files = BTreeSet::new();
        each_file(&folder, &mut |path| {
            let name = path.strip_prefix(&folder).context("below the table")?.display().to_string();
            // Parts of files that are not complete have a number behind; the log has checkpoints.
            if name.contains(".parquet") && !name.starts_with('_') {
                files.insert(name);
            }
            Ok(())
        })?;
        Ok(files)
    }

    /// The data files that a table's commits have ever brought.
    ///
    /// # Errors
    /// As [`Store::log`].
    pub fn files_of_log(&self, table: &str) -> Result<BTreeSet<String>> {
        Ok(self.log(table)?.into_iter().flat_map(|commit| commit.added).collect())
    }

    /// A scope's snapshots in a table, with the times of their commits, oldest first.
    ///
    /// # Errors
    /// As [`Store::log`].
    pub fn snapshots(&self, table: &str, source: &str, scope: &str) -> Result<Vec<(i64, i64)>> {
        let application = format!("costream:{}:{source}:{scope}", source.len());
        let commits = self.log(table)?;
        let of_scope = commits.iter().flat_map(|commit| {
            let transactions = commit.transactions.iter().filter(|(of, _)| *of == application);
            transactions.map(|(_, snapshot)| (*snapshot, commit.time))
        });
        Ok(of_scope.collect())
    }
}

impl Commit {
    fn read(text: &str) -> Result<Self> {
        let mut commit = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let action: Value = serde_json::from_str(line).context("read an action")?;
            let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
            if let Some(info) = action.get("commitInfo") {
                commit.time = info["timestamp"].as_i64().context("a time")?;
                commit.operation = text(&info["operation"])?;
            } else if let Some(txn) = action.get("txn") {
                commit.transactions.push((text(&txn["appId"])?, txn["version"].as_i64().context("a version")?));
            } else if let Some(add) = action.get("add") {
                commit.added.push(text(&add["path"])?);
            } else if let Some(remove) = action.get("remove") {
                commit.removed.push(text(&remove["path"])?);
            }
        }
        Ok(commit)
    }
}

/// Visits every file below a folder.
///
/// # Errors
/// A folder cannot be read, or the visitor fails.
pub fn each_file(folder: &Path, visit: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.context("list")?.path();
        if path.is_dir() { each_file(&path, visit)? } else { visit(&path)? }
    }
    Ok(())
}

/// A value of the answer in the ledger's form.
fn shown(kind: Kind, value: &Value) -> Result<String> {
    match (kind, value) {
        (_, Value::Null) => Ok("-".to_owned()),
        (Kind::Time, value) => Ok(value.to_string()),
        (Kind::Tags, value) => cell(kind, &value.to_string()),
        (_, value) => cell(kind, value.as_str().with_context(|| format!("{value} is no text"))?),
    }
}
