//! A report's parts in, one report out: the parts' rows in their order, in batches of one schema, with ordinals that
//! go on from part to part. A part that lacks a column of another gives nulls there. Rejected rows keep their ordinal in
//! their own file, which is named before them.
//!
//! The schema is the first part's. When a later part has more columns, which the parts of one export seldom do, the
//! headers of the rest are looked at, and the reading begins anew with all of them ([`AssembleError::Wider`]).
//!
//! Refused: a part with more or fewer rows than its manifest promises. Holds what one open [`Report`] holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, RecordBatch, new_null_array};
use arrow::datatypes::{Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use costream_common::record::X_ROW;

use crate::decode::{DecodeError, Limits};
use crate::profile::ProfileName;
use crate::report::{DecodeOptions, Decoded, Rejected, Report};
use crate::source::{Part, Parts, Promise, SourceError};

/// Why parts do not make a report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssembleError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// All of them have more columns than the first: it is to be opened with these.
    #[error("its parts differ in their columns")]
    Wider(SchemaRef),
}

/// What comes out of an assembly.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    /// What comes next is another file's.
    Part(String),
    Batch(RecordBatch),
    Rejected(Rejected),
}

/// A report of one part or several, whose first header has been read.
pub(crate) struct Assembly {
    parts: Parts,
    options: DecodeOptions,
    schema: SchemaRef,
    open: Open,
    /// Rows of the parts before the open one.
    rows_before: i64,
    /// Rules of those parts.
    rules: BTreeMap<String, u64>,
    profile: ProfileName,
    focus_version: Option<String>,
}

/// The part that is being read.
struct Open {
    report: Report,
    file: String,
    promise: Option<Promise>,
    rows: u64,
    /// Where each column of the assembly is in this part; nothing when the two are the same.
    places: Option<Vec<Option<usize>>>,
}

impl Assembly {
    /// Opens the first part, with the columns of all of them where they are known already.
    pub(crate) async fn open(
        mut parts: Parts,
        options: DecodeOptions,
        columns: Option<SchemaRef>,
    ) -> Result<Self, AssembleError> {
        let Some(part) = parts.next().await? else { return Err(DecodeError::Empty { file: options.file }.into()) };
        let mut open = Open::new(part, &options, &mut parts).await?;
        let own = open.report.schema();
        let schema = columns.unwrap_or_else(|| SchemaRef::clone(&own));
        open.places = places(&schema, &own);
        Ok(Self {
            profile: open.report.profile(),
            focus_version: open.report.version().map(|version| version.as_str().to_owned()),
            parts,
            options,
            schema,
            open,
            rows_before: 0,
            rules: BTreeMap::new(),
        })
    }

    /// The schema of every batch: the columns of all parts, then `x_row`.
    pub(crate) fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    /// How the part that is being read is called.
    pub(crate) fn file(&self) -> &str {
        &self.open.file
    }

    pub(crate) fn profile(&self) -> ProfileName {
        self.profile
    }

    pub(crate) fn focus_version(&self) -> Option<String> {
        self.focus_version.clone()
    }

    /// The rules applied so far, with their counts.
    pub(crate) fn rules(&self) -> BTreeMap<String, u64> {
        let mut rules = self.rules.clone();
        for (rule, count) in self.open.report.rules() {
            *rules.entry((*rule).to_owned()).or_default() += count;
        }
        rules
    }

    /// Bytes read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.bytes()
    }

    /// The parts, all of which have been read.
    pub(crate) fn into_parts(self) -> Parts {
        self.parts
    }

    /// The next piece; nothing at the end of the last part.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>, AssembleError> {
        match self.open.report.next().await {
            Ok(Some(Decoded::Batch(batch))) => {
                self.open.rows += u64::try_from(batch.num_rows()).unwrap_or_default();
                let fitted = fitted(batch, &self.schema, self.open.places.as_deref(), self.rows_before);
                Ok(Some(Piece::Batch(fitted.map_err(|source| self.open.misfit(source))?)))
            }
            Ok(Some(Decoded::Rejected(rejected))) => {
                self.open.rows += 1;
                Ok(Some(Piece::Rejected(rejected)))
            }
            Ok(None) => self.next_part().await,
            Err(error) => Err(blamed(error, &self.parts)),
        }
    }

    async fn next_part(&mut self) -> Result<Option<Piece>, AssembleError> {
        self.open.hold_to_promise()?;
        let Some(part) = self.parts.next().await? else { return Ok(None) };
        let rules = self.rules();
        let mut open = Open::new(part, &self.options, &mut self.parts).await?;
        let own = open.report.schema();
        if let Some(wider) = widened(&self.schema, &own, &self.options, &open.file)? {
            return Err(self.all_columns(wider).await?);
        }
        open.places = places(&self.schema, &own);
        self.rules = rules;
        self.rows_before += i64::try_from(self.open.rows).unwrap_or(i64::MAX);
        self.open = open;
        Ok(Some(Piece::Part(self.open.file.clone())))
    }

    /// Looks at the headers of the parts that are left.
    async fn all_columns(&mut self, mut schema: SchemaRef) -> Result<AssembleError, AssembleError> {
        while let Some(part) = self.parts.next().await? {
            let open = Open::new(part, &self.options, &mut self.parts).await?;
            if let Some(wider) = widened(&schema, &open.report.schema(), &self.options, &open.file)? {
                schema = wider;
            }
        }
        Ok(AssembleError::Wider(schema))
    }
}

impl Open {
    async fn new(part: Part, options: &DecodeOptions, parts: &mut Parts) -> Result<Self, AssembleError> {
        let Part { bytes, shown: file, promise } = part;
        let options = DecodeOptions { file: file.clone(), ..options.clone() };
        let report = Report::open(bytes, options).await.map_err(|error| blamed(error, parts))?;
        Ok(Self { report, file, promise, rows: 0, places: None })
    }

    fn hold_to_promise(&mut self) -> Result<(), SourceError> {
        match self.promise.take() {
            Some(Promise { manifest, rows }) if rows != self.rows => {
                let file = self.file.clone();
                Err(SourceError::NotAsSaid { file, found: self.rows, unit: "rows", manifest, said: rows })
            }
            _ => Ok(()),
        }
    }

    fn misfit(&self, source: ArrowError) -> DecodeError {
        DecodeError::Batch { file: self.file.clone(), row: self.rows, source }
    }
}

/// The source's own failure where there was one: the decoder only saw its copy.
fn blamed(error: DecodeError, parts: &Parts) -> AssembleError {
    parts.failure().map_or(AssembleError::Decode(error), AssembleError::Source)
}

/// Where each column of `schema` is in `own`; nothing when they are the same.
fn places(schema: &Schema, own: &Schema) -> Option<Vec<Option<usize>>> {
    let is_same = schema.fields().len() == own.fields().len()
        && schema.fields().iter().zip(own.fields()).all(|(all, own)| all.name() == own.name());
    (!is_same).then(|| schema.fields().iter().map(|field| own.index_of(field.name()).ok()).collect())
}

/// `schema` with the columns of `own` that it lacks, before the ordinal; nothing when it has all of them. A column's
/// type is a function of its name.
fn widened(
    schema: &SchemaRef,
    own: &Schema,
    options: &DecodeOptions,
    file: &str,
) -> Result<Option<SchemaRef>, DecodeError> {
    let more = own.fields().iter().filter(|field| schema.index_of(field.name()).is_err());
    let more: Vec<Arc<Field>> = more.map(|field| Arc::new(field.as_ref().clone().with_nullable(true))).collect();
    let Some(ordinal) = schema.index_of(X_ROW).ok().filter(|_| !more.is_empty()) else { return Ok(None) };
    let (columns, rest) = schema.fields().split_at(ordinal);
    let size = columns.len() + more.len();
    let Limits { max_columns, .. } = options.limits;
    if size > max_columns {
        let (size, max) = (size as u64, max_columns as u64);
        return Err(DecodeError::HeaderTooLarge {
            file: file.to_owned(),
            unit: "columns with its other parts",
            size,
            max,
        });
    }
    let fields: Vec<_> = columns.iter().cloned().chain(more).chain(rest.iter().cloned()).collect();
    Ok(Some(Arc::new(Schema::new(fields))))
}

/// A part's batch as one of the assembly.
fn fitted(
    batch: RecordBatch,
    schema: &SchemaRef,
    places: Option<&[Option<usize>]>,
    rows_before: i64,
) -> Result<RecordBatch, ArrowError> {
    if places.is_none() && rows_before == 0 {
        return Ok(batch);
    }
    let n_rows = batch.num_rows();
    let mut columns: Vec<ArrayRef> = match places {
        None => batch.columns().to_vec(),
        Some(places) => {
            let column = |(field, place): (&Arc<Field>, &Option<usize>)| match place {
                Some(at) => Arc::clone(batch.column(*at)),
                None => new_null_array(field.data_type(), n_rows),
            };
            schema.fields().iter().zip(places).map(column).collect()
        }
    };
    if let Ok(at) = schema.index_of(X_ROW) {
        let ordinals = &mut columns[at];
        let own = ordinals.as_primitive::<Int64Type>();
        *ordinals = Arc::new(own.unary::<_, Int64Type>(|row| row + rows_before));
    }
    RecordBatch::try_new(SchemaRef::clone(schema), columns)
}

#[cfg(test)]
mod tests;
