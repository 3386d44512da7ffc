//! `costream generate`: FOCUS reports of any size, with every oddity real ones have, for the
//! sample, for tests and for measurements. The same arguments make the same bytes, on every
//! machine and in every later version; where the file is compressed, the promise holds for
//! what is in it.
//!
//! Memory is constant: one chunk of text and the compressor's window.

mod catalog;
mod charge;
mod dialect;
mod form;
mod random;
mod report;
mod world;

use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use costream_exporter::profile::ProfileName;
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use self::report::Report;

/// A report that could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GenerateError {
    /// The file cannot be made, or the disk is full.
    #[error("write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Writes the report of `rows` rows that `seed` makes to `out`: `-` is standard output, and
/// the suffix says whether it is compressed (`.gz`, `.zst`). A file appears when it is whole.
///
/// # Errors
/// The file cannot be written.
pub(crate) async fn generate(rows: u64, seed: u64, profile: ProfileName, out: &Path) -> Result<(), GenerateError> {
    let report = Report::new(rows, seed, profile);
    let failed = |source| GenerateError::Write { path: out.to_owned(), source };
    if out.as_os_str() == "-" {
        let stdout = std::io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
        return write(report, File::from_std(stdout.into())).await.map_err(failed);
    }
    // A pipe or a device is written as it stands.
    if tokio::fs::metadata(out).await.is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
        return write_compressed(report, out, out).await.map_err(failed);
    }
    let mut part: OsString = out.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = match write_compressed(report, &part, out).await {
        Ok(()) => tokio::fs::rename(&part, out).await,
        Err(error) => Err(error),
    };
    if written.is_err() {
        // What is left of it is of no use; that it cannot be removed is no further news.
        let _ = tokio::fs::remove_file(&part).await;
    }
    written.map_err(failed)
}

/// Writes to `path` in the form that the suffix of `name` asks for.
async fn write_compressed(report: Report, path: &Path, name: &Path) -> std::io::Result<()> {
    let file = File::options().write(true).create(true).truncate(true).open(path).await?;
    match name.extension().and_then(|suffix| suffix.to_str()) {
        Some("gz") => write(report, GzipEncoder::new(file)).await,
        Some("zst") => write(report, ZstdEncoder::new(file)).await,
        _ => write(report, file).await,
    }
}

async fn write(mut report: Report, mut out: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut chunk = Vec::new();
    while report.write_chunk(&mut chunk) {
        out.write_all(&chunk).await?;
        chunk.clear();
    }
    // Ends the compressed frame, and waits for the file.
    out.shutdown().await
}
