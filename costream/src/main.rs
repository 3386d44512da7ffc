//! The all-in-one binary: exporter, scraper and handler in one process, and commands that do
//! one thing and end. Results go to standard output; progress, logs and errors to standard
//! error, an error on one line.

mod check;
mod cli;
mod generate;
mod ledger;
mod lock;
mod reconcile;
mod run;
mod sample;
mod settings;
mod sql;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser as _;
use costream_common::{program, report, telemetry};
use costream_handler::compute::launcher;

use self::cli::{Cli, Command};

/// What a command came to, as the statuses of contracts 10 have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// It is as it should be.
    Good,
    /// It failed, or things do not agree.
    Failed,
    /// Wrong usage or configuration.
    Usage,
    /// Stored, but more rows were rejected than allowed.
    Rejects,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(match status {
            Status::Good => 0,
            Status::Failed => 1,
            Status::Usage => 2,
            Status::Rejects => 3,
        })
    }
}

fn main() -> ExitCode {
    if let Some(code) = launcher::serve_if_asked() {
        return code;
    }
    program::run(body())
}

async fn body() -> ExitCode {
    let cli = Cli::parse();
    telemetry::init(&cli.log);
    let status = match cli.command.unwrap_or_else(|| Command::Run(Box::default())) {
        Command::Run(args) => run::run(*args).await.unwrap_or_else(|error| told(&error, error.status())),
        Command::Sql(args) => sql::sql(args).await.unwrap_or_else(|error| told(&error, error.status())),
        Command::Generate(args) => match generate::generate(args.rows, args.seed, args.profile, &args.out).await {
            Ok(()) => Status::Good,
            Err(error) => told(&error, Status::Failed),
        },
        Command::Reconcile(args) => {
            reconcile::reconcile(args).await.unwrap_or_else(|error| told(&error, error.status()))
        }
        Command::Check(args) => match check::check(&args.config_file, args.resources_dir.as_deref()) {
            Ok(()) => Status::Good,
            Err(error) => told(&error, Status::Usage),
        },
    };
    status.into()
}

/// Says what went wrong, with its causes, on one line.
fn told(error: &(dyn Error + 'static), status: Status) -> Status {
    eprintln!("costream: {}", report::one_line(error));
    status
}
