//! One `costream run` on a data directory at a time. Readers (`costream sql`) need no lock.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// A data directory that could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// It cannot be made or written.
    #[error("open data directory {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("data directory {} is in use by another costream: end that one, or give another --data-dir", path.display())]
    Taken { path: PathBuf },
}

/// The right to write to a data directory; given back when dropped, by whatever end.
#[derive(Debug)]
pub(crate) struct DataLock {
    _file: File,
}

impl DataLock {
    /// Makes the directory and takes it.
    ///
    /// # Errors
    /// It cannot be written, or another process has it.
    pub(crate) fn take(dir: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Open { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let file = File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Taken { path: dir.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_taken_once_at_a_time() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let lock = DataLock::take(dir.path()).expect("free");
        assert!(matches!(DataLock::take(dir.path()), Err(LockError::Taken { .. })));
        drop(lock);
        DataLock::take(dir.path()).expect("free again");
        assert!(matches!(DataLock::take(Path::new("/dev/null/data")), Err(LockError::Open { .. })));
    }
}
