//! Text that is written step by step in, chunks of it out. Holds a chunk, about [`CHUNK_BYTES`].

use bytes::{Bytes, BytesMut};

use super::records::RecordsError;

/// About the size of a chunk.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// Who writes.
pub(super) trait Write {
    /// Writes some more; says whether there is more.
    fn step(&mut self, text: &mut BytesMut) -> Result<bool, RecordsError>;
}

/// The chunks of what is written; after an error there are no more.
pub(super) struct Chunks<W> {
    /// Nothing at the end: what it had open is closed.
    writer: Option<W>,
    text: BytesMut,
}

impl<W: Write> Chunks<W> {
    pub(super) fn of(writer: W) -> Self {
        Self { writer: Some(writer), text: BytesMut::new() }
    }
}

impl<W: Write> Iterator for Chunks<W> {
    type Item = Result<Bytes, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.text.len() < CHUNK_BYTES
            && let Some(writer) = &mut self.writer
        {
            match writer.step(&mut self.text) {
                Ok(true) => {}
                Ok(false) => self.writer = None,
                Err(error) => {
                    self.writer = None;
                    self.text.clear();
                    return Some(Err(error));
                }
            }
        }
        let chunk = self.text.split().freeze();
        (!chunk.is_empty()).then_some(Ok(chunk))
    }
}
