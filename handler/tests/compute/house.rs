//! A served handler with a Python, and what tests ask of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use costream_common::config::Span;
use costream_common::http::door::Door;
use costream_handler::Handler;
use costream_handler::compute::{ComputeConfig, Containment, PythonConfig, RunLimits, Tier};
use costream_handler::config::HandlerConfig;
use reqwest::{Method, Response};
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest wait for anything that is to become true: a loaded machine, not a fast one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A handler on a free port, until it is dropped.
pub(crate) struct House {
    pub(crate) url: String,
    pub(crate) client: reqwest::Client,
    pub(crate) handler: Handler,
    pub(crate) data_dir: PathBuf,
    _serving: DropGuard,
    _dir: tempfile::TempDir,
}

/// Limits that a test need not wait long for.
pub(crate) fn small_limits() -> RunLimits {
    RunLimits {
        time: Span(Duration::from_secs(20)),
        cpu_time: Span(Duration::from_secs(20)),
        memory_bytes: 256 << 20,
        processes: 24,
        disk_bytes: 32 << 20,
        files: 2_000,
        file_bytes: 16 << 20,
        output_bytes: 1 << 20,
        ..RunLimits::default()
    }
}

/// A configuration with an interpreter that is there.
pub(crate) fn with(python: &Path, limits: RunLimits) -> ComputeConfig {
    ComputeConfig {
        python: PythonConfig { interpreter: Some(python.to_owned()), ..PythonConfig::default() },
        limits,
        ..ComputeConfig::default()
    }
}

/// Exactly one tier.
pub(crate) fn only(tier: Tier) -> Containment {
    Containment { at_least: tier, at_most: tier }
}

impl House {
    pub(crate) async fn open(compute: ComputeConfig) -> Result<Self> {
        // What is left of a run is found by its user: two handlers of one machine share none.
        static NEXT_UID: AtomicU32 = AtomicU32::new(70_000);
        let first_uid = match compute.first_uid {
            chosen if chosen != ComputeConfig::default().first_uid => chosen,
            _ => NEXT_UID.fetch_add(100, Ordering::Relaxed),
        };
        let compute = ComputeConfig { first_uid, ..compute };
        let dir = tempfile::tempdir()?;
        // Runs may have users of their own, who have to come to their directories.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        let data_dir = dir.path().join("data");
        let config = HandlerConfig {
            listen_address: "127.0.0.1:0".to_owned(),
            data_dir: data_dir.clone(),
            compute,
            ..HandlerConfig::default()
        };
        let handler = Handler::open(config).await?;
        let listener = handler.bind(&Door::default()).await?;
        let url = listener.url();
        let shutdown = CancellationToken::new();
        let serving = shutdown.clone().drop_guard();
        let served = handler.clone();
        tokio::spawn(async move { served.serve(listener, shutdown).await });
        Ok(Self { url, client: reqwest::Client::new(), handler, data_dir, _serving: serving, _dir: dir })
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: impl Into<reqwest::Body>) -> Result<Response> {
        let request = self.client.request(method, format!("{}{path}", self.url)).body(body);
        request.send().await.with_context(|| format!("ask {path}"))
    }

    pub(crate) async fn upload(&self, name: &str, code: &str) -> Result<()> {
        let path = format!("/compute/{name}/upload?overwrite=true");
        let answer: Value = serde_json::from_str(&self.ask(Method::POST, &path, code.to_owned()).await?.text().await?)?;
        ensure!(answer == serde_json::json!({"result": true}), "{answer}");
        Ok(())
    }

    /// Uploads a notebook and runs it: the status and the text of the answer.
    pub(crate) async fn run(&self, name: &str, code: &str, parameters: &str) -> Result<(u16, String)> {
        self.upload(name, code).await?;
        let answer = self.ask(Method::POST, &format!("/compute/{name}"), parameters.to_owned()).await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    pub(crate) async fn sql(&self, stmt: &str) -> Result<Value> {
        let body = serde_json::json!({"stmt": stmt}).to_string();
        Ok(serde_json::from_str(&self.ask(Method::POST, "/_sql", body).await?.text().await?)?)
    }

    /// Nothing is left of any run: no directory, no user's process.
    pub(crate) async fn is_clean(&self, pids_of_runs: impl Fn() -> Vec<i32>) -> Result<()> {
        let folders = || {
            let own = std::fs::read_dir(self.data_dir.join("runs")).into_iter().flatten().flatten();
            own.flat_map(|own| std::fs::read_dir(own.path()).into_iter().flatten().flatten())
                .filter(|entry| entry.file_name() != "lock")
                .count()
        };
        until("nothing is left of a run", || (folders() == 0 && pids_of_runs().is_empty()).then_some(())).await
    }
}

/// Asks again and again until there is an answer.
pub(crate) async fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let asked = async {
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.with_context(|| format!("waited {PATIENCE:?} in vain until {what}"))
}
