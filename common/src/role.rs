//! The program of one role: its flags, named as the Prometheus family names them, and its
//! life from the configuration to the signal, with a new configuration in between at each SIGHUP.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::http::door::{Door, Exposure, ServeError};
use crate::telemetry::{self, LogFlags};
use crate::{inherited, program, reload, report};

/// The configuration cannot be used; other failures are status 1.
const WRONG_CONFIGURATION: u8 = 2;

/// What goes wrong in a role: its causes are told on one line.
pub type Failure = Box<dyn Error + Send + Sync>;

/// The flags that the programs of all roles have. A flag goes before the configuration.
#[derive(Args, Debug)]
pub struct RoleFlags {
    /// The configuration file; the role's own section of it is read.
    #[arg(long = "config.file", global = true, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Directory of the resources that an inherited configuration refers to, in place of the cluster.
    #[arg(long = "config.resources-dir", global = true, value_name = "DIR")]
    pub resources_dir: Option<PathBuf>,
    /// Address to listen on; port 0 takes a free one and prints it.
    #[arg(long = "web.listen-address", value_name = "ADDRESS")]
    pub listen_address: Option<String>,
    /// TLS and users, in the format of the Prometheus exporter toolkit.
    #[arg(long = "web.config.file", value_name = "FILE")]
    pub web_config_file: Option<PathBuf>,
    /// Serve other machines without asking for a password.
    #[arg(long = "web.allow-unauthenticated")]
    pub allow_unauthenticated: bool,
    #[command(flatten)]
    log: LogFlags,
    #[command(subcommand)]
    command: Option<RoleCommand>,
}

/// What else a role's program does.
#[derive(Clone, Copy, Debug, Subcommand)]
enum RoleCommand {
    /// Reads the configuration, says what is wrong with it, and ends.
    Check,
}

impl RoleFlags {
    /// The configuration file; without a flag the one that the operators of inherited ones mount, where there is one.
    pub fn config_file_or_mounted(&self) -> Option<PathBuf> {
        let mounted = || Some(PathBuf::from(inherited::MOUNTED)).filter(|path| path.is_file());
        self.config_file.clone().or_else(mounted)
    }

    /// To whom the role may be open.
    pub fn exposure(&self) -> Exposure {
        if self.allow_unauthenticated { Exposure::Unauthenticated } else { Exposure::LoopbackOnly }
    }
}

/// Runs a role: `configure` reads all that the configuration can be wrong about (status 2),
/// `run` works until the token is cancelled by a signal (status 1 when it fails, but 2 for a [`ServeError`] of usage),
/// and listens at the door, which stays where it is when a new configuration says the same.
pub fn run<C, R>(
    name: &str,
    flags: &RoleFlags,
    configure: impl Fn() -> Result<C, Failure>,
    run: impl Fn(C, Door, CancellationToken) -> R,
) -> ExitCode
where
    C: Clone,
    R: Future<Output = Result<(), Failure>>,
{
    telemetry::init(&flags.log);
    program::run(async {
        let configured = match configure() {
            Ok(configured) => configured,
            Err(error) => return failed(name, &*error, ExitCode::from(WRONG_CONFIGURATION)),
        };
        if let Some(RoleCommand::Check) = flags.command {
            println!("the configuration is good");
            return ExitCode::SUCCESS;
        }
        let (shutdown, hangups) = match program::on_signal().and_then(|shutdown| Ok((shutdown, reload::hangups()?))) {
            Ok(signals) => signals,
            Err(error) => return failed(name, &error, ExitCode::FAILURE),
        };
        let door = Door::until(shutdown.clone());
        let live = |configured, ending| run(configured, door.clone(), ending);
        match reload::run(flags.config_file_or_mounted().as_deref(), configured, hangups, &shutdown, &configure, live)
            .await
        {
            Ok(()) => {
                tracing::info!("stopped");
                ExitCode::SUCCESS
            }
            // What only the machine can tell of the configuration: whether an address is one, and for whom.
            Err(error) if error.downcast_ref().is_some_and(ServeError::is_usage) => {
                failed(name, &*error, ExitCode::from(WRONG_CONFIGURATION))
            }
            Err(error) => failed(name, &*error, ExitCode::FAILURE),
        }
    })
}

fn failed(name: &str, error: &(dyn Error + 'static), status: ExitCode) -> ExitCode {
    eprintln!("{name}: {}", report::one_line(error));
    status
}
