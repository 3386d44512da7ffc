//! One answer of Azure Monitor as a report: the body of a URL or a file in, its points out. An answer is one JSON object, held
//! whole, of at most [`MAX_ANSWER_BYTES`]. One without a point is refused: it would wipe what is served.

use std::io;
use std::sync::Arc;

use arrow::error::ArrowError;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{Points, answer};

/// The largest answer taken, in bytes.
pub(crate) const MAX_ANSWER_BYTES: usize = 128 << 20;

/// A report that has no points.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PointsError {
    /// The bytes did not come.
    #[error("read {file}")]
    Read {
        /// The report.
        file: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// There are too many of them.
    #[error("{file}: larger than {MAX_ANSWER_BYTES} bytes")]
    TooLarge {
        /// The report.
        file: String,
    },
    /// They are no answer of Azure Monitor.
    #[error("{file}: no metrics of Azure Monitor")]
    Malformed {
        /// The report.
        file: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// There is no point in it.
    #[error("{file}: the metrics have no points; those that were there stay")]
    Empty {
        /// The report.
        file: String,
    },
    /// A batch could not be built.
    #[error("build a batch of points")]
    Batch(#[from] ArrowError),
}

/// Reads an answer to its end.
///
/// # Errors
/// It is none, or has no points.
pub(crate) async fn read(
    bytes: impl AsyncRead + Unpin,
    file: &str,
    resource: &Arc<str>,
) -> Result<Points, PointsError> {
    let file = || file.to_owned();
    let mut body = Vec::new();
    // One byte more than may come, so that more than that is seen.
    let read = bytes.take(MAX_ANSWER_BYTES as u64 + 1).read_to_end(&mut body).await;
    read.map_err(|source| PointsError::Read { file: file(), source })?;
    if body.len() > MAX_ANSWER_BYTES {
        return Err(PointsError::TooLarge { file: file() });
    }
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&body);
    let answered = answer::read(text, std::slice::from_ref(resource));
    let answered = answered.map_err(|source| PointsError::Malformed { file: file(), source })?;
    let mut points = Points::new();
    for point in &answered.points {
        points.take(point, |_| true)?;
    }
    points.flush()?;
    if points.is_empty() { Err(PointsError::Empty { file: file() }) } else { Ok(points) }
}
