//! Notebooks that mean ill, in each tier: what they try fails, they are stopped within their limits, and everybody else
//! is answered meanwhile.

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use costream_common::config::Span;
use costream_handler::compute::{ComputeConfig, RunLimits, Tier};
use reqwest::Method;
use serde_json::{Value, json};

use crate::house::{House, only, until, with};

const CODE: &str = include_str!("hostile.py");
/// The limits of time that a hostile run has.
const TIME: Duration = Duration::from_secs(4);
const CPU_TIME: Duration = Duration::from_secs(2);
/// What a run may take beyond them.
const BEYOND: Duration = Duration::from_secs(2);

/// What is to become of a notebook.
enum End {
    /// It is stopped, or fails, with one of these words.
    Stopped(&'static [&'static str]),
    /// What it tries is refused, and it comes to its end; with these words of its own.
    Harmless(&'static str),
}
use End::{Harmless, Stopped};

const CORPUS: [(&str, End); 19] = [
    ("fork_bomb", Stopped(&["limits.cpu_time", "limits.time", "limits.processes"])),
    ("thread_bomb", Stopped(&["limits.cpu_time", "limits.time", "limits.processes"])),
    ("endless_output", Stopped(&["broken off"])),
    ("endless_complaint", Stopped(&["limits.output_bytes"])),
    ("endless_loop", Stopped(&["limits.cpu_time", "limits.time"])),
    ("loop_in_many", Stopped(&["limits.cpu_time", "limits.time"])),
    ("ignores_signals", Stopped(&["limits.time"])),
    ("allocates", Stopped(&["MemoryError"])),
    ("allocates_shared", Stopped(&["limits.memory_bytes", "MemoryError", "Cannot allocate memory"])),
    ("allocates_in_many", Stopped(&["limits.memory_bytes"])),
    ("writes_many_files", Stopped(&["limits.files", "No space left"])),
    ("writes_much", Stopped(&["limits.file_bytes", "File too large", "No space left"])),
    ("writes_much_in_pieces", Stopped(&["limits.disk_bytes", "No space left"])),
    ("nests_directories", Stopped(&["limits.files", "No space left"])),
    ("daemon", Harmless("the first is done")),
    ("reads", Harmless("")),
    ("writes", Harmless("")),
    ("looks_into_the_handler", Harmless("")),
    ("takes_rights", Harmless("")),
];

/// The user of a handler that is not root, and so of its runs.
const NO_ROOT: u32 = 60_999;
/// Tells the test, begun once more as that user, which Python to take.
const PYTHON: &str = "COSTREAM_TESTS_PYTHON_OF_NO_ROOT";

/// The corpus with a handler that is not root, in whichever tiers such a user can have here.
pub(crate) fn without_root(python: &Path) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    use std::os::unix::process::CommandExt as _;
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    // Where the test lies not everybody may go.
    let program = folder.path().join("test");
    std::fs::copy(std::env::current_exe()?, &program)?;
    let room = folder.path().join("room");
    std::fs::create_dir(&room)?;
    let mut command = std::process::Command::new(&program);
    command.env_clear().env("TMPDIR", &room).env(PYTHON, python).current_dir(&room);
    if std::fs::metadata(&room)?.uid() == 0 {
        chown(&room, Some(NO_ROOT), Some(NO_ROOT))?;
        command.uid(NO_ROOT).gid(NO_ROOT);
    }
    let ended = command.status()?;
    ensure!(ended.success(), "the test as another user: {ended}");
    Ok(())
}

/// The other end of [`without_root`]: with what the program is to end, if it was begun by it.
pub(crate) fn as_no_root() -> Option<ExitCode> {
    let python = PathBuf::from(std::env::var_os(PYTHON)?);
    let told = corpus(&python, Tier::Confined, NO_ROOT).and_then(|()| {
        let told = tokio::runtime::Runtime::new()?.block_on(async {
            let compute = ComputeConfig { containment: only(Tier::Isolated), ..with(&python, RunLimits::default()) };
            let house = House::open(compute).await?;
            anyhow::Ok(house.ask(Method::GET, "/-/capabilities", "").await?.text().await?)
        })?;
        let told: Value = serde_json::from_str(&told)?;
        if told["compute"]["tier"] == Tier::Isolated.as_str() {
            return corpus(&python, Tier::Isolated, NO_ROOT);
        }
        eprintln!("isolated without root: not here: {}", told["compute"]);
        Ok(())
    });
    Some(match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    })
}

/// The corpus in a tier, whose runs have users from `first_uid` on.
pub(crate) fn corpus(python: &Path, tier: Tier, first_uid: u32) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let limits = RunLimits {
            time: Span(TIME),
            cpu_time: Span(CPU_TIME),
            memory_bytes: 256 << 20,
            processes: 24,
            disk_bytes: 32 << 20,
            files: 2_000,
            file_bytes: 16 << 20,
            output_bytes: 1 << 20,
            ..RunLimits::default()
        };
        let house = House::open(ComputeConfig { containment: only(tier), first_uid, ..with(python, limits) }).await?;
        let told: Value = serde_json::from_str(&house.ask(Method::GET, "/-/capabilities", "").await?.text().await?)?;
        ensure!(told["compute"]["tier"] == tier.as_str(), "{told}");
        house.upload("hostile", CODE).await?;
        let place = Place::prepare(&house)?;
        let others = Arc::new(Others::default());
        let asking = tokio::spawn(Others::ask(others.clone(), house.client.clone(), house.url.clone()));

        for (what, end) in &CORPUS {
            attempt(&house, what, end, &place).await.with_context(|| format!("{what}, {}", tier.as_str()))?;
            house.is_clean(|| of_users(first_uid)).await.with_context(|| format!("after {what}"))?;
        }
        attempt(&house, "connects", &Harmless(""), &place).await.context("connects")?;
        ensure!(!place.was_reached()?, "somebody was connected to");
        attempt(&house, "is_somebody_else", &Harmless("[[\"crate\"]]"), &place).await.context("is_somebody_else")?;
        let written = place.outside.iter().find(|path| path.exists());
        ensure!(written.is_none(), "{written:?} was written");

        others.enough.store(true, Ordering::Relaxed);
        asking.await??;
        let (answers, slowest) =
            (others.answers.load(Ordering::Relaxed), others.slowest_millis.load(Ordering::Relaxed));
        eprintln!("{}: {answers} other requests meanwhile, the slowest took {slowest} ms", tier.as_str());
        Ok(())
    })
}

async fn attempt(house: &House, what: &str, end: &End, place: &Place) -> Result<()> {
    let began = Instant::now();
    let answer = house.ask(Method::POST, "/compute/hostile", place.parameters(what)).await?;
    let status = answer.status();
    // What broke off has no text.
    let text = answer.text().await.unwrap_or_else(|_| "broken off".to_owned());
    let took = began.elapsed();
    ensure!(!text.contains("BREACH"), "{text}");
    match end {
        Stopped(words) => {
            ensure!(words.iter().any(|word| text.contains(word)), "{status} {text}");
            ensure!(status.is_server_error() || text == "broken off", "{status} {text}");
            ensure!(took < TIME + BEYOND, "it took {took:?}");
        }
        Harmless(word) => ensure!(status == 200 && text.contains(word), "{status} {text}"),
    }
    Ok(())
}

/// What a notebook tries to get at.
struct Place {
    secrets: Vec<PathBuf>,
    outside: Vec<PathBuf>,
    data_dir: PathBuf,
    /// The handler's, and somebody else's.
    handler_port: u16,
    other: TcpListener,
}

impl Place {
    fn prepare(house: &House) -> Result<Self> {
        let above = house.data_dir.parent().context("the data directory is in another")?;
        let secret = above.join("secret");
        std::fs::write(&secret, "of somebody else")?;
        let other = TcpListener::bind("127.0.0.1:0")?;
        other.set_nonblocking(true)?;
        Ok(Self {
            secrets: vec![secret, "/etc/shadow".into(), "/etc/gshadow".into()],
            outside: ["breach", "data/breach", "data/store/breach"].map(|name| above.join(name)).into(),
            data_dir: house.data_dir.clone(),
            handler_port: house.url.rsplit(':').next().unwrap_or_default().parse()?,
            other,
        })
    }

    fn parameters(&self, what: &str) -> String {
        let list =
            |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("|");
        let other = self.other.local_addr().map_or(0, |address| address.port());
        json!({
            "what": what,
            "secrets": list(&self.secrets),
            "outside": list(&self.outside),
            "data_dir": self.data_dir.display().to_string(),
            "handler_pid": std::process::id(),
            "ports": format!("{}|{other}", self.handler_port),
            "free_port": 39_871,
        })
        .to_string()
    }

    fn was_reached(&self) -> Result<bool> {
        match self.other.accept() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Others who ask the handler meanwhile.
#[derive(Default)]
struct Others {
    enough: AtomicBool,
    answers: AtomicU64,
    slowest_millis: AtomicU64,
}

impl Others {
    async fn ask(self: Arc<Self>, client: reqwest::Client, url: String) -> Result<()> {
        while !self.enough.load(Ordering::Relaxed) {
            let began = Instant::now();
            let answer = client.post(format!("{url}/_sql")).body(r#"{"stmt": "SELECT 1"}"#).send();
            let answer = tokio::time::timeout(Duration::from_secs(10), answer).await.context("nobody answers")??;
            ensure!(answer.status() == 200, "{}", answer.status());
            answer.bytes().await?;
            self.answers.fetch_add(1, Ordering::Relaxed);
            let took = u64::try_from(began.elapsed().as_millis())?;
            self.slowest_millis.fetch_max(took, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// Processes of the users that runs have, but for the handler's own.
fn of_users(first_uid: u32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_a_runs = |uid: u32| (first_uid..first_uid + 65).contains(&uid);
    let ours = entries.filter(|entry| entry.metadata().is_ok_and(|found| is_a_runs(found.uid())));
    let pids = ours.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| i64::from(*pid) != i64::from(std::process::id())).collect()
}

/// While a notebook runs, the password it has stands in no process's arguments or environment, and when it has ended
/// the password is worth nothing.
pub(crate) fn secrets(python: PathBuf) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let house = House::open(with(&python, RunLimits::default())).await?;
        let place = house.data_dir.join("told");
        let code =
            "import subprocess, time\nprint(username, password, port)\nsubprocess.Popen(['sleep', '4'])\ntime.sleep(4)";
        house.upload("canary", code).await?;
        let mut answer = house.ask(Method::POST, "/compute/canary", "{}").await?;
        let told = answer.chunk().await?.context("a first line")?;
        let told = String::from_utf8(told.to_vec())?;
        let [user, password, _port] =
            told.split_whitespace().collect::<Vec<_>>().try_into().ok().context("three words")?;
        let of_processes = of_all_processes()?;
        let interpreter =
            of_processes.iter().filter(|(_, text)| text.contains("The first that a run's interpreter")).count();
        ensure!(interpreter > 0, "the notebook is among the processes");
        for (file, text) in &of_processes {
            ensure!(!text.contains(password), "{file}");
        }
        let statement = || {
            let request = house.client.post(format!("{}/_sql", house.url)).basic_auth(user, Some(password));
            request.body(r#"{"stmt": "SELECT 1"}"#).send()
        };
        ensure!(statement().await?.status() == 200, "good while the run lives");
        while answer.chunk().await?.is_some() {}
        until("the run is gone", || house.handler.compute().is_idle().then_some(())).await?;
        ensure!(statement().await?.status() == 401, "worth nothing after it");
        let metrics = house.ask(Method::GET, "/metrics", "").await?.text().await?;
        ensure!(metrics.contains("costream_notebook_runs_total{result=\"ok\"} 1") && !metrics.contains(password));
        drop(place);
        Ok(())
    })
}

/// Arguments and environment of every process that we may look at.
fn of_all_processes() -> Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
            for file in ["cmdline", "environ"] {
                let path = entry.path().join(file);
                if let Ok(bytes) = std::fs::read(&path) {
                    texts.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
                }
            }
        }
    }
    Ok(texts)
}
