//! Clouds on this machine: other people's emulators of S3 (moto, from PyPI), Azure Blob Storage (Azurite, from npm) and Google
//! Cloud Storage (fake-gcs-server, by Go), each on a free port, with one bucket in it. They end with their handles.
//! Google's knows no preconditions: reports can be read from it, but no table can be kept there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::Method;

use crate::parts;
use crate::programs::{Program, free_address, until};

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
    /// fake-gcs-server.
    FakeGcs(PathBuf),
}

/// A running cloud.
pub struct Cloud {
    /// `s3://costs`, `az://costs` or `gs://costs`.
    pub bucket: String,
    /// The environment's variables that say how it is reached.
    pub variables: Vec<(String, String)>,
    /// The value among them that nobody may see.
    pub secret: &'static str,
    /// Where it takes unsigned requests, if it does.
    endpoint: Option<String>,
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

/// Google Cloud Storage.
///
/// # Errors
/// There is no Go, or it does not build.
pub fn fake_gcs() -> Result<Part> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("fake-gcs-server");
    parts::go(&module, "github.com/fsouza/fake-gcs-server").map(Part::FakeGcs)
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
            Self::FakeGcs(program) => start_fake_gcs(program, folder),
        }
    }
}

fn start_moto(python: &Path, folder: &Path) -> Result<Cloud> {
    let mut program = Program::spawn("moto", folder, Command::new(python).args(["-c", MOTO]))?;
    let url = program.word_after("Running on ")?;
    ask(Method::PUT, &format!("{url}/{BUCKET}"), Vec::new())?;
    let variables = [
        ("AWS_ENDPOINT_URL", url.as_str()),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_SESSION_TOKEN", SECRET),
    ];
    Ok(Cloud::new("s3", Some(url.clone()), &variables, SECRET, program))
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
    Ok(Cloud::new("az", None, &variables, AZURITE_KEY, program))
}

fn start_fake_gcs(program: &Path, folder: &Path) -> Result<Cloud> {
    let address = free_address()?;
    let port = address.rsplit(':').next().unwrap_or_default();
    let mut command = Command::new(program);
    command.args([
        "-scheme",
        "http",
        "-host",
        "127.0.0.1",
        "-port",
        port,
        "-backend",
        "memory",
        "-public-host",
        &address,
    ]);
    let mut program = Program::spawn("fake-gcs-server", folder, &mut command)?;
    program.word_after("server started at ")?;
    let url = format!("http://{address}");
    until("it makes a bucket", || {
        let bucket = serde_json::json!({"name": BUCKET}).to_string();
        Ok(ask(Method::POST, &format!("{url}/storage/v1/b?project=trial"), bucket.into()).ok())
    })?;
    // The emulator's users ask for no token; all of the key is taken for the secret.
    let key = serde_json::json!({
        "gcs_base_url": url, "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": "",
    });
    let key: &str = key.to_string().leak();
    Ok(Cloud::new("gs", Some(url), &[("GOOGLE_SERVICE_ACCOUNT_KEY", key)], key, program))
}

impl Cloud {
    fn new(
        scheme: &str,
        endpoint: Option<String>,
        variables: &[(&str, &str)],
        secret: &'static str,
        program: Program,
    ) -> Self {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { bucket: format!("{scheme}://{BUCKET}"), variables, secret, endpoint, _program: program }
    }

    /// Puts an object into the bucket of S3 or Google.
    ///
    /// # Errors
    /// It is Azure, which takes none unsigned, or does not take it.
    pub fn put(&self, path: &str, bytes: Vec<u8>) -> Result<()> {
        let (method, url) = match &self.endpoint {
            Some(endpoint) if self.bucket.starts_with("gs:") => {
                let name = path.replace('/', "%2F");
                (Method::POST, format!("{endpoint}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}"))
            }
            Some(endpoint) => (Method::PUT, format!("{endpoint}/{BUCKET}/{path}")),
            None => bail!("{} takes no unsigned objects", self.bucket),
        };
        ask(method, &url, bytes)
    }

    /// The variables, with another value for one of them.
    pub fn with(&self, name: &str, value: &str) -> Vec<(String, String)> {
        let others = self.variables.iter().filter(|(given, _)| given != name).cloned();
        others.chain([(name.to_owned(), value.to_owned())]).collect()
    }
}

/// A request of no consequence but its status.
fn ask(method: Method, url: &str, body: Vec<u8>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let status = runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().context("make a client")?;
        let asked = client.request(method, url).body(body).send().await;
        Ok::<_, anyhow::Error>(asked.with_context(|| format!("ask {url}"))?.status())
    })?;
    ensure!(status.is_success(), "{url} answered {status}");
    Ok(())
}
