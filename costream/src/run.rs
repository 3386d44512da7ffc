//! `costream run`: exporter, scraper and handler in one process, wired as three would be. The
//! scraper reads the exporter over HTTP on this machine; only what it found goes to the store in
//! process. First one pass over every source, then the table that proves it, then round and
//! round until a signal.
//!
//! At the end everybody is given [`serve::DRAIN_WITHIN`] to finish what is under way, and then the
//! servers are; whatever is cut off is done again by the next run, and nothing is lost. A new
//! configuration at SIGHUP is such an end and such a next run; a run that ends by itself knows no
//! SIGHUP, and is ended by it as any command.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use costream_common::config::Span;
use costream_common::http::client::BasicAuth;
use costream_common::http::door::{self, Door, Exposure, Listener, ServeError};
use costream_common::http::gate::{Gate, Passwords};
use costream_common::http::serve;
use costream_common::http::web::{WebConfig, WebConfigError};
use costream_common::report::one_line;
use costream_common::secret::SecretSource;
use costream_common::{program, reload};
use costream_exporter::config::ExporterConfig;
use costream_exporter::{Exporter, ExporterError, PollOutcome};
use costream_handler::auth::{self, RightsError};
use costream_handler::{Handler, HandlerError};
use costream_scraper::config::TargetKind;
use costream_scraper::{CycleReport, ScrapeError, Scraper, ScraperConfig, Sink, TargetConfig};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::Status;
use crate::cli::RunArgs;
use crate::ledger::{self, Ledger};
use crate::lock::{DataLock, LockError};
use crate::settings::{Settings, SettingsError};
use crate::sql::{Place, SqlError};

/// How often a pass that takes its time says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How often the exporter's snapshots are looked at: a look costs next to nothing.
const SCRAPE_EVERY: Duration = Duration::from_secs(15);
/// Failures shown one by one.
const MAX_SHOWN_FAILURES: usize = 20;
/// bcrypt's least cost.
const OWN_COST: u32 = 4;
/// An address for the scraper alone.
const NOBODY_ELSES: &str = "127.0.0.1:0";

/// A run that could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The command line or the configuration.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The data directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// TLS or users.
    #[error(transparent)]
    Web(#[from] WebConfigError),
    /// Rights that are nobody's.
    #[error(transparent)]
    Rights(#[from] RightsError),
    /// An address.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The exporter's spool or sources.
    #[error(transparent)]
    Exporter(#[from] ExporterError),
    /// The handler's store.
    #[error(transparent)]
    Handler(#[from] HandlerError),
    /// The scraper's settings.
    #[error(transparent)]
    Scraper(#[from] ScrapeError),
    /// The scraper's own way in.
    #[error("make the scraper's own way to the exporter")]
    OwnWay(#[source] io::Error),
    /// The store could not be asked what it has.
    #[error("sum up the store")]
    Sums(#[from] SqlError),
    /// The output is closed or full, or signals cannot be waited for.
    #[error("print the table")]
    Print(#[from] io::Error),
    /// A signal came first.
    #[error("ended by a signal before everything was stored")]
    Interrupted,
}

impl RunError {
    /// The status to end with.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Settings(error) if error.is_usage() => Status::Usage,
            Self::Web(_) | Self::Rights(_) => Status::Usage,
            Self::Serve(error) if error.is_usage() => Status::Usage,
            _ => Status::Failed,
        }
    }
}

/// `costream run`
///
/// # Errors
/// It could not start, or with `--once` could not go through. A source that cannot be polled is
/// no such error: it is said, the others go on, and the status of `--once` shows it.
pub(crate) async fn run(args: RunArgs) -> Result<Status, RunError> {
    let configured = Configured::of(&args)?;
    let shutdown = program::on_signal()?;
    let doors = Doors { exporter: Door::until(shutdown.clone()), handler: Door::until(shutdown.clone()) };
    if args.once {
        return live(&args, configured, &doors, shutdown).await;
    }
    let hangups = reload::hangups()?;
    let file = args.sources.config_file.as_deref();
    let live = |configured, ending| live(&args, configured, &doors, ending);
    reload::run(file, configured, hangups, &shutdown, || Configured::of(&args), live).await
}

/// From an open data directory to a closed house.
async fn live(
    args: &RunArgs,
    configured: Configured,
    doors: &Doors,
    shutdown: CancellationToken,
) -> Result<Status, RunError> {
    let _lock = DataLock::take(&configured.settings.data_dir)?;
    configured.settings.lay_sample_down().await?;
    let house = House::open(args, configured, doors).await?;
    let ran = house.run(args, &shutdown).await;
    house.close().await;
    ran
}

/// Everything that the command line and the configuration can be wrong about.
#[derive(Clone)]
struct Configured {
    settings: Settings,
    webs: Webs,
}

impl Configured {
    fn of(args: &RunArgs) -> Result<Self, RunError> {
        let settings = Settings::new(&args.sources, args.data_dir.as_deref())?;
        let webs = Webs::load(args, &settings)?;
        settings.handler.users.check(webs.handler.as_deref())?;
        Ok(Self { settings, webs })
    }
}

/// The web configurations: TLS and users of each address.
#[derive(Clone)]
struct Webs {
    exporter: Option<Arc<WebConfig>>,
    handler: Option<Arc<WebConfig>>,
}

impl Webs {
    fn load(args: &RunArgs, settings: &Settings) -> Result<Self, WebConfigError> {
        let load = |section: &Option<std::path::PathBuf>| {
            let path = args.web_config_file.as_ref().or(section.as_ref());
            path.map(|path| WebConfig::load(path).map(Arc::new)).transpose()
        };
        Ok(Self {
            exporter: load(&settings.exporter.web_config_file)?,
            handler: load(&settings.handler.web_config_file)?,
        })
    }
}

/// Where the two that are asked by others listen.
struct Doors {
    exporter: Door,
    handler: Door,
}

/// The three roles, open, and the servers that run.
struct House {
    exporter: Exporter,
    scraper: Scraper,
    handler: Handler,
    /// What to look at: what it is, and where.
    urls: Vec<(&'static str, String)>,
    servers: JoinSet<()>,
    serving: CancellationToken,
    _own_way: Option<OwnWay>,
}

impl House {
    /// Takes the addresses, opens spool and store, and serves what they have.
    async fn open(args: &RunArgs, configured: Configured, doors: &Doors) -> Result<Self, RunError> {
        let Configured { settings: Settings { exporter, scraper, handler, .. }, webs } = configured;
        let allowed = args.allow_unauthenticated || handler.allow_unauthenticated;
        let exposure = if allowed { Exposure::Unauthenticated } else { Exposure::LoopbackOnly };
        // A run that ends by itself has nothing to show, unless somebody asks for it.
        let address = |flag: &Option<String>, section: &str| match flag {
            Some(flag) => Some(flag.clone()),
            None => (!args.once).then(|| section.to_owned()),
        };
        let exporter_address = address(&args.exporter_listen_address, &exporter.listen_address);
        let handler_address = address(&args.handler_listen_address, &handler.listen_address);

        let exporter_is_guarded = webs.exporter.is_some();
        let exporter_door = match &exporter_address {
            Some(address) => Some(doors.exporter.bind(address, webs.exporter, exposure).await?),
            None => None,
        };
        let handler_door = match &handler_address {
            Some(address) => Some(doors.handler.bind(address, webs.handler, exposure).await?),
            None => None,
        };
        // The scraper goes in by the exporter's own door, unless that asks for a password.
        let own_way = match &exporter_door {
            Some(_) if !exporter_is_guarded => None,
            _ => Some(OwnWay::make().await?),
        };

        let own_target = match (&own_way, &exporter_door) {
            (Some((way, _)), _) => Some(way.target.clone()),
            (None, Some(door)) => door.url().parse().ok().map(TargetConfig::new),
            (None, None) => None,
        };
        let scraper = ScraperConfig { targets: targets(own_target, &scraper, &exporter), ..scraper };
        let exporter = Exporter::start(exporter).await?;
        let handler = Handler::open(handler).await?;
        let scraper = Scraper::new(scraper, Sink::InProcess(handler.ingest()))?;

        let mut house = Self {
            exporter,
            scraper,
            handler,
            urls: Vec::new(),
            servers: JoinSet::new(),
            serving: CancellationToken::new(),
            _own_way: None,
        };
        if let Some(door) = exporter_door {
            house.urls.push(("metrics for Prometheus", format!("{}/metrics", door.url())));
            house.urls.push(("exporter", format!("{}/", door.url())));
            tracing::info!(address = %door.local_addr(), "exporter listens");
            house.serve(door, Passwords, house.exporter.router());
        }
        if let Some(door) = handler_door {
            house.urls.push(("SQL", format!("{}/_sql", door.url())));
            house.urls.push(("handler", format!("{}/", door.url())));
            tracing::info!(address = %door.local_addr(), callers = auth::admitted(&door), "handler listens");
            // The scraper's own telemetry has no address of its own here.
            house.serve(door, house.handler.gate(), house.handler.router().nest("/scraper", house.scraper.router()));
        }
        if let Some((way, door)) = own_way {
            house.serve(door, Passwords, house.exporter.router());
            house._own_way = Some(way);
        }
        Ok(house)
    }

    /// One pass; then on and on, unless that was to be all.
    async fn run(&self, args: &RunArgs, shutdown: &CancellationToken) -> Result<Status, RunError> {
        let Some(pass) = shutdown.run_until_cancelled(self.first_pass()).await else {
            return if args.once { Err(RunError::Interrupted) } else { Ok(Status::Good) };
        };
        let status = pass?.tell(args.allow_rejects)?;
        if args.once {
            return Ok(status);
        }
        self.go_on(shutdown).await?;
        Ok(Status::Good)
    }

    fn serve(&mut self, door: Listener, gate: impl Gate, router: axum::Router) {
        let serving = self.serving.clone();
        self.servers.spawn(async move {
            if let Err(error) = serve::serve_through(door, gate, router, serving).await {
                tracing::error!(error = one_line(&error), "an address is not served any more");
            }
        });
    }

    /// Polls every source once, stores what that brought, and adds it up.
    async fn first_pass(&self) -> Result<Pass, RunError> {
        let outcomes = self.watched("polling", self.exporter.poll_all()).await;
        for outcome in &outcomes {
            let Ok(polled) = &outcome.result else { continue };
            let (report, rows, rejected) =
                (&polled.snapshot.key, polled.snapshot.totals.rows(), polled.snapshot.rejected);
            if polled.changed {
                tracing::info!(%report, rows, rejected, profile = %polled.profile, took = ?polled.took, "polled");
            } else {
                tracing::info!(%report, rows, rejected, "not changed since the last poll");
            }
        }
        let cycles = self.watched("storing", self.scraper.cycle_once()).await;
        let snapshots = self.exporter.snapshots();
        let report = Ledger::of_snapshots(&snapshots);
        let place = Place::local(self.handler.store().read.clone());
        let store = Ledger::of_store(&place).await?.within(&report);
        Ok(Pass::new(&outcomes, &cycles, report, store))
    }

    /// Waits, and now and then says how far it is.
    async fn watched<T>(&self, doing: &'static str, work: impl Future<Output = T>) -> T {
        let began = tokio::time::Instant::now();
        let mut ticks = tokio::time::interval_at(began + PROGRESS_EVERY, PROGRESS_EVERY);
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => {
                    let polls = self.exporter.progress();
                    let seconds = began.elapsed().as_secs();
                    if polls.is_empty() {
                        tracing::info!(seconds, "{doing}");
                    }
                    for poll in polls {
                        tracing::info!(report = %poll.key, rows = poll.rows, rejected = poll.rejected, seconds, "{doing}");
                    }
                }
            }
        }
    }

    /// Says where to look, and polls, scrapes and keeps house until the signal.
    async fn go_on(&self, shutdown: &CancellationToken) -> Result<(), RunError> {
        self.print_urls()?;
        let mut roles = JoinSet::new();
        roles.spawn({
            let (exporter, shutdown) = (self.exporter.clone(), shutdown.clone());
            async move { exporter.run(shutdown).await }
        });
        roles.spawn({
            let (scraper, shutdown) = (self.scraper.clone(), shutdown.clone());
            async move { scraper.run(shutdown).await }
        });
        roles.spawn({
            let (handler, shutdown) = (self.handler.clone(), shutdown.clone());
            async move { handler.run_maintenance(shutdown).await }
        });
        program::drained(async { while roles.join_next().await.is_some() {} }, shutdown).await;
        Ok(())
    }

    fn print_urls(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out)?;
        for (what, url) in &self.urls {
            writeln!(out, "{what:<24}{url}")?;
        }
        writeln!(out, "Polling goes on. Ctrl-C ends it.")?;
        out.flush()
    }

    /// Lets requests in flight end; see [`serve::DRAIN_WITHIN`].
    async fn close(self) {
        let Self { exporter, serving, mut servers, .. } = self;
        serving.cancel();
        while servers.join_next().await.is_some() {}
        exporter.close().await;
        tracing::info!("ended");
    }
}

/// The scraper's way to an exporter whose address is guarded, or has none: an address of
/// this machine, and a user made for this run.
struct OwnWay {
    target: TargetConfig,
    /// Holds the password.
    _dir: TempDir,
}

impl OwnWay {
    async fn make() -> Result<(Self, Listener), RunError> {
        let dir = tempfile::tempdir().map_err(RunError::OwnWay)?;
        let password = format!("{:032x}", rand::random::<u128>());
        // Cheap to verify: nobody can try a 128-bit password out.
        let hash = bcrypt::hash(&password, OWN_COST).map_err(|error| RunError::OwnWay(io::Error::other(error)))?;
        let (password_file, web_file) = (dir.path().join("password"), dir.path().join("web.yml"));
        tokio::fs::write(&password_file, password).await.map_err(RunError::OwnWay)?;
        tokio::fs::write(&web_file, format!("basic_auth_users:\n  scraper: {hash}\n"))
            .await
            .map_err(RunError::OwnWay)?;
        let door = door::bind(NOBODY_ELSES, Some(WebConfig::load(&web_file)?), Exposure::LoopbackOnly).await?;
        let url: Url = door.url().parse().map_err(|error| RunError::OwnWay(io::Error::other(error)))?;
        let login = BasicAuth { username: "scraper".to_owned(), password: SecretSource::File(password_file) };
        let target = TargetConfig { basic_auth: Some(login), ..TargetConfig::new(url) };
        Ok((Self { target, _dir: dir }, door))
    }
}

/// What is scraped: our own exporter, and whatever else the file names. The file may name the
/// exporter too, for when the roles run as programs of their own: then it says how rows are asked for.
fn targets(own: Option<TargetConfig>, config: &ScraperConfig, exporter: &ExporterConfig) -> Vec<TargetConfig> {
    let port = exporter.listen_address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let is_own = |target: &&TargetConfig| {
        let this_machine = matches!(target.url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        this_machine && target.url.port_or_known_default() == port && target.kind() == TargetKind::Costream
    };
    let records = config.targets.iter().find(is_own).map(|target| target.records).unwrap_or_default();
    let interval = Span(SCRAPE_EVERY.min(exporter.poll_interval));
    let own = own.map(|target| TargetConfig { name: Some("costream".to_owned()), interval, records, ..target });
    own.into_iter().chain(config.targets.iter().filter(|target| !is_own(target)).cloned()).collect()
}

/// What one pass over every source came to.
#[derive(Default)]
struct Pass {
    report: Ledger,
    store: Ledger,
    failures: Vec<String>,
    /// Refused rows, by reason.
    rejects: BTreeMap<String, u64>,
    rejected: u64,
}

impl Pass {
    fn new(outcomes: &[PollOutcome], cycles: &[CycleReport], report: Ledger, store: Ledger) -> Self {
        let mut pass = Self { report, store, ..Self::default() };
        for outcome in outcomes {
            match &outcome.result {
                Ok(polled) => {
                    pass.rejected += polled.snapshot.rejected;
                    for (reason, count) in &polled.rejects {
                        *pass.rejects.entry(reason.clone()).or_default() += count;
                    }
                }
                Err(error) => pass.failures.push(match &outcome.scope {
                    Some(scope) if scope.as_str() != outcome.source.as_str() => {
                        format!("poll of {} ({scope}): {}", outcome.source, one_line(error))
                    }
                    _ => format!("poll of {}: {}", outcome.source, one_line(error)),
                }),
            }
        }
        for cycle in cycles {
            pass.failures
                .extend(cycle.errors().map(|error| format!("scrape of {}: {}", cycle.target, one_line(error))));
        }
        let differences = pass.report.differences("store", &pass.store);
        pass.failures.extend(differences.iter().map(|difference| difference.to_string()));
        pass
    }

    /// Prints the table, and says what went wrong.
    fn tell(self, allowed_rejects: u64) -> Result<Status, RunError> {
        ledger::print(io::stdout().lock(), &[("report", &self.report), ("store", &self.store)])?;
        for failure in self.failures.iter().take(MAX_SHOWN_FAILURES) {
            eprintln!("costream: {failure}");
        }
        if self.failures.len() > MAX_SHOWN_FAILURES {
            eprintln!("costream: and {} more", self.failures.len() - MAX_SHOWN_FAILURES);
        }
        if self.rejected > 0 {
            let reasons: Vec<_> = self.rejects.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            eprintln!("costream: {} rows were rejected ({}); see the table rejects", self.rejected, reasons.join(", "));
        }
        Ok(match () {
            () if !self.failures.is_empty() => Status::Failed,
            () if self.rejected > allowed_rejects => Status::Rejects,
            () => Status::Good,
        })
    }
}
