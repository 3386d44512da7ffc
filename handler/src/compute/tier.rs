//! Which [`Tier`] this machine has for runs: found out by trying, with the very fences that a run gets. What was found
//! is kept, and told at `/-/capabilities`; where something is missing it is tried again after a while.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::folder::Folders;
use super::keeper::{Keeper, KeeperError};
use super::order::{Fences, Network, Order, Tier, Told};
use super::python::Interpreter;
use super::settings::ComputeConfig;
use super::{GATEWAY_PORT, launcher};

/// Directories and files of the system that any program may need. None of them holds a secret.
const SYSTEM: [&str; 24] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/ca-certificates",
    "/etc/pki/tls",
    "/etc/pki/ca-trust",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/mime.types",
    "/etc/alternatives",
];
/// How long it is believed that a tier cannot be had, and that none can.
const LESS_HOLDS_FOR: Duration = Duration::from_secs(600);
const NOTHING_HOLDS_FOR: Duration = Duration::from_secs(10);
/// A program that does nothing, to try fences with while there is no interpreter.
const NOTHING: [&str; 2] = ["/usr/bin/true", "/bin/true"];

/// What a machine has for runs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Found {
    /// The tier that runs get; nothing when the least that is asked for cannot be had.
    pub(super) tier: Option<Tier>,
    /// What stands in it.
    pub(super) fences: Fences,
    /// Why a higher tier, or any, cannot be had.
    pub(super) without: BTreeMap<&'static str, String>,
}

/// What is run within the fences.
pub(super) struct Program<'p> {
    pub(super) path: &'p Path,
    pub(super) args: &'p [&'p str],
    /// The directories of its files.
    pub(super) reads: &'p [PathBuf],
}

/// Finds out, and remembers.
#[derive(Debug)]
pub(super) struct Tiers {
    config: Arc<ComputeConfig>,
    of_interpreter: Mutex<Option<Tried>>,
    of_nothing: Mutex<Option<Tried>>,
}

/// What was found, and when.
#[derive(Debug)]
struct Tried {
    at: Instant,
    found: Arc<Found>,
}

impl Tried {
    /// Whether it need not be tried again: a machine that was short of something may have it later.
    fn holds(&self) -> bool {
        let for_long = if self.found.tier.is_some() { LESS_HOLDS_FOR } else { NOTHING_HOLDS_FOR };
        self.found.without.is_empty() || self.at.elapsed() < for_long
    }
}

impl Tiers {
    pub(super) fn new(config: Arc<ComputeConfig>) -> Self {
        Self { config, of_interpreter: Mutex::default(), of_nothing: Mutex::default() }
    }

    /// What this machine has for runs of an interpreter, or for a program that does nothing while there is none.
    pub(super) async fn found(&self, interpreter: Option<&Interpreter>, folders: &Folders) -> Arc<Found> {
        let nothing = NOTHING.map(Path::new).into_iter().find(|path| path.exists());
        let (tried, program) = match interpreter {
            Some(Interpreter { program, reads, .. }) => {
                (&self.of_interpreter, Program { path: program, args: &["-c", "from crate import client"], reads })
            }
            None => {
                (&self.of_nothing, Program { path: nothing.unwrap_or(Path::new(NOTHING[0])), args: &[], reads: &[] })
            }
        };
        // Who comes while it is tried waits for what is found.
        let mut tried = tried.lock().await;
        if let Some(tried) = tried.as_ref().filter(|tried| tried.holds()) {
            return Arc::clone(&tried.found);
        }
        let found = Arc::new(self.all(&program, folders).await);
        *tried = Some(Tried { at: Instant::now(), found: Arc::clone(&found) });
        found
    }

    async fn all(&self, program: &Program<'_>, folders: &Folders) -> Found {
        let bounds = self.config.containment;
        let mut without = BTreeMap::new();
        for tier in [Tier::Isolated, Tier::Confined, Tier::Limits] {
            if tier > bounds.at_most || tier < bounds.at_least {
                continue;
            }
            // One more than the runs': no run is in its way.
            let uid = self.user(self.config.concurrency);
            match self.one(tier, uid, program, folders).await {
                Ok(fences) => return Found { tier: Some(tier), fences, without },
                Err(why) => {
                    tracing::warn!(tier = tier.as_str(), why, "notebooks cannot be kept in as far");
                    without.insert(tier.as_str(), why);
                }
            }
        }
        Found { tier: None, fences: Fences::default(), without }
    }

    /// Runs a program within a tier's fences.
    async fn one(
        &self,
        tier: Tier,
        uid: Option<u32>,
        program: &Program<'_>,
        folders: &Folders,
    ) -> Result<Fences, String> {
        let folder = folders.make(uid).map_err(|error| error.to_string())?;
        let order = self.order(tier, uid, folder.path(), GATEWAY_PORT, program);
        let tried = async {
            let (mut keeper, stdout, stderr) = Keeper::begin(&order, &[])?;
            let mut stands = Err("it broke off".to_owned());
            let (mut stdout, mut stderr) = (stdout, stderr);
            let mut complaint = Vec::new();
            let said = async {
                let mut ignored = tokio::io::sink();
                let _broken = tokio::io::copy(&mut stdout, &mut ignored).await;
            };
            let complained = async {
                let _broken = tokio::io::AsyncReadExt::read_to_end(&mut stderr, &mut complaint).await;
            };
            let heard = async {
                while let Some(told) = keeper.hear().await? {
                    match told {
                        Told::Ready(fences) => stands = Ok(fences),
                        Told::Failed { step, cause } => stands = Err(format!("{step}: {cause}")),
                        Told::Ended(end) if end.code == Some(0) => {}
                        Told::Ended(_) if stands.is_ok() => {
                            stands = Err("the interpreter does not work in it".to_owned());
                        }
                        Told::Ended(_) | Told::Gateway | Told::Child(_) => {}
                    }
                }
                Ok::<_, KeeperError>(())
            };
            let ((), (), heard) = tokio::join!(said, complained, heard);
            heard?;
            keeper.gone().await;
            let complaint = String::from_utf8_lossy(&complaint);
            let last = complaint.trim_end().lines().last().unwrap_or_default().to_owned();
            Ok::<_, KeeperError>(stands.map_err(|why| if last.is_empty() { why } else { format!("{why}: {last}") }))
        };
        let tried = tokio::time::timeout(self.config.wait.0, tried).await;
        folder.remove().await;
        match tried {
            Ok(Ok(stands)) => stands,
            Ok(Err(error)) => Err(costream_common::report::one_line(&error)),
            Err(_) => Err("it takes too long".to_owned()),
        }
    }

    /// An order for a run of a program.
    pub(super) fn order(&self, tier: Tier, uid: Option<u32>, folder: &Path, port: u16, program: &Program<'_>) -> Order {
        let system = SYSTEM.map(PathBuf::from).into_iter();
        let order = Order {
            tier,
            network: self.config.network,
            uid,
            folder: folder.to_owned(),
            reads: system.chain(program.reads.iter().cloned()).chain(self.config.read_paths.iter().cloned()).collect(),
            port,
            allowed: self.config.limits.allowed(),
            program: program.path.to_owned(),
            args: program.args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: Vec::new(),
        };
        let env = environment(&order, &self.config);
        Order { env, ..order }
    }

    /// The user of one of the runs that go on at a time; nothing when they are the handler's own.
    pub(super) fn user(&self, place: usize) -> Option<u32> {
        let place = u32::try_from(place).ok()?;
        launcher::is_root().then(|| self.config.first_uid + place)
    }

    /// Whether runs have a network of their own.
    pub(super) fn own_network(&self, tier: Tier) -> bool {
        tier == Tier::Isolated && self.config.network == Network::Deny
    }
}

/// All that stands in a run's environment.
fn environment(order: &Order, config: &ComputeConfig) -> Vec<(String, String)> {
    let work = order.work();
    let below = |name: &str| work.join(name).display().to_string();
    let programs = order.program.parent().unwrap_or(Path::new("/usr/bin")).display();
    let ours = [
        ("PATH", format!("{programs}:/usr/local/bin:/usr/bin:/bin")),
        ("LANG", "C.UTF-8".to_owned()),
        ("TZ", "UTC".to_owned()),
        ("HOME", work.display().to_string()),
        ("TMPDIR", below("tmp")),
        // What pip installs is the run's own, and found by what it begins.
        ("PYTHONPATH", below(".packages")),
        ("PIP_TARGET", below(".packages")),
        ("PIP_NO_CACHE_DIR", "1".to_owned()),
        ("PIP_NO_INPUT", "1".to_owned()),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1".to_owned()),
        ("PIP_ROOT_USER_ACTION", "ignore".to_owned()),
        // As many threads as the limits of a run have room for, on machines with many processors too.
        ("OPENBLAS_NUM_THREADS", "2".to_owned()),
        ("OMP_NUM_THREADS", "2".to_owned()),
        ("MKL_NUM_THREADS", "2".to_owned()),
    ];
    let configured = config.environment.iter().map(|(name, value)| (name.clone(), value.clone()));
    ours.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(configured).collect()
}
