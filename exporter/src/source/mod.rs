//! A configured source in, its reports' bytes out. A source has scopes: one for a URL, one for
//! each file of a directory or glob. [`Source::fetch`] opens one, or says that it is what we
//! saw last; the bytes are counted and digested on the way by, and [`Receipt::seal`] says
//! afterwards what was seen, or that the file changed meanwhile. Pull-driven: reads only what it is asked for,
//! holds one chunk. Looks at no name and no content type; does not retry.

mod file;
mod http;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use costream_common::http::client::{ClientError, Validators};
use costream_common::record::{NameError, ScopeName, SourceName};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, ReadBuf};

use crate::config::{Location, SourceConfig};
use crate::profile::ProfileName;

/// Most files one source may have: their names are held in memory.
const MAX_SCOPES: usize = 100_000;

/// A source that can be asked.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: SourceName,
    pub(crate) profile: ProfileName,
    pub(crate) interval: Duration,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Files(file::Files),
    Url(Box<http::Remote>),
}

/// One of a source's reports.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) scope: ScopeName,
    /// How errors and rejects call it: a path, or a URL without secrets.
    pub(crate) shown: String,
}

/// What was seen of a report, to know it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// By what it is known without being read.
    mark: Mark,
    /// SHA-256 of its bytes as they came, in hexadecimal; nothing when they were not read to their end.
    pub(crate) digest: Option<String>,
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mark {
    File(file::Stamp),
    Http(Validators),
}

/// What asking for a report brings.
pub(crate) enum Fetched {
    /// It is what was seen last.
    Unchanged,
    /// Its bytes, and who knows what they were.
    Fresh(Box<dyn AsyncRead + Send + Unpin>, Receipt),
}

/// Why there are no bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A file or directory is missing or unreadable.
    #[error("read {path}")]
    Read {
        /// The path as given, or found.
        path: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Neither a file nor a directory.
    #[error("read {0}: it is no regular file")]
    NotAFile(String),
    /// A directory without files, or a glob that matches none.
    #[error("no report in {given}: {reason}")]
    NoFiles {
        /// The path as given.
        given: String,
        /// What is there.
        reason: String,
    },
    /// The glob is none.
    #[error("glob {given}")]
    Pattern {
        /// The glob as given.
        given: String,
        /// Where it goes wrong.
        #[source]
        source: glob::PatternError,
    },
    /// A file's name cannot be a scope's.
    #[error("file {shown}: its name cannot be shown")]
    Name {
        /// The path, as far as it is text.
        shown: String,
        /// What is wrong with it.
        #[source]
        source: Option<NameError>,
    },
    /// More files than one source may have.
    #[error("more than {MAX_SCOPES} files in {0}")]
    TooMany(String),
    /// Somebody wrote to the file while it was read.
    #[error("{0} changed while it was read")]
    Changed(String),
    /// The server gave no body.
    #[error(transparent)]
    Http(#[from] ClientError),
}

impl SourceError {
    /// Whether asking again may go well a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Changed(_) => true,
            Self::Http(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// The wait a server asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Http(error) => error.retry_after(),
            _ => None,
        }
    }
}

impl Source {
    /// Makes a source that can be asked. Reads the certificates to trust, nothing else.
    pub(crate) fn new(config: SourceConfig, interval: Duration) -> Result<Self, SourceError> {
        let place = match config.location {
            Location::Files(given) => Place::Files(file::Files::new(given)),
            Location::Url { url, access } => Place::Url(Box::new(http::Remote::new(url, *access)?)),
        };
        let interval = config.poll_interval.unwrap_or(interval);
        Ok(Self { name: config.name, profile: config.profile, interval, place })
    }

    /// The reports that are there now, in order.
    pub(crate) async fn items(&self) -> Result<Vec<Item>, SourceError> {
        match &self.place {
            Place::Files(files) => files.items().await,
            Place::Url(remote) => Ok(vec![remote.item()?]),
        }
    }

    /// Opens a report, unless it is known to be what was `seen` last.
    pub(crate) async fn fetch(&self, item: &Item, seen: Option<&Seen>) -> Result<Fetched, SourceError> {
        match &self.place {
            Place::Files(_) => {
                let stamp = seen.and_then(|seen| if let Mark::File(stamp) = &seen.mark { Some(stamp) } else { None });
                file::fetch(&item.shown, stamp).await
            }
            Place::Url(remote) => {
                let validators =
                    seen.and_then(|seen| if let Mark::Http(known) = &seen.mark { Some(known) } else { None });
                remote.fetch(validators).await
            }
        }
    }
}

/// Knows what the bytes were that somebody else read.
#[derive(Debug)]
pub(crate) struct Receipt {
    shown: String,
    mark: Mark,
    meter: Arc<Mutex<Meter>>,
}

#[derive(Debug, Default)]
struct Meter {
    bytes: u64,
    digest: Sha256,
    ended: bool,
    failure: Option<io::Error>,
}

impl Receipt {
    fn of(reader: impl AsyncRead + Send + Unpin + 'static, shown: &str, mark: Mark) -> Fetched {
        let meter = Arc::new(Mutex::new(Meter::default()));
        let metered = Metered { inner: reader, meter: Arc::clone(&meter) };
        Fetched::Fresh(Box::new(metered), Self { shown: shown.to_owned(), mark, meter })
    }

    /// Bytes read so far.
    pub(crate) fn bytes(&self) -> u64 {
        locked(&self.meter).bytes
    }

    /// The source's own failure, when reading ended with one: the reader was handed a copy.
    pub(crate) fn failure(&self) -> Option<SourceError> {
        let failure = locked(&self.meter).failure.take()?;
        match failure.downcast::<ClientError>() {
            Ok(error) => Some(error.into()),
            Err(source) => Some(SourceError::Read { path: self.shown.clone(), source }),
        }
    }

    /// What was seen, once it has been read.
    ///
    /// # Errors
    /// The file is not what it was when it was opened.
    pub(crate) async fn seal(self) -> Result<Seen, SourceError> {
        if let Mark::File(stamp) = &self.mark {
            stamp.still(&self.shown, self.bytes()).await?;
        }
        let meter = locked(&self.meter);
        let digest = meter.ended.then(|| format!("{:x}", meter.digest.clone().finalize()));
        Ok(Seen { mark: self.mark.clone(), digest, bytes: meter.bytes })
    }
}

/// No code panics while it holds the meter; were it to, the counts would still be whole.
fn locked(meter: &Mutex<Meter>) -> MutexGuard<'_, Meter> {
    meter.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes bytes on, counting and digesting them.
struct Metered<R> {
    inner: R,
    meter: Arc<Mutex<Meter>>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Metered<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let asked = buffer.remaining() > 0;
        let read = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
        let mut meter = locked(&self.meter);
        let chunk = &buffer.filled()[before..];
        meter.digest.update(chunk);
        meter.bytes += u64::try_from(chunk.len()).unwrap_or_default();
        meter.ended |= asked && chunk.is_empty() && read.is_ok();
        Poll::Ready(read.map_err(|failure| {
            let copy = io::Error::new(failure.kind(), failure.to_string());
            meter.failure = Some(failure);
            copy
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn bytes_are_digested_on_the_way_by() {
        let mark = || Mark::Http(Validators::default());
        for (read_to_end, digest) in
            [(true, Some("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")), (false, None)]
        {
            let Fetched::Fresh(mut reader, receipt) = Receipt::of(&b"abc"[..], "x", mark()) else { panic!("bytes") };
            let mut bytes = [0; 3];
            reader.read_exact(&mut bytes).await.expect("three bytes");
            if read_to_end {
                assert_eq!(reader.read(&mut bytes).await.expect("the end"), 0);
            }
            let seen = receipt.seal().await.expect("a seal");
            assert_eq!((seen.bytes, seen.digest.as_deref()), (3, digest));
        }
    }
}
