//! Real parts: Debian's programs (Prometheus, promtool, etcd), and packages from PyPI, npm and Go's. A part that is not there
//! is installed where that is allowed (a folder of our own), and otherwise its tests say so in
//! one line and count as ignored; `COSTREAM_TEST_REQUIRE=all` makes that a failure.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use libtest_mimic::{Arguments, Failed, Trial};

/// A suite of claims, some of which need a part.
#[derive(Default)]
pub struct Suite {
    trials: Vec<Trial>,
    at_once: Option<usize>,
}

impl Suite {
    /// An empty suite.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a claim that needs nothing but the product.
    #[must_use]
    pub fn claim(mut self, name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Self {
        self.trials.push(Trial::test(name, move || test().map_err(failed)));
        self
    }

    /// Adds a claim that needs `part`; ignored, or failed, where it is missing.
    #[must_use]
    pub fn claim_with<P: Send + 'static>(
        mut self,
        name: &str,
        part: Result<P>,
        test: impl FnOnce(P) -> Result<()> + Send + 'static,
    ) -> Self {
        let trial = match part {
            Ok(part) => Trial::test(name, move || test(part).map_err(failed)),
            Err(missing) if required() => {
                let why = format!("COSTREAM_TEST_REQUIRE=all, and a part is missing: {missing:#}");
                Trial::test(name, move || Err(why.into()))
            }
            Err(missing) => {
                eprintln!("skipped: {name}: {missing:#}");
                Trial::test(name, || Ok(())).with_ignored_flag(true)
            }
        };
        self.trials.push(trial);
        self
    }

    /// Runs so many claims at the same time, unless `--test-threads` says otherwise: claims that
    /// mostly wait need not wait for each other.
    #[must_use]
    pub fn at_once(mut self, claims: usize) -> Self {
        self.at_once = Some(claims);
        self
    }

    /// Runs the suite with the flags of the standard harness.
    pub fn run(self) -> ExitCode {
        let mut arguments = Arguments::from_args();
        arguments.test_threads = arguments.test_threads.or(self.at_once);
        libtest_mimic::run(&arguments, self.trials).exit_code()
    }
}

fn failed(error: anyhow::Error) -> Failed {
    format!("{error:?}").into()
}

/// Whether a missing part is a failure.
pub fn required() -> bool {
    std::env::var("COSTREAM_TEST_REQUIRE").is_ok_and(|value| value == "all")
}

/// A program of one of Debian's packages, or of a release, on the `PATH`.
///
/// # Errors
/// It is not there.
pub fn on_path(program: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").context("PATH is not set")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{program} is not on the PATH (Debian: apt-get install {package})"))
}

/// The interpreter of a Python environment with `packages` (as pip takes them), made on first
/// use in the build's own folder and kept there.
///
/// # Errors
/// There is no Python 3 with `venv`, or the packages could not be installed.
pub fn python(packages: &[&str]) -> Result<PathBuf> {
    let home = made_once("python", packages, |home| {
        quiet(Command::new("python3").args(["-m", "venv"]).arg(home)).context("make a Python environment")?;
        quiet(
            Command::new(home.join("bin").join("python"))
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
                .args(packages),
        )
        .with_context(|| format!("install {} from PyPI", packages.join(" ")))
    })?;
    Ok(home.join("bin").join("python"))
}

/// The folder of the programs of `packages` (as npm takes them), installed on first use in the
/// build's own folder and kept there.
///
/// # Errors
/// There is no Node with npm, or the packages could not be installed.
pub fn node(packages: &[&str]) -> Result<PathBuf> {
    let home = made_once("node", packages, |home| {
        std::fs::create_dir_all(home).context("make a folder for Node's packages")?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(home);
        quiet(npm.args(packages)).with_context(|| format!("install {} from npm", packages.join(" ")))
    })?;
    Ok(home.join("node_modules").join(".bin"))
}

/// The program of a Go package, of the versions that the `go.mod` and `go.sum` in `module` have: built on first use, which
/// takes minutes, in the build's own folder, and kept there until they change.
///
/// # Errors
/// There is no Go, or it does not build.
pub fn go(module: &Path, package: &str) -> Result<PathBuf> {
    let requirements = std::fs::read(module.join("go.mod")).context("read go.mod")?;
    let mut versions = DefaultHasher::new();
    requirements.hash(&mut versions);
    let name = package.rsplit('/').next().unwrap_or(package);
    let home = made_once("go", &[name, &format!("{:016x}", versions.finish())], |home| {
        eprintln!("{package} is built by Go; the first time takes minutes");
        std::fs::create_dir_all(home).context("make a folder for Go's programs")?;
        let mut go = Command::new("go");
        go.arg("-C").arg(module).args([
            "build",
            "-mod=readonly",
            "-buildvcs=false",
            "-trimpath",
            "-ldflags=-s -w",
            "-o",
        ]);
        quiet(go.arg(home.join(name)).arg(package)).with_context(|| format!("build {package} of Go"))
    })?;
    Ok(home.join(name))
}

/// A folder below the build's own that `make` has filled, now or earlier.
fn made_once(kind: &str, packages: &[&str], make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let name: String =
        packages.join("-").chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let home = target_dir()?.join(kind).join(name);
    let complete = home.join("complete");
    // Scripts name their interpreter by path, so what was moved with its folder is not complete.
    let here = home.as_os_str().as_encoded_bytes();
    if std::fs::read(&complete).is_ok_and(|made_at| made_at == here) {
        return Ok(home);
    }
    // Made anew from scratch: an earlier attempt may have been cut off half-way.
    let _ = std::fs::remove_dir_all(&home);
    make(&home)?;
    std::fs::write(&complete, here).with_context(|| format!("write {}", complete.display()))?;
    Ok(home)
}

/// Runs a command whose output matters only when it fails.
fn quiet(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {}", command.get_program().display()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", command.get_program().display(), output.status, text.trim().replace('\n', " | "));
    }
    Ok(())
}

/// The folder cargo builds into, of the profile this test was built with.
///
/// # Errors
/// The test does not run from such a folder.
pub fn target_dir() -> Result<PathBuf> {
    let test = std::env::current_exe().context("find this test's own program")?;
    let deps = test.parent().context("a program is in a folder")?;
    deps.parent().map(Path::to_owned).context("a test is built into <target>/<profile>/deps")
}
