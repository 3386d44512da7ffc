//! A report read twice, side by side: from one piece, and from many.

use std::io::{self, Cursor};
use std::sync::LazyLock;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use costream_exporter::report::{DecodeOptions, Decoded, Limits, Report};
use futures::stream;
use tokio::io::AsyncRead;
use tokio::runtime::{Builder, Runtime};
use tokio_util::io::StreamReader;

use crate::piece_size;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

/// Reads a report to its end, and holds the two readings against each other and each row's number against those
/// before; its rows, or nothing when it cannot be read.
pub fn read_twice(bytes: &[u8], limits: Limits, each: impl FnMut(&Report, &RecordBatch)) -> Option<u64> {
    let pieces = bytes.chunks(piece_size(bytes)).map(|piece| Ok::<_, io::Error>(Bytes::copy_from_slice(piece)));
    let split = StreamReader::new(stream::iter(pieces.collect::<Vec<_>>()));
    let whole = Cursor::new(bytes.to_vec());
    RUNTIME.block_on(read_together(whole, split, limits, each))
}

async fn read_together(
    whole: impl AsyncRead + Send + Unpin + 'static,
    split: impl AsyncRead + Send + Unpin + 'static,
    limits: Limits,
    mut each: impl FnMut(&Report, &RecordBatch),
) -> Option<u64> {
    let options = DecodeOptions { limits, ..DecodeOptions::new("report") };
    let opened = (Report::open(whole, options.clone()).await, Report::open(split, options).await);
    let (mut whole, mut split) = match opened {
        (Ok(whole), Ok(split)) => (whole, split),
        (Err(whole), Err(split)) => {
            assert_eq!(format!("{whole:?}"), format!("{split:?}"));
            return None;
        }
        (whole, split) => panic!("one was opened: {:?}, {:?}", whole.err(), split.err()),
    };
    assert_eq!((whole.schema(), whole.profile(), whole.version()), (split.schema(), split.profile(), split.version()));

    let mut ordinals = Ordinals::default();
    loop {
        match (whole.next().await, split.next().await) {
            (Ok(Some(Decoded::Batch(batch))), Ok(Some(Decoded::Batch(same)))) => {
                assert_eq!(batch, same);
                let rows = batch.column(batch.num_columns() - 1).as_primitive::<Int64Type>();
                rows.values().iter().for_each(|row| ordinals.take(row.unsigned_abs()));
                each(&whole, &batch);
            }
            (Ok(Some(Decoded::Rejected(rejected))), Ok(Some(Decoded::Rejected(same)))) => {
                assert_eq!(rejected, same);
                ordinals.take(rejected.row);
            }
            (Ok(None), Ok(None)) => break,
            (Err(error), Err(same)) => {
                assert_eq!(format!("{error:?}"), format!("{same:?}"));
                return None;
            }
            (one, other) => panic!("{one:?}, {other:?}"),
        }
        assert_eq!(whole.rules(), split.rules());
    }
    assert_eq!(ordinals, Ordinals::to(ordinals.count));
    Some(ordinals.count)
}

/// Numbers that are 1, 2, ... in some order when their count and sum are those of these.
#[derive(Debug, Default, PartialEq)]
struct Ordinals {
    count: u64,
    sum: u64,
    last: u64,
}

impl Ordinals {
    fn take(&mut self, ordinal: u64) {
        self.count += 1;
        self.sum += ordinal;
        self.last = self.last.max(ordinal);
    }

    fn to(last: u64) -> Self {
        Self { count: last, sum: last * (last + 1) / 2, last }
    }
}
