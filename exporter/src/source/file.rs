//! Files on disk: a path, a directory or a glob in, regular files out, sorted by name. Hidden
//! files are left alone, directories within a directory too (a glob such as `dir/**/*.csv`
//! takes them). A file is known again by its [`Stamp`]: the size, times and inode it was read
//! with. One written to while it is read is an error; whatever changes a file later changes its stamp.

use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use costream_common::record::ScopeName;
use glob::MatchOptions;
use serde::{Deserialize, Serialize};

use super::object::Bucket;
use super::{Fetched, Item, MAX_SCOPES, Mark, Parts, SourceError};
use crate::config::Layout;

/// Coarsest step of a file system's clock, with room for two clocks that differ: a file written
/// this shortly before it was read may have been written again without a trace in its times.
pub(super) const CLOCK_STEP: Duration = Duration::from_secs(3);
/// What one read asks of the disk.
pub(super) const READ_BYTES: usize = 256 << 10;

/// What a path, directory or glob stands for.
#[derive(Debug)]
pub(super) struct Files {
    given: String,
}

impl Files {
    pub(super) fn new(given: String) -> Self {
        Self { given }
    }

    /// The files that are there now, in order of their names; or, in a directory that has none of its own, the
    /// reports of a provider's layout.
    pub(super) async fn items(&self) -> Result<Vec<Item>, SourceError> {
        let given = self.given.clone();
        let listed = tokio::task::spawn_blocking(move || list(&given)).await;
        let listed = listed.unwrap_or_else(|error| {
            Err(SourceError::Read { path: self.given.clone(), source: io::Error::other(error) })
        });
        match listed {
            Err(SourceError::NoFiles { given, reason }) if Path::new(&given).is_dir() => {
                match Bucket::of_directory(given.clone(), Layout::Auto).items().await {
                    Err(SourceError::NoFiles { .. }) => Err(SourceError::NoFiles { given, reason }),
                    reports => reports,
                }
            }
            listed => listed,
        }
    }
}

fn list(given: &str) -> Result<Vec<Item>, SourceError> {
    let path = Path::new(given);
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => in_directory(given),
        Ok(_) => {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(given);
            Ok(vec![item(name, given)?])
        }
        Err(_) if given.contains(['*', '?', '[']) => in_glob(given),
        Err(source) => Err(SourceError::Read { path: given.to_owned(), source }),
    }
}

fn item(scope: &str, path: &str) -> Result<Item, SourceError> {
    let scope = ScopeName::new(scope)
        .map_err(|source| SourceError::Name { shown: path.escape_debug().to_string(), source: Some(source) })?;
    Ok(Item::new(scope, path.to_owned()))
}

fn in_directory(given: &str) -> Result<Vec<Item>, SourceError> {
    let failed = |source| SourceError::Read { path: given.to_owned(), source };
    let (mut items, mut directories) = (Vec::new(), 0_usize);
    for entry in std::fs::read_dir(given).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        // A link counts as what it leads to; one that leads nowhere is an error when it is read.
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => directories += 1,
            Ok(metadata) if !metadata.is_file() => {}
            _ => {
                let text = (name.to_str(), path.to_str());
                let (Some(name), Some(path)) = text else {
                    return Err(SourceError::Name { shown: path.display().to_string(), source: None });
                };
                items.push(item(name, path)?);
            }
        }
        if items.len() > MAX_SCOPES {
            return Err(SourceError::TooMany(given.to_owned()));
        }
    }
    if items.is_empty() {
        let reason = match directories {
            0 => "the directory has no file".to_owned(),
            _ => {
                format!("the directory has no file, only {directories} directories: {given}/**/* takes what is in them")
            }
        };
        return Err(SourceError::NoFiles { given: given.to_owned(), reason });
    }
    if directories > 0 {
        tracing::debug!(path = given, directories, "directories within a directory are not read");
    }
    items.sort_by(|a, b| a.shown.cmp(&b.shown));
    Ok(items)
}

fn in_glob(given: &str) -> Result<Vec<Item>, SourceError> {
    let options =
        MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
    let paths =
        glob::glob_with(given, options).map_err(|source| SourceError::Pattern { given: given.to_owned(), source })?;
    // A scope is the part of the path that the glob leaves open.
    let open = given.find(['*', '?', '[']).unwrap_or_default();
    let fixed = given[..open].rfind('/').map_or(0, |at| at + 1);
    let mut items = Vec::new();
    for path in paths {
        let path =
            path.map_err(|error| SourceError::Read { path: error.path().display().to_string(), source: error.into() })?;
        if !std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        let text =
            path.to_str().ok_or_else(|| SourceError::Name { shown: path.display().to_string(), source: None })?;
        items.push(item(text.strip_prefix(&given[..fixed]).unwrap_or(text), text)?);
        if items.len() > MAX_SCOPES {
            return Err(SourceError::TooMany(given.to_owned()));
        }
    }
    if items.is_empty() {
        return Err(SourceError::NoFiles { given: given.to_owned(), reason: "no file matches".to_owned() });
    }
    items.sort_by(|a, b| a.shown.cmp(&b.shown));
    Ok(items)
}

/// Opens a file, unless its stamp is the one it was last read with.
pub(super) async fn fetch(path: &str, known: Option<&Stamp>) -> Result<Fetched, SourceError> {
    let failed = |source| SourceError::Read { path: path.to_owned(), source };
    // Opening a pipe waits for its writer, so look first.
    if !tokio::fs::metadata(path).await.map_err(failed)?.is_file() {
        return Err(SourceError::NotAFile(path.to_owned()));
    }
    let read_at = SystemTime::now();
    let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
    let stamp = Stamp::of(&file.metadata().await.map_err(failed)?, read_at);
    if known.is_some_and(|known| known.vouches_for(&stamp)) {
        return Ok(Fetched::Unchanged);
    }
    file.set_max_buf_size(READ_BYTES);
    Ok(Fetched::Fresh(Parts::one(file, path, Mark::File(stamp))))
}

/// A file's size, times and inode, and when they were looked at. Times are nanoseconds since the epoch,
/// in 64 bits (the year 2262): a flattened manifest cannot be read back with more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    size: u64,
    modified: i64,
    /// When its inode changed, which no program can set. Nought where there is no such time.
    changed: i64,
    device: u64,
    inode: u64,
    read_at: i64,
}

impl Stamp {
    fn of(metadata: &Metadata, read_at: SystemTime) -> Self {
        let (changed, device, inode) = inode(metadata);
        let modified = metadata.modified().map_or(0, nanos);
        Self { size: metadata.len(), modified, changed, device, inode, read_at: nanos(read_at) }
    }

    fn same_file(&self, other: &Self) -> bool {
        *self == Self { read_at: self.read_at, ..other.clone() }
    }

    /// Whether a file that bears `now` is certainly the one that was read with this stamp.
    fn vouches_for(&self, now: &Self) -> bool {
        let step = i64::try_from(CLOCK_STEP.as_nanos()).unwrap_or(i64::MAX);
        self.same_file(now) && self.modified.max(self.changed) < self.read_at.saturating_sub(step)
    }

    /// Holds a file that has been read against what it was when it was opened.
    pub(super) async fn still(&self, path: &str, bytes: u64) -> Result<(), SourceError> {
        let changed = || SourceError::Changed(path.to_owned());
        let now = tokio::fs::metadata(path).await.map_err(|_| changed())?;
        if bytes <= self.size && self.same_file(&Self::of(&now, UNIX_EPOCH)) { Ok(()) } else { Err(changed()) }
    }
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> (i64, u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    let changed = metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec());
    (changed, metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> (i64, u64, u64) {
    (0, 0, 0)
}

fn nanos(time: SystemTime) -> i64 {
    let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    time.duration_since(UNIX_EPOCH).map_or_else(|before| -nanos(before.duration()), nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tokio::io::AsyncReadExt as _;

    fn scopes(given: &str) -> Vec<String> {
        list(given).expect("files").into_iter().map(|item| item.scope.to_string()).collect()
    }

    #[test]
    fn a_source_stands_for_its_regular_files() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().to_str().expect("text");
        assert!(matches!(list(root), Err(SourceError::NoFiles { .. })));
        for name in ["b.csv", "a.csv", ".hidden.csv", "sub/c.csv", "sub/deep/d.csv"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, "x").expect("write");
        }
        assert_eq!(scopes(root), ["a.csv", "b.csv"]);
        assert_eq!(scopes(&format!("{root}/b.csv")), ["b.csv"]);
        assert_eq!(scopes(&format!("{root}/*.csv")), ["a.csv", "b.csv"]);
        assert_eq!(scopes(&format!("{root}/**/*.csv")), ["a.csv", "b.csv", "sub/c.csv", "sub/deep/d.csv"]);
        assert!(matches!(list(&format!("{root}/*.gz")), Err(SourceError::NoFiles { .. })));
        assert!(matches!(list(&format!("{root}/***")), Err(SourceError::Pattern { .. })));
        assert!(matches!(list(&format!("{root}/gone")), Err(SourceError::Read { .. })));
        fs::rename(dir.path().join("b.csv"), dir.path().join("[b].csv")).expect("rename");
        assert_eq!(scopes(&format!("{root}/[b].csv")), ["[b].csv"], "a file that is there is no glob");
    }

    async fn read(path: &str) -> Stamp {
        let Ok(Fetched::Fresh(mut parts)) = fetch(path, None).await else { panic!("a file") };
        let mut part = parts.next().await.expect("no failure").expect("a part");
        part.bytes.read_to_end(&mut Vec::new()).await.expect("its bytes");
        let Mark::File(stamp) = parts.seal().await.expect("a seal").mark else { panic!("a stamp") };
        stamp
    }

    async fn is_known(path: &str, stamp: &Stamp) -> bool {
        matches!(fetch(path, Some(stamp)).await, Ok(Fetched::Unchanged))
    }

    /// As read some time after it was written.
    fn aged(stamp: Stamp) -> Stamp {
        Stamp { read_at: stamp.read_at + 10_000_000_000, ..stamp }
    }

    #[tokio::test]
    async fn a_changed_file_is_noticed_though_its_size_and_date_are_kept() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.csv");
        let text = path.to_str().expect("text");
        fs::write(&path, "one").expect("write");
        let stamp = read(text).await;
        assert!(!is_known(text, &stamp).await, "it was written a moment ago: its times cannot vouch for it");
        let stamp = aged(stamp);
        assert!(is_known(text, &stamp).await);

        let date = fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("a date");
        fs::write(&path, "two").expect("write");
        fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(date)).expect("set the date");
        assert!(!is_known(text, &stamp).await);
        let stamp = aged(read(text).await);
        fs::write(dir.path().join("b.csv"), "six").expect("write");
        fs::rename(dir.path().join("b.csv"), &path).expect("rename");
        assert!(!is_known(text, &stamp).await);
    }

    #[tokio::test]
    async fn a_file_that_changes_while_it_is_read_is_an_error() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.csv");
        let text = path.to_str().expect("text");
        let changes: [fn(&Path); 3] = [
            |path| fs::write(path, "longer than it was").expect("write"),
            |path| fs::remove_file(path).expect("remove"),
            |path| {
                fs::write(path.with_extension("new"), "new").expect("write");
                fs::rename(path.with_extension("new"), path).expect("rename");
            },
        ];
        for change in changes {
            fs::write(&path, "one").expect("write");
            let Ok(Fetched::Fresh(mut parts)) = fetch(text, None).await else { panic!("a file") };
            change(&path);
            let mut part = parts.next().await.expect("no failure").expect("a part");
            part.bytes.read_to_end(&mut Vec::new()).await.expect("its bytes");
            let error = parts.seal().await.expect_err("a change");
            assert!(matches!(error, SourceError::Changed(_)) && error.is_retryable());
        }
    }
}
