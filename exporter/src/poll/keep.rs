//! Reports whose rows are no charges, on their way to the disk: answers of Azure Monitor, and rows of any make. As with charges, a
//! report that breaks off leaves the last snapshot and no file, and one that is the bytes seen last leaves it too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use costream_common::record::{RowKind, ScopeKey};

use super::{Flight, PollError, Polls};
use crate::config;
use crate::decode::DecodeError;
use crate::generic::{Generic, GenericError};
use crate::points;
use crate::profile::ProfileName;
use crate::report::{DecodeOptions, Decoded};
use crate::snapshot::{Generation, Intake, ReportFacts};
use crate::source::{Part, Parts, SourceError};

/// A report's snapshot now, whether the poll made it, and the bytes read.
type Kept = (Arc<Generation>, bool, u64);

/// What is known of a report before it is read.
pub(super) struct Keeping<'a> {
    pub(super) polls: &'a Polls,
    pub(super) key: ScopeKey,
    pub(super) conversion: String,
    pub(super) last: Option<Arc<Generation>>,
}

impl Keeping<'_> {
    /// An answer of Azure Monitor.
    pub(super) async fn points(self, mut parts: Parts, of: &config::Points) -> Result<Kept, PollError> {
        let Part { bytes, shown, .. } = self.only(&mut parts).await?;
        let read = points::report::read(bytes, &shown, &of.resource_id.as_str().into()).await;
        let mut points = read.map_err(|error| blamed(error, &parts))?;
        let kind = RowKind::Points { table: of.table.clone() };
        let intake = Intake::begin(&self.polls.spool, self.key.clone(), shown, points::schema(), kind);
        intake.add_all(points.ready()).await;
        let (counted, _) = points.end();
        self.end(parts, intake, counted).await
    }

    /// Rows of any make.
    pub(super) async fn generic(
        self,
        mut parts: Parts,
        options: DecodeOptions,
        of: &config::Generic,
        flight: &Flight,
    ) -> Result<Kept, PollError> {
        let Part { bytes, shown, .. } = self.only(&mut parts).await?;
        let opened = Generic::open(bytes, options, of.value_column).await;
        let mut generic = opened.map_err(|error| blamed(error, &parts))?;
        let kind =
            RowKind::Generic { table: of.table.clone(), metric: of.metric.clone(), value: generic.value().to_owned() };
        let intake = Intake::begin(&self.polls.spool, self.key.clone(), shown, generic.schema(), kind);
        let read: Result<(), GenericError> = async {
            while let Some(decoded) = generic.next().await? {
                match &decoded {
                    Decoded::Batch(batch) => flight.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed),
                    Decoded::Rejected(_) => flight.rejected.fetch_add(1, Ordering::Relaxed),
                };
                intake.add_all([decoded]).await;
            }
            Ok(())
        }
        .await;
        match read {
            Ok(()) => self.end(parts, intake, BTreeMap::new()).await,
            Err(error) => {
                // Why the report broke off says more than what became of the file.
                let _ = intake.discard().await;
                Err(blamed(error, &parts))
            }
        }
    }

    /// The first part of a report, which is all of it ([`Keeping::end`] sees to that).
    async fn only(&self, parts: &mut Parts) -> Result<Part, PollError> {
        let part = parts.next().await?;
        part.ok_or_else(|| DecodeError::Empty { file: self.key.scope.to_string() }.into())
    }

    async fn end(self, mut parts: Parts, intake: Intake, rules: BTreeMap<String, u64>) -> Result<Kept, PollError> {
        let read_bytes = parts.bytes();
        self.polls.telemetry.read(&self.key.source, read_bytes);
        let sealed = match parts.next().await {
            Ok(Some(_)) => {
                let reason = "it is an export of several files, and such rows are in one".to_owned();
                Err(SourceError::NoFiles { given: self.key.scope.to_string(), reason })
            }
            Ok(None) => parts.seal().await,
            Err(error) => Err(error),
        };
        let seen = match sealed {
            Ok(seen) => seen,
            Err(error) => {
                let _ = intake.discard().await;
                return Err(error.into());
            }
        };
        let conversion = self.conversion.clone();
        let facts = ReportFacts { seen, conversion, profile: ProfileName::Strict, focus_version: None, rules };
        let (generation, changed) = intake.commit(facts, self.last).await?;
        Ok((generation, changed, read_bytes))
    }
}

/// The source's own failure where there was one.
fn blamed(error: impl Into<PollError>, parts: &Parts) -> PollError {
    parts.failure().map_or_else(|| error.into(), PollError::Source)
}
