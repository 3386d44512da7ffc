//! Batches and rejects in, snapshots on disk out: the spool. A generation is four files of one
//! stem (a scope's digest and a snapshot's number): `.records.arrow` and `.rejects.arrow`, Arrow IPC
//! streams with LZ4; `.rollup.json`, what `/metrics` sums, which can be made again from the
//! records; where `/metrics` has the rows, `.rows.arrow` and `.twins` ([`crate::rows`]); and `.json`, the [`Manifest`], renamed into place last, when the others are safely on the disk. So a
//! killed poll leaves files without a manifest, and the next start removes them.
//!
//! A new generation takes its predecessor's place whole; the old one's files are removed when
//! the last reader has let go. A full disk, or a budget used up, ends the writing with an error
//! and removes what was written; what is served stays. One process at a time: a lock file says so.
//!
//! Everything here blocks: call it from a blocking thread. Holds a batch per writer or reader,
//! a page of rejects and the series of one rollup; a manifest per scope.

mod intake;
mod quarantine;
mod shown;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use costream_common::record::{ScopeKey, Snapshot, SnapshotId, SourceName, TotalsError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::budget::Budget;
use crate::decode::Scratch;
use crate::dimensions::Dimensions;
use crate::profile::ProfileName;
use crate::rows;
use crate::source::Seen;
pub(crate) use intake::Intake;
pub(crate) use quarantine::schema as rejects_schema;
use shown::{OwnedSums, Showing, Shown, write_sums};
use writer::Writer;

/// What a manifest of this form says in `format`. Others are of another version: not loaded.
const FORMAT: u32 = 1;
const LOCK: &str = "lock";
const MANIFEST: &str = "json";
const NEW_MANIFEST: &str = "json.tmp";
const RECORDS: &str = "records.arrow";
const REJECTS: &str = "rejects.arrow";
const ROLLUP: &str = "rollup.json";
const NEW_ROLLUP: &str = "rollup.json.tmp";
const ROWS: &str = "rows.arrow";
const TWINS: &str = "twins";
/// Those that lose their names as soon as they are made.
const SORTED: [&str; 2] = ["rows.sorted", "twins.sorted"];
const SUFFIXES: [&str; 10] =
    [MANIFEST, NEW_MANIFEST, RECORDS, REJECTS, ROLLUP, NEW_ROLLUP, ROWS, TWINS, SORTED[0], SORTED[1]];

/// Why the spool could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// The directory cannot be made or listed.
    #[error("open spool {}", path.display())]
    Open {
        /// The directory as configured.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error("spool {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The disk is full, the budget is used up, or writing failed in another way.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system, or the budget, said.
        #[source]
        source: io::Error,
    },
    /// What was written cannot be read again.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ArrowError,
    },
    /// A file ends before all its rows have come.
    #[error("read {}: {read} rows of {expected}", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Rows that came.
        read: u64,
        /// Rows that were written.
        expected: u64,
    },
    /// The totals cannot be kept.
    #[error(transparent)]
    Totals(#[from] TotalsError),
    /// The thread that was to do it is gone.
    #[error("write to the spool: {0}")]
    Gone(String),
}

impl SpoolError {
    /// What the rows show cannot be read.
    pub(crate) fn twins(source: io::Error) -> Self {
        Self::Read { path: PathBuf::from(TWINS), source: source.into() }
    }
}

/// The spool's directory, and the generations that are current. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Spool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    budget: Arc<Budget>,
    dimensions: Dimensions,
    max_series: usize,
    has_rows: bool,
    current: RwLock<BTreeMap<ScopeKey, Arc<Generation>>>,
    /// Held for as long as anybody uses the spool.
    _lock: File,
    /// Tells that nobody does any more: after the lock, as the last of all.
    free: CancellationToken,
    _frees: DropGuard,
}

/// What stands in a generation's manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    pub(crate) snapshot: Snapshot,
    #[serde(flatten)]
    pub(crate) report: ReportFacts,
    /// Rejects by reason.
    pub(crate) rejects: BTreeMap<String, u64>,
    records_bytes: u64,
    rejects_bytes: u64,
    /// Of the rows of `/metrics` and their twins, where they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rows_bytes: Option<(u64, u64)>,
}

impl Manifest {
    /// Bytes that count towards the budget.
    fn bytes(&self) -> u64 {
        self.records_bytes + self.rejects_bytes + self.rows_bytes.map_or(0, |(rows, _)| rows)
    }
}

/// What a poll found out about a report, beside its rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReportFacts {
    /// What was seen of it at the source.
    pub(crate) seen: Seen,
    /// What would make the same bytes other records: the profile asked for, our version.
    pub(crate) conversion: String,
    /// The profile it was read with.
    pub(crate) profile: ProfileName,
    /// The FOCUS version its columns tell.
    pub(crate) focus_version: Option<String>,
    /// Rules of leniency applied, and how often.
    pub(crate) rules: BTreeMap<String, u64>,
}

impl Spool {
    /// Opens a spool: takes the lock, loads what is whole, removes what a killed poll or a
    /// replaced generation left, and what belongs to none of `sources`.
    ///
    /// # Errors
    /// The directory cannot be used, or another process uses it.
    pub(crate) fn open(
        dir: &Path,
        max_bytes: Option<u64>,
        dimensions: Dimensions,
        max_series: usize,
        has_rows: bool,
        sources: &BTreeSet<SourceName>,
    ) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError::Open { path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        let lock = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK)).map_err(failed)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => SpoolError::Locked(dir.to_owned()),
            TryLockError::Error(source) => failed(source),
        })?;
        let free = CancellationToken::new();
        let shared = Shared {
            dir: dir.to_owned(),
            budget: Arc::new(Budget::new(max_bytes)),
            dimensions,
            max_series,
            has_rows,
            current: RwLock::default(),
            _lock: lock,
            _frees: free.clone().drop_guard(),
            free,
        };
        let spool = Self { shared: Arc::new(shared) };
        spool.load(sources).map_err(failed)?;
        Ok(spool)
    }

    fn load(&self, sources: &BTreeSet<SourceName>) -> io::Result<()> {
        let dir = &self.shared.dir;
        let mut stems = BTreeSet::new();
        for entry in fs::read_dir(dir)? {
            // What is not named as ours is not ours to touch.
            if let Some((stem, _)) = entry?.file_name().to_str().and_then(ours) {
                stems.insert(stem.to_owned());
            }
        }
        for stem in stems {
            match Generation::load(self, &stem) {
                Ok(Some(generation)) if sources.contains(&generation.key().source) => self.swap_in(generation),
                Ok(Some(generation)) => {
                    tracing::info!(source = %generation.key().source, scope = %generation.key().scope, "its source is configured no more: removed from the spool");
                    generation.superseded.store(true, Ordering::Release);
                }
                Ok(None) => {
                    tracing::info!(stem, "removed what an unfinished poll left");
                    remove(dir, &stem);
                }
                Err(error) => {
                    tracing::warn!(
                        stem,
                        error = costream_common::report::one_line(&error),
                        "a snapshot is damaged: removed, to be polled anew"
                    );
                    remove(dir, &stem);
                }
            }
        }
        Ok(())
    }

    /// Cancelled when nobody uses the spool any more, and it can be opened anew.
    pub(crate) fn free(&self) -> CancellationToken {
        self.shared.free.clone()
    }

    /// The current generations, in order of source and scope.
    pub(crate) fn current(&self) -> Vec<Arc<Generation>> {
        self.shared.current.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// A scope's current generation.
    pub(crate) fn get(&self, key: &ScopeKey) -> Option<Arc<Generation>> {
        self.shared.current.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Bytes on disk.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.shared.budget.used()
    }

    /// The budget.
    pub(crate) fn max_bytes(&self) -> Option<u64> {
        self.shared.budget.max()
    }

    /// Where reports are kept that cannot be read as they come.
    pub(crate) fn scratch(&self) -> Scratch {
        Scratch::new(self.shared.dir.clone(), Arc::clone(&self.shared.budget))
    }

    /// What `/metrics` sums over.
    pub(crate) fn dimensions(&self) -> &Dimensions {
        &self.shared.dimensions
    }

    /// In how many series at most.
    pub(crate) fn max_series(&self) -> usize {
        self.shared.max_series
    }

    /// Whether `/metrics` has the rows.
    pub(crate) fn has_rows(&self) -> bool {
        self.shared.has_rows
    }

    /// Makes a generation the current one of its scope, unless a later one is.
    fn swap_in(&self, generation: Arc<Generation>) {
        let mut current = self.shared.current.write().unwrap_or_else(PoisonError::into_inner);
        let number = |generation: &Generation| generation.manifest.snapshot.snapshot;
        let old = match current.get(generation.key()) {
            Some(later) if number(later) > number(&generation) => Some(generation),
            _ => current.insert(generation.key().clone(), generation),
        };
        drop(current);
        if let Some(old) = old {
            old.superseded.store(true, Ordering::Release);
        }
    }

    /// Takes a scope's generation out: it goes when the last reader has let go.
    pub(crate) fn retire(&self, key: &ScopeKey) {
        let retired = self.shared.current.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        if let Some(retired) = retired {
            retired.superseded.store(true, Ordering::Release);
        }
    }

    fn path(&self, stem: &str, suffix: &str) -> PathBuf {
        self.shared.dir.join(format!("{stem}.{suffix}"))
    }
}

fn stem(key: &ScopeKey, snapshot: SnapshotId) -> String {
    let digest = Sha256::digest(format!("{}\0{}", key.source, key.scope));
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{digest}-{snapshot}")
}

/// The stem and suffix of a file of ours; nothing for others.
fn ours(name: &str) -> Option<(&str, &str)> {
    let (stem, suffix) = name.split_once('.')?;
    let (digest, snapshot) = stem.split_once('-')?;
    let named =
        digest.len() == 16 && digest.bytes().all(|b| b.is_ascii_hexdigit()) && snapshot.parse::<SnapshotId>().is_ok();
    (named && SUFFIXES.contains(&suffix)).then_some((stem, suffix))
}

/// The snapshots in a spool that another process may be using: reads manifests and changes
/// nothing. In order of source and scope; none when there is no spool.
///
/// # Errors
/// The directory or a manifest cannot be read.
pub fn spooled_snapshots(dir: &Path) -> Result<Vec<Snapshot>, SpoolError> {
    let failed = |source| SpoolError::Open { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut snapshots: BTreeMap<ScopeKey, Snapshot> = BTreeMap::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let Some((_, MANIFEST)) = name.to_str().and_then(ours) else { continue };
        let text = match fs::read_to_string(dir.join(&name)) {
            // Replaced since the directory was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text.map_err(failed)?,
        };
        let Manifest { snapshot, .. } = serde_json::from_str(&text).map_err(|error| failed(error.into()))?;
        let latest = snapshots.entry(snapshot.key.clone()).or_insert_with(|| snapshot.clone());
        if latest.snapshot < snapshot.snapshot {
            *latest = snapshot;
        }
    }
    Ok(snapshots.into_values().collect())
}

/// The manifest goes first: without it the rest is a leftover.
fn remove(dir: &Path, stem: &str) {
    for suffix in SUFFIXES {
        match fs::remove_file(dir.join(format!("{stem}.{suffix}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(stem, suffix, %error, "cannot remove from the spool");
            }
            _ => {}
        }
    }
}

/// One snapshot on disk. Its files live as long as it is current or somebody reads it.
#[derive(Debug)]
pub(crate) struct Generation {
    spool: std::sync::Weak<Shared>,
    dir: PathBuf,
    stem: String,
    pub(crate) manifest: Manifest,
    seen: Mutex<Seen>,
    superseded: AtomicBool,
}

impl Generation {
    /// Loads what stands under a stem; nothing when its manifest is not there.
    fn load(spool: &Spool, stem: &str) -> Result<Option<Arc<Self>>, SpoolError> {
        let path = spool.path(stem, MANIFEST);
        let damaged =
            |path: &Path, why: String| SpoolError::Read { path: path.to_owned(), source: ArrowError::IpcError(why) };
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| damaged(&path, error.to_string()))?,
        };
        let manifest: Manifest = serde_json::from_str(&text).map_err(|error| damaged(&path, error.to_string()))?;
        if manifest.format != FORMAT || self::stem(&manifest.snapshot.key, manifest.snapshot.snapshot) != stem {
            return Err(damaged(&path, "it was written by another version".to_owned()));
        }
        let rows = manifest.rows_bytes.map(|(rows, twins)| [(ROWS, rows), (TWINS, twins)]);
        let others = [(RECORDS, manifest.records_bytes), (REJECTS, manifest.rejects_bytes)];
        for (suffix, bytes) in others.into_iter().chain(rows.into_iter().flatten()) {
            let path = spool.path(stem, suffix);
            let found = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            if found != bytes {
                return Err(damaged(&path, format!("it has {found} bytes of {bytes}")));
            }
        }
        spool.shared.budget.found(manifest.bytes());
        let generation = Self::new(spool, stem.to_owned(), manifest);
        generation.records()?;
        generation.rejects()?;
        if generation.shown_on_disk(&spool.shared).is_none() {
            generation.show_anew(&spool.shared)?;
        }
        Ok(Some(Arc::new(generation)))
    }

    fn new(spool: &Spool, stem: String, manifest: Manifest) -> Self {
        let seen = Mutex::new(manifest.report.seen.clone());
        let dir = spool.shared.dir.clone();
        Self { spool: Arc::downgrade(&spool.shared), dir, stem, manifest, seen, superseded: AtomicBool::new(false) }
    }

    pub(crate) fn key(&self) -> &ScopeKey {
        &self.manifest.snapshot.key
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.manifest.snapshot
    }

    /// What was last seen of the report at the source.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The rows taken.
    pub(crate) fn records(&self) -> Result<Batches, SpoolError> {
        Batches::open(self.path(RECORDS), self.manifest.snapshot.totals.rows())
    }

    /// The rows refused.
    pub(crate) fn rejects(&self) -> Result<Batches, SpoolError> {
        Batches::open(self.path(REJECTS), self.manifest.snapshot.rejected)
    }

    /// The rows as `/metrics` has them, and what each of them shows; nothing when they were not kept.
    pub(crate) fn rows(&self) -> Result<Option<(Batches, rows::Shown)>, SpoolError> {
        if self.manifest.rows_bytes.is_none() {
            return Ok(None);
        }
        let path = self.path(TWINS);
        let shown = rows::Shown::open(&path).map_err(|error| SpoolError::Read { path, source: error.into() })?;
        Ok(Some((Batches::open(self.path(ROWS), self.manifest.snapshot.totals.rows())?, shown)))
    }

    /// What `/metrics` shows of it.
    pub(crate) fn shown(&self) -> Result<Shown, SpoolError> {
        let Some(shared) = self.spool.upgrade() else { return Ok(Shown::default()) };
        match self.shown_on_disk(&shared) {
            Some(shown) => Ok(shown),
            None => self.show_anew(&shared),
        }
    }

    fn shown_on_disk(&self, shared: &Shared) -> Option<Shown> {
        let file = File::open(self.path(ROLLUP)).ok()?;
        let sums: OwnedSums = serde_json::from_reader(io::BufReader::new(file)).ok()?;
        (sums.over == shared.sums_over()).then_some(sums.shown)
    }

    fn show_anew(&self, shared: &Shared) -> Result<Shown, SpoolError> {
        let mut showing = Showing::of(&self.manifest.snapshot.kind, shared);
        for batch in self.records()? {
            showing.add_batch(self.key().source.as_str(), &batch?);
        }
        let shown = showing.end();
        let path = self.path(NEW_ROLLUP);
        let failed = |source| SpoolError::Write { path: path.clone(), source };
        let mut file = BufWriter::new(File::create(&path).map_err(failed)?);
        write_sums(&mut file, shared, &shown).map_err(failed)?;
        file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
        fs::rename(&path, self.path(ROLLUP)).map_err(failed)?;
        Ok(shown)
    }

    /// Notes that the same report was seen again, with other marks.
    ///
    /// # Errors
    /// The manifest cannot be written; the old one stays.
    pub(crate) fn seen_again(&self, seen: Seen) -> Result<(), SpoolError> {
        let mut manifest = self.manifest.clone();
        manifest.report.seen = seen.clone();
        write_manifest(&self.dir, &self.stem, &manifest)?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        Ok(())
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("{}.{suffix}", self.stem))
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.superseded.load(Ordering::Acquire) {
            remove(&self.dir, &self.stem);
            if let Some(shared) = self.spool.upgrade() {
                shared.budget.give_back(self.manifest.bytes());
            }
        }
    }
}

impl Shared {
    fn sums_over(&self) -> String {
        format!("{}{}", self.dimensions.fingerprint(), self.max_series)
    }
}

fn write_manifest(dir: &Path, stem: &str, manifest: &Manifest) -> Result<(), SpoolError> {
    let path = dir.join(format!("{stem}.{NEW_MANIFEST}"));
    let failed = |source| SpoolError::Write { path: path.clone(), source };
    let text = serde_json::to_vec(manifest).map_err(|error| failed(error.into()))?;
    let mut file = File::create(&path).map_err(failed)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&path, dir.join(format!("{stem}.{MANIFEST}"))).map_err(failed)?;
    // The names, too, must outlive a power cut. Not every system can open a directory.
    if let Ok(dir) = File::open(dir) {
        dir.sync_all().map_err(failed)?;
    }
    Ok(())
}

/// A file's batches, one at a time; an error when there are fewer rows than were written.
pub(crate) struct Batches {
    path: PathBuf,
    reader: StreamReader<io::BufReader<File>>,
    read: u64,
    expected: u64,
    ended: bool,
}

impl Batches {
    fn open(path: PathBuf, expected: u64) -> Result<Self, SpoolError> {
        let opened =
            File::open(&path).map_err(ArrowError::from).and_then(|file| StreamReader::try_new_buffered(file, None));
        match opened {
            Ok(reader) => Ok(Self { path, reader, read: 0, expected, ended: false }),
            Err(source) => Err(SpoolError::Read { path, source }),
        }
    }

    /// The columns, our row ordinal the last.
    pub(crate) fn schema(&self) -> SchemaRef {
        self.reader.schema()
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, SpoolError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let batch = self.reader.next();
        self.ended = !matches!(batch, Some(Ok(_)));
        match batch {
            Some(Ok(batch)) => {
                self.read += u64::try_from(batch.num_rows()).unwrap_or_default();
                Some(Ok(batch))
            }
            Some(Err(source)) => Some(Err(SpoolError::Read { path: self.path.clone(), source })),
            None if self.read == self.expected => None,
            None => Some(Err(SpoolError::Short { path: self.path.clone(), read: self.read, expected: self.expected })),
        }
    }
}

#[cfg(test)]
mod tests;
