//! The interpreter of the notebooks: configured, or made on first use, a virtual environment below `data_dir` with the
//! configured packages. It is made once, however many ask, and by one process, whichever others use the directory;
//! who asks meanwhile waits, or is told how far it has come. A making that failed is told with pip's last lines, and
//! tried anew when somebody asks again.
//!
//! Holds the last lines of pip. The interpreter and pip run here with the handler's own rights: they are the
//! operator's choice, and no notebook has a say in them.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::sync::watch;

use super::settings::PythonConfig;

/// Lines of a program that failed, as they are told.
const LAST_LINES: usize = 12;
/// The longest line that is kept of them, in bytes.
const MAX_LINE_BYTES: usize = 400;
/// Variables that pip and the making of an environment may need of the handler's own.
const PASSED_ON: [&str; 6] = ["PATH", "HOME", "TMPDIR", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR"];
/// Asks an interpreter where it keeps its files, and whether it has what the prelude imports.
const EXAMINE: &str = "import json, sys, pip\nfrom crate import client\n\
    print(json.dumps({'program': sys.executable, 'version': sys.version.split()[0], 'reads': [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]}))";

/// An interpreter that can be begun.
#[derive(Debug)]
pub(super) struct Interpreter {
    /// Its program, as it calls itself: what was configured may be a script that finds it.
    pub(super) program: PathBuf,
    /// What it is: `3.12.1`.
    pub(super) version: String,
    /// The directories of its files.
    pub(super) reads: Vec<PathBuf>,
}

/// Why there is no interpreter.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PythonError {
    /// It is still being made.
    #[error("the Python environment is being made: {0}")]
    Making(String),
    /// It cannot be had.
    #[error("there is no Python environment: {0}")]
    Failed(String),
}

/// How far the interpreter is.
#[derive(Clone, Debug)]
enum Progress {
    /// Nobody has asked, or the last making failed.
    Absent(Option<String>),
    Making(String),
    Ready(Arc<Interpreter>),
}

/// The interpreter, made when it is asked for. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Python {
    config: Arc<PythonConfig>,
    folder: Arc<Path>,
    progress: watch::Sender<Progress>,
}

impl Python {
    /// Environments are made in `folder`.
    pub(super) fn new(config: PythonConfig, folder: PathBuf) -> Self {
        let progress = watch::Sender::new(Progress::Absent(None));
        Self { config: Arc::new(config), folder: folder.into(), progress }
    }

    /// The interpreter, once it is there, which is waited for so long.
    ///
    /// # Errors
    /// It is not there by then, or cannot be made.
    pub(super) async fn interpreter(&self, within: Duration) -> Result<Arc<Interpreter>, PythonError> {
        let mut news = self.progress.subscribe();
        self.begin();
        let settled = tokio::time::timeout(within, news.wait_for(|progress| !matches!(progress, Progress::Making(_))));
        let progress = match settled.await {
            Ok(Ok(progress)) => progress.clone(),
            _ => self.progress.borrow().clone(),
        };
        match progress {
            Progress::Ready(interpreter) => Ok(interpreter),
            Progress::Making(step) => Err(PythonError::Making(step)),
            Progress::Absent(why) => Err(PythonError::Failed(why.unwrap_or_default())),
        }
    }

    /// In words.
    pub(super) fn state(&self) -> String {
        match &*self.progress.borrow() {
            Progress::Absent(None) => "made when the first notebook is run".to_owned(),
            Progress::Absent(Some(why)) => format!("failed: {why}"),
            Progress::Making(step) => format!("being made: {step}"),
            Progress::Ready(interpreter) => format!("Python {}", interpreter.version),
        }
    }

    /// The interpreter, when it is there.
    pub(super) fn ready(&self) -> Option<Arc<Interpreter>> {
        match &*self.progress.borrow() {
            Progress::Ready(interpreter) => Some(Arc::clone(interpreter)),
            _ => None,
        }
    }

    /// Begins to make it unless that is under way or done. It goes on when whoever asked has gone.
    fn begin(&self) {
        let begins = self.progress.send_if_modified(|progress| {
            let absent = matches!(progress, Progress::Absent(_));
            if absent {
                *progress = Progress::Making("begun".to_owned());
            }
            absent
        });
        if begins {
            let making = self.clone();
            tokio::spawn(async move {
                let made = match making.make().await {
                    Ok(interpreter) => {
                        tracing::info!(program = %interpreter.program.display(), version = interpreter.version, "notebooks have a Python");
                        Progress::Ready(Arc::new(interpreter))
                    }
                    Err(why) => {
                        tracing::warn!(error = why, "the Python environment cannot be made; the next run tries again");
                        Progress::Absent(Some(why))
                    }
                };
                making.progress.send_replace(made);
            });
        }
    }

    fn step(&self, step: &str) {
        tracing::info!("making the Python environment: {step}");
        self.progress.send_replace(Progress::Making(step.to_owned()));
    }

    async fn make(&self) -> Result<Interpreter, String> {
        if let Some(program) = &self.config.interpreter {
            return examine(program).await;
        }
        let base = self.config.base.as_path();
        let version = said(own(base).arg("--version"), |_| {}).await?.join(" ");
        let home = self.folder.join(name_of(base, &version, &self.config.packages));
        let program = home.join("bin").join("python");
        let complete = home.join("complete");
        if !complete.is_file() {
            let _one_at_a_time = locked(&home).await.map_err(|error| format!("lock {}: {error}", home.display()))?;
            // Another process may have made it while we waited.
            if !complete.is_file() {
                self.fill(&home, &program).await?;
                tokio::fs::write(&complete, [])
                    .await
                    .map_err(|error| format!("write {}: {error}", complete.display()))?;
            }
        }
        examine(&program).await
    }

    async fn fill(&self, home: &Path, program: &Path) -> Result<(), String> {
        self.step(&format!("{} -m venv", self.config.base.display()));
        said(own(&self.config.base).args(["-m", "venv", "--clear"]).arg(home), |_| {}).await?;
        self.step(&format!("pip install {}", self.config.packages.join(" ")));
        let mut pip = own(program);
        pip.args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]);
        pip.args(["--prefer-binary", "--"]).args(&self.config.packages);
        said(&mut pip, |line| {
            if line.starts_with("Collecting") || line.starts_with("Installing") {
                self.step(line);
            }
        })
        .await?;
        Ok(())
    }
}

/// The name of the environment of a Python and its packages: others of them are another environment.
fn name_of(base: &Path, version: &str, packages: &[String]) -> String {
    let mut digest = Sha256::new();
    for part in [base.as_os_str().as_encoded_bytes(), version.as_bytes()]
        .into_iter()
        .chain(packages.iter().map(|package| package.as_bytes()))
    {
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Takes the lock of an environment, beside it; let go with the file, or with the process.
async fn locked(home: &Path) -> std::io::Result<std::fs::File> {
    let path = home.with_extension("lock");
    let lock = tokio::task::spawn_blocking(move || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = std::fs::File::options().create(true).truncate(false).write(true).open(path)?;
        file.lock().map(|()| file)
    });
    lock.await.map_err(std::io::Error::other)?
}

#[derive(Deserialize)]
struct Examined {
    program: PathBuf,
    version: String,
    reads: Vec<PathBuf>,
}

/// Asks a program whether it is an interpreter that notebooks can use.
async fn examine(program: &Path) -> Result<Interpreter, String> {
    let lines = said(own(program).args(["-I", "-c", EXAMINE]), |_| {}).await?;
    let examined = lines.last().and_then(|line| serde_json::from_str::<Examined>(line).ok());
    let Examined { program, version, reads } =
        examined.ok_or_else(|| format!("{} is no Python: {}", program.display(), lines.join(" | ")))?;
    Ok(Interpreter { program, version, reads })
}

/// A command of the operator's, with what it may need of our environment: proxies and pip's settings too.
fn own(program: &Path) -> Command {
    let needed = |name: &OsString| {
        let name = name.to_string_lossy();
        PASSED_ON.contains(&&*name) || name.starts_with("PIP_") || name.to_ascii_lowercase().ends_with("_proxy")
    };
    let mut command = Command::new(program);
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| needed(name)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs a command; its last lines, or what it said when it failed.
async fn said(command: &mut Command, mut heard: impl FnMut(&str) + Send) -> Result<Vec<String>, String> {
    let program = command.as_std().get_program().display().to_string();
    let mut child = command.spawn().map_err(|error| format!("start {program}: {error}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut ignore = |_: &str| {};
    let (said, complained, status) =
        tokio::join!(last_lines(stdout, &mut heard), last_lines(stderr, &mut ignore), child.wait());
    let status = status.map_err(|error| format!("wait for {program}: {error}"))?;
    if status.success() {
        return Ok(said.into());
    }
    let lines: Vec<String> = said.into_iter().chain(complained).collect();
    let from = lines.len().saturating_sub(LAST_LINES);
    Err(format!("{program} ended with {status}: {}", lines[from..].join(" | ")))
}

async fn last_lines(from: Option<impl AsyncRead + Unpin>, heard: &mut (dyn FnMut(&str) + Send)) -> VecDeque<String> {
    let mut last = VecDeque::new();
    let Some(from) = from else { return last };
    let mut lines = BufReader::new(from).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line[..line.len().min(MAX_LINE_BYTES)]).trim_end().to_owned();
        heard(&line);
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(interpreter: Option<&Path>, base: &Path, folder: &Path) -> Python {
        let config = PythonConfig {
            interpreter: interpreter.map(Path::to_owned),
            base: base.to_owned(),
            packages: vec!["no-such-package-of-costream==0".to_owned()],
        };
        Python::new(config, folder.join("python"))
    }

    /// A program that does what the text says.
    fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("made a program");
        path
    }

    #[tokio::test]
    async fn a_making_is_begun_once_and_tried_anew_after_a_failure() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let made = dir.path().join("made");
        let text = format!(
            "case \"$*\" in *--version*) echo Python 3;; *) echo x >> {}; echo no space left >&2; exit 3;; esac",
            made.display()
        );
        let python = python(None, &script(dir.path(), "python3", &text), dir.path());
        for tries in 1..=2 {
            let (first, second) =
                tokio::join!(python.interpreter(Duration::from_secs(60)), python.interpreter(Duration::from_secs(60)));
            for asked in [first, second] {
                let error = asked.expect_err("no environment").to_string();
                assert!(error.contains("exit status: 3") && error.contains("no space left"), "{error}");
            }
            assert_eq!(std::fs::read_to_string(&made).expect("written").lines().count(), tries, "once for both");
        }
        assert!(python.state().contains("no space left") && python.ready().is_none(), "{}", python.state());
    }

    #[tokio::test]
    async fn who_asks_meanwhile_is_told_how_far_it_is() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let text = "case \"$*\" in *--version*) echo Python 3;; *) exec sleep 60;; esac";
        let python = python(None, &script(dir.path(), "python3", text), dir.path());
        let told = async {
            loop {
                match python.interpreter(Duration::from_millis(20)).await {
                    Err(PythonError::Making(step)) if step.contains("venv") => return,
                    Err(PythonError::Making(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), told).await.expect("it says that it makes an environment");
    }

    #[tokio::test]
    async fn an_interpreter_that_is_none_is_told() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, text, reason) in
            [("liar", "echo hello", "is no Python: hello"), ("bare", "echo No module named crate >&2; exit 1", "crate")]
        {
            let program = script(dir.path(), name, text);
            let python = python(Some(&program), Path::new("python3"), dir.path());
            let error = python.interpreter(Duration::from_secs(60)).await.expect_err("no interpreter").to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn another_list_of_packages_is_another_environment() {
        let name = |base: &str, version: &str, packages: &[&str]| {
            let packages: Vec<_> = packages.iter().map(|package| (*package).to_owned()).collect();
            name_of(Path::new(base), version, &packages)
        };
        let one = name("python3", "3.12", &["crate", "pandas"]);
        assert_eq!(one, name("python3", "3.12", &["crate", "pandas"]));
        for other in [
            name("python3", "3.13", &["crate", "pandas"]),
            name("python3", "3.12", &["cratepandas"]),
            name("p", "3.12", &[]),
        ] {
            assert_ne!(one, other);
        }
    }
}
