//! The product's programs, built once a test run and started as users start them. A program
//! ends with its handle.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::runtime::Runtime;

use crate::parts::target_dir;

/// Longest wait for anything that is to become true: a loaded machine, not a fast one.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The path of one of the product's programs, up to date with its source.
///
/// # Errors
/// It does not build.
pub fn program(name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    if let Err(error) = built {
        bail!("{error}");
    }
    Ok(target_dir()?.join(name))
}

fn build() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = target_dir()?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the package is in a workspace")?;
    let mut command = Command::new(cargo);
    command.current_dir(workspace).args(["build", "--quiet", "--workspace", "--bins"]);
    command.env("CARGO_TARGET_DIR", target.parent().context("a profile's folder is in the target folder")?);
    // What cargo tells a test about its own package is in a build script's environment a change, and ring's asks to
    // be built anew at it, with all that stands upon it; and again at the next build from a shell.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    if target.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().context("start cargo")?;
    anyhow::ensure!(status.success(), "cargo build ended with {status}");
    Ok(())
}

/// A running program. Dropped, it is killed.
pub struct Program {
    name: String,
    child: Child,
    log: Log,
}

/// What one run of a program prints. The file may hold earlier runs' words before it.
#[derive(Clone, Debug)]
pub struct Log {
    path: PathBuf,
    from: u64,
}

impl Log {
    /// What has been printed so far, on either stream.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn text(&self) -> Result<String> {
        let mut text = Vec::new();
        let mut log = File::open(&self.path).with_context(|| format!("open {}", self.path.display()))?;
        log.seek(SeekFrom::Start(self.from)).and_then(|_| log.read_to_end(&mut text)).context("read the log")?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// The word after a mark, once that has been printed.
    ///
    /// # Errors
    /// As [`Log::text`].
    pub fn word_after(&self, mark: &str) -> Result<Option<String>> {
        let text = self.text()?;
        let Some((_, rest)) = text.split_once(mark) else { return Ok(None) };
        let between = [' ', '\n', '"', ','];
        // A word that is still being printed has no end yet.
        Ok(rest.trim_start_matches(between).split_once(between).map(|(word, _)| word.to_owned()))
    }
}

impl Program {
    /// Starts one of the product's programs; what it prints is added to `<folder>/<name>.log`.
    ///
    /// # Errors
    /// It does not build or start.
    pub fn start(name: &str, folder: &Path, arguments: &[&str]) -> Result<Self> {
        Self::spawn(name, folder, Command::new(program(name)?).args(arguments))
    }

    /// Starts any command under a name of its own.
    ///
    /// # Errors
    /// It does not start.
    pub fn spawn(name: &str, folder: &Path, command: &mut Command) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log);
        let output = output.with_context(|| format!("open {}", log.display()))?;
        let from = output.metadata().context("measure the log")?.len();
        let child = command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: Log { path: log, from } })
    }

    /// What it has printed so far, on either stream.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn printed(&self) -> Result<String> {
        self.log.text()
    }

    /// What it prints.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Kills it (SIGKILL), as the system does when it runs out of memory or power.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).with_context(|| format!("kill {}", self.name))?;
        Ok(())
    }

    /// How it ended; nothing while it runs.
    ///
    /// # Errors
    /// The system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("ask for its status")
    }

    /// Waits until a line it printed has `mark`; returns the word after it.
    ///
    /// # Errors
    /// It ended first, or the wait took too long.
    pub fn word_after(&mut self, mark: &str) -> Result<String> {
        until(&format!("{} prints {mark:?}", self.name.clone()), || {
            if let Some(word) = self.log.word_after(mark)? {
                return Ok(Some(word));
            }
            if let Some(status) = self.ended()? {
                bail!("{} ended with {status}: {}", self.name, self.printed()?);
            }
            Ok(None)
        })
    }

    /// Asks it to read its configuration anew (SIGHUP).
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn hang_up(&self) -> Result<()> {
        self.signal("-HUP")
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill").args([signal, &self.id().to_string()]).status().context("start kill")?;
        anyhow::ensure!(status.success(), "kill ended with {status}");
        Ok(())
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn terminate(mut self) -> Result<ExitStatus> {
        self.signal("-TERM")?;
        until(&format!("{} ends", self.name.clone()), || self.ended())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{} had printed: {}", self.name, self.printed().unwrap_or_default());
        }
    }
}

/// Asks again and again until there is an answer.
///
/// # Errors
/// `ask` fails, or there is no answer within [`PATIENCE`].
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if began.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} in vain until {what}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs one of the product's programs to its end: status, standard output, standard error.
///
/// # Errors
/// It does not build or start.
pub fn run(name: &str, folder: &Path, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    run_with(name, folder, arguments, &[])
}

/// [`run`], with variables in the environment.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    name: &str,
    folder: &Path,
    arguments: &[&str],
    variables: &[(String, String)],
) -> Result<(Option<i32>, String, String)> {
    let output = Command::new(program(name)?)
        .current_dir(folder)
        .args(arguments)
        .envs(variables.iter().cloned())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {name}"))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code(), text(output.stdout), text(output.stderr)))
}

/// An address on this machine that was free a moment ago.
///
/// # Errors
/// There is none.
pub fn free_address() -> Result<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("take a free port")?;
    Ok(listener.local_addr().context("ask for its address")?.to_string())
}

/// What the tests' own servers and clients run on.
///
/// # Panics
/// The system gives no threads: then there are no tests.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        built.expect("threads for the tests' own servers")
    })
}

/// What the tests ask servers with. Made once: making one reads every certificate of the system.
///
/// # Panics
/// TLS cannot be prepared.
pub fn client() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        // A program that was started again is found on another connection.
        let built = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build();
        built.expect("a client for this machine")
    })
}

/// A GET on this machine: status and body. No answer (nobody listens yet) is `None`.
///
/// # Errors
/// The address is none.
pub fn get(url: &str) -> Result<Option<(u16, String)>> {
    runtime().block_on(async {
        let Ok(response) = client().get(url).timeout(PATIENCE).send().await else { return Ok(None) };
        let status = response.status().as_u16();
        Ok(Some((status, response.text().await.with_context(|| format!("read {url}"))?)))
    })
}
