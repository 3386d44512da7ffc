//! Statements that write, while handlers are killed: each is made whole or not at all, and of those
//! that were answered none is lost.

use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use costream_tests::faults::VARIABLE;
use costream_tests::parts::Suite;
use costream_tests::programs::{Program, client, program, runtime, until};
use serde_json::{Value, json};

/// Longest that a statement may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Counts that each of two handlers is asked for while the other is killed.
const N_COUNTS: i64 = 40;
/// Counts after which a handler is killed.
const KILLED_AFTER: i64 = 10;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS notes (id text PRIMARY KEY, n bigint, keys object)";
const COUNT: &str =
    "INSERT INTO notes (id, n, keys) VALUES (?, 1, ?) ON CONFLICT (id) DO UPDATE SET n = n + 1, keys = excluded.keys";

pub(crate) fn claims(suite: Suite) -> Suite {
    let suite =
        [("handler.before-commit", 0), ("handler.after-commit", 1)].into_iter().fold(suite, |suite, (point, made)| {
            let claim = format!("a_statement_stopped_dead_at_{}_is_whole_or_not_there", point.replace(['.', '-'], "_"));
            suite.claim(&claim, move || at_point(point, made))
        });
    suite.claim("two_handlers_one_of_them_killed_lose_no_statement_that_was_answered", two_handlers)
}

/// A handler on a folder's store.
struct Handler {
    program: Program,
    url: String,
}

impl Handler {
    fn start(name: &str, folder: &std::path::Path, point: Option<&str>) -> Result<Self> {
        let config = folder.join("costream.yaml");
        let text = "handler: {listen_address: \"127.0.0.1:0\", data_dir: data}\n";
        std::fs::write(&config, text).context("write a configuration")?;
        let mut command = Command::new(program("costream-handler")?);
        command.arg("--config.file").arg(&config).env_remove(VARIABLE).envs(point.map(|point| (VARIABLE, point)));
        let mut program = Program::spawn(name, folder, &mut command)?;
        let url = program.word_after("listening on ")?;
        Ok(Self { program, url })
    }

    /// The answer to a statement; nothing when there is none.
    fn ask(&self, stmt: &str, args: Value) -> Result<Option<Value>> {
        let body = json!({"stmt": stmt, "args": args}).to_string();
        let request = client().post(format!("{}/_sql", self.url)).timeout(PATIENCE).body(body);
        runtime().block_on(async {
            let Ok(response) = request.send().await else { return Ok(None) };
            let Ok(text) = response.text().await else { return Ok(None) };
            serde_json::from_str(&text).map(Some).with_context(|| format!("read {text:?}"))
        })
    }

    fn rows(&self, stmt: &str) -> Result<Value> {
        let answer = self.ask(stmt, json!([]))?.context("no answer")?;
        ensure!(answer["rows"].is_array(), "{stmt}: {answer}");
        Ok(answer["rows"].clone())
    }
}

/// Stopped dead at a point of a statement's commit, which is then made or not.
fn at_point(point: &str, made: i64) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let handler = Handler::start("handler", folder.path(), None)?;
    handler.ask(CREATE, json!([]))?.context("no answer")?;
    let mut expected = 0;
    for _ in 0..2 {
        let mut doomed = Handler::start("doomed", folder.path(), Some(point))?;
        ensure!(doomed.ask(COUNT, json!(["a", {"by": "the doomed"}]))?.is_none(), "it answered");
        until("the handler is dead", || doomed.program.ended())?;
        expected += made;
        let n = handler.rows("SELECT coalesce(sum(n), 0), count(*) FROM notes")?;
        ensure!(n == json!([[expected, expected.min(1)]]), "{n}, not {expected}");
        // The client asks again, and gets its answer.
        handler.ask(COUNT, json!(["a", {"by": "another"}]))?.context("no answer")?;
        expected += 1;
        let rows = handler.rows("SELECT id, n, keys['by'] FROM notes")?;
        ensure!(rows == json!([["a", expected, "another"]]), "{rows}");
    }
    Ok(())
}

/// Two handlers count in the same rows; one is killed and started again.
fn two_handlers() -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let steady = Handler::start("steady", folder.path(), None)?;
    steady.ask(CREATE, json!([]))?.context("no answer")?;
    let (answered, silent) = (AtomicI64::new(0), AtomicI64::new(0));
    let count = |handler: &Handler, number: i64| -> Result<()> {
        match handler.ask(COUNT, json!([format!("row {}", number % 3), {format!("key {number}"): number}]))? {
            Some(answer) => {
                ensure!(answer["rowcount"] == json!(1), "{answer}");
                answered.fetch_add(1, Ordering::Relaxed);
            }
            None => drop(silent.fetch_add(1, Ordering::Relaxed)),
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let other = scope.spawn(|| (0..N_COUNTS).try_for_each(|number| count(&steady, number)));
        let mut number = N_COUNTS;
        while number < 2 * N_COUNTS {
            let doomed = Handler::start("doomed", folder.path(), None)?;
            for _ in 0..KILLED_AFTER {
                count(&doomed, number)?;
                number += 1;
            }
            // In the middle of a statement, as likely as not.
            std::thread::scope(|scope| {
                let last = scope.spawn(|| count(&doomed, number));
                std::thread::yield_now();
                let killed = Command::new("kill").args(["-KILL", &doomed.program.id().to_string()]).status();
                killed.context("start kill")?;
                last.join().expect("no panic")
            })?;
            number += 1;
        }
        other.join().expect("no panic")
    })?;
    let (answered, silent) = (answered.into_inner(), silent.into_inner());
    let rows = steady.rows("SELECT sum(n), count(*) FROM notes")?;
    let (counted, rows) = (rows[0][0].as_i64().context("a sum")?, rows[0][1].as_i64());
    ensure!(rows == Some(3), "{rows:?} rows");
    ensure!(
        (answered..=answered + silent).contains(&counted),
        "{counted} were counted, {answered} answered, and {silent} not"
    );
    Ok(())
}
