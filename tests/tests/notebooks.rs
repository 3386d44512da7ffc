//! Notebooks by the programs themselves, with users, and at the most talkative level of logs: a password appears nowhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use costream_tests::parts::{Suite, python};
use costream_tests::programs::{Program, free_address, get, until};
use reqwest::{Method, Response};
use tokio::runtime::Runtime;

/// What nobody but its user and the handler's memory is to have.
const CANARY: &str = "canary-3bf2c1-password";

fn main() -> ExitCode {
    let python = python(&["crate==2.3.0", "pandas==3.1.1"]).map_err(|error| format!("{error:#}"));
    let python = || python.clone().map_err(anyhow::Error::msg);
    Suite::new()
        .claim_with("a_password_appears_nowhere", python(), |python| no_password(&python))
        .claim_with("the_all_in_one_runs_notebooks_too", python(), |python| all_in_one(&python))
        .claim_with("a_handler_that_is_killed_leaves_no_run", python(), |python| killed(&python))
        .run()
}

struct Client {
    runtime: Runtime,
    client: reqwest::Client,
    url: String,
    user: Option<(&'static str, &'static str)>,
}

impl Client {
    fn new(url: String, user: Option<(&'static str, &'static str)>) -> Result<Self> {
        Ok(Self { runtime: Runtime::new()?, client: reqwest::Client::new(), url, user })
    }

    fn begin(&self, method: Method, path: &str, body: &str) -> Result<Response> {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).body(body.to_owned());
        if let Some((user, password)) = self.user {
            request = request.basic_auth(user, Some(password));
        }
        self.runtime.block_on(request.send()).with_context(|| format!("ask {path}"))
    }

    fn ask(&self, method: Method, path: &str, body: &str) -> Result<(u16, String)> {
        let answer = self.begin(method, path, body)?;
        Ok((answer.status().as_u16(), self.runtime.block_on(answer.text())?))
    }

    fn upload(&self, name: &str, code: &str) -> Result<()> {
        let (status, text) = self.ask(Method::POST, &format!("/compute/{name}/upload?overwrite=true"), code)?;
        ensure!(status == 200 && text == "{\"result\":true}", "{status} {text}");
        Ok(())
    }
}

/// Writes a configuration; the address that it has the handler listen at.
fn configuration(folder: &Path, python: &Path, more: &str) -> Result<String> {
    let address = free_address()?;
    let config = format!(
        "exporter: {{listen_address: '127.0.0.1:0'}}
handler:
  listen_address: {address}
  data_dir: data
  compute:
    python: {{interpreter: '{}'}}
{more}",
        python.display()
    );
    fs::write(folder.join("costream.yaml"), config).context("write the configuration")?;
    Ok(format!("http://{address}"))
}

/// Starts a program, and waits until its handler is ready.
fn start(program: &str, folder: &Path, url: &str, arguments: &[&str]) -> Result<Program> {
    let started = Program::start(program, folder, arguments)?;
    until("it is ready", || get(&format!("{url}/-/ready")))?;
    Ok(started)
}

/// Arguments and environment of every process that we may look at, but our own.
fn processes() -> Result<Vec<(PathBuf, String)>> {
    let mut texts = Vec::new();
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let is_a_process =
            name.to_str().is_some_and(|name| name != own && name.bytes().all(|byte| byte.is_ascii_digit()));
        for file in ["cmdline", "environ"].into_iter().filter(|_| is_a_process) {
            let path = entry.path().join(file);
            if let Ok(bytes) = fs::read(&path) {
                texts.push((path, String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
    }
    Ok(texts)
}

fn no_password(python: &Path) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let url = configuration(folder.path(), python, "")?;
    let users = format!("basic_auth_users:\n  ann: {}\n", bcrypt::hash(CANARY, 4)?);
    fs::write(folder.path().join("web.yml"), users)?;
    let arguments = ["--config.file", "costream.yaml", "--web.config.file", "web.yml", "--log.level", "debug"];
    let mut handler = Program::start("costream-handler", folder.path(), &arguments)?;
    handler.word_after("listening on")?;
    let client = Client::new(url.clone(), Some(("ann", CANARY)))?;

    client.upload("canary", "import time\nprint(username, password)\ntime.sleep(4)\nraise ValueError(host)")?;
    let mut answer = client.begin(Method::POST, "/compute/canary", "{\"a\": \"b\"}")?;
    let told = client.runtime.block_on(answer.chunk())?.context("a first line")?;
    let told = String::from_utf8(told.to_vec())?;
    let (user, password) = told.trim().split_once(' ').context("a user and a password")?;
    ensure!(user != "ann" && password.len() > 30, "{told}");
    let running = processes()?;
    ensure!(running.iter().any(|(_, text)| text.contains("costream-notebook-keeper")), "the notebook runs");
    for (path, text) in &running {
        ensure!(!text.contains(CANARY) && !text.contains(password), "{}", path.display());
    }
    while let Ok(Some(_)) = client.runtime.block_on(answer.chunk()) {}

    // Errors, of all kinds.
    client.upload("fails", "cursor.execute('SELEC')")?;
    let mut told = String::new();
    for (method, path, body) in [
        (Method::POST, "/compute/fails", "{}"),
        (Method::POST, "/compute/unknown", "{}"),
        (Method::POST, "/compute/fails", "{"),
        (Method::POST, "/_sql", "{\"stmt\": \"SELEC\"}"),
        (Method::GET, "/metrics", ""),
        (Method::GET, "/-/capabilities", ""),
        (Method::GET, "/compute/canary/info?version=1", ""),
    ] {
        told += &client.ask(method, path, body)?.1;
    }
    let wrong = Client::new(url.clone(), Some(("ann", "canary-3bf2c1-passwore")))?;
    told += &wrong.ask(Method::GET, "/compute/list", "")?.1;
    let run =
        wrong.client.post(format!("{url}/_sql")).basic_auth(user, Some(password)).body("{\"stmt\": \"SELECT 1\"}");
    let status = wrong.runtime.block_on(run.send())?.status();
    ensure!(status == 401, "the run's password is worth nothing after it: {status}");
    let printed = handler.printed()?;
    let secrets = [CANARY, password, "canary-3bf2c1"];
    for secret in secrets {
        ensure!(!told.contains(secret), "told: {told}");
        ensure!(!printed.contains(secret), "the log has it: {printed}");
    }
    ensure!(printed.contains("DEBUG"), "the most talkative level");
    for path in files(folder.path())? {
        let bytes = fs::read(&path)?;
        let text = String::from_utf8_lossy(&bytes);
        ensure!(!text.contains(CANARY) && !text.contains(password), "{}", path.display());
    }
    ensure!(handler.terminate()?.success());
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { files.extend(self::files(&path)?) } else { files.push(path) }
    }
    Ok(files)
}

fn all_in_one(python: &Path) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let url = configuration(folder.path(), python, "")?;
    let _program = start("costream", folder.path(), &url, &["run", "--config.file", "costream.yaml"])?;
    let client = Client::new(url, None)?;
    client.upload("a", "cursor.execute('SELECT 1')\nprint(cursor.fetchall())")?;
    let answer = client.ask(Method::POST, "/compute/a", "{}")?;
    ensure!(answer == (200, "[[1]]".to_owned()), "{answer:?}");
    Ok(())
}

/// A handler that has no last word takes its runs along, and the next one clears away what they left.
fn killed(python: &Path) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let url = configuration(folder.path(), python, "    containment: {at_least: limits}\n")?;
    let handler = start("costream-handler", folder.path(), &url, &["--config.file", "costream.yaml"])?;
    let client = Client::new(url.clone(), None)?;
    client.upload("endless", "import time\nprint('begun')\ntime.sleep(600)")?;
    let mut answer = client.begin(Method::POST, "/compute/endless", "{}")?;
    client.runtime.block_on(answer.chunk())?.context("it has begun")?;
    let keepers = || -> Result<usize> {
        let of_ours = folder.path().display().to_string();
        let keepers = processes()?.into_iter().filter(|(path, text)| {
            text.contains("costream-notebook-keeper")
                && path
                    .parent()
                    .and_then(|place| fs::read_link(place.join("cwd")).ok())
                    .is_some_and(|cwd| cwd.starts_with(&of_ours))
        });
        Ok(keepers.count())
    };
    ensure!(keepers()? == 1, "a keeper");
    handler.kill()?;
    until("the run has gone", || Ok((keepers()? == 0).then_some(())))?;
    let left = || fs::read_dir(folder.path().join("data/runs")).map_or(0, Iterator::count);
    ensure!(left() == 1, "its directory is left");
    let mut handler = start("costream-handler", folder.path(), &url, &["--config.file", "costream.yaml"])?;
    client.upload("short", "print('done')")?;
    let answer = client.ask(Method::POST, "/compute/short", "{}")?;
    ensure!(answer == (200, "done".to_owned()), "{answer:?}");
    ensure!(left() == 1, "the next handler's own, and no other");
    ensure!(handler.ended()?.is_none());
    Ok(())
}
