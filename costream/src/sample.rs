//! The report that a bare `costream` runs on: shipped inside the program, and laid down in the
//! data directory for the exporter to read as it reads any other.

use std::path::{Path, PathBuf};

/// `costream generate --rows 6000 --seed 42 --out focus.csv.gz`
const SAMPLE: &[u8] = include_bytes!("../../resources/sample/focus.csv.gz");

/// What the sample is called as a source.
pub(crate) const NAME: &str = "sample";

/// Lays the sample down in `data_dir`, unless it is there, and says where.
///
/// # Errors
/// The data directory cannot be written.
pub(crate) async fn lay_down(data_dir: &Path) -> std::io::Result<PathBuf> {
    let dir = data_dir.join(NAME);
    let path = dir.join("focus.csv.gz");
    if tokio::fs::metadata(&path).await.is_ok_and(|meta| meta.len() == SAMPLE.len() as u64) && tokio::fs::read(&path).await? == SAMPLE {
        return Ok(path);
    }
    tokio::fs::create_dir_all(&dir).await?;
    let part = dir.join("focus.csv.gz.part");
    tokio::fs::write(&part, SAMPLE).await?;
    tokio::fs::rename(&part, &path).await?;
    Ok(path)
}
