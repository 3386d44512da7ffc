//! The scraper: pulls the snapshots of exporters, and the series of other Prometheus endpoints, and hands them to a
//! handler, in process or over HTTP. It moves on only after the store has committed; until then
//! it tries again, and the exporter keeps what it has.
//!
//! Modules stand in the order in which a row meets them: [`target`] -> [`scrape`] -> [`sink`]; [`cycle`] is
//! one scrape end to end, and its report. [`inherited`] is another, by the configuration of the scraper that is
//! replaced, and to any handler of its kind.

pub mod config;
pub mod cycle;
pub mod inherited;
pub mod scrape;
pub mod sink;
pub mod target;
mod telemetry;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use costream_common::exposition::negotiate;
use costream_common::stream::backoff::{Waits, jittered};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub use config::{ScraperConfig, TargetConfig};
pub use cycle::{CycleError, CycleReport, DeliveryReport};
pub use scrape::ScrapeError;
pub use sink::{HttpSink, Sink, SinkError};

use cycle::Pursuit;
use telemetry::Telemetry;

/// The wait after a cycle that failed, when the interval is longer; it grows from failure to failure.
const FIRST_WAIT: Duration = Duration::from_secs(5);

const PAGE: &str = "<!DOCTYPE html><html lang=\"en\"><head><title>costream scraper</title></head><body><h1>costream scraper</h1>\
    <p><a href=\"/metrics\">Metrics</a></p></body></html>";

/// Scrapes its targets. Cheap to clone.
#[derive(Clone)]
pub struct Scraper {
    shared: Arc<Shared>,
}

struct Shared {
    pursuits: Vec<Arc<Pursuit>>,
    telemetry: Arc<Telemetry>,
}

impl fmt::Debug for Scraper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets: Vec<&str> = self.shared.pursuits.iter().map(|pursuit| pursuit.target.name()).collect();
        f.debug_struct("Scraper").field("targets", &targets).finish_non_exhaustive()
    }
}

impl Scraper {
    /// Prepares the targets, and asks none.
    ///
    /// # Errors
    /// A target's certificates cannot be read, or a header's name is none.
    pub fn new(config: ScraperConfig, sink: Sink) -> Result<Self, ScrapeError> {
        let pursue = |target| Pursuit::new(target, config.retry_for.0, sink.clone()).map(Arc::new);
        let pursuits = config.targets.iter().map(pursue).collect::<Result<_, _>>()?;
        Ok(Self { shared: Arc::new(Shared { pursuits, telemetry: Arc::new(Telemetry::new()) }) })
    }

    /// One cycle of every target, all at the same time. What failed is the caller's to tell. Dropping it stores no
    /// snapshot in part.
    pub async fn cycle_once(&self) -> Vec<CycleReport> {
        let never = CancellationToken::new();
        let cycles = self.shared.pursuits.iter().map(|pursuit| pursuit.cycle(&self.shared.telemetry, &never));
        futures::future::join_all(cycles).await
    }

    /// Cycle after cycle of every target, each at its own pace, until told to stop. A delivery under way is then ended
    /// without a commit, unless all of it has arrived.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut targets = JoinSet::new();
        for pursuit in &self.shared.pursuits {
            targets.spawn(pursue(self.shared.clone(), pursuit.clone(), shutdown.clone()));
        }
        while let Some(ended) = targets.join_next().await {
            if let Err(error) = ended {
                tracing::error!(error = %error, "a target is not scraped any more");
            }
        }
    }

    /// The scraper's own `/metrics`, `/-/healthy` and `/-/ready`.
    pub fn router(&self) -> Router {
        routes(Arc::clone(&self.shared.telemetry))
    }
}

fn routes(telemetry: Arc<Telemetry>) -> Router {
    Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/metrics", get(move |headers| async move { metrics(&telemetry, &headers) }))
        .route("/-/healthy", get(|| async { "the scraper is up\n" }))
        .route("/-/ready", get(|| async { "the scraper is ready\n" }))
}

async fn pursue(shared: Arc<Shared>, pursuit: Arc<Pursuit>, shutdown: CancellationToken) {
    let mut failed = Waits::new(FIRST_WAIT.min(pursuit.interval()), pursuit.interval(), None);
    while !shutdown.is_cancelled() {
        let started = Instant::now();
        let report = pursuit.cycle(&shared.telemetry, &shutdown).await;
        pursuit.complain(&report);
        let wait = if report.is_complete() {
            failed.reset();
            jittered(pursuit.interval()).saturating_sub(started.elapsed())
        } else {
            failed.next(None).unwrap_or_else(|| pursuit.interval())
        };
        if shutdown.run_until_cancelled(sleep(wait)).await.is_none() {
            return;
        }
    }
}

fn metrics(telemetry: &Telemetry, headers: &HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    match negotiate(accept) {
        Some(format) => ([(CONTENT_TYPE, format.content_type())], telemetry.exposition(format)).into_response(),
        None => StatusCode::NOT_ACCEPTABLE.into_response(),
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
