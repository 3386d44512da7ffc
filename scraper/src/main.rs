//! The scraper as a program of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use costream_common::config::{self, File};
use costream_common::http::serve::{self, Exposure};
use costream_common::http::web::WebConfig;
use costream_common::program;
use costream_common::report::one_line;
use costream_common::telemetry::{self, LogFlags};
use costream_scraper::{HttpSink, Scraper, ScraperConfig, Sink};
use serde::de::IgnoredAny;

/// Pulls what exporters have and hands it to a handler.
#[derive(Parser)]
#[command(name = "costream-scraper", version)]
struct Flags {
    /// The configuration file; its section `scraper` is read.
    #[arg(long = "config.file", global = true, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Address of the scraper's own metrics; port 0 takes a free one.
    #[arg(long = "web.listen-address", value_name = "ADDRESS")]
    listen_address: Option<String>,
    /// TLS and users, in the form of the Prometheus family.
    #[arg(long = "web.config.file", value_name = "FILE")]
    web_config_file: Option<PathBuf>,
    /// Serve any address without asking for a password.
    #[arg(long = "web.allow-unauthenticated")]
    allow_unauthenticated: bool,
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
    let wired = match wire(&flags) {
        Ok(wired) => wired,
        Err(error) => return failed(&error, WRONG_CONFIGURATION),
    };
    let ran = match flags.command {
        Some(Command::Check) => Ok(()),
        None => run(wired, &flags).await,
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, 1),
    }
}

fn failed(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("costream-scraper: {}", one_line(error.as_ref()));
    ExitCode::from(status)
}

/// Everything that the configuration can be wrong about.
struct Wired {
    scraper: Scraper,
    listen_address: String,
    web: Option<WebConfig>,
}

fn wire(flags: &Flags) -> anyhow::Result<Wired> {
    let path = flags.config_file.as_ref().context("--config.file is missing: it names the targets and the handler")?;
    let file: File<IgnoredAny, ScraperConfig> = config::load(path)?;
    let config = file.scraper;
    if config.targets.is_empty() {
        anyhow::bail!("configuration {}: scraper.targets is empty: there is nothing to scrape", path.display());
    }
    let listen_address = flags.listen_address.clone().unwrap_or_else(|| config.listen_address.clone());
    let web = flags.web_config_file.as_ref().or(config.web_config_file.as_ref());
    let web = web.map(|path| WebConfig::load(path)).transpose()?;
    let sink = Sink::Http(HttpSink::new(&config.handler)?);
    Ok(Wired { scraper: Scraper::new(config, sink)?, listen_address, web })
}

async fn run(wired: Wired, flags: &Flags) -> anyhow::Result<()> {
    let Wired { scraper, listen_address, web } = wired;
    let shutdown = program::on_signal().context("wait for signals")?;
    let exposure = if flags.allow_unauthenticated { Exposure::Unauthenticated } else { Exposure::LoopbackOnly };
    let listener = serve::bind(&listen_address, web, exposure).await?;
    tracing::info!(address = %listener.local_addr(), "listening on {}", listener.url());
    let ((), served) = tokio::join!(scraper.run(shutdown.clone()), serve::serve(listener, scraper.router(), shutdown));
    served?;
    tracing::info!("stopped");
    Ok(())
}
