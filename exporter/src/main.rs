//! `costream-exporter`: the exporter as a program of its own.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use costream_common::http::door::{Door, Exposure};
use costream_common::http::serve;
use costream_common::http::web::WebConfig;
use costream_common::role::{self, Failure, RoleFlags};
use costream_exporter::Exporter;
use costream_exporter::config::ExporterConfig;
use costream_exporter::inherited::Loaded;
use tokio_util::sync::CancellationToken;

/// Polls cost reports and serves them: /metrics for Prometheus, /records for the scraper.
#[derive(Parser)]
#[command(name = "costream-exporter", version)]
struct Flags {
    #[command(flatten)]
    role: RoleFlags,
}

fn main() -> ExitCode {
    let Flags { role: flags } = Flags::parse();
    role::run("costream-exporter", &flags, || Configured::of(&flags), run)
}

/// Everything that the configuration can be wrong about.
#[derive(Clone)]
struct Configured {
    exporter: ExporterConfig,
    web: Option<Arc<WebConfig>>,
    exposure: Exposure,
}

impl Configured {
    fn of(flags: &RoleFlags) -> Result<Self, Failure> {
        let path = flags.config_file_or_mounted().ok_or("--config.file is missing: it names the sources")?;
        let Loaded { mut exporter, is_inherited } = Loaded::read(&path, flags.resources_dir.as_deref())?;
        if let Some(address) = &flags.listen_address {
            exporter.listen_address.clone_from(address);
        }
        let web = flags.web_config_file.as_ref().or(exporter.web_config_file.as_ref());
        let web = web.map(|path| WebConfig::load(path).map(Arc::new)).transpose()?;
        Exporter::check(&exporter)?;
        let exposure = if is_inherited { Exposure::Unauthenticated } else { flags.exposure() };
        Ok(Self { exporter, web, exposure })
    }
}

async fn run(configured: Configured, door: Door, shutdown: CancellationToken) -> Result<(), Failure> {
    let Configured { exporter, web, exposure } = configured;
    let listener = door.bind(&exporter.listen_address, web, exposure).await?;
    let exporter = Exporter::start(exporter).await?;
    tracing::info!(address = %listener.local_addr(), "listening on {}", listener.url());
    let serving = async {
        let served = serve::serve(listener, exporter.router(), shutdown.clone()).await;
        shutdown.cancel();
        served
    };
    let (served, ()) = tokio::join!(serving, exporter.run(shutdown.clone()));
    exporter.close().await;
    Ok(served?)
}
