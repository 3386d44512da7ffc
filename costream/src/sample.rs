//! The report that a bare `costream` runs on: shipped inside the program, and laid down in the
//! data directory for the exporter to read as it reads any other.

use std::path::{Path, PathBuf};

/// `costream generate --rows 6000 --seed 42 --out focus.csv.gz`
const SAMPLE: &[u8] = include_bytes!("../../resources/sample/focus.csv.gz");

/// What the sample is called as a source.
pub(crate) const NAME: &str = "sample";

/// Where it lies below a data directory.
pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(NAME).join("focus.csv.gz")
}

/// Lays the sample down, unless it is there.
///
/// # Errors
/// The directory cannot be written.
pub(crate) async fn lay_down(path: &Path) -> std::io::Result<()> {
    if tokio::fs::read(path).await.is_ok_and(|there| there == SAMPLE) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        tokio::fs::create_dir_all(dir).await?;
    }
    let part = path.with_extension("part");
    tokio::fs::write(&part, SAMPLE).await?;
    tokio::fs::rename(&part, path).await
}
