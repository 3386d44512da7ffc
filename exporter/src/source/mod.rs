//! A configured source in, its reports' bytes out. A source has scopes: one for a URL, one for each file of a
//! directory or glob, and what a provider's layout ([`layout`]) makes of a bucket or a directory. [`Source::fetch`] opens one, or says
//! that it is what we saw last; a report may have several [`Parts`], whose bytes are counted and digested on the way
//! by. Pull-driven: reads only what it is asked for, holds one chunk. Looks at no content type; does not retry, but for
//! what an object store's client does for one request.

mod call;
mod error;
mod file;
mod http;
mod layout;
mod object;
mod parts;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use costream_common::http::client::Validators;
use costream_common::inherited::Resources;
use costream_common::record::{ScopeName, SourceName};
use serde::{Deserialize, Serialize};

pub use self::error::SourceError;
pub(crate) use self::parts::{Part, Parts, Promise};
use crate::config::azure_monitor::AzureMonitor;
use crate::config::provider::ProviderUsage;
use crate::config::{Layout, Location, Rows, SourceConfig};
use crate::profile::ProfileName;

/// Most files one source may have: their names are held in memory.
const MAX_SCOPES: usize = 100_000;

/// A source that can be asked.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: SourceName,
    pub(crate) profile: ProfileName,
    pub(crate) interval: Duration,
    pub(crate) rows: Rows,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Files(file::Files),
    Url(Box<http::Remote>),
    Objects(object::Bucket),
    /// No place of reports: [`crate::usage`] asks there.
    Usage(UsageFrom),
    Call(Box<call::Called>),
}

/// Where a source of usage has what it asks from.
#[derive(Clone, Debug)]
pub(crate) enum UsageFrom {
    /// The configuration says it.
    AzureMonitor(Arc<AzureMonitor>),
    /// Resources of an inherited one say it.
    Provider(Arc<ProviderUsage>),
}

/// One of a source's reports.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) scope: ScopeName,
    /// How errors call it: a path, or a URL without secrets.
    pub(crate) shown: String,
    /// The objects that it is made of, where it is.
    report: Option<object::Report>,
}

impl Item {
    /// Of no more than its name.
    pub(crate) fn new(scope: ScopeName, shown: String) -> Self {
        Self { scope, shown, report: None }
    }
}

/// What was seen of a report, to know it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// By what it is known without being read.
    mark: Mark,
    /// SHA-256 of its bytes as they came, in hexadecimal, with their number between one part and the next; nothing
    /// when they were not read to their end.
    pub(crate) digest: Option<String>,
    pub(crate) bytes: u64,
}

impl Seen {
    fn validators(&self) -> Option<&Validators> {
        if let Mark::Http(known) = &self.mark { Some(known) } else { None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mark {
    File(file::Stamp),
    Http(Validators),
    Objects(object::Marks),
    Usage(AskedUsage),
}

/// What is known of a day of usage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AskedUsage {
    /// When it was last asked for.
    pub(crate) at: DateTime<Utc>,
    /// Of what: a digest of all questions.
    pub(crate) plan: String,
    /// Questions that were not answered, and may be when they are asked again.
    pub(crate) open: u64,
    /// Whether the plan was not all that is to be asked.
    #[serde(default)]
    pub(crate) is_partial: bool,
}

impl Seen {
    /// A day of usage, whose rows have this digest.
    pub(crate) fn of_usage(asked: AskedUsage, digest: String, bytes: u64) -> Self {
        Self { mark: Mark::Usage(asked), digest: Some(digest), bytes }
    }

    /// What is known of a day of usage; nothing of a report.
    pub(crate) fn usage(&self) -> Option<&AskedUsage> {
        if let Mark::Usage(asked) = &self.mark { Some(asked) } else { None }
    }
}

/// What asking for a report brings.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// It is what was seen last.
    Unchanged,
    /// It is being written: what was seen last holds until then.
    Unfinished,
    /// Its bytes.
    Fresh(Parts),
}

impl Source {
    /// Makes a source that can be asked. Reads the certificates to trust, nothing else.
    pub(crate) fn new(config: SourceConfig, interval: Duration) -> Result<Self, SourceError> {
        let place = match config.location {
            Location::Files(given) => Place::Files(file::Files::new(given)),
            Location::Export { path, layout: Layout::Plain } => Place::Files(file::Files::new(path)),
            Location::Export { path, layout } => Place::Objects(object::Bucket::of_directory(path, layout)),
            Location::Bucket { cloud, url, layout, settings } => {
                Place::Objects(object::Bucket::of_cloud(cloud, url, layout, settings))
            }
            Location::Url { url, access } => Place::Url(Box::new(http::Remote::new(url, *access)?)),
            Location::AzureMonitor(azure) => Place::Usage(UsageFrom::AzureMonitor(Arc::new(*azure))),
            Location::Provider(usage) => Place::Usage(UsageFrom::Provider(Arc::new(*usage))),
            Location::Call { call, resources } => Place::Call(Box::new(call::Called::new(*call, resources))),
        };
        let interval = config.poll_interval.unwrap_or(interval);
        Ok(Self { name: config.name, profile: config.profile, interval, rows: config.rows, place })
    }

    /// Whom it asks; nothing when it is this machine's disk.
    pub(crate) fn host(&self) -> Option<String> {
        match &self.place {
            Place::Files(_) | Place::Usage(_) => None,
            Place::Call(called) => called.host(),
            Place::Url(remote) => Some(remote.host()),
            Place::Objects(bucket) => bucket.host(),
        }
    }

    /// The reports that are there now, in order.
    pub(crate) async fn items(&self) -> Result<Vec<Item>, SourceError> {
        match &self.place {
            Place::Files(files) => files.items().await,
            Place::Url(remote) => Ok(vec![remote.item()?]),
            Place::Objects(bucket) => bucket.items().await,
            Place::Usage(_) => Err(SourceError::NoReports(self.name.clone())),
            Place::Call(called) => Ok(vec![called.item(&self.name)?]),
        }
    }

    /// What is asked for usage; nothing when the source has reports.
    pub(crate) fn usage(&self) -> Option<&UsageFrom> {
        if let Place::Usage(from) = &self.place { Some(from) } else { None }
    }

    /// The resources of an inherited configuration that say how it is asked.
    pub(crate) fn resources(&self) -> Option<&Resources> {
        match &self.place {
            Place::Call(called) => Some(called.resources()),
            Place::Usage(UsageFrom::Provider(usage)) => Some(&usage.resources),
            _ => None,
        }
    }

    /// A report as it is there now, after one that had changed since it was looked for.
    pub(crate) async fn again(&self, item: Item) -> Result<Item, SourceError> {
        if item.report.is_none() {
            return Ok(item);
        }
        let now = self.items().await?.into_iter().find(|now| now.scope == item.scope);
        now.ok_or(SourceError::Changed(item.shown))
    }

    /// Opens a report, unless it is known to be what was `seen` last.
    pub(crate) async fn fetch(&self, item: &Item, seen: Option<&Seen>) -> Result<Fetched, SourceError> {
        let mark = seen.map(|seen| &seen.mark);
        match (&self.place, &item.report) {
            (_, Some(report)) => {
                report
                    .fetch(mark.and_then(|mark| if let Mark::Objects(marks) = mark { Some(marks) } else { None }))
                    .await
            }
            (Place::Url(remote), None) => remote.fetch(seen.and_then(Seen::validators)).await,
            (Place::Files(_) | Place::Objects(_), None) => {
                let stamp = mark.and_then(|mark| if let Mark::File(stamp) = mark { Some(stamp) } else { None });
                file::fetch(&item.shown, stamp).await
            }
            (Place::Usage(_), None) => Err(SourceError::NoReports(self.name.clone())),
            (Place::Call(called), None) => called.fetch(seen.and_then(Seen::validators)).await,
        }
    }
}
