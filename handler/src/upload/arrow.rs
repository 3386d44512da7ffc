//! An upload's body in, the batches of a delivery out: an Arrow IPC stream, decoded as it
//! comes. Pull-driven: holds the message in hand, of at most [`MAX_MESSAGE_BYTES`], and the
//! dictionaries it needs. A body without its end mark is cut, whatever came before.
//!
//! Spec: <https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format>.

use std::collections::VecDeque;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use costream_common::record::{SNAPSHOTS_METADATA, ScopeKey, Snapshot, SnapshotId, Totals};
use futures::{StreamExt, stream};

use super::body::Incoming;
use crate::store::Batches;

/// The largest message of a stream: a batch of ours is of about 2 MiB, others have larger ones.
pub const MAX_MESSAGE_BYTES: usize = 128 << 20;

/// Why a body is no delivery.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// The client went away, stalled, or was not understood.
    #[error("read the body")]
    Body(#[source] axum::Error),
    /// The bytes are no Arrow IPC stream.
    #[error("decode the body as an Arrow IPC stream")]
    Decode(#[from] ArrowError),
    /// The body ended without the stream's end mark.
    #[error("the Arrow IPC stream has no end mark: it was cut")]
    Cut,
    /// A message is larger than a batch can be.
    #[error("a message of the Arrow IPC stream is larger than {MAX_MESSAGE_BYTES} bytes")]
    Large,
    /// The announced snapshots are not readable, or not the one that is delivered.
    #[error("schema metadata {SNAPSHOTS_METADATA}: {0}")]
    Announced(String),
}

/// A body whose schema has been read.
pub(crate) struct Upload {
    pub(crate) schema: SchemaRef,
    body: Incoming,
    decoder: StreamDecoder,
    /// What has come of the chunk in hand.
    chunk: Buffer,
    /// Batches that came with the schema.
    ready: VecDeque<RecordBatch>,
    /// Bytes of the message in hand.
    message_bytes: usize,
}

impl Upload {
    /// Reads up to the schema.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn open(body: Incoming) -> Result<Self, UploadError> {
        let mut upload = Self {
            schema: SchemaRef::new(arrow::datatypes::Schema::empty()),
            body,
            decoder: StreamDecoder::new(),
            chunk: Buffer::default(),
            ready: VecDeque::new(),
            message_bytes: 0,
        };
        let batch = upload.pull().await?;
        upload.schema = upload.decoder.schema().ok_or(UploadError::Cut)?;
        upload.ready.extend(batch);
        Ok(upload)
    }

    /// The totals that the schema announces for a snapshot; nothing when it announces none.
    ///
    /// # Errors
    /// It announces other snapshots only, or what cannot be read.
    pub(crate) fn announced(&self, key: &ScopeKey, snapshot: SnapshotId) -> Result<Option<Totals>, UploadError> {
        let Some(json) = self.schema.metadata().get(SNAPSHOTS_METADATA) else { return Ok(None) };
        let snapshots: Vec<Snapshot> =
            serde_json::from_str(json).map_err(|error| UploadError::Announced(error.to_string()))?;
        match snapshots.into_iter().find(|announced| announced.key == *key && announced.snapshot == snapshot) {
            Some(announced) => Ok(Some(announced.totals)),
            None => Err(UploadError::Announced(format!("snapshot {snapshot} of {key} is not among them"))),
        }
    }

    /// The batches, to the end mark.
    pub(crate) fn batches(self) -> Batches {
        stream::unfold(Some(self), |state| async move {
            let mut upload = state?;
            match upload.next().await {
                Ok(Some(batch)) => Some((Ok(batch), Some(upload))),
                Ok(None) => None,
                Err(error) => Some((Err(error.into()), None)),
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>, UploadError> {
        match self.ready.pop_front() {
            Some(batch) => Ok(Some(batch)),
            None => self.pull().await,
        }
    }

    /// The next batch. While the schema has not come, also returns, without one, when it has.
    async fn pull(&mut self) -> Result<Option<RecordBatch>, UploadError> {
        let wants_schema = self.decoder.schema().is_none();
        loop {
            while !self.chunk.is_empty() {
                let before = self.chunk.len();
                let batch = self.decoder.decode(&mut self.chunk)?;
                self.message_bytes += before - self.chunk.len();
                if batch.is_some() {
                    self.message_bytes = 0;
                    return Ok(batch);
                }
                if self.message_bytes > MAX_MESSAGE_BYTES {
                    return Err(UploadError::Large);
                }
            }
            if wants_schema && self.decoder.schema().is_some() {
                return Ok(None);
            }
            match self.body.next().await {
                Some(chunk) => self.chunk = Buffer::from(chunk.map_err(UploadError::Body)?),
                None => return self.ended().map(|()| None),
            }
        }
    }

    fn ended(&mut self) -> Result<(), UploadError> {
        self.decoder.finish().map_err(|_| UploadError::Cut)?;
        // Only a stream that has had its end mark refuses another byte.
        match self.decoder.decode(&mut Buffer::from(&[0_u8])) {
            Err(_) => Ok(()),
            Ok(_) => Err(UploadError::Cut),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow::ipc::writer::StreamWriter;
    use axum::body::Body;
    use bytes::Bytes;
    use futures::TryStreamExt;

    use super::*;

    fn stream_of(batches: i64) -> Vec<u8> {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
        let mut writer = StreamWriter::try_new(Vec::new(), &schema).expect("a writer");
        for number in 0..batches {
            let column = Arc::new(Int64Array::from(vec![number; 100]));
            writer.write(&RecordBatch::try_new(schema.clone(), vec![column]).expect("a batch")).expect("written");
        }
        writer.into_inner().expect("ended")
    }

    async fn rows_in(bytes: &[u8], chunk: usize) -> Result<usize, String> {
        let chunks: Vec<_> =
            bytes.chunks(chunk).map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk))).collect();
        let body = Incoming::new(Body::from_stream(stream::iter(chunks)));
        let upload = Upload::open(body).await.map_err(|error| error.to_string())?;
        assert_eq!(upload.schema.fields().len(), 1);
        let batches: Vec<_> = upload.batches().try_collect().await.map_err(|error| error.to_string())?;
        Ok(batches.iter().map(RecordBatch::num_rows).sum())
    }

    #[tokio::test]
    async fn any_split_of_the_body_decodes_the_same() {
        let bytes = stream_of(3);
        for chunk in [1, 7, 64, 1000, bytes.len()] {
            assert_eq!(rows_in(&bytes, chunk).await, Ok(300), "in chunks of {chunk}");
        }
        let empty = stream_of(0);
        assert_eq!(rows_in(&empty, 5).await, Ok(0));
    }

    #[tokio::test]
    async fn a_body_cut_anywhere_is_no_delivery() {
        let bytes = stream_of(3);
        for cut in 1..=bytes.len() {
            let short = &bytes[..bytes.len() - cut];
            assert!(rows_in(short, 64).await.is_err(), "cut by {cut} bytes");
        }
        let mut long = bytes;
        long.push(0);
        assert!(rows_in(&long, 64).await.is_err(), "a byte after the end mark");
    }
}
