//! A body in, a file out that nobody else sees and that is gone with its reader: for reports that cannot be read as
//! they come. Copies at the pace of the disk, a buffer at a time; counts towards the spool's budget.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::{DecodeError, read_error};
use crate::budget::Budget;

/// What is copied at a time.
const COPY_BYTES: usize = 256 << 10;

/// Where reports are kept while they are read: by default the system's folder for temporary files, without a bound.
#[derive(Clone, Debug)]
pub struct Scratch {
    dir: PathBuf,
    budget: Arc<Budget>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { dir: std::env::temp_dir(), budget: Arc::default() }
    }
}

impl Scratch {
    pub(crate) fn new(dir: PathBuf, budget: Arc<Budget>) -> Self {
        Self { dir, budget }
    }

    /// Brings a body to its end and to the disk. May be dropped: then nothing is left of it.
    pub(super) async fn keep(
        &self,
        mut body: impl AsyncRead + Unpin,
        file: &str,
        compression: Option<&'static str>,
    ) -> Result<Kept, DecodeError> {
        let failed = |source| DecodeError::Keep { file: file.to_owned(), source };
        let dir = self.dir.clone();
        let made = tokio::task::spawn_blocking(move || tempfile::tempfile_in(dir)).await;
        let made = made.map_err(std::io::Error::other).and_then(|made| made).map_err(failed)?;
        let mut kept = Kept {
            file: made.try_clone().map_err(failed)?,
            bytes: 0,
            unwanted: CancellationToken::new(),
            budget: Arc::clone(&self.budget),
        };
        let mut disk = tokio::fs::File::from_std(made);
        let mut buffer = Vec::with_capacity(COPY_BYTES);
        loop {
            buffer.clear();
            let read = (&mut body).take(COPY_BYTES as u64).read_to_end(&mut buffer).await;
            read.map_err(|source| read_error(file, compression, 0, source))?;
            if buffer.is_empty() {
                break;
            }
            kept.take(buffer.len() as u64).map_err(failed)?;
            disk.write_all(&buffer).await.map_err(failed)?;
        }
        disk.flush().await.map_err(failed)?;
        kept.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        Ok(kept)
    }
}

/// A body on the disk.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) file: File,
    pub(super) bytes: u64,
    /// Cancelled when nobody wants it any more.
    pub(super) unwanted: CancellationToken,
    budget: Arc<Budget>,
}

impl Kept {
    fn take(&mut self, bytes: u64) -> std::io::Result<()> {
        self.budget.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_counts_for_as_long_as_it_is_kept_and_none_beyond_the_budget_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let budget = Arc::new(Budget::new(Some(1_000)));
        let scratch = Scratch::new(dir.path().to_owned(), Arc::clone(&budget));
        let kept = scratch.keep(&[1; 700][..], "a.json", None).await.expect("room");
        assert_eq!((budget.used(), kept.bytes), (700, 700));
        let error = scratch.keep(&[1; 301][..], "b.json", None).await.expect_err("no room");
        assert_eq!(
            costream_common::report::one_line(&error),
            "keep b.json on the disk while it is read: the spool's budget of 1000 bytes (spool_max_bytes) is used up"
        );
        assert_eq!(budget.used(), 700, "what was not kept is given back");
        drop(kept);
        assert_eq!(budget.used(), 0);
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0, "the file has no name");
    }
}
