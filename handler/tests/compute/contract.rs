//! What contracts 6 promises of `/compute`, status by status.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use costream_common::config::Span;
use costream_handler::compute::{ComputeConfig, RunLimits};
use futures::future::select;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::house::{House, PATIENCE, small_limits, until, with};

fn block_on<T>(claim: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Runtime::new()?.block_on(claim)
}

pub(crate) fn kept(python: PathBuf) -> Result<()> {
    block_on(async {
        let house = House::open(with(&python, small_limits())).await?;
        let long = "x".repeat(10_000);
        let (post, get, delete, put) = (Method::POST, Method::GET, Method::DELETE, Method::PUT);
        let code = "print('ä')\r\n";
        let wrong = json!({"error": "URL composition incorrect"});
        for (method, path, body, status, expected) in [
            (&get, "/compute/list", "", 200, json!([])),
            (&get, "/compute/a/info", "", 404, json!({"code": "", "notebook": "a"})),
            (&post, "/compute/a/upload", "", 200, json!({"result": false})),
            (&post, "/compute/a/upload", code, 200, json!({"result": true})),
            (&post, "/compute/a/upload", code, 200, json!({"result": true})),
            (&post, "/compute/a/upload", "other", 200, json!({"result": false})),
            (&post, "/compute/a/upload?overwrite=false", "other", 200, json!({"result": false})),
            (&get, "/compute/a/info", "", 200, json!({"notebook": "a", "code": code})),
            (&post, "/compute/a/upload?overwrite=True", "other", 200, json!({"result": true})),
            (&post, "/compute/a/upload?overwrite=true", "", 200, json!({"result": false})),
            (&get, "/compute/a/info", "", 200, json!({"notebook": "a", "code": "other"})),
            (&post, "/compute/b%27%22%3B%20%2F%C3%A4/upload", "1", 200, json!({"result": true})),
            (&get, "/compute/b%27%22%3B%20%2F%C3%A4/info", "", 200, json!({"notebook": "b'\"; /ä", "code": "1"})),
            (&get, "/compute/list", "", 200, json!([["a"], ["b'\"; /ä"]])),
            (&delete, "/compute/a", "", 200, json!({"result": "deleted"})),
            (&delete, "/compute/a", "", 200, json!({"result": "deleted"})),
            (&get, "/compute/list", "", 200, json!([["b'\"; /ä"]])),
            (&post, "/compute/a", "{}", 404, json!({"error": "there is no notebook \"a\""})),
            (
                &get,
                "/compute/a/info?version=x",
                "",
                400,
                json!({"error": "query parameter version: a number is wanted"}),
            ),
            (&get, "/compute", "", 400, wrong.clone()),
            (&get, "/compute/", "", 400, wrong.clone()),
            (&get, "/compute/a", "", 400, wrong.clone()),
            (&put, "/compute/a", "", 400, wrong.clone()),
            (&get, "/compute/a/upload", "", 400, wrong.clone()),
            (&post, "/compute/a/b/c", "", 400, wrong.clone()),
            (&get, "/compute/%ff", "", 400, wrong.clone()),
        ] {
            let answer = house.ask(method.clone(), path, body).await?;
            let shown = format!("{method} {path}");
            ensure!(answer.status() == status, "{shown}: {}", answer.status());
            ensure!(answer.headers()["content-type"] == "application/json", "{shown}: {:?}", answer.headers());
            let answer: Value = serde_json::from_str(&answer.text().await?)?;
            ensure!(answer == expected, "{shown}: {answer}");
        }
        let answer = house.ask(Method::POST, &format!("/compute/{long}/upload"), "1").await?;
        ensure!(answer.status() == 400, "a name of 10,000 characters: {}", answer.status());
        let answer = house.ask(Method::POST, "/compute/a/upload", vec![0xff]).await?;
        ensure!(answer.status() == 400, "no text: {}", answer.status());
        let first: Value =
            serde_json::from_str(&house.ask(Method::GET, "/compute/a/info?version=1", "").await?.text().await?)?;
        ensure!(first["code"] == code && first["author"] == "crate" && first["version"] == 1, "{first}");
        for stmt in [
            "INSERT INTO notebooks (name, version, code) VALUES ('a', 9, 'print(1)')",
            "UPDATE notebooks SET code = 'print(1)'",
            "DELETE FROM doc.notebooks",
            "DROP TABLE notebooks",
            "CREATE TABLE IF NOT EXISTS Notebooks (name TEXT)",
            "ALTER TABLE notebooks ADD COLUMN x TEXT",
        ] {
            let told = house.sql(stmt).await?;
            ensure!(told["error"]["code"] == 4004, "{stmt}: {told}");
        }
        let kept = house.sql("SELECT version, deleted FROM notebooks WHERE name = 'a' ORDER BY version").await?;
        ensure!(kept["rows"] == json!([[1, false], [2, false], [3, true]]), "{kept}");
        Ok(())
    })
}

pub(crate) fn run(python: PathBuf) -> Result<()> {
    block_on(async {
        let house = House::open(with(&python, small_limits())).await?;
        let echo = "import json\nprint(json.dumps([sys.argv[5:], host, port.isdigit(), username == sys.argv[3], password == sys.argv[4]]))";
        house.upload("echo", echo).await?;
        let long = "ä; '\"=".repeat(2_000);
        let parameters = json!({"b": "x=y z", "a": long, "e": "", "ü 1": "\u{1f600}\n"}).to_string();
        let parameters = parameters.replacen('{', "{\"n\": 1.10, \"t\": true, \"z\": null, \"o\": [1, {}], ", 1);
        let answer = house.ask(Method::POST, "/compute/echo", parameters).await?;
        ensure!(answer.status() == 200, "{}", answer.text().await?);
        ensure!(answer.headers()["content-type"] == "text/html; charset=utf-8", "{:?}", answer.headers());
        let text = answer.text().await?;
        ensure!(text.ends_with(']'), "no line break at the end: {text:?}");
        let [args, host, port, user, password]: [Value; 5] = serde_json::from_str(&text)?;
        let named = [("n", "1.10"), ("t", "true"), ("z", "null"), ("o", "[1, {}]"), ("a", &long)];
        let named = named.into_iter().chain([("b", "x=y z"), ("e", ""), ("ü 1", "\u{1f600}\n")]);
        let expected: Vec<_> = named.map(|(name, value)| format!("{name}={value}")).collect();
        ensure!(args == json!(expected), "{args}");
        ensure!([host, port, user, password] == [json!("127.0.0.1"), json!(true), json!(true), json!(true)]);

        let as_json = house.client.post(format!("{}/compute/echo", house.url)).header("accept", "application/json");
        let answer = as_json.body("{}").send().await?;
        ensure!(answer.headers()["content-type"] == "application/json" && answer.status() == 200);

        for (parameters, status, expected) in [
            ("", 200, "[[]"),
            ("[1]", 400, "a JSON object of parameters"),
            ("{\"a\": 1, \"a\": 2}", 400, "there twice"),
            ("{\"a=b\": 1}", 400, "no name of a parameter"),
            ("{\"a\": \"\\ud800\"}", 400, "parameters: "),
            ("{\"a\": 1", 400, "parameters: "),
        ] {
            let answer = house.ask(Method::POST, "/compute/echo", parameters).await?;
            let (got, text) = (answer.status(), answer.text().await?);
            ensure!(got == status && text.contains(expected), "{parameters}: {got} {text}");
        }
        let answer = house.ask(Method::POST, "/compute/echo", vec![b' '; (1 << 20) + 1]).await?;
        ensure!(answer.status() == 413, "{}", answer.status());

        // What it prints is what is answered, byte for byte, but for one line break.
        for (code, expected) in [
            ("pass", ""),
            ("print()", ""),
            ("print('a\\n')", "a\n"),
            ("sys.stdout.write('a\\r\\n\\n')", "a\r\n"),
            ("eprint('unseen'); print('seen'); sys.exit(0)", "seen"),
            ("print(__name__, __file__.split('/')[-1], sys.argv[0] == __file__)", "__main__ notebook.py True"),
            ("print(sys.stdin.read() == '')", "True"),
            ("import pip; print(pip.__name__)", "pip"),
            ("cursor.execute('SELECT 1 + 1 AS two'); print(cursor.fetchall())", "[[2]]"),
            ("\u{feff}print('a mark of the byte order')\r\n", "a mark of the byte order"),
        ] {
            let (status, text) = house.run("code", code, "{}").await?;
            ensure!(status == 200 && text == expected, "{code}: {status} {text:?}");
        }
        Ok(())
    })
}

pub(crate) fn fails(python: PathBuf) -> Result<()> {
    block_on(async {
        let limits = RunLimits { time: Span(Duration::from_secs(3)), ..small_limits() };
        let house = House::open(with(&python, limits)).await?;
        for (code, status, expected) in [
            ("print('before')\n\nraise ValueError('line three')", 500, "notebook.py\", line 3, in <module>"),
            ("sys.exit(3)", 500, "status 3"),
            ("sys.exit('a word')", 500, "a word"),
            ("print(1\n", 500, "SyntaxError"),
            ("import os; os.abort()", 500, "signal"),
            ("cursor.execute('SELECT * FROM nowhere')", 500, "nowhere"),
            ("import time; time.sleep(60)", 504, "limits.time"),
            ("import os\nfor line in range(10): eprint('x' * 10_000)\neprint('the end')\nos._exit(1)", 500, "the end"),
        ] {
            let began = Instant::now();
            let (got, text) = house.run("code", code, "{}").await?;
            ensure!(got == status && text.contains(expected), "{code}: {got} {text}");
            ensure!(!text.contains("bootstrap") && !text.contains("_begin"), "our own lines: {text}");
            ensure!(text.len() < 40_000, "{code}: the end of standard error alone: {}", text.len());
            ensure!(began.elapsed() < Duration::from_secs(3 + 2 + 10), "{code}: {:?}", began.elapsed());
        }
        let request = house.client.post(format!("{}/compute/code", house.url)).header("accept", "application/json");
        let answer: Value = serde_json::from_str(&request.body("{}").send().await?.text().await?)?;
        ensure!(answer["error"] == "the notebook ended with status 1", "{answer}");
        ensure!(answer["stderr"].as_str().is_some_and(|stderr| stderr.ends_with("the end")), "{answer}");
        Ok(())
    })
}

/// A raw request, whose answer is read as it comes.
async fn raw(house: &House, path: &str, headers: &str) -> Result<tokio::net::TcpStream> {
    let address = house.url.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Length: 2\r\n\r\n{{}}");
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

/// Reads until the text has come, or the answer has ended.
async fn read_until(stream: &mut tokio::net::TcpStream, text: &str) -> Result<String> {
    let mut read = Vec::new();
    let reading = async {
        let mut chunk = [0; 4096];
        while !String::from_utf8_lossy(&read).contains(text) {
            match stream.read(&mut chunk).await {
                Ok(length @ 1..) => read.extend_from_slice(&chunk[..length]),
                _ => break,
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await?;
    Ok(String::from_utf8_lossy(&read).into_owned())
}

pub(crate) fn streams(python: PathBuf) -> Result<()> {
    block_on(async {
        let house = House::open(with(&python, small_limits())).await?;
        house
            .upload(
                "slow",
                "import time\nprint('first')\ntime.sleep(2)\nprint('second')\ntime.sleep(1)\nprint('third')",
            )
            .await?;
        let began = Instant::now();
        let mut stream = raw(&house, "/compute/slow", "").await?;
        let first = read_until(&mut stream, "first").await?;
        let seen = began.elapsed();
        let rest = read_until(&mut stream, "0\r\n\r\n").await?;
        ensure!(first.starts_with("HTTP/1.1 200") && first.contains("first"), "{first}");
        ensure!(began.elapsed() > seen + Duration::from_secs(1), "it came in one piece");
        ensure!(!rest.contains("third\n") && rest.ends_with("0\r\n\r\n"), "{rest:?}");

        // Later than the answer is held back.
        house.upload("breaks", "import time\nprint('first')\ntime.sleep(3)\nraise ValueError('too late')").await?;
        let answer =
            read_until(&mut raw(&house, "/compute/breaks", "Connection: close\r\n").await?, "\r\n0\r\n").await?;
        ensure!(answer.starts_with("HTTP/1.1 200") && !answer.contains("\r\n0\r\n"), "broken off: {answer:?}");
        let headers = "Connection: close\r\nTE: trailers\r\n";
        let answer = read_until(&mut raw(&house, "/compute/breaks", headers).await?, "\r\n\r\n0\r\n never").await?;
        ensure!(answer.contains("trailer: costream-error\r\n"), "announced: {answer:?}");
        let trailer = "0\r\ncostream-error: the notebook ended with status 1: ValueError: too late\r\n\r\n";
        ensure!(answer.ends_with(trailer), "a trailer says why: {answer:?}");
        Ok(())
    })
}

/// Processes whose command line has a mark that a notebook gave them.
fn marked(mark: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(mark)))
        .collect()
}

pub(crate) fn gone(python: PathBuf) -> Result<()> {
    block_on(async {
        let house = House::open(with(&python, small_limits())).await?;
        // Before its first output, and after.
        for (nth, first) in ["pass", "print('first', flush=True); import time; time.sleep(2)"].into_iter().enumerate() {
            let mark = format!("costream-gone-{}-{nth}", std::process::id());
            let sleep = format!("import subprocess\nsubprocess.run(['sh', '-c', 'sleep 600; : {mark}'])");
            house.upload("endless", &format!("{first}\n{sleep}")).await?;
            let stream = raw(&house, "/compute/endless", "").await?;
            until("the notebook runs", || (!marked(&mark).is_empty()).then_some(())).await?;
            drop(stream);
            house.is_clean(|| marked(&mark)).await?;
        }
        Ok(())
    })
}

pub(crate) fn busy(python: PathBuf) -> Result<()> {
    block_on(async {
        let config = ComputeConfig { concurrency: 1, waiting: 1, ..with(&python, small_limits()) };
        let house = House::open(config).await?;
        let mark = format!("costream-busy-{}", std::process::id());
        house
            .upload("endless", &format!("import subprocess\nsubprocess.run(['sh', '-c', 'sleep 600; : {mark}'])"))
            .await?;
        house.upload("short", "print('done')").await?;
        let running = raw(&house, "/compute/endless", "").await?;
        until("the notebook runs", || (!marked(&mark).is_empty()).then_some(())).await?;
        // Whichever of the two comes first waits.
        let [one, other] = [(); 2].map(|()| Box::pin(house.ask(Method::POST, "/compute/short", "{}")));
        let (turned_away, waiting) = select(one, other).await.factor_first();
        let turned_away = turned_away?;
        ensure!(turned_away.status() == 429, "{}", turned_away.status());
        ensure!(turned_away.headers().contains_key("retry-after"), "{:?}", turned_away.headers());
        ensure!(house.sql("SELECT 1").await?["rows"] == json!([[1]]), "others are answered");
        drop(running);
        let waiting = waiting.await?;
        ensure!(waiting.status() == 200 && waiting.text().await? == "done", "who waited has had their turn");
        Ok(())
    })
}
