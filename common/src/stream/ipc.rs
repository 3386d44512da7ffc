//! Record batches as an Arrow IPC stream over HTTP, both ways.
//!
//! [`Reader`]: chunks of a body in, batches out, pulled one at a time; whoever pulls slowly
//! slows the body. A body that ends without the stream's end mark is an error, so that a cut one is
//! never taken for a whole one. Holds one message (at most [`MAX_MESSAGE_BYTES`]) and one chunk.
//!
//! [`Writer`]: batches in, chunks out.
//!
//! Format: "IPC Streaming Format" of the Arrow columnar specification.

use std::error::Error;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};

/// The media type of an Arrow IPC stream.
pub const CONTENT_TYPE: &str = "application/vnd.apache.arrow.stream";

/// The largest message (a batch, as it is on the wire) that a reader takes.
pub const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// What broke a body off.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// A body that is no whole Arrow IPC stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IpcError {
    /// The body broke off.
    #[error("the arrow stream broke off")]
    Body(#[source] BodyError),
    /// The bytes are no Arrow IPC stream, or go on after its end mark.
    #[error("no arrow stream")]
    Malformed(#[from] ArrowError),
    /// A message is larger than [`MAX_MESSAGE_BYTES`].
    #[error("a message of the arrow stream is larger than {MAX_MESSAGE_BYTES} bytes")]
    TooLarge,
    /// The body ended before its end mark.
    #[error("the arrow stream ends without its end mark")]
    Cut,
}

/// Reads a body.
pub struct Reader {
    chunks: BoxStream<'static, Result<Bytes, BodyError>>,
    chunk: Buffer,
    decoder: StreamDecoder,
    schema: SchemaRef,
    /// A batch that came with the chunk that ended the schema.
    first: Option<RecordBatch>,
    /// Bytes since the last batch.
    message_bytes: usize,
}

impl Reader {
    /// Reads a body up to its schema.
    ///
    /// # Errors
    /// The body breaks off or is no Arrow IPC stream.
    pub async fn open(chunks: BoxStream<'static, Result<Bytes, BodyError>>) -> Result<Self, IpcError> {
        let mut reader = Self {
            chunks,
            chunk: Buffer::from(Bytes::new()),
            decoder: StreamDecoder::new(),
            schema: SchemaRef::new(Schema::empty()),
            first: None,
            message_bytes: 0,
        };
        loop {
            reader.first = reader.decode()?;
            if let Some(schema) = reader.decoder.schema() {
                reader.schema = schema;
                return Ok(reader);
            }
            if !reader.pull().await? {
                return Err(IpcError::Cut);
            }
        }
    }

    /// The schema of every batch, with its metadata.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The next batch; nothing when the end mark has come and the body has ended. Cancel-safe.
    ///
    /// # Errors
    /// The body breaks off, is malformed, or ends without its end mark.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, IpcError> {
        if let Some(batch) = self.first.take() {
            return Ok(Some(batch));
        }
        loop {
            if let Some(batch) = self.decode()? {
                return Ok(Some(batch));
            }
            if !self.pull().await? {
                self.decoder.finish().map_err(|_| IpcError::Cut)?;
                // Between two messages a decoder is content to end; only one that has seen the
                // end mark refuses a further byte.
                let ended = self.decoder.decode(&mut Buffer::from(vec![0_u8])).is_err();
                return if ended { Ok(None) } else { Err(IpcError::Cut) };
            }
        }
    }

    /// Decodes what is left of the chunk, up to a batch.
    fn decode(&mut self) -> Result<Option<RecordBatch>, IpcError> {
        let before = self.chunk.len();
        let batch = self.decoder.decode(&mut self.chunk)?;
        self.message_bytes += before - self.chunk.len();
        if self.message_bytes > MAX_MESSAGE_BYTES {
            return Err(IpcError::TooLarge);
        }
        if batch.is_some() {
            self.message_bytes = 0;
        }
        Ok(batch)
    }

    /// Takes the next chunk; whether there was one.
    async fn pull(&mut self) -> Result<bool, IpcError> {
        match self.chunks.next().await.transpose().map_err(IpcError::Body)? {
            Some(chunk) => {
                self.chunk = Buffer::from(chunk);
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// Writes a body, chunk by chunk.
pub struct Writer {
    stream: StreamWriter<Vec<u8>>,
}

impl Writer {
    /// Starts a stream; the schema goes out with the first chunk.
    ///
    /// # Errors
    /// The schema has a type that Arrow IPC has not.
    pub fn new(schema: &Schema, compression: Option<CompressionType>) -> Result<Self, ArrowError> {
        let options = IpcWriteOptions::default().try_with_compression(compression)?;
        Ok(Self { stream: StreamWriter::try_new_with_options(Vec::new(), schema, options)? })
    }

    /// What is written and not taken yet: after [`Writer::new`], the schema.
    pub fn take(&mut self) -> Bytes {
        std::mem::take(self.stream.get_mut()).into()
    }

    /// The chunk of a batch.
    ///
    /// # Errors
    /// The batch has another schema.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<Bytes, ArrowError> {
        self.stream.write(batch)?;
        Ok(self.take())
    }

    /// The last chunk: the end mark.
    ///
    /// # Errors
    /// The stream has been finished before.
    pub fn finish(&mut self) -> Result<Bytes, ArrowError> {
        self.stream.finish()?;
        Ok(self.take())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field};
    use proptest::prelude::*;

    use super::*;

    fn batches() -> Vec<RecordBatch> {
        let metadata = [("key".to_owned(), "value".to_owned())].into();
        let fields = vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)];
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        let batch = |from: i64| {
            let numbers: Int64Array = (from..from + 9).map(Some).collect();
            let texts: StringArray = (from..from + 9).map(|n| (n % 2 == 0).then(|| format!("text {n}"))).collect();
            RecordBatch::try_new(schema.clone(), vec![Arc::new(numbers), Arc::new(texts)]).expect("a batch")
        };
        vec![batch(0), batch(100)]
    }

    fn body(batches: &[RecordBatch], compression: Option<CompressionType>) -> Vec<u8> {
        let mut writer = Writer::new(&batches[0].schema(), compression).expect("a writer");
        let mut body = writer.take().to_vec();
        for batch in batches {
            body.extend_from_slice(&writer.write(batch).expect("a chunk"));
        }
        body.extend_from_slice(&writer.finish().expect("the end"));
        body
    }

    fn read(body: &[u8], cuts: &[usize]) -> Result<(SchemaRef, Vec<RecordBatch>), IpcError> {
        let mut chunks = Vec::new();
        let mut from = 0;
        for to in cuts.iter().copied().chain([body.len()]) {
            chunks.push(Ok(Bytes::copy_from_slice(&body[from..to])));
            from = to;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut reader = Reader::open(futures::stream::iter(chunks).boxed()).await?;
            let mut batches = Vec::new();
            while let Some(batch) = reader.next().await? {
                batches.push(batch);
            }
            Ok((reader.schema(), batches))
        })
    }

    #[test]
    fn a_body_cut_anywhere_is_an_error() {
        let body = body(&batches(), None);
        for end in 0..body.len() {
            assert!(matches!(read(&body[..end], &[]), Err(IpcError::Cut)), "cut at {end} of {}", body.len());
        }
        assert!(read(&body, &[]).is_ok());
    }

    #[test]
    fn bytes_after_the_end_mark_are_an_error() {
        let mut body = body(&batches(), None);
        body.push(0);
        assert!(matches!(read(&body, &[]), Err(IpcError::Malformed(_))));
        assert!(matches!(read(b"x_row,billed", &[]), Err(IpcError::Cut | IpcError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20), compressed: bool) {
            let batches = batches();
            let body = body(&batches, compressed.then_some(CompressionType::LZ4_FRAME));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).collect();
            cuts.sort_unstable();
            let (schema, found) = read(&body, &cuts).expect("a whole body");
            prop_assert_eq!(schema, batches[0].schema());
            prop_assert_eq!(found, batches);
        }
    }
}
