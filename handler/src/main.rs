//! The handler as a program of its own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use costream_common::config::{self, File};
use costream_common::http::web::WebConfig;
use costream_common::program;
use costream_common::report;
use costream_common::telemetry::{self, LogFlags};
use costream_handler::Handler;
use costream_handler::config::HandlerConfig;
use serde::de::IgnoredAny;

/// Keeps charges and answers SQL.
#[derive(Parser)]
#[command(name = "costream-handler", version)]
struct Flags {
    /// The configuration file; its section `handler` is read.
    #[arg(long = "config.file", global = true)]
    config_file: Option<PathBuf>,
    /// Address to serve; port 0 takes a free one.
    #[arg(long = "web.listen-address")]
    listen_address: Option<String>,
    /// TLS and users, in the form of the Prometheus family.
    #[arg(long = "web.config.file")]
    web_config_file: Option<PathBuf>,
    /// Serve any address without asking for a password.
    #[arg(long = "web.allow-unauthenticated")]
    allow_unauthenticated: bool,
    /// Where data is kept.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    log: LogFlags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Reads the configuration and says what is wrong with it.
    Check,
}

/// The configuration cannot be used.
const WRONG_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    program::run(body())
}

async fn body() -> ExitCode {
    let flags = Flags::parse();
    telemetry::init(&flags.log);
    let config = match configuration(&flags) {
        Ok(config) => config,
        Err(error) => return failed(&error, WRONG_CONFIGURATION),
    };
    let ran = match flags.command {
        Some(Command::Check) => Ok(()),
        None => run(config).await,
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, 1),
    }
}

fn failed(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("costream-handler: {}", report::one_line(error.as_ref()));
    ExitCode::from(status)
}

/// The file's section, and what flags say otherwise.
fn configuration(flags: &Flags) -> anyhow::Result<HandlerConfig> {
    let mut config = match &flags.config_file {
        Some(path) => read(path)?,
        None => HandlerConfig::default(),
    };
    if let Some(address) = &flags.listen_address {
        config.listen_address.clone_from(address);
    }
    if let Some(file) = &flags.web_config_file {
        config.web_config_file = Some(file.clone());
    }
    if let Some(dir) = &flags.data_dir {
        config.data_dir.clone_from(dir);
    }
    config.allow_unauthenticated |= flags.allow_unauthenticated;
    if let Some(file) = &config.web_config_file {
        WebConfig::load(file)?;
    }
    Ok(config)
}

fn read(path: &Path) -> anyhow::Result<HandlerConfig> {
    let file: File<IgnoredAny, IgnoredAny, HandlerConfig> = config::load(path)?;
    Ok(file.handler)
}

async fn run(config: HandlerConfig) -> anyhow::Result<()> {
    let shutdown = program::on_signal().context("wait for signals")?;
    let handler = Handler::open(config).await?;
    let listener = handler.bind().await?;
    tracing::info!(address = %listener.local_addr(), "listening on {}", listener.url());
    let ((), served) = tokio::join!(handler.run_maintenance(shutdown.clone()), handler.serve(listener, shutdown));
    served?;
    tracing::info!("stopped");
    Ok(())
}
