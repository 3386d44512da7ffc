//! Clouds on this machine: other people's emulators of S3 (moto, from PyPI) and Azure Blob
//! Storage (Azurite, from npm), each on a free port, with one bucket in it. They end with their
//! handles. Google's has none that knows preconditions.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::parts;
use crate::programs::Program;

/// The bucket that every cloud has.
pub const BUCKET: &str = "costs";
/// moto's credential; it takes any.
const SECRET: &str = "verysecret";

/// Azurite's account and key, which its documentation publishes.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// moto looks whether a key is there and then writes it, in two steps: between the requests of
/// two threads both can win. With one request at a time a conditional put is what it is on S3.
const MOTO: &str = "
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple('127.0.0.1', 0, DomainDispatcherApplication(create_backend_app), threaded=False)
";

/// Makes a container, signed as Azure wants it; nothing but Node's own library.
const MAKE_CONTAINER: &str = "
const [endpoint, account, key, container] = process.argv.slice(1);
const date = new Date().toUTCString();
const text = `PUT${'\\n'.repeat(12)}x-ms-date:${date}\\nx-ms-version:2021-12-02\\n/${account}/${account}/${container}\\nrestype:container`;
const signature = require('crypto').createHmac('sha256', Buffer.from(key, 'base64')).update(text).digest('base64');
fetch(`${endpoint}/${container}?restype=container`, {method: 'PUT', headers: {
    'x-ms-date': date, 'x-ms-version': '2021-12-02', Authorization: `SharedKey ${account}:${signature}`}})
    .then(async answer => { if (answer.status != 201) { console.error(answer.status, await answer.text()); process.exit(1) } });
";

/// What a cloud needs to run.
pub enum Part {
    /// A Python with moto.
    Moto(PathBuf),
    /// The folder of npm's programs, Azurite's among them.
    Azurite(PathBuf),
}

/// A running cloud.
pub struct Cloud {
    /// `s3://costs` or `az://costs`.
    pub bucket: String,
    /// The environment's variables that say how it is reached.
    pub variables: Vec<(String, String)>,
    /// The value among them that nobody may see.
    pub secret: &'static str,
    _program: Program,
}

/// S3.
///
/// # Errors
/// moto cannot be installed.
pub fn moto() -> Result<Part> {
    parts::python(&["moto[server]==5.2.5"]).map(Part::Moto)
}

/// Azure Blob Storage.
///
/// # Errors
/// Azurite cannot be installed.
pub fn azurite() -> Result<Part> {
    parts::node(&["azurite@3.35.0"]).map(Part::Azurite)
}

impl Part {
    /// Starts the cloud; `folder` takes its log.
    ///
    /// # Errors
    /// It does not start, or the bucket cannot be made.
    pub fn start(&self, folder: &Path) -> Result<Cloud> {
        match self {
            Self::Moto(python) => start_moto(python, folder),
            Self::Azurite(programs) => start_azurite(programs, folder),
        }
    }
}

fn start_moto(python: &Path, folder: &Path) -> Result<Cloud> {
    let mut program = Program::spawn("moto", folder, Command::new(python).args(["-c", MOTO]))?;
    let url = program.word_after("Running on ")?;
    put(&format!("{url}/{BUCKET}"), Vec::new())?;
    let variables = [
        ("AWS_ENDPOINT_URL", url.as_str()),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_SESSION_TOKEN", SECRET),
    ];
    Ok(Cloud::new("s3", &variables, SECRET, program))
}

fn start_azurite(programs: &Path, folder: &Path) -> Result<Cloud> {
    let mut command = Command::new(programs.join("azurite-blob"));
    command.args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--disableTelemetry"]);
    let mut program = Program::spawn("azurite", folder, &mut command)?;
    let endpoint = format!("{}/{AZURITE_ACCOUNT}", program.word_after("successfully listens on ")?);
    let made = Command::new("node")
        .args(["-e", MAKE_CONTAINER, &endpoint, AZURITE_ACCOUNT, AZURITE_KEY, BUCKET])
        .stdin(Stdio::null())
        .output()
        .context("start node")?;
    ensure!(made.status.success(), "make a container: {}", String::from_utf8_lossy(&made.stderr));
    let variables = [
        ("AZURE_STORAGE_ENDPOINT", endpoint.as_str()),
        ("AZURE_STORAGE_ACCOUNT_NAME", AZURITE_ACCOUNT),
        ("AZURE_STORAGE_ACCOUNT_KEY", AZURITE_KEY),
    ];
    Ok(Cloud::new("az", &variables, AZURITE_KEY, program))
}

impl Cloud {
    fn new(scheme: &str, variables: &[(&str, &str)], secret: &'static str, program: Program) -> Self {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { bucket: format!("{scheme}://{BUCKET}"), variables, secret, _program: program }
    }

    /// Puts an object into S3's bucket.
    ///
    /// # Errors
    /// It is another cloud, or does not take it.
    pub fn put(&self, path: &str, bytes: Vec<u8>) -> Result<()> {
        let endpoint = self.variables.iter().find(|(name, _)| name == "AWS_ENDPOINT_URL");
        let (_, endpoint) = endpoint.context("moto takes objects unsigned, and others do not")?;
        put(&format!("{endpoint}/{BUCKET}/{path}"), bytes)
    }

    /// The variables, with another value for one of them.
    pub fn with(&self, name: &str, value: &str) -> Vec<(String, String)> {
        let others = self.variables.iter().filter(|(given, _)| given != name).cloned();
        others.chain([(name.to_owned(), value.to_owned())]).collect()
    }
}

/// A request of no consequence but its status.
fn put(url: &str, body: Vec<u8>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let status = runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().context("make a client")?;
        Ok::<_, anyhow::Error>(client.put(url).body(body).send().await.with_context(|| format!("ask {url}"))?.status())
    })?;
    ensure!(status.is_success(), "{url} answered {status}");
    Ok(())
}
