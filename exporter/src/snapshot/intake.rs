//! Batches and rejects in, a generation out, written on a thread of its own: the sender waits when the disk is slow. What
//! is not committed leaves nothing. Holds [`N_READY_PIECES`] and the one being written.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use costream_common::record::{RowKind, ScopeKey};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Generation, ReportFacts, Spool, SpoolError, Writer};
use crate::report::Decoded;

/// Batches and rejects that wait for the disk.
const N_READY_PIECES: usize = 2;

/// A generation being written.
pub(crate) struct Intake {
    pieces: mpsc::Sender<Piece>,
    writing: JoinHandle<Result<Option<Arc<Generation>>, SpoolError>>,
}

enum Piece {
    Rows(Decoded),
    End(Box<ReportFacts>),
}

impl Intake {
    /// Begins a generation.
    pub(crate) fn begin(spool: &Spool, key: ScopeKey, file: String, schema: SchemaRef, kind: RowKind) -> Self {
        let (pieces, mut received) = mpsc::channel(N_READY_PIECES);
        let spool = spool.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let mut writer: Writer = spool.begin(key, file, &schema, kind)?;
            while let Some(piece) = received.blocking_recv() {
                match piece {
                    Piece::Rows(Decoded::Batch(batch)) => writer.batch(&batch)?,
                    Piece::Rows(Decoded::Rejected(rejected)) => writer.reject(&rejected)?,
                    Piece::End(facts) => return writer.commit(*facts).map(Some),
                }
            }
            Ok(None)
        });
        Self { pieces, writing }
    }

    /// Adds rows. A writer that has failed says so at the end.
    pub(crate) async fn add_all(&self, rows: impl IntoIterator<Item = Decoded>) {
        for rows in rows {
            let _ = self.pieces.send(Piece::Rows(rows)).await;
        }
    }

    /// Puts the generation in its predecessor's place, unless that has the same digest: then it stays, and what was seen is
    /// noted with it. Says whether the generation is a new one.
    ///
    /// # Errors
    /// It could not be written.
    pub(crate) async fn commit(
        self,
        facts: ReportFacts,
        last: Option<Arc<Generation>>,
    ) -> Result<(Arc<Generation>, bool), SpoolError> {
        let is_known = |last: &Arc<Generation>| facts.seen.digest.is_some() && last.seen().digest == facts.seen.digest;
        if let Some(last) = last.filter(is_known) {
            self.discard().await?;
            let noted = tokio::task::spawn_blocking(move || last.seen_again(facts.seen).map(|()| last)).await;
            return Ok((noted.map_err(|error| SpoolError::Gone(error.to_string()))??, false));
        }
        let _ = self.pieces.send(Piece::End(Box::new(facts))).await;
        let generation = self.ended().await?.ok_or_else(|| SpoolError::Gone("it ended early".to_owned()))?;
        Ok((generation, true))
    }

    /// Leaves nothing of it.
    ///
    /// # Errors
    /// It could not even be written.
    pub(crate) async fn discard(self) -> Result<(), SpoolError> {
        self.ended().await.map(|_| ())
    }

    async fn ended(self) -> Result<Option<Arc<Generation>>, SpoolError> {
        drop(self.pieces);
        self.writing.await.map_err(|error| SpoolError::Gone(error.to_string()))?
    }
}
