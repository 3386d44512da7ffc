//! `costream-handler`: the handler as a program of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use costream_common::config::{self, File};
use costream_common::http::door::Door;
use costream_common::http::web::WebConfig;
use costream_common::program;
use costream_common::role::{self, Failure, RoleFlags};
use costream_handler::auth;
use costream_handler::compute::{self, launcher};
use costream_handler::config::HandlerConfig;
use costream_handler::{Handler, HandlerError};
use serde::de::IgnoredAny;
use tokio_util::sync::CancellationToken;

/// Keeps charges and answers SQL.
#[derive(Parser)]
#[command(name = "costream-handler", version)]
struct Flags {
    #[command(flatten)]
    role: RoleFlags,
    /// Where data is kept; the file's `store_url` is left aside.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Makes the Python environment of the notebooks, for an image, and ends.
    #[arg(long)]
    prepare_python: bool,
}

fn main() -> ExitCode {
    if let Some(code) = launcher::serve_if_asked() {
        return code;
    }
    let flags = Flags::parse();
    let configure = || configuration(&flags);
    if flags.prepare_python {
        return role::run("costream-handler", &flags.role, configure, prepare_python);
    }
    role::run("costream-handler", &flags.role, configure, run)
}

/// The file's section, and what flags say otherwise.
fn configuration(flags: &Flags) -> Result<HandlerConfig, Failure> {
    let mut config = match &flags.role.config_file {
        Some(path) => config::load::<File<IgnoredAny, IgnoredAny, HandlerConfig>>(path)?.handler,
        None => HandlerConfig::default(),
    };
    if let Some(address) = &flags.role.listen_address {
        config.listen_address.clone_from(address);
    }
    if let Some(file) = &flags.role.web_config_file {
        config.web_config_file = Some(file.clone());
    }
    if let Some(dir) = &flags.data_dir {
        config.data_dir.clone_from(dir);
        // Who names a directory means its store, not the one that the file keeps elsewhere.
        config.store_url = None;
    }
    config.allow_unauthenticated |= flags.role.allow_unauthenticated;
    let web = config.web_config_file.as_deref().map(WebConfig::load).transpose()?;
    config.users.check(web.as_ref())?;
    Ok(config)
}

async fn prepare_python(config: HandlerConfig, _: Door, _: CancellationToken) -> Result<(), Failure> {
    println!("{}", compute::prepare(&config.compute, &config.data_dir).await?);
    Ok(())
}

async fn run(config: HandlerConfig, door: Door, shutdown: CancellationToken) -> Result<(), Failure> {
    let handler = Handler::open(config).await?;
    let listener = handler.bind(&door).await.map_err(|error| match error {
        HandlerError::Serve(error) => Failure::from(error),
        error => error.into(),
    })?;
    let callers = auth::admitted(&listener);
    tracing::info!(address = %listener.local_addr(), callers, "listening on {}", listener.url());
    let maintenance = program::drained(handler.run_maintenance(shutdown.clone()), &shutdown);
    let ((), served) = tokio::join!(maintenance, handler.serve(listener, shutdown.clone()));
    Ok(served?)
}
