//! The file system as an object store whose writes outlive a power cut: what a put or an upload
//! has answered for is on the disk, name and all. The system's own way leaves it in memory for
//! some seconds, and a bill that was acknowledged could be gone with them.
//!
//! A file that must be new gets its name only when its bytes are on the disk, so that nobody
//! ever reads half a log entry.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

/// Folders above a file whose entries are brought to the disk: the file's, and those of a new table.
const SYNCED_FOLDERS: usize = 4;

/// The file system, from its root.
#[derive(Debug)]
pub(super) struct DurableFiles(Arc<LocalFileSystem>);

impl DurableFiles {
    pub(super) fn new() -> Self {
        Self(Arc::new(LocalFileSystem::new()))
    }

    async fn sync(&self, written: &Path) -> Result<()> {
        let path = self.0.path_to_filesystem(written)?;
        blocking(written, move || {
            File::open(&path)?.sync_all()?;
            sync_folders(&path)
        })
        .await
    }
}

async fn blocking(to: &Path, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<()> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path: to.to_string(), source: source.into() },
        _ => Error::Generic { store: "directory", source: source.into() },
    };
    tokio::task::spawn_blocking(work).await?.map_err(failed)
}

/// Makes a file that was not there.
fn create(path: &FilePath, payload: &PutPayload) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Listings leave out names with a number behind a `#`.
    let staged = PathBuf::from(format!("{}#{}", path.display(), uuid::Uuid::new_v4().as_u128()));
    let linked = write(&staged, payload).and_then(|()| fs::hard_link(&staged, path));
    // Written in vain, or known under its other name.
    let _ = fs::remove_file(&staged);
    linked?;
    sync_folders(path)
}

fn write(path: &FilePath, payload: &PutPayload) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    for bytes in payload {
        file.write_all(bytes)?;
    }
    file.sync_all()
}

fn sync_folders(path: &FilePath) -> io::Result<()> {
    for folder in path.ancestors().skip(1).take(SYNCED_FOLDERS) {
        // Not every system opens folders, and not every folder above is ours to open.
        if let Ok(folder) = File::open(folder) {
            folder.sync_all()?;
        }
    }
    Ok(())
}

impl fmt::Display for DurableFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for DurableFiles {
    async fn put_opts(&self, to: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if options.mode == PutMode::Create {
            let path = self.0.path_to_filesystem(to)?;
            blocking(to, move || create(&path, &payload)).await?;
            return Ok(PutResult { e_tag: None, version: None });
        }
        let put = self.0.put_opts(to, payload, options).await?;
        self.sync(to).await?;
        Ok(put)
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.0.put_multipart_opts(to, options).await?;
        Ok(Box::new(DurableUpload { upload, to: to.clone(), files: Self(self.0.clone()) }))
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(from, options).await
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.get_ranges(from, ranges).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(paths)
    }

    fn list(&self, below: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(below)
    }

    fn list_with_offset(&self, below: Option<&Path>, after: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list_with_offset(below, after)
    }

    async fn list_with_delimiter(&self, below: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(below).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await?;
        self.sync(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.rename_opts(from, to, options).await?;
        self.sync(to).await
    }
}

#[derive(Debug)]
struct DurableUpload {
    upload: Box<dyn MultipartUpload>,
    to: Path,
    files: DurableFiles,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let put = self.upload.complete().await?;
        self.files.sync(&self.to).await?;
        Ok(put)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;
    use object_store::ObjectStoreExt as _;

    use super::*;

    #[tokio::test]
    async fn a_file_that_must_be_new_is_made_once_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = DurableFiles::new();
        let folder = Path::from_absolute_path(dir.path()).expect("a path");
        let entry = folder.clone().join("log").join("0.json");
        let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        files.put_opts(&entry, "first".into(), create()).await.expect("a new file");
        let second = files.put_opts(&entry, "second".into(), create()).await;
        assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
        let read = files.get(&entry).await.expect("the file").bytes().await.expect("its bytes");
        assert_eq!(read, "first");
        let listed: Vec<_> = files.list(Some(&folder)).map_ok(|file| file.location).try_collect().await.expect("files");
        assert_eq!(listed, [entry]);
        assert_eq!(fs::read_dir(dir.path().join("log")).expect("a folder").count(), 1);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("log"), "no folder").expect("a file");
        let entry = Path::from_absolute_path(dir.path()).expect("a path").join("log").join("0.json");
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        assert!(DurableFiles::new().put_opts(&entry, "text".into(), options).await.is_err());
    }
}
