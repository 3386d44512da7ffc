//! The product under kill: the three roles as programs of their own, or the all-in-one, on one
//! folder. A program that is started again finds what its predecessor left there, and its peers
//! find it behind the same address.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::VARIABLE;
use super::front::Front;
use super::store::Store;
use crate::programs::{Program, program, until};

/// Lines of each program's log that a failure shows.
const SHOWN_LINES: usize = 25;
/// The signal that `abort` ends a process with.
const SIGABRT: i32 = 6;
/// The signal that asks a process to end.
const SIGTERM: i32 = 15;
/// What a program says of a new configuration.
const READ_ANEW: &str = "configuration read anew";
const CONFIGURATION: &str = "costream.yaml";
const SECOND_CONFIGURATION: &str = "costream-2.yaml";

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `costream-exporter`
    Exporter,
    /// `costream-scraper`
    Scraper,
    /// `costream-handler`
    Handler,
    /// `costream run`
    Costream,
    /// A second scraper of the same exporter.
    SecondScraper,
    /// A second handler on the same store.
    SecondHandler,
}

impl Role {
    /// The program's name.
    pub fn program(self) -> &'static str {
        match self {
            Self::Exporter => "costream-exporter",
            Self::Scraper | Self::SecondScraper => "costream-scraper",
            Self::Handler | Self::SecondHandler => "costream-handler",
            Self::Costream => "costream",
        }
    }

    /// Whether it reads the second configuration file.
    fn is_second(self) -> bool {
        matches!(self, Self::SecondScraper | Self::SecondHandler)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())?;
        if self.is_second() { f.write_str("-2") } else { Ok(()) }
    }
}

/// How the roles are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// Each a program of its own, over HTTP.
    ThreePrograms,
    /// All in one process.
    AllInOne,
    /// Three programs, and a second scraper of the same exporter, for the same handler.
    TwoScrapers,
    /// Three programs, and a second scraper that delivers to a second handler on the same store.
    TwoHandlers,
}

impl Wiring {
    /// The programs that are run.
    pub fn roles(self) -> &'static [Role] {
        match self {
            Self::ThreePrograms => &[Role::Exporter, Role::Scraper, Role::Handler],
            Self::AllInOne => &[Role::Costream],
            Self::TwoScrapers => &[Role::Exporter, Role::Scraper, Role::SecondScraper, Role::Handler],
            Self::TwoHandlers => {
                &[Role::Exporter, Role::Scraper, Role::SecondScraper, Role::Handler, Role::SecondHandler]
            }
        }
    }
}

/// What a house is to do. Everything is quick, since tests wait for it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which programs there are.
    pub wiring: Wiring,
    /// How the scraper asks for rows: `arrow` or `text`.
    pub records: &'static str,
    /// The exporter's sources: name, and URL or path.
    pub sources: Vec<(String, String)>,
    /// A Prometheus endpoint to scrape beside the exporter.
    pub series: Option<String>,
    /// Between two rounds of the handler's housekeeping.
    pub maintenance: &'static str,
    /// Where the spool is, when not in the house's folder.
    pub spool_dir: Option<PathBuf>,
    /// Where the store is, when not in the house's folder.
    pub data_dir: Option<PathBuf>,
    /// Further keys of the section `exporter`, a line each.
    pub exporter_keys: &'static str,
    /// Between two polls, and between two scrapes.
    pub interval: &'static str,
}

impl Plan {
    /// Sources, and nothing out of the ordinary.
    pub fn new(wiring: Wiring, sources: Vec<(String, String)>) -> Self {
        Self {
            wiring,
            sources,
            records: "arrow",
            series: None,
            maintenance: "2s",
            spool_dir: None,
            data_dir: None,
            exporter_keys: "",
            interval: "200ms",
        }
    }
}

/// The programs, their folder, and the addresses they are found at.
pub struct House {
    /// The plan it was built to.
    pub plan: Plan,
    folder: TempDir,
    exporter: Front,
    handler: Front,
    second_handler: Front,
    running: BTreeMap<Role, Program>,
}

impl House {
    /// Writes the configuration, and starts nothing.
    ///
    /// # Errors
    /// There is no room or no port for it.
    pub fn build(plan: Plan) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder")?;
        let (exporter, handler, second_handler) = (Front::open()?, Front::open()?, Front::open()?);
        let house = Self { plan, folder, exporter, handler, second_handler, running: BTreeMap::new() };
        house.configure()?;
        Ok(house)
    }

    /// Writes the configuration as the plan is now.
    fn configure(&self) -> Result<()> {
        let second = if self.plan.wiring == Wiring::TwoHandlers { &self.second_handler } else { &self.handler };
        for (file, handler) in [(CONFIGURATION, &self.handler), (SECOND_CONFIGURATION, second)] {
            let text = self.configuration(&handler.url());
            fs::write(self.folder().join(file), text).context("write the configuration")?;
        }
        Ok(())
    }

    fn configuration(&self, handler: &str) -> String {
        let Plan { wiring, records, sources, series, maintenance, exporter_keys, interval, .. } = &self.plan;
        let exporter = self.exporter.url();
        let (spool, data) = (self.spool_dir(), self.data_dir());
        let listed = sources.iter().map(|(name, place)| {
            let kind = if place.starts_with("http://") { "url" } else { "path" };
            format!("    - {{name: {name}, {kind}: '{place}'}}\n")
        });
        let listed: String = listed.collect();
        // The all-in-one knows its own exporter.
        let own = match wiring {
            Wiring::AllInOne => String::new(),
            _ => format!("    - {{url: '{exporter}', records: {records}, interval: {interval}}}\n"),
        };
        let series = series.as_ref().map(|url| format!("    - {{url: '{url}', interval: {interval}}}\n"));
        let targets = own + &series.unwrap_or_default();
        let targets = if targets.is_empty() { "[]\n".to_owned() } else { format!("\n{targets}") };
        format!(
            "exporter:
  listen_address: 127.0.0.1:0
  spool_dir: {spool}
  poll_interval: {interval}
  retry_for: 1s
{exporter_keys}  sources:
{listed}scraper:
  listen_address: 127.0.0.1:0
  retry_for: 2s
  handler: {{url: '{handler}'}}
  targets: {targets}handler:
  listen_address: 127.0.0.1:0
  data_dir: {data}
  maintenance_interval: {maintenance}
",
            spool = spool.display(),
            data = data.display(),
        )
    }

    /// Where everything is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn spool_dir(&self) -> PathBuf {
        self.plan.spool_dir.clone().unwrap_or_else(|| self.folder().join("spool"))
    }

    fn data_dir(&self) -> PathBuf {
        self.plan.data_dir.clone().unwrap_or_else(|| self.folder().join("data"))
    }

    /// What is in the store.
    pub fn store(&self) -> Store {
        Store::new(self.handler.url(), self.data_dir().join("store"))
    }

    /// The way to the exporter.
    pub fn exporter_front(&self) -> &Front {
        &self.exporter
    }

    /// The way to the handler.
    pub fn handler_front(&self) -> &Front {
        &self.handler
    }

    /// Starts every program, in no particular order.
    ///
    /// # Errors
    /// One does not start.
    pub fn start_all(&mut self) -> Result<()> {
        self.plan.wiring.roles().iter().rev().try_for_each(|role| self.start(*role))
    }

    /// Starts a program, again or for the first time.
    ///
    /// # Errors
    /// It does not build or start.
    pub fn start(&mut self, role: Role) -> Result<()> {
        self.start_with(role, |_| {})
    }

    /// Starts a program that stops dead at a point, or at its n-th passing (`<point>:<n>`).
    ///
    /// # Errors
    /// As [`House::start`].
    pub fn start_until(&mut self, role: Role, point: &str) -> Result<()> {
        self.start_with(role, |command| {
            command.env(VARIABLE, point);
        })
    }

    /// Starts a program whose command is changed first.
    ///
    /// # Errors
    /// As [`House::start`].
    pub fn start_with(&mut self, role: Role, change: impl FnOnce(&mut Command)) -> Result<()> {
        let mut command = Command::new(program(role.program())?);
        if role == Role::Costream {
            command.arg("run");
        }
        command.args(["--config.file", if role.is_second() { SECOND_CONFIGURATION } else { CONFIGURATION }]);
        change(&mut command);
        let program = Program::spawn(&role.to_string(), self.folder.path(), &mut command)?;
        let log = program.log().clone();
        match role {
            Role::Exporter => self.exporter.lead_to(log, "listening on "),
            Role::Handler => self.handler.lead_to(log, "listening on "),
            Role::SecondHandler => self.second_handler.lead_to(log, "listening on "),
            Role::Costream => {
                self.exporter.lead_to(log.clone(), "exporter listens address=");
                self.handler.lead_to(log, "handler listens address=");
            }
            Role::Scraper | Role::SecondScraper => {}
        }
        self.running.insert(role, program);
        Ok(())
    }

    /// Changes the configuration, and asks a program to read it anew (SIGHUP). It has, when this returns; what
    /// was under way may not have ended by then.
    ///
    /// # Errors
    /// It does not take the new configuration.
    pub fn reload(&mut self, role: Role) -> Result<()> {
        // Another pace, and rows in the other form.
        let Plan { records, interval, .. } = &mut self.plan;
        *records = if *records == "arrow" { "text" } else { "arrow" };
        *interval = if *interval == "200ms" { "250ms" } else { "200ms" };
        self.configure()?;
        // One that has only just been started knows no SIGHUP yet.
        until(&format!("{role} listens"), || Ok(self.printed(role)?.contains("listen").then_some(())))?;
        let told = |house: &Self| Ok::<_, anyhow::Error>(house.printed(role)?.matches(READ_ANEW).count());
        let before = told(self)?;
        self.running.get(&role).with_context(|| format!("{role} does not run"))?.hang_up()?;
        until(&format!("{role} has read its configuration anew"), || Ok((told(self)? > before).then_some(())))
    }

    /// Kills a program (SIGKILL).
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(&mut self, role: Role) -> Result<()> {
        self.running.remove(&role).map_or(Ok(()), Program::kill)
    }

    /// Waits until a program has stopped dead at the point it was started with.
    ///
    /// # Errors
    /// It ends otherwise, or not in time.
    pub fn until_dead(&mut self, role: Role, point: &str) -> Result<()> {
        let program = self.running.get_mut(&role).with_context(|| format!("{role} does not run"))?;
        let status = until(&format!("{role} gets to {point}"), || program.ended())?;
        let name = point.split(':').next().unwrap_or_default();
        let said = program.printed()?;
        ensure!(
            status.signal() == Some(SIGABRT) && said.contains(&format!("stopped dead at {name}")),
            "{role} ended with {status}, not at {point}: {said}"
        );
        self.running.remove(&role);
        Ok(())
    }

    /// What a program has printed since it was started.
    ///
    /// # Errors
    /// It does not run, or its log cannot be read.
    pub fn printed(&self, role: Role) -> Result<String> {
        self.running.get(&role).with_context(|| format!("{role} does not run"))?.printed()
    }

    /// Asks a program to end (SIGTERM), and waits until it has ended well.
    ///
    /// # Errors
    /// It does not end in time, or not well.
    pub fn terminate(&mut self, role: Role) -> Result<()> {
        let program = self.running.remove(&role).with_context(|| format!("{role} does not run"))?;
        let log = program.log().clone();
        let status = program.terminate()?;
        // One that has only just been started knows no better than to end at once.
        let is_young = status.signal() == Some(SIGTERM) && !log.text()?.contains("listen");
        ensure!(status.success() || is_young, "{role} ended with {status} when it was asked to");
        Ok(())
    }

    /// The end of every program's log, for who has to find out what went wrong.
    pub fn last_words(&self) -> String {
        let mut words = String::new();
        for role in self.plan.wiring.roles() {
            let log = fs::read_to_string(self.folder().join(format!("{role}.log"))).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let _ = writeln!(words, "--- {role}, last lines");
            for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
                let _ = writeln!(words, "{line}");
            }
        }
        words
    }
}
