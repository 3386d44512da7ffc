//! `costream-exporter`: the exporter as a program of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use costream_common::config;
use costream_common::http::serve::{self, Exposure};
use costream_common::http::web::WebConfig;
use costream_common::program;
use costream_common::report::one_line;
use costream_common::telemetry::{self, LogFlags};
use costream_exporter::Exporter;
use costream_exporter::config::ExporterConfig;

/// Polls cost reports and serves them: /metrics for Prometheus, /records for the scraper.
#[derive(Parser)]
#[command(name = "costream-exporter", version)]
struct Flags {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration file; its section `exporter` is read.
    #[arg(long = "config.file", global = true, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Address to listen on; port 0 takes a free one. Overrides the configuration.
    #[arg(long = "web.listen-address", value_name = "ADDRESS")]
    listen_address: Option<String>,
    /// TLS and users, in the exporter toolkit's format. Overrides the configuration.
    #[arg(long = "web.config.file", value_name = "FILE")]
    web_config_file: Option<PathBuf>,
    /// Serve other machines without asking for a password.
    #[arg(long = "web.allow-unauthenticated")]
    allow_unauthenticated: bool,
    #[command(flatten)]
    log: LogFlags,
}

#[derive(Subcommand)]
enum Command {
    /// Reads the configuration, says what is wrong with it, and ends.
    Check,
}

/// What went wrong, by whose doing.
enum Failure {
    /// Status 2.
    Configuration(String),
    /// Status 1.
    Run(String),
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    telemetry::init(&flags.log);
    program::run(async { ended(run(flags).await) })
}

fn ended(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(error)) => {
            eprintln!("costream-exporter: {error}");
            ExitCode::from(2)
        }
        Err(Failure::Run(error)) => {
            eprintln!("costream-exporter: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> Result<(), Failure> {
    let wrong = |error: &(dyn std::error::Error + 'static)| Failure::Configuration(one_line(error));
    let path = flags.config_file.ok_or_else(|| Failure::Configuration("--config.file is missing".to_owned()))?;
    let config: config::File<ExporterConfig> = config::load(&path).map_err(|error| wrong(&error))?;
    let mut config = config.exporter;
    config.listen_address = flags.listen_address.unwrap_or(config.listen_address);
    config.web_config_file = flags.web_config_file.or(config.web_config_file);
    let web = config.web_config_file.as_deref().map(WebConfig::load).transpose().map_err(|error| wrong(&error))?;
    Exporter::check(&config).map_err(|error| wrong(&error))?;
    if let Some(Command::Check) = flags.command {
        println!("{}: good, {} sources", path.display(), config.sources.len());
        return Ok(());
    }

    let failed = |error: &(dyn std::error::Error + 'static)| Failure::Run(one_line(error));
    let exposure = if flags.allow_unauthenticated { Exposure::Unauthenticated } else { Exposure::LoopbackOnly };
    let shutdown = program::on_signal().map_err(|error| failed(&error))?;
    let listener = serve::bind(&config.listen_address, web, exposure).await.map_err(|error| failed(&error))?;
    let exporter = Exporter::start(config).await.map_err(|error| failed(&error))?;
    tracing::info!(address = %listener.local_addr(), "listening");
    println!("listening on {}", listener.url());
    let serving = async {
        let served = serve::serve(listener, exporter.router(), shutdown.clone()).await;
        shutdown.cancel();
        served
    };
    let (served, ()) = tokio::join!(serving, exporter.run(shutdown.clone()));
    served.map_err(|error| failed(&error))
}
