//! Why a source gives no bytes, or not those that its manifest promises.

use std::io;
use std::time::Duration;

use costream_common::http::client::ClientError;
use costream_common::inherited::CallError;
use costream_common::record::{NameError, SourceName};
use costream_common::secret::SecretError;

use super::MAX_SCOPES;

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
    /// A bucket's settings name a secret that cannot be read.
    #[error("`object_store`: {name}")]
    Setting {
        /// The setting.
        name: String,
        /// Why not.
        #[source]
        source: SecretError,
    },
    /// A bucket did not answer, or said no.
    #[error("read {shown}")]
    Store {
        /// The bucket, folder or object.
        shown: String,
        /// What it said.
        #[source]
        source: object_store::Error,
    },
    /// A manifest is none of its layout.
    #[error("manifest {manifest}: {reason}")]
    Manifest {
        /// The manifest.
        manifest: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A manifest names a file that is not there.
    #[error("manifest {manifest} names {file}, which is not there")]
    MissingFile {
        /// The manifest.
        manifest: String,
        /// The file.
        file: String,
    },
    /// A file is not what its manifest says.
    #[error("{file} has {found} {unit}, and its manifest {manifest} says {said}")]
    NotAsSaid {
        /// The file.
        file: String,
        /// What it has of that.
        found: u64,
        /// What was counted.
        unit: &'static str,
        /// The manifest.
        manifest: String,
        /// What that says.
        said: u64,
    },
    /// The export is being written, and there is none before it.
    #[error("{0} is still being written")]
    Unfinished(String),
    /// The source is asked for usage.
    #[error("source {0} has no reports: it is asked for usage")]
    NoReports(SourceName),
    /// Somebody wrote to the file while it was read.
    #[error("{0} changed while it was read")]
    Changed(String),
    /// The server gave no body.
    #[error(transparent)]
    Http(#[from] ClientError),
    /// What the request refers to cannot be had.
    #[error(transparent)]
    Call(#[from] Box<CallError>),
}

impl SourceError {
    /// Whether asking again may go well a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Changed(_) => true,
            Self::Http(error) => error.is_retryable(),
            Self::Call(error) => error.is_retryable(),
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
