//! `costream-scraper`: the scraper as a program of its own.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use costream_common::config::{self, File};
use costream_common::http::door::{Door, Exposure};
use costream_common::http::serve;
use costream_common::http::web::WebConfig;
use costream_common::role::{self, Failure, RoleFlags};
use costream_common::{inherited, program};
use costream_scraper::inherited::{HANDLER, Uploader};
use costream_scraper::{HttpSink, Scraper, ScraperConfig, Sink};
use serde::de::IgnoredAny;
use tokio_util::sync::CancellationToken;

/// Pulls what exporters have and hands it to a handler.
#[derive(Parser)]
#[command(name = "costream-scraper", version)]
struct Flags {
    #[command(flatten)]
    role: RoleFlags,
}

fn main() -> ExitCode {
    let Flags { role: flags } = Flags::parse();
    role::run("costream-scraper", &flags, || Configured::of(&flags), run)
}

/// Everything that the configuration can be wrong about.
#[derive(Clone)]
struct Configured {
    work: Work,
    listen_address: String,
    web: Option<Arc<WebConfig>>,
    exposure: Exposure,
}

/// What there is to do.
#[derive(Clone)]
enum Work {
    /// Our own configuration's targets.
    Targets(Scraper),
    /// An inherited one's tables.
    Tables(Uploader),
}

impl Configured {
    fn of(flags: &RoleFlags) -> Result<Self, Failure> {
        let path =
            flags.config_file_or_mounted().ok_or("--config.file is missing: it names the targets and the handler")?;
        let inherited = inherited::read(&path, flags.resources_dir.as_deref())?;
        let config = match &inherited {
            Some(_) => ScraperConfig::default(),
            None => config::load::<File<IgnoredAny, ScraperConfig>>(&path)?.scraper,
        };
        if inherited.is_none() && config.targets.is_empty() {
            let path = path.display();
            return Err(format!("configuration {path}: scraper.targets is empty: there is nothing to scrape").into());
        }
        let listen_address = flags.listen_address.clone().unwrap_or_else(|| config.listen_address.clone());
        let web = flags.web_config_file.as_ref().or(config.web_config_file.as_ref());
        let web = web.map(|path| WebConfig::load(path).map(Arc::new)).transpose()?;
        let work = match inherited {
            Some(inherited) => {
                let handler = std::env::var(HANDLER).ok();
                let uploader = Uploader::new(&inherited, handler.as_deref());
                Work::Tables(uploader.map_err(|error| format!("configuration {}: {error}", path.display()))?)
            }
            None => {
                let sink = Sink::Http(HttpSink::new(&config.handler)?);
                Work::Targets(Scraper::new(config, sink)?)
            }
        };
        Ok(Self { work, listen_address, web, exposure: flags.exposure() })
    }
}

async fn run(configured: Configured, door: Door, shutdown: CancellationToken) -> Result<(), Failure> {
    let Configured { work, listen_address, web, exposure } = configured;
    let listener = door.bind(&listen_address, web, exposure).await?;
    tracing::info!(address = %listener.local_addr(), "listening on {}", listener.url());
    // A handler that does not answer shall not hold up the end.
    let router = match &work {
        Work::Targets(scraper) => scraper.router(),
        Work::Tables(uploader) => uploader.router(),
    };
    let scraping = async {
        match &work {
            Work::Targets(scraper) => scraper.run(shutdown.clone()).await,
            Work::Tables(uploader) => uploader.run(shutdown.clone()).await,
        }
    };
    let ((), served) =
        tokio::join!(program::drained(scraping, &shutdown), serve::serve(listener, router, shutdown.clone()));
    Ok(served?)
}
