//! Notebooks: kept in the store, and run as untrusted code. A request's code and arguments in, what the notebook
//! prints out, while it prints it; who reads slowly slows the notebook, who goes away ends it.
//!
//! ```text
//! api ─▶ notebook ─▶ cells ─▶ run ─▶ keeper ═▶ launcher ─▶ interpreter ─▶ the run's own gateway ─▶ SQL
//!        the store's  what is  places, a login,  a program of its own:
//!        table        run      a gateway, limits  fences, watch, end
//! ```
//!
//! A notebook is started as `python3 <file> <host> <port> <user> <password> name=value ...` and finds defined what
//! `prelude.py` defines. Host and port are the run's own gateway, the SQL door for this run alone; user and password are
//! good for this run alone, with its caller's rights. They reach the interpreter through a socket, and stand in no list
//! of arguments and no environment of any process. How far a run is kept from everything else says its [`Tier`].
//!
//! A statement (`.sql`) is answered by the engine, in process.
//!
//! Refused: code without the right to it, more runs than there are places, anything beyond [`RunLimits`], and running
//! at all on a machine that cannot keep runs in as far as the configuration asks for. Peak memory: see [`run`] and
//! [`notebook`], and what the runs themselves may use: `concurrency` times `memory_bytes` and `disk_bytes`.

pub mod cells;
mod folder;
mod keeper;
#[cfg_attr(not(target_os = "linux"), path = "launcher/elsewhere.rs")]
pub mod launcher;
pub mod notebook;
mod order;
pub mod python;
pub mod run;
pub mod settings;
mod tier;

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use serde_json::{Value, json};

use self::cells::Cells;
use self::folder::Folders;
use self::notebook::Notebooks;
pub use self::order::{Network, Tier};
use self::python::{Python, PythonError};
use self::run::{Run, RunError, Runs};
pub use self::settings::{ComputeConfig, Containment, PythonConfig, RunLimits};
use crate::auth::{Caller, Gate, RunCredentials};
use crate::sql::Engine;
use crate::store::Store;

/// The gateway's port in a network of its own: CrateDB's.
const GATEWAY_PORT: u16 = 4200;

/// Where Python environments are, below the handler's `data_dir`.
const PYTHON: &str = "python";

/// Makes the Python environment of a configuration below `data_dir`, or finds that it is there; says what it is.
///
/// # Errors
/// It cannot be made; the last lines of what failed are told.
pub async fn prepare(config: &ComputeConfig, data_dir: &Path) -> Result<String, PythonError> {
    let python = Python::new(config.python.clone(), data_dir.join(PYTHON));
    python.interpreter(settings::LONGEST_RUN).await?;
    Ok(python.state())
}

/// Notebooks, and the running of them. Cheap to clone; clones are one.
#[derive(Clone, Debug)]
pub struct Compute {
    config: Arc<ComputeConfig>,
    notebooks: Notebooks,
    python: Python,
    runs: Runs,
}

impl Compute {
    /// The notebooks of a store; runs and their interpreter have their place in `data_dir`.
    pub fn new(
        config: ComputeConfig,
        data_dir: &Path,
        store: Store,
        engine: Engine,
        credentials: RunCredentials,
        gate: Gate,
    ) -> Self {
        // A run sees the system's root, or one of its own.
        let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        let config = Arc::new(config);
        let python = Python::new(config.python.clone(), data_dir.join(PYTHON));
        let folders = Folders::new(data_dir.join("runs"));
        Self {
            runs: Runs::new(Arc::clone(&config), python.clone(), folders, credentials, gate),
            notebooks: Notebooks::new(store.edit, engine),
            python,
            config,
        }
    }

    /// The notebooks that are kept.
    pub fn notebooks(&self) -> &Notebooks {
        &self.notebooks
    }

    /// Begins a run of a caller's; `routes` is what its gateway serves to it.
    ///
    /// # Errors
    /// There is no place, no interpreter, or not what has to keep it in.
    pub(crate) async fn run(
        &self,
        caller: &Caller,
        cells: Cells,
        args: Vec<String>,
        routes: Router,
    ) -> Result<Run, RunError> {
        self.runs.begin(caller, cells, args, routes).await
    }

    /// Whether no run goes on, and nothing is left of any.
    pub fn is_idle(&self) -> bool {
        self.runs.is_idle()
    }

    /// What `/-/capabilities` says.
    pub(crate) async fn capabilities(&self) -> Value {
        let found = self.runs.found().await;
        let limits = &self.config.limits;
        json!({
            "runs": found.tier.is_some(),
            "tier": found.tier,
            "at_least": self.config.containment.at_least,
            "at_most": self.config.containment.at_most,
            "fences": found.fences,
            "without": found.without,
            "network": self.config.network,
            "python": self.python.state(),
            "concurrency": self.config.concurrency,
            "limits": {
                "time_seconds": limits.time.0.as_secs_f64(),
                "cpu_seconds": limits.cpu_time.0.as_secs_f64(),
                "memory_bytes": limits.memory_bytes,
                "processes": limits.processes,
                "open_files": limits.open_files,
                "file_bytes": limits.file_bytes,
                "disk_bytes": limits.disk_bytes,
                "files": limits.files,
                "output_bytes": limits.output_bytes,
            },
        })
    }
}
