//! Batches and rejects in, the files of a generation out, put in the place of its predecessor at the end. Dropped before that
//! it leaves nothing. Blocks; holds a batch, a page of rejects and the series of one rollup.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use chrono::Utc;
use costream_common::fault::{self, Point};
use costream_common::record::{RowKind, ScopeKey, Snapshot, SnapshotId, Totals};

use super::quarantine::{self, Quarantine, Refused};
use super::shown::{Showing, write_sums};
use super::{
    FORMAT, Generation, Manifest, RECORDS, REJECTS, ROLLUP, ROWS, ReportFacts, SORTED, Spool, SpoolError, TWINS,
    remove, stem, write_manifest,
};
use crate::budget::Budget;
use crate::convert::Rejected;
use crate::rows;

impl Spool {
    /// Begins a generation of a scope.
    ///
    /// # Errors
    /// Its files cannot be made.
    pub(crate) fn begin(
        &self,
        key: ScopeKey,
        file: String,
        schema: &SchemaRef,
        kind: RowKind,
    ) -> Result<Writer, SpoolError> {
        let previous = self.get(&key).map(|generation| generation.manifest.snapshot.snapshot);
        let snapshot = SnapshotId::next(Utc::now(), previous);
        let stem = stem(&key, snapshot);
        let shared = &self.shared;
        let mut begun = Begun { spool: self.clone(), stem, files: Vec::new(), done: false };
        let records = begun.create(RECORDS, &rows::without_labels(schema))?;
        let rejects = begun.create(REJECTS, &quarantine::schema())?;
        let rejects = Quarantine::new(key.source.to_string(), file, rejects);
        let shown = Showing::of(&kind, shared);
        let rows = if shared.has_rows && kind.is_charges() {
            let [first, second] = SORTED.map(|suffix| self.path(&begun.stem, suffix));
            let twins = rows::Twins::new(&first, &second);
            let twins = twins.map_err(|source| begun.failed(SORTED[0], source.into()))?;
            Some((begun.create(ROWS, &rows::schema())?, twins))
        } else {
            None
        };
        Ok(Writer { key, kind, snapshot, records, rejects, rows, totals: Totals::default(), shown, begun })
    }
}

/// A generation being written. Dropped before it is committed, it leaves nothing.
pub(crate) struct Writer {
    key: ScopeKey,
    kind: RowKind,
    snapshot: SnapshotId,
    records: StreamWriter<BufWriter<Metered>>,
    rejects: Quarantine<BufWriter<Metered>>,
    rows: Option<(StreamWriter<BufWriter<Metered>>, rows::Twins)>,
    totals: Totals,
    shown: Showing,
    /// Last: it removes the files, after the others have let go of them.
    begun: Begun,
}

impl Writer {
    /// Adds rows.
    pub(crate) fn batch(&mut self, batch: &RecordBatch) -> Result<(), SpoolError> {
        let (batch, labels) = rows::parted(batch).map_err(|error| self.begun.failed(ROWS, error))?;
        self.totals.add_batch(&batch)?;
        self.shown.add_batch(self.key.source.as_str(), &batch);
        if let Some((writer, twins)) = &mut self.rows {
            let rows = twins.rows(&batch, labels).and_then(|rows| writer.write(&rows));
            rows.map_err(|error| self.begun.failed(ROWS, error))?;
        }
        self.records.write(&batch).map_err(|error| self.begun.failed(RECORDS, error))?;
        fault::point(Point::Spool);
        Ok(())
    }

    /// What comes next is another file's.
    pub(crate) fn part(&mut self, file: String) -> Result<(), SpoolError> {
        self.rejects.part(file).map_err(|error| self.begun.failed(REJECTS, error))
    }

    /// Puts a row in quarantine.
    pub(crate) fn reject(&mut self, rejected: &Rejected) -> Result<(), SpoolError> {
        self.rejects.add(rejected).map_err(|error| self.begun.failed(REJECTS, error))
    }

    /// Puts the generation in its predecessor's place.
    ///
    /// # Errors
    /// The disk is full or the budget used up: the predecessor stays.
    pub(crate) fn commit(mut self, report: ReportFacts) -> Result<Arc<Generation>, SpoolError> {
        let begun = &mut self.begun;
        let Refused { writer, count, reasons } = self.rejects.end().map_err(|error| begun.failed(REJECTS, error))?;
        let records_bytes = begun.finish(RECORDS, self.records)?;
        let rejects_bytes = begun.finish(REJECTS, writer)?;
        let rows_bytes = match self.rows {
            Some((rows, twins)) => {
                let rows_bytes = begun.finish(ROWS, rows)?;
                let twins = rows::written(&begun.spool.path(&begun.stem, TWINS), |to| twins.finish(to));
                Some((rows_bytes, twins.map_err(|source| begun.failed(TWINS, source.into()))?))
            }
            None => None,
        };
        let shared = Arc::clone(&begun.spool.shared);

        let path = begun.spool.path(&begun.stem, ROLLUP);
        let failed = |source| SpoolError::Write { path: path.clone(), source };
        let mut sums = BufWriter::new(File::create(&path).map_err(failed)?);
        write_sums(&mut sums, &shared, &self.shown.end()).map_err(failed)?;
        sums.get_ref().sync_all().map_err(failed)?;

        let snapshot = Snapshot {
            key: self.key,
            snapshot: self.snapshot,
            taken_at: Utc::now(),
            rejected: count,
            totals: self.totals,
            kind: self.kind,
        };
        let manifest =
            Manifest { format: FORMAT, snapshot, report, rejects: reasons, records_bytes, rejects_bytes, rows_bytes };
        fault::point(Point::BeforeSwap);
        write_manifest(&shared.dir, &begun.stem, &manifest)?;
        begun.done = true;
        fault::point(Point::AfterSwap);
        let generation = Arc::new(Generation::new(&begun.spool, begun.stem.clone(), manifest));
        begun.spool.swap_in(Arc::clone(&generation));
        Ok(generation)
    }
}

/// The files of a generation that is not one yet.
struct Begun {
    spool: Spool,
    stem: String,
    files: Vec<Arc<AtomicU64>>,
    done: bool,
}

impl Begun {
    fn create(&mut self, suffix: &str, schema: &SchemaRef) -> Result<StreamWriter<BufWriter<Metered>>, SpoolError> {
        let path = self.spool.path(&self.stem, suffix);
        let file = File::create(path).map_err(|error| self.failed(suffix, error.into()))?;
        let bytes = Arc::new(AtomicU64::new(0));
        self.files.push(Arc::clone(&bytes));
        let metered = Metered { file, bytes, budget: Arc::clone(&self.spool.shared.budget) };
        IpcWriteOptions::default()
            .try_with_compression(Some(CompressionType::LZ4_FRAME))
            .and_then(|options| StreamWriter::try_new_with_options(BufWriter::new(metered), schema, options))
            .map_err(|error| self.failed(suffix, error))
    }

    /// Ends a file and brings it to the disk; its length in bytes.
    fn finish(&self, suffix: &str, writer: StreamWriter<BufWriter<Metered>>) -> Result<u64, SpoolError> {
        let mut writer = writer;
        let finished =
            writer.finish().and_then(|()| writer.into_inner()).map_err(|error| self.failed(suffix, error))?;
        let file = finished.into_inner().map_err(|error| self.failed(suffix, error.into_error().into()))?;
        file.file.sync_all().map_err(|error| self.failed(suffix, error.into()))?;
        Ok(file.bytes.load(Ordering::Relaxed))
    }

    fn failed(&self, suffix: &str, error: ArrowError) -> SpoolError {
        let source = match error {
            ArrowError::IoError(_, source) => source,
            other => io::Error::other(other),
        };
        SpoolError::Write { path: self.spool.path(&self.stem, suffix), source }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.done {
            remove(&self.spool.shared.dir, &self.stem);
            let bytes = self.files.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum();
            self.spool.shared.budget.give_back(bytes);
        }
    }
}

/// A file whose bytes count towards the budget.
struct Metered {
    file: File,
    bytes: Arc<AtomicU64>,
    budget: Arc<Budget>,
}

impl Write for Metered {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let wanted = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        self.budget.take(wanted)?;
        let written = self.file.write(buffer);
        let kept = written.as_ref().map_or(0, |written| u64::try_from(*written).unwrap_or_default());
        self.budget.give_back(wanted - kept);
        self.bytes.fetch_add(kept, Ordering::Relaxed);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
